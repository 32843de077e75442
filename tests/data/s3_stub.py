"""A small S3 on this machine that speaks as much of the protocol as reading needs, and fails on demand."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

_CODES = {403: "AccessDenied", 404: "NoSuchKey", 500: "InternalError"}


class Stub:
    """Buckets and their objects. `faults[key]` holds what the next requests for that key meet, one each:
    a status, "cut" (half the body) or "hang" (until `release` is set); "*" stands for any key."""

    def __init__(self) -> None:
        self.buckets: dict[str, dict[str, bytes]] = {}
        self.faults: dict[str, list[int | str]] = {}
        self.requests: list[str] = []
        self.release = threading.Event()
        self.most_listed, self.port = 1000, 0

    def root(self, path: str, **options: str) -> str:
        """The address of a folder, as a user writes it for a store of his own."""
        given = {"endpoint_override": f"127.0.0.1:{self.port}", "scheme": "http", "region": "us-east-1"} | options
        return f"s3://{path}?" + "&".join(f"{key}={value}" for key, value in given.items())

    def fault(self, key: str) -> int | str | None:
        queue = self.faults.get(key) or self.faults.get("*")
        return queue.pop(0) if queue else None


@contextmanager
def serving() -> Iterator[Stub]:
    """A stub that answers while the block runs."""
    stub = Stub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (_Handler,), {"stub": stub}))
    server.daemon_threads = True
    stub.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield stub
    finally:
        stub.release.set()
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    stub: Stub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        parts = urlsplit(self.path)
        bucket, _, key = unquote(parts.path).removeprefix("/").partition("/")
        self.stub.requests.append(f"{self.command} {bucket}/{key}")
        if bucket not in self.stub.buckets:
            return self._error(404, "NoSuchBucket", body)
        fault = self.stub.fault(key)
        if isinstance(fault, int):
            return self._error(fault, _CODES.get(fault, "Other"), body)
        if fault == "hang":
            self.stub.release.wait(60)
        objects = self.stub.buckets[bucket]
        if not key:
            listing = self._list(bucket, {k: v[0] for k, v in parse_qs(parts.query).items()}) if parts.query else b""
            return self._send(200, listing, body, {})
        if key not in objects:
            return self._error(404, "NoSuchKey", body)
        data, headers, status = objects[key], {"ETag": f'"{hash(objects[key])}"'}, 200
        if wanted := self.headers.get("Range"):
            first, last = wanted.removeprefix("bytes=").split("-")
            data, status = data[int(first) : int(last) + 1], 206
        self._send(status, data, body, headers, cut=fault == "cut")

    def _list(self, bucket: str, query: dict[str, str]) -> bytes:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        keys, folders = [], set()
        for key in sorted(self.stub.buckets[bucket]):
            if key.startswith(prefix) and key > query.get("continuation-token", ""):
                head, found, _ = key[len(prefix) :].partition(delimiter) if delimiter else (key, "", "")
                folders.add(prefix + head + delimiter) if found else keys.append(key)
        most = min(self.stub.most_listed, int(query.get("max-keys", "1000")))
        more = len(keys) > most
        entries = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{len(self.stub.buckets[bucket][key])}</Size>"
            "<LastModified>2026-11-22T00:00:00.000Z</LastModified></Contents>"
            for key in keys[:most]
        )
        entries += "".join(f"<CommonPrefixes><Prefix>{escape(f)}</Prefix></CommonPrefixes>" for f in sorted(folders))
        token = f"<NextContinuationToken>{escape(keys[most - 1])}</NextContinuationToken>" if more else ""
        return (
            f"<ListBucketResult><IsTruncated>{str(more).lower()}</IsTruncated>{token}"
            f"<KeyCount>{len(keys[:most])}</KeyCount>{entries}</ListBucketResult>"
        ).encode()

    def _error(self, status: int, code: str, body: bool) -> None:
        said = f"<Error><Code>{code}</Code><Message>AKIAABCDEFGHIJKLMNOP</Message></Error>"  # stores repeat key ids
        self._send(status, said.encode(), body, {})

    def _send(self, status: int, data: bytes, body: bool, headers: dict[str, str], cut: bool = False) -> None:
        self.send_response(status)
        fixed = {"Content-Length": str(len(data)), "Last-Modified": "Sun, 22 Nov 2026 00:00:00 GMT"}
        for key, value in (fixed | headers).items():
            self.send_header(key, value)
        self.end_headers()
        if body:
            self.wfile.write(data[: len(data) // 2] if cut else data)
        self.close_connection = cut
