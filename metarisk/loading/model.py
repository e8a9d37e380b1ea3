"""What `metarisk load` is asked for, and what it understood of a file."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from metarisk.domain import ConfigError, did_you_mean


def counted(count: int, noun: str) -> str:
    """`1 row`, `2,000 rows`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


@dataclass(frozen=True)
class Limits:
    """What reading may use: threads, MiB of DuckDB's memory, and a folder for what is decoded."""

    threads: int
    memory_mb: int
    scratch: Path


@dataclass(frozen=True)
class Wanted:
    """A type that somebody asked for, with a format where its text needs one."""

    type: str
    format: str = ""


@dataclass(frozen=True)
class Options:
    """What a person says about a file; what is left out is found out."""

    encoding: str | None = None
    delimiter: str | None = None
    quote: str | None = None
    """One character, or `none`."""
    header: bool | None = None
    sheet: str | None = None
    flatten: bool = False
    types: Mapping[str, Wanted] = field(default_factory=dict)
    table: Mapping[str, Wanted] = field(default_factory=dict)
    """Types of the table that the rows join, for the columns that the files have."""
    keep_rejects: bool = False
    """Whether rows that cannot be read are set aside; otherwise they stop the load."""

    @property
    def wanted(self) -> dict[str, Wanted]:
        """The type of each column that has to have one."""
        return {**self.table, **self.types}


@dataclass(frozen=True)
class Reject:
    """A row that was not loaded."""

    file: str
    place: str
    """`line 7` of a text file, or `row 7` where lines are unknown: the seventh below the header."""
    why: str
    text: str


@dataclass(frozen=True)
class Column:
    """One column as it was understood."""

    name: str
    type: str
    nulls: int
    distinct: int
    distinct_is_exact: bool
    example: str
    conversion: str
    """How its cells were read, and what a person should know of it."""


@dataclass
class Understood:
    """What was found in files, before any of it is loaded."""

    files: list[str]
    kind: str
    """`text, UTF-8, separated by ;`, `Parquet`, ..."""
    rows: int = 0
    columns: list[Column] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    """Columns that are not loaded, with the reason."""
    rejects: list[Reject] = field(default_factory=list)
    rejected: int = 0
    """Rows that were not loaded; `rejects` may hold the first of them only."""
    notes: list[str] = field(default_factory=list)


_ALIASES = {
    "TEXT": "VARCHAR", "STRING": "VARCHAR", "CHARACTER": "VARCHAR", "CHARACTER VARYING": "VARCHAR",
    "VARCHAR": "VARCHAR",
    "INTEGER": "BIGINT", "INT": "BIGINT", "SMALLINT": "BIGINT", "TINYINT": "BIGINT", "BIGINT": "BIGINT",
    "DOUBLE": "DOUBLE PRECISION", "FLOAT": "DOUBLE PRECISION", "REAL": "DOUBLE PRECISION",
    "DOUBLE PRECISION": "DOUBLE PRECISION", "BOOL": "BOOLEAN", "BOOLEAN": "BOOLEAN", "DATE": "DATE",
    "DATETIME": "TIMESTAMP", "TIMESTAMP": "TIMESTAMP", "TIMESTAMP WITHOUT TIME ZONE": "TIMESTAMP",
    "TIMESTAMPTZ": "TIMESTAMPTZ", "TIMESTAMP WITH TIME ZONE": "TIMESTAMPTZ",
}  # fmt: skip
TYPES = ("VARCHAR", "BIGINT", "DOUBLE", "DECIMAL(p,s)", "BOOLEAN", "DATE", "TIMESTAMP", "TIMESTAMPTZ")


def wanted_type(text: str, column: str) -> Wanted:
    """A type as somebody writes it, such as `DATE:%d/%m/%Y`. Raises ConfigError for one that is not offered."""
    written, _, form = text.strip().partition(":")
    kind = " ".join(written.upper().split())
    if kind in ("DECIMAL", "NUMERIC"):
        return Wanted("DECIMAL")  # of the scale that the values have
    decimal = kind.replace("NUMERIC", "DECIMAL").removeprefix("DECIMAL").strip("() ").split(",")
    if kind.startswith(("DECIMAL", "NUMERIC")) and all(part.strip().isdigit() for part in decimal) and len(decimal) < 3:
        precision, scale = int(decimal[0]), int(decimal[1]) if len(decimal) > 1 else 0
        if 1 <= precision <= 38 and scale <= precision and not form:
            return Wanted(f"DECIMAL({precision}, {scale})")
    found = _ALIASES.get(kind)
    formats = {"DATE": "%", "TIMESTAMP": "%", "DOUBLE PRECISION": "pc"}
    if found is None or (form and (form[0] not in formats.get(found, "") or _unusable(found, form))):
        raise ConfigError(
            f"{text.strip()!r} is no type that is offered for column {column}{did_you_mean(kind, _ALIASES)}",
            remedy=f"use {', '.join(TYPES)}; DATE:%d/%m/%Y and TIMESTAMP:%d.%m.%Y %H:%M say a format, "
            "DATE:%d/%m/%y@2030 that of years until 2030, DOUBLE:comma and DOUBLE:point a decimal mark",
        )
    return Wanted(found, form)


def _unusable(kind: str, form: str) -> bool:
    if kind == "DOUBLE PRECISION":
        return form not in ("comma", "point")
    form, at, latest = form.partition("@")
    # Two digits are the years from 1969 to 2068, which may be moved by one century.
    return bool(at) and not ("%y" in form and latest.isdecimal() and 1969 <= int(latest) <= 2167)
