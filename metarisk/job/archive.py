"""Where rows of old runs are after `prune`, what the event log says of them, and the words for what is not here now."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from metarisk import lake
from metarisk.domain import DataError
from metarisk.job.context import Context
from metarisk.job.storage import reopened
from metarisk.record.seals import ERASED_FILES, PRUNED, PRUNED_FILES, SCORES, trusted_events


@dataclass(frozen=True)
class Archive:
    """What the log says last of the archive of one run."""

    seq: int
    as_of: date
    files: Mapping[str, str]
    """SHA-256 by name."""
    left: frozenset[str]
    """Tables that lost rows of the run."""
    manifest: str | None = None
    """SHA-256 of the manifest that an erasure left, where one came since; the files are then others."""


def archives(events: Sequence[Mapping[str, Any]]) -> dict[str, Archive]:
    """By run, its archive."""
    found: dict[str, Archive] = {}
    for event in events:
        about = json.loads(event["payload"])
        if event["kind"] == PRUNED:
            run, gone = about["run_id"], about.get("rows", {SCORES: True})
            left = {table for table, rows in gone.items() if rows} | (found[run].left if run in found else frozenset())
            night = date.fromisoformat(about["as_of"])
            found[run] = Archive(event["seq"], night, about["files"], frozenset(left))
        elif event["kind"] == ERASED_FILES:
            for place, manifest in about["folders"].items():
                if (run := Path(place).name) in found and place.startswith("archive/"):
                    known = found[run]
                    found[run] = Archive(event["seq"], known.as_of, known.files, known.left, manifest)
    return found


def folder_of(context: Context, run_id: str, as_of: date) -> Path:
    """Folder of a run's rows once they have left the warehouse: a file a table, with all of its rows."""
    return context.settings.data_dir / "archive" / context.job.portfolio / str(as_of) / run_id


def file_of(table: str) -> str:
    """Name of a table's file in such a folder."""
    return "scores.parquet" if table == SCORES else f"{table}.parquet"


def fault(context: Context, run_id: str, archive: Archive) -> str | None:
    """In words, what of an archive is not as the log has it; its copy puts back what is missing or damaged here."""
    folder = folder_of(context, run_id, archive.as_of)
    try:
        manifest = reopened(context, folder.parent, lambda: lake.verify(folder))
    except DataError as error:
        return f"the archive of run {run_id} is not whole: {error.what}"
    found = hashlib.sha256((folder / lake.MANIFEST).read_bytes()).hexdigest()
    same = manifest["files"] == archive.files if archive.manifest is None else found == archive.manifest
    return None if same else f"the archive of run {run_id} is not what the log says"


def require_rows(context: Context, run_id: str, as_of: date, table: str) -> None:
    """Raise DataError where rows of a run have left the warehouse."""
    archive = archives(trusted_events(context.warehouse, context.job.portfolio)).get(run_id)
    if archive is not None and table in archive.left:
        raise DataError(
            f"the night was pruned: its rows of {table} have left the warehouse",
            portfolio=context.job.portfolio,
            on=as_of,
            remedy=f"read {folder_of(context, run_id, as_of) / file_of(table)}, or ask for a night that is kept",
        )


def require_unpruned(context: Context, run_id: str) -> None:
    """Raise DataError where a run that is to be published again has lost rows: it would be current without them."""
    archive = archives(trusted_events(context.warehouse, context.job.portfolio)).get(run_id)
    if archive is not None and archive.left:
        raise DataError(
            f"run {run_id} was published before and pruned since: its rows have left the warehouse",
            portfolio=context.job.portfolio,
            on=archive.as_of,
            remedy=f"put the rows of {folder_of(context, run_id, archive.as_of)} back, or publish from other inputs",
        )


def require_files(context: Context) -> None:
    """Raise DataError where the folder of the job's date has left the lake."""
    if context.folder.exists():
        return
    last = date.min
    for event in trusted_events(context.warehouse, context.job.portfolio):
        if event["kind"] in {PRUNED, PRUNED_FILES}:
            about = json.loads(event["payload"])
            last = max(last, date.fromisoformat(about.get("cut") or about["as_of"]))
    if context.job.as_of <= last:
        raise DataError(
            "the night was pruned: its files have left the lake",
            portfolio=context.job.portfolio,
            on=context.job.as_of,
            remedy="ask for a night that is kept, restore the lake's folder of that date from a backup, or publish the "
            "night again with --restate",
        )


def folders_differ(context: Context, *folders: Path) -> Iterator[str]:
    """Rewritten folders that are not those which their erasure left."""
    logged: dict[str, str] = {}
    for event in trusted_events(context.warehouse, context.job.portfolio):
        logged |= json.loads(event["payload"])["folders"] if event["kind"] == ERASED_FILES else {}
    for folder in folders:
        if lake.read_manifest(folder).get(lake.ERASED) and logged.get(_place(context, folder)) != _sum(folder):
            yield f"{_place(context, folder)} is not what its erasure left"


def _sum(folder: Path) -> str:
    return hashlib.sha256((folder / lake.MANIFEST).read_bytes()).hexdigest()


def _place(context: Context, path: Path) -> str:
    return path.relative_to(context.settings.data_dir).as_posix()
