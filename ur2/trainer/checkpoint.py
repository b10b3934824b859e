"""Checkpoints: everything that determines the rest of a run, written whole or not at all.

checkpoints/step_000010/  policy/   weights, optimizer, RNGs, for any number of ranks
                          model/    a plain Hugging Face folder
                          state.json
"""

import json
import logging
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ur2.errors import InputError
from ur2.files import write_text
from ur2.policy.group import PolicyGroup
from ur2.trainer.record.run_directory import RunDirectory

logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class LoopState:
    """The loop's state after `step` complete steps."""

    step: int = 0
    curriculum: dict[str, Any]
    """The curriculum's own state after the step."""
    pending: list[dict[str, Any]] = field(default_factory=list)
    """Assignments that were drawn and not trained on; see `Feed.pending`."""
    before: dict[str, Any] | None = None
    """Held-out measurement before the first step."""
    fingerprint: dict[str, str] = field(default_factory=dict)
    """Digests of the files and prompts that the run rests on; see `ur2.config.resume`."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Wall time so far by phase."""

    def add_seconds(self, seconds: dict[str, float]) -> None:
        """Adds a step's phases to the run's."""
        for phase, value in seconds.items():
            self.seconds[phase] = self.seconds.get(phase, 0.0) + value


class Checkpoints:
    """Writes and reads the checkpoints of one run."""

    def __init__(self, run: RunDirectory, policy: PolicyGroup, keep: int) -> None:
        self.run = run
        self.policy = policy
        self.keep = keep

    async def save(self, state: LoopState) -> Path:
        """Writes the checkpoint of `state.step`, if it is not there yet."""
        newest = self.run.newest_checkpoint()
        if newest is not None and newest.name.endswith(f"{state.step:06d}"):
            return newest
        staged = self.run.stage_checkpoint()
        await self.policy.call_all("save", str(staged / "policy"))
        await self.policy.call_all("export", str(staged / "model"))
        write_text(staged / "state.json", json.dumps(asdict(state)))
        return self.run.commit_checkpoint(staged, state.step, self.keep)

    async def load(self, path: Path) -> LoopState:
        """Restores the policy and returns the loop's state."""
        state = read_state(path)
        await self.policy.call_all("load", str(path / "policy"))
        logger.info("continuing from %s", path)
        return state


def read_state(path: Path) -> LoopState:
    """The loop's state in a checkpoint.

    Raises:
        InputError: the folder is not a checkpoint.
    """
    try:
        return LoopState(**json.loads((path / "state.json").read_text()))
    except FileNotFoundError as error:
        raise InputError(f"resume: {path} is not a checkpoint (it has no state.json)") from error
    except (ValueError, TypeError) as error:
        raise InputError(f"resume: {path / 'state.json'} is not readable: {error}") from error
