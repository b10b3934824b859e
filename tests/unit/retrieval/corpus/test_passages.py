from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from ur2.retrieval.corpus.passages import cut, kilt_sentences, plain_text, sentences

WORD = st.text("abcDE.?\"'", min_size=1, max_size=6)
PIECES = st.lists(st.lists(WORD, max_size=30).map(" ".join), max_size=8)


@settings(deadline=None, max_examples=60)
@given(pieces=PIECES, max_words=st.integers(1, 12))
def test_cutting_keeps_every_word_in_order_and_no_passage_is_too_long(
    pieces: list[str], max_words: int
) -> None:
    passages = [passage for _, passage in cut(pieces, max_words)]
    assert [w for p in passages for w in p.split()] == [w for p in pieces for w in p.split()]
    assert all(0 < len(passage.split()) <= max_words for passage in passages)


@settings(deadline=None, max_examples=60)
@given(pieces=PIECES, max_words=st.integers(1, 12))
def test_pieces_that_fit_are_whole_and_passages_are_as_full_as_that_allows(
    pieces: list[str], max_words: int
) -> None:
    short = [" ".join(piece.split()) for piece in pieces if 0 < len(piece.split()) <= max_words]
    passages = list(cut(short, max_words))
    begins = [begin for begin, _ in passages]
    assert [" ".join(short[a:b]) for a, b in pairwise([*begins, len(short)])] == [
        passage for _, passage in passages
    ]
    for (_, passage), (begin, _) in pairwise(passages):
        assert len(passage.split()) + len(short[begin].split()) > max_words


def test_long_paragraphs_are_cut_at_the_ends_of_sentences() -> None:
    paragraph = 'It rained. "Did it?" She asked Mr. Hill (again). Nobody knew.'
    assert sentences(paragraph)[0] == "It rained."
    assert [p for _, p in cut([paragraph], 6)] == [
        'It rained. "Did it?"',
        "She asked Mr. Hill (again).",
        "Nobody knew.",
    ]


def test_a_kilt_page_keeps_its_prose_and_the_words_of_its_lists() -> None:
    paragraphs = [
        "Paris\n",
        "Paris is a city. It is old.\n",
        "Section::::History.:Rome.\n",
        "BULLET::::- Lutetia, its old name\n",
        "\n",
        "Paris\n",
    ]
    assert [s for s in kilt_sentences("Paris", paragraphs) if s] == [
        "Paris is a city.",
        "It is old.",
        "Lutetia, its old name",
        "Paris",
    ]


def test_an_abstract_loses_its_links_and_nothing_else() -> None:
    sentences_of_page = ['<a href="France">French</a> &amp; <b>1 &lt; 2</b>.', "  Next one. "]
    assert plain_text(sentences_of_page) == "French & <b>1 < 2</b>. Next one."
