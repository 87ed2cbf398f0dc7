"""What a dataset's manifest declares: files with their sources and digests, features, splits, statistics."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, field_validator, model_validator

from cmrkit.recipe.source import Frozen

# Kept here, beside the format it defines, so that a bad URL is reported at its line of the manifest.
HF_URL = re.compile(r"hf://(?P<datasets>datasets/)?(?P<repo>[^/@\s]+/[^/@\s]+)/(?P<file>[^@\s]+)(@(?P<revision>\S+))?")
_URL_FORMS = {
    "http": re.compile(r"https?://[^/\s]+/\S*"),
    "https": re.compile(r"https?://[^/\s]+/\S*"),
    "hf": HF_URL,
    "gdrive": re.compile(r"gdrive://[\w-]{10,}"),
    "manual": re.compile(r"manual://.*\S.*", re.DOTALL),
}
_SCHEMES = "https://.., hf://[datasets/]owner/repo/file@revision, gdrive://id or manual://instructions"

Role = Literal["train", "val", "query", "database"]
Count = NonNegativeInt | tuple[NonNegativeInt, ...]


class Asset(Frozen):
    """One file: where it lies under a mirror or the download directory, where to get it, how to know it.

    ``urls`` are tried in order. ``variant`` says what the file is where it is not the official archive,
    e.g. "resized to 224x224": such a file never passes for the original.
    """

    path: str
    urls: Annotated[tuple[str, ...], Field(min_length=1)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    md5: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")] | None = None
    size: PositiveInt | None = None
    licence: str | None = None
    notes: str | None = None
    extract: bool = False
    variant: str | None = None

    @property
    def name(self) -> str:
        """The file's name without its folders."""
        return PurePosixPath(self.path).name

    @property
    def checksum(self) -> tuple[str, str] | None:
        """The algorithm and the digest to verify with, the stronger one where both are known."""
        if self.sha256:
            return "sha256", self.sha256
        return ("md5", self.md5) if self.md5 else None

    @field_validator("path")
    @classmethod
    def _path_stays_inside(cls, path: str) -> str:
        parts = path.split("/")
        if "\\" in path or ":" in path or any(part in ("", ".", "..") for part in parts):
            raise ValueError(f"{path!r} is not a plain relative path with '/' between its parts and no '..'")
        return path

    @field_validator("sha256", "md5", mode="before")
    @classmethod
    def _digest_is_lower_case(cls, digest: object) -> object:
        return digest.lower() if isinstance(digest, str) else digest

    @field_validator("urls")
    @classmethod
    def _urls_are_known(cls, urls: tuple[str, ...]) -> tuple[str, ...]:
        for url in urls:
            form = _URL_FORMS.get(url.partition("://")[0])
            if form is None or not form.fullmatch(url):
                raise ValueError(f"{url!r} is not of a known form: {_SCHEMES}")
        return urls


class Feature(Frozen):
    """One representation of a modality: read from ``assets``, or computed from them by ``extractor``.

    ``dim`` is the length of the last axis; ``options`` are the extractor's.
    """

    dim: PositiveInt | None = None
    assets: tuple[str, ...] = ()
    extractor: str | None = None
    options: dict[str, str | int | float | bool | None] = {}
    note: str | None = None


class Features(Frozen):
    """The representations that a dataset offers, by modality and name."""

    image: dict[str, Feature] = {}
    text: dict[str, Feature] = {}


class Split(Frozen):
    """A division of the items, with the number of items in each role."""

    assets: tuple[str, ...] = ()
    counts: dict[Role, NonNegativeInt] = {}
    note: str | None = None


class Manifest(Frozen):
    """One dataset. ``embedded`` ones are generated or come with a dependency: nothing is downloaded."""

    key: str
    title: str
    citation: str
    bibtex: str | None = None
    homepage: str | None = None
    licence: str | None = None
    registration: str | None = None
    notes: tuple[str, ...] = ()
    embedded: bool = False
    reader: str = ""
    assets: dict[str, Asset] = {}
    features: Features = Features()
    splits: dict[str, Split] = {}
    default_split: str = "default"
    statistics: dict[str, Count | dict[str, Count]] = {}

    @model_validator(mode="before")
    @classmethod
    def _reader_is_named_after_the_key(cls, data: object) -> object:
        if isinstance(data, dict) and not data.get("reader") and "key" in data:
            return {**data, "reader": str(data["key"]).replace("-", "_")}
        return data

    @field_validator("reader")
    @classmethod
    def _reader_is_a_module(cls, reader: str) -> str:
        if not reader.isidentifier():
            raise ValueError(f"{reader!r} is not the name of a module in cmrkit/data/readers")
        return reader

    @model_validator(mode="after")
    def _is_complete(self) -> Manifest:
        if self.embedded == bool(self.assets):
            raise ValueError(
                "an embedded dataset has no assets to download"
                if self.embedded
                else "no assets: list them, or say 'embedded: true' where nothing is downloaded"
            )
        if self.splits and self.default_split not in self.splits:
            raise ValueError(f"default_split {self.default_split!r} is not one of {', '.join(self.splits)}")
        self._check_paths()
        self._check_references()
        return self

    def _check_paths(self) -> None:
        owners: dict[str, str] = {}
        for name, asset in self.assets.items():
            other = owners.setdefault(asset.path, name)
            if other != name:
                raise ValueError(f"assets {other!r} and {name!r} have the same path {asset.path!r}")

    def _check_references(self) -> None:
        users = {
            **{f"features.image.{name}": feature for name, feature in self.features.image.items()},
            **{f"features.text.{name}": feature for name, feature in self.features.text.items()},
            **{f"splits.{name}": split for name, split in self.splits.items()},
        }
        for user, entry in users.items():
            unknown = [name for name in entry.assets if name not in self.assets]
            if unknown:
                raise ValueError(f"{user} names assets that are not declared: {', '.join(unknown)}")
