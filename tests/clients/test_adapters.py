"""An adapter, attached to a worker while it serves, asked for through Galerne as a model of its own."""

import json
import struct
import subprocess

import httpx2
import pytest
from conftest import MODEL, WORKER
from test_second_server import ask

LAYERS, EMBEDDING, FEED_FORWARD = 30, 576, 1536


def write_adapter(path):
    """Rank 1 on one matrix of every layer, with small numbers that are the same every time."""

    def text(value):
        return struct.pack("<Q", len(value)) + value.encode()

    head, data, state = b"GGUF" + struct.pack("<IQQ", 3, 2 * LAYERS, 3), b"", 1
    for key, value in [("general.type", "adapter"), ("general.architecture", "llama"), ("adapter.type", "lora")]:
        head += text(key) + struct.pack("<I", 8) + text(value)
    for layer in range(LAYERS):
        for half, sizes in (("a", (FEED_FORWARD, 1)), ("b", (1, EMBEDDING))):
            head += text(f"blk.{layer}.ffn_down.weight.lora_{half}")
            head += struct.pack("<IQQIQ", 2, *sizes, 0, len(data))
            for _ in range(sizes[0] * sizes[1]):
                state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
                data += struct.pack("<f", 0.3 * ((state >> 48) / 32768 - 1))
    path.write_bytes(head + bytes(-len(head) % 32) + data)


@pytest.fixture
def worker(tmp_path):
    """The URL of a worker that takes adapters of a folder, in which there is one."""
    write_adapter(tmp_path / "wind.gguf")
    command = [WORKER, "serve", "--model", MODEL, "--name", "base", "--context", "512", "--sequences", "2"]
    command += ["--threads", "1", "--adapters", str(tmp_path)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        yield "http://" + json.loads(process.stdout.readline())["addr"]
    finally:
        process.stdin.close()
        assert process.wait(timeout=60) == 0


def test_it_is_a_model_like_any_other_while_it_is_attached(site, client, worker, question):
    def manage(verb, **body):
        reply = httpx2.post(f"{worker}/v1/{verb}_lora_adapter", json=body, timeout=60, trust_env=False)
        assert reply.status_code == 200, reply.text

    manage("load", lora_name="wind", lora_path="wind.gguf", scale=2.0)
    for name in ("base", "wind"):
        made = site.cli(
            "endpoint", "register-external", name, "--at", worker, "--upstream-model", name, "--context", "512",
            "--price-prompt", "0.10", "--price-completion", "0.40",
        )
        assert made.returncode == 0, made.stdout + made.stderr
    answers = {name: ask(client, name, question, temperature=0) for name in ("base", "wind")}
    assert [answer.model for answer in answers.values()] == ["base", "wind"]
    said = [answer.choices[0].message.content for answer in answers.values()]
    assert said[0] != said[1]
    assert answers["base"].system_fingerprint != answers["wind"].system_fingerprint
    manage("unload", lora_name="wind")
    again = ask(client, "base", question, temperature=0)
    assert again.choices[0].message.content == said[0], "its neighbour's leaving changes nothing"
