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
Model = Annotated[
    str,
    typer.Option(
        help="Language model: a name on the Hugging Face hub, a folder, or an embedded model "
        "(see: saekit list models)."
    ),
]
Corpus = Annotated[
    str, typer.Option(help="Text: packaged, stdlib, a file or glob, or a hub dataset OWNER/NAME.")
]
OtherCorpus = Annotated[
    str | None,
    typer.Option(
        help="Text to read, named as for saekit train --corpus. [the one it was trained on]"
    ),
]
SplitName = Annotated[
    str, typer.Option(help="Part of the text to read: train, validation or test.")
]
Revision = Annotated[
    str | None, typer.Option(help="Commit, tag or branch of the model on the hub. [the newest]")
]
Seed = Annotated[int, typer.Option(help="Seed of everything that is drawn at random.")]
OneSite = Annotated[
    str | None, typer.Option(help="Which site to use, if several share the SAE, as L3.resid_post.")
]
