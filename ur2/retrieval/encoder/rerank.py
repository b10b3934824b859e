"""A second look at what was found: query and passage read together by a cross-encoder."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ur2.errors import InputError
from ur2.retrieval.corpus.file import embedded_text
from ur2.retrieval.options import EncoderOptions, ServiceOptions
from ur2.types import Passage

Pair = tuple[str, str]
"""A query and the text of a passage."""


class PairScorer(Protocol):
    """Says how well passages answer queries, each pair for itself."""

    def score(self, pairs: Sequence[Pair]) -> NDArray[np.float32]:
        """(pairs,) -> (pairs,), larger is better."""


class CrossEncoderScorer:
    """Any sentence-transformers cross-encoder with one output."""

    def __init__(self, name: str, options: EncoderOptions, *, batch_size: int = 32) -> None:
        """Loads the model.

        Raises:
            InputError: there is no such model or device, or it scores several things at once.
        """
        import torch
        from safetensors import SafetensorError
        from sentence_transformers import CrossEncoder

        try:
            # Scores as they come: a sigmoid would make equals of the best in short arithmetic.
            self._model = CrossEncoder(
                name,
                device=None if options.device == "auto" else options.device,
                activation_fn=torch.nn.Identity(),
            )
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise InputError(
                f"reranker '{name}' cannot be loaded ({str(error).splitlines()[0]}); give a "
                "cross-encoder's folder, or a name that can be downloaded"
            ) from error
        if self._model.num_labels != 1:
            raise InputError(
                f"reranker '{name}' has {self._model.num_labels} outputs; one that ranks has one"
            )
        self._batch_size = batch_size
        self._short = options.precision != "float32"

    def score(self, pairs: Sequence[Pair]) -> NDArray[np.float32]:
        """(pairs,) -> (pairs,)."""
        import torch

        kind = self._model.device.type
        with torch.autocast(kind, torch.float16, enabled=self._short and kind == "cuda"):
            scores = self._model.predict(
                list(pairs), batch_size=self._batch_size, show_progress_bar=False
            )
        return np.asarray(scores, dtype=np.float32)


class Reranker:
    """Orders the candidates of each query by the scorer's word alone."""

    def __init__(self, scorer: PairScorer, *, depth: int) -> None:
        """Looks at `depth` candidates per query."""
        self._scorer = scorer
        self.depth = depth

    def rerank(
        self, queries: Sequence[str], candidates: Sequence[Sequence[Passage]]
    ) -> list[tuple[Passage, ...]]:
        """Per query its candidates, best first, each with the scorer's score."""
        pairs = [
            (query, embedded_text(passage.title, passage.text))
            for query, passages in zip(queries, candidates, strict=True)
            for passage in passages
        ]
        scores = iter(self._scorer.score(pairs).tolist() if pairs else ())
        # The sort is stable: of equal ones the candidate that was found first stays first.
        return [
            tuple(
                sorted(
                    (_scored(passage, next(scores)) for passage in passages),
                    key=lambda passage: -passage.score,
                )
            )
            for passages in candidates
        ]


def load_reranker(options: ServiceOptions) -> Reranker | None:
    """The one that `options` name, if they do.

    Raises:
        InputError: it cannot be loaded.
    """
    if options.reranker is None:
        return None
    scorer = CrossEncoderScorer(options.reranker, options, batch_size=options.max_batch)
    return Reranker(scorer, depth=options.rerank_depth)


def _scored(passage: Passage, score: float) -> Passage:
    return Passage(id=passage.id, title=passage.title, text=passage.text, score=score)
