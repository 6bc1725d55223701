"""Keys are drawn as their distribution says."""

from __future__ import annotations

import math
import random
from collections import Counter
from itertools import islice, pairwise
from typing import TYPE_CHECKING

import pytest
from bench.keys import KEY_BYTES, PREFIX, Zipf, key_of, scattered, uniform, zipfian

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

KEYS = 1000
DRAWS = 100_000


def exact(zipf: Zipf, ranks: range) -> float:
    """The chance of these ranks together by the definition."""
    return math.fsum((rank + 1) ** -0.99 for rank in ranks) / zipf.zeta


def test_a_key_has_its_size_and_its_order() -> None:
    keys = [key_of(number) for number in (0, 9, 10, 99_999_999_999)]
    assert {len(key) for key in keys} == {KEY_BYTES}
    assert keys == sorted(keys)
    assert all(key.startswith(PREFIX) for key in keys)


def test_the_first_two_ranks_are_as_likely_as_defined() -> None:
    zipf = Zipf(KEYS)
    first = exact(zipf, range(1))
    second = exact(zipf, range(2))
    assert zipf.rank_of(0.0) == zipf.rank_of(first - 1e-9) == 0
    assert zipf.rank_of(first + 1e-9) == zipf.rank_of(second - 1e-9) == 1
    assert zipf.rank_of(second + 1e-3) >= 2


def test_ranks_rise_with_the_share_and_stay_in_range() -> None:
    zipf = Zipf(KEYS)
    ranks = [zipf.rank_of(n / DRAWS) for n in range(DRAWS)]
    assert ranks == sorted(ranks)
    assert ranks[-1] < KEYS
    assert zipf.rank_of(1 - 2**-53) == KEYS - 1


@pytest.mark.parametrize("part", [range(10), range(100), range(10, 100), range(500, 1000)])
def test_parts_are_drawn_nearly_as_often_as_defined(part: range) -> None:
    zipf, rng = Zipf(KEYS), random.Random(3)
    drawn = sum(zipf.rank_of(rng.random()) in part for _ in range(DRAWS))
    assert drawn / DRAWS == pytest.approx(exact(zipf, part), rel=0.15)


@pytest.mark.parametrize("items", [1, 2, 3])
def test_few_items_are_all_drawn_and_no_other(items: int) -> None:
    zipf, rng = Zipf(items), random.Random(4)
    assert {zipf.rank_of(rng.random()) for _ in range(1000)} == set(range(items))


@pytest.mark.parametrize("keys", [1, 2, 50, 97, 1000])
def test_scattering_keeps_every_number(keys: int) -> None:
    assert sorted(scattered(keys)) == list(range(keys))


def test_what_is_often_asked_for_does_not_lie_together() -> None:
    counts = Counter(islice(zipfian(KEYS, random.Random(5)), DRAWS))
    often = sorted(number for number, _ in counts.most_common(10))
    assert min(b - a for a, b in pairwise(often)) > 10


def test_uniform_draws_prefer_none() -> None:
    counts = Counter(islice(uniform(10, random.Random(6)), DRAWS))
    assert set(counts) == set(range(10))
    assert max(counts.values()) < 1.1 * min(counts.values())


@pytest.mark.parametrize("draw", [uniform, zipfian])
def test_a_seed_gives_the_same_again(
    draw: Callable[[int, random.Random], Iterator[int]],
) -> None:
    one, again, other = (list(islice(draw(KEYS, random.Random(s)), 100)) for s in (7, 7, 8))
    assert one == again != other
