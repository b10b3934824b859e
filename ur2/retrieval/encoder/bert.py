"""A BERT that makes sentence vectors: its weights, from a folder or from a loaded model.

The folder is read without sentence_transformers, whose imports take three times the memory of
torch; what is not found to be such a BERT is left to it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor

PREFIX = "bert."
"""Before the names of weights that were saved with a head."""
MODULES = (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"])
POOLINGS = ("mean", "cls")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bert:
    """All that the forward pass needs."""

    weights: Mapping[str, Tensor]
    """By their names in transformers' BertModel."""
    num_layers: int
    num_heads: int
    norm_eps: float
    pooling: str
    """`mean` of all tokens, or the `cls` token."""
    tokenizer: Tokenizer
    """Truncates, and does not pad."""


def read_bert(folder: Path) -> Bert | None:
    """The BERT in a sentence-transformers folder; None where it is, or may be, something else."""
    try:
        modules = json.loads((folder / "modules.json").read_bytes())
        names = [module["type"].rpartition(".")[2] for module in modules]
        inner = folder / modules[0]["path"]
        config = _json(inner / "config.json")
        how = _json(inner / "sentence_bert_config.json")
        pooling = _pooling(_json(folder / modules[1]["path"] / "config.json"))
        limits = (
            how.get("max_seq_length"),
            _json(inner / "tokenizer_config.json").get("model_max_length"),
            config["max_position_embeddings"],
        )
        tokenizer = Tokenizer.from_buffer((inner / "tokenizer.json").read_bytes())
        known = names in MODULES and _is_plain(config) and not how.get("do_lower_case")
        known = known and how.get("transformer_task", "feature-extraction") == "feature-extraction"
        if not known or pooling not in POOLINGS:
            return None
        weights = load_file(inner / "model.safetensors")
    except (OSError, ValueError, KeyError, IndexError, SafetensorError):
        return None
    named = {name.removeprefix(PREFIX): weight for name, weight in weights.items()}
    return _bert(named, config, pooling, tokenizer, min(filter(None, limits)))


def bert_of(model: Any) -> Bert | None:
    """The BERT in a loaded sentence-transformers model, whose weights it shares; None likewise."""
    inner = model[0].auto_model
    config = inner.config.to_dict()
    if (
        [type(module).__name__ for module in model] not in MODULES
        or type(inner).__name__ != "BertModel"
        or not _is_plain(config)
        or model[0].do_lower_case
        or model[1].pooling_mode not in POOLINGS
    ):
        return None
    # A copy: the model sets padding and truncation on its own.
    tokenizer = Tokenizer.from_str(model.tokenizer.backend_tokenizer.to_str())
    weights = inner.state_dict()
    return _bert(weights, config, model[1].pooling_mode, tokenizer, model.max_seq_length)


def _bert(
    weights: Mapping[str, Tensor],
    config: Mapping[str, Any],
    pooling: str,
    tokenizer: Tokenizer,
    max_tokens: int,
) -> Bert:
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_tokens)
    return Bert(
        weights=weights,
        num_layers=config["num_hidden_layers"],
        num_heads=config["num_attention_heads"],
        norm_eps=config["layer_norm_eps"],
        pooling=pooling,
        tokenizer=tokenizer,
    )


def _is_plain(config: Mapping[str, Any]) -> bool:
    wanted = {
        "model_type": "bert",
        "hidden_act": "gelu",
        "position_embedding_type": "absolute",
        "is_decoder": False,
    }
    return all(config.get(name, value) == value for name, value in wanted.items())


def _pooling(config: Mapping[str, Any]) -> str:
    """In a word, or, of older versions, in flags."""
    if "pooling_mode" in config:
        return str(config["pooling_mode"])
    flags = [name for name, on in config.items() if name.startswith("pooling_mode_") and on is True]
    named = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
    return named.get(flags[0], "") if len(flags) == 1 else ""


def _json(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_bytes())
    return content
