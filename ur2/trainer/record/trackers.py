"""Where metrics go besides metrics.jsonl. The only home of wandb and TensorBoard."""

import contextlib
import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from ur2.errors import InputError
from ur2.trainer.options import TrainerOptions

logger = logging.getLogger(__name__)


class Tracker(Protocol):
    """Receives the metrics of each step."""

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Takes one step's metrics."""

    def close(self) -> None:
        """Flushes and lets go of files and processes."""


class TensorBoard:
    """Event files under `<run>/tensorboard`; steps that a resumed run makes again count once."""

    def __init__(self, options: TrainerOptions, run_dir: Path, config: Mapping[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.open = partial(SummaryWriter, str(run_dir / "tensorboard"))
        self.writer: SummaryWriter | None = None

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Takes one step's metrics."""
        self.writer = self.writer or self.open(purge_step=step)
        for key, value in metrics.items():
            self.writer.add_scalar(key, value, step)

    def close(self) -> None:
        """Flushes."""
        if self.writer is not None:
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


class Trackers:
    """The trackers of a run as one.

    metrics.jsonl holds all that they get. So one that fails, such as wandb when its own process
    has died, is let go with a warning, and the run goes on.
    """

    def __init__(self, trackers: Mapping[str, Tracker]) -> None:
        self._trackers = dict(trackers)

    @classmethod
    def open(cls, options: TrainerOptions, run_dir: Path, config: Mapping[str, Any]) -> "Trackers":
        """Starts those that the options name.

        Raises:
            InputError: one does not start, e.g. wandb without a login.
        """
        trackers = cls({})
        for name in options.trackers:
            try:
                trackers._trackers[name] = TRACKERS[name](options, run_dir, config)
            except Exception as error:  # whatever a service's client raises
                trackers.close()
                raise InputError(
                    f"trainer.trackers: {name} does not start ({error}); see to it, or leave it "
                    "out (wandb works without a login under trainer.wandb_mode=offline)"
                ) from error
        return trackers

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Hands one step's metrics to all of them."""
        for name, tracker in list(self._trackers.items()):
            with self._letting_go(name):
                tracker.log(metrics, step)

    def close(self) -> None:
        """Closes all of them."""
        for name, tracker in list(self._trackers.items()):
            with self._letting_go(name):
                tracker.close()

    @contextlib.contextmanager
    def _letting_go(self, name: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # noqa: BLE001 - whatever a service's client raises
            del self._trackers[name]
            logger.warning(
                "%s gets no further metrics, metrics.jsonl does: %s: %s",
                name,
                type(error).__name__,
                error,
            )
