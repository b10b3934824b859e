from pathlib import Path

import pytest
import yaml

from ur2.prompts.dialect import Dialect
from ur2.prompts.options import PromptOptions

CONFIGS = Path(__file__).parents[3] / "configs" / "prompt"
NAMES = sorted(path.stem for path in CONFIGS.glob("*.yaml"))


def load(name: str) -> PromptOptions:
    return PromptOptions.load(yaml.safe_load((CONFIGS / f"{name}.yaml").read_text()), where=name)


@pytest.fixture(params=NAMES)
def shipped(request) -> PromptOptions:
    """Every prompt config in turn."""
    return load(request.param)


@pytest.fixture
def atlas() -> PromptOptions:
    return load("atlas")


@pytest.fixture
def ur2() -> PromptOptions:
    return load("ur2")


@pytest.fixture
def dialect(shipped) -> Dialect:
    return Dialect(shipped.protocol)


@pytest.fixture(scope="session")
def tokenizer():
    """Byte-level, without merges; adds a BOS of its own, and its chat template writes one too."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["<s>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>"]
    backend = Tokenizer(models.BPE({t: i for i, t in enumerate([*special, *alphabet])}, []))
    backend.add_special_tokens(special)
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token="<|end|>",
        chat_template=(
            "<s>{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
            "{% if add_generation_prompt %}<|assistant|>{% endif %}"
        ),
    )
