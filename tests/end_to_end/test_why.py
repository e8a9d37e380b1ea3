"""Why scores moved: against a twin that replays every mixture by hand, and what is published of it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from datetime import date
from itertools import pairwise, permutations, product
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from metarisk.adapt import LEVEL_RULES, Adapted, adapt, shifts
from metarisk.answers import why
from metarisk.cli import app
from metarisk.domain import DataError
from metarisk.job.champion import load_model
from metarisk.job.published import aligned, published
from metarisk.job.run import load_level, scan, support
from metarisk.jobs import nightly
from metarisk.moves import FACTORS, PARTS
from metarisk.scoring import mean_score
from metarisk.steps import attribute as attribution
from metarisk.steps import judge
from metarisk.tasks import population
from tests.end_to_end import tiny
from tests.end_to_end.tiny import FIRST, NAME, SECOND, Listener, Project

LATER = date(2026, 7, 26)
PRICED = tiny.TOML.replace('exit_date = "exit_date"', 'exit_date = "exit_date"\nlgd = "lgd"\nead = "ead"')
PRICES = tiny.CAREFUL.replace(
    "SELECT loan_id,", "SELECT 0.45 AS lgd, CASE WHEN amount > 0 THEN amount END AS ead, loan_id,"
)
MOVED = "T00151"
"""A loan of the north that is of the south later."""


@pytest.fixture(scope="module")
def moved(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Two nights between which everything changed: the book, the data, the labels, the model and the level."""
    toml = PRICED.replace("[validation]", '[promotion]\nrule = "always"\n\n[validation]')
    project = tiny.make(tmp_path_factory.mktemp("why") / "project", toml=toml, sql=PRICES)
    project.weekly()
    project.nightly(FIRST)
    frame, loan = tiny.book(), pl.col("loan_id")
    project.load(
        frame.with_columns(
            amount=pl.when(loan.str.ends_with("3")).then(1.3 * pl.col("amount")).otherwise("amount"),
            region=pl.when(loan == MOVED).then(pl.lit("south")).otherwise("region"),
        )
    )
    with pytest.MonkeyPatch.context() as patch:
        chosen = judge.evidences.choose_level
        patch.setattr(judge.evidences, "choose_level", lambda *a: replace(chosen(*a), rule=LEVEL_RULES[-1]))
        project.weekly(date(2026, 7, 25))
    project.nightly(LATER)
    return project


class Twin:
    """Every mixture of the two nights from scratch: adapt, score, calibrate, whatever is on disk."""

    def __init__(self, project: Project) -> None:
        nights = [published(project.context(LATER), day) for day in (FIRST, LATER)]
        contexts = [night.context for night in nights]
        self.portfolio, spec = contexts[0].portfolio, contexts[0].spec
        models = [load_model(night.context, night.run.model_id) for night in nights]
        known = [support(night.context, night.run) for night in nights]
        levels = [load_level(night.run) for night in nights]
        self.rows = [
            population(scan(n.context, n.run.checked), self.portfolio, n.as_of).collect().sort("loan_id")
            for n in nights
        ]
        both = set(self.rows[0]["loan_id"]) & set(self.rows[1]["loan_id"])
        shared = [frame.filter(pl.col("loan_id").is_in(both)) for frame in self.rows]
        self.loans = shared[0]["loan_id"].to_list()
        self.segments = [(frame["region"] + "|" + frame["product"]).to_list() for frame in shared]
        self.logit, self.score, self.loss = {}, {}, {}
        for d, s, m, c in product((0, 1), repeat=4):
            adapted = adapt(models[m], "", known[s], self.portfolio, spec)
            link = adapted.score(shared[d], self.portfolio)[0] + shifts(shared[d], self.portfolio, levels[c])
            self.logit[d, s, m, c] = adapted.model.logit(link)
            self.score[d, s, m, c] = mean_score(adapted, link)
            price = (shared[d]["lgd"] * shared[d]["ead"]).fill_null(0.0).to_numpy()
            self.loss[d, s, m, c] = self.score[d, s, m, c] * price

    @staticmethod
    def split(values: Mapping[tuple[int, ...], float]) -> dict[str, float]:
        """Gains by factor, averaged over the 24 orders of change."""
        gains = dict.fromkeys(FACTORS, 0.0)
        for order in permutations(range(4)):
            at = [0, 0, 0, 0]
            for factor in order:
                before = values[tuple(at)]
                at[factor] = 1
                gains[FACTORS[factor]] += (values[tuple(at)] - before) / 24
        return gains


@pytest.fixture(scope="module")
def twin(moved: Project) -> Twin:
    """Made once."""
    return Twin(moved)


def parts_of(row: Mapping[str, float]) -> dict[str, float]:
    return {part: row[f"from_{part}"] for part in PARTS}


def test_every_published_change_is_the_sum_of_its_parts(moved: Project) -> None:
    rows = moved.warehouse.rows("SELECT * FROM metarisk.score_move ORDER BY segment, measure")
    summary = moved.warehouse.rows("SELECT as_of, segment, entities, mean_score FROM metarisk.segment_summary")
    known = {(row["as_of"], row["segment"]): row for row in summary}
    assert {row["segment"] for row in rows} == {None, *(segment for _, segment in known)}
    assert len(rows) == 2 * len({row["segment"] for row in rows})
    for row in rows:
        assert (row["before_as_of"], row["as_of"], row["is_latest"]) == (FIRST, LATER, True)
        scale = 1.0 if row["measure"] == "mean_score" else row["value_after"]
        assert sum(parts_of(row).values()) == pytest.approx(row["value_after"] - row["value_before"], abs=1e-9 * scale)
        assert row["rows_before"] - row["rows_left"] + row["rows_entered"] == row["rows_after"]
        if row["segment"] is not None and row["measure"] == "mean_score":
            for day, name in ((FIRST, "before"), (LATER, "after")):
                assert row[f"rows_{name}"] == known[day, row["segment"]]["entities"]
                assert row[f"value_{name}"] == pytest.approx(known[day, row["segment"]]["mean_score"], abs=1e-12)
    losses = moved.warehouse.rows("SELECT as_of, sum(expected_loss) AS loss FROM metarisk.score_history GROUP BY as_of")
    by_day = {row["as_of"]: row["loss"] for row in losses}
    (whole,) = (row for row in rows if row["segment"] is None and row["measure"] == "expected_loss")
    assert (whole["value_before"], whole["value_after"]) == pytest.approx((by_day[FIRST], by_day[LATER]))
    assert all(value for value in parts_of(whole).values())


def test_the_parts_are_those_of_replays_by_hand(moved: Project, twin: Twin) -> None:
    found = {
        row["segment"]: row
        for row in moved.warehouse.rows("SELECT * FROM metarisk.score_move WHERE measure = 'mean_score'")
    }
    loss = {
        row["segment"]: row
        for row in moved.warehouse.rows("SELECT * FROM metarisk.score_move WHERE measure <> 'mean_score'")
    }
    for segment in (None, "south|auto", "north|auto"):
        same = [segment is None or here == there == segment for here, there in zip(*twin.segments, strict=True)]
        means = twin.split({key: value[same].mean() for key, value in twin.score.items()})
        sums = twin.split({key: value[same].sum() for key, value in twin.loss.items()})
        for factor in FACTORS:
            assert found[segment][f"from_{factor}"] == pytest.approx(means[factor], abs=1e-12), factor
            assert loss[segment][f"from_{factor}"] == pytest.approx(sums[factor], rel=1e-9), factor
        names = ["|".join(key) for key in twin.rows[0].select("region", "product").iter_rows()]
        before = sum(name == segment for name in names) if segment else len(names)
        assert found[segment]["rows_left"] == before - sum(same)


def test_a_row_that_changed_its_segment_left_the_one_and_entered_the_other(moved: Project, twin: Twin) -> None:
    place = twin.loans.index(MOVED)
    assert [segments[place].split("|")[0] for segments in twin.segments] == ["north", "south"]
    one = why.why_entity(moved.context(LATER), FIRST, MOVED)[0]
    assert one.parts["data"] != 0


def test_an_entitys_logit_splits_exactly(moved: Project, twin: Twin) -> None:
    for entity in (twin.loans[0], next(loan for loan in twin.loans if loan.endswith("3")), MOVED):
        place = twin.loans.index(entity)
        found = {move.measure: move for move in why.why_entity(moved.context(LATER), FIRST, entity)}
        for measure, values in (("logit", twin.logit), ("score", twin.score), ("expected_loss", twin.loss)):
            expected = twin.split({key: value[place] for key, value in values.items()})
            assert dict(found[measure].parts) == pytest.approx(expected, rel=1e-9, abs=1e-12)
            change = found[measure].after - found[measure].before
            assert sum(found[measure].parts.values()) == pytest.approx(change, abs=1e-9)
        assert bool(found["logit"].parts["data"]) == (entity == MOVED or entity.endswith("3"))
        row = moved.warehouse.rows(
            "SELECT score, expected_loss FROM metarisk.score_current WHERE entity = $entity", {"entity": entity}
        )[0]
        assert (found["score"].after, found["expected_loss"].after) == pytest.approx(
            (row["score"], row["expected_loss"])
        )


def test_the_command_tells_what_is_published(moved: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METARISK_PROJECT", str(moved.settings.project))
    ask = ["why", "-p", NAME, "--from", str(FIRST), "--to", str(LATER)]
    told = CliRunner().invoke(app, ask, env={"COLUMNS": "120"})
    assert told.exit_code == 0, told.output
    for word in ("whole portfolio", "rows that left", "another model", "expected loss"):
        assert word in told.output
    found = json.loads(CliRunner().invoke(app, [*ask, "--segment", "south|auto", "--json"]).output)
    rows = moved.warehouse.rows("SELECT * FROM metarisk.score_move WHERE segment = 'south|auto' ORDER BY measure DESC")
    assert [move["parts"] for move in found["moves"]] == [pytest.approx(parts_of(row)) for row in rows]
    entity = json.loads(CliRunner().invoke(app, [*ask, "--entity", MOVED, "--json"]).output)
    assert [move["measure"] for move in entity["moves"]] == ["logit", "score", "expected_loss"]
    for wrong, what in (
        (["--segment", "nowhere"], "neither night has a row of segment 'nowhere'"),
        (["--entity", "nobody"], "'nobody' has no score in this night"),
        (["--entity", MOVED, "--segment", "south|auto"], "a segment and an entity"),
    ):
        refused = CliRunner().invoke(app, [*ask, *wrong, "--json"])
        assert refused.exit_code == 1
        assert what in json.loads(refused.output)["what"]


def test_the_page_has_a_waterfall(moved: Project) -> None:
    (page,) = (moved.settings.data_dir / "reports" / NAME).glob(f"{LATER}*.html")
    text = page.read_text()
    assert "Why the scores moved" in text
    assert "newly known labels" in text
    (first,) = (moved.settings.data_dir / "reports" / NAME).glob(f"{FIRST}*.html")
    assert "Why the scores moved" not in first.read_text()


def test_a_night_after_a_night_tells_why_on_either_warehouse(published_project: Project) -> None:
    assert published_project.count("score_move_part") == 0
    published_project.nightly(SECOND)
    rows = published_project.warehouse.rows("SELECT * FROM metarisk.score_move")
    assert {row["before_as_of"] for row in rows} == {FIRST}
    for row in rows:
        change = row["value_after"] - row["value_before"]
        assert sum(parts_of(row).values()) == pytest.approx(change, abs=1e-9)
        assert row["from_model"] == row["from_data"] == 0
    assert any(row["from_adaptation"] for row in rows)


def test_a_night_that_cannot_be_replayed_stops_nothing(published: Project) -> None:
    shutil.rmtree(published.settings.data_dir / "lake" / NAME / str(FIRST))
    listener = Listener()
    assert nightly(published.context(SECOND, reporter=listener)).outcome == "published"
    assert published.count("score_move_part") == 0
    assert any(warning.startswith(f"why scores moved since {FIRST} cannot be told") for warning in listener.warnings)
    with pytest.raises(DataError, match=r"no longer whole in the lake.*--restate"):
        why.why(published.context(SECOND), FIRST)
    with pytest.raises(DataError, match="no night of this date is published"):
        why.why(published.context(SECOND), date(2026, 6, 1))


def test_scores_that_are_not_reproduced_are_not_explained(moved: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    def another(adapted: Adapted, link: np.ndarray) -> np.ndarray:
        return mean_score(adapted, link + 1e-6)

    monkeypatch.setattr("metarisk.job.published.mean_score", another)
    with pytest.raises(DataError, match=r"now score otherwise than was published.*code_version"):
        why.why(moved.context(LATER), FIRST)


def test_a_portfolio_may_do_without(moved: Project, tmp_path: Path) -> None:
    project = tiny.copy(moved, tmp_path / "project")
    run = published(project.context(LATER), LATER).run
    rows = [pl.read_parquet(attribution.attribute(project.context(LATER), run) / "moves.parquet").height]
    project.edit("portfolios/tiny.toml", "[validation]", "[reasons]\nmoves = false\n\n[validation]")
    rows.append(pl.read_parquet(attribution.attribute(project.context(LATER), run) / "moves.parquet").height)
    assert rows[0] > rows[1] == 0


def test_two_streams_are_cut_at_the_same_keys() -> None:
    r = np.random.default_rng(0)
    keys = [f"k{number:03d}" for number in range(200)]
    for _ in range(30):
        sides = []
        for _ in range(2):
            kept = sorted(r.choice(keys, r.integers(0, 60), replace=False))
            frame = pl.DataFrame({"key": kept}, schema={"key": pl.String})
            sides.append([frame[i : i + 7] for i in range(0, frame.height, 7)])
        pairs = list(aligned(iter(sides[0]), iter(sides[1]), "key"))
        for side in (0, 1):
            wanted = pl.concat([pl.DataFrame(schema={"key": pl.String}), *sides[side]])["key"].to_list()
            assert [key for pair in pairs for key in pair[side]["key"]] == wanted
        spans = [[*pair[0]["key"], *pair[1]["key"]] for pair in pairs]
        assert all(max(one) < min(other) for one, other in pairwise(spans))
