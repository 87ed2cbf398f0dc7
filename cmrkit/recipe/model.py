"""What a recipe declares, as frozen and validated objects."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from cmrkit.recipe.manifest import Asset
from cmrkit.recipe.source import Frozen

FAMILIES = (
    "hashing_unsupervised_shallow",
    "hashing_unsupervised_deep",
    "hashing_supervised_shallow",
    "hashing_supervised_deep",
    "real_unsupervised",
    "real_supervised_shallow",
    "real_supervised_deep",
    "image_text_matching",
    "vision_language",
    "scenarios",
    "adjacent",
)

Preprocessing = Literal["center", "zscore", "l1", "l2", "sqrt"]
Metric = Annotated[str, Field(pattern=r"^[a-z]+(@(all|\d+))?(:[a-z-]+)?$")]


class Code(Frozen):
    """Public code of a paper."""

    url: str
    revision: str | None = None
    licence: str | None = None
    official: bool | None = None
    note: str | None = None


class Paper(Frozen):
    """The publication that a recipe reproduces."""

    acronym: str
    title: str
    venue: str
    year: Annotated[int, Field(ge=1930, le=2100)]
    authors: tuple[str, ...] = ()
    url: str | None = None
    doi: str | None = None
    code: Code | None = None
    taxonomy: tuple[str, ...]
    bibtex: str | None = None
    remark: str | None = None
    notes: tuple[str, ...] = ()
    unsettled: tuple[str, ...] = ()


class DataChoice(Frozen):
    """Which features and which split of a dataset a recipe uses."""

    image: str
    text: str
    split: str = "default"


class Preprocess(Frozen):
    """Feature transformations in order; their statistics come from the training split alone."""

    image: tuple[Preprocessing, ...] = ()
    text: tuple[Preprocessing, ...] = ()


class Setting(Frozen):
    """What is done to the training data on purpose; queries and database stay as they are.

    ``label_noise`` is the share of training images whose labels are drawn anew, ``pair_noise`` the share of training
    texts that are permuted among their images, or, where ``pair_noise_unit`` is "image", of images that are permuted
    and take all their texts along. With a ``chunk`` the training images arrive in rounds of so many, each with its
    texts; 0 hands them over at once. ``seed`` chooses which, whatever the method's own seed is.
    """

    label_noise: Annotated[float, Field(ge=0, le=1)] = 0.0
    pair_noise: Annotated[float, Field(ge=0, le=1)] = 0.0
    pair_noise_unit: Literal["text", "image"] = "text"
    chunk: Annotated[int, Field(ge=0)] = 0
    seed: Annotated[int, Field(ge=0)] = 0

    @property
    def changes(self) -> dict[str, Any]:
        """What differs from training on the data as they are; empty where nothing does."""
        idle = {"seed"} if self.pair_noise else {"seed", "pair_noise_unit"}
        changes = self.model_dump(mode="json", exclude_defaults=True, exclude=idle)
        return {**changes, "seed": self.seed} if changes else {}


class EvalChoice(Frozen):
    """The protocol a paper is judged under. ``database`` says where the database's codes come from.

    ``selection`` is the split on which hyper-parameters or the best epoch were chosen: "query" says that the
    paper used the very items it reports on. ``limit`` keeps so many query images, with their texts, and 0 all: what
    comes out is no paper's protocol any more.
    """

    protocol: str
    database: Literal["learned", "hashed", "unified"] = "hashed"
    items: Literal["database", "query"] = "database"
    ties: Literal["expected", "stable", "best", "worst"] = "expected"
    similarity: str | None = None
    selection: Literal["none", "val", "query"] = "none"
    limit: Annotated[int, Field(ge=0)] = 0


class Claim(Frozen):
    """One number that somebody reported, with its source. ``std`` and ``n`` where it is a mean over seeds."""

    dataset: str
    metric: Metric
    at: dict[str, Any] = {}
    value: float
    std: Annotated[float, Field(ge=0)] | None = None
    n: Annotated[int, Field(ge=1)] | None = None
    tolerance: Annotated[float, Field(ge=0)] | None = None
    source: Annotated[str, Field(min_length=4)]
    kind: Literal["paper", "code", "oracle", "cited", "rerun"]


class Compute(Frozen):
    """What a run costs, roughly. ``gflop_per_pair`` is what one pair costs a method that scores pair by pair."""

    device: Literal["cpu", "gpu"] = "cpu"
    minutes: float
    memory_gb: float | None = None
    gflop_per_pair: float | None = None


class Override(Frozen):
    """What differs on one dataset."""

    preprocess: Preprocess | None = None
    model: dict[str, Any] = {}
    train: dict[str, Any] = {}
    setting: Setting | None = None
    eval: EvalChoice | None = None
    sweep: dict[str, list[Any]] = {}


class Recipe(Frozen):
    """One paper: what it is, and, where a method exists, everything needed to run and judge it.

    ``checkpoints`` are the weights that its authors published, by the dataset they are evaluated on, with the files
    of their tokenizer; "pretrained" ones are where fine-tuning starts, and "pretrained-DATASET" where training on that
    dataset does, unless it is told otherwise.
    """

    key: str
    family: Literal[FAMILIES]
    paper: Paper
    status: Literal["catalogued", "runnable", "verified"]
    fidelity: Literal["paper", "code", "secondary"] | None = None
    data: dict[str, DataChoice] = {}
    preprocess: Preprocess = Preprocess()
    model: dict[str, Any] = {}
    train: dict[str, Any] = {}
    setting: Setting = Setting()
    eval: EvalChoice | None = None
    on: dict[str, Override] = {}
    checkpoints: dict[str, dict[Literal["weights", "vocabulary", "merges"], Asset]] = {}
    sweep: dict[str, list[Any]] = {}
    provenance: dict[str, str] = {}
    claims: tuple[Claim, ...] = ()
    compute: Compute | None = None
    notes: tuple[str, ...] = ()

    @property
    def runnable(self) -> bool:
        """Whether a method stands behind this recipe."""
        return self.status != "catalogued"

    @field_validator("sweep")
    @classmethod
    def _sweeps_are_known(cls, sweep: dict[str, list[Any]]) -> dict[str, list[Any]]:
        for name, values in sweep.items():
            if name != "seed" and not name.startswith(("model.", "train.", "setting.")):
                raise ValueError(f"a sweep goes over 'seed', 'model.X', 'train.X' or 'setting.X', not {name!r}")
            if not values:
                raise ValueError(f"the sweep over {name!r} is empty")
        return sweep

    @model_validator(mode="after")
    def _is_complete(self) -> Recipe:
        if not self.runnable:
            return self
        for field in ("fidelity", "data", "model", "eval"):
            if not getattr(self, field):
                raise ValueError(f"a {self.status} recipe needs {field!r}")
        if "name" not in self.model:
            raise ValueError("'model' needs a 'name', the stem of the method's file")
        published = [name.removeprefix("pretrained-") for name in self.checkpoints if name != "pretrained"]
        for name, files in self.checkpoints.items():
            if "weights" not in files:
                raise ValueError(f"checkpoints.{name} has no 'weights'")
        for dataset in [*self.on, *published, *(claim.dataset for claim in self.claims)]:
            if dataset not in self.data:
                raise ValueError(f"dataset {dataset!r} is named under 'on', 'checkpoints' or 'claims', but not"
                                 " under 'data'")  # fmt: skip
        self._check_provenance()
        return self

    def _check_provenance(self) -> None:
        own = {f"model.{k}" for k in self.model if k != "name"} | {f"train.{k}" for k in self.train}
        for dataset in self.on.values():
            own |= {f"model.{k}" for k in dataset.model} | {f"train.{k}" for k in dataset.train}
        stated = {name for key in self.provenance for name in key.replace(" ", "").split(",")}
        missing = sorted(own - stated - {"model.bits", "model.dim"})
        if missing:
            raise ValueError(f"provenance is missing for {', '.join(missing)}: say paper section, code file or guess")
