"""`saekit locality sparsity`: how often, where, on which tokens and with whom latents are on."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from saekit.core.errors import ConfigError
from saekit.studies.locality.commands import app
from saekit.studies.locality.commands.options import Format, OutOrBeside
from saekit.terminal.common_options import AsJson, Quiet
from saekit.terminal.output import emit

SHARES = (0.001, 0.01, 0.05, 0.1)  # of tokens; latents that are on more often are counted

if TYPE_CHECKING:
    from torch import Tensor

    from saekit.activations.latents import LatentStore
    from saekit.models.base import Tokenizer


@app.command("sparsity")
def sparsity(
    index: Annotated[
        Path, typer.Argument(help="Folder of a run that has an index, or of the index itself.")
    ],
    model: Annotated[
        str | None,
        typer.Option(
            help="Language model whose tokenizer shows the tokens, by name or folder. [the SAE's]"
        ),
    ] = None,
    threshold: Annotated[
        float, typer.Option(help="A latent is on above this activation, in act units.")
    ] = 0.0,
    pairs: Annotated[int, typer.Option(help="Pairs of latents to list; 0 is none.")] = 1000,
    most: Annotated[
        int,
        typer.Option(
            help="Number of latents whose pairs are counted, those that are on most often."
        ),
    ] = 4096,
    by: Annotated[str, typer.Option(help="What pairs are sorted by: phi or covariance.")] = "phi",
    by_token: Annotated[
        int,
        typer.Option(
            help="Also write the published covariance by token, for latents that are on at "
            "more tokens than this; 0 is none."
        ),
    ] = 0,
    strings: Annotated[
        bool, typer.Option(help="Write tokens as text, which needs the model's tokenizer, or not.")
    ] = True,
    figures: Annotated[bool, typer.Option(help="Draw the histogram of densities, or not.")] = True,
    tables: Format = "csv",
    out: OutOrBeside = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Write how often each latent is on, where in the row, at which tokens, with which others.

    Example: saekit locality sparsity demo --threshold 1
    """
    import torch

    from saekit.analysis import cofiring
    from saekit.analysis.analyse import codes_of
    from saekit.analysis.firing import Firing
    from saekit.core.config import override
    from saekit.core.files import write_json, write_tensors
    from saekit.data import table_files

    table_files.check(tables)
    if pairs < 0 or by_token < 0:
        raise ConfigError(f"`--pairs` and `--by-token` are 0 or more; got {pairs} and {by_token}.")
    store = codes_of(index, shown=not quiet)
    firing = Firing(threshold=threshold)
    together = override(
        cofiring.Cofiring(threshold=threshold),
        [f"pairs={max(pairs, 1)}", f"most={most}", f"by={by}"],
    )
    fired = firing.measure(store)
    table = firing.table(fired)
    if strings:
        tokenizer = _tokenizer(store, model)
        table.columns["top_tokens"] = [
            ", ".join(f"{_piece(tokenizer, i)!r}({n})" for i, n in each)
            for each in firing.top_tokens(fired.triggers, store.d_sae)
        ]
    folder = out or _store(index).parent / "locality" / "sparsity"
    table_files.write(table, folder / "feature_sparsity", tables)
    if pairs:
        table_files.write(together.run(store), folder / "cofiring", tables)
    if by_token:
        many = torch.tensor(table.columns["n_trigger_tokens"]) > by_token
        leading = many.nonzero()[:, 0]
        write_tensors(
            folder / "covariance_by_token.safetensors",
            {"latents": leading, "covariance": cofiring.by_token(fired, leading).float()},
        )
    density = torch.tensor(table.columns["density"], dtype=torch.float64)
    drawn, missing = _drawn(density, folder, fired.n_tokens, threshold) if figures else ([], [])
    record = {
        "sparsity": str(folder),
        "tokens": fired.n_tokens,
        "threshold": threshold,
        "latents": store.d_sae,
        **fired.summary(SHARES),
    }
    write_json(folder / "summary.json", record | {"card": store.meta.get("card")})
    record |= {"figures": drawn, "missing": missing}
    lines = [
        f"sparsity {folder}: {fired.n_tokens:,} tokens, {store.d_sae} latents, "
        f"{record['dead']} never over {threshold:g}",
        "over     " + ", ".join(f"{s:g} of tokens: {record[f'over_{s:g}']}" for s in SHARES),
        *(f"figure   {path}" for path in drawn),
        *(f"left out {m}" for m in missing),
    ]
    if not quiet or as_json:
        emit(record, as_json=as_json, lines=lines)


def _drawn(
    density: "Tensor", folder: Path, n_tokens: int, threshold: float
) -> tuple[list[str], list[str]]:
    """Draw the histogram; return its path, or why there is none."""
    from saekit.core.errors import DataError
    from saekit.studies.locality.figures import feature_sparsity

    path = folder / "figures" / "feature_sparsity.png"
    try:
        feature_sparsity.draw(density, path, n_tokens, threshold)
    except DataError as error:
        return [], [f"{path.name}: {error}"]
    return [str(path)], []


def _store(folder: Path) -> Path:
    inner = folder / "index"
    return inner if inner.is_dir() else folder


def _tokenizer(store: "LatentStore", model: str | None) -> "Tokenizer":
    """Return the tokenizer of a model, or of that which the store's card names."""
    from saekit.core.errors import FormatError
    from saekit.models.hf import load

    if model is not None:
        return load(model, check=False).tokenizer
    card = store.meta.get("card") or {}
    name = card.get("run", {}).get("model") or card.get("model", {}).get("name")
    if not name:
        raise FormatError(
            f"{store.folder} does not say which model it is of. Name it with --model, or leave "
            f"strings out with --no-strings."
        )
    return load(name, revision=card.get("run", {}).get("revision"), check=False).tokenizer


def _piece(tokenizer: "Tokenizer", token: int) -> str:
    return tokenizer.pieces([token])[0]
