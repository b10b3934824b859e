"""Files of passages to one corpus file: streamed, checked row by row, resumed after a kill.

What is being made lies beside it; the state says how far it is good:

    .corpus.arrow.partial/
      passages.arrow     cut back to `num_bytes` and continued
      places.bin         per passage a digest of its id and where it comes from
      state.json
"""

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError
from rich.console import Console
from rich.progress import Progress

from ur2.errors import InputError
from ur2.retrieval.corpus.duplicates import PLACE, count_repeats, duplicates, id_digest
from ur2.retrieval.corpus.file import ROWS_PER_CHUNK, SUFFIX, Corpus, CorpusWriter
from ur2.retrieval.corpus.options import Paths, ReadOptions
from ur2.retrieval.corpus.readers import Bad, Blank, Outcome, read_source
from ur2.retrieval.corpus.rows import Draft
from ur2.retrieval.corpus.sources import PassageFile, find_sources, source_sha256, source_stamp
from ur2.retrieval.partial import progress_bar, work_folder, write_atomically

MAX_PROBLEMS_SHOWN = 20
MAX_PROBLEMS = 1000
"""So many mean that something is wrong with all of it; reading on would only take time."""
CHUNKS_PER_CHECKPOINT = 16
"""About a second of work."""
PASSAGES_FILE, PLACES_FILE, STATE_FILE = "passages.arrow", "places.bin", "state.json"


class Position(NamedTuple):
    """Where a passage comes from; grows in the order of reading."""

    file: int = 0
    member: int = 0
    line: int = 1
    nth: int = 0
    """Among the passages of its line, from 0."""


class ConversionState(BaseModel):
    """The part of unfinished work that is good."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: str
    num_passages: int = 0
    num_blank: int = 0
    num_bytes: int = 0
    next: Position = Position()


def corpus_sha256(names: Paths, options: ReadOptions, *, known: Path) -> str:
    """The hash of these files' corpus, or of the ready corpus that `names` stand for."""
    ready = ready_corpus(names)
    return sources_sha256(names, options, known=known) if ready is None else Corpus(ready).sha256


def sources_sha256(names: Paths, options: ReadOptions, *, known: Path) -> str:
    """A hash that tells the corpus of these files, read like this, from any other.

    Where `known` was made of the very same files, they are not read again.

    Raises:
        InputError: there are no such files, or one cannot be read.
    """
    sources = find_sources(names)
    if known.exists():
        with suppress(InputError):
            corpus = Corpus(known)
            if corpus.stamp == source_stamp(sources, options):
                return corpus.sha256
    return source_sha256(sources, options)


def ready_corpus(names: Paths) -> Path | None:
    """The corpus file that `names` stands for, or the one in that folder, if there is one."""
    if not isinstance(names, str):
        return ready_corpus(names[0]) if len(names) == 1 else None
    path = Path(names)
    candidates = (path, path / f"corpus{SUFFIX}")
    return next((c for c in candidates if c.suffix == SUFFIX and c.is_file()), None)


def convert(names: Paths, options: ReadOptions, out: Path, *, sha256: str) -> None:
    """Makes a corpus file; work that was interrupted is continued.

    Raises:
        InputError: with all that is wrong with the rows; or a file cannot be read.
    """
    sources = find_sources(names)
    console = Console(stderr=True, highlight=False)
    with work_folder(out) as folder:
        state = _load_state(folder, sha256)
        if state.num_passages:
            console.print(f"going on after {state.num_passages:,} passages")
        conversion = _Conversion(folder, sources, options, state)
        try:
            num_blank = conversion.run()
        except InputError:
            shutil.rmtree(folder)  # The files are going to change, so none of it can be kept.
            raise
        if num_blank:
            console.print(f"{num_blank:,} rows without text are left out")
        (folder / PASSAGES_FILE).replace(out)
        shutil.rmtree(folder)


def _load_state(folder: Path, sha256: str) -> ConversionState:
    """The state of the same work, where its files are what it says."""
    fresh = ConversionState(sha256=sha256)
    try:
        state = ConversionState.model_validate_json((folder / STATE_FILE).read_bytes())
        num_bytes = (folder / PASSAGES_FILE).stat().st_size
        num_places = (folder / PLACES_FILE).stat().st_size // PLACE.itemsize
    except (OSError, ValidationError):
        return fresh
    whole = num_bytes >= state.num_bytes and num_places >= state.num_passages
    return state if whole and state.sha256 == sha256 else fresh


class _Problems:
    """Collects what is wrong, to be told as one error."""

    def __init__(self) -> None:
        self._shown: list[str] = []
        self._count = 0

    def __bool__(self) -> bool:
        return self._count > 0

    def add(self, text: str) -> None:
        self._count += 1
        if len(self._shown) < MAX_PROBLEMS_SHOWN:
            self._shown.append(f"  {text}")
        if self._count == MAX_PROBLEMS:
            self.raise_if_any(f"  ... reading ended after {MAX_PROBLEMS:,} of them")

    def count_more(self, num: int) -> None:
        """Counts problems like those that were added, without telling each."""
        if self._shown:
            self._count += max(num, 0)

    def raise_if_any(self, tail: str = "") -> None:
        more = self._count - len(self._shown)
        if more and not tail:
            tail = f"  ... and {more:,} more"
        if self._count:
            head = f"{self._count:,} bad row(s) in the corpus; correct or remove them:"
            raise InputError("\n".join(filter(None, [head, *self._shown, tail])))


class _Conversion:
    """One run over all files, from where the state says."""

    def __init__(
        self,
        folder: Path,
        sources: Sequence[PassageFile],
        options: ReadOptions,
        state: ConversionState,
    ) -> None:
        self._folder = folder
        self._sources = sources
        self._options = options
        self._state = state
        self._chunk: list[tuple[Draft, Position]] = []
        self._problems = _Problems()
        self._labels: dict[tuple[int, int], str] = {}

    def run(self) -> int:
        """Raises InputError with all that is wrong; returns how many pages had no text."""
        state = self._state
        places = self._folder / PLACES_FILE
        with (
            CorpusWriter(
                self._folder / PASSAGES_FILE,
                sha256=state.sha256,
                stamp=source_stamp(self._sources, self._options),
                num_bytes=state.num_bytes,
            ) as writer,
            places.open("r+b" if state.num_passages else "wb") as self._places,
            progress_bar() as progress,
        ):
            self._places.truncate(state.num_passages * PLACE.itemsize)
            self._places.seek(0, os.SEEK_END)
            self._read(writer, progress)
            writer.finish()
        if self._state.num_passages:
            self._check_unique()
        self._problems.raise_if_any()
        if not self._state.num_passages:
            names = ", ".join(str(source.path) for source in self._sources[:3])
            raise InputError(f"corpus {names} holds no passages")
        return self._state.num_blank

    def _read(self, writer: CorpusWriter, progress: Progress) -> None:
        task = progress.add_task("reading", total=sum(source.num_bytes for source in self._sources))
        for position, outcome in self._outcomes(lambda num: progress.advance(task, num)):
            match outcome:
                case Draft():
                    self._chunk.append((outcome, position))
                case Bad(reason):
                    self._problems.add(f"{self._label(*position[:3])}: {reason}")
                case Blank():
                    self._update(num_blank=self._state.num_blank + 1)
            if len(self._chunk) == ROWS_PER_CHUNK:
                self._write_chunk(writer)
                progress.update(task, description=f"{self._state.num_passages:,} passages")
        if self._chunk:
            self._write_chunk(writer)

    def _outcomes(self, count: Callable[[int], None]) -> Iterator[tuple[Position, Outcome]]:
        start = self._state.next
        for file, source in enumerate(self._sources):
            if file < start.file:
                count(source.num_bytes)
                continue
            begin = (start.member, start.line) if file == start.file else (0, 1)
            last, nth = None, 0
            for member, line, outcome in read_source(source, self._options, count, start=begin):
                self._labels[file, member.number] = member.label
                here = (file, member.number, line)
                last, nth = here, nth + 1 if here == last else 0
                position = Position(*here, nth)
                if position >= start:
                    yield position, outcome

    def _write_chunk(self, writer: CorpusWriter) -> None:
        drafts, positions = zip(*self._chunk, strict=True)
        num_bytes = writer.append(*zip(*drafts, strict=True))
        places = [(id_digest(draft.id), *position[:3]) for draft, position in self._chunk]
        self._places.write(np.array(places, dtype=PLACE).tobytes())
        last = positions[-1]
        num_passages = self._state.num_passages + len(self._chunk)
        self._chunk.clear()
        self._update(
            num_passages=num_passages, num_bytes=num_bytes, next=last._replace(nth=last.nth + 1)
        )
        if num_passages % (CHUNKS_PER_CHECKPOINT * ROWS_PER_CHUNK) == 0 and not self._problems:
            writer.sync()
            self._places.flush()
            os.fsync(self._places.fileno())
            write_atomically(self._folder / STATE_FILE, self._state.model_dump_json().encode())

    def _update(self, **changes: Any) -> None:
        self._state = self._state.model_copy(update=changes)

    def _check_unique(self) -> None:
        places = np.memmap(self._folder / PLACES_FILE, dtype=PLACE, mode="r")
        num_repeats = count_repeats(places["digest"])
        if not num_repeats:
            return
        corpus = Corpus(self._folder / PASSAGES_FILE)
        pairs = duplicates(places["digest"], corpus.id_of)
        for row, earlier in islice(pairs, MAX_PROBLEMS_SHOWN):
            here, there = (
                self._label(*(int(places[r][name]) for name in ("file", "member", "line")))
                for r in (row, earlier)
            )
            self._problems.add(
                f"{here}: id '{corpus.id_of(row)}' is already at {there}; ids must be unique"
            )
        self._problems.count_more(num_repeats - MAX_PROBLEMS_SHOWN)

    def _label(self, file: int, member: int, line: int) -> str:
        known = self._labels.get((file, member))
        path = self._sources[file].path
        return f"{known or (f'{path}!member {member}' if member else path)}:{line}"
