"""What /v1/predict answers: each format against what the model found, and back through our own readers."""

import csv
import io
import json

import numpy as np
import pytest
from PIL import Image
from serve.fakes import CATEGORIES, Bright, as_file, ask, served, spots

from maskwise import draw, rle
from maskwise.categories import Categories
from maskwise.data.dataset import Item
from maskwise.data.formats import labelme, measurements
from maskwise.data.images import read_label_map
from maskwise.outlines import Polygon, fill
from maskwise.serve import schema


@pytest.fixture(scope="module")
def client():
    with served(Bright()) as client:
        yield client


@pytest.fixture(scope="module")
def found():
    [instances] = Bright().instances([spots()])
    return instances


def test_json_holds_everything_that_was_found_best_first(client, found):
    answer = ask(client, as_file(spots()), min_score=0)
    content = schema.Prediction.model_validate_json(answer.content)
    [picture] = content.pictures
    assert content.model == "bright.safetensors", "without the folder it lies in"
    assert content.request_id == answer.headers["x-request-id"]
    assert (picture.index, picture.width, picture.height) == (0, 64, 48)
    assert [one.mask_score for one in picture.instances] == pytest.approx(found.mask_scores.tolist())
    assert [one.class_ for one in picture.instances] == [CATEGORIES.name(label) for label in found.labels.tolist()]
    assert [one.area for one in picture.instances] == found.masks.area().tolist()
    assert [one.box for one in picture.instances] == found.boxes.tolist()
    assert [one.mask.model_dump() for one in picture.instances] == found.masks.rle()
    assert {one.label for one in picture.instances} == {0, 1}


def test_polygons_fill_the_same_masks_holes_included(client, found):
    [picture] = ask(client, as_file(spots()), min_score=0, format="polygons").json()["pictures"]
    for one, code in zip(picture["instances"], found.masks.rle(), strict=True):
        rings = [
            Polygon(np.reshape(part["outer"], (-1, 2)), [np.reshape(hole, (-1, 2)) for hole in part["holes"]])
            for part in one["mask"]
        ]
        assert rle.encode([fill(rings, (48, 64))], (48, 64)) == [code]
    assert any(part["holes"] for one in picture["instances"] for part in one["mask"])


@pytest.mark.parametrize("where", ["form", "query"])
def test_thresholds_leave_out(client, found, where):
    given = {"min_score": "0.7", "min_quality": "0.8"}
    files = [("file", ("x", as_file(spots())))]
    answer = client.post("/v1/predict", files=files, **{"data" if where == "form" else "params": given})
    kept = ((found.scores >= 0.7) & (found.quality >= 0.8)).sum()
    assert 0 < kept < len(found)
    assert len(answer.json()["pictures"][0]["instances"]) == kept


def test_the_form_counts_where_the_query_says_otherwise(client):
    files = [("file", ("x", as_file(spots())))]
    answer = client.post("/v1/predict", files=files, data={"min_score": "1"}, params={"min_score": "0"})
    assert answer.json()["pictures"][0]["instances"] == []


def test_overlay_is_what_the_library_draws(client, found):
    answer = ask(client, as_file(spots()), min_score=0, format="overlay")
    assert answer.headers["content-type"] == "image/png"
    drawn = np.asarray(Image.open(io.BytesIO(answer.content)))
    assert np.array_equal(drawn, draw.overlay(spots(), found, CATEGORIES))


def test_label_map_has_16_bits_and_the_better_mask_in_front(client, found):
    answer = ask(client, as_file(spots()), min_score=0, format="label_map")
    assert answer.content[24] == 16
    assert np.array_equal(read_label_map(answer.content), found.masks.label_map())


def test_labelme_reads_back(client, found, tmp_path):
    answer = ask(client, as_file(spots()), min_score=0, format="labelme")
    (tmp_path / "picture.json").write_bytes(answer.content)
    (tmp_path / "picture.png").write_bytes(as_file(spots()))
    data = labelme.read(tmp_path)
    read = data[0].labelled()
    assert not data.problems
    assert not read.problems
    again = read.instances()
    assert again.masks.rle() == found.masks.rle()
    assert again.quality.tolist() == pytest.approx(found.quality.tolist())


def test_csv_measures_each_picture_in_its_lines(client, found):
    answer = ask(client, as_file(spots()), as_file(spots()), min_score=0, format="csv")
    lines = list(csv.reader(io.StringIO(answer.text)))
    expected = measurements.measure(Item(name="2", size=(48, 64), labelled=found), CATEGORIES)
    assert lines[0] == list(measurements.header())
    assert lines[1 + len(found) :] == [[str(value) for value in line] for line in expected]


def test_csv_in_physical_units(client, found):
    scale = measurements.Scale(0.5, "um")
    answer = ask(client, as_file(spots()), min_score=0, format="csv", pixel_size="0.5 µm")
    lines = list(csv.reader(io.StringIO(answer.text)))
    expected = measurements.measure(Item(name="1", size=(48, 64), labelled=found), CATEGORIES, scale)
    assert lines == [list(measurements.header(scale)), *([str(value) for value in line] for line in expected)]
    refused = ask(client, as_file(spots()), format="csv", pixel_size="half")
    assert refused.status_code == 422
    assert "expected a length, such as 0.325um, got 'half'" in refused.json()["error"]["message"]


def test_several_pictures_in_their_order_and_one_that_cannot_be_read(client):
    answer = ask(client, as_file(spots()), b"no picture", as_file(spots(32, 48)))
    first, second, third = answer.json()["pictures"]
    assert answer.status_code == 200
    assert (first["index"], first["width"], third["index"], third["width"]) == (0, 64, 2, 32)
    assert second == {"index": 1, "error": second["error"]}
    assert second["error"]["code"] == "unreadable_picture"


def test_a_table_has_no_place_for_a_failure(client):
    answer = ask(client, as_file(spots()), b"no picture", format="csv")
    assert answer.status_code == 422


def test_nothing_found(client):
    dark = as_file(np.zeros((5, 7, 3), np.uint8))
    assert ask(client, dark).json()["pictures"][0]["instances"] == []
    for format in ("overlay", "labelme", "csv", "label_map"):
        assert ask(client, dark, format=format).status_code == 200


def test_pictures_are_taken_upright(client):
    exif = Image.Exif()
    exif[0x0112] = 6
    answer = ask(client, as_file(spots(), "JPEG", exif=exif))
    [picture] = answer.json()["pictures"]
    assert (picture["width"], picture["height"]) == (48, 64)
    assert picture["exif_orientation"] == 6
    [picture] = ask(client, as_file(spots(), "JPEG")).json()["pictures"]
    assert "exif_orientation" not in picture


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP", "BMP", "GIF"])
def test_kinds_of_pictures(client, kind):
    assert ask(client, as_file(spots(), kind)).status_code == 200


@pytest.mark.parametrize("kind", ["PDF", "EPS", "ICO"])
def test_kinds_that_strangers_may_not_send(client, kind):
    answer = ask(client, as_file(spots(), kind))
    assert answer.status_code == 422
    assert answer.json()["error"]["code"] == "unreadable_picture"


def test_the_picture_as_the_model_sees_it(client):
    deep = (spots()[..., 0].astype(np.uint16) * 16)[..., None]
    file = io.BytesIO()
    Image.fromarray(deep[..., 0]).save(file, "TIFF")
    answer = client.post("/v1/picture", files=[("file", ("x", file.getvalue()))])
    shown = np.asarray(Image.open(io.BytesIO(answer.content)))
    assert shown.shape == (48, 64, 3)
    assert shown.max() == 255, "12 bits in a file of 16 are stretched as for the model"


def test_one_picture_at_a_time_where_the_answer_is_one_file(client):
    for format in ("overlay", "labelme", "label_map"):
        answer = ask(client, as_file(spots()), as_file(spots()), format=format)
        assert (answer.status_code, answer.json()["error"]["code"]) == (422, "too_many_pictures")


def test_models_tells_classes_and_limits(client):
    content = schema.Models.model_validate_json(client.get("/v1/models").content)
    assert [(c.label, c.id, c.name) for c in content.models[0].categories] == [(0, 3, "cell"), (1, 7, "nucleus")]
    assert content.limits.body_bytes == 64 * 2**20


def test_names_that_are_no_text_are_told_all_the_same():
    """As a file of a model may have them."""

    class Odd(Bright):
        name = "models/\udcff.safetensors"
        categories = Categories(names=("cell\ud800", "nucleus"), ids=(3, 7))

    with served(Odd()) as client:
        told = json.loads(client.get("/v1/models").content)["models"][0]
        assert (told["name"], told["categories"][0]["name"]) == ("\udcff.safetensors", "cell\ud800")
        for format in ("rle", "polygons", "labelme", "csv", "overlay", "label_map"):
            answer = ask(client, as_file(spots()), format=format, min_score=0)
            assert answer.status_code == 200
            assert format != "csv" or "cell\\ud800" in answer.text


def test_openapi_describes_requests_and_its_example_is_right(client):
    content = client.get("/openapi.json").json()
    body = content["paths"]["/v1/predict"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert set(body["properties"]) == {"file", "min_score", "min_quality", "format", "pixel_size"}
    assert "503" in content["paths"]["/v1/predict"]["post"]["responses"]
    example = schema.Prediction.model_validate(schema.EXAMPLE).pictures[0].instances[0]
    window = rle.decode(example.mask.model_dump())
    assert (window.x0, window.y0, *window.bits.shape) == (1, 1, 2, 3)
    assert example.area == window.bits.sum()


def test_openapi_names_only_what_is_described(client):
    text = client.get("/openapi.json").text
    named = {part.split('"')[0] for part in text.split('"#/components/schemas/')[1:]}
    assert named <= set(json.loads(text)["components"]["schemas"])
