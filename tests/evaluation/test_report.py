"""The report is one file that needs no other, and says what it should."""

import base64
import html.parser
import re

from taudl_dist.evaluation.evaluate import Protocol, rank, result
from taudl_dist.evaluation.label_free import MEANINGS, label_free
from taudl_dist.evaluation.probes import read_probes
from taudl_dist.evaluation.report import Ranking, write_report
from taudl_dist.model import load_model


def written(dataset, run, path, **others):
    protocol, probes = Protocol(), read_probes(dataset)
    ranked = rank(dataset, probes, run, protocol=protocol, baselines=True)
    facts = result(ranked, dataset, run, protocol=protocol)
    ranking = Ranking(ranked=ranked, probes=probes, protocol=protocol)
    write_report(path, result=facts, ranking=ranking, dataset=dataset, run=run, **others)
    return path.read_text()


def parts(dataset, run):
    """Everything beside a ranking that a report may hold."""
    model = load_model(run)
    return {"model": model, "unlabelled": label_free(model, dataset)}


class Tags(html.parser.HTMLParser):
    """Open and close tags balance."""

    def __init__(self):
        super().__init__()
        self.stack = []

    def handle_starttag(self, tag, _):
        if tag not in ("meta", "img"):
            self.stack.append(tag)

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag


def test_report_stands_alone(dataset, run, tmp_path):
    page = written(dataset, run, tmp_path / "new" / "report.html", **parts(dataset, run))
    for heading in ("Results", "CMC", "Rank lists", "Distances", "Without labels", "Losses", "Map",
                    "Where the feature comes from", "Training tracklets", "Facts"):  # fmt: skip
        assert f"<h2>{heading}</h2>" in page
    pictures = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    assert len(pictures) == 8
    assert all(base64.b64decode(picture)[:4] == b"\x89PNG" for picture in pictures)
    assert not re.search(r"https?://", page)
    assert dataset.digest in page
    assert "colour histogram" in page
    parser = Tags()
    parser.feed(page)
    assert parser.stack == []
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["report.html"]


def test_the_same_evaluation_gives_the_same_report(dataset, run, tmp_path):
    first, second = (
        written(dataset, run, tmp_path / f"{name}.html", **parts(dataset, run)) for name in ("a", "b")
    )  # fmt: skip
    assert first == second


def test_without_labels(dataset, run, tmp_path):
    facts = {
        "dataset": "d",
        "dataset_digest": "e",
        "model": "m",
        "model_digest": "f",
        "frames": 0,
        "metric": "euclidean",
    }
    pictures = write_report(tmp_path / "r.html", result=facts, dataset=dataset, run=run, **parts(dataset, run))
    assert list(pictures) == ["camera pairs", "losses", "map", "activation maps", "tracklets"]
    page = (tmp_path / "r.html").read_text()
    assert "<h2>Results</h2>" not in page
    assert all(name.replace("_", " ") in page for name in MEANINGS)
    parser = Tags()
    parser.feed(page)
    assert parser.stack == []


def test_without_curves_where_the_run_has_none(dataset, run, tmp_path):
    import shutil

    bare = shutil.copytree(run, tmp_path / "bare <run>")
    (bare / "metrics.jsonl").unlink()
    page = written(dataset, bare, tmp_path / "report.html")
    assert 'alt="losses"' not in page
    assert "bare &lt;run&gt;" in page
