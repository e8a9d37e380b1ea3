"""SQL text: quoting, `$name` parameters, and the one-statement and one-SELECT rules.

Everything that becomes part of a statement passes `quote_identifier` or `literal`. No database is known here: what
these rules let through is refused again by the read-only connection that runs it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime

from metarisk.domain import ConfigError, DataError, Scalar, quoted

_MAX_IDENTIFIER_BYTES = 63  # PostgreSQL cuts longer names silently, so two tables could become one
_TOKEN = re.compile(
    r"""
      (?P<comment>--[^\n]*)
    | (?P<open>/\*)
    | (?P<string>[eE]'(?:[^'\\]|\\.|'')*'|'(?:[^']|'')*')
    | (?P<quoted>"(?:[^"]|"")*")
    | (?P<dollar>\$\$.*?\$\$|\$(?P<tag>[A-Za-z_]\w*)\$.*?\$(?P=tag)\$)
    | (?P<parameter>\$[A-Za-z_]\w*)
    | (?P<word>[^\W\d][\w$]*)
    | (?P<end>;)
    | (?P<space>\s+)
    | (?P<other>.)
    """,
    re.VERBOSE | re.DOTALL,
)
_COMMENT_EDGE = re.compile(r"/\*|\*/")
ZONE_REMEDY = "set `timezone` in the portfolio's TOML to a name that the warehouse knows, or update its time zone data"
_READS = frozenset({"select", "with", "values", "table", "from"})


def quote_identifier(name: str) -> str:
    """The name as a quoted SQL identifier. Raises ConfigError where a database could not hold it unchanged."""
    if not name or "\0" in name or not _encodable(name) or len(name.encode()) > _MAX_IDENTIFIER_BYTES:
        raise ConfigError(
            f"{name[:80]!r} cannot name a table or column",
            remedy=f"use 1 to {_MAX_IDENTIFIER_BYTES} bytes of UTF-8 without NUL",
        )
    return quoted(name)


def split_table(table: str) -> tuple[str, str]:
    """`schema.table` as its two names, unquoted. Raises ConfigError where one is missing."""
    schema, dot, name = table.partition(".")
    if not dot or not schema or not name:
        raise ConfigError(f"{table!r} does not name a table", remedy="write schema.table, such as source.loans")
    return schema, name


def quote_table(table: str) -> str:
    """`schema.table` quoted."""
    schema, name = split_table(table)
    return f"{quote_identifier(schema)}.{quote_identifier(name)}"


def source_table(table: str) -> str:
    """The name as `source.<table>`. Raises ConfigError for a table of any other schema."""
    named = table if "." in table else f"source.{table}"
    if split_table(named)[0] != "source":
        raise ConfigError(
            f"{table} is not in the schema source", remedy="load into source.<table>; migrations own the rest"
        )
    return named


def exists_already(table: str) -> ConfigError:
    """The error of a load that would take the place of a table without being told so."""
    return ConfigError(f"{table} exists", remedy="say --append to add rows to it, or --replace to take its place")


def literal(value: Scalar) -> str:
    """The value as a typed SQL literal that DuckDB and PostgreSQL read alike.

    Text holds no NUL and no lone surrogate (PostgreSQL cannot store them), integers fit 64 bits; else DataError.
    """
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, int):
        if not -(2**63) <= value < 2**63:
            raise DataError(f"the integer {value} does not fit 64 bits", remedy="pass it as text")
        return f"CAST('{value}' AS BIGINT)"
    if isinstance(value, float):
        text = repr(float(value)) if math.isfinite(value) else _NOT_FINITE[str(float(value))]
        return f"CAST('{text}' AS DOUBLE PRECISION)"
    if isinstance(value, datetime):
        if value.tzinfo is None:
            return f"TIMESTAMP '{value.isoformat(sep=' ')}'"
        return f"TIMESTAMPTZ '{value.astimezone(UTC).isoformat(sep=' ')}'"
    if isinstance(value, date):
        return f"DATE '{value.isoformat()}'"
    if isinstance(value, str):
        return _text(value)
    raise DataError(
        f"a {type(value).__name__} cannot be a parameter", remedy="pass text, a number, a date, a time or None"
    )


_NOT_FINITE = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}


def _text(value: str) -> str:
    if "\0" in value or not _encodable(value):
        raise DataError(
            f"text with a NUL or a lone surrogate cannot be stored: {value[:40]!r}",
            remedy="remove the character at the source",
        )
    quoted = value.replace("'", "''")
    # The E'' form reads the same whatever standard_conforming_strings says.
    return "E'" + quoted.replace("\\", "\\\\") + "'" if "\\" in value else f"'{quoted}'"


def _encodable(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)


def tokens(sql: str) -> Iterator[tuple[str, str]]:
    """(kind, text) from left to right; kinds are the group names of the pattern, nested comments one `comment`."""
    at = 0
    while at < len(sql):
        match = _TOKEN.match(sql, at)
        assert match is not None  # noqa: S101 - `other` takes any character
        kind = match.lastgroup or "dollar"
        if match["dollar"] is not None:
            kind = "dollar"
        end = _comment_end(sql, match.end()) if kind == "open" else match.end()
        yield ("comment" if kind == "open" else kind), sql[at:end]
        at = end


def _comment_end(sql: str, at: int) -> int:
    depth = 1
    for edge in _COMMENT_EDGE.finditer(sql, at):
        depth += 1 if edge.group() == "/*" else -1
        if depth == 0:
            return edge.end()
    return len(sql)


def split(sql: str) -> list[str]:
    """The statements of a script, without comments and closing semicolons."""
    statements, current = [], [""]
    for kind, text in tokens(sql):
        if kind == "end":
            statements.append("".join(current).strip())
            current = [""]
        else:
            current.append(" " if kind == "comment" else text)
    statements.append("".join(current).strip())
    return [statement for statement in statements if statement]


def render(sql: str, parameters: Mapping[str, Scalar] | None = None) -> str:
    """One statement with each `$name` replaced by its literal. Raises ConfigError for none, several or a missing name.

    Literals and not bound parameters, because PostgreSQL streams only statements without parameters through ADBC.
    """
    values, missing = dict(parameters or {}), set()
    parts = []
    for kind, text in tokens(_only(split(sql), sql)):
        if kind == "parameter" and text[1:] not in values:
            missing.add(text)
        parts.append(literal(values[text[1:]]) if kind == "parameter" and text[1:] in values else text)
    if missing:
        known = ", ".join(f"${name}" for name in sorted(values)) or "none"
        raise ConfigError(
            f"the SQL uses {', '.join(sorted(missing))}, which is not given ({known} here): {shorten(sql)}",
            remedy="use only the parameters that are given, or quote the dollar sign",
        )
    return "".join(parts)


def render_select(sql: str, parameters: Mapping[str, Scalar] | None = None) -> str:
    """`render`, for a statement that begins as a SELECT does. Raises ConfigError for any other."""
    statement = render(sql, parameters)
    first = next((text.lower() for kind, text in tokens(statement) if kind != "space" and text != "("), "")
    if first not in _READS:
        raise ConfigError(f"this is no SELECT: {shorten(sql)}", remedy="write one SELECT or WITH ... SELECT")
    return statement


def _only(statements: list[str], sql: str) -> str:
    if len(statements) != 1:
        raise ConfigError(
            f"one SQL statement is expected, {len(statements)} came: {shorten(sql)}",
            remedy="keep one statement and quote semicolons in text",
        )
    return statements[0]


def shorten(sql: str) -> str:
    """The beginning of a statement on one line, for errors."""
    line = " ".join(sql.split())
    return line if len(line) <= 80 else line[:77] + "..."
