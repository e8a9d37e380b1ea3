"""What BI sees: the views over published, restated and dropped nights, the six documented queries, the snapshot."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import psycopg
import pytest

from metarisk.domain import Warehouse
from metarisk.warehouse.duckdb.snapshot import NIGHTS
from metarisk.warehouse.duckdb.warehouse import DuckDBWarehouse
from tests.conftest import BOTH
from tests.warehouses import ROOT, VIEWS, Server, insert, open_postgresql, publish_night, schema, table, user

FRIDAY, MONDAY = date(2026, 3, 27), date(2026, 3, 30)
NOON = datetime(2026, 4, 1, 12, tzinfo=UTC)
QUERIES = re.findall(r"```sql\n(.*?)```", (ROOT / "docs" / "bi-queries.md").read_text("utf-8"), flags=re.DOTALL)
Read = Callable[[str], list[tuple[Any, ...]]]


def fill(warehouse: Warehouse) -> None:
    """Two nights of loans, Monday restated the day after noon; an older night of cards; two models."""
    publish_night(warehouse, FRIDAY, run_id="friday", score=0.1, at=NOON - timedelta(days=4))
    publish_night(warehouse, MONDAY, run_id="monday", score=0.2, at=NOON - timedelta(days=1))
    publish_night(warehouse, MONDAY, run_id="again", score=0.3, at=NOON + timedelta(days=1), reason="late file")
    publish_night(warehouse, FRIDAY, run_id="cards", portfolio="cards", score=0.4, at=NOON - timedelta(days=4))
    with warehouse.transaction() as transaction:
        insert(
            transaction, "metarisk.adaptation", run_id="friday", adaptation_id="old", model_id="m1", portfolio="loans",
            as_of=FRIDAY, segment="gone", status="adapted", support_rows=9, support_hash="h", parameters="{}",
        )  # fmt: skip
        insert(
            transaction, "metarisk.drift_metric", run_id="again", portfolio="loans", as_of=MONDAY, segment="south|auto",
            level="segment", feature="age", metric="psi", value=0.4, effect=0.3, threshold=0.1, status="alert",
        )  # fmt: skip
        for run_id, before in (("monday", "friday"), ("again", "friday")):
            insert(
                transaction, "metarisk.score_move_part", run_id=run_id, before_run_id=before, portfolio="loans",
                as_of=MONDAY, before_as_of=FRIDAY, target="pd_12m", segment="south|auto", measure="mean_score",
                rows_before=1, rows_after=1, rows_entered=0, rows_left=0, value_before=0.1, value_after=0.3,
                from_leavers=0.0, from_entrants=0.0, from_data=0.05, from_adaptation=0.25, from_model=-0.1,
                from_calibration=0.0,
            )  # fmt: skip
        for model, state in (("m1", "champion"), ("m2", "candidate")):
            insert(
                transaction, "metarisk.model", model_id=model, portfolio="loans", as_of=FRIDAY, recipe="map_head",
                created_at=NOON, path=f"registry/{model}", metrics="{}", config_hash="c", code_version="1",
            )  # fmt: skip
            for seq, reached in enumerate(("candidate", state), start=1):
                insert(
                    transaction, "metarisk.model_state", model_id=model, portfolio="loans", seq=seq, state=reached,
                    since=NOON, by_whom="job",
                )  # fmt: skip
            insert(
                transaction, "metarisk.evidence", model_id=model, portfolio="loans", as_of=FRIDAY,
                protocol="walk_forward", candidate="map_head", slice="all", metric="log_loss", value=0.3, rows=10,
            )  # fmt: skip
        insert(
            transaction, "metarisk.run_attempt", attempt_id="late", run_id=None, portfolio="loans", as_of=MONDAY,
            mode="nightly", step="ready", started_at=NOON, ended_at=NOON, host="h", pid=1, outcome="source_late",
        )  # fmt: skip
        insert(
            transaction, "metarisk.portfolio", portfolio="loans", seq=1, told_at=NOON, title="Loans", timezone="UTC",
            calendar="daily", catch_up="all", scheduled=False, start_minute=255, start_timezone="Europe/Berlin",
            grace_minutes=360, max_model_age_days=60,
        )  # fmt: skip
        for night, rule in ((FRIDAY, "old"), (MONDAY, "unique")):
            insert(
                transaction, "metarisk.quality_result", attempt_id="late", portfolio="loans", as_of=night,
                suite="loans.json", rule=rule, severity="warning", success=True,
            )  # fmt: skip


@pytest.fixture(params=BOTH)
def read(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Read]:
    """Read as BI does: the DuckDB snapshot opened read-only; PostgreSQL as a role that has the views alone."""
    if request.param == "duckdb":
        embedded: DuckDBWarehouse = request.getfixturevalue("embedded")
        fill(embedded)
        with closing(duckdb.connect(str(embedded.snapshot()), read_only=True)) as snapshot:
            snapshot.execute("SET TimeZone = 'UTC'")
            yield lambda sql: snapshot.execute(sql).fetchall()
        return
    server: Server = request.getfixturevalue("postgresql")
    name = server.create_database()
    warehouse = open_postgresql(server.url(name), tmp_path)
    warehouse.migrate(*schema())
    fill(warehouse)
    with user(server, "metarisk_bi") as reader, psycopg.connect(server.url(name, user=reader), autocommit=True) as bi:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            bi.execute("SELECT * FROM metarisk.publication")
        yield lambda sql: bi.execute(sql.encode()).fetchall()


def test_the_views_tell_the_nights(read: Read) -> None:
    current = read("SELECT portfolio, as_of, run_id, count(*) FROM metarisk.score_current GROUP BY 1, 2, 3 ORDER BY 1")
    assert current == [("cards", FRIDAY, "cards", 3), ("loans", MONDAY, "again", 3)]
    history = read(
        "SELECT as_of, run_id, count(*) FROM metarisk.score_history WHERE portfolio = 'loans' GROUP BY 1, 2 ORDER BY 1"
    )
    assert history == [(FRIDAY, "friday", 3), (MONDAY, "again", 3)]
    known = read(
        "SELECT run_id, known_from, known_to FROM metarisk.score_as_known "
        "WHERE portfolio = 'loans' AND entity = 'loan-0' ORDER BY known_from"
    )
    day = timedelta(days=1)
    assert known == [
        ("friday", NOON - 4 * day, None),
        ("monday", NOON - day, NOON + day),
        ("again", NOON + day, None),
    ]
    nights = read(
        "SELECT as_of, seq, is_current, reason, duration_seconds "
        "FROM metarisk.night WHERE portfolio = 'loans' ORDER BY 1, 2"
    )
    assert nights == [(FRIDAY, 1, True, None, 120), (MONDAY, 1, False, None, 120), (MONDAY, 2, True, "late file", 120)]
    assert read("SELECT outcome FROM metarisk.attempt_recent WHERE attempt_id = 'late'") == [("source_late",)]


def test_the_views_tell_segments_models_and_drift(read: Read) -> None:
    health = read(
        "SELECT segment, last_as_of, age_days, status, run_id "
        "FROM metarisk.segment_health WHERE portfolio = 'loans' ORDER BY 1"
    )
    assert health == [
        ("gone", FRIDAY, 3, "adapted", "friday"),
        ("north|auto", MONDAY, 0, "adapted", "again"),
        ("south|auto", MONDAY, 0, "abstained", "again"),
    ]
    assert read("SELECT DISTINCT age_days FROM metarisk.segment_health WHERE portfolio = 'cards'") == [(0,)]
    assert read("SELECT model_id, state FROM metarisk.model_current ORDER BY 1") == [
        ("m1", "champion"),
        ("m2", "candidate"),
    ]
    assert read("SELECT model_id, value FROM metarisk.evidence_current") == [("m1", 0.3)]
    drift = read("SELECT run_id, feature, status FROM metarisk.drift_current WHERE portfolio = 'loans' ORDER BY 2")
    assert drift == [("again", "age", "alert"), ("again", "income", "ok")]
    assert read("SELECT count(*) FROM metarisk.drift_history WHERE portfolio = 'loans'") == [(3,)]
    assert read("SELECT rule FROM metarisk.quality_current") == [("unique",)]
    summary = read(
        "SELECT segment, entities, mean_score, lowest_score "
        "FROM metarisk.segment_summary WHERE as_of = DATE '2026-03-30' ORDER BY 1"
    )
    assert summary == [("north|auto", 2, pytest.approx(0.301), 0.3), ("south|auto", 1, pytest.approx(0.301), 0.301)]


def test_the_views_skip_what_was_taken_back(warehouse: Warehouse) -> None:
    fill(warehouse)
    keys: dict[str, Any] = {"portfolio": "loans", "feature": "income", "metric": "psi", "status": "alert"}
    keys |= {"happened_at": NOON, "told": "message"}
    with warehouse.transaction() as transaction:
        for seq, (alert, event, night, run, author) in enumerate(
            (
                ("old", "opened", FRIDAY, "friday", "metarisk"),
                ("old", "closed", MONDAY, "again", "metarisk"),
                ("new", "opened", MONDAY, "again", "metarisk"),
                ("new", "acknowledged", MONDAY, None, "Ann"),
            ),
            start=1,
        ):
            line = keys | {"seq": seq, "alert_id": alert, "event": event, "as_of": night, "author": author}
            insert(transaction, "metarisk.drift_alert", **line, run_id=run)
    opened = "SELECT alert_id, acknowledged_by FROM metarisk.drift_alert_open ORDER BY 1"
    assert warehouse.rows(opened) == [{"alert_id": "new", "acknowledged_by": "Ann"}]
    for seq, run in ((3, None), (4, "again")):
        with warehouse.transaction() as transaction:
            insert(
                transaction, "metarisk.publication", portfolio="loans", as_of=MONDAY, seq=seq, run_id=run,
                published_at=NOON + timedelta(days=seq), reason="wrong file",
            )  # fmt: skip
        gone = run is None
        read = "SELECT DISTINCT as_of, run_id FROM metarisk.score_current WHERE portfolio = 'loans'"
        assert warehouse.rows(read) == [{"as_of": FRIDAY if gone else MONDAY, "run_id": "friday" if gone else "again"}]
        taken = "SELECT run_id FROM metarisk.retracted_run ORDER BY 1"
        assert [row["run_id"] for row in warehouse.rows(taken)] == (["again", "monday"] if gone else ["monday"])
        assert [row["alert_id"] for row in warehouse.rows(opened)] == (["old"] if gone else ["new"])
        nights = "SELECT seq, is_current, status FROM metarisk.night WHERE as_of = $as_of ORDER BY seq"
        lines = [(row["seq"], row["is_current"], row["status"]) for row in warehouse.rows(nights, {"as_of": MONDAY})]
        assert lines == [(1, False, "retracted"), (2, False, "retracted" if gone else "green"), (3, False, "retracted"),
                         (4, True, "green")][:seq]  # fmt: skip
        health = "SELECT max(age_days) AS age FROM metarisk.segment_health WHERE portfolio = 'loans'"
        assert warehouse.rows(health) == [{"age": 0 if gone else 3}]
    known = (
        "SELECT run_id, known_to FROM metarisk.score_as_known WHERE as_of = $as_of AND entity = 'loan-0' ORDER BY seq"
    )
    ends = [(row["run_id"], row["known_to"]) for row in warehouse.rows(known, {"as_of": MONDAY})]
    assert ends == [("monday", NOON + timedelta(days=1)), ("again", NOON + timedelta(days=3)), ("again", None)]


def test_the_view_tells_why_the_current_scores_moved(read: Read) -> None:
    found = read("SELECT run_id, segment, change, from_adaptation, is_latest FROM metarisk.score_move")
    assert found == [("again", "south|auto", pytest.approx(0.2), 0.25, True)]


def test_the_documented_queries_answer(read: Read) -> None:
    riskiest, moved, known, look, nights, standing = (read(query) for query in QUERIES)
    assert [(row[0], row[3]) for row in riskiest] == [
        *(("cards", f"loan-{number}") for number in (2, 1, 0)),
        *(("loans", f"loan-{number}") for number in (2, 1, 0)),
    ]
    assert [row[-1] for row in moved] == [None, None, None, pytest.approx(0.2), None, pytest.approx(0.2)]
    assert known == [
        ("loans", MONDAY, f"loan-{n}", "pd_12m", 0.2 + n / 1000, 0.3 + n / 1000, "late file") for n in range(3)
    ]
    assert [(row[0], row[1], row[2], row[7]) for row in look] == [
        ("loans", "gone", 3, 0),
        ("loans", "south|auto", 0, 1),
        ("cards", "south|auto", 0, 0),
    ]
    assert [(row[0], row[1]) for row in nights] == [
        ("loans", MONDAY),
        ("loans", MONDAY),
        ("cards", FRIDAY),
        ("loans", FRIDAY),
    ]
    assert {row[12] for row in nights} == {"map_head"}
    # The attempt that found its source late was before the one that published Monday again.
    assert [row[:4] for row in standing] == [("loans", "grey", "no schedule: no night is due", MONDAY)]


# the snapshot


def nights_of(path: Path) -> list[tuple[str, date]]:
    with closing(duckdb.connect(str(path), read_only=True)) as snapshot:
        sql = "SELECT DISTINCT run_id, as_of FROM metarisk.risk_score ORDER BY as_of, run_id"
        return snapshot.execute(sql).fetchall()


def content(path: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of every table and view of the snapshot."""
    with closing(duckdb.connect(str(path), read_only=True)) as snapshot:
        names = snapshot.execute(
            "SELECT table_name FROM information_schema.tables WHERE table_schema = 'metarisk' ORDER BY 1"
        ).fetchall()
        return {name: sorted(snapshot.execute(f"FROM metarisk.{name}").fetchall(), key=repr) for (name,) in names}


def publish_many(warehouse: Warehouse, first: date, days: int) -> None:
    """Nights of one score each."""
    nights = [first + timedelta(days=number) for number in range(days)]
    key = {"run_id": [f"run-{night}" for night in nights], "portfolio": ["loans"] * days, "as_of": nights}
    times = [datetime(night.year, night.month, night.day, 4, tzinfo=UTC) for night in nights]
    score = {"entity": ["a"] * days, "target": ["t"] * days, "segment": ["s"] * days, "status": ["adapted"] * days}
    with warehouse.transaction() as transaction:
        transaction.append("metarisk.publication", [table(**key, seq=[1] * days, published_at=times)])
        transaction.append("metarisk.risk_score", [table(**key, **score, score=[night.day / 31 for night in nights])])


def test_the_snapshot_holds_recent_nights_and_month_ends(embedded: DuckDBWarehouse) -> None:
    publish_many(embedded, date(2026, 1, 1), 80)
    newest = date(2026, 1, 1) + timedelta(days=79)
    recent = [newest - timedelta(days=back) for back in range(NIGHTS)]
    expected = sorted({*recent, date(2026, 1, 31)})
    assert [as_of for _, as_of in nights_of(embedded.snapshot())] == expected
    publish_many(embedded, newest + timedelta(days=1), 45)
    path = embedded.snapshot()
    nights = [as_of for _, as_of in nights_of(path)]
    assert len(nights) == NIGHTS + 3
    assert nights[:3] == [date(2026, 1, 31), date(2026, 2, 28), date(2026, 3, 31)]
    grown = content(path)
    path.unlink()
    assert content(embedded.snapshot()) == grown
    assert set(grown) >= {view.stem for view in VIEWS.glob("*.sql")}


def test_the_snapshot_follows_a_restatement_and_keeps_what_was_known(embedded: DuckDBWarehouse) -> None:
    fill(embedded)
    embedded.snapshot()
    publish_night(embedded, FRIDAY, run_id="friday-2", score=0.5, at=NOON + timedelta(days=2), reason="corrected")
    path = embedded.snapshot()
    assert [run for run, _ in nights_of(path)] == ["cards", "friday", "friday-2", "again", "monday"]
    with closing(duckdb.connect(str(path), read_only=True)) as snapshot:
        sql = "SELECT DISTINCT run_id FROM metarisk.score_history WHERE portfolio = 'loans' ORDER BY 1"
        assert snapshot.execute(sql).fetchall() == [("again",), ("friday-2",)]


def test_a_reader_keeps_the_snapshot_it_opened(embedded: DuckDBWarehouse) -> None:
    fill(embedded)
    with closing(duckdb.connect(str(embedded.snapshot()), read_only=True)) as before:
        publish_night(embedded, date(2026, 3, 31), run_id="tuesday", at=NOON + timedelta(days=3))
        path = embedded.snapshot()
        assert before.execute("SELECT max(as_of) FROM metarisk.score_current").fetchone() == (MONDAY,)
    assert {row[1] for row in content(path)["score_current"]} == {FRIDAY, date(2026, 3, 31)}


def test_a_damaged_or_older_snapshot_is_built_anew(embedded: DuckDBWarehouse, tmp_path: Path) -> None:
    fill(embedded)
    path = embedded.snapshot()
    whole = content(path)
    for spoil in (lambda: path.write_bytes(b"torn" * 4096), lambda: alter(path)):
        spoil()
        (tmp_path / f"{path.stem}.building.duckdb").write_bytes(b"left by a killed process")
        assert content(embedded.snapshot()) == whole
        assert not list(tmp_path.glob("*building*"))


def test_a_snapshot_of_a_warehouse_that_was_restored_is_not_taken_over(embedded: DuckDBWarehouse) -> None:
    fill(embedded)
    path = embedded.snapshot()
    with embedded.transaction() as transaction:  # as many rows as before, the last ones others
        for name in ("run", "adaptation", "publication"):
            transaction.execute(f"DELETE FROM metarisk.{name} WHERE run_id = 'again'")
    publish_night(embedded, MONDAY, run_id="other", at=NOON + timedelta(days=1), reason="restored")
    found = content(embedded.snapshot())
    path.unlink()
    assert found == content(embedded.snapshot())
    assert "again" not in str(found["publication"])


def test_a_snapshot_is_taken_over_after_old_rows_were_deleted(embedded: DuckDBWarehouse) -> None:
    """What stands in the file, and not in the warehouse, shows whether it was copied anew."""

    def marked(mark: str) -> Path:
        path = embedded.snapshot()
        with closing(duckdb.connect(str(path))) as snapshot:
            snapshot.execute("UPDATE metarisk.publication SET reason = $1", [mark])
        return path

    def marks(path: Path) -> dict[str, int]:
        return dict(Counter(str(row[5]) for row in content(path)["publication"]))

    publish_many(embedded, date(2026, 1, 1), 9)
    marked("first")
    with embedded.transaction() as transaction:
        transaction.execute("DELETE FROM metarisk.publication WHERE as_of < $as_of", {"as_of": date(2026, 1, 4)})
    assert marks(marked("second")) == {"second": 6}
    publish_many(embedded, date(2026, 1, 10), 2)
    assert marks(embedded.snapshot()) == {"second": 6, "None": 2}


def alter(path: Path) -> None:
    """Make the snapshot look as one of an older schema."""
    with closing(duckdb.connect(str(path))) as snapshot:
        for (view,) in snapshot.execute(
            "SELECT view_name FROM duckdb_views() WHERE schema_name = 'metarisk'"
        ).fetchall():
            snapshot.execute(f"DROP VIEW metarisk.{view}")
        snapshot.execute("ALTER TABLE metarisk.risk_score DROP COLUMN points")


@pytest.mark.xdist_group("postgresql")
def test_postgresql_needs_no_snapshot(postgresql: Server, tmp_path: Path) -> None:
    assert open_postgresql(postgresql.url(), tmp_path).snapshot() is None
