"""The evidence table: candidates and baselines on the same rows, for people and for the warehouse."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from metarisk.domain import Array, Portfolio, RiskSpec
from metarisk.evidence.losses import blocks_of, finite, opponent_link
from metarisk.metrics import Interval, judge_of, paired_bootstrap
from metarisk.tasks import LABEL, OPPONENT, tells

SUPPORT_BANDS: Mapping[str, tuple[tuple[int, int | None], ...]] = {
    "event": ((0, 1), (1, 5), (5, 20), (20, None)),
    "value": ((0, 1), (1, 20), (20, 100), (100, None)),
}
"""Events, or values, in a segment's support at the cut: bands of the table 'by support'."""


@dataclass(frozen=True)
class Candidate:
    """One line of the evidence table; intervals are 95 %, paired, over opening month x segment."""

    name: str
    baseline: bool
    metrics: Mapping[str, float]
    loss: Interval
    """The loss that decides, which is one of the metrics."""
    against_opponent: Interval
    """Loss minus that of the baseline that validation chose before the rows were judged; below zero is better."""
    against_oracle: Interval
    """Loss minus that of the baseline that is best on the judged rows themselves, which nobody could have known."""
    by_support: Mapping[str, Interval]
    """Against the opponent, by the number of events in the segment's support."""


@dataclass(frozen=True)
class Evidence:
    """Candidates on identical rows, best first."""

    protocol: str
    loss: str
    """Name of the loss that decides, which is a metric of every candidate."""
    ranking: str
    """Name of the metric that tells how well rows are put in order."""
    rows: int
    events: int
    """Where the label is a value, every row counts as one."""
    folds: tuple[str, ...]
    opponents: Mapping[str, str]
    """The baseline that validation chose, by fold."""
    oracle: str
    """The baseline that is best on the judged rows."""
    candidates: tuple[Candidate, ...]
    retrospective: str = ""
    """Why it proves nothing: its labels were never seen as they were at the cuts; empty where they were."""

    def candidate(self, name: str) -> Candidate | None:
        """The line of one candidate."""
        return next((candidate for candidate in self.candidates if candidate.name == name), None)

    @property
    def opponent(self) -> str:
        """In words: the baseline that validation chose, or those, with the number of folds of each."""
        folds = Counter(self.opponents.values()).most_common()
        return (
            folds[0][0]
            if len(folds) == 1
            else ", ".join(f"{name} ({times} of {len(self.opponents)} folds)" for name, times in folds)
        )


def summarise(
    judged: pl.DataFrame,
    names: Sequence[str],
    baselines: frozenset[str],
    portfolio: Portfolio,
    spec: RiskSpec,
    protocol: str = "walk_forward",
) -> Evidence:
    """The evidence table of judged rows (see judging.walk_forward); without rows, a table without candidates."""
    judge = judge_of(spec.likelihood)
    if judged.is_empty():
        return Evidence(protocol, judge.loss, judge.ranking, 0, 0, (), {}, "", ())
    y = judged[LABEL].to_numpy()
    blocks = blocks_of(judged, portfolio)
    losses = {name: judge.of(judged[name].to_numpy(), y) for name in names}
    means = {name: float(loss.mean()) for name, loss in losses.items()}
    oracle = min((name for name in names if name in baselines), key=lambda name: means[name], default=names[0])
    opposed = judge.of(opponent_link(judged), y)
    bands = _bands(judged["support_events"].to_numpy(), spec)
    candidates = [
        Candidate(
            name,
            name in baselines,
            {judge.loss: means[name]} | judge.measured(judged[name].to_numpy(), y),
            paired_bootstrap(losses[name], blocks, draws=500),
            paired_bootstrap(losses[name] - opposed, blocks),
            paired_bootstrap(losses[name] - losses[oracle], blocks),
            {
                band: paired_bootstrap((losses[name] - opposed)[rows], blocks[rows], draws=500)
                for band, rows in bands.items()
            },
        )
        for name in names
    ]
    candidates.sort(key=lambda candidate: candidate.metrics[judge.loss])
    folds = tuple(sorted(judged["fold"].unique().to_list()))
    opponents = dict(judged.select("fold", OPPONENT).unique().sort("fold").iter_rows())
    told = int(tells(y, spec).sum())
    return Evidence(protocol, judge.loss, judge.ranking, len(y), told, folds, opponents, oracle, tuple(candidates))


def evidence_rows(
    evidence: Evidence, spread: Mapping[str, Mapping[str, Interval]] | None = None
) -> list[dict[str, object]]:
    """Rows for the warehouse's `evidence` table, less the keys of the model.

    `spread` has intervals of measures, by candidate and name, where they were found.
    """
    chosen = ", ".join(f"{name} from {fold}" for fold, name in evidence.opponents.items())
    note = f"opponent: {chosen}; oracle: {evidence.oracle}"
    note += f"; retrospective: {evidence.retrospective}" if evidence.retrospective else ""
    about = {"rows": evidence.rows, "events": evidence.events, "note": note}
    rows: list[dict[str, object]] = []
    for candidate in evidence.candidates:
        others = [(metric, value) for metric, value in candidate.metrics.items() if metric != evidence.loss]
        known = (spread or {}).get(candidate.name, {})
        numbers = [("all", metric, known.get(metric, Interval(value, math.nan, math.nan))) for metric, value in others]
        numbers += [("all", evidence.loss, candidate.loss), ("all", "loss_minus_oracle", candidate.against_oracle)]
        opposed = {"all": candidate.against_opponent} | dict(candidate.by_support)
        numbers += [(part, "loss_minus_opponent", interval) for part, interval in opposed.items()]
        for part, metric, interval in numbers:
            row: dict[str, object] = {"protocol": evidence.protocol, "candidate": candidate.name}
            row |= {"slice": part, "metric": metric, "value": finite(interval.mean)}
            rows.append(row | {"low": finite(interval.low), "high": finite(interval.high)} | about)
    return rows


def table(evidence: Evidence) -> list[dict[str, object]]:
    """The evidence as people read it: one line a candidate, differences x 1e-4."""
    return [
        {
            "candidate": line.name + (" (baseline)" if line.baseline else ""),
            **{
                words: round(line.metrics[name], digits)
                for name, (words, digits) in _COLUMNS.items()
                if name in line.metrics
            },
            "minus opponent": _difference(line.against_opponent),
            "minus oracle": _difference(line.against_oracle),
        }
        for line in evidence.candidates
    ]


_COLUMNS = {
    "qlike": ("QLIKE", 5),
    "poisson_deviance": ("deviance", 5),
    "squared_error": ("squared error", 5),
    "mse_log_volatility": ("MSE of log volatility", 5),
    "absolute_error": ("absolute error", 5),
    "rank_correlation": ("rank correlation", 4),
    "log_level": ("level", 3),
    "bias": ("bias", 5),
    "log_loss": ("log-loss", 5),
    "auc": ("AUC", 4),
    "pr_auc": ("PR-AUC", 4),
    "gini": ("Gini", 4),
    "ks": ("KS", 4),
    "brier": ("Brier", 5),
    "ece": ("ECE", 5),
    "calibration_in_the_large": ("level", 3),
}


def words_of(metric: str) -> str:
    """A metric as people read it."""
    return _COLUMNS[metric][0] if metric in _COLUMNS else metric.replace("_", " ")


def _difference(interval: Interval) -> str:
    return f"{1e4 * interval.mean:+.1f} [{1e4 * interval.low:+.1f}, {1e4 * interval.high:+.1f}]"


def _bands(events: Array, spec: RiskSpec) -> dict[str, Array]:
    bands = {}
    for low, high in SUPPORT_BANDS[spec.label]:
        rows = (events >= low) & (events < high if high is not None else True)
        if rows.any():
            span = f"{low}+" if high is None else f"{low}-{high - 1}" if high - low > 1 else f"{low}"
            bands[f"{span} {spec.label}s"] = rows
    return bands
