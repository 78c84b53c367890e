"""`maskwise models | export-model | doctor`."""

import json

import pytest
import tiny_method
import torch
from bright import Bright

from maskwise import cli, model
from maskwise.categories import Categories
from maskwise.checkpoint import About, write_model
from maskwise.commands import doctor
from maskwise.methods import METHODS
from maskwise.models.download import Remote
from maskwise.models.published import PUBLISHED, Published


def maskwise(*words, capsys, code=0):
    assert cli.main([str(word) for word in words]) == code
    return capsys.readouterr()


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A model of a method that trains in a second, published."""
    monkeypatch.setitem(METHODS, "tiny", tiny_method.METHODS["tiny"])
    torch.manual_seed(0)
    module = tiny_method.Tiny(tiny_method.Config())
    about = About(method="tiny", config={"width": 4}, categories=Categories(names=("disc", "square")))
    write_model(tmp_path / "tiny.safetensors", module.state_dict(), about)
    model.load(tmp_path / "tiny.safetensors").save(tmp_path / "package")
    for name in list(PUBLISHED):
        monkeypatch.delitem(PUBLISHED, name)
    monkeypatch.setitem(PUBLISHED, "tiny", Published(title="discs", licence="MIT", at=tmp_path / "package"))
    return tmp_path


def test_models_are_listed(tiny, capsys, monkeypatch):
    far = Remote(url="https://example.org/far.safetensors", sha256="0" * 64, bytes=5_000_000)
    monkeypatch.setitem(PUBLISHED, "far", Published(title="squares", licence="CC0", at=far))
    monkeypatch.setitem(PUBLISHED, "lost", Published(title="rings", licence="CC0", at=tiny / "lost"))
    rows = json.loads(maskwise("models", "--json", capsys=capsys).out)
    assert [(row["name"], row["is_here"]) for row in rows] == [("tiny", True), ("far", False), ("lost", False)]
    assert rows[1]["bytes"] == 5_000_000
    shown = maskwise("models", capsys=capsys).out
    assert "in the package, missing" in shown
    assert "MIT" in shown


def test_a_model_is_exported_and_it_is_said_what_that_is(tiny, capsys):
    found = json.loads(maskwise("export-model", "tiny", tiny / "out", "--json", capsys=capsys).out)
    assert found["parameters"] == sum(v.numel() for v in model.load("tiny").module.parameters())
    assert found["bytes"] == (tiny / "out" / "model.safetensors").stat().st_size
    assert found["stored_as"] == "float32"
    first, second = (model.load(m).module.state_dict() for m in ("tiny", tiny / "out"))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert "exists already" in maskwise("export-model", "tiny", tiny / "out", capsys=capsys, code=2).err
    shown = maskwise("export-model", "tiny", tiny / "out", "--exist-ok", "--half", capsys=capsys).out
    assert "float16" in shown


def test_a_card_goes_with_its_model(tiny, capsys):
    (tiny / "package" / "README.md").write_text("written by hand")
    maskwise("export-model", "tiny", tiny / "out", capsys=capsys)
    assert (tiny / "out" / "README.md").read_text() == "written by hand"


# Doctor


def test_an_installation_that_works(tiny, capsys, monkeypatch):
    monkeypatch.setattr(model, "load", lambda *_, **__: _finder())
    monkeypatch.setenv("MASKWISE_HOME", str(tiny / "cache"))
    found = json.loads(maskwise("doctor", "--json", capsys=capsys).out)
    assert found["works"]
    assert {f["about"] for f in found["findings"]} >= {"packages", "device", "decoder", "cache", "model tiny"}
    assert "finds 11 objects" in maskwise("doctor", capsys=capsys).out


def _finder():
    class Found(Bright):
        about = About(method="bright", config={}, categories=Bright().categories)

        def predict(self, pixels, **_):
            return self.instances([pixels])[0]

    return Found()


@pytest.mark.parametrize("lost", ["model", "everything it finds", "cache", "decoder", "device"])
def test_what_is_broken_is_named(lost, tiny, capsys, monkeypatch):
    if lost == "model":
        (tiny / "package" / "model.safetensors").write_bytes(b"")
    elif lost == "everything it finds":
        monkeypatch.setattr(doctor, "_discs", lambda: torch.zeros(64, 64, 3, dtype=torch.uint8).numpy())
        monkeypatch.setattr(model, "load", lambda *_, **__: _finder())
    elif lost == "cache":
        (tiny / "cache").write_text("no folder")
        monkeypatch.setenv("MASKWISE_HOME", str(tiny / "cache"))
    elif lost == "decoder":
        monkeypatch.setattr("maskwise.data.images.read_image", lambda _: torch.zeros(8, 8, 3).numpy())
    words = ("--device", "warp") if lost == "device" else ()
    broken = [line for line in maskwise("doctor", *words, capsys=capsys, code=1).out.splitlines() if line[0] == "✗"]
    name = {"everything it finds": "model tiny", "model": "model tiny"}.get(lost, lost)
    assert any(line.startswith(f"✗ {name}") for line in broken)


def test_discs_are_seen_by_anything_that_sees():
    assert len(Bright().instances([doctor._discs()])[0]) == 11
