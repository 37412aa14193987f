"""A server on this machine that answers as the Hugging Face hub does, as far as its client asks when it downloads a model."""
import hashlib
import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlparse

REVISION = "451f4fe16113bff5a5d2269ed5ad43b0592e9a14"
SMALL, LARGE = ("/api/resolve-cache/",), ("/store/",)


def blob(data):
    """Git's name for a file's contents."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class Hub(ThreadingHTTPServer):
    """files: {path: bytes}; weights are large files (LFS). What a test may change: `status`, what all requests end with; `body`, what
    they get instead of an answer; `altered`, paths whose last byte is sent wrong; `cut` and `stalled`, paths of which an answer that
    begins at their beginning ends, or waits, in the middle; `sizes`, of files that the hub claims to be larger; `bare`, whether the list of
    files has their names alone, as some mirrors'. `asked` lists the requests of files' contents and of the rest: method, path, Range;
    `tokens`, who asked the hub, `told`, who the store was told it was.

    As on the hub, /resolve/ redirects: small files to another path of the hub's, large ones to a store at another address."""
    daemon_threads = True

    def __init__(self, repository, files):
        super().__init__(("127.0.0.1", 0), Answer)
        self.repository, self.files = repository, files
        self.status, self.body, self.sizes, self.bare, self.asked, self.tokens, self.told = None, None, {}, False, [], set(), set()
        self.altered, self.cut, self.stalled = set(), set(), set()
        self.reached, self.going_on = threading.Event(), threading.Event()  # a stalled answer's middle; it may end

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_port}"

    def fetched(self):
        """The paths of the files that were sent, in that order."""
        return [path.split(f"{REVISION}/")[1] for method, path, _ in self.asked if method == "GET" and path.startswith(SMALL + LARGE)]

    def facts(self, path):
        data = self.files[path]
        size = self.sizes.get(path, len(data))
        large = path.endswith(".safetensors")
        return size, blob(data), {"sha256": hashlib.sha256(data).hexdigest(), "size": size, "pointerSize": 135} if large else None

    def listing(self):
        """What /api/models/.../revision/...?blobs=true says."""
        siblings = [{"rfilename": path, **({} if self.bare else {"size": size, "blobId": name, **({"lfs": large} if large else {})})}
                    for path, (size, name, large) in ((path, self.facts(path)) for path in self.files)]
        return {"id": self.repository, "sha": REVISION, "cardData": {"license": "creativeml-openrail-m"}, "siblings": siblings}


class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def reply(self, status, body=b"", **headers):
        self.send_response(status)
        for name, value in {"Content-Length": len(body), **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_GET(self):
        hub, path = self.server, unquote(urlparse(self.path).path)
        hub.asked.append((self.command, path, self.headers.get("Range")))
        (hub.told if path.startswith(LARGE) else hub.tokens).add(self.headers.get("Authorization"))
        if hub.status or hub.body is not None:
            return self.reply(hub.status or 200, hub.body or b"{}", X_Error_Code="RepoNotFound")
        api, files = f"/api/models/{hub.repository}/", f"/{hub.repository}/resolve/"
        if re.match(rf"{api}revision/({REVISION}|main)$", path):
            return self.reply(200, json.dumps(hub.listing()).encode(), Content_Type="application/json")
        if path.split(f"{REVISION}/")[-1] in hub.files:
            file = path.split(f"{REVISION}/")[1]
            if path.startswith(files):
                return self.redirect(file)
            if path.startswith(SMALL + LARGE):
                return self.send_file(file)
        return self.reply(404, b"{}", X_Error_Code="EntryNotFound" if path.startswith(files) else "RepoNotFound")

    do_HEAD = do_GET

    def redirect(self, path):
        hub = self.server
        size, name, large = hub.facts(path)
        place = f"http://localhost:{hub.server_port}{LARGE[0]}" if large else SMALL[0]
        self.reply(302 if large else 307, Location=f"{place}{REVISION}/{path}", X_Repo_Commit=REVISION, X_Linked_Size=size,
                   X_Linked_ETag=f'"{large["sha256"] if large else name}"')

    def send_file(self, path):
        hub, data = self.server, self.server.files[path]
        size, name, large = hub.facts(path)
        tag = large["sha256"] if large else name
        if path in hub.altered:
            data = data[:-1] + bytes([data[-1] ^ 1])
        begin = int((re.match(r"bytes=(\d+)-", self.headers.get("Range") or "") or [0, 0])[1])
        self.send_response(206 if begin else 200)
        headers = {"ETag": f'"{tag}"', "X-Repo-Commit": REVISION, "X-Linked-ETag": f'"{tag}"', "X-Linked-Size": size,
                   "Content-Length": len(data) - begin, "Accept-Ranges": "bytes"}
        if begin:
            headers["Content-Range"] = f"bytes {begin}-{len(data) - 1}/{len(data)}"
        for key, value in headers.items():
            self.send_header(key, str(value))
        self.end_headers()
        if self.command == "HEAD":
            return
        if path in hub.cut | hub.stalled and not begin:
            self.wfile.write(data[:len(data) // 2])
            self.wfile.flush()
            if path in hub.stalled:
                hub.reached.set()
                hub.going_on.wait(60)
            self.close_connection = True
        else:
            self.wfile.write(data[begin:])


@contextmanager
def serving(repository, files):
    hub = Hub(repository, files)
    thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.going_on.set()
        hub.shutdown()
        hub.server_close()
