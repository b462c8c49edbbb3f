"""The documents say of the settings what the code does."""

import re
import tomllib

from proxy.config.loading import load
from tests.documents import generated


def test_the_example_file_shows_every_setting() -> None:
    """The example file is what follows from the settings; `python -m tests.documents.generated` writes it anew."""
    assert generated.EXAMPLE.read_text() == generated.example()


def test_the_table_lists_every_setting() -> None:
    """The table is what follows from the settings; `python -m tests.documents.generated` writes it anew."""
    assert generated.CONFIGURATION.read_text() == generated.configuration()


def test_the_example_file_is_valid() -> None:
    """The example file can be used as it stands."""
    configuration = load(generated.EXAMPLE, {}, {})
    assert configuration.settings.upstream.url == "https://ims.eu-de.example.com"


def test_the_defaults_in_the_example_are_the_defaults() -> None:
    """Every default that the example shows is the one that holds when nothing is said."""
    text = re.sub(r"(?m)^# (?=[a-z_]+ = .*$)(?!.*# not set$)", "", generated.EXAMPLE.read_text())
    shown = tomllib.loads(text)
    silent = load(generated.EXAMPLE, {}, {}).settings.model_dump(mode="json")
    for section, table in shown.items():
        for name, value in table.items():
            assert value == silent[section][name], f"{section}.{name}"
