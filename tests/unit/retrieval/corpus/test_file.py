from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ur2.errors import InputError
from ur2.retrieval.corpus.file import MAX_MAPPED_BYTES, Corpus, CorpusWriter
from ur2.types import Passage

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
CHUNKS = st.lists(st.lists(st.tuples(TEXT, TEXT, TEXT), min_size=1, max_size=4), min_size=1)


def write(path: Path, chunks: list[list[tuple[str, str, str]]]) -> list[int]:
    with CorpusWriter(path, sha256="abc") as writer:
        sizes = [writer.append(*zip(*chunk, strict=True)) for chunk in chunks]
        writer.finish()
    return sizes


@settings(max_examples=30, deadline=None)
@given(chunks=CHUNKS, data=st.data())
def test_a_file_cut_back_to_any_chunk_and_continued_is_the_same_file(
    tmp_path_factory: pytest.TempPathFactory,
    chunks: list[list[tuple[str, str, str]]],
    data: st.DataObject,
) -> None:
    path = tmp_path_factory.mktemp("corpus") / "corpus.arrow"
    sizes = write(path, chunks)
    whole = path.read_bytes()
    kept = data.draw(st.integers(0, len(chunks)))
    with CorpusWriter(path, sha256="abc", num_bytes=sizes[kept - 1] if kept else 0) as writer:
        for chunk in chunks[kept:]:
            writer.append(*zip(*chunk, strict=True))
        writer.finish()
    assert path.read_bytes() == whole
    corpus = Corpus(path)
    rows = [row for chunk in chunks for row in chunk]
    assert corpus.sha256 == "abc"
    assert [corpus.passage(n, 0.5) for n in range(len(corpus))] == [
        Passage(id=id_, title=title, text=text, score=0.5) for id_, title, text in rows
    ]
    start, stop = sorted(data.draw(st.tuples(*[st.integers(0, len(rows) + 2)] * 2)))
    shown = [f"{title}\n{text}" if title else text for _, title, text in rows]
    assert corpus.texts(start, stop) == shown[start:stop]
    assert [corpus.id_of(n) for n in range(len(rows))] == [row[0] for row in rows]


@pytest.mark.parametrize("content", [None, b"", b"no arrow file"])
def test_a_missing_or_damaged_file_is_an_error(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "corpus.arrow"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match="is no corpus file"):
        Corpus(path)


def test_a_cut_file_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "corpus.arrow"
    write(path, [[("a", "", "words")]])
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(InputError, match="is no corpus file"):
        Corpus(path)


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs /proc")
def test_reading_passages_here_and_there_keeps_few_pages_mapped(tmp_path: Path) -> None:
    path = tmp_path / "corpus.arrow"
    num_chunks, rows = 24, 4096
    with CorpusWriter(path, sha256="abc") as writer:
        for chunk in range(num_chunks):
            ids = [f"{chunk}-{row}" for row in range(rows)]
            writer.append(ids, ids, ["word " * 400] * rows)
        writer.finish()
    assert path.stat().st_size > 3 * MAX_MAPPED_BYTES
    corpus = Corpus(path)
    for row in range(0, len(corpus), 64):
        assert corpus.passage(row).id == f"{row // rows}-{row % rows}"
        if row % 4096 == 0:
            assert mapped_bytes(path) <= MAX_MAPPED_BYTES + 2**20


def mapped_bytes(path: Path) -> int:
    """Of a file, resident in this process."""
    lines = Path("/proc/self/smaps").read_text().splitlines()
    at = next(number for number, line in enumerate(lines) if line.endswith(str(path)))
    kilobytes = next(line.split()[1] for line in lines[at:] if line.startswith("Rss:"))
    return int(kilobytes) * 1024
