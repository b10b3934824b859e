"""Who did what when, as a Chrome trace: open RUN_DIR/timeline.json in ui.perfetto.dev.

One lane per worker; what a worker does at the same time overlaps in its lane.
"""

import json
import os
import zlib
from pathlib import Path
from typing import Any

PID = 1
END = "\n]\n"


class Timeline:
    """Collects spans and appends them to a file.

    Args:
        path: the file; what is there is continued.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lanes: set[str] = set()
        self._events: list[dict[str, Any]] = []
        self._num_spans = 0

    def add(self, lane: str, name: str, start_s: float, end_s: float) -> None:
        """Records a span.

        Args:
            lane: the worker, e.g. `rollout worker 0`.
            name: what it did.
            start_s: seconds since the epoch.
            end_s: seconds since the epoch.
        """
        if lane not in self._lanes:
            self._lanes.add(lane)
            self._events.append(_event("M", "thread_name", lane, args={"name": lane}))
        self._num_spans += 1
        # the time tells a span from those of before the run was continued
        id_ = f"{round(start_s)}-{self._num_spans}"
        for phase, time_s in (("b", start_s), ("e", end_s)):
            self._events.append(_event(phase, name, lane, cat=lane, id=id_, ts=round(time_s * 1e6)))

    def flush(self) -> None:
        """Writes what was added; the file is whole after each call."""
        if not self._events:
            return
        lines = ",\n".join(map(json.dumps, self._events))
        self._events.clear()
        if not self._path.exists():
            self._path.write_text(f"[\n{lines}{END}")
            return
        with self._path.open("r+b") as file:
            file.seek(-len(END), os.SEEK_END)
            if file.read().decode(errors="replace") == END:  # a kill may have left no end
                file.seek(-len(END), os.SEEK_END)
            file.write(f",\n{lines}{END}".encode())


def _event(phase: str, name: str, lane: str, **fields: Any) -> dict[str, Any]:
    return {"ph": phase, "name": name, "pid": PID, "tid": zlib.crc32(lane.encode()), **fields}
