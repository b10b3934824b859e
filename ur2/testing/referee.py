"""Checks what an environment gives against what `ur2.environments.base` asks of it."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ur2.environments.base import Ask, Environment, Reply
from ur2.environments.contract import opening_breaches, reply_breaches
from ur2.environments.game import DEFAULT_ROLES, roles_of
from ur2.options import Options
from ur2.plugins import blame
from ur2.testing.hostile import FORGED


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

    def check_opening(self, ask: Any, where: str) -> Ask | None:
        """The first Ask; None where it breaks the contract, which is noted."""
        if self._broken(opening_breaches(ask, self._roles), where):
            return None
        return self._unforged(ask, where)

    def check_reply(self, reply: Any, role: str, where: str) -> Reply | None:
        """The reply to a turn of `role`; None where it breaks the contract, which is noted."""
        if self._broken(reply_breaches(reply, self._roles, role), where):
            return None
        if isinstance(reply.then, Ask):
            self._unforged(reply.then, where)
        checked: Reply = reply
        return checked

    def _broken(self, breaches: Sequence[str], where: str) -> bool:
        for breach in breaches:
            self.note(breach, where)
        return bool(breaches)

    def _unforged(self, ask: Ask, where: str) -> Ask:
        if any(FORGED in piece.before + piece.after for piece in ask.pieces):
            self.note(
                "foreign text stands in a piece's `before` or `after`, where it can forge a "
                "turn of the chat; put it into `text`",
                where,
            )
        return ask
