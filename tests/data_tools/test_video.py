"""Videos: exact frame numbers from any start, equal bytes for equal frames, and damage that is named."""

from __future__ import annotations

import numpy as np
import pytest

from data_tools.video import find_videos, iter_frames, key_frames, probe, write_video
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


def test_reading_from_every_key_frame_equals_reading_from_the_beginning(video):
    indices, stamps = key_frames(video)
    assert len(indices) >= 3 and indices[0] == 0
    whole = dict(iter_frames(video))
    for index, stamp in zip(indices.tolist(), stamps.tolist()):
        wanted = np.arange(index, min(index + 4, COUNT))
        for at, frame in iter_frames(video, wanted=wanted, start=(index, stamp)):
            assert np.array_equal(frame, whole[at])


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


def test_cut_off_where_the_index_stands_in_front(video, tmp_path):
    """The header promises all frames; only reading on shows that they are not there."""
    path = fast_start(video, tmp_path / "cut.mp4")
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    for read in (key_frames, lambda cut: list(iter_frames(cut))):
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
    for read in (probe, key_frames, lambda bad: list(iter_frames(bad))):
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
