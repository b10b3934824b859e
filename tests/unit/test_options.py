from typing import Any

import pytest
from pydantic import Field

from ur2.errors import InputError
from ur2.options import Options, parse_command_line


class Inner(Options):
    flag: bool = False
    """A switch."""


class Example(Options):
    text: str = "t"
    """A text."""
    number: int | None = None
    """A number."""
    paths: str | tuple[str, ...] = Field(default="p", alias="in")
    """Paths."""
    table: dict[str, int] = {}  # noqa: RUF012
    """Numbers by name."""
    share: float = 0.5
    """A number with a fraction."""
    inner: Inner = Inner()


def parse(*arguments: str) -> Example:
    return parse_command_line(Example, prog="example", about="About.", argv=arguments)


@pytest.mark.parametrize(
    ("argument", "name", "value"),
    [
        ("text=query: ", "text", "query: "),
        ("text=*.jsonl", "text", "*.jsonl"),
        ("text= padded ", "text", " padded "),
        ("text='7'", "text", "7"),
        ("text=", "text", ""),
        ("number=7", "number", 7),
        ("number=null", "number", None),
        ("in=[a,b]", "paths", ("a", "b")),
        ("in=a/*.gz", "paths", "a/*.gz"),
        ("in=[a", "paths", "[a"),
        ("table={a: 1}", "table", {"a": 1}),
        ("table.a=1", "table", {"a": 1}),
        ("inner.flag=true", "inner", Inner(flag=True)),
        ("text=2026-11-20", "text", "2026-11-20"),
        ("text=!!binary aGk=", "text", "!!binary aGk="),
        ("share=1e-5", "share", 1e-5),
    ],
)
def test_values_are_what_they_look_like(argument: str, name: str, value: Any) -> None:
    assert getattr(parse(argument), name) == value


@pytest.mark.parametrize(
    ("argument", "complaint"),
    [
        ("text", "is not key=value"),
        ("text=7", "'text': input should be a valid string, got 7"),
        ("txt=a", "did you mean 'text'?"),
        ("paths=a", "unknown key 'paths'"),
        ("inner.flg=true", "did you mean 'flag'?"),
        ("share=.nan", "'share': input should be a finite number, got nan"),
        ("share=inf", "'share': input should be a valid number, got 'inf'"),
    ],
)
def test_what_does_not_fit_is_named(argument: str, complaint: str) -> None:
    with pytest.raises(InputError) as raised:
        parse(argument)
    assert complaint in str(raised.value)


def test_a_key_below_one_that_has_a_value_is_named() -> None:
    with pytest.raises(InputError, match=r"'inner\.flag=true' is below 'inner'"):
        parse("inner=1", "inner.flag=true")


def test_help_names_keys_as_they_are_written(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        parse("--help")
    shown = capsys.readouterr().out
    assert raised.value.code == 0
    assert "  in ['p']" in shown
    assert "  inner.flag [False]" in shown
    assert "paths" not in shown.replace("Paths.", "")
