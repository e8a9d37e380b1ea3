"""The page of a night that readers do not have: refused, failed or taken back, why, and what to do about it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Literal

from metarisk import lake
from metarisk.domain import ConfigError, DataError, MetariskError, QualityError, SourceLate, WarehouseError
from metarisk.job.attempts import Kind
from metarisk.job.context import Context
from metarisk.job.identity import code_version
from metarisk.job.published import to_publish_again
from metarisk.job.run import Checked
from metarisk.pages import places
from metarisk.pages.cards.steps import Step, taken
from metarisk.pages.html import write
from metarisk.pages.night import Night
from metarisk.pages.page import Champion
from metarisk.pages.subjects import scoring_now
from metarisk.pages.week import Week
from metarisk.portfolios import list_portfolios
from metarisk.record.publications import last_night

REFUSED = (SourceLate, DataError)
"""Errors by which the job declines bad input; any other is a failure."""


@dataclass(frozen=True)
class Stop:
    """A run that ended early: in which step, by what, and what it had until then."""

    error: BaseException
    step: str
    seconds: Mapping[str, float]
    results: Mapping[str, object]

    @property
    def outcome(self) -> Literal["refused", "failed"]:
        """Whether the job declined its input, or could not do its work."""
        return "refused" if isinstance(self.error, REFUSED) else "failed"

    @property
    def reason(self) -> str:
        """What went wrong, in a sentence."""
        if not isinstance(self.error, Exception):
            return f"Step {self.step} was ended from outside by {type(self.error).__name__}."
        if not isinstance(self.error, MetariskError):
            # Its text may hold anything that a library was given.
            return f"Step {self.step} ended in an unexpected {type(self.error).__name__}; the log has its traceback."
        column = f"Column {self.error.column}: " if self.error.column else ""
        return f"{column}{self.error.what}."

    @property
    def next_steps(self) -> tuple[str, ...]:
        """The remedy."""
        defect = isinstance(self.error, Exception)
        remedy = "read the log and report the defect" if defect else "look who or what ended it"
        if isinstance(self.error, MetariskError):
            remedy = self.error.remedy
        return (f"{remedy[:1].upper()}{remedy[1:]}.",)

    @property
    def steps(self) -> tuple[Step, ...]:
        """Steps that ran; the last one failed."""
        ran = taken({name: value for name, value in self.seconds.items() if name != self.step})
        return (*ran, Step(self.step, self.seconds.get(self.step, 0.0), "failed"))

    @property
    def checks(self) -> tuple[Mapping[str, Any], ...]:
        """Verdicts found so far, those that stopped the run included, as rows of `quality_result`."""
        before = self.results.get("check")
        now = self.error.results if isinstance(self.error, QualityError) else ()
        return (*(before.quality.rows() if isinstance(before, Checked) else ()), *now)

    @property
    def cards(self) -> dict[str, Any]:
        """What there is to show of it."""
        return {"quality": self.checks, "steps": self.steps}

    @property
    def extract(self) -> lake.Extract | None:
        """The extract, if there was one."""
        found = self.results.get("extract")
        return found if isinstance(found, lake.Extract) else None

    @property
    def provenance(self) -> dict[str, str]:
        """What is known of the run's inputs."""
        return ({"extract": self.extract.extract_hash} if self.extract else {}) | {"code": code_version()}


Page = Callable[[Context, Stop], Path]


def leave(context: Context, page: Page, stop: Stop) -> None:
    """Write the page of a run that was stopped and point to it; whatever goes wrong here is a warning."""
    job = context.job
    try:
        if job.portfolio not in list_portfolios(context.settings.project):
            return
        path = page(context, stop)
    except Exception as second:
        context.reporter.warn(f"the page of this run could not be written: {type(second).__name__}")
        return
    if isinstance(stop.error, MetariskError):
        stop.error.page = path
    else:
        stop.error.add_note(f"report {path}")
    key, what = ("week", "Week of") if page is week else ("report", "Report of")
    context.reporter.link(f"{key}-{job.portfolio}", f"{what} {job.as_of}: {stop.outcome}", path)


def night(context: Context, stop: Stop) -> Path:
    """Write the page of a night that published nothing; a later attempt that fails writes it anew."""
    job, extract = context.job, stop.extract
    page = Night(
        title=_title(context),
        portfolio=job.portfolio,
        as_of=job.as_of,
        run_id="",
        mode=job.mode,
        outcome=stop.outcome,
        reason=stop.reason,
        stopped_at=context.clock(),
        last_published=_last_published(context),
        rows_extracted=extract.rows if extract else 0,
        warnings=tuple(extract.warnings) if extract else (),
        next_steps=(*stop.next_steps, f"Then run `metarisk nightly --portfolio {job.portfolio} --as-of {job.as_of}`."),
        provenance=stop.provenance,
        cards=stop.cards,
    )
    return write(places.unpublished_page(context), page.html())


def retracted(context: Context, run_id: str, reason: str, latest: date | None) -> Path | None:
    """Write the page of a night that was taken back; None, and a warning, where that fails: the night is gone anyhow.

    Args:
        run_id: that was current until then.
        reason: who took it back, and why.
        latest: night that readers have for the latest now.
    """
    page = Night(
        title=_title(context),
        portfolio=context.job.portfolio,
        as_of=context.job.as_of,
        run_id=run_id,
        mode=context.job.mode,
        outcome="retracted",
        reason=reason,
        last_published=latest,
        next_steps=(f"Publish it again once its cause is mended: {to_publish_again(context)}.",),
        provenance={"run": run_id},
    )
    try:
        return write(places.retracted_page(context), page.html())
    except OSError as error:
        context.reporter.warn(f"the page of this retraction could not be written: {type(error).__name__}")
        return None


def week(context: Context, stop: Stop) -> Path:
    """Write the page of a week that registered no model; a later attempt that fails writes it anew."""
    job = context.job
    page = Week(
        title=_title(context),
        portfolio=job.portfolio,
        as_of=job.as_of,
        run_id="",
        decision="failed",
        reason=stop.reason,
        champion=_champion(context),
        warnings=tuple(stop.extract.warnings) if stop.extract else (),
        next_steps=(*stop.next_steps, f"Then run `metarisk weekly --portfolio {job.portfolio} --as-of {job.as_of}`."),
        provenance=stop.provenance,
        cards=stop.cards,
    )
    return write(places.failed_week_page(context), page.html())


PAGES: Mapping[Kind, Page] = {"night": night, "week": week}
"""What writes the page of a job that ended early."""


def withdraw(context: Context, job: Kind) -> None:
    """Remove the page that says why a night was not published, or a week failed: it is published now."""
    file = places.unpublished_page(context) if job == "night" else places.failed_week_page(context)
    file.unlink(missing_ok=True)


def _title(context: Context) -> str:
    try:
        return context.portfolio.title or context.portfolio.name
    except ConfigError:  # its TOML may be what is wrong
        return context.job.portfolio


def _champion(context: Context) -> Champion | None:
    try:
        return scoring_now(context)
    except MetariskError:  # its TOML, or the champion itself, may be what is wrong
        return None


def _last_published(context: Context) -> date | None:
    """Date of the night that readers see; None where there is none, or the warehouse does not answer."""
    try:
        return last_night(context.warehouse, context.job.portfolio)
    except WarehouseError:
        return None
