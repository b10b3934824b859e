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
        ("Rome", None),
        ("", None),
    ],
)
def test_an_option_is_named_by_letter_or_by_its_whole_text(prediction, letter):
    assert chosen_option(prediction, OPTIONS) == letter


def test_every_gold_letter_counts():
    assert choice_match("B", ("A", "B"), OPTIONS) == 1.0
    assert choice_match("C", ("A", "B"), OPTIONS) == 0.0
    assert choice_match("nothing", ("A",), OPTIONS) == 0.0
