"""One notation for mathematical answers: LaTeX, be they in LaTeX, in Unicode or in code."""
# ruff: noqa: RUF001 - look-alike signs are what this is about

import re
import unicodedata

SIGNS = {
    "π": r"\pi ", "∞": r"\infty ", "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "÷": "/",
    "−": "-", "–": "-", "—": "-", "⁄": "/", "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ",
    "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "±": r"\pm ", "∅": r"\emptyset ", "°": r"^\circ ",
    "≈": r"\approx ", "′": "'", "…": "...", "\u00a0": " ", "\u202f": " ", "\u2009": " ",
    "θ": r"\theta ", "α": r"\alpha ", "β": r"\beta ", "γ": r"\gamma ", "λ": r"\lambda ",
    "μ": r"\mu ", "φ": r"\phi ", "ω": r"\omega ", "σ": r"\sigma ", "ρ": r"\rho ", "τ": r"\tau ",
    "Δ": r"\Delta ", "Ω": r"\Omega ",
}  # fmt: skip
COMMANDS = {
    "dfrac": "frac", "tfrac": "frac", "cfrac": "frac", "leq": "le", "leqslant": "le",
    "leqq": "le", "geq": "ge", "geqslant": "ge", "geqq": "ge", "neq": "ne", "infin": "infty",
    "varnothing": "emptyset", "lbrace": "{", "rbrace": "}", "textbf": "text", "textit": "text",
    "textrm": "text", "textsf": "text", "texttt": "text", "textnormal": "text", "emph": "text",
    "mathrm": "text", "mathbf": "text", "mathit": "text", "mathsf": "text", "mathtt": "text",
    "mbox": "text", "hbox": "text", "lor": "vee", "langle": "(", "rangle": ")",
}  # fmt: skip
"""LaTeX commands that say what another one says."""
NAMES = {
    "asin": r"\arcsin", "acos": r"\arccos", "atan": r"\arctan", "infinity": r"\infty",
    "infty": r"\infty", "inf": r"\infty", "oo": r"\infty", "sqrt": r"\sqrt", "exp": r"\exp",
    **{name: "\\" + name for name in (
        "pi", "theta", "alpha", "beta", "gamma", "lambda", "arcsin", "arccos", "arctan", "sinh",
        "cosh", "tanh", "sin", "cos", "tan", "cot", "sec", "csc", "ln", "log",
    )},
}  # fmt: skip
"""Names that code and plain text use."""

_SIGN = re.compile("|".join(SIGNS))
_COMMAND = re.compile(r"\\(" + "|".join(COMMANDS) + r")(?![a-zA-Z])")
_NAME = re.compile(
    r"(?<![\\a-zA-Z{])(?:(?:np|numpy|math|cmath|sympy|sp)\.)?(" + "|".join(NAMES) + r")(?![a-zA-Z])"
)
_PREFIX = re.compile(r"(?<![\\a-zA-Z])(?:np|numpy|math|cmath|sympy|sp)\.(?=[a-zA-Z])")
_TEXT = re.compile(r"(\\text\s*\{[^{}]*\})")
_VULGAR = re.compile("[¼-¾⅐-⅞]")
_RAISED = re.compile("[⁺⁻]?[⁰¹²³⁴-⁹]+")
_LOWERED = re.compile("[₀-₉]+")
_SIZES = re.compile(r"\\(?:left|right|middle|[bB]igg?[lrm]?)(?![a-zA-Z])\s*")
_GROUPED = re.compile(r"(?<=\d)(?:,?\s*\\[,!;: ]\s*|\{,\}|~)+(?=\d{3}(?!\d))")
_SPACED_THOUSANDS = re.compile(r"([-+]?\d{1,3})((?: \d{3})+(?:\.\d+)?)")
_SPACING = re.compile(r"(?<!\\)\\[,!;:> ]|~|\\q?quad(?![a-zA-Z])|\\displaystyle")
_SHORT_FRACTION = re.compile(r"\\frac\s*(\d|\{[^{}]*\})\s*(\d|\{[^{}]*\})")
_SHORT_ROOT = re.compile(r"(?:\\sqrt\s*|√\s*)(\d+|\\pi|[a-zA-Z](?![a-zA-Z]))")
_TRAILING_POINT = re.compile(r"(?<=\d)\.(?![\d.]|\\(?:overline|bar|dot)\b)")
_LEADING_POINT = re.compile(r"(?<![\d.])\.(?=\d)")
_LONG_POWER = re.compile(r"\^\s*(-\s*\d+|\d{2,}|-\s*[a-zA-Z](?![a-zA-Z]))")
_CALL = re.compile(r"(\\sqrt|√|\\exp|\^)\s*\(")

_BEFORE = re.compile(r"(?:[\s$*]|\\[(\[]|\\approx(?![a-zA-Z]))+")
_AFTER_REVERSED = re.compile(r"(?:[\s*]|\$(?!\\)|[)\]]\\|[.,;](?![.\\]))+")
_OPERATOR = re.compile(r"\s*([-+*/=<>])\s*")
_SCIENTIFIC = re.compile(r"([-+]?(?:\d+(?:\.\d*)?|\.\d+))[eE]\+?(-?\d+)")


def canonical(expression: str) -> str:
    r"""The expression alone, in one notation.

    Left out are the delimiters and stops around it, commands that only set sizes and spaces, and
    white space that separates nothing. `2√3`, `2*sqrt(3)` and `2\sqrt3` become `2\sqrt{3}`.
    """
    text = _SIGN.sub(lambda sign: SIGNS[sign[0]], expression)
    before, after = _BEFORE.match(text), _AFTER_REVERSED.match(text[::-1])
    end = len(text) - (after.end() if after else 0)
    text = " ".join(text[before.end() if before else 0 : end].split())
    if number := _SCIENTIFIC.fullmatch(text):
        return rf"{number[1]}\times 10^{{{number[2]}}}"
    text = _COMMAND.sub(_same_command, _SIZES.sub("", text))
    text = _GROUPED.sub("", text)
    if thousands := _SPACED_THOUSANDS.fullmatch(text):
        text = thousands[1] + thousands[2].replace(" ", "")
    parts = _TEXT.split(_SPACING.sub(" ", text))
    text = "".join(part if place % 2 else _symbols(part) for place, part in enumerate(parts))
    text = re.sub(r"\^\s*\{\s*\\circ\s*\}|\\degree(?![a-zA-Z])", r"^\\circ", text)
    return _OPERATOR.sub(r"\1", " ".join(text.split()))


def _symbols(text: str) -> str:
    """LaTeX for a part that is no text."""
    text = _VULGAR.sub(_fraction, text)
    text = _RAISED.sub(lambda power: f"^{{{unicodedata.normalize('NFKC', power[0])}}}", text)
    text = _LOWERED.sub(lambda index: f"_{{{unicodedata.normalize('NFKC', index[0])}}}", text)
    text = text.replace("**", "^").replace("<=", r"\le ").replace(">=", r"\ge ")
    text = _PREFIX.sub("", _NAME.sub(lambda name: f"{NAMES[name[1]]} ", text))
    text = _LEADING_POINT.sub("0.", _TRAILING_POINT.sub("", text))
    text = _SHORT_ROOT.sub(r"\\sqrt{\1}", text)
    text = _SHORT_FRACTION.sub(lambda f: rf"\frac{_braced(f[1])}{_braced(f[2])}", text)
    text = _LONG_POWER.sub(lambda power: f"^{{{''.join(power[1].split())}}}", text)
    while (call := _CALL.search(text)) and (end := _closing(text, call.end() - 1)) is not None:
        command = {"√": r"\sqrt", r"\exp": "e^"}.get(call[1], call[1])
        inner = text[call.end() : end]
        text = f"{text[: call.start()]}{command}{{{inner}}}{text[end + 1 :]}"
    return text


def _same_command(command: re.Match[str]) -> str:
    known = COMMANDS[command[1]]
    return known if known in "()" else "\\" + known


def _fraction(sign: re.Match[str]) -> str:
    above, _, below = unicodedata.normalize("NFKC", sign[0]).partition("⁄")
    return rf"\frac{{{above}}}{{{below}}}"


def _braced(argument: str) -> str:
    return argument if argument.startswith("{") else f"{{{argument}}}"


def _closing(text: str, opening: int) -> int | None:
    """The place of the parenthesis that closes the one at `opening`."""
    depth = 0
    for place in range(opening, len(text)):
        depth += (text[place] == "(") - (text[place] == ")")
        if depth == 0:
            return place
    return None
