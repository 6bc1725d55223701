"""The checker against the one too simple to be wrong, and on what a real register did."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from histories.brute_force import is_linearizable, is_linearizable_stepwise
from histories.checker import Outcome, check
from histories.generate import (
    ALL_ACTIONS,
    FEW_VALUES,
    KEY,
    NO_INCREMENT,
    from_register,
    wild,
    with_one_wrong,
)
from histories.model import (
    Action,
    CompareAndSwap,
    Delete,
    Get,
    Increment,
    Operation,
    Put,
    Result,
)

values = st.sampled_from(FEW_VALUES)
optional_values = st.sampled_from([*FEW_VALUES, None])
actions: st.SearchStrategy[Action] = st.one_of(
    st.builds(Get),
    st.builds(Put, values),
    st.builds(Delete),
    st.builds(CompareAndSwap, optional_values, values),
    st.builds(Increment, st.integers(-1, 2)),
)


@st.composite
def operations(draw: st.DrawFn) -> Operation:
    action = draw(actions)
    called = float(draw(st.integers(0, 8)))
    if draw(st.booleans()) and draw(st.booleans()):
        return Operation("client", KEY, action, called, None)
    result: Result = None
    match action:
        case Get():
            result = draw(optional_values)
        case Delete() | CompareAndSwap():
            result = draw(st.booleans())
        case Increment():
            result = draw(st.integers(-1, 4))
        case Put():
            pass
    return Operation("client", KEY, action, called, called + draw(st.integers(0, 5)), result)


def assert_judged(history: list[Operation], *, linearizable: bool) -> None:
    verdict = check(history)
    expected = Outcome.LINEARIZABLE if linearizable else Outcome.VIOLATION
    assert verdict.outcome is expected, (history, verdict.explanation)


def near_the_edge(rng: random.Random, count: int) -> list[Operation]:
    """What a register did, or that with a wrong result or two, or anything at all."""
    if rng.random() < 0.2:
        return wild(rng, count, unknown_share=rng.choice([0.0, 0.3, 0.6]))
    history = from_register(
        rng,
        count,
        clients=rng.randint(1, count),
        unknown_share=rng.choice([0.0, 0.1, 0.3, 0.6]),
        values=rng.choice([(), FEW_VALUES[:1], FEW_VALUES[:2], FEW_VALUES]),
        actions=rng.sample(ALL_ACTIONS, rng.randint(1, len(ALL_ACTIONS))),
    )
    for _ in range(rng.choice([0, 1, 1, 2])):
        history = with_one_wrong(rng, history)
    return history


@settings(max_examples=400)
@given(st.lists(operations(), max_size=6))
def test_any_small_history_is_judged_as_by_brute_force(history: list[Operation]) -> None:
    assert_judged(history, linearizable=is_linearizable(history))


@pytest.mark.parametrize("seed", range(6))
def test_small_histories_near_the_edge_are_judged_as_by_brute_force(seed: int) -> None:
    rng = random.Random(seed)
    judged: Counter[bool] = Counter()
    for _ in range(250):
        history = near_the_edge(rng, rng.randint(2, 6))
        expected = is_linearizable(history)
        assert is_linearizable_stepwise(history) is expected, history
        assert_judged(history, linearizable=expected)
        judged[expected] += 1
    assert min(judged[True], judged[False]) > 25, "both verdicts must be met often"


@pytest.mark.parametrize("seed", range(6))
def test_larger_histories_near_the_edge_are_judged_as_stepwise(seed: int) -> None:
    rng = random.Random(f"larger {seed}")
    judged: Counter[bool] = Counter()
    for _ in range(60):
        history = near_the_edge(rng, rng.randint(6, 14))
        expected = is_linearizable_stepwise(history)
        assert_judged(history, linearizable=expected)
        judged[expected] += 1
    assert min(judged[True], judged[False]) > 5, "both verdicts must be met often"


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("values_of_writes", [(), FEW_VALUES], ids=["unique", "few values"])
def test_what_a_register_did_is_linearizable(
    seed: int, values_of_writes: tuple[bytes, ...]
) -> None:
    history = from_register(
        random.Random(seed), 400, clients=6, unknown_share=0.03, values=values_of_writes
    )
    verdict = check(history)
    assert verdict.ok, verdict.explanation


@pytest.mark.parametrize("seed", range(6))
def test_what_a_counter_did_is_linearizable(seed: int) -> None:
    history = from_register(
        random.Random(seed), 400, clients=6, actions=(Increment, Increment, Get, Delete)
    )
    verdict = check(history)
    assert verdict.ok, verdict.explanation


@pytest.mark.parametrize("seed", range(6))
def test_a_long_history_with_a_stale_read_is_a_violation(seed: int) -> None:
    rng = random.Random(seed)
    history = from_register(rng, 400, unknown_share=0.02, actions=NO_INCREMENT)
    end = max(operation.returned or operation.called for operation in history)
    # Two writes and a read of the first, one after the other, after all that may still happen.
    stale, fresh = b"stale", b"fresh"
    history += [
        Operation("late", KEY, Put(stale), end + 1, end + 2),
        Operation("late", KEY, Put(fresh), end + 3, end + 4),
        Operation("late", KEY, Get(), end + 5, end + 6, stale),
    ]
    verdict = check(history)
    assert verdict.outcome is Outcome.VIOLATION
    assert "late: get -> 'stale'" in verdict.explanation
