"""Local: a language model on this machine."""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from typing_extensions import override

from saekit.core.config import setting
from saekit.core.errors import ShapeError
from saekit.generators.base import Failure, Generator, Reply, Request, registry
from saekit.models.base import LanguageModel


@final
@registry.register
@dataclass(frozen=True, kw_only=True)
class Local(Generator):
    """A causal language model that saekit loads: the embedded one, a folder, a hub name.

    A model whose tokenizer has a chat template is asked in a chat, one without goes on with a list
    of examples.

    Args:
        model: as `saekit.load_model` takes it.
        revision: commit on the hub; "": its main branch.
        chat: ask in a chat; None: if there is a template for it.
        small: ask for one thing at a time, in few words, as models below a thousand million
            parameters need it.
        top_p: share of probability to draw from.
        device: where it runs; decides no reply beyond rounding.
    """

    name: ClassVar[str] = "local"
    batch: ClassVar[int] = 20
    model: str = "smollm2-135m"
    revision: str = ""
    chat: bool | None = None
    small: bool = True
    top_p: float = setting(0.95, above=0, most=1)
    device: str = "cpu"

    @property
    @override
    def chats(self) -> bool:
        if self.chat is not None:
            return self.chat
        lm = loaded(self.model, self.revision, self.device)
        return lm.tokenizer.chat_template is not None

    @property
    @override
    def is_small(self) -> bool:
        return self.small

    @property
    @override
    def chooses(self) -> bool:
        return True

    @override
    def choose(self, request: Request, options: Sequence[str]) -> dict[str, float]:
        lm = loaded(self.model, self.revision, self.device)
        prompt = self._prompt(lm, request)
        return _choices(lm, prompt, options, _ids(lm, options))

    @override
    def identity(self) -> dict[str, Any]:
        lm = loaded(self.model, self.revision, self.device)
        return {
            "name": self.name,
            "model": lm.name,
            "revision": lm.revision,
            "dtype": str(lm.dtype),
            "chat": self.chats,
            "small": self.small,
            "top_p": self.top_p,
        }

    @override
    def replies(self, requests: Sequence[Request]) -> Iterator[Reply | Failure]:
        lm = loaded(self.model, self.revision, self.device)
        found: list[Reply | Failure | None] = [None] * len(requests)
        # Requests that differ in more than the words are run one kind at a time.
        kinds: dict[tuple[Any, ...], list[int]] = {}
        prompts = [self._prompt(lm, request) for request in requests]
        choices: dict[tuple[str, ...], list[int]] = {}
        for i, request in enumerate(requests):
            room = lm.n_ctx_max - len(prompts[i])
            if room < 1:
                reason = f"The prompt has {len(prompts[i])} tokens; {lm.name} reads {lm.n_ctx_max}."
                found[i] = Failure(reason=reason, again=False, alone=True)
                continue
            if request.options:
                choices.setdefault(request.options, []).append(i)
                continue
            kind = (min(request.max_tokens, room), request.temperature, request.stop)
            kinds.setdefault(kind, []).append(i)
        for options, places in choices.items():
            self._choose(lm, prompts, options, places, found)
        for (n, temperature, stop), places in kinds.items():
            try:
                new = lm.continue_tokens(
                    [prompts[i] for i in places],
                    n,
                    temperature=temperature,
                    top_p=self.top_p,
                    seed=[requests[i].seed for i in places],
                    stop=self._ends(lm, stop),
                    batch_rows=self.batch,
                )
            except ShapeError as error:
                for i in places:
                    found[i] = Failure(reason=str(error), again=False, alone=True)
                continue
            for i, ids in zip(places, new, strict=True):
                found[i] = self._reply(lm, prompts[i], ids, n, stop)
        yield from (one for one in found if one is not None)

    def _choose(
        self,
        lm: LanguageModel,
        prompts: Sequence[list[int]],
        options: tuple[str, ...],
        places: Sequence[int],
        found: list[Reply | Failure | None],
    ) -> None:
        """Put the replies to requests that have the same options at their places."""
        ids = _ids(lm, options)
        longest = max(map(len, ids))
        for i in places:
            if len(prompts[i]) + longest - 1 > lm.n_ctx_max:
                reason = f"Prompt and answer are over the {lm.n_ctx_max} tokens {lm.name} reads."
                found[i] = Failure(reason=reason, again=False, alone=True)
                continue
            # One prompt a pass: rounding would otherwise depend on what else is asked, and a run
            # that was interrupted would end with other numbers.
            logprobs = _choices(lm, prompts[i], options, ids)
            found[i] = Reply(
                text=max(logprobs, key=lambda option: logprobs[option]),
                model=lm.name,
                prompt_tokens=len(prompts[i]),
                completion_tokens=1,
                logprobs=(logprobs,),
            )

    def _prompt(self, lm: LanguageModel, request: Request) -> list[int]:
        if request.messages:
            chat = [{"role": role, "content": content} for role, content in request.messages]
            # The template puts BOS where it wants one.
            return lm.tokenizer.encode([lm.tokenizer.chat(chat, answer=True)])[0]
        return lm.tokens(request.text)[0].tolist()

    def _ends(self, lm: LanguageModel, stop: tuple[str, ...]) -> list[int]:
        eos = lm.tokenizer.eos_id
        own = [] if eos is None else [eos]
        return [*own, *_tokens_with(lm.tokenizer, stop)] if stop else own

    def _reply(
        self, lm: LanguageModel, prompt: list[int], ids: list[int], n: int, stop: tuple[str, ...]
    ) -> Reply:
        special = lm.tokenizer.special_ids
        text = lm.tokenizer.decode([i for i in ids if i not in special])
        cut = min((at for word in stop if (at := text.find(word)) >= 0), default=len(text))
        over = len(ids) == n and cut == len(text) and (not ids or ids[-1] not in special)
        return Reply(
            text=text[:cut],
            finish="length" if over else "stop",
            model=lm.name,
            prompt_tokens=len(prompt),
            completion_tokens=len(ids),
        )


@functools.lru_cache(maxsize=2)
def loaded(model: str, revision: str, device: str) -> LanguageModel:
    """Return the model, loaded once a process."""
    from saekit.models.hf import load

    return load(model, revision=revision or None, device=device)


@functools.lru_cache(maxsize=8)
def _tokens_with(tokenizer: Any, words: tuple[str, ...]) -> tuple[int, ...]:
    """Return the tokens whose text holds one of some words, by which an answer can end early."""
    pieces = ((i, tokenizer.pieces([i])[0]) for i in range(tokenizer.vocab_size))
    return tuple(i for i, piece in pieces if any(word in piece for word in words))


def _ids(lm: LanguageModel, options: Sequence[str]) -> list[list[int]]:
    """Return the tokens of each answer, without BOS."""
    return [list(ids) for ids in lm.tokenizer.encode(list(options))]


@torch.no_grad()
def _choices(
    lm: LanguageModel, prompt: list[int], options: Sequence[str], ids: Sequence[Sequence[int]]
) -> dict[str, float]:
    """Return log-probabilities of answers after a prompt, normalised over them.

    Rows are padded at their end, which a causal model never looks at from before it.
    """
    start = len(prompt) - 1
    longest = max(map(len, ids))
    # Where each answer is one token, the row of the prompt tells of all of them.
    answers = ids if longest > 1 else ids[:1]
    rows = [[*prompt, *answer[:-1]] for answer in answers]
    width = start + longest
    tokens = torch.tensor([[*row, *([row[-1]] * (width - len(row)))] for row in rows])
    final = lm.final(tokens)[:, start:]
    after = lm.unembed(final.flatten(0, 1)).float().log_softmax(-1).cpu()
    after = after.view(len(rows), longest, -1)
    scores = torch.stack(
        [
            after[i if longest > 1 else 0, range(len(answer)), list(answer)].double().sum()
            for i, answer in enumerate(ids)
        ]
    )
    return dict(zip(options, scores.log_softmax(0).tolist(), strict=True))
