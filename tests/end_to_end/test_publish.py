"""What one published night says of itself, counted again from its own rows and from the book."""

from __future__ import annotations

import json
from collections import Counter
from datetime import timedelta

import numpy as np
import pytest

from metarisk.record.publications import append_publication
from metarisk.steps import publish as publishing
from tests.end_to_end import tiny
from tests.end_to_end.tiny import FIRST, NAME, Project

ADAPTATIONS = """
SELECT segment, status, reason, support_rows, support_events, parameters, pooled_score, score_quantile, score_bound,
    model_id, run_id, as_of, portfolio FROM metarisk.adaptation ORDER BY segment
"""
SCORES = """
SELECT segment, status, count(*) AS n, avg(score_high) AS high FROM metarisk.risk_score GROUP BY segment, status
"""


def test_a_run_counts_its_rows_and_segments(published: Project) -> None:
    (run,) = published.warehouse.rows("SELECT * FROM metarisk.run")
    opened = tiny.book().filter(tiny.book()["opened_on"] <= FIRST)
    assert run["rows_extracted"] == opened.height
    assert run["rows_quarantined"] == (opened["amount"] < 0).sum() > 0
    assert run["rows_scored"] == published.count("risk_score")
    statuses = Counter(row["status"] for row in published.warehouse.rows(SCORES))
    assert len(statuses) > 1
    for status in ("adapted", "carried", "abstained", "fallback"):
        assert run[f"segments_{status}"] == statuses[status], status
    assert (run["model_age_days"], run["mode"], run["reason"]) == (1, "nightly", None)
    manifest = json.loads(run["manifest"])
    assert {"extract", "adapt", "score", "batch_rows", "versions"} <= set(manifest)
    assert "derived" not in manifest


def test_each_segment_has_its_support_and_one_that_abstained_its_bounds(published: Project) -> None:
    rows = {row["segment"]: row for row in published.warehouse.rows(ADAPTATIONS)}
    assert set(rows) == {"|".join(key) for key in tiny.SEGMENTS}
    highs = {row["segment"]: row["high"] for row in published.warehouse.rows(SCORES)}
    assert Counter(row["status"] for row in rows.values()) == {"adapted": 4, "abstained": 2}
    for segment, row in rows.items():
        bounds = row["pooled_score"], row["score_quantile"], row["score_bound"]
        if row["status"] == "adapted":
            assert bounds == (None, None, None)
            continue
        assert 0 < row["pooled_score"] < 1
        assert row["score_quantile"] == pytest.approx(highs[segment])
        assert row["pooled_score"] < row["score_bound"] <= 1, "few labels bound little"
    fed = next(row for row in rows.values() if row["support_rows"])
    numbers = json.loads(fed["parameters"])
    assert sum(np.size(values) for values in numbers.values()) <= publishing.SHOWN_NUMBERS


def test_a_publication_is_later_than_all_before_and_a_second_try_changes_nothing(published: Project) -> None:
    before = published.contents()
    published.nightly()
    assert published.contents() == before
    published.nightly(mode="restatement", reason="corrected")
    rows = published.warehouse.rows("SELECT * FROM metarisk.publication ORDER BY seq")
    assert rows[0]["reason"] is None
    assert [row["seq"] for row in rows] == list(range(1, len(rows) + 1))
    last, tomorrow = max(row["published_at"] for row in rows), FIRST + timedelta(days=1)
    with published.warehouse.transaction() as transaction:
        new = append_publication(transaction, NAME, tomorrow, None, "", tiny.noon())
    assert new["published_at"] == max(tiny.noon(), last + timedelta(microseconds=1))
    assert (new["seq"], new["as_of"], new["run_id"], new["reason"]) == (1, tomorrow, None, None)
