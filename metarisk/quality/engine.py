"""Great Expectations on DuckDB: rules in, verdicts and queries for failing rows out. Nothing is sent or written."""

import logging
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metarisk.domain import ConfigError, did_you_mean, quoted
from metarisk.quality.suites import Rule

VIEW = "batch"
_ONE_AT_A_TIME = threading.Lock()


@dataclass(frozen=True)
class Verdict:
    """What Great Expectations says of one rule."""

    success: bool
    failing_rows: int | None
    detail: str
    query: str | None
    """SELECT of failing rows; its first columns are the view's columns. None where the rule is about no rows."""


def judge(
    database: Path,
    rules: Sequence[Rule],
    columns: Sequence[str],
    *,
    memory_mb: int,
    threads: int,
    suite: str,
    portfolio: str,
) -> list[Verdict]:
    """Judge rules over the view `batch` of a DuckDB file.

    Args:
        database: file that holds the view and nothing else.
        rules: what to judge.
        columns: the view's columns.
        memory_mb: ceiling of DuckDB's memory in MiB.
        threads: threads of DuckDB.
        suite: file name, for errors.
        portfolio: for errors.

    Raises:
        ConfigError: a rule that Great Expectations does not know or cannot run; a rule that was not judged has not
            passed, so nothing may go on. One that only warns has failed where its column is gone.
    """
    # Its context is global to the process, and so is the filter of warnings that its import needs.
    with _ONE_AT_A_TIME, _quiet():
        expectations = _expectations(rules, suite, portfolio)
        with _batch(database, memory_mb, threads) as (gx, batch):
            found = batch.validate(
                gx.ExpectationSuite("rules", expectations=expectations),
                result_format={
                    "result_format": "BASIC",
                    "partial_unexpected_count": 0,
                    "unexpected_index_column_names": list(columns),
                    "return_unexpected_index_query": True,
                },
            )
        # Results come in an order of their own; each carries the number that its rule was given.
        by_number = {result.expectation_config.meta["rule"]: result for result in found.results}
        return [_verdict(rule, by_number[number], columns, suite, portfolio) for number, rule in enumerate(rules)]


@contextmanager
def _quiet() -> Iterator[None]:
    logger = logging.getLogger("great_expectations")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import great_expectations.data_context.types.base as chatty

            # It sets a level of its own when it is imported, and tells of every temporary folder.
            chatty.logger.setLevel(logging.WARNING)
            yield
    finally:
        logger.setLevel(level)


def _support_duckdb() -> None:
    """Have Great Expectations keep one connection to DuckDB, without which every expectation fails.

    The tuple is private and DuckDB is not in it; a test says when that changes.
    """
    from great_expectations.execution_engine import sqlalchemy_execution_engine as engine

    class _DuckDB(str):
        value = "duckdb"

    if "duckdb" not in engine._PERSISTED_CONNECTION_DIALECTS:
        engine._PERSISTED_CONNECTION_DIALECTS = (*engine._PERSISTED_CONNECTION_DIALECTS, _DuckDB("duckdb"))


@contextmanager
def _batch(database: Path, memory_mb: int, threads: int) -> Iterator[tuple[Any, Any]]:
    import great_expectations as gx
    from great_expectations.data_context.types.base import ProgressBarsConfig

    _support_duckdb()
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    config = {"threads": threads, "memory_limit": f"{memory_mb}MiB"}
    # No order is asked for: to keep it, failing rows of each row group are held apart, beside the limit.
    config["preserve_insertion_order"] = "false"
    source = context.data_sources.add_sql(
        "lake", connection_string=f"duckdb:///{database}", kwargs={"connect_args": {"config": config}}
    )
    try:
        asset = source.add_table_asset(VIEW, table_name=VIEW)
        yield gx, asset.add_batch_definition_whole_table("all").get_batch()
    finally:
        source.get_execution_engine().close()
        source.get_engine().dispose()


def _expectations(rules: Sequence[Rule], suite: str, portfolio: str) -> list[Any]:
    from great_expectations.exceptions import ExpectationNotFoundError
    from great_expectations.expectations.expectation_configuration import ExpectationConfiguration
    from great_expectations.expectations.registry import list_registered_expectation_implementations

    built = []
    for number, rule in enumerate(rules):
        where = f"expectations/{suite}, rule {number + 1}"
        try:
            configuration = ExpectationConfiguration(
                type=rule.type, kwargs=dict(rule.kwargs), meta={"rule": number}, severity=rule.severity
            )
            built.append(configuration.to_domain_obj())
        except ExpectationNotFoundError:
            known = list_registered_expectation_implementations()
            raise ConfigError(
                f"{where}: no expectation is called {rule.type!r}{did_you_mean(rule.type, known)}",
                remedy="use a name from the gallery of Great Expectations",
                portfolio=portfolio,
            ) from None
        except (ValueError, TypeError) as error:
            raise ConfigError(
                f"{where}: {rule.type} refuses its arguments: {' '.join(str(error).split())[:300]}",
                remedy="correct its `kwargs`",
                portfolio=portfolio,
                column=rule.column,
            ) from None
    return built


def _verdict(rule: Rule, found: Any, columns: Sequence[str], suite: str, portfolio: str) -> Verdict:
    problem = _problem(found.exception_info)
    if problem:
        unknown = [column for column in rule.columns if column not in columns]
        hint = f"there is no column {unknown[0]!r}{did_you_mean(unknown[0], columns)}" if unknown else problem
        if unknown and rule.severity != "critical" and not rule.excludes:
            # A column that left the portfolio: what only warns stops no night, and has not passed either.
            return Verdict(False, None, f"it cannot be judged: {hint}", None)
        raise ConfigError(
            f"expectations/{suite}: {rule.name} cannot be judged: {hint}",
            remedy="correct the rule, or the extract that it reads",
            portfolio=portfolio,
            column=rule.column,
        )
    result = found.result
    failing = result.get("unexpected_count")
    query = result.get("unexpected_index_query")
    if "unexpected_rows_query" in rule.kwargs:
        failing = result.get("observed_value")
        query = str(rule.kwargs["unexpected_rows_query"]).format(batch=VIEW)
    elif rule.type == "expect_compound_columns_to_be_unique":
        # Its own query is a cross join of the view with itself. Like its verdict, this leaves out rows with a null.
        names = [quoted(column) for column in rule.kwargs["column_list"]]
        present = " AND ".join(f"{name} IS NOT NULL" for name in names)
        query = f"SELECT * FROM {VIEW} WHERE {present} QUALIFY count(*) OVER (PARTITION BY {', '.join(names)}) > 1"  # noqa: S608
    observed = result.get("observed_value")
    if failing is not None:
        detail = f"{int(failing):,} rows" if failing else ""
    else:
        detail = f"observed {observed}" if observed is not None else ""
    return Verdict(bool(found.success), None if failing is None else int(failing), detail, query)


def _problem(info: Any) -> str:
    """The first exception that a rule met, in one line, or nothing."""
    entries = [info] if "raised_exception" in info else list(info.values())
    for entry in entries:
        if isinstance(entry, dict) and entry.get("raised_exception"):
            return " ".join(str(entry.get("exception_message")).split())[:300]
    return ""
