"""Trees as tables: LightGBM's own predictions to the last bit, missing values, categories and odd numbers included."""

from __future__ import annotations

import lightgbm
import numpy as np
import pytest

from metarisk.bases.forest import BLOCK, MOST_LEAVES, Forest

ODD = np.array([np.nan, 0.0, -0.0, 1e-36, -1e-36, 2e-35, -2e-35, 1e299, -1e299])


def trained(
    seed: int, *, missing: bool, leaves: int = MOST_LEAVES, trees: int = 30
) -> tuple[lightgbm.Booster, np.ndarray]:
    """Five features: one constant, one of levels, one of few values; and rows with everything odd."""
    r = np.random.default_rng(seed)
    x = r.normal(size=(3_000, 5)).round(int(r.integers(1, 4)))
    x[:, 1], x[:, 2], x[:, 4] = 7.0, r.integers(0, 12, len(x)), r.integers(-1, 3, len(x))
    y = (r.random(len(x)) < 1 / (1 + np.exp(-x[:, 0] * x[:, 4] - (x[:, 2] % 3 == 1)))).astype(float)
    if missing:
        x[r.random(x.shape) < 0.1] = np.nan
    about = {"num_leaves": leaves, "num_iterations": trees, "verbose": -1, "num_threads": 1, "seed": seed}
    booster = lightgbm.train(
        {"objective": "binary", "min_data_in_leaf": 5} | about, lightgbm.Dataset(x, y, categorical_feature=[2])
    )
    rows = np.concatenate([x, r.normal(size=(500, 5)), r.choice(ODD, size=(3_000, 5))])
    rows[-3_000:, 2] = r.choice([np.nan, 0.0, 3.0, 11.0, 12.0, 63.0, 200.0], 3_000)
    return booster, rows


@pytest.mark.parametrize("seed", range(6))
def test_every_bit_is_lightgbms(seed):
    booster, rows = trained(seed, missing=seed % 2 == 0, leaves=(2, 3, 16)[seed % 3])
    forest = Forest.read(booster.dump_model())
    expected = booster.predict(rows, raw_score=True)
    assert (forest.predict(rows) == expected).all()
    assert (forest.predict(np.asfortranarray(rows), 3) == expected).all()
    read_back = lightgbm.Booster(model_str=booster.model_to_string())
    assert (Forest.read(read_back.dump_model()).predict(rows) == expected).all()


def test_blocks_and_threads_change_no_bit():
    booster, rows = trained(9, missing=True)
    many = np.concatenate([rows] * (1 + 2 * BLOCK // len(rows)))
    forest = Forest.read(booster.dump_model())
    assert (forest.predict(many, 2) == booster.predict(many, raw_score=True)).all()
    assert forest.predict(rows[:0]).shape == (0,)


def test_a_tree_without_a_split_is_a_constant():
    data = lightgbm.Dataset(np.zeros((200, 2)), np.r_[np.zeros(150), np.ones(50)])
    booster = lightgbm.train({"objective": "binary", "verbose": -1, "num_iterations": 3}, data)
    rows = np.random.default_rng(0).normal(size=(20, 2))
    assert (Forest.read(booster.dump_model()).predict(rows) == booster.predict(rows, raw_score=True)).all()


def test_more_leaves_than_bits_are_left_to_lightgbm():
    booster, _ = trained(1, missing=False, leaves=31)
    assert Forest.read(booster.dump_model()) is None
