"""Settings of learners, looked at where they are made: a value that would silently act as another is refused."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from metarisk.domain import ConfigError


def require_choice(name: str, value: object, choices: Iterable[object]) -> None:
    """Raise ConfigError unless a setting is one of its choices (`typing.get_args` gives those of a Literal)."""
    known = list(choices)
    if value not in known:
        words = ", ".join(str(choice) for choice in known)
        raise ConfigError(f"{name} must be one of {words}, got {value}", remedy=f"set {name} to one of {words}")


def require_range(
    name: str,
    value: Any,
    *,
    above: float | None = None,
    least: float | None = None,
    most: float | None = None,
    below: float | None = None,
) -> None:
    """Raise ConfigError unless a setting is a number inside its bounds; NaN and what is no number never are.

    Args:
        name: of the setting.
        value: that it has.
        above, least: open or closed lower bound; None for neither is no bound.
        most, below: closed or open upper bound.
    """
    bounds = (("> ", above), (">= ", least), ("<= ", most), ("< ", below))
    words = " and ".join(f"{sign}{bound}" for sign, bound in bounds if bound is not None)
    inside = isinstance(value, (int, float)) and (
        (above is None or value > above)
        and (least is None or value >= least)
        and (most is None or value <= most)
        and (below is None or value < below)
    )
    if not inside or math.isnan(value):
        raise ConfigError(f"{name} must be a number {words}, got {value}", remedy=f"set {name} {words}")
