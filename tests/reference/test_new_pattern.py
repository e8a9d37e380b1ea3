"""After five confirmed cases of a pattern that no model has seen, a short form of the bench of fraud."""

from __future__ import annotations

import polars as pl
import pytest

from tests.benchmarks import fraud


@pytest.mark.real_data
@pytest.mark.skipif(not fraud.FILE.is_file(), reason="the simulated card transactions are not here")
def test_the_map_head_finds_a_new_pattern_after_five_cases_and_keeps_the_old_one() -> None:
    frame = fraud.behaviour(fraud.FILE, fraud.NEW, fraud.JUDGED[1], cards=7)
    rows = fraud.split(frame, 14)
    assert not (rows.teach["TX_FRAUD_SCENARIO"] == fraud.NEW).any()
    found = fraud.compare(rows, ["map_network"], (5,), draws=2, budget=7, support=1_000)
    means = {way: part.mean() for way, part in found.group_by(pl.concat_str("way", "k"))}
    pooled, boosting, before, after = (means[way,] for way in ("pooled0", "boosting5", "map_network0", "map_network5"))
    assert after["precision"][0] > max(pooled["precision"][0], boosting["precision"][0])
    assert after["pr_auc"][0] > 2 * before["pr_auc"][0]
    # This short book judges 47 frauds of the old pattern: one of them is two points.
    assert after["old_recall"][0] > before["old_recall"][0] - 0.05
