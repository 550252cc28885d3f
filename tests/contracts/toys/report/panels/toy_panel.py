"""Toy: a panel in one file."""

from typing import ClassVar

from saekit.core.files import read_object
from saekit.report import blocks
from saekit.report.panels.base import Panel, found, registry


@registry.register
class ToyPanel(Panel):
    """What a file of numbers says of each latent."""

    name: ClassVar[str] = "toy_panel"
    title: ClassVar[str] = "Toy"
    about: ClassVar[str] = "A number of each latent."

    def blocks(self, run, index, latent):
        for path in found(run, ("toy_panel.json",)):
            return [blocks.facts([blocks.fact("toy", read_object(path)["toy"][latent], unit="u")])]
        return None
