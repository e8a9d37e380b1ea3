"""The event log: a hash chain a portfolio, and its check against the tables that it tells of."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from itertools import pairwise
from typing import Any, Protocol

from metarisk.domain import ConfigError, Scalar, Transaction
from metarisk.pipeline.appending import append_rows
from metarisk.pipeline.context import Context
from metarisk.pipeline.identity import text_hash

RECENT_NIGHTS = 35
"""Nights whose score rows are read again by default: those that the snapshot for BI holds."""
ERASED = "erased"
"""Kind of the event of an erasure in the warehouse: its new seals stand in place of those of before."""
_NEWEST = "SELECT seq, hash FROM metarisk.event_log WHERE portfolio = $portfolio ORDER BY seq DESC LIMIT 1"
_EVENTS = """
SELECT portfolio, seq, happened_at, kind, actor, payload, prev_hash, hash
FROM metarisk.event_log WHERE portfolio = $portfolio ORDER BY seq
"""
_SCORES = """
SELECT bucket, md5(string_agg(line, '' ORDER BY line)) AS sum, count(*) AS rows FROM (
    SELECT line, left(line, 2) AS bucket FROM (
        SELECT md5(concat_ws(
            '|', entity, target, segment, status, coalesce(adaptation_id, ''), coalesce(CAST(score AS TEXT), ''),
            coalesce(CAST(score_low AS TEXT), ''), coalesce(CAST(score_high AS TEXT), ''), coalesce(grade, ''),
            coalesce(CAST(points AS TEXT), ''), coalesce(CAST(expected_loss AS TEXT), ''), coalesce(reasons, ''),
            coalesce(CAST(extrapolated AS TEXT), '')
        )) AS line
        FROM metarisk.risk_score WHERE run_id = $run_id AND as_of = $as_of
    ) AS hashed
) AS lines GROUP BY bucket ORDER BY bucket
"""
"""In buckets, so that no aggregate grows with the book."""
_RUNS = "SELECT run_id, as_of, model_id, manifest FROM metarisk.run WHERE portfolio = $portfolio"
_STATES = """
SELECT model_id, state FROM (
    SELECT model_id, state, row_number() OVER (PARTITION BY model_id ORDER BY seq DESC) AS place
    FROM metarisk.model_state WHERE portfolio = $portfolio
) AS newest WHERE place = 1
"""


_OVERRIDES = "SELECT * FROM metarisk.score_override WHERE portfolio = $portfolio"


class Rows(Protocol):
    """A warehouse or a transaction on it."""

    def rows(self, sql: str, parameters: Mapping[str, Scalar] | None = None) -> list[dict[str, Any]]:
        """A small result."""
        ...


@dataclass(frozen=True)
class Fault:
    """One thing that is not as it was logged."""

    what: str
    seq: int | None = None
    as_of: date | None = None


@dataclass(frozen=True)
class Audit:
    """What was read again of one portfolio, and what differed."""

    events: int
    unchained: int
    """Events of before the log was chained: nothing proves them."""
    runs: int
    nights: int
    """Nights whose score rows were read again."""
    head: str | None
    """Hash of the newest event: kept elsewhere, it proves that nobody has made the whole chain anew."""
    faults: tuple[Fault, ...]


def append_event(
    context: Context, transaction: Transaction, kind: str, payload: Mapping[str, Any], actor: str = "metarisk"
) -> None:
    """Append one row to the event log of the job's portfolio, chained to the row before it."""
    portfolio = context.job.portfolio
    before = transaction.rows(_NEWEST, {"portfolio": portfolio})
    row: dict[str, Scalar] = {
        "portfolio": portfolio,
        "seq": 1 + (before[0]["seq"] if before else 0),
        "happened_at": context.clock(),
        "kind": kind,
        "actor": actor,
        "payload": json.dumps(dict(payload), sort_keys=True, default=str),
        "prev_hash": before[0]["hash"] if before else None,
    }
    row["hash"] = chained(row)
    append_rows(transaction, "metarisk.event_log", [row])


def require_person(context: Context, by: str, reason: str) -> None:
    """Raise ConfigError where a decision names nobody, or gives no reason: the log keeps both for ever."""
    for what, said in (("who decides", by), ("why", reason)):
        if not said.strip():
            raise ConfigError(
                f"nothing says {what}", portfolio=context.job.portfolio, remedy="give a name by --by and a --reason"
            )


def chained(event: Mapping[str, Any]) -> str:
    """SHA-256 of an event with the hash of the one before it; hexadecimal."""
    told = {name: event[name] for name in ("portfolio", "seq", "kind", "actor", "payload", "prev_hash")}
    return text_hash(json.dumps(told | {"happened_at": _instant(event["happened_at"])}, sort_keys=True))


def seal(source: Rows, run_id: str, as_of: date) -> tuple[str, int]:
    """SHA-256 over the score rows of a run whatever their order, and their number."""
    buckets = source.rows(_SCORES, {"run_id": run_id, "as_of": as_of})
    digest = hashlib.sha256("".join(f"{row['bucket']}{row['sum']}" for row in buckets).encode())
    return digest.hexdigest(), sum(row["rows"] for row in buckets)


def publication_event(transaction: Transaction, run_id: str, as_of: date, mode: str) -> dict[str, Any]:
    """What the log keeps of a publication: enough to find one changed row of it."""
    manifest = transaction.rows("SELECT manifest FROM metarisk.run WHERE run_id = $run_id", {"run_id": run_id})
    scores, rows = seal(transaction, run_id, as_of)
    about = {"run_id": run_id, "as_of": as_of, "mode": mode, "rows": rows}
    return about | {"scores": scores, "manifest": text_hash(manifest[0]["manifest"])}


def override_sum(row: Mapping[str, Any]) -> str:
    """SHA-256 of an override: its event holds no more, for the log is never rewritten and names no entity."""
    told = {name: value for name, value in row.items() if name != "happened_at"}
    return text_hash(json.dumps(told | {"happened_at": _instant(row["happened_at"])}, sort_keys=True, default=str))


def verify(context: Context, *, every_night: bool = False, head: str | None = None) -> Audit:
    """Read the log of the job's portfolio again, and the rows that it tells of.

    Args:
        every_night: read the score rows of all nights again, not of the newest RECENT_NIGHTS alone.
        head: hash of an event that was kept elsewhere; it must still be in the chain.
    """
    about: dict[str, Scalar] = {"portfolio": context.job.portfolio}
    events = context.warehouse.rows(_EVENTS, about)
    chain = [event for event in events if event["hash"] is not None]
    faults = list(_broken(events))
    if head is not None and head not in {event["hash"] for event in chain}:
        faults.append(Fault(f"no event has the hash {head}: the chain was made anew, or it is of another portfolio"))
    trusted = [event for event in chain if chained(event) == event["hash"]]
    published = {event["seq"]: json.loads(event["payload"]) for event in trusted if event["kind"] == "publication"}
    runs = {row["run_id"]: row for row in context.warehouse.rows(_RUNS, about)}
    faults += _runs_differ(published, runs)
    faults += _states_differ(trusted, context.warehouse.rows(_STATES, about))
    faults += _overrides_differ(trusted, context.warehouse.rows(_OVERRIDES, about))
    pruned = {json.loads(event["payload"])["run_id"] for event in trusted if event["kind"] == "pruned"}
    sealed = {run_id: told for run_id, told in sealed_scores(trusted).items() if run_id in set(runs) - pruned}
    nights = sorted({runs[run_id]["as_of"] for run_id in sealed})[slice(0 if every_night else -RECENT_NIGHTS, None)]
    for run_id, (seq, told) in sealed.items():
        as_of = runs[run_id]["as_of"]
        if as_of in nights and seal(context.warehouse, run_id, as_of) != (told["scores"], told["rows"]):
            faults.append(Fault(f"score rows of run {run_id} are not those that were published", seq, as_of))
    newest = chain[-1]["hash"] if chain else None
    return Audit(len(events), len(events) - len(chain), len(runs), len(nights), newest, tuple(faults))


def sealed_scores(events: Sequence[Mapping[str, Any]]) -> dict[str, tuple[int, Mapping[str, Any]]]:
    """By run, the last event that sealed its score rows, and the seal: an erasure seals anew what it has renamed."""
    found: dict[str, tuple[int, Mapping[str, Any]]] = {}
    for event in events:
        told = json.loads(event["payload"])
        if event["kind"] == "publication":
            found[told["run_id"]] = (event["seq"], told)
        elif event["kind"] == ERASED:
            found |= {run_id: (event["seq"], anew) for run_id, anew in told["scores"].items()}
    return found


def sealed_overrides(events: Sequence[Mapping[str, Any]]) -> dict[int, tuple[int, str]]:
    """By number of an override, the last event that sealed its row, and the seal."""
    found: dict[int, tuple[int, str]] = {}
    for event in events:
        told = json.loads(event["payload"])
        if event["kind"] == "override":
            found[told["seq"]] = (event["seq"], told["row"])
        elif event["kind"] == ERASED:
            found |= {int(number): (event["seq"], row) for number, row in told["overrides"].items()}
    return found


def trusted_events(source: Rows, portfolio: str) -> list[dict[str, Any]]:
    """Events of a portfolio that are as they were hashed, in their order."""
    events = source.rows(_EVENTS, {"portfolio": portfolio})
    return [event for event in events if event["hash"] is not None and chained(event) == event["hash"]]


def _broken(events: Sequence[Mapping[str, Any]]) -> Iterator[Fault]:
    """Events that are not what was hashed, and gaps between them."""
    for event in events:
        if event["hash"] is not None and chained(event) != event["hash"]:
            yield Fault(f"event {event['seq']} ({event['kind']}) was changed after it was written", event["seq"])
    for before, event in pairwise(events):
        if event["seq"] != before["seq"] + 1:
            yield Fault(f"events {before['seq'] + 1} to {event['seq'] - 1} are gone", before["seq"] + 1)
        elif event["prev_hash"] != before["hash"]:
            yield Fault(f"event {event['seq']} does not follow event {before['seq']}", event["seq"])
    if events and events[0]["seq"] != 1:
        yield Fault(f"events 1 to {events[0]['seq'] - 1} are gone", 1)


def _runs_differ(published: Mapping[int, Mapping[str, Any]], runs: Mapping[str, Mapping[str, Any]]) -> Iterator[Fault]:
    for seq, told in published.items():
        run = runs.get(told["run_id"])
        if run is None:
            yield Fault(f"run {told['run_id']} was published and is gone", seq)
        elif text_hash(run["manifest"]) != told["manifest"]:
            yield Fault(f"the manifest of run {told['run_id']} is not the published one", seq, run["as_of"])


def _states_differ(events: Sequence[Mapping[str, Any]], states: Sequence[Mapping[str, Any]]) -> Iterator[Fault]:
    """Models whose state is another than the log's last word on them."""
    last: dict[str, tuple[int, str]] = {}
    for event in events:
        if event["kind"] == "model":
            told = json.loads(event["payload"])
            last |= {model: (event["seq"], state) for model, state in told["states"].items()}
    for row in states:
        seq, state = last.get(row["model_id"], (None, row["state"]))
        if state != row["state"]:
            yield Fault(f"model {row['model_id']} is {row['state']}, and the log says {state}", seq)


def _overrides_differ(events: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]]) -> Iterator[Fault]:
    """Overrides that are not as the log sealed them, or that it does not know."""
    found = {row["seq"]: override_sum(row) for row in rows}
    told = sealed_overrides(events)
    for number in sorted({*found, *told}):
        seq, expected = told.get(number, (None, None))
        if found.get(number) != expected:
            yield Fault(f"override {number} is not as it was logged", seq)


def _instant(moment: datetime) -> str:
    """A time as text, the same from either warehouse."""
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC).isoformat()
