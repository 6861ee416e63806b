from __future__ import annotations

import numpy as np
import pytest

from benchmarks.scale import Machine, bounds, corpus, efficiency, network_share, read_again, simulate, table

MACHINE = Machine(images_per_second=1000.0, latency_s=1e-5)


def test_shares_of_time():
    sent = {"backbone": 12.5e6, "means": 12.5e6}  # a millisecond each at 100 Gbit/s
    assert network_share(sent, gigabits=100, compute_s=0.002) == pytest.approx(0.5)
    quick = Machine(images_per_second=1.0, latency_s=0.0)
    # the backbone's millisecond hides in the two milliseconds of a backward pass, the means' does not
    assert efficiency(sent, ranks=4, gigabits=100, compute_s=0.003, machine=quick) == pytest.approx(3 / 4)
    # half of it does not fit any more into half a millisecond
    assert efficiency(sent, ranks=4, gigabits=100, compute_s=0.00075, machine=quick) == pytest.approx(0.75 / 2.25)
    slow = Machine(images_per_second=1.0, latency_s=1e-3)  # two turns there and back for the means
    assert efficiency(sent, ranks=4, gigabits=100, compute_s=0.1, machine=slow) == pytest.approx(100 / 105)


def test_simulation_of_few_ranks():
    dataset = corpus(np.full(40, 50))
    one, four = (simulate(dataset, cameras=4 * ranks, ranks=ranks, machine=MACHINE) for ranks in (1, 4))
    assert one["all_MB"] == 0 and one["efficiency_100"] == one["gathered_efficiency_100"] == 1
    assert (four["images"], four["images_a_rank"]) == (384, 96) and four["compute_ms"] == pytest.approx(96)
    assert four["all_features_MB"] == pytest.approx(2 * 3 * 96 * 2048 * 4 / 1e6)
    assert four["means_MB"] == pytest.approx(four["all_features_MB"] / 4)
    assert four["heads_GB"] == pytest.approx(one["heads_GB"] / 4)
    assert four["efficiency_100"] < four["efficiency_400"] < 1
    bends = bounds(four, MACHINE)
    assert bends["ranks_where_means_outweigh_backbone"] == pytest.approx(27_706_432 / (24 * 2048))
    assert bends["images_a_rank_that_hide_backbone_100"] == pytest.approx(2 * 27_706_432 * 4 * 8 / 1e11 * 1.5 * 1000)
    assert table([one, four]).count("\n") == 3


def test_what_is_read_again():
    every_camera = read_again(8, cameras=16, num_cameras=16, tracklets=12)
    assert every_camera["rank"] == every_camera["node"] == every_camera["shuffled_node"] == 1
    assert every_camera["shuffled_rank"] < 0.4
