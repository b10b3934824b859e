"""TRL's GRPO loss, driven directly; `update.py` measures it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from tokenizers import Tokenizer, models
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast
from trl import GRPOConfig, GRPOTrainer
from trl.trainer.utils import entropy_from_logits, selective_log_softmax

from ur2.types import Sample

TrlLoss = Callable[[Mapping[str, Tensor]], Tensor]


def make_trainer(lm: PreTrainedModel, folder: str, batch_size: int) -> Any:
    """A GRPOTrainer whose loss is on-policy and normalised over the batch (`dapo`), as ours."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({"x": 0}, unk_token="x")), pad_token="x",
        eos_token="x",
    )  # fmt: skip
    trainer = GRPOTrainer(
        model=lm,
        reward_funcs=[lambda completions, **_: [0.0] * len(completions)],
        args=GRPOConfig(
            output_dir=folder,
            per_device_train_batch_size=batch_size,
            num_generations=batch_size,
            gradient_accumulation_steps=1,
            gradient_checkpointing=False,
            bf16=False,
            use_cpu=lm.device.type == "cpu",
            loss_type="dapo",
            beta=0.0,
            report_to=[],
        ),
        train_dataset=Dataset.from_dict({"prompt": ["x"] * batch_size}),
        processing_class=tokenizer,
    )
    trainer.current_gradient_accumulation_steps = 1
    return trainer


def trl_losses(trainer: Any) -> tuple[TrlLoss, TrlLoss]:
    """With the fused head, and with whole logits of the completions."""
    fused_head = trainer._get_per_token_logps_and_entropies

    def whole_logits(
        model: Any, ids: Tensor, mask: Tensor, num_kept: int, **_: Any
    ) -> tuple[Tensor, Tensor, None]:
        logits = model(input_ids=ids, attention_mask=mask, logits_to_keep=num_kept + 1).logits
        logits = logits[:, :-1]
        with torch.no_grad():
            entropies = entropy_from_logits(logits)
        return selective_log_softmax(logits, ids[:, -num_kept:]), entropies, None

    def loss_with(score: Callable[..., Any]) -> TrlLoss:
        def loss(inputs: Mapping[str, Tensor]) -> Tensor:
            trainer._get_per_token_logps_and_entropies = score
            return trainer.compute_loss(trainer.model, inputs)

        return loss

    return loss_with(fused_head), loss_with(whole_logits)


def trl_inputs(
    samples: Sequence[Sample], num_items: int, device: torch.device
) -> dict[str, Tensor]:
    """Prompts padded on the left and completions on the right, each to its longest."""
    firsts = [int(np.argmax(s.mask)) for s in samples]
    prompts = [torch.from_numpy(s.token_ids[:n]) for s, n in zip(samples, firsts, strict=True)]
    answers = [torch.from_numpy(s.token_ids[n:]) for s, n in zip(samples, firsts, strict=True)]

    def padded(parts: Sequence[Tensor], side: str) -> tuple[Tensor, Tensor]:
        pad = nn.utils.rnn.pad_sequence
        ids = pad(parts, batch_first=True, padding_side=side)
        real = pad([torch.ones_like(p) for p in parts], batch_first=True, padding_side=side)
        return ids.to(device), real.to(device)

    prompt_ids, prompt_mask = padded(prompts, "left")
    completion_ids, completion_mask = padded(answers, "right")
    return {
        "prompt_ids": prompt_ids,
        "prompt_mask": prompt_mask,
        "completion_ids": completion_ids,
        "completion_mask": completion_mask,
        "advantages": torch.tensor([float(s.advantages[-1]) for s in samples], device=device),
        "num_items_in_batch": torch.tensor(float(num_items), device=device),
    }
