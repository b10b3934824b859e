"""From query texts to passages: encodes where the index holds vectors, reranks where asked to."""

from collections.abc import Sequence

from ur2.errors import InputError
from ur2.retrieval.encoder.rerank import Reranker
from ur2.retrieval.encoder.sentence_encoder import Encoder
from ur2.retrieval.service.store import PassageStore
from ur2.types import Passage


class Searcher:
    """A store together with what its searches need."""

    def __init__(
        self, store: PassageStore, encoder: Encoder | None = None, reranker: Reranker | None = None
    ) -> None:
        """Searches `store`.

        Args:
            store: the opened index.
            encoder: the one that made its vectors; None for an index of words.
            reranker: has the last word on the order, if there is one.

        Raises:
            InputError: the index was made with another encoder.
        """
        if store.manifest.recipe.encoder is not None:
            if encoder is None:
                raise InputError("this index holds vectors; searching it needs their encoder")
            store.check_encoder(encoder)
        self.store = store
        self._encoder = encoder if store.manifest.recipe.encoder is not None else None
        self._reranker = reranker

    def search(
        self, queries: Sequence[str], top_k: int, *, num_threads: int = 1
    ) -> list[tuple[Passage, ...]]:
        """The best passages of each query, best first; fewer where there are not so many."""
        query_QD = None if self._encoder is None else self._encoder.encode_queries(queries)
        if self._reranker is None:
            return self.store.search(queries, query_QD, top_k, num_threads=num_threads)
        depth = max(top_k, self._reranker.depth)
        candidates = self.store.search(queries, query_QD, depth, num_threads=num_threads)
        return [found[:top_k] for found in self._reranker.rerank(queries, candidates)]
