"""The way of weights: the fastest that works, and no way that cannot."""

import itertools

import pytest

from ur2.errors import InputError
from ur2.transfer.choice import choose


@pytest.mark.parametrize(
    ("engine", "on_gpu", "colocated", "fastest"),
    [
        ("vllm", False, False, "files"),
        ("vllm", False, True, "files"),
        ("vllm", True, False, "nccl"),
        ("vllm", True, True, "ipc"),
        ("hf", True, True, "files"),
    ],
)
def test_auto_takes_the_fastest_way(
    engine: str, on_gpu: bool, colocated: bool, fastest: str
) -> None:
    assert choose("auto", engine=engine, on_gpu=on_gpu, colocated=colocated) == fastest


def test_files_always_work_and_the_rest_where_its_devices_are() -> None:
    works = {
        (wanted, engine, on_gpu, colocated)
        for wanted, engine, on_gpu, colocated in itertools.product(
            ("files", "nccl", "tcp", "ipc"), ("vllm", "hf"), (False, True), (False, True)
        )
        if accepted(wanted, engine, on_gpu, colocated)
    }
    files = set(itertools.product(("files",), ("vllm", "hf"), (False, True), (False, True)))
    assert works == files | {
        ("tcp", "vllm", False, False),
        ("tcp", "vllm", False, True),
        ("nccl", "vllm", True, False),
        ("ipc", "vllm", True, True),
    }


def accepted(wanted, engine, on_gpu, colocated) -> bool:  # type: ignore[no-untyped-def]
    try:
        return bool(choose(wanted, engine=engine, on_gpu=on_gpu, colocated=colocated) == wanted)
    except InputError:
        return False


def test_a_refusal_says_why_and_what_works() -> None:
    with pytest.raises(InputError, match=r"=nccl needs .* on GPUs: set it to files, or to auto"):
        choose("nccl", engine="vllm", on_gpu=False, colocated=False)
