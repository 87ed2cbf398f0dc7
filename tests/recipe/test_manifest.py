"""A manifest is checked before anything is downloaded, and its faults are told by file and line."""

import pytest
from pydantic import ValidationError

from cmrkit.errors import UsageError
from cmrkit.recipe.manifest import Asset, Manifest
from cmrkit.recipe.source import read_yaml, validate

URL = "https://example.org/raw.mat"
PLAIN = {"key": "uci-digits", "title": "Digits", "citation": "Somebody, 1998"}
ASSETS = {"raw": {"path": "set/raw.mat", "urls": [URL]}}


def manifest(**fields):
    return Manifest.model_validate({**PLAIN, "assets": ASSETS, **fields})


def test_the_reader_is_named_after_the_key_unless_it_is_given():
    assert manifest().reader == "uci_digits"
    assert manifest(reader="mat_pairs").reader == "mat_pairs"
    with pytest.raises(ValidationError, match="not the name of a module"):
        manifest(reader="../evil")


@pytest.mark.parametrize("path", ["/etc/passwd", "../up", "a/../b", "a//b", "./a", "a\\b", "C:/a", ""])
def test_a_path_stays_inside_its_directory(path):
    with pytest.raises(ValidationError, match="plain relative path"):
        Asset(path=path, urls=[URL])


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org/a.zip",
        "https://example.org/a%20b.zip?download=1",
        "hf://owner/repo/model.safetensors@0123abc",
        "hf://datasets/owner/repo/deep/down/file.json",
        "gdrive://1a2B3c4D5e6F_-",
        "manual://Fill in the form,\nthen fetch the file.",
    ],
)
def test_urls_of_every_known_form_are_taken(url):
    assert Asset(path="a", urls=[url]).urls == (url,)


@pytest.mark.parametrize(
    "url", ["ftp://a/b", "https://", "hf://repo-without-owner", "gdrive://", "manual:// ", "a.zip"]
)
def test_other_urls_are_refused(url):
    with pytest.raises(ValidationError, match="not of a known form"):
        Asset(path="a", urls=[url])


def test_digests_have_their_length_and_sha256_goes_first():
    with pytest.raises(ValidationError, match="sha256"):
        Asset(path="a", urls=[URL], sha256="abc")
    with pytest.raises(ValidationError, match="md5"):
        Asset(path="a", urls=[URL], md5="g" * 32)
    both = Asset(path="a", urls=[URL], sha256="A" * 64, md5="b" * 32)
    assert both.checksum == ("sha256", "a" * 64)
    assert Asset(path="a", urls=[URL], md5="b" * 32).checksum == ("md5", "b" * 32)
    assert Asset(path="a", urls=[URL]).checksum is None


def test_an_asset_needs_a_source():
    with pytest.raises(ValidationError, match="urls"):
        Asset(path="a", urls=[])


def test_references_to_assets_must_exist():
    with pytest.raises(ValidationError, match=r"features\.text\.tfidf names assets that are not declared: words"):
        manifest(features={"text": {"tfidf": {"assets": ["raw", "words"]}}})
    with pytest.raises(ValidationError, match=r"splits\.default names assets that are not declared: lists"):
        manifest(splits={"default": {"assets": ["lists"]}})


def test_two_assets_cannot_share_a_path():
    with pytest.raises(ValidationError, match="same path"):
        manifest(assets={**ASSETS, "copy": ASSETS["raw"]})


def test_the_default_split_exists():
    counts = {"counts": {"train": 10, "query": 5}}
    assert manifest(splits={"official": counts}, default_split="official").splits["official"].counts["train"] == 10
    with pytest.raises(ValidationError, match="default_split 'default' is not one of official"):
        manifest(splits={"official": counts})


def test_embedded_means_nothing_to_download():
    assert Manifest.model_validate({**PLAIN, "embedded": True}).assets == {}
    with pytest.raises(ValidationError, match="embedded dataset has no assets"):
        manifest(embedded=True)
    with pytest.raises(ValidationError, match="no assets: list them"):
        manifest(assets={})


def test_statistics_are_counts():
    statistics = {"items": 2866, "label_counts": {"train": [138, 272], "query": [34, 88]}}
    assert manifest(statistics=statistics).statistics["label_counts"]["train"] == (138, 272)
    with pytest.raises(ValidationError):
        manifest(statistics={"items": -1})


def test_a_fault_is_told_by_file_and_line(tmp_path):
    path = tmp_path / "digits.yaml"
    path.write_text(
        "key: digits\ntitle: Digits\ncitation: Somebody\nassets:\n  raw:\n    path: ../raw.mat\n"
        f"    urls: [{URL}]\n    sha: {'0' * 64}\n"
    )
    with pytest.raises(UsageError) as caught:
        validate(Manifest, read_yaml(path), path)
    assert f"{path}:6: assets.raw.path: '../raw.mat' is not a plain relative path" in str(caught.value)
    assert f"{path}:8: unknown key 'sha'" in str(caught.value)
