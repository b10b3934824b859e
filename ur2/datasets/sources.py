"""Where rows come from: JSON lines, JSON arrays, parquet, or the Hugging Face hub.

A source is named `PATH` or `hf:OWNER/NAME[#CONFIG/SPLIT]`, and may end in `?task=math` (or `qa`)
for rows that do not tell their task, and in `?adapter=package.module:name` for rows that no schema
fits; `&key=value` adds options of the adapter. CONFIG may be empty; the split is `train` by
default.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast, get_args

from pydantic_core import from_json

from ur2.datasets.jsonl import BYTE_ORDER_MARK, opened, read_all, read_lines
from ur2.datasets.rows import KNOWN_FIELDS
from ur2.errors import InputError
from ur2.options import read_value
from ur2.types import Task

HUB_PREFIX = "hf:"


@dataclass(frozen=True, slots=True, kw_only=True)
class QuestionSource:
    """The parts of a source's name."""

    name: str
    """As the user wrote it."""
    path: str
    """The local file, or the hub's OWNER/NAME."""
    on_hub: bool
    config: str | None = None
    split: str = "train"
    task: Task | None = None
    adapter: str | None = None
    """The import path of what reads the rows; None: their fields tell the schema."""
    adapter_options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def stem(self) -> str:
        """The file's name without suffixes, which begins the ids of its rows."""
        stem = Path(self.path).name.partition(".")[0]
        return "-".join([stem, *filter(None, [self.config]), self.split]) if self.on_hub else stem


@dataclass(frozen=True, slots=True, kw_only=True)
class RawRow:
    """A row before it is checked."""

    number: int
    """From 1."""
    place: str
    """For messages: `line 3`, `item 3`, `row 3`."""
    value: object
    """The bytes of a line, or an object that a table or array held."""


def parse_source(name: str) -> QuestionSource:
    """Takes a source's name apart.

    Raises:
        InputError: the part after `?` is not understood, or nothing follows `hf:`.
    """
    rest, _, query = name.partition("?")
    settings = _settings(name, query)
    if not rest.startswith(HUB_PREFIX):
        return QuestionSource(name=name, path=rest, on_hub=False, **settings)
    path, _, part = rest.removeprefix(HUB_PREFIX).partition("#")
    if not Path(path).name:
        raise InputError(f"{name}: names no data set; write hf:OWNER/NAME#CONFIG/SPLIT")
    config, _, split = part.rpartition("/")
    return QuestionSource(
        name=name,
        path=path,
        on_hub=True,
        config=config or None,
        split=split or "train",
        **settings,
    )


def _settings(name: str, query: str) -> dict[str, Any]:
    """Task, adapter and its options, from what follows `?` in a source's name."""
    words = dict(word.partition("=")[::2] for word in query.split("&") if word)
    task, adapter = words.pop("task", None), words.pop("adapter", None)
    if task not in (None, *get_args(Task)) or (words and adapter is None):
        known = ", ".join(f"?task={task}" for task in get_args(Task))
        raise InputError(
            f"{name}: '?{query}' is not understood; known: {known}, ?adapter=package.module:name"
        )
    options = {key: read_value(value) for key, value in words.items()}
    return {"task": task, "adapter": adapter, "adapter_options": options}


def local_path(name: str) -> str | None:
    """The file that a source's name needs on this machine; None for a set of the hub.

    Raises:
        InputError: as `parse_source`.
    """
    source = parse_source(name)
    return None if source.on_hub else source.path


def read_rows(source: QuestionSource) -> Iterator[RawRow]:
    """Yields the rows of a source.

    Raises:
        InputError: the source is missing, damaged, or cannot be fetched.
    """
    if source.on_hub:
        return _read_hub(source)
    if source.path.endswith(".parquet"):
        return _read_parquet(source)
    if ".json" in Path(source.path).suffixes and _is_array(source.path):
        return _read_array(source.path)
    return (
        RawRow(number=number, place=f"line {number}", value=line)
        for number, line in read_lines(source.path)
    )


def _is_array(path: str) -> bool:
    """Whether a `.json` file is one array; many published ones are JSON lines.

    Raises:
        InputError: it is one object over many lines.
    """
    with opened(path) as stream:
        begin = stream.read(4096).removeprefix(BYTE_ORDER_MARK).strip()
    if begin.startswith(b"{") and begin.partition(b"\n")[0].rstrip() == b"{":
        raise InputError(
            f"{path}: one JSON object, not JSON lines or an array; give its rows alone"
        )
    return begin.startswith(b"[")


def _read_array(path: str) -> Iterator[RawRow]:
    try:
        items = from_json(read_all(path), allow_inf_nan=False)
    except ValueError as error:
        raise InputError(f"{path}: not a JSON array ({error}); correct it there") from error
    for number, item in enumerate(items, start=1):
        yield RawRow(number=number, place=f"item {number}", value=item)


def _columns(source: QuestionSource, names: list[str]) -> list[str]:
    """The fields that a table is cut to; an adapter sees all of it."""
    return names if source.adapter else [name for name in names if name in KNOWN_FIELDS]


def _read_parquet(source: QuestionSource) -> Iterator[RawRow]:
    import pyarrow
    from pyarrow import parquet

    with opened(source.path) as stream:
        try:
            table = parquet.ParquetFile(stream)
            known = _columns(source, table.schema_arrow.names)
            rows = (row for batch in table.iter_batches(columns=known) for row in batch.to_pylist())
            for number, row in enumerate(rows, start=1):
                yield RawRow(number=number, place=f"row {number}", value=row)
        except (pyarrow.ArrowException, UnicodeDecodeError) as error:
            raise InputError(
                f"{source.path}: not a parquet file ({error}); fetch it again"
            ) from error


def _read_hub(source: QuestionSource) -> Iterator[RawRow]:
    import datasets
    import httpx

    try:
        table = datasets.load_dataset(source.path, source.config, split=source.split)
    except (OSError, ValueError, httpx.HTTPError, datasets.exceptions.DatasetsError) as error:
        raise InputError(
            f"{source.name}: cannot be loaded ({_first_line(error)}). Check the name "
            "(hf:OWNER/NAME#CONFIG/SPLIT) and the network; without a network, download the file "
            "elsewhere and give its path"
        ) from error
    known = _columns(source, table.column_names)
    rows = cast(Iterator[Mapping[str, Any]], iter(table.select_columns(known)))
    for number, row in enumerate(rows, start=1):
        yield RawRow(number=number, place=f"row {number}", value=dict(row))


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
