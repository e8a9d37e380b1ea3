"""The event log: a hash chain a portfolio, and its check against the tables that it tells of."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
_SEALED: Mapping[str, tuple[str, ...]] = {
    "risk_score": (
        "entity", "target", "segment", "status", "adaptation_id", "score", "score_low", "score_high", "grade", "points",
        "expected_loss", "reasons", "extrapolated",
    ),
    "adaptation": (
        "adaptation_id", "model_id", "segment", "status", "support_rows", "support_events", "support_hash",
        "parameters", "level_shift", "pooled_score", "score_quantile", "score_bound",
    ),
    "drift_metric": (
        "segment", "level", "feature", "metric", "value", "effect", "threshold", "n_ref", "n_cur", "p", "q", "low",
        "high", "min_detectable_ratio", "status",
    ),
    "quality_result": ("suite", "rule", "column_name", "severity", "success", "failing_rows", "total_rows"),
    "score_move_part": (
        "before_run_id", "before_as_of", "target", "segment", "measure", "rows_before", "rows_after", "rows_entered",
        "rows_left", "value_before", "value_after", "from_leavers", "from_entrants", "from_data", "from_adaptation",
        "from_model", "from_calibration",
    ),
    "measure": ("kind", "segment", "metric", "value", "low", "high"),
    "evidence": ("protocol", "candidate", "slice", "metric", "value", "low", "high", "rows", "events"),
}  # fmt: skip
"""Columns by table. Free text, which an erasure may rewrite, and what belongs to an attempt are none of them."""
_OF_RUN = ("adaptation", "drift_metric", "quality_result", "score_move_part", "measure")
_BUCKETS = """
SELECT bucket, md5(string_agg(line, '' ORDER BY line)) AS sum, count(*) AS rows FROM (
    SELECT line, left(line, 2) AS bucket FROM (
        SELECT md5(concat_ws('|', {columns})) AS line FROM metarisk.{table} WHERE {where}
    ) AS hashed
) AS lines GROUP BY bucket ORDER BY bucket
"""
"""In buckets, so that no aggregate grows with the book."""
_RUNS = "SELECT run_id, as_of, model_id, manifest FROM metarisk.run WHERE portfolio = $portfolio"
_STATES = """
SELECT model_id, seq, state, since, by_whom, reason FROM metarisk.model_state
WHERE portfolio = $portfolio ORDER BY model_id, seq
"""
_POINTED = """
SELECT seq, published_at, reason FROM metarisk.publication
WHERE run_id = $run_id AND as_of = $as_of ORDER BY seq DESC LIMIT 1
"""
_PUBLICATIONS = """
SELECT as_of, seq, run_id, published_at, reason FROM metarisk.publication
WHERE portfolio = $portfolio ORDER BY as_of, seq
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
    unsealed: int
    """Events of before publications, states, evidence and all tables of a run were sealed too."""
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


def require_person(context: Context, by: str, reason: str | None = None) -> None:
    """Raise ConfigError where a decision names nobody, or gives a blank reason: the warehouse keeps both for ever.

    `reason` is None where the decision itself says why, as a reviewer's verdict does.
    """
    for what, said, remedy in (("who decides", by, "a name by --by"), ("why", reason, "a --reason")):
        if said is not None and not said.strip():
            raise ConfigError(f"nothing says {what}", portfolio=context.job.portfolio, remedy=f"give {remedy}")


def chained(event: Mapping[str, Any]) -> str:
    """SHA-256 of an event with the hash of the one before it; hexadecimal."""
    told = {name: event[name] for name in ("portfolio", "seq", "kind", "actor", "payload", "prev_hash")}
    return text_hash(json.dumps(told | {"happened_at": _instant(event["happened_at"])}, sort_keys=True))


def seal(source: Rows, run_id: str, as_of: date, table: str = "risk_score") -> tuple[str, int]:
    """SHA-256 over the rows of a run in a table, scores or another, whatever their order, and their number."""
    return _seal(source, table, "run_id = $run_id AND as_of = $as_of", {"run_id": run_id, "as_of": as_of})


def seal_evidence(source: Rows, model_id: str) -> str:
    """SHA-256 over what speaks for a model, whatever the order of its rows."""
    return _seal(source, "evidence", "model_id = $model_id", {"model_id": model_id})[0]


def _seal(source: Rows, table: str, where: str, about: Mapping[str, Scalar]) -> tuple[str, int]:
    """Either warehouse gives the same sum: they write whole numbers as 1.0 and as 1 (scores are hardly ever whole)."""
    text = "CAST({} AS TEXT)" if table == "risk_score" else r"regexp_replace(CAST({} AS TEXT), '\.0$', '')"
    columns = ", ".join(f"coalesce({text.format(column)}, '')" for column in _SEALED[table])
    buckets = source.rows(_BUCKETS.format(columns=columns, table=table, where=where), about)
    digest = hashlib.sha256("".join(f"{row['bucket']}{row['sum']}" for row in buckets).encode())
    return digest.hexdigest(), sum(row["rows"] for row in buckets)


def publication_event(transaction: Transaction, run_id: str, as_of: date, mode: str) -> dict[str, Any]:
    """What the log keeps of a publication: enough to find one changed row of it."""
    manifest = transaction.rows("SELECT manifest FROM metarisk.run WHERE run_id = $run_id", {"run_id": run_id})
    pointed = transaction.rows(_POINTED, {"run_id": run_id, "as_of": as_of})[0]
    scores, rows = seal(transaction, run_id, as_of)
    about = {"run_id": run_id, "as_of": as_of, "mode": mode, "rows": rows}
    sums = {table: seal(transaction, run_id, as_of, table)[0] for table in _OF_RUN}
    about |= {"publication": _told(pointed, "seq", "published_at", "reason"), "tables": sums}
    return about | {"scores": scores, "manifest": text_hash(manifest[0]["manifest"])}


def state_rows(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What the log keeps of states of models; who it was is the event's actor."""
    return [_told(row, "model_id", "seq", "state", "since") for row in rows]


def _told(row: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """Columns of a row as they stand in an event."""
    return {name: _instant(row[name]) if isinstance(row[name], datetime) else row[name] for name in names}


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
    whole = not faults and len(chain) == len(events)
    faults += _publications_differ(published, context.warehouse.rows(_PUBLICATIONS, about), _rewritten(trusted), whole)
    faults += _states_differ(trusted, context.warehouse.rows(_STATES, about))
    faults += _evidence_differs(context.warehouse, trusted)
    faults += _overrides_differ(trusted, context.warehouse.rows(_OVERRIDES, about))
    pruned = {json.loads(event["payload"])["run_id"] for event in trusted if event["kind"] == "pruned"}
    sealed = {run_id: told for run_id, told in sealed_scores(trusted).items() if run_id in set(runs) - pruned}
    nights = sorted({runs[run_id]["as_of"] for run_id in sealed})[slice(0 if every_night else -RECENT_NIGHTS, None)]
    for run_id, (seq, told) in sealed.items():
        as_of = runs[run_id]["as_of"]
        if as_of in nights and seal(context.warehouse, run_id, as_of) != (told["scores"], told["rows"]):
            faults.append(Fault(f"score rows of run {run_id} are not those that were published", seq, as_of))
    for seq, told in {told["run_id"]: (seq, told) for seq, told in published.items()}.values():
        run = runs.get(told["run_id"])
        if run is not None and (every_night or run["as_of"] in nights):
            faults += _tables_differ(context.warehouse, run, seq, told.get("tables", {}))
    unsealed = sum(_sums(event) is False for event in trusted)
    newest = chain[-1]["hash"] if chain else None
    return Audit(len(events), len(events) - len(chain), unsealed, len(runs), len(nights), newest, tuple(faults))


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


def _publications_differ(
    published: Mapping[int, Mapping[str, Any]],
    rows: Sequence[Mapping[str, Any]],
    rewritten: set[str],
    whole: bool,
) -> Iterator[Fault]:
    """Publications that are not as the log has them, and, where it is whole, those that it does not know."""
    found = {(str(row["as_of"]), row["run_id"], row["seq"]): row for row in rows}
    names = ("seq", "published_at") if "metarisk.publication" in rewritten else ("seq", "published_at", "reason")
    known = {(told["as_of"], told["run_id"]) for told in published.values()}
    for seq, told in published.items():
        if "publication" not in told:
            continue
        row = found.pop((told["as_of"], told["run_id"], told["publication"]["seq"]), None)
        if row is None or _told(row, *names) != {name: told["publication"][name] for name in names}:
            yield Fault(f"the publication of run {told['run_id']} is not as it was logged", seq)
            known |= {key[:2] for key in found if key[0] == told["as_of"]} if row is None else set()
    for as_of, run_id, _ in sorted(found) if whole else ():
        if (as_of, run_id) not in known:
            yield Fault(f"the log knows no publication of run {run_id} for {as_of}")


def _tables_differ(source: Rows, run: Mapping[str, Any], seq: int, sums: Mapping[str, str]) -> Iterator[Fault]:
    for table, expected in sums.items():
        if seal(source, run["run_id"], run["as_of"], table)[0] != expected:
            yield Fault(f"rows of {table} of run {run['run_id']} are not those that were published", seq, run["as_of"])


def _evidence_differs(source: Rows, events: Sequence[Mapping[str, Any]]) -> Iterator[Fault]:
    """Models for which other rows speak than when their last state was decided."""
    told = {payload["model_id"]: (seq, payload) for seq, _, payload in _of_models(events) if "evidence" in payload}
    for model, (seq, payload) in told.items():
        if seal_evidence(source, model) != payload["evidence"]:
            yield Fault(f"the evidence of model {model} is not that which the log sealed", seq)


def _states_differ(events: Sequence[Mapping[str, Any]], states: Sequence[Mapping[str, Any]]) -> Iterator[Fault]:
    """States of models that are not as the log has them, and models whose newest is not its last word."""
    last: dict[str, tuple[int, str]] = {}
    told: dict[tuple[str, int], tuple[int, dict[str, Any]]] = {}
    reasons = () if "metarisk.model_state" in _rewritten(events) else ("reason",)
    for number, actor, payload in _of_models(events):
        last |= {model: (number, state) for model, state in payload["states"].items()}
        for line in payload.get("rows", ()):
            about = line | {"by_whom": actor, "reason": payload["reason"]}
            told[line["model_id"], line["seq"]] = (number, about)
    found = {(row["model_id"], row["seq"]): row for row in states}
    newest = {row["model_id"]: row for row in states}
    faulty: set[str] = set()
    names = ("model_id", "seq", "state", "since", "by_whom", *reasons)
    for key, (number, about) in told.items():
        if key not in found or _told(found[key], *names) != {name: about[name] for name in names}:
            faulty.add(key[0])
            yield Fault(f"state {key[1]} of model {key[0]} is not what the log says: {about['state']}", number)
    for model, row in newest.items():
        seq, state = last.get(model, (None, row["state"]))
        sealed = [key[1] for key in told if key[0] == model]
        unknown = [key[1] for key in found if key[0] == model and sealed and key[1] > min(sealed) and key not in told]
        if model not in faulty and (unknown or state != row["state"]):
            yield Fault(f"model {model} is {row['state']}, and the log says {state}", seq)


def _of_models(events: Sequence[Mapping[str, Any]]) -> list[tuple[int, str, dict[str, Any]]]:
    """Number, actor and contents of each event of a model."""
    return [
        (event["seq"], event["actor"], json.loads(event["payload"])) for event in events if event["kind"] == "model"
    ]


def _rewritten(events: Sequence[Mapping[str, Any]]) -> set[str]:
    """Tables of which an erasure renamed words in free text: that text is no longer the logged one."""
    return {table for event in events if event["kind"] == ERASED for table in json.loads(event["payload"])["rows"]}


def _sums(event: Mapping[str, Any]) -> bool | None:
    """Whether an event of a publication or a model seals all that such events do now; None for others."""
    sealing = {"publication": "tables", "model": "rows"}.get(event["kind"])
    return None if sealing is None else sealing in json.loads(event["payload"])


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
