"""Recovery of known features: closed forms, hand-built failures, invariances."""

import math

import pytest
import torch

from saekit.core.codes import Codes
from saekit.core.errors import ConfigError, ShapeError
from saekit.core.result import Result
from saekit.core.stats.ranks import ranks, spearman
from saekit.metrics.matching import chance_mcc, cosines, expected_best_cosine, match, mcc
from saekit.saes.base import registry
from saekit.studies.truth import calibration
from saekit.studies.truth.evals.ground_truth import GroundTruth, compare
from saekit.studies.truth.model.base import Sample, Truth, TruthConfig

D = 8


class Hand(Truth):
    """A truth of orthogonal features whose samples are given, row by row, over and over."""

    def __init__(self, rows, d=D, parent=None):
        acts = torch.tensor(rows, dtype=torch.float32)
        n = acts.shape[1]
        tensors = {"features": torch.eye(d)[:n], "bias": torch.zeros(d)}
        cfg = TruthConfig(n_features=n, d_model=d)
        super().__init__(cfg, cfg.build().tensors | tensors, {})
        self.acts = acts
        if parent:
            self.tensors["parent"] = torch.tensor([parent.get(i, -1) for i in range(n)])

    def sample(self, n, generator):
        acts = Codes.from_dense(self.acts.repeat(-(-n // len(self.acts)), 1)[:n])
        return Sample(self.decode(acts), acts)


class Linear:
    """acts = relu(x @ read + b); y_hat = acts @ write."""

    def __init__(self, write, read=None, b=None):
        self.write = torch.as_tensor(write, dtype=torch.float32)
        self.read = self.write.t() if read is None else torch.as_tensor(read).float()
        self.b = torch.zeros(len(self.write)) if b is None else torch.tensor(b)

        class cfg:  # noqa: N801
            event = ()
            d_in, d_sae = self.write.shape[1], self.write.shape[0]

            @staticmethod
            def to_dict():
                return {"name": "linear"}

        self.cfg = cfg

    def encode(self, x):
        return Codes.from_dense((x @ self.read + self.b).relu())

    def decode(self, acts):
        return acts.dense() @ self.write

    def directions(self):
        return self.write


def run(sae, truth, **settings):
    settings = {"n_tokens": 2048, "batch_tokens": 64, "n_blocks": 4} | settings
    return GroundTruth(**settings).run(sae, truth)


def values(result):
    return {name: score.value for name, score in result.scores.items()}


MIXED = [[1, 0, 0, 0], [0, 2, 0, 0], [1, 0, 3, 0], [0, 0, 0, 1]]


def test_the_true_dictionary_scores_perfectly():
    found = values(run(Linear(torch.eye(4, D)), Hand(MIXED)))
    for name in ("mcc", "uniqueness", "found", "precision", "recall", "f1", "f1_all", "r2"):
        assert found[name] == pytest.approx(1), name
    for name in ("splitting", "hedging", "l0_error", "dead", "hedging_truth"):
        assert found[name] == 0, name
    assert found["shrinkage"] == pytest.approx(1)
    assert found["l0"] == found["l0_true"] == 1.25


def test_order_and_sign_change_no_matching():
    g = torch.Generator().manual_seed(0)
    one, other = torch.randn(12, 5, generator=g), torch.randn(20, 5, generator=g)
    turned = one[torch.randperm(12, generator=g)] * torch.tensor([1.0, -1.0] * 6)[:, None]
    assert mcc(cosines(turned, other)) == pytest.approx(mcc(cosines(one, other)))
    assert mcc(cosines(-other * 3, other)) == pytest.approx(1)
    assert mcc(cosines(other, one)) == pytest.approx(mcc(cosines(one, other)))


def test_the_matching_is_the_best_of_all():
    cosine = torch.randn(4, 4, generator=torch.Generator().manual_seed(1)).clamp(-1, 1)
    from itertools import permutations

    best = max(sum(float(cosine[i, p[i]].abs()) for i in range(4)) for p in permutations(range(4)))
    assert float(match(cosine).cosines.abs().sum()) == pytest.approx(best)


@pytest.mark.parametrize(("d", "m"), [(3, 1), (8, 1), (16, 50)])
def test_one_random_direction_is_at_its_expectation(d, m):
    g = torch.Generator().manual_seed(0)
    drawn = torch.nn.functional.normalize(torch.randn(4000, m + 1, d, generator=g), dim=-1)
    best = (drawn[:, 1:] @ drawn[:, 0, :, None])[..., 0].abs().amax(1)
    standard_error = float(best.std()) / math.sqrt(len(best))
    assert abs(float(best.mean()) - expected_best_cosine(d, m)) < 4 * standard_error
    if m == 1:  # E|cos| in closed form
        exact = math.gamma(d / 2) / math.sqrt(math.pi) / math.gamma((d + 1) / 2)
        assert expected_best_cosine(d, m) == pytest.approx(exact, abs=1e-5)


def test_a_random_dictionary_is_at_its_expectation():
    g = torch.Generator().manual_seed(0)
    features = torch.randn(200, 16, generator=g)
    chance = chance_mcc(features, 20, g)
    bound = expected_best_cosine(16, 200)
    assert bound - 0.04 < float(chance.mean()) < bound
    found = run(Linear(torch.randn(6, D, generator=g)), Hand(torch.eye(D).tolist()))
    assert found.scores["mcc_chance"].value == pytest.approx(expected_best_cosine(D, D))


def test_a_dead_latent_is_stated_and_never_silently_zero():
    sae = Linear(torch.eye(4, D), b=[0.0, 0.0, 0.0, -100.0])
    result = run(sae, Hand(MIXED))
    found = values(result)
    assert found["f1"] == found["precision"] == found["recall"] == 1
    assert found["f1_all"] == found["precision_all"] == found["recall_all"] == 0.75
    assert found["dead"] == 0.25 and found["mcc"] == pytest.approx(1)
    assert found["uniqueness"] == 1 and found["found"] == 0.75
    details = result.details
    assert details["latents"] == {"all": 4, "living": 3, "dead": 1}
    assert details["undefined"] == {"precision": 1, "recall": 0, "f1": 0}
    assert details["by_latent"]["precision"][3] is None
    assert details["by_latent"]["recall"][3] == 0


def test_an_sae_whose_latents_are_all_dead_has_no_scores_of_living_ones():
    result = run(Linear(torch.eye(4, D), b=[-100.0] * 4), Hand(MIXED))
    for name in ("f1", "precision", "recall", "uniqueness", "hedging"):
        assert result.scores[name].value is None and result.scores[name].reason, name
    assert result.scores["f1_all"].value == 0


def test_a_feature_that_is_never_on_leaves_recall_undefined():
    never = [[1, 0], [2, 0]]
    details = run(Linear(torch.eye(2, D)), Hand(never)).details
    assert details["features_never_on"] == 1
    assert details["undefined"] == {"precision": 1, "recall": 1, "f1": 1}


def test_firing_is_counted_token_by_token():
    sae = Linear(torch.eye(2, D), read=[[1.0, 0], [0, 0], [1.0, 0]] + [[0.0, 1]] * 5)
    truth = Hand([[1, 0, 0], [0, 0, 1], [0, 1, 0], [2, 0, 1]])  # latent 0 fires for 0 and 2
    details = run(sae, truth).details
    assert details["by_latent"]["precision"][0] == pytest.approx(2 / 3, abs=1e-4)
    assert details["by_latent"]["recall"][0] == 1
    assert details["by_latent"]["f1"][0] == pytest.approx(0.8, abs=1e-4)


def test_a_split_feature_is_found():
    rows = torch.eye(4, D)
    split = torch.cat([rows, rows[:1] + 0.3 * torch.eye(D)[5]])
    found = values(run(Linear(split), Hand(MIXED)))
    assert found["splitting"] == 0.25 and found["found"] == 1
    assert found["uniqueness"] == 0.8 and found["uniqueness_all"] == 0.8


def test_a_hedging_latent_is_found():
    rows = torch.eye(4, D)
    rows[0, 1] = 0.8  # features 0 and 1 in one latent
    found = values(run(Linear(rows), Hand(MIXED)))
    assert found["hedging"] == 0.25 and found["hedging_truth"] == 0
    assert values(run(Linear(rows), Hand(MIXED), hedge_cosine=0.7))["hedging"] == 0


FAMILY = [[1, 0, 0], [1, 1, 0], [1, 0, 1], [0, 0, 0]]  # feature 0 is above 1 and 2


def test_absorption_is_detected():
    write = torch.eye(3, D)
    write[1, 0] = 0.8  # the child's latent writes the parent too
    read = torch.eye(3, D).t().clone()
    read[1, 0] = -5.0  # and the parent's is silent where that child is on
    sae = Linear(write, read)
    result = run(sae, Hand(FAMILY, parent={1: 0, 2: 0}))
    assert result.scores["absorption"].value == 0.5
    found = result.details["absorption"]
    assert (found["pairs_in_truth"], found["pairs_with_both_latents"]) == (2, 2)
    assert found["worst"]["parent"][0] == 0 and found["worst"]["child"][0] == 1
    assert found["worst"]["rate"] == [1, 0]
    plain = Linear(torch.eye(3, D), read)  # silent, but the child's latent is the child's alone
    assert run(plain, Hand(FAMILY, parent={1: 0, 2: 0})).scores["absorption"].value == 0
    honest = run(Linear(torch.eye(3, D)), Hand(FAMILY, parent={1: 0, 2: 0}))
    assert honest.scores["absorption"].value == 0


def test_absorption_without_a_hierarchy_or_latents_is_undefined():
    score = run(Linear(torch.eye(3, D)), Hand(FAMILY)).scores["absorption"]
    assert score.value is None and score.reason
    lacking = run(Linear(torch.eye(1, D)), Hand(FAMILY, parent={1: 0, 2: 0}))
    assert lacking.scores["absorption"].value is None
    assert lacking.details["absorption"]["pairs_with_both_latents"] == 0


def test_scores_lie_in_their_intervals_and_the_result_survives_json(tmp_path):
    sae = Linear(torch.eye(4, D) + 0.1, b=[-0.2] * 4)
    result = run(sae, Hand(MIXED), n_blocks=32)
    assert result.scores["f1"].low is not None and result.scores["r2"].low is not None
    for name, score in result.scores.items():
        if score.value is not None and score.low is not None and score.high is not None:
            assert score.low - 1e-12 <= score.value <= score.high + 1e-12, name
        else:
            assert score.reason, name
    result.write(tmp_path / "r.json")
    assert Result.read(tmp_path / "r.json") == result


def test_latents_that_fire_once_leave_the_interval_around_the_value():
    rows = [[1, 0, 0, 0]] * 2047 + [[1, 0, 0.2, 0]]
    b = [0.0, 0.0, 0.0, 0.0]
    read = torch.eye(4, D).t().clone()
    read[2, 1] = 1.0  # latent 1 fires for feature 2, once in all
    found = run(Linear(torch.eye(4, D), read, b), Hand(rows), n_blocks=32).scores
    for name in ("precision", "recall", "f1", "precision_all"):
        score = found[name]
        assert score.low <= score.value <= score.high, name


def test_what_cannot_be_measured_is_refused():
    with pytest.raises(ShapeError, match="truth is 8 wide"):
        run(Linear(torch.eye(4, 9)), Hand(MIXED))
    with pytest.raises(ShapeError, match="wide"):
        compare(torch.eye(3), torch.eye(4))
    for setting in ({"n_tokens": 0}, {"n_blocks": 0}, {"hedge_cosine": 1.5}):
        with pytest.raises(ConfigError, match=next(iter(setting))):
            GroundTruth(**setting)
    event = Linear(torch.eye(4, D))
    event.cfg.event = ("seq",)
    with pytest.raises(ConfigError, match="seq"):
        run(event, Hand(MIXED))


def test_remade_samples_keep_features_and_the_magnitudes_of_each():
    truth = Hand([[1, 0, 0], [2, 5, 0], [3, 6, 0], [0, 7, 9]])
    g = torch.Generator().manual_seed(0)
    sample = truth.sample(64, g)
    again = calibration.remade(sample, truth, g)
    before, after = sample.acts.dense(), again[:, :3]
    assert torch.equal(before != 0, after != 0) and not torch.equal(before, after)
    assert torch.equal(before.sort(0).values, after.sort(0).values)


def test_rank_correlation():
    x = torch.tensor([1.0, 2.0, 3.0, 4.0])
    assert float(spearman(x, x.exp())) == pytest.approx(1)
    assert float(spearman(x, -x)) == pytest.approx(-1)
    assert math.isnan(spearman(x, torch.ones(4)))
    assert ranks(torch.tensor([5.0, 1.0, 5.0])).tolist() == [2.5, 1, 2.5]
    stats = pytest.importorskip("scipy.stats")
    one, other = torch.tensor([3.0, 1, 2, 2, 5]), torch.tensor([1.0, 1, 4, 3, 2])
    assert float(spearman(one, other)) == pytest.approx(
        stats.spearmanr(one.numpy(), other.numpy()).statistic
    )


def test_ranks_are_taken_within_a_truth():
    def rows(truth, shift):
        return [
            calibration.SAEScores(truth, str(i), {"fvu": shift - i}, {"mcc": shift + i / 10})
            for i in range(6)
        ]

    scores = calibration.rank_scores(rows("a", 0.0) + rows("b", 100.0))
    score = scores["fvu"]["mcc"]
    assert score.value == pytest.approx(-1) and score.n == 12
    assert score.low == pytest.approx(-1) and score.high == pytest.approx(-1)
    with pytest.raises(ConfigError, match="Ranks need 4"):
        calibration.rank_scores(rows("a", 0.0)[:3])


def test_unsupervised_scores_of_a_perfect_sae():
    sae = registry.get("relu")(d_in=D, d_out=D, d_sae=4).build(torch.Generator().manual_seed(0))
    with torch.no_grad():
        sae.W_dec.copy_(torch.eye(4, D))
        sae.W_enc.copy_(torch.eye(4, D).t())
        sae.b_enc.zero_()
    found = calibration.unsupervised(sae, sae, Hand(MIXED), n_tokens=1024)
    assert found["fvu"] == pytest.approx(0, abs=1e-9)
    assert found["stability"] == pytest.approx(1) and found["max_cosine"] == 0
    assert found["hit_rate"] == 1 and found["l0"] == 1.25
