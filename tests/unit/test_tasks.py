"""Maturity, labels and populations against a plain Python twin; folds and episodes that never look ahead."""

from __future__ import annotations

import calendar
from collections import Counter
from dataclasses import replace
from datetime import date, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metarisk import tasks
from metarisk.domain import PERIODS, Portfolio, Target, Validation
from metarisk.tasks import (
    LABEL,
    MATURE,
    Matrix,
    as_known,
    episodes,
    forward_folds,
    labelled,
    matrix,
    newest,
    observed,
    opened_within,
    pack,
    population,
    segment_keys,
)
from tests.unit.loan_examples import AS_OF, PORTFOLIO, SPEC, book, to_score

VALUE_SPEC = replace(SPEC, label="value")
VALUES = replace(PORTFOLIO, columns=replace(PORTFOLIO.columns, event_date=None, value="amount", exit_date=None))
HORIZONS = [
    Target("t", horizon_months=12, reporting_lag_days=30),
    Target("t", horizon_months=1),
    Target("t", horizon_days=10, reporting_lag_days=3),
    Target("t", horizon_months=6, horizon_days=5, reporting_lag_days=60),
    Target("t", horizon_months=6, reporting_lag_months=1),
    Target("t", horizon_days=40, reporting_lag_months=1, reporting_lag_days=2),
]


# a twin of the rule, a row at a time


def add_months(day: date, months: int) -> date:
    year, month = divmod(day.year * 12 + day.month - 1 + months, 12)
    return date(year, month + 1, min(day.day, calendar.monthrange(year, month + 1)[1]))


def end_of_horizon(opened: date, target: Target) -> date:
    return add_months(opened, target.horizon_months) + timedelta(days=target.horizon_days)


def told_by(opened: date, target: Target) -> date:
    """Date at which all events inside the horizon are known."""
    end = add_months(opened, target.horizon_months + target.reporting_lag_months)
    return end + timedelta(days=target.horizon_days + target.reporting_lag_days)


def at_risk_of(row: dict, target: Target, as_of: date) -> tuple[float, int] | None:
    """Label and periods at risk, period by period; None before the first is known."""
    months = target.horizon_months > 0
    seen, label = 0, 0.0
    for period in range(1, target.periods + 1):
        unit = {"horizon_months": period} if months else {"horizon_days": period}
        part = replace(target, **{"horizon_months": 0, "horizon_days": 0} | unit)
        last_known = as_of - timedelta(days=target.reporting_lag_days)
        known = (
            told_by(row["opened"], part) <= as_of
            if months
            else (end_of_horizon(row["opened"], part) <= add_months(last_known, -target.reporting_lag_months))
        )
        if not known:
            break
        seen = period
        event, told = row["event"], row["known"]
        if event is not None and told is not None and told <= as_of and event <= end_of_horizon(row["opened"], part):
            label = 1.0
            break
    return (label, seen) if seen else None


def label_of(row: dict, target: Target, as_of: date) -> float | None:
    """1 or 0, or None while the row is immature."""
    end = end_of_horizon(row["opened"], target)
    if told_by(row["opened"], target) > as_of:
        return None
    event, known = row["event"], row["known"]
    return float(event is not None and known is not None and event <= end and known <= as_of)


def is_scored(row: dict, target: Target, as_of: date) -> bool:
    ended = any(day is not None and day <= as_of for day in (row["known"], row["left"]))
    return row["opened"] <= as_of < end_of_horizon(row["opened"], target) and not ended


def frame_of(rows: list[dict]) -> pl.LazyFrame:
    dates = dict.fromkeys(("opened", "event", "known", "left"), pl.Date)
    numbered = [row | {"loan": f"L{i}", "region": "north", "product": "card"} for i, row in enumerate(rows)]
    return pl.LazyFrame(numbered, schema_overrides=dates)


def portfolio_of(target: Target) -> Portfolio:
    return replace(PORTFOLIO, targets=(target,))


def found_labels(rows: list[dict], target: Target, as_of: date) -> list[float | None]:
    found = labelled(frame_of(rows), portfolio_of(target), SPEC, as_of).collect()
    by_loan = dict(zip(found["loan"], found[LABEL], strict=True))
    return [by_loan.get(f"L{i}") for i in range(len(rows))]


def loan(opened: date, event: date | None = None, known: date | None = None, left: date | None = None) -> dict:
    return {"opened": opened, "event": event, "known": known if known is not None else event, "left": left}


dates = st.dates(date(2019, 10, 1), date(2021, 4, 30))
rows_of = st.builds(
    lambda opened, event, delay, left: loan(opened, event, event and event + timedelta(days=delay), left),
    dates,
    st.none() | dates,
    st.integers(0, 60),
    st.none() | dates,
)


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(rows_of, min_size=1, max_size=12), target=st.sampled_from(HORIZONS), as_of=dates)
def test_labels_and_population_are_those_of_the_twin(rows, target, as_of):
    assert found_labels(rows, target, as_of) == [label_of(row, target, as_of) for row in rows]
    scored = population(frame_of(rows), portfolio_of(target), as_of).collect()["loan"].to_list()
    assert scored == [f"L{i}" for i, row in enumerate(rows) if is_scored(row, target, as_of)]


@settings(max_examples=80, deadline=None)
@given(
    rows=st.lists(rows_of, min_size=1, max_size=12),
    target=st.sampled_from([target for target in HORIZONS if target.periods]),
    as_of=dates,
)
def test_rows_at_risk_are_those_of_the_twin_and_the_mature_ones_carry_their_label(rows, target, as_of):
    found = observed(frame_of(rows), portfolio_of(target), SPEC, as_of).collect()
    by_loan = {row["loan"]: (row[LABEL], row[PERIODS]) for row in found.iter_rows(named=True)}
    assert [by_loan.get(f"L{i}") for i in range(len(rows))] == [at_risk_of(row, target, as_of) for row in rows]
    mature = {row["loan"]: row[LABEL] for row in found.iter_rows(named=True) if row[MATURE]}
    if target.horizon_months or not target.reporting_lag_months:
        assert [mature.get(f"L{i}") for i in range(len(rows))] == found_labels(rows, target, as_of)


def test_a_horizon_of_months_and_days_has_mature_rows_alone():
    rows = [loan(date(2020, 1, 1)), loan(date(2020, 12, 1))]
    found = observed(frame_of(rows), portfolio_of(HORIZONS[3]), SPEC, date(2021, 1, 1)).collect()
    assert found["loan"].to_list() == ["L0"]
    assert found[PERIODS].to_list() == [1]


@pytest.mark.parametrize(
    ("opened", "months", "matures"),
    [
        (date(2020, 2, 29), 12, date(2021, 2, 28)),
        (date(2019, 2, 28), 12, date(2020, 2, 28)),
        (date(2021, 1, 31), 1, date(2021, 2, 28)),
        (date(2020, 1, 31), 1, date(2020, 2, 29)),
        (date(2020, 8, 31), 6, date(2021, 2, 28)),
        (date(2020, 12, 15), 12, date(2021, 12, 15)),
    ],
)
def test_months_end_where_the_month_ends(opened, months, matures):
    target = Target("t", horizon_months=months)
    assert found_labels([loan(opened)], target, matures) == [0.0]
    assert found_labels([loan(opened)], target, matures - timedelta(days=1)) == [None]


def test_an_event_on_the_last_day_counts_and_one_a_day_later_does_not():
    target, opened, as_of = HORIZONS[0], date(2020, 2, 29), date(2022, 1, 1)
    rows = [loan(opened, date(2021, 2, 28)), loan(opened, date(2021, 3, 1))]
    assert found_labels(rows, target, as_of) == [1.0, 0.0]


def test_an_event_counts_from_the_day_it_is_known():
    target, opened = HORIZONS[0], date(2020, 1, 1)
    row = loan(opened, date(2020, 12, 31), known=date(2021, 3, 1))
    assert found_labels([row], target, date(2021, 2, 28)) == [0.0]
    assert found_labels([row], target, date(2021, 3, 1)) == [1.0]


def test_the_reporting_lag_keeps_a_row_from_teaching_too_early():
    target, opened = HORIZONS[0], date(2020, 1, 1)
    assert found_labels([loan(opened)], target, date(2021, 1, 30)) == [None]
    assert found_labels([loan(opened)], target, date(2021, 1, 31)) == [0.0]


def test_a_prepaid_row_is_good_once_mature_and_scored_only_until_it_left():
    target, row = HORIZONS[0], loan(date(2020, 6, 1), left=date(2020, 9, 1))
    assert found_labels([row], target, date(2021, 7, 1)) == [0.0]
    for as_of, rows in ((date(2020, 8, 31), 1), (date(2020, 9, 1), 0)):
        assert population(frame_of([row]), portfolio_of(target), as_of).collect().height == rows


def test_an_early_event_of_an_immature_row_neither_teaches_nor_is_scored():
    row, as_of = loan(date(2020, 6, 1), date(2020, 7, 1)), date(2020, 8, 1)
    assert found_labels([row], HORIZONS[0], as_of) == [None]
    assert population(frame_of([row]), portfolio_of(HORIZONS[0]), as_of).collect().height == 0


def test_an_event_dated_before_opening_is_positive_as_the_rule_says():
    assert found_labels([loan(date(2020, 6, 1), date(2020, 5, 1))], HORIZONS[0], date(2022, 1, 1)) == [1.0]


def test_values_teach_when_mature_and_known():
    rows = pl.LazyFrame(
        {
            "loan": ["a", "b", "c", "d"],
            "opened": [date(2020, 1, 1)] * 3 + [date(2020, 5, 1)],
            "known": [date(2021, 1, 1), date(2021, 3, 1), date(2021, 1, 1), date(2020, 6, 1)],
            "amount": [2.5, 1.0, None, 7.0],
        }
    )
    found = labelled(rows, VALUES, VALUE_SPEC, date(2021, 2, 15)).collect()
    assert found.select("loan", LABEL).rows() == [("a", 2.5)]


def test_what_was_not_known_is_blank():
    frame = book().lazy()
    for rows in (labelled(frame, PORTFOLIO, SPEC, AS_OF), population(frame, PORTFOLIO, AS_OF)):
        seen = rows.collect()
        assert seen.height
        for told in ("event", "known", "left"):
            assert (seen[told].max() or AS_OF) <= AS_OF
    late = frame.filter(pl.col("known") > AS_OF).collect()
    assert late.height
    assert as_known(late.lazy(), PORTFOLIO, AS_OF).collect()["event"].null_count() == late.height


# which rows are kept


def twin_of_newest(frame: pl.DataFrame, per_segment: int, total: int) -> list[str]:
    """Loans that stay, one row at a time; rows with MATURE are counted apart from the others."""
    taken: Counter[tuple] = Counter()
    kept: dict[bool | None, list[str]] = {True: [], False: [], None: []}
    for row in sorted(frame.iter_rows(named=True), key=lambda row: (row["opened"], row["loan"]), reverse=True):
        mature = row.get(MATURE)
        key = (row["region"], row["product"], mature)
        taken[key] += 1
        if taken[key] <= per_segment:
            kept[mature].append(row["loan"])
    return sorted(kept[None][:total] + kept[True][:total] + kept[False][: total // 4])


@pytest.mark.parametrize(("per_segment", "total"), [(5, 1000), (40, 150), (1, 3), (1000, 100), (2000, 2000)])
def test_newest_keeps_the_newest_of_each_segment_and_settles_ties_by_entity(per_segment, total):
    # opening dates by quarter, so that most are tied; a segment value is missing
    frame = book().with_columns(
        pl.col("opened").dt.truncate("1q"),
        pl.when(pl.col("region") == "west").then(None).otherwise("region").alias("region"),
    )
    kept = newest(frame.lazy(), PORTFOLIO, per_segment=per_segment, total=total)
    assert kept["loan"].to_list() == twin_of_newest(frame, per_segment, total)
    mixed = frame.sample(fraction=1, shuffle=True, seed=1).lazy()
    assert newest(mixed, PORTFOLIO, per_segment=per_segment, total=total).equals(kept)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.tuples(st.integers(0, 6), st.sampled_from(["n", "s", None]), st.booleans()), max_size=60),
    per_segment=st.integers(1, 12),
    total=st.integers(1, 40),
    apart=st.booleans(),
    part=st.integers(1, 20),
    seed=st.randoms(use_true_random=False),
)
def test_newest_ranked_in_parts_is_newest_of_the_whole(rows, per_segment, total, apart, part, seed):
    lines = [
        {"loan": f"L{n:02}", "opened": AS_OF - timedelta(age), "region": region, "product": "x", MATURE: ripe}
        for n, (age, region, ripe) in enumerate(rows)
    ]
    seed.shuffle(lines)
    schema = {"loan": pl.String, "opened": pl.Date, "region": pl.String, "product": pl.String, MATURE: pl.Boolean}
    frame = pl.DataFrame(lines, schema=schema).drop([] if apart else MATURE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tasks, "_BATCH_ROWS", part)
        kept = newest(frame.lazy(), PORTFOLIO, per_segment=per_segment, total=total)
    assert kept["loan"].to_list() == twin_of_newest(frame, per_segment, total)


# segments and packing


def test_segment_keys_are_sorted_and_a_missing_value_has_a_name():
    frame = pl.DataFrame({"region": ["b", None, "a", "b"], "product": ["x", "x", "y", "x"]})
    keys, codes = segment_keys(frame, PORTFOLIO)
    assert keys == (("(missing)", "x"), ("a", "y"), ("b", "x"))
    assert [keys[code] for code in codes] == [("b", "x"), ("(missing)", "x"), ("a", "y"), ("b", "x")]
    assert segment_keys(frame.head(0), PORTFOLIO)[0] == ()


@given(codes=st.lists(st.integers(0, 4), max_size=30))
def test_packing_groups_rows_and_keeps_their_order(codes):
    n, keys = len(codes), tuple((str(i),) for i in range(5))
    number = np.arange(n, dtype=float)
    packed, order = pack(keys, np.array(codes, dtype=np.int64), number[:, None], number, -number)
    assert packed.sizes.tolist() == [codes.count(i) for i in range(5)]
    assert [codes[i] for i in order] == packed.index.tolist()
    for begin, end in zip(packed.starts[:-1], packed.starts[1:], strict=True):
        assert (np.diff(packed.y[begin:end]) > 0).all()
    np.testing.assert_array_equal(packed.x[:, 0], packed.y)
    np.testing.assert_array_equal(packed.base, -packed.y)
    assert packed.weight.tolist() == [1.0] * n


# folds


@given(
    as_of=st.dates(date(2019, 12, 1), date(2024, 3, 31)),
    target=st.sampled_from(HORIZONS),
    folds=st.integers(1, 4),
    months=st.integers(1, 3),
)
@settings(max_examples=60, deadline=None)
def test_judged_rows_are_mature_and_windows_follow_each_other_without_overlap(as_of, target, folds, months):
    portfolio = replace(portfolio_of(target), validation=Validation(folds, months))
    found = forward_folds(portfolio, as_of)
    assert len(found) == folds
    for fold in found:
        assert fold.cut < fold.end
        assert told_by(fold.end, target) <= as_of
    assert [fold.end for fold in found[:-1]] == [fold.cut for fold in found[1:]]
    # no judged window could begin a whole month later
    later = add_months(found[-1].end, 1)
    assert told_by(later, target) > as_of


def test_a_judged_row_opens_after_the_cut_so_that_no_row_can_teach_and_be_judged():
    (fold,) = forward_folds(replace(PORTFOLIO, validation=Validation(1, 3)), AS_OF)
    days = [fold.cut + timedelta(days=i) for i in (-1, 0, 1)] + [fold.end + timedelta(days=i) for i in (0, 1)]
    inside = pl.DataFrame({"opened": days}).select(opened_within(PORTFOLIO, fold)).to_series()
    assert inside.to_list() == [False, False, True, True, False]


# episodes


def rows_of_book() -> tuple[pl.DataFrame, Matrix]:
    frame = labelled(book(6_000).lazy(), PORTFOLIO, SPEC, AS_OF).collect().sort("loan")
    number = np.arange(frame.height, dtype=float)
    return frame, matrix(frame, PORTFOLIO, number[:, None], number)


def test_a_label_is_known_at_maturity_or_when_its_event_was_told():
    # without a lag, some events of the horizon's last weeks are told after its end
    portfolio = portfolio_of(Target("t", horizon_months=12))
    frame = labelled(book(6_000).lazy(), portfolio, SPEC, AS_OF).collect()
    rows = matrix(frame, portfolio, np.zeros((frame.height, 1)), np.zeros(frame.height))
    ends = [end_of_horizon(opened, portfolio.target) for opened in frame["opened"]]
    told = frame.select(pl.when(pl.col(LABEL) > 0).then("known")).to_series()
    twin = [max(end, day or end) for end, day in zip(ends, told, strict=True)]
    assert sum(known > end for known, end in zip(twin, ends, strict=True)) > 10
    assert rows.mature_at.astype(object).tolist() == twin
    assert max(twin) <= AS_OF


def test_support_was_known_before_its_query_opened():
    _, rows = rows_of_book()
    tasks, validation = episodes(rows, cuts=6, fold_months=3)
    assert validation is not None
    opened, known = rows.opened, rows.mature_at
    for part in (tasks, validation):
        assert part.query.rows and part.support.rows
        for task in range(len(part.query.keys)):
            support, query = (
                packed.x[packed.starts[task] : packed.starts[task + 1], 0].astype(int)
                for packed in (part.support, part.query)
            )
            assert len(query)
            if len(support):
                assert known[support].max() <= opened[query].min()
            assert {rows.keys[code] for code in rows.codes[query]} == {part.query.keys[task]}
            np.testing.assert_array_equal(rows.y[query], part.query.y[slice(*part.query.starts[task : task + 2])])
    last = opened[validation.query.x[:, 0].astype(int)].min()
    assert opened[tasks.query.x[:, 0].astype(int)].max() < last


def test_without_a_usable_cut_the_older_half_supports_the_newer():
    frame = book(60).with_columns(pl.lit(0.0).alias(LABEL)).sort("loan")
    rows = matrix(frame, PORTFOLIO, np.zeros((60, 1)), np.zeros(60))
    tasks, validation = episodes(rows, cuts=2, fold_months=3)
    assert validation is None
    assert tasks.support.rows + tasks.query.rows == 60
    assert abs(tasks.support.rows - tasks.query.rows) <= 2


def test_what_was_never_booked_teaches_nothing_and_is_scored_all_the_same():
    portfolio = replace(PORTFOLIO, columns=replace(PORTFOLIO.columns, booked_on="booked"))
    later = AS_OF + timedelta(days=1)
    number = pl.int_range(pl.len())
    never, after = number % 3 == 0, number % 3 == 1
    when = pl.when(never).then(None).when(after).then(pl.lit(later)).otherwise("opened")
    frame = book().with_columns(booked=when)
    taken = set(book().filter(~never & ~after)["loan"])
    for labels in (labelled, observed):
        rows = labels(frame.lazy(), portfolio, SPEC, AS_OF).collect()
        all_rows = labels(book().lazy(), PORTFOLIO, SPEC, AS_OF).collect()
        assert set(rows["loan"]) == set(all_rows["loan"]) & taken
    assert population(frame.lazy(), portfolio, AS_OF).collect().height == to_score().height
