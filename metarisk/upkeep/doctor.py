"""What a healthy installation has, each fault with its remedy; nothing is changed, but that who died is recorded."""

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory

from metarisk import lake, registry
from metarisk.domain import DataError, Finding, Job, MetariskError, ModelError, Warehouse
from metarisk.job.champion import champion_for
from metarisk.job.context import Context, Quiet
from metarisk.job.further import further_tables
from metarisk.job.run import run_folder
from metarisk.job.storage import from_registry, registry_root
from metarisk.lake import Store
from metarisk.portfolios import extract_sql, list_portfolios, load_portfolio, scores_suite_path, suite_path
from metarisk.record.portfolios import exists, newest_migration
from metarisk.record.publications import nights
from metarisk.risks import RISKS
from metarisk.settings import Settings
from metarisk.steps.derive import DERIVED
from metarisk.upkeep.status import standings
from metarisk.warehouse import open_warehouse

NIGHTS_OF_ROOM = 3
"""The disk holds the lake's largest of the last nights this often, or the next ones may not fit."""
LEAST_ROOM_MB = 1_024  # spill, logs and pages beside the lake
BROKEN: Mapping[str, tuple[tuple[int, ...], tuple[int, ...], str]] = {
    "sqlalchemy": ((2, 1), (3,), "Prefect's scheduler raises and no cron run is ever scheduled"),
    "fastapi": ((0, 151), (1,), "the Prefect server does not start"),
    "pytest": ((9, 2), (10,), "test groups are lost and every worker starts servers of its own"),
}
"""Package to its first and past-the-last broken version, and what breaks."""


def examine(settings: Settings, today: date) -> list[Finding]:
    """Warehouse, migrations, data folder, its disk, copy of the lake, versions; portfolios, champions, last nights."""
    found = [_data_folder(settings), _room(settings), *_copy(settings), *_versions()]
    warehouse = _warehouse(settings)
    found.append(warehouse)
    for name in list_portfolios(settings.project):
        found.append(_files(settings, name))
        if warehouse.fine and found[-1].fine:
            found += _champion(settings, name, today)
            found += _newest_night(settings, name, today)
    return [*found, *_standings(settings)] if warehouse.fine else found


def _standings(settings: Settings) -> Iterator[Finding]:
    """Whether nights are owed or stale, attempts failed or died, and models are too old."""
    try:
        if not exists(_asked(settings), "portfolio_status"):
            yield Finding("status", "is judged once the migrations are applied: `metarisk status` applies them")
            return
        for one in standings(settings):
            yield Finding(
                f"status of {one.portfolio}", f"{one.reason}; {one.line}" if one.reason else one.line, one.remedy
            )
    except MetariskError as error:
        yield Finding("status", error.what, error.remedy)


def _asked(settings: Settings) -> Warehouse:
    url = settings.warehouse.get_secret_value()
    return open_warehouse(url, settings.data_dir, threads=1, memory_mb=settings.memory_mb)


def _warehouse(settings: Settings) -> Finding:
    subject = f"warehouse {settings.warehouse.get_secret_value().split(':')[0]}"
    try:
        warehouse = _asked(settings)
        if not exists(warehouse, "schema_migration"):
            return Finding(subject, "answers, and has no schema metarisk yet", "run `metarisk weekly`, which makes it")
        applied = newest_migration(warehouse)
    except MetariskError as error:
        return Finding(subject, error.what, error.remedy)
    files = [
        path for path in settings.migrations.glob("*.sql") if path.name.split(".")[1] in ("sql", warehouse.dialect)
    ]
    newest = max((int(path.name[:3]) for path in files), default=0)
    if applied > newest:
        return Finding(subject, f"has migration {applied}, the code {newest}", "run the version that made it")
    pending = f", {newest - applied} migrations will be applied by the next run" if applied < newest else ""
    return Finding(subject, f"answers, migration {applied} of {newest}{pending}")


def _data_folder(settings: Settings) -> Finding:
    folder = settings.data_dir
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if not os.access(existing, os.W_OK):
        return Finding("data folder", f"{folder} cannot be written", "give the job's user the folder, or METARISK_DATA")
    return Finding("data folder", f"{folder} can be written")


def _room(settings: Settings) -> Finding:
    folder = settings.data_dir
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    nights = [night for portfolio in (folder / "lake").glob("*") for night in sorted(portfolio.glob("*-*-*"))[-3:]]
    wanted = max([NIGHTS_OF_ROOM * _size(night) for night in nights], default=0) + LEAST_ROOM_MB * 2**20
    said = f"{free / 2**30:.1f} GiB free, {wanted / 2**30:.1f} GiB are wanted for the next {NIGHTS_OF_ROOM} nights"
    return Finding("disk", said, "" if free >= wanted else "free space, or run `metarisk prune --keep 90d`")


def _copy(settings: Settings) -> Iterator[Finding]:
    """Whether the object storage of METARISK_LAKE answers."""
    if settings.lake is None:
        return
    root = settings.data_dir
    try:
        copy = Store.open(settings.lake.get_secret_value(), root)
        nights = sum(len(copy.names(root / "lake" / name)) for name in list_portfolios(settings.project))
    except MetariskError as error:
        yield Finding("copy of the lake", error.what, error.remedy)
        return
    yield Finding("copy of the lake", f"answers, holds {nights} dates")


def _size(folder: Path) -> int:
    size = 0
    for path in lake.whole_files(folder):
        with suppress(FileNotFoundError):  # a run goes on
            size += path.stat().st_size
    return size


def _versions() -> Iterator[Finding]:
    for package, (first, last, what) in BROKEN.items():
        try:
            installed = version(package)
        except PackageNotFoundError:
            continue
        numbers = tuple(int(part) for part in installed.split(".")[:2] if part.isdigit())
        broken = first <= numbers < last
        remedy = f"install a version before {'.'.join(map(str, first))}: constraints.txt has a set that runs"
        yield Finding(f"{package} {installed}", what if broken else "is not among the broken ones", remedy * broken)


def _files(settings: Settings, name: str) -> Finding:
    """Whether a portfolio's TOML, SQL and suites can be read."""
    subject = f"portfolio {name}"
    try:
        portfolio = load_portfolio(settings.project, name, risks=RISKS)
        extract_sql(settings.project, portfolio)
        suite_path(settings.project, portfolio)
        scores_suite_path(settings.project, portfolio)
    except MetariskError as error:
        return Finding(subject, error.what, error.remedy)
    return Finding(subject, "TOML, SQL and suites can be read")


def _require_whole(context: Context, model_id: str) -> None:
    """ModelError where neither the registry nor its copy, which is looked at aside, has the model whole."""
    try:
        registry.load(registry_root(context), context.job.portfolio, model_id)
    except ModelError:
        if context.settings.lake is None:
            raise
        with TemporaryDirectory() as aside:
            settings = context.settings.model_copy(update={"data": Path(aside)})
            from_registry(replace(context, settings=settings), model_id, registry.load)


def _champion(settings: Settings, name: str, today: date) -> Iterator[Finding]:
    """Whether the portfolio's model is there and whole."""
    context = Context(Job(name, today), settings, Quiet())
    subject = f"champion of {name}"
    try:
        champion = champion_for(context)
        if champion is None:
            if context.portfolio.scheduled:
                yield Finding(subject, "there is none", f"run `metarisk weekly --portfolio {name} --as-of DATE`")
            return
        _require_whole(context, champion.model_id)
    except MetariskError as error:
        yield Finding(subject, error.what, error.remedy)
        return
    yield Finding(subject, f"{champion.model_id} ({champion.recipe}) of {champion.as_of} is whole")


def _newest_night(settings: Settings, name: str, today: date) -> Iterator[Finding]:
    """Whether the files of the portfolio's newest published night are whole in the lake of this machine."""
    context = Context(Job(name, today), settings, Quiet())
    night = next(iter(nights(context.warehouse, name)), None)
    if night is None:
        return
    context = replace(context, job=Job(name, night["as_of"]))
    run = run_folder(context, night["run_id"])
    extract = context.folder / night["extract_hash"] / "extract"
    steps = {"adapt", "score", "drift"} | ({DERIVED} if context.spec.derive else set())
    steps |= {folder.parent.name for folder in run.glob(f"*/{lake.MANIFEST}")}
    subject = f"newest night of {name}"
    try:
        for folder in (extract, *(run / step for step in sorted(steps))):
            lake.verify(folder)
        further_tables(context, run)
    except DataError as error:
        again = f"`metarisk nightly --portfolio {name} --as-of {context.job.as_of} --restate WHY`"
        from_copy = "`metarisk replay` brings it from the copy of METARISK_LAKE, or " if settings.lake else ""
        yield Finding(
            subject, error.what, f"check the disk; {from_copy}restore {context.folder}, or publish it by {again}"
        )
        return
    yield Finding(subject, f"{context.job.as_of}: extract, {', '.join(sorted(steps))} are whole in the lake")
