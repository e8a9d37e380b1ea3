"""The level of the latest known months: looked at from rows that the fits have not seen, and followed only on proof."""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np
import polars as pl
from scipy import special

from metarisk import evidence, judging, training
from metarisk.adapt import LEVEL_RULES, adapt, level, level_column, shifts
from metarisk.calibration import Calibration, LevelRule
from metarisk.evidence import choose_level
from metarisk.tasks import LABEL
from tests.unit.loan_examples import AS_OF, PORTFOLIO, SPEC, adapted, at_risk, book, model, silent, support, to_score

RULE = LevelRule(12, 0.04, 0.01)


def worse_of_late(frame: pl.DataFrame) -> pl.DataFrame:
    """Labelled rows of which the last year's all defaulted."""
    late = pl.col("opened") > frame["opened"].max() - timedelta(days=150)
    return frame.with_columns(pl.when(late).then(1.0).otherwise(LABEL).alias(LABEL))


def test_the_first_rule_is_to_leave_the_level_alone():
    assert LEVEL_RULES[0] == LevelRule()
    assert level(adapted(), support(), PORTFOLIO, LEVEL_RULES[0]) == Calibration()
    assert level(adapted(), support().head(0), PORTFOLIO, RULE) == Calibration()


def test_a_pooled_model_has_no_fits_that_have_not_seen_its_rows_and_so_no_level():
    assert level(adapted("pooled_logistic"), support(), PORTFOLIO, RULE) == Calibration()
    assert level(adapted("hazard_head"), at_risk(), PORTFOLIO, RULE) != Calibration()


def test_a_hazard_looks_at_rows_still_at_risk():
    rule = LevelRule(6, 0.04, 0.0)
    opened, newest = pl.col("opened"), at_risk()["opened"].max()
    young = at_risk().filter(opened > newest - timedelta(days=200))
    # all of them immature, so that a model of mature labels sees none
    assert young[LABEL].sum() > 0
    found = level(adapted("hazard_head"), young, PORTFOLIO, rule)
    worse = level(adapted("hazard_head"), young.with_columns(pl.lit(1.0).alias(LABEL)), PORTFOLIO, rule)
    assert worse.portfolio > found.portfolio != 0
    assert level(adapted("map_head"), young, PORTFOLIO, rule) == Calibration()


def test_the_level_follows_the_latest_months_and_no_others():
    late = level(adapted(), worse_of_late(support()), PORTFOLIO, RULE)
    assert late.portfolio > level(adapted(), support(), PORTFOLIO, RULE).portfolio + 0.1
    short = LevelRule(2, 0.04, 0.0)
    opened = support()["opened"]
    before = support().with_columns(
        pl.when(pl.col("opened") < opened.max() - timedelta(days=70))
        .then(1 - pl.col(LABEL))
        .otherwise(LABEL)
        .alias(LABEL)
    )
    assert level(adapted(), before, PORTFOLIO, short) == level(adapted(), support(), PORTFOLIO, short)


def test_support_is_scored_by_fits_that_have_not_seen_it():
    rows = support()
    link = adapted().score(rows, PORTFOLIO, model().unseen(rows))[0]
    rule = LevelRule(1_200, 1e6, 0.0)
    found = level(adapted(), rows, PORTFOLIO, rule)
    assert abs(special.expit(link + found.portfolio).mean() - rows[LABEL].mean()) < 1e-6


def test_shifts_are_those_of_each_rows_segment():
    rows = to_score()
    found = shifts(rows, PORTFOLIO, Calibration(0.1, {"south|card": 0.2}))
    here = ((rows["region"] == "south") & (rows["product"] == "card")).to_numpy()
    assert found.tolist() == np.where(here, 0.1 + 0.2, 0.1).tolist()
    assert shifts(rows.head(0), PORTFOLIO, Calibration(0.1)).shape == (0,)


def test_walk_forward_judges_every_rule_with_labels_of_its_cut():
    judged = judging.walk_forward(book().lazy(), PORTFOLIO, SPEC, ["map_head"], AS_OF, seed=0, progress=silent)
    assert not judged.is_empty()
    fold = judged.filter(pl.col("fold") == judged["fold"].max())
    cut = date.fromisoformat(fold["fold"][0])
    teach = training.teaching_rows(book().lazy(), PORTFOLIO, SPEC, cut)
    bases = training.fit_bases(["map_head"], teach, PORTFOLIO, SPEC)
    fitted = training.fit("map_head", teach, bases, PORTFOLIO, SPEC, seed=0, progress=silent)
    night = adapt(fitted, "", teach, PORTFOLIO, SPEC)
    for number, rule in enumerate(LEVEL_RULES[1:], start=1):
        moved = fold[level_column("map_head", number)] - fold["map_head"]
        expected = shifts(fold, PORTFOLIO, level(night, teach, PORTFOLIO, rule))
        np.testing.assert_allclose(moved, expected, atol=1e-12)


def judged(shift: float, rows: int = 6_000) -> pl.DataFrame:
    """Rows whose truth lies `shift` above the plain scores; every rule moves them by 0.2."""
    r = np.random.default_rng(3)
    link = r.normal(-1.5, 1, rows)
    frame = pl.DataFrame(
        {
            "loan": [str(i) for i in range(rows)],
            "opened": [date(2022, 1 + i % 12, 1) for i in range(rows)],
            "region": r.choice(["north", "south"], rows),
            "product": r.choice(["card", "car"], rows),
            LABEL: (r.random(rows) < special.expit(link + shift)).astype(float),
            "fold": ["2022-01-01"] * rows,
            "map_head": link,
        }
    )
    moved = {level_column("map_head", number): link + 0.2 for number in range(1, len(LEVEL_RULES))}
    return frame.with_columns(**{name: pl.Series(values) for name, values in moved.items()})


def test_a_rule_is_followed_only_where_it_is_better_beyond_chance():
    helped, none = (
        choose_level(judged(0.25), "map_head", PORTFOLIO, SPEC),
        choose_level(judged(0.0), "map_head", PORTFOLIO, SPEC),
    )
    assert helped.rule == LEVEL_RULES[1]
    assert none.rule == LEVEL_RULES[0]
    tiny = judged(0.25).with_columns(pl.col("map_head") + 1e-9)
    epsilon = {level_column("map_head", n): pl.col("map_head") + 1e-6 for n in range(1, len(LEVEL_RULES))}
    assert choose_level(tiny.with_columns(**epsilon), "map_head", PORTFOLIO, SPEC).rule == LEVEL_RULES[0]
    assert [rule for rule, _ in none.tried] == list(LEVEL_RULES[1:])
    assert choose_level(pl.DataFrame(), "map_head", PORTFOLIO, SPEC).rule == LEVEL_RULES[0]
    few = judged(0.25).filter(pl.col(LABEL).cum_sum() < evidence.MIN_JUDGED_EVENTS)
    assert choose_level(few, "map_head", PORTFOLIO, SPEC) == evidence.LevelChoice(LEVEL_RULES[0], ())
    table = evidence.Evidence("walk_forward", "log_loss", "auc", 6_000, 1_000, (), {}, "", ())
    rows = evidence.level_rows(helped, table, "map_head")
    assert [row["note"].endswith("; chosen") for row in rows] == [True] + [False] * (len(rows) - 1)
    assert rows[0]["high"] < 0
