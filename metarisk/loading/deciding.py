"""Which reading each column of text cells has: proposed from a few cells, proved or refuted on all of them.

A reading counts only if every cell of the column fits it, apart from words for 'no value'. What refutes a proposal
joins the cells from which the next one is made, so that a type that shows in the last row is found like one that shows
in the first.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime

import duckdb

from metarisk.domain import DataError
from metarisk.loading import readings
from metarisk.loading.model import Wanted, counted
from metarisk.loading.readings import LATEST, MISSING, TEXT, Reading, all_readings, of_type
from metarisk.loading.scratch import one_row

_SAMPLE = 500
"""Cells of a column that a first proposal is made from; more would spare few second looks."""
_EXAMPLES = 5  # misfits kept from either end: enough to propose the next reading from
_DECIMAL_DIGITS = 38  # of DuckDB's widest DECIMAL
_WORDS = ", ".join(f"'{word}'" for word in MISSING)
_STAND_INS = {str(sign * (10**digits - 1)) for sign in (1, -1) for digits in range(3, 10)}
_STAND_INS |= {"9999-12-31", "2999-12-31", "1900-01-01", "1899-12-30", "1970-01-01", "0001-01-01"}
"""The smallest or largest value of a column that is one of these often stands for 'no value'."""
_ZEROS = re.compile(r"-?0\d+")
_MONTH = re.compile(r"[A-Za-z]{3,9}[- /]?\d{2,4}")


@dataclass
class Decided:
    """What is known of one column of cells."""

    position: int
    name: str
    wanted: Wanted | None = None
    reading: Reading | None = None
    present: int = 0
    """Cells that are neither empty nor blank."""
    filled: int = 0
    """Cells that are not empty."""
    missing: int = 0
    """Of these, words for 'no value' that become NULL."""
    distinct: int = 0
    seen: list[str] = field(default_factory=list)
    refuted: dict[Reading, int] = field(default_factory=dict)
    """Readings that do not fit all cells, with how many they fit."""
    proposed: list[Reading] = field(default_factory=list)
    proved: list[Reading] = field(default_factory=list)
    """Of the proposed ones those that fit every cell."""
    misfits: list[str] = field(default_factory=list)
    """Cells that nothing proposed last fits."""
    word: str | None = None
    ends: list[object] = field(default_factory=list)
    """Smallest and largest value of the first reading that was proved."""
    unfit: int = 0
    """Cells of a wanted type that do not fit it."""
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    """Notes of what was lost, or decided by a convention."""

    @property
    def cell(self) -> str:
        """The column in SQL."""
        return f"c{self.position}"

    @property
    def words(self) -> str:
        """SQL of whether the cell is a word for 'no value' that this column does not mean."""
        return f"CASE WHEN length({self.cell}) < 20 THEN lower(trim({self.cell})) IN ({_WORDS}) ELSE FALSE END"

    @property
    def value(self) -> str:
        """SQL of the column's values."""
        if self.reading is TEXT and self.present == self.filled:
            return self.cell
        if self.reading is None or self.reading is TEXT:
            return f"CASE WHEN trim({self.cell}) <> '' THEN {self.cell} END"
        return self.reading.value_of(self.cell)

    @property
    def is_unfit(self) -> str:
        """SQL of whether the cell says something that the wanted type cannot hold."""
        assert self.reading is not None  # noqa: S101
        fits = self.reading.fits(self.cell, self.reading.value_of(self.cell))
        return f"(trim({self.cell}) <> '' AND ({fits}) IS NOT TRUE AND NOT {self.words})"

    def settled(self) -> bool:
        """Whether there is nothing left to try; if there is, what refuted the last proposal is seen from now on."""
        if self.proved or (not self.misfits and not self.proposed):
            return True
        unseen = not self.seen
        self.seen += self.misfits
        return (not self.proposed and not unseen) or not self.proposals()

    def proposals(self) -> list[Reading]:
        """The readings to try next: the likeliest of those that the cells seen so far leave, and all of its rank."""
        cells = [cell for cell in self.seen if cell.strip().lower() not in MISSING]
        if not cells or (self.wanted is not None and self.wanted.type == "VARCHAR"):
            return []
        if self.wanted is None:
            open_ = [one for one in all_readings() if one not in self.refuted and all(map(one.may_fit, cells))]
        else:
            among = of_type(self.wanted.type, self.wanted.format)
            fitting = {one: sum(map(one.may_fit, cells)) for one in among}
            # Cells that do not fit the wanted type are set aside, so that the reading of most cells is the one.
            open_ = [one for one in among if fitting[one] == max(fitting.values())]
            open_ = [] if any(one in self.refuted for one in open_) else open_
        first = min((one.rank for one in open_), default=0)
        return [one for one in open_ if one.rank == first and not (one is readings.POINT and readings.NUMBER in open_)]


def decide(
    connection: duckdb.DuckDBPyConnection,
    relation: str,
    names: Sequence[str],
    positions: Sequence[int],
    wanted: Mapping[str, Wanted],
    *,
    point: bool,
) -> tuple[int, list[Decided]]:
    """Decide the reading of every column of cells.

    Args:
        connection: where `relation` is read.
        relation: SQL of a relation with columns c0, c1, ... of text.
        names: name of each of its columns.
        positions: the columns that are cells.
        wanted: types that were asked for, by name.
        point: whether a decimal comma is out of the question, as where commas separate the cells.

    Returns:
        Rows of the relation, and the columns in order.

    Raises:
        DataError: the cells of a column can be read in more than one way, or in more than one century.
    """
    columns = [Decided(position, names[position], wanted.get(names[position])) for position in positions]
    for cells, column in zip(_sample(connection, relation, columns), columns, strict=True):
        column.seen = cells
    rows, open_ = -1, columns
    while rows < 0 or open_:
        counted = _prove(connection, relation, open_, rows)
        rows, open_ = counted, [column for column in open_ if not column.settled()]
    questions = [
        question
        for column in columns
        if len(column.proved) > 1 and (question := _ambiguous(connection, relation, column, point=point))
    ]
    if questions:
        raise _asked(questions)
    _ask_centuries(columns)
    for column in columns:
        _finish(connection, relation, column)
    return rows, columns


def _sample(connection: duckdb.DuckDBPyConnection, relation: str, columns: Sequence[Decided]) -> list[list[str]]:
    if not columns:
        return []
    listed = ", ".join(column.cell for column in columns)
    rows = connection.execute(f"SELECT {listed} FROM {relation} LIMIT {_SAMPLE}").fetchall()  # noqa: S608
    return [
        list(dict.fromkeys(cell for row in rows if (cell := row[at]) is not None and cell.strip(" ")))
        for at in range(len(columns))
    ]


def _prove(connection: duckdb.DuckDBPyConnection, relation: str, columns: Sequence[Decided], rows: int) -> int:
    """Count in one pass which cells fit the proposals; the number of rows. `rows` is negative the first time."""
    first, values, fits, outer = rows < 0, [], [], ["count(*)"]
    for column in columns:
        column.proposed = column.proposals()
        cell, names = column.cell, [f"{column.position}_{number}" for number in range(len(column.proposed))]
        values.append(cell)
        values += [f"{one.value_of(cell)} AS v{name}" for one, name in zip(column.proposed, names, strict=True)]
        fits += [cell, *(f"v{name}" for name in names)]
        fits += [f"{one.fits(cell, f'v{name}')} AS f{name}" for one, name in zip(column.proposed, names, strict=True)]
        rest = f"CASE WHEN {' OR '.join(f'f{name}' for name in names)} THEN FALSE ELSE {{}} END" if names else "{}"
        said = f"trim({cell}) <> ''"
        present = f"CASE WHEN {' OR '.join(f'f{name}' for name in names)} THEN TRUE ELSE {said} END" if names else said
        word, odd = rest.format(column.words), rest.format(f"{said} AND NOT {column.words}")
        for name in names:
            outer += [_count(f"f{name}")]
            outer += [f"{end}(CASE WHEN f{name} THEN v{name} END)" for end in ("min", "max")]
        outer += [_count(word), f"min(CASE WHEN {word} THEN {cell} END)"]
        # Of a column that is text already nothing more is to be learnt.
        looked = bool(names) or not column.seen
        odd_cell = f"CASE WHEN {odd} THEN {cell} END"
        outer += [f"{end}({odd_cell}, {_EXAMPLES})" if looked else "NULL" for end in ("min", "max")]
        if first:
            outer += [_count(present), f"count({cell})", f"approx_count_distinct({cell})"]
    valued = f"(SELECT {', '.join(values) or '1'} FROM {relation})"  # noqa: S608
    judged = f"(SELECT {', '.join(fits) or '1'} FROM {valued})"  # noqa: S608
    answer = one_row(connection, f"SELECT {', '.join(outer)} FROM {judged}")  # noqa: S608
    told = iter(answer[1:])
    for column in columns:
        counts, ends = {}, {}
        for one in column.proposed:
            counts[one], ends[one] = next(told), [next(told), next(told)]
        column.missing, column.word = next(told), next(told)
        column.misfits = [*(next(told) or []), *(next(told) or [])]
        if first:
            column.present, column.filled, column.distinct = next(told), next(told), next(told)
        column.proved = [one for one, fit in counts.items() if fit and fit + column.missing == column.present]
        column.refuted |= {one: fit for one, fit in counts.items() if one not in column.proved}
        column.ends = ends[column.proved[0]] if column.proved else []
    return int(answer[0])


def _count(condition: str) -> str:
    """SQL of how often it holds; FILTER, of many aggregates, would copy all columns for each."""
    return f"count(CASE WHEN {condition} THEN 1 END)"


def _ambiguous(
    connection: duckdb.DuckDBPyConnection, relation: str, column: Decided, *, point: bool
) -> tuple[Decided, str] | None:
    """The column with a cell that its readings read differently; None where they do not, and the first is taken."""
    aside = readings.set_aside(column.proved, point=point)
    column.proved = [one for one in column.proved if one not in aside]
    others = column.proved[1:]
    cell = _read_differently(connection, relation, column, aside)
    if cell is not None:
        column.warnings.append(f"{cell!r} may be {aside[0].option}, too; --types would say so")
    cell = _read_differently(connection, relation, column, others)
    return None if cell is None else (column, cell)


def _read_differently(
    connection: duckdb.DuckDBPyConnection, relation: str, column: Decided, others: Sequence[Reading]
) -> str | None:
    """A cell of which the value is another by one of the other readings than by the first that was proved."""
    if not others:
        return None
    value = column.proved[0].value_of(column.cell)
    differ = " OR ".join(f"({value}) IS DISTINCT FROM ({other.value_of(column.cell)})" for other in others)
    (found,) = one_row(connection, f"SELECT min({column.cell}) FROM {relation} WHERE {differ}")  # noqa: S608
    return None if found is None else str(found)


def _ask_centuries(columns: Sequence[Decided]) -> None:
    """Years of two digits are asked about where they would lie in the future. Raises DataError."""
    today, told, choices = datetime.now(UTC).date(), [], []
    for column in columns:
        one = column.proved[0] if column.proved else None
        if one is None or "%y" not in one.option or "@" in one.option:
            continue
        last = column.ends[1]
        if isinstance(last, date) and (last.date() if isinstance(last, datetime) else last) > today:
            told.append(f"{column.name} ({last:%Y-%m-%d}, or in {last.year - 100})")
            choices.append((column.name, one.option))
    if told:
        past, ahead = (",".join(f"{name}={form}@{year}" for name, form in choices) for year in (today.year, LATEST))
        raise DataError(
            f"years of two digits would lie in the future: {'; '.join(told)}",
            remedy=f"say the latest year that they mean: --types '{past}', or {LATEST} as in --types '{ahead}'",
            column=choices[0][0],
        )


def _asked(questions: Sequence[tuple[Decided, str]]) -> DataError:
    """The error that asks how columns are meant."""
    told = [
        f"{column.name} ({cell!r} is {' or '.join(one.option for one in column.proved)}, in every row)"
        for column, cell in questions
    ]
    choices = ",".join(f"{column.name}={column.proved[0].option}" for column, _ in questions)
    return DataError(
        f"cells can be read in more than one way: {'; '.join(told)}",
        remedy=f"say which is meant, as in --types '{choices}'",
        column=questions[0][0].name,
    )


def _finish(connection: duckdb.DuckDBPyConnection, relation: str, column: Decided) -> None:
    """Choose the reading that was proved, text where none was, and note what a person should know."""
    if column.proved:
        column.reading = column.proved[0]
    elif column.wanted is None or column.wanted.type == "VARCHAR":
        column.reading = TEXT
    else:
        among = column.refuted or dict.fromkeys(of_type(column.wanted.type, column.wanted.format), 0)
        column.reading = max(among, key=lambda one: among[one])
        column.unfit = column.present - column.missing - among[column.reading]
    if column.reading is readings.MANY_DIGITS:
        column.reading = _scaled(connection, relation, column)
    if column.reading in (readings.POINT, readings.COMMA) and column.wanted is None:
        _one_currency(connection, relation, column)
    if column.reading.cut:
        finer = f"regexp_matches({column.cell}, '{column.reading.cut}')"
        (cut,) = one_row(connection, f"SELECT count(*) FROM {relation} WHERE {finer}")  # noqa: S608
        column.warnings.append(f"{counted(cut, 'time')} finer than a microsecond, cut there")
    if column.reading.option == "DATE:%Y%m%d" and column.wanted is None:
        column.warnings.append(f"whole numbers, all of which are dates; --types '{column.name}=BIGINT' keeps numbers")
    column.notes += _notes(column)


def _scaled(connection: duckdb.DuckDBPyConnection, relation: str, column: Decided) -> Reading:
    x = f"trim({column.cell})"
    found = connection.execute(
        f"SELECT max(length(split_part(ltrim({x}, '-'), '.', 1))), max(length(split_part({x}, '.', 2))) "  # noqa: S608
        f"FROM {relation} WHERE {readings.MANY_DIGITS.fits(column.cell, x)}"
    ).fetchone()
    whole, scale = (found[0] or 0, found[1] or 0) if found else (0, 0)
    if column.wanted is not None and whole + scale <= _DECIMAL_DIGITS:
        return readings.exact(_DECIMAL_DIGITS, scale)
    if column.wanted is not None:
        raise DataError(
            f"its numbers have {whole} digits before the point and {scale} behind, more than a DECIMAL holds",
            column=column.name,
            remedy="make it VARCHAR",
        )
    if scale == 0:
        column.notes.append("whole numbers beyond 64 bits, kept digit by digit")
        return TEXT
    if whole + scale > _DECIMAL_DIGITS:
        column.notes.append(f"numbers of {whole + scale} digits, kept as they are; DOUBLE would round them")
        return TEXT
    return readings.exact(_DECIMAL_DIGITS, scale)


def _one_currency(connection: duckdb.DuckDBPyConnection, relation: str, column: Decided) -> None:
    """Amounts of several currencies are no numbers of one column."""
    sign = f"(SELECT regexp_extract(upper({column.cell}), '{readings.CURRENCY}') AS sign FROM {relation})"  # noqa: S608
    (signs,) = one_row(connection, f"SELECT list(DISTINCT sign ORDER BY sign) FROM {sign} WHERE sign <> ''")  # noqa: S608
    if signs and len(signs) > 1:
        column.reading = TEXT
        column.notes.append(f"amounts in several currencies ({', '.join(signs)}), kept as text")


def _notes(column: Decided) -> list[str]:
    notes = []
    text = column.reading is TEXT
    if column.missing and text:
        notes.append(f"{counted(column.missing, 'cell')} such as {column.word!r} kept as text")
    elif column.missing:
        notes.append(f"{counted(column.missing, 'cell')} such as {column.word!r} read as NULL")
    if column.wanted is None and text and not column.notes and column.seen:
        if any(_ZEROS.fullmatch(cell.strip()) for cell in column.seen):
            notes.append("leading zeros kept")
        else:
            notes += _nearly(column)
    ends = [str(end).removesuffix(".0").removesuffix(" 00:00:00") for end in column.ends]
    notes += [f"{end} may stand for 'no value'" for end in dict.fromkeys(ends) if not text and end in _STAND_INS]
    return notes


def _nearly(column: Decided) -> list[str]:
    """What keeps a column text though most of its cells are something else."""
    cells = [cell for cell in dict.fromkeys(column.seen + column.misfits) if cell.strip().lower() not in MISSING]
    if cells and all(_MONTH.fullmatch(cell.strip()) for cell in cells):
        return ["months without a day"]
    fitting = {one: sum(map(one.may_fit, cells)) for one in all_readings()}
    best = max(fitting, key=lambda one: fitting[one])
    odd = next((cell for cell in cells if not best.may_fit(cell)), None)
    if 2 * fitting[best] <= len(cells):
        return []
    return [f"no {best.means.split(',')[0]}: {odd!r}" if odd is not None else f"not all are {best.means}"]
