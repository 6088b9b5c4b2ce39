"""Compiles and runs every ```c and ```cpp block of the documents given.

  snippets_test.py --c-compiler CC --cxx-compiler CXX --include DIR --library SO DOCUMENT...
"""

import argparse
import pathlib
import re
import subprocess
import sys
import tempfile

BLOCK = re.compile(r"^```(c|cpp)\n(.*?)^```$", re.M | re.S)
WARNINGS = ["-Wall", "-Wextra", "-Werror", "-pedantic"]


def main():
    parser = argparse.ArgumentParser()
    for name in ("c-compiler", "cxx-compiler", "include", "library"):
        parser.add_argument("--" + name, required=True)
    parser.add_argument("documents", nargs="+", type=pathlib.Path)
    options = parser.parse_args()
    library = pathlib.Path(options.library)
    found = {"c": 0, "cpp": 0}
    failures = 0
    with tempfile.TemporaryDirectory() as folder:
        for document in options.documents:
            text = document.read_text(encoding="utf-8")
            for match in BLOCK.finditer(text):
                language, code = match.groups()
                line = text.count("\n", 0, match.start()) + 1
                found[language] += 1
                source = pathlib.Path(folder) / ("snippet%d.%s" % (sum(found.values()), language))
                source.write_text(code, encoding="utf-8")
                program = source.with_suffix("")
                compiler = ([options.c_compiler, "-std=c11"] if language == "c"
                            else [options.cxx_compiler, "-std=c++20"])
                steps = [compiler + WARNINGS + ["-I" + options.include, str(source), "-o",
                                                str(program), str(library), "-lm",
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
    print("%(c)d blocks of C, %(cpp)d of C++" % found)
    if found["c"] < 1 or found["cpp"] < 3:
        sys.exit("the documents have lost their snippets")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
