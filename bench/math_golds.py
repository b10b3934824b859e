"""Errors of the mathematical grader on golds of MATH: equals it misses, differents it takes.

    python scripts/bench/math_golds.py [data=DIR]     DIR holds math/math_test_5000.jsonl

Equal pairs: 900 golds, each written in other ways. Different pairs: golds with a digit, a sign, a
bracket, an order, a kind, a base, a unit or a variable changed, and numbers next to each other on a
small scale. Every pair is compared both ways, but where the gold may be looser than the answer.
"""

import json
import os
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from bench.figures import tell
from ur2.rewards.math import compare

ROOT = Path(__file__).parents[1]
NUM_GOLDS = 900
TUPLE = re.compile(r"[(\[][^()\[\]{}]*,[^()\[\]{}]*[)\]]")


def main() -> None:
    data = dict(argument.split("=", 1) for argument in sys.argv[1:]).get("data")
    folder = Path(data or os.environ.get("UR2_SHARED_DATA", ROOT.parent / "shared" / "data"))
    source = folder / "math" / "math_test_5000.jsonl"
    if not source.exists():
        sys.exit(f"error: {source} does not exist: pass data=DIR or set UR2_SHARED_DATA")
    golds = [json.loads(line)["answer"] for line in source.read_text().splitlines()]
    rng = random.Random(0)
    chosen = rng.sample(sorted(set(golds)), NUM_GOLDS)
    compare("x+1", "y+1")  # starts the workers
    started, tried, missed = time.perf_counter(), 0, Counter[str]()
    for gold in chosen:
        for written in rewritings(gold):
            tried += 2
            missed[gold] += (compare(written, gold) is not True) + (
                compare(gold, written) is not True
            )
    seconds = time.perf_counter() - started
    figures = {
        "missed_equals": missed.total() / tried,
        "golds_with_a_missed_equal": sum(count > 0 for count in missed.values()) / NUM_GOLDS,
        "equal_pairs_per_s": tried / seconds,
    }
    num_pairs, taken = Counter[str](), Counter[str]()
    for gold in chosen:
        for kind, other in changes(gold, rng):
            pairs = [(gold, other)] if kind == "no base" else [(gold, other), (other, gold)]
            num_pairs[kind] += len(pairs)
            taken[kind] += [compare(*pair) for pair in pairs].count(True)
    print(f"{'changed':12} {'pairs':>7} {'taken for equal':>16}")
    for kind, count in sorted(num_pairs.items()):
        print(f"{kind:12} {count:7} {taken[kind]:16}")
    figures["accepted_differents"] = taken.total() / num_pairs.total()
    for name, value in figures.items():
        print(f"{name:30} {value:10.4f}")
    tell("math_golds", {key: round(value, 4) for key, value in figures.items()})


def rewritings(gold: str) -> Iterator[str]:
    """The gold written in other ways."""
    yield f"${gold}$."
    yield rf"\({gold}\)"
    yield gold.replace(r"\frac", r"\dfrac").replace(r"\sqrt", r"\sqrt ")
    yield re.sub(r"\\(left|right)(?=[()\[\].{}\\|])", "", gold)
    yield gold.replace(r"\pi", "π").replace(r"\infty", "∞").replace(r"\cup", "\u222a")
    yield re.sub(r"\\[dt]?frac\{(\d+)\}\{(\d+)\}$", r"\1/\2", gold)
    yield re.sub(r"\\sqrt\{(\d+)\}", r"√\1", gold)
    if re.fullmatch(r"-?\d+", gold):
        yield f"{gold}.0"
        yield f"x = {gold}"
        yield rf"{gold} \text{{ apples}}"


def changes(gold: str, rng: random.Random) -> Iterator[tuple[str, str]]:
    """Other values, each with what was changed."""
    if digits := list(re.finditer(r"\d", gold)):
        at = rng.choice(digits)
        digit = str((int(at[0]) + rng.randint(1, 9)) % 10)
        yield "digit", f"{gold[: at.start()]}{digit}{gold[at.end() :]}"
    if re.fullmatch(r"[1-9]\d*", gold):
        yield "sign", f"-{gold}"
        yield "small", f"0.00000{gold}"
        yield "tiny", rf"{gold} \times 10^{{-9}}"
        yield "near", f"{gold}.001"
        yield "no base", f"{gold}_9"
    if re.fullmatch(r"\d+_\{?\d+\}?", gold):
        yield "base", re.sub(r"_\{?(\d+)\}?", lambda base: f"_{int(base[1]) + 1}", gold)
    if TUPLE.fullmatch(gold):
        parts = gold[1:-1].split(",")
        opening, closing = ("[" if gold[0] == "(" else "("), (")" if gold[-1] == "]" else "]")
        if "infty" not in parts[0]:
            yield "bracket", opening + gold[1:]
        if "infty" not in parts[-1]:
            yield "bracket", gold[:-1] + closing
        if [p.strip() for p in parts] != [p.strip() for p in parts[::-1]]:
            yield "order", f"{gold[0]}{','.join(parts[::-1])}{gold[-1]}"
        yield "kind", rf"\{{{gold[1:-1]}\}}"
    if re.search(r"\\text\{ *(cm|m|km|inches|feet)", gold):
        yield "unit", re.sub(r"(?<=\\text\{)( *)(cm|m|km|inches|feet)", r"\1mm", gold)
    if re.fullmatch(r"[0-9x+^ -]*x[0-9x+^ -]*", gold):
        yield "variable", gold.replace("x", "y")
        yield "term", f"{gold}+1"


if __name__ == "__main__":
    main()
