"""One border around the Hugging Face hub: whatever its libraries raise becomes one sentence."""

import contextlib
import logging
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from saekit.core.errors import MissingExtraError, ResourceError, SaekitError
from saekit.core.files import write_text

# Libraries below the hub's own. Some of their errors are no OSError, so they are known by where
# their classes are defined; none of them is imported here.
_LIBRARIES = frozenset(
    {
        "aiohttp",
        "datasets",
        "fsspec",
        "hf_xet",
        "httpcore",
        "httpx",
        "httpx2",
        "huggingface_hub",
        "requests",
        "urllib3",
    }
)
# What an error means, by its class; the most particular class comes first.
_MEANINGS = {
    "GatedRepoError": "it is behind a licence; accept it on its page, then log in: hf auth login",
    "RepositoryNotFoundError": "there is no such repository, or it is private and you are not "
    "logged in",
    "DatasetNotFoundError": "there is no such data set, or it is private and you are not logged in",
    "RevisionNotFoundError": "it has no such branch, tag or commit",
    "OfflineModeIsEnabled": "HF_HUB_OFFLINE is set, and the files are not in the local cache",
    "LocalEntryNotFoundError": "the hub cannot be reached (or HF_HUB_OFFLINE is set), and the "
    "files are not in the local cache",
    "ConnectError": "the hub cannot be reached",
    "ConnectionError": "the hub cannot be reached",
    "ClientConnectionError": "the hub cannot be reached",
    "ProxyError": "the proxy that this machine uses cannot be reached",
    "TimeoutException": "the hub does not answer in time",
    "Timeout": "the hub does not answer in time",
    "ServerTimeoutError": "the hub does not answer in time",
}


_PATIENCE = 10.0  # seconds for the hub to say what a repository holds
_LOGS = ("huggingface_hub", "httpx", "httpx2", "httpcore", "httpcore2")
_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{8,}")


@contextlib.contextmanager
def hub_border(doing: str, advice: str) -> Iterator[None]:
    """A context in which errors of the network and of the hub's libraries are a `ResourceError`.

    Args:
        doing: what was tried, as in "Could not ...".
        advice: what to do next, one sentence or more.

    Raises:
        ResourceError: the hub cannot be reached, or refuses.
    """
    try:
        yield
    except SaekitError:
        raise
    except Exception as error:
        if not is_hub_error(error):
            raise
        raise ResourceError(f"Could not {doing}: {reason_of(error)}. {advice}") from error


def hub_library(extra: str = "hub") -> Any:
    """Return huggingface_hub, with its errors.

    Args:
        extra: of saekit, which brings it.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import huggingface_hub
        import huggingface_hub.errors
    except ImportError as error:
        raise MissingExtraError("huggingface_hub", extra) from error
    return huggingface_hub


def is_hub_error(error: BaseException) -> bool:
    """Return whether an error is of the network, the disk or a library of the hub."""
    if isinstance(error, OSError | ValueError):
        return True
    return any(c.__module__.partition(".")[0] in _LIBRARIES for c in type(error).__mro__)


def reason_of(error: BaseException) -> str:
    """Return in a few words why the hub gave nothing."""
    # Errors of the network come wrapped in others that only repeat them, so look through all.
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    for one in chain:
        names = [c.__name__ for c in type(one).__mro__]
        for name, meaning in _MEANINGS.items():
            if name in names:
                return meaning
    lines = [line.strip() for line in without_token(str(error)).splitlines() if line.strip()]
    return lines[0].rstrip(".:") if lines else type(error).__name__


def listed(hub: Any, repo: str, revision: str | None) -> tuple[str, set[str]]:
    """Return the commit that a revision is now, and the names of its files, as the hub says.

    Args:
        hub: what `hub_library` gave.
        repo: ``owner/name``.
        revision: branch, tag or commit; None is the main branch.
    """
    info = hub.HfApi().model_info(repo, revision=revision, timeout=_PATIENCE)
    return info.sha, {file.rfilename for file in info.siblings or ()}


def remember(repo: str, revision: str | None, commit: str) -> None:
    """Write into the hub's cache which commit a branch was, so that it is known offline.

    The hub's library does so only for files that are asked for by branch.
    """
    refs = cached_repository(repo) / "refs"
    if revision != commit:
        with contextlib.suppress(ResourceError):  # a cache that is only read serves all the same
            write_text(refs / (revision or "main"), commit)


def cached_repository(repo: str) -> Path:
    """Return where the hub's cache keeps a repository, with ``refs`` and ``snapshots``."""
    from huggingface_hub.file_download import repo_folder_name

    return hub_cache() / repo_folder_name(repo_id=repo, repo_type="model")


def hub_cache() -> Path:
    """Return the folder of the hub's cache."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def refusals(hub: Any) -> tuple[type[Exception], ...]:
    """Return the errors with which the hub says no, where the cache is no way out."""
    errors = hub.errors
    return (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.HFValidationError)


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Hide what the hub's libraries say of each try: their errors are told in one sentence.

    Their logs also have the answers of servers, one of which may repeat a token.
    """
    logs = [logging.getLogger(name) for name in _LOGS]
    levels = [log.level for log in logs]
    for log in logs:
        log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.setLevel(level)


def without_token(text: str) -> str:
    """Return text with the user's token blotted out, which a server may have repeated."""
    library = sys.modules.get("huggingface_hub")
    token = library.get_token() if library is not None else None
    if token:
        text = text.replace(token, "***")
    return _TOKEN.sub("hf_***", text)
