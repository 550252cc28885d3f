"""Jobs, compared with the functions that they stand for; and what becomes of them."""

import os
import signal
import subprocess
import sys
import time

import pytest

import saekit
import saekit.core.errors
from saekit.explorer.jobs import Board
from saekit.explorer.problems import Problem
from saekit.explorer.worker import Worker
from saekit.hub.ablation import ablate
from saekit.hub.native import load
from saekit.hub.shared import SharedSAE
from saekit.studies.layers.prompt import PromptReading, Steering
from tests.explorer import world
from tests.explorer.world import done, job

L0, L1 = "sub.folded~L0.resid_post", "sub.folded~L1.resid_post"
TEXT = "the cat sat on the mat"


@pytest.fixture(scope="module")
def lm(made):
    return saekit.load_model(str(made / "llama"), dtype="bfloat16")


@pytest.fixture(scope="module")
def reading(made, lm):
    loaded = load(made / "sub" / "folded", scaled=True)
    return PromptReading(SharedSAE(loaded.sae, loaded.card), lm, TEXT)


@pytest.fixture(scope="module")
def plain(made):
    return saekit.load(made / "plain")


def near(one, other):
    return one == pytest.approx(other, rel=6e-3, abs=1e-6)


def test_a_prompt_of_an_sae_of_several_sites(client, reading):
    said = done(client, kind="prompt", sae="sub.folded", text=TEXT)
    assert [t["text"] for t in said["tokens"]] == [t["token"] for t in reading.token_list()]
    assert [t["counts"] for t in said["tokens"]] == [t["layers"] > 0 for t in reading.token_list()]
    assert said["sites"] == ["L0.resid_post", "L1.resid_post"] and said["numbers"] == [0, 1]
    assert said["d_sae"] == 64
    for site, rows in reading.entries().items():
        pos, latent, value = said["entries"][site]
        assert list(zip(pos, latent, strict=True)) == [(p, i) for p, i, _ in rows]
        assert near(value, [v for _, _, v in rows]) and said["n_entries"][site] == len(rows)
    assert said["histograms"] == reading.histograms(64)
    for row, own in zip(said["metrics"], reading.metrics(), strict=True):
        assert row["tokens"] == own["tokens"] and near(row["fvu"], own["fvu"])


def test_a_prompt_of_one_site(client, plain, lm):
    said = done(client, kind="prompt", sae="plain", text=TEXT)
    shown = saekit.prompt(lm, plain, TEXT)
    pos, latent, value = said["entries"]["L1.resid_post"]
    for place, row in enumerate(shown.top(64)):
        found = {i: v for p, i, v in zip(pos, latent, value, strict=True) if p == place}
        own = dict(row) if bool(shown.kept.flatten()[place]) else {}
        assert set(found) == set(own)
        assert all(near(found[i], abs(own[i])) for i in found)


def test_all_of_one_position_and_of_one_latent(client, reading):
    rows = reading.entries()
    latent = rows["L0.resid_post"][0][1]
    said = done(client, kind="prompt", sae="sub.folded", text=TEXT, pos=3, latent=latent)
    for site in rows:
        at = {i for p, i, _ in rows[site] if p == 3}
        assert set(said["position"]["entries"][site][1]) == at
        on = [p for p, i, _ in rows[site] if i == latent]
        assert said["strip"]["entries"][site][0] == on
    # Layer 0 and latent 0 are a layer and a latent.
    zero = done(client, kind="prompt", sae="sub.folded", text=TEXT, pos=0, latent=0)
    assert zero["position"]["pos"] == 0 and zero["strip"]["latent"] == 0


def test_a_long_prompt_is_cut_and_stays_small(reading):
    every = reading.columns()
    n = sum(len(part[0]) for part in every.values())
    some = reading.columns(60)
    assert sum(len(part[0]) for part in some.values()) <= max(60, 2 * len(reading.ids)) < n
    for site, (pos, latent, value) in every.items():
        kept = set(zip(*some[site][:2], strict=True))
        for place in set(pos):
            row = [(v, i) for p, i, v in zip(pos, latent, value, strict=True) if p == place]
            assert (place, max(row)[1]) in kept  # the strongest of each token and layer


def test_logits_at_layer_0_and_at_the_last(client, reading):
    for site in ("L0.resid_post", "L1.resid_post"):
        said = done(client, kind="logits", sae="sub.folded", text=TEXT, site=site, n=4)
        assert said["steered"] is None and said["site"] == site
        own = reading.logits_reconstructed(site, 4)
        for part in ("top", "up", "down"):
            for row, cells in zip(said["recon"][part], own[part], strict=True):
                assert [c[0] for c in row] == [c["token"] for c in cells]
                assert near([c[1] for c in row], [c["logit"] for c in cells])
    first = done(client, kind="logits", sae=L0, text=TEXT, n=4)
    assert first["site"] == "L0.resid_post"


@pytest.mark.parametrize("unit", ["norm", "act", "max"])
def test_logits_with_a_latent_added(client, reading, made, unit):
    said = done(
        client,
        kind="logits",
        sae="sub.folded",
        text=TEXT,
        site="L0.resid_post",
        latent=0,
        factor=1.5,
        unit=unit,
        pos=2,
        n=3,
    )
    index = saekit.Index(made / "sub" / "folded" / "index" / "L0.resid_post")
    largest = float(index.column("max")[0]) if unit == "max" else 1.0
    steering = Steering("L0.resid_post", 0, 1.5 * largest, "norm" if unit == "norm" else "act")
    own = reading.logits_steered(steering, 3)
    assert len(said["input"]) == 1  # of the one position
    for part in ("top", "up", "down"):
        assert [c[0] for c in said["steered"][part][0]] == [c["token"] for c in own[part][2]]
        assert near([c[1] for c in said["steered"][part][0]], [c["logit"] for c in own[part][2]])


def test_act_units_are_those_of_the_sites_code(reading, made, lm):
    """One act unit moves what is written by the direction of the SAE loaded for that site."""
    import torch

    site = reading.site("L0.resid_post")
    at_site = saekit.load(made / "sub" / "folded", site="L0.resid_post")
    direction = at_site.directions[7]

    def replace(acts):
        return acts + (2.5 * direction).to(acts)

    moved = lm.logits(reading.tokens, {site: replace})[0].float()
    own = reading.logits_steered(Steering("L0.resid_post", 7, 2.5, "act"), 1)
    assert [row[0]["id"] for row in own["top"]] == moved.argmax(-1).tolist()
    torch.testing.assert_close(
        torch.tensor([row[0]["logit"] for row in own["top"]]), moved.amax(-1), rtol=2e-3, atol=1e-3
    )


def test_activations_of_texts(client, plain, lm):
    texts = [TEXT, "x", "日本 🙂"]
    said = done(client, kind="activate", sae="plain", latent=5, texts=texts)
    for text, one in zip(texts, said["texts"], strict=True):
        shown = saekit.prompt(lm, plain, text)
        acts = [0.0] * len(one["tokens"])
        for at, act in zip(one["at"], one["acts"], strict=True):
            acts[at] = act
        assert near(acts, shown.latent(5))
        assert [one["strings"][t] for t in one["tokens"]] == shown.pieces
        assert near(one["max"], max(acts, key=abs))


def test_steering(client, plain, lm, made):
    how = {"n": 6, "temperature": 0.8, "seed": 3, "seeds": 2}
    said = done(client, kind="steer", sae="plain", latent=5, prompt="the", add=[0.5, -2.0], **how)
    own = saekit.steer(lm, plain, 5, prompt="the", add=[0.5, -2.0], **how).to_dict()
    assert said["doses"][0]["texts"] == own["doses"][0]["texts"]
    assert [dose["add"] for dose in said["doses"]] == [0.5, -2.0]
    largest = float(saekit.Index(made / "plain" / "index").column("max")[5])
    said = done(client, kind="steer", sae="plain", latent=5, prompt="the", scale=[2], n=3)
    assert near(said["doses"][0]["add"], 2 * largest)
    site = done(client, kind="steer", sae=L0, latent=0, prompt="the", add=[1.0], n=3)
    assert site["latent"] == 0 and len(site["doses"]) == 1


def test_ablation(client, plain, lm):
    latent = max((v, i) for i, v in saekit.prompt(lm, plain, TEXT).top(64)[4])[1]
    said = done(client, kind="ablate", sae="plain", latent=latent, text=TEXT)
    own = ablate(lm, plain, latent, TEXT)
    assert said["loss"][0] is None and said["change"][0] is None
    assert near(said["loss"][1:], own.loss[1:]) and any(said["change"][1:])
    assert said["at"] == [i for i, act in enumerate(own.acts) if act]


def test_matching(client):
    said = done(client, kind="match", sae="plain", other="plain")
    assert said["share_over"] == {"0.5": 1.0, "0.7": 1.0, "0.9": 1.0}
    assert all(one == other and cosine > 0.999 for one, other, cosine in said["pairs"])
    assert sum(said["histogram"]["counts"]) == 64
    done(client, kind="match", sae="plain", other=L1)


def refused(client, status, **asked):
    answer = client.post("/jobs", json=asked)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    return answer.json()["detail"]


def test_jobs_that_are_refused_at_once(client):
    refused(client, 404, kind="prompt", sae="none", text="x")
    refused(client, 422, kind="shell", sae="plain", text="rm")
    refused(client, 422, kind="prompt", sae="plain")
    refused(client, 422, kind="prompt", sae="plain", text="x", command="ls")
    refused(client, 422, kind="prompt", sae="plain", text="x" * 10_001)
    refused(client, 422, kind="prompt", sae="plain", text=["x"])
    refused(client, 422, kind="activate", sae="plain", latent=1, texts=["x"] * 33)
    refused(client, 422, kind="activate", sae="plain", latent=True, texts=["x"])
    assert "0..63" in refused(client, 404, kind="activate", sae="plain", latent=64, texts=["x"])
    assert "0..63" in refused(client, 404, kind="ablate", sae=L0, latent=64, text="x")
    refused(client, 422, kind="steer", sae="plain", latent=1, prompt="x")
    refused(client, 422, kind="steer", sae="plain", latent=1, prompt="x", scale=[1], add=[1])
    refused(client, 422, kind="steer", sae="plain", latent=1, prompt="x", add=[1], n=100_000)
    refused(client, 422, kind="index", sae="plain", tokens=0)
    refused(client, 404, kind="match", sae="plain", other="../plain")
    refused(client, 422)


def failed(client, **asked):
    found = job(client, **asked)
    assert found["state"] == "failed" and found["result"] is None
    return found["error"]


def test_what_a_model_cannot_do_is_said(client):
    assert "empty" in failed(client, kind="prompt", sae="plain", text="")["detail"]
    assert "empty" in failed(client, kind="logits", sae="plain", text="")["detail"]
    long = failed(client, kind="prompt", sae="plain", text="x " * 4000)
    assert "tokens" in long["detail"] and long["status"] == 400
    at = failed(client, kind="logits", sae="plain", text="x", site="L9.resid_post")
    assert "L1.resid_post" in at["detail"]
    beyond = failed(client, kind="logits", sae="plain", text="x", pos=50)
    assert "0..1" in beyond["detail"]


def test_one_token_is_enough(client):
    for sae in ("plain", "sub.folded"):
        said = done(client, kind="prompt", sae=sae, text="a")
        assert len(said["tokens"]) == 2  # with BOS
        assert done(client, kind="logits", sae=sae, text="a", n=2)["recon"]["top"]
    said = done(client, kind="ablate", sae="plain", latent=0, text="a")
    assert len(said["loss"]) == 2
    assert done(client, kind="activate", sae="plain", latent=0, texts=["a"])["texts"]


def test_a_latent_that_is_never_on(client, made):
    density = saekit.Index(made / "plain" / "index").column("density")
    dead = [i for i, d in enumerate(density) if d == 0]
    if not dead:
        pytest.skip("every latent of this SAE is on somewhere")
    said = refused(client, 400, kind="steer", sae="plain", latent=dead[0], prompt="x", scale=[1])
    assert "never on" in said
    assert client.get(f"/saes/plain/latents/{dead[0]}").json()["histogram"] is None


def test_an_sae_of_another_model(folder, made):
    """The name still leads to a model, but to another one than in training."""
    from saekit.explorer import work
    from saekit.models.tiny import save_tiny

    other = folder / "other"
    save_tiny(other, seed=5, n_layers=2)
    config = folder / "plain" / "sae" / "card.json"
    config.write_text(config.read_text().replace(str(made / "llama"), str(other)))
    sae = {"folder": str(folder / "plain"), "site": None, "model": None}
    args = {"sae": sae, "text": "x", "pos": None, "latent": None}
    answer = work.done(work.Bench(lambda text, fraction: None), {"kind": "prompt", "args": args})
    detail = answer["error"]["detail"]
    assert "was trained on" in detail and "revision" in detail


def serving(folder, **options):
    import contextlib

    from saekit.explorer.serve import Options, served

    @contextlib.contextmanager
    def opened():
        links = []
        with served(folder, Options(port=0, **options), links.append) as explorer:
            client = world.client_of(explorer, links)
            client.explorer = explorer
            yield client
            client.close()

    return opened()


# A worker that makes indexes as it does anywhere, which takes a process that loads PyTorch; what
# else it is asked it answers at once.
INDEXES = """
import itertools, json, sys
first = sys.stdin.readline()
if json.loads(first)["kind"] == "index":
    sys.stdin = itertools.chain([first], sys.stdin)
    from saekit.explorer.work import main
    main()
for line in itertools.chain([first], sys.stdin):
    answer = {"result": {"tokens": json.loads(line)["args"]["text"]}, "model": None}
    sys.stdout.write(json.dumps(answer) + "\\n")
    sys.stdout.flush()
"""


def test_an_index_is_made_by_a_job_and_prompts_go_on_meanwhile(folder, monkeypatch):
    import shutil

    monkeypatch.setattr("saekit.explorer.worker.COMMAND", INDEXES)
    shutil.rmtree(folder / "plain" / "index")
    with serving(folder) as client:
        assert client.get("/saes/plain").json()["card"]["index"]["state"] == "missing"
        answer = client.post("/jobs", json={"kind": "index", "sae": "plain", "tokens": 2000})
        assert done(client, kind="prompt", sae="plain", text="x")["tokens"]
        found = client.explorer.board.wait(answer.json()["id"], 120)
        assert found.state == "done", found.error
        assert client.get("/saes/plain").json()["card"]["index"]["state"] == "ok"
        assert client.get("/saes/plain/latents").json()["total"] == 64
        # A closed page loses nothing: the job and its result are there for another.
        listed = client.get("/jobs").json()["jobs"]
        assert [one["kind"] for one in listed] == ["prompt", "index"]
        assert "result" not in listed[0] and listed[0]["asked"]["text"] == "x"
        assert client.get(f"/jobs/{listed[0]['id']}").json()["result"]["tokens"]


def test_read_only_makes_no_index(folder, monkeypatch):
    monkeypatch.setattr("saekit.explorer.worker.COMMAND", INDEXES)
    with serving(folder, read_only=True) as client:
        refused(client, 403, kind="index", sae="plain", tokens=100)
        answer = client.put("/saes/plain/latents/1/label", json={"text": "x"})
        assert answer.status_code == 403 and "read-only" in answer.json()["detail"]
        assert done(client, kind="prompt", sae="plain", text="x")["tokens"]
    assert not (folder / ".saekit").exists()


STUB = """
import json, sys, time, os, signal
def answer(x):
    sys.stdout.write(json.dumps(x) + "\\n")
    sys.stdout.flush()
held = None
for line in sys.stdin:
    asked = json.loads(line)["args"]
    do = asked["do"]
    answer({"progress": {"text": do, "fraction": 0.5}})
    if do == "sleep":
        time.sleep(600)
    elif do == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        answer({"progress": {"text": "stubborn", "fraction": 1}})
        time.sleep(600)
    elif do == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    elif do == "leave":
        sys.exit(3)
    elif do == "eat":
        held = [bytearray(2**20) for _ in range(400)]
        for part in held:
            part[::4096] = b"x" * len(part[::4096])
        time.sleep(600)
    elif do == "nonsense":
        sys.stdout.write("not json\\n")
        sys.stdout.flush()
    elif do == "large":
        answer({"result": "x" * asked["n"], "model": None})
    else:
        answer({"result": os.getpid(), "model": "stub"})
"""


@pytest.fixture
def board(monkeypatch):
    """A board whose worker is a process of a few lines, with the same pipes."""
    monkeypatch.setattr("saekit.explorer.worker.COMMAND", STUB)
    made = Board(memory_bytes=200 * 2**20, idle_seconds=0.3)
    yield made
    made.close()
    assert made.pids() == []


def asked(board, do, **more):
    return board.add("prompt", {"do": do}, {"do": do, **more})


def over(board, one, seconds=20):
    found = board.wait(one.id, seconds)
    assert found.state in ("done", "failed", "cancelled"), found.record()
    return found


def started(board, one):
    until = time.monotonic() + 10
    while board.get(one.id).progress["text"] in ("waiting", "starting"):
        assert time.monotonic() < until
        time.sleep(0.01)


def is_gone(pid, seconds=20):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.02)
    raise AssertionError("the process lives on")


def test_a_worker_starts_with_the_first_job_and_stays(board):
    assert board.pids() == []
    first, second = over(board, asked(board, "pid")), over(board, asked(board, "pid"))
    assert first.result == second.result and board.pids() == [first.result]
    assert board.model == "stub"


def test_a_worker_without_a_job_is_ended(board):
    pid = over(board, asked(board, "pid")).result
    until = time.monotonic() + 10
    while board.pids():
        assert time.monotonic() < until
        time.sleep(0.05)
    is_gone(pid)
    assert board.model is None
    assert over(board, asked(board, "pid")).result != pid


@pytest.mark.parametrize("do", ["sleep", "stubborn"])
def test_a_job_is_cancelled_and_the_next_one_is_done(board, do):
    one, next_one = asked(board, do), asked(board, "pid")
    started(board, one)
    time.sleep(0.2)
    (pid,) = board.pids()
    assert board.cancel(one.id).state == "cancelled"
    found = over(board, next_one)
    assert found.state == "done" and found.result != pid
    is_gone(pid)
    assert board.get(one.id).state == "cancelled"
    assert board.cancel(next_one.id).state == "done"  # what is over stays as it is


def test_a_waiting_job_is_cancelled(board):
    one, waiting = asked(board, "sleep"), asked(board, "pid")
    assert board.cancel(waiting.id).state == "cancelled"
    board.cancel(one.id)
    assert over(board, asked(board, "pid")).state == "done"
    assert board.get(waiting.id).state == "cancelled"


@pytest.mark.parametrize("do", ["die", "leave", "nonsense"])
def test_a_worker_that_breaks_fails_its_job_alone(board, do):
    found = over(board, asked(board, do))
    assert found.state == "failed" and found.error["detail"] and found.error["status"] == 500
    assert over(board, asked(board, "pid")).state == "done"


def test_a_worker_killed_from_outside(board):
    one = asked(board, "sleep")
    started(board, one)
    os.kill(board.pids()[0], signal.SIGKILL)
    assert "was killed" in over(board, one).error["detail"]
    assert over(board, asked(board, "pid")).state == "done"
    # Between jobs too.
    os.kill(board.pids()[0], signal.SIGKILL)
    time.sleep(0.2)
    assert over(board, asked(board, "pid")).state == "done"


@pytest.mark.skipif(sys.platform != "linux", reason="memory of a process is read from /proc")
def test_a_job_that_takes_too_much_memory_is_ended(board):
    found = over(board, asked(board, "eat"))
    assert found.state == "failed" and "GB of memory" in found.error["detail"]
    assert "--memory" in found.error["remedy"]
    assert over(board, asked(board, "pid")).state == "done"


def test_jobs_are_kept_within_bounds(board, monkeypatch):
    monkeypatch.setattr("saekit.explorer.jobs.MOST_KEPT", 3)
    ids = [over(board, asked(board, "pid")).id for _ in range(6)]
    over(board, asked(board, "pid"))
    with pytest.raises(Problem):
        board.get(ids[0])
    assert len(board.all()) <= 4
    monkeypatch.setattr("saekit.explorer.jobs.KEPT_BYTES", 1000)
    large = over(board, asked(board, "large", n=5000))
    last = over(board, asked(board, "pid"))
    over(board, asked(board, "pid"))
    with pytest.raises(Problem):
        board.get(large.id)
    assert board.get(last.id).result


def test_too_many_jobs_are_refused(board):
    first = asked(board, "sleep")
    started(board, first)
    for _ in range(32):
        asked(board, "pid")
    with pytest.raises(Problem) as caught:
        asked(board, "pid")
    assert caught.value.status == 429


def test_the_worker_goes_with_the_server(made):
    """Where the server is killed, its worker ends by itself."""
    code = (
        "from saekit.explorer.worker import Worker\nimport os, signal\n"
        "w = Worker()\nw.send('prompt', {'sae': {'folder': '/none', 'site': None, 'model': None},"
        " 'text': 'x', 'pos': None, 'latent': None})\n"
        "answer = None\nwhile answer is None or 'progress' in answer: answer = w.look()\n"
        "print(w.pid, 'error' in answer, flush=True)\nos.kill(os.getpid(), signal.SIGKILL)"
    )
    words = [sys.executable, "-c", code]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=120)
    pid, is_error = ended.stdout.split()
    assert is_error == "True"
    is_gone(int(pid))


def test_a_worker_that_cannot_be_started(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/none/python")
    with pytest.raises(Problem, match="cannot be started"):
        Worker().send("prompt", {})


@pytest.fixture(scope="module")
def joint(made, lm, tmp_path_factory):
    """An SAE that codes two sites at once."""
    from saekit.activations.pairs import Pair
    from saekit.saes.crosscoder import Crosscoder
    from tests import world as tests_world

    folder = tmp_path_factory.mktemp("joint")
    sae = Crosscoder(d_in=32, d_out=32, d_sae=64, k=4, n_sites=2)
    run = tests_world.run(folder, pair=Pair(read=world.FOLDED), sae=sae, model=str(made / "llama"))
    saekit.train(lm, run=run, out=folder / "run", shown=False)
    return {"folder": str(folder / "run"), "site": None, "model": None}


def test_a_prompt_of_an_sae_of_two_sites_at_once(joint, lm):
    from saekit.explorer import work

    said = []
    bench = work.Bench(lambda text, fraction: said.append(text))
    args = {"sae": joint, "text": TEXT, "pos": 2, "latent": 0}
    found = work.prompt(bench, args)
    loaded = saekit.load(joint["folder"])
    shown = saekit.prompt(lm, loaded, TEXT)
    (label,) = found["sites"]
    pos, latent, value = found["entries"][label]
    own = [
        (p, i, abs(v))
        for p, row in enumerate(shown.top(64))
        for i, v in sorted(row)
        if bool(shown.kept.flatten()[p])
    ]
    got = sorted(zip(pos, latent, value, strict=True))
    assert [(p, i) for p, i, _ in got] == [(p, i) for p, i, _ in own]
    assert near([v for _, _, v in got], [v for _, _, v in own])
    assert set(found["position"]["entries"][label][0]) == {2}
    assert set(found["strip"]["entries"][label][1]) <= {0}
    assert "reading the SAE" in said and "loading llama" in said
    with pytest.raises(saekit.core.errors.ConfigError, match="no latent 64"):
        work.prompt(bench, args | {"latent": 64})
    answer = work.done(bench, {"kind": "logits", "args": args | {"site": None, "n": 2}})
    assert "jointly" in answer["error"]["detail"]


def test_whatever_goes_wrong_in_a_job_is_told(monkeypatch):
    from saekit.explorer import work

    def broken(bench, args):
        raise args

    monkeypatch.setitem(work.KINDS, "prompt", broken)
    bench = work.Bench(lambda text, fraction: None)
    for error, status in ((RuntimeError("x"), 500), (MemoryError(), 503), (KeyError("k"), 500)):
        answer = work.done(bench, {"kind": "prompt", "args": error})
        assert answer["error"]["status"] == status and answer["error"]["detail"]
