"""What a column of a table can be, and what was decided of each: nouns, and names as hints."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

NAMED: Mapping[str, str] = {
    "entity": r"(^|_)(id|key|number|no|nr|ref)($|_)|^id|id$|number$",
    "opened_on": r"open|orig|issue|start|booked|approv|transaction|trade|price|claimed|made|datetime",
    "exit_date": r"exit|prepa|repaid|closed|redeem|paid_off",
    "known_date": r"known|report|confirm|notif|recorded",
    "event_date": r"event|default|fraud|claim|loss|charge|chg|written",
    "matures_on": r"matur|expir|contract_end|end_date|due",
    "label": r"^(y|label|target|outcome|bad|flag)$|default|fraud|churn|status|charge|chg|loss",
    "value": r"^(value|target|outcome|loss|realised|realized)|^num_|count|injur",
    "exposure": r"hours|hrs_total|exposure_|policies|headcount",
    "segments": r"region|state|country|product|purpose|segment|sector|merchant|branch|channel|line|make|type|commodity",
    "protected": r"gender|sex|^age$|age_band|race|ethnic|religio|national|marital|disab|orient",
    "personal": r"name|mail|phone|address|street|postcode|zip|ssn|iban|birth",
}
Role = Literal[
    "entity", "opened_on", "event_date", "known_date", "exit_date", "matures_on", "label", "value", "exposure"
]


@dataclass(frozen=True)
class Decision:
    """What was made of one column, and why; `check`: a person must look."""

    column: str
    role: str
    why: str
    check: bool = False


@dataclass(frozen=True)
class Wanted:
    """What the user says instead of a guess; empty: guess."""

    entity: str = ""
    opened: str = ""
    event: str = ""
    known: str = ""
    label: str = ""
    segments: tuple[str, ...] | None = None
    risk: str = ""
    horizon: str = ""
    """Months or days as in `12m` and `30d`, or `lifetime`."""
    matures: str = ""


@dataclass
class Roles:
    """The columns of a portfolio to be, and what was decided of each column of the table."""

    entity: str = ""
    opened_on: str = ""
    event_date: str = ""
    known_date: str = ""
    exit_date: str = ""
    contract_end: str = ""
    """A date after opening that every row has; `matures_on` where the target is one of the contract's whole life."""
    matures_on: str = ""
    label: str = ""
    value: str = ""
    exposure: str = ""
    event_value: str = ""
    """Of a label that is text: the value that is the event."""
    kinds: str = ""
    """What a status says of rows with the event: a date of repayment among those of defaults is none."""
    segments: list[str] = field(default_factory=list)
    features: dict[str, str] = field(default_factory=dict)
    protected: list[str] = field(default_factory=list)
    personal: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)

    def take(self, role: Role, column: str, why: str, *, check: bool = False) -> None:
        """Give a column a role that one column has, instead of what was decided of it so far."""
        setattr(self, role, column)
        self.left_out = [name for name in self.left_out if name != column]
        made = Decision(column, role, why, check)
        if column in self.taken:
            self.decisions = [made if one.column == column else one for one in self.decisions]
        else:
            self.decisions.append(made)

    def leave(self, column: str, role: str, why: str, *, check: bool = False) -> None:
        """Use a column for nothing."""
        self.left_out.append(column)
        self.decisions.append(Decision(column, role, why, check))

    @property
    def taken(self) -> set[str]:
        """Columns that have been decided."""
        return {decision.column for decision in self.decisions}


def named(role: str, column: str) -> bool:
    """Whether a column's name hints at a role."""
    return re.search(NAMED[role], re.sub(r"(?<=[a-z])(?=[A-Z])", "_", column).lower()) is not None
