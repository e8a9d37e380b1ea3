"""Whether a night as a whole may be published: verdicts on counts and scores. Pure: nothing is read here.

A critical verdict is about a night that nothing explains: broken scores, missing rows, a model that scores the same
rows in another way. A warning is about one that data, labels or the market explain: it is published and seen.
"""

from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from statistics import median

import numpy as np
from scipy.special import pdtr

from metarisk.domain import Array, Limits
from metarisk.quality.results import Result, Severity

SUITE = "guard"
FINITE = "every score is a finite number"
SCORES_DIFFER = "scores differ between rows"
GRADES_DIFFER = "rows are in more than one grade"
ENOUGH = "as many rows are scored as usual"
VALUES_STAY = "segment values of the last night still have rows"
SAME_SCORES = "rows of the last night score as they did then"
LEVEL = "scores are as high as at the last night"

CHANCE = 1e-6
"""How likely rows that are told apart may agree by chance: one false stop in a million nights."""
TOO_FEW = 1e-4
"""How likely independent rows (transactions of a day) may be so few by chance."""
OLDEST = timedelta(days=100)
"""A quarter and some days: rows of an older night say nothing of how many there should be tonight."""
NIGHTS, WEEKS = 14, 8
"""Nights whose median is usual; weeks in which nights of the same weekday are looked for, of which the newest four."""
FEWEST_COMPARED = 20
"""Fewer rows tell neither a rank correlation nor a median."""
TAIL = 3.0
"""One row in ten may move by so many times as much as the median row."""
OTHER_RECIPE_MOVE, OTHER_RECIPE_STRETCH = 2.0, 3.0
"""By how much wider the limits are where the champion is of another recipe, and any order but a contrary one is fine:
measured pairs of recipes on the same rows moved by up to 0.6 (median, logits), had spreads up to 4.4 times as wide and
agreed by 0.2 or more."""
LEVEL_MOVE, LEVEL_ERRORS = 0.5, 3.0
"""A mean of odds, rates or variances that moved by half or more is seen, where it is so many standard errors."""
POPULATED = 0.05
"""Share of rows from which a grade counts as one that the book uses."""
_NAMED = 5  # as many as a sentence holds


def finite(rows: int, broken: int) -> Result:
    """Judge that all scores, and what is derived from them, are numbers; `broken` rows have one that is none."""
    return _verdict(
        FINITE, "critical", broken == 0, rows, f"{broken:,} rows have a score that is no number", failing=broken,
        remedy="look at the model and at the inputs of these rows; a number that is none cannot be published",
    )  # fmt: skip


def scores_differ(rows: int, inputs: int, lowest: float, highest: float, modal: float) -> Result:
    """Judge that rows are told apart.

    Args:
        rows: rows scored.
        inputs: different combinations of inputs among them.
        lowest, highest: of their scores.
        modal: largest share of rows that had about one score when the model was registered: 1 where it gives everybody
            the same. So many inputs then share one score by chance with probability modal ^ inputs.
    """
    if lowest < highest or rows == 0:
        return _verdict(SCORES_DIFFER, "critical", True, rows)
    said = f"all {rows:,} rows score {lowest:.6g}"
    if inputs == 1:
        return _verdict(SCORES_DIFFER, "info", True, rows, f"{said}, and all have the same inputs")
    if modal**inputs >= CHANCE:
        why = "as when the model was registered" if modal >= 1 else "they are too few to tell"
        return _verdict(SCORES_DIFFER, "warning", False, rows, f"{said}: {why}")
    return _verdict(
        SCORES_DIFFER, "critical", False, rows, f"{said}, though {inputs:,} of them differ in their inputs",
        remedy="look at the model: `metarisk models rollback` brings back the one before",
    )  # fmt: skip


def grades_differ(now: Mapping[str, int], before: Mapping[str, int] | None) -> Result:
    """Judge that a book that used three grades or more is not in one: the middle one was wide, so scores must have run
    together or to an end of the scale. Two grades may become one by a small step over their border.

    Args:
        now, before: rows by grade, tonight and at the last night; None: there is none to compare with.
    """
    rows = sum(now.values())
    if len(now) != 1 or rows == 0:
        return _verdict(GRADES_DIFFER, "critical", True, rows)
    said = f"all {rows:,} rows are in grade {next(iter(now))}"
    if before is None:
        return _verdict(GRADES_DIFFER, "warning", rows == 1, rows, f"{said}; there is no night to compare with")
    used = [grade for grade, n in before.items() if n >= max(POPULATED * sum(before.values()), 1)]
    if len(before) == 1:
        return _verdict(GRADES_DIFFER, "info", True, rows, f"{said}, as at the last night")
    if len(used) < 3 or rows < FEWEST_COMPARED:
        return _verdict(GRADES_DIFFER, "warning", False, rows, f"{said}; the last night had {len(before)}")
    return _verdict(
        GRADES_DIFFER, "critical", False, rows, f"{said}; the last night had {len(used)} grades in use",
        remedy="look at `scorecard.grades` and at the model",
    )  # fmt: skip


def usual_rows(nights: Sequence[tuple[date, int]], as_of: date, *, by_weekday: bool) -> float | None:
    """Rows that a night of this kind usually scores; None where no such night is known.

    Args:
        nights: date and rows of earlier nights, each once, the newest first.
        as_of: tonight.
        by_weekday: whether a night scores the rows of a few days, so that other weekdays say little: the median of the
            newest nights of the same weekday; where these are fewer than three, the lower one of it and of the median
            of nights that are on a weekend as tonight is or is not.
    """
    recent = [(day, rows) for day, rows in nights if as_of - OLDEST <= day < as_of]
    medians = [recent[:NIGHTS]]
    if by_weekday:
        since = as_of - timedelta(weeks=WEEKS)
        same = [(day, rows) for day, rows in recent if day.weekday() == as_of.weekday() and day >= since]
        alike = [(day, rows) for day, rows in recent[:NIGHTS] if weekend(day) == weekend(as_of)]
        medians = [same[:4], alike if len(same) < 3 else []]
    return min((float(median(rows for _, rows in some)) for some in medians if some), default=None)


def weekend(day: date) -> bool:
    """Whether a date is a Saturday or a Sunday."""
    return day.weekday() >= 5


def enough(rows: int, usual: float | None, share: float, *, by_chance: bool) -> Result:
    """Judge the number of rows scored.

    Args:
        rows: rows scored.
        usual: see `usual_rows`.
        share: of the usual rows, below which the night stops.
        by_chance: whether rows come and go by chance: then few of few, which chance explains, are a warning.
    """
    if usual is None:
        return unjudged(ENOUGH, "no night of this kind is known", rows)
    if rows >= share * usual:
        return _verdict(ENOUGH, "critical", True, rows)
    lucky = by_chance and float(pdtr(rows, usual)) > TOO_FEW
    return _verdict(
        ENOUGH, "warning" if lucky else "critical", False, rows,
        f"{rows:,} rows were scored, less than {share:.0%} of the usual {usual:,.0f}",
        remedy="check that the source is complete, and its dates, which decide who is scored; "
        "lower source.min_rows_vs_median if the book really shrank",
    )  # fmt: skip


def values_stay(
    column: str, expected: Mapping[str, float], now: Mapping[str, float], least: int, excused: Sequence[str] = ()
) -> Result:
    """Judge that no value of a segment column is gone altogether.

    Args:
        column: the column.
        expected: by value, rows of the last night that should still be scored, or be followed by others.
        now: rows tonight by value.
        least: rows from which none at all is no chance.
        excused: values that are often absent on such a day.
    """
    rows = int(sum(now.values()))
    gone = {value: n for value, n in expected.items() if n > 0 and not now.get(value)}
    heavy = {value: n for value, n in gone.items() if n >= least and value not in excused}
    worst = sorted(heavy or gone, key=lambda value: (-gone[value], value))
    said = ", ".join(f"{value[:60]!r} ({gone[value]:,.0f} rows at the last night)" for value in worst[:_NAMED])
    more = f" and {len(worst) - _NAMED} more" if len(worst) > _NAMED else ""
    severity: Severity = "critical" if heavy or not gone else "warning"
    return _verdict(
        VALUES_STAY, severity, not gone, rows, f"no row of {said}{more}", column=column,
        remedy="check that the source still delivers it; map a renamed value to its old name in the extract SQL",
    )  # fmt: skip


def same_scores(before: Array, after: Array, limits: Limits, *, scaled: bool, same_recipe: bool) -> Result:
    """Judge how tonight's model scores rows of the last night, beside what was published of them: a damaged model.

    Args:
        before, after: (N,) scores of the same rows with the same inputs, on the link scale.
        limits: what may differ: the median row, the rank correlation, the ratio of the spreads.
        scaled: whether differences are in spreads of `before`: where the link scale has no unit of its own.
        same_recipe: whether both models are of one recipe; else the limits are wider, see OTHER_RECIPE_MOVE.
    """
    rows = len(before)
    if rows < FEWEST_COMPARED:
        return unjudged(SAME_SCORES, f"{rows} rows are too few to compare", rows)
    spread, now = float(np.std(before)), float(np.std(after))
    unit = spread if scaled and spread > 0 else 1.0
    moved = np.abs(after - before) / unit
    middle, tail = (float(np.quantile(moved, share)) for share in (0.5, 0.9))
    most = limits.max_score_move * (1.0 if same_recipe else OTHER_RECIPE_MOVE)
    of, faults = "standard deviations" if scaled else "log-odds or logarithms", []
    if middle > most:
        faults.append(f"half of them moved by {middle:.2f} {of} or more (at most {most:g})")
    elif tail > TAIL * most:
        faults.append(f"one in ten moved by {tail:.2f} {of} or more (at most {TAIL * most:g})")
    if np.ptp(before) > 0 and np.ptp(after) > 0:
        least = limits.min_score_agreement if same_recipe else 0.0
        agreement, error = _ranked(before, after), (1 - least**2) / np.sqrt(rows)
        if agreement + 2 * error < least:
            faults.append(f"their order agrees by {agreement:.2f} (at least {least:g})")
        most = limits.max_score_stretch * (1.0 if same_recipe else OTHER_RECIPE_STRETCH)
        if not 1 / most <= now / spread <= most:
            faults.append(f"they spread {now / spread:.2g} times as far (at most {most:g}, at least 1/{most:g})")
    return _verdict(
        SAME_SCORES, "critical", not faults, rows,
        f"of {rows:,} rows of the last night, scored again by tonight's model, {'; '.join(faults)}"
        if faults else f"median move {middle:.3f}",
        remedy="look at the model: `metarisk models show` tells where it comes from, `metarisk models rollback` "
        "brings back the one before",
    )  # fmt: skip


def level(
    before: Mapping[str, tuple[int, float, float]], now: Mapping[str, tuple[int, float, float]], least: int
) -> Result:
    """See where scores went up or down, whatever the reason: the night of a crash, an attack on one merchant.

    Args:
        before, now: by segment, rows, mean and standard deviation of scores in the unit of `same_scores`; the whole
            portfolio under "".
        least: rows that a segment must have on both nights.
    """
    moved = {}
    for name in before.keys() & now.keys():
        (n, mean, deviation), (n_now, mean_now, deviation_now) = before[name], now[name]
        if min(n, n_now) < max(least, 2):
            continue
        error = np.sqrt(deviation**2 / n + deviation_now**2 / n_now)
        if abs(mean_now - mean) > max(LEVEL_MOVE, LEVEL_ERRORS * error):
            moved[name] = mean_now - mean
    worst = sorted(moved, key=lambda name: (name != "", -abs(moved[name]), name))
    said = ", ".join(f"{name[:60] or 'the whole portfolio'} by {moved[name]:+.2f}" for name in worst[:_NAMED])
    more = f" and {len(worst) - _NAMED} more" if len(worst) > _NAMED else ""
    rows = sum(n for name, (n, _, _) in now.items() if name)
    return _verdict(LEVEL, "warning", not moved, rows, f"the mean score moved of {said}{more}")


def unjudged(rule: str, why: str, rows: int, column: str | None = None) -> Result:
    """What could not be judged, and why: neither passed nor failed."""
    return Result(SUITE, rule, column, "info", True, None, rows, f"not judged: {why}")


def _ranked(left: Array, right: Array) -> float:
    """Spearman's rank correlation; equal values share a rank."""
    ranks = []
    for values in (left, right):
        _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
        ranks.append((np.cumsum(counts) - (counts - 1) / 2)[inverse])
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def _verdict(
    rule: str,
    severity: Severity,
    success: bool,
    rows: int,
    detail: str = "",
    *,
    column: str | None = None,
    failing: int | None = None,
    remedy: str = "",
) -> Result:
    told = "" if success and severity != "info" and rule != SAME_SCORES else detail
    return Result(SUITE, rule, column, severity, success, failing, rows, told, remedy)
