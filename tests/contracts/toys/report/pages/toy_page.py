"""Toy: a page in one file."""

from typing import ClassVar

from saekit.core.files import read_object
from saekit.report import blocks
from saekit.report.pages.base import Page, registry


@registry.register
class ToyPage(Page):
    """What a folder of a toy holds."""

    name: ClassVar[str] = "toy_page"
    title: ClassVar[str] = "Toys"
    about: ClassVar[str] = "How many there are."

    def find(self, folder):
        return (folder / "toys.json").is_file()

    def blocks(self, folder):
        return [blocks.facts([blocks.fact("toys", read_object(folder / "toys.json")["n"])])]
