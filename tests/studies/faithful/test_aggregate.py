"""The published table, number by number, and what a cell of another model's text does to it."""

import json
import math
from pathlib import Path

import pytest

from saekit.cli.main import main
from saekit.core.errors import ConfigError, DataError
from saekit.studies.faithful.aggregate import Cell, aggregate, bootstrap, read_cells, sign_test

PUBLISHED = Path(__file__).parent / "published.json"
PILE = "pile-uncopyrighted"
# Printed in the notes: accuracy and macro F1.
AVERAGES = {"faithful": (0.7042, 0.6347), "fineweb": (0.7009, 0.6298), PILE: (0.7056, 0.6342)}
PAIRS = {  # difference and wins of 15, of both
    ("faithful", "fineweb"): (0.0034, 10, 0.0049, 9),
    ("faithful", PILE): (-0.0014, 7, 0.0005, 6),
    ("fineweb", "faithful"): (-0.0034, 5, -0.0049, 6),
    ("fineweb", PILE): (-0.0047, 7, -0.0044, 7),
    (PILE, "faithful"): (0.0014, 7, -0.0005, 9),
    (PILE, "fineweb"): (0.0047, 8, 0.0044, 8),
}
BY_MODEL = {
    "gpt2-small": ((0.7000, 0.6073), (0.6966, 0.6009), (0.7159, 0.6218)),
    "Llama-3.2-3B": ((0.7883, 0.7408), (0.7829, 0.7341), (0.7878, 0.7411)),
    "Llama-3.2-1B": ((0.7243, 0.6375), (0.7209, 0.6348), (0.7219, 0.6369)),
    "pythia-1.4b": ((0.7292, 0.6704), (0.7241, 0.6607), (0.7116, 0.6406)),
    "pythia-2.8b": ((0.5794, 0.5175), (0.5798, 0.5184), (0.5908, 0.5304)),
}
OTHERS = {"baseline_acc": (0.8054, 0.8054, 0.8054), "recon_acc": (0.7275, 0.7288, 0.7268)}
OTHERS["recon_f1"] = (0.6779, 0.6805, 0.6784)


@pytest.fixture(scope="module")
def found():
    return aggregate(read_cells(PUBLISHED), without=["yelp_polarity"])


def averages(one):
    return {r["data"]: (round(r["sae_acc"], 4), round(r["sae_f1"], 4)) for r in one.averages.rows()}


def test_every_printed_number(found):
    assert averages(found) == AVERAGES
    rows = found.averages.rows()
    for name, values in OTHERS.items():
        assert tuple(round(r[name], 4) for r in rows) == values
    for (first, second), (acc, acc_wins, f1, f1_wins) in PAIRS.items():
        a, f = (found.pair(first, second, m) for m in ("sae_acc", "sae_f1"))
        assert (round(a.difference, 4), a.wins, a.n) == (acc, acc_wins, 15)
        assert (round(f.difference, 4), f.wins) == (f1, f1_wins)
    assert found.pair("faithful", PILE, "sae_acc").ties == 1
    models = {(r["model"], r["data"]): r for r in found.by_model.rows()}
    for model, values in BY_MODEL.items():
        for arm, pair in zip(AVERAGES, values, strict=True):
            row = models[model, arm]
            assert (round(row["sae_acc"], 4), round(row["sae_f1"], 4)) == pair


def test_a_path_as_text_is_read_and_print_shows_the_pairs(found):
    assert str(aggregate(read_cells(str(PUBLISHED)), without=["yelp_polarity"])) == str(found)
    assert "10/15" in str(found) and "Pairwise" not in str(found)


def test_the_cell_of_another_models_text_is_flagged_and_what_changes_without_it(found):
    assert len(found.foreign) == 3 and all("pythia-2.8b" in one for one in found.foreign)
    assert all("text of pythia1.4b" in one for one in found.foreign)
    own = found.corrected
    assert averages(own) == AVERAGES | {"faithful": (0.7037, 0.6343)}
    last = next(r for r in own.by_model.rows() if (r["model"], r["data"])[0] == "pythia-2.8b")
    assert (round(last["sae_acc"], 4), round(last["sae_f1"], 4)) == (0.5767, 0.5156)
    web, pile = own.pair("faithful", "fineweb", "sae_acc"), own.pair("faithful", PILE, "sae_acc")
    assert (round(web.difference, 4), web.wins, web.ties) == (0.0028, 9, 1)
    assert (round(pile.difference, 4), pile.wins) == (-0.0019, 7)
    assert round(own.pair("faithful", "fineweb", "sae_f1").difference, 4) == 0.0045
    assert round(own.pair("faithful", PILE, "sae_f1").difference, 4) == 0.0002


def test_what_is_missing_is_named_and_tests_say_how_little_it_is(found):
    assert any("gemma-2-2b" in line and PILE in line for line in found.missing)
    one = found.pair("faithful", "fineweb", "sae_acc")
    assert round(one.p_sign, 2) == 0.30
    assert one.low < 0 < one.high and one.p_bootstrap > 0.05


def test_tests_in_closed_form():
    assert sign_test(5, 5) == pytest.approx(2 / 32) and sign_test(3, 6) == 1.0
    assert sign_test(0, 0) == 1.0 and sign_test(10, 15) == sign_test(5, 15)
    low, high, p = bootstrap([0.2] * 6, 0)
    assert (low, high) == pytest.approx((0.2, 0.2)) and p == pytest.approx(2 / 10_001)
    assert bootstrap([1.0, -1.0] * 5, 0)[2] > 0.5
    assert bootstrap([0.1, 0.5, -0.2], 1) == bootstrap([0.1, 0.5, -0.2], 1)


def cell(model, data, value, task="t", by=None):
    return {"model": model, "data": data, "task": task, "scores": {"acc": value}, "written_by": by}


def test_our_layout_averages_seeds_and_drops_what_has_no_own_text(tmp_path):
    cells = [cell("a", "web", 0.5), cell("a", "web", 0.7), cell("b", "web", 0.4)]
    cells += [cell("a", "faithful-a", 0.9, by="a"), cell("b", "faithful-a", 0.1, by="a")]
    path = tmp_path / "cells.json"
    path.write_text(json.dumps({"kind": "saekit faithful cells", "cells": cells}))
    found = aggregate(read_cells(path), ["faithful", "web"], metrics=["acc"])
    assert found.pair("faithful", "web", "acc").difference == pytest.approx((0.3 - 0.3) / 2)
    assert found.corrected.pair("faithful", "web", "acc").n == 1
    assert found.corrected.missing == ("b t: no faithful",)


def test_bad_input_is_refused(tmp_path):
    path = tmp_path / "a.json"
    for raw in ({}, {"downstream": {"m": {"k": {}}}}, {"kind": "saekit faithful cells"}):
        path.write_text(json.dumps(raw))
        with pytest.raises(DataError):
            read_cells(path)
    for value in (None, "0.5"):
        raw = {"kind": "saekit faithful cells", "cells": [cell("a", "web", value)]}
        path.write_text(json.dumps(raw))
        with pytest.raises(DataError):
            read_cells(path)
    cells = [Cell(**cell("a", "web", 0.5)), Cell(**cell("b", "pile", 0.5))]
    with pytest.raises(DataError, match="No model and task"):
        aggregate(cells, ["web", "pile"], metrics=["acc"])
    with pytest.raises(ConfigError):
        aggregate(cells, ["web"], metrics=["acc"])
    with pytest.raises(ConfigError, match="yelp"):
        aggregate(cells, without=["yelp"])
    whole = [*cells, Cell(**cell("a", "pile", 0.25))]
    with pytest.raises(ConfigError, match="f1"):
        aggregate(whole, ["web", "pile"], metrics=["f1"])
    assert math.isclose(
        aggregate(whole, ["web", "pile"], metrics=["acc"]).pairs[0].difference, 0.25
    )


def test_the_command_prints_it(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["faithful", "aggregate", str(PUBLISHED), "--without", "yelp_polarity"])
    out = capsys.readouterr().out
    assert not ended.value.code and ".7042  0.6347" in out and "FOREIGN" in out
    assert "3 have SAEs of the model's own text" in out and "p = 0.30" in out


@pytest.mark.parametrize(
    "cell",
    [
        {"data": 5},
        {"model": ["m"]},
        {"scores": [1]},
        {"scores": None},
        {"scores": {}},
        {"scores": {"sae_acc": 10**400}},
        {"written_by": 4},
    ],
)
def test_cells_that_are_not_of_names_and_numbers_are_refused(tmp_path, cell):
    whole = {"model": "m", "data": "d", "task": "t", "scores": {"sae_acc": 0.5}}
    path = tmp_path / "cells.json"
    path.write_text(json.dumps({"kind": "saekit faithful cells", "cells": [whole | cell]}))
    with pytest.raises(DataError, match="cells.json"):
        read_cells(path)
    other = whole | {"scores": {"sae_acc": 0.4, "sae_f1": 0.1}}
    path.write_text(json.dumps({"kind": "saekit faithful cells", "cells": [whole, other]}))
    with pytest.raises(DataError, match="stands there twice"):
        read_cells(path)
    two = [Cell(**whole | {"data": d}) for d in "ab"]
    with pytest.raises(ConfigError, match="each once"):
        aggregate(two, ["a", "a"], metrics=["sae_acc"])
