"""The lock of the embedded warehouse: a file held by flock, freed by the kernel when its holder dies.

PostgreSQL has advisory locks instead; this file serves DuckDB alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from metarisk.domain import LockedError

POLL_SECONDS = 0.1
"""Between tries: a run lasts seconds at least."""


def lock_path(folder: Path, name: str) -> Path:
    """A file name of its own for every lock name, readable where the name allows it."""
    readable = re.sub(r"[^A-Za-z0-9_.-]", "_", name)[:40]
    return folder / f"{readable}-{hashlib.sha256(name.encode()).hexdigest()[:10]}.lock"


@contextmanager
def file_lock(folder: Path, name: str, *, wait_seconds: float = 0.0) -> Iterator[None]:
    """Hold the lock `name`; LockedError names pid, host and since of who holds it after `wait_seconds`."""
    folder.mkdir(parents=True, exist_ok=True)
    path = lock_path(folder, name)
    # Beside the lock: whoever tries to take it empties its file.
    note = path.with_suffix(".holder")
    try:
        lock = FileLock(path).acquire(timeout=wait_seconds, poll_interval=POLL_SECONDS)
    except Timeout:
        raise LockedError(
            f"the lock {name!r} is held by {_holder(note)}",
            remedy="wait until that run has ended, or end it: the lock is freed with its process",
        ) from None
    with lock:
        since = datetime.now(UTC).isoformat(timespec="seconds")
        with suppress(OSError):  # a full disk: the lock holds without a name too
            note.write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": since}))
        try:
            yield
        finally:
            note.unlink(missing_ok=True)


def _holder(note: Path) -> str:
    try:
        holder = json.loads(note.read_text())
        return f"pid {holder['pid']} on {holder['host']} since {holder['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "a process that has only just taken it"
