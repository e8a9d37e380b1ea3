"""Why a mean or a sum moved between two nights: who came and went, and a Shapley value for each factor of the rest.

Pure numpy: sums in, parts out; which replays the sums come from is the pipeline's business. Shapes: S slices of the
book, k factors that changed, 2^k mixtures of the two nights: bit i of a mixture's number says that factor i is taken
from the later night.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import factorial

import numpy as np

from metarisk.domain import Array

PARTS = {
    "leavers": "rows that left",
    "entrants": "rows that came",
    "data": "their data",
    "adaptation": "newly known labels",
    "model": "another model",
    "calibration": "level of latest months",
}
"""Into what a change is split, in the order of a waterfall, with the words of reports."""
INPUTS = "inputs"
"""The only factor where the inputs changed between two nights: rows that stayed cannot be replayed under mixtures."""
UNTOLD = "other inputs: cannot be split"
"""Its words in reports."""
FACTORS = tuple(PARTS)[2:]
"""What the score of a row that stays is made of."""


def shapley(values: Array) -> Array:
    """Shapley values (..., k) of a game's values (..., 2^k): each factor's marginal effect, averaged over all orders.

    They sum to the value of all factors less that of none (Shapley 1953).
    """
    players = values.shape[-1].bit_length() - 1
    mixtures = np.arange(values.shape[-1])
    size = np.array([int(mixture).bit_count() for mixture in mixtures])
    weight = np.array([factorial(n) * factorial(max(players - n - 1, 0)) / factorial(players) for n in size])
    out = np.zeros((*values.shape[:-1], players))
    for player in range(players):
        without = mixtures[mixtures & (1 << player) == 0]
        gain = values[..., without | (1 << player)] - values[..., without]
        out[..., player] = (gain * weight[without]).sum(axis=-1)
    return out


@dataclass(frozen=True)
class Sums:
    """One quantity summed over the rows of S slices of a book.

    Attributes:
        rows_before, rows_after, rows_both: rows of each night and of both, (S,).
        before, after: sums over the rows of each night, (S,).
        both: sums over the rows of both nights under each mixture, (S, 2^k); the first is the earlier night's own.
    """

    rows_before: Array
    rows_after: Array
    rows_both: Array
    before: Array
    after: Array
    both: Array

    def of_total(self, changed: Sequence[str]) -> dict[str, Array]:
        """Parts (S,) of the change of the sum: what came, what went, and the Shapley values over the rows of both."""
        who = {"leavers": self.both[:, 0] - self.before, "entrants": self.after - self.both[:, -1]}
        return who | _by_factor(shapley(self.both), changed)

    def of_mean(self, changed: Sequence[str]) -> dict[str, Array]:
        """Parts (S,) of the change of the mean; NaN where one of the nights has no row.

        With L, C, E the rows that left, stayed and came: mean(E+C) - mean(L+C) = [mean(C) - mean(L+C)] before
        + [mean(C) after - mean(C) before] + [mean(E+C) - mean(C)] after. Where nobody stayed, leavers and entrants
        take half of the change each.
        """
        with np.errstate(divide="ignore", invalid="ignore"):
            before, after = self.before / self.rows_before, self.after / self.rows_after
            both = self.both / self.rows_both[:, None]
        nobody = self.rows_both == 0
        both[nobody] = ((before + after) / 2)[nobody, None]
        who = {"leavers": both[:, 0] - before, "entrants": after - both[:, -1]}
        return who | _by_factor(shapley(both), changed)


def _by_factor(values: Array, changed: Sequence[str]) -> dict[str, Array]:
    """Columns (S,) of all factors from the Shapley values (S, k) of those that changed; the others moved nothing.

    Where the inputs changed nobody knows what each moved: NaN.
    """
    nothing = np.full(len(values), np.nan if INPUTS in changed else 0.0)
    return {name: values[:, changed.index(name)] if name in changed else nothing for name in FACTORS}
