"""The best one-to-one matching of two dictionaries: `assign` against scipy's dense table.

    python benchmarks/stability.py [--latents N] [--width D] [--dense] [--quick] [--check] [--json]

Two dictionaries of unit directions, half of them in common but for noise, the others alike within
clusters as features of one kind are; each size runs in a process of its own, whose peak memory is
measured. In full: 16,384 latents of width 768 with the dense table in the same run (under 60 s and
2 GB without it, the same share over 0.7), and 65,536 (under 300 s and 4 GB).

`--quick --check`: 2,048 latents; the share and the sum are those of the dense table.

What would mislead: dictionaries whose latents all want the same few need more candidates and time.
"""

import json
import resource
import subprocess
import sys
import time

import torch
from _command import Floor, finish, parser_of

SHARE_NEAR = 1e-9


def dictionaries(n, width):
    """Return two dictionaries with half of their directions in common but for noise."""
    chance = torch.Generator().manual_seed(0)
    unit = torch.nn.functional.normalize
    centres = unit(torch.randn(max(n // 16, 1), width, generator=chance), dim=1)

    def drawn():
        rows = unit(torch.randn(n, width, generator=chance), dim=1)
        of = torch.randint(len(centres), (n,), generator=chance)
        return unit(rows + torch.rand(n, 1, generator=chance) * centres[of], dim=1)

    one, other = drawn(), drawn()
    half = n // 2
    noise = torch.rand(half, 1, generator=chance) * 1.6 * drawn()[:half]
    other[:half] = unit(one[:half] + noise, dim=1)
    return one, other[torch.randperm(n, generator=chance)]


def measure(n, width, *, dense):
    """Match two dictionaries in this process; return seconds, peak memory and the share."""
    from saekit.metrics.assignment import assign, assign_dense
    from saekit.metrics.nearest import unit

    one, other = dictionaries(n, width)
    began = time.perf_counter()
    found = assign(one, other)
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    figures = {
        "latents": n,
        "seconds": seconds,
        "peak_bytes": peak,
        "share": float((found.cosines > 0.7).double().mean()),
        "sum": float(found.cosines.double().sum()),
        "gap": found.gap,
    }
    if dense:
        began = time.perf_counter()
        whole = assign_dense(unit(one) @ unit(other).T)
        figures["dense_seconds"] = time.perf_counter() - began
        figures["dense_share"] = float((whole.cosines > 0.7).double().mean())
        figures["dense_sum"] = float(whole.cosines.double().sum())
    return figures


def apart(n, width, *, dense):
    """Return `measure` of a process of its own."""
    words = [sys.executable, __file__, "--latents", str(n), "--width", str(width), "--one"]
    done = subprocess.run(
        [*words, *(["--dense"] if dense else [])], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def main():
    parser = parser_of(__doc__, "2,048 latents against the dense table")
    parser.add_argument("--latents", type=int, help="one size in place of 16,384 and 65,536")
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--dense", action="store_true", help="the dense table too")
    parser.add_argument("--one", action="store_true", help="in this process, as JSON alone")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.latents, options.width, dense=options.dense)))
        return 0
    sizes = [(16_384, True), (65_536, False)]
    if options.latents:
        sizes = [(options.latents, options.dense)]
    if options.quick:
        sizes = [(2_048, True)]
    found, floors = {}, []
    for n, dense in sizes:
        one = found[str(n)] = apart(n, options.width, dense=dense)
        dense_said = f", dense {one['dense_seconds']:.1f} s" if dense else ""
        print(
            f"{n:>7,} latents  {one['seconds']:7.1f} s{dense_said}  "
            f"{one['peak_bytes'] / 1e9:.2f} GB  share {one['share']:.4f}  gap {one['gap']:.2g}"
        )
        floors.append(Floor(f"{n:,}: gap to the best", one["gap"], most=0))
        if dense:
            away = abs(one["share"] - one["dense_share"])
            floors.append(Floor(f"{n:,}: share away from dense", away, most=SHARE_NEAR))
            away = abs(one["sum"] - one["dense_sum"]) / n
            floors.append(Floor(f"{n:,}: sum a pair away from dense", away, most=1e-6))
        if not options.quick and n in (16_384, 65_536):
            seconds, gigabytes = {16_384: (60, 2), 65_536: (300, 4)}[n]
            floors.append(Floor(f"{n:,}: seconds", one["seconds"], most=seconds))
            floors.append(Floor(f"{n:,}: GB", one["peak_bytes"] / 1e9, most=gigabytes))
    return finish("stability", options, found, floors)


if __name__ == "__main__":
    sys.exit(main())
