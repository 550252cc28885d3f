"""`saekit locality levels`: entropy of the tokens that latents are on at, and of those promoted."""

from pathlib import Path
from typing import Annotated, Any

import typer

from saekit.core.errors import ConfigError, FormatError
from saekit.studies.locality.commands import app
from saekit.studies.locality.commands.options import (
    Layers,
    Out,
    PresetName,
    Sites,
    float32_model,
    opened,
)
from saekit.terminal.common_options import AsJson, Device, Quiet
from saekit.terminal.output import emit
from saekit.terminal.sae_options import HintOptions, takes

NAME = "feature_level_entropies"


@app.command("levels")
@takes(HintOptions)
def levels(
    saes: Annotated[
        list[Path],
        typer.Argument(metavar="SAE...", help="Folders of SAEs of one model, each with an index."),
    ],
    site: Sites = None,
    layers: Layers = None,
    preset: PresetName = None,
    index: Annotated[
        list[Path] | None,
        typer.Option(help="Index of each SAE, in the same order. Repeatable. [SAE/index]"),
    ] = None,
    threshold: Annotated[
        float, typer.Option(help="A latent is on above this activation, in act units.")
    ] = 1.0,
    min_count: Annotated[
        int, typer.Option(help="Number of tokens that a latent must be on at to have an H_vocab.")
    ] = 20,
    device: Device = "auto",
    out: Out = Path("runs/locality-levels"),
    quiet: Quiet = False,
    as_json: AsJson = False,
    *,
    sae: HintOptions,
) -> None:
    """Write for each latent the entropy of the tokens it is on at, and of those it promotes.

    Example: saekit locality levels demo --threshold 1 --out demo/levels
    """
    from saekit.core.result import Table
    from saekit.studies.locality.latents.levels import Level, Levels, published
    from saekit.studies.locality.published import dataset

    config = Levels(threshold=threshold, min_count=min_count)
    if out.exists() and any(not path.name.startswith(NAME) for path in out.iterdir()):
        raise ConfigError(f"{out} holds other files. Name another folder with --out.")
    found: dict[int, Level] = {}
    about: dict[str, Any] = {}
    indexes = index or [folder / "index" for folder in saes]
    if len(indexes) != len(saes):
        raise ConfigError(f"Give an --index for each SAE; got {len(indexes)} for {len(saes)}.")
    for folder, codes in zip(saes, indexes, strict=True):
        layer, level, said = _of((folder, codes), (site, layers, preset), (sae, device), config)
        if layer in found:
            raise ConfigError(f"Two SAEs are of layer {layer}; the file has one of each layer.")
        if about and about["model_id"] != said["model_id"]:
            raise ConfigError(
                f"The SAEs are of several models, {about['model_id']} and {said['model_id']}. Run "
                f"once for each."
            )
        found[layer], about = level, about or said
    files = dataset.write(out / NAME, published(found, config, about))
    columns: dict[str, list[Any]] = {"layer": [], "latent": []}
    for layer, level in sorted(found.items()):
        columns["layer"] += [layer] * len(level.totals)
        columns["latent"] += list(range(len(level.totals)))
        for name, values in level._asdict().items():
            columns.setdefault(name, []).extend(values.tolist())
    Table(columns=columns, units={"H_vocab": "bits", "H_logit": "bits"}).write_csv(
        out / f"{NAME}.csv"
    )
    means = {layer: level.means() for layer, level in found.items()}
    lines = [
        f"layer {i}: mean H_vocab {a:.3f} bits, H_logit {b:.3f}"
        for i, (a, b) in sorted(means.items())
    ]
    if not quiet or as_json:
        record = {"levels": str(out), "files": [str(f) for f in files], "means": means}
        emit(record, as_json=as_json, lines=[*lines, f"files    {out}"])


def _of(
    folders: tuple[Path, Path],
    where: tuple[Any, Any, Any],
    named: tuple[HintOptions, str],
    config: Any,
) -> tuple[int, Any, dict[str, Any]]:
    """Return the layer of an SAE, its entropies, and what they are of.

    Args:
        folders: of the SAE, and of its index.
        where: site, layers and preset.
        named: what the user says of the SAE, and device.
        config: how they are taken.

    Raises:
        FormatError: the SAE reads or writes no residual stream, or has no index.
    """
    import torch

    from saekit.analysis.firing import Firing
    from saekit.studies.locality.commands.events import open_index
    from saekit.studies.locality.latents.levels import Level, promoted_bits

    folder, codes = folders
    loaded = opened(folder, *where, named[0])
    store = open_index(codes, loaded)
    directions = loaded.sae.directions().detach()
    directions = directions.reshape(-1, *directions.shape[-2:])[0]
    lm = float32_model(loaded, named[1], named[0].model)
    unembedding, site = lm.unembedding().detach(), loaded.card.site
    if site.layer is None or directions.shape[1] != unembedding.shape[1]:
        raise FormatError(
            f"{folder} is of {site}, whose directions are {directions.shape[1]} wide; the "
            f"unembedding reads {unembedding.shape[1]}. Levels are of the residual stream."
        )
    firing = Firing(threshold=config.threshold, min_count=config.min_count)
    fired = firing.measure(store)
    bits = torch.tensor(firing.table(fired).columns["trigger_bits"], dtype=torch.float64)
    level = Level(bits, promoted_bits(directions.to(unembedding), unembedding), fired.counts)
    about = {
        "preset": loaded.card.model.get("name"),
        "model_id": lm.name,
        "vocab_size": len(unembedding),
        "corpus_tokens": store.n_tokens,
    }
    return site.layer, level, about
