"""Push: a truth to a model hub, in the published layout, where others' tools read it."""

import tempfile
from pathlib import Path

from saekit.core.errors import ResourceError
from saekit.core.hub_access import hub_library, reason_of
from saekit.studies.truth.model import published
from saekit.studies.truth.model.base import Truth


def push(truth: Truth, repo: str, *, private: bool = True) -> str:
    """Upload a truth to ``owner/name`` of the Hugging Face hub and return where it is.

    The token is that of `hf auth login`, or HF_TOKEN.

    Args:
        truth: what to upload.
        repo: owner and name; made where it does not exist.
        private: whether others cannot see a repository that is made.

    Raises:
        ConfigError: the published layout has no place for a part of the truth.
        MissingExtraError: huggingface_hub is not installed.
        ResourceError: the hub cannot be reached, or refuses.
    """
    library = hub_library()
    with tempfile.TemporaryDirectory() as folder:
        published.save(truth, Path(folder))
        api = library.HfApi()
        try:
            api.create_repo(repo, private=private, exist_ok=True)
            done = api.upload_folder(repo_id=repo, folder_path=folder)
        except Exception as error:  # of many libraries: the network's, the hub's, the token's
            raise ResourceError(
                f"`{repo}` could not be written: {reason_of(error)}. Check the name (owner/name), "
                f"the network, and that you are logged in (hf auth login)."
            ) from error
    return str(done)
