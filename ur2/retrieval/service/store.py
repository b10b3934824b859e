"""The folder that `build` makes: passages, what finds them, and the manifest that ties them.

Shapes: _Q queries, _D width of a vector, _K results per query.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ur2.errors import InputError
from ur2.retrieval.corpus.file import Corpus
from ur2.retrieval.encoder.sentence_encoder import Encoder
from ur2.retrieval.index import nearest as vectors
from ur2.retrieval.index.fusion import NO_ROW, Rows, reciprocal_rank_fusion
from ur2.retrieval.manifest import LexicalSpec, StoreManifest, load_manifest
from ur2.types import Passage

if TYPE_CHECKING:
    from ur2.retrieval.index.lexical import LexicalIndex

CORPUS_FILE = "corpus.arrow"
VECTORS_FILE = "vectors.faiss"
LEXICAL_FOLDER = "lexical"


class PassageStore:
    """An index opened together with its passages; everything is memory-mapped."""

    def __init__(self, folder: Path, *, device: str = "cpu") -> None:
        """Opens an index folder, vectors on `device`.

        Raises:
            InputError: it is missing, damaged, or its parts do not belong together.
        """
        self.manifest: StoreManifest = load_manifest(folder)
        spec, how = self.manifest.recipe.index, self.manifest.search
        self.corpus = Corpus(folder / CORPUS_FILE)
        self.vectors = (
            vectors.load(folder / VECTORS_FILE, breadth=how.breadth, device=device)
            if spec.vectors
            else None
        )
        self._lexical = (
            _open_lexical(folder / LEXICAL_FOLDER, spec.lexical) if spec.lexical else None
        )
        self._check_parts(folder)

    def __len__(self) -> int:
        return len(self.corpus)

    def check_encoder(self, encoder: Encoder) -> None:
        """Makes sure that `encoder` is the one whose vectors the index holds.

        Raises:
            InputError: it is another one.
        """
        manifest = self.manifest
        if encoder.spec != manifest.recipe.encoder or encoder.dimension != manifest.dimension:
            raise InputError(
                f"the index was made with encoder {manifest.recipe.encoder} of dimension "
                f"{manifest.dimension}, not with {encoder.spec} of dimension {encoder.dimension}; "
                "use that encoder, or build the index again with this one"
            )

    def search(
        self,
        queries: Sequence[str],
        query_QD: NDArray[np.float32] | None,
        top_k: int,
        *,
        num_threads: int = 1,
    ) -> list[tuple[Passage, ...]]:
        """The passages that fit each query best, best first; fewer where not so many fit.

        Args:
            queries: the texts, which an index of vectors alone does not look at.
            query_QD: their vectors; None for an index of words alone.
            top_k: passages per query.
            num_threads: of this search.
        """
        score_QK, row_QK = self._rank(queries, query_QD, top_k, num_threads)
        return [
            tuple(
                self.corpus.passage(row, score)
                for row, score in zip(rows, scores, strict=True)
                if row != NO_ROW
            )
            for rows, scores in zip(row_QK.tolist(), score_QK.tolist(), strict=True)
        ]

    def _rank(
        self,
        queries: Sequence[str],
        query_QD: NDArray[np.float32] | None,
        top_k: int,
        num_threads: int,
    ) -> tuple[NDArray[np.float32], Rows]:
        how = self.manifest.search
        depth = max(top_k, how.fusion_depth) if self.vectors and self._lexical else top_k
        found = []
        if self.vectors is not None:
            if query_QD is None:
                raise ValueError("an index of vectors is searched with vectors")
            found.append(self.vectors.search(query_QD, depth, num_threads=num_threads))
        if self._lexical is not None:
            found.append(self._lexical.search(queries, depth))
        if len(found) == 1:
            return found[0]
        return reciprocal_rank_fusion([rows for _, rows in found], top_k, k=how.fusion_k)

    def _check_parts(self, folder: Path) -> None:
        manifest = self.manifest
        recipe, count = manifest.recipe, manifest.num_passages
        checks = [
            ("corpus hash", self.corpus.sha256, recipe.corpus_sha256),
            ("number of passages", len(self.corpus), count),
        ]
        if self.vectors is not None:
            checks += [
                ("number of vectors", len(self.vectors), count),
                ("dimension", self.vectors.dimension, manifest.dimension),
            ]
        if self._lexical is not None:
            checks.append(("number of passages of words", len(self._lexical), count))
        wrong = [
            f"{name} is {have}, the manifest says {want}"
            for name, have, want in checks
            if have != want
        ]
        if wrong:
            raise InputError(
                f"the parts of {folder} do not belong together: {'; '.join(wrong)}; "
                "build the index again"
            )


def _open_lexical(folder: Path, spec: LexicalSpec) -> "LexicalIndex":
    from ur2.retrieval.index.lexical import LexicalIndex  # its imports take 100 MB

    return LexicalIndex(folder, spec.language)
