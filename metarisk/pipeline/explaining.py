"""Why one entity of a published night has its score, from the very files that scored it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

import polars as pl

from metarisk import lake
from metarisk import reasons as why
from metarisk.adapt import Adapted
from metarisk.calibration import GRADED, Calibration
from metarisk.domain import DataError
from metarisk.pipeline.context import Context
from metarisk.pipeline.models import load_model
from metarisk.pipeline.night import LEVEL, run_folder
from metarisk.scoring import mean_score
from metarisk.tasks import population

_SCORE = """
SELECT as_of, entity, target, segment, status, score, score_low, score_high, grade, points, expected_loss, reasons,
    run_id, adaptation_id
FROM metarisk.score_history
WHERE portfolio = $portfolio AND as_of = $as_of AND entity = $entity AND target = $target
"""
_LINEAGE = """
SELECT a.status, a.reason, a.support_rows, a.support_events, a.support_hash, a.adaptation_id, a.model_id, m.recipe,
    m.as_of AS labels_until
FROM metarisk.adaptation a JOIN metarisk.model m ON m.model_id = a.model_id
WHERE a.run_id = $run_id AND a.segment = $segment
"""


@dataclass(frozen=True)
class Part:
    """One contribution: on the link scale, and in points where the target has them."""

    code: str
    text: str
    link: float
    points: float | None


@dataclass(frozen=True)
class EntityExplained:
    """A published score with everything that made it; `start` plus the parts is the link-scale score."""

    score: Mapping[str, Any]
    """The row of `risk_score`."""
    reasons: tuple[Mapping[str, Any], ...]
    """What the applicant is told: the heaviest adverse contributions that may be told."""
    start: Part
    parts: tuple[Part, ...]
    """Heaviest first."""
    curve: tuple[float, ...]
    """Probability within 1, 2, ... periods of the horizon; empty where the model knows the whole horizon alone."""
    lineage: Mapping[str, Any]
    """The segment's support, its adaptation and the model."""


def explain(context: Context, entity: str) -> EntityExplained:
    """Explain one entity's score in the published night of the job's as_of.

    Raises:
        DataError: the night or the entity is not published, or the files of its run are no longer in the lake.
    """
    portfolio, job = context.portfolio, context.job
    target = portfolio.target.name
    found = context.warehouse.rows(
        _SCORE, {"portfolio": job.portfolio, "as_of": job.as_of, "entity": entity, "target": target}
    )
    if not found:
        raise DataError(
            f"no published score of {entity!r} for target {target}",
            portfolio=job.portfolio,
            column=portfolio.columns.entity,
            on=job.as_of,
            remedy="check the entity's id and the date; `metarisk runs` shows the published nights",
        )
    score = found[0]
    adapted, level, row = _as_scored(context, score["run_id"], entity)
    explained = why.explain(row, adapted, portfolio, level)
    if abs(float(mean_score(adapted, explained.link)[0]) - score["score"]) > 1e-9:
        raise DataError(
            f"the run's files now score {entity!r} otherwise than was published",
            portfolio=job.portfolio,
            on=job.as_of,
            remedy="use the version of metarisk that scored: `code_version` in the view night",
        )
    graded = adapted.model.likelihood in GRADED
    points, start = explained.in_points(adapted.model.likelihood, portfolio.scorecard) if graded else (None, None)
    texts = {name: feature.description or name for name, feature in portfolio.features.items()}
    texts[why.SEGMENT] = f"segment {score['segment']}"
    texts[why.LEVEL] = "level of the latest known months"
    parts = [
        Part(
            name,
            texts.get(name, name),
            float(explained.parts[0, number]),
            None if points is None else float(points[0, number]),
        )
        for number, name in enumerate(explained.names)
    ]
    lineage = context.warehouse.rows(_LINEAGE, {"run_id": score["run_id"], "segment": score["segment"]})
    return EntityExplained(
        score,
        tuple(why.reasons(row, adapted, portfolio, level)[0]),
        Part(
            "(start)", "where every row starts", float(explained.start[0]), None if start is None else float(start[0])
        ),
        tuple(sorted(parts, key=lambda part: -abs(part.link))),
        tuple(float(value) for value in adapted.model.curve(float(explained.link[0]))),
        lineage[0] if lineage else {},
    )


def last_night(context: Context) -> date:
    """The newest published as_of of the job's portfolio. Raises DataError where there is none."""
    rows = context.warehouse.rows(
        "SELECT max(as_of) AS last FROM metarisk.publication WHERE portfolio = $portfolio",
        {"portfolio": context.job.portfolio},
    )
    if rows[0]["last"] is None:
        raise DataError("no night is published", portfolio=context.job.portfolio, remedy="run `metarisk nightly` first")
    last: date = rows[0]["last"]
    return last


def _as_scored(context: Context, run_id: str, entity: str) -> tuple[Adapted, Calibration, pl.DataFrame]:
    """The run's adapted model, its level and the entity's row, each hash-checked."""
    job, columns = context.job, context.portfolio.columns
    run = context.warehouse.rows(
        "SELECT model_id, extract_hash FROM metarisk.run WHERE run_id = $run_id", {"run_id": run_id}
    )[0]
    folder = run_folder(context, run_id) / "adapt"
    source = context.settings.data_dir / "lake" / job.portfolio / str(job.as_of) / run["extract_hash"] / "extract"
    try:
        files = {name: (folder / name).read_bytes() for name in lake.verify(folder)["files"]}
        paths = lake.read_extract(source).paths
    except DataError as error:
        raise DataError(
            f"the files of run {run_id} are no longer whole in the lake: {error.what}",
            portfolio=job.portfolio,
            on=job.as_of,
            remedy="restore the lake's folder of that date, or publish the night again with --restate",
        ) from error
    adapted = Adapted.from_files(load_model(context, run["model_id"]), files)
    rows = pl.scan_parquet(paths).filter(pl.col(columns.entity) == entity)
    found = population(rows, context.portfolio, job.as_of).collect()
    return adapted, Calibration(**json.loads(files[LEVEL])), found
