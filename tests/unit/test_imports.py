import subprocess
import sys

import pytest

HEAVY = ("vllm", "ray", "deepspeed", "faiss", "transformers", "torch.distributed.fsdp")
LIGHT = [
    "ur2.types",
    "ur2.config.load",
    "ur2.config.preflight",
    "ur2.algorithms",
    "ur2.rewards.rubric",
    "ur2.curriculum.curriculum",
    "ur2.difficulty",
    "ur2.prompts.render",
    "ur2.datasets",
    "ur2.rollout.options",
    "ur2.policy.options",
    "ur2.retrieval.options",
    "ur2.trainer.options",
    "ur2.testing",
    "ur2.benchmarks.runner",
    "ur2.evaluate",
]


@pytest.mark.parametrize("module", LIGHT)
def test_light_packages_pull_in_no_heavy_library(module: str) -> None:
    code = f"import sys, {module}; print(*[m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
