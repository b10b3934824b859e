"""Faults that options alone show, as messages, so that one error names them all."""

from collections.abc import Iterator
from typing import Literal

from ur2.config.schema import InferenceOptions, RunOptions
from ur2.errors import InputError
from ur2.retrieval.reading.summarise import Summariser
from ur2.trainer.cluster.placement import placement_problems
from ur2.transfer.choice import choose
from ur2.transfer.records import ChannelName

STAGES = "curriculum.stages"


def option_problems(options: RunOptions) -> Iterator[str]:
    """Everything that keeps a run from starting and needs no file to be seen."""
    yield from _batch_problems(options)
    yield from _engine_problems(options)
    yield from _critic_problems(options)
    yield from _sampling_problems(options)
    yield from length_problems(options)
    yield from retrieval_problems(options, may_search=_may_search(options))
    yield from _stage_problems(options)
    yield from _placement_problems(options)
    yield from _exploration_problems(options)
    yield from _transfer_problems(options)


def weight_transfer(options: RunOptions) -> Literal["files"] | ChannelName:
    """The way that weights take to the engines.

    Raises:
        InputError: the wanted one cannot work here.
    """
    cluster = options.cluster
    return choose(
        options.policy.weight_transfer,
        engine=options.rollout.engine.name,
        on_gpu=min(cluster.num_gpus_per_policy_rank, cluster.num_gpus_per_rollout_worker) > 0,
        colocated=cluster.placement == "colocated",
    )


def _exploration_problems(options: RunOptions) -> Iterator[str]:
    if options.exploration.name == "none":
        return
    if options.algorithm.correction == "none":
        yield (
            "exploration trains on tokens that the policy did not draw, which algorithm.correction "
            "has to weigh: set it to tis, icepop or sequence_mask"
        )
    if options.trainer.staleness or options.cluster.placement == "colocated":
        yield (
            "exploration asks the policy while groups are played: set trainer.mode=sync and "
            "cluster.placement=disaggregated"
        )


def _batch_problems(options: RunOptions) -> Iterator[str]:
    groups, samples = options.trainer.questions_per_step, options.rollout.samples_per_prompt
    shares = options.policy.updates_per_rollout * options.policy.num_ranks
    if groups * samples % shares:
        yield (
            f"{groups} questions x {samples} samples = {groups * samples} trajectories per step do "
            f"not divide by policy.updates_per_rollout x policy.num_ranks = {shares}; change "
            "trainer.questions_per_step or rollout.samples_per_prompt"
        )
    if options.algorithm.compares == "group" and samples < 2:
        yield (
            f"algorithm.estimator '{options.algorithm.estimator}' compares the samples of a group: "
            "rollout.samples_per_prompt must be at least 2"
        )


def _critic_problems(options: RunOptions) -> Iterator[str]:
    unset = type(options.policy).model_fields["critic_learning_rate"].default
    if options.policy.critic_learning_rate != unset and not options.algorithm.has_critic:
        yield "policy.critic_learning_rate has no effect without algorithm.estimator=gae; remove it"


def _engine_problems(options: RunOptions) -> Iterator[str]:
    if options.rollout.engine.name == "remote":
        yield (
            "rollout.engine.name 'remote' serves weights that training cannot replace; it is for "
            "python -m ur2.evaluate"
        )


def _sampling_problems(options: RunOptions) -> Iterator[str]:
    sampling = options.rollout.sampling
    if sampling.temperature <= 0:
        yield "rollout.sampling.temperature must be above 0 in training"
    if sampling.top_p != 1.0 or sampling.top_k != 0:
        yield (
            "rollout.sampling.top_p must be 1 and top_k 0 in training: the policy's logprobs are "
            "those of the whole distribution (rollout.eval_sampling may cut it)"
        )
    samples = options.rollout.samples_per_prompt
    if len(sampling.temperatures) > samples:
        yield (
            f"rollout.sampling.temperatures has {len(sampling.temperatures)} values for the "
            f"{samples} of rollout.samples_per_prompt, so that some would never be used"
        )
    yield from eval_sampling_problems(options)


def eval_sampling_problems(options: InferenceOptions) -> Iterator[str]:
    """Faults of how held-out questions are sampled."""
    if options.rollout.eval_sampling.temperatures:
        yield (
            "rollout.eval_sampling.temperatures has no effect, as a held-out question is played "
            "once; set rollout.eval_sampling.temperature"
        )


def length_problems(options: InferenceOptions) -> Iterator[str]:
    """Faults of the budgets."""
    needed = options.rollout.max_model_len
    if needed > options.model.max_length:
        yield (
            f"rollout.max_prompt_tokens + rollout.max_tokens = {needed} is more than "
            f"model.max_length = {options.model.max_length}"
        )


def retrieval_problems(options: InferenceOptions, *, may_search: bool = True) -> Iterator[str]:
    """Faults of the retriever, for episodes that may search or may not."""
    retrieval = options.retrieval
    if retrieval.summariser is not None:
        try:
            Summariser(retrieval.summariser)
        except InputError as error:
            yield str(error)
    if retrieval.backend == "actor" and not retrieval.folders:
        yield "retrieval.index is required with retrieval.backend=actor"
    if retrieval.backend == "none" and may_search:
        yield "retrieval.backend 'none' finds nothing (choose retrieval=actor or retrieval=http)"
    if retrieval.backend == "http" and retrieval.url is None:
        yield "retrieval.url is required with retrieval.backend=http"


def _may_search(options: RunOptions) -> bool:
    """Whether an episode of the run could search."""
    curriculum = options.curriculum
    policies = {stage.policy or curriculum.policy for stage in curriculum.stages}
    evaluates = options.trainer.eval_retrieval is True
    return evaluates or (policies or {curriculum.policy}) != {"never"}


def _stage_problems(options: RunOptions) -> Iterator[str]:
    for stage in options.curriculum.stages:
        if stage.reward is not None and stage.reward not in options.rewards:
            known = ", ".join(options.rewards) or "there are none"
            yield (
                f"{STAGES}.{stage.name}.reward '{stage.reward}' is no key of `rewards` ({known})"
            )


def _placement_problems(options: RunOptions) -> Iterator[str]:
    cluster, engine = options.cluster, options.rollout.engine
    if cluster.num_gpus_per_rollout_worker not in (0, engine.tensor_parallel_size):
        yield (
            f"cluster.num_gpus_per_rollout_worker={cluster.num_gpus_per_rollout_worker} must equal "
            f"rollout.engine.tensor_parallel_size={engine.tensor_parallel_size}"
        )
    if cluster.placement != "colocated":
        return
    yield from placement_problems(
        cluster, num_ranks=options.policy.num_ranks, num_engines=options.rollout.num_workers
    )
    if options.trainer.staleness:
        yield (
            f"trainer.mode={options.trainer.mode} samples while the policy is updated, and engines "
            "of cluster.placement=colocated sleep then; set trainer.mode=sync or "
            "cluster.placement=disaggregated"
        )


def _transfer_problems(options: RunOptions) -> Iterator[str]:
    try:
        weight_transfer(options)
    except InputError as error:
        yield str(error)
