"""Models as files: immutable, content-addressed, hash-checked at every load.

Who is champion stands in the warehouse, not here.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from metarisk.domain import ModelError
from metarisk.folders import MANIFEST, scratch, settle


def save(root: Path, portfolio: str, files: Mapping[str, bytes], about: Mapping[str, object]) -> tuple[str, Path]:
    """Write a model and return its id and folder; the same content is the same id, and is written once.

    The folder is written beside its place and renamed, so a torn model never looks whole; a damaged one is replaced.
    """
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in sorted(files.items())}
    told = {"portfolio": portfolio, "about": dict(about), "files": hashes}
    text = json.dumps(told, indent=1, sort_keys=True).encode()
    model_id = hashlib.sha256(text).hexdigest()[:16]
    final = root / portfolio / model_id
    if _whole(root, portfolio, model_id):
        return model_id, final
    shutil.rmtree(final, ignore_errors=True)
    with scratch(final.parent) as private:
        folder = private / model_id
        folder.mkdir()
        for name, content in {**files, MANIFEST: text}.items():
            (folder / name).write_bytes(content)
        settle(folder, final)
    return model_id, final


def load(root: Path, portfolio: str, model_id: str) -> dict[str, bytes]:
    """File contents of a model by name.

    Raises:
        ModelError: when the model is missing, or a file is not the one that was registered.
    """
    hashes = manifest(root, portfolio, model_id)["files"]
    files = {name: _read(root, portfolio, model_id, name) for name in hashes}
    changed = [name for name, content in files.items() if hashlib.sha256(content).hexdigest() != hashes[name]]
    if changed:
        raise _refused(portfolio, model_id, f"is not as it was registered: {', '.join(changed)} changed")
    return files


def manifest(root: Path, portfolio: str, model_id: str) -> dict[str, Any]:
    """What a model's manifest says: `about` it, and the hashes of its `files`; raises what `load` does."""
    content = _read(root, portfolio, model_id, MANIFEST)
    # Before it is believed: it names the files that are read next.
    if hashlib.sha256(content).hexdigest()[:16] != model_id:
        raise _refused(portfolio, model_id, f"is not as it was registered: {MANIFEST} changed")
    found: dict[str, Any] = json.loads(content)
    return found


def _whole(root: Path, portfolio: str, model_id: str) -> bool:
    try:
        load(root, portfolio, model_id)
    except ModelError:
        return False
    return True


def _read(root: Path, portfolio: str, model_id: str, name: str) -> bytes:
    try:
        return (root / portfolio / model_id / name).read_bytes()
    except OSError as error:
        raise _refused(portfolio, model_id, f"cannot be read from the registry: {error}") from error


def _refused(portfolio: str, model_id: str, what: str) -> ModelError:
    remedy = "restore the registry folder from its backup, or run the weekly again"
    return ModelError(f"model {model_id} {what}", portfolio=portfolio, remedy=remedy)
