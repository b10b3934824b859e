from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from ur2.errors import InputError
from ur2.policy.model.scratch import ScratchOptions, make_model

TEXTS = [
    f"The capital of {name} is {capital}. Population {n} thousand."
    for n, (name, capital) in enumerate(
        [("Sudan", "Khartoum"), ("Peru", "Lima"), ("Chad", "Jamena"), ("Oman", "Muscat")] * 20
    )
]
OPTIONS = ScratchOptions(vocab_size=300, hidden_size=64, num_heads=2, intermediate_size=64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("scratch") / "model"
    make_model(OPTIONS, TEXTS, str(out), seed=0)
    return out


def test_the_folder_loads_as_any_model_does(folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert len(tokenizer) <= model.config.vocab_size == 300
    assert model.dtype == torch.float32
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert tokenizer.eos_token == "<|end|>"
    head, embedding = model.lm_head.weight, model.model.embed_tokens.weight
    assert head.data_ptr() != embedding.data_ptr()
    assert list(folder.parent.iterdir()) == [folder]


def test_a_name_has_one_spelling_in_tokens_wherever_it_stands(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)

    def ids(text: str) -> list[int]:
        return list(tokenizer.encode(text, add_special_tokens=False))

    name = ids("Khartoum")
    for text in ("of Khartoum?", "<search>Khartoum</search>", "<answer> Khartoum </answer>"):
        found = ids(text)
        assert any(found[i : i + len(name)] == name for i in range(len(found)))


def test_markers_are_one_token_and_text_decodes_to_what_it_was(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for marker in OPTIONS.special_tokens:
        assert len(tokenizer.encode(marker, add_special_tokens=False)) == 1
    text = "Population 472 thousand of Khartoum."
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


def test_the_chat_template_opens_the_turn_of_the_assistant(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Peru?"}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == "<|system|>Be brief.<|end|><|user|>Peru?<|end|><|assistant|>"


def test_the_seed_decides_the_weights_and_the_callers_stream_is_left_alone(
    folder: Path, tmp_path: Path
) -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    make_model(OPTIONS, TEXTS, str(tmp_path / "same"), seed=0)
    assert torch.equal(torch.rand(1), expected)
    make_model(OPTIONS, TEXTS, str(tmp_path / "other"), seed=1)
    name = "model.safetensors"
    assert (tmp_path / "same" / name).read_bytes() == (folder / name).read_bytes()
    assert (tmp_path / "other" / name).read_bytes() != (folder / name).read_bytes()


def attention_of_layer_0(model: LlamaForCausalLM, token_ids: torch.Tensor) -> torch.Tensor:
    model.set_attn_implementation("eager")
    return model(token_ids, output_attentions=True).attentions[0][0]


@torch.no_grad()
def test_two_heads_start_by_looking_one_token_back(folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder)
    token_ids = torch.randint(12, 300, (1, 40), generator=torch.Generator().manual_seed(0))
    attention = attention_of_layer_0(model, token_ids)
    for head in range(2):
        assert (attention[head, 1:].argmax(-1) == torch.arange(39)).float().mean() > 0.9


@torch.no_grad()
def test_the_model_starts_out_repeating_what_it_saw(folder: Path, tmp_path: Path) -> None:
    plain = OPTIONS.model_copy(update={"copying_start": False})
    make_model(plain, TEXTS, str(tmp_path / "plain"), seed=0)
    block = torch.randint(12, 300, (64, 20), generator=torch.Generator().manual_seed(0))
    token_ids = torch.cat([block, block], dim=1)

    def gain(path: Path) -> float:
        logprobs = AutoModelForCausalLM.from_pretrained(path)(token_ids).logits.log_softmax(-1)
        targets = token_ids[:, 1:, None]
        chosen = logprobs[:, :-1].gather(-1, targets)[..., 0]
        return float(chosen[:, 20:].mean() - chosen[:, :19].mean())

    assert gain(folder) > 5 * abs(gain(tmp_path / "plain"))


def test_heads_that_do_not_divide_the_width_are_refused(tmp_path: Path) -> None:
    options = ScratchOptions(hidden_size=100, num_heads=3)
    with pytest.raises(InputError, match="even multiple"):
        make_model(options, TEXTS, str(tmp_path / "model"), seed=0)
    assert not list(tmp_path.iterdir())
