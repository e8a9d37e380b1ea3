"""Studies on rows that a file names: as known at a date, or with full outcomes; and what they refuse."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from metarisk import jobs
from metarisk.domain import ConfigError, DataError, Job
from metarisk.jobs import Context, Quiet
from tests.end_to_end.tiny import CUT_OFF, EVERYTHING, TABLE, Project

FOLD = date(2025, 3, 1)


@pytest.fixture
def study(project: Project, tmp_path: Path):
    """A function that writes lines and judges recipes on them."""
    (project.settings.project / "sql" / "extracts" / "tiny.sql").write_text(EVERYTHING)

    def judge(lines: pl.DataFrame, protocol: str = "as-known", recipes: tuple[str, ...] = ("hazard_head",)):
        file = tmp_path / "rows.csv"
        lines.write_csv(file)
        return jobs.study(Context(Job("tiny", CUT_OFF), project.settings, Quiet()), file, protocol, recipes)

    return judge


def loans(project: Project) -> pl.DataFrame:
    rows = project.warehouse.rows(f"SELECT * FROM {TABLE} WHERE amount > 0 ORDER BY loan_id")
    return pl.DataFrame(rows, infer_schema_length=None)


def lines(project: Project) -> pl.DataFrame:
    """Loans opened in the two months from FOLD on are to be scored, those before teach."""
    ended = FOLD.replace(month=FOLD.month + 2)
    role = pl.when(pl.col("opened_on") < FOLD).then(pl.lit("fit")).when(pl.col("opened_on") < ended)
    named = loans(project).select(pl.col("loan_id").alias("id"), role.then(pl.lit("score")).alias("role"))
    return named.drop_nulls().with_columns(draw=0, fold=pl.lit(f"{FOLD:%Y-%m}"))


def test_what_became_known_after_the_fold_changes_no_score(project: Project, study) -> None:
    before = study(lines(project)).judged
    later = loans(project).with_columns(
        event_date=pl.when(pl.col("known_date") > FOLD).then(None).otherwise("event_date"),
        known_date=pl.when(pl.col("known_date") > FOLD).then(None).otherwise("known_date"),
        exit_date=pl.when(pl.col("exit_date") > FOLD).then(None).otherwise("exit_date"),
    )
    project.warehouse.load("tiny_loans", later.to_arrow().to_reader())
    after = study(lines(project)).judged
    assert before["loan_id"].to_list() == after["loan_id"].to_list()
    # labels were judged with what became known, scores were not taught by it
    assert before["__y"].sum() > after["__y"].sum() == 0
    np.testing.assert_array_equal(before["hazard_head"], after["hazard_head"])


def test_full_outcomes_teach_from_the_rows_named_and_from_no_hazard(project: Project, study, tmp_path: Path) -> None:
    named = lines(project)
    found = study(named, "full-outcome", ("pooled_logistic", "map_head", "hazard_head"))
    assert found.recipe == "map_head"
    assert found.evidence.protocol == "full-outcome"
    assert {line.name for line in found.evidence.candidates} == {"pooled_logistic", "map_head"}
    ever = dict(loans(project).select("loan_id", pl.col("event_date").is_not_null()).iter_rows())
    assert all(bool(y) == ever[loan] for loan, y in found.judged.select("loan_id", "__y").iter_rows())
    halved = named.filter((pl.col("role") == "score") | (pl.int_range(pl.len()) % 2 == 0))
    fewer = study(halved, "full-outcome", ("map_head",))
    assert not np.array_equal(fewer.judged["map_head"], found.judged["map_head"])
    found.write(tmp_path / "pd.csv", "loan_id")
    written = pl.read_csv(tmp_path / "pd.csv")
    assert set(written["id"]) == set(named.filter(role="score")["id"])
    assert written["pd"].is_between(0, 1, closed="none").all()
    assert written["pd"].to_list() == written["map_head"].to_list()


def test_a_new_market_moves_the_head_and_no_base(project: Project, study) -> None:
    """Trained without the north; its rows adapt, or are not there at all."""
    north = set(loans(project).filter(region="north")["loan_id"])
    named = lines(project).with_columns(
        role=pl.when((pl.col("role") == "fit") & pl.col("id").is_in(list(north)))
        .then(pl.lit("support"))
        .otherwise("role")
    )
    recipes = ("pooled_logistic", "map_head")
    met = study(named, "new-market", recipes).judged
    unmet = study(named.filter(pl.col("role") != "support"), "new-market", recipes).judged
    taught = study(named, "full-outcome", recipes).judged
    np.testing.assert_array_equal(met["pooled_logistic"], unmet["pooled_logistic"])
    assert not np.array_equal(met["pooled_logistic"], taught["pooled_logistic"])
    here = met["loan_id"].is_in(list(north)).to_numpy()
    moved = np.abs(met["map_head"].to_numpy() - unmet["map_head"].to_numpy())
    assert moved[here].mean() > 2 * moved[~here].mean()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda rows: rows.drop("role"), r"tiny.*rows.csv lacks role.*columns id, role"),
        (lambda rows: rows.with_columns(id=pl.lit("T99999")), r"name rows that the extract lacks, T99999"),
        (lambda rows: rows.with_columns(fold=pl.lit("soon")), r"fold 'soon' is no date.*YYYY-MM"),
    ],
)
def test_a_file_that_cannot_be_read_says_what_it_wants(project: Project, study, spoil, said) -> None:
    with pytest.raises(DataError) as error:
        study(spoil(lines(project)))
    assert pl.Series([str(error.value)]).str.contains(f"(?s){said}").all(), error.value


def test_another_protocol_is_refused(study, project: Project) -> None:
    with pytest.raises(ConfigError, match="choose one of as-known, full-outcome, new-market"):
        study(lines(project), "hindsight")


def test_evaluate_judges_and_registers_nothing(project: Project) -> None:
    models = project.count("model")
    judged = jobs.evaluate(Context(Job("tiny", CUT_OFF), project.settings, Quiet()))
    assert {line.name for line in judged.evidence.candidates} >= {"pooled_logistic", "map_head", "hazard_head"}
    assert project.count("model") == models
