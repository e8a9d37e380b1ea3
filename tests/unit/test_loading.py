"""What is understood of a file before it is loaded: nothing is guessed, and nothing is lost in silence."""

from __future__ import annotations

import csv
import gzip
import io
import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from metarisk.domain import ConfigError, DataError, MetariskError, Warehouse
from metarisk.loading import Limits, Options, Understood, open_table, wanted_type
from metarisk.loading.naming import column_names

Read = Callable[..., tuple[pa.Table, Understood]]


def at(text: str) -> datetime:
    """A time without a zone."""
    return datetime.fromisoformat(text)


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Write bytes or text to a file, and read it as `metarisk load` does."""

    def read(content: bytes | str | None, name: str = "book.csv", **options: Any) -> tuple[pa.Table, Understood]:
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        types = {column: wanted_type(kind, column) for column, kind in options.pop("types", {}).items()}
        limits = Limits(1, 128, tmp_path / "scratch")
        with open_table([str(path)], Options(types=types, **options), limits) as table:
            rows = table.reader().read_all()
        assert not list((tmp_path / "scratch").iterdir())
        return rows, table.understood

    return read


def column(read: Read, cells: Sequence[str], delimiter: str = ",", **options: Any) -> tuple[str, list[Any], str]:
    """Type, values and conversion of one column of cells beside a number."""
    lines = io.StringIO()
    csv.writer(lines, delimiter=delimiter, lineterminator="\n").writerows([("n", "x"), *enumerate(cells)])
    rows, understood = read(lines.getvalue(), **options)
    return understood.columns[1].type, rows.column("x").to_pylist(), understood.columns[1].conversion


READ_AS = {
    "whole": (["1", "-20", " 3 "], "BIGINT", [1, -20, 3]),
    "widest whole": (["9223372036854775807", "1"], "BIGINT", [2**63 - 1, 1]),
    "too wide": (["9223372036854775808", "1"], "VARCHAR", ["9223372036854775808", "1"]),
    "thirty digits": (["1" * 30, "2"], "VARCHAR", ["1" * 30, "2"]),
    "leading zeros": (["00000001", "0000001"], "VARCHAR", ["00000001", "0000001"]),
    "zeros late": (["1", "2", "007"], "VARCHAR", ["1", "2", "007"]),
    "phones": (["+491711234567", "+4930123"], "VARCHAR", ["+491711234567", "+4930123"]),
    "hexadecimal": (["0x1F", "10"], "VARCHAR", ["0x1F", "10"]),
    "underscores": (["1_000", "10"], "VARCHAR", ["1_000", "10"]),
    "numbers": (["1", "2.5", "1e3", "-.5"], "DOUBLE PRECISION", [1.0, 2.5, 1000.0, -0.5]),
    "too large": (["1e400", "1"], "VARCHAR", ["1e400", "1"]),
    "seventeen digits": (["0.30000000000000004", "0.10000000000000001"], "DOUBLE PRECISION", [0.1 + 0.2, 0.1]),
    "more digits": (
        ["0.12345678901234567891", "2"],
        "DECIMAL(38, 20)",
        [Decimal("0.12345678901234567891"), Decimal(2)],
    ),
    "trillions": (["12345678901234567.89", "1"], "DECIMAL(38, 2)", [Decimal("12345678901234567.89"), Decimal(1)]),
    "dollars": (["$60,000.00 ", "$5.00"], "DOUBLE PRECISION", [60000.0, 5.0]),
    "brackets": (["(1,234.00)", "5.00-", "-7"], "DOUBLE PRECISION", [-1234.0, -5.0, -7.0]),
    "comma": (["1.234,50", "99,00"], "DOUBLE PRECISION", [1234.5, 99.0]),
    "swiss": (["CHF 1'234.50", "2"], "DOUBLE PRECISION", [1234.5, 2.0]),
    "comma of a double": (["0,12119999999999999", "-0,013999999999999999"], "DOUBLE PRECISION",
                          [0.12119999999999999, -0.013999999999999999]),
    "french": (["1 234,50", "2,25 €"], "DOUBLE PRECISION", [1234.5, 2.25]),
    "two currencies": (["€ 5.00", "$ 5.00"], "VARCHAR", ["€ 5.00", "$ 5.00"]),
    "per cent": (["12 %", "0.5%"], "DOUBLE PRECISION", [0.12, 0.005]),
    "some per cent": (["12 %", "0.5"], "VARCHAR", ["12 %", "0.5"]),
    "thousands": (["1,234", "950"], "DOUBLE PRECISION", [1234.0, 950.0]),
    "truth": (["TRUE", "false"], "BOOLEAN", [True, False]),
    "letters": (["Y", "N"], "VARCHAR", ["Y", "N"]),
    "a year with a letter": (["1997", "1976A", "1998"], "VARCHAR", ["1997", "1976A", "1998"]),
    "empty": (["", "a", "  "], "VARCHAR", [None, "a", None]),
    "blanks around text": (["R0 ", "R0"], "VARCHAR", ["R0 ", "R0"]),
    "words": (["NA", "5", "n/a", "-"], "BIGINT", [None, 5, None, None]),
    "words in text": (["NA", "DE"], "VARCHAR", ["NA", "DE"]),
    "iso": (["2024-01-31", "9999-12-31"], "DATE", [date(2024, 1, 31), date(9999, 12, 31)]),
    "year nought": (["0000-01-01", "2024-01-31"], "VARCHAR", ["0000-01-01", "2024-01-31"]),
    "no such day": (["2024-02-30", "2024-01-31"], "VARCHAR", ["2024-02-30", "2024-01-31"]),
    "american": (["01/31/2024", "2/3/2024"], "DATE", [date(2024, 1, 31), date(2024, 2, 3)]),
    "british": (["31/01/2024", "2/3/2024"], "DATE", [date(2024, 1, 31), date(2024, 3, 2)]),
    "both orders": (["31/01/2024", "01/31/2024"], "VARCHAR", ["31/01/2024", "01/31/2024"]),
    "same in both orders": (["01/01/2024", "02/02/2024"], "DATE", [date(2024, 1, 1), date(2024, 2, 2)]),
    "german": (["31.01.2024", "3.4.2024"], "DATE", [date(2024, 1, 31), date(2024, 4, 3)]),
    "compact": (["20240131", "20240201"], "DATE", [date(2024, 1, 31), date(2024, 2, 1)]),
    "month names": (["30-Jan-10", "4-Jun-69"], "DATE", [date(2010, 1, 30), date(1969, 6, 4)]),
    "sas": (["30JAN2010", "04JUN1969"], "DATE", [date(2010, 1, 30), date(1969, 6, 4)]),
    "prose": (["January 5, 2010", "June 30, 2011"], "DATE", [date(2010, 1, 5), date(2011, 6, 30)]),
    "months": (["Dec-2011", "Jan-2012"], "VARCHAR", ["Dec-2011", "Jan-2012"]),
    "times": (
        ["2024-01-31T10:00:00.5", "2024-02-01"],
        "TIMESTAMP",
        [at("2024-01-31 10:00:00.5"), at("2024-02-01")],
    ),
    "american times": (["01/31/2024 1:05 PM"], "TIMESTAMP", [at("2024-01-31 13:05")]),
    "zones": (["2024-01-31T10:00:00+02:00"], "TIMESTAMPTZ", [datetime(2024, 1, 31, 8, tzinfo=UTC)]),
    "some zones": (["2024-01-31 10:00Z", "2024-01-31 10:00"], "VARCHAR", ["2024-01-31 10:00Z", "2024-01-31 10:00"]),
}  # fmt: skip


@pytest.mark.parametrize("name", READ_AS)
def test_cells_are_read_as_a_person_reads_them(name: str, read: Read) -> None:
    cells, kind, values = READ_AS[name]
    assert column(read, cells)[:2] == (kind, values)


@pytest.mark.parametrize(
    ("cells", "delimiter", "kind", "value"),
    [
        (["03/04/2024", "05/06/2024"], ",", "DATE:%d/%m/%Y", date(2024, 4, 3)),
        (["03/04/2024", "05/06/2024"], ",", "DATE:%m/%d/%Y", date(2024, 3, 4)),
        (["01/02/03", "04/05/06"], ",", "DATE:%y/%m/%d", date(2001, 2, 3)),
        (["1.234", "950"], ";", "DOUBLE:comma", 1234.0),
        (["1,234", "950"], ";", "DOUBLE:comma", 1.234),
    ],
)
def test_what_reads_two_ways_is_asked_for(
    cells: list[str], delimiter: str, kind: str, value: object, read: Read
) -> None:
    with pytest.raises(DataError, match="column x: cells can be read in more than one way") as error:
        column(read, cells, delimiter)
    assert kind in str(error.value)
    assert column(read, cells, delimiter, types={"x": kind})[1][0] == value


def test_a_type_that_shows_in_the_last_row_is_found(read: Read) -> None:
    early = ["1"] * 3_000
    assert column(read, [*early, "2.5"])[0] == "DOUBLE PRECISION"
    assert column(read, [*early, "x"])[0] == "VARCHAR"
    assert column(read, [""] * 3_000 + ["31.12.2024"])[0] == "DATE"
    # The order of day and month is settled by one cell of many.
    assert column(read, ["03/04/2024"] * 3_000 + ["31/12/2024"])[1][0] == date(2024, 4, 3)


def test_what_a_person_should_know_is_told(read: Read) -> None:
    assert "'1976A'" in column(read, ["1997", "1976A", "1998"])[2]
    assert "leading zeros kept" in column(read, ["007", "1"])[2]
    assert "beyond 64 bits" in column(read, ["1" * 30])[2]
    assert "'NA' read as NULL" in column(read, ["NA", "5"])[2]
    assert "-999 may stand for 'no value'" in column(read, ["-999", "5"])[2]
    assert "9999-12-31 may stand" in column(read, ["2020-01-01", "9999-12-31"])[2]
    assert "two digits are the years 1969 to 2068" in column(read, ["30-Jan-10"])[2]
    assert "several currencies" in column(read, ["€ 5.00", "$ 5.00"])[2]


def test_what_a_convention_decides_or_a_type_cuts_is_a_note(read: Read) -> None:
    for cells, note in (
        (["1,234", "950"], "'1,234' may be DOUBLE:comma, too"),
        (["3.4.2024", "5.6.2024"], "'3.4.2024' may be DATE:%m.%d.%Y, too"),
        (["20240131", "20240201"], "--types 'x=BIGINT' keeps numbers"),
        (["2024-01-31 10:00:00.1234561", "2024-01-31 10:00:00.123456000"], "1 time finer than a microsecond"),
        (["2024-01-31T10:00:00.1234561Z", "2024-01-31T10:00:00Z"], "1 time finer than a microsecond"),
    ):
        lines = io.StringIO()
        csv.writer(lines).writerows([("n", "x"), *enumerate(cells)])
        understood = read(lines.getvalue())[1]
        assert [note in one for one in understood.notes] == [True]
        assert note in understood.columns[1].conversion
    # One cell that only the other order fits decides, and nothing is left to tell.
    assert column(read, ["1.31.2024", "5.6.2024"])[1] == [date(2024, 1, 31), date(2024, 5, 6)]
    assert column(read, ["2024-01-31 10:00:00.123456", "2024-01-31 10:00"])[2] == "times"


def test_years_of_two_digits_are_asked_for_where_they_would_lie_in_the_future(read: Read) -> None:
    coming = datetime.now(UTC).date().replace(day=1) + timedelta(40)
    cells = [f"{coming:%d-%b-%y}", "29-Feb-00"]
    with pytest.raises(DataError, match=rf"column x: .*\({coming}, or in {coming.year - 100}\)") as error:
        column(read, cells)
    for latest, first in ((coming.year - 1, coming.replace(year=coming.year - 100)), (2068, coming)):
        form = f"DATE:%d-%b-%y@{latest}"
        assert latest != 2068 or form in error.value.remedy
        assert column(read, cells, types={"x": form})[1] == [first, date(2000, 2, 29)]
        assert f"{latest - 99} to {latest}" in column(read, cells, types={"x": form})[2]
    with pytest.raises(DataError, match="no DATE in 1 of 2 rows: '29-Feb-00'"):  # 1900 had none
        column(read, cells, types={"x": "DATE:%d-%b-%y@1999"})
    yesterday = datetime.now(UTC).date() - timedelta(1)
    assert column(read, [f"{yesterday:%d-%b-%y}"])[1] == [yesterday]


def test_dialects_that_show_late_or_twice(read: Read) -> None:
    many = "n,x\n" + "1,y\n" * 25_000
    rows = read(many + "2,'y, z'\n")[0]
    assert (rows.column("x").to_pylist()[-1], rows.num_rows) == ("y, z", 25_001)
    assert read(many + "2,'y z'\n")[0].column("x").to_pylist()[-1] == "y z"
    assert read(many + "2,O'Neill\n")[0].column("x").to_pylist()[-1] == "O'Neill"
    assert read(many + '2,"y \\"z\\""\n')[0].column("x").to_pylist()[-1] == 'y "z"'
    assert read("n,x\n1," + "y" * 200_000 + "\n")[0].num_rows == 1
    with pytest.raises(DataError, match="may be separated by comma or by ;"):
        read("a,b;c\n1,2;3\n4,5;6\n")
    assert read("a,b;c\n1,2;3\n4,5;6\n", delimiter=";")[0].column_names == ["a,b", "c"]
    assert read("a;b\n1,5;2,25\n3,5;4,25\n")[0].to_pydict() == {"a": [1.5, 3.5], "b": [2.25, 4.25]}
    assert read(TOWNS.encode("utf-16-le"), encoding="utf-16")[0].num_rows == 2


def test_wanted_types(read: Read) -> None:
    assert column(read, ["007", "8"], types={"x": "BIGINT"})[1] == [7, 8]
    assert column(read, ["1.10", "2"], types={"x": "DECIMAL(10,2)"})[1] == [Decimal("1.10"), Decimal("2.00")]
    assert column(read, ["yes", "n"], types={"x": "bool"})[1] == [True, False]
    assert column(read, ["1", "2"], types={"x": "text"})[1] == ["1", "2"]
    with pytest.raises(DataError, match=r"column x: no BIGINT in 1 of 3 rows: '1976A' \(row 2\)"):
        column(read, ["1997", "1976A", "1998"], types={"x": "BIGINT"})
    kind, values, _ = column(read, ["1997", "1976A", "1998"], types={"x": "BIGINT"}, keep_rejects=True)
    assert (kind, values) == ("BIGINT", [1997, 1998])
    assert column(read, ["1", "2"], types={"x": "DECIMAL"})[0] == "DECIMAL(38, 0)"
    assert column(read, ["0.12345", "x"], types={"x": "DECIMAL"}, keep_rejects=True)[1] == [Decimal("0.12345")]
    with pytest.raises(DataError, match="39 digits before the point"):
        column(read, ["1" * 39], types={"x": "DECIMAL"})
    with pytest.raises(DataError, match="no DECIMAL"):
        column(read, ["1.239", "2"], types={"x": "DECIMAL(10,2)"})
    with pytest.raises(ConfigError, match=r"no column 'y' \(did you mean|no column 'y'"):
        column(read, ["1"], types={"y": "BIGINT"})
    for wrong in ("MONEY", "DOUBLE:semicolon", "DECIMAL(50,2)", "BOOLEAN:%Y", "DATE:%d-%b-%y@3000", "DATE:%Y@2030"):
        with pytest.raises(ConfigError, match="no type that is offered"):
            wanted_type(wrong, "x")


TOWNS = "id,town\n1,Münster\n2,Köln\n"


@pytest.mark.parametrize(
    ("content", "name", "kind"),
    [
        (TOWNS.encode("utf-8-sig"), "a.csv", "UTF-8"),
        (TOWNS.encode("cp1252"), "a.CSV", "Windows-1252"),
        (TOWNS.encode("utf-16"), "a.txt", "UTF-16"),
        (TOWNS.encode("utf-16-be"), "a.txt", "UTF-16"),
        (TOWNS.replace(",", ";").encode(), "a.csv", "separated by ;"),
        (TOWNS.replace(",", "\t").encode(), "a.tsv", "separated by tab"),
        (TOWNS.replace(",", "|").encode(), "a.txt", "separated by |"),
        (TOWNS.replace("\n", "\r\n").encode(), "a.csv", "UTF-8"),
        (TOWNS.replace("\n", "\r").encode(), "a.csv", "UTF-8"),
        (gzip.compress(TOWNS.encode(), mtime=0), "a.csv.gz", "UTF-8"),
        (b'{"id": 1, "town": "M\xc3\xbcnster"}\n\n{"id": 2, "town": "K\\u00f6ln"}', "a.ndjson", "JSON lines"),
        (("Towns\n\n" + TOWNS).encode(), "a.csv", "UTF-8"),
    ],
)
def test_encodings_and_dialects(content: bytes, name: str, kind: str, read: Read) -> None:
    rows, understood = read(content, name)
    assert kind in understood.kind
    assert rows.to_pydict() == {"id": [1, 2], "town": ["Münster", "Köln"]}


def test_windows_1252_is_not_latin_1(read: Read) -> None:
    assert read("id,x\n1,€ “5”\n".encode("cp1252"))[0].column("x").to_pylist() == ["€ “5”"]


def test_excel(tmp_path: Path, read: Read) -> None:
    book = openpyxl.Workbook()
    book.active.append(["Loans of 2024"])
    for row in (["id", "opened", "amount", "note"], [1, date(2024, 1, 31), 12.5, "007"], [2, None, "n/a", "8", "more"]):
        book.active.append(row)
    book.create_sheet("Other").append(["a"])
    book.save(tmp_path / "b.xlsx")
    rows, understood = read(None, "b.xlsx")
    assert rows.drop_columns("column_5").to_pydict() == {
        "id": [1, 2], "opened": [date(2024, 1, 31), None], "amount": [12.5, None], "note": ["007", "8"],
    }  # fmt: skip
    assert any("only Sheet is loaded" in note for note in understood.notes)
    assert any("Loans of 2024" in note for note in understood.notes)
    with pytest.raises(ConfigError, match=r"no sheet 'Othr' \(did you mean 'Other'"):
        read(None, "b.xlsx", sheet="Othr")
    with pytest.raises(DataError, match="no workbook"):
        read("no", "c.xlsx")


def test_json_numbers_keep_their_digits_and_nesting_is_named(read: Read) -> None:
    line = '{"id": 123456789012345678901234567890, "v": 1.10, "a": {"zip": "01", "b": {"c": 2}}, "t": [1, 2.50]}\n'
    rows, understood = read(line, "a.jsonl")
    assert rows.to_pydict() == {"id": ["123456789012345678901234567890"], "v": [1.1]}
    assert set(understood.left_out) == {"a", "t"}
    flat, _ = read(line, "a.jsonl", flatten=True)
    assert flat.to_pydict() == {**rows.to_pydict(), "a_zip": ["01"], "a_b_c": [2], "t": ["[1, 2.50]"]}


def test_parquet_keeps_its_types(tmp_path: Path, read: Read) -> None:
    held = {
        "wide": pa.array([2**63, 1], pa.uint64()),
        "narrow": pa.array([7, None], pa.uint64()),
        "key": pa.array([Decimal(10**37), Decimal(10**37 + 1)], pa.decimal128(38, 0)),
        "money": pa.array([Decimal("1.10"), None], pa.decimal128(38, 2)),
        "code": pa.array(["00000001", ""]),
        "address": pa.array([{"zip": "1"}, None]),
        "tags": pa.array([["a"], None]),
        "category": pa.array(["a", "b"]).dictionary_encode(),
        "fine": pa.array([1, None], pa.timestamp("ns")),
        "zoned": pa.array([1, None], pa.timestamp("ns", "UTC")),
    }
    pq.write_table(pa.table(held), tmp_path / "b.parquet")
    rows, understood = read(None, "b.parquet")
    assert set(understood.left_out) == {"address", "tags"}
    assert rows.to_pydict() == {
        "wide": [str(2**63), "1"], "narrow": [7, None], "key": [str(10**37), str(10**37 + 1)],
        "money": [Decimal("1.10"), None], "code": ["00000001", ""], "category": ["a", "b"],
        "fine": [at("1970-01-01"), None], "zoned": [datetime(1970, 1, 1, tzinfo=UTC), None],
    }  # fmt: skip
    assert {column.name: column.conversion for column in understood.columns}["fine"].startswith("1 time finer")
    assert "column zoned: nanoseconds in the file, of which whole microseconds are read" in understood.notes
    joined, _ = read(None, "b.parquet", table={"money": wanted_type("numeric", "money")})
    assert joined.column("money").to_pylist() == [Decimal("1.10"), None]
    flat, _ = read(None, "b.parquet", flatten=True)
    assert (flat.column("address_zip").to_pylist(), flat.column("tags").to_pylist()) == (["1", None], ['["a"]', None])


def test_folders_and_patterns(tmp_path: Path, read: Read) -> None:
    folder = tmp_path / "book"
    for region, ids in (("north", [1, 2]), ("south", [3])):
        (folder / f"region={region}").mkdir(parents=True)
        pq.write_table(pa.table({"id": ids}), folder / f"region={region}" / "part.parquet")
    (folder / "_SUCCESS").touch()
    together = {"id": [1, 2, 3], "region": ["north", "north", "south"]}
    assert read(None, "book")[0].to_pydict() == together
    assert read(None, "book/*/*.parquet")[0].to_pydict()["id"] == [1, 2, 3]
    pq.write_table(pa.table({"id": ["x"]}), folder / "region=south" / "part2.parquet")
    with pytest.raises(DataError, match=r"column id: part.parquet has int64, part2.parquet has string"):
        read(None, "book")
    for name in ("one", "two"):
        (tmp_path / f"{name}.csv").write_text(f"id,x\n1,{name}\n")
    assert read(None, "*.csv")[0].to_pydict() == {"id": [1, 1], "x": ["one", "two"]}


@pytest.mark.parametrize(
    ("raw", "names"),
    [
        (["a", "A", "a"], ["a", "A_2", "a_3"]),
        (["a", "a", "a_2"], ["a", "a_3", "a_2"]),
        ([" a b ", "", None], ["a b", "column_2", "column_3"]),
        (["x\ny"], ["x y"]),
        (["ä" * 40], ["ä" * 31]),
    ],
)
def test_names_are_told_apart(raw: list[str | None], names: list[str]) -> None:
    found, notes = column_names(raw)
    assert found == names
    assert len(notes) == sum(one != (other or "").strip() for one, other in zip(names, raw, strict=True))


def test_rows_that_cannot_be_read_are_told_with_their_lines(read: Read) -> None:
    content = 'id,a,b\n1,x,y\n2,x\n3,x,y,z\n\n4,"two\nlines",y\n5,"oops,y\n6,x,\0\n7,x,y\n'
    with pytest.raises(
        DataError, match=r"4 rows of book.csv cannot be read, 3 can .*line 3: 2 cells .*line 4: 4 cells"
    ):
        read(content)
    rows, understood = read(content, keep_rejects=True)
    assert rows.to_pydict() == {"id": [1, 4, 7], "a": ["x", "two\nlines", "x"], "b": ["y", "y", "y"]}
    assert understood.rejected == 4
    assert [one.place for one in understood.rejects] == ["line 3", "line 4", "line 8", "line 9"]


@pytest.mark.parametrize(
    ("content", "name", "options", "what"),
    [
        ("", "a.csv", {}, "a.csv is empty"),
        ("id,a\n", "a.csv", {}, "has no rows"),
        ("[\n1\n]", "a.json", {}, "one JSON document"),
        (gzip.compress(TOWNS.encode(), mtime=0)[:-9], "a.csv.gz", {}, "damaged or cut short"),
        (TOWNS, "a.doc", {}, "of no kind that is known"),
        (TOWNS, "a.csv", {"encoding": "klingon"}, "no encoding 'klingon'"),
        (TOWNS, "a.csv", {"delimiter": ";;"}, "cannot separate cells"),
        ("PAR1 is not enough", "a.parquet", {}, "a.parquet cannot be read"),
        (None, "nothing.csv", {}, "names no file"),
        (None, "x" * 5_000, {}, "names no file"),
    ],
)
def test_what_is_no_table_is_refused_by_name(
    content: str | bytes | None, name: str, options: dict[str, Any], what: str, read: Read
) -> None:
    with pytest.raises(MetariskError, match=what):
        read(content, name, **options)


MARK = re.compile(r"L\d{3}x")
"""Every row that a mutation is made on has one of its own."""
ABOVE = re.compile(r"not in the table: (\d+)")
INSERTED = (b"\0", b'"', b"\xff", b"\n", b",", b";", b"'", b"x" * 5_000, b"\r", b"\\", "é".encode(), b"")


def mutated(dice: random.Random) -> tuple[bytes, str, str, list[list[str]] | None]:
    """A file, its encoding and delimiter, and its rows if it is as it was written."""
    texts = ["north", "a, b", 'say "x"', "two\nlines", ""]
    rows = [[f"L{n:03}x", f"2024-01-{n % 28 + 1:02}", dice.choice(texts)] for n in range(30)]
    delimiter, encoding, lines = dice.choice(",;\t|"), dice.choice(["utf-8", "utf-16", "cp1252"]), io.StringIO()
    writer = csv.writer(lines, delimiter=delimiter, lineterminator=dice.choice(["\n", "\r\n"]))
    writer.writerows([["id", "day", "region"], *rows])
    content = bytearray(lines.getvalue().encode(encoding))
    mutations = dice.randrange(4)
    for _ in range(mutations):
        where = dice.randrange(len(content))
        content[where : where + dice.choice([0, 1, 9])] = dice.choice(INSERTED)
    return bytes(content), encoding, delimiter, None if mutations else rows


def by_python(content: bytes, encoding: str, delimiter: str) -> list[list[str]] | None:
    """Its header and rows by Python's own reader; None where that finds a fault in bytes or quotes."""
    try:
        found = list(csv.reader(io.StringIO(content.decode(encoding), newline=""), delimiter=delimiter, strict=True))
    except (UnicodeDecodeError, csv.Error):
        return None
    return [row for row in found if len(row) > 1 or any(cell.strip() for cell in row)]


def marks(text: str) -> Counter[str]:
    """How often each mark stands in it."""
    return Counter(MARK.findall(text))


@pytest.mark.parametrize("seed", range(120))
def test_a_mutation_loses_and_doubles_no_row(seed: int, tmp_path: Path) -> None:
    """Each mark of the file is in a loaded row or a reject, as often as in the file; so are Python's rows."""
    dice = random.Random(seed)
    content, encoding, delimiter, whole = mutated(dice)
    (tmp_path / "book.csv").write_bytes(content)
    expected = by_python(content, encoding, delimiter)
    # Of what is told apart by bytes that a mutation may have moved the encoding is given.
    told = whole is None and (dice.random() < 0.7 or encoding == "utf-16")
    options = Options(encoding, delimiter, header=True, keep_rejects=True) if told else Options(keep_rejects=True)
    try:
        with open_table([str(tmp_path / "book.csv")], options, Limits(1, 128, tmp_path / "scratch")) as table:
            loaded = table.reader().read_all()
            table.rejects.write_to(tmp_path / "rejects.csv")
    except MetariskError as error:
        assert error.remedy
        assert whole is None
        return
    rejected = list(csv.reader(io.StringIO((tmp_path / "rejects.csv").read_bytes().decode(), newline="")))[1:]
    assert (loaded.num_rows, len(rejected)) == (table.understood.rows, table.understood.rejected)
    # A header that a mutation broke is told as names, and as a note.
    cells = "\n".join(str(cell) for column in loaded.columns for cell in column.to_pylist())
    cells += " ".join([*loaded.column_names, *table.understood.notes])
    assert marks(cells) + marks("\n".join(row[3] for row in rejected)) == marks(content.decode(encoding, "replace"))
    if expected is not None and (told or whole):
        above = sum(int(found[1]) for note in table.understood.notes if (found := ABOVE.match(note)))
        assert loaded.num_rows + len(rejected) == len(expected) - 1 - above
        if all(len(row) == len(expected[0]) and "\0" not in "".join(row) for row in expected):
            assert not rejected
    if whole is not None:
        assert loaded.column("id").to_pylist() == [row[0] for row in whole]
        assert loaded.column("region").to_pylist() == [row[2] or None for row in whole]


def test_exact_types_reach_both_warehouses(tmp_path: Path, warehouse: Warehouse) -> None:
    key = 10**37
    held = pa.table(
        {
            "key": pa.array([str(key), str(key + 1)]),
            "money": pa.array([Decimal("12345678901234567890.12"), None], pa.decimal128(38, 2)),
            "at": pa.array([datetime(2024, 1, 31, 10, tzinfo=UTC), None], pa.timestamp("us", "UTC")),
            "yes": [True, None],
        }
    )

    def reader(table: pa.Table) -> pa.RecordBatchReader:
        return pa.RecordBatchReader.from_batches(table.schema, table.to_batches())

    assert warehouse.load("exact", reader(held), mode="create") == 2
    with pytest.raises(ConfigError, match=r"source.exact exists.*--append"):
        warehouse.load("exact", reader(held), mode="create")
    assert warehouse.load("exact", reader(held), mode="append") == 2
    rows = warehouse.rows(
        'SELECT "key", CAST(money AS VARCHAR) AS money, "at", yes, count(*) AS n FROM source.exact '
        'GROUP BY "key", money, "at", yes ORDER BY "key"'
    )
    assert [(row["key"], row["money"], row["yes"], row["n"]) for row in rows] == [
        (str(key), "12345678901234567890.12", True, 2),
        (str(key + 1), None, None, 2),
    ]
    with pytest.raises(DataError, match="column other"):
        warehouse.load("exact", reader(held.rename_columns(["other", "money", "at", "yes"])), mode="append")
    with pytest.raises(DataError, match="column n: uint64 does not fit"):
        warehouse.load("wide", reader(pa.table({"n": pa.array([2**63], pa.uint64())})))
