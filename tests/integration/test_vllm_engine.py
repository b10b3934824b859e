"""The vllm engine on a tiny model, tied and untied; one engine per model serves all tests in order.

The last tests end their engine, so the order of this file matters.
"""

import asyncio
import dataclasses
import os
from pathlib import Path

import psutil
import pytest
import pytest_asyncio
import torch
from safetensors import safe_open
from safetensors.torch import save_file

pytest.importorskip("vllm")

from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.conftest import shared_memory
from ur2.errors import ComponentError, InputError
from ur2.policy.weight_sender import free_port
from ur2.rollout.engines.base import GenerationRequest
from ur2.rollout.engines.hf import HfEngine
from ur2.rollout.engines.vllm import VllmEngine
from ur2.rollout.options import EngineOptions
from ur2.transfer.checks import with_checksums
from ur2.transfer.files import write_published
from ur2.transfer.records import ChannelError, Rendezvous, WeightFolder, WeightsManifest
from ur2.transfer.tcp import TcpChannel

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

PROMPTS = [tuple(range(20, 28 + 5 * i)) for i in range(6)]
MAX_MODEL_LEN = 320
CPU = torch.device("cpu")


def make(engine, model_path, **options):
    return engine(
        EngineOptions(enforce_eager=True, kv_cache_gib=0.25, **options),
        model_path=model_path,
        dtype="float32",
        max_model_len=MAX_MODEL_LEN,
        seed=1,
    )


def own_processes():
    return {p.pid for p in psutil.Process().children(recursive=True) if "VLLM" in p.name()}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(tiny_model):
    environment = dict(os.environ)
    running = make(VllmEngine, tiny_model)
    running.shared_memory_before = shared_memory()
    try:
        await running.start()
        yield running
    finally:
        await running.close()
        os.environ.clear()
        os.environ.update(environment)


@pytest.fixture(scope="module")
def model(tiny_model):
    return AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def other_weights(model, tmp_path_factory):
    """A changed copy of the model, and its weights published in two buckets."""
    changed = AutoModelForCausalLM.from_config(model.config).eval()
    changed.load_state_dict(model.state_dict())
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in changed.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return changed, publish(changed, tmp_path_factory.mktemp("weights"))


def publish(model, folder: Path) -> str:
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    names = sorted(weights)
    save_file({n: weights[n] for n in names[::2]}, folder / "0.safetensors")
    save_file({n: weights[n] for n in names[1::2]}, folder / "1.safetensors")
    return str(folder)


def reference(model, prompt, sampled, temperature=1.0):
    with torch.no_grad():
        logits = model(torch.tensor([[*prompt, *sampled]])).logits[0].float()
    logprobs = torch.log_softmax(logits / (temperature or 1.0), -1)[len(prompt) - 1 : -1]
    return logprobs[range(len(sampled)), sampled]


async def largest_gap(engine, model, **request):
    """The largest difference between the engine's logprobs and transformers' float32 ones."""
    drawn = await asyncio.gather(
        *(
            engine.generate(GenerationRequest(token_ids=p, max_tokens=24, **request))
            for p in PROMPTS
        )
    )
    return max(
        (torch.tensor(d.logprobs) - reference(model, p, d.token_ids, request["temperature"]))
        .abs()
        .max()
        .item()
        for p, d in zip(PROMPTS, drawn, strict=True)
    )


@pytest.mark.parametrize("temperature", [0.0, 0.6, 1.0])
async def test_logprobs_are_those_of_the_sampling_distribution(engine, model, temperature):
    assert await largest_gap(engine, model, temperature=temperature) < 1e-4


async def test_samples_at_different_temperatures_share_a_batch_and_keep_their_own_logprobs(
    engine, model
):
    temperatures = (0.1, 0.4, 0.7, 1.0)
    gaps = await asyncio.gather(
        *(largest_gap(engine, model, temperature=temperature) for temperature in temperatures)
    )
    # a logit's error grows as it is divided
    assert all(gap < 1e-4 / t for gap, t in zip(gaps, temperatures, strict=True)), gaps


def kept(probs, *, top_p=1.0, top_k=0):
    """The likeliest of the `top_k` likeliest tokens that hold `top_p` of what these hold."""
    likely = probs.argsort(descending=True)[: top_k or None].tolist()
    tokens, held = [], 0.0
    for token in likely:
        if held >= top_p:
            break
        tokens.append(token)
        held += (probs[token] / probs[likely].sum()).item()
    return tokens


@pytest.mark.parametrize("cut", [{"top_p": 0.6}, {"top_k": 5}, {"top_p": 0.8, "top_k": 7}])
async def test_logprobs_are_those_of_the_part_that_is_sampled_from(engine, model, cut):
    for temperature in (1.0, 0.0):
        request = GenerationRequest(
            token_ids=PROMPTS[2], max_tokens=24, temperature=temperature, **cut
        )
        drawn = await engine.generate(request)
        with torch.no_grad():
            logits = model(torch.tensor([[*PROMPTS[2], *drawn.token_ids]])).logits[0].float()
        for row, token, logprob in zip(
            torch.softmax(logits[len(PROMPTS[2]) - 1 : -1], -1),
            drawn.token_ids,
            drawn.logprobs,
            strict=True,
        ):
            tokens = kept(row, **cut)
            assert token in tokens
            share = row[tokens].sum() if temperature else 1.0  # greedy ones are of the whole
            assert abs(logprob - (row[token] / share).log()) < 1e-4


async def test_greedy_decoding_equals_that_of_the_hf_engine(engine, tiny_model):
    other = make(HfEngine, tiny_model)
    await other.start()
    requests = [GenerationRequest(token_ids=p, max_tokens=24, temperature=0.0) for p in PROMPTS]
    ours = await asyncio.gather(*map(engine.generate, requests))
    theirs = await asyncio.gather(*map(other.generate, requests))
    await other.close()
    assert [g.token_ids for g in ours] == [g.token_ids for g in theirs]
    assert [(g.text, g.finish) for g in ours] == [(g.text, g.finish) for g in theirs]
    for a, b in zip(ours, theirs, strict=True):
        assert torch.allclose(torch.tensor(a.logprobs), torch.tensor(b.logprobs), atol=1e-4)


async def test_a_seed_fixes_the_draw_whatever_runs_beside_it(engine):
    request = GenerationRequest(token_ids=PROMPTS[0], max_tokens=16, seed=5)
    alone = await engine.generate(request)
    crowd = [GenerationRequest(token_ids=p, max_tokens=16) for p in PROMPTS]
    again, *others = await asyncio.gather(*map(engine.generate, [request, *crowd]))
    assert again.token_ids == alone.token_ids
    assert others[0].token_ids != alone.token_ids


async def test_seeded_prompts_that_exceed_one_batch_together_are_served(engine):
    requests = [
        GenerationRequest(token_ids=(20 + i, *range(21, 270)), max_tokens=2, seed=i)
        for i in range(24)
    ]
    drawn = await asyncio.gather(*map(engine.generate, requests))
    assert [len(g.token_ids) for g in drawn] == [2] * 24


async def test_stops_are_kept_and_end_the_turn(engine, tiny_model):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    free = await engine.generate(GenerationRequest(token_ids=PROMPTS[0], max_tokens=40, seed=11))
    assert free.finish == "length"
    assert len(free.token_ids) == len(free.logprobs) == 40

    stop = free.token_ids[9]
    cut = free.token_ids.index(stop) + 1
    request = GenerationRequest(
        token_ids=PROMPTS[0], max_tokens=40, seed=11, stop_token_ids=(stop,)
    )
    assert (stopped := await engine.generate(request)).token_ids == free.token_ids[:cut]
    assert stopped.finish == "stop"
    assert stopped.text == tokenizer.decode(free.token_ids[:cut])

    pairs = [tokenizer.decode(free.token_ids[i : i + 2]) for i in range(39)]
    text = next(t for t in pairs if t.isascii() and t.isprintable() and len(t) > 2)
    request = GenerationRequest(
        token_ids=PROMPTS[0], max_tokens=40, seed=11, stop_strings=("</answer>", text)
    )
    stopped = await engine.generate(request)
    assert stopped.finish == "stop"
    assert stopped.token_ids == free.token_ids[: len(stopped.token_ids)]
    assert text in stopped.text
    assert text not in tokenizer.decode(stopped.token_ids[:-1])


async def test_nothing_ends_a_turn_that_its_request_does_not_name(engine, tiny_model):
    end = AutoTokenizer.from_pretrained(tiny_model).eos_token_id
    requests = [
        GenerationRequest(token_ids=p, max_tokens=250, temperature=2.0, seed=i)
        for i, p in enumerate(PROMPTS * 2)
    ]
    drawn = await asyncio.gather(*map(engine.generate, requests))
    assert {len(generation.token_ids) for generation in drawn} == {250}
    assert any(end in generation.token_ids for generation in drawn)


async def test_a_marker_that_is_one_token_stops_and_stays_in_the_ids(engine, tiny_model):
    marker = AutoTokenizer.from_pretrained(tiny_model).convert_tokens_to_ids("</search>")
    requests = [
        GenerationRequest(
            token_ids=p, max_tokens=250, temperature=2.0, stop_strings=("</search>",), seed=i
        )
        for i, p in enumerate(PROMPTS * 2)
    ]
    drawn = await asyncio.gather(*map(engine.generate, requests))
    stopped = [generation for generation in drawn if marker in generation.token_ids]
    assert stopped
    for generation in stopped:
        assert generation.token_ids.index(marker) == len(generation.token_ids) - 1
        assert generation.text.endswith("</search>")
        assert generation.finish == "stop"


async def test_new_weights_take_effect_in_every_layer_and_label_what_follows(
    engine, model, other_weights, tmp_path
):
    changed, path = other_weights
    await engine.take(WeightFolder(path), 3)
    for temperature in (0.0, 1.0):
        assert await largest_gap(engine, changed, temperature=temperature) < 1e-4
    drawn = await engine.generate(GenerationRequest(token_ids=PROMPTS[0], max_tokens=2))
    assert drawn.weight_versions == ((3, 2),)
    await engine.take(WeightFolder(publish(model, tmp_path)), 4)
    assert await largest_gap(engine, model, temperature=1.0) < 1e-4


async def test_requests_in_flight_go_on_under_the_new_weights(engine, model, other_weights):
    changed, path = other_weights
    requests = [GenerationRequest(token_ids=p, max_tokens=200) for p in PROMPTS]
    running = [asyncio.create_task(engine.generate(r)) for r in requests]
    await asyncio.sleep(0.1)
    await engine.take(WeightFolder(path), 5)
    crossed = 0
    for prompt, drawn in zip(PROMPTS, await asyncio.gather(*running), strict=True):
        before = reference(model, prompt, drawn.token_ids)
        after = reference(changed, prompt, drawn.token_ids)
        logprobs = torch.tensor(drawn.logprobs)
        is_old = (logprobs - before).abs() < 1e-4
        is_new = (logprobs - after).abs() < 1e-4
        assert (is_old | is_new).all()
        num_old = int((is_old & ~is_new).nonzero().max()) + 1
        assert (is_old[:num_old]).all()
        assert (is_new[num_old:]).all()
        num_new = len(drawn.token_ids) - num_old
        assert drawn.weight_versions == ((4, num_old), *(((5, num_new),) if num_new else ()))
        crossed += num_old < len(drawn.token_ids)
    assert crossed


async def test_tokens_of_requests_that_are_given_up_are_counted(engine):
    before = engine.num_abandoned_tokens
    request = GenerationRequest(token_ids=PROMPTS[0], max_tokens=200)
    running = [asyncio.create_task(engine.generate(request)) for _ in range(4)]
    await asyncio.sleep(0.1)
    for task in running:
        task.cancel()
    outcomes = await asyncio.gather(*running, return_exceptions=True)
    given_up = sum(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes)
    assert given_up
    assert 0 < engine.num_abandoned_tokens - before <= given_up * 200
    at_once = asyncio.create_task(engine.generate(request))
    await asyncio.sleep(0)
    at_once.cancel()
    await asyncio.gather(at_once, return_exceptions=True)
    assert len((await engine.generate(request)).token_ids) > 1


async def test_a_sleeping_engine_decodes_nothing_and_wakes_under_the_weights_it_got(
    engine, model, other_weights, tmp_path
):
    changed, path = other_weights
    await engine.take(WeightFolder(publish(model, tmp_path)), 4)
    requests = [GenerationRequest(token_ids=p, max_tokens=200) for p in PROMPTS]
    running = [asyncio.create_task(engine.generate(r)) for r in requests]
    await asyncio.sleep(0.1)
    await engine.sleep(keep_weights=False)
    crossing = [task for task in running if not task.done()]
    assert crossing
    late = asyncio.create_task(engine.generate(requests[0]))
    with pytest.raises(ComponentError, match="without weights"):
        await engine.wake()
    await engine.take(WeightFolder(path), 5)
    await asyncio.sleep(1.0)  # enough for all of them
    assert not any(task.done() for task in (*crossing, late))
    await engine.wake()
    await engine.wake()
    drawn = await late
    assert drawn.weight_versions == ((5, len(drawn.token_ids)),)
    expected = reference(changed, requests[0].token_ids, drawn.token_ids)
    assert torch.allclose(torch.tensor(drawn.logprobs), expected, atol=1e-4)
    for drawn in await asyncio.gather(*crossing):
        # a slow machine may have sampled nothing of some before
        assert [run.version for run in drawn.weight_versions] in ([4, 5], [5])


async def test_a_sleeping_engine_does_not_wake_under_weights_of_which_a_part_fits(
    engine, other_weights, tmp_path
):
    _, path = other_weights
    save_file({"model.norm.weight": torch.ones(64)}, tmp_path / "0.safetensors")
    await engine.sleep(keep_weights=True)
    with pytest.raises(ComponentError, match=r"missing .*embed_tokens"):
        await engine.take(WeightFolder(str(tmp_path)), 6)
    with pytest.raises(ComponentError, match="without weights"):
        await engine.wake()
    await engine.take(WeightFolder(path), 5)
    await engine.wake()


async def test_a_directory_without_weights_changes_nothing(engine, tmp_path):
    with pytest.raises(InputError, match="no weights"):
        await engine.take(WeightFolder(str(tmp_path)), 6)
    drawn = await engine.generate(GenerationRequest(token_ids=PROMPTS[0], max_tokens=2))
    assert drawn.weight_versions == ((5, 2),)


async def test_verified_weights_are_taken_and_damaged_ones_named(engine, other_weights, tmp_path):
    changed, _ = other_weights
    weights = {name: p.detach().clone() for name, p in changed.named_parameters()}
    for version in (6, 7):  # found by name, then by the way of the first time
        folder = tmp_path / f"v{version}"
        write_published(iter([weights]), folder, version, checksums=True)
        await engine.take(WeightFolder(str(folder)), version)
        assert await largest_gap(engine, changed, temperature=1.0) < 1e-4

    async def differing(folder):
        (names,) = await engine._llm.collective_rpc("ur2_differing", args=(str(folder),))
        return names

    for name in ("model.layers.1.mlp.up_proj.weight", "model.layers.0.self_attn.k_proj.bias",
                 "model.embed_tokens.weight", "model.norm.weight"):  # fmt: skip
        stale = {n: p + 1e-6 * (n == name) for n, p in weights.items()}
        write_published(iter([stale]), tmp_path / "stale", 8, checksums=True)
        names = await differing(tmp_path / "stale")
        assert name in names
        assert len(names) <= 3  # those that share a kernel with it
    with safe_open(tmp_path / "v7" / "weights-00000.safetensors", framework="pt") as file:
        metadata = file.metadata()
    weights["model.layers.0.mlp.gate_proj.weight"][0, 0] += 1
    save_file(weights, tmp_path / "v7" / "weights-00000.safetensors", metadata)
    assert await differing(tmp_path / "v7") == ["model.layers.0.mlp.gate_proj.weight"]


def weights_of(model):
    return [(name, p.detach().clone()) for name, p in model.named_parameters()]


def manifest_of(weights):
    return WeightsManifest(
        names=tuple(name for name, _ in weights),
        dtypes=("float32",) * len(weights),
        shapes=tuple(tuple(tensor.shape) for _, tensor in weights),
        verified=True,
    )


async def joined(engine):
    """The policy's end of a channel whose parts are smaller than most tensors."""
    rendezvous = Rendezvous(
        channel="tcp", address="127.0.0.1", port=free_port(), num_ranks=2, first_rank=0,
        timeout_s=60.0, secret="secret", part_bytes=20_000,
    )  # fmt: skip
    sender, _ = await asyncio.gather(
        asyncio.to_thread(TcpChannel, rendezvous, 0, CPU),
        engine.take(dataclasses.replace(rendezvous, first_rank=1), 0),
    )
    return sender


async def pass_on(sender, engine, weights, sent, version):
    await asyncio.gather(
        asyncio.to_thread(sender.send, manifest_of(weights), sent),
        engine.take(manifest_of(weights), version),
    )


async def test_weights_over_a_channel_take_effect_while_requests_are_in_flight(
    engine, model, other_weights
):
    changed, _ = other_weights
    sender = await joined(engine)
    for version, source in ((8, model), (9, changed), (10, model)):
        running = asyncio.create_task(
            engine.generate(GenerationRequest(token_ids=PROMPTS[0], max_tokens=200))
        )
        weights = weights_of(source)
        await pass_on(sender, engine, weights, with_checksums(weights, CPU), version)
        assert await largest_gap(engine, source, temperature=1.0) < 1e-4
        assert (await running).weight_versions[-1].version == version
    sender.close()


async def test_an_engine_recovers_from_a_channel_that_breaks_and_from_damage(engine, other_weights):
    changed, _ = other_weights
    weights = weights_of(changed)
    sender = await joined(engine)
    receiving = asyncio.create_task(engine.take(manifest_of(weights), 11))
    await asyncio.to_thread(sender.send, manifest_of(weights), weights[:5])
    sender.close()
    with pytest.raises(ChannelError, match="the other end has left"):
        await receiving
    with pytest.raises(ChannelError):  # until it has another
        await engine.take(manifest_of(weights), 11)

    def damaged():
        for name, tensor in with_checksums(weights, CPU):
            yield name, tensor + (name == "model.norm.weight")

    sender = await joined(engine)
    with pytest.raises(ComponentError, match=r"over the channel are not .* model\.norm\.weight"):
        await pass_on(sender, engine, weights, damaged(), 12)
    without = [item for item in weights if item[0] != "model.norm.weight"]
    with pytest.raises(ComponentError, match=r"do not fit .* missing model\.norm\.weight"):
        await pass_on(sender, engine, without, with_checksums(without, CPU), 12)
    await pass_on(sender, engine, weights, with_checksums(weights, CPU), 13)
    assert await largest_gap(engine, changed, temperature=1.0) < 1e-4
    drawn = await engine.generate(GenerationRequest(token_ids=PROMPTS[0], max_tokens=2))
    assert drawn.weight_versions == ((13, 2),)
    sender.close()


@pytest.mark.parametrize("tiny_model", [True], indirect=True, ids=["tied"])
async def test_weights_that_do_not_fit_are_named_and_the_engine_closes_clean(engine, tmp_path):
    save_file({"model.norm.weight": torch.ones(64)}, tmp_path / "0.safetensors")
    with pytest.raises(ComponentError, match=r"missing .*embed_tokens"):
        await engine.take(WeightFolder(str(tmp_path)), 6)
    assert own_processes()
    await engine.close()
    assert not own_processes()
    left = shared_memory() - engine.shared_memory_before
    assert not {path for path in left if not path.name.startswith("ur2-")}  # whole runs' notes


@pytest.mark.parametrize("tiny_model", [False], indirect=True, ids=["untied"])
async def test_the_death_of_the_engine_is_an_error_and_leaves_nothing(engine):
    request = GenerationRequest(token_ids=PROMPTS[0], max_tokens=280)

    async def until_it_fails() -> None:
        while True:
            await engine.generate(request)

    running = asyncio.create_task(until_it_fails())
    await asyncio.sleep(0.05)
    for pid in own_processes():
        psutil.Process(pid).kill()
    with pytest.raises(ComponentError, match="vllm engine failed"):
        await asyncio.wait_for(running, 30)
    with pytest.raises(ComponentError, match="vllm engine failed"):
        await engine.generate(request)
    await engine.close()
    assert not own_processes()
