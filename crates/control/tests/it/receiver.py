"""A receiver of events: checks each signature with Python's own HMAC, keeps what it takes, and is moody on request.

usage: receiver.py PORT SECRET KEPT MOOD — one line per event in the file KEPT; the file MOOD holds a status to answer,
or `slow` and the seconds after which it takes an event.
"""

import base64
import hashlib
import hmac
import http.server
import json
import os
import sys
import time

port, secret, kept, mood = int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4]
key = base64.b64decode(secret.removeprefix("whsec_"))


class Receiver(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        event_id, sent_at = self.headers["webhook-id"], self.headers["webhook-timestamp"]
        signed = f"{event_id}.{sent_at}.".encode() + body
        signature = "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
        told = json.loads(body)
        sound = (
            hmac.compare_digest(signature, self.headers["webhook-signature"])
            and abs(time.time() - int(sent_at)) < 300
            and told["data"]["id"] == event_id
            and told["type"] == told["data"]["action"]
            and told["timestamp"] == told["data"]["at"]
        )
        status = 400
        if sound:
            try:
                words = open(mood).read().split()
                if words[0] == "slow":
                    time.sleep(float(words[1]))
                    status = 204
                else:
                    status = int(words[0])
            except FileNotFoundError:
                status = 204
        if status == 204:
            with open(kept, "a") as out:
                out.write(f"{told['data']['sequence']} {event_id}\n")
                out.flush()
                os.fsync(out.fileno())
        self.send_response(status)
        if status == 503:
            self.send_header("retry-after", "1")
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


http.server.ThreadingHTTPServer.allow_reuse_address = True
http.server.ThreadingHTTPServer(("127.0.0.1", port), Receiver).serve_forever()
