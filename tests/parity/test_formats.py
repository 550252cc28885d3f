"""Files that a peer's own code wrote, read by saekit, and the reverse: the same codes and values.

Codes of `standardised` are in act units: the peer's times the size of the token.
"""

import json

import pytest
import torch
from safetensors.torch import save_file

from saekit.activations.pairs import Pair
from saekit.hub.formats.base import FormatHints, registry
from saekit.hub.native import load
from saekit.saes.abs_topk import AbsTopK
from saekit.saes.batch_topk import BatchTopK
from saekit.saes.gated import Gated
from saekit.saes.jumprelu import JumpReLU
from saekit.saes.matryoshka import Matryoshka
from saekit.saes.multi_topk import MultiTopK
from saekit.saes.relu import ReLU
from saekit.saes.skip import Skip
from saekit.saes.standardised import Standardised
from saekit.saes.topk import TopK
from tests.hub import files, published
from tests.hub.test_native import card
from tests.parity.mapping import D_SAE, D, affine, assert_close, fill, our_sae, peer, world

pytestmark = pytest.mark.parity
K = 6
SIZES = {"d_in": D, "d_out": D, "d_sae": D_SAE}
NAMES = {
    "Standard": "standard",
    "Gated": "gated",
    "JumpReLU": "jumprelu",
    "TopK": "topk",
    "AbsTopK": "abstopk",
}
OURS = {"Standard": ReLU, "Gated": Gated, "JumpReLU": JumpReLU, "TopK": TopK, "AbsTopK": AbsTopK}
NORMS = ["none", "layer_norm", "constant_norm_rescale"]


def sae_lens(name, w, **settings):
    """Return sae-lens' SAE of a world; training or finished, as `name` says."""
    module = peer("sae_lens.saes")
    settings |= {"k": K} if "TopK" in name else {}
    cfg = getattr(module, f"{name}SAEConfig")(d_in=D, d_sae=D_SAE, **settings)
    sae, g = getattr(module, f"{name}SAE")(cfg), torch.Generator().manual_seed(5)
    fill([(sae.W_enc, w.W_enc), (sae.W_dec, w.W_dec), (sae.b_dec, w.b_dec)])
    drawn = 0.3 * torch.randn(3, D_SAE, generator=g)
    if "Gated" in name:
        fill([(sae.b_gate, w.b_enc), (sae.b_mag, drawn[0]), (sae.r_mag, drawn[1])])
    else:
        fill([(sae.b_enc, w.b_enc)])
    if "JumpReLU" in name:
        fill([(sae.threshold, 0.5 + drawn[2])])  # some below 0
    return sae


def compare(folder, x, codes, y_hat, **options):
    """Assert that what is read does what the peer does, and return it."""
    ours, its_card = load(folder, **options)
    acts = ours.encode(x)
    assert_close(acts.dense(), codes, "codes")
    assert_close(ours.decode(acts), y_hat, "reconstruction")
    assert (codes != 0).any(-1).float().mean() > 0.5  # there was something to compare
    return ours, its_card


def size_of(x, norm):
    return {
        "none": torch.ones(len(x), 1),
        "layer_norm": x.std(-1, keepdim=True),
        "constant_norm_rescale": x.norm(dim=-1, keepdim=True) / D**0.5,
    }[norm]


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_sae_lens(name, centred, norm, tmp_path):
    w = world(1, unit=False)
    sae = sae_lens(name, w, apply_b_dec_to_input=centred, normalize_activations=norm)
    sae.save_model(tmp_path)
    x = w.x + 0.7
    codes = sae.encode(x)
    ours, _ = compare(tmp_path, x, codes * size_of(x, norm), sae(x))
    inner = ours.cfg if norm == "none" else ours.cfg.inner
    assert isinstance(inner, OURS[name])
    assert isinstance(ours.cfg, Standardised) == (norm != "none")


@pytest.mark.parametrize("name", ["TopK", "AbsTopK"])
@torch.no_grad()
def test_sae_lens_by_decoder_norm(name, tmp_path):
    w = world(2, unit=False)
    sae = sae_lens(name, w, rescale_acts_by_decoder_norm=True)
    plain = sae_lens(name, w)
    assert (sae.encode(w.x) != 0).ne(plain.encode(w.x) != 0).any()  # it matters which
    sae.save_model(tmp_path)
    compare(tmp_path, w.x, sae.encode(w.x), sae(w.x))


@pytest.mark.parametrize(
    "name", ["Standard", "TopK", "JumpReLU", "BatchTopK", "MatryoshkaBatchTopK"]
)
@pytest.mark.parametrize("scale", [None, 0.37])
@torch.no_grad()
def test_sae_lens_checkpoints(name, scale, tmp_path):
    """A checkpoint of training, read as the SAE that sae-lens itself would finish it into."""
    w, more = world(3, unit=False), {}
    if "Matryoshka" in name:
        more = {"matryoshka_widths": [64, D_SAE]}
    if scale:
        more |= {"normalize_activations": "expected_average_only_in"}
    sae = sae_lens(f"{name}Training", w, **more)
    if "Batch" in name:
        sae.topk_threshold.fill_(1.1)
    sae.save_model(tmp_path / "checkpoint")
    if scale:
        scaler = peer("sae_lens.training.activation_scaler").ActivationScaler(scale)
        scaler.save(str(tmp_path / "checkpoint" / "activation_scaler.json"))
        sae.fold_activation_norm_scaling_factor(scale)
    sae.save_inference_model(tmp_path / "final")
    final = peer("sae_lens.saes").SAE.load_from_disk(str(tmp_path / "final"))
    codes, y_hat = final.encode(w.x), final(w.x)
    both = [compare(tmp_path / f, w.x, codes, y_hat)[0] for f in ("checkpoint", "final")]
    kinds = {"BatchTopK": BatchTopK, "MatryoshkaBatchTopK": Matryoshka}
    assert isinstance(both[0].cfg, kinds.get(name, OURS.get(name)))
    assert isinstance(both[1].cfg, JumpReLU if "Batch" in name else OURS[name])


@torch.no_grad()
def test_sae_lens_scale_that_is_told(tmp_path):
    w = world(3)
    sae = sae_lens("Standard", w, normalize_activations="expected_average_only_in")
    sae.save_model(tmp_path)
    with pytest.raises(ValueError, match="input_scale"):
        load(tmp_path)
    sae.fold_activation_norm_scaling_factor(0.6)
    compare(tmp_path, w.x, sae.encode(w.x), sae(w.x), hints=FormatHints(input_scale=0.6))


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("name", ["Standard", "Gated", "TopK"])
@torch.no_grad()
def test_sae_lens_whitened(name, centred, tmp_path):
    w, g = world(1), torch.Generator().manual_seed(2)
    rows = {"rescale_acts_by_decoder_norm": True} if name == "TopK" else {}
    sae = sae_lens(
        name, w, normalize_activations="covariance_whitening", apply_b_dec_to_input=centred, **rows
    )
    sae.save_model(tmp_path)
    matrix = torch.randn(D, D, generator=g) / D**0.5 + torch.eye(D)
    frame = {"mean": torch.randn(D, generator=g), "matrix": matrix}
    frame["inverse_matrix"] = torch.linalg.inv(matrix.double()).float().contiguous()
    save_file(frame, tmp_path / "activation_whitening.safetensors")
    sae.fold_activation_whitening(*frame.values())
    x = w.x @ frame["inverse_matrix"] + frame["mean"]
    compare(tmp_path, x, sae.encode(x), sae(x))


@pytest.mark.parametrize("skips", [True, False])
@pytest.mark.parametrize("jumps", [True, False])
@torch.no_grad()
def test_sae_lens_transcoders(jumps, skips, tmp_path):
    module, w, d_out = peer("sae_lens.saes.transcoder"), world(4, unit=False), 10
    name = f"{'JumpReLU' * jumps}{'Skip' * skips}Transcoder"
    cfg = getattr(module, f"{name}Config")(
        d_in=D, d_out=d_out, d_sae=D_SAE, apply_b_dec_to_input=False
    )
    sae, g = getattr(module, name)(cfg), torch.Generator().manual_seed(1)
    fill([(sae.W_enc, w.W_enc), (sae.b_enc, w.b_enc), (sae.b_dec, torch.randn(d_out, generator=g))])
    if skips:
        fill([(sae.W_skip, torch.randn(d_out, D, generator=g))])
    if jumps:
        fill([(sae.threshold, torch.rand(D_SAE, generator=g))])
    cfg.metadata.hook_name = "blocks.3.hook_resid_mid"
    cfg.metadata.hook_name_out = "blocks.3.hook_mlp_out"
    sae.save_model(tmp_path / "theirs")
    ours, its_card = compare(tmp_path / "theirs", w.x, sae.encode(w.x), sae(w.x))
    assert its_card.pair == Pair(read=("L3.resid_mid",), write=("L3.mlp_out",))
    registry.get("sae_lens")().write(ours, its_card, tmp_path / "ours")
    again = peer("sae_lens.saes").SAE.load_from_disk(str(tmp_path / "ours"))
    assert_close(again.encode(w.x), sae.encode(w.x), "codes")
    assert_close(again(w.x), sae(w.x), "prediction")
    assert again.cfg.metadata.hook_name_out == "blocks.3.hook_mlp_out"


@pytest.mark.parametrize("repeat", [True, False])
@pytest.mark.parametrize("length", [1.0, 0.7, 1.15])
@pytest.mark.parametrize("seed", [0, 1, 2])
@torch.no_grad()
def test_sae_lens_matching_pursuit(seed, length, repeat, tmp_path):
    w, module = world(seed), peer("sae_lens.saes")
    cfg = module.MatchingPursuitSAEConfig(
        d_in=D,
        d_sae=D_SAE,
        residual_threshold=1.5,
        max_iterations=12,
        stop_on_duplicate_support=repeat,
    )
    sae, g = module.MatchingPursuitSAE(cfg), torch.Generator().manual_seed(seed)
    lengths = length + 0.1 * torch.rand(D_SAE, 1, generator=g) * (length != 1)
    fill([(sae.W_dec, lengths * w.W_dec), (sae.b_dec, w.b_dec)])
    sae.save_model(tmp_path)
    counts = (sae.encode(w.x) != 0).sum(-1)
    assert counts.min() < counts.max()  # some stopped early
    compare(tmp_path, w.x, sae.encode(w.x), sae(w.x))


OUTWARD = {
    "relu": (ReLU(**SIZES), {}),
    "gated": (Gated(decoder="free", **SIZES), {}),
    "jumprelu": (JumpReLU(decoder="free", **SIZES), {}),
    "topk": (TopK(k=K, **SIZES), {}),
    "abs_topk": (AbsTopK(k=K, **SIZES), {}),
    "multi_topk": (MultiTopK(k=K, **SIZES), {}),
    "batch_topk": (BatchTopK(k=K, **SIZES), {"cutoff_sum": 1.2, "cutoff_weight": 1.0}),
    "layer_norm": (Standardised(inverse="published", inner=TopK(k=K, **SIZES), **SIZES), {}),
    "rms": (Standardised(by="rms", inverse="published", inner=ReLU(**SIZES), **SIZES), {}),
}


def trained(name):
    """Return an SAE of saekit with weights of a world."""
    cfg, buffers = OUTWARD[name]
    w, g = world(6, unit=False), torch.Generator().manual_seed(8)
    weights = affine(w.W_enc, w.b_enc, w.W_dec, w.b_dec, centred=True)
    if "gated" in name:
        weights |= {n: torch.rand(D_SAE, generator=g) for n in ("b_mag", "r_mag")}
    if name == "jumprelu":
        weights["threshold"] = torch.rand(D_SAE, generator=g)
    if isinstance(cfg, Standardised):
        weights = {f"inner.{n}": t for n, t in weights.items()}
    return our_sae(cfg, weights, **{n: torch.tensor(v) for n, v in buffers.items()}), w.x + 0.5


@pytest.mark.parametrize("name", OUTWARD)
@torch.no_grad()
def test_sae_lens_reads_what_saekit_writes(name, tmp_path):
    sae, x = trained(name)
    registry.get("sae_lens")().write(sae, card(), tmp_path)
    theirs = peer("sae_lens.saes").SAE.load_from_disk(str(tmp_path))
    norm = theirs.cfg.normalize_activations
    codes = sae.encode(x)
    assert_close(theirs.encode(x) * size_of(x, norm), codes.dense(), "codes")
    assert_close(theirs(x), sae.decode(codes), "reconstruction")
    assert theirs.cfg.metadata.hook_name == "blocks.1.hook_resid_post"
    again, _ = load(tmp_path)
    assert_close(again(x), sae(x), "read again")


def coder(w, num=K, **settings):
    module = peer("sparsify.sparse_coder")
    cfg = peer("sparsify.config").SparseCoderConfig(num_latents=D_SAE, k=num, **settings)
    made = module.SparseCoder(D, cfg)
    fill([(made.encoder.weight, w.W_enc.t()), (made.encoder.bias, w.b_enc)])
    fill([(made.W_dec, w.W_dec), (made.b_dec, w.b_dec)])
    if settings.get("skip_connection"):
        g = torch.Generator().manual_seed(1)
        fill([(made.W_skip, 0.2 * torch.randn(D, D, generator=g))])
    return made


def sparse_forward(made, x):
    out = made(x)
    top = made.encode(x)  # `forward` gives the wider code where multi_topk is on
    return torch.zeros(len(x), D_SAE).scatter(1, top.top_indices, top.top_acts), out.sae_out


@pytest.mark.parametrize("multi", [True, False])
@pytest.mark.parametrize("transcode", [True, False])
@pytest.mark.parametrize("skip", [True, False])
@torch.no_grad()
def test_sparsify_both_ways(skip, transcode, multi, tmp_path):
    w = world(5, unit=False)
    made = coder(w, skip_connection=skip, transcode=transcode)
    codes, y_hat = sparse_forward(made, w.x)
    made.cfg.multi_topk = multi
    made.save_to_disk(tmp_path / "layers.3.mlp")
    (tmp_path / "config.json").write_text(json.dumps({"model": "EleutherAI/pythia-160m"}))
    ours, its_card = compare(tmp_path / "layers.3.mlp", w.x, codes, y_hat)
    inner = ours.cfg.inner if skip else ours.cfg
    assert isinstance(ours.cfg, Skip) == skip and isinstance(inner, MultiTopK) == multi
    assert its_card.model["name"] == "EleutherAI/pythia-160m"
    assert its_card.pair.label == ("L3.mlp_in -> L3.mlp_out" if transcode else "L3.mlp_out")
    registry.get("sparsify")().write(ours, its_card, tmp_path / "ours")
    again = peer("sparsify.sparse_coder").SparseCoder.load_from_disk(tmp_path / "ours")
    again.cfg.multi_topk = False
    found, its_y_hat = sparse_forward(again, w.x)
    assert_close(found, codes, "codes")
    assert_close(its_y_hat, y_hat, "prediction")


def dictionary(name, w, **settings):
    """Return a dictionary_learning SAE with the weights of a world."""
    top = peer("dictionary_learning.dictionary")
    places = {
        "AutoEncoderTopK": "top_k",
        "BatchTopKSAE": "batch_top_k",
        "MatryoshkaBatchTopKSAE": "matryoshka_batch_top_k",
    }
    module = peer(f"dictionary_learning.trainers.{places[name]}") if name in places else top
    made, g = getattr(module, name)(D, D_SAE, **settings), torch.Generator().manual_seed(4)
    state = {n: t.clone() for n, t in made.state_dict().items()}
    known = {
        "encoder.weight": w.W_enc.t(),
        "decoder.weight": w.W_dec.t(),
        "encoder.bias": w.b_enc,
        "W_enc": w.W_enc,
        "W_dec": w.W_dec,
        "b_enc": w.b_enc,
        "gate_bias": w.b_enc,
        **dict.fromkeys(("bias", "b_dec", "decoder_bias", "decoder.bias"), w.b_dec),
        "mag_bias": 0.3 * torch.randn(D_SAE, generator=g),
        "r_mag": 0.3 * torch.randn(D_SAE, generator=g),
    }
    for key, value in state.items():
        if key in known:
            value.copy_(known[key])
        elif key == "threshold":
            value.copy_(0.4 + 0.6 * torch.rand(value.shape, generator=g))
    made.load_state_dict(state)
    return made, state


DICTIONARIES = {
    "AutoEncoder": (ReLU, {}),
    "AutoEncoderNew": (ReLU, {}),
    "GatedAutoEncoder": (Gated, {}),
    "JumpReluAutoEncoder": (JumpReLU, {}),
    "AutoEncoderTopK": (TopK, {"k": K}),
    "BatchTopKSAE": (BatchTopK, {"k": K}),
    "MatryoshkaBatchTopKSAE": (Matryoshka, {"k": K, "group_sizes": [64, D_SAE - 64]}),
}


@pytest.mark.parametrize("name", DICTIONARIES)
@torch.no_grad()
def test_dictionary_learning(name, tmp_path):
    kind, settings = DICTIONARIES[name]
    w = world(7, unit=False)
    made, state = dictionary(name, w, **settings)
    torch.save(state, tmp_path / "ae.pt")
    trainer = {
        "dict_class": name,
        "layer": 4,
        "submodule_name": "resid_post_layer_4",
        "lm_name": "a/b",
        "activation_dim": D,
        "dict_size": D_SAE,
        **({"k": K} if settings else {}),
    }
    (tmp_path / "config.json").write_text(json.dumps({"trainer": trainer}))
    if name == "AutoEncoderNew":  # its reader calls a constructor that its own file refuses
        theirs = made
    else:
        read = peer("dictionary_learning.utils").load_dictionary
        theirs, _ = read(str(tmp_path), "cpu")
    ours, its_card = compare(tmp_path, w.x, theirs.encode(w.x), theirs(w.x))
    assert isinstance(ours.cfg, kind)
    assert its_card.pair.label == "L4.resid_post" and its_card.model["name"] == "a/b"
    if name in ("BatchTopKSAE", "MatryoshkaBatchTopKSAE"):
        state["threshold"].fill_(-1.0)  # as before the trainer sets it
        made.load_state_dict(state)
        torch.save(state, tmp_path / "ae.pt")
        compare(tmp_path, w.x, made.encode(w.x), made(w.x))


OUT = {
    "relu": (ReLU(decoder="unit", **SIZES), "AutoEncoder"),
    "relu, free rows": (ReLU(**SIZES), "JumpReluAutoEncoder"),
    "gated": (Gated(decoder="free", **SIZES), "GatedAutoEncoder"),
    "topk": (TopK(k=K, **SIZES), "AutoEncoderTopK"),
    "batch_topk": (BatchTopK(k=K, **SIZES), "BatchTopKSAE"),
    "matryoshka": (Matryoshka(k=K, widths=(32, 96), **SIZES), "MatryoshkaBatchTopKSAE"),
    "jumprelu": (JumpReLU(decoder="free", **SIZES), "JumpReluAutoEncoder"),
}


@pytest.mark.parametrize("name", OUT)
@torch.no_grad()
def test_dictionary_learning_reads_what_saekit_writes(name, tmp_path):
    cfg, kind = OUT[name]
    w, g = world(6, unit=name == "relu"), torch.Generator().manual_seed(8)
    weights = affine(w.W_enc, w.b_enc, w.W_dec, w.b_dec, centred=True)
    if name == "gated":
        weights |= {n: torch.rand(D_SAE, generator=g) for n in ("b_mag", "r_mag")}
    if name == "jumprelu":
        weights["threshold"] = torch.rand(D_SAE, generator=g)
    ranks = {"cutoff_sum": torch.tensor(1.2), "cutoff_weight": torch.tensor(1.0)}
    sae = our_sae(cfg, weights, **(ranks if hasattr(cfg, "threshold_decay") else {}))
    registry.get("dictionary_learning")().write(sae, card(), tmp_path)
    theirs, config = peer("dictionary_learning.utils").load_dictionary(str(tmp_path), "cpu")
    assert type(theirs).__name__ == config["trainer"]["dict_class"] == kind
    codes = sae.encode(w.x)
    assert_close(theirs.encode(w.x), codes.dense(), "codes")
    assert_close(theirs(w.x), sae.decode(codes), "reconstruction")
    again, its_card = load(tmp_path)
    assert_close(again(w.x), sae(w.x), "read again")
    assert its_card.pair.label == "L1.resid_post"


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("scale", [1.0, 0.3])
@torch.no_grad()
def test_sae_lens_temporal(scale, tied, tmp_path):
    module, g = peer("sae_lens.saes.temporal_sae"), torch.Generator().manual_seed(5)
    norm = "none" if scale == 1 else "constant_scalar_rescale"
    cfg = module.TemporalSAEConfig(
        d_in=D,
        d_sae=96,
        n_heads=4,
        n_attn_layers=2,
        bottleneck_factor=8,
        kval_topk=K,
        tied_weights=tied,
        normalize_activations=norm,
        activation_normalization_factor=scale,
    )
    made = module.TemporalSAE(cfg)
    fill([(p, 0.3 * torch.randn(p.shape, generator=g)) for p in made.parameters()])
    made.save_model(tmp_path / "theirs")
    x = torch.randn(6, 9, D, generator=g)
    novel, predicted = made.encode_with_predictions(x)
    codes = torch.cat([novel, predicted], -1) / scale
    ours, its_card = compare(tmp_path / "theirs", x, codes, made(x))
    registry.get("sae_lens")().write(ours, its_card, tmp_path / "ours")
    again = peer("sae_lens.saes").SAE.load_from_disk(str(tmp_path / "ours"))
    assert_close(again.encode(x), novel, "novel codes")
    assert_close(again(x), made(x), "reconstruction")


@pytest.mark.parametrize("repeat", [True, False])
@torch.no_grad()
def test_sae_lens_reads_a_pursuit_that_saekit_writes(repeat, tmp_path):
    w, module = world(2), peer("sae_lens.saes")
    cfg = module.MatchingPursuitSAEConfig(
        d_in=D,
        d_sae=D_SAE,
        residual_threshold=1.5,
        max_iterations=12,
        stop_on_duplicate_support=repeat,
    )
    made = module.MatchingPursuitSAE(cfg)
    fill([(made.W_dec, w.W_dec), (made.b_dec, w.b_dec)])
    made.save_model(tmp_path / "theirs")
    ours, its_card = load(tmp_path / "theirs")
    registry.get("sae_lens")().write(ours, its_card, tmp_path / "ours")
    again = module.SAE.load_from_disk(str(tmp_path / "ours"))
    assert_close(again.encode(w.x), made.encode(w.x), "codes")
    assert_close(again(w.x), made(w.x), "reconstruction")


@pytest.mark.parametrize("transcode", [True, False])
@torch.no_grad()
def test_sparsify_groupmax_both_ways(transcode, tmp_path):
    w = world(5, unit=False)
    made = coder(w, transcode=transcode, activation="groupmax", num=8)
    codes, y_hat = sparse_forward(made, w.x)
    made.save_to_disk(tmp_path / "layers.3.mlp")
    ours, its_card = compare(tmp_path / "layers.3.mlp", w.x, codes, y_hat)
    assert ours.cfg.name == "group_max"
    registry.get("sparsify")().write(ours, its_card, tmp_path / "layers.3")
    again = peer("sparsify.sparse_coder").SparseCoder.load_from_disk(tmp_path / "layers.3")
    found, its_y_hat = sparse_forward(again, w.x)
    assert_close(found, codes, "codes")
    assert_close(its_y_hat, y_hat, "prediction")


def from_hub(monkeypatch, root):
    """Make sae-lens' downloads the files under a folder, and return its loaders."""
    loaders = peer("sae_lens.loading.pretrained_sae_loaders")

    def download(repo_id, filename, subfolder=None, **_):
        path = root / repo_id / (subfolder or "") / filename
        if not path.exists():
            raise loaders.EntryNotFoundError.__new__(loaders.EntryNotFoundError)
        return str(path)

    def shapes(repo_id, filename):
        from safetensors.torch import load_file

        return {n: list(t.shape) for n, t in load_file(root / repo_id / filename).items()}

    monkeypatch.setattr(loaders, "hf_hub_download", download)
    monkeypatch.setattr(loaders, "get_safetensors_tensor_shapes", shapes)
    return loaders


def as_sae_lens(loaders, loader, repo, path, **sizes):
    """Return the SAE that sae-lens makes of a published one."""
    get = loaders.NAMED_PRETRAINED_SAE_LOADERS[loader]
    cfg, state, _ = get(repo, path, device="cpu", cfg_overrides=sizes)
    cfg = loaders.handle_config_defaulting(cfg) | {"dtype": "float32"}
    kind, settings = peer("sae_lens.registry").get_sae_class(cfg["architecture"])
    made = kind(settings.from_dict(cfg))
    made.process_state_dict_for_loading(state)
    made.load_state_dict({n: t.float() for n, t in state.items()}, assign=True)
    return made


@pytest.mark.parametrize(
    ("maker", "options", "loader"),
    [
        *(
            (published.gemma_scope_2, {"kind": k, "affine": a}, "gemma_3")
            for k, a in [*((k, False) for k in published.KINDS_2), ("transcoder", True)]
        ),
        (published.qwen_scope, {}, "qwen_scope"),
        (published.circuit_tracer, {}, "mwhanna_transcoder"),
        (published.goodfire, {}, "goodfire"),
        (published.deepseek_r1, {}, "deepseek_r1"),
        (published.attn_saes, {}, "connor_rob_hook_z"),
        (published.temporal_saes, {}, "temporal"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
@torch.no_grad()
def test_published_files_as_sae_lens_reads_them(maker, options, loader, tmp_path, monkeypatch):
    """Where sae-lens and saekit both read a layout they give the same predictions."""
    repos = {
        "gemma_3": "google/gemma-scope-2-4b-pt",
        "mwhanna_transcoder": "mwhanna/qwen3-0.6b-transcoders-lowl0",
        "goodfire": "Goodfire/Llama-3.1-8B-Instruct-SAE-l19",
        "temporal": "canrager/temporalSAEs",
        "deepseek_r1": "qresearch/DeepSeek",
        "connor_rob_hook_z": "ckkissane/attn-saes",
        "qwen_scope": "Qwen/SAE-Res-Qwen3-1.7B-Base-W32K-L0_4",
    }
    flat = loader in ("goodfire", "deepseek_r1", "connor_rob_hook_z")
    place, _, y_hat = maker(tmp_path / repos[loader] if flat else tmp_path, **options)
    if loader == "qwen_scope":
        place.rename(tmp_path / repos[loader])
        place = tmp_path / repos[loader]
    if loader == "mwhanna_transcoder":
        (place / "wandb-config.yaml").write_text(
            f"d_model: {{value: {files.D}}}\nd_feature: {{value: {files.N}}}\n"
            "batch_size: {value: 64}\n"
        )
    inside = [p for p in place.iterdir() if p.suffix in (".pt", ".pth")]
    if loader == "mwhanna_transcoder":
        inside = [place / "layer_3.safetensors"]
    target = inside[0] if inside else place
    path = str(target.relative_to(tmp_path / repos[loader]))
    sizes = {"d_in": files.D, "d_sae": 24 if loader == "temporal" else files.N}
    made = as_sae_lens(from_hub(monkeypatch, tmp_path), loader, repos[loader], path, **sizes)
    x = published.ROWS.float() if loader == "temporal" else files.inputs()
    # It takes heads apart; saekit's are side by side.
    theirs = made(x.unflatten(-1, (2, -1))).flatten(-2) if flat and "hook_z" in loader else made(x)
    assert_close(theirs, y_hat.float(), "what its definition says")
    assert_close(load(place).sae(x), theirs, "prediction")


@torch.no_grad()
def test_gemma_scope_as_sae_lens_reads_it(tmp_path, monkeypatch):
    """sae-lens fetches from a hub; here its download is the folder, and the rest its own."""
    import numpy as np

    loaders = peer("sae_lens.loading.pretrained_sae_loaders")
    w, g = world(2, unit=False), torch.Generator().manual_seed(3)
    folder = tmp_path / "gemma-scope-2b-pt-res" / "layer_20" / "width_16k" / "average_l0_71"
    folder.mkdir(parents=True)
    threshold = torch.rand(D_SAE, generator=g)
    parts = {"W_enc": w.W_enc, "W_dec": w.W_dec, "b_enc": w.b_enc, "b_dec": w.b_dec}
    arrays = {n: t.numpy() for n, t in (parts | {"threshold": threshold}).items()}
    np.savez(folder / "params.npz", **arrays)
    monkeypatch.setattr(loaders, "hf_hub_download", lambda **_: str(folder / "params.npz"))
    sizes = {"d_in": D, "d_sae": D_SAE}
    cfg, state, _ = loaders.gemma_2_sae_huggingface_loader(
        "google/gemma-scope-2b-pt-res", "layer_20/width_16k/average_l0_71", cfg_overrides=sizes
    )
    saes = peer("sae_lens.saes")
    cfg = loaders.handle_config_defaulting(cfg)
    sae = saes.JumpReLUSAE(saes.JumpReLUSAEConfig.from_dict(cfg))
    sae.load_state_dict(state)
    ours, its_card = compare(folder, w.x, sae.encode(w.x), sae(w.x))
    assert its_card.pair.label == "L20.resid_post"
    assert its_card.model["name"] == "google/gemma-2-2b"
    registry.get("gemma_scope")().write(ours, its_card, tmp_path / "ours")
    compare(tmp_path / "ours", w.x, sae.encode(w.x), sae(w.x))
