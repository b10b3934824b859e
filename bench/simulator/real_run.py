"""Short real runs for `scale.py`: made, watched, and read back as costs and a workload."""

import json
import subprocess
import sys
import threading
import time
import zlib
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import yaml
import zstandard

from bench.simulator.worker import Shape, Turn

CPU_FILE = "cpu.jsonl"
SAMPLE_EVERY_S = 0.2
LOOK_EVERY = 10
"""Samples between looks for further processes."""


@dataclass(frozen=True, kw_only=True)
class RealRun:
    """What a run left behind."""

    config: Mapping[str, Any]
    metrics: Sequence[Mapping[str, float]]
    """One per step."""
    shapes: Mapping[str, tuple[Shape, ...]]
    """By assignment."""
    informative: frozenset[str]
    """Assignments whose samples did not all get the same reward."""
    latencies_s: tuple[float, ...]
    """Of searches."""
    demand: Mapping[str, float]
    """Processors that all processes of the run used together, by phase of the loop; empty where
    nobody watched."""
    others: float
    """Processors that everything else on the machine used meanwhile."""
    load_s: float
    """An engine's time with new weights, a median."""

    @classmethod
    def read(cls, folder: Path) -> "RealRun":
        rows = [row for path in sorted((folder / "trajectories").iterdir()) for row in _rows(path)]
        shapes: dict[str, list[Shape]] = defaultdict(list)
        rewards: dict[str, set[float]] = defaultdict(set)
        for row in rows:
            assignment = row["id"].rpartition("/")[0]
            shapes[assignment].append(_shape(row["segments"]))
            rewards[assignment].add(row["reward"])
        demand, others = _used(folder)
        searches = [search for row in rows for search in row["events"]]
        return cls(
            config=yaml.safe_load((folder / "config.yaml").read_text()),
            metrics=[json.loads(line) for line in (folder / "metrics.jsonl").open()],
            shapes={name: tuple(group) for name, group in shapes.items()},
            informative=frozenset(name for name, seen in rewards.items() if len(seen) > 1),
            latencies_s=tuple(s["latency_s"] for s in searches if s["outcome"] != "refused"),
            demand=demand,
            others=others,
            load_s=_load_s(folder / "timeline.json"),
        )

    @property
    def mode(self) -> str:
        return str(self.config["trainer"]["mode"])

    def trained_lengths(self, step: int) -> list[int]:
        """Tokens of each trajectory that the update of a synchronous run's step read."""
        return [
            shape.num_tokens
            for name, group in self.shapes.items()
            if name in self.informative and int(name.split("-")[0]) == step
            for shape in group
        ]


def _rows(path: Path) -> list[dict[str, Any]]:
    with path.open("rb") as file:
        text = zstandard.ZstdDecompressor().stream_reader(file).read().decode()
    return [json.loads(line) for line in text.splitlines()]


def _shape(segments: Sequence[Mapping[str, Any]]) -> Shape:
    """Each turn of the policy with the tokens that follow it."""
    prompt, *rest = ((segment["author"], len(segment["token_ids"])) for segment in segments)
    turns: list[Turn] = []
    for author, count in rest:
        if author == "policy":
            turns.append(Turn(count, None))
        else:
            turns[-1] = Turn(turns[-1].num_tokens, (turns[-1].num_observed or 0) + count)
    if turns[-1].num_observed is not None:  # a search in the last turn, to which nothing replied
        turns[-1] = Turn(turns[-1].num_tokens, None)
    return Shape(prompt[1], tuple(turns))


def make_run(folder: Path, arguments: Sequence[str]) -> None:
    """Trains in `folder`, and notes how much processor time it has used by when."""
    command = [sys.executable, "-m", "ur2.train", *arguments, f"run_dir={folder}", "resume=none"]
    print("▸", " ".join(command[1:]), flush=True)
    samples: list[tuple[float, float, float]] = []
    with subprocess.Popen(command) as process:
        ended = threading.Event()
        watcher = threading.Thread(target=_watch, args=(process.pid, samples, ended))
        watcher.start()
        code = process.wait()
        ended.set()
        watcher.join()
    if code:
        raise SystemExit(f"the real run failed with exit code {code}")
    (folder / CPU_FILE).write_text("".join(json.dumps(sample) + "\n" for sample in samples))


def _watch(pid: int, samples: list[tuple[float, float, float]], ended: threading.Event) -> None:
    """When, processor time of the run so far, and of the whole machine."""
    used_s: dict[psutil.Process, float] = {}
    number = 0
    while not ended.wait(SAMPLE_EVERY_S):
        try:
            if number % LOOK_EVERY == 0:
                root = psutil.Process(pid)
                for process in (root, *root.children(recursive=True)):
                    used_s.setdefault(process, 0.0)
        except psutil.NoSuchProcess:
            return
        number += 1
        for process in used_s:
            try:
                times = process.cpu_times()
            except psutil.NoSuchProcess:
                continue  # what it had used stays counted
            used_s[process] = times.user + times.system
        machine = psutil.cpu_times()
        samples.append(
            (time.time(), sum(used_s.values()), sum(machine) - machine.idle - machine.iowait)
        )


def _used(folder: Path) -> tuple[dict[str, float], float]:
    """Processors in use by the run in each phase, without its first time, and by all others."""
    path = folder / CPU_FILE
    if not path.exists():
        return {}, 0.0
    samples = [tuple(json.loads(line)) for line in path.open()]
    times = [sample[0] for sample in samples]
    (t0, ours0, all0), (t1, ours1, all1) = samples[0], samples[-1]
    others = max(((all1 - all0) - (ours1 - ours0)) / (t1 - t0), 0.0)
    used: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for name, start_s, end_s in _phases(folder / "timeline.json"):
        if times[0] <= start_s and end_s <= times[-1] and end_s > start_s:
            used_s = _at(samples, times, end_s) - _at(samples, times, start_s)
            used[name].append((used_s, end_s - start_s))
    demand = {
        name: sum(cpu for cpu, _ in spans[1:]) / sum(wall for _, wall in spans[1:])
        for name, spans in used.items()
        if len(spans) > 1
    }
    return demand, others


def _at(samples: Sequence[tuple[float, ...]], times: Sequence[float], when_s: float) -> float:
    """Processor time used until then, between two samples."""
    after = min(max(bisect_right(times, when_s), 1), len(times) - 1)
    (t0, used0, _), (t1, used1, _) = samples[after - 1], samples[after]
    return used0 + (used1 - used0) * (when_s - t0) / (t1 - t0)


def _phases(path: Path) -> list[tuple[str, float, float]]:
    """Name, start and end of the loop's phases, in seconds since the epoch."""
    return [(e["name"], e["ts"] / 1e6, (e["ts"] + e["dur"]) / 1e6) for e in _lane(path, "loop")]


def _load_s(path: Path) -> float:
    loads = (e for e in _lane(path, "rollout worker 0") if e["name"].startswith("weights "))
    return median(event["dur"] / 1e6 for event in loads)


def _lane(path: Path, name: str) -> list[dict[str, Any]]:
    """The spans of one lane of a timeline."""
    lane = zlib.crc32(name.encode())
    events = json.loads(path.read_text())
    return [event for event in events if event["ph"] == "X" and event["pid"] == lane]
