"""What a score is made from, as it is kept with a model and with a run, and what changed of it, in words.

A portfolio's TOML may change between two nights: features, segments or horizons are added, renamed and removed. What
was made before is then scored with and compared only as far as its inputs are the same.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import polars as pl

from metarisk import registry
from metarisk.domain import ModelError, Portfolio
from metarisk.job.champion import load_model
from metarisk.job.context import Context
from metarisk.job.storage import from_registry

TAUGHT = "taught"
"""In the manifest of a model: what its training rows were."""

INPUTS = "inputs"
"""Key under which manifests of models and of adaptations hold them; those of before this was kept have none."""


def inputs_of(portfolio: Portfolio) -> dict[str, Any]:
    """The inputs that a portfolio's TOML declares, as JSON holds them."""
    columns, target = portfolio.columns, portfolio.target
    horizon = [f"{n} {unit}" for n, unit in ((target.horizon_months, "months"), (target.horizon_days, "days")) if n]
    return {
        "target": target.name,
        "horizon": " and ".join(horizon) or "none",
        "entity": columns.entity,
        "opened_on": columns.opened_on,
        "segments": list(columns.segments),
        "features": {name: feature.kind for name, feature in portfolio.features.items()},
        "loss": [name for name in (columns.lgd, columns.ead) if name is not None],
    }


def inputs_of_model(context: Context, model_id: str) -> dict[str, Any]:
    """The inputs with which a model was taught; of an older model what it shows: its features.

    Raises ModelError where it is not whole.
    """
    kept = from_registry(context, model_id, registry.manifest)["about"].get(INPUTS)
    return dict(kept) if kept is not None else {"features": dict(load_model(context, model_id).encoder.kinds)}


def changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """What is another than then, in words, as far as both say it."""
    before, after = then.get("features", {}), now.get("features", {})
    yield from (f"the feature {name} was added" for name in after if name not in before)
    yield from gone(then, now)
    yield from (
        f"the {noun} {'are' if isinstance(now[key], list) else 'is'} {_listed(now[key])}, before {_listed(then[key])}"
        for key, noun in _NOUNS.items()
        if key in then and key in now and then[key] != now[key]
    )


def gone(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Features of then that are no longer what they were, in words."""
    before, after = then.get("features", {}), now.get("features", {})
    removed = [f"the feature {name} was removed" for name in before if name not in after]
    return removed + [
        f"the feature {name} is {after[name]}, before {kind}"
        for name, kind in before.items()
        if name in after and after[name] != kind
    ]


_NOUNS = {
    "target": "target",
    "horizon": "horizon",
    "segments": "segment columns",
    "entity": "entity column",
    "opened_on": "opening date's column",
    "loss": "columns of the expected loss",
}
_OF_MODELS = ("horizon", "segments")
"""What a model must share with the portfolio beside its features; a target is the same under another name."""


def misfits(context: Context, model_id: str) -> list[str]:
    """Why a model cannot score what the portfolio now declares, in words; none where it can.

    A feature that was added is none: the model does not read it.
    """
    then, now = inputs_of_model(context, model_id), inputs_of(context.portfolio)
    others = {key: then[key] for key in _OF_MODELS if key in then}
    found = [*gone(then, now), *changes(others, {key: now[key] for key in _OF_MODELS})]
    keys = load_model(context, model_id).segments
    if "segments" not in then and keys and len(keys[0]) != len(now["segments"]):
        found.append(f"the segment columns are {_listed(now['segments'])}, before {len(keys[0])} of them")
    return found


def same_horizon(context: Context, model_id: str) -> bool:
    """Whether a model that once scored predicted over the portfolio's horizon, as far as anything says what it did."""
    try:
        then = from_registry(context, model_id, registry.manifest)["about"].get(INPUTS, {})
    except ModelError:  # pruned, or lost
        return True
    now = inputs_of(context.portfolio)["horizon"]
    return bool(then.get("horizon", now) == now)


def require_fit(context: Context, model_id: str) -> None:
    """ModelError where the model cannot score what the portfolio now declares; a warning where it ignores a feature."""
    found = misfits(context, model_id)
    portfolio, as_of = context.job.portfolio, context.job.as_of
    if found:
        read, declared = inputs_of_model(context, model_id)["features"], inputs_of(context.portfolio)["features"]
        blamed = next((name for name, kind in read.items() if declared.get(name) != kind), None)
        raise ModelError(
            f"the champion {model_id} was taught otherwise than the portfolio now declares: {'; '.join(found)}",
            portfolio=portfolio,
            column=blamed,
            on=as_of,
            remedy=f"run `metarisk weekly --portfolio {portfolio} --as-of {as_of}`, which teaches one that fits, or "
            "declare it as before until the next weekly",
        )
    read = inputs_of_model(context, model_id)["features"]
    if ignored := [name for name in context.portfolio.features if name not in read]:
        context.reporter.warn(
            f"{portfolio} {as_of}: the model does not read {', '.join(ignored)} until the next weekly"
        )


def _listed(value: Any) -> str:
    return ", ".join(value) or "none" if isinstance(value, list) else str(value)


def taught(teach: pl.DataFrame, context: Context) -> dict[str, Any]:
    """What a week keeps of its training rows for the card: counts, opening dates, ranges of numbers and dates."""
    columns = context.portfolio.columns
    names = [name for name, feature in context.portfolio.features.items() if feature.kind != "categorical"]
    opened = teach[columns.opened_on]
    return {
        "rows": teach.height,
        "opened": [str(opened.min()), str(opened.max())],
        "ranges": {name: [str(teach[name].min()), str(teach[name].max())] for name in names},
    }
