"""What the event log seals: sums over rows of the warehouse, and which sum of a run's rows holds now."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any, NamedTuple

from metarisk.domain import Rows, Scalar, Transaction
from metarisk.domain.hashing import text_hash
from metarisk.record.runs import manifest_of

ERASED, ERASED_FILES = "erased", "erased_files"
"""Kinds of the events of an erasure: new seals of rows, and the hash of the manifest of each rewritten folder."""
PRUNED, PRUNED_FILES = "pruned", "pruned_files"
"""Kinds of the events of `prune`: rows of one run that left the warehouse, and folders that left lake and registry."""
RETRACTION = "retraction"
"""Kind of the event of a publication whose run is none."""
ACCEPTED = "accepted"
"""Kind of the event of a person who published what the guard stopped."""
SCORES = "risk_score"
NOTHING = hashlib.sha256().hexdigest()
"""Seal of no rows."""
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
OF_RUN = ("adaptation", "drift_metric", "quality_result", "score_move_part", "measure")
"""Tables of a run beside its scores."""
_BUCKETS = """
SELECT bucket, md5(string_agg(line, '' ORDER BY line)) AS sum, count(*) AS rows FROM (
    SELECT line, left(line, 2) AS bucket FROM (
        SELECT md5(concat_ws('|', {columns})) AS line FROM metarisk.{table} WHERE {where}
    ) AS hashed
) AS lines WHERE bucket >= '{low:02x}' AND bucket <= '{high:02x}' GROUP BY bucket ORDER BY bucket
"""
"""In buckets by the first two digits of a line's hash, some in each pass."""
_BUCKET_COUNT = 256
ROWS_A_PASS = 4_000_000
"""An ordered aggregate cannot spill: what a pass holds are so many lines, not all of the book's."""
_POINTED = """
SELECT seq, published_at, reason FROM metarisk.publication
WHERE run_id = $run_id AND as_of = $as_of ORDER BY seq DESC LIMIT 1
"""


def chained(event: Mapping[str, Any]) -> str:
    """SHA-256 of an event with the hash of the one before it; hexadecimal."""
    hashed = {name: event[name] for name in ("portfolio", "seq", "kind", "actor", "payload", "prev_hash")}
    return text_hash(json.dumps(hashed | {"happened_at": instant(event["happened_at"])}, sort_keys=True))


def seal(source: Rows, run_id: str, as_of: date, table: str = SCORES) -> tuple[str, int]:
    """SHA-256 over the rows of a run in a table, scores or another, whatever their order, and their number."""
    return _seal(source, table, "run_id = $run_id AND as_of = $as_of", {"run_id": run_id, "as_of": as_of})


def seal_evidence(source: Rows, model_id: str) -> str:
    """SHA-256 over what speaks for a model, whatever the order of its rows."""
    return _seal(source, "evidence", "model_id = $model_id", {"model_id": model_id})[0]


def _seal(source: Rows, table: str, where: str, about: Mapping[str, Scalar]) -> tuple[str, int]:
    """Either warehouse gives the same sum: they write whole numbers as 1.0 and as 1 (scores are hardly ever whole)."""
    text = "CAST({} AS TEXT)" if table == SCORES else r"regexp_replace(CAST({} AS TEXT), '\.0$', '')"
    columns = ", ".join(f"coalesce({text.format(column)}, '')" for column in _SEALED[table])
    counted = source.rows(f"SELECT count(*) AS n FROM metarisk.{table} WHERE {where}", about)  # noqa: S608
    width = max(1, _BUCKET_COUNT // (1 + counted[0]["n"] // ROWS_A_PASS))
    buckets = []
    for low in range(0, _BUCKET_COUNT, width):
        sql = _BUCKETS.format(
            columns=columns, table=table, where=where, low=low, high=min(low + width, _BUCKET_COUNT) - 1
        )
        buckets += source.rows(sql, about)
    digest = hashlib.sha256("".join(f"{row['bucket']}{row['sum']}" for row in buckets).encode())
    return digest.hexdigest(), sum(row["rows"] for row in buckets)


def publication_event(transaction: Transaction, run_id: str, as_of: date, mode: str) -> dict[str, Any]:
    """What the log keeps of a publication: enough to find one changed row of it."""
    pointed = transaction.rows(_POINTED, {"run_id": run_id, "as_of": as_of})[0]
    scores, rows = seal(transaction, run_id, as_of)
    about = {"run_id": run_id, "as_of": as_of, "mode": mode, "rows": rows}
    sums = {table: seal(transaction, run_id, as_of, table)[0] for table in OF_RUN}
    about |= {"publication": as_told(pointed, "seq", "published_at", "reason"), "tables": sums}
    return about | {"scores": scores, "manifest": text_hash(manifest_of(transaction, run_id))}


def state_rows(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What the log keeps of states of models; who it was is the event's actor."""
    return [as_told(row, "model_id", "seq", "state", "since") for row in rows]


def as_told(row: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """Columns of a row as they stand in an event."""
    return {name: instant(row[name]) if isinstance(row[name], datetime) else row[name] for name in names}


def override_sum(row: Mapping[str, Any]) -> str:
    """SHA-256 of an override: its event holds no more, for the log is never rewritten and names no entity."""
    hashed = {name: value for name, value in row.items() if name != "happened_at"}
    return text_hash(json.dumps(hashed | {"happened_at": instant(row["happened_at"])}, sort_keys=True, default=str))


class Seal(NamedTuple):
    """What an event says that the rows of a run in a table are."""

    seq: int
    kind: str
    digest: str


def sealed_rows(events: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], Seal]:
    """By run and table the last seal: an erasure seals anew what it renamed, `prune` what it left in the warehouse."""
    found: dict[tuple[str, str], Seal] = {}
    for event in events:
        seq, kind, about = event["seq"], event["kind"], json.loads(event["payload"])
        if kind == "publication":
            sums = {SCORES: about["scores"], **about.get("tables", {})}
        elif kind == PRUNED:
            sums = about.get("rest", {SCORES: NOTHING})  # once score rows alone left, all of them
        elif kind == ERASED:
            found |= {(run, SCORES): Seal(seq, kind, anew["scores"]) for run, anew in about["scores"].items()}
            continue
        else:
            continue
        found |= {(about["run_id"], table): Seal(seq, kind, digest) for table, digest in sums.items()}
    return found


def sealed_overrides(events: Sequence[Mapping[str, Any]]) -> dict[int, tuple[int, str]]:
    """By number of an override, the last event that sealed its row, and the seal."""
    found: dict[int, tuple[int, str]] = {}
    for event in events:
        about = json.loads(event["payload"])
        if event["kind"] == "override":
            found[about["seq"]] = (event["seq"], about["row"])
        elif event["kind"] == ERASED:
            found |= {int(number): (event["seq"], row) for number, row in about["overrides"].items()}
    return found


def all_events(source: Rows, portfolio: str) -> list[dict[str, Any]]:
    """Every event of a portfolio in its order, whatever was done to it since."""
    return source.rows(_EVENTS, {"portfolio": portfolio})


def trusted_events(source: Rows, portfolio: str) -> list[dict[str, Any]]:
    """Events of a portfolio that are as they were hashed, in their order."""
    return [
        event
        for event in all_events(source, portfolio)
        if event["hash"] is not None and chained(event) == event["hash"]
    ]


def instant(moment: datetime) -> str:
    """A time as text, the same from either warehouse."""
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC).isoformat()
