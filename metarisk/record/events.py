"""The event log: a hash chain a portfolio."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from metarisk.domain import Scalar, Transaction
from metarisk.record.appending import append
from metarisk.record.seals import chained

_NEWEST = "SELECT seq, hash FROM metarisk.event_log WHERE portfolio = $portfolio ORDER BY seq DESC LIMIT 1"


def append_event(
    transaction: Transaction,
    portfolio: str,
    happened_at: datetime,
    kind: str,
    payload: Mapping[str, Any],
    actor: str = "metarisk",
) -> None:
    """Append one row to the event log of a portfolio, chained to the row before it."""
    before = transaction.rows(_NEWEST, {"portfolio": portfolio})
    row: dict[str, Scalar] = {
        "portfolio": portfolio,
        "seq": 1 + (before[0]["seq"] if before else 0),
        "happened_at": happened_at,
        "kind": kind,
        "actor": actor,
        "payload": json.dumps(dict(payload), sort_keys=True, default=str),
        "prev_hash": before[0]["hash"] if before else None,
    }
    row["hash"] = chained(row)
    append(transaction, "event_log", [row])
