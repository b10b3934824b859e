"""Where passages come from: files, folders and archives, through their compression."""

import bz2
import gzip
import hashlib
import io
import lzma
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import zstandard

from ur2.errors import InputError
from ur2.retrieval.corpus.file import SUFFIX
from ur2.retrieval.corpus.options import ReadOptions
from ur2.zstd import ZstdReader

KNOWN_SUFFIXES = (".jsonl", ".json", ".ndjson", ".tsv", ".csv", ".parquet", ".txt")
TAR_SUFFIXES = (".tar", ".tgz", ".tbz2")
WIKI_NAME = "wiki_"
"""Begins the names of the files that WikiExtractor writes; they have no suffix."""
_PATTERN_MARKS = frozenset("*?[")
BUFFER_BYTES = 1 << 18
READERS_VERSION = 2
"""Grows when the same files would give other passages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PassageFile:
    """A file of passages."""

    path: Path
    name: str
    """The path within the folder that was named, else the file's name."""
    num_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A stream of rows: a file, or one of an archive."""

    number: int
    """In its archive, from 0."""
    label: str
    """For messages."""
    name: str
    """The path within the folder or archive that was named."""
    suffix: str
    stream: BinaryIO


def find_sources(names: str | Sequence[str]) -> tuple[PassageFile, ...]:
    """The files that `names` stand for, in the order of names and, within a folder, of paths.

    Raises:
        InputError: a name stands for no file.
    """
    found: list[PassageFile] = []
    for name in [names] if isinstance(names, str) else names:
        root, paths = _expand(name)
        if not paths:
            raise InputError(
                f"corpus {name} holds no file that ends in {', '.join(KNOWN_SUFFIXES)}"
            )
        found += [_source(path, root) for path in paths]
    return tuple(found)


def source_sha256(sources: Sequence[PassageFile], options: ReadOptions) -> str:
    """A hash of the files' bytes and of how they are read; equal hashes mean equal passages.

    Raises:
        InputError: a file cannot be read.
    """
    digest = _begin_hash(options)
    for source in sources:
        with reading(source.path), source.path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        digest.update(f"\n{content} {source.name}".encode())
    return digest.hexdigest()


def source_stamp(sources: Sequence[PassageFile], options: ReadOptions) -> str:
    """A hash of sizes and times instead of bytes: as long as it is the same, so is `source_sha256`.

    Raises:
        InputError: a file cannot be found.
    """
    digest = _begin_hash(options)
    for source in sources:
        with reading(source.path):
            changed_ns = source.path.stat().st_mtime_ns
        digest.update(f"\n{source.num_bytes} {changed_ns} {source.path.absolute()}".encode())
    return digest.hexdigest()


def members(source: PassageFile, count: Callable[[int], None]) -> Iterator[Member]:
    """Opens a file, or one after another the files of an archive; `count` gets the bytes read.

    To be used within `reading`.
    """
    with source.path.open("rb") as raw:
        file = cast(BinaryIO, _Counted(raw, count))
        suffix = _suffix(source.path.name)
        if suffix not in TAR_SUFFIXES:
            stream = file if suffix == ".parquet" else _decompressed(source.path.name, file)
            yield Member(
                number=0, label=str(source.path), name=source.name, suffix=suffix, stream=stream
            )
            return
        packed = _Tail(_archive(source.path.name, file))
        with tarfile.open(fileobj=cast(BinaryIO, packed), mode="r|") as archive:
            for number, info in enumerate(archive):
                content = archive.extractfile(info)
                if content is None or not _is_known(Path(info.name).name):
                    continue
                yield Member(
                    number=number,
                    label=f"{source.path}!{info.name}",
                    name=info.name,
                    suffix=_suffix(info.name),
                    stream=_decompressed(info.name, cast(BinaryIO, content)),
                )
        if any(packed.tail):  # which tarfile takes for the end of an archive
            raise EOFError("it ends between two files")


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turns what goes wrong with a file into the one error to show.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(f"corpus {path} cannot be read: {reason}") from error
    except (EOFError, zlib.error, lzma.LZMAError, zstandard.ZstdError, tarfile.TarError) as error:
        raise InputError(f"corpus {path} is damaged ({error}); fetch or make it again") from error


class _Counted(io.RawIOBase):
    """Tells how far a file has been read, whatever decompresses it."""

    def __init__(self, file: BinaryIO, count: Callable[[int], None]) -> None:
        self._file = file
        self._count = count

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        content = self._file.read(len(buffer))
        buffer[: len(content)] = content
        self._count(len(content))
        return len(content)


class _Tail:
    """Remembers the end of what was read of an archive, which ends with empty blocks."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.tail = b""

    def read(self, size: int) -> bytes:
        content = self._file.read(size)
        self.tail = (self.tail + content)[-tarfile.BLOCKSIZE :]
        return content


def _begin_hash(options: ReadOptions) -> "hashlib._Hash":
    how = options.model_dump_json(include=set(ReadOptions.model_fields))
    return hashlib.sha256(f"{READERS_VERSION} {how}".encode())


def _expand(name: str) -> tuple[Path, list[Path]]:
    """The files of a name, and the folder that their names are relative to."""
    path = Path(name)
    if path.is_dir():
        return path, sorted(p for p in path.rglob("*") if p.is_file() and _is_source(p, path))
    if path.exists() or not _PATTERN_MARKS & set(name):
        return path.parent, [path]
    root = next(folder for folder in path.parents if not _PATTERN_MARKS & set(str(folder)))
    return root, sorted(p for p in root.glob(str(path.relative_to(root))) if p.is_file())


def _source(path: Path, root: Path) -> PassageFile:
    with reading(path):
        num_bytes = path.stat().st_size
        return PassageFile(path=path, name=path.relative_to(root).as_posix(), num_bytes=num_bytes)


def _is_known(name: str) -> bool:
    """Whether a file of a folder or an archive is one of passages, not its licence or the like."""
    known = (*KNOWN_SUFFIXES, *TAR_SUFFIXES)
    return not name.startswith(".") and (_suffix(name) in known or name.startswith(WIKI_NAME))


def _is_source(path: Path, root: Path) -> bool:
    """Whether a file below `root` is one of passages.

    Those of hidden folders, such as unfinished work, and of what is made of passages are not.
    """
    made = (folder / f"corpus{SUFFIX}" for folder in path.parents if root in folder.parents)
    hidden = any(part.startswith(".") for part in path.relative_to(root).parts)
    return _is_known(path.name) and not hidden and not any(file.exists() for file in made)


def _suffix(name: str) -> str:
    """The suffix before that of compression."""
    path = Path(name)
    return (path.with_suffix("") if path.suffix in _DECOMPRESSORS else path).suffix.lower()


def _decompressed(name: str, file: BinaryIO) -> BinaryIO:
    decompress = _DECOMPRESSORS.get(Path(name).suffix, _plain)
    return cast(BinaryIO, io.BufferedReader(decompress(file), buffer_size=BUFFER_BYTES))


def _archive(name: str, file: BinaryIO) -> BinaryIO:
    inner = {".tgz": ".gz", ".tbz2": ".bz2"}.get(Path(name).suffix)
    return _decompressed(f"archive{inner}" if inner else name, file)


def _plain(file: BinaryIO) -> io.RawIOBase:
    return cast(io.RawIOBase, file)


def _gzip(file: BinaryIO) -> io.RawIOBase:
    return cast(io.RawIOBase, gzip.GzipFile(fileobj=file))


def _bz2(file: BinaryIO) -> io.RawIOBase:
    return cast(io.RawIOBase, bz2.BZ2File(file))


def _xz(file: BinaryIO) -> io.RawIOBase:
    return cast(io.RawIOBase, lzma.LZMAFile(file))


_DECOMPRESSORS: Mapping[str, Callable[[BinaryIO], io.RawIOBase]] = {
    ".gz": _gzip,
    ".bz2": _bz2,
    ".xz": _xz,
    ".zst": ZstdReader,
}
