#!/usr/bin/env bash
# The module as Clang builds it; CI's other steps use the system's default compiler.
#
#   .ci/clang.sh FOLDER     a folder to work in; `python` is an environment with the test extra
#
# 1. The newest Clang makes the package from the sdist, which so proves that it builds from itself;
#    it is imported, and the golden cases run on it.
# 2. The oldest Clang that we promise to take does the same from the tree, with warnings as errors
#    and the scalar level alone.
# 3. Clang of the PyPI package ziglang compiles the tree for musl, which calls that only glibc has
#    do not pass. Neither PyPI nor Debian has a CPython for musl that could import the result, so it
#    is not linked.
#
# 4. The newest Clang reads the levels of 64-bit ARM, whose headers of intrinsics are its own; the
#    aarch64 step builds and runs them by GCC.
#
# A Clang that is not on the PATH is named as not checked.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
scratch=$(mkdir -p "$1" && cd "$1" && pwd) || exit 1
newest=clang++-22
oldest=clang++-16
failed=()

check() {  # check NAME FUNCTION COMPILER
  local name=$1 began=$SECONDS
  shift
  if ! command -v "$2" >/dev/null; then
    echo "$name: not checked, $2 is not on the PATH"
  elif "$@"; then
    echo "$name: ok ($((SECONDS - began)) s)"
  else
    failed+=("$name")
  fi
}

# golden FOLDER TESTS: the cases on the package in FOLDER, which comes before the environment's own.
golden() {
  PYTHONPATH=$1 python - "$1" <<'PY' || return
import sys
from pathlib import Path

import llama_rt

assert Path(llama_rt.__file__).is_relative_to(sys.argv[1]), llama_rt.__file__
print("ISA levels:", *llama_rt._native.cpu_info().tiers)
PY
  PYTHONPATH=$1 pytest -q -p no:cacheprovider "$2"
}

from_sdist() {
  python -m build --sdist --outdir "$scratch/sdist" . >/dev/null &&
    CXX=$1 pip install -qq --no-deps --target "$scratch/newest" "$scratch"/sdist/*.tar.gz &&
    golden "$scratch/newest" tests/golden/test_golden.py
}

from_tree() {
  local settings=(--config-settings build-dir="$scratch/tree"
    --config-settings cmake.define.LLAMA_RT_WERROR=ON
    --config-settings cmake.define.LLAMA_RT_ISA_LEVELS=scalar)
  CXX=$1 pip install -qq --no-deps --target "$scratch/oldest" "${settings[@]}" . &&
    golden "$scratch/oldest" tests/golden/test_golden.py
}

# Nothing is linked, here or in CMake's trials: that would first build ziglang's libc++ for musl,
# which takes minutes. -O0 halves the time; other steps show what warnings need optimization.
for_musl() {
  local target
  target=$(uname -m)-linux-musl
  printf '#!/bin/sh\nexec %s -m ziglang c++ -target %s "$@" -O0\n' "$1" "$target" \
    >"$scratch/zig" && chmod +x "$scratch/zig" &&
    CXX=$scratch/zig cmake -S . -B "$scratch/musl" -G Ninja -DLLAMA_RT_CUDA=OFF \
      -DCMAKE_TRY_COMPILE_TARGET_TYPE=STATIC_LIBRARY -DLLAMA_RT_WERROR=ON \
      -DLLAMA_RT_ISA_LEVELS=scalar -DPython_EXECUTABLE="$(command -v python)" \
      -Dpybind11_DIR="$(python -m pybind11 --cmakedir)" >/dev/null &&
    cmake --build "$scratch/musl" \
      --target llama_rt_common llama_rt_bindings llama_rt_scalar | tail -n 1
}

# arm_level LEVEL FLAGS SOURCES...: that the newest Clang takes them, without a warning.
arm_level() {
  local source
  for source in "${@:4}"; do
    "$1" --target=aarch64-linux-gnu -fsyntax-only -std=c++20 -Wall -Wextra -Werror -Icsrc \
      -DLLAMA_RT_LEVEL="$2" '-DLLAMA_RT_SIMD="cpu/kernels/arm/neon/simd.h"' "$3" "$source" || return
  done
}

for_arm() {
  local kernels=csrc/cpu/kernels
  if ! command -v aarch64-linux-gnu-g++ >/dev/null; then
    echo "there are no headers of 64-bit ARM: nothing was read"
    return 0
  fi
  arm_level "$1" neon -march=armv8-a $kernels/common/*.cpp $kernels/gemm/*.cpp &&
    arm_level "$1" neon_dotprod -march=armv8.2-a+dotprod $kernels/gemm/quantized_matmul.cpp &&
    arm_level "$1" neon_i8mm -march=armv8.2-a+dotprod+i8mm $kernels/arm/neon_i8mm/*.cpp
}

pip install -qq build cmake ninja && python -m venv "$scratch/tools" &&
  "$scratch/tools/bin/pip" install -qq ziglang==0.17.1 || exit 1
check "sdist by $newest" from_sdist $newest
check "tree by $oldest" from_tree $oldest
check "tree for musl" for_musl "$scratch/tools/bin/python"
check "levels of 64-bit ARM by $newest" for_arm $newest
[ ${#failed[@]} -eq 0 ] || printf 'clang.sh failed: %s\n' "${failed[*]}"
[ ${#failed[@]} -eq 0 ]
