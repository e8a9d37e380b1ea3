"""A run that published nothing leaves a page: what was refused or failed, in which step, why, and what to do."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import polars as pl
import pytest
from pydantic import SecretStr

from metarisk import jobs
from metarisk.domain import (
    ConfigError,
    LockedError,
    MetariskError,
    ModelError,
    QualityError,
    SourceLate,
    WarehouseError,
)
from metarisk.jobs import Context, Quiet
from tests.end_to_end import tiny
from tests.end_to_end.tiny import CUT_OFF, FIRST, NAME, SECOND, Project

Result = TypeVar("Result")


@dataclass
class Links(Quiet):
    """A reporter that remembers links and warnings."""

    links: list[tuple[str, str, Path]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def link(self, key: str, title: str, target: Path) -> None:
        """Remember a link."""
        self.links.append((key, title, target))

    def warn(self, message: str) -> None:
        """Remember a warning."""
        self.warnings.append(message)


def text_of(page: Path) -> str:
    """What a reader sees of a page, in one line."""
    body = page.read_text().partition("<body>")[2]
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", body)).split())


def stopped(project: Project, kind: type[Exception], run: Callable[[Context], object]) -> tuple[Exception, str]:
    """The error with which a run of FIRST ends, and its page as text; the reporter got a link to the page."""
    reporter = Links()
    with pytest.raises(kind) as caught:
        run(project.context(FIRST, reporter=reporter))
    (link,) = reporter.links
    error = caught.value
    if isinstance(error, MetariskError):
        assert error.page == link[2]
    assert link[0] in (f"report-{NAME}", f"week-{NAME}")
    return error, text_of(link[2])


def shows(text: str, error: Exception) -> bool:
    """Whether a page says what was wrong and what to do."""
    assert isinstance(error, MetariskError)
    said, *wanted = (re.sub(r"[\s`]", "", words) for words in (text, error.what[:300], error.remedy[1:]))
    return all(words in said for words in wanted)


def test_a_quality_failure(project: Project) -> None:
    tiny.write_rules(project.settings.project, tiny.EVERYTHING)
    project.load(tiny.book().with_columns(opened_on=pl.when(pl.col("loan_id") > "T00002").then("opened_on")))
    error, text = stopped(project, QualityError, jobs.nightly)
    assert shows(text, error)
    assert "Not published readers keep the last published night" in text
    assert "stopped in step check 2026-08-01 12:00 UTC" in text
    assert "Column opened_on: critical rule of tiny failed" in text
    assert "extracted 700 rows, none of them published" in text
    assert "checks failed 2 of 5" in text
    assert text.index("critical") < text.index("Check failed: amount: column values to be at least 0")
    assert f"Then run metarisk nightly --portfolio tiny --as-of {FIRST} ." in text


def test_a_late_source_after_a_published_night(published: Project) -> None:
    ready = 'ready_sql = "SELECT $as_of IS NULL AS ready"'
    published.edit("portfolios/tiny.toml", "[columns]", f"{ready}\n\n[columns]")
    reporter = Links()
    with pytest.raises(SourceLate) as caught:
        jobs.nightly(published.context(SECOND, reporter=reporter))
    text = text_of(reporter.links[-1][2])
    assert reporter.links[-1][1] == f"Report of {SECOND}: refused"
    assert shows(text, caught.value)
    assert f"Not published readers keep the night of {FIRST}" in text
    assert "stopped in step ready" in text


def test_no_champion_is_a_failure(tmp_path: Path) -> None:
    error, text = stopped(tiny.make(tmp_path / "project"), ModelError, jobs.nightly)
    assert "Failed readers keep the last published night" in text
    assert shows(text, error)
    assert "checks failed 1 of 4" in text


def test_scores_that_fail_their_guard_show_both_suites(duckdb: Project) -> None:
    suite = duckdb.settings.project / "expectations" / "scores.json"
    rules = json.loads(suite.read_text())
    impossible = {"min_value": 2.0, "max_value": 3.0}
    rules["expectations"][1]["kwargs"] |= impossible
    suite.write_text(json.dumps(rules))
    error, text = stopped(duckdb, QualityError, jobs.nightly)
    assert shows(text, error)
    assert "stopped in step guard" in text
    # Those of the extract, its wrong amounts among them, those of the scores, and the eight of the night as a whole.
    assert f"checks failed 2 of {5 + len(rules['expectations']) + 8}" in text
    assert duckdb.count("publication") == 0


def test_a_warehouse_that_is_down(duckdb: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metarisk.warehouse.postgresql.connect.FIRST_PAUSE", 0.001)
    url = SecretStr(f"postgresql://risk:s3cret@/risk?host={tmp_path}")
    down = Project(duckdb.settings.model_copy(update={"warehouse": url}))
    for run in (jobs.nightly, jobs.due, jobs.weekly):
        error, text = stopped(down, WarehouseError, run)
        assert shows(text, error)
        assert "s3cret" not in text


def test_a_week_that_teaches_nothing(duckdb: Project) -> None:
    duckdb.load(tiny.book().with_columns(event_date=pl.lit(None, pl.Date), known_date=pl.lit(None, pl.Date)))
    error, text = stopped(duckdb, ModelError, jobs.weekly)
    assert shows(text, error)
    assert "Failed hazard_head goes on scoring" in text
    assert "stopped in step judge" in text
    assert "training rows" not in text
    assert f"Then run metarisk weekly --portfolio tiny --as-of {FIRST} ." in text


def test_a_defect_tells_its_kind_but_not_its_words(duckdb: Project) -> None:
    def broken(step: Callable[..., Result], context: Context, *inputs: object) -> Result:
        if step.__name__ == "score":
            raise RuntimeError("password=s3cret")
        return jobs.direct(step, context, *inputs)

    error, text = stopped(duckdb, RuntimeError, lambda context: jobs.nightly(context, broken))
    assert "Step score ended in an unexpected RuntimeError; the log has its traceback." in text
    assert "s3cret" not in text
    assert [note.startswith("report /") for note in error.__notes__] == [True]


def test_a_week_of_a_portfolio_that_cannot_be_read_has_a_page_too(duckdb: Project) -> None:
    duckdb.edit("portfolios/tiny.toml", "[validation]", "[validations]")
    error, text = stopped(duckdb, ConfigError, jobs.weekly)
    assert shows(text, error)


def test_the_next_night_that_works_has_a_page_of_its_own(duckdb: Project) -> None:
    duckdb.load(tiny.book().drop("income"))
    tiny.write_rules(duckdb.settings.project, tiny.EVERYTHING)
    error, _ = stopped(duckdb, MetariskError, jobs.nightly)
    assert isinstance(error, MetariskError)
    duckdb.load(tiny.book())
    page = duckdb.nightly().page
    assert page is not None
    assert page != error.page
    assert "Published" in text_of(page)


def test_another_run_that_goes_on_is_no_reason_for_a_page(duckdb: Project) -> None:
    reporter = Links()
    with duckdb.warehouse.lock(NAME), pytest.raises(LockedError) as caught:
        jobs.nightly(duckdb.context(FIRST, reporter=reporter))
    assert (caught.value.page, reporter.links) == (None, [])


def test_a_published_night_whose_page_fails_is_not_called_refused(
    duckdb: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no ink")

    reporter = Links()
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="no ink"):
        patch.setattr("metarisk.pages.cards.night.scores._chart", broken)
        jobs.nightly(duckdb.context(FIRST, reporter=reporter))
    assert duckdb.count("publication") == 1
    assert reporter.links == []
    assert list(duckdb.settings.data_dir.glob("reports/*/*not-published*")) == []
    # The next run writes the page, with the seconds of the steps that published.
    page = duckdb.nightly().page
    assert page is not None
    assert "8 steps" in page.read_text()


def test_a_page_that_cannot_be_written_hides_no_error(duckdb: Project) -> None:
    reports = duckdb.settings.data_dir / "reports" / NAME
    for page in reports.glob("*"):
        page.unlink()
    reports.rmdir()
    reports.touch()
    duckdb.load(tiny.book().clear())
    reporter = Links()
    with pytest.raises(MetariskError, match="the extract is empty"):
        jobs.nightly(duckdb.context(FIRST, reporter=reporter))
    assert any("the page of this run could not be written" in warning for warning in reporter.warnings)


def test_a_portfolio_that_does_not_exist_leaves_no_folder(duckdb: Project) -> None:
    nobody = duckdb.context(CUT_OFF)
    job = type(nobody.job)("../nobody", CUT_OFF)
    with pytest.raises(MetariskError):
        jobs.nightly(Context(job, nobody.settings, Quiet()))
    assert {path.name for path in (duckdb.settings.data_dir / "reports").iterdir()} == {NAME}
