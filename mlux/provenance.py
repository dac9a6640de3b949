"""Where a number comes from: the identities of model, tokenizer and code, and the environment.

Frozen records of plain values, so that the engine can fill them and the store can write them
without either knowing the other.
"""

import hashlib
import os
import platform
import socket
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("mlux", "mlx", "mlx-lm", "numpy", "sqlalchemy", "tokenizers", "transformers")


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenText:
    """What a token of a vocabulary is called.

    Attributes:
        text: What the tokenizer's decoder makes of it alone; several tokens may share it.
        piece: The vocabulary's own entry; None where the vocabulary lacks the id or is not known.
        shown: The piece as people can read it, different for every id of the vocabulary.
    """

    text: str
    piece: str | None
    shown: str


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizerIdentity:
    """What decides which token ids a text becomes.

    Attributes:
        name: The tokenizer's class.
        vocab_size: Number of entries, added tokens included.
        content_hash: SHA-256 of the vocabulary and rules.
        chat_template_hash: SHA-256 of the chat template; None without one.
    """

    name: str
    vocab_size: int
    content_hash: str
    chat_template_hash: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelIdentity:
    """What decides which numbers a model computes; equal identities are the same model.

    Attributes:
        name: What people call it: `demo`, a hub id, a folder's name.
        source: What loads it again: `demo`, a hub id, a folder's path.
        revision: The hub commit, where there is one.
        weights_hash: SHA-256 over the weight files.
        adapter_hash: SHA-256 over the adapter's files; None without one.
        dtype: The dtype of the computation.
        quant_bits: Bits a quantised weight; None for an unquantised model.
    """

    name: str
    source: str
    revision: str | None
    model_type: str
    n_layers: int
    n_heads: int
    n_kv_heads: int
    d_model: int
    d_head: int
    vocab_size: int
    n_parameters: int
    dtype: str
    quant_bits: int | None
    quant_group_size: int | None
    quant_mode: str | None
    weights_hash: str
    adapter_source: str | None
    adapter_hash: str | None
    tokenizer: TokenizerIdentity

    @property
    def content_hash(self) -> str:
        """SHA-256 of what the numbers depend on; names and places do not enter."""
        parts = asdict(self)
        for place in ("name", "source", "revision", "adapter_source"):
            del parts[place]
        return hashlib.sha256(repr(sorted(parts.items())).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True, slots=True)
class Environment:
    """The machine and the software that a run ran on.

    Attributes:
        device: The MLX device, as in `Device(cpu, 0)`.
        versions: Version of each package that can change a number, and of Python.
        git_commit: HEAD of the working directory's repository; None outside one.
        git_dirty: Whether that repository had uncommitted changes.
    """

    device: str
    host: str
    pid: int
    platform: str
    git_commit: str | None
    git_dirty: bool | None
    versions: Mapping[str, str] = field(default_factory=dict)


def environment(device: str) -> Environment:
    """The environment of this process."""
    commit = _git("rev-parse", "HEAD")
    status = _git("status", "--porcelain", "--untracked-files=no") if commit else None
    return Environment(
        device=device,
        host=socket.gethostname(),
        pid=os.getpid(),
        platform=platform.platform(),
        git_commit=commit,
        git_dirty=None if status is None else bool(status),
        versions={"python": platform.python_version()} | _package_versions(),
    )


def _package_versions() -> dict[str, str]:
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "absent"
    return versions


def _git(*arguments: str) -> str | None:
    try:
        result = subprocess.run(
            ["git", *arguments], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() if result.returncode == 0 else None


def hash_files(paths: list[Path]) -> str:
    """SHA-256 over the names and contents of files, in the order of their names."""
    digest = hashlib.sha256()
    for path in sorted(paths, key=lambda p: p.name):
        digest.update(path.name.encode())
        digest.update(_file_hash(path).encode())
    return digest.hexdigest()


def _file_hash(path: Path) -> str:
    # A hub cache names a large file by its SHA-256 already; reading gigabytes again gains nothing.
    target = path.resolve().name
    if len(target) == 64 and path.resolve().parent.name == "blobs":
        return target
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
