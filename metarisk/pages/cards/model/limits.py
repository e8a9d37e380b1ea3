"""Limits: where it leans on others, when it is too old, and what it does not tell."""

from metarisk.job.champion import load_model
from metarisk.pages.cards.model import Section, section
from metarisk.pages.subjects import RegisteredModel


def _gather(model: RegisteredModel) -> Section:
    portfolio = model.context.portfolio
    limits = portfolio.thresholds
    sentences = [
        f"A segment with fewer than {limits.min_support_rows} rows or {limits.min_support_events} "
        f"{'event' if limits.min_support_events == 1 else 'events'} leans on its parents and the pool; "
        "one that nobody has seen is scored by them alone.",
        f"Older than {limits.max_model_age_days} days it is too old, and nights say so.",
    ]
    if load_model(model.context, model.model_id).recipe.hazard:
        sentences.append(f"It tells nothing beyond its horizon, {portfolio.horizon}.")
    sentences += [
        f"{row['value']:.1%} of the {row['rows']:,} riskiest rows have another first reason than before."
        for row in model.evidence
        if row["metric"] == "first_reason_changed"
    ]
    return Section("Limits", sentences)


CARD = section(70, _gather)
