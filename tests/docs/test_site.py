"""The navigation of the site has every page once; pages read there as in the repository."""

import importlib
import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(str(p.relative_to(DOCS)) for p in DOCS.rglob("*.md") if p != DOCS / "README.md")

_spec = importlib.util.spec_from_file_location("site_of_docs", DOCS / "site.py")
assert _spec is not None and _spec.loader is not None
site = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(site)


def placed(entries) -> list[str]:
    if isinstance(entries, str):
        return [entries]
    values = entries.values() if isinstance(entries, dict) else entries
    return [page for one in values for page in placed(one)]


def test_every_page_is_in_the_navigation_once():
    made = {place for _, place, _ in site.reference()} | set(site.OUTSIDE.values())
    assert sorted(placed(site.navigation())) == sorted({*PAGES, *made})


def test_sections_stand_in_the_order_of_the_list():
    titles = [title for part in site.navigation() for title in part]
    listed = re.findall(r"^## (.+)$", (DOCS / "README.md").read_text(), re.M)
    assert [t for t in titles if t != "Reference"] == listed and titles.count("Reference") == 1


def test_every_contract_has_its_names():
    for module, names in site.CONTRACTS.values():
        there = importlib.import_module(module)
        assert [n for n in names if not hasattr(there, n)] == [], module


@pytest.mark.parametrize("page", PAGES)
def test_lists_and_links_mean_the_same_to_mkdocs(page):
    text = re.sub(r"^```.*?^```", "", (DOCS / page).read_text(), flags=re.M | re.S)
    for block in re.split(r"\n\s*\n", text):
        first, *rest = block.strip("\n").splitlines() or [""]
        if not re.match(r" *(?:[-*]|\d+\.) ", first):
            late = [line for line in rest if re.match(r"(?:[-*]|\d+\.) ", line)]
            assert not late, f"a list needs an empty line before it: {late[0]}"
    for link in re.findall(r"\]\((\.\./[^)#\s]+)", text):
        outside = not (DOCS / page).parent.joinpath(link).resolve().is_relative_to(DOCS)
        assert not outside or Path(link).name in site.OUTSIDE, f"{link} is not on the site"


@pytest.mark.parametrize(
    ("html", "refused"),
    [
        ('<script src="https://unpkg.com/x.js"></script>', True),
        ('<link rel="stylesheet" href="//fonts.example/css">', True),
        ('<script src="assets/x.js"></script><a href="https://example.org">x</a>', False),
    ],
)
def test_what_would_leave_the_machine_is_seen(html, refused):
    assert bool(site.OUTWARD.search(html)) is refused
