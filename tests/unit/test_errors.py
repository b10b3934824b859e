import errno
import os
import pickle

import pytest

from ur2.errors import NotFiniteError, run_entry


def test_a_refused_step_keeps_its_samples_on_the_way_between_processes() -> None:
    error = pickle.loads(pickle.dumps(NotFiniteError("it stopped", ("a", "b"))))
    assert str(error) == "it stopped"
    assert error.sample_ids == ("a", "b")


@pytest.mark.parametrize(
    ("number", "code"), [(errno.EROFS, 2), (errno.ENOTDIR, 2), (errno.ENOSPC, 3), (errno.EIO, 3)]
)
def test_what_the_file_system_refuses_is_one_message(
    number: int, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    def main() -> None:
        raise OSError(number, os.strerror(number), "runs/mine")

    with pytest.raises(SystemExit) as ended:
        run_entry(main)
    assert ended.value.code == code
    assert capsys.readouterr().err == f"error: {os.strerror(number)}: 'runs/mine'\n"


def test_a_fault_of_the_program_keeps_its_traceback() -> None:
    def main() -> None:
        raise OSError("nothing that the operating system says")

    with pytest.raises(OSError, match="nothing that"):
        run_entry(main)
