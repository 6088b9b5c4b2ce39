#!/usr/bin/env python3
"""Loss of quality by the stock llama-perplexity: KL divergence from the f16 cache of the same engine.

  bench/quality.py -m MODEL --llama-bin DIR --corpus wiki.test.raw -c 2048 --chunks 8 \\
      f16 q8_0 q4_0 turbo4 turbo3

Both sides run with small batches (-ub 32): a chunk attends to itself exactly, and long ones would
hide the loss. f16 must read exactly 0. bpv counts every byte of the KV buffer, window, means and
bookkeeping included, at the context used.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import bench_lib as lib

FIELDS = {
    "ppl_ratio": r"Mean PPL\(Q\)/PPL\(base\)\s*:\s*(-?[\d.]+)",
    "kld_mean": r"Mean\s+KLD:\s*(-?[\d.]+)",
    "kld_median": r"Median\s+KLD:\s*(-?[\d.]+)",
    "kld_99": r"99\.0%\s+KLD:\s*(-?[\d.]+)",
    "kld_99_9": r"99\.9%\s+KLD:\s*(-?[\d.]+)",
    "top1": r"Same top p:\s*(-?[\d.]+)",
}


def bits_per_value(output, contender):
    """From the sizes the host prints: bytes of the KV buffers against the f16 values they stand for."""
    f16 = sum(float(x) for x in re.findall(r"turboquant: .* instead of ([\d.]+) MiB", output))
    ours = sum(float(x) for x in re.findall(r"turboquant: .*?([\d.]+) MiB instead", output))
    if ours:
        return 16 * ours / f16
    bits = {"f16": 16, "q8_0": 8.5, "q4_0": 4.5, "q4_1": 5, "q5_0": 5.5, "q5_1": 6}
    k, _, v = contender.partition("/")
    return (bits[k] + bits[v or k]) / 2


def run(arguments, contender, base, divergence):
    command = [
        str(Path(arguments.llama_bin) / "llama-perplexity"),
        "-m", arguments.model, "-f", arguments.corpus, "-c", str(arguments.ctx),
        "-b", str(arguments.ctx), "-ub", str(arguments.ubatch), "-t", str(arguments.threads),
        "--chunks", str(arguments.chunks), "--kl-divergence-base", base,
    ]  # fmt: skip
    if divergence:
        command.append("--kl-divergence")
    command, env = lib.command_of(contender, arguments.plugin, command)
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0:
        sys.exit(f"llama-perplexity failed for {contender}:\n{done.stdout[-2000:]}")
    if not lib.is_stock(contender) and "KV layers compressed" not in done.stdout:
        sys.exit(f"the plugin was not active for {contender}:\n{done.stdout[-2000:]}")
    return done.stdout


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    lib.add_common_arguments(parser)
    parser.add_argument("--corpus", required=True, help="text file")
    parser.add_argument("-c", "--ctx", type=int, default=2048)
    parser.add_argument("-ub", "--ubatch", type=int, default=32)
    parser.add_argument("--chunks", type=int, default=8)
    parser.add_argument("contenders", nargs="+")
    arguments = parser.parse_args()

    record = lib.provenance(
        arguments, model=arguments.model, corpus=arguments.corpus, plugin=arguments.plugin
    )
    record.update(ctx=arguments.ctx, chunks=arguments.chunks, ubatch=arguments.ubatch, rows=[])
    with tempfile.TemporaryDirectory(dir=arguments.json and Path(arguments.json).parent) as folder:
        base = str(Path(folder) / "f16.logits")
        lib.note("f16 reference")
        run(arguments, "f16", base, divergence=False)
        for i, contender in enumerate(arguments.contenders):
            lib.note(f"{i + 1}/{len(arguments.contenders)} {contender}")
            output = run(arguments, contender, base, divergence=True)
            row = {"cache": contender, "bpv": round(bits_per_value(output, contender), 3)}
            for name, pattern in FIELDS.items():
                found = re.search(pattern, output)
                row[name] = float(found.group(1)) if found else float("nan")
            record["rows"].append(row)
            if contender == "f16" and abs(row["kld_mean"]) > 1e-6:
                sys.exit("f16 against f16 is not 0: the measurement is broken")
    lib.print_table(
        ["cache", "bpv", "PPL ratio", "KLD mean", "median", "99 %", "99.9 %", "top-1 %"],
        [
            [r["cache"], f"{r['bpv']:.2f}", f"{r['ppl_ratio']:.4f}", f"{r['kld_mean']:.4f}",
             f"{r['kld_median']:.4f}", f"{r['kld_99']:.3f}", f"{r['kld_99_9']:.3f}", f"{r['top1']:.1f}"]
            for r in record["rows"]
        ],
    )  # fmt: skip
    lib.save(arguments, record)


if __name__ == "__main__":
    main()
