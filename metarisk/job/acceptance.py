"""A person's word: who decides and why, and what the guard stopped and is published all the same."""

from collections.abc import Mapping
from typing import Any

from metarisk.domain import ConfigError, QualityError, Transaction
from metarisk.job.context import Context
from metarisk.quality import Quality, Result, guarding
from metarisk.record.attempts import stopped_by_guard
from metarisk.record.events import append_event
from metarisk.record.publications import newest
from metarisk.record.seals import ACCEPTED


def require_person(context: Context, by: str, reason: str | None = None) -> None:
    """Raise ConfigError where a decision names nobody, or gives a blank reason: the warehouse keeps both for ever.

    `reason` is None where the decision itself says why, as a reviewer's verdict does.
    """
    for what, said, remedy in (("who decides", by, "a name by --by"), ("why", reason, "a --reason")):
        if said is not None and not said.strip():
            raise ConfigError(f"nothing says {what}", portfolio=context.job.portfolio, remedy=f"give {remedy}")


def require_stop(context: Context) -> None:
    """Raise ConfigError where nobody accepts, for no reason, or where the guard has stopped no attempt of this night:
    what nobody has seen cannot be accepted."""
    word = context.job.acceptance
    if word is None:
        return
    require_person(context, word.by, word.reason)
    if not _shown(context):
        raise ConfigError(
            "the guard has stopped no attempt of this night, so there is nothing to accept",
            portfolio=context.job.portfolio,
            on=context.job.as_of,
            remedy="run the night without --accept; what `check` stops can only be corrected in the source",
        )


def settled(context: Context, run_id: str, found: Quality) -> Quality:
    """What the guard found, where the night may be published.

    Raises QualityError at critical failures, unless the run is published already, or a person accepts them and an
    earlier attempt has shown every one of them. That scores are no numbers cannot be accepted.
    """
    critical = stops(found)
    current = newest(context.warehouse, context.job.portfolio, context.job.as_of) or {}
    if not critical or current.get("run_id") == run_id:
        if context.job.acceptance is not None and not critical:
            context.reporter.warn("the guard found nothing that stops this night: there was nothing to accept")
        return found
    word, never = context.job.acceptance, [result for result in critical if result.rule == guarding.FINITE]
    shown = _shown(context) if word is not None else set()
    unseen = [result for result in critical if _key(result) not in shown]
    if word is not None and not unseen and not never:
        for result in critical:
            context.reporter.warn(f"{word}, though {result.rule} failed: {result.detail}")
        return found
    try:
        found.require()
    except QualityError as error:
        if word is not None and unseen:
            error.what += f"; {len(unseen)} critical rules failed in a way that no attempt has shown before"
        if not never:
            error.remedy += f", or publish it as it is: {command(context)}"
        error.place(context.job.portfolio, context.job.as_of)
        raise
    raise AssertionError


def command(context: Context) -> str:
    """The command that accepts what stopped the night."""
    return f"`metarisk nightly -p {context.job.portfolio} --as-of {context.job.as_of} --accept WHY --by NAME`"


def stops(found: Quality) -> list[Result]:
    """Critical rules that failed."""
    return [result for result in found.failures if result.severity == "critical"]


def reason_of(context: Context, found: Quality) -> str | None:
    """Why a publication is there: the job's own reason, and that what stopped it was accepted."""
    parts = [context.job.reason]
    if context.job.acceptance is not None and stops(found):
        parts.append(str(context.job.acceptance))
    return "; ".join(part for part in parts if part) or None


def log(context: Context, transaction: Transaction, run_id: str, seq: int, found: Quality) -> None:
    """Append to the event log what was accepted, by whom and why; nothing where there was nothing to accept."""
    word, critical = context.job.acceptance, stops(found)
    if word is None or not critical:
        return
    told = {"run_id": run_id, "as_of": context.job.as_of, "seq": seq, "reason": word.reason}
    findings = [_told(result) for result in critical]
    append_event(transaction, context.job.portfolio, context.clock(), ACCEPTED, told | {"findings": findings}, word.by)


def _told(result: Result) -> Mapping[str, Any]:
    return {"suite": result.suite, "rule": result.rule, "column": result.column, "detail": result.detail}


def _key(result: Result) -> tuple[str | None, ...]:
    return result.suite, result.rule, result.column, result.detail or None


def _shown(context: Context) -> set[tuple[str | None, ...]]:
    """Critical failures that stopped an attempt of this night in the guard."""
    return stopped_by_guard(context.warehouse, context.job.portfolio, context.job.as_of)
