#!/usr/bin/env python3
"""Vector search on real vectors, the token embeddings of a GGUF model: recall and speed of codecs beside
exact search, as a Markdown table. Needs the Python packages gguf and numpy.

  bench/search.py -m MODEL.gguf [--turboquant build/release/cli/turboquant] [--limit N] [SPEC...]

All vectors are scaled to length 1. 500 of them, drawn at random, are the queries and left out of the base.
Each figure is one `turboquant encode` and the best of three `turboquant search --exact`.
"""
import argparse
import json
import pathlib
import subprocess
import tempfile

import gguf
import numpy as np

QUERIES = 500
SPECS = ["turbo2", "turbo2t", "turbo2.5", "turbo3", "turbo3t", "turbo3q", "turbo4", "turbo4t", "turbo8",
         "q4_0", "q8_0"]


def embeddings(path, limit):
    for tensor in gguf.GGUFReader(path).tensors:
        if tensor.name == "token_embd.weight":
            data = tensor.data if limit is None else tensor.data[:limit]
            x = gguf.quants.dequantize(data, tensor.tensor_type).astype(np.float32)
            norms = np.linalg.norm(x, axis=1, keepdims=True)
            keep = norms[:, 0] > 1e-6 * norms.max()  # unused tokens
            return x[keep] / norms[keep]
    raise SystemExit("%s has no token_embd.weight" % path)


def run(args):
    return json.loads(subprocess.run([str(a) for a in args], check=True, capture_output=True,
                                     text=True).stdout)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("-m", "--model", required=True)
    parser.add_argument("--turboquant", default="build/release/cli/turboquant")
    parser.add_argument("--limit", type=int, help="vectors to take (default: all)")
    parser.add_argument("specs", nargs="*", default=SPECS)
    options = parser.parse_args()
    x = embeddings(options.model, options.limit)
    order = np.random.default_rng(1).permutation(len(x))
    with tempfile.TemporaryDirectory() as folder:
        base, queries, one, coded = (pathlib.Path(folder) / n
                                     for n in ("base.npy", "q.npy", "q1.npy", "base.tq"))
        np.save(queries, x[order[:QUERIES]])
        np.save(one, x[order[:1]])
        np.save(base, x[order[QUERIES:]])
        print("%d vectors of %d values, %d queries, k = 10\n"
              % (len(x) - QUERIES, x.shape[1], QUERIES))
        print("| codec | bits per value | encode, rows/s | recall@10 | best in 10 | best first |"
              " products/s | x exact | one query | x exact |")
        print("|---|---|---|---|---|---|---|---|---|---|")
        most = {queries: 0.0, one: 0.0}
        for spec in options.specs:
            encoded = run([options.turboquant, "encode", base, coded, "--codec", spec, "--json"])
            cells = []
            for of in (queries, one):
                found = [run([options.turboquant, "search", coded, of, "-k", 10, "--exact", base,
                              "--show", 0, "--json"]) for _ in range(3)]
                fast = max(f["products_per_second"] for f in found)
                exact = max(f["exact"]["products_per_second"] for f in found)
                most[of] = max(most[of], exact)
                cells += ["%.3g M" % (fast / 1e6), "%.2f" % (fast / exact)]
                recall = found[0]["exact"] if of == queries else recall
            print("| %s | %.3f | %.3g M | %.3f | %.3f | %.3f | %s |"
                  % (spec, encoded["bits_per_value"], encoded["rows_per_second"] / 1e6,
                     recall["recall_at_k"], recall["best_at_k"], recall["best_at_1"],
                     " | ".join(cells)), flush=True)
        print("| exact, f32 | 32 | | 1 | 1 | 1 | %.3g M | 1 | %.3g M | 1 |"
              % (most[queries] / 1e6, most[one] / 1e6))


if __name__ == "__main__":
    main()
