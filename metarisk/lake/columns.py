"""Columns of an extract in canonical form: text, DATE or DOUBLE by what the portfolio declares, batch by batch.

Arrow in, Arrow out, and counts of what had to be changed; no file is touched.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Literal

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from metarisk.domain import DECIMAL, MISSING, WHOLE_BOOK, DataError, FeatureKind, Portfolio, did_you_mean
from metarisk.tasks import WHOLE, horizon_end, known_end

BATCH_ROWS = 131_072
"""Rows that are held at once where files are streamed."""

Kind = Literal["key", "text", "date", "number", "any"]

LONGEST_TEXT = 1_024
"""Characters; longer values are cut, and end with a digest so that different ones stay different."""

_FEATURE_KINDS: Mapping[FeatureKind, Kind] = {"numeric": "number", "categorical": "text", "date-age": "date"}
_WANTED: Mapping[Kind, str] = {
    "key": "text or whole numbers",
    "text": "text, whole numbers or booleans",
    "date": "dates or timestamps",
    "number": "numbers",
    "any": "text, numbers, booleans or dates",
}
_CAST_TO: Mapping[Kind, str] = {
    "key": "VARCHAR",
    "text": "VARCHAR",
    "date": "DATE",
    "number": "DOUBLE PRECISION",
    "any": "VARCHAR",
}


@dataclass
class Notes:
    """What canonical form changed, counted by column over all batches."""

    rows: int = 0
    present: Counter[str] = field(default_factory=Counter)
    """Values that are not null."""
    not_finite: Counter[str] = field(default_factory=Counter)
    """NaN and infinities that became null."""
    shortened: Counter[str] = field(default_factory=Counter)
    missing_segment: Counter[str] = field(default_factory=Counter)

    def add(self, other: Notes) -> None:
        """Count what another reader of the same extract counted, too."""
        self.rows += other.rows
        for name in ("present", "not_finite", "shortened", "missing_segment"):
            getattr(self, name).update(getattr(other, name))


def column_kinds(portfolio: Portfolio) -> dict[str, Kind]:
    """Declared columns in canonical order, and the kind of each."""
    columns = portfolio.columns
    kinds: dict[str, Kind] = {columns.entity: "key", columns.opened_on: "date"}
    kinds |= dict.fromkeys(columns.segments, "text")
    roles = ("event_date", "known_date", "exit_date", "matures_on", "booked_on", "settled_on")
    dates: tuple[str | None, ...] = tuple(getattr(columns, role) for role in roles)
    kinds |= {column: "date" for column in dates if column is not None}
    numbers: tuple[str | None, ...] = (columns.label, columns.value, columns.exposure, columns.lgd, columns.ead)
    numbers = (*numbers, columns.history, *columns.lags, columns.decayed)
    kinds |= {column: "number" for column in numbers if column is not None}
    kinds |= {column: "number" for feature in portfolio.features.values() for column in feature.short.values()}
    kinds |= dict.fromkeys(columns.numbers, "number")
    kinds |= dict.fromkeys(columns.texts, "text")
    kinds |= {name: _FEATURE_KINDS[feature.kind] for name, feature in portfolio.features.items()}
    others = [column for column in (*columns.protected, *columns.personal) if column not in kinds]
    return kinds | dict.fromkeys(others, "any")


def key_columns(portfolio: Portfolio) -> list[str]:
    """Columns that tell one row from another.

    A row with an event is an account or transaction and its entity alone is the key; where the label is a value, an
    entity is measured again and again, and `opened_on` belongs to the key.
    """
    columns = portfolio.columns
    return [columns.entity] if columns.event_date is not None else [columns.entity, columns.opened_on]


def check_schema(schema: pa.Schema, portfolio: Portfolio, as_of: date) -> dict[str, Kind]:
    """Match an extract's columns with the declared ones.

    Returns:
        The kind of each declared column, in canonical order.

    Raises:
        DataError: a declared column is missing, comes twice, differs from another by case alone, or has a type that its
            kind cannot take.
    """
    kinds = column_kinds(portfolio)
    _require_names_apart(kinds, portfolio, as_of)
    for column, kind in kinds.items():
        if column in portfolio.columns.derived:
            continue
        found = schema.names.count(column)
        if found != 1:
            unclaimed = [name for name in schema.names if name not in kinds]
            hint = did_you_mean(column, unclaimed) if found == 0 else ""
            raise DataError(
                f"the extract has {'no such column' if found == 0 else 'this column twice'}{hint}; "
                f"it has {', '.join(schema.names)}",
                remedy=f"correct {portfolio.source.extract} or the portfolio's TOML",
                portfolio=portfolio.name,
                column=column,
                on=as_of,
            )
        field = schema.field(column)
        if not _accepts(kind, field):
            given, cast = str(field.type), f"write CAST(... AS {_CAST_TO[kind]}) in {portfolio.source.extract}"
            if said := (field.metadata or {}).get(DECIMAL):
                # A query hands decimals on as floating-point numbers, which a key does not survive.
                given = said.decode()
                cast += " of the column as the table has it"
            raise DataError(
                f"the extract gives {given} where {_WANTED[kind]} were declared",
                remedy=f"{cast}, or declare another kind",
                portfolio=portfolio.name,
                column=column,
                on=as_of,
            )
    return kinds


def _require_names_apart(columns: Iterable[str], portfolio: Portfolio, as_of: date) -> None:
    """Refuse two columns that differ by case alone: rules of a suite would read the first one for both."""
    seen: dict[str, str] = {}
    for column in columns:
        if (first := seen.setdefault(column.casefold(), column)) != column:
            raise DataError(
                f"{first} and {column} differ by case alone, which SQL over the extract does not tell apart",
                remedy=f"name one of them otherwise by AS in {portfolio.source.extract}, and in the portfolio's TOML",
                portfolio=portfolio.name,
                column=column,
                on=as_of,
            )


def canonical_schema(kinds: Mapping[str, Kind]) -> pa.Schema:
    """Arrow schema of canonical batches."""
    types = {"date": pa.date32(), "number": pa.float64()}
    return pa.schema([(column, types.get(kind, pa.string())) for column, kind in kinds.items()])


def canonical(batch: pa.RecordBatch, kinds: Mapping[str, Kind], portfolio: Portfolio, notes: Notes) -> pa.RecordBatch:
    """One batch in canonical form; what was changed is added to `notes`.

    Timestamps with a time zone become the date in the portfolio's own zone; NaN and infinities become null, but where
    they make a row unusable and are left for its check; overlong text is cut; a null segment value becomes
    `MISSING`.
    """
    columns = portfolio.columns
    amounts = {columns.exposure, columns.lgd, columns.ead} - {None, *portfolio.features}
    arrays: dict[str, pa.Array] = {}
    for column, kind in kinds.items():
        if column in portfolio.columns.derived:
            continue
        values = _storage(batch.column(column))
        if kind == "date":
            values = _local_date(values, portfolio.timezone)
        elif kind == "number":
            values = values.cast(pa.float64(), safe=False)
            values = values if column in amounts else _finite(values, column, notes)
        else:
            values = _short(values.cast(pa.large_string()), column, notes).cast(pa.string())
        notes.present[column] += len(values) - values.null_count
        if column in portfolio.columns.segments and values.null_count:
            notes.missing_segment[column] += values.null_count
            values = values.fill_null(MISSING)
        arrays[column] = values
    arrays |= _derived(arrays, batch.num_rows, portfolio)
    for column in portfolio.columns.derived:
        notes.present[column] += batch.num_rows - arrays[column].null_count
    notes.rows += batch.num_rows
    return pa.RecordBatch.from_arrays([arrays[column] for column in kinds], schema=canonical_schema(kinds))


def _derived(arrays: Mapping[str, pa.Array], rows: int, portfolio: Portfolio) -> dict[str, pa.Array]:
    """The columns that no SELECT gives: one segment for all rows, and the dates that a flag stands for."""
    columns = portfolio.columns
    found: dict[str, pa.Array] = {}
    if WHOLE_BOOK in columns.derived:
        found[WHOLE_BOOK] = pa.array([WHOLE]).take(pa.array(np.zeros(rows, dtype=np.int64)))
    if columns.label is None:
        return found
    flag = arrays[columns.label]
    if (odd := flag.drop_null().filter(pc.invert(pc.is_in(flag.drop_null(), pa.array([0.0, 1.0]))))) and len(odd):
        raise DataError(
            f"the label is {odd[0].as_py():g} where a flag of 0 or 1, false or true was declared",
            remedy=f"write CASE WHEN ... THEN 1 ELSE 0 END in {portfolio.source.extract}, or name it `columns.value`",
            portfolio=portfolio.name,
            column=columns.label,
        )
    needed = [columns.opened_on, *([columns.matures_on] if columns.matures_on else [])]
    frame = pl.DataFrame({name: pl.Series(arrays[name], dtype=pl.Date) for name in needed})
    happened, target = pl.Series(flag, dtype=pl.Float64) == 1, portfolio.target
    for name, end in ((columns.event_date, horizon_end), (columns.known_date, known_end)):
        dates = frame.select(pl.when(happened).then(end(portfolio, target)).cast(pl.Date))
        found[str(name)] = dates.to_series().to_arrow()
    return found


def _accepts(kind: Kind, column: pa.Field) -> bool:
    arrow = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    text = pa.types.is_string(arrow) or pa.types.is_large_string(arrow) or pa.types.is_string_view(arrow)
    whole = pa.types.is_integer(arrow) or (pa.types.is_decimal(arrow) and arrow.scale == 0)
    truth = pa.types.is_boolean(arrow)
    dated = pa.types.is_date(arrow) or pa.types.is_timestamp(arrow)
    number = pa.types.is_floating(arrow) or pa.types.is_decimal(arrow) or _is_numeric_text(column)
    accepted: Mapping[Kind, bool] = {
        "key": text or whole,
        "text": text or whole or truth,
        "date": dated,
        "number": number or whole or truth,
        "any": text or whole or truth or dated or number,
    }
    return accepted[kind] or pa.types.is_null(arrow)


def _is_numeric_text(column: pa.Field) -> bool:
    # PostgreSQL's NUMERIC has no Arrow type; ADBC sends its text and says so in the type or in the metadata.
    if isinstance(column.type, pa.OpaqueType):
        return bool(column.type.type_name == "numeric")
    return (column.metadata or {}).get(b"ADBC:postgresql:typname") == b"numeric"


def _storage(values: pa.Array) -> pa.Array:
    if isinstance(values, pa.ExtensionArray):
        values = values.storage
    return values.dictionary_decode() if pa.types.is_dictionary(values.type) else values


def _local_date(values: pa.Array, timezone: str) -> pa.Array:
    if pa.types.is_timestamp(values.type) and values.type.tz is not None:
        # Polars carries its own time zone data; Arrow needs the system's, which slim images lack.
        series = pl.Series(values).dt.convert_time_zone(timezone).dt.date()
        return series.to_arrow()
    return values.cast(pa.date32(), safe=False)


def _finite(values: pa.Array, column: str, notes: Notes) -> pa.Array:
    finite = pc.fill_null(pc.is_finite(values), True)
    if (bad := len(values) - (finite.true_count if len(values) else 0)) == 0:
        return values
    notes.not_finite[column] += bad
    return pc.if_else(finite, values, None)


def _short(values: pa.Array, column: str, notes: Notes) -> pa.Array:
    long = pc.fill_null(pc.greater(pc.utf8_length(values), LONGEST_TEXT), False)
    if not long.true_count:
        return values
    notes.shortened[column] += long.true_count
    cut = [_cut(value.as_py()) for value in values.filter(long)]
    return pc.replace_with_mask(values, long, pa.array(cut, values.type))


def _cut(text: str) -> str:
    return f"{text[:64]}… {hashlib.sha256(text.encode()).hexdigest()[:16]}"
