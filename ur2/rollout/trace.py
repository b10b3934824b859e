"""When the tools of a group were in use, for the timeline."""

from collections.abc import Callable

from ur2.types import SEARCH, Group

Trace = Callable[[str, str, float, float], object]
"""Told of a span of work: lane, what, and from when to when in epoch seconds."""


def trace_tools(group: Group, trace: Trace, start_s: float, end_s: float) -> None:
    """Tells when each tool of a group, which was played from `start_s` to `end_s`, was in use.

    Another node's clock may be ahead or behind: uses are moved into the time of their group.
    """
    events = [e for t in group.trajectories for e in t.events if e.start_s]
    late_s = start_s - min((e.start_s for e in events), default=start_s)
    early_s = end_s - max((e.start_s + e.latency_s for e in events), default=end_s)
    moved_s = max(late_s, 0.0) or min(early_s, 0.0)
    for event in events:
        lane, what = ("retrieval", event.query) if event.tool == SEARCH else ("tools", event.tool)
        began_s = event.start_s + moved_s
        trace(lane, what, began_s, began_s + event.latency_s)
