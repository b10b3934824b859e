"""The vllm engine: `AsyncLLM` in the worker's process, its core in child processes; GPU or CPU."""

import asyncio
import contextlib
import dataclasses
import itertools
import os
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

from ur2.errors import ComponentError, InputError
from ur2.rollout.engines.base import Finish, Generation, GenerationRequest
from ur2.rollout.engines.text import decode, stop_ids
from ur2.rollout.engines.vllm_settings import IN_CORE, device_arguments, environment, on_cpu
from ur2.rollout.options import EngineOptions
from ur2.transfer.checks import refuse_differing
from ur2.transfer.files import read_checksums, weight_files
from ur2.transfer.records import ChannelError, Handover, Rendezvous, WeightFolder, WeightsManifest
from ur2.types import VersionRun

_INITIAL_VERSION = 0
_SHUTDOWN_TIMEOUT_S = 30.0
_ABORT_TIMEOUT_S = 1.0
_FINISHES: dict[str, Finish] = {"stop": "stop", "length": "length"}


class VllmEngine:
    """Continuous batching with prefix caching; see `Engine` for the contract."""

    def __init__(
        self,
        options: EngineOptions,
        *,
        model_path: str,
        dtype: str,
        max_model_len: int,
        seed: int,
        sleeps: bool = False,
        revision: str | None = None,
    ) -> None:
        """Takes what `start` needs; loads nothing."""
        self._sleeps = sleeps
        self._options = options
        self._model_path = model_path
        self._revision = revision
        self._dtype = dtype
        self._max_model_len = max_model_len
        self._seed = seed
        self._llm: Any = None
        self._tokenizer: Any = None
        self._request_ids = itertools.count()
        self._updating = asyncio.Lock()
        self._asleep = False
        self._has_weights = True
        self.num_abandoned_tokens = 0

    async def start(self) -> None:
        """Starts vllm's processes and loads the model.

        Environment variables are how vllm is told about threads, logging and usage reports; they
        are set in this process, since vllm's children inherit them.
        """
        os.environ.update(environment(self._options))
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        try:
            from vllm.engine.arg_utils import AsyncEngineArgs
            from vllm.exceptions import VLLMClientError
            from vllm.v1.engine.async_llm import AsyncLLM
        except ImportError as error:
            raise InputError(
                f"rollout.engine.name=vllm: vllm cannot be imported ({error}); "
                "install the extra 'cpu' or 'gpu', or set rollout.engine.name=hf"
            ) from error
        try:
            self._llm = AsyncLLM.from_engine_args(AsyncEngineArgs(**self._arguments()))
        except (ValueError, VLLMClientError) as error:
            raise InputError(f"vllm refuses model '{self._model_path}': {error}") from error
        except (RuntimeError, OSError) as error:
            raise ComponentError(
                f"vllm did not start with model '{self._model_path}': {error}; "
                "VLLM_LOGGING_LEVEL=INFO shows its log"
            ) from error
        self._tokenizer = self._llm.get_tokenizer()
        with _engine_death():
            await self._llm.update_weight_version(str(_INITIAL_VERSION))

    def _arguments(self) -> dict[str, Any]:
        options = self._options
        return {
            "model": self._model_path,
            "revision": self._revision,
            "tokenizer_revision": self._revision,
            "dtype": self._dtype,
            "max_model_len": self._max_model_len,
            "max_num_seqs": options.max_num_seqs,
            "tensor_parallel_size": options.tensor_parallel_size,
            "distributed_executor_backend": "mp" if options.tensor_parallel_size > 1 else IN_CORE,
            "enforce_eager": options.enforce_eager,
            "enable_prefix_caching": options.prefix_caching,
            "logprobs_mode": "processed_logprobs",
            "seed": self._seed,
            "generation_config": "vllm",  # a model's own top_p or top_k would change the sampling
            "worker_extension_cls": "ur2.rollout.engines.vllm_weights.WeightReloader",
            "weight_transfer_config": {"backend": "ur2"},  # that module registers it
            "disable_log_stats": True,
            **device_arguments(options, sleeps=self._sleeps),
        }

    async def generate(self, request: GenerationRequest) -> Generation:
        """Samples one turn."""
        id_ = str(next(self._request_ids))
        sampling = asyncio.ensure_future(self._sample(request, id_))
        try:
            sampled = await asyncio.shield(sampling)
        except asyncio.CancelledError:
            await self._give_up(id_, sampling)
            raise
        if sampled.finish_reason not in _FINISHES:
            raise ComponentError("vllm aborted a request")
        token_ids = tuple(sampled.token_ids)
        return Generation(
            token_ids=token_ids,
            logprobs=_sampled_logprobs(sampled.logprobs),
            text=decode(self._tokenizer, token_ids),
            finish=_FINISHES[sampled.finish_reason],
            weight_versions=tuple(
                VersionRun(int(run.version), run.end - run.start) for run in sampled.weight_versions
            ),
        )

    async def _sample(self, request: GenerationRequest, id_: str) -> Any:
        """The output of vllm for a request that is finished or aborted."""
        from vllm.inputs import tokens_input

        prompt, final = tokens_input(list(request.token_ids)), None
        with _engine_death():
            async for output in self._llm.generate(prompt, self._sampling(request), id_):
                final = output
        if final is None:
            raise ComponentError("vllm dropped a request")
        return final.outputs[0]

    async def _give_up(self, id_: str, sampling: "asyncio.Task[Any]") -> None:
        """Aborts a request; its last output tells what had been sampled."""
        try:
            if self._llm is not None:
                with contextlib.suppress(ComponentError), _engine_death():
                    await self._llm.abort(id_)
            await asyncio.wait({sampling}, timeout=_ABORT_TIMEOUT_S)
        finally:
            sampling.cancel()  # where the request had not reached vllm yet
        if sampling.done() and not sampling.cancelled() and sampling.exception() is None:
            self.num_abandoned_tokens += len(sampling.result().token_ids)

    def _sampling(self, request: GenerationRequest) -> Any:
        from vllm.sampling_params import RequestOutputKind, SamplingParams

        return SamplingParams(
            max_tokens=request.max_tokens,
            temperature=request.temperature,
            top_p=request.top_p,
            top_k=request.top_k,
            seed=request.seed,
            allowed_token_ids=list(request.allowed_token_ids) or None,
            stop=list(request.stop_strings),
            stop_token_ids=list(stop_ids(self._tokenizer, request)),
            ignore_eos=True,  # the request names what ends it
            include_stop_str_in_output=True,
            skip_special_tokens=False,
            # Only stop strings need the text of every step; `generate` decodes once.
            detokenize=bool(request.stop_strings),
            logprobs=0,
            flat_logprobs=True,
            output_kind=RequestOutputKind.FINAL_ONLY,
            skip_clone=True,  # made for one request
        )

    async def take(self, handover: Handover, version: int) -> None:
        """Pauses, replaces the weights in place, empties the prefix cache, resumes.

        Requests in flight keep their tokens; their KV cache is computed again under the new
        weights, so that every logprob is exact for the weights that sampled its token.
        """
        match handover:
            case WeightFolder(path):
                await self._reload(path, version)
            case Rendezvous():
                await self._join(handover)
            case WeightsManifest():
                await self._receive(handover, version)

    async def _reload(self, path: str, version: int) -> None:
        weight_files(path)
        async with self._replacing(version):
            problems = await self._llm.collective_rpc("ur2_reload", args=(path,))
            self._refuse_misfits(f"in '{path}'", problems)
            if read_checksums(path):
                differing = await self._llm.collective_rpc("ur2_differing", args=(path,))
                refuse_differing(*differing, source=f"in '{path}'", version=version)

    async def _join(self, rendezvous: Rendezvous) -> None:
        """Opens a channel in each of vllm's processes; decoding waits."""
        from vllm.distributed.weight_transfer.base import WeightTransferInitRequest

        request = WeightTransferInitRequest(init_info=dataclasses.asdict(rendezvous))
        async with self._updating:
            with _engine_death():
                await self._llm.init_weight_transfer_engine(request)
                self._refuse_broken(await self._llm.collective_rpc("ur2_outcome"))

    async def _receive(self, manifest: WeightsManifest, version: int) -> None:
        from vllm.distributed.weight_transfer.base import WeightTransferUpdateRequest

        request = WeightTransferUpdateRequest(update_info=dataclasses.asdict(manifest))
        async with self._replacing(version):
            await self._llm.start_weight_update()
            await self._llm.update_weights(request)
            await self._llm.finish_weight_update()
            outcomes = await self._llm.collective_rpc("ur2_outcome")
            self._refuse_broken(outcomes)
            self._refuse_misfits("of the policy", [problem for _, problem, _ in outcomes])
            differing = [names for _, _, names in outcomes]
            refuse_differing(*differing, source="over the channel", version=version)

    @contextlib.asynccontextmanager
    async def _replacing(self, version: int) -> AsyncIterator[None]:
        """Inside, the weights become those of `version`; where it fails, nothing goes on."""
        async with self._updating:
            with _engine_death():
                if not self._asleep:
                    await self._llm.pause_generation(mode="keep", clear_cache=False)
                elif not on_cpu():
                    await self._llm.wake_up(tags=["weights"])
                self._has_weights = False
                yield
                await self._llm.reset_prefix_cache(reset_running_requests=True)
                await self._llm.update_weight_version(str(version))
                self._has_weights = True
                if not self._asleep:
                    await self._llm.resume_generation()

    def _refuse_misfits(self, which: str, problems: Sequence[str]) -> None:
        if any(problems):
            raise ComponentError(
                f"weights {which} do not fit model '{self._model_path}': "
                f"{next(filter(None, problems))}"
            )

    def _refuse_broken(self, outcomes: Sequence[tuple[str, str, list[str]]]) -> None:
        for broken, _, _ in outcomes:
            if broken:
                raise ChannelError(f"the channel to the policy broke: {broken}")

    async def sleep(self, *, keep_weights: bool) -> None:
        """On GPU frees weights and KV cache (levels 1 and 2 of vllm); the CPU build only pauses.

        Requests in flight keep their tokens, and their KV cache is computed again on waking.
        """
        async with self._updating:
            with _engine_death():
                level = 0 if on_cpu() else 1 if keep_weights else 2
                await self._llm.sleep(level, mode="keep")
            self._asleep, self._has_weights = True, self._has_weights and keep_weights

    async def wake(self) -> None:
        """Takes back whatever memory is missing, then resumes."""
        async with self._updating:
            if not self._asleep:
                return
            if not self._has_weights:
                raise ComponentError("the vllm engine sleeps without weights and has got none")
            with _engine_death():
                await self._llm.wake_up(tags=["scheduling"] if on_cpu() else None)
            self._asleep = False

    async def close(self) -> None:
        """Stops vllm's processes."""
        if self._llm is not None:
            llm, self._llm = self._llm, None
            if llm.output_handler is not None:
                # Otherwise it takes the exit of the processes for their death and logs an error.
                llm.output_handler.cancel()
            await asyncio.to_thread(llm.shutdown, _SHUTDOWN_TIMEOUT_S)


def _sampled_logprobs(flat: Any) -> tuple[float, ...]:
    """One per sampled token: `logprobs=0` keeps only that of the token itself."""
    return tuple(flat.logprobs[start] for start in flat.start_indices)


@contextlib.contextmanager
def _engine_death() -> Iterator[None]:
    from vllm.exceptions import VLLMError

    try:
        yield
    except VLLMError as error:
        raise ComponentError(
            f"the vllm engine failed: {error}; VLLM_LOGGING_LEVEL=INFO shows its log"
        ) from error
