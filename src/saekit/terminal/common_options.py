"""Options that commands of every room have, each with one name and one text of help."""

from typing import Annotated

import typer

AsJson = Annotated[bool, typer.Option("--json", help="Print one line of JSON.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Show no progress.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, or auto: cuda if there is one.")]
Dtype = Annotated[
    str,
    typer.Option(
        help="Number format of the language model: float32, bfloat16, or auto, which is bfloat16 "
        "if the hardware is fast at it."
    ),
]
Revision = Annotated[
    str | None, typer.Option(help="Commit, tag or branch of the model on the hub. [the newest]")
]
Seed = Annotated[int, typer.Option(help="Seed of everything that is drawn at random.")]
OneSite = Annotated[
    str | None, typer.Option(help="Which site to use, if several share the SAE, as L3.resid_post.")
]
