"""`saekit corpus`: a model's own text, and measures of any text."""

from pathlib import Path
from typing import Annotated

import typer

from saekit.terminal.common_options import AsJson, Model, Quiet, Revision, Seed
from saekit.terminal.output import emit, note_lines
from saekit.terminal.settings_help import lists

app = typer.Typer(
    help="Have a model write text of its own; measure and compare texts.", no_args_is_help=True
)

MAKES = {"generate": None, "measure": "measures"}


@app.command("generate", cls=lists("saekit.studies.corpus.generate:Generation"))
def generate_(
    out: Annotated[
        Path,
        typer.Option(
            help="Folder to write to; if it was begun with the same settings, it is continued."
        ),
    ],
    model: Model = "smollm2-135m",
    tokens: Annotated[int, typer.Option(help="Least number of tokens to write.")] = 1_000_000,
    prompt: Annotated[
        list[str] | None,
        typer.Option(
            help="Text that sequences begin with. Repeatable: they are taken in turn. [BOS alone]"
        ),
    ] = None,
    prompts: Annotated[
        str | None,
        typer.Option(help="Texts that sequences begin with, one per document, as FILE.jsonl."),
    ] = None,
    batch_rows: Annotated[int, typer.Option(help="Most sequences to write at the same time.")] = 32,
    writer: Annotated[str, typer.Option(help="What writes: local, or vllm on GPUs.")] = "local",
    revision: Revision = None,
    dtype: Annotated[
        str,
        typer.Option(
            help="Number format of the language model: float32, which writes the same text at any "
            "batch size, or auto, which is faster."
        ),
    ] = "float32",
    device: Annotated[
        str, typer.Option(help="cpu, cuda, cuda:N, or auto: cuda if there is one.")
    ] = "auto",
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="A setting, as temperature=0.8, of those listed below. Repeatable."
        ),
    ] = None,
    seed: Seed = 0,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Have a language model write text; after a stop, the same command continues.

    Example: saekit corpus generate --model smollm2-135m --tokens 100k --out own
    """
    from saekit.core.config import override
    from saekit.core.errors import ConfigError
    from saekit.data.base import SPLITS
    from saekit.data.open import open_corpus
    from saekit.models.hf import load
    from saekit.studies.corpus.generate import Generation, generate
    from saekit.studies.corpus.writers import VLLM, Local

    how = override(Generation(seed=seed), settings or [])
    if writer not in (Local.name, VLLM.name):
        raise ConfigError(f"`--writer` is local or vllm; got {writer!r}.")
    texts = list(prompt or [])
    if prompts is not None:
        corpus = open_corpus(prompts)
        read = [d for part in SPLITS for d in corpus.documents(part)]
        if not read or (other := {d.kind for d in read} - {"text"}):
            what = " and ".join(sorted(other)) if read else "no document"
            raise ConfigError(f"`--prompts` takes a corpus of texts; {prompts} holds {what}.")
        texts += [d.text for d in read]
    found = generate(
        VLLM(model, revision, dtype, how.length or 1024)
        if writer == VLLM.name
        else load(model, revision=revision, dtype=dtype, device=device),
        out,
        tokens=tokens,
        how=how,
        prompts=texts,
        batch_rows=batch_rows,
        shown=not quiet,
    )
    counts = found.counts
    lines = [
        f"tokens   {counts['tokens']:,} in {counts['sequences']:,} sequences",
        f"ended    {counts['ended']:,} by themselves, {counts['duplicates']:,} copies left out",
        *note_lines(found.notes),
        f"corpus   {out}",
    ]
    emit(counts | {"folder": str(out), "notes": found.notes}, as_json=as_json, lines=lines)


@app.command("measure", cls=lists("saekit.studies.corpus.measure:Measurement"))
def measure_(
    corpora: Annotated[
        list[str],
        typer.Argument(
            metavar="CORPUS...",
            help="Texts to measure, named as for saekit train --corpus; NAME=CORPUS gives one a "
            "name.",
        ),
    ],
    model: Model = "smollm2-135m",
    out: Annotated[Path, typer.Option(help="Folder to write scores and figures to.")] = Path(
        "measures"
    ),
    reference: Annotated[
        str | None,
        typer.Option(
            help="Text in which runs of 13 tokens are looked up, to find contamination. [none]"
        ),
    ] = None,
    figures: Annotated[
        str | None, typer.Option(help="File type of figures: svg, png or pdf; none draws none.")
    ] = "svg",
    device: Annotated[
        str, typer.Option(help="cpu, cuda, cuda:N, or auto: cuda if there is one.")
    ] = "auto",
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="A setting, as tokens=500k, of those listed below. Repeatable."),
    ] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Measure texts side by side: coverage, first tokens, entropy, n-grams, embeddings.

    Example: saekit corpus measure own packaged --model smollm2-135m --out measures
    """
    from saekit.core.config import override
    from saekit.core.errors import ConfigError
    from saekit.data.open import open_corpus
    from saekit.models.hf import load
    from saekit.report import style
    from saekit.studies.corpus.measure import Measurement, measure, write

    if figures not in (None, "none"):
        style.check(f".{figures}")
    named: dict[str, str] = {}
    for word in corpora:
        head, mark, rest = word.partition("=")
        named_so = mark and not Path(word).exists()  # a path may have such a sign
        name, text = (head, rest) if named_so else (Path(word.rstrip("/")).name, word)
        if name in named:
            raise ConfigError(f"Two corpora are called {name}. Name them: a={text} b=...")
        named[name] = text
    lm = load(model, device=device)
    found = measure(
        {name: open_corpus(text) for name, text in named.items()},
        lm,
        override(Measurement(), settings or []),
        reference=None if reference is None else open_corpus(reference),
        shown=not quiet,
    )
    if figures in (None, "none"):
        found.result.write(out / "measures.json")
        found.table().write_csv(out / "measures.csv")
        files = [out / "measures.json", out / "measures.csv"]
    else:
        files = write(found, out, lm, f".{figures}")
    record = {name: score.value for name, score in found.result.scores.items()}
    emit(
        record | {"files": [str(p) for p in files], "notes": found.result.provenance["notes"]},
        as_json=as_json,
        lines=[*str(found).splitlines(), *(f"file     {p}" for p in files)],
    )
