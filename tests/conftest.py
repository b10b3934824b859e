"""Shared fixtures: a tiny random Qwen2 with a real tokenizer, made in a second."""

import signal
from pathlib import Path

import pytest

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # Shells start background jobs like this, and commands that tests interrupt would inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)

MARKERS = ("<search>", "</search>", "<information>", "</information>", "<answer>", "</answer>")
CHAT_TOKENS = ("<|user|>", "<|assistant|>", "<|end|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def make_tiny_tokenizer(folder: Path) -> None:
    """Writes a byte-level BPE tokenizer of 320 tokens whose markers are single tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=[*CHAT_TOKENS, *MARKERS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["What is the capital of France? It is Paris."] * 9, trainer)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|end|>",
        pad_token="<|end|>",
        additional_special_tokens=[*CHAT_TOKENS[:2], *MARKERS],
        chat_template=CHAT_TEMPLATE,
    ).save_pretrained(folder)


def make_tiny_model(folder: Path, *, tied: bool, seed: int = 0) -> str:
    """Writes a random two-layer Qwen2 (head_dim 32) with its tokenizer; returns the folder."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    make_tiny_tokenizer(folder)
    config = Qwen2Config(
        vocab_size=320,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=512,
        tie_word_embeddings=tied,
        eos_token_id=CHAT_TOKENS.index("<|end|>"),
        bos_token_id=None,
        initializer_range=0.2,  # far from uniform, so that equal logprobs mean equal weights
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        Qwen2ForCausalLM(config).to(torch.float32).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session", params=[True, False], ids=["tied", "untied"])
def tiny_model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny random model folder, with tied and with untied embeddings."""
    return make_tiny_model(tmp_path_factory.mktemp("tiny-model"), tied=request.param)


def shared_memory() -> set[Path]:
    """What stands there and another program beside the tests did not make for a moment.

    Importing scikit-learn makes a `sem.loky-` in every process, and removes it at once.
    """
    return {path for path in Path("/dev/shm").iterdir() if not path.name.startswith("sem.loky-")}
