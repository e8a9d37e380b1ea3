"""The order of rows in the source, and how they were cut into batches, change no bit of an extract."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.lake_examples import extracted, good

ROWS = 24
text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=8)


@settings(max_examples=25, deadline=None)
@given(
    keys=st.lists(text, min_size=ROWS, max_size=ROWS, unique=True),
    order=st.permutations(range(ROWS)),
    chunk=st.integers(1, ROWS),
)
def test_order_and_batches_change_nothing(keys: list[str], order: list[int], chunk: int) -> None:
    table = pa.table(good(ROWS) | {"id": pa.array(keys)})
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        plain = extracted(table, root / "plain")
        mixed = extracted(table.take(order).to_batches(chunk), root / "mixed", schema=table.schema)
        assert mixed.extract_hash == plain.extract_hash
        assert [path.read_bytes() for path in mixed.paths] == [path.read_bytes() for path in plain.paths]
        found = [row["id"] for path in plain.paths for row in pq.read_table(path).to_pylist()]
        assert found == sorted(keys, key=lambda key: key.encode())
