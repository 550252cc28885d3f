"""`saekit serve` as a process: what it costs, how it starts and ends, many readers at once."""

import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from saekit.cli.main import main
from saekit.core.errors import ConfigError, FormatError, MissingExtraError
from saekit.core.machine import memory_of
from saekit.explorer import serve as serving
from saekit.explorer.serve import Explorer, Options, bound, hosts_of
from tests.explorer import world

READERS = 50


@pytest.fixture
def ten(made, tmp_path):
    """A folder with ten SAEs."""
    place = tmp_path / "ten"
    for i in range(10):
        shutil.copytree(made / "plain", place / f"run{i}")
    return place


@pytest.fixture
def process():
    """Starts `saekit serve` with words; ended with the test."""
    started = []

    def start(*words):
        code = "from saekit.cli.main import main; main()"
        made = subprocess.Popen(
            [sys.executable, "-c", code, *map(str, words)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(made)
        return made

    yield start
    for one in started:
        if one.poll() is None:
            one.kill()
        one.communicate()


def test_it_starts_small_and_without_torch(ten, process):
    # How long it takes is measured in benchmarks/explorer.py: here others may be busy.
    made = process("serve", ten, "--port", 0, "--json")
    said = json.loads(made.stdout.readline())
    token = (ten / ".saekit" / "token").read_text().strip()
    assert said["token_file"] == str(ten / ".saekit" / "token")
    own = {"Authorization": f"Bearer {token}"}
    at = f"{said['address']}api/v1"
    answer = httpx.get(f"{at}/library", headers=own, trust_env=False, verify=False, timeout=30)
    assert len(answer.json()["saes"]) == 10
    for i in range(10):
        path = f"{at}/saes/run{i}"
        for part in ("", "/latents", "/latents/3", "/search?q=e"):
            assert httpx.get(
                path + part, headers=own, trust_env=False, verify=False, timeout=30
            ).is_success
    used = memory_of(made.pid)
    maps = Path(f"/proc/{made.pid}/maps")
    assert used is None or used < 250e6, used
    assert not maps.exists() or "libtorch" not in maps.read_text()
    made.send_signal(signal.SIGINT)
    out, err = made.communicate(timeout=20)
    assert made.returncode == 0 and "Traceback" not in err, err


def test_it_says_the_address_and_ends_with_ctrl_c(made, process):
    one = process("serve", made, "--port", 0, "--read-only")
    line = one.stderr.readline()
    link = line.split()[-1]
    assert line.startswith("open http://127.0.0.1:") and "#token=" in link
    at, token = link.partition("#")[0], world.token_in(link)
    assert httpx.get(at, trust_env=False, verify=False).status_code == 200
    answer = httpx.post(
        f"{at}api/v1/session",
        json={"token": token},
        headers={"X-Saekit": "1"},
        trust_env=False,
        verify=False,
    )
    assert answer.status_code == 204
    again = one.stderr.readline()
    assert "the link was used" in again and world.token_in(again.split()[-1]) != token
    one.send_signal(signal.SIGINT)
    out, err = one.communicate(timeout=20)
    assert one.returncode == 0 and not out and "Traceback" not in err


def test_it_ends_with_a_model_at_work(made, process):
    one = process("serve", made, "--port", 0, "--read-only", "--json", "--token-file", made / "t")
    said = json.loads(one.stdout.readline())
    own = {"Authorization": f"Bearer {(made / 't').read_text().strip()}", "X-Saekit": "1"}
    asked = {"kind": "prompt", "sae": "plain", "text": "x"}
    at = f"{said['address']}api/v1"
    assert (
        httpx.post(f"{at}/jobs", json=asked, headers=own, trust_env=False, verify=False).status_code
        == 202
    )
    time.sleep(0.5)
    one.send_signal(signal.SIGTERM)
    one.communicate(timeout=20)
    with pytest.raises(httpx.ConnectError):
        httpx.get(at, trust_env=False, verify=False)
    (made / "t").unlink()


def test_many_readers_at_once(site):
    paths = ["/library", "/saes/plain", "/saes/plain/latents?where=density>0 sort -max", "/meta"]
    paths += [f"/saes/plain/latents/{i}" for i in range(20)]
    own = dict(site.client.headers) | {
        "Cookie": "; ".join(f"{k}={v}" for k, v in site.client.cookies.items())
    }
    expected = {path: site.client.get(path).content for path in paths}

    def reader(i):
        with httpx.Client(
            base_url=site.client.base_url, headers=own, trust_env=False, verify=False
        ) as client:
            for j in range(8):
                path = paths[(i + 3 * j) % len(paths)]
                answer = client.get(path, timeout=60)
                if path not in ("/meta",):  # which says whether a model is there
                    assert answer.content == expected[path]
                assert answer.status_code == 200
        return True

    with ThreadPoolExecutor(READERS) as pool:
        assert all(pool.map(reader, range(READERS)))


def test_a_port_that_is_taken_is_said(made, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port} of 127.0.0.1") as caught:
            bound("127.0.0.1", port)
        assert "--port 0" in str(caught.value)
        with pytest.raises(SystemExit) as ended:
            main(["serve", str(made), "--port", str(port), "--read-only"])
        assert ended.value.code == 2
        assert f"port {port}" in capsys.readouterr().err


def test_the_next_port_is_taken_where_none_was_named(monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        monkeypatch.setattr(serving, "PORT", taken.getsockname()[1])
        with bound("127.0.0.1", None) as found:
            assert found.getsockname()[1] > serving.PORT
            assert found.getsockname()[0] == "127.0.0.1"


@pytest.mark.parametrize("port", [-1, 65536, 10**9])
def test_ports_that_are_none(port):
    with pytest.raises(ConfigError, match="A port is 0 to 65535"):
        bound("127.0.0.1", port)


def test_only_this_machine_is_served_unless_asked(made):
    explorer = Explorer(made, Options(port=0, read_only=True), lambda link: None)
    try:
        assert explorer.socket.getsockname()[0] == "127.0.0.1"
        assert explorer.gate.hosts == (f"127.0.0.1:{explorer.port}", f"localhost:{explorer.port}")
    finally:
        explorer.close()
    assert hosts_of("192.168.1.5", 80)[0] == "192.168.1.5:80"
    assert hosts_of("::1", 80)[0] == "[::1]:80"
    every = hosts_of("0.0.0.0", 80)
    assert "0.0.0.0:80" not in every and "127.0.0.1:80" in every
    with pytest.raises(ConfigError, match="cannot listen"):
        bound("203.0.113.7", 0)


def test_beyond_this_machine_there_is_a_warning(made, process):
    one = process("serve", made, "--port", 0, "--read-only", "--unsafe-host", "127.0.0.1")
    said = one.stderr.readline()
    assert said.startswith("warning") and "without encryption" in said and "ssh" in said.lower()


def test_what_cannot_be_served(tmp_path):
    with pytest.raises(FormatError, match="There is no folder"):
        Explorer(tmp_path / "none", Options(port=0))
    with pytest.raises(ConfigError, match=r"0\.3 GB"):
        Explorer(tmp_path, Options(port=0, memory_gb=0.01))


def test_an_empty_folder_is_served(tmp_path):
    links = []
    with serving.served(tmp_path, Options(port=0), links.append) as explorer:
        client = world.client_of(explorer, links)
        assert client.get("/library").json() == {"saes": [], "runs": [], "studies": [], "notes": []}
        client.close()


def test_without_the_web_libraries_the_command_to_install_them_is_named(tmp_path, monkeypatch):
    found = importlib.util.find_spec

    def lacking(name, *rest):
        return None if name == "fastapi" else found(name, *rest)

    monkeypatch.setattr(importlib.util, "find_spec", lacking)
    with pytest.raises(MissingExtraError, match=r"pip install 'saekit\[web\]'"):
        Explorer(tmp_path, Options(port=0))


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write all")
def test_a_folder_that_cannot_be_written_is_served(made, tmp_path):
    place = tmp_path / "fixed"
    shutil.copytree(made / "plain", place / "plain")
    place.chmod(0o500)
    try:
        explorer = Explorer(place, Options(port=0), lambda link: None)
        assert place not in explorer.labels.path.parents
        explorer.close()
    finally:
        place.chmod(0o700)


def test_labels_of_a_folder_that_cannot_be_written_go_to_the_users_own(tmp_path, monkeypatch):
    from saekit.explorer.labels import place_for

    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert place_for(tmp_path) == tmp_path / ".saekit" / "explorer.db"
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert place_for(tmp_path) == tmp_path / "data" / "saekit" / "explorer.db"
