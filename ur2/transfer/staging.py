"""Folders that appear whole or not at all."""

import shutil
from pathlib import Path


def stage(folder: Path) -> Path:
    """An empty folder beside `folder`, to be filled and then revealed."""
    staged = folder.with_name(folder.name + ".unfinished")
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(parents=True)
    return staged


def reveal(staged: Path, folder: Path) -> None:
    """Puts what was staged in the place of `folder`."""
    if folder.exists():
        shutil.rmtree(folder)
    staged.rename(folder)
