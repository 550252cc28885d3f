from pathlib import Path

import pytest


@pytest.fixture
def cache(tmp_path_factory, monkeypatch) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("SAEKIT_CACHE", str(folder))
    return folder
