"""Counting and pooling hold for any data: against brute force, in any order, split anyhow."""

import io

import numpy as np
import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from metarisk.domain import Feature
from metarisk.drift import decide, distances, histograms, inputs
from tests.drifts import current, detect

numbers = st.one_of(st.none(), st.floats(width=32), st.integers(-3, 3).map(float))
letters = st.one_of(st.none(), st.sampled_from("abcdé\N{PILE OF POO}'|"))
rows = st.lists(
    st.tuples(numbers, letters, st.sampled_from(["x", "y|", None])),
    min_size=1, max_size=60,
)  # fmt: skip
FEATURES = {"number": Feature("numeric"), "letter": Feature("categorical")}
counts = hnp.arrays(np.int64, st.tuples(st.integers(1, 5), st.integers(2, 12)), elements=st.integers(0, 200))


def _frame(values):
    schema = {"number": pl.Float64, "letter": pl.String, "segment": pl.String}
    return pl.DataFrame(values, schema=schema, orient="row").lazy()


@given(hnp.arrays(np.float32, st.integers(0, 300), elements=st.floats(width=32)), st.integers(0, 60))
def test_bin_numbers_are_those_of_searchsorted(values, some):
    finite = values[np.isfinite(values)]
    edges = np.unique(finite[:some])
    expected = np.searchsorted(edges, values, side="left")
    expected[np.isnan(values)] = len(edges) + 1
    assert np.array_equal(histograms.bin_numbers(values, edges), expected)


@settings(max_examples=30, deadline=None)
@given(rows, rows)
def test_counting_is_a_loop_over_rows(known, tonight):
    table = inputs.reference(_frame(known), FEATURES, ("segment",))
    found = current(_frame(tonight), table)
    number, letter = found.bins["number"], found.bins["letter"]
    for i, key in enumerate([*found.keys, None]):
        here = [row for row in tonight if _key(row) == key or (key is None and _key(row) not in found.keys)]
        assert found.rows[i] == len(here)
        for b, column in ((number, 0), (letter, 1)):
            expected = np.zeros(b.width, dtype=int)
            for row in here:
                expected[_bin(b, row[column])] += 1
            assert np.array_equal(found.counts[b.name][i], expected)


def _key(row):
    return (row[2],) if row[2] is not None else (histograms.MISSING,)


def _bin(b, value):
    if value is None or value != value:
        return b.width - 1
    if b.kind == "categorical":
        return b.levels.index(value) if value in b.levels else b.width - 2
    return sum(edge < np.float32(value) for edge in b.edges)


@settings(max_examples=25, deadline=None)
@given(rows, st.randoms(use_true_random=False))
def test_neither_row_order_nor_parquet_changes_a_reference(values, random):
    table = inputs.reference(_frame(values), FEATURES, ("segment",))
    shuffled = list(values)
    random.shuffle(shuffled)
    assert inputs.reference(_frame(shuffled), FEATURES, ("segment",)).equals(table)
    buffer = io.BytesIO()
    table.write_parquet(buffer)
    stored = pl.read_parquet(io.BytesIO(buffer.getvalue()))
    segments, again = histograms.from_frame(stored)
    assert histograms.to_frame(again, segments).equals(table)
    assert detect(_frame(values), stored).equals(detect(_frame(shuffled), table))


@settings(max_examples=25, deadline=None)
@given(rows, rows)
def test_any_night_gets_a_status_for_every_feature(known, tonight):
    found = detect(_frame(tonight), inputs.reference(_frame(known), FEATURES, ("segment",)))
    assert found.schema == decide.SCHEMA
    assert set(found["status"]) <= {"ok", "watch", "alert", "blind"}
    assert set(found.filter(pl.col("segment").is_null(), metric="psi")["feature"]) == set(FEATURES)
    untested = found.filter(pl.col("p").is_null(), metric="psi")
    assert (untested["detail"] != "").all()
    assert found.select(pl.col("value", "effect", "p", "q").is_nan().any()).sum_horizontal().item() == 0


@given(counts, counts)
def test_pooling_meets_the_expectation_or_leaves_one_pool(reference, current):
    groups, width = min(len(reference), len(current)), min(reference.shape[1], current.shape[1])
    reference, current = reference[:groups, :width], current[:groups, :width]
    for ordered in (True, False):
        pools = distances.pooled(reference, current, ordered=ordered)
        r, c = distances.merge(reference, pools), distances.merge(current, pools)
        assert np.array_equal(r.sum(axis=1), reference.sum(axis=1))
        assert np.array_equal(c.sum(axis=1), current.sum(axis=1))
        total, n, m = r + c, c.sum(axis=1), r.sum(axis=1)
        for g in range(groups):
            used = total[g][total[g] > 0]
            if len(used) > 1:
                assert used.min() * min(n[g], m[g]) / (n[g] + m[g]) >= distances.LEAST_EXPECTED - 1e-9
        if ordered:
            assert (np.diff(pools, axis=1) >= 0).all()


@given(counts)
def test_tenths_are_neighbours_and_no_more_than_ten(reference):
    into = distances.tenths(reference)
    steps = np.diff(into, axis=1)
    assert into[:, 0].tolist() == [0] * len(reference)
    assert set(np.unique(steps)) <= {0, 1}
    assert into.max() <= 9


@given(counts)
def test_psi_is_symmetric_and_zero_only_without_change(reference):
    current = np.roll(reference, 1, axis=1)
    there, back = distances.psi(reference, current), distances.psi(current, reference)
    assert np.allclose(there, back)
    assert (there >= 0).all()
    assert np.array_equal(distances.psi(reference, 3 * reference), np.zeros(len(reference)))
