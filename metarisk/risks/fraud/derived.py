"""What a night of fraud publishes beside its scores: alerts in the budget, and what those of earlier nights caught."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import date, timedelta
from typing import Any
from zlib import crc32

import numpy as np
import polars as pl

from metarisk.domain import Array, ConfigError, Derived, NightView, Portfolio
from metarisk.metrics import pr_auc
from metarisk.risks.fraud.detection import (
    NOTHING,
    Selection,
    at_budget,
    select,
    time_to_first_catch,
    weighted_rates,
)

NIGHTS = 60
"""Nights back over which detection is told."""
Row = Mapping[str, Any]


def derive(view: NightView) -> Derived:
    """Measures of a night: `alert` (a case to review), `at_budget` (an earlier night) and `detection` (all of those).

    An alert's item is its case; the note of its score is JSON with the entity and the reasons of its riskiest row.
    """
    column = str(view.options["case"]) or view.portfolio.columns.entity
    if column not in view.rows.columns:
        raise ConfigError(
            f"option `case` is {column!r}, which the extract does not keep",
            portfolio=view.portfolio.name,
            column=column,
            remedy="name a column of `columns.texts`, or leave `case` out to review row by row",
        )
    rows = [*_alerts(view, column), *_earlier(view, column)]
    schema = dict.fromkeys(("kind", "item", "segment", "metric", "note"), pl.String) | {"value": pl.Float64}
    return Derived(measures=pl.DataFrame(rows, schema=schema))


def _alerts(view: NightView, column: str) -> Iterator[Row]:
    """The cases of tonight, the riskiest first and those drawn at random last."""
    scores, cases = view.scores, _cases(view.rows, column)
    chosen = _selection(view, cases, scores["score"].to_numpy(), view.as_of)
    amounts = _amounts(view.rows, view.portfolio)
    code = np.searchsorted(chosen.names, cases)
    at_risk = np.bincount(code, amounts * scores["score"].to_numpy(), minlength=len(chosen.names))
    for rank, place in enumerate((*chosen.alerts, *chosen.explored), start=1):
        worst = scores.row(int(chosen.worst[place]), named=True)
        told = {"entity": worst["entity"], "reasons": json.loads(worst["reasons"] or "[]")}
        about = {"kind": "alert", "item": str(chosen.names[place]), "segment": worst["segment"]}
        numbers = {
            "rank": rank, "score": worst["score"], "at_risk": at_risk[place], "rows": chosen.rows[place],
            "drawn": float(rank > len(chosen.alerts)), "chance": chosen.chance[place],
        }  # fmt: skip
        for metric, value in numbers.items():
            note = json.dumps(told, ensure_ascii=False) if metric == "score" else None
            yield about | {"metric": metric, "value": float(value), "note": note}


def _earlier(view: NightView, column: str) -> Iterator[Row]:
    """What the alerts of earlier nights caught, by the labels that are known by now."""
    nights = _judged(view, column)
    if nights.is_empty():
        return
    total, caught, reviewed = NOTHING, [], []
    for rows in nights.partition_by("as_of", maintain_order=True):
        night = rows["as_of"][0]
        cases, score, y = rows["case"].to_numpy(), rows["score"].to_numpy(), rows["y"].to_numpy()
        chosen = _selection(view, cases, score, night)
        found = at_budget(cases, score, y, rows["amount"].to_numpy(), len(chosen.alerts))
        total += found
        yield from _measures("at_budget", str(night), _rates(found))
        is_alert = np.isin(cases, chosen.names[chosen.alerts])
        caught.append(is_alert)
        reviewed.append(_reviewed(rows, chosen))
    y, days = nights["y"].to_numpy(), nights["as_of"].cast(pl.Int32).to_numpy()
    delays = time_to_first_catch(nights["case"].to_numpy(), days, y, np.concatenate(caught))
    found_at_all = np.isfinite(delays)
    numbers = _rates(total) | {
        "pr_auc": pr_auc(nights["score"].to_numpy(), y),
        "days_to_first_catch": float(np.median(delays[found_at_all])) if found_at_all.any() else None,
        "never_caught": float((~found_at_all).mean()) if len(delays) else None,
    }
    item = f"to {nights['as_of'][-1]}"
    yield from _measures("detection", item, numbers | {"nights": float(nights["as_of"].n_unique())})
    alert, event, chance = (np.concatenate(parts) for parts in zip(*reviewed, strict=True))
    if len(chance):
        precision, recall = weighted_rates(alert, event, chance)
        counts = {"cases": float(len(chance)), "drawn": float((~alert).sum())}
        yield from _measures("reviewed", item, counts | {"precision": precision, "recall": recall})


def _judged(view: NightView, column: str) -> pl.DataFrame:
    """Rows of earlier nights whose label is mature: as_of, case, score, y, amount, settled; in order of time."""
    portfolio, columns = view.portfolio, view.portfolio.columns
    target = portfolio.target
    last = view.as_of - timedelta(days=target.horizon_days + target.reporting_lag_days)
    scores = view.published().filter(
        (pl.col("target") == target.name) & pl.col("as_of").is_between(last - timedelta(days=NIGHTS), last)
    )
    settled = pl.lit(None, pl.Date) if columns.settled_on is None else pl.col(columns.settled_on)
    known = view.history.select(
        entity=pl.col(columns.entity).cast(pl.String),
        opened=pl.col(columns.opened_on),
        case=pl.col(column).cast(pl.String).fill_null(""),
        y=pl.col(str(columns.event_date)).is_not_null().cast(pl.Float64),
        amount=pl.lit(1.0) if columns.ead is None else pl.col(columns.ead).fill_null(0.0),
        settled=settled.is_not_null(),
        told=pl.lit(True) if columns.label is None else pl.col(columns.label).is_not_null(),
    )
    if columns.label is not None:
        known = known.filter(pl.col("told"))
    joined = scores.lazy().join(known, on="entity").filter(pl.col("opened") <= pl.col("as_of"))
    return joined.sort("as_of", "entity").collect(engine="streaming")


def _reviewed(rows: pl.DataFrame, chosen: Selection) -> tuple[Array, Array, Array]:
    """Of the cases that were to be reviewed and that somebody did: is it an alert, is it the event, its chance."""
    by_case = rows.group_by("case").agg(pl.col("settled").any(), pl.col("y").max()).sort("case")
    alert = np.zeros(len(chosen.names), dtype=bool)
    alert[chosen.alerts] = True
    picked = alert.copy()
    picked[chosen.explored] = True
    seen = picked & by_case["settled"].to_numpy()
    return alert[seen], by_case["y"].to_numpy()[seen], chosen.chance[seen]


def _selection(view: NightView, cases: Array, score: Array, night: date) -> Selection:
    """The cases of a night; whoever asks again, on whatever night, draws the same ones."""
    seed = crc32(f"{view.portfolio.name}/{night}".encode())
    return select(cases, score, int(view.options["budget"]), float(view.options["explore_share"]), seed)


def _rates(found: Any) -> dict[str, float]:
    names = ("alerts", "hits", "precision", "recall", "value_recall", "false_positive_ratio")
    return {name: float(getattr(found, name)) for name in names}


def _measures(kind: str, item: str, numbers: Mapping[str, float | None]) -> Iterator[Row]:
    for metric, value in numbers.items():
        yield {"kind": kind, "item": item, "segment": None, "metric": metric, "value": value, "note": None}


def _cases(rows: pl.DataFrame, column: str) -> Array:
    return rows[column].cast(pl.String).fill_null("").to_numpy().astype(str)


def _amounts(rows: pl.DataFrame, portfolio: Portfolio) -> Array:
    """What each row would lose (N,); 1 where the portfolio does not say."""
    column = portfolio.columns.ead
    return np.ones(rows.height) if column is None else rows[column].fill_null(0.0).to_numpy()
