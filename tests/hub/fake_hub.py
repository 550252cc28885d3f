"""A model hub of a few endpoints, on this machine: what an upload and a download ask for.

Its answers to requests without the right token repeat the token that came: a client that shows
answers would show it.
"""

import base64
import hashlib
import json
import threading
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOKEN = "a-secret-token-that-must-not-be-seen"


class FakeHub:
    """Repositories in memory: name -> branch -> commits, each the files by path."""

    def __init__(self):
        self.repos: dict[str, dict[str, list[tuple[str, dict[str, bytes]]]]] = {}
        self.large: dict[str, bytes] = {}
        self.sent: list[str] = []  # digests of large files, in the order of their uploads
        self.asked: list[str] = []
        self.made: dict[str, dict] = {}  # what was asked for with each new repository
        self.refuse_large_after: int | None = None
        self.tampered: dict[str, bytes] = {}
        hub = self

        class Handler(_Handler):
            of = hub

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()

    def put(self, repo, files, branch="main"):
        """Commit files to a repository without a client; returns the commit."""
        branches = self.repos.setdefault(repo, {})
        commits = branches.setdefault(branch, [])
        whole = (commits[-1][1] if commits else {}) | files
        text = f"{repo}{branch}{len(commits)}{sorted(whole)}"
        commit = hashlib.sha1(text.encode()).hexdigest()
        commits.append((commit, whole))
        return commit

    def at(self, repo, revision):
        """Return commit and files of a branch or commit; None: there is none."""
        branches = self.repos.get(repo)
        if branches is None:
            return None
        if revision in branches:
            return branches[revision][-1]
        every = (one for commits in branches.values() for one in commits)
        return next((one for one in every if one[0] == revision), None)


def is_large(path):
    return path.endswith((".safetensors", ".npz", ".pt"))


class _Handler(BaseHTTPRequestHandler):
    of: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def answer(self, code, value=b"", **headers):
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(code)
        length = headers.pop("length", len(data))
        for name, text in {"Content-Length": str(length), **headers}.items():
            self.send_header(name.replace("_", "-"), text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def body(self):
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def path_of(self):
        self.of.asked.append(f"{self.command} {self.path}")
        return urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)

    def not_there(self, code="RepoNotFound"):
        self.answer(404, {"error": "no"}, X_Error_Code=code, X_Error_Message="no")

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = self.path_of()
        if path.startswith("/api/models/"):
            repo, _, revision = path.removeprefix("/api/models/").partition("/revision/")
            found = self.of.at(repo, revision or "main")
            if repo not in self.of.repos:
                return self.not_there()
            if found is None:
                return self.not_there("RevisionNotFound")
            names = [{"rfilename": name} for name in found[1]]
            return self.answer(200, {"id": repo, "sha": found[0], "siblings": names})
        repo, _, rest = path[1:].partition("/resolve/")
        revision, _, name = rest.partition("/")
        found = self.of.at(repo, revision)
        if found is None or name not in found[1]:
            return self.not_there("EntryNotFound")
        data = self.of.tampered.get(name, found[1][name])
        kind = "sha256" if is_large(name) else "sha1"
        etag = hashlib.new(kind, found[1][name]).hexdigest()
        head = {"ETag": f'"{etag}"', "X_Repo_Commit": found[0], "length": len(data)}
        return self.answer(200, data, **head)

    def do_PUT(self):
        oid, data = self.path_of().rpartition("/")[2], self.body()
        limit = self.of.refuse_large_after
        if limit is not None and len(self.of.sent) >= limit:
            self.close_connection = True
            return self.answer(403, {"error": f"broken off, {self.headers.get('Authorization')}"})
        assert hashlib.sha256(data).hexdigest() == oid
        self.of.large[oid] = data
        self.of.sent.append(oid)
        return self.answer(200, {})

    def do_POST(self):
        path, data = self.path_of(), self.body()
        if "/paths-info/" in path:
            return self.paths_info(path, data)
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            said = f"Invalid token: {self.headers.get('Authorization')}"
            return self.answer(401, {"error": said}, X_Error_Message=said)
        parts = {
            "/api/repos/create": self.create,
            "/api/validate-yaml": self.validate,
            "/branch/": self.branch,
            "/info/lfs/objects/batch": self.batch,
            "/preupload/": self.preupload,
            "/commit/": self.commit,
        }
        for part, answer in parts.items():
            if part in path:
                return answer(path.removeprefix("/api/models/").partition(part), data)
        return self.answer(404, {"error": path})

    def create(self, _, data):
        asked = json.loads(data)
        repo = f"{asked['organization']}/{asked['name']}"
        if repo in self.of.repos:
            return self.answer(409, {"url": f"{self.of.url}/{repo}"})
        self.of.put(repo, {".gitattributes": b""})
        self.of.made[repo] = asked
        return self.answer(200, {"url": f"{self.of.url}/{repo}"})

    def validate(self, *_):
        return self.answer(200, {"errors": [], "warnings": []})

    def branch(self, parts, _):
        branches, name = self.of.repos[parts[0]], parts[2]
        if name in branches:
            return self.answer(409, {"error": "exists"})
        branches[name] = list(branches["main"])
        return self.answer(200, {})

    def batch(self, _, data):
        objects = [{"oid": o["oid"], "size": o["size"]} for o in json.loads(data)["objects"]]
        for one in objects:
            if one["oid"] not in self.of.large:
                one["actions"] = {"upload": {"href": f"{self.of.url}/large/{one['oid']}"}}
        return self.answer(200, {"transfer": "basic", "objects": objects})

    def preupload(self, _, data):
        files = [
            {
                "path": f["path"],
                "uploadMode": "lfs" if is_large(f["path"]) else "regular",
                "shouldIgnore": False,
                "oid": None,
            }
            for f in json.loads(data)["files"]
        ]
        return self.answer(200, {"files": files})

    def commit(self, parts, data):
        added = {}
        for line in data.splitlines():
            one = json.loads(line)
            if one["key"] == "file":
                added[one["value"]["path"]] = base64.b64decode(one["value"]["content"])
            elif one["key"] == "lfsFile":
                added[one["value"]["path"]] = self.of.large[one["value"]["oid"]]
        commit = self.of.put(parts[0], added, parts[2])
        url = f"{self.of.url}/{parts[0]}/commit/{commit}"
        return self.answer(200, {"commitUrl": url, "commitOid": commit})

    def paths_info(self, path, data):
        repo, _, revision = path.removeprefix("/api/models/").partition("/paths-info/")
        found = self.of.at(repo, revision)
        infos = []
        for name in urllib.parse.parse_qs(data.decode()).get("paths", []):
            file = found[1][name]
            info = {
                "type": "file",
                "path": name,
                "size": len(file),
                "oid": hashlib.sha1(file).hexdigest(),
            }
            if is_large(name):
                sha256 = hashlib.sha256(file).hexdigest()
                info["lfs"] = {"oid": sha256, "size": len(file), "pointerSize": 1}
            infos.append(info)
        return self.answer(200, infos)
