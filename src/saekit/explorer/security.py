"""Guard: who may ask the server, from which page, and how much at once.

The server shows a user's own files to that user's own browser. What could misuse it is another
page in the same browser (a request across sites, a name that resolves to this machine), another
user of the machine, and whoever can send it bytes. Each request passes here first:

- its Host must be one of the addresses served, which ends DNS rebinding;
- its Origin and Sec-Fetch-Site must be those of our own page, except for opening the page itself;
- the API needs a cookie, given once for the token in the address that the terminal shows, or a
  header with the token of a script;
- what changes something needs a header that no form can send;
- addresses, headers and bodies are bounded, and a body must be JSON that any reader can hold.
"""

import asyncio
import hashlib
import re
import secrets
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any
from urllib.parse import unquote_to_bytes

from saekit.core.border import parsed_json
from saekit.core.errors import FormatError
from saekit.explorer.problems import MEDIA, Problem

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

API = "/api/v1"
BODY_BYTES, IMPORT_BYTES = 64 * 1024, 8 * 1024 * 1024
PATH_BYTES, QUERY_BYTES, HEADER_BYTES, MOST_HEADERS = 1024, 8 * 1024, 16 * 1024, 64
BODY_SECONDS, SEND_SECONDS = 10.0, 30.0
MOST_SESSIONS = 64
LARGEST_INT = 2**53 - 1  # a number that every reader of JSON holds exactly
TOKEN_CHARS = 512

POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    ]
)
HEADERS = (
    (b"content-security-policy", POLICY.encode()),
    (b"x-frame-options", b"DENY"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=()"),
)


class Gate:
    """Who is let in: the addresses served, the token of the link, sessions, the token of scripts.

    Args:
        hosts: values of Host that are served, each with its port, as "127.0.0.1:8765".
        say: told the address to open, now and whenever the token in it was used.
        bearer: token that scripts send as ``Authorization: Bearer``; None: none is taken.
    """

    def __init__(self, hosts: Iterable[str], say: Callable[[str], None], bearer: str | None = None):
        self.hosts = tuple(dict.fromkeys(host.lower() for host in hosts))
        self.cookie = f"saekit_{self.hosts[0].rpartition(':')[2]}"
        self._say, self._bearer = say, bearer
        self._sessions: OrderedDict[str, None] = OrderedDict()
        self._token = ""
        self.new_link()

    @property
    def link(self) -> str:
        """The address to open; its token is worth one session."""
        return f"http://{self.hosts[0]}/#token={self._token}"

    def new_link(self) -> None:
        """Make a new token, so that the one before is worthless, and say the address."""
        self._token = secrets.token_urlsafe(32)
        self._say(self.link)

    def open_session(self, token: str) -> str:
        """Return the value of a cookie for the token of the link.

        Raises:
            Problem: it is not the token, or was used.
        """
        if not _same(token, self._token):
            raise Problem(
                401,
                "This link was used before, or is of another start of the server.",
                "Open the newest address that `saekit serve` shows in its terminal.",
            )
        value = secrets.token_urlsafe(32)
        self._sessions[_digest(value)] = None
        while len(self._sessions) > MOST_SESSIONS:
            self._sessions.popitem(last=False)
        self.new_link()
        return value

    def close_session(self, value: str) -> None:
        """Make the value of a cookie worthless."""
        self._sessions.pop(_digest(value), None)

    def admits(self, cookie: str | None, authorization: str | None) -> bool:
        """Tell whether a request carries a session, or the token of scripts."""
        if cookie is not None and _digest(cookie) in self._sessions:
            return True
        kind, _, token = (authorization or "").partition(" ")
        return self._bearer is not None and kind.lower() == "bearer" and _same(token, self._bearer)


def _same(given: str, wanted: str) -> bool:
    return secrets.compare_digest(given.encode("utf-8", "replace"), wanted.encode())


def _digest(value: str) -> str:
    # Looked up by digest, so that how long a look-up takes says nothing of the values.
    return hashlib.sha256(value.encode("utf-8", "replace")).hexdigest()


class Guard:
    """The outermost layer of the server, an ASGI application around the rest.

    Args:
        app: what answers requests that are let through.
        gate: who is let in.
    """

    def __init__(self, app: Any, gate: Gate):
        self._app, self._gate = app, gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or hand it on."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return  # no websocket is spoken here
        begun = _Begun(send, is_api=scope["path"].startswith(API))
        try:
            request = _Request(scope, self._gate)
            request.check()
            await self._app(scope, await request.body(receive), begun)
        except Problem as problem:
            if not begun.is_begun:
                await _answer(begun, problem)
        except Exception as error:  # what no code of ours said in its own words
            _note(error)
            if not begun.is_begun:
                await _answer(begun, Problem(500, "The server failed; its terminal says why."))


class _Begun:
    """`send` with the headers of every answer, and an end to waiting for a reader."""

    def __init__(self, send: Send, *, is_api: bool):
        self._send, self._is_api, self.is_begun = send, is_api, False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.is_begun = True
            headers = [*message.get("headers", []), *HEADERS]
            if self._is_api:
                headers = [(k, v) for k, v in headers if k.lower() != b"cache-control"]
                headers.append((b"cache-control", b"no-store"))
            message = {**message, "headers": headers}
        async with asyncio.timeout(SEND_SECONDS):
            await self._send(message)


async def _answer(send: Send, problem: Problem) -> None:
    body = problem.body()
    headers = [(b"content-type", MEDIA.encode()), (b"content-length", str(len(body)).encode())]
    if problem.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": problem.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _note(error: Exception) -> None:
    """Leave the trace of a failure in the log of the server."""
    import logging

    logging.getLogger("saekit.explorer").error("a request failed", exc_info=error)


class _Request:
    """One request and what it must be."""

    def __init__(self, scope: Scope, gate: Gate):
        self._scope, self._gate = scope, gate
        self.method, self.path = scope["method"], scope["path"]
        self._headers: dict[str, list[str]] = {}
        for name, value in scope["headers"]:
            self._headers.setdefault(name.decode("latin-1").lower(), []).append(
                value.decode("latin-1")
            )

    @property
    def _is_api(self) -> bool:
        return self.path == API or self.path.startswith(API + "/")

    def _header(self, name: str) -> str | None:
        """Return a header that may be given once.

        Raises:
            Problem: it was given more often.
        """
        found = self._headers.get(name, [])
        if len(found) > 1:
            raise Problem(400, f"The header {name} was given {len(found)} times; once is allowed.")
        return found[0] if found else None

    def check(self) -> None:
        """Refuse what may not come in.

        Raises:
            Problem: something of it is not allowed.
        """
        self._check_host()
        self._check_size()
        self._check_address()
        self._check_site()
        if self.method not in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"):
            raise Problem(405, f"{self.method} is not answered here.")
        if self._is_api:
            self._check_mutation()
            self._check_session()
        elif self.method not in ("GET", "HEAD"):
            raise Problem(405, "Files are read with GET.")

    def _check_host(self) -> None:
        host = self._header("host")
        if host is None or host.lower() not in self._gate.hosts:
            raise Problem(
                421,
                f"This server answers under {', '.join(self._gate.hosts)}; the request is for "
                f"another host.",
                f"Open http://{self._gate.hosts[0]}/",
            )

    def _check_size(self) -> None:
        sizes = [len(k) + len(v) for k, v in self._scope["headers"]]
        if len(sizes) > MOST_HEADERS or sum(sizes) > HEADER_BYTES:
            raise Problem(
                431, f"At most {MOST_HEADERS} headers of {HEADER_BYTES:,} bytes together are read."
            )
        if len(self._raw_path) > PATH_BYTES or len(self._scope["query_string"]) > QUERY_BYTES:
            raise Problem(
                414,
                f"The address may have a path of {PATH_BYTES:,} bytes and a query of "
                f"{QUERY_BYTES:,}.",
            )

    @property
    def _raw_path(self) -> bytes:
        return self._scope.get("raw_path") or self.path.encode("utf-8", "replace")

    def _check_address(self) -> None:
        """Refuse paths that mean another one once they are decoded, and text that is none."""
        raw = self._raw_path
        try:
            path = unquote_to_bytes(raw).decode("utf-8")
            query = unquote_to_bytes(self._scope["query_string"]).decode("utf-8")
        except UnicodeDecodeError as error:
            raise Problem(400, "The address is not text in UTF-8.") from error
        if _control(query):
            raise Problem(400, "The query has control characters in it, which no text here has.")
        parts = path.split("/")
        hidden = re.search(rb"%(?:2f|5c|00)", raw, re.IGNORECASE)
        if hidden or _control(path) or "\\" in path or {".", "..", ""} & set(parts[1:-1]):
            raise Problem(404, "There is nothing at this address.")
        if parts[-1] in (".", ".."):
            raise Problem(404, "There is nothing at this address.")

    def _check_site(self) -> None:
        """Refuse requests that another page makes, but for a link to our own."""
        origin, site = self._header("origin"), self._header("sec-fetch-site")
        opens = (
            self.method == "GET"
            and self.path == "/"
            and self._header("sec-fetch-mode") == "navigate"
            and self._header("sec-fetch-dest") == "document"
        )
        ours = f"http://{(self._header('host') or '').lower()}"
        foreign = origin is not None and origin.lower() != ours
        foreign = foreign or (site is not None and site not in ("same-origin", "none"))
        if foreign and not (opens and origin is None):
            raise Problem(403, "The request comes from another page than this server's own.")

    def _check_mutation(self) -> None:
        if self.method in ("GET", "HEAD"):
            return
        if self._header("x-saekit") != "1":
            raise Problem(403, "A request that changes something needs the header `X-Saekit: 1`.")
        kind = (self._header("content-type") or "").partition(";")[0].strip().lower()
        if self.method == "DELETE" and not kind:
            return
        if kind != "application/json":
            raise Problem(415, "A body must be JSON: `Content-Type: application/json`.")

    def _check_session(self) -> None:
        if self.method == "POST" and self.path == f"{API}/session":
            return  # which brings the token
        if not self._gate.admits(self._cookie(), self._header("authorization")):
            raise Problem(
                401,
                "This browser has no session with the server, or the server was started anew.",
                "Open the newest address that `saekit serve` shows in its terminal.",
            )

    def _cookie(self) -> str | None:
        for line in self._headers.get("cookie", []):
            for part in line.split(";"):
                name, _, value = part.strip().partition("=")
                if name == self._gate.cookie:
                    return value
        return None

    async def body(self, receive: Receive) -> Receive:
        """Return a `receive` that gives the whole body, which was read and looked at.

        Raises:
            Problem: it is too large, too slow, or not JSON that can be held.
        """
        long = self.path == f"{API}/labels" or self.path.startswith(f"{API}/lists/")
        most = IMPORT_BYTES if long else BODY_BYTES
        claimed = self._header("content-length")
        if claimed is not None and claimed.isdigit() and int(claimed) > most:
            raise Problem(413, f"A body here has at most {most:,} bytes; this one {claimed[:20]}.")
        try:
            async with asyncio.timeout(BODY_SECONDS):
                data = await _read(receive, most)
        except TimeoutError as error:
            raise Problem(408, f"The body did not come within {BODY_SECONDS:g} s.") from error
        if data:
            check_json(data)
        given = False

        async def again() -> Message:
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": data, "more_body": False}

        return again


async def _read(receive: Receive, most: int) -> bytes:
    found = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Problem(400, "The request ended before its body did.")
        found += message.get("body", b"")
        if len(found) > most:
            raise Problem(413, f"A body here has at most {most:,} bytes.")
        if not message.get("more_body"):
            return bytes(found)


def check_json(data: bytes) -> None:
    """Refuse a body that is not JSON, or that holds what not every reader of JSON can hold.

    Raises:
        Problem: it is not JSON in UTF-8, is nested deeply, or has a number or a character in it
            that is none.
    """
    try:
        value = parsed_json(data, "The body")
    except FormatError as error:
        raise Problem(400, str(error)) from error
    waiting: list[Any] = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            waiting += [*one, *one.values()]
        elif isinstance(one, list):
            waiting += one
        elif isinstance(one, str):
            if "\0" in one:
                raise Problem(400, "The body has the character NUL in a text, which no text has.")
        elif isinstance(one, float) and not abs(one) < float("inf"):
            raise Problem(400, "The body has a number that is not finite.")
        elif isinstance(one, int) and abs(one) > LARGEST_INT:
            raise Problem(400, f"The body has a whole number over {LARGEST_INT:,}.")


def _control(text: str) -> bool:
    return re.search(r"[\x00-\x08\x0b-\x1f\x7f]", text) is not None
