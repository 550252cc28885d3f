"""What tests of the explorer stand on: a folder with a plain SAE and one of two layers."""

import time
from pathlib import Path
from typing import Any, NamedTuple

import httpx

import saekit
from saekit.activations.pairs import Pair
from saekit.models.tiny import save_tiny
from tests import world

FOLDED = ("L0.resid_post", "L1.resid_post")
OVER = ("done", "failed", "cancelled")


class Site(NamedTuple):
    explorer: Any
    links: list[str]
    client: httpx.Client
    token_file: Path


def make(folder: Path) -> Path:
    """Train two SAEs of seconds on a tiny model that lies in a folder, measure one, index both."""
    lm = saekit.load_model(str(save_tiny(folder / "llama", n_layers=2)))
    own = {"model": str(folder / "llama")}
    saekit.train(lm, run=world.run(folder, **own), out=folder / "plain", shown=False)
    folded = world.run(folder, pair=Pair(read=FOLDED, fold=True), **own)
    saekit.train(lm, run=folded, out=folder / "sub" / "folded", shown=False)
    scores = saekit.evaluate(saekit.load(folder / "plain"), lm, n_tokens=1500, ce_tokens=600)
    scores.write(folder / "plain" / "eval" / "core.json")
    saekit.index(folder / "plain", lm, tokens=3000, shown=False)
    saekit.index(folder / "sub" / "folded", lm, tokens=3000, shown=False)
    return folder


def token_in(link: str) -> str:
    return link.partition("#token=")[2]


def client_of(explorer: Any, links: list[str]) -> httpx.Client:
    """Return a client with a session, as a browser of the page has it.

    It reads no certificates (`verify=False`), which no address here has: 20 ms each time.
    """
    client = httpx.Client(
        base_url=f"{explorer.address}api/v1",
        headers={"X-Saekit": "1", "Sec-Fetch-Site": "same-origin"},
        timeout=60,
        trust_env=False,
        verify=False,
    )
    answer = client.post("/session", json={"token": token_in(links[-1])})
    assert answer.status_code == 204, answer.text
    return client


def job(client: httpx.Client, seconds: float = 120, **asked: Any) -> dict[str, Any]:
    """Ask for a job and wait for its end."""
    answer = client.post("/jobs", json=asked)
    assert answer.status_code == 202, answer.text
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        found = client.get(f"/jobs/{answer.json()['id']}").json()
        if found["state"] in OVER:
            return found
        time.sleep(0.05)
    raise AssertionError(f"the job is not over: {found}")


def done(client: httpx.Client, **asked: Any) -> Any:
    found = job(client, **asked)
    assert found["state"] == "done", found["error"]
    return found["result"]
