"""The measure of what scores mean: early labels that are red though estimated performance is green."""

from __future__ import annotations

import polars as pl

from metarisk.drift import early, performance
from metarisk.drift.decide import SCHEMA, SUSPECTED
from metarisk.drift.measure import Measure, Night

METRIC = "concept"


def concept(estimated: pl.DataFrame, known: pl.DataFrame) -> pl.DataFrame:
    """Rows of metric `concept`: where early labels are red though estimated performance is green.

    The scores then look as good as ever, and what they mean has changed: of all segments that early labels could judge.
    """
    calm = pl.col("status").is_in(["watch", "alert"]).any().not_()
    green = estimated.filter(pl.col("metric").str.starts_with("expected_")).group_by("segment").agg(green=calm)
    red = known.filter(pl.col("metric").is_in(["early_events", "early_auc"])).sort("metric", descending=True)
    by_segment = red.group_by("segment", maintain_order=True).agg(
        pl.col("level").first(), pl.col("n_ref").first(), pl.col("n_cur").first(),
        pl.col("min_detectable_ratio").first(), pl.col("status"), pl.col("detail"),
    )  # fmt: skip
    joined = by_segment.join(green, on="segment", how="left", nulls_equal=True, maintain_order="left")
    lines = []
    for row in joined.iter_rows(named=True):
        alerts = [text for status, text in zip(row["status"], row["detail"], strict=True) if status == "alert"]
        suspected = bool(alerts) and row["green"] is not False
        status = SUSPECTED if suspected else "alert" if alerts else row["status"][0]
        words = "; ".join(alerts) if alerts else ""
        lines.append({name: row[name] for name in ("segment", "level", "n_ref", "n_cur", "min_detectable_ratio")}
                     | {"metric": METRIC, "status": status, "detail": words})  # fmt: skip
    return pl.DataFrame(lines, schema=SCHEMA) if lines else pl.DataFrame(schema=SCHEMA)


def _judge(night: Night) -> pl.DataFrame:
    return concept(night.found[performance.MEASURE.name], night.found[early.MEASURE.name])


MEASURE = Measure(METRIC, _judge, labels=frozenset({"event"}), tests=(METRIC,), opening=(METRIC,))
