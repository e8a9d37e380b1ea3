"""What drift decides: never on noise, always on what matters, at the level that has the rows, and never by crashing."""

from datetime import UTC, date, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from scipy import stats

from metarisk.domain import Feature
from metarisk.drift import decide, direct, histograms, inputs
from tests.drifts import detect

X = {"x": Feature("numeric")}


def _frame(**columns):
    return pl.DataFrame(columns).lazy()


def _night(values, reference, kind="numeric", segments=None, known_segments=None):
    """Drift of one feature in one segment, or in the segments given."""
    known = _frame(x=reference, segment=known_segments or ["a"] * len(reference))
    tonight = _frame(x=values, segment=segments or ["a"] * len(values))
    return detect(tonight, inputs.reference(known, {"x": Feature(kind)}, ("segment",)))


def _of(found, segment=None, feature="x", metric="psi"):
    (row,) = found.filter(
        pl.col("segment").eq_missing(pl.lit(segment)), pl.col("feature").eq_missing(pl.lit(feature)), metric=metric
    ).rows(named=True)
    return row


# no wolf


def _book(rng, segments, features, rows):
    """A book of many segments, each with its own levels: skewed, discrete and categorical features among them."""
    name = np.repeat([f"s{i:03d}" for i in range(segments)], rows)
    place = np.repeat(np.linspace(-1, 1, segments), rows)
    columns = {"segment": name}
    for f in range(features):
        draws = rng.normal(place, 1.0)
        if f % 4 == 1:
            columns[f"f{f}"] = np.exp(draws).astype(np.float32)
        elif f % 4 == 2:
            columns[f"f{f}"] = rng.poisson(np.exp(place)).astype(np.float32)
        elif f % 4 == 3:
            columns[f"f{f}"] = np.array(["A", "B", "C", "D", "E", "F"])[
                np.minimum(rng.geometric(0.4, len(name)), 6) - 1
            ]
        else:
            columns[f"f{f}"] = draws.astype(np.float32)
    return pl.DataFrame(columns).lazy()


FEATURES = {f"f{f}": Feature("categorical" if f % 4 == 3 else "numeric") for f in range(12)}


@pytest.mark.parametrize("seed", range(10))
def test_a_night_without_drift_is_quiet_where_a_fixed_limit_cries_wolf(seed):
    rng = np.random.default_rng(seed)
    sizes = rng.permutation(np.geomspace(100, 3000, 40).astype(int))
    known = inputs.reference(_book(rng, 40, 12, np.maximum(sizes, 500)), FEATURES, ("segment",))
    found = detect(_book(rng, 40, 12, sizes), known)
    tests = found.filter(metric="psi")
    assert tests.height == 41 * 12
    assert tests.filter(pl.col("status") != "ok").height == 0
    assert tests.filter(pl.col("value") > 0.1).height > 10


# not asleep


@pytest.mark.parametrize(("shift", "statuses"), [(0.3, ["watch", "alert"]), (0.4, ["alert"])])
def test_a_shift_at_a_thousand_rows_is_seen_in_95_of_100_segments(shift, statuses):
    rng = np.random.default_rng(20)
    segments = [f"s{i}" for i in range(200)]
    known = inputs.reference(_frame(x=rng.normal(size=1_000_000), segment=segments * 5000), X, ("segment",))
    found = detect(_frame(x=rng.normal(shift, 1.0, 200_000), segment=segments * 1000), known)
    tests = found.filter(pl.col("segment").is_not_null(), metric="psi")
    # were it the only drift among the tests of 200 segments x 40 features, it would be found as well
    alone = pl.col("p") <= decide.DISCOVERY_RATE / 8000
    assert tests.filter(pl.col("status").is_in(statuses) & alone).height >= 190


def test_only_the_segment_that_moved_is_named():
    rng = np.random.default_rng(21)
    segments = [f"s{i}" for i in range(20)]
    known = inputs.reference(_frame(x=rng.normal(size=100_000), segment=segments * 5000), X, ("segment",))
    values = rng.normal(size=20_000)
    values[::20] += 0.5
    found = detect(_frame(x=values, segment=segments * 1000), known)
    assert found.filter(pl.col("status") != "ok", metric="psi")["segment"].to_list() == ["s0"]


def test_small_differences_of_large_segments_lend_small_ones_no_discovery():
    rng = np.random.default_rng(22)
    sizes = [60_000] * 10 + [200] * 90
    labels = np.repeat([f"s{i}" for i in range(100)], sizes)
    moved = np.repeat([0.1] * 10 + [0.0] * 90, sizes)
    known = inputs.reference(_frame(x=rng.normal(size=len(labels)), segment=labels), X, ("segment",))
    found = detect(_frame(x=rng.normal(moved, 1.0), segment=labels), known).filter(metric="psi")
    assert found.filter(pl.col("p") < 1e-12).height >= 10, "the differences are beyond doubt"
    assert found["status"].unique().to_list() == ["ok"], "and without importance"


def test_a_shift_in_a_segment_far_from_the_others_is_seen_on_its_own_tenths():
    rng = np.random.default_rng(1)
    sizes, names = np.array([40_000, 2000]), ["many", "few"]
    place = np.repeat([0.0, 2.5], sizes)
    reference = rng.normal(place, 1.0)
    values = rng.normal(np.repeat([0.0, 2.9], sizes), 1.0)
    labels = list(np.repeat(names, sizes))
    found = _night(values, reference, segments=labels, known_segments=labels)
    assert _of(found, "few")["status"] == "alert"
    assert _of(found, "many")["status"] == "ok"


def test_a_swap_of_two_categories_is_an_alert_that_names_one_of_them():
    rng = np.random.default_rng(2)
    known = rng.choice(["rent", "own", "mortgage"], 3000, p=[0.5, 0.1, 0.4])
    swapped = np.where(known == "rent", "own", np.where(known == "own", "rent", known))
    row = _of(_night(list(swapped[:1000]), list(known), "categorical"), "a")
    assert row["status"] == "alert"
    assert row["detail"].startswith(("'rent': ", "'own': "))


def test_a_feature_that_goes_null_is_an_alert_that_says_so():
    found = _night([None] * 500, np.random.default_rng(3).normal(size=2000))
    row = _of(found, "a")
    assert (row["status"], row["detail"]) == ("alert", "missing: 0.0% → 100.0%")
    rate = _of(found, metric="missing_rate")
    assert (rate["value"], rate["effect"], rate["status"]) == (1.0, 1.0, "alert")


def test_an_unseen_category_is_measured():
    found = _night(["A"] * 300 + ["Z"] * 100, ["A"] * 1000, "categorical")
    assert _of(found, metric="unseen")["value"] == pytest.approx(0.25)
    assert _of(found)["detail"] == "rare or unseen values: 0.0% → 25.0%"


def test_a_drifting_score_is_seen_under_the_targets_name():
    rng = np.random.default_rng(4)
    known = _frame(x=rng.normal(size=3000), pd_12m=rng.beta(2, 60, 3000), segment=["a"] * 3000)
    tonight = _frame(x=rng.normal(size=3000), pd_12m=rng.beta(2, 30, 3000), segment=["a"] * 3000)
    found = detect(tonight, inputs.reference(known, X, ("segment",), score="pd_12m"))
    assert _of(found, feature="pd_12m")["status"] == "alert"
    assert _of(found)["status"] == "ok"
    assert _of(found, feature="pd_12m", metric="wasserstein")["value"] > 0.3


def test_p_is_refined_by_monte_carlo_only_where_that_could_decide(monkeypatch):
    rng = np.random.default_rng(5)
    asked = []
    original = decide.distances.monte_carlo_p
    monkeypatch.setattr(decide.distances, "monte_carlo_p", lambda *a, **k: asked.append(original(*a, **k)) or asked[-1])
    clear = _night(rng.normal(1.0, 1.0, 500), rng.normal(size=3000))
    assert _of(clear, "a")["status"] == "alert"
    assert asked == []
    near = _night([0.1] * 41 + [0.9] * 79, [0.1] * 1500 + [0.9] * 1500)
    assert len(asked) == 2
    assert _of(near, "a")["p"] == asked[-1]
    assert asked[-1] == pytest.approx(stats.fisher_exact([[41, 79], [1500, 1500]]).pvalue, rel=0.6)


def test_the_same_night_gives_the_same_bits():
    rng = np.random.default_rng(6)
    values, known = rng.normal(0.25, 1, 150), rng.normal(size=900)
    assert _night(values, known).equals(_night(values, known))


# where the rows are


def test_small_segments_are_judged_with_others_of_their_parent_and_say_so():
    rng = np.random.default_rng(7)
    product = ["car"] * 3000 + ["house"] * 3000
    region = [f"r{i % 200}" for i in range(3000)] + ["big"] * 2960 + ["tiny"] * 40
    known = _frame(x=rng.normal(size=6000), product=product, region=region)
    moved = np.where(np.array(product) == "car", 0.5, 0.0)
    tonight = _frame(x=rng.normal(moved, 1.0), product=product, region=region)
    found = detect(tonight, inputs.reference(known, X, ("product", "region")))
    tests = {(row["level"], row["segment"]): row["status"] for row in found.filter(metric="psi").rows(named=True)}
    assert tests == {("all", None): "watch", ("product", "car"): "alert", ("cell", "house|big"): "ok"}
    small = _of(found, "car|r7", feature=None, metric="volume")
    assert (small["level"], small["status"]) == ("product", "ok")
    assert small["detail"] == "too few rows: judged with the small segments of its product"
    alone = _of(found, "house|tiny", feature=None, metric="volume")
    assert (alone["level"], alone["status"]) == ("all", "blind")


def test_new_vanished_and_halved_segments_are_seen_in_volume():
    rng = np.random.default_rng(8)
    known = ["stays"] * 4000 + ["halves"] * 1000 + ["vanishes"] * 500
    tonight = ["stays"] * 4000 + ["halves"] * 400 + ["'; DROP--"] * 200
    found = _night(rng.normal(size=4600), rng.normal(size=5500), segments=tonight, known_segments=known)
    volume = {row["segment"]: row for row in found.filter(metric="volume").rows(named=True)}
    assert {name: row["status"] for name, row in volume.items()} == {
        "stays": "ok", "halves": "watch", "vanishes": "watch", "'; DROP--": "watch",
    }  # fmt: skip
    assert volume["vanishes"]["detail"] == "no rows tonight"
    assert volume["'; DROP--"]["detail"] == "not in the reference"
    assert volume["halves"]["effect"] == pytest.approx(np.log(400 / 4600 / (1000 / 5500)))
    assert _of(found)["n_cur"] == 4600


def test_missing_segment_values_are_a_segment():
    rng = np.random.default_rng(9)
    labels = [None] * 500 + ["a"] * 500
    found = _night(rng.normal(size=1000), rng.normal(size=1000), segments=labels, known_segments=labels)
    assert found.filter(metric="psi").height == 3


# bad input


def _status(found, segment=None):
    row = _of(found, segment)
    return row["status"], row["detail"]


def test_a_constant_feature_is_ok_while_it_stays_and_an_alert_when_it_moves():
    assert _status(_night([1.0] * 100, [1.0] * 100)) == ("ok", "constant, as in the reference")
    for value in (2.0, 0.5):
        assert _status(_night([value] * 100, [1.0] * 100)) == ("alert", "1: 100.0% → 0.0%")


def test_all_null_is_blind_and_coming_to_life_an_alert():
    nothing = pl.Series([None] * 200, dtype=pl.Float64)
    assert _status(_night(nothing, nothing)) == ("blind", "all null, in the reference and tonight")
    assert _status(_night([1.0] * 200, nothing)) == ("alert", "missing: 100.0% → 0.0%")


def test_one_row_or_none_is_blind():
    known = np.random.default_rng(10).normal(size=500)
    assert _status(_night([0.0], known)) == ("blind", "too few rows: 1 tonight, 500 in the reference")
    nothing = pl.Series([], dtype=pl.Float64)
    empty = detect(
        pl.DataFrame({"x": nothing, "segment": pl.Series([], dtype=pl.String)}).lazy(),
        inputs.reference(_frame(x=known, segment=["a"] * 500), X, ("segment",)),
    )
    assert _status(empty) == ("blind", "no rows tonight")


def test_a_column_that_is_gone_new_or_of_another_type_says_so_and_the_others_are_judged():
    rng = np.random.default_rng(11)
    kinds = {"x": Feature("numeric"), "y": Feature("numeric"), "z": Feature("numeric")}
    known = _frame(x=rng.normal(size=500), y=rng.normal(size=500), z=rng.normal(size=500), segment=["a"] * 500)
    tonight = _frame(x=rng.normal(size=500), z=[[1.0]] * 500, segment=["a"] * 500)
    found = detect(tonight, inputs.reference(known, kinds, ("segment",)), features=["x", "y", "z", "w"])
    assert _status(found) == ("ok", "")
    reasons = {row["feature"]: row["detail"] for row in found.filter(status="blind").rows(named=True)}
    assert reasons == {
        "y": "the column is gone",
        "z": "a column of type List(Float64) cannot be counted",
        "w": "not in the model's reference: watched from its next training on",
    }


def test_numbers_that_became_text_are_read_or_missing():
    known = np.random.default_rng(12).normal(size=500)
    assert _of(_night([str(v) for v in known], known))["value"] == 0.0
    assert _status(_night(["n/a"] * 500, known)) == ("alert", "missing: 0.0% → 100.0%")


def test_an_exploding_category_is_an_alert_in_bounded_bins():
    names = [f"id{i}" for i in range(100_000)]
    found = _night(names, ["A", "B"] * 1000, "categorical")
    assert _status(found) == ("alert", "rare or unseen values: 0.0% → 100.0%")
    calm = _night(names, names, "categorical")
    assert _status(calm)[0] == "ok"
    known = inputs.reference(_frame(x=names, segment=["a"] * 100_000), {"x": Feature("categorical")}, ("segment",))
    assert known.height < 1000


def test_infinities_and_nan_are_counted_without_harm():
    known = list(np.random.default_rng(13).normal(size=1000))
    wild = [*known[:400], *[np.inf] * 300, *[-np.inf] * 200, *[np.nan] * 100]
    found = _night(wild, known)
    assert _of(found)["status"] == "alert"
    assert _of(found, metric="missing_rate")["value"] == pytest.approx(0.1)
    assert np.isfinite(_of(found, metric="wasserstein")["value"])
    assert _of(_night(known, wild))["status"] == "alert"


def test_ages_are_counted_from_their_date_and_plain_dates_are_numbers():
    rng = np.random.default_rng(14)
    opened = [date(2011, 1, 31)] * 800
    born = [date(2001, 1, 31) - timedelta(days=int(d)) for d in rng.integers(0, 3650, 800)]
    older = [day - timedelta(days=1200) for day in born]
    kinds = {"x": Feature("date-age"), "seen": Feature("numeric")}
    seen = [datetime(2011, 1, 1, hour, tzinfo=UTC) for hour in rng.integers(0, 24, 800)]
    known = _frame(x=born, seen=seen, opened=opened, segment=["a"] * 800)
    tonight = _frame(x=older, seen=seen, opened=opened, segment=["a"] * 800)
    table = inputs.reference(known, kinds, ("segment",), opened_on="opened")
    edges = table.filter(pl.col("key").is_null(), feature="x")["low"]
    assert edges[1:-1].is_between(9.99, 20.01).all()
    found = detect(tonight, table)
    assert _of(found)["status"] == "alert"
    assert _of(found, feature="seen")["status"] == "ok"
    gone = detect(tonight.drop("opened"), table)
    assert _status(gone) == ("blind", "the date opened that its age is counted from is gone")


def test_no_reference_or_no_segment_column_is_one_blind_row():
    found = detect(_frame(x=[1.0], segment=["a"]), None)
    assert found["status"].to_list() == ["blind"]
    assert "weekly" in found["detail"].item()
    table = inputs.reference(_frame(x=[1.0, 2.0], segment=["a", "b"]), X, ("segment",))
    assert detect(_frame(x=[1.0]), table)["detail"].item() == "the segment column segment is gone"


def test_a_level_of_ten_megabytes_stays_a_small_reference():
    long = "x" * 10_000_000
    table = inputs.reference(
        _frame(x=[long] * 3 + ["y"] * 97, segment=["a"] * 100), {"x": Feature("categorical")}, ("segment",)
    )
    assert table.estimated_size() < 100_000
    assert detect(_frame(x=[long + "z"] * 100, segment=["a"] * 100), table).height > 0


def test_counting_memory_and_result_do_not_depend_on_the_batches(monkeypatch):
    rng = np.random.default_rng(15)
    known = _book(rng, 5, 8, np.full(5, 200))
    features = {name: FEATURES[name] for name in [f"f{i}" for i in range(8)]}
    whole = inputs.reference(known, features, ("segment",))
    monkeypatch.setattr(histograms, "BATCH_ROWS", 64)
    assert inputs.reference(known, features, ("segment",)).equals(whole)


def test_losses_are_summed_to_the_same_bits_whatever_the_batches():
    r = np.random.default_rng(4)
    frame = pl.DataFrame(
        {"region": r.choice(["b", "a", None], 5_000).tolist(), "product": r.choice(["y", "x"], 5_000).tolist()}
    )
    loss = r.lognormal(0, 3, 5_000)
    whole = direct.summed([(frame, loss)], ["region", "product"])
    # cut so that segments come up in another order than in the first batch alone
    parts = [(frame[i : i + 7], loss[i : i + 7]) for i in range(0, 5_000, 7)]
    assert direct.summed(parts, ["region", "product"]).equals(whole)
    assert whole["region"].to_list() == ["(missing)", "(missing)", "a", "a", "b", "b"]
    for region, product, rows, total in whole.select("region", "product", "rows", "sum").iter_rows():
        mine = ((frame["region"].fill_null("(missing)") == region) & (frame["product"] == product)).to_numpy()
        assert (rows, total) == (mine.sum(), pytest.approx(loss[mine].sum()))
