#!/usr/bin/env bash
# A folder with an older Linux and a CPython for it, for `build_wheels.py --old-root`.
#
#   sudo tools/make_old_root.sh FOLDER SOURCE.tar.xz...
#
# SOURCE: source releases of CPython as python.org (or a distribution) publishes them, one a version.
# SUITE and MIRROR name the system: Ubuntu 18.04 with glibc 2.27 unless they are set, since it is
# older than what manylinux_2_28 promises and its packages are still to be had; Debian 10 (buster,
# glibc 2.28) has left Debian's mirrors. Takes debootstrap and the rights of root; each CPython takes
# about three minutes on two cores.
set -euo pipefail

root=${1:?usage: make_old_root.sh FOLDER SOURCE...}
shift
needs=gcc,libc6-dev,make,zlib1g-dev,libffi-dev,xz-utils

debootstrap --variant=minbase --include="$needs" "${SUITE:-bionic}" "$root" \
  "${MIRROR:-http://archive.ubuntu.com/ubuntu}"
mount -t proc proc "$root/proc"
trap 'umount "$root/proc"' EXIT

for source in "$@"; do
  mkdir "$root/source"
  tar -xf "$source" -C "$root/source" --strip-components=1
  # Nothing of it is timed, so it is compiled in a hurry; no TLS either: pip runs outside.
  chroot "$root" sh -c "cd /source && ./configure -q CFLAGS=-O1 OPT=-O1 --disable-test-modules &&
    make -s -j$(nproc) && make -s altinstall"
  rm -r "$root/source"
done
chroot "$root" sh -c 'ldd --version | head -1; ls /usr/local/bin/python3.*[0-9]'
