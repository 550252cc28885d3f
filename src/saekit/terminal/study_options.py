"""The options of every command of a study that asks a generator about latents, declared once."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from saekit.terminal.common_options import OneSite, Quiet, SplitName
from saekit.terminal.generator_options import (
    BaseURL,
    ByModel,
    BySettings,
    LimitSettings,
    generator_of,
    limits_of,
)

if TYPE_CHECKING:
    from saekit.core.config import Config
    from saekit.data.base import Split
    from saekit.generators.base import Generator
    from saekit.generators.limits import Limits

C = TypeVar("C", bound="Config")


@dataclass(frozen=True, kw_only=True)
class StudyOptions:
    """Which latents, from which text, and who is asked."""

    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder to write to; a run that is there is continued. [RUN/sensitivity "
            "or RUN/explain]"
        ),
    ] = None
    latent: Annotated[
        list[int] | None,
        typer.Option("--latent", help="Number of a latent to take. Repeatable. [drawn at random]"),
    ] = None
    tokens: Annotated[int, typer.Option(help="Tokens of text to look for examples in.")] = 300_000
    by: Annotated[
        str,
        typer.Option(
            "--by",
            help="What answers the requests: local (a model on this machine), endpoint (a "
            "server), or another (see: saekit list generators).",
        ),
    ] = "local"
    by_model: ByModel = None
    base_url: BaseURL = None
    by_set: BySettings = None
    limit: LimitSettings = None
    corpus: Annotated[
        str | None,
        typer.Option(
            help="Text to take examples from, named as for saekit train --corpus. [the one it was "
            "trained on]"
        ),
    ] = None
    split: SplitName = "train"
    site: OneSite = None
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="A setting, of those listed below. Repeatable."),
    ] = None
    seed: Annotated[int, typer.Option(help="Seed that decides latents, examples and prompts.")] = 0
    quiet: Quiet = False

    def generator(self) -> "Generator":
        """Return who is asked.

        Raises:
            UnknownNameError: there is none of this name.
            ConfigError: it has no such setting, or refuses the value.
        """
        return generator_of(self.by, self.by_model, self.base_url, self.by_set)

    def limits(self) -> "Limits":
        """Return what may be spent.

        Raises:
            ConfigError: there is no such limit, or it refuses the value.
        """
        return limits_of(self.limit)

    def config(self, study: type[C], n_latents: int) -> C:
        """Return the settings of a study that has `n_latents`, `tokens` and `seed`.

        Args:
            study: the class.
            n_latents: how many are drawn.

        Raises:
            ConfigError: there is no such setting, or it refuses the value.
        """
        from saekit.core.config import override

        given = {"n_latents": n_latents, "tokens": self.tokens, "seed": self.seed}
        return override(study(**given), self.settings or [])

    def part(self) -> "Split":
        """Return which part of the text.

        Raises:
            ConfigError: there is no such part.
        """
        from saekit.data.base import as_split

        return as_split(self.split)
