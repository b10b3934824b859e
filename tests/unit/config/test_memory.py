import json
from types import SimpleNamespace

import pytest

from ur2.algorithms.options import AlgorithmOptions
from ur2.config.load import compose
from ur2.config.memory import (
    GIB,
    check_disk,
    checkpoint_bytes,
    engine_memory,
    find_shape,
    kv_cache_bytes,
    policy_memory,
    shape_of,
)
from ur2.errors import InputError
from ur2.policy.options import LoraOptions, PolicyOptions
from ur2.trainer.options import ShapeOptions

SHAPE = ShapeOptions(
    num_parameters=1_000_000,
    num_layers=10,
    hidden_size=100,
    num_kv_heads=4,
    head_dim=25,
    vocab_size=1000,
)


def states(**options) -> list[float]:
    memory = policy_memory(SHAPE, PolicyOptions(**options), AlgorithmOptions())
    return [x / 1e6 for x in (memory.weights, memory.gradients, memory.optimizer)]


def test_mixed_precision_costs_eighteen_bytes_per_parameter_before_sharding():
    assert states(zero_stage=2, precision="bf16", num_ranks=1) == [2, 4, 12]


@pytest.mark.parametrize(
    ("stage", "expected"), [(0, [4, 4, 8]), (1, [4, 4, 3]), (2, [4, 1, 3]), (3, [1, 1, 3])]
)
def test_each_stage_shards_what_it_says(stage, expected):
    assert states(zero_stage=stage, num_ranks=4) == expected


def test_offload_takes_the_states_off_the_gpu():
    assert states(zero_stage=2, offload="cpu", num_ranks=2)[2] == 0


def test_checkpointing_keeps_layer_inputs_and_one_layer():
    def activations(**options) -> float:
        options = {"precision": "bf16", "max_tokens_per_microbatch": 8, **options}
        return policy_memory(SHAPE, PolicyOptions(**options), AlgorithmOptions()).activations

    assert activations() == 34 * 8 * 100 * 10
    assert activations(gradient_checkpointing=True) == 2 * 8 * 100 * 10 + 34 * 8 * 100
    assert activations(precision="fp32") == 2 * activations()


def test_the_kv_cache_holds_keys_and_values_of_every_layer():
    options = compose(["+experiment=medqa_qwen7b", "rollout.engine.tensor_parallel_size=2"])
    engine = engine_memory(SHAPE, options)
    assert engine.weights == 1_000_000  # 2 bytes over 2 GPUs
    assert engine.kv_cache_per_token == 2 * 10 * 2 * 25 * 2
    assert engine.kv_cache_per_sequence == engine.kv_cache_per_token * 31_048
    assert kv_cache_bytes(engine, options) == pytest.approx(80 * 0.85 * GIB - 1e6)


def test_more_gpus_than_heads_copy_the_heads():
    few = SHAPE.model_copy(update={"num_kv_heads": 1})
    options = compose(["+experiment=medqa_qwen7b"])
    assert engine_memory(few, options).kv_cache_per_token == 2 * 10 * 1 * 25 * 2


def test_room_is_unknown_without_the_gpus_memory_and_given_on_cpu():
    unknown = compose(["+experiment=medqa_qwen7b", "cluster.gpu_memory_gib=null"])
    assert kv_cache_bytes(engine_memory(SHAPE, unknown), unknown) is None
    cpu = compose(["+experiment=smoke"])
    assert kv_cache_bytes(engine_memory(SHAPE, cpu), cpu) == 0.5 * GIB


@pytest.mark.parametrize(
    ("experiment", "config"),
    [
        ("medqa_qwen7b", ("qwen2", 152064, 3584, 18944, 28, 28, 4, False)),
        ("medqa_qwen3b", ("qwen2", 151936, 2048, 11008, 36, 16, 2, True)),
        ("medqa_llama8b", ("llama", 128256, 4096, 14336, 32, 32, 8, False)),
    ],
)
def test_shipped_shapes_are_what_the_models_configs_give(experiment, config, tmp_path):
    names = ("model_type", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")
    names += ("num_attention_heads", "num_key_value_heads", "tie_word_embeddings")
    (tmp_path / "config.json").write_text(json.dumps(dict(zip(names, config, strict=True))))
    shipped = compose([f"+experiment={experiment}"])
    assert find_shape(shipped) == (shipped.model.shape, "model.shape")
    local = shipped.model_copy(
        update={"model": shipped.model.model_copy(update={"path": str(tmp_path)})}
    )
    assert find_shape(local) == (shipped.model.shape, "config.json")
    assert shape_of(str(tmp_path)) == shipped.model.shape


def test_a_model_that_is_yet_to_be_made_has_no_size(tmp_path):
    options = compose(["+experiment=quickstart", f"model.path={tmp_path}/none"])
    assert find_shape(options) is None


@pytest.mark.parametrize("config", ["{", "{}", '{"model_type": "vit"}', '{"model_type": "no"}'])
def test_a_config_of_no_language_model_is_one_clear_error(tmp_path, config):
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(InputError, match=r"model\.path"):
        shape_of(str(tmp_path))


def test_a_reference_costs_weights_and_a_critic_all_that_is_trained() -> None:
    plain = policy_memory(SHAPE, PolicyOptions(), AlgorithmOptions())
    reference = policy_memory(SHAPE, PolicyOptions(), AlgorithmOptions(kl_coef=0.1))
    critic = policy_memory(SHAPE, PolicyOptions(), AlgorithmOptions(estimator="gae"))
    assert plain.side_models == 0
    assert reference.side_models == plain.weights
    assert critic.side_models == plain.weights + plain.gradients + plain.optimizer
    assert critic.total == plain.total + critic.side_models


def test_adapters_need_a_fraction_of_the_states_and_no_second_model() -> None:
    whole = policy_memory(SHAPE, PolicyOptions(), AlgorithmOptions())
    lora = policy_memory(SHAPE, PolicyOptions(lora=LoraOptions()), AlgorithmOptions(kl_coef=0.1))
    assert lora.weights == whole.weights
    assert lora.side_models == 0
    assert lora.optimizer + lora.gradients < 0.5 * (whole.optimizer + whole.gradients)


def test_a_checkpoint_is_the_exported_model_and_what_its_training_goes_on_from() -> None:
    def size(**options) -> float:
        algorithm = options.pop("algorithm", AlgorithmOptions())
        return checkpoint_bytes(SHAPE, PolicyOptions(**options), algorithm) / 1e6

    assert size(precision="bf16", zero_stage=2) == 2 + 12
    assert size() == 4 + 12
    assert size(algorithm=AlgorithmOptions(estimator="gae")) == 4 + 2 * 12
    assert size(lora=LoraOptions(rank=1, alpha=1.0)) < 5


@pytest.mark.parametrize(("free", "fits"), [(31_000, False), (33_000, True)])
def test_a_disk_that_cannot_hold_the_checkpoints_is_named_at_the_start(
    tmp_path, monkeypatch, free, fits
) -> None:
    shape = SHAPE.model_copy(update={"num_parameters": 1000})  # 16,000 bytes a checkpoint
    monkeypatch.setattr("ur2.config.memory.find_shape", lambda options: (shape, "here"))
    usage = SimpleNamespace(free=free)
    monkeypatch.setattr("ur2.config.memory.disk_usage", lambda path: usage)
    options = compose(["+experiment=smoke", "trainer.keep_checkpoints=2"])
    run = tmp_path / "runs/one"
    if not fits:
        with pytest.raises(InputError, match="2 checkpoints of about"):
            check_disk(options, run)
    old = run / "checkpoints/step_000001"
    old.mkdir(parents=True)
    (old / "weights").write_bytes(bytes(17_000))  # goes when the next one is written
    check_disk(options, run)
