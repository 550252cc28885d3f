"""`saekit twins`: which latents other SAEs, of another seed as a rule, have too."""

from pathlib import Path
from typing import Annotated

import typer

from saekit.terminal.common_options import AsJson
from saekit.terminal.output import emit


def twins(
    run: Annotated[Path, typer.Argument(help="Folder of a run or an SAE.")],
    others: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Folders of SAEs to compare it with. [those of its sweep with the same site "
            "and width]"
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder to write the tables to. [RUN/analysis]")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Find for each latent the one in other SAEs whose direction is most like its own.

    Example: saekit twins runs/seeds/seed0
    """
    from saekit.analysis.twins import NAME, described
    from saekit.analysis.twins import twins as compare
    from saekit.core.lock import claimed_file
    from saekit.hub.names import results_folder

    folder = out or results_folder(run) / "analysis"
    with claimed_file(folder / f"{NAME}.csv", "saekit twins", "No table was written."):
        found = compare(run, others or [])
        path = found.write(folder)
    said = described(found)
    lines = [
        f"compared with {', '.join(said['others'])}",
        f"  {'mean cosine with the best match':<38} {said['stable_mean']:.4g}",
        f"  {'by chance (random directions)':<38} {said['chance']:.4g}",
        *(
            f"  {f'latents with {t} or more':<38} {n:,} of {said['latents']:,}"
            for t, n in said["latents_at_least"].items()
        ),
        f"table    {path}",
    ]
    emit({"table": str(path), **said}, as_json=as_json, lines=lines)
