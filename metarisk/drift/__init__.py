"""Drift of a night against what a week kept beside the model, by segment, with controlled error rates.

A measure is a file with its two sides, what a week keeps and what a night compares with it, and a row of MEASURES.
Pure: what they may look at comes in, rows and files go out; where these are stored is for the steps.
"""

from metarisk.drift import concept, direct, early, inputs, labels, multivariate, performance, remedy
from metarisk.drift.measure import Measure

MEASURES: tuple[Measure, ...] = (
    inputs.MEASURE,
    multivariate.MEASURE,
    labels.MEASURE,
    performance.MEASURE,
    early.MEASURE,
    concept.MEASURE,
    direct.MEASURE,
    remedy.MEASURE,
)
"""All measures in the order of their rows; a later one may look at what an earlier one kept and found."""
TESTS = frozenset(metric for measure in MEASURES for metric in measure.tests)
"""Metrics that decide; the others describe what these found, and repeat a status."""
OPENING = frozenset(metric for measure in MEASURES for metric in measure.opening)
"""Metrics whose alerts open one."""
