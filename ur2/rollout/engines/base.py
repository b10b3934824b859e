"""The interface of inference engines: token ids in, sampled ids and logprobs out."""

from dataclasses import dataclass
from typing import Literal, Protocol

from ur2.transfer.records import Handover
from ur2.types import Segment, VersionRun

Finish = Literal["stop", "length"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """One turn to sample."""

    token_ids: tuple[int, ...]
    """The whole context."""
    context: tuple[Segment, ...] = ()
    """The same by its authors, for engines that know text only."""
    max_tokens: int
    temperature: float = 1.0
    """0 takes the most likely token."""
    top_p: float = 1.0
    """1 is off; it is a share of what `top_k` leaves."""
    top_k: int = 0
    """0 is off."""
    stop_strings: tuple[str, ...] = ()
    """Sampling ends with the token that completes one of them; that token is kept."""
    stop_token_ids: tuple[int, ...] = ()
    """Sampling ends with one of them; it is kept."""
    allowed_token_ids: tuple[int, ...] = ()
    """No other ids are sampled: they have no probability; empty allows all."""
    seed: int | None = None
    """Makes the draw independent of the other requests; None draws from the engine's stream."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """A sampled turn."""

    token_ids: tuple[int, ...]
    """As sampled, with the stop token."""
    logprobs: tuple[float, ...]
    """Log-probability of each sampled token in the distribution it was drawn from: under the
    request's temperature, allowed ids, top_p and top_k; where it is greedy, under temperature 1 and
    cut by the allowed ids only."""
    text: str
    """All of `token_ids` decoded, special tokens included."""
    finish: Finish
    """`stop`: a stop string or token; `length`: `max_tokens` ran out."""
    weight_versions: tuple[VersionRun, ...]
    """The weights that sampled each of `token_ids`; several where they changed on the way."""
    allowed: tuple[tuple[int, ...], ...] = ()
    """The ids that each of `token_ids` was drawn among, of a turn that is one of given choices."""


class Engine(Protocol):
    """An inference engine that lives in its worker's process; light until `start`."""

    async def start(self) -> None:
        """Loads the model.

        Raises:
            InputError: the engine is not installed or does not know the model.
            ComponentError: it did not come up.
        """
        ...

    async def generate(self, request: GenerationRequest) -> Generation:
        """Samples one turn; many calls run at once.

        Raises:
            ComponentError: the engine died.
        """
        ...

    @property
    def num_abandoned_tokens(self) -> int:
        """Sampled so far for requests that were given up."""
        ...

    async def take(self, handover: Handover, version: int) -> None:
        """Replaces the weights between two steps of decoding, or opens a channel for that.

        Requests in flight keep their state and go on under the new weights. Where these do not fit,
        nothing is sampled until others do. An engine that sleeps takes back the memory of its
        weights, and sleeps on.

        Args:
            handover: a folder of weights; or a rendezvous, where a channel to the policy opens in
                the place of an earlier one; or the manifest of what the policy sends over that
                channel at the same time.
            version: the label of everything sampled under these weights.

        Raises:
            InputError: the folder holds no weights.
            ChannelError: the policy or another engine was not there, or weights did not come
                through; the engine waits for others.
            ComponentError: the weights do not fit the model, the engine has no channels, or it
                died.
        """
        ...

    async def sleep(self, *, keep_weights: bool) -> None:
        """Stops decoding and gives memory back; requests wait, those in flight with their tokens.

        Args:
            keep_weights: keep a copy of the weights in host memory; otherwise `take` must come
                before `wake`.

        Raises:
            ComponentError: the engine died, or cannot sleep.
        """
        ...

    async def wake(self) -> None:
        """Takes its memory back and goes on; without effect on an engine that is awake.

        Raises:
            ComponentError: the engine died, or has no weights.
        """
        ...

    async def close(self) -> None:
        """Frees the engine's processes and memory; safe to call twice."""
        ...
