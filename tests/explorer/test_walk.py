"""A reader's walk through the explorer: `saekit serve` as a process, in a real browser.

`SAEKIT_DEMO=FOLDER pytest -m slow tests/explorer/test_walk.py` walks what `saekit demo` made.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

import saekit
from saekit.analysis.coding import SETTINGS

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = (
    os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
)
if CHROMIUM is None:
    pytest.skip("there is no chromium to walk with", allow_module_level=True)

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
QUIET = ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
SECONDS = 120  # for a step: the first job loads the model, on a machine that does other work
MARKUP = "<img src=x onerror=alert(1)> cats"
HOME = "http://127.0.0.1"


@contextmanager
def serving(folder: Path):
    """Serve a folder by the command, and give the link that it prints."""
    with started(folder, "0") as (_, link):
        yield link


@contextmanager
def started(folder: Path, port: str):
    """Serve a folder by the command, and give its process and the link that it prints."""
    code = "from saekit.cli.main import main; main()"
    command = [sys.executable, "-c", code, "serve", str(folder), "--port", port]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            said = []
            while not (said and "#token=" in said[-1]):
                assert process.stderr is not None
                line = process.stderr.readline()
                assert line, f"saekit serve ended: {said}"
                said.append(line)
            yield process, said[-1].split()[-1]
        finally:
            process.terminate()


class Walker:
    """A page in a browser, and all that went wrong on it."""

    def __init__(self, browser, link: str):
        self.context = browser.new_context(
            viewport={"width": 1280, "height": 900}, color_scheme="light"
        )
        self.context.set_default_timeout(1000 * SECONDS)
        self.wrong: list[str] = []
        self.page = self.new()
        self.page.goto(link)
        self.home = link.partition("#")[0]

    def new(self):
        page = self.context.new_page()
        page.on("console", self._hear)
        page.on("pageerror", lambda error: self.wrong.append(f"error in the page: {error}"))
        page.on("request", self._see)
        return page

    def _hear(self, message):
        if message.type in ("error", "warning"):
            self.wrong.append(f"{message.type} in the console: {message.text}")

    def _see(self, request):
        if not request.url.startswith((HOME, "data:", "blob:", "about:")):
            self.wrong.append(f"a request left the machine: {request.url}")

    def go(self, address: str, wanted: str):
        """Open an address in this tab, as a link that someone was given."""
        self.page.goto("about:blank")
        self.page.goto(self.home + address)
        self.page.wait_for_selector(wanted)

    def until(self, text: str, selector: str = "main"):
        self.page.locator(selector, has_text=text).first.wait_for()

    def at(self) -> str:
        return self.page.evaluate("location.hash")


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS + QUIET)
        yield made
        made.close()


@pytest.mark.slow
def test_a_reader_walks_through_a_library(browser, folder):
    text = "the cat sat on the mat"
    with serving(folder) as link:
        walker = Walker(browser, link)
        seen = _library(walker)
        assert seen == ["plain", "sub/folded"]
        latent = _strongest(folder / "plain")
        _overview(walker, "plain", latent)
        _latent(walker, "plain", folder / "plain", latent, text)
        _label(walker, "plain", latent)
        _marked(walker, "plain", latent)
        _neighbour_and_back(walker, latent)
        _folded_prompt(walker, folder / "sub" / "folded", "sub.folded", text)
        _compare(walker, "plain", "sub.folded~L1.resid_post", latent)
        _run_and_jobs(walker, "plain")
        _dark(walker, "plain", latent)
        _narrow(walker, "plain", "sub.folded", latent)
        assert walker.wrong == []


@pytest.mark.slow  # two servers, each with a process that loads PyTorch and a model
def test_a_server_that_is_killed_in_the_middle_of_a_job(browser, folder):
    """The page says so, the old index stays, and the next server makes the new one whole."""
    before = saekit.Index(folder / "plain" / "index")
    port = _free_port()
    with started(folder, port) as (server, link):
        walker = Walker(browser, link)
        walker.page.wait_for_selector(".sae-card")
        api = f"{HOME}:{port}/api/v1"
        asked = {"kind": "index", "sae": "plain", "tokens": 400_000}
        said = {"X-Saekit": "1", "Origin": f"{HOME}:{port}"}
        answer = walker.context.request.post(f"{api}/jobs", data=asked, headers=said)
        job = answer.json()["id"]
        walker.page.locator("nav a", has_text="Jobs").click()
        walker.until("running")
        parts = folder / "plain"
        while not any((place / SETTINGS).is_file() for place in parts.iterdir()):
            assert walker.context.request.get(f"{api}/jobs/{job}").json()["state"] == "running"
            walker.page.wait_for_timeout(50)
        (worker,) = children(server.pid)
        server.kill()  # which asks nothing
        server.wait()
        walker.until("The server does not answer")
    gone(worker)
    with started(folder, port) as (server, link):
        walker.until("Not signed in")
        walker.until("Open the newest address")
        walker.wrong.clear()  # the browser says that it could not reach the server
        again = Walker(browser, link)
        again.page.wait_for_selector(".sae-card")
        again.page.locator("nav a", has_text="Jobs").click()
        again.until("No job since the server was started")
        lost = again.context.request.get(f"{api}/jobs/{job}")
        assert lost.status == 404 and "since it was started" in lost.json()["detail"]
        assert saekit.Index(folder / "plain" / "index").record(3) == before.record(3)
        again.go("#/sae/plain/latent/3", "main h1")
        asked["tokens"] = 5000
        refused = again.context.request.post(f"{api}/jobs", data=asked, headers=said).json()["id"]
        asked["fresh"] = True
        job = again.context.request.post(f"{api}/jobs", data=asked, headers=said).json()["id"]
        again.go("#/jobs", "table.jobs")
        for _ in range(20 * SECONDS):
            found = again.context.request.get(f"{api}/jobs/{job}").json()
            if found["state"] not in ("waiting", "running"):
                break
            again.page.wait_for_timeout(100)
        assert found["state"] == "done", found["error"]
        again.page.locator("table.jobs .state-ok").wait_for()
        why = again.context.request.get(f"{api}/jobs/{refused}").json()["error"]["detail"]
        assert "broken off" in why and "tokens (then 400000, now 5000)" in why, why
        assert again.wrong == []
    whole = saekit.Index(folder / "plain" / "index")
    assert 5000 <= whole.n_tokens < 6000 and whole.weights == before.weights
    assert all(whole.record(i)["latent"] == i for i in range(whole.d_sae))
    assert [p.name for p in parts.iterdir() if "index" in p.name] == ["index"]


SAID = {"worker": "The worker process was killed", "server": "The server does not answer"}


@pytest.mark.slow  # each starts two or three servers, and four processes that load PyTorch
@pytest.mark.parametrize("which", ["worker", "server"])
def test_kills_while_a_text_is_tried_and_a_latent_is_steered(browser, folder, which):
    """The page says what happened, a later job works, and what was written stays whole."""
    port, before = _free_port(), _files(folder)
    latent = _strongest(folder / "plain")
    for kind in ("activate", "steer"):
        with started(folder, port) as (server, link):
            walker = _at_latent(browser, link, latent)
            if kind == "activate":
                _label(walker, "plain", latent)
            assert walker.page.locator(".label-text").inner_text() == MARKUP
            panel = _asked(walker, kind, many=True)
            worker = _at_work(walker, server.pid, kind, port)
            os.kill({"worker": worker, "server": server.pid}[which], signal.SIGKILL)
            panel.locator(".problem", has_text=SAID[which]).wait_for()
            gone(worker)
            if which == "worker":
                assert _files(folder) == before
                _asked(walker, kind, many=False).locator(RESULT[kind]).first.wait_for()
        assert not [one for one in walker.wrong if "fault" in one or "in the page" in one]
        assert _files(folder) == before
        with contextlib.closing(sqlite3.connect(folder / ".saekit" / "explorer.db")) as labels:
            assert labels.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            assert labels.execute("SELECT text FROM labels").fetchall() == [(MARKUP,)]
    with started(folder, port) as (server, link):
        walker = _at_latent(browser, link, latent)
        assert walker.page.locator(".label-text").inner_text() == MARKUP
        _asked(walker, "steer", many=False).locator(RESULT["steer"]).first.wait_for()
        assert walker.wrong == []


RESULT = {"activate": ".job-result .strip", "steer": ".dose"}
TITLE = {"activate": "Try your text", "steer": "Steer"}


def _at_latent(browser, link: str, latent: int) -> Walker:
    walker = Walker(browser, link)
    walker.page.wait_for_selector(".sae-card")
    walker.go(f"#/sae/plain/latent/{latent}", ".example-panel .tok")
    return walker


def _asked(walker: Walker, kind: str, *, many: bool):
    """Start a job of a panel, of much work or of little, and return the panel."""
    title = walker.page.locator("h2", has_text=re.compile(f"^{TITLE[kind]}$"))
    panel = walker.page.locator("section.panel", has=title)
    line = "the cat sat on the mat"
    text = "\n".join([line] * 32) if many and kind == "activate" else line
    panel.locator("textarea").fill(text)
    if kind == "steer":
        panel.locator("[aria-label='unit']").select_option("add")
        panel.locator("[aria-label='how far']").fill("1, 2, 3, 4, 5, 6, 7, 8" if many else "1")
        panel.locator("[aria-label='tokens to write']").fill("200" if many else "4")
        panel.locator("[aria-label='temperature']").fill("1")
        panel.locator("[aria-label='texts at each strength']").fill("8" if many else "1")
    panel.locator("button[type=submit]").click()
    return panel


def _at_work(walker: Walker, server: int, kind: str, port: str) -> int:
    """Wait until the worker of a server works on a job, and return the worker."""
    for _ in range(100 * SECONDS):
        said = walker.context.request.get(f"{HOME}:{port}/api/v1/jobs").json()["jobs"]
        text = said[0]["progress"]["text"] if said and said[0]["kind"] == kind else "waiting"
        if text == "writing" or (kind == "activate" and text not in ("waiting", "starting")):
            (worker,) = children(server)
            return worker
        assert text != "done", said[0]
        walker.page.wait_for_timeout(10)
    raise AssertionError("the job does not begin")


def _files(folder: Path) -> dict[str, bytes]:
    """Return every file of a folder by its path, without those of the labels."""
    paths = sorted(p for p in folder.rglob("*") if p.is_file() and ".saekit" not in p.parts)
    return {str(p.relative_to(folder)): p.read_bytes() for p in paths}


def _free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def children(pid: int) -> list[int]:
    """Return the processes that a process has started."""
    threads = Path(f"/proc/{pid}/task").iterdir()
    return [int(one) for t in threads for one in (t / "children").read_text().split()]


def gone(pid: int) -> None:
    """Wait until a process is no more."""
    for _ in range(10 * SECONDS):
        state = Path(f"/proc/{pid}/stat")
        if not state.exists() or ") Z " in state.read_text():
            return
        time.sleep(0.1)
    raise AssertionError(f"process {pid} lives on")


@pytest.mark.slow
@pytest.mark.skipif("SAEKIT_DEMO" not in os.environ, reason="SAEKIT_DEMO names no demo's folder")
def test_a_reader_walks_through_the_demo(browser, tmp_path):
    made = Path(os.environ["SAEKIT_DEMO"]).resolve()
    run = shutil.copytree(made, tmp_path / "demo")
    with serving(run) as link:  # what `saekit demo` ends with
        walker = Walker(browser, link)
        assert _library(walker) == ["demo"]
        latent = _strongest(run)
        _overview(walker, "demo", latent)
        _latent(walker, "demo", run, latent, "The president of the United States said on Monday")
        _label(walker, "demo", latent)
        _marked(walker, "demo", latent)
        _neighbour_and_back(walker, latent)
        _run_and_jobs(walker, "demo")
        _dark(walker, "demo", latent)
        _narrow(walker, "demo", None, latent)
        assert walker.wrong == []


def _strongest(run: Path) -> int:
    return int(saekit.query(run, "sort -max limit 1").columns["latent"][0])


def _library(walker: Walker) -> list[str]:
    page = walker.page
    page.wait_for_selector(".sae-card")
    assert "token" not in page.url, "the token stays in the address"
    return sorted(page.locator(".sae-card h3").all_inner_texts())


def _overview(walker: Walker, name: str, latent: int):
    page = walker.page
    page.locator(".sae-card h3 a", has_text=re.compile(f"^{name}$")).click()
    page.wait_for_selector("tr[data-latent]")
    page.locator(".query").fill("density>0 and count>=1 sort -max")
    page.locator(".query").press("Enter")
    walker.page.wait_for_selector(f'tbody tr:first-child[data-latent="{latent}"]')
    cloud = page.locator(".cloud")
    cloud.scroll_into_view_if_needed()
    box = cloud.bounding_box()
    page.mouse.move(box["x"] + 70, box["y"] + 12)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] - 20, box["y"] + box["height"] - 45, steps=4)
    page.mouse.up()
    expect = "location.hash.includes('max%3C%3D')"  # the box became a part of the query
    _wait(page, expect)
    page.locator(".query").fill(f"latent={latent}")
    page.locator(".query").press("Enter")
    walker.until("1 of", ".latent-table .count")
    page.click(f'tr[data-latent="{latent}"] a')
    page.wait_for_selector(".example-panel .tok")


def _latent(walker: Walker, name: str, run: Path, latent: int, text: str):
    """Check the page of a latent against the index and the Python interface."""
    page = walker.page
    record = saekit.Index(run / "index").record(latent)
    shown = page.locator(".example-panel .row .value").first.inner_text()
    largest = record["values"]["max"]
    assert float(shown) == pytest.approx(largest, rel=6e-3)
    assert page.locator("header").inner_text().count(shown) >= 1
    for band in [one for one, list_ in record["examples"].items() if list_]:
        page.click(f'[data-band="{band}"]')
        assert page.locator(".example-panel .row").count() == len(record["examples"][band])
    page.click('[data-band="top"]')
    token = page.locator(".example-panel .tok.peak").first
    token.click()
    page.mouse.move(2, 2)
    assert "100 % of its maximum" in page.locator(".example-panel .readout").inner_text()
    own = page.locator("section.panel", has=page.locator("h2", has_text="Try your text"))
    own.locator("textarea").fill(text)
    own.locator("button[type=submit]").click()
    own.locator(".job-result .strip").wait_for()
    sae = saekit.load(run)
    lm = saekit.load_model(sae.card.run["model"])
    acts = saekit.prompt(lm, sae, text).latent(latent)
    found = float(own.locator(".job-result .value").first.inner_text())
    assert found == pytest.approx(max(map(float, acts)), rel=6e-3)
    steering = page.locator("section.panel", has=page.locator("h2", has_text="Steer"))
    steering.locator("textarea").fill(text)
    steering.locator("[aria-label='how far']").fill("2")
    steering.locator("[aria-label='tokens to write']").fill("6")
    steering.locator("button[type=submit]").click()
    steering.locator(".dose").nth(1).wait_for()
    wrote = saekit.steer(lm, sae, latent=latent, prompt=text, scale=[2.0], n=6).to_dict()
    said = [steering.locator(".dose .text").nth(i).text_content() for i in range(2)]
    plain = [wrote["alone"]["texts"][0], wrote["doses"][0]["texts"][0]]
    assert [_letters(one) for one in said] == [_letters(one) for one in plain]
    ablation = page.locator("section.panel", has=page.locator("h2", has_text="Ablate"))
    ablation.locator("button[type=submit]").click()
    ablation.locator(".job-result .strip").wait_for()


def _letters(text: str) -> str:
    """Return what is left of a text without what the page writes for characters with no shape."""
    return re.sub(r"\\x[0-9a-f]{2}|‹U\+[0-9A-F]+›|[^A-Za-z0-9]", "", text)


def _label(walker: Walker, name: str, latent: int):
    page = walker.page
    page.locator("main h1").click()
    page.keyboard.press("l")
    page.keyboard.type(MARKUP)
    page.keyboard.press("Enter")
    walker.until("saved", "div.label")
    assert page.locator(".label-text").inner_text() == MARKUP
    other = walker.new()  # the permalink, in another tab
    other.goto(page.url)
    other.locator(".label-text", has_text=MARKUP).wait_for()
    assert other.locator("main img").count() == 0
    assert other.locator("main h1").inner_text() == f"Latent {latent}"
    other.close()
    walker.go(f"#/sae/{name}?where=label%20has%20%22cats%22", f'tr[data-latent="{latent}"]')
    assert page.locator("tr[data-latent]").count() == 1
    page.click(f'tr[data-latent="{latent}"] a')
    page.wait_for_selector(".example-panel .tok")


def _marked(walker: Walker, name: str, latent: int):
    """Put the latent into a list, save the view, and find both on the page of what is marked."""
    page = walker.page
    page.locator("main h1").click()
    page.keyboard.press("m")
    page.locator("dialog.marking[open] input[type=text]").wait_for()
    page.keyboard.type(MARKUP)
    page.keyboard.press("Enter")
    walker.until("now", "dialog.marking")
    page.keyboard.press("Escape")
    page.keyboard.press("s")
    page.locator("dialog.marking[open] input[type=text]").fill("my view")
    page.keyboard.press("Enter")
    walker.until("Saved", "dialog.marking")
    here = walker.at()
    page.locator("dialog.marking a").click()
    page.locator("a.row-link", has_text="my view").wait_for()
    assert page.locator("main img").count() == 0
    with page.expect_download() as made:
        page.click("button:text-is('export JSON')")
    exported = json.loads(Path(made.value.path()).read_text(encoding="utf-8"))
    assert [one["name"] for one in exported["lists"]] == [MARKUP]
    assert [one["address"] for one in exported["views"]] == [here]
    assert [one["text"] for one in exported["labels"]] == [MARKUP]
    page.locator("a.row-link", has_text=MARKUP).click()
    page.locator("td .editable button").first.click()
    page.keyboard.type("two\nlines")
    page.keyboard.press("Control+Enter")
    page.locator("td .editable .said", has_text="lines").wait_for()
    page.keyboard.press("u")
    page.locator("input[type=file]").wait_for(state="attached")
    page.set_input_files("input[type=file]", made.value.path())
    walker.until("0 labels, 1 list and 0 views came in")  # the list has a note since
    page.locator("a.row-link", has_text="my view").click()
    page.wait_for_selector(".example-panel .tok")
    assert walker.at() == here


def _neighbour_and_back(walker: Walker, latent: int):
    page = walker.page
    here = walker.at()
    page.locator(".side-column .pairs a").first.click()
    _wait(page, f"!document.querySelector('main h1').innerText.endsWith(' {latent}')")
    page.go_back()
    _wait(page, f"document.querySelector('main h1').innerText === 'Latent {latent}'")
    assert walker.at() == here


def _folded_prompt(walker: Walker, run: Path, name: str, text: str):
    page = walker.page
    walker.go(f"#/sae/{name}/prompt", "textarea")
    page.fill("textarea", text)
    page.click("button:text-is('Read it')")
    page.locator(".prompt-strip .tok").nth(3).hover()
    assert "position 3" in page.locator(".readout").first.inner_text()
    page.locator(".prompt-strip .tok").nth(4).click()
    page.locator("label", has_text="site").locator("select").first.select_option("L0.resid_post")
    page.locator(".grid-table td.cell").first.click()
    held = walker.at()
    state = dict(re.findall(r"[?&](\w+)=([^&]*)", held))
    assert (state["pos"], state["site"] in ("L0.resid_post", "L1.resid_post")) == ("4", True)
    latent = int(state["latent"])
    sae = saekit.load(run, site=state["site"])
    lm = saekit.load_model(sae.card.run["model"])
    act = float(saekit.prompt(lm, sae, text).latent(latent)[4])
    said = re.search(rf"latent {latent}: ([\d.]+)", page.locator(".readout").first.inner_text())
    assert said is not None
    assert float(said[1]) > 0 and act > 0
    page.fill("[aria-label=steering]", "2")
    page.select_option("[aria-label='unit of steering']", "act")
    page.click("button:text-is('Compute')")
    page.locator("h3", has_text=f"latent {latent} by 2").wait_for()
    assert "factor=2" in walker.at()
    page.locator(".prompt-strip .tok").nth(2).click()  # the lists follow what is held
    page.locator("h3", has_text="position 2").wait_for()
    here = walker.at()
    walker.go(here, ".prompt-strip .tok.held")
    assert walker.at() == here
    assert page.locator(".prompt-strip .tok.held").get_attribute("data-j") == "2"
    page.locator("h3", has_text="Steered").wait_for()


def _compare(walker: Walker, one: str, other: str, latent: int):
    page = walker.page
    walker.go(f"#/compare?a={one}&b={other}&latent={latent}&other=3", ".examples .tok")
    assert page.locator("main select").nth(1).input_value() == other
    page.click("button:text-is('Match them')")
    page.locator("td a", has_text="side by side").first.wait_for()


def _run_and_jobs(walker: Walker, name: str):
    page = walker.page
    walker.go(f"#/run/{name}", "svg .line")
    page.locator("nav a", has_text="Jobs").click()
    page.locator("table.jobs").wait_for()
    page.locator("table.jobs tr", has_text="steer").locator("button").first.click()
    page.locator(".steered .dose").first.wait_for()


def _dark(walker: Walker, name: str, latent: int):
    page = walker.page
    walker.go(f"#/sae/{name}/latent/{latent}", ".example-panel .tok")
    ground = "getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(ground) == "rgb(255, 255, 255)"
    page.emulate_media(color_scheme="dark")
    assert page.evaluate(ground) != "rgb(255, 255, 255)"
    page.keyboard.press("t")
    assert page.evaluate(ground) == "rgb(255, 255, 255)"
    page.keyboard.press("t")


def _narrow(walker: Walker, one: str, folded: str | None, latent: int):
    page = walker.page
    page.set_viewport_size({"width": 360, "height": 740})
    places = {
        "#/": ".sae-card",
        f"#/sae/{one}": "tr[data-latent]",
        f"#/sae/{one}/latent/{latent}": ".example-panel .tok",
        f"#/compare?a={one}&b={one}&latent={latent}&other=1": ".examples .tok",
        f"#/run/{one}": "svg .line",
        "#/jobs": "table.jobs",
        "#/marked": "table.marked",
        "#/marked/1": "table.marked",
    }
    if folded is not None:
        places[f"#/sae/{folded}/prompt?text=the+cat"] = ".prompt-strip .tok"
    for address, wanted in places.items():
        walker.go(address, wanted)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360, address


def _wait(page, expression: str):
    """Wait until an expression is true; the policy of the pages lets no page look for it itself."""
    for _ in range(10 * SECONDS):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(100)
    raise AssertionError(f"never true: {expression}")
