"""`saekit.verify`: a plain verdict on whether an SAE is used as it was meant to be.

The SAE is measured as its files tell, and in every way that one mistake would have turned that into
(see `ways`). Where another way leaves much less of the variance unexplained, the SAE was made for
that way: the change is named and made, and the rest is looked at again with it.
"""

import dataclasses
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saekit.core import provenance
from saekit.core.errors import ConfigError, DataError, UnknownNameError
from saekit.core.progress import Progress
from saekit.data.base import Corpus
from saekit.data.tokenise import TokenStream
from saekit.evals._replacing import LOGIT_BYTES
from saekit.evals.verify import weights
from saekit.evals.verify.measures import ACT_BYTES, Bench, Measured
from saekit.evals.verify.verdict import Line, Status, Verdict
from saekit.evals.verify.ways import Change, Way, changes, scales
from saekit.hub.native import load
from saekit.hub.opening import OpenOptions, complete, model_of, text_of
from saekit.hub.trained import TrainedSAE
from saekit.models.base import LanguageModel
from saekit.models.sites import UNKNOWN, Site

KINDS = ("site", "BOS", "input scale", "processing", "decoder bias", "encoder", "architecture")
# Another way is what the SAE was made for where it leaves less than this share of the error, and
# the difference is more than that of the variance. The places next to a right one come near: the
# demonstration's SAE, of L10.resid_post, leaves 0.147 there and 0.186 at L11.resid_mid.
MUCH_BETTER, SOME = 0.8, 0.02
ROUNDS = 3  # slips that are looked for one on top of another
L0_FITS, L0_DOUBT = 1.5, 2.5  # measured L0 against the published one, as a factor
BAD_FVU, POOR_FVU = 1.0, 0.75
OFFSET = 0.05  # of the variance, explained by the mean error alone
# How far a prediction's best multiple may be from 1. An L1 penalty makes latents too small.
GAIN, GAIN_SHRUNK = 1.25, 2.5
SHRUNK = ("relu", "gated", "p_anneal")
BOS_BETTER = 0.95  # the other way with BOS leaves less than this share of the error: a doubt
SCALE_ROWS = 2  # rows that scales are searched on


@torch.no_grad()
def verify(  # noqa: PLR0913 - what is verified, on what, and how much of it
    sae: TrainedSAE | Path | str,
    lm: LanguageModel | None = None,
    *,
    corpus: Corpus | Path | str | Sequence[str] | None = None,
    site: str | None = None,
    n_ctx: int = 0,
    tokens: int = 2048,
    ce_tokens: int = 1024,
    l0: float | None = None,
    out: Path | str | None = None,
    shown: bool = True,
) -> Verdict:
    """Check that an SAE is the right one at the right site of the right model, loaded right.

    Looked at are width and site, the identity of the model, and error and sparsity: as the files
    say, and with one mistake in how the SAE is used, such as a neighbouring layer or another point,
    BOS or none, another input scale, processed activations, biases, a turned encoder, or another
    rule of which latents are on.

    Args:
        sae: the SAE, or where it is.
        lm: its language model; None: the one that its card names.
        corpus: text, by name or file, or a list of texts; None: that of training, or the packaged
            one.
        site: which site, where several share the SAE or its files do not say.
        n_ctx: tokens of a row; 0: as in training.
        tokens: how much text every way is measured on, at least 256.
        ce_tokens: how much of it passes through the whole model; 0 leaves losses out.
        l0: latents on per token as published, where the files do not say.
        out: a file to write the verdict to.
        shown: show progress on stderr.

    Returns:
        a verdict with a line for each check; it has `fits` and `exit_code`, and `print` shows it.

    Raises:
        ConfigError: the files leave out site, model or text, and nobody said it; the SAE codes
            several sites or positions jointly.
        DataError: the held-out text is shorter than a row.
    """
    if tokens < 256:
        raise ConfigError(f"`tokens` must be at least 256; got {tokens}.")
    if ce_tokens < 0 or (l0 is not None and not l0 > 0):
        what = (
            f"`ce_tokens` must be at least 0; got {ce_tokens}."
            if ce_tokens < 0
            else (f"`l0`, latents on per token, must be above 0; got {l0}.")
        )
        raise ConfigError(what)
    loaded = sae if isinstance(sae, TrainedSAE) else load(sae, site=site)
    _check_kind(loaded)
    model = lm or model_of(loaded, "auto")
    lines = [*_identity(loaded, model), *_place(loaded, model)]
    lines += weights.look(loaded.sae, transcodes=loaded.card.transcodes)
    made: dict[str, Any] = provenance.collect(0) | {"model": model.provenance()}
    if not any(line.name in ("site", "width") and line.status == "wrong" for line in lines):
        text = _text(loaded, corpus)
        if corpus is None and "corpus" not in loaded.card.run:
            lines.append(
                Line(
                    name="text",
                    status="unknown",
                    says="the files name no text; measured on the packaged one",
                    fix="name text like that of training: corpus=, --corpus",
                )
            )
        loaded = complete(loaded, model, text, OpenOptions(n_ctx=n_ctx))
        if shown:
            sys.stderr.write(f"memory    {_plan(loaded)}\n")
        # Rows have no BOS, so that it can be put in front where a way has it.
        stream = TokenStream(
            text,
            "test",
            model.tokenizer,
            bos_each_row=False,
            n_ctx=max(2, min(loaded.card.n_ctx, model.n_ctx_max) - 1),
        )
        rows = _rows(stream, tokens)
        bench = Bench(model, rows, loaded.card.rules)
        stated = l0 if l0 is not None else published_l0(loaded)
        lines += _Search(loaded, bench, stated, tokens, ce_tokens, shown=shown).lines()
        whole = tokens - tokens % rows.shape[1]
        short = provenance.shortfall(whole, rows.numel(), "test text")
        made |= {"corpus": text.to_dict(), "tokens": tokens, "ce_tokens": ce_tokens, "notes": short}
    verdict = Verdict(subject=f"{loaded!r}", lines=lines, made_from=made)
    if out is not None:
        verdict.write(out)
    return verdict


def _plan(loaded: TrainedSAE) -> str:
    """Return what measuring holds beyond the model and the SAE at most, in words."""
    encoder = 4 * loaded.d_in * loaded.d_sae  # a second one, where its axes may be mixed up
    parts = {"activations": ACT_BYTES, "logits": 2 * LOGIT_BYTES, "another encoder": encoder}
    listed = ", ".join(f"{name} {size / 1e9:.2f}" for name, size in parts.items())
    return f"at most about {sum(parts.values()) / 1e9:.2f} GB beyond model and SAE: {listed}"


def _text(loaded: TrainedSAE, corpus: Any) -> Corpus:
    """Return the text to measure on: the one asked for, that of training, or the packaged one."""
    if corpus is None and "corpus" not in loaded.card.run:
        corpus = "packaged"
    return text_of(loaded, corpus)


def published_l0(loaded: TrainedSAE) -> float | None:
    """Return the L0 that an SAE was published with, as far as its files or its name say one."""
    said = loaded.card.provenance.get("published") or {}
    for key in ("l0", "average_l0", "k"):
        value = said.get(key)
        if isinstance(value, int | float) and not isinstance(value, bool) and value > 0:
            return float(value)
    # A BatchTopK was trained to keep so many on average; what it does now its threshold decides.
    k = getattr(loaded.cfg, "k", None)
    by_batch = loaded.cfg.name in ("batch_topk", "matryoshka")
    return float(k) if by_batch and isinstance(k, int | float) else None


def _check_kind(loaded: TrainedSAE) -> None:
    if loaded.cfg.event:
        raise ConfigError(
            f"`{loaded.cfg.name}` codes {' and '.join(loaded.cfg.event)} jointly; verify checks "
            f"SAEs of single activations. Use saekit.evaluate, which measures it at all its sites."
        )
    if UNKNOWN in loaded.card.pair.sites:
        raise ConfigError(
            f"The SAE's files do not say which site it is of ({loaded.card.pair.label}). Name one "
            f"to be checked: site=, on a command line --site; of a transcoder --read and --write."
        )
    if loaded.card.scalings and loaded.card.at is None:
        raise ConfigError("This SAE was loaded for all its sites. Load it with site= for one.")


def _identity(loaded: TrainedSAE, lm: LanguageModel) -> Iterator[Line]:
    """Compare the language model with that of training."""
    made = loaded.card.model
    published = (loaded.card.provenance.get("published") or {}).get("model")
    name = str(published or made.get("name", "unknown"))
    if name == "unknown":
        yield Line(
            name="model",
            status="unknown",
            says=f"the files do not say the model; measured on {lm.name}",
        )
    elif made.get("revision") not in (None, lm.revision):
        yield Line(
            name="model",
            status="doubt",
            says=f"trained on {name} at {str(made['revision'])[:12]}; this is {lm.name} at "
            f"{lm.revision[:12]}",
            fix="load the model and revision it was trained on, unless another one is wanted",
        )
    elif name.rpartition("/")[2].lower() != lm.name.rpartition("/")[2].lower():
        yield Line(
            name="model",
            status="doubt",
            says=f"its files name {name}; this is {lm.name}",
            fix="load that model, unless another one is wanted",
        )
    else:
        sure = "same weights" if made.get("revision") else "by name; its files have no revision"
        yield Line(name="model", status="fits", says=f"{lm.name}, {sure}")
    digest = made.get("tokenizer")
    if digest is not None:
        same = digest == lm.tokenizer.digest
        yield Line(
            name="tokenizer",
            status="fits" if same else "wrong",
            says="the same as in training" if same else "another one than in training",
            fix="" if same else "load the model with the tokenizer it was trained with",
        )


def _place(loaded: TrainedSAE, lm: LanguageModel) -> Iterator[Line]:
    """Compare sites and widths with what the model has."""
    card, cfg = loaded.card, loaded.cfg
    read, write = card.site, card.written(card.site)
    known = lm.sites()
    for site, width in dict.fromkeys([(read, cfg.d_in), (write, cfg.d_out)]):
        if not _has(lm, site):
            yield Line(
                name="site",
                status="wrong",
                says=f"{lm.name} has no site {site}; it has layers 0..{lm.n_layers - 1} "
                f"with {', '.join(dict.fromkeys(s.point for s in known))}",
                fix="name the right site, or load the right model",
            )
        elif lm.width(site) != width:
            fit = list(dict.fromkeys(s.point for s in known if lm.width(s) == width))
            has = f"points with {width}: {', '.join(fit)}" if fit else f"none with {width}"
            yield Line(
                name="width",
                status="wrong",
                says=f"the SAE has width {width} at {site}; {lm.name} has "
                f"{lm.width(site)} there, {has}",
                fix="name another site" if fit else "load the model it was trained on",
                numbers={"sae": width, "model": lm.width(site)},
            )
        else:
            yield Line(
                name="width",
                status="fits",
                says=f"{width} at {site}, as the model has",
                numbers={"sae": width, "model": width},
            )


def _has(lm: LanguageModel, site: Site) -> bool:
    try:
        lm.check_site(site)
    except UnknownNameError:
        return False
    return True


def _rows(stream: TokenStream, tokens: int) -> Tensor:
    """Return rows of held-out text, at least two, no more than asked for.

    Raises:
        DataError: there is less than two rows of text.
    """
    found: list[Tensor] = []
    for rows in stream.rows(8):
        found.append(rows.tokens.cpu())
        n_ctx = rows.tokens.shape[1]
        if sum(map(len, found)) * n_ctx >= tokens:
            break
    rows = torch.cat(found) if found else torch.zeros(0, 1, dtype=torch.int64)
    if len(rows) < 2:
        raise DataError(
            "The held-out text does not fill two rows of tokens. Give more text with corpus=, on a "
            "command line --corpus, or use a shorter context."
        )
    return rows[: max(2, tokens // rows.shape[1])]


@dataclasses.dataclass
class _Seen:
    """A change that was measured."""

    change: Change
    measured: Measured


class _Search:
    """Looks for the way that an SAE was made for, from the one its files tell."""

    def __init__(
        self,
        loaded: TrainedSAE,
        bench: Bench,
        l0: float | None,
        tokens: int,
        ce_tokens: int,
        *,
        shown: bool,
    ):
        card = loaded.card
        self.bench, self.l0 = bench, l0
        sae = loaded.to(bench.lm.device).sae
        self.stated = Way(sae, card.site, card.written(card.site), bool(card.bos))
        n_ctx = bench.tokens(bos=False).shape[1]
        self.n_rows = max(2, tokens // n_ctx)
        self.ce_rows = min(-(-ce_tokens // n_ctx), self.n_rows)
        self.bar = Progress("verify", None, "ways of using it", shown=shown)

    def lines(self) -> list[Line]:
        """Return the lines of all that was measured."""
        first = self._measure([self.stated])[0]
        plain = self._round(self.stated, first, set())
        way, found, seen, slips = self.stated, first, plain, list[_Seen]()
        while len(slips) < ROUNDS:
            best = min(seen.values(), key=lambda s: s.measured.error, default=None)
            if best is None or not _much_better(best, found):
                break
            slips.append(best)
            way, found = best.change.way, best.measured
            seen = self._round(way, found, {s.change.kind for s in slips})
        if slips and found.error >= POOR_FVU:  # nothing helps, so none of them is what it was
            found, seen, slips = first, plain, []
        lines = [*self._slips(first, slips), *self._fitting(found, seen, slips)]
        lines += self._l0(first, slips)
        lines += self._shape(found)
        if self.ce_rows:
            lines.append(self._ce(slips, seen))
        self.bar.close()
        return lines

    def _measure(self, ways: list[Way], n_rows: int = 0) -> list[Measured]:
        found = self.bench.measure(ways, n_rows or self.n_rows)
        self.bar.add(len(ways))
        return found

    def _round(self, way: Way, found: Measured, done: set[str]) -> dict[str, _Seen]:
        """Return the best change of each kind that is not made yet."""
        far = found.error >= POOR_FVU
        wanted = changes(way, self.bench.lm, self.l0, far=far)
        every = [c for c in wanted if c.kind not in done]
        if "input scale" not in done:
            every += self._scale(way, found)
        seen: dict[str, _Seen] = {}
        for change, got in zip(every, self._measure([c.way for c in every]), strict=True):
            best = seen.get(change.kind)
            if best is None or got.error < best.measured.error:
                seen[change.kind] = _Seen(change, got)
        return seen

    def _scale(self, way: Way, found: Measured) -> list[Change]:
        """Return the scale that is best on a few rows, if it is another than the stated one."""
        tried = list(scales(way, found.size))
        got = self._measure([c.way for c in tried], SCALE_ROWS)
        return [min(zip(tried, got, strict=True), key=lambda pair: pair[1].error)[0]]

    def _slips(self, first: Measured, slips: list[_Seen]) -> Iterator[Line]:
        before = first
        for slip in slips:
            yield Line(
                name=slip.change.kind,
                status="wrong",
                says=f"FVU {_number(before.fvu)} as its files tell to use it"
                + (" and the line above changed" if before is not first else "")
                + f"; {_number(slip.measured.fvu)} {slip.change.says}",
                fix=slip.change.fix,
                numbers={"fvu": before.fvu, "fvu_changed": slip.measured.fvu},
            )
            before = slip.measured

    def _fitting(
        self, found: Measured, seen: dict[str, _Seen], slips: Sequence[_Seen]
    ) -> Iterator[Line]:
        """Say for each kind of mistake that was not made how near another way comes."""
        for kind in KINDS:
            if (other := seen.get(kind)) is None:
                continue
            here = f"FVU {_number(found.fvu)}" + (" then" if slips else "")
            status: Status = "doubt" if _some_better(other, found) else "fits"
            yield Line(
                name=kind,
                status=status,
                says=f"{here}; {_number(other.measured.fvu)} {other.change.says}",
                fix=f"perhaps {other.change.fix}" if status == "doubt" else "",
                numbers={"fvu": found.fvu, "fvu_changed": other.measured.fvu},
            )
        fvu = found.error
        status = "wrong" if fvu >= BAD_FVU else "doubt" if fvu >= POOR_FVU else "fits"
        says = f"FVU {_number(found.fvu)} over {found.n:,} tokens"
        says += {
            "wrong": ": no better than the mean in any way that was tried",
            "doubt": ": little is explained",
        }.get(status, "")
        fix = {
            "wrong": "the model, its revision or the file is likely another one; or its training "
            "collapsed",
            "doubt": "see whether its paper says as much",
        }.get(status, "")
        yield Line(name="error", status=status, says=says, fix=fix, numbers={"fvu": found.fvu})

    def _l0(self, first: Measured, slips: list[_Seen]) -> Iterator[Line]:
        """Compare how many latents are on with what was published."""
        found = slips[-1].measured if slips else first
        numbers = {"l0": first.l0, "l0_changed": found.l0, "published": self.l0}
        if first.l0 is None:
            return
        says = f"{first.l0:.4g} latents on per token"
        if slips:
            says += f" as its files tell, {found.l0 or 0:.4g} with the changes above"
        if self.l0 is None:
            width = self.stated.sae.cfg.d_in
            many = (found.l0 or 0) > width
            yield Line(
                name="L0",
                status="doubt" if many else "unknown",
                says=f"{says}; the files have no L0 to compare with"
                + (f", but that is more than the site has dimensions ({width})" if many else ""),
                fix="a TopK read as ReLU, or a BatchTopK without its threshold, looks like this"
                if many
                else "",
                numbers=numbers,
            )
            return
        factor = max(found.l0 or 0, 1e-9) / self.l0
        off = max(factor, 1 / factor)
        status: Status = "fits" if off <= L0_FITS else "doubt" if off <= L0_DOUBT else "wrong"
        fix = ""
        if status != "fits":
            fix = self._l0_fix(factor)
        yield Line(
            name="L0",
            status=status,
            says=f"{says}; published {self.l0:.4g}",
            fix=fix,
            numbers=numbers,
        )

    def _l0_fix(self, factor: float) -> str:
        """Say which rule of the same weights has about the published L0."""
        rules = [
            c for c in changes(self.stated, self.bench.lm, self.l0) if c.kind == "architecture"
        ]
        got = self._measure([c.way for c in rules], SCALE_ROWS)
        near = [
            (m.error, c, m)
            for c, m in zip(rules, got, strict=True)
            if m.l0 and self.l0 and max(m.l0 / self.l0, self.l0 / m.l0) <= L0_FITS
        ]
        if near:
            _, change, measured = min(near, key=lambda one: one[0])
            return f"{change.fix} (FVU {_number(measured.fvu)}, L0 {measured.l0:.4g})"
        many = "a threshold, a bias or k was lost" if factor > 1 else "another k or input scale"
        return f"look for what decides which latents are on: {many}"

    def _shape(self, found: Measured) -> Iterator[Line]:
        """Say where the prediction as a whole is off: by a constant, or by a factor."""
        if found.offset is not None and found.fvu is not None:
            large = found.offset > OFFSET
            yield Line(
                name="bias",
                status="doubt" if large else "fits",
                says=f"a constant added to its prediction would explain {found.offset:.1%} of the "
                f"variance",
                fix="the decoder's bias looks lost, or is of other activations" if large else "",
                numbers={"share": found.offset},
            )
        if found.gain is not None:
            most = GAIN_SHRUNK if self.stated.sae.cfg.name in SHRUNK else GAIN
            off = not 1 / GAIN <= found.gain <= most and found.error < POOR_FVU
            yield Line(
                name="gain",
                status="doubt" if off else "fits",
                says=f"its prediction is best multiplied by {found.gain:.3g}",
                fix="norms or a scale are folded in once too often, or not at all" if off else "",
                numbers={"gain": found.gain},
            )

    def _ce(self, slips: list[_Seen], seen: dict[str, _Seen]) -> Line:
        """Measure how much of the loss is kept: as told, and in the ways that came near."""
        ways = {"as told": self.stated} | {s.change.says: s.change.way for s in slips}
        for kind in ("site", "BOS"):
            if kind in seen:
                ways[seen[kind].change.says] = seen[kind].change.way
        every = self.bench.recovered(list(ways.values()), self.ce_rows)
        kept = dict(zip(ways, every, strict=True))
        told = kept["as told"]
        numbers = {name: found.share for name, found in kept.items()}
        if told.share is None:
            return Line(
                name="CE recovered",
                status="unknown",
                numbers=numbers,
                says=f"the site is worth {told.worth:.3g} nats/token, standard error "
                f"{told.worth_error:.2g}: too little on so few rows to say what is kept of it",
            )
        says = "; ".join(f"{_number(r.share)} {name}" for name, r in kept.items())
        most = told.share + 2 * told.error
        status: Status = "wrong" if most < 0.3 else "doubt" if most < 0.7 else "fits"
        return Line(
            name="CE recovered",
            status=status,
            says=f"{says}; standard error {told.error:.2g}",
            numbers=numbers,
            fix=""
            if status == "fits"
            else "the model predicts worse with what the SAE puts in place of the activations",
        )


def _much_better(new: _Seen, old: Measured) -> bool:
    found = min(old.error, 1e9)  # which may be infinite
    # The stream before the first block is the embedding and positions, which are noise to a sparse
    # code: a right SAE there may do better at the embedding alone.
    start = {str(new.change.way.read), str(new.change.way.write)} <= {"embed", "L0.resid_pre"}
    if start and old.error < POOR_FVU:
        return False
    error = new.measured.error
    return error < MUCH_BETTER * found and found - error > SOME


def _some_better(new: _Seen, old: Measured) -> bool:
    """Tell whether another way comes near enough to cast doubt on this one."""
    if old.error >= POOR_FVU:  # nothing is right here, which the line of the error says
        return False
    share = BOS_BETTER if new.change.kind == "BOS" else (1 + MUCH_BETTER) / 2
    least = SOME / 10 if new.change.kind == "BOS" else SOME / 2
    return new.measured.error < share * old.error and old.error - new.measured.error > least


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3g}"
