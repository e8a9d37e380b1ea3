"""The extract: canonical form, bad input, and folders that are whole or absent."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from metarisk import lake
from metarisk.domain import DataError
from tests.unit.lake_examples import AS_OF, PORTFOLIO, changed, extracted, good

ROOT = Path(__file__).resolve().parents[2]
HOSTILE = ["O'Brien; DROP TABLE x", 'say "hi"', "<script>alert(1)</script>", "emoji 🦊", "tab\tnew\nline", "|\\"]


def rows_of(found: lake.Extract) -> list[dict[str, Any]]:
    return [row for path in found.paths for row in pq.read_table(path).to_pylist()]


# canonical form


def test_an_extract_is_sorted_canonical_and_described(tmp_path: Path) -> None:
    table = pa.table(good()).take([3, 1, 5, 0, 4, 2])
    found = extracted(table.append_column("surplus", pa.array(range(6))), tmp_path)
    rows = rows_of(found)
    assert [row["id"] for row in rows] == [f"L{number:07}" for number in range(6)]
    assert found.rows == 6
    assert found.ignored == ("surplus",)
    assert list(rows[0]) == [
        "id", "opened", "region", "event", "known", "exit", "income", "channel", "first", "gender",
    ]  # fmt: skip
    assert set(found.columns.values()) == {"string", "date32[day]", "double"}
    assert found.directory == tmp_path / "book" / "2025-06-30" / found.extract_hash / "extract"
    assert lake.read_extract(found.directory) == found
    assert "not kept: surplus" in " ".join(found.warnings)


def test_row_groups_do_not_depend_on_batches_or_threads(tmp_path: Path) -> None:
    table = pa.table(good(140_000))
    plain = extracted(table, tmp_path / "plain")
    upside_down = table.take(pa.array(range(140_000))[::-1]).to_batches(777)
    reader = pa.RecordBatchReader.from_batches(table.schema, upside_down)
    mixed = lake.extract(
        [reader], PORTFOLIO, AS_OF, tmp_path / "mixed", "q" * 64, memory_mb=128, threads=2, progress=lambda *_: None
    )
    assert mixed.extract_hash == plain.extract_hash
    groups = pq.ParquetFile(plain.paths[0]).metadata
    assert [groups.row_group(number).num_rows for number in range(3)] == [65_536, 65_536, 8_928]


def test_doing_it_again_is_a_no_op_and_leaves_nothing_beside(tmp_path: Path) -> None:
    first = extracted(pa.table(good()), tmp_path)
    written = {path: path.stat().st_mtime_ns for path in first.paths}
    second = extracted(pa.table(good()), tmp_path)
    assert second == first
    assert {path: path.stat().st_mtime_ns for path in second.paths} == written
    assert [path.name for path in (tmp_path / "book" / "2025-06-30").iterdir()] == [first.extract_hash]


def test_the_hash_follows_content_query_and_schema(tmp_path: Path) -> None:
    base = extracted(pa.table(good()), tmp_path)
    other_value = extracted(changed(income=[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]), tmp_path)
    reader = pa.table(good()).to_reader()
    other_query = lake.extract(
        [reader], PORTFOLIO, AS_OF, tmp_path, "r" * 64, memory_mb=256, threads=1, progress=lambda *_: None
    )
    assert len({base.extract_hash, other_value.extract_hash, other_query.extract_hash}) == 3


ACCEPTED = {
    "key from whole numbers": ("id", pa.array([3, 1, 2, 5, 4, 6], pa.int64()), "1"),
    "key from NUMERIC(18, 0)": ("id", pa.array([Decimal(n) for n in range(6)], pa.decimal128(18, 0)), "0"),
    "key from large text": ("id", pa.array(list("fedcba"), pa.large_string()), "a"),
    "number from NUMERIC": ("income", pa.array([Decimal("1.25")] * 6), 1.25),
    "number from whole": ("income", pa.array([7] * 6, pa.int16()), 7.0),
    "number from boolean": ("income", pa.array([True] * 6), 1.0),
    "number from half": ("income", pa.array([2.0] * 6, pa.float32()), 2.0),
    "text from dictionary": ("channel", pa.array(["web"] * 6).dictionary_encode(), "web"),
    "text from whole": ("channel", pa.array([36] * 6, pa.int8()), "36"),
    "text from boolean": ("channel", pa.array([True] * 6), "true"),
    "date from timestamp": ("first", pa.array([datetime(2020, 5, 6, 23, 59)] * 6), date(2020, 5, 6)),  # noqa: DTZ001
    "date from milliseconds": ("first", pa.array([date(2020, 5, 6)] * 6, pa.date64()), date(2020, 5, 6)),
    "no event yet": ("event", pa.nulls(6), None),
    "protected number": ("gender", pa.array([1.5] * 6), "1.5"),
}


@pytest.mark.parametrize("case", ACCEPTED)
def test_types_that_fit_become_canonical(tmp_path: Path, case: str) -> None:
    column, values, expected = ACCEPTED[case]
    assert rows_of(extracted(changed(**{column: values}), tmp_path))[0][column] == expected


def test_names_that_differ_by_case_alone_are_refused(tmp_path: Path) -> None:
    """DuckDB would read the first column for both, and a rule of the suite would judge the wrong one."""
    features = {**PORTFOLIO.features, "Income": PORTFOLIO.features["income"]}
    with pytest.raises(DataError, match="income and Income differ by case alone") as caught:
        extracted(changed(Income=[1.0] * 6), tmp_path, replace(PORTFOLIO, features=features))
    assert caught.value.column == "Income"
    assert extracted(changed(Income=[1.0] * 6), tmp_path).ignored == ("Income",)


def test_numeric_of_postgresql_is_a_number(tmp_path: Path) -> None:
    """ADBC sends NUMERIC as text, said in the type or in the field's metadata."""
    text = pa.array(["1.25"] * 6)
    opaque = pa.ExtensionArray.from_storage(pa.opaque(pa.string(), "numeric", "PostgreSQL"), text)
    assert rows_of(extracted(changed(income=opaque), tmp_path))[0]["income"] == 1.25
    table = changed(income=text)
    place = table.schema.get_field_index("income")
    marked = table.field(place).with_metadata({"ADBC:postgresql:typname": "numeric"})
    said = table.cast(table.schema.set(place, marked))
    assert rows_of(extracted(said, tmp_path))[0]["income"] == 1.25


def test_timestamps_become_dates_where_the_book_is(tmp_path: Path) -> None:
    # 22:30 UTC on New Year's Eve is the next year in Berlin, and 23:30 UTC before the clocks change is the next day.
    instants = [datetime(2024, 12, 31, 22, 30, tzinfo=UTC), datetime(2024, 12, 31, 23, 30, tzinfo=UTC)] * 3
    for unit in ("s", "us", "ns"):
        table = changed(first=pa.array(instants, pa.timestamp(unit, "UTC")))
        dates = [row["first"] for row in rows_of(extracted(table, tmp_path))[:2]]
        assert dates == [date(2024, 12, 31), date(2025, 1, 1)]
        elsewhere = replace(PORTFOLIO, timezone="Pacific/Kiritimati")
        dates = [row["first"] for row in rows_of(extracted(table, tmp_path, elsewhere))[:2]]
        assert dates == [date(2025, 1, 1), date(2025, 1, 1)]


def test_nan_and_infinities_become_null_and_are_counted(tmp_path: Path) -> None:
    nan, inf = float("nan"), float("inf")
    found = extracted(changed(income=[1.0, nan, inf, -inf, None, 2.0]), tmp_path)
    assert [row["income"] for row in rows_of(found)] == [1.0, None, None, None, None, 2.0]
    assert found.not_finite == {"income": 3}
    assert json.loads((found.directory / "manifest.json").read_text())["not_finite"] == {"income": 3}
    assert "column income: 3 NaN or infinite values became null" in found.warnings


def test_a_text_of_ten_megabytes_is_cut_and_stays_distinct(tmp_path: Path) -> None:
    huge = "é" * 10_000_000
    found = extracted(changed(channel=[huge, huge + "x", huge, "web", "web", "web"]), tmp_path)
    cut = [row["channel"] for row in rows_of(found)]
    assert cut[0] == cut[2] != cut[1]
    assert cut[3:] == ["web"] * 3
    assert max(map(len, cut)) < 100
    assert found.shortened == {"channel": 3}


def test_missing_segments_get_a_name(tmp_path: Path) -> None:
    found = extracted(changed(region=["north", None, "south", None, "north", "south"]), tmp_path)
    assert [row["region"] for row in rows_of(found)].count("(missing)") == 2
    assert found.missing_segment == {"region": 2}


def test_hostile_text_passes_unchanged(tmp_path: Path) -> None:
    found = extracted(changed(id=HOSTILE, region=HOSTILE, channel=HOSTILE), tmp_path)
    rows = rows_of(found)
    assert [row["id"] for row in rows] == sorted(HOSTILE, key=lambda text: text.encode())
    assert all(row["id"] == row["region"] == row["channel"] for row in rows)


def test_hostile_column_names_pass_unchanged(tmp_path: Path) -> None:
    name = 'in"come"; DROP TABLE x; -- 🦊'
    features = {name: PORTFOLIO.features["income"]}
    portfolio = replace(PORTFOLIO, features=features, columns=replace(PORTFOLIO.columns, entity="i'd \""))
    columns = good()
    table = pa.table({**columns, name: columns["income"], "i'd \"": columns["id"]})
    assert rows_of(extracted(table, tmp_path, portfolio))[0][name] == 1000.0


# bad input

REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "missing": ({"income": None}, "income", "no such column"),
    "renamed": ({"income": None, "incomes": [1.0] * 6}, "income", "did you mean 'incomes'?"),
    "number as text": ({"income": ["1"] * 6}, "income", "CAST(... AS DOUBLE PRECISION)"),
    "date as text": ({"opened": ["2025-01-01"] * 6}, "opened", "CAST(... AS DATE)"),
    "date as number": ({"first": [20250101] * 6}, "first", "dates or timestamps were declared"),
    "text as float": ({"channel": [1.0] * 6}, "channel", "CAST(... AS VARCHAR)"),
    "key as float": ({"id": [1.0] * 6}, "id", "text or whole numbers"),
    "key as binary": ({"id": [b"x"] * 6}, "id", "binary"),
    "text as list": ({"channel": [["a"]] * 6}, "channel", "list"),
    "no value in a feature": ({"income": pa.nulls(6, pa.float64())}, "income", "none of 6 rows has a value"),
    "nothing but NaN": ({"income": [float("nan")] * 6}, "income", "6 were NaN"),
    "no value in a segment": ({"region": pa.nulls(6, pa.string())}, "region", "none of 6 rows has a value"),
    "no opening date": ({"opened": pa.nulls(6, pa.date32())}, "opened", "none of 6 rows has a value"),
    "key is null": ({"id": ["a", None, "c", "d", "e", "f"]}, "id", "1 of 6 rows have no value in this key"),
    "key twice": ({"id": ["b", "a", "b", "c", "a", "d"]}, "id", "more than once for a, b"),
    "endless key": ({"id": ["a", "b", "c", "d", "e", "f" * 2000]}, "id", "longer than 1024"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_named_by_portfolio_column_and_date(tmp_path: Path, case: str) -> None:
    columns, column, expected = REFUSED[case]
    with pytest.raises(DataError) as caught:
        extracted(changed(**columns), tmp_path)
    text = str(caught.value)
    assert text.startswith(f"portfolio book, column {column}, as of 2025-06-30: "), text
    assert expected in text
    assert ". Remedy: " in text
    assert list((tmp_path / "book" / "2025-06-30").glob("*")) == []


def test_an_empty_extract_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="portfolio book, as of 2025-06-30: the extract is empty"):
        extracted(changed().slice(0, 0), tmp_path)
    assert list((tmp_path / "book" / "2025-06-30").iterdir()) == []


def test_a_column_that_comes_twice_is_refused(tmp_path: Path) -> None:
    table = changed().append_column("income", pa.array([1.0] * 6))
    with pytest.raises(DataError, match="this column twice"):
        extracted(table, tmp_path)


def test_a_duplicate_is_found_across_batches(tmp_path: Path) -> None:
    columns = good(70_000)
    columns["id"] = pa.array([*columns["id"].to_pylist()[:-1], "L0065535"])
    with pytest.raises(DataError, match="L0065535"):
        extracted(pa.table(columns), tmp_path)


def test_where_the_label_is_a_value_an_entity_is_measured_again(tmp_path: Path) -> None:
    columns = replace(PORTFOLIO.columns, event_date=None, exit_date=None, value="income")
    portfolio = replace(PORTFOLIO, columns=columns, features={"channel": PORTFOLIO.features["channel"]})
    assert lake.key_columns(portfolio) == ["id", "opened"]
    rows = rows_of(extracted(changed(id=["a"] * 6), tmp_path, portfolio))
    assert [row["opened"] for row in rows] == sorted(row["opened"] for row in rows)
    same = [date(2025, 1, 1)] * 6
    with pytest.raises(DataError, match="id and opened must tell rows apart"):
        extracted(changed(id=["a"] * 6, opened=same), tmp_path, portfolio)
    with pytest.raises(DataError, match="column opened"):
        extracted(changed(opened=[None, *same[1:]]), tmp_path, portfolio)


def test_a_source_that_breaks_off_leaves_nothing(tmp_path: Path) -> None:
    table = changed()

    def breaking() -> Any:
        yield table.to_batches()[0]
        raise OSError("the source went away")

    with pytest.raises(OSError, match="went away"):
        extracted(breaking(), tmp_path, schema=table.schema)
    assert list((tmp_path / "book" / "2025-06-30").iterdir()) == []


def test_a_full_disk_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("metarisk.lake.extracts.settle", full)
    with pytest.raises(DataError, match=r"is full\. Remedy: free space there"):
        extracted(changed(), tmp_path)
    assert list((tmp_path / "book" / "2025-06-30").iterdir()) == []


# whole or absent


def test_damage_is_found(tmp_path: Path) -> None:
    found = extracted(pa.table(good()), tmp_path)
    part = found.paths[0]
    whole = part.read_bytes()
    for damaged in (whole[:-10], whole[:50] + bytes([whole[50] ^ 1]) + whole[51:], b""):
        part.write_bytes(damaged)
        with pytest.raises(DataError, match=r"part-00000\.parquet is damaged"):
            lake.read_extract(found.directory)
    part.unlink()
    with pytest.raises(DataError, match="is missing"):
        lake.verify(found.directory)
    (found.directory / "manifest.json").write_text("{")
    with pytest.raises(DataError, match=r"no readable manifest\.json"):
        lake.verify(found.directory)
    # The same work heals it.
    assert extracted(pa.table(good()), tmp_path) == found
    assert part.read_bytes() == whole


def test_staged_work_appears_at_the_end_or_never(tmp_path: Path) -> None:
    final = tmp_path / "step" / "adapt"
    with pytest.raises(RuntimeError), lake.staged(final) as folder:
        (folder / "x.bin").write_bytes(b"1")
        lake.write_manifest(folder, {"n": 1})
        assert not final.exists()
        raise RuntimeError
    with pytest.raises(ValueError, match="write_manifest"), lake.staged(final):
        pass
    assert list(final.parent.iterdir()) == []
    with lake.staged(final) as folder:
        (folder / "x.bin").write_bytes(b"1")
        lake.write_manifest(folder, {"n": 1})
    assert lake.verify(final)["n"] == 1
    with lake.staged(final) as folder:  # the same step again: what is whole stays
        (folder / "x.bin").write_bytes(b"2")
        lake.write_manifest(folder, {"n": 2})
    assert (final / "x.bin").read_bytes() == b"1"
    assert list(final.parent.iterdir()) == [final]


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {root!r})
import pyarrow as pa
from tests.unit.lake_examples import extracted, good
import metarisk.lake.extracts as extracts
where = {where!r}
def die(*arguments):
    os.kill(os.getpid(), signal.SIGKILL)
if where == "streaming":
    table = pa.table(good(5_000))
    def batches():
        yield from table.to_batches(max_chunksize=1000)
        die()
    extracted(batches(), Path({lake!r}), schema=table.schema)
if where == "sorting":
    extracts._groups = die
if where == "sealing":
    extracts.write_manifest = die
if where == "settling":
    extracts.settle = die
extracted(pa.table(good(5_000)), Path({lake!r}))
"""


@pytest.mark.parametrize("where", ["streaming", "sorting", "sealing", "settling"])
def test_what_is_killed_never_looks_whole_and_is_cleared_away(tmp_path: Path, where: str) -> None:
    root = tmp_path / "lake"
    code = KILLED.format(root=str(ROOT), where=where, lake=str(root))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    day = root / "book" / "2025-06-30"
    assert list(day.glob("*/extract")) == [] or all(path.parent.name.startswith(".") for path in day.glob("*/extract"))
    assert len(list(day.iterdir())) == 1  # what the killed process left
    found = extracted(pa.table(good(5_000)), root)
    assert found == replace(extracted(pa.table(good(5_000)), tmp_path / "twin"), directory=found.directory)
    assert [path.name for path in day.iterdir()] == [found.extract_hash]


def test_a_living_process_keeps_its_scratch(tmp_path: Path) -> None:
    """Two runs may stand beside each other: only what belongs to nobody is removed."""
    code = f"""
import sys
from pathlib import Path
from metarisk import lake
with lake.scratch(Path({str(tmp_path)!r})) as folder:
    (folder / "mine").touch()
    print(folder.name, flush=True)
    sys.stdin.readline()
    print((folder / "mine").exists(), flush=True)
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as other:
        assert other.stdout is not None
        assert other.stdin is not None
        theirs = other.stdout.readline().strip()
        with lake.scratch(tmp_path) as ours:
            assert sorted(path.name for path in tmp_path.iterdir()) == sorted([theirs, ours.name])
        other.stdin.write("\n")
        other.stdin.flush()
        assert other.stdout.readline().strip() == "True"
    assert list(tmp_path.iterdir()) == []


MEMORY = """
import sys
from pathlib import Path
sys.path.insert(0, {root!r})
import numpy as np
import pyarrow as pa
from dataclasses import replace
from metarisk.domain import Feature
from metarisk import lake
from tests.unit.lake_examples import AS_OF, PORTFOLIO, good
rows = int(sys.argv[1])
names = [f"x{{number}}" for number in range(16)]
portfolio = replace(PORTFOLIO, features={{name: Feature("numeric") for name in names}})
first = pa.record_batch(good(20_000))
def batches():
    rng = np.random.default_rng(0)
    for start in range(0, rows, 20_000):
        columns = dict(zip(first.schema.names, first.columns))
        columns["id"] = pa.array(np.arange(start, start + 20_000)[::-1])
        yield pa.record_batch(columns | {{name: rng.normal(size=20_000) for name in names}})
schema = pa.schema([("id", pa.int64()), *list(first.schema)[1:], *((name, pa.float64()) for name in names)])
found = lake.extract(
    [pa.RecordBatchReader.from_batches(schema, batches())], portfolio, AS_OF, Path(sys.argv[2]), "q" * 64,
    memory_mb=128, threads=1, progress=lambda *_: None,
)
assert found.rows == rows
# Not ru_maxrss, in which a child begins with the peak of its parent.
print(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
"""


def test_memory_does_not_grow_with_rows(tmp_path: Path) -> None:
    """300,000 rows of 25 columns are 55 MB as doubles; the sort may take 128 MiB."""
    code = MEMORY.format(root=str(ROOT))
    peaks = []
    for rows in (100_000, 300_000):
        arguments = [sys.executable, "-c", code, str(rows), str(tmp_path / str(rows))]
        done = subprocess.run(
            arguments, capture_output=True, text=True, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        peaks.append(int(done.stdout) // 1024)
    assert peaks[1] < 450, peaks
    assert peaks[1] - peaks[0] < 100, peaks
