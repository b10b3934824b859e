"""Which words of a command line are the launcher's, and where a ray job's workers run."""

import os
from collections.abc import Sequence

ROOT_VARIABLE = "UR2_ROOT"
HELP = ("-h", "--help")


def split_words(words: Sequence[str], prefix: str) -> tuple[list[str], list[str]]:
    """Those with the prefix, without it, and calls for help; and all others, flags first."""
    own = [w.removeprefix(prefix) for w in words if w.startswith(prefix) or w in HELP]
    others = [w for w in words if not w.startswith(prefix)]
    return own, sorted(others, key=lambda w: not w.startswith("-"))  # Hydra wants the rest in a row


def enter_root() -> None:
    """Lets a worker of a ray job find the run's relative paths."""
    os.chdir(os.environ[ROOT_VARIABLE])
