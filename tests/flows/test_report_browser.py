"""Report pages in a real browser: no console error, no request, no sideways scrolling, readable on paper."""

import pytest

from tests.browsing import chromium, opened
from tests.unit import report_examples as examples

pytestmark = pytest.mark.xdist_group("browser")


@pytest.fixture(scope="module")
def browser():
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    hostile = "<script>document.title = 'owned'</script>\"><img src='http://127.0.0.1:9/x.png' onerror='throw 1'>"
    texts = {
        "night": examples.night().html(),
        "week": examples.week().html(),
        "refused": examples.refused().html(),
        "hostile": examples.night(title=hostile, warnings=(hostile,), provenance={"host": hostile}).html(),
    }
    for name, text in texts.items():
        (folder / f"{name}.html").write_text(text, encoding="utf-8")
    return folder


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("name", ["night", "week", "refused", "hostile"])
def test_a_page_opens_without_error_request_or_sideways_scrolling(browser, pages, name, width, scheme):
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = opened(context, pages / f"{name}.html")
    assert page.title() != "owned"
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    verdict = page.locator(".verdict").bounding_box()
    assert verdict["y"] + verdict["height"] < 450, "the verdict is not on the first screen"
    ink, paper = page.evaluate(
        "[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]"
    )
    assert (_brightness(ink) < _brightness(paper)) == (scheme == "light")
    context.close()


def test_labels_of_charts_lie_inside_their_cards(browser, pages):
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto((pages / "night.html").as_uri())
    outside = page.evaluate(
        """() => [...document.querySelectorAll('.card svg text')].filter(text => {
             const card = text.closest('.card').getBoundingClientRect(), box = text.getBoundingClientRect();
             return box.width && (box.left < card.left || box.right > card.right);
           }).map(text => text.textContent)"""
    )
    assert outside == []
    page.close()


def test_a_page_prints_in_ink_on_white_whatever_the_scheme(browser, pages, tmp_path):
    context = browser.new_context(color_scheme="dark", viewport={"width": 690, "height": 1000})
    page = context.new_page()
    page.goto((pages / "night.html").as_uri())
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.evaluate("document.documentElement.scrollWidth") <= 690
    paper = tmp_path / "night.pdf"
    page.pdf(path=str(paper), prefer_css_page_size=True)
    sheets = paper.read_bytes().count(b"/Type /Page\n")
    assert 2 <= sheets <= 5
    context.close()


def _brightness(colour: str) -> int:
    return sum(int(part) for part in colour[4:-1].split(","))
