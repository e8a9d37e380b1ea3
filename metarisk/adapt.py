"""The inner loop over many segments: recipes, the fitted model, and what a night adapts.

LEARNERS and RECIPES are assembled here as plain tables; everything that competes in a week is one row of RECIPES.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np
import polars as pl
import torch
from safetensors.numpy import load as read_arrays
from safetensors.numpy import save as write_arrays

from metarisk.bases import CrossFitted, blend
from metarisk.domain import (
    Adaptation,
    Array,
    Arrays,
    Episodes,
    Learner,
    LikelihoodName,
    ModelError,
    Packed,
    Portfolio,
    Progress,
    RiskSpec,
    SegmentKey,
    SegmentStatus,
    Thresholds,
    segment_name,
)
from metarisk.features import Encoder
from metarisk.learners.hierarchical import HierarchicalHead
from metarisk.learners.likelihoods import LIKELIHOODS
from metarisk.learners.loop import Loop
from metarisk.learners.maml import Anil, Fomaml, Maml, MamlPlusPlus, MetaSgd
from metarisk.learners.map_head import MapHead
from metarisk.learners.matching import Matching
from metarisk.learners.prototypical import Prototypical
from metarisk.learners.reptile import Reptile
from metarisk.learners.ridge_head import RidgeHead
from metarisk.learners.siamese import Siamese
from metarisk.tasks import LABEL, pack, segment_keys


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch on one thread of the processor: episodes are small, and no bit may depend on how many cores there are.

    On a busy machine several threads wait for each other at every small product: ten times slower was seen.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass(frozen=True)
class Pooled:
    """The learner that does not adapt: the base score as it is. Every baseline is this on some base."""

    def train(
        self, tasks: Episodes, validation: Episodes | None, likelihood: LikelihoodName, *, seed: int, progress: Progress
    ) -> Arrays:
        """Nothing to learn."""
        return {}

    def adapt(self, state: Arrays, support: Packed, likelihood: LikelihoodName) -> Adaptation:
        """Nothing to adapt."""
        return Adaptation(support.keys, {})

    def predict(
        self, state: Arrays, adaptation: Adaptation, rows: Packed, likelihood: LikelihoodName
    ) -> tuple[Array, Array | None]:
        """The base score; no variance."""
        return rows.base, None


@dataclass(frozen=True)
class LearnerKind:
    """One row of LEARNERS."""

    make: Callable[..., Learner]
    joint: bool = False
    """Whether the adaptation of one segment depends on the supports of the others."""
    reads_inputs: bool = True
    """Whether it reads the input matrix, and not the base score alone."""


LEARNERS: Mapping[str, LearnerKind] = {
    "none": LearnerKind(Pooled, reads_inputs=False),
    "map_head": LearnerKind(HierarchicalHead, joint=True, reads_inputs=False),
    "map_network": LearnerKind(MapHead),
    "ridge_head": LearnerKind(RidgeHead),
    "maml": LearnerKind(Maml),
    "fomaml": LearnerKind(Fomaml),
    "anil": LearnerKind(Anil),
    "meta_sgd": LearnerKind(MetaSgd),
    "maml_plus_plus": LearnerKind(MamlPlusPlus),
    "reptile": LearnerKind(Reptile),
    "prototypical": LearnerKind(Prototypical),
    "matching": LearnerKind(Matching),
    "siamese": LearnerKind(Siamese),
}


@dataclass(frozen=True)
class Recipe:
    """How one candidate is made: its bases, averaged on the link scale, and the learner on top of them."""

    bases: tuple[str, ...]
    learner: str = "none"
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def kind(self) -> LearnerKind:
        """The learner's row of LEARNERS."""
        return LEARNERS[self.learner]

    def make(self) -> Learner:
        """The configured learner; an unknown option is a ModelError."""
        options = dict(self.options)
        try:
            if "loop" in options:
                options["loop"] = Loop(**options["loop"])
            return self.kind.make(**options)
        except TypeError as error:
            raise ModelError(
                f"learner {self.learner} refuses its options: {error}", remedy="correct [learner.options]"
            ) from error


BASE = ("lightgbm", "logistic_segments")
SHORT = {"steps": 300, "meta_batch": 16, "evaluate_every": 50, "patience": 3}
"""Networks that compete each week on a few thousand labelled rows of a book: longer training only overfits there."""
NETWORK = {"hidden": (32,), "loop": SHORT}
REPTILE = SHORT | {"optimiser": "sgd", "momentum": 0.0, "rate": 0.1, "schedule": "linear"}
RECIPES: Mapping[str, Recipe] = {
    "pooled_logistic": Recipe(("logistic",)),
    "segment_logistic": Recipe(("logistic_segments",)),
    "pooled_lightgbm": Recipe(("lightgbm",)),
    "segment_lightgbm": Recipe(("lightgbm_segments",)),
    "blend": Recipe(BASE),
    "map_head": Recipe(BASE, "map_head"),
    "map_network": Recipe(BASE, "map_network", {"loop": SHORT | {"rate": 1e-2, "graph": False}}),
    "ridge_head": Recipe(BASE, "ridge_head", {"hidden": (32,), "loop": SHORT | {"rate": 3e-3, "graph": False}}),
    "reptile": Recipe(BASE, "reptile", {"hidden": (32,), "loop": REPTILE}),
    **{
        name: Recipe(BASE, name, NETWORK)
        for name in ("maml", "fomaml", "anil", "meta_sgd", "maml_plus_plus", "prototypical", "matching", "siamese")
    },
}
BASELINES = frozenset(name for name, recipe in RECIPES.items() if recipe.learner == "none")


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

    @property
    def learner(self) -> Learner:
        """The configured learner."""
        return self.recipe.make()

    def fresh(self, frame: pl.DataFrame) -> Array:
        """Base score (N,) of rows to be scored."""
        return blend([base.full.predict(frame) for base in self.bases], frame.height)

    def unseen(self, frame: pl.DataFrame) -> Array:
        """Base score (N,) of support rows, by the fits that have not seen their entities."""
        return blend([base.unseen(frame) for base in self.bases], frame.height)

    def inputs(self, frame: pl.DataFrame) -> Array:
        """Input matrix float32 (N, D); without columns where the learner reads the base score alone."""
        if not self.recipe.kind.reads_inputs:
            return np.zeros((frame.height, 0), dtype=np.float32)
        return self.encoder.design(frame)

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
            "likelihood": self.likelihood,
            "segments": [list(key) for key in self.segments],
            "entity": self.bases[0].entity if self.bases else "",
        }
        files["model.json"] = json.dumps(about, indent=1, sort_keys=True).encode()
        files["encoder.json"] = self.encoder.to_json().encode()
        files["state.safetensors"] = _safetensors(self.state)
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
            bases.append(CrossFitted.from_texts(kind, about["entity"], texts))
        return cls(
            about["recipe"],
            Recipe(tuple(about["bases"]), about["learner"], about["options"]),
            about["likelihood"],
            tuple(bases),
            Encoder.from_json(files["encoder.json"].decode()),
            read_arrays(files["state.safetensors"]),
            tuple(tuple(key) for key in about["segments"]),
        )


@dataclass(frozen=True)
class SegmentAdaptation:
    """What was done for one segment, and why."""

    key: SegmentKey
    status: SegmentStatus
    reason: str
    support_rows: int
    support_events: int
    support_hash: str
    adaptation_id: str


@dataclass(frozen=True)
class Adapted:
    """A model adapted to the supports of one night."""

    model: FittedModel
    adaptation: Adaptation
    segments: Mapping[SegmentKey, SegmentAdaptation]

    def score(self, frame: pl.DataFrame, portfolio: Portfolio) -> tuple[Array, Array | None]:
        """Link-scale score (N,) and its variance or None, of rows in any order."""
        keys, codes = segment_keys(frame, portfolio)
        rows, order = pack(keys, codes, self.model.inputs(frame), np.zeros(frame.height), self.model.fresh(frame))
        with one_thread():
            found = self.model.learner.predict(self.model.state, self.adaptation, rows, self.model.likelihood)
        score, variance = found
        return _put_back(score, order), None if variance is None else _put_back(variance, order)

    def carried(self, previous: Mapping[str, str]) -> Adapted:
        """The same with status `carried` where the adaptation id is the one that `previous` holds for the segment."""
        segments = {
            key: replace(segment, status="carried", reason=f"unchanged since the last night: {segment.reason}")
            if segment.status == "adapted" and previous.get(segment_name(key)) == segment.adaptation_id
            else segment
            for key, segment in self.segments.items()
        }
        return replace(self, segments=segments)

    def to_files(self) -> dict[str, bytes]:
        """File contents by name, without the model."""
        about = {
            "keys": [list(key) for key in self.adaptation.keys],
            "ragged": dict(self.adaptation.ragged),
            "segments": [asdict(self.segments[key]) for key in sorted(self.segments)],
        }
        return {
            "adaptation.json": json.dumps(about, indent=1, sort_keys=True).encode(),
            "adaptation.safetensors": _safetensors(self.adaptation.arrays),
        }

    @classmethod
    def from_files(cls, model: FittedModel, files: Mapping[str, bytes]) -> Adapted:
        """What `to_files` wrote, with its model."""
        about = json.loads(files["adaptation.json"])
        keys = tuple(tuple(key) for key in about["keys"])
        arrays = read_arrays(files["adaptation.safetensors"])
        segments = [SegmentAdaptation(**line | {"key": tuple(line["key"])}) for line in about["segments"]]
        return cls(model, Adaptation(keys, arrays, about["ragged"]), {segment.key: segment for segment in segments})


def adapt(model: FittedModel, model_id: str, support: pl.DataFrame, portfolio: Portfolio, spec: RiskSpec) -> Adapted:
    """Adapt to every segment of `support` (labelled rows, LABEL holds y) and say for each what was done and why.

    A segment below the portfolio's minimum of rows or events abstains: it is scored from what its parents and the pool
    know. A joint learner keeps its few rows, for they tell of the parents, and shrinks its own effect away; for any
    other learner they are left out. The order of the rows changes no bit.
    """
    support = support.sort(portfolio.columns.entity, portfolio.columns.opened_on)
    keys, codes = segment_keys(support, portfolio)
    y = support[LABEL].to_numpy()
    LIKELIHOODS[model.likelihood].validate(y)
    rows = np.bincount(codes, minlength=len(keys))
    events = np.bincount(codes, weights=y, minlength=len(keys)) if spec.label == "event" else rows.astype(float)
    base = np.zeros(support.height) if model.recipe.learner == "none" else model.unseen(support)
    packed, _ = pack(keys, codes, model.inputs(support), y, base)
    joint = model.recipe.kind.joint
    too_few = [_too_few(int(n), int(e), portfolio.thresholds) for n, e in zip(rows, events, strict=True)]
    taken = np.arange(len(keys)) if joint else np.flatnonzero([lack is None for lack in too_few])
    with one_thread():
        adaptation = model.learner.adapt(model.state, packed.select(taken), model.likelihood)
    hashes = _support_hashes(packed)
    together = _short_hash("".join(hashes).encode()) if joint else ""
    segments = {}
    for key, lack, n, e, support_hash in zip(keys, too_few, rows, events, hashes, strict=True):
        identity = _short_hash(f"{model_id}/{segment_name(key)}/{support_hash}/{together}".encode())
        status: SegmentStatus = "adapted" if lack is None else "abstained"
        reason = lack or f"{n} matured rows, {int(e)} events"
        if model.recipe.learner == "none":
            status, reason = "fallback", f"the champion {model.recipe_name} is a pooled model"
        segments[key] = SegmentAdaptation(key, status, reason, int(n), int(e), support_hash, identity)
    return Adapted(model, adaptation, segments)


def _support_hashes(support: Packed) -> list[str]:
    """A hash of each segment's support as the learner reads it: inputs, labels and base scores."""
    return [
        _short_hash(*(values[begin:end].tobytes() for values in (support.x, support.y, support.base)))
        for begin, end in pairwise(support.starts)
    ]


def _short_hash(*parts: bytes) -> str:
    return hashlib.sha256(b"".join(parts)).hexdigest()[:16]


def _safetensors(arrays: Arrays) -> bytes:
    """Arrays as safetensors, which want C order; `ascontiguousarray` would make vectors of scalars."""
    content: bytes = write_arrays({name: np.asarray(values, order="C") for name, values in arrays.items()})
    return content


def _put_back(values: Array, order: Array) -> Array:
    """Packed values (N,) in the order that rows had before `pack`."""
    out = np.empty(len(order))
    out[order] = values
    return out


def _too_few(rows: int, events: int, limits: Thresholds) -> str | None:
    for what, count, least in (
        ("matured rows", rows, limits.min_support_rows),
        ("events", events, limits.min_support_events),
    ):
        if count < least:
            return f"scored from its parents and the pool: {count} {what}, at least {least} are wanted"
    return None
