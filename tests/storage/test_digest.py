from __future__ import annotations

from itertools import permutations

from hypothesis import given
from hypothesis import strategies as st

from kvstore.ids import ShardId
from kvstore.kv.engine import Space, space_prefix
from kvstore.storage.digest import ShardDigest

SHARD = ShardId(3)
DATA = space_prefix(SHARD, Space.DATA)
Rows = list[tuple[bytes, bytes]]


def digest(rows: Rows, rows_max: int = 1000, bytes_max: int = 1 << 20) -> ShardDigest:
    made, left = ShardDigest(SHARD), iter(rows)
    while made.add(left, rows_max, bytes_max):
        pass
    return made


rows = st.dictionaries(st.binary(max_size=4).map(DATA.__add__), st.binary(max_size=4)).map(
    lambda found: sorted(found.items())
)


@given(first=rows, second=rows)
def test_equal_rows_have_equal_checksums_and_others_have_not(first: Rows, second: Rows) -> None:
    assert (digest(first).checksum == digest(second).checksum) == (first == second)


@given(rows=rows, rows_max=st.integers(1, 5), bytes_max=st.integers(1, 20))
def test_it_does_not_matter_in_which_pieces_rows_come(
    rows: Rows, rows_max: int, bytes_max: int
) -> None:
    in_pieces = digest(rows, rows_max, bytes_max)
    at_once = digest(rows)
    assert in_pieces.checksum == at_once.checksum
    assert (in_pieces.keys, in_pieces.bytes) == (at_once.keys, at_once.bytes)


def test_boundaries_and_order_count() -> None:
    cuts = [[(DATA + b"a", b"bc")], [(DATA + b"ab", b"c")], [(DATA + b"a", b"b"), (DATA, b"c")]]
    cuts += [list(order) for order in permutations([(DATA + b"1", b"x"), (DATA + b"2", b"y")])]
    assert len({digest(cut).checksum for cut in cuts}) == len(cuts)


def test_every_space_counts_and_people_are_told_of_the_data() -> None:
    hidden = [(space_prefix(SHARD, space) + b"k", b"v") for space in (Space.SYSTEM, Space.SESSIONS)]
    data = [(DATA + b"key", b"value")]
    assert len({digest(some).checksum for some in ([], hidden[:1], hidden, hidden + data)}) == 4
    made = digest(hidden + data)
    assert (made.keys, made.bytes) == (1, len(b"key") + len(b"value"))


def test_a_piece_ends_at_either_bound() -> None:
    left = iter([(DATA + b"%d" % number, bytes(100)) for number in range(5)])
    made = ShardDigest(SHARD)
    assert made.add(left, 2, 1 << 20)
    assert made.keys == 2
    assert made.add(left, 1000, 150)
    assert made.keys == 4
    assert not made.add(left, 1000, 1000)
