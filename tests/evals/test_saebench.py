"""SAEBench: its formulas by hand, its files out and in, an SAE as it takes one."""

import dataclasses
import json

import pytest
import torch

from saekit.activations.pairs import Pair
from saekit.core.codes import Codes
from saekit.core.errors import ConfigError, FormatError
from saekit.core.result import Result, Score
from saekit.evals.saebench import custom_sae, read, read_all, side_by_side, write
from saekit.evals.saebench_core import Numbers, SAEBenchCore
from saekit.hub.trained import TrainedSAE
from saekit.saes._affine import AffineSAE
from saekit.saes.base import Scaling, registry
from tests.evals.world import N_CTX, random_topk, subject, text, tools
from tests.hub.test_native import card as a_card

# As SAEBench 0.6 would write it: the fields of its schema, with made-up numbers.
PUBLISHED = {
    "eval_type_id": "core",
    "eval_config": {"model_name": "gemma-2-2b", "batch_size_prompts": 16, "context_size": 128},
    "eval_id": "0c057d5e-0000-4000-8000-6b02f0a1ca3d",
    "datetime_epoch_millis": 1736500000000,
    "eval_result_metrics": {
        "model_behavior_preservation": {"kl_div_score": -1.0, "kl_div_with_ablation": -1},
        "model_performance_preservation": {"ce_loss_score": 0.98, "ce_loss_without_sae": 2.9},
        "reconstruction_quality": {
            "explained_variance": 1.65,
            "explained_variance_legacy": 0.7,
            "mse": 0.004,
            "cossim": 0.9,
        },
        "sparsity": {"l0": 71, "l1": 210.5},
        "token_stats": {
            "total_tokens_eval_reconstruction": 409600,
            "total_tokens_eval_sparsity_variance": 4096,
        },
    },
    "eval_result_details": [{"index": 0, "feature_density": 0.1}],
    "sae_bench_commit_hash": "abc",
    "sae_lens_id": "blocks.12.hook_resid_post__trainer_3",
    "sae_lens_release_id": "sae_bench_gemma",
    "sae_lens_version": "6.0.0",
    "sae_cfg_dict": {"architecture": "topk", "d_sae": 16384, "d_in": 2304},
    "eval_result_unstructured": {},
}


def laid(folder, record, name="a_b_eval_results.json"):
    (folder / name).write_text(json.dumps(record))
    return folder / name


def numbers(batches, sae=None):
    found = Numbers(sae or random_topk(8))
    for y, y_hat, acts in batches:
        found.add_batch(y, y_hat, Codes.from_dense(acts))
    return found.values()


def drawn(n, seed, d=8):
    g = torch.Generator().manual_seed(seed)
    y = 2 * torch.randn(n, d, generator=g) + 3
    return (
        y,
        0.8 * y + torch.randn(n, d, generator=g),
        (torch.rand(n, 1024, generator=g) - 0.9).relu(),
    )


def test_numbers_of_batches_are_the_published_formulas():
    batches = [drawn(40, 0), drawn(7, 1)]
    got = numbers(batches)
    per_token = {"legacy": [], "mse": [], "cos": [], "ratio": [], "l0": [], "l1": []}
    per_batch = {"error": [], "squares": [], "columns": [], "bias": []}
    for y, y_hat, acts in batches:
        error = ((y - y_hat) ** 2).sum(1)
        per_token["legacy"].append(1 - error / ((y - y.mean(0)) ** 2).sum(1))
        per_token["mse"].append(error / len(y))
        per_token["cos"].append(torch.cosine_similarity(y, y_hat))
        per_token["ratio"].append(y_hat.norm(dim=1) / y.norm(dim=1))
        per_token["l0"].append((acts != 0).sum(1).float())
        per_token["l1"].append(acts.sum(1))
        per_batch["error"].append(error.mean())
        per_batch["squares"].append((y**2).sum(1).mean())
        per_batch["columns"].append((y**2).mean(0))
        per_batch["bias"].append((y_hat**2).sum(1).mean() / (y * y_hat).sum(1).mean())
    token = {name: float(torch.cat(each).mean()) for name, each in per_token.items()}
    below = torch.stack(per_batch["squares"]).mean() - torch.cat(per_batch["columns"]).mean() ** 2
    wanted = {
        "explained_variance_legacy": token["legacy"],
        "mse_over_batch": token["mse"],
        "cossim": token["cos"],
        "l2_ratio": token["ratio"],
        "l0": token["l0"],
        "l1": token["l1"],
        "explained_variance_about_zero": float(1 - torch.stack(per_batch["error"]).mean() / below),
        "relative_reconstruction_bias": float(torch.stack(per_batch["bias"]).mean()),
    }
    for name, value in wanted.items():
        assert got[name] == pytest.approx(value, rel=1e-5), name


def test_densities_and_nearest_rows():
    acts = torch.zeros(200, 4)
    acts[:, 0], acts[:10, 1], acts[0, 2] = 1, 1, -1  # 0.5 % of tokens, and below 0: never on
    sae = random_topk(8)
    got = numbers([(torch.ones(200, 8) + torch.eye(8)[0], torch.ones(200, 8), acts)], _with(sae, 4))
    assert got["frac_alive"] == 0.5 and got["freq_over_1_percent"] == 0.5
    assert got["freq_over_10_percent"] == 0.25
    assert got["normalized_freq_over_10_percent"] == pytest.approx(200 / 210)
    rows = torch.nn.functional.normalize(sae.W_dec.detach()[:4], dim=1)
    best = (rows @ rows.T - 3 * torch.eye(4)).amax(1).mean()
    assert got["average_max_decoder_cosine_sim"] == pytest.approx(float(best), rel=1e-5)


def _with(sae, n):
    """Return an SAE with its first latents alone."""
    cut = type(sae.cfg)(d_in=8, d_out=8, d_sae=n, k=2).build(torch.Generator().manual_seed(0))
    with torch.no_grad():
        cut.W_dec.copy_(sae.W_dec[:n])
    return cut


@torch.no_grad()
def test_losses_are_of_tokens_that_are_read_and_zero_is_everywhere():
    subj = subject(random_topk())
    got = SAEBenchCore(n_tokens=8 * N_CTX, ce_tokens=4 * N_CTX, batch_rows=4).run(subj, tools())
    lm, rows = subj.lm, text()[:4]
    acts = lm.read(rows, [subj.read])[subj.read]
    ordinary = ~torch.isin(rows, torch.tensor([256, 257]))
    changes = {
        "without_sae": acts,
        "with_sae": torch.where(ordinary[..., None], subj.sae(acts), acts),
        "with_ablation": torch.zeros_like(acts),
    }
    logp = {
        k: lm.logits(rows, {subj.write: lambda _, v=v: v}).double().log_softmax(-1)
        for k, v in changes.items()
    }
    here = ordinary[:, :-1]  # by the token that is read, whatever comes next
    ce = {
        k: float(-v[:, :-1].gather(2, rows[:, 1:, None])[..., 0][here].mean())
        for k, v in logp.items()
    }
    p = logp["without_sae"]
    kl = {k: float((p.exp() * (p - v)).sum(-1)[ordinary].mean()) for k, v in logp.items()}
    for name, value in ce.items():
        assert got.scores[f"ce_loss_{name}"].value == pytest.approx(value, rel=1e-5)
    for name in ("with_sae", "with_ablation"):
        assert got.scores[f"kl_div_{name}"].value == pytest.approx(kl[name], rel=1e-4)
    score = (ce["with_ablation"] - ce["with_sae"]) / (ce["with_ablation"] - ce["without_sae"])
    assert got.scores["ce_loss_score"].value == pytest.approx(score, rel=1e-3)


def test_what_is_divided_by_0_has_no_number_and_says_so():
    y = torch.zeros(3, 8)
    found = Numbers(random_topk(8))
    found.add_batch(y, y, Codes.from_dense(torch.zeros(3, 1024)))
    scores = found.scores()
    for name in ("cossim", "explained_variance_legacy", "explained_variance_about_zero"):
        assert scores[name].value is None and "divided by 0" in scores[name].reason
    assert scores["ce_loss_score"].reason == "not measured"


@pytest.fixture(scope="module")
def cores():
    settings = {"n_tokens": 8 * N_CTX, "ce_tokens": 4 * N_CTX}
    from saekit.evals.core import Core

    subj = subject(random_topk())
    return Core(n_blocks=4, **settings).run(subj, tools()), SAEBenchCore(**settings).run(
        subj, tools()
    )


def numbers_in(value):
    if isinstance(value, dict):
        return [n for v in value.values() for n in numbers_in(v)]
    return [value]


def test_a_result_goes_out_and_comes_back_the_same(cores, tmp_path):
    for result in cores:
        path = write(result, tmp_path, name=result.name)
        assert read(path) == result
        before = path.read_bytes()
        assert write(result, tmp_path, name=result.name).read_bytes() == before
    # Tools that look for SAEBench's formulas find those, and not others in fields of that name.
    assert {p.parent.name for p in tmp_path.rglob("*.json")} == {"core", "core_corrected"}
    assert len(read_all(tmp_path)) == 2


def test_fields_hold_numbers_alone_and_say_what_they_differ_in(cores, tmp_path):
    own, theirs = (json.loads(write(r, tmp_path, name=r.name).read_text()) for r in cores)
    for raw in (own, theirs):
        every = numbers_in(raw["eval_result_metrics"])
        assert every and all(isinstance(n, int | float) and n != -1 for n in every)
        assert (
            raw["sae_cfg_dict"]["architecture"] == "topk" and raw["sae_cfg_dict"]["d_sae"] == 1024
        )
    metrics, scores = own["eval_result_metrics"], cores[0].scores
    quality = metrics["reconstruction_quality"]
    assert quality["explained_variance"] == pytest.approx(1 - scores["fvu"].value)
    assert quality["mse"] == pytest.approx(32 * scores["mse"].value)  # summed over dimensions
    assert metrics["misc_metrics"]["frac_alive"] == 1 - scores["dead"].value
    assert metrics["model_performance_preservation"]["ce_loss_with_ablation"] > 0
    assert "explained_variance" in own["eval_result_unstructured"]["saekit"]["differs"]
    assert "kl_div_score" not in metrics["model_behavior_preservation"]
    assert theirs["eval_result_unstructured"]["saekit"]["differs"] == {}
    assert theirs["eval_result_unstructured"]["saekit"]["left_out"] == []
    assert len(numbers_in(theirs["eval_result_metrics"])) == 26  # every field of their schema


def test_published_numbers_come_under_the_name_of_their_formula(tmp_path):
    new = read(laid(tmp_path, PUBLISHED))
    assert new.name == "saebench_core" and "gemma" in new.provenance["subject"]
    assert new.scores["explained_variance_about_zero"].value == 1.65
    assert new.scores["explained_variance_legacy"].value == 0.7
    assert "explained_variance" not in new.scores and "mse" not in new.scores
    assert new.scores["l0"].value == 71.0 and isinstance(new.scores["l0"].value, float)
    for name in ("kl_div_score", "kl_div_with_ablation"):
        assert new.scores[name].value is None and "-1" in new.scores[name].reason
    assert new.details["tokens"] == 4096

    old = json.loads(json.dumps(PUBLISHED))
    del old["eval_result_metrics"]["reconstruction_quality"]["explained_variance_legacy"]
    found = read(laid(tmp_path, old)).scores  # files from before had one, and it was the other
    assert found["explained_variance_legacy"].value == 1.65
    assert "explained_variance_about_zero" not in found


def test_minus_one_is_a_number_where_it_may_be_one(tmp_path):
    metrics = {"scr_metrics": {"scr_metric_threshold_10": -1.0, "scr_dir1_threshold_2": None}}
    record = PUBLISHED | {"eval_type_id": "scr", "eval_result_metrics": metrics}
    found = read(laid(tmp_path, record)).scores
    assert found["scr_metric_threshold_10"].value == -1.0
    assert found["scr_dir1_threshold_2"].value is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"eval_type_id": None},
        {"eval_result_metrics": []},
        {"eval_result_metrics": {"sparsity": 3}},
        {"eval_result_metrics": {"sparsity": {"l0": "many"}}},
        {"eval_result_metrics": {"sparsity": {"l0": True}}},
        {"eval_result_unstructured": {"saekit": {"result": {"name": "core"}}}},
    ],
)
def test_what_is_no_such_file_is_refused(wrong, tmp_path):
    with pytest.raises(FormatError):
        read(laid(tmp_path, PUBLISHED | wrong))
    with pytest.raises(FormatError, match="no file"):
        read_all(tmp_path / "nothing")


def test_numbers_of_two_formulas_never_share_a_column(cores, tmp_path):
    theirs = read(laid(tmp_path, PUBLISHED))
    table = side_by_side({"published": [theirs], "own": list(cores)})
    assert "core/l0" in table.columns and "saebench_core/l0" in table.columns
    assert table.columns["core/fvu"][0] is None and table.columns["core/fvu"][1] > 0
    legacy = table.columns["saebench_core/explained_variance_legacy"]
    assert legacy[0] == 0.7 and legacy[1] == cores[1].scores["explained_variance_legacy"].value
    with pytest.raises(ConfigError, match="two results"):
        side_by_side({"own": [cores[0], cores[0]]})
    newer = dataclasses.replace(cores[0], version=3)
    assert "core@3/fvu" in side_by_side({"a": [cores[0]], "b": [newer]}).columns


def result(name, values, **details):
    scores = {k: Score(value=v, n=1, unit="u", better="neither") for k, v in values.items()}
    made = {"subject": "s", "sae": {"name": "topk"}, "time": "2026-01-01T00:00:00+00:00"}
    return Result(name=name, version=1, config={}, scores=scores, details=details, provenance=made)


@pytest.mark.parametrize(
    ("given", "category", "wanted"),
    [
        (
            result(
                "probing",
                {
                    "a/sae_accuracy": 0.8,
                    "a/sae_5_accuracy": 0.6,
                    "b/sae_accuracy": 0.6,
                    "b/sae_5_accuracy": None,
                    "a/baseline_accuracy": 0.9,
                    "a/untrained_5_accuracy": 0.1,
                },
            ),
            "sae",
            {"sae_test_accuracy": 0.7},
        ),
        (
            result("tpp", {"a/tpp_2": 0.1, "b/tpp_2": 0.3, "a/random_tpp_2": 0.9, "a/reach": 1.0}),
            "tpp_metrics",
            {"tpp_threshold_2_total_metric": 0.2},
        ),
        (
            result("scr", {"p/first_scr_10": -1.0, "p/second_scr_10": 0.5, "p/pca_scr_10": 2}),
            "scr_metrics",
            {"scr_dir1_threshold_10": -1.0, "scr_dir2_threshold_10": 0.5},
        ),
        (
            result(
                "disentanglement",
                {
                    "disentanglement": 0.5,
                    "a/cause": 0.2,
                    "b/cause": 0.4,
                    "a/isolation": 0.7,
                    "a/random_cause": 0.9,
                },
            ),
            "ravel",
            {"disentanglement_score": 0.5, "cause_score": 0.3, "isolation_score": 0.7},
        ),
        (
            result("meta_structure", {"explained": 0.4, "explained_held_out": 0.3}),
            "meta_structure",
            {"decoder_fraction_variance_explained": 0.4},
        ),
        (
            result(
                "absorption",
                {"absorption_fraction": 0.2, "full_absorption": 0.1, "split_latents": 1.5},
                letters={
                    q: {
                        "absorption_fraction": {"value": v},
                        "words": 9,
                        "full_absorption": {"value": v},
                        "main": [1] * m,
                    }
                    for q, v, m in (("a", 0.1, 1), ("b", 0.3, 2))
                },
            ),
            "mean",
            {
                "mean_absorption_fraction_score": 0.2,
                "mean_full_absorption_score": 0.1,
                "mean_num_split_features": 1.5,
                "std_dev_absorption_fraction_score": 0.02**0.5,
                "std_dev_full_absorption_score": 0.02**0.5,
                "std_dev_num_split_features": 0.5**0.5,
            },
        ),
    ],
    ids=lambda v: getattr(v, "name", ""),
)
def test_other_evaluations_have_their_fields(given, category, wanted, tmp_path):
    raw = json.loads(write(given, tmp_path).read_text())
    assert raw["eval_result_metrics"][category] == pytest.approx(wanted)
    assert read_all(tmp_path).popitem()[1] == given


def test_another_quantity_of_the_same_name_is_not_written(tmp_path):
    with pytest.raises(ConfigError, match="accuracy"):
        write(result("unlearning", {"unlearning": 0.1}), tmp_path)
    with pytest.raises(ConfigError, match="nothing like it"):
        write(result("by_layer", {}), tmp_path)


def trained(name, **changes):
    cfg = registry.get(name).example()
    sae = cfg.build(torch.Generator().manual_seed(3)).eval()
    if isinstance(sae, AffineSAE):
        with torch.no_grad():
            sae.W_dec.mul_(torch.linspace(0.5, 2, len(sae.W_dec))[:, None])
            sae.b_dec.add_(0.3)
    pair = Pair(read=("L1.resid_post",))
    return TrainedSAE(sae, dataclasses.replace(a_card(), pair=pair, **changes))


AFFINE = [name for name in registry.names() if isinstance(trained(name).sae, AffineSAE)]


@pytest.mark.parametrize("name", AFFINE)
def test_an_affine_sae_does_the_same_there(name):
    one = trained(name)
    x = torch.randn(2, 5, one.d_in, generator=torch.Generator().manual_seed(0))
    theirs = custom_sae(one)
    acts = theirs.encode(x)
    assert acts.shape == (2, 5, one.d_sae)
    assert torch.equal(acts != 0, one.encode(x).dense() != 0)
    for predicted in (theirs.decode(acts), theirs(x)):
        torch.testing.assert_close(predicted, one(x).detach())
    norms = theirs.W_dec.norm(dim=1)
    torch.testing.assert_close(norms, torch.ones_like(norms))
    assert theirs.W_enc.shape == (one.d_in, one.d_sae) and theirs.b_enc.shape == (one.d_sae,)


def test_its_config_says_where_it_stands():
    one = custom_sae(trained("topk", bos=False), model_name="gpt2")
    assert (one.cfg.model_name, one.cfg.hook_name) == ("gpt2", "blocks.1.hook_resid_post")
    assert one.cfg.hook_layer == 1 and one.cfg.prepend_bos is False
    assert json.loads(json.dumps(one.cfg.to_dict()))["d_sae"] == one.W_dec.shape[0]
    x = torch.randn(4, one.cfg.d_in)
    exact = one.encode(x)
    half = one.to(dtype=torch.bfloat16)
    assert half is one and one.cfg.dtype == "bfloat16" and one.dtype == torch.bfloat16
    again = one.encode(x)
    assert again.dtype == torch.bfloat16 and torch.equal(again != 0, exact != 0)  # chosen exactly
    assert one(x).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("name", "changes", "why"),
    [
        ("matching_pursuit", {}, "more to it"),
        ("skip", {}, "more to it"),
        ("crosscoder", {}, "more to it"),
        ("topk", {"pair": Pair(read=("L0.mlp_in",), write=("L0.mlp_out",))}, "where it read"),
        ("topk", {"pair": Pair(read=("unknown",))}, "site"),
        ("topk", {"pair": Pair(read=("L0.z",))}, "reshape heads"),
    ],
)
def test_what_it_has_no_place_for_is_refused(name, changes, why):
    one = trained(name)
    one = dataclasses.replace(one, card=dataclasses.replace(one.card, **changes))
    with pytest.raises(ConfigError, match=why):
        custom_sae(one)


def test_weights_of_scaled_activations_are_refused_unless_folded():
    scaling = Scaling(torch.zeros(4), 2.0)
    one = trained("topk", scalings={"L1.resid_post": (scaling, scaling)})
    with pytest.raises(ConfigError, match="folds the scaling in"):
        custom_sae(one)
    folded = dataclasses.replace(one, card=dataclasses.replace(one.card, at="L1.resid_post"))
    assert custom_sae(folded).cfg.hook_layer == 1
