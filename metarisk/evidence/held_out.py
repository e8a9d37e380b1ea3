"""What a recipe makes of segments that it was not trained on, by the events it is shown of each."""

from collections.abc import Sequence

import polars as pl

from metarisk.domain import Portfolio, RiskSpec
from metarisk.evidence.losses import blocks_of
from metarisk.metrics import Interval, judge_of, paired_bootstrap
from metarisk.tasks import LABEL, tells

PROTOCOL = "held_out_segments"
MIN_EVENTS = 10
"""Judged events below which a slice is left out."""


def held_out_rows(
    judged: pl.DataFrame, recipe: str, baselines: Sequence[str], portfolio: Portfolio, spec: RiskSpec
) -> list[dict[str, object]]:
    """Rows for the warehouse's `evidence` table: losses, and the recipe's minus those of baselines, by k.

    `judged` is what judging.held_out gives. Fewer than MIN_EVENTS events of a slice tell nothing: it is left out.
    """
    rows: list[dict[str, object]] = []
    judge = judge_of(spec.likelihood)
    for part in judged.partition_by("k", maintain_order=True) if judged.height else []:
        y = part[LABEL].to_numpy()
        told = int(tells(y, spec).sum())
        if told < MIN_EVENTS or (spec.label == "event" and len(y) - told < MIN_EVENTS):
            continue
        blocks = blocks_of(part, portfolio)
        losses = {name: judge.of(part[name].to_numpy(), y) for name in (recipe, *baselines)}
        values = part[portfolio.columns.segments[0]].n_unique()
        about = {"protocol": PROTOCOL, "slice": part["fold"][0], "rows": len(y), "events": told}
        about |= {"note": f"{values} values of {portfolio.columns.segments[0]}, never trained on"}
        for name, loss in losses.items():
            rows.append(about | {"candidate": name, "metric": judge.loss} | _numbers(float(loss.mean())))
        for name in baselines:
            found = paired_bootstrap(losses[recipe] - losses[name], blocks)
            rows.append(about | {"candidate": recipe, "metric": f"loss_minus_{name}"} | _numbers(found))
    return rows


def _numbers(value: float | Interval) -> dict[str, object]:
    if isinstance(value, Interval):
        return {"value": value.mean, "low": value.low, "high": value.high}
    return {"value": value, "low": None, "high": None}


def held_out_table(rows: Sequence[dict[str, object]]) -> list[dict[str, object]]:
    """The same as people read it: one line a k, differences x 1e-4."""
    lines: dict[str, dict[str, object]] = {}
    for row in rows:
        line = lines.setdefault(str(row["slice"]), {"": row["slice"], "rows": row["rows"], "events": row["events"]})
        value, low, high = (row[bound] for bound in ("value", "low", "high"))
        if isinstance(value, float) and isinstance(low, float) and isinstance(high, float):
            name = str(row["metric"]).removeprefix("loss_")
            line[f"{row['candidate']} {name}"] = f"{1e4 * value:+.1f} [{1e4 * low:+.1f}, {1e4 * high:+.1f}]"
    return list(lines.values())
