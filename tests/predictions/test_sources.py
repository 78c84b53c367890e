import sys
from pathlib import Path

import av
import numpy as np
import pytest
from bright import Bright, picture

from maskwise.data.formats.pictures import TOO_LONG
from maskwise.data.images import ImageReadError, write_image
from maskwise.data.open import open_data
from maskwise.predict import Options, predict
from maskwise.predictions.folder import Job, run
from maskwise.predictions.sources import files, is_several, named


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.png", "b.jpg", "deep/c.png", "deep/er/d.png", "deep/.hidden.png", "other/a.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_image(path, picture((9, 9)))
    (tmp_path / "deep" / "notes.txt").write_text("")
    return tmp_path


@pytest.mark.parametrize(
    ("sources", "names"),
    [
        (["a.png"], ["a.png"]),
        (["deep"], ["c.png", "er/d.png"]),
        (["deep/"], ["c.png", "er/d.png"]),
        (["deep/*"], ["c.png"]),
        (["**/*.png"], ["a.png", "deep/c.png", "deep/er/d.png", "other/a.png"]),
        (["deep/er/d.png", "a.png"], ["deep/er/d.png", "a.png"]),
        (["deep", "other"], ["deep/c.png", "deep/er/d.png", "other/a.png"]),
        (["a.png", "./a.png", "*.png"], ["a.png"]),
        (["deep/c.png", "deep/../deep/c.png", "deep"], ["c.png", "er/d.png"]),
        (["nowhere/x.png"], ["x.png"]),
    ],
)
def test_pictures_have_the_names_they_have_below_what_was_named(sources, names, home):
    assert list(files(sources)) == names
    assert list(files([home / s for s in sources])) == names


def test_a_picture_that_is_named_in_several_ways_is_one(home):
    (home / "linked").symlink_to(home / "deep")
    ways = ["deep/c.png", home / "deep" / "c.png", "other/../deep/c.png", "linked/c.png"]
    assert list(files(ways).values()) == [Path("deep/c.png")]
    (home / "far" / "er").mkdir(parents=True)
    (home / "link").symlink_to(home / "far" / "er")
    write_image(home / "far" / "a.png", picture((9, 9)))
    assert len(files(["a.png", "link/../a.png"])) == 2


def test_a_video_beside_a_folder_of_its_name_has_frames_of_another(home, video):
    for names in (("clip/000000.png",), ("clip/deep/000000.png", "clip_mkv/000000.png")):
        put(*(home / name for name in names))
        asked = [one.name for one in named([home, video])]
        assert len({name.lower() for name in asked}) == len(asked)
        assert {*names, "clip_mkv_mkv/000000.png" if len(names) > 1 else "clip_mkv/000000.png"} <= set(asked)


def test_two_that_differ_in_their_ending_do_not_share_a_name(home):
    write_image(home / "b.png", picture((9, 9)))
    assert list(files(["a.png", "b.jpg", "b.png"])) == ["a.png", "b.jpg", "b_png.png"]


def test_pictures_of_a_list_do_not_share_a_name(home):
    given = ["a.png", Path("other/a.png"), picture((9, 9)), home / "deep/c.png", "a.png"]
    results = predict(Bright(), given, Options())
    assert [r.name for r in results] == ["a.png", "other/a.png", "000002.png", "deep/c.png", "a.png"]
    assert [r.name for r in predict(Bright(), ["deep/c.png"], Options())] == ["c.png"]
    for result in results:
        result.save("out", save="overlay")
    assert len(list(Path("out/overlay").rglob("*.png"))) == 4


def test_two_that_formats_would_call_the_same_do_not_share_a_name(home):
    """These leave out the folders that others put around pictures."""
    for inner in ("images/b.png", "images/train/b.png", "pictures/b.png"):
        put(home / "in" / inner)
    names = list(files(["in"]))
    assert names == ["images/b.png", "images/train/b_png.png", "pictures/b_png_png.png"]
    job = Job(out=home / "out", model={}, sources=["in"], options=Options(), save=("labelme", "yolo", "png", "coco"))
    assert run(Bright(), named(["in"]), job).results == 3


def test_a_file_that_is_no_picture_by_its_name_does_not_share_it(home):
    """Formats call it x.dat.png."""
    for name in ("x.dat", "x.dat.png", ".b.jpg", "_.b.png"):
        (home / name).write_bytes((home / "a.png").read_bytes())
    sources = ["x.dat", "x.dat.png", ".b.jpg", "_.b.png"]
    names = ["x.dat.png", "x.dat_png.png", ".b.jpg", "_.b_png.png"]
    assert list(files(sources)) == names
    assert [result.name for result in predict(Bright(), sources, Options())] == names
    job = Job(out=home / "out", model={}, sources=sources, options=Options(), save=("coco", "labelme", "yolo", "png"))
    assert run(Bright(), named(sources), job).results == 4
    for format in job.save:
        data = open_data(job.out / format)
        assert (len(data), data.problems) == (4, ())


def test_a_name_that_is_too_long_for_results_costs_only_them(home, caplog):
    (home / ("x" * 254)).write_bytes((home / "a.png").read_bytes())
    sources = ["x" * 254, "a.png"]
    job = Job(
        out=home / "out", model={}, sources=sources, options=Options(), save=("overlay", "coco", "labelme", "csv")
    )
    done = run(Bright(), named(sources), job)
    assert (done.results, done.failures) == (2, 0)
    for name in ("coco", "labelme"):
        assert done.written[name].losses[TOO_LONG] == 1
        assert [record.path.name for record in open_data(job.out / name)] == ["a.png"]
    assert [path.name for path in (job.out / "overlay").iterdir()] == ["a.png"]
    assert caplog.text.count("too long for a file") == 3


def test_a_folder_without_pictures_is_said(home):
    (home / "empty").mkdir()
    for source in ("empty", "*.tif"):
        with pytest.raises(ValueError, match="no pictures there"):
            files([source])


def test_a_name_with_signs_of_a_pattern_is_a_file_where_there_is_one(home):
    write_image(home / "[1].png", picture((9, 9)))
    assert not is_several("[1].png")
    assert list(files(["[1].png"])) == ["[1].png"]


def put(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".json":
            path.write_text("{}")
        else:
            write_image(path, picture((9, 9)))


def test_what_predictions_wrote_is_not_looked_at(home, caplog):
    before = list(files(["."]))
    put(home / "done" / "predict.json", home / "done" / "overlay" / "a.png", home / "deep" / "done" / "predict.json")
    put(home / "deep" / "done" / "b.png", home / "now" / "overlay" / "a.png")
    for source in (".", "**/*.[pj][np]g"):
        assert list(files([source], out=Path("now"))) == before
        [said] = [record.message for record in caplog.records]
        assert said.startswith("left out, as output of predictions: 3 pictures in ")
        assert all(folder in said for folder in ("done", "deep/done", "now"))
        caplog.clear()
    assert list(files(["done/overlay"])) == list(files(["done/overlay/a.png"])) == ["a.png"]
    with pytest.raises(ValueError, match="no pictures there"):
        files(["done"])


@pytest.mark.parametrize("done", [False, True])
def test_pictures_that_predictions_are_written_beside_are_looked_at(done, home):
    put(home / "deep" / "overlay" / "c.png")
    if done:
        put(home / "deep" / "predict.json")
    assert list(files(["deep"], out=home / "deep")) == ["c.png", "er/d.png"]


@pytest.fixture
def video(tmp_path):
    path = tmp_path / "clip.mkv"
    with av.open(path, "w") as container:
        stream = container.add_stream("ffv1", rate=5)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "bgr0"
        for i in range(4):
            frame = av.VideoFrame.from_ndarray(picture((48, 64), (5 * i, 5, 5 * i + 12, 20)), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def test_a_video_is_its_frames(video):
    assert is_several(video)
    results = list(predict(Bright(), video, Options(min_score=0)))
    assert [r.name for r in results] == [f"clip/{i:06d}.png" for i in range(4)]
    assert [r.instances.boxes[0].tolist() for r in results] == [[5 * i, 5, 5 * i + 12, 20] for i in range(4)]
    np.testing.assert_array_equal(results[1].pixels, picture((48, 64), (5, 5, 17, 20)))


def test_a_video_that_cannot_be_read_is_a_picture_that_cannot_be_read(tmp_path):
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    [asked] = named([tmp_path / "bad.mp4"])
    with pytest.raises(ImageReadError, match=r"bad\.mp4: frame 0: "):
        asked.read()
    assert asked.part_of == tmp_path / "bad.mp4"


def test_frames_with_too_many_pixels_are_refused(video):
    asked = next(iter(named([video], max_pixels=100)))
    with pytest.raises(ImageReadError, match="64 x 48 pixels, 100 are allowed"):
        asked.read()


def test_what_videos_need_is_said(video, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ValueError, match=r"pip install 'maskwise\[video\]'"):
        list(named([video]))
