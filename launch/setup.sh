#!/usr/bin/env bash
# Builds the program, after installing missing Debian packages (as root; otherwise it prints their names and stops).
#
#   launch/setup.sh            what zoodip needs, into build/
#   launch/setup.sh --tests    also what the tests need: their helper programs, pytest, numpy and pillow in .venv, and
#                                peers    the Python packages that they compare with, 6 GB in .venv
#                                slurm    Slurm
#                                clang    a build by clang in build-clang/
#                                fuzz     a build with sanitizers for libFuzzer in build-fuzz/
#                                standin  the CUDA device for a stand-in of a GPU in build/tests/cuda/
#                                bundle   what --bundle installs
#                              or some of these six: --tests=peers,slurm; or none: --tests=
#   launch/setup.sh --bundle   also what launch/bundle.sh needs
#   launch/setup.sh --cuda     with CUDA for all GPUs since Turing, even if there is none here (some minutes)
#
# ZOODIP_BUILD in the environment names a build folder other than build/.
# With a working GPU and a CUDA toolkit, the program is built for that GPU without being asked.
# A second call is quick: it installs and builds only what is missing or out of date.
# Exit codes: 0 ready, 1 something failed (the end of its log is shown), 2 packages are missing and this is not root.
set -euo pipefail
cd "$(dirname "$0")/.."

# Package, and a command that succeeds if the machine has its contents, however they were installed.
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
libwebp-dev         pkg-config --exists libwebp libwebpdemux
zlib1g-dev          pkg-config --exists zlib
libssl-dev          pkg-config --exists libcrypto
liblapack-dev       pkg-config --exists lapack'
# The program reads AVIF and HEIC pictures where it is built with these.
test_packages='
libavif-dev         pkg-config --exists libavif
libheif-dev         pkg-config --exists libheif
python3             command -v python3
python3-venv        python3 -c "import ensurepip, venv"'
standin_packages='
g++                 command -v g++'
clang_packages='
clang               command -v clang
clang-format        command -v clang-format'
fuzz_packages='
clang               command -v clang
libclang-rt-dev     test -e "$(clang -print-runtime-dir)/libclang_rt.fuzzer-$(uname -m).a"'
bundle_packages='
patchelf            command -v patchelf'
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
        say "full log: $log"
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
        say "no apt-get here: install them with this system's package manager, then run this again"
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

# Slurm is optional: if its packages cannot be set up, its tests are skipped. Munge creates its key as a user of its own, which
# may lack the permission in a container; an existing key is enough for it.
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

# Whether the tests need one of the six.
needed() {
    [[ ",$tests," == *",$1,"* ]]
}

# Whether the build folder was configured with an option.
has_option() {
    grep -qs "^$1:BOOL=ON" "$home/CMakeCache.txt"
}

# Which GPUs to build for: all (--cuda), those that the build folder was made for, those in this machine, or none.
cuda_options() {
    local here
    if [ -n "$cuda" ]; then
        echo "-DZOODIP_CUDA=ON -UCMAKE_CUDA_ARCHITECTURES"
    elif has_option ZOODIP_CUDA; then
        echo
    elif here=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | tr -d . | awk '$1 >= 75' | sort -u | paste -sd ';') &&
        [ -n "$here" ]; then
        echo "-DZOODIP_CUDA=ON -DCMAKE_CUDA_ARCHITECTURES=$here"
    else
        echo -DZOODIP_CUDA=OFF
    fi
}

# What of the build folder the tests need; with the stand-in also its watched flavours, as far as they are used.
test_targets() {
    echo helpers
    ! needed standin || has_option ZOODIP_SANITIZE || echo cuda-asan_op cuda-asan_selftest cuda-race_op cuda-race_selftest
}

# Once asked for, the stand-in stays part of the build folder, so that it is not rebuilt between tests.
standin_option() {
    { needed standin || has_option ZOODIP_STANDIN; } && echo -DZOODIP_STANDIN=ON || true
}

# Build folder, targets, and options for cmake; a folder configured with other options is configured again.
build() {
    local folder=$1 targets=$2 options
    shift 2
    mkdir -p "$folder"
    options="$*"
    [ -e "$folder/CMakeCache.txt" ] && [ "$(cat "$folder/options.txt" 2>/dev/null)" = "$options" ] || {
        logged "$folder/configure.log" cmake -S . -B "$folder" "$@"
        echo "$options" >"$folder/options.txt"
    }
    [ -e "$folder/build.log" ] || say "building $folder/ on $(cores) cores"
    # shellcheck disable=SC2086  # one word a target
    logged "$folder/build.log" cmake --build "$folder" -j "$(cores)" --target $targets
}

# The packages of a list, tests/NAME.txt. Everything stays inside the checkout, pip's downloads too.
python_packages() {
    local list=tests/$1.txt stamp=.venv/$1.txt
    cmp -s "$list" "$stamp" && return 0
    say "installing the tests' Python packages into .venv$2"
    mkdir -p build/tmp
    [ -x .venv/bin/python ] || logged build/venv.log python3 -m venv .venv
    TMPDIR=$PWD/build/tmp logged build/pip.log .venv/bin/python -m pip install --no-cache-dir \
        --disable-pip-version-check --no-input -r "$list"
    rm -rf build/tmp
    cp "$list" "$stamp"
}

tests= cuda= for_tests= home=${ZOODIP_BUILD:-build}
case ${1-} in
    '') ;;
    --tests) for_tests=1 tests=peers,slurm,clang,fuzz,standin,bundle ;;
    --tests=*) for_tests=1 tests=${1#*=} ;;
    --bundle) tests=bundle ;;
    --cuda) cuda=1 ;;
    --help | -h) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0" && exit 0 ;;
    *) say "$1: no such option; see launch/setup.sh --help" && exit 2 ;;
esac
for need in ${tests//,/ }; do
    case $need in
        peers | slurm | clang | fuzz | standin | bundle) ;;
        *) say "--tests=$need: unknown; see launch/setup.sh --help" && exit 2 ;;
    esac
done

mkdir -p build
PATH=$PATH:${CUDA_HOME:-/usr/local/cuda}/bin
packages=$program_packages${for_tests:+$test_packages}
needed standin && packages+=$standin_packages
needed clang && packages+=$clang_packages
needed fuzz && packages+=$fuzz_packages
needed bundle && packages+=$bundle_packages
install_packages "$packages"
needed slurm && install_slurm
# shellcheck disable=SC2046  # one word an option
build "$home" "all ${for_tests:+$(test_targets)}" $(cuda_options) $(standin_option) ${for_tests:+-DZOODIP_WERROR=ON}
if [ -n "$cuda" ] && grep -qs 'no CUDA toolkit' "$home/configure.log"; then
    say "no CUDA toolkit of 12.4 or newer found (nvcc on the PATH, or below CUDA_HOME): $home/ is for the CPU"
    exit 2
fi
needed clang && build build-clang "all helpers" -DCMAKE_C_COMPILER=clang -DZOODIP_CUDA=OFF -DZOODIP_WERROR=ON
needed fuzz && build build-fuzz "fuzz helper_damage" -DCMAKE_C_COMPILER=clang -DZOODIP_FUZZ=ON -DZOODIP_MPI=OFF -DZOODIP_CUDA=OFF -DZOODIP_WERROR=ON
[ -z "$for_tests" ] || python_packages requirements-quick ""
needed peers && python_packages requirements " (about 6 GB, a few minutes)"
exit 0
