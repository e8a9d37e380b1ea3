"""One check of a set of Parquet files: the suite, the rules that are built in, and the quarantine of failing rows."""

import hashlib
import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from pathlib import Path

import duckdb
import polars as pl

from metarisk.domain import MISSING, Portfolio, SegmentKey, quoted
from metarisk.quality.book import BookRule, book_rules, judge_book, segment_values
from metarisk.quality.engine import VIEW, Verdict, judge
from metarisk.quality.recoding import segment_recode
from metarisk.quality.results import Quality, Result
from metarisk.quality.suites import Parameter, Rule, load_suite
from metarisk.tasks import known_end, population

MAX_EXCLUDED_SHARE = 0.10
"""Share of rows set aside above which the source, not the rows, is taken to be broken: critical."""
LEAST_ROWS_A_DAY = 10
"""Mean rows of a day above which chance (exp(-10)) leaves no day without any."""
_WEEKS_BEFORE = 4  # a month of the same weekday


def check(
    suite: Path,
    files: Sequence[Path],
    *,
    portfolio: Portfolio,
    as_of: date,
    quarantine: Path,
    known_segments: Collection[SegmentKey] | None = None,
    parameters: Mapping[str, Parameter] | None = None,
    missing: Mapping[str, int] | None = None,
    memory_mb: int = 1024,
    threads: int = 1,
) -> Quality:
    """Judge Parquet files by a suite.

    Args:
        suite: file of the suite; `$as_of` and the names in `parameters` are filled in.
        files: Parquet files with one schema.
        portfolio: the book they belong to.
        as_of: date of the run.
        quarantine: folder for failing rows; each suite and set of parameters has its own folder in it.
        known_segments: segments that the model has seen: judges whether their key was recoded. None: not asked.
        parameters: further parameters, as `score_parameters` gives for `scores.json`.
        missing: rows of each segment column that had no value in the source.
        memory_mb: ceiling of DuckDB's memory in MiB.
        threads: threads of DuckDB.

    Returns:
        Every verdict; call its `require` to stop at critical ones. Nothing is raised for bad data, so that what was
        found can be kept.

    Raises:
        ConfigError: a suite that cannot be read or a rule that cannot be judged.
    """
    filled = {"as_of": as_of, **(parameters or {})}
    personal = set(portfolio.columns.personal)
    rules = [
        replace(rule, personal=not personal.isdisjoint(rule.columns))
        for rule in load_suite(suite, filled, portfolio.name)
    ]
    with tempfile.TemporaryDirectory(prefix="metarisk-quality-") as private:
        database = Path(private) / "view.duckdb"
        columns, total = _make_view(database, files, memory_mb, threads)
        verdicts = judge(
            database, rules, columns, memory_mb=memory_mb, threads=threads, suite=suite.name, portfolio=portfolio.name
        )
        results = [_result(suite.stem, rule, verdict, total) for rule, verdict in zip(rules, verdicts, strict=True)]
        folder = quarantine / _digest(suite, filled)
        with duckdb.connect(database, config=_config(memory_mb, threads)) as connection:
            connection.execute("SET enable_progress_bar = false")
            broken = _broken(connection, rules, verdicts, columns)
            held = book_rules(portfolio, as_of, columns)
            _make_kept(connection, [part.rows for part in broken if part.excludes], portfolio.columns.entity)
            of_book = judge_book(connection, held, portfolio.columns.entity, suite.stem, total)
            if held:
                of_book = [*segment_values(connection, portfolio, suite.stem, total, missing or {}), *of_book]
            broken += _of_book(held, of_book, columns)
            failing, excluded, excluded_rows = _set_aside(connection, broken, columns, folder)
    if any(rule.excludes for rule in rules):
        results.append(_excluded_share(suite.stem, excluded_rows, total))
    # What always holds is listed where it does not, but for the dates that every label rests on.
    results += [result for result in of_book if not result.success or result.column == portfolio.columns.event_date]
    if portfolio.columns.opened_on in columns:
        results += _rows_of_the_day(suite.stem, files, portfolio, as_of)
    if portfolio.columns.label in columns:
        results.append(_flag_missing(suite.stem, files, portfolio, as_of, total))
    if known_segments:
        counts = _segment_counts(files, portfolio, as_of)
        names, share = portfolio.columns.segments, portfolio.thresholds.max_unseen_share
        results.append(segment_recode(counts, known_segments, names, share, suite.stem))
    return Quality(portfolio.name, as_of, suite.stem, tuple(results), total, failing, excluded, excluded_rows)


def _config(memory_mb: int, threads: int) -> dict[str, str | bool | int | float | list[str]]:
    return {"memory_limit": f"{memory_mb}MiB", "threads": threads}


def _make_view(database: Path, files: Sequence[Path], memory_mb: int, threads: int) -> tuple[list[str], int]:
    paths = ", ".join("'" + str(path).replace("'", "''") + "'" for path in files)
    with duckdb.connect(database, config=_config(memory_mb, threads)) as connection:
        connection.execute(f"CREATE VIEW {VIEW} AS SELECT * FROM read_parquet([{paths}])")  # noqa: S608
        columns = [row[0] for row in connection.execute(f"DESCRIBE {VIEW}").fetchall()]
        found = connection.execute(f"SELECT count(*) FROM {VIEW}").fetchone()  # noqa: S608
    return columns, found[0] if found else 0


def _result(suite: str, rule: Rule, verdict: Verdict, total: int) -> Result:
    detail = "" if rule.personal and verdict.failing_rows is None else verdict.detail
    return Result(
        suite, rule.name, rule.column, rule.severity, verdict.success, verdict.failing_rows, total, detail,
        excludes=rule.excludes,
    )  # fmt: skip


@dataclass(frozen=True)
class _Broken:
    """A rule that rows break, and the SELECT of these."""

    name: str
    rows: str
    excludes: bool
    shown: bool


def _broken(
    connection: duckdb.DuckDBPyConnection, rules: Sequence[Rule], verdicts: Sequence[Verdict], columns: Sequence[str]
) -> list[_Broken]:
    """Of the suite's rules."""
    names = ", ".join(quoted(column) for column in columns)
    found = []
    for rule, verdict in zip(rules, verdicts, strict=True):
        if not verdict.failing_rows or verdict.query is None:
            continue
        rows = _rows_query(connection, verdict.query, columns, names)
        if rows is not None:
            shown = rule.excludes or (not verdict.success and rule.severity != "info")
            found.append(_Broken(rule.name, rows, rule.excludes, shown))
    return found


def _of_book(rules: Sequence[BookRule], results: Sequence[Result], columns: Sequence[str]) -> list[_Broken]:
    """Of the rules of any book."""
    names = ", ".join(quoted(column) for column in columns)
    failed = {result.rule for result in results if not result.success}
    found = []
    for rule in rules:
        if rule.name in failed:
            rows = f"SELECT {names} FROM {VIEW} WHERE {rule.broken}"  # noqa: S608
            found.append(_Broken(rule.name, rows, rule.line.happens == "row set aside", shown=True))
    return found


def _make_kept(connection: duckdb.DuckDBPyConnection, excluding: Sequence[str], entity: str) -> None:
    """A view `kept`: rows of entities of which the suite sets no row aside."""
    key = quoted(entity)
    aside = " UNION ALL ".join(f"SELECT {key} FROM ({rows})" for rows in excluding)  # noqa: S608
    out = f" WHERE {key} NOT IN (SELECT {key} FROM ({aside}) WHERE {key} IS NOT NULL)" if aside else ""  # noqa: S608
    connection.execute(f"CREATE OR REPLACE TEMP VIEW kept AS SELECT * FROM {VIEW}{out}")  # noqa: S608


def _set_aside(
    connection: duckdb.DuckDBPyConnection, broken: Sequence[_Broken], columns: Sequence[str], folder: Path
) -> tuple[Path | None, Path | None, int]:
    """Write failing rows with their rule, and once more, without duplicates, those that are left out of the run."""
    names = ", ".join(quoted(column) for column in columns)
    failing = []
    for part in broken:
        if part.shown:
            label = "'" + part.name.replace("'", "''") + "'"
            failing.append(f"SELECT {label} AS broken_rule, {names} FROM ({part.rows})")  # noqa: S608
    excluding = [part.rows for part in broken if part.excludes]
    failing_path = _written(connection, " UNION ALL ".join(failing), folder / "failing.parquet")
    excluded_path = _written(connection, " UNION ".join(excluding), folder / "excluded.parquet", distinct=True)
    if excluded_path is None:
        return failing_path, None, 0
    found = connection.execute("SELECT count(*) FROM read_parquet($path)", {"path": str(excluded_path)}).fetchone()
    return failing_path, excluded_path, found[0] if found else 0


def _rows_query(connection: duckdb.DuckDBPyConnection, query: str, columns: Sequence[str], names: str) -> str | None:
    """The query cut down to the view's columns, or None when it does not yield rows of the view."""
    text = query.strip().rstrip(";")
    described = [row[0] for row in connection.execute(f"DESCRIBE {text}").fetchall()]
    if described[: len(columns)] == list(columns):
        # Queries of Great Expectations repeat the judged column behind the view's own, so names come by place.
        aliases = [f"c{number}" for number in range(len(columns))]
        renamed = ", ".join(f"{alias} AS {quoted(column)}" for alias, column in zip(aliases, columns, strict=True))
        return f"SELECT {renamed} FROM ({text}) AS q({', '.join(aliases)})"  # noqa: S608
    return f"SELECT {names} FROM ({text})" if set(columns) <= set(described) else None  # noqa: S608


def _written(connection: duckdb.DuckDBPyConnection, query: str, path: Path, *, distinct: bool = False) -> Path | None:
    if not query:
        return None
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".tmp")
    chosen = "SELECT DISTINCT *" if distinct else "SELECT *"
    target = "'" + str(beside).replace("'", "''") + "'"
    connection.execute(f"COPY ({chosen} FROM ({query}) ORDER BY ALL) TO {target} (FORMAT parquet)")
    beside.replace(path)
    return path


def _excluded_share(suite: str, excluded: int, total: int) -> Result:
    share = excluded / total if total else 0.0
    return Result(
        suite,
        f"at most {MAX_EXCLUDED_SHARE:.0%} of rows are set aside",
        None,
        "critical",
        share <= MAX_EXCLUDED_SHARE,
        excluded,
        total,
        f"{excluded:,} rows, {share:.2%}" if excluded else "",
    )


def _rows_of_the_day(suite: str, files: Sequence[Path], portfolio: Portfolio, as_of: date) -> list[Result]:
    """Whether rows opened on as_of, where so many did on that day of the weeks before that chance leaves none out.

    A SELECT that compares a time with a date gives such a day a night late.
    """
    column = portfolio.columns.opened_on
    before = [as_of - timedelta(weeks=weeks) for weeks in range(1, _WEEKS_BEFORE + 1)]
    days = pl.scan_parquet(list(files)).filter(pl.col(column).is_in([as_of, *before])).group_by(column).len()
    found = dict(days.collect(engine="streaming").iter_rows())
    usual = [found.get(day, 0) for day in before]
    if min(usual) == 0 or sum(usual) < LEAST_ROWS_A_DAY * len(usual):
        return []
    rows = found.get(as_of, 0)
    detail = "" if rows else f"none, {', '.join(f'{count:,}' for count in usual)} on this day of the weeks before"
    remedy = "" if rows else "run `metarisk portfolio check`: it tells a late extract from a late source"
    return [Result(suite, "rows opened on the as_of", column, "warning", rows > 0, None, rows, detail, remedy=remedy)]


def _flag_missing(suite: str, files: Sequence[Path], portfolio: Portfolio, as_of: date, total: int) -> Result:
    """Every row whose horizon and lag are over has its flag: those without one are neither good nor bad."""
    label, over = str(portfolio.columns.label), known_end(portfolio, portfolio.target) <= pl.lit(as_of)
    rows = pl.scan_parquet(list(files)).filter(over & pl.col(label).is_null())
    found = int(rows.select(pl.len()).collect(engine="streaming").item())
    detail = f"{found:,} rows teach and judge nothing" if found else ""
    return Result(suite, f"{label} is there once it is known", label, "warning", not found, found, total, detail)


def _segment_counts(files: Sequence[Path], portfolio: Portfolio, as_of: date) -> dict[SegmentKey, int]:
    """Rows to be scored in each segment."""
    names = list(portfolio.columns.segments)
    keys = [pl.col(name).cast(pl.String).fill_null(MISSING) for name in names]
    rows = population(pl.scan_parquet(list(files)), portfolio, as_of).group_by(keys).len()
    return {tuple(row[:-1]): row[-1] for row in rows.collect(engine="streaming").iter_rows()}


def _digest(suite: Path, parameters: Mapping[str, Parameter]) -> str:
    text = suite.read_text(encoding="utf-8") + repr(sorted((name, str(value)) for name, value in parameters.items()))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
