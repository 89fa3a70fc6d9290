"""Helpers of the format tests that are more than a few lines: modules, given as fixtures."""

import importlib.util
import sys
from pathlib import Path

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """No lines are counted here: that takes most of the time of decoders again (docs/testing.md, Coverage)."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker("no_cover")


@pytest.fixture(scope="session")
def qcow2():
    """The builder of hand-made qcow2 images and the driver that applies a decoder's extents: `qcow2_builder.py`."""
    spec = importlib.util.spec_from_file_location(
        "qcow2_builder", Path(__file__).with_name("qcow2_builder.py")
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module
