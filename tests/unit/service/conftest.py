"""A configuration on disk: its TOML file, its secrets, and the faults it has."""

from collections.abc import Callable
from pathlib import Path

import pytest

from agent.errors import ConfigInvalid
from agent.service.config.model import Config, load_config

Load = Callable[..., Config]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Load a configuration from the text of its file; None: the default file, which is absent."""

    def load(text: str | bytes | None = None, *, cmdline="", credentials=None) -> Config:
        path = None
        if text is not None:
            path = tmp_path / "agent.toml"
            path.write_bytes(text if isinstance(text, bytes) else text.encode())
            path.chmod(0o644)
        return load_config(
            None if path is None else str(path),
            cmdline=cmdline,
            credentials=credentials,
            default_path=tmp_path / "absent.toml",
        )

    return load


@pytest.fixture
def faults(load: Load) -> Callable[..., list[tuple[str, str]]]:
    """The faults of a configuration: key and message of each."""

    def faults(*arguments, **options) -> list[tuple[str, str]]:
        with pytest.raises(ConfigInvalid) as caught:
            load(*arguments, **options)
        return [(fault.path, fault.message) for fault in caught.value.faults]

    return faults


@pytest.fixture
def secret_file(tmp_path: Path) -> Callable[..., Path]:
    """Make a file with a secret."""

    def make(name: str, content: str | bytes, mode: int = 0o600) -> Path:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        path.chmod(mode)
        return path

    return make
