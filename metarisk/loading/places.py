"""Which files are meant, and of which kind they are, by their names."""

import glob
from collections.abc import Sequence
from pathlib import Path

from metarisk.domain import ConfigError
from metarisk.loading.texts import PACKED

KINDS = {
    ".csv": "text", ".tsv": "text", ".tab": "text", ".psv": "text", ".txt": "text", ".dat": "text",
    ".parquet": "parquet", ".pq": "parquet", ".ndjson": "json", ".jsonl": "json", ".json": "json",
    ".xlsx": "excel", ".xlsm": "excel",
}  # fmt: skip


def files_of(places: Sequence[str]) -> tuple[list[Path], Path]:
    """The files that paths, folders and patterns name, in order, and the folder under which they lie.

    Raises ConfigError where there is none.
    """
    files: list[Path] = []
    root = Path(places[0])
    for place in places:
        path = Path(place)
        try:
            is_folder, is_file = path.is_dir(), path.is_file()
        except (OSError, ValueError):  # a name that is too long, or has a NUL
            raise ConfigError(f"{place[:80]!r} names no file", remedy="correct the path") from None
        if is_folder:
            inside = sorted(one for one in path.rglob("*") if one.is_file() and not _hidden(one.relative_to(path)))
            files += [one for one in inside if _suffix(one) in KINDS]
        elif is_file:
            files.append(path)
        else:
            # pathlib's own takes no absolute pattern.
            files += sorted(Path(one) for one in glob.glob(place, recursive=True) if Path(one).is_file())  # noqa: PTH207
    if not files:
        raise ConfigError(f"{places[0][:200]} names no file that can be loaded", remedy="correct the path")
    return list(dict.fromkeys(files)), root if root.is_dir() else Path(files[0].anchor)


def _hidden(path: Path) -> bool:
    """Whether a part of it is for programs, as `_SUCCESS` and `.crc` files are."""
    return any(part.startswith(("_", ".")) for part in path.parts)


def _suffix(path: Path) -> str:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in PACKED:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def kind_of(files: Sequence[Path]) -> str:
    """The one kind of the files: text, parquet, json or excel. Raises ConfigError for another, or several."""
    kinds = {file: KINDS.get(_suffix(file)) for file in files}
    for file, kind in kinds.items():
        if kind is None:
            raise ConfigError(
                f"{file.name} is of no kind that is known",
                remedy=f"use {', '.join(KINDS)}, of text also with {', '.join(PACKED)}",
            )
    found = list(dict.fromkeys(kinds.values()))
    if len(found) > 1:
        raise ConfigError(
            f"the files are of several kinds: {', '.join(map(str, found))}", remedy="load them one by one"
        )
    return str(found[0])
