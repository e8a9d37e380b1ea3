"""What is PostgreSQL's own: errors in the middle of a stream by their SQLSTATE, and texts in whatever encoding."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from metarisk.domain import ConfigError, DataError, MetariskError, WarehouseError
from tests.warehouses import Server, open_postgresql

pytestmark = pytest.mark.xdist_group("postgresql")
ROWS = 200_000
LATE = f"id = {ROWS - 1}"
BOOK = f"(SELECT generate_series(1, {ROWS}) AS id) AS book"


@pytest.mark.parametrize(
    ("expression", "kind", "words"),
    [
        (f"1 / (CASE WHEN {LATE} THEN 0 ELSE 1 END)", DataError, r"refuses the data \(division by zero\)"),
        (f"CAST(CASE WHEN {LATE} THEN 'x' ELSE '1' END AS INTEGER)", DataError, r"refuses the data \(invalid input"),
        (f"(SELECT 1 FROM generate_series(1, 2) WHERE {LATE})", DataError, r"refuses the data \(more than one row"),
        (f"CASE WHEN {LATE} THEN pg_terminate_backend(pg_backend_pid()) END", WarehouseError, "is shutting down"),
        (f"CASE WHEN {LATE} THEN nextval('public.numbers') END", ConfigError, "the SQL writes"),
    ],
)
def test_an_error_of_a_late_row_is_what_its_sqlstate_says(
    expression: str, kind: type[MetariskError], words: str, postgresql: Server, tmp_path: Path
) -> None:
    name = postgresql.create_database()
    postgresql.execute("CREATE SEQUENCE numbers", database=name)
    warehouse = open_postgresql(postgresql.url(name), tmp_path)
    with (
        pytest.raises(MetariskError, match=rf"{words}.*Remedy: \w") as caught,
        warehouse.stream(f"SELECT id, {expression} AS one FROM {BOOK}") as reader,
    ):
        reader.read_all()
    assert type(caught.value) is kind


@pytest.mark.parametrize("setting", ["ROLE", "DATABASE", "URL", "SERVER"])
def test_texts_are_the_same_whatever_encoding_is_set(setting: str, postgresql: Server, tmp_path: Path) -> None:
    cities = ["Z\u00fcrich", "\u00c5rhus", "S\u00e3o Paulo"]
    name, role = postgresql.create_database(), "latin"
    url = postgresql.url(name)
    if setting == "ROLE":
        postgresql.execute(f"CREATE ROLE {role} SUPERUSER LOGIN", f"ALTER ROLE {role} SET client_encoding = latin1")
        url = postgresql.url(name, user=role)
    elif setting == "DATABASE":
        postgresql.execute(f"ALTER DATABASE {name} SET client_encoding = latin1")
    elif setting == "URL":
        url += f"{'&' if '?' in url else '?'}client_encoding=latin1"
    else:
        latin = f"{name}_latin"
        postgresql.execute(f"CREATE DATABASE {latin} ENCODING latin1 LOCALE 'C' TEMPLATE template0")
        url = postgresql.url(latin)
    warehouse = open_postgresql(url, tmp_path)
    batch = pa.RecordBatch.from_pydict({"city": cities})
    warehouse.load("source.cities", pa.RecordBatchReader.from_batches(batch.schema, [batch]))
    assert [row["city"] for row in warehouse.rows("SELECT city FROM source.cities")] == cities
    with warehouse.stream("SELECT city, length(city) AS letters FROM source.cities") as reader:
        found = reader.read_all().to_pydict()
    assert found == {"city": cities, "letters": [len(city) for city in cities]}
    assert warehouse.rows("SELECT $city AS city", {"city": cities[0]}) == [{"city": cities[0]}]
    beyond = pa.RecordBatch.from_pydict({"city": ["\u0141\u00f3d\u017a"]})
    if setting == "SERVER":  # what the server cannot hold is refused, and not made something else
        with pytest.raises(DataError, match="has no equivalent"):
            warehouse.load("source.cities", pa.RecordBatchReader.from_batches(beyond.schema, [beyond]))
