"""From a row of a file to passages: one, or several where it is a page."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ur2.retrieval.corpus.options import ReadOptions, Shape
from ur2.retrieval.corpus.passages import cut, kilt_sentences, plain_text

ID_FIELDS = ("id", "_id", "docid")
TEXT_FIELDS = ("text", "content", "contents", "passage")
TITLE_FIELD = "title"
LINE = "line"
"""The `id_field` for ids made of the file's name and the line."""
PAGE_ID_FIELDS = ("wikipedia_id", *ID_FIELDS, "wikipedia_title")

Row = Mapping[str, Any]


class Draft(NamedTuple):
    """A passage that is read, and sound but for whether its id is unique."""

    id: str
    title: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """The facts that the rows of a file have in common."""

    options: ReadOptions
    name: str
    """The file's name."""


Reader = Callable[[Row, int, Context], Iterator[Draft]]
"""(row, line, context) -> the passages of a row; raises ValueError with what is wrong."""


def known_fields(options: ReadOptions) -> frozenset[str]:
    """All that a table may be cut to before its rows are read."""
    asked = {options.id_field, options.title_field, options.text_field} - {None}
    found = {*PAGE_ID_FIELDS, *TEXT_FIELDS, TITLE_FIELD}
    return frozenset(name for name in (*asked, *found) if name is not None)


def shape_of(row: Row) -> Shape:
    """Tells the shape by what the row holds."""
    if "wikipedia_title" in row and not isinstance(row.get("text"), str):
        return "kilt"
    return "abstracts" if isinstance(row.get("text"), list) else "rows"


def checked(id_: object, title: object, text: object) -> Draft:
    """A passage whose parts are what they must be.

    Raises:
        ValueError: naming the part that is not.
    """
    if isinstance(id_, int) and not isinstance(id_, bool):
        id_ = str(id_)
    if not isinstance(id_, str) or not id_:
        raise ValueError(f"id must be a string that is not empty{_got(id_)}")
    if not isinstance(text, str) or not text or text.isspace():
        raise ValueError(f"text must be a string with words in it{_got(text)}")
    title = "" if title is None else title
    if not isinstance(title, str) or "\n" in title or "\r" in title:
        raise ValueError(f"title must be a string of one line{_got(title)}")
    if not (id_.isascii() and title.isascii() and text.isascii()):
        try:
            f"{id_}{title}{text}".encode()
        except UnicodeEncodeError as error:
            raise ValueError("is not UTF-8; save the file as UTF-8") from error
    return Draft(id_, title, text)


def file_stem(name: str) -> str:
    """The path of a file without its suffixes, which begins the ids that are made for it."""
    path = Path(name)
    return (path.parent / path.name.partition(".")[0]).as_posix()


def _rows(row: Row, line: int, context: Context) -> Iterator[Draft]:
    options = context.options
    if options.id_field == LINE:
        id_: object = f"{file_stem(context.name)}-{line}"
    else:
        id_ = row[_field(row, options.id_field, ID_FIELDS)]
    text_field = _field(row, options.text_field, TEXT_FIELDS)
    text, title = row[text_field], row.get(options.title_field or TITLE_FIELD)
    if options.empty == "skip" and (text is None or (isinstance(text, str) and not text.strip())):
        return
    if title is None and text_field == "contents" and isinstance(text, str):
        title, text = _quoted_title(text)
    yield checked(id_, title, text)


def _abstracts(row: Row, line: int, context: Context) -> Iterator[Draft]:
    text = plain_text(_strings(row.get("text"), "text"))
    if text:
        yield checked(row[_field(row, context.options.id_field, ID_FIELDS)], row.get("title"), text)


def _kilt(row: Row, line: int, context: Context) -> Iterator[Draft]:
    page = row[_field(row, context.options.id_field, PAGE_ID_FIELDS)]
    title = row.get("wikipedia_title") or row.get(TITLE_FIELD)
    value = row.get("text")
    paragraphs = _strings(value.get("paragraph") if isinstance(value, dict) else value, "text")
    prose = kilt_sentences(str(title), paragraphs)
    for number, (_, text) in enumerate(cut(prose, context.options.passage_words)):
        yield checked(f"{page}-{number}", title, text)


def _field(row: Row, asked: str | None, known: tuple[str, ...]) -> str:
    for name in (asked,) if asked else known:
        if name in row:
            return name
    has = ", ".join([*list(row)[:6], *(["..."] if len(row) > 6 else [])]) or "none"
    wanted = asked or " or ".join(known)
    remedy = f"id_field=NAME, or id_field={LINE}" if "id" in known else "text_field=NAME"
    raise ValueError(f"no field {wanted}; it has {has}; name yours with {remedy}")


def _strings(value: object, name: str) -> Iterator[str]:
    """The strings of a list, or of a list of lists."""
    if not isinstance(value, list):
        raise ValueError(f"{name} must be a list of strings{_got(value)}")
    for item in value:
        if isinstance(item, list):
            yield from _strings(item, name)
        elif isinstance(item, str):
            yield item
        else:
            raise ValueError(f"{name} must be a list of strings, it holds {_shown(item)}")


def _quoted_title(contents: str) -> tuple[str, str]:
    first, newline, rest = contents.partition("\n")
    first = first.strip()
    if newline and len(first) > 1 and first.startswith('"') and first.endswith('"'):
        return first[1:-1], rest
    return "", contents


def _got(value: object) -> str:
    return "" if value in ("", None) else f", got {_shown(value)}"


def _shown(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."


READERS: Mapping[Shape, Reader] = {"rows": _rows, "abstracts": _abstracts, "kilt": _kilt}
"""By shape; `text` has no rows."""
