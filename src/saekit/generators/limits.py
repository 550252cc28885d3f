"""What may be spent, and how fast: prices, hard caps, requests and tokens a minute."""

import threading
import time
from dataclasses import dataclass
from typing import ClassVar, final

from saekit.core.config import Config, setting
from saekit.core.errors import ConfigError
from saekit.generators.base import Reply, Request

MINUTE = 60.0


@dataclass(frozen=True, kw_only=True)
class Limits(Config):
    """What may be spent on one run, and how fast.

    Args:
        requests: sent at most; 0: no limit.
        tokens: read and written at most; 0: no limit.
        usd: spent at most; 0: no limit. Needs prices.
        usd_in: price of a million tokens read.
        usd_out: price of a million tokens written.
        concurrency: requests under way at once.
        requests_per_minute: sent at most; 0: no limit.
        tokens_per_minute: read and written at most, by the estimate; 0: no limit.
        tries: of each request, where a failure may pass.
        timeout_seconds: of one try.

    Raises:
        ConfigError: a number is out of range, or money is limited without prices.
    """

    name: ClassVar[str] = "limits"
    requests: int = setting(0, least=0)
    tokens: int = setting(0, least=0)
    usd: float = setting(0.0, least=0)
    usd_in: float = setting(0.0, least=0)
    usd_out: float = setting(0.0, least=0)
    concurrency: int = setting(8, least=1)
    requests_per_minute: int = setting(0, least=0)
    tokens_per_minute: int = setting(0, least=0)
    tries: int = setting(8, least=1)
    timeout_seconds: float = setting(60.0, above=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.usd and not (self.usd_in or self.usd_out):
            raise ConfigError(
                "`usd` limits money, which needs prices: set `usd_in` and `usd_out`, dollars for a "
                "million tokens read and written."
            )

    def cost(self, read: float, written: float) -> float | None:
        """Return dollars for some tokens; None where no price is known."""
        if not (self.usd_in or self.usd_out):
            return None
        return (read * self.usd_in + written * self.usd_out) / 1e6


@dataclass(frozen=True, kw_only=True)
class Spent:
    """What was spent.

    Args:
        requests: sent.
        read: tokens read.
        written: tokens written.
        usd: dollars; None where no price is known.
    """

    requests: int
    read: int
    written: int
    usd: float | None


@final
class Budget:
    """Keeps a run within its limits, also while several requests are under way.

    What a request may cost at most is set aside before it is sent, so a cap is never passed.
    """

    def __init__(self, limits: Limits):
        self.limits, self._lock = limits, threading.Lock()
        self._sent = self._read = self._written = 0
        self._held: dict[str, tuple[int, int]] = {}

    def hold(self, key: str, request: Request) -> str | None:
        """Set aside what a request may cost; return why it may not be sent, or None."""
        read, written = request.prompt_tokens, request.max_tokens
        caps, lim = [], self.limits
        with self._lock:
            all_read = self._read + sum(r for r, _ in self._held.values()) + read
            all_written = self._written + sum(w for _, w in self._held.values()) + written
            n = self._sent + len(self._held) + 1
            caps.append(("requests", n, lim.requests))
            caps.append(("tokens", all_read + all_written, lim.tokens))
            caps.append(("usd", lim.cost(all_read, all_written) or 0.0, lim.usd))
            for name, value, most in caps:
                if most and value > most:
                    return f"the limit of {most:g} {name} would be passed"
            self._held[key] = (read, written)
        return None

    def settle(self, key: str, reply: Reply | None) -> None:
        """Count what a request did cost; of one without a credible report, what was set aside."""
        with self._lock:
            read, written = self._held.pop(key)
            self._sent += 1
            if reply is not None:
                read = read if reply.prompt_tokens is None else reply.prompt_tokens
                written = written if reply.completion_tokens is None else reply.completion_tokens
            else:
                read = written = 0
            self._read += read
            self._written += written

    def release(self, key: str) -> None:
        """Give back what was set aside for a request that was not sent after all."""
        with self._lock:
            self._held.pop(key, None)

    def spent(self) -> Spent:
        """Return what was spent so far."""
        with self._lock:
            cost = self.limits.cost(self._read, self._written)
            return Spent(requests=self._sent, read=self._read, written=self._written, usd=cost)


@final
class Pace:
    """Token buckets of requests and tokens a minute, shared by all threads."""

    def __init__(self, limits: Limits):
        self._rates = (limits.requests_per_minute / MINUTE, limits.tokens_per_minute / MINUTE)
        self._lock = threading.Lock()
        self._free_at = [0.0, 0.0]  # when the next may go
        self._blocked_until = 0.0

    def delay(self, request: Request) -> float:
        """Take a place in the queue and return how long to wait for it, seconds."""
        now = time.monotonic()
        sizes = (1, request.prompt_tokens + request.max_tokens)
        with self._lock:
            at = max(now, self._blocked_until)
            for i, (rate, size) in enumerate(zip(self._rates, sizes, strict=True)):
                if rate:
                    at = max(at, self._free_at[i])
                    self._free_at[i] = at + size / rate
        return at - now

    def block(self, seconds: float) -> None:
        """Let nobody send for some seconds: the other side asked for it."""
        with self._lock:
            self._blocked_until = max(self._blocked_until, time.monotonic() + seconds)
