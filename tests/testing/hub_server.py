"""A stand-in for the Hub: the routes that its client uses for uploads and downloads, over real HTTP, on this machine.

Repositories are kept in memory; a commit is visible as a whole or not at all. Tests look at the state, and break
things: private and gated repositories, connections that are cut, a server that dies.
"""

from __future__ import annotations

import base64
import fnmatch
import hashlib
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlparse

TOKEN = "hf_test_token"


@dataclass
class Commit:
    id: str
    files: dict[str, bytes]
    message: str


@dataclass
class Repository:
    private: bool = False
    gated: bool = False
    branches: dict[str, list[Commit]] = field(default_factory=dict)

    def find(self, revision: str) -> Commit | None:
        if revision in self.branches:
            return self.branches[revision][-1]
        commits = [commit for branch in self.branches.values() for commit in branch]
        return next((commit for commit in commits if commit.id == revision), None)


class HubServer(ThreadingHTTPServer):
    """The state, and the requests seen so far.

    Attributes:
        repositories: By id.
        objects: Uploaded large files, by SHA-256; not visible until a commit names them.
        requests: Method and path of every request.
        fail_on: Requests (method, path) for which this is true get no answer: the connection is cut.
        cut_after: Number of bytes after which the first download of a large file is cut; None for never.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []
        self.fail_on: Callable[[str, str], bool] = lambda method, path: False
        self.cut_after: int | None = None
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def files(self, repo_id: str, revision: str = "main") -> dict[str, bytes]:
        commit = self.repositories[repo_id].find(revision)
        return {} if commit is None else commit.files

    def messages(self, repo_id: str) -> list[str]:
        return [commit.message for commit in self.repositories[repo_id].branches["main"]]

    def commit(self, repo_id: str, branch: str, files: dict[str, bytes], message: str) -> str:
        history = self.repositories[repo_id].branches.setdefault(branch, [])
        identity = hashlib.sha1(f"{repo_id}{branch}{len(history)}{message}".encode()).hexdigest()
        history.append(Commit(identity, files, message))
        return identity


class Handler(BaseHTTPRequestHandler):
    server: HubServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # headers and body are sent apart: else each answer waits 40 ms

    def log_message(self, *_: object) -> None:
        pass

    def _dispatch(self) -> None:
        path = unquote(urlparse(self.path).path)
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            self.body = self._chunks()
        self.server.requests.append((self.command, path))
        if self.server.fail_on(self.command, path):
            self.close_connection = True
            self.connection.close()
            return
        for method, pattern, action in ROUTES:
            match = re.fullmatch(pattern, path)
            if method == self.command and match:
                action(self, **match.groupdict())
                return
        self._error(404, "no such route")

    do_GET = do_HEAD = do_POST = do_PUT = _dispatch

    def _chunks(self) -> bytes:
        body = b""
        while size := int(self.rfile.readline().strip() or b"0", 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _json(self, content: object, status: int = 200) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _error(self, status: int, message: str, code: str | None = None) -> None:
        data = json.dumps({"error": message}).encode()
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", message)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _authorised(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _repository(self, repo: str, writing: bool = False) -> Repository | None:
        """The repository, or None after an answer that says why not, as the Hub words it."""
        found = self.server.repositories.get(repo)
        if found is None or (found.private and not self._authorised()):
            self._error(401, "Repository not found", "RepoNotFound")
        elif writing and not self._authorised():
            self._error(403, "You don't have the rights to write to this repository")
        elif found.gated and self.command in ("HEAD", "GET") and "/resolve/" in self.path:
            self._error(403, f"Access to model {repo} is restricted", "GatedRepo")
        else:
            return found
        return None

    def _commit(self, repo: str, revision: str) -> Commit | None:
        found = self._repository(repo)
        if found is None:
            return None
        commit = found.find(revision)
        if commit is None:
            self._error(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit

    # Routes.

    def whoami(self) -> None:
        if not self._authorised():
            self._error(401, "Invalid username or password.")
            return
        self._json({"type": "user", "name": "user", "orgs": []})

    def create(self) -> None:
        if not self._authorised():
            self._error(401, "Invalid username or password.")
            return
        request = json.loads(self.body)
        repo = f"{request.get('organization') or 'user'}/{request['name']}"
        if repo in self.server.repositories:
            self._json({"error": "You already created this model repo", "url": f"{self.server.url}/{repo}"}, 409)
            return
        self.server.repositories[repo] = Repository(
            private=bool(request.get("private")) or request.get("visibility") == "private"
        )
        self.server.commit(repo, "main", {".gitattributes": b""}, "initial commit")
        self._json({"url": f"{self.server.url}/{repo}", "name": repo, "id": repo})

    def branch(self, repo: str, branch: str) -> None:
        found = self._repository(repo, writing=True)
        if found is not None:
            found.branches[branch] = list(found.branches["main"])
            self._json({})

    def validate(self) -> None:
        self._json({"errors": [], "warnings": []})

    def info(self, repo: str, revision: str = "main") -> None:
        commit = self._commit(repo, revision)
        if commit is not None:
            siblings = [{"rfilename": name, "size": len(content)} for name, content in commit.files.items()]
            private = self.server.repositories[repo].private
            self._json(
                {"id": repo, "modelId": repo, "sha": commit.id, "siblings": siblings, "private": private, "tags": []}
            )

    def tree(self, repo: str, revision: str) -> None:
        commit = self._commit(repo, revision)
        if commit is not None:
            rows = []
            for name, content in commit.files.items():
                row = {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                if is_large(name):
                    digest = hashlib.sha256(content).hexdigest()
                    row["lfs"] = {"oid": digest, "size": len(content), "pointerSize": 130}
                rows.append(row)
            self._json(rows)

    def preupload(self, repo: str, revision: str) -> None:
        if self._repository(repo, writing=True) is not None:
            files = json.loads(self.body)["files"]
            self._json(
                {
                    "files": [
                        {
                            "path": file["path"],
                            "uploadMode": "lfs" if is_large(file["path"]) else "regular",
                            "shouldIgnore": False,
                        }
                        for file in files
                    ]
                }
            )

    def lfs_batch(self, repo: str) -> None:
        if self._repository(repo, writing=True) is None:
            return
        answers = []
        for item in json.loads(self.body)["objects"]:
            answer = {"oid": item["oid"], "size": item["size"], "authenticated": True}
            if item["oid"] not in self.server.objects:
                answer["actions"] = {"upload": {"href": f"{self.server.url}/lfs/{item['oid']}", "header": {}}}
            answers.append(answer)
        self._json({"transfer": "basic", "objects": answers})

    def lfs_put(self, oid: str) -> None:
        assert hashlib.sha256(self.body).hexdigest() == oid
        self.server.objects[oid] = self.body
        self._json({})

    def commit(self, repo: str, revision: str) -> None:
        found = self._repository(repo, writing=True)
        if found is None:
            return
        files = dict(found.branches[revision][-1].files)
        message = ""
        for line in self.body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "header":
                message = value["summary"]
            elif entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.server.objects[value["oid"]]
            elif entry["key"] == "deletedFile":
                files.pop(value["path"], None)
        identity = self.server.commit(repo, revision, files, message)
        url = f"{self.server.url}/{repo}/commit/{identity}"
        self._json({"success": True, "commitOid": identity, "commitUrl": url, "hookOutput": ""})

    def resolve(self, repo: str, revision: str, name: str) -> None:
        commit = self._commit(repo, revision)
        if commit is None:
            return
        if name not in commit.files:
            self._error(404, "Entry not found", "EntryNotFound")
            return
        content = commit.files[name]
        etag = hashlib.sha256(content).hexdigest()
        start = 0
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        if wanted:
            start = int(wanted[1])
        self.send_response(206 if wanted else 200)
        self.send_header("X-Repo-Commit", commit.id)
        self.send_header("ETag", f'"{etag}"')
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(content) - start))
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if self.command == "HEAD":
            return
        with self.server.lock:
            cut, large = self.server.cut_after, is_large(name) and start == 0
            if large and cut is not None:
                self.server.cut_after = None
        if large and cut is not None:
            self.wfile.write(content[:cut])
            self.wfile.flush()
            self.close_connection = True
            self.connection.close()
            return
        self.wfile.write(content[start:])


def is_large(name: str) -> bool:
    """Whether a file goes the way of large ones."""
    return fnmatch.fnmatch(name, "*.safetensors") or fnmatch.fnmatch(name, "*.png")


REPO = r"(?P<repo>[^/]+/[^/]+)"
ROUTES = [
    ("GET", r"/api/whoami-v2", Handler.whoami),
    ("POST", r"/api/repos/create", Handler.create),
    ("POST", r"/api/validate-yaml", Handler.validate),
    ("POST", rf"/api/models/{REPO}/branch/(?P<branch>[^/]+)", Handler.branch),
    ("GET", rf"/api/models/{REPO}", Handler.info),
    ("GET", rf"/api/models/{REPO}/revision/(?P<revision>[^/]+)", Handler.info),
    ("GET", rf"/api/models/{REPO}/tree/(?P<revision>[^/]+)", Handler.tree),
    ("POST", rf"/api/models/{REPO}/preupload/(?P<revision>[^/]+)", Handler.preupload),
    ("POST", rf"/api/models/{REPO}/commit/(?P<revision>[^/]+)", Handler.commit),
    ("POST", rf"/{REPO}\.git/info/lfs/objects/batch", Handler.lfs_batch),
    ("PUT", r"/lfs/(?P<oid>\w+)", Handler.lfs_put),
    ("GET", rf"/{REPO}/resolve/(?P<revision>[^/]+)/(?P<name>.+)", Handler.resolve),
    ("HEAD", rf"/{REPO}/resolve/(?P<revision>[^/]+)/(?P<name>.+)", Handler.resolve),
]
