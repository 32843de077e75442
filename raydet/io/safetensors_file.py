"""Tensors in a safetensors file: written as a stream, read only after the header has been checked.

Format: https://github.com/huggingface/safetensors#format (8 bytes: length of the header; the header, JSON; the data).
The library reads; the writer is ours for three things that its serialize_file does not give: one tensor at a time in
host memory instead of all, the checksum in passing, and an OSError with its number when the disk is full.
"""

import io
import json
import struct
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO, cast

import torch
from safetensors.torch import load

HEADER_LIMIT_BYTES = 10_000_000
TENSOR_LIMIT = 20_000
"""The library itself allows 100 MB and any number: enough to exhaust a reader (docs/faults.md S13)."""

_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
}


def size_bytes(tensors: Mapping[str, torch.Tensor]) -> int:
    """Return about how long the file of `tensors` will be."""
    return sum(t.numel() * t.element_size() + 128 for t in tensors.values())


def chunks(tensors: Mapping[str, torch.Tensor]) -> Iterator[memoryview]:
    """Yield a file's bytes, a tensor at a time, in logical (row-major) order whatever the strides.

    Raises:
        ValueError: a dtype that the format does not have, or more than the readers' limits allow.
    """
    ordered = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))  # keeps every tensor aligned
    header: dict[str, Any] = {}
    end = 0
    for name in ordered:
        tensor = tensors[name]
        if tensor.dtype not in _NAMES or tensor.layout != torch.strided or name == "__metadata__":
            raise ValueError(f"tensor {name!r} cannot be saved: {tensor.dtype}, {tensor.layout}")
        start, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > HEADER_LIMIT_BYTES or len(header) > TENSOR_LIMIT:
        raise ValueError(f"{len(header)} tensors with a header of {len(text)} bytes are too many to be read back")
    yield memoryview(struct.pack("<Q", len(text)) + text)
    for name in ordered:
        flat = tensors[name].detach().to("cpu").contiguous().reshape(-1)
        yield memoryview(cast("Any", flat.view(torch.uint8).numpy()))


def read(data: bytes) -> dict[str, torch.Tensor]:
    """Return the tensors in a file's bytes, on the CPU.

    Raises:
        ValueError: not a safetensors file, over the limits, or a name that stands twice.
    """
    check_header(io.BytesIO(data), len(data))
    try:
        return load(data)
    except Exception as error:  # the library raises its own kinds, and KeyError for a dtype that it lacks
        raise ValueError(f"not a readable safetensors file: {error}") from error


def check_header(file: BinaryIO, size: int) -> None:
    """Raise ValueError unless `file`, of `size` bytes, starts with a header within the limits, each name once."""
    start = file.read(8)
    length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
    if length > HEADER_LIMIT_BYTES:
        raise ValueError(f"a header of {length} bytes, {HEADER_LIMIT_BYTES} are allowed; or not a safetensors file")
    if length > size - 8:
        raise ValueError("cut within the header, or not a safetensors file")
    try:
        header = json.loads(file.read(length).decode(), object_pairs_hook=_unique)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"header is not JSON: {error}") from error
    if not isinstance(header, dict) or len(header) > TENSOR_LIMIT:
        raise ValueError(f"header must be one JSON object of at most {TENSOR_LIMIT} tensors")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):  # parsers differ in which of the two they take
        names = [name for name, _ in pairs]
        raise ValueError(f"the name {next(n for n in names if names.count(n) > 1)!r} stands twice")
    return found
