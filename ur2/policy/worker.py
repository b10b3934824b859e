"""One rank of the policy. A plain class: it runs wherever it is constructed."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from ur2.algorithms.options import AlgorithmOptions
from ur2.algorithms.reductions import Denominators
from ur2.policy.batch.microbatch import collate
from ur2.policy.batch.packing import Microbatch, RankPlan, RankStep
from ur2.policy.batch.per_token import per_token
from ur2.policy.batch.totals import Totals
from ur2.policy.critic import Critic, critic_options
from ur2.policy.deepspeed_config import shards_bf16
from ur2.policy.loss import Report, microbatch_loss
from ur2.policy.options import LoraOptions, PolicyOptions
from ur2.policy.ranks import merge, restore_rng, rng_state
from ur2.policy.refusal import refusal
from ur2.policy.schedule import learning_rate_factor
from ur2.policy.weight_sender import (
    PART_BYTES,
    WeightSender,
    free_port,
    model_folder,
    write_exported,
)
from ur2.transfer.proof import make_secret
from ur2.transfer.records import Handover, WeightsManifest
from ur2.types import Sample

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ur2.policy.engine import BaseEngine, FrozenEngine, TrainEngine

CRITIC_FOLDER = "critic"
RNG_FILE = "rng_rank_{}.pt"


class PolicyWorker:
    """Owns one rank's model and optimizer. Every method is called on all ranks, in one order."""

    def __init__(
        self,
        options: PolicyOptions,
        algorithm: AlgorithmOptions,
        model_path: str,
        rank: int,
        world_size: int,
        temperature: float,
        total_steps: int,
        seed: int = 0,
        revision: str | None = None,
    ) -> None:
        """Nothing is loaded before `setup`.

        Args:
            options: optimizer, sharding, microbatches.
            algorithm: loss, reduction, correction.
            model_path: a folder or a Hugging Face name.
            rank: this process, from 0.
            world_size: processes in all.
            temperature: of sampling; log-probabilities are those of the tempered distribution.
            total_steps: optimizer steps of the whole run, for the schedule.
            seed: of anything random.
            revision: of a Hugging Face name.
        """
        self.options = options
        self.algorithm = algorithm
        self.model_path = model_path
        self.rank = rank
        self.world_size = world_size
        self.temperature = temperature
        self.total_steps = total_steps
        self.seed = seed
        self.revision = revision
        self.steps_done = 0
        self.has_critic = algorithm.has_critic

    def setup(self, master_address: str, master_port: int) -> None:
        """Joins the other ranks and loads the model.

        Raises:
            InputError: the model cannot be loaded, or the options do not go together.
        """
        # heavy, and deepspeed decides on the device when imported: only in the worker's own process
        from ur2.policy.engine import BaseEngine, FrozenEngine, TrainEngine, join_ranks
        from ur2.policy.model.lora import add_adapters
        from ur2.policy.model.models import CriticModel, PolicyModel, load_lm, use_liger_kernels
        from ur2.policy.model.probe import probe

        torch.set_num_threads(self.options.num_threads)
        torch.manual_seed(self.seed + self.rank)

        def load(lora: LoraOptions | None, *, probed: bool = False) -> "PreTrainedModel":
            lm = load_lm(
                self.model_path,
                revision=self.revision,
                dtype=torch.bfloat16 if shards_bf16(self.options) else torch.float32,
                gradient_checkpointing=self.options.gradient_checkpointing,
            )
            if probed:
                probe(lm)
            if self.options.liger_kernels:
                use_liger_kernels(lm)
            if lora:
                add_adapters(lm, lora, seed=self.seed)
            return lm

        def policy_model(lm: "PreTrainedModel") -> PolicyModel:
            chunk_tokens = self.options.logprob_chunk_tokens
            return PolicyModel(lm, temperature=self.temperature, chunk_tokens=chunk_tokens)

        model = policy_model(load(self.options.lora, probed=self.rank == 0))
        self.device = join_ranks(self.rank, self.world_size, master_address, master_port)
        self.address = master_address
        self.engine = TrainEngine(model, self.options, self.device)
        self.sender = WeightSender(self.engine, self.options, self.rank)
        self.reference: FrozenEngine | BaseEngine
        if self.algorithm.kl_coef and self.options.lora:
            self.reference = BaseEngine(self.engine)
        elif self.algorithm.kl_coef:
            self.reference = FrozenEngine(policy_model(load(None)), self.options, self.device)
        if self.has_critic:
            critic = CriticModel(load(self.options.lora))
            options = critic_options(self.options)
            self.critic = Critic(TrainEngine(critic, options, self.device), self.algorithm)

    def update(self, share: RankPlan, step: int) -> dict[str, float]:
        """Takes the optimizer steps of one batch.

        Args:
            share: this rank's part of it.
            step: the loop's, from 1.

        Returns:
            Metrics over all ranks and steps.

        Raises:
            NotFiniteError: a loss or gradient is not finite; names the samples. The weights are as
                they were before that step.
        """
        totals, critic_totals = Totals("policy"), Totals("critic")
        # before the first step the weights are the old ones, so it needs no pass of its own
        old_logprobs: list[list[Tensor | None]] = [
            [self._logprobs(self.engine, m) if number else None for m in part.microbatches]
            for number, part in enumerate(share.steps)
        ]
        before = (step - 1) * self.options.updates_per_rollout
        for number, (part, old_of_part) in enumerate(zip(share.steps, old_logprobs, strict=True)):
            factor = learning_rate_factor(self.options, before + number, self.total_steps)
            if self.has_critic:  # first, so that the policy does not move if this fails
                reports, norm, applied = self.critic.step(part, factor)
                if not applied:
                    raise refusal(part, reports)
                critic_totals.add(reports, part.num_tokens, norm)
            reports = self._accumulate(part, old_of_part)
            norm, applied = self.engine.step(factor)
            if not applied:
                raise refusal(part, reports)
            self.steps_done += 1
            totals.add(reports, part.num_tokens, norm)
        metrics = {
            **totals.metrics(),
            "policy/learning_rate": self.options.learning_rate * factor,
            "policy/optimizer_steps": float(self.steps_done),
        }
        if self.has_critic:
            metrics |= critic_totals.metrics()
            metrics["critic/learning_rate"] = self.options.critic_learning_rate * factor
        return metrics

    def logprobs(self, samples: Sequence[Sample]) -> list[NDArray[np.float32]]:
        """The policy's log-probability of every trained token; the ranks share the work.

        Args:
            samples: the same on all ranks, with distinct ids.

        Returns:
            One array per sample, (T,), 0 where the mask is False.
        """
        return self._per_token(samples, lambda m: self._logprobs(self.engine, m))

    def reference_logprobs(self, samples: Sequence[Sample]) -> list[NDArray[np.float32]]:
        """Logprobs of the trained tokens under the model that training started from."""
        return self._per_token(samples, lambda m: self._logprobs(self.reference, m))

    def values(self, samples: Sequence[Sample]) -> list[NDArray[np.float32]]:
        """The critic's expectation before each trained token."""
        return self._per_token(samples, self.critic.values)

    def give(self, handover: Handover, version: int) -> None:
        """Gives the weights to engines that take the same handover.

        A folder is written by Hugging Face name as safetensors files, and is there on return; a
        rendezvous opens a channel; by a manifest the weights are sent over it.

        Raises:
            ChannelError: the engines were not there, or the weights did not leave.
        """
        self.sender.give(handover, version)

    def rendezvous_place(self) -> tuple[str, int, str]:
        """Where engines find this rank to open a channel, a free port, and a secret to share."""
        return self.address, free_port(), make_secret()

    def manifest(self) -> WeightsManifest:
        """The names, dtypes and shapes of all weights; without a collective call."""
        return self.engine.manifest()

    def export(self, path: str) -> None:
        """Writes a Hugging Face folder: config, tokenizer and weights, for any tool to load."""
        weights = merge(self.engine.weights(PART_BYTES))
        if self.rank == 0:
            source = model_folder(self.model_path, self.revision)
            write_exported(weights, self.engine.model.lm, source, Path(path))
        dist.barrier()

    def save(self, path: str) -> None:
        """Writes all that `load` needs to go on exactly: weights, optimizer, position, RNGs."""
        folder = Path(path)
        self.engine.save(folder, {"steps_done": self.steps_done})
        if self.has_critic:
            self.critic.engine.save(folder / CRITIC_FOLDER, {})
        torch.save(rng_state(), folder / RNG_FILE.format(self.rank))
        dist.barrier()

    def load(self, path: str) -> None:
        """Restores what `save` wrote, on any number of ranks and under any ZeRO stage.

        A rank that was not there when it was saved keeps the random state of its seed; an update
        draws no random numbers.

        Raises:
            InputError: there is no checkpoint, or a damaged one, or of another model or optimizer.
        """
        folder = Path(path)
        self.steps_done = int(self.engine.load(folder)["steps_done"])
        if self.has_critic:
            self.critic.engine.load(folder / CRITIC_FOLDER)
        if (random := folder / RNG_FILE.format(self.rank)).exists():
            restore_rng(random)

    def release_memory(self) -> None:
        """Gives others on this GPU what the allocator keeps without need."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def close(self) -> None:
        """Leaves the process group."""
        self.engine.close()

    def _accumulate(self, step: RankStep, old_logprobs: Sequence[Tensor | None]) -> list[Report]:
        """The gradient of one optimizer step, summed over this rank's microbatches."""
        denominators = Denominators(
            num_tokens=step.num_tokens,
            num_sequences=step.num_sequences,
            norm_length=self.algorithm.norm_length,
        )
        in_loss = self.algorithm.kl_coef > 0 and self.algorithm.kl_in == "loss"
        reports = []
        for number, microbatch in enumerate(step.microbatches, start=1):
            inputs = collate(microbatch, self.device)
            logprob_N, entropy_N = self.engine.forward(
                inputs.row, inputs.position_N, inputs.target_N, inputs.allowed_2M
            )
            loss, report = microbatch_loss(
                logprob_N,
                entropy_N,
                inputs,
                old_logprobs[number - 1],
                self.algorithm,
                denominators,
                self._logprobs(self.reference, microbatch) if in_loss else None,
            )
            self.engine.backward(loss, last=number == len(step.microbatches))
            reports.append(report)
        return reports

    @torch.no_grad()
    def _logprobs(
        self, engine: "TrainEngine | FrozenEngine | BaseEngine", microbatch: Microbatch
    ) -> Tensor:
        """Log-probabilities of the trained tokens of a microbatch, (N,)."""
        inputs = collate(microbatch, self.device)
        logprob_N: Tensor = engine.forward(
            inputs.row, inputs.position_N, inputs.target_N, inputs.allowed_2M
        )[0]
        return logprob_N

    def _per_token(
        self, samples: Sequence[Sample], compute: Callable[[Microbatch], Tensor]
    ) -> list[NDArray[np.float32]]:
        limit = self.options.max_tokens_per_microbatch
        return per_token(samples, compute, max_tokens_per_microbatch=limit)
