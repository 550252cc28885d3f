"""What may import what, and where optional libraries may be imported."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2] / "src" / "saekit"
FLOORS = [
    {"core"},
    {"kernels"},
    {"saes", "metrics", "models", "data"},
    {"activations"},
    {"hub"},
    {"training", "evals", "analysis"},
    {"report", "terminal"},
    {"recipes"},
    {"studies"},
    {"cli"},
]
LEVEL = {name: i for i, names in enumerate(FLOORS) for name in names}
OPTIONAL = {"transformers", "tokenizers", "datasets", "zstandard", "pyarrow", "huggingface_hub",
            "schedulefree", "numba", "llvmlite", "triton", "scipy", "matplotlib",
            "wandb", "trackio", "tensorboard"}
# Files of compiled code need their library from the first line, so they are imported when used.
COMPILED = {
    "kernels/native.py", "kernels/vector.py",
    "kernels/triton/maps.py", "kernels/triton/bounds.py", "kernels/triton/choose.py",
}
FILES = sorted(p for p in ROOT.rglob("*.py") if p.parent != ROOT)


def imported(path: Path, top_only: bool = False) -> list[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if top_only else list(ast.walk(tree))
    names = []
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module:
            names.append(node.module)
            names += [f"{node.module}.{a.name}" for a in node.names]
        elif isinstance(node, ast.Import):
            names += [a.name for a in node.names]
    return names


def test_every_package_has_a_floor():
    packages = {p.name for p in ROOT.iterdir() if p.is_dir() and (p / "__init__.py").exists()}
    assert packages == set(LEVEL)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_file_imports_its_own_package_or_a_lower_floor(path):
    own = path.relative_to(ROOT).parts[0]
    for name in imported(path):
        if name.startswith("saekit."):
            other = name.split(".")[1]
            assert other == own or LEVEL[other] < LEVEL[own], f"{own} may not import {other}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_optional_libraries_are_imported_when_used(path):
    names = imported(path, top_only=True)
    if str(path.relative_to(ROOT)) in COMPILED:
        return
    assert not {name.split(".")[0] for name in names} & OPTIONAL
    modules = {f"saekit.{file[:-3].replace('/', '.')}" for file in COMPILED}
    assert not modules & set(names)


def test_each_optional_library_is_imported_by_one_package_of_one_floor():
    homes: dict[str, set[str]] = {}
    for path in FILES:
        for name in imported(path):
            library = name.split(".")[0]
            if library in OPTIONAL:
                homes.setdefault(library, set()).add(path.relative_to(ROOT).parts[0])
    assert all(len(packages) == 1 for packages in homes.values()), homes


def test_nothing_pickles():
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        assert not {"pickle", "cPickle", "dill", "cloudpickle"} & {
            n.split(".")[0] for n in imported(path)
        }  # fmt: skip
        for call in ("torch.save(", "torch.load(", "np.load(", "allow_pickle", "weights_only"):
            assert call not in text, (path, call)
        assert "torch.distributed.checkpoint" not in {n for n in imported(path)}, path
