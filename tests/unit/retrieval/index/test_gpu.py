from typing import Any

import faiss
import numpy as np
import pytest

from ur2.errors import InputError
from ur2.retrieval.index.gpu import adder, can_move, gpus, train
from ur2.retrieval.index.kinds import KINDS
from ur2.retrieval.index.nearest import InMemory, build_index, load
from ur2.retrieval.manifest import VectorSpec

SPECS = [
    VectorSpec(kind="ivf", parameters={"lists": 8}),
    VectorSpec(kind="ivf", quantiser="sq8", parameters={"lists": 8}),
    VectorSpec(kind="ivf_pq", parameters={"lists": 8, "bytes": 4, "rotate": 1}),
    VectorSpec(kind="flat"),
]


def vectors(num: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((num, 16)).astype(np.float32)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec.kind}-{spec.quantiser}")
def test_an_index_made_with_centroids_elsewhere_is_the_same(spec: VectorSpec) -> None:
    moved: list[Any] = []

    def move(index: Any) -> Any:
        """Stands for a GPU: a copy on the CPU."""
        moved.append(faiss.clone_index(index))
        return moved[-1]

    vector_ND = vectors(600)
    answers = []
    for how in (None, move):
        index = KINDS[spec.kind](16, spec, spec.parameters)
        train(index, vector_ND, how)
        add = adder(index, how)
        add(vector_ND[:250])
        add(vector_ND[250:])
        assert index.ntotal == 600
        answers.append(index.search(vector_ND[:20], 5))
    for one, other in zip(*answers, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)
    assert len(moved) == (0 if spec.kind == "flat" else 2)


def test_only_what_faiss_searches_on_gpus_is_moved() -> None:
    assert [can_move(KINDS[s.kind](16, s, s.parameters)) for s in SPECS] == [True] * 4
    links = {"links": 4, "build_breadth": 8}
    for spec in (
        VectorSpec(kind="hnsw", parameters=links),
        VectorSpec(kind="flat", quantiser="fp16"),
    ):
        assert not can_move(KINDS[spec.kind](16, spec, spec.parameters))


def test_devices_are_the_gpus_that_faiss_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 2)
    assert gpus("cpu") == []
    assert gpus("auto") == gpus("cuda") == [0, 1]
    assert gpus("cuda:1") == [1]
    for device in ("cuda:2", "cuda:x", "tpu"):
        with pytest.raises(InputError, match=f"index_device={device} .*faiss sees 2 GPUs"):
            gpus(device)


def test_without_gpus_auto_is_the_cpu_and_cuda_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 0)
    assert gpus("auto") == []
    with pytest.raises(InputError, match="faiss sees 0 GPUs; use index_device=cpu"):
        build_index(SPECS[0], InMemory(vectors(100)), device="cuda")


@pytest.mark.gpu
@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec.kind}-{spec.quantiser}")
def test_a_gpu_finds_what_the_cpu_finds(tmp_path: Any, spec: VectorSpec) -> None:
    if not faiss.get_num_gpus():
        pytest.skip("needs a GPU and faiss built for it")
    vector_ND = vectors(4000)
    build_index(spec, InMemory(vector_ND), device="auto").save(tmp_path / "v")
    breadth = None if spec.kind == "flat" else 8
    here, there = (
        load(tmp_path / "v", breadth=breadth, device=device).search(vector_ND[:50], 10)[1]
        for device in ("cpu", "auto")
    )
    assert (here == there).mean() > 0.97
