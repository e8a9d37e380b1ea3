"""Parquet as a relation: columns keep their types, those that no warehouse has become one that loses nothing."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from metarisk.domain import DataError, quoted

_KEPT = {
    "BOOLEAN", "TINYINT", "SMALLINT", "INTEGER", "BIGINT", "FLOAT", "DOUBLE", "VARCHAR", "BLOB", "DATE", "TIMESTAMP",
}  # fmt: skip
_RENAMED = {
    "TIMESTAMP WITH TIME ZONE": "TIMESTAMPTZ", "TIMESTAMP_S": "TIMESTAMP", "TIMESTAMP_MS": "TIMESTAMP",
    "TIMESTAMP_NS": "TIMESTAMP", "UTINYINT": "BIGINT", "USMALLINT": "BIGINT", "UINTEGER": "BIGINT",
}  # fmt: skip
_WIDE = {"ubigint", "hugeint", "uhugeint"}
_NESTED = {"struct", "list", "map", "array", "union", "variant"}
WHOLE = "WHOLE"
"""Type of whole numbers that may not fit 64 bits; their values decide between BIGINT and text."""


@dataclass
class TypedColumn:
    """One column of typed files: its name there, its SQL, and the SQL type it is loaded as."""

    raw_name: str
    value: str
    type: str
    written: str
    """Its type in the file."""
    raw: str
    """SQL of what the file holds."""
    is_cell: bool = False
    """Text of a folder's name, whose type its values tell."""
    is_fine: bool = False
    """Nanoseconds of a kind of which DuckDB does not hand on what is finer than a microsecond."""


@dataclass
class Typed:
    """Parquet files of one schema as a relation in SQL."""

    relation: str
    columns: list[TypedColumn]
    left_out: dict[str, str] = field(default_factory=dict)


def read_parquet(connection: duckdb.DuckDBPyConnection, paths: Sequence[Path], root: Path, *, flatten: bool) -> Typed:
    """Parquet files as one relation; columns of a folder's name (`region=north/`) are columns too.

    Args:
        connection: where the relation is read.
        paths: the files.
        root: folder under which `key=value` folders count.
        flatten: whether fields of structs become columns, and lists and maps JSON text; else both are left out.

    Raises:
        DataError: a file is no Parquet, or files differ in their columns or types.
    """
    schema = _one_schema(paths)
    keys = list(folder_values(paths[0], root))
    listed = ", ".join("'" + str(path).replace("'", "''") + "'" for path in paths)
    hive = ", hive_partitioning = true, hive_types_autocast = false" if keys else ", hive_partitioning = false"
    raw = f"read_parquet([{listed}]{hive})"
    kinds = connection.sql(f"SELECT * FROM {raw}").types  # noqa: S608
    names = [*schema.names, *(key for key in keys if key not in schema.names)]
    typed = Typed(f"{raw} AS t({', '.join(f'c{at}' for at in range(len(kinds)))})", [])
    for at, (kind, name) in enumerate(zip(kinds, names, strict=True)):
        if name in keys:
            typed.columns.append(TypedColumn(name, f"c{at}", "VARCHAR", "folder", f"c{at}", is_cell=True))
        else:
            first = len(typed.columns)
            _add(typed, name, f"c{at}", kind, flatten)
            for column in typed.columns[first:]:
                lost = column.written.startswith("TIME") and column.written != "TIMESTAMP_NS"
                column.is_fine = lost and _is_fine(schema.field(at).type)
    return typed


def _is_fine(kind: pa.DataType) -> bool:
    inside = [kind.field(at).type for at in range(kind.num_fields)]
    return any(map(_is_fine, inside)) or (pa.types.is_temporal(kind) and getattr(kind, "unit", "") == "ns")


def folder_values(path: Path, root: Path) -> dict[str, str]:
    """What `key=value` folders above a file say of all its rows."""
    return dict(part.split("=", 1) for part in path.relative_to(root).parts[:-1] if "=" in part)


def _one_schema(paths: Sequence[Path]) -> pa.Schema:
    first: pa.Schema | None = None
    for path in paths:
        try:
            schema = pq.read_schema(path).remove_metadata()
        except (pa.ArrowException, OSError) as error:
            raise DataError(
                f"{path.name} cannot be read: {str(error).splitlines()[0]}", remedy="correct or convert the file"
            ) from None
        if first is None:
            first = schema
            continue
        for name in dict.fromkeys([*first.names, *schema.names]):
            one, other = (_type_of(part, name) for part in (first, schema))
            if one != other:
                raise DataError(
                    f"{paths[0].name} has {one or 'no such column'}, {path.name} has {other or 'no such column'}",
                    column=name,
                    remedy="load files of one schema at a time, with --append for the later ones",
                )
        if first.names != schema.names:
            raise DataError(
                f"{path.name} has the columns of {paths[0].name} in another order",
                remedy="load it by itself, with --append",
            )
    assert first is not None  # noqa: S101 - there is a file
    return first


def _type_of(schema: pa.Schema, name: str) -> str:
    return ", ".join(str(field.type) for field in schema if field.name == name)


def _add(typed: Typed, name: str, value: str, kind: Any, flatten: bool) -> None:
    """One column, or those of a struct's fields; `kind` is DuckDB's type."""
    written = str(kind)
    if kind.id in _NESTED and not flatten:
        typed.left_out[name] = f"nested ({kind.id}); --flatten loads it"
    elif kind.id == "struct":
        for part, inner in kind.children:
            _add(typed, f"{name}_{part}", f"({value}).{quoted(part)}", inner, flatten)
    elif kind.id in _NESTED:
        typed.columns.append(TypedColumn(name, f"CAST(to_json({value}) AS VARCHAR)", "VARCHAR", kind.id, value))
    elif kind.id in _WIDE or (kind.id == "decimal" and written.endswith(",0)")):
        typed.columns.append(TypedColumn(name, value, WHOLE, written, value))
    elif written in _KEPT or kind.id == "decimal":
        typed.columns.append(TypedColumn(name, value, written, written, value))
    else:
        target = _RENAMED.get(written, "VARCHAR")
        typed.columns.append(TypedColumn(name, f"CAST({value} AS {target})", target, written, value))
