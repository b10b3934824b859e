"""Which families of transformers' causal language models can be trained, tried on tiny ones.

Every architecture that transformers knows is made small and random, saved, loaded as a run loads it
and probed. "Not tried" are those whose configuration cannot be made small without knowing it.
"""

import contextlib
import logging
import multiprocessing
import tempfile
import warnings
from collections import defaultdict
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from ur2.errors import InputError
from ur2.policy.model.models import load_lm
from ur2.policy.model.probe import probe

SMALL: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "moe_intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "num_experts": 4,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
MAX_PARAMETERS = 20_000_000
TIMEOUT_S = 30
LONGEST_REASON = 110


def main() -> None:
    """Prints a table in Markdown."""
    groups: dict[str, list[str]] = defaultdict(list)
    for kind in sorted(set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)):
        groups[verdict_of(kind)].append(kind)
    print("| verdict | families (`model_type`) |\n|---|---|")
    for verdict in sorted(groups, key=lambda v: (v != "works", v)):
        print(f"| {verdict} | {', '.join(groups[verdict])} |")


def verdict_of(kind: str) -> str:
    """The verdict on a family, tried in a process of its own, which may take long or die."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=lambda: sender.send(tried(kind)))
    process.start()
    sender.close()
    try:
        if not receiver.poll(TIMEOUT_S):
            return f"not tried: took more than {TIMEOUT_S} s"
        return str(receiver.recv())
    except EOFError:
        return "not tried: its process died"
    finally:
        process.kill()
        process.join()


def tried(kind: str) -> str:
    """The verdict on a family: works, refused and why, or not tried."""
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        try:
            AutoModelForCausalLM.from_config(small(kind)).save_pretrained(folder)
        except Exception as error:  # noqa: BLE001 - another model's code about a configuration of our own making
            return f"not tried: {type(error).__name__} when made small"
        try:
            probe(load_lm(folder, revision=None, dtype=torch.float32, gradient_checkpointing=False))
        except InputError as error:
            return "refused: " + reason(str(error).replace(folder, "…"))
    return "works"


def small(kind: str) -> PreTrainedConfig:
    """A tiny configuration of the family.

    Raises:
        ValueError: what can be made small leaves it large.
    """
    known = AutoConfig.for_model(kind).get_text_config()
    sizes = {name: value for name, value in SMALL.items() if hasattr(known, name)}
    try:
        config = type(known)(**sizes)
    except Exception:  # noqa: BLE001 - heads that must divide one another are tried once more
        config = type(known)(**{**sizes, "num_key_value_heads": 4})
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    if sum(p.numel() for p in model.parameters()) > MAX_PARAMETERS:
        raise ValueError(f"{kind} stays large")
    return config


def reason(message: str) -> str:
    """The message without what differs from family to family."""
    with contextlib.suppress(ValueError):
        message = message[message.index(":") + 1 :]
    return message.strip()[:LONGEST_REASON]


if __name__ == "__main__":
    main()
