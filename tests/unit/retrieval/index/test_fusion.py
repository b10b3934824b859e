import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ur2.retrieval.index.fusion import NO_ROW, reciprocal_rank_fusion


def rows(*ranked: list[int]) -> np.ndarray:
    return np.array(ranked, dtype=np.int64)


def test_two_rankings_are_fused_as_by_hand() -> None:
    # k = 1: ranks 1, 2, 3 count 1/2, 1/3, 1/4. Row 7: 1/2 + 1/3; row 4: 1/3; row 9: 1/4 + 1/2.
    score_QF, row_QF = reciprocal_rank_fusion([rows([7, 4, 9]), rows([9, 7])], 3, k=1)
    np.testing.assert_array_equal(row_QF, [[7, 9, 4]])
    np.testing.assert_allclose(score_QF, [[5 / 6, 3 / 4, 1 / 3]], rtol=1e-6)


def test_a_row_that_one_ranking_lacks_counts_nothing_there() -> None:
    score_QF, row_QF = reciprocal_rank_fusion(
        [rows([5, NO_ROW, NO_ROW]), rows([NO_ROW, NO_ROW])], 2, k=60
    )
    np.testing.assert_array_equal(row_QF, [[5, NO_ROW]])
    np.testing.assert_allclose(score_QF, [[1 / 61, 0]], rtol=1e-6)


def test_equal_scores_are_in_order_of_rows() -> None:
    _, row_QF = reciprocal_rank_fusion([rows([8, 2]), rows([2, 8])], 2)
    np.testing.assert_array_equal(row_QF, [[2, 8]])


rankings = st.lists(st.permutations(range(8)), min_size=1, max_size=3)


@given(rankings, st.floats(0, 100))
def test_each_query_is_fused_alone_and_by_the_formula(ranked: list[list[int]], k: float) -> None:
    score_QF, row_QF = reciprocal_rank_fusion([rows(r, r[::-1]) for r in ranked], 8, k=k)
    for query in (0, 1):
        lists = [r if query == 0 else r[::-1] for r in ranked]
        wanted = {row: sum(1 / (k + r.index(row) + 1) for r in lists) for row in range(8)}
        found = dict(zip(row_QF[query].tolist(), score_QF[query].tolist(), strict=True))
        assert found == pytest.approx(wanted, rel=1e-6)
        assert sorted(found.values(), reverse=True) == score_QF[query].tolist()
