from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ur2.errors import InputError
from ur2.retrieval.index.options import IndexOptions
from ur2.retrieval.index.rules import index_spec, plan, search_spec
from ur2.retrieval.manifest import SearchSpec, Tuning, VectorSpec


def planned(num_vectors: int = 10_000, dimension: int = 384, **options: Any) -> dict[str, int]:
    spec = index_spec(IndexOptions(**options)).vectors
    assert spec is not None
    return plan(spec, num_vectors=num_vectors, dimension=dimension)


def test_each_kind_has_the_parts_that_it_needs() -> None:
    parts = {}
    for kind in ("flat", "hnsw", "ivf", "ivf_pq", "lexical", "hybrid"):
        spec = index_spec(IndexOptions.model_validate({"index": kind, "dense": "hnsw"}))
        parts[kind] = (spec.vectors and spec.vectors.kind, spec.lexical is not None)
    assert parts == {
        "flat": ("flat", False),
        "hnsw": ("hnsw", False),
        "ivf": ("ivf", False),
        "ivf_pq": ("ivf_pq", False),
        "lexical": (None, True),
        "hybrid": ("hnsw", True),
    }


@given(st.integers(1, 30_000_000))
def test_lists_follow_the_root_of_the_corpus_and_leave_each_enough_to_learn_from(num: int) -> None:
    lists = planned(num, index="ivf")["lists"]
    assert lists >= 1
    assert lists == 1 or lists * 39 <= num
    if num > 39**2 * 16:
        assert lists == pytest.approx(4 * num**0.5, abs=1)


@given(st.integers(1, 2048))
def test_codes_divide_the_width_and_are_at_most_a_quarter_of_it(dimension: int) -> None:
    code = planned(dimension=dimension, index="ivf_pq")["bytes"]
    assert dimension % code == 0
    assert code <= max(dimension / 4, 1)


def test_known_widths_have_codes_of_a_quarter() -> None:
    assert [planned(dimension=d, index="ivf_pq")["bytes"] for d in (384, 768, 1024)] == [
        96,
        192,
        256,
    ]


def test_what_is_given_is_kept() -> None:
    given = {"index": "ivf_pq", "ivf_lists": 50, "pq_bytes": 48, "pq_rotate": False}
    assert planned(**given) == {"lists": 50, "bytes": 48, "rotate": 0}
    assert planned(index="hnsw", hnsw_links=8)["links"] == 8


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"index": "ivf", "ivf_lists": 101}, r"ivf_lists=101 cannot be learnt from 100 passages"),
        ({"index": "ivf_pq"}, r"index=ivf_pq cannot be learnt from 100 passages.*at least 256"),
        ({"index": "ivf", "quantiser": "sq8", "ivf_lists": 200}, r"use ivf_lists=2,"),
    ],
)
def test_too_few_vectors_to_learn_from_are_an_error(options: Any, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        planned(100, **options)


def test_a_code_that_does_not_divide_the_width_names_those_that_do() -> None:
    with pytest.raises(InputError, match=r"pq_bytes=100 does not divide .*384; use e.g. 64, 96, 1"):
        planned(index="ivf_pq", pq_bytes=100)


def test_a_quantiser_does_not_go_with_codes() -> None:
    with pytest.raises(InputError, match="quantiser=sq8 does not go with ivf_pq"):
        index_spec(IndexOptions(index="ivf_pq", quantiser="sq8"))


def searched(known: SearchSpec | None = None, **options: Any) -> SearchSpec:
    asked = IndexOptions(**options)
    spec = index_spec(asked).vectors
    parameters = plan(spec, num_vectors=40_000, dimension=16) if spec else {}
    return search_spec(asked, spec, parameters, known)


def test_the_breadth_of_a_search_follows_rules_until_it_is_given() -> None:
    assert searched(index="flat").breadth is None
    assert searched(index="lexical").breadth is None
    assert searched(index="hnsw").breadth == 128
    assert searched(index="hnsw", hnsw_search_breadth=2048).breadth == 2048
    assert searched(index="ivf").breadth == 50  # a sixteenth of 4 √40,000
    assert searched(index="ivf", ivf_probes=7).breadth == 7
    assert searched(index="ivf", ivf_lists=5, ivf_probes=7).breadth == 5
    assert searched(index="hybrid", dense="ivf", fusion_k=1, fusion_depth=9) == SearchSpec(
        breadth=50, fusion_k=1, fusion_depth=9
    )


def test_a_tuned_breadth_stays_until_another_is_asked_for() -> None:
    tuning = Tuning(breadth=40, recall=0.98, target=0.97, k=10, num_queries=500)
    tuned = SearchSpec(breadth=40, tuning=tuning)
    assert searched(tuned, index="hnsw") == tuned
    assert searched(tuned, index="hnsw", hnsw_search_breadth=64) == SearchSpec(breadth=64)


def test_equal_options_make_equal_specs_whatever_the_search() -> None:
    one = index_spec(IndexOptions(index="hnsw"))
    other = index_spec(IndexOptions(index="hnsw", hnsw_search_breadth=2048, fusion_k=3))
    assert one == other
    assert one != index_spec(IndexOptions(index="hnsw", hnsw_links=16))
    assert VectorSpec(kind="flat") == index_spec(IndexOptions()).vectors
