"""A stock llama-server with the plugin: starting it, asking it, comparing its answers."""

import concurrent.futures
import http.client
import json
import signal
import socket
import subprocess
import time

from host_lib import BIN, MODEL, TEXT, WORK, environment, expect

THREADS = "2"
STORY = TEXT.read_text()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Answer:
    """One completion: token ids, and the model's log probabilities of the ten likeliest tokens."""

    def __init__(self, reply):
        self.text = reply["content"]
        self.timings = reply["timings"]
        self.truncated = reply["truncated"]
        tokens = reply.get("completion_probabilities", [])
        self.ids = [t["id"] for t in tokens]
        self.chosen = [t["logprob"] for t in tokens]
        self.top = [{c["id"]: c["logprob"] for c in t["top_logprobs"]} for t in tokens]


class Server:
    """llama-server under a policy (None: without plugin). Its stderr is kept in WORK/name.log."""

    def __init__(self, name, policy, options=()):
        WORK.mkdir(parents=True, exist_ok=True)
        self.name, self.policy = name, policy
        self.port = free_port()
        self.path = WORK / (name + ".log")
        command = [str(BIN / "llama-server"), "-m", MODEL, "--host", "127.0.0.1", "--port",
                   str(self.port), "-t", THREADS, "-tb", THREADS, "--no-webui", "-lv", "4",
                   *map(str, options)]
        with open(self.path, "wb") as log:
            self.process = subprocess.Popen(command, env=environment(policy),
                                            stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                            cwd=WORK)

    def __enter__(self):
        deadline = time.time() + 60
        while time.time() < deadline and self.process.poll() is None:
            try:
                if self.ask("GET", "/health")[0] == 200:
                    return self
            except OSError:
                pass
            time.sleep(0.05)
        self.process.kill()
        raise RuntimeError("%s: llama-server does not start: %s" % (self.name, self.log()[-800:]))

    def __exit__(self, kind, *_):
        """Every test ends with the report of the plugin, and an end as the stock server has it."""
        code = self.stop()
        if kind is not None:
            return
        expect(code == 0, "%s: exit code %s after SIGTERM" % (self.name, code))
        log = self.log()
        if self.policy is not None:
            wanted = "0 of 30 KV" if self.policy.startswith("f16") else "30 of 30 KV"
            expect(wanted + " layers compressed" in log, self.name + ": the plugin did not report")
        expect("not computed" not in log and "not stored" not in log and "not read" not in log,
               self.name + ": the plugin reports a failure")

    def stop(self, how=signal.SIGTERM):
        if self.process.poll() is None:
            self.process.send_signal(how)
        try:
            return self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            return "none in 30 s"

    def log(self):
        return self.path.read_text(errors="replace")

    def ask(self, method, path, body=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        try:
            connection.request(method, path, None if body is None else json.dumps(body),
                               {"Content-Type": "application/json"})
            reply = connection.getresponse()
            data = reply.read()
        finally:
            connection.close()
        try:
            return reply.status, json.loads(data)
        except ValueError:
            return reply.status, data

    def complete(self, prompt, n, **more):
        body = {"prompt": prompt, "n_predict": n, "temperature": 0, "n_probs": 10, "seed": 1,
                "cache_prompt": True, "ignore_eos": True, **more}
        status, reply = self.ask("POST", "/completion", body)
        if status != 200:
            raise RuntimeError("%s: /completion says %s: %s" % (self.name, status, reply))
        return Answer(reply)

    def together(self, requests):
        """Concurrent requests: [(prompt, n, options)] -> answers."""
        with concurrent.futures.ThreadPoolExecutor(len(requests)) as pool:
            running = [pool.submit(self.complete, prompt, n, **more)
                       for prompt, n, more in requests]
            return [answer.result() for answer in running]

    def tokens(self, text):
        return self.ask("POST", "/tokenize", {"content": text})[1]["tokens"]

    def slot(self, number, action, file=None):
        return self.ask("POST", "/slots/%d?action=%s" % (number, action),
                        {"filename": file} if file else {})


def same(what, a, b):
    """The same computation: tokens and log probabilities are equal to the last bit."""
    expect(len(a.ids) > 0 and a.ids == b.ids, "%s: other tokens: %r, %r" % (what, a.text, b.text))
    expect(a.chosen == b.chosen and a.top == b.top, what + ": other log probabilities")


class Nearness:
    """What is guaranteed when the same rows are computed in other batches.

    If no log probability moves by more than `bound`, then greedy decoding can only part where the
    second token was within 2 * bound of the first; after that the texts are different prompts. So:
    log probabilities agree up to and at the first other token, and that token was such a near tie.
    `mean` bounds the mean change of each answer.
    """

    def __init__(self, bound, mean=None):
        self.bound, self.mean = bound, bound if mean is None else mean
        self.changes = []
        self.compared = 0

    def objection(self, a, b):
        """Why b is not a, or None."""
        own = []
        for i in range(min(len(a.ids), len(b.ids))):
            both = [t for t in a.top[i].keys() & b.top[i].keys() if a.top[i][t] > -5]
            changes = [abs(a.top[i][t] - b.top[i][t]) for t in both] or [99.0]
            self.compared += 1
            self.changes += changes
            own += changes
            if max(changes) > self.bound:
                return "token %d: log probabilities differ by %.3f" % (i, max(changes))
            if a.ids[i] != b.ids[i]:
                gap = a.chosen[i] - a.top[i].get(b.ids[i], -99.0)
                if gap > 2 * self.bound:
                    return "token %d is another, %.3f less likely" % (i, gap)
                break
        mean = sum(own) / max(len(own), 1)
        return None if mean <= self.mean else "log probabilities differ by mean %.4f" % mean

    def check(self, what, a, b):
        why = self.objection(a, b)
        expect(why is None, "%s: %s (bounds %g, %g)" % (what, why, self.mean, self.bound))

    def finish(self, what, least):
        mean = sum(self.changes) / max(len(self.changes), 1)
        print("%-48s %4d tokens, log probabilities differ by mean %.4f worst %.4f (bounds %g, %g)" %
              (what, self.compared, mean, max(self.changes, default=0), self.mean, self.bound),
              flush=True)
        expect(self.compared >= least, "%s: only %d tokens compared" % (what, self.compared))


def likelihoods(server, prompt, following, **more):
    """The log probabilities the server gives to `following`, a token at a time: they are forced.

    Returns one {token: log probability} of the likeliest tokens per step, and how many tokens the
    first step found in the cache.
    """
    steps, kept = [], None
    for i in range(len(following)):
        answer = server.complete(prompt + following[:i], 1, n_probs=50, **more)
        kept = answer.timings["cache_n"] if kept is None else kept
        steps.append(answer.top[0])
    return steps, kept


def moved(what, wanted, found, bound):
    """Mean change of the log probabilities of the ten likeliest tokens of every step."""
    changes = []
    for a, b in zip(wanted, found):
        for token in sorted(a, key=a.get)[-10:]:
            changes.append(abs(a[token] - b.get(token, min(b.values()))))
    mean = sum(changes) / max(len(changes), 1)
    print("%-48s %4d tokens, log probabilities differ by mean %.4f worst %.4f (bound %g)" %
          (what, len(found), mean, max(changes, default=0), bound), flush=True)
    expect(len(wanted) == len(found) and len(found) > 30, what + ": too few tokens")
    expect(mean <= bound, "%s: log probabilities moved by %.4f, bound %g" % (what, mean, bound))
