import json
from dataclasses import dataclass

import pytest
from PIL import Image

import cmrkit as package
from cmrkit.cli.main import main


@pytest.fixture
def checkpoint(toy_recipe, toy_mirror, monkeypatch):
    monkeypatch.setenv("CMRKIT_MIRROR", str(toy_mirror))
    return package.reproduce("toypairs", "tiny30k", offline=True)["runs"][0]["checkpoint"]


@pytest.fixture
def folder(tmp_path):
    """Images of every mode that people have."""
    place = tmp_path / "pictures"
    (place / "more").mkdir(parents=True)
    Image.new("RGB", (40, 30), (230, 20, 20)).save(place / "red.jpg")
    Image.new("CMYK", (30, 40), (255, 0, 255, 0)).save(place / "more" / "green.jpg")
    Image.new("RGBA", (30, 30), (20, 20, 230, 255)).save(place / "blue.png")
    Image.new("L", (30, 30), 128).save(place / "grey.png")
    frames = [Image.new("RGB", (20, 20), colour) for colour in ((220, 40, 30), (0, 0, 0))]
    frames[0].save(place / "animated.gif", save_all=True, append_images=frames[1:])
    (place / "notes.txt").write_text("no image")
    return place


@dataclass
class Result:
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def search(capsys):
    """Run ``cmrkit search --ckpt`` in this process, which has PyTorch already."""

    def run(*args):
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main(["search", "--ckpt", *map(str, args)])
        return Result(left.value.code, *capsys.readouterr())

    return run


def test_finds_images_by_text_in_a_folder_and_in_an_archive(checkpoint, folder, toy_mirror, search):
    result = search(checkpoint, "--text", "a red thing", "--text", "blue", "--images", folder, "--json")
    document = json.loads(result.stdout)
    first = [q["results"][0]["result"] for q in document["queries"]]
    assert first[0] in ("red.jpg", "animated.gif")
    assert first[1] == "blue.png"
    assert len(document["queries"][0]["results"]) == 5
    scores = [hit["score"] for hit in document["queries"][0]["results"]]
    assert scores == sorted(scores, reverse=True)
    archive = toy_mirror / "flickr30k" / "flickr30k-images.zip"
    shown = search(checkpoint, "--text", "green", "--images", archive, "--top", "2")
    assert shown.returncode == 0, shown.stderr
    assert "flickr30k-images/1.jpg" in shown.stdout


def test_finds_texts_by_image(checkpoint, folder, tmp_path, search):
    (tmp_path / "texts.txt").write_text("a red thing\na blue thing\n" + "the grey picture of the thing " * 4 + "\n")
    result = search(checkpoint, "--image", folder / "blue.png", "--texts", tmp_path / "texts.txt", "--json")
    document = json.loads(result.stdout)
    assert document["direction"] == "i2t"
    assert document["queries"][0]["results"][0]["result"] == "a blue thing"
    assert "1 sentences are longer than the model's 8 tokens" in document["notes"][0]


@pytest.mark.parametrize("suffix", ["html", "png"])
def test_writes_a_contact_sheet(checkpoint, folder, tmp_path, search, suffix):
    sheet = tmp_path / f"sheet.{suffix}"
    result = search(checkpoint, "--text", "<b>red</b>", "--images", folder, "-o", sheet)
    assert result.returncode == 0, result.stderr
    if suffix == "png":
        assert min(Image.open(sheet).size) > 200
    else:
        page = sheet.read_text()
        assert "&lt;b&gt;red&lt;/b&gt;" in page
        assert "<b>red" not in page
        assert page.count("data:image/jpeg;base64,") == 5


def test_a_broken_image_is_named_or_left_out_when_asked(checkpoint, folder, search):
    (folder / "broken.jpg").write_bytes(b"no image")
    result = search(checkpoint, "--text", "red", "--images", folder)
    assert result.returncode == 1
    assert "broken.jpg" in result.stderr
    result = search(checkpoint, "--text", "red", "--images", folder, "--skip-bad", "--json")
    document = json.loads(result.stdout)
    assert len(document["queries"][0]["results"]) == 5
    assert "broken.jpg" in document["notes"][0]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--text", "red"], "give --text with --images"),
        (["--text", " ", "--images", "FOLDER"], "an empty sentence"),
        (["--text", "red", "--images", "FOLDER/none"], "no such folder"),
        (["--text", "red", "--images", "FOLDER/empty"], "no images"),
        (["--image", "FOLDER/none.jpg", "--texts", "FOLDER/notes.txt"], "no such image"),
        (["--image", "FOLDER/red.jpg", "--texts", "FOLDER/none.txt"], "no such file"),
        (["--text", "red", "--images", "FOLDER", "-o", "sheet.pdf"], r".html or a .png"),
    ],
)
def test_bad_input_is_named(checkpoint, folder, search, args, message):
    (folder / "empty").mkdir()
    result = search(checkpoint, *(a.replace("FOLDER", str(folder)) for a in args))
    assert result.returncode == 2, result.stdout
    assert message in result.stderr


def test_a_model_of_features_says_that_it_cannot_search(folder, search):
    trained = package.reproduce("cca", "digits", seeds=[0])["runs"][0]["checkpoint"]
    result = search(trained, "--text", "red", "--images", folder)
    assert result.returncode == 2
    assert "trained on features (left-half and right-half)" in result.stderr
