"""Old nights leave warehouse, lake, registry and their copy; what a kept night is read or replayed from stays."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from metarisk import lake
from metarisk.domain import ConfigError, DataError
from metarisk.job.archive import Archive, archives, fault, file_of, folder_of
from metarisk.job.context import Context
from metarisk.job.storage import kept_folders, store_of
from metarisk.record.events import append_event
from metarisk.record.publications import last_night, month_ends
from metarisk.record.publications import nights as standing_nights
from metarisk.record.runs import old_runs, runs
from metarisk.record.seals import OF_RUN, PRUNED, PRUNED_FILES, SCORES, Seal, seal, sealed_rows, trusted_events
from metarisk.record.tables import LEAVING, delete_leaving, rows_leaving, rows_of_run
from metarisk.upkeep.models import models

SERVED = 2
"""Champions that stay whatever their age: the newest, and the one to roll back to."""


@dataclass(frozen=True)
class Pruned:
    """What went, or would go: of one portfolio, nights on or before `cut`."""

    portfolio: str
    cut: date | None
    """None where there is no night yet."""
    runs: tuple[str, ...] = ()
    """Whose rows are Parquet in the archive now. Month ends stay, for back-tests need them, and so does what is read
    across nights: see `LEAVING` and `_until`."""
    rows: Mapping[str, int] = field(default_factory=dict)
    """How many left the warehouse, by table."""
    nights: tuple[date, ...] = ()
    """Whose extracts, run files and quarantine left the lake: they cannot be replayed any more."""
    models: tuple[str, ...] = ()
    freed: int = 0
    """Bytes of lake and registry."""


def prune(context: Context, keep_days: int, *, dry_run: bool = False) -> Pruned:
    """Keep the nights of the last `keep_days` before the newest one; see `Pruned` for what becomes of older ones.

    Killed anywhere and run again, it ends as if it had not been killed: rows leave the warehouse in the transaction
    that logs their archive.

    Raises:
        ConfigError: fewer than one day is to be kept.
        LockedError: a night or a week of the portfolio goes on.
    """
    portfolio = context.job.portfolio
    if keep_days < 1:
        raise ConfigError(
            f"{keep_days} days are to be kept", portfolio=portfolio, remedy="keep one day at least, such as --keep 90d"
        )
    with context.warehouse.lock(portfolio), context.warehouse.lock(f"{portfolio}.weekly"):
        newest = last_night(context.warehouse, context.job.portfolio)
        if newest is None:
            return Pruned(portfolio, None)
        cut = newest - timedelta(days=keep_days)
        leaving = _leaving(context, cut, newest)
        nights = _nights(context, cut)
        used = {row["model_id"] for row in runs(context.warehouse, portfolio).values() if row["as_of"] > cut}
        unused = _unused(context, cut, used)
        folders = [*nights.values(), *unused.values()]
        found = Pruned(
            portfolio,
            cut,
            tuple(run for run, _ in leaving),
            {table: n for table in LEAVING if (n := sum(rows.get(table, 0) for rows in leaving.values()))},
            tuple(nights),
            tuple(unused),
            sum(path.stat().st_size for folder in folders for path in folder.rglob("*") if path.is_file()),
        )
        if dry_run:
            return found
        lake.finish_rewriting(context.settings.data_dir / "archive" / portfolio)
        events = trusted_events(context.warehouse, portfolio)
        known, sealed = archives(events), sealed_rows(events)
        for number, ((run, as_of), rows) in enumerate(leaving.items()):
            context.reporter.progress("prune", number, len(leaving), str(as_of))
            _leave(context, run, as_of, rows, known.get(run), sealed)
        _log_files(context, events, {"cut": str(cut), "nights": [*map(str, nights)], "models": [*unused]})
        if (store := store_of(context)) is not None:
            for folder in folders:
                store.drop(folder)
        _remove([folder for folder in folders if folder.exists()])
    context.warehouse.snapshot()
    return found


def _leaving(context: Context, cut: date, newest: date) -> dict[tuple[str, date], dict[str, int]]:
    """By old run and its night, oldest first: how many rows leave each table."""
    portfolio, bitemporal = context.job.portfolio, context.portfolio.source.bitemporal
    ends = month_ends(context.warehouse, portfolio, date.min, newest, bitemporal=bitemporal)
    proofs = {row["run_id"] for row in ends}
    known = old_runs(context.warehouse, portfolio, cut)
    old = {run: night for run, night in known.items() if run not in proofs}
    found: dict[str, dict[str, int]] = {run: {} for run in old}
    for table, until in _until(context, cut).items():
        for run, rows in rows_leaving(context.warehouse, portfolio, table, cut, until).items():
            if run in found and rows:
                found[run][table] = rows
    return {(run, old[run]): rows for run, rows in found.items() if rows}


def _until(context: Context, cut: date) -> dict[str, date]:
    """By table the last night whose rows may leave, for some nights before the first kept one are read with it.

    Scores: of those its derived targets are made, now and in a replay. Adaptations: the night before says which
    segments are carried. Drift metrics: an alert closes after some quiet nights.
    """
    nights = [
        row["as_of"] for row in standing_nights(context.warehouse, context.job.portfolio, cut + timedelta(days=1))
    ]
    read = {"adaptation": 1, "drift_metric": context.portfolio.thresholds.alert_close_nights - 1}
    until = {table: nights[n] if (n := read.get(table, 0)) < len(nights) else date.min for table in LEAVING}
    if context.spec.derive is not None:
        until[SCORES] = cut - context.portfolio.target.matures_in - context.spec.look_back
    return until


def _leave(
    context: Context,
    run: str,
    as_of: date,
    leaving: Mapping[str, int],
    known: Archive | None,
    sealed: Mapping[tuple[str, str], Seal],
) -> None:
    """Let rows of one run leave the warehouse, once the archive has all rows of the run, and its copy the archive."""
    files = _archive(context, run, as_of, known)
    with context.warehouse.transaction() as transaction:
        for table in (SCORES, *OF_RUN):
            expected = sealed.get((run, table))
            if expected is not None and seal(transaction, run, as_of, table)[0] != expected.digest:
                raise DataError(
                    f"rows of {table} of run {run} are not those that the log sealed: to archive them would hide it",
                    portfolio=context.job.portfolio,
                    on=as_of,
                    remedy="`metarisk audit verify --all` says what differs: restore the warehouse first",
                )
        for table in leaving:
            delete_leaving(transaction, context.job.portfolio, table, run, as_of)
        rest = {table: seal(transaction, run, as_of, table)[0] for table in (SCORES, *OF_RUN)}
        append_event(
            transaction,
            context.job.portfolio,
            context.clock(),
            PRUNED,
            {"run_id": run, "as_of": as_of, "files": files, "rows": leaving, "rest": rest},
        )


def _archive(context: Context, run: str, as_of: date, known: Archive | None) -> dict[str, str]:
    """Write to the archive each table of a run that the log does not find there; SHA-256 of its files by name."""
    if known is not None and (what := fault(context, run, known)) is not None:
        raise DataError(
            what,
            portfolio=context.job.portfolio,
            on=as_of,
            remedy="restore that folder from a backup; where an erasure was not ended, end it first",
        )
    folder = folder_of(context, run, as_of)
    manifest: dict[str, Any] = {"run_id": run, "files": {}} if known is None else lake.read_manifest(folder)
    files: dict[str, str] = manifest.pop("files")
    lacking = [table for table in LEAVING if file_of(table) not in files]
    if not lacking:
        return files
    with lake.rewritten(folder) as into:
        for name in files:
            shutil.copyfile(folder / name, into / name)
        for table in lacking:
            with (
                rows_of_run(context.warehouse, table, run, as_of) as reader,
                pq.ParquetWriter(into / file_of(table), reader.schema) as file,
            ):
                for batch in reader:
                    file.write_batch(batch)
            if known is None:
                _require_no_fewer(context, as_of, folder / file_of(table), into / file_of(table))
        lake.write_manifest(into, manifest)
    files = lake.verify(folder)["files"]
    if (copy := store_of(context)) is not None:
        copy.keep(folder.parent, run, lambda *_: None)
    return files


def _require_no_fewer(context: Context, as_of: date, old: Path, new: Path) -> None:
    """Raise DataError where an archive of which the log knows nothing has rows that the warehouse has no more."""
    if old.exists() and pq.read_metadata(old).num_rows > pq.read_metadata(new).num_rows:
        raise DataError(
            f"{old} has more rows than the warehouse, and no event that holds says why",
            portfolio=context.job.portfolio,
            on=as_of,
            remedy="`metarisk audit verify --all` says what is wrong with the log: restore the warehouse first",
        )


def _log_files(context: Context, events: Sequence[Mapping[str, Any]], going: Mapping[str, Any]) -> None:
    """Log which folders leave lake and registry, but those that a killed command has logged."""
    told = [json.loads(event["payload"]) for event in events if event["kind"] == PRUNED_FILES]
    new = {name: going[name] for name in ("nights", "models")}
    for about in (about for about in told if about["cut"] == going["cut"]):
        new = {name: [one for one in new[name] if one not in about[name]] for name in new}
    if any(new.values()):
        with context.warehouse.transaction() as transaction:
            append_event(
                transaction, context.job.portfolio, context.clock(), PRUNED_FILES, {"cut": going["cut"], **new}
            )


def _nights(context: Context, cut: date) -> dict[date, Path]:
    """Folders of the lake and of its copy by as_of, up to the cut."""
    found = {date.fromisoformat(path.name): path for path in kept_folders(context, "lake") if path.match("*-*-*")}
    return {as_of: found[as_of] for as_of in sorted(found) if as_of <= cut}


def _unused(context: Context, cut: date, used: set[str]) -> dict[str, Path]:
    """Folders, here or in the copy, of models that scored no kept night, do not wait, and that nobody rolls back to."""
    known = models(context)
    served = [row["model_id"] for row in known if row["champion_since"] and row["state"] != "withdrawn"][:SERVED]
    kept = used | set(served) | {row["model_id"] for row in known if row["as_of"] > cut or row["state"] == "candidate"}
    known_ids = {row["model_id"] for row in known}
    return {path.name: path for path in kept_folders(context, "registry") if path.name in known_ids - kept}


def _remove(folders: Sequence[Path]) -> None:
    """Remove folders, each vanishing whole: a reader never meets half of one."""
    for folder in folders:
        with lake.scratch(folder.parent) as bin_:
            folder.rename(bin_ / folder.name)
