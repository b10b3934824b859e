"""The keys that decide which index is made and how it is searched."""

from typing import Annotated, Literal

from pydantic import Field

from ur2.options import Options
from ur2.retrieval.index.words import Language

VectorKind = Literal["flat", "hnsw", "ivf", "ivf_pq"]
IndexKind = Literal["flat", "hnsw", "ivf", "ivf_pq", "lexical", "hybrid"]
Quantiser = Literal["none", "fp16", "sq8"]

Count = Annotated[int, Field(ge=1)]


class IndexOptions(Options):
    """Which index to make of a corpus. Of a number where 0 is the default, 0 follows a rule."""

    index: IndexKind = "flat"
    """`flat`: exact; `hnsw`: a graph, fast on large corpora; `ivf`: lists around centroids, faster
    to build and smaller than a graph; `ivf_pq`: likewise, with each vector cut to a few bytes;
    `lexical`: BM25 over words, needs no encoder; `hybrid`: BM25 and vectors, fused."""
    dense: VectorKind = "flat"
    """The vectors' part of a `hybrid` index."""
    quantiser: Quantiser = "none"
    """How `flat`, `hnsw` and `ivf` keep vectors: float32, or scalar-quantised to half floats (half
    the size, hardly any loss) or to 8 bits a number (a quarter of the size, a small loss)."""
    hnsw_links: Annotated[int, Field(ge=2)] = 32
    """Links per node of an `hnsw` index (M)."""
    hnsw_build_breadth: Count = 200
    """Candidates considered when a node is added to an `hnsw` index (efConstruction)."""
    hnsw_search_breadth: Count | None = None
    """Candidates considered by a search of an `hnsw` index (efSearch); 128 where none is given."""
    ivf_lists: Annotated[int, Field(ge=0)] = 0
    """Lists of an `ivf` or `ivf_pq` index (nlist); 0 is 4 √N of N passages, but at most N / 39."""
    ivf_probes: Count | None = None
    """Lists that a search visits (nprobe); a sixteenth of them where none is given."""
    pq_bytes: Annotated[int, Field(ge=0)] = 0
    """Bytes per vector of `ivf_pq`, a divisor of its width; 0 is a quarter of the width or the
    nearest divisor below."""
    pq_rotate: bool = True
    """Whether `ivf_pq` first learns a rotation that loses less (OPQ)."""
    index_device: str = "cpu"
    """The device that learns and finds the lists of `ivf` and `ivf_pq`: `cpu`, `cuda:0`, or `auto`:
    all GPUs where faiss was built for them."""
    bm25_k1: Annotated[float, Field(ge=0)] = 0.9
    """How soon another occurrence of a word stops to count."""
    bm25_b: Annotated[float, Field(ge=0, le=1)] = 0.4
    """How much long passages are held back."""
    language: Language = "english"
    """The language of words: which endings are cut off, and which words are too common to search
    with; `none` cuts and drops nothing. Chinese, Japanese and Korean are read in pairs of
    characters whatever stands here."""
    fusion_k: Annotated[float, Field(ge=0)] = 60.0
    """The constant of reciprocal-rank fusion: a passage at rank r of a list counts 1 / (k + r)."""
    fusion_depth: Count = 100
    """Passages that each part of a `hybrid` index contributes to the fusion."""
    autotune_queries: str | None = None
    """A file of queries with which `hnsw_search_breadth` or `ivf_probes` is chosen after the build;
    `corpus` takes sentences of the corpus itself. See `python -m ur2.retrieval.autotune --help`."""
    autotune_recall: Annotated[float, Field(gt=0, le=1)] = 0.97
    """The recall at 10 that `autotune_queries` shall reach."""
