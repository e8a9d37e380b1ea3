"""A small disk of one's own: a tmpfs over a folder, where this system lets a process mount one."""

from __future__ import annotations

import ctypes
import os
import shutil
import tempfile
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TypeVar

from metarisk import jobs, lake
from metarisk.domain import DataError
from metarisk.jobs import Context
from tests.end_to_end import dying
from tests.end_to_end.tiny import FIRST, Project

Result = TypeVar("Result")
_NEWNS, _NEWUSER = 0x00020000, 0x10000000
_PRIVATE = 0x4000 | 0x40000
"""MS_REC | MS_PRIVATE: what is mounted here is mounted for nobody else."""
_BALLAST = "ballast"


def mount(folder: Path) -> None:
    """Lay a small tmpfs over a folder, which keeps its files, for this process alone; it goes when the process ends.

    Root may do so, and whoever may make a user namespace. Raises OSError where neither goes.
    """
    user, group = os.getuid(), os.getgid()
    _system("unshare", _NEWNS if user == 0 else _NEWNS | _NEWUSER)
    if user != 0:
        for file, line in (("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1")):
            Path("/proc/self", file).write_text(line)
    _system("mount", b"none", b"/", None, _PRIVATE, None)
    with tempfile.TemporaryDirectory() as aside:
        shutil.copytree(folder, aside, dirs_exist_ok=True)
        _system("mount", b"tmpfs", os.fsencode(folder), b"tmpfs", 0, b"size=64m")
        shutil.copytree(aside, folder, dirs_exist_ok=True)


def fill(folder: Path, room: int) -> None:
    """Fill the disk of a folder but for some bytes."""
    free = os.statvfs(folder)
    with (folder / _BALLAST).open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, free.f_bavail * free.f_frsize - room)


def empty(folder: Path) -> None:
    """Free what `fill` took."""
    (folder / _BALLAST).unlink()


def half_written(data: Path) -> list[str]:
    """What of the lake is neither whole nor absent: folders whose manifest does not hold, and scratch of somebody."""
    left = list((data / "lake").rglob(".scratch-*"))
    for manifest in (data / "lake").rglob(lake.MANIFEST):
        try:
            lake.verify(manifest.parent)
        except DataError:
            left.append(manifest.parent)
    return [str(path.relative_to(data)) for path in left]


def night(project: Project, disk: Path, step: str, room: int, orders: Connection) -> None:
    """Run a night whose disk is full, but for `room` bytes, when a step begins; then free it and run the night again.

    Sends the error (an OSError: there is no small disk), what the night left in lake, warehouse and reports, and what
    warehouse and file for BI hold after the second run.
    """

    def filling(called: Callable[..., Result], context: Context, *inputs: object) -> Result:
        if called.__name__ == step:
            fill(disk, room)
        return jobs.direct(called, context, *inputs)

    try:
        mount(disk)
    except OSError as error:
        orders.send(error)
        return
    try:
        jobs.nightly(project.context(FIRST), filling)
    except Exception as error:
        orders.send(error)
    else:
        orders.send(None)
    empty(disk)
    pages = [page.name for page in (project.settings.data_dir / "reports").rglob(f"{FIRST}*.html")]
    orders.send((half_written(project.settings.data_dir), project.count("publication"), pages))
    project.nightly()
    orders.send((project.contents(), dying.current(project)))


def _system(call: str, *arguments: object) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, call)(*arguments):
        number = ctypes.get_errno()
        raise OSError(number, f"{call}: {os.strerror(number)}")
