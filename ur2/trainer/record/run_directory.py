"""The run directory: the one place on disk that a run writes to (layout in DESIGN, section 6)."""

import json
import logging
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec
import yaml
import zstandard

from ur2.errors import InputError
from ur2.files import write_bytes, write_text
from ur2.types import ScoredGroup

CHECKPOINT = "step_{:06d}"
VOLATILE_KEYS = ("run_dir", "resume", "dry_run", "cluster.address", "prompt.date")


class RunDirectory:
    """Owns the files of one run; every write is whole or absent."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.metrics_path = self.path / "metrics.jsonl"
        self.summary_path = self.path / "summary.json"
        self.config_path = self.path / "config.yaml"
        self.events_path = self.path / "events.log"
        self.checkpoints = self.path / "checkpoints"
        self.plots = self.path / "plots"
        self.timeline_path = self.path / "timeline.json"

    @classmethod
    def choose(
        cls, explicit: str | None, resume: str, experiment: str, config: Mapping[str, Any], now: str
    ) -> "RunDirectory":
        """The directory to use: the explicit one, the newest unfinished run of this config, or new.

        A new one is made at once, so that no other run gets it.

        Raises:
            InputError: `resume=none` and the explicit directory already holds a run.
        """
        if explicit is not None:
            chosen = cls(explicit)
            if resume == "none" and chosen.config_path.exists():
                raise InputError(
                    f"run_dir {explicit} already holds a run: pass resume=auto to continue it, "
                    "or another run_dir"
                )
            return chosen
        base = Path("runs") / experiment
        if resume == "auto":
            for candidate in sorted(
                (cls(p) for p in base.glob("*/")), key=lambda c: c.path.name, reverse=True
            ):
                if candidate.is_unfinished() and not candidate.changed_keys(config):
                    return candidate
        return cls(_own_folder(base, now))

    def is_unfinished(self) -> bool:
        """Whether a run began here and can be continued."""
        return not self.summary_path.exists() and self.newest_checkpoint() is not None

    def finished_steps(self) -> int:
        """Steps of the finished run that is here; 0 where there is none.

        Raises:
            InputError: summary.json is damaged.
        """
        if not self.summary_path.exists():
            return 0
        return int(_read(self.summary_path, json.loads, needs="steps")["steps"])

    def changed_keys(self, config: Mapping[str, Any]) -> list[str]:
        """Keys in which `config` differs from the run here, but for where and how it is started.

        Raises:
            InputError: config.yaml is damaged.
        """
        if not self.config_path.exists():
            return []
        stored = _flat(_read(self.config_path, yaml.safe_load, needs="experiment"))
        given = _flat(json.loads(json.dumps(config)))
        keys = sorted(stored.keys() | given.keys())
        return [k for k in keys if k not in VOLATILE_KEYS and stored.get(k) != given.get(k)]

    def open(self, config: Mapping[str, Any]) -> None:
        """Makes the directory, writes config.yaml and sends the log to events.log."""
        for folder in (self.path, self.checkpoints, self.plots, self.path / "trajectories"):
            folder.mkdir(parents=True, exist_ok=True)
        write_text(
            self.config_path, yaml.safe_dump(json.loads(json.dumps(config)), sort_keys=False)
        )
        handler = logging.FileHandler(self.events_path)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        logger = logging.getLogger("ur2")
        logger.setLevel(logging.INFO)
        logger.addHandler(handler)

    def newest_checkpoint(self) -> Path | None:
        """The last complete checkpoint."""
        complete = sorted(p for p in self.checkpoints.glob("step_*") if p.name[5:].isdigit())
        return complete[-1] if complete else None

    def append_metrics(self, metrics: Mapping[str, float]) -> None:
        """Adds one step's line to metrics.jsonl."""
        with self.metrics_path.open("a") as file:
            file.write(json.dumps(metrics) + "\n")

    def read_metrics(self) -> list[dict[str, float]]:
        """All steps' metrics, oldest first."""
        if not self.metrics_path.exists():
            return []
        lines = self.metrics_path.read_text().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]  # a kill cuts the last

    def forget_after(self, step: int) -> None:
        """Drops metrics and checkpoints of steps past the one that a run continues from."""
        kept = [json.dumps(m) for m in self.read_metrics() if m["step"] <= step]
        write_text(self.metrics_path, "".join(line + "\n" for line in kept))
        for later in self.checkpoints.glob("step_*"):
            if later.name > CHECKPOINT.format(step):
                shutil.rmtree(later)

    def write_trajectories(self, step: int, groups: Iterable[ScoredGroup]) -> None:
        """Writes `trajectories/step_N.jsonl.zst`, one trajectory a line."""
        lines = msgspec.json.Encoder().encode_lines(_trajectory_records(groups))
        path = self.path / "trajectories" / f"{CHECKPOINT.format(step)}.jsonl.zst"
        write_bytes(path, zstandard.compress(lines))

    def write_refused(self, step: int, sample_ids: Sequence[str]) -> Path:
        """Writes which samples made an update's loss or gradient not finite."""
        path = self.path / f"refused_{CHECKPOINT.format(step)}.json"
        write_text(
            path, json.dumps({"step": step, "sample_ids": list(sample_ids)}, indent=2) + "\n"
        )
        return path

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Writes summary.json, which marks the run as finished."""
        write_text(self.summary_path, json.dumps(summary, indent=2) + "\n")

    def commit_checkpoint(self, staged: Path, step: int, keep: int) -> Path:
        """Turns a staged folder into the checkpoint of `step` and drops the oldest ones."""
        final = self.checkpoints / CHECKPOINT.format(step)
        if final.exists():
            shutil.rmtree(final)
        staged.rename(final)
        for old in sorted(self.checkpoints.glob("step_*"))[:-keep]:
            shutil.rmtree(old)
        return final

    def stage_checkpoint(self) -> Path:
        """An empty folder to write a checkpoint into."""
        staged = self.checkpoints / "unfinished"
        shutil.rmtree(staged, ignore_errors=True)
        staged.mkdir(parents=True)
        return staged


def _read(path: Path, parse: Callable[[str], Any], *, needs: str) -> dict[str, Any]:
    """A file of a run that has the key `needs`."""
    with suppress(ValueError, yaml.YAMLError):
        content = parse(path.read_text())
        if isinstance(content, dict) and needs in content:
            return content
    raise InputError(
        f"{path} is damaged: put a copy back, move the folder away, or name another run_dir"
    )


def _own_folder(base: Path, name: str) -> Path:
    """Makes a folder that no other run has, also where several start in the same second."""
    folder, number = base / name, 1
    while True:
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            number += 1
            folder = base / f"{name}-{number}"
        else:
            return folder


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Leaves by dotted key."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _trajectory_records(groups: Iterable[ScoredGroup]) -> Iterator[dict[str, Any]]:
    for scored in groups:
        assignment = scored.group.assignment
        for trajectory, score in zip(scored.group.trajectories, scored.scores, strict=True):
            yield {
                "id": trajectory.id,
                "question_id": assignment.question.id,
                "bucket": assignment.question.bucket,
                "question": assignment.question.text,
                "answers": assignment.question.answers,
                "retrieval": assignment.retrieval,
                "reason": assignment.reason,
                "status": trajectory.status,
                "reward": score.total,
                "parts": dict(score.parts),
                "turns": score.turns,
                "correct": score.correct,
                "unscored": score.unscored,
                "parent": trajectory.parent,
                "answer": trajectory.answer,
                "events": [
                    {
                        "tool": event.tool,
                        "arguments": event.arguments,
                        "outcome": event.outcome,
                        "ids": event.ids,
                        "latency_s": event.latency_s,
                        "summary": asdict(event.summary) if event.summary else None,
                    }
                    for event in trajectory.events
                ],
                "segments": [
                    {
                        "author": segment.author,
                        "role": segment.role,
                        "turn": segment.turn,
                        "reward": segment.reward,
                        "text": segment.text,
                        "token_ids": segment.token_ids,
                        "logprobs": segment.logprobs,
                        "weight_versions": segment.weight_versions,
                        "allowed": segment.allowed,
                    }
                    for segment in trajectory.segments
                ],
            }
