"""docs/definitions.md is made of what the metrics and evaluations say of themselves."""

import inspect
import os
import re
from pathlib import Path

from saekit.evals.base import registry as evals
from saekit.metrics.base import in_order
from saekit.metrics.base import registry as metrics

PAGE = Path(__file__).parents[2] / "docs" / "definitions.md"
HEAD = """# Definitions

What every score is, as the code says it. This page is made from the metrics
(`saekit list metrics`) and evaluations (`saekit list evals`) themselves; a test fails where it
differs. A definition whose number for the same input changes gets a new version, and results of two
versions are never shown in one column. How intervals are made: [intervals](intervals.md).
"""
FORMULA = "=="  # in front of a line of mathematics
SCALES = {
    "plain": "the value itself",
    "log": "the value's logarithm",
    "rest": "the logarithm of 1 less the value",
    "correlation": "Fisher's scale",
}


def told(cls):
    """A docstring as markdown: sections as bold words, formulas as code."""
    text = re.sub(r"\n\nRaises:\n(?: +.*\n?)+", "\n", inspect.getdoc(cls) or "")
    text = re.sub(
        r"\.\. math::\s*(.+?)(?=\n\n|$)",
        lambda m: FORMULA + " ".join(m[1].split()),
        text,
        flags=re.DOTALL,
    )
    text = text.replace("``", "`")
    lines = []
    for line in text.splitlines():
        section = re.fullmatch(r"(Args|Source|Raises|Cost|Reads):", line)
        if section:
            lines += [f"**{section[1]}**", ""]
        elif line.startswith(FORMULA):
            lines.append("    " + line.removeprefix(FORMULA))
        elif line.strip().startswith("Differs:"):
            lines += ["", line.strip()]
        elif entry := re.fullmatch(r" {4}(\w+): (.*)", line):
            lines.append(f"- `{entry[1]}`: {entry[2]}")
        else:
            lines.append(line.strip())
    return "\n".join(lines)


def page():
    parts = [HEAD, "## Metrics\n"]
    for name in in_order():
        cls = metrics.get(name)
        facts = [f"version {cls.version}", f"unit: {cls.unit}", f"better: {cls.better}"]
        if cls.needs:
            facts.append(f"needs {', '.join(sorted(cls.needs))}")
        over = f"documents, on the scale of {SCALES[cls.scale]}" if cls.resampled else "latents"
        facts += [f"interval over {over}", f"undefined: {cls.undefined}"]
        parts.append(f"### {name}\n\n{'; '.join(facts)}.\n\n{told(cls)}\n")
    parts.append("## Evaluations\n")
    for name in evals.names():
        cls = evals.get(name)
        facts = [f"version {cls.version}", f"needs {', '.join(sorted(cls.needs)) or 'nothing'}"]
        facts += ["of several SAEs together"] if cls.joint else []
        parts.append(f"### {name}\n\n{'; '.join(facts)}.\n\n{told(cls)}\n")
    return "\n".join(parts).rstrip() + "\n"


def test_the_page_says_what_the_code_says():
    made = page()
    if os.environ.get("SAEKIT_RENEW_DEFINITIONS"):
        PAGE.write_text(made, encoding="utf-8")
    assert PAGE.exists() and PAGE.read_text(encoding="utf-8") == made, (
        "docs/definitions.md is not what the code says; renew it with SAEKIT_RENEW_DEFINITIONS=1"
    )
