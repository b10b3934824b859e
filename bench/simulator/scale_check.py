"""Simulated runs beside real ones: costs are fitted to some steps, and predict others."""

import asyncio
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

from bench.simulator.measured_costs import fit, measure_engine, replayed, step_s
from bench.simulator.real_run import RealRun, make_run
from bench.simulator.simulation import Step, simulate
from ur2.rollout.options import RolloutOptions

BUSY = 0.2
"""Processors."""
RUN_OPTIONS = (
    "rollout.samples_per_prompt=8",
    "trainer.questions_per_step=32",
    "dataset.eval=null",
    "trainer.trackers=[]",
)


def real_runs(given: Mapping[str, str]) -> tuple[RealRun, RealRun, Path]:
    """A synchronous and an asynchronous run, and the model of the first."""
    if "runs" in given:
        folders = [Path(folder) for folder in given["runs"].split(",")]
    else:
        base = Path(tempfile.mkdtemp(prefix="ur2-scale-"))
        folders = [base / mode for mode in ("sync", "async")]
        steps = given.get("steps", "16")
        for folder in folders:
            arguments = [
                f"+experiment={given.get('experiment', 'quickstart')}",
                *RUN_OPTIONS,
                f"trainer.steps={steps}",
                f"trainer.checkpoint_every={steps}",
                f"trainer.mode={folder.name}",
            ]
            make_run(folder, arguments)
    runs = {run.mode: run for run in map(RealRun.read, folders)}
    if set(runs) != {"sync", "async"}:
        raise SystemExit("scale.py: runs= wants one of mode sync and one of mode async")
    models = sorted(folders[0].glob("checkpoints/step_*/model"))
    return runs["sync"], runs["async"], models[-1]


def validate(sync: RealRun, other: RealRun, model: Path) -> dict[str, object]:
    """Prints what was predicted beside what was measured."""
    options = RolloutOptions.load(sync.config["rollout"], where="rollout")
    alone = asyncio.run(measure_engine(options, model))
    print(f"\nengine alone: {in_ms(vars(alone))}")
    steps = [int(m["step"]) for m in sync.metrics][1:]
    known, unseen = steps[::2], steps[1::2]
    costs = fit(sync, alone, known, float(len(os.sched_getaffinity(0))))
    print(f"engine beside the rest, fitted: {in_ms(vars(costs.engine))}")
    print(
        f"update {in_ms(vars(costs.update), ('fixed_s', 'token_s'))}; "
        f"sync {1e3 * (costs.publish_s + costs.load_s):.0f} ms; processors: {costs.cores:g}, in "
        f"use by rollouts {costs.rollout_demand:.2f}, by an update {costs.update_demand:.2f}"
        + ("" if sync.demand else " (nobody watched the run: assumed)")
    )
    print(
        "others on this machine used: "
        + ", ".join(f"{run.others:.2f} processors beside {run.mode}" for run in (sync, other))
    )
    if max(sync.others, other.others) > BUSY:
        print("the machine was busy: such runs cannot be predicted from one another")
    print("\n| what | real | simulated | error |\n|---|---|---|---|")
    errors = [
        compare("sync, other steps", sync, simulate(replayed(sync, costs, "sync")), unseen),
        compare("async", other, simulate(replayed(sync, costs, "async")), steps),
    ]
    return {"validation_error": max(errors), "error_sync": errors[0], "error_async": errors[1]}


def compare(label: str, run: RealRun, steps: Sequence[Step], chosen: Sequence[int]) -> float:
    """Rows of the table; the error of the mean step."""
    real = [m for m in run.metrics if m["step"] in chosen]
    simulated = [step for number, step in enumerate(steps, start=1) if number in chosen]
    rows = [
        (
            "step, s",
            fmean(step_s(m) for m in real),
            fmean(step.total_s for step in simulated),
        ),
        *(
            (
                f"{phase}, s",
                fmean(m[f"time/{phase}_s"] for m in real),
                fmean(step.seconds[phase] for step in simulated),
            )
            for phase in ("rollout", "update", "sync")
        ),
        (
            "engines without a group",
            fmean(m["idle/rollout"] for m in real),
            fmean(step.rollout_idle for step in simulated),
        ),
    ]
    for name, measured, predicted in rows:
        error = f"{predicted / measured - 1.0:+.1%}" if name.endswith(", s") else ""
        print(f"| {label}: {name} | {measured:.3f} | {predicted:.3f} | {error} |")
    return abs(rows[0][2] / rows[0][1] - 1.0)


def in_ms(seconds: Mapping[str, float], names: Sequence[str] = ()) -> str:
    chosen = names or [name for name in seconds if name.endswith("_s")]
    return ", ".join(f"{name.removesuffix('_s')} {1e3 * seconds[name]:.3g} ms" for name in chosen)
