import bz2
import csv
import gzip
import io
import json
import lzma
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from ur2.errors import InputError
from ur2.retrieval.corpus.options import ReadOptions
from ur2.retrieval.corpus.readers import Bad, Blank, Outcome, read_source
from ur2.retrieval.corpus.rows import Draft
from ur2.retrieval.corpus.sources import find_sources, source_sha256

TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]))
ROWS = st.lists(st.tuples(TEXT.map(lambda t: f"i{t}"), TEXT, TEXT.map(lambda t: f"x{t}")))
ROW = {"id": "a", "title": "T", "text": "some words"}


def read(path: Path | str | list[str], **options: Any) -> list[Outcome]:
    asked = ReadOptions(**options)
    return [
        outcome
        for source in find_sources(path if isinstance(path, list) else str(path))
        for _, _, outcome in read_source(source, asked)
    ]


def jsonl(*rows: Any) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def write_csv(path: Path, rows: list[tuple[str, str, str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("id", "title", "text"), *rows])


def write_tsv(path: Path, rows: list[tuple[str, str, str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter="\t").writerows([("id", "title", "text"), *rows])


def write_jsonl(path: Path, rows: list[tuple[str, str, str]]) -> None:
    path.write_bytes(jsonl(*({"id": a, "title": b, "text": c} for a, b, c in rows)))


def write_array(path: Path, rows: list[tuple[str, str, str]]) -> None:
    path.write_text(json.dumps([{"id": a, "title": b, "text": c} for a, b, c in rows], indent=1))


def write_parquet(path: Path, rows: list[tuple[str, str, str]]) -> None:
    columns = {n: [row[i] for row in rows] for i, n in enumerate(("id", "title", "text"))}
    schema = pa.schema([(name, pa.string()) for name in columns])
    parquet.write_table(pa.table(columns, schema=schema), path, row_group_size=3)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("rows.csv", write_csv),
        ("rows.tsv", write_tsv),
        ("rows.jsonl", write_jsonl),
        ("rows.json", write_array),
        ("rows.parquet", write_parquet),
    ],
)
@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20, deadline=None
)
@given(rows=ROWS)
def test_every_container_gives_the_rows_that_were_written(
    tmp_path: Path, name: str, write: Callable[..., None], rows: list[tuple[str, str, str]]
) -> None:
    rows = [tuple(cell.replace("\x85", "") for cell in row) for row in rows]  # type: ignore[misc]
    path = tmp_path / name
    write(path, rows)
    assert read(path) == [Draft(*row) for row in rows]


@pytest.mark.parametrize(
    ("suffix", "compress"),
    [
        (".gz", gzip.compress),
        (".bz2", bz2.compress),
        (".xz", lzma.compress),
        (".zst", zstandard.ZstdCompressor().compress),
    ],
)
def test_compression_is_seen_through_in_several_frames_and_a_cut_file_is_an_error(
    tmp_path: Path, suffix: str, compress: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / f"rows.jsonl{suffix}"
    rows = [{**ROW, "id": str(i)} for i in range(5000)]
    content = compress(jsonl(*rows[:2000])) + compress(jsonl(*rows[2000:]))
    path.write_bytes(content)
    assert [d.id for d in read(path) if isinstance(d, Draft)] == [row["id"] for row in rows]
    path.write_bytes(content[:-20])
    with pytest.raises(InputError, match=r"rows\.jsonl.* is damaged"):
        read(path)


def test_a_tar_of_compressed_files_is_read_like_a_folder_of_them(tmp_path: Path) -> None:
    folder = tmp_path / "dump"
    pages = [
        {"id": str(i), "title": f"T{i}", "text": [f"Page {i}.", " <a href='x'>Next</a>."]}
        for i in range(4)
    ]
    archive = tmp_path / "dump.tar.bz2"
    with tarfile.open(archive, "w:bz2") as tar:
        for number, name in enumerate(("AA/wiki_00.bz2", "AA/wiki_01.bz2", "AB/wiki_00.bz2")):
            content = bz2.compress(jsonl(pages[number]))
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
            info = tarfile.TarInfo(f"dump/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        tar.addfile(tarfile.TarInfo("dump/LICENSE"), io.BytesIO(b""))
    expected = [Draft(str(i), f"T{i}", f"Page {i}. Next.") for i in range(3)]
    assert read(folder) == read(archive) == expected
    assert read(str(folder / "*" / "wiki_*.bz2")) == expected


@pytest.mark.parametrize("num_blocks", [2, 2.5, 3], ids=["between", "in a header", "in a file"])
def test_an_archive_that_is_cut_is_an_error(tmp_path: Path, num_blocks: float) -> None:
    path = tmp_path / "rows.tar"
    with tarfile.open(path, "w") as tar:
        for name in ("x", "y"):
            content = jsonl({**ROW, "id": name})
            info = tarfile.TarInfo(f"{name}.jsonl")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    whole = path.read_bytes()
    assert len(read(path)) == 2
    path.write_bytes(whole[: 5 * tarfile.BLOCKSIZE])
    assert len(read(path)) == 2
    path.write_bytes(whole[: int(num_blocks * tarfile.BLOCKSIZE)])
    with pytest.raises(InputError, match="is damaged"):
        read(path)


def test_pages_of_kilt_are_cut_and_numbered(tmp_path: Path) -> None:
    path = tmp_path / "kilt.json"
    text = ["Paris\n", "Paris is old. It is big.\n", "Section::::History.\n", "Rome came.\n"]
    pages = [
        {"wikipedia_id": "7", "wikipedia_title": "Paris", "text": text},
        {"wikipedia_title": "Nothing", "text": ["Nothing\n", "Section::::See also.\n"]},
        {"wikipedia_title": "Row", "text": {"paragraph": ["Row.\n"]}},
    ]
    path.write_bytes(jsonl(*pages))
    assert read(path, passage_words=5) == [
        Draft("7-0", "Paris", "Paris is old."),
        Draft("7-1", "Paris", "It is big. Rome came."),
        Blank(),
        Draft("Row-0", "Row", "Row."),
    ]


def test_books_become_passages_of_whole_paragraphs_under_their_name(tmp_path: Path) -> None:
    (tmp_path / "Anatomy_Gray.txt").write_text("One two\nthree.\n\nFour five.\n\n\nSix seven.\n")
    (tmp_path / "Lines.txt").write_text("One two three.\nFour five.\nSix.")
    assert read(tmp_path, passage_words=5) == [
        Draft("Anatomy_Gray-0", "Anatomy Gray", "One two three. Four five."),
        Draft("Anatomy_Gray-1", "Anatomy Gray", "Six seven."),
        Draft("Lines-0", "Lines", "One two three. Four five."),
        Draft("Lines-1", "Lines", "Six."),
    ]


@pytest.mark.parametrize(
    ("row", "options", "draft"),
    [
        ({"id": 7, "text": "x", "url": "u"}, {}, Draft("7", "", "x")),
        ({"_id": "a", "contents": '"A "b""\nx\ny'}, {}, Draft("a", 'A "b"', "x\ny")),
        ({"id": "a", "contents": "no title\nx"}, {}, Draft("a", "", "no title\nx")),
        ({"id": "a", "content": "x", "contents": "T. x"}, {}, Draft("a", "", "x")),
        ({"k": "a", "h": "T", "b": "x"}, {"id": "k", "title": "h", "text": "b"}, ("a", "T", "x")),
        ({"text": "x"}, {"id": "line"}, Draft("rows-1", "", "x")),
    ],
)
def test_fields_go_by_their_usual_names_or_by_those_given(
    tmp_path: Path, row: dict[str, Any], options: dict[str, str], draft: Draft
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(jsonl(row))
    assert read(path, **{f"{name}_field": value for name, value in options.items()}) == [draft]


def test_a_table_without_header_gets_its_columns_by_name(tmp_path: Path) -> None:
    path = tmp_path / "collection.tsv"
    path.write_text('\ufeff0\tsaid "no\n1\t"a ""b"" c"\n2\t"a" and "b"\n')
    assert read(path, columns=("id", "text")) == [
        Draft("0", "", 'said "no'),
        Draft("1", "", 'a "b" c'),
        Draft("2", "", '"a" and "b"'),
    ]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (b"not json", "not JSON"),
        (b'["a"]', "not an object but list"),
        (b'{"id": "b"}', "no field text or content"),
        (b'{"text": "x", "key": 1}', "no field id or _id or docid; it has text, key; name yours"),
        (b'{"id": null, "text": "x"}', "id must be a string"),
        (b'{"id": true, "text": "x"}', "id must be a string"),
        (b'{"id": "", "text": "x"}', "id must be a string"),
        (b'{"id": "b", "text": "  "}', "text must be a string with words"),
        (b'{"id": "b", "text": 7}', "text must be a string with words"),
        (b'{"id": "b", "text": "x", "title": "two\\nlines"}', "title must be a string of one line"),
        (b'{"id": "b", "text": "\xff"}', "is not UTF-8"),
        (b'{"id": "b", "text": ["a", 7]}', "text must be a list of strings"),
    ],
)
def test_what_is_wrong_with_a_row_is_said_and_the_next_ones_are_read(
    tmp_path: Path, line: bytes, complaint: str
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(jsonl(ROW) + b"\n" + line + b"\n" + jsonl({**ROW, "id": "z"}))
    first, bad, last = read(path)
    assert isinstance(bad, Bad)
    assert complaint in bad.reason
    assert (first, last) == (Draft("a", "T", "some words"), Draft("z", "T", "some words"))


@pytest.mark.parametrize("name", ["rows.csv", "rows.tsv"])
def test_a_row_of_another_width_or_encoding_is_bad(tmp_path: Path, name: str) -> None:
    cells = [["id", "text"], ["a", "x"], ["b"], ["c", "\udcff"], ["d", "y"]]
    joined = "\n".join(("," if name.endswith("csv") else "\t").join(row) for row in cells)
    path = tmp_path / name
    path.write_bytes(joined.encode(errors="surrogateescape"))
    first, narrow, foreign, last = read(path)
    assert (first, last) == (Draft("a", "", "x"), Draft("d", "", "y"))
    assert narrow == Bad("1 columns, not the 2 of id, text")
    assert isinstance(foreign, Bad)
    assert "UTF-8" in foreign.reason


def test_lines_before_the_start_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"no json\n" + jsonl({**ROW, "id": "b"}, {**ROW, "id": "c"}))
    (source,) = find_sources(str(path))
    found = read_source(source, ReadOptions(), start=(0, 2))
    assert [(line, d.id) for _, line, d in found if isinstance(d, Draft)] == [(2, "b"), (3, "c")]


def test_the_hash_tells_bytes_names_and_options(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(jsonl(ROW))
    sources = find_sources(str(path))
    hashes = [source_sha256(sources, ReadOptions())]
    hashes.append(source_sha256(sources, ReadOptions(passage_words=7)))
    path.write_bytes(jsonl({**ROW, "id": "b"}))
    hashes.append(source_sha256(sources, ReadOptions()))
    assert len(set(hashes)) == 3
    path.write_bytes(jsonl(ROW))
    assert source_sha256(sources, ReadOptions()) == hashes[0]


@pytest.mark.parametrize("name", ["gone.jsonl", "gone/*.jsonl", "."])
def test_no_file_is_an_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"corpus .*(cannot be read|holds no file)"):
        find_sources(str(tmp_path / name))


def test_a_broken_parquet_file_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    path.write_bytes(b"PAR1 and no more")
    with pytest.raises(InputError, match="is no parquet file"):
        read(path)
    damaged = pa.StringArray.from_buffers(
        1, pa.py_buffer(b"\0\0\0\0\2\0\0\0"), pa.py_buffer(b"a\xff")
    )
    parquet.write_table(pa.table({"id": ["a"], "text": damaged}), path)
    with pytest.raises(InputError, match=r"is no parquet file .*utf-8"):
        read(path)
