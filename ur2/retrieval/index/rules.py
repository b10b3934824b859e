"""From options to what an index is made of: the rules behind parameters that were left open.

Parameters of the vectors' part, by kind:
    hnsw          links (M), build_breadth (efConstruction)
    ivf, ivf_pq   lists (nlist); 4 √N of N vectors, but at most N / 39 and at least 1
    ivf_pq        bytes (per vector, 8 bits each); a quarter of the width, or the nearest divisor
                  below; rotate (1: OPQ)
and how broadly they are searched unless told: hnsw 128 candidates, ivf and ivf_pq a sixteenth of
the lists. 4 √N balances the two steps of a search; 39 vectors for each list are what k-means needs
to place its centroid well (both are faiss's own guidelines).
"""

import math
from collections.abc import Mapping

from ur2.errors import InputError
from ur2.retrieval.index.options import IndexOptions, VectorKind
from ur2.retrieval.index.words import RULE
from ur2.retrieval.manifest import IndexSpec, LexicalSpec, SearchSpec, VectorSpec

VECTORS_PER_LIST = 39
PQ_CENTROIDS = 256
HNSW_BREADTH = 128
PROBED_SHARE = 16


def index_spec(options: IndexOptions) -> IndexSpec:
    """The index that `options` ask for."""
    kind = options.index
    words = LexicalSpec(k1=options.bm25_k1, b=options.bm25_b, language=options.language, rule=RULE)
    if kind == "lexical":
        return IndexSpec(kind=kind, lexical=words)
    if kind == "hybrid":
        return IndexSpec(kind=kind, vectors=_vector_spec(options.dense, options), lexical=words)
    return IndexSpec(kind=kind, vectors=_vector_spec(kind, options))


def plan(spec: VectorSpec, *, num_vectors: int, dimension: int) -> dict[str, int]:
    """All parameters of an index over so many vectors, those left open by rule.

    Raises:
        InputError: they are impossible.
    """
    given = spec.parameters
    if spec.kind == "ivf":
        return {**given, "lists": _lists(given, num_vectors)}
    if spec.kind == "ivf_pq":
        return {
            **given,
            "lists": _lists(given, num_vectors),
            "bytes": _code_bytes(given, num_vectors, dimension),
        }
    return dict(given)


def search_spec(
    options: IndexOptions,
    spec: VectorSpec | None,
    parameters: Mapping[str, int],
    known: SearchSpec | None = None,
) -> SearchSpec:
    """How the index is searched: as `options` say, else as is `known`, else by rule.

    Args:
        options: what is asked for.
        spec: the vectors' part, if there is one.
        parameters: of it, as planned.
        known: how the index has been searched so far, perhaps because it was tuned.
    """
    known = known or SearchSpec()
    kind = spec.kind if spec else None
    breadth = None
    if kind == "hnsw":
        breadth = options.hnsw_search_breadth or known.breadth or HNSW_BREADTH
    elif kind in ("ivf", "ivf_pq"):
        lists = parameters["lists"]
        asked = options.ivf_probes or known.breadth or math.ceil(lists / PROBED_SHARE)
        breadth = min(asked, lists)
    return SearchSpec(
        breadth=breadth,
        fusion_k=options.fusion_k,
        fusion_depth=options.fusion_depth,
        tuning=known.tuning if breadth == known.breadth else None,
    )


def _vector_spec(kind: VectorKind, options: IndexOptions) -> VectorSpec:
    if kind == "ivf_pq" and options.quantiser != "none":
        raise InputError(
            f"quantiser={options.quantiser} does not go with ivf_pq, which has a quantiser of its "
            "own; leave it out, or use index=ivf"
        )
    chosen: dict[VectorKind, dict[str, int]] = {
        "flat": {},
        "hnsw": {"links": options.hnsw_links, "build_breadth": options.hnsw_build_breadth},
        "ivf": {"lists": options.ivf_lists},
        "ivf_pq": {
            "lists": options.ivf_lists,
            "bytes": options.pq_bytes,
            "rotate": int(options.pq_rotate),
        },
    }
    # 0 leaves a number to the rules; `rotate` is a choice, not a number.
    parameters = {name: n for name, n in chosen[kind].items() if n or name == "rotate"}
    return VectorSpec(kind=kind, quantiser=options.quantiser, parameters=parameters)


def _lists(given: Mapping[str, int], num_vectors: int) -> int:
    lists = given.get("lists")
    if lists is None:
        return max(1, min(int(4 * math.sqrt(num_vectors)), num_vectors // VECTORS_PER_LIST))
    if lists > num_vectors:
        raise InputError(
            f"ivf_lists={lists} cannot be learnt from {num_vectors} passages: there must be a "
            f"passage for each list, better {VECTORS_PER_LIST}; use "
            f"ivf_lists={max(1, num_vectors // VECTORS_PER_LIST)}, or leave it out"
        )
    return lists


def _code_bytes(given: Mapping[str, int], num_vectors: int, dimension: int) -> int:
    if num_vectors < PQ_CENTROIDS:
        raise InputError(
            f"index=ivf_pq cannot be learnt from {num_vectors} passages: it needs at least "
            f"{PQ_CENTROIDS}, better some ten thousand; use index=flat"
        )
    divisors = [n for n in range(1, dimension + 1) if dimension % n == 0]
    code_bytes = given.get("bytes")
    if code_bytes is None:
        return max(n for n in divisors if n <= max(dimension // 4, 1))
    if code_bytes not in divisors:
        near = sorted(divisors, key=lambda n: abs(n - code_bytes))[:3]
        raise InputError(
            f"pq_bytes={code_bytes} does not divide the vectors' width {dimension}; "
            f"use e.g. {', '.join(map(str, sorted(near)))}, or leave it out"
        )
    return code_bytes
