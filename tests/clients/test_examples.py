"""The programs in examples/, as a reader would run them."""

import os
import pathlib
import subprocess
import sys

import pytest

EXAMPLES = pathlib.Path(__file__).resolve().parents[2] / "examples"


@pytest.mark.parametrize("name", sorted(path.name for path in EXAMPLES.glob("*.py")))
def test_an_example_runs_unchanged(site, name):
    environment = dict(os.environ, GALERNE_URL=site.url, GALERNE_API_KEY=site.api_key, GALERNE_MODEL=site.endpoint)
    run = subprocess.run(
        [sys.executable, str(EXAMPLES / name)], capture_output=True, text=True, timeout=120, env=environment, check=False
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip()
    assert " J, " in run.stderr and "g CO2e" in run.stderr
