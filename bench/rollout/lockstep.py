"""A lock-step rollout loop, the baseline of rollout.py: every turn waits for the slowest.

All trajectories that are still searching generate their turn as one batch; when the last is done,
all queries go out as one call, which takes as long as its slowest query (single calls at once would
take no less, and cost more); then the next turn. Prompts, documents and rules are the episodes'.
"""

import asyncio
from collections.abc import Sequence

from ur2.prompts.dialect import Search
from ur2.retrieval.client.retriever import RetrievalClient
from ur2.rollout.engines.base import Generation, GenerationRequest
from ur2.rollout.episode import Players, turn_seed
from ur2.rollout.openings import Openings
from ur2.rollout.options import SamplingOptions
from ur2.types import Assignment, RetrievalFailed


async def play_in_rounds(
    players: Players,
    client: RetrievalClient,
    groups: Sequence[Assignment],
    samples: int,
    sampling: SamplingOptions,
    *,
    seed: int,
) -> None:
    """Plays as many groups at a time as the engine decodes at once."""
    size = players.options.engine.max_num_seqs // samples
    for first in range(0, len(groups), size):
        batch = groups[first : first + size]
        await play_in_lock_step(players, client, batch, samples, sampling, seed=seed)


async def play_in_lock_step(
    players: Players,
    client: RetrievalClient,
    groups: Sequence[Assignment],
    samples: int,
    sampling: SamplingOptions,
    *,
    seed: int,
) -> list[list[Generation]]:
    """Plays all groups at once; the turns of each trajectory."""
    renderer, dialect = players.renderer, players.services.wording.dialect
    openings = Openings(renderer=renderer, game=players.game, options=players.options)
    budgets = players.game.options
    last_search = min(dialect.limits.max_searches, budgets.max_turns - 1)
    ids = [f"{group.id}/{sample}" for group in groups for sample in range(samples)]
    contexts = [
        list(openings.prompt(group.question, group.retrieval).token_ids)
        for group in groups
        for _ in range(samples)
    ]
    turns: list[list[Generation]] = [[] for _ in ids]
    active = list(range(len(ids)))
    step = 0
    while active:
        batch = await asyncio.gather(
            *(
                players.engine.generate(
                    GenerationRequest(
                        token_ids=tuple(contexts[number]),
                        max_tokens=budgets.turn_tokens("qa"),
                        temperature=sampling.temperature,
                        top_p=sampling.top_p,
                        top_k=sampling.top_k,
                        stop_strings=dialect.stop_strings,
                        stop_token_ids=renderer.stop_token_ids,
                        seed=turn_seed(seed, ids[number], step),
                    )
                )
                for number in active
            )
        )
        queries: dict[int, str] = {}
        for number, turn in zip(active, batch, strict=True):
            turns[number].append(turn)
            contexts[number].extend(turn.token_ids)
            match dialect.parse(turn.text, "qa"):
                case Search(query) if step < last_search:
                    queries[number] = query
        active = list(queries)
        if active:
            found = await client.search(list(queries.values()), 1)
            for number, passages in zip(active, found, strict=True):
                if isinstance(passages, RetrievalFailed):
                    raise RuntimeError(passages.reason)
                shown = dialect.wrap(passages)
                documents = renderer.piece(
                    shown.text,
                    before=shown.before,
                    after=shown.after,
                    max_tokens=budgets.max_observation_tokens,
                )
                contexts[number].extend(documents.token_ids)
        step += 1
    return turns
