"""What the command line shows of a published night's drift: the same findings and pictures as the page."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from metarisk.domain import DataError, did_you_mean
from metarisk.drift import TESTS
from metarisk.job.archive import require_rows
from metarisk.job.context import Context
from metarisk.job.published import require_standing
from metarisk.job.run import run_folder
from metarisk.pages.cards.drift.worst import feature_shares
from metarisk.record import drift as records
from metarisk.steps.alerts import what
from metarisk.steps.drift import WORST


def worst(context: Context) -> list[dict[str, Any]]:
    """The findings of the night that are not ok, the worst ten."""
    rows = records.findings(context.warehouse, _published(context)["run_id"])
    return [row for row in rows if row["metric"] in TESTS and row["status"] not in ("ok", "blind")][:WORST]


def alerts(context: Context) -> list[dict[str, Any]]:
    """Open alerts of the portfolio, the oldest first, as a table."""
    return [
        {
            "alert": row["alert_id"], "segment": row["segment"] or "whole portfolio", "what": what(row),
            "status": row["status"], "since": str(row["opened_as_of"]), "detail": row["detail"] or "",
            "state": _state(row),
        }
        for row in records.open_alerts(context.warehouse, context.job.portfolio)
    ]  # fmt: skip


def feature(context: Context, name: str, segment: str | None) -> dict[str, Any]:
    """A feature before and now, and what the night found of it, in a segment or in the whole portfolio.

    Raises:
        DataError: the night is not published, was pruned, or did not judge that feature there.
    """
    publication = _published(context)
    known = records.findings(context.warehouse, publication["run_id"])
    features = sorted({row["feature"] for row in known if row["feature"] and row["metric"] == "psi"})
    if name not in features:
        raise DataError(
            f"the night did not watch a feature {name!r}{did_you_mean(name, features)}",
            portfolio=context.job.portfolio,
            on=context.job.as_of,
            remedy=f"choose one of {', '.join(features) or 'none: run the weekly first'}",
        )
    rows = [row for row in known if row["feature"] == name and row["segment"] == segment]
    if not rows:
        raise DataError(
            f"{name} was not judged in segment {segment!r} by itself", portfolio=context.job.portfolio,
            on=context.job.as_of, remedy="leave --segment out, or name one of the view drift_current",
        )  # fmt: skip
    folder = run_folder(context, publication["run_id"]) / "drift"
    found = feature_shares(context, publication["model_id"], folder, segment, name)
    return {
        "feature": name,
        "segment": segment or "the whole portfolio",
        "sides": [asdict(side) for side in found],
        "findings": [f"{row['status']}: {sentence(row)}" for row in rows],
    }


def sentence(row: Mapping[str, Any]) -> str:
    """A row of `drift_metric` in words."""
    numbers = ", ".join(f"{name} {row[name]:.3g}" for name in ("value", "effect", "q") if row[name] is not None)
    where = row["segment"] or "the whole portfolio"
    about = f"{row['feature']} in {where}" if row["feature"] else where
    return f"{about}: {row['metric']} {numbers}{'; ' if row['detail'] and numbers else ''}{row['detail'] or ''}"


def _state(row: Mapping[str, Any]) -> str:
    seen = f", acknowledged by {row['acknowledged_by']}" if row["acknowledged_by"] else ""
    return seen + (f", muted until {row['muted_until']}" if row["muted_until"] else "")


def _published(context: Context) -> Mapping[str, Any]:
    found = require_standing(context)
    require_rows(context, found["run_id"], context.job.as_of, "drift_metric")
    return found
