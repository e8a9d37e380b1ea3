"""Calibration: the level that nights follow, back-tested grades, and groups that no model may see."""

from metarisk.evidence import words_of
from metarisk.job.champion import load_card
from metarisk.pages.cards.model import Section, section, with_interval
from metarisk.pages.subjects import RegisteredModel
from metarisk.record import models

_METRICS = ("ece", "calibration_in_the_large", "log_level", "bias")


def _gather(model: RegisteredModel) -> Section:
    rule, own = load_card(model.context, model.model_id).level, ("walk_forward", model.row["recipe"], "all")
    sentences = [
        f"Nights follow the level of the latest {rule.months} known months."
        if rule.months
        else "The level is left as the model found it."
    ]
    sentences += [
        f"{words_of(row['metric'])} on judged rows: {with_interval(row)}."
        for row in model.evidence
        if (row["protocol"], row["candidate"], row["slice"]) == own and row["metric"] in _METRICS
    ]
    rows = [
        {
            "back-tested grades": row["status"],
            "cohorts and grades": f"{row['n']:,}",
            "rows": f"{row['rows']:,}",
            "events": f"{row['events']:,}",
            "expected": f"{row['expected']:,.1f}",
        }
        for row in models.grade_backtests(model.context.warehouse, model.model_id)
    ]
    if not rows:
        sentences.append("No published score has a known outcome yet.")
    sentences += [
        f"{row['slice']}: {row['metric'].replace('_', ' ')} {with_interval(row)}."
        for row in model.evidence
        if row["protocol"] == "fairness"
    ]
    return Section("Calibration", sentences, rows)


CARD = section(60, _gather)
