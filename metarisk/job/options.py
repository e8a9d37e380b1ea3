"""What a portfolio says of its risk type's options."""

from __future__ import annotations

from collections.abc import Mapping

from metarisk.domain import ConfigError, did_you_mean
from metarisk.job.context import Context


def options(context: Context) -> Mapping[str, object]:
    """The risk type's options, with the portfolio's own; a ConfigError for one that the risk type does not have."""
    known = context.spec.options
    for name, value in context.portfolio.options.items():
        if name not in known:
            raise ConfigError(
                f"portfolios/{context.portfolio.name}.toml: risk type {context.spec.name} has no option {name!r}"
                f"{did_you_mean(name, known)}",
                portfolio=context.portfolio.name,
                remedy=f"use one of {', '.join(known)}" if known else "take [options] out",
            )
        wanted = float if isinstance(known[name], float) else type(known[name])
        if not isinstance(value, (int, float) if wanted is float else wanted):
            raise ConfigError(
                f"portfolios/{context.portfolio.name}.toml: option {name!r} is {value!r}, not like {known[name]!r}",
                portfolio=context.portfolio.name,
                remedy="correct it in [options]",
            )
    return dict(known) | dict(context.portfolio.options)
