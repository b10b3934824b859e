"""Long texts cut to passages of at most N words, at the ends of paragraphs and sentences."""

import html
import re
from collections.abc import Iterable, Iterator

_SENTENCE_END = re.compile(r"""(?:(?<=[.!?])|(?<=[.!?]["')\]]))\s+(?=["'(\[]?[A-Z0-9])""")
_ANCHOR = re.compile(r"</?a\b[^>]*>", re.IGNORECASE)
_KILT_MARK = re.compile(r"^[A-Z]+::::[-*#:;]*\s*")
_KILT_HEADING = "Section::::"


def sentences(text: str) -> list[str]:
    """Where a text may be cut; a wrong guess only moves a cut."""
    return _SENTENCE_END.split(text)


def cut(pieces: Iterable[str], max_words: int) -> Iterator[tuple[int, str]]:
    """Packs pieces, whole where they fit, into passages; nothing but white space is changed.

    A piece above `max_words` is cut at the ends of its sentences, and a sentence above it anywhere.

    Yields:
        (number of the piece that the passage begins in, from 0; passage).
    """
    passage: list[str] = []
    begin = 0
    for number, piece in enumerate(pieces):
        for words in _parts(piece, max_words):
            if passage and len(passage) + len(words) > max_words:
                yield begin, " ".join(passage)
                passage = []
            if not passage:
                begin = number
            passage += words
    if passage:
        yield begin, " ".join(passage)


def plain_text(sentences_of_page: Iterable[str]) -> str:
    """The sentences of an abstract as one line, without the links that some dumps keep."""
    text = " ".join(sentences_of_page)
    return " ".join(html.unescape(_ANCHOR.sub("", text)).split())


def kilt_sentences(title: str, paragraphs: Iterable[str]) -> Iterator[str]:
    """The prose of a KILT page: without its title, headings and the marks of list items."""
    for number, paragraph in enumerate(paragraphs):
        text = paragraph.strip()
        if text.startswith(_KILT_HEADING) or (number == 0 and text == title):
            continue
        yield from sentences(_KILT_MARK.sub("", text))


def _parts(piece: str, max_words: int) -> Iterator[list[str]]:
    words = piece.split()
    if len(words) <= max_words:
        yield words
        return
    for sentence in sentences(piece):
        words = sentence.split()
        for start in range(0, len(words), max_words):
            yield words[start : start + max_words]
