"""The pages in a real browser, over payloads with hostile text and over a real run's report."""

import os
import re
import shutil
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.report.web import mock

pytestmark = pytest.mark.slow  # a browser takes half a minute of one core
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = (
    os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
)
if CHROMIUM is None:
    pytest.skip("there is no chromium to open the pages with", allow_module_level=True)

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def chromium():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def site():
    with mock.mock_server() as address:
        yield address


class Seen:
    """A page with all that it said and asked for."""

    def __init__(self, page):
        self.page, self.said, self.asked = page, [], []
        page.on("console", lambda m: self.said.append(f"{m.type}: {m.text}"))
        page.on("pageerror", lambda error: self.said.append(f"error: {error}"))
        page.on("request", lambda request: self.asked.append(request.url))

    def go(self, address, wait="main h1"):
        self.page.goto("about:blank")
        self.page.goto(address)
        self.page.wait_for_selector(wait)

    def wrong(self):
        return [s for s in self.said if s.startswith(("error", "warning", "pageerror"))]


@pytest.fixture
def opened(chromium):
    made = []

    def make(width=1280, **options):
        context = chromium.new_context(viewport={"width": width, "height": 900}, **options)
        made.append(context)
        return Seen(context.new_page())

    yield make
    for context in made:
        context.close()


def until(page, expression):
    """Wait until an expression is true; the policy of the pages lets no page look for it itself."""
    for _ in range(150):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(100)
    raise AssertionError(f"never true: {expression}")


COUNT = "document.querySelector('.latent-table .count').innerText"
PAGES = {
    "#/": ".sae-card",
    "#/sae/demo": "tr[data-latent]",
    "#/sae/new": ".missing",
    "#/sae/demo/latent/0": ".example-panel .tok",
    "#/sae/demo/latent/7": ".empty",
    "#/sae/folded/prompt?text=the+long+cat": ".prompt-strip .tok",
    "#/compare?a=demo&b=large&latent=0&other=5": ".examples .tok",
    "#/run/demo": "svg .line",
    "#/study/loc": ".block-strip .tok",
    "#/jobs": ".empty, table",
}


@pytest.mark.parametrize(("width", "theme"), [(360, "dark"), (1280, "light"), (3840, "dark")])
def test_every_page_shows_and_runs_no_text(opened, site, width, theme):
    seen = opened(width, color_scheme=theme)
    for address, wanted in PAGES.items():
        seen.go(f"{site}/{address}", wanted)
        page = seen.page
        assert page.evaluate("document.documentElement.scrollWidth") <= width, address
        assert page.evaluate("window.attacked") is None
        assert page.evaluate("document.images.length") == 0, address
        assert page.evaluate("document.scripts.length") == 1, address
        assert page.locator(".problem").count() <= 1, address
    assert not seen.wrong(), seen.said
    assert all(url.startswith((site, "about:", "data:")) for url in seen.asked)
    ground = seen.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(255, 255, 255)") == (theme == "light")


def test_a_page_of_a_latent_asks_for_the_sae_and_the_latent_alone(opened, site):
    seen = opened()
    seen.go(f"{site}/#/sae/demo/latent/0", ".wide-panel .tok")
    asked = [url.partition("/api/v1")[2] for url in seen.asked if "/api/" in url]
    assert sorted(asked) == ["/saes/demo", "/saes/demo/latents/0"]


def test_what_is_hostile_is_shown_as_it_is(opened, site):
    seen = opened()
    seen.go(f"{site}/#/sae/demo/latent/0", ".example-panel .tok")
    seen.page.click('[data-band="all"]')
    text = "\n".join(seen.page.locator(".tok").all_inner_texts())
    for shown in (mock.ATTACK, "\\x00", "Привет", "日本語", "العربية", "‹U+200B›", "‹U+202E›"):
        assert shown in text, shown
    assert "… (10,000 characters)" in text and "‹U+D800›" in text
    assert max(map(len, text.split("\n"))) < 200
    isolated = seen.page.evaluate(
        "getComputedStyle(document.querySelector('.tok')).unicodeBidi === 'isolate'"
    )
    assert isolated


def test_tokens_by_pointer_and_by_keys(opened, site):
    page = opened().page
    page.goto(f"{site}/#/sae/demo/latent/0")
    strip, said = page.locator(".example-panel .strip").first, page.locator(".readout").first
    token = strip.locator(".tok.peak")
    token.hover()
    most = mock.record(0)["values"]["max"]
    assert f"activation {most}" in said.inner_text() and "100 % of its maximum" in said.inner_text()
    token.click()
    page.mouse.move(2, 2)
    assert "activation" in said.inner_text() and "held" in said.get_attribute("class")
    strip.focus()
    strip.press("ArrowRight")
    first = said.inner_text()
    strip.press("ArrowRight")
    assert said.inner_text() != first
    assert strip.locator(".cursor").count() == 1


def test_numbers_tell_more_by_tab(opened, site):
    page = opened().page
    page.goto(f"{site}/#/sae/demo")
    page.wait_for_selector(".card")
    page.locator(".card").first.focus()
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Tab")
    said = page.locator("#tip").inner_text()
    for words in ("95 % interval", "ratio", "n = 48", "lower is better", "saekit eval demo"):
        assert words in said
    assert page.locator(".card").first.get_attribute("aria-describedby") == "tip"
    page.keyboard.press("Escape")
    assert not page.locator("#tip").is_visible()


def test_the_table_takes_queries_and_says_what_is_wrong(opened, site, tmp_path):
    seen = opened(accept_downloads=True)
    page = seen.page
    seen.go(f"{site}/#/sae/demo", "tr[data-latent]")
    page.wait_for_selector(".peaks .chip")
    asked = [one.partition("/saes/demo/")[2] for one in seen.asked]
    assert [one.startswith("previews?latents=0,1,2,") for one in asked].count(True) == 1
    assert not any(one.startswith("latents/") for one in asked)
    query = page.locator(".query")
    query.fill("density<0.0005")
    query.press("Enter")
    fewer = sum(d < 0.0005 for d in mock.table("demo")["density"])
    until(page, f"document.querySelector('.count').innerText.startsWith('{fewer} of')")
    assert "where=density%3C0.0005" in page.url
    page.reload()
    page.wait_for_selector("tr[data-latent]")
    assert page.locator(".query").input_value() == "density<0.0005"
    page.click('th[data-key="max"] button')
    until(page, "document.querySelector('.query').value.endsWith('sort -max')")
    query.fill("wrong<1")
    query.press("Enter")
    page.wait_for_selector(".latent-table .problem")
    assert "no column wrong" in page.locator(".latent-table .problem").inner_text()
    query.fill("nothing")
    query.press("Enter")
    page.wait_for_selector(".latents .empty")
    query.fill("")
    query.press("Enter")
    page.wait_for_selector("tr[data-latent]")
    with page.expect_download() as got:
        page.click('button:text-is("CSV")')
    got.value.save_as(tmp_path / "table.csv")
    lines = (tmp_path / "table.csv").read_text().splitlines()
    assert lines[0].startswith("latent,density,max,mean") and len(lines) == 51
    page.keyboard.press("]")
    until(page, "document.querySelector('.pages span').innerText === 'page 2 of 2'")
    for key, at in (("{", 1), ("}", 2)):
        page.wait_for_selector(".latent-table:not([aria-busy])")
        page.keyboard.press(key)
        until(page, f"document.querySelector('.pages span').innerText === 'page {at} of 2'")
    page.keyboard.press("j")
    page.keyboard.press("j")
    assert page.locator("tr.picked").get_attribute("data-latent") == "51"
    page.keyboard.press("o")
    page.wait_for_selector(".detail .tok")


def test_the_way_back_leads_to_the_page_of_the_table(opened, site):
    seen = opened()
    page, where = seen.page, "document.querySelector('.pages span').innerText"
    seen.go(f"{site}/#/sae/large?where=density%3C0.5", "tr[data-latent]")
    page.locator('th[data-key="max"] button').click()
    until(page, "document.querySelector('.query').value.endsWith('sort -max')")
    for number in (2, 3):
        page.wait_for_selector(".latent-table:not([aria-busy])")
        page.keyboard.press("]")
        page.keyboard.press("]")  # before the page is there: goes nowhere by itself
        until(
            page,
            f"{where}.startsWith('page {number} ') || {where}.startsWith('page {number + 1} ')",
        )
    page.wait_for_selector(".latent-table:not([aria-busy])")
    shown, at = (
        page.locator("tr[data-latent]").first.get_attribute("data-latent"),
        page.evaluate(where),
    )
    page.locator("tr[data-latent] a").nth(40).scroll_into_view_if_needed()
    page.wait_for_timeout(300)
    assert page.evaluate("scrollY") > 500
    page.locator("tr[data-latent] a").nth(40).click()
    page.wait_for_selector("h1:text-matches('Latent|found')")
    page.go_back()
    until(page, f"document.querySelector('.pages span')?.innerText === '{at}'")
    assert page.locator("tr[data-latent]").first.get_attribute("data-latent") == shown
    assert page.locator(".query").input_value() == "density<0.5 sort -max"
    page.wait_for_selector("main:not([aria-busy])")
    row = "document.querySelectorAll('tr[data-latent]')[40].getBoundingClientRect().top"
    until(page, f"{row} > 0 && {row} < innerHeight")  # rows above it may have grown
    assert page.locator("tr[data-latent]").count() == 50
    page.keyboard.press("[")
    until(page, f"{where} !== '{at}'")
    page.locator('th[data-key="max"] button').click()  # another order begins at its first page
    until(page, f"{where}.startsWith('page 1 ')")


def test_a_box_in_the_cloud_becomes_a_query(opened, site):
    seen = opened()
    page = seen.page
    seen.go(f"{site}/#/sae/demo", ".cloud")
    page.wait_for_timeout(200)
    box = page.locator(".cloud").bounding_box()
    page.mouse.move(box["x"] + 80, box["y"] + 30)
    page.mouse.down()
    page.mouse.move(box["x"] + 300, box["y"] + 160, steps=4)
    page.mouse.up()
    until(page, "document.querySelector('.query').value.includes('max<=')")
    value = page.locator(".query").input_value()
    number = r"[\d.e+-]+"
    shape = rf"density>={number} and density<={number} and max>={number} and max<={number}"
    assert re.fullmatch(shape, value), value


def test_131_thousand_latents_stay_smooth(opened, site):
    seen = opened()
    page = seen.page
    seen.go(f"{site}/#/sae/large", ".cloud")
    page.wait_for_timeout(300)
    took = page.evaluate("""async () => {
      const box = document.querySelector('.scatter-panel .plot');
      const before = performance.now();
      dispatchEvent(new Event('saekit-theme'));
      await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
      return performance.now() - before;
    }""")
    assert took < 1500, took  # tens of ms on a quiet machine
    assert "131,0" in page.locator(".scatter-panel output").inner_text()
    assert page.locator("tr[data-latent]").count() == 50


def test_labels(opened, site):
    seen = opened()
    page = seen.page
    seen.go(f"{site}/#/sae/demo/latent/3", ".example-panel")
    page.keyboard.press("l")
    page.keyboard.type(mock.ATTACK)
    page.keyboard.press("Enter")
    until(page, "document.querySelector('.label small').innerText === 'saved'")
    assert page.locator(".label-text").inner_text() == mock.ATTACK
    page.reload()
    page.wait_for_selector(".example-panel")
    assert page.locator(".label-text").inner_text() == mock.ATTACK
    page.click("text=edit label")
    page.fill(".label input", "")
    page.keyboard.press("Enter")
    until(page, "document.querySelector('.label-text').innerText === 'no label'")
    assert page.evaluate("window.attacked") is None
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("j")
    until(page, "document.querySelector('h1').innerText === 'Latent 4'")
    page.go_back()
    until(page, "document.querySelector('h1').innerText === 'Latent 3'")
    assert not seen.wrong(), seen.said


def test_jobs_of_a_latent(opened, site):
    seen = opened()
    page = seen.page
    seen.go(f"{site}/#/sae/demo/latent/3", "form.job")
    page.fill('[aria-label="texts, one a line"]', "one\ntwo")
    page.click('button:text-is("Try")')
    page.wait_for_selector(".job-result .tok")
    assert page.locator(".job-result .row").count() == 2
    page.fill('[aria-label="prompt to continue"]', "the cat")
    page.fill('[aria-label="how far"]', "1, x")
    page.click('button:text-is("Steer")')
    page.wait_for_selector(".job-result .problem")
    assert "not a list of numbers" in page.locator(".job-result .problem").inner_text()
    page.fill('[aria-label="how far"]', "1, 2")
    page.click('button:text-is("Steer")')
    page.wait_for_selector(".dose")
    assert page.locator(".dose").count() == 3
    page.fill('[aria-label="text"]', "fail")
    page.click('button:text-is("Ablate")')
    page.wait_for_selector(".job-result .problem")
    problem = page.locator(".job-result .problem").inner_text()
    assert "out of memory" in problem and "saekit serve" in problem
    page.fill('[aria-label="text"]', "the cat")
    page.click('button:text-is("Ablate")')
    page.wait_for_selector(".job-result rect.bar")
    assert page.evaluate("window.attacked") is None
    assert not seen.wrong(), seen.said


def test_a_prompt_shows_by_pointer_and_holds_by_click(opened, site):
    seen = opened()
    page = seen.page
    seen.go(f"{site}/#/sae/folded/prompt?text=the+long+cat", ".grid-table .cell")
    assert page.locator(".prompt-strip .tok").count() > 90
    address, note = page.url, page.locator(".count[role=status]").last
    held = note.inner_text()
    page.locator(".prompt-strip .tok").nth(3).hover()
    until(page, f"!document.body.innerText.includes({held!r})")
    assert page.url == address  # shown, not held
    page.mouse.move(2, 2)
    until(page, f"document.body.innerText.includes({held!r})")
    page.locator(".prompt-strip .tok").nth(3).click()
    until(page, "location.hash.includes('pos=')")
    # Read and clicked at once: the grid is drawn anew when the answer of the held token comes.
    latent, layer = page.evaluate(
        "() => { const first = document.querySelector('.grid-table .cell'); first.click();"
        " return [first.dataset.latent, first.dataset.site]; }"
    )
    until(page, f"location.hash.includes('latent={latent}&')")
    assert f"site={layer}" in page.url
    kept = page.url
    page.goto("about:blank")
    page.goto(kept)  # the address is enough
    page.wait_for_selector(".grid-table .cell.held")
    at = page.locator(".grid-table .cell.held")
    assert (at.get_attribute("data-latent"), at.get_attribute("data-site")) == (latent, layer)
    page.click('button:text-is("Compute")')
    page.wait_for_selector(".logit-lists")
    assert mock.ATTACK in page.locator(".logit-lists").first.inner_text()
    assert not seen.wrong(), seen.said


def test_layer_0_and_latent_0_can_be_held(opened, site):
    page = opened().page
    page.goto(f"{site}/#/sae/folded/prompt?text=a+b&pos=1&site=L0.resid_post&latent=0")
    page.wait_for_selector(".prompt-strip")
    assert page.locator('[aria-label="latent"]').input_value() == "0"
    assert page.locator(".pinned select").input_value() == "L0.resid_post"
    assert page.locator('[aria-label="pos"]').input_value() == "1"


def test_an_empty_prompt_is_refused_in_the_page(opened, site):
    page = opened().page
    page.goto(f"{site}/#/sae/demo/prompt")
    page.click('button:text-is("Read it")')
    page.wait_for_selector(".job-result .problem")
    assert "one token or more" in page.locator(".job-result .problem").inner_text()


def test_what_is_not_there_says_what_to_do(opened, site):
    seen = opened()
    seen.go(f"{site}/#/sae/nope")
    assert "saekit serve FOLDER" in seen.page.locator(".problem").inner_text()
    seen.go(f"{site}/#/sae/demo/latent/96")
    assert "there are 0 to 95" in seen.page.locator(".problem").inner_text()
    seen.go(f"{site}/#/nothing/here")
    assert "no page" in seen.page.locator(".problem").inner_text()
    seen.go(f"{site}/#/sae/old", ".missing")
    assert "saekit index old" in seen.page.locator(".missing").inner_text()


def test_a_running_run_is_read_again(opened, site):
    mock.Mock.polls = 0
    seen = opened()
    seen.go(f"{site}/#/run/demo", "svg .line")
    assert "running" in seen.page.locator(".badge").first.inner_text()
    until(seen.page, "document.querySelector('.badge').innerText === 'finished'")


def test_theme_help_and_keys(opened, site):
    seen = opened(color_scheme="light")
    page = seen.page
    seen.go(f"{site}/#/", ".sae-card")
    page.keyboard.press("t")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    page.reload()
    page.wait_for_selector(".sae-card")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 28)"
    page.keyboard.press("?")
    assert page.locator("dialog").is_visible()
    page.keyboard.press("Escape")
    assert not page.locator("dialog").is_visible()


def test_every_field_and_button_has_a_name(opened, site):
    page = opened().page
    for address, wanted in PAGES.items():
        page.goto("about:blank")
        page.goto(f"{site}/{address}")
        page.wait_for_selector(wanted)
        nameless = page.evaluate("""() => [...document.querySelectorAll(
          'button, a[href], input, select, textarea, canvas[tabindex], [role=group]')].filter((n) =>
          !(n.getAttribute('aria-label') || n.innerText?.trim() || n.title || n.closest('label')))
          .map((n) => n.outerHTML.slice(0, 120))""")
        assert not nameless, (address, nameless)


# ------------------------------------------------------------------------------------- one file


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with a small run that has an index."""
    import saekit
    from saekit.models.tiny import save_tiny
    from tests import world

    made: Path = tmp_path_factory.mktemp("pages")
    lm = saekit.load_model(str(save_tiny(made / "llama", n_layers=2)))
    own = {"model": str(made / "llama")}
    saekit.train(lm, run=world.run(made, **own), out=made / "run", shown=False)
    saekit.index(made / "run", lm, tokens=3000, shown=False)
    return made


@pytest.fixture(scope="module")
def report(folder):
    from saekit.report.page import write_report

    return write_report(folder / "run", folder / "report.html")


def test_the_report_is_the_same_pages_and_asks_for_nothing(opened, report):
    seen = opened(offline=True)
    page = seen.page
    seen.go(report.as_uri(), "tr[data-latent]")
    assert page.url.endswith("#/sae/run")
    text = page.locator("main").inner_text()
    for words in (
        "Training",
        "There is no evaluation yet.",
        "saekit eval",
        "Tokens left out",
        "Definitions",
    ):
        assert words in text, words
    assert page.locator("#training svg .line").count() >= 5
    page.fill('[aria-label="Search text"]', "a")
    until(page, f"{COUNT}.includes('answer best')")
    page.fill('[aria-label="Search text"]', "")
    until(page, f"!{COUNT}.includes('best')")
    query = page.locator(".query")
    query.fill("density>0 sort -max limit 3")
    query.press("Enter")
    until(page, f"{COUNT}.startsWith('3 of')")
    page.locator("tr[data-latent] a").first.click()
    page.wait_for_selector(".example-panel .tok.peak")
    assert page.locator(".side-column rect.bar").count() > 3
    page.keyboard.press("u")
    page.wait_for_selector("tr[data-latent]")
    assert page.locator(".query").input_value() == "density>0 sort -max limit 3"
    assert not seen.wrong(), seen.said
    assert {url.split(":")[0] for url in seen.asked} <= {"file", "about", "data"}
    assert len([u for u in seen.asked if u.startswith("file")]) == 1


class Files(SimpleHTTPRequestHandler):
    """A static host; `ranges` says whether it knows them."""

    ranges = True
    asked: list[tuple[str, int]] = []  # noqa: RUF012 - one host a test

    def log_message(self, *args):
        """Say nothing."""

    def do_GET(self):
        path, given = Path(self.translate_path(self.path)), self.headers.get("Range")
        if not (self.ranges and given and path.is_file()):
            Files.asked.append((path.name, 200))
            super().do_GET()
            return
        first, last = map(int, given.removeprefix("bytes=").split("-"))
        part = path.read_bytes()[first : last + 1]
        Files.asked.append((path.name, len(part)))
        self.send_response(206)
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        self.wfile.write(part)


@pytest.fixture(scope="module")
def static(folder):
    from saekit.explorer.export import export_site

    export_site(folder / "run", folder / "site", shown=False)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Files, directory=str(folder / "site")))
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/index.html"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("ranges", [True, False])
def test_a_static_host(opened, static, monkeypatch, ranges):
    monkeypatch.setattr(Files, "ranges", ranges)
    monkeypatch.setattr(Files, "asked", [])
    seen = opened()
    seen.go(f"{static}#/sae/run/latent/5", ".side-column figure")
    packed = [size for name, size in Files.asked if name == "latents.bin"]
    assert len(packed) == 1 and (packed[0] == 200) != ranges
    assert seen.page.locator("h1").inner_text() == "Latent 5"
    assert "saekit serve" in seen.page.locator("main").inner_text()
    seen.page.keyboard.press("u")
    seen.page.wait_for_selector("tr[data-latent]")
    seen.page.fill('[aria-label="Search text"]', "a")
    until(seen.page, f"{COUNT}.includes('answer best')")
    assert not seen.wrong(), seen.said
    host = static.removesuffix("index.html")
    assert all(url.startswith((host, "data:", "about:")) for url in seen.asked)


def test_a_site_from_the_disk(opened, static, folder):
    seen = opened(offline=True)
    seen.go((folder / "site" / "index.html").as_uri() + "#/sae/run/latent/5", ".side-column figure")
    assert seen.page.locator("h1").inner_text() == "Latent 5"
    seen.go((folder / "site" / "index.html").as_uri(), ".sae-card")
    assert not seen.wrong(), seen.said
    assert {url.split(":")[0] for url in seen.asked} <= {"file", "about", "data"}
