"""Whether a text is long enough for a run, known before training begins."""

import math
import sys
from collections.abc import Mapping
from dataclasses import replace

from saekit.activations.cache.recorded import RecordedModel
from saekit.activations.harvest import CALIBRATION_ROWS, Harvest
from saekit.core.errors import DataError
from saekit.data.tokenise import TokenStream
from saekit.models.base import LanguageModel
from saekit.training.run import Run

# How far the share of tokens that count may lie from that of the first rows.
SLACK = 0.02
# Rows past this many tokens are not counted: they are not kept in the cache, so that counting
# them would tokenise them twice.
COUNTED_TOKENS = 10**9


def check_length(run: Run, harvest: Harvest) -> None:
    """Refuse a run that asks for more tokens than its text has.

    Rows of the text are counted, and tokens that count are taken to be as many a row as in the
    first rows. What the run asks may be up to a fiftieth over that; text that then ends early
    ends training early, with what was trained (`Shuffle`). A text that is read as a stream from
    elsewhere is not counted.

    Raises:
        DataError: there are fewer; the message says about how many.
    """
    a_row = kept_a_row(harvest)
    found = _rows(run, harvest, a_row)
    if found is None or not a_row:
        return
    # All rows were looked at where they are few, so that nothing is estimated.
    slack = 0.0 if found <= CALIBRATION_ROWS else SLACK
    there = math.floor(found * a_row + 1e-6)
    if isinstance(harvest.model, RecordedModel):  # counted when it was written
        there = max(there, harvest.model.store.n_kept)
    if run.tokens * (1 - slack) <= there:
        return
    about = "" if slack == 0 else "about "
    raise DataError(
        f"The train split of `{run.corpus.name}` has {about}{there:,} tokens that count; "
        f"{run.tokens:,} were asked. Ask for no more (--tokens {_round(there * (1 - slack)):d}), "
        f"for more passes over them (--epochs), or {harvest.more}."
    )


def fit_tokens(runs: Mapping[str, Run], model: LanguageModel, *, shown: bool) -> dict[str, Run]:
    """Return runs that ask for as many tokens as their text has, at most those they ask for.

    Args:
        runs: by name, of one text; they get one length.
        model: the language model.
        shown: say the number on stderr where the text decides.

    Raises:
        DataError: the text is too short for a row.
    """
    from saekit.activations.shared import SharedPasses
    from saekit.training.loop import open_harvest

    first = next(iter(runs.values()))
    if first.corpus.streamed or isinstance(model, RecordedModel):
        return dict(runs)
    sites = list(dict.fromkeys(s for run in runs.values() for s in run.pair.sites))
    every = SharedPasses(model, sites)
    least = first.tokens
    for run in {repr(run.pair): run for run in runs.values()}.values():
        harvest = open_harvest(run, every, count=False)
        a_row = kept_a_row(harvest)
        found = _rows(run, harvest, a_row)
        if found is not None and found * a_row * (1 - SLACK) < run.tokens:
            slack = 0.0 if found <= CALIBRATION_ROWS else SLACK
            least = min(least, max(_round(found * a_row * (1 - slack)), 1))
    if least < first.tokens and shown:
        sys.stderr.write(
            f"tokens    {least:,}: all that the train split of `{first.corpus.name}` has, less "
            f"what its end may lack\n"
        )
    return {name: replace(run, tokens=least) for name, run in runs.items()}


def kept_a_row(harvest: Harvest) -> float:
    """Return how many tokens that count a row has, in the mean of the first rows.

    The harvest's own counts are left as they were.
    """
    before, rows = harvest.counts, 0
    for batch in harvest.stream.rows(harvest.batch_rows, n_rows=CALIBRATION_ROWS):
        harvest.select(batch, harvest.read(batch))
        rows += len(batch.tokens)
    kept = harvest.counts.kept - before.kept
    harvest.counts = before
    return kept / max(rows, 1)


def _rows(run: Run, harvest: Harvest, a_row: float) -> int | None:
    """Return how many rows there are, up to those the run needs; None where it is not known."""
    if isinstance(harvest.model, RecordedModel):
        return harvest.model.store.n_rows
    stream = harvest.stream
    if run.corpus.streamed or not isinstance(stream, TokenStream) or not a_row:
        return None
    most = COUNTED_TOKENS // stream.text_per_row
    wanted = math.ceil(run.tokens / a_row) + CALIBRATION_ROWS
    found = stream.count(at_most=min(wanted, most))
    return None if found == most else found


def _round(tokens: float) -> int:
    """Return a number of tokens rounded down to three digits, as a person would ask for."""
    digits = max(len(str(int(tokens))) - 3, 0)
    return int(tokens) // 10**digits * 10**digits
