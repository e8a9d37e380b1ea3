"""Which segments drift as a night sees them, and how what was done is recorded."""

from datetime import date

from metarisk.adapt import Proof, Recency
from metarisk.domain import Warehouse
from metarisk.drift import remedy
from metarisk.drift.decide import SCHEMA
from metarisk.drift.remedy import REMEDY
from metarisk.record.drift import drifting_segments
from metarisk.steps.adapt import cells
from tests.warehouses import insert

MAY, JUNE, JULY = date(2026, 5, 31), date(2026, 6, 30), date(2026, 7, 31)


def test_a_night_knows_the_alerts_that_were_open_before_it(warehouse: Warehouse) -> None:
    log = [
        ("a", "opened", MAY, "north|car"), ("b", "opened", JUNE, "north|home"), ("c", "opened", MAY, "car"),
        ("c", "closed", MAY, "car"), ("d", "opened", MAY, None), ("e", "opened", MAY, "south"),
        ("e", "closed", JULY, "south"),
    ]  # fmt: skip
    with warehouse.transaction() as transaction:
        for seq, (alert, event, day, segment) in enumerate(log, start=1):
            insert(
                transaction, "metarisk.drift_alert", portfolio="loans", seq=seq, alert_id=alert, as_of=day,
                happened_at="2026-07-01 12:00:00+00", event=event, segment=segment, metric="psi", status="alert",
                told="message", author="metarisk",
            )  # fmt: skip
    assert drifting_segments(warehouse, "loans", JUNE) == ["north|car", "south"]


def test_a_name_means_its_cell_or_every_cell_of_that_value() -> None:
    known = [("north", "car"), ("north", "home"), ("south", "car"), ("a|b", "car")]
    assert cells(["north|home"], known) == [("north", "home")]
    assert cells(["car"], known) == [("north", "car"), ("south", "car"), ("a|b", "car")]
    assert cells(["a\\|b"], known) == [("a|b", "car")]
    assert cells(["gone"], known) == []


def test_what_was_done_is_recorded_with_its_proof_or_its_reason() -> None:
    proof = Proof("north|car", -0.004, -0.006, -0.002, 120, 900)
    done = remedy.remedy_rows(Recency((("north", "car"),), 12.0, (proof,)))
    assert done.schema == SCHEMA
    (row,) = done.rows(named=True)
    assert (row["metric"], row["segment"], row["value"], row["n_cur"]) == (REMEDY, "north|car", -0.004, 120)
    assert "re-weighted to recent rows, half-life 12 months; loss -0.00400 [-0.00600, -0.00200]" in row["detail"]
    (row,) = remedy.remedy_rows(Recency((("north", "car"),), reason="too few")).rows(named=True)
    assert "left as it is: too few" in row["detail"]
    assert remedy.remedy_rows(Recency()).is_empty()
