"""A turn that is one of given strings, sampled token by token among what they leave.

A turn is over when a choice is complete, without a token that ends it. Where all choices that are
still possible go on with the same token, it is written without being sampled: its probability is 1.
"""

import zlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Protocol

from ur2.errors import ComponentError, InputError
from ur2.rollout.engines.base import Generation, GenerationRequest
from ur2.types import Author, Segment, version_runs


class TurnRenderer(Protocol):
    """How a turn that is known beforehand gets its tokens."""

    def piece(self, text: str, *, before: str, author: Author) -> Segment:
        """Renders `before` as it is, as what continues a context."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """The strings, and their tokens as they continue a context."""

    texts: tuple[str, ...]
    token_ids: tuple[tuple[int, ...], ...]

    @property
    def max_tokens(self) -> int:
        """Tokens of the longest one."""
        return max(map(len, self.token_ids))

    def next_ids(self, written: tuple[int, ...]) -> tuple[int, ...]:
        """The ids that may follow what is written; none where a choice is complete."""
        return tuple(
            sorted(
                {
                    ids[len(written)]
                    for ids in self.token_ids
                    if len(ids) > len(written) and ids[: len(written)] == written
                }
            )
        )

    def allowed(self, token_ids: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
        """The ids that each token of a choice is drawn among."""
        return tuple(self.next_ids(token_ids[:place]) for place in range(len(token_ids)))


def read_choices(texts: tuple[str, ...], renderer: TurnRenderer) -> Choices:
    """The tokens of strings, at least two, of which none begins another.

    Raises:
        InputError: they are too few, or one cannot be told from another.
    """
    if isinstance(texts, str) or len(texts) < 2:
        raise InputError(f"Ask.choices {texts!r}: give two strings or more")
    turns = [renderer.piece("", before=text, author=Author.POLICY) for text in texts]
    choices = Choices(texts=tuple(texts), token_ids=tuple(turn.token_ids for turn in turns))
    for place, ids in enumerate(choices.token_ids):
        for other, longer in enumerate(choices.token_ids):
            if place != other and longer[: len(ids)] == ids:
                raise InputError(
                    f"Ask.choices: {texts[place]!r} begins {texts[other]!r} (its tokens are "
                    f"{list(ids)}, and {list(longer)}), so that nothing tells where a turn ends; "
                    "end each with a mark of its own, e.g. a line break"
                )
    return choices


async def choose(
    generate: Callable[[GenerationRequest], Awaitable[Generation]],
    request: GenerationRequest,
    choices: Choices,
) -> Generation:
    """Samples one of the choices.

    Each draw is under the request's temperature among all that is possible, whatever `top_p` and
    `top_k` are: the policy is trained under the same distribution.

    Raises:
        ComponentError: the engine sampled something else.
    """
    written: tuple[int, ...] = ()
    logprobs: list[float] = []
    versions: list[int] = []
    while next_ids := choices.next_ids(written):
        if len(next_ids) == 1:
            written, logprobs = (*written, *next_ids), [*logprobs, 0.0]
            continue
        drawn = await generate(_step(request, written, next_ids))
        if len(drawn.token_ids) != 1 or drawn.token_ids[0] not in next_ids:
            raise ComponentError(
                f"the engine was to sample one of the token ids {list(next_ids)}, and sampled "
                f"{list(drawn.token_ids)}; an endpoint must know `allowed_token_ids`, as "
                "`vllm serve` does"
            )
        written, logprobs = (*written, *drawn.token_ids), [*logprobs, *drawn.logprobs]
        # tokens that were not sampled are of the weights that sampled the next one, or the last
        versions += [drawn.weight_versions[0].version] * (len(written) - len(versions))
    versions += versions[-1:] * (len(written) - len(versions))
    return Generation(
        token_ids=written,
        logprobs=tuple(logprobs),
        text=choices.texts[choices.token_ids.index(written)],
        finish="stop",
        weight_versions=version_runs(versions),
        allowed=choices.allowed(written),
    )


def _step(
    request: GenerationRequest, written: tuple[int, ...], next_ids: tuple[int, ...]
) -> GenerationRequest:
    """One draw of its own; each has its own seed, lest all take the same quantile."""
    seed = request.seed
    return replace(
        request,
        token_ids=request.token_ids + written,
        max_tokens=1,
        top_p=1.0,
        top_k=0,
        stop_strings=(),
        stop_token_ids=(),
        allowed_token_ids=next_ids,
        seed=None if seed is None else zlib.crc32(f"{seed}/{len(written)}".encode()),
    )
