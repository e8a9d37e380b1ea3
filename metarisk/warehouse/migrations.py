"""Numbered files that define the schema `metarisk`: applied once, in order, checksummed; views are rebuilt after them.

What differs between databases is in the files; only dropping and granting views is known here by dialect. What all
of it means is in `dictionary`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

from metarisk.domain import ConfigError, Transaction, Warehouse
from metarisk.warehouse import dictionary
from metarisk.warehouse.statements import quote_identifier, split, tokens

BI, WRITER, AUDITOR = "metarisk_bi", "metarisk_writer", "metarisk_auditor"
RIGHTS = {
    BI: (),
    WRITER: (
        "GRANT SELECT, INSERT ON ALL TABLES IN SCHEMA metarisk TO {role}",
        "GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA metarisk TO {role}",
    ),
    AUDITOR: ("GRANT SELECT ON ALL TABLES IN SCHEMA metarisk TO {role}",),
}
"""What each group of users may do besides reading the views; a role that is not there gets nothing."""
_FILE = re.compile(r"(?P<number>\d{3})_(?P<name>[a-z0-9_]+?)(?:\.(?P<dialect>duckdb|postgresql))?\.sql")
_HAS_HISTORY = """
    SELECT 1 AS one FROM information_schema.tables
    WHERE table_schema = 'metarisk' AND table_name = 'schema_migration'
"""
_STATE = """
    SELECT 'migration' AS kind, version AS number, name, checksum FROM metarisk.schema_migration
    UNION ALL SELECT 'built', seq, 'views', checksum FROM metarisk.view_set
    UNION ALL SELECT 'view', 0, CAST(table_name AS TEXT), '' FROM information_schema.views
    WHERE table_schema = 'metarisk'
    ORDER BY number
"""
_UNREADABLE = """
    SELECT v.viewname FROM pg_views v
    JOIN pg_roles r ON r.rolname IN ('metarisk_bi', 'metarisk_writer', 'metarisk_auditor')
    WHERE v.schemaname = 'metarisk'
      AND NOT has_table_privilege(r.oid, format('%I.%I', v.schemaname, v.viewname), 'SELECT')
"""
_VIEWS = "SELECT table_name AS name FROM information_schema.views WHERE table_schema = 'metarisk' ORDER BY table_name"
_GRANTS = """
    SELECT g.grantee, g.table_name AS name FROM information_schema.role_table_grants g
    JOIN information_schema.views v USING (table_schema, table_name)
    WHERE g.table_schema = 'metarisk' AND g.privilege_type = 'SELECT' AND g.grantee <> current_user
"""
_PREFIX = ("metarisk", ".")
_LOCK, _WAIT_SECONDS = "metarisk/migrate", 120.0


@dataclass(frozen=True)
class Migration:
    """One numbered file, as the dialect sees it."""

    number: int
    path: Path
    sql: str

    @property
    def name(self) -> str:
        """NNN_name."""
        return _stem(self.path)

    @property
    def checksum(self) -> str:
        """SHA-256 of the text; line ends do not count."""
        return _checksum(self.sql)


def read(folder: Path, dialect: str) -> list[Migration]:
    """The migrations of a dialect in order. Raises ConfigError for a bad name, a gap, or one number used twice."""
    found: dict[int, dict[str, Path]] = {}
    for path in sorted(folder.glob("*.sql")):
        match = _FILE.fullmatch(path.name)
        if match is None:
            raise ConfigError(f"{path} is no migration", remedy="name it NNN_name.sql or NNN_name.<dialect>.sql")
        variants = found.setdefault(int(match["number"]), {})
        other = next((known for known in variants.values() if _stem(known) != _stem(path)), None)
        if other is not None:
            raise ConfigError(f"{path.name} and {other.name} have one number", remedy="give the newer the next number")
        variants[match["dialect"] or "any"] = path
    if sorted(found) != list(range(1, len(found) + 1)):
        missing = min(set(range(1, max(found) + 1)) - set(found), default=0)
        raise ConfigError(f"{folder} has no migration {missing:03d}", remedy="restore the file, or renumber from 001")
    chosen = {number: variants.get(dialect, variants.get("any")) for number, variants in sorted(found.items())}
    files = [Migration(n, path, path.read_text("utf-8")) for n, path in chosen.items() if path is not None]
    if not files:
        raise ConfigError(f"{folder} holds no migrations", remedy="point METARISK_PROJECT to the project's folder")
    return files


def apply(warehouse: Warehouse, migrations: Path, views: Path, words: Path) -> list[str]:
    """Apply migrations not applied yet, each in a transaction of its own, then views in one, then comments in one.

    Returns the names of what was done: file stems, `views` and `comments`. Nothing is written where all stands
    already, and concurrent callers wait for each other. Raises ConfigError for an edited, missing or late file.
    """
    files, definitions = read(migrations, warehouse.dialect), read_views(views)
    meanings = dictionary.read(words)
    commented = _checksum(repr((files[-1].name, meanings)))
    state = _state(warehouse)
    if not _pending(state, files) and _views_stand(warehouse, state, definitions) and state.commented == commented:
        return []
    with warehouse.lock(_LOCK, wait_seconds=_WAIT_SECONDS):
        done = []
        for migration in _pending(_state(warehouse), files):
            with warehouse.transaction() as transaction:
                _run(transaction, migration)
            done.append(migration.name)
        if not _views_stand(warehouse, _state(warehouse), definitions):
            with warehouse.transaction() as transaction:
                _rebuild(transaction, definitions, warehouse.dialect)
            done.append("views")
        if _state(warehouse).commented != commented and _comment(warehouse, meanings, definitions, commented):
            done.append("comments")
        return done


@dataclass(frozen=True)
class _State:
    """What the warehouse says was done to it."""

    history: list[dict[str, Any]]
    """Rows of `schema_migration` by number."""
    built: str | None
    """Checksum of the views as last built."""
    commented: str
    """Checksum of what was commented since; empty: nothing."""
    views: set[str]


def _state(warehouse: Warehouse) -> _State:
    rows = warehouse.rows(_STATE) if warehouse.rows(_HAS_HISTORY) else []
    by_kind = {kind: [row for row in rows if row["kind"] == kind] for kind in ("migration", "built", "view")}
    built, _, commented = str(by_kind["built"][-1]["checksum"]).partition(" ") if by_kind["built"] else (None, "", "")
    return _State(by_kind["migration"], built, commented, {str(row["name"]) for row in by_kind["view"]})


def _pending(state: _State, files: list[Migration]) -> list[Migration]:
    """What is not applied yet; ConfigError where the files do not continue what is."""
    known = {migration.number: migration for migration in files}
    for row in state.history:
        migration = known.get(int(row["number"]))
        if migration is None or migration.name != row["name"]:
            raise ConfigError(
                f"the warehouse has the migration {row['name']}, which this code has not",
                remedy="run the version of the code that made it, or restore the file",
            )
        if migration.checksum != row["checksum"]:
            raise ConfigError(
                f"{migration.path.name} was edited after it ran on this warehouse",
                remedy="restore its text (git log shows it) and put the change into a new migration",
            )
    newest = max((int(row["number"]) for row in state.history), default=0)
    pending = [
        migration for migration in files if migration.number not in {int(row["number"]) for row in state.history}
    ]
    late = next((migration for migration in pending if migration.number < newest), None)
    if late is not None:
        raise ConfigError(
            f"{late.path.name} comes before {newest:03d}, which already ran", remedy="give it the next free number"
        )
    return pending


def _run(transaction: Transaction, migration: Migration) -> None:
    for statement in split(migration.sql):
        transaction.execute(statement)
    transaction.execute(
        "INSERT INTO metarisk.schema_migration (version, name, checksum, applied_at) "
        "VALUES ($version, $name, $checksum, $applied_at)",
        {
            "version": migration.number,
            "name": migration.name,
            "checksum": migration.checksum,
            "applied_at": datetime.now(UTC),
        },
    )


def read_views(folder: Path) -> dict[str, str]:
    """View name to its CREATE VIEW statement, in the order of creation; a file holds the view of its name."""
    definitions = {}
    for path in sorted(folder.glob("*.sql")):
        statements = split(path.read_text("utf-8"))
        heads = [" ".join(statement.split()[:4]).lower() for statement in statements]
        if heads != [f"create view metarisk.{path.stem} as"]:
            raise ConfigError(
                f"{path} does not define its view", remedy=f"write one CREATE VIEW metarisk.{path.stem} AS"
            )
        definitions[path.stem] = statements[0]
    return {name: definitions[name] for name in in_order(definitions)}


def in_order(definitions: Mapping[str, str]) -> list[str]:
    """View names, each after those that its text reads as `metarisk.<name>`."""
    graph = {name: _reads(sql) & (set(definitions) - {name}) for name, sql in sorted(definitions.items())}
    try:
        return list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        raise ConfigError(f"views read each other: {' -> '.join(error.args[1])}", remedy="break the circle") from None


def _reads(sql: str) -> set[str]:
    texts = [text.strip('"') for kind, text in tokens(sql) if kind not in {"space", "comment"}]
    return {name for schema, dot, name in zip(texts, texts[1:], texts[2:], strict=False) if (schema, dot) == _PREFIX}


def _views_stand(warehouse: Warehouse, state: _State, definitions: Mapping[str, str]) -> bool:
    if state.built != _checksum("".join(definitions.values())) or state.views != set(definitions):
        return False
    return warehouse.dialect == "duckdb" or not warehouse.rows(_UNREADABLE)


def _rebuild(transaction: Transaction, definitions: Mapping[str, str], dialect: str) -> None:
    """Drop every view of the schema, create those of the files, and give readers back what they had."""
    grants = transaction.rows(_GRANTS) if dialect == "postgresql" else []
    standing = [quote_identifier(str(row["name"])) for row in transaction.rows(_VIEWS)]
    if standing and dialect == "postgresql":  # in one statement, so that they may read each other
        transaction.execute("DROP VIEW " + ", ".join(f"metarisk.{view}" for view in standing))
    elif standing:
        for view in standing:
            transaction.execute(f"DROP VIEW metarisk.{view}")
    for sql in definitions.values():
        transaction.execute(sql)
    if dialect == "postgresql":
        _grant(transaction, definitions, grants)
    _record(transaction, _checksum("".join(definitions.values())))


def _comment(
    warehouse: Warehouse, meanings: dictionary.Meanings, definitions: Mapping[str, str], commented: str
) -> bool:
    """Write the comments that differ and, where none is the owner's to write, that they stand; whether any was."""
    statements, left = dictionary.outdated(warehouse, meanings)
    if statements or not left:
        with warehouse.transaction() as transaction:
            for statement in statements:
                transaction.execute(statement)
            if not left:
                _record(transaction, f"{_checksum(''.join(definitions.values()))} {commented}")
    return bool(statements)


def _record(transaction: Transaction, checksum: str) -> None:
    transaction.execute(
        "INSERT INTO metarisk.view_set (seq, checksum, applied_at) "
        "SELECT coalesce(max(seq), 0) + 1, $checksum, $applied_at FROM metarisk.view_set",
        {"checksum": checksum, "applied_at": datetime.now(UTC)},
    )


def _grant(transaction: Transaction, definitions: Mapping[str, str], before: list[dict[str, Any]]) -> None:
    grants = {(str(row["grantee"]), str(row["name"])) for row in before if row["name"] in definitions}
    present = {row["rolname"] for row in transaction.rows("SELECT rolname::text AS rolname FROM pg_roles")}
    for role, rights in RIGHTS.items():
        if role in present:
            transaction.execute(f"GRANT USAGE ON SCHEMA metarisk TO {role}")
            for right in rights:
                transaction.execute(right.format(role=role))
            grants |= {(role, name) for name in definitions}
    for grantee, name in sorted(grants):
        reader = "PUBLIC" if grantee == "PUBLIC" else quote_identifier(grantee)
        transaction.execute(f"GRANT SELECT ON metarisk.{quote_identifier(name)} TO {reader}")


def _stem(path: Path) -> str:
    return path.name.split(".")[0]


def _checksum(sql: str) -> str:
    return hashlib.sha256("\n".join(sql.splitlines()).encode()).hexdigest()
