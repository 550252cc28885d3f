"""Tests keep what they make to themselves."""

import os

import pytest
import torch

from tests import shapes

# Triton decides at its first import, whoever imports it, whether kernels are interpreted.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")


def pytest_addoption(parser):
    parser.addoption("--shapes", action="store_true", help="check the shapes of arrays")


def pytest_configure(config):
    if config.getoption("--shapes"):
        shapes.install()


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory):
    """Caches of tests go to a folder of the test run, not to the user's.

    A wheel that the user has already fetched is used where it lies.
    """
    from saekit.core.files import cache_folder

    theirs = cache_folder() / "wheels"
    ours = tmp_path_factory.mktemp("cache")
    if theirs.exists():
        (ours / "wheels").symlink_to(theirs)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAEKIT_CACHE", str(ours))
        yield
