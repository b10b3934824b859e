"""What the processor computes by itself, on processors that are described to it."""

import os
import subprocess
import sys

import pytest

from ur2 import processor
from ur2.processor import AVX512

PLAIN = frozenset({"avx", "avx2", "fma", "f16c"})
SKYLAKE = PLAIN | AVX512
ZEN5 = SKYLAKE | {"avx512_bf16"}
SAPPHIRE = ZEN5 | {"amx_bf16", "avx512_fp16"}
LUNAR = PLAIN | {"avx_ne_convert"}
ARM = frozenset({"asimd", "asimdhp", "bf16"})


@pytest.fixture
def on(monkeypatch):
    def on(flags, **environment):
        for name in ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA"):
            monkeypatch.delenv(name, raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(processor, "flags", lambda: flags)

    return on


@pytest.mark.parametrize(
    ("flags", "short", "half", "lays_out", "wide"),
    [
        (PLAIN, False, False, False, False),
        (SKYLAKE, False, False, True, True),
        (ZEN5, True, False, True, True),
        (SAPPHIRE, True, True, True, True),
        (LUNAR, False, False, True, False),
        (ARM, True, True, False, False),
        (frozenset(), False, False, False, False),
    ],
)
def test_units_are_what_the_flags_say(on, flags, short, half, lays_out, wide):
    on(flags)
    assert processor.computes("float32")
    assert processor.computes("bfloat16") is short
    assert processor.computes("float16") is half
    assert processor.onednn_lays_out("bfloat16") is lays_out
    assert processor.onednn_lays_out("float32")
    assert processor.torch_uses_avx512() is processor.has_avx512() is wide


@pytest.mark.parametrize(
    "lowered",
    [
        {"ONEDNN_MAX_CPU_ISA": "AVX2"},
        {"ONEDNN_MAX_CPU_ISA": "avx2", "ATEN_CPU_CAPABILITY": "avx2"},
        {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_VNNI"},
    ],
)
def test_what_is_switched_off_is_not_counted_on(on, lowered):
    on(SAPPHIRE, **lowered)
    assert not processor.computes("bfloat16")
    assert processor.has_avx512()


def test_a_level_that_is_high_enough_or_unknown_takes_nothing_away(on):
    for level in ("DEFAULT", "AVX512_CORE_BF16", "AVX512_CORE_AMX", "AVX10_2_512"):
        on(ZEN5, ONEDNN_MAX_CPU_ISA=level)
        assert processor.computes("bfloat16"), level


def test_an_emulated_type_is_said_to_be_slow_and_a_computed_one_is_not(on, monkeypatch):
    said = []
    monkeypatch.setattr(processor.logger, "warning", lambda text, *args: said.append(text % args))
    monkeypatch.setattr(processor, "slowdown", lambda dtype: 41.4)
    on(PLAIN)
    processor.warn_if_emulated("bfloat16", key="policy.precision=bf16")
    assert said[0].startswith("policy.precision=bf16: ")
    assert "41 times" in said[0]
    assert "float32" in said[0]
    processor.warn_if_emulated("float32", key="x")
    on(ZEN5)
    processor.warn_if_emulated("bfloat16", key="x")
    assert len(said) == 1


def test_the_description_names_what_matters(on):
    on(PLAIN)
    assert processor.describe().endswith("AVX2 without bfloat16 units")
    on(ZEN5)
    assert "AVX-512 with bfloat16 units" in processor.describe()
    on(ZEN5, ATEN_CPU_CAPABILITY="avx2")
    assert "AVX-512 switched off for torch" in processor.describe()


def test_types_that_it_computes_are_no_slower_and_torch_agrees_on_what_is_laid_out():
    code = """
import torch
from ur2.processor import computes, onednn_lays_out, slowdown
if computes("bfloat16"):
    assert slowdown("bfloat16") < 3, slowdown("bfloat16")
lay_out = torch.ops.mkldnn._reorder_linear_weight
try:
    lay_out(torch.ones(64, 64, dtype=torch.bfloat16), 64)
    print(onednn_lays_out("bfloat16") is True)
except RuntimeError:
    print(onednn_lays_out("bfloat16") is False)
"""
    plain = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
    for environment in (os.environ, {**os.environ, **plain}):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == "True"
