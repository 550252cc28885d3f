"""Export: a site from any static host and from a disk, and a bundle for Neuronpedia."""

import dataclasses
import functools
import gzip
import http.server
import json
import shutil
import threading
import urllib.request
import zlib
from pathlib import Path

import pytest

import saekit
from saekit.analysis.twins import twins
from saekit.cli.main import main
from saekit.core.errors import ConfigError, FormatError
from saekit.core.files import read_object, write_json
from saekit.explorer import export as module
from saekit.explorer.export import export_site
from saekit.explorer.labels import Labels, place_for
from saekit.explorer.library import Library
from saekit.explorer.neuronpedia import Bundle, export_neuronpedia
from saekit.explorer.views import Views
from saekit.hub.native import load
from saekit.models.tiny import save_tiny
from saekit.training.sweep_loop import sweep_runs
from tests import world

CHROMIUM = Path("/usr/bin/chromium")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
ATTACK = "</script><img src=x onerror=window.attacked=1>"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A sweep of two seeds, one with an index and twins, and a study beside them."""
    base = tmp_path_factory.mktemp("export")
    place = str(save_tiny(base / "llama", "llama"))
    lm = saekit.load_model(place)
    plain = world.run(base, tokens=3000, model=place)
    runs = {f"seed{i}": dataclasses.replace(plain, seed=i) for i in range(2)}
    sweep_runs(runs, lm, base / "sweep", shown=False)
    saekit.index(base / "sweep" / "seed0", lm, tokens=2000, shown=False)
    twins(base / "sweep" / "seed0").write(base / "sweep" / "seed0" / "analysis")
    result = {"name": "locality_depth", "config": {}, "scores": {}}
    rows = {"site": ["L1.resid_post"], "layer": [1], "entropy_bits_pooled": [1.5]}
    details = {"by_site": {"columns": rows}, "model": {"name": str(base / "llama")}}
    write_json(base / "sweep" / "depth" / "result.json", result | {"details": details})
    labels = Labels(place_for(base / "sweep"))
    index = saekit.Index(base / "sweep" / "seed0" / "index")
    labels.put(index.weights, 5, ATTACK, by="test")
    labels.close()
    return base / "sweep"


@pytest.fixture(scope="module")
def site(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("site") / "site"
    return out, export_site(folder, out, shown=False)


@pytest.fixture(scope="module")
def views(folder):
    library = Library(folder)
    return Views(library, Labels(place_for(library.folder, read_only=True), read_only=True))


def record(out, sae, latent):
    """Read a latent as a browser does: one range of the packed file."""
    offsets = read_object(out / "data" / sae / "latents.idx.json")["offsets"]
    data = (out / "data" / sae / "latents.bin").read_bytes()
    assert offsets[0] == 0 and offsets[-1] == len(data)
    return json.loads(zlib.decompress(data[offsets[latent] : offsets[latent + 1]], -15))


def spelled(found):
    """A record with texts in place of the numbers of texts."""
    found = json.loads(json.dumps(found))
    words = found.pop("strings")
    for one in (x for some in found["examples"].values() for x in some):
        one["tokens"] = [words[t] for t in one["tokens"]]
    rows = [found["tokens"]["on"]]
    rows += [found["logits"][s] for s in ("promoted", "suppressed")] if found["logits"] else []
    for row in (x for some in rows for x in some):
        row[0] = words[row[0]]
    return found


def near(found):
    """A record with 24 tokens before and 12 after the place that each example is about."""
    for one in (x for some in found["examples"].values() for x in some):
        about = "token" if one["peak"] is None else "peak"
        place = one[about]
        a, b = max(place - 24, 0), place + 13
        on = {at: act for at, act in zip(one["at"], one["acts"], strict=True) if a <= at < b}
        one |= {"tokens": one["tokens"][a:b], "start": one["start"] + a}
        one |= {"at": [at - a for at in on], "acts": list(on.values())}
        one |= {k: one[k] - a for k in ("peak", "token") if one.get(k) is not None}
    return found


def test_every_latent_is_that_of_the_server_with_its_panels(site, views):
    out, made = site
    assert made.saes == {"seed0": 64}
    for latent in range(64):
        expected = views.latent("seed0", latent)
        panels = expected["panels"].items()
        kept = {n: p for n, p in panels if any(b["kind"] != "missing" for b in p["blocks"])}
        found, whole = record(out, "seed0", latent), json.loads(json.dumps(expected))
        del whole["panels"]
        assert found.pop("panels") == json.loads(json.dumps(kept))
        assert spelled(found) == near(spelled(whole))
    assert record(out, "seed0", 5)["label"]["text"] == ATTACK
    assert "twins" in record(out, "seed0", 3)["panels"]
    assert "locality" not in record(out, "seed0", 3)["panels"]  # only its command could be shown


def test_the_library_lists_what_has_no_latents_too(site):
    out, made = site
    library = read_object(out / "data" / "library.json")
    assert [card["id"] for card in library["saes"]] == ["seed0", "seed1"]
    assert made.without == {"seed1": "there is no index yet"}
    assert not (out / "data" / "seed1" / "latents.bin").exists()
    assert read_object(out / "data" / "seed1" / "overview.json")["card"]["id"] == "seed1"
    (study,) = library["studies"]
    assert read_object(out / "data" / "studies" / f"{study['id']}.json")["blocks"]
    assert read_object(out / "data" / "runs" / "seed0.json")["curves"]


def test_columns_are_whole(site, folder):
    out, _ = site
    found = read_object(out / "data" / "seed0" / "columns.json")
    columns = dict(zip(found["names"], found["values"], strict=True))
    index = saekit.Index(folder / "seed0" / "index")
    assert columns["density"] == pytest.approx(index.column("density").tolist(), rel=1e-3)
    assert columns["label"][5] == ATTACK and len(columns["stable"]) == 64


def test_the_data_for_a_disk_is_the_same(site):
    out, made = site
    assert made.from_disk
    text = (out / "data.js").read_text(encoding="utf-8")
    assert text.startswith("window.SAEKIT_DATA = ")
    data = json.loads(text.removeprefix("window.SAEKIT_DATA = ").rstrip().removesuffix(";"))
    assert data["library"] == read_object(out / "data" / "library.json")
    one = data["saes"]["seed0"]
    assert one["columns"] == read_object(out / "data" / "seed0" / "columns.json")
    assert one["records"]["7"] == record(out, "seed0", 7)
    assert set(data["runs"]) == {"seed0", "seed1"} and len(data["studies"]) == 1


def test_nothing_in_it_says_where_it_was_made(site, folder):
    out, _ = site
    here = [str(folder.parent), str(Path.home()) + "/"]
    for path in out.rglob("*"):
        if path.suffix in (".json", ".js", ".html"):
            text = path.read_text(encoding="utf-8")
            assert not [one for one in here if one in text], path
    for latent in range(64):
        assert str(folder.parent) not in json.dumps(record(out, "seed0", latent))


def test_texts_that_look_like_paths_stay_texts():
    block = {"kind": "strip", "strings": ["/tmp", str(Path.home())]}
    assert module._shown({"blocks": [block]}, Path("/tmp")) == {"blocks": [block]}


def test_a_site_is_replaced_and_another_folder_is_not(folder, site, tmp_path):
    out = tmp_path / "site"
    export_site(folder / "seed0", out, shown=False)
    again = export_site(folder / "seed0", out, shown=False)
    assert again.saes == {"seed0": 64} and (out / "index.html").is_file()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(ConfigError, match="not empty|in use|Choose another"):
        export_site(folder / "seed0", tmp_path / "mine", shown=False)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


def test_a_large_site_has_no_data_for_a_disk(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "DATA_JS_BYTES", 100_000)
    made = export_site(folder / "seed0", tmp_path / "site", shown=False)
    assert not made.from_disk and not (tmp_path / "site" / "data.js").exists()
    assert record(tmp_path / "site", "seed0", 63)["latent"] == 63


def test_refusals(folder, tmp_path):
    with pytest.raises(FormatError, match="There is no folder"):
        export_site(tmp_path / "none", tmp_path / "out", shown=False)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="There is no SAE in"):
        export_site(tmp_path / "empty", tmp_path / "out", shown=False)
    shutil.copytree(folder / "seed0", tmp_path / "run")
    examples = tmp_path / "run" / "index" / "examples.parquet"
    data = bytearray(examples.read_bytes())
    data[len(data) // 2] ^= 1
    examples.write_bytes(bytes(data))
    with pytest.raises(Exception, match="saekit index"):
        export_site(tmp_path / "run", tmp_path / "out", shown=False)
    assert not (tmp_path / "out").exists()


def test_the_command_says_what_there_is_and_what_to_do_next(folder, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["export", "site", str(folder), "--out", str(tmp_path / "site"), "--quiet"])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert "64 latents" in out and "note     seed1 has no latents in it" in out
    assert f"open {tmp_path / 'site' / 'index.html'}" in out


# ------------------------------------------------------------------------------- in a browser


class Ranges(http.server.SimpleHTTPRequestHandler):
    """A static host that answers ranges, as most do; Python's own does not."""

    whole = False
    asked: list[tuple[str, str | None]] = []

    def log_message(self, *_):  # pyright: ignore[reportIncompatibleMethodOverride]
        pass

    def do_GET(self):
        wanted = self.headers.get("Range")
        type(self).asked.append((self.path, wanted))
        if self.whole or wanted is None:
            return super().do_GET()
        first, last = (int(n) for n in wanted.removeprefix("bytes=").split("-"))
        data = Path(self.translate_path(self.path)).read_bytes()[first : last + 1]
        self.send_response(206)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
        return None


@pytest.fixture
def host(site):
    out, _ = site
    handler = type("Host", (Ranges,), {"asked": []})
    served = functools.partial(handler, directory=str(out))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), served)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}", handler
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    if not CHROMIUM.exists():
        pytest.skip("there is no Chromium")
    with api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=str(CHROMIUM), args=ARGUMENTS)
        yield opened
        opened.close()


def shown(browser, address, wait_for):
    """Open an address; return its text, what the console said and what was asked for."""
    page, said, asked = browser.new_page(), [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(address)
    page.get_by_text(wait_for).first.wait_for()
    text, attacked = page.inner_text("body"), page.evaluate("window.attacked")
    page.close()
    assert attacked is None
    return text, said, asked


def test_a_static_host_needs_one_range_of_the_packed_file_for_a_latent(host, browser):
    address, handler = host
    text, said, asked = shown(browser, f"{address}/#/sae/seed0/latent/5", "Best matches")
    assert said == [] and ATTACK in text
    assert all(url.startswith((address, "data:")) for url in asked)
    packed = [span for path, span in handler.asked if path.endswith("latents.bin")]
    assert packed and all(span and span.startswith("bytes=") for span in packed)
    assert not [path for path, _ in handler.asked if path.endswith("data.js")]


def test_a_host_without_ranges_works_too(host, browser):
    address, handler = host
    handler.whole = True
    text, said, _ = shown(browser, f"{address}/#/sae/seed0/latent/6", "Best matches")
    assert said == [] and "Latent 6" in text


def test_it_opens_from_a_disk_and_asks_for_its_own_files_alone(site, browser):
    out, _ = site
    address = f"{(out / 'index.html').as_uri()}#/sae/seed0/latent/5"
    text, said, asked = shown(browser, address, "Best matches")
    assert said == [] and ATTACK in text
    names = {urllib.request.url2pathname(url.partition("#")[0]) for url in asked}
    assert {Path(n).name for n in names if n.startswith("file:")} == {
        "index.html",
        "boot.js",
        "app.js",
        "app.css",
        "data.js",
    }


@pytest.mark.parametrize("route", ["#/", "#/sae/seed0", "#/sae/seed1", "#/run/seed0"])
@pytest.mark.parametrize("kind", ["disk", "host"])
def test_every_page_of_it_opens(site, host, browser, route, kind):
    base = (site[0] / "index.html").as_uri() if kind == "disk" else f"{host[0]}/"
    text, said, _ = shown(browser, base + route, "seed")
    assert said == [] and len(text) > 80


# --------------------------------------------------------------------------------- Neuronpedia


def lines(path):
    return [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]


def test_a_bundle_has_a_line_a_latent_and_a_value_for_every_token(folder, tmp_path):
    made = export_neuronpedia(
        folder / "seed0",
        tmp_path / "np",
        source_set="res-tiny",
        vectors=True,
        shown=False,
        creator="A. Author",
        creator_id="me",
    )
    home = tmp_path / "np" / "llama" / "1-res-tiny"
    index, sae = saekit.Index(folder / "seed0" / "index"), load(folder / "seed0")
    features = lines(home / "features" / "batch-0.jsonl.gz")
    assert [f["index"] for f in features] == [str(i) for i in range(64)]
    one, record = features[9], index.record(9)
    assert one["modelId"] == "llama" and one["layer"] == "1-res-tiny"
    assert one["hookName"] == "blocks.1.hook_resid_post"
    assert one["frac_nonzero"] == record["values"]["density"]
    assert one["pos_str"] == [record["strings"][i] for i, _ in record["logits"]["promoted"]]
    assert one["vector"] == pytest.approx(sae.directions[9].tolist())
    heights, middles = (one[f"freq_hist_data_bar_{end}"] for end in ("heights", "values"))
    assert len(heights) == len(middles) and sum(heights) == record["values"]["count"]
    texts = [a for a in lines(home / "activations" / "batch-0.jsonl.gz") if a["index"] == "9"]
    assert len({t["id"] for t in texts}) == len(texts) > 0
    for text in texts:
        assert len(text["tokens"]) == len(text["values"])
        assert text["values"][text["maxValueTokenIndex"]] == text["maxValue"] > 0
        assert text["minValue"] == min(text["values"])
    top = record["examples"]["top"][0]
    assert texts[0]["tokens"] == [record["strings"][i] for i in top["tokens"]]
    assert texts[0]["maxValue"] == max(top["acts"])
    assert made["sources"]["llama/1-res-tiny"]["latents"] == 64
    heads = {
        n: json.loads((home / f"{n}.jsonl").read_text())
        for n in ("release", "model", "sourceset", "source")
    }
    assert heads["source"]["id"] == "1-res-tiny" and heads["source"]["setName"] == "res-tiny"
    assert heads["sourceset"]["name"] == heads["release"]["name"] == "res-tiny"
    assert heads["model"]["id"] == "llama" and heads["release"]["creatorName"] == "A. Author"


def test_labels_become_explanations(folder, tmp_path):
    out = tmp_path / "np"
    made = export_neuronpedia(folder, out, source_set="a", shown=False)
    (line,) = lines(out / "llama" / "1-a" / "explanations" / "batch-0.jsonl.gz")
    assert (line["index"], line["description"]) == ("5", ATTACK)
    assert made["sources"]["llama/1-a"]["explanations"] == 1


def test_the_same_index_gives_the_same_texts_twice(folder, tmp_path):
    for name in ("one", "two"):
        export_neuronpedia(folder / "seed0", tmp_path / name, shown=False)
    one, two = (
        lines(tmp_path / name / "llama" / "1-saekit" / "activations" / "batch-0.jsonl.gz")
        for name in ("one", "two")
    )
    assert [a | {"createdAt": ""} for a in one] == [a | {"createdAt": ""} for a in two]


@pytest.mark.parametrize("name", ["", "a/b", "..", "a b", "<b>"])
def test_names_that_are_no_part_of_an_address_are_refused(name):
    with pytest.raises(ConfigError, match="becomes part of an address"):
        Bundle(set=name)


def test_an_sae_without_an_index_gets_its_command(folder, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["export", "neuronpedia", str(folder / "seed1"), "--out", str(tmp_path / "np")])
    assert ended.value.code == 2
    assert f"saekit index {folder / 'seed1'}" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text, public",
    [
        ("/a/served", "served"),
        ("see /a/served/run.", "see served/run."),
        ("saekit eval /a/served", "saekit eval served"),
        ("It is in /a/served.", "It is in served."),
        ("/a/served2 and /b/a/served", "/a/served2 and /b/a/served"),
    ],
)
def test_no_text_of_a_site_names_a_folder_above(text, public):
    assert module._public({"x": [text]}, Path("/a/served")) == {"x": [public]}
