"""Finds what a chat template writes between two turns, so that a context is only extended.

The rule that keeps token identity: what stands, stands. The template is asked for the opening, and
for the text between a turn and the next one; both are found on probes, never by rendering a
conversation again. So a template that drops the thoughts of earlier turns (Qwen3's) does no harm:
the policy keeps reading them as it sampled them. A template whose text in between depends on what
came before it, or that changes what tools say, cannot be used like that and is refused.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jinja2

from ur2.errors import InputError
from ur2.prompts.tool_calls import CallFormat, ToolSchema

Messages = list[dict[str, Any]]
Render = Callable[[Messages, bool], str]
"""The text of messages, with or without the prompt for the next turn."""

PROBE_TOOL = ToolSchema(
    name="probe_tool",
    description="Answers.",
    parameters={"type": "object", "properties": {"value": {"type": "string"}}},
)
_TURN = "turnq7z"
_THOUGHT = "<think>\nthoughtq7z\n</think>\n\n"
_ASK: Messages = [{"role": "user", "content": "askq7z"}]
_HARD = 'q7z "a"\n\\b <é> q7z'
"""A reply that a template may quote."""
_EARLIER: Messages = [
    {"role": "assistant", "content": f"{_THOUGHT}earlierq7z"},
    {"role": "tool", "content": "seenq7z"},
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Between:
    """The texts around the replies that follow a turn."""

    end_of_turn: str
    """The token that ends the turn, which the policy samples itself."""
    parts: tuple[str, ...]
    """What stands before, between and after the replies, the prompt for the next turn included."""
    quotes: bool
    """Replies are written as the inside of a JSON string."""

    def written(self, reply: str) -> str:
        """A reply as the template writes it."""
        return json.dumps(reply, ensure_ascii=False)[1:-1] if self.quotes else reply


def between(render: Render, stop_texts: Sequence[str], num_replies: int) -> Between:
    """The text that a template writes after a turn that `num_replies` replies of tools follow.

    Args:
        render: the template, told of tools.
        stop_texts: the texts of the tokens that end a turn of the model.
        num_replies: at least one.

    Raises:
        InputError: the template has no tool role, rewrites the opening or what tools say, or writes
            something else after other turns.
    """
    replies = [f"reply{number}q7z" for number in range(num_replies)]
    tools: Messages = [{"role": "tool", "content": reply} for reply in replies]
    found = set()
    for history in (_ASK, _ASK + _EARLIER, _ASK + _EARLIER * 2):
        for turn in (_TURN, _THOUGHT + _TURN):
            said = {"role": "assistant", "content": turn}
            text = _rendered(render, [*history, said, *tools])
            if not text.startswith(_rendered(render, _ASK, prompted=False)):
                raise _refusal("it rewrites the opening when the conversation goes on")
            found.add(_split(text, replies))
    if len(found) > 1:
        raise _refusal("what it writes after a turn depends on the turns before it")
    first, *others = found.pop()
    end = next((stop for stop in stop_texts if stop and first.startswith(stop)), None)
    if end is None:
        raise _refusal(
            f"it ends a turn by {first[:30]!r}, and no token of the model's that ends turns"
        )
    return Between(
        end_of_turn=end, parts=(first.removeprefix(end), *others), quotes=_quotes(render)
    )


def call_format(render: Render) -> CallFormat:
    """How a template shows calls, which is how its model writes them.

    Raises:
        InputError: in none of the ways that are known, or not at all.
    """
    function = {"name": PROBE_TOOL.name, "arguments": {"value": "callq7z"}}
    call = {"id": "probe0001", "type": "function", "function": function}
    said = {"role": "assistant", "content": "", "tool_calls": [call]}
    text = _rendered(render, [*_ASK, said], prompted=False)
    shown = text.rpartition(str(_ASK[0]["content"]))[2]
    if "callq7z" not in shown:
        raise _refusal("it shows no calls of tools")
    if "<tool_call>" in shown and '"arguments"' in shown:
        return "hermes"
    if '"parameters"' in shown:
        return "llama"
    raise _refusal("it writes calls in a way that is not known here")


def check_tools_shown(render: Render) -> None:
    """Raises an InputError where the opening does not name the tools."""
    if PROBE_TOOL.name not in _rendered(render, _ASK):
        raise _refusal("it does not show the tools to the policy")


def _quotes(render: Render) -> bool:
    said = {"role": "assistant", "content": _TURN}
    text = _rendered(render, [*_ASK, said, {"role": "tool", "content": _HARD}])
    if _HARD in text:
        return False
    if json.dumps(_HARD, ensure_ascii=False) in text:
        return True
    raise _refusal("it changes what tools say")


def _split(text: str, replies: Sequence[str]) -> tuple[str, ...]:
    """The texts around the replies, after the turn."""
    parts = []
    _, turn, rest = text.rpartition(_TURN)
    for reply in replies:
        part, shown, rest = rest.partition(reply)
        if not (turn and shown):
            raise _refusal("it does not show every reply of a tool after the turn")
        parts.append(part)
    return (*parts, rest)


def _rendered(render: Render, messages: Messages, *, prompted: bool = True) -> str:
    try:
        return render(messages, prompted)
    except (jinja2.TemplateError, TypeError, ValueError, KeyError, AttributeError) as error:
        roles = ", ".join(str(message["role"]) for message in messages)
        raise InputError(
            f"the model's chat template does not take messages of {roles}: {error}; {_REMEDY}"
        ) from error


_REMEDY = (
    "use a model whose template has tools, put such a template (chat_template.jinja) into the "
    "model's folder, or play environment.name=search, whose tags need none"
)


def _refusal(reason: str) -> InputError:
    return InputError(f"the model's chat template cannot be used with tools: {reason}; {_REMEDY}")
