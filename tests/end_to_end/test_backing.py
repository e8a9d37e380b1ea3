"""Rows of models that somebody wrote beside the job make no champion and no proof, and the audit names them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

import pytest

from metarisk import jobs, registry
from metarisk.domain import ModelError, Transaction
from metarisk.job.champion import champion_for
from metarisk.record import models as records
from metarisk.record import seals as sealing
from metarisk.upkeep import audit
from metarisk.upkeep import models as promotion
from metarisk.upkeep.doctor import examine
from tests.end_to_end.tiny import CUT_OFF, FIRST, NAME, SECOND, Project

BY, WHY = "A. Validator", "written beside the job"
LATER = CUT_OFF + timedelta(days=7)
COLUMNS = "portfolio, as_of, recipe, created_at, path, metrics, config_hash, code_version, mode"
MODEL = f"INSERT INTO metarisk.model (model_id, {COLUMNS}) SELECT $model, {COLUMNS} FROM metarisk.model LIMIT 1"
STATE = "INSERT INTO metarisk.model_state VALUES ($model, 'tiny', $seq, $state, $since, 'metarisk', 'it was best')"
EVIDENCE = (
    "INSERT INTO metarisk.evidence (model_id, portfolio, as_of, protocol, candidate, slice, metric, value, low, high) "
    "SELECT $model, portfolio, as_of, 'walk_forward', 'map_head', $slice, 'loss_minus_incumbent', -0.01, -0.02, -0.005 "
    "FROM metarisk.model LIMIT 1"
)


def champion(project: Project) -> str:
    found = champion_for(project.context(SECOND))
    assert found is not None
    return found.model_id


def add_state(transaction: Transaction, model: str, seq: int, state: str) -> None:
    since = transaction.rows("SELECT max(since) AS at FROM metarisk.model_state")[0]["at"] + timedelta(seconds=1)
    transaction.execute(STATE, {"model": model, "seq": seq, "state": state, "since": since})


def plant(project: Project, state: str = "champion") -> str:
    """A model of another content: a folder of the registry and two rows, as who has SQL and disk writes them."""
    root = project.settings.data_dir / "registry"
    files = registry.load(root, NAME, champion(project))
    new, _ = registry.save(root, NAME, files | {"scorecard.json": files["scorecard.json"] + b" "}, {})
    with project.warehouse.transaction() as transaction:
        transaction.execute(MODEL, {"model": new})
        add_state(transaction, new, 1, state)
    return new


def unknown(project: Project) -> list[str]:
    return [fault.what for fault in audit.verify(project.context(SECOND)).faults]


def test_a_planted_champion_scores_no_night(published_project: Project) -> None:
    project, context = published_project, published_project.context(SECOND)
    old, new = champion(project), plant(published_project)
    said = rf"no event of the log made model {new} champion.*Remedy: .*metarisk models rollback --portfolio tiny"
    for run in (project.nightly, project.weekly):
        with pytest.raises(ModelError, match=said):
            run(SECOND)
    assert (project.count("publication"), project.count("model")) == (1, 2)
    (finding,) = (one for one in examine(project.settings, SECOND) if one.subject == f"champion of {NAME}")
    assert (finding.fine, new in finding.what) == (False, True)
    assert unknown(project) == [f"the log knows no model {new}", f"the log knows no state of model {new}"]
    assert jobs.roll_back(context, BY, WHY) == (new, old)
    assert project.nightly(SECOND).outcome == "published"
    assert {row["model_id"] for row in project.warehouse.rows("SELECT model_id FROM metarisk.night")} == {old}
    assert unknown(project) == [f"the log knows no model {new}", f"the log knows no state of model {new}"]


def test_a_planted_candidate_with_planted_evidence_serves_on_nobodys_word(published: Project) -> None:
    new = plant(published, "candidate")
    with published.warehouse.transaction() as transaction:
        transaction.execute(EVIDENCE, {"model": new, "slice": "hazard_head"})
    for decide in (jobs.approve, jobs.promote):
        with pytest.raises(ModelError, match=f"no event of the log made model {new} a candidate"):
            decide(published.context(SECOND), new, BY, WHY)
    assert unknown(published)[-1] == f"the log knows no evidence of model {new}"
    assert published.nightly(SECOND).outcome == "published"


def test_one_state_of_nobodys_decides_nothing(published: Project) -> None:
    old = champion(published)
    for seq, state in ((3, "champion"), (4, "withdrawn")):
        with published.warehouse.transaction() as transaction:
            add_state(transaction, old, seq, state)
        with pytest.raises(ModelError, match=f"no event of the log made model {old} {state}"):
            published.nightly(SECOND)


def test_only_a_week_of_the_log_proves(duckdb: Project) -> None:
    context, old = duckdb.context(LATER), champion(duckdb)
    (recipe,) = (row["recipe"] for row in promotion.models(context))
    assert records.earlier_proofs(context.warehouse, context.job, recipe, bitemporal=False) == [""]
    with duckdb.warehouse.transaction() as transaction:
        transaction.execute(EVIDENCE, {"model": old, "slice": recipe})
    assert records.earlier_proofs(context.warehouse, context.job, recipe, bitemporal=False) == [""]
    # It is not what the log sealed.
    said = f"the evidence of model {old} is not that which the log sealed"
    assert unknown(duckdb) == [said]
    with duckdb.warehouse.transaction() as transaction:
        records.append_states(transaction, duckdb.context(CUT_OFF).job, context.clock(), old, ["retired"], "by hand")
    with pytest.raises(ModelError, match=said):
        jobs.promote(duckdb.context(SECOND), old, BY, WHY)
    with duckdb.warehouse.transaction() as transaction:
        transaction.execute("DELETE FROM metarisk.evidence WHERE low = -0.02 AND high = -0.005")
        transaction.execute(EVIDENCE, {"model": "nobody", "slice": recipe})
        transaction.execute(MODEL, {"model": "nobody"})
        transaction.execute("UPDATE metarisk.evidence SET as_of = as_of + INTERVAL '1 day' WHERE model_id = 'nobody'")
    assert records.earlier_proofs(context.warehouse, context.job, recipe, bitemporal=False) == [""]
    assert unknown(duckdb) == ["the log knows no model nobody", "the log knows no evidence of model nobody"]


def of_version_1(event: Mapping[str, Any]) -> dict[str, Any]:
    """An event as it was when the log was not chained yet."""
    told = json.loads(event["payload"])
    kept = {name: told[name] for name in ("model_id", "state", "reason", "run_id", "as_of") if name in told}
    return {"payload": json.dumps(kept), "prev_hash": None, "hash": None}


def of_version_2(event: Mapping[str, Any]) -> dict[str, Any]:
    """An event as it was when states were not sealed one by one; each is the first of its chain."""
    told = json.loads(event["payload"])
    kept = {name: value for name, value in told.items() if name not in {"rows", "evidence", "publication", "tables"}}
    changed = dict(event) | {"payload": json.dumps(kept)}
    return {"payload": changed["payload"], "prev_hash": event["prev_hash"], "hash": sealing.chained(changed)}


@pytest.mark.parametrize("then", [of_version_1, of_version_2])
def test_champions_of_versions_before_serve_and_prove(
    then: Callable[[Mapping[str, Any]], dict[str, Any]], published: Project
) -> None:
    old = champion(published)
    with published.warehouse.transaction() as transaction:
        hashed = None
        for event in sealing.all_events(transaction, NAME):
            new = then(event | {"prev_hash": hashed})
            hashed = new["hash"]
            transaction.execute(
                "UPDATE metarisk.event_log SET payload = $payload, prev_hash = $prev_hash, hash = $hash "
                "WHERE seq = $seq",
                new | {"seq": event["seq"]},
            )
    assert published.nightly(SECOND).outcome == "published"
    context = published.context(CUT_OFF)
    with published.warehouse.transaction() as transaction:
        transaction.execute(MODEL, {"model": "newer"})
        at = context.clock()
        records.append_states(transaction, context.job, at, "newer", ["candidate", "champion"], "of this version")
    assert (champion(published), unknown(published)) == ("newer", [])
    assert jobs.roll_back(context, BY, WHY) == ("newer", old)
    assert champion(published) == old
    new = plant(published)
    with pytest.raises(ModelError, match=f"no event of the log made model {new} champion"):
        published.nightly(FIRST, "restatement", WHY)
    assert unknown(published) == [f"the log knows no model {new}", f"the log knows no state of model {new}"]
