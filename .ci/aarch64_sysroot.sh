#!/usr/bin/env bash
# aarch64_sysroot.sh DIR: a Python for 64-bit ARM, with what llama_rt and its tests import, unpacked
# under DIR: DIR/root (Debian's python3 with headers and libraries), DIR/site (packages from the
# index). Nothing is installed on this machine; DIR/python runs it under qemu-aarch64.
#
# Needs Debian's apt (its sources as configured here), pip and qemu-aarch64 (qemu-user). A DIR that
# is complete is left as it is.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
mkdir -p "$1"
dir=$(cd "$1" && pwd)
[ ! -e "$dir/complete" ] || exit 0

# A package database of its own: to apt this is an empty ARM computer, so it also fetches what every
# Debian is expected to have.
apt=(apt-get -qq -o APT::Architecture=arm64 -o APT::Architectures=arm64
  -o "Dir::State=$dir/apt/state" -o "Dir::State::status=$dir/apt/status"
  -o "Dir::Cache=$dir/apt/cache" -o Debug::NoLocking=1 -o APT::Sandbox::User=)
mkdir -p "$dir/apt/state/lists/partial" "$dir/apt/cache/archives/partial"
: >"$dir/apt/status"
"${apt[@]}" update
"${apt[@]}" install --download-only --no-install-recommends -y \
  python3 libpython3-dev libstdc++6 >/dev/null
mkdir -p "$dir/root"
for package in "$dir"/apt/cache/archives/*.deb; do dpkg -x "$package" "$dir/root"; done

# Python's headers alone, so that the compiler's own C library is not mixed with the unpacked one.
mkdir -p "$dir/include"
cp -rL "$dir"/root/usr/include/python3.*/. "$dir/include"
mkdir -p "$dir/include/aarch64-linux-gnu"
cp -rL "$dir"/root/usr/include/aarch64-linux-gnu/python3.* "$dir/include/aarch64-linux-gnu"

# Links that begin at the root would leave the tree.
find "$dir/root" -type l -lname '/*' | while read -r link; do
  ln -sfn "$dir/root$(readlink "$link")" "$link"
done

cat >"$dir/python" <<'PY'
#!/usr/bin/env bash
# Runs the unpacked Python; QEMU_CPU names the processor.
dir=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export PYTHONHOME="$dir/root/usr" PYTHONPATH="${PYTHONPATH:+$PYTHONPATH:}$dir/site"
exec qemu-aarch64 -L "$dir/root" "$dir/root/usr/bin/python3" "$@"
PY
chmod +x "$dir/python"

version=$("$dir/python" -S -c 'import sys; print("%d%d" % sys.version_info[:2])')
packages=$(python3 - "$here/pyproject.toml" <<'PY'
import sys

try:
    import tomllib
except ImportError:
    from pip._vendor import tomli as tomllib
with open(sys.argv[1], "rb") as file:
    print(*tomllib.load(file)["project"]["dependencies"], sep="\n")
PY
)
mapfile -t requirements <<<"$packages"
python3 -m pip download -qq --only-binary=:all: --implementation cp --python-version "$version" \
  --platform manylinux_2_28_aarch64 --platform manylinux_2_17_aarch64 \
  --platform manylinux2014_aarch64 -d "$dir/wheels" "${requirements[@]}" 'pytest>=8' 'hypothesis>=6' \
  'gguf>=0.17'
for wheel in "$dir"/wheels/*.whl; do python3 -m zipfile -e "$wheel" "$dir/site"; done
rm -rf "$dir/apt" "$dir/wheels"
touch "$dir/complete"
