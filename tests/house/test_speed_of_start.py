"""The command line answers before torch is imported."""

import subprocess
import sys

import pytest

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
    ["train"],
    ["eval"],
    ["index"],
    ["report"],
    ["list"],
    ["sweep"],
    ["analyse"],
    ["watch"],
    ["track"],
    ["truth"],
    ["truth", "make"],
    ["locality"],
    ["layers"],
    ["locality", "depth"],
    ["cache"],
    ["cache", "write"],
    ["convert"],
    ["layers", "analyse"],
]


def loaded_after(code: str) -> set[str]:
    probe = f"{code}\nimport sys\nprint(' '.join(m for m in sys.modules if '.' not in m))"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


def test_importing_saekit_loads_nothing_heavy():
    assert not loaded_after("import saekit") & {"torch", "numpy", "transformers", "typer"}


@pytest.mark.parametrize("command", COMMANDS, ids=lambda c: c[0] if c else "saekit")
def test_help_loads_nothing_heavy(command):
    words = [*command, "--help"]
    code = f"from saekit.cli.main import main\ntry: main({words!r})\nexcept SystemExit: pass"
    heavy = {"transformers"} if command in LIST_SETTINGS else {"torch", "numpy", "transformers"}
    assert not loaded_after(code) & heavy
