"""Similarity of segments: distances, table, map, and when neighbours' rows help the unseen."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import special
from scipy.spatial import distance as reference

from metarisk.domain import Adaptation, Array, Episodes, Learner, ModelError, Packed
from metarisk.learners.heads.map_head import MapHead
from metarisk.learners.heads.map_network import MapNetwork
from metarisk.learners.loop import Loop
from metarisk.learners.metric.matching import Matching
from metarisk.learners.metric.prototypical import Prototypical
from metarisk.learners.similarity import (
    borrow,
    coordinates,
    distances,
    embedding_of,
    neighbours,
    neighbours_help,
    profiles,
    signatures,
)

SMALL: dict[str, Any] = {"loop": Loop(steps=2, device="cpu", precision="float64")}


def quiet(done: int, total: int, note: str) -> None:
    pass


def book(segments: int = 40, size: int = 80, *, alike: bool, seed: int = 0) -> Packed:
    """Two kinds of segments that differ in the mean of x; alike: in their level too, else levels are by chance."""
    r = np.random.default_rng(seed)
    kind = np.arange(segments) % 2
    level = 1.2 * (2 * kind - 1) if alike else r.permutation(np.tile([-1.2, 1.2], segments // 2))
    x = r.normal(size=(segments * size, 2)) + 2 * np.repeat(kind, size)[:, None]
    base = r.normal(-1, 0.5, segments * size)
    y = (r.random(len(base)) < special.expit(base + np.repeat(level, size))).astype(float)
    keys = tuple((f"s{i:02d}",) for i in range(segments))
    return Packed(keys, np.arange(segments + 1) * size, x, y, np.ones(len(base)), base)


def train(learner: Learner, rows: Packed) -> dict[str, Array]:
    return dict(learner.train(Episodes(rows, rows), None, "bernoulli", seed=0, progress=quiet))


def test_distances_equal_scipys_on_standardised_vectors() -> None:
    r = np.random.default_rng(0)
    a, b = r.normal(size=(7, 4)) * [1, 10, 0.1, 1], r.normal(size=(5, 4))
    a[:, 3] = b[:, 3] = 2.5
    both = np.concatenate([a, b])
    scale = np.where(both.std(0) > 0, both.std(0), 1)
    np.testing.assert_allclose(distances(a, b), reference.cdist(a / scale, b / scale), rtol=1e-12)
    assert distances(a)[2, 2] == 0


def test_the_table_lists_the_nearest_others_in_order() -> None:
    points = np.array([[0.0], [1.0], [3.0], [3.5]])
    keys = [("a",), ("b",), ("c",), ("d",)]
    table = neighbours(keys, reference.cdist(points, points), k=2)
    assert [(line.segment[0], line.neighbour[0], line.rank) for line in table] == [
        ("a", "b", 1),
        ("a", "c", 2),
        ("b", "a", 1),
        ("b", "c", 2),
        ("c", "d", 1),
        ("c", "b", 2),
        ("d", "c", 1),
        ("d", "b", 2),
    ]
    assert [line.distance for line in table[:2]] == [1.0, 3.0]
    assert neighbours(keys[:1], np.zeros((1, 1)), k=2) == []


def test_the_map_recovers_a_plane_up_to_rotation() -> None:
    points = np.random.default_rng(1).normal(size=(12, 2)) * [3, 1]
    given = reference.cdist(points, points)
    found = coordinates(given)
    np.testing.assert_allclose(reference.cdist(found, found), given, atol=1e-10)
    assert found[:, 0].var() > found[:, 1].var()
    np.testing.assert_array_equal(found, coordinates(given))
    assert coordinates(np.zeros((1, 1))).tolist() == [[0.0, 0.0]]


@pytest.mark.parametrize(
    "learner",
    [
        MapHead(),
        MapNetwork(**SMALL),
        Prototypical(hidden=(), embedding=2, **SMALL),
        Matching(hidden=(), embedding=2, **SMALL),
    ],
    ids=lambda learner: type(learner).__name__,
)
def test_adapted_segments_of_one_kind_are_neighbours(learner: Learner) -> None:
    rows = book(size=200, alike=True)
    state = train(learner, rows)
    if isinstance(learner, Prototypical | Matching):
        state["body.0"] = np.array([[1.0, 0], [0, 1.0], [0, 0]])
    adaptation = learner.adapt(state, rows, "bernoulli")
    vectors = signatures(adaptation)
    assert len(vectors) == 40 and np.isfinite(vectors).all()
    if isinstance(learner, Matching):
        return  # what sets its kinds apart is the level, which a contrast of embeddings does not hold
    nearest = neighbours(adaptation.keys, distances(vectors), k=1)
    same = [(int(line.segment[0][1:]) - int(line.neighbour[0][1:])) % 2 == 0 for line in nearest]
    assert np.mean(same) > 0.9


def test_a_contrast_of_embeddings_is_the_difference_of_class_means() -> None:
    learner = Matching(hidden=(), embedding=2, **SMALL)
    rows = replace(book(4, 30, alike=True), weight=np.random.default_rng(0).uniform(0.5, 2, 120))
    state = train(learner, rows)
    adaptation = learner.adapt(state, rows, "bernoulli")
    embedded = rows.x @ state["body.0"][:-1] + state["body.0"][-1]
    for segment in range(4):
        own = rows.index == segment
        means = [
            np.average(embedded[own & (rows.y == label)], axis=0, weights=rows.weight[own & (rows.y == label)])
            for label in (1, 0)
        ]
        np.testing.assert_allclose(signatures(adaptation)[segment], means[0] - means[1], atol=1e-12)


def test_an_adaptation_without_parameters_is_refused() -> None:
    with pytest.raises(ModelError, match="got level"):
        signatures(Adaptation((("a",),), {"level": np.zeros(1)}))


def test_profiles_are_weighted_means_and_do_not_read_labels() -> None:
    rows = replace(book(3, 10, alike=True), weight=np.arange(30.0))
    expected = np.average(np.column_stack([rows.x, rows.base])[10:20], axis=0, weights=rows.weight[10:20])
    np.testing.assert_allclose(profiles(rows)[1], expected)
    np.testing.assert_array_equal(profiles(rows), profiles(replace(rows, y=1 - rows.y)))
    empty = replace(rows, weight=np.where(rows.index == 2, 0.0, 1.0))
    np.testing.assert_allclose(profiles(empty)[2], np.column_stack([rows.x, rows.base])[:20].mean(0))


def test_borrowed_rows_are_the_lenders_at_a_discount() -> None:
    rows = book(6, 20, alike=True)
    support, unseen = rows.select([0, 1, 2, 3]), rows.select([4, 5])
    lent = borrow(support, unseen, k=2, discount=0.5)
    assert lent.keys == unseen.keys and lent.sizes.tolist() == [40, 40]
    # even segments lend to even ones
    own = support.select([0, 2])
    np.testing.assert_array_equal(np.sort(lent.y[:40]), np.sort(own.y))
    assert set(lent.x[:40, 0]) == set(own.x[:, 0])
    np.testing.assert_allclose(lent.weight, 0.25)
    assert borrow(support.select([]), unseen).rows == 0
    # a segment is never its own neighbour
    assert not set(borrow(rows, unseen, k=1).x[:20, 0]) & set(unseen.x[:20, 0])


def test_lenders_are_chosen_by_the_metric_that_a_learner_has_learned() -> None:
    """Its embedding forgets the first two columns, in which alone segment 2 is near the unseen one."""
    r = np.random.default_rng(0)
    centres = np.array([[0.0, 0.0, 0.0], [9.0, 9.0, 0.1], [0.0, 0.0, 5.0]])
    x = np.repeat(centres, 20, axis=0) + 0.01 * r.normal(size=(60, 3))
    rows = Packed(tuple((str(i),) for i in range(3)), np.arange(4) * 20, x, np.zeros(60), np.ones(60), np.zeros(60))
    support, unseen = rows.select([1, 2]), rows.select([0])
    learner = Matching(hidden=(), embedding=2, **SMALL)
    matrix = np.array([[0.0, 0.0], [0.0, 0.0], [1.0, -2.0], [3.0, 4.0]])
    state = {"body.0": matrix, "centre": np.array(0.0)}
    embed = embedding_of(learner, state)
    assert embed is not None and embedding_of(MapHead(), {}) is None
    expected = [part.mean(0) @ matrix[:3] + matrix[3] for part in np.split(x, 3)]
    np.testing.assert_allclose(profiles(rows, embed), expected)
    for by, lender in ((None, "2"), (embed, "1")):
        lent = borrow(support, unseen, k=1, embed=by)
        np.testing.assert_array_equal(np.sort(lent.x, axis=0), np.sort(rows.select([int(lender)]).x, axis=0))


@pytest.mark.parametrize("alike", [True, False])
def test_neighbours_are_used_only_where_they_help(alike: bool) -> None:
    rows, later = book(alike=alike), book(alike=alike, seed=5)
    if not alike:
        # the same levels later, unrelated to what the rows look like
        later = replace(later, y=rows.y, x=rows.x, base=rows.base)
    head = MapHead()
    verdict = neighbours_help(head, train(head, rows), Episodes(rows, later), "bernoulli")
    assert verdict.segments == 40 and verdict.low <= verdict.difference <= verdict.high
    assert verdict.helps is alike


def test_too_little_to_judge_helps_nobody() -> None:
    rows = book(2, 20, alike=True).select([0])
    head = MapHead()
    assert not neighbours_help(head, train(head, rows), Episodes(rows, rows), "bernoulli").helps
