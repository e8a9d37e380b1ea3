"""What a run shows in Prefect: tables, links and progress, read back from a real server."""

from __future__ import annotations

import math
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey

from flows.reporter import MAX_ROWS, PROGRESS_SECONDS, REPORT_URL, PrefectReporter, report_address
from flows.running import Line, summary
from metarisk.domain import DataError, Job

pytestmark = pytest.mark.xdist_group("prefect")


class Clock:
    """Seconds that pass only when they are told to."""

    now = 0.0

    def __call__(self) -> float:
        """The time."""
        return self.now


def kept(client: SyncPrefectClient, key: str) -> Any:
    """The only artifact of a key."""
    (artifact,) = client.read_artifacts(artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[key])))
    return artifact


def test_a_table_is_shown_without_what_json_cannot_hold(
    in_process: None, client: SyncPrefectClient, tmp_path: Path
) -> None:
    rows = [{"share": 1 / 3, "missing": math.nan, "on": date(2026, 1, 2), "who": "x|<b>"}] * (MAX_ROWS + 1)

    @flow
    def shows() -> None:
        PrefectReporter("table_book", tmp_path).table("quality", "Quality of table_book 2026-01-02", rows)

    shows()
    artifact = kept(client, "table-book-quality")
    assert (
        artifact.description
        == f"Quality of table_book 2026-01-02. First {MAX_ROWS} of {MAX_ROWS + 1} rows; the report has all."
    )
    assert artifact.data.count("0.3333") == MAX_ROWS
    assert "NaN" not in artifact.data


def test_progress_moves_at_most_every_few_seconds_and_always_ends_at_the_end(
    in_process: None, client: SyncPrefectClient, tmp_path: Path
) -> None:
    clock = Clock()
    seen: list[float] = []

    @flow
    def works() -> None:
        reporter = PrefectReporter("slow_book", tmp_path, clock)
        for done in range(100):
            reporter.progress("score", done, 100)
            clock.now += PROGRESS_SECONDS / 10
            if done % 25 == 0:
                seen.append(kept(client, "slow-book-score").data)
        reporter.progress("score", 100, 100, "all rows")

    works()
    assert seen == [0, 20, 50, 70]
    artifact = kept(client, "slow-book-score")
    assert artifact.data == 100
    assert artifact.description == "**score**: 100 of 100 (all rows)"


def test_what_a_step_left_half_shown_is_done_when_it_is(
    in_process: None, client: SyncPrefectClient, tmp_path: Path
) -> None:
    @flow
    def works() -> None:
        reporter, job = PrefectReporter("stopping_book", tmp_path), Job("stopping_book", date(2026, 1, 2))
        reporter.progress("backfill", 1, 10)
        with reporter.step(job, "train"):
            reporter.progress("train", 20, 500, "it changes little")
        with pytest.raises(DataError), reporter.step(job, "score"):
            reporter.progress("score", 1, 4)
            raise DataError("no", remedy="none")

    works()
    train = kept(client, "stopping-book-train")
    assert (train.data, train.description) == (100, "**train**: done")
    # What goes on around the step, and what failed, are where they were.
    assert (kept(client, "stopping-book-backfill").data, kept(client, "stopping-book-score").data) == (10, 25)


def test_a_link_leads_to_where_reports_are_served(
    in_process: None, client: SyncPrefectClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(REPORT_URL, "http://reports.example/")
    page = tmp_path / "reports" / "a" / "2026.html"

    @flow
    def links() -> None:
        PrefectReporter("link_book", tmp_path).link("report-link_book", "Report of 2026", page)

    links()
    artifact = kept(client, "link-book-report")
    assert "http://reports.example/reports/a/2026.html" in artifact.data
    assert str(page) in artifact.description


def test_a_page_elsewhere_is_named_by_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(REPORT_URL, "http://reports.example")
    assert report_address(tmp_path / "data", tmp_path / "x.html") == (tmp_path / "x.html").as_uri()


def test_a_summary_puts_failures_first_and_escapes_what_errors_say() -> None:
    good = Line("good", date(2026, 1, 2), "published", "5 rows")
    bad = Line("bad", date(2026, 1, 2), "failed", "ConfigError: a|b <script>\nRemedy", failed=True)
    said, _, _, _, failed, published = summary([good, bad]).splitlines()
    assert said == "- **bad 2026-01-02: failed, ConfigError: a\\|b &lt;script> Remedy**"
    assert failed == "| bad | 2026-01-02 | **FAILED** |  | see above |"
    assert published == "| good | 2026-01-02 | published |  | 5 rows |"
