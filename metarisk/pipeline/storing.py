"""The copy of the lake on object storage, where METARISK_LAKE names one."""

from __future__ import annotations

from metarisk import lake
from metarisk.pipeline.context import Context


def store_of(context: Context) -> lake.Store | None:
    """The copy of this lake; None where there is none."""
    uri = context.settings.lake
    return None if uri is None else lake.Store.open(uri.get_secret_value(), context.settings.data_dir / "lake")


def store(context: Context, name: str) -> int:
    """Copy what the lake has of the job's date, under a listing of this name; the number of files that were copied."""
    found = store_of(context)
    if found is None:
        return 0
    return found.keep(
        context.folder, name, lambda done, total, note: context.reporter.progress("store", done, total, note)
    )


def bring(context: Context) -> bool:
    """Put back what the lake lacks of the job's date; False where there was nothing to put back."""
    found = store_of(context)
    return found is not None and found.bring(context.folder) > 0
