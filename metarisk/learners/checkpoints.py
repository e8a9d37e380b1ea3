"""Files of arrays that a killed training continues from: whole or the one before, and of the same work."""

from __future__ import annotations

import glob
import io
import os
import zipfile
from pathlib import Path

import numpy as np

from metarisk.domain import Array, Arrays, ModelError


def write(file: Path, identity: str, arrays: Arrays) -> None:
    """Write beside and rename; what killed writes of the same file left beside it goes."""
    buffer = io.BytesIO()
    np.savez(buffer, identity=np.array(identity), **arrays)  # type: ignore[arg-type]
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_name(f"{file.name}.{os.getpid()}.tmp")
    with beside.open("wb") as target:
        target.write(buffer.getvalue())
        target.flush()
        os.fsync(target.fileno())
    beside.replace(file)
    folder = os.open(file.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    for left in file.parent.glob(f"{glob.escape(file.name)}.[0-9]*.tmp"):
        left.unlink(missing_ok=True)


def read(file: Path, identity: str) -> dict[str, Array]:
    """The arrays, by name. Raises ModelError for a file that is torn, or of another identity."""
    remedy = f"remove {file.name} to train from the start"
    try:
        with np.load(io.BytesIO(file.read_bytes()), allow_pickle=False) as saved:
            contents = {name: saved[name] for name in saved.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ModelError(f"checkpoint {file.name} cannot be read: {error}", remedy=remedy) from error
    if str(contents.get("identity")) != identity:
        raise ModelError(
            f"checkpoint {file.name} belongs to other data, another seed or another configuration", remedy=remedy
        )
    return contents
