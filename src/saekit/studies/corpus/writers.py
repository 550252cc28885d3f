"""Writers: who continues prompts, the model that saekit loads or vLLM."""

import abc
import itertools
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, final

from typing_extensions import override

from saekit.core.errors import MissingExtraError
from saekit.core.seeds import derive
from saekit.models.base import LanguageModel, Tokenizer
from saekit.models.generation import Sampling

_WAITING = 8  # times the rows of a batch that vLLM is given at once


class Writer(abc.ABC):
    """Continues numbered prompts; the number and a seed decide what a sequence is."""

    name: ClassVar[str]

    tokenizer: Tokenizer
    n_ctx_max: int
    exact: bool  # a sequence is the same whatever it is computed with
    why: str = ""  # it is not
    made_by: dict[str, Any]  # model, revision, dtype

    @abc.abstractmethod
    def write(
        self,
        prompts: Iterator[tuple[int, Sequence[int]]],
        n: int,
        sampling: Sampling,
        batch_rows: int,
    ) -> Iterator[tuple[int, list[int]]]:
        """Yield the new tokens of each prompt as it ends: at most `n`, EOS included."""


@final
class Local(Writer):
    """The model that saekit loaded, on its device.

    Args:
        lm: the model.
    """

    name: ClassVar[str] = "local"

    def __init__(self, lm: LanguageModel):
        self.lm, self.tokenizer, self.n_ctx_max = lm, lm.tokenizer, lm.n_ctx_max
        dtype = str(lm.dtype).removeprefix("torch.")
        self.exact = dtype in ("float32", "float64")
        if not self.exact:
            self.why = (
                f"logits in {dtype} depend on what else is in the batch, so another batch size, or "
                f"a run that was broken off, gives other text"
            )
        self.made_by = {
            "model": lm.name,
            "revision": lm.revision,
            "dtype": dtype,
            "writer": self.name,
        }

    @override
    def write(
        self,
        prompts: Iterator[tuple[int, Sequence[int]]],
        n: int,
        sampling: Sampling,
        batch_rows: int,
    ) -> Iterator[tuple[int, list[int]]]:
        return self.lm.sequences(prompts, n, sampling, batch_rows=batch_rows)


@final
class VLLM(Writer):
    """An engine of vLLM, which keeps its own batch full on GPUs; each request has its seed.

    Args:
        model: hub name or folder.
        revision: hub commit; None is what vLLM takes.
        dtype: as vLLM takes it.
        n_ctx: longest sequence.

    Raises:
        MissingExtraError: vLLM is not installed.
    """

    name: ClassVar[str] = "vllm"

    def __init__(self, model: str, revision: str | None, dtype: str, n_ctx: int):
        try:
            import vllm  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise MissingExtraError("vllm", "vllm") from error
        from saekit.models.hf import load_tokenizer

        self._library = vllm
        self._engine = vllm.LLM(model=model, revision=revision, dtype=dtype, max_model_len=n_ctx)
        self.tokenizer, self.n_ctx_max = load_tokenizer(model), n_ctx
        self.exact = False
        self.why = "vLLM's logits depend on what else is in its batch"
        self.made_by = {
            "model": model,
            "revision": revision,
            "dtype": dtype,
            "writer": self.name,
            "vllm": str(vllm.__version__),
        }

    @override
    def write(
        self,
        prompts: Iterator[tuple[int, Sequence[int]]],
        n: int,
        sampling: Sampling,
        batch_rows: int,
    ) -> Iterator[tuple[int, list[int]]]:
        assert isinstance(sampling.seed, int)
        while some := list(itertools.islice(prompts, batch_rows * _WAITING)):
            how = [
                self._library.SamplingParams(
                    temperature=sampling.temperature,
                    top_p=sampling.top_p,
                    repetition_penalty=sampling.repetition_penalty,
                    max_tokens=n,
                    seed=derive(sampling.seed, "generate", number) >> 32,
                    detokenize=False,
                )
                for number, _ in some
            ]
            asked = [{"prompt_token_ids": list(ids)} for _, ids in some]
            done = self._engine.generate(asked, how, use_tqdm=False)
            for (number, _), one in zip(some, done, strict=True):
                yield number, list(one.outputs[0].token_ids)
