"""Flash attention over a packed row on a GPU, against each sequence alone in float32."""

import numpy as np
import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from ur2.policy.batch.microbatch import make_row
from ur2.policy.model.attention import use_packed_attention
from ur2.policy.model.models import hidden_states

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
LENGTHS = (300, 1, 77, 1024, 2)


@pytest.mark.parametrize("window", [None, 64])
def test_a_packed_row_equals_its_sequences_alone(window: int | None) -> None:
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=100,
        hidden_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=384,
        use_sliding_window=window is not None,
        sliding_window=window,
        max_window_layers=0,
    )
    lm = Qwen2ForCausalLM(config).cuda()
    random = np.random.default_rng(0)
    ids = [random.integers(0, 100, n) for n in LENGTHS]
    body = lm.get_decoder()
    with torch.no_grad():
        alone = [body(torch.from_numpy(i)[None].cuda()).last_hidden_state[0] for i in ids]
    use_packed_attention(lm)
    lm.bfloat16()
    found = hidden_states(lm, make_row(ids, torch.device("cuda")))
    found.sum().backward()
    for one, other in zip(found.split(LENGTHS), alone, strict=True):
        torch.testing.assert_close(one.float(), other, atol=0.1, rtol=0.05)
    assert all(p.grad.isfinite().all() for p in body.parameters())
