import dataclasses

import torch

from ur2.rollout.engines.base import GenerationRequest
from ur2.rollout.engines.hf_batch import RunningRequest, sample
from ur2.rollout.engines.text import stop_ids


def row(seed=0, **request):
    return RunningRequest(
        request=GenerationRequest(token_ids=(1,), max_tokens=4, **request),
        stop_token_ids=frozenset(),
        generator=torch.Generator().manual_seed(seed),
    )


def test_draws_follow_the_distribution_under_the_temperature():
    logits = torch.tensor([[0.0, 1.0, 2.0, -1.0]])
    draws = 20_000
    tokens, logprobs = sample(
        logits.expand(draws, 4), [row(seed, temperature=0.5) for seed in range(draws)]
    )
    expected = torch.log_softmax(logits[0] / 0.5, -1)
    share = torch.bincount(tokens, minlength=4) / draws
    assert torch.allclose(share, expected.exp(), atol=0.012)
    assert torch.allclose(logprobs, expected[tokens], atol=1e-6)


def test_a_draw_does_not_depend_on_the_rows_beside_it():
    logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(1))
    together = sample(logits, [row(5), row(6), row(7)])[0]
    alone = [sample(logits[i : i + 1], [row(5 + i)])[0].item() for i in range(3)]
    assert together.tolist() == alone


def test_temperature_zero_takes_the_most_likely_token_with_its_logprob_at_temperature_one():
    logits = torch.tensor([[1.0, 3.0, 2.0], [1.0, 3.0, 2.0]])
    tokens, logprobs = sample(logits, [row(temperature=0.0), row(temperature=0.0)])
    assert tokens.tolist() == [1, 1]
    assert torch.allclose(logprobs, torch.log_softmax(logits, -1)[:, 1])


def test_top_k_and_top_p_cut_each_row_by_its_own_limits_and_renormalise():
    logits = torch.log(torch.tensor([0.1, 0.5, 0.3, 0.1])).expand(600, 4)
    rows = [row(i, top_k=2) for i in range(300)] + [row(i, top_p=0.45) for i in range(300)]
    tokens, logprobs = sample(logits, rows)
    assert set(tokens[:300].tolist()) == {1, 2}
    first = tokens[:300] == 1
    assert torch.allclose(logprobs[:300][first].exp(), torch.tensor(0.625))
    assert set(tokens[300:].tolist()) == {1}
    assert torch.allclose(logprobs[300:], torch.tensor(0.0), atol=1e-6)


def test_top_p_is_a_share_of_what_top_k_leaves():
    logits = torch.log(torch.tensor([0.1, 0.5, 0.3, 0.1])).expand(100, 4)
    tokens, logprobs = sample(logits, [row(i, top_k=2, top_p=0.6) for i in range(100)])
    assert set(tokens.tolist()) == {1}  # 0.5 of the two likeliest is 0.625
    assert torch.allclose(logprobs, torch.tensor(0.0), atol=1e-6)


def test_a_greedy_logprob_is_that_of_the_whole_distribution_whatever_is_cut():
    logits = torch.log(torch.tensor([[0.1, 0.5, 0.3, 0.1]])).expand(3, 4)
    rows = [row(temperature=0.0, **cut) for cut in ({"top_p": 0.5}, {"top_k": 1}, {})]
    tokens, logprobs = sample(logits, rows)
    assert tokens.tolist() == [1, 1, 1]
    assert torch.allclose(logprobs.exp(), torch.tensor(0.5))


class ByteTokenizer:
    """Token ids are bytes; `<s>` is one added token."""

    def decode(self, token_ids, **_):
        return bytes(token_ids).decode(errors="replace")

    def get_added_vocab(self):
        return {"<s>": 300}


def test_only_added_tokens_become_stop_ids():
    request = GenerationRequest(
        token_ids=(1,), max_tokens=4, stop_token_ids=(7, 300), stop_strings=("<s>", "</s>", "a")
    )
    assert stop_ids(ByteTokenizer(), request) == (7, 300)
    assert stop_ids(ByteTokenizer(), dataclasses.replace(request, stop_token_ids=())) == (300,)


def test_a_stop_string_ends_a_row_with_the_token_that_completes_it():
    stopping = row()
    stopping.request = GenerationRequest(token_ids=(1,), max_tokens=12, stop_strings=("</é>",))
    finishes = []
    for byte in "ab </é>".encode():
        stopping.token_ids.append(byte)
        finishes.append(stopping.finish(ByteTokenizer()))
    assert finishes == [None] * 7 + ["stop"]


def test_a_stop_on_the_last_token_of_the_budget_is_a_stop():
    ending = row()
    ending.stop_token_ids = frozenset({9})
    ending.token_ids = [1, 2, 3, 9]
    assert ending.finish(ByteTokenizer()) == "stop"
    ending.token_ids = [1, 2, 3, 4]
    assert ending.finish(ByteTokenizer()) == "length"
