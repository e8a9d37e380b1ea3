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


# at the edges, by hand: the day before, the day, the day after

DAY = timedelta(days=1)
START = date(2020, 1, 1)
END = date(2021, 1, 1)
"""Where the horizon of twelve months ends that begins at START."""


def scored(row: dict, portfolio: Portfolio, as_of: date) -> bool:
    return population(pl.LazyFrame([row], schema_overrides=DATED), portfolio, as_of).collect().height == 1


DATED = dict.fromkeys(("opened", "event", "known", "left", "ends", "reviewed", "booked"), pl.Date)
ROW = {"loan": "a", "region": "north", "product": "card", **dict.fromkeys(DATED)}


def around(day: date) -> list[date]:
    return [day - DAY, day, day + DAY]


def test_a_row_is_scored_from_its_opening_to_the_day_before_its_horizon_ends():
    row = ROW | {"opened": START}
    assert [scored(row, PORTFOLIO, day) for day in around(START)] == [False, True, True]
    assert [scored(row, PORTFOLIO, day) for day in around(END)] == [True, False, False]
    for ended in ("known", "left"):
        gone = row | {ended: date(2020, 6, 1)}
        assert [scored(gone, PORTFOLIO, day) for day in around(date(2020, 6, 1))] == [True, False, False]


def test_the_latest_row_of_an_entity_is_scored_until_it_is_stale():
    limits = replace(PORTFOLIO.thresholds, max_stale_days=5)
    book = replace(PORTFOLIO, population="latest", thresholds=limits)
    rows = pl.LazyFrame([ROW | {"opened": START}, ROW | {"opened": START + 9 * DAY}], schema_overrides=DATED)
    for as_of, opened in (
        (START + 8 * DAY, START),
        (START + 9 * DAY, START + 9 * DAY),
        (START + 10 * DAY, START + 9 * DAY),
    ):
        assert population(rows, book, as_of).collect()["opened"].to_list() == [opened]
    late = END + 5 * DAY
    assert [scored(ROW | {"opened": START}, book, day) for day in around(late)] == [True, False, False]


def test_a_contract_that_ends_earlier_ends_the_horizon():
    book = replace(PORTFOLIO, columns=replace(PORTFOLIO.columns, matures_on="ends"))
    row = ROW | {"opened": START, "ends": date(2020, 7, 1)}
    assert [scored(row, book, day) for day in around(date(2020, 7, 1))] == [True, False, False]
    assert [scored(row | {"ends": END + 90 * DAY}, book, day) for day in around(END)] == [True, False, False]
    frame = pl.LazyFrame([row], schema_overrides=DATED)
    known = date(2020, 7, 31)  # thirty days of reporting lag later
    assert [labelled(frame, book, SPEC, day).collect().height for day in around(known)] == [0, 1, 1]


def test_a_review_settles_a_label_on_its_day():
    book = replace(PORTFOLIO, columns=replace(PORTFOLIO.columns, settled_on="reviewed"))
    row, day = ROW | {"opened": START, "reviewed": date(2020, 6, 1)}, date(2020, 6, 1)
    frame = pl.LazyFrame([row], schema_overrides=DATED)
    assert [labelled(frame, book, SPEC, at).collect().height for at in around(day)] == [0, 1, 1]
    assert [scored(row, book, at) for at in around(day)] == [True, False, False]
    assert observed(frame, book, SPEC, day).collect().select(PERIODS, MATURE, LABEL).rows() == [(12, True, 0.0)]
    assert observed(frame, book, SPEC, day - DAY).collect().select(PERIODS, MATURE).rows() == [(4, False)]
    assert [as_known(frame, book, at).collect()["reviewed"].item() for at in around(day)] == [None, day, day]
    unknown = pl.LazyFrame([row | {"reviewed": None}], schema_overrides=DATED)
    assert labelled(unknown, book, SPEC, day).collect().height == 0


def test_a_label_that_a_review_settled_was_known_then_and_else_at_maturity():
    book = replace(PORTFOLIO, columns=replace(PORTFOLIO.columns, settled_on="reviewed"))
    told = date(2021, 1, 31)
    dates = [
        ({"reviewed": date(2020, 6, 1)}, 0.0, date(2020, 6, 1)),
        ({"reviewed": date(2022, 6, 1)}, 0.0, told),
        ({}, 0.0, told),
        ({"reviewed": date(2020, 6, 1), "known": date(2020, 7, 1)}, 1.0, date(2020, 7, 1)),
        ({"known": date(2020, 7, 1)}, 1.0, told),
        ({"known": date(2021, 5, 1)}, 1.0, date(2021, 5, 1)),
        ({"known": date(2021, 5, 1)}, 0.0, told),
    ]
    lines = [ROW | {"opened": START, LABEL: label} | more for more, label, _ in dates]
    rows = matrix(pl.DataFrame(lines, schema_overrides=DATED), book, np.zeros((7, 1)), np.zeros(7))
    assert rows.mature_at.astype(object).tolist() == [known for _, _, known in dates]
    values = replace(VALUES, columns=replace(VALUES.columns, settled_on=None))
    line = ROW | {"opened": START, "known": date(2021, 5, 1), LABEL: -3.0}
    (known,) = matrix(pl.DataFrame([line], schema_overrides=DATED), values, np.zeros((1, 1)), np.zeros(1)).mature_at
    assert known == np.datetime64("2021-05-01")


def test_a_flag_is_read_once_its_horizon_and_lag_are_over():
    book = replace(PORTFOLIO, columns=replace(PORTFOLIO.columns, label="flag"))
    frame = pl.LazyFrame([ROW | {"opened": START, "flag": 1.0}], schema_overrides=DATED)
    told = date(2021, 1, 31)
    assert [as_known(frame, book, day).collect()["flag"].item() for day in around(told)] == [None, 1.0, 1.0]
    assert [frame.select(tasks.matured(book, book.target, day)).collect().item() for day in around(told)] == [
        False, True, True,
    ]  # fmt: skip
    missing = frame.with_columns(flag=pl.lit(None, pl.Float64))
    assert not missing.select(tasks.matured(book, book.target, told)).collect().item()


def test_values_and_bookings_count_from_their_day():
    row = {"loan": "a", "opened": START, "known": date(2021, 3, 1), "amount": 2.5}
    found = [labelled(pl.LazyFrame([row]), VALUES, VALUE_SPEC, day).collect().height for day in around(row["known"])]
    assert found == [0, 1, 1]
    book = replace(PORTFOLIO, columns=replace(PORTFOLIO.columns, booked_on="booked"))
    frame = pl.LazyFrame([ROW | {"opened": START, "booked": date(2021, 6, 1)}], schema_overrides=DATED)
    for labels in (labelled, observed):
        assert [labels(frame, book, SPEC, day).collect().height for day in around(date(2021, 6, 1))] == [0, 1, 1]


def test_a_period_is_known_a_lag_after_its_last_day_and_an_event_belongs_to_its_own():
    row = loan(START)
    for day, periods in zip(around(date(2020, 3, 2)), (0, 1, 1), strict=True):  # a month and thirty days
        found = observed(frame_of([row]), PORTFOLIO, SPEC, day).collect()
        assert found[PERIODS].to_list() == [periods] * (periods > 0)
    for event, period in ((START - 40 * DAY, 1), (START, 1), (date(2020, 2, 1), 1), (date(2020, 2, 2), 2)):
        found = observed(frame_of([loan(START, event)]), PORTFOLIO, SPEC, date(2020, 9, 1)).collect()
        assert found.select(LABEL, PERIODS).rows() == [(1.0, period)], event
    last = observed(frame_of([row]), PORTFOLIO, SPEC, date(2030, 1, 1)).collect()
    assert last.select(PERIODS, MATURE).rows() == [(12, True)]


def simple(opened: list[str], known: list[str], y: list[float]) -> Matrix:
    n = len(y)
    days = (np.array(dates, dtype="datetime64[D]") for dates in (opened, known))
    return Matrix((("a",),), np.zeros(n, dtype=np.int64), np.arange(n)[:, None], np.array(y), np.zeros(n), *days)


def test_what_became_known_on_the_cut_teaches_and_what_opened_on_it_is_asked():
    """The one cut is 1 April: three months before the month after the newest row's."""
    known = ["2020-03-31", "2020-04-01", "2020-04-02", *["2021-01-01"] * 4]
    opened = ["2019-01-01"] * 3 + ["2020-03-31", "2020-04-01", "2020-06-30", "2020-06-30"]
    found, validation = episodes(simple(opened, known, [1.0] * 7), cuts=1, fold_months=3)
    assert validation is None
    assert found.support.x[:, 0].tolist() == [0, 1]
    assert found.query.x[:, 0].tolist() == [4, 5, 6]


def test_cuts_follow_each_other_and_the_latest_is_kept_for_validation():
    opened = ["2019-01-01", "2020-01-01", "2020-03-31", "2020-04-01", "2020-06-30"]
    rows = simple(opened, ["2019-06-01", *["2020-02-01"] * 4], [1.0] * 5)
    found, validation = episodes(rows, cuts=2, fold_months=3)
    assert validation is not None
    assert found.query.x[:, 0].tolist() == [1, 2]
    assert validation.query.x[:, 0].tolist() == [3, 4]
    assert (found.support.x[:, 0].tolist(), validation.support.x[:, 0].tolist()) == ([0], [0, 1, 2, 3, 4])
    without = simple(opened, ["2019-06-01", *["2020-02-01"] * 4], [1.0, 0.0, 0.0, 1.0, 1.0])
    only, nothing = episodes(without, cuts=2, fold_months=3)
    assert nothing is None
    assert only.query.x[:, 0].tolist() == [3, 4]


def test_without_a_cut_the_newer_half_begins_with_the_middle_row():
    rows = simple(["2020-01-01", "2020-01-02", "2020-01-03", "2020-01-03"], ["2021-01-01"] * 4, [0.0] * 4)
    found, _ = episodes(rows, cuts=1, fold_months=1)
    assert (found.support.x[:, 0].tolist(), found.query.x[:, 0].tolist()) == ([0, 1], [2, 3])


def test_a_dispersed_label_weighs_less():
    rows = replace(simple(["2020-01-01"] * 3, ["2020-01-01"] * 3, [1.0] * 3), dispersion=4.0)
    assert rows.packed().weight.tolist() == [0.25] * 3
    assert rows.packed(np.array([True, False, True])).weight.tolist() == [0.25, 0.25]
    assert replace(rows, dispersion=1.0).packed().weight.tolist() == [1.0] * 3


def test_folds_end_where_the_last_row_is_mature():
    book = replace(PORTFOLIO, validation=Validation(2, 3))
    older, newer = forward_folds(book, date(2023, 3, 31))
    assert (older.cut, older.end, newer.cut, newer.end) == (
        date(2021, 9, 1), date(2021, 12, 1), date(2021, 12, 1), date(2022, 3, 1),
    )  # fmt: skip
    lagged = replace(book, targets=(Target("t", horizon_days=10, reporting_lag_months=1, reporting_lag_days=2),))
    assert forward_folds(lagged, date(2023, 3, 31))[-1].end == date(2023, 2, 19)


def test_an_event_tells_by_itself_and_a_value_whatever_it_is():
    y = np.array([0.0, 1.0, 0.0])
    assert tasks.tells(y, SPEC).tolist() == [0.0, 1.0, 0.0]
    assert tasks.tells(y, VALUE_SPEC).tolist() == [1.0, 1.0, 1.0]
    frame = pl.DataFrame({LABEL: [0.0, 1.0, None], MATURE: [True, False, False]})
    assert frame.select(tasks.tells_of(SPEC)).to_series().to_list() == [0.0, 1.0, None]
    assert frame.select(tasks.tells_of(VALUE_SPEC)).to_series().to_list() == [1.0, 1.0, 0.0]
    assert tasks.teaching(frame, hazard=True).height == 3
    assert tasks.teaching(frame, hazard=False).height == 1
    assert tasks.teaching(frame.drop(MATURE), hazard=False).height == 3
