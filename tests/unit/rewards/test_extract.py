import pytest

from ur2.rewards.extract import final_answer, option_letter, plain


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("It is <answer> Paris </answer>", "Paris"),
        (r"It is \boxed{Paris}.", "Paris"),
        (r"\boxed{\text{New York}}", "New York"),
        ("The correct answer is: Paris\nbye", "Paris"),
        (r"<answer>The city is \boxed{Paris}</answer>", "Paris"),
        (r"The correct answer is: \boxed{Paris}", "Paris"),
        ("**The correct answer is:** *Paris*", "Paris"),
        ("the correct answer is: **Paris**.", "Paris"),
        ("the correct answer is Paris", None),
        ("Paris", None),
        ("<answer>Paris", None),
        (r"\boxed{Paris", None),
        ("<answer> </answer>", None),
        ("", None),
    ],
)
def test_open_answers_are_found_in_every_form(text, answer):
    assert final_answer(text, "qa") == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"\boxed{1} <answer>2</answer>", "2"),
        (r"<answer>2</answer> \boxed{1}", "1"),
        (r"the correct answer is: 3" + "\n" + r"or \boxed{1}", "1"),
        (r"\boxed{1} and then \boxed{2}", "2"),
        (r"\boxed{2}. It is inside \boxed{}.", "2"),
    ],
)
@pytest.mark.parametrize("task", ["qa", "math"])
def test_the_last_answer_by_position_wins_whatever_its_form(text, answer, task):
    assert final_answer(text, task) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"\boxed{\frac{1}{2}} and {x}", r"\frac{1}{2}"),
        (r"\boxed{\{1\}}", r"\{1\}"),
        (r"\boxed{a} text }", "a"),
        (r"\boxed{\text{odd}}", r"\text{odd}"),
    ],
)
def test_braces_are_balanced_and_math_is_left_as_written(text, answer):
    assert final_answer(text, "math") == answer


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("The correct answer is: B", "B"),
        ("the correct answer is: b", "B"),
        ("The correct answer is: (C).", "C"),
        ("The correct answer is: **D. Bern**", "D"),
        ("The correct answer is:\n\nB", "B"),
        ("The correct answer is: option A", "A"),
        ("The correct answer is B.", "B"),
        ("The correct answer is **C**", "C"),
        ("The correct answer is A because of its size", "A"),
        ("<answer>B</answer>", "B"),
        ("<answer>B) Rome</answer>", "B"),
        (r"\boxed{\text{(B)}}", "B"),
        (r"The correct answer is $\boxed{B}$", "B"),
        ("The correct answer is: A. No: the correct answer is: B", "B"),
        ("The correct answer is: B<|im_end|>", "B"),
        ("The correct answer is: **B**.", "B"),
        ("The correct answer is: $B$.", "B"),
        ('The correct answer is: "B".', "B"),
        (r"The correct answer is: \text{B}.", "B"),
        (r"The correct answer is: \(B\).", "B"),
        ("The correct answer is: **B**: Rome", "B"),
        ("The correct answer is: **B.** Rome", "B"),
        ("The correct answer is: B - Rome", "B"),
        ("The correct answer is: B, because it is", "B"),
        ("<answer>**B**.</answer>", "B"),
        ("The correct answer is option B.", "B"),
        ("The correct answer is B: Rome", "B"),
        ("The correct answer is: B, C", "B, C"),
        ("The correct answer is: Aspirin", "Aspirin"),
        (r"\boxed{B} since the correct answer is a drug", "B"),
    ],
)
def test_choices_are_named_by_letter(text, letter):
    assert final_answer(text, "choice") == letter


@pytest.mark.parametrize(
    "text",
    [
        "The correct answer is a drug that lowers the pressure.",
        "The correct answer is A drug",
        "the correct answer is I don't know",
        "I don't know.",
        "A",
        "Answer: B",
    ],
)
def test_words_are_no_option(text):
    assert final_answer(text, "choice") is None


@pytest.mark.parametrize(
    "words",
    [
        "I don't know",
        "a drug",
        "A drug",
        "No",
        "e.g. this",
        "U.S. law",
        "A, B",
        "A and B",
        "AB",
        "",
    ],
)
def test_a_letter_inside_words_names_no_option(words):
    assert option_letter(words) is None


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (r" $\text{New York}$ ", "New York"),
        (r"\text{A} and \text{B}", r"\text{A} and \text{B}"),
        (r"\mathrm{\textbf{x}}", "x"),
        ('"Paris"', "Paris"),
    ],
)
def test_plain_removes_only_what_encloses_the_answer(answer, expected):
    assert plain(answer) == expected
