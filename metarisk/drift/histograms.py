"""Counting: one streaming pass turns rows into histograms by segment, for the reference and for a night alike.

Numbers are counted on a fixed grid of the reference's portfolio-wide quantiles (the tenths are among them), with open
outer ends; categories on the reference's levels. What counts mean is `distances` and `decide`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import cast

import numpy as np
import polars as pl

from metarisk.domain import MISSING, Array, Feature, FeatureKind, SegmentKey

GRID = np.array([0.0, 0.001, 0.005, 0.01, *np.arange(1, 50) / 50, 0.99, 0.995, 0.999, 1.0])
"""Quantiles of the grid: tenths, fiftieths so that a segment finds its own tenths, and tails for distances."""
KNOWN_LEVELS = 200
"""Levels of a category that get a bin of their own; rarer ones share the bin of the unseen."""
LONGEST_LEVEL = 200
EDGE_ROWS = 500_000
"""Rows that quantiles are read from at most: every k-th row of a longer reference."""
BATCH_ROWS = 200_000
_BLOCK = 32_768
"""Rows compared with all edges at a time: the block and its codes stay in the cache."""
_NEW_SEGMENTS = 10_000
_LARGEST = 1e30
"""Edges stay within it, so that distances between them are numbers; values beyond count in the outer bins."""
_DAYS_A_YEAR = 365.25
_COLUMNS = ("feature", "kind", "since", "key", "bin", "low", "high", "category", "count")


@dataclass(frozen=True)
class Bins:
    """How one feature is counted.

    Numeric kinds have `edges` float32 (E,), rising: bin i holds values in (edges[i-1], edges[i]], the outer bins are
    open, and the last bin holds nulls. Categorical ones have `levels`, then a bin of other (rare or unseen) values,
    then nulls.
    """

    name: str
    kind: FeatureKind
    edges: Array
    levels: tuple[str, ...] = ()
    since: str | None = None
    """Of a date-age: the column from which the age is counted."""

    @property
    def width(self) -> int:
        """Number of bins, the one of nulls included."""
        return (len(self.levels) if self.kind == "categorical" else len(self.edges)) + 2

    @property
    def values(self) -> int:
        """Number of bins that hold values."""
        return self.width - 1


@dataclass(frozen=True)
class Counts:
    """Histograms of S known segments; the last row of every array holds the rows of segments not known.

    Attributes:
        keys: the known segments, length S.
        rows: rows of each segment, int64 (S+1,).
        bins: how each counted feature was counted; a column that could not be counted is absent.
        counts: rows by segment and bin, int64 (S+1, width), by feature.
        new: rows of each segment not known, the first ten thousand of them by name.
        uncounted: why a feature was not counted.
    """

    keys: tuple[SegmentKey, ...]
    rows: Array
    bins: Mapping[str, Bins]
    counts: Mapping[str, Array]
    new: Mapping[SegmentKey, int]
    uncounted: Mapping[str, str]


def define(
    frame: pl.LazyFrame, features: Mapping[str, Feature], opened_on: str | None
) -> tuple[dict[str, Bins], dict[str, str]]:
    """The bins of every feature that the frame's columns allow, and the reasons why others have none."""
    uncounted = {
        name: reason for name, f in features.items() if (reason := _uncountable(frame, name, f.kind, opened_on))
    }
    sound = {name: feature for name, feature in features.items() if name not in uncounted}
    numeric = [Bins(name, f.kind, np.empty(0), since=opened_on) for name, f in sound.items() if f.kind != "categorical"]
    bins: dict[str, Bins] = {}
    rows = int(frame.select(pl.len()).collect(engine="streaming").item())
    sample = frame.gather_every(max(1, -(-rows // EDGE_ROWS))).select(map(_values, numeric)).collect(engine="streaming")
    for known in numeric:
        since = known.since if known.kind == "date-age" else None
        bins[known.name] = Bins(known.name, known.kind, _quantile_edges(sample[known.name].to_numpy()), since=since)
    for name in sound.keys() - bins.keys():
        counted = frame.group_by(_text(name).alias("level")).len().filter(pl.col("level").is_not_null())
        top = counted.sort(["len", "level"], descending=[True, False]).head(KNOWN_LEVELS).collect(engine="streaming")
        bins[name] = Bins(name, "categorical", np.empty(0), tuple(top["level"]))
    return {name: bins[name] for name in sound}, uncounted


def count(frame: pl.LazyFrame, segments: Sequence[str], keys: Sequence[SegmentKey], bins: Mapping[str, Bins]) -> Counts:
    """Count the frame's rows by segment and bin in one streaming pass; memory does not grow with rows."""
    uncounted = {b.name: why for b in bins.values() if (why := _uncountable(frame, b.name, b.kind, b.since))}
    counted = {name: b for name, b in bins.items() if name not in uncounted}
    index = pl.DataFrame(list(keys), schema=dict.fromkeys(segments, pl.String), orient="row").with_row_index(
        "__segment"
    )
    totals = {name: np.zeros((len(keys) + 1) * b.width, dtype=np.int64) for name, b in counted.items()}
    rows, new = np.zeros(len(keys) + 1, dtype=np.int64), Counter[SegmentKey]()
    columns = [
        *(segment_column(name).alias(f"__key {name}") for name in segments),
        *map(_codes_or_values, counted.values()),
    ]

    def add(batch: pl.DataFrame, segment: Array, b: Bins) -> None:
        column = batch[b.name]
        codes = column.to_numpy() if b.kind == "categorical" else bin_numbers(column.to_numpy(), b.edges)
        totals[b.name] += np.bincount(segment * b.width + codes, minlength=len(totals[b.name]))

    on = [f"__key {name}" for name in segments]
    with ThreadPoolExecutor(2) as pool:
        for batch in _batches(frame.select(columns)):
            known = batch.select(on).join(index, left_on=on, right_on=list(segments), how="left", maintain_order="left")
            segment = known["__segment"].fill_null(len(keys)).cast(pl.Int64).to_numpy()
            rows += np.bincount(segment, minlength=len(rows))
            list(pool.map(lambda b, batch=batch, segment=segment: add(batch, segment, b), counted.values()))
            strangers = known.filter(pl.col("__segment").is_null()).select(on).group_by(on).len()
            for *key, number in strangers.iter_rows():
                if len(new) < _NEW_SEGMENTS or tuple(key) in new:
                    new[tuple(key)] += number
    counts = {name: totals[name].reshape(-1, b.width) for name, b in counted.items()}
    return Counts(tuple(keys), rows, counted, counts, dict(sorted(new.items())), uncounted)


def codes(frame: pl.LazyFrame, bins: Mapping[str, Bins]) -> pl.DataFrame:
    """The bin number of every row and feature; a feature that cannot be counted has no column."""
    counted = [b for b in bins.values() if not _uncountable(frame, b.name, b.kind, b.since)]
    rows = frame.select(map(_codes_or_values, counted)).collect(engine="streaming")
    numbers = {b.name: rows[b.name] if b.kind == "categorical" else bin_numbers(rows[b.name].to_numpy(), b.edges)
               for b in counted}  # fmt: skip
    return pl.DataFrame(numbers)


def segment_keys(frame: pl.LazyFrame, segments: Sequence[str]) -> tuple[SegmentKey, ...]:
    """Distinct segment keys of a frame, sorted."""
    distinct = frame.select(map(segment_column, segments)).unique().collect(engine="streaming")
    return tuple(cast("list[SegmentKey]", sorted(distinct.iter_rows())))


def bin_numbers(values: Array, edges: Array) -> Array:
    """Bin of each float32 value (N,): how many edges lie below it; NaN gets the bin after the last.

    Equal to ``np.searchsorted(edges, values)``. Comparing blocks with one edge after another vectorises, and is several
    times as fast for some fifty edges in random order.
    """
    numbers = np.zeros(len(values), dtype=np.uint8)
    above = np.empty(_BLOCK, dtype=bool)
    for start in range(0, len(values), _BLOCK):
        block, into = values[start : start + _BLOCK], numbers[start : start + _BLOCK]
        for edge in edges:
            np.greater(block, edge, out=above[: len(block)])
            into += above[: len(block)].view(np.uint8)
    numbers[np.isnan(values)] = len(edges) + 1
    return numbers


def to_frame(counts: Counts, segments: Sequence[str]) -> pl.DataFrame:
    """Histograms as one long table that suffices to count another night the same way.

    Rows with a null `key` define a bin (its ends or its category) and hold the portfolio's count; the others hold the
    count of one segment, where it is not zero. The rows of feature ``""`` hold the segments' sizes.
    """
    schema = {"feature": pl.String, "kind": pl.String, "since": pl.String, "bin": pl.Int32, "low": pl.Float64,
              "high": pl.Float64, "category": pl.String, "count": pl.Int64}  # fmt: skip
    names = [dict(zip(segments, k, strict=True)) for k in counts.keys]
    typed: dict[str, pl.DataType | type[pl.DataType]] = {
        "key": pl.Struct(dict.fromkeys(segments, pl.String)),
        "bin": pl.Int32,
    }
    sizes = {"feature": "", "kind": "rows", "bin": 0, "key": names, "count": counts.rows[:-1]}
    parts = [pl.DataFrame(sizes, schema_overrides=typed)]
    for name, b in counts.bins.items():
        held = counts.counts[name]
        ends = np.concatenate([[-np.inf], b.edges, [np.inf]]).astype(float)
        empty: list[None] = [None] * b.width
        lows, highs = ([*ends[:-1], None], [*ends[1:], None]) if b.kind != "categorical" else (empty, empty)
        levels = [*b.levels, None, None] if b.kind == "categorical" else empty
        about = {"feature": name, "kind": b.kind, "since": b.since}
        total = {"bin": np.arange(b.width), "low": lows, "high": highs, "category": levels, "count": held.sum(axis=0)}
        parts.append(pl.DataFrame(about | total, schema=schema))
        segment, at = np.nonzero(held[:-1])
        some = {"feature": name, "kind": b.kind, "bin": at, "key": [names[i] for i in segment]}
        parts.append(pl.DataFrame(some | {"count": held[segment, at]}, schema_overrides=typed))
    frame = pl.concat(parts, how="diagonal")
    return frame.select(_COLUMNS)


def is_reference(frame: pl.DataFrame) -> bool:
    """Whether a table has the columns and types of what `to_frame` writes."""
    schema = frame.schema
    return schema.names() == list(_COLUMNS) and isinstance(schema["key"], pl.Struct) and schema["count"] == pl.Int64


def from_frame(frame: pl.DataFrame) -> tuple[tuple[str, ...], Counts]:
    """Segment columns and histograms that `to_frame` wrote."""
    segments = tuple(field.name for field in cast("pl.Struct", frame.schema["key"]).fields)
    sizes = frame.filter(feature="")
    keys = tuple(tuple(key[name] for name in segments) for key in sizes["key"])
    index = sizes.select("key").with_row_index("__segment")
    coded = frame.filter(pl.col("feature") != "").join(index, on="key", how="left", maintain_order="left")
    bins, counts = {}, {}
    for part in coded.partition_by("feature", maintain_order=True):
        whole, cells = part.filter(pl.col("key").is_null()).sort("bin"), part.filter(pl.col("key").is_not_null())
        name, kind = part["feature"][0], cast(FeatureKind, part["kind"][0])
        categorical = kind == "categorical"
        levels = tuple(whole["category"][:-2]) if categorical else ()
        edges = np.empty(0) if categorical else whole["low"][1:-1].to_numpy().astype(np.float32)
        bins[name] = Bins(name, kind, edges, levels, whole["since"][0])
        held = np.zeros((len(keys) + 1, bins[name].width), dtype=np.int64)
        held[cells["__segment"].to_numpy(), cells["bin"].to_numpy()] = cells["count"].to_numpy()
        counts[name] = held
    return segments, Counts(keys, np.append(sizes["count"].to_numpy(), 0), bins, counts, {}, {})


def _batches(frame: pl.LazyFrame) -> Iterator[pl.DataFrame]:
    yield from frame.collect_batches(chunk_size=BATCH_ROWS, maintain_order=False, engine="streaming")


def _quantile_edges(values: Array) -> Array:
    """Grid of finite values' quantiles; the first is just below the least, so that both outer bins lie beyond all."""
    finite = np.clip(values[np.isfinite(values)].astype(np.float64), -_LARGEST, _LARGEST)
    if not len(finite):
        return np.empty(0, dtype=np.float32)
    edges = np.quantile(finite, GRID).astype(np.float32)
    edges[0] = np.nextafter(edges[0], np.float32(-np.inf))
    return np.unique(edges)


def _uncountable(frame: pl.LazyFrame, name: str, kind: FeatureKind, since: str | None) -> str | None:
    schema = frame.collect_schema()
    if name not in schema:
        return "the column is gone"
    if kind == "date-age" and (since is None or since not in schema):
        return f"the date {since or 'opened_on'} that its age is counted from is gone"
    dtype = schema[name]
    if dtype.is_nested() or dtype in (pl.Object, pl.Binary):
        return f"a column of type {dtype} cannot be counted"
    if kind == "date-age" and not dtype.is_temporal():
        return f"a date was expected, its type is {dtype}"
    return None


def segment_column(name: str) -> pl.Expr:
    """A segment column as text; a missing value is a value."""
    return pl.col(name).cast(pl.String).fill_null(MISSING)


def _text(name: str) -> pl.Expr:
    return pl.col(name).cast(pl.String).str.slice(0, LONGEST_LEVEL)


def _values(b: Bins) -> pl.Expr:
    if b.kind == "date-age":
        days = (pl.col(str(b.since)).cast(pl.Date) - pl.col(b.name).cast(pl.Date)).dt.total_days()
        number = days / _DAYS_A_YEAR
    else:
        number = pl.col(b.name).cast(pl.Float64, strict=False)
    return number.cast(pl.Float32).fill_null(float("nan")).alias(b.name)


def _codes_or_values(b: Bins) -> pl.Expr:
    if b.kind != "categorical":
        return _values(b)
    # an Enum keeps the pass streaming: replace_strict would gather the whole column first
    codes = _text(b.name).cast(pl.Enum(b.levels), strict=False).to_physical().cast(pl.Int64).fill_null(len(b.levels))
    return pl.when(pl.col(b.name).is_null()).then(b.values).otherwise(codes).alias(b.name)
