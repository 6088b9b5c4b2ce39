"""Tests of the stock llama-server, and of llama-completion, with compressed caches.

  server_test.py GROUP        slots slot_files modes shift prompt_cache draft refusal

Bounds on log probabilities are about twice what was measured; wrong rows move them by units.
"""

import re
import resource
import subprocess
import sys

from host_lib import BIN, MAGIC, MODEL, WORK, environment, expect, finish
from server_lib import STORY, THREADS, Nearness, Server, likelihoods, moved, same

POLICIES = ("turbo4", "k=turbo4,v=turbo3")
FILES = WORK / "slots"


def label(policy):
    return re.sub(r"\W+", "_", str(policy))


def part(number, words=150):
    """A passage of the story: other words for every number."""
    text = STORY.split()
    return " ".join(text[number * 85:number * 85 + words])


# ------------------------------------------------------------------------------------- slots


PROMPTS = [part(i) + end for i, end in enumerate((
    " That night", " In the grey book", " She asked him whether", " The ship"))]


def at_once(server):
    return server.together([(p, 32, {"id_slot": i}) for i, p in enumerate(PROMPTS)])


def slots():
    """Four slots at once say what each says alone.

    First only the generation is concurrent: rows are coded in the same steps, no more than the
    order of sums is left to differ. (A repeated answer finds rows coded that were exact before, so
    a repetition is compared with a repetition.) Then the prompts share batches too, so other rows
    are exact at the time they are attended. With one KV buffer for all slots, the window belongs
    to all of them together. Stock f16 moves by 0, then mean .04 and worst .4; with one KV buffer by
    .046, .36 and .067, .43. Answers of other slots differ by mean 2 and more.
    """
    FILES.mkdir(parents=True, exist_ok=True)
    for policy in POLICIES:
        for unified in (False, True):
            name = "slots-%s-%s" % (label(policy), "unified" if unified else "split")
            options = ["-c", 4096, "-np", 4, "--kv-unified" if unified else "--no-kv-unified",
                       "--cache-ram", 0, "--slot-save-path", FILES]
            with Server(name, policy, options) as server:
                first = [server.complete(p, 32, id_slot=i) for i, p in enumerate(PROMPTS)]
                alone = [server.complete(p, 32, id_slot=i) for i, p in enumerate(PROMPTS)]
                generating = Nearness(2.0, 0.5) if unified else Nearness(0.1)
                for i, answer in enumerate(at_once(server)):
                    expect(answer.timings["cache_n"] > 150, "%s: prompt %d again" % (name, i))
                    generating.check("%s slot %d" % (name, i), alone[i], answer)
                generating.finish(name + ", generating", 20)
                for i in range(4):
                    expect(server.slot(i, "erase")[0] == 200, name + ": slot not erased")
                whole = Nearness(2.5, 0.5)
                for i, answer in enumerate(at_once(server)):
                    expect(answer.timings["cache_n"] == 0, "%s: slot %d was kept" % (name, i))
                    whole.check("%s slot %d" % (name, i), first[i], answer)
                whole.finish(name + ", prompts too", 20)
                mixed = [Nearness(2.5, 0.5).objection(first[i], first[i - 1]) for i in range(4)]
                expect(all(mixed), name + ": these prompts could not tell mixed up slots")


# ------------------------------------------------------------------------------------- restore


PREFIX = " ".join(STORY.split()[:300])
AFTER = " On the last page of the book"


def ask(server, slot):
    return server.complete(PREFIX + AFTER, 24, id_slot=slot)


def restore(server, slot, file, wanted=200):
    status, reply = server.slot(slot, "restore", file)
    expect(status == wanted, "%s: restore of %s says %s %s" % (server.name, file, status, reply))
    return reply.get("n_restored", 0) if status == 200 else reply


def save_and_restore(policy, options):
    """Continues after save, after erase + restore, in another slot, and in another process."""
    name = "restore-%s" % label(policy)
    file = label(policy) + ".bin"
    with Server(name, policy, options) as server:
        server.complete(PREFIX, 0, id_slot=0)
        status, reply = server.slot(0, "save", file)
        expect(status == 200 and reply["n_saved"] > 300, "%s: save: %s" % (name, reply))
        wanted = ask(server, 0)
        for slot in (0, 1):
            if slot == 0:
                expect(server.slot(0, "erase")[0] == 200, name + ": slot not erased")
            expect(restore(server, slot, file) == reply["n_saved"], name + ": other token count")
            answer = ask(server, slot)
            expect(answer.timings["cache_n"] == reply["n_saved"], name + ": cache not used")
            what = "%s, restored into slot %d" % (name, slot)
            if slot == 1 and "--kv-unified" in options:  # other cells: they have no sinks
                near = Nearness(1.0)
                near.check(what, wanted, answer)
                near.finish(what, 3)
            else:
                same(what, wanted, answer)
    with Server(name + "-new", policy, options) as server:
        slot = 0 if "--kv-unified" in options else 1
        restore(server, slot, file)
        same(name + ", restored in a new process", wanted, ask(server, slot))
    return file, wanted


def slot_files():
    FILES.mkdir(parents=True, exist_ok=True)
    options = ["-c", 2048, "-np", 2, "--cache-ram", 0, "--slot-save-path", FILES]
    answers, files = {}, {}
    for policy, more in ((POLICIES[0], ["--no-kv-unified"]), (POLICIES[1], ["--kv-unified"]),
                         ("turbo3,tail=32", ["--no-kv-unified"]),
                         ("turbo4,tail=64", ["--no-kv-unified", "-fa", "off"])):
        files[policy], answers[policy] = save_and_restore(policy, options + more)
    bad_slot_files(options, files[POLICIES[0]], files["turbo3,tail=32"], answers[POLICIES[0]])


def bad_slot_files(options, own, foreign, wanted):
    """No file brings the server down, and each kind has its message."""
    policy = POLICIES[0]
    whole = (FILES / own).read_bytes()
    with Server("restore-bad", policy, options + ["--no-kv-unified"]) as server:
        fresh = ask(server, 1)

        def answers(what):
            check = Nearness(1.0)
            server.slot(1, "erase")
            check.check("after " + what, fresh, ask(server, 1))
            check.finish("after " + what, 4)

        # A byte of a coded row: the host cannot refuse a row, so it is zero and the plugin says so.
        place = whole.find(MAGIC, len(whole) // 2) + 60
        expect(place > 60, "no coded row in " + own)
        (FILES / "damaged.bin").write_bytes(
            whole[:place] + bytes((whole[place] ^ 0x10,)) + whole[place + 1:])
        restore(server, 0, "damaged.bin")
        said = re.findall(r"turboquant: cache_[kv]_l\d+: .*damaged.*", server.log())
        expect(len(said) == 1, "one byte altered: messages %s" % said[:3])
        near = Nearness(2.0)
        near.check("one byte altered", wanted, ask(server, 0))
        near.finish("one byte altered", 4)
        answers("a damaged file")

        # Rows of another format are decoded and coded again.
        restore(server, 0, foreign)
        said = re.findall(r"turboquant: .*(keys|values) coded as turbo3.* again as turbo4",
                          server.log())
        expect(said == ["keys", "values"], "file of another policy: messages %s" % said)
        near = Nearness(2.0)
        near.check("file of another policy", wanted, ask(server, 0))
        near.finish("file of another policy", 4)
        answers("a file of another policy")

        # What the host itself refuses, it refuses with the plugin as well.
        for what, data in (("magic", b"\x00" + whole[1:]), ("empty", b""), ("header", whole[:10]),
                           ("version", whole[:4] + b"\xff" + whole[5:])):
            (FILES / "refused.bin").write_bytes(data)
            reply = restore(server, 0, "refused.bin", 400)
            expect("Unable to restore slot" in str(reply), "%s: %s" % (what, reply))
        restore(server, 0, "no-such-file.bin", 400)
        answers("refused files")
        expect("nan" not in str(ask(server, 0).chosen), "NaN")


# ------------------------------------------------------------------------------------- modes


MODES = {  # options, bound of the mean change of log probabilities, what the report says
    "no_flash": (["-fa", "off"], 0.3, r"15\.1 MiB instead of 45\.0|13\.7 MiB instead of 45\.0"),
    "on_cpu": (["--no-kv-offload"], 0.25, r"15\.1 MiB instead of 45\.0|13\.7 MiB instead of 45\.0"),
    "k_q8_0": (["-ctk", "q8_0"], 0.2, r"1\d\.\d MiB instead of 34\.5 MiB; K of 30 of them stays"),
}


def modes():
    """The story goes on as likely as in the stock server with the same options."""
    for name, (more, bound, report) in MODES.items():
        wanted = None
        for policy in (None, "f16") + POLICIES:
            who = "%s-%s" % (label(policy), name)
            with Server(who, policy, ["-c", 2048, "-np", 1] + more) as server:
                story = server.tokens(STORY)
                steps, _ = likelihoods(server, story[:400], story[400:440])
            if policy is None:
                wanted = steps
            elif policy == "f16":
                expect(steps == wanted, who + ": not what the stock server computes")
            else:
                moved(who, wanted, steps, bound)
                expect(re.search(report, server.log()), who + ": another report")


KEEP, DISCARD, PROMPT, FILLER = 8, 120, 500, 24


def shifted(server):
    """Fills a context of 512 tokens with given tokens until it shifts, then asks how they go on."""
    story = server.tokens(STORY)
    filler = server.tokens(" the")
    options = {"n_keep": KEEP, "n_discard": DISCARD}
    server.complete(story[:PROMPT], FILLER, logit_bias=[[filler[0], 1000]], **options)
    held = story[:KEEP] + story[KEEP + DISCARD:PROMPT] + filler * (FILLER - 1)
    steps, kept = likelihoods(server, held, story[PROMPT:PROMPT + 40], **options)
    expect(kept >= len(held) - 2, "%s: only %d of %d shifted tokens were in the cache" %
           (server.name, kept, len(held)))
    return steps


def shift():
    """The context shifts while the server generates: rows go, the keys that stay are turned."""
    for fa in ("on", "off"):
        options = ["-c", 512, "-np", 1, "--context-shift", "-fa", fa]
        wanted = None
        for policy in (None, "f16", "turbo4,tail=32", "k=turbo4,v=turbo3,tail=32"):
            name = "shift-%s-%s" % (label(policy), fa)
            with Server(name, policy, options) as server:
                steps = shifted(server)
                long = server.complete(part(3, 100), 700 if fa == "on" else 1)
                expect(fa == "off" or (len(long.ids) == 700 and long.truncated), name + ": cut")
            count = server.log().count("slot context shift")
            expect(count >= (2 if fa == "on" else 1), "%s: %d context shifts" % (name, count))
            if policy is None:
                wanted, text = steps, long
            elif policy == "f16":
                expect(steps == wanted, name + ": not what the stock server computes")
                same(name + ", long answer", text, long)
            else:
                moved(name, wanted, steps, 0.4)


# ------------------------------------------------------------------------------------- caches


def ram_cache(policy):
    """A prompt that another one pushed out of its slot comes back from the host's memory."""
    name = "ram-" + label(policy)
    options = ["-c", 2048, "-np", 1]
    with Server(name + "-kept", policy, options + ["--cache-ram", 0]) as server:
        server.complete(PREFIX, 24)
        wanted = server.complete(PREFIX, 24)
    with Server(name, policy, options + ["--cache-ram", 512]) as server:
        server.complete(PREFIX, 24)
        for number in (5, 4):
            server.complete(" ".join(STORY.split()[-25 * number:]), 24)
        answer = server.complete(PREFIX, 24)
        expect(answer.timings["cache_n"] > 300, name + ": the prompt was computed again")
        expect("found better prompt" in server.log(), name + ": not from the prompt cache")
        same(name, wanted, answer)


def completion(name, policy, options, n=40):
    command = [str(BIN / "llama-completion"), "-m", MODEL, "-no-cnv", "-t", THREADS, "-c", "1024",
               "--temp", "0", "--ignore-eos", "-n", str(n), "-p", PREFIX, *map(str, options)]
    done = subprocess.run(command, env=environment(policy),
                          stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          errors="replace", timeout=120, cwd=WORK)
    (WORK / (name + ".log")).write_text(done.stdout + "\n--- stderr\n" + done.stderr)
    expect(done.returncode == 0, "%s: exit code %d" % (name, done.returncode))
    expect("30 of 30 KV layers compressed" in done.stderr, name + ": the plugin did not report")
    return done.stdout.rstrip(), done.stderr


def prompt_files(policy):
    """llama-completion --prompt-cache: made, and used by two later processes."""
    name = "completion-" + label(policy)
    file = WORK / (name + ".session")
    file.unlink(missing_ok=True)
    made, log = completion(name + "-made", policy, ["--prompt-cache", file])
    expect(len(made) > len(PREFIX) + 40, name + ": no text")
    expect("will create" in log and file.stat().st_size > 300 * 30 * 192 * 4, name + ": no file")
    for i in range(2):
        text, log = completion("%s-used%d" % (name, i), policy, ["--prompt-cache", file])
        expect("session file has exact match" in log, name + ": the prompt was computed again")
        expect(text == made, "%s: goes on with %r, without file %r" % (name, text[len(PREFIX):],
                                                                       made[len(PREFIX):]))


def prompt_cache():
    for policy in POLICIES:
        ram_cache(policy)
        prompt_files(policy)


# ------------------------------------------------------------------------------------- drafts


DRAFTS = {
    "model": ["--spec-type", "draft-simple", "-md", MODEL, "--spec-draft-n-max", 8,
              "-ctkd", "q4_0", "-ctvd", "q4_0"],  # another cache: now and then another opinion
    "ngram": ["--spec-type", "ngram-simple", "--spec-ngram-simple-size-n", 2,
              "--spec-ngram-simple-size-m", 8],
}


def draft():
    """A draft is verified and its rejected end written over. The answer is one that the server without
    a draft would give as gladly as its own: token for token it need not be the same.

    (Verified in one batch, the order of sums and the rows held exactly differ from one token at a
    time, as with any batch, and where two tokens are near each other the other one may win.)
    """
    for policy in POLICIES:
        options = ["-c", 2048, "-np", 1, "--cache-ram", 0]
        answers = {}
        for kind, more in DRAFTS.items():
            name = "draft-%s-%s" % (kind, label(policy))
            with Server(name, policy, options + more) as server:
                answers[name] = [server.complete(p, 60) for p in (PREFIX, PREFIX[:1200])]
        with Server("undrafted-" + label(policy), policy, options) as server:
            for k, prompt in enumerate((PREFIX, PREFIX[:1200])):
                own = server.complete(prompt, 60).chosen
                own = sum(own) / len(own)
                for name, given in answers.items():
                    ids = given[k].ids
                    steps, _ = likelihoods(server, server.tokens(prompt), ids)
                    found = sum(step.get(i, min(step.values()) - 2)
                                for step, i in zip(steps, ids)) / len(ids)
                    print("%-40s log probability %.3f a token, undrafted %.3f" % (name, found, own),
                          flush=True)
                    expect(len(ids) == 60, "%s: %d tokens" % (name, len(ids)))
                    expect(found > own - 0.8, "%s: text of log probability %.3f a token, %.3f without "
                           "draft" % (name, found, own))
        for name, given in answers.items():
            drafted = sum(a.timings.get("draft_n", 0) for a in given)
            accepted = sum(a.timings.get("draft_n_accepted", 0) for a in given)
            print("%-40s %d of %d drafted accepted" % (name, accepted, drafted), flush=True)
            expect(0 < accepted < drafted, name + ": no draft was accepted, or none rejected")


# ------------------------------------------------------------------------------------- refusal


def refusal():
    """Too little address space is the host's plain failure to create a context, never a crash."""
    limit = 3 << 30  # a f16 cache of 131072 tokens is 2.8 GiB, one of turbo4 0.8 GiB
    for policy in (None,) + POLICIES:
        done = subprocess.run(
            [str(BIN / "llama-completion"), "-m", MODEL, "-no-cnv", "-t", THREADS, "-c", "131072",
             "-n", "1", "-p", "x", "-fit", "off"], env=environment(policy),
            stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
            timeout=120, cwd=WORK,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)))
        name = "limited-" + label(policy)
        (WORK / (name + ".log")).write_text(done.stderr)
        expect(done.returncode == 1, "%s: exit code %d" % (name, done.returncode))
        expect("unable to create context" in done.stderr, name + ": the host does not say why")
        if policy is not None:
            expect("no address space" in done.stderr, name + ": the plugin does not say why")


if __name__ == "__main__":
    {f.__name__: f for f in (slots, slot_files, modes, shift, prompt_cache, draft,
                             refusal)}[sys.argv[1]]()
    finish()
