"""Compiles and runs every ```c and ```cpp block of the documents given, and checks that the command
knows every subcommand and flag that their other blocks show.

  snippets_test.py --c-compiler CC --cxx-compiler CXX --include DIR [--include DIR] --library SO
    [--command TURBOQUANT] DOCUMENT...
"""

import argparse
import pathlib
import re
import subprocess
import sys
import tempfile

COMMAND_LINE = re.compile(r"^\$? ?(?:\S*/)?turboquant +([a-z]+)([^#\n]*)", re.M)
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
WARNINGS = ["-Wall", "-Wextra", "-Werror", "-pedantic"]


def unknown_flags(command, document, text):
    """A line for each subcommand or flag that `command` does not know; and how many lines it saw."""
    problems = []
    seen = 0
    for block in BLOCK.finditer(text):
        if block.group(1):
            continue
        for match in COMMAND_LINE.finditer(block.group(2)):
            seen += 1
            name, rest = match.groups()
            asked = subprocess.run([command, name, "--help"], stdout=subprocess.PIPE,
                                   stderr=subprocess.STDOUT, text=True)
            if asked.returncode != 0:
                problems.append("%s: no command %s" % (document, name))
                continue
            for flag in re.findall(r"(?<=\s)--?[a-z][a-z-]*", rest.split(" -- ")[0]):
                if not re.search(r"(?<![\w-])%s(?![\w-])" % re.escape(flag), asked.stdout):
                    problems.append("%s: %s has no %s" % (document, name, flag))
    return problems, seen


def main():
    parser = argparse.ArgumentParser()
    for name in ("c-compiler", "cxx-compiler", "library"):
        parser.add_argument("--" + name, required=True)
    parser.add_argument("--include", action="append", required=True)
    parser.add_argument("--command")
    parser.add_argument("documents", nargs="+", type=pathlib.Path)
    options = parser.parse_args()
    library = pathlib.Path(options.library)
    found = {"c": 0, "cpp": 0}
    failures = 0
    commands = 0
    with tempfile.TemporaryDirectory() as folder:
        for document in options.documents:
            text = document.read_text(encoding="utf-8")
            if options.command:
                problems, seen = unknown_flags(options.command, document, text)
                commands += seen
                failures += len(problems)
                for problem in problems:
                    print(problem)
            for match in BLOCK.finditer(text):
                language, code = match.groups()
                if language not in found:
                    continue
                line = text.count("\n", 0, match.start()) + 1
                found[language] += 1
                source = pathlib.Path(folder) / ("snippet%d.%s" % (sum(found.values()), language))
                source.write_text(code, encoding="utf-8")
                program = source.with_suffix("")
                compiler = ([options.c_compiler, "-std=c11"] if language == "c"
                            else [options.cxx_compiler, "-std=c++20"])
                steps = [compiler + WARNINGS + ["-I" + path for path in options.include]
                         + [str(source), "-o", str(program), str(library), "-lm",
                            "-Wl,-rpath," + str(library.parent)],
                         [str(program)]]
                for step in steps:
                    done = subprocess.run(step, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                          text=True)
                    if done.returncode != 0:
                        print("%s:%d: %s: exit code %d\n%s" % (document, line, step[0],
                                                               done.returncode, done.stdout))
                        failures += 1
                        break
    print("%d blocks of C, %d of C++, %d lines of turboquant" % (found["c"], found["cpp"], commands))
    if found["c"] < 1 or found["cpp"] < 3 or options.command and commands < 5:
        sys.exit("the documents have lost their snippets")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
