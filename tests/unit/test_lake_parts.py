"""Parts by the hash of a key hold every row once, and equal keys of two frames are in parts of the same number."""

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from metarisk import lake


def frame(seed, rows):
    rng = np.random.default_rng(seed)
    keys = [f"L{number}" for number in rng.integers(0, 500, rows)]
    return pl.DataFrame({"key": keys, "x": rng.random(rows)}, schema={"key": pl.String, "x": pl.Float64})


@pytest.mark.parametrize("parts", [1, 2, 7])
def test_a_join_part_by_part_is_the_join(tmp_path, parts):
    left, right = frame(0, 3_000), frame(1, 200).unique("key").rename({"x": "z"})
    pairs = zip(
        lake.parted(left.lazy(), "key", parts, tmp_path / "left"),
        lake.parted(right.lazy(), "key", parts, tmp_path / "right"),
        strict=True,
    )
    joined = [one.join(other, on="key").collect() for one, other in pairs]
    assert len(joined) == parts
    assert_frame_equal(pl.concat(joined), left.join(right, on="key"), check_row_order=False)
    assert max(part.height for part in joined) <= left.height


def test_a_part_without_rows_keeps_its_columns_and_rows_their_order(tmp_path):
    left = pl.DataFrame({"key": ["a"] * 5, "x": np.arange(5.0)})
    found = [part.collect() for part in lake.parted(left.lazy(), "key", 4, tmp_path / "left")]
    assert {tuple(part.columns) for part in found} == {("key", "x")}
    assert sorted(part.height for part in found) == [0, 0, 0, 5]
    assert_frame_equal(pl.concat(found), left)


def test_a_million_rows_are_a_part():
    assert [lake.parts_for(rows) for rows in (0, 999_999, 1_000_000, 17_500_000)] == [1, 1, 2, 18]
