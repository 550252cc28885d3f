import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
import torch

from saekit.cli.main import main
from saekit.core.errors import ConfigError, FormatError, ResourceError, UnknownNameError
from saekit.models.tiny import tiny
from saekit.saes.relu import ReLU
from saekit.studies.locality.events import candidates, quality
from saekit.studies.locality.events.neuronpedia import Cache, cosines_beside, parse
from saekit.studies.locality.events.neuronpedia_events import events_of, match
from saekit.studies.locality.published import dataset
from saekit.studies.locality.published.release import release

ANSWER = {
    "index": "5",
    "frac_nonzero": 0.01,
    "maxActApprox": 9.5,
    "pos_str": [" a", " b"],
    "explanations": [
        {
            "description": "letters",
            "scores": [
                {"explanationScoreTypeName": "other", "value": 0.1},
                {"explanationScoreTypeName": "recall_alt", "value": 0.75},
            ],
        }
    ],
    "activations": [
        {"tokens": ["<bos>", "a", "b"], "maxValue": 3.0, "maxValueTokenIndex": 2, "dataIndex": "x"},
        {"tokens": ["<bos>", "a", "b"], "maxValue": 3.0, "maxValueTokenIndex": 2, "dataIndex": "y"},
        {"tokens": ["<bos>", "c", "d", "e"], "maxValue": 9.0, "maxValueTokenIndex": 2},
        {"tokens": ["<bos>", "two chars"], "maxValue": 4.0, "maxValueTokenIndex": 1},
        {"tokens": ["<bos>", "z"], "maxValue": 1.0, "maxValueTokenIndex": 0},
    ],
    "topkCosSimIndices": [5, 8, 9],
    "topkCosSimValues": [1.0, 0.5, -0.25],
}


@pytest.fixture
def server():
    """A server whose replies are listed beforehand: status, headers, body."""
    replies, asked = [], []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            status, headers, body = replies.pop(0)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    httpd = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_port}", replies, asked
    httpd.shutdown()
    httpd.server_close()
    thread.join()


def cache(root, url, slept=None, **changes):
    settings = {"online": True, "url": url, "sleep": (slept if slept is not None else []).append}
    return Cache(root=root, model="gemma-2-2b", sae="12-res/16k", **(settings | changes))


BODY = json.dumps(ANSWER).encode()


def test_an_answer_is_kept_raw_and_the_network_asked_once(tmp_path, server):
    url, replies, asked = server
    replies.append((200, {}, BODY))
    found = cache(tmp_path, url).get(5)
    assert asked == ["/api/feature/gemma-2-2b/12-res/16k/5"]
    path = tmp_path / "gemma-2-2b" / "12-res__16k" / "5.json"
    assert path.read_bytes() == BODY
    assert [p.name for p in path.parent.iterdir()] == ["5.json"]
    offline = cache(tmp_path, url, online=False)
    assert offline.get(5) == found and len(asked) == 1
    assert offline.known() == [5]
    assert (found.index, found.description, found.recall_alt) == (5, "letters", 0.75)
    assert found.density == 0.01 and found.max_activation == 9.5 and len(found.activations) == 5


def test_offline_is_the_default_and_says_what_to_do(tmp_path, server):
    url, _, asked = server
    with pytest.raises(UnknownNameError, match="--online"):
        Cache(root=tmp_path, model="m", sae="s", url=url).get(1)
    assert not asked


def test_busy_servers_are_waited_for_as_they_ask(tmp_path, server):
    url, replies, asked = server
    replies += [(429, {"Retry-After": "7"}, b""), (503, {}, b""), (200, {}, BODY)]
    slept = []
    cache(tmp_path, url, slept).get(5)
    assert slept == [7.0, 1.5**2] and len(asked) == 3


def test_a_date_to_retry_after_is_understood(tmp_path, server):
    url, replies, _ = server
    replies += [(429, {"Retry-After": "Thu, 01 Jan 1970 00:00:00 GMT"}, b""), (200, {}, BODY)]
    slept = []
    cache(tmp_path, url, slept).get(5)
    assert slept == [0.0]


def test_a_long_wait_ends_the_attempt(tmp_path, server):
    url, replies, asked = server
    replies.append((429, {"Retry-After": "3600"}, b""))
    slept = []
    with pytest.raises(ResourceError, match="3,600 s of patience"):
        cache(tmp_path, url, slept).get(5)
    assert slept == [] and len(asked) == 1


@pytest.mark.parametrize(
    ("status", "error"), [(400, ResourceError), (403, ResourceError), (404, UnknownNameError)]
)
def test_refusals_are_not_asked_again(tmp_path, server, status, error):
    url, replies, asked = server
    replies.append((status, {"Retry-After": "1"}, b"no"))
    slept = []
    with pytest.raises(error):
        cache(tmp_path, url, slept).get(5)
    assert slept == [] and len(asked) == 1
    assert not list(tmp_path.rglob("*.json"))


def test_three_tries_and_no_more(tmp_path, server):
    url, replies, asked = server
    replies += [(500, {}, b"")] * 5
    with pytest.raises(ResourceError, match="3 tries: 500"):
        cache(tmp_path, url).get(5)
    assert len(asked) == 3
    slept = []
    with pytest.raises(ResourceError, match="did not answer"):
        cache(tmp_path, "http://127.0.0.1:1", slept).get(5)
    assert len(slept) == 2


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"index": "a"}', b'{"no": 1}'])
def test_answers_of_another_kind_are_refused_and_not_kept(tmp_path, server, body):
    url, replies, _ = server
    replies.append((200, {}, body))
    with pytest.raises(FormatError):
        cache(tmp_path, url).get(5)
    assert not list(tmp_path.rglob("*.json"))


@pytest.mark.parametrize("name", ["", "..", "a/../b", "a\\b"])
def test_names_cannot_leave_the_folder(tmp_path, name):
    with pytest.raises(ConfigError):
        Cache(root=tmp_path, model=name, sae="s")


def test_events_are_distinct_whole_and_strongest_first():
    events, log = events_of(parse(ANSWER, "here"), tiny("llama", d_model=16).tokenizer)
    assert [(e.value, e.ids) for e in events] == [(9.0, (99, 100)), (3.0, (97, 98))]
    assert [e.rank for e in events] == [0, 1]
    assert log["n_duplicates"] == 1 and log["n_vocab_dropped"] == 2 and log["n_kept"] == 2
    assert log["roundtrip_failure_examples"][0] == "<bos>two chars"
    assert len(events_of(parse(ANSWER, "here"), tiny("llama", d_model=16).tokenizer, n=1)[0]) == 1


def test_matching_activations_are_told_from_others():
    lm = tiny("llama", d_model=16)
    sae = ReLU(d_in=16, d_out=16, d_sae=24).build(torch.Generator().manual_seed(0))
    sae.b_enc.data.fill_(2.0)
    events, _ = events_of(parse(ANSWER, "here"), lm.tokenizer)
    site = lm.sites()[4]
    x = lm.read(torch.tensor([[256, *events[0].ids]]), [site])[site][:, -1]
    with torch.no_grad():
        true = float(sae.encode(x).dense()[0, 5])
    right = events[0]._replace(value=true + 0.4)
    wrong = events[0]._replace(value=2 * true + 2)
    table = match(lm, sae, site, [right, wrong], 256).columns
    assert table["activation"] == pytest.approx([true, true])
    assert table["ok"] == [True, False]
    no_bos = match(lm, sae, site, [right], None).columns["activation"]
    assert no_bos != pytest.approx([true], abs=1e-4)


def test_cosines_stand_beside_ours():
    rows = cosines_beside(parse(ANSWER, "here"), {8: 0.4, 9: 0.4, 5: 1.0, 77: 0.1})
    assert [(r["neighbour_fid"], r["cosine_neuronpedia"]) for r in rows] == [(8, 0.5), (9, -0.25)]
    assert rows[1]["abs_diff"] == pytest.approx(0.65)


def test_an_answer_about_another_latent_is_refused_and_not_kept(tmp_path, server):
    url, replies, _ = server
    replies.append((200, {}, json.dumps(ANSWER | {"index": 6}).encode()))
    with pytest.raises(FormatError, match="about latent 6; asked for was 5"):
        cache(tmp_path, url).get(5)
    assert not list(tmp_path.rglob("*.json"))
    path = cache(tmp_path, url).path(7)
    path.parent.mkdir(parents=True)
    path.write_bytes(BODY)  # the file of latent 5 under another's number
    for read in (lambda: cache(tmp_path, url).get(7), lambda: quality.records(path.parent, [7])):
        with pytest.raises(FormatError, match="about latent 5; asked for was 7"):
            read()


def call(capsys, *words):
    with pytest.raises(SystemExit) as ended:
        main(["locality", "neuronpedia", *map(str, words)])
    out, err = capsys.readouterr()
    return ended.value.code, json.loads(out.strip().splitlines()[-1]) if out.strip() else None, err


def test_one_bad_latent_does_not_end_a_browse(tmp_path, capsys):
    """Of 20 files one is damaged and one is missing: the others are listed, and these named."""
    home = tmp_path / "m" / "12-res"
    home.mkdir(parents=True)
    for i in range(20):
        (home / f"{i}.json").write_text(json.dumps(ANSWER | {"index": i}))
    (home / "3.json").write_text("{")
    (home / "8.json").unlink()
    words = [
        tmp_path,
        "--model-id",
        "m",
        "--sae-id",
        "12-res",
        "--browse",
        20,
        "--d-sae",
        20,
        "--json",
    ]
    code, found, _ = call(capsys, *words)
    assert code == 3 and found["latents"] == [i for i in range(20) if i not in (3, 8)]
    assert [one["latent"] for one in found["failed"]] == [3, 8]
    path = tmp_path / "candidate_features_l12.md"
    assert found["list"] == str(path)
    listed = candidates.read(path)
    assert [f.latent for f in listed] == found["latents"] and listed[0].description == "letters"
    (home / "8.json").write_text(json.dumps(ANSWER | {"index": 8}))
    (home / "3.json").write_text(json.dumps(ANSWER | {"index": 3}))
    assert call(capsys, *words)[0] == 0
    for old in home.glob("*.json"):
        old.unlink()
    code, found, err = call(capsys, *words)  # nothing is known: an error, and no list
    assert code == 2 and found is None and "--online" in err


def test_a_silent_server_is_left_alone(tmp_path, monkeypatch):
    from saekit.studies.locality.commands.neuronpedia import PATIENCE, _asked

    asked = []

    def silent(self, address):
        asked.append(address)
        raise ResourceError("no answer")

    monkeypatch.setattr(Cache, "_fetch", silent)
    place = cache(tmp_path, "http://127.0.0.1:1")
    place.path(9).parent.mkdir(parents=True)
    place.path(9).write_text(json.dumps(ANSWER | {"index": 9}))
    records, failed = _asked(place, list(range(10)))
    assert len(asked) == PATIENCE and [r.index for r in records] == [9]
    assert [one["latent"] for one in failed] == list(range(9))


def test_a_cache_is_released_with_its_lists(tmp_path, capsys):
    home = tmp_path / "np" / "gemma-2-2b" / "12-res__16k"
    home.mkdir(parents=True)
    (home / "5.json").write_bytes(BODY)
    (tmp_path / "np" / "candidate_features_l12.md").write_text("| feature_id |\n| 5 |\n")
    files = release(tmp_path / "np", tmp_path / "data", label="gemma-2-2b")
    at = dataset.place(
        tmp_path / "data", "neuronpedia_cache", model="gemma-2-2b", sae="12-res/16k", feature=5
    )
    assert files == [at, tmp_path / "data" / "gemma-2-2b" / "candidate_features_l12.md"]
    assert at.read_bytes() == BODY
    (home / "6.json").write_bytes(BODY)
    with pytest.raises(FormatError, match="asked for was 6"):
        release(tmp_path / "np", tmp_path / "data", label="gemma-2-2b")
