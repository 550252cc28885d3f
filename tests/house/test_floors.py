"""What may import what, and where optional libraries may be imported."""

import ast
import functools
from pathlib import Path

ROOT = Path(__file__).parents[2] / "src" / "saekit"
FLOORS = [
    {"core"},
    {"kernels"},
    {"saes", "metrics", "models", "data"},
    {"activations"},
    {"hub"},
    {"training", "evals", "analysis", "generators"},
    {"report", "terminal"},
    {"recipes"},
    {"studies"},
    {"explorer"},
    {"cli"},
]
LEVEL = {name: i for i, names in enumerate(FLOORS) for name in names}
OPTIONAL = {
    "transformers",
    "tokenizers",
    "datasets",
    "zstandard",
    "pyarrow",
    "huggingface_hub",
    "schedulefree",
    "numba",
    "llvmlite",
    "triton",
    "scipy",
    "sklearn",
    "umap",
    "matplotlib",
    "wandb",
    "trackio",
    "tensorboard",
    "openai",
    "vllm",
    "fastapi",
    "starlette",
    "uvicorn",
    "pydantic",
}
# Files of compiled code, and those of the server's framework, need their library from the first
# line, so they are imported when used.
COMPILED = {
    "kernels/native.py",
    "kernels/vector.py",
    "kernels/triton/maps.py",
    "kernels/triton/bounds.py",
    "kernels/triton/choose.py",
    "explorer/app.py",
    "explorer/protocol.py",
    "explorer/schemas.py",
}
FILES = sorted(p for p in ROOT.rglob("*.py") if p.parent != ROOT)


@functools.cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@functools.cache
def imported(path: Path, top_only: bool = False) -> list[str]:
    tree = parsed(path)
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


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_a_file_imports_its_own_package_or_a_lower_floor():
    wrong = []
    for path in FILES:
        own = path.relative_to(ROOT).parts[0]
        others = {name.split(".")[1] for name in imported(path) if name.startswith("saekit.")}
        wrong += [
            f"{named(path)} imports {other}"
            for other in sorted(others)
            if other != own and LEVEL[other] >= LEVEL[own]
        ]
    assert wrong == []


def test_optional_libraries_are_imported_when_used():
    modules = {f"saekit.{file[:-3].replace('/', '.')}" for file in COMPILED}
    wrong = []
    for path in FILES:
        names = imported(path, top_only=True)
        at_once = ({name.split(".")[0] for name in names} & OPTIONAL) | (modules & set(names))
        if named(path) not in COMPILED:
            wrong += [f"{named(path)} imports {name} at its top" for name in sorted(at_once)]
    assert wrong == []


def test_each_optional_library_is_imported_by_one_package_of_one_floor():
    homes: dict[str, set[str]] = {}
    for path in FILES:
        for name in imported(path):
            library = name.split(".")[0]
            if library in OPTIONAL:
                homes.setdefault(library, set()).add(path.relative_to(ROOT).parts[0])
    assert all(len(packages) == 1 for packages in homes.values()), homes


def test_nothing_pickles():
    libraries = {"pickle", "cPickle", "dill", "cloudpickle"}
    calls = ("torch.save(", "torch.load(", "np.load(", "allow_pickle", "weights_only")
    wrong = []
    for path in FILES:
        names, text = imported(path), path.read_text(encoding="utf-8")
        bad = [name for name in names if name.split(".")[0] in libraries]
        bad += [name for name in names if name == "torch.distributed.checkpoint"]
        wrong += [f"{named(path)}: {what}" for what in [*bad, *(c for c in calls if c in text)]]
    assert wrong == []


def test_the_formatter_decides_everywhere():
    places = (ROOT, ROOT.parents[1] / "tests", ROOT.parents[1] / "benchmarks")
    files = [path for place in places for path in sorted(place.rglob("*.py"))]
    mark = "fmt: " + "skip"
    assert [p for p in files if mark in p.read_text(encoding="utf-8")] == []
