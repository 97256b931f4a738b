#!/usr/bin/env python3
"""Fleet campaign: one control plane and two gateways in processes of their own, in front of a stand-in for an engine,
while any of the three is killed (SIGKILL) and a gateway is cut off from its control plane.

Half of the requests are made with a key under a budget that ends before they do: gateways have shares of it.

Shows: every answer that a client received whole stands in the ledger exactly once with the same tokens, whichever
gateway gave it; `galerne ledger check` closes; no more is spent of the budget than its limit, to the last pico, whoever was
killed or cut off with a share of it; at the end nothing is lent any more and all that is left can be spent. Only the standard
library is used.

    fleet.py --bin target/release/galerne --requests 10000 --clients 8 --kills 60
"""
import argparse
import csv
import http.client
import http.server
import io
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from urllib.parse import urlsplit

import exactly_once

MODEL = "stand-in"
PICOS_PER_MICRO = 1_000_000


class Engine(http.server.BaseHTTPRequestHandler):
    """Speaks OpenAI's HTTP: one token per word of the prompt, `max_tokens` of answer."""

    protocol_version = "HTTP/1.1"
    pause = 0.002

    def log_message(self, *_):
        pass

    def reply(self, body):
        data = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        self.reply({"object": "list", "data": [{"id": MODEL, "object": "model"}]})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text = body.get("prompt") or body["messages"][0]["content"]
        count = body.get("max_tokens") or 1
        usage = {"prompt_tokens": len(str(text).split()), "completion_tokens": count}
        usage["total_tokens"] = sum(usage.values())
        time.sleep(self.pause)
        if body.get("stream"):
            return self.stream(count, usage)
        if "messages" in body:
            choice = {"index": 0, "message": {"role": "assistant", "content": "a " * count}, "finish_reason": "stop"}
            kind = "chat.completion"
        else:
            choice, kind = {"index": 0, "text": "a " * count, "finish_reason": "stop", "logprobs": None}, "text_completion"
        self.reply({"id": "x", "object": kind, "created": 1, "model": MODEL, "choices": [choice], "usage": usage})

    def stream(self, count, usage):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        head = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": MODEL}
        for _ in range(count):
            self.event({**head, "choices": [{"index": 0, "delta": {"content": "a "}, "finish_reason": None}]})
            time.sleep(self.pause)
        self.event({**head, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        self.event({**head, "choices": [], "usage": usage})
        self.wfile.write(b"data: [DONE]\n\n")
        self.close_connection = True

    def event(self, body):
        self.wfile.write(b"data: " + json.dumps(body).encode() + b"\n\n")
        self.wfile.flush()


class Engines(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, address):
        """A client or gateway that went away is part of the campaign."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, address)


class Wire:
    """Between a gateway and its control plane: bytes pass unless it is cut. Then they wait, as on a network that broke."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.target = None
        self.whole = threading.Event()
        self.whole.set()
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            near, _ = self.listener.accept()
            threading.Thread(target=self.join, args=(near,), daemon=True).start()

    def join(self, near):
        self.whole.wait()
        try:
            far = socket.create_connection(("127.0.0.1", self.target), timeout=5)
            far.settimeout(None)
        except OSError:
            return near.close()
        for source, sink in ((near, far), (far, near)):
            threading.Thread(target=self.copy, args=(source, sink), daemon=True).start()

    def copy(self, source, sink):
        try:
            while data := source.recv(65536):
                self.whole.wait()
                sink.sendall(data)
        except OSError:
            pass
        for end in (source, sink):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


class Process:
    """A process of Galerne that is started again after each kill."""

    def __init__(self, name, command, env, folder):
        self.name, self.command, self.env = name, command, env
        self.ready_file = os.path.join(folder, name + ".ready.json")
        self.log = open(os.path.join(folder, name + ".log"), "w+")
        self.port, self.process, self.ready = None, None, None
        self.up = threading.Event()

    def start(self):
        if os.path.exists(self.ready_file):
            os.unlink(self.ready_file)
        command = self.command + ["--listen", f"127.0.0.1:{self.port or 0}", "--ready-file", self.ready_file]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, env=self.env)
        deadline = time.monotonic() + 120
        while not os.path.exists(self.ready_file):
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{self.name} did not start: {self.last_words()}")
            time.sleep(0.02)
        with open(self.ready_file) as file:
            self.ready = {**(self.ready or {}), **json.load(file)}
        self.port = urlsplit(self.ready["url"]).port
        self.up.set()

    def kill(self):
        self.up.clear()
        self.process.kill()
        self.process.wait()

    def stop(self):
        self.up.clear()
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=90)

    def last_words(self):
        self.log.seek(0)
        return self.log.read()[-3000:]


class Door:
    """Where a client knocks: what `exactly_once` asks of a site."""

    def __init__(self, process, key):
        self.process = process
        self.ready = {"endpoint": "m", "api_key": key}

    @property
    def up(self):
        return self.process.up

    @property
    def port(self):
        return self.process.port


class Fleet:
    def __init__(self, binary, folder):
        self.binary, self.folder = binary, folder
        self.env = dict(os.environ, XDG_CONFIG_HOME=os.path.join(folder, "config"), NO_COLOR="1")
        self.engine = Engines(("127.0.0.1", 0), Engine)
        threading.Thread(target=self.engine.serve_forever, daemon=True).start()
        up = [binary, "up", "--no-model", "--data", os.path.join(folder, "control")]
        self.control = Process("control", up, self.env, folder)
        self.wires, self.gateways = [], []

    def start(self, count):
        self.control.start()
        engine = f"http://127.0.0.1:{self.engine.server_address[1]}"
        self.must("endpoint", "register-external", "m", "--at", engine, "--upstream-model", MODEL, "--context", "4096")
        # Before the gateways: the first ones to ask find it ready.
        self.wait_for_endpoint()
        key_file = os.path.join(self.folder, "gateway.key")
        with open(key_file, "w") as file:
            file.write(self.key("gateways", "gateway"))
        for number in range(count):
            wire = Wire()
            wire.target = self.control.port
            command = [self.binary, "gateway", "--control", f"http://127.0.0.1:{wire.port}", "--key-file", key_file,
                       "--data", os.path.join(self.folder, f"gateway-{number}")]
            gateway = Process(f"gateway-{number}", command, self.env, self.folder)
            gateway.start()
            self.wires.append(wire)
            self.gateways.append(gateway)

    def wait_for_endpoint(self):
        deadline = time.monotonic() + 60
        while json.loads(self.must("endpoint", "show", "m", "-o", "json"))["status"]["state"] != "ready":
            if time.monotonic() > deadline:
                raise SystemExit("the endpoint is not ready within 60 s")
            time.sleep(0.05)

    def key(self, name, *scopes):
        words = [word for scope in scopes for word in ("--scope", scope)]
        return json.loads(self.must("key", "create", name, *words, "-o", "json"))["secret"]

    def cli(self, *arguments):
        ready = self.control.ready
        env = dict(self.env, GALERNE_URL=ready["url"], GALERNE_API_KEY=ready["api_key"])
        run = subprocess.run([self.binary, *arguments], capture_output=True, text=True, timeout=120, env=env)
        return run.returncode, run.stdout, run.stderr

    def must(self, *arguments):
        code, out, err = self.cli(*arguments)
        if code != 0:
            raise SystemExit(f"galerne {' '.join(arguments)} ended with {code}: {err}")
        return out

    def limit(self, key, micros):
        """A budget on a key, of so many micros."""
        euros = f"{micros // 1_000_000}.{micros % 1_000_000:06}"
        self.must("budget", "set", "campaign", "--limit", euros, "--on", f"key/{key}", "--period", "total")

    def spent_picos(self, key):
        """What a key was charged, by the ledger's records."""
        key_id = json.loads(self.must("key", "show", key, "-o", "json"))["id"]
        rows = csv.DictReader(io.StringIO(self.must("ledger", "export", "--format", "csv")))
        charged = [(row["euros"], int(row["picos"])) for row in rows if row["key_id"] == key_id]
        micros = [int(euros.replace(".", "")) for euros, _ in charged]
        assert all(len(euros.split(".")[1]) == 6 for euros, _ in charged), "euros have six decimals"
        return sum(micros) * PICOS_PER_MICRO + sum(picos for _, picos in charged)

    def stop(self):
        codes = [process.stop() for process in [*self.gateways, self.control]]
        return codes


def ask(door, tokens):
    """One request that may take `tokens` of answer; its status and body."""
    connection = http.client.HTTPConnection("127.0.0.1", door.port, timeout=60)
    body = {"model": "m", "messages": [{"role": "user", "content": "one"}], "max_tokens": tokens}
    headers = {"Authorization": f"Bearer {door.ready['api_key']}", "Content-Type": "application/json"}
    connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
    response = connection.getresponse()
    return response.status, json.loads(response.read())


def spend_the_rest(door):
    """Spends what is left of a budget at one door; says by what it was refused at last, for the smallest request."""
    tokens = 2_000
    while True:
        status, body = ask(door, tokens)
        if status != 200:
            if status != 402 or tokens == 1:
                return status, body
            tokens = max(1, tokens // 2)


def verify_budget(fleet, limit, control):
    failures = []
    why = fleet.must("why", "budget/campaign")
    if "lent to gateways" in why:
        failures.append(f"all gateways have gone, and something is lent: {why}")
    before = fleet.spent_picos("limited")
    status, body = spend_the_rest(control)
    if status != 402:
        failures.append(f"what is left is not spent to its end: {status} {body}")
    time.sleep(1)
    spent = fleet.spent_picos("limited")
    if spent > limit * PICOS_PER_MICRO:
        failures.append(f"overspent: {spent} of {limit * PICOS_PER_MICRO} picos")
    # The hold of the smallest request: its body in bytes and a template, at the standard price, is less than this.
    if spent < (limit - 100) * PICOS_PER_MICRO:
        failures.append(f"{limit * PICOS_PER_MICRO - spent} picos of {limit} micros cannot be spent by anybody")
    told = (f"budget of {limit} micros: {before / PICOS_PER_MICRO:.1f} spent by the campaign, "
            f"{spent / PICOS_PER_MICRO:.1f} when it was spent to its end")
    return failures, told


def trouble(fleet, kills, seed, quota, total, done):
    """At even distances of progress: a gateway is killed, or cut off for a while, or the control plane is killed."""
    rng = random.Random(seed)
    for number in range(kills):
        mark = total - total * (number + 1) / (kills + 1)
        while quota[0] > mark:
            time.sleep(0.01)
        time.sleep(rng.random() * 0.1)
        # A partition lasts seconds, a kill tenths: of many troubles one in eight is a partition.
        turns = ["gateway", "control", "gateway", "wire", "gateway", "control", "gateway", "control"]
        what = turns[number % 8] if kills > 3 else ["gateway", "control", "wire"][number % 3]
        if what == "wire":
            wire = rng.choice(fleet.wires)
            wire.whole.clear()
            time.sleep(1 + rng.random() * 2)
            wire.whole.set()
        else:
            victim = rng.choice(fleet.gateways) if what == "gateway" else fleet.control
            victim.kill()
            victim.start()
        done[what] += 1


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bin", required=True)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--gateways", type=int, default=2)
    parser.add_argument("--limit", type=int, help="micros of the budget; by default one for two requests")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="galerne-fleet-") as folder:
        fleet = Fleet(os.path.abspath(options.bin), folder)
        fleet.start(options.gateways)
        key, limited = fleet.key("caller", "inference"), fleet.key("limited", "inference")
        # An answer costs some micros: the budget ends before the requests under it do.
        limit = options.limit or options.requests // 2
        fleet.limit("limited", limit)
        time.sleep(0.5)
        processes = [*fleet.gateways, fleet.control]
        doors = [Door(process, secret) for process in processes for secret in (key, limited)]
        answers, counts, lock = [], {}, threading.Lock()
        quota, done, started = [options.requests], {"gateway": 0, "control": 0, "wire": 0}, time.monotonic()
        told = (quota, answers, counts, lock, 0.5)
        clients = [threading.Thread(target=exactly_once.client, args=(doors, options.seed * 1000 + n, *told))
                   for n in range(options.clients)]
        for thread in clients:
            thread.start()
        trouble(fleet, options.kills, options.seed, quota, options.requests, done)
        for thread in clients:
            thread.join()
        seconds = time.monotonic() - started
        # A gateway that is asked to stop ships all it has before it ends.
        codes = [gateway.stop() for gateway in fleet.gateways]
        failures = exactly_once.verify(fleet, answers)
        failures, rows = failures if isinstance(failures, tuple) else (failures, 0)
        of_budget, told_of_budget = verify_budget(fleet, limit, Door(fleet.control, limited))
        failures += of_budget
        failures += [f"a gateway ended with {code}" for code in codes if code != 0]
        code = fleet.control.stop()
        if code != 0:
            failures.append(f"the control plane ended with {code}")
        print(f"seed {options.seed}: {options.requests} requests over {options.gateways + 1} gateways in {seconds:.0f} s, "
              f"killed: {done['gateway']} gateways, {done['control']} control planes, {done['wire']} partitions, "
              f"outcomes {dict(sorted(counts.items()))}, {len(answers)} whole answers, {rows} records in the ledger")
        print(told_of_budget)
        for failure in failures[:20]:
            print("FAILED", failure)
        if failures:
            for process in [*fleet.gateways, fleet.control]:
                print(process.name, process.last_words(), file=sys.stderr)
        print(f"{0 if failures else 1} passed, {len(failures)} failed")
        return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
