"""`saekit locality`: how many input tokens a latent depends on. Its commands are in other files."""

import importlib
import pkgutil
from pathlib import Path

import typer

app = typer.Typer(
    help="How many input tokens a latent depends on, and how far back it looks.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)

# Commands that make a folder, and where when none is named; libraries needed at the end.
MAKES: dict[str, str | None] = dict.fromkeys(
    ("convert", "release", "depth", "context", "dataset", "levels")
)
NEEDS = dict.fromkeys(("draw-depth", "draw-events", "sparsity"), ("matplotlib", "figures"))

# Each file of this folder adds its commands to `app`: a new one needs no list.
for _module in sorted(m.name for m in pkgutil.iter_modules([str(Path(__file__).parent)])):
    if not _module.startswith("_"):
        importlib.import_module(f"{__name__}.{_module}")
