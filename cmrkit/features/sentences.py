"""Text features by pretrained transformers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from cmrkit.data.paired import PairedData
from cmrkit.errors import CmrkitError, UsageError
from cmrkit.features.base import Extracted, Job, require_captions
from cmrkit.features.encoders import torch_device
from cmrkit.features.growing import Halving, batch_bounds
from cmrkit.features.rows import RowFile

if TYPE_CHECKING:
    import torch

LAYOUTS = ("pooled", "states")
POOLING = ("mean", "first")


def extract(name: str, data: PairedData, job: Job) -> Extracted:
    """Return what a transformer's last layer makes of each caption.

    Options: ``model``, a folder with the model's and its tokenizer's files, or their name on the hub;
    ``layout``, "pooled" for (n, d) float32 or "states" for (n, length, d) float16, zero after each text's end;
    ``pooling``, "mean" over the text or its "first" token; ``max_length`` in the tokens of the model (64).

    Raises UsageError for an unknown option, CmrkitError where the model cannot be had.
    """
    options = job.choose(name, model=None, layout="pooled", pooling="mean", max_length=64)
    for option, known in (("layout", LAYOUTS), ("pooling", POOLING)):
        if options[option] not in known:
            raise UsageError(f"{option} {options[option]!r} of {name!r} is not one of {', '.join(known)}")
    captions, skipped = require_captions(name, data, job.skip_bad)
    tokenizer, net = _load(options["model"])
    device = torch_device(job.device)
    job = replace(job, device=device.type)
    net.eval().to(device)
    tokens = tokenizer(captions, truncation=True, max_length=options["max_length"])["input_ids"]
    longest = max(map(len, tokens))
    pad = tokenizer.pad_token_id or 0

    def encode(rows: Sequence[list[int]]) -> np.ndarray:
        import torch

        ids, mask = _padded(rows, pad, device)
        with torch.inference_mode():
            states = net(input_ids=ids, attention_mask=mask).last_hidden_state.float() * mask[:, :, None]
        if options["layout"] == "states":
            return torch.nn.functional.pad(states, (0, 0, 0, longest - states.shape[1])).cpu().numpy()
        pooled = states[:, 0] if options["pooling"] == "first" else states.sum(dim=1) / mask.sum(dim=1, keepdim=True)
        return pooled.cpu().numpy()

    states = options["layout"] == "states"
    matrix = _grown(tokens, encode, job, "float16" if states else "float32", {"data": data.name, "options": options})
    return Extracted("text", matrix, kind="states" if states else "vectors", skipped=skipped)


def _load(model: str | None) -> tuple[Any, Any]:
    if not model:
        raise UsageError("extractor 'transformers' needs the option 'model'")
    from transformers import AutoModel, AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(model), AutoModel.from_pretrained(model)
    except Exception as error:  # a hub fails in many ways: no network, no such name, a file missing
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CmrkitError(f"the text encoder {model!r} cannot be had: {reason}") from error


def _padded(rows: Sequence[list[int]], pad: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    import torch

    ids = torch.full((len(rows), max(map(len, rows))), pad, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for place, row in enumerate(rows):
        ids[place, : len(row)] = torch.tensor(row)
        mask[place, : len(row)] = 1
    return ids.to(device), mask.to(device)


def _grown(tokens: list[list[int]], encode: Any, job: Job, dtype: str, about: dict[str, Any]) -> np.ndarray:
    from tqdm import tqdm

    run = Halving(encode, job.batch_size)
    shape = (len(tokens), *run(tokens[:1]).shape[1:])
    file = RowFile(job.work, "text", shape, dtype, {**about, "batch": job.batch_size})
    bounds = batch_bounds(file.done, len(tokens), job.batch_size)
    for start, end in tqdm(bounds, unit="batch", disable=not job.progress, leave=False):
        file.write(run(tokens[start:end]))
    return file.array
