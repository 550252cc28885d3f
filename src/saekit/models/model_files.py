"""The files of a language model: which there must be, and getting them from the hub's cache."""

import contextlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from saekit.core.errors import FormatError, UnknownNameError
from saekit.core.hub_access import hub_border, hub_library, listed, refusals, remember, silent

CONFIG, WEIGHTS = "config.json", "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"
ADAPTER = "adapter_config.json"
# Whatever of these a model has; none of them is code, none a pickle.
_BESIDE = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "generation_config.json",
)
_PICKLES = (".bin", ".pt", ".pth")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_MOST_NAMED = 4


def fetch_model(repo: str, revision: str | None, advice: str) -> tuple[Path, str]:
    """Return the folder that holds a model of the hub, and the commit that it is.

    A branch or tag is resolved to its commit once, and every file is of that commit. What the
    cache has of it is not fetched again. Without a network, or with HF_HUB_OFFLINE, the cache
    decides alone.

    Args:
        repo: ``owner/name``.
        revision: branch, tag or commit; None is the main branch.
        advice: what to do where the hub gives nothing.

    Raises:
        ResourceError: the hub cannot be reached, or has no such repository or revision.
        FormatError: it is no whole language model, or its weights are pickles.
        MissingExtraError: huggingface_hub is not installed.
    """
    hub = hub_library("lm")
    with silent(), hub_border(f"get the model `{repo}` from the hub", advice):
        try:
            found = _listed(hub, repo, revision)
            if found is None:
                return _from_cache(hub, repo, revision)
            commit, names = found
            if ADAPTER in names:
                raise adapter_refusal(repo, _fetched(hub, repo, ADAPTER, commit))
            if CONFIG not in names:
                raise FormatError(
                    f"The repository {repo} holds no language model: it has no {CONFIG}."
                )
            folder = _fetched(hub, repo, CONFIG, commit).parent
            if INDEX in names:
                wanted = weight_files(_fetched(hub, repo, INDEX, commit))
            elif WEIGHTS in names:
                wanted = [WEIGHTS]
            else:
                raise weights_refusal(repo, names)
            for name in [n for n in _BESIDE if n in names] + wanted:
                _fetched(hub, repo, name, commit)
            remember(repo, revision, commit)
        except hub.errors.HFValidationError as error:
            raise UnknownNameError(
                f"`{repo}` is not a name on the hub, which reads owner/name. {advice}"
            ) from error
    return folder, commit


def is_commit(revision: str | None) -> bool:
    """Return whether a revision is a commit, which never changes, and no branch or tag."""
    return revision is not None and _COMMIT.fullmatch(revision) is not None


def pinned(revision: str | None, recorded: Mapping[str, Any]) -> str | None:
    """Return the commit that a run was begun with, or `revision` where none was recorded.

    Args:
        revision: as it was asked for, perhaps a branch that has moved on since.
        recorded: `LanguageModel.provenance` of that run.
    """
    commit = recorded.get("revision")
    return commit if isinstance(commit, str) and is_commit(commit) else revision


def weight_files(index: Path) -> list[str]:
    """Return the names of the files that an index of sharded weights lists.

    Raises:
        FormatError: it is no such index.
    """
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        plain = all(Path(name).name == name and name.endswith(".safetensors") for name in names)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise FormatError(
            f"{index} is no index of weights: it needs `weight_map`, from tensors to files."
        ) from error
    if not plain or not names:
        raise FormatError(
            f"{index} must list *.safetensors files of its own folder; got {shortened(names)}."
        )
    return names


def adapter_refusal(name: str, path: Path) -> FormatError:
    """Return the error for an adapter where a model was wanted, with the way to merge it."""
    try:
        base = json.loads(path.read_text(encoding="utf-8")).get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError):
        base = None
    of = base if isinstance(base, str) and base else "its base model"
    return FormatError(
        f"`{name}` has an {ADAPTER}: it is an adapter (LoRA or the like) of {of}, not a whole "
        f"model. Merge it first: peft.AutoPeftModelForCausalLM.from_pretrained({name!r})"
        f".merge_and_unload().save_pretrained('merged'), save the tokenizer there too, and name "
        f"that folder. If the weights are merged already, remove {ADAPTER}."
    )


def weights_refusal(name: str, names: Iterable[str]) -> FormatError:
    """Return the error for files without weights as safetensors, with the way out.

    Args:
        name: how the user calls the model.
        names: the files there are.
    """
    pickles = sorted(n for n in names if n.endswith(_PICKLES))
    if not pickles:
        return FormatError(
            f"`{name}` has no weights: neither {WEIGHTS} nor {INDEX} is there. Fetch or save it "
            f"again, whole."
        )
    return FormatError(
        f"`{name}` has its weights as {shortened(pickles)} and not as {WEIGHTS}. Such files are "
        f"pickles, which may run code, and saekit does not read them. Convert the model where you "
        f"trust it: transformers.AutoModelForCausalLM.from_pretrained({name!r})"
        f".save_pretrained('converted'), save the tokenizer there too, and name that folder. On "
        f"the hub, `--revision refs/pr/N` may have safetensors: see the model's pull requests."
    )


def shortened(names: Iterable[str]) -> str:
    """Return the first few of some names, and how many more there are."""
    every = list(names)
    more = len(every) - _MOST_NAMED
    return (", ".join(map(str, every[:_MOST_NAMED])) or "none") + (
        f" and {more} more" if more > 0 else ""
    )


def _listed(hub: Any, repo: str, revision: str | None) -> tuple[str, set[str]] | None:
    """Return commit and files of a revision as the hub says; None where it says nothing."""
    if revision is not None and is_commit(revision) and _is_whole(hub, repo, revision):
        return None  # a commit never changes
    try:
        return listed(hub, repo, revision)
    except refusals(hub):
        raise
    except Exception:
        # No network, or a hub in trouble. The cache may do; where it does not, this is said.
        with contextlib.suppress(hub.errors.LocalEntryNotFoundError):
            _from_cache(hub, repo, revision)
            return None
        raise


def _from_cache(hub: Any, repo: str, revision: str | None) -> tuple[Path, str]:
    """Return folder and commit of a model in the local cache."""
    found = hub.try_to_load_from_cache(repo, ADAPTER, revision=revision)
    if isinstance(found, str):
        raise adapter_refusal(repo, Path(found))
    config = hub.hf_hub_download(repo, CONFIG, revision=revision, local_files_only=True)
    folder = Path(config).parent
    return folder, folder.name


def _is_whole(hub: Any, repo: str, commit: str) -> bool:
    """Return whether the cache has all weights of a commit."""
    found = hub.try_to_load_from_cache(repo, CONFIG, revision=commit)
    if not isinstance(found, str):
        return False
    folder = Path(found).parent
    index = folder / INDEX
    names = weight_files(index) if index.is_file() else [WEIGHTS]
    return all((folder / name).is_file() for name in names)


def _fetched(hub: Any, repo: str, name: str, commit: str) -> Path:
    return Path(hub.hf_hub_download(repo, name, revision=commit))
