"""Probes: a planted label is found, shuffled labels give chance, and padding is never counted."""

import dataclasses
import json
import math

import pytest
import torch

from saekit.core.errors import ConfigError, DataError
from saekit.core.progress import Progress
from saekit.data.labelled.base import open_task
from saekit.models.tiny import tiny
from saekit.studies.faithful.evals.probing import Probing
from saekit.studies.faithful.figures import probing_bars
from saekit.studies.faithful.probing import logistic, statistics
from saekit.studies.faithful.probing.features import features_of, rows_of
from saekit.studies.faithful.sequences import Shape
from tests.evals.world import random_topk
from tests.evals.world import subject as ordinary
from tests.studies.faithful.world import subject, table, tools

MARK = ord("#")  # in the texts of one class, as often as another sign in those of the other
# of all letters, of the mark, of one letter
LATENTS = [range(97, 123), [MARK], [ord("e")]]
SMALL = Probing(n_train=80, n_test=60, sparse=(1,), folds=2, n_draws=50)


def texts(folder, *, shuffled=False):
    chance = torch.Generator().manual_seed(0)
    lines = []
    for i in range(200):
        letters = torch.randint(97, 123, (24,), generator=chance).tolist()
        label = i % 2
        letters[4::6] = [32] * 4
        letters[10] = MARK if label else ord("%")
        if shuffled:
            label = int(torch.randint(2, (1,), generator=chance))
        lines.append(json.dumps({"text": bytes(letters).decode(), "label": label}))
    path = folder / "planted.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    return str(path)


def probed(folder, shuffled=False, **changes):
    path = texts(folder, shuffled=shuffled)
    result = dataclasses.replace(SMALL, tasks=(path,), **changes).run(
        subject(table(LATENTS)), tools()
    )
    scores = {k.removeprefix("planted/"): s for k, s in result.scores.items()}
    return result, scores, result.details["tasks"]["planted"]


def test_a_planted_label_is_found_by_codes_and_by_the_one_latent(tmp_path):
    _, scores, details = probed(tmp_path)
    assert scores["sae_accuracy"].value == scores["sae_1_accuracy"].value == 1
    assert min(scores[f"{p}_accuracy"].value for p in ("baseline", "recon")) > 0.95
    assert scores["majority_accuracy"].value < 0.65
    assert details["probes"]["sae_1"]["columns"] == [1]
    assert details["probes"]["sae"]["counts"] == {
        name: details["labels"].split().count(str(i)) for i, name in enumerate(details["classes"])
    }
    apart = scores["sae_accuracy"].value - scores["baseline_accuracy"].value
    assert scores["sae_less_baseline"].value == pytest.approx(apart)


def test_shuffled_labels_give_chance_however_columns_are_chosen(tmp_path):
    _, scores, details = probed(tmp_path, shuffled=True, sparse=(1, 2, 3))
    n = details["n_test"]
    for name, score in scores.items():
        if name.endswith("_accuracy"):
            assert abs(score.value - 0.5) < 4 * math.sqrt(0.25 / n), name


def test_choosing_columns_on_train_does_not_leak():
    """Of 3,000 columns of chance the best 5 separate train, and say nothing of test."""
    chance = torch.Generator().manual_seed(0)
    x = torch.randn(200, 3000, generator=chance)
    labels = torch.randint(2, (200,), generator=chance)
    found = logistic.probe(x[:100], labels[:100], x[100:], n_classes=2, folds=3, seed=0, k=5)
    right = float((found.predicted == labels[100:]).double().mean())
    assert abs(right - 0.5) < 0.2 and len(found.columns or []) == 5


def test_a_vector_is_the_mean_over_the_tokens_of_its_text_alone():
    subj = ordinary(random_topk())
    words = ["a much longer text than the other one", "tiny", "of middle length"]
    for pooling in ("mean", "last"):
        rows = rows_of(words, subj.lm, Shape(32, 256), 0)
        bar = Progress("", None, shown=False)
        [found] = features_of([subj], rows, pooling, 2, bar)
        assert bar.done == int(rows.real.sum())  # padding does not count
        for i, text in enumerate(words):
            ids = torch.tensor([[256, *text.encode()]])[:, :32]
            acts = subj.lm.read(ids, [subj.read])[subj.read]
            x = acts[subj.rule.keep(ids, acts)]
            codes = subj.sae.encode(x)
            wanted = (x, codes.dense(), subj.sae.decode(codes))
            for got, each in zip(found, wanted, strict=False):
                one = each.mean(0) if pooling == "mean" else each[-1]
                assert torch.allclose(got[i], one, atol=1e-5), (pooling, text)
            assert int(found.tokens[i]) == len(x)


def test_f_ratio_is_that_of_an_analysis_of_variance():
    from sklearn.feature_selection import f_classif

    chance = torch.Generator().manual_seed(1)
    x, labels = torch.randn(60, 5, generator=chance), torch.arange(60) % 3
    x[:, 2] += labels
    wanted = torch.from_numpy(f_classif(x.double().numpy(), labels.numpy())[0])
    assert torch.allclose(logistic.f_ratio(x, labels, 3), wanted)
    x[:, 0], x[:, 1] = 1.0, labels.float()
    assert logistic.f_ratio(x, labels, 3)[:2].tolist() == [0, math.inf]
    assert logistic.best_columns(x, labels, 3, 2).tolist() == [1, 2]


def test_turning_many_columns_to_few_changes_no_prediction():
    chance = torch.Generator().manual_seed(2)
    x = torch.randn(60, 200, generator=chance)
    labels = (x[:, 0] + 0.3 * torch.randn(60, generator=chance) > 0).long()
    train, test = x[:40], x[40:]
    narrow, rest = logistic._fewer(train, test)
    assert narrow.shape == (40, 40)
    for c in (1e-2, 1.0):
        wide, _ = logistic._fitted(train, labels[:40], c)
        few, _ = logistic._fitted(narrow, labels[:40], c)
        one, two = (m.decision_function(p.numpy()) for m, p in ((wide, test), (few, rest)))
        assert abs(one - two).max() < 0.02 * abs(one).max()


def test_macro_f1_counts_every_class_alike():
    labels, said = torch.tensor([0, 0, 0, 1]), torch.tensor([0, 0, 0, 0])
    draws = statistics.drawn(4, 20, 0)
    f1 = statistics.values(said, labels, "f1", draws)
    assert float(f1[0]) == pytest.approx((6 / 7 + 0) / 2)
    assert float(statistics.values(said, labels, "accuracy", draws)[0]) == 0.75
    again = labels[torch.repeat_interleave(torch.arange(4), draws.weights[3].long())]
    assert float(statistics.values(said, labels, "accuracy", draws)[3]) == float(
        (again == 0).double().mean()
    )


def test_two_saes_are_compared_text_by_text(tmp_path):
    good, _, _ = probed(tmp_path)
    path = texts(tmp_path)
    blind = dataclasses.replace(SMALL, tasks=(path,)).run(subject(table([range(256)])), tools())
    apart = statistics.compare(good, blind, "planted")
    assert apart.value > 0.3 and apart.p is not None and apart.p < 0.05
    assert statistics.compare(good, good, "planted").p == 1
    probes = blind.details["tasks"]["planted"]["probes"]
    assert probes["sae"]["degenerate"] and any(
        "never predicted" in n for n in blind.details["notes"]
    )
    assert "never predicts" in blind.scores["planted/sae_accuracy"].reason
    with pytest.raises(ConfigError, match="with the task sst2"):
        statistics.compare(good, blind, "sst2")
    probing_bars.draw({"good": good, "blind": blind}, tmp_path / "bars.svg")
    rows = (tmp_path / "bars.csv").read_text().splitlines()
    assert any(row.startswith("blind") and row.endswith("True") for row in rows)


def test_several_saes_give_what_each_alone_gives(tmp_path):
    settings = dataclasses.replace(SMALL, tasks=(texts(tmp_path),), n_train=40)
    subjects = [subject(table(LATENTS)), subject(table(LATENTS[:2]), name="other")]
    for one, together in zip(subjects, settings.run_all(subjects, tools()), strict=True):
        alone = settings.run(one, tools())
        assert (alone.scores, alone.details) == (together.scores, together.details)


def test_what_cannot_be_run(tmp_path):
    with pytest.raises(ConfigError, match="names that differ"):
        Probing(tasks=("cola", "cola"))
    with pytest.raises(ConfigError, match="reads 256 at most"):
        probed(tmp_path, n_ctx=300)
    labels = torch.tensor([0] * 20 + [1])
    with pytest.raises(DataError, match="has 1 train examples"):
        logistic.probe(torch.zeros(21, 2), labels, torch.zeros(1, 2), n_classes=2, folds=2, seed=0)


def test_a_beginning_that_lacks_a_class_is_refused_before_any_pass(tmp_path):
    lines = [
        json.dumps({"text": f"one two three four {i} x{i} y{i}", "label": int(i % 25 == 0)})
        for i in range(400)
    ]
    path = tmp_path / "rare.jsonl"
    path.write_text("\n".join(lines))
    few = dataclasses.replace(SMALL, tasks=(str(path),), n_train=10)
    with pytest.raises(DataError, match="too few of a class"):
        few.run(subject(table(LATENTS)), tools())
    path.write_text('{"text": "a b c d", "label": ""}\n')
    with pytest.raises(DataError, match="Row 1 .* has no label"):
        open_task(str(path)).read()


def test_codes_that_are_all_off_tell_no_class_and_damaged_weights_are_refused(tmp_path):
    dead = torch.zeros(20, 50)
    labels = torch.arange(20) % 2
    found = logistic.probe(dead, labels, dead[:6], n_classes=2, folds=2, seed=0)
    assert len(set(found.predicted.tolist())) == 1
    config = dataclasses.replace(SMALL, tasks=(texts(tmp_path),))
    broken = ordinary(random_topk(), tiny())
    with torch.no_grad():
        broken.sae.W_enc[0, 0] = math.nan
    with pytest.raises(DataError, match="`W_enc` .* not finite"):
        config.run(broken, tools())
