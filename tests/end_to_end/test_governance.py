"""Who answers for a score: models promoted, withdrawn and brought back, and a log in which one changed row is found."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Callable
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

import polars as pl
import pytest
from click.testing import Result as Called
from typer.testing import CliRunner

from metarisk import jobs
from metarisk.answers import replay as reproducing
from metarisk.cli import app
from metarisk.domain import ConfigError, DataError
from metarisk.jobs import Context
from metarisk.record import events
from metarisk.record import seals as sealing
from metarisk.upkeep import alerts, audit
from metarisk.upkeep import forget as forgetting
from metarisk.upkeep import models as promotion
from metarisk.upkeep import override as overriding
from tests.end_to_end.tiny import CUT_OFF, FIRST, NAME, SECOND, Project, book

Result = TypeVar("Result")
LATER = CUT_OFF + timedelta(days=14)
NIGHT = LATER + timedelta(days=1)


def states(project: Project) -> dict[str, str]:
    return {row["model_id"]: row["state"] for row in promotion.models(project.context(FIRST))}


def used(project: Project, reason: str = "") -> str:
    """The model of the night of NIGHT, scored now."""
    project.nightly(NIGHT, "restatement" if reason else "nightly", reason)
    sql = "SELECT model_id FROM metarisk.night WHERE as_of = $as_of ORDER BY seq DESC"
    return str(project.warehouse.rows(sql, {"as_of": NIGHT})[0]["model_id"])


def test_a_champion_is_withdrawn_and_the_one_before_it_serves_again(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = project.context(NIGHT)
    monkeypatch.setenv("METARISK_PROJECT", str(project.settings.project))
    monkeypatch.setenv("METARISK_WAREHOUSE", project.settings.warehouse.get_secret_value())

    def call(command: str, by: str, reason: str, *words: str) -> dict[str, str]:
        told = ["models", command, "-p", NAME, "--by", by, "--reason", reason, *words, "--json"]
        result = CliRunner().invoke(app, told)
        assert result.exit_code == 0, result.output
        found: dict[str, str] = json.loads(result.stdout)
        return found

    (old,) = states(project)
    with pytest.raises(ConfigError, match="no champion before this one"):
        jobs.roll_back(context, "A. Validator", "too early")
    new = ""

    def promoting(step: Callable[..., Result], context: Context, *inputs: object) -> Result:
        nonlocal new
        if step.__name__ == "score":
            new = project.weekly(LATER).model_id
        return jobs.direct(step, context, *inputs)

    # A week that promotes while a night runs: the night keeps the model that it began with.
    jobs.nightly(context, promoting)
    assert states(project) == {old: "retired", new: "champion"}
    assert project.warehouse.rows("SELECT model_id FROM metarisk.night") == [{"model_id": old}]
    assert used(project, "promoted meanwhile") == new

    gone = call("rollback", "A. Validator", "its grades drift")
    assert gone == {"withdrawn": new, "champion": old, "by": "A. Validator"}
    assert states(project) == {old: "champion", new: "withdrawn"}
    standing = "SELECT status FROM metarisk.night ORDER BY seq"
    assert [row["status"] for row in project.warehouse.rows(standing)] == ["green", "red"]
    assert used(project, "rolled back") == old
    assert [row["status"] for row in project.warehouse.rows(standing)] == ["green"] * 3
    with pytest.raises(ConfigError, match="is champion already"):
        jobs.promote(context, old, "A. Validator", "again")
    back = call("promote", "B. Owner", "it was the source", "--model", new)
    assert back == {"model_id": new, "recipe": "hazard_head", "by": "B. Owner"}
    assert states(project) == {old: "retired", new: "champion"}
    assert used(project, "brought back") == new
    told = promotion.describe(context, new)
    assert [row["state"] for row in told["states"]] == ["candidate", "champion", "withdrawn", "champion"]
    assert [row["by_whom"] for row in told["states"]][2:] == ["A. Validator", "B. Owner"]
    assert {row["metric"] for row in told["evidence"]} >= {"log_loss", "auc", "ece", "pr_auc"}
    assert audit.verify(context).faults == ()

    with project.warehouse.transaction() as transaction:
        transaction.execute("DELETE FROM metarisk.evidence WHERE model_id = $model", {"model": old})
    with pytest.raises(ConfigError, match="has no evidence"):
        jobs.promote(context, old, "A. Validator", "from memory")


@pytest.mark.parametrize(("by", "reason", "said"), [(" ", "why not", "who decides"), ("Ann", "", "why")])
def test_a_decision_has_a_name_and_a_reason(by: str, reason: str, said: str, trained_on_duckdb: Project) -> None:
    context = trained_on_duckdb.context(FIRST)
    for decide in (
        lambda: jobs.approve(context, "any", by, reason),
        lambda: jobs.promote(context, "any", by, reason),
        lambda: jobs.roll_back(context, by, reason),
        lambda: overriding.override(context, "any", 0.1, by, reason),
        lambda: overriding.lift(context, "any", by, reason),
        lambda: forgetting.forget(context, "any", by, reason),
        lambda: alerts.acknowledge(context, "any", by, reason),
        lambda: alerts.mute(context, "any", SECOND, by, reason),
    ):
        with pytest.raises(ConfigError, match=f"nothing says {said}"):
            decide()


COMMANDS = {
    "models approve": ("--model", "any"),
    "models promote": ("--model", "any"),
    "models rollback": (),
    "drift ack": ("--alert", "any"),
    "drift mute": ("--alert", "any", "--until", str(SECOND)),
    "override set": ("--entity", "any", "--score", "0.1"),
    "override lift": ("--entity", "any"),
    "feedback": ("--as-of", str(FIRST)),
}
BLANK = {"--by": ("\t", "who decides", "give a name by --by"), "--reason": (" ", "why", "give a --reason")}


@pytest.mark.parametrize(
    ("command", "missing"),
    # A verdict is its own reason.
    [(command, part) for command in COMMANDS for part in BLANK if (command, part) != ("feedback", "--reason")],
)
def test_no_command_takes_a_decision_of_nobody_or_without_a_reason(
    command: str, missing: str, trained_on_duckdb: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("METARISK_PROJECT", str(trained_on_duckdb.settings.project))
    words = [*command.split(), "-p", NAME, *COMMANDS[command]]
    given = {"--by": "A. Validator", "--reason": "back-test read"}
    if command == "feedback":
        file = tmp_path / "verdicts.csv"
        file.write_text("entity,verdict,decided_on\n")
        words.append(str(file))
        del given["--reason"]
    blank, said, remedy = BLANK[missing]
    before = trained_on_duckdb.contents()
    told = CliRunner().invoke(app, [*words, *(part for pair in (given | {missing: blank}).items() for part in pair)])
    assert told.exit_code == 1
    assert f"nothing says {said}. Remedy: {remedy}." in told.stderr
    assert trained_on_duckdb.contents() == before


CHANGES = {
    "an event": ("UPDATE metarisk.event_log SET payload = '{}' WHERE seq = 1", "event 1 .* was changed"),
    "an event's time": (
        "UPDATE metarisk.event_log SET happened_at = happened_at + INTERVAL '1 second' WHERE seq = 2",
        "event 2 .* was changed",
    ),
    "an event gone": ("DELETE FROM metarisk.event_log WHERE seq = 1", "events 1 to 1 are gone"),
    "a score": (
        "UPDATE metarisk.risk_score SET score = score + 1e-12 "
        "WHERE entity IN (SELECT min(entity) FROM metarisk.risk_score)",
        "score rows of run .* are not those",
    ),
    "a score gone": (
        "DELETE FROM metarisk.risk_score WHERE entity = (SELECT max(entity) FROM metarisk.risk_score)",
        "score rows of run .* are not those",
    ),
    "a manifest": ("UPDATE metarisk.run SET manifest = '{}'", "the manifest of run .* is not"),
    "a run gone": ("DELETE FROM metarisk.run", "was published and is gone"),
    "a model's state": ("UPDATE metarisk.model_state SET state = 'retired' WHERE state = 'champion'", "the log says"),
    "a model's first state": (
        "UPDATE metarisk.model_state SET state = 'approved' WHERE seq = 1",
        "state 1 of model .* is not what the log says: candidate",
    ),
    "a state of nobody's": (
        "INSERT INTO metarisk.model_state SELECT model_id, portfolio, 3, state, since, by_whom, reason "
        "FROM metarisk.model_state WHERE seq = 2",
        "the log says",
    ),
    "who promoted": ("UPDATE metarisk.model_state SET by_whom = 'nobody' WHERE seq = 2", "state 2 of model"),
    "why": ("UPDATE metarisk.model_state SET reason = 'it was best' WHERE seq = 1", "state 1 of model"),
    "evidence": (
        "UPDATE metarisk.evidence SET high = high - 1e-9 WHERE metric = 'loss_minus_opponent' AND slice = 'all' "
        "AND candidate = 'map_head'",
        "the evidence of model .* is not that",
    ),
    "when it was published": (
        "UPDATE metarisk.publication SET published_at = published_at - INTERVAL '1 second'",
        "the publication of run .* is not as it was logged",
    ),
    "its place": ("UPDATE metarisk.publication SET seq = 2", "the publication of run .* is not as it was logged"),
    "what is current": ("UPDATE metarisk.publication SET run_id = 'other'", "the publication of run .* is not"),
    "a publication more": (
        "INSERT INTO metarisk.publication "
        "SELECT portfolio, as_of, 2, 'other', published_at + INTERVAL '1 second', reason FROM metarisk.publication",
        "the log knows no publication of run other",
    ),
    "an adaptation": (
        "UPDATE metarisk.adaptation SET support_events = support_events + 1 "
        "WHERE segment = (SELECT min(segment) FROM metarisk.adaptation)",
        "rows of adaptation of run",
    ),
    "a drift metric": (
        "DELETE FROM metarisk.drift_metric WHERE metric = (SELECT min(metric) FROM metarisk.drift_metric)",
        "rows of drift_metric of run",
    ),
    "a check": (
        "DELETE FROM metarisk.quality_result WHERE rule = (SELECT min(rule) FROM metarisk.quality_result)",
        "rows of quality_result of run",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_one_changed_row_is_found(change: str, published: Project) -> None:
    assert re.search(CHANGES[change][1], fault_after(change, published))


@pytest.mark.parametrize("change", ["a score", "an adaptation"])
def test_one_changed_row_is_found_on_either_warehouse(change: str, published_project: Project) -> None:
    assert re.search(CHANGES[change][1], fault_after(change, published_project))


def test_events_that_seal_less_still_hold(published: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    context, whole = published.context(SECOND), sealing.publication_event

    def of_before(*inputs: Any) -> dict[str, Any]:
        return {name: value for name, value in whole(*inputs).items() if name not in {"publication", "tables"}}

    monkeypatch.setattr(importlib.import_module("metarisk.steps.publish"), "publication_event", of_before)
    published.nightly(SECOND)
    with published.warehouse.transaction() as transaction:
        (model,) = states(published)
        told = {"model_id": model, "state": "champion", "states": {model: "champion"}, "reason": ""}
        events.append_event(transaction, context.job.portfolio, context.clock(), "model", told)
    found = audit.verify(context)
    assert (found.faults, found.unsealed) == ((), 2)
    with published.warehouse.transaction() as transaction:
        transaction.execute("UPDATE metarisk.adaptation SET status = 'carried' WHERE as_of = $as_of", {"as_of": SECOND})
    assert audit.verify(context).faults == ()


def fault_after(change: str, project: Project) -> str:
    """What the audit says of one change made behind the job's back; it finds that one and nothing else."""
    context = project.context(FIRST)
    before = audit.verify(context)
    assert (before.events, before.runs, before.nights, before.faults) == (2, 1, 1, ())
    with project.warehouse.transaction() as transaction:
        transaction.execute(CHANGES[change][0])
    (fault,) = audit.verify(context).faults
    return fault.what


def test_a_score_is_overridden_by_name_and_lifted_again(
    published_project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project, context = published_project, published_project.context(FIRST)
    monkeypatch.setenv("METARISK_PROJECT", str(project.settings.project))
    monkeypatch.setenv("METARISK_WAREHOUSE", project.settings.warehouse.get_secret_value())
    before, entity = project.scores(), project.scores()["entity"][7]

    def call(*words: str) -> Called:
        return CliRunner().invoke(app, ["override", words[0], "-p", NAME, *words[1:], "--json"])

    who = ["--entity", entity, "--by", "Ann Officer", "--reason", "a new guarantor"]
    set_ = call("set", *who, "--score", "0.02")
    assert set_.exit_code == 0, set_.output
    (line,) = overriding.current(context)
    assert (line["entity"], line["score"], line["author"], line["reason"]) == (entity, 0.02, who[3], who[5])
    assert line["model_score"] == before.filter(pl.col("entity") == entity)["score"][0]
    assert project.scores().equals(before)  # what the model said stays as it was
    for words, said in (
        (["--score", "1.5"], "give a score from 0 to 1"),
        (["--score", "0.1", "--until", "2020-01-01"], "is before the latest night"),
    ):
        refused = call("set", *who, *words)
        assert refused.exit_code == 1
        assert said in refused.output
    assert call("lift", "--entity", "nobody", *who[2:]).exit_code == 1
    assert audit.verify(context).faults == ()
    assert entity not in str(project.warehouse.rows("SELECT payload FROM metarisk.event_log"))
    with project.warehouse.transaction() as transaction:
        transaction.execute("UPDATE metarisk.score_override SET author = 'nobody'")
    assert [fault.what for fault in audit.verify(context).faults] == ["override 1 is not as it was logged"]
    assert call("lift", *who).exit_code == 0
    assert overriding.current(context) == []


def test_a_chain_made_anew_does_not_hold_the_head_that_was_kept(published: Project) -> None:
    context = published.context(SECOND)
    head = audit.verify(context).head
    published.nightly(SECOND)
    assert audit.verify(context, head=head).faults == ()
    sql = "SELECT * FROM metarisk.event_log ORDER BY seq"
    hashed = None
    for event in published.warehouse.rows(sql):
        forged = event | {"happened_at": event["happened_at"] + timedelta(days=1), "prev_hash": hashed}
        hashed = sealing.chained(forged)
        with published.warehouse.transaction() as transaction:
            transaction.execute(
                "UPDATE metarisk.event_log SET happened_at = $at, prev_hash = $before, hash = $hash WHERE seq = $seq",
                {"at": forged["happened_at"], "before": forged["prev_hash"], "hash": hashed, "seq": event["seq"]},
            )
    assert audit.verify(context).faults == ()
    (fault,) = audit.verify(context, head=head).faults
    assert "the chain was made anew" in fault.what


def test_events_of_before_the_chain_are_counted_and_not_trusted(published: Project) -> None:
    with published.warehouse.transaction() as transaction:
        transaction.execute("UPDATE metarisk.event_log SET hash = NULL, prev_hash = NULL")
    published.nightly(SECOND)
    found = audit.verify(published.context(SECOND))
    assert (found.events, found.unchained, found.faults) == (3, 2, ())
    told = json.loads(published.warehouse.rows("SELECT payload FROM metarisk.event_log WHERE seq = 3")[0]["payload"])
    assert told["rows"] == published.scores(SECOND).height


def test_a_past_night_is_reproduced_bit_for_bit(published_project: Project) -> None:
    project = published_project
    first = project.warehouse.rows("SELECT run_id FROM metarisk.night")[0]["run_id"]
    project.weekly(LATER)
    project.load(book().with_columns(pl.col("amount").abs()))
    project.nightly(FIRST, "restatement", "wrong signs")
    for row in project.warehouse.rows("SELECT run_id FROM metarisk.run WHERE as_of = $as_of", {"as_of": FIRST}):
        found = reproducing.reproduce(project.context(SECOND), row["run_id"])
        assert (found.identical, found.differences, found.changed) == (True, (), ())
    assert found.rows > 100
    assert {first, found.run_id} == {row["run_id"] for row in project.warehouse.rows("SELECT run_id FROM metarisk.run")}
    left = [path.name for path in (project.settings.data_dir / "lake" / NAME).iterdir() if path.name.startswith(".")]
    assert left == []


def test_a_night_of_an_earlier_layout_is_the_same_by_its_contents(published_project: Project) -> None:
    """Its score file has another name and a column less, which its rows lack too; a number that differs still does."""
    project, column = published_project, "points"
    (run,) = project.warehouse.rows("SELECT run_id, manifest FROM metarisk.run")
    (part,) = (project.settings.data_dir / "lake" / NAME / str(FIRST) / "runs").glob("*/score/part-00000.parquet")
    before = part.with_name("scores.parquet")
    pl.read_parquet(part).drop(column).write_parquet(before)
    part.unlink()
    manifest = json.loads(run["manifest"]) | {"score": {before.name: sha256(before.read_bytes()).hexdigest()}}
    with project.warehouse.transaction() as transaction:
        transaction.execute("UPDATE metarisk.run SET manifest = $manifest", {"manifest": json.dumps(manifest)})
        transaction.execute(f"UPDATE metarisk.risk_score SET {column} = NULL")
    found = reproducing.reproduce(project.context(FIRST), run["run_id"])
    assert (found.identical, found.differences) == (True, ())
    assert found.changed == (
        f"score/{before.name} is named {part.name}",
        f"score/{part.name} has {column}, which then had not",
    )
    with project.warehouse.transaction() as transaction:
        transaction.execute(f"UPDATE metarisk.risk_score SET {column} = 1, grade = NULL")
    found = reproducing.reproduce(project.context(FIRST), run["run_id"])
    assert [line.split(" in ")[0] for line in found.differences] == ["grade differs", "points differs"]


def test_what_differs_is_named(published: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    (run,) = published.warehouse.rows("SELECT run_id FROM metarisk.night")
    context = published.context(FIRST)
    score = "UPDATE metarisk.risk_score SET score = score + .25 WHERE entity = $entity"
    entity = published.scores()["entity"][3]
    with published.warehouse.transaction() as transaction:
        transaction.execute(score, {"entity": entity})
    published.edit("portfolios/tiny.toml", 'title = "Tiny loans"', 'title = "Small loans"')
    monkeypatch.setattr(reproducing, "versions", lambda: {"torch": "9.9"})
    found = reproducing.reproduce(context, run["run_id"])
    assert not found.identical
    assert found.differences == (f"score differs in 1 of {found.rows} rows, by up to 0.25, first of {entity}",)
    assert found.changed[0] == "the portfolio's TOML, SQL or suites are others than then"
    assert re.fullmatch(r"torch was .* and is 9\.9", found.changed[1])
    with pytest.raises(ConfigError, match="there is no run nobody"):
        reproducing.reproduce(context, "nobody")
    part = next((published.settings.data_dir / "lake" / NAME / str(FIRST)).glob("*/extract/part-0*.parquet"))
    part.write_bytes(part.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"no longer whole in the lake.*damaged"):
        reproducing.reproduce(context, run["run_id"])


def test_a_seal_is_the_same_in_however_many_passes(published_project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    (run,) = published_project.warehouse.rows("SELECT run_id, as_of FROM metarisk.run")
    once = sealing.seal(published_project.warehouse, run["run_id"], run["as_of"])
    assert once[1] > 100
    for rows in (once[1] // 3, 1):
        monkeypatch.setattr(sealing, "ROWS_A_PASS", rows)
        assert sealing.seal(published_project.warehouse, run["run_id"], run["as_of"]) == once
