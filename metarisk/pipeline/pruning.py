"""Old nights leave warehouse, lake, registry and their copy; what a kept night is read or replayed from stays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from metarisk import lake
from metarisk.domain import ConfigError, Scalar
from metarisk.pipeline.audit import append_event
from metarisk.pipeline.context import Context
from metarisk.pipeline.outcomes import month_ends
from metarisk.pipeline.promotion import models
from metarisk.pipeline.storing import kept_folders, store_of

SERVED = 2
"""Champions that stay whatever their age: the newest, and the one to roll back to."""
ARCHIVED = "scores.parquet"
_OLD = """
SELECT r.run_id, r.as_of, r.rows_scored FROM metarisk.run r
WHERE r.portfolio = $portfolio AND r.as_of <= $cut
AND r.run_id NOT IN (
    SELECT c.run_id FROM metarisk.publication_current c
    WHERE c.portfolio = $portfolio AND c.as_of IN (
        SELECT max(as_of) FROM metarisk.publication_current WHERE portfolio = $portfolio
        GROUP BY date_trunc('month', as_of)
    )
)
AND EXISTS (SELECT 1 FROM metarisk.risk_score s WHERE s.run_id = r.run_id AND s.as_of = r.as_of)
ORDER BY r.as_of, r.run_id
"""
_SCORES = "SELECT * FROM metarisk.risk_score WHERE as_of = $as_of AND run_id = $run_id"
_USED = "SELECT DISTINCT model_id FROM metarisk.run WHERE portfolio = $portfolio AND as_of > $cut"
_NEWEST = "SELECT max(as_of) AS night FROM metarisk.publication WHERE portfolio = $portfolio"


@dataclass(frozen=True)
class Pruned:
    """What went, or would go: of one portfolio, nights on or before `cut`."""

    portfolio: str
    cut: date | None
    """None where there is no night yet."""
    runs: tuple[str, ...] = ()
    """Their score rows are Parquet in the archive now. Month ends stay, for back-tests need them, and so does what a
    risk type derives of the scores of earlier nights."""
    rows: int = 0
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
        newest = context.warehouse.rows(_NEWEST, {"portfolio": portfolio})[0]["night"]
        if newest is None:
            return Pruned(portfolio, None)
        cut = newest - timedelta(days=keep_days)
        about: dict[str, Scalar] = {"portfolio": portfolio, "cut": cut}
        proofs = {row["run_id"] for row in month_ends(context, date.min, newest)}
        scored = context.warehouse.rows(_OLD, about | {"cut": cut - _read_back(context)})
        old = [row for row in scored if row["run_id"] not in proofs]
        nights = _nights(context, cut)
        unused = _unused(context, cut, {row["model_id"] for row in context.warehouse.rows(_USED, about)})
        folders = [*nights.values(), *unused.values()]
        found = Pruned(
            portfolio,
            cut,
            tuple(row["run_id"] for row in old),
            sum(row["rows_scored"] for row in old),
            tuple(nights),
            tuple(unused),
            sum(path.stat().st_size for folder in folders for path in folder.rglob("*") if path.is_file()),
        )
        if dry_run:
            return found
        for number, row in enumerate(old):
            context.reporter.progress("prune", number, len(old), str(row["as_of"]))
            _archive(context, row)
        if (store := store_of(context)) is not None:
            for folder in folders:
                store.drop(folder)
        _remove([folder for folder in folders if folder.exists()])
    context.warehouse.snapshot()
    return found


def _read_back(context: Context) -> timedelta:
    """How long before a kept night the scores lie that its derived targets are made from, now and in a replay."""
    if context.spec.derive is None:
        return timedelta(0)
    return context.portfolio.target.matures_in + context.spec.look_back


def archive(context: Context, run: str, as_of: date) -> Path:
    """Folder of a run's score rows once they have left the warehouse."""
    return context.settings.data_dir / "archive" / context.job.portfolio / str(as_of) / run


def _archive(context: Context, run: dict[str, Any]) -> None:
    """Move the score rows of one run to a Parquet file of its own."""
    keys: dict[str, Scalar] = {"run_id": run["run_id"], "as_of": run["as_of"]}
    folder = archive(context, run["run_id"], run["as_of"])
    with lake.staged(folder) as into:
        with (
            context.warehouse.stream(_SCORES, keys) as reader,
            pq.ParquetWriter(into / ARCHIVED, reader.schema) as file,
        ):
            for batch in reader:
                file.write_batch(batch)
        lake.write_manifest(into, {"run_id": run["run_id"]})
    told = lake.verify(folder)
    if (copy := store_of(context)) is not None:
        copy.keep(folder.parent, run["run_id"], lambda *_: None)
    with context.warehouse.transaction() as transaction:
        transaction.execute("DELETE FROM metarisk.risk_score WHERE as_of = $as_of AND run_id = $run_id", keys)
        append_event(context, transaction, "pruned", keys | {"files": told["files"]})


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
