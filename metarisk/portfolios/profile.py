"""A table as a draft sees it: of every column the type, the nulls and the form of its dates, and rows from all over it.

The whole table is read once, a batch at a time, through a read-only `Source`. What columns mean is `deciding`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import polars as pl
import pyarrow as pa

from metarisk.domain import ConfigError, quoted
from metarisk.domain.database import Source

Kind = Literal["date", "text", "whole", "number", "flag", "other"]
SAMPLE_ROWS = 50_000
"""Rows that are kept, at least, of a table that has them: events of one in a thousand are then fifty."""
MONTHS = "janfebmaraprmayjunjulaugsepoctnovdec"


@dataclass(frozen=True)
class DateForm:
    """One way to write a date as text, and its SQL on either warehouse; `{0}` is the column as text."""

    name: str
    pattern: str
    """Of the whole value, with groups `y`, `m`, `d`."""
    sql: str

    def parsed(self, values: pl.Expr) -> pl.Expr:
        """Dates of values of this form; null for what is none."""
        groups = values.str.strip_chars().str.extract_groups(self.pattern)
        year, month, day = (groups.struct.field(part) for part in "ymd")
        number = pl.coalesce(
            month.cast(pl.Int32, strict=False),
            month.str.to_lowercase().replace_strict(
                {MONTHS[3 * i : 3 * i + 3]: i + 1 for i in range(12)}, default=None, return_dtype=pl.Int32
            ),
        )
        whole = year.cast(pl.Int32, strict=False)
        short = year.str.len_chars() == 2
        full = pl.when(short).then(pl.when(whole < 69).then(whole + 2000).otherwise(whole + 1900)).otherwise(whole)
        text = pl.concat_str(
            full.cast(pl.String).str.zfill(4), number.cast(pl.String).str.zfill(2), day.str.zfill(2), separator="-"
        )
        return text.str.to_date("%Y-%m-%d", strict=False)


def _parts(separator: str, order: str) -> str:
    """SQL of three numbers between separators; `order` names them, as in `dmy`."""
    part = {name: f"CAST(split_part({{0}}, '{separator}', {order.index(name) + 1}) AS INTEGER)" for name in order}
    return f"make_date({part['y']}, {part['m']}, {part['d']})"


def _named_month(separator: str) -> str:
    year = f"CAST(split_part({{0}}, '{separator}', 3) AS INTEGER)"
    century = f"{year} + CASE WHEN {year} < 69 THEN 2000 WHEN {year} < 100 THEN 1900 ELSE 0 END"
    month = f"(strpos('xx{MONTHS}', lower(split_part({{0}}, '{separator}', 2))) / 3)"
    return (
        f"make_date({century}, CAST(floor({month}) AS INTEGER), CAST(split_part({{0}}, '{separator}', 1) AS INTEGER))"
    )


_ISO = r"^(?P<y>\d{4})-(?P<m>\d{1,2})-(?P<d>\d{1,2})(?:[ T][0-9:.+Z-]*)?$"
FORMS = (
    DateForm("YYYY-MM-DD", _ISO, "CAST(substr({0}, 1, 10) AS DATE)"),
    DateForm(
        "YYYYMMDD",
        r"^(?P<y>(?:19|20)\d{2})(?P<m>\d{2})(?P<d>\d{2})$",
        "make_date(CAST(substr({0}, 1, 4) AS INTEGER), CAST(substr({0}, 5, 2) AS INTEGER), "
        "CAST(substr({0}, 7, 2) AS INTEGER))",
    ),
    *(
        DateForm(
            separator.join({"d": "DD", "m": "MM", "y": "YYYY"}[name] for name in order),
            "^" + re.escape(separator).join({"d": r"(?P<d>\d{1,2})", "m": r"(?P<m>\d{1,2})", "y": r"(?P<y>\d{4})"}[n]
                                            for n in order) + "$",
            _parts(separator, order),
        )
        for separator in "/.-"
        for order in ("dmy", "mdy", "ymd")
        if (separator, order) != ("-", "ymd")
    ),
    *(
        DateForm(
            f"DD{separator}Mon{separator}YY",
            rf"^(?P<d>\d{{1,2}}){re.escape(separator)}(?P<m>[A-Za-z]{{3}}){re.escape(separator)}(?P<y>\d{{4}}|\d{{2}})$",
            _named_month(separator),
        )
        for separator in "- /"
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Column:
    """What the whole table says of one column."""

    name: str
    kind: Kind
    type: str
    nulls: int
    forms: tuple[DateForm, ...] = ()
    """Of text and whole numbers: forms in which all of its values are dates. More than one: nobody knows which."""

    @property
    def sql(self) -> str:
        """The column in a SELECT: cast to a date where it is written as text in one form."""
        if len(self.forms) != 1:
            return quoted(self.name)
        return self.forms[0].sql.format(f"NULLIF(trim(CAST({quoted(self.name)} AS VARCHAR)), '')")


@dataclass(frozen=True)
class Profile:
    """A table: its columns, and rows evenly spread over it with dates parsed."""

    table: str
    relation: str
    rows: int
    columns: Mapping[str, Column]
    sample: pl.DataFrame

    def share(self, name: str) -> float:
        """Share of the table's rows that have a value."""
        return 1 - self.columns[name].nulls / self.rows


def read_profile(table: str, source: Source, portfolio: str) -> Profile:
    """Read a table whole. Raises ConfigError where it has no rows, or columns that case alone tells apart."""
    relation = ".".join(quoted(part) for part in table.split("."))
    with source.stream(f"SELECT * FROM {relation}") as reader:  # noqa: S608
        schema, seen = reader.schema, _Seen(reader.schema)
        _require_names(schema.names, table, portfolio)
        for batch in reader:
            seen.add(batch)
    if not seen.rows:
        raise ConfigError(f"{table} has no rows to guess from", remedy="load it first", portfolio=portfolio)
    columns = {field.name: seen.column(field) for field in schema}
    sample = seen.sample()
    dated = [column.forms[0].parsed(pl.col(name).cast(pl.String)).alias(name)
             for name, column in columns.items() if len(column.forms) == 1]  # fmt: skip
    days = [
        pl.col(name).cast(pl.Date) for name, column in columns.items() if column.kind == "date" and not column.forms
    ]
    return Profile(table, relation, seen.rows, columns, sample.with_columns(*dated, *days))


def _require_names(names: list[str], table: str, portfolio: str) -> None:
    lower: dict[str, str] = {}
    for name in names:
        if (twin := lower.setdefault(name.lower(), name)) != name:
            raise ConfigError(
                f"{table} has columns {twin} and {name}, which case alone tells apart",
                remedy="rename one of them in a view, and draft from that",
                portfolio=portfolio,
                column=name,
            )


class _Seen:
    """What the batches so far say: counts of all rows, and every k-th row."""

    def __init__(self, schema: pa.Schema) -> None:
        self.rows = 0
        self._kinds = {field.name: kind_of(field) for field in schema}
        self._used = [name for name, kind in self._kinds.items() if kind != "other"]
        self._nulls = dict.fromkeys(schema.names, 0)
        self._forms = {name: FORMS for name, kind in self._kinds.items() if kind in ("text", "whole")}
        self._stride = 1
        self._kept: list[pl.DataFrame] = []

    def add(self, batch: pa.RecordBatch) -> None:
        """Count a batch and keep its part of the sample."""
        for name in batch.schema.names:
            self._nulls[name] += batch.column(name).null_count
        storage = [column.storage if isinstance(column, pa.ExtensionArray) else column for column in batch.columns]
        plain = pa.RecordBatch.from_arrays(storage, names=batch.schema.names).select(self._used)
        frame = pl.DataFrame(plain).with_row_index("__row", self.rows)
        for name, forms in self._forms.items():
            if forms:
                values = frame.get_column(name).drop_nulls().cast(pl.String).str.strip_chars()
                blank = values == ""
                self._nulls[name] += int(blank.sum())
                values = values.filter(~blank)
                self._forms[name] = tuple(form for form in forms if _all_of(form, values))
        self.rows += batch.num_rows
        self._kept.append(frame.filter(pl.col("__row") % self._stride == 0))
        while sum(part.height for part in self._kept) >= 2 * SAMPLE_ROWS:
            self._stride *= 2
            self._kept = [part.filter(pl.col("__row") % self._stride == 0) for part in self._kept]

    def column(self, field: pa.Field) -> Column:
        """What is known of one column."""
        nulls, kind = self._nulls[field.name], self._kinds[field.name]
        forms = self._forms.get(field.name, ()) if nulls < self.rows else ()
        return Column(field.name, "date" if len(forms) == 1 else kind, str(field.type), nulls, forms)

    def sample(self) -> pl.DataFrame:
        """The rows that were kept, numbers as DOUBLE."""
        numbers = [pl.col(name).cast(pl.Float64, strict=False) for name in self._used if self._kinds[name] == "number"]
        return pl.concat(self._kept).with_columns(numbers).drop("__row")


def _all_of(form: DateForm, values: pl.Series) -> bool:
    """Whether all values are dates of a form. The first ones, as a rule, tell that they are not."""
    if values.is_empty():
        return True
    if not values.head(100).str.contains(form.pattern).all():
        return False
    return not values.to_frame("v").select(form.parsed(pl.col("v")).is_null().any()).item()


def kind_of(field: pa.Field) -> Kind:
    """What a column of an Arrow type can be; `other`: nested, binary and what else has no place in a portfolio."""
    kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
    if isinstance(kind, pa.OpaqueType):
        return "number" if kind.type_name == "numeric" else "other"
    if (field.metadata or {}).get(b"ADBC:postgresql:typname") == b"numeric":
        return "number"
    if pa.types.is_date(kind) or pa.types.is_timestamp(kind):
        return "date"
    if pa.types.is_boolean(kind):
        return "flag"
    if pa.types.is_integer(kind) or (pa.types.is_decimal(kind) and kind.scale == 0):
        return "whole"
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return "number"
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return "text"
    return "other"
