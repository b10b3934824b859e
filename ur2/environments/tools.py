"""Functions as the model's own chat template shows them: call, read the replies, answer.

A turn that gives a final answer, in the prompt's form, ends the episode, whatever it calls; other
turns call one or several tools, which run at once. A turn that does neither ends the episode
without an answer. Thoughts (`<think>`) neither call nor answer.
"""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, Literal

from pydantic import Field

from ur2.environments.base import Ask, End, Piece, Reply, Services, Tool, Turn
from ur2.environments.toolbox.base import misfit
from ur2.options import Options
from ur2.prompts.tool_calls import BadCall, ToolCall, acted, parse_calls
from ur2.types import Assignment, Author, Status, ToolOutcome, ToolUse

UNREADABLE = "unreadable"
"""The name in events of a call that names no tool there is."""
NO_CALLS_LEFT = "No calls are left. Give the final answer."


class ToolsOptions(Options):
    """The budgets of one episode, and what is done about mistakes."""

    max_turns: int = Field(8, ge=1)
    """Turns of the policy; the last one must answer, its calls are refused."""
    max_calls: int = Field(16, ge=0)
    """Calls of an episode, wrong ones included; those beyond are refused."""
    max_tokens_per_turn: int = Field(512, ge=1)
    """Tokens that the policy may sample in one turn."""
    max_observation_tokens: int = Field(1024, ge=16)
    """Tokens of one reply with the template's words around it; longer replies are cut."""
    timeout_s: float = Field(120.0, gt=0)
    """Seconds for one call, over the limits that tools set themselves."""
    on_bad_call: Literal["notice", "end"] = "notice"
    """A call that cannot be read, or fits no tool: `notice` tells the policy why, `end` ends the
    episode without an answer, as DeepResearcher does."""
    vital: tuple[str, ...] = ("search",)
    """Tools whose failure ends the episode as TOOL_FAILED, which nobody is blamed for; the policy
    reads of failures of the others."""
    retrieving: tuple[str, ...] = ("search", "browse")
    """Tools that are not offered where retrieval is off."""


class ToolsEnvironment:
    """One episode; it keeps nothing between turns."""

    Options: ClassVar = ToolsOptions
    calls_tools = True
    """Its model's chat template must show tools."""
    reads_cut_turns = True
    """For the answer that a turn gave before its tokens ran out."""

    def __init__(self, assignment: Assignment, options: ToolsOptions, services: Services) -> None:
        self._question = assignment.question
        self._retrieval = assignment.retrieval
        self._options = options
        self._services = services
        self._tools = {
            name: tool
            for name, tool in services.tools.items()
            if assignment.retrieval or name not in options.retrieving
        }

    def opening(self) -> Ask:
        """Asks the question; the chat template shows the tools."""
        message = self._services.wording.message(self._question, self._retrieval)
        return Ask(
            pieces=(Piece(before=message, author=Author.PROMPT),),
            tools=tuple(tool.schema for tool in self._tools.values()),
            max_tokens=self._options.max_tokens_per_turn,
            fresh=True,
        )

    async def react(self, turn: Turn) -> Reply:
        """Calls the tools, or ends with the answer or without one."""
        answer = self._answer(turn.text)
        if turn.is_cut:
            return Reply(then=End(status=Status.TRUNCATED, answer=answer))
        if answer is not None:
            return Reply(then=End(status=Status.ANSWERED, answer=answer))
        calls = parse_calls(turn.text, self._services.call_format)
        if not calls:
            return Reply(then=End(status=Status.NO_ANSWER))
        if turn.number >= self._options.max_turns:
            events = tuple(_event(call, "refused", NO_CALLS_LEFT) for call in calls)
            return Reply(then=End(status=Status.OUT_OF_TURNS), events=events)
        num_left = max(self._options.max_calls - len(turn.events), 0)
        made = await asyncio.gather(*(self._use(call, turn) for call in calls[:num_left]))
        refused = (_event(call, "refused", NO_CALLS_LEFT) for call in calls[num_left:])
        return self._reply(turn, (*made, *refused))

    def _answer(self, text: str) -> str | None:
        """The last answer that has a content, outside thoughts."""
        form = self._services.wording.dialect.answer_form(self._question.task)
        answers = [span.content for span in form.spans(acted(text)) if span.content]
        return answers[-1] if answers else None

    async def _use(self, call: ToolCall | BadCall, turn: Turn) -> ToolUse:
        if isinstance(call, BadCall):
            return _event(call, "invalid", f"The call cannot be read: {call.reason}")
        tool = self._tools.get(call.name)
        if tool is None and call.name in self._services.tools:
            return _event(call, "refused", f"{call.name} is off.", known=True)
        if tool is None:
            known = ", ".join(self._tools) or "none"
            return _event(call, "invalid", f"There is no such tool; there are: {known}.")
        if reason := misfit(tool.schema, call.arguments):
            return _event(call, "invalid", reason, known=True)
        try:
            async with asyncio.timeout(self._options.timeout_s):
                return await self._at(turn, tool).use(call.arguments, turn.transcript)
        except TimeoutError:
            return _event(call, "failed", "no reply in time", known=True)

    def _at(self, turn: Turn, tool: Tool) -> Tool:
        bind = getattr(tool, "for_turn", None)
        bound: Tool = bind(turn, self._question, self._services) if bind else tool
        return bound

    def _reply(self, turn: Turn, uses: Sequence[ToolUse]) -> Reply:
        """Makes the reply to the uses of a turn; events drop the texts, which the pieces hold."""
        events = tuple(replace(use, facts="") for use in uses)
        if any(use.outcome == "failed" and use.tool in self._options.vital for use in uses):
            return Reply(then=End(status=Status.TOOL_FAILED), events=events)
        if self._options.on_bad_call == "end" and any(use.outcome == "invalid" for use in uses):
            return Reply(then=End(status=Status.NO_ANSWER), events=events)
        limit = self._options.max_observation_tokens
        pieces = [Piece(text=_shown(use), role="tool", max_tokens=limit) for use in uses]
        num_left = self._options.max_calls - len(turn.events) - len(uses)
        if turn.number + 1 >= self._options.max_turns or num_left <= 0:
            words = self._services.wording.last_turn(self._question)
            pieces += [Piece(before=words, author=Author.INJECTED)] if words else []
        ask = Ask(pieces=tuple(pieces), max_tokens=self._options.max_tokens_per_turn)
        return Reply(then=ask, events=events)


def _event(
    call: ToolCall | BadCall, outcome: ToolOutcome, reason: str, *, known: bool = False
) -> ToolUse:
    """A call that no tool was asked."""
    if isinstance(call, ToolCall) and known:
        return ToolUse(tool=call.name, arguments=call.arguments, outcome=outcome, facts=reason)
    arguments = {} if isinstance(call, BadCall) else {"name": call.name}
    return ToolUse(tool=UNREADABLE, arguments=arguments, outcome=outcome, facts=reason)


def _shown(use: ToolUse) -> str:
    if use.outcome in ("found", "unsearchable"):
        return use.facts or "(nothing)"
    return json.dumps({"error": use.facts}, ensure_ascii=False)
