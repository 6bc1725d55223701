from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from kvstore.ids import NodeId, ShardId
from kvstore.sharding.rebalance import Move, plan

HELD = st.lists(st.sampled_from([NodeId(f"n{i}") for i in range(7)]), max_size=5, unique=True)
PLACEMENTS = st.lists(st.tuples(HELD, HELD), min_size=1, max_size=32)


def move(shard: int, add: str | None, remove: str | None) -> Move:
    return Move(ShardId(shard), add and NodeId(add), remove and NodeId(remove))


def held(text: str) -> list[list[NodeId]]:
    return [[NodeId(letter) for letter in word.strip("-")] for word in text.split()]


@given(pairs=PLACEMENTS)
def test_the_moves_lead_from_old_to_new(pairs: list[tuple[list[NodeId], list[NodeId]]]) -> None:
    old, new = [before for before, _ in pairs], [after for _, after in pairs]
    now = [set(nodes) for nodes in old]
    for step in plan(old, new):
        copies = now[step.shard]
        enough = min(len(old[step.shard]), len(new[step.shard]))
        if step.add is not None:
            assert step.add not in copies
            copies.add(step.add)
        if step.remove is not None:
            copies.remove(step.remove)
        assert len(copies) >= enough
    assert now == [set(nodes) for nodes in new]
    assert plan(old, new) == plan(old, new)


@given(pairs=PLACEMENTS)
def test_no_move_is_wasted(pairs: list[tuple[list[NodeId], list[NodeId]]]) -> None:
    moves = plan([before for before, _ in pairs], [after for _, after in pairs])
    count = Counter(step.shard for step in moves)
    for shard, (before, after) in enumerate(pairs):
        come, go = set(after) - set(before), set(before) - set(after)
        assert count[ShardId(shard)] == max(len(come), len(go))


@given(pairs=PLACEMENTS)
def test_first_what_lacks_copies_last_what_has_too_many(
    pairs: list[tuple[list[NodeId], list[NodeId]]],
) -> None:
    moves = plan([before for before, _ in pairs], [after for _, after in pairs])
    stages = [0 if m.remove is None else 2 if m.add is None else 1 for m in moves]
    assert stages == sorted(stages)


def test_nothing_to_do() -> None:
    assert plan(held("abc abd"), held("bca dab")) == ()


def test_the_shard_with_fewest_copies_comes_first() -> None:
    assert plan(held("ab a -"), held("abc abc a")) == (
        move(2, "a", None),
        move(1, "b", None),
        move(0, "c", None),
        move(1, "c", None),
    )


def test_sources_take_turns_when_a_node_joins() -> None:
    moves = plan(held("a a a b b b c c"), held("x x x x x x x x"))
    assert [m.remove for m in moves] == list("abcabcab")
    assert [m.shard for m in moves] == [0, 3, 6, 1, 4, 7, 2, 5]


def test_targets_take_turns_when_a_node_leaves() -> None:
    moves = plan(held("x x x x x x"), held("a a a b b c"))
    assert [m.add for m in moves] == list("abcaba")


def test_moves_between_other_nodes_come_between() -> None:
    moves = plan(held("a a b b"), held("x x y y"))
    assert [(m.remove, m.add) for m in moves] == [("a", "x"), ("b", "y"), ("a", "x"), ("b", "y")]


def test_counts_that_differ() -> None:
    assert plan(held("ab"), held("cde")) == (
        move(0, "e", None),
        move(0, "c", "a"),
        move(0, "d", "b"),
    )
    assert plan(held("abc"), held("d")) == (
        move(0, "d", "a"),
        move(0, None, "b"),
        move(0, None, "c"),
    )
