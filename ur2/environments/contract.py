"""The contract of environments: all that is wrong with what one of them gave."""

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from ur2.environments.base import Ask, Reply
from ur2.types import Author, Status

_TYPED = ConfigDict(revalidate_instances="always", strict=True, allow_inf_nan=False)
# unions, since a plain dataclass takes no config by itself
_REPLY: TypeAdapter[Any] = TypeAdapter(Reply | None, config=_TYPED)
_ASK: TypeAdapter[Any] = TypeAdapter(Ask | None, config=_TYPED)


def opening_breaches(ask: object, roles: tuple[str, ...]) -> list[str]:
    """All that is wrong with the first Ask of an environment whose class names `roles`."""
    if not isinstance(ask, Ask):
        return [f"the opening is {ask!r:.80}, no Ask"]
    if found := _misfits(ask, _ASK):
        return found
    unopened = [] if ask.fresh else ["the opening begins a context, but its Ask is not fresh"]
    return [*unopened, *_breaches(ask, roles, ask.role)]


def reply_breaches(reply: object, roles: tuple[str, ...], role: str) -> list[str]:
    """All that is wrong with a reply to a turn of `role`."""
    if not isinstance(reply, Reply):
        return [f"react gave {reply!r:.80}, no Reply"]
    if found := _misfits(reply, _REPLY):
        return found
    if isinstance(reply.then, Ask):
        return list(_breaches(reply.then, roles, role))
    is_empty = reply.then.status is Status.ANSWERED and reply.then.answer is None
    return ["an End says ANSWERED without an answer"] if is_empty else []


def _misfits(found: Ask | Reply, fields: TypeAdapter[Any]) -> list[str]:
    """Values that are not of the types that the records name."""
    try:
        fields.validate_python(found)
    except ValidationError as error:
        problems = error.errors(include_url=False)
        # an Ask is no End, which is no news where the Ask itself is wrong
        news = [p for p in problems if p["loc"] not in (("then", "Ask"), ("then", "End"))]
        return list(map(_told, news)) or [f"`then` is {problems[0]['input']!r:.80}, no Ask or End"]
    return []


def _told(problem: Mapping[str, Any]) -> str:
    place, message = ".".join(map(str, problem["loc"])), problem["msg"]
    return f"{place}: {message[0].lower()}{message[1:]}, got {problem['input']!r:.80}"


def _breaches(ask: Ask, roles: tuple[str, ...], role: str) -> Iterator[str]:
    """Faults of an Ask, all of whose values are of the right types, after a turn of `role`."""
    if not any(piece.text or piece.before or piece.after for piece in ask.pieces):
        yield "an Ask has nothing to read: give it a piece with text"
    if ask.role not in roles:
        yield (
            f"role '{ask.role}' is not among the `roles` that the class names, {', '.join(roles)}"
        )
    if not ask.fresh and ask.role != role:
        yield (
            f"a context goes on under another role than began it: an Ask of '{ask.role}' continues "
            f"that of '{role}', which is one training sample; make it fresh, or keep the role"
        )
    if not ask.fresh and any(piece.author is Author.PROMPT for piece in ask.pieces):
        yield "a piece of author PROMPT continues a context: make the Ask fresh, or leave it out"
    if not ask.fresh and ask.tools:
        yield "only a fresh Ask shows tools"
    said = [piece.role == "tool" for piece in ask.pieces]
    if said != sorted(said, reverse=True) or (ask.fresh and any(said)):
        yield "replies of tools come first among the pieces that continue a context"
    if ask.choices and (len(set(ask.choices)) < max(2, len(ask.choices)) or "" in ask.choices):
        yield f"choices {ask.choices!r:.80} are not two or more different texts"
