"""What every generator keeps: a value, documented, an identity without a key, a reply each."""

import dataclasses
import inspect
import json
from pathlib import Path

import pytest

from saekit.core.errors import ConfigError, SaekitError
from saekit.generators.base import Failure, Generator, Reply, Request, registry
from saekit.generators.journal import Journal, reply_from
from saekit.models.tiny import save_tiny
from tests.generators.server import serving

NETWORK = ("endpoint",)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("generators")
    save_tiny(folder / "model")
    return folder


@pytest.fixture
def made(request, place, monkeypatch):
    """A generator by its name, as it is set for these tests; others with their defaults."""
    name = request.param
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-1234567890")
    if name == "endpoint":
        pytest.importorskip("openai")
        with serving(lambda body: "yes") as server:
            yield registry.get(name)(base_url=server.url)
        return
    given = {
        "local": {"model": str(place / "model")},
        "replay": {"journal": str(place / "j.jsonl"), "of": {"name": "another"}},
    }
    generator = registry.get(name)(**given.get(name, {}))
    if name == "replay":
        (place / "j.jsonl").unlink(missing_ok=True)
        journal = Journal(place / "j.jsonl")
        for one in asked(generator):
            journal.keep(one.key(generator.identity()), one, Reply(text="yes"))
    yield generator


every = pytest.mark.parametrize("made", registry.names(), indirect=True)


def asked(generator, n=3):
    """Requests of the kind that it takes, that differ in the seed."""
    words = {"messages": (("user", "say yes"),)} if generator.chats else {"text": "say yes:"}
    return [Request(**words, max_tokens=4, seed=i, sample=i) for i in range(n)]


@every
def test_it_is_a_value(made):
    raw = json.loads(json.dumps(made.to_dict()))
    assert Generator.from_dict(raw) == made
    with pytest.raises(ConfigError):
        Generator.from_dict(raw | {"no_such_field": 1})
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.name = "x"


@every
def test_it_is_documented(made):
    text = inspect.getdoc(type(made)) or ""
    assert text and text.partition("\n")[0].endswith(".")
    for field in dataclasses.fields(made):
        assert f"\n    {field.name}: " in text


@every
def test_its_identity_names_it_and_holds_no_key(made):
    said = json.dumps(made.identity())
    assert json.loads(said).get("name") and "sk-secret" not in said
    assert made.identity() == made.identity()


@every
def test_each_request_has_a_reply_in_its_place_and_the_same_one_again(made):
    found = list(made.replies(asked(made)))
    assert len(found) == 3 and all(isinstance(one, Reply) for one in found)
    raw = [json.loads(json.dumps(dataclasses.asdict(one))) for one in found]
    assert [reply_from(one, Path("j")) for one in raw] == found
    assert [one.text for one in made.replies(asked(made))] == [one.text for one in found]


@every
def test_it_compares_answers_or_refuses_to(made):
    words = asked(made, 1)[0]
    if not made.chooses:
        with pytest.raises(SaekitError, match="compares no given answers"):
            made.choose(words, ("yes", "no"))
        return
    found = made.choose(words, ("yes", "no"))
    assert list(found) == ["yes", "no"] and all(value <= 0 for value in found.values())


def test_a_failure_that_is_of_one_request_alone_is_no_failure_that_passes():
    assert not Failure(reason="x", again=False).alone
