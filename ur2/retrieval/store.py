"""The folder that `build` makes: corpus, vectors and the manifest that ties them together."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ur2.errors import InputError
from ur2.retrieval import index as vectors
from ur2.retrieval.corpus import Corpus
from ur2.retrieval.encoder import Encoder
from ur2.retrieval.manifest import Manifest, load_manifest
from ur2.types import Passage

CORPUS_FILE = "corpus.arrow"
VECTORS_FILE = "vectors.faiss"


class Store:
    """An index opened together with its passages."""

    def __init__(self, folder: Path) -> None:
        """Opens an index folder.

        Raises:
            InputError: it is missing, damaged, or its parts do not belong together.
        """
        self.manifest: Manifest = load_manifest(folder)
        self._corpus = Corpus(folder / CORPUS_FILE)
        self._index = vectors.load(folder / VECTORS_FILE)
        found = (self._corpus.sha256, len(self._corpus), len(self._index), self._index.dimension)
        manifest = self.manifest
        promised = (
            manifest.recipe.corpus_sha256,
            manifest.num_passages,
            manifest.num_passages,
            manifest.dimension,
        )
        names = ("corpus hash", "number of passages", "number of vectors", "dimension")
        wrong = [
            f"{name} is {have}, the manifest says {want}"
            for name, have, want in zip(names, found, promised, strict=True)
            if have != want
        ]
        if wrong:
            raise InputError(
                f"the parts of {folder} do not belong together: {'; '.join(wrong)}; "
                "build the index again"
            )

    def __len__(self) -> int:
        return len(self._corpus)

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
        self, query_QD: NDArray[np.float32], top_k: int, *, num_threads: int = 1
    ) -> list[tuple[Passage, ...]]:
        """The passages nearest to each query, best first; fewer where the corpus is smaller."""
        score_QK, row_QK = self._index.search(query_QD, top_k, num_threads=num_threads)
        return [
            tuple(
                self._corpus.passage(row, score)
                for row, score in zip(rows, scores, strict=True)
                if row != vectors.NO_ROW
            )
            for rows, scores in zip(row_QK.tolist(), score_QK.tolist(), strict=True)
        ]
