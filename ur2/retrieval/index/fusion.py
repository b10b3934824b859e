"""Several rankings to one.

Shapes: _Q queries, _K ranks of a list, _F ranks of the fused list.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

NO_ROW = -1
"""Stands where a ranking has ended."""

Rows = NDArray[np.int64]


def reciprocal_rank_fusion(
    rankings: Sequence[Rows], top_k: int, *, k: float = 60.0
) -> tuple[NDArray[np.float32], Rows]:
    """score(row) = Σ over rankings of 1 / (k + rank), ranks from 1. Cormack et al. 2009.

    Of equal scores the smaller row is first.

    Args:
        rankings: rows, best first, each (Q, K) with a K of its own.
        top_k: F.
        k: the larger, the less the first ranks stand out.

    Returns:
        Scores (Q, F) and rows (Q, F); where there are fewer rows, score 0 and `NO_ROW`.
    """
    num_queries = len(rankings[0])
    score_QF = np.zeros((num_queries, top_k), dtype=np.float32)
    row_QF = np.full((num_queries, top_k), NO_ROW, dtype=np.int64)
    share_ranking = [1.0 / (k + np.arange(1, ranking.shape[1] + 1)) for ranking in rankings]
    for query in range(num_queries):
        row_ranked = np.concatenate([ranking[query] for ranking in rankings])
        share_ranked = np.concatenate(share_ranking)
        there = row_ranked != NO_ROW
        rows, which = np.unique(row_ranked[there], return_inverse=True)
        scores = np.bincount(which, weights=share_ranked[there], minlength=len(rows))
        best = np.argsort(-scores, kind="stable")[:top_k]
        score_QF[query, : len(best)] = scores[best]
        row_QF[query, : len(best)] = rows[best]
    return score_QF, row_QF
