"""`python -m ur2.retrieval.corpus in=PATH out=FILE.arrow`: published passages to a corpus file."""

import sys
import time
from pathlib import Path

from ur2.errors import InputError, run_entry
from ur2.options import parse_command_line
from ur2.retrieval.corpus.convert import convert, sources_sha256
from ur2.retrieval.corpus.file import SUFFIX, Corpus
from ur2.retrieval.corpus.options import CorpusOptions

PROG = "python -m ur2.retrieval.corpus"


def main() -> None:
    """The command's entry."""
    options = parse_command_line(
        CorpusOptions, prog=PROG, about="Makes one memory-mapped file of passages."
    )
    started = time.monotonic()
    made = make(options)
    verdict = f"made in {time.monotonic() - started:.0f} s" if made else "is up to date"
    out = Path(options.out)
    num_mb = out.stat().st_size / 1e6
    sys.stdout.write(f"{out} {verdict}: {len(Corpus(out))} passages, {num_mb:.1f} MB\n")


def make(options: CorpusOptions) -> bool:
    """Makes the file where it is not just what the sources would make.

    Raises:
        InputError: the sources cannot be read or have bad rows, or `out` is something else.
    """
    out = Path(options.out)
    if out.suffix != SUFFIX:
        raise InputError(f"out={out} must end in {SUFFIX}")
    if out.is_file():
        Corpus(out)  # What is none is not overwritten.
    sha256 = sources_sha256(options.sources, options, known=out)
    if out.exists() and Corpus(out).sha256 == sha256:
        return False
    out.parent.mkdir(parents=True, exist_ok=True)
    convert(options.sources, options, out, sha256=sha256)
    return True


if __name__ == "__main__":
    run_entry(main)
