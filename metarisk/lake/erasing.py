"""One entity taken out of files: its rows out of Parquet, and its name out of texts.

A whole folder is rewritten beside and takes the old one's place, under a manifest that names the erasure.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from metarisk.folders import MANIFEST, rewritten, verify, write_manifest

ERASED = "erased"
"""In the manifest of a rewritten folder: one line an erasure, without the name."""
_PROSE = ("item", "note", "detail", "reason")
"""Columns of Parquet files in which a name stands among other words."""
_SHORTEST = 4
"""Characters from which a name is looked for among other words."""
_BATCH_ROWS = 65_536


@dataclass(frozen=True)
class Erasure:
    """Who is erased, what stands in its place, and by whose word."""

    entity: str
    pseudonym: str
    at: str
    """ISO time."""
    by: str
    reason: str

    def clean(self, text: str) -> str:
        """The text with the pseudonym wherever the name stands as a word of its own."""
        return re.sub(self._word, self.pseudonym, text)

    def names(self, text: str | bytes) -> bool:
        """Whether the name stands in the text as a word of its own."""
        if isinstance(text, bytes):
            return self.entity.encode() in text and self.names(text.decode("utf-8", "replace"))
        return self.entity in text and re.search(self._word, text) is not None

    @property
    def _word(self) -> str:
        # A short name would be found in every count: it is looked for as a whole value alone.
        before, after = (r"(?<![\w-])", r"(?![\w-])") if len(self.entity) >= _SHORTEST else (r"\A", r"\Z")
        return before + re.escape(self.entity) + after


def sealed(root: Path) -> list[Path]:
    """Folders below `root` that have a manifest."""
    return sorted(path.parent for path in root.rglob(MANIFEST))


def erase(folder: Path, erasure: Erasure, keys: Sequence[str], *, keep: bool = False) -> int:
    """Rewrite a whole folder without an entity's rows; the number of them, 0 where it holds none and stays as it is.

    Args:
        keys: columns that hold the entity, of which a file has some.
        keep: leave the rows where they are, under the pseudonym.

    Raises:
        DataError: the folder is damaged.
    """
    manifest = verify(folder)
    held = {name: _held(folder / name, erasure, keys) for name in manifest["files"] if name.endswith(".parquet")}
    if not (gone := sum(held.values())):
        return 0
    dropped = 0
    with rewritten(folder) as into:
        for name in manifest["files"]:
            (into / name).parent.mkdir(parents=True, exist_ok=True)
            if held.get(name):
                dropped += _copy(folder / name, into / name, erasure, keys, keep)
            else:
                shutil.copyfile(folder / name, into / name)
        content = {name: value for name, value in manifest.items() if name != "files"}
        if "rows" in content:
            content["rows"] -= dropped
        line = {"pseudonym": erasure.pseudonym, "rows": gone, "at": erasure.at, "by": erasure.by}
        content[ERASED] = [*content.get(ERASED, []), line | {"reason": erasure.reason}]
        write_manifest(into, content)
    return gone


def erase_loose(folder: Path, erasure: Erasure, keys: Sequence[str]) -> int:
    """Rewrite the Parquet files of a folder that has no manifest (quarantined rows) without an entity's rows."""
    gone = 0
    for path in sorted(folder.rglob("*.parquet")):
        if rows := _held(path, erasure, keys):
            beside = path.with_suffix(".tmp")
            _copy(path, beside, erasure, keys, keep=False)
            beside.replace(path)
            gone += rows
    return gone


def left(root: Path, erasure: Erasure) -> Iterator[tuple[Path, str]]:
    """Files below `root` in which the name still stands, and in which column."""
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        if path.suffix != ".parquet":
            if erasure.names(path.read_bytes()):
                yield path, ""
            continue
        for column in _texts(pq.read_schema(path)):
            said = (
                pl.scan_parquet(path).select(column).filter(pl.col(column).str.contains(erasure.entity, literal=True))
            )
            if any(map(erasure.names, said.unique().collect()[column])):
                yield path, column


def _texts(schema: pa.Schema) -> list[str]:
    return [field.name for field in schema if pa.types.is_string(field.type) or pa.types.is_large_string(field.type)]


def _held(path: Path, erasure: Erasure, keys: Sequence[str]) -> int:
    """Rows of an entity, or that name it."""
    texts = _texts(pq.read_schema(path))
    whose = [pl.col(name) == erasure.entity for name in keys if name in texts]
    told = [pl.col(name).str.contains(erasure.entity, literal=True) for name in _PROSE if name in texts]
    if not (whose or told):
        return 0
    judged = [name for name in texts if name in keys or name in _PROSE]
    rows = pl.scan_parquet(path).filter(pl.any_horizontal(*whose, *told)).select(judged)
    return sum(
        erasure.entity in row.values() or any(erasure.names(value or "") for value in row.values())
        for row in rows.collect(engine="streaming").iter_rows(named=True)
    )


def _copy(path: Path, target: Path, erasure: Erasure, keys: Sequence[str], keep: bool) -> int:
    """Write a file without the entity; how many rows fewer."""
    dropped = 0
    file = pq.ParquetFile(path)
    texts = _texts(file.schema_arrow)
    with pq.ParquetWriter(target, file.schema_arrow, compression="zstd", compression_level=1) as writer:
        for batch in file.iter_batches(_BATCH_ROWS):
            table = pa.Table.from_batches([batch])
            for name in texts:
                if name in keys:
                    own = pc.fill_null(pc.equal(table[name], erasure.entity), False)
                    if keep:
                        whose = pc.if_else(own, erasure.pseudonym, table[name]).cast(table.schema.field(name).type)
                        table = table.set_column(table.schema.get_field_index(name), table.schema.field(name), whose)
                    else:
                        table = table.filter(pc.invert(own))
                elif name in _PROSE:
                    said = [value and erasure.clean(value) for value in table[name].to_pylist()]
                    field = table.schema.field(name)
                    table = table.set_column(table.schema.get_field_index(name), field, pa.array(said, field.type))
            writer.write_table(table)
            dropped += batch.num_rows - table.num_rows
    return dropped
