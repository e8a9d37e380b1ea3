"""Detection within a budget: against scikit-learn, a plain loop, and the truth behind a sample."""

from __future__ import annotations

import math

import numpy as np
from sklearn.metrics import average_precision_score

from metarisk.metrics import pr_auc
from metarisk.risks.fraud.detection import NOTHING, at_budget, select, time_to_first_catch, weighted_rates


def test_area_under_precision_and_recall_is_that_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    for ties in (1, 3, 100):
        score, y = np.round(rng.random(400) * ties) / ties, (rng.random(400) < 0.1).astype(float)
        weight = rng.random(400) + 0.1
        assert math.isclose(pr_auc(score, y), average_precision_score(y, score), rel_tol=1e-12)
        expected = average_precision_score(y, score, sample_weight=weight)
        assert math.isclose(pr_auc(score, y, weight), expected, rel_tol=1e-12)
    assert math.isnan(pr_auc([0.1, 0.2], [0, 0]))


def test_rates_at_budget_are_those_of_a_plain_loop() -> None:
    rng = np.random.default_rng(1)
    total, alerts, hits, events, value, caught = NOTHING, 0, 0, 0, 0.0, 0.0
    for _ in range(6):
        case, score, amount = rng.integers(0, 30, 80), rng.random(80), rng.random(80) * 100
        y = (rng.random(80) < 0.1).astype(float)
        total += at_budget(case, score, y, amount, 7)
        risk = {name: max(score[case == name]) for name in set(case.tolist())}
        chosen = sorted(risk, key=lambda name: -risk[name])[:7]
        bad = {name for name in risk if y[case == name].any()}
        alerts, hits, events = alerts + 7, hits + len(bad & set(chosen)), events + len(bad)
        value += float(amount @ y)
        caught += sum(float(amount[case == name] @ y[case == name]) for name in chosen)
    assert (total.alerts, total.hits, total.events) == (alerts, hits, events)
    assert math.isclose(total.value_recall, caught / value)
    assert math.isclose(total.precision, hits / alerts)
    assert math.isclose(total.recall, hits / events)
    assert math.isclose(total.false_positive_ratio, (alerts - hits) / hits)
    assert math.isnan(NOTHING.precision)


def test_a_case_is_its_riskiest_row_and_the_draw_repeats_in_any_order() -> None:
    rng = np.random.default_rng(2)
    case, score = rng.integers(0, 100, 300).astype(str), np.round(rng.random(300), 2)
    chosen = select(case, score, 20, 0.1, seed=5)
    assert (len(chosen.alerts), len(chosen.explored)) == (18, 2)
    assert not set(chosen.alerts) & set(chosen.explored)
    assert all(score[chosen.worst[i]] == score[case == chosen.names[i]].max() for i in range(len(chosen.names)))
    rest = np.delete(score[chosen.worst], chosen.alerts)
    assert score[chosen.worst][chosen.alerts].min() >= rest.max()
    order = rng.permutation(300)
    again = select(case[order], score[order], 20, 0.1, seed=5)
    assert (again.alerts == chosen.alerts).all()
    assert (again.explored == chosen.explored).all()
    assert math.isclose(chosen.chance.sum(), 18 + 2)
    other = [tuple(select(case, score, 20, 0.1, seed).explored) for seed in range(20)]
    assert len(set(other)) > 10


def test_budgets_that_leave_no_choice() -> None:
    everything = select(["a", "b"], [0.1, 0.2], 5, 0.02, seed=0)
    assert sorted((*everything.alerts, *everything.explored)) == [0, 1]
    nobody = select(["a", "b"], [0.1, 0.2], 0, 0.02, seed=0)
    assert (len(nobody.alerts), len(nobody.explored)) == (0, 0)
    nothing = select(np.array([], dtype=str), np.array([]), 5, 0.02, seed=0)
    assert len(nothing.names) == 0


def test_recall_from_reviewed_cases_is_unbiased_where_that_of_all_reviewed_is_not() -> None:
    """A model that misses half of the frauds: only what is drawn at random can tell."""
    rng = np.random.default_rng(3)
    alert, event, chance, naive = [], [], [], []
    for night in range(400):
        y = rng.random(200) < 0.05
        score = np.where(y & (rng.random(200) < 0.5), 1.0, 0.0) + 0.5 * rng.random(200)
        chosen = select(np.arange(200), score, 20, 0.1, seed=night)
        picked = np.concatenate([chosen.alerts, chosen.explored])
        case = chosen.names[picked]
        alert.append(np.isin(picked, chosen.alerts))
        event.append(y[case])
        chance.append(chosen.chance[picked])
        naive.append(y[chosen.names[chosen.alerts]].sum() / y.sum())
    truth = float(np.mean(naive))
    precision, recall = weighted_rates(np.concatenate(alert), np.concatenate(event), np.concatenate(chance))
    assert abs(recall - truth) < 0.06
    seen, hit = np.concatenate(event), np.concatenate(alert)
    assert seen[hit].sum() / seen.sum() > 0.95  # what reviewers alone would believe
    assert math.isclose(precision, seen[hit].mean())


def test_days_to_the_first_catch() -> None:
    card = ["a", "a", "a", "b", "b", "c", "d"]
    day = [3, 5, 9, 1, 4, 2, 8]
    y = [1, 1, 1, 1, 1, 1, 0]
    caught = [0, 1, 1, 1, 0, 0, 1]
    assert time_to_first_catch(card, day, y, caught).tolist() == [2.0, 0.0, math.inf]
    assert time_to_first_catch([], [], [], []).tolist() == []


# at the edges, by hand


def test_a_share_of_the_budget_is_rounded_up_and_its_cases_are_drawn_from_the_others() -> None:
    for budget, share, drawn in ((10, 0.1, 1), (10, 0.11, 2), (10, 0.0, 0), (10, 1.0, 10), (1, 0.01, 1)):
        chosen = select(np.arange(30), np.arange(30.0), budget, share, seed=0)
        assert (len(chosen.alerts), len(chosen.explored)) == (budget - drawn, drawn)
        assert chosen.alerts.tolist() == list(range(29, 29 - budget + drawn, -1))
        rest = 30 - budget + drawn
        assert set(chosen.explored) <= set(range(rest))
        assert (chosen.chance[:rest] == drawn / rest).all() and (chosen.chance[rest:] == 1.0).all()
    assert select(["a"], [1.0], -1, 0.5, seed=0).alerts.tolist() == []


def test_a_case_has_its_rows_and_equal_cases_are_taken_by_name() -> None:
    chosen = select(["b", "a", "c", "a", "b", "a"], [0.5, 0.1, 0.5, 0.5, 0.2, 0.3], 2, 0.0, seed=0)
    assert chosen.names.tolist() == ["a", "b", "c"]
    assert chosen.worst.tolist() == [3, 0, 2]
    assert chosen.rows.tolist() == [3, 2, 1]
    assert chosen.alerts.tolist() == [0, 1]
    assert chosen.chance.tolist() == [1.0, 1.0, 0.0]
    everything = select(["a", "b"], [0.1, 0.2], 2, 0.0, seed=0)
    assert (everything.alerts.tolist(), everything.chance.tolist()) == ([1, 0], [1.0, 1.0])


def test_what_a_budget_of_one_catches() -> None:
    """Case a is riskiest and has two events of 10 and 5 and a row without; b has one of 30, c none."""
    case, score, y = ["a", "a", "a", "b", "c"], [0.9, 0.1, 0.2, 0.5, 0.4], [1, 1, 0, 1, 0]
    found = at_budget(case, score, y, [10.0, 5.0, 7.0, 30.0, 4.0], 1)
    assert (found.alerts, found.hits, found.events, found.value, found.value_caught) == (1, 1, 2, 45.0, 15.0)
    both = found + at_budget(case, score, y, [10.0, 5.0, 7.0, 30.0, 4.0], 3)
    assert (both.alerts, both.hits, both.events, both.value, both.value_caught) == (4, 3, 4, 90.0, 60.0)
    assert (both.precision, both.recall, both.value_recall, both.false_positive_ratio) == (0.75, 0.75, 60 / 90, 1 / 3)


def test_a_reviewed_case_stands_for_as_many_as_its_chance_says() -> None:
    """Two alerts, one of them right, and of three drawn with chance 1/4 one event: 4 events were missed."""
    precision, recall = weighted_rates([1, 1, 0, 0, 0], [1, 0, 1, 0, 0], [1, 1, 0.25, 0.25, 0.25])
    assert (precision, recall) == (0.5, 0.2)
