"""What a complete copy of each benchmark holds, and the check of a copy against it.

Counted from the published file lists and images; an importer is right when its counts are.
"""

from __future__ import annotations

from collections.abc import Mapping

from taudl_dist.errors import UserError
from taudl_dist.progress import log

Count = int | list[int] | tuple[int, ...]
Counts = Mapping[str, Count]
"""Name of a count -> the number, or a number for each camera (list); in a table also the numbers that will do (tuple)."""

MARKET1501: Counts = {
    "train images": 12_936,
    "train identities": 751,
    "train images per camera": [2017, 1709, 2707, 920, 2338, 3245],
    "train tracklets per camera": [652, 541, 694, 241, 576, 558],
    "query images": 3_368,
    "query identities": 750,
    "query images per camera": [668, 530, 717, 248, 622, 583],
    "test images": 19_732,
    "test images per camera": [3156, 2944, 3803, 1671, 3814, 4344],
    "test images of junk (-1)": 3_819,
    "test images of distractors (0000)": 2_798,
    "test images of people": 13_115,
    "test identities": 750,
}
"""Market-1501 v15.09.15 (Zheng et al., ICCV 2015), its first release, from the file names of the distribution."""

DUKEMTMCREID: Counts = {
    "train images": 16_522,
    "train identities": 702,
    "train images per camera": [2809, 3009, 1088, 1395, 1685, 3700, 1330, 1506],
    "train tracklets per camera": [404, 378, 201, 165, 218, 348, 217, 265],
    "query images": 2_228,
    "query identities": 702,
    "query images per camera": [413, 383, 190, 155, 216, 369, 239, 263],
    "test images": 17_661,
    "test identities": 1_110,
}
"""DukeMTMC-reID (Zheng et al., ICCV 2017): 702 test identities and 408 distractors."""

CUHK03: Mapping[str, Counts] = {
    "detected": {
        "train images": 7_365,
        "train identities": 767,
        "train images per camera": [3601, 3764],
        "train tracklets per camera": [767, 767],
        "query images": 1_400,
        "query identities": 700,
        "query images per camera": [700, 700],
        "test images": 5_332,
        "test images per camera": [2617, 2715],
        "test identities": 700,
    },
    "labelled": {
        "train images": 7_368,
        "train identities": 767,
        "train images per camera": [3607, 3761],
        "train tracklets per camera": [766, 767],
        "query images": 1_400,
        "query identities": 700,
        "query images per camera": [700, 700],
        "test images": 5_328,
        "test images per camera": [2615, 2713],
        "test identities": 700,
    },
}
"""CUHK03, new protocol (Zhong et al., CVPR 2017), from its lists, by the kind of boxes."""

CUHK03_CLASSIC: Mapping[str, Counts] = {
    boxes: {"images": images, "train identities": 1_367, "test identities": 100}
    for boxes, images in (("detected", 14_097), ("labelled", 14_096))
}
"""CUHK03 as released (Li et al., CVPR 2014): each of its 20 splits tests on 100 of 1,467 people."""

PRID2011: Counts = {
    "identities": 178,
    "tracklets": 356,
    "images": 38_466,
    "shortest tracklet": 28,
    "longest tracklet": 675,
    "train identities": 89,
    "test identities": 89,
}
"""PRID 2011 (Hirzer et al., SCIA 2011), the 178 people that its ten published splits have in common."""

PRID2011_LEFT_OUT = frozenset(
    {6, 19, 31, 52, 57, 62, 71, 94, 106, 120, 136, 138, 139, 142, 145, 158, 159, 166, 183, 190, 199, 200}
)
"""Those of the 200 people seen by both cameras whom no published split uses: a sequence of theirs is too short."""

ILIDS_VID: Counts = {
    "identities": 300,
    "tracklets": 600,
    "images": (42_459, 42_495),
    "shortest tracklet": 22,
    "longest tracklet": 192,
    "train identities": 150,
    "test identities": 150,
}
"""iLIDS-VID (Wang et al., ECCV 2014). Public file lists have 42,459 images, published tables say 42,495."""

MARS: Counts = {
    "train tracklets": 8_298,
    "train identities": 625,
    "train images": 509_914,
    "train tracklets per camera": [1816, 1957, 1321, 750, 1880, 574],
    "train identities per camera": [520, 447, 314, 195, 375, 104],
    "test tracklets": 12_180,
    "test images": 681_089,
    "test identities": 634,
    "test tracklets of distractors (0)": 3_248,
    "test tracklets of junk (-1)": 870,
    "query tracklets": 1_980,
    "query identities": 626,
    "query images": 114_493,
}
"""MARS (Zheng et al., ECCV 2016), from its tables of tracklets."""

MARS_GALLERY: Mapping[str, Counts] = {
    "without-queries": {"gallery tracklets": 9_330, "gallery identities": 620, "valid queries": 1_840},
    "with-queries": {"gallery tracklets": 12_180, "gallery identities": 634, "valid queries": 1_980},
}
"""The two galleries in use, and the queries that have a match in them."""


def check_counts(name: str, found: Counts, expected: Counts, *, allow_mismatch: bool) -> list[str]:
    """The counts that differ, as sentences; none in a complete copy.

    Raises:
        UserError: some differ and `allow_mismatch` is false.
    """
    mismatches = [
        f"{key}: found {found[key]}, expected {_wanted(expected[key])}"
        for key in expected
        if not _agrees(found[key], expected[key])
    ]
    if not mismatches:
        return []
    message = f"this copy of {name} is not the complete one: {'; '.join(mismatches)}"
    if not allow_mismatch:
        raise UserError(
            f"{message}. Look for missing or extra files, or pass --allow-mismatch for a subset made on purpose"
        )
    log(f"warning: {message}")
    return mismatches


def _agrees(found: Count, expected: Count) -> bool:
    return found in expected if isinstance(expected, tuple) else found == expected


def _wanted(expected: Count) -> str:
    return " or ".join(map(str, expected)) if isinstance(expected, tuple) else str(expected)
