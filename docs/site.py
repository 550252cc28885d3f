"""What mkdocs is told when it builds the pages as a site: `make docs`.

docs/README.md is the one list of pages; the navigation is read from it. The reference is written
here, from the docstrings of the public names and from what the commands say to ``--help``. Pages
of the repository's root are taken in, so that links to them work in both places.
"""

import inspect
import os
import re
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
ROOT = DOCS.parent
# Pages of the repository's root that pages of docs/ link to, and where they stand on the site.
OUTSIDE = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
# What somebody who adds a part writes a subclass of, and what its members are called on.
CONTRACTS = {
    "SAE and its settings": ("saekit.saes.base", ("SAEConfig", "SAE", "Step")),
    "Metric": ("saekit.metrics.base", ("Metric", "Batch")),
    "Evaluation": ("saekit.evals.base", ("Eval",)),
    "Analysis": ("saekit.analysis.base", ("Analysis",)),
    "Corpus": ("saekit.data.base", ("Corpus",)),
    "Format": ("saekit.hub.formats.base", ("Format", "FormatHints")),
    "Language model": ("saekit.models.base", ("LanguageModel", "Tokenizer")),
    "Family of models": ("saekit.models.family", ("Family",)),
    "Generator": ("saekit.generators.base", ("Generator",)),
    "Panel": ("saekit.report.panels.base", ("Panel",)),
    "Page": ("saekit.report.pages.base", ("Page",)),
}
# What would make a browser ask another machine for something.
OUTWARD = re.compile(
    r"<(?:script|img|iframe|source|link(?![^>]*rel=\"?canonical))\b[^>]*"
    r"(?:src|href)=[\"']?(?:https?:)?//[^\"'> ]+",
    re.I,
)


def links(page: Path, text: str = "") -> list[tuple[str, Path]]:
    """Return the links of a list of pages: the words, and the file."""
    found = re.findall(r"\[([^\]]+)\]\(([^)#\s]+\.md)\)", text or page.read_text(encoding="utf-8"))
    return [(words, (page.parent / file).resolve()) for words, file in found]


def navigation() -> list[dict[str, Any]]:
    """Return the navigation: the headings of docs/README.md and the pages below each."""
    made: list[dict[str, Any]] = []
    page = DOCS / "README.md"
    for part in page.read_text(encoding="utf-8").split("\n## ")[1:]:
        title, _, listed = part.partition("\n")
        entries: list[Any] = []
        for words, file in links(page, listed):
            if file.is_relative_to(DOCS):
                entries.append({words: str(file.relative_to(DOCS))})
            else:
                entries.append({words: OUTSIDE[file.name]})
            if file.name == "README.md":  # a list of its own
                below = [f for _, f in links(file) if f.parent == file.parent]
                entries += [str(f.relative_to(DOCS)) for f in dict.fromkeys(below)]
        made.append({title: entries})
    made[-1:-1] = [{"Reference": [{words: name} for words, name, _ in reference()]}]
    return made


def reference() -> list[tuple[str, str, str]]:
    """Return the pages that are made here: words, place, and nothing yet of their text."""
    return [
        ("Python", "reference/python.md", "python_names"),
        ("Contracts", "reference/contracts.md", "contracts"),
        ("Commands", "reference/commands.md", "commands"),
    ]


def python_names() -> str:
    """Return the page on every name of the package, as directives to mkdocstrings."""
    import saekit

    functions, classes, architectures = [], [], []
    for name in saekit.__all__[1:]:
        found = getattr(saekit, name)
        kept = functions if inspect.isfunction(found) else classes
        if found.__module__.startswith("saekit.saes."):
            kept = architectures
        directive = f"::: {found.__module__}.{found.__qualname__}\n    options:\n"
        kept.append(f"{directive}      heading: {name}\n      toc_label: {name}\n")
    parts = ["# Python", "Every name of the package `saekit`.", "## Functions", *functions]
    parts += ["## Classes", *classes, "## Architectures", *architectures]
    return "\n\n".join(parts)


def contracts() -> str:
    """Return the page on what a part of one's own is a subclass of."""
    parts = [
        "# Contracts",
        "What a part of your own is a subclass of. [Adding a part](../adding.md) has a skeleton "
        "of each.",
    ]
    for title, (module, names) in CONTRACTS.items():
        parts += [f"## {title}", *(f"::: {module}.{name}\n" for name in names)]
    return "\n\n".join(parts)


def commands() -> str:
    """Return the page on every command: what it says to ``--help``."""
    os.environ["TERMINAL_WIDTH"] = os.environ["COLUMNS"] = "96"
    from typer.main import get_command
    from typer.testing import CliRunner

    from saekit.cli.main import app

    parts = ["# Commands", "What each command says to `--help`."]

    def below(command: Any, words: list[str]) -> None:
        for name, one in getattr(command, "commands", {}).items():
            path = [*words, name]
            if getattr(one, "commands", None):
                below(one, path)
                continue
            said = CliRunner().invoke(app, [*path, "--help"], prog_name="saekit").output
            fence = "````"
            parts.append(f"## saekit {' '.join(path)}\n\n{fence}text\n{said.strip()}\n{fence}")

    below(get_command(app), [])
    return "\n\n".join(parts) + "\n"


def outside(name: str) -> str:
    """Return a page of the repository's root, its links as they are from docs/."""
    text = (ROOT / name).read_text(encoding="utf-8")
    text = re.sub(r"\]\(docs/", "](", text)
    for other, place in OUTSIDE.items():
        text = text.replace(f"]({other}", f"]({place}")
    return text


def on_config(config: Any) -> Any:
    """Set the navigation."""
    config.nav = navigation()
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that are made here, and those of the root."""
    from mkdocs.structure.files import File

    made = {place: globals()[maker]() for _, place, maker in reference()}
    made |= {place: outside(name) for name, place in OUTSIDE.items()}
    for place, text in made.items():
        files.append(File.generated(config, place, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Let links to pages of the root lead to where they stand on the site."""
    for name, place in OUTSIDE.items():
        markdown = markdown.replace(f"](../{name}", f"]({place}")
    return markdown


def on_post_build(config: Any) -> None:
    """Refuse a site that would load anything from another machine.

    Raises:
        PluginError: a page loads something from elsewhere.
    """
    from mkdocs.exceptions import PluginError

    for file in Path(config.site_dir).rglob("*.html"):
        if found := OUTWARD.search(file.read_text(encoding="utf-8")):
            raise PluginError(f"{file} loads something from another machine: {found[0]}")
