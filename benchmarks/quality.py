"""Quality at equal tokens, width and L0: saekit and its peers on one set of activations.

    python benchmarks/quality.py --peer-python PYTHON [--quick] [--check] [--json] [--tune]

Activations of the embedded model's middle layer are harvested once. Every trainer then sees the
same batches in the same order (see quality_trainers.py), and what it trained is written as plain
weights, rebuilt as a saekit SAE and measured here by one path: FVU and L0 on validation text, and
the share of the cross-entropy recovered, against zero and mean ablation. A peer's own forward
pass must agree with the rebuilt one to 1e-4 of the spread, root mean square, or the run stops.

Equal L0. TopK keeps k. Architectures that choose by batch are measured at their own threshold
(`fvu`, `l0`) and at the one threshold that gives k on the held-out tokens (`fvu_at_k`). The
others are trained at up to `--searches` values of their coefficient for each seed, two more for
the first, and `fvu_at_k` is read off between the two nearest, linearly in the logarithms of FVU
and L0; outside what was reached there is none. Intervals are 95 %, Student's t over seeds.

By default the four architectures that decide and multi_topk run; `--all` adds relu, gated and
p_anneal. `--tune` also gives each peer the best of a few learning rates
(`TRIED` times its own; sparsify with Adam too), chosen on the first seed by held-out FVU at equal
L0, which flatters the peer.
`--check` exits 1 unless saekit's mean FVU is below every peer's for the four architectures that
count, at equal L0; a peer that never came near it counts by its nearest run where that has the
larger L0, and fails the check where that leaves it undecided. `--quick --check`: saekit's FVU is at
most 0.98 for every architecture, so each of them trained.
"""

import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import _command
import torch
from safetensors.torch import load_file, save_file

from saekit.activations.harvest import Harvest
from saekit.activations.pairs import Pair
from saekit.activations.rules import FittedRule, TokenRule
from saekit.core import provenance
from saekit.core.seeds import generator
from saekit.data.corpora.packaged import Packaged
from saekit.data.tokenise import TokenStream
from saekit.evals import _predictions
from saekit.evals.base import Subject, Tools
from saekit.evals.core import Core
from saekit.metrics.base import Batch
from saekit.metrics.ce import recovered
from saekit.metrics.fvu import FVU
from saekit.models.hf import load
from saekit.models.sites import parse_site
from saekit.saes.jumprelu import JumpReLU
from saekit.saes.topk import TopK

DECIDING = ("topk", "batch_topk", "matryoshka", "jumprelu")
BY_BATCH = ("batch_topk", "matryoshka")
BY_COEFFICIENT = ("jumprelu", "relu", "gated", "p_anneal")
ENTRIES = {
    "saekit": (*DECIDING, "relu", "gated", "p_anneal", "multi_topk"),
    "sae_lens": (*DECIDING, "relu", "gated"),
    "dictionary_learning": (*DECIDING, "relu", "gated", "p_anneal"),
    "sparsify": ("topk", "multi_topk"),
}
# Where the search for a coefficient begins, and whether a larger one makes codes sparser.
COEFFICIENTS = {
    ("sae_lens", "jumprelu"): (1.0, True),
    ("sae_lens", "relu"): (5.0, True),
    ("sae_lens", "gated"): (5.0, True),
    ("dictionary_learning", "relu"): (0.03, True),
    ("dictionary_learning", "gated"): (0.03, True),
    ("dictionary_learning", "p_anneal"): (0.01, True),
    ("saekit", "relu"): (5.0, True),
    ("saekit", "gated"): (5.0, True),
    ("saekit", "p_anneal"): (5.0, True),
}
# Multiples of a peer's own rate that --tune tries. Those of Adam are meant for runs of 10^4 steps.
TRIED = {
    "sae_lens": (5.0, 10.0),  # 3 and 30 were worse at 400 steps
    "dictionary_learning": (3.0, 10.0),
    "sparsify": (1 / 3,),
}
NEAR = 0.03  # an L0 so close to k is at k
CLOSE = 2.0  # between two L0 no further apart than this factor, values at k are read off
T_95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}
AGREE = 1e-4


class Setting(NamedTuple):
    """One training: what is trained, and what the trainer is told."""

    trainer: str
    arch: str
    seed: int
    coefficient: float | None = None
    lr: float | None = None
    optimiser: str | None = None


class HeldOut(NamedTuple):
    """What every SAE is measured on."""

    x: torch.Tensor  # [n, d], tokens that count
    rows: torch.Tensor  # [n_rows, n_ctx], for losses
    losses: dict[str, torch.Tensor]  # clean, zero, mean: per scored token, nats
    rule: FittedRule


class Bench:
    """Activations on disk, the model, held-out tokens, and a process for every interpreter."""

    def __init__(self, options, folder):
        self.options, self.folder = options, Path(folder)
        self.site = parse_site(options.site)
        self.lm = load(options.model)
        self.seconds = {"harvest": 0.0, "losses": 0.0, "measure": 0.0}
        self.workers = {}
        self.done = {}
        self.cross_checked = None
        self._harvest()

    # activations

    def _stream(self, split):
        return TokenStream(Packaged(), split, self.lm.tokenizer, n_ctx=self.options.n_ctx)

    def _harvest(self):
        began, options = time.monotonic(), self.options
        pair = Pair(read=(options.site,))
        train = Harvest(self.lm, self._stream("train"), pair, TokenRule())
        parts, n = [], 0
        for acts in train.batches():
            parts.append(acts)
            n += len(acts.x)
            if n >= options.tokens:
                break
        else:
            raise SystemExit(f"The corpus holds {n:,} tokens; lower --tokens.")
        tensors = {
            "train": torch.cat([p.x for p in parts])[: options.tokens].contiguous(),
            "row": torch.cat([p.row for p in parts])[: options.tokens],
            "pos": torch.cat([p.pos for p in parts])[: options.tokens],
        }
        for seed in options.seeds:
            chance = generator(seed, "order", 0)  # as saekit's own trainer draws it
            tensors[f"order.{seed}"] = torch.randperm(options.tokens, generator=chance)
        rule = train.rules[str(self.site)]
        held = Harvest(self.lm, self._stream("validation"), pair, TokenRule(), fitted=train.rules)
        n_rows = math.ceil(options.eval_tokens / options.n_ctx)
        x = torch.cat([acts.x for acts in held.batches(0, n_rows)])
        rows = torch.cat([r.tokens for r in held.stream.rows(8, n_rows=n_rows)])
        rows = rows[: math.ceil(options.ce_tokens / options.n_ctx)]
        tensors["check"] = x[:512].contiguous()
        save_file(tensors, self.folder / "acts.safetensors")
        made = {"model": options.model, "pair": pair.to_dict(), "corpus": Packaged().to_dict()}
        made |= {"rules": {str(self.site): rule.to_dict()}}
        made |= {"dtype": str(self.lm.dtype).removeprefix("torch.")}
        (self.folder / "made.json").write_text(json.dumps(made))
        self.seconds["harvest"] = time.monotonic() - began
        began, x = time.monotonic(), x.float()
        self.held = HeldOut(x, rows, {}, rule)
        mean = x.double().mean(0).float()
        for name, put in (("clean", None), ("zero", torch.zeros(())), ("mean", mean)):
            self.held.losses[name] = self._loss(None if put is None else lambda _x, v=put: v)
        self.seconds["losses"] = time.monotonic() - began

    # measuring

    @torch.no_grad()
    def _loss(self, predict):
        """Return per-token losses with kept activations replaced by `predict` of them."""
        found = []
        for tokens in self.held.rows.split(8):

            def replace(acts, tokens=tokens):
                out, kept = acts.clone(), self.held.rule.keep(tokens, acts)
                out[kept] = predict(acts[kept].float()).to(acts.dtype)
                return out

            logits = self.lm.logits(tokens, {self.site: replace} if predict else None)
            scored = _predictions.scored(tokens, self.held.rule.special_ids)
            found.append(_predictions.losses(logits, tokens, scored))
        return torch.cat(found)

    @torch.no_grad()
    def measure(self, weights, arch):
        """Return FVU, L0, dead share and recovered loss of weights in the common form."""
        began, k = time.monotonic(), self.options.k
        sae = rebuild(weights, k)
        agree = disagreement(sae, self.held.x, weights["y_hat"])
        if not agree < AGREE:
            raise SystemExit(f"{arch}: the rebuilt SAE differs from the trainer's by {agree:.2g}.")
        score = {"disagreement": agree, **reconstruct(sae, self.held.x)}
        spliced = self._loss(sae)
        sums = {n: v.double().sum() for n, v in self.held.losses.items()}
        sums["spliced"] = spliced.double().sum()
        score["ce_zero"] = recovered(sums, "zero")
        score["ce_mean"] = recovered(sums, "mean")
        score["ce_rise"] = float((sums["spliced"] - sums["clean"]) / len(spliced))
        if arch in BY_BATCH:
            at_k = with_threshold(weights, threshold_for(sae, self.held.x, k))
            score["fvu_at_k"] = reconstruct(rebuild(at_k, k), self.held.x)["fvu"]
        if self.cross_checked is None:
            self.cross_checked = self._against_core(sae, score)
        self.seconds["measure"] += time.monotonic() - began
        return score

    def _against_core(self, sae, score):
        """Return how far this path is from saekit's `core` evaluation on the same text."""
        core = Core(n_tokens=self.options.eval_tokens, ce_tokens=self.options.ce_tokens, n_blocks=4)
        subject = Subject(
            sae=sae, lm=self.lm, read=self.site, write=self.site, rule=self.held.rule, name="x"
        )
        tools = Tools(rows=self._stream("validation").rows, split="validation")
        scores = core.run(subject, tools).scores
        names = {"fvu": "fvu", "l0": "l0", "ce_zero": "ce_recovered_zero"}
        names |= {"ce_mean": "ce_recovered_mean"}
        off = {n: abs(score[n] - scores[c].value) / abs(scores[c].value) for n, c in names.items()}
        if max(off.values()) > 1e-3:
            raise SystemExit(f"This benchmark and `core` disagree: {off}")
        return off

    # training

    def run(self, setting):
        """Train and measure once; the same setting is not trained twice."""
        if setting in self.done:
            return self.done[setting]
        options, out = self.options, self.folder / "trained.safetensors"
        spec = setting._asdict() | {
            "d_sae": options.d_sae,
            "k": options.k,
            "batch": options.batch,
            "out": str(out),
            "threads": torch.get_num_threads(),
        }
        answer = self._worker(setting.trainer).ask(spec)
        if "error" in answer:
            raise SystemExit(f"{setting} failed:\n{answer['error']}")
        score = self.measure(load_file(out), setting.arch)
        record = {**setting._asdict(), **answer, **score}
        note = f"{setting.trainer:20} {setting.arch:11} seed {setting.seed} " + (
            f"coefficient {setting.coefficient:.3g} " if setting.coefficient else ""
        )
        note += f"lr {answer['settings']['lr']:.2g}  FVU {score['fvu']:.4f}  L0 {score['l0']:.1f}"
        print(f"{note}  {answer['seconds']:.0f} s", file=sys.stderr, flush=True)
        self.done[setting] = record
        return record

    def _worker(self, trainer):
        if trainer not in self.workers:
            for other in self.workers.values():
                other.close()  # one at a time: peers hold much memory
            self.workers.clear()
            python = sys.executable if trainer == "saekit" else self.options.peer_python
            self.workers[trainer] = Worker(python, self.folder, self.options.log)
        return self.workers[trainer]

    def close(self):
        """End the processes."""
        for worker in self.workers.values():
            worker.close()


class Worker:
    """A process that trains what it is asked to."""

    def __init__(self, python, folder, log):
        script = Path(__file__).with_name("quality_trainers.py")
        threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
        self._log = Path(log or os.devnull).open("a")  # noqa: SIM115 - as long as the process
        self._process = subprocess.Popen(
            [python, str(script), str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=os.environ | threads,
        )

    def ask(self, spec):
        """Return the answer to a request."""
        self._process.stdin.write(json.dumps(spec) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        return json.loads(line) if line else {"error": "The process ended; see --log."}

    def close(self):
        """End the process."""
        self._process.stdin.close()
        self._process.wait()
        self._log.close()


def rebuild(weights, k):
    """Return a saekit SAE of weights in the common form."""
    d, d_sae = weights["W_enc"].shape
    sizes = {"d_in": d, "d_out": d, "d_sae": d_sae}
    cfg = JumpReLU(target_l0=float(k), **sizes) if "threshold" in weights else TopK(k=k, **sizes)
    sae = cfg.build(torch.Generator().manual_seed(0))
    sae.load_state_dict({key: v for key, v in weights.items() if key != "y_hat"})
    return sae


def disagreement(sae, x, y_hat):
    """Return the error of a rebuilt SAE beside the trainer's, root mean square by spread of x.

    Not the largest error: a pre-activation that rounding puts on the other side of a threshold
    moves one token by a whole activation.
    """
    x = x[: len(y_hat)]
    spread = (x - x.mean(0)).square().mean().sqrt()
    return float((sae(x) - y_hat).square().mean().sqrt() / spread)


def reconstruct(sae, x):
    """Return FVU about the mean of all held-out tokens, L0, and latents that never fire."""
    metric, total = FVU(), {}
    n_on, fired = 0, torch.zeros(sae.cfg.d_sae, dtype=torch.bool)
    for part in x.split(2048):
        acts = sae.encode(part).live()
        n_on += len(acts.values)
        fired[acts.latents] = True
        sums = metric.sums(Batch(part, sae.decode(acts), acts))
        total = {name: total.get(name, 0) + value for name, value in sums.items()}
    return {
        "fvu": metric.compute(total),
        "l0": n_on / len(x),
        "silent": float((~fired).double().mean()),
    }


def threshold_for(sae, x, k):
    """Return the one threshold above which k latents a token are on."""
    wanted = k * len(x)
    best = torch.empty(0)
    for part in x.split(2048):
        pre = (part @ sae.W_enc + sae.b_enc).flatten()
        best = torch.cat([best, pre[pre > 0]])
        best = torch.topk(best, min(wanted, len(best)), sorted=False).values
    return float(best.min())


def with_threshold(weights, threshold):
    """Return the same weights with one threshold."""
    return weights | {"threshold": torch.full_like(weights["b_enc"], threshold)}


def search(bench, trainer, arch, seed, start=None, **extra):
    """Return runs at coefficients that come near k, and on either side of it where possible."""
    k = bench.options.k
    usual, sparser = COEFFICIENTS.get((trainer, arch), (float(k), False))
    runs, c = [], start or usual
    more = 2 if start is None and bench.options.searches > 1 else 0  # the first is the farthest
    for _ in range(bench.options.searches + more):
        runs.append(bench.run(Setting(trainer, arch, seed, c, **extra)))
        below, above = around(runs, k)
        if nearest(runs, k)["off"] < NEAR:
            break
        if below and above and above["l0"] < CLOSE * below["l0"]:
            break
        if below and above:
            low, high = (math.log(max(r["l0"], 1e-3)) for r in (below, above))
            at = (math.log(k) - low) / max(high - low, 1e-9)
            at = min(max(at, 0.1), 0.9)
            logs = [math.log(r["coefficient"]) for r in (below, above)]
            c = math.exp(logs[0] + at * (logs[1] - logs[0]))
        else:
            step = nearest(runs, k)["l0"] / k  # and beyond, to have k between two runs
            step = min(step**1.3 * 1.1, 12.0) if step > 1 else max(step**1.3 / 1.1, 1 / 12)
            last = nearest(runs, k)["coefficient"]
            c = last * step if sparser else last / step
    return runs


def around(runs, k):
    """Return the run with the largest L0 up to k and that with the smallest from k on."""
    below = max((r for r in runs if r["l0"] <= k), key=lambda r: r["l0"], default=None)
    above = min((r for r in runs if r["l0"] >= k), key=lambda r: r["l0"], default=None)
    return below, above


def nearest(runs, k):
    """Return the run nearest to k, with `off`, how far it is as a share."""
    best = min(runs, key=lambda r: abs(math.log(max(r["l0"], 1e-3) / k)))
    return best | {"off": abs(best["l0"] / k - 1)}


def at_k(runs, k):
    """Return the nearest run, with `fvu_at_k` where there is one."""
    best = nearest(runs, k)
    if best["off"] < NEAR:
        return best | {"fvu_at_k": best["fvu"]}
    below, above = around(runs, k)
    if not (below and above) or below["l0"] <= 0:
        return best | {"fvu_at_k": None}
    low, high = math.log(below["l0"]), math.log(above["l0"])
    at = (math.log(k) - low) / (high - low)
    fvus = [math.log(r["fvu"]) for r in (below, above)]
    return best | {"fvu_at_k": math.exp(fvus[0] + at * (fvus[1] - fvus[0]))}


def enter(bench, trainer, arch, **extra):
    """Return one record a seed of an entry."""
    options, records, start = bench.options, [], None
    for seed in options.seeds:
        if arch in BY_COEFFICIENT:
            runs = search(bench, trainer, arch, seed, start, **extra)
            records.append(at_k(runs, options.k))
            start = start or records[0]["coefficient"]
        else:
            record = bench.run(Setting(trainer, arch, seed, **extra))
            records.append(record | {"fvu_at_k": record.get("fvu_at_k", record["fvu"])})
    return records


def tuned(bench, trainer, arch):
    """Return the entry of a peer at the best of a few learning rates."""
    seed = bench.options.seeds[0]
    usual = next(
        r for s, r in bench.done.items() if s[:3] == (trainer, arch, seed) and s.lr is None
    )
    choices = [{}, *({"lr": usual["settings"]["lr"] * f} for f in TRIED[trainer])]
    if trainer == "sparsify":
        rate = 2e-4 * (2**14 / bench.options.d_sae) ** 0.5
        choices += [{"lr": rate * f, "optimiser": "adam"} for f in (10.0,)]

    def worse(extra):
        """Return what sorts choices: FVU at k, and where k is not reached how far it is."""
        if arch not in BY_COEFFICIENT:
            record = bench.run(Setting(trainer, arch, seed, **extra))
            return False, record.get("fvu_at_k", record["fvu"])
        best = at_k(search(bench, trainer, arch, seed, **extra), bench.options.k)
        reached = best["fvu_at_k"] is not None
        return not reached, best["fvu_at_k"] if reached else best["off"]

    return enter(bench, trainer, arch, **min(choices, key=worse))


def interval(values):
    """Return mean and half-width of the 95 % interval; None where a value is missing."""
    if any(v is None for v in values):
        return None, None
    if len(values) < 2:
        return values[0], None
    half = T_95.get(len(values), 2.0) * statistics.stdev(values) / len(values) ** 0.5
    return statistics.mean(values), half


def shown(values, digits):
    """Return "mean ± half-width"."""
    mean, half = interval(values)
    if mean is None:
        return "not reached"
    return f"{mean:.{digits}f}" + ("" if half is None else f" ± {half:.{digits}f}")


def table(entries):
    """Return the results as Markdown."""
    columns = "architecture | trainer | rate | FVU at L0 = k | FVU | L0 | CE recovered (zero) | "
    columns += "CE recovered (mean) | never fire | s"
    lines = [f"| {columns} |", "|" + " --- |" * 10]
    for (arch, name), records in sorted(entries.items(), key=lambda e: _place(e[0])):

        def of(key, records=records):
            return [r[key] for r in records]

        cells = [arch, name, f"{records[0]['settings']['lr']:.2g}", shown(of("fvu_at_k"), 4)]
        cells += [shown(of("fvu"), 4), shown(of("l0"), 1), shown(of("ce_zero"), 4)]
        cells += [shown(of("ce_mean"), 4), shown(of("silent"), 3)]
        cells += [f"{statistics.mean(of('seconds')):.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _place(entry):
    archs = list(dict.fromkeys(a for every in ENTRIES.values() for a in every))
    return archs.index(entry[0]), list(ENTRIES).index(entry[1].split()[0])


def missed(entries, k):
    """Return the comparisons that saekit does not win, as sentences."""
    out = []
    for arch in DECIDING:
        ours = entries.get((arch, "saekit"))
        if not ours:
            continue
        mine = interval([r["fvu_at_k"] for r in ours])[0]
        for (of, name), records in entries.items():
            if of != arch or name == "saekit":
                continue
            theirs = interval([r["fvu_at_k"] for r in records])[0]
            if theirs is None and all(r["l0"] > k for r in records):
                theirs = interval([r["fvu"] for r in records])[0]  # at a larger L0
            if mine is None or theirs is None:
                out.append(f"{arch}: saekit and {name} have no common L0.")
            elif not mine < theirs:
                out.append(f"{arch}: saekit {mine:.4f}, {name} {theirs:.4f}.")
    return out


def options_of(arguments):
    parser = _command.parser_of(__doc__, "few steps, one seed: all run")
    parser.add_argument("--peer-python", default=None, help="interpreter that has the peers")
    parser.add_argument("--all", action="store_true", help="also relu, gated, p_anneal")
    parser.add_argument("--tune", action="store_true", help="peers also at their best rate")
    parser.add_argument("--log", type=Path, default=None, help="what trainers print")
    parser.add_argument("--only", nargs="*", default=None, help="entries, as saekit:topk")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--site", default="L15.resid_post")
    parser.add_argument("--n-ctx", type=int, default=128)
    parser.add_argument("--d-sae", type=int, default=2048)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=320 * 1024)
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--eval-tokens", type=int, default=32_768)
    parser.add_argument("--ce-tokens", type=int, default=4096)
    parser.add_argument("--searches", type=int, default=3)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    options = parser.parse_args(arguments)
    if options.quick:
        options.tokens, options.d_sae, options.seeds = 24 * 512, 1024, options.seeds[:1]
        options.batch, options.searches = 512, 1
        options.eval_tokens, options.ce_tokens = 2048, 512
    options.tokens -= options.tokens % options.batch
    return options


def main():
    options = options_of(None)
    began = time.monotonic()
    wanted = [(t, a) for t, archs in ENTRIES.items() for a in archs]
    if not (options.all or options.quick or options.only):
        wanted = [(t, a) for t, a in wanted if a in (*DECIDING, "multi_topk")]
    if options.peer_python is None:
        wanted = [(t, a) for t, a in wanted if t == "saekit"]
    if options.only is not None:
        wanted = [(t, a) for t, a in wanted if f"{t}:{a}" in options.only or t in options.only]
    entries = {}
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(options, folder)
        try:
            for trainer, arch in wanted:
                entries[arch, trainer] = enter(bench, trainer, arch)
                if options.tune and trainer != "saekit":
                    entries[arch, f"{trainer} (tuned)"] = tuned(bench, trainer, arch)
        finally:
            bench.close()
    losing = missed(entries, options.k)
    figures = {
        "threads": torch.get_num_threads(),
        "seconds": {**bench.seconds, "all": time.monotonic() - began},
        "difference_from_core": bench.cross_checked,
        "entries": {f"{name}:{arch}": r for (arch, name), r in entries.items()},
        "runs": list(bench.done.values()),
        "not_won": losing,
        "provenance": provenance.collect(),
    }
    print(table(entries))
    spent = "  ".join(f"{k} {v:.0f} s" for k, v in figures["seconds"].items())
    print(f"\n{spent}", file=sys.stderr)
    name = f"comparisons that saekit does not win{': ' if losing else ''}{' '.join(losing)}"
    floors = [_command.Floor(name, float(len(losing)), most=0)]
    if options.quick:
        print("Too few steps to judge by: --quick shows that every entry runs.", file=sys.stderr)
        floors = [
            _command.Floor(f"{arch}: saekit's FVU", records[0]["fvu"], most=0.98)
            for (arch, trainer), records in entries.items()
            if trainer == "saekit"
        ]
    sys.exit(_command.finish("quality", options, figures, floors))


if __name__ == "__main__":
    main()
