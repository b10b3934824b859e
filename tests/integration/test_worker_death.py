"""A rollout worker that is killed in the middle of its groups: real ray, real processes."""

import contextlib
import os
import signal

import psutil
import pytest

from ur2.assembly.workers import NoRetriever, make_rollouts
from ur2.config.load import compose
from ur2.trainer.cluster.ray_cluster import Cluster
from ur2.types import Assignment, Group, Level, Question

pytestmark = pytest.mark.slow


def assignments() -> list[Assignment]:
    return [
        Assignment(
            id=f"000001-{i:04d}",
            question=Question(
                id=f"q{i}", task="qa", text=f"What is {i}?", answers=("?",), level=Level.EASY
            ),
            retrieval=False,
            reason="test",
            step=1,
        )
        for i in range(6)
    ]


def workers() -> list[psutil.Process]:
    found = []
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # a zombie, too
            if "RolloutProcess" in " ".join(child.cmdline()):
                found.append(child)
    return found


def sampled(groups: list[Group]) -> list[tuple[str, list[int]]]:
    return [(t.id, t.token_ids) for group in groups for t in group.trajectories]


@pytest.mark.parametrize("tiny_model", [False], indirect=True)
async def test_groups_of_a_killed_worker_are_played_again_with_the_same_tokens(
    tiny_model: str,
) -> None:
    options = compose(
        [
            "+experiment=smoke",
            "engine=hf",
            f"model.path={tiny_model}",
            "rollout.num_workers=2",
            "rollout.engine.max_num_seqs=4",  # a group at a time
            "environment.search.max_tokens_per_turn=60",
            "rollout.sampling.seeded=true",
        ]
    )
    cluster = Cluster(options.cluster)
    try:
        seats = await cluster.reserve(num_engines=2)
        pool = make_rollouts(options, cluster, NoRetriever(), seats.engines, dtype="float32")
        await pool.start()
        undisturbed = await pool.collect(assignments(), 4, options.rollout.sampling)
        before = {process.pid for process in workers()}
        assert len(before) == 2
        alive = set(before)

        def kill_one(_: Group) -> None:
            while len(alive) == 2:
                os.kill(alive.pop(), signal.SIGKILL)

        again = await pool.collect(assignments(), 4, options.rollout.sampling, on_group=kill_one)
        assert sampled(again) == sampled(undisturbed)
        after = {process.pid for process in workers()}
        assert len(after) == 2
        assert len(after & before) == 1
    finally:
        await cluster.close()
