"""A rollout worker: one engine, and the groups that are played on it."""

import asyncio

from ur2.errors import ComponentError, InputError
from ur2.prompts.dialect import Dialect
from ur2.prompts.options import PromptOptions
from ur2.prompts.render import PromptRenderer
from ur2.rollout.engines.factory import make_engine
from ur2.rollout.engines.text import generation_eos, load_tokenizer
from ur2.rollout.episode import Players, run_episode
from ur2.rollout.options import RolloutOptions, SamplingOptions
from ur2.rollout.search import Knowledge
from ur2.rollout.tasks import gather_or_cancel
from ur2.transfer.records import Handover
from ur2.types import Assignment, Group


class RolloutWorker:
    """Plays groups, one coroutine per trajectory; runs in any process with an event loop."""

    def __init__(self, players: Players, *, seed: int) -> None:
        """Checks the budgets; `start` loads the model.

        Args:
            players: the engine (not started), renderer, knowledge and budgets.
            seed: of the run, for seeded sampling.

        Raises:
            InputError: no document fits into an observation.
        """
        limit = players.options.max_observation_tokens
        num_tokens = len(players.renderer.documents((), max_tokens=1).token_ids)
        if num_tokens >= limit:
            raise InputError(
                f"rollout.max_observation_tokens={limit}: the markers alone take {num_tokens}; "
                "raise it"
            )
        self._players = players
        self._seed = seed
        self._num_lost_tokens = 0
        """Of turns that were played for groups which came to nothing."""
        self._num_told_tokens = 0

    async def start(self) -> None:
        """Loads the model.

        Raises:
            InputError: the engine is not installed or does not know the model.
            ComponentError: it did not come up.
        """
        await self._players.engine.start()

    async def run_group(
        self, assignment: Assignment, num_samples: int, sampling: SamplingOptions, first: int = 0
    ) -> Group:
        """Plays the episodes `first`, ..., `first + num_samples - 1` of one question, all at once.

        Raises:
            ComponentError: the engine died or hangs; the group's other episodes are cancelled.
        """
        prompt = self._players.renderer.prompt(assignment.question, assignment.retrieval)
        sampled: list[int] = []
        try:
            trajectories = await gather_or_cancel(
                run_episode(
                    self._players,
                    assignment,
                    prompt,
                    sampling,
                    trajectory_id=f"{assignment.id}/{index}",
                    seed=self._seed,
                    on_sampled=sampled.append,
                )
                for index in range(first, first + num_samples)
            )
        except BaseException:  # a cancellation too
            self._num_lost_tokens += sum(sampled)
            raise
        return Group(assignment=assignment, trajectories=tuple(trajectories))

    async def take_lost_tokens(self) -> int:
        """Tokens sampled since the last call for groups that were given up or failed."""
        total = self._num_lost_tokens + self._players.engine.num_abandoned_tokens
        lost, self._num_told_tokens = total - self._num_told_tokens, total
        return lost

    async def take_writing_s(self) -> float:
        """Seconds since the last call in which the engine had a turn to write."""
        return self._players.busy.take_s()

    async def take(self, handover: Handover, version: int) -> None:
        """Gives the engine weights, under the label `version`, or the channel for them.

        Raises:
            ComponentError: they do not fit, or the engine did not take them in time.
        """
        timeout_s = self._players.options.update_timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                await self._players.engine.take(handover, version)
        except TimeoutError as error:
            raise ComponentError(
                f"the engine did not take weights {version} within {timeout_s:g} s"
            ) from error

    async def sleep(self, keep_weights: bool) -> None:
        """See `Engine.sleep`."""
        self._players.timeouts.pause()
        await self._players.engine.sleep(keep_weights=keep_weights)

    async def wake(self) -> None:
        """See `Engine.wake`."""
        await self._players.engine.wake()
        self._players.timeouts.go_on()

    async def close(self) -> None:
        """Stops the engine; safe to call twice."""
        await self._players.engine.close()


def make_players(
    options: RolloutOptions,
    prompt: PromptOptions,
    *,
    model_path: str,
    dtype: str,
    knowledge: Knowledge,
    seed: int,
    sleeps: bool = False,
    revision: str | None = None,
) -> Players:
    """Engine (not started), renderer and knowledge of one worker.

    Args:
        options: engine and budgets.
        prompt: dialect and texts.
        model_path: a Hugging Face model folder or name, with tokenizer and chat template.
        dtype: a torch dtype's name, e.g. `float32`.
        knowledge: where its episodes search.
        seed: of the run; workers of one run share it where sampling is seeded, and should differ
            where it is not.
        sleeps: whether the engine will be put to sleep.
        revision: of a Hugging Face name.

    Raises:
        InputError: there is no tokenizer or chat template, or a budget holds nothing.
    """
    renderer = PromptRenderer(
        load_tokenizer(model_path, revision),
        Dialect(prompt.protocol),
        prompt,
        max_prompt_tokens=options.max_prompt_tokens,
        generation_eos=generation_eos(model_path, revision),
    )
    engine = make_engine(
        options.engine,
        model_path=model_path,
        dtype=dtype,
        max_model_len=options.max_model_len,
        seed=seed,
        sleeps=sleeps,
        revision=revision,
    )
    return Players(engine=engine, renderer=renderer, knowledge=knowledge, options=options)
