#!/usr/bin/env python3
"""Decode attention of other kernels on this GPU: what bench/cuda_bench.cu is compared with.

  cuda_baselines.py OUT.json [SECONDS]

bf16 by PyTorch's flash and cuDNN attention and by a split-KV kernel in Triton (tuned on the spot),
FP8 (e4m3) by the same Triton kernel; both by FlashInfer too where it is installed. 32 query heads, 8
kv heads, head_dim 128. Rotating buffers of at least 512 MB, CUDA-graph replays, medians; every result
is checked against float64.
"""

import json
import math
import sys
import time

import torch
import torch.nn.functional as functional
import triton
import triton.language as tl
from torch.nn.attention import SDPBackend, sdpa_kernel

import cuda_flashinfer

Q_HEADS, KV_HEADS, DIM = 32, 8, 128
GROUP = Q_HEADS // KV_HEADS


@triton.jit
def split_kernel(q_ptr, k_ptr, v_ptr, part_ptr, lse_ptr, length, scale, splits,
                 GROUP: tl.constexpr, BLOCK: tl.constexpr, DIM: tl.constexpr):
    head = tl.program_id(0)
    split = tl.program_id(1)
    row = tl.arange(0, 16)
    dim = tl.arange(0, DIM)
    token = tl.arange(0, BLOCK)
    q = tl.load(q_ptr + (head * GROUP + row)[:, None] * DIM + dim[None, :],
                mask=(row < GROUP)[:, None], other=0.0)
    share = tl.cdiv(tl.cdiv(length, BLOCK), splits) * BLOCK
    begin = split * share
    end = tl.minimum(begin + share, length)
    best = tl.full([16], -1e30, tl.float32)
    total = tl.zeros([16], tl.float32)
    out = tl.zeros([16, DIM], tl.float32)
    k_base = k_ptr + head.to(tl.int64) * length * DIM
    v_base = v_ptr + head.to(tl.int64) * length * DIM
    for first in range(begin, end, BLOCK):
        k = tl.load(k_base + (first + token)[None, :] * DIM + dim[:, None])
        s = tl.dot(q, k.to(q.dtype)) * scale
        most = tl.maximum(best, tl.max(s, 1))
        p = tl.exp2(s - most[:, None])
        keep = tl.exp2(best - most)
        total = total * keep + tl.sum(p, 1)
        best = most
        v = tl.load(v_base + (first + token)[:, None] * DIM + dim[None, :])
        out = tl.dot(p.to(q.dtype), v.to(q.dtype), out * keep[:, None])
    at = (head * splits + split) * GROUP + row
    total = tl.maximum(total, 1e-30)
    tl.store(part_ptr + at[:, None] * DIM + dim[None, :], out / total[:, None],
             mask=(row < GROUP)[:, None])
    tl.store(lse_ptr + at, best + tl.log2(total), mask=row < GROUP)


@triton.jit
def merge_kernel(part_ptr, lse_ptr, out_ptr, splits, GROUP: tl.constexpr, DIM: tl.constexpr,
                 SPLITS: tl.constexpr):
    head = tl.program_id(0)
    row = tl.program_id(1)
    dim = tl.arange(0, DIM)
    split = tl.arange(0, SPLITS)
    there = split < splits
    lse = tl.load(lse_ptr + (head * splits + split) * GROUP + row, mask=there, other=-1e30)
    weight = tl.where(there, tl.exp2(lse - tl.max(lse, 0)), 0.0)
    weight = weight / tl.sum(weight, 0)
    part = tl.load(part_ptr + ((head * splits + split) * GROUP + row)[:, None] * DIM + dim[None, :],
                   mask=there[:, None], other=0.0)
    tl.store(out_ptr + (head * GROUP + row) * DIM + dim,
             tl.sum(part * weight[:, None], 0).to(out_ptr.dtype.element_ty))


def triton_attention(q, k, v, splits, config, buffers):
    block, warps, stages = config
    batch, length = q.shape[0], k.shape[2]
    part, lse, out = buffers
    split_kernel[(batch * KV_HEADS, splits)](
        q, k, v, part, lse, length, 1.4426950408889634 / math.sqrt(DIM), splits, GROUP, block, DIM,
        num_warps=warps, num_stages=stages)
    if splits == 1:
        return part
    merge_kernel[(batch * KV_HEADS, GROUP)](part, lse, out, splits, GROUP, DIM,
                                            triton.next_power_of_2(splits), num_warps=4)
    return out


def graph_time(calls, repeats=9):
    """Median microseconds of one call, the calls taken in turn."""
    for call in calls[:2]:
        call()
    torch.cuda.synchronize()
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    calls[0]()
    end.record()
    torch.cuda.synchronize()
    one = max(begin.elapsed_time(end), 1e-3)
    count = max(len(calls), min(64, int(6.0 / one) + 1))
    count = (count + len(calls) - 1) // len(calls) * len(calls)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        calls[0]()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        for i in range(count):
            calls[i % len(calls)]()
    times = []
    for i in range(repeats):
        begin.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        if i > 1:
            times.append(begin.elapsed_time(end) * 1000 / count)
    return sorted(times)[len(times) // 2]


class Baselines:
    CONFIGS = [(64, 4, 3), (64, 4, 4), (128, 4, 3), (128, 8, 3), (32, 4, 4), (128, 4, 2)]

    def __init__(self):
        self.rows = []
        self.has_flashinfer = cuda_flashinfer.available()
        if self.has_flashinfer:
            try:
                cuda_flashinfer.warm(Q_HEADS, KV_HEADS, DIM)
            except Exception as failure:  # it compiles: anything may go wrong, none of it is ours
                print("flashinfer left out: %s" % str(failure)[:300])
                self.has_flashinfer = False
        self.kept = {}  # kind -> configurations that were best on the tuning shape

    def add(self, batch, length, kind, name, us, error):
        size = 2 * batch * KV_HEADS * length * DIM * (1 if kind == "fp8" else 2)
        self.rows.append({"kind": kind, "name": name, "batch": batch, "length": length,
                          "us": us, "gbps": size / us * 1e-3, "error": error})
        print("B%d %dK %-5s %-32s %9.2f us %7.1f GB/s err %.1e"
              % (batch, length // 1024, kind, name, us, size / us * 1e-3, error), flush=True)

    def shape(self, batch, length):
        size = 4 * batch * KV_HEADS * length * DIM
        sets = max(1, (512 << 20) // size)
        k, v = (torch.randn(sets, batch, KV_HEADS, length, DIM, device="cuda",
                            dtype=torch.bfloat16) for _ in range(2))
        q = torch.randn(batch, Q_HEADS, 1, DIM, device="cuda", dtype=torch.bfloat16)
        last = q[-1].double().view(KV_HEADS, GROUP, DIM)
        weights = torch.softmax(last @ k[0, -1].double().transpose(-1, -2) / math.sqrt(DIM), -1)
        want = (weights @ v[0, -1].double()).reshape(Q_HEADS, DIM)

        def error(out):
            got = out.reshape(-1, Q_HEADS, DIM)[batch - 1].double()
            return ((got - want).norm() / want.norm()).item()

        packed = q.view(batch, KV_HEADS, GROUP, DIM)
        for name, backend in (("flash", SDPBackend.FLASH_ATTENTION),
                              ("cudnn", SDPBackend.CUDNN_ATTENTION)):
            for form, query in (("gqa", q), ("packed", packed)):
                def call(i, backend=backend, query=query, form=form):
                    with sdpa_kernel([backend]):
                        return functional.scaled_dot_product_attention(
                            query, k[i], v[i], enable_gqa=form == "gqa")
                try:
                    wrong = error(call(0))
                    us = graph_time([lambda i=i: call(i) for i in range(sets)])
                    self.add(batch, length, "bf16", "sdpa %s %s" % (name, form), us, wrong)
                except RuntimeError as failure:
                    print("B%d %dK sdpa %s %s: %s" % (batch, length // 1024, name, form,
                                                      str(failure).splitlines()[0][:90]))
                    torch.cuda.synchronize()
        buffers = (torch.empty(batch * Q_HEADS * 528, DIM, device="cuda"),
                   torch.empty(batch * Q_HEADS * 528, device="cuda"),
                   torch.empty(batch, Q_HEADS, DIM, device="cuda", dtype=torch.bfloat16))
        self.triton("bf16", "triton", batch, length, sets, q, k, v, buffers, error)
        self.flashinfer("bf16", batch, length, q, k, v, error)
        k8, v8 = (torch.empty_like(x, dtype=torch.float8_e4m3fn) for x in (k, v))
        for i in range(sets):
            for b in range(batch):
                k8[i, b], v8[i, b] = k[i, b].to(k8.dtype), v[i, b].to(v8.dtype)
        del k, v
        self.triton("fp8", "triton e4m3", batch, length, sets, q, k8, v8, buffers, error)
        self.flashinfer("fp8", batch, length, q, k8, v8, error)

    def flashinfer(self, kind, batch, length, q, k, v, error):
        if not self.has_flashinfer:
            return
        try:
            wrapper, indices = cuda_flashinfer.planned(batch, length, Q_HEADS, KV_HEADS, DIM, k.dtype)
            pages = []
            for i in range(k.shape[0]):  # bytes are moved: not every type can be permuted
                pages.append(tuple(cuda_flashinfer.paged(x[i].view(torch.uint8), indices).view(x.dtype)
                                   for x in (k, v)))
            rows = q.view(batch, Q_HEADS, DIM)
            wrong = error(wrapper.run(rows, pages[0]))
            us = graph_time([lambda i=i: wrapper.run(rows, pages[i]) for i in range(len(pages))])
            self.add(batch, length, kind, "flashinfer tensor cores", us, wrong)
        except RuntimeError as failure:
            print("B%d %dK flashinfer %s: %s" % (batch, length // 1024, kind,
                                                 str(failure).splitlines()[0][:90]))
            torch.cuda.synchronize()

    def triton(self, kind, name, batch, length, sets, q, k, v, buffers, error):
        def run(config, splits, repeats):
            return graph_time([lambda i=i: triton_attention(q, k[i], v[i], splits, config, buffers)
                               for i in range(sets)], repeats)

        configs = self.kept.get(kind)
        if configs is None:
            splits = max(1, 264 // (batch * KV_HEADS))
            configs = [c for _, c in sorted((run(c, splits, 5), c) for c in self.CONFIGS)][:3]
            if batch == 8:
                self.kept[kind] = configs
        best = None
        for config in configs:
            for slots in (132, 264, 528):
                splits = max(1, slots // (batch * KV_HEADS))
                us = run(config, splits, 7)
                if best is None or us < best[0]:
                    best = (us, config, splits)
        us, config, splits = best
        wrong = error(triton_attention(q, k[0], v[0], splits, config, buffers).flatten()
                      [:batch * Q_HEADS * DIM])
        self.add(batch, length, kind, "%s %s x%d" % (name, config, splits), us, wrong)


def main():
    out = sys.argv[1]
    limit = float(sys.argv[2]) if len(sys.argv) > 2 else 300
    start = time.time()
    baselines = Baselines()
    for length in (8192, 32768, 131072):
        for batch in (8, 1, 32):
            if time.time() - start > limit:
                print("out of time before B%d %dK" % (batch, length // 1024))
                continue
            baselines.shape(batch, length)
            torch.cuda.empty_cache()
    with open(out, "w", encoding="utf-8") as file:
        json.dump({"device": torch.cuda.get_device_name(0), "torch": torch.__version__,
                   "triton": triton.__version__, "cudnn": torch.backends.cudnn.version(),
                   "flashinfer": cuda_flashinfer.version(),
                   "rows": baselines.rows}, file, indent=1)
    print("%.0f s" % (time.time() - start))


if __name__ == "__main__":
    main()
