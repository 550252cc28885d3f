"""The bundler of the pages' modules, and what all assets weigh."""

import gzip
import json
import re
import shutil
import subprocess
from importlib import resources

import pytest

from saekit.core.errors import ConfigError
from saekit.report import bundle
from saekit.report.bundle import bundled, web_file, web_files

ENTRIES = ("main.js", "report.js", "study_report.js", "prompt_page.js")
OF_B = 'import { x } from "./b.js";\n'
NODE = shutil.which("node")


@pytest.fixture
def modules(monkeypatch):
    """Return a dict of sources that stands in for the folder of modules."""
    made = {}
    monkeypatch.setattr(bundle, "web_files", lambda: sorted(made))
    monkeypatch.setattr(bundle, "web_file", made.__getitem__)
    return made


def run(script):
    if NODE is None:
        pytest.skip("node is not there to run a bundle")
    done = subprocess.run([NODE, "-e", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def ran(name, expression):
    """Return what an expression over the exports of one of our modules is."""
    text = bundled(name).removesuffix("})();\n")
    module = "module_" + name.removesuffix(".js")
    return run(
        f"{text}\nconsole.log(JSON.stringify((({module}) => {expression})({module})));\n}})();"
    )


def test_modules_see_only_what_they_import(modules):
    modules["a.js"] = (
        'import { twice, LIMIT as most } from "./b.js";\nimport {\n  Box,\n} from "./c.js";\n'
        "const hidden = 1;\n// a comment\nconsole.log(JSON.stringify("
        "[twice(most), new Box(3).value, typeof other, hidden]));\n"
    )
    modules["b.js"] = (
        'import { Box } from "./c.js";\nconst hidden = 2, other = 5;\nexport const LIMIT = 20;\n'
        "export function twice(x) { return new Box(hidden * x).value; }\n"
    )
    modules["c.js"] = (
        "const hidden = 3;\nexport class Box { constructor(v) { this.value = v; } }\n"
        "export async function later() { return hidden; }\n"
    )
    made = bundled("a.js")
    assert run(made) == [40, 3, "undefined", 1]
    assert "a comment" not in made and made.count("class Box") == 1


@pytest.mark.parametrize(
    ("sources", "said"),
    [
        (
            {"a.js": 'import { x } from "./b.js";\n', "b.js": "export const y = 1;\n"},
            "no such name",
        ),
        (
            {"a.js": 'import { x } from "./b.js";\n', "b.js": 'import { y } from "./a.js";\n'},
            "circle",
        ),
        ({"a.js": 'import { x } from "../b.js";\n'}, "side by side"),
        ({"a.js": 'import { x } from "https://e.org/b.js";\n'}, "side by side"),
        ({"a.js": "export default 1;\n"}, "cannot read"),
        ({"a.js": "const x = 1;\nexport { x };\n"}, "cannot read"),
        ({"a.js": 'import * as b from "./b.js";\n', "b.js": ""}, "cannot read"),
        ({"a.js": 'const b = await import("./b.js");\n', "b.js": ""}, "cannot read"),
        ({"a.js": "const x = `one\ntwo`;\n"}, "line 1: a text in backticks"),
        ({"a.js": 'const x = "</script>";\n'}, "may not hold"),
    ],
)
def test_what_cannot_be_bundled_is_refused(modules, sources, said):
    modules.update(sources)
    with pytest.raises(ConfigError, match=said):
        bundled("a.js")


def test_a_file_that_is_not_there():
    with pytest.raises(ConfigError, match="no file 'nothing.js'"):
        web_file("nothing.js")
    with pytest.raises(ConfigError, match="no file"):
        web_file("../page.py")


@pytest.mark.parametrize("entry", ENTRIES)
def test_our_modules_bundle(entry):
    made = bundled(entry)
    assert not re.search(r"^\s*(import|export)\s", made, re.MULTILINE)
    if NODE is not None:
        subprocess.run([NODE, "--check", "-"], input=made, text=True, check=True)


def test_every_module_is_in_a_bundle():
    """A module that no page imports would be dead."""
    whole = "".join(bundled(entry) for entry in ENTRIES)
    for name in web_files():
        if name.endswith(".js"):
            assert f"const module_{name.removesuffix('.js')} =" in whole, name


def test_all_assets_of_the_explorer_stay_small():
    """The budget of the issue is 250 kB; three times what there is would be a mistake."""
    total = sum(len(gzip.compress(web_file(name).encode())) for name in web_files())
    assert total <= 90_000, total


def test_no_asset_asks_another_machine_or_makes_markup():
    banned = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function"
    banned += r"|srcdoc|DOMParser|createContextualFragment|@import|url\(|javascript:"
    for name in web_files():
        text = web_file(name)
        assert not re.search(banned, text), name
        known = text.replace("http://www.w3.org/2000/svg", "")
        addresses = set(re.findall(r"https?://[\w.]+", known))
        assert not addresses, (name, addresses)
        assert not text.startswith("\ufeff") and "\t" not in text


def test_files_are_in_the_package():
    folder = resources.files("saekit.report") / "web"
    assert {"main.js", "app.css", "report.js"} <= {f.name for f in folder.iterdir()}


# ------------------------------------------------------------------ small parts, run outside a page


def test_characters_that_cannot_be_seen_are_written():
    given = [
        "\n\t",
        "a\x01b\x7f",
        "\r",
        " ",
        "日本",
        "\x00",
        "\u200b",
        "\u202eabc",
        "\ufeff",
        "\u2028",
    ]
    given += ["\u00a0", "\u00ad", "👨\u200d👩\u200d👧", "\u200d", "می\u200cخواهم", "é", "العربية"]
    shown = ran("dom.js", f"{json.dumps(given)}.map(module_dom.visible)")
    expected = ["↵⇥", "a\\x01b\\x7f", "\\x0d", " ", "日本", "\\x00", "‹U+200B›", "‹U+202E›abc"]
    expected += ["‹U+FEFF›", "‹U+2028›", "⍽", "‹U+00AD›", "👨\u200d👩\u200d👧", "‹U+200D›"]
    assert shown == [*expected, "می\u200cخواهم", "é", "العربية"]
    assert ran("dom.js", 'module_dom.visible("\\ud800")') == "‹U+D800›"


def test_a_long_token_is_cut_and_says_its_length():
    shown = ran("dom.js", 'module_dom.edged("x".repeat(10000))')
    assert shown.endswith("… (10,000 characters)") and len(shown) < 100
    assert ran("dom.js", '["", " ", " a "].map(module_dom.edged)') == ["·", "␣", "␣a␣"]


def test_an_axis_has_two_ticks_or_more_and_not_many():
    spans = [(1, 1.8), (0, 7), (6e3, 924e3), (0, 1e-4), (-4.5, 0), (3, 1000), (0, 3)]
    found = ran("charts.js", f"{json.dumps(spans)}.map(([a, b]) => module_charts.ticks(a, b, 3))")
    for (low, high), ticks in zip(spans, found, strict=True):
        assert 2 <= len(ticks) <= 6, (low, high, ticks)
        assert low <= ticks[0] and ticks[-1] <= high * (1 + 1e-9) + 1e-12


def test_a_logarithmic_axis_goes_there_and_back():
    source = "(() => { const s = module_charts.scale([1e-5, 0.3], [0, 100], true); "
    source += "return [s(1e-5), s(0.3), s.invert(s(0.004)), s.ticks]; })()"
    first, last, back, ticks = ran("charts.js", source)
    assert (first, round(last, 6), round(back, 9)) == (0, 100, 0.004)
    assert len(ticks) >= 3 and all(1e-5 * 0.99 <= t <= 0.3 for t in ticks)


def test_numbers_have_a_minus_and_not_a_hyphen():
    source = "[-0.5, -0.00012, 12345, 0, null, 3.14159, -2e6].map(module_numbers.readable)"
    shown = ran("numbers.js", source)
    assert shown == ["−0.5", "−1.2e−4", "12.3k", "0", "–", "3.14", "−2M"]


def test_a_number_tells_unit_interval_and_source():
    facts = {"unit": "nats", "low": 0.1, "high": 0.3, "n": 48, "source": "eval/core.json"}
    shown = ran("numbers.js", f"module_numbers.about(0.2, {json.dumps(facts)})")
    expected = [
        "0.2 nats",
        "95 % interval 0.1 to 0.3",
        "n = 48 (blocks of text, documents or latents)",
        "from eval/core.json",
    ]
    assert shown == expected


COLUMNS = {
    "latent": [0, 1, 2, 3, 4],
    "density": [0.1, 0.001, None, 0.02, 0.0],
    "max": [3, 9, 1, 9, None],
    "odd-name": [5, 4, 3, 2, 1],
    "label": ["a cat", None, "Dogs or cats", "x", "sort limit 2"],
}
QUERIES = {
    "": [0, 1, 2, 3, 4],
    "density<0.05": [1, 3, 4],
    "density < 0.05 and max>=9 sort -density": [3, 1],
    "max=9 or density>0.05": [0, 1, 3],
    "not (max=9 or density>0.05)": [2, 4],
    "not max=9": [0, 2, 4],
    "missing density": [2],
    'label has "CAT"': [0, 2],
    'label has "cat" limit 1': [0],
    'label has "sort limit 2"': [4],
    "label='x'": [3],
    "sort -max": [1, 3, 0, 2, 4],
    "sort -max, density": [1, 3, 0, 2, 4],
    "sort max, -latent limit 3": [2, 0, 3],
    "max>-5 sort latent limit 2": [0, 1],
    "density!=0.1": [1, 3, 4],
    "`odd-name`>=3 sort `odd-name`": [2, 1, 0],
    "max>= 1_0e-1 and max <+4": [0, 2],
}


@pytest.mark.parametrize(("query", "rows"), QUERIES.items())
def test_queries_in_the_page(query, rows):
    source = f"module_query.select({json.dumps(query)}, {json.dumps(COLUMNS)}, 5)"
    assert ran("query.js", source) == rows


@pytest.mark.parametrize(("query", "rows"), QUERIES.items())
def test_queries_in_the_page_are_those_of_the_server(query, rows):
    """One language: what the page finds is what `saekit query` finds."""
    import numpy as np

    from saekit.analysis.query import parse

    known = {
        name: values
        if name == "label"
        else np.array([np.nan if v is None else v for v in values], dtype=np.float64)
        for name, values in COLUMNS.items()
    }
    query_ = parse(query, known)
    found = query_.matches(known, 5)
    assert (found if query_.limit is None else found[: query_.limit]).tolist() == rows


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("densty<1", "At character 1, .*no column densty; the nearest is density"),
        ("density<", "At the end: a number, or"),
        ("density 1", "At character 9, .*a comparison"),
        ("(density<1", r"At the end: \"\)\" is expected"),
        ("density<x", "a number, or a text in quotes, is expected"),
        ("density<-max", "a number, or a text in quotes, is expected"),
        ("density<1 max>2", "nothing more is expected"),
        ("label has cat", "text in quotes"),
        ("limit 2.5", "a whole number"),
    ],
)
def test_a_query_that_is_wrong_says_where(query, said):
    asked = f"module_query.select({json.dumps(query)}, {json.dumps(COLUMNS)}, 5)"
    source = f"(() => {{ try {{ {asked}; "
    source += 'return "taken"; } catch (error) { return error.message; } })()'
    assert re.search(said, ran("query.js", source))


def test_the_sort_is_read_out_of_a_query():
    for text, expected in [
        ("density<1", None),
        ("sort max", {"name": "max", "down": False}),
        ("a<1 sort - max, b", {"name": "max", "down": True}),
        ("sort -`odd-name`, b", {"name": "odd-name", "down": True}),
        ('label has "sort x"', None),
    ]:
        assert ran("query.js", f"module_query.sortOf({json.dumps(text)})") == expected


def test_a_heading_changes_the_sort_and_a_box_narrows():
    cases = [
        ("", "max", True, "sort -max"),
        ("density<1", "max", True, "density<1 sort -max"),
        ("density<1 sort -max limit 5", "density", False, "density<1 sort density limit 5"),
        ("density<1 limit 5", "max", True, "density<1 sort -max limit 5"),
        ('label has "sort it"', "max", False, 'label has "sort it" sort max'),
        ("sort -`odd-name`, max limit 2", "a b", True, "sort -`a b` limit 2"),
    ]
    for given, name, down, expected in cases:
        arguments = json.dumps([given, name, down])[1:-1]
        assert ran("query.js", f"module_query.sorted({arguments})") == expected
    clause = "max>=1 and max<=2"
    for given, expected in [
        ("", clause),
        ("density<1 sort -max", f"density<1 and {clause} sort -max"),
        ("density<1 or max=2", f"(density<1 or max=2) and {clause}"),
        ('label has "a or b"', f'label has "a or b" and {clause}'),
        ("limit 5", f"{clause} limit 5"),
    ]:
        arguments = json.dumps([given, clause])[1:-1]
        assert ran("query.js", f"module_query.narrowed({arguments})") == expected


def test_a_spreadsheet_takes_no_text_for_a_formula():
    rows = [[1, "=HYPERLINK(1)", None], [2.5, 'a "b", c', "@x"], [-3, "-1+2", "ok"]]
    made = ran("table.js", f'module_table.csv(["n", "a", "b"], {json.dumps(rows)})')
    lines = ["n,a,b", "1,'=HYPERLINK(1),", '2.5,"a ""b"", c",\'@x', "-3,'-1+2,ok", ""]
    assert made == "\r\n".join(lines)


def test_addresses_hold_every_id():
    for name in ("a b", "a/b", "ü~L0.resid_post", "..", "%2e", "x?y#z"):
        source = f"module_routes.parsed(module_routes.latentAt({json.dumps(name)}, 5, "
        source += '{where: "a<1 & b>=2", empty: ""}))'
        found = ran("routes.js", source)
        assert found == {"path": ["sae", name, "latent", "5"], "state": {"where": "a<1 & b>=2"}}
