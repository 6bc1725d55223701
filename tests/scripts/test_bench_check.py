"""An operation that has become dear is named; a slow machine is not."""

from __future__ import annotations

from dataclasses import replace

import pytest
from bench import check
from bench.check import BUDGETS, SLACK, YARDSTICK_S, Cost, best, broken, cost_of, yardstick_s
from bench.table import significant
from bench_stand_ins import run

from kvstore.errors import Unavailable

KEPT = {budget: Cost(budget.server_us, budget.client_us) for budget in BUDGETS}
PUT = BUDGETS[0]


def test_a_cost_is_scaled_by_the_machine() -> None:
    slow = run(1000, cpu_s={name: 2 * used_s for name, used_s in run().cpu_s.items()})
    for cost in (cost_of(run(1000), YARDSTICK_S), cost_of(slow, 2 * YARDSTICK_S)):
        assert (cost.server_us, cost.client_us) == pytest.approx((60.0, 10.0))


def test_the_best_round_counts() -> None:
    assert best([Cost(3.0, 1.0), Cost(2.0, 4.0)]) == Cost(2.0, 1.0)


def test_what_keeps_its_budget_is_not_named() -> None:
    just = {budget: Cost(SLACK * budget.server_us, SLACK * budget.client_us) for budget in BUDGETS}
    assert broken(KEPT) == broken(just) == []


def test_what_does_not_is_named_with_both_figures() -> None:
    dear = replace(KEPT[PUT], server_us=2 * SLACK * PUT.server_us)
    (sentence,) = broken({**KEPT, PUT: dear})
    assert sentence.startswith(f"put 256/4 takes {significant(dear.server_us)} µs of the serv")
    assert sentence.endswith(f"budget of {significant(SLACK * PUT.server_us)} µs")
    (sentence,) = broken({PUT: replace(KEPT[PUT], client_us=1e6)})
    assert "of the client" in sentence


def test_the_yardstick_takes_its_time() -> None:
    assert yardstick_s() > 0


def test_a_broken_budget_ends_with_code_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def measure() -> dict[check.Budget, Cost]:
        return {**KEPT, PUT: Cost(1e6, 1.0)}

    monkeypatch.setattr(check, "measure", measure)
    assert check.main() == 1
    assert "too slow: put 256/4 takes 1,000,000 µs of the servers" in capsys.readouterr().err


def test_what_cannot_be_measured_ends_with_code_1_and_no_figure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def measure() -> dict[check.Budget, Cost]:
        raise Unavailable("no majority")

    monkeypatch.setattr(check, "measure", measure)
    assert check.main() == 1
    assert capsys.readouterr() == ("", "failed: no majority\n")
