"""Synthetic learners whose gain from retrieval is known and drifts, and an oracle that plans.

A world has buckets; the learner's state in each is its knowledge (a logit a, so that it answers
from memory right with p = p_max sigmoid(a)) and its habit of searching (a logit v, u = sigmoid(v));
one skill of using documents (a logit z, s = sigmoid(z)) is shared. Documents answer right with r.
With retrieval off a sample is right with p. With retrieval on it searches with u, `k` times, and is
then right with q = p + s (r - p); documents that are worse than memory (r < p) harm.
All three learn by the gradient of the expected correctness (REINFORCE without its noise; searches
are not priced in UR²'s rewards), from the groups as they were assigned, f being the share with
retrieval:

    a += rate_a (1 - f u s) dp/da     v += rate_v f u (1 - u) (q - p)
    z += rate_z s (1 - s) mean_buckets f u (r - p)

Counted is correct - cost x searches, in expectation, from the modes that were decided. What the
policy observes is sampled: questions differ (Beta with correlation 0.3 within a group).

The kinds: a constant gain; one that emerges once searching is learned; one that vanishes as answers
are memorised; documents that harm; hard questions that the documents do not cover; a gain
far below its price (`tiny`, `known`). Random worlds are 2 to 8 buckets of anything.

The oracle knows the world and its future: the best of the myopic rule (retrieval where it pays at
this step) and, by coordinate ascent over buckets, of all plans with retrieval on, or off, within
one interval of steps (of 10 equal parts).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ur2.curriculum.options import CurriculumOptions
from ur2.curriculum.outcome import GroupOutcome
from ur2.curriculum.retrieval_policy import POLICIES
from ur2.types import Level, Question

STEPS, GROUPS, SAMPLES, COST = 200, 32, 8, 0.02
CORRELATION = 0.3
NAMES = tuple(f"{task}/{level}" for task in ("qa", "choice", "math") for level in Level)
Array = NDArray[np.float64]
Modes = Callable[[int, "Learner"], Array]
"""(step, learner) -> share of groups with retrieval, (..., buckets)."""


@dataclass(frozen=True)
class World:
    """One entry per bucket; the kinds say what each is meant to show."""

    kinds: tuple[str, ...]
    a: Array
    p_max: Array
    rate_a: Array
    v: Array
    r: Array
    k: Array
    z: float
    rate_v: float = 0.4
    rate_z: float = 0.5


class Learner:
    """The state of one learner, or of many at once (leading axes)."""

    def __init__(self, world: World, many: int = 1) -> None:
        self.world = world
        shape = (many, len(world.kinds))
        self.a = np.broadcast_to(world.a, shape).copy()
        self.v = np.broadcast_to(world.v, shape).copy()
        self.z = np.full((many, 1), world.z)

    def rates(self) -> tuple[Array, Array, Array]:
        """p, q and u."""
        p = self.world.p_max * sigmoid(self.a)
        return p, p + sigmoid(self.z) * (self.world.r - p), sigmoid(self.v)

    def step(self, f: Array) -> tuple[Array, Array]:
        """Reward and searches per sample by bucket under modes `f`; then learns."""
        world, (p, q, u) = self.world, self.rates()
        s, searches = sigmoid(self.z), f * u * world.k
        reward = p + f * u * (q - p) - COST * searches
        self.a += world.rate_a * (1 - f * u * s) * p * (1 - sigmoid(self.a))
        self.v += world.rate_v * f * u * (1 - u) * (q - p)
        pull = (f * u * (world.r - p)).mean(axis=-1, keepdims=True)
        self.z += world.rate_z * s * (1 - s) * pull
        return reward, searches


@dataclass(frozen=True)
class Played:
    """Rewards, searches and modes of a run, (steps, buckets)."""

    rewards: Array
    searches: Array
    modes: Array


KINDS = {
    # a, p_max, rate_a, u, r, k
    "constant": (0.0, 0.9, 0.005, 0.6, 0.9, 1),
    "emerging": (-1.0, 0.3, 0.02, 0.05, 0.85, 2),
    "vanishing": (-2.0, 0.95, 0.12, 0.6, 0.85, 1),
    "harmful": (1.0, 0.8, 0.02, 0.6, 0.35, 1),
    "tiny": (1.5, 0.85, 0.01, 0.6, 0.72, 2),
    "uncovered": (-1.0, 0.45, 0.02, 0.6, 0.15, 2),
    "known": (2.5, 1.0, 0.02, 0.4, 0.9, 1),
}


def sigmoid(x: Array | float) -> Array:
    return 1 / (1 + np.exp(-np.asarray(x)))


def world_of(rows: Sequence[Sequence[float]], kinds: Sequence[str], z: float) -> World:
    a, p_max, rate_a, u, r, k = np.array(rows, dtype=float).T
    v = np.log(u / (1 - u))
    return World(tuple(kinds), a, p_max, rate_a, v, r, k, z)


def kinds_world(rng: np.random.Generator) -> World:
    """One bucket of each kind, jittered."""
    rows = []
    for a, p_max, rate_a, u, r, k in KINDS.values():
        rows.append(
            (
                a + rng.normal(0, 0.2),
                p_max,
                rate_a * rng.uniform(0.7, 1.4),
                np.clip(u * rng.uniform(0.7, 1.3), 0.02, 0.9),
                np.clip(r + rng.normal(0, 0.03), 0.05, 0.98),
                k,
            )
        )
    return world_of(rows, tuple(KINDS), z=rng.uniform(-1.5, 0.5))


def random_world(rng: np.random.Generator) -> World:
    """2 to 8 buckets of anything: no kind in mind."""
    count = int(rng.integers(2, 9))
    rows = [
        (
            rng.uniform(-3, 3),
            rng.uniform(0.2, 1.0),
            np.exp(rng.uniform(np.log(0.005), np.log(0.2))),
            rng.uniform(0.03, 0.9),
            rng.uniform(0.05, 0.98),
            rng.integers(1, 4),
        )
        for _ in range(count)
    ]
    return world_of(rows, ["random"] * count, z=rng.uniform(-2, 2))


def play(world: World, modes: Modes) -> Played:
    learner, rewards, searches, chosen = Learner(world), [], [], []
    for step in range(1, STEPS + 1):
        f = modes(step, learner)
        reward, spent = learner.step(f)
        rewards.append(reward[0])
        searches.append(spent[0])
        chosen.append(np.broadcast_to(f, reward.shape)[0])
    return Played(np.array(rewards), np.array(searches), np.array(chosen))


def play_policy(world: World, options: CurriculumOptions, seed: int) -> Played:
    """Runs the shipped policy; what it observes is sampled."""
    policy = POLICIES[options.policy](options)
    rng, noise = np.random.default_rng(seed), np.random.default_rng([seed, 1])
    count, drawn = len(world.kinds), [0]
    questions = [question(bucket, i) for bucket in NAMES[:count] for i in range(200)]

    def modes(step: int, learner: Learner) -> Array:
        p, q, u = (x[0] for x in learner.rates())
        p_on, outcomes = p + u * (q - p), []
        on, groups = np.zeros(count), np.zeros(count)
        for _ in range(GROUPS):
            bucket, asked = drawn[0] % count, drawn[0] // count % 200
            drawn[0] += 1
            chosen = questions[bucket * 200 + asked]
            retrieval, _ = policy.decide(chosen, step, rng)
            on[bucket] += retrieval
            groups[bucket] += 1
            mean = float(np.clip((p_on if retrieval else p)[bucket], 1e-3, 1 - 1e-3))
            strength = 1 / CORRELATION - 1
            chance = noise.beta(mean * strength, (1 - mean) * strength)
            outcomes.append(
                GroupOutcome(
                    question=chosen,
                    retrieval=retrieval,
                    step=step,
                    num_samples=SAMPLES,
                    num_correct=float(noise.binomial(SAMPLES, chance)),
                    num_searches=int(
                        retrieval * world.k[bucket] * noise.binomial(SAMPLES, u[bucket])
                    ),
                    reward=0.0,
                )
            )
        policy.observe(outcomes)
        return on / np.maximum(groups, 1)

    return play(world, modes)


def question(bucket: str, number: int) -> Question:
    task, level = bucket.split("/")
    return Question(
        id=f"{bucket}/{number}", task=task, text="?", answers=("!",), level=Level(level)
    )


def constant(mode: float) -> Modes:
    return lambda step, learner: np.full((1, len(learner.world.kinds)), mode)


def myopic(step: int, learner: Learner) -> Array:
    p, q, u = learner.rates()
    return (u * (q - p - COST * learner.world.k) > 0).astype(float)


def oracle(world: World) -> Played:
    """The best plan found with the world known; see the top of this file."""
    count = len(world.kinds)
    edges = np.unique(np.linspace(0, STEPS, 11).astype(int))
    plans = []
    steps = np.arange(STEPS)
    for start in edges:
        for end in edges[edges > start]:
            inside = (steps >= start) & (steps < end)
            plans += [inside, ~inside]
    candidates = np.unique(np.array(plans, dtype=float), axis=0)
    greedy = play(world, myopic)
    best_modes, best = greedy.modes, greedy.rewards.sum()
    for modes in (greedy.modes, np.ones((STEPS, count))):
        found, total = ascend(world, modes.copy(), candidates)
        if total > best:
            best_modes, best = found, total
    return play(world, lambda step, learner: best_modes[step - 1][None])


def ascend(world: World, modes: Array, candidates: Array) -> tuple[Array, float]:
    best = -np.inf
    for _ in range(3):
        before = best
        for bucket in range(len(world.kinds)):
            trials = np.concatenate([modes[:, bucket][None], candidates])
            learner, total = Learner(world, len(trials)), np.zeros(len(trials))
            for step in range(STEPS):
                f = np.tile(modes[step], (len(trials), 1))
                f[:, bucket] = trials[:, step]
                total += learner.step(f)[0].sum(axis=1)
            winner = int(total.argmax())
            modes[:, bucket], best = trials[winner], float(total[winner])
        if best <= before + 1e-9:
            break
    return modes, best


def by_difficulty(world: World) -> Modes:
    """The paper's table on levels that are measured once, before training."""
    solved = Learner(world).rates()[0][0]
    table = [(0.15, 1.0), (0.4, 5 / 7), (1.01, 0.0)]
    modes = np.array([next(mode for below, mode in table if p < below) for p in solved])
    return lambda step, learner: modes[None]
