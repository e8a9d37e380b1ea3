"""After five confirmed cases of a pattern that no model has seen, a short form of the bench of fraud."""

from __future__ import annotations

import pytest

from tests.benchmarks import fraud


@pytest.mark.real_data
@pytest.mark.skipif(not fraud.FILE.is_file(), reason="the simulated card transactions are not here")
def test_the_map_head_finds_a_new_pattern_after_five_cases_and_keeps_the_old_one() -> None:
    frame = fraud.behaviour(fraud.FILE, fraud.NEW, fraud.JUDGED[1], cards=7)
    rows = fraud.split(frame, 14)
    assert not (rows.teach["TX_FRAUD_SCENARIO"] == fraud.NEW).any()
    found = fraud.compare(rows, ["map_network"], (5,), draws=2, budget=7, support=1_000)
    means = {way: part.mean() for (way, k), part in found.group_by("way", "k") if way == "pooled" or k == 5}
    pooled, head, boosting = (means[way] for way in ("pooled", "map_network", "boosting"))
    assert head["pr_auc"][0] > 2 * pooled["pr_auc"][0]
    assert head["pr_auc"][0] > boosting["pr_auc"][0]
    assert head["precision"][0] > pooled["precision"][0]
    # A short book has few frauds of the old pattern: one in thirty may move.
    assert head["old_recall"][0] > pooled["old_recall"][0] - 0.05
