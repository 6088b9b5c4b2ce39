"""Plants violations in a temporary tree and sees check_house find each, and nothing else."""

import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import check_house  # noqa: E402

# An invented table, so that this file holds no number of the real one.
TABLE = """// Generated. A comment with 9.87654321.
TQ_CODEBOOK_TABLE float kCentroids2[4] = {-3.14159265f, -0.271828183f, 0.271828183f, 3.14159265f};
"""

# A clean tree that uses what is allowed and comes near to what is not.
CLEAN = {
    check_house.TABLES: TABLE,
    "src/base/status.h": "#include <string>\n",
    "src/math/rotation.h": '#include "base/status.h"\n',
    "src/codec/codebook.h": '#include "base/status.h"\n#include "codec/codebook_tables.inc"\n',
    "src/kernels/kernel_api.h": '#include "math/rotation.h"\n#include "codec/codebook.h"\n',
    "src/kernels/dispatch.cc": '#include "kernels/kernel_api.h"\n',
    "src/kernels/scalar/scalar.cc":
        '#include "kernels/kernel_api.h"\n#include "kernels/scalar/own.h"\n',
    "src/kernels/cpu/avx2.cc": '#include <immintrin.h>\n#include "kernels/cpu/own.h"\n',
    "src/kernels/cuda/decode.cu": '#include <cuda_runtime.h>\n#include "codec/codebook.h"\n',
    "src/attention/attend.cc": '#include "kernels/kernel_api.h"\n#include "codec/codebook.h"\n',
    "src/kvcache/cache.cc": '#include "attention/attend.h"\n#include "kernels/kernel_api.h"\n',
    "src/kvcache/clean.cc": r'''// printf(), abort(), throw, getenv("X"), std::cout, 3.14159265: a comment.
/* exit(1); #include "plugin/ggml/log.h"
   assert(false) */
static_assert(sizeof(int) == 4);
const char* kText = "say \"printf(\" or throw or getenv or abort()";
const char* kRaw = R"x(std::cerr << exit(1) "quoted")x";
char kQuote = '"';
int big = 1'000'000;  // std::cerr
void F(char* out) { snprintf(out, 4, "%d", 7); int aborted(0); my_exit(3); }
void G() noexcept; int* p = new (std::nothrow) int;
const double kNear = 3.142, kOther = 3.14259265, kShort = 0.2718, kInteger = 314159;
''',
    "plugin/ggml/options_env.cc": 'const char* v = getenv("TURBOQUANT_POLICY");\n',
    "plugin/ggml/log.cc": '#include "log.h"\nvoid L() { std::fprintf(stderr, "x"); }\n',
    "plugin/ggml/attach.cc": '#include "kvcache/cache.h"\n#include "kernels/kernel_api.h"\n',
    "cli/main.cc": 'int main() { printf("%s", getenv("HOME")); exit(1); throw 1; }\n',
    "bench/bench.cc": '#include <cuda_runtime.h>\nint main() { puts(getenv("A")); abort(); }\n',
    "tests/some_test.cc": 'int main() { assert(getenv("A")); std::cout << 1; }\n',
    "tools/tool.cc": 'int main() { fprintf(stderr, "x"); exit(2); }\n',
    "python/module.py": "# 3.14159265\nx = 3.142\n",
    "src/base/long.cc": "//\n" * check_house.MAX_LINES,
}

# (rule, file, text): each added to the clean tree alone must give exactly that rule.
PLANTED = [
    # include: upwards
    ("include", "src/base/a.h", '#include "math/rotation.h"\n'),
    ("include", "src/base/a.h", '#include "codec/codebook.h"\n'),
    ("include", "src/math/a.cc", '#include "codec/codebook.h"\n'),
    ("include", "src/math/a.cc", '#include "kernels/kernel_api.h"\n'),
    ("include", "src/codec/a.h", '#include "kernels/kernel_api.h"\n'),
    ("include", "src/codec/a.h", '#include "kvcache/policy.h"\n'),
    ("include", "src/codec/a.h", '  #  include   "kvcache/policy.h"\n'),
    ("include", "src/codec/a.h", "#include <kvcache/clean.cc>\n"),
    ("include", "src/kernels/kernel_api.h", '#include "attention/attend.h"\n'),
    ("include", "src/kernels/kernel_api.h", '#include "kernels/cpu/own.h"\n'),
    ("include", "src/attention/a.cc", '#include "kvcache/policy.h"\n'),
    ("include", "src/attention/a.cc", '#include "kernels/scalar/own.h"\n'),
    ("include", "src/kvcache/a.cc", '#include "kernels/cpu/own.h"\n'),
    ("include", "src/kvcache/a.cc", '#include "model/gguf.h"\n'),
    # include: between kernel families
    ("include", "src/kernels/scalar/a.cc", '#include "kernels/cpu/own.h"\n'),
    ("include", "src/kernels/cpu/a.cc", '#include "kernels/scalar/own.h"\n'),
    ("include", "src/kernels/cpu/a.cc", '#include "kernels/cuda/own.h"\n'),
    ("include", "src/kernels/cuda/a.cu", '#include "kernels/cpu/own.h"\n'),
    ("include", "src/kernels/cuda/a.cu", '#include "kvcache/policy.h"\n'),
    ("include", "src/kernels/dispatch.cc", '#include "kernels/cpu/own.h"\n'),
    # include: out of src, around the rule, and layers nobody declared
    ("include", "src/kvcache/a.cc", '#include "plugin/ggml/log.h"\n'),
    ("include", "src/kvcache/a.cc", '#include "cli/args.h"\n'),
    ("include", "src/kvcache/a.cc", '#include "bench/bench.h"\n'),
    ("include", "src/kvcache/a.cc", '#include "../../plugin/ggml/log.h"\n'),
    ("include", "src/kvcache/a.cc", '#include "kvcache/../kernels/cpu/own.h"\n'),
    ("include", "src/kvcache/a.cc", '#include "ggml.h"\n'),
    ("include", "src/kvcache/a.cc", "#include <ggml-backend.h>\n"),
    ("include", "src/kvcache/a.cc", "#include <llama.h>\n"),
    ("include", "src/novel/a.cc", '#include "base/status.h"\n'),
    ("include", "plugin/ggml/a.cc", '#include "cli/args.h"\n'),
    ("include", "plugin/ggml/a.cc", '#include "tests/codec/reference.h"\n'),
    # cuda-header
    ("cuda-header", "src/kernels/cpu/a.cc", "#include <cuda_runtime.h>\n"),
    ("cuda-header", "src/kvcache/a.cc", "#include <cuda.h>\n"),
    ("cuda-header", "src/codec/a.h", "#include <cuda_fp16.h>\n"),
    ("cuda-header", "src/codec/a.h", '#include "cooperative_groups.h"\n'),
    ("cuda-header", "plugin/ggml/a.cc", "#include <cublas_v2.h>\n"),
    ("cuda-header", "src/base/a.cc", "#include <cudnn_graph.h>\n"),
    ("cuda-header", "cli/a.cc", "#include <mma.h>\n"),
    # getenv
    ("getenv", "src/kvcache/a.cc", 'auto v = std::getenv("X");\n'),
    ("getenv", "src/kernels/dispatch.cc", 'auto v = secure_getenv("X");\n'),
    ("getenv", "plugin/ggml/attach.cc", 'auto v = getenv ("X");\n'),
    ("getenv", "plugin/ggml/a.cc", "extern char** environ;\n"),
    # print
    ("print", "src/base/a.cc", 'void F() { printf("x"); }\n'),
    ("print", "src/base/a.cc", 'void F() { std::fprintf(f, "x"); }\n'),
    ("print", "src/base/a.cc", "void F() { std::cout << 1; }\n"),
    ("print", "src/base/a.cc", "void F() { std::cerr << 1; }\n"),
    ("print", "src/base/a.cc", 'void F() { puts("x"); }\n'),
    ("print", "src/base/a.cc", 'void F() { perror("x"); }\n'),
    ("print", "src/base/a.cc", "void F() { write(STDERR_FILENO, p, 1); }\n"),
    ("print", "src/kernels/cuda/a.cu", '__global__ void F() { printf("x"); }\n'),
    ("print", "plugin/ggml/a.cc", "void F() { std::clog << 1; }\n"),
    ("print", "plugin/ggml/a.cc", "int b = 1'0; char c = '\\''; void F() { std::clog << 1; }\n"),
    ("print", "plugin/other/log.cc", "void F() { std::clog << 1; }\n"),
    ("print", "plugin/ggml/log.cc", "void F() { std::cout << 1; }\n"),
    # abort and throw
    ("abort", "src/base/a.cc", "void F() { std::abort(); }\n"),
    ("abort", "src/base/a.cc", "void F() { exit (1); }\n"),
    ("abort", "src/base/a.cc", "void F() { _exit(1); }\n"),
    ("abort", "src/base/a.cc", "void F(int x) { assert(x > 0); }\n"),
    ("abort", "src/base/a.cc", "void F() { std::terminate(); }\n"),
    ("abort", "plugin/ggml/a.cc", 'void F() { GGML_ABORT("x"); }\n'),
    ("abort", "plugin/ggml/a.cc", "void F() { __builtin_trap(); }\n"),
    ("throw", "src/kvcache/a.cc", "void F() { throw 1; }\n"),
    ("throw", "plugin/ggml/a.cc", 'void F() { throw std::runtime_error("x"); }\n'),
    # centroid: whole, short, cut off, rounded, negative, with exponent, anywhere
    ("centroid", "src/kernels/cpu/a.h", "const float k = 3.14159265f;\n"),
    ("centroid", "src/kernels/cpu/a.h", "const float k = 3.1415926535897;\n"),
    ("centroid", "src/kernels/cpu/a.h", "const float k = -3.1415;\n"),
    ("centroid", "src/kernels/cpu/a.h", "const float k = 3.14159f;\n"),
    ("centroid", "src/kernels/cpu/a.h", "const float k = .27183;\n"),
    ("centroid", "src/kernels/cpu/a.h", "const float k = 2.71828e-1;\n"),
    ("centroid", "src/kernels/cpu/a.h", "const float k = 0.271'828'183;\n"),
    ("centroid", "src/kernels/cuda/a.cu", "__constant__ float k[] = {1, 0.271828f};\n"),
    ("centroid", "src/codec/other.inc", "0.271828183f,\n"),
    ("centroid", "plugin/ggml/a.cc", "const float k = 3.14159;\n"),
    ("centroid", "bench/a.cc", "const float k = 3.14159;\n"),
    ("centroid", "tests/codec/a_test.cc", "const float k = 3.14159;\n"),
    ("centroid", "python/a.py", "K = [0.271828]\n"),
    ("centroid", "cli/a.cc", 'const char* kJson = "{k: 3.14159}";\n'),
    # length
    ("length", "src/base/a.cc", "//\n" * (check_house.MAX_LINES + 1)),
    ("length", "tests/a_test.cc", "//\n" * check_house.MAX_LINES + "//"),
    ("length", "python/a.py", "\n" * (check_house.MAX_LINES + 1)),
]


def rules_of(files):
    """The rules that a tree of these files breaks."""
    with tempfile.TemporaryDirectory() as root:
        for name, text in files.items():
            path = pathlib.Path(root, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        violations = check_house.House(root).check()
    return [re.search(r"\[([\w-]+)\]", v).group(1) for v in violations], violations


class CheckHouse(unittest.TestCase):
    def test_clean_tree_passes(self):
        _, violations = rules_of(CLEAN)
        self.assertEqual(violations, [])

    def test_every_planted_violation_is_found(self):
        for rule, name, text in PLANTED:
            with self.subTest(rule=rule, file=name, text=text[:60]):
                rules, violations = rules_of({**CLEAN, name: text})
                self.assertEqual(rules, [rule], violations)

    def test_every_rule_has_a_planted_violation(self):
        documented = set(re.findall(r"^  ([a-z-]+)  +\w", check_house.__doc__, re.M))
        self.assertEqual(documented, {rule for rule, _, _ in PLANTED})

    def test_violations_name_their_line(self):
        _, violations = rules_of(
            {**CLEAN, "src/base/a.cc": '/* a\n b */ const char* s = R"(\n\n)";\nabort();\n'})
        self.assertEqual(len(violations), 1)
        self.assertTrue(violations[0].startswith("src/base/a.cc:5: [abort]"), violations)

    def test_missing_or_empty_table_is_a_violation(self):
        files = dict(CLEAN)
        del files[check_house.TABLES]
        self.assertEqual(rules_of(files)[0], ["centroid"])
        files[check_house.TABLES] = "// nothing\n"
        self.assertEqual(rules_of(files)[0], ["centroid"])

    def test_exit_status(self):
        script = pathlib.Path(check_house.__file__)
        with tempfile.TemporaryDirectory() as root:
            for name, text in CLEAN.items():
                path = pathlib.Path(root, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
            command = [sys.executable, "-B", str(script), root]
            self.assertEqual(subprocess.run(command, capture_output=True).returncode, 0)
            pathlib.Path(root, "src/base/a.cc").write_text("void F() { abort(); }\n")
            self.assertEqual(subprocess.run(command, capture_output=True).returncode, 1)


if __name__ == "__main__":
    unittest.main()
