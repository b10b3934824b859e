"""Checks what an environment gives against what `ur2.environments.base` asks of it."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ur2.environments.base import Ask, End, Environment, Reply
from ur2.environments.game import DEFAULT_ROLES, roles_of
from ur2.options import Options
from ur2.plugins import blame
from ur2.testing.hostile import FORGED
from ur2.types import Status, ToolUse


@dataclass(frozen=True, slots=True, kw_only=True)
class ContractReport:
    """Something that an environment broke."""

    findings: tuple[str, ...]
    """One sentence each; the same breach is told once."""
    num_games: int
    num_turns: int

    @property
    def ok(self) -> bool:
        """Whether it kept the contract."""
        return not self.findings

    def __str__(self) -> str:
        games = f"{self.num_games} games, {self.num_turns} turns"
        if self.ok:
            return f"nothing found in {games}"
        return "\n".join([f"{len(self.findings)} finding(s) in {games}:", *self.findings])


class Referee:
    """Notes what is wrong, once per breach."""

    def __init__(self) -> None:
        self._findings: dict[str, str] = {}
        self._roles = DEFAULT_ROLES
        self.num_games = 0
        self.num_turns = 0

    def note(self, breach: str, where: str) -> None:
        """Notes a breach, and where it was seen first."""
        self._findings.setdefault(breach, f"{breach} ({where})")

    @contextmanager
    def noting(self, what: str, where: str) -> Iterator[None]:
        """Notes whatever someone else's code raises."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 it may raise whatever it likes
            self.note(str(blame(what, error)), where)

    def report(self) -> ContractReport:
        """All that was noted."""
        findings = tuple(self._findings.values())
        return ContractReport(findings=findings, num_games=self.num_games, num_turns=self.num_turns)

    def options_of(self, kind: type[Environment], tree: Mapping[str, Any]) -> Options | None:
        """The environment's options; None where it cannot be played at all."""
        missing = [m for m in ("opening", "react") if not callable(getattr(kind, m, None))]
        if missing:
            self.note(f"there is no {' and no '.join(missing)}", "the class")
            return None
        model = getattr(kind, "Options", None)
        if not (isinstance(model, type) and issubclass(model, Options)):
            self.note("Options is no subclass of ur2.options.Options", "the class")
            return None
        with self.noting("its roles are no names", "the class"):
            self._roles = roles_of(kind)
        with self.noting("its options do not load", "the class"):
            return model.load(tree, where="options")
        return None

    def check_ask(self, ask: Any, where: str) -> Ask | None:
        """The ask, if it is one; whatever is wrong with it is noted."""
        if not isinstance(ask, Ask):
            self.note(f"{type(ask).__name__} is neither Ask nor End", where)
            return None
        if not any(piece.text or piece.before or piece.after for piece in ask.pieces):
            self.note("an Ask has nothing to read", where)
        if ask.max_tokens < 1:
            self.note(f"max_tokens is {ask.max_tokens}: the policy cannot write", where)
        if ask.choices and (len(set(ask.choices)) < max(2, len(ask.choices)) or "" in ask.choices):
            self.note(f"choices {ask.choices} are not two or more different texts", where)
        if ask.role not in self._roles:
            self.note(f"role '{ask.role}' is not among the `roles` that the class names", where)
        if not all(ask.stop_strings):
            self.note("an empty stop string ends every turn at once", where)
        for piece in ask.pieces:
            if FORGED in piece.before + piece.after:
                self.note(
                    "foreign text stands in a piece's `before` or `after`, where it can forge a "
                    "turn of the chat; put it into `text`",
                    where,
                )
        return ask

    def check_reply(self, reply: Any, where: str) -> Reply | None:
        """The reply, if it is one; whatever is wrong with it is noted."""
        if not isinstance(reply, Reply):
            self.note(f"react gave {type(reply).__name__}, not a Reply", where)
            return None
        if not all(isinstance(event, ToolUse) for event in reply.events):
            self.note("an event is no ToolUse", where)
        if not math.isfinite(reply.reward):
            self.note(f"the reward of a turn is {reply.reward}", where)
        if isinstance(reply.then, End):
            self._check_end(reply.then, where)
        elif self.check_ask(reply.then, where) is None:
            return None
        return reply

    def _check_end(self, end: End, where: str) -> None:
        if not isinstance(end.status, Status):
            self.note(f"End.status is {end.status!r}, no Status", where)
        if not isinstance(end.answer, str | None):
            self.note(f"End.answer is {type(end.answer).__name__}, neither str nor None", where)
        if end.answer is None and end.status is Status.ANSWERED:
            self.note("End says ANSWERED without an answer", where)
