"""The event log: a hash chain a portfolio, and its check against the tables that it tells of."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import pairwise
from typing import Any

from metarisk.domain import Rows
from metarisk.domain.hashing import text_hash
from metarisk.job.archive import archives, fault
from metarisk.job.context import Context
from metarisk.record import models, runs, seals
from metarisk.record.attempts import published_failures
from metarisk.record.backing import Backing
from metarisk.record.publications import all_publications
from metarisk.record.scores import overrides

RECENT_NIGHTS = 35
"""Nights whose score rows are read again by default: those that the snapshot for BI holds."""


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


def verify(context: Context, *, every_night: bool = False, head: str | None = None) -> Audit:
    """Read the log of the job's portfolio again, and the rows that it tells of.

    Args:
        every_night: read the rows of all nights again, not of the newest RECENT_NIGHTS alone, and the archive of those
            that were pruned.
        head: hash of an event that was kept elsewhere; it must still be in the chain.
    """
    about = context.warehouse, context.job.portfolio
    events = seals.all_events(*about)
    chain = [event for event in events if event["hash"] is not None]
    faults = list(_broken(events))
    if head is not None and head not in {event["hash"] for event in chain}:
        faults.append(Fault(f"no event has the hash {head}: the chain was made anew, or it is of another portfolio"))
    trusted = [event for event in chain if seals.chained(event) == event["hash"]]
    published = {event["seq"]: json.loads(event["payload"]) for event in trusted if event["kind"] == "publication"}
    known = runs.runs(*about)
    faults += _runs_differ(published, known)
    whole = not faults and len(chain) == len(events)
    taken = {event["seq"]: json.loads(event["payload"]) for event in trusted if event["kind"] == seals.RETRACTION}
    faults += _publications_differ(published | taken, all_publications(*about), _rewritten(trusted), whole)
    faults += _states_differ(trusted, models.all_states(*about))
    faults += _evidence_differs(context.warehouse, trusted)
    if not any(_broken(events)):
        unknown = models.unknown_models(*about, Backing.of(events))
        faults += (Fault(f"the log knows no {what}") for what in unknown)
    faults += _overrides_differ(trusted, overrides(*about))
    faults += _not_accepted(trusted, published_failures(*about))
    sealed = {key: found for key, found in seals.sealed_rows(trusted).items() if key[0] in known}
    scored = [run for (run, table), found in sealed.items() if table == seals.SCORES and found.digest != seals.NOTHING]
    nights = sorted({known[run]["as_of"] for run in scored})[slice(0 if every_night else -RECENT_NIGHTS, None)]
    for (run, table), found in sealed.items():
        as_of = known[run]["as_of"]
        if (every_night or as_of in nights) and seals.seal(context.warehouse, run, as_of, table)[0] != found.digest:
            faults.append(_other_rows(run, table, found, as_of))
    for run, archive in archives(trusted).items() if every_night else ():
        if (what := fault(context, run, archive)) is not None:
            faults.append(Fault(what, archive.seq, archive.as_of))
    unsealed = sum(_sums(event) is False for event in trusted)
    newest = chain[-1]["hash"] if chain else None
    return Audit(len(events), len(events) - len(chain), unsealed, len(known), len(nights), newest, tuple(faults))


def _broken(events: Sequence[Mapping[str, Any]]) -> Iterator[Fault]:
    """Events that are not what was hashed, and gaps between them."""
    for event in events:
        if event["hash"] is not None and seals.chained(event) != event["hash"]:
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
    published: Mapping[int, Mapping[str, Any]], rows: Sequence[Mapping[str, Any]], rewritten: set[str], whole: bool
) -> Iterator[Fault]:
    """Publications that are not as the log has them, and, where it is whole, those that it does not know."""
    found = {(str(row["as_of"]), row["run_id"], row["seq"]): row for row in rows}
    names = ("seq", "published_at") if "metarisk.publication" in rewritten else ("seq", "published_at", "reason")
    moved: set[str] = set()
    for seq, told in published.items():
        whose = (told["as_of"], told["run_id"])
        if "publication" not in told:
            found.pop(min((key for key in found if key[:2] == whose), default=(*whose, 0)), None)
            continue
        row = found.pop((*whose, told["publication"]["seq"]), None)
        if row is None or seals.as_told(row, *names) != {name: told["publication"][name] for name in names}:
            yield Fault(f"the {_named(told['run_id'])} for {told['as_of']} is not as it was logged", seq)
            moved |= {told["as_of"]} if row is None else set()
    for as_of, run_id, _ in sorted(found, key=str) if whole else ():
        if as_of not in moved:
            yield Fault(f"the log knows no {_named(run_id)} for {as_of}")


def _named(run_id: str | None) -> str:
    return "retraction" if run_id is None else f"publication of run {run_id}"


def _other_rows(run_id: str, table: str, sealed: seals.Seal, as_of: date) -> Fault:
    whose = "score rows" if table == seals.SCORES else f"rows of {table}"
    were = "that were left when it was pruned" if sealed.kind == seals.PRUNED else "that were published"
    return Fault(f"{whose} of run {run_id} are not those {were}", sealed.seq, as_of)


def _evidence_differs(source: Rows, events: Sequence[Mapping[str, Any]]) -> Iterator[Fault]:
    """Models for which other rows speak than when their first sealed state was decided."""
    known = reversed(_of_models(events))
    told = {payload["model_id"]: (seq, payload) for seq, _, payload in known if "evidence" in payload}
    for model, (seq, payload) in told.items():
        if seals.seal_evidence(source, model) != payload["evidence"]:
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
        if key not in found or seals.as_told(found[key], *names) != {name: about[name] for name in names}:
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


def _not_accepted(events: Sequence[Mapping[str, Any]], stopped: Sequence[Mapping[str, Any]]) -> Iterator[Fault]:
    """Published runs that the guard had stopped, by a rule of which the log tells nobody's word."""
    told = [json.loads(event["payload"]) for event in events if event["kind"] == seals.ACCEPTED]
    names = ("suite", "rule", "column")
    accepted = {(event["run_id"], *(line[name] for name in names)) for event in told for line in event["findings"]}
    for row in stopped:
        if (row["run_id"], *(row[name] for name in names)) not in accepted:
            yield Fault(f"run {row['run_id']} was published though {row['rule']} failed, and nobody accepted it")


def _rewritten(events: Sequence[Mapping[str, Any]]) -> set[str]:
    """Tables of which an erasure renamed words in free text: that text is no longer the logged one."""
    return {
        table for event in events if event["kind"] == seals.ERASED for table in json.loads(event["payload"])["rows"]
    }


def _sums(event: Mapping[str, Any]) -> bool | None:
    """Whether an event of a publication or a model seals all that such events do now; None for others."""
    sealing = {"publication": "tables", "model": "rows"}.get(event["kind"])
    return None if sealing is None else sealing in json.loads(event["payload"])


def _overrides_differ(events: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]]) -> Iterator[Fault]:
    """Overrides that are not as the log sealed them, or that it does not know."""
    found = {row["seq"]: seals.override_sum(row) for row in rows}
    told = seals.sealed_overrides(events)
    for number in sorted({*found, *told}):
        seq, expected = told.get(number, (None, None))
        if found.get(number) != expected:
            yield Fault(f"override {number} is not as it was logged", seq)
