"""Reads which options a short answer names by letter: `B`, `(b)`, `B. Warfarin`, `Vitamin K (E)`.

A letter is a label where it stands alone and is set like one:
1. first in the answer or in a line: in brackets; before `)`, `.` or `:`; before `,`, `?`, a dash, a
   bracket or a capitalised word; or with nothing after it. `A` and `I` are words before a word, and
   `E. coli` is a species.
2. after a cue ("option B", "the answer is B"), or before one ("B is correct");
3. in brackets at the end: `Vitamin K (E)`.
What follows on later lines explains, unless it is a list of options. Where two letters are named,
none is. Letters of other alphabets that look like Latin capitals count as these.
"""

import re
from collections.abc import Iterator

_ASCII = "".join(map(chr, range(ord("!"), ord("~") + 1)))
_WIDE = "".join(chr(ord(character) - 0x20 + 0xFF00) for character in _ASCII)
_CYRILLIC = "\u0410\u0412\u0421\u0415\u041d\u0406\u0408\u041a\u041c\u041e\u0420\u0422\u0425\u0405"
_GREEK = "\u0391\u0392\u0395\u0396\u0397\u0399\u039a\u039c\u039d\u039f\u03a1\u03a4\u03a5\u03a7"
LOOK_ALIKES = str.maketrans(
    _WIDE + _CYRILLIC + _GREEK + "\u2018\u2019\u201c\u201d\u3010\u3011\u3001\u3002",
    _ASCII + "ABCEHIJKMOPTXS" + "ABEZHIKMNOPTYX" + "''\"\"[],.",
)
"""Full-width forms, Cyrillic and Greek capitals, curly quotes: one character for one."""

MAX_CHARS = 2000
"""An answer is read so far."""
SPECIES = frozenset(
    """
    coli aureus difficile pylori cereus pneumoniae tuberculosis influenzae meningitidis
    gonorrhoeae trachomatis pallidum burgdorferi falciparum vivax malariae ovale botulinum tetani
    perfringens albicans neoformans jirovecii gondii histolytica lamblia aeruginosa epidermidis
    pyogenes agalactiae faecalis monocytogenes cholerae jejuni typhi enteritidis dysenteriae
    anthracis henselae pertussis vaginalis mirabilis marcescens baumannii maltophilia cepacia
    leprae avium immitis dermatitidis capsulatum fumigatus carinii solium saginata bovis
    melanogaster elegans sapiens cerevisiae subtilis thaliana
    """.split()  # noqa: SIM905 - a table of words
)
"""The second words of species, before which a letter stands for a genus."""

_EMPHASIS = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|boxed)\s*\{([^{}]*)\}")
_MARKS = re.compile(r"\\[()\[\]]|[*_`$\"']+|\\(?=\s)")
_BULLET = re.compile(r"[^\w(\[{]*(?:\d+[.)]\s+)?")
_ORNAMENT = re.compile(r"[^\w)\]}.,;:!?/&'-]+$")
_CUE = re.compile(
    r"\b(?:option|choice|answer|ans|letter|choose|chose|select(?:ed)?|pick|with|is|be|its)\b[\s:=]*"
    r"(?=\S)|:\s+(?=[A-Z]\W*$)",
    re.IGNORECASE,
)
_BRACKETED = re.compile(r"[(\[{]\s*([A-Za-z])\s*\.?\s*[)\]}]")
_POINTED = re.compile(r"([A-Za-z])\s*(?:\.?\)|[.:](?=\s|$))")
_LONE = re.compile(r"[(\[{]?\s*([A-Za-z])\s*[)\]}]?[\s.,;:!?]*")
_BARE = re.compile(
    r"([A-Z])(?=\s*(?:[,;?!/&]|[-\u2013\u2014]\s|[(\[])|\s+(?:because|since|as|is|and|or|only)\b"
    r"|(?<![AI])\s+[A-Z0-9][\w-]*)"
)
_VERDICT = re.compile(r"\b([A-Z])\s+is\s+(?:the\s+)?(?:correct|right|best|answer|most)\b")
_ALSO = re.compile(r"(?:[^A-Za-z]|\b(?:and|or|nor|no|option|[A-Z])\b)*?\b([A-Z])\W*")
"""Nothing but further letters."""
_NEXT = re.compile(
    r"\W*\b(?:and|or|nor)\s+(?:option\s+)?[(\[]?([A-Z])(?=\s+(?:are|is|both|and|or|as)\b|[,;/)\]&])"
    r"|\s*[,/&]\s*(?:option\s+)?[(\[]?([A-Z])(?=\s+(?:are|is|both|and|or)\b|[,;/)\]&])"
)
"""A further letter, before words."""


def letters_named(answer: str) -> tuple[str, ...]:
    """The different letters that an answer names, in upper case."""
    lines = [line for line in map(_cleaned, answer[:MAX_CHARS].splitlines()) if line]
    if not lines:
        return ()
    lone = [label[1] for line in lines if (label := _LONE.fullmatch(line))]
    if _LONE.fullmatch(lines[0]):
        found = lone if len(lone) == len(lines) else lone[:1]
    else:
        found = [letter for line in lines[:1] for letter in _in_line(line)]
        for line in lines[1:]:
            found += _list_label(line) if found else _in_line(line)
    return tuple(dict.fromkeys(letter.upper() for letter in found))


def leading_label(answer: str) -> tuple[str, str] | None:
    """The letter that an answer begins with, and what follows; None where it begins otherwise."""
    line = _cleaned(answer[:MAX_CHARS].replace("\n", " "))
    found = _leading(line)
    return None if found is None else (found[1].upper(), line[found.end() :].lstrip(" )].:,;-"))


def _in_line(line: str) -> Iterator[str]:
    found = _leading(line)
    for cue in _CUE.finditer(line) if found is None else ():
        after = line[cue.end() :]
        lone = _LONE.fullmatch(after)
        found = lone if lone and lone[1].isupper() else _leading(after)
        if found is not None:
            line = after
            break
    if found is None:
        yield from _VERDICT.findall(line)
        if end := re.search(r"[(\[]([A-Z])[)\]][\s.,;!?]*$", line):
            yield end[1]
        return
    yield found[1]
    rest = line[found.end() :]
    if second := _LONE.fullmatch(rest.lstrip(" .,:;")):
        yield second[1]
    yield from (letter for letter in _BRACKETED.findall(rest) if letter.isupper())
    yield from re.findall(r"(?<!not )\b([A-Z])\)", rest)
    if also := _ALSO.fullmatch(rest) or _NEXT.match(rest):
        yield also[also.lastindex or 0]
    successor = chr(ord(found[1].upper()) + 1)
    yield from re.findall(rf"\w\W*\s({successor})[.:)]\s", rest)


def _leading(line: str) -> "re.Match[str] | None":
    """The label at the start of a line."""
    if found := _BRACKETED.match(line) or _LONE.fullmatch(line) or _BARE.match(line):
        return found
    found = _POINTED.match(line)
    if found is None:
        return None
    word = re.match(r"\s*([a-z]+)", line[found.end() :])
    is_species = line[found.end() - 1] == "." and word is not None and word[1] in SPECIES
    return None if is_species else found


def _list_label(line: str) -> list[str]:
    """The label of a further line, where that is an option and not an explanation."""
    found = _BRACKETED.match(line) or _POINTED.match(line)
    return [found[1]] if found else []


def _cleaned(line: str) -> str:
    line = line.translate(LOOK_ALIKES)
    while (plain := _EMPHASIS.sub(r"\1", line)) != line:
        line = plain
    line = _BULLET.sub("", " ".join(_MARKS.sub("", line).split()), count=1)
    return _ORNAMENT.sub("", line)
