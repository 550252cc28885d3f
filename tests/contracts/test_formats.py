"""Every format: its own example is read, written and read again; what it cannot hold is refused."""

import copy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from saekit.activations.pairs import Pair
from saekit.core.errors import ConfigError, SaekitError
from saekit.core.torch_files import read_state
from saekit.core.torch_writing import write_state
from saekit.hub.card import Card
from saekit.hub.formats.base import Format, FormatHints, Read, find, make_card, registry, writable
from saekit.hub.native import load, save
from saekit.models.sites import UNKNOWN
from saekit.saes.base import SAE, Scaling
from saekit.saes.base import registry as architectures
from saekit.saes.topk import TopK

AUTOENCODER = Pair(read=("L1.resid_post",))
TRANSCODER = Pair(read=("L1.mlp_in",), write=("L1.mlp_out",))


@pytest.fixture(params=registry.names())
def layout(request) -> Format:
    return registry.get(request.param)()


def writes(layout) -> bool:
    return type(layout).write is not Format.write


def card(pair=AUTOENCODER, **more) -> Card:
    return Card(
        model={"name": "tiny", "revision": "abc", "dtype": "float32"},
        pair=pair,
        rules={},
        corpus={"name": "files"},
        n_ctx=32,
        bos=True,
        tokens=1000,
        **more,
    )


def moved(name: str) -> SAE:
    """Return a small SAE of an architecture, no number of which is what it is built with."""
    cfg = architectures.get(name).example()
    sae = cfg.build(torch.Generator().manual_seed(3))
    g = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for weight in sae.parameters():
            weight.add_(0.05 * torch.randn(weight.shape, generator=g))
    return sae.eval()


def raw(sae: SAE) -> SAE | None:
    """Return the SAE as training leaves it, scaled back to raw units; None: it cannot be."""
    sae = copy.deepcopy(sae)
    scaling = Scaling(torch.linspace(-1, 1, sae.cfg.d_in), 0.37)
    try:
        sae.rescale(scaling, scaling)
    except ConfigError:
        return None
    return sae


def inputs(sae: SAE) -> torch.Tensor:
    g = torch.Generator().manual_seed(9)
    return 5 * torch.randn(40, *[3] * len(sae.cfg.event), sae.cfg.d_in, generator=g) + 0.4


def assert_same(sae: SAE, again: SAE) -> None:
    """Refuse another SAE: codes, predictions and directions are compared."""
    x = inputs(sae)
    with torch.no_grad():
        pairs = [
            (sae.encode(x).dense(), again.encode(x).dense()),
            (sae(x), again(x)),
            (sae.directions(), again.directions()),
        ]
    assert (pairs[0][0] != 0).any()
    for wanted, found in pairs:
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def assert_no_other_site(wanted: Card, found: Card) -> None:
    """Refuse a site or a model that is not the one: unknown is fine, another is not."""
    if UNKNOWN not in found.pair.sites:
        assert found.pair.label == wanted.pair.label
        assert found.transcodes == wanted.transcodes
    assert found.model["name"] in (wanted.model["name"], "unknown")


def check_example(layout: Format, folder: Path) -> None:
    place = layout.example(folder)
    assert place == folder or folder in place.parents
    assert find(place).name == layout.name  # and no other format takes it for its own
    sae, its_card = load(place)
    assert its_card.pair.sites and its_card.model["name"] != ""
    x = inputs(sae)
    assert (sae.encode(x).dense() != 0).any() and sae(x).isfinite().all()


def check_read_write_read(layout: Format, folder: Path) -> None:
    place = layout.example(folder / "one")
    sae, its_card = load(place)
    # The path may say what an SAE is of: that of the second folder says the same.
    out = folder / "two" / place.relative_to(folder / "one")
    if not writes(layout):
        with pytest.raises(ConfigError, match="Write one of"):
            layout.write(sae, its_card, out)
        assert not out.exists()
        return
    layout.write(sae, its_card, out)
    assert find(out).name == layout.name
    again, other_card = load(out)
    assert_same(sae, again)
    assert type(again.cfg) is type(sae.cfg)
    assert other_card.pair.label == its_card.pair.label
    assert other_card.model["name"] == its_card.model["name"]


def check_held_or_refused(layout: Format, sae: SAE, its_card: Card, folder: Path) -> bool:
    """Return whether the format holds an SAE; what it holds must come back the same."""
    try:
        layout.write(sae, its_card, folder)
    except ConfigError as error:
        said = str(error)
        assert "--format" in said or "Write one of" in said  # what to do next
        assert not folder.exists() or not any(folder.iterdir())
        return False
    found = load(folder, format=layout.name, scaled=True)
    assert_same(sae, found.sae)
    assert_no_other_site(its_card, found.card)
    return True


def test_it_says_what_it_is(layout):
    assert layout.files and (type(layout).__doc__ or "").partition("\n")[0]
    assert type(layout).__module__.rpartition(".")[2] == layout.name
    assert (layout.name in writable().split(", ")) == writes(layout)


def test_its_own_example_is_recognised_and_read(layout, tmp_path):
    check_example(layout, tmp_path)


def test_read_write_read(layout, tmp_path):
    check_read_write_read(layout, tmp_path)


def test_its_example_becomes_saekits_own_to_the_bit(layout, tmp_path):
    sae, its_card = load(layout.example(tmp_path / "one"))
    save(sae, its_card, tmp_path / "two")
    again, same_card = load(tmp_path / "two")
    assert torch.equal(again(inputs(sae)), sae(inputs(sae))) and same_card == its_card


def test_a_hint_fills_a_gap_and_does_not_contradict(layout, tmp_path):
    place = layout.example(tmp_path)
    its_card = load(place).card
    if UNKNOWN not in its_card.pair.sites:
        with pytest.raises(ConfigError):
            load(place, hints=FormatHints(read=("L30.resid_mid",)))
    with pytest.raises(ConfigError, match="architecture"):
        load(place, hints=FormatHints(architecture="nothing_like_it"))


def test_a_file_that_is_cut_short_is_refused(layout, tmp_path):
    place = layout.example(tmp_path)
    for path in [p for p in place.iterdir() if p.is_file()]:
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(SaekitError):
            load(place)
        path.write_bytes(whole)
    load(place)


@pytest.mark.parametrize("name", architectures.names())
def test_each_architecture_comes_back_or_is_refused(layout, name, tmp_path):
    sae = moved(name)
    held = [check_held_or_refused(layout, sae, card(), tmp_path / "scaled")]
    check_held_or_refused(layout, sae, card(TRANSCODER), tmp_path / "transcoder")
    if (finished := raw(sae)) is not None:
        held.append(check_held_or_refused(layout, finished, card(), tmp_path / "raw"))
    if layout.name == "saekit":  # what a run makes can always be kept
        assert all(held)


@pytest.mark.parametrize("name", architectures.names())
def test_an_architecture_that_it_has_no_word_for_is_refused(layout, name, tmp_path):
    """One that is built on another and does something else must not pass for that other."""
    base = architectures.get(name)
    other = type("Other", (base,), {"name": "nothing_like_it"})
    cfg = other(**vars(base.example()))
    sae = cfg.build(torch.Generator().manual_seed(3)).eval()
    plain = type(sae).encode
    doubled = {"encode": lambda self, x: plain(self, x)._replace(values=2 * plain(self, x).values)}
    sae.__class__ = type("OtherSAE", (type(sae),), doubled)
    try:
        layout.write(sae, card(), tmp_path / "out")
        again = load(tmp_path / "out", format=layout.name).sae
    except SaekitError:
        return
    assert_same(sae, again)


def test_scalings_come_back_or_are_refused(layout, tmp_path):
    sae = TopK(d_in=6, d_out=6, d_sae=20, k=3).build(torch.Generator().manual_seed(0)).eval()
    pair = Pair(read=("L0.resid_post", "L1.resid_post"), fold=True)
    both = {site: (Scaling(torch.ones(6), 2.0),) * 2 for site in pair.read}
    if check_held_or_refused(layout, sae, card(pair, scalings=both), tmp_path / "out"):
        found = load(tmp_path / "out", scaled=True).card.scalings
        assert {s: v[0].scale for s, v in found.items()} == dict.fromkeys(pair.read, 2.0)


class Careless(Format):
    """A format as somebody might write it: it keeps what it knows of, and asks nothing."""

    name, files = "careless", "careless.safetensors"

    def __init__(self, *keeps):
        self.keeps = keeps

    def detect(self, folder):
        return (folder / self.files).exists()

    def read(self, folder, hints):
        w = {"b_enc": torch.zeros(16), "b_dec": torch.zeros(8)} | load_file(folder / self.files)
        return Read(architectures.get("topk").example(), w, make_card(self.name, hints))

    def example(self, folder):
        return self.write(moved("topk"), card(), folder)

    def write(self, sae, card, folder):
        folder.mkdir(parents=True)
        kept = {n: t.detach().contiguous() for n, t in sae.state_dict().items() if n in self.keeps}
        save_file(kept, folder / self.files)
        return folder


@pytest.fixture
def known(monkeypatch):
    monkeypatch.setitem(registry._entries, "careless", Careless)
    monkeypatch.setattr(Careless, "__init__", lambda self, *keeps: setattr(self, "keeps", keeps))


@pytest.mark.parametrize("left_out", ["b_enc", "b_dec"])
def test_a_format_that_drops_a_weight_does_not_pass(left_out, tmp_path, known):
    keeps = {"W_enc", "W_dec", "b_enc", "b_dec"} - {left_out}
    with pytest.raises(AssertionError):
        check_held_or_refused(Careless(*keeps), moved("topk"), card(), tmp_path / "out")


def test_a_format_that_writes_what_it_cannot_hold_does_not_pass(tmp_path, known):
    layout = Careless("W_enc", "W_dec", "b_enc", "b_dec")
    with pytest.raises((AssertionError, SaekitError)):
        check_held_or_refused(layout, moved("relu"), card(), tmp_path / "out")


def test_what_is_written_as_a_torch_file_is_read_by_torch_too(tmp_path):
    tensors = {
        "a": torch.randn(3, 4),
        "b.c": torch.arange(5),
        "flag": torch.tensor([True, False]),
        "none": torch.zeros(0, 3),
        "one": torch.tensor(2.5, dtype=torch.float64),
        "half": torch.randn(2, 2).half().t(),
    }
    write_state(tmp_path / "w.pt", tensors)
    for found in (torch.load(tmp_path / "w.pt", weights_only=True), read_state(tmp_path / "w.pt")):
        assert found.keys() == tensors.keys()
        for name, tensor in tensors.items():
            assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor), name
    with pytest.raises(SaekitError, match="bfloat16"):
        write_state(tmp_path / "w.pt", {"a": torch.zeros(2).bfloat16()})
