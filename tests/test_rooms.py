"""Facts about the house itself."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_reading_files_into_beats_imports_neither_torch_nor_flower():
    code = (
        "import sys, client.data.ingest, client.data.cohort, client.database.session, simulation.run;"
        "print(sorted({'torch', 'flwr'} & set(sys.modules)))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


def test_the_code_never_reads_a_pickle():
    rooms = ("common", "client", "server", "simulation")
    for path in (path for room in rooms for path in (ROOT / room).rglob("*.py")):
        text = path.read_text()
        assert "torch.load" not in text, path
        assert "import pickle" not in text, path
