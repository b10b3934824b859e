"""A look at a model before it is trained: does it compute here what it computes in transformers?

Some models draw random numbers in places that no option names, carry a state from one packed
sequence into the next, or change their logits on the way out. No metric shows that, so a few random
sequences are computed in four ways, which must agree.

Shapes: _N tokens of all sequences but the first of each.
"""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from ur2.errors import InputError
from ur2.policy.batch.microbatch import make_row
from ur2.policy.model.models import PolicyModel

LENGTHS = (3, 9, 16)
TOLERANCE = {torch.float32: 5e-5, torch.bfloat16: 0.03}
"""How far log-probabilities may be apart, as a share of the largest one's size where it exceeds 1;
rounding takes a tenth of it."""


@torch.no_grad()
def probe(lm: PreTrainedModel) -> None:
    """Compares packed rows with a second pass, with sequences alone, and with plain transformers.

    Afterwards `lm` reads packed rows.

    Raises:
        InputError: two of them differ, or the model cannot read what the policy gives it; says
            which.
    """
    kind, model = type(lm).__name__, PolicyModel(lm)
    rng = np.random.default_rng(0)
    size = lm.config.get_text_config().vocab_size
    sequences = [rng.integers(0, size, n) for n in LENGTHS]

    def packed() -> Tensor:
        return _logprobs(model, sequences)

    def alone() -> Tensor:
        return torch.cat([_logprobs(model, [ids]) for ids in sequences])

    ways: dict[str, Callable[[], Tensor]] = {
        "differ from pass to pass: something in it is random": packed,
        "depend on what else is in the row: something passes between packed sequences": alone,
        "are not those of plain transformers: it computes something that the policy leaves out": (
            lambda: _plain(lm, sequences)
        ),
    }
    try:
        expected_N = packed()
        found = {fault: way() for fault, way in ways.items()}
    except InputError:
        raise
    except Exception as error:  # whatever a model's own code makes of arguments that it lacks
        raise InputError(
            f"model.path: {kind} cannot be trained here, since it does not read packed rows "
            f"({type(error).__name__}: {error}); use another model"
        ) from error
    allowed = TOLERANCE[lm.dtype] * max(1.0, float(expected_N.abs().max()))
    for fault, other_N in found.items():
        apart = float((other_N - expected_N).abs().max())
        if not apart <= allowed:  # nor NaN
            raise InputError(
                f"model.path: log-probabilities of {kind} {fault} (they are {apart:.2g} apart); "
                "use another model"
            )


def _logprobs(model: PolicyModel, sequences: list[NDArray[np.int64]]) -> Tensor:
    """As the policy computes them, all sequences in one row. (N,)."""
    row = make_row(sequences, torch.device("cpu"))
    first = row.offset_S[:-1].tolist()
    target_N = torch.tensor([i for i in range(len(row.input_ids_T)) if i not in first])
    logprob_N: Tensor = model(row, target_N - 1, row.input_ids_T[target_N])[0]
    return logprob_N.float()


def _plain(lm: PreTrainedModel, sequences: list[NDArray[np.int64]]) -> Tensor:
    """As transformers computes them, one sequence at a time and in its own attention. (N,)."""
    packed = lm.config.get_text_config()._attn_implementation
    lm.set_attn_implementation("eager")
    try:
        logprobs = []
        for ids in sequences:
            input_ids = torch.from_numpy(ids)[None]
            logit_TV = lm(input_ids=input_ids, use_cache=False).logits[0, :-1].float()
            logprob_TV = logit_TV.log_softmax(-1)
            logprobs.append(logprob_TV.gather(1, input_ids[0, 1:, None]).squeeze(1))
        return torch.cat(logprobs)
    finally:
        lm.set_attn_implementation(packed)
