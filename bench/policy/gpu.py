"""Utilisation of a GPU by whole optimizer steps, beside the floors of FLOPs and bytes.

`update.py` runs it where there is a GPU. The shape is that of Qwen2.5-3B in bf16, rows of
16,384 tokens, AdamW.
"""

import numpy as np
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from bench.policy.work import DEVICE, make_samples, median, packed_pass, timed
from ur2.policy.batch.packing import num_inputs
from ur2.policy.model.models import PolicyModel

QWEN_3B = {
    "vocab_size": 151_936,
    "hidden_size": 2048,
    "intermediate_size": 11_008,
    "num_hidden_layers": 36,
    "num_attention_heads": 16,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
}
PEAKS = {"H200": (989e12, 4.8e12), "H100": (989e12, 3.35e12), "A100": (312e12, 2.0e12)}
"""Dense bf16 FLOP/s and bytes/s by the data sheets."""


def utilisation(repeats: int) -> dict[str, object]:
    """Share of the GPU's peak FLOP/s in whole steps, and the floors of FLOPs and bytes."""
    row_tokens, num_sequences = 16_384, 128
    with torch.device(DEVICE):
        lm = Qwen2ForCausalLM(Qwen2Config(**QWEN_3B)).to(torch.bfloat16).train()
    model = PolicyModel(lm)
    optimizer = torch.optim.AdamW(lm.parameters(), lr=1e-6, fused=True)
    samples = make_samples(num_sequences, QWEN_3B["vocab_size"], longest=row_tokens)

    def step() -> None:
        packed_pass(model, samples, row_tokens)
        optimizer.step()

    step()
    torch.cuda.reset_peak_memory_stats()
    seconds = median(timed(lm, {"step": step}, repeats)["step"])
    lengths = np.array([num_inputs(s) for s in samples])
    trained = sum(int(s.mask.sum()) for s in samples)
    embedding = lm.get_input_embeddings().weight.numel()
    body = sum(p.numel() for p in lm.parameters()) - embedding
    width, layers = QWEN_3B["hidden_size"], QWEN_3B["num_hidden_layers"]
    # forward and backward: 6 per weight and token; causal attention 6 per pair of tokens and width
    flops = 6 * body * lengths.sum() + 6 * embedding * trained
    flops += 6 * layers * width * (lengths.astype(float) ** 2).sum()
    num_rows = -(-lengths.sum() // row_tokens)
    # per row: weights read twice, gradients read and written; per step: AdamW reads 4, writes 3
    num_bytes = 2 * (body + embedding) * (4 * num_rows + 7)
    peak_flops, peak_bytes = next(
        (v for k, v in PEAKS.items() if k in torch.cuda.get_device_name()), (float("nan"),) * 2
    )
    mfu = float(flops / seconds / peak_flops)
    print(
        f"mfu      {mfu:.1%}: {lengths.sum():,} tokens in {seconds:.2f} s; floors "
        f"{flops / peak_flops:.2f} s for {flops:.2e} FLOPs, "
        f"{num_bytes / peak_bytes:.3f} s for {num_bytes:.2e} bytes of weights and their states"
    )
    return {
        "mfu": round(mfu, 3),
        "gpu_tokens_per_s": round(float(lengths.sum()) / seconds),
        "gpu_peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 1),
    }
