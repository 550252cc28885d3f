"""The demonstration against its limits: wall time, memory, quality, and harvest speed.

    python benchmarks/demo.py [--quick] [--check] [--json]

Runs `saekit demo` in a fresh folder as a process of its own, then measures the harvest
against the bare early-stopped forward pass of the same model on the same rows in this
process. `--quick` measures the harvest only. `--check`: the limits of docs/measurements/demo.md.
`--quick --check`: the harvest reaches half of the bare pass (0.9 in full).
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import _command
import torch
from _command import Floor

from saekit import recipes
from saekit.models.hf import load
from saekit.training.loop import open_harvest

TARGETS = {  # figure: (floor, "max" or "min")
    "seconds": (180, "max"),
    "peak_rss_bytes": (4e9, "max"),
    "fvu": (0.16, "max"),
    "ce_rise_nats": (0.20, "max"),
    "dead": (0.01, "max"),
    "harvest_share": (0.90, "min"),
}


class Stop(Exception):
    pass


def bare(model, rows, layer):
    """The least that can be done: run the blocks up to the site, keep its output."""

    def stop(_module, _args, output):
        kept.append(output if torch.is_tensor(output) else output[0])
        raise Stop

    kept = []
    decoder = model.module.get_decoder()
    handle = decoder.layers[layer].register_forward_hook(stop)
    with torch.no_grad():
        for part in rows:
            try:
                decoder(input_ids=part.tokens, use_cache=False)
            except Stop:
                kept.clear()
    handle.remove()


def harvest_share(n_rows=256, repeats=3):
    """Return tokens/s of the harvest, of the bare forward, and their ratio (medians)."""
    run = recipes.get("demo")
    model = load(run.model)
    harvest = open_harvest(run, model)
    rows = list(harvest.stream.rows(harvest.batch_rows, n_rows=n_rows))
    n_tokens = sum(r.tokens.numel() for r in rows)
    layer = run.pair.reads[0].layer
    bare(model, rows[:2], layer)
    times = {"harvest": [], "bare": []}
    for _ in range(repeats):
        for name, job in (
            ("bare", lambda: bare(model, rows, layer)),
            ("harvest", lambda: list(harvest.batches(0, n_rows))),
        ):
            began = time.perf_counter()
            job()
            times[name].append(time.perf_counter() - began)
    speed = {name: n_tokens / statistics.median(t) for name, t in times.items()}
    return {
        "harvest_tokens_per_second": speed["harvest"],
        "bare_tokens_per_second": speed["bare"],
        "harvest_share": speed["harvest"] / speed["bare"],
        "dtype": str(model.dtype).removeprefix("torch."),
    }


def main():
    options = _command.parser_of(__doc__, "the harvest alone").parse_args()
    figures = {"threads": torch.get_num_threads()}
    if not options.quick:
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-c", "from saekit.cli.main import main; main()", "demo"]
            command += ["--json", "--out", str(Path(folder) / "demo")]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            record = json.loads(done.stdout.splitlines()[-1])
        figures |= {k: v for k, v in record.items() if k not in ("sae", "report")}
    figures |= harvest_share()
    for key, value in figures.items():
        print(f"{key:<28} {value:.4g}" if isinstance(value, float) else f"{key:<28} {value}")
    floors = [
        Floor(k, figures.get(k), **{"most" if side == "max" else "least": limit})
        for k, (limit, side) in TARGETS.items()
    ]
    if options.quick:
        floors = [Floor("harvest_share", figures["harvest_share"], least=0.5)]
    return _command.finish("demo", options, figures, floors)


if __name__ == "__main__":
    sys.exit(main())
