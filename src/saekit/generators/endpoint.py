"""Endpoint: any server that speaks OpenAI's chat completions."""

import importlib
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, final

from typing_extensions import override

from saekit.core.config import setting
from saekit.core.errors import ConfigError, MissingExtraError
from saekit.generators.base import Failure, Finish, Generator, Reply, Request, registry

KEY_VARIABLE = "OPENAI_API_KEY"
NO_KEY = "none"  # local servers want a header and look at nothing in it
MOST_BYTES = 16 * 2**20  # of a reply
AGAIN = frozenset({408, 409, 429})
_FINISH: dict[str, Finish] = {"stop": "stop", "length": "length", "content_filter": "filter"}


@final
@registry.register
@dataclass(frozen=True, kw_only=True)
class Endpoint(Generator):
    """A chat model behind an HTTP address: OpenAI, vLLM, llama.cpp, Ollama and others.

    The key is read from the environment when a request is sent; it is in no setting, file or
    message.

    Args:
        model: its name, in the words of the server.
        base_url: address up to ``/v1``; "": OpenAI's.
        key_variable: environment variable with the key; local servers need none.
        timeout_seconds: of one try.

    Raises:
        ConfigError: no model is named, or a number is out of range.

    Source:
        platform.openai.com/docs/api-reference/chat. Uses the library `openai`.
    """

    name: ClassVar[str] = "endpoint"
    parallel: ClassVar[bool] = True
    model: str = "gpt-4.1-mini"
    base_url: str = ""
    key_variable: str = KEY_VARIABLE
    timeout_seconds: float = setting(60.0, above=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.model:
            raise ConfigError("`model` of an endpoint is its name there; got an empty text.")
        if self.base_url and not self.base_url.startswith(("http://", "https://")):
            raise ConfigError(
                f"`base_url` begins with http:// or https://, as http://localhost:8000/v1; got "
                f"{self.base_url!r}."
            )

    @override
    def identity(self) -> dict[str, Any]:
        return {"name": self.name, "model": self.model, "base_url": self.base_url}

    @override
    def replies(self, requests: Sequence[Request]) -> Iterator[Reply | Failure]:
        with self._client() as client:
            for request in requests:
                yield self._one(client, request)

    def _client(self) -> Any:
        try:
            import openai
        except ImportError as error:
            raise MissingExtraError("openai", "generate") from error
        key = os.environ.get(self.key_variable, "")
        if not key and not self.base_url:
            raise ConfigError(
                f"The key of the endpoint is read from ${self.key_variable}, which is not set. Set "
                f"it, or name a local server with base_url=http://localhost:8000/v1."
            )
        # Trying again is decided where limits and the journal are, so not by the library too.
        return openai.OpenAI(
            api_key=key or NO_KEY,
            base_url=self.base_url or None,
            timeout=self.timeout_seconds,
            max_retries=0,
            default_headers={"Accept-Encoding": "identity"},  # so that `MOST_BYTES` is true
            http_client=_bounded(openai.DefaultHttpxClient, self.timeout_seconds),
        )

    def _one(self, client: Any, request: Request) -> Reply | Failure:
        import openai

        asked: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": r, "content": c} for r, c in request.messages],
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            "seed": request.seed,
        }
        if request.stop:
            asked["stop"] = list(request.stop)
        if request.top_logprobs:
            asked |= {"logprobs": True, "top_logprobs": request.top_logprobs}
        try:
            answer = client.chat.completions.create(**asked)
        except openai.APIStatusError as error:
            return self._refused(error)
        except openai.APITimeoutError:
            return Failure(reason=f"No reply within {self.timeout_seconds:g} s.", again=True)
        except openai.APIConnectionError as error:
            why = error.__cause__ or error
            return Failure(reason=f"The connection failed: {_plain(why)}.", again=True)
        except (openai.APIError, ValueError, TypeError) as error:
            return Failure(reason=f"The reply cannot be read: {_plain(error)}.", again=True)
        return self._reply(answer)

    def _refused(self, error: Any) -> Failure:
        status = int(error.status_code)
        again = status in AGAIN or status >= 500
        what = _plain(getattr(error, "message", error))
        return Failure(
            reason=f"The endpoint answered {status}: {what}",
            again=again,
            status=status,
            wait_seconds=_seconds(error.response.headers.get("retry-after")) if again else None,
        )

    def _reply(self, answer: Any) -> Reply | Failure:
        # Whatever a server sends, only what has the right kind is used.
        try:
            choice = answer.choices[0]
            text = choice.message.content
            finish = _FINISH.get(str(choice.finish_reason), "other")
        except (AttributeError, IndexError, KeyError, TypeError):
            return Failure(reason="The reply has no answer in it.", again=True)
        if text is not None and not isinstance(text, str):
            return Failure(reason=f"The answer is no text: {text!r:.60}", again=True)
        usage = getattr(answer, "usage", None)
        return Reply(
            text=(text or "").encode("utf-8", "replace").decode(),
            finish=finish,
            model=str(getattr(answer, "model", "") or self.model),
            prompt_tokens=_whole(getattr(usage, "prompt_tokens", None)),
            completion_tokens=_whole(getattr(usage, "completion_tokens", None)),
            logprobs=_logprobs(choice),
        )


def _bounded(make: Any, seconds: float) -> Any:
    """Return an HTTP client that ends a reply which is too long or too slow as a whole.

    The time limits of HTTP clients are for one piece each: a server that sends a byte now and then
    would hold a run forever, and one that never ends would fill the memory.
    """
    # Versions of `openai` differ in the library of HTTP that they use: httpx or httpx2.
    httpx = importlib.import_module(make.__mro__[1].__module__.partition(".")[0])

    class Bounded(httpx.SyncByteStream):
        def __init__(self, inner: Any):
            self._inner, self._until = inner, time.monotonic() + seconds

        def __iter__(self) -> Iterator[bytes]:
            n_bytes = 0
            for piece in self._inner:
                n_bytes += len(piece)
                if n_bytes > MOST_BYTES:
                    raise httpx.ReadError(f"the reply has over {MOST_BYTES:,} bytes")
                if time.monotonic() > self._until:
                    raise httpx.ReadTimeout("the reply was not whole in time")
                yield piece

        def close(self) -> None:
            self._inner.close()

    def bound(response: Any) -> None:
        if response.headers.get("content-encoding", "identity") != "identity":
            raise httpx.ReadError("the reply is compressed, which was not asked for")
        response.stream = Bounded(response.stream)

    return make(event_hooks={"response": [bound]}, timeout=seconds)


def _whole(value: Any) -> int | None:
    right = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    return value if right else None


def _seconds(header: Any) -> float | None:
    """Return what Retry-After asks for; a date, or nonsense, counts as nothing asked."""
    try:
        found = float(header)
    except (TypeError, ValueError):
        return None
    return found if 0 <= found < float("inf") else None


def _logprobs(choice: Any) -> tuple[dict[str, float], ...]:
    try:
        tokens = choice.logprobs.content or []
        return tuple({str(t.token): float(t.logprob) for t in one.top_logprobs} for one in tokens)
    except (AttributeError, TypeError, ValueError):
        return ()


def _plain(error: Any) -> str:
    """Return one short line of an error, without what might be a key in it."""
    text = " ".join(str(error).split())[:200]
    words = ["[hidden]" if w.startswith(("sk-", "hf_", "Bearer")) else w for w in text.split(" ")]
    return " ".join(words).rstrip(".")
