"""Whether a segment key was recoded: rows that fall into segments nobody has seen. Pure over counts."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from metarisk.domain import SegmentKey, segment_name
from metarisk.quality.results import Result

_NAMED = 5  # as many as a sentence holds


def segment_recode(
    counts: Mapping[SegmentKey, int],
    known: Collection[SegmentKey],
    columns: Sequence[str],
    max_unseen_share: float,
    suite: str = "built in",
) -> Result:
    """Judge tonight's segments by the ones that the model was trained on.

    A row that is alone in its segment tonight says that segments are thin: of as many rows again, as many would be in
    segments that are new (Good and Turing; Good 1953, Biometrika 40, 237-264). Such rows are allowed for beside the
    share, of keys and of each column, unless not one row is in a segment that is known.

    Args:
        counts: rows of each segment tonight.
        known: segments that the model has seen; none at all (a first model) passes.
        columns: segment columns, in the order of a key's values.
        max_unseen_share: share of rows in never-seen segments above which the key is taken to be recoded.
        suite: name under which the result is shown.

    Returns:
        A critical result. When it fails, its detail names the values that are new and the known ones that are gone.
    """
    seen, total = set(known), sum(counts.values())
    unseen = {key: rows for key, rows in counts.items() if key not in seen} if seen else {}
    rows = sum(unseen.values())
    parts = [(counts, unseen)] + [_of_column(counts, seen, place) for place in range(len(columns)) if seen]
    success = not any(_recoded(of, new, max_unseen_share) for of, new in parts)
    column, named = (None, "") if success else _named(counts, unseen, seen, columns)
    detail = f"{rows / total:.0%} of rows are in segments never seen before" if rows > max_unseen_share * total else ""
    if detail and success:
        named = f"segments are thin: {_alone(counts) / total:.0%} of rows are alone in theirs"
    told = "; ".join(part for part in (detail, named) if part)
    remedy = (
        "map new values to old ones in the extract SQL; if the segments really are new, train on them with "
        "`metarisk weekly` or raise thresholds.max_unseen_share"
    )
    return Result(suite, "segment key recoded?", column, "critical", success, rows, total, told, remedy)


def _recoded(counts: Mapping[Any, int], unseen: Mapping[Any, int], share: float) -> bool:
    """Whether more rows are in unseen segments than the share and thin segments allow."""
    total, rows = sum(counts.values()), sum(unseen.values())
    return rows > share * total and (rows == total or rows > share * total + _alone(counts))


def _alone(counts: Mapping[Any, int]) -> int:
    return sum(rows == 1 for rows in counts.values())


def _of_column(
    counts: Mapping[SegmentKey, int], known: Collection[SegmentKey], place: int
) -> tuple[Mapping[str, int], Mapping[str, int]]:
    """Rows of each value of one column, and of those that no known segment has."""
    old, rows = {key[place] for key in known}, Counter[str]()
    for key, count in counts.items():
        rows[key[place]] += count
    return rows, {value: count for value, count in rows.items() if value not in old}


def _named(
    counts: Mapping[SegmentKey, int],
    unseen: Mapping[SegmentKey, int],
    known: Collection[SegmentKey],
    columns: Sequence[str],
) -> tuple[str | None, str]:
    parts: list[str] = []
    blamed: str | None = None
    for place, column in enumerate(columns):
        old = {key[place] for key in known}
        rows: dict[str, int] = {}
        for key, count in unseen.items():
            if key[place] not in old:
                rows[key[place]] = rows.get(key[place], 0) + count
        if rows:
            blamed = blamed or column
            gone = sorted(old - {key[place] for key in counts})
            new = sorted(rows, key=lambda value: (-rows[value], value))
            parts.append(f"{column}: new values {_listed(new)}; known values that are gone: {_listed(gone)}")
    if parts:
        return blamed, "; ".join(parts)
    # Every value is known, only its combinations are new: two columns changed places, or a book moved.
    new = [segment_name(key) for key in sorted(unseen, key=lambda key: (-unseen[key], key))]
    gone = sorted(segment_name(key) for key in known if key not in counts)
    return None, f"new segments {_listed(new)}; known segments that are gone: {_listed(gone)}"


def _listed(values: Sequence[str]) -> str:
    if not values:
        return "none"
    more = f" and {len(values) - _NAMED} more" if len(values) > _NAMED else ""
    return ", ".join(repr(value[:60]) for value in values[:_NAMED]) + more
