"""What it would mean to give up a node's data, from a picture of the cluster."""

from __future__ import annotations

import pytest

from kvstore.cli.stakes import stakes
from kvstore.cli.view import ClusterView, ShardView

FIVE = ("n1", "n2", "n3", "n4", "n5")


def view(*shards: ShardView) -> ClusterView:
    return ClusterView((), shards)


def shard(
    number: int = 0,
    replicas: tuple[str, ...] = FIVE[:3],
    *,
    learners: tuple[str, ...] = (),
    unreachable: tuple[str, ...] = (),
) -> ShardView:
    return ShardView(number, None, None, replicas, None, None, unreachable, learners)


@pytest.mark.parametrize(
    "harmless",
    [
        shard(),
        shard(unreachable=("n2",)),
        shard(learners=("n2",)),
        shard(learners=("n2",), unreachable=("n2",)),
        shard(replicas=("n1", "n3", "n4"), learners=("n1",), unreachable=("n3",)),
        shard(replicas=FIVE, learners=("n1",)),
        shard(replicas=FIVE, unreachable=("n5",), learners=("n2",)),
    ],
)
def test_nothing_is_at_stake(harmless: ShardView) -> None:
    assert stakes(view(harmless), "n2") == ("", "")


def test_others_without_a_vote_are_no_majority() -> None:
    loss, risk = stakes(view(shard(0), shard(1, learners=("n1",))), "n2")
    assert loss == (
        "repaired and still without a vote in shard 1: n1; "
        "with the data of n2 gone too, no majority would be left there, for good"
    )
    assert risk == ""


def test_of_those_that_do_not_answer_nobody_knows() -> None:
    silent = shard(0, unreachable=("n2", "n3")), shard(3, unreachable=("n1", "n2"))
    loss, risk = stakes(view(*silent), "n2")
    assert loss == ""
    assert risk == (
        "no answer from n1 and n3: n2 cannot come back to shards 0, 3 "
        "without, and if the data is lost there too, then for good"
    )


def test_of_five_two_may_be_missing() -> None:
    both = shard(replicas=FIVE, learners=("n1",), unreachable=("n3",))
    assert stakes(view(both), "n2").loss == ""
    assert "n3" in stakes(view(both), "n2").risk
    assert stakes(view(shard(replicas=FIVE, learners=("n1", "n3"))), "n2").loss


def test_many_shards_are_counted() -> None:
    many = [shard(number, learners=("n1",)) for number in range(9)]
    assert "without a vote in 9 shards: n1;" in stakes(view(*many), "n2").loss
