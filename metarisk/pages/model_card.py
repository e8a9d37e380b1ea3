"""The model card of a weekly model, from its files and from what its week left in the warehouse."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

from metarisk import evidence as evidences
from metarisk import registry, report
from metarisk.domain import WHOLE_BOOK, ConfigError
from metarisk.features import Encoder
from metarisk.job.champion import load_card, load_model
from metarisk.job.context import Context
from metarisk.job.inputs import TAUGHT
from metarisk.job.states import BACKFILL, WEEKLY
from metarisk.job.storage import from_registry
from metarisk.record import models as records

_SIGNS = {1: "never lowers the score", -1: "never raises the score", 0: "free"}
_MODES = {
    WEEKLY: WEEKLY,
    BACKFILL: "backfill: trained after its time; proves nothing to later weeks unless the source is bitemporal",
}
_CALIBRATION = ("ece", "calibration_in_the_large", "log_level", "bias")
SHOWN_SEGMENTS = 10
"""Largest, and thinnest, segments on a card."""


def write_card(context: Context, model_id: str) -> tuple[Path, Path]:
    """Write `model-ID.md` and `model-ID.html` beside the report pages; a new state of the model is in the next ones.

    Raises:
        ConfigError: the portfolio has no such model.
        ModelError: its files are damaged, or of another version.
    """
    row, portfolio = records.model(context.warehouse, model_id), context.portfolio
    if row is None or row["portfolio"] != portfolio.name:
        raise ConfigError(
            f"there is no model {model_id}",
            portfolio=context.job.portfolio,
            remedy="take the id from the week's report, or from view metarisk.model_current",
        )
    states, backtests = (find(context.warehouse, model_id) for find in (records.states, records.grade_backtests))
    order = itemgetter("protocol", "candidate", "slice", "metric")
    evidence = sorted(records.evidence(context.warehouse, model_id), key=order)
    manifest = from_registry(context, model_id, registry.manifest)
    facts = {
        "model": model_id,
        "portfolio": f"{portfolio.name}: {portfolio.title}" if portfolio.title else portfolio.name,
        "predicts": f"{portfolio.target.name}, {context.spec.unit_of(portfolio)}",
        "recipe": row["recipe"],
        "labels until": str(row["as_of"]),
        "trained": f"{row['created_at']:%Y-%m-%d %H:%M %Z}".strip(),
        "mode": _MODES[row["mode"] or WEEKLY],
        "state": f"{states[-1]['state']}, by {states[-1]['by_whom']}" if states else "unknown",
    }
    sections = [
        _approvals(states),
        _data(context, manifest["about"].get(TAUGHT, {}), model_id),
        _features(context, model_id, manifest["about"].get(TAUGHT, {}).get("ranges", {})),
        _evidence(evidence, row["recipe"]),
        _segments(evidence),
        _calibration(context, model_id, row["recipe"], evidence, backtests),
        _limits(context, model_id, evidence),
        report.Section("Hashes", rows=_hashes(row, manifest)),
    ]
    card = report.ModelCard(f"Model {model_id} of {portfolio.title or portfolio.name}", facts, sections)
    folder = context.settings.data_dir / "reports" / portfolio.name
    folder.mkdir(parents=True, exist_ok=True)
    paths = folder / f"model-{model_id}.md", folder / f"model-{model_id}.html"
    for path, text in zip(paths, (report.card_markdown(card), report.card_html(card)), strict=True):
        path.write_text(text, encoding="utf-8")
    return paths


def _approvals(states: Sequence[Mapping[str, Any]]) -> report.Section:
    rows = [
        {
            "state": row["state"],
            "since": f"{row['since']:%Y-%m-%d %H:%M}",
            "by": row["by_whom"],
            "why": row["reason"] or "",
        }
        for row in states
    ]
    return report.Section("Who approved it", rows=rows)


def _data(context: Context, kept: Mapping[str, Any], model_id: str) -> report.Section:
    model = load_model(context, model_id)
    parents = context.portfolio.columns.segments
    sentences = [f"{len(model.segments):,} segments of {' x '.join(parents)} taught it."]
    if parents == (WHOLE_BOOK,):
        sentences = ["The whole book, which has no segments, taught it."]
    if kept:
        opened = " to ".join(kept["opened"])
        what = "at risk, mature or not," if model.recipe.hazard else "whose outcome was known"
        sentences.insert(
            0, f"{kept['rows']:,} rows {what} opened {opened}, with labels as they were known at the cut-off."
        )
    if context.portfolio.columns.protected:
        sentences.append(f"Never an input: {', '.join(context.portfolio.columns.protected)}.")
    return report.Section("Data", sentences)


def _features(context: Context, model_id: str, ranges: Mapping[str, Sequence[str]]) -> report.Section:
    encoder: Encoder = load_model(context, model_id).encoder
    declared = context.portfolio.features
    rows = []
    for (name, kind), sign in zip(encoder.kinds.items(), encoder.monotone, strict=True):
        if kind == "categorical":
            span = f"{len(encoder.levels[name])} levels"
        else:
            span = " to ".join(_short(value) for value in ranges.get(name, ()))
        about = declared[name].description if name in declared else ""
        rows.append({"feature": name, "kind": kind, "more of it": _SIGNS[sign], "in training": span, "about": about})
    return report.Section("Features", rows=rows)


def _evidence(evidence: Sequence[Mapping[str, Any]], recipe: str) -> report.Section:
    forward = [row for row in evidence if row["protocol"] == "walk_forward" and row["slice"] == "all"]
    own = [row for row in forward if row["candidate"] == recipe]
    sentences = []
    if own:
        sentences.append(
            f"On {own[0]['rows']:,} rows with {own[0]['events']:,} events that opened after the labels that taught; "
            f"{own[0]['note']}."
        )
    rows = [{"metric": evidences.words_of(row["metric"]), "value": _interval(row)} for row in own]
    rows += [
        {"metric": f"loss of {row['candidate']} less the opponent's", "value": _interval(row)}
        for row in forward
        if row["metric"] == "loss_minus_opponent" and row["candidate"] != recipe
    ]
    return report.Section("Evidence", sentences or ("Nothing could be judged walking forward.",), rows)


def _segments(evidence: Sequence[Mapping[str, Any]]) -> report.Section:
    """The largest and the thinnest segments among the rows that judged."""
    found = sorted(
        (row for row in evidence if row["protocol"] == "segments"), key=lambda row: (-row["rows"], row["slice"])
    )
    shown = found if len(found) <= 2 * SHOWN_SEGMENTS else [*found[:SHOWN_SEGMENTS], *found[-SHOWN_SEGMENTS:]]
    sentences = (
        [f"{len(found):,} segments judged it, from {found[0]['rows']:,} rows to {found[-1]['rows']:,}."]
        if found
        else []
    )
    if len(shown) < len(found):
        sentences.append(f"Shown are the {SHOWN_SEGMENTS} largest and the {SHOWN_SEGMENTS} thinnest.")
    rows = [
        {
            "segment": row["slice"],
            "rows": f"{row['rows']:,}",
            "events": f"{row['events']:,}",
            "loss less the opponent's": _interval(row),
        }
        for row in shown
    ]
    return report.Section("Segments", sentences or ("No segment was judged against an opponent.",), rows)


def _calibration(
    context: Context,
    model_id: str,
    recipe: str,
    evidence: Sequence[Mapping[str, Any]],
    backtests: Sequence[Mapping[str, Any]],
) -> report.Section:
    rule = load_card(context, model_id).level
    sentences = [
        f"Nights follow the level of the latest {rule.months} known months."
        if rule.months
        else "The level is left as the model found it."
    ]
    sentences += [
        f"{evidences.words_of(row['metric'])} on judged rows: {_interval(row)}."
        for row in evidence
        if (row["protocol"], row["candidate"], row["slice"]) == ("walk_forward", recipe, "all")
        and row["metric"] in _CALIBRATION
    ]
    rows = [
        {
            "back-tested grades": row["status"],
            "cohorts and grades": f"{row['n']:,}",
            "rows": f"{row['rows']:,}",
            "events": f"{row['events']:,}",
            "expected": f"{row['expected']:,.1f}",
        }
        for row in backtests
    ]
    if not rows:
        sentences.append("No published score has a known outcome yet.")
    sentences += [
        f"{row['slice']}: {row['metric'].replace('_', ' ')} {_interval(row)}."
        for row in evidence
        if row["protocol"] == "fairness"
    ]
    return report.Section("Calibration", sentences, rows)


def _limits(context: Context, model_id: str, evidence: Sequence[Mapping[str, Any]]) -> report.Section:
    limits, model = context.portfolio.thresholds, load_model(context, model_id)
    sentences = [
        f"A segment with fewer than {limits.min_support_rows} rows or {limits.min_support_events} "
        f"{'event' if limits.min_support_events == 1 else 'events'} leans on its parents and the pool; "
        "one that nobody has seen is scored by them alone.",
        f"Older than {limits.max_model_age_days} days it is too old, and nights say so.",
    ]
    if model.recipe.hazard:
        sentences.append(f"It tells nothing beyond its horizon, {context.portfolio.horizon}.")
    sentences += [
        f"{row['value']:.1%} of the {row['rows']:,} riskiest rows have another first reason than before."
        for row in evidence
        if row["metric"] == "first_reason_changed"
    ]
    return report.Section("Limits", sentences)


def _hashes(row: Mapping[str, Any], manifest: Mapping[str, Any]) -> list[dict[str, str]]:
    known = {
        "configuration": row["config_hash"],
        "code": row["code_version"],
        "extract": manifest["about"].get("extract", ""),
        "seed": str(manifest["about"].get("seed", "")),
        **manifest["files"],
    }
    return [{"of": name, "hash": value} for name, value in known.items()]


def _interval(row: Mapping[str, Any]) -> str:
    if row["value"] is None:
        return "-"
    if row["low"] is None or row["high"] is None:
        return _number(row["value"])
    return f"{_number(row['value'])} [{_number(row['low'])}, {_number(row['high'])}]"


def _short(value: str) -> str:
    try:
        return _number(float(value))
    except ValueError:
        return value


def _number(value: float) -> str:
    """Four significant digits, in no power of ten where it can be read without."""
    if not 1e-6 <= abs(value) < 1e15:
        return f"{value:.4g}"
    text = f"{value:,.{max(3 - math.floor(math.log10(abs(value))), 0)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
