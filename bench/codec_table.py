#!/usr/bin/env python3
"""The speed of every codec as a Markdown table, from codec_bench:

  bench/codec_table.py build/release/bench/codec_bench [head_dim]

Rows a second of encoding and decoding with the fastest kernels of this CPU, on one thread and on two,
beside memcpy of the same floats. Rows of 128 values unless said otherwise. Run it on an idle machine.
"""
import json
import subprocess
import sys

TABLES = ["avx512", "avx2", "neon", "scalar"]  # the first that has a codec counts


def measure(program, head_dim):
    """{(what, codec): {threads: rows a second}}, the codecs in the order of the registry."""
    names = subprocess.run([program, "--benchmark_list_tests"], check=True, capture_output=True,
                           text=True).stdout.split()
    wanted, fastest = [], {}
    for name in names:
        parts = name.split("/")
        if "d%d" % head_dim not in parts:
            continue
        if parts[0] == "copy":
            wanted.append(name)
        else:
            table = TABLES.index(parts[1])
            fastest[parts[2]] = min(table, fastest.get(parts[2], table))
    for name in names:
        parts = name.split("/")
        if "d%d" % head_dim in parts and parts[0] != "copy":
            if TABLES.index(parts[1]) == fastest[parts[2]]:
                wanted.append(name)
    found = {}
    pattern = "^(%s)$" % "|".join(name.replace(".", r"\.") for name in wanted)
    run = subprocess.run([program, "--benchmark_filter=" + pattern, "--benchmark_min_time=0.1",
                          "--benchmark_format=json"], check=True, capture_output=True, text=True)
    for b in json.loads(run.stdout)["benchmarks"]:
        parts = b["name"].split("/")
        key = ("copy", "memcpy") if parts[0] == "copy" else (parts[0], parts[2])
        found.setdefault(key, {})[b["threads"]] = b["rows/s"]
    return found


def rows(rate):
    return "%.3g M" % (rate / 1e6)


def main():
    program = sys.argv[1]
    head_dim = int(sys.argv[2]) if len(sys.argv) > 2 else 128
    found = measure(program, head_dim)
    copy = found[("copy", "memcpy")]
    gbs = {t: rate * head_dim * 4 / 1e9 for t, rate in copy.items()}
    print("| codec | encode, 1 thread | 2 threads | decode, 1 thread | 2 threads | decode / memcpy |")
    print("|---|---|---|---|---|---|")
    print("| memcpy | %s (%.1f GB/s) | %s (%.1f GB/s) | | | 1 |"
          % (rows(copy[1]), gbs[1], rows(copy[2]), gbs[2]))
    for what, codec in found:
        if what != "encode":
            continue
        encode, decode = found[("encode", codec)], found[("decode", codec)]
        print("| %s | %s | %s | %s | %s | %.2f |"
              % (codec, rows(encode[1]), rows(encode[2]), rows(decode[1]), rows(decode[2]),
                 decode[1] / copy[1]))


if __name__ == "__main__":
    main()
