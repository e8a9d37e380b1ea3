"""Features: their kinds, directions, and what training saw of them."""

from metarisk.features import Encoder
from metarisk.job.champion import load_model
from metarisk.pages.cards.model import Section, number, section
from metarisk.pages.subjects import RegisteredModel

_SIGNS = {1: "never lowers the score", -1: "never raises the score", 0: "free"}


def _gather(model: RegisteredModel) -> Section:
    encoder: Encoder = load_model(model.context, model.model_id).encoder
    declared, ranges, rows = model.context.portfolio.features, model.taught.get("ranges", {}), []
    for (name, kind), sign in zip(encoder.kinds.items(), encoder.monotone, strict=True):
        if kind == "categorical":
            span = f"{len(encoder.levels[name])} levels"
        else:
            span = " to ".join(_short(value) for value in ranges.get(name, ()))
        about = declared[name].description if name in declared else ""
        rows.append({"feature": name, "kind": kind, "more of it": _SIGNS[sign], "in training": span, "about": about})
    return Section("Features", rows=rows)


def _short(value: str) -> str:
    try:
        return number(float(value))
    except ValueError:
        return value


CARD = section(30, _gather)
