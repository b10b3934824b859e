"""The process that compares mathematical answers: JSON lines in, JSON lines out, until stdin ends.

It is a process of its own so that an expression which hangs or exhausts memory can be killed.
`ur2.rewards.math` starts it as `python -m ur2.rewards.math_worker`.
"""

import json
import logging
import resource
import sys

from math_verify import LatexExtractionConfig, parse, verify

MAX_MEMORY_BYTES = 4 * 2**30


def main() -> None:
    """Answers {"prediction", "gold"} with {"equal"}; the first line says that it is ready."""
    logging.disable(logging.CRITICAL)
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    _write({"ready": True})
    for line in sys.stdin:
        request = json.loads(line)
        _write({"equal": _equal(request["prediction"], request["gold"])})


def _equal(prediction: str, gold: str) -> bool:
    parsed_gold, parsed_prediction = (
        parse(f"\\boxed{{{text}}}", [LatexExtractionConfig()], parsing_timeout=None)
        for text in (gold, prediction)
    )
    # The library's own timeouts are signals, which do not stop C code; the parent kills instead.
    return bool(verify(parsed_gold, parsed_prediction, timeout_seconds=None))


def _write(message: dict[str, bool]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
