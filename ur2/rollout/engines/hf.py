"""The hf engine: a transformers model in this process, batched across requests, on a thread."""

import asyncio
import contextlib
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from ur2.checksums import checksum
from ur2.errors import ComponentError, InputError
from ur2.rollout.engines.base import Finish, Generation, GenerationRequest
from ur2.rollout.engines.text import decode, load_tokenizer, stop_ids
from ur2.rollout.options import EngineOptions
from ur2.transfer.checks import damaged, refuse_differing
from ur2.transfer.files import read_checksums, read_weights, weight_files
from ur2.transfer.records import Handover, WeightFolder
from ur2.types import version_runs

if TYPE_CHECKING:
    import torch

    from ur2.rollout.engines.hf_batch import DecodingBatch, RunningRequest


class HfEngine:
    """For laptops and debugging; see `Engine` for the contract.

    One task of the event loop runs decoding steps on a thread, one at a time; requests join between
    two steps, so that none waits for the end of another.
    """

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
        """Takes what `start` needs; loads nothing. It can always sleep."""
        self._options = options
        self._model_path = model_path
        self._revision = revision
        self._dtype = dtype
        self._max_model_len = max_model_len
        self._seed = seed
        self._version = 0
        self._waiting: list[RunningRequest] = []
        self._futures: dict[int, asyncio.Future[Finish]] = {}
        self._abandoned: list[RunningRequest] = []
        """Given up; the step under way may still add a token."""
        self._num_abandoned_tokens = 0
        """Tokens of requests that were given up before the last admission."""
        self._work = asyncio.Event()
        self._stepping = asyncio.Lock()
        self._going = asyncio.Event()
        self._going.set()
        self._asleep = False
        self._has_weights = True
        self._thread: ThreadPoolExecutor | None = None
        self._loop_task: asyncio.Task[None] | None = None
        self._error: ComponentError | None = None
        self._model: Any = None
        self._tokenizer: Any = None
        self._batch: DecodingBatch
        self._generator: torch.Generator

    async def start(self) -> None:
        """Loads the model."""
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="hf-engine")
        self._tokenizer = load_tokenizer(self._model_path, self._revision)
        await self._on_thread(self._load_model)
        self._loop_task = asyncio.create_task(self._run(), name="hf-engine")
        self._loop_task.add_done_callback(self._stopped)

    async def generate(self, request: GenerationRequest) -> Generation:
        """Samples one turn."""
        if self._error is not None:
            raise self._error
        if len(request.token_ids) + request.max_tokens > self._max_model_len:
            raise ComponentError(
                f"a request of {len(request.token_ids)} + {request.max_tokens} tokens exceeds the "
                f"context of {self._max_model_len}"
            )
        row = self._row(request)
        future = asyncio.get_running_loop().create_future()
        self._futures[id(row)] = future
        self._waiting.append(row)
        self._work.set()
        try:
            finish = await future
        except asyncio.CancelledError:
            self._abandoned.append(row)
            raise
        finally:
            row.abandoned = True
            del self._futures[id(row)]
        return Generation(
            token_ids=tuple(row.token_ids),
            logprobs=tuple(row.logprobs),
            text=decode(self._tokenizer, row.token_ids),
            finish=finish,
            weight_versions=version_runs(row.versions),
        )

    @property
    def num_abandoned_tokens(self) -> int:
        """Tokens sampled so far for requests that were given up."""
        return self._num_abandoned_tokens + sum(len(row.token_ids) for row in self._abandoned)

    async def take(self, handover: Handover, version: int) -> None:
        """Copies the weights between two steps; rows in flight compute their cache again.

        Where it fails, nothing goes on until others fit: some may have been copied.
        """
        if not isinstance(handover, WeightFolder):
            raise ComponentError("the hf engine reads files: set policy.weight_transfer=files")
        weight_files(handover.path)
        async with self._stepping:
            self._going.clear()
            self._has_weights = False
            await self._on_thread(self._copy_weights, handover.path, version)
            self._waiting = [*self._batch.evict(), *self._waiting]
            self._version = version
            self._has_weights = True
            if not self._asleep:
                self._going.set()

    async def sleep(self, *, keep_weights: bool) -> None:
        """Drops the cache, and the weights or, on GPU, moves them to host memory."""
        async with self._stepping:
            self._going.clear()
            self._asleep = True
            self._waiting = [*self._batch.evict(), *self._waiting]
            self._has_weights = self._has_weights and keep_weights
            await self._on_thread(self._give_memory_back)

    async def wake(self) -> None:
        """Moves the weights back to where they are computed with."""
        async with self._stepping:
            if not self._asleep:
                return
            if not self._has_weights:
                raise ComponentError("the hf engine sleeps without weights and has got none")
            await self._on_thread(self._model.to, self._device)
            self._asleep = False
            self._going.set()

    async def close(self) -> None:
        """Stops the thread and drops the model."""
        if self._loop_task is not None:
            self._loop_task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._loop_task
        if self._thread is not None:
            self._thread.shutdown()
        self._model = None

    async def _run(self) -> None:
        while True:
            await self._work.wait()
            await self._going.wait()
            async with self._stepping:
                if not self._going.is_set():
                    continue
                admitted = self._admit()
                finished = await self._on_thread(self._batch.step, admitted, self._version)
            for row, finish in finished:
                if (future := self._futures.get(id(row))) is not None and not future.done():
                    future.set_result(finish)
            if not self._batch.rows and not self._waiting:
                self._work.clear()

    def _admit(self) -> "list[RunningRequest]":
        self._num_abandoned_tokens, self._abandoned = self.num_abandoned_tokens, []
        self._waiting = [row for row in self._waiting if not row.abandoned]
        num_free = max(0, self._options.max_num_seqs - len(self._batch.rows))
        admitted, self._waiting = self._waiting[:num_free], self._waiting[num_free:]
        return admitted

    def _stopped(self, task: "asyncio.Task[None]") -> None:
        reason = "it was closed" if task.cancelled() else str(task.exception())
        self._error = ComponentError(f"the hf engine stopped: {reason}")
        for future in self._futures.values():
            if not future.done():
                future.set_exception(self._error)

    def _row(self, request: GenerationRequest) -> "RunningRequest":
        import torch

        from ur2.rollout.engines.hf_batch import RunningRequest

        generator = self._generator
        if request.seed is not None:
            generator = torch.Generator().manual_seed(request.seed)
        return RunningRequest(
            request=request,
            stop_token_ids=frozenset(stop_ids(self._tokenizer, request)),
            generator=generator,
        )

    def _load_model(self) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        from ur2.rollout.engines.hf_batch import DecodingBatch

        torch.set_num_threads(self._options.num_threads)
        try:
            model = AutoModelForCausalLM.from_pretrained(
                self._model_path, revision=self._revision, dtype=getattr(torch, self._dtype)
            )
        except (OSError, ValueError) as error:
            raise InputError(f"cannot load model '{self._model_path}': {error}") from error
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._model = model.to(self._device).eval()
        self._generator = torch.Generator().manual_seed(self._seed)
        self._batch = DecodingBatch(self._model, self._tokenizer)

    def _give_memory_back(self) -> None:
        import torch

        if self._has_weights:
            self._model.to("cpu")
        else:
            for parameter in self._model.parameters():  # one element keeps the shape
                parameter.data = parameter.data.new_zeros(1).expand(parameter.shape)
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _copy_weights(self, path: str, version: int) -> None:
        parameters = dict(self._model.named_parameters(remove_duplicate=False))
        missing = {id(parameter): name for name, parameter in parameters.items()}
        for name, tensor in read_weights(path):
            parameter = parameters.get(name)
            if parameter is None or parameter.shape != tensor.shape:
                raise ComponentError(
                    f"weights in '{path}' do not fit model '{self._model_path}': "
                    f"{name} {tuple(tensor.shape)}"
                )
            if parameter.data.is_contiguous():
                parameter.data.copy_(tensor)
            else:  # given back while asleep
                parameter.data = tensor.to(parameter.device, parameter.dtype, copy=True)
            missing.pop(id(parameter), None)
        if missing:
            raise ComponentError(
                f"weights in '{path}' do not fit model '{self._model_path}': "
                f"missing {', '.join(sorted(missing.values()))}"
            )
        if published := read_checksums(path):
            weights = dict(read_weights(path))
            differing = damaged(weights, published) or [
                name
                for name, tensor in weights.items()
                if checksum(parameters[name]) != checksum(tensor.to(parameters[name].dtype))
            ]
            refuse_differing(differing, source=f"in '{path}'", version=version)

    async def _on_thread(self, function: Any, *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)
