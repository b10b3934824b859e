"""A Chrome trace of a run's spans of work: open RUN_DIR/timeline.json in ui.perfetto.dev.

Each lane (the loop, a worker, the searches) is a process of the trace. What overlaps in a lane is
spread over rows, its threads, because viewers show overlapping spans of one thread wrongly.
"""

import json
import os
import zlib
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ur2.trainer.record.idle import Idleness

END = "\n]\n"
MAX_BYTES = 64_000_000
MAX_NAME_CHARS = 80


@dataclass(frozen=True, slots=True)
class _Span:
    start_us: int
    end_us: int
    lane: str
    name: str


class Timeline:
    """Collects spans and appends them to a file.

    Past `max_bytes` the file becomes `<name>.previous<suffix>`, in the place of an earlier one, and
    a fresh one begins: a run of weeks keeps its last spans, in about twice `max_bytes`.

    Args:
        path: the file; what is there is continued.
        max_bytes: a file that has more is put aside.
    """

    def __init__(self, path: Path, max_bytes: int = MAX_BYTES) -> None:
        self._path = path
        self._previous = path.with_stem(f"{path.stem}.previous")
        self._max_bytes = max_bytes
        self.idleness = Idleness()
        """Idle time in what was added, whether or not it was written."""
        self._spans: list[_Span] = []
        self._ends_us: dict[str, list[int]] = defaultdict(list)
        """By lane, when the last span of each row ended."""
        self._named: set[tuple[str, int]] = set()
        """The rows whose names are in the file."""
        self._is_whole = False
        """Whether the file is known to end well; a kill may have cut what an earlier run left."""

    def add(self, lane: str, name: str, start_s: float, end_s: float) -> None:
        """Records a span.

        Args:
            lane: the worker, e.g. `rollout worker 0`.
            name: what it did; a long one is cut.
            start_s: seconds since the epoch.
            end_s: seconds since the epoch; before `start_s` where the clock was set back.
        """
        end_s = max(start_s, end_s)
        self.idleness.add(lane, start_s, end_s)
        start_us, end_us = round(start_s * 1e6), round(end_s * 1e6)
        self._spans.append(_Span(start_us, end_us, lane, name[:MAX_NAME_CHARS]))

    def flush(self) -> None:
        """Writes what was added; the file is whole after each call."""
        if not self._spans:
            return
        if not self._is_whole:
            _mend(self._path)
        if self._path.exists() and self._path.stat().st_size > self._max_bytes:
            self._put_aside()
        self._is_whole = False  # until all is written
        lines = ",\n".join(map(json.dumps, self._take_events()))
        if self._path.exists():
            with self._path.open("r+b") as file:
                file.seek(-len(END), os.SEEK_END)
                file.write(f",\n{lines}{END}".encode())
        else:
            self._path.write_text(f"[\n{lines}{END}")
        self._is_whole = True

    def _put_aside(self) -> None:
        self._path.replace(self._previous)
        self._named.clear()
        start_s = min(span.start_us for span in self._spans) / 1e6
        self.add("timeline", f"continues {self._previous.name}", start_s, start_s)

    def _take_events(self) -> list[dict[str, Any]]:
        """The spans so far as complete events, each row's name before its first one."""
        events = []
        for span in sorted(self._spans, key=lambda span: span.start_us):
            row = self._row(span)
            process, thread = zlib.crc32(span.lane.encode()), _thread(span.lane, row)
            if (span.lane, row) not in self._named:
                self._named.add((span.lane, row))
                events.append(_metadata("process_name", process, thread, span.lane))
                events.append(_metadata("thread_name", process, thread, f"{row:03d}"))
            events.append(
                {
                    "ph": "X",
                    "name": span.name,
                    "pid": process,
                    "tid": thread,
                    "ts": span.start_us,
                    "dur": span.end_us - span.start_us,
                }
            )
        self._spans.clear()
        return events

    def _row(self, span: _Span) -> int:
        """The first row of the lane that is free by then; a further one if there is none."""
        ends_us = self._ends_us[span.lane]
        for row, end_us in enumerate(ends_us):
            if end_us <= span.start_us:
                ends_us[row] = span.end_us
                return row
        ends_us.append(span.end_us)
        return len(ends_us) - 1


def _thread(lane: str, row: int) -> int:
    """A number that no other lane's rows have: viewers name threads by it alone."""
    return zlib.crc32(f"{lane}/{row}".encode())


def _metadata(kind: str, process: int, thread: int, name: str) -> dict[str, Any]:
    return {"ph": "M", "name": kind, "pid": process, "tid": thread, "args": {"name": name}}


def _mend(path: Path) -> None:
    """Ends a file well whose last write was cut off; without a whole event it is removed."""
    if not path.exists():
        return
    lines = path.read_bytes().split(b"\n")
    while lines and not _is_event(lines[-1]):
        lines.pop()
    if not lines:
        path.unlink()
        return
    whole = b"\n".join(lines).rstrip(b",")
    with path.open("r+b") as file:
        file.truncate(len(whole))
        file.seek(0, os.SEEK_END)
        file.write(END.encode())


def _is_event(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line.rstrip(b",")), dict)
    except ValueError:
        return False
