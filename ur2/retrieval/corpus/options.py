"""The keys of reading passages, and of `python -m ur2.retrieval.corpus`."""

from typing import Annotated, Literal

from pydantic import Field

from ur2.options import Options

Shape = Literal["rows", "abstracts", "kilt", "text"]
Paths = str | tuple[str, ...]


class ReadOptions(Options):
    """How passages are found in files; the defaults suit the known sets."""

    format: Literal["auto"] | Shape = "auto"
    """`rows`: a passage per row of JSON lines, CSV, TSV or parquet; `abstracts`: Wikipedia pages
    whose `text` is a list of sentences (HotpotQA's dump of 2017); `kilt`: Wikipedia pages whose
    `text` is a list of paragraphs, cut to passages; `text`: books as plain text, likewise. `auto`
    tells them by the file's name and first row."""
    id_field: str | None = None
    """Where `rows` keep their id; else the first there is of `id`, `_id`, `docid`. `line` makes ids
    of file name and line."""
    title_field: str | None = None
    """Where `rows` keep their title; else `title`, if there is one."""
    text_field: str | None = None
    """Where `rows` keep their text; else the first there is of `text`, `content`, `contents`,
    `passage`. A first line of `contents` in quotes is the title."""
    columns: tuple[str, ...] = ()
    """The columns of a CSV or TSV without a header line, e.g. [id,text]."""
    empty: Literal["refuse", "skip"] = "refuse"
    """`rows` without text: refused with their line, or left out and counted."""
    passage_words: Annotated[int, Field(ge=1)] = 100
    """The longest passage that `kilt` and `text` are cut to."""


class CorpusOptions(ReadOptions):
    """The keys of `python -m ur2.retrieval.corpus`."""

    sources: Annotated[Paths, Field(alias="in")]
    """Files, folders or patterns such as `wiki/*/wiki_*.bz2`; several as [a,b]. A file may end in
    .gz, .bz2, .xz or .zst, or be a tar archive of such."""
    out: str
    """The file to make, ending in `.arrow`."""
