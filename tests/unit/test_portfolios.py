"""Portfolios as files: what is accepted, what is refused and how the error reads, calendars, the documentation."""

from __future__ import annotations

import json
import re
import shutil
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, get_args, get_type_hints
from zoneinfo import ZoneInfo

import pytest

from metarisk.domain import Calendar, ConfigError, Portfolio
from metarisk.portfolios import (
    as_of_from_schedule,
    calendar_dates,
    config_hash,
    extract_sql,
    list_portfolios,
    load_portfolio,
    scores_suite_path,
    suite_path,
)
from metarisk.risks import RISKS

ROOT = Path(__file__).resolve().parents[2]

GOOD = """
risk = "credit"

[source]
extract = "book.sql"
suite = "book.json"

[columns]
entity = "id"
opened_on = "opened"
segments = ["region"]
event_date = "event"
known_date = "known"
protected = ["gender"]
personal = ["email"]

[[targets]]
name = "pd_12m"
horizon_months = 12

[features.income]
kind = "numeric"

[features.region]
kind = "categorical"
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with one portfolio, `book`."""
    for folder in ("portfolios", "sql/extracts", "expectations"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "portfolios/book.toml").write_text(GOOD)
    (tmp_path / "sql/extracts/book.sql").write_text("SELECT * FROM source.book WHERE opened <= $as_of\n")
    (tmp_path / "expectations/book.json").write_text('{"name": "book", "expectations": []}')
    (tmp_path / "expectations/scores.json").write_text('{"name": "scores", "expectations": []}')
    return tmp_path


def with_text(project: Path, old: str, new: str) -> None:
    path = project / "portfolios/book.toml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize("name", list_portfolios(ROOT))
def test_portfolios_of_the_repository_load(name: str) -> None:
    portfolio = load_portfolio(ROOT, name)
    assert portfolio.name == name
    assert "$as_of" in extract_sql(ROOT, portfolio)
    assert json.loads(suite_path(ROOT, portfolio).read_text())["expectations"]
    assert json.loads(scores_suite_path(ROOT, portfolio).read_text())["expectations"]


def test_a_portfolio_becomes_plain_values(project: Path) -> None:
    portfolio = load_portfolio(project, "book", RISKS)
    assert portfolio.columns.segments == ("region",)
    assert portfolio.target.horizon_months == 12
    assert list(portfolio.features) == ["income", "region"]
    assert list_portfolios(project) == ["book"]


REFUSED = {
    "unknown key": ('entity = "id"', 'entitty = "id"', "unknown key `columns.entitty` (did you mean 'entity'?)"),
    "unknown table": ("[source]", "[sauce]\nx = 1\n[source]", "unknown key `sauce` (did you mean 'source'?)"),
    "unknown key in a list": ("horizon_months = 12", "horizon_moths = 12", "`targets[0].horizon_moths` (did you mean"),
    "unknown key of a feature": (
        'kind = "numeric"',
        'kind = "numeric"\nsort = 1',
        "unknown key `features.income.sort`",
    ),
    "missing key": ('entity = "id"\n', "", "key `columns.entity` is missing"),
    "wrong kind": ("horizon_months = 12", 'horizon_months = "12"', '`targets[0].horizon_months` is "12"'),
    "wrong choice": ('kind = "numeric"', 'kind = "number"', "'numeric', 'categorical' or 'date-age'"),
    "not TOML": ("[source]", "[source", "is not TOML"),
    "another name": ('risk = "credit"', 'risk = "credit"\nname = "other"', "`name` is 'other'"),
    "unknown risk": ('risk = "credit"', 'risk = "credits"', "no risk type is called (did you mean 'credit'?)"),
    "no target": ('[[targets]]\nname = "pd_12m"\nhorizon_months = 12', "", "key `targets` is missing"),
    "no horizon": ("horizon_months = 12", "horizon_months = 0", "has no horizon"),
    "negative lag": ("horizon_months = 12", "horizon_months = 12\nreporting_lag_days = -1", "negative"),
    "same target": (
        "[features.income]",
        '[[targets]]\nname="pd_12m"\nhorizon_days=1\n[features.income]',
        "two targets",
    ),
    "no label": ('event_date = "event"\nknown_date = "known"', "", "there is no label"),
    "no known date": ('known_date = "known"', "", "`columns.known_date` is missing"),
    "a reserved segment": ('segments = ["region"]', 'segments = ["whole_book"]', "a book that has no segment columns"),
    "segment twice": ('["region"]', '["region", "region"]', "column region"),
    "one column, two roles": ('opened_on = "opened"', 'opened_on = "event"', "both `columns."),
    "protected feature": (
        "[features.income]",
        "[features.gender]",
        "column gender: portfolios/book.toml: a feature is pro",
    ),
    "applications without what was booked": (
        'risk = "credit"',
        'risk = "credit"\npopulation = "application"',
        "rejected rows would be taken for good ones",
    ),
    "protected segment": ('["region"]', '["gender"]', "a protected column is a segment column"),
    "personal segment": ('["region"]', '["email"]', "a personal column is a segment column"),
    "label as feature": ("[features.income]", "[features.event]", "which tells the outcome"),
    "key as feature": ("[features.income]", "[features.id]", "is the entity's key"),
    "segment as number": (
        '[features.region]\nkind = "categorical"',
        '[features.region]\nkind = "numeric"',
        "column region",
    ),
    "monotone text": ('kind = "categorical"', 'kind = "categorical"\nmonotone = 1', "`monotone` direction"),
    "no such zone": ('risk = "credit"', 'risk = "credit"\ntimezone = "Europe/Berlyn"', "'Europe/Berlyn'"),
    "zone outside": ('risk = "credit"', 'risk = "credit"\ntimezone = "../../etc/passwd"', "no time zone"),
    "calendar without dates": ('risk = "credit"', 'risk = "credit"\ncalendar = "table"', "no `calendar_sql`"),
    "dates without calendar": (
        'risk = "credit"',
        'risk = "credit"\ncalendar_sql = "SELECT 1"',
        "`calendar_sql` is there",
    ),
    "share": ("[features.income]", "[thresholds]\nmax_unseen_share = 1.5\n[features.income]", "share from 0 to 1"),
    "move": ("[features.income]", "[thresholds]\nmax_score_move = nan\n[features.income]", "number above 0"),
    "stretch": ("[features.income]", "[thresholds]\nmax_score_stretch = 1.0\n[features.income]", "number above 1"),
    "order": ("[features.income]", "[thresholds]\nmin_score_agreement = 1.0\n[features.income]", "-1 or more, below 1"),
    "vanished": ("[features.income]", "[thresholds]\nmin_vanished_rows = 0\n[features.income]", "use 1 or more"),
    "no share": ("[features.income]", "[thresholds]\nmax_unseen_share = nan\n[features.income]", "share from 0 to 1"),
    "folds": ("[features.income]", "[validation]\nfolds = 0\n[features.income]", "`validation.folds` is 0"),
    "points that stand still": ("[features.income]", "[scorecard]\npdo = 0\n[features.income]", "`scorecard.pdo` is 0"),
    "odds": ("[features.income]", "[scorecard]\nodds = nan\n[features.income]", "`scorecard.odds` is nan"),
    "correlation": (
        "[features.income]",
        "[scorecard]\nasset_correlation = 1.0\n[features.income]",
        "`scorecard.asset_correlation` is 1.0",
    ),
    "scale that ends early": (
        "[features.income]",
        '[[scorecard.grades]]\nname = "A"\nupper = 0.5\n[features.income]',
        "let them rise from above 0 to 1",
    ),
    "scale that falls": (
        "[features.income]",
        '[scorecard]\ngrades = [{name = "A", upper = 1.0}, {name = "B", upper = 0.5}]\n[features.income]',
        "`scorecard.grades` are [1.0, 0.5]",
    ),
    "grade twice": (
        "[features.income]",
        '[scorecard]\ngrades = [{name = "A", upper = 0.5}, {name = "A", upper = 1.0}]\n[features.income]',
        "2 grades called 'A'",
    ),
    "an event of a risk of numbers": ('risk = "credit"', 'risk = "operational"', "risk operational predicts a number"),
    "share with reasons": ("[features.income]", "[reasons]\nshare = 2\n[features.income]", "`reasons.share` is 2"),
    "unknown key of reasons": (
        "[features.income]",
        "[reasons]\nmost = 5\n[features.income]",
        "unknown key `reasons.most`",
    ),
    "loss without exposure": ('known_date = "known"', 'known_date = "known"\nlgd = "lgd"', "`columns.ead` is not"),
    "recipe twice": ('risk = "credit"', 'risk = "credit"\ncandidates = ["maml", "maml"]', "names 'maml' twice"),
    "no reader": ('"book.sql"', '"book.sql"\npartitions = 0', "`source.partitions` is 0. Remedy: use 1 to 64"),
    "a crowd of readers": ('"book.sql"', '"book.sql"\npartitions = 65', "`source.partitions` is 65"),
    "half a reader": ('"book.sql"', '"book.sql"\npartitions = 1.5', "source.partitions"),
    "SQL outside": ('"book.sql"', '"../../secret.sql"', "lies outside sql/extracts"),
    "further SQL outside": ('"book.sql"', '"book.sql"\nalso = { more = "../../secret.sql" }', "`source.also.more` is"),
    "scores suite outside": (
        '"book.json"',
        '"book.json"\nscores_suite = "../portfolios/book.toml"',
        "lies outside expectations",
    ),
    "absolute suite": ('"book.json"', '"/etc/hosts"', "lies outside expectations"),
    "no such SQL": ('"book.sql"', '"bok.sql"', "sql/extracts/bok.sql does not exist (did you mean 'book.sql'?)"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_wrong_is_refused_by_file_key_and_remedy(project: Path, case: str) -> None:
    old, new, expected = REFUSED[case]
    with_text(project, old, new)
    with pytest.raises(ConfigError) as caught:
        load_portfolio(project, "book", RISKS)
    text = str(caught.value)
    assert expected in text
    assert "portfolio book" in text
    assert "portfolios/book.toml" in text
    assert ". Remedy: " in text


def test_an_empty_list_of_targets_is_refused(project: Path) -> None:
    with_text(project, '[[targets]]\nname = "pd_12m"\nhorizon_months = 12', "")
    with_text(project, 'risk = "credit"', 'risk = "credit"\ntargets = []')
    with pytest.raises(ConfigError, match=r"there is no \[\[targets\]\]"):
        load_portfolio(project, "book")


def test_a_link_out_of_the_project_is_refused(project: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "secret.sql"
    elsewhere.write_text("SELECT $as_of")
    (project / "sql/extracts/book.sql").unlink()
    (project / "sql/extracts/book.sql").symlink_to(elsewhere)
    with pytest.raises(ConfigError, match="outside sql/extracts"):
        load_portfolio(project, "book")


def test_an_extract_without_as_of_is_refused(project: Path) -> None:
    (project / "sql/extracts/book.sql").write_text("SELECT * FROM source.book WHERE opened <= :as_of")
    with pytest.raises(ConfigError, match=r"never mentions \$as_of"):
        load_portfolio(project, "book")


@pytest.mark.parametrize("name", ["../book", "Book", "", "a b", "book.toml", "x" * 64])
def test_names_that_could_leave_the_folder_are_refused(project: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="cannot name a portfolio"):
        load_portfolio(project, name)


def test_a_project_without_its_own_scores_suite_has_the_one_of_the_code(project: Path) -> None:
    (project / "expectations/scores.json").unlink()
    portfolio = load_portfolio(project, "book")
    assert scores_suite_path(project, portfolio) == ROOT / "expectations/scores.json"
    with_text(project, 'suite = "book.json"', 'suite = "book.json"\nscores_suite = "consumer_loans.json"')
    with pytest.raises(ConfigError, match=r"expectations/consumer_loans\.json does not exist"):
        load_portfolio(project, "book")


def test_an_unknown_portfolio_hints_at_a_known_one(project: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'book'"):
        load_portfolio(project, "bok")


# hash


def test_the_hash_changes_with_every_part_and_with_nothing_else(project: Path) -> None:
    portfolio = load_portfolio(project, "book")
    base = config_hash(portfolio, "SELECT 1\n", "{}")
    changed = [
        config_hash(replace(portfolio, title="x"), "SELECT 1\n", "{}"),
        config_hash(replace(portfolio, features=dict(reversed(portfolio.features.items()))), "SELECT 1\n", "{}"),
        config_hash(portfolio, "SELECT 2\n", "{}"),
        config_hash(portfolio, "SELECT 1\n", "{ }"),
        config_hash(portfolio, "SELECT 1\n{}"),
    ]
    assert len({base, *changed}) == len(changed) + 1
    assert config_hash(load_portfolio(project, "book"), "SELECT 1\r\n", "{}") == base


# calendars


def dated(portfolio: Portfolio, calendar: Calendar) -> Portfolio:
    return replace(portfolio, calendar=calendar)


def test_calendars_give_the_dates_that_are_due(project: Path) -> None:
    portfolio = load_portfolio(project, "book")
    start, end = date(2024, 2, 26), date(2024, 3, 4)
    week = [start + timedelta(days=step) for step in range(8)]
    assert calendar_dates(dated(portfolio, "daily"), start, end) == week
    # 2 and 3 March 2024 are a weekend.
    assert calendar_dates(dated(portfolio, "business"), start, end) == [*week[:5], week[7]]
    assert calendar_dates(dated(portfolio, "month_end"), start, end) == [date(2024, 2, 29)]
    holidays = [date(2024, 3, 1), date(2025, 1, 1), date(2024, 2, 27)]
    assert calendar_dates(dated(portfolio, "table"), start, end, holidays) == [date(2024, 2, 27), date(2024, 3, 1)]
    assert calendar_dates(dated(portfolio, "daily"), end, start) == []


def test_a_year_has_twelve_month_ends(project: Path) -> None:
    portfolio = dated(load_portfolio(project, "book"), "month_end")
    ends = calendar_dates(portfolio, date(2023, 12, 31), date(2024, 12, 31))
    assert len(ends) == 13
    assert all((end + timedelta(days=1)).day == 1 for end in ends)


SCHEDULES = {
    "an ordinary night": ("2025-06-15T04:15", "Europe/Berlin", date(2025, 6, 14)),
    "New Year": ("2026-01-01T04:15", "Europe/Berlin", date(2025, 12, 31)),
    "the night of 23 hours": ("2025-03-30T04:15", "Europe/Berlin", date(2025, 3, 29)),
    "the night after it": ("2025-03-31T04:15", "Europe/Berlin", date(2025, 3, 30)),
    "the night of 25 hours": ("2025-10-26T04:15", "Europe/Berlin", date(2025, 10, 25)),
    "a start in the hour that comes twice": ("2025-10-26T02:30", "Europe/Berlin", date(2025, 10, 25)),
    "west of Greenwich": ("2025-11-02T00:30", "America/Los_Angeles", date(2025, 11, 1)),
}


@pytest.mark.parametrize("case", SCHEDULES)
def test_as_of_is_the_local_day_before_the_scheduled_start(case: str) -> None:
    local, zone, expected = SCHEDULES[case]
    for fold in (0, 1):
        scheduled = datetime.fromisoformat(local).replace(tzinfo=ZoneInfo(zone), fold=fold)
        assert as_of_from_schedule(scheduled, zone) == expected
        # Prefect hands starts over in UTC.
        assert as_of_from_schedule(scheduled.astimezone(UTC), zone) == expected


def test_nights_of_a_year_give_every_date_once() -> None:
    zone = ZoneInfo("Europe/Berlin")
    starts = [datetime(2025, 1, 1, 4, 15) + timedelta(days=step) for step in range(365)]  # noqa: DTZ001
    dates = [as_of_from_schedule(start.replace(tzinfo=zone), "Europe/Berlin") for start in starts]
    assert dates == [date(2024, 12, 31) + timedelta(days=step) for step in range(365)]


def test_a_start_without_a_zone_is_refused() -> None:
    with pytest.raises(ConfigError, match="no time zone"):
        as_of_from_schedule(datetime(2025, 1, 1), "UTC")  # noqa: DTZ001


# documentation


def _documented() -> Iterator[tuple[str, str]]:
    for line in (ROOT / "docs/portfolios.md").read_text().splitlines():
        if match := re.match(r"\| `([a-z_.]+)` \| [^|]+ \| ([^|]+) \|", line):
            yield match[1], match[2].strip().strip("`")


def _declared(kind: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    hints = get_type_hints(kind)
    for field in fields(kind):
        inner = hints[field.name]
        nested = [part for part in (inner, *get_args(inner)) if is_dataclass(part)]
        if nested:
            yield from _declared(nested[0], f"{prefix}{field.name}.")
        else:
            default = field.default_factory() if field.default_factory is not MISSING else field.default
            yield f"{prefix}{field.name}", default


def test_every_key_is_documented_with_its_default() -> None:
    documented, declared = dict(_documented()), dict(_declared(Portfolio))
    assert documented.keys() == declared.keys()
    for key, text in documented.items():
        default = declared[key]
        if default is MISSING:
            assert text == "required", key
        elif default is None:
            assert text == "none", key
        else:
            value = tomllib.loads(f"x = {text}")["x"]
            assert value == (dict(default) if isinstance(default, Mapping) else _plain(default)), key


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def test_a_copy_of_the_repository_files_is_a_project(tmp_path: Path) -> None:
    """Nothing outside the three folders is needed to load a portfolio."""
    for folder in ("portfolios", "sql/extracts", "expectations"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    for name in list_portfolios(ROOT):
        assert load_portfolio(tmp_path, name) == load_portfolio(ROOT, name)
