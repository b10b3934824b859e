"""The hf engine on a tiny model: batching that never shows, live weights, whole groups."""

import asyncio
import dataclasses
import gc
import json
import os
import shutil
import subprocess
import sys
import time

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from ur2.environments.options import EnvironmentOptions
from ur2.errors import ComponentError
from ur2.prompts.options import PromptOptions
from ur2.retrieval.reading.knowledge import RoutedKnowledge
from ur2.rollout.engines.base import GenerationRequest
from ur2.rollout.engines.hf import HfEngine
from ur2.rollout.options import EngineOptions, RolloutOptions, SamplingOptions
from ur2.rollout.worker import RolloutWorker, make_players
from ur2.transfer.files import write_published
from ur2.transfer.records import WeightFolder
from ur2.types import Assignment, Level, Question, Status

REQUESTS = [
    GenerationRequest(token_ids=tuple(range(20, 22 + 4 * i)), max_tokens=20 + 5 * i, seed=i)
    for i in range(8)
]


@pytest.fixture
async def engine(tiny_model):
    running = make(tiny_model)
    await running.start()
    yield running
    await running.close()


def make(model_path, *, max_num_seqs=3):
    return HfEngine(
        EngineOptions(name="hf", max_num_seqs=max_num_seqs),
        model_path=model_path,
        dtype="float32",
        max_model_len=128,
        seed=1,
    )


@pytest.fixture
def model(tiny_model):
    return AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()


def reference(model, request, sampled):
    with torch.no_grad():
        logits = model(torch.tensor([[*request.token_ids, *sampled]])).logits[0].float()
    logprobs = torch.log_softmax(logits / request.temperature, -1)[len(request.token_ids) - 1 : -1]
    return logprobs[range(len(sampled)), sampled]


async def test_rows_that_join_and_leave_sample_as_if_alone(engine, model):
    together = await asyncio.gather(*map(engine.generate, REQUESTS))
    alone = [await engine.generate(r) for r in REQUESTS]
    assert [g.token_ids for g in together] == [g.token_ids for g in alone]
    for request, drawn in zip(REQUESTS, together, strict=True):
        assert torch.allclose(
            torch.tensor(drawn.logprobs), reference(model, request, drawn.token_ids), atol=1e-4
        )


async def test_samples_at_different_temperatures_share_a_batch_and_keep_their_own_logprobs(
    engine, model
):
    requests = [
        dataclasses.replace(REQUESTS[0], temperature=t, seed=7) for t in (0.1, 0.4, 0.7, 1.0)
    ]
    drawn = await asyncio.gather(*map(engine.generate, requests))
    for request, made in zip(requests, drawn, strict=True):
        expected = reference(model, request, made.token_ids)
        assert torch.allclose(torch.tensor(made.logprobs), expected, atol=1e-3)


async def test_a_cancelled_request_frees_its_place(engine):
    endless = [asyncio.create_task(engine.generate(REQUESTS[7])) for _ in range(3)]
    await asyncio.sleep(0.01)
    for task in endless:
        task.cancel()
    assert (await asyncio.wait_for(engine.generate(REQUESTS[0]), 10)).token_ids


async def test_tokens_of_cancelled_requests_are_counted_once(engine):
    request = GenerationRequest(token_ids=(20, 21, 22), max_tokens=100)
    started = time.perf_counter()
    await engine.generate(request)
    whole_s = time.perf_counter() - started
    given_up = [asyncio.create_task(engine.generate(request)) for _ in range(2)]
    await asyncio.sleep(whole_s / 2)
    for task in given_up:
        task.cancel()
    await asyncio.gather(*given_up, return_exceptions=True)
    await engine.generate(REQUESTS[0])
    counted = engine.num_abandoned_tokens
    assert 0 < counted < 2 * 100
    await engine.generate(REQUESTS[0])
    assert engine.num_abandoned_tokens == counted


async def test_requests_in_flight_go_on_under_the_new_weights(engine, model, tmp_path):
    weights = {name: p.detach() * 1.1 for name, p in model.named_parameters()}
    save_file(weights, tmp_path / "0.safetensors")
    request = GenerationRequest(token_ids=(20, 21, 22), max_tokens=100)
    running = asyncio.create_task(engine.generate(request))
    await asyncio.sleep(0.05)
    await engine.take(WeightFolder(str(tmp_path)), 9)
    drawn, later = await running, await engine.generate(request)
    before = reference(model, request, drawn.token_ids)
    model.load_state_dict(weights, strict=False)
    model.tie_weights()
    after = reference(model, request, drawn.token_ids)
    logprobs = torch.tensor(drawn.logprobs)
    is_new = (logprobs - after).abs() < 1e-4
    switch = int((~is_new).nonzero().max()) + 1
    assert 0 < switch < 100
    assert torch.allclose(logprobs[:switch], before[:switch], atol=1e-4)
    assert drawn.weight_versions == ((0, switch), (9, 100 - switch))
    assert later.weight_versions == ((9, 100),)
    expected = reference(model, request, later.token_ids)
    assert torch.allclose(torch.tensor(later.logprobs), expected, atol=1e-4)


async def test_a_stop_that_is_one_token_ends_a_turn_in_whatever_tokens_it_is_spelled(
    engine, tiny_model, tmp_path
):
    request = GenerationRequest(token_ids=(20, 21, 22), max_tokens=60, seed=3)
    free = await engine.generate(request)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    pairs = (tokenizer.decode(free.token_ids[i : i + 2]) for i in range(59))
    text = next(t for t in pairs if t.isascii() and t.isprintable() and len(t.strip()) > 1)
    shutil.copytree(tiny_model, tmp_path / "model")
    tokenizer.add_tokens([text])
    tokenizer.save_pretrained(tmp_path / "model")
    other = make(str(tmp_path / "model"))
    await other.start()
    stopped = await other.generate(dataclasses.replace(request, stop_strings=(text,)))
    await other.close()
    assert stopped.finish == "stop"
    assert stopped.token_ids == free.token_ids[: len(stopped.token_ids)]
    assert text in stopped.text
    assert text not in tokenizer.decode(stopped.token_ids[:-1])


def parameter_bytes():
    found = (o for o in gc.get_objects() if type(o) is torch.nn.Parameter)
    return sum(parameter.untyped_storage().nbytes() for parameter in found)


async def test_an_engine_that_sleeps_without_weights_holds_none_and_wakes_with_the_next(
    tiny_model, model, tmp_path
):
    gc.collect()
    before = parameter_bytes()
    engine = make(tiny_model)
    await engine.start()
    awake = parameter_bytes() - before
    assert awake > 100_000
    request = GenerationRequest(token_ids=(20, 21, 22), max_tokens=60, seed=3)
    running = asyncio.create_task(engine.generate(request))
    await asyncio.sleep(0.03)
    await engine.sleep(keep_weights=False)
    assert parameter_bytes() - before < 0.01 * awake
    late = asyncio.create_task(engine.generate(request))
    with pytest.raises(ComponentError, match="without weights"):
        await engine.wake()
    changed = {name: p.detach() * 1.1 for name, p in model.named_parameters()}
    save_file(changed, tmp_path / "0.safetensors")
    await engine.take(WeightFolder(str(tmp_path)), 4)
    await asyncio.sleep(0.05)
    assert not running.done()
    assert not late.done()
    await engine.wake()
    crossed, drawn = await running, await late
    num_old = 60 - crossed.weight_versions[-1].num_tokens
    assert [run.version for run in crossed.weight_versions] == [0, 4]
    assert parameter_bytes() - before == awake
    old = reference(model, request, crossed.token_ids)
    model.load_state_dict(changed, strict=False)
    model.tie_weights()
    expected = reference(model, request, crossed.token_ids)
    expected[:num_old] = old[:num_old]
    assert torch.allclose(torch.tensor(crossed.logprobs), expected, atol=1e-4)
    expected = reference(model, request, drawn.token_ids)
    assert torch.allclose(torch.tensor(drawn.logprobs), expected, atol=1e-4)
    await engine.close()


async def test_an_engine_that_keeps_its_weights_wakes_as_it_was(engine):
    before = await engine.generate(REQUESTS[1])
    await engine.sleep(keep_weights=True)
    await engine.wake()
    assert await engine.generate(REQUESTS[1]) == before


async def test_damaged_weights_are_named(engine, model, tmp_path):
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    write_published(iter([weights]), tmp_path / "v10", 10, checksums=True)
    await engine.take(WeightFolder(str(tmp_path / "v10")), 10)
    file = tmp_path / "v10" / "weights-00000.safetensors"
    with safe_open(file, framework="pt") as published:
        metadata = published.metadata()
    weights["model.norm.weight"][3] += 1
    save_file(weights, file, metadata)
    with pytest.raises(ComponentError, match=r"weights 11 .* published: model\.norm\.weight;"):
        await engine.take(WeightFolder(str(tmp_path / "v10")), 11)


async def test_weights_of_another_model_are_named(engine, tmp_path):
    save_file({"model.norm.weight": torch.ones(3)}, tmp_path / "0.safetensors")
    with pytest.raises(ComponentError, match=r"model\.norm\.weight"):
        await engine.take(WeightFolder(str(tmp_path)), 1)


async def test_nothing_is_sampled_from_weights_of_which_a_part_fits(engine, model, tmp_path):
    for folder in ("whole", "part"):
        (tmp_path / folder).mkdir()
    weights = {name: p.detach() * 1.1 for name, p in model.named_parameters()}
    save_file(weights, tmp_path / "whole" / "0.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, tmp_path / "part" / "0.safetensors")
    running = asyncio.create_task(engine.generate(REQUESTS[7]))
    await asyncio.sleep(0)
    with pytest.raises(ComponentError, match=r"missing model\.norm\.weight"):
        await engine.take(WeightFolder(str(tmp_path / "part")), 1)
    late = asyncio.create_task(engine.generate(REQUESTS[0]))
    await asyncio.sleep(0.3)  # enough for both
    assert not running.done()
    assert not late.done()
    await engine.take(WeightFolder(str(tmp_path / "whole")), 2)
    assert [run.version for run in (await late).weight_versions] == [2]
    assert {run.version for run in (await running).weight_versions} <= {0, 2}


@pytest.mark.parametrize("tiny_model", [False], indirect=True, ids=["untied"])
def test_the_revision_that_is_asked_for_is_the_one_that_samples(tiny_model, model, tmp_path):
    snapshots = tmp_path / "hub" / "models--some--model" / "snapshots"
    main, other = "a" * 40, "b" * 40
    for commit in (main, other):
        shutil.copytree(tiny_model, snapshots / commit)
    (snapshots.parent / "refs").mkdir()
    (snapshots.parent / "refs" / "main").write_text(main)
    with torch.no_grad():
        model.get_output_embeddings().weight.neg_()
    model.save_pretrained(snapshots / other)
    tokenizer = json.loads((snapshots / other / "tokenizer_config.json").read_text())
    (snapshots / other / "tokenizer_config.json").write_text(
        json.dumps({**tokenizer, "eos_token": "<|user|>"})
    )
    code = f"""
import asyncio
from ur2.rollout.engines.base import GenerationRequest
from ur2.rollout.engines.factory import make_engine
from ur2.rollout.engines.text import load_tokenizer
from ur2.rollout.options import EngineOptions

async def sampled(path, revision):
    engine = make_engine(EngineOptions(name="hf"), model_path=path, dtype="float32",
                         max_model_len=64, seed=0, revision=revision)
    await engine.start()
    request = GenerationRequest(token_ids=(20, 21), max_tokens=9, temperature=0.0)
    token_ids = (await engine.generate(request)).token_ids
    await engine.close()
    return token_ids, load_tokenizer(path, revision).eos_token

own = asyncio.run(sampled("some/model", None))
asked = asyncio.run(sampled("some/model", "{other}"))
assert own == asyncio.run(sampled("{snapshots / main}", None))
assert asked == asyncio.run(sampled("{snapshots / other}", None))
assert own[0] != asked[0] and own[1] != asked[1]
"""
    environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


async def test_closing_fails_what_is_still_running(tiny_model):
    engine = make(tiny_model)
    await engine.start()
    running = asyncio.create_task(engine.generate(REQUESTS[7]))
    await asyncio.sleep(0)
    await engine.close()
    with pytest.raises(ComponentError, match="closed"):
        await running
    with pytest.raises(ComponentError, match="closed"):
        await engine.generate(REQUESTS[0])


async def test_a_group_is_played_on_a_real_tokenizer_and_model(tiny_model):
    prompt = PromptOptions.load(
        {
            "protocol": {
                "search": {"open": "<search>", "close": "</search>"},
                "documents": {"open": "<information>", "close": "</information>"},
                "answer": {"open": "<answer>", "close": "</answer>"},
            },
            "templates": {"qa": {"search": "{{ question.text }}", "direct": "{{ question.text }}"}},
        },
        where="test",
    )
    options = RolloutOptions(engine=EngineOptions(name="hf"), max_prompt_tokens=64, max_tokens=40)

    class NoRetriever:
        async def search(self, queries, top_k, corpus=None):
            return [() for _ in queries]

    players = make_players(
        options,
        prompt,
        EnvironmentOptions(),
        model_path=tiny_model,
        dtype="float32",
        knowledge=RoutedKnowledge(retriever=NoRetriever(), top_k=1),
        seed=0,
    )
    worker = RolloutWorker(players, seed=0)
    question = Question(
        id="q", task="qa", text="What is the capital?", answers=("Paris",), level=Level.EASY
    )
    assignment = Assignment(id="0-0", question=question, retrieval=True, reason="test", step=0)
    await worker.start()
    sampling = SamplingOptions(seeded=True)
    first = await worker.run_group(assignment, 6, sampling)
    again = await worker.run_group(assignment, 6, sampling)
    await worker.close()
    assert first == again
    assert len({t.segments[1].token_ids for t in first.trajectories}) == 6
    assert all(t.status in {Status.TRUNCATED, Status.NO_ANSWER} for t in first.trajectories)
