"""Pretrained image networks by name, as functions from pixels to features."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cmrkit.errors import CmrkitError, UsageError
from cmrkit.features.base import Job, read_json
from cmrkit.features.weights import read_weights, set_weights

if TYPE_CHECKING:
    import torch

LAYOUTS = ("pooled", "grid")
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


@dataclass(frozen=True)
class Framing:
    """How an image comes to the size of the network's input.

    With ``crop`` in (0, 1], the shorter side is resized to ``size / crop`` and the middle is cut out; without, the
    whole image is resized to a square whatever its proportions.
    """

    size: int
    crop: float | None = None
    interpolation: str = "bilinear"

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Return uint8 (height, width, 3) as uint8 (size, size, 3)."""
        from PIL import Image

        height, width = image.shape[:2]
        target = (self.size, self.size)
        if self.crop is not None:
            # Rounded down, as the usual transforms do.
            scale = int(self.size / self.crop) / min(height, width)
            target = tuple(max(self.size, int(side * scale + 1e-6)) for side in (width, height))
        if target != (width, height):
            image = np.asarray(Image.fromarray(image).resize(target, Image.Resampling[self.interpolation.upper()]))
        left, top = ((side - self.size) // 2 for side in target)
        return image[top : top + self.size, left : left + self.size]


@dataclass
class ImageEncoder:
    """A network in evaluation mode. ``forward`` takes normalised (b, 3, h, w) to (b, d) or (b, regions, d)."""

    net: torch.nn.Module
    forward: Callable[[torch.Tensor], torch.Tensor]
    framing: Framing
    mean: tuple[float, ...]
    std: tuple[float, ...]
    device: torch.device

    def normalise(self, pixels: np.ndarray) -> torch.Tensor:
        """Return uint8 (b, size, size, 3) as the float32 (b, 3, size, size) that the network takes."""
        import torch

        x = torch.from_numpy(pixels).to(self.device).permute(0, 3, 1, 2).float()  # stays "channels last" in memory
        mean, std = (torch.tensor(values, device=self.device).view(3, 1, 1) for values in (self.mean, self.std))
        return x.sub_(255 * mean).div_(255 * std)

    def encode(self, pixels: np.ndarray) -> np.ndarray:
        """Return float32 features of uint8 images (b, size, size, 3)."""
        import torch

        with torch.inference_mode():
            return self.forward(self.normalise(pixels)).float().cpu().numpy()


def build_encoder(name: str, job: Job) -> tuple[ImageEncoder, dict[str, Any]]:
    """Return the network that ``job`` asks of the extractor "timm" or "torchvision", and the options in full."""
    device = torch_device(job.device)
    options = job.choose(name, **(_TIMM if name == "timm" else _TORCHVISION))
    if options["layout"] not in LAYOUTS:
        raise UsageError(f"layout {options['layout']!r} of {name!r} is not one of {', '.join(LAYOUTS)}")
    build = _timm_encoder if name == "timm" else _torchvision_encoder
    encoder = build(options, job, device)
    encoder.net.eval().to(device)
    return encoder, options


_TIMM = {"model": None, "weights": None, "config": None, "layout": "pooled", "crop": True, "size": None}


def _timm_encoder(options: dict[str, Any], job: Job, device: torch.device) -> ImageEncoder:
    """Build a timm model: ``model`` by name (with hub weights), or "local-dir:FOLDER", or ``config`` and ``weights``.

    The last two are assets in the form timm gives a folder: config.json and model.safetensors.
    """
    import timm
    from timm.data import resolve_data_config

    config_path, weights_path = _local_files(options, job)
    if weights_path is None:
        if options["model"] is None:
            raise UsageError("extractor 'timm' needs the option 'model', or 'config' and 'weights'")
        net = _from_hub(options["model"], lambda: timm.create_model(options["model"], pretrained=True, num_classes=0))
    else:
        config = {} if config_path is None else read_json(config_path)
        name = config.get("architecture", options["model"])
        if name is None or not timm.is_model(name):
            raise UsageError(f"{config_path or weights_path}: {name!r} is not an architecture that timm knows")
        net = timm.create_model(
            name,
            pretrained=False,
            num_classes=0,
            pretrained_cfg_overlay=config.get("pretrained_cfg", {}),
            **config.get("model_args", {}),
        )
        heads = net.pretrained_cfg.get("classifier") or ()
        heads = (heads,) if isinstance(heads, str) else heads
        set_weights(net, read_weights(weights_path), f"{weights_path} for {name}", heads)
    data = resolve_data_config(model=net)
    size = options["size"] or data["input_size"][-1]
    crop = data["crop_pct"] if options["crop"] and data["crop_mode"] == "center" else None
    forward = net if options["layout"] == "pooled" else _timm_grid(net)
    return ImageEncoder(net, forward, Framing(size, crop, data["interpolation"]), data["mean"], data["std"], device)


def _local_files(options: dict[str, Any], job: Job) -> tuple[Path | None, Path | None]:
    model = options["model"] or ""
    if model.startswith("local-dir:"):
        folder = Path(model.removeprefix("local-dir:"))
        paths = folder / "config.json", folder / "model.safetensors"
        for path in paths:
            if not path.is_file():
                raise UsageError(f"{folder}: not a folder of timm weights: it has no {path.name}")
        return paths
    config, weights = (None if options[key] is None else job.asset(options[key]) for key in ("config", "weights"))
    if config is not None and weights is None:
        raise UsageError("extractor 'timm' has the option 'config', but no 'weights' to go with it")
    return config, weights


def _timm_grid(net: torch.nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    def forward(x: torch.Tensor) -> torch.Tensor:
        features = net.forward_features(x)
        if features.ndim == 3:  # a transformer: its class and register tokens have no place in the image
            return features[:, getattr(net, "num_prefix_tokens", 0) :]
        return _regions(features, channels_last=features.shape[1] != net.num_features)

    return forward


_TORCHVISION = {"model": None, "weights": None, "node": None, "layout": "pooled", "crop": True, "size": 224}


def _torchvision_encoder(options: dict[str, Any], job: Job, device: torch.device) -> ImageEncoder:
    """Build a torchvision model up to ``node``, by default its last convolution; ``weights`` is an asset or its own."""
    import torchvision
    from torchvision.models.feature_extraction import create_feature_extractor

    name = options["model"]
    if name not in torchvision.models.list_models(module=torchvision.models):
        raise UsageError(f"{name!r} is not a classification network that torchvision knows")
    if options["weights"] is None:
        net = _from_hub(name, lambda: torchvision.models.get_model(name, weights="DEFAULT"))
    else:
        net = torchvision.models.get_model(name, weights=None)
    node = options["node"] or next((n for n in ("features", "layer4") if hasattr(net, n)), None)
    if node is None:
        raise UsageError(f"torchvision's {name!r} needs the option 'node': the layer whose output is the feature")
    whole = list(net.state_dict())
    try:
        net = create_feature_extractor(net.eval(), {node: "features"})
    except ValueError as error:
        raise UsageError(f"torchvision's {name!r} has no node {node!r}") from error
    if options["weights"] is not None:
        path = job.asset(options["weights"])
        used = set(net.state_dict())
        unused = [tensor for tensor in whole if tensor not in used]
        set_weights(net, read_weights(path), f"{path} for {name}", unused)

    def forward(x: torch.Tensor) -> torch.Tensor:
        features = net(x)["features"]
        if options["layout"] == "grid":
            return _regions(features)
        return features.flatten(2).mean(dim=2) if features.ndim == 4 else features.flatten(1)

    crop = 224 / 256 if options["crop"] else None
    return ImageEncoder(net, forward, Framing(options["size"], crop), **IMAGENET, device=device)


def _regions(features: torch.Tensor, channels_last: bool = False) -> torch.Tensor:
    """Return (b, h * w, d) of a feature map, row after row."""
    if features.ndim != 4:
        raise UsageError(f"the network's features have shape {tuple(features.shape[1:])}: no grid to take regions from")
    return features.flatten(1, 2) if channels_last else features.flatten(2).transpose(1, 2)


def _from_hub(name: str, load: Callable[[], Any]) -> Any:
    try:
        return load()
    except Exception as error:  # hubs fail in many ways: no network, no such name, a damaged download
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CmrkitError(f"the pretrained network {name!r} cannot be had: {reason}") from error


def torch_device(name: str) -> torch.device:
    """Return the device, for "auto" the fastest there is. Raises UsageError where there is none of that name."""
    import torch

    if name == "auto":
        found = [kind for kind, there in (("cuda", torch.cuda), ("mps", torch.backends.mps)) if there.is_available()]
        name = next(iter(found), "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"device {name!r} cannot be used here: {str(error).splitlines()[0]}") from error
    return device
