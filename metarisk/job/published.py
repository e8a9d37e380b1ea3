"""Published nights read back from the lake, and rows of two nights scored under any mixture of the two."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq

from metarisk import lake, quality
from metarisk.adapt import Adapted, FittedModel
from metarisk.calibration import Calibration
from metarisk.domain import Array, ConfigError, DataError, Portfolio
from metarisk.job.archive import require_files
from metarisk.job.champion import load_model
from metarisk.job.context import Context
from metarisk.job.population import SCORE, population_batches
from metarisk.job.run import (
    EXCLUDED,
    Checked,
    Run,
    adapted_to,
    load_adapted,
    load_level,
    load_recency,
    run_folder,
    scan,
    score_batches,
    score_files,
    support,
)
from metarisk.job.storage import reopened
from metarisk.moves import FACTORS
from metarisk.record import runs
from metarisk.record.publications import is_retracted, newest, taken_back
from metarisk.scoring import BASE, mean_score
from metarisk.tasks import population

SEGMENT, BASE_SCORE = "__segment", "__base"
"""Columns of `scored_rows` beside SCORE and those of the extract: the segment of a row, and its base score."""
_KEPT = {"score": SCORE, "segment": SEGMENT, BASE: BASE_SCORE}
SAME = 1e-9
"""Replays of what was published agree with it to this."""


@dataclass(frozen=True)
class Night:
    """One night: its job and its run."""

    context: Context
    run: Run

    @property
    def as_of(self) -> date:
        """The night's date."""
        return self.context.job.as_of


def to_publish_again(context: Context) -> str:
    """The command that publishes a retracted night again."""
    return f"`metarisk nightly --portfolio {context.job.portfolio} --as-of {context.job.as_of} --restate WHY`"


def require_standing(context: Context, as_of: date | None = None) -> dict[str, Any]:
    """The publication of the job's date, or of another, that stands.

    Raises:
        DataError: no night of that date is published, or it was taken back.
    """
    if as_of is not None:
        context = replace(context, job=replace(context.job, as_of=as_of))
    found = newest(context.warehouse, context.job.portfolio, context.job.as_of)
    if found is not None and not is_retracted(found):
        return found
    raise DataError(
        "no night of this date is published" if found is None else taken_back(found),
        portfolio=context.job.portfolio,
        on=context.job.as_of,
        remedy="check the date; the view `night` and `metarisk runs` have all that were published"
        if found is None
        else f"ask for another night, or publish it again: {to_publish_again(context)}",
    )


def published(context: Context, as_of: date) -> Night:
    """The published night of an as_of, its files hash-checked.

    Raises:
        DataError: the night is not published or was taken back, or its files are no longer whole in the lake.
    """
    return night_of(context, require_standing(context, as_of)["run_id"])


def night_of(context: Context, run_id: str) -> Night:
    """The night that a run of any portfolio scored, its files hash-checked.

    Raises:
        ConfigError: there is no such run.
        DataError: its files are no longer whole in the lake: pruned, damaged or lost.
    """
    row = runs.run(context.warehouse, run_id)
    if row is None:
        raise ConfigError(f"there is no run {run_id}", remedy="take the id from `metarisk runs`")
    job = replace(context.job, portfolio=row["portfolio"], as_of=row["as_of"])
    context = replace(context, job=job)
    folder = run_folder(context, row["run_id"])
    source = folder.parents[1] / row["extract_hash"]

    def whole() -> tuple[lake.Extract, dict[str, Any]]:
        return lake.read_extract(source / "extract"), lake.verify(folder / "adapt")

    try:
        extract, about = reopened(context, context.folder, whole)
    except DataError as error:
        require_files(context)
        raise DataError(
            f"the files of run {row['run_id']} are no longer whole in the lake: {error.what}",
            portfolio=job.portfolio,
            on=job.as_of,
            remedy="restore the lake's folder of that date, or publish the night again with --restate",
        ) from error
    excluded = source / about[EXCLUDED] if about.get(EXCLUDED) else None
    checked = Checked(extract, quality.Quality(job.portfolio, job.as_of, "", (), extract.rows, excluded=excluded))
    kept = {name: row[name] for name in ("run_id", "model_id", "recipe", "cut_off", "config_hash", "code_version")}
    return Night(context, Run(**kept, folder=folder, checked=checked))


def entity_row(night: Night, entity: str) -> pl.DataFrame:
    """One entity's row of `scored_rows`; empty where the night has none."""
    key = night.context.portfolio.columns.entity
    rows = population(
        scan(night.context, night.run.checked).filter(pl.col(key) == entity), night.context.portfolio, night.as_of
    )
    _require_base(night)
    scores = pl.scan_parquet(score_files(night.run)).select(pl.col("entity").alias(key), *_renamed())
    return rows.join(scores.filter(pl.col(key) == entity), on=key, how="inner").collect()


def scored_rows(night: Night) -> Iterator[pl.DataFrame]:
    """All rows of a night with what they scored, in the order of entities, a batch at a time."""
    key = night.context.portfolio.columns.entity
    _require_base(night)
    kept = score_batches(night.run, ["entity", *_KEPT])
    scores = (frame.select(pl.col("entity").alias(key), *_renamed()) for frame in kept)
    for rows, found in aligned(population_batches(night.context, night.run.checked), scores, key):
        if not rows[key].equals(found[key]):
            raise DataError(
                "the rows that were scored are not those of the extract",
                portfolio=night.context.job.portfolio,
                on=night.as_of,
                remedy="restore the lake's folder of that date, or publish the night again with --restate",
            )
        yield rows.hstack(found.drop(key))


def aligned(
    left: Iterator[pl.DataFrame], right: Iterator[pl.DataFrame], key: str
) -> Iterator[tuple[pl.DataFrame, pl.DataFrame]]:
    """Two streams sorted by a unique key, cut so that both frames of a pair hold the same range of keys."""
    waiting: list[pl.DataFrame | None] = [next(left, None), next(right, None)]
    while (one := waiting[0]) is not None and (other := waiting[1]) is not None:
        if one.is_empty() or other.is_empty():
            waiting = [next(left, None) if one.is_empty() else one, next(right, None) if other.is_empty() else other]
            continue
        last = min(one[key][-1], other[key][-1])
        counts = [int((frame[key] <= last).sum()) for frame in (one, other)]
        yield one[: counts[0]], other[: counts[1]]
        waiting = [one[counts[0] :], other[counts[1] :]]
    empty = [frame.clear() for frame in waiting if frame is not None]
    for stream, (first, rest) in enumerate(zip(waiting, (left, right), strict=True)):
        for frame in (first, *rest) if first is not None else ():
            if frame.height:
                yield (frame, empty[0]) if stream == 0 else (empty[0], frame)


class Replay:
    """Rows that two nights share, scored under any mixture of the nights' data, adaptation, model and calibration."""

    def __init__(self, before: Night, after: Night) -> None:
        self._nights = (before, after)
        self._portfolio: Portfolio = after.context.portfolio
        self._adapted: dict[tuple[int, int], Adapted] = {}

    @cached_property
    def changed(self) -> tuple[str, ...]:
        """Factors that may have moved a score; what has the same hash in both nights has not."""
        before, after = (night.run for night in self._nights)
        moved = {
            "data": True,
            "adaptation": self._learned(0) != self._learned(1),
            "model": before.model_id != after.model_id,
            "calibration": self._levels[0] != self._levels[1],
        }
        return tuple(name for name in FACTORS if moved[name])

    @cached_property
    def mixtures(self) -> list[tuple[int, int, int, int]]:
        """For each mixture, from which night (0, 1) data, adaptation, model and calibration are taken."""
        bits = [1 << self.changed.index(name) if name in self.changed else 0 for name in FACTORS]
        out = []
        for number in range(1 << len(self.changed)):
            data, adaptation, model, calibration = (1 if not bit or number & bit else 0 for bit in bits)
            out.append((data, adaptation, model, calibration))
        return out

    def model(self, number: int) -> FittedModel:
        """The model of the earlier (0) or the later (1) night."""
        night = self._nights[number]
        return load_model(night.context, night.run.model_id)

    def links(self, rows: Sequence[pl.DataFrame]) -> Array:
        """Calibrated link-scale scores (N, mixtures) of N rows, given as they were in each of the nights."""
        changed = self._differ(rows)
        links: dict[tuple[int, int, int], Array] = {}
        out = np.empty((rows[0].height, len(self.mixtures)))
        for number, (d, s, m, c) in enumerate(self.mixtures):
            place = (d if changed.any() else 1, s, m)
            if place not in links:
                links[place] = self._link(rows, changed, *place)
            out[:, number] = links[place] + self._shift(rows[d], c)
        return out

    def scores(self, links: Array) -> Array:
        """Scores (N, mixtures) of what `links` gave."""
        out = np.empty_like(links)
        for number, (d, s, m, c) in reversed([*enumerate(self.mixtures)]):
            twin = self.mixtures.index((1, s, m, c))
            same = d == 0 and np.array_equal(links[:, number], links[:, twin])
            out[:, number] = out[:, twin] if same else mean_score(self._adaptation(s, m), links[:, number])
        return out

    def require(self, scores: Array, rows: Sequence[pl.DataFrame]) -> None:
        """Raise DataError unless the first and the last mixture (N, mixtures) are what the nights published."""
        for night, found, frame in zip(self._nights, (scores[:, 0], scores[:, -1]), rows, strict=True):
            if not np.allclose(found, frame[SCORE].to_numpy(), rtol=0.0, atol=SAME):
                raise DataError(
                    "the run's files now score otherwise than was published",
                    portfolio=self._portfolio.name,
                    on=night.as_of,
                    remedy="use the version of metarisk that scored: `code_version` in the view night",
                )

    @cached_property
    def _levels(self) -> tuple[Calibration, Calibration]:
        before, after = (load_level(night.run) for night in self._nights)
        return before, after

    def _learned(self, number: int) -> object:
        """What tells one night's adaptation from another: the model, the numbers, and whose they are."""
        night = self._nights[number]
        files = lake.read_manifest(night.run.folder / "adapt")["files"]
        return night.run.model_id, files["adaptation.safetensors"], self._adaptation(number, number).adaptation.keys

    def _adaptation(self, s: int, m: int) -> Adapted:
        """Model m adapted to the support of night s: the night's own files, or done anew."""
        if (s, m) not in self._adapted:
            night, model_id = self._nights[s], self._nights[m].run.model_id
            if model_id == night.run.model_id:
                self._adapted[s, m] = load_adapted(night.context, night.run)
            else:
                known = support(night.context, night.run)
                self._adapted[s, m] = adapted_to(night.context, night.run, model_id, known, load_recency(night.run))
        return self._adapted[s, m]

    def _differ(self, rows: Sequence[pl.DataFrame]) -> Array:
        """Whether anything that scores a row or prices its loss differs between the nights, bool (N,)."""
        columns = self._portfolio.columns
        told = (columns.opened_on, *columns.segments, *self._portfolio.features, columns.lgd, columns.ead)
        out = np.zeros(rows[0].height, dtype=bool)
        # A feature that was added or removed and that neither model reads scores no row.
        shared = rows[0].columns, rows[1].columns
        for name in dict.fromkeys(name for name in told if name and all(name in columns for columns in shared)):
            out |= rows[0][name].ne_missing(rows[1][name]).to_numpy()
        return out

    def _link(self, rows: Sequence[pl.DataFrame], changed: Array, d: int, s: int, m: int) -> Array:
        """Link-scale scores (N,) before calibration; only rows that changed are scored as they were before."""
        if d == 1:
            return self._score(rows[1], s, m, self._base(rows, changed, 1, m))
        link, moved = self._link(rows, changed, 1, s, m), pl.Series(changed)
        base = self._base(rows, changed, 0, m)[changed]
        link[changed] = self._score(rows[0].filter(moved), s, m, base)
        return link

    def _score(self, frame: pl.DataFrame, s: int, m: int, base: Array) -> Array:
        adapted = self._adaptation(s, m)
        return adapted.score(frame, self._portfolio, (adapted.model.inputs(frame, base), base))[0]

    def _base(self, rows: Sequence[pl.DataFrame], changed: Array, d: int, m: int) -> Array:
        """Base scores (N,) by model m of the data of night d: kept by the nights; changed rows are scored anew."""
        if "model" not in self.changed:
            return rows[d][BASE_SCORE].to_numpy()
        base = rows[m][BASE_SCORE].to_numpy(writable=True)
        if d != m and changed.any():
            base[changed] = self.model(m).fresh(rows[d].filter(pl.Series(changed)))[1]
        return base

    def _shift(self, frame: pl.DataFrame, c: int) -> Array:
        """What the level of night c adds to rows (N,), by their segment."""
        segment, level = frame[SEGMENT], self._levels[c]
        if not level.segments:
            return np.full(frame.height, level.portfolio)
        names = segment.unique()
        shifts = pl.Series([level.shift(name) for name in names], dtype=pl.Float64)
        return segment.replace_strict(names, shifts, return_dtype=pl.Float64).to_numpy()


def _renamed() -> list[pl.Expr]:
    return [pl.col(name).alias(kept) for name, kept in _KEPT.items()]


def _require_base(night: Night) -> None:
    """DataError where the night's scores were written by a version that did not keep base scores."""
    lake.verify(night.run.folder / "score")
    if not all(BASE in pq.read_schema(path).names for path in score_files(night.run)):
        raise DataError(
            "the night was scored by a version of metarisk that kept no base scores",
            portfolio=night.context.job.portfolio,
            on=night.as_of,
            remedy="compare nights that this version has scored",
        )
