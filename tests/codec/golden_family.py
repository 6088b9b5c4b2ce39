"""Golden rows of the codec family: whole rows, by encoders written in Python from docs/FORMAT.md.

  golden_family.py            prints golden_family.inc
  golden_family.py --check    fails if the golden_family.inc beside it differs

Arithmetic as in golden_rows.py: every float operation in double, rounded to binary32. Generated
tables (centroids, alphabets) are read from src/codec; polynomials, factors and codebooks that are
solved for a head_dim are derived here.
"""

import math
import pathlib
import re
import struct
import sys

from golden_rows import HERE, MASK, encode, f32, fold, half_bits, pack, rotate, row, splitmix, table

SEED = 20260501
TRELLIS_TABLES = HERE.parent.parent / "src" / "codec" / "trellis_tables.inc"
# Ungerboeck 1982, table I, by number of states.
POLYNOMIALS = {4: (0o5, 0o2), 8: (0o13, 0o4), 16: (0o23, 0o4), 32: (0o45, 0o10),
               64: (0o103, 0o24), 128: (0o235, 0o126), 256: (0o515, 0o362)}
NF4 = [-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
       -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
       0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
       0.7229568362236023, 1.0]


def half(bits):
    return struct.unpack("<e", struct.pack("<H", bits))[0]


def le16(bits):
    return struct.pack("<H", bits)


def book(bits):
    return table("kCentroids%d" % bits), table("kThresholds%d" % bits)


def planes(codes, bits):
    """Code bytes of 1 to 4 and 8 bits."""
    d = len(codes)
    if bits == 8:
        return bytes(codes)
    if bits == 1:
        return bytes(sum(codes[j + t * d // 8] << t for t in range(8)) for j in range(d // 8))
    return pack(codes, bits)


def inverse_rms(y):
    return f32(1 / f32(math.sqrt(f32(fold([f32(v * v) for v in y]) / len(y)))))


def codes_of(y, inverse, thresholds):
    return [sum(f32(v * inverse) > t for t in thresholds) for v in y]


def scale_of(rule, y, c):
    energy = fold([f32(v * v) for v in y])
    dot = fold([f32(a * b) for a, b in zip(y, c)])
    norm = fold([f32(v * v) for v in c])
    value = {"ls": lambda: f32(dot / norm),
             "norm": lambda: f32(math.sqrt(f32(energy / len(y)))),
             "matched": lambda: f32(math.sqrt(f32(energy / norm))),
             "unbiased": lambda: f32(energy / dot)}[rule]()
    return half_bits(value)


def scalar(y, bits, rule="ls", numbers=None):
    """(scale, code bytes, decoded centroids)."""
    centroids, thresholds = numbers or book(bits)
    codes = codes_of(y, inverse_rms(y), thresholds)
    c = [centroids[k] for k in codes]
    return scale_of(rule, y, c), planes(codes, bits), c


def scalar_row(y, bits, rule="ls", numbers=None):
    scale, codes, _ = scalar(y, bits, rule, numbers)
    return le16(scale) + codes


# --- product ---

def derived_seed(seed, purpose):
    draws = splitmix(seed ^ MASK)
    for _ in range(purpose):
        next(draws)
    return next(draws)


def product_row(y, bits, project):
    scale, codes, c = scalar(y, bits - 1)
    s = half(scale)
    residual = [f32(v - f32(s * k)) for v, k in zip(y, c)]
    gamma = half_bits(f32(math.sqrt(fold([f32(v * v) for v in residual]))))
    signs = [1 if v > 0 else 0 for v in project(residual)]
    return le16(scale) + le16(gamma) + codes + planes(signs, 1)


# --- dense matrices ---

def normals(seed):
    draws = splitmix(seed)

    def uniform():
        return ((next(draws) >> 11) + 0.5) * 2.0 ** -53

    while True:
        radius = math.sqrt(-2.0 * math.log(uniform()))
        yield radius * math.cos(6.283185307179586 * uniform())


def gaussian(d, seed):
    draws = normals(seed)
    return [[next(draws) for _ in range(d)] for _ in range(d)]


def haar(d, seed):
    """Rows made orthonormal one after the other."""
    done = []
    for r in gaussian(d, seed):
        for _ in range(2):
            for q in done:
                share = math.fsum(a * b for a, b in zip(r, q))
                r = [a - share * b for a, b in zip(r, q)]
        length = math.sqrt(math.fsum(v * v for v in r))
        done.append([v / length for v in r])
    return done


def times(matrix, x):
    return [fold([f32(f32(m) * v) for m, v in zip(r, x)]) for r in matrix]


# --- fractional ---

def halves_row(y, bits):
    d = len(y)
    inverse = inverse_rms(y)
    head, tail = book(bits + 1), book(bits)
    first = codes_of(y[:d // 2], inverse, head[1])
    last = codes_of(y[d // 2:], inverse, tail[1])
    c = [head[0][k] for k in first] + [tail[0][k] for k in last]
    return le16(scale_of("ls", y, c)) + planes(first, bits + 1) + planes(last, bits)


def outlier_row(x, bits, channels):
    rest = [i for i in range(len(x)) if i not in channels]
    head = scalar(rotate([x[i] for i in channels], SEED), bits + 1)
    tail = scalar(rotate([x[i] for i in rest], derived_seed(SEED, 1)), bits)
    return le16(head[0]) + le16(tail[0]) + head[1] + tail[1]


# --- trellis ---

def alphabet(bits, states):
    body = re.search(r"kTrellisAlphabets%d\[7\]\[\d+\] = \{(.*?)\n\};" % bits,
                     TRELLIS_TABLES.read_text(), re.S).group(1)
    body = re.sub(r"//[^\n]*", "", body)
    rows = re.findall(r"\{(.*?)\}", body, re.S)
    return [f32(float(v)) for v in re.findall(r"(-?[\d.]+)f", rows[states.bit_length() - 3])]


def trellis_row(y, bits, states):
    """Viterbi over explicit windows: state = the last m path bits, the newest lowest."""
    h0, h1 = POLYNOMIALS[states]
    levels = alphabet(bits, states)
    inverse = inverse_rms(y)

    def subset(window):
        return 2 * (bin(window & h0).count("1") & 1) + (bin(window & h1).count("1") & 1)

    cost = {0: (0.0, ())}
    for v in y:
        u = f32(v * inverse)
        best = []
        for s in range(4):
            errors = [f32(f32(u - levels[4 * r + s]) ** 2) for r in range(2 ** (bits - 1))]
            least = min(errors)
            best.append((least, errors.index(least)))
        following = {}
        # Predecessors without and then with the oldest bit: the second wins only if it is better.
        for state in sorted(cost, key=lambda s: s >= states // 2):
            for bit in (0, 1):
                window = 2 * state + bit
                s = subset(window)
                total = f32(cost[state][0] + best[s][0])
                new = window % states
                if new not in following or total < following[new][0]:
                    following[new] = (total, (cost[state][1], (bit, best[s][1], 4 * best[s][1] + s)))
        cost = following
    least = min(total for total, _ in cost.values())
    state = min(s for s in cost if cost[s][0] == least)
    steps = []
    path = cost[state][1]
    while path:
        path, step = path
        steps.append(step)
    steps.reverse()
    c = [levels[index] for _, _, index in steps]
    plane_bits = [[bit for bit, _, _ in steps]]
    plane_bits += [[(r >> p) & 1 for _, r, _ in steps] for p in range(bits - 1)]
    data = b"".join(bytes(sum(plane[8 * j + t] << t for t in range(8)) for j in range(len(y) // 8))
                    for plane in plane_bits)
    return le16(scale_of("ls", y, c)) + data


# --- solved codebooks ---

def beta_book(bits, d):
    """Lloyd-Max of sqrt(d) times a coordinate of the unit sphere: density ~ (1 - u^2/d)^((d-3)/2)."""
    k = (d - 3) / 2
    edge = math.sqrt(d)

    def mass(a, b):  # Gauss-Legendre, 8 points, 12 panels
        nodes = (0.1834346424956498, 0.5255324099163290, 0.7966664774136267, 0.9602898564975363)
        weights = (0.3626837833783620, 0.3137066458778873, 0.2223810344533745, 0.1012285362903763)
        panels, total = 12, 0.0
        for i in range(panels):
            low = a + (b - a) * i / panels
            half_width = (b - a) / panels / 2
            for node, weight in zip(nodes, weights):
                for x in (low + half_width * (1 - node), low + half_width * (1 + node)):
                    total += weight * half_width * (1 - x * x / d) ** k
        return total

    def moment(a, b):  # of u, exact
        return d / (2 * (k + 1)) * ((1 - a * a / d) ** (k + 1) - (1 - b * b / d) ** (k + 1))

    n = 1 << (bits - 1)
    c = [(i + 0.5) * 4 / n for i in range(n)]
    change = 1.0
    while change > 1e-14:
        t = [0.0] + [(a + b) / 2 for a, b in zip(c, c[1:])] + [edge]
        moved = [moment(a, b) / mass(a, b) for a, b in zip(t, t[1:])]
        change = max(abs(a - b) for a, b in zip(c, moved))
        c = moved
    centroids = [-v for v in reversed(c)] + c
    thresholds = [(a + b) / 2 for a, b in zip(centroids, centroids[1:])]
    return [f32(v) for v in centroids], [f32(v) for v in thresholds]


def uniform_book(bits):
    """The step at which no change of it lowers the distortion of N(0, 1)."""
    def density(u):
        return math.exp(-u * u / 2) / math.sqrt(2 * math.pi)

    def tail(u):
        return math.erfc(u / math.sqrt(2)) / 2

    def slope(step):
        total = 0.0
        for i in range(1 << (bits - 1)):
            a, b, c = i * step, (i + 1) * step, (i + 0.5) * step
            last = i + 1 == 1 << (bits - 1)
            total -= (i + 0.5) * (density(a) - (0 if last else density(b))
                                  - c * (tail(a) - (0 if last else tail(b))))
        return total

    low, high = 1e-3, 4.0
    while high - low > 1e-15:
        middle = (low + high) / 2
        if middle in (low, high):
            break
        if slope(middle) < 0:
            low = middle
        else:
            high = middle
    levels = 1 << bits
    return ([f32((i - 0.5 * (levels - 1)) * low) for i in range(levels)],
            [f32((i - 0.5 * levels) * low) for i in range(1, levels)])


# --- groups ---

def affine_group(x, bits):
    top = (1 << bits) - 1
    scale = half_bits(f32(f32(max(x) - min(x)) / top))
    zero = half_bits(min(x))
    step = half(scale)
    codes = [min(max(round(f32(f32(v - half(zero)) / step)), 0), top) for v in x]
    return le16(scale) + le16(zero) + planes(codes, bits)


def nf4_group(x):
    scale = half_bits(max(abs(v) for v in x))
    values = [f32(v) for v in NF4]
    middles = [f32(0.5 * f32(a + b)) for a, b in zip(values, values[1:])]
    codes = [sum(f32(v / half(scale)) > m for m in middles) for v in x]
    return le16(scale) + planes(codes, 4)


def q8_0_group(x):
    scale = f32(max(abs(v) for v in x) / 127)
    inverse = f32(1 / scale)
    steps = [f32(v * inverse) for v in x]
    codes = [int(math.copysign(math.floor(abs(s) + 0.5), s)) & 255 for s in steps]
    return le16(half_bits(scale)) + bytes(codes)


def q4_0_group(x):
    largest = max(x, key=abs)
    scale = f32(largest / -8)
    inverse = f32(1 / scale)
    codes = [min(15, int(f32(f32(v * inverse) + 8.5))) for v in x]
    return le16(half_bits(scale)) + pack(codes, 4)


def groups(x, size, encode_group):
    return b"".join(encode_group(x[i:i + size]) for i in range(0, len(x), size))


def rows():
    """(spec, head_dim, bytes); every spec but those without a rotation is given the seed."""
    for d in (64, 80, 128):
        x = row(d)
        y = rotate(x, SEED)
        for bits in (1, 2, 3, 4, 8):
            yield "turbo%d" % bits, d, scalar_row(y, bits)
        for bits, states in ((2, 64), (3, 8), (4, 8)):
            yield "turbo%dt" % bits, d, trellis_row(y, bits, states)
        for bits in (2, 3, 4):
            yield ("turbo%dq" % bits, d,
                   product_row(y, bits, lambda r: rotate(r, derived_seed(SEED, 0))))
        for bits in (2, 3):
            yield "turbo%d.5" % bits, d, halves_row(y, bits)
            yield ("turbo%d.5:split=outlier" % bits, d,
                   outlier_row(x, bits, range(max(16, d // 64 * 16))))
    d = 64
    x = row(d)
    y = rotate(x, SEED)
    for states in (4, 16, 32, 128, 256):
        yield "turbo3t:states=%d" % states, d, trellis_row(y, 3, states)
    yield "turbo2t:states=8", d, trellis_row(y, 2, 8)
    for rule in ("norm", "matched", "unbiased"):
        yield "turbo3:scale=%s" % rule, d, scalar_row(y, 3, rule)
    yield "turbo3:codebook=beta", d, scalar_row(y, 3, numbers=beta_book(3, d))
    channels = list(range(3, 11)) + list(range(40, 48))
    yield ("turbo2.5:split=outlier,channels=3-10+40-47", d, outlier_row(x, 2, channels))
    dense = haar(d, SEED)
    yield "turbo3:rotation=haar", d, scalar_row(times(dense, x), 3)
    matrix = gaussian(d, derived_seed(SEED, 0))
    yield ("turbo3q:projection=gaussian", d, product_row(y, 3, lambda r: times(matrix, r)))
    x = row(128)
    for bits in (2, 3, 4, 8):
        yield "uniform%d" % bits, 128, scalar_row(x, bits, numbers=uniform_book(bits))
        yield "kivi%d" % bits, 128, groups(x, 32, lambda g: affine_group(g, bits))
    yield "kivi2:group=64", 128, groups(x, 64, lambda g: affine_group(g, 2))
    yield "nf4", 128, groups(x, 64, nf4_group)
    yield "q8_0", 128, groups(x, 32, q8_0_group)
    yield "q4_0", 128, groups(x, 32, q4_0_group)
    yield "f16", 128, groups(x, 1, lambda g: le16(half_bits(g[0])))


def with_seed(spec):
    if not spec.startswith("turbo"):
        return spec
    return spec + ("," if ":" in spec else ":") + "seed=%d" % SEED


def render():
    lines = ["// Generated by golden_family.py; do not edit. Rows of GoldenInput(head_dim).",
             "// {spec, head_dim, bytes}"]
    for spec, d, data in rows():
        lines.append('{"%s", %d,' % (with_seed(spec), d))
        text = data.hex()
        parts = [text[i:i + 88] for i in range(0, len(text), 88)]
        lines += [' "%s"%s' % (p, "}," if i + 1 == len(parts) else "")
                  for i, p in enumerate(parts)]
    return "\n".join(lines) + "\n"


def main():
    text = render()
    if sys.argv[1:] == ["--check"]:
        if (HERE / "golden_family.inc").read_text() != text:
            sys.exit("golden_family.inc is not what golden_family.py prints")
        return
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
