import time

import pytest

from ur2.rewards import math
from ur2.rewards.math import equivalent


@pytest.mark.parametrize(
    ("prediction", "gold", "same"),
    [
        ("0.5", r"\frac{1}{2}", True),
        (r"\dfrac{3}{4}", "0.75", True),
        ("1+x", "x + 1", True),
        ("x=5", "5", True),
        (r"2\sqrt{2}", r"\sqrt{8}", True),
        ("1,000", "1000", True),
        (r"\text{Tuesday}", "Tuesday", True),
        ("$7$", "7", True),
        ("(2,1)", "(1,2)", False),
        ("3", "4", False),
        ("yes", "no", False),
        ("", "", False),
        ("", "1", False),
        ("}{", "1", False),
        ("1" * 5000, "1", False),
    ],
)
def test_equal_values_are_equivalent(prediction, gold, same):
    assert equivalent(prediction, gold, timeout_s=20.0) is same


def test_a_hanging_expression_is_killed_at_its_deadline_and_the_next_one_works():
    started = time.monotonic()
    assert not equivalent("9^{9^{9^{9}}}", "1", timeout_s=0.3)
    assert time.monotonic() - started < 10
    assert equivalent("2/4", "0.5", timeout_s=20.0)


def test_a_worker_that_died_is_replaced():
    assert equivalent("2/4", "0.5", timeout_s=20.0)
    process = math._VERIFIER._process
    assert process is not None
    process.kill()
    process.wait()
    assert equivalent("4/8", "0.5", timeout_s=20.0)


def test_an_expression_is_not_run_as_code(tmp_path):
    equivalent(f"__import__('os').mkdir('{tmp_path / 'made'}')", "1", timeout_s=5.0)
    assert not (tmp_path / "made").exists()
