"""Folders that are whole or absent: written beside, synced, renamed, and sealed by a manifest of SHA-256 sums."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from metarisk.domain import DataError

MANIFEST = "manifest.json"
SCRATCH = ".scratch-"
_BESIDE = ".rewritten"


@contextmanager
def scratch(parent: Path) -> Iterator[Path]:
    """A private folder inside `parent`, removed at the end of the block, however it ends.

    What a killed process left there is removed by the next one: the owner holds a lock on its folder, which the system
    frees when the owner dies.
    """
    parent.mkdir(parents=True, exist_ok=True)
    for leftover in parent.glob(f"{SCRATCH}*"):
        _remove_if_dead(leftover)
    folder, lock = _locked_folder(parent)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def settle(folder: Path, final: Path) -> None:
    """Sync `folder` to disk and rename it to `final` (same file system).

    A whole `final` stays and `folder` is dropped: the same work done twice is done once. A damaged one is replaced.
    """
    for path in (*folder.rglob("*"), folder):
        _sync(path)
    final.parent.mkdir(parents=True, exist_ok=True)
    if final.exists() and not _is_whole(final):
        with scratch(final.parent) as bin_:
            final.rename(bin_ / "damaged")
    try:
        folder.rename(final)
    except OSError:
        # Another process settled the same work first; anything else is a fault.
        if not _is_whole(final):
            raise
        shutil.rmtree(folder)
    _sync(final.parent)


@contextmanager
def staged(final: Path) -> Iterator[Path]:
    """A folder to fill that becomes `final` when the block ends well, and vanishes when it does not.

    The block has to call `write_manifest` last: a folder without a manifest is not whole.
    """
    with scratch(final.parent) as private:
        folder = private / final.name
        folder.mkdir()
        yield folder
        if not (folder / MANIFEST).is_file():
            raise ValueError(f"nothing called write_manifest for {final}")
        settle(folder, final)


@contextmanager
def rewritten(final: Path) -> Iterator[Path]:
    """A folder to fill, and to seal by `write_manifest`, that takes the place of the whole folder `final`.

    Killed between the two renames, `final` is missing and its successor stands whole beside it: `finish_rewriting`.
    """
    beside = final.with_name(final.name + _BESIDE)
    with staged(beside) as folder:
        yield folder
    _take_place(beside, final)


def finish_rewriting(root: Path) -> None:
    """Give every rewritten folder below `root` its place, which a killed process had not, and clear what that left."""
    for leftover in [*root.rglob(f"{SCRATCH}*")]:
        _remove_if_dead(leftover)
    for beside in sorted(root.rglob(f"*{_BESIDE}")):
        if _is_whole(beside):
            _take_place(beside, beside.with_name(beside.name.removesuffix(_BESIDE)))


def _take_place(beside: Path, final: Path) -> None:
    with scratch(final.parent) as bin_:
        if final.exists():
            final.rename(bin_ / final.name)
        beside.rename(final)
        _sync(final.parent)


def write_manifest(folder: Path, content: Mapping[str, Any]) -> str:
    """Seal a folder: write `content` and the SHA-256 of every file below `folder` to its manifest.

    Returns:
        SHA-256 of the manifest, which therefore names the whole content.
    """
    sums = {path.relative_to(folder).as_posix(): sha256(path) for path in _files(folder)}
    text = json.dumps({**content, "files": sums}, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    (folder / MANIFEST).write_text(text, encoding="utf-8")
    return hashlib.sha256(text.encode()).hexdigest()


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a folder. Raises DataError when there is none or it is not readable."""
    try:
        content = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        content["files"].items()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{folder} has no readable {MANIFEST} ({type(error).__name__})", remedy="delete the folder and run again"
        ) from error
    return dict(content)


def verify(folder: Path) -> dict[str, Any]:
    """Hash every file of a folder again. Returns the manifest; raises DataError naming the first file that differs."""
    manifest = read_manifest(folder)
    for name, expected in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            raise DataError(f"{path} is missing", remedy="delete the folder and run again")
        if (found := sha256(path)) != expected:
            raise DataError(
                f"{path} is damaged: SHA-256 {found[:12]} is not {expected[:12]} of its manifest",
                remedy="check the disk, delete the folder and run again",
            )
    return manifest


def _is_whole(folder: Path) -> bool:
    try:
        verify(folder)
    except DataError:
        return False
    return True


def _files(folder: Path) -> list[Path]:
    return [path for path in whole_files(folder) if path.name != MANIFEST]


def whole_files(folder: Path) -> list[Path]:
    """Files below a folder, but those that somebody is writing; what vanishes meanwhile is nothing to stumble over."""
    found: list[Path] = []
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(SCRATCH)]
        found += (Path(place) / name for name in names)
    return sorted(found)


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _locked_folder(parent: Path) -> tuple[Path, int]:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=SCRATCH, dir=parent))
        lock = _try_lock(folder)
        # Between making and locking it, another process may have taken it for a leftover.
        if lock is not None and folder.exists():
            return folder, lock
        if lock is not None:
            os.close(lock)


def _try_lock(folder: Path) -> int | None:
    try:
        handle = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    return handle


def _remove_if_dead(folder: Path) -> None:
    handle = _try_lock(folder)
    if handle is not None:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(handle)
