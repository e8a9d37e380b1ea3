"""Folders of lake, registry and archive, and their copy on object storage, where METARISK_LAKE names one."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from metarisk import lake, registry
from metarisk.domain import DataError, ModelError
from metarisk.job.context import Context
from metarisk.record.models import model

Result = TypeVar("Result")


def store_of(context: Context) -> lake.Store | None:
    """The copy of this data folder; None where there is none."""
    uri = context.settings.lake
    return None if uri is None else lake.Store.open(uri.get_secret_value(), context.settings.data_dir)


def store(context: Context, copy: lake.Store, name: str, model_id: str) -> None:
    """Copy what the lake has of the job's date, under a listing of this name, and a model."""
    keep_model(context, copy, model_id)
    copy.keep(context.folder, name, lambda done, total, note: context.reporter.progress("store", done, total, note))


def keep_model(context: Context, copy: lake.Store, model_id: str) -> None:
    """Copy a model. Raises ModelError where it is not whole."""
    from_registry(context, model_id, registry.load)
    copy.keep(registry_root(context) / context.job.portfolio / model_id, model_id, lambda *_: None)


def kept_folders(context: Context, tree: str) -> list[Path]:
    """Folders that the portfolio has in `lake` or `archive` (dates) or `registry` (models), here or in the copy."""
    root, copy = context.settings.data_dir / tree / context.job.portfolio, store_of(context)
    names = {path.name for path in root.glob("[!.]*")} | {*(copy.names(root) if copy is not None else ())}
    return [root / name for name in sorted(names)]


def reopened(context: Context, folder: Path, read: Callable[[], Result]) -> Result:
    """What `read` gives of a folder; where that is not whole, once more with what the copy has put back.

    Raises:
        DataError: also where the copy does not answer, or is damaged itself.
        ModelError: as `read` does.
    """
    try:
        return read()
    except (DataError, ModelError):
        copy = store_of(context)
        if copy is None or not copy.bring(folder):
            raise
    return read()


def registry_root(context: Context) -> Path:
    """Folder of the registry."""
    return context.settings.data_dir / "registry"


def from_registry(context: Context, model_id: str, read: Callable[[Path, str, str], Result]) -> Result:
    """What a reader of the registry, such as `registry.load`, gives of a model of the job's portfolio.

    Raises:
        ModelError: neither the registry nor its copy has it whole; where it is gone, as after `metarisk prune`, with
            the week that makes it again.
    """
    root, portfolio = registry_root(context), context.job.portfolio
    try:
        return reopened(context, root / portfolio / model_id, lambda: read(root, portfolio, model_id))
    except DataError as error:
        raise ModelError(
            f"model {model_id} is not whole in the registry, nor in its copy: {error.what}",
            portfolio=portfolio,
            remedy=error.remedy,
        ) from error
    except ModelError as error:
        row = model(context.warehouse, model_id)
        if row is None or (root / portfolio / model_id).exists():
            raise
        week = f"metarisk weekly --portfolio {portfolio} --as-of {row['as_of']}"
        raise ModelError(
            f"the files of model {model_id} are gone from the registry: pruned, or lost",
            portfolio=portfolio,
            remedy=f"run `{week}`, which makes it again from the same data, or restore them from a backup",
        ) from error
