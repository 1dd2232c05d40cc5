"""A Hub on this machine: what huggingface_hub's client asks of the real one to make a model repository, list its files and commit to it,
answered from a folder. Pull requests are folders of their own."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

TOKEN = "hf_a_token"


class Hub:
    """The answers.

    Attributes:
        address: where it listens.
        folder: with a folder for each repository.
        asked: the requests.
        made: what was asked for when a repository was made, by its name.
        messages: of the commits.
        cards: the front matter of the cards that it was shown.
    """

    def __init__(self, address: str, folder: Path) -> None:
        self.address, self.folder = address, folder
        self.asked: list[str] = []
        self.made: dict[str, dict[str, Any]] = {}
        self.messages: list[str] = []
        self.cards: list[dict[str, Any]] = []

    def files(self, repository: str, revision: str = "main") -> dict[str, bytes]:
        """The files of a repository by their names."""
        found = sorted((self.folder / repository / revision.replace("/", "-")).glob("*"))
        return {path.name: path.read_bytes() for path in found}

    def answer(self, method: str, path: str, body: bytes, token: str) -> tuple[int, Any]:
        """The status and the JSON of an answer."""
        self.asked.append(f"{method} {path}")
        if token != f"Bearer {TOKEN}":
            return 401, {"error": "Invalid username or password."}
        parts = [unquote(part) for part in path.split("/")[2:]]
        if parts == ["repos", "create"]:
            return self._create(json.loads(body))
        if parts == ["validate-yaml"]:
            self.cards.append(yaml.safe_load(json.loads(body)["content"].split("---")[1]))
            return 200, {"errors": [], "warnings": []}
        _, *names, what, revision = [*parts, "1"] if parts[-1] == "discussions" else parts
        repository = "/".join(names)
        if repository not in self.made:
            return 404, {"error": "Repository not found"}
        files = self.files(repository, revision)
        if what == "tree":
            return 200, [
                {"type": "file", "path": name, "size": len(content), "oid": "0" * 40} for name, content in files.items()
            ]
        if what == "preupload":
            asked = json.loads(body)["files"]
            return 200, {"files": [{"path": each["path"], "uploadMode": "regular", "shouldIgnore": False} for each in asked]}
        if what == "discussions":
            return 200, self._pull_request(repository, int(revision))
        return self._commit(repository, revision, [json.loads(line) for line in body.splitlines()])

    def _create(self, asked: dict[str, Any]) -> tuple[int, Any]:
        repository = f"{asked.get('organization') or 'someone'}/{asked['name']}"
        url = f"{self.address}/{repository}"
        if repository.startswith("others/"):
            return 403, {"error": "You don't have the rights to create a model under the namespace others"}
        if repository in self.made:
            return 409, {"error": "You already created this model repo", "url": url}
        self.made[repository] = asked
        return 200, {"url": url, "id": "1"}

    def _pull_request(self, repository: str, number: int) -> dict[str, Any]:
        return {
            "num": number,
            "title": "",
            "author": {"name": "someone"},
            "createdAt": "2026-01-01T00:00:00.000Z",
            "status": "draft",
            "repo": {"name": repository, "type": "model"},
            "isPullRequest": True,
            "changes": {"base": "refs/heads/main"},
            "filesWithConflicts": [],
            "events": [],
        }

    def _commit(self, repository: str, revision: str, lines: list[dict[str, Any]]) -> tuple[int, Any]:
        place = self.folder / repository / revision.replace("/", "-")
        place.mkdir(parents=True, exist_ok=True)
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                self.messages.append(value["summary"])
            elif line["key"] == "file":
                (place / value["path"]).write_bytes(base64.b64decode(value["content"]))
            elif line["key"] == "deletedFile":
                (place / value["path"]).unlink()
        return 200, {"commitUrl": f"{self.address}/{repository}/commit/1", "commitOid": "1", "success": True}


@contextmanager
def local_hub(folder: Path) -> Iterator[Hub]:
    """A Hub that answers while this is open."""

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, content = hub.answer(self.command, urlsplit(self.path).path, body, self.headers.get("Authorization") or "")
            text = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            if status >= 400:
                self.send_header("X-Error-Message", content["error"])
            if status == 404:
                self.send_header("X-Error-Code", "RepoNotFound")
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST = _answer

        def log_message(self, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub = Hub(f"http://127.0.0.1:{server.server_address[1]}", folder)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
