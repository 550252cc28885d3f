"""Publishing: an SAE as one folder that saekit and sae-lens both load, to the hub and back.

The folder has SAELens' layout (cfg.json, sae_weights.safetensors) where SAELens can hold the SAE,
and saekit's own (config.json, card.json, weights.safetensors), which holds only what the other does
not: no weight is stored twice. README.md is the card, eval/ has results.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from saekit.core.errors import ConfigError, ResourceError, SaekitError
from saekit.core.files import sha256_of, write_text
from saekit.core.hub_access import hub_library, listed, reason_of, silent
from saekit.core.result import Result
from saekit.hub.formats import _sae_lens_write, sae_lens
from saekit.hub.formats.base import check_unscaled, registry
from saekit.hub.model_card import MARK, model_card
from saekit.hub.names import is_name, resolving
from saekit.hub.native import load, save_next_to
from saekit.hub.trained import TrainedSAE
from saekit.models.sites import UNKNOWN

README, RESULTS = "README.md", "eval"
LENS = "sae_lens"
Results = Result | Sequence[Result] | None


@dataclass(frozen=True, kw_only=True)
class Pushed:
    """What was uploaded.

    Args:
        name: what `saekit.load` takes, at the commit that was made.
        url: of the commit.
        sha256: of each file, by its path in the repository.
        notes: what the user must know.
    """

    name: str
    url: str
    sha256: dict[str, str]
    notes: tuple[str, ...] = field(default=())

    def __str__(self) -> str:
        return self.url


def card(sae: TrainedSAE | Path | str, results: Results = None) -> str:
    """Return the README.md of an SAE: what it is, what it was made from, how good it is.

    Args:
        sae: the SAE, or where it is.
        results: measured of it; None: those in the folder `eval` next to it.

    Raises: as `saekit.load`.
    """
    loaded = _loaded(sae)
    return model_card(loaded, _results(loaded, results), lens=_why_not_sae_lens(loaded))


def push(  # noqa: PLR0913 - what an upload can be told
    sae: TrainedSAE | Path | str,
    repo: str,
    *,
    path_in_repo: str | None = None,
    private: bool = True,
    revision: str | None = None,
    results: Results = None,
) -> Pushed:
    """Upload an SAE to ``owner/name`` of the Hugging Face hub, in one commit.

    An upload that was broken off goes on when it is repeated: weights that the hub already has are
    not sent again. The token is that of `hf auth login`, or HF_TOKEN.

    Args:
        sae: the SAE, or where it is.
        repo: owner and name; made where it does not exist.
        path_in_repo: its folder there; None: the name of its site; "": the repository itself.
        private: whether others cannot see a repository that is made.
        revision: branch to commit to, made where it does not exist; None: the main branch.
        results: measured of it, for the card; None: those in the folder `eval` next to it.

    Raises:
        ConfigError: the name of the repository or the path is not one.
        ResourceError: the hub cannot be reached, or refuses.
        MissingExtraError: huggingface_hub is not installed.
    """
    _check_names(repo, path_in_repo)
    library = hub_library()
    loaded = _loaded(sae)
    path = _default_path(loaded) if path_in_repo is None else path_in_repo.strip("/")
    api = library.HfApi()
    with tempfile.TemporaryDirectory() as folder, silent():
        top = Path(folder)
        lens = lay(loaded, top / path, results, repo=repo, path=path)
        notes = [f"sae-lens cannot read it: {lens}"] if lens else []
        try:
            api.create_repo(repo, private=private, exist_ok=True)
            if revision is not None:
                api.create_branch(repo, branch=revision, exist_ok=True)
            _, there = listed(library, repo, revision)
            others = sorted(
                f[: -len("/config.json")]
                for f in there
                if f.endswith("/config.json") and f != f"{path}/config.json"
            )
            keeps = README in there and not _is_ours(library, repo, revision)
            if keeps:
                notes.append(f"the repository's own {README} was left as it is")
            if path == "" and keeps:
                (top / README).unlink()
            elif path and not keeps:
                text = (top / path / README).read_text(encoding="utf-8")
                write_text(top / README, _with_others(text, others))
            files = sorted(p for p in top.rglob("*") if p.is_file())
            sums = {p.relative_to(top).as_posix(): sha256_of(p) for p in files}
            done = api.upload_folder(
                repo_id=repo,
                folder_path=top,
                revision=revision,
                commit_message=f"Upload {path or 'SAE'} with saekit",
            )
        except SaekitError:
            raise
        except Exception as error:  # of many libraries: the network's, the hub's, the token's
            raise ResourceError(
                f"`{repo}` could not be written: {reason_of(error)}. Check the name (owner/name), "
                f"the network, and that you are logged in (hf auth login). Repeat it to go on: "
                f"what has arrived is not sent again."
            ) from error
    name = f"hf:{repo}@{done.oid}/{path}".rstrip("/")
    return Pushed(name=name, url=str(done.commit_url), sha256=sums, notes=tuple(notes))


def pull(name: str, folder: Path | str, *, catalogue: Path | str | None = None) -> TrainedSAE:
    """Fetch a published SAE into a folder, with all that its registry says written into it.

    The folder is as `push` lays it: saekit loads it without a network or a registry, and so does
    sae-lens where it can hold the SAE. What was published stays in the hub's cache as it is.

    Args:
        name: of the SAE (docs/published.md).
        folder: to make.
        catalogue: published SAEs of your own.

    Raises: as `saekit.load`; also ConfigError: the folder is not empty, or the name is no name.
    """
    from saekit.hub.published import fetched, opened_from

    folder = Path(folder)
    if not is_name(name):
        raise ConfigError(
            f"`{name}` is not the name of a published SAE, which reads saelens:RELEASE/ID or "
            f"hf:OWNER/REPO/PATH. To copy an SAE of this machine: saekit convert."
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} is not an empty folder. Name another.")
    wanted, files = fetched(name, catalogue)
    loaded = opened_from(wanted, files, scaled=True)
    lay(loaded, folder, _read_results(files.at / RESULTS), repo="", path=folder.name)
    return replace(loaded, folder=folder)


def lay(loaded: TrainedSAE, folder: Path, results: Results = None, *, repo: str, path: str) -> str:
    """Write an SAE as it is published.

    Args:
        loaded: the SAE.
        folder: to make.
        results: measured of it; None: those in the folder `eval` next to it.
        repo: where it goes, for the card; "": it stays in a folder of this machine.
        path: its folder there.

    Returns:
        Why sae-lens cannot read it; "": it can.
    """
    lens = _why_not_sae_lens(loaded)
    if not lens:
        registry.get(LENS)().write(loaded.sae, loaded.card, folder)
    theirs = None if lens else folder / sae_lens.WEIGHTS
    save_next_to(loaded.sae, loaded.card, folder, theirs)
    found = _results(loaded, results)
    for result in found:
        result.write(folder / RESULTS / f"{result.name}.json")
    names = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != README)
    sums = {p.relative_to(folder).as_posix(): sha256_of(p) for p in names}
    text = model_card(loaded, found, repo=repo, path=path, lens=lens, files=sums)
    write_text(folder / README, text)
    return lens


def _why_not_sae_lens(loaded: TrainedSAE) -> str:
    """Return why SAELens' layout cannot hold an SAE; "": it can."""
    try:
        check_unscaled(loaded.card, LENS)
        _sae_lens_write.convert(loaded.sae, loaded.card)
    except ConfigError as error:
        return str(error).replace("Use --format saekit.", "").strip()
    return ""


def _loaded(sae: TrainedSAE | Path | str) -> TrainedSAE:
    return sae if isinstance(sae, TrainedSAE) else load(sae, scaled=True)


def _results(loaded: TrainedSAE, results: Results) -> list[Result]:
    if isinstance(results, Result):
        return [results]
    if results is not None:
        return list(results)
    return [] if loaded.folder is None else _read_results(loaded.folder / RESULTS)


def _read_results(folder: Path) -> list[Result]:
    return [Result.read(path) for path in sorted(folder.glob("*.json"))]


def _check_names(repo: str, path: str | None) -> None:
    """Refuse names that the hub has no place for, before anything is loaded.

    Raises:
        ConfigError: one is.
    """
    found = resolving.HF.fullmatch(repo)
    if found is None or found[2] or found[3]:
        raise ConfigError(f"A repository of the hub reads OWNER/REPO; got `{repo}`.")
    parts = path.strip("/").split("/") if path else []
    if any(part in ("", ".", "..") or "\\" in part for part in parts):
        raise ConfigError(f"A path in a repository reads as layer_3/topk; got `{path}`.")


def _default_path(loaded: TrainedSAE) -> str:
    """Return a folder named after the site, as most repositories of SAEs have it."""
    pair = loaded.card.pair
    if UNKNOWN in pair.sites:
        raise ConfigError(
            "The site of this SAE is not known, so its folder has no name of its own. Name one: "
            "path_in_repo=, on a command line --path."
        )
    return "-".join(dict.fromkeys(str(site) for site in pair.sites)).replace(":", "-")


def _is_ours(library: object, repo: str, revision: str | None) -> bool:
    """Return whether the page of a repository was written by `push`."""
    path = library.hf_hub_download(repo, README, revision=revision)  # type: ignore[attr-defined]
    return MARK in Path(path).read_text(encoding="utf-8", errors="replace")


def _with_others(text: str, others: Sequence[str]) -> str:
    """Return a card with links to the other SAEs of its repository."""
    if not others:
        return text
    listed = "\n".join(f"- [{other}]({other}/{README})" for other in others)
    return f"{text}\n## Other SAEs in this repository\n\n{listed}\n"
