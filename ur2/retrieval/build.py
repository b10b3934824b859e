"""`python -m ur2.retrieval.build corpus=PATH out=DIR`: passages to a searchable index folder."""

import os
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ur2.errors import InputError, run_entry
from ur2.options import parse_command_line
from ur2.retrieval import index as vectors
from ur2.retrieval.corpus import Corpus, corpus_sha256, read_passages, write_corpus
from ur2.retrieval.encoder import Encoder, SentenceTransformerEncoder, num_threads
from ur2.retrieval.index_rules import index_spec, plan, search_spec
from ur2.retrieval.lexical import build_lexical
from ur2.retrieval.manifest import (
    MANIFEST_FILE,
    EncoderSpec,
    Manifest,
    Recipe,
    VectorSpec,
    load_manifest,
)
from ur2.retrieval.options import BuildOptions
from ur2.retrieval.store import CORPUS_FILE, LEXICAL_FOLDER, VECTORS_FILE

PROG = "python -m ur2.retrieval.build"
PASSAGES_PER_ROUND = 1024
"""Encoded between two moves of the progress bar; enough to form batches of like length from."""


def main() -> None:
    """The command's entry."""
    options = parse_command_line(BuildOptions, prog=PROG, about="Builds a retrieval index.")
    # OpenMP threads that spin while they wait are several times slower on a busy machine. Read when
    # torch is loaded, which is later.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    started = time.monotonic()
    manifest = up_to_date(options)
    if manifest:
        verdict = "is up to date"
    else:
        manifest = build(options)
        verdict = f"built in {time.monotonic() - started:.0f} s"
    sys.stdout.write(
        f"{options.out} {verdict}: {manifest.num_passages} passages, {manifest.dimension}-wide "
        f"{manifest.recipe.encoder_name} vectors, {manifest.recipe.index.kind} index\n"
    )


def up_to_date(options: BuildOptions) -> Manifest | None:
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
    return manifest if manifest.recipe == recipe(options) else None


def load_encoder(spec: EncoderSpec, options: BuildOptions) -> Encoder:
    """The sentence-transformers model that `spec` names."""
    return SentenceTransformerEncoder(spec, options, batch_size=options.batch_size)


def build(
    options: BuildOptions,
    load_encoder: Callable[[EncoderSpec, BuildOptions], Encoder] = load_encoder,
) -> Manifest:
    """Builds the index in a folder of its own and moves it to `out` when it is complete.

    The encoder is loaded once the corpus has been read and found to be sound.

    Raises:
        InputError: corpus, encoder or kind of index are not to be had.
    """
    planned = recipe(options)
    out = Path(options.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as scratch:
        made = Path(scratch) / "made"
        made.mkdir()
        manifest = _build_into(made, planned, options, load_encoder)
        if out.exists():
            out.rename(Path(scratch) / "replaced")
        made.rename(out)
    return manifest


def recipe(options: BuildOptions) -> Recipe:
    """What decides the content of the index that `options` ask for.

    Raises:
        InputError: the corpus cannot be read.
    """
    index = index_spec(options)
    encoder = EncoderSpec(
        name=options.encoder,
        query_prefix=options.query_prefix,
        passage_prefix=options.passage_prefix,
    )
    return Recipe(
        corpus_sha256=corpus_sha256(Path(options.corpus)),
        encoder=encoder if index.vectors else None,
        index=index,
    )


def _build_into(
    folder: Path,
    planned: Recipe,
    options: BuildOptions,
    load_encoder: Callable[[EncoderSpec, BuildOptions], Encoder],
) -> Manifest:
    write_corpus(
        read_passages(Path(options.corpus)), folder / CORPUS_FILE, sha256=planned.corpus_sha256
    )
    corpus = Corpus(folder / CORPUS_FILE)
    dimension, parameters, spec = None, {}, planned.index.vectors
    if spec is not None and planned.encoder is not None:
        encoder = load_encoder(planned.encoder, options)
        dimension = encoder.dimension
        parameters = plan(spec, num_vectors=len(corpus), dimension=dimension)
        _index_vectors(folder, spec, corpus, encoder, options)
    if planned.index.lexical is not None:
        texts = (text for start in _rounds(corpus) for text in _texts(corpus, start))
        build_lexical(planned.index.lexical, texts, folder / LEXICAL_FOLDER)
    manifest = Manifest(
        recipe=planned,
        dimension=dimension,
        num_passages=len(corpus),
        parameters=parameters,
        search=search_spec(options, spec, parameters),
        versions={
            "faiss": vectors.VERSION,
            "sentence-transformers": version("sentence-transformers"),
            "torch": version("torch"),
            "ur2": version("ur2"),
        },
    )
    manifest.save(folder)
    return manifest


def _index_vectors(
    folder: Path, spec: VectorSpec, corpus: Corpus, encoder: Encoder, options: BuildOptions
) -> None:
    columns = (TextColumn("encoding"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    batches = []
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("encoding", total=len(corpus))
        for start in _rounds(corpus):
            texts = _texts(corpus, start)
            batches.append(encoder.encode_passages(texts))
            progress.advance(task, len(texts))
    encoded = vectors.InMemory(np.concatenate(batches))
    index = vectors.build_index(spec, encoded, num_threads=num_threads(options.num_threads))
    index.save(folder / VECTORS_FILE)


def _rounds(corpus: Corpus) -> range:
    return range(0, len(corpus), PASSAGES_PER_ROUND)


def _texts(corpus: Corpus, start: int) -> list[str]:
    return corpus.texts(start, start + PASSAGES_PER_ROUND)


if __name__ == "__main__":
    run_entry(main)
