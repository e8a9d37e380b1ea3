"""The life of an alert: opened once, silent while it lasts, closed when calm for some nights, told within a budget."""

from datetime import date, timedelta

import numpy as np
import polars as pl

from metarisk.domain import Feature
from metarisk.drift import decide, inputs
from metarisk.drift.alerts import Open, follow
from metarisk.drift.decide import SCHEMA, SUSPECTED
from tests.drifts import detect

NIGHT = date(2026, 7, 1)


def night(*findings):
    """Rows of `drift_metric`: (segment, feature, metric, status) with rising effects."""
    lines = [
        {"segment": s, "level": "cell", "feature": f, "metric": m, "status": status, "effect": 0.1 + i / 100}
        for i, (s, f, m, status) in enumerate(findings)
    ]
    return pl.DataFrame(lines, schema=decide.SCHEMA)


def events(found, opened=(), noisy=((), ()), muted=None, room=5, close_after=3):
    return follow(
        found, opened, [set(keys) for keys in noisy], muted or {}, as_of=NIGHT, room=room, close_after=close_after
    )


X = ("a", "x", "psi")


def test_an_alert_opens_once_and_a_watch_opens_none():
    red = night((*X, "alert"), ("b", "x", "psi", "watch"))
    (first,) = events(red)
    assert (first.event, first.key, first.told) == ("opened", X, "message")
    assert events(red, [Open("1", X)], [{X}, {X}]) == []


def test_an_alert_closes_only_after_calm_nights_in_a_row():
    calm, opened = night((*X, "ok")), [Open("1", X)]
    assert [e.event for e in events(calm, opened)] == ["closed"]
    assert events(calm, opened, [{X}, ()]) == []
    assert events(calm, opened, [(), {X}]) == []
    assert events(calm, opened, [()]) == [], "too few nights are published to tell"
    assert events(night((*X, "watch")), opened) == [], "a watch keeps it open"
    assert events(night((*X, "blind")), opened) == [], "what cannot be seen is not calm"
    (gone,) = events(night(), opened)
    assert gone.detail == "no longer watched"


def test_what_lies_inside_a_larger_finding_opens_no_alert_of_its_own():
    inside = [("n|car", "x", "psi", "alert"), ("n|car", "y", "psi", "alert")]
    assert [e.key[0] for e in events(night((None, "x", "psi", "alert"), *inside))] == [None, "n|car"]
    assert [e.key for e in events(night(("car", "x", "psi", "alert"), *inside[:1]))] == [("car", "x", "psi")]
    wide = (None, "x", "psi")
    assert events(night(inside[0]), [Open("1", wide)], [{wide}, {wide}]) == [], "the larger one is still open"


def test_messages_stay_within_the_budget_and_the_worst_come_first():
    many = night(
        *((f"s{i}", "x", "psi", "alert") for i in range(6)),
        ("z", None, "concept", SUSPECTED), (None, "y", "psi", "alert"),
    )  # fmt: skip
    found = events(many, room=3)
    assert [e.told for e in found] == ["message"] * 3 + ["digest"] * 5
    assert [e.key[0] for e in found[:3]] == ["z", None, "s5"]


def test_nobody_is_told_of_what_is_muted_until_the_day_after():
    red = night((*X, "alert"))
    assert events(red, muted={X: NIGHT})[0].told == "nobody"
    assert events(red, muted={X: NIGHT - timedelta(days=1)})[0].told == "message"


def test_ninety_nights_of_a_turning_book_open_the_one_real_alert_once_and_in_time():
    """A book that renews a twelfth of its loans a month; from the fortieth night on, new loans of one segment differ.

    A loan's features do not change, so each night is nearly the last, and one night's chance lasts for weeks.
    """
    rng, segments, features, rows = np.random.default_rng(3), 8, 6, 4_800
    names = np.array([f"s{i}" for i in range(segments)])
    watched = {f"f{f}": Feature("numeric") for f in range(features)}

    def loans(count, moved):
        segment = rng.integers(0, segments, count)
        x = rng.normal(segment[:, None] / 10, 1.0, (count, features))
        x[segment == 7, 4] += moved
        return segment, x

    def frame(segment, x):
        columns = {f"f{f}": x[:, f] for f in range(features)}
        return pl.DataFrame(columns | {"segment": names[segment]}).lazy()

    segment, x = loans(rows, 0.0)
    known = inputs.reference(frame(*loans(rows, 0.0)), watched, ("segment",))
    opened, noisy, log = [], [], []
    daily = rows // 365
    for number in range(90):
        if number >= 40:
            new_segment, new = loans(8 * daily, 0.9)
        else:
            new_segment, new = loans(daily, 0.0)
        segment = np.concatenate([segment[len(new_segment) :], new_segment])
        x = np.concatenate([x[len(new) :], new])
        found = detect(frame(segment, x), known)
        for event in follow(found, opened, noisy[:2], {}, as_of=NIGHT, room=5, close_after=3):
            log.append((number, event.event, event.key))
            if event.event == "opened":
                opened.append(Open(str(number), event.key))
            else:
                opened = [alert for alert in opened if alert.key != event.key]
        red = found.filter((pl.col("status") != "ok") & (pl.col("metric") == "psi"))
        noisy.insert(0, set(red.select("segment", "feature", "metric").iter_rows()))
    assert len(log) == 1, log
    ((when, event, key),) = log
    assert (event, key) == ("opened", ("s7", "f4", "psi"))
    # by night 62 half of the segment's rows are new: a shift of 0.45 on average
    assert 45 <= when <= 62


# at the edges, by hand


def test_messages_end_with_the_last_that_there_is_room_for():
    many = night(*((f"s{i}", "x", "psi", "alert") for i in range(3)))
    for room, told in ((0, ["digest"] * 3), (1, ["message", "digest", "digest"]), (3, ["message"] * 3)):
        assert [e.told for e in events(many, room=room)] == told
    muted = {("s2", "x", "psi"): NIGHT}
    assert [e.told for e in events(many, room=1, muted=muted)] == ["nobody", "message", "digest"]
    assert events(many, muted={("s2", "x", "psi"): NIGHT + timedelta(days=1)})[0].told == "nobody"


def test_calm_nights_are_counted_with_tonight_and_not_one_more():
    calm, opened = night((*X, "ok")), [Open("7", X)]
    (closed,) = events(calm, opened, [(), (), {X}])
    assert (closed.event, closed.key, closed.alert_id, closed.status) == ("closed", X, "7", "ok")
    assert (closed.told, closed.detail) == ("nobody", "ok for 3 nights")
    assert [e.detail for e in events(calm, opened, [], close_after=1)] == ["ok for 1 nights"]
    assert [e.detail for e in events(calm, opened, [{X}], close_after=1)] == ["ok for 1 nights"]
    assert events(calm, opened, [], close_after=2) == []
    other = Open("8", ("b", "x", "psi"))
    both = events(night((*X, "ok"), ("b", "x", "psi", "ok")), [*opened, other], [{X}, ()])
    assert [e.alert_id for e in both] == ["8"]


def test_the_worst_is_concept_drift_then_the_whole_portfolio_then_the_larger_effect_then_the_name():
    lines = [
        ("b", "x", "psi", "alert", 0.2), ("a", "x", "psi", "alert", 0.2), ("c", "x", "psi", "alert", -0.9),
        ("d", "x", "psi", "alert", None), (None, "y", "psi", "alert", 0.1), ("e", None, "concept", SUSPECTED, 0.01),
    ]  # fmt: skip
    names = ("segment", "feature", "metric", "status", "effect")
    found = pl.DataFrame([dict(zip(names, line, strict=True)) for line in lines], schema=SCHEMA)
    assert [e.key[0] for e in events(found)] == ["e", None, "c", "a", "b", "d"]
    first = events(found)[0]
    assert (first.event, first.alert_id, first.status, first.detail) == ("opened", None, SUSPECTED, None)


def test_a_cell_lies_inside_its_values_and_a_value_inside_the_portfolio_alone():
    assert [e.key[0] for e in events(night(("n", "x", "psi", "alert"), ("n|car", "x", "psi", "alert")))] == ["n"]
    still = ("n", "x", "psi")
    assert events(night(("n|car", "x", "psi", "alert")), [Open("1", still)], [{still}, ()]) == []
    apart = night(("a\\|b", "x", "psi", "alert"), ("b", "x", "psi", "alert"))
    assert sorted(e.key[0] for e in events(apart)) == ["a\\|b", "b"]
    assert events(night(("n", "x", "psi", "alert")), [Open("1", (None, "x", "psi"))], [(), (), ()])[0].event == "closed"
    other = night((None, "y", "psi", "alert"), ("n", "x", "psi", "alert"), (None, "x", "js", "alert"))
    assert sorted(str(e.key[0]) for e in events(other)) == ["None", "n"]
    silent = night((*X, "watch"), ("b", "x", "missing_rate", "alert"))
    assert events(silent) == []
