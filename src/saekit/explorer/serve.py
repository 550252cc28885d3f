"""Serving: the socket, the address that is shown, and the end."""

import contextlib
import ipaddress
import logging
import os
import secrets
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saekit.core.errors import ConfigError, MissingExtraError, ResourceError
from saekit.core.text import printable

PORT = 8765
TRIED = 20  # ports that are tried where none was named
MOST_CONNECTIONS = 256
LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a folder is served.

    Args:
        port: where; None: 8765, or the next that is free; 0: any that is free.
        unsafe_host: an address or a name to serve under beyond this machine; None: this machine
            alone. Whoever can read what passes on that network can use the server.
        token_file: where a token for scripts is written, readable by the user alone; None: none.
        read_only: neither labels nor indexes are written.
        memory_gb: most memory of a worker; None: four fifths of the machine's.
        idle_seconds: a worker without a job is ended after this time.
    """

    port: int | None = None
    unsafe_host: str | None = None
    token_file: Path | None = None
    read_only: bool = False
    memory_gb: float | None = None
    idle_seconds: float = 900.0


class Explorer:
    """A server of a folder, bound to its port. `run` serves until it is stopped.

    Args:
        folder: with runs and SAEs in it.
        options: how.
        say: told the address to open, now and whenever the one before was used.

    Raises:
        FormatError: there is no such folder.
        ConfigError: the port is taken, or the host is none of this machine's.
        MissingExtraError: fastapi or uvicorn is not installed.
    """

    def __init__(
        self, folder: Path, options: Options | None = None, say: Callable[[str], None] = print
    ):
        options = options or Options()
        for library in ("fastapi", "uvicorn"):
            _need(library)
        from saekit.explorer.app import Server, build
        from saekit.explorer.files import PageFiles
        from saekit.explorer.jobs import Board
        from saekit.explorer.labels import Labels, place_for
        from saekit.explorer.library import Library
        from saekit.explorer.security import Gate, Guard
        from saekit.explorer.views import Views

        memory = None if options.memory_gb is None else int(options.memory_gb * 1e9)
        if memory is not None and memory < 2**28:
            raise ConfigError(
                f"A worker needs 0.3 GB of memory or more; got {options.memory_gb:g}."
            )
        library = Library(folder)
        place = place_for(library.folder, read_only=options.read_only)
        self.labels = Labels.opened(place, read_only=options.read_only)
        self.socket = bound(options.unsafe_host or LOOPBACK, options.port)
        self.port = int(self.socket.getsockname()[1])
        bearer = None if options.token_file is None else secrets.token_urlsafe(32)
        if bearer is not None and options.token_file is not None:
            write_secret(options.token_file, bearer)
        self.gate = Gate(hosts_of(options.unsafe_host, self.port), say, bearer)
        self.board = Board(memory, options.idle_seconds)
        views = Views(library, self.labels)
        self.app = Guard(build(Server(views, self.board, self.gate, PageFiles())), self.gate)
        self._server: Any = None

    @property
    def address(self) -> str:
        """Where the pages are, without the token."""
        return f"http://{self.gate.hosts[0]}/"

    def run(self) -> None:
        """Serve until Ctrl-C, or until `stop`."""
        import uvicorn

        from saekit.explorer.protocol import BoundedProtocol

        logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
        config = uvicorn.Config(
            self.app,
            http=BoundedProtocol,
            ws="none",
            lifespan="off",
            access_log=False,
            log_config=None,
            proxy_headers=False,
            server_header=False,
            date_header=True,
            limit_concurrency=MOST_CONNECTIONS,
            backlog=128,
            timeout_keep_alive=5,
            timeout_graceful_shutdown=3,
            h11_max_incomplete_event_size=16 * 1024,
        )
        self._server = uvicorn.Server(config)
        try:
            self._server.run(sockets=[self.socket])
        except KeyboardInterrupt:  # which uvicorn raises again once it is down
            pass
        finally:
            self.close()

    def stop(self) -> None:
        """Have `run` return."""
        if self._server is not None:
            self._server.should_exit = True

    @property
    def is_up(self) -> bool:
        """Whether requests are answered."""
        return self._server is not None and self._server.started

    def close(self) -> None:
        """End the workers and close the files."""
        self.board.close()
        self.labels.close()
        self.socket.close()


@contextlib.contextmanager
def served(
    folder: Path, options: Options | None = None, say: Callable[[str], None] = lambda link: None
) -> Iterator[Explorer]:
    """A context in which a folder is served from a thread of this process."""
    explorer = Explorer(folder, options, say)
    thread = threading.Thread(target=explorer.run, daemon=True)
    thread.start()
    try:
        while thread.is_alive() and not explorer.is_up:
            thread.join(0.01)
        yield explorer
    finally:
        explorer.stop()
        thread.join(10)


def serve(  # noqa: PLR0913 - the words of `saekit serve`
    folder: Path | str = ".",
    *,
    port: int | None = None,
    unsafe_host: str | None = None,
    token_file: Path | str | None = None,
    read_only: bool = False,
    memory_gb: float | None = None,
    open_browser: bool = False,
    shown: bool = True,
) -> None:
    """Show the SAEs, runs and studies of a folder in a browser, until Ctrl-C.

    Args:
        folder: with runs and SAEs in it.
        port: where; None: 8765, or the next that is free; 0: any that is free.
        unsafe_host: an address to serve under beyond this machine; see `Options`.
        token_file: where a token for scripts is written; None: none is made.
        read_only: neither labels nor indexes are written.
        memory_gb: most memory of the process that holds a model; None: four fifths of all.
        open_browser: open the pages.
        shown: print the address.

    Raises:
        FormatError: there is no such folder.
        ConfigError: the port is taken, or the host is none of this machine's.
        MissingExtraError: fastapi or uvicorn is not installed.
    """
    token = None if token_file is None else Path(token_file)
    options = Options(
        port=port,
        unsafe_host=unsafe_host,
        token_file=token,
        read_only=read_only,
        memory_gb=memory_gb,
    )
    say = teller(shown=shown)
    explorer = Explorer(Path(folder), options, say)
    if open_browser:
        import webbrowser

        webbrowser.open(explorer.gate.link)
    explorer.run()


def teller(*, shown: bool = True) -> Callable[[str], None]:
    """Return what says the address on stderr: at first, and when the link was used."""
    said = [0]

    def say(link: str) -> None:
        said[0] += 1
        if shown:
            why = "" if said[0] == 1 else "the link was used; for another browser, "
            print(printable(f"{why}open {link}"), file=sys.stderr, flush=True)  # noqa: T201

    return say


def warning(host: str) -> str:
    """Return what whoever serves beyond this machine must know."""
    return (
        f"serving under {host}, beyond this machine, without encryption: whoever can read what "
        f"passes on that network can use the server. An SSH tunnel is safer: ssh -L "
        f"{PORT}:{LOOPBACK}:{PORT} HOST"
    )


def hosts_of(unsafe_host: str | None, port: int) -> list[str]:
    """Return the values of Host that are answered."""
    named = [LOOPBACK, "localhost"]
    if unsafe_host is None:
        return [f"{host}:{port}" for host in named]
    if _is_any(unsafe_host):
        names = {socket.gethostname(), *_addresses()}
        return [f"{_bracketed(host)}:{port}" for host in [*sorted(names), *named]]
    return [f"{_bracketed(host)}:{port}" for host in dict.fromkeys([unsafe_host, *named])]


def _addresses() -> list[str]:
    """Return the addresses of this machine's name, as far as they are known."""
    with contextlib.suppress(OSError):
        return [str(one[4][0]) for one in socket.getaddrinfo(socket.gethostname(), None)]
    return []


def _is_any(host: str) -> bool:
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_unspecified
    return False


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def bound(host: str, port: int | None) -> socket.socket:
    """Return a socket that listens at a port of a host.

    Raises:
        ConfigError: the port is taken or not allowed, or the host is none of this machine's.
    """
    if port is not None and not 0 <= port <= 65535:
        raise ConfigError(f"A port is 0 to 65535 (0: any that is free); got {port}.")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    last: OSError | None = None
    for tried in [port] if port is not None else range(PORT, PORT + TRIED):
        # With the protocol named asyncio sends small answers at once; else each waits for 40 ms.
        made = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        if os.name == "posix":  # so that a server that was just ended can be started anew
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            made.bind((host, tried))
            made.listen(128)
            made.set_inheritable(False)
            return made
        except OSError as error:
            made.close()
            last = error
    where = f"port {port}" if port is not None else f"ports {PORT} to {PORT + TRIED - 1}"
    why = getattr(last, "strerror", None) or last
    raise ConfigError(
        f"The explorer cannot listen at {where} of {host}: {why}. Name another port, or 0 for any "
        f"that is free: --port 0."
    )


def write_secret(path: Path, secret: str) -> None:
    """Write a token to a file that the user alone can read.

    Raises:
        ResourceError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
        with os.fdopen(os.open(path, flags, 0o600), "w", encoding="utf-8") as file:
            file.write(secret + "\n")
    except OSError as error:
        raise ResourceError(
            f"The token cannot be written to {path}: {error.strerror or error}. Choose another "
            f"file."
        ) from error


def _need(library: str) -> None:
    import importlib.util

    if importlib.util.find_spec(library) is None:
        raise MissingExtraError(library, "web")
