"""`saekit train --activations`: from vectors of any kind to an SAE."""

from pathlib import Path
from typing import Any

from saekit.core.errors import ConfigError
from saekit.terminal.output import emit
from saekit.training.building import k_setting, put, short_digest

KIND = "fit"  # of the manifest


def is_fit(folder: Path) -> bool:
    """Tell whether a folder holds a run on vectors."""
    from saekit.core.files import read_object
    from saekit.training.record import MANIFEST

    return (folder / "fit.json").exists() and (
        not (folder / MANIFEST).exists() or read_object(folder / MANIFEST).get("kind") == KIND
    )


def refuse(**flags: Any) -> None:
    """Refuse options that say something of a language model.

    Raises:
        ConfigError: one was given.
    """
    if typed := [name.replace("_", "-") for name, value in flags.items() if value is not None]:
        raise ConfigError(
            f"`--{'`, `--'.join(typed)}` is of a language model, and --activations are vectors "
            f"that need none. Leave it out; activations of a model that saekit knows are read with "
            f"--cache."
        )


def train(
    activations: str | None,
    target: list[str] | None,
    key: str | None,
    *,
    made: dict[str, Any],
    arch: str | None,
    k: float | None,
    tokens: int | None,
    epochs: int | None,
    settings: list[str],
    start_from: Path | None,
    resume: Path | None,
    out: Path | None,
    device: str,
    quiet: bool,
    as_json: bool,
) -> None:
    """Train an SAE on vectors and say where it is."""
    from saekit.core.config import read_setting
    from saekit.core.files import read_object
    from saekit.core.result import Result, score_lines
    from saekit.training import fit_vectors
    from saekit.training.starting import started
    from saekit.training.vector_scores import open_sides

    if resume is not None:
        if settings:
            raise ConfigError(
                f"`--set` would change nothing beside --resume; got {settings[0]}. Leave it out."
            )
        fit_vectors.resume_fit(resume, device=device, shown=not quiet)
        folder = resume
    else:
        assert activations is not None
        start = None if start_from is None else started(start_from)
        if start is not None and (arch is not None or "d_sae" in made["sae"]):
            raise ConfigError(
                "`--arch` and `--d-sae` do not go with --start-from, whose SAE decides them. Leave "
                "them out."
            )
        name = made["sae"]["name"] if start is None else start.cfg.name
        raw: dict[str, Any] = {"seed": made["seed"], "sae": made["sae"] if start is None else {}}
        for path, value in map(read_setting, k_setting(name, k) + settings):
            put(raw, path, value)
        tokens, epochs = raw.pop("tokens", tokens), raw.pop("epochs", epochs)
        sides = open_sides(activations, target, key, None)
        run = fit_vectors.as_vector_fit(raw, sides, tokens=tokens, epochs=epochs, start=start)
        digest = short_digest(run.to_dict(), [side.provenance()["sha256"] for side in sides])
        stem = Path(activations).name.split("*")[0].rstrip(".-_") or "vectors"
        parts = [stem, run.sae.name, str(run.sae.d_sae), f"seed{run.seed}", digest]
        folder = out or Path("runs") / "-".join(parts)
        fit_vectors.fit_sides(run, sides, folder, start=start, device=device, shown=not quiet)
    scores = Result.read(folder / fit_vectors.SCORES).scores
    record = {
        "run": str(folder),
        "sae": str(folder / "sae"),
        "seconds": read_object(folder / "manifest.json")["seconds"],
        **{name: score.value for name, score in scores.items()},
    }
    lines = [f"SAE      {folder / 'sae'}", "of vectors that were held out:", *score_lines(scores)]
    emit(record, as_json=as_json, lines=lines)
