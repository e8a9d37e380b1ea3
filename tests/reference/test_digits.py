"""Few-shot digits, shortened: novel digits are told apart from five rows of each; the whole table is a benchmark."""

import numpy as np
import pytest

from tests.benchmarks.digits import compare, tasks

pytestmark = pytest.mark.xdist_group("digits")


@pytest.fixture(scope="module")
def table() -> dict[str, tuple[float, float]]:
    return compare((1, 4, 7), steps=120, count=500)


FLOORS = {"siamese": 0.78, "matching": 0.80, "prototypical": 0.80, "maml": 0.86, "map_head": 0.82}
"""Accuracy where guessing has .5 and the full benchmark some .05 to .1 more."""


@pytest.mark.parametrize("name", FLOORS)
def test_a_learner_tells_novel_digits_apart(table: dict[str, tuple[float, float]], name: str) -> None:
    accuracy, log_loss = table[name]
    assert accuracy > FLOORS[name]
    # probabilities, not only an order: below the entropy of a coin by far
    assert log_loss < 0.6


def test_tasks_hold_other_images_in_query_than_in_support() -> None:
    episodes = tasks((1, 4, 7), 10, 0, turned=False)
    for segment in range(10):
        support, query = episodes.support.select([segment]), episodes.query.select([segment])
        assert support.rows == 10 and query.rows == 30 and support.y.mean() == query.y.mean() == 0.5
        apart = ((support.x[:, None] - query.x[None]) ** 2).sum(-1)
        assert float(np.min(apart)) > 0
