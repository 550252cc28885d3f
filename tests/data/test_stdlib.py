import platform

from saekit.data.corpora.stdlib import Stdlib


def test_whole_files_without_tests_in_an_order_of_names():
    corpus = Stdlib()
    train, test = (list(corpus.documents(s)) for s in ("train", "test"))
    names = [d.source for d in train + test]
    assert 400 < len(names) == len(set(names)) and len(test) > 20
    assert not {d.text for d in train} & {d.text for d in test}
    assert "python/argparse.py" in names
    assert not any(part in name for name in names for part in ("/test/", "/tests/", "site-pack"))
    sources = [d.source for d in train]
    assert sources != sorted(sources)
    assert corpus.provenance()["python"] == platform.python_version()
