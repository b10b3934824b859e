"""What sleeping calls of vllm on a GPU is there, under these names."""

import dataclasses
import inspect
from typing import get_args

import pytest

pytest.importorskip("vllm")

from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.v1.engine import PauseMode
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.executor.abstract import SLEEP_TAGS

pytestmark = pytest.mark.slow


def test_vllm_sleeps_by_level_and_wakes_by_tag() -> None:
    assert {"level", "mode"} <= inspect.signature(AsyncLLM.sleep).parameters.keys()
    assert "tags" in inspect.signature(AsyncLLM.wake_up).parameters
    assert "keep" in get_args(PauseMode)
    assert set(SLEEP_TAGS) == {"weights", "kv_cache"}
    assert "enable_sleep_mode" in {field.name for field in dataclasses.fields(AsyncEngineArgs)}
