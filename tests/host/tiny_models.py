"""Tiny GGUF models with random weights, in the shapes that a single real model does not show.

The weights are scaled so that attention is moderately peaked and logits depend on what it reads.
No vocabulary: tokens are numbers below VOCAB. Python standard library only.
"""

import array
import itertools
import random
import struct

VOCAB, EMBD, FF, LAYERS = 256, 128, 128, 2
ALIGNMENT = 32
UINT32, FLOAT32, BOOL, STRING, ARRAY = 4, 6, 7, 8, 9
TENSOR_F32 = 0

# Normal numbers in a pool of prime length, read round and round from other places.
_random = random.Random(20)
_pool = array.array("f", (_random.gauss(0, 1) for _ in range(65521)))


def normal(count, scale):
    start = _random.randrange(len(_pool))
    scaled = array.array("f", (scale * x for x in _pool))
    endless = itertools.cycle(itertools.chain(scaled[start:], scaled[:start]))
    return array.array("f", itertools.islice(endless, count))


class Model:
    """Metadata and tensors, written by write()."""

    def __init__(self, arch, **keys):
        self.arch = arch
        self.keys = {"general.architecture": arch, "tokenizer.ggml.model": "none"}
        self.tensors = []
        self.set(vocab_size=VOCAB, context_length=4096, embedding_length=EMBD, block_count=LAYERS,
                 feed_forward_length=FF, **keys)

    def set(self, **keys):
        """Keys of the architecture; __ stands for the dot."""
        for name, value in keys.items():
            self.keys["%s.%s" % (self.arch, name.replace("__", "."))] = value

    def matrix(self, name, *shape, gain=1.0):
        """Rows of unit variance become columns of standard deviation `gain`; shape[0] runs fastest."""
        count = 1
        for n in shape:
            count *= n
        self.tensors.append((name, shape, normal(count, gain / shape[0] ** 0.5)))

    def vector(self, name, n, value=1.0):
        self.tensors.append((name, (n,), array.array("f", [value] * n)))

    def tensor(self, name):
        return next(data for found, _, data in self.tensors if found == name)

    def write(self, path):
        data = [b"GGUF", struct.pack("<IQQ", 3, len(self.tensors), len(self.keys))]
        for key, value in self.keys.items():
            data += [_string(key), _value(value)]
        offset = 0
        for name, shape, values in self.tensors:
            data.append(_string(name) + struct.pack("<I%dQIQ" % len(shape), len(shape), *shape,
                                                    TENSOR_F32, offset))
            offset += -(-len(values) * 4 // ALIGNMENT) * ALIGNMENT
        head = b"".join(data)
        with open(path, "wb") as out:
            out.write(head + bytes(-len(head) % ALIGNMENT))
            for _, _, values in self.tensors:
                raw = values.tobytes()
                out.write(raw + bytes(-len(raw) % ALIGNMENT))


def _string(text):
    return struct.pack("<Q", len(text)) + text.encode()


def _value(value):
    if isinstance(value, bool):
        return struct.pack("<I?", BOOL, value)
    if isinstance(value, int):
        return struct.pack("<II", UINT32, value)
    if isinstance(value, float):
        return struct.pack("<If", FLOAT32, value)
    if isinstance(value, str):
        return struct.pack("<I", STRING) + _string(value)
    return struct.pack("<IIQ%dI" % len(value), ARRAY, UINT32, len(value), *value)


PEAK = 1.5  # standard deviation of queries and keys; logits then spread by its square


def _ends(m, norm_bias=False, tied=False):
    # Tied, a token's own embedding must not drown what attention says.
    m.matrix("token_embd.weight", EMBD, VOCAB, gain=1.0 if tied else EMBD ** 0.5)
    m.vector("output_norm.weight", EMBD)
    if norm_bias:
        m.vector("output_norm.bias", EMBD, 0.0)
    if not tied:
        m.matrix("output.weight", EMBD, VOCAB, gain=2.0)


def _qkv(m, blk, heads, kv_heads, dim, value_dim=None):
    m.matrix(blk + "attn_q.weight", EMBD, heads * dim, gain=PEAK)
    m.matrix(blk + "attn_k.weight", EMBD, kv_heads * dim, gain=PEAK)
    m.matrix(blk + "attn_v.weight", EMBD, kv_heads * (value_dim or dim))
    m.matrix(blk + "attn_output.weight", heads * (value_dim or dim), EMBD, gain=2.0)


def _dense(m, blk):
    m.vector(blk + "ffn_norm.weight", EMBD)
    for name, rows, columns in (("gate", EMBD, FF), ("up", EMBD, FF), ("down", FF, EMBD)):
        m.matrix("%sffn_%s.weight" % (blk, name), rows, columns)


def _blocks(count=LAYERS):
    return ["blk.%d." % i for i in range(count)]


def llama(heads, kv_heads, dim):
    m = Model("llama", attention__head_count=heads, attention__head_count_kv=kv_heads,
              attention__key_length=dim, attention__value_length=dim, rope__dimension_count=dim,
              attention__layer_norm_rms_epsilon=1e-5)
    _ends(m)
    for blk in _blocks():
        m.vector(blk + "attn_norm.weight", EMBD)
        _qkv(m, blk, heads, kv_heads, dim)
        _dense(m, blk)
    return m


def llama_nan():
    """The embedding of token 7 is not a number."""
    m = llama(4, 2, 64)
    m.tensor("token_embd.weight")[7 * EMBD:8 * EMBD] = array.array("f", [float("nan")] * EMBD)
    return m


def alibi(heads=2):
    """No positions but the slopes of ALiBi."""
    m = Model("mpt", attention__head_count=heads, attention__head_count_kv=heads,
              attention__layer_norm_epsilon=1e-5, attention__max_alibi_bias=8.0)
    _ends(m, norm_bias=True)
    for blk in _blocks():
        m.vector(blk + "attn_norm.weight", EMBD)
        m.matrix(blk + "attn_qkv.weight", EMBD, 3 * EMBD, gain=PEAK)
        m.matrix(blk + "attn_output.weight", EMBD, EMBD, gain=2.0)
        m.vector(blk + "ffn_norm.weight", EMBD)
        m.matrix(blk + "ffn_up.weight", EMBD, FF)
        m.matrix(blk + "ffn_down.weight", FF, EMBD)
    return m


def softcap(heads=4, kv_heads=2, dim=64):
    """Capped attention logits; layer 0 has a sliding window."""
    m = Model("gemma2", attention__head_count=heads, attention__head_count_kv=kv_heads,
              attention__key_length=dim, attention__value_length=dim, rope__dimension_count=dim,
              attention__layer_norm_rms_epsilon=1e-5, attention__sliding_window=48,
              attn_logit_softcapping=3.0, final_logit_softcapping=30.0)
    _ends(m, tied=True)
    for blk in _blocks():
        m.vector(blk + "attn_norm.weight", EMBD)
        _qkv(m, blk, heads, kv_heads, dim)
        m.vector(blk + "post_attention_norm.weight", EMBD)
        _dense(m, blk)
        m.vector(blk + "post_ffw_norm.weight", EMBD)
    return m


def sink_logits(heads=8, kv_heads=2, dim=64, experts=4):
    """A learned logit per head that takes weight from all tokens; layer 0 has a sliding window."""
    m = Model("gpt-oss", attention__head_count=heads, attention__head_count_kv=kv_heads,
              attention__key_length=dim, attention__value_length=dim, rope__dimension_count=dim,
              attention__layer_norm_rms_epsilon=1e-5, attention__sliding_window=48,
              expert_count=experts, expert_used_count=2, expert_feed_forward_length=FF)
    _ends(m)
    for blk in _blocks():
        m.vector(blk + "attn_norm.weight", EMBD)
        m.vector(blk + "post_attention_norm.weight", EMBD)
        _qkv(m, blk, heads, kv_heads, dim)
        m.vector(blk + "attn_output.bias", EMBD, 0.0)
        m.vector(blk + "attn_sinks.weight", heads, 4.0)
        m.matrix(blk + "ffn_gate_inp.weight", EMBD, experts)
        m.vector(blk + "ffn_gate_inp.bias", experts, 0.0)
        for name, rows, columns in (("gate", EMBD, FF), ("up", EMBD, FF), ("down", FF, EMBD)):
            m.matrix("%sffn_%s_exps.weight" % (blk, name), rows, columns, experts)
            for_all = (columns, experts)
            m.tensors.append(("%sffn_%s_exps.bias" % (blk, name), for_all,
                              array.array("f", [0.0] * (columns * experts))))
    return m


def latent(absorbed, heads=4, rank=128, rope=32, nope=64, value=64):
    """Latent attention: K and V of different size; absorbed, V is the front part of K's rows."""
    dim = rank + rope if absorbed else nope + rope
    m = Model("deepseek2", attention__head_count=heads,
              attention__head_count_kv=1 if absorbed else heads,
              attention__key_length=dim, attention__value_length=rank if absorbed else value,
              attention__q_lora_rank=64, attention__kv_lora_rank=rank, rope__dimension_count=rope,
              attention__layer_norm_rms_epsilon=1e-5, leading_dense_block_count=LAYERS,
              expert_count=0, expert_used_count=0, expert_shared_count=0,
              expert_feed_forward_length=FF)
    if absorbed:
        m.set(attention__key_length_mla=nope + rope, attention__value_length_mla=value)
    _ends(m)
    for blk in _blocks():
        m.vector(blk + "attn_norm.weight", EMBD)
        m.vector(blk + "attn_q_a_norm.weight", 64)
        m.vector(blk + "attn_kv_a_norm.weight", rank)
        m.matrix(blk + "attn_q_a.weight", EMBD, 64)
        m.matrix(blk + "attn_q_b.weight", 64, heads * (nope + rope), gain=PEAK)
        m.matrix(blk + "attn_kv_a_mqa.weight", EMBD, rank + rope, gain=PEAK)
        if absorbed:
            m.matrix(blk + "attn_k_b.weight", nope, rank, heads)
            m.matrix(blk + "attn_v_b.weight", rank, value, heads)
        else:
            m.matrix(blk + "attn_kv_b.weight", rank, heads * (nope + value), gain=PEAK)
        m.matrix(blk + "attn_output.weight", heads * value, EMBD, gain=2.0)
        _dense(m, blk)
    return m


def _recurrent(m, blk, norms):
    inner, state, rank = 2 * EMBD, 16, 8
    m.matrix(blk + "ssm_in.weight", EMBD, 2 * inner)
    m.matrix(blk + "ssm_conv1d.weight", 4, inner)
    m.vector(blk + "ssm_conv1d.bias", inner, 0.0)
    m.matrix(blk + "ssm_x.weight", inner, rank + 2 * state)
    m.matrix(blk + "ssm_dt.weight", rank, inner)
    m.vector(blk + "ssm_dt.bias", inner, -2.0)
    m.tensors.append((blk + "ssm_a", (state, inner), array.array("f", [-1.0] * (state * inner))))
    m.vector(blk + "ssm_d", inner)
    m.matrix(blk + "ssm_out.weight", inner, EMBD)
    if norms:
        for name, n in (("dt", rank), ("b", state), ("c", state)):
            m.vector("%sssm_%s_norm.weight" % (blk, name), n)


SSM = {"ssm__conv_kernel": 4, "ssm__inner_size": 2 * EMBD, "ssm__state_size": 16,
       "ssm__time_step_rank": 8, "attention__layer_norm_rms_epsilon": 1e-5}


def recurrent():
    """No attention at all."""
    m = Model("mamba", attention__head_count=0, **SSM)
    _ends(m)
    for blk in _blocks():
        m.vector(blk + "attn_norm.weight", EMBD)
        _recurrent(m, blk, norms=False)
    return m


def hybrid(heads=2, kv_heads=1):
    """One recurrent layer, one with attention."""
    m = Model("jamba", attention__head_count=heads, attention__head_count_kv=[0, kv_heads], **SSM)
    _ends(m)
    for i, blk in enumerate(_blocks()):
        m.vector(blk + "attn_norm.weight", EMBD)
        if i == 0:
            _recurrent(m, blk, norms=True)
        else:
            _qkv(m, blk, heads, kv_heads, EMBD // heads)
        _dense(m, blk)
    return m


MODELS = {
    "d64_gqa4": lambda: llama(8, 2, 64),
    "d80_mha": lambda: llama(2, 2, 80),
    "d96_mqa": lambda: llama(8, 1, 96),
    "d112_gqa2": lambda: llama(4, 2, 112),
    "d128_gqa8": lambda: llama(16, 2, 128),
    "d192_gqa4": lambda: llama(4, 1, 192),
    "d256_mqa": lambda: llama(4, 1, 256),
    "d512_gqa2": lambda: llama(2, 1, 512),
    "d576_gqa2": lambda: llama(2, 1, 576),
    "alibi": alibi,
    "softcap": softcap,
    "sink_logits": sink_logits,
    "latent": lambda: latent(absorbed=False),
    "latent_absorbed": lambda: latent(absorbed=True),
    "recurrent": recurrent,
    "hybrid": hybrid,
    "nan": llama_nan,
}
