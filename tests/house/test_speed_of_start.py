"""The command line answers before torch is imported."""

import subprocess
import sys

# Their help lists what --set takes, read from the classes that hold the settings.
LIST_SETTINGS = [
    ["train"],
    ["sweep"],
    ["eval"],
    ["truth", "make"],
    ["cache", "write"],
    ["analyse"],
    ["locality", "depth"],
]
COMMANDS = [
    [],
    ["demo"],
    ["index"],
    ["report"],
    ["list"],
    ["watch"],
    ["track"],
    ["truth"],
    ["locality"],
    ["layers"],
    ["cache"],
    ["convert"],
    ["layers", "analyse"],
]


def loaded_after(code: str) -> set[str]:
    probe = f"{code}\nimport sys\nprint(' '.join(m for m in sys.modules if '.' not in m))"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split())


def test_importing_saekit_loads_nothing_heavy():
    assert not loaded_after("import saekit") & {"torch", "numpy", "transformers", "typer"}


ASKED = """
import sys
from saekit.cli.main import main
for words, heavy in {asked!r}:
    try:
        main([*words, "--help"])
    except SystemExit as ended:
        assert not ended.code, words
    loaded = set(heavy) & set(sys.modules)
    assert not loaded, f"help of {{words}} loads {{loaded}}"
"""


def test_help_loads_nothing_heavy():
    """All in one process, those that may load torch last: the first that loads more is named."""
    asked = [(c, ["torch", "numpy", "transformers"]) for c in COMMANDS]
    asked += [(c, ["transformers"]) for c in LIST_SETTINGS]
    loaded_after(ASKED.format(asked=asked))
