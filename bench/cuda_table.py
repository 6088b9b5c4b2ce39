#!/usr/bin/env python3
"""Joins the records of cuda_speed and cuda_baselines.py into one file, and prints it as Markdown.

  cuda_table.py OURS.json BASELINES.json OUT.json [COMMIT]
"""

import json
import sys


def best(rows, batch, length, kind):
    times = [r["us"] for r in rows
             if (r["batch"], r["length"], r["kind"]) == (batch, length, kind)]
    return min(times) if times else None


def format_name(number):
    """tq_cuda_format as its name; trellis forms count from 16."""
    return "turbo%d" % number if number < 16 else "turbo%dt" % (number - 16)


def main():
    ours_path, base_path, out_path = sys.argv[1:4]
    with open(ours_path, encoding="utf-8") as file:
        ours = json.load(file)
    with open(base_path, encoding="utf-8") as file:
        base = json.load(file)
    with open(out_path, "w", encoding="utf-8") as file:
        json.dump({"device": base["device"], "commit": sys.argv[4] if len(sys.argv) > 4 else "",
                   "torch": base["torch"], "triton": base["triton"], "cudnn": base["cudnn"],
                   "baselines": base["rows"], "turboquant": ours}, file, indent=1)
        file.write("\n")
    attention = [r for r in ours if r["kind"] == "attention"]
    roofline = next(r for r in ours if r["kind"] == "roofline")
    print("%s: read %.0f GB/s, copy %.0f GB/s.\n" % (base["device"], roofline["read_gbps"],
                                                     roofline["copy_gbps"]))
    print("| case | bf16 us | FP8 us | turbo4 us | x bf16 | x FP8 | of read | turbo3 us | x bf16 | "
          "of read | turbo2 us | x bf16 |")
    print("|---|---|---|---|---|---|---|---|---|---|---|---|")
    for batch in (1, 8, 32):
        for length in (8192, 32768, 131072):
            name = "B%d %dK" % (batch, length // 1024)
            bf16 = best(base["rows"], batch, length, "bf16")
            fp8 = best(base["rows"], batch, length, "fp8")
            cells = {r["k"]: r for r in attention if r["name"] == name and r["k"] == r["v"]}
            if bf16 is None or not {2, 3, 4} <= set(cells):
                continue
            four, three, two = cells[4], cells[3], cells[2]
            print("| %s | %.1f | %.1f | %.2f | %.2f | %.2f | %.0f %% | %.2f | %.2f | %.0f %% | %.2f "
                  "| %.2f |" % (name, bf16, fp8, four["us"], bf16 / four["us"], fp8 / four["us"],
                                100 * four["fraction"], three["us"], bf16 / three["us"],
                                100 * three["fraction"], two["us"], bf16 / two["us"]))
    print("\n| other shapes | formats | path | us | of read | error |\n|---|---|---|---|---|---|")
    for r in attention:
        if r["name"].startswith("B") and r["k"] == r["v"]:
            continue
        print("| %s | %s/%s | %s | %.1f | %.0f %% | %.0e |"
              % (r["name"], format_name(r["k"]), format_name(r["v"]), r["path"], r["us"], 100 * r["fraction"], r["error"]))
    print("\n| rows | us | rows/s |\n|---|---|---|")
    for r in ours:
        if r["kind"] == "encode":
            name = "turbo%dt" % (r["format"] - 16) if r["format"] > 16 else "turbo%d" % r["format"]
            print("| encode %s, %d sequences x %d tokens x 8 heads, K and V | %.1f | %.2e |"
                  % (name, r["batch"], r["tokens"], r["us"], r["rows_per_s"]))
        if r["kind"] == "scores":
            print("| inner products turbo%d, %d queries | %.1f | %.2e |"
                  % (r["format"], r["queries"], r["us"], r["rows_per_s"]))


if __name__ == "__main__":
    main()
