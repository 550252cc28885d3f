"""Pushing: what goes up is the published layout, and a refusal is said in one line."""

from pathlib import Path

import pytest

from saekit.core.errors import ResourceError
from saekit.studies.truth.model import published
from saekit.studies.truth.model.base import TruthConfig
from saekit.studies.truth.model.magnitudes import Constant
from saekit.studies.truth.model.push import push

hub = pytest.importorskip("huggingface_hub")


@pytest.fixture
def truth():
    return TruthConfig(n_features=12, d_model=8, magnitudes=Constant()).build()


def test_what_goes_up_reads_back(truth, monkeypatch, tmp_path):
    class Api:  # the border: the hub itself
        def create_repo(self, repo, *, private, exist_ok):
            assert (repo, private, exist_ok) == ("me/truth", True, True)

        def upload_folder(self, *, repo_id, folder_path):
            for file in Path(folder_path).iterdir():
                (tmp_path / file.name).write_bytes(file.read_bytes())
            return f"hub/{repo_id}"

    monkeypatch.setattr(hub, "HfApi", Api)
    assert push(truth, "me/truth") == "hub/me/truth"
    again = published.load(tmp_path)
    assert (again.features == truth.features).all()


def test_a_refusal_says_what_to_do(truth, monkeypatch):
    class Api:
        def create_repo(self, *args, **kwargs):
            raise OSError("no network")

    monkeypatch.setattr(hub, "HfApi", Api)
    with pytest.raises(ResourceError, match=r"me/truth.*no network.*hf auth login"):
        push(truth, "me/truth")
