"""Toy: a group of columns in one file."""

from typing import ClassVar

from saekit.analysis.columns.base import Columns, registry


@registry.register
class ToyColumns(Columns):
    """How large each latent's number is, and whether it is odd."""

    name: ClassVar[str] = "toy_columns"
    columns: ClassVar[dict[str, tuple[str, str, str]]] = {
        "toy_half": ("half", "latents", "Half of the latent's number."),
        "toy_kind": ("kind", "", "Whether its number is even or odd."),
    }

    def run(self, made):
        numbers = range(made.store.d_sae)
        kinds = ["odd" if i % 2 else "even" for i in numbers]
        return {"toy_half": [i / 2 for i in numbers], "toy_kind": kinds}
