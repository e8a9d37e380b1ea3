"""`metarisk load`: a file becomes a table of schema `source`, and what was understood of it is told."""

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from metarisk.cli.console import errors, rich_table, say
from metarisk.cli.running import Json, warehouse_of
from metarisk.domain import ConfigError, DataError, LoadMode, Warehouse, did_you_mean
from metarisk.loading import Limits, Options, Table, Wanted, counted, open_table, wanted_type

_NEXT_TYPE = re.compile(r",(?=[^,=()]+=\s*[A-Za-z])")


def load(
    files: Annotated[
        list[str],
        typer.Argument(help="Delimited text, JSON lines, Excel or Parquet; a folder, or a pattern in quotes."),
    ],
    table: Annotated[str, typer.Option(help="Table: source.NAME.")],
    types: Annotated[
        list[str] | None, typer.Option(help="Types that you know better: 'id=VARCHAR,opened=DATE:%d/%m/%Y'.")
    ] = None,
    append: Annotated[bool, typer.Option("--append", help="Add the rows to the table that is there.")] = False,
    replace: Annotated[bool, typer.Option("--replace", help="Take the place of the table that is there.")] = False,
    rejects: Annotated[
        Path | None, typer.Option(help="Write rows that cannot be read here, and load the others.")
    ] = None,
    flatten: Annotated[bool, typer.Option("--flatten", help="Load nested columns, too.")] = False,
    encoding: Annotated[str | None, typer.Option(help="Of text: utf-8, cp1252, latin-1, ...; else found out.")] = None,
    delimiter: Annotated[str | None, typer.Option(help="Between cells of text; else found out.")] = None,
    quote: Annotated[str | None, typer.Option(help="Around cells of text, or none; else found out.")] = None,
    header: Annotated[
        bool | None, typer.Option("--header/--no-header", help="Whether names come first; else found out.")
    ] = None,
    sheet: Annotated[str | None, typer.Option(help="Of a workbook; else the first with rows.")] = None,
    as_json: Json = False,
) -> None:
    """Load files into schema `source`, and tell what was understood of them."""
    with errors(as_json):
        if append and replace:
            raise ConfigError("--append and --replace exclude each other", remedy="say one of them")
        warehouse, settings = warehouse_of()
        schema, _, name = table.rpartition(".")
        if schema != "source" or not name:
            raise ConfigError(f"{table} is not in schema source", remedy="name the table source.NAME")
        held = _held(warehouse, name)
        if held and not (append or replace):
            raise ConfigError(f"{table} exists", remedy="say --append to add rows to it, --replace to take its place")
        if append and not held:
            raise ConfigError(f"there is no {table} to append to", remedy="leave --append out to create it")
        asked, joined = _types(types or []), _of_table(held) if append else {}
        options = Options(encoding, delimiter, quote, header, sheet, flatten, asked, joined, rejects is not None)
        limits = Limits(settings.threads, settings.memory_mb, settings.data_dir / "tmp" / "load")
        mode: LoadMode = "append" if append else "replace" if replace else "create"
        with open_table(files, options, limits) as found:
            if append:
                _same_columns(found, held, table)
            rows = warehouse.load(name, found.reader(), mode=mode)
            if rejects is not None:
                found.rejects.write_to(rejects)
            _tell(found, table, rows, rejects, as_json)


def _held(warehouse: Warehouse, name: str) -> dict[str, str]:
    """Columns of `source.<name>` with their SQL types; none if there is no such table."""
    same = "lower(table_name) = lower($name)" if warehouse.dialect == "duckdb" else "table_name = $name"
    with warehouse.transaction() as transaction:
        rows = transaction.rows(
            "SELECT CAST(column_name AS VARCHAR) AS name, CAST(data_type AS VARCHAR) AS type, "  # noqa: S608
            "CAST(numeric_precision AS BIGINT) AS precision, CAST(numeric_scale AS BIGINT) AS scale "
            f"FROM information_schema.columns WHERE table_schema = 'source' AND {same} ORDER BY ordinal_position",
            {"name": name},
        )
    return {row["name"]: _type(row["type"], row["precision"], row["scale"]) for row in rows}


def _type(kind: str, precision: int | None, scale: int | None) -> str:
    return f"DECIMAL({precision}, {scale})" if kind.lower() == "numeric" and precision is not None else kind


def _of_table(held: Mapping[str, str]) -> dict[str, Wanted]:
    """The types that rows which join a table are to have; a column of a type that no file has is left to its values."""
    types: dict[str, Wanted] = {}
    for name, kind in held.items():
        with suppress(ConfigError):
            types[name] = wanted_type(kind, name)
    return types


def _same_columns(found: Table, held: Mapping[str, str], table: str) -> None:
    """Rows that join a table have its columns, all of them and no other."""
    names = [column.name for column in found.understood.columns]
    lacking, unknown = [name for name in held if name not in names], [name for name in names if name not in held]
    if lacking or unknown:
        more = did_you_mean(unknown[0], lacking) if unknown else ""
        raise DataError(
            f"{table} has {', '.join(lacking) or 'no other columns'} where the file has "
            f"{', '.join(unknown) or 'no such column'}{more}",
            remedy="give both the same columns, or load the file into a table of its own",
            column=(unknown or lacking)[0],
        )


def _types(texts: list[str]) -> dict[str, Wanted]:
    types: dict[str, Wanted] = {}
    for part in (part for text in texts for part in _NEXT_TYPE.split(text)):
        column, equals, kind = part.partition("=")
        if not equals or not column.strip():
            raise ConfigError(f"--types {part!r} names no type", remedy="write COLUMN=TYPE, with commas between them")
        types[column.strip()] = wanted_type(kind, column.strip())
    return types


def _tell(found: Table, table: str, rows: int, rejects: Path | None, as_json: bool) -> None:
    understood = found.understood
    if as_json:
        content: dict[str, Any] = {
            "table": table,
            "rows": rows,
            "rejected": understood.rejected,
            "files": understood.files,
        }
        content |= {"kind": understood.kind, "columns": [asdict(column) for column in understood.columns]}
        say(content | {"left_out": understood.left_out, "notes": understood.notes}, "", True)
        return
    files = understood.files[0] if len(understood.files) == 1 else f"{len(understood.files)} files"
    say({}, f"{files}: {understood.kind}", False)
    shown = [
        {
            "column": column.name,
            "type": column.type,
            "nulls": f"{column.nulls:,}",
            "distinct": f"{'' if column.distinct_is_exact else '~'}{column.distinct:,}",
            "example": column.example,
            "read as": column.conversion,
        }
        for column in understood.columns
    ]
    Console().print(rich_table("What was understood", shown))
    lines = [f"Not loaded: column {name}, {why}" for name, why in understood.left_out.items()]
    lines += [f"Note: {note}" for note in understood.notes]
    if understood.rejected:
        lines.append(f"{counted(understood.rejected, 'row')} could not be read: see {rejects}")
    lines.append(f"{counted(rows, 'row')} in {table}\nNext: metarisk portfolio new NAME --table {table}")
    say({}, "\n".join(lines), False)
