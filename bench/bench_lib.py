"""What the benchmarks over stock tools share: contenders, provenance, tables. Standard library only.

A contender is written
  f16, q8_0, q4_0, q8_0/q4_0      the stock cache types (-ctk / -ctv), no plugin
  anything else                   a policy for the plugin (TURBOQUANT_KV)
"""

import hashlib
import json
import os
import platform
import re
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STOCK = re.compile(r"^(f16|q8_0|q4_0|q4_1|q5_0|q5_1)(/(f16|q8_0|q4_0|q4_1|q5_0|q5_1))?$")


def is_stock(contender):
    return STOCK.match(contender) is not None


def command_of(contender, plugin, command):
    """The command and environment that run a llama.cpp tool with this contender's cache."""
    env = {k: v for k, v in os.environ.items() if k != "GGML_BACKEND_PATH"}
    if is_stock(contender):
        k, _, v = contender.partition("/")
        return command + ["-ctk", k, "-ctv", v or k], env
    env["GGML_BACKEND_PATH"] = str(plugin)
    env["TURBOQUANT_KV"] = contender
    return command, env


def add_common_arguments(parser):
    parser.add_argument("-m", "--model", required=True, help="GGUF file")
    parser.add_argument("--llama-bin", required=True, help="folder of the stock llama.cpp tools")
    parser.add_argument(
        "--plugin", default=str(ROOT / "build/release/plugin/ggml/libggml-turboquant.so")
    )
    parser.add_argument("-t", "--threads", type=int, default=os.cpu_count())
    parser.add_argument("--json", help="write the record to this file")


def sha256(path):
    digest = hashlib.sha256()
    with open(path, "rb") as handle:
        while chunk := handle.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def cpu_name():
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def provenance(arguments, **files):
    commit = subprocess.run(
        ["git", "-C", str(ROOT), "describe", "--always", "--dirty"], capture_output=True, text=True
    ).stdout.strip()
    return {
        "command": " ".join(Path(a).name if "/" in a else a for a in sys.argv),
        "commit": commit,
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "device": f"{cpu_name()}, {os.cpu_count()} cores",
        "threads": arguments.threads,
        "files": {
            name: {"name": Path(path).name, "sha256": sha256(path)} for name, path in files.items()
        },
    }


def note(text):
    print(f"[bench] {text}", file=sys.stderr, flush=True)


def print_table(header, rows):
    widths = [max(len(str(r[i])) for r in [header] + rows) for i in range(len(header))]
    for row in [header, ["-" * w for w in widths]] + rows:
        print("| " + " | ".join(str(c).ljust(w) for c, w in zip(row, widths)) + " |")


def save(arguments, record):
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(record, indent=1) + "\n")
        note(f"record: {arguments.json}")
