"""The life of an alert: it opens once, stays open silently, and closes when it has been quiet for some nights.

Pure: what is open and what was found come in, events go out. Where they are kept is the pipeline's business.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import date
from typing import Any

import polars as pl

from metarisk.drift import OPENING
from metarisk.drift.decide import SUSPECTED

RED = frozenset({"alert", SUSPECTED})
Key = tuple[str | None, str | None, str]
"""Segment, feature, metric."""


@dataclass(frozen=True)
class Open:
    """An alert that is open."""

    alert_id: str
    key: Key


@dataclass(frozen=True)
class Event:
    """One thing that happened to an alert tonight; `alert_id` is None where it opens."""

    event: str
    key: Key
    alert_id: str | None
    status: str
    detail: str | None
    told: str


def follow(
    found: pl.DataFrame,
    opened: Sequence[Open],
    noisy: Sequence[Set[Key]],
    muted: Mapping[Key, date],
    *,
    as_of: date,
    room: int,
    close_after: int,
) -> list[Event]:
    """What happens to the alerts of a portfolio tonight, the worst new one first.

    Args:
        found: the night's rows of `drift_metric`.
        opened: alerts open before.
        noisy: of each of the nights before, newest first, the keys that were not ok; as many as are published, at most
            `close_after` - 1. Fewer of them close nothing.
        muted: keys that nobody wants to hear of, and until when.
        room: how many messages may still be sent; more are told in the digest.
        close_after: nights in a row, tonight included, that must be ok.

    A finding inside a larger one, found or still open (its parent or the whole portfolio, on the same feature and
    measure), opens no alert.
    """
    watched = found.filter(pl.col("metric").is_in(OPENING))
    keys: list[Key] = list(watched.select("segment", "feature", "metric").iter_rows())
    lines: list[dict[str, Any]] = list(watched.iter_rows(named=True))
    red = {key: line for key, line in zip(keys, lines, strict=True) if line["status"] in RED}
    known = {alert.key for alert in opened}
    larger = red.keys() | known
    events = []
    for key, line in sorted(red.items(), key=lambda item: _badness(item[1])):
        if key in known or any((above, *key[1:]) in larger for above in _above(key[0])):
            continue
        told = "nobody" if muted.get(key, date.min) >= as_of else "message" if room > 0 else "digest"
        room -= told == "message"
        events.append(Event("opened", key, None, line["status"], line["detail"], told))
    tonight = {key for key, line in zip(keys, lines, strict=True) if line["status"] != "ok"}
    quiet_long = len(noisy) >= close_after - 1
    for alert in opened:
        if quiet_long and not any(alert.key in night for night in (tonight, *noisy[: close_after - 1])):
            words = f"ok for {close_after} nights" if alert.key in keys else "no longer watched"
            events.append(Event("closed", alert.key, alert.alert_id, "ok", words, "nobody"))
    return events


def _badness(line: Mapping[str, Any]) -> tuple[bool, bool, float, str]:
    """Concept drift first, then the whole portfolio, then by effect."""
    strength = -abs(line["effect"] or 0.0)
    return line["status"] != SUSPECTED, line["segment"] is not None, strength, str((line["segment"], line["feature"]))


def _above(segment: str | None) -> list[str | None]:
    """The whole portfolio and the values of a cell's name: what may hold a finding larger than the segment's own."""
    if segment is None:
        return []
    values = re.split(r"(?<!\\)\|", segment)
    return [None, *(values if len(values) > 1 else ())]
