import base64
import hashlib
import html.parser
import json
import math
import re
import shutil
import zlib

import pytest

import saekit
from saekit.core.errors import FormatError
from saekit.core.files import write_json, write_text
from saekit.core.result import Result, Score
from saekit.data.corpora.files import Files
from saekit.models.tiny import save_tiny
from saekit.report.bundle import bundled, web_file, web_files
from saekit.report.page import write_report
from saekit.report.payload import deflated, packed
from tests import world
from tests.report.web import mock

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


@pytest.fixture(scope="module")
def indexed(tmp_path_factory):
    """Return a run of seconds with an index; its text holds markup."""
    folder = tmp_path_factory.mktemp("indexed")
    plain = world.text_file(folder).read_text()  # which `world.run` writes again
    text = folder / "marked.jsonl"
    text.write_text(plain.replace('"text": "', '"text": "<img src=x onerror=y> '))
    lm = saekit.load_model(str(save_tiny(folder / "llama", n_layers=2)))
    run = world.run(folder, model=str(folder / "llama"), corpus=Files(paths=(str(text),)))
    saekit.train(lm, run=run, out=folder / "run", shown=False)
    saekit.index(folder / "run", lm, tokens=3000, shown=False)
    return folder / "run"


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


def texts(value):
    """Return every text and number in JSON, in its order, as words."""
    if isinstance(value, dict):
        return " ".join(f"{k} {texts(v)}" for k, v in value.items())
    if isinstance(value, list):
        return " ".join(map(texts, value))
    return str(value)


def page_of(run, **options):
    path = write_report(run, run / "report.html", **options)
    text = path.read_text(encoding="utf-8")
    tags = Tags(text)
    data = json.loads(tags.data)
    (sae,) = data["saes"].values()
    if "packed" in sae:
        sae |= json.loads(zlib.decompress(base64.b64decode(sae["packed"]), -zlib.MAX_WBITS))
    return tags, data, sae


@pytest.fixture
def run(tmp_path, indexed):
    for part in (settings, log, evaluation):
        part(tmp_path)
    shutil.copytree(indexed / "index", tmp_path / "index")
    return tmp_path


def test_everything_is_there(run):
    _, data, sae = page_of(run)
    overview = sae["overview"]
    shown = texts(overview)
    for words in ("no rise", "topk", "L1.resid_post", "c0ffee", "leave unexplained", "tiny<b>"):
        assert words in shown
    scores = {one["name"]: one for one in overview["scores"]}
    assert (scores["fvu"]["value"], scores["fvu"]["low"]) == (0.2134, 0.2134 * 0.9)
    assert scores["ce_recovered_zero"]["value"] is None and scores["cosine"]["unit"] == "cosine"
    assert scores["fvu"]["headline"] and not scores["cosine"]["headline"]
    assert all("saekit eval" in one["source"] for one in overview["scores"])
    assert overview["missing"] == {}
    (curves,) = (one["curves"] for one in data["runs"].values())
    assert curves["tokens"] == [128, 256, 384, 512, 640]
    assert curves["terms"]["aux"][0] == 0.1
    assert "dead" not in curves  # never measured in this log
    densities = saekit.Index(run / "index").column("density")
    assert overview["histogram"]["never_fired"] == sum(d == 0 for d in densities)
    shutil.rmtree(run / "index")
    histogram = page_of(run)[2]["overview"]["histogram"]
    assert (histogram["latents"], histogram["never_fired"]) == ([3, 4], 1)
    assert histogram["on"] == "the text of the evaluation"


def test_text_that_is_read_more_than_once_is_said(run):
    said = "passes"
    assert said not in texts(page_of(run)[2]["overview"])
    raw = json.loads((run / "run.json").read_text())
    write_json(run / "run.json", raw | {"epochs": 3})
    assert "training tokens 4,000, 3 passes" in texts(page_of(run)[2]["overview"])


def test_shares_left_out(run):
    (block,) = page_of(run)[2]["overview"]["blocks"]
    rows = {row[0]: row[1:] for row in block["rows"]}
    assert rows["training"] == [1000, 5, 1, 94]
    assert rows["evaluation"] == [500, 5, 0, 95]


def unpacked(example, strings):
    tokens, at, acts, peak, *_ = example
    return [strings[t] for t in tokens], dict(zip(at, acts, strict=True)), peak


def test_latents_survive_packing():
    """What is cut is cut about the peak, and what is kept is what the index holds."""
    whole = [mock.record(i) for i in range(8)]
    found = packed(whole, 3)
    strings = found["strings"]
    assert len(set(strings)) == len(strings)
    for small, record in zip(found["records"], whole, strict=True):
        names = record["strings"]
        for band, list_ in small["examples"].items():
            assert len(list_) == {"top": 3, "negative": 2}.get(band, 1)
            for one, example in zip(list_, record["examples"][band], strict=False):
                tokens, acts, peak = unpacked(one, strings)
                middle = example["token"]
                first = max(0, middle - 15)
                assert tokens == [names[t] for t in example["tokens"][first : middle + 9]]
                assert peak == (None if example["peak"] is None else middle - first)
                there = zip(example["at"], example["acts"], strict=True)
                near = {j - first: a for j, a in there if first <= j < middle + 9}
                assert acts == pytest.approx(near, rel=1e-2)
        kept = [strings[t] for t, _ in small["logits"]["promoted"]]
        assert kept == [names[t] for t, _ in record["logits"]["promoted"][:8]]
    assert found["records"][7]["examples"] == {} and found["records"][7]["histogram"] is None


def test_the_index_is_in_the_page(run, indexed):
    index = saekit.Index(indexed / "index")
    sae = page_of(run)[2]
    columns = dict(zip(sae["columns"]["names"], sae["columns"]["values"], strict=True))
    assert columns["latent"] == list(range(64)) and len(sae["records"]) == 64
    shown = [math.nan if v is None else v for v in columns["max"]]
    assert shown == pytest.approx(index.column("max").tolist(), rel=1e-2, nan_ok=True)
    assert [c["name"] for c in sae["overview"]["columns"]] == list(index.columns)
    assert list(sae["overview"]["bands"]) == list(index.bands)
    most = max(
        len(r["examples"].get("top", [])) for r in page_of(run, contexts_per_latent=2)[2]["records"]
    )
    assert most == 2


def test_of_several_sites_the_page_says_which_it_has(tmp_path, indexed):
    settings(tmp_path)
    for site in ("L0.resid_post", "L1.resid_post"):
        shutil.copytree(indexed / "index", tmp_path / "index" / site)
    (note,) = page_of(tmp_path)[2]["overview"]["notes"]
    assert "2 sites; this page has L0.resid_post" in note and "saekit serve" in note


def test_text_of_the_corpus_is_inert(run):
    tags, _, sae = page_of(run)
    page = (run / "report.html").read_text()
    assert "<" in sae["strings"]
    assert "img" not in tags.tags and "b" not in tags.tags
    assert tags.tags.count("script") == 2
    assert not set("<>&") & set(tags.data)
    assert "tiny<b>" not in page and "tiny&lt;b&gt;" in page
    markup = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function"
    markup += r"|setAttribute\(\"style|srcdoc|DOMParser|createContextualFragment|javascript:"
    for name in web_files():
        assert not re.search(markup, web_file(name)), name


def test_nothing_is_asked_of_the_network_and_only_its_own_script_runs(run):
    tags = page_of(run)[0]
    text = (run / "report.html").read_text()
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
        ((settings, evaluation, "index"), ["saekit train --resume"]),
        (("index",), ["saekit train --resume", "saekit eval"]),
    ],
)
def test_missing_parts_name_their_command(tmp_path, indexed, parts, commands):
    for part in parts:
        if part == "index":
            shutil.copytree(indexed / "index", tmp_path / "index")
        else:
            part(tmp_path)
    shown = texts(page_of(tmp_path)[2]["overview"]["missing"])
    for command in ("saekit eval", "saekit index", "saekit train --resume"):
        assert (f"{command} {tmp_path}" in shown) == (command in commands)


def test_long_logs_are_thinned_and_say_so(tmp_path):
    log(tmp_path, 2501)
    (curves,) = (one["curves"] for one in page_of(tmp_path)[1]["runs"].values())
    assert len(curves["tokens"]) == 835 and curves["every"] == 3
    assert curves["tokens"][-1] == 2501 * 128


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("run.json", "[1]"),
        ("log.jsonl", "{broken\n"),
        ("eval/core.json", '{"a": 1}'),
        ("index/index.json", '{"latents": 3}'),
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


def test_size_budget():
    """An eighth of 4096 latents with 8 contexts of 24 tokens stays within an eighth of 8 MB."""
    records = [mock.record(i + 8, n_examples=8) for i in range(512)]
    assert len(deflated(packed(records, 8))) <= 1_000_000
    assert len(bundled("report.js")) + len(web_file("app.css")) <= 160_000


def leaves(value, path=()):
    if isinstance(value, dict):
        return [x for k, v in value.items() for x in leaves(v, (*path, k))]
    if isinstance(value, list):
        return [x for i, v in enumerate(value) for x in leaves(v, (*path, i))]
    return [path]


@pytest.mark.parametrize("name", ["run.json", "manifest.json", "eval/core.json"])
def test_no_value_of_a_file_can_be_markup(run, name):
    """Every value in turn becomes markup: the page holds it as text, or the file is refused."""
    attack = '<meta http-equiv="refresh" content="0;url=//x"><i onclick=x>'
    whole = json.loads((run / name).read_text())
    shutil.rmtree(run / "index")  # which would be read every time
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
    overview = page_of(run)[2]["overview"]
    assert ["measured", "2026-11-29 07:48 UTC"] in overview["facts"]
    said = f"variance unexplained (FVU), KL clean to spliced (nats): {why}."
    assert overview["without"] == [said]
    write_json(path, raw | {"provenance": {"time": "yesterday"}})
    assert ["measured", "yesterday"] in page_of(run)[2]["overview"]["facts"]
