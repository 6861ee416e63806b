"""Videos: exact frame numbers from any start, equal bytes for equal frames, and damage that is named."""

from __future__ import annotations

import dataclasses
from fractions import Fraction

import numpy as np
import pytest

from data_tools import video as video_module
from data_tools.video import (
    Route,
    decoding_runs,
    find_route,
    find_videos,
    index_frames,
    iter_frames,
    iter_pictures,
    num_decoded,
    probe,
    write_video,
)
from taudl_dist.errors import UserError

FPS, COUNT = 12.5, 120


def picture(index: int) -> np.ndarray:
    """A frame that tells its number by two grey levels."""
    frame = np.zeros((48, 64, 3), np.uint8)
    frame[:, :32], frame[:, 32:] = 20 + 15 * (index % 16), 20 + 15 * (index // 16)
    return frame


def number_of(frame: np.ndarray) -> int:
    low, high = frame[:, 4:28].mean(), frame[:, 36:60].mean()
    return round((low - 20) / 15) + 16 * round((high - 20) / 15)


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    path = tmp_path_factory.mktemp("video") / "cam.mp4"
    write_video(path, (picture(index) for index in range(COUNT)), FPS)
    return path


def fast_start(path, target):
    """The same video with its index in front, as streaming recorders write it."""
    import av

    options = {"movflags": "faststart"}
    with av.open(str(path)) as source, av.open(str(target), "w", options=options) as sink:
        stream = sink.add_stream_from_template(source.streams.video[0])
        for packet in source.demux():
            if packet.dts is not None:
                packet.stream = stream
                sink.mux(packet)
    return target


def test_probe(video):
    info = probe(video)
    assert (info.fps, info.num_frames, info.width, info.height) == (FPS, COUNT, 64, 48)
    assert info.duration_s == pytest.approx(COUNT / FPS)


def test_every_frame_in_order(video):
    assert [(index, number_of(frame)) for index, frame in iter_frames(video)] == [(i, i) for i in range(COUNT)]


@pytest.mark.parametrize("wanted", [[0], [5, 6, 30], [COUNT - 1], list(range(0, COUNT, 7)), []])
def test_wanted_frames(video, wanted):
    found = [(index, number_of(frame)) for index, frame in iter_frames(video, wanted=np.array(wanted, int))]
    assert found == [(index, index) for index in wanted]


def coded(path, codec, *, rate=25, **options):
    """A video of noisy frames that move, so that one decoded from the wrong reference looks different."""
    import av

    rng = np.random.default_rng(0)
    ground = rng.integers(0, 255, (64, 400, 3)).astype(np.uint8)
    with av.open(str(path), "w") as sink:
        stream = sink.add_stream(codec, rate=rate, options={name: str(value) for name, value in options.items()})
        stream.width, stream.height = 96, 64
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.codec_context.thread_count = 1
        for index in range(COUNT):
            sink.mux(stream.encode(av.VideoFrame.from_ndarray(np.roll(ground, -2 * index, 1)[:, :96], format="rgb24")))
        sink.mux(stream.encode(None))
    return path


CODED = [
    # name, codec, options, whether there is a route, whether it is taken to the end (None: as it comes)
    ("closed.mp4", "libx264", {"g": 20, "bf": 3, "x264-params": "b-pyramid=normal"}, True, True),
    ("open.mp4", "libx264", {"g": 20, "bf": 3, "x264-params": "open-gop=1:b-pyramid=normal"}, True, True),
    ("open.mkv", "libx264", {"g": 20, "bf": 3, "x264-params": "open-gop=1"}, True, True),
    ("open.ts", "libx264", {"g": 20, "bf": 3, "x264-params": "open-gop=1"}, True, True),
    ("short.mp4", "libx264", {"g": 2, "bf": 2}, True, True),
    ("refresh.mp4", "libx264", {"g": 20, "x264-params": "intra-refresh=1"}, True, True),
    ("refresh.ts", "libx264", {"g": 20, "x264-params": "intra-refresh=1"}, True, False),  # key frames that are none
    ("odd.mp4", "libx264", {"g": 20, "rate": Fraction(30000, 1001)}, True, True),
    ("odd.mkv", "libx264", {"g": 20, "bf": 2, "rate": Fraction(7, 3)}, True, True),
    ("fields.mp4", "libx264", {"g": 20, "bf": 2, "flags": "+ildct+ilme"}, True, True),
    ("fields.ts", "libx264", {"g": 20, "bf": 2, "flags": "+ildct+ilme"}, True, True),
    ("closed.avi", "mpeg4", {"g": 20, "bf": 0}, True, True),
    ("open.mpg", "mpeg2video", {"g": 15, "bf": 2}, True, None),
    ("cra.mp4", "libx265", {"g": 20, "x265-params": "open-gop=1:log-level=none:pools=1"}, True, True),
    ("hidden.webm", "libvpx", {"g": 20, "auto-alt-ref": 1, "lag-in-frames": 10}, False, False),
    ("super.webm", "libvpx-vp9", {"g": 20, "auto-alt-ref": 1, "lag-in-frames": 10, "cpu-used": 8, "deadline": "realtime"}, True, True),
    ("all.avi", "mjpeg", {}, True, True),
]  # fmt: skip
COUNTING = video_module._from_the_beginning
WANTED = [[3, 25, 26, 71, 110], [0, 119], [45, 46, 47, 99], [20, 40, 60, 80, 100], list(range(0, COUNT, 9))]


@pytest.mark.parametrize("case", CODED, ids=[row[0] for row in CODED])
def test_a_route_gives_the_frames_of_reading_through(case, tmp_path, monkeypatch):
    name, codec, options, has_route, is_believed = case
    path = coded(tmp_path / name, codec, **options)
    index = index_frames(path)
    assert (index is not None) == has_route
    whole = dict(iter_frames(path))
    assert len(whole) == COUNT
    counted = []
    monkeypatch.setattr(video_module, "_from_the_beginning", lambda *args: counted.append(args) or COUNTING(*args))
    for wanted in map(np.array, WANTED):
        route = find_route(index, wanted) if index else None
        found = {number: picture.rgb for number, picture in iter_pictures(path, wanted=wanted, route=route)}
        assert list(found) == wanted.tolist()
        for number, rgb in found.items():
            assert np.array_equal(rgb, whole[number]), number
    assert is_believed in (not counted, None)


NO = video_module._NO_STAMP
LONG = list(range(100))
INDICES = [
    # time stamps, of decoding, key frames, first frames shown; usable
    ([0, 3, 1, 2, 4], [-2, -1, 0, 1, 2], [0, 4], [0, 1, 2], True),
    ([0, 3, 1, 2, 4], [NO, NO, 0, 1, 2], [0, 4], [], True),
    ([], [], [], [], False),
    ([0, NO, 2], [0, 1, 2], [0], [0], False),
    ([0, 1, 1, 2], [0, 1, 1, 2], [0], [0], False),  # two packets for one frame, or a clock that began again
    ([*LONG, 60.5, *range(100, 150)], [*LONG, 60.5, *range(100, 150)], [0], [0], False),  # a clock that went back
    ([0, 1, 2], [0, 1, 2], [1], [0], False),  # begins in mid-group
    ([0, 1, 2], [0, 1, 2], [0], [0, 2], False),  # shows other frames
    ([*LONG, *range(103, 150)], [*LONG, *range(103, 150)], [0], [0], False),  # packets were lost
    ([0, 1, 4, 5, 8, 13, 14], [0, 1, 4, 5, 8, 13, 14], [0], [0], True),  # a rate that varies
]


@pytest.mark.parametrize("case", INDICES)
def test_packets_that_can_be_jumped_to(case):
    stamps, decoding, keys, shown, is_usable = case
    stamps, decoding = (np.array([value if value == NO else 2 * value for value in row], np.int64) for row in case[:2])
    is_key = np.isin(np.arange(len(stamps)), keys)
    index = video_module._index(stamps, decoding, is_key, [2 * stamp for stamp in shown])
    assert (index is not None) == is_usable
    if index is not None:
        assert np.array_equal(index.stamps, np.sort(stamps)) and index.is_key.sum() == len(keys)
        assert (index.decoding_stamps <= index.stamps).all()


def copied(path, target, change):
    """The packets of a video in another file, those for which `change(number, packet)` is not False."""
    import av

    with av.open(str(path)) as source, av.open(str(target), "w") as sink:
        stream = sink.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(source.demux(video=0)):
            if packet.dts is not None and change(number, packet) is not False:
                packet.stream = stream
                sink.mux(packet)
    return target


def test_key_frames_that_are_none_are_not_believed(tmp_path):
    def flag(_number, packet):
        packet.is_keyframe = True

    path = copied(coded(tmp_path / "cam.mp4", "mpeg4", g=20, bf=0), tmp_path / "lies.mp4", flag)
    index, whole, wanted = index_frames(path), dict(iter_frames(path)), np.array([3, 31, 71, 110])
    assert index.is_key.all()
    for number, found in iter_pictures(path, wanted=wanted, route=find_route(index, wanted)):
        assert np.array_equal(found.rgb, whole[number]), number


def test_frames_hidden_by_an_edit_list(video, tmp_path):
    """What `ffmpeg -ss ... -c copy` writes: packets from a key frame on, of which the first are not shown."""

    begun = []

    def cut(_number, packet):
        begun.extend([packet] if packet.is_keyframe and packet.pts >= 50 * packet.duration else [])
        packet.pts, packet.dts = packet.pts - 60 * packet.duration, packet.dts - 60 * packet.duration
        return bool(begun)

    path = copied(video, tmp_path / "cut.mp4", cut)
    shown = [number_of(frame) for _, frame in iter_frames(path)]
    assert shown == list(range(shown[0], COUNT)) and shown[0] > 50
    assert len(index_frames(path).stamps) == len(shown)


def test_a_route_that_leads_elsewhere_is_not_believed(video):
    wanted = np.array([3, 60, 110])
    right = find_route(index_frames(video), wanted)
    for name, shift in (("stamps", 7), ("stamps", -(10**6)), ("key_stamps", 7), ("seek_stamps", 10**6)):
        route = dataclasses.replace(right, **{name: getattr(right, name) + shift})
        found = iter_pictures(video, wanted=wanted, route=route)
        assert [(index, number_of(picture.rgb)) for index, picture in found] == [(index, index) for index in wanted]


RUNS = [
    # wanted, key frame before each, runs
    ([], [], []),
    ([3], [0], [[3]]),
    ([60], [50], [[60]]),
    ([3, 60], [0, 50], [[3], [60]]),
    ([3, 45, 60], [0, 0, 50], [[3, 45, 60]]),  # a jump from 45 to 50 saves too little
    ([10, 160, 170, 300], [0, 150, 150, 300], [[10], [160, 170], [300]]),
    ([60, 70], [50, 50], [[60, 70]]),
]


@pytest.mark.parametrize(("wanted", "keys", "expected"), RUNS)
def test_decoding_runs(wanted, keys, expected):
    wanted, keys = np.array(wanted, np.int64), np.array(keys, np.int64)
    runs = decoding_runs(wanted, keys)
    assert [wanted[run].tolist() for run in runs] == expected
    route = Route(stamps=wanted, keys=keys, key_stamps=keys, seek_stamps=keys)
    assert num_decoded(wanted, route) == sum(wanted[run][-1] + 1 - keys[run][0] for run in runs)
    assert num_decoded(wanted, None) == (wanted[-1] + 1 if len(wanted) else 0)


def test_equal_frames_give_equal_bytes(video, tmp_path):
    write_video(tmp_path / "again.mp4", (picture(index) for index in range(COUNT)), FPS)
    assert (tmp_path / "again.mp4").read_bytes() == video.read_bytes()


def test_a_failing_source_leaves_no_file(tmp_path):
    def frames():
        yield picture(0)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_video(tmp_path / "half.mp4", frames(), FPS)
    assert not list(tmp_path.iterdir())


def test_gif_with_uneven_delays(tmp_path):
    from PIL import Image

    pictures = [Image.fromarray(picture(index)) for index in range(10)]
    path = tmp_path / "cam.gif"
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=[100] * 5 + [300] * 5)
    info = probe(path)
    assert info.num_frames == 10 and info.fps == pytest.approx(10 / 2.0, rel=0.1)
    assert [number_of(frame) for _, frame in iter_frames(path)] == list(range(10))


@pytest.mark.parametrize("suffix", ["mkv", "ts"])
def test_containers_without_a_frame_count(video, tmp_path, suffix):
    path = fast_start(video, tmp_path / f"cam.{suffix}")
    assert probe(path).num_frames == COUNT and probe(path).fps == pytest.approx(FPS, rel=1e-3)
    assert [number_of(frame) for _, frame in iter_frames(path)] == list(range(COUNT))


@pytest.mark.parametrize("suffix", ["mkv", "ts"])
def test_a_hole_is_not_a_cut(video, tmp_path, suffix):
    def pause(number, packet):
        late = 200 * packet.duration * (number > 60)
        packet.pts, packet.dts = packet.pts + late, packet.dts + late

    info = probe(copied(video, tmp_path / f"cam.{suffix}", pause))
    assert info.num_frames == COUNT and info.fps == pytest.approx(FPS * COUNT / (COUNT + 200), rel=1e-2)


def test_cut_off_where_the_index_stands_in_front(video, tmp_path):
    """The header promises all frames; only reading on shows that they are not there."""
    path = fast_start(video, tmp_path / "cut.mp4")
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    for read in (index_frames, lambda cut: list(iter_frames(cut))):
        with pytest.raises(UserError, match=r"cut\.mp4: (damaged or cut off at|the video ends after) frame \d+"):
            read(path)


def test_cut_off_without_a_frame_count(video, tmp_path):
    path = fast_start(video, tmp_path / "cut.mkv")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match=r"cut off: its header announces 9\.6 s"):
        probe(path)


def test_frames_beyond_the_end(video):
    with pytest.raises(UserError, match=rf"ends after frame {COUNT - 1}, but {COUNT + 5} frames"):
        list(iter_frames(video, wanted=np.array([COUNT + 4])))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such video file"),
        (b"", "the file is empty"),
        (b"hello " * 500, "cannot be opened as video"),
        (b"\0" * 4000, "cannot be opened as video"),
    ],
)
def test_files_that_are_no_video(tmp_path, content, message):
    path = tmp_path / "cam.mp4"
    if content is not None:
        path.write_bytes(content)
    for read in (probe, index_frames, lambda bad: list(iter_frames(bad))):
        with pytest.raises(UserError, match=rf"cam\.mp4: {message}"):
            read(path)


def test_sound_is_no_video(tmp_path):
    import wave

    with wave.open(str(tmp_path / "cam.wav"), "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(bytes(16000))
    with pytest.raises(UserError, match="no video stream"):
        probe(tmp_path / "cam.wav")


def test_finding_videos(tmp_path):
    for name in ("b.mp4", "a.MKV", "notes.txt", ".hidden.mp4"):
        (tmp_path / name).touch()
    (tmp_path / "folder.mp4").mkdir()
    assert list(find_videos(tmp_path)) == ["a", "b"]
    (tmp_path / "b.avi").touch()
    with pytest.raises(UserError, match=r"b\.avi and b\.mp4 are both camera 'b'"):
        find_videos(tmp_path)
    with pytest.raises(UserError, match="no such folder"):
        find_videos(tmp_path / "nowhere")
