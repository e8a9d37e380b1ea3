"""Every configuration that a week judged out of sample: kept in `metarisk.trial`, and read back by nights."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import polars as pl

from metarisk.domain import Transaction, WeekView
from metarisk.job.context import Context
from metarisk.job.identity import configuration
from metarisk.job.options import options
from metarisk.job.run import Checked, scan
from metarisk.record.appending import append_frame

_KNOWN = """
SELECT t.as_of, t.recipe, t.configuration, t.metric, t.value, t.low, t.high, t.note
FROM metarisk.trial AS t
JOIN metarisk.model AS m ON m.model_id = $model_id
WHERE t.portfolio = $portfolio AND t.recorded_at <= m.created_at AND t.as_of <= m.as_of
ORDER BY t.as_of, t.recorded_at, t.recipe, t.configuration, t.metric
"""
_SCHEMA = {"as_of": pl.Date, **dict.fromkeys(("recipe", "configuration", "metric"), pl.String)}
_SCHEMA |= {**dict.fromkeys(("value", "low", "high"), pl.Float64), "note": pl.String}


def known_trials(context: Context, model_id: str) -> pl.DataFrame:
    """Trials that had been recorded when the model was registered, its week's too; so a replay reads the same."""
    rows = context.warehouse.rows(_KNOWN, {"model_id": model_id, "portfolio": context.job.portfolio})
    return pl.DataFrame(rows, schema=_SCHEMA, orient="row")


def keep_trials(
    context: Context,
    transaction: Transaction,
    judged: pl.DataFrame,
    names: Sequence[str],
    checked: Checked,
    model_id: str,
    now: datetime,
) -> None:
    """Append what the risk type says of each configuration that was judged; nothing where it keeps no trials."""
    portfolio, ask = context.portfolio, context.spec.trials
    if ask is None or judged.is_empty():
        return
    keys = [portfolio.columns.entity, portfolio.columns.opened_on]
    numbers = scan(context, checked).select(*keys, *portfolio.columns.numbers).collect(engine="streaming")
    rows = judged.join(numbers, on=keys, how="left", maintain_order="left")
    found = ask(WeekView(portfolio, options(context), rows, tuple(names)))
    about = {"model_id": model_id, "portfolio": portfolio.name, "as_of": context.job.as_of}
    about |= {"configuration": configuration(context), "recorded_at": now}
    append_frame(transaction, "metarisk.trial", found.with_columns(pl.lit(v).alias(k) for k, v in about.items()))
