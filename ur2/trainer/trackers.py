"""Where metrics go besides metrics.jsonl. The only home of wandb and TensorBoard."""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from ur2.trainer.options import TrainerOptions


class Tracker(Protocol):
    """Receives the metrics of each step."""

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Takes one step's metrics."""

    def close(self) -> None:
        """Flushes and lets go of files and processes."""


class TensorBoard:
    """Event files under `<run>/tensorboard`."""

    def __init__(self, options: TrainerOptions, run_dir: Path, config: Mapping[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(run_dir / "tensorboard"))

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Takes one step's metrics."""
        for key, value in metrics.items():
            self.writer.add_scalar(key, value, step)

    def close(self) -> None:
        """Flushes."""
        self.writer.close()


class Wandb:
    """A Weights & Biases run; offline ones are uploaded later with `wandb sync`."""

    def __init__(self, options: TrainerOptions, run_dir: Path, config: Mapping[str, Any]) -> None:
        import wandb

        self.run = wandb.init(
            project=options.wandb_project,
            name=run_dir.name,
            id=hashlib.sha256(str(run_dir.resolve()).encode()).hexdigest()[:16],
            resume="allow",
            dir=str(run_dir),
            mode=options.wandb_mode,
            config=dict(config),
            settings=wandb.Settings(silent=True),
        )

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Takes one step's metrics."""
        self.run.log(dict(metrics), step=step)

    def close(self) -> None:
        """Flushes and stops wandb's process."""
        self.run.finish()


TRACKERS: Mapping[str, Callable[[TrainerOptions, Path, Mapping[str, Any]], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": Wandb,
}


def open_trackers(
    options: TrainerOptions, run_dir: Path, config: Mapping[str, Any]
) -> list[Tracker]:
    """The trackers that the options name."""
    return [TRACKERS[name](options, run_dir, config) for name in options.trackers]
