"""The adaptive retrieval policy against learners whose gain from retrieval is known and drifts.

    python scripts/bench/curriculum.py [out=FILE.png] [seeds=20] [worlds=30]

The learners, the kinds of buckets and the oracle are described in learners.py. `static` is the
paper's table on levels measured once, before training.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import numpy as np
from matplotlib.figure import Figure

from bench.curriculum.learners import (
    COST,
    STEPS,
    Array,
    Learner,
    Played,
    World,
    by_difficulty,
    constant,
    kinds_world,
    oracle,
    play,
    play_policy,
    random_world,
    sigmoid,
)
from bench.figures import tell
from ur2.curriculum.options import CurriculumOptions


@dataclass(frozen=True)
class Compared:
    """One world under every policy."""

    world: World
    played: dict[str, Played]

    def reward_share(self, name: str) -> float:
        return self.played[name].rewards.sum() / self.played["oracle"].rewards.sum()

    def search_share(self, name: str) -> float:
        return self.played[name].searches.sum() / self.played["always"].searches.sum()

    def regret(self, name: str) -> Array:
        """Reward lost to the oracle so far, per sample of one bucket, (steps,)."""
        lost = self.played["oracle"].rewards - self.played[name].rewards
        return lost.mean(axis=1).cumsum()


def compare(world: World, options: CurriculumOptions, seed: int) -> Compared:
    return Compared(
        world,
        {
            "adaptive": play_policy(world, options, seed),
            "always": play(world, constant(1.0)),
            "static": play(world, by_difficulty(world)),
            "never": play(world, constant(0.0)),
            "oracle": oracle(world),
        },
    )


def main() -> None:
    given = dict(argument.split("=", 1) for argument in sys.argv[1:])
    options = CurriculumOptions(policy="adaptive", cost_per_search=COST)
    kinds = [
        compare(kinds_world(np.random.default_rng(seed)), options, seed)
        for seed in range(int(given.get("seeds", 20)))
    ]
    anything = [
        compare(random_world(np.random.default_rng([seed, 7])), options, seed)
        for seed in range(int(given.get("worlds", 30)))
    ]
    show("one bucket of each kind", kinds)
    show_kinds(kinds)
    show("random worlds", anything)
    show_worst(anything)
    path = Path(given.get("out", "runs/bench/curriculum.png"))
    draw(kinds, path)
    print(f"curves: {path}")
    figures = {
        "oracle_share": fmean(one.reward_share("adaptive") for one in kinds),
        "oracle_share_min": min(one.reward_share("adaptive") for one in kinds),
        "search_share": fmean(one.search_share("adaptive") for one in kinds),
        "search_share_max": max(one.search_share("adaptive") for one in kinds),
        "oracle_search_share": fmean(one.search_share("oracle") for one in kinds),
        "always_oracle_share": fmean(one.reward_share("always") for one in kinds),
        "static_oracle_share": fmean(one.reward_share("static") for one in kinds),
        "never_oracle_share": fmean(one.reward_share("never") for one in kinds),
        "random_oracle_share": fmean(one.reward_share("adaptive") for one in anything),
        "random_oracle_share_min": min(one.reward_share("adaptive") for one in anything),
        "random_search_share": fmean(one.search_share("adaptive") for one in anything),
        "random_oracle_search_share": fmean(one.search_share("oracle") for one in anything),
    }
    rounded = {name: round(value, 4) for name, value in figures.items()}
    tell("curriculum", {"seeds": len(kinds), **rounded})


def show(title: str, compared: Sequence[Compared]) -> None:
    print(f"\n{title}: {len(compared)} worlds; mean [lowest, highest]")
    print("| policy | share of the oracle's reward | searches, share of always |")
    print("|---|---|---|")
    for name in compared[0].played:
        print(
            f"| {name} | {spread([one.reward_share(name) for one in compared])} "
            f"| {spread([one.search_share(name) for one in compared])} |"
        )


def spread(values: Sequence[float]) -> str:
    return f"{fmean(values):.3f} [{min(values):.3f}, {max(values):.3f}]"


def show_kinds(compared: Sequence[Compared]) -> None:
    """Where each kind of bucket stands: reward against the oracle's, and share of groups on."""
    print("\n| kind | adaptive | always | static | never | on: adaptive | on: oracle |")
    print("|---" * 7 + "|")
    for place, kind in enumerate(compared[0].world.kinds):
        rewards = {
            name: sum(one.played[name].rewards[:, place].sum() for one in compared)
            for name in compared[0].played
        }
        shares = [rewards[n] / rewards["oracle"] for n in ("adaptive", "always", "static", "never")]
        on = [
            fmean(one.played[name].modes[:, place].mean() for one in compared)
            for name in ("adaptive", "oracle")
        ]
        print(f"| {kind} | {' | '.join(f'{value:.3f}' for value in (*shares, *on))} |")


def show_worst(compared: Sequence[Compared]) -> None:
    """The buckets that lost most in the three worlds where `adaptive` does worst."""
    print("\nwhere it does worst: world, bucket's share of the loss, and what the bucket is")
    for one in sorted(compared, key=lambda one: one.reward_share("adaptive"))[:3]:
        lost = (one.played["oracle"].rewards - one.played["adaptive"].rewards).sum(axis=0)
        place = int(lost.argmax())
        p, _, u = (values[0, place] for values in Learner(one.world).rates())
        on = [one.played[name].modes[:, place].mean() for name in ("adaptive", "oracle")]
        print(
            f"  {one.reward_share('adaptive'):.3f} of the oracle, {len(lost)} buckets: "
            f"{lost[place] / lost.sum():.0%} lost where p={p:.2f} u={u:.2f} "
            f"r={one.world.r[place]:.2f} k={one.world.k[place]:.0f} s={sigmoid(one.world.z):.2f}; "
            f"on {on[0]:.2f} of the time, oracle {on[1]:.2f}"
        )


def draw(compared: Sequence[Compared], path: Path) -> None:
    """Regret, searches, and the modes by kind."""
    steps = np.arange(1, STEPS + 1)
    figure = Figure(figsize=(15, 4.2), layout="constrained")
    regret, searches, modes = figure.subplots(1, 3)
    for name in ("adaptive", "always", "static", "never"):
        curves = np.array([one.regret(name) for one in compared])
        (line,) = regret.plot(steps, curves.mean(axis=0), label=name)
        low, high = np.quantile(curves, [0.1, 0.9], axis=0)
        regret.fill_between(steps, low, high, alpha=0.15, color=line.get_color())
    for name in ("oracle", "adaptive", "always", "static"):
        spent = np.mean([one.played[name].searches.mean(axis=1) for one in compared], axis=0)
        searches.plot(steps, spent, label=name)
    for place, kind in enumerate(compared[0].world.kinds):
        for name, style in (("adaptive", "-"), ("oracle", ":")):
            on = np.mean([one.played[name].modes[:, place] for one in compared], axis=0)
            modes.plot(steps, on, style, color=f"C{place}", label=kind if style == "-" else None)
    regret.set_title(f"regret so far, mean and 10-90% of {len(compared)} seeds")
    searches.set_title("searches per sample")
    modes.set_title("share of groups with retrieval (dotted: oracle)")
    for axes in (regret, searches, modes):
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
