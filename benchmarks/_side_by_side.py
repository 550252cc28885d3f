"""What the speed benchmarks share: implementations side by side, each in a process of its own.

A benchmark is one file with two roles. Run as usual it starts itself once for every entry, with
`--worker`, in the interpreter that has the entry's library, and speaks lines of JSON with it. As
a worker it makes one job (`makers[name](spec) -> Job`) and does its step whenever asked.

Samples are taken round-robin: one of each entry, then the next round, so that a slow minute of
the machine falls on all of them. A sample is so many steps that it lasts `--seconds` or longer.
It records wall seconds, CPU seconds of the process with all its threads, how much of that was
spent in the kernel (page faults, mostly), and which share of all cores others used meanwhile:
over `BUSY` of it a sample is not clean, and the table says how many were.
A ratio is of the medians over rounds; its range is over rounds, each compared with the same round.

Memory is the largest resident size after set-up, less what the process had when its library was
imported and its data read. It counts what the allocator keeps.
"""

import contextlib
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import _command

ROOT = Path(__file__).resolve().parents[1]
# glibc gives large blocks back to the system at once and faults their pages in again on the next
# step. With these it keeps them: the peers run faster, without a change to their code.
TUNED = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**35),
    "MALLOC_TOP_PAD_": str(2**26),
}
BUSY = 0.12
PATIENCE = 3600  # seconds an answer may take
PACKAGES = ("torch", "transformers", "sae-lens", "dictionary-learning", "eai-sparsify")


class Job(NamedTuple):
    """One thing that is timed."""

    step: Callable[[], Any]
    tokens: int  # that a step handles
    facts: Callable[[], dict] = dict  # asked after the last sample


class Target(NamedTuple):
    """A figure, and what it must and should reach."""

    name: str
    value: float | None  # None: not measured
    floor: float
    goal: float
    most: bool = False  # whether smaller is better
    why: str = ""  # it was not measured

    @property
    def as_floor(self) -> _command.Floor:
        ends = {"most": self.floor} if self.most else {"least": self.floor}
        return _command.Floor(self.name, self.value, **ends, why=self.why)

    @property
    def met(self) -> str:
        if self.value is None:
            return f"not run{': ' if self.why else ''}{self.why}"
        sign = -1 if self.most else 1
        if sign * self.value >= sign * self.goal:
            return "goal"
        return "floor" if sign * self.value >= sign * self.floor else "MISSED"


# in a worker


class _Memory:
    baseline = 0

    @staticmethod
    def of(field):
        """Return a figure of /proc/self/status in bytes; 0 where there is none."""
        try:
            lines = Path("/proc/self/status").read_text().splitlines()
        except OSError:
            return 0
        return next((int(x.split()[1]) * 1024 for x in lines if x.startswith(field + ":")), 0)

    @staticmethod
    def forget_peak():
        """Let the largest resident size begin again from the present one."""
        try:
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:
            return False
        return True


def mark_baseline():
    """Say that libraries are imported and data is read: what comes now is the entry's own."""
    _use_torch_once()
    _Memory.baseline = _Memory.of("VmRSS")


def _use_torch_once():
    """Load what torch loads at first use, so that it counts for nobody."""
    import torch

    layer = torch.nn.Linear(512, 512)
    optimiser = torch.optim.Adam(layer.parameters())
    y = layer(torch.randn(512, 512))
    torch.topk(y, 4).values.square().mean().backward()
    optimiser.step()
    with torch.no_grad():
        layer.bfloat16()(torch.randn(512, 512).bfloat16())


def serve(makers):
    """Answer requests on stdin until it closes."""
    warnings.simplefilter("ignore")
    hide_a_broken_torchvision()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is not an answer
    job, exact = None, False
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = {}
            if request["do"] == "make":
                job, exact = _make(makers, request["spec"]), _Memory.forget_peak()
            elif request["do"] == "sample":
                answer = _sample(job, request["steps"])
            else:
                peak = _Memory.of("VmHWM") - _Memory.baseline
                answer = {"peak_bytes": peak, "peak_exact": exact, "tokens": job.tokens}
                answer |= {"versions": _versions()} | job.facts()
        except BaseException as error:  # a worker that dies cannot say why
            last = f"{type(error).__name__}: {error}".splitlines()[0]
            answer = {"error": last[:150], "trace": traceback.format_exc()}
        print(json.dumps(answer), file=answers, flush=True)


def _make(makers, spec):
    import torch

    torch.set_num_threads(spec["threads"])
    if spec["entry"].startswith("saekit"):  # as its command line does
        from saekit.core import machine

        machine.prepare()
    return makers[spec["entry"]](spec)


def _sample(job, steps):
    busy, own, kernel = _busy_seconds(), time.process_time(), _kernel_seconds()
    began = time.perf_counter()
    for _ in range(steps):
        job.step()
    wall = time.perf_counter() - began
    own, kernel = time.process_time() - own, _kernel_seconds() - kernel
    cores = os.cpu_count() or 1
    others = max(0.0, _busy_seconds() - busy - own) / (wall * cores) if wall else 0.0
    return {"steps": steps, "wall": wall, "cpu": own, "kernel": kernel, "others": others}


def _busy_seconds():
    """Return the seconds that all cores together worked since boot, stolen time included."""
    try:
        parts = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    except OSError:
        return 0.0
    user, nice, system, _idle, _wait, irq, soft, steal = map(int, parts)
    return (user + nice + system + irq + soft + steal) / os.sysconf("SC_CLK_TCK")


def _kernel_seconds():
    return resource.getrusage(resource.RUSAGE_SELF).ru_stime


def _versions():
    from importlib import metadata

    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def hide_a_broken_torchvision():
    """Make an unusable torchvision look absent: nnsight asks for it and nothing here uses it."""
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        for part in [m for m in sys.modules if m.partition(".")[0] == "torchvision"]:
            del sys.modules[part]
        sys.modules["torchvision"] = None
    except ImportError:
        pass


# in the process that measures


class Entry(NamedTuple):
    """One implementation in one setting."""

    name: str  # as in `makers`
    python: str | None  # None: there is no interpreter for it
    tuned: bool = False  # with the allocator told to keep memory

    @property
    def label(self) -> str:
        return self.name.replace("_", "-") + (" (tuned allocator)" if self.tuned else "")


class Worker:
    """A process that holds one job."""

    def __init__(self, entry, file, threads, log):
        self.entry, self.failed, self.samples, self.facts = entry, None, [], {}
        self.process = None
        if entry.python is None:
            self.failed = "no --peer-python was given"
            return
        env = os.environ | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
        env |= {"SPARSIFY_DISABLE_TRITON": "1", "WANDB_MODE": "disabled", "HF_HUB_OFFLINE": "1"}
        env |= {"TOKENIZERS_PARALLELISM": "false", "HF_DATASETS_OFFLINE": "1"}
        env |= {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
        env |= TUNED if entry.tuned else {}
        if entry.name.startswith("saekit"):  # as its command line sets, before PyTorch is there
            env |= {"GOMP_SPINCOUNT": "20000"}
        try:
            self.process = subprocess.Popen(
                [entry.python, str(file), "--worker"],
                env=env,
                text=True,
                stderr=log,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
        except OSError as error:
            self.failed = str(error)

    def ask(self, **request):
        """Send a request; `answer` brings what comes of it."""
        if self.failed is None:
            try:
                self.process.stdin.write(json.dumps(request) + "\n")
                self.process.stdin.flush()
            except OSError:
                self.failed = f"its process ended with status {self.process.poll()}"

    def answer(self, patience=PATIENCE):
        """Return the answer, or None after noting why there is none."""
        if self.failed is not None:
            return None
        watch = threading.Timer(patience, self.process.kill)
        watch.start()
        line = self.process.stdout.readline()
        watch.cancel()
        if not line:
            self.failed = f"its process ended with status {self.process.wait()}"
            return None
        found = json.loads(line)
        if "error" in found:
            self.failed = found["error"]
            print(found["trace"], file=sys.stderr)
            return None
        return found

    def sample(self, steps):
        self.ask(do="sample", steps=steps)
        return self.answer()

    def close(self):
        if self.process is not None:
            self.process.stdin.close()
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
            self.process.stdout.close()


@contextlib.contextmanager
def log_of(options):
    """Open the file for what libraries print."""
    with options.log.open("a") if options.log else tempfile.TemporaryFile("w") as log:
        yield log


def race(entries, file, spec, options):
    """Return what each entry took, by label, measured round-robin.

    Args:
        entries: of type `Entry`.
        file: the benchmark.
        spec: what the makers need; `entry` and `threads` are added.
        options: of the command line.
    """
    with log_of(options) as log:
        workers = [Worker(e, file, options.threads, log) for e in entries]
        try:
            for worker in workers:
                more = {"entry": worker.entry.name, "threads": options.threads}
                worker.ask(do="make", spec=spec | more)
            for worker in workers:
                worker.answer()
            steps = {id(w): _steps(w, options) for w in workers}
            for i in range(options.rounds):
                for worker in workers[i % len(workers) :] + workers[: i % len(workers)]:
                    found = worker.sample(steps[id(worker)])
                    if found is not None:
                        worker.samples.append(found)
            for worker in workers:
                worker.ask(do="facts")
                worker.facts = worker.answer() or {}
        finally:
            for worker in workers:
                worker.close()
    return {w.entry.label: _result(w) for w in workers}


def _steps(worker, options):
    """Warm up, and return how many steps a sample is."""
    worker.sample(options.warm_up)
    once = worker.sample(1)
    return max(1, round(options.seconds / max(once["wall"], 1e-4))) if once else 1


def _result(worker):
    label = worker.entry.label
    if worker.failed is not None:
        print(f"{label}: not run: {worker.failed}", file=sys.stderr, flush=True)
        return {"failed": worker.failed}
    samples, tokens = worker.samples, worker.facts["tokens"]
    seconds = statistics.median(s["wall"] / s["steps"] for s in samples)
    print(f"{label}: {1e3 * seconds:.1f} ms", file=sys.stderr, flush=True)
    return {
        "seconds": seconds,
        "tokens_per_second": tokens / seconds,
        "cpu_seconds": statistics.median(s["cpu"] / s["steps"] for s in samples),
        "kernel_share": sum(s["kernel"] for s in samples) / sum(s["cpu"] for s in samples),
        "others": statistics.median(s["others"] for s in samples),
        "clean": sum(s["others"] < BUSY for s in samples),
        "samples": samples,
        **worker.facts,
    }


def ran(result):
    """Return whether an entry was measured."""
    return result is not None and "failed" not in result


def per_token(result, i=None):
    """Return seconds a token: the median, or that of round i."""
    if i is None:
        return result["seconds"] / result["tokens"]
    sample = result["samples"][i]
    return sample["wall"] / sample["steps"] / result["tokens"]


def ratio(ours, theirs):
    """Return how many times as many tokens a second ours does: of medians, least, most."""
    rounds = range(min(len(ours["samples"]), len(theirs["samples"])))
    each = [per_token(theirs, i) / per_token(ours, i) for i in rounds]
    return per_token(theirs) / per_token(ours), min(each), max(each)


def compared(name, ours, theirs, floor, goal):
    """Return the target of a ratio of speeds."""
    for result in (ours, theirs):
        if not ran(result):
            return Target(name, None, floor, goal, why=(result or {}).get("failed", ""))
    return Target(name, ratio(ours, theirs)[0], floor, goal)


def fastest(results, names):
    """Return the fastest of some entries that ran; the reason of the first where none did."""
    found = [results[n] for n in names if n in results]
    there = [r for r in found if ran(r)]
    return min(there, key=per_token) if there else (found[0] if found else None)


def race_table(results, ours):
    """Return a race as Markdown, each entry against `ours`."""
    head = "entry | ms a step | tokens/s | saekit is times as fast (range) | CPU ms a step | kernel"
    head += " | others (clean samples) | peak memory MB | L0"
    lines = [f"| {head} |", "|" + " --- |" * 9]
    for label, r in results.items():
        if not ran(r):
            lines.append(f"| {label} | not run: {r['failed']} |" + " |" * 7)
            continue
        cells = [label, f"{1e3 * r['seconds']:.1f}", f"{r['tokens_per_second']:,.0f}", ""]
        if ran(results.get(ours)) and label != ours:
            cells[3] = "{:.2f} ({:.2f} to {:.2f})".format(*ratio(results[ours], r))
        cells += [f"{1e3 * r['cpu_seconds']:.1f}", f"{100 * r['kernel_share']:.0f} %"]
        cells += [f"{100 * r['others']:.0f} % ({r['clean']} of {len(r['samples'])})"]
        peak = f"{r['peak_bytes'] / 1e6:.0f}" + ("" if r["peak_exact"] else " at most")
        if "state_bytes" in r:
            peak += f" ({r['peak_bytes'] / r['state_bytes']:.1f} x weights and Adam)"
        cells += [peak, f"{r['l0']:.1f}" if "l0" in r else ""]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def target_table(targets):
    """Return what was reached of what was aimed at, as Markdown."""
    lines = ["| target | measured | floor | goal | met |", "|" + " --- |" * 5]
    for t in targets:
        value = "" if t.value is None else f"{t.value:.3g}"
        at = "at most " if t.most else ""
        lines.append(f"| {t.name} | {value} | {at}{t.floor:g} | {at}{t.goal:g} | {t.met} |")
    return "\n".join(lines)


def machine():
    """Return what the figures were measured on."""
    info = {"platform": platform.platform(), "python": platform.python_version()}
    info |= {"cores": os.cpu_count(), "load": list(os.getloadavg())}
    info["when"] = datetime.now(UTC).isoformat(timespec="seconds")
    try:
        cpu = Path("/proc/cpuinfo").read_text()
        fields = dict(part.split(":", 1) for part in cpu.split("\n\n")[0].splitlines())
        fields = {k.strip(): v.strip() for k, v in fields.items()}
        flags = fields.get("flags", "").split()
        info["cpu"] = fields.get("model name", "")
        info["vector"] = [f for f in flags if f.startswith(("avx512_bf", "avx512_vnni", "amx"))]
        memory = Path("/proc/meminfo").read_text().split("\n", 1)[0].split()[1]
        info["memory_gb"] = round(int(memory) / 1e6, 1)
    except (OSError, ValueError, IndexError):
        pass
    git = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(git, capture_output=True, text=True, check=False)
        info["commit"] = done.stdout.strip()
    except OSError:
        info["commit"] = ""
    return info


def parser_of(doc):
    """Return the options that all speed benchmarks have."""
    parser = _command.parser_of(doc, "small sizes: to see that all run")
    parser.add_argument("--peer-python", default=None, help="interpreter that has the peers")
    parser.add_argument("--log", type=Path, default=None, help="what libraries print")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5, help="samples of each entry")
    parser.add_argument("--seconds", type=float, default=1.0, help="least length of a sample")
    parser.add_argument("--warm-up", type=int, default=2, help="steps before the first sample")
    parser.add_argument("--only", nargs="*", default=None, help="entries, as saekit sae_lens")
    return parser


def made_quick(options):
    """Shorten the race where that was asked."""
    if options.quick:
        options.rounds, options.seconds, options.warm_up = 2, 0.1, 1
    return options


def python_of(name, options):
    """Return the interpreter of an entry."""
    own = name.startswith(("saekit", "bare", "encoder"))
    return sys.executable if own else options.peer_python


def wanted(name, options):
    """Return whether `--only` lets an entry run."""
    return options.only is None or name in options.only


def all_ran(results, options):
    """Return a floor for the quick form: every entry whose library is there ran."""
    failed = [
        label
        for label, r in results.items()
        if not ran(r) and (options.peer_python or label.startswith(("saekit", "bare", "encoder")))
    ]
    name = f"entries that failed{': ' if failed else ''}{', '.join(failed)}"
    return _command.Floor(name, float(len(failed)), most=0)


def finish(name, options, figures, targets, quick_floors):
    """Print what was found; leave with 1 where that was asked and a floor is missed.

    Args:
        name: of the benchmark.
        options: as parsed.
        figures: everything that was measured.
        targets: of the full form.
        quick_floors: of the quick form, in place of the targets.
    """
    if options.only is not None:
        targets = [t for t in targets if t.value is not None or t.why]
    on = machine()
    if not options.quick:
        print(f"\n{target_table(targets)}\n")
    cpu = on.get("cpu", on["platform"])
    print(f"{cpu}, {on['cores']} cores, {options.threads} threads, {on['when']}")
    if options.quick:
        print("Too small to judge speed by: --quick checks that every entry works.")
    floors = quick_floors if options.quick else [t.as_floor for t in targets]
    figures = {"machine": on} | figures
    figures |= {"targets": [t._asdict() | {"met": t.met} for t in targets]}
    sys.exit(_command.finish(name, options, figures, floors))
