"""States of models, one at a time: who retires, who is withdrawn, which weeks prove anything, and what is refused."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from metarisk.domain import ConfigError, ModelError
from metarisk.jobs import Context
from metarisk.record import models as records
from metarisk.record.events import append_event
from metarisk.record.models import append_states
from metarisk.upkeep import models as promotion
from tests.end_to_end import tiny
from tests.end_to_end.tiny import NAME, Project
from tests.warehouses import insert

WEEK = timedelta(days=7)
FIRST, SECOND, THIRD = (date(2026, 6, 7) + WEEK * number for number in range(3))
STATES = "SELECT model_id, seq, state, since, by_whom, reason FROM metarisk.model_state ORDER BY since, model_id, seq"


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The tiny project before its first week; to be copied."""
    return tiny.make(tmp_path_factory.mktemp("empty") / "project")


@pytest.fixture
def project(empty: Project, tmp_path: Path) -> Project:
    return tiny.copy(empty, tmp_path / "project")


def register(project: Project, model_id: str, as_of: date, *states: str, **more: Any) -> None:
    """A model of a week with its first states, as `register` appends them."""
    context = project.context(as_of)
    with context.warehouse.transaction() as transaction:
        insert(
            transaction, "metarisk.model", model_id=model_id, portfolio=NAME, as_of=as_of, recipe="r",
            created_at=context.clock(), path=model_id, config_hash="c", code_version="1", mode=more.get("mode"),
        )  # fmt: skip
        for line in more.get("evidence", ()):
            insert(transaction, "metarisk.evidence", **evidence(model_id, as_of), **line)
        append_states(
            transaction,
            context.job,
            context.clock(),
            model_id,
            states,
            f"why {model_id}",
            withdraw=more.get("withdraw", False),
        )


def earlier_proofs(context: Context, incumbent: str) -> list[str]:
    bitemporal = context.portfolio.source.bitemporal
    return records.earlier_proofs(context.warehouse, context.job, incumbent, bitemporal=bitemporal)


def evidence(model_id: str, as_of: date) -> dict[str, Any]:
    return {"model_id": model_id, "portfolio": NAME, "as_of": as_of, "rows": 100, "events": 30}


def ahead(high: float, candidate: str = "new", **more: Any) -> dict[str, Any]:
    """Evidence of a challenger against the incumbent `old`."""
    line = {"protocol": "walk_forward", "candidate": candidate, "slice": "old", "metric": "loss_minus_incumbent"}
    return line | {"value": -0.2, "low": -0.3, "high": high} | more


def states(project: Project) -> dict[str, list[str]]:
    """By model its states, and that they are numbered from 1."""
    found: dict[str, list[str]] = {}
    for row in project.warehouse.rows(STATES):
        found.setdefault(row["model_id"], []).append(row["state"])
        assert row["seq"] == len(found[row["model_id"]])
    return found


def test_a_new_champion_retires_the_older_one_and_no_one_else(project: Project) -> None:
    register(project, "a", FIRST, "candidate", "champion")
    register(project, "b", FIRST, "candidate")
    register(project, "c", SECOND, "candidate", "champion")
    assert states(project) == {
        "a": ["candidate", "champion", "retired"],
        "b": ["candidate"],
        "c": ["candidate", "champion"],
    }
    register(project, "d", SECOND, "champion")
    assert states(project)["c"] == ["candidate", "champion", "retired"], "one of the same week is older"
    assert states(project)["a"][-2:] == ["champion", "retired"], "and what was retired is not again"


def test_a_champion_of_the_past_serves_the_past_and_is_retired_at_once(project: Project) -> None:
    register(project, "b", SECOND, "champion")
    register(project, "a", FIRST, "champion")
    assert states(project) == {"b": ["champion"], "a": ["champion", "retired"]}
    register(project, "c", THIRD, "champion")
    assert states(project)["b"] == ["champion", "retired"]
    assert states(project)["a"] == ["champion", "retired"]


def test_withdrawing_takes_every_newer_champion_away_once(project: Project) -> None:
    register(project, "a", FIRST, "champion")
    register(project, "b", SECOND, "champion")
    register(project, "waits", THIRD, "candidate")
    register(project, "c", THIRD, "champion")
    register(project, "d", FIRST, "champion", withdraw=True)
    assert states(project) == {
        "a": ["champion", "retired"], "b": ["champion", "retired", "withdrawn"], "waits": ["candidate"],
        "c": ["champion", "withdrawn"], "d": ["champion"],
    }  # fmt: skip
    register(project, "e", FIRST, "champion", withdraw=True)
    assert states(project)["c"] == ["champion", "withdrawn"]
    assert states(project)["d"] == ["champion", "retired"]
    assert states(project)["e"] == ["champion"]
    register(project, "f", FIRST, "candidate", withdraw=True)
    assert states(project)["e"] == ["champion"]


def test_every_state_is_later_than_those_before_and_stands_in_the_log(project: Project) -> None:
    register(project, "a", FIRST, "candidate", "champion", evidence=[ahead(-0.1)])
    register(project, "b", SECOND, "champion")
    first, second, third, fourth = project.warehouse.rows(STATES)
    assert first["since"] == second["since"] == tiny.noon()
    assert third["since"] == fourth["since"] == tiny.noon() + timedelta(microseconds=1)
    assert {row["by_whom"] for row in (first, second, third, fourth)} == {"metarisk"}
    assert [row["reason"] for row in (first, second, third, fourth)] == ["why a", "why a", "why b", "why b"]
    log = project.warehouse.rows("SELECT kind, actor, payload FROM metarisk.event_log ORDER BY seq")
    assert [(row["kind"], row["actor"]) for row in log] == [("model", "metarisk")] * 2
    told = json.loads(log[1]["payload"])
    assert (told["model_id"], told["state"], told["reason"]) == ("b", "champion", "why b")
    assert told["states"] == {"a": "retired", "b": "champion"}
    assert [(row["model_id"], row["seq"], row["state"]) for row in told["rows"]] == [
        ("b", 1, "champion"),
        ("a", 3, "retired"),
    ]
    assert told["evidence"] != json.loads(log[0]["payload"])["evidence"]


def test_weeks_prove_newest_first_up_to_the_first_that_does_not(project: Project) -> None:
    weeks = [FIRST + WEEK * number for number in range(5)]
    for number, (as_of, high) in enumerate(zip(weeks, (-0.1, 0.0, -0.1, -1e-9, -0.1), strict=True)):
        register(project, f"m{number}", as_of, "candidate", evidence=[ahead(high, f"new{number}")])
    assert earlier_proofs(project.context(weeks[4]), "old") == ["new3", "new2", ""], "of the weeks before this one"
    assert earlier_proofs(project.context(weeks[4] + timedelta(days=1)), "old") == ["new4", "new3", "new2", ""]
    assert earlier_proofs(project.context(weeks[1]), "old") == ["new0"]
    assert earlier_proofs(project.context(weeks[0]), "old") == []
    assert earlier_proofs(project.context(weeks[4]), "another") == [""]


def test_of_a_week_only_a_walk_forward_over_the_incumbent_proves(project: Project) -> None:
    for line in (
        ahead(-0.1, protocol="out_of_time"),
        ahead(-0.1, metric="loss_minus_opponent"),
        ahead(-0.1, slice="all"),
    ):
        line = line | {"candidate": "x"}
        register(project, f"m{line['protocol']}{line['metric']}{line['slice']}", FIRST, "candidate", evidence=[line])
    assert earlier_proofs(project.context(SECOND), "old") in ([""], [])
    register(project, "z1", FIRST, "candidate", evidence=[ahead(-0.1, "one")])
    register(project, "z2", FIRST, "candidate", evidence=[ahead(-0.1, "two")])
    assert earlier_proofs(project.context(SECOND), "old") == ["two"]


def test_a_backfill_proves_nothing_unless_the_source_is_bitemporal(project: Project) -> None:
    register(project, "a", FIRST, "candidate", evidence=[ahead(-0.1)], mode="weekly")
    register(project, "b", SECOND, "candidate", evidence=[ahead(-0.1, "late")], mode="backfill")
    assert earlier_proofs(project.context(THIRD), "old") == ["new"]
    project.edit("portfolios/tiny.toml", 'extract = "tiny.sql"', 'extract = "tiny.sql"\nbitemporal = true')
    assert earlier_proofs(project.context(THIRD), "old") == ["late", "new"]


def test_evidence_that_the_log_did_not_seal_proves_nothing(project: Project) -> None:
    register(project, "a", FIRST, "candidate", evidence=[ahead(-0.1)])
    with project.warehouse.transaction() as transaction:
        insert(transaction, "metarisk.evidence", **evidence("a", FIRST), **ahead(-0.1, "forged"))
    assert earlier_proofs(project.context(SECOND), "old") == [""]
    with project.warehouse.transaction() as transaction:
        insert(
            transaction, "metarisk.model", model_id="b", portfolio=NAME, as_of=SECOND, recipe="r", path="b",
            created_at=datetime(2026, 7, 1, tzinfo=UTC), config_hash="c", code_version="1",
        )  # fmt: skip
        insert(transaction, "metarisk.evidence", **evidence("b", SECOND), **ahead(-0.1))
    assert earlier_proofs(project.context(THIRD), "old") == [""], "a model of which no event tells has no week"


def test_models_are_listed_and_described(project: Project) -> None:
    loss = {"protocol": "walk_forward", "candidate": "new", "slice": "all", "metric": "log_loss", "value": 0.3}
    register(project, "a", FIRST, "candidate", evidence=[loss, loss | {"metric": "auc", "value": 0.7}, ahead(-0.1)])
    register(project, "b", SECOND, "candidate", "champion", mode="backfill")
    assert [(row["model_id"], row["state"], row["seq"]) for row in promotion.models(project.context(FIRST))] == [
        ("b", "champion", 2), ("a", "candidate", 1),
    ]  # fmt: skip
    found = promotion.describe(project.context(FIRST), "a")
    assert (found["model"]["mode"], found["model"]["state"], found["model"]["path"]) == ("weekly", "candidate", "a")
    assert [(row["metric"], row["value"]) for row in found["evidence"]] == [("auc", 0.7), ("log_loss", 0.3)]
    assert [row["state"] for row in promotion.describe(project.context(FIRST), "b")["states"]] == [
        "candidate",
        "champion",
    ]
    assert promotion.describe(project.context(FIRST), "b")["model"]["mode"] == "backfill"
    with pytest.raises(ConfigError, match="there is no model c"):
        promotion.describe(project.context(FIRST), "c")


def test_what_no_person_may_approve_or_promote(project: Project) -> None:
    context = project.context(THIRD)
    register(project, "a", FIRST, "candidate", "champion")
    register(project, "b", SECOND, "candidate")
    register(project, "c", THIRD, "candidate", evidence=[ahead(-0.1)])
    before = states(project)
    for said, decide in (
        ("model a is champion and does not wait", lambda: promotion.approve(context, "a", "A", "why")),
        ("nothing says who decides", lambda: promotion.approve(context, "b", " ", "why")),
        ("nothing says why", lambda: promotion.promote(context, "b", "A", "")),
        ("model a is champion already", lambda: promotion.promote(context, "a", "A", "why")),
        ("model b has no evidence", lambda: promotion.promote(context, "b", "A", "why")),
        ("there is no model x", lambda: promotion.promote(context, "x", "A", "why")),
    ):
        with pytest.raises(ConfigError, match=said):
            decide()
    for decide in (
        lambda: promotion.approve(context, "b", "A", "why"),
        lambda: promotion.promote(context, "c", "A", "why"),
    ):
        with pytest.raises(ModelError):  # its files are gone
            decide()
    with project.warehouse.transaction() as transaction:
        insert(transaction, "metarisk.evidence", **evidence("c", THIRD), **ahead(-0.1, "forged"))
    with pytest.raises(ModelError, match="the evidence of model c is not that which the log sealed"):
        promotion.promote(context, "c", "A", "why")
    with project.warehouse.transaction() as transaction:
        insert(
            transaction, "metarisk.model", model_id="d", portfolio=NAME, as_of=THIRD, recipe="r", path="d",
            created_at=context.clock(), config_hash="c", code_version="1",
        )  # fmt: skip
        insert(
            transaction, "metarisk.model_state", model_id="d", portfolio=NAME, seq=1, state="candidate",
            since=context.clock(), by_whom="a stranger", reason="by hand",
        )  # fmt: skip
    with pytest.raises(ModelError, match="no event of the log made model d a candidate"):
        promotion.approve(context, "d", "A", "why")
    assert {model: found for model, found in states(project).items() if model != "d"} == before


def test_there_is_a_champion_before_or_no_way_back(project: Project) -> None:
    context = project.context(THIRD)
    for said, ready in (
        ("there is no champion\\.", lambda: register(project, "waits", FIRST, "candidate")),
        ("there is no champion\\.", lambda: register(project, "a", FIRST, "champion")),
        ("there is no champion before this one", lambda: register(project, "b", SECOND, "champion")),
    ):
        with pytest.raises(ConfigError, match=said):
            promotion.roll_back(context, "A", "why")
        ready()
    with pytest.raises(ModelError, match="model a"):  # the one before it, whose files are gone
        promotion.roll_back(context, "A", "why")
    assert states(project)["b"] == ["champion"]
    with project.warehouse.transaction() as transaction:
        append_states(transaction, context.job, context.clock(), "b", ["withdrawn"], "why")
        append_event(transaction, NAME, context.clock(), "other", {}, "A")
    with pytest.raises(ConfigError, match="there is no champion before this one"):
        promotion.roll_back(context, "A", "why")
