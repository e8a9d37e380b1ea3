"""Shards: how many, from what the work costs."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from metarisk.job.population import Chunk
from metarisk.steps.score import MOST_SHARDS, WORTH_SECONDS, cut


def chunk_list(sizes: Sequence[int]) -> list[Chunk]:
    return [Chunk(number, "part", 0, 1, rows, sum(sizes[:number])) for number, rows in enumerate(sizes)]


@given(st.lists(st.integers(1, 262_144), max_size=200), st.floats(1e-7, 1e-2))
def test_shards_are_consecutive_and_worth_their_cost(sizes: list[int], rate: float) -> None:
    given_chunks = chunk_list(sizes)
    shards = cut(given_chunks, rate)
    assert [chunk for shard in shards for chunk in shard] == given_chunks
    assert all(shards)
    assert len(shards) <= MOST_SHARDS
    assert len(shards) <= 1 or sum(sizes) * rate >= len(shards) * WORTH_SECONDS


def test_equal_chunks_are_shared_out_equally() -> None:
    # 600 million rows at 10 s a million: 6,000 s of work, of which each of 64 shards has its share.
    shards = cut(chunk_list([262_144] * 2_289), 1e-5)
    assert len(shards) == MOST_SHARDS
    assert {len(shard) for shard in shards} == {35, 36}


def test_a_small_book_stays_in_one_piece() -> None:
    assert len(cut(chunk_list([262_144, 100_000]), 1e-5)) == 1
