"""What surrounds the steps of a run: its lock, its times, and what is kept of it when it fails."""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from polars.exceptions import PanicException

from metarisk.bases import tree_threads
from metarisk.domain import DataError, LockedError, MetariskError, QualityError, SnapshotError
from metarisk.job.attempts import Attempt, Kind, begin, lock_of, record_deaths, record_failure
from metarisk.job.context import Caller, Context
from metarisk.pages import refusal

Result = TypeVar("Result")
_FULL = re.compile("No space left on device|Disk quota exceeded|File too large|max_temp_directory_size")
"""In what the system, Polars and DuckDB say of a full disk."""


class Steps:
    """Calls steps; remembers their seconds and results, and which one is running."""

    def __init__(self, call: Caller, context: Context) -> None:
        self._call, self._context = call, context
        self.seconds: dict[str, float] = {}
        self.results: dict[str, object] = {}
        self.step = "start"

    def __call__(self, step: Callable[..., Result], *inputs: object) -> Result:
        """Run `step(context, *inputs)`. Raises DataError where the disk is full, and whatever the step raises."""
        self.step = step.__name__
        begun = time.perf_counter()
        try:
            with tree_threads(self._context.settings.threads):
                result = self._call(step, self._context, *inputs)
        except PanicException as error:  # no Exception: in a flow it would take the other portfolios with it
            raise MetariskError(
                f"the step {self.step} ended in a panic of Polars",
                remedy="report the defect with what standard error says; correct the rows if you see what is odd",
            ) from error
        except Exception as error:
            if isinstance(error, MetariskError) or not _FULL.search(str(error)):
                raise
            full = re.search(r"['\"](/[^'\"]+)['\"]", str(error))
            place = Path(full[1]).parent if full else self._context.settings.data_dir
            raise DataError(f"the disk of {place} is full", remedy="free space there, then run again") from error
        finally:
            self.seconds[self.step] = time.perf_counter() - begun
        self.results[self.step] = result
        return result


@contextmanager
def explained(context: Context, run: Steps, page: refusal.Page) -> Iterator[None]:
    """An error that gets out names portfolio and date, and has left a page.

    It leaves none where another run goes on, or where the warehouse has the result already.
    """
    try:
        yield
    except BaseException as error:
        if isinstance(error, MetariskError):
            error.place(context.job.portfolio, context.job.as_of)
        if not isinstance(error, LockedError | SnapshotError) and not {"publish", "register"} & run.results.keys():
            refusal.leave(context, page, refusal.Stop(error, run.step, run.seconds, run.results))
        raise


@contextmanager
def alone(context: Context, job: Kind, run: Steps) -> Iterator[None]:
    """The schema is up to date and nobody else has the job's lock; an error leaves a page.

    Attempts of before that died are told now.
    """
    with explained(context, run, refusal.PAGES[job]):
        migrate(context)
        with context.warehouse.lock(lock_of(context.job.portfolio, job)):
            for dead in record_deaths(context, job):
                context.reporter.warn(f"the attempt at {dead['as_of']} of {dead['started_at']:%Y-%m-%d %H:%M} UTC died")
            yield


@contextmanager
def recorded(context: Context, run: Steps, job: Kind) -> Iterator[Attempt]:
    """An attempt whose begin is in the warehouse, and its end too if it fails; the error goes on.

    Whoever reads the file for BI sees the failure there.
    """
    attempt = begin(context, job)
    try:
        yield attempt
    except BaseException as error:
        if isinstance(error, MetariskError):
            error.place(context.job.portfolio, context.job.as_of)
        found = error.results if isinstance(error, QualityError) else ()
        try:
            if record_failure(context, replace(attempt, seconds=dict(run.seconds)), run.step, error, found):
                context.warehouse.snapshot()
        except SnapshotError as second:
            context.reporter.warn(f"the file for BI does not tell of this attempt: {second.what}")
        except Exception as second:
            context.reporter.warn(f"the failed attempt could not be recorded: {type(second).__name__}")
        raise


def migrate(context: Context) -> list[str]:
    """Bring schema `metarisk` up to date; the names of the migrations applied now."""
    settings = context.settings
    return context.warehouse.migrate(settings.migrations, settings.views, settings.dictionary)
