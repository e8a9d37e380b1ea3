"""Arrow types at the warehouse's edge: what queries return and what tables take, alike on both databases.

Numbers with decimals arrive as float64, times in UTC microseconds, categories as text. No database is known here.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator

import pyarrow as pa
import pyarrow.compute as pc

from metarisk.domain import DECIMAL, DataError

_FIRST, _LAST = pa.scalar(-719_162, pa.int32()), pa.scalar(2_932_896, pa.int32())  # 0001-01-01 and 9999-12-31
_FIRST_US, _LAST_US = pa.scalar(-62_135_596_800_000_000), pa.scalar(253_402_300_799_999_999)


ANY_DECIMAL = pa.decimal256(76, 38)
"""Stands for a column of PostgreSQL's NUMERIC, which takes decimals of every scale as they are."""


def plain_type(kind: pa.DataType, column: str, *, exact: bool = False) -> pa.DataType:
    """The type under which a query's column is handed on; with `exact`, that of a column which tables hold.

    The two differ in decimals, which queries hand on as float64. Raises DataError where there is none.
    """
    if isinstance(kind, pa.OpaqueType):
        if kind.type_name == "numeric":
            return ANY_DECIMAL if exact else pa.float64()
        if not pa.types.is_string(kind.storage_type):
            raise DataError(
                f"the database type {kind.type_name} cannot be read", column=column, remedy="cast it to text in the SQL"
            )
        return pa.string()
    if isinstance(kind, pa.BaseExtensionType):
        return pa.string() if isinstance(kind, pa.UuidType) else plain_type(kind.storage_type, column, exact=exact)
    if pa.types.is_decimal(kind):
        return kind if exact else pa.float64()
    if pa.types.is_dictionary(kind):
        return plain_type(kind.value_type, column, exact=exact)
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_timestamp(kind):
        return pa.timestamp("us", None if kind.tz is None else "UTC")
    if pa.types.is_date64(kind):
        return pa.date32()
    if pa.types.is_unsigned_integer(kind):
        return pa.int64()
    if pa.types.is_null(kind):
        return pa.string()
    return kind


def plain_schema(schema: pa.Schema, *, exact: bool = False) -> pa.Schema:
    """`plain_type` of every column. Raises DataError for two columns of one name.

    Of a decimal that is handed on as float64 the field says so in its metadata, see `DECIMAL`.
    """
    if len(set(schema.names)) != len(schema.names):
        twice = sorted({name for name in schema.names if schema.names.count(name) > 1})
        raise DataError("the query returns this column twice", column=twice[0], remedy="name each column once with AS")
    return pa.schema([_plain_field(field, exact=exact) for field in schema])


def _plain_field(field: pa.Field, *, exact: bool) -> pa.Field:
    kind = plain_type(field.type, field.name, exact=exact)
    if kind != pa.float64() or pa.types.is_floating(field.type):
        return pa.field(field.name, kind)
    numeric = isinstance(field.type, pa.OpaqueType)
    said = "decimal" if numeric else f"decimal({field.type.precision}, {field.type.scale})"
    return pa.field(field.name, kind, metadata={DECIMAL: said})


def plain_batches(
    batches: Iterable[pa.RecordBatch], schema: pa.Schema, batch_rows: int | None = None
) -> Iterator[pa.RecordBatch]:
    """The batches as `schema` (from `plain_schema`), cut to at most `batch_rows` rows."""
    for batch in batches:
        columns = [_plain(column, field) for column, field in zip(batch.columns, schema, strict=True)]
        plain = pa.RecordBatch.from_arrays(columns, schema=schema)
        for start in range(0, plain.num_rows, batch_rows or max(plain.num_rows, 1)):
            yield plain.slice(start, batch_rows)


def _plain(column: pa.Array, field: pa.Field) -> pa.Array:
    if isinstance(column.type, pa.UuidType):
        return pa.array([None if value is None else str(value) for value in column.to_pylist()], pa.string())
    if isinstance(column, pa.ExtensionArray):
        column = column.storage
    if column.type != field.type:
        # Truncating nanoseconds to microseconds is meant; every other cast here loses nothing that a float64 holds.
        try:
            column = column.cast(field.type, safe=not pa.types.is_timestamp(field.type))
        except pa.ArrowInvalid as error:
            raise DataError(
                f"{column.type} does not fit {field.type} ({str(error).splitlines()[0]})",
                column=field.name,
                remedy="cast the column to text, as whole numbers beyond 64 bits are kept",
            ) from None
    return _in_calendar(column, field)


def _in_calendar(column: pa.Array, field: pa.Field) -> pa.Array:
    """Refuse 'infinity', which drivers hand on as an overflowed day that no Python date can hold."""
    if pa.types.is_date32(field.type):
        edges, numbers = (_FIRST, _LAST), column.view(pa.int32())
    elif pa.types.is_timestamp(field.type):
        edges, numbers = (_FIRST_US, _LAST_US), column.view(pa.int64())
    else:
        return column
    span = pc.min_max(numbers)
    if span["min"].is_valid and (span["min"].as_py() < edges[0].as_py() or span["max"].as_py() > edges[1].as_py()):
        raise DataError(
            "a date outside the years 1 to 9999 ('infinity' is one)", column=field.name, remedy="use NULL for 'no date'"
        )
    return column


def conform(batches: Iterable[pa.RecordBatch], target: pa.Schema, table: str) -> Iterator[pa.RecordBatch]:
    """The batches by column name as `target` (from `appended_schema`); DataError names the column that does not fit."""
    for batch in batches:
        if set(batch.schema.names) != set(target.names):
            raise DataError(
                f"a batch for {table} has {sorted(batch.schema.names)}, the first had {sorted(target.names)}",
                remedy="give every batch the same columns",
            )
        columns = [_fit(batch.column(field.name), field, table) for field in target]
        yield pa.RecordBatch.from_arrays(columns, schema=target)


def appended_schema(incoming: pa.Schema, target: pa.Schema, table: str) -> pa.Schema:
    """The part of a table's schema that `incoming` fills. Raises DataError for a column the table lacks."""
    unknown = [name for name in incoming.names if name not in target.names]
    if unknown:
        raise DataError(
            f"{table} has no such column (it has {', '.join(target.names)})",
            column=unknown[0],
            remedy="name the columns as docs/data-dictionary.md does",
        )
    kept = [field for field in target if field.name in incoming.names]
    return pa.schema([incoming.field(one.name) if one.type == ANY_DECIMAL else one for one in kept])


def _fit(column: pa.Array, field: pa.Field, table: str) -> pa.Array:
    try:
        return column if column.type == field.type else column.cast(field.type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise DataError(
            f"{column.type} does not fit {field.type} of {table} ({str(error).splitlines()[0]})",
            column=field.name,
            remedy="convert the column before it is appended",
        ) from None


class Feed:
    """Batches on their way into a driver: counts rows, and keeps the caller's exception, which a driver would hide."""

    def __init__(self, batches: Iterable[pa.RecordBatch]) -> None:
        self._batches = iter(batches)
        self.rows = 0
        self.ended = False
        self.error: BaseException | None = None

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        return self.upto(sys.maxsize)

    def upto(self, rows: int) -> Iterator[pa.RecordBatch]:
        """The next batches, until they have `rows` rows or there are none; `ended` says which."""
        last = self.rows + rows
        try:
            for batch in self._batches:
                self.rows += batch.num_rows
                yield batch
                if self.rows >= last:
                    return
            self.ended = True
        except BaseException as error:
            self.error = error
            raise
