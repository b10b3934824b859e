"""Grades multiple choice answers."""

from collections.abc import Sequence
from string import ascii_uppercase

from ur2.rewards.extract import option_letter, plain
from ur2.rewards.qa import normalise


def choice_match(prediction: str, golds: Sequence[str], options: Sequence[str]) -> float:
    """1.0 where the prediction names a gold letter, or is the whole text of exactly that option.

    Args:
        prediction: a letter ("B", "(B)", "B. Paris") or an option's text.
        golds: letters of the right options.
        options: option texts in letter order.
    """
    return float(chosen_option(prediction, options) in golds)


def chosen_option(prediction: str, options: Sequence[str]) -> str | None:
    """The letter of the option that was named, by letter or by its whole text; else None."""
    letters = ascii_uppercase[: len(options)]
    letter = option_letter(prediction)
    if letter is not None and letter in letters:
        return letter
    said = normalise(plain(prediction))
    same = [a for a, text in zip(letters, options, strict=True) if said and normalise(text) == said]
    return same[0] if len(same) == 1 else None
