"""Small stores made by hand: records, and one run whose images, codes and results are known."""

import json

import numpy as np

from cmrkit.data.paired import PairedData
from cmrkit.pipeline.resolve import resolve
from cmrkit.pipeline.scoring import score
from cmrkit.pipeline.store import Store, write_json

HAMMING = {"map@all": {"i2t": 0.35, "t2i": 0.73}, "map@50": {"i2t": 0.27, "t2i": 0.68}, "queries": 693}


def record(key="batch", dataset="wikipedia", bits=16, seed=0, metrics=None, **changes):
    """A record as this version writes it, of a run of the recipe's own."""
    more = {"bits": [bits]} if bits else {}
    run = resolve(key, dataset, seeds=[seed], **more)[0]
    return {
        "recipe": key,
        "paper": run.recipe.paper.title,
        "dataset": dataset,
        "data": run.choice.model_dump(mode="json"),
        "preprocess": run.preprocess.model_dump(mode="json"),
        "params": run.params,
        "seed": seed,
        "setting": run.setting.changes,
        "origin": "scratch",
        "eval": run.eval.model_dump(mode="json"),
        "steps": {"train": "1" * 64, "encode": "2" * 64, "evaluate": "3" * 64},
        "seconds": {"train": 0.5, "encode": 0.1, "evaluate": 0.2},
        "history": [],
        "environment": {"cmrkit": "0.1.0", "python": "3.11", "packages": {"numpy": "2.0"}, "device": "cpu"},
        "when": "2026-01-02T03:04:05+00:00",
        "metrics": metrics or HAMMING,
        "variants": {"database=hashed,items=database,ties=expected": {"map@all": {"i2t": 0.27, "t2i": 0.32}}},
        **changes,
    }


def put(root, *records):
    """Write records into the store at ``root``; a string is written as it is."""
    folder = root / "records"
    folder.mkdir(parents=True, exist_ok=True)
    start = len(list(folder.iterdir()))
    for i, content in enumerate(records, start):
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / f"{i:064x}.json").write_text(text, encoding="utf-8")


def put_drawn_run(root, key="batch", seed=0, flipped=0):
    """Put a whole run on ten drawn images into the store: six in the database, four queries, labels of two classes.

    Queries 0 to 2 have the code of their class, and query 3 that of the other class: everything it finds at first
    is a miss. ``flipped`` bits of the first query's image code are wrong.
    """
    rng = np.random.default_rng(0)
    labels = np.eye(2, dtype=np.uint8)[[0, 1, 0, 1, 0, 1, 0, 1, 0, 0]]
    splits = {r: np.arange(*e) for r, e in {"train": (0, 6), "database": (0, 6), "query": (6, 10)}.items()}
    data = PairedData(
        name="shapes", pairs=np.arange(10), splits=splits, labels=labels, classes=("<b>red</b>", "blue"),
        image_items=rng.integers(0, 255, (10, 24, 24, 3), dtype=np.uint8), captions=[f"caption {i}" for i in range(10)],
    )  # fmt: skip
    code = np.where(rng.random((2, 16)) < 0.5, -1, 1)
    codes = code[labels.argmax(1)]
    wrong = codes.copy()
    wrong[9] = code[1]
    wrong[6, :flipped] *= -1
    arrays = {
        "query_image": wrong[6:], "query_text": wrong[6:], "query_labels": labels[6:], "query_items": np.arange(6, 10),
        "database_image": codes[:6], "database_text": codes[:6], "database_labels": labels[:6],
        "database_items": np.arange(6), "learned_image": codes[:6], "learned_text": codes[:6],
    }  # fmt: skip
    name = f"{key}-{seed}"
    made = record(
        key, "shapes", 16, seed, steps={s: f"{s}-{name}" for s in ("prepare", "features", "encode", "evaluate")}
    )
    scores = score(arrays, "hamming", made["eval"])
    store = Store(root)

    def features(out):
        for split, rows in splits.items():
            np.save(out / f"split-{split}.npy", rows)
        for array in ("image", "text"):
            np.save(out / f"{array}.npy", np.zeros((10, 2)))
        np.save(out / "pairs.npy", data.pairs)
        np.save(out / "labels.npy", labels)
        write_json(out / "meta.json", {"image": {"kind": "matrix"}, "text": {"kind": "matrix"}})

    def encode(out):
        for array, values in arrays.items():
            np.save(out / f"{array}.npy", values)
        write_json(out / "space.json", "hamming")

    def evaluate(out):
        each = {f"{m}/{d}": v for m, values in scores["per_query"].items() for d, v in values.items()}
        np.savez(out / "per_query.npz", **each)

    for step, write in {"prepare": data.save, "features": features, "encode": encode, "evaluate": evaluate}.items():
        store.publish(step, made["steps"][step], {}, write)
    put(root, {**made, "metrics": scores["metrics"], "variants": scores["variants"]})
