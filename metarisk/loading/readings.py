"""The ways in which a column of text cells may be meant: whole numbers, money, dates of one order, and so on.

A reading says by SQL whether a cell fits it and what the cell then is. Which one a column has is decided in `deciding`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property

MISSING = (
    "na", "n/a", "#n/a", "n.a.", "nan", "null", "<null>", "none", "nil", "missing", "-", "--", "?", ".", "\\n",
)  # fmt: skip
"""Words for 'no value' in lower case. They are NULL where the rest of a column is no text, and text where it is."""

_SIGN = "[-−]"
_SPACES = r"[\s\x{a0}\x{202f}]"
CURRENCY = r"(?:US\$|[$€£¥₹]|USD|EUR|GBP|CHF|JPY|CAD|AUD|NZD|SEK|NOK|DKK|PLN|CZK|HUF|INR|CNY|BRL|MXN|ZAR|SGD|HKD)"
_GROUPS = r"[1-9]\d{0,2}(?:[ \x{a0}\x{202f}'’]\d{3})+"
_AMOUNT = {
    "point": rf"(?:(?:0|[1-9]\d*|[1-9]\d{{0,2}}(?:,\d{{2,3}})*,\d{{3}}|{_GROUPS})(?:\.\d+)?|\.\d+)",
    "comma": rf"(?:(?:0|[1-9]\d*|[1-9]\d{{0,2}}(?:\.\d{{3}})+|{_GROUPS})(?:,\d+)?|,\d+)",
}
_FILLING = r"[^0-9.,]"
_LONGEST_AMOUNT = 16
"""Fifteen digits and a decimal mark: what a double holds exactly."""

_MONTHS = "(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)"
_MONTH_NAMES = "(?:january|february|march|april|may|june|july|august|september|october|november|december)"
_TIME = r"[T ]\d{1,2}:\d{2}(?::\d{2}(?:\.\d{1,9})?)?(?: ?[AaPp][Mm])?"
_CLOCKS = ("%H:%M:%S", "%H:%M", "%H:%M:%S.%f", "%I:%M:%S %p", "%I:%M %p", "%I:%M:%S%p", "%I:%M%p")
_ZONE = r"(?: ?(?:Z|UTC)|[-+]\d{2}(?::?\d{2})?)"
_CALENDAR = "TIMESTAMP '0001-01-01' AND TIMESTAMP '9999-12-31 23:59:59.999999'"
LATEST = 2068
"""Year that two digits mean at most, as POSIX has it; `@YEAR` behind a format says another."""


@dataclass(frozen=True)
class Reading:
    """One way to read the cells of a column; in SQL `{c}` stands for the cell, `{x}` for the trimmed one."""

    type: str
    """The SQL type that DuckDB and PostgreSQL share."""
    means: str
    """For the table of what was understood."""
    shape: str
    """Regular expression (of RE2 and of Python alike) that a whole cell matches, case ignored."""
    value: str
    """SQL of the value; NULL where the cell does not fit."""
    also: str = "TRUE"
    """SQL of what must hold beside the shape; `{v}` is the value."""
    rank: int = 0
    """Of several readings that fit all cells those of the lowest rank count; if they differ, a person is asked."""
    option: str = ""
    """What `--types` says to choose this one."""
    sure: str = ""
    """SQL that is cheaper than the shape, and enough where it is true."""
    cut: str = ""
    """Regular expression of cells of which the value lacks something; they are counted and told."""

    def value_of(self, cell: str) -> str:
        """SQL of the value of a cell, given as SQL."""
        return self.value.replace("{x}", f"trim({cell})").replace("{c}", cell)

    def fits(self, cell: str, value: str) -> str:
        """SQL of whether a cell fits, given as SQL with its value; NULL or false where it does not."""
        shaped = f"regexp_full_match({{x}}, '{_sql(self.shape)}', 'i') AND {{v}} IS NOT NULL AND {self.also}"
        whole = f"CASE WHEN {self.sure} THEN TRUE ELSE {shaped} END" if self.sure else f"({shaped})"
        return whole.replace("{x}", f"trim({cell})").replace("{c}", cell).replace("{v}", value)

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        return re.compile(re.sub(r"\\x\{(\w+)\}", lambda found: chr(int(found[1], 16)), self.shape), re.IGNORECASE)

    def may_fit(self, cell: str) -> bool:
        """Whether a cell has the shape."""
        return self._pattern.fullmatch(cell.strip(" ")) is not None


TEXT = Reading("VARCHAR", "", ".*", "{x}")
"""What every cell fits; a cell of blanks alone is NULL."""


def _sql(pattern: str) -> str:
    return pattern.replace("'", "''")


def _exact(number: str, value: str) -> str:
    """SQL of whether a double holds a number as it is written: the 17 digits that C prints come back, too."""
    return (
        f"(length({number}) <= {_LONGEST_AMOUNT} OR printf('%.17g', {value}) = {number} OR "
        f"coalesce(TRY_CAST({number} AS DECIMAL(38, 20)) = "
        f"TRY_CAST(CAST({value} AS VARCHAR) AS DECIMAL(38, 20)), FALSE))"
    )


BOOLEAN = Reading("BOOLEAN", "true or false", "true|false", "TRY_CAST({x} AS BOOLEAN)", rank=0)
WHOLE = Reading(
    "BIGINT",
    "whole numbers",
    r"-?(?:0|[1-9]\d{0,18})",
    "TRY_CAST({c} AS BIGINT)",
    rank=2,
    sure="CAST({v} AS VARCHAR) = {c}",
)
NUMBER = Reading(
    "DOUBLE PRECISION",
    "numbers",
    r"-?(?:(?:0|[1-9]\d*)(?:\.\d*)?|\.\d+)(?:e[-+]?\d+)?|[-+]?inf(?:inity)?",
    "TRY_CAST({c} AS DOUBLE)",
    f"(isfinite({{v}}) OR contains(lower({{x}}), 'inf')) AND {_exact('{x}', '{v}')}",
    rank=3,
    option="DOUBLE:point",
    sure="isfinite({v}) AND CAST({v} AS VARCHAR) = {c}",
)
MANY_DIGITS = Reading(
    "DECIMAL", "numbers of more digits than a double holds", r"-?(?:0|[1-9]\d*)(?:\.\d+)?", "{x}", rank=4
)
"""What `exact` may hold, of a scale that all cells decide."""


def _amount(style: str, unit: str, means: str, suffix: str, rank: int) -> Reading:
    number = _AMOUNT[style]
    if unit == "%":
        shape = rf"{_SIGN}?{_SPACES}*{number}{_SPACES}*%"
    else:
        money = rf"(?:{CURRENCY}{_SPACES}*)?"
        closing = rf"(?:{_SPACES}*{CURRENCY})?"
        shape = (
            rf"{_SIGN}?{_SPACES}*{money}{number}{closing}|{CURRENCY}{_SPACES}*{_SIGN}{_SPACES}*{number}"
            rf"|{money}{number}{closing}{_SPACES}*{_SIGN}|\({_SPACES}*{money}{number}{closing}{_SPACES}*\)"
        )
    digits = f"regexp_replace({{x}}, '{_FILLING}', '', 'g')"
    plain = f"replace({digits}, ',', '')" if style == "point" else f"replace(replace({digits}, '.', ''), ',', '.')"
    negative = "CASE WHEN regexp_matches({x}, '[-−(]') THEN '-' ELSE '' END"
    return Reading(
        "DOUBLE PRECISION",
        means,
        shape,
        f"TRY_CAST({negative} || {plain} || '{suffix}' AS DOUBLE)",
        f"length({plain}) <= {_LONGEST_AMOUNT}" if suffix else _exact(plain, "abs({v})"),
        rank,
        f"DOUBLE:{style}",
    )


POINT = _amount("point", "", "amounts, decimal point", "", 3)
COMMA = _amount("comma", "", "amounts, decimal comma", "", 3)
PERCENTS = (
    _amount("point", "%", "per cent, 12 % is 0.12", "e-2", 3),
    _amount("comma", "%", "per cent, decimal comma, 12 % is 0.12", "e-2", 3),
)


def _days() -> list[tuple[str, str, int]]:
    """(shape, format, rank) of dates; orders that may be mistaken for one another share a rank."""
    found = [(r"(?:19|20)\d{6}", "%Y%m%d", 1)]
    for mark in "-/.":
        sep = re.escape(mark) if mark == "." else mark
        found.append((rf"\d{{4}}{sep}\d{{1,2}}{sep}\d{{1,2}}", f"%Y{mark}%m{mark}%d", 5))
        orders = ("%d-%m-%y", "%m-%d-%y") if mark == "." else ("%d-%m-%y", "%m-%d-%y", "%y-%m-%d")
        pair, forms = rf"\d{{1,2}}{sep}\d{{1,2}}{sep}\d\d", [order.replace("-", mark) for order in orders]
        found += [(pair + r"\d\d", form.replace("%y", "%Y"), 6) for form in forms[:2]]
        found += [(pair, form, 7) for form in forms]
    for mark in ("-", " ", "/", ""):
        for names, code in ((_MONTHS, "%b"), (_MONTH_NAMES, "%B")):
            found.append((rf"\d{{1,2}}{mark}{names}{mark}\d{{4}}", f"%d{mark}{code}{mark}%Y", 8))
            found.append((rf"\d{{1,2}}{mark}{names}{mark}\d{{2}}", f"%d{mark}{code}{mark}%y", 9))
    for names, code in ((_MONTHS, "%b"), (_MONTH_NAMES, "%B")):
        found.append((rf"{names} \d{{1,2}},? \d{{4}}", f"{code} %d, %Y", 8))
    return found


def dated(form: str, shape: str = ".*", rank: int = 0, *, time: bool = False) -> Reading:
    """Dates, or times without a zone, of one `strptime` format; with `time`, that of a date before any clock."""
    if not time:
        return _parsed("DATE", form, [form], shape, rank)
    forms = [f"{day}{mark}{clock}" for day in (form, *_uncomma(form)) for mark in " T" for clock in _CLOCKS]
    return _parsed("TIMESTAMP", form, [*forms, form], shape, rank)


def _uncomma(form: str) -> tuple[str, ...]:
    """`%B %d %Y` of `%B %d, %Y`: both are written."""
    return (form.replace(",", ""),) if "," in form else ()


def _parsed(kind: str, form: str, forms: Sequence[str], shape: str, rank: int) -> Reading:
    """DATE or TIMESTAMP cells of any of some formats; `form` is what `--types` says, which may end with `@YEAR`."""
    latest = int(form.rpartition("@")[2]) if "@" in form else LATEST
    bare = [one.partition("@")[0] for one in forms]
    listed = ", ".join(f"'{_sql(one)}'" for one in dict.fromkeys([*bare, *(o for one in bare for o in _uncomma(one))]))
    value = f"try_strptime({{x}}, [{listed}])"
    means = f"{'dates' if kind == 'DATE' else 'times'}, {form.partition('@')[0]}"
    if "%y" in form:
        means += f"; two digits are the years {latest - 99} to {latest}"
        value = _within_century(value, latest) if latest != LATEST else value
    value = f"CAST({value} AS DATE)" if kind == "DATE" else value
    return Reading(kind, means, shape, value, f"{{v}} BETWEEN {_CALENDAR}", rank, f"{kind}:{form}")


def _within_century(value: str, latest: int) -> str:
    """SQL of a time, moved by a century into those that end with `latest`; NULL where it has no such 29 February."""
    years = f"CASE WHEN year({value}) > {latest} THEN -100 WHEN year({value}) <= {latest - 100} THEN 100 ELSE 0 END"
    moved = f"({value} + to_years({years}))"
    return f"CASE WHEN day({moved}) = day({value}) THEN {moved} END"


def set_aside(proved: Sequence[Reading], *, point: bool) -> list[Reading]:
    """Of readings that fit all cells those against which a convention speaks.

    Where commas separate the cells (`point`) a comma is no decimal mark, and with dots the day comes before the month.
    """
    options = {one.option for one in proved}
    plain = point and any(one in proved for one in (NUMBER, POINT, PERCENTS[0]))
    return [
        one
        for one in proved
        if (plain and one in (COMMA, PERCENTS[1]))
        or ("%m.%d." in one.option and one.option.replace("%m.%d.", "%d.%m.") in options)
    ]


@cache
def all_readings() -> tuple[Reading, ...]:
    """Every reading that is tried, the likeliest first."""
    iso = r"\d{4}-\d{1,2}-\d{1,2}"
    days = _days()
    iso_day = Reading(
        "DATE", "dates", r"\d{4}-\d{2}-\d{2}", "TRY_CAST({c} AS DATE)", "{v} >= DATE '0001-01-01'", 0,
        sure="length({c}) = 10 AND CAST({v} AS VARCHAR) = {c}",
    )  # fmt: skip
    clock = r"[T ]\d{1,2}:\d{2}(?::\d{2}(?:\.\d+)?)?"
    times = Reading(
        "TIMESTAMP", "times", rf"{iso}(?:{clock})?", "TRY_CAST({c} AS TIMESTAMP)", f"{{v}} BETWEEN {_CALENDAR}", 11
    )
    moments = Reading(
        "TIMESTAMPTZ",
        "moments, by the zone in each",
        rf"{iso}{clock}{_ZONE}",
        "TRY_CAST({c} AS TIMESTAMPTZ)",
        times.also,
        11,
    )
    return (
        BOOLEAN,
        iso_day,
        *(dated(form, shape, rank) for shape, form, rank in days),
        WHOLE,
        NUMBER,
        MANY_DIGITS,
        POINT,
        COMMA,
        *PERCENTS,
        *(replace(one, shape=one.shape.replace(r"\.\d+", r"\.\d{1,6}0*"), rank=10) for one in (times, moments)),
        *(replace(one, cut=r"\.\d{6}0*[1-9]") for one in (times, moments)),
        *(
            dated(form, rf"(?:{shape})(?:{_TIME})?", rank + 10, time=True)
            for shape, form, rank in days
            if form not in ("%Y-%m-%d", "%Y%m%d")
        ),
    )


_ASKED = (
    Reading(
        "BOOLEAN", "yes or no", "true|false|t|f|yes|no|y|n|1|0", "lower({x}) IN ('true', 't', 'yes', 'y', '1')", rank=1
    ),
    Reading(
        "BIGINT",
        "whole numbers, leading zeros dropped",
        r"-?\d{1,19}(?:\.0*)?",
        "TRY_CAST(regexp_replace({x}, '[.]0*$', '') AS BIGINT)",
        rank=3,
    ),
)
"""Readings that lose how a cell was written: only for a type that somebody asked for."""


def of_type(kind: str, form: str) -> Sequence[Reading]:
    """The readings among which a column of a wanted type (and format, or none) has one; empty where there is none."""
    if kind in ("DATE", "TIMESTAMP") and form:
        return (_parsed(kind, form, [form], ".*", 0),)
    numbers = {"point": (WHOLE, NUMBER, POINT, PERCENTS[0]), "comma": (WHOLE, COMMA, PERCENTS[1])}
    if kind == "DOUBLE PRECISION":
        return numbers.get(form, ()) if form else (WHOLE, NUMBER, POINT, COMMA, *PERCENTS)
    if decimal := re.fullmatch(r"DECIMAL\((\d+), (\d+)\)", kind):
        return (exact(int(decimal[1]), int(decimal[2])),)
    return [reading for reading in (*all_readings(), *_ASKED) if reading.type == kind and not form]


def exact(precision: int, scale: int) -> Reading:
    """Numbers of at most `scale` digits behind the point, kept to the last one."""
    return Reading(
        f"DECIMAL({precision}, {scale})",
        f"numbers to {scale} places",
        rf"-?(?:0|[1-9]\d*)(?:\.\d{{0,{scale}}}0*)?" if scale else r"-?(?:0|[1-9]\d*)(?:\.0*)?",
        f"TRY_CAST({{x}} AS DECIMAL({precision}, {scale}))",
    )
