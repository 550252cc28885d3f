"""What the pages name exists: links, files, tests, Python names, commands and their options."""

import functools
import importlib
import re
import shlex
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
CODE = [p for folder in ("src", "tests", "benchmarks") for p in (ROOT / folder).rglob("*.py")]
# Scripts of the multi-layer SAE's own code, which a page sets next to saekit's commands.
OF_OTHERS = ("train.py", "test.py", "figures/")
# Phrases that no engineer says aloud, or that a newcomer has to read twice.
AVOIDED = (
    "that count",
    "so many",
    "to be had",
    "is none",
    "has not",
    "gone on with",
    "taken off",
    "beside",
)


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def prose_of(page: Path) -> str:
    """Return a page without its code blocks, fenced or indented."""
    text = re.sub(r"^```.*?^```", "", text_of(page), flags=re.M | re.S)
    return re.sub(r"^ {4}.*$", "", text, flags=re.M)


def ticked(page: Path) -> list[str]:
    return re.findall(r"`([^`\n]+)`", prose_of(page))


def anchor(heading: str) -> str:
    """Return the anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


page_names = pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))


@page_names
def test_links_lead_to_files_and_headings(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", text_of(page)):
        if re.match(r"\w+:", link):
            continue
        file, _, heading = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), f"{link} in {page.name}"
        if heading:
            headings = re.findall(r"^#+ (.*)$", text_of(target), re.MULTILINE)
            assert heading in map(anchor, headings), f"{link} in {page.name}"


@page_names
def test_named_files_exist(page):
    for name in ticked(page):
        match = re.match(r"[\w./-]+\.(?:py|md|svg)(?![\w.])", name)
        others = page.name == "layers.md" and name.startswith(OF_OTHERS)
        others |= page.name == "adding.md"  # files that the reader makes; tests/docs makes them
        others |= page.name == "from_other_tools.md"  # scripts of others
        if not match or "NAME" in name or others:
            continue
        file, _, test = name.partition("::")
        path = file.split()[0]
        places = [ROOT / path, ROOT / "src" / "saekit" / path, page.parent / path]
        files = [p for p in [*places, *(p for p in CODE if p.name == path)] if p.exists()]
        assert files, f"`{name}` in {page.name}"
        if test:
            start = test.split("[")[0].rstrip(".")
            assert any(f"def {start}" in text_of(f) for f in files), f"`{name}` in {page.name}"


@page_names
def test_named_folders_exist(page):
    for name in re.findall(r"`((?:src|tests|docs|benchmarks)/[\w./-]*)`", text_of(page)):
        assert (ROOT / name).exists(), f"`{name}` in {page.name}"


def test_pages_that_code_names_exist():
    of_others = {"src/saekit/models/embedded/gguf.py", "benchmarks/quality_trainers.py"}
    for path in CODE:
        if str(path.relative_to(ROOT)) not in of_others:
            for name in re.findall(r"\bdocs/[\w/]+\.md", text_of(path)):
                assert (ROOT / name).exists(), f"{name} in {path}"


@page_names
def test_dotted_names_import(page):
    for name in re.findall(r"\bsaekit(?:\.\w+)+", text_of(page)):
        if page.name == "adding.md":  # its modules are made and imported in tests/docs
            continue
        module, rest = "saekit", name.split(".")[1:]
        found = importlib.import_module(module)
        for part in rest:
            module = f"{module}.{part}"
            if not hasattr(found, part):
                importlib.import_module(module)
            found = getattr(found, part)


def command_lines(page: Path) -> list[list[str]]:
    """Return the words of every `saekit ...` command in code blocks, continuations joined."""
    text = text_of(page)
    blocks = re.findall(r"^```(?:sh|bash)?\n(.*?)^```", text, re.M | re.S)
    blocks += ["\n".join(re.findall(r"^ {4}(.*)$", text, re.MULTILINE))]
    lines = []
    for block in blocks:
        for line in re.sub(r"\\\n", " ", block).splitlines():
            match = re.search(r"(?:^|[;|] *|-m )saekit (.*)", line)
            if match:
                lines.append(shlex.split(match[1].replace(" ...", ""), comments=True))
    return lines


@functools.cache
def whole_command():
    from typer.main import get_command

    from saekit.cli.main import app

    return get_command(app)


@page_names
def test_commands_and_their_options_exist(page):
    for words in command_lines(page):
        command = whole_command()
        rest = list(words)
        if rest and rest[0] == "--use":  # the one option in front of a command that takes a word
            rest = rest[2:]
        while rest and rest[0] in getattr(command, "commands", {}):
            command = command.commands[rest.pop(0)]  # pyright: ignore[reportAttributeAccessIssue]
        several = rest and "|" in rest[0]  # as `locality depth|context`
        assert several or not getattr(command, "commands", {}), f"{words} in {page.name}"
        options = {o for p in command.params for o in (*p.opts, *p.secondary_opts)}
        for word in rest:
            if word.startswith("--") and not several:
                assert word.split("=")[0] in options | {"--help"}, f"{word} of {words}"


@page_names
def test_pages_say_it_plainly(page):
    prose = " ".join(prose_of(page).split()).lower()
    for match in re.finditer(rf"\b({'|'.join(AVOIDED)})\b", prose):
        around = prose[max(match.start() - 60, 0) : match.end() + 60]
        raise AssertionError(f"`{match[0]}` in {page.name}: ...{around}...")


def test_every_architecture_is_described():
    from saekit.saes.base import registry

    page = text_of(ROOT / "docs" / "architectures.md")
    assert [name for name in registry.names() if f"\n| `{name}` |" not in page] == []


def test_the_changelog_has_this_version_and_one_line_an_outcome():
    text = text_of(ROOT / "CHANGELOG.md")
    project = tomllib.loads(text_of(ROOT / "pyproject.toml"))["project"]
    releases = re.findall(r"^## (\S+) \((\d{4}-\d\d-\d\d)\)$", text, re.MULTILINE)
    assert releases[0][0] == project["version"]
    assert [date for _, date in releases] == sorted((d for _, d in releases), reverse=True)
    outcomes = text.split("## ", 1)[1].splitlines()
    assert [line for line in outcomes if not re.match(r"(#|- |\d|\*\*|$)", line)] == []


def test_every_page_is_in_the_list_of_pages():
    listed = set()
    for index in (ROOT / "docs" / "README.md", ROOT / "docs" / "measurements" / "README.md"):
        for link in re.findall(r"\]\(([^)#\s]+\.md)\)", text_of(index)):
            listed.add((index.parent / link).resolve())
    pages = {p.resolve() for p in (ROOT / "docs").rglob("*.md")}
    assert pages - listed - {(ROOT / "docs" / "README.md").resolve()} == set()
