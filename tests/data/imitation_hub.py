"""An imitation of the Hub for `datasets`: repositories at revisions, gated ones, files and listings.

It answers what `huggingface_hub` 2.4 asks for: the description of a repository, its tree, the state of
single paths, and files (HEAD, GET, ranges).
"""

from __future__ import annotations

import hashlib
import json
import threading
import urllib.parse
from collections import Counter
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Files = Mapping[str, bytes]


class ImitationHub:
    """Listens on a free port. `repos` maps (repository, revision) to files by path."""

    def __init__(self, repos: Mapping[tuple[str, str], Files], gated: frozenset[str] = frozenset()) -> None:
        self.repos, self.gated = repos, gated
        self.calls: Counter[str] = Counter()
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                hub.answer(self)

            do_GET = do_HEAD = do_POST = answer

            def log_message(self, *arguments: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self._http.server_port}"

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()

    def answer(self, http: BaseHTTPRequestHandler) -> None:
        body = http.rfile.read(int(http.headers.get("Content-Length") or 0)).decode()
        path = urllib.parse.urlsplit(http.path).path
        parts = [urllib.parse.unquote(p) for p in path.strip("/").split("/")]
        is_api = parts[0] == "api"
        parts = parts[1:] if is_api else parts
        if parts[0] != "datasets" or len(parts) < 3:
            return self._refuse(http, 404, "EntryNotFound")
        repo, verb, rest = "/".join(parts[1:3]), parts[3] if len(parts) > 3 else "", parts[4:]
        self.calls[f"{http.command} {repo} {verb}"] += 1
        if repo in self.gated:
            known = http.headers.get("Authorization")
            if not (is_api and verb in ("", "revision")):  # what a gated set is called may be seen
                return self._refuse(http, 403 if known else 401, "GatedRepo")
        if not any(name == repo for name, _ in self.repos):
            return self._refuse(http, 404, "RepoNotFound")
        revision = self._revision(repo, rest[0] if rest else "main")
        if (repo, revision) not in self.repos:
            return self._refuse(http, 404, "RevisionNotFound")
        files = self.repos[repo, revision]
        if not is_api:
            return self._file(http, files, "/".join(rest[1:]), _sha(repo, revision))
        if verb == "tree":
            return self._json(
                http, _entries(files, "/".join(rest[1:]), recursive="recursive=true" in http.path.lower())
            )
        if verb == "paths-info":
            asked = (
                json.loads(body)["paths"] if body.startswith("{") else urllib.parse.parse_qs(body)["paths"]
            )
            return self._json(http, [e for e in _entries(files, "", recursive=True) if e["path"] in asked])
        siblings = [{"rfilename": name} for name in files]
        about = {
            "id": repo,
            "sha": _sha(repo, revision),
            "private": False,
            "gated": repo in self.gated,
            "tags": [],
        }
        return self._json(
            http, {**about, "siblings": siblings, "disabled": False, "downloads": 0, "likes": 0}
        )

    def _revision(self, repo: str, asked: str) -> str:
        return next((r for name, r in self.repos if name == repo and _sha(repo, r) == asked), asked)

    def _file(self, http: BaseHTTPRequestHandler, files: Files, name: str, sha: str) -> None:
        if name not in files:
            return self._refuse(http, 404, "EntryNotFound", {"X-Repo-Commit": sha})
        data, status = files[name], 200
        headers = {
            "X-Repo-Commit": sha,
            "ETag": f'"{hashlib.sha256(data).hexdigest()}"',
            "Accept-Ranges": "bytes",
        }
        wanted = http.headers.get("Range", "")
        if wanted.startswith("bytes="):
            first, _, last = wanted[6:].partition("-")
            start, end = int(first or 0), min(int(last or len(data) - 1), len(data) - 1)
            headers["Content-Range"] = f"bytes {start}-{end}/{len(data)}"
            data, status = data[start : end + 1], 206
        self._send(http, status, data, headers)

    def _json(self, http: BaseHTTPRequestHandler, data: Any) -> None:
        self._send(http, 200, json.dumps(data).encode(), {"Content-Type": "application/json"})

    def _refuse(
        self, http: BaseHTTPRequestHandler, status: int, code: str, headers: Mapping[str, str] | None = None
    ) -> None:
        said = {"X-Error-Code": code, "X-Error-Message": code, **(headers or {})}
        self._send(http, status, json.dumps({"error": code}).encode(), said)

    def _send(
        self, http: BaseHTTPRequestHandler, status: int, data: bytes, headers: Mapping[str, str]
    ) -> None:
        http.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            http.send_header(name, value)
        http.end_headers()
        if http.command != "HEAD":
            http.wfile.write(data)


def _sha(repo: str, revision: str) -> str:
    return hashlib.sha1(f"{repo}@{revision}".encode()).hexdigest()


def _entries(files: Files, folder: str, *, recursive: bool) -> list[dict[str, Any]]:
    """Files and folders below `folder`, as a tree listing has them."""
    start = f"{folder}/" if folder else ""
    found: dict[str, dict[str, Any]] = {}
    for name, data in files.items():
        if not name.startswith(start):
            continue
        steps = name[len(start) :].split("/")
        for depth in range(1, len(steps) if recursive else min(2, len(steps))):
            path = start + "/".join(steps[:depth])
            found[path] = {"type": "directory", "path": path, "oid": "0" * 40, "size": 0}
        if recursive or len(steps) == 1:
            oid = hashlib.sha1(data).hexdigest()
            found[name] = {"type": "file", "path": name, "oid": oid, "size": len(data)}
    return list(found.values())
