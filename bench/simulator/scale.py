"""How training scales from 8 to 1,024 GPUs, by mode: a simulation, checked against real runs.

    python scripts/bench/scale.py                                # makes two short real runs first
    python scripts/bench/scale.py runs=SYNC_DIR,ASYNC_DIR        # reads them instead
    python scripts/bench/scale.py experiment=smoke steps=25      # instead of quickstart and 16
    python scripts/bench/scale.py runs=none staleness=2 out=PNG  # no check, only the GPUs

The simulation runs the product's scheduling in virtual time (`simulation.py`). The check: costs are
fitted to every other step of a synchronous run on this machine, and predict its other steps and an
asynchronous run that had no part in the fit. Of the 8 to 1,024 GPUs none was there: their costs are
assumed (`h100.py`), except for those of the driver, which are measured here. Async stands beside
two ways to be synchronous: on separate halves of the GPUs, and taking turns on all of them.
"""

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from matplotlib.figure import Figure
from rich.progress import Progress

from bench.figures import tell
from bench.simulator import h100
from bench.simulator.measured_costs import measure_driver, questions
from bench.simulator.parts import DriverCosts
from bench.simulator.scale_check import in_ms, real_runs, validate
from bench.simulator.simulation import Step, simulate
from bench.simulator.worker import Scenario
from ur2.curriculum.curriculum import Curriculum
from ur2.curriculum.options import CurriculumOptions
from ur2.trainer.options import TrainerOptions

KEYS = {"runs", "experiment", "steps", "staleness", "out"}
MODES = ("sync", "one_step_off", "async")
COLOCATED = "sync, colocated"
"""Its engines and ranks have all GPUs, one after the other; in the others each half of them."""
GPUS = (8, 16, 32, 64, 128, 256, 512, 1024)
STRONG_QUESTIONS = 256
WARM_UP = 2
"""Steps that are not counted, but in mode sync: nothing is under way when the first one begins."""
MEASURED, MEASURED_SMALL = 3, 12
"""Steps that are; more where a step has few groups, so that chance weighs more."""
SMALL = 128
VARIANT_GPUS = (64, 256, 1024)
DRIVER_TOKENS = (1200, 800)
"""That the policy wrote and that it read, of the trajectories on which the driver is measured."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One mode on one number of GPUs."""

    step_s: float
    samples_per_s: float
    trainer_idle: float
    rollout_idle: float
    driver_s: float

    @classmethod
    def of(cls, steps: Sequence[Step]) -> "Cell":
        wall_s = sum(step.total_s for step in steps)
        return cls(
            step_s=wall_s / len(steps),
            samples_per_s=sum(step.num_trajectories for step in steps) / wall_s,
            trainer_idle=1.0 - sum(step.seconds["update"] for step in steps) / wall_s,
            rollout_idle=fmean(step.rollout_idle for step in steps),
            driver_s=fmean(step.seconds["advantage"] + step.seconds["report"] for step in steps),
        )


Curves = dict[tuple[str, int], Cell]
WEAK = "weak scaling: 256 trajectories per 8 GPUs"
STRONG = f"strong scaling: {STRONG_QUESTIONS * h100.SAMPLES_PER_PROMPT:,} trajectories"
UNDUMPED = "weak scaling, trainer.dump_trajectories=false"
FILES = "weak scaling, weights through files"


def main() -> None:
    if {"-h", "--help"} & set(sys.argv):
        print(__doc__)
        return
    pairs = [argument.partition("=") for argument in sys.argv[1:]]
    given = {key: value for key, _, value in pairs}
    if unknown := sorted(set(given) - KEYS):
        raise SystemExit(f"{__doc__}\nunknown: {', '.join(unknown)}")
    figures: dict[str, object] = {}
    if given.get("runs") != "none":
        figures |= validate(*real_runs(given))
    driver = measure_driver(*DRIVER_TOKENS)
    print(f"\ndriver, per trajectory of {sum(DRIVER_TOKENS) + 300:,} tokens: {in_ms(vars(driver))}")
    started = time.process_time()
    curves = all_curves(driver, int(given.get("staleness", 1)))
    for title, table in curves.items():
        show(title, table)
    path = Path(given.get("out", "runs/bench/scale.png"))
    draw(curves, path)
    print(f"\ncurves: {path}")
    figures |= {
        f"efficiency_{mode}_1024{suffix}": efficiency(table, mode, 1024)
        for table, suffix in ((curves[WEAK], ""), (curves[STRONG], "_strong"))
        for mode in MODES
    }
    figures["efficiency_async_1024_no_dumps"] = efficiency(curves[UNDUMPED], "async", 1024)
    figures |= {
        f"async_speedup_{num}{suffix}": curves[WEAK][mode, num].step_s
        / curves[WEAK]["async", num].step_s
        for num in (8, 1024)
        for mode, suffix in (("sync", ""), (COLOCATED, "_to_colocated"))
    }
    figures["simulation_s"] = time.process_time() - started
    tell("scale", {key: rounded(value) for key, value in figures.items()})


def all_curves(driver: DriverCosts, staleness: int) -> dict[str, Curves]:
    undumped = replace(driver, report_s=0.0)
    with Progress(transient=True) as bar:
        num_cells = 2 * len(GPUS) * (len(MODES) + 1) + 2 * len(VARIANT_GPUS)
        task = bar.add_task("simulating", total=num_cells)

        def curves(modes: Sequence[str], gpus: Sequence[int], **how: Any) -> Curves:
            cells: Curves = {}
            for num in gpus:
                for mode in modes:
                    cells[mode, num] = simulated(mode, num, staleness, **how)
                    bar.advance(task)
            return cells

        weak = curves((*MODES, COLOCATED), GPUS, driver=driver)
        first = {("async", GPUS[0]): weak["async", GPUS[0]]}
        return {
            WEAK: weak,
            STRONG: curves(
                (*MODES, COLOCATED), GPUS, driver=driver, num_questions=STRONG_QUESTIONS
            ),
            UNDUMPED: first | curves(("async",), VARIANT_GPUS, driver=undumped),
            FILES: first | curves(("async",), VARIANT_GPUS, driver=driver, files=True),
        }


def simulated(
    mode: str,
    num_gpus: int,
    staleness: int,
    *,
    driver: DriverCosts,
    num_questions: int | None = None,
    files: bool = False,
) -> Cell:
    num_nodes = num_gpus // h100.GPUS_PER_NODE
    size = num_questions or num_nodes * h100.QUESTIONS_PER_NODE
    measured = MEASURED_SMALL if size <= SMALL else MEASURED
    colocated, mode = mode == COLOCATED, mode.partition(",")[0]
    warm_up = 0 if mode == "sync" else WARM_UP
    options = TrainerOptions(
        steps=warm_up + measured + staleness + 1,  # steps near the last one start less
        questions_per_step=size,
        mode=mode,
        max_staleness=staleness,
    )
    scenario = Scenario(
        trainer=options,
        costs=h100.costs(num_gpus, driver, files=files, colocated=colocated),
        workload=h100.Trajectories(),
        curriculum=lambda: Curriculum(questions(4096), CurriculumOptions(), 0, size),
        num_engines=h100.num_engines(num_gpus, colocated=colocated),
        samples_per_prompt=h100.SAMPLES_PER_PROMPT,
        num_steps=warm_up + measured,
    )
    return Cell.of(simulate(scenario)[warm_up:])


def efficiency(curves: Curves, mode: str, num_gpus: int) -> float:
    """Samples per second and GPU, relative to the same mode on the fewest GPUs."""
    first = curves[mode, GPUS[0]].samples_per_s / GPUS[0]
    return curves[mode, num_gpus].samples_per_s / num_gpus / first


def show(title: str, curves: Curves) -> None:
    print(f"\n{title} (H100, 7B: assumed costs; see h100.py)")
    print(
        "| GPUs | mode | step s | samples/s | efficiency | trainer idle | engines idle | driver s |"
    )
    print("|---" * 8 + "|")
    for (mode, num), cell in curves.items():
        print(
            f"| {num} | {mode} | {cell.step_s:.1f} | {cell.samples_per_s:.1f} "
            f"| {efficiency(curves, mode, num):.2f} | {cell.trainer_idle:.2f} "
            f"| {cell.rollout_idle:.2f} | {cell.driver_s:.1f} |"
        )


def draw(curves: Mapping[str, Curves], path: Path) -> None:
    figure = Figure(figsize=(15, 5), layout="constrained")
    weak, strong, rates = figure.subplots(1, 3)
    for axes, title in ((weak, WEAK), (strong, STRONG)):
        for mode in (*MODES, COLOCATED):
            axes.plot(GPUS, [efficiency(curves[title], mode, n) for n in GPUS], "o-", label=mode)
        axes.set_title(title)
        axes.set_ylabel("samples/s per GPU, relative to 8 GPUs")
    for title, label in ((UNDUMPED, "async, no dumps"), (FILES, "async, weights in files")):
        gpus = [num for _, num in curves[title]]
        values = [efficiency(curves[title], "async", num) for num in gpus]
        weak.plot(gpus, values, "o:", label=label)
    for mode in (*MODES, COLOCATED):
        rates.plot(GPUS, [curves[WEAK][mode, n].samples_per_s for n in GPUS], "o-", label=mode)
    first = curves[WEAK]["async", GPUS[0]].samples_per_s / GPUS[0]
    rates.plot(GPUS, [first * n for n in GPUS], "k:", label="async, in proportion")
    rates.set_yscale("log", base=2)
    rates.yaxis.set_major_formatter("{x:g}")
    rates.set_ylabel("samples/s")
    rates.set_title("weak scaling: throughput")
    for axes in (weak, strong, rates):
        axes.set_xscale("log", base=2)
        axes.set_xticks(GPUS, [str(n) for n in GPUS])
        axes.set_xlabel("GPUs (but for colocated, half of them run engines)")
        axes.grid(alpha=0.3)
        axes.legend()
    for axes in (weak, strong):
        axes.set_ylim(0.0, 1.1)
    figure.suptitle("Simulated: 7B on H100, assumed costs (bench/simulator/h100.py)")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def rounded(value: object) -> object:
    return round(value, 4) if isinstance(value, float) else value
