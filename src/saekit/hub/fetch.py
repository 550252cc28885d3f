"""Fetching an SAE from the hub: the files that a layout may need, of one commit, and no others."""

import contextlib
import os
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from saekit.core.errors import ConfigError, FormatError, ResourceError, UnknownNameError, nearest
from saekit.core.files import sha256_of
from saekit.core.hub_access import (
    cached_repository,
    hub_border,
    hub_cache,
    hub_library,
    listed,
    refusals,
    remember,
    silent,
)

TEXT = (".json", ".yaml", ".yml")
WEIGHTS = (".safetensors", ".npz", ".pt", ".pth")
MOST_GB, LIMIT = 20.0, "SAEKIT_MOST_GB"
_DIGEST = re.compile(r"[0-9a-f]{64}")
_SHOWN = 6


class Fetched(NamedTuple):
    """Where an SAE lies in the local cache of the hub."""

    at: Path  # its folder, or its file
    commit: str
    sha256: dict[str, str]  # of every file, by its path in the repository


def fetch(repo: str, path: str, revision: str | None = None) -> Fetched:
    """Bring the files of an SAE into the hub's cache, and return where they are.

    A branch is resolved to its commit once, and every file is of that commit. What the cache has is
    not fetched again; with HF_HUB_OFFLINE, or without a network, the cache decides alone. Only
    settings and weights are fetched (by their suffixes), at most 20 GB (SAEKIT_MOST_GB).

    Args:
        repo: ``owner/name``.
        path: of a folder or a file in it; "": the repository itself.
        revision: branch, tag or commit; None: the main branch.

    Raises:
        UnknownNameError: the repository has nothing of that path; the nearest are named.
        ConfigError: the files are larger than the limit.
        ResourceError: the hub cannot be reached or refuses, and the cache does not have it.
        FormatError: a file is not the one that was published.
        MissingExtraError: huggingface_hub is not installed.
    """
    hub = hub_library()
    advice = "Check the name, your access and the network."
    with silent(), hub_border(f"get `{path or repo}` of {repo} from the hub", advice):
        try:
            found = _listed(hub, repo, revision)
        except hub.errors.HFValidationError as error:
            raise UnknownNameError(
                f"`{repo}` is no name on the hub, which reads owner/name."
            ) from error
        if found is None:
            return _from_cache(repo, path, revision)
        commit, names = found
        wanted = needed(names, path, f"{repo} at {commit[:12]}")
        expected = _described(hub, repo, wanted, commit)
        places = {name: Path(hub.hf_hub_download(repo, name, revision=commit)) for name in wanted}
        remember(repo, revision, commit)
    top = Path(str(places[wanted[0]]).removesuffix(wanted[0]))
    return Fetched(top / path, commit, _sums(places, expected))


def needed(names: Iterable[str], path: str, where: str) -> list[str]:
    """Return the files of a repository that reading one SAE may need.

    Those of a folder are its settings and weights; where the weights lie one folder deeper, as
    ``checkpoints/final.safetensors``, those too. A file comes with the settings next to it that are
    not named after another file of weights. A config.json one folder up is read by sparsify's
    layout, and results in ``eval`` go along with saekit's.

    Args:
        names: of every file of the repository.
        path: of a folder or file.
        where: what to call the repository.

    Raises:
        UnknownNameError: nothing is there.
        FormatError: no weights are, or those of several SAEs.
    """
    usable = sorted(n for n in names if n.endswith(TEXT + WEIGHTS) and _is_plain(n))
    folder = PurePosixPath(path).parent if path in usable else PurePosixPath(path)
    inside = [n for n in usable if folder in PurePosixPath(n).parents]
    direct = [n for n in inside if PurePosixPath(n).parent == folder]
    up = str(folder.parent / "config.json")
    above = [up] if up in usable and folder.parts and up not in direct else []
    if path in usable:
        if not path.endswith(WEIGHTS):
            raise FormatError(f"`{path}` of {where} holds no weights; those end in {_either()}.")
        others = tuple(
            PurePosixPath(n).name.partition(".")[0]
            for n in direct
            if n.endswith(WEIGHTS) and n != path
        )
        beside = [n for n in direct if n.endswith(TEXT) and not _is_named_after(n, path, others)]
        return [path, *beside, *above]
    if not inside:
        raise UnknownNameError(_nothing(usable, path, where))
    results = [
        n for n in inside if PurePosixPath(n).parent == folder / "eval" and n.endswith(".json")
    ]
    if any(n.endswith(WEIGHTS) for n in direct):
        return [*direct, *results, *above]
    below = sorted({PurePosixPath(n).parent for n in inside if n.endswith(WEIGHTS)}, key=str)
    if not below:
        raise FormatError(
            f"`{path}` of {where} holds no weights, which end in {_either()}; it has "
            f"{_some(direct or inside)}."
        )
    if len(below) > 1:
        raise FormatError(
            f"`{path or '/'}` of {where} holds {len(below)} SAEs. Name one of {_some(below)}."
        )
    return [*direct, *(n for n in inside if PurePosixPath(n).parent == below[0]), *above]


def _is_named_after(name: str, path: str, others: tuple[str, ...]) -> bool:
    """Tell whether a file of settings belongs to other weights next to it."""
    own, stem = PurePosixPath(path).name.partition(".")[0], PurePosixPath(name).name
    fitting = [o for o in (*others, own) if stem.startswith(o)]
    return bool(fitting) and max(fitting, key=len) != own


def _is_plain(name: str) -> bool:
    """Return whether a name from the hub leads to a file below its folder and nowhere else."""
    parts = PurePosixPath(name).parts
    return not (name.startswith("/") or "\\" in name or "\0" in name or ".." in parts)


def _nothing(usable: list[str], path: str, where: str) -> str:
    """Return what to say of a path that is not there."""
    known = {n for n in usable if n.endswith(WEIGHTS)}
    known |= {str(PurePosixPath(n).parent) for n in known} - {"."}
    near = nearest(path, known)
    rest = "" if near else f" It has {_some(sorted(known)) or 'no weights that saekit reads'}."
    return f"There is no `{path}` in {where}.{near}{rest}"


def _described(hub: Any, repo: str, names: list[str], commit: str) -> dict[str, str | None]:
    """Return the SHA-256 of files as the hub says it, having refused files that are too large."""
    infos = hub.HfApi().get_paths_info(repo, names, revision=commit)
    sums = {i.path: None if i.lfs is None else i.lfs.sha256 for i in infos if hasattr(i, "size")}
    n_bytes, most = sum(i.size for i in infos if hasattr(i, "size")), _most_gb()
    if n_bytes > most * 1e9:
        raise ConfigError(
            f"The {len(names)} files of this SAE in {repo} are {n_bytes / 1e9:.1f} GB; the limit "
            f"is {most:g} GB. Name one file of the folder, or raise the limit: {LIMIT}="
            f"{n_bytes / 1e9 + 1:.0f}."
        )
    return sums


def _most_gb() -> float:
    given = os.environ.get(LIMIT)
    try:
        return MOST_GB if not given else float(given)
    except ValueError:
        raise ConfigError(f"{LIMIT} is a number of gigabytes; got {given!r}.") from None


def _listed(hub: Any, repo: str, revision: str | None) -> tuple[str, set[str]] | None:
    """Return commit and files of a revision as the hub says; None where the cache must do."""
    try:
        return listed(hub, repo, revision)
    except refusals(hub):
        raise
    except Exception:
        if _snapshot(repo, revision) is not None:
            return None
        raise


def _from_cache(repo: str, path: str, revision: str | None) -> Fetched:
    """Return what the cache has of an SAE.

    Raises:
        ResourceError: nothing, or no weights.
    """
    snapshot = _snapshot(repo, revision)
    assert snapshot is not None  # `_listed` saw it
    names = [f.relative_to(snapshot).as_posix() for f in snapshot.rglob("*") if f.is_file()]
    try:
        wanted = needed(names, path, f"the local cache of {repo}")
    except (UnknownNameError, FormatError) as error:
        raise ResourceError(
            f"The hub was not asked (HF_HUB_OFFLINE is set, or there is no network), and the local "
            f"cache does not have all of `{path or repo}`: {error} Fetch it once with a network."
        ) from error
    places = {name: snapshot / name for name in wanted}
    return Fetched(snapshot / path, snapshot.name, _sums(places, {}))


def _snapshot(repo: str, revision: str | None) -> Path | None:
    """Return the folder of a revision in the cache; None: it has none."""
    top, commit = cached_repository(repo), revision or "main"
    with contextlib.suppress(OSError):
        commit = (top / "refs" / commit).read_text(encoding="utf-8").strip()
    folder = top / "snapshots" / commit
    return folder if _is_plain(commit) and folder.is_dir() else None


def _sums(places: dict[str, Path], expected: dict[str, str | None]) -> dict[str, str]:
    """Return the SHA-256 of files, each of which must lie in the hub's cache and be whole.

    Raises:
        FormatError: a link leads elsewhere, or a file is not the one that was published.
    """
    cache, sums = hub_cache().resolve(), {}
    for name, place in places.items():
        blob = place.resolve()
        if not blob.is_relative_to(cache):
            raise FormatError(
                f"{place} leads out of the hub's cache, to {blob}, and is not read. Delete it and "
                f"fetch it again."
            )
        sums[name] = sha256_of(blob)
        # The cache names large files after their SHA-256.
        known = expected.get(name) or (blob.name if _DIGEST.fullmatch(blob.name) else None)
        if known not in (None, sums[name]):
            raise FormatError(
                f"{blob} is not `{name}` as it was published: its SHA-256 is {sums[name]}. Delete "
                f"it and fetch it again."
            )
    return sums


def _some(names: Iterable[Any]) -> str:
    every = [str(name) for name in names]
    more = f" and {len(every) - _SHOWN} more" if len(every) > _SHOWN else ""
    return ", ".join(every[:_SHOWN]) + more


def _either() -> str:
    return f"{', '.join(WEIGHTS[:-1])} or {WEIGHTS[-1]}"
