"""docs/data-dictionary.md as the comments of a warehouse say it; `python -m tests.dictionary` writes it anew."""

from __future__ import annotations

import sys
import tempfile
import textwrap
import tomllib
from pathlib import Path
from typing import Any

from metarisk.domain import Warehouse
from tests.warehouses import ROOT, SQL, open_duckdb, schema

PAGE = ROOT / "docs" / "data-dictionary.md"
RENEW = "python -m tests.dictionary"
DICTIONARY = SQL / "dictionary"
_TYPES = {"character varying": "text", "varchar": "text", "timestamp with time zone": "timestamp"} | {
    "double precision": "double"
}
_INTRODUCTION = f"""# Data dictionary

Everything in the schema `metarisk`: what each table and view holds, and what each column means. It stands in both
databases too, as comments: BI tools show them, so does `\\d+ metarisk.night` in psql, and in DuckDB
`SELECT column_name, comment FROM duckdb_columns() WHERE table_name = 'night'`. The words are in `sql/dictionary`;
`{RENEW}` makes this page of them. Tables are append-only, but `metarisk prune` moves rows of old nights to
the archive ([operations.md](operations.md#what-is-kept-and-what-proves-it)); BI reads the views (six ready queries:
[bi-queries.md](bi-queries.md)).

Types are named alike for both databases: `double` is 64 bits, `timestamp` is with time zone (UTC), `text` of JSON says
so. `null` says whether a table's column may be empty; views inherit it.

The schema `source` is yours: `metarisk load` and `metarisk seed` write there and nowhere else, extracts read from it.
"""
_COLUMNS = """
    SELECT c.table_name AS name, c.column_name AS column_name, c.data_type AS type, c.is_nullable AS nullable
    FROM information_schema.columns c WHERE c.table_schema = 'metarisk' ORDER BY c.table_name, c.ordinal_position
"""
_COMMENTS = {
    "duckdb": """
        SELECT table_name AS name, NULL AS column_name, comment FROM duckdb_tables() WHERE schema_name = 'metarisk'
        UNION ALL SELECT view_name, NULL, comment FROM duckdb_views() WHERE schema_name = 'metarisk'
        UNION ALL SELECT table_name, column_name, comment FROM duckdb_columns() WHERE schema_name = 'metarisk'
    """,
    "postgresql": """
        SELECT c.relname::text AS name, a.attname::text AS column_name, d.description AS comment
        FROM pg_description d JOIN pg_class c ON c.oid = d.objoid AND d.classoid = 'pg_class'::regclass
        LEFT JOIN pg_attribute a ON a.attrelid = d.objoid AND a.attnum = d.objsubid AND d.objsubid > 0
        WHERE c.relnamespace = 'metarisk'::regnamespace
    """,
}


def entries(kind: str) -> dict[str, dict[str, Any]]:
    """The `tables` or `views` of the dictionary as its file has them, in its order."""
    return tomllib.loads((DICTIONARY / f"{kind}.toml").read_text("utf-8"))


def comments(warehouse: Warehouse) -> dict[tuple[str, str | None], str]:
    """Each comment by table or view and column, None for the table or view itself."""
    rows = warehouse.rows(_COMMENTS[warehouse.dialect])
    return {(row["name"], row["column_name"]): row["comment"] for row in rows}


def page(warehouse: Warehouse) -> str:
    """The page of a migrated warehouse. Raises KeyError for a table, view or column without comment or entry."""
    said = comments(warehouse)
    held: dict[str, list[dict[str, Any]]] = {}
    for row in warehouse.rows(_COLUMNS):
        if not row["name"].startswith("risk_score_"):  # a partition
            held.setdefault(row["name"], []).append(row)
    parts = [_INTRODUCTION]
    for kind in ("tables", "views"):
        parts.append(f"## {kind.capitalize()}\n")
        for name in entries(kind):
            parts += [
                f"### {name}\n",
                textwrap.fill(said[name, None], 130) + "\n",
                _table(kind, held.pop(name), said),
            ]
    if held:
        raise KeyError(*held)
    return "\n".join(parts)


def _table(kind: str, columns: list[dict[str, Any]], said: dict[tuple[str, str | None], str]) -> str:
    null = kind == "tables"
    heads = ["column", "type", *(["null"] if null else []), "meaning"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in columns:
        type_ = _TYPES.get(row["type"].lower(), row["type"].lower())
        meaning = said[row["name"], row["column_name"]].replace("|", "\\|")
        cells = [f"`{row['column_name']}`", type_, *([row["nullable"].lower()] if null else []), meaning]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write the page."""
    with tempfile.TemporaryDirectory() as folder:
        warehouse = open_duckdb(Path(folder))
        warehouse.migrate(*schema())
        PAGE.write_text(page(warehouse), "utf-8")
    sys.stdout.write(f"{PAGE}\n")


if __name__ == "__main__":
    main()
