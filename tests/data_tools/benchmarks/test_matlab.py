"""Tables of MATLAB files, and files that are none."""

import numpy as np
import pytest
from scipy.io import savemat

from data_tools.benchmarks.matlab import read_integers, read_tables
from taudl_dist.errors import UserError


def test_tables(tmp_path):
    savemat(tmp_path / "a.mat", {"table": np.array([[1, 2], [3, 4]], np.uint16), "names": np.array([["x"]], object)})
    table, names = read_tables(tmp_path / "a.mat", ["table", "names"])
    assert table.tolist() == [[1, 2], [3, 4]] and names[0, 0].item() == "x"
    integers = read_integers(tmp_path / "a.mat", "table")
    assert integers.dtype == np.int64 and integers.tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: path.mkdir(), "cannot be read"),
        (lambda path: path.symlink_to(path), "cannot be read"),
        (lambda path: path.write_bytes(b""), "not a readable MATLAB file"),
        (lambda path: path.write_bytes(b"<html>" * 100), "not a readable MATLAB file"),
        (
            lambda path: path.write_bytes(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + b"\x89HDF" * 9),
            "not a readable",
        ),
        (lambda path: savemat(path, {"other": 1}), "holds no variable table"),
        (lambda path: savemat(path, {"table": "words"}), "no table of whole numbers"),
        (lambda path: savemat(path, {"table": [[0.5]]}), "no table of whole numbers"),
        (lambda path: savemat(path, {"table": [[np.nan]]}), "no table of whole numbers"),
        (lambda path: savemat(path, {"table": np.ones((2, 2, 2))}), "no table of whole numbers"),
    ],
)
def test_what_is_no_table(tmp_path, write, message):
    write(tmp_path / "a.mat")
    with pytest.raises(UserError, match=rf"a\.mat: .*{message}"):
        read_integers(tmp_path / "a.mat", "table")
