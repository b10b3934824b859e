"""The loop and everything around it.

Enters: typed options and the stages built from them. Leaves: a run directory. Invariant: between
two steps the checkpointed state alone determines everything that follows.
"""

import os

# For ray, before it is imported: or it starts anew for a call that comes after its end.
os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
