"""Commands that go on with what a folder holds, with the settings that it was begun with."""

from typing import Any

from typer.core import TyperCommand
from typing_extensions import override

from saekit.core.errors import ConfigError


def goes_on(kind: type[TyperCommand], **folders: tuple[str, ...]) -> type[TyperCommand]:
    """Return the class of a command that refuses options which would change nothing.

    Args:
        kind: the class of the command otherwise.
        folders: of each option that names such a folder, by the name of its parameter: the
            parameters that count beside it.
    """

    class GoesOn(kind):
        @override
        def invoke(self, ctx: Any) -> Any:
            for folder, counts in folders.items():
                if ctx.params[folder] is not None:
                    _refuse_others(ctx, folder, counts)
            return super().invoke(ctx)

    return GoesOn


def _refuse_others(ctx: Any, folder: str, counts: tuple[str, ...]) -> None:
    every = {p.name: p.opts[0] for p in ctx.command.params}
    typed = [name for name in every if _typed(ctx, name)]
    # Two folders at once are the command's own to refuse.
    if idle := [every[n] for n in typed if n not in counts and n != folder]:
        raise ConfigError(
            f"`{'`, `'.join(idle)}` would change nothing beside {every[folder]}: what is in the "
            f"folder goes on as it was begun. Beside it only "
            f"{', '.join(every[n] for n in every if n in counts)} count."
        )


def _typed(ctx: Any, name: str) -> bool:
    source = ctx.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"
