"""The cache folder of a worker; reading through it is tested in test_fetch_ahead.py and tests/batches/test_remote.py."""

from pathlib import Path

from taudl_dist.dataset.extent_cache import ExtentCache


def test_another_dataset_leaves_and_what_was_never_ours_stays(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "worker-0" / ("b" * 64), tmp_path / "worker-0" / "results"
    for folder in (ours, theirs):
        folder.mkdir(parents=True)
    ExtentCache(tmp_path, "a" * 64).close()
    assert theirs.is_dir()
    assert not ours.exists()
