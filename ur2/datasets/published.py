"""Rows as other projects publish them, brought into the fields of our schemas.

Each form is told by one field. What a form does not consume stays in the row, so that nothing which
decides the task is lost in silence: see `check_nothing_lost`.
"""

from collections.abc import Callable, Mapping, Sequence
from string import ascii_uppercase
from typing import Any

from pydantic_core import from_json

from ur2.datasets.fields import Origin

Fields = Mapping[str, Any]

_OPTIONS_LOST = "the question has options, and would become an open one"
_TEXT_LOST = "the question is asked about a text that nobody would show"
_MEDIA_LOST = "the question is asked about something that is no text"
_TOOLS_LOST = "the question comes with tools of its own"
_GOLDS_LOST = "further golds would be lost, and right answers count as wrong"
TASK_FIELDS: Mapping[str, str] = {
    **dict.fromkeys(
        ("options", "choices", "opa", "endings", "candidates", "distractors", "mc1_targets"),
        _OPTIONS_LOST,
    ),
    **dict.fromkeys(
        ("context", "passage", "passages", "paragraph", "article", "story", "table", "dialogue"),
        _TEXT_LOST,
    ),
    **dict.fromkeys(("image", "images", "video", "videos", "audio"), _MEDIA_LOST),
    **dict.fromkeys(("func_schemas", "functions", "tools", "env"), _TOOLS_LOST),
    **dict.fromkeys(
        ("answers", "golden_answers", "golds", "aliases", "answer_aliases", "possible_answers"),
        _GOLDS_LOST,
    ),
    "is_impossible": "the question has no answer, so that nothing can be graded",
}
"""Fields without which a question would be another one, each with what would be lost."""

_TASK_OF_ABILITY = {
    "math": "math", "qa": "qa", "fact-reasoning": "qa", "fact_reasoning": "qa", "search": "qa",
    "knowledge": "qa", "rag": "qa",
}  # fmt: skip


def reshaped(row: Fields, origin: Origin) -> Fields:
    """The row in the fields of one of our schemas, where it is of a form that is known.

    Raises:
        ValueError: it is of such a form, and its parts do not fit one another.
    """
    row = {name: value for name, value in row.items() if not _is_missing(name, value)}
    for field, reshape in PUBLISHED.items():
        if field in row:
            return reshape(row, origin)
    if "reward_model" in row and "golden_answers" not in row:
        return _verl(row, origin)
    if "options" in row and type(row.get("answer")) is int:  # an index, as of `choices`
        return _choices({**row, "choices": row["options"]}, origin)
    return row


def check_nothing_lost(row: Fields, known: frozenset[str]) -> None:
    """Raises a ValueError for a field that decides the task and that the row's schema ignores."""
    for name, loss in TASK_FIELDS.items():
        if name in row and name not in known and row[name] not in (None, "", [], {}, False):
            raise ValueError(
                f"{name}: {loss}; take the field out if that is meant, or read the file through an "
                "adapter (?adapter=package.module:name)"
            )


def _is_missing(name: str, value: Any) -> bool:
    """Whether a table fills in nothing: nulls, and options that this row does not have."""
    if value is None:
        return True
    if name not in ("options", "choices"):
        return False
    parts = value.values() if isinstance(value, dict) else value
    return isinstance(value, dict | list) and all(part in (None, []) for part in parts)


def _without(row: Fields, *names: str) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in names}


def _verl(row: Fields, origin: Origin) -> Fields:
    """Rows that verl trains on: `prompt` messages and `reward_model.ground_truth`."""
    reward, extra = row["reward_model"], row.get("extra_info") or {}
    truth = reward.get("ground_truth") if isinstance(reward, dict) else None
    if isinstance(truth, dict):
        truth = truth.get("target")
    if truth is None:
        raise ValueError("reward_model: has no ground_truth, which is the gold")
    ability = str(row.get("ability") or "").lower()
    source = str(row.get("data_source") or "").lower()
    is_math = ability == "math" or (not ability and ("math" in source or "gsm8k" in source))
    if ability and ability not in _TASK_OF_ABILITY:
        raise ValueError(
            f"ability: '{ability}' is no task here; known: {', '.join(_TASK_OF_ABILITY)}"
        )
    index = {"id": extra["index"]} if extra.get("index") is not None else {}
    rest = _without(row, "reward_model", "extra_info", "prompt", "ability", "question")
    question = row.get("question") or extra.get("question") or _last_message(row.get("prompt"))
    return {
        **index,
        **rest,
        "question": question,
        "golden_answers": truth,
        **({"task": "math"} if is_math else {}),
    }


def _last_message(prompt: Any) -> str:
    """The content of the user's last message."""
    if isinstance(prompt, str):
        return prompt
    messages = [m for m in prompt or () if isinstance(m, dict) and m.get("role") == "user"]
    if not messages or not isinstance(messages[-1].get("content"), str):
        raise ValueError("prompt: has no message of the user, and there is no question beside it")
    return str(messages[-1]["content"])


def _medmcqa(row: Fields, origin: Origin) -> Fields:
    """MedMCQA: `cop` counts from 1 in its JSON, from 0 in tables (the hub's class labels)."""
    options = [row.get(name) for name in ("opa", "opb", "opc", "opd")]
    first = 0 if origin.is_table else 1
    place = row.get("cop")
    if not isinstance(place, int) or not 0 <= place - first < len(options):
        raise ValueError(f"cop: {place!r} is no option; it counts from {first} in such a file")
    return {
        **_without(row, "opa", "opb", "opc", "opd", "cop"),
        "options": options,
        "answer": ascii_uppercase[place - first],
        "subject": row.get("subject_name") or "",
    }


def _choices(row: Fields, origin: Origin) -> Fields:
    """Options as FlashRAG, MMLU, ARC, OpenBookQA and CommonsenseQA write them."""
    texts, labels = _labelled(row["choices"])
    names = [
        name for name in ("answerKey", "answer_idx", "answer", "golden_answers") if name in row
    ]
    golds = {_place(gold, texts, labels, name) for name in names for gold in _listed(row[name])}
    if len(golds) != 1:
        what = f"{len(golds)} options" if golds else "no option"
        raise ValueError(
            f"{' and '.join(names) or 'answerKey'}: the row names {what} of its choices, and one "
            "is needed"
        )
    question = row.get("question") or row.get("question_stem")
    return {
        **_without(row, "choices", "options", "question_stem", *names),
        "question": question,
        "options": texts,
        "answer": ascii_uppercase[golds.pop()],
    }


def _labelled(choices: Any) -> tuple[list[str], list[str]]:
    """The texts of options, and the names that the row gives them, letters by default."""
    if isinstance(choices, dict) and "text" in choices:
        texts, labels = list(choices["text"]), list(choices.get("label") or ())
    elif isinstance(choices, dict):
        texts, labels = list(choices.values()), list(choices)
    elif choices and all(isinstance(choice, dict) for choice in choices):
        texts = [choice.get("text") for choice in choices]
        labels = [choice.get("label") for choice in choices]
    else:
        texts, labels = list(choices), []
    while texts and texts[-1] is None:  # tables give every row as many as the longest
        texts.pop()
    if not all(isinstance(text, str) and text.strip() for text in texts):
        raise ValueError("choices: each must be a text")
    if len(texts) > len(ascii_uppercase):
        raise ValueError(f"choices: {len(texts)} are more than there are letters from A to Z")
    letters = list(ascii_uppercase[: len(texts)])
    return texts, [str(label) for label in labels[: len(texts)]] or letters


def _place(gold: Any, texts: Sequence[str], labels: Sequence[str], name: str) -> int:
    """The place of the option that a gold names by text, by label, or by its index from 0."""
    if isinstance(gold, int) and not isinstance(gold, bool):
        if not 0 <= gold < len(texts):
            raise ValueError(f"{name}: {gold} is no index of {len(texts)} choices, counted from 0")
        return gold
    if not isinstance(gold, str):
        raise ValueError(f"{name}: {gold!r} names no choice: a text, a letter or an index does")
    places = {texts.index(gold)} if texts.count(gold) == 1 else set()
    for names in (labels, ascii_uppercase[: len(texts)]):
        if gold in names:
            places.add(list(names).index(gold))
            break
    else:
        if gold.isdecimal() and int(gold) < len(texts):
            places.add(int(gold))
    if len(places) != 1:
        why = "may be several of" if places else "is none of"
        raise ValueError(f"{name}: {gold!r} {why} the choices; give its letter")
    return places.pop()


def _listed(gold: Any) -> list[Any]:
    return gold if isinstance(gold, list) else [gold]


def _popqa(row: Fields, origin: Origin) -> Fields:
    """PopQA: its golds are JSON in a text."""
    golds = row["possible_answers"]
    if isinstance(golds, str):
        golds = from_json(golds)
    return {**_without(row, "possible_answers"), "golden_answers": golds}


def _trivia(row: Fields, origin: Origin) -> Fields:
    """TriviaQA and FRAMES, whose fields begin with capitals."""
    question = row.get("Question") or row.get("Prompt")
    golds = row.get("answer") if isinstance(row.get("answer"), list) else row.get("Answer")
    key = {"id": row["QuestionId"]} if "QuestionId" in row else {}
    rest = _without(row, "Question", "Prompt", "Answer", "answer", "QuestionId")
    return {**rest, **key, "question": question, "golden_answers": golds}


def _answers(row: Fields, origin: Origin) -> Fields:
    """DeepResearcher's development set, and others with a list `answers`."""
    if "text" in row or "golden_answers" in row:  # ours
        return row
    golds = row["answers"]
    golds = golds.get("text") if isinstance(golds, dict) else golds
    both = [*_listed(row["answer"]), *_listed(golds)] if "answer" in row else golds
    rest = _without(row, "answers", "answer")
    return {**rest, "golden_answers": list(dict.fromkeys(both)) if isinstance(both, list) else both}


PUBLISHED: Mapping[str, Callable[[Fields, Origin], Fields]] = {
    "opa": _medmcqa,
    "choices": _choices,
    "possible_answers": _popqa,
    "Question": _trivia,
    "Prompt": _trivia,
    "answers": _answers,
}
"""By the field that tells a form; of several the first holds."""
FIELDS_OF_FORMS = frozenset(
    [
        "prompt",
        "reward_model",
        "extra_info",
        "ability",
        "opb",
        "opc",
        "opd",
        "cop",
        "subject_name",
        "answerKey",
        "question_stem",
        "Answer",
        "QuestionId",
    ]
)
"""Further fields that the forms read."""
