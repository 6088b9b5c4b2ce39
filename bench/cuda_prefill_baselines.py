#!/usr/bin/env python3
"""A chunk of new tokens over an uncompressed bf16 cache on this GPU: what bench/cuda_prefill_bench.cu
is compared with.

  cuda_prefill_baselines.py OUT.json

Flash and cuDNN attention of PyTorch over prefix + chunk / 2 keys without a mask (as many products as
the causal chunk needs), flash with the causal mask too, and the two products alone as cuBLAS does
them window by window, with bf16 logits and no softmax: less than any prefill built on it must do.
32 query heads, 8 kv heads, head_dim 128.
"""

import json
import math
import sys

import torch
import torch.nn.functional as functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.bias import causal_lower_right

Q_HEADS, KV_HEADS, DIM = 32, 8, 128
GROUP = Q_HEADS // KV_HEADS


def median_time(call, repeats=9):
    """Microseconds."""
    times = []
    for i in range(repeats + 2):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        call()
        end.record()
        torch.cuda.synchronize()
        if i > 1:
            times.append(begin.elapsed_time(end) * 1000)
    return sorted(times)[len(times) // 2]


def relative_error(out, q, k, v):
    """Of the last query token, which sees all keys."""
    last = q[0, :, -1].double().view(KV_HEADS, GROUP, DIM)
    weights = torch.softmax(last @ k[0].double().transpose(-1, -2) / math.sqrt(DIM), -1)
    want = (weights @ v[0].double()).reshape(Q_HEADS, DIM)
    return ((out[0, :, -1].double() - want).norm() / want.norm()).item()


def shape(prefix, chunk, rows):
    def add(name, call, check=None):
        try:
            error = check() if check else None
            us = median_time(call)
        except RuntimeError as failure:
            print("%s: %s" % (name, str(failure).splitlines()[0][:100]))
            torch.cuda.synchronize()
            return
        products = 4.0 * chunk * Q_HEADS * DIM * (prefix + (chunk + 1) / 2)
        rows.append({"name": name, "prefix": prefix, "chunk": chunk, "us": us,
                     "tflops": products / us * 1e-6, "error": error})
        print("%5d over %6d  %-26s %9.0f us %6.0f TFLOP/s  %s"
              % (chunk, prefix, name, us, products / us * 1e-6,
                 "" if error is None else "error %.1e" % error), flush=True)

    total = prefix + chunk
    k, v = (torch.randn(1, KV_HEADS, total, DIM, device="cuda", dtype=torch.bfloat16)
            for _ in range(2))
    q = torch.randn(1, Q_HEADS, chunk, DIM, device="cuda", dtype=torch.bfloat16)
    half = prefix + chunk // 2
    k_half, v_half = k[:, :, :half].contiguous(), v[:, :, :half].contiguous()
    for name, backend in (("flash", SDPBackend.FLASH_ATTENTION),
                          ("cudnn", SDPBackend.CUDNN_ATTENTION)):
        def call(backend=backend):
            with sdpa_kernel([backend]):
                return functional.scaled_dot_product_attention(q, k_half, v_half, enable_gqa=True)
        add("sdpa " + name, call, lambda: relative_error(call(), q, k_half, v_half))

    mask = causal_lower_right(chunk, total)

    def causal():
        with sdpa_kernel([SDPBackend.FLASH_ATTENTION]):
            return functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)
    add("sdpa flash causal", causal, lambda: relative_error(causal(), q, k, v))

    packed = q.view(KV_HEADS, GROUP * chunk, DIM)
    for window in (1024, 4096):
        logits = torch.empty(KV_HEADS, GROUP * chunk, window, device="cuda", dtype=torch.bfloat16)
        out = torch.empty(KV_HEADS, GROUP * chunk, DIM, device="cuda", dtype=torch.bfloat16)

        def products(window=window, logits=logits, out=out):
            for begin in range(0, half // window * window, window):
                torch.bmm(packed, k_half[0, :, begin:begin + window].transpose(1, 2), out=logits)
                torch.baddbmm(out, logits, v_half[0, :, begin:begin + window], out=out)
        add("cublas products, %d keys" % window, products)


def main():
    rows = []
    for prefix, chunk in ((32768, 512), (32768, 1024), (32768, 2048), (131072, 2048)):
        shape(prefix, chunk, rows)
        torch.cuda.empty_cache()
    with open(sys.argv[1], "w", encoding="utf-8") as file:
        json.dump({"device": torch.cuda.get_device_name(0), "torch": torch.__version__,
                   "cudnn": torch.backends.cudnn.version(), "rows": rows}, file, indent=1)


if __name__ == "__main__":
    main()
