"""Suites over Parquet: verdicts against hand-counted rows, quarantine, what stops a run, and what stays offline."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from collections import Counter
from collections.abc import Mapping
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from metarisk import quality
from metarisk.domain import ConfigError, QualityError, SegmentKey
from metarisk.quality import Quality, segment_recode
from tests.unit.lake_examples import AS_OF, PORTFOLIO, changed, extracted, good

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.xdist_group("great_expectations")  # its import takes seconds: once a run, not once a worker

Rule = dict[str, Any]


def rule(kind: str, severity: str = "warning", *, quarantine: bool = False, name: str = "", **kwargs: object) -> Rule:
    more = ({"meta": {"quarantine": True}} if quarantine else {}) | ({"description": name} if name else {})
    return {"type": kind, "severity": severity, "kwargs": kwargs, **more}


def wrong_rows(where: str, severity: str = "warning", *, quarantine: bool = False) -> Rule:
    query = f"SELECT * FROM {{batch}} WHERE {where}"
    return rule("unexpected_rows_expectation", severity, quarantine=quarantine, name=where, unexpected_rows_query=query)


def suite(folder: Path, *rules: Rule) -> Path:
    path = folder / "suite.json"
    path.write_text(json.dumps({"name": "suite", "expectations": list(rules)}))
    return path


def judged(folder: Path, table: pa.Table, *rules: Rule, **more: Any) -> Quality:
    files = extracted(table, folder / "lake").paths
    return quality.check(
        suite(folder, *rules), files, portfolio=PORTFOLIO, as_of=AS_OF, quarantine=folder / "quarantine", **more
    )


# verdicts


def of_suite(found: quality.Quality) -> list[quality.Result]:
    """Verdicts of the suite's own rules: the last one is of the rule that every portfolio has."""
    assert found.results[-1].rule == "no event is dated before opened"
    return list(found.results[:-1])


def test_verdicts_and_quarantine_equal_a_count_by_hand(tmp_path: Path) -> None:
    rows = 5_000
    columns = good(rows) | {
        "income": pa.array([None if n % 50 == 0 else -1.0 if n % 33 == 0 else float(n) for n in range(rows)]),
        "channel": pa.array([["web", "shop", "fax", None][n % 4] for n in range(rows)]),
    }
    income, channel = pl.col("income"), pl.col("channel")
    by_hand = [
        (rule("expect_column_values_to_be_between", column="income", min_value=0), income < 0),
        (rule("expect_column_values_to_not_be_null", column="income", mostly=0.99), income.is_null()),
        (rule("expect_column_values_to_be_in_set", column="channel", value_set=["web", "shop"]), channel == "fax"),
        (rule("expect_column_values_to_be_unique", column="region"), pl.lit(True)),
        (
            rule("expect_compound_columns_to_be_unique", column_list=["region", "opened", "channel"]),
            pl.struct("region", "opened", "channel").is_duplicated() & channel.is_not_null(),
        ),
        (
            rule("expect_column_pair_values_a_to_be_greater_than_b", column_A="opened", column_B="known"),
            pl.col("known") >= pl.col("opened"),
        ),
        (wrong_rows("income < 100"), income < 100),
    ]
    found = judged(tmp_path, pa.table(columns), *(each for each, _ in by_hand))
    assert found.failing is not None
    aside = pl.read_parquet(found.failing)
    frame = pl.DataFrame(pa.table(columns))
    for result, (_, broken) in zip(of_suite(found), by_hand, strict=True):
        expected = frame.filter(broken)["id"].sort()
        assert (result.success, result.failing_rows, result.total_rows) == (False, len(expected), rows), result
        assert aside.filter(pl.col("broken_rule") == result.rule)["id"].sort().equals(expected), result.rule
    assert found.excluded is None


def test_table_rules_have_no_rows(tmp_path: Path) -> None:
    found = judged(
        tmp_path,
        changed(),
        rule("expect_table_row_count_to_be_between", "critical", min_value=7),
        rule("expect_column_mean_to_be_between", "info", column="income", max_value=2000),
        rule(
            "expect_column_quantile_values_to_be_between",
            column="income",
            quantile_ranges={"quantiles": [0.5], "value_ranges": [[0, 10]]},
        ),
    )
    assert [result.success for result in of_suite(found)] == [False, True, False]
    assert [result.failing_rows for result in of_suite(found)] == [None, None, None]
    assert "observed 6" in found.results[0].detail
    assert all(isinstance(result.success, bool) for result in found.results)
    assert (found.failing, found.excluded) == (None, None)
    json.dumps(found.rows())


def test_a_label_in_the_future_stops_the_run(tmp_path: Path) -> None:
    rules = [
        rule("expect_column_values_to_be_between", "critical", column=column, max_value="$as_of")
        for column in ("opened", "event", "known")
    ]
    assert judged(tmp_path, changed(), *rules).failures == []
    late = pa.array([AS_OF + timedelta(days=1), *[None] * 5], pa.date32())
    found = judged(tmp_path, changed(known=late), *rules)
    with pytest.raises(QualityError) as caught:
        found.require()
    text = str(caught.value)
    assert text.startswith("portfolio book, column known, as of 2025-06-30: critical rule of suite failed")
    assert "at most 2025-06-30" in text
    assert "failing.parquet" in text
    assert found.failing is not None
    late_rows = pl.read_parquet(found.failing).filter(pl.col("broken_rule").str.contains("2025-06-30"))
    assert late_rows["id"].to_list() == ["L0000000"]


def test_severities_decide(tmp_path: Path) -> None:
    table = changed(income=[-1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    for severity, stops in (("info", False), ("warning", False), ("critical", True)):
        found = judged(tmp_path, table, wrong_rows("income < 0", severity))
        assert [result.severity for result in found.failures] == [severity]
        assert (found.failing is not None) == (severity != "info")
        assert bool(found.warnings) == (severity == "warning")
        assert found.excluded is None
        if stops:
            with pytest.raises(QualityError):
                found.require()
        else:
            found.require()
    assert found.rows()[0]["quarantine"] == str(found.failing)
    assert found.table()[0]["passed"] == "NO"


def test_rows_are_set_aside_once_though_they_break_two_rules(tmp_path: Path) -> None:
    columns = good(100)
    columns["income"] = pa.array([-1.0, None, *[5.0] * 98])
    found = judged(
        tmp_path,
        pa.table(columns),
        wrong_rows("income < 0", quarantine=True),
        wrong_rows("income < 0 OR income IS NULL", quarantine=True),
        rule("expect_column_values_to_not_be_null", column="income", mostly=0.5, quarantine=True),
        wrong_rows("id = 'L0000005'"),
    )
    assert found.excluded is not None
    assert found.failing is not None
    assert pl.read_parquet(found.excluded)["id"].to_list() == ["L0000000", "L0000001"]
    assert pl.read_parquet(found.excluded).columns == list(columns)
    assert found.excluded_rows == 2
    assert pl.read_parquet(found.failing).height == 1 + 2 + 1 + 1
    found.require()
    assert "2 of 100 rows were set aside" in " ".join(found.warnings)


def test_setting_a_large_share_aside_is_critical(tmp_path: Path) -> None:
    columns = good(100)
    columns["income"] = pa.array([-1.0] * 11 + [5.0] * 89)
    found = judged(tmp_path, pa.table(columns), wrong_rows("income < 0", quarantine=True))
    with pytest.raises(QualityError, match=r"at most 10% of rows are set aside: 11 rows, 11\.00%"):
        found.require()


def test_a_query_with_columns_of_its_own_can_fail_but_sets_nothing_aside(tmp_path: Path) -> None:
    query = "SELECT region, count(*) AS loans FROM {batch} GROUP BY region HAVING count(*) > 3"
    found = judged(
        tmp_path, changed(), rule("unexpected_rows_expectation", "critical", name="small", unexpected_rows_query=query)
    )
    assert [(result.rule, result.success, result.failing_rows) for result in of_suite(found)] == [("small", False, 1)]
    assert found.failing is None


def test_hostile_names_and_values_survive(tmp_path: Path) -> None:
    names = ["O'Brien; DROP TABLE batch", 'say "hi"', "<script>", "🦊", "50%", "{batch}"]
    found = judged(
        tmp_path,
        changed(channel=names),
        rule("expect_column_values_to_be_in_set", name='it\'s "odd"; --', column="channel", value_set=names[:3]),
    )
    assert found.failing is not None
    aside = pl.read_parquet(found.failing)
    assert sorted(aside["channel"]) == sorted(names[3:])
    assert aside["broken_rule"].unique().to_list() == ['it\'s "odd"; --']


def test_a_second_check_gives_the_same_files(tmp_path: Path) -> None:
    columns = good(3_000)
    rules = [wrong_rows("income < 1500", quarantine=False), wrong_rows("region = 'north'")]
    first = judged(tmp_path, pa.table(columns), *rules)
    assert first.failing is not None
    content = first.failing.read_bytes()
    assert judged(tmp_path, pa.table(columns), *rules, threads=2) == first
    assert first.failing.read_bytes() == content
    assert sorted(path.name for path in first.failing.parent.iterdir()) == ["failing.parquet"]


# suites that cannot be judged


REFUSED: dict[str, tuple[Any, str]] = {
    "unknown expectation": (
        rule("expect_column_values_to_not_be_nul", column="income"),
        "did you mean 'expect_column_values",
    ),
    "unknown column": (
        rule("expect_column_values_to_not_be_null", "critical", column="incme"),
        "no column 'incme' (did you mean 'income'?)",
    ),
    "unknown argument": (
        rule("expect_column_values_to_be_between", column="income", minimum=0),
        "refuses its arguments",
    ),
    "no column": (rule("expect_column_values_to_not_be_null"), "refuses its arguments"),
    "unknown severity": (rule("expect_column_values_to_not_be_null", "fatal", column="income"), "severity is 'fatal'"),
    "unknown key": (
        rule("expect_column_values_to_not_be_null", column="x") | {"severty": 1},
        "did you mean 'severity'",
    ),
    "unknown parameter": (wrong_rows("known > $asof"), "nothing is known of $asof (did you mean 'as_of'?)"),
    "SQL that does not run": (wrong_rows("no_such_function(income)"), "cannot be judged"),
    "SQL that is cut off": (wrong_rows("(income"), "cannot be judged"),
    "no type": ({"severity": "info", "kwargs": {}}, "has no `type`"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_rule_that_cannot_be_judged_is_an_error_and_no_pass(tmp_path: Path, case: str) -> None:
    broken, expected = REFUSED[case]
    with pytest.raises(ConfigError) as caught:
        judged(tmp_path, changed(), wrong_rows("income < 0"), broken)
    text = str(caught.value)
    assert expected in text
    assert "expectations/suite.json" in text
    assert "portfolio book" in text


def test_a_warning_about_a_column_that_is_gone_has_failed_and_stops_nothing(tmp_path: Path) -> None:
    found = judged(tmp_path, changed(), rule("expect_column_values_to_not_be_null", "warning", column="incme"))
    (result,) = of_suite(found)
    assert (result.success, result.failing_rows) == (False, None)
    assert found.warnings == [
        "column incme: column values to not be null failed: it cannot be judged: there is no column 'incme' "
        "(did you mean 'income'?)"
    ]
    found.require()


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"expectations": {}}', '{"expectations": []}'])
def test_what_is_no_suite_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "suite.json"
    path.write_text(content)
    with pytest.raises(ConfigError, match=r"expectations/suite\.json"):
        quality.check(path, [], portfolio=PORTFOLIO, as_of=AS_OF, quarantine=tmp_path)


def test_parameters_are_values_alone_and_literals_in_sql(tmp_path: Path) -> None:
    more = {"least": 1002.0, "who": "O'Brien"}
    found = judged(
        tmp_path,
        changed(channel=["O'Brien", *["web"] * 5]),
        rule("expect_column_values_to_be_between", column="income", min_value="$least"),
        wrong_rows("income < $least AND channel = $who AND opened < $as_of"),
        parameters=more,
    )
    assert [result.failing_rows for result in of_suite(found)] == [2, 1]


# scores


SCORES = {
    "entity": ["a", "b", "c"],
    "target": ["pd_12m"] * 3,
    "segment": ["north"] * 3,
    "score": [0.1, 0.2, 1.0],
    "score_low": [0.05, None, 0.9],
    "score_high": [0.2, None, 1.0],
}


def published(folder: Path, population: int = 3, **columns: list[Any]) -> Quality:
    file = folder / "scores.parquet"
    types = {"score": pl.Float64, "score_low": pl.Float64, "score_high": pl.Float64}
    pl.DataFrame(SCORES | columns, schema_overrides=types).write_parquet(file)
    return quality.check(
        ROOT / "expectations/scores.json",
        [file],
        portfolio=PORTFOLIO,
        as_of=AS_OF,
        quarantine=folder / "quarantine",
        parameters=quality.score_parameters("hazard", population),
    )


def test_good_scores_may_be_published(tmp_path: Path) -> None:
    assert published(tmp_path).failures == []


BAD_SCORES: dict[str, dict[str, Any]] = {
    "above one": {"score": [0.1, 0.2, 1.01], "score_high": [0.2, None, 1.01]},
    "below zero": {"score": [-0.01, 0.2, 1.0], "score_low": [-0.01, None, 0.9]},
    "null": {"score": [None, 0.2, 1.0]},
    "NaN": {"score": [float("nan"), 0.2, 1.0]},
    "no entity": {"entity": [None, "b", "c"]},
    "no segment": {"segment": [None, "north", "north"]},
    "twice": {"entity": ["a", "a", "c"]},
    "outside its interval": {"score_low": [0.15, None, 0.9]},
    "one account has none": {"population": 4},
    "a target lacks rows": {"target": ["pd_12m", "pd_12m", "pd_24m"]},
}


@pytest.mark.parametrize("case", BAD_SCORES)
def test_bad_scores_are_not_published(tmp_path: Path, case: str) -> None:
    with pytest.raises(QualityError, match="critical rule of scores failed"):
        published(tmp_path, **BAD_SCORES[case]).require()


def test_score_ranges_follow_the_likelihood() -> None:
    assert quality.score_parameters("bernoulli", 7) == {"score_min": 0.0, "score_max": 1.0, "population": 7}
    assert quality.score_parameters("poisson", 7)["score_min"] == 0.0
    assert quality.score_parameters("poisson", 7)["score_max"] > 1e300  # type: ignore[operator]
    assert quality.score_parameters("gaussian", 7)["score_min"] < -1e300  # type: ignore[operator]


# recoded segments

KNOWN: list[SegmentKey] = [("north", "cash"), ("north", "car"), ("south", "cash")]


def recode(counts: Mapping[SegmentKey, int], known: list[SegmentKey] = KNOWN, share: float = 0.2) -> quality.Result:
    return segment_recode(counts, known, ["region", "product"], share)


def test_the_share_of_unseen_rows_decides() -> None:
    counts: dict[SegmentKey, int] = {("north", "cash"): 80, ("north", "boat"): 20}
    assert recode(counts).success  # 20 %, and the limit is over 20 %
    counts["north", "boat"] = 21
    found = recode(counts)
    assert not found.success
    assert (found.severity, found.failing_rows, found.total_rows) == ("critical", 21, 101)


def test_a_recoded_column_is_named_with_old_and_new_values() -> None:
    found = recode({("N", "cash"): 50, ("N", "car"): 30, ("S", "cash"): 20})
    assert found.rule == "segment key recoded?"
    assert found.column == "region"
    assert "region: new values 'N', 'S'; known values that are gone: 'north', 'south'" in found.detail
    assert "product" not in found.detail


def test_swapped_columns_are_named_as_segments() -> None:
    found = segment_recode({("b", "a"): 9}, [("a", "b"), ("b", "b"), ("a", "a")], ["x", "y"], 0.2)
    assert "new segments 'b|a'" in found.detail
    assert found.column is None


def test_thin_segments_are_new_by_nature_and_a_column_that_is_recoded_is_still_found() -> None:
    """Of 4,000 cells some are in training and some tonight: what is alone tonight may as well be new."""
    r = np.random.default_rng(0)
    rows = [("north" if region else "south", f"m{m:04d}") for region, m in r.integers(0, [2, 2_000], (3_000, 2))]
    known, counts = list({*rows[:2_000]}), Counter[SegmentKey](rows[2_000:])
    found = recode(counts, known)
    assert found.success and found.failing_rows > 0.5 * found.total_rows
    assert "segments are thin: 7" in found.detail  # exp(-1/4) of all rows are alone
    for recoded in (lambda key: (key[0][0], key[1]), lambda key: (key[0], f"X{key[1]}"), lambda key: key[::-1]):
        assert not recode(Counter({recoded(key): count for key, count in counts.items()}), known).success


def test_without_a_model_nothing_is_recoded() -> None:
    assert recode({("a", "b"): 5}, known=[]).success
    assert recode({}).success
    assert recode({("a", "b"): 5}, share=1.0).success  # a book of new segments only, allowed by its TOML


def test_a_check_looks_at_the_rows_to_be_scored(tmp_path: Path) -> None:
    opened = [date(2025, 1, 1)] * 3 + [date(2023, 1, 1)] * 3  # the last three are past their horizon
    table = changed(
        opened=opened, region=["north", "north", "north", "x", "y", "z"], event=pa.nulls(6), known=pa.nulls(6)
    )
    seen = judged(tmp_path, table, wrong_rows("income < 0"), known_segments=[("north",)])
    assert seen.results[-1].success
    unseen = judged(tmp_path, table, wrong_rows("income < 0"), known_segments=[("x",), ("y",)])
    with pytest.raises(QualityError, match=r"segment key recoded.*'north'.*gone: 'x', 'y'"):
        unseen.require()


# the engine


def test_great_expectations_still_lacks_duckdb() -> None:
    """Fails on the day when it no longer does: then `_support_duckdb` can go."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from great_expectations.execution_engine import sqlalchemy_execution_engine as engine
    own = [each.value for each in engine._PERSISTED_CONNECTION_DIALECTS if isinstance(each, engine.GXSqlDialect)]
    assert own == ["sqlite", "mssql", "bigquery", "databricks"]
    assert "duckdb" not in [dialect.value for dialect in engine.GXSqlDialect]


OFFLINE = """
import os, socket, sys
from pathlib import Path
sys.path.insert(0, {root!r})
def refuse(*arguments, **more):
    raise AssertionError("a socket was opened")
socket.socket.connect = refuse
socket.create_connection = refuse
socket.getaddrinfo = refuse
from metarisk import quality
assert "great_expectations" not in sys.modules, "imported before it is needed"
from tests.unit.test_quality import changed, judged, wrong_rows
found = judged(Path({folder!r}), changed(), wrong_rows("income < 0"))
assert found.results[0].success
assert "great_expectations" in sys.modules
"""


def test_a_check_is_silent_offline_and_leaves_no_files(tmp_path: Path) -> None:
    home, here, work = (tmp_path / name for name in ("home", "here", "work"))
    for folder in (home, here, work):
        folder.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE.format(root=str(ROOT), folder=str(work))],
        cwd=here,
        env={**os.environ, "HOME": str(home), "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(home.rglob("*")) == []
    assert list(here.iterdir()) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here", "home", "work"]
