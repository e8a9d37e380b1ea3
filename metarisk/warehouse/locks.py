"""The lock of the embedded warehouse: a file held by flock, freed by the kernel when its holder dies.

PostgreSQL has advisory locks instead; this file serves DuckDB alone.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import random
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from metarisk.domain import LockedError


def backoff(first: float = 0.01, longest: float = 0.5) -> Iterator[float]:
    """Seconds to wait before each next try: doubling, with jitter so that waiters do not march in step."""
    pause = first
    while True:
        yield pause * random.uniform(0.5, 1.0)  # noqa: S311 - jitter needs no secrecy
        pause = min(longest, 2 * pause)


def lock_path(folder: Path, name: str) -> Path:
    """A file name of its own for every lock name, readable where the name allows it."""
    readable = re.sub(r"[^A-Za-z0-9_.-]", "_", name)[:40]
    return folder / f"{readable}-{hashlib.sha256(name.encode()).hexdigest()[:10]}.lock"


@contextmanager
def file_lock(folder: Path, name: str, *, wait_seconds: float = 0.0) -> Iterator[None]:
    """Hold the lock `name`; LockedError names pid, host and since of who holds it after `wait_seconds`."""
    folder.mkdir(parents=True, exist_ok=True)
    path, deadline, pauses = lock_path(folder, name), time.monotonic() + wait_seconds, backoff()
    with path.open("a+", encoding="utf-8") as file:
        while not _try(file):
            if time.monotonic() >= deadline:
                raise LockedError(
                    f"the lock {name!r} is held by {_holder(file)}",
                    remedy="wait until that run has ended, or end it: the lock is freed with its process",
                )
            time.sleep(min(next(pauses), max(0.0, deadline - time.monotonic())))
        try:
            _sign(file)
            yield
        finally:
            file.truncate(0)
            fcntl.flock(file, fcntl.LOCK_UN)


def _try(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _sign(file: IO[str]) -> None:
    file.truncate(0)
    since = datetime.now(UTC).isoformat(timespec="seconds")
    holder = json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": since})
    with suppress(OSError):  # a full disk: the lock holds without a name too
        os.write(file.fileno(), holder.encode())


def _holder(file: IO[str]) -> str:
    file.seek(0)
    try:
        holder = json.loads(file.read())
        return f"pid {holder['pid']} on {holder['host']} since {holder['since']}"
    except (ValueError, KeyError, TypeError):
        return "a process that has only just taken it"
