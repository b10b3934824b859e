"""One policy rank with a reference model and a critic; leaves what happened in a folder.

python side_models_rank.py RANK WORLD_SIZE PORT FOLDER, as policy_rank.py.
"""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from policy_rank import BASE, Scenarios, make_batch

from ur2.algorithms.options import AlgorithmOptions
from ur2.policy.worker import PolicyWorker
from ur2.types import Batch

KL = AlgorithmOptions(kl_coef=0.5, kl_estimator="k2")
GAE = AlgorithmOptions(estimator="gae", value_clip=0.02)
CRITIC = {"critic_learning_rate": 0.02, "updates_per_rollout": 2, "max_tokens_per_microbatch": 60}


def valued(worker: PolicyWorker, batch: Batch) -> Batch:
    """The batch with the critic's values; advantages stay what they are."""
    values = worker.values(batch.samples)
    pairs = zip(batch.samples, values, strict=True)
    return Batch(samples=tuple(replace(sample, values=value) for sample, value in pairs))


class Judges(Scenarios):
    """Scenarios of the models beside the policy."""

    def keep(self, name: str, arrays: list[np.ndarray]) -> None:
        """Leaves arrays of all samples among the facts."""
        self.facts[name] = [array.tolist() for array in arrays]

    def diverge(self, stage: int) -> None:
        """Two updates under a divergence in the loss."""
        name = f"kl-stage{stage}"
        worker = self.worker(algorithm=KL, zero_stage=stage, max_tokens_per_microbatch=60)
        before = worker.logprobs(make_batch(5).samples)
        self.facts[name] = [self.update(worker, make_batch(seed)) for seed in (1, 2)]
        self.keep_weights(worker, name)
        self.keep(f"{name}-before", before)
        self.keep(f"{name}-reference", worker.reference_logprobs(make_batch(5).samples))

    def refer(self, stage: int) -> None:
        """What policy and reference say before any update, in half precision."""
        worker = self.worker(algorithm=KL, zero_stage=stage, precision="bf16")
        for who, found in (
            ("before", worker.logprobs(make_batch(5).samples)),
            ("reference", worker.reference_logprobs(make_batch(5).samples)),
        ):
            self.keep(f"bf16-stage{stage}-{who}", found)

    def criticise(self, stage: int, prefix: str = "gae", **options) -> None:
        """Two rollouts of two updates each, and a resumed copy of the second."""
        name, options = f"{prefix}-stage{stage}", {**CRITIC, **options}
        worker = self.worker(algorithm=GAE, zero_stage=stage, **options)
        self.facts[name] = [self.update(worker, valued(worker, make_batch(1)))]
        worker.save(str(self.out / f"{name}.checkpoint"))
        self.facts[name].append(self.update(worker, valued(worker, make_batch(2))))
        parameters = list(worker.critic.engine.model.lm.parameters())
        self.facts[f"{name}-frozen"] = sum(not p.requires_grad for p in parameters)
        self.keep(f"{name}-values", worker.values(make_batch(5).samples))
        other = self.worker(algorithm=GAE, zero_stage=stage, **options)
        other.load(str(self.out / f"{name}.checkpoint"))
        self.update(other, valued(other, make_batch(2)))
        self.keep(f"{name}-resumed", other.values(make_batch(5).samples))


def main() -> None:
    """Runs the scenarios of this group size."""
    rank, world_size, port = map(int, sys.argv[1:4])
    run = Judges(rank, world_size, port, Path(sys.argv[4]))
    assert BASE["learning_rate"] < CRITIC["critic_learning_rate"]
    run.facts["side models of a plain run"] = sorted(
        {"reference", "critic"} & set(vars(run.worker()))
    )
    for stage in (0,) if world_size == 1 else (2, 3):
        run.diverge(stage)
        run.criticise(stage)
        run.refer(stage)
        run.criticise(stage, "gae-lora", lora={"rank": 4})
    run.finish()


if __name__ == "__main__":
    main()
