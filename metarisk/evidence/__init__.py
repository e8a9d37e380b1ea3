"""What judged rows say: the evidence table, the choice of a champion, and where a recipe loses."""

from metarisk.evidence.decision import MIN_JUDGED_EVENTS, Decision, against, decide, decision_rows
from metarisk.evidence.held_out import held_out_rows, held_out_table
from metarisk.evidence.leaks import Suspect, feature_rows, single_feature_auc, suspects, unjudged
from metarisk.evidence.level import LevelChoice, choose_level, level_rows
from metarisk.evidence.segments import by_segment
from metarisk.evidence.spread import intervals
from metarisk.evidence.table import Candidate, Evidence, evidence_rows, summarise, table, words_of

__all__ = [
    "MIN_JUDGED_EVENTS",
    "Candidate",
    "Decision",
    "Evidence",
    "LevelChoice",
    "Suspect",
    "against",
    "by_segment",
    "choose_level",
    "decide",
    "decision_rows",
    "evidence_rows",
    "feature_rows",
    "held_out_rows",
    "held_out_table",
    "intervals",
    "level_rows",
    "single_feature_auc",
    "summarise",
    "suspects",
    "table",
    "unjudged",
    "words_of",
]
