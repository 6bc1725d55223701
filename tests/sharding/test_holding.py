from __future__ import annotations

from kvstore.sharding.holding import Holding


def holding(*held: tuple[int, ...], zones: str, in_zone_max: int = 1) -> Holding:
    made = Holding(len(held), [(zone, "") for zone in zones], in_zone_max)
    for shard, nodes in enumerate(held):
        for node in nodes:
            made.put(shard, node)
    return made


def test_a_shard_is_once_on_a_node_and_no_oftener_in_a_zone_than_may_be() -> None:
    made = holding((0, 2), zones="aabbc")
    assert [made.may_hold(node, 0) for node in range(5)] == [False, False, False, False, True]
    assert [made.may_hold(node, 0, without=0) for node in range(5)] == [
        False,
        True,
        False,
        False,
        True,
    ]


def test_the_surplus_is_in_a_crowded_zone_before_it_is_anywhere() -> None:
    made = holding((0, 1, 2), (0, 2), zones="aab")
    assert made.surplus(0, 3) == [0, 1]
    assert made.surplus(1, 2) == []
    assert made.surplus(1, 1) == [0, 2]


def test_room_is_made_by_a_chain() -> None:
    """Shard 0 cannot go to 2, which has room and holds it; shard 1 makes room on 1."""
    made = holding((2,), (1,), zones="abc")
    assert made.chain_for(0, lambda node: node == 2, fresh_only=False) == 2
    assert made.held == [[2, 1], [2]]


def test_a_chain_may_be_of_fresh_replicas_only() -> None:
    made = holding((0,), zones="abc")
    made.keep()
    made.put(0, 1)
    assert made.chain_from([0], lambda node: node == 2, fresh_only=True) is None
    assert made.held == [[0, 1]]
    assert made.chain_from([1], lambda node: node == 2, fresh_only=True) == 2
    assert made.held == [[0, 2]]
    assert made.chain_from([0], lambda node: node == 1, fresh_only=False) == 1
    assert made.held == [[2, 1]]


def test_a_giver_may_be_barred_from_a_zone() -> None:
    made = holding((0, 2), (0, 3), zones="aabbc")
    assert made.may_cross(0, made.zone[1])
    assert not made.may_cross(0, made.zone[2])
    assert made.may_cross(0, made.zone[4])
