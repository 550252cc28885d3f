"""The options of every command that asks a generator for text, declared once."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from saekit.generators.base import Generator
    from saekit.generators.limits import Limits

PARTLY, BUDGET = 3, 4  # exit codes: done in part, a limit reached

ByModel = Annotated[
    str | None,
    typer.Option(
        "--by-model",
        help="Language model that answers, by name or folder. [the generator's default]",
    ),
]
BaseURL = Annotated[
    str | None,
    typer.Option("--base-url", help="Address of the server for --by endpoint, up to and with /v1."),
]
BySettings = Annotated[
    list[str] | None,
    typer.Option("--by-set", help="A setting of what answers, as small=false. Repeatable."),
]
LimitSettings = Annotated[
    list[str] | None,
    typer.Option(
        "--limit", help="A limit on requests, as usd=2, requests=500 or concurrency=4. Repeatable."
    ),
]


def generator_of(
    by: str, model: str | None, base_url: str | None, settings: list[str] | None
) -> "Generator":
    """Return the generator that the options name.

    Raises:
        UnknownNameError: there is none of this name.
        ConfigError: it has no such setting, or refuses the value.
    """
    from saekit.core.config import override
    from saekit.generators.base import registry

    given: dict[str, Any] = {k: v for k, v in (("model", model), ("base_url", base_url)) if v}
    return override(registry.get(by).from_dict(given), settings or [])


def limits_of(settings: list[str] | None) -> "Limits":
    """Return the limits that the options set.

    Raises:
        ConfigError: there is no such limit, or it refuses the value.
    """
    from saekit.core.config import override
    from saekit.generators.limits import Limits

    return override(Limits(), settings or [])


def plan_lines(found: "Mapping[str, Any]") -> list[str]:
    """Return what a plan says, a line each: latents, requests, tokens, cost.

    Args:
        found: as `saekit.generators.asking.planned` and the number of latents.
    """
    cost = "no prices given" if found["usd"] is None else f"{found['usd']:.2f} dollars at most"
    return [
        f"latents  {found['latents']:,}",
        f"requests {found['requests']:,} (and {found['known']:,} answered before)",
        f"tokens   {found['tokens_read']:,} read, {found['tokens_written']:,} written at most",
        f"cost     {cost}",
    ]
