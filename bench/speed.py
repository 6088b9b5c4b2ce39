#!/usr/bin/env python3
"""Speed by the stock llama-bench: tokens per second at depth, stock caches against ours.

  bench/speed.py -m MODEL --llama-bin DIR -d 0,4096,16384 -p 512 -n 32 -r 5 \\
      f16 q8_0 q4_0 turbo4 turbo3

Rounds are interleaved (every contender once per round) and medians are shown with their ratio to the
first contender, since machines are noisy. Ratios are the result; absolute numbers are this machine's.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

import bench_lib as lib


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    lib.add_common_arguments(parser)
    parser.add_argument("-d", "--depths", default="0,4096,16384")
    parser.add_argument("-p", "--prompt", type=int, default=512, help="tokens of the prompt test")
    parser.add_argument("-n", "--generate", type=int, default=32, help="tokens of the generation test")
    parser.add_argument("-r", "--rounds", type=int, default=3)
    parser.add_argument("contenders", nargs="+")
    arguments = parser.parse_args()

    record = lib.provenance(arguments, model=arguments.model, plugin=arguments.plugin)
    samples = {}
    for round_index in range(arguments.rounds):
        for contender in arguments.contenders:
            lib.note(f"round {round_index + 1}/{arguments.rounds}: {contender}")
            command = [
                str(Path(arguments.llama_bin) / "llama-bench"),
                "-m", arguments.model, "-t", str(arguments.threads), "-fa", "1", "-r", "1",
                "-p", str(arguments.prompt), "-n", str(arguments.generate),
                "-d", arguments.depths, "-o", "json",
            ]  # fmt: skip
            command, env = lib.command_of(contender, arguments.plugin, command)
            done = subprocess.run(command, env=env, capture_output=True, text=True)
            if done.returncode != 0:
                sys.exit(f"llama-bench failed for {contender}:\n{done.stderr[-2000:]}")
            if not lib.is_stock(contender) and "KV layers compressed" not in done.stderr:
                sys.exit(f"the plugin was not active for {contender}:\n{done.stderr[-2000:]}")
            for test in json.loads(done.stdout):
                kind = "pp" if test["n_prompt"] else "tg"
                key = (kind, test["n_depth"], contender)
                samples.setdefault(key, []).append(test["avg_ts"])
    rows = []
    for kind, depth in sorted({k[:2] for k in samples}):
        name = f"{kind}{arguments.prompt if kind == 'pp' else arguments.generate} @ {depth}"
        medians = {c: statistics.median(samples[kind, depth, c]) for c in arguments.contenders}
        base = medians[arguments.contenders[0]]
        rows.append([name] + [f"{m:.1f} ({m / base:.2f}x)" for m in medians.values()])
    lib.print_table(["test"] + arguments.contenders, rows)
    record["rounds"] = arguments.rounds
    record["samples"] = [
        {"test": k[0], "depth": k[1], "cache": k[2], "tokens_per_second": v}
        for k, v in sorted(samples.items())
    ]
    lib.save(arguments, record)


if __name__ == "__main__":
    main()
