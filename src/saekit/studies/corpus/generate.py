"""Generate: a language model's own text to a folder of shards that any run can train on."""

import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from saekit.core import parts, provenance
from saekit.core.border import ordinary
from saekit.core.config import Config, setting
from saekit.core.errors import ConfigError, DataError, FormatError
from saekit.core.files import write_text
from saekit.core.lock import Claim, claimed
from saekit.core.progress import Progress
from saekit.core.sealed import write_sealed
from saekit.data.corpora import generated as files
from saekit.data.corpora.generated import Generated, Shard
from saekit.models.base import LanguageModel
from saekit.models.generation import Sampling
from saekit.studies.corpus.card import card_text
from saekit.studies.corpus.writers import Local, Writer

PENDING = "pending.safetensors"
_USUAL_LENGTH = 1024
_KEEP_TOKENS = 5_000  # finished ones are written to disk so often
_MOST_COPIES = 256  # one after another; then there is hardly anything new to write


@dataclass(frozen=True, kw_only=True)
class Generation(Config):
    """How a model's own text is written.

    Args:
        length: most tokens in a sequence, prompt included; null: 1,024, or what the model reads.
        temperature: logits are divided by it.
        top_p: draw from the fewest tokens that hold this probability together.
        repetition_penalty: on logits of tokens that the sequence has; 1 is none.
        seed: with the number of a sequence, it decides every draw of it.
        shard_sequences: numbers of sequences in a file.

    Source:
        "FaithfulSAE", arXiv:2506.17673: sequences of 1,024 tokens from BOS alone, temperature 1,
        no cut of the distribution, no penalty. Differs: a seed for each sequence instead of one for
        the engine, and token ids are kept as drawn instead of decoded text.
    """

    length: int | None = setting(None, least=2)
    temperature: float = setting(1.0, least=0)
    top_p: float = setting(1.0, above=0, most=1)
    repetition_penalty: float = setting(1.0, above=0)
    seed: int = 0
    shard_sequences: int = setting(128, least=1)


class OwnText(NamedTuple):
    """What was written: a folder that opens as a corpus."""

    folder: Path
    corpus: Generated
    counts: dict[str, Any]
    notes: list[str]


def generate(
    lm: LanguageModel | Writer,
    out: Path | str,
    *,
    tokens: int,
    how: Generation | None = None,
    prompts: Sequence[str] = (),
    batch_rows: int = 32,
    shown: bool = True,
) -> OwnText:
    """Write a model's own text into a folder, or go on with it: the same text wherever it stops.

    Sequence i has prompt i of `prompts`, over and over; without any, BOS alone. The text is that
    of sequences 0, 1, 2, ... up to the one that reaches `tokens`; a text that was there before is
    left out and counted. In single precision it depends on nothing but `how`, prompts and model.

    Args:
        lm: the model, or another writer.
        out: folder; one of the same model and settings goes on.
        tokens: ids at least, those of prompts included.
        how: see `Generation`.
        prompts: texts; BOS is put before each where the tokenizer has one.
        batch_rows: sequences run together.
        shown: show progress.

    Raises:
        ConfigError: the folder holds text of other settings, or a number is out of range.
        DataError: there is neither BOS, EOS nor a prompt, a prompt has no token, or the model
            writes the same texts over and over.
        ShapeError: a prompt leaves no room in `length`.
    """
    writer = lm if isinstance(lm, Writer) else Local(lm)
    how = how or Generation()
    if tokens < 1 or batch_rows < 1:
        raise ConfigError(
            f"`tokens` and `batch_rows` must be at least 1; got {tokens} and {batch_rows}."
        )
    begins, began_with = _prompts(writer, prompts)
    length = how.length or min(_USUAL_LENGTH, writer.n_ctx_max)
    n_new = length - max(map(len, begins))
    if n_new < 1 or length > writer.n_ctx_max:
        raise ConfigError(
            f"Sequences of {length} tokens leave {n_new} for new ones behind the longest prompt, "
            f"and the model reads {writer.n_ctx_max}. Set another `length`."
        )
    n_apart = len(set(map(tuple, begins)))
    if how.temperature == 0 and n_apart * length < tokens:
        raise ConfigError(
            f"At temperature 0 a prompt has one text: {n_apart} of up to {length} tokens are fewer "
            f"than {tokens:,}. Set a temperature above 0, or give more prompts."
        )
    about = {
        "kind": files.KIND,
        "version": 1,
        "made_by": writer.made_by,
        "tokenizer": writer.tokenizer.digest,
        "how": how.to_dict() | {"length": length},
        "begins_with": began_with,
        "prompts": begins,
    }
    folder = Path(out)
    notes = [f"sequences begin with {began_with}"]
    notes += [] if writer.exact else [f"not repeatable to the token: {writer.why}"]
    kept = f"What was written is in {folder}; the same command goes on."
    with claimed(folder, "saekit corpus generate", kept) as claim:
        _check_same(folder, about)
        if not (folder / files.MANIFEST).exists():
            write_sealed(
                folder / files.MANIFEST, about | {"counts": _counts([], 0), "notes": notes}
            )
        shelf = _Shelf(folder, how.shard_sequences)
        _write(shelf, writer, begins, _Goal(tokens, n_new, batch_rows, shown), how, claim)
        counts = shelf.close(tokens, writer.tokenizer.eos_id)
        made = {"counts": counts, "notes": notes, "environment": provenance.collect(how.seed)}
        write_sealed(folder / files.MANIFEST, about | made)
        write_text(folder / "README.md", card_text(about, counts, notes))
    return OwnText(folder, Generated(path=str(folder.absolute())), counts, notes)


class _Goal(NamedTuple):
    tokens: int
    n_new: int
    batch_rows: int
    shown: bool


def _write(
    shelf: "_Shelf",
    writer: Writer,
    begins: list[list[int]],
    goal: _Goal,
    how: Generation,
    claim: Claim,
) -> None:
    sampling = Sampling(
        temperature=how.temperature,
        top_p=how.top_p,
        repetition_penalty=how.repetition_penalty,
        seed=how.seed,
    )
    progress = Progress("writing", goal.tokens, shown=goal.shown)
    progress.start_at(min(shelf.n_tokens, goal.tokens))
    fresh = 0
    try:
        while not shelf.reaches(goal.tokens):
            going: set[int] = set()
            sizes: list[int] = []  # of those that ended

            def numbered(going: set[int] = going, sizes: list[int] = sizes) -> Iterator[Any]:
                below, first = 0, True  # one at least: copies may be in the sum
                for number in itertools.count():
                    if shelf.has(number):
                        below += shelf.size_of(number)
                        continue
                    mean = shelf.n_tokens / max(shelf.n_sequences, 1)
                    if not first and below + sum(sizes) + len(going) * mean >= goal.tokens:
                        return
                    first = False
                    going.add(number)
                    yield number, begins[number % len(begins)]

            for number, new in writer.write(numbered(), goal.n_new, sampling, goal.batch_rows):
                going.discard(number)
                begin = begins[number % len(begins)]
                ids = np.array([*begin, *new], dtype=np.int32)
                shelf.add(files.Sequence(number, len(begin), ids))
                sizes.append(len(ids))
                progress.reach(progress.done + len(ids))
                fresh += len(ids)
                if fresh >= _KEEP_TOKENS:
                    shelf.keep()
                    fresh = 0
    finally:  # Ctrl-C too: what has ended is kept
        shelf.keep()
        claim.kept = (
            f"{shelf.n_sequences:,} sequences of {shelf.n_tokens:,} tokens are in {shelf.folder}; "
            f"the same command goes on from there."
        )
        progress.close()


class _Shelf:
    """The sequences of a folder: whole shards on disk, the others in memory and in one file.

    A number whose text is left out as a copy has no ids here.
    """

    def __init__(self, folder: Path, size: int):
        self.folder, self._size = folder, size
        self._seen: dict[bytes, int] = {}  # digest of a text of whole shards: its number
        self._whole: dict[int, int] = {}  # shard: tokens
        self._open: dict[int, files.Sequence] = {}
        for path in Generated(path=str(folder)).shards():
            shard = _whole_or_none(path)
            if shard is None or shard.first != int(path.stem) * size or shard.covered > size:
                parts.remove(path)  # damaged, or another's copy: its numbers are written again
            elif shard.covered < size:  # the last one of an earlier, smaller goal
                self._reopen(shard)
            else:
                self._enter(shard)
        pending = _whole_or_none(folder / PENDING)
        for one in pending.sequences if pending else ():
            if one.number // size not in self._whole:
                self.add(one)  # the file of its shard may be gone

    @property
    def n_tokens(self) -> int:
        """Tokens of everything that is there."""
        return sum(self._whole.values()) + sum(len(one.ids) for one in self._open.values())

    @property
    def n_sequences(self) -> int:
        """Numbers that are there."""
        return len(self._whole) * self._size + len(self._open)

    def has(self, number: int) -> bool:
        """Whether a sequence is there, or was a copy."""
        return number in self._open or number // self._size in self._whole

    def size_of(self, number: int) -> int:
        """Return the tokens of a sequence; those of a whole shard all at its first number."""
        if number in self._open:
            return len(self._open[number].ids)
        shard, inside = divmod(number, self._size)
        return 0 if inside else self._whole[shard]

    def add(self, one: files.Sequence) -> None:
        """Take a sequence that ended; write its shard where it was the last one missing."""
        self._open[one.number] = one
        shard = one.number // self._size
        numbers = range(shard * self._size, (shard + 1) * self._size)
        if all(number in self._open for number in numbers):
            self._put(numbers)

    def keep(self) -> None:
        """Write what is in no shard yet into one file."""
        rows = [self._open[number] for number in sorted(self._open)]
        files.write_shard(self.folder / PENDING, Shard(0, 0, rows))

    def reaches(self, goal: int) -> bool:
        """Whether sequences 0, 1, 2, ... as far as none is missing have `goal` tokens."""
        return self._last(goal) is not None

    def close(self, goal: int, eos: int | None) -> dict[str, Any]:
        """Leave in shards the fewest sequences that reach the goal; return what there is."""
        last = self._last(goal)
        assert last is not None  # it was reached
        for shard in sorted(self._whole):
            if (shard + 1) * self._size > last + 1:
                path = self._path(shard)
                self._reopen(files.read_shard(path))
                self.keep()  # before the shard is gone
                path.unlink()
        for begin in range(0, last + 1, self._size):  # those that were reopened too
            if begin // self._size not in self._whole:
                self._put(range(begin, min(begin + self._size, last + 1)))
        if not self._open:
            parts.remove(self.folder / PENDING)
        shards = [files.read_shard(p) for p in Generated(path=str(self.folder)).shards()]
        return _counts(shards, eos)

    def _path(self, shard: int) -> Path:
        return self.folder / files.SHARDS / files.file_of(shard)

    def _enter(self, shard: Shard) -> None:
        for one in shard.sequences:
            self._seen.setdefault(one.digest, one.number)
        self._whole[shard.first // self._size] = sum(len(one.ids) for one in shard.sequences)

    def _reopen(self, shard: Shard) -> None:
        """Hold the sequences of a shard again, its copies too."""
        self._whole.pop(shard.first // self._size, None)
        here = {one.number: one for one in shard.sequences}
        for number in range(shard.first, shard.first + shard.covered):
            self._open[number] = here.get(number, _copy(number))
        for one in shard.sequences:
            self._seen.pop(one.digest, None)

    def _put(self, numbers: range) -> None:
        """Write neighbours as a shard, without copies of earlier ones."""
        kept: dict[bytes, files.Sequence] = {}
        for one in (self._open[number] for number in numbers):
            if not self._is_copy(one):
                kept.setdefault(one.digest, one)
        made = Shard(numbers[0], len(numbers), list(kept.values()))
        files.write_shard(self._path(numbers[0] // self._size), made)
        if len(numbers) < self._size:
            return
        self._enter(made)
        for number in numbers:
            del self._open[number]

    def _is_copy(self, one: files.Sequence) -> bool:
        """Whether a sequence was in a lower shard, or was left out before."""
        return not len(one.ids) or self._seen.get(one.digest, one.number) < one.number

    def _last(self, goal: int) -> int | None:
        """Return the number of the sequence that reaches a goal; None: one is missing before."""
        total, shard, copies = 0, 0, 0
        while total + self._whole.get(shard, goal) < goal:
            total += self._whole[shard]
            copies = 0 if self._whole[shard] else copies + self._size
            shard += 1
        rows: dict[int, files.Sequence] = self._open
        if shard in self._whole:
            rows = {one.number: one for one in files.read_shard(self._path(shard)).sequences}
            for number in range(shard * self._size, (shard + 1) * self._size):
                rows.setdefault(number, _copy(number))
        seen: set[bytes] = set()
        for number in itertools.count(shard * self._size):
            one = rows.get(number)
            if one is None:
                return None
            if not self._is_copy(one) and one.digest not in seen:
                total, copies = total + len(one.ids), 0
                seen.add(one.digest)
            else:
                copies += 1
            if total >= goal:
                return number
            if copies >= _MOST_COPIES:
                raise DataError(
                    f"The last {copies} of {number + 1:,} sequences are copies of earlier ones: "
                    f"the model has {total:,} tokens of different text to write from these "
                    f"prompts, of {goal:,}. Raise temperature or top_p, give more prompts, or ask "
                    f"for fewer tokens."
                )
        raise AssertionError("numbers have no end")


def _copy(number: int) -> files.Sequence:
    return files.Sequence(number, 0, np.zeros(0, np.int32))


def _whole_or_none(path: Path) -> Shard | None:
    if path.is_file() and not os.access(path, os.R_OK):
        ordinary(path)  # says so: what may not be read is not damaged
    try:
        return files.read_shard(path)
    except FormatError:
        return None


def _counts(shards: list[Shard], eos: int | None) -> dict[str, Any]:
    rows = [one for shard in shards for one in shard.sequences]
    lengths = [len(one.ids) for one in rows]
    written = sum(shard.covered for shard in shards)
    return {
        "tokens": sum(lengths),
        "prompt_tokens": sum(one.n_prompt for one in rows),
        "sequences": len(rows),
        "duplicates": written - len(rows),
        "ended": sum(bool(len(o.ids) and eos is not None and o.ids[-1] == eos) for o in rows),
        "longest": max(lengths, default=0),
        "shards": len(shards),
    }


def _prompts(writer: Writer, prompts: Sequence[str]) -> tuple[list[list[int]], str]:
    """Return what sequences begin with, as ids and in words."""
    tokenizer = writer.tokenizer
    bos, eos = tokenizer.bos_id, tokenizer.eos_id
    if prompts:
        front = [] if bos is None else [bos]
        found = [[*front, *ids] for ids in tokenizer.encode(list(prompts))]
        if empty := [i for i, ids in enumerate(found) if not ids]:
            raise DataError(f"Prompt {empty[0]} has no token, and there is no BOS. Give a text.")
        return found, f"{len(found)} prompts" + ("" if bos is None else ", each behind BOS")
    if bos is not None:
        return [[bos]], f"BOS ({tokenizer.decode([bos])})"
    if eos is not None:
        return [[eos]], f"EOS ({tokenizer.decode([eos])}), for the tokenizer has no BOS"
    raise DataError(
        "The tokenizer has neither BOS nor EOS to begin a text with. Give a prompt: --prompt TEXT."
    )


def _check_same(folder: Path, about: dict[str, Any]) -> None:
    """Refuse a folder of anything else."""
    if not (folder / files.MANIFEST).exists():
        parts.check_empty(folder, "Choose another folder with --out, or delete it.")
        return
    there = Generated(path=str(folder)).manifest()
    for name, before, now in _flat(there, about):
        if before != now:
            raise ConfigError(
                f"{folder} holds text with another `{name}`: {before!r:.200}, and now {now!r:.200}."
                f" Choose another folder with --out."
            )


def _flat(there: dict[str, Any], about: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Yield each setting with what a folder has and what is asked; those within another by name."""
    for name, value in about.items():
        before = there.get(name)
        if isinstance(value, dict) and isinstance(before, dict):
            for part in dict.fromkeys([*value, *before]):
                yield f"{name}.{part}", before.get(part), value.get(part)
        else:
            yield name, before, value
