"""Which words of a command line are the launcher's, and which the run's."""

from collections.abc import Sequence

HELP = ("-h", "--help")


def split_words(words: Sequence[str], prefix: str) -> tuple[list[str], list[str]]:
    """Those with the prefix, without it, and calls for help; and all others."""
    own = [w.removeprefix(prefix) for w in words if w.startswith(prefix) or w in HELP]
    return own, [w for w in words if not w.startswith(prefix)]
