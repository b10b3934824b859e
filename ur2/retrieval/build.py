"""`python -m ur2.retrieval.build corpus=PATH out=DIR`: passages to a searchable index folder.

    corpus -> vectors -> index ┐
       └────> words ───────────┴-> manifest, and only then is it moved to `out`

Every part is made once, beside `out`; after a kill the same command goes on with the next one.
"""

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from rich.console import Console
from rich.progress import TaskID

from ur2.errors import InputError, run_entry
from ur2.locks import locked
from ur2.options import parse_command_line
from ur2.retrieval.autotune import check_tuning, tune_built
from ur2.retrieval.corpus.convert import convert, corpus_sha256, ready_corpus
from ur2.retrieval.corpus.file import Corpus
from ur2.retrieval.encoder.sentence_encoder import encoder_spec, num_threads
from ur2.retrieval.encoder.shards import Encoding, LoadEncoder, load_encoder
from ur2.retrieval.encoder.vectors import VectorFolder
from ur2.retrieval.index import nearest as faiss_index
from ur2.retrieval.index.lexical import build_lexical
from ur2.retrieval.index.rules import index_spec, plan, search_spec
from ur2.retrieval.manifest import (
    MANIFEST_FILE,
    LexicalSpec,
    Recipe,
    StoreManifest,
    VectorSpec,
    load_manifest,
)
from ur2.retrieval.options import BuildOptions
from ur2.retrieval.partial import progress_bar, work_folder, write_atomically
from ur2.retrieval.service.store import CORPUS_FILE, LEXICAL_FOLDER, VECTORS_FILE

PROG = "python -m ur2.retrieval.build"
PASSAGES_PER_ROUND = 1024
MADE_FOLDER, ENCODED_FOLDER = "made", "vectors"
"""Folders in the work folder: what becomes `out`, and the vectors that the index is made of."""


def main() -> None:
    """The command's entry."""
    options = parse_command_line(BuildOptions, prog=PROG, about="Builds a retrieval index.")
    # OpenMP threads that spin while they wait are several times slower on a busy machine. Read when
    # torch is loaded, which is later.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    started = time.monotonic()
    check_tuning(options)
    manifest = up_to_date(options)
    if manifest:
        manifest = search_as_asked(manifest, options)
        verdict = "is up to date"
    else:
        manifest = build(options)
        verdict = f"built in {time.monotonic() - started:.0f} s"
    sys.stdout.write(f"{options.out} {verdict}: {manifest.summary}\n")


def up_to_date(options: BuildOptions) -> StoreManifest | None:
    """The manifest of the index at `out`, where it is just what `options` would build.

    Raises:
        InputError: the corpus cannot be read, or `out` is something else than an index.
    """
    out = Path(options.out)
    if not (out / MANIFEST_FILE).exists():
        if out.is_file() or (out.is_dir() and any(out.iterdir())):
            raise InputError(f"out={out} exists and is no index; give another folder, or remove it")
        return None
    try:
        manifest = load_manifest(out)
    except InputError:  # an index all the same, only an unreadable one, which a build replaces
        return None
    return manifest if recipe(options).fitted_to(manifest.recipe) == manifest.recipe else None


def search_as_asked(
    manifest: StoreManifest, options: BuildOptions, load_encoder: LoadEncoder = load_encoder
) -> StoreManifest:
    """Has an index that is there searched as `options` say, which takes no other build."""
    spec, out = manifest.recipe.index.vectors, Path(options.out)
    search = search_spec(options, spec, manifest.parameters, known=manifest.search)
    if search != manifest.search:
        manifest = manifest.model_copy(update={"search": search})
        manifest.save(out)
    if options.autotune_queries and (
        search.tuning is None or search.tuning.target != options.autotune_recall
    ):
        kept = VectorFolder(Path(options.vectors)) if options.vectors else None
        return tune_built(out, options, load_encoder, kept)
    return manifest


def recipe(options: BuildOptions) -> Recipe:
    """The recipe that decides the content of the index that `options` ask for.

    Raises:
        InputError: the corpus cannot be read.
    """
    index = index_spec(options)
    encoder = encoder_spec(
        options.encoder,
        revision=options.encoder_revision,
        query_prefix=options.query_prefix,
        passage_prefix=options.passage_prefix,
    )
    with Console(stderr=True).status("reading the corpus"):
        known = Path(options.out) / CORPUS_FILE
        sha256 = corpus_sha256(options.corpus, options, known=known)
    return Recipe(corpus_sha256=sha256, encoder=encoder if index.vectors else None, index=index)


def build(options: BuildOptions, load_encoder: LoadEncoder = load_encoder) -> StoreManifest:
    """Builds the index beside `out` and moves it there when it is complete.

    The encoder is loaded once the corpus has been read and found to be sound.

    Raises:
        InputError: corpus, encoder or kind of index are not to be had.
        ComponentError: a process that encodes failed; what is done stays.
    """
    planned = recipe(options)
    out = Path(options.out)
    with work_folder(out) as folder:
        try:
            manifest = _Build(folder, planned, options, load_encoder).run()
        except InputError:
            if not any((folder / ENCODED_FOLDER).glob("*.npy")):  # Nothing is lost that took long.
                shutil.rmtree(folder)
            raise
        if out.exists():
            shutil.rmtree(folder / "replaced", ignore_errors=True)
            out.rename(folder / "replaced")
        (folder / MADE_FOLDER).rename(out)
        shutil.rmtree(folder)
    return manifest


class _Build:
    """The parts of one index, each of which is made unless it is there."""

    def __init__(
        self, folder: Path, planned: Recipe, options: BuildOptions, load_encoder: LoadEncoder
    ) -> None:
        self._folder = folder
        self._made = folder / MADE_FOLDER
        self._made.mkdir(exist_ok=True)
        self._planned = planned
        self._options = options
        self._load_encoder = load_encoder
        self._encoded: VectorFolder | None = None

    def run(self) -> StoreManifest:
        """Makes all parts, and at last the manifest that ties them."""
        index = self._planned.index
        parts = {CORPUS_FILE: True, VECTORS_FILE: index.vectors, LEXICAL_FOLDER: index.lexical}
        for path in self._made.iterdir():
            if not parts.get(path.name):  # of another recipe
                _remove(path)
        self._make_corpus()
        self._corpus = Corpus(self._made / CORPUS_FILE)
        manifest = self._manifest()
        if index.vectors is not None:
            manifest = self._make_vectors(index.vectors, manifest)
        if index.lexical is not None:
            self._make_words(index.lexical)
        manifest.save(self._made)
        if self._options.autotune_queries:
            return tune_built(self._made, self._options, self._load_encoder, self._encoded)
        return manifest

    def _make_corpus(self) -> None:
        path, sha256 = self._made / CORPUS_FILE, self._planned.corpus_sha256
        if path.exists() and Corpus(path).sha256 == sha256:
            return
        path.unlink(missing_ok=True)
        ready = ready_corpus(self._options.corpus)
        if ready is None:
            convert(self._options.corpus, self._options, path, sha256=sha256)
            return
        try:
            path.hardlink_to(ready)
        except OSError:  # another file system
            partial = path.with_suffix(".partial")
            shutil.copyfile(ready, partial)
            partial.replace(path)

    def _make_vectors(self, spec: VectorSpec, manifest: StoreManifest) -> StoreManifest:
        encoder, options = self._planned.encoder, self._options
        assert encoder is not None, "vectors have an encoder"
        corpus = self._made / CORPUS_FILE
        folder = Path(options.vectors) if options.vectors else self._folder / ENCODED_FOLDER
        with locked(folder, of=f"vectors in {folder}"):
            encoding = Encoding(corpus, encoder, folder, options, self._load_encoder)
            record = encoding.record
            # Impossible parameters fail before the hours that encoding may take.
            parameters = plan(spec, num_vectors=record.num_rows, dimension=record.dimension)
            self._encoded = encoded = encoding.run()
        key = f"{record.model_dump_json()} {spec.model_dump_json()}"
        self._once(VECTORS_FILE, key, lambda path: self._index_vectors(spec, encoded, path))
        return manifest.model_copy(
            update={
                "recipe": self._planned.model_copy(update={"encoder": record.encoder}),
                "dimension": record.dimension,
                "parameters": parameters,
                "search": search_spec(options, spec, parameters),
            }
        )

    def _index_vectors(self, spec: VectorSpec, encoded: VectorFolder, path: Path) -> None:
        with _stages("vectors") as progress:
            threads = num_threads(self._options.num_threads)
            index = faiss_index.build_index(
                spec,
                encoded,
                num_threads=threads,
                device=self._options.index_device,
                progress=progress,
            )
        index.save(path)

    def _make_words(self, spec: LexicalSpec) -> None:
        texts = (
            text
            for start in range(0, len(self._corpus), PASSAGES_PER_ROUND)
            for text in self._corpus.texts(start, start + PASSAGES_PER_ROUND)
        )

        def make(path: Path) -> None:
            with _stages("passages") as progress:
                build_lexical(spec, texts, len(self._corpus), path, progress=progress)

        self._once(LEXICAL_FOLDER, f"{self._corpus.sha256} {spec.model_dump_json()}", make)

    def _once(self, name: str, key: str, make: Callable[[Path], None]) -> None:
        """Makes a part, unless the same was made before."""
        path, marker = self._made / name, self._folder / f"{name}.done"
        if path.exists() and marker.exists() and marker.read_text(encoding="utf-8") == key:
            return
        marker.unlink(missing_ok=True)
        _remove(path)
        make(path)
        write_atomically(marker, key.encode())

    def _manifest(self) -> StoreManifest:
        """The manifest, as far as it can be told before there are vectors."""
        return StoreManifest(
            recipe=self._planned,
            dimension=None,
            num_passages=len(self._corpus),
            search=search_spec(self._options, None, {}),
            versions={
                "faiss": faiss_index.VERSION,
                "sentence-transformers": version("sentence-transformers"),
                "torch": version("torch"),
                "ur2": version("ur2"),
            },
        )


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def _stages(unit: str) -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar for each stage that reports."""
    tasks: dict[str, TaskID] = {}
    with progress_bar(unit) as bar:

        def report(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage)
            bar.update(tasks[stage], completed=done, total=total or None)

        yield report


if __name__ == "__main__":
    run_entry(main)
