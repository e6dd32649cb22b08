import base64
import io
import re

import numpy as np
import pytest
from markupsafe import Markup
from PIL import Image

from evaluation import report as r


def page(*blocks) -> str:
    return r.render(r.Report("Title", "Lead", [r.Section("One & two", list(blocks))]))


def test_everything_but_figures_is_escaped():
    evil = "<script>alert(1)</script>"
    html = r.render(
        r.Report(
            evil, evil, [r.Section(evil, [r.Text([evil]), r.Table([evil], [[r.Cell(evil, evil)]], evil)])], footer=evil
        )
    )
    assert "<script" not in html and html.count("&lt;script&gt;") >= 7


def test_a_gallery_is_escaped_and_says_where_nothing_is():
    picture = r.Picture([r.data_uri(np.zeros((8, 8, 3), np.uint8))], ['"><b>', "50 %"], tone="bad")
    html = page(r.Gallery("<i>", [("Right", []), ("Wrong", [picture])], note="Fewer than 5 exist"))
    assert "<b>" not in html and "<i>" not in html
    assert '<p class="none">none</p>' in html and "Fewer than 5 exist" in html


def test_figures_go_in_as_they_are():
    assert '<svg id="x"/>' in page(r.Figures([Markup('<svg id="x"/>')], caption="c"))


def test_the_navigation_leads_to_every_section_that_has_content():
    html = r.render(r.Report("t", "l", [r.Section("One & two", [r.Text(["a"])]), r.Section("Empty", [])]))
    assert '<a href="#one-two">' in html and 'id="one-two"' in html and "Empty" not in html


def test_the_best_cell_is_marked_and_a_folded_table_is_closed():
    html = page(r.Table(["Run", "Accuracy"], [["a", r.Cell("91 %", best=True)], ["b", "90 %"]], "All", folded=True))
    assert re.search(r'class="[^"]*best[^"]*">\s*91 %', html) and html.count('best"') == 1
    assert "<details><summary>All</summary>" in html


def test_a_page_asks_for_nothing_outside_itself():
    html = page(r.Text(["a"]))
    assert not re.search(r"(src|href)=[\"']?(https?:)?//|url\(|@import|<script|<link", html)


@pytest.mark.parametrize(("side", "kind", "shown"), [(32, "PNG", 32), (64, "PNG", 64), (500, "JPEG", 160)])
def test_small_pictures_stay_exact_and_photographs_are_compressed(side, kind, shown):
    image = np.random.default_rng(0).integers(0, 255, (side, side, 3)).astype(np.uint8)
    head, data = r.data_uri(image).split(",")
    picture = Image.open(io.BytesIO(base64.b64decode(data)))
    assert (picture.format, picture.size) == (kind, (shown, shown)) and kind.lower() in head
    if kind == "PNG":
        assert (np.asarray(picture) == image).all()


def test_numbers_for_people():
    assert r.percent(0.853).replace("\u00a0", " ") == "85.3 %"
    assert r.percent(None) == r.NO_VALUE and r.interval(None) == ""
    assert r.interval([0.78, 0.91]).replace("\u00a0", " ") == "78.0 to 91.0 %"
    spoken = [r.duration(seconds).replace("\u00a0", " ") for seconds in (41, 700, 11100)]
    assert spoken == ["41 s", "12 min", "3 h 05 min"]
