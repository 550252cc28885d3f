"""The table of docs/models.md is what the models say; SAEKIT_RENEW_MODELS=1 renews it."""

import os
import re
from pathlib import Path

from tests.models.kinds import ALL, row

PAGE = Path(__file__).parents[2] / "docs" / "models.md"


def test_the_table_is_true():
    rows = "\n".join(row(kind) for kind in ALL)
    text = PAGE.read_text(encoding="utf-8")
    head, rest = text.split("|---|---|---|---|\n")
    after = re.sub(r"\A(\|.*\n)*", "", rest)
    renewed = f"{head}|---|---|---|---|\n{rows}\n{after}"
    if os.environ.get("SAEKIT_RENEW_MODELS"):
        PAGE.write_text(renewed, encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == renewed
