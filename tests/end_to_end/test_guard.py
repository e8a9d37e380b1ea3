"""The guard stops a night that nothing explains, publishes it on a person's word, and only tells of one that is odd."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from typer.testing import CliRunner

from metarisk import jobs, registry
from metarisk.cli import app
from metarisk.domain import Acceptance, ConfigError, QualityError
from metarisk.job.storage import registry_root
from metarisk.quality import guarding
from metarisk.record import models as records
from metarisk.record.appending import append
from metarisk.upkeep import audit
from tests.end_to_end.tiny import CUT_OFF, FIRST, NAME, SECOND, Listener, Project, book

THIRD = SECOND + timedelta(days=1)
MODEL = "SELECT * FROM metarisk.model WHERE as_of = $as_of"
JUDGED = """
SELECT rule, column_name, severity, success, detail FROM metarisk.quality_result
WHERE suite = 'guard' AND as_of = $as_of AND ($published = (run_id IS NOT NULL)) ORDER BY rule
"""


def judged(project: Project, *, published: bool) -> dict[str, tuple[str, str]]:
    """By rule of the guard that failed on SECOND, how severe it is and what it says."""
    rows = project.warehouse.rows(JUDGED, {"as_of": SECOND, "published": published})
    return {row["rule"]: (row["severity"], row["detail"]) for row in rows if not row["success"]}


def turned(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """The files of a champion whose bases say the opposite: every weight and every leaf has the other sign."""
    found = dict(files)
    for name in (name for name in files if name.startswith("base.") and ".full" in name):
        base = json.loads(files[name])
        inner = json.loads(base["relative"])
        inner["weights"] = [-weight for weight in inner.get("weights", [])]
        if "booster" in inner:
            text = re.sub("tree_sizes=.*\n", "", inner["booster"])  # LightGBM would read by them
            inner["booster"] = re.sub("(?<=leaf_value=).*", _negated, text)
        found[name] = json.dumps(base | {"relative": json.dumps(inner)}).encode()
    return found


def _negated(numbers: re.Match[str]) -> str:
    return " ".join(repr(-float(number)) for number in numbers[0].split())


def plant(project: Project, files: Mapping[str, bytes], about: Mapping[str, Any]) -> str:
    """Make a model of FIRST champion as a week does, whatever its files hold."""
    context = project.context(FIRST)
    model_id, _ = registry.save(registry_root(context), NAME, files, about)
    (row,) = project.warehouse.rows(MODEL, {"as_of": CUT_OFF})
    with project.warehouse.transaction() as transaction:
        new = {"model_id": model_id, "as_of": FIRST, "path": f"registry/{NAME}/{model_id}"}
        append(transaction, "model", [row | new])
        at = context.clock()
        records.append_states(transaction, context.job, at, model_id, ["candidate", "champion"], "a refit")
    return model_id


def test_a_damaged_model_is_stopped_and_published_only_on_a_persons_word(
    published_project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = published_project
    (champion,) = project.warehouse.rows(MODEL, {"as_of": CUT_OFF})
    root = registry_root(project.context(FIRST))
    about = registry.manifest(root, NAME, champion["model_id"])["about"]
    plant(project, turned(registry.load(root, NAME, champion["model_id"])), about | {"as_of": str(FIRST)})
    accepting = replace(project.context(SECOND).job, acceptance=Acceptance("the new model ranks anew", "A. Validator"))
    with pytest.raises(ConfigError, match="nothing to accept"):
        jobs.nightly(replace(project.context(SECOND), job=accepting))
    assert judged(project, published=False) == {}

    with pytest.raises(QualityError, match="their order agrees by -") as caught:
        project.nightly(SECOND)
    assert f"--as-of {SECOND} --accept WHY --by NAME" in caught.value.remedy
    severity, detail = judged(project, published=False)[guarding.SAME_SCORES]
    assert severity == "critical"
    assert detail.startswith("of 1")
    assert caught.value.page is not None
    assert "accept WHY" in caught.value.page.read_text()
    assert project.count("publication") == 1

    monkeypatch.setenv("METARISK_PROJECT", str(project.settings.project))
    monkeypatch.setenv("METARISK_WAREHOUSE", project.settings.warehouse.get_secret_value())
    command = ["nightly", "-p", NAME, "--as-of", str(SECOND), "--accept", "it ranks anew", "--json"]
    nobody = CliRunner().invoke(app, command)
    assert nobody.exit_code == 1
    assert "nothing says who decides" in nobody.stdout
    done = CliRunner().invoke(app, [*command, "--by", "A. Validator"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["outcome"] == "published"
    (row,) = project.warehouse.rows("SELECT run_id, reason FROM metarisk.publication WHERE as_of = $d", {"d": SECOND})
    assert row == {"run_id": found["run_id"], "reason": "accepted by A. Validator: it ranks anew"}
    assert "accepted by A. Validator: it ranks anew" in Path(found["page"]).read_text()
    events = "SELECT actor, payload FROM metarisk.event_log WHERE kind = 'accepted'"
    ((actor, payload),) = [tuple(row.values()) for row in project.warehouse.rows(events)]
    assert actor == "A. Validator"
    assert json.loads(payload)["run_id"] == found["run_id"]
    assert [finding["rule"] for finding in json.loads(payload)["findings"]] == [guarding.SAME_SCORES]
    assert audit.verify(project.context(SECOND)).faults == ()
    # The night after is compared with what was accepted.
    assert project.nightly(THIRD).outcome == "published"
    with project.warehouse.transaction() as transaction:
        sql = "UPDATE metarisk.quality_result SET success = FALSE WHERE as_of = $as_of AND rule = $rule"
        transaction.execute(sql, {"as_of": FIRST, "rule": guarding.FINITE})
    told = [fault.what for fault in audit.verify(project.context(THIRD)).faults]
    assert any(f"was published though {guarding.FINITE} failed, and nobody accepted it" in what for what in told)


def test_a_word_covers_what_was_shown_and_nothing_else(published: Project) -> None:
    project, whole = published, book()
    project.load(whole.filter(pl.col("region") != "south"))
    with pytest.raises(QualityError, match="no row of 'south'"):
        project.nightly(SECOND)
    assert set(judged(project, published=False)) >= {guarding.VALUES_STAY}
    project.load(whole.filter(pl.col("product") != "cash"))
    word = Acceptance("the south was sold", "B. Owner")
    job = replace(project.context(SECOND).job, acceptance=word)
    with pytest.raises(QualityError, match="no attempt has shown before"):
        jobs.nightly(replace(project.context(SECOND), job=job))
    assert project.count("publication") == 1


def test_rows_that_are_extracted_and_not_scored_are_missed(published: Project) -> None:
    """The dates that say who is scored are wrong for more than half of the rows, which are all there."""
    young = pl.col("loan_id").str.slice(-1).is_in(list("0123456"))
    ended = pl.when(young & pl.col("exit_date").is_null()).then(pl.lit(FIRST)).otherwise("exit_date")
    published.load(book().with_columns(exit_date=ended))
    with pytest.raises(QualityError, match="less than 55% of the usual"):
        published.nightly(SECOND)
    assert judged(published, published=False)[guarding.ENOUGH][0] == "critical"


def test_what_data_explain_is_published_and_seen(published: Project) -> None:
    """Loans of one segment are large and incomes small overnight: scores rise by their inputs, no model is to blame."""
    odd = (pl.col("region") == "north") & (pl.col("product") == "auto")
    changed = {"amount": 10 * pl.col("amount"), "income": pl.col("income") / 10}
    published.load(
        book().with_columns(pl.when(odd).then(to).otherwise(name).alias(name) for name, to in changed.items())
    )
    listener = Listener()
    jobs.nightly(published.context(SECOND, reporter=listener))
    assert list(judged(published, published=True)) == [guarding.LEVEL]
    severity, detail = judged(published, published=True)[guarding.LEVEL]
    assert severity == "warning"
    assert "north|auto by +" in detail
    assert any("north|auto" in warning for warning in listener.warnings)
