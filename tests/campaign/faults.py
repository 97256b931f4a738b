#!/usr/bin/env python3
"""Faults of the world around a real Galerne: slow and huge heads, ten thousand idle connections, few files, a disk without
room, a clock that is set. Each is done to the program as it is built, in front of a stand-in for an engine.

Shows: others are served meanwhile, what cannot be served is refused in words, memory stays, and every answer that a client
received whole stands in the ledger exactly once. `--long` adds what takes minutes: an engine that stalls until the deadline.
Only the standard library is used.

    faults.py --bin target/debug/galerne
"""
import argparse
import http.client
import json
import os
import resource
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time

import exactly_once
import fleet

KIB, MIB = 1024, 1024 * 1024


class Wrong(Exception):
    """What a fault did that it must not do."""


def must(holds, text):
    if not holds:
        raise Wrong(text)


class Caller:
    """Asks one process and keeps what it was told."""

    def __init__(self, process, key, answers):
        self.process, self.key, self.answers = process, key, answers

    def ask(self, timeout=30, **more):
        body = {"model": "m", "messages": [{"role": "user", "content": "wind and rack"}], "max_tokens": 4, **more}
        connection = http.client.HTTPConnection("127.0.0.1", self.process.port, timeout=timeout)
        try:
            connection.request("POST", "/v1/chat/completions", json.dumps(body),
                               {"Authorization": "Bearer " + self.key, "Content-Type": "application/json"})
            reply = connection.getresponse()
            data = reply.read()
        finally:
            connection.close()
        if reply.status == 200 and not body.get("stream"):
            usage = json.loads(data)["usage"]
            self.answers.append((reply.headers["x-request-id"], usage["prompt_tokens"], usage["completion_tokens"]))
        return reply.status, data.decode()

    def status(self, **more):
        return self.ask(**more)[0]


class Others:
    """Somebody who goes on asking while something is wrong: how many answers, and how slow the slowest."""

    def __init__(self, caller, pause=0.05):
        self.caller, self.pause = caller, pause
        self.count, self.slowest, self.wrong, self.stop = 0, 0.0, None, threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)

    def run(self):
        while self.count == 0 or not self.stop.wait(self.pause):
            begun = time.monotonic()
            try:
                status, text = self.caller.ask()
            except OSError as error:
                status, text = 0, repr(error)
            if status != 200:
                self.wrong = f"{status}: {text[:300]}"
                return
            self.count += 1
            self.slowest = max(self.slowest, time.monotonic() - begun)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, kind, *_):
        self.stop.set()
        self.thread.join()
        if kind is None:
            must(self.wrong is None, f"somebody else was answered {self.wrong}")
            must(self.count > 0, "nobody else was answered")
            must(self.slowest < 5, f"somebody else waited {self.slowest:.1f} s")

    def __str__(self):
        return f"meanwhile {self.count} answers, the slowest in {self.slowest * 1000:.0f} ms"


def memory_of(process):
    """Bytes that are in memory."""
    with open(f"/proc/{process.process.pid}/status") as file:
        return next(int(line.split()[1]) * KIB for line in file if line.startswith("VmRSS"))


def connect(process):
    return socket.create_connection(("127.0.0.1", process.port), timeout=10)


def is_closed(connection):
    """Whether the other side has closed; what it said before is read."""
    try:
        while data := connection.recv(65536):
            continue
        return True
    except (BlockingIOError, TimeoutError):
        return False
    except OSError:
        return True


def slow_heads(site):
    """A byte of a head per second, and not one byte: closed after the time a head has."""
    gateway, begun = site.gateways[0], time.monotonic()
    waiting = {connect(gateway): number % 3 == 2 for number in range(300)}
    for connection in waiting:
        connection.setblocking(False)
    closed, text = [], b"GET /v1/models HTTP/1.1\r\nhost: x\r\n" + b"x-a: b\r\n" * 100
    with Others(site.caller) as others:
        for second in range(30):
            for connection, is_silent in list(waiting.items()):
                try:
                    if not is_silent:
                        connection.send(text[second:second + 1])
                    ended = is_closed(connection)
                except OSError:
                    ended = True
                if ended:
                    closed.append(time.monotonic() - begun)
                    del waiting[connection]
                    connection.close()
            if not waiting:
                break
            time.sleep(1)
    must(not waiting, f"{len(waiting)} of 300 heads are still waited for after 30 s")
    must(min(closed) > 10, f"one was closed after {min(closed):.1f} s")
    return f"300 connections closed after {min(closed):.0f} to {max(closed):.0f} s; {others}"


def send_until_closed(process, pieces, most=64 * MIB):
    """Sends until the other side has had enough: bytes that were taken, and what it said."""
    connection = connect(process)
    connection.settimeout(5)
    sent, said = 0, b""
    try:
        for piece in pieces:
            connection.sendall(piece)
            sent += len(piece)
            if sent >= most:
                break
    except OSError:
        pass
    try:
        while data := connection.recv(65536):
            said += data
    except OSError:
        pass
    connection.close()
    return sent, said


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def endless(first, piece):
    yield first
    while True:
        yield piece


HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0)
# Indexed GET, http, / and an authority.
ASK = b"\x82\x86\x84\x01\x01x"
# `x` with 4,000 bytes, kept in the table; then the table's first entry, one byte each.
KEPT, AGAIN = b"\x40\x01x\x7f\xa1\x1e" + b"a" * 4000, b"\xbe"


def header_bombs(site):
    """Heads of megabytes, in each way there is to send one: cut off in kilobytes, and not kept."""
    gateway = site.gateways[0]
    start = b"GET /v1/models HTTP/1.1\r\nhost: x\r\n"
    bombs = {
        "one header": endless(start + b"x: ", b"y" * 65536),
        "many headers": endless(start, b"x-y: z\r\n" * 8192),
        "the path": endless(b"GET /", b"y" * 65536),
        "continuations": endless(HELLO + frame(1, 1, 1, ASK), frame(9, 0, 1, b"\x00\x01y\x7f\xa1\x1e" + b"a" * 4000) * 4),
    }
    before, said = memory_of(gateway), []
    with Others(site.caller) as others:
        for name, pieces in bombs.items():
            sent, reply = send_until_closed(gateway, pieces)
            # What the system's buffers hold counts as sent.
            must(sent < 16 * MIB, f"{name}: {sent} bytes were taken")
            if name != "continuations":
                must(b" 431 " in reply[:40] or b" 414 " in reply[:40] or not reply, f"{name}: {reply[:80]}")
            said.append(f"{name} {sent / KIB:.0f} KiB")
        # 64 MB of headers in one frame of 16 KiB, on ten streams.
        bomb = HELLO + frame(1, 5, 1, ASK + KEPT) + b"".join(
            frame(1, 5, 3 + 2 * number, ASK + AGAIN * 16000) for number in range(10))
        _, reply = send_until_closed(gateway, [bomb])
        must(b"a" * 100 not in reply, "it repeats the bomb")
        for _ in range(20):
            send_until_closed(gateway, [HELLO + frame(1, 4, 1, ASK + KEPT + AGAIN * 12000)])
    grown = memory_of(gateway) - before
    must(grown < 24 * MIB, f"memory grew by {grown / MIB:.0f} MiB")
    return f"taken of {', '.join(said)}; memory {grown / MIB:+.1f} MiB; {others}"


def idle_connections(site):
    """Ten thousand connections that have asked once and say nothing more."""
    gateway, wanted = site.gateways[0], 10_000
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = min(wanted, hard - 500)
    must(count == wanted, f"this machine allows {hard} open files: ten thousand connections cannot be made")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    before, begun, open_ones = memory_of(gateway), time.monotonic(), []
    for _ in range(count):
        connection = connect(gateway)
        connection.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
        open_ones.append(connection)
    for connection in open_ones:
        must(b"200 OK" in connection.recv(4096), "one of them was not answered")
    took, grown = time.monotonic() - begun, memory_of(gateway) - before
    with Others(site.caller, 0.02) as others:
        time.sleep(2)
        for connection in open_ones:
            connection.setblocking(False)
        gone = sum(is_closed(connection) for connection in open_ones)
    must(gone < count / 10 or took > 10, f"{gone} of {count} were closed while they lay idle")
    for connection in open_ones:
        connection.close()
    each = grown / count / KIB
    must(each < 40, f"each took {each:.1f} KiB")
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return f"{count} open in {took:.1f} s, {gone} of them closed by then, {each:.1f} KiB of memory each; {others}"


def few_files(site):
    """A process that may open 256 files: it says so, takes fewer connections, and answers them."""
    command = ["prlimit", "--nofile=256:256", *site.gateways[0].command[:-1], os.path.join(site.folder, "few")]
    few = fleet.Process("few", command, site.env, site.folder)
    few.start()
    # Through the same wire as the first gateway; its own spool makes it another one.
    caller = Caller(few, site.caller.key, site.answers)
    must("few files may be open" in few.last_words(), f"it does not say that files are few: {few.last_words()}")
    must("LimitNOFILE=" in few.last_words(), "it does not say what to do")
    open_ones, answered = [], 0
    for _ in range(400):
        connection = connect(few)
        open_ones.append(connection)
        try:
            connection.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
            answered += b"200 OK" in connection.recv(4096)
        except OSError:
            pass
    must(64 <= answered < 256, f"{answered} of 400 connections were answered")
    for connection in open_ones:
        connection.close()
    deadline = time.monotonic() + 10
    while (status := quietly(caller)) != 200:
        must(time.monotonic() < deadline, f"it answers {status} when the others are gone")
        time.sleep(0.1)
    must(few.stop() == 0, "it did not end well")
    return f"{answered} of 400 connections were answered with 256 files, and a request when they were gone"


def quietly(caller, **more):
    try:
        return caller.status(**more)
    except OSError as error:
        return repr(error)


def no_room(site):
    """The spool may not grow (RLIMIT_FSIZE while it runs): requests are refused in words, none is lost, and it goes on."""
    gateway = site.gateways[0]
    spool = next(path for path, _, files in os.walk(os.path.join(site.folder, "gateway-0")) if any(f.endswith(".seg") for f in files))
    newest = max(file for file in os.listdir(spool) if file.endswith(".seg"))
    size = os.path.getsize(os.path.join(spool, newest))
    room = 8 * KIB
    pid = gateway.process.pid
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (size + room, resource.RLIM_INFINITY))
    told = [site.caller.ask() for _ in range(60)]
    statuses = [status for status, _ in told]
    must(gateway.process.poll() is None, "a write without room ended the process")
    must(200 in statuses and 503 in statuses, f"answers with {room} bytes of room: {statuses}")
    must(200 not in statuses[statuses.index(503):], f"it wavers: {statuses}")
    text = json.loads(told[-1][1])
    message = text["error"]["message"] if "error" in text else text
    must("disk" in str(message) and "spool" in str(message), f"it does not say why: {message}")
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    begun = time.monotonic()
    while site.caller.status() != 200:
        must(time.monotonic() < begun + 10, "it does not go on when there is room")
        time.sleep(0.05)
    took = time.monotonic() - begun
    return f"{statuses.count(200)} answers, then {statuses.count(503)} times 503 `{message[:80]}`; on again after {took:.1f} s"


class Clock:
    """The time of day of all processes that were started with it."""

    def __init__(self, folder):
        self.path, library = os.path.join(folder, "clock"), os.path.join(folder, "clock.so")
        source = os.path.join(os.path.dirname(os.path.abspath(__file__)), "clock.c")
        subprocess.run(["cc", "-shared", "-fPIC", "-O2", "-o", library, source], check=True)
        self.environment = {"LD_PRELOAD": library, "GALERNE_TEST_CLOCK": self.path}
        with open(self.path, "wb") as file:
            file.write(struct.pack("=q", 0))

    def set(self, seconds):
        with open(self.path, "r+b") as file:
            file.write(struct.pack("=q", seconds))


def until(what, expected, seconds=8):
    """Asks until the answer is the expected one."""
    deadline = time.monotonic() + seconds
    while (seen := what()) != expected:
        if time.monotonic() > deadline:
            return seen
        time.sleep(0.1)
    return seen


HOUR, DAYS = 3600, 86400


def clock_jumps(binary, folder):
    """The clock goes forty days forward, back, an hour back and forth: keys, months, rates and the ledger hold."""
    clock, site = Clock(folder), fleet.Fleet(binary, folder)
    site.env.update(clock.environment)
    site.start(1)
    answers, doors = [], [site.control, site.gateways[0]]
    keys = {name: json.loads(site.must("key", "create", name, "--scope", "inference", *more, "-o", "json"))["secret"]
            for name, more in {"plain": [], "short": ["--expires", "1d"], "poor": [], "slow": ["--requests-per-minute", "30"]}.items()}
    # A request of 60 tokens costs 18 millionths and holds 80 of them: two fit.
    site.must("budget", "set", "poor", "--on", "key/poor", "--limit", "0.0001", "--period", "month")
    callers = {name: [Caller(door, key, answers) for door in doors] for name, key in keys.items()}
    poor, short, plain, slow = callers["poor"][0], callers["short"], callers["plain"], callers["slow"][0]
    for name in ("plain", "short"):
        for caller in callers[name]:
            must(until(caller.status, 200) == 200, f"{name} is not answered before the jump")
    spent = [poor.status(max_tokens=60) for _ in range(12)]
    must(spent[0] == 200 and spent[-1] != 200, f"the budget before the jump: {spent}")
    refused = spent[-1]
    clock.set(40 * DAYS)
    for caller in short:
        must(until(caller.status, 401) == 401, "a key that has expired is taken")
    for caller in plain:
        must(until(caller.status, 200) == 200, f"after a jump of forty days: {quietly(caller)}")
    seen = until(lambda: poor.status(max_tokens=60), 200)
    must(seen == 200, f"a new month has the old one's budget: {seen}")
    clock.set(0)
    for caller in [*plain, *short]:
        must(until(caller.status, 200) == 200, f"after the jump back: {caller.ask()}")
    seen = until(lambda: poor.status(max_tokens=60), refused, 3)
    must(seen == refused, f"the month that was spent is not spent after the jump back: {seen}")
    taken = [slow.status() for _ in range(40)]
    must(28 <= taken.count(200) <= 33 and taken[-1] == 429, f"30 a minute before the jump: {taken.count(200)}")
    clock.set(-HOUR)
    # Whoever comes first after the jump tells the limiter of it.
    slow.status()
    time.sleep(4.5)
    taken = [slow.status() for _ in range(12)].count(200)
    must(1 <= taken <= 6, f"{taken} requests at 30 a minute, 4.5 s after a jump of an hour back")
    for caller in plain:
        must(until(caller.status, 200) == 200, f"an hour back: {caller.ask()}")
    clock.set(0)
    taken = [slow.status() for _ in range(60)].count(200)
    must(taken <= 33, f"{taken} requests at 30 a minute after a jump forward")
    time.sleep(1)
    codes = [site.gateways[0].stop()]
    failures = exactly_once.verify(site, answers)
    failures, rows = failures if isinstance(failures, tuple) else (failures, 0)
    codes.append(site.control.stop())
    must(not failures, f"the ledger: {failures[:3]}")
    must(codes == [0, 0], f"the processes ended with {codes}")
    return f"+40 d, -40 d, -1 h, +1 h: key, month and rate hold; {len(answers)} answers, {rows} records, the ledger closes"


class Stalling(fleet.Engine):
    """Says what it is told to before it says no more."""

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        where = body["messages"][0]["content"]
        if where == "body":
            self.wfile.write(b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 999\r\n\r\n{"id": ')
        if where == "stream":
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.end_headers()
            for _ in range(3):
                self.event({"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "w",
                            "choices": [{"index": 0, "delta": {"content": "a "}, "finish_reason": None}]})
        if where in ("head", "body", "stream"):
            self.rfile.read(1)
            self.close_connection = True
            return
        self.reply({"count": 7, "tokens": []})


def stalled_engine(site):
    """An engine that says nothing, half a body, three tokens: ended at the deadline, and charged for the tokens."""
    engine = fleet.Engines(("127.0.0.1", 0), Stalling)
    threading.Thread(target=engine.serve_forever, daemon=True).start()
    at = f"http://127.0.0.1:{engine.server_address[1]}"
    site.must("endpoint", "register-external", "stalls", "--at", at, "--upstream-model", fleet.MODEL, "--context", "4096")
    until(lambda: json.loads(site.must("endpoint", "show", "stalls", "-o", "json"))["status"]["state"], "ready", 30)
    told, begun = {}, time.monotonic()

    def ask(where):
        body = {"messages": [{"role": "user", "content": where}], "stream": where == "stream"}
        told[where] = (*site.caller.ask(timeout=900, model="stalls", **body), time.monotonic() - begun)

    threads = [threading.Thread(target=ask, args=(where,)) for where in ("head", "body", "stream")]
    for thread in threads:
        thread.start()
    with Others(site.caller, 1) as others:
        for thread in threads:
            thread.join()
    for where in ("head", "body"):
        must(told[where][0] == 504 and "deadline_exceeded" in told[where][1], f"{where}: {told[where]}")
    must(told["stream"][0] == 200 and "deadline_exceeded" in told["stream"][1], f"stream: {told['stream']}")
    late = {where: round(answer[2]) for where, answer in told.items()}
    must(all(590 <= seconds <= 640 for seconds in late.values()), f"{late}")
    return f"ended after {late} seconds; {others}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bin", required=True)
    parser.add_argument("--long", action="store_true")
    parser.add_argument("--only", help="one of them, by name")
    options = parser.parse_args()
    binary, passed, failed = os.path.abspath(options.bin), 0, 0
    with tempfile.TemporaryDirectory(prefix="galerne-faults-") as folder:
        own = os.path.join(folder, "site")
        os.mkdir(own)
        site = fleet.Fleet(binary, own)
        site.start(1)
        site.answers = []
        site.caller = Caller(site.gateways[0], site.key("caller", "inference"), site.answers)
        must(until(site.caller.status, 200) == 200, "the first request is not answered")
        faults = [slow_heads, header_bombs, idle_connections, few_files, no_room] + [stalled_engine] * options.long
        todo = [(fault.__name__, lambda fault=fault: fault(site)) for fault in faults]
        todo.append(("clock_jumps", lambda: clock_jumps(binary, folder)))
        for name, fault in todo:
            if options.only not in (None, name):
                continue
            begun = time.monotonic()
            try:
                print(f"ok      {name}: {fault()} ({time.monotonic() - begun:.0f} s)", flush=True)
                passed += 1
            except (Wrong, OSError, SystemExit, subprocess.SubprocessError) as error:
                print(f"FAILED  {name}: {error}", flush=True)
                failed += 1
        codes = [gateway.stop() for gateway in site.gateways]
        failures = exactly_once.verify(site, site.answers)
        failures, rows = failures if isinstance(failures, tuple) else (failures, 0)
        codes.append(site.control.stop())
        if failures or any(codes):
            print(f"FAILED  the end: {failures[:5]}, ended with {codes}")
            failed += 1
        else:
            print(f"ok      {len(site.answers)} answers in the ledger exactly once, among {rows} records")
            passed += 1
        if failed:
            for process in [*site.gateways, site.control]:
                print(process.name, process.last_words(), file=sys.stderr)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
