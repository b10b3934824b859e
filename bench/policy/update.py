"""Cost of the policy update: packing, memory of the LM head, TRL's loss path, and MFU on a GPU.

    python scripts/bench/policy_update.py [head_tokens=N] [repeats=2]

One plain process; needs torch and transformers (PYTHONPATH=. where ur2 is not installed), and TRL
for the comparison with it. The work is always the same, and gradients of all variants are compared.

- packed: 48 sequences, lengths at the quantiles of a lognormal with median 600 and p99 6,000,
  shuffled. `padded` is what frameworks do by default: microbatches of 8 in arrival order, padded to
  the longest. `sorted` is padded too, in order of length, within as many tokens as packed rows.
  Both padded variants use transformers' own SDPA without a mask, and the same LM head on trained
  tokens only, so that they differ from `packed` in padding and in nothing else.
- head: from hidden states to their gradient, at vocabulary 151,936 and width 896. `plain` takes the
  log-softmax of all logits. Without head_tokens=N as many of 8,192 tokens as memory allows plain.
- trl: GRPOTrainer.compute_loss on 16 such sequences, cut at 2,048 tokens, in microbatches of 8;
  with TRL's fused LM head, which is made for Triton, and with TRL's functions of whole logits
  (`selective_log_softmax`, `entropy_from_logits`). Ratios are to the better of the two.
- On a GPU also: the head at 7B's shape, and utilisation (`policy_gpu`).

Times are medians of interleaved repeats; see `work.py` for what is timed, and how.
"""

import importlib.util
import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence

import psutil
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import Qwen2Config, Qwen2ForCausalLM

from bench.figures import tell
from bench.policy.gpu import utilisation
from bench.policy.work import (
    DEVICE,
    OPTIONS,
    Run,
    clear,
    clock,
    denominators,
    difference,
    hardware,
    make_samples,
    median,
    packed_pass,
    peak_memory,
    ratio,
    spread,
    timed,
)
from ur2.policy.batch.microbatch import collate
from ur2.policy.batch.packing import num_inputs
from ur2.policy.loss import microbatch_loss
from ur2.policy.model.models import PolicyModel
from ur2.policy.model.token_logprobs import TokenLogprobs
from ur2.types import Sample

SEQUENCES, PER_MICROBATCH, ROW_TOKENS = 48, 8, 8192
SHAPE = {
    "vocab_size": 4096,
    "hidden_size": 64,
    "intermediate_size": 192,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}
DTYPE = torch.float32
if DEVICE.type == "cuda":  # that of Qwen2.5-0.5B
    SHAPE = {
        "vocab_size": 151_936,
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
    }
    DTYPE = torch.bfloat16


def main() -> None:
    given = dict(argument.split("=", 1) for argument in sys.argv[1:])
    repeats = int(given.get("repeats", 2))
    torch.set_num_threads(1)  # its processor time does not move with what else runs
    torch.manual_seed(0)
    lm = Qwen2ForCausalLM(Qwen2Config(**SHAPE)).to(DEVICE, DTYPE).train()
    samples = make_samples(SEQUENCES, SHAPE["vocab_size"], longest=10_000)
    figures: dict[str, object] = {"hardware": hardware()}
    print(figures["hardware"])
    figures |= packing(lm, samples, repeats)
    figures |= head(896, 151_936, torch.float32, int(given.get("head_tokens", 0)))
    figures |= against_trl(lm, make_samples(16, SHAPE["vocab_size"], longest=2048), repeats)
    if DEVICE.type == "cuda":
        seven = head(3584, 152_064, torch.bfloat16, 8192)
        figures |= {f"{key}_7b": value for key, value in seven.items()} | utilisation(repeats)
    tell("policy_update", figures)


def packing(lm: Qwen2ForCausalLM, samples: list[Sample], repeats: int) -> dict[str, object]:
    """Tokens per second, packed and padded."""
    model = PolicyModel(lm)
    arrival = [samples[i : i + PER_MICROBATCH] for i in range(0, len(samples), PER_MICROBATCH)]
    by_length = runs_of_like_length(samples, ROW_TOKENS)
    variants: dict[str, Run] = {
        "packed": lambda: packed_pass(model, samples, ROW_TOKENS),
        "sorted": lambda: padded_pass(model, by_length),
        "padded": lambda: padded_pass(model, arrival),
    }
    check_gradients(lm, variants)
    seconds = timed(lm, variants, repeats)
    needed = sum(map(num_inputs, samples))
    computed = {"packed": needed, "sorted": padded_size(by_length), "padded": padded_size(arrival)}
    for name, value in seconds.items():
        print(
            f"{name:8} {needed / median(value):9,.0f} tokens/s of {spread(value)}, "
            f"{computed[name]:,} computed for {needed:,} needed"
        )
    return {
        "packed_ratio": ratio(seconds, "padded", "packed"),
        "packed_ratio_sorted": ratio(seconds, "sorted", "packed"),
        "packed_tokens_per_s": round(needed / median(seconds["packed"])),
    }


def padded_pass(model: PolicyModel, microbatches: Sequence[Sequence[Sample]]) -> None:
    model.lm.set_attn_implementation("sdpa")
    everything = [s for m in microbatches for s in m]
    counts = denominators(sum(int(s.mask.sum()) for s in everything), len(everything))
    for microbatch in microbatches:
        inputs = collate(microbatch, DEVICE)
        ids = [torch.from_numpy(s.token_ids[: num_inputs(s)]) for s in microbatch]
        ids_BT = nn.utils.rnn.pad_sequence(ids, batch_first=True).to(DEVICE)
        hidden_BTD = model.lm.get_decoder()(input_ids=ids_BT, use_cache=False).last_hidden_state
        real_BT = torch.arange(ids_BT.shape[1]) < torch.tensor(inputs.row.lengths)[:, None]
        hidden_TD = hidden_BTD[real_BT.to(DEVICE)]
        logprob_N, entropy_N = model.token_logprobs(hidden_TD[inputs.position_N], inputs.target_N)
        microbatch_loss(logprob_N, entropy_N, inputs, None, OPTIONS, counts)[0].backward()


def runs_of_like_length(samples: Sequence[Sample], limit: int) -> list[list[Sample]]:
    runs: list[list[Sample]] = []
    for sample in sorted(samples, key=num_inputs, reverse=True):
        if runs and (len(runs[-1]) + 1) * num_inputs(runs[-1][0]) <= limit:
            runs[-1].append(sample)
        else:
            runs.append([sample])
    return runs


def padded_size(microbatches: Sequence[Sequence[Sample]]) -> int:
    return sum(len(m) * max(map(num_inputs, m)) for m in microbatches)


def head(width: int, vocab: int, dtype: torch.dtype, num_tokens: int) -> dict[str, object]:
    """Peak memory from hidden states to their gradient and the weight's."""
    if not num_tokens:  # plain holds log-probabilities and two gradients at once
        free = psutil.virtual_memory().available if DEVICE.type == "cpu" else 1 << 40
        fits = [n for n in (8192, 4096, 2048) if 3.3 * n * vocab * 4 < 0.9 * free]
        num_tokens = fits[0] if fits else 1024
    linear = nn.Linear(width, vocab, bias=False, device=DEVICE, dtype=dtype)
    hidden = torch.randn(num_tokens, width, device=DEVICE, dtype=dtype, requires_grad=True)
    target = torch.randint(0, vocab, (num_tokens,), device=DEVICE)
    fused = TokenLogprobs(linear, temperature=1.0, chunk_tokens=1024)

    def chunked() -> Tensor:
        return fused(hidden, target)[0]

    def plain() -> Tensor:
        logprob_NV = functional.log_softmax(linear(hidden).float(), dim=-1)
        return logprob_NV.gather(1, target[:, None]).squeeze(1)

    torch.set_num_threads(os.cpu_count() or 1)
    peaks, seconds, gradients = {}, {}, {}
    for name, logprobs in {"chunked": chunked, "plain": plain}.items():
        linear.weight.grad = hidden.grad = None
        begin = clock()
        with peak_memory() as peak:
            logprob_N = logprobs()
            loss = -(logprob_N - logprob_N.detach()).exp().mean()
            loss.backward()
        seconds[name] = clock() - begin
        peaks[name], gradients[name] = peak[0], hidden.grad.float()
        del logprob_N, loss
    torch.set_num_threads(1)
    print(
        f"head     {num_tokens:,} tokens x {vocab:,}: "
        + ", ".join(f"{n} {peaks[n] / 2**30:.2f} GiB in {seconds[n]:.1f} s" for n in peaks)
        + f"; gradients differ by {difference(*gradients.values()):.1e}"
    )
    return {
        "memory_ratio": round(peaks["chunked"] / peaks["plain"], 3),
        "memory_tokens": num_tokens,
        "memory_seconds_ratio": round(seconds["chunked"] / seconds["plain"], 2),
    }


def against_trl(lm: Qwen2ForCausalLM, samples: list[Sample], repeats: int) -> dict[str, object]:
    """Tokens per second and peak memory beside TRL's GRPO loss."""
    if importlib.util.find_spec("trl") is None:
        print("trl      is not installed")
        return {"trl_ratio": None, "trl_memory_ratio": None}
    from bench.policy.trl_grpo import make_trainer, trl_inputs, trl_losses

    theirs = Qwen2ForCausalLM(Qwen2Config(**SHAPE)).to(DEVICE, DTYPE).train()
    theirs.load_state_dict(lm.state_dict())
    model = PolicyModel(lm)
    num_items = sum(int(s.mask.sum()) for s in samples)
    batches = [
        trl_inputs(samples[i : i + PER_MICROBATCH], num_items, DEVICE)
        for i in range(0, len(samples), PER_MICROBATCH)
    ]

    def trl_pass(loss_of: Callable[[Mapping[str, Tensor]], Tensor]) -> None:
        for batch in batches:
            loss_of(batch).backward()

    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(theirs, folder, PER_MICROBATCH)
        fused, whole = trl_losses(trainer)
        variants: dict[str, Run] = {
            "ur2": lambda: packed_pass(model, samples, ROW_TOKENS),
            "trl": lambda: trl_pass(fused),
            "trl_logits": lambda: trl_pass(whole),
        }
        gradients, peaks = {}, {}
        for name, run in variants.items():
            of = lm if name == "ur2" else theirs
            clear(of)
            with peak_memory() as peak:
                run()
            peaks[name] = peak[0]
            gradients[name] = torch.cat([p.grad.flatten() for p in of.parameters()])
        seconds = timed(lm, variants, repeats)
    needed = sum(map(num_inputs, samples))
    for name, value in seconds.items():
        print(
            f"{name:10} {needed / median(value):9,.0f} tokens/s of {spread(value)}, "
            f"peak {peaks[name] / 2**20:,.0f} MiB, "
            f"gradients differ by {difference(gradients[name], gradients['ur2']):.1e}"
        )
    return {
        "trl_ratio": min(ratio(seconds, "trl", "ur2"), ratio(seconds, "trl_logits", "ur2")),
        "trl_memory_ratio": round(peaks["ur2"] / min(peaks["trl"], peaks["trl_logits"]), 3),
    }


def check_gradients(lm: nn.Module, variants: Mapping[str, Run]) -> None:
    gradients = []
    for run in variants.values():
        clear(lm)
        run()
        gradients.append(torch.cat([p.grad.flatten() for p in lm.parameters()]))
    worst = max(difference(gradients[0], other) for other in gradients[1:])
    print(f"packing  gradients of {', '.join(variants)} differ by {worst:.1e}")
