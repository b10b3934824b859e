"""Options of the rollouts: the engine, how it samples, and the budgets of an episode."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from ur2.options import Options

EngineName = Literal["vllm", "hf", "remote"]

MIN_TEMPERATURE = 0.01
"""vllm samples at it where less is asked for."""


class RemoteOptions(Options):
    """An OpenAI-compatible endpoint; evaluation only, as its weights cannot be replaced."""

    url: str | None = None
    """The endpoint's base address, e.g. `http://127.0.0.1:8000/v1`."""
    api: Literal["completions", "chat"] = "completions"
    """`completions`: token ids in and out, as `vllm serve` offers; `chat`: text messages only."""
    model: str | None = None
    """The name the endpoint serves the model under; by default the checkpoint's."""
    key_variable: str | None = None
    """The environment variable that holds the API key, where the endpoint asks for one."""
    max_retries: int = Field(5, ge=0)
    """Further attempts after a failure that may pass: no connection, busy, an error of its own."""
    timeout_s: float = Field(300.0, gt=0.0)
    """Longest wait for one attempt."""


class EngineOptions(Options):
    """The inference engine of one rollout worker."""

    name: EngineName = "vllm"
    """`vllm` (fast; GPU or CPU build), `hf` (transformers; needs nothing more, for debugging), or
    `remote` (an endpoint; evaluation only)."""
    remote: RemoteOptions = RemoteOptions()
    """The endpoint of `remote`; it gets at most `max_num_seqs` requests at a time."""
    tensor_parallel_size: int = Field(1, ge=1)
    """GPUs that share one copy of the model; vllm only."""
    gpu_memory_utilization: float = Field(0.85, gt=0.0, le=1.0)
    """Share of a GPU's memory that vllm may fill; without effect on CPU."""
    kv_cache_gib: float = Field(1.0, gt=0.0)
    """Memory of the KV cache on CPU, in GiB; on GPU `gpu_memory_utilization` decides."""
    max_num_seqs: int = Field(256, ge=1)
    """Sequences that are decoded together; more wait in the engine's queue."""
    num_threads: int = Field(1, ge=1)
    """CPU threads of the model's kernels, per worker."""
    enforce_eager: bool = False
    """Skip graph capture and compilation: starts sooner, decodes slower; vllm only."""
    prefix_caching: bool = True
    """Compute a prefix that requests share (a group's prompt, earlier turns) once; vllm only."""
    start_timeout_s: float = Field(600.0, gt=0.0)
    """Longest wait for the engine to load the model."""

    @property
    def speaks_text(self) -> bool:
        """Whether it is an endpoint that knows messages only, no token ids; for evaluation."""
        return self.name == "remote" and self.remote.api == "chat"


class SamplingOptions(Options):
    """The distribution that tokens are drawn from."""

    temperature: float = Field(1.0, ge=0.0, le=2.0)
    """Logits are divided by it; 0 takes the most likely token. Beyond 0.01 to 2 vllm refuses, or
    samples at another one."""
    temperatures: tuple[Annotated[float, Field(ge=MIN_TEMPERATURE, le=2.0)], ...] = ()
    """Temperatures of a group's samples, in turn: sample i is drawn at number i, modulo their
    count, so that some explore more. Empty draws all at `temperature`. The policy stays the
    distribution at `temperature`; sampled tokens carry the log-probability that they were drawn
    with, so that `algorithm.correction` can weigh them by the ratio of the two, and `mismatch/kl`
    shows how far apart they are. Without a correction the difference is ignored."""
    top_p: float = Field(1.0, gt=0.0, le=1.0)
    """Keep the most likely tokens that hold this much probability; 1 is off."""
    top_k: int = Field(0, ge=0)
    """Keep this many most likely tokens; 0 is off."""
    seeded: bool = False
    """Draw each trajectory from its own seed, so that a run can be replayed; slows vllm on GPU."""

    @field_validator("temperature")
    @classmethod
    def _means_the_same_to_all_engines(cls, given: float) -> float:
        if 0.0 < given < MIN_TEMPERATURE:
            raise ValueError(f"must be 0, or {MIN_TEMPERATURE:g} to 2")
        return given

    def of_sample(self, index: int) -> "SamplingOptions":
        """The distribution of one of a group's samples, counted from 0."""
        if not self.temperatures:
            return self
        own = self.temperatures[index % len(self.temperatures)]
        return self.model_copy(update={"temperature": own, "temperatures": ()})


class RolloutOptions(Options):
    """How trajectories are made."""

    engine: EngineOptions = EngineOptions()
    """The inference engine."""
    num_workers: int = Field(1, ge=1)
    """Engines that share the questions of a step."""
    spread_groups: bool = False
    """Play a group's samples on all workers at once: shorter tails where there are few groups, at
    the cost of computing its prompt on each."""
    overcommit: float = Field(2.0, ge=1.0)
    """Trajectories that a worker plays at once, by `engine.max_num_seqs`: while some search or wait
    for the rest of their group, others keep the engine full. The surplus waits in its queue."""
    max_worker_restarts: int = Field(3, ge=0)
    """Workers that died or hang and are replaced during a run; past it the run stops."""
    samples_per_prompt: int = Field(8, ge=1)
    """Trajectories per question in training: the size of a group."""
    tool_failed_retries: int = Field(0, ge=0)
    """Times that an episode is played anew after a tool of it failed past its own retries. What is
    left failing is no part of an update (`algorithm.mask_statuses`)."""
    max_prompt_tokens: int = Field(512, ge=1)
    """Longest rendered question, or other opening of a context."""
    max_turns: int = Field(64, ge=1)
    """Turns after which an episode ends whatever its environment says."""
    max_tokens: int = Field(1024, ge=1)
    """Tokens of one context after its prompt, sampled and observed together."""
    sampling: SamplingOptions = SamplingOptions()
    """Sampling in training."""
    eval_sampling: SamplingOptions = SamplingOptions()
    """Sampling in evaluation."""
    generate_timeout_s: float = Field(600.0, gt=0.0)
    """Longest wait for one turn, with the engine's queue and without its sleep; then its worker
    is replaced."""
    react_timeout_s: float = Field(1800.0, gt=0.0)
    """Longest wait for an environment to answer a turn, with all that it asks; then the run stops,
    as it does where an environment raises."""
    group_timeout_s: float = Field(3600.0, gt=0.0)
    """Longest wait for a worker to finish one group, without its sleep; then it is replaced."""
    update_timeout_s: float = Field(600.0, gt=0.0)
    """Longest wait for an engine to take new weights, to sleep or to wake; then its worker is
    replaced."""

    @property
    def max_in_play(self) -> int:
        """Trajectories that a worker plays at once."""
        return int(self.overcommit * self.engine.max_num_seqs)

    @property
    def max_model_len(self) -> int:
        """Tokens of the longest context an engine sees."""
        return self.max_prompt_tokens + self.max_tokens
