"""What processes must agree on before the first step: the first of them decides."""

import json
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from saekit.activations.harvest import Harvest
from saekit.core import processes
from saekit.core.files import read_object
from saekit.core.processes import Group
from saekit.saes.base import Scaling
from saekit.training.run import Run
from saekit.training.scaling import Scalings


def as_begun(run: Run, out: Path, resume: bool, group: Group) -> tuple[Run, bool]:
    """Return the run with its streams decided, and whether it goes on. Collective.

    A run that goes on has the streams it began with, on however many processes. Processes that
    torchrun started anew go on with the run in the folder, where there is one.
    """

    def decide() -> tuple[int | None, bool]:
        goes_on = resume or (processes.restarted() and (out / "run.json").exists())
        if run.streams is not None:
            return run.streams, goes_on
        if goes_on and (out / "run.json").exists():
            return read_object(out / "run.json").get("streams"), goes_on
        return (group.size if group.size > 1 else None), goes_on

    streams, goes_on = json.loads(group.texts(json.dumps(group.on_first(decide)))[0])
    return (run if streams == run.streams else replace(run, streams=streams)), goes_on


def agreed(harvest: Harvest, found: Scalings, group: Group) -> Scalings:
    """Return the scalings of the first process, and give the harvest its rules. Collective.

    Every process computed them from the same rows; on unlike processors their last bits may
    differ.
    """
    if group.size == 1:
        return found

    def number(value: float) -> float:
        return float(group.from_first(torch.tensor(value, dtype=torch.float64)))

    def maybe(value: Tensor | None) -> Tensor | None:
        return None if value is None else group.from_first(value)

    def scaling(own: Scaling) -> Scaling:
        mean, scale = group.from_first(own.mean), number(own.scale)
        return Scaling(mean, scale, maybe(own.matrix), maybe(own.site_scale))

    def both(x: Scaling, y: Scaling) -> tuple[Scaling, Scaling]:
        first = scaling(x)
        return first, (first if y is x else scaling(y))

    for name, rule in harvest.rules.items():
        harvest.rules[name] = rule._replace(median_norm=number(rule.median_norm))
    for site, (x, y) in harvest.scalings.items():
        harvest.scalings[site] = both(x, y)
    return Scalings(*both(found.x, found.y), group.from_first(found.baseline))
