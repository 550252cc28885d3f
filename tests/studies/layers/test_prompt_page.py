"""The page of a prompt: whole in one file, text never markup, what the views need."""

import html.parser
import json
import re

import pytest

from saekit.core.errors import UnknownNameError
from saekit.studies.layers.prompt import PromptReading, Steering
from saekit.studies.layers.prompt_page import write_prompt_page
from saekit.studies.layers.survey import SurveyConfig, survey
from tests.studies.layers.world import SITES, opened

ATTACK = "</script><img src=x onerror=alert(1)> — 日\n"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    shared, lm, stream = opened()
    found = survey(shared, lm, stream, SurveyConfig(tokens=640), shown=False)
    reading = PromptReading(shared, lm, ATTACK)
    path = write_prompt_page(
        reading,
        tmp_path_factory.mktemp("page") / "prompt.html",
        survey=found,
        steered=[Steering(SITES[0], 3, 2.0)],
    )
    return path.read_text(encoding="utf-8"), reading, found


def payload(page):
    text = re.search(r'id="data">(.*?)</script>', page, re.DOTALL)
    assert text
    return json.loads(text[1])


class Tags(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.seen = []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))


def test_text_is_never_markup_and_nothing_is_fetched(made):
    page = made[0]
    tags = Tags()
    tags.feed(page)
    assert "img" not in {tag for tag, _ in tags.seen}
    assert not [a for _, attrs in tags.seen for a in attrs if a.startswith("on")]
    assert not [v for _, attrs in tags.seen for k, v in attrs.items() if k in ("src", "href")]
    assert "default-src 'none'" in page and "innerHTML" not in page


def test_the_payload_is_what_was_read(made):
    page, reading, found = made
    data = payload(page)
    assert data["sites"] == list(SITES) and data["numbers"] == [0, 1, 2]
    assert "".join(t[1] for t in data["tokens"][1:]) == ATTACK  # no mojibake
    for site in SITES:
        pos, latent, strength = data["entries"][site]
        assert len(pos) == len(latent) == len(strength) == len(reading.entries()[site])
        for part in ("top", "up", "down"):
            assert len(data["recon"][site][part]) == len(reading.ids)
    assert data["steered"][0]["latent"] == 3 and data["steered"][0]["site"] == SITES[0]
    known = {str(i) for line in data["input"] for i, *_ in line}
    assert known <= data["pieces"].keys()


def test_examples_are_those_of_the_survey(made):
    page, reading, found = made
    examples = payload(page)["examples"]
    assert examples
    key = next(k for k in examples if examples[k])
    site, latent = key.split("/")
    first = found.examples.of(found.sites.index(site), int(latent))[0]
    tokens, values, peak, strength = examples[key][0]
    assert tokens == reading.lm.tokenizer.pieces(first.tokens) and peak == first.peak
    assert strength == pytest.approx(first.strength, rel=1e-2)


def test_without_a_survey_or_steering(tmp_path):
    shared, lm, _ = opened()
    reading = PromptReading(shared, lm, "a")
    page = write_prompt_page(reading, tmp_path / "p.html").read_text(encoding="utf-8")
    data = payload(page)
    assert data["examples"] == {} and len(data["steered"]) == 3
    assert "make an analysis first" in page
    with pytest.raises(UnknownNameError, match="no latent 99"):
        write_prompt_page(reading, tmp_path / "p.html", steered=[Steering(SITES[0], 99, 1.0)])


def test_what_is_long_stays_inside_a_narrow_window(made):
    """Names of latents in a select, and paths of models, once made the page scroll sideways."""
    style = made[0].split("<style>")[1].split("</style>")[0]
    assert re.search(r"^select \{[^}]*max-width: 100%", style, re.MULTILINE)
    assert re.search(r"^\.facts \{[^}]*overflow-wrap: anywhere", style, re.MULTILINE)
