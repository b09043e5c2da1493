import importlib.util
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"


def generator():
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["settings.md", "summary.md", "protocol.md", "database.md", "exclusions.md"])
def test_reference_pages_say_what_the_code_says(name):
    written = (DOCS / "reference" / name).read_text()
    assert written == generator().pages()[name], "run: make reference"
