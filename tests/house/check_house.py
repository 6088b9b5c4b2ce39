"""Checks the rules of the house over a source tree and prints every violation.

  check_house.py [ROOT]      ROOT defaults to the project this file lies in

Rules (check_house_test.py plants a violation of each and sees it found):

  include      a layer includes only the layers below it (LAYERS)
  cuda-header  CUDA headers only in src/kernels/cuda
  getenv       the environment is read in plugin/ggml/options_env.cc and cli/ alone
  print        nothing in src and plugin prints, but for plugin/ggml/log.cc, to stderr
  abort        nothing in src and plugin aborts, exits or asserts
  throw        nothing in src and plugin throws
  centroid     no centroid or threshold is written out beside codebook_tables.inc
  length       no file has more than 1200 lines
"""

import math
import pathlib
import re
import sys

MAX_LINES = 1200
TABLES = "src/codec/codebook_tables.inc"

BELOW_KERNELS = ["base/", "math/", "codec/"]
API = "kernels/kernel_api.h"
CODER = "kernels/row_coder.h"
TILES = "kernels/tile_layout.h"
ROWS = "kernels/format_rows.h"
CUDA_API = "kernels/cuda/cuda_api.h"

# What each part of src may include, by the longest prefix that fits; paths relative to src.
LAYERS = {
    "base/": ["base/"],
    "math/": ["base/", "math/"],
    "codec/": ["base/", "math/", "codec/"],
    API: BELOW_KERNELS + [TILES],
    TILES: [],
    ROWS: BELOW_KERNELS + [API],
    # Takes the address of every table, runs none before the CPU was asked.
    "kernels/dispatch.cc": BELOW_KERNELS + [API, "kernels/cpu/cpu_tables.h"],
    "kernels/row_coder": BELOW_KERNELS + [API, CODER],
    "files/": BELOW_KERNELS + ["files/"],
    "kernels/scalar/": BELOW_KERNELS + [API, TILES, "kernels/scalar/"],
    "kernels/cpu/": BELOW_KERNELS + [API, "kernels/cpu/"],
    "kernels/cuda/": BELOW_KERNELS + [API, "kernels/cuda/"],
    "attention/": BELOW_KERNELS + [API, ROWS, TILES, "attention/"],
    "kvcache/": BELOW_KERNELS + [API, ROWS, TILES, "attention/", "kvcache/"],
    "model/": ["base/", "codec/", "model/"],
    "plan/": ["base/", "codec/", "model/", "kvcache/policy.h", "plan/"],
    "eval/": BELOW_KERNELS + [API, CODER, ROWS, CUDA_API, "attention/", "files/", "kvcache/", "eval/"],
    "report/": ["base/", "eval/", "report/"],
    "capi/": BELOW_KERNELS + [API, CODER, "attention/", "files/", "kvcache/", "capi/", "turboquant/"],
}

CODE_TREES = ["src", "plugin", "cli", "bench", "tests", "tools", "python", "fuzz", "cmake",
              "include"]
CODE_SUFFIXES = {".h", ".hpp", ".c", ".cc", ".cpp", ".cu", ".cuh", ".inc", ".py", ".cmake"}
CXX_SUFFIXES = {".h", ".hpp", ".c", ".cc", ".cpp", ".cu", ".cuh", ".inc"}

CENTROIDS_ALLOWED = {TABLES}
GETENV_ALLOWED = ["plugin/ggml/options_env.cc", "cli/"]
LOG_FILE = "plugin/ggml/log.cc"

CUDA_HEADER = re.compile(
    r"(^|/)(cuda|cudart|cudnn|cublas|cusparse|cutlass|cub/|cute/|thrust/|nvtx|nvToolsExt|nvml|mma\.h|"
    r"cooperative_groups|device_launch_parameters|vector_types\.h)")
HOST_HEADER = re.compile(r"^(ggml|gguf|llama)[\w-]*\.h")
GETENV = re.compile(r"\b(getenv|secure_getenv|environ)\b")
STDOUT = re.compile(r"\b(printf|vprintf|puts|putchar|cout|wcout|stdout|STDOUT_FILENO|println)\b|"
                    r"\bstd::print\b")
PRINT = re.compile(STDOUT.pattern + r"|\b(fprintf|vfprintf|dprintf|fputs|fputc|putc|perror|psignal|"
                   r"cerr|clog|wcerr|stderr|STDERR_FILENO|syslog)\b")
ABORT = re.compile(r"\b(abort|exit|_exit|_Exit|quick_exit|terminate|assert|__builtin_trap|"
                   r"GGML_ABORT|GGML_ASSERT)\s*\(")
THROW = re.compile(r"\bthrow\b")
INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*([<"])([^>"\n]+)[>"]', re.M)
NUMBER = re.compile(r"(?<![\w.'])(?:\d[\d']*\.[\d']*|\.\d[\d']*|\d[\d']*(?=[eE][-+]?\d))"
                    r"(?:[eE][-+]?\d+)?")

TOKEN = re.compile(
    r'//(?:\\\n|[^\n])*|/\*.*?\*/'                     # comments
    r'|(?P<raw>R"(?P<tag>[^()\\\s]{0,16})\(.*?\)(?P=tag)")'
    r'|(?P<include>\#[ \t]*include[^\n]*)'
    r'|(?P<string>"(?:\\.|[^"\\\n])*")'
    r"|(?P<number>\d[\w.']*)"
    r"|(?P<char>'(?:\\.|[^'\\\n])+')", re.S)


def strip(text, keep_strings=False):
    """C++ without comments and, unless kept, without the insides of strings; same line numbers."""

    def replace(match):
        kind = match.lastgroup
        found = match.group(0)
        if kind in ("number", "include"):
            return re.sub(r"//.*|/\*.*?\*/", " ", found) if kind == "include" else found
        if kind in ("string", "raw", "char", "tag") and keep_strings:
            return found
        if kind in ("string", "raw", "tag"):
            return '""' + "\n" * found.count("\n")
        if kind == "char":
            return "' '"
        return " " + "\n" * found.count("\n")

    return TOKEN.sub(replace, text)


def line_of(text, position):
    return text.count("\n", 0, position) + 1


class House:
    def __init__(self, root):
        self.root = pathlib.Path(root).resolve()
        self.violations = []

    def report(self, rule, path, line, message):
        self.violations.append("%s:%d: [%s] %s" % (path, line, rule, message))

    def files(self):
        for tree in CODE_TREES:
            for path in sorted((self.root / tree).rglob("*")):
                if path.is_file() and (path.suffix in CODE_SUFFIXES
                                       or path.name == "CMakeLists.txt"):
                    yield path.relative_to(self.root).as_posix(), path

    def check(self):
        table = self.read_table()
        for name, path in self.files():
            text = path.read_text(encoding="utf-8", errors="replace")
            lines = text.count("\n") + (0 if text.endswith("\n") or not text else 1)
            if lines > MAX_LINES:
                self.report("length", name, lines, "%d lines; split before %d" % (lines, MAX_LINES))
            if path.suffix in CXX_SUFFIXES:
                self.check_cxx(name, text)
            if name not in CENTROIDS_ALLOWED:
                code = (strip(text, keep_strings=True) if path.suffix in CXX_SUFFIXES
                        else re.sub(r"#[^\n]*", "", text))
                self.check_centroids(name, code, table)
        return self.violations

    def check_cxx(self, name, text):
        code = strip(text)
        for match in INCLUDE.finditer(code):
            self.check_include(name, line_of(code, match.start()), match.group(1), match.group(2))
        in_library = name.startswith(("src/", "plugin/"))
        if in_library or name.startswith("include/"):
            if not any(name == a or a.endswith("/") and name.startswith(a)
                       for a in GETENV_ALLOWED):
                self.find("getenv", GETENV, name, code, "reads the environment")
        if in_library:
            printing = STDOUT if name == LOG_FILE else PRINT
            self.find("print", printing, name, code, "prints")
            self.find("abort", ABORT, name, code, "ends the process; return a Status")
            self.find("throw", THROW, name, code, "throws; return a Status")

    def find(self, rule, pattern, name, code, what):
        for match in pattern.finditer(code):
            self.report(rule, name, line_of(code, match.start()),
                        "%s %s" % (match.group(0).strip(" ("), what))

    def check_include(self, name, line, kind, target):
        ours = target.startswith(tuple(LAYERS))
        if not ours and CUDA_HEADER.search(target) and name.startswith(("src/", "plugin/", "cli/", "include/")):
            if not name.startswith("src/kernels/cuda/"):
                self.report("cuda-header", name, line,
                            "%s outside of src/kernels/cuda" % target)
            return
        if name.startswith("src/"):
            self.check_layer(name, line, kind, target)
        elif name.startswith("plugin/") and target.startswith(("cli/", "bench/", "tests/",
                                                               "tools/")):
            self.report("include", name, line, "the plugin includes %s" % target)

    def check_layer(self, name, line, kind, target):
        inside = name[len("src/"):]
        if kind == "<" and not (self.root / "src" / target).is_file():
            if HOST_HEADER.match(target) or target.startswith(("plugin/", "cli/", "bench/")):
                self.report("include", name, line, "src includes %s" % target)
            return
        fitting = [prefix for prefix in LAYERS if inside.startswith(prefix)]
        if not fitting:
            self.report("include", name, line, "no layer holds src/%s; add it to LAYERS" % inside)
            return
        allowed = LAYERS[max(fitting, key=len)]
        if not any(target == a or a.endswith("/") and target.startswith(a) for a in allowed) \
                or ".." in target:
            self.report("include", name, line, "src/%s may not include %s" % (inside, target))

    def read_table(self):
        path = self.root / TABLES
        if not path.is_file():
            self.report("centroid", TABLES, 1, "the codebook table is missing")
            return []
        numbers = NUMBER.findall(strip(path.read_text(encoding="utf-8")))
        values = sorted({float(n) for n in numbers} - {0.0})
        if not values:
            self.report("centroid", TABLES, 1, "the codebook table holds no number")
        return values

    def check_centroids(self, name, code, table):
        for match in NUMBER.finditer(code):
            literal = match.group(0).replace("'", "")
            digits = re.sub(r"[eE].*", "", literal).replace(".", "").lstrip("0")
            value = float(literal)
            if len(digits) < 5 or value == 0:
                continue
            # One unit of its last digit: rounded or cut off, it is the same number.
            unit = 10.0 ** (math.floor(math.log10(value)) - min(len(digits), 8) + 1)
            for entry in table:
                if abs(value - entry) <= unit:
                    self.report("centroid", name, line_of(code, match.start()),
                                "%s is the codebook's %s; use Centroids() or Thresholds()"
                                % (literal, entry))
                    break


def main():
    root = sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).resolve().parents[2]
    violations = House(root).check()
    for violation in violations:
        print(violation)
    print("%d violation%s" % (len(violations), "" if len(violations) == 1 else "s"))
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
