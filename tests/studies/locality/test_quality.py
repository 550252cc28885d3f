"""Which latents a table keeps: recall, diversity of peaks, BOS; and where these are known from."""

import pytest

from saekit.core.errors import ConfigError, FormatError
from saekit.data import table_files
from saekit.studies.locality.events import quality
from saekit.studies.locality.events.neuronpedia import parse
from saekit.studies.locality.events.quality import LatentFilter, Quality

KNOWN = {
    1: Quality(0.9, 0.2, 0.0),
    2: Quality(0.4, 1.0, 0.5),
    3: Quality(None, 0.5, 0.51),
    4: Quality(0.7, None, None),
}


@pytest.mark.parametrize(
    ("settings", "latents", "ending"),
    [
        ({}, [1, 2, 3, 4], ""),
        ({"min_recall": 0.4}, [1, 2, 4], "_recall40"),
        ({"min_recall": 0.05}, [1, 2, 4], "_recall05"),
        ({"max_peak_diversity": 0.5}, [1, 3], "_div50"),
        ({"exclude_bos_dominated": True}, [1, 2, 4], "_nobos"),
        (
            {"min_recall": 0.7, "max_peak_diversity": 0.5, "exclude_bos_dominated": True},
            [1],
            "_recall70_div50_nobos",
        ),
    ],
)
def test_filters(settings, latents, ending):
    kept = LatentFilter(**settings)
    those, left = kept.split(KNOWN)
    assert (those, kept.ending) == (latents, ending)
    assert sum(left.values()) == 4 - len(latents)
    assert LatentFilter.from_dict(kept.to_dict()) == kept


def test_what_cannot_be_asked_for():
    for settings in ({"min_recall": 1.5}, {"min_recall": -0.1}, {"max_peak_diversity": 1.1}):
        with pytest.raises(ConfigError, match="from 0 to 1"):
            LatentFilter(**settings)
    with pytest.raises(ConfigError, match="none of 1 latents is known"):
        LatentFilter(min_recall=0.1).split({3: KNOWN[3]})


def test_peaks_and_records_tell():
    assert quality.of_peaks([]) == Quality()
    assert quality.of_peaks([" a", " a", "<bos>", "b"]) == Quality(None, 0.75, 0.25)
    assert quality.of_peaks(["x", "x"], [4, 5]).frac_unique == 1.0
    text = {"tokens": ["<bos>", "a"], "maxValue": 2.0, "maxValueTokenIndex": 0}
    texts = [text, text, text | {"tokens": ["<bos>", "b"]}, text | {"maxValueTokenIndex": 1}]
    score = {"explanationScoreTypeName": "recall_alt", "value": 0.25}
    record = parse({"index": 3, "activations": texts, "explanations": [{"scores": [score]}]}, "")
    found = quality.of_record(record)
    assert (found.recall_alt, found.frac_bos) == (0.25, 2 / 3)  # one text is there twice
    assert found.frac_unique == 2 / 3


@pytest.mark.parametrize("kind", table_files.FORMATS)
def test_a_table_comes_back(tmp_path, kind):
    if kind == "parquet":
        pytest.importorskip("pyarrow")
    assert quality.read(tmp_path) == {}
    table_files.write(quality.table(KNOWN), tmp_path / quality.STATS, kind)
    assert quality.read(tmp_path) == KNOWN


def test_a_published_table_with_another_column_is_refused(tmp_path):
    (tmp_path / f"{quality.STATS}.csv").write_text("feature_id,recall_alt\n1,high\n")
    with pytest.raises(FormatError, match="frac_unique"):
        quality.read(tmp_path)


def test_what_is_known_better_goes_over():
    assert quality.over(KNOWN[1], None) == KNOWN[1]
    assert quality.over(KNOWN[4], Quality(None, 0.1, None)) == Quality(0.7, 0.1, None)
