"""One folder for all tests of the explorer, and servers of it."""

import shutil

import httpx
import pytest

from tests.explorer import world

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """A folder with two SAEs, made once; tests that change something copy it."""
    return world.make(tmp_path_factory.mktemp("explorer").resolve())


@pytest.fixture
def folder(made, tmp_path):
    """A copy of that folder, to be changed."""
    place = tmp_path.resolve() / "served"
    shutil.copytree(made, place, ignore=shutil.ignore_patterns(".saekit"))
    return place


@pytest.fixture(scope="session")
def site(made, tmp_path_factory):
    """A server of that folder on a port of its own, with a session in `site.client`."""
    from saekit.explorer.serve import Options, served

    links = []
    token = tmp_path_factory.mktemp("token") / "token"
    with served(made, Options(port=0, token_file=token), links.append) as explorer:
        client = world.client_of(explorer, links)
        yield world.Site(explorer, links, client, token)
        client.close()


@pytest.fixture
def client(site) -> httpx.Client:
    return site.client
