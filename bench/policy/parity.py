"""Families under vllm: tiny models sample with the policy's log-probabilities, also after a sync.

    python scripts/bench/parity.py [families=qwen2,qwen3] [limit=1e-4]

Each family is made small and random, with tied and with untied embeddings where it knows both. The
engine of a run samples 6 prompts, and every token's log-probability is compared with that of the
policy's own model. Then all weights are changed, handed over by the names that the policy
publishes, and compared again; the first figure is before, the second after. A family whose names or
fused weights differ between the two shows here.
"""

import asyncio
import logging
import multiprocessing
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from bench.figures import tell
from ur2.errors import Ur2Error
from ur2.policy.model.lora import weights_of
from ur2.policy.model.models import load_lm
from ur2.rollout.engines.base import GenerationRequest
from ur2.rollout.engines.vllm import VllmEngine
from ur2.rollout.options import EngineOptions
from ur2.transfer.records import WeightFolder

FAMILIES = ("qwen2", "qwen3", "qwen3_moe", "llama", "gemma", "mistral", "phi3", "olmo2")
SMALL: dict[str, Any] = {
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 96,
    "moe_intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "sliding_window": None,
}
PROMPTS = [tuple(range(20, 28 + 5 * number)) for number in range(6)]
TIMEOUT_S = 240


def main() -> None:
    """Prints the largest differences as a table, and fails where one is above the limit."""
    given = {"families": ",".join(FAMILIES), "limit": "1e-4"}
    given |= dict(argument.split("=", 1) for argument in sys.argv[1:])
    print(f"{'family':12} {'embeddings':11} {'before a sync':>14} {'after it':>10}")
    figures: dict[str, Any] = {}
    for family in given["families"].split(","):
        for tied in (True, False):
            found = apart(family, tied)
            name = "tied" if tied else "untied"
            shown = found if isinstance(found, str) else "{:14.1e} {:10.1e}".format(*found)
            print(f"{family:12} {name:11} {shown}", flush=True)
            figures[f"{family}_{name}"] = found
    tell("parity", figures)
    limit = float(given["limit"])
    if any(isinstance(found, str) or max(found) > limit for found in figures.values()):
        sys.exit(1)


def apart(family: str, tied: bool) -> tuple[float, float] | str:
    """The largest differences before and after a sync; or why there are none."""
    context = multiprocessing.get_context("spawn")  # an engine leaves nothing to the next
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_tell, args=(sender, family, tied))
    process.start()
    sender.close()
    try:
        if not receiver.poll(TIMEOUT_S):
            return f"no answer within {TIMEOUT_S} s"
        found: tuple[float, float] | str = receiver.recv()
        return found
    except EOFError:
        return "its process died"
    finally:
        process.join(30)
        process.kill()


def _tell(sender: Any, family: str, tied: bool) -> None:
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    try:
        sender.send(asyncio.run(differences(family, tied)))
    except Ur2Error as error:
        sender.send(" ".join(str(error).split())[:120])


async def differences(family: str, tied: bool) -> tuple[float, float]:
    """The largest difference of log-probabilities, before weights changed and after."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(family, tied, folder / "model")
        lm = load_lm(
            str(folder / "model"), revision=None, dtype=torch.float32, gradient_checkpointing=False
        ).eval()
        engine = VllmEngine(
            EngineOptions(enforce_eager=True, kv_cache_gib=0.25),
            model_path=str(folder / "model"),
            dtype="float32",
            max_model_len=320,
            seed=1,
        )
        try:
            await engine.start()
            before = await largest_gap(engine, lm)
            generator = torch.Generator().manual_seed(3)
            with torch.no_grad():
                for parameter in lm.parameters():
                    parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
            (folder / "weights").mkdir()
            published = {w.name: w.merged() for w in weights_of(lm)}
            save_file(published, folder / "weights" / "0.safetensors")
            await engine.take(WeightFolder(str(folder / "weights")), 1)
            return before, await largest_gap(engine, lm)
        finally:
            await engine.close()


async def largest_gap(engine: VllmEngine, lm: Any) -> float:
    """The largest difference between the engine's log-probabilities and the policy's."""
    requests = [GenerationRequest(token_ids=p, max_tokens=24, temperature=1.0) for p in PROMPTS]
    drawn = await asyncio.gather(*map(engine.generate, requests))
    gaps = []
    for prompt, written in zip(PROMPTS, drawn, strict=True):
        ids = torch.tensor([[*prompt, *written.token_ids]])
        with torch.no_grad():
            logprobs = torch.log_softmax(lm(ids).logits[0].float(), -1)[len(prompt) - 1 : -1]
        of_policy = logprobs[range(len(written.token_ids)), list(written.token_ids)]
        gaps.append(float((torch.tensor(written.logprobs) - of_policy).abs().max()))
    return max(gaps)


def make(family: str, tied: bool, folder: Path) -> None:
    """Writes a tiny random model of a family, with a tokenizer of single bytes."""
    known = AutoConfig.for_model(family)
    sizes = {name: value for name, value in SMALL.items() if hasattr(known, name)}
    config = type(known)(**sizes, tie_word_embeddings=tied)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).to(torch.float32).save_pretrained(folder)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: n for n, token in enumerate(["<pad>", "<s>", "</s>", *letters])}
    backend = Tokenizer(models.BPE(vocabulary, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        chat_template="{% for m in messages %}{{ m.content }}{% endfor %}",
    ).save_pretrained(folder)


if __name__ == "__main__":
    main()
