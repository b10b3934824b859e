import sys

import pytest

from ur2.config.load import run_composed
from ur2.errors import ComponentError, InputError, RunInterruptedError


@pytest.mark.parametrize(
    ("failure", "seeds_run"), [(RunInterruptedError, [0, 1]), (ComponentError, [0, 1, 2])]
)
def test_a_sweep_ends_where_the_user_stops_it_and_goes_on_where_a_job_fails(
    monkeypatch, tmp_path, failure, seeds_run
):
    seeds = []

    def main(options):
        seeds.append(options.seed)
        if options.seed == 1:
            raise failure("seed 1")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train", "-m", "+experiment=smoke", "seed=0,1,2"])
    with pytest.raises(failure, match="seed 1"):
        run_composed(main)
    assert seeds == seeds_run


def test_a_group_that_is_set_to_a_number_is_an_error(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train", "+experiment=smoke", "algorithm=5"])
    with pytest.raises(InputError, match="override"):
        run_composed(lambda _: None)


def test_an_error_of_the_program_is_no_wrong_config(monkeypatch):
    def main(_):
        raise ValueError("a bug")

    monkeypatch.setattr(sys, "argv", ["train", "+experiment=smoke"])
    with pytest.raises(ValueError, match="a bug"):
        run_composed(main)


def test_what_the_file_system_refuses_is_a_named_failure(monkeypatch, tmp_path, capsys):
    def main(_):
        (tmp_path / "none" / "file").touch()

    monkeypatch.setattr(sys, "argv", ["train", "+experiment=smoke"])
    with pytest.raises(InputError, match="No such file or directory"):
        run_composed(main)
    assert capsys.readouterr().err == ""
