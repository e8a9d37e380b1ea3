"""Features that tell the outcome by themselves: something that was not known when the row was opened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl

from metarisk.bases import encode, relative_rates, values_of
from metarisk.domain import Array, Portfolio
from metarisk.features import Encoder
from metarisk.metrics import auc
from metarisk.tasks import LABEL

SURE_LEAK = 0.95
"""No honest feature ranks by itself as well as this."""
ODD_AUC, ODD_LEAD = 0.80, 0.15
"""Nor as well as this, so far ahead of every other feature."""
MIN_EVENTS = 10
"""Fewer events among the newer rows tell nothing about a feature."""


def single_feature_auc(older: pl.DataFrame, newer: pl.DataFrame, portfolio: Portfolio) -> dict[str, float]:
    """AUC on the newer rows of each feature alone: of its values in either direction, missing ones at either end.

    Categories are ranked by their event rates among the older rows.
    """
    y = newer[LABEL].to_numpy()
    if min(y.sum(), len(y) - y.sum()) < MIN_EVENTS:
        return {}
    encoder = Encoder.fit(older, portfolio.features, portfolio.columns.opened_on)
    values = encoder.raw(newer)
    found = {}
    for place, (name, feature) in enumerate(portfolio.features.items()):
        if feature.kind == "categorical":
            known = older[LABEL].to_numpy()
            rates = relative_rates(values_of(older, name), known, np.full(len(known), known.mean()))
            found[name] = auc(encode(values_of(newer, name), rates), y)
        else:
            found[name] = max(_either_way(np.nan_to_num(values[:, place], nan=end), y) for end in (-np.inf, np.inf))
    return found


def leaks(found: Mapping[str, float]) -> list[str]:
    """Names of the features that rank too well to be honest."""
    ordered = sorted(found.values(), reverse=True)
    return [
        name
        for name, value in found.items()
        if value >= SURE_LEAK or (value >= ODD_AUC and value == ordered[0] and value - [*ordered, 0.5][1] >= ODD_LEAD)
    ]


def leak_warnings(found: Mapping[str, float]) -> tuple[str, ...]:
    """One sentence a feature that may leak."""
    return tuple(
        f"feature {name} may tell the outcome: by itself it ranks validation rows with an AUC of {found[name]:.3f}; "
        "make sure that the extract gives its value as it was known when the row was opened"
        for name in leaks(found)
    )


def feature_rows(found: Mapping[str, float], newer: pl.DataFrame) -> Sequence[dict[str, object]]:
    """Rows for the warehouse's `evidence` table, one a feature."""
    suspects = leaks(found)
    about: dict[str, object] = {
        "protocol": "features",
        "slice": "all",
        "metric": "single_feature_auc",
        "low": None,
        "high": None,
    }
    about |= {"rows": newer.height, "events": int(newer[LABEL].sum())}
    return [
        about | {"candidate": name, "value": value, "note": "may tell the outcome" if name in suspects else ""}
        for name, value in found.items()
    ]


def _either_way(values: Array, y: Array) -> float:
    area = auc(np.clip(values, -1e300, 1e300), y)
    return max(area, 1 - area)
