import gzip
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from ur2.errors import InputError
from ur2.retrieval.corpus import convert
from ur2.retrieval.corpus.__main__ import make
from ur2.retrieval.corpus.file import Corpus
from ur2.retrieval.corpus.options import CorpusOptions
from ur2.retrieval.partial import work_folder


def asked(sources: Path | list[Path], out: Path, **more: object) -> CorpusOptions:
    names = [str(source) for source in (sources if isinstance(sources, list) else [sources])]
    return CorpusOptions.load({"in": names, "out": str(out), **more}, where="test")


def jsonl(rows: Iterable[object]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def numbered(numbers: Iterable[int], prefix: str = "p") -> bytes:
    return jsonl({"id": f"{prefix}{n}", "title": f"T{n}", "text": f"words {n}"} for n in numbers)


@pytest.fixture
def all_formats(tmp_path: Path) -> Path:
    folder = tmp_path / "sources"
    folder.mkdir()
    (folder / "a.jsonl.gz").write_bytes(gzip.compress(numbered(range(40))))
    pages = (
        {"wikipedia_title": f"K{n}", "text": [f"K{n}\n", " ".join(["One two."] * (n % 7))]}
        for n in range(40)
    )
    (folder / "b.jsonl").write_bytes(jsonl(pages))
    with tarfile.open(folder / "c.tar", "w") as tar:
        for name in ("x", "y", "z"):
            content = numbered(range(15), name)
            info = tarfile.TarInfo(f"{name}.jsonl")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    (folder / "d.tsv").write_text("id\ttext\n" + "".join(f"t{n}\tx\n" for n in range(20)))
    (folder / "e.csv").write_text("id,text\n" + "".join(f'c{n},"x\ny"\n' for n in range(20)))
    (folder / "f.txt").write_text("\n\n".join(f"Paragraph {n} has words." for n in range(40)))
    return folder


def test_an_interrupted_conversion_goes_on_and_ends_with_the_same_bytes(
    tmp_path: Path, all_formats: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped again and again, after ever more passages."""
    monkeypatch.setattr(convert, "ROWS_PER_CHUNK", 8)
    monkeypatch.setattr(convert, "CHUNKS_PER_CHECKPOINT", 1)
    whole, pieces = tmp_path / "whole.arrow", tmp_path / "pieces.arrow"
    options = {"passage_words": 6}
    assert make(asked(all_formats, whole, **options))
    digest, calls = convert.id_digest, 0

    def stopping(id_: str) -> int:
        nonlocal calls
        calls += 1
        if calls % 21 == 0:
            raise KeyboardInterrupt
        return digest(id_)

    monkeypatch.setattr(convert, "id_digest", stopping)
    num_stops = 0
    while not pieces.exists():
        try:
            make(asked(all_formats, pieces, **options))
        except KeyboardInterrupt:
            num_stops += 1
            assert not pieces.exists()
    assert num_stops > 10
    assert calls < 2 * len(Corpus(whole))
    assert pieces.read_bytes() == whole.read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"sources", "whole.arrow", "pieces.arrow"}


def test_sources_that_changed_meanwhile_are_read_from_their_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(convert, "ROWS_PER_CHUNK", 2)
    monkeypatch.setattr(convert, "CHUNKS_PER_CHECKPOINT", 1)
    source, out = tmp_path / "rows.jsonl", tmp_path / "corpus.arrow"
    source.write_bytes(numbered(range(5)))
    with monkeypatch.context() as patch:
        patch.setattr(convert.CorpusWriter, "finish", interrupt)
        with pytest.raises(KeyboardInterrupt):
            make(asked(source, out))
    source.write_bytes(numbered(range(10, 14)))
    make(asked(source, out))
    corpus = Corpus(out)
    assert [corpus.id_of(row) for row in range(len(corpus))] == ["p10", "p11", "p12", "p13"]


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_all_that_is_wrong_is_told_at_once_by_file_and_line(tmp_path: Path) -> None:
    first, second = tmp_path / "first.jsonl", tmp_path / "second.jsonl"
    first.write_bytes(numbered(range(3)) + b"no json\n")
    second.write_bytes(jsonl([{"id": "x"}]) + numbered([7, 1]))
    out = tmp_path / "corpus.arrow"
    with pytest.raises(InputError) as raised:
        make(asked([first, second], out))
    message = str(raised.value)
    assert "3 bad row(s)" in message
    assert f"{first}:4: not JSON" in message
    assert f"{second}:1: no field text" in message
    assert f"{second}:3: id 'p1' is already at {first}:2" in message
    assert not out.exists()
    assert not list(tmp_path.glob(".*"))


def test_rows_without_text_are_refused_or_left_out_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {"id": "a", "text": "one"}, {"id": "b", "text": ""}, {"id": "c", "text": None},
        {"id": "d", "text": " \n"}, {"id": "e", "text": "two", "title": "T"},
    ]  # fmt: skip
    source, out = tmp_path / "rows.jsonl", tmp_path / "corpus.arrow"
    source.write_bytes(jsonl(rows))
    with pytest.raises(InputError, match=r"3 bad row\(s\)"):
        make(asked(source, out))
    make(asked(source, out, empty="skip"))
    corpus = Corpus(out)
    assert [corpus.id_of(row) for row in range(len(corpus))] == ["a", "e"]
    assert "3 rows without text are left out" in capsys.readouterr().err
    source.write_bytes(jsonl([{"id": "a", "text": 5}]))
    with pytest.raises(InputError, match="text must be a string"):
        make(asked(source, out, empty="skip"))


@pytest.mark.parametrize(
    ("content", "count", "tail"),
    [
        (b"no json\n" * 30, "30 bad row(s)", "... and 10 more"),
        (b"no json\n" * 5000, "1,000 bad row(s)", "reading ended after 1,000"),
        (numbered([*range(50), *range(50)]), "50 bad row(s)", "... and 30 more"),
    ],
)
def test_of_many_problems_twenty_are_shown(
    tmp_path: Path, content: bytes, count: str, tail: str
) -> None:
    source = tmp_path / "rows.jsonl"
    source.write_bytes(content)
    with pytest.raises(InputError) as raised:
        make(asked(source, tmp_path / "corpus.arrow"))
    head, *shown, last = str(raised.value).splitlines()
    assert count in head
    assert len(shown) == 20
    assert tail in last


@pytest.mark.parametrize("content", [b"", b"\n\n"])
def test_an_empty_corpus_is_an_error(tmp_path: Path, content: bytes) -> None:
    source = tmp_path / "rows.jsonl"
    source.write_bytes(content)
    with pytest.raises(InputError, match="holds no passages"):
        make(asked(source, tmp_path / "corpus.arrow"))


def test_a_corpus_is_made_again_only_where_it_would_change(tmp_path: Path) -> None:
    source, out = tmp_path / "rows.jsonl", tmp_path / "deep" / "corpus.arrow"
    source.write_bytes(numbered(range(5)))
    assert make(asked(source, out))
    assert not make(asked(source, out))
    assert make(asked(source, out, id_field="line"))
    assert Corpus(out).id_of(0) == "rows-1"


def test_a_corpus_beside_its_sources_goes_on_and_changes_with_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(convert, "ROWS_PER_CHUNK", 2)
    monkeypatch.setattr(convert, "CHUNKS_PER_CHECKPOINT", 1)
    out = tmp_path / "corpus.arrow"
    (tmp_path / "a.jsonl").write_bytes(numbered(range(5)))
    with monkeypatch.context() as patch:
        patch.setattr(convert.CorpusWriter, "finish", interrupt)
        with pytest.raises(KeyboardInterrupt):
            make(asked(tmp_path, out))
    assert make(asked(tmp_path, out))
    assert not make(asked(tmp_path, out))
    (tmp_path / "b.jsonl").write_bytes(numbered(range(5, 10)))
    assert make(asked(tmp_path, out))
    assert len(Corpus(out)) == 10


def test_what_is_no_corpus_is_not_overwritten(tmp_path: Path) -> None:
    source, out = tmp_path / "rows.jsonl", tmp_path / "other.arrow"
    source.write_bytes(numbered(range(5)))
    out.write_bytes(b"something else")
    with pytest.raises(InputError, match="is no corpus file"):
        make(asked(source, out))
    with pytest.raises(InputError, match=r"must end in \.arrow"):
        make(asked(source, tmp_path / "corpus"))
    assert out.read_bytes() == b"something else"


def test_two_processes_cannot_make_one_thing(tmp_path: Path) -> None:
    with (
        work_folder(tmp_path / "thing"),
        pytest.raises(InputError, match="another process is at work on"),
        work_folder(tmp_path / "thing"),
    ):
        raise AssertionError("both are at work")


def test_the_command_survives_a_kill_and_an_interrupt(tmp_path: Path) -> None:
    source, out, whole = tmp_path / "rows.jsonl", tmp_path / "out.arrow", tmp_path / "whole.arrow"
    source.write_bytes(b"".join(b'{"id": "%d", "text": "words"}\n' % n for n in range(220_000)))
    make(asked(source, whole))
    state = tmp_path / ".out.arrow.partial" / "state.json"
    command = [sys.executable, "-m", "ur2.retrieval.corpus", f"in={source}", f"out={out}"]

    def stop(number: int, is_time: Callable[[], bool]) -> tuple[int, str]:
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            while not is_time():
                assert process.poll() is None
                time.sleep(0.01)
            process.send_signal(number)
            _, error = process.communicate()
        return process.returncode, error

    assert stop(signal.SIGKILL, state.exists)[0] == -signal.SIGKILL
    before = state.read_bytes()
    code, error = stop(signal.SIGINT, lambda: state.read_bytes() != before)
    assert code == 130
    assert "going on after" in error
    assert "the same command goes on" in error
    assert not out.exists()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "going on after" in done.stderr
    assert "220000 passages" in done.stdout
    assert out.read_bytes() == whole.read_bytes()
    assert not state.parent.exists()


def test_sources_that_look_the_same_are_not_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = tmp_path / "rows.jsonl", tmp_path / "corpus.arrow"
    source.write_bytes(numbered(range(5)))
    make(asked(source, out))
    with monkeypatch.context() as patch:
        patch.setattr(convert, "source_sha256", interrupt)
        assert not make(asked(source, out))
    changed = source.stat().st_mtime_ns
    source.write_bytes(numbered(range(5, 10)))
    os.utime(source, ns=(changed + 1, changed + 1))
    assert make(asked(source, out))
    assert Corpus(out).id_of(0) == "p5"
