import subprocess
import sys

import pytest

from ur2.errors import InputError
from ur2.rollout.engines import factory
from ur2.rollout.options import EngineOptions


def test_a_missing_library_is_named_with_its_remedy(monkeypatch):
    monkeypatch.setattr(factory.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"vllm is not installed.*name=hf"):
        factory.check_installed(EngineOptions(name="vllm"))


@pytest.mark.parametrize("name", ["vllm", "hf"])
def test_every_engine_of_the_options_can_be_made(name):
    engine = factory.make_engine(
        EngineOptions(name=name), model_path="m", dtype="float32", max_model_len=64, seed=0
    )
    assert type(engine) is factory.ENGINES[name]


def test_importing_the_engines_and_episodes_loads_no_heavy_library():
    code = (
        "import sys, ur2.rollout.pool.rollout_pool, ur2.rollout.worker\n"
        "heavy = {'torch', 'vllm', 'ray', 'transformers', 'deepspeed'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
