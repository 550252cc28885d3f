import pytest
import torch

from saekit.activations.shuffle import Stream
from saekit.core.errors import ConfigError, DataError, FormatError
from saekit.core.files import read_json, read_tensors, write_json, write_tensors
from saekit.studies.truth.model import magnitudes as sizes
from saekit.studies.truth.model import profiles, published
from saekit.studies.truth.model.base import Truth, TruthConfig
from saekit.studies.truth.model.correlation import Blocks, LowRank
from saekit.studies.truth.model.hierarchy import Grown
from saekit.studies.truth.model.presets import preset
from tests.studies.truth.test_base import FULL, IN_TURN

TREE = Grown(roots=3, branching=2, depth=2, exclusive_share=1.0, scaled=True)
BENCH = TruthConfig(
    n_features=40,
    d_model=8,
    bias=0.5,
    correlation=LowRank(rank=3),
    hierarchy=TREE,
    seed=7,
    magnitudes=sizes.ReluNormal(
        mean=profiles.Linear(start=5, end=4), std=profiles.FoldedNormal(mean=0.5, std=0.5)
    ),
)


def batches(truth, n=4, **fields):
    stream = truth.stream(**({"tokens": 320, "batch_tokens": 80, "seed": 1} | fields))
    return [stream.batch()[0] for _ in range(n)]


def same(a, b):
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_a_stream_is_one_and_its_seed_decides():
    truth = FULL.build()
    stream = truth.stream(tokens=100, batch_tokens=30, seed=0)
    assert isinstance(stream, Stream)
    x, y = stream.batch()
    assert y is x and x.dtype == torch.float32 and x.shape == (30, 3, 8)
    assert [len(stream.batch()[0]) for _ in range(3)] == [30, 30, 10]
    assert stream.served_tokens == stream.total_tokens == 100
    with pytest.raises(DataError, match="1 epochs of 100 tokens"):
        stream.batch()
    assert same(batches(truth), batches(truth))
    assert not same(batches(truth), batches(truth, seed=2))


def test_a_stream_is_taken_up_again_exactly():
    truth, kwargs = FULL.build(), {"tokens": 320, "batch_tokens": 80, "seed": 1, "epochs": 2}
    whole = batches(truth, 8, epochs=2)
    stream = truth.stream(**kwargs)
    for _ in range(5):
        stream.batch()
    again = truth.stream(**kwargs)
    again.load(*stream.state())
    assert again.served_tokens == 400 and same(whole[5:], [again.batch()[0] for _ in range(3)])


def test_a_later_epoch_has_the_same_batches_in_another_order():
    found = batches(FULL.build(), 16, tokens=640, epochs=2)
    first, second = ({x.sum().item() for x in part} for part in (found[:8], found[8:]))
    assert first == second and not same(found[:8], found[8:])


def test_parts_are_disjoint_and_make_up_the_whole():
    truth = FULL.build()
    whole = batches(truth, 8, tokens=640)
    parts = [batches(truth, n, tokens=640, part=(r, 3)) for r, n in ((0, 3), (1, 3), (2, 2))]
    for rank, part in enumerate(parts):
        assert same(part, whole[rank::3])
    for bad in ((3, 3), (-1, 2)):
        with pytest.raises(ConfigError, match="`part`"):
            truth.stream(tokens=9, batch_tokens=3, seed=0, part=bad)


@pytest.mark.parametrize("cfg", [FULL, IN_TURN, BENCH], ids=["full", "in_turn", "bench"])
def test_a_saved_truth_repeats_the_same_stream_bit_for_bit(cfg, tmp_path):
    truth = cfg.build()
    truth.save(tmp_path)
    again = Truth.load(tmp_path)
    assert again.cfg == cfg and again.notes == truth.notes
    assert same(batches(truth), batches(again))
    assert {p.suffix for p in tmp_path.iterdir()} == {".json", ".safetensors"}


def test_a_truth_in_the_published_layout_repeats_the_same_stream(tmp_path):
    truth = BENCH.build()
    published.save(truth, tmp_path)
    assert set(read_tensors(tmp_path / "synthetic_model.safetensors")) == {
        "feature_vectors",
        "bias",
        "firing_probabilities",
        "correlation_factor",
        "correlation_diag",
    }
    again = Truth.load(tmp_path)
    torch.testing.assert_close(again.rates, truth.rates, rtol=1e-5, atol=0)
    # chances are float32 there: a token in many millions may differ
    for x, y in zip(batches(truth), batches(again), strict=True):
        torch.testing.assert_close(x, y)
    assert same(batches(again), batches(Truth.load(tmp_path)))


def test_magnitudes_that_a_published_folder_lacks_are_known_asked_for_or_refused(tmp_path):
    truth = BENCH.build()
    published.save(truth, tmp_path)
    (tmp_path / published.MAGNITUDES).unlink()
    std = published.load(tmp_path).tensors["std"]
    draws = torch.randn(40, generator=torch.Generator().manual_seed(8))  # their seed + 1
    torch.testing.assert_close(std, (0.5 + 0.5 * draws).abs().double())
    raw = read_json(tmp_path / published.CONFIG)
    write_json(tmp_path / published.CONFIG, raw | {"seed": None})
    with pytest.raises(FormatError, match="neither a seed nor"):
        published.load(tmp_path)
    found = published.load(tmp_path, magnitude_seed=3).tensors["std"]
    assert torch.equal(found, published.load(tmp_path, magnitude_seed=3).tensors["std"])


def test_what_is_not_known_is_refused_by_name(tmp_path):
    truth = BENCH.build()
    published.save(truth, tmp_path)
    raw = read_json(tmp_path / published.CONFIG)
    write_json(tmp_path / published.CONFIG, raw | {"hiden_dim": 3})
    with pytest.raises(FormatError, match="`hiden_dim`.*Did you mean `hidden_dim`"):
        Truth.load(tmp_path)
    write_json(tmp_path / published.CONFIG, raw)
    trees = read_json(tmp_path / published.TREES)
    trees["roots"][0]["childs"] = []
    write_json(tmp_path / published.TREES, trees)
    with pytest.raises(FormatError, match="childs"):
        Truth.load(tmp_path)
    with pytest.raises(ConfigError, match="cannot hold `correlation`"):
        published.save(
            TruthConfig(n_features=9, d_model=2, correlation=Blocks(size=3)).build(), tmp_path
        )


def test_a_damaged_truth_is_refused(tmp_path):
    truth = FULL.build()
    truth.save(tmp_path)
    write_tensors(tmp_path / "truth.safetensors", {"features": truth.features})
    with pytest.raises(FormatError, match="`probabilities` must be .40.; it is missing"):
        Truth.load(tmp_path)
    write_json(tmp_path / "truth.json", {"format_version": 99})
    with pytest.raises(FormatError, match="format_version 99"):
        Truth.load(tmp_path)
    with pytest.raises(FormatError, match="no file"):
        Truth.load(tmp_path / "nowhere")


def test_the_published_preset_is_known_by_name():
    cfg = preset("synth_sae_bench_16k")
    assert (cfg.n_features, cfg.d_model, cfg.seed) == (16_384, 768, 42)
    with pytest.raises(LookupError, match="Did you mean `synth_sae_bench_16k`"):
        preset("synth_sae_bench")
