"""The index in a folder: what it holds, that it is told apart from others, and going on."""

import json
import shutil

import numpy as np
import pytest
import torch

import saekit
from saekit.activations.latents import LatentStore
from saekit.analysis import coding, indexing
from saekit.analysis.index_folder import Index
from saekit.core.errors import ConfigError, DataError, FormatError, UnknownNameError
from saekit.core.files import read_json, write_json
from saekit.core.progress import heard
from saekit.core.result import Table
from saekit.data import table_files
from saekit.hub.index_manifest import FILES, MANIFEST
from saekit.hub.trained import weights_digest
from saekit.models.hf import HFModel
from saekit.models.tiny import save_tiny
from tests import world

SITES = ("L0.resid_post", "L1.resid_post")
HOW = {"tokens": 4000, "n_ctx": 32, "shown": False}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("index")
    save_tiny(folder / "lm")
    world.text_file(folder, n_docs=900)
    return folder


@pytest.fixture(scope="module")
def lm(base):
    return saekit.load_model(str(base / "lm"), dtype="float32")


def trained(base, lm, name, **how):
    site = how.pop("site", SITES[1])
    sae = how.pop("sae", saekit.TopK(k=4, expansion=2))
    corpus = base / "text.jsonl"
    return saekit.train(lm, site=site, sae=sae, out=base / name, corpus=corpus, **HOW, **how)


@pytest.fixture(scope="module")
def one(base, lm):
    return trained(base, lm, "one")


@pytest.fixture(scope="module")
def made(one, lm):
    return saekit.index(one, lm, tokens=9000, codes=True, shown=False)


@pytest.fixture
def copy(made, tmp_path):
    """A copy of a run with its index, whose SAE and index lie where they usually do."""
    return shutil.copytree(made.folder.parent, tmp_path / "run")


def numbers_in(value):
    if isinstance(value, dict):
        return [n for v in value.values() for n in numbers_in(v)]
    if isinstance(value, list):
        return [n for v in value for n in numbers_in(v)]
    return [value]


def test_progress_ends_at_what_was_asked_and_a_shorter_text_is_noted(one, lm, tmp_path):
    told = []
    with heard(lambda *state: told.append(state)):
        found = saekit.index(one, lm, tokens=501, out=tmp_path / "a", shown=False)
    assert told[-1][1:] == (501, 501) and found.manifest["said"]["notes"] == []
    few = [f"text {i} of a few words" for i in range(40)]
    found = saekit.index(one, lm, corpus=few, tokens=5000, out=tmp_path / "b", shown=False)
    (note,) = found.manifest["said"]["notes"]
    there = f"the train text has {found.n_tokens}, and all of them were read"
    assert note == f"asked for 5,000 tokens that count; {there}"


def test_a_record_is_what_the_codes_say(made, lm):
    store = made.codes
    assert store.n_tokens == made.n_tokens >= 9000 and made.d_sae == 64
    for latent in range(0, 64, 7):
        record = made.record(latent)
        assert json.loads(json.dumps(record, allow_nan=False)) == record
        events = store.events(latent)
        assert record["values"]["count"] == len(events.value)
        if not len(events.value):
            assert record["histogram"] is None and not record["examples"]["top"]
            assert record["values"]["max"] is None
            continue
        grid = torch.zeros(store.n_rows, store.n_ctx)
        grid[events.row - store.first_row, events.pos] = events.value
        for examples in record["examples"].values():
            for one in examples:
                width = len(one["tokens"])
                acts = grid[one["row"] - store.first_row, one["start"] : one["start"] + width]
                assert one["at"] == acts.nonzero()[:, 0].tolist()
                np.testing.assert_allclose(one["acts"], acts[one["at"]], rtol=1e-3)
                tokens, docs = store.rows(torch.tensor([one["row"]]))
                ids = tokens[0, one["start"] : one["start"] + width].tolist()
                assert [record["strings"][i] for i in one["tokens"]] == lm.tokenizer.pieces(ids)
                assert set(docs[0, one["start"] : one["start"] + width].tolist()) == {one["doc"]}
                if one["peak"] is None:
                    assert one["value"] == 0 and acts[one["token"]] == 0
                else:
                    assert acts[one["peak"]] == pytest.approx(one["value"], rel=1e-3)
        assert sum(record["histogram"]["counts"]) == len(events.value)
        assert len(record["histogram"]["edges"]) == len(record["histogram"]["counts"]) + 1
        for string, n, share in record["tokens"]["on"]:
            assert isinstance(record["strings"][string], str) and 0 < share <= 1 <= n
        _, docs = store.rows(events.row)
        seen = docs[torch.arange(len(docs)), events.pos].unique()
        assert record["tokens"]["documents"] == len(seen)
        assert set(record["examples"]) == set(made.bands) and record["layers"] is None


def test_logits_and_neighbours(made, one, lm):
    effects = lm.logit_effects(one.directions).float()
    unit = torch.nn.functional.normalize(one.directions, dim=1)
    store = made.codes
    dense = torch.cat([s.codes.dense() for s in store.by_token()]) != 0
    phi = np.corrcoef(dense.numpy().T.astype(float)[[5, 6]])[0, 1]
    pair = {n: v for n, v, _ in made.record(5)["neighbours"]["cofiring"]}
    assert 6 not in pair or pair[6] == pytest.approx(phi, rel=1e-3)
    for latent in (0, 9, 63):
        record = made.record(latent)
        logits, row = record["logits"], effects[latent]
        up = [v for _, v in logits["promoted"]]
        np.testing.assert_allclose(up, row.topk(10).values, rtol=1e-3)
        assert logits["std"] == pytest.approx(float(row.std(correction=0)), rel=1e-3)
        assert sum(logits["histogram"]["counts"]) == lm.vocab_size
        for _, z, mean, n in logits["sets"]:
            expected = (mean - float(row.mean())) / float(row.std(correction=0)) * n**0.5
            assert z == pytest.approx(expected, rel=1e-2, abs=1e-3)
        near = record["neighbours"]["decoder"]
        cosines = unit[latent] @ unit.T
        cosines[latent] = -2
        np.testing.assert_allclose([v for _, v in near], cosines.topk(8).values, rtol=1e-3)
        for other, value, both in record["neighbours"]["cofiring"]:
            a, b = dense[:, latent], dense[:, other]
            assert both == int((a & b).sum())
            expected = np.corrcoef(a.numpy().astype(float), b.numpy().astype(float))[0, 1]
            assert value == pytest.approx(expected, rel=1e-3)


def test_columns_are_described_and_asked_for(made):
    assert {"density", "max", "token", "promotes", "encoder_decoder"} <= set(made.columns)
    assert all(c.label and c.about.endswith(".") for c in made.columns.values())
    density = made.column("density")
    assert density.dtype == np.float64 and density.shape == (64,)
    found = made.query("density>0.01 sort -max limit 3")
    assert len(found) == 3 and found.columns["max"] == sorted(found.columns["max"], reverse=True)
    assert saekit.query(made.folder.parent, "missing max").columns["latent"] == [
        i for i, v in enumerate(made.latents.columns["max"]) if v != v
    ]
    with pytest.raises(UnknownNameError, match="Did you mean `density`"):
        made.column("densty")
    with pytest.raises(UnknownNameError, match="holds text"):
        made.column("token")
    with pytest.raises(UnknownNameError, match="Did you mean `top`"):
        made.contexts(3, "topp")
    for wrong in (-1, 64, True):
        with pytest.raises(UnknownNameError, match="no latent"):
            made.record(wrong)


def test_numbers_have_four_digits_and_none_is_missing(made):
    for value in numbers_in(made.record(9)):
        assert not isinstance(value, float) or value == float(f"{value:.4g}")


def test_contexts_print_with_what_is_strong_in_brackets(made):
    latent = int(np.nanargmax(made.column("max")))
    shown = repr(made.contexts(latent))
    assert f"latent {latent}: 10 contexts" in shown and "[" in shown and "promoted" in shown
    assert made.contexts(latent, "negative").latent == latent


def test_the_vocabulary_shows_text_without_the_model(made, lm):
    ids = lm.tokenizer.encode(["日本 the\x00"])[0]
    assert made.pieces(ids) == lm.tokenizer.pieces(ids)
    with pytest.raises(UnknownNameError, match="no token"):
        made.pieces([10**6])


def test_a_table_next_to_the_index_gives_columns(copy):
    rows = {"latent": list(range(64)), "stable": [i / 64 for i in range(64)], "max": [1.0] * 64}
    (copy / "analysis").mkdir()
    Table(columns=rows).write_csv(copy / "analysis" / "seeds.csv")
    pairs = Table(columns={"latent": [1, 1], "other": [2, 3]})
    table_files.write_file(pairs, copy / "analysis" / "pairs.parquet")
    words = Table(columns={"latent": [3], "kind": ["odd"]}, units={})
    table_files.write_file(words, copy / "analysis" / "words.parquet")
    index = Index(copy / "index")
    assert (
        "stable" in index.columns and "seeds.max" in index.columns and "other" not in index.columns
    )
    assert index.query("stable>=.9").columns["latent"] == list(range(58, 64))
    assert index.query("seeds.stable>=.9 and seeds.max=1").columns["latent"] == list(range(58, 64))
    assert index.query('kind has "od"').columns["latent"] == [3]
    assert index.record(3)["values"]["kind"] == "odd"
    assert index.record(4)["values"]["kind"] is None
    assert "seeds.csv" in index.columns["stable"].about
    assert saekit.analyse(index, "firing").columns["latent"] == list(range(64))


@pytest.mark.parametrize("name", [*FILES, MANIFEST])
@pytest.mark.parametrize("harm", ["gone", "short", "bit"])
def test_a_damaged_file_is_refused_with_the_command(copy, name, harm):
    path = copy / "index" / name
    raw = bytearray(path.read_bytes())
    if harm == "gone":
        path.unlink()
    elif harm == "short":
        path.write_bytes(raw[: len(raw) // 2])
    else:
        raw[len(raw) // 2] ^= 1
        path.write_bytes(raw)
    with pytest.raises(FormatError) as error:
        index = Index(copy / "index")
        index.record(5)
        index.pieces([5])
    assert f"saekit index {copy}" in str(error.value)


def test_an_index_of_an_earlier_version_is_refused_with_the_command(tmp_path):
    old = tmp_path / "run" / "index"
    write_json(old / "index.json", {"tokens": 5, "seal": "x"})
    with pytest.raises(
        FormatError, match=f"earlier version; make it again: saekit index {tmp_path}"
    ):
        Index(old)
    (old / "index.json").unlink()
    write_json(old / "manifest.json", {"format": "saekit.latents", "version": 2})
    with pytest.raises(FormatError, match="earlier version"):
        Index(old)
    with pytest.raises(FormatError, match=f"There is no index in .* saekit index {tmp_path}"):
        Index(tmp_path / "index")


def test_an_index_of_an_earlier_version_is_replaced(one, lm, tmp_path):
    old = tmp_path / "index"
    old.mkdir()
    for name in ("index.json", "contexts.json", "manifest.json", "latents.csv"):
        (old / name).write_text("{}")
    (old / "shard-00000.safetensors").write_bytes(b"")
    saekit.index(one, lm, tokens=500, out=old, shown=False)
    assert sorted(p.name for p in old.iterdir()) == sorted([*FILES, MANIFEST])
    (old / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="in use"):
        saekit.index(one, lm, tokens=500, out=old, shown=False)


def test_other_weights_are_refused_with_the_command(made, one):
    made.check_weights(weights_digest(one.sae))
    with pytest.raises(FormatError, match="made of other weights.*saekit index"):
        made.check_weights("0" * 64)


def test_codes_are_made_when_an_analysis_asks(copy, base, made, capsys):
    shutil.rmtree(copy / "index" / "codes")
    index = Index(copy / "index")
    with pytest.raises(FormatError, match="--codes"):
        _ = index.codes
    wanted = saekit.analyse(made, "firing")
    capsys.readouterr()
    found = saekit.analyse(copy, "firing")
    assert "does not keep every code: encoding its" in capsys.readouterr().err
    assert str(found.columns) == str(wanted.columns)
    assert LatentStore.open(copy / "index" / "codes").n_tokens == index.n_tokens
    saekit.analyse(copy, "firing")
    assert not capsys.readouterr().err  # kept by now
    assert not list(copy.glob(".*work")) and Index(copy / "index").record(3)


def test_codes_of_another_sae_or_text_are_not_made(copy, base, lm, tmp_path):
    shutil.rmtree(copy / "index" / "codes")
    raw = (base / "text.jsonl").read_text()
    trained(base, lm, "other", seed=3)
    shutil.rmtree(copy / "sae")
    shutil.copytree(base / "other" / "sae", copy / "sae")
    with pytest.raises(FormatError, match="other weights"):
        saekit.analyse(copy, "firing")
    assert (base / "text.jsonl").read_text() == raw


class Killed(Exception):
    pass


def killed_after(monkeypatch, n):
    """Have indexing break off at its `n`-th batch of rows."""
    seen = []
    take = coding.Coder.take

    def counted(self, rows):
        seen.append(rows.first_row)
        if len(seen) > n:
            raise Killed
        return take(self, rows)

    monkeypatch.setattr(coding.Coder, "take", counted)
    return seen


def same(one, other):
    for name in FILES:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    both = [read_json(folder / MANIFEST) for folder in (one, other)]
    for raw in both:
        raw.pop("provenance"), raw.pop("seal"), raw["counts"].pop("seconds")
    assert both[0] == both[1]


def test_a_broken_off_indexing_goes_on_and_ends_the_same(one, lm, tmp_path, monkeypatch):
    monkeypatch.setattr(coding, "SHARD_TOKENS", 2048)
    how = {"tokens": 9000, "shown": False}
    saekit.index(one, lm, out=tmp_path / "whole", **how)
    out = tmp_path / "index"
    with monkeypatch.context() as during:
        killed_after(during, 3)
        with pytest.raises(Killed):
            saekit.index(one, lm, out=out, **how)
    work = tmp_path / ".index.work"
    assert not out.exists() and len(list((work / "codes").glob("shard*"))) == 3
    with pytest.raises(ConfigError, match="of other settings: tokens"):
        saekit.index(one, lm, out=out, tokens=500, shown=False)
    with monkeypatch.context() as during:
        seen = killed_after(during, 10**6)
        saekit.index(one, lm, out=out, **how)
    assert seen[0] > 0 and not work.exists()
    same(tmp_path / "whole", out)


def test_what_was_broken_off_is_thrown_away_when_asked(one, lm, tmp_path, monkeypatch):
    monkeypatch.setattr(coding, "SHARD_TOKENS", 2048)
    out = tmp_path / "index"
    with monkeypatch.context() as during:
        killed_after(during, 3)
        with pytest.raises(Killed):
            saekit.index(one, lm, out=out, tokens=9000, shown=False)
    with monkeypatch.context() as during:
        seen = killed_after(during, 10**6)
        saekit.index(one, lm, out=out, tokens=600, fresh=True, shown=False)
    assert seen[0] == 0 and Index(out).n_tokens < 5000


def test_an_earlier_index_stays_when_another_is_broken_off(copy, one, lm, monkeypatch):
    before = read_json(copy / "index" / MANIFEST)
    monkeypatch.setattr(indexing, "write_files", lambda *_: (_ for _ in ()).throw(Killed))
    with pytest.raises(Killed):
        saekit.index(copy, lm, tokens=500, shown=False)
    assert read_json(copy / "index" / MANIFEST) == before
    monkeypatch.undo()
    passes = counted_passes(monkeypatch)
    saekit.index(copy, lm, tokens=500, shown=False)  # all codes were there
    assert not passes and Index(copy / "index").n_tokens < 5000


def counted_passes(monkeypatch):
    passes, read = [], HFModel._read

    def counted(self, *words, **how):
        passes.append(1)
        return read(self, *words, **how)

    monkeypatch.setattr(HFModel, "_read", counted)
    return passes


def test_several_saes_in_one_pass_are_those_of_each_alone(base, lm, tmp_path, monkeypatch, one):
    two = trained(base, lm, "two", site=SITES[0], seed=1)
    how = {"tokens": 3000, "shown": False}
    with monkeypatch.context() as during:
        alone = counted_passes(during)
        saekit.index(one, lm, out=tmp_path / "one", **how)
    saekit.index(two, lm, out=tmp_path / "two", **how)
    with monkeypatch.context() as during:
        together = counted_passes(during)
        found = saekit.index([one, two], lm, out=tmp_path / "both", **how)
    assert len(together) == len(alone) and [i.site for i in found] == [SITES[1], SITES[0]]
    for name in ("one", "two"):
        same(tmp_path / name, tmp_path / "both" / name)
    with pytest.raises(ConfigError, match="Two indexes would go"):
        saekit.index([one, one], lm, out=tmp_path / "twice", **how)


def test_rows_of_another_length_are_another_pass_and_said(base, lm, tmp_path, one, capsys):
    how = HOW | {"n_ctx": 16}
    other = saekit.train(
        lm,
        site=SITES[1],
        sae=saekit.TopK(k=4, expansion=2),
        out=base / "short",
        corpus=base / "text.jsonl",
        **how,
    )
    capsys.readouterr()
    found = saekit.index([one, other], lm, tokens=600, out=tmp_path / "both")
    assert [i.n_ctx for i in found] == [32, 16]
    assert "2 passes" in capsys.readouterr().err


def test_all_sites_of_a_shared_sae(base, lm, tmp_path):
    trained(base, lm, "shared", site=list(SITES), fold=True)
    found = saekit.index(base / "shared", lm, tokens=2000, shown=False)
    assert [i.folder.name for i in found] == list(SITES) == [i.site for i in found]
    record = found[1].record(5)
    assert record["layers"]["sites"] == list(SITES)
    for n, index in enumerate(found):
        for name in ("density", "mean", "max"):
            expected = index.record(5)["values"][name]
            assert record["layers"][name][n] == pytest.approx(expected, rel=1e-3)
        sae = saekit.load(base / "shared", site=index.site)
        index.check_weights(weights_digest(sae.sae))
        at = saekit.index(sae, lm, tokens=2000, out=tmp_path / index.site, shown=False)
        np.testing.assert_allclose(at.column("max"), index.column("max"), rtol=1e-4)
    with pytest.raises(FormatError, match="each of 2 sites: L0.resid_post, L1.resid_post"):
        Index(base / "shared" / "index")
    one = saekit.index(base / "shared", lm, site=SITES[0], tokens=500, shown=False)
    assert one.folder == base / "shared" / "index" / SITES[0] and one.n_tokens < 2000
    sae = saekit.load(base / "shared", site=SITES[1])
    latent = int(np.nanargmax(found[1].column("max")))
    dose = saekit.steer(lm, sae, latent, prompt="the", scale=1.0, n=2).doses[0]
    assert dose.add == pytest.approx(float(np.nanmax(found[1].column("max"))), rel=1e-6)


def test_a_sweep_is_all_its_runs(base, lm, capsys):
    from saekit.cli.main import main

    words = ["sweep", "--model", base / "lm", "--site", SITES[1], "--corpus", base / "text.jsonl"]
    words += [
        "--d-sae",
        "32",
        "--vary",
        "sae.k=2,4",
        "--tokens",
        "2000",
        "--quiet",
        "--dtype",
        "float32",
    ]
    words += ["--set", "n_ctx=32", "--set", "batch_tokens=128", "--out", base / "sweep"]
    for line in (words, ["index", base / "sweep", "--tokens", "700", "--quiet", "--json"]):
        with pytest.raises(SystemExit) as ended:
            main([str(w) for w in line])
        assert not ended.value.code, capsys.readouterr().err
    record = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert len(record["indexes"]) == 2
    assert all(Index(one["index"]).d_sae == 32 for one in record["indexes"])
    query = ["query", record["indexes"][0]["index"], "density>0 sort -max limit 4", "--json"]
    with pytest.raises(SystemExit) as ended:
        main(query)
    assert not ended.value.code and json.loads(capsys.readouterr().out)["rows"] == 4


def test_what_cannot_be_indexed_is_refused(one, lm, tmp_path):
    for wrong, words in (
        ({"tokens": 0}, "at least 1"),
        ({"split": "all"}, "one of train, validation, test"),
    ):
        with pytest.raises(ConfigError, match=words):
            saekit.index(one, lm, out=tmp_path / "x", shown=False, **wrong)
    with pytest.raises(ConfigError, match="no SAE to index"):
        saekit.index([], lm)
    with pytest.raises(DataError, match="tokens"):
        saekit.index(one, lm, out=tmp_path / "x", corpus=["a"], shown=False)
    assert not (tmp_path / "x").exists()
