"""The file of the API: it is what the server answers, and no request makes it fail."""

import json
import os
import shutil
from pathlib import Path

import pytest

import saekit.explorer
from saekit.explorer.serve import Options, served
from tests.explorer import world

FILE = Path(saekit.explorer.__path__[0]) / "openapi.json"
RENEW = "SAEKIT_RENEW_OPENAPI"
KNOWN = {"sae": "plain", "run": "plain", "latent": 3, "number": 1}
EXAMPLES, MANY = 7, 60  # of each address; of these there are 22, each in valid and invalid form


def test_the_file_is_what_the_server_answers(tmp_path):
    """SAEKIT_RENEW_OPENAPI=1 writes it anew."""
    from saekit.explorer.app import openapi

    text = json.dumps(openapi(tmp_path), indent=1, sort_keys=True) + "\n"
    if os.environ.get(RENEW):
        FILE.write_text(text, encoding="utf-8")
    assert FILE.read_text(encoding="utf-8") == text, f"renew it: {RENEW}=1, then this test"


def test_every_address_says_what_it_does_and_its_problems():
    for path, methods in json.loads(FILE.read_text())["paths"].items():
        for method, said in methods.items():
            assert said["description"], (method, path)
            problem = said["responses"]["404"]["content"]
            assert "application/problem+json" in problem, (method, path)


def fuzzed(site, n_examples, seed):
    """Send what the file allows and what it does not; return how many requests that were."""
    import hypothesis
    import hypothesis.strategies
    import schemathesis
    from schemathesis.config import SchemathesisConfig

    schema = schemathesis.openapi.from_dict(
        json.loads(FILE.read_text()), config=SchemathesisConfig.discover()
    )
    headers = {
        "X-Saekit": "1",
        "Cookie": "; ".join(f"{k}={v}" for k, v in site.client.cookies.items()),
    }
    at = site.explorer.address.rstrip("/")
    sent = []

    def one(operation, mode):
        @hypothesis.seed(seed)
        @hypothesis.settings(
            max_examples=n_examples,
            deadline=None,
            database=None,
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        @hypothesis.given(
            case=operation.as_strategy(generation_mode=mode), known=hypothesis.strategies.booleans()
        )
        def check(case, known):
            if case.path.endswith("/session") or _costs(case):
                return
            if known:  # what random names never reach
                case.path_parameters.update(
                    {k: v for k, v in KNOWN.items() if k in case.path_parameters}
                )
            answer = case.call(base_url=at, headers=headers)
            sent.append(answer.status_code)
            assert answer.status_code < 500, case.as_curl_command()
            if answer.status_code >= 400:
                kind = answer.headers["content-type"][0]
                assert kind in ("application/problem+json", "text/plain; charset=utf-8")

        check()

    for found in schema.get_all_operations():
        operation = found.ok()
        for mode in (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE):
            try:
                one(operation, mode)
            except hypothesis.errors.Unsatisfiable:
                continue  # an address without anything that could be wrong
    return sent


def _costs(case):
    """Leave out jobs that would run a model: random ids name none, but a lucky one could."""
    return isinstance(case.body, dict) and case.body.get("sae") in ("plain", "sub.folded")


@pytest.fixture(scope="module")
def own(made, tmp_path_factory):
    """A server of a copy of the folder: what is sent writes labels and lists."""
    place = tmp_path_factory.mktemp("fuzzed").resolve() / "served"
    shutil.copytree(made, place, ignore=shutil.ignore_patterns(".saekit"))
    links = []
    with served(place, Options(port=0), links.append) as explorer:
        client = world.client_of(explorer, links)
        yield world.Site(explorer, links, client, place)
        client.close()


@pytest.mark.slow
def test_no_request_that_the_file_allows_or_not_makes_the_server_fail(own):
    pytest.importorskip("schemathesis")
    sent = fuzzed(own, EXAMPLES, seed=1)
    assert len(sent) > 150 and {200, 400, 404, 422} <= set(sent)


@pytest.mark.slow
def test_two_thousand_requests(own):
    pytest.importorskip("schemathesis")
    sent = fuzzed(own, MANY, seed=2)
    assert len(sent) > 2000
