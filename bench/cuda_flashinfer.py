"""FlashInfer's paged decode attention, one more baseline of cuda_baselines.py where it is installed.

Its kernels are compiled on first use, so `warm` wants to be called before anything is timed.
"""

import torch

try:
    import flashinfer
except ImportError:
    flashinfer = None

PAGE = 16


def available():
    return flashinfer is not None


def version():
    return None if flashinfer is None else flashinfer.__version__


def planned(batch, length, q_heads, kv_heads, dim, kv_type, tensor_cores=True):
    """A wrapper planned for `batch` sequences of `length` tokens in consecutive pages."""
    workspace = torch.empty(256 << 20, dtype=torch.uint8, device="cuda")
    wrapper = flashinfer.BatchDecodeWithPagedKVCacheWrapper(
        workspace, "NHD", use_tensor_cores=tensor_cores)
    pages = length // PAGE
    indptr = torch.arange(batch + 1, dtype=torch.int32) * pages
    indices = torch.randperm(batch * pages).to(torch.int32)
    last = torch.full((batch,), PAGE, dtype=torch.int32)
    wrapper.plan(indptr.cuda(), indices.cuda(), last.cuda(), q_heads, kv_heads, dim, PAGE,
                 q_data_type=torch.bfloat16, kv_data_type=kv_type)
    return wrapper, indices


def paged(x, indices):
    """[batch, kv_heads, length, dim] as pages [pages, PAGE, kv_heads, dim] in the order of indices."""
    batch, heads, length, dim = x.shape
    rows = x.view(batch, heads, length // PAGE, PAGE, dim).permute(0, 2, 3, 1, 4)
    rows = rows.reshape(batch * length // PAGE, PAGE, heads, dim)
    out = torch.empty_like(rows)
    out[indices.long().to(x.device)] = rows
    return out


def warm(q_heads, kv_heads, dim):
    """Compiles the kernels; raises what FlashInfer raises."""
    for kv_type in (torch.bfloat16, torch.float8_e4m3fn):
        wrapper, _ = planned(1, 256, q_heads, kv_heads, dim, kv_type)
        pages = torch.zeros(256 // PAGE, PAGE, kv_heads, dim, device="cuda", dtype=torch.bfloat16)
        wrapper.run(torch.zeros(1, q_heads, dim, device="cuda", dtype=torch.bfloat16),
                    (pages.to(kv_type), pages.to(kv_type)))
    torch.cuda.synchronize()
