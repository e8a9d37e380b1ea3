"""One entity erased: a pseudonym in the warehouse, no row in the lake, and a log that knows the pseudonym alone.

The order is: a journal, the warehouse in one transaction, folders, pages, their copy, freed blocks; then the journal
goes. Whatever was done already is not found any more, so that the same command ends what a killed one began.
"""

import json
import os
import secrets
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from metarisk import lake
from metarisk.domain import ConfigError, DataError, Transaction
from metarisk.job.acceptance import require_person
from metarisk.job.archive import _place, _sum
from metarisk.job.context import Context
from metarisk.job.storage import kept_folders, store_of
from metarisk.pages.html import written
from metarisk.record import seals, tables
from metarisk.record.events import append_event
from metarisk.record.scores import overrides, runs_of_entity

_PROSE = ("detail", "error", "item", "note", "reason")
"""Columns in which a name stands among other words."""


@dataclass(frozen=True)
class Change:
    """What was changed, or could not be, in one place."""

    where: str
    what: str
    rows: int


@dataclass(frozen=True)
class Forgotten:
    """An erasure that has ended."""

    portfolio: str
    pseudonym: str
    changed: tuple[Change, ...]
    left: tuple[str, ...]
    """Places that still hold the name, or may: the command does not rewrite them."""


def forget(context: Context, entity: str, by: str, reason: str) -> Forgotten:
    """Erase an entity from all that the job keeps of its portfolio; see `docs/decisions/013-erasure.md`.

    Killed anywhere and run again, it goes on under the same pseudonym.

    Raises:
        ConfigError: nobody is named, author or reason name the entity, or the erasure of another one was not ended.
        DataError: nothing here holds the entity, or score rows are not as the log sealed them.
        LockedError: a night or a week of the portfolio goes on.
        WarehouseError: the user of the warehouse may only append.
    """
    require_person(context, by, reason)
    portfolio = context.job.portfolio
    with context.warehouse.lock(portfolio), context.warehouse.lock(f"{portfolio}.weekly"):
        for root in _roots(context).values():
            lake.finish_rewriting(root)
        erasure = _begun(context, entity, by, reason)
        copy = store_of(context)
        if copy is not None:
            for folder in _folders(context, *_OURS, "registry"):
                copy.bring(folder)
        changed = _in_warehouse(context, erasure) + _in_files(context, erasure)
        if copy is not None:
            for folder in filter(Path.exists, _folders(context, *_OURS)):
                copy.renew(folder, erasure.pseudonym, lambda *_: None)
        context.warehouse.purge([f"metarisk.{name}" for name in tables.text_columns(context.warehouse)])
        left = tuple(_left(context, erasure))
        _close(context, erasure)
    return Forgotten(portfolio, erasure.pseudonym, tuple(changed), left)


def _begun(context: Context, entity: str, by: str, reason: str) -> lake.Erasure:
    """The erasure that a killed command began, or a new one, in the journal."""
    portfolio, journal = context.job.portfolio, _journal(context)
    if journal.exists():
        erasure = lake.Erasure(**json.loads(journal.read_text(encoding="utf-8")))
        if erasure.entity != entity:
            raise ConfigError(
                f"the erasure of {erasure.entity!r} was not ended",
                portfolio=portfolio,
                remedy=f"end it first: metarisk forget {erasure.entity} --portfolio {portfolio}",
            )
        return erasure
    erasure = lake.Erasure(entity, f"erased-{secrets.token_hex(8)}", context.clock().isoformat(), by, reason)
    if not entity.strip() or erasure.names(f"{by} {reason}"):
        raise ConfigError(
            "author or reason name the entity, and the log keeps both for ever",
            portfolio=portfolio,
            remedy="give a reason without the name, such as the number of the request",
        )
    if not _known(context, erasure):
        raise DataError(
            f"nothing that is kept here holds the entity {entity!r}",
            portfolio=portfolio,
            column=context.portfolio.columns.entity,
            remedy="check the entity, as the extract's SQL gives it",
        )
    journal.parent.mkdir(parents=True, exist_ok=True)
    beside = journal.with_suffix(".new")
    with beside.open("w", encoding="utf-8") as file:
        json.dump(asdict(erasure), file)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(journal)
    return erasure


def _known(context: Context, erasure: lake.Erasure) -> bool:
    named = [name for name, columns in tables.text_columns(context.warehouse).items() if "entity" in columns]
    if any(
        tables.count_with(context.warehouse, context.job.portfolio, name, "entity", erasure.entity) for name in named
    ):
        return True
    return any(True for name, root in _roots(context).items() if name in _OURS for _ in lake.left(root, erasure))


def _in_warehouse(context: Context, erasure: lake.Erasure) -> list[Change]:
    """Put the pseudonym in the place of the name, with the event that seals anew what was sealed."""
    changed, portfolio = [], context.job.portfolio
    texts = tables.text_columns(context.warehouse)
    with context.warehouse.transaction() as transaction:
        events = seals.trusted_events(transaction, portfolio)
        if any(json.loads(event["payload"])["pseudonym"] == erasure.pseudonym for event in _erased(events)):
            return []
        runs = runs_of_entity(transaction, portfolio, erasure.entity)
        held = seals.sealed_rows(events)
        sealed = {run: held[run, seals.SCORES].digest for run in runs if (run, seals.SCORES) in held}
        for run, expected in sealed.items():
            if seals.seal(transaction, run, runs[run])[0] != expected:
                raise DataError(
                    f"score rows of run {run} are not those that were published: an erasure would hide it",
                    portfolio=portfolio,
                    on=runs[run],
                    remedy="`metarisk audit verify --all` says what differs: restore the warehouse first",
                )
        overridden = [row for row in overrides(transaction, portfolio) if row["entity"] == erasure.entity]
        numbers = {row["seq"] for row in overridden} & {*seals.sealed_overrides(events)}
        for name, columns in texts.items():
            rows = _rename(transaction, portfolio, name, columns, erasure)
            changed += [Change(f"metarisk.{name}", "under the pseudonym", rows)] if rows else []
        scores = {}
        for run in sealed:
            digest, rows = seals.seal(transaction, run, runs[run])
            scores[run] = {"scores": digest, "rows": rows}
        renamed = [row for row in overrides(transaction, portfolio) if row["seq"] in numbers]
        told = {
            "pseudonym": erasure.pseudonym,
            "reason": erasure.reason,
            "rows": {change.where: change.rows for change in changed},
            "scores": scores,
            "overrides": {row["seq"]: seals.override_sum(row) for row in renamed},
        }
        append_event(transaction, context.job.portfolio, context.clock(), seals.ERASED, told, erasure.by)
    return changed


def _rename(transaction: Transaction, portfolio: str, table: str, columns: list[str], erasure: lake.Erasure) -> int:
    """Rows of a table that got the pseudonym, in the column of entities or among other words."""
    rows = 0
    for column in columns:
        if column == "entity":
            rows += tables.rename(transaction, portfolio, table, column, erasure.entity, erasure.pseudonym)
        elif column in _PROSE:
            for old in tables.texts_with(transaction, portfolio, table, column, erasure.entity):
                if erasure.names(old):
                    rows += tables.rename(transaction, portfolio, table, column, old, erasure.clean(old))
    return rows


def _in_files(context: Context, erasure: lake.Erasure) -> list[Change]:
    """Rewrite folders of the lake and of the archive, quarantined rows, and pages."""
    keys, roots, changed = (context.portfolio.columns.entity, "entity"), _roots(context), []
    for name in ("lake", "archive"):
        for folder in lake.sealed(roots[name]):
            context.reporter.progress("forget", 0, 0, str(folder))
            if rows := lake.erase(folder, erasure, keys, keep=name == "archive"):
                what = "under the pseudonym" if name == "archive" else "rows taken out"
                changed.append(Change(_place(context, folder), what, rows))
    loose = {folder: lake.erase_loose(folder, erasure, keys) for folder in sorted(roots["lake"].rglob("quarantine"))}
    changed += [Change(_place(context, folder), "rows taken out", rows) for folder, rows in loose.items() if rows]
    forms = [replace(erasure, entity=form) for form in written(erasure.entity)]
    for page in sorted(path for path in roots["reports"].rglob("*") if path.suffix in {".html", ".md"}):
        text = old = page.read_text(encoding="utf-8")
        for form in forms:
            text = form.clean(text)
        if text != old:
            beside = page.with_suffix(".rewritten")
            beside.write_text(text, encoding="utf-8")
            beside.replace(page)
            changed.append(Change(_place(context, page), "under the pseudonym", 1))
    return changed


def _folders(context: Context, *trees: str) -> list[Path]:
    """Folders, here or in the copy, of dates and of models."""
    return [folder for tree in trees for folder in kept_folders(context, tree)]


def _left(context: Context, erasure: lake.Erasure) -> Iterator[str]:
    """Where the name still stands, although the command has ended."""
    for table, columns in tables.text_columns(context.warehouse).items():
        for column in columns:
            said = tables.texts_with(context.warehouse, context.job.portfolio, table, column, erasure.entity)
            if any(map(erasure.names, said)):
                yield f"metarisk.{table}.{column}"
    for folder in _folders(context, *_OURS):
        if not folder.exists():
            yield f"half a copy of {_place(context, folder)}, which was cut off on another machine"
    for root in _roots(context).values():
        yield from (f"{_place(context, path)} {column}".strip() for path, column in lake.left(root, erasure))


def _close(context: Context, erasure: lake.Erasure) -> None:
    """Log what the rewritten folders are now, and let the journal, which has the name, go."""
    folders, portfolio = {}, context.job.portfolio
    for name in _OURS:
        for folder in lake.sealed(_roots(context)[name]):
            told = lake.read_manifest(folder).get(lake.ERASED, [])
            if any(line["pseudonym"] == erasure.pseudonym for line in told):
                folders[_place(context, folder)] = _sum(folder)
    with context.warehouse.transaction() as transaction:
        told = {"pseudonym": erasure.pseudonym, "folders": folders}
        known = seals.trusted_events(transaction, portfolio)
        ends = [event["payload"] for event in known if event["kind"] == seals.ERASED_FILES]
        if told not in map(json.loads, ends):
            append_event(transaction, context.job.portfolio, context.clock(), seals.ERASED_FILES, told, erasure.by)
    context.warehouse.snapshot()
    _journal(context).unlink()


def _erased(events: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    return (event for event in events if event["kind"] == seals.ERASED)


_OURS = ("lake", "archive")


def _roots(context: Context) -> dict[str, Path]:
    """Folders of the portfolio."""
    names = (*_OURS, "registry", "reports")
    return {name: context.settings.data_dir / name / context.job.portfolio for name in names}


def _journal(context: Context) -> Path:
    return context.settings.data_dir / "forgetting" / f"{context.job.portfolio}.json"
