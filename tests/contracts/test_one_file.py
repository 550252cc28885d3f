"""One file is one variant: written into a copy of the package, it is listed, runs, and is tested.

The toys folder mirrors the package. A toy that needs a second file, or a line in a list of the
package or of the contracts, fails here. Of the public names alone a list is kept on purpose.
"""

import json
import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from tests import world

pytestmark = pytest.mark.slow  # every contract once more, for the toys
ROOT = Path(__file__).parents[2]
TOYS = Path(__file__).with_name("toys")
# What each toy is, its file or folder in the package, and the contract that holds it.
KINDS = {
    "architecture": ("saes/toy_sae.py", "test_saes.py"),
    "fit": ("training/fitted/toy_fit.py", "test_fits.py"),
    "metric": ("metrics/toy_metric.py", "test_metrics.py"),
    "analysis": ("analysis/toy_analysis.py", "test_analyses.py"),
    "columns": ("analysis/columns/toy_columns.py", "test_columns.py"),
    "evaluation": ("evals/toy_eval.py", "test_evals.py"),
    "joint": ("evals/toy_joint.py", "test_joint_evals.py"),
    "layout": ("hub/formats/toy_format.py", "test_formats.py"),
    "family": ("models/families/toy_family.py", "test_families.py"),
    "study": ("studies/toy_study", "test_studies.py"),
    "scorer": ("studies/explain/scorers/toy_scorer.py", "test_scorers.py"),
    "generator": ("generators/toy_generator.py", "test_generators.py"),
    "panel": ("report/panels/toy_panel.py", "test_panels.py"),
    "page": ("report/pages/toy_page.py", "test_pages.py"),
}


def copied(folder: Path) -> Path:
    """Return a copy of the package and of what its contracts need, with every toy written in."""
    ignored = shutil.ignore_patterns("__pycache__", "toys", "test_one_file.py")
    shutil.copytree(ROOT / "src" / "saekit", folder / "src" / "saekit", ignore=ignored)
    shutil.copytree(ROOT / "tests", folder / "tests", ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", folder)
    for place, _ in KINDS.values():
        there = folder / "src" / "saekit" / place
        assert not there.exists()
        if (TOYS / place).is_dir():
            shutil.copytree(TOYS / place, there, ignore=ignored)
        else:
            shutil.copy(TOYS / place, there)
    return folder


def process(folder: Path, *words: str) -> subprocess.CompletedProcess:
    path = os.pathsep.join([str(folder / "src"), str(folder)])
    env = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *words], cwd=folder, env=env, capture_output=True, text=True
    )


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    return copied(tmp_path_factory.mktemp("copy"))


@pytest.fixture(scope="module")
def used(copy, tmp_path_factory) -> dict[str, str]:
    base = tmp_path_factory.mktemp("used")
    world.text_file(base, n_docs=400)
    done = process(copy, str(TOYS / "use.py"), str(base))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def held(copy) -> dict[str, list[tuple[str, str]]]:
    """What each contract made of the toys: names of tests, with what failed."""
    contracts = [f"tests/contracts/{contract}" for _, contract in KINDS.values()]
    process(
        copy,
        "-m",
        "pytest",
        "-q",
        "-k",
        "toy",
        "--junitxml=out.xml",
        "-p",
        "no:cacheprovider",
        *contracts,
    )
    found: dict[str, list[tuple[str, str]]] = {}
    for case in ET.parse(copy / "out.xml").iter("testcase"):
        wrong = [c.get("message", "") + (c.text or "") for c in case if c.tag != "skipped"]
        contract = f"{case.get('classname', '').rpartition('.')[2]}.py"
        found.setdefault(contract, []).append((case.get("name", ""), "".join(wrong)))
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_listed_and_runs_from_the_command_line_and_from_python(kind, used):
    assert not used[kind], used[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_its_contract_holds_it(kind, held):
    place, contract = KINDS[kind]
    name = Path(place).stem
    tests = [(test, wrong) for test, wrong in held.get(contract, []) if name in test]
    assert len(tests) >= 4, f"{contract} has only {len(tests)} tests of {name}"
    assert not [f"{test}:\n{wrong}" for test, wrong in tests if wrong]


def test_no_toy_breaks_another_contract(held):
    """A format, say, is asked for every architecture, one that is new among them."""
    wrong = [(test, why) for tests in held.values() for test, why in tests if why]
    assert not wrong
    assert any("toy_format" in test and "toy_sae" in test for test, _ in held["test_formats.py"])
