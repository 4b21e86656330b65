"""Reading videos: what is no video, or a damaged one, gets a sentence; sizes and counts are bounded."""

from __future__ import annotations

import sys
from fractions import Fraction

import numpy as np
import pytest
from testing.video_clips import SIZE, av, squares, write_clip

from sdic_plugin import SDICError
from sdic_plugin.video import reading
from sdic_plugin.video.reading import VideoReader


def test_frames_in_their_order_with_their_times(tmp_path):
    times = [0, 512, 900, 1500]
    reader = VideoReader(write_clip(tmp_path / "clip.mp4", squares(4), times, sound="aac"))
    assert (reader.info.width, reader.info.height) == SIZE and reader.info.audio == ("aac",)
    assert reader.info.time_base == Fraction(1, 12800)
    for _ in range(2):
        frames = list(reader.frames())
        assert [(frame.index, frame.time) for frame in frames] == list(enumerate(times))
    picture = np.asarray(frames[0].rgb()).astype(int)
    assert np.abs(picture - squares(1)[0]).mean() < 4
    luma, blueness, _ = frames[0].planes()
    assert luma.shape == (SIZE[1], SIZE[0]) and blueness.shape == (SIZE[1] // 2, SIZE[0] // 2)


@pytest.mark.parametrize(("turn", "quarter"), [(90, 1), (180, 2), (-90, 3), (45, 0)])
def test_frames_come_upright(tmp_path, turn, quarter):
    reader = VideoReader(write_clip(tmp_path / "clip.mp4", squares(2), turn=turn))
    upright = np.rot90(squares(1)[0], quarter).astype(int)
    frame = next(reader.frames())
    assert (reader.info.height, reader.info.width) == upright.shape[:2]
    assert np.abs(np.asarray(frame.rgb()) - upright).mean() < 4
    assert frame.planes()[0].shape == upright.shape[:2]


PLAYLIST = b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n"
CONCATENATION = b"ffconcat version 1.0\nfile clip.mp4\n"


@pytest.mark.parametrize("content", [b"", b"hello " * 99, b"<html></html>", PLAYLIST, CONCATENATION, b"\0" * 4096])
def test_what_is_no_video(tmp_path, content):
    write_clip(tmp_path / "clip.mp4", squares(2))
    path = tmp_path / "other.mp4"
    path.write_bytes(content)
    with pytest.raises(SDICError, match=r"cannot be read as a video|is empty"):
        VideoReader(path)


def test_there_is_no_such_file(tmp_path):
    for name in ("none.mp4", "https://example.org/a.mp4"):
        with pytest.raises(SDICError, match="There is no video"):
            VideoReader(tmp_path / name)


def test_sound_alone_is_no_video(tmp_path):
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=48000)
        stream.layout = "mono"
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 48000, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(SDICError, match="only sound"):
        VideoReader(tmp_path / "a.mp4")


def test_truncated_files(tmp_path):
    whole = write_clip(tmp_path / "clip.mp4", squares(60)).read_bytes()
    (tmp_path / "clip.mp4").write_bytes(whole[: len(whole) // 2])  # its table of contents was at the end
    with pytest.raises(SDICError, match="damaged or truncated"):
        VideoReader(tmp_path / "clip.mp4")
    whole = write_clip(tmp_path / "clip.mkv", squares(60)).read_bytes()
    (tmp_path / "clip.mkv").write_bytes(whole[: len(whole) // 2])
    frames = list(VideoReader(tmp_path / "clip.mkv").frames())
    assert 10 < len(frames) < 60  # what there is


def test_damaged_packets_are_left_out(tmp_path):
    path = write_clip(tmp_path / "clip.mp4", squares(60), codec="mjpeg", pixels="yuvj420p", options={})
    content = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        places = [packet.pos for packet in container.demux(video=0) if packet.size]
    for place in places[20:25]:
        content[place : place + 600] = b"\xff\xd9" * 300
    path.write_bytes(bytes(content))
    reader = VideoReader(path)
    times = [frame.time for frame in reader.frames()]
    assert 55 <= len(times) < 60 and reader.damaged >= 1
    assert times == sorted(set(times)) and times[-1] == 59 * 512


def test_frames_that_are_too_large_or_too_many(tmp_path, monkeypatch):
    path = write_clip(tmp_path / "clip.mp4", squares(5))
    monkeypatch.setattr(reading, "MAX_FRAME_PIXELS", 1000)
    with pytest.raises(SDICError, match=r"96 x 64 and at most 1,000"):
        VideoReader(path)
    monkeypatch.undo()
    monkeypatch.setattr(reading, "MAX_FRAMES", 3)
    with pytest.raises(SDICError, match="more than 3 frames"):
        list(VideoReader(path).frames())


def test_a_size_that_changes(tmp_path):
    parts = [write_clip(tmp_path / f"{i}.mpg", squares(5, size), codec="mpeg2video", options={},
                        time_base=Fraction(1, 25)) for i, size in enumerate((SIZE, (64, 48)))]  # fmt: skip
    (tmp_path / "both.mpg").write_bytes(b"".join(part.read_bytes() for part in parts))
    reader = VideoReader(tmp_path / "both.mpg")
    with pytest.raises(SDICError, match="changes its size at frame"):
        list(reader.frames())


def test_pyav_is_missing(tmp_path, monkeypatch):
    path = write_clip(tmp_path / "clip.mp4", squares(2))
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(SDICError, match=r'pip install "sdic-plugin\[video\]"'):
        VideoReader(path)
