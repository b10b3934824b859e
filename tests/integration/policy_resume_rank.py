"""One policy rank that saves checkpoints, or goes on from those of a group of another size.

python policy_resume_rank.py RANK WORLD_SIZE PORT FOLDER; two ranks save first, and `saved` says so.
"""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from policy_rank import LORA, Scenarios, make_batch

from ur2.algorithms.options import AlgorithmOptions
from ur2.types import Batch

BF16 = {"precision": "bf16"}
SCHEDULE = {"schedule": "linear", "warmup_steps": 3}
CRITIC = AlgorithmOptions(estimator="gae")
SAVED = {
    "stage2": {"zero_stage": 2, **SCHEDULE},
    "stage0": {"zero_stage": 0, **SCHEDULE},
    "lora": {"zero_stage": 3, "lora": LORA, **SCHEDULE},
    "bf16": {"zero_stage": 2, **BF16},
    "critic": {"zero_stage": 2, "algorithm": CRITIC},
    "unstepped": {"zero_stage": 2},
}
LOADED = {
    1: {
        "stage2": [{"zero_stage": 0}, {"zero_stage": 3}],
        "stage0": [{"zero_stage": 2}],
        "lora": [{"zero_stage": 0}],
        "bf16": [{"zero_stage": 3}],
        "critic": [{"zero_stage": 3}],
        "unstepped": [{"zero_stage": 0}],
    },
    2: {
        "stage2": [{"zero_stage": 3}],
        "stage0": [{"zero_stage": 1}],
        "lora": [{"zero_stage": 2}],
        "bf16": [{"zero_stage": 3}],
        "unstepped": [{"zero_stage": 3}],
    },
}


def batch(seed: int) -> Batch:
    """As the other scenarios have it, with values for a critic."""
    random = np.random.default_rng(seed)
    samples = make_batch(seed).samples
    return Batch(
        samples=tuple(
            replace(s, values=random.normal(size=len(s.mask)).astype(np.float32)) for s in samples
        )
    )


def save_all(run: Scenarios) -> None:
    """One update, a checkpoint, and what the next update makes of the weights."""
    for name, options in SAVED.items():
        worker = run.worker(**options)
        if name != "unstepped":
            run.update(worker, batch(1))
        worker.save(str(run.folder / f"{name}.checkpoint"))
        run.update(worker, batch(2))
        run.keep_weights(worker, f"{name}-through")


def go_on(run: Scenarios) -> None:
    """Loads each checkpoint under other options, saves it again at once, and updates."""
    for name, others in LOADED[run.world_size].items():
        for changed in others:
            worker = run.worker(**{**SAVED[name], **changed})
            worker.load(str(run.folder / f"{name}.checkpoint"))
            case = f"{name}-to-stage{changed['zero_stage']}"
            worker.save(str(run.out / f"{case}.checkpoint"))
            run.facts[case] = run.update(worker, batch(2))
            run.keep_weights(worker, case)
    for name, options in (("muon", {"optimizer": "muon"}), ("lora", {"lora": LORA})):
        worker = run.worker(**{**SAVED["stage0"], **options})
        run.attempt(
            f"refuse-{name}", lambda w=worker: w.load(str(run.folder / "stage0.checkpoint"))
        )


def main() -> None:
    """Saves or loads, by what is there."""
    rank, world_size, port = map(int, sys.argv[1:4])
    folder = Path(sys.argv[4])
    run = Scenarios(rank, world_size, port, folder)
    (go_on if (folder / "saved").exists() else save_all)(run)
    run.finish()


if __name__ == "__main__":
    main()
