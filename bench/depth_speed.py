#!/usr/bin/env python3
"""Speed behind a long context, from saved states: stock caches against ours, in the stock llama.cpp.

  bench/depth_speed.py -m MODEL --llama-bin DIR --program build/ci/bench/depth_speed \\
      --states DIR -d 0,4096,16384 -n 16 -p 512@0,512@8192 -r 3 f16 q8_0 turbo4

The first run of a cache at a depth decodes that many tokens and saves the state; every further one loads
it. Rounds are interleaved (every contender once per round, in turning order); medians, with their ratio to the first
contender. Prompts at a depth use the state of the next greater depth of -d, cut back.
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
from pathlib import Path

import bench_lib as lib


def tests_of(arguments):
    """(depth, state depth, prompt tokens, generated tokens) of every test."""
    depths = [int(d) for d in arguments.depths.split(",") if d]
    tests = [(d, d, 0, arguments.generate) for d in depths if arguments.generate]
    for prompt in filter(None, arguments.prompts.split(",")):
        tokens, depth = (int(x) for x in prompt.split("@"))
        state = min([d for d in depths if d >= depth and depth > 0], default=depth)
        tests.append((depth, state, tokens, 0))
    return tests


def run(arguments, contender, test):
    depth, state_depth, prompt, generate = test
    stock = lib.is_stock(contender)
    file = re.sub(r"[=,/]", "_", contender)
    state = Path(arguments.states) / f"{Path(arguments.model).name[:5]}-{file}-{state_depth}.state"
    command = [arguments.program, arguments.model, arguments.llama_bin, str(state)]
    command.append(contender if stock else "f16")
    command += [str(x) for x in (state_depth, depth, prompt, generate, arguments.threads)]
    env = lib.command_of(contender, arguments.plugin, [])[1]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{contender} at {depth}: {done.stderr[-2000:]}")
    if not stock and "KV layers compressed" not in done.stderr:
        sys.exit(f"the plugin was not active for {contender}: {done.stderr[-2000:]}")
    return json.loads(done.stdout)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    lib.add_common_arguments(parser)
    parser.add_argument("--program", default=str(lib.ROOT / "build/ci/bench/depth_speed"))
    parser.add_argument("--states", required=True, help="folder of the saved states")
    parser.add_argument("-d", "--depths", default="0,4096,16384")
    parser.add_argument("-n", "--generate", type=int, default=16)
    parser.add_argument("-p", "--prompts", default="", help="TOKENS@DEPTH,...")
    parser.add_argument("-r", "--rounds", type=int, default=3)
    parser.add_argument("contenders", nargs="+")
    arguments = parser.parse_args()

    record = lib.provenance(arguments, model=arguments.model, plugin=arguments.plugin)
    samples = {}
    memory = {}
    for round_index in range(arguments.rounds):
        for test in tests_of(arguments):
            turn = round_index % len(arguments.contenders)  # everyone comes first once
            for contender in arguments.contenders[turn:] + arguments.contenders[:turn]:
                figures = run(arguments, contender, test)
                samples.setdefault((test, contender), []).append(
                    figures["prompt"] or figures["generation"]
                )
                memory[test, contender] = figures["rss_anon_mib"]
        lib.note(f"round {round_index + 1}/{arguments.rounds}")
    rows = []
    for test in tests_of(arguments):
        name = f"pp{test[2]} @ {test[0]}" if test[2] else f"tg{test[3]} @ {test[0]}"
        medians = {c: statistics.median(samples[test, c]) for c in arguments.contenders}
        base = medians[arguments.contenders[0]]
        rows.append([name] + [f"{m:.1f} ({m / base:.2f}x)" for m in medians.values()])
    lib.print_table(["test"] + arguments.contenders, rows)
    record["rounds"] = arguments.rounds
    record["samples"] = [
        {
            "depth": test[0],
            "prompt": test[2],
            "generate": test[3],
            "cache": contender,
            "tokens_per_second": values,
            "rss_anon_mib": memory[test, contender],
        }
        for (test, contender), values in samples.items()
    ]
    lib.save(arguments, record)


if __name__ == "__main__":
    main()
