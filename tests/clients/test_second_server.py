"""Another server behind the same endpoint words: llama-cpp-python's, which is not ours and answers as it likes.

It is installed without its C++ and loads the engine's own libllama, so nothing is compiled a second time.
"""

import os
import pathlib
import socket
import subprocess
import time

import httpx2
import openai
import pytest
from conftest import MODEL, WORKER
from test_neighbours import OLDER

START_SECONDS = 120


@pytest.fixture(scope="module")
def second(site, tmp_path_factory):
    """Its endpoint's name, once it answers through Galerne."""
    folder = tmp_path_factory.mktemp("second")
    for library in pathlib.Path(WORKER).resolve().parent.glob("lib*.so*"):
        for name in {library.name, library.name.split(".so")[0] + ".so"}:
            (folder / name).symlink_to(library)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = dict(os.environ, LLAMA_CPP_LIB_PATH=str(folder), LD_LIBRARY_PATH=str(folder))
    command = [OLDER, "-m", "llama_cpp.server", "--model", MODEL, "--port", str(port), "--n_ctx", "2048"]
    with open(folder / "server.log", "w+") as log:
        server = subprocess.Popen(command + ["--n_threads", "1"], stdout=log, stderr=log, env=environment)
        try:
            wait_for(f"http://127.0.0.1:{port}/v1/models", server, log)
            made = site.cli(
                "endpoint", "register-external", "second", "--at", f"http://127.0.0.1:{port}",
                "--upstream-model", MODEL, "--context", "2048", "--price-prompt", "0.10", "--price-completion", "0.40",
            )
            assert made.returncode == 0, made.stdout + made.stderr
            yield "second"
        finally:
            server.terminate()
            server.wait(timeout=30)


def wait_for(url, server, log):
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            if httpx2.get(url, timeout=2, trust_env=False).status_code == 200:
                return
        except httpx2.TransportError:
            pass
        if server.poll() is not None or time.monotonic() > deadline:
            log.seek(0)
            pytest.fail(f"the second server did not start:\n{log.read()[-3000:]}")
        time.sleep(0.2)


def ask(client, name, question, **more):
    """The endpoint takes requests once its first probe has passed."""
    deadline = time.monotonic() + 30
    while True:
        try:
            return client.chat.completions.create(model=name, messages=question, max_tokens=8, **more)
        except openai.InternalServerError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def test_its_answer_has_everything_that_openais_clients_read(client, second, question):
    answer = ask(client, second, question)
    assert answer.choices[0].message.content.strip()
    assert 0 < answer.usage.completion_tokens <= 8
    fields = answer.choices[0].model_fields_set | answer.choices[0].message.model_fields_set
    assert {"logprobs", "refusal"} <= fields, "null, and not absent"


def test_its_stream_which_tells_no_usage_is_metered_and_told_all_the_same(client, site, second, question):
    chunks = list(ask(client, second, question, stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices).strip()
    # It reports none, also where it is asked to: what was counted is told.
    told = [chunk.usage for chunk in chunks if chunk.usage]
    assert len(told) == 1 and not chunks[-1].choices, chunks[-1]
    # It has no `/tokenize` to ask for those of the prompt.
    assert told[0].completion_tokens > 0 and told[0].total_tokens >= told[0].completion_tokens
    deadline = time.monotonic() + 10
    while True:
        used = site.api("GET", "/costs?group_by=endpoint")["items"]
        if any(row["name"] == second and row["quantities"]["completion_tokens"] > 0 for row in used):
            return
        assert time.monotonic() < deadline, used
        time.sleep(0.2)


def test_an_unknown_parameter_is_refused_before_it_can_drop_it(client, second, question):
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, second, question, extra_body={"temprature": 0})
    assert "temperature" in str(caught.value), "the nearest name is in the message"
