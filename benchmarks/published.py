"""Tables of papers made again: the published number next to ours, one recipe a table.

    python benchmarks/published.py [--quick] [--check] [--json] [RECIPE ...]

Recipes: `probing` and `fakes` (FaithfulSAE, from the authors' results), `formulas` (values that
published definitions give), `layers` (MLSAE), `locality` (SAE Locality), `synth`
(SynthSAEBench-16k). The first three are the same in quick form; the others train an SAE, on the
embedded model or on samples of a truth, and in quick form a small one. What a recipe trained stays
in `--out` and is not trained again. `--rows docs/measurements/published.json` writes the tables
into the file that the page is tested against. `--seed` and `--samples` are those of `synth`.

`--check`: nothing recomputed differs from what was printed; a latent of one SAE over 30 layers is
on at one layer for some tokens and not for all; entropy grows by a bit or more from the first layer
to the last; MCC is 0.3 or more above chance. `--quick --check`: any growth, and 0.05.
"""

import json
import sys
import tempfile
from pathlib import Path

import _command
import _published
import _published_runs

from saekit.core import machine, provenance

RECIPES = {
    recipe.__name__: recipe
    for recipe in (
        _published.probing,
        _published.fakes,
        _published.formulas,
        _published_runs.layers,
        _published_runs.locality,
        _published_runs.synth,
    )
}


def write(path, name, found):
    """Put one table into the file of tables."""
    kept = json.loads(path.read_text()) if path.exists() else {}
    made = {"made": provenance.collect(0)["time"], "settings": found.settings}
    kept[name] = made | {"columns": found.columns, "rows": found.rows}
    path.write_text(json.dumps(kept, indent=1) + "\n")


def main():
    parser = _command.parser_of(__doc__, "small SAEs: a minute")
    parser.add_argument("recipes", nargs="*", metavar="RECIPE", help=f"[{' '.join(RECIPES)}]")
    parser.add_argument("--out", type=Path, help="folder for what is trained [one that is deleted]")
    parser.add_argument("--rows", type=Path, help="JSON file that gets the tables")
    parser.add_argument("--seed", type=int, action="append", help="of `synth`; repeat [0]")
    parser.add_argument("--samples", type=int, default=2**22, help="of `synth`, for each seed")
    options = parser.parse_args()
    if unknown := sorted(set(options.recipes) - set(RECIPES)):
        parser.error(f"there is no recipe {', '.join(unknown)}; there are {', '.join(RECIPES)}")
    options.seeds = options.seed or [0]
    machine.prepare()
    with tempfile.TemporaryDirectory() as scratch:
        options.out = options.out or Path(scratch)
        found = {}
        for name in options.recipes or RECIPES:
            found[name] = RECIPES[name](options)
            print(f"\n{RECIPES[name].__doc__.strip()}\n")
            print("\n".join(_published.markdown(found[name])), flush=True)
            if options.rows:
                write(options.rows, name, found[name])
    record = {name: one._asdict() | {"floors": len(one.floors)} for name, one in found.items()}
    floors = [floor for one in found.values() for floor in one.floors]
    return _command.finish("published", options, record, floors)


if __name__ == "__main__":
    sys.exit(main())
