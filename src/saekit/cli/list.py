"""`saekit list`: what there is to choose from."""

import importlib
import pkgutil
from enum import StrEnum
from typing import Annotated, Any

import typer

from saekit.terminal.common_options import AsJson
from saekit.terminal.output import emit


class Kind(StrEnum):
    """What can be listed."""

    saes = "saes"
    fits = "fits"
    metrics = "metrics"
    evals = "evals"
    suites = "suites"
    floors = "floors"
    analyses = "analyses"
    columns = "columns"
    formats = "formats"
    models = "models"
    families = "families"
    corpora = "corpora"
    tasks = "tasks"
    noises = "noises"
    truths = "truths"
    recipes = "recipes"
    studies = "studies"
    generators = "generators"
    scorers = "scorers"
    panels = "panels"
    pages = "pages"


REGISTRIES = {
    Kind.saes: "saekit.saes.base",
    Kind.fits: "saekit.training.fitted.base",
    Kind.metrics: "saekit.metrics.base",
    Kind.evals: "saekit.evals.base",
    Kind.suites: "saekit.evals.suites.base",
    Kind.floors: "saekit.evals.floors.base",
    Kind.analyses: "saekit.analysis.base",
    Kind.columns: "saekit.analysis.columns.base",
    Kind.corpora: "saekit.data.base",
    Kind.tasks: "saekit.data.labelled.base",
    Kind.noises: "saekit.studies.faithful.fakes.noises.base",
    Kind.formats: "saekit.hub.formats.base",
    Kind.families: "saekit.models.family",
    Kind.generators: "saekit.generators.base",
    Kind.scorers: "saekit.studies.explain.scorers.base",
    Kind.panels: "saekit.report.panels.base",
    Kind.pages: "saekit.report.pages.base",
}


def list_names(
    kind: Annotated[
        Kind,
        typer.Argument(
            help="What to list: architectures are saes, directions without training fits, "
            "and so on."
        ),
    ],
    as_json: AsJson = False,
) -> None:
    """List architectures, metrics, evaluations, corpora, models and so on.

    Example: saekit list saes
    """
    found = _entries(kind)
    width = max((len(e["name"]) for e in found), default=0)
    lines = [f"{e['name']:<{width}}  {e['about']}" for e in found]
    emit({kind.value: found}, as_json=as_json, lines=lines or [f"There are no {kind.value}."])


def _entries(kind: Kind) -> list[dict[str, Any]]:
    if kind in REGISTRIES:
        return importlib.import_module(REGISTRIES[kind]).registry.describe()
    if kind is Kind.models:
        from saekit.models.embedded.unpacking import known_models

        return known_models()
    if kind in (Kind.recipes, Kind.studies):
        return _modules(f"saekit.{kind.value}")
    if kind is Kind.truths:
        from saekit.studies.truth.model.presets import PRESETS

        return [
            {"name": name, "about": (make.__doc__ or "").partition("\n")[0]}
            for name, make in sorted(PRESETS.items())
        ]
    raise AssertionError(f"{kind} has no list")


def _modules(package: str) -> list[dict[str, Any]]:
    found = pkgutil.iter_modules(importlib.import_module(package).__path__)
    modules = {m.name: importlib.import_module(f"{package}.{m.name}") for m in found}
    return [
        {"name": name, "about": (module.__doc__ or "").partition("\n")[0]}
        for name, module in sorted(modules.items())
    ]
