"""What the event log says of models: which states, and which evidence, an event of the job backs.

Whoever writes rows of models beside the job makes no champion by that, and no proof.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from metarisk.domain import ModelError, Rows
from metarisk.record.seals import as_told, chained, seal_evidence

SERVED = frozenset({"champion", "retired", "withdrawn"})
"""Last states by which an event of before states were sealed one by one says that a model was champion."""
_EVENTS = """
SELECT portfolio, seq, happened_at, kind, actor, payload, prev_hash, hash
FROM metarisk.event_log WHERE portfolio = $portfolio AND kind = 'model' ORDER BY seq
"""


@dataclass
class Backing:
    """What the events of a portfolio's models say."""

    rows: dict[tuple[str, int], dict[str, Any]] = field(default_factory=dict)
    """By model and number each state that is sealed: `state_rows`."""
    last: dict[str, set[str]] = field(default_factory=dict)
    """By model, the last states that events of before those seals say it had."""
    evidence: dict[str, str] = field(default_factory=dict)
    """By model the first seal of its evidence, to which nothing is added later; absent where it was never sealed."""

    @classmethod
    def of(cls, events: Iterable[Mapping[str, Any]]) -> Backing:
        """Read events; one that is not as it was hashed says nothing, one of before there was a chain is believed."""
        found, begun = cls(), False
        for event in events:
            begun |= event["hash"] is not None
            if event["kind"] != "model" or (begun and (event["hash"] is None or chained(event) != event["hash"])):
                continue
            told = json.loads(event["payload"])
            for row in told.get("rows", ()):
                found.rows[row["model_id"], row["seq"]] = row
            if "rows" not in told:
                for model, state in told.get("states", {told["model_id"]: told["state"]}).items():
                    found.last.setdefault(model, set()).add(state)
            if "evidence" in told:
                found.evidence.setdefault(told["model_id"], told["evidence"])
        return found

    def knows(self, model_id: str) -> bool:
        """Whether an event registered a model: one that tells of its first state. To withdraw one registers nothing."""
        return (model_id, 1) in self.rows or model_id in self.last

    def backs(self, row: Mapping[str, Any]) -> bool:
        """Whether an event says that a row of `model_state` (model_id, seq, state, since) was written.

        An event of before states were sealed says it of states that come before the first sealed one of the model.
        """
        model, seq = row["model_id"], row["seq"]
        if (model, seq) in self.rows:
            return as_told(row, "model_id", "seq", "state", "since") == self.rows[model, seq]
        first = min((number for known, number in self.rows if known == model), default=seq + 1)
        said = self.last.get(model, set())
        return seq < first and (bool(said & SERVED) if row["state"] == "champion" else row["state"] in said)

    def proves(self, source: Rows, model_id: str) -> bool:
        """Whether the evidence of a model is that of which an event told."""
        sealed = self.evidence.get(model_id)
        return self.knows(model_id) and (sealed is None or sealed == seal_evidence(source, model_id))


def backing(source: Rows, portfolio: str) -> Backing:
    """What the log says of the models of a portfolio."""
    return Backing.of(source.rows(_EVENTS, {"portfolio": portfolio}))


def unbacked(model_id: str, state: str, portfolio: str) -> ModelError:
    """The error of a model whose state no event backs."""
    return ModelError(
        f"no event of the log made model {model_id} {state}: its row was written beside the job",
        portfolio=portfolio,
        remedy=f"find out who wrote it (`metarisk audit verify --portfolio {portfolio}` lists what the log does not "
        f"know); then `metarisk models rollback --portfolio {portfolio} --by NAME --reason WHY` goes back to the "
        "champion before, or restore the warehouse from its backup",
    )
