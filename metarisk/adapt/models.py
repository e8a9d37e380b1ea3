"""The fitted model: everything that a night needs of a week, and its form as files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl
from safetensors.numpy import load as read_arrays
from safetensors.numpy import save as write_arrays

from metarisk.adapt.recipes import Recipe
from metarisk.bases import CrossFitted, HazardBase, blend
from metarisk.calibration import log_odds
from metarisk.domain import (
    Array,
    Arrays,
    Learner,
    LikelihoodName,
    SegmentKey,
)
from metarisk.features import Encoder


@dataclass(frozen=True)
class FittedModel:
    """Everything that a night needs of a week: bases, encoder, learner and its state."""

    recipe_name: str
    recipe: Recipe
    likelihood: LikelihoodName
    bases: tuple[CrossFitted, ...]
    encoder: Encoder
    state: Arrays
    segments: tuple[SegmentKey, ...]
    """Segments seen in training, sorted."""
    borrows: bool = False
    """Whether a segment without labels is adapted to its neighbours' rows: so where that helped on validation."""
    weights: tuple[float, ...] = ()
    """Of the bases; none: equal ones."""
    dispersion: float = 1.0
    """Variance of a label over the one that its likelihood knows: a row counts one over this to the learner."""

    @property
    def learner(self) -> Learner:
        """The configured learner."""
        return self.recipe.make()

    def fresh(self, frame: pl.DataFrame) -> tuple[Array, Array]:
        """Inputs (N, D) and base score (N,) of rows to be scored."""
        score = blend([base.predict(frame) for base in self.bases], frame.height, self.weights)
        return self.inputs(frame, score), score

    def contributions(self, frame: pl.DataFrame) -> tuple[tuple[str, ...], Array]:
        """Names of the bases' features (F), and what each adds to the base score, last a constant, (N, F + 1)."""
        names = tuple(dict.fromkeys(name for base in self.bases for name in base.full.features()))
        parts = []
        for base in self.bases:
            spread = np.zeros((frame.height, len(names) + 1))
            spread[:, [*map(names.index, base.full.features()), -1]] = base.contributions(frame)
            parts.append(spread)
        return names, blend(parts, frame.height, self.weights).reshape(frame.height, len(names) + 1)

    def unseen(self, frame: pl.DataFrame) -> tuple[Array, Array]:
        """Inputs (N, D) and base score (N,) of support rows, by the fits that have not seen their entities.

        The base score of a hazard is that of the periods a row has been at risk; its inputs tell the horizon's.
        """
        found = [base.unseen(frame) for base in self.bases]
        score = blend([score for score, _ in found], frame.height, self.weights)
        return self.inputs(frame, score), score + blend([share for _, share in found], frame.height, self.weights)

    def logit(self, link: Array) -> Array:
        """Logit (N,) of the probability that a link-scale score means; other than hazards are what they are."""
        return log_odds(link, self.likelihood)

    def shares(self) -> Array:
        """Share of the horizon's hazard within 0, 1, ... periods, float64 (periods + 1,), from 0 to 1.

        Empty where the model learned whether and not when: it knows the whole horizon alone.
        """
        hazards = [base.full for base in self.bases if isinstance(base.full, HazardBase)]
        if not hazards:
            return np.zeros(0)
        periods = np.arange(min(len(base.baseline) for base in hazards))
        found = np.exp(blend([base.share(periods) for base in hazards], len(periods), self.weights))
        found[0] = 0.0
        return found

    def curve(self, link: float) -> Array:
        """Probability of the event within 1, 2, ... periods of the horizon, float64 (periods,), ending in the score's.

        Empty where `shares` is.
        """
        return np.asarray(-np.expm1(-np.exp(link) * self.shares()[1:]))

    def inputs(self, frame: pl.DataFrame, score: Array) -> Array:
        """Float32 (N, D): the encoded features; the score of the whole horizon where the learner reads no features."""
        if self.recipe.kind.reads_inputs:
            return self.encoder.design(frame)
        return score[:, None].astype(np.float64) if self.recipe.hazard else np.zeros((frame.height, 0), np.float32)

    def to_files(self) -> dict[str, bytes]:
        """File contents by name: text and safetensors, never pickle."""
        files = {
            f"base.{base.kind}.{part}.json": text.encode()
            for base in self.bases
            for part, text in base.to_texts().items()
        }
        about = {
            "recipe": self.recipe_name,
            "bases": list(self.recipe.bases),
            "learner": self.recipe.learner,
            "options": dict(self.recipe.options),
            "meaning": self.recipe.likelihood,
            "likelihood": self.likelihood,
            "segments": [list(key) for key in self.segments],
            "entity": self.bases[0].entity if self.bases else "",
            "exposure": self.bases[0].exposure if self.bases else None,
            "borrows": self.borrows,
            "weights": list(self.weights),
            "dispersion": self.dispersion,
        }
        files["model.json"] = json.dumps(about, indent=1, sort_keys=True).encode()
        files["encoder.json"] = self.encoder.to_json().encode()
        files["state.safetensors"] = safetensors_of(self.state)
        return files

    @classmethod
    def from_files(cls, files: Mapping[str, bytes]) -> FittedModel:
        """The model that `to_files` wrote."""
        about = json.loads(files["model.json"])
        bases = []
        for kind in about["bases"]:
            prefix = f"base.{kind}."
            texts = {
                name.removeprefix(prefix).removesuffix(".json"): content.decode()
                for name, content in files.items()
                if name.startswith(prefix)
            }
            bases.append(CrossFitted.from_texts(kind, about["entity"], texts, about.get("exposure")))
        return cls(
            about["recipe"],
            Recipe(tuple(about["bases"]), about["learner"], about["options"], about["meaning"]),
            about["likelihood"],
            tuple(bases),
            Encoder.from_json(files["encoder.json"].decode()),
            read_arrays(files["state.safetensors"]),
            tuple(tuple(key) for key in about["segments"]),
            about["borrows"],
            tuple(about.get("weights", ())),
            about.get("dispersion", 1.0),
        )


def safetensors_of(arrays: Arrays) -> bytes:
    """Arrays as safetensors, which want C order; `ascontiguousarray` would make vectors of scalars."""
    content: bytes = write_arrays({name: np.asarray(values, order="C") for name, values in arrays.items()})
    return content
