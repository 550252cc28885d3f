"""Folders as the published programs write them: read, drawn again, converted, released."""

import csv
import json
import zipfile

import numpy as np
import pytest
import torch

from saekit.cli.main import main
from saekit.core.errors import FormatError
from saekit.studies.locality import event_pages
from saekit.studies.locality.events import candidates, event_files
from saekit.studies.locality.figures import entropy_depth
from saekit.studies.locality.published import dataset
from saekit.studies.locality.published import reading as published
from saekit.studies.locality.published.convert import convert
from saekit.studies.locality.runs import depth_data
from tests.studies.locality import foreign


def call(*words):
    with pytest.raises(SystemExit) as ended:
        main(["locality", *map(str, words)])
    return ended.value.code


def said(capsys):
    return json.loads(capsys.readouterr().out.strip().splitlines()[-1])


def test_events_of_the_adapter_are_drawn_again(tmp_path, capsys):
    """Its manifest has text for `source`, where ours has an object."""
    pytest.importorskip("matplotlib")
    home = foreign.adapter_folder(tmp_path)
    assert call("draw-events", home, "--json") == 0
    record = said(capsys)
    assert {p.rsplit("/", 1)[1] for p in record["figures"]} >= {"feature_continuum_ctx8.png"}
    assert any("how often latents are on" in m for m in record["missing"])
    assert call("cards", home) == 0
    made = json.loads((home / "feature_case_studies.json").read_text())
    tiers = {f["feature_id"]: f["tier"] for f in made["features"]}
    assert tiers[1] == "token" and tiers[31] == "abstract"
    (home / "manifest.json").write_text("[]")
    with pytest.raises(FormatError, match="must be an object"):
        event_pages.draw_all(home)


def test_tiered_and_whole_tables_of_one_length_count_once(tmp_path):
    home = foreign.adapter_folder(tmp_path)
    tiered = event_files.read(home)[8]
    assert len(tiered) == 24 and {r.tier for r in tiered} == set(foreign.TIERS)
    for name in ("ctx008_all", "ctx8"):  # either generation's table of all tiers
        lines = [
            line
            for tier in foreign.TIERS
            for line in (home / f"ctx008_{tier}.csv").read_text().splitlines()[1:]
        ]
        (home / f"{name}.csv").write_text("\n".join([foreign.EVENT_COLUMNS, *lines]) + "\n")
        assert len(event_files.read(home)[8]) == 24
        assert [p.stem for p in event_files.lengths(home)[8]] == [name]
    for path in home.glob("ctx*"):
        path.unlink()
    for tier in ("token", "phrase"):  # the same latent in two tiers
        lines, _ = foreign.event_lines(tier, [7])
        (home / f"ctx008_{tier}.csv").write_text("\n".join(lines) + "\n")
    assert [(r.feature_id, r.event_idx) for r in event_files.read(home)[8]] == [
        (7, 0),
        (7, 1),
        (7, 2),
    ]


def test_depth_is_drawn_from_published_and_converted_files(tmp_path, capsys):
    """The same panels whoever wrote the files; of each preset and corpus the last run."""
    pytest.importorskip("matplotlib")
    data = tmp_path / "data"
    homes = [
        foreign.depth_folder(data, p, d)
        for p in ("gpt2-small", "pythia-70m")
        for d in ("gsm8k", "wikitext")
    ]
    foreign.depth_folder(data, "gpt2-small", "gsm8k", "20250101_000000", layers=(0,))
    foreign.depth_folder(data / "legacy", "gpt2-small", "gsm8k", "20270101_000000")
    found = depth_data.below(data)
    assert [p.parent.name for p in found] == ["gsm8k", "wikitext"] * 2
    assert set(found) == set(homes) and found[0].parts[-3] == "pythia-70m"  # published order
    theirs = depth_data.read(homes[0])
    assert (theirs.n_ctx, theirs.windows, theirs.preset, theirs.dataset) == (
        8,
        4,
        "gpt2-small",
        "gsm8k",
    )
    raw = torch.load(homes[0] / "entropy_comparison_resid_layer1.pt", weights_only=False)
    H = [r["feature_entropies"] for r in raw["batch_results"]]
    panel = entropy_depth.panel(theirs, "x")
    layer = panel.layers[1]
    at = layer.latent.tolist().index(3)
    assert layer.entropy[at] == pytest.approx(np.mean([h[3] for h in H]), rel=1e-6)
    assert layer.windows[at] == 4 and layer.activation[at] == 12.0
    assert layer.mean.value == pytest.approx(raw["summary"]["mean_feature_entropy"], rel=1e-6)
    assert layer.vector.value == 2.0
    convert(data, tmp_path / "converted")
    for one, other in zip(found, depth_data.below(tmp_path / "converted"), strict=True):
        for a, b in zip(depth_data.read(one).sites, depth_data.read(other).sites, strict=True):
            assert a.site == b.site and a.scores == b.scores
            assert np.array_equal(a.entropy, b.entropy) and np.array_equal(a.latent, b.latent)
    assert (
        call("draw-depth", tmp_path / "converted", "--each", "--out", tmp_path / "f", "--json") == 0
    )
    names = {p.rsplit("/", 1)[1] for p in said(capsys)["figures"]}
    assert "entropy_vs_depth__gpt2-small__gsm8k.png" in names and len(names) == 4
    grid = tmp_path / "grid.png"
    assert call("draw-depth", *sorted(data.glob("*/wikitext")), "--kind", "box", "--out", grid) == 0
    with grid.with_suffix(".csv").open() as file:
        assert {r["panel"] for r in csv.DictReader(file)} == {
            "pythia-70m, wikitext",
            "gpt2-small, wikitext",
        }
    assert call("draw-depth", tmp_path / "f") == 1
    assert "neither a run of" in capsys.readouterr().err
    assert call("draw-depth", tmp_path / "none") == 1


def test_levels_are_read_and_written_again(tmp_path):
    raw = foreign.levels_file(tmp_path / "pythia-70m/feature_level_entropies.pt")
    found = published.read(tmp_path / "pythia-70m/feature_level_entropies.pt")
    assert found.kind == "feature_level_entropies" and found.info["config"] == raw["config"]
    stem = dataset.place(tmp_path / "out", "feature_levels", preset="pythia-70m")
    dataset.write(stem, found)
    again = dataset.read(stem)
    assert again.arrays["layers"].tolist() == [0, 3]
    for layer in (0, 3):
        for name in ("H_vocab", "H_logit", "totals"):
            assert np.array_equal(
                again.arrays[f"layer_{layer}_{name}"], raw[f"layer_{layer}"][name], equal_nan=True
            )
    del raw["layer_3"]["H_logit"]
    torch.save(raw, tmp_path / "bad.pt")
    with pytest.raises(FormatError, match="lacks H_logit"):
        published.read(tmp_path / "bad.pt")


def lying(path):
    """Write an .npz whose header promises more numbers than any memory holds."""
    header = {"descr": "<f8", "fortran_order": False, "shape": (10**14,)}
    text = repr(header).encode().ljust(117) + b"\n"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a.npy", b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text)


def test_a_lying_archive_is_named_and_the_rest_converted(tmp_path, capsys):
    home = foreign.adapter_folder(tmp_path / "data")
    lying(home / "lying.npz")
    with zipfile.ZipFile(home / "odd.npz", "w") as file:
        file.writestr("a.npy", b"\x93NUMPY\x01\x00\x05\x00{'a':")
    torch.save(Unsafe(), home / "unsafe.pt")
    assert call("convert", tmp_path / "data", "--out", tmp_path / "out", "--json") == 3
    record = said(capsys)
    why = {f["source"].rsplit("/", 1)[1]: f["why"] for f in record["failed"]}
    assert set(why) == {"lying.npz", "odd.npz", "unsafe.pt"} and record["files"] > 8
    for words in why.values():
        assert "weights_only" not in words and "trust" not in words and "torch.load" not in words
    for name, words in why.items():
        assert name in words


class Unsafe:
    def __reduce__(self):
        return (print, ("ran",))


def test_lists_of_candidates_are_read_as_features(tmp_path):
    path = tmp_path / "candidate_features_l12.md"
    path.write_text(foreign.CANDIDATES, encoding="utf-8")
    assert candidates.read(path) == [
        candidates.Feature(17, "the word | bar", "token"),
        candidates.Feature(4, "commas", "token"),
        candidates.Feature(25, "chemistry", "concept"),
    ]
    as_yaml = tmp_path / "f.yaml"
    as_yaml.write_text(
        "features:\n- {feature_id: 3, tier: phrase, description: x}\n"
        "- {feature_id: 3}\n- {feature_id: 5}\n"
    )
    assert candidates.read(as_yaml) == [
        candidates.Feature(3, "x", "phrase"),
        candidates.Feature(5, "", ""),
    ]
    for text in (
        "features: 3",
        "features: [{feature_id: true}]",
        "features: []",
        "[1]",
        "a: [",
        "features: [{feature_id: 1.5}]",
    ):
        as_yaml.write_text(text)
        with pytest.raises(FormatError, match=r"f\.yaml"):
            candidates.read(as_yaml)
    path.write_text("# nothing\n")
    with pytest.raises(FormatError, match="first column is feature_id"):
        candidates.read(path)
    with pytest.raises(FormatError, match="no file"):
        candidates.read(tmp_path / "none.yaml")


def test_a_list_is_named_by_its_layer():
    assert candidates.name_of("12-gemmascope-res-16k") == "candidate_features_l12.md"
    assert candidates.name_of("layer_9/width_16k") == "candidate_features_layer_9__width_16k.md"
