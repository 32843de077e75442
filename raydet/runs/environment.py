"""What a run tells about where it ran (env.json), and the removal of secrets from everything it writes down."""

import importlib.metadata
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

from raydet import __version__
from raydet.io.jsonable import JSON, plain

_PACKAGES = (
    *("torch", "torchvision", "ray", "numpy", "pillow", "safetensors", "pycocotools", "faster-coco-eval", "optuna"),
    *("timm", "cupy-cuda13x", "nvidia-dali-cuda130", "nvidia-modelopt", "onnx", "onnxruntime"),
)

HIDDEN = "[redacted]"

_SECRET_KEY = re.compile(
    r"(\w*(pass(word|wd|phrase)|secrets?|tokens?|credentials?)|(^|.*[._-])(auth|authorization|bearer|cookie|sas|pwd)|"
    r"\w*(api|access|private|secret|account|signing|wandb)[._-]?key(_?id)?)$",
    re.IGNORECASE,
)
_SECRET_TEXT = [
    re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"),
    re.compile(r"\bhf_[A-Za-z0-9]{16,}\b"),
    re.compile(r"\bwandb_[A-Za-z0-9_]{16,}\b"),
    re.compile(r"\b(?:gh[pousr]_|github_pat_|glpat-|sk-|xox[abpr]-)[A-Za-z0-9_-]{16,}"),
    re.compile(r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*"),
    re.compile(r"(?<=://)[^/\s:@]*:[^/\s@]+(?=@)"),
    re.compile(r"(?<=://)[A-Za-z0-9_-]{20,}(?=@)"),
    re.compile(r"(?i)(?<=bearer )[A-Za-z0-9._~+/=-]{8,}"),
    re.compile(
        r"(?i)(?<=[?&;])(?:sig|signature|token|access_token|api_?key|password|secret|x-amz-(?:signature|credential|"
        r"security-token)|x-goog-(?:signature|credential))=[^&\s\"']+"
    ),
    re.compile(r"(?i)\b\w*(?:api_?key|secret|token|password|passwd|access_?key|account_?key)\s*[=:]\s*[^\s&,;\"']{6,}"),
    re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)"),
]


def redact_text(text: str) -> str:
    """Return `text` without what looks like a key, a token, or the password in an address."""
    for pattern in _SECRET_TEXT:
        text = pattern.sub(HIDDEN, text)
    return text


def redact(value: object) -> JSON:
    """Return `value` as JSON holds it, secrets replaced: by the name of a key, and by the look of any text."""
    bare = plain(value)
    if isinstance(bare, dict):
        return {redact_text(k): _by_name(k, v) for k, v in bare.items()}
    if isinstance(bare, list):
        return [redact(v) for v in bare]
    return redact_text(bare) if isinstance(bare, str) else bare


def _by_name(key: str, value: JSON) -> JSON:
    hides = isinstance(value, str | list) and _SECRET_KEY.search(key)  # a number is a setting: num_tokens
    return HIDDEN if hides else redact(value)


def environment() -> dict[str, JSON]:
    """Return what env.json holds. An allow-list: no environment variable, no user, host or folder name.

    GPU names are there only where torch is loaded and sees one: looking must not make a CUDA context.
    """
    packages: dict[str, JSON] = {}
    for name in _PACKAGES:
        try:
            packages[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "raydet": __version__,
        "git_commit": git_commit(Path(__file__).resolve().parents[2]),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu_count": os.cpu_count(),
        "gpus": list(_gpus()),
        "packages": packages,
    }


def _gpus() -> list[str]:
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return []
    return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]


def git_commit(root: Path) -> str | None:
    """Return the commit that the checkout at `root` stands on; None where there is none, or no git."""
    if not (root / ".git").exists():  # a folder above may be someone else's checkout
        return None
    command = ["git", "-C", str(root), "rev-parse", "--verify", "HEAD"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None
