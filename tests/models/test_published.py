import hashlib

import pytest

from maskwise.models.download import Patience, Remote
from maskwise.models.published import PUBLISHED, Published, find

CONTENT = b"some weights"
SHA = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def cached(monkeypatch, tmp_path):
    """One file that has been fetched before, so that no network is needed."""
    monkeypatch.setenv("MASKWISE_HOME", str(tmp_path))
    path = tmp_path / "models" / f"{SHA}.safetensors"
    path.parent.mkdir()
    path.write_bytes(CONTENT)
    return path


def entry(at):
    return Published(title="", licence="", at=at)


def test_a_path_is_itself(tmp_path):
    assert find(tmp_path) == tmp_path
    assert find(str(tmp_path)) == tmp_path


def test_a_name_is_looked_up_before_the_folder_that_is_called_the_same(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("nuclei", "package"):
        (tmp_path / folder).mkdir()
    published = {"nuclei": entry(tmp_path / "package")}
    assert find("nuclei", published=published) == tmp_path / "package"
    assert find("./nuclei", published=published).resolve() == tmp_path / "nuclei"


def test_a_published_file_is_fetched_by_its_digest(cached):
    remote = Remote(url="http://127.0.0.1:9/m.safetensors", sha256=SHA)
    assert find("far", published={"far": entry(remote)}) == cached
    assert entry(remote).is_here
    assert not entry(Remote(url=remote.url, sha256="0" * 64)).is_here


def test_an_address_needs_a_digest(cached):
    assert find(f"http://127.0.0.1:9/m.safetensors#sha256={SHA}") == cached
    with pytest.raises(ValueError, match=r"digest .* is missing: https://.../m.safetensors#sha256=<64 digits>"):
        find("https://example.org/models/m.safetensors")


def test_an_address_of_another_programs_file_keeps_what_kind_it_is(cached):
    other = cached.rename(cached.with_suffix(".pth"))
    assert find(f"http://127.0.0.1:9/detectron/model.pth?raw=1#sha256={SHA}") == other


def test_an_address_that_cannot_be_reached_is_an_error(monkeypatch, tmp_path):
    monkeypatch.setenv("MASKWISE_HOME", str(tmp_path))
    with pytest.raises(ValueError, match="127"):
        find(f"http://127.0.0.1:9/m#sha256={SHA}", patience=Patience(attempts=1))


def test_an_unknown_name_gets_a_suggestion():
    with pytest.raises(ValueError, match="did you mean 'nuclei'"):
        find("nucleus")
    with pytest.raises(ValueError, match=f"published models are: {', '.join(PUBLISHED)}"):
        find("zebra.safetensors")


def test_an_installation_without_its_model_says_so(tmp_path):
    with pytest.raises(ValueError, match=r"the model 'lost' belongs into .* but this installation lacks it"):
        find("lost", published={"lost": entry(tmp_path / "none")})
