"""Makes a copy of the code with one rule broken."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mutants.catalogue import Mutant

ROOT = Path(__file__).resolve().parents[2]


class DoesNotApply(Exception):
    """The code has changed since the mutant was written. Says so in one line."""


def mutated(mutant: Mutant) -> dict[str, str]:
    """The text of each file that ``mutant`` changes, by its path under ``kvstore/``.

    Raises:
        DoesNotApply: what is to be replaced does not stand there once, or the result is no
            Python.
    """
    texts: dict[str, str] = {}
    for edit in mutant.edits:
        path = ROOT / "kvstore" / edit.file
        text = texts.get(edit.file)
        if text is None:
            text = path.read_text(encoding="utf-8") if path.is_file() else ""
        if text.count(edit.before) != 1:
            raise DoesNotApply(
                f"mutant {mutant.name} does not apply: kvstore/{edit.file} holds its text "
                f"{text.count(edit.before)} times, not once"
            )
        texts[edit.file] = text.replace(edit.before, edit.after)
    for file, text in texts.items():
        try:
            compile(text, file, "exec")
        except SyntaxError as error:
            raise DoesNotApply(
                f"mutant {mutant.name} does not apply: it makes kvstore/{file} no Python, "
                f"line {error.lineno}: {error.msg}"
            ) from error
    return texts


def plant(mutant: Mutant, directory: Path) -> None:
    """Copy the code into ``directory`` with one rule broken.

    Raises:
        DoesNotApply: see :func:`mutated`.
    """
    texts = mutated(mutant)
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "kvstore", directory / "kvstore", ignore=ignored)
    for file, text in texts.items():
        (directory / "kvstore" / file).write_text(text, encoding="utf-8")
