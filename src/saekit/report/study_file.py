"""One HTML file of a study: its page in the explorer, with the study's tables inside."""

from pathlib import Path

from saekit.core.errors import FormatError
from saekit.core.files import replace_with
from saekit.report.bare_page import check
from saekit.report.page import document
from saekit.report.pages import base as pages
from saekit.report.payload import to_script


def write_study(folder: Path, out: Path) -> Path:
    """Write the page of a study as one self-contained HTML file and return its path.

    It asks the network for nothing, and the study's text is never markup in it.

    Args:
        folder: of a study that has a page (`saekit list pages`).
        out: the file to write; replaced where it exists.

    Raises:
        FormatError: the folder holds no such study.
        ConfigError: `out` does not end in .html.
    """
    check(out)
    kind = pages.kind_of(folder)
    if kind is None:
        known = ", ".join(pages.registry.names())
        raise FormatError(
            f"{folder} holds no study with a page; there are pages of {known}. Name the folder "
            f"that the study's command made."
        )
    name = folder.resolve().name or "study"
    study = pages.payload(kind, folder)
    data = {
        "library": {"saes": [], "runs": [], "studies": [pages.described(kind, folder)]},
        "saes": {},
        "runs": {},
        "studies": {name: study},
    }
    page = document(study["title"], "", to_script(data), entry="study_report.js")
    replace_with(out, page.encode("utf-8", "backslashreplace"))
    return out
