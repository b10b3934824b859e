"""A rollout worker: one engine, and the groups that are played on it."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from functools import cache, partial

from ur2.environments.base import Branch, Knowledge
from ur2.environments.game import Game
from ur2.environments.options import EnvironmentOptions
from ur2.environments.toolbox.box import Toolbox
from ur2.errors import ComponentError
from ur2.prompts.options import PromptOptions
from ur2.prompts.render import PromptRenderer
from ur2.rollout.engines.chat import text_renderer
from ur2.rollout.engines.factory import make_engine
from ur2.rollout.engines.text import generation_eos, load_tokenizer
from ur2.rollout.episode import Players, read_ask, run_episode
from ur2.rollout.openings import make_services
from ur2.rollout.options import RolloutOptions, SamplingOptions
from ur2.rollout.tasks import gather_or_cancel
from ur2.transfer.records import Handover
from ur2.types import Assignment, Group, Status, Trajectory


class RolloutWorker:
    """Plays groups, one coroutine per trajectory; runs in any process with an event loop."""

    def __init__(self, players: Players, *, seed: int) -> None:
        """Takes the players.

        Args:
            players: the engine (not started), renderer, environments and budgets.
            seed: of the run, for seeded sampling.
        """
        self._players = players
        self._seed = seed
        self._num_lost_tokens = 0
        """Tokens of turns that were played for groups which came to nothing."""
        self._num_told_tokens = 0

    async def start(self) -> None:
        """Loads the model, and starts the servers of tools.

        Raises:
            InputError: the engine is not installed or does not know the model.
            ComponentError: it, or a server, did not come up.
        """
        await self._players.toolbox.start()
        await self._players.engine.start()

    async def run_group(
        self,
        assignment: Assignment,
        num_samples: int,
        sampling: SamplingOptions,
        first: int = 0,
        branches: Sequence[Branch] = (),
    ) -> Group:
        """Plays the episodes `first`, ..., `first + num_samples - 1` of one question, at once.

        Each is drawn at its own of `sampling.temperatures`. With `branches`, one per episode, they
        go on from the records of others, and are named after these.

        Raises:
            InputError: the question's prompt is too long.
            ComponentError: the engine died or hangs; the group's other episodes are cancelled.
            PluginError: the environment failed; they are, too.
        """
        read = cache(partial(read_ask, self._players.renderer))
        sampled: list[int] = []
        retried: list[int] = []

        async def play(index: int) -> Trajectory:
            branch = branches[index - first] if branches else None
            name = f"{branch.parent}+{index}" if branch else f"{assignment.id}/{index}"
            for tries_left in reversed(range(1 + self._players.options.tool_failed_retries)):
                trajectory = await run_episode(
                    self._players,
                    assignment,
                    sampling.of_sample(index),
                    read,
                    trajectory_id=name,
                    seed=self._seed,
                    on_sampled=sampled.append,
                    branch=branch,
                )
                if trajectory.status is not Status.TOOL_FAILED or not tries_left:
                    break
                retried.append(trajectory.num_policy_tokens)
            return trajectory

        try:
            trajectories = await gather_or_cancel(
                play(index) for index in range(first, first + num_samples)
            )
        except BaseException:  # a cancellation too
            self._num_lost_tokens += sum(sampled)
            raise
        self._num_lost_tokens += sum(retried)
        if self._players.options.engine.speaks_text:
            trajectories = [_without_tokens(trajectory) for trajectory in trajectories]
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
        """Puts the engine to sleep; limits of turns wait meanwhile."""
        self._players.timeouts.pause()
        await self._players.engine.sleep(keep_weights=keep_weights)

    async def wake(self) -> None:
        """Wakes the engine; limits of turns go on."""
        await self._players.engine.wake()
        self._players.timeouts.go_on()

    async def close(self) -> None:
        """Stops the engine and the servers of tools; safe to call twice."""
        await self._players.toolbox.close()
        await self._players.engine.close()


def _without_tokens(trajectory: Trajectory) -> Trajectory:
    """The text of a trajectory whose tokens only measured its length."""
    segments = (replace(segment, token_ids=()) for segment in trajectory.segments)
    return replace(trajectory, segments=tuple(segments))


def make_players(
    options: RolloutOptions,
    prompt: PromptOptions,
    environment: EnvironmentOptions,
    *,
    model_path: str,
    dtype: str,
    knowledge: Knowledge,
    seed: int,
    sleeps: bool = False,
    revision: str | None = None,
) -> Players:
    """Engine (not started), renderer and environments of one worker.

    Args:
        options: engine and budgets.
        prompt: dialect and texts.
        environment: the game and its options.
        model_path: a Hugging Face model folder or name, with tokenizer and chat template; for
            endpoints the served name, where the options give none.
        dtype: a torch dtype's name, e.g. `float32`.
        knowledge: where its episodes search.
        seed: of the run; workers of one run share it where sampling is seeded, and should differ
            where it is not.
        sleeps: whether the engine will be put to sleep.
        revision: of a Hugging Face name.

    Raises:
        InputError: there is no tokenizer, chat template or environment.
    """
    renderer = make_renderer(options, prompt, model_path, revision)
    engine = make_engine(
        options.engine,
        model_path=model_path,
        dtype=dtype,
        max_model_len=options.max_model_len,
        seed=seed,
        sleeps=sleeps,
        revision=revision,
        markers=renderer.wording.dialect.pairs,
    )
    game = Game.load(environment)
    toolbox = Toolbox(environment.toolbox)
    return Players(
        engine=engine,
        renderer=renderer,
        game=game,
        services=make_services(renderer, game, toolbox, knowledge),
        options=options,
        toolbox=toolbox,
    )


def make_renderer(
    options: RolloutOptions, prompt: PromptOptions, model_path: str, revision: str | None = None
) -> PromptRenderer:
    """Makes the renderer of the engine's model.

    Raises:
        InputError: the model has no tokenizer, or one without a chat template.
    """
    if options.engine.speaks_text:
        return text_renderer(prompt)
    return PromptRenderer(
        load_tokenizer(model_path, revision),
        prompt,
        generation_eos=generation_eos(model_path, revision),
    )
