"""On PostgreSQL the job needs no more than to append; readers read views, auditors read all, and nobody rewrites."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from metarisk.domain import MetariskError
from metarisk.upkeep import audit
from tests.end_to_end import tiny
from tests.end_to_end.conftest import Grown
from tests.end_to_end.tiny import FIRST, SECOND, Project
from tests.warehouses import Server, user

pytestmark = pytest.mark.xdist_group("postgresql")
REWRITES = (
    "UPDATE metarisk.risk_score SET score = 0",
    "DELETE FROM metarisk.publication",
    "TRUNCATE metarisk.event_log",
    "DROP VIEW metarisk.night",
    "ALTER TABLE metarisk.run ADD COLUMN more TEXT",
    "CREATE TABLE metarisk.mine (a INTEGER)",
)


@pytest.fixture
def published(grown: Grown, postgresql: Server, tmp_path: Path) -> tuple[Project, str]:
    """A project of one's own with the night of FIRST, and its database."""
    project, template = grown("postgresql", "published")
    database = postgresql.create_database(template)
    return tiny.copy(project, tmp_path / "published", postgresql.url(database)), database


def refused(server: Server, database: str, name: str, *statements: str) -> None:
    """The user may do none of these."""
    with psycopg.connect(server.url(database, user=name), autocommit=True) as connection:
        for statement in statements:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement.encode())


def test_a_writer_runs_nights_and_rewrites_nothing(published: tuple[Project, str], postgresql: Server) -> None:
    project, database = published
    with user(postgresql, "metarisk_writer", database) as writer:
        postgresql.execute(f"GRANT USAGE ON SCHEMA source TO {writer}", database=database)
        postgresql.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA source TO {writer}", database=database)
        own = tiny.copy(project, project.settings.project.with_name("own"), postgresql.url(database, user=writer))
        assert own.weekly(SECOND).promoted
        assert own.nightly(SECOND).outcome == "published"
        assert own.nightly(SECOND.replace(month=7, day=1)).outcome == "published"  # a partition of its own
        assert audit.verify(own.context(SECOND)).faults == ()
        refused(postgresql, database, writer, *REWRITES)
        foreign = "SELECT metarisk.make_partition('source.tiny_loans', DATE '2030-01-01')"
        with (
            psycopg.connect(postgresql.url(database, user=writer)) as connection,
            pytest.raises(psycopg.errors.RaiseException, match="not a table of the schema metarisk"),
        ):
            connection.execute(foreign)


def test_readers_read_and_do_not_write(published: tuple[Project, str], postgresql: Server) -> None:
    project, database = published
    append = "INSERT INTO metarisk.event_log SELECT * FROM metarisk.event_log"
    with user(postgresql, "metarisk_auditor") as auditor:
        own = tiny.copy(project, project.settings.project.with_name("own"), postgresql.url(database, user=auditor))
        assert audit.verify(own.context(FIRST)).faults == ()
        refused(postgresql, database, auditor, append, *REWRITES)
        with pytest.raises(MetariskError, match="denies the right"):
            own.nightly(SECOND)
    with user(postgresql, "metarisk_bi") as reader:
        with psycopg.connect(postgresql.url(database, user=reader)) as connection:
            assert connection.execute("SELECT count(*) FROM metarisk.score_current").fetchone() != (0,)
        tables = ("risk_score", "event_log", "adaptation", "schema_migration", "model")
        refused(postgresql, database, reader, append, *REWRITES, *(f"TABLE metarisk.{table}" for table in tables))
