"""The examples of docs/predict.md do what they say."""

import re
from pathlib import Path

import pytest
import tiny_method
import torch
from bright import picture
from PIL import Image

from maskwise.categories import Categories
from maskwise.checkpoint import About, write_model
from maskwise.data.images import write_image
from maskwise.methods import METHODS
from maskwise.model import load
from maskwise.models.published import PUBLISHED, Published

PAGE = Path(__file__).parents[1] / "docs" / "predict.md"


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Pictures, and a model called nuclei."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(METHODS, "tiny", tiny_method.METHODS["tiny"])
    torch.manual_seed(0)
    module = tiny_method.Tiny(tiny_method.Config(num_classes=1))
    about = About(method="tiny", config={"num_classes": 1}, categories=Categories(names=("nucleus",)))
    write_model(tmp_path / "tiny.safetensors", module.state_dict(), about)
    load(tmp_path / "tiny.safetensors").save(tmp_path / "package")
    monkeypatch.setitem(PUBLISHED, "nuclei", Published(title="", licence="", at=tmp_path / "package"))
    for name in ("a.png", "b.png", "field/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_image(tmp_path / name, picture((20, 30), (3, 4, 9, 9)))
    pages = [Image.fromarray(picture((20, 30), (3, 4, 9, 9))) for _ in range(2)]
    pages[0].save(tmp_path / "stack.tif", save_all=True, append_images=pages[1:])
    return tmp_path


def test_the_examples_run(home, capsys):
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    assert len(blocks) == 3
    names: dict[str, object] = {}
    for block in blocks:
        exec(block, names)
    shown = capsys.readouterr().out
    assert shown.startswith("1 tensor([1.])")
    assert "000000.png 1\n000001.png 1\n" in shown
    assert len(list((home / "a").iterdir())) == 6
    assert names["rows"][0]["area_um2"] > 0
    assert names["entries"][0]["category_id"] == 1
    assert (home / "my-model" / "config.json").exists()
