"""The named indexes of a service: any of them is replaced while all go on being searched."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ur2.errors import InputError
from ur2.retrieval.client.errors import RetrievalUnavailableError, UnknownCorpusError
from ur2.retrieval.encoder.rerank import Reranker, load_reranker
from ur2.retrieval.encoder.sentence_encoder import Encoder, SentenceTransformerEncoder, num_threads
from ur2.retrieval.manifest import EncoderSpec, StoreManifest
from ur2.retrieval.options import ServiceOptions
from ur2.retrieval.service.searcher import Searcher
from ur2.retrieval.service.store import PassageStore
from ur2.types import Passage

QUERIES_AT_ONCE = 32
"""Queries of like length that are encoded together; more pad more than they gain."""
LoadEncoder = Callable[[EncoderSpec, ServiceOptions], Encoder]


def num_workers(options: ServiceOptions) -> int:
    """Threads that each search batches of their own: on a CPU all there may be, else one."""
    return num_threads(options.num_threads) if options.device == "cpu" else 1


def load_encoder(spec: EncoderSpec, options: ServiceOptions) -> Encoder:
    """The sentence-transformers model that `spec` names."""
    return SentenceTransformerEncoder(spec, options, batch_size=QUERIES_AT_ONCE)


@dataclass(frozen=True, slots=True, eq=False)
class OpenIndex:
    """One opening of an index folder; equal to no other, so that answers never mix."""

    name: str
    searcher: Searcher
    encoder: Encoder | None
    num_threads: int

    @property
    def manifest(self) -> StoreManifest:
        """The content of the index, and what made it."""
        return self.searcher.store.manifest

    def search(self, queries: Sequence[str], top_k: int) -> list[tuple[Passage, ...]]:
        """The best passages of each query, best first."""
        return self.searcher.search(queries, top_k, num_threads=self.num_threads)


class Corpora:
    """Index folders by name, and what is open of them; indexes of one encoder share it."""

    def __init__(
        self,
        folders: Mapping[str, str | Path],
        options: ServiceOptions,
        load_encoder: LoadEncoder = load_encoder,
    ) -> None:
        """Knows `folders`, none of which is open yet; the first is the default.

        Raises:
            InputError: there are none.
        """
        if not folders:
            raise InputError("no index to serve; give index=DIR, or indexes.NAME=DIR for each")
        self._folders = {name: Path(folder) for name, folder in folders.items()}
        # Threads with batches of their own need no further ones within an operation.
        per_worker = num_threads(options.num_threads) // num_workers(options)
        self._options = options.model_copy(update={"num_threads": per_worker})
        self._load_encoder = load_encoder
        self._open: dict[str, OpenIndex] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all corpora, the default first."""
        return tuple(self._folders)

    @property
    def all_open(self) -> bool:
        """Whether every corpus can be searched."""
        return len(self._open) == len(self._folders)

    def __iter__(self) -> Iterator[OpenIndex]:
        return iter(list(self._open.values()))

    def __getitem__(self, name: str | None) -> OpenIndex:
        """The index that is open under `name`; None is the default.

        Raises:
            UnknownCorpusError: there is no corpus of this name.
            RetrievalUnavailableError: it is not open yet.
        """
        name = self._known(name)
        if name not in self._open:
            raise RetrievalUnavailableError(f"corpus '{name}' is still being opened")
        return self._open[name]

    def open(self, name: str | None = None) -> OpenIndex:
        """Opens a folder, from then on searched in place of what was open under its name.

        Raises:
            UnknownCorpusError: there is no corpus of this name.
            InputError: the folder holds no usable index, or its encoder cannot be loaded; what
                was open stays.
        """
        name = self._known(name)
        store = PassageStore(self._folders[name], device=self._options.index_device)
        encoder = self._encoder(store.manifest.recipe.encoder)
        opened = OpenIndex(
            name,
            Searcher(store, encoder, self._reranker),
            encoder,
            self._options.num_threads,
        )
        self._open[name] = opened
        return opened

    @cached_property
    def _reranker(self) -> Reranker | None:
        return load_reranker(self._options)

    def _known(self, name: str | None) -> str:
        if name is None:
            return self.names[0]
        if name not in self._folders:
            raise UnknownCorpusError(
                f"there is no corpus {name[:100]!r}; known: {', '.join(self.names)}"
            )
        return name

    def _encoder(self, spec: EncoderSpec | None) -> Encoder | None:
        if spec is None:
            return None
        loaded = (index.encoder for index in self)
        shared = (encoder for encoder in loaded if encoder is not None and encoder.spec == spec)
        return next(shared, None) or self._load_encoder(spec, self._options)
