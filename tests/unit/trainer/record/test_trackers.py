import time

import pytest

from ur2.errors import InputError
from ur2.trainer.options import TrainerOptions
from ur2.trainer.record import trackers as module
from ur2.trainer.record.trackers import Trackers


@pytest.fixture(autouse=True)
def heard(monkeypatch):
    """Libraries that tests load before may have silenced loggers that were there already."""
    monkeypatch.setattr(module.logger, "disabled", False)


class Recording:
    def __init__(self, *, fails_at=None):
        self.fails_at, self.steps, self.is_closed = fails_at, [], False

    def log(self, metrics, step):
        if step == self.fails_at:
            raise ConnectionResetError("its process is gone")
        self.steps.append(step)

    def close(self):
        self.is_closed = True


def test_a_tracker_that_fails_is_let_go_and_the_others_get_every_step(caplog):
    broken, sound = Recording(fails_at=2), Recording()
    trackers = Trackers({"wandb": broken, "tensorboard": sound})
    for step in (1, 2, 3):
        trackers.log({"reward/mean": 1.0}, step)
    trackers.close()
    assert (broken.steps, sound.steps) == ([1], [1, 2, 3])
    assert (broken.is_closed, sound.is_closed) == (False, True)
    assert caplog.text.count("wandb gets no further metrics") == 1


def test_a_tracker_that_cannot_close_does_not_bury_what_ended_the_run(caplog):
    class Stuck(Recording):
        def close(self):
            raise ConnectionResetError("its process is gone")

    Trackers({"wandb": Stuck()}).close()
    assert "its process is gone" in caplog.text


def test_a_tracker_that_does_not_start_is_wrong_input_and_closes_those_before_it(
    monkeypatch, tmp_path
):
    opened = Recording()

    def refuse(*_):
        raise RuntimeError("no API key")

    monkeypatch.setattr(module, "TRACKERS", {"tensorboard": lambda *_: opened, "wandb": refuse})
    options = TrainerOptions(steps=1, questions_per_step=1, trackers=("tensorboard", "wandb"))
    with pytest.raises(InputError, match=r"wandb does not start \(no API key\)"):
        Trackers.open(options, tmp_path, {})
    assert opened.is_closed


def test_steps_that_a_resumed_run_makes_again_are_in_tensorboard_once(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    options = TrainerOptions(steps=9, questions_per_step=1, trackers=("tensorboard",))
    for steps, reward in (((1, 2, 3, 4), 0.0), ((3, 4, 5), 1.0)):
        trackers = Trackers.open(options, tmp_path, {})
        for step in steps:
            trackers.log({"reward/mean": reward}, step)
        trackers.close()
        time.sleep(1.1)  # its files are named by the second
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    shown = [(event.step, event.value) for event in events.Scalars("reward/mean")]
    assert shown == [(1, 0.0), (2, 0.0), (3, 1.0), (4, 1.0), (5, 1.0)]
