"""Checkpoints of two ranks go on on one and on two, under other ZeRO stages."""

import json
import runpy
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
PROGRAM = HERE / "policy_resume_rank.py"
RANKS = runpy.run_path(str(HERE / "test_policy_update.py"))
sys.path.insert(0, str(HERE))  # policy_resume_rank imports policy_rank
LOADED = runpy.run_path(str(PROGRAM))["LOADED"]
CASES = [
    (world_size, name, f"{name}-to-stage{changed['zero_stage']}")
    for world_size, names in LOADED.items()
    for name, others in names.items()
    for changed in others
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two ranks saved, and what two groups made of it."""
    folder = tmp_path_factory.mktemp("resume")
    RANKS["make_model"](folder / "untied", tied=False)
    ranks = RANKS["start_ranks"](folder, 2, PROGRAM)
    RANKS["wait_for"](ranks, folder / "world2")
    (folder / "world2").rename(folder / "saved")
    groups = {n: RANKS["start_ranks"](folder, n, PROGRAM) for n in (1, 2)}
    for world_size, ranks in groups.items():
        RANKS["wait_for"](ranks, folder / f"world{world_size}")
    return folder


def states(checkpoint: Path) -> dict[str, torch.Tensor]:
    """All that a checkpoint keeps of every parameter."""
    return {
        f"{path.parent.name}/{name}": tensor
        for path in checkpoint.rglob("state-*.safetensors")
        for name, tensor in load_file(path).items()
    }


@pytest.mark.parametrize(("world_size", "name", "case"), CASES)
def test_a_checkpoint_survives_other_ranks_and_stages_bit_by_bit(
    world_size: int, name: str, case: str, folder: Path
) -> None:
    saved = states(folder / f"{name}.checkpoint")
    again = states(folder / f"world{world_size}" / f"{case}.checkpoint")
    strip = f"{case}.checkpoint/", f"{name}.checkpoint/"
    again = {key.replace(*strip): value for key, value in again.items()}
    assert saved.keys() == again.keys()
    assert all(torch.equal(value, again[key]) for key, value in saved.items())
    kinds = {key.rsplit("/", 1)[1] for key in saved}
    stepped = {"master", "exp_avg", "exp_avg_sq"}
    assert kinds == (stepped if name != "unstepped" else {"master"})


@pytest.mark.parametrize(
    ("world_size", "name", "case"), [case for case in CASES if case[1] != "bf16"]
)
def test_the_next_update_is_that_of_a_run_that_never_stopped(
    world_size: int, name: str, case: str, folder: Path
) -> None:
    through = load_file(folder / "saved" / f"{name}-through")
    RANKS["assert_same"](through, load_file(folder / f"world{world_size}" / case))
    facts = json.loads((folder / f"world{world_size}" / "facts.json").read_text())
    assert facts[case]["policy/optimizer_steps"] == (1 if name == "unstepped" else 2)


@pytest.mark.parametrize(("name", "remedy"), [("muon", "policy.optimizer=adamw"), ("lora", "lora")])
def test_a_checkpoint_of_something_else_is_refused(name: str, remedy: str, folder: Path) -> None:
    facts = json.loads((folder / "world1" / "facts.json").read_text())
    assert remedy in facts[f"refuse-{name}"]
