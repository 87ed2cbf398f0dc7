"""Extractors by name: known to manifests, loaded only when asked for."""

import subprocess
import sys

import pytest

from cmrkit.features import MODULES, source
from cmrkit.recipe.library import dataset_keys, load_manifest

FILES = ("config", "weights", "vectors", "all", "train", "val", "query", "database")


@pytest.mark.parametrize("key", dataset_keys())
def test_what_a_manifest_asks_of_extractors_is_there(key):
    manifest = load_manifest(key)
    for features in (manifest.features.image, manifest.features.text):
        for name, feature in features.items():
            if feature.extractor is None:
                assert not feature.options, name
                continue
            assert feature.extractor in MODULES, name
            named = {v for k, v in feature.options.items() if k.removesuffix("-captions") in FILES}
            assert named <= set(feature.assets), name


@pytest.mark.parametrize("name", MODULES)
def test_every_extractor_has_a_module(name):
    assert source(name).is_file()


def test_naming_and_importing_extractors_loads_no_network_library():
    code = (
        "import sys, importlib; from cmrkit.features import MODULES;"
        "[importlib.import_module(f'cmrkit.features.{m}') for m in set(MODULES.values())];"
        "print([m for m in ('torch', 'timm', 'transformers', 'sklearn', 'scipy', 'h5py') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
