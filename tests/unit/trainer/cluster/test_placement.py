"""The planner, on clusters of any shape."""

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ur2.trainer.cluster.placement import Bundle, Demand, Machine, placement_problems, plan
from ur2.trainer.options import ClusterOptions


def nodes(*gpus: int, cpus: float = 8.0) -> list[Machine]:
    return [
        Machine(id=f"n{i}", address=f"10.0.0.{i}", gpus=g, cpus=cpus) for i, g in enumerate(gpus)
    ]


def demand(num_ranks: int, num_engines: int, tensor_parallel: int = 1, **options: object) -> Demand:
    cluster = ClusterOptions.load(
        {"num_gpus_per_policy_rank": 1, "num_gpus_per_rollout_worker": tensor_parallel, **options},
        where="test",
    )
    return Demand(options=cluster, num_ranks=num_ranks, num_engines=num_engines)


def where_ranks_are(bundles: tuple[Bundle, ...]) -> list[str]:
    """The node of each rank, in order."""
    placed = {rank: bundle.node.id for bundle in bundles for rank in bundle.ranks}
    return [placed[rank] for rank in range(len(placed))]


def where_engines_are(bundles: tuple[Bundle, ...]) -> list[str]:
    placed = {bundle.engine: bundle.node.id for bundle in bundles if bundle.engine is not None}
    return [placed[engine] for engine in range(len(placed))]


SHAPES = st.tuples(
    st.lists(st.integers(0, 8), min_size=1, max_size=5),
    st.integers(0, 12),
    st.integers(0, 4),
    st.sampled_from([1, 2, 4, 8]),
)


@given(SHAPES)
def test_no_node_gives_more_than_it_has_and_everyone_has_a_place(
    shape: tuple[list[int], int, int, int],
) -> None:
    gpus, num_ranks, num_engines, parallel = shape
    bundles = plan(demand(num_ranks, num_engines, parallel), nodes(*gpus))
    # whole engines into every node, then single ranks into what is left: nothing packs tighter
    fits = (
        sum(g // parallel for g in gpus) >= num_engines
        and sum(gpus) >= num_ranks + num_engines * parallel
    )
    assert (bundles is not None) == fits
    if bundles is None:
        return
    assert len(where_ranks_are(bundles)) == num_ranks
    assert len(where_engines_are(bundles)) == num_engines
    taken = Counter[str]()
    for bundle in bundles:
        taken[bundle.node.id] += bundle.gpus
        assert bundle.gpus == (1 if bundle.ranks else parallel)
    assert all(taken[f"n{i}"] <= g for i, g in enumerate(gpus))


@given(st.lists(st.integers(0, 8), min_size=1, max_size=6), st.integers(1, 20))
def test_ranks_take_as_few_nodes_as_can_hold_them_and_neighbours_sit_together(
    gpus: list[int], num_ranks: int
) -> None:
    bundles = plan(demand(num_ranks, 0), nodes(*gpus))
    if bundles is None:
        assert sum(gpus) < num_ranks
        return
    where = where_ranks_are(bundles)
    largest_first = sorted(gpus, reverse=True)
    fewest = next(k for k in range(1, 7) if sum(largest_first[:k]) >= num_ranks)
    assert len(set(where)) == fewest
    changes = sum(a != b for a, b in pairwise(where))
    assert changes == fewest - 1


def test_ranks_and_engines_part_where_a_node_is_too_small_for_all() -> None:
    bundles = plan(demand(8, 4, 2), nodes(8, 8))
    assert bundles is not None
    assert where_ranks_are(bundles) == ["n0"] * 8
    assert where_engines_are(bundles) == ["n1"] * 4


def test_ranks_leave_the_node_that_only_an_engine_needs_whole() -> None:
    bundles = plan(demand(4, 1, 8), nodes(8, 4))
    assert bundles is not None
    assert where_ranks_are(bundles) == ["n1"] * 4
    assert where_engines_are(bundles) == ["n0"]


def test_ranks_part_where_engines_would_not_fit_otherwise() -> None:
    bundles = plan(demand(4, 2, 4), nodes(6, 6))
    assert bundles is not None
    assert sorted(where_engines_are(bundles)) == ["n0", "n1"]
    assert Counter(where_ranks_are(bundles)) == {"n0": 2, "n1": 2}


@pytest.mark.parametrize(("num_engines", "parallel"), [(16, 1), (8, 2), (4, 4), (2, 8)])
def test_colocated_engines_share_the_gpus_of_ranks_on_their_node(
    num_engines: int, parallel: int
) -> None:
    wanted = demand(16, num_engines, parallel, placement="colocated")
    bundles = plan(wanted, nodes(8, 8))
    assert bundles is not None
    assert wanted.num_gpus == sum(bundle.gpus for bundle in bundles) == 16
    assert where_ranks_are(bundles) == ["n0"] * 8 + ["n1"] * 8
    for number, bundle in enumerate(bundles):
        assert bundle.engine == number
        assert len(bundle.ranks) == bundle.gpus == parallel


def test_engines_alone_have_gpus_of_their_own_in_any_placement() -> None:
    wanted = demand(0, 2, 4, placement="colocated")
    bundles = plan(wanted, nodes(8))
    assert wanted.num_gpus == 8
    assert bundles is not None
    assert [bundle.gpus for bundle in bundles] == [4, 4]


def test_what_needs_nothing_stays_on_the_first_node() -> None:
    wanted = Demand(options=ClusterOptions(), num_ranks=2, num_engines=3)
    bundles = plan(wanted, nodes(0, 8))
    assert bundles is not None
    assert {bundle.node.id for bundle in bundles} == {"n0"}


def test_cpus_spread_over_nodes_where_they_are_asked_for() -> None:
    options = ClusterOptions(num_cpus_per_policy_rank=2.0, num_cpus_per_rollout_worker=4.0)
    bundles = plan(Demand(options=options, num_ranks=2, num_engines=3), nodes(0, 0))
    assert bundles is not None
    taken = Counter[str]()
    for bundle in bundles:
        taken[bundle.node.id] += int(bundle.cpus)
    assert taken == {"n0": 8, "n1": 8}
    assert plan(Demand(options=options, num_ranks=3, num_engines=3), nodes(0, 0)) is None


@pytest.mark.parametrize(
    ("num_ranks", "num_engines", "parallel", "named"),
    [
        (4, 2, 2, None),
        (8, 2, 4, None),
        (4, 1, 2, "4 x 1 must equal"),
        (3, 2, 2, "2 x 2"),
    ],
)
def test_colocation_needs_every_gpu_on_both_sides(
    num_ranks: int, num_engines: int, parallel: int, named: str | None
) -> None:
    options = demand(0, 0, parallel, placement="colocated").options
    found = list(placement_problems(options, num_ranks=num_ranks, num_engines=num_engines))
    assert bool(found) == (named is not None)
    assert named is None or named in found[0]


def test_a_rank_of_two_gpus_cannot_be_halved_among_engines() -> None:
    options = ClusterOptions(
        placement="colocated", num_gpus_per_policy_rank=2, num_gpus_per_rollout_worker=1
    )
    (found,) = placement_problems(options, num_ranks=2, num_engines=4)
    assert "do not divide" in found


def test_a_demand_says_what_it_wants() -> None:
    assert str(demand(4, 2, 2)) == (
        "4 policy rank(s) of 1 GPU(s) and 2 engine(s) of 2 GPU(s), on one node each"
    )
    assert "on the GPUs of the ranks" in str(demand(4, 2, 2, placement="colocated"))
