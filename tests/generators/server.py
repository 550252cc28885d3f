"""A server that speaks chat completions, with faults on request, and counts what it answers."""

import contextlib
import gzip
import json
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Server(ThreadingHTTPServer):
    """Answers with `answer(body)`; `faults(n, body)` names what goes wrong with request n."""

    daemon_threads = True

    def __init__(self, answer, faults=lambda n, body: "", port=0):
        super().__init__(("127.0.0.1", port), Handler)
        self.answer, self.faults = answer, faults
        self.lock, self.n, self.paid, self.headers = threading.Lock(), 0, Counter(), []
        self.times, self.sent = [], 0

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, request, client_address):
        pass  # clients that are killed


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_POST(self):
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with server.lock:
            number = server.n
            server.n += 1
            server.headers.append({k.lower(): v for k, v in self.headers.items()})
            server.times.append(time.monotonic())
        fault = server.faults(number, body)
        if fault.isdigit() or fault.startswith("429"):
            status, _, wait = fault.partition(" ")
            self.reply(int(status), b'{"error":{"message":"no"}}', {"retry-after": wait or None})
        elif fault == "slow":
            time.sleep(3)
            self.close_connection = True
        elif fault == "malformed":
            self.reply(200, b"<html>proxy</html>")
        elif fault == "empty":
            self.reply(
                200, b'{"id":"x","object":"chat.completion","created":1,"model":"m","choices":[]}'
            )
        elif fault == "truncated":
            data = json.dumps(self.whole(body)).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[: len(data) // 2])
            self.close_connection = True
        elif fault in ("endless", "endless error", "drip"):
            self.without_end(fault)
        elif fault == "reset":
            self.connection.close()
            self.close_connection = True
        else:
            data, headers = self.whole(body), {}
            if fault == "lies":
                data["usage"] = {"prompt_tokens": -5, "completion_tokens": 10**9, "total_tokens": 1}
            with contextlib.suppress(OSError):
                raw = json.dumps(data).encode()
                if fault == "compressed":
                    raw, headers = gzip.compress(raw), {"content-encoding": "gzip"}
                self.reply(200, raw, headers)
                with server.lock:
                    server.paid[json.dumps(body, sort_keys=True)] += 1

    def without_end(self, fault):
        self.send_response(500 if fault == "endless error" else 200)
        self.send_header("content-type", "application/json")
        self.end_headers()
        self.close_connection = True
        with contextlib.suppress(OSError):
            for _ in range(2000):  # until the other side hangs up
                self.wfile.write(b" " if fault == "drip" else b" " * 2**16)
                self.server.sent += 1
                time.sleep(0.05 if fault == "drip" else 0)

    def whole(self, body):
        text = self.server.answer(body)
        return {
            "id": "x",
            "object": "chat.completion",
            "created": 1,
            "model": body["model"],
            "choices": [
                {
                    "index": 0,
                    "finish_reason": "stop",
                    "message": {"role": "assistant", "content": text},
                }
            ],
            "usage": {"prompt_tokens": 12, "completion_tokens": 7, "total_tokens": 19},
        }

    def reply(self, status, data, headers=None):
        self.send_response(status)
        for name, value in (headers or {}).items():
            if value:
                self.send_header(name, value)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@contextlib.contextmanager
def serving(answer, faults=lambda n, body: ""):
    server = Server(answer, faults)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
