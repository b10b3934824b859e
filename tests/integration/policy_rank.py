"""One policy rank that works through scenarios and leaves what happened in a folder.

python policy_rank.py RANK WORLD_SIZE PORT FOLDER, with model folders `untied` and `tied` in FOLDER.
Every group of ranks is started once, since a start costs seconds.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from safetensors.torch import save_file

from ur2.algorithms.options import AlgorithmOptions
from ur2.errors import InputError, NotFiniteError
from ur2.policy.batch.packing import plan
from ur2.policy.options import PolicyOptions
from ur2.policy.worker import PolicyWorker
from ur2.transfer.records import WeightFolder
from ur2.types import Batch, Sample

VOCAB = 64
BASE = {"learning_rate": 0.01, "adam_eps": 1e-3, "max_grad_norm": 0.05, "weight_decay": 0.1}
TEMPERATURE = 0.8
LORA = {"rank": 4, "alpha": 8.0}


def make_batch(seed: int, num_samples: int = 11) -> Batch:
    """Samples of uneven length with documents in between; some have nothing to train on."""
    random = np.random.default_rng(seed)
    samples = []
    for number in range(num_samples):
        length = int(random.integers(6, 40))
        mask = random.random(length) < 0.5
        mask[:3] = False
        mask[length // 2 : length // 2 + 3] = False
        mask[-1] = number != 4
        if number == 4:
            mask[:] = False
        samples.append(
            Sample(
                id=f"sample-{number}",
                token_ids=random.integers(0, VOCAB, length),
                mask=mask,
                advantages=np.where(mask, random.normal(size=length), 99.0).astype(np.float32),
                sampler_logprobs=np.where(mask, -4.0 + random.normal(size=length) / 9, 0.0).astype(
                    np.float32
                ),
            )
        )
    return Batch(samples=tuple(samples))


def poisoned(batch: Batch) -> Batch:
    """The batch with an advantage that is not a number in `sample-3`."""
    bad = batch.samples[3]
    advantages = np.where(bad.mask, np.nan, bad.advantages).astype(np.float32)
    broken = Sample(
        id=bad.id,
        token_ids=bad.token_ids,
        mask=bad.mask,
        advantages=advantages,
        sampler_logprobs=bad.sampler_logprobs,
    )
    return Batch(samples=(*batch.samples[:3], broken, *batch.samples[4:]))


class Scenarios:
    """Runs them on this rank; rank 0 writes what came out."""

    def __init__(self, rank: int, world_size: int, port: int, folder: Path) -> None:
        self.rank, self.world_size, self.port = rank, world_size, port
        self.folder = folder
        self.out = folder / f"world{world_size}"
        self.facts: dict[str, object] = {}
        self.workers: list[PolicyWorker] = []

    def worker(self, model: str = "untied", algorithm: AlgorithmOptions | None = None, **options):
        """A worker with everything loaded."""
        worker = PolicyWorker(
            PolicyOptions.load({**BASE, "num_ranks": self.world_size, **options}, where="policy"),
            algorithm or AlgorithmOptions(),
            str(self.folder / model),
            self.rank,
            self.world_size,
            TEMPERATURE,
            20,
        )
        worker.setup("127.0.0.1", self.port)
        self.workers.append(worker)
        return worker

    def update(self, worker: PolicyWorker, batch: Batch) -> dict[str, float]:
        """One batch, split as the trainer does it."""
        shares = plan(
            batch,
            num_updates=worker.options.updates_per_rollout,
            num_ranks=self.world_size,
            max_tokens_per_microbatch=worker.options.max_tokens_per_microbatch,
        )
        return worker.update(shares.for_rank(self.rank), worker.steps_done + 1)

    def keep_weights(self, worker: PolicyWorker, name: str) -> None:
        """Writes the weights as `name`."""
        parts = [dict(part) for part in worker.engine.weights(1 << 20)]
        if self.rank == 0:
            save_file({k: v for part in parts for k, v in part.items()}, self.out / name)

    def train(self, name: str, **options) -> PolicyWorker:
        """Two updates; keeps the weights and the metrics of both."""
        worker = self.worker(**options)
        self.facts[name] = [self.update(worker, make_batch(seed)) for seed in (1, 2)]
        self.keep_weights(worker, name)
        return worker

    def refuse(self, name: str, **options) -> None:
        """A batch that is not finite, then a good one."""
        worker = self.worker(**options)
        self.keep_weights(worker, f"{name}-before")
        try:
            self.update(worker, poisoned(make_batch(1)))
        except NotFiniteError as error:
            self.facts[name] = [str(error), *error.sample_ids]
        self.keep_weights(worker, f"{name}-after")
        self.update(worker, make_batch(1))
        self.update(worker, make_batch(2))
        self.keep_weights(worker, f"{name}-continued")

    def resume(self, name: str, **options) -> None:
        """Steps through and with a save and load in between."""
        worker = self.worker(**options)
        self.update(worker, make_batch(1))
        worker.save(str(self.out / f"{name}.checkpoint"))
        self.update(worker, make_batch(2))
        self.keep_weights(worker, f"{name}-through")
        other = self.worker(**options)
        other.load(str(self.out / f"{name}.checkpoint"))
        self.facts[name] = [self.update(other, make_batch(2))]
        self.keep_weights(other, f"{name}-resumed")

    def hand_over(self, name: str, **options) -> None:
        """Publishes and exports after an update, with the log-probabilities of the moment."""
        worker = self.worker(**options)
        self.update(worker, make_batch(1))
        worker.give(WeightFolder(str(self.out / f"{name}.published")), 7)
        worker.export(str(self.out / f"{name}.exported"))
        self.facts[name] = [x.tolist() for x in worker.logprobs(make_batch(5).samples)]

    def adapt(self, name: str, **options) -> None:
        """Adapters trained against a divergence; the reference is what training started from."""
        algorithm = AlgorithmOptions(kl_coef=0.1)
        worker = self.worker(algorithm=algorithm, lora=LORA, **options)
        before = worker.reference_logprobs(make_batch(5).samples)
        metrics = [self.update(worker, make_batch(seed)) for seed in (1, 2)]
        after = worker.reference_logprobs(make_batch(5).samples)
        self.facts[name] = {
            "kl": [m["policy/kl_reference"] for m in metrics],
            "reference": [x.tolist() for x in before],
            "reference_moved": max(
                float(np.abs(a - b).max()) for a, b in zip(before, after, strict=True)
            ),
        }
        self.keep_weights(worker, name)

    def attempt(self, name: str, action: Callable[[], object]) -> None:
        """Keeps the message of an action that is refused."""
        try:
            action()
        except InputError as error:
            self.facts[name] = str(error)

    def finish(self) -> None:
        """Leaves the facts and the process group."""
        if self.rank == 0:
            (self.out / "facts.json").write_text(json.dumps(self.facts))
        self.workers[-1].close()


def one_rank(run: Scenarios) -> None:
    """What needs no company."""
    for stage in (0, 2, 3):
        run.train(f"stage{stage}", zero_stage=stage)
    run.train("three-updates", zero_stage=0, updates_per_rollout=3)
    run.train("muon", zero_stage=0, optimizer="muon")
    run.train("lora-stage2", zero_stage=2, lora=LORA)
    run.resume("resume-muon", zero_stage=0, optimizer="muon", schedule="cosine", warmup_steps=3)


def two_ranks(run: Scenarios) -> None:
    """What sharding must not change."""
    for stage in (0, 1, 2, 3):
        run.train(f"stage{stage}", zero_stage=stage)
    run.train("small-microbatches", zero_stage=2, max_tokens_per_microbatch=30)
    run.train("small-chunks", zero_stage=3, max_tokens_per_microbatch=60, logprob_chunk_tokens=7)
    run.train("recomputed", zero_stage=3, gradient_checkpointing=True)
    run.train("three-updates", zero_stage=2, updates_per_rollout=3, max_tokens_per_microbatch=60)
    run.train("muon", zero_stage=0, optimizer="muon", max_tokens_per_microbatch=60)
    for stage in (0, 2, 3):
        run.train(f"bf16-stage{stage}", zero_stage=stage, precision="bf16")
        run.refuse(f"refuse-stage{stage}", zero_stage=stage)
    for reduction in ("seq_mean_token_mean", "seq_mean_token_sum_norm"):
        algorithm = AlgorithmOptions(reduction=reduction, correction="tis", correction_cap=1.05)
        run.train(reduction, algorithm=algorithm, max_tokens_per_microbatch=60)
    for stage in (2, 3):
        run.resume(f"resume-stage{stage}", zero_stage=stage, schedule="linear", warmup_steps=3)
        run.hand_over(f"untied-stage{stage}", zero_stage=stage)
    run.hand_over("tied-stage2", zero_stage=2, model="tied")
    run.hand_over("tied-stage3", zero_stage=3, model="tied")
    for stage in (0, 1, 2, 3):
        run.train(f"lora-stage{stage}", zero_stage=stage, lora=LORA, max_tokens_per_microbatch=60)
    run.train("lora-bf16", zero_stage=3, lora=LORA, precision="bf16", gradient_checkpointing=True)
    for stage in (2, 3):
        run.adapt(f"lora-kl-stage{stage}", zero_stage=stage)
    run.resume("resume-lora", zero_stage=3, schedule="linear", warmup_steps=3, lora=LORA)
    run.hand_over("untied-lora", zero_stage=3, lora=LORA)
    run.hand_over("tied-lora", zero_stage=2, lora=LORA, model="tied")
    other = run.worker()
    run.attempt("no-checkpoint", lambda: other.load(str(run.out)))
    run.attempt("sharded-muon", lambda: run.worker(zero_stage=2, optimizer="muon"))


def main() -> None:
    """Runs the scenarios of this group size."""
    rank, world_size, port = map(int, sys.argv[1:4])
    run = Scenarios(rank, world_size, port, Path(sys.argv[4]))
    (one_rank if world_size == 1 else two_ranks)(run)
    run.finish()


if __name__ == "__main__":
    main()
