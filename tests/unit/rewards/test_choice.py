import pytest

from ur2.rewards.choice import choice_match, chosen_option

OPTIONS = ("Paris", "No", "Rome", "the Rome")


@pytest.mark.parametrize(
    ("prediction", "letter"),
    [
        ("A", "A"),
        ("(b)", "B"),
        ("C. Paris", "C"),
        ("paris", "A"),
        ("No.", "B"),
        ("E", None),
        ("I don't know", None),
        ("Not that", None),
        ("Paris or Rome", None),
        ("Rome", "C"),
        ("rome", None),
        ("", None),
    ],
)
def test_an_option_is_named_by_letter_or_by_its_whole_text(prediction, letter):
    assert chosen_option(prediction, OPTIONS) == letter


def test_every_gold_letter_counts():
    assert choice_match("B", ("A", "B"), OPTIONS) == 1.0
    assert choice_match("C", ("A", "B"), OPTIONS) == 0.0
    assert choice_match("nothing", ("A",), OPTIONS) == 0.0


BACTERIA = ("S. aureus", "E. coli", "C. difficile", "B. cereus", "a. coli")
SYMBOLS = ("j~Be", "Bej", "B~ej", "bej", "A", "P", "~P")


@pytest.mark.parametrize(
    ("options", "prediction", "letter"),
    [
        (BACTERIA, "E. coli", "B"),
        (BACTERIA, "**C. difficile**", "C"),
        (BACTERIA, "B. E. coli", "B"),
        (BACTERIA, "D. B. cereus", "D"),
        (BACTERIA, "E", "E"),
        (SYMBOLS, "Bej", "B"),
        (SYMBOLS, "B~ej", "C"),
        (SYMBOLS, "BEJ", None),
        (SYMBOLS, "A", "A"),
        (SYMBOLS, "P", "F"),
    ],
)
def test_a_text_that_begins_like_a_letter_or_differs_in_marks_is_its_own_option(
    options, prediction, letter
):
    assert chosen_option(prediction, options) == letter


@pytest.mark.parametrize("letter", "ABCD")
@pytest.mark.parametrize("form", ["{}", "{}.", "**{}**.", "${}$.", "{}, because", "**{}.** Rome"])
def test_a_letter_counts_however_it_is_set(form, letter):
    assert chosen_option(form.format(letter), OPTIONS) == letter
