"""Ask a generator: what is known is not asked again, failures that may pass are tried again."""

import random
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, final

from saekit.core.errors import ConfigError, SaekitError
from saekit.generators.base import Failure, Generator, Reply, Request
from saekit.generators.cache import ReplyCache
from saekit.generators.journal import Journal
from saekit.generators.limits import Budget, Limits, Pace, Spent

FIRST_WAIT_SECONDS, MOST_WAIT_SECONDS = 1.0, 60.0
MOST_ASKED_SECONDS = 600.0  # what the other side may ask to wait
CREDIBLE = 8  # a report of usage that is this many times off the estimate is not believed
BUDGET, REFUSED, STOPPED = "budget", "refused", "stopped"


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What came of some requests.

    Args:
        replies: by place in the list of requests, of those that were answered.
        failures: by place, the last failure of those that were not.
        known: how many were answered from the journal or the cache.
        spent: on the others.
        stopped: "budget", "refused" or "stopped" where not all were asked; "" otherwise.
        reason: why, in words.
    """

    replies: dict[int, Reply]
    failures: dict[int, Failure]
    known: int
    spent: Spent
    stopped: str = ""
    reason: str = ""


def ask(
    generator: Generator,
    requests: Sequence[Request],
    journal: Journal,
    *,
    cache: ReplyCache | None = None,
    limits: Limits | None = None,
    told: Callable[[int], None] = lambda n: None,
) -> Answers:
    """Return the replies to some requests.

    Replies in the journal, then in the cache, cost nothing and wait for nothing. Of the rest, a
    failure that may pass (408, 409, 429, 5xx, timeouts, broken replies) is tried again after a
    growing, jittered pause, or after what the other side asks for; 400, 401, 403 and 404 end the
    whole run at once, for every other request would meet the same. A failure that is of one request
    alone, as a prompt longer than the model reads, is counted, and the others go on.

    Args:
        generator: who is asked.
        requests: what.
        journal: where replies go, as they come.
        cache: replies of other runs; None: none are looked up or kept.
        limits: what may be spent, and how fast; None: the defaults.
        told: called with how many more were answered.

    Raises:
        ConfigError: a request is of another kind than the generator takes.
        ResourceError: the journal cannot be written.
    """
    for request in requests:
        if bool(request.messages) != generator.chats:
            wanted = "messages of a chat" if generator.chats else "text to go on from"
            raise ConfigError(f"`{generator.name}` takes {wanted}; got the other.")
    return _Round(generator, requests, journal, cache, limits or Limits(), told).run()


def planned(
    generator: Generator, requests: Sequence[Request], journal: Journal, limits: Limits
) -> dict[str, Any]:
    """Return what asking would send and cost at most; nothing is sent.

    Args:
        generator: who would be asked.
        requests: what.
        journal: what it answers costs nothing.
        limits: with the prices.

    Returns:
        ``requests``, ``tokens_read`` and ``tokens_written`` (at most), ``usd`` (None where no
        prices are known), ``known`` (requests that the journal answers).
    """
    who = generator.identity()
    new = [r for r in requests if journal.get(r.key(who)) is None]
    read, written = sum(r.prompt_tokens for r in new), sum(r.max_tokens for r in new)
    return {
        "requests": len(new),
        "known": len(requests) - len(new),
        "tokens_read": read,
        "tokens_written": written,
        "usd": limits.cost(read, written),
    }


@dataclass
class _Counted:
    replies: dict[int, Reply] = field(default_factory=dict)
    failures: dict[int, Failure] = field(default_factory=dict)
    known: int = 0
    stopped: str = ""
    reason: str = ""


@final
class _Round:
    """One call of `ask`."""

    def __init__(  # noqa: PLR0913 - the words of `ask`
        self,
        generator: Generator,
        requests: Sequence[Request],
        journal: Journal,
        cache: ReplyCache | None,
        limits: Limits,
        told: Callable[[int], None],
    ):
        self.generator, self.requests, self.journal = generator, requests, journal
        self.cache, self.limits, self.told = cache, limits, told
        who = generator.identity()
        self.keys = [request.key(who) for request in requests]
        self.budget, self.pace = Budget(limits), Pace(limits)
        self.over, self.lock = threading.Event(), threading.Lock()
        self.counted = _Counted()
        self.left: deque[int] = deque()

    def run(self) -> Answers:
        for i, key in enumerate(self.keys):
            if (reply := self._known(i, key)) is None:
                self.left.append(i)
            else:
                self._got(i, reply, known=True)
        n = self.limits.concurrency if self.generator.parallel else 1
        if n == 1:
            self._work()
        elif self.left:
            with ThreadPoolExecutor(min(n, len(self.left))) as pool:
                jobs = [pool.submit(self._work) for _ in range(min(n, len(self.left)))]
                try:
                    for job in jobs:
                        job.result()
                except BaseException:
                    # Threads finish what is under way, which is paid for, and begin nothing new.
                    self.over.set()
                    raise
        done = self.counted
        return Answers(
            replies=done.replies,
            failures=done.failures,
            known=done.known,
            spent=self.budget.spent(),
            stopped=done.stopped,
            reason=done.reason,
        )

    def _known(self, i: int, key: str) -> Reply | None:
        if (reply := self.journal.get(key)) is not None:
            return reply
        reply = None if self.cache is None else self.cache.get(key)
        if reply is not None:
            self.journal.keep(key, self.requests[i], reply, cached=True)
        return reply

    def _work(self) -> None:
        while not self.over.is_set():
            with self.lock:
                if not self.left:
                    return
                n = min(self.generator.batch, len(self.left))
                batch = [self.left.popleft() for _ in range(n)]
            self._tried(batch)

    def _tried(self, batch: list[int]) -> None:
        """Ask for some requests until each is answered, given up, or the run is over."""
        for attempt in range(1, self.limits.tries + 1):
            batch = [i for i in batch if self._held(i)]
            if not batch or self._waited(batch):
                break
            began = time.monotonic()
            pause, again = 0.0, []
            found = self.generator.replies([self.requests[i] for i in batch])
            for i in batch:
                what = self._next(found)
                reply = what if isinstance(what, Reply) else None
                self.budget.settle(self.keys[i], self._credible(i, reply))
                if reply is not None:
                    seconds = round(time.monotonic() - began, 3)
                    self.journal.keep(self.keys[i], self.requests[i], reply, seconds=seconds)
                    if self.cache is not None:
                        self.cache.put(self.keys[i], reply)
                    self._got(i, reply)
                    continue
                assert isinstance(what, Failure)
                self.journal.note(self.keys[i], what, attempt)
                self.counted.failures[i] = what
                if not what.again:
                    if not what.alone:
                        self._stop(REFUSED, what.reason)
                    continue
                again.append(i)
                pause = max(pause, self._pause(what, attempt))
            batch = again
            if not batch or self.over.is_set():
                break
            if attempt < self.limits.tries and self.over.wait(pause):
                break

    def _next(self, found: object) -> Reply | Failure:
        try:
            return next(found)  # type: ignore[call-overload]
        except SaekitError:
            raise
        except StopIteration:
            return Failure(reason="The generator gave no answer.", again=False)

    def _held(self, i: int) -> bool:
        why = self.budget.hold(self.keys[i], self.requests[i])
        if why is not None:
            self.counted.failures.setdefault(i, Failure(reason=f"Not asked: {why}.", again=False))
            self._stop(BUDGET, why)
        return why is None

    def _waited(self, batch: list[int]) -> bool:
        """Wait for a place; return whether the run ended meanwhile."""
        delay = max(self.pace.delay(self.requests[i]) for i in batch)
        if self.over.wait(delay) if delay > 0 else self.over.is_set():
            for i in batch:
                self.budget.release(self.keys[i])
            return True
        return False

    def _pause(self, failure: Failure, attempt: int) -> float:
        own = min(FIRST_WAIT_SECONDS * 2 ** (attempt - 1), MOST_WAIT_SECONDS)
        if failure.wait_seconds is not None:
            asked = min(failure.wait_seconds, MOST_ASKED_SECONDS)
            self.pace.block(asked)
            return asked * (1 + 0.1 * random.random())
        return own * (0.5 + random.random() / 2)

    def _credible(self, i: int, reply: Reply | None) -> Reply | None:
        """Return a reply without a report of usage that cannot be true."""
        if reply is None:
            return None
        request = self.requests[i]
        written = len(reply.text) // 3 + 1
        read, said = request.prompt_tokens, (reply.prompt_tokens, reply.completion_tokens)
        for name, own, theirs in zip(
            ("prompt_tokens", "completion_tokens"), (read, written), said, strict=True
        ):
            if (
                theirs is not None
                and not own / CREDIBLE <= theirs + CREDIBLE <= own * CREDIBLE + 64
            ):
                reply = replace(reply, **{name: None})
        return reply

    def _got(self, i: int, reply: Reply, *, known: bool = False) -> None:
        with self.lock:
            self.counted.replies[i] = reply
            self.counted.failures.pop(i, None)
            self.counted.known += known
        self.told(1)

    def _stop(self, how: str, reason: str) -> None:
        with self.lock:
            if not self.counted.stopped:
                self.counted.stopped, self.counted.reason = how, reason
        self.over.set()
