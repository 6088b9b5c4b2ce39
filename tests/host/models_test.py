"""Tests of the plugin in an unmodified llama.cpp on tiny models of many shapes (tiny_models.py).

Every model: logits depend on what attention reads; TURBOQUANT_KV=f16 changes no bit; compressed
caches are close, 8 bits so close that a forgotten mask, slope, cap or scale would stand out; the
report counts the right layers. Python standard library only.
"""

import re

import tiny_models
from host_lib import WORK, compare, drive, expect, finish, identical

PROBES = 48  # of the driver's scenario "shape"
SMALL_BATCH = ["ub=32"]  # then the host's window layers have a smaller cache than the others

# Policy, driver options, and the largest mean KL from stock as a share of the KL of a cache that
# remembers nothing: about four times the worst of all models, in the comment.
CASES = (
    ("turbo8,tail=16,sink=2", [], .0005),
    ("turbo8,tail=16,sink=2,swa=auto", SMALL_BATCH, .0005),
    ("turbo4", [], .012),
    ("k=turbo4t,v=turbo3t,tail=16,sink=2,swa=auto", SMALL_BATCH, .12),
    ("turbo4,tail=16,swa=auto", ["fa=off"], .12),
    ("turbo4,tail=0,sink=0,center=off,swa=auto", ["unified=on", "ub=32"], .15),
)


def path_of(name):
    path = WORK / ("tiny-%s.gguf" % name)
    tiny_models.MODELS[name]().write(path)
    return path


def logits(name, policy, path, options=()):
    name = "models-" + re.sub(r"\W+", "_", name)
    result = drive(name, policy, ["shape"], options, model=path)
    expect(result.code == 0, "%s: exit code %d: %s" % (
        name, result.code, result.stderr[-300:].replace("\n", " | ")))
    return result


def divergence(a, b):
    kls = [kl for _, _, kl in compare(a.out, b.out).values()]
    return sum(kls) / len(kls) if len(kls) == PROBES else float("nan")


def report(result):
    return next((line for line in result.plugin_lines() if "KV" in line and "compress" in line), "")


class Stock:
    """The stock host on a model, and how far its logits move when it forgets; run once an option."""

    def __init__(self, name, path):
        self.name, self.path, self.known = name, path, {}

    def __call__(self, options):
        key = " ".join(options)
        if key not in self.known:
            name = "%s stock %s" % (self.name, key)
            result = logits(name, None, self.path, options)
            lost = logits(name + " lost", None, self.path, options + ["forget=on"])
            forgetting = divergence(result, lost)
            expect(forgetting > .2, "%s: forgetting moves logits by a KL of only %g" % (
                name, forgetting))
            self.known[key] = result, forgetting
        return self.known[key]


def attention_models():
    """All that attend: layers is how many of them do."""
    for name in tiny_models.MODELS:
        if name in ("recurrent", "nan"):
            continue
        layers = 1 if name == "hybrid" else tiny_models.LAYERS
        path = path_of(name)
        stock = Stock(name, path)
        for options in ([], SMALL_BATCH, ["fa=off"]):
            tag = "%s f16 %s" % (name, "_".join(options))
            result = logits(tag, "f16", path, options)
            identical(tag, stock(options)[0], result, PROBES)
            expect("0 of %d KV layers" % layers in report(result), tag + ": " + report(result))
        shares = []
        for policy, options, bound in CASES:
            tag = "%s %s %s" % (name, policy, " ".join(options))
            reference, forgetting = stock(options)
            result = logits(tag, policy, path, options)
            shares.append(divergence(reference, result) / forgetting)
            expect(0 < shares[-1] <= bound, "%s: %.6f of the loss of forgetting, bound %g" % (
                tag, shares[-1], bound))
            expect("%d of %d KV layers" % (layers, layers) in report(result),
                   tag + ": " + report(result))
        print("%-16s %s" % (name, " ".join("%.5f" % s for s in shares)), flush=True)


def window_layers():
    """By default they stay f16, and the report says so."""
    for name in ("softcap", "sink_logits"):
        said = report(logits(name + " windows", "turbo4", path_of(name), SMALL_BATCH))
        expect("1 of 2 KV layers" in said and "1 sliding-window layers stay f16" in said,
               "%s: %s" % (name, said))


def no_attention():
    """Recurrent layers are left alone and named, with and without attention beside them."""
    path = path_of("recurrent")
    stock = logits("recurrent stock", None, path)
    for policy in ("f16", "turbo3"):
        result = logits("recurrent " + policy, policy, path)
        identical("recurrent " + policy, stock, result, PROBES)
        expect("no KV cache to compress; 2 recurrent layers" in report(result),
               "recurrent, %s: %s" % (policy, result.plugin_lines()))
    said = report(logits("hybrid report", "turbo4", path_of("hybrid")))
    expect("; 1 recurrent layers have no KV rows" in said, "hybrid: " + said)


def not_a_number():
    """A token that breaks the model: nothing crashes, and the other sequence does not notice."""
    path = path_of("nan")
    poison = ["poison=7"]
    for options in ([], SMALL_BATCH, ["fa=off"]):
        stock = logits("nan stock", None, path, options + poison)
        for policy in ("turbo4,tail=16", "k=turbo4t,v=turbo3t,tail=0,sink=0", "turbo8,tail=16"):
            tag = "nan %s %s" % (policy, " ".join(options))
            result = logits(tag, policy, path, options + poison)
            kls = {name: kl for name, (_, _, kl) in compare(stock.out, result.out).items()}
            clean = [kl for name, kl in kls.items() if name.endswith("_1")]
            expect(len(clean) == PROBES / 2 and max(clean) < 1.5,
                   "%s: the clean sequence: %s" % (tag, clean))
            expect(any("held NaN or Inf" in line for line in result.plugin_lines()),
                   tag + ": no message")


if __name__ == "__main__":
    WORK.mkdir(parents=True, exist_ok=True)
    attention_models()
    window_layers()
    no_attention()
    not_a_number()
    finish()
