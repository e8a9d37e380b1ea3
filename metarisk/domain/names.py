"""Names of columns and tables: our own, quoting those that data bring, and guessing what was meant."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from metarisk.domain.errors import ConfigError

MISSING = "(missing)"
"""What a null stands as in a segment, a group or a category, so that its rows are counted like any others."""
PERIODS = "__periods"
"""Column of labelled rows: the periods of the horizon that a row has been at risk, up to its event."""


def quoted(identifier: str) -> str:
    """An SQL identifier in double quotes: the one place that quotes names. Raises ConfigError on an unusable one."""
    if not identifier or "\0" in identifier:
        raise ConfigError(
            f"{identifier!r} cannot name a table or column", remedy="give it a name without NUL characters"
        )
    return '"' + identifier.replace('"', '""') + '"'


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """` (did you mean 'x'?)` for error texts, or nothing when no known word is close."""
    close = get_close_matches(word, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
