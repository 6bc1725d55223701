"""The house keeps its shape: sizes of files and functions, and what lies at the top."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parent.parent
FILE_LINES_MAX = 600
FUNCTION_LINES_MAX = 70
TOP_LEVEL = {
    *("pyproject.toml", "kvstore", "scripts", "tests", "configs"),
    *("Makefile", "README.md", "LICENSE"),
}
MADE = re.compile(r"(build|dist|.*\.egg-info)$")
LEFT_FOR_LATER = re.compile(r"\b(TODO|FIXME|XXX)\b")


def sources() -> list[Path]:
    folders = (ROOT / name for name in ("kvstore", "tests", "scripts"))
    return sorted(path for folder in folders for path in folder.rglob("*.py"))


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


@pytest.fixture(scope="module", params=sources(), ids=lambda p: str(p.relative_to(ROOT)))
def source(request: pytest.FixtureRequest) -> Path:
    return request.param


def test_a_file_has_room_for_one_idea(source: Path) -> None:
    lines = len(source.read_text(encoding="utf-8").splitlines())
    assert lines <= FILE_LINES_MAX


def test_a_function_fits_on_a_screen(source: Path) -> None:
    tree = ast.parse(source.read_text(encoding="utf-8"))
    long = {
        f"{function.name}: {length} lines"
        for function in functions(tree)
        if (length := (function.end_lineno or 0) - function.lineno + 1) > FUNCTION_LINES_MAX
    }
    assert not long


def test_nothing_is_left_for_later(source: Path) -> None:
    if source == Path(__file__):
        return
    text = source.read_text(encoding="utf-8")
    assert not LEFT_FOR_LATER.search(text)


def top_level() -> set[str]:
    """What is kept in git, or without git what lies there."""
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        return {entry.name for entry in ROOT.iterdir() if not MADE.match(entry.name)}
    listed = subprocess.check_output(["git", "ls-files", "-z"], cwd=ROOT, text=True)
    return {path.partition("/")[0] for path in listed.split("\0") if path}


def test_the_top_level_holds_what_the_design_names() -> None:
    assert {name for name in top_level() if not name.startswith(".")} <= TOP_LEVEL


def test_scripts_are_executable_where_they_are_run_by_name() -> None:
    for path in (ROOT / "scripts" / "cluster.sh", ROOT / ".ci" / "run"):
        assert path.stat().st_mode & 0o111, f"{path.name} cannot be executed"
        subprocess.run(["bash", "-n", str(path)], check=True)
