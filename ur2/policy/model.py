"""The trained model: a causal LM that returns log-probabilities of chosen tokens only.

Shapes: _B sequences, _T tokens (right-padded), _N chosen positions, _D width.
"""

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from ur2.errors import InputError
from ur2.policy.token_logprobs import TokenLogprobs

LOGIT_TRANSFORMS = ("final_logit_softcapping", "logit_scale", "logits_scaling")


class PolicyModel(nn.Module):
    """Body, then LM head on the positions that are trained on, never on all."""

    def __init__(
        self, lm: PreTrainedModel, *, temperature: float = 1.0, chunk_tokens: int = 2048
    ) -> None:
        super().__init__()
        self.lm = lm
        self.token_logprobs = TokenLogprobs(
            lm.get_output_embeddings(), temperature=temperature, chunk_tokens=chunk_tokens
        )

    def forward(
        self, input_ids_BT: Tensor, position_N: Tensor, target_N: Tensor
    ) -> tuple[Tensor, Tensor]:
        """(logprob_N, entropy_N) of `target_N` after the flat positions `position_N` of (B, T).

        Padding needs no mask: it stands on the right, where causal attention never looks.
        """
        body = self.lm.get_decoder()
        hidden_BTD = body(input_ids=input_ids_BT, use_cache=False).last_hidden_state
        hidden_ND = hidden_BTD.flatten(0, 1).index_select(0, position_N)
        logprob_N, entropy_N = self.token_logprobs(hidden_ND, target_N)
        return logprob_N, entropy_N


def load_lm(
    path: str, *, revision: str | None, dtype: torch.dtype, gradient_checkpointing: bool
) -> PreTrainedModel:
    """A causal LM from a folder or by its Hugging Face name, without dropout.

    Raises:
        InputError: there is no such model, or its head does more than a linear map.
    """
    try:
        lm = AutoModelForCausalLM.from_pretrained(
            path, revision=revision, dtype=dtype, attention_dropout=0.0
        )
    except (OSError, ValueError) as error:
        raise InputError(f"model.path '{path}' cannot be loaded: {error}") from error
    for name in LOGIT_TRANSFORMS:
        if getattr(lm.config, name, None) not in (None, 1.0):
            raise InputError(
                f"model.path '{path}': its config sets {name}, which the policy's LM head does "
                "not apply; use a model without it"
            )
    for module in lm.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    lm.train()
    if gradient_checkpointing:
        lm.gradient_checkpointing_enable({"use_reentrant": False})
    return lm
