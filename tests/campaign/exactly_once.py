#!/usr/bin/env python3
"""Exactly-once campaign: mixed requests against a real Galerne while worker and server are killed (SIGKILL).

Shows: every answer that a client received whole stands in the ledger exactly once with the same tokens,
and `galerne ledger check` closes. Only the standard library is used.

    exactly_once.py --bin target/release/galerne --requests 10000 --clients 8 --kills 12
"""
import argparse
import csv
import http.client
import io
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from urllib.parse import urlsplit


class Site:
    """One Galerne on a data directory of its own, restarted after each kill."""

    def __init__(self, binary, data, model, log):
        self.binary, self.data, self.model, self.log = binary, data, model, log
        self.ready_file = os.path.join(data, "ready.json")
        self.env = dict(os.environ, XDG_CONFIG_HOME=os.path.join(data, "config"), NO_COLOR="1")
        self.port = None
        self.process = None
        self.up = threading.Event()

    def start(self):
        if os.path.exists(self.ready_file):
            os.unlink(self.ready_file)
        listen = f"127.0.0.1:{self.port or 0}"
        command = [self.binary, "up", "--data", os.path.join(self.data, "data"), "--listen", listen,
                   "--ready-file", self.ready_file]
        if self.model:
            command += ["--model", self.model]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, env=self.env)
        deadline = time.monotonic() + 300
        while not os.path.exists(self.ready_file):
            if self.process.poll() is not None:
                self.log.seek(0)
                print(self.log.read()[-4000:], file=sys.stderr)
                raise SystemExit(f"galerne up ended with {self.process.returncode}; its last words are above")
            if time.monotonic() > deadline:
                raise SystemExit("galerne up was not ready within 300 s")
            time.sleep(0.05)
        with open(self.ready_file) as file:
            self.ready = json.load(file)
        self.port = urlsplit(self.ready["url"]).port
        self.up.set()

    def kill_server(self):
        self.up.clear()
        self.process.kill()
        self.process.wait()

    def kill_worker(self):
        pids = subprocess.run(["pgrep", "-P", str(self.process.pid)], capture_output=True, text=True).stdout.split()
        workers = [pid for pid in pids if "galerne-worker" in open(f"/proc/{pid}/cmdline").read()]
        for pid in workers:
            os.kill(int(pid), signal.SIGKILL)
        return len(workers)

    def stop(self):
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(timeout=60)

    def cli(self, *arguments):
        run = subprocess.run([self.binary, *arguments], capture_output=True, text=True, timeout=120,
                             env=dict(self.env, GALERNE_URL=self.ready["url"], GALERNE_API_KEY=self.ready["api_key"]))
        return run.returncode, run.stdout, run.stderr


WORDS = "wind rack token ledger euro joule gram node lease plan".split()


def body_of(kind, rng, model):
    prompt = " ".join(rng.choice(WORDS) for _ in range(rng.randint(1, 12)))
    if kind in ("chat", "stream", "leave"):
        body = {"model": model, "messages": [{"role": "user", "content": prompt}],
                "max_tokens": rng.randint(1, 6), "temperature": rng.choice([0, 0.7])}
        if kind != "chat":
            body["stream"] = True
            body["stream_options"] = {"include_usage": True}
        return "/v1/chat/completions", body
    if kind == "completion":
        return "/v1/completions", {"model": model, "prompt": prompt, "max_tokens": rng.randint(1, 6)}
    if kind == "unknown":
        return "/v1/chat/completions", {"model": "no-such-model", "messages": [{"role": "user", "content": "x"}]}
    return "/v1/chat/completions", {"model": model, "messages": [{"role": "user", "content": "x"}], "max_tokens": -5}


def one_request(site, rng, kind):
    """Returns (outcome, request id, usage or None). Raises OSError kinds when the server is away."""
    path, body = body_of(kind, rng, site.ready["endpoint"])
    connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=120)
    try:
        connection.request("POST", path, json.dumps(body),
                           {"Authorization": "Bearer " + site.ready["api_key"], "Content-Type": "application/json"})
        reply = connection.getresponse()
        request_id = reply.headers.get("x-request-id")
        if kind == "leave" and reply.status == 200:
            reply.read(1)
            return "left", request_id, None
        data = reply.read()
    finally:
        connection.close()
    if reply.status != 200:
        return f"http {reply.status}", request_id, None
    if kind != "stream":
        return "whole", request_id, json.loads(data)["usage"]
    lines = [line[6:] for line in data.decode().split("\n") if line.startswith("data: ")]
    if not lines or lines[-1] != "[DONE]":
        return "cut", request_id, None
    usage = [chunk["usage"] for chunk in map(json.loads, lines[:-1]) if chunk.get("usage")]
    return ("whole", request_id, usage[-1]) if usage else ("no usage", request_id, None)


def client(doors, seed, quota, answers, counts, lock, pause=1):
    """Asks one of `doors`, those that are up first, until the quota is used; waits `pause` seconds after a 503."""
    rng = random.Random(seed)
    while True:
        with lock:
            if quota[0] <= 0:
                return
            quota[0] -= 1
        kind = rng.choices(["chat", "stream", "completion", "leave", "unknown", "bad"], [5, 4, 2, 1, 0.5, 0.5])[0]
        door = doors[0] if len(doors) == 1 else rng.choice([door for door in doors if door.up.is_set()] or doors)
        door.up.wait()
        try:
            outcome, request_id, usage = one_request(door, rng, kind)
        except (OSError, http.client.HTTPException, ValueError):
            outcome, request_id, usage = "connection lost", None, None
            time.sleep(0.05)
        if outcome == "http 503":
            # As clients do: a replica that was killed has a pause before its next start.
            time.sleep(pause)
        with lock:
            counts[outcome] = counts.get(outcome, 0) + 1
            if usage is not None:
                answers.append((request_id, usage["prompt_tokens"], usage["completion_tokens"]))


def killer(site, kills, seed, quota, total, done):
    """Kills at even distances of progress: two workers for each server."""
    rng = random.Random(seed)
    for number in range(kills):
        mark = total - total * (number + 1) / (kills + 1)
        while quota[0] > mark:
            time.sleep(0.01)
        time.sleep(rng.random() * 0.2)
        if number % 3 == 2:
            site.kill_server()
            site.start()
            done["server"] += 1
        else:
            done["worker"] += site.kill_worker()


def verify(site, answers):
    failures = []
    code, out, err = site.cli("ledger", "check", "--output", "json")
    if code != 0:
        failures.append(f"ledger check ended with {code}: {out} {err}")
    code, out, err = site.cli("ledger", "export", "--format", "csv")
    if code != 0:
        return failures + [f"ledger export ended with {code}: {err}"]
    rows = {}
    for row in csv.DictReader(io.StringIO(out)):
        rows.setdefault(row["request_id"], []).append(row)
    for request_id, prompt, completion in answers:
        found = rows.get(request_id, [])
        if len(found) != 1:
            failures.append(f"{request_id} stands {len(found)} times in the ledger")
            continue
        row = found[0]
        booked = int(row["prompt_tokens"]) + int(row["cached_tokens"]), int(row["completion_tokens"])
        if booked != (prompt, completion):
            failures.append(f"{request_id}: client saw {prompt}+{completion} tokens, ledger has {booked[0]}+{booked[1]}")
    twice = [request_id for request_id, found in rows.items() if len(found) > 1]
    if twice:
        failures.append(f"{len(twice)} requests stand more than once, e.g. {twice[0]}")
    return failures, len(rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bin", required=True)
    test_model = os.environ.get("GALERNE_TEST_MODEL")
    parser.add_argument("--model", default=test_model and "file://" + test_model, help="passed on to `galerne up --model`")
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--kills", type=int, default=12)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="galerne-campaign-") as data, \
            open(os.path.join(data, "up.log"), "w+") as log:
        site = Site(os.path.abspath(options.bin), data, options.model, log)
        site.start()
        answers, counts, lock = [], {}, threading.Lock()
        quota, done, started = [options.requests], {"server": 0, "worker": 0}, time.monotonic()
        clients = [threading.Thread(target=client, args=([site], options.seed * 1000 + n, quota, answers, counts, lock))
                   for n in range(options.clients)]
        for thread in clients:
            thread.start()
        killer(site, options.kills, options.seed, quota, options.requests, done)
        for thread in clients:
            thread.join()
        seconds = time.monotonic() - started
        # A drain settles what is in flight and ships the spool; the next start reads it back.
        site.stop()
        site.start()
        time.sleep(2)
        failures = verify(site, answers)
        failures, rows = failures if isinstance(failures, tuple) else (failures, 0)
        site.stop()
        print(f"seed {options.seed}: {options.requests} requests in {seconds:.0f} s, "
              f"{done['worker']} workers and {done['server']} servers killed, outcomes {dict(sorted(counts.items()))}, "
              f"{len(answers)} whole answers, {rows} records in the ledger")
        for failure in failures[:20]:
            print("FAILED", failure)
        if failures:
            log.seek(0)
            print(log.read()[-4000:], file=sys.stderr)
        print(f"{0 if failures else 1} passed, {len(failures)} failed")
        return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
