from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ur2.errors import InputError
from ur2.retrieval.encoder.vectors import (
    VectorFolder,
    VectorsRecord,
    missing_shards,
    shard_path,
    write_record,
    write_shard,
)
from ur2.retrieval.manifest import EncoderSpec


def record(num_rows: int, shard_rows: int, kind: str = "float32") -> VectorsRecord:
    return VectorsRecord.model_validate(
        {
            "corpus_sha256": "abc",
            "encoder": EncoderSpec(name="scripted"),
            "num_rows": num_rows,
            "dimension": 3,
            "type": kind,
            "shard_rows": shard_rows,
        }
    )


def write(folder: Path, made: VectorsRecord, vector_ND: NDArray[np.float32]) -> None:
    write_record(folder, made)
    for shard in range(made.num_shards):
        write_shard(folder, shard, vector_ND[list(made.rows_of(shard))].astype(made.type))


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=15, deadline=None
)
@given(
    num_rows=st.integers(1, 40),
    shard_rows=st.integers(4, 50),
    start=st.integers(-50, 50) | st.none(),
    stop=st.integers(-50, 50) | st.none(),
    seed=st.integers(0, 99),
)
def test_shards_read_like_one_array(
    tmp_path_factory: pytest.TempPathFactory,
    num_rows: int,
    shard_rows: int,
    start: int | None,
    stop: int | None,
    seed: int,
) -> None:
    folder = tmp_path_factory.mktemp("vectors")
    rng = np.random.default_rng(seed)
    vector_ND = rng.standard_normal((num_rows, 3)).astype(np.float32)
    write(folder, record(num_rows, shard_rows), vector_ND)
    found = VectorFolder(folder)
    assert (len(found), found.dimension) == vector_ND.shape
    np.testing.assert_array_equal(found[start:stop], vector_ND[start:stop])
    rows = rng.integers(0, num_rows, 20)
    np.testing.assert_array_equal(found[rows], vector_ND[rows])
    np.testing.assert_array_equal(np.concatenate(list(found.blocks(7))), vector_ND)


def test_halves_are_read_as_float32(tmp_path: Path) -> None:
    vector_ND = np.linspace(-1, 1, 30, dtype=np.float32).reshape(10, 3)
    write(tmp_path, record(10, 4, "float16"), vector_ND)
    found = VectorFolder(tmp_path)[:]
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, vector_ND.astype(np.float16))


def test_a_shard_that_is_gone_cut_or_of_another_shape_is_missing(tmp_path: Path) -> None:
    made = record(10, 3)
    write(tmp_path, made, np.zeros((10, 3), dtype=np.float32))
    assert missing_shards(tmp_path, made) == []
    shard_path(tmp_path, 0).unlink()
    whole = shard_path(tmp_path, 1).read_bytes()
    shard_path(tmp_path, 1).write_bytes(whole[:-4])
    write_shard(tmp_path, 2, np.zeros((2, 3), dtype=np.float32))
    assert missing_shards(tmp_path, made) == [0, 1, 2]
    with pytest.raises(InputError, match="lacks 3 of 4 shards"):
        VectorFolder(tmp_path)


def test_a_folder_without_record_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no vectors"):
        VectorFolder(tmp_path)
