"""The texts that are made from the table of options are in step with it."""

import re
import tomllib
from pathlib import Path

from agent.service.config.options import DEFAULTS, GROUP_TABLE, SECTION_HELP, SECTIONS, TABLE
from agent.service.config.sources import Settings, take_document
from agent.service.config.text import example_toml, plain, reference, toml

ROOT = Path(__file__).parents[4]
REMAKE = "see the command in docs/configuration.md, under Reference"


def uncommented(text):
    return re.sub(r"^#(?=\S)", "", text, flags=re.MULTILINE)


def test_the_example_file_is_in_step():
    assert (ROOT / "packaging/agent.toml").read_text() == example_toml(), REMAKE


def test_the_example_file_changes_nothing_as_it_is():
    assert tomllib.loads(example_toml()) == {}


def test_every_option_of_the_example_file_can_be_uncommented():
    settings = Settings()
    take_document(settings, tomllib.loads(uncommented(example_toml())), "FILE")
    assert settings.faults == []
    assert settings.named == {option.key for option in TABLE}
    assert list(settings.groups) == [1]
    given = {key: settings.values[key] for key, default in DEFAULTS.items() if default is not None}
    assert given == {key: default for key, default in DEFAULTS.items() if default is not None}


def test_the_reference_in_the_docs_is_in_step():
    text = (ROOT / "docs/configuration.md").read_text()
    assert reference() in text, REMAKE
    assert all(f"`{option.credential}`" in text for option in TABLE if option.secret)


def test_every_table_and_every_option_is_explained():
    assert {"disk_group"} | SECTIONS == set(SECTION_HELP)
    for option in (*TABLE, *GROUP_TABLE):
        assert option.help.endswith("."), option.key
        assert (option.default is None) != (option.example is None), option.key
        assert "|" not in option.help, "it would end a cell of the reference"


def test_defaults_are_values_that_the_option_itself_would_take():
    for option in TABLE:
        if option.default is not None:
            assert option.kind.read(plain(option, option.default)) == option.default


def test_values_are_written_as_toml_reads_them():
    for value in (True, False, 0.5, 60.0, 7, 'a"b\\c\té', ["a", 'b"'], []):
        assert tomllib.loads(f"a = {toml(value)}")["a"] == value
