"""The report tells a person what the model knows, opens anywhere, and believes no text."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from gateway.inference.fit.bundling import Facts, healthy_facts
from gateway.inference.fit.prepare import LeftOut
from gateway.inference.fit.report import report_of
from tests.inference.fit.made import full, recording

BYTES_MAX = 250_000
HOSTILE = "<script>alert(1)</script>&\"'\u202e\x00\x9b"


class Page(HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: dict[str, set[str]] = {}
        self.text = ""
        self.feed(content)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            self.attributes.setdefault(name, set()).add(value or "")

    def handle_data(self, data: str) -> None:
        self.text += data + " "


@pytest.fixture(scope="module")
def content() -> str:
    recordings = [recording(), recording("pump-22")]
    fitted = full(recordings)
    facts = Facts(
        name="pump-7", version="1", asset_class="pump", provenance={"data": "the spool"},
        healthy=healthy_facts(recordings, fitted),
    )  # fmt: skip
    return report_of(fitted, facts, recordings, [LeftOut("bottles", "it only ever rises")], "ab")


def test_it_is_one_file_that_asks_for_nothing(content: str) -> None:
    page = Page(content)
    assert "script" not in page.tags
    assert not {"link", "img", "iframe", "object", "form"} & set(page.tags)
    assert not {"src", "href", "onload", "onclick", "action"} & page.attributes.keys()
    assert "url(" not in content
    assert "default-src 'none'" in content
    assert len(content.encode()) < BYTES_MAX


def test_every_drawing_is_well_formed_and_within_its_frame(content: str) -> None:
    drawings = re.findall(r"<svg.*?</svg>", content, re.DOTALL)
    assert len(drawings) >= 7
    for drawing in drawings:
        root = ET.fromstring(drawing)
        _, _, width, height = map(float, root.attrib["viewBox"].split())
        for rect in root.iter("rect"):
            x, y, w, h = (float(rect.attrib[name]) for name in ("x", "y", "width", "height"))
            assert x >= -0.1
            assert y >= -0.1
            assert x + w <= width + 1.1
            assert y + h <= height + 0.1
        assert "nan" not in drawing
        assert "inf" not in drawing


def test_it_tells_what_was_found_missed_dropped_and_how_sure_it_is(content: str) -> None:
    text = " ".join(Page(content).text.split())
    for said in (
        "77 of 180", "1 a week", "with 90% confidence", "it may be 16 times what was asked",
        "step 4 sd", "running, 80% of", "right tag blamed", "unusual", "8.35 min", "stuck",
        "flow [m³/h]", "98.8%", "it only ever rises", "patches", "not used", "the spool",
        "pump-22",
    ):  # fmt: skip
        assert said in text, said


def test_texts_from_data_are_escaped() -> None:
    made = recording(HOSTILE, 600, ("flow", HOSTILE))
    made = replace(made, eng_units=(HOSTILE, ""))
    fitted = full([made])
    facts = Facts(
        name=HOSTILE, version=HOSTILE, asset_class=HOSTILE, provenance={HOSTILE: HOSTILE * 100},
        healthy=healthy_facts([made], fitted),
    )  # fmt: skip
    content = report_of(fitted, facts, [made], [LeftOut(HOSTILE, HOSTILE)], HOSTILE)
    page = Page(content)
    assert "script" not in page.tags
    assert "alert(1)" in page.text
    assert not {"\u202e", "\x00", "\x9b"} & set(content)
    for drawing in re.findall(r"<svg.*?</svg>", content, re.DOTALL):
        ET.fromstring(drawing)


def test_a_fit_that_found_nothing_still_has_a_report() -> None:
    made = recording("p", 300)
    fitted = replace(full([made]), injections=(), stretches=(), histories=(), detectors=())
    facts = Facts(name="p", version="1", asset_class="c", provenance={"a": "b"}, healthy=[None] * 3)
    text = Page(report_of(fitted, facts, [made])).text
    assert "Nothing was dropped" in text
    assert "there was no healthy history to put them into" in text
    assert "Not signed" in text
