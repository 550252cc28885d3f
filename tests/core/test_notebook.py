"""HTML of notebooks: one piece, escaped, nothing that runs and nothing from elsewhere."""

import html.parser
import re

import pytest

from saekit.core import notebook

NASTY = [
    "</script><img src=x onerror=alert(1)>",
    "</style><b>",
    '" onmouseover="alert(1)',
    "' autofocus onfocus=alert(1) x='",
    "&amp;",
    "\x00",
    "\ud800",
    "\u202e\u200b\ufeff",
    "العربية",
    "日本語",
    "\u2028",
    "x" * 10_000,
    "",
    "\n",
]


class Parts(html.parser.HTMLParser):
    """Collects elements with their attributes, and text."""

    def __init__(self, text: str):
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict]] = []
        self.open: list[str] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in ("rect", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag != "rect":
            assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words += data


def parts(text: str) -> Parts:
    """Read a piece of HTML, and hold it to what every notebook may show."""
    text.encode("utf-8")
    found = Parts(text)
    assert found.open == [] and found.elements[0] == ("div", {"class": notebook.ROOT})
    allowed = {"div", "style", "h4", "h5", "table", "tr", "th", "td", "span", "code", "svg"}
    assert {tag for tag, _ in found.elements} <= allowed | {"rect", "title"}
    for _, attributes in found.elements:
        assert not [name for name in attributes if name.startswith("on")]
        assert not {"src", "href", "srcset", "data"} & set(attributes)
    styles = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    assert len(styles) == 1
    rules = [line for line in styles[0].splitlines() if "{" in line]
    assert rules and all(line.startswith(f".{notebook.ROOT}") for line in rules)
    assert "url(" not in text and "@import" not in text and "http" not in text
    return found


@pytest.mark.parametrize("text", NASTY)
def test_text_stays_text_wherever_it_stands(text):
    made = notebook.page(
        text,
        notebook.section(text, notebook.facts({text: text, "n": 3})),
        notebook.table((text, ""), [(notebook.escaped(text), notebook.token(text, 0.5, text))]),
        notebook.histogram([0.0, 1.0], [3], text),
    )
    found = parts(made)
    assert notebook.visible(text) in found.words
    tokens = [a for tag, a in found.elements if tag == "span"]
    assert len(tokens) == 1 and tokens[0]["class"] == "t"


def test_what_cannot_be_seen_is_spelled_out():
    assert notebook.visible("a\nb\tc") == "a⏎b⇥c"
    assert notebook.visible("\x00\u202e\u200b\ufeff") == r"\x00\u202e\u200b\ufeff"
    assert notebook.visible("日本 العربية é") == "日本 العربية é"
    assert len(notebook.visible("x" * 10_000)) == notebook.LONGEST + 1


def test_numbers_are_short_and_missing_ones_a_dash():
    shown = [notebook.number(v) for v in (None, float("nan"), 1234567, 0.123456, "a")]
    assert shown == ["–", "–", "1,234,567", "0.1235", "a"]


def test_tints_are_bounded():
    for strength in (-1.0, 0.0, 0.5, 7.0, float("nan"), float("inf")):
        found = re.findall(r"rgba\(245, 158, 11, ([\d.]+)\)", notebook.token("a", strength))
        assert all(0 < float(share) <= 1 for share in found)


def test_an_empty_histogram_is_nothing():
    assert notebook.histogram([0, 1], [0], "act units") == ""
    assert notebook.section("a", "") == "" and notebook.facts({"a": None}) == ""
