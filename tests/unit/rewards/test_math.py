import asyncio
import time

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ur2.rewards import math, math_shape
from ur2.rewards.math import compare, equivalent, equivalent_to_any


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
        (r"\left( 0.5, 3 \right)", r"(\frac12,3)", True),
        (r"[0,\infty)", r"\left[ 0, \infty \right)", True),
        ("(1,2]", "(1,3]", False),
        ("(1,2,3)", "(1,2)", False),
        ("(1,2)", r"\frac{1}{2}", False),
        ("((1,2),x+1)", "((1,2),1+x)", True),
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


@pytest.mark.parametrize(
    ("prediction", "gold", "same"),
    [
        ("5.", "5", True),
        ("$5$.", "5", True),
        ("**5**.", "5", True),
        (r"\(5\)", "5", True),
        (r"30^\circ.", "30", True),
        ("30°", r"30^\circ", True),
        (r"\left\{1, 2\right\}.", r"\{2,1\}", True),
        ("a + b + c", "c+a+b", True),
        (r"\approx 8.24", "8.24", True),
        (r"4.5 \times 10^{33}", "4.5e33", True),
        ("0.00001", "1e-5", True),
        ("4.5e33", "4.5e32", False),
        (r"\varnothing", r"\emptyset", True),
        (r"\text{A, B}", r"\text{A,B}", True),
        ("June 20", r"\text{June 20}", True),
        ("1 1", "11", False),
        ("0.33...", "0.33", False),
    ],
)
def test_what_stands_around_a_value_is_no_part_of_it(prediction, gold, same):
    assert equivalent(prediction, gold, timeout_s=20.0) is same


@pytest.mark.parametrize(
    ("prediction", "gold", "same"),
    [
        (r"50\%", "50", True),
        ("50", r"50 \%", True),
        ("50%", r"50\%", True),
        (r"50\%", "0.5", True),
        (r"\frac{1}{8}", r"12.5\%", True),
        (r"12.5\text{ percent}", "12.5%", True),
        (r"50\%", "51", False),
        ("50", "0.5", False),
        (r"50\%", r"5\%", False),
        ("%", "50", False),
    ],
)
def test_a_percentage_is_a_hundredth_or_the_number_asked_for_in_percent(prediction, gold, same):
    assert equivalent(prediction, gold, timeout_s=20.0) is same


def both_ways(prediction: str, gold: str) -> list[bool | None]:
    return [compare(prediction, gold), compare(gold, prediction)]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("0.0", "3.89e-10", False),
        ("0", r"3.89 \times 10^{-10}", False),
        ("0.0000001", "0.0000002", False),
        ("1e-7", "0.0000001", True),
        ("1/2^{99}", "1/2^{98}", False),
        (r"\frac{1}{2^{99}}", r"2^{-99}", True),
        (r"4 \cdot 10^{-12}x", r"5 \cdot 10^{-12}x", False),
        ("6.63e-34", "6.62e-34", False),
        ("0.333333", r"\frac13", True),
        ("0.333", r"\frac13", False),
        ("1000000.0", "1000001", False),
        ("117649.001", "117649", False),
        ("0.30000000000000004", "0.3", True),
        (r"10^{30}", r"10^{30}+1", False),
        ("3.141593", r"\pi", True),
        ("3.14", r"\pi", False),
        (r"0.\overline{3}", r"\frac13", True),
        (r"-1.1\overline{6}", r"-\frac76", True),
        (r"0.\overline{3}", "0.3", False),
    ],
)
def test_numbers_are_compared_relative_to_their_size_and_exact_ones_exactly(one, other, same):
    assert both_ways(one, other) == [same, same]


@pytest.mark.parametrize(
    ("prediction", "gold", "same"),
    [
        ("204_6", "204_5", False),
        ("204_6", "204_{6}", True),
        ("1A_{16}", "1a_{16}", True),
        ("35_7", "35", True),
        ("35", "35_7", False),
        ("26", "35_7", False),
        ("36_7", "35", False),
    ],
)
def test_the_base_is_part_of_a_number_unless_the_gold_has_none(prediction, gold, same):
    assert compare(prediction, gold) is same


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (r"\{1,2\}", "(1,2)", False),
        (r"\{1,2\}", "[1,2]", False),
        (r"\{1,2\}", r"\{2,1\}", True),
        (r"\{1,2\}", r"\{1,2,3\}", False),
        (r"\{1,1,2\}", r"\{1,2\}", True),
        (r"\{x+1, 2\}", r"\{2, 1+x\}", True),
        (r"\{5\}", "5", True),
        ("1, 2", "2,1", True),
        ("1 and 2", "2, 1", True),
        ("1, 2, and 3", "3,2,1", True),
        (r"1 \pm \sqrt2", r"1-\sqrt2, 1+\sqrt2", True),
        (r"\pm 3", "3", False),
        ("(1,2),(3,4)", "(3,4),(1,2)", True),
        ("(2,1),(3,4)", "(3,4),(1,2)", False),
        ("[1,2)", "(1,2]", False),
        ("[1,2]", "(1,2)", False),
        (r"m\ge\sqrt2", r"m\in[\sqrt2,\infty)", True),
        (r"m \geq \sqrt{2}", r"[\sqrt{2},\infty)", True),
        (r"m > \sqrt2", r"m\in[\sqrt2,\infty)", False),
        ("m≥√2", r"x\in[\sqrt2,\infty)", False),
        ("3>x>1", "1<x<3", True),
        ("3>x>1", "(1,3)", True),
        ("1<x<3", "3<x<1", False),
        (r"1 \le x < 3", "[1,3)", True),
        (r"x<1 \text{ or } x>3", r"(3,\infty)\cup(-\infty,1)", True),
        (r"(-\infty,1)\cup(3,\infty)", r"(-\infty,1]\cup(3,\infty)", False),
        (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{bmatrix} 1 \\ 2 \end{bmatrix}", True),
        (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}2\\1\end{pmatrix}", False),
        (r"\begin{pmatrix}1&2\end{pmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}", False),
        ("x=1", "y=1", False),
        (r"\mathbb{R}", r"(-\infty,\infty)", True),
        ("all real numbers", r"\mathbb{R}", True),
        (r"\{x \mid x>2\}", r"(2,\infty)", True),
        (r"\langle 1,2\rangle", "(1,2)", True),
        (r"\langle 1,2\rangle", "(2,1)", False),
    ],
)
def test_sets_tuples_intervals_and_lists_are_different_kinds(one, other, same):
    assert both_ways(one, other) == [same, same]


@pytest.mark.parametrize(
    ("prediction", "gold", "same"),
    [
        (r"[1,\infty]", r"[1,\infty)", False),
        (r"[1,\infty)", r"[1,\infty]", True),
        (r"[-\infty,1)", r"(-\infty,1)", False),
        (r"x<1", r"[-\infty,1)", True),
    ],
)
def test_infinity_is_no_member_unless_the_gold_writes_so(prediction, gold, same):
    assert compare(prediction, gold) is same


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (r"5\text{ cm}^3", r"5\text{ cm}^2", False),
        ("5 m", "5 cm", False),
        ("5", r"5\text{ cm}^2", True),
        (r"5 \text{ square centimeters}", r"5\,\mathrm{cm}^2", True),
        ("5 km/h", r"5\text{km per hour}", True),
        ("60 mph", r"60\text{ miles per hour}", True),
        ("5 m/s", r"5\text{ m}\cdot\text{s}", False),
        (r"\$5", "5 dollars", True),
        ("5 dollars", "5 cents", False),
        (r"45^{\circ}", "45 degrees", True),
        ("45 degrees", "45 radians", False),
        (r"90\text{ square units}", "90", True),
        (r"90\text{ units}", r"90\text{ square units}", False),
        (r"20^\circ\text{C}", r"20^\circ\text{F}", False),
        ("2 hours", "2 minutes", False),
        ("18 eggs", "18", True),
        ("18 eggs", "19", False),
        ("2m", "2 m", True),
        ("2x", "2y", False),
    ],
)
def test_a_unit_may_be_missing_and_must_not_be_another(one, other, same):
    assert both_ways(one, other) == [same, same]


@pytest.mark.parametrize(
    ("plain", "latex"),
    [
        ("pi/2", r"\frac{\pi}{2}"),
        ("2√3", r"2\sqrt{3}"),
        ("√(x+1)", r"\sqrt{x+1}"),
        ("½", r"\frac12"),
        ("2½", r"\frac52"),
        ("x²+y³", "x^2+y^3"),
        ("10⁻³", r"\frac{1}{1000}"),
        ("∞", r"\infty"),
        ("-∞", r"-\infty"),
        (r"10\,080", "10080"),
        (r"1\,030", "1030"),
        ("11,\\! 111,\\! 100", "11111100"),
        ("1,250 dollars", "1250"),
        ("45 degrees, 135 degrees", r"45^\circ, 135^\circ"),
        ("-1./3", r"-\frac13"),
        ("-3./2", r"-\frac32"),
        ("np.arcsin(10/13)", r"\arcsin\frac{10}{13}"),
        ("math.sqrt(2)/2", r"\frac{\sqrt2}{2}"),
        (r"-2+2i\sqrt3", r"-2+2\sqrt{3}i"),
        ("2**10", "1024"),
        ("2^10", "1024"),
        ("x**(1/2)", r"\sqrt{x}"),
        ("3×4", "12"),  # noqa: RUF001
        ("−5", "-5"),  # noqa: RUF001
        ("e^(i*pi)", "-1"),
        ("2*pi*r", r"2\pi r"),
        ("x ≤ 2", r"x \le 2"),
        ("6 3/4", r"\frac{27}{4}"),
    ],
)
def test_plain_notation_means_what_its_latex_means(plain, latex):
    assert both_ways(plain, latex) == [True, True]


@pytest.mark.parametrize(
    ("rule", "equal"),
    [("either", ["25", "0.25"]), ("hundredths", ["0.25"]), ("number", ["25"])],
)
def test_the_worth_of_a_percentage_is_a_rule(rule, equal):
    for value in ("25", "0.25", "2500"):
        assert equivalent(r"25\%", value, percent=rule) is (value in equal)
        assert equivalent(value, "25 percent", percent=rule) is (value in equal)
    assert equivalent(r"25\%", "25%", percent=rule)


def test_no_verdict_is_told_apart_from_a_wrong_one():
    hanging = "(x+y+z+w)^{60}"
    assert compare(hanging, r"\int_0^1 x dx", cpu_s=0.2) is None
    assert not equivalent(hanging, r"\int_0^1 x dx", timeout_s=0.3)
    assert compare("2x", "3x") is False


async def test_a_right_gold_outweighs_one_that_came_to_nothing():
    hanging = r"\int_0^1 (x+y+z+w)^{60} dx"
    assert await equivalent_to_any("x+x", [hanging, "2x"]) is True
    assert await equivalent_to_any("x+x", [hanging, "3x"], cpu_s=0.2) is None
    assert await equivalent_to_any("x+x", ["3x", "4x"]) is False


SLOW = (r"\frac{\sin x\cos y+\cos x\sin y}{2}", r"\frac{\sin(x+y)}{2}")


def test_a_verdict_does_not_depend_on_what_a_worker_compared_before():
    math._VERIFIER.close()
    fresh = [compare(*SLOW, cpu_s=math.CPU_S)]
    for place in range(40):
        compare(f"x^2+{place}x+1", f"(x+1)^2+{place - 2}x", cpu_s=math.CPU_S)
    assert [*fresh, compare(*SLOW, cpu_s=math.CPU_S)] == [True, True]


@pytest.mark.parametrize("text", ["$" * 50_000 + "x", "1" * 50_000, ". " * 50_000, "5% " * 50_000])
def test_reading_long_answers_takes_linear_time(text):
    started = time.monotonic()
    assert not equivalent(text, "7")
    assert not equivalent(text[::-1], "7")
    assert time.monotonic() - started < 1.0


def test_a_hanging_expression_is_killed_at_its_deadline_and_the_next_one_works():
    started = time.monotonic()
    assert not equivalent("(x+y+z+w)^{60}", "1", timeout_s=0.3)
    assert time.monotonic() - started < 10
    assert equivalent("2/4", "0.5", timeout_s=20.0)


def test_workers_that_died_are_replaced():
    assert equivalent("2/4", "0.5", timeout_s=20.0)
    ours = [p for p in psutil.Process().children() if "ur2.rewards.math_worker" in p.cmdline()]
    workers = [worker for parent in ours for worker in parent.children()]
    assert workers
    for process in workers:
        process.kill()
    assert equivalent("4/8", "0.5", timeout_s=20.0)
    for process in ours:
        process.kill()
    assert equivalent("3/6", "0.5", timeout_s=20.0)
    math._VERIFIER.close()
    assert equivalent("5/10", "0.5", timeout_s=20.0)


EXPLOSIVE = [
    "9^{9^{9^{9}}}",
    "10^{10^{10}}",
    "(((1000000!)!)!)!",
    "99999999!",
    "2^{99999999}",
    "x^" * 30 + "x",
    r"\binom{10000000}{5000000}",
    "(x+1)^{3000}",
    "(" * 200 + "x" + ")" * 200,
    r"\sqrt{" * 60 + "2" + "}" * 60,
]


@pytest.mark.parametrize("expression", EXPLOSIVE)
def test_an_explosive_expression_is_refused_unread_and_equals_itself(expression):
    started = time.monotonic()
    assert not equivalent(expression, "7")
    assert not equivalent("7", expression)
    assert equivalent(expression, f" {expression} ")
    assert time.monotonic() - started < 0.2


@pytest.mark.parametrize(
    "expression", ["(0.5)^{100}", r"2^{2^{10}}", "2^{3^2}", "e^{x^2}", "10^{100}", "8!"]
)
def test_large_values_that_can_be_handled_are(expression):
    assert not math_shape.is_explosive(expression)


async def test_comparisons_do_not_block_the_event_loop():
    longest = 0.0

    async def watch():
        nonlocal longest
        while True:
            before = time.monotonic()
            await asyncio.sleep(0.01)
            longest = max(longest, time.monotonic() - before)

    watching = asyncio.create_task(watch())
    hanging = "(x+y+z+w)^{60}"
    found = await asyncio.gather(
        *(equivalent_to_any(f"{hanging}+{i}", ["7"], cpu_s=0.2) for i in range(4)),
        equivalent_to_any("2/4", ["7", "0.5"], timeout_s=20.0),
    )
    watching.cancel()
    assert found == [False] * 4 + [True]
    assert longest < 0.5


@given(a=st.integers(-(10**15) + 1, 10**15 - 1), b=st.integers(-99, 99))
def test_integers_are_compared_as_integers(a, b):
    assert equivalent(str(a), f"{a:+}")
    assert equivalent(str(a), str(b)) is (a == b)


def test_an_expression_is_not_run_as_code(tmp_path):
    equivalent(f"__import__('os').mkdir('{tmp_path / 'made'}')", "1", timeout_s=5.0)
    assert not (tmp_path / "made").exists()
