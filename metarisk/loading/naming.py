"""Names of columns that both warehouses hold: what a file calls them, changed where it must be, and told."""

from collections.abc import Sequence

_LONGEST = 63
"""Bytes; PostgreSQL cuts longer names."""


def column_names(raw: Sequence[str | None]) -> tuple[list[str], list[str]]:
    """Names for the columns of a file, and a sentence for each that had to be changed.

    Blanks around a name go, an empty one becomes `column_N`, control characters become blanks, what is longer than 63
    bytes is cut, and of names that differ by case alone, which DuckDB does not tell apart, later ones get a number.
    """
    names: list[str] = []
    notes: list[str] = []
    taken: set[str] = set()
    given = {name.strip().lower() for name in raw if name}
    for position, written in enumerate(raw, start=1):
        clean = "".join(character if character.isprintable() else " " for character in written or "").strip()
        name = base = _cut(clean or f"column_{position}", _LONGEST)
        number = 2
        while name.lower() in taken or (name != base and name.lower() in given):
            name = f"{_cut(base, _LONGEST - len(str(number)) - 1)}_{number}"
            number += 1
        taken.add(name.lower())
        names.append(name)
        if name != (written or "").strip():
            twin = next((other for other in names[:-1] if other.lower() == base.lower()), None)
            reason = f", for there is {twin!r} already" if twin is not None else ""
            notes.append(f"column {position} {written or ''!r} is loaded as {name!r}{reason}")
    return names, notes


def _cut(name: str, longest: int) -> str:
    return name.encode()[:longest].decode(errors="ignore")
