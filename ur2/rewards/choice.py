"""Grades multiple choice answers."""

from collections.abc import Sequence
from string import ascii_uppercase

from ur2.rewards.extract import option_letter, plain
from ur2.rewards.letters import leading_label
from ur2.rewards.qa import normalised


def choice_match(prediction: str, golds: Sequence[str], options: Sequence[str]) -> float:
    """1.0 where the prediction names a gold letter, or is the whole text of exactly that option.

    Args:
        prediction: a letter ("B", "(B)", "B. Paris") or an option's text ("E. coli").
        golds: letters of the right options.
        options: option texts in letter order.
    """
    return float(chosen_option(prediction, options) in golds)


def chosen_option(prediction: str, options: Sequence[str]) -> str | None:
    """The letter of the option that was named, by letter or by its whole text; else None.

    A text is first looked for as it stands, so that "E. coli" is not option E, and options that
    differ in case or marks alone are told apart; a lone letter is looked for among letters first. A
    letter that stands before the text of its own option names it, whatever else that text holds.
    """
    letters = ascii_uppercase[: len(options)]
    words = plain(prediction)
    letter = option_letter(words)
    is_letter = letter is not None and letter in letters
    if not (is_letter and len(words) == 1) and options.count(words) == 1:
        return letters[options.index(words)]
    if is_letter:
        return letter
    label = leading_label(words)
    if label is not None and label[0] in letters:
        text = options[letters.index(label[0])]
        if normalised(label[1]) == normalised(text):
            return label[0]
    said = normalised(words)
    same = [
        a for a, text in zip(letters, options, strict=True) if said and normalised(text) == said
    ]
    return same[0] if len(same) == 1 else None
