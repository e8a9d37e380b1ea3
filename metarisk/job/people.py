"""Who decides, and why: asked of every person whose word the warehouse keeps."""

from __future__ import annotations

from metarisk.domain import ConfigError
from metarisk.job.context import Context


def require_person(context: Context, by: str, reason: str | None = None) -> None:
    """Raise ConfigError where a decision names nobody, or gives a blank reason: the warehouse keeps both for ever.

    `reason` is None where the decision itself says why, as a reviewer's verdict does.
    """
    for what, said, remedy in (("who decides", by, "a name by --by"), ("why", reason, "a --reason")):
        if said is not None and not said.strip():
            raise ConfigError(f"nothing says {what}", portfolio=context.job.portfolio, remedy=f"give {remedy}")
