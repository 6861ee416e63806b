"""The published numbers, held against what the paper's own text says of its tables."""

from __future__ import annotations

import pytest

from taudl_dist.config import Config, flatten, to_dict
from taudl_dist.evaluation.protocols import BENCHMARKS
from taudl_dist.reproduce import TABLES, published

SENTENCES = [
    # table, row, other row, benchmark, rate, difference in the text, where
    ("table2", "TAUDL", "TJ-AIDL [49]", "market1501", "rank1", 5.5, "Sect. 4.1: margin over TJ-AIDL"),
    ("table2", "TAUDL", "TJ-AIDL [49]", "dukemtmcreid", "rank1", 17.4, "Sect. 4.1: margin over TJ-AIDL"),
    ("table2", "CAMEL [55]", "Dic [25]", "cuhk03", "rank1", 39.4 - 36.5, "Sect. 4.1: 39.4 by CAMEL, 36.5 by Dic"),
    (
        "table2",
        "TJ-AIDL [49]",
        "Dic [25]",
        "market1501",
        "rank1",
        58.2 - 50.2,
        "Sect. 4.1: 58.2 by TJ-AIDL, 50.2 by Dic",
    ),
    ("table3", "TAUDL", "DGM+IDE [54]", "mars", "rank1", 7.0, "Sect. 4.1: the best competitor on MARS"),
    ("table4", "PCTD", "JCC", "cuhk03", "rank1", 4.0, "Sect. 4.2: gain of PCTD"),
    ("table4", "PCTD", "JCC", "market1501", "rank1", 34.6, "Sect. 4.2: gain of PCTD"),
    ("table4", "PCTD", "JCC", "dukemtmcreid", "rank1", 36.3, "Sect. 4.2: gain of PCTD"),
    ("table4", "PCTD", "JCC", "mars", "rank1", 19.9, "Sect. 4.2: gain of PCTD"),
    ("table5", "CCTA on", "CCTA off", "cuhk03", "rank1", 10.9, "Sect. 4.2: boost of CCTA"),
    ("table5", "CCTA on", "CCTA off", "market1501", "rank1", 11.6, "Sect. 4.2: boost of CCTA"),
    ("table5", "CCTA on", "CCTA off", "dukemtmcreid", "rank1", 10.5, "Sect. 4.2: boost of CCTA"),
    ("table5", "CCTA on", "CCTA off", "mars", "rank1", 5.8, "Sect. 4.2: boost of CCTA"),
    ("table6", "0 %", "50 %", "mars", "rank1", 3.1, "Sect. 4.2: drop at 50 %"),
]


@pytest.mark.parametrize("sentence", SENTENCES, ids=[f"{row[-1]}, {row[3]}" for row in SENTENCES])
def test_the_text_of_the_paper(sentence):
    table, row, other, benchmark, rate, difference, _ = sentence
    more, less = (published.numbers(table, name, benchmark)[rate] for name in (row, other))
    assert more - less == pytest.approx(difference, abs=0.051)  # 3.1 is 43.8 - 40.7, all rounded


def test_rows_that_stand_in_several_tables_are_the_same():
    """TAUDL is the row of Tables 2-3, CCTA on, and no duplication; PCTD alone is CCTA off."""
    for benchmark in ("cuhk03", "market1501", "dukemtmcreid"):
        assert published.numbers("table5", "CCTA on", benchmark) == published.numbers("table2", "TAUDL", benchmark)
    for benchmark in ("cuhk03", "market1501", "dukemtmcreid", "mars"):
        assert published.numbers("table5", "CCTA off", benchmark) == published.numbers("table4", "PCTD", benchmark)
    mars, without = published.numbers("table3", "TAUDL", "mars"), published.numbers("table6", "0 %", "mars")
    assert {rate: without[rate] for rate in mars} == mars
    assert published.numbers("table5", "CCTA on", "mars") == {rate: mars[rate] for rate in ("rank1", "mAP")}


def test_every_row_is_whole_and_in_percent():
    for name, table in published.published()["tables"].items():
        for row, columns in table["rows"].items():
            assert columns.keys() <= BENCHMARKS.keys()
            for values in columns.values():
                assert len(values) == len(table["rates"]), (name, row)
                assert all(value is None or 0 < value <= 100 for value in values)
                ranks = [value for value, rate in zip(values, table["rates"]) if rate != "mAP" and value is not None]
                assert ranks == sorted(ranks)


def test_the_settings_of_the_paper_have_names_of_ours():
    flat = flatten(to_dict(Config()))
    for name, value in published.published()["settings"].items():
        assert isinstance(flat[name], type(value)), name


def test_rows_that_we_run_stand_beside_rows_of_the_paper():
    for table in TABLES.values():
        printed = published.rows(table.name)
        assert all(row.published in printed for row in table.rows if row.published)
        names = [row.name for row in table.rows]
        assert len(set(names)) == len(names)
        assert all(name in names for pair in table.contrasts for name in pair)


def test_numbers_that_the_paper_leaves_out_are_not_there():
    assert published.numbers("table2", "Dic [25]", "dukemtmcreid") == {}
    assert published.numbers("table2", "Dic [25]", "cuhk03") == {"rank1": 36.5}
    assert published.numbers("table2", "TAUDL", "corpus") == {}
    assert published.numbers("table2", "nobody", "cuhk03") == {}
