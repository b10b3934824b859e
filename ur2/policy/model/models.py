"""The trained models: a causal LM that scores chosen tokens only, and a critic.

Shapes: _T tokens of a packed row, _N chosen positions, _D width.
"""

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.integrations.liger import apply_liger_kernel
from transformers.modeling_layers import GradientCheckpointingLayer

from ur2.errors import InputError
from ur2.policy.batch.microbatch import PackedRow
from ur2.policy.model.attention import use_packed_attention
from ur2.policy.model.token_logprobs import TokenLogprobs

MAX_NAMED = 5
LOGIT_TRANSFORMS = ("final_logit_softcapping", "logit_scale", "logits_scaling")


class PolicyModel(nn.Module):
    """Body, then LM head on the positions that are trained on, never on all."""

    def __init__(
        self, lm: PreTrainedModel, *, temperature: float = 1.0, chunk_tokens: int = 1024
    ) -> None:
        super().__init__()
        use_packed_attention(lm)
        self.lm = lm
        self.token_logprobs = TokenLogprobs(
            lm.get_output_embeddings(), temperature=temperature, chunk_tokens=chunk_tokens
        )

    def forward(
        self,
        row: PackedRow,
        position_N: Tensor,
        target_N: Tensor,
        allowed_2M: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """(logprob_N, entropy_N) of `target_N` after the positions `position_N` of the row.

        Where `allowed_2M` names some of the N, these are over the ids beside them there.
        """
        hidden_ND = hidden_states(self.lm, row).index_select(0, position_N)
        logprob_N, entropy_N = self.token_logprobs(hidden_ND, target_N, allowed_2M)
        return logprob_N, entropy_N


class CriticModel(nn.Module):
    """A backbone, and one number in place of an LM head: the return expected from a token on."""

    def __init__(self, lm: PreTrainedModel) -> None:
        super().__init__()
        use_packed_attention(lm)
        self.lm: PreTrainedModel = lm.get_decoder()
        self.head = nn.Linear(lm.config.get_text_config().hidden_size, 1, dtype=lm.dtype)
        # it begins by expecting nothing
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, row: PackedRow, position_N: Tensor) -> Tensor:
        """The value of what stands before each chosen token, as far as `position_N`. (N,)."""
        value_N1: Tensor = self.head(hidden_states(self.lm, row).index_select(0, position_N))
        return value_N1.float().squeeze(1)


def hidden_states(lm: PreTrainedModel, row: PackedRow) -> Tensor:
    """The last hidden state of every token, (T, D); no token sees another sequence."""
    output = lm.get_decoder()(
        input_ids=row.input_ids_T[None],
        position_ids=row.position_ids_T[None],
        use_cache=False,
        lengths=row.lengths,
        offset_S=row.offset_S,
    )
    hidden_TD: Tensor = output.last_hidden_state[0]
    return hidden_TD


def load_lm(
    path: str,
    *,
    revision: str | None,
    dtype: torch.dtype,
    gradient_checkpointing: bool,
) -> PreTrainedModel:
    """A causal LM from a folder or by its Hugging Face name, in which nothing is random.

    Raises:
        InputError: there is no such model, or not all of it, or its head does more than a linear
            map.
    """
    try:
        lm, found = AutoModelForCausalLM.from_pretrained(
            path,
            revision=revision,
            dtype=dtype,
            output_loading_info=True,
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise InputError(f"model.path '{path}' cannot be loaded: {error}") from error
    if missing := sorted(found["missing_keys"]):  # they would be random
        raise InputError(f"model.path '{path}' lacks weights: {', '.join(missing[:MAX_NAMED])}")
    for name in LOGIT_TRANSFORMS:
        if getattr(lm.config, name, None) not in (None, 1.0):
            raise InputError(
                f"model.path '{path}': its config sets {name}, which the policy's LM head does "
                "not apply; use a model without it"
            )
    lm.eval()  # nothing is random: engines sample from the model as it is
    if gradient_checkpointing:
        lm.gradient_checkpointing_enable({"use_reentrant": False})
        for module in lm.modules():
            if isinstance(module, GradientCheckpointingLayer):
                module.training = True  # without it, nothing is recomputed
    return lm


def use_liger_kernels(lm: PreTrainedModel) -> None:
    """Fused norms, rotary embeddings and MLPs; the LM head is fused already.

    Raises:
        InputError: they cannot run here.
    """
    if not torch.cuda.is_available():
        raise InputError("policy.liger_kernels needs a GPU, and there is none; set it to false")
    try:
        apply_liger_kernel(lm, {"cross_entropy": False, "fused_linear_cross_entropy": False})
    except ImportError as error:
        raise InputError(
            "policy.liger_kernels needs the package liger-kernel, which is not installed; install "
            "it (pip install liger-kernel), or set policy.liger_kernels=false"
        ) from error
