# ruff: noqa: RUF001 - look-alike letters are what some cases are about
import time

import pytest

from ur2.rewards.choice import choice_match
from ur2.rewards.extract import final_answer
from ur2.rewards.letters import letters_named

NAMED = {
    "B": (
        "B", "b", "B.", "B)", "(B)", "(b)", "[B]", "{B}", "B:", "B?", "B!", "> B", "- B", "• B",
        "“B”", "'B'", '"B"', "`B`", "**B**", "**B**.", "**B.** Rome", "**(B)** Rome", "$B$",
        r"\(B\)", r"\[\boxed{B}\]", r"\boxed{B}", r"\text{B}", r"\text{(B)}", r"\textbf{B) Rome}",
        "B Warfarin", "B (Warfarin)", "B, Warfarin", "B. Warfarin", "B. warfarin", "B) warfarin",
        "b) warfarin", "B - Rome", "B – Rome", "B — Rome", "B: Rome", "B; it lowers pressure",
        "B 5 mg", "B because it is", "B, because it is", "B since it is", "B is correct",
        "B is the correct answer", "option B", "Option (B)", "option B: Rome", "Choice B.",
        "answer B", "Answer: B", "The answer is B", "the answer is (B).", "I think it is B",
        "It's B", "I would go with B", "I choose B", "letter B", "My answer is (B) Heparin",
        "B\nA is wrong because it is not", "B\n\nA: no. C: no.", "**B**\n\nExplanation: A fails.",
        "B. Vitamin C", "B. E. coli", "B.) Rome", "(B.) Rome", "Final answer: B",
        "Correct answer: (B)", "the answer should be B", "[B] Rome",
        "Answer：B", "B, E. coli", "B, A drug that lowers it",
        "B and not much else", "B, not A", "B (not A)", "B is right, not A",
        "\u3010B\u3011", "B\u3002",
        "B\u3001Rome", "1. B", "#B", "~B~", "=> B", "\u2192 B", "\u2705 B", "B \u2705", "B\u2026",
        "ans B", "Final: B", "B) Factor VIII", "(B) Rome (capital)", "B or so",
        "Ｂ", "（Ｂ）", "В", "Β", "The Roman city (B)", "Vitamin K (B)",
    ),
    "A": ("A", "a", "A.", "(A) drug", "A) drug", "A. drug", "A, because", "A: it is", "A\nB is no"),
    "E": ("Vitamin K (E)", "E. coli (E)", "Hepatitis B virus (E)", "E — none of these"),
    "D": ("D. B. cereus", "D) Vitamins A and C", "T cells (D)", "D. An A-type drug"),
    "I": ("I", "(I)", "I."),
}  # fmt: skip
NONE = (
    "", "(A) and (B)", "(A), (B)", "A) or B)", "A: no, B", "**A**. **B**", "A or B", "A and B",
    "A & B", "A/B", "A, B", "A; B", "A, B, C, D", "Neither A nor B", "both A and C", "Not B",
    "A. Paris\nB. Rome\nC. Bern", "A) Paris\nB) Rome", "(A) Paris\n(B) Rome\n(C) Bern",
    "A. Paris B. Rome C. Bern", "A\nB\nC\nD", "AB", "I don't know", "I do not know", "No", "None",
    "a drug", "A drug", "A Roman emperor", "an aspirin", "e.g. this", "U.S. law", "E. coli",
    "C. difficile", "S. aureus", "Hepatitis B", "Vitamin B12", "Vitamin K", "B cells",
    "B lymphocytes", "X-linked", "pH 7", "none of the above", "Paris", "option", "the answer is a "
    "drug", "B and C are correct", "B or C, but not D", "A, C and D",
    "A/B both fit",
    "Group A streptococcus",
)  # fmt: skip


@pytest.mark.parametrize("letter", NAMED)
def test_a_letter_is_read_however_it_is_set(letter):
    missed = [text for text in NAMED[letter] if letters_named(text) != (letter,)]
    assert not missed
    for form in ("<answer>{}</answer>", "So <answer>\n{}\n</answer> it is."):
        assert [final_answer(form.format(text), "choice") for text in NAMED[letter]] == [
            letter for _ in NAMED[letter]
        ]


def test_words_and_several_letters_name_no_option():
    assert not [text for text in NONE if len(letters_named(text)) == 1]
    letters = [final_answer(f"<answer>{text}</answer>", "choice") for text in NONE]
    assert not [letter for letter in letters if letter is not None and len(letter) == 1]


def test_phrases_and_boxes_are_read_alike():
    one_line = [text for text in NAMED["B"] if "\n" not in text]
    for text in one_line:
        assert final_answer(f"The correct answer is: {text}", "choice") == "B", text
    for text in ("B", "(B)", r"\text{B}", r"\textbf{(B)}", "B. Rome", "B Rome"):
        assert final_answer(rf"\[\boxed{{{text}}}\]", "choice") == "B", text


@pytest.mark.parametrize(
    ("prediction", "options", "letter"),
    [
        ("A Roman emperor", ("A Roman emperor", "A city"), "A"),
        ("A Aspirin", ("Aspirin", "Heparin"), "A"),
        ("B. Vitamins A, C", ("Iron", "Vitamins A, C"), "B"),
        ("Hepatitis B", ("Hepatitis A", "Malaria", "Hepatitis B"), "C"),
        ("E. coli", ("E. coli", "S. aureus"), "A"),
        ("(A) and (B)", ("Iron", "Zinc"), ""),
    ],
)
def test_the_options_tell_a_letter_from_a_word(prediction, options, letter):
    for gold in ("A", "B", "C"):
        assert choice_match(prediction, (gold,), options) == float(gold == letter)


@pytest.mark.parametrize("text", [" " * 50_000, "B " * 50_000, "." * 50_000, "(A) " * 50_000])
def test_a_long_answer_is_read_in_no_time(text):
    started = time.monotonic()
    letters_named(text)
    assert time.monotonic() - started < 0.5
