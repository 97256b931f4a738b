"""Kills the program again and again while a batch runs; afterwards each request is in the output once and billed once.

    GALERNE_TEST_BIN=… GALERNE_WORKER=… GALERNE_TEST_MODEL=… python tests/campaign/batch_kills.py [KILLS] [REQUESTS]

A start takes as long as the model takes to load; a kill comes at a moment drawn from a seed that is printed.
"""

import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request

PROGRAM = os.environ["GALERNE_TEST_BIN"]
MODEL = os.environ["GALERNE_TEST_MODEL"]
KILLS = int(sys.argv[1]) if len(sys.argv) > 1 else 10
REQUESTS = int(sys.argv[2]) if len(sys.argv) > 2 else 120


class Process:
    def __init__(self, folder, key=None):
        ready = folder / "ready.json"
        ready.unlink(missing_ok=True)
        command = [PROGRAM, "up", "--data", str(folder / "data"), "--listen", "127.0.0.1:0", "--ready-file", str(ready)]
        command += ["--model", "file://" + MODEL] if key is None else ["--no-model"]
        environment = dict(os.environ, XDG_CONFIG_HOME=str(folder / "config"), NO_COLOR="1")
        self.log = open(folder / "up.log", "a")
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, env=environment
        )
        deadline = time.monotonic() + 240
        while not ready.exists():
            assert self.process.poll() is None and time.monotonic() < deadline, f"see {self.log.name}"
            time.sleep(0.05)
        told = json.loads(ready.read_text())
        self.url, self.key = told["url"].rstrip("/"), key or told["api_key"]
        self.endpoint = told.get("endpoint")

    def call(self, method, path, body=None, media="application/json"):
        request = urllib.request.Request(self.url + path, data=body, method=method)
        request.add_header("Authorization", f"Bearer {self.key}")
        if body is not None:
            request.add_header("Content-Type", media)
        with urllib.request.urlopen(request, timeout=60) as reply:
            return reply.read()

    def json(self, method, path, body=None):
        return json.loads(self.call(method, path, json.dumps(body).encode() if body is not None else None))

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self):
        self.process.send_signal(signal.SIGINT)
        assert self.process.wait(timeout=90) == 0


def upload(process, name, content):
    boundary = "campaign"
    parts = f'--{boundary}\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
    parts += f'--{boundary}\r\ncontent-disposition: form-data; name="file"; filename="{name}"\r\n\r\n'
    body = parts.encode() + content + f"\r\n--{boundary}--\r\n".encode()
    return json.loads(process.call("POST", "/v1/files", body, f"multipart/form-data; boundary={boundary}"))["id"]


def usage(process):
    records, cursor = [], ""
    while True:
        page = process.json("GET", "/api/v1/usage?limit=500" + cursor)
        records += page["items"]
        if not page.get("next_cursor"):
            return records
        cursor = "&cursor=" + page["next_cursor"]


def main():
    seed = int(os.environ.get("GALERNE_TEST_SEED", random.randrange(10**9)))
    print("seed", seed)
    draw = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="galerne-batch-kills-") as name:
        folder = pathlib.Path(name)
        process = Process(folder)
        key, model = process.key, process.endpoint
        lines = []
        for number in range(REQUESTS):
            body = {"model": model, "max_tokens": 4, "messages": [{"role": "user", "content": f"Say {number}."}]}
            line = {"custom_id": f"r{number}", "method": "POST", "url": "/v1/chat/completions", "body": body}
            lines.append(json.dumps(line))
        file = upload(process, "requests.jsonl", "\n".join(lines).encode())
        ask = {"input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
        batch = process.json("POST", "/v1/batches", ask)["id"]
        killed = 0
        while killed < KILLS:
            time.sleep(draw.uniform(0.0, 2.5))
            status = process.json("GET", f"/v1/batches/{batch}")
            if status["status"] == "completed":
                break
            process.kill()
            killed += 1
            process = Process(folder, key)
        deadline = time.monotonic() + 600
        while (status := process.json("GET", f"/v1/batches/{batch}"))["status"] != "completed":
            assert status["status"] in ("validating", "in_progress", "finalizing"), status
            assert time.monotonic() < deadline, status
            time.sleep(0.2)
        assert status["request_counts"] == {"total": REQUESTS, "completed": REQUESTS, "failed": 0}, status
        output = process.call("GET", f"/v1/files/{status['output_file_id']}/content").decode().splitlines()
        answers = [json.loads(line) for line in output]
        ids = [answer["custom_id"] for answer in answers]
        assert sorted(ids) == sorted(f"r{n}" for n in range(REQUESTS)), "each request once in the output"
        deadline = time.monotonic() + 30
        wanted = {answer["response"]["request_id"] for answer in answers}
        while True:
            listed = usage(process)
            records = {record["request_id"]: record for record in listed}
            assert len(records) == len(listed), "a request has two records"
            if wanted <= records.keys() or time.monotonic() > deadline:
                break
            time.sleep(0.3)
        assert wanted <= records.keys(), "each answer is in the ledger"
        ours = {id: record for id, record in records.items() if record.get("batch", {}).get("batch_id") == batch}
        charged = {id for id, record in ours.items() if any(record["quantities"].values())}
        assert charged == wanted, f"billed without an answer: {charged - wanted}; an answer that is free: {wanted - charged}"
        assert all(ours[id]["batch"]["price_percent"] == 50 for id in ours), "half the price"
        for answer in answers:
            told, kept = answer["response"]["body"]["usage"], records[answer["response"]["request_id"]]["quantities"]
            assert told["completion_tokens"] == kept["completion_tokens"], answer
        check = subprocess.run(
            [PROGRAM, "ledger", "check"],
            env=dict(os.environ, GALERNE_URL=process.url, GALERNE_API_KEY=key, XDG_CONFIG_HOME=str(folder / "config")),
            capture_output=True, text=True, check=False,
        )
        assert check.returncode == 0, check.stdout + check.stderr
        again = len(ours) - len(charged)
        print(f"{killed} kills, {REQUESTS} requests: each answered once and billed once; {again} were made again, for nothing")
        process.stop()


main()
