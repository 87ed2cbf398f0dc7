"""Pretrained networks by name and from local files."""

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")

from safetensors.torch import load_file, save_file  # noqa: E402

from cmrkit.data.paired import PairedData  # noqa: E402
from cmrkit.errors import CmrkitError, UsageError  # noqa: E402
from cmrkit.features import extract  # noqa: E402
from cmrkit.features.base import Job  # noqa: E402
from cmrkit.features.encoders import Framing, build_encoder  # noqa: E402

NAME = "mobilenetv3_small_050"
IMAGES = np.random.default_rng(0).integers(0, 256, (5, 40, 40, 3), dtype=np.uint8)
DATA = PairedData("toy", np.arange(5), {"query": np.arange(5)}, image_items=IMAGES)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Random weights as timm keeps them."""
    path = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    net = timm.create_model(NAME, num_classes=7)
    save_file(net.state_dict(), path / "model.safetensors")
    cfg = {"input_size": [3, 32, 32], "mean": [0.1, 0.2, 0.3], "std": [0.5] * 3, "interpolation": "bilinear"}
    cfg |= {"crop_pct": 0.8, "crop_mode": "center", "classifier": "classifier", "num_classes": 7}
    config = {"architecture": NAME, "num_classes": 7, "pretrained_cfg": cfg}
    (path / "config.json").write_text(json.dumps(config))
    return path


def assets(folder):
    return {"config": folder / "config.json", "weights": folder / "model.safetensors"}


def job(folder, **options):
    return Job({"config": "config", "weights": "weights", **options}, assets(folder))


def expected(folder, layout):
    net = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=0).eval()
    x = torch.from_numpy(IMAGES[:, 4:36, 4:36]).permute(0, 3, 1, 2).float() / 255
    x = (x - torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1)) / 0.5
    with torch.no_grad():
        return net(x).numpy() if layout == "pooled" else net.forward_features(x).flatten(2).transpose(1, 2).numpy()


def test_pooled_features_are_those_of_timm_on_the_middle_of_the_image(folder):
    found = extract("timm", DATA, job(folder))
    assert (found.kind, found.matrix.dtype) == ("vectors", np.float32)
    np.testing.assert_allclose(found.matrix, expected(folder, "pooled"), atol=1e-5)


def test_a_grid_is_the_feature_map_row_after_row(folder):
    found = extract("timm", DATA, job(folder, layout="grid", size=64, crop=False))
    assert (found.kind, found.matrix.dtype, found.matrix.shape[1]) == ("regions", np.float16, 4)
    whole = extract("timm", DATA, job(folder, layout="grid"))
    np.testing.assert_allclose(whole.matrix, expected(folder, "grid"), atol=1e-2)


def test_a_folder_is_named_directly(folder):
    found = extract("timm", DATA, Job({"model": f"local-dir:{folder}"}))
    np.testing.assert_allclose(found.matrix, expected(folder, "pooled"), atol=1e-5)
    with pytest.raises(UsageError, match=r"not a folder of timm weights: it has no config\.json"):
        extract("timm", DATA, Job({"model": "local-dir:/nowhere"}))


def test_a_transformers_class_token_is_no_region():
    weights = timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=0)
    from cmrkit.features.encoders import _timm_grid

    with torch.no_grad():
        assert _timm_grid(weights.eval())(torch.zeros(2, 3, 32, 32)).shape == (2, 4, 192)


def test_maps_with_channels_last_become_regions_too():
    from cmrkit.features.encoders import _timm_grid

    net = timm.create_model("swin_tiny_patch4_window7_224", img_size=64, window_size=2, num_classes=0).eval()
    with torch.no_grad():
        x = torch.rand(1, 3, 64, 64)
        regions = _timm_grid(net)(x)
        assert regions.shape == (1, 4, 768)
        np.testing.assert_allclose(regions.mean(dim=1), net(x), atol=1e-5)


# Wrong weights ---------------------------------------------------------------------------------------------


def test_weights_of_another_network_are_refused_at_the_first_tensors_that_differ(folder, tmp_path):
    other = timm.create_model("squeezenet1_0", num_classes=0) if timm.is_model("squeezenet1_0") else None
    other = other or timm.create_model("resnet10t", num_classes=0)
    save_file(other.state_dict(), tmp_path / "other.safetensors")
    wrong = Job({"config": "config", "weights": "w"}, {**assets(folder), "w": tmp_path / "other.safetensors"})
    with pytest.raises(
        CmrkitError, match=rf"for {NAME}: .*conv_stem\.weight is missing \(\d+ of \d+ are\); .* is not of"
    ):
        extract("timm", DATA, wrong)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda w: w.pop("conv_stem.weight"), r"conv_stem\.weight is missing \(1 of \d+ are\)"),
        (lambda w: w.update({"conv_stem.bias": torch.zeros(3)}), r"conv_stem\.bias is not of this network \(1 of"),
        (
            lambda w: w.update({"conv_stem.weight": torch.zeros(3)}),
            r"conv_stem\.weight is \[3\] instead of \[16, 3, 3, 3\]",
        ),
    ],
)
def test_a_tensor_too_few_too_many_or_of_another_shape_is_named(folder, tmp_path, change, reason):
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, tmp_path / "w.safetensors")
    wrong = Job({"config": "config", "weights": "w"}, {**assets(folder), "w": tmp_path / "w.safetensors"})
    with pytest.raises(CmrkitError, match=reason):
        extract("timm", DATA, wrong)


def test_files_that_hold_no_weights_are_named(folder, tmp_path):
    (tmp_path / "w.safetensors").write_bytes(b"nothing")
    (tmp_path / "w.pth").write_bytes(b"nothing")
    for name in ("w.safetensors", "w.pth"):
        wrong = Job({"config": "config", "weights": "w"}, {**assets(folder), "w": tmp_path / name})
        with pytest.raises(CmrkitError, match=f"{name}: cannot be read as weights"):
            extract("timm", DATA, wrong)


def test_pytorch_files_serve_too_unless_they_would_run_code(folder, tmp_path):
    torch.save({"state_dict": load_file(folder / "model.safetensors")}, tmp_path / "w.pth")
    good = Job({"config": "config", "weights": "w"}, {**assets(folder), "w": tmp_path / "w.pth"})
    np.testing.assert_allclose(extract("timm", DATA, good).matrix, expected(folder, "pooled"), atol=1e-5)
    torch.save(PairedData("x", np.arange(2), {}), tmp_path / "w.pth")
    with pytest.raises(CmrkitError, match=r"w\.pth: cannot be read as weights"):
        extract("timm", DATA, good)


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("timm", {}, "needs the option 'model'"),
        ("timm", {"layout": "flat"}, "layout 'flat' of 'timm' is not one of pooled, grid"),
        ("timm", {"weights": "w"}, "needs the asset 'w', but its manifest lists none"),
        ("torchvision", {"model": "net9"}, "'net9' is not a classification network"),
        ("torchvision", {"depth": 3}, "has no option 'depth'"),
    ],
)
def test_options_that_name_no_network_are_explained(name, options, reason):
    with pytest.raises(UsageError, match=reason):
        extract(name, DATA, Job(options))


def test_a_device_that_is_not_there_is_an_error(folder):
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(UsageError, match="device 'cuda:0' cannot be used here"):
        build_encoder("timm", Job({}, device="cuda:0"))


def test_the_device_is_found_where_none_is_named(folder):
    found = extract("timm", DATA, Job({"model": f"local-dir:{folder}"}, device="auto"))
    np.testing.assert_allclose(found.matrix, expected(folder, "pooled"), atol=1e-4)


# torchvision -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def squeezenet(tmp_path_factory):
    torchvision = pytest.importorskip("torchvision")
    path = tmp_path_factory.mktemp("squeezenet") / "weights.safetensors"
    torch.manual_seed(0)
    net = torchvision.models.squeezenet1_1(weights=None).eval()
    trunk = {k: v.half() if k.endswith("weight") else v for k, v in net.state_dict().items() if "features" in k}
    save_file(trunk, path)
    net.load_state_dict({k: v.float() for k, v in trunk.items()}, strict=False)
    return path, net


def test_a_torchvision_trunk_gives_its_feature_map_and_the_mean_of_it(squeezenet):
    path, net = squeezenet
    options = {"model": "squeezenet1_1", "weights": "w", "size": 40, "crop": False}
    grid = extract("torchvision", DATA, Job({**options, "layout": "grid"}, {"w": path}))
    pooled = extract("torchvision", DATA, Job(options, {"w": path}))
    x = torch.from_numpy(IMAGES).permute(0, 3, 1, 2).float() / 255
    x = (x - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    with torch.no_grad():
        map_ = net.features(x)
    np.testing.assert_allclose(pooled.matrix, map_.mean(dim=(2, 3)), atol=1e-5)
    np.testing.assert_allclose(grid.matrix, map_.flatten(2).transpose(1, 2), atol=1e-2)


def test_a_node_names_another_layer(squeezenet):
    path, _ = squeezenet
    options = {"model": "squeezenet1_1", "weights": "w", "size": 40, "crop": False}
    assert extract("torchvision", DATA, Job({**options, "node": "features.2"}, {"w": path})).matrix.shape == (5, 64)
    with pytest.raises(UsageError, match="'squeezenet1_1' has no node 'fc7'"):
        extract("torchvision", DATA, Job({**options, "node": "fc7"}, {"w": path}))


# Real weights ----------------------------------------------------------------------------------------------


def test_the_real_encoders_tell_photographs_apart(mirror):
    from cmrkit.data.images import find_images, member_names

    archive = mirror / "flickr8k" / "flickr8k-images-224.zip"
    names = [name for name in member_names(archive) if name.endswith(".jpg")][:4]
    images = find_images(names, {"a": archive})
    data = PairedData("f", np.arange(4), {"query": np.arange(4)}, image_items=images)
    paths = {"config": mirror / "weights/mobilenetv2_100.coral_qat_in1k/config.json"}
    paths["weights"] = paths["config"].with_name("model.safetensors")
    paths["sq"] = mirror / "weights/squeezenet1_1.keras_notop/squeezenet1_1_features.fp16.safetensors"
    for name, options, shape in [
        ("timm", {"config": "config", "weights": "weights"}, (4, 49, 1280)),
        ("torchvision", {"model": "squeezenet1_1", "weights": "sq"}, (4, 169, 512)),
    ]:
        pooled = extract(name, data, Job({**options, "crop": False}, paths)).matrix
        grid = extract(name, data, Job({**options, "crop": False, "layout": "grid"}, paths)).matrix
        assert grid.shape == shape
        # Half precision bounds each of the averaged numbers.
        np.testing.assert_allclose(grid.astype(np.float32).mean(axis=1), pooled, rtol=1e-3, atol=1e-3)
        unit = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
        assert (unit @ unit.T)[np.triu_indices(4, 1)].max() < 0.95


# Framing ---------------------------------------------------------------------------------------------------


def test_an_image_of_the_right_size_is_left_alone():
    np.testing.assert_array_equal(Framing(40)(IMAGES[0]), IMAGES[0])


@pytest.mark.parametrize("shape", [(30, 90), (90, 30), (5, 5), (224, 223)])
@pytest.mark.parametrize("crop", [None, 1.0, 0.875])
def test_any_image_comes_to_the_wanted_size(shape, crop):
    assert Framing(16, crop)(np.zeros((*shape, 3), np.uint8)).shape == (16, 16, 3)


def test_the_crop_is_the_middle_with_its_proportions_kept():
    image = np.zeros((20, 60, 3), np.uint8)
    image[:, 20:40] = 255
    assert (Framing(10, 1.0)(image)[:, 1:-1] == 255).all()
    assert (Framing(10)(image)[:, :2] == 0).all()
