"""What the API says of a folder, compared with what the library reads itself."""

import json
import math
import os
import re
import shlex
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import saekit
import saekit.core.errors
from saekit.core.errors import ConfigError
from saekit.core.files import read_json, write_json
from saekit.core.result import Result
from saekit.explorer.export import export_site
from saekit.explorer.labels import Labels, place_for
from saekit.explorer.library import MISS_SECONDS, Library, scanned
from saekit.explorer.problems import Problem, to_json
from saekit.explorer.views import Views
from saekit.report.page import write_report

L0, L1 = "sub.folded~L0.resid_post", "sub.folded~L1.resid_post"


def views_of(folder):
    return Views(Library(folder), Labels(folder / ".saekit" / "explorer.db"))


def problem(answer, status):
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    said = answer.json()
    assert said["status"] == status and said["title"] and said["detail"]
    return said


def table(path, name, value):
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"latent,{name}\n" + "".join(f"{i},{value}\n" for i in range(64)))


def test_a_table_that_is_made_while_serving_is_a_column_at_once(folder):
    views = views_of(folder)
    assert "stable" not in views.latents("plain")["columns"]
    table(folder / "plain" / "analysis" / "twins.csv", "stable", 0.5)
    assert views.latents("plain", "stable=.5")["total"] == 64
    table(folder / "plain" / "analysis" / "twins.csv", "stable", 0.25)
    assert views.latents("plain", "stable=.5")["total"] == 0


@pytest.mark.parametrize(
    "rubbish", [b"\xff\xfe\x00", b"latent,stable\n0,1,2\n", b"latent,stable\n0\n"]
)
def test_a_table_that_cannot_be_read_is_left_out_and_named(folder, rubbish):
    views = views_of(folder)
    table(folder / "plain" / "analysis" / "loud.csv", "loud", 1)
    (folder / "plain" / "analysis" / "twins.csv").write_bytes(rubbish)
    notes = views.sae("plain")["notes"]
    assert any(
        "analysis/twins.csv is left out" in note and "move it away" in note for note in notes
    )
    assert views.latents("plain", "loud=1")["total"] == 64
    assert views.latent("plain", 3)["values"]["loud"] == 1
    with pytest.raises(ConfigError, match=r"stable.*analysis/twins.csv is left out"):
        saekit.query(folder / "plain", "stable>.5")


@pytest.mark.parametrize(
    "name, rubbish, place",
    [
        ("eval/core.json", '{"scores": {"fvu": 5}, "provenance": 3}', "core.json"),
        ("eval/core.json", "[" * 5000, "core.json"),
        ("eval/verify.json", "[]", None),
        ("log.jsonl", "1\n", "log.jsonl"),
        ("locality/events/manifest.json", '{"features": 3}', None),
        ("layers/survey.json", '{"sites": 3}', None),
        ("study/result.json", "{", "result.json"),
    ],
)
def test_no_file_beside_an_sae_ends_its_pages(folder, name, rubbish, place):
    path = folder / "plain" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(rubbish)
    views = views_of(folder)
    library, sae, run = views.all(), views.sae("plain"), views.run("plain")
    latent = views.latent("plain", 3)
    assert all(panel["blocks"] for panel in latent["panels"].values())
    said = [*library["notes"], *sae["notes"], *run["notes"]]
    assert place is None or any(place in note for note in said), said
    assert views.latents("plain", "sort -max")["total"] == 64


def test_an_sae_whose_card_is_damaged_is_named_and_the_others_stay(folder):
    write_json(folder / "plain" / "sae" / "card.json", {"provenance": 3, "pair": 5, "model": 1})
    said = views_of(folder).all()
    assert [one["id"] for one in said["saes"]] == [L0]
    assert any("card.json" in note for note in said["notes"])


def test_a_file_of_labels_that_is_none_leaves_the_pages_without_labels(folder):
    place = folder / ".saekit" / "explorer.db"
    place.parent.mkdir()
    place.write_bytes(b"rubbish")
    views = Views(Library(folder), Labels.opened(place))
    assert any("explorer.db is no file of labels" in note for note in views.all()["notes"])
    assert views.latent("plain", 3)["label"] is None
    with pytest.raises(Problem, match="no file of labels"):
        views.labels.put("w", 1, "x")
    assert place.read_bytes() == b"rubbish"


@pytest.mark.skipif(os.name != "posix", reason="names of files are text there")
def test_a_folder_whose_name_is_no_utf8_is_served_and_exported(folder, tmp_path):
    root = Path(os.fsdecode(bytes(folder) + b"-\xff"))
    folder.rename(root)
    (root / "plain").rename(root / os.fsdecode(b"pl\xe9in"))
    views = views_of(root)
    assert to_json(views.all())
    (name,) = [one for one in views.library.scan().saes if "folded" not in one]
    assert views.latents(name)["total"] == 64 and to_json(views.sae(name))
    made = export_site(root, tmp_path / "site", shown=False)
    assert made.saes[name] == 64


def test_an_index_that_goes_away_between_two_looks_is_told(folder, monkeypatch):
    views = views_of(folder)
    entry = views.library.sae("plain")
    state = entry.state()
    (folder / "plain" / "index" / "index.json").unlink()
    monkeypatch.setattr(type(entry), "state", lambda self: state)
    with pytest.raises(Problem, match="no index of plain"):
        views.index(entry)


@pytest.mark.parametrize("value", ["1e400", "1e30", "-inf"])
def test_a_column_of_numbers_beyond_whole_ones_stays_what_it_is(folder, value):
    table(folder / "plain" / "analysis" / "mine.csv", "far", value)
    index = saekit.Index(folder / "plain" / "index")
    assert index.latents.columns["far"] == [float(value)] * 64


def test_a_table_behind_a_link_out_of_the_folder_is_no_column(folder, tmp_path):
    table(tmp_path / "else" / "secret.csv", "secret", 7)
    there = folder / "plain" / "analysis"
    there.mkdir()
    (there / "secret.csv").symlink_to(tmp_path / "else" / "secret.csv")
    assert "secret" not in views_of(folder).latents("plain")["columns"]
    there.joinpath("secret.csv").unlink()
    there.rmdir()
    there.symlink_to(tmp_path / "else")
    assert "secret" not in views_of(folder).latents("plain")["columns"]


def test_a_column_called_label_does_not_stand_for_the_labels(folder):
    table(folder / "plain" / "analysis" / "mine.csv", "label", "theirs")
    columns = views_of(folder).latents("plain")["columns"]
    assert columns.count("label") == 1 and "mine.label" in columns


def test_commands_are_words_of_a_shell(made, tmp_path):
    shutil.copytree(made / "plain", tmp_path / "a 'b' $c" / "run")
    (tmp_path / "a 'b' $c" / "run" / "index" / "index.json").unlink()
    entry = scanned(tmp_path.resolve()).saes["a 'b' $c.run"]
    assert shlex.split(entry.command()) == ["saekit", "index", str(entry.folder)]


@pytest.mark.parametrize("text", ["\u200b\u202e", "\x01", "\u00a0 \t"])
def test_a_label_that_nobody_can_see_is_refused(client, text):
    problem(client.put("/saes/plain/latents/3/label", json={"text": text}), 400)


def test_meta_says_what_is_served(client, made):
    said = client.get("/meta").json()
    assert said["folder"] == str(made) and said["read_only"] is False
    kinds = {one["kind"]: one["fields"] for one in said["kinds"]}
    assert list(kinds) == ["prompt", "logits", "activate", "steer", "ablate", "match", "index"]
    assert "text" in kinds["prompt"] and all(one["about"] for one in said["kinds"])


def test_the_library_lists_each_sae_once(client):
    said = client.get("/library").json()
    cards = {card["id"]: card for card in said["saes"]}
    assert list(cards) == ["plain", L0]  # a folded SAE is one card
    plain, folded = cards["plain"], cards[L0]
    assert plain["model"] == "llama" and plain["site"] == "L1.resid_post"
    assert plain["architecture"] == "topk" and plain["d_sae"] == 64
    assert folded["sites"] == ["L0.resid_post", "L1.resid_post"]
    assert plain["index"]["state"] == folded["index"]["state"] == "ok"
    assert {run["id"]: run["status"] for run in said["runs"]} == {
        "plain": "done",
        "sub.folded": "done",
    }
    assert all(run["fraction"] == 1 and run["steps"] > 0 for run in said["runs"])


def test_scores_say_all_that_a_reader_needs(client, made):
    card = client.get("/library").json()["saes"][0]
    core = read_json(made / "plain" / "eval" / "core.json")
    for name in ("fvu", "l0"):
        score = card["scores"][name]
        assert score["value"] == core["scores"][name]["value"]
        assert score["unit"] and score["about"] and score["label"] != name
        assert "saekit eval" in score["source"]
    overview = client.get("/saes/plain").json()
    assert {one["name"] for one in overview["scores"]} == set(core["scores"])
    told = {one["about"] for one in overview["scores"]} - {""}
    assert told <= set(overview["definitions"].values())


PARTS = ("scores", "about", "without", "histogram", "bands", "blocks", "definitions", "provenance")


def test_the_report_and_the_served_page_tell_the_same(folder):
    views = views_of(folder)
    served = views.sae("plain")
    page = write_report(folder / "plain", folder / "report.html").read_text()
    data = json.loads(re.findall(r'id="data">(.*?)</script>', page, re.DOTALL)[0])
    (told,) = (one["overview"] for one in data["saes"].values())
    assert {part: served[part] for part in PARTS} == {part: told[part] for part in PARTS}
    assert served["columns"][:-1] == told["columns"] and served["missing"] == told["missing"] == {}
    facts, others = dict(served["facts"]), dict(told["facts"])
    assert facts.pop("folder") == str(folder / "plain") and facts == others
    assert "evaluation core version" in served["about"] and facts["measured"].endswith(" UTC")
    assert [row[0] for row in served["blocks"][0]["rows"]] == ["training", "evaluation", "index"]
    views.labels.close()


def test_counts_that_are_none_are_left_out_of_the_overview_and_said(folder):
    path = folder / "plain" / "eval" / "core.json"
    raw = read_json(path)
    tokens = {"seen": 10, "kept": "ten"}
    write_json(path, raw | {"details": {"tokens": tokens, "density_histogram": {"latents": 3}}})
    shutil.rmtree(folder / "plain" / "index")
    said = views_of(folder).sae("plain")
    assert any("tokens of the evaluation are left out" in note for note in said["notes"])
    assert [row[0] for row in said["blocks"][0]["rows"]] == ["training"]
    assert said["histogram"] is None and said["scores"]


def test_the_words_about_scores_are_those_of_the_metrics():
    from saekit.metrics.base import registry
    from saekit.report.definitions import definitions

    found = definitions()
    assert set(registry.names()) <= set(found)
    for name in registry.names():
        metric = registry.get(name)
        assert found[name]["unit"] == metric.unit and found[name]["better"] == metric.better
        assert found[name]["label"] == metric.label


def test_the_overview_of_a_site(client):
    said = client.get(f"/saes/{L1}").json()
    assert said["siblings"] == [L0] and said["card"]["site"] == "L1.resid_post"
    assert client.get("/saes/sub.folded").json()["card"]["id"] == L0  # the SAE itself: its first
    names = [column["name"] for column in said["columns"]]
    assert "density" in names and names[-1] == "label"
    assert {c["kind"] for c in said["columns"]} == {"number", "text", "token"}
    assert list(said["bands"]) == ["top", "q4", "q3", "q2", "q1", "random", "boundary", "negative"]
    histogram = said["histogram"]
    assert sum(histogram["latents"]) + histogram["never_fired"] == 64
    alive = f"{sum(histogram['latents'])} of 64 latents"
    assert ["alive on the indexed text", alive] in said["facts"]


@pytest.mark.parametrize("name", ["plain", L0])
def test_a_record_is_that_of_the_index(client, made, name):
    place = "plain/index" if name == "plain" else "sub/folded/index/L0.resid_post"
    index = saekit.Index(made / place)
    for latent in (0, 5, 63):
        said = client.get(f"/saes/{name}/latents/{latent}").json()
        record = json.loads(json.dumps(index.record(latent)))
        assert {key: said[key] for key in record} == record
        assert said["label"] is None and "panels" in said and "links" in said
        assert said["previous"] == (None if latent == 0 else latent - 1)
        assert said["next"] == (None if latent == 63 else latent + 1)


def test_what_there_is_not(client):
    for path in ("/saes/none", "/saes/none/latents/0", "/runs/none", "/studies/none", "/jobs/none"):
        problem(client.get(path), 404)
    said = problem(client.get("/saes/plain/latents/64"), 404)
    assert "0..63" in said["detail"]
    problem(client.get("/saes/plain/latents/-1"), 422)
    problem(client.get("/saes/plain/latents/x"), 422)
    problem(client.get("/saes/plain/latents/99999999999999999999"), 422)
    problem(client.get("/saes/plain/latents/0/label"), 404)
    problem(client.get("/none"), 404)
    problem(client.get("/saes/plain/columns?names=none"), 404)
    problem(client.get("/saes/plain/columns"), 422)
    problem(client.post("/meta", json={}), 405)


def test_columns_are_given_whole(client, made):
    index = saekit.Index(made / "plain" / "index")
    said = client.get("/saes/plain/columns?names=latent,density,max,token,label").json()
    assert said["names"] == ["latent", "density", "max", "token", "label"]
    latent, density, largest, token, label = said["values"]
    assert latent == list(range(64)) and label == [None] * 64 and len(token) == 64
    for found, name in ((density, "density"), (largest, "max")):
        exact = index.column(name)
        got = np.array([math.nan if v is None else v for v in found])
        np.testing.assert_allclose(got, exact, rtol=1e-3)


def test_pages_of_a_query_are_the_query(client, made):
    index = saekit.Index(made / "plain" / "index")
    where = "density>0 and max>1 sort -max, latent"
    whole = [row["latent"] for row in index.query(where).rows()]
    assert len(whole) > 15
    got, cursor = [], None
    while True:
        query = {"where": where, "limit": 7} | ({"cursor": cursor} if cursor else {})
        said = client.get("/saes/plain/latents", params=query).json()
        assert said["total"] == len(whole) and len(said["rows"]) <= 7
        at = said["columns"].index("latent")
        got += [row[at] for row in said["rows"]]
        cursor = said["cursor"]
        if cursor is None:
            break
    assert got == whole
    shown = client.get("/saes/plain/latents", params={"where": where, "limit": 7}).json()
    assert shown["before"] is None
    end = {"where": where, "limit": 7, "cursor": shown["last"]}
    shown = client.get("/saes/plain/latents", params=end).json()
    assert [row[at] for row in shown["rows"]] == whole[(len(whole) - 1) // 7 * 7 :]
    assert shown["last"] is shown["cursor"] is None
    back = client.get("/saes/plain/latents", params=end | {"cursor": shown["before"]}).json()
    assert (
        back["cursor"] and [row[at] for row in back["rows"]] == got[-len(shown["rows"]) - 7 :][:7]
    )
    limited = client.get("/saes/plain/latents", params={"where": f"{where} limit 3"}).json()
    assert [row[0] for row in limited["rows"]] == whole[:3] and limited["cursor"] is None


def test_previews_are_the_heads_of_the_records(client, made):
    index = saekit.Index(made / "plain" / "index")
    said = client.get("/saes/plain/previews?latents=5,0,63").json()
    for latent, peaks, promotes in zip((5, 0, 63), said["peaks"], said["promotes"], strict=True):
        record = index.record(latent)
        top = [e["tokens"][e["peak"]] for e in record["examples"]["top"]]
        strings = record["strings"]
        assert peaks == [strings[t] for t in dict.fromkeys(top)][:5]
        promoted = dict.fromkeys(t for t, _ in record["logits"]["promoted"])
        assert promotes == [strings[t] for t in promoted][:4]
    assert any(said["peaks"])
    for wrong in ("", "x", "1,,2", "-1", "9" * 10):
        problem(client.get("/saes/plain/previews", params={"latents": wrong}), 422)
    assert "0..63" in problem(client.get("/saes/plain/previews?latents=64"), 404)["detail"]


def test_a_cursor_is_of_its_query_alone(client):
    first = client.get("/saes/plain/latents", params={"limit": 5}).json()
    cursor = first["cursor"]
    assert client.get("/saes/plain/latents", params={"limit": 5, "cursor": cursor}).is_success
    for other in ({"where": "density>0", "cursor": cursor}, {"cursor": cursor[:-2] + "AA"}):
        problem(client.get("/saes/plain/latents", params=other), 400)
    problem(client.get(f"/saes/{L0}/latents", params={"cursor": cursor}), 400)
    for junk in ("", "x", "////", "é", "A" * 100):
        problem(client.get("/saes/plain/latents", params={"cursor": junk}), 400)


def test_queries_that_are_not_understood(client):
    for where in ("densty>1", "density>", "sort", "((((", "density ! 3", "limit -1", "'"):
        said = problem(client.get("/saes/plain/latents", params={"where": where}), 400)
        assert len(said["detail"]) < 1000
    problem(client.get("/saes/plain/latents", params={"limit": 0}), 422)
    problem(client.get("/saes/plain/latents", params={"limit": 100_000}), 422)


def test_answers_have_a_tag_and_are_not_sent_twice(client):
    for path in (
        "/library",
        "/saes/plain",
        "/saes/plain/latents/3",
        "/saes/plain/latents",
        "/meta",
    ):
        first = client.get(path)
        tag = first.headers["etag"]
        again = client.get(path, headers={"If-None-Match": f'"other", {tag}'})
        assert again.status_code == 304 and not again.content and again.headers["etag"] == tag
        assert client.get(path, headers={"If-None-Match": '"other"'}).status_code == 200


def test_a_latent_whose_record_is_held_is_the_same(folder, monkeypatch):
    monkeypatch.setattr("saekit.explorer.views.RECORD_BYTES", 20_000)  # of a few latents
    views = views_of(folder)
    for latent in [0, 1, 0, 63, *range(20), 0]:
        _, body = views.latent_answer("plain", latent)
        assert body() == to_json(views.latent("plain", latent))
    assert 1 <= len(views._records) < 20 and views._records.n_bytes <= 20_000
    before, _ = views.latent_answer("plain", 3)
    table(folder / "plain" / "analysis" / "loud.csv", "loud", 1)
    after, body = views.latent_answer("plain", 3)
    assert after != before and json.loads(body())["values"]["loud"] == 1
    views.labels.close()


def test_indexes_stay_open_within_their_bytes(folder, monkeypatch):
    views = views_of(folder)
    names = ["plain", L0, L1]
    opened = [views.index(views.library.sae(name)) for name in names]
    for name in names:
        views.latent(name, 3)
    assert [views.index(views.library.sae(name)) for name in names] == opened
    columns = len(opened[0].columns) + 1
    assert opened[0].n_bytes >= 64 * (columns - 3) * 8 + 2 * opened[0]._contexts[0].size
    assert opened[0]._tokens is opened[2]._tokens  # the model's, once
    monkeypatch.setattr("saekit.explorer.views.OPEN_BYTES", 1)
    views.latent("plain", 3)
    (folder / "plain" / "index" / "index.json").touch()  # opened again
    views.latent("plain", 3)
    assert list(views._open.values()) == [views.index(views.library.sae("plain"))] != opened[:1]
    views.labels.close()


def test_a_tag_changes_when_the_index_grows_and_when_a_panel_does(folder):
    views = views_of(folder)
    tags = [views.latent_answer("plain", 3)[0]]
    saekit.index(folder / "plain", tokens=4000, shown=False)
    tags.append(views.latent_answer("plain", 3)[0])
    table(folder / "plain" / "analysis" / "twins.csv", "stable", 0.5)
    tags.append(views.latent_answer("plain", 3)[0])
    views.labels.put(views.label_key(views.library.sae("plain")), 3, "three")
    tags.append(views.latent_answer("plain", 3)[0])
    assert len(set(tags)) == 4 and views.latent_answer("plain", 3)[0] == tags[3]
    views.labels.close()


def test_json_is_that_of_python_quick_or_not():
    for value in ("NaN", {"a": [1e-7, -0.0, 1e22, 5, None, True]}, "\x00é\u2028</script>"):
        assert json.loads(to_json(value)) == value
    assert to_json("a\ud800b") == b'"a\\ud800b"'
    for value in (math.nan, math.inf, -math.inf):
        with pytest.raises(ValueError):
            to_json({"a": [value]})


def test_a_tag_changes_with_what_it_is_of(client):
    path = "/saes/plain/latents/9"
    before = client.get(path).headers["etag"]
    made = client.put(f"{path}/label", json={"text": "spaces"})
    assert client.get(path).headers["etag"] != before
    assert client.get(path).json()["label"]["text"] == "spaces"
    removed = client.delete(f"{path}/label", headers={"If-Match": made.headers["etag"]})
    assert removed.status_code == 204
    assert client.get(path).headers["etag"] == before


def test_labels_are_changed_by_one_reader_at_a_time(client):
    path = f"/saes/{L0}/latents/0/label"  # layer 0 and latent 0 are a layer and a latent
    first = client.put(path, json={"text": " the letter t ", "by": "me", "note": "x\ny"})
    assert first.json()["text"] == "the letter t" and first.json()["version"] == 1
    problem(client.put(path, json={"text": "other"}), 409)
    problem(client.put(path, json={"text": "other"}, headers={"If-Match": '"7"'}), 412)
    second = client.put(path, json={"text": "b"}, headers={"If-Match": first.headers["etag"]})
    assert second.json()["version"] == 2
    problem(client.put(path, json={"text": "c"}, headers={"If-Match": first.headers["etag"]}), 412)
    problem(client.delete(path, headers={"If-Match": first.headers["etag"]}), 412)
    # Sites that share an SAE share its labels, and a query finds them.
    assert client.get(f"/saes/{L1}/latents/0/label").json()["text"] == "b"
    found = client.get(f"/saes/{L1}/latents", params={"where": 'label has "B"'}).json()
    assert [row[0] for row in found["rows"]] == [0]
    assert {c["id"]: c["labels"] for c in client.get("/library").json()["saes"]}[L0] == 1
    assert client.delete(path).status_code == 204
    problem(client.delete(path), 404)
    problem(client.put(path, json={"text": "   "}), 400)
    problem(client.put(path, json={"text": "x" * 5000}), 422)
    problem(client.put("/saes/plain/latents/64/label", json={"text": "x"}), 404)


def test_of_many_who_write_one_label_one_wins(client):
    path = "/saes/plain/latents/20/label"
    with ThreadPoolExecutor(8) as pool:
        codes = list(
            pool.map(lambda i: client.put(path, json={"text": str(i)}).status_code, range(8))
        )
    assert sorted(codes) == [200] + [409] * 7
    client.delete(path)


NASTY = [
    "</script>",
    "<img src=x onerror=alert(1)>",
    "مرحبا",
    "日本",
    "a\u200bb",
    "'; DROP TABLE labels;--",
]


@pytest.mark.parametrize("text", NASTY)
def test_labels_keep_any_text(client, text):
    path = "/saes/plain/latents/30/label"
    made = client.put(path, json={"text": text})
    answer = client.get(path)
    assert answer.json()["text"] == text and answer.headers["content-type"] == "application/json"
    assert client.get("/saes/plain/latents/30").json()["label"]["text"] == text
    client.delete(path, headers={"If-Match": made.headers["etag"]})


def test_lists_are_made_changed_and_removed(client, made):
    weights = saekit.Index(made / "plain" / "index").weights
    items = [{"weights": weights, "latent": i, "note": f"n{i}"} for i in (5, 0, 63)]
    one = client.post("/lists", json={"name": "mine", "items": items})
    assert one.status_code == 201
    number = one.json()["id"]
    assert client.get(f"/lists/{number}").json()["items"] == items
    assert [x["n"] for x in client.get("/lists").json()["lists"] if x["id"] == number] == [3]
    changed = client.patch(f"/lists/{number}", json={"name": "ours", "items": items[:1]})
    assert changed.json()["name"] == "ours" and changed.json()["items"] == items[:1]
    stale = client.patch(f"/lists/{number}", json={"name": "x"}, headers={"If-Match": '"1"'})
    problem(stale, 412)
    assert client.delete(f"/lists/{number}").status_code == 204
    problem(client.get(f"/lists/{number}"), 404)
    problem(client.delete(f"/lists/{number}"), 404)
    problem(client.patch(f"/lists/{number}", json={"name": "x"}), 404)
    problem(client.get(f"/lists/{2**63}"), 422)


def test_labels_are_exported_imported_and_move_with_the_weights(folder, tmp_path):
    views = views_of(folder)
    entry = views.library.sae("plain")
    key = views.label_key(entry)
    views.labels.put(key, 3, "three", note="more", by="me")
    views.labels.make_list("l", "", [{"weights": key, "latent": 3, "note": ""}])
    views.labels.save_view("rare", "#/sae/plain?where=density%3C1e-3")
    exported = json.loads(json.dumps(views.labels.export()))
    other = Labels(tmp_path / "other.db")
    assert other.restore(exported) == {"labels": 1, "kept": 0, "lists": 1, "views": 1}
    assert other.get(key, 3).text == "three" and other.get(key, 3).note == "more"
    other.put(key, 3, "mine", match="*")
    again = {"labels": 0, "kept": 1, "lists": 0, "views": 0}  # nothing comes in twice
    assert other.restore(exported) == again and len(other.lists()) == len(other.views()) == 1
    assert other.get(key, 3).text == "mine"
    other.restore({"labels": exported["labels"]}, replace=True)
    assert other.get(key, 3).text == "three" and other.get(key, 3).version == 3
    other.close()
    # The run is moved: its labels are there, for they belong to the weights.
    (folder / "plain").rename(folder / "moved")
    time.sleep(2 * MISS_SECONDS)
    assert views.latent("moved", 3)["label"]["text"] == "three"
    views.labels.close()


def test_the_import_takes_what_the_export_gives(client):
    path = "/saes/plain/latents/40/label"
    client.put(path, json={"text": "forty"})
    exported = client.get("/labels").json()
    assert exported["format"] == "saekit.labels"
    assert client.post("/labels", json=exported).json()["kept"] == len(exported["labels"])
    client.delete(path)
    assert client.post("/labels", json=exported).json()["labels"] == 1
    assert client.get(path).json()["text"] == "forty"
    client.delete(path)
    problem(client.post("/labels", json=exported | {"format": "other"}), 422)
    problem(client.post("/labels", json=exported | {"labels": [{"latent": 1}]}), 422)


def test_read_only_changes_nothing(folder):
    labels = Labels(folder / ".saekit" / "explorer.db", read_only=True)
    assert labels.all_of("x") == {} and not (folder / ".saekit").exists()
    with pytest.raises(Problem, match="read-only"):
        labels.put("x", 1, "y")
    with pytest.raises(Problem, match="read-only"):
        labels.make_list("x")
    labels.close()


@pytest.mark.parametrize("closed", [True, False], ids=["closed", "killed in the middle"])
def test_labels_of_a_folder_that_cannot_be_written_are_read(folder, monkeypatch, closed):
    place = folder / ".saekit" / "explorer.db"
    writer = Labels(place)
    writer.put("w", 1, "one")
    if closed:
        writer.close()
    else:  # what was written last stands beside the file
        assert place.with_name("explorer.db-wal").stat().st_size
    before = {path.name: path.read_bytes() for path in place.parent.iterdir()}
    access = os.access
    monkeypatch.setattr(os, "access", lambda p, mode: mode != os.W_OK and access(p, mode))
    labels = Labels(place_for(folder))
    assert labels.read_only and labels.get("w", 1).text == "one" and labels.views() == []
    with pytest.raises(Problem, match=r"read-only.*explorer.db cannot be written"):
        labels.put("w", 2, "two")
    labels.close()
    assert before == {path.name: path.read_bytes() for path in place.parent.iterdir()}


def test_views_are_saved_renamed_and_removed(client):
    made = client.post("/views", json={"name": "v", "address": "#/sae/plain?where=max%3E1"})
    number = made.json()["id"]
    assert made.status_code == 201
    renamed = client.patch(f"/views/{number}", json={"name": "</script>"}).json()
    assert renamed["address"] == "#/sae/plain?where=max%3E1"
    assert renamed in client.get("/views").json()["views"]
    for address in ("javascript:alert(1)", "http://x/#/", "/#/", "#/" + "x" * 60_000):
        problem(client.post("/views", json={"name": "v", "address": address}), 422)
    assert client.delete(f"/views/{number}").status_code == 204
    problem(client.patch(f"/views/{number}", json={"name": "x"}), 404)
    problem(client.delete(f"/views/{number}"), 404)


def test_an_index_that_is_missing_old_damaged_or_of_other_weights(folder):
    views = views_of(folder)
    index = folder / "plain" / "index"
    assert views.card(views.library.sae("plain"))["index"]["state"] == "ok"
    views.index(views.library.sae("plain"))

    def state(expected, status, words):
        entry = views.library.sae("plain")
        assert entry.state().state == expected
        assert "saekit index" in entry.state().command
        with pytest.raises(Problem, match=words) as caught:
            views.latents("plain")
        assert caught.value.status == status and "saekit index" in caught.value.remedy
        assert views.sae("plain")["card"]["index"]["state"] == expected

    config = read_json(folder / "plain" / "sae" / "config.json")
    other = config | {"weights_sha256": "0" * 64}
    write_json(folder / "plain" / "sae" / "config.json", other)
    views.library._scan = None
    state("stale", 409, "other weights")
    write_json(folder / "plain" / "sae" / "config.json", config)
    views.library._scan = None
    assert views.library.sae("plain").state().state == "ok"

    whole = (index / "index.json").read_bytes()
    (index / "index.json").write_bytes(whole.replace(b'"d_sae": 64', b'"d_sae": 65'))
    state("damaged", 409, "checksum")
    (index / "index.json").write_bytes(whole)
    data = (index / "details.parquet").read_bytes()
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 1
    (index / "details.parquet").write_bytes(flipped)
    views._open.clear()
    with pytest.raises(saekit.core.errors.FormatError, match="SHA-256"):
        views.latent("plain", 3)
    (index / "details.parquet").write_bytes(data[:100])
    (index / "index.json").touch()
    state("damaged", 409, "bytes")
    shutil.rmtree(index)
    state("missing", 404, "no index")
    views.labels.close()


def test_a_damaged_folder_is_told_and_the_rest_is_shown(folder):
    (folder / "plain" / "sae" / "config.json").write_text("{")
    (folder / "sub" / "folded" / "log.jsonl").write_text("nonsense")
    found = scanned(folder)
    assert "plain" not in found.saes and L0 in found.saes
    assert any("config.json" in note for note in found.notes)
    views = views_of(folder)
    assert [card["id"] for card in views.all()["saes"]] == [L0]
    views.labels.close()


def test_ids_are_unique_and_are_addresses(tmp_path, made):
    names = ["a.b", "a/b", "sp ace", "pro%cent", "日本", "back\\slash", "~tilde", "quo'te\"s"]
    for name in names:
        shutil.copytree(made / "plain" / "sae", tmp_path / name)
    found = scanned(tmp_path.resolve())
    assert len(found.saes) == len(names)
    assert "a.b" in found.saes and "a.b-2" in found.saes
    for name, entry in found.saes.items():
        assert not set(name) & set("/\\~") and entry.state().state == "missing"


def test_saes_of_other_libraries_and_what_is_none(tmp_path, made):
    lens = tmp_path / "lens"
    lens.mkdir()
    (lens / "sae_weights.safetensors").write_bytes(b"x" * 64)
    settings = {"d_sae": 128, "architecture": "standard", "hook_name": "blocks.3.hook_resid_post"}
    write_json(lens / "cfg.json", settings | {"model_name": "gpt2-small"})
    shutil.copytree(made / "llama", tmp_path / "model")
    shutil.copytree(made / "plain" / "index", tmp_path / "alone")
    found = scanned(tmp_path.resolve())
    assert list(found.saes) == ["alone", "lens"]
    assert found.saes["lens"].d_sae == 128 and found.saes["lens"].model == "gpt2-small"
    assert found.saes["lens"].state().state == "missing"
    said = views_of(tmp_path).sae("lens")
    facts = {"model": "gpt2-small", "site": "blocks.3.hook_resid_post", "latents": 128}
    assert facts.items() <= dict(said["facts"]).items() and said["scores"] == said["blocks"] == []
    assert said["missing"]["scores"]["command"] == f"saekit eval {tmp_path.resolve() / 'lens'}"
    assert said["missing"]["latents"]["text"] == "there is no index yet"
    alone = found.saes["alone"]
    assert not alone.usable and alone.state().state == "ok"
    # What is offered works on the SAE that it was made of, not on the folder of the index.
    own = str(read_json(made / "plain" / "index" / "index.json")["sae"])
    assert views_of(tmp_path).sae("alone")["missing"]["scores"]["command"] == f"saekit eval {own}"
    assert alone.command() == f"saekit index {own}" and alone.named != str(alone.folder)


def test_the_page_of_an_sae_reads_its_result_once(folder, monkeypatch):
    read, times = Result.read, []
    monkeypatch.setattr(Result, "read", lambda path: times.append(path) or read(path))
    said = views_of(folder).sae("plain")
    assert said["card"]["scores"] and len(times) == 1
    assert all(said["card"]["scores"][s["name"]] == s for s in said["scores"] if s["headline"])


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"n": 0}, "tokens (`n`): at least 1; got 0"),
        ({"seeds": 9}, "texts (`seeds`): at most 8; got 9"),
        ({"seeds": 2}, "at temperature 0 the 2 texts at a strength would all be the same"),
        ({"scale": [1.0] * 17}, "times the maximum (`scale`): at most 16 can be given; got 17"),
        ({"scale": [0.0, 1e12]}, "(`scale`), number 2: at most 1e+09; got 1000000000000.0"),
        ({"prompt": "x" * 10_001}, "text (`prompt`): at most 10000 characters"),
        ({"n": 2.5}, "tokens (`n`): a whole number; got 2.5"),
    ],
)
def test_a_wrong_setting_of_a_job_is_told_in_the_words_of_the_page(client, asked, said):
    steer = {"kind": "steer", "sae": "plain", "latent": 0, "prompt": "the", "scale": [1.0]}
    detail = problem(client.post("/jobs", json=steer | asked), 422)["detail"]
    assert said in detail and "body" not in detail and "Value error" not in detail


def test_a_study_in_the_folder_of_an_sae_is_no_run_and_names_the_sae(folder):
    for run, sae in (("plain", "plain"), ("sub/folded", L0)):
        place = folder / run / "locality" / "events"
        place.mkdir(parents=True)
        for name in ("run.json", "manifest.json"):
            write_json(place / name, {})
        (place / "ctx16.csv").write_text("feature_id\n")
        views = views_of(folder)
        name = f"{run.replace('/', '.')}.locality.events"
        assert name not in [one["id"] for one in views.all()["runs"]]
        assert views.study(name)["sae"] == sae
        views.labels.close()


def test_a_run_shows_its_curves_and_checkpoints(client, made):
    said = client.get("/runs/plain").json()
    assert said["curves"]["tokens"] and len(said["curves"]["loss"]) == len(said["curves"]["tokens"])
    assert [one["step"] for one in said["checkpoints"]] == [24, 36]
    assert said["sae"] == "plain" and said["status"] == "done" and said["command"] is None
    assert said["settings"]["sae"]["name"] == "topk"


def test_a_run_under_way_or_broken_off(folder):
    views = views_of(folder)
    manifest = read_json(folder / "plain" / "manifest.json")
    write_json(folder / "plain" / "manifest.json", manifest | {"status": "running"})
    said = views.run("plain")
    assert said["status"] == "killed" and "--resume" in said["command"]
    log = (folder / "plain" / "log.jsonl").read_text().splitlines(keepends=True)
    (folder / "plain" / "log.jsonl").write_text("".join(log[:3]) + '{"kind": "st')
    said = views.run("plain")
    assert 0 < said["fraction"] < 1 and said["steps"] == 10
    (folder / "plain" / "log.jsonl").write_text("")
    said = views.run("plain")
    assert said["fraction"] is None and said["curves"] is None
    views.labels.close()


def test_search_through_the_api(client):
    said = client.get("/saes/plain/search", params={"q": "e", "limit": 5}).json()
    assert 0 < len(said["rows"]) <= 5 <= said["total"]
    assert client.get("/saes/plain/search", params={"q": "#7"}).json() == {"total": 1, "rows": [7]}
    assert client.get("/saes/plain/search", params={"q": "#99"}).json()["rows"] == []
    assert client.get("/saes/plain/search", params={"q": "zzzz"}).json()["total"] == 0
    problem(client.get("/saes/plain/search", params={"q": "e", "in": "none"}), 400)
    problem(client.get("/saes/plain/search", params={"q": ""}), 422)
