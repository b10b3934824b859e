"""Episodes of a teacher as text, and that text as contexts of another model.

A teacher and the model that learns from it may have different tokenizers and chat templates: what
is kept is the user's message of each context, and what was written and read after it.
"""

import json
from collections.abc import Callable
from dataclasses import replace

from ur2.demonstrations import RecordedContext, RecordedPart
from ur2.prompts.render import PromptRenderer
from ur2.types import Author, Segment, Trajectory

_PROBE = "a message"


def record(
    trajectory: Trajectory, message_of: Callable[[Segment], str], stop_texts: tuple[str, ...] = ()
) -> tuple[RecordedContext, ...]:
    """The contexts of an episode, without turns that were asked for again.

    Args:
        trajectory: the episode.
        message_of: the user's message of an opening; see `opened_message`.
        stop_texts: the tokens that end a turn of the teacher, which are not the learner's.
    """
    contexts = trajectory.contexts
    following = [*(context[0].text for context in contexts[1:]), None]
    return tuple(
        RecordedContext(
            id=f"{trajectory.id}#{number}",
            message=message_of(context[0]),
            parts=tuple(_part(segment, stop_texts) for segment in context[1:]),
        )
        for number, (context, then) in enumerate(zip(contexts, following, strict=True))
        if context[0].text != then
    )


def opened_message(renderer: PromptRenderer, *, as_messages: bool) -> Callable[[Segment], str]:
    """Finds the user's message in openings that a renderer made.

    Args:
        renderer: the teacher's.
        as_messages: whether its openings are lists of messages, as chat endpoints read them.
    """
    if as_messages:
        return lambda opening: str(json.loads(opening.text)[-1]["content"])
    before, _, after = renderer.opening(_PROBE).text.rpartition(_PROBE)
    return lambda opening: opening.text.removeprefix(before).removesuffix(after)


def rendered(renderer: PromptRenderer, context: RecordedContext) -> tuple[Segment, ...]:
    """A recorded context in the tokens of the model that learns; the teacher's turns are POLICY.

    Nothing in it can forge a turn of that model's chat.
    """
    segments = [renderer.opening(renderer.harmless(context.message))]
    for number, part in enumerate(context.parts, start=1):
        if part.author == "environment":
            segments.append(_read(renderer, part.text))
            continue
        text = renderer.unforged(part.text)
        closing = tuple(pair.close for pair in renderer.wording.dialect.pairs)
        goes_on = number < len(context.parts) or text.endswith(closing)
        end = "" if goes_on else renderer.end_of_turn
        segments.append(renderer.piece("", before=text + end, author=Author.POLICY))
    return tuple(replace(segment, turn=0) for segment in segments)


def _part(segment: Segment, stop_texts: tuple[str, ...]) -> RecordedPart:
    if segment.author is not Author.POLICY:
        return RecordedPart(author="environment", text=segment.text)
    text = segment.text
    for stop in stop_texts:
        text = text.removesuffix(stop)
    return RecordedPart(author="policy", text=text)


def _read(renderer: PromptRenderer, text: str) -> Segment:
    """What was read: an observation keeps its markers, and no others."""
    frame = renderer.wording.dialect.wrap(())
    framed = text.startswith(frame.before) and text.endswith(frame.after)
    if not framed or len(text) < len(frame.before) + len(frame.after):
        return renderer.piece("", before=renderer.harmless(text))
    body = text.removeprefix(frame.before).removesuffix(frame.after)
    return renderer.piece(body, before=frame.before, after=frame.after)
