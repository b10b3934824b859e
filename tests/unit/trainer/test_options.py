import pytest

from ur2.errors import InputError
from ur2.trainer.options import TrainerOptions


def load(**options: object) -> TrainerOptions:
    return TrainerOptions.load({"steps": 4, "questions_per_step": 8, **options}, where="trainer")


@pytest.mark.parametrize(
    "options",
    [
        {"steps": -1},
        {"questions_per_step": 0},
        {"max_staleness": -1},
        {"max_refills": -1},
        {"num_extra_groups": -1},
        {"num_extra_groups": 9},
        {"eval_every": -1},
        {"checkpoint_every": -1},
        {"keep_checkpoints": 0},
        {"tail": "give_up"},
        {"tail": "give_up", "num_extra_groups": 1, "mode": "async"},
    ],
)
def test_what_no_run_could_do_is_refused(options: dict[str, object]) -> None:
    with pytest.raises(InputError, match=next(iter(options))):
        load(**options)


@pytest.mark.parametrize(("mode", "staleness"), [("sync", 0), ("one_step_off", 1), ("async", 3)])
def test_only_mode_async_has_a_staleness_of_choice(mode: str, staleness: int) -> None:
    assert load(mode=mode, max_staleness=3).staleness == staleness
