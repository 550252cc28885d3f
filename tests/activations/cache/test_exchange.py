"""Stores to and from the Arrow layout; what sae-lens itself makes of it is in tests/parity."""

import json

import numpy as np
import pytest
import torch

from saekit.activations.cache import caching
from saekit.activations.cache.exchange import export_arrow, import_arrow
from saekit.activations.cache.recorded import RecordedModel
from saekit.activations.pairs import Pair
from saekit.activations.rules import TokenRule
from saekit.core.errors import ConfigError, DataError, FormatError, ShapeError
from saekit.data.arrow import open_arrow, read_arrow
from saekit.models.tiny import tiny
from tests import world
from tests.activations.cached import SITES, made, spec

pytest.importorskip("pyarrow")


@pytest.fixture(scope="module")
def lm():
    return world.model()


@pytest.fixture(scope="module")
def store(lm, tmp_path_factory):
    return made(tmp_path_factory.mktemp("store"), lm)


@pytest.fixture
def arrow(store, tmp_path):
    export_arrow(store, tmp_path / "arrow", list(store.sites)[1], shown=False)
    return tmp_path / "arrow"


def back(arrow, folder, lm, **changes):
    return import_arrow(
        arrow, folder / "back", spec(folder, **({"sites": SITES[1:]} | changes)), lm, shown=False
    )


def test_there_and_back_is_the_same(store, arrow, tmp_path, lm):
    found = back(arrow, tmp_path, lm)
    site = list(store.sites)[1]
    assert torch.equal(found.acts(site, 0, 999), store.acts(site, 0, 999))
    assert torch.equal(found.text(0, 999).tokens, store.text(0, 999).tokens)
    assert (found.text(0, 999).doc_ids == -1).all()  # the layout does not have them
    assert found.ended and not found.damaged()


def test_an_imported_store_gives_the_events_of_the_one_it_was_made_from(store, arrow, tmp_path, lm):
    found = back(arrow, tmp_path, lm)
    events = []
    for one in (store, found):
        harvest = RecordedModel(one).harvest(Pair(read=SITES[1:]), TokenRule(), {})
        events.append(torch.cat([acts.x for acts in harvest.batches()]))
    assert torch.equal(*events)


def test_a_rule_by_token_ids_is_refused_where_there_are_none(arrow, tmp_path, lm):
    info = json.loads((arrow / "dataset_info.json").read_text())
    del info["features"]["token_ids"]
    (arrow / "dataset_info.json").write_text(json.dumps(info))
    with pytest.raises(ConfigError, match="rule.special"):
        back(arrow, tmp_path, lm)
    found = back(arrow, tmp_path, lm, rule=TokenRule(special=False))
    assert found.manifest["imported"]["off_by_fvu"] is None  # no ids to compare by
    model = RecordedModel(found)
    with pytest.raises(ConfigError, match="rule.special"):
        model.harvest(Pair(read=SITES[1:]), TokenRule(), {})
    assert model.harvest(Pair(read=SITES[1:]), TokenRule(special=False), {}).rules


def test_an_imported_store_cannot_be_repaired_and_says_so(arrow, tmp_path, lm):
    found = back(arrow, tmp_path, lm)
    with pytest.raises(ConfigError, match="import again"):
        caching.repair(lm, found.folder)


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [({"n_ctx": 64}, ShapeError, "rows of 32 tokens"), ({"sites": SITES}, ConfigError, "One site")],
)
def test_what_does_not_fit_is_refused(arrow, tmp_path, lm, changes, error, said):
    with pytest.raises(error, match=said):
        back(arrow, tmp_path, lm, **changes)
    assert not (tmp_path / "back").exists()


def test_damage_and_other_columns_are_named(arrow, tmp_path, lm):
    with pytest.raises(FormatError, match="blocks.1.hook_resid_post"):
        import_arrow(arrow, tmp_path / "b", spec(tmp_path, sites=SITES[1:]), lm, column="x")
    file = next(arrow.glob("*.arrow"))
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(FormatError, match=f"{file.name} is (missing or )?damaged"):
        back(arrow, tmp_path, lm)
    file.unlink()
    with pytest.raises(FormatError, match=f"{file.name} is (missing or )?damaged"):
        back(arrow, tmp_path, lm)
    assert not (tmp_path / "back").exists() and not list(tmp_path.glob(".*.part"))


def test_float16_is_refused_where_it_overflows(lm, tmp_path, monkeypatch):
    real = type(lm).read

    def read(self, tokens, sites, **kwargs):
        found = real(self, tokens, sites, **kwargs)
        for acts in found.values():
            acts[0, 0, 0] = 88_093.0
        return found

    with monkeypatch.context() as patch:
        patch.setattr(type(lm), "read", read)
        store = made(tmp_path, lm, tokens=500)
    with pytest.raises(DataError, match="does not fit float16"):
        export_arrow(store, tmp_path / "a", next(iter(store.sites)), dtype="float16", shown=False)
    assert not (tmp_path / "a").exists()


def test_offsets_of_lists_that_run_backwards_are_refused(arrow):
    """Arrow takes them as they are: rows come in another order, or from outside the file."""
    table = open_arrow(arrow)
    ends = np.arange(1, 4, dtype=np.int32) * table.width
    data = table.files[0].read_bytes()
    assert ends.tobytes() in data
    table.files[0].write_bytes(data.replace(ends.tobytes(), ends[[1, 0, 2]].tobytes(), 1))
    with pytest.raises(FormatError, match=rf"{table.files[0].name} is damaged.*offset"):
        list(read_arrow(table))


def test_a_folder_that_exists_is_not_written_to(store, arrow):
    with pytest.raises(ConfigError, match="exists"):
        export_arrow(store, arrow, next(iter(store.sites)), shown=False)


def renamed(arrow, old, new):
    """Give the column of activations another name."""
    import pyarrow as pa

    info = json.loads((arrow / "dataset_info.json").read_text())
    info["features"] = {new if n == old else n: f for n, f in info["features"].items()}
    (arrow / "dataset_info.json").write_text(json.dumps(info))
    for file in arrow.glob("*.arrow"):
        with pa.OSFile(str(file)) as opened:
            table = pa.ipc.open_stream(opened).read_all()
        table = table.rename_columns([new if n == old else n for n in table.column_names])
        with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as out:
            out.write_table(table)


def test_a_site_that_the_column_contradicts_is_refused(arrow, tmp_path, lm):
    with pytest.raises(ConfigError, match=r"is of L1.resid_post; got L0.resid_post"):
        back(arrow, tmp_path, lm, sites=SITES[:1])
    assert not (tmp_path / "back").exists()


def test_a_site_that_the_model_contradicts_is_refused(arrow, tmp_path, lm):
    renamed(arrow, "blocks.1.hook_resid_post", "acts")
    with pytest.raises(ConfigError, match=r"not those of .* at L0.resid_post.*of L1.resid_post"):
        back(arrow, tmp_path, lm, sites=SITES[:1])
    found = back(arrow, tmp_path, lm)  # the name says nothing, and the model agrees
    assert found.manifest["imported"]["off_by_fvu"] < 1e-6


def test_activations_of_another_model_are_refused_unless_asked_for(arrow, tmp_path):
    other = tiny(seed=5)
    with pytest.raises(ConfigError, match=r"none of its sites either.*--no-compare"):
        back(arrow, tmp_path, other)
    found = import_arrow(
        arrow,
        tmp_path / "taken",
        spec(tmp_path, sites=SITES[1:]),
        other,
        compare=False,
        shown=False,
    )
    assert found.manifest["imported"]["off_by_fvu"] is None
