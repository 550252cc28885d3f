"""Tests keep what they make to themselves."""

import gc
import os
import zlib

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


def pytest_collection_finish():
    """Keep what is imported out of every later search for garbage: an eighth of the tests' time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(5000, 20, 20)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """Seed torch by the name of the test: its draws do not depend on which tests ran before it.

    `SAEKIT_TEST_SEED=1 make fast` draws others: a test must pass on those as well.
    """
    salt = os.environ.get("SAEKIT_TEST_SEED", "0")
    # That of the CPU alone: torch.manual_seed writes down a traceback for GPUs that are not there.
    torch.default_generator.manual_seed(zlib.crc32(f"{item.nodeid} {salt}".encode()))


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
        # Files of tests need not outlive a power cut.
        patch.setattr(os, "fsync", lambda _: None)
        yield
