"""The report is one file that needs no other, and says what it should."""

import base64
import html.parser
import re

from taudl_dist.evaluation.evaluate import Protocol, rank, result
from taudl_dist.evaluation.probes import read_probes
from taudl_dist.evaluation.report import write_report


def written(dataset, run, path):
    protocol, probes = Protocol(), read_probes(dataset)
    ranked = rank(dataset, probes, run, protocol=protocol, baselines=True)
    facts = result(ranked, dataset, run, protocol=protocol)
    write_report(path, result=facts, ranked=ranked, probes=probes, protocol=protocol, dataset=dataset, run=run)
    return path.read_text()


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
    page = written(dataset, run, tmp_path / "new" / "report.html")
    for heading in ("Results", "Curves", "Rank lists", "Distances", "Training tracklets", "Facts"):
        assert f"<h2>{heading}</h2>" in page
    pictures = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    assert len(pictures) == 5
    assert all(base64.b64decode(picture)[:4] == b"\x89PNG" for picture in pictures)
    assert not re.search(r"https?://", page)
    assert dataset.digest in page
    assert "colour histogram" in page
    parser = Tags()
    parser.feed(page)
    assert parser.stack == []
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["report.html"]


def test_the_same_evaluation_gives_the_same_report(dataset, run, tmp_path):
    assert written(dataset, run, tmp_path / "a.html") == written(dataset, run, tmp_path / "b.html")


def test_without_curves_where_the_run_has_none(dataset, run, tmp_path):
    import shutil

    bare = shutil.copytree(run, tmp_path / "bare <run>")
    (bare / "metrics.jsonl").unlink()
    page = written(dataset, bare, tmp_path / "report.html")
    assert 'alt="losses"' not in page
    assert "bare &lt;run&gt;" in page
