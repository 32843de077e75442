"""Addresses of data sets in object stores: what is allowed in data.root, and the connection it asks for.

An address comes from the user's config, never from the data, so its endpoint may be any (MinIO); http(s) and the like
are refused, and so are credentials in it, before anything is written (docs/faults.md S7, S8).
"""

import re
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from raydet.data.storage.files import refusal
from raydet.exceptions import DataError

TIMEOUT_S = 30.0
"""A store that is silent for so long is taken for dead."""

_OPTIONS = {
    "s3": ("endpoint_override", "scheme", "region", "anonymous"),
    "gs": ("endpoint_override", "scheme", "anonymous"),
    "abfs": ("blob_storage_authority", "dfs_storage_authority", "blob_storage_scheme", "dfs_storage_scheme"),
}
CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, ~/.aws/credentials or the machine's role",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS, `gcloud auth application-default login` or the machine's service account",
    "abfs": "AZURE_CLIENT_ID and its fellows, `az login` or the machine's managed identity",
}
"""Scheme -> where the libraries look for credentials, on every node."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a remote data set lies: bucket/folder, and options of the connection."""

    scheme: str
    account: str
    """abfs only: container@ACCOUNT.dfs.core.windows.net."""
    path: str
    options: tuple[tuple[str, str], ...] = ()

    def url(self, name: str = "") -> str:
        """Return the address of a file, for messages."""
        bucket, _, folder = self.path.partition("/")
        bucket = f"{bucket}@{self.account}" if self.account else bucket
        return f"{self.scheme}://" + "/".join(part for part in (bucket, folder, name) if part)


def is_remote(root: str) -> bool:
    """Return whether data.root is an address rather than a folder or a demo set."""
    return "://" in root and not root.startswith("demo://")


def parse(root: str) -> Address:
    """Return the parts of an address.

    Raises:
        DataError: a scheme that is not allowed, credentials in it (they are not repeated), or an unknown option.
    """
    scheme = root.partition("://")[0].lower()
    if scheme not in _OPTIONS:
        shown = scheme if re.fullmatch(r"[a-z][a-z0-9+.-]{0,15}", scheme) else "?"
        what, hint = _not_allowed(shown)
        raise DataError(what, rule="REMOTE-E01", hint=hint)
    try:
        parts = urlsplit(root)
    except ValueError:
        raise _incomplete(scheme) from None
    user, _, host = parts.netloc.rpartition("@")
    options = parse_qsl(parts.query, keep_blank_values=True)
    if (user if scheme != "abfs" else ":" in user) or ":" in host or any(map(_is_secret, options)):
        what = f"data.root is a {scheme}:// address with a password, key or signature in it (not shown here)"
        hint = f"Remove it, and change it if others saw it. On every node they are taken from {CREDENTIALS[scheme]}."
        raise DataError(what, rule="REMOTE-E02", hint=hint)
    unknown = [i for i, (key, _) in enumerate(options) if key not in _OPTIONS[scheme]]
    if unknown or parts.fragment or len({key for key, _ in options}) < len(options):
        raise _incomplete(scheme)
    bucket = user if scheme == "abfs" else host
    path = "/".join([bucket, *(part for part in parts.path.split("/") if part)])
    if not bucket or not host or refusal(path) is not None:
        raise _incomplete(scheme)
    return Address(scheme, host if scheme == "abfs" else "", path, tuple(options))


def _is_secret(option: tuple[str, str]) -> bool:
    key, value = option
    known = {key for keys in _OPTIONS.values() for key in keys}
    return "@" in value or (
        key not in known and bool(re.search(r"key|secret|token|sig|pass|cred|^s[a-z]$|x-(amz|goog)", key, re.I))
    )


def _not_allowed(scheme: str) -> tuple[str, str]:
    why = {
        "http": "a web server could lead to any address, the cluster's own among them",
        "file": "a folder is given by its path",
        "hdfs": "it needs a Java runtime on every node",
    }
    reason = why.get(scheme.removesuffix("s") if scheme == "https" else scheme, "it is not one that raydet knows")
    hint = "Allowed: a folder, demo://..., s3://bucket/folder, gs://bucket/folder, abfs://container@account.../folder."
    return f"data.root is a {scheme}:// address: {reason}", hint


def _incomplete(scheme: str) -> DataError:
    form = "abfs://CONTAINER@ACCOUNT.dfs.core.windows.net/folder" if scheme == "abfs" else f"{scheme}://BUCKET/folder"
    what = f"data.root is not a complete {scheme}:// address, or has an option that raydet does not know"
    hint = f"Expected {form}, after a ? at most once each {', '.join(_OPTIONS[scheme])}."
    return DataError(what, rule="REMOTE-E03", hint=hint)


def connect(address: Address) -> Any:
    """Return pyarrow's file system of an address; nothing is asked of the store yet, but an S3 bucket's region."""
    from pyarrow import fs

    options: dict[str, Any] = dict(address.options)
    if "anonymous" in options:
        options["anonymous"] = options["anonymous"].lower() in ("1", "true", "yes")
    if address.scheme == "gs":
        return fs.GcsFileSystem(retry_time_limit=timedelta(seconds=TIMEOUT_S), **options)
    if address.scheme == "abfs":
        return fs.AzureFileSystem(address.account.partition(".")[0], **options)
    if not options.keys() & {"region", "endpoint_override"}:
        options["region"] = fs.resolve_s3_region(address.path.partition("/")[0])
    once = fs.AwsStandardS3RetryStrategy(max_attempts=1)  # tries are counted here, for every store alike
    return fs.S3FileSystem(request_timeout=TIMEOUT_S, connect_timeout=10, retry_strategy=once, **options)
