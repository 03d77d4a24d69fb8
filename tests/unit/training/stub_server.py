"""A server that answers /generate as SGLang does, without a model: what was asked is kept, the answer is a function."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Callable[[str, int], str | None]


@dataclass
class StubServer:
    """prompts: the text of each request, in the order of their arrival. requests: their bodies."""

    url: str = ""
    prompts: list[str] = field(default_factory=list)
    requests: list[dict[str, Any]] = field(default_factory=list)


@contextmanager
def stub_server(answer: Answer) -> Iterator[StubServer]:
    """Serve `answer(prompt, number of the request)` on a free port; None is a refusal."""
    from tests.tiny_models import tiny_tokenizer

    server, tokenizer, lock = StubServer(), tiny_tokenizer(), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            prompt = tokenizer.decode(request["input_ids"])
            with lock:
                server.prompts.append(prompt)
                server.requests.append(request)
                number = len(server.prompts)
            said = answer(prompt, number)
            self.reply(200, {"text": said}) if said is not None else self.reply(400, {"error": "too long"})

        def reply(self, status: int, value: dict[str, str]) -> None:
            body = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: Any) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.url = f"http://127.0.0.1:{http.server_port}"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        thread.join()
        http.server_close()
