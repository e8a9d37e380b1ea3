"""What every table, view and column of schema `metarisk` means: read from `sql/dictionary`, written as COMMENT ON.

What the schema holds is asked of the database: those that differ from the comments that stand are written. When, is
known in `migrations`.
"""

from __future__ import annotations

import logging
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from metarisk.domain import ConfigError, Warehouse
from metarisk.warehouse.statements import literal, quote_identifier

DUCKDB = """
    SELECT 'TABLE' AS kind, table_name AS name, CAST(NULL AS TEXT) AS column_name, comment, TRUE AS owned
    FROM duckdb_tables() WHERE database_name = {database} AND schema_name = 'metarisk'
    UNION ALL SELECT 'VIEW', view_name, NULL, comment, TRUE
    FROM duckdb_views() WHERE database_name = {database} AND schema_name = 'metarisk'
    UNION ALL SELECT 'COLUMN', table_name, column_name, comment, TRUE
    FROM duckdb_columns() WHERE database_name = {database} AND schema_name = 'metarisk'
"""
"""All that can have a comment in the schema of one attached `database`, an SQL expression."""
_POSTGRESQL = """
    WITH held AS (
        SELECT c.oid, c.relname::text AS name, CASE c.relkind WHEN 'v' THEN 'VIEW' ELSE 'TABLE' END AS kind,
               pg_has_role(c.relowner, 'USAGE') AS owned
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname = 'metarisk' AND c.relkind IN ('r', 'p', 'v') AND NOT c.relispartition
    )
    SELECT kind, name, NULL AS column_name, obj_description(oid, 'pg_class') AS comment, owned FROM held
    UNION ALL SELECT 'COLUMN', held.name, a.attname::text, col_description(held.oid, a.attnum), held.owned
    FROM held JOIN pg_attribute a ON a.attrelid = held.oid AND a.attnum > 0 AND NOT a.attisdropped
"""
"""The same; a partition takes those of its table when it is made."""
_STANDING = {"duckdb": DUCKDB.format(database="current_database()"), "postgresql": _POSTGRESQL}
Meanings = Mapping[str, Mapping[str | None, str]]
"""Table or view to what its columns mean, by name, and under None what it holds."""
_log = logging.getLogger(__name__)


def read(folder: Path) -> Meanings:
    """The meanings in a folder's TOML. Raises ConfigError where there are none, or a file is none of them.

    A column means what its own table says, else what the one named by `like` says, else what columns.toml says.
    """
    try:
        files = {path.stem: tomllib.loads(path.read_text("utf-8")) for path in sorted(folder.glob("*.toml"))}
        anywhere = files.pop("columns")
        entries = {name: entry for file in files.values() for name, entry in file.items()}

        def texts(entry: Mapping[str, Any]) -> dict[str | None, str]:
            inherited = texts(entries[entry["like"]]) if "like" in entry else anywhere
            return {**inherited, **entry.get("columns", {}), None: entry["about"]}

        # where lines of a file break is no part of a text
        return {name: {of: " ".join(text.split()) for of, text in texts(entries[name]).items()} for name in entries}
    except (tomllib.TOMLDecodeError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ConfigError(
            f"{folder} does not say what tables mean ({type(error).__name__}: {error})",
            remedy="restore its columns.toml, tables.toml and views.toml: each [table] has `about`, its "
            "[table.columns], and may be `like` another one",
        ) from None


def statement(kind: str, name: str, column: str | None, meaning: str) -> str:
    """COMMENT ON a `TABLE` or `VIEW`, or a `COLUMN` of one."""
    of = f".{quote_identifier(column)}" if column else ""
    return f"COMMENT ON {kind} metarisk.{quote_identifier(name)}{of} IS {literal(meaning)}"


def outdated(warehouse: Warehouse, meanings: Meanings) -> tuple[list[str], int]:
    """COMMENT ON for all that has another comment than it means, and how many are left since only the owner may.

    The log says so of the latter. What nobody described, such as a view of one's own, keeps its comment.
    """
    statements, left = [], 0
    for row in warehouse.rows(_STANDING[warehouse.dialect]):
        meaning = meanings.get(row["name"], {}).get(row["column_name"], row["comment"])
        if meaning != row["comment"] and row["owned"]:
            statements.append(statement(row["kind"], row["name"], row["column_name"], meaning))
        elif meaning != row["comment"]:
            left += 1
    if left:
        _log.warning(
            "%d comments of schema metarisk are not what sql/dictionary says, and this user does not own it; "
            "the next command of its owner, such as `metarisk status`, writes them",
            left,
        )
    return statements, left
