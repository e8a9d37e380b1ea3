"""Two published nights whose inputs are not the same, and what both tell without being scored again."""

from collections.abc import Iterator
from typing import Any

import polars as pl

from metarisk import lake
from metarisk.job.inputs import INPUTS, changes, inputs_of_model
from metarisk.job.published import Night
from metarisk.job.run import score_batches, score_files

_APART = ("features", "target")
"""Inputs that are looked at apart: features only where a model reads them; the name of a target moves no score."""
_TOLD = ["entity", "segment", "score", "expected_loss"]


def unlike(before: Night, after: Night) -> list[str]:
    """Why rows of one night cannot be scored as in the other, in words; none where they can.

    A feature counts that one of the two models reads; so does every column that says which rows are scored, where they
    belong, over which horizon, and what their loss is.
    """
    then, now = run_inputs(before), run_inputs(after)
    found = [*changes(*({key: value for key, value in one.items() if key not in _APART} for one in (then, now)))]
    was, now_has = before.run.extract.columns, after.run.extract.columns
    read: dict[str, str] = {}
    for night in (before, after):
        read |= inputs_of_model(night.context, night.run.model_id)["features"]
    for name in read:
        if was.get(name) == now_has.get(name):
            continue
        if name not in was or name not in now_has:
            found.append(f"the feature {name} was {'added' if name in now_has else 'removed'}")
        else:
            kind, before_kind = (one.get("features", {}).get(name) for one in (now, then))
            found.append(f"the feature {name} is {kind or now_has[name]}, before {before_kind or was[name]}")
    columns = after.context.portfolio.columns
    needed = (columns.entity, columns.opened_on, *columns.segments, columns.lgd, columns.ead)
    lacking = [name for name in needed if name is not None and name not in was]
    if lacking and not found:  # a night of before inputs were kept
        found.append(f"the night of {before.as_of} has no column {', '.join(lacking)}")
    return found


def run_inputs(night: Night) -> dict[str, Any]:
    """The inputs that the portfolio declared when a run was made; nothing of a run of before they were kept."""
    return dict(lake.read_manifest(night.run.folder / "adapt").get(INPUTS, {}))


def published_scores(night: Night) -> Iterator[pl.DataFrame]:
    """Entity, segment, score and expected loss of all rows of a night, in the order of entities, a batch at a time."""
    lake.verify(night.run.folder / "score")
    yield from score_batches(night.run, _TOLD)


def published_row(night: Night, entity: str) -> pl.DataFrame:
    """The same of one entity; empty where the night has none."""
    return pl.scan_parquet(score_files(night.run)).select(_TOLD).filter(pl.col("entity") == entity).collect()
