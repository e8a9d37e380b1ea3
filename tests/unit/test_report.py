"""What the report pages say first, and that nothing in the data can break them."""

import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from metarisk.metrics import Interval
from metarisk.pages.cards.evidence import Evidence, EvidenceLine
from metarisk.pages.cards.week.similarity import MapPoint
from metarisk.pages.cards.week.takeover import Takeover
from tests.unit import report_examples as examples

HOSTILE = (
    "<script>alert(1)</script>",
    "\"><img src=x onerror='alert(1)'>",
    "Robert'); DROP TABLE risk_score;--|{{ 7 * 7 }}{% raw %}",
    "emoji \N{PILE OF POO} \N{RIGHT-TO-LEFT OVERRIDE}desrever\x00\x01\ud800\uffff",
    "x" * 1_000_000,
    "",
    "a|b\\|c",
)


class _Outline(HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def night_page():
    return examples.night().html()


@pytest.fixture(scope="module")
def week_page():
    return examples.week().html()


def _without_charts(**changes):
    """A night whose page needs no chart: quick to render where the test is about words."""
    return examples.night(**{"scores": None, "grades": (), "drift": (), **changes})


def _words(page):
    return re.sub(r"\s+", " ", _Outline(page.split("</style>", 1)[1]).text)


def test_a_night_says_first_whether_it_was_published_how_many_were_scored_and_what_is_wrong(night_page):
    words = _words(night_page)
    order = [
        "Lending Club consumer loans",
        "as of Monday, 31 January 2011",
        "Published 2011-02-01 04:16 UTC",
        "scored29,312of 29,347 extracted",
        "quarantined35",
        "segments49",
        "drift alerts3",
        "Needs attention",
        "annual_inc is between 0 and 10,000,000 (35 of 29,347 rows)",
        "Drift: int_rate (psi) in",
        "What to do next",
        "Scores",
    ]
    places = [words.index(phrase) for phrase in order]
    assert places == sorted(places)
    assert max(places) < 1500


@pytest.mark.parametrize(
    ("outcome", "word"),
    [
        ("published", "Published"),
        ("refused", "Not published"),
        ("failed", "Failed"),
    ],
)
def test_the_verdict_is_in_the_title_and_the_head(outcome, word):
    page = _without_charts(outcome=outcome, reason="source `loans` was not ready by 06:00").html()
    assert f"<title>{word}: " in page
    assert f"<strong>{word}</strong>" in page
    assert "source <code>loans</code> was not ready by 06:00" in page
    assert "2011-02-01 04:16 UTC" in page


def test_a_refused_night_tells_readers_what_they_see():
    page = _without_charts(outcome="refused", published_at=None, reason="12 rows share 6 loan ids").html()
    assert "readers keep the last published night" in page
    assert '<li class="bad"><bdi>12 rows share 6 loan ids</bdi></li>' in page


def test_a_backfill_says_that_it_is_one():
    page = _without_charts(mode="backfill", reason="quarter 1 filled in later").html()
    assert "<strong>backfill</strong>" in page
    assert "quarter 1 filled in later" in page


def test_a_calm_night_says_so():
    calm = _without_charts(quality=(), warnings=(), next_steps=())
    assert "Nothing needs attention" in calm.html()


def test_a_failed_critical_check_is_bad_and_stands_before_warnings():
    report = _without_charts()
    warned, passed, *_ = report.cards["quality"]
    broken = passed | {"success": False, "failing_rows": 7}
    page = examples.changed(report, quality=(warned, broken)).html()
    assert f'<li class="bad"><bdi>Check failed: {broken["rule"]} (7 of 29,347 rows).' in page
    assert page.index('<span class="tag critical">') < page.index('<span class="tag warning">')


@pytest.mark.parametrize(("copies", "shown"), [(1, 8), (3, 10)])
def test_drift_shows_the_worst_first_and_at_most_ten_and_not_what_is_blind(copies, shown):
    drift = tuple(replace(line, feature=f"{line.feature}{i}") for i in range(copies) for line in examples.drift())
    assert {line.status for line in drift} == {"alert", "watch", "blind", "ok"}
    page = _without_charts(drift=drift).html()
    statuses = re.findall(r'<span class="tag (\w+)">', page[page.index("Drift against") : page.index("Where: segment")])
    assert len(statuses) == shown
    assert statuses == sorted(statuses, key=["alert", "watch"].index)


def test_segments_that_moved_most_for_their_size_come_first(night_page):
    segments = examples.segments()
    shown = re.search(r"Segments worth a look.*?<tbody>(.*?)</tbody>", night_page, re.S)[1]
    first = re.search(r"<bdi>(.*?)</bdi>", shown)[1]
    most = max(segments, key=lambda s: abs(s.mean_score - s.last_mean_score) * math.sqrt(s.rows))
    assert first == most.name.replace("|", " · ")


def test_the_forest_plot_puts_better_left_worse_right_and_zero_in_the_middle(night_page):
    marks = re.findall(r'<b class="(\w+)" style="left:([\d.]+)%"', night_page)
    assert [kind for kind, _ in marks] == ["better", "even", "even", "worse", "worse", "worse"]
    places = [float(place) for _, place in marks]
    assert places == sorted(places)
    assert places[0] < 50 < places[-1]
    whisker = re.search(r'<i class="better" style="left:([\d.]+)%;right:([\d.]+)%"', night_page)
    assert float(whisker[1]) < places[0] < 100 - float(whisker[2]) < 50


def test_an_infinite_interval_fills_the_axis_and_an_unknown_one_is_left_out():
    rows = (
        EvidenceLine("a", 0.1, None, Interval(-0.001, -math.inf, math.inf)),
        EvidenceLine("b", math.nan, math.nan, Interval(math.nan, math.nan, math.nan)),
    )
    page = _without_charts(evidence=Evidence(rows, "c")).html()
    assert 'style="left:0.00%;right:0.00%"' in page
    assert page.count('<b class="') == 1
    assert "−∞ to ∞" in page


def test_the_week_says_who_scores_and_why(week_page):
    words = _words(week_page)
    assert "Waiting for approval" in words
    assert "map_head(hazard) goes on scoring" in words
    assert "credit waits for a person" in words
    assert "map_head(hazard) scores from now on" in _words(examples.week(decision="promoted").html())


def test_where_scores_have_no_points_nothing_is_said_in_points():
    told = tuple(row | {"points": None} for row in examples.RISKIEST)
    words = _words(_without_charts(riskiest=told).html())
    assert "The highest scores, and why Reasons, the heaviest first;" in words
    assert "Entity Score Reasons" in re.sub(r"(?<=[a-z])(?=[A-Z])", " ", words)
    assert "riskiest" not in words
    assert not re.search(r"−\d+", words[words.index("The highest scores") : words.index("Segments worth a look")])


def test_nothing_has_to_be_done_next_and_no_empty_card_says_so():
    words = _words(_without_charts(next_steps=()).html())
    assert "Nothing has to be done next" in words
    assert "What to do next" not in words


def test_the_riskiest_rows_are_told_why_in_points(night_page):
    words = _words(night_page)
    worst = examples.RISKIEST[0]
    assert worst["entity"] in words
    assert "drawn share of revolving limits −14" in words
    assert "what is known of others in small_business, CA −8" in words


def test_grades_without_rows_are_bars_of_none_and_no_line_of_the_table(night_page):
    table = night_page.split("<h2>Grade by grade</h2>", 1)[1].split("</table>", 1)[0]
    assert [name for name in "ABCDEFGHIJ" if f"<bdi>{name}</bdi>" in table] == list("BCDEFGHIJ")
    alone = _without_charts(grades=tuple(replace(g, rows_before=None) for g in examples.GRADES)).html()
    assert "last run" not in alone.split("<h2>Grades</h2>", 1)[1].split("</section>", 1)[0]


def test_back_tests_name_what_no_bad_year_explains(week_page):
    words = _words(week_page)
    assert "Back-test: more events than a bad year explains in grade E of 2009." in words
    table = week_page.split("What came of published scores", 1)[1].split("</table>", 1)[0]
    assert [re.sub("<[^>]*>", "", tag) for tag in re.findall(r'<span class="tag.*?</span>', table)] == [
        "understated", "watch", "blind", "ok",
    ]  # fmt: skip


def test_swaps_and_migration_stand_before_a_promotion(week_page):
    def cells(heading):
        lines = re.findall("<tr>.*?</tr>", week_page.split(heading, 1)[1].split("</table>", 1)[0], re.S)
        return [re.findall(">([^<]+)<", re.sub(r"\s*<bdi>|</bdi>\s*", "", line)) for line in lines[1:]]

    swaps = cells("Who would be decided otherwise")
    assert swaps[0] == ["whole portfolio", "newly declined", "212", "0.118"]
    assert swaps[2] == ["credit_card · CA", "newly accepted", "41", "0.0580"]
    assert cells("Grades before and after")[0] == ["A", "4,000", "3,100", "2,200", *"·······"]


def test_groups_below_four_fifths_are_problems_and_the_others_are_not(week_page):
    words = _words(week_page)
    assert "Adverse impact: age_band = 18-24 is accepted at 0.71 of the best." in words
    assert "age_band = 60+ is accepted" not in words


def test_a_reliability_of_nothing_is_drawn_at_the_axis_and_a_week_without_events_has_a_page():
    drawing = re.findall(r"<svg.*?</svg>", examples.week(similarity=()).html(), re.S)[0]
    assert "NaN" not in drawing
    assert "Infinity" not in drawing
    nothing = tuple(replace(b, predicted=0.0, observed=0.0, low=0.0, high=0.0) for b in examples.RELIABILITY)
    assert "<svg" in examples.week(reliability=nothing, similarity=()).html()


def test_charts_are_whole_svg_with_the_colours_of_the_page(night_page, week_page):
    for page, charts in ((night_page, 3), (week_page, 3)):
        drawings = re.findall(r"<svg.*?</svg>", page, re.S)
        assert len(drawings) == charts
        for drawing in drawings:
            root = ElementTree.fromstring(drawing)
            assert root.get("role") == "img"
            assert "var(--accent)" in drawing
            assert "clip-path" not in drawing  # ids would clash between the drawings of a page


def test_pages_load_nothing_and_run_nothing(night_page, week_page):
    for page in (night_page, week_page):
        outline = _Outline(page)
        assert not {"script", "img", "iframe", "object", "form", "base"} & set(outline.tags)
        assert {tag for tag in outline.tags if tag == "link"} == {"link"}
        links = [value for name, value in outline.attributes if name in ("href", "src", "xlink:href", "action")]
        assert links == ["data:,"]
        assert "url(" not in page
        assert "default-src 'none'" in page


@pytest.mark.parametrize("name", HOSTILE, ids=["script", "attribute", "template", "bidi", "long", "empty", "escaped"])
def test_hostile_names_change_no_markup(name):
    night, week = examples.night(), examples.week()
    changed = examples.changed(
        night,
        title=name,
        reason=name,
        warnings=(name, f"`{name}`", f"`{name}"),
        next_steps=(name,),
        quality=tuple(
            q | {"rule": name, "column_name": name, "detail": name, "suite": "s.json"} for q in night.cards["quality"]
        ),
        segments=tuple(replace(s, name=s.name + name, reason=name) for s in night.cards["segments"]),
        drift=tuple(
            replace(d, segment=d.segment + name, feature=name + d.feature, detail=name) for d in night.cards["drift"]
        ),
        grades=tuple(replace(g, name=g.name + name) for g in night.cards["grades"]),
        riskiest=tuple(
            t | {"entity": name, "segment": name, "grade": name, "reasons": [{"text": name, "points": -1.0}]}
            for t in night.cards["riskiest"]
        ),
        provenance={"host": name},
    )
    page = changed.html()
    page.encode("utf-8")
    assert len(page) < 300_000
    outline = _Outline(page)
    assert not {"script", "img", "raw"} & set(outline.tags)
    assert not [attribute for attribute, _ in outline.attributes if attribute.startswith("on")]
    assert ("7 * 7" in name) == ("{{ 7 * 7 }}" in outline.text)
    for drawing in re.findall(r"<svg.*?</svg>", page, re.S):
        ElementTree.fromstring(drawing)
    weekly = examples.changed(
        week,
        title=name,
        reason=name,
        challenger=name,
        level=[name, name],
        backtests=tuple(b | {"cohort": name, "grade": name} for b in week.cards["backtests"]),
        takeover=Takeover(
            [s | {"slice": name, "metric": name} for s in examples.SWAPS],
            [(name, rows) for _, rows in examples.MIGRATION],
        ),
        groups=tuple(replace(g, group=name, note=name) for g in week.cards["groups"]),
        similarity=tuple(replace(p, name=p.name + name, group=name) for p in week.cards["similarity"]),
    ).html()
    assert not {"script", "img"} & set(_Outline(weekly).tags)


def test_long_names_that_look_alike_keep_rows_of_their_own_on_the_map():
    night = examples.night()
    stem = "a very long segment name that goes on and on "
    twins = [replace(night.cards["drift"][0], segment=f"{stem}{i}") for i in range(3)]
    chart = re.findall(
        r"<svg.*?</svg>", examples.changed(night, drift=tuple(twins), scores=None, grades=()).html(), re.S
    )[0]
    assert len(set(re.findall(r">(a very long[^<]*)<", chart))) == 3


def test_open_outer_bins_and_a_log_axis_from_zero_are_drawn():
    for edges, log in (((-math.inf, 0.0, 1.0, math.inf), False), ((0.0, 0.1, 0.2, 1.0), True)):
        scores = replace(examples.scores(), edges=edges, now=(1, 2, 3), before=(0, 0, 0), log_scale=log)
        drawing = re.findall(r"<svg.*?</svg>", examples.night(scores=scores, drift=()).html(), re.S)[0]
        assert drawing.count('role="graphics-symbol"') >= 3
        assert "NaN" not in drawing


def test_an_empty_report_of_a_night_that_failed_at_once_is_a_page():
    page = examples.night(
            outcome="failed", published_at=None, reason="the warehouse is down", champion=None, steps=(), quality=(),
            segments=(), scores=None, drift=(), evidence=None, warnings=(), next_steps=(), provenance={}, grades=(),
            riskiest=(),
        ).html()  # fmt: skip
    assert "the warehouse is down" in page
    assert "<svg" not in page


def test_thousands_of_segments_stay_a_small_page():
    night = examples.night()
    many = tuple(replace(s, name=f"{s.name}{i}") for i in range(60) for s in night.cards["segments"])
    drift = tuple(replace(d, segment=f"{d.segment}{i}") for i in range(60) for d in night.cards["drift"])
    page = examples.changed(night, segments=many, drift=drift).html()
    assert len(page) < 300_000
    assert "All 2,940 are in the view" in page


def test_names_on_the_map_do_not_cover_each_other():
    crowd = tuple(MapPoint(f"segment|{i}", 0.001 * i, 0.0, 100 - i) for i in range(20))
    far = MapPoint("segment|far", 1.0, 1.0, 1)
    page = examples.week(similarity=(*crowd, far)).html()
    drawing = re.findall(r"<svg.*?</svg>", page, re.S)[-1]
    assert [name for name in (*(p.name for p in crowd), far.name) if name.replace("|", " · ") in drawing] == [
        "segment|0", "segment|far",
    ]  # fmt: skip


def test_the_week_lists_nearest_neighbours_of_the_segments_with_the_most_labels_first():
    few, most = (
        MapPoint("car|TX", 0.0, 1.0, 7, nearest=("medical|NJ",)),
        MapPoint("car|CA", 1.0, 0.0, 12_345, nearest=("medical|NJ", "<b>|IL")),
    )
    page = examples.week(similarity=(few, most)).html()
    table = re.findall(r"<table>.*?</table>", page.split("Nearest neighbours", 1)[1], re.S)[0]
    rows = [re.sub(r"<[^>]*>", "|", row).strip("|") for row in re.findall(r"<tr>(.*?)</tr>", table, re.S)]
    assert [[cell for cell in row.split("|") if cell] for row in rows] == [
        ["Segment", "Labels", "Most like it"],
        ["car · CA", "12,345", "medical · NJ", ", ", "&lt;b&gt; · IL"],
        ["car · TX", "7", "medical · NJ"],
    ]
    assert "the 2 with the most labels" in _words(page)


def test_the_week_names_the_worst_and_the_best_segments_and_those_that_are_significantly_worse() -> None:
    page = examples.week().html()
    ordered = sorted(examples.SEGMENT_LOSSES, key=lambda line: -line.difference.mean)
    table = page[page.index("The worst and the best segments") : page.index("Segments that no model has seen")]
    named = [line.segment.replace("|", " · ") for line in (*ordered[:5], *ordered[-5:])]
    assert re.findall(r"<tr><td><bdi>(.*?)</bdi>", table) == named
    worse = examples.SEGMENT_LOSSES[17].segment.replace("|", " · ")
    assert f"The chosen recipe is significantly worse in {worse}." in page
    assert '<th class="n">to pooled_lightgbm</th>' in page
    assert page.count("60 segments in the order") == 1
