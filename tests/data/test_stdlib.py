import platform

from saekit.data.base import SPLITS
from saekit.data.corpora.stdlib import Stdlib


def test_whole_files_without_tests_in_an_order_of_names():
    corpus = Stdlib()
    parts = [list(corpus.documents(s)) for s in SPLITS]
    every, train = sum(parts, []), parts[0]
    names = [d.source for d in every]
    assert 400 < len(names) == len(set(names)) and min(map(len, parts)) > 20
    assert len({d.text for d in every}) == len(every)
    assert "python/argparse.py" in names
    assert not any(part in name for name in names for part in ("/test/", "/tests/", "site-pack"))
    sources = [d.source for d in train]
    assert sources != sorted(sources)
    assert corpus.provenance()["python"] == platform.python_version()
