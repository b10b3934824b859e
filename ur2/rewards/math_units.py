r"""Units after a number: `5\text{ cm}^2`, `5 square centimetres`, `\$5`, `45^\circ`."""

import re
from collections import Counter

Unit = tuple[tuple[str, int], ...]
"""Names with their powers, sorted; empty where there is no unit."""

NAMES: dict[str, str] = {
    name: names.split()[0]
    for names in (
        "m meter metre", "cm centimeter centimetre", "mm millimeter millimetre",
        "km kilometer kilometre", "um micrometer micrometre micron", "nm nanometer nanometre",
        "inch inches in", "foot feet ft", "yard yd", "mile mi",
        "s sec second", "ms millisecond", "min minute", "hour h hr", "day", "week wk", "month",
        "year yr", "g gram gramme", "kg kilogram kilogramme", "mg milligram", "ton tonne",
        "lb pound lbs", "oz ounce", "L liter litre l", "mL milliliter millilitre ml", "gallon gal",
        "quart qt", "pint pt", "cup", "degree deg degs", "radian rad", "celsius C degC",
        "fahrenheit F degF", "K kelvin", "dollar usd", "cent", "euro eur", "J joule",
        "kJ kilojoule", "eV electronvolt", "N newton", "W watt", "kW kilowatt", "V volt",
        "A ampere amp", "ohm", "Pa pascal", "kPa kilopascal", "atm atmosphere",
        "Hz hertz", "mol mole", "T tesla", "erg", "dyne", "unit", "person people", "mph", "kph kmh",
    )
    for name in names.split()
}  # fmt: skip
_SPELT = {"mph": (("hour", -1), ("mile", 1)), "kph": (("hour", -1), ("km", 1))}
_COMPOUND = {name: dict(parts) for name, parts in _SPELT.items()}
_NO_UNIT = {
    "and", "or", "if", "when", "for", "is", "are", "not", "to", "mod", "of", "the", "with", "where",
    "no", "none", "as", "at", "than", "then", "all", "any", "only", "but",
}  # fmt: skip
"""Words that join answers, or say something of them."""
_CURRENCY = {r"\$": "dollar", "$": "dollar", "€": "euro", "£": "pound_sterling"}

_ITEM = r"(?:\\text\s*\{[^{}]*\}|\^\\circ|(?<![\\a-zA-Z])[a-zA-Z]+\.?)"
_POWER = r"(?:\s*\^\s*\{?\s*-?\d\s*\}?)?"
_TAIL = rf"{_ITEM}{_POWER}(?:\s*(?:/|\\cdot|\*|-)?\s*{_ITEM}{_POWER})*"
_AFTER_NUMBER = re.compile(rf"(?P<value>.*?(?:[\d)}}\]]|\\pi))(?P<space>\s*)(?P<unit>{_TAIL})")
_AFTER_ANYTHING = re.compile(r"(?P<value>.+?)(?P<space>\s*)(?P<unit>(?:\\text\s*\{|\^\\circ).*)")
_BEFORE = re.compile(r"(-?)\s*(\\\$|\$|€|£)\s*(.+)")
_TOKEN = re.compile(r"\^\\circ|[a-zA-Z]+|\^\s*\{?\s*(-?\d)\s*\}?|/")
_SPOKEN = {"square": 2, "sq": 2, "squared": 2, "cubic": 3, "cu": 3, "cubed": 3}


def split_unit(text: str) -> tuple[str, Unit]:
    """A canonical text as a value and its unit; without a unit, the text as it is."""
    if money := _BEFORE.fullmatch(text):
        return money[1] + money[3], ((_CURRENCY[money[2]], 1),)
    found = _AFTER_NUMBER.fullmatch(text)
    if found is None:
        found = _AFTER_ANYTHING.fullmatch(text)
        if found is None or not re.fullmatch(_TAIL, found["unit"]):
            return text, ()
    unit = read_unit(found["unit"], apart=bool(found["space"]))
    return (found["value"].rstrip(), unit) if unit else (text, ())


def read_unit(text: str, *, apart: bool) -> Unit:
    r"""A unit from its text; empty where the text is none.

    Args:
        text: letters, powers, `/`, `\text{…}`.
        apart: white space stands before it; without, single letters are variables.
    """
    powers: Counter[str] = Counter()
    sign, spoken, last = 1, 1, ""
    is_text = r"\text" in text
    bare = re.sub(r"\\text\s*\{([^{}]*)\}", r" \1 ", text).replace(r"\cdot", " ")
    for token in _TOKEN.finditer(bare):
        word = token[0]
        if word in ("/", "per"):
            sign = -1
        elif word.startswith("^") and token[1] is not None:
            if not last:
                return ()
            powers[last] += (int(token[1]) - 1) * (1 if powers[last] > 0 else -1)
        elif word.lower() in _SPOKEN:
            if word.lower() in ("squared", "cubed") and last:
                powers[last] *= _SPOKEN[word.lower()]
            else:
                spoken = _SPOKEN[word.lower()]
        else:
            last = _name(word, trusted=is_text, apart=apart or len(powers) > 0)
            if not last:
                return ()
            for part, power in _COMPOUND.get(last, {last: 1}).items():
                powers[part] += sign * spoken * power
            spoken = 1
    if powers["degree"] and (powers["celsius"] or powers["fahrenheit"]):
        del powers["degree"]
    return tuple(sorted((name, power) for name, power in powers.items() if power))


def compatible(first: Unit, second: Unit) -> bool:
    """Whether two units may be of equal values; a missing one goes with any.

    `units` and `square units` go with any unit of their power.
    """
    if not first or not second or first == second:
        return True
    is_generic = any([name for name, _ in unit] == ["unit"] for unit in (first, second))
    return is_generic and sum(p for _, p in first) == sum(p for _, p in second)


def _name(word: str, *, trusted: bool, apart: bool) -> str:
    """The name of a unit; empty where the word is none."""
    if word == r"^\circ":
        return "degree"
    lower = word.lower()
    if lower in _NO_UNIT:
        return ""
    for known in (word, lower, lower.removesuffix("s"), lower.removesuffix("es")):
        if known in NAMES and (trusted or apart or len(word) > 1):
            return NAMES[known]
    if len(word) >= 3 and (trusted or apart):
        return lower.removesuffix("s")
    return ""
