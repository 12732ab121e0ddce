#!/usr/bin/env bash
# aarch64.sh RESULTS [EVERY]: builds the module for 64-bit ARM and tests every ISA level of it under
# qemu-aarch64: kernel slots against float64, logits of the golden cases and of the built-in model
# against the bits of avx2, and the newcomer's commands. Appends a line to RESULTS for each level
# (levels.py). Exits non-zero if something failed. Of the tests of kernel slots every 17th is run, or
# every EVERY-th: all of them (1) take half an hour on two cores, numpy being emulated too. 17 has no
# factor in common with the number of formats, so that each is met at some size.
#
# Needs g++-aarch64-linux-gnu and qemu-user (else the lines say "not run"), Debian's apt, cmake,
# ninja, pybind11 and an index for pip. With llama_rt installed for this machine, with avx2, the
# logits of both are compared. Works in build/aarch64; what is there is used again.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

results=$1
every=${2:-17}
root=$PWD
work=$root/build/aarch64

# Level, the processor that is emulated, and the tests of what the level has of its own: a level
# keeps its parent's other kernels, which the parent's line covers. The levels above neon have
# products with packed blocks.
blocks="not never and not f16 and not f32"
products="tests/ops/test_matmul.py tests/ops/test_many_inputs.py"
levels=(
  "scalar|cortex-a72|scalar|tests/ops/test_rowwise.py"
  "neon|cortex-a72|neon|tests/ops"
  "neon_dotprod|neoverse-n1|neon_dotprod and $blocks|$products"
  "neon_i8mm|max|neon_i8mm and $blocks|$products"
)

report() {  # report LEVEL HOW RESULT
  printf 'aarch64\t%s\t%s\t%s\n' "$1" "$2" "$3" | tee -a "$results"
}

report_all() {
  for line in "${levels[@]}"; do report "${line%%|*}" "not run" "$1"; done
}

build() {
  bash .ci/aarch64_sysroot.sh "$work/sysroot" || return
  # Levels bring their own -O3; the rest is compiled for its correctness alone.
  cmake -S . -B "$work/module" -G Ninja -DLLAMA_RT_CUDA=OFF -DLLAMA_RT_ISA_LEVELS=all \
    -DCMAKE_CXX_FLAGS_RELEASE="-O1 -DNDEBUG" -DLLAMA_RT_SYSROOT="$work/sysroot" \
    -DCMAKE_TOOLCHAIN_FILE="$root/cmake/aarch64-linux-gnu.cmake" \
    -Dpybind11_DIR="$(python -m pybind11 --cmakedir)" >"$work/configure.log" || return
  cmake --build "$work/module" >"$work/build.log" || { tail -30 "$work/build.log"; return 1; }
  rm -rf "$work/package"
  cmake --install "$work/module" --prefix "$work/package" >/dev/null || return
  cp -r python/llama_rt/. "$work/package/llama_rt"
}

# The emulated Python would take half a minute to compile what it imports; one of the same version
# here does it faster.
precompile() {
  local python
  for folder in "$work"/sysroot/root/usr/lib/python3.*; do python=$(basename "$folder"); done
  command -v "$python" >/dev/null || return 0
  "$python" -m compileall -q "$work/package" "$work/sysroot/site" \
    "$work/sysroot/root/usr/lib/$python" tests >/dev/null 2>&1 || true
}

emulated() {  # emulated CPU ARGUMENTS...: Python for 64-bit ARM
  QEMU_CPU=$1 PYTHONPATH=$work/package "$work/sysroot/python" "${@:2}"
}

# test_level LEVEL CPU SELECTION TESTS: the tests that SELECTION names, then its bits.
test_level() {
  local level=$1 how="qemu $2" log=$work/$1.log passed bits="" tests
  read -r -a tests <<<"$4"
  if ! emulated "$2" -m pytest -q -p no:cacheprovider --every "$every" -k "$3" "${tests[@]}" >"$log" 2>&1; then
    tail -40 "$log"
    report "$level" "$how" "FAILED: $(tail -1 "$log")"
    return 1
  fi
  passed=$(grep -o '[0-9]* passed' "$log" | tail -1)
  if [ "$level" != scalar ] && [ -s "$work/avx2.bits" ]; then
    if ! emulated "$2" .ci/level_bits.py "$level" >"$work/$level.bits" ||
      ! diff "$work/avx2.bits" "$work/$level.bits"; then
      report "$level" "$how" "FAILED: its bits are not those of avx2"
      return 1
    fi
    bits=", the bits of avx2 in $(wc -l <"$work/$level.bits") models"
  fi
  report "$level" "$how" "$passed$bits"
}

# What a newcomer types; `doctor` names the processor.
first_run() {
  emulated cortex-a72 -m llama_rt doctor >"$work/doctor.log" || return
  cat "$work/doctor.log"
  grep -q Cortex-A72 "$work/doctor.log" || return
  emulated max -m llama_rt run --max-tokens 16 "Once upon a time"
}

for tool in aarch64-linux-gnu-g++ qemu-aarch64 apt-get cmake ninja; do
  if ! command -v "$tool" >/dev/null; then
    report_all "there is no $tool"
    exit 0
  fi
done
mkdir -p "$work"
if ! build; then
  report_all "FAILED: it does not build"
  exit 1
fi
precompile
# From another folder, so that the installed package is found and not this tree.
(cd "$work" && python "$root/.ci/level_bits.py" avx2 >avx2.bits) || rm -f "$work/avx2.bits"
failed=0
first_run || { echo "aarch64: the first run FAILED"; failed=1; }
running=()
for line in "${levels[@]}"; do
  IFS='|' read -r -a words <<<"$line"
  test_level "${words[@]}" &
  running+=($!)
done
for process in "${running[@]}"; do wait "$process" || failed=1; done
exit $failed
