"""Speed of grading: trajectories per second of one core, and what adversarial mathematics costs.

    python scripts/bench/rewards.py [data=DIR]     DIR holds math/math_test_5000.jsonl

Text: groups of 16 different trajectories of about 500 tokens through the whole rubric (answer,
format, searches). "Naive" is the straightforward grader below, one trajectory at a time, which does
less: it checks fewer things.
Mathematics: 16 answers to each of many MATH questions: 5 as the gold is written, 3 written
otherwise, 8 wrong ones (4 other questions' golds, twice). The plain loop calls math_verify's parse
and verify on each of the same pairs. In the adversarial batch one answer in a hundred is hostile.
Rates are per second of processor time, of this process and its workers; the cost of adversarial
answers is a ratio of wall times. Each is the best of three to five runs.
"""

import asyncio
import json
import logging
import os
import random
import re
import string
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import harmonic_mean
from typing import Any

import psutil
import yaml
from math_verify import LatexExtractionConfig, parse, verify

from bench.figures import tell
from ur2.prompts.dialect import Dialect
from ur2.prompts.options import PromptOptions
from ur2.rewards import math
from ur2.rewards.options import RewardOptions
from ur2.rewards.rubric import Rubric
from ur2.types import (
    Assignment,
    Author,
    Group,
    Level,
    Question,
    Segment,
    Status,
    Task,
    ToolUse,
    Trajectory,
)

ROOT = Path(__file__).parents[1]
SAMPLES = 16
SENTENCE = "the patient shows, (as seen in 1998) signs of disease. so we look for what"
NUM_TEXT_GROUPS = 64
NUM_QUESTIONS = 60
ADVERSARIAL = (
    "9^{9^{9^{9}}}", "(((1000000!)!)!)!", "2^{99999999}", "(x+y+z+w)^{60}", "(x+1)^{3000}",
    r"\sin(\sin(\sin(\sin(x+y)^9)^9)^9)^9", "(" * 30 + "x" + ")" * 30, "x^" * 30 + "x",
    r"\binom{10000000}{5000000}", r"\int_0^1 e^{x^x} dx",
)  # fmt: skip
OPTIONS = RewardOptions.load(
    {
        "graders": {"qa": "f1", "choice": "choice", "math": "equivalent"},
        "terms": {
            "answer": {"kind": "answer", "weight": 2.0},
            "format": {"kind": "format"},
            "unsearchable": {"kind": "unsearchable", "weight": -0.5},
            "bonus": {"kind": "search_bonus", "values": [0.0, 0.5, 1.0]},
        },
        "clip": [-10.0, 10.0],
    },
    where="reward",
)
PROMPT = yaml.safe_load((ROOT / "configs" / "prompt" / "ur2.yaml").read_text())
DIALECT = Dialect(PromptOptions.load(PROMPT, where="ur2").protocol)


def main() -> None:
    logging.disable(logging.CRITICAL)
    data = dict(argument.split("=", 1) for argument in sys.argv[1:]).get("data")
    folder = Path(data or os.environ.get("UR2_SHARED_DATA", ROOT.parent / "shared" / "data"))
    rubric = Rubric.from_options(OPTIONS, DIALECT)
    figures = text_figures(rubric)
    source = folder / "math" / "math_test_5000.jsonl"
    if source.exists():
        golds = [json.loads(line)["answer"] for line in source.read_text().splitlines()]
        figures |= math_figures(rubric, golds)
    else:
        print(f"mathematics is left out: {source} does not exist (data=DIR)")
    for name, value in figures.items():
        print(f"{name:45} {value:12,.2f}")
    tell("rewards", {key: round(value, 3) for key, value in figures.items()})


def text_figures(rubric: Rubric) -> dict[str, float]:
    rng = random.Random(0)
    figures = {}
    for task in ("qa", "choice"):
        groups = [text_group(task, rng) for _ in range(NUM_TEXT_GROUPS)]
        seconds = min(cpu_s(lambda g: asyncio.run(rubric.score_all(g, 1)), groups) for _ in "12345")
        naive = min(cpu_s(naive_scores, groups) for _ in "12")
        figures[f"{task}_trajectories_per_s_per_core"] = NUM_TEXT_GROUPS * SAMPLES / seconds
        figures[f"{task}_times_naive"] = naive / seconds
    rates = [figures[f"{task}_trajectories_per_s_per_core"] for task in ("qa", "choice")]
    return figures | {"text_trajectories_per_s_per_core": harmonic_mean(rates)}


def math_figures(rubric: Rubric, golds: Sequence[str]) -> dict[str, float]:
    rng = random.Random(0)
    questions = rng.sample(list(golds), NUM_QUESTIONS)
    answers = [math_answers(gold, golds, rng) for gold in questions]
    clean = [math_group(g, a) for g, a in zip(questions, answers, strict=True)]
    count = len(clean) * SAMPLES
    for place in range(count // 100):
        hostile = ADVERSARIAL[place % len(ADVERSARIAL)]
        answers[place % NUM_QUESTIONS][-1 - place // NUM_QUESTIONS] = f"{hostile}+{place}"
    hostile = [math_group(g, a) for g, a in zip(questions, answers, strict=True)]
    clean_wall, clean_cpu = zip(*(math_seconds(rubric, clean) for _ in "123"), strict=True)
    hostile_wall, _ = zip(*(math_seconds(rubric, hostile) for _ in "123"), strict=True)
    sample = [(a, g) for g in questions[:20] for a in math_answers(g, golds, rng)]
    plain = cpu_s(lambda pairs: [plain_verify(*pair) for pair in pairs], sample) / len(sample)
    return {
        "math_answers_per_s_per_core": count / min(clean_cpu),
        "math_times_plain_math_verify": plain * count / min(clean_cpu),
        "math_adversarial_over_clean": min(hostile_wall) / min(clean_wall),
    }


def math_seconds(rubric: Rubric, groups: Sequence[Group]) -> tuple[float, float]:
    """Wall and processor seconds, with workers that have seen none of the answers."""
    math._VERIFIER.close()
    warm = math_group("x+1", [f"{n}x+1" for n in range(2, 2 + SAMPLES)])
    asyncio.run(rubric.score_all([warm], 1))
    before, started = processor_s(), time.perf_counter()
    asyncio.run(rubric.score_all(groups, 1))
    return time.perf_counter() - started, processor_s() - before


def processor_s() -> float:
    """Of this process and the workers that are alive."""
    processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
    return sum(sum(process.cpu_times()[:2]) for process in processes)


def cpu_s(work: Callable[[Any], Any], argument: Any) -> float:
    started = time.process_time()
    work(argument)
    return time.process_time() - started


def naive_scores(groups: Sequence[Group]) -> list[float]:
    return [
        naive_score(group.assignment.question, t) for group in groups for t in group.trajectories
    ]


def naive_score(question: Question, trajectory: Trajectory) -> float:
    """The straightforward way: patterns and passes over the text, each check on its own."""
    text = "\n".join(s.text for s in trajectory.segments if s.author is Author.POLICY)
    if question.task == "choice":
        found = re.findall(r"the correct answer is:?\s*([A-J])", text, re.IGNORECASE)
        grade = float(bool(found) and found[-1] in question.answers)
    else:
        found = re.findall(r"\\boxed\{([^{}]*)\}", text)
        grade = max(naive_f1(found[-1], gold) for gold in question.answers) if found else 0.0
    queries = re.findall(r"<\|begin_of_query\|>(.*?)<\|end_of_query\|>", text, re.DOTALL)
    clean = (
        len(found) == 1
        and text.count("<|begin_of_query|>") == text.count("<|end_of_query|>")
        and all(len(query.split()) <= 20 for query in queries)
        and not any("\u4e00" <= character <= "\u9fff" for character in text)
        and not re.search(r"^(system|user|assistant)\s*:?\s*$", text, re.MULTILINE)
    )
    return 2 * grade + clean + min(len(queries), 2) * 0.5


def naive_f1(said: str, gold: str) -> float:
    def words(text: str) -> list[str]:
        kept = "".join(c for c in text.lower() if c not in set(string.punctuation))
        return re.sub(r"\b(a|an|the)\b", " ", kept).split()

    first, second = words(said), words(gold)
    shared = sum((Counter(first) & Counter(second)).values())
    return 2 * shared / (len(first) + len(second)) if shared else 0.0


def plain_verify(answer: str, gold: str) -> bool:
    config = [LatexExtractionConfig()]
    return bool(
        verify(
            parse(f"\\boxed{{{gold}}}", config, parsing_timeout=None),
            parse(f"\\boxed{{{answer}}}", config, parsing_timeout=None),
            timeout_seconds=None,
        )
    )


def math_answers(gold: str, golds: Sequence[str], rng: random.Random) -> list[str]:
    otherwise = [
        gold.replace("\\frac", "\\dfrac") + " ", f"{gold}.0" if gold.isdigit() else f"({gold})",
        f"${gold}$",
    ]  # fmt: skip
    return [gold] * 5 + otherwise + rng.sample(list(golds), 4) * 2


def math_group(gold: str, answers: Sequence[str]) -> Group:
    turns = [(f"So the result is \\boxed{{{answer}}}",) for answer in answers]
    return group_of("math", (gold,), turns)


def text_group(task: Task, rng: random.Random) -> Group:
    words = SENTENCE.split()
    golds = ("A",) if task == "choice" else ("Marie Skłodowska Curie", "Marie Curie")
    turns = []
    for _ in range(SAMPLES):
        thoughts = [f"Step: “{' '.join(rng.choices(words, k=115))}”" for _ in range(3)]
        query = " ".join(rng.choices(words, k=8))
        said = " ".join(rng.choices(["Marie", "Curie", "Pierre", "Skłodowska"], k=3))
        answer = f"\\boxed{{{said}}}" if task == "qa" else "the correct answer is: A"
        search = f"<|begin_of_query|> {query} <|end_of_query|>"
        turns.append(
            (f"{thoughts[0]} {search}", f"{thoughts[1]} {search}", f"{thoughts[2]} {answer}")
        )
    return group_of(task, golds, turns)


def group_of(task: Task, golds: tuple[str, ...], turns: Sequence[Sequence[str]]) -> Group:
    question = Question(
        id="q", task=task, text="?", answers=golds, options=("a", "b", "c"), level=Level.HARD
    )
    trajectories = []
    for texts in turns:
        answer = DIALECT.answer(texts[-1], task)
        segments = [Segment(author=Author.POLICY, token_ids=(1,), text=text) for text in texts]
        search = ToolUse(tool="search", arguments={"query": "q"}, outcome="found")
        searches = (search,) * (len(texts) - 1)
        trajectories.append(
            Trajectory(
                id="t",
                segments=tuple(segments),
                events=searches,
                status=Status.ANSWERED,
                answer=answer,
            )
        )
    assignment = Assignment(id="1", question=question, retrieval=True, reason="", step=1)
    return Group(assignment=assignment, trajectories=tuple(trajectories))
