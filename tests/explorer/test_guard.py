"""Attacks on the server: hosts, other pages, sessions, paths, bodies, slow clients."""

import json
import socket
import stat
import time

import httpx
import pytest

from saekit.explorer import protocol, security
from saekit.explorer.problems import Problem
from saekit.explorer.security import Gate
from tests.explorer import world

JSON = {"Content-Type": "application/json", "X-Saekit": "1"}


def raw(site, text: bytes, seconds: float = 5) -> bytes:
    """Send bytes and return what comes back until the server closes or falls silent."""
    with socket.create_connection(("127.0.0.1", site.explorer.port), timeout=seconds) as s:
        s.sendall(text)
        found = b""
        try:
            while chunk := s.recv(65536):
                found += chunk
        except TimeoutError:
            pass
        except ConnectionResetError:
            pass
        return found


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.1 ") else 0


def asked(site, path="/api/v1/meta", method="GET", headers=None, **how):
    own = {"Cookie": f"{site.explorer.gate.cookie}={cookie(site)}"}
    return httpx.request(
        method,
        f"http://127.0.0.1:{site.explorer.port}{path}",
        headers={**own, **(headers or {})},
        trust_env=False,
        verify=False,
        **how,
    )


def cookie(site):
    return site.client.cookies[site.explorer.gate.cookie]


def test_a_session_reads(site):
    assert asked(site).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:PORT",
        "127.0.0.1",
        "127.0.0.1:1",
        "127.0.0.1:PORT.evil.example",
        "127.0.0.1:PORT@evil.example",
        "localhost.:PORT",
        "0.0.0.0:PORT",
        "[::]:PORT",
        "2130706433:PORT",
        "127.0.0.1:PORT:PORT",
        "",
    ],
)
@pytest.mark.parametrize("path", ["/", "/api/v1/meta", "/web/main.js"])
def test_another_host_is_refused(site, host, path):
    named = host.replace("PORT", str(site.explorer.port))
    answer = raw(
        site,
        f"GET {path} HTTP/1.1\r\nHost: {named}\r\nConnection: close\r\n"
        f"Cookie: {site.explorer.gate.cookie}={cookie(site)}\r\n\r\n".encode(),
    )
    assert status_of(answer) in (400, 421)
    assert b"saekit_" not in answer


def test_no_host_and_two_hosts(site):
    own = f"127.0.0.1:{site.explorer.port}"
    assert status_of(raw(site, b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n")) == 400
    two = f"GET / HTTP/1.1\r\nHost: {own}\r\nHost: evil.example\r\nConnection: close\r\n\r\n"
    assert status_of(raw(site, two.encode())) == 400
    absolute = f"GET http://evil.example/ HTTP/1.1\r\nHost: {own}\r\nConnection: close\r\n\r\n"
    assert status_of(raw(site, absolute.encode())) in (400, 404)


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "LOCALHOST"])
def test_own_hosts_are_answered(site, name):
    answer = asked(site, headers={"Host": f"{name}:{site.explorer.port}"})
    assert answer.status_code == 200


@pytest.mark.parametrize(
    "origin",
    ["http://evil.example", "null", "https://127.0.0.1:PORT", "http://127.0.0.1", "file://"],
)
@pytest.mark.parametrize("path", ["/", "/api/v1/meta", "/web/main.js"])
def test_another_origin_is_refused(site, origin, path):
    named = origin.replace("PORT", str(site.explorer.port))
    answer = asked(site, path, headers={"Origin": named})
    assert answer.status_code == 403
    assert "access-control-allow-origin" not in answer.headers


def test_own_origin_is_answered_and_no_other_gets_cors(site):
    own = f"http://127.0.0.1:{site.explorer.port}"
    answer = asked(site, headers={"Origin": own, "Sec-Fetch-Site": "same-origin"})
    assert answer.status_code == 200
    assert not [name for name in answer.headers if name.startswith("access-control")]
    preflight = {"Origin": "http://evil.example", "Access-Control-Request-Method": "PUT"}
    answer = asked(site, method="OPTIONS", headers=preflight)
    assert answer.status_code == 403
    assert not [name for name in answer.headers if name.startswith("access-control")]


@pytest.mark.parametrize("fetch", ["cross-site", "same-site", "nonsense"])
@pytest.mark.parametrize("path", ["/api/v1/meta", "/web/main.js", "/api/v1/labels"])
def test_requests_across_sites_are_refused(site, fetch, path):
    assert asked(site, path, headers={"Sec-Fetch-Site": fetch}).status_code == 403
    navigation = {"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    answer = asked(site, path, headers={"Sec-Fetch-Site": fetch, **navigation})
    assert answer.status_code == 403


def test_a_link_on_another_page_opens_our_page_and_a_frame_does_not(site):
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert asked(site, "/", headers={**link, "Sec-Fetch-Dest": "document"}).status_code == 200
    for dest in ("iframe", "frame", "object", "embed", "image", "script"):
        assert asked(site, "/", headers={**link, "Sec-Fetch-Dest": dest}).status_code == 403


def test_a_form_of_another_page_changes_nothing(site):
    """What a form can send: three content types, no header of its own."""
    body = json.dumps({"name": "by a form"})
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        for own in ({}, {"X-Saekit": "1"}):
            headers = {"Content-Type": kind, **own}
            answer = asked(site, "/api/v1/lists", "POST", headers, content=body)
            assert answer.status_code in (403, 415)
    assert asked(site, "/api/v1/lists", "POST", {"Content-Type": "application/json"}, content=body)
    assert asked(site, "/api/v1/lists").json() == {"lists": []}


def test_nothing_is_answered_without_a_session(site):
    at = f"http://127.0.0.1:{site.explorer.port}"
    schema = json.loads((world_openapi()).read_text())
    for path, methods in schema["paths"].items():
        if path.endswith("/session"):
            continue
        filled = path.replace("{sae}", "plain").replace("{latent}", "0").replace("{number}", "1")
        filled = filled.replace("{job}", "x").replace("{run}", "plain").replace("{study}", "x")
        filled = filled.replace("{panel}", "x")
        for method in methods:
            headers = {**JSON, "Cookie": f"{site.explorer.gate.cookie}=guess"}
            answer = httpx.request(
                method, at + filled, headers=headers, trust_env=False, verify=False
            )
            assert answer.status_code == 401, (method, path)
            assert answer.headers["content-type"] == "application/problem+json"


def world_openapi():
    from pathlib import Path

    import saekit.explorer

    return Path(saekit.explorer.__path__[0]) / "openapi.json"


def test_a_link_is_worth_one_session(made):
    from saekit.explorer.serve import Options, served

    links = []
    with served(made, Options(port=0, read_only=True), links.append) as explorer:
        first = world.token_in(links[-1])
        at = f"{explorer.address}api/v1/session"
        assert len(links) == 1 and len(first) >= 40

        def exchanged(token, **headers):
            return httpx.post(
                at,
                json={"token": token},
                headers={**JSON, **headers},
                trust_env=False,
                verify=False,
            )

        assert exchanged("guess").status_code == 401
        assert exchanged(first, Origin="http://evil.example").status_code == 403
        opened = exchanged(first)
        assert opened.status_code == 204
        said = opened.headers["set-cookie"]
        assert "HttpOnly" in said and "samesite=strict" in said.lower() and "Path=/" in said
        assert "Domain" not in said
        # Used once it is worthless, and a new one was said.
        assert exchanged(first).status_code == 401
        assert len(links) == 2 and world.token_in(links[1]) != first
        assert exchanged(world.token_in(links[1])).status_code == 204
        name, _, value = said.partition(";")[0].partition("=")
        own = {"Cookie": f"{name}={value}", **JSON}
        at = f"{explorer.address}api/v1"
        assert (
            httpx.get(f"{at}/meta", headers=own, trust_env=False, verify=False).status_code == 200
        )
        assert (
            httpx.delete(f"{at}/session", headers=own, trust_env=False, verify=False).status_code
            == 204
        )
        assert (
            httpx.get(f"{at}/meta", headers=own, trust_env=False, verify=False).status_code == 401
        )


def test_scripts_have_a_token_of_their_own(site):
    assert stat.S_IMODE(site.token_file.stat().st_mode) == 0o600
    token = site.token_file.read_text().strip()
    at = f"http://127.0.0.1:{site.explorer.port}/api/v1/meta"
    for value, status in (
        (f"Bearer {token}", 200),
        ("Bearer x", 401),
        (token, 401),
        ("Basic eDp5", 401),
    ):
        answer = httpx.get(at, headers={"Authorization": value}, trust_env=False, verify=False)
        assert answer.status_code == status


def test_old_sessions_make_room():
    gate = Gate(["127.0.0.1:1"], lambda link: None)
    values = [
        gate.open_session(world.token_in(gate.link)) for _ in range(security.MOST_SESSIONS + 1)
    ]
    assert not gate.admits(values[0], None) and gate.admits(values[1], None)
    with pytest.raises(Problem):
        gate.open_session("é\udc80")


@pytest.mark.parametrize(
    "path",
    [
        "/../../etc/passwd",
        "/web/../../../etc/passwd",
        "/web/..%2f..%2f..%2fetc%2fpasswd",
        "/web/%2e%2e/%2e%2e/etc/passwd",
        "/web/..%252f..%252fetc/passwd",
        "/web/....//....//etc/passwd",
        "/web//etc/passwd",
        "//etc/passwd",
        "/web/..\\..\\etc\\passwd",
        "/web/..%5c..%5cetc%5cpasswd",
        "/web/main.js%00.css",
        "/web/%c0%ae%c0%ae/etc/passwd",
        "/web/.",
        "/web/",
        "/web",
        "/api/v1/saes/..%2f..%2fetc",
        "/api/v1/saes/%2e%2e",
        "/api/v1/saes/plain/../../labels",
        "/api/v1/saes/..%252f..%252fetc%252fpasswd",
        "/api/v1/saes/%2fetc%2fpasswd",
        "/api/v1/runs/..%2fplain",
        "/api/v1/runs/%2e%2e%2f%2e%2e",
        "/api/v1/studies/..",
        "/api/v1/saes/plain/latents/..%2f..%2fx",
        "/api/v1/jobs/..%2f..%2fx",
        "/openapi.json",
        "/docs",
        "/.saekit/explorer.db",
    ],
)
def test_no_path_leaves_what_is_served(site, path):
    own = f"127.0.0.1:{site.explorer.port}"
    said = (
        f"GET {path} HTTP/1.1\r\nHost: {own}\r\nConnection: close\r\n"
        f"Cookie: {site.explorer.gate.cookie}={cookie(site)}\r\n\r\n"
    )
    answer = raw(site, said.encode("latin-1"))
    assert status_of(answer) in (400, 404), answer[:200]
    assert b"root:" not in answer


def test_links_out_of_the_folder_are_not_followed(folder, tmp_path):
    from saekit.explorer.library import Library, own

    secret = tmp_path / "secret"
    secret.mkdir()
    (folder / "plain").rename(secret / "run")
    (folder / "linked").symlink_to(secret / "run")
    found = Library(folder).scan(older_than=0)
    assert list(found.runs) == ["sub.folded"]
    # A run of one's own whose files lead elsewhere.
    (folder / "half").mkdir()
    for name in ("run.json", "manifest.json", "log.jsonl"):
        (folder / "half" / name).symlink_to(secret / "run" / name)
    (folder / "half" / "sae").symlink_to(secret / "run" / "sae")
    found = Library(folder).scan(older_than=0)
    assert "half" not in found.saes and "half" not in found.runs
    index = folder / "sub" / "folded" / "index" / "L0.resid_post"
    index.rename(secret / "index")
    index.symlink_to(secret / "index")
    entry = Library(folder).sae("sub.folded~L0.resid_post")
    assert entry.state().state == "damaged" and "link" in entry.state().reason
    assert not own(index / "index.json")


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 422),
        (b"{", 400),
        (b"[" * 100_00 + b"]" * 100_00, 400),
        (b'{"name": ' + b"[" * 70 + b"]" * 70 + b"}", 400),
        (b'{"name": "a\\u0000b"}', 400),
        (b'{"name": "\\ud800"}', 400),
        (b'{"name": "\xff"}', 400),
        (b'{"name": "\xed\xa0\x80"}', 400),
        (b'{"name": NaN}', 400),
        (b'{"name": Infinity}', 400),
        (b'{"name": 1e999}', 400),
        (b'{"name": ' + b"9" * 5000 + b"}", 400),
        (b'{"name": 99999999999999999999}', 400),
        (b'{"name": 1}', 422),
        (b'{"name": null}', 422),
        (b'{"name": "x", "more": 1}', 422),
        (b'["name"]', 422),
        (b'"name"', 422),
        (b"null", 422),
        (b'{"name": "' + b"x" * 70_000 + b'"}', 413),
    ],
)
def test_bodies_that_are_refused(site, body, status):
    answer = asked(site, "/api/v1/lists", "POST", JSON, content=body)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    said = answer.json()
    assert said["status"] == status and said["detail"] and "remedy" in said


def test_bodies_have_limits_however_they_are_sent(site):
    def chunks(n):
        for _ in range(n):
            yield b" " * 8192

    answer = asked(site, "/api/v1/lists", "POST", JSON, content=chunks(20))
    assert answer.status_code == 413
    claimed = {**JSON, "Content-Length": "999999999"}
    own = f"127.0.0.1:{site.explorer.port}"
    lines = "".join(f"{k}: {v}\r\n" for k, v in claimed.items())
    said = f"POST /api/v1/lists HTTP/1.1\r\nHost: {own}\r\n{lines}"
    said += f"Cookie: {site.explorer.gate.cookie}={cookie(site)}\r\nConnection: close\r\n\r\n"
    assert status_of(raw(site, said.encode())) == 413
    big = json.dumps(
        {"format": "saekit.labels", "version": 1, "labels": [], "pad": "x" * 8_500_000}
    )
    answer = asked(site, "/api/v1/labels", "POST", JSON, content=big)
    assert answer.status_code == 413


def test_addresses_and_headers_have_limits(site):
    assert asked(site, "/api/v1/saes/" + "x" * 1100).status_code == 414
    assert asked(site, "/api/v1/saes/plain/latents?where=" + "x" * 9000).status_code == 414
    assert asked(site, headers={f"X-A{i}": "x" for i in range(100)}).status_code == 431
    many = asked(site, headers={"X-Big": "x" * 15_000, "X-Big2": "y" * 3000})
    assert many.status_code in (400, 431)
    for query in ("where=%00", "where=%ff", "where=%ed%a0%80", "where=a%0b"):
        assert asked(site, f"/api/v1/saes/plain/latents?{query}").status_code == 400


@pytest.mark.parametrize(
    "text",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: OWN\r\nConnection: close\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: OWN\r\nBad Header: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: OWN\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: OWN\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"CONNECT evil.example:80 HTTP/1.1\r\nHost: OWN\r\nConnection: close\r\n\r\n",
        b"TRACE / HTTP/1.1\r\nHost: OWN\r\nConnection: close\r\n\r\n",
        b"\r\n\r\n\r\n",
        b"\0" * 1000,
    ],
)
def test_what_is_not_http_gets_no_answer_of_ours(site, text):
    own = f"127.0.0.1:{site.explorer.port}".encode()
    answer = raw(site, text.replace(b"OWN", own), seconds=1)
    assert status_of(answer) in (0, 400, 404, 405, 421)
    assert asked(site).status_code == 200


def test_a_websocket_is_not_spoken(site):
    headers = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version": "13",
    }
    assert asked(site, headers=headers).status_code != 101


def test_every_answer_has_the_headers(site):
    for path in ("/", "/web/none.js", "/api/v1/meta", "/api/v1/none", "/api/v1/saes/none"):
        answer = asked(site, path)
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert "server" not in answer.headers
        if path.startswith("/api"):
            assert answer.headers["cache-control"] == "no-store"
    page = asked(site, "/")
    assert "<script>" not in page.text and "<style" not in page.text and "onload" not in page.text


def test_a_client_that_says_nothing_or_is_slow_is_let_go(site, monkeypatch):
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.3)
    own = f"127.0.0.1:{site.explorer.port}"
    began = time.monotonic()
    assert raw(site, b"", seconds=10) == b""
    assert raw(site, b"GET / HTTP/1.1\r\nHost: ", seconds=10) == b""
    with socket.create_connection(("127.0.0.1", site.explorer.port), timeout=10) as drip:
        try:
            for letter in f"GET / HTTP/1.1\r\nHost: {own}\r\nX: {'y' * 200}":
                drip.sendall(letter.encode())
                time.sleep(0.02)
            ended = drip.recv(1) == b""
        except OSError:
            ended = True
        assert ended
    assert time.monotonic() - began < 10
    assert asked(site).status_code == 200


def test_a_body_that_comes_slowly_is_refused(site, monkeypatch):
    monkeypatch.setattr(security, "BODY_SECONDS", 0.3)
    own = f"127.0.0.1:{site.explorer.port}"
    lines = "".join(f"{k}: {v}\r\n" for k, v in JSON.items())
    said = f"POST /api/v1/lists HTTP/1.1\r\nHost: {own}\r\n{lines}Content-Length: 100\r\n"
    said += f"Cookie: {site.explorer.gate.cookie}={cookie(site)}\r\nConnection: close\r\n\r\n{{"
    assert status_of(raw(site, said.encode(), seconds=10)) == 408


def test_many_slow_clients_do_not_stop_the_others(site):
    held = []
    try:
        for _ in range(100):
            s = socket.create_connection(("127.0.0.1", site.explorer.port), timeout=5)
            s.sendall(b"GET /api/v1/meta HTTP/1.1\r\nHo")
            held.append(s)
        began = time.monotonic()
        assert asked(site).status_code == 200
        assert time.monotonic() - began < 10  # held connections last longer
    finally:
        for s in held:
            s.close()
