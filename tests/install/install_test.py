"""Installs the development component, moves it, builds examples/ against it in three ways, runs them.

  install_test.py --cmake CMAKE --build BUILD --source SOURCE --c-compiler CC --cxx-compiler CXX
"""

import argparse
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile


def run(command, **options):
    print("+", " ".join(str(part) for part in command), flush=True)
    done = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, **options)
    print(done.stdout, flush=True)
    if done.returncode != 0:
        sys.exit("failed with exit code %d" % done.returncode)
    return done.stdout


def expect(text, *parts):
    for part in parts:
        if part not in text:
            sys.exit("'%s' is not in the output" % part)


def main():
    parser = argparse.ArgumentParser()
    for name in ("cmake", "build", "source", "c-compiler", "cxx-compiler"):
        parser.add_argument("--" + name, required=True)
    options = parser.parse_args()
    source = pathlib.Path(options.source)
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        run([options.cmake, "--install", options.build, "--component", "turboquant_devel",
             "--prefix", folder / "first"])
        # Nothing may depend on where it was installed.
        prefix = folder / "moved here"
        shutil.move(folder / "first", prefix)
        headers = sorted(p.name for p in prefix.rglob("*") if p.suffix in (".h", ".hpp"))
        if headers != ["turboquant.h", "turboquant.hpp", "turboquant_cuda.h"]:
            sys.exit("installed headers: %s" % headers)
        library_dir = next(prefix.rglob("libturboquant.so")).parent

        run([options.cmake, "-S", source / "examples", "-B", folder / "examples",
             "-DCMAKE_PREFIX_PATH=%s" % prefix, "-DCMAKE_BUILD_TYPE=Release",
             "-DCMAKE_C_FLAGS=-Wall -Wextra -Werror -pedantic",
             "-DCMAKE_CXX_FLAGS=-Wall -Wextra -Werror -pedantic",
             "-DCMAKE_C_COMPILER=" + options.c_compiler,
             "-DCMAKE_CXX_COMPILER=" + options.cxx_compiler])
        run([options.cmake, "--build", folder / "examples"])
        expect(run([folder / "examples" / "kv_cache"]), "instead of 4.00 MiB", "same answer")
        expect(run([folder / "examples" / "vector_search"]), "3.062 bits a value")
        expect(run([folder / "examples" / "vector_search_static"]), "3.062 bits a value")
        if "libturboquant" in run(["ldd", folder / "examples" / "vector_search_static"]):
            sys.exit("the static example needs the shared library")

        # A package of a later version is not found.
        wanted = folder / "wanted"
        wanted.mkdir()
        (wanted / "CMakeLists.txt").write_text(
            "cmake_minimum_required(VERSION 3.25)\nproject(wanted CXX)\n"
            "find_package(turboquant 0.99 QUIET)\n"
            "if(turboquant_FOUND)\nmessage(FATAL_ERROR \"found\")\nendif()\n")
        run([options.cmake, "-S", wanted, "-B", wanted / "build",
             "-DCMAKE_PREFIX_PATH=%s" % prefix])

        environment = dict(os.environ, PKG_CONFIG_PATH=str(library_dir / "pkgconfig"),
                           LD_LIBRARY_PATH=str(library_dir))
        command = ("'%s' -std=c11 '%s' $(pkg-config --cflags --libs turboquant) -lm -o kv_cache"
                   % (options.c_compiler, source / "examples" / "kv_cache.c"))
        # pkg-config and a blank in a path do not go together: a link without one.
        os.symlink(prefix, folder / "moved")
        environment["PKG_CONFIG_PATH"] = str(
            folder / "moved" / library_dir.relative_to(prefix) / "pkgconfig")
        run(["bash", "-c", command], cwd=folder, env=environment)
        expect(run([folder / "kv_cache"], env=environment), "same answer")


if __name__ == "__main__":
    main()
