"""Every planted bug still fits the code, and the simulator finds some of them at once."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from mutants.__main__ import DoesNotApply, hunt, main, plant
from mutants.catalogue import MUTANTS, Edit, Mutant

if TYPE_CHECKING:
    from pathlib import Path

SOON_FOUND = ("votes-twice", "acknowledges-before-the-disk", "leader-counts-itself-too-early")


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_applies_and_can_be_read(mutant: Mutant, tmp_path: Path) -> None:
    plant(mutant, tmp_path)
    for edit in mutant.edits:
        ast.parse((tmp_path / "kvstore" / edit.file).read_text(encoding="utf-8"))


def test_names_and_rules_are_told_apart() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 25


@pytest.mark.parametrize("name", SOON_FOUND)
def test_the_simulator_notices(name: str) -> None:
    mutant = next(mutant for mutant in MUTANTS if mutant.name == name)
    assert hunt(mutant, seeds=200).violation


@pytest.mark.parametrize("edit", [Edit("raft/log.py", "no such line", ""), Edit("no.py", "a", "b")])
def test_one_that_does_not_apply_says_so(edit: Edit, tmp_path: Path) -> None:
    with pytest.raises(DoesNotApply, match=f"broken does not apply: kvstore/{edit.file}"):
        plant(Mutant("broken", "", (edit,)), tmp_path)


def test_an_unknown_name_is_one_clear_line() -> None:
    result = CliRunner().invoke(main, ["no-such-mutant"])
    assert result.exit_code == 2
    assert "no mutant is called no-such-mutant" in result.output
