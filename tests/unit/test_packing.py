"""Canonical order, windows of sampled tasks, and first rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from metarisk.domain import Array, Packed
from metarisk.learners import packing
from metarisk.learners.packing import Store, canonical, check, first_rows, shuffled, take

SIZES = (4, 0, 1, 7, 0)


def rows(dtype: str = "float32", width: int = 3, seed: int = 0) -> Packed:
    """Few distinct values, so that columns tie; some rows are equal."""
    rng = np.random.default_rng(seed)
    total = sum(SIZES)
    x = rng.integers(0, 2, size=(total, width)).astype(dtype)
    y, weight, base = (rng.integers(0, 2, size=total).astype(dtype) for _ in range(3))
    starts = np.concatenate([[0], np.cumsum(SIZES)]).astype(np.int64)
    return Packed(tuple((str(i),) for i in range(len(SIZES))), starts, x, y, weight, base)


def equal(one: Packed, two: Packed) -> bool:
    return all(np.array_equal(getattr(one, name), getattr(two, name)) for name in ("x", "y", "weight", "base"))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("width", [0, 3, 4])
@pytest.mark.parametrize("collide", [False, True])
def test_canonical_order_depends_on_content_alone(
    dtype: str, width: int, collide: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where every hash is the same and rows must be told apart by a full sort."""
    if collide:
        monkeypatch.setattr(packing, "_hash", lambda columns: np.zeros(len(columns[0]), dtype=np.uint64))
    given = rows(dtype, width)
    expected, order = canonical(given)
    assert equal(expected, take(given, order))
    assert np.array_equal(given.index[order], given.index)
    for seed in range(5):
        noise = np.random.default_rng(seed).random(given.rows)
        found, _ = canonical(take(given, np.lexsort((noise, given.index))))
        assert equal(found, expected)


def test_shuffled_is_fixed_by_seed_and_not_by_order() -> None:
    given = rows()
    reverse = take(given, np.lexsort((-np.arange(given.rows), given.index)))
    assert equal(shuffled(given, 1), shuffled(reverse, 1))
    assert not equal(shuffled(given, 1), shuffled(given, 2))


def test_first_rows_cuts_long_segments_only() -> None:
    cut = first_rows(rows(), 2)
    assert cut.sizes.tolist() == [2, 0, 1, 2, 0]
    assert equal(cut.select([2]), rows().select([2]))
    assert np.array_equal(cut.x[3:5], rows().x[5:7])
    assert check(cut) is cut


@pytest.mark.parametrize("window", [1, 3, 7, 9])
def test_a_window_holds_every_row_at_most_once(window: int) -> None:
    """Rows of other tasks never weigh; a window as long as the task holds it whole, wherever it begins."""
    given = rows("float64")
    numbered = Packed(
        given.keys, given.starts, np.arange(given.rows, dtype=float)[:, None], given.y, np.ones(given.rows), given.base
    )
    store = Store(numbered, device=torch.device("cpu"), dtype=torch.float64, intercept=True)
    assert store.longest == 7
    for offset in (0.0, 0.3, 0.999):
        tasks = torch.tensor([3, 0, 1, 4, 2])
        block = store.block(tasks, torch.full((5,), offset, dtype=torch.float64), window)
        assert block.x.shape == (5, window, 2)
        assert bool((block.x[..., 1] == 1).all())
        for place, task in enumerate(tasks.tolist()):
            real: Array = block.x[place, block.weight[place] > 0, 0].numpy()
            assert len(real) == min(window, SIZES[task]) == len(set(real.tolist()))
            assert set(real.tolist()) <= set(range(int(given.starts[task]), int(given.starts[task + 1])))
