"""What the test of the web page starts: `hapa serve`, and a hub that hands a model out as fast as it is told."""

import hashlib
import http.server
import json
import os
import pathlib
import signal
import socket
import subprocess
import threading
import time
import urllib.request

MODEL = "smollm2-135m"
REPOSITORY = "someone/some-model"


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Server:
    """A `hapa serve` that is gone when the `with` block is."""

    def __init__(self, program, home, *arguments, environment=None):
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.command = [program, "serve", "--port", str(self.port), *arguments]
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HAPA_", "HF_"))}
        self.environment = kept | {"HAPA_HOME": str(home)} | (environment or {})
        self.process = None

    def start(self):
        self.process = subprocess.Popen(self.command, env=self.environment, stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while True:
            try:
                self.get("/health")
                return self
            except OSError:
                assert self.process.poll() is None, f"{self.command} ended with {self.process.returncode}"
                assert time.monotonic() < deadline, f"{self.command} does not answer"
                time.sleep(0.05)

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def get(self, path, headers=None):
        request = urllib.request.Request(self.url + path, headers=headers or {})
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.headers, response.read()

    def post(self, path, body):
        data = json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=120) as response:
            return json.load(response)

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.stop()


def model_file(home):
    """The weights that an earlier server put into the store."""
    (found,) = pathlib.Path(home, "models", MODEL).glob("*.gguf")
    return found


class SlowHub:
    """A model hub on loopback. It sends 40 percent of its one file, and the rest when `go` is set."""

    def __init__(self, file):
        self.go = threading.Event()
        content = file.read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        hub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def head(self, status, headers):
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, str(value))
                self.end_headers()

            def do_HEAD(self):
                self.do_GET()

            def do_GET(self):
                if self.path.startswith(f"/api/models/{REPOSITORY}"):
                    large = {"sha256": digest, "size": len(content), "pointerSize": 134}
                    sibling = {"rfilename": "model.gguf", "blobId": "0" * 40, "size": len(content), "lfs": large}
                    body = json.dumps({"id": REPOSITORY, "sha": "1" * 40, "siblings": [sibling]}).encode()
                    self.head(200, {"content-type": "application/json", "content-length": len(body)})
                    self.wfile.write(body)
                elif self.path.startswith(f"/{REPOSITORY}/resolve/"):
                    linked = {"x-linked-etag": f'"{digest}"', "x-linked-size": len(content), "x-repo-commit": "1" * 40}
                    self.head(302, {"location": f"{hub.url}/storage", "content-length": 0, **linked})
                elif self.path == "/storage":
                    self.send_file()
                else:
                    self.head(404, {"content-length": 0})

            def send_file(self):
                start = int((self.headers.get("range") or "bytes=0-")[6:].split("-")[0])
                headers = {"etag": '"storage"', "content-length": len(content) - start}
                if "range" in self.headers:
                    headers["content-range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
                self.head(206 if "range" in self.headers else 200, headers)
                if self.command == "HEAD":
                    return
                part = max(start, len(content) * 2 // 5)
                try:
                    self.wfile.write(content[start:part])
                    self.wfile.flush()
                    hub.go.wait(60)
                    self.wfile.write(content[part:])
                except OSError:
                    pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.go.set()
        self.server.shutdown()
