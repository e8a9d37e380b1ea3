"""Why scores moved from one published night to another: the book, the data, the adaptation, the model, the level."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from metarisk import lake
from metarisk.domain import Array, MetariskError, Portfolio
from metarisk.job.context import Context
from metarisk.job.population import SCORE
from metarisk.job.published import SEGMENT, Night, Replay, aligned, published, scored_rows
from metarisk.job.run import Run, finished
from metarisk.job.unlike import published_scores, run_inputs, unlike
from metarisk.moves import INPUTS, PARTS, UNTOLD, Sums
from metarisk.record.publications import last_night

MEAN, LOSS = "mean_score", "expected_loss"
"""What is split: a book's mean score and expected loss."""
SCHEMA = {
    "before_run_id": pl.String,
    "before_as_of": pl.Date,
    "target": pl.String,
    "segment": pl.String,
    "measure": pl.String,
    "rows_before": pl.Int64,
    "rows_after": pl.Int64,
    "rows_entered": pl.Int64,
    "rows_left": pl.Int64,
    "value_before": pl.Float64,
    "value_after": pl.Float64,
    **{f"from_{part}": pl.Float64 for part in PARTS},
}
_TYPES: Any = SCHEMA


@dataclass(frozen=True)
class Move:
    """One number's change between two nights; `before` and the parts sum to `after`."""

    measure: str
    rows_before: int
    rows_after: int
    rows_entered: int
    rows_left: int
    before: float | None
    after: float | None
    parts: Mapping[str, float | None]

    @property
    def told(self) -> list[tuple[str, float]]:
        """The parts that are known, with the words of reports, in the order of a waterfall."""
        return [({**PARTS, INPUTS: UNTOLD}[name], value) for name, value in self.parts.items() if value is not None]


def attribute(context: Context, run: Run) -> Path:
    """Split the change since the last published night; a folder with `moves.parquet`, without rows for a first night.

    A night whose files are gone, or that this version would score otherwise, is no reason to stop: then there are no
    rows, and a warning.
    """
    last = None
    if context.portfolio.reasons.moves:
        last = last_night(context.warehouse, context.job.portfolio, context.job.as_of)
    moved = pl.DataFrame(schema=SCHEMA)
    folder = run.folder / "moves"
    if last is not None:
        try:
            before, after = published(context, last), Night(context, run)
            folder = run.folder / f"moves-{before.run.run_id}"
            if untold := unlike(before, after):
                context.reporter.warn(f"why rows that stayed moved since {last} cannot be split: {'; '.join(untold)}")
            if not finished(folder):
                moved = moves(before, after)
        except MetariskError as error:
            folder = run.folder / "moves"
            context.reporter.warn(f"why scores moved since {last} cannot be told: {error.what}")
    if not finished(folder):
        with lake.staged(folder) as into:
            moved.write_parquet(into / "moves.parquet")
            lake.write_manifest(into, {"run_id": run.run_id})
    return folder


def move_of(row: Mapping[str, Any]) -> Move:
    """A row of `moves`; where the inputs changed, a part more has what is left of the change."""
    parts = {part: row[f"from_{part}"] for part in PARTS}
    if parts["data"] is None and parts["leavers"] is not None:
        parts[INPUTS] = row["value_after"] - row["value_before"] - parts["leavers"] - parts["entrants"]
    return Move(
        measure=row["measure"],
        **{name: row[name] for name in ("rows_before", "rows_after", "rows_entered", "rows_left")},
        before=row["value_before"],
        after=row["value_after"],
        parts=parts,
    )


def moves(before: Night, after: Night) -> pl.DataFrame:
    """The change of every segment of either night, and of the whole portfolio (segment null): frame of SCHEMA.

    One pass over both nights in flat memory. A row that changed its segment left the one and entered the other.
    """
    if unlike(before, after):
        return _outline(before, after)
    replay, portfolio = Replay(before, after), after.context.portfolio
    tally = _Tally()
    for rows in aligned(scored_rows(before), scored_rows(after), portfolio.columns.entity):
        for segments, values in _values(rows, replay, portfolio):
            tally.add(segments, values)
    measures = [MEAN] if _price_unknown(portfolio) else [MEAN, LOSS]
    return tally.frame(replay.changed, measures, before, portfolio)


def _outline(before: Night, after: Night) -> pl.DataFrame:
    """`moves` of two nights whose inputs are not the same: who left and came, and all that moved the others in one."""
    tally = _Tally()
    for rows in aligned(published_scores(before), published_scores(after), "entity"):
        for frame, when in zip(rows, ("before", "after"), strict=True):
            if frame.height:
                values = {f"rows_{when}": np.ones(frame.height)}
                values |= {f"{measure}_{when}": _filled(frame[name]) for measure, name in _PUBLISHED.items()}
                tally.add(frame["segment"], values)
        both = rows[0].join(rows[1], on="entity", how="inner", maintain_order="left", suffix=" after")
        if both.height:
            same = pl.when(pl.col("segment") == pl.col("segment after")).then("segment")
            pairs = {
                f"{measure}_both": np.column_stack([_filled(both[name]), _filled(both[f"{name} after"])])
                for measure, name in _PUBLISHED.items()
            }
            tally.add(both.select(same)["segment"], {"rows_both": np.ones(both.height)} | pairs)
    priced = all(run_inputs(night).get("loss") for night in (before, after))
    return tally.frame((INPUTS,), [MEAN, LOSS] if priced else [MEAN], before, after.context.portfolio)


_PUBLISHED = {MEAN: "score", LOSS: "expected_loss"}


def _filled(values: pl.Series) -> Array:
    """Numbers (N,), zero where a row has none."""
    return values.fill_null(0.0).fill_nan(0.0).to_numpy()


def _values(
    rows: tuple[pl.DataFrame, pl.DataFrame], replay: Replay, portfolio: Portfolio
) -> Iterator[tuple[pl.Series, dict[str, Array]]]:
    """Values to be summed, by row, with the rows' segments: of each night, and of rows that both have."""
    for frame, when in zip(rows, ("before", "after"), strict=True):
        if frame.height:
            values = {f"rows_{when}": np.ones(frame.height), f"{MEAN}_{when}": frame[SCORE].to_numpy()}
            price = _price(frame, portfolio)
            if price is not None:
                values[f"{LOSS}_{when}"] = values[f"{MEAN}_{when}"] * price
            yield frame[SEGMENT], values
    key = portfolio.columns.entity
    numbered = [frame.select(key).with_row_index(f"__{place}") for place, frame in enumerate(rows)]
    both = numbered[0].join(numbered[1], on=key, how="inner", maintain_order="left")
    if both.is_empty():
        return
    shared = [frame[both[f"__{place}"]] for place, frame in enumerate(rows)]
    scores = replay.scores(replay.links(shared))
    replay.require(scores, shared)
    kept = {"rows_both": np.ones(both.height), f"{MEAN}_both": scores}
    losses = _losses(scores, shared, portfolio, replay)
    if losses is not None:
        kept[f"{LOSS}_both"] = losses
    # A row that changed its segment is counted in none, and in the whole portfolio.
    yield (
        pl.select(
            pl.when(shared[0][SEGMENT] == shared[1][SEGMENT]).then(shared[1][SEGMENT]).otherwise(None).alias(SEGMENT)
        )[SEGMENT],
        kept,
    )


def _price(frame: pl.DataFrame, portfolio: Portfolio) -> Array | None:
    """LGD x EAD (N,), zero where a row lacks one; None where the portfolio names no such columns."""
    columns = portfolio.columns
    if columns.lgd is None or columns.ead is None:
        return None
    price = frame[columns.lgd].cast(pl.Float64) * frame[columns.ead].cast(pl.Float64)
    return price.fill_null(0.0).fill_nan(0.0).to_numpy()


def _losses(scores: Array, rows: Any, portfolio: Portfolio, replay: Replay) -> Array | None:
    """Expected losses (N, mixtures): the price of a row is data."""
    prices = [_price(frame, portfolio) for frame in rows]
    known = [price for price in prices if price is not None]
    return scores * np.column_stack([known[d] for d, _, _, _ in replay.mixtures]) if known else None


class _Tally:
    """Sums by segment, and over all rows under the name None."""

    def __init__(self) -> None:
        self._place: dict[str | None, int] = {None: 0}
        self._sums: dict[str, Array] = {}

    def add(self, segments: pl.Series, values: Mapping[str, Array]) -> None:
        """Add values (N, ...) of rows in these segments (N,); a null segment counts in the whole alone."""
        names = segments.drop_nulls().unique().sort()
        codes = segments.cast(pl.Enum(names)).to_physical().cast(pl.Int64).fill_null(len(names)).to_numpy()
        places = np.array([self._place.setdefault(name, len(self._place)) for name in names], dtype=np.int64)
        for name, value in values.items():
            columns = value[:, None] if value.ndim == 1 else value
            sums = np.stack([np.bincount(codes, column, minlength=len(names) + 1) for column in columns.T], axis=1)
            total = self._of(name, sums.shape[1])
            total[places] += sums[:-1]
            total[0] += sums.sum(axis=0)
            self._sums[name] = total

    def _of(self, name: str, width: int = 1) -> Array:
        """Sums (segments so far, width) of a value."""
        known = self._sums.get(name, np.zeros((0, width)))
        return np.concatenate([known, np.zeros((len(self._place) - len(known), width))])

    def frame(
        self, changed: Sequence[str], measures: Sequence[str], before: Night, portfolio: Portfolio
    ) -> pl.DataFrame:
        """What was summed, split: frame of SCHEMA, the whole portfolio first, then segments by name."""
        names = [None, *sorted(name for name in self._place if name is not None)]
        order = [self._place[name] for name in names]
        rows = {when: self._of(f"rows_{when}")[order, 0] for when in ("before", "after", "both")}
        frames = []
        for measure in measures:
            sums = Sums(
                rows["before"],
                rows["after"],
                rows["both"],
                self._of(f"{measure}_before")[order, 0],
                self._of(f"{measure}_after")[order, 0],
                self._of(f"{measure}_both", 1 << len(changed))[order],
            )
            parts = sums.of_mean(changed) if measure == MEAN else sums.of_total(changed)
            with np.errstate(invalid="ignore"):
                scale = (rows["before"], rows["after"]) if measure == MEAN else (1.0, 1.0)
                values = sums.before / scale[0], sums.after / scale[1]
            found = {
                "before_run_id": before.run.run_id,
                "before_as_of": before.as_of,
                "target": portfolio.target.name,
                "segment": names,
                "measure": measure,
                "rows_before": rows["before"],
                "rows_after": rows["after"],
                "rows_entered": rows["after"] - rows["both"],
                "rows_left": rows["before"] - rows["both"],
                "value_before": values[0],
                "value_after": values[1],
                **{f"from_{part}": parts[part] for part in PARTS},
            }
            frames.append(pl.DataFrame(found, schema_overrides={"segment": pl.String}).cast(_TYPES).fill_nan(None))
        return pl.concat(frames)


def _price_unknown(portfolio: Portfolio) -> bool:
    return portfolio.columns.lgd is None or portfolio.columns.ead is None
