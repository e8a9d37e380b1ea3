"""Whether a segment key was recoded: rows that fall into segments nobody has seen. Pure over counts."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from metarisk.domain import SegmentKey, segment_name
from metarisk.quality.results import Result

_NAMED = 5


def segment_recode(
    counts: Mapping[SegmentKey, int],
    known: Collection[SegmentKey],
    columns: Sequence[str],
    max_unseen_share: float,
    suite: str = "built in",
) -> Result:
    """Judge tonight's segments by the ones that the model was trained on.

    Args:
        counts: rows of each segment tonight.
        known: segments that the model has seen; none at all (a first model) passes.
        columns: segment columns, in the order of a key's values.
        max_unseen_share: share of rows in never-seen segments above which the key is taken to be recoded.
        suite: name under which the result is shown.

    Returns:
        A critical result. When it fails, its detail names the values that are new and the known ones that are gone.
    """
    seen = set(known)
    total = sum(counts.values())
    unseen = {key: rows for key, rows in counts.items() if key not in seen}
    rows = sum(unseen.values()) if seen else 0
    success = rows <= max_unseen_share * total
    column, detail = (None, "") if success else _named(counts, unseen, seen, columns)
    return Result(
        suite=suite,
        rule="segment key recoded?",
        column=column,
        severity="critical",
        success=success,
        failing_rows=rows,
        total_rows=total,
        detail="" if success else f"{rows / total:.0%} of rows are in segments never seen before; {detail}",
        remedy="map new values to old ones in the extract SQL; if the segments really are new, train on them with "
        "`metarisk weekly` or raise thresholds.max_unseen_share",
    )


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
