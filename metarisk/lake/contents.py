"""What two folders hold, compared by contents: files and columns may have had other names, and parts other cuts."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
from safetensors.numpy import load_file

from metarisk.folders import read_manifest, sha256

_PART = re.compile(r"-?\d+$")
Contents = Mapping[str, pl.Series]
"""Values by name: of a column, of a leaf of JSON, of a tensor."""


@dataclass
class Compared:
    """What a folder made again has that the one of then had not, and the reverse."""

    differences: list[str] = field(default_factory=list)
    """Contents that are others, or that nothing is left to compare with, in words."""
    layout: list[str] = field(default_factory=list)
    """The same contents under another name, and names that only one of the two has."""
    added: set[str] = field(default_factory=set)
    """Columns that then had not."""


def compare(then: Path, now: Path, sums: Mapping[str, str]) -> Compared:
    """Compare a folder made again with what is left of the one of then.

    Args:
        then: the folder of then; it is read only where a file's sum or name is another now.
        now: the sealed folder made again, of the same name.
        sums: SHA-256 by name that the files of then had.
    """
    found, made = Compared(), read_manifest(now)["files"]
    before = {name: digest for name, digest in sums.items() if made.get(name) != digest}
    after = {name: digest for name, digest in made.items() if sums.get(name) != digest}
    for name, digest in sorted(before.items()):
        same = next((other for other in sorted(after) if after[other] == digest), None)
        if same is not None:
            found.layout.append(f"{now.name}/{name} is named {same}")
            del before[name], after[same]
    for name in [name for name in sorted(before) if not _is(then / name, sums[name])]:
        found.differences.append(f"{now.name}/{name} is another file than that of then, which the lake no longer has")
        after.pop(name, None)
        del before[name]
    old, new = _grouped(before), _grouped(after)
    for key in [key for key in old if key not in new]:
        # A table of another name: the only one of its kind that is left on either side.
        kin = [
            [other for other in side if other[1] == key[1]]
            for side in (old.keys() - new.keys(), new.keys() - old.keys())
        ]
        if [len(names) for names in kin] == [1, 1]:
            old[kin[1][0]] = old.pop(key)
    for key in sorted({*old, *new}):
        _compare(found, then, now, old.get(key, []), new.get(key, []))
    return found


def _compare(found: Compared, then: Path, now: Path, before: Sequence[str], after: Sequence[str]) -> None:
    """What the files of a table were and what they are now."""
    named = f"{now.name}/{', '.join(after or before)}"
    if not after:
        found.differences.append(f"{named} of then is not made any more")
        return
    if not before:
        found.layout.append(f"{named} is new")
        return
    if before != after:
        found.layout.append(f"{now.name}/{', '.join(before)} is named {', '.join(after)}")
    old, new = _contents(then, before), _contents(now, after)
    found.added |= new.keys() - old.keys()
    found.layout += [f"{named} has {name}, which then had not" for name in sorted(new.keys() - old.keys())]
    found.layout += [f"{named} has no {name}, which then had" for name in sorted(old.keys() - new.keys())]
    if old.keys() == new.keys() and before == after:
        found.layout.append(f"{named} has other bytes")
    if not old.keys() & new.keys():
        found.differences.append(f"{named} has nothing in common with that of then")
    found.differences += [f"{named}: {what}" for what in _differ(old, new)]


def _differ(old: Contents, new: Contents) -> Iterator[str]:
    """What both have and is another now; the order of rows counts for nothing."""
    shared = [name for name in new if name in old]
    apart = [name for name in shared if not _equal(old[name], new[name])]
    if not apart:
        return
    if len({*map(len, (*old.values(), *new.values()))}) == 1:
        frames = [pl.DataFrame([of[name] for name in shared]).sort(shared) for of in (old, new)]
        if all(_equal(*(frame[name] for frame in frames)) for name in shared):
            return
    for name in apart:
        one, other = old[name], new[name]
        if len(one) != len(other):
            yield f"{name} has {len(other)} values and had {len(one)}"
        else:
            yield f"{name} is another"


def _equal(one: pl.Series, other: pl.Series) -> bool:
    """Whether values are the same; a type may be a wider one of its kind now."""
    if one.dtype != other.dtype and one.dtype.is_numeric() and other.dtype.is_numeric():
        one, other = one.cast(pl.Float64), other.cast(pl.Float64)
    return one.dtype == other.dtype and one.equals(other)


def _is(path: Path, digest: str) -> bool:
    return path.is_file() and sha256(path) == digest


def _grouped(names: Mapping[str, str]) -> dict[tuple[str, str], list[str]]:
    """Names by table and kind of file; the parts of a table are numbered."""
    found: dict[tuple[str, str], list[str]] = {}
    for name in sorted(names):
        stem, dot, kind = name.rpartition(".")
        found.setdefault((_PART.sub("", stem), dot + kind), []).append(name)
    return found


def _contents(folder: Path, names: Sequence[str]) -> Contents:
    """Everything that the files of one table hold."""
    paths = [folder / name for name in names]
    match paths[0].suffix:
        case ".parquet":
            return pl.concat(map(pl.read_parquet, paths), how="diagonal_relaxed").to_dict()
        case ".safetensors":
            arrays = {name: array for path in paths for name, array in load_file(path).items()}
            return {name: pl.Series(name, array.ravel()) for name, array in arrays.items()}
        case ".json":
            leaves = {name: leaf for path in paths for name, leaf in _leaves(json.loads(path.read_text("utf-8")), "")}
            return {name: pl.Series(name, [json.dumps(leaf)]) for name, leaf in leaves.items()}
    return {"its bytes": pl.Series("its bytes", [path.read_bytes() for path in paths])}


def _leaves(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Values of JSON by the path to each."""
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield from _leaves(child, f"{name}.{key}" if name else str(key))
    if not isinstance(value, dict | list) or not value:
        yield name, value
