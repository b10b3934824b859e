"""Plain workers as processes on the nodes of a cluster. With `ur2.launch` the home of ray.

Enters: worker classes, their arguments and how many of them there are. Leaves: actors in reserved
places, and their answers or typed failures. Invariant: what was started ends with the run, whatever
ends it, and leaves no file or shared memory behind.
"""

import os

# For ray, before it is imported: or it starts anew for a call that comes after its end.
os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
