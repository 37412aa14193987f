#!/usr/bin/env bash
# Makes the program: installs the Debian packages that are missing (as root; anyone else is told their names) and builds.
#
#   launch/setup.sh            what zoodip needs, into build/
#   launch/setup.sh --tests    also what the tests need: Slurm, their Python peers in .venv, a build by clang in build-clang/,
#                              and the CUDA device for a stand-in of a GPU in build/tests/cuda/
#   launch/setup.sh --cuda     with CUDA for all GPUs since Turing, also where none answers (some minutes)
#
# Where a GPU answers and there is a CUDA toolkit, the program is built for that GPU without being asked.
# A second call is quick: it installs nothing that is there and builds nothing that is up to date.
# Exit codes: 0 ready, 1 something failed (the end of its log is shown), 2 packages are missing and this is not root.
set -euo pipefail
cd "$(dirname "$0")/.."

# Package, and a command that succeeds where the machine has what it brings, whoever installed it.
program_packages='
cmake               command -v cmake
make                command -v make
gcc                 command -v gcc
libc6-dev           test -e /usr/include/stdio.h
pkg-config          command -v pkg-config
openmpi-bin         command -v mpirun
libopenmpi-dev      command -v mpicc
libcjson-dev        pkg-config --exists libcjson
libutf8proc-dev     pkg-config --exists libutf8proc
libpng-dev          pkg-config --exists libpng
libjpeg62-turbo-dev pkg-config --exists libjpeg
zlib1g-dev          pkg-config --exists zlib'
test_packages='
g++                 command -v g++
python3             command -v python3
python3-venv        python3 -c "import ensurepip, venv"
clang               command -v clang
clang-format        command -v clang-format'
# Without these the tests of Slurm are skipped.
slurm_packages='
slurm-wlm           command -v slurmctld || test -x /usr/sbin/slurmctld
munge               command -v munged || test -x /usr/sbin/munged'

say() {
    echo "setup: $*" >&2
}

# Runs a command with its output in a log, and shows the log's end if it fails.
logged() {
    local log=$1
    shift
    if ! "$@" >"$log" 2>&1; then
        tail -n 40 "$log" >&2
        say "failed: $*"
        say "the whole log: $log"
        exit 1
    fi
}

missing_packages() {
    local package check
    while read -r package check; do
        [ -n "$package" ] || continue
        eval "$check" >/dev/null 2>&1 && continue
        # the check may need another missing package, so what dpkg says counts too
        [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)" = installed ] || echo "$package"
    done <<<"$1"
}

install_packages() {
    local missing
    missing=$(missing_packages "$1" | paste -sd ' ')
    [ -n "$missing" ] || return 0
    if ! command -v apt-get >/dev/null; then
        say "missing, by their Debian names: $missing"
        say "there is no apt-get here: install them as this system does, then run this again"
        exit 2
    fi
    if [ "$(id -u)" != 0 ]; then
        say "these packages are missing: $missing"
        say "install them as root, then run this again:"
        say "  apt-get update && apt-get install --no-install-recommends $missing"
        exit 2
    fi
    say "installing $missing"
    export DEBIAN_FRONTEND=noninteractive
    logged build/packages.log apt-get update
    # shellcheck disable=SC2086  # one word a package
    logged build/packages.log apt-get install -y --no-install-recommends $missing
}

# Slurm is worth a try: where its packages cannot be set up, its tests are skipped. Munge makes its key as a user of its own, who
# may not get anywhere in a container; a key that is there already is enough for it.
install_slurm() {
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null && [ -n "$(missing_packages "$slurm_packages")" ] || return 0
    say "installing slurm-wlm munge"
    mkdir -p /etc/munge
    [ -e /etc/munge/munge.key ] || (umask 077 && head -c 1024 /dev/urandom >/etc/munge/munge.key)
    { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends slurm-wlm munge; } \
        >build/slurm.log 2>&1 ||
        say "Slurm could not be installed (build/slurm.log): its tests will be skipped"
}

cores() {
    nproc 2>/dev/null || echo 1
}

# For which GPUs: all (--cuda), those that build/ was made for, those that are here, or none.
cuda_options() {
    local here
    if [ -n "$cuda" ]; then
        echo "-DZOODIP_CUDA=ON -UCMAKE_CUDA_ARCHITECTURES"
    elif grep -qs '^ZOODIP_CUDA:BOOL=ON' build/CMakeCache.txt; then
        echo
    elif here=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | tr -d . | awk '$1 >= 75' | sort -u | paste -sd ';') &&
        [ -n "$here" ]; then
        echo "-DZOODIP_CUDA=ON -DCMAKE_CUDA_ARCHITECTURES=$here"
    else
        echo -DZOODIP_CUDA=OFF
    fi
}

# A folder, and what cmake is told; a folder that was configured with other options is configured again.
build() {
    local folder=$1 told
    shift
    mkdir -p "$folder"
    told="$*"
    [ -e "$folder/Makefile" ] && [ "$(cat "$folder/told.txt" 2>/dev/null)" = "$told" ] || {
        logged "$folder/configure.log" cmake -S . -B "$folder" "$@"
        echo "$told" >"$folder/told.txt"
    }
    [ -e "$folder/zoodip" ] || say "building $folder/ on $(cores) cores"
    logged "$folder/build.log" make -C "$folder" -j "$(cores)" all ${tests:+helpers}
}

# The packages that the tests compare with. Everything stays inside the checkout, pip's downloads too.
python_peers() {
    local stamp=.venv/installed.txt
    cmp -s tests/requirements.txt "$stamp" && return 0
    say "installing the tests' Python packages into .venv (about 6 GB, a few minutes)"
    mkdir -p build/tmp
    [ -x .venv/bin/python ] || logged build/venv.log python3 -m venv .venv
    TMPDIR=$PWD/build/tmp logged build/pip.log .venv/bin/python -m pip install --no-cache-dir \
        --disable-pip-version-check --no-input -r tests/requirements.txt
    rm -rf build/tmp
    cp tests/requirements.txt "$stamp"
}

tests= cuda=
case ${1-} in
    '') ;;
    --tests) tests=1 ;;
    --cuda) cuda=1 ;;
    --help | -h) sed -n '2,12s/^# \{0,1\}//p' "$0" && exit 0 ;;
    *) say "$1: no such option; see launch/setup.sh --help" && exit 2 ;;
esac

mkdir -p build
PATH=$PATH:${CUDA_HOME:-/usr/local/cuda}/bin
install_packages "$program_packages${tests:+$test_packages}"
[ -z "$tests" ] || install_slurm
# shellcheck disable=SC2046  # one word an option
build build $(cuda_options) ${tests:+-DZOODIP_STANDIN=ON -DZOODIP_WERROR=ON}
if [ -n "$cuda" ] && grep -qs 'no CUDA toolkit' build/configure.log; then
    say "there is no CUDA toolkit of 12.4 or newer here (nvcc on the PATH, or below CUDA_HOME): build/ is for the CPU"
    exit 2
fi
if [ -n "$tests" ]; then
    build build-clang -DCMAKE_C_COMPILER=clang -DZOODIP_CUDA=OFF -DZOODIP_WERROR=ON
    python_peers
fi
