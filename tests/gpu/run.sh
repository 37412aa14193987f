#!/usr/bin/env bash
# Everything that needs a GPU to be tested: builds zoodip for the GPU of this machine, runs the CUDA device's tests and
# compute-sanitizer on it, measures memory and speed at Stable Diffusion 1.5's size beside the reference's step in
# PyTorch, and writes results/gpu.md. Ten minutes at most.
#
#   tests/gpu/run.sh
#
# Needs a GPU, a CUDA toolkit of 12.4 or newer, cmake, make, gcc, pkg-config, python3, and the libraries cJSON, utf8proc,
# libpng, libjpeg and zlib. PyTorch, diffusers, transformers, optimum-quanto and pytest are taken from .venv or from
# python3 (environment PYTHON names another one), compute-sanitizer and nsys from the toolkit; a part whose tools are
# missing is reported as skipped.
# Exit codes: 0 everything that ran passed, 1 something failed, 2 the machine lacks something essential.
set -euo pipefail
cd "$(dirname "$0")/../.."
case ${1-} in
    --help | -h) sed -n '2,13s/^# \{0,1\}//p' "$0" && exit 0 ;;
esac

build="build-gpu"
PATH=$PATH:${CUDA_HOME:-/usr/local/cuda}/bin
export PATH

refuse() {
    echo "run.sh: $*" >&2
    exit 2
}

for program in nvidia-smi nvcc cmake make gcc g++ pkg-config python3; do
    command -v "$program" >/dev/null || refuse "$program is missing"
done
missing=()
for library in libcjson:libcjson-dev libutf8proc:libutf8proc-dev libpng:libpng-dev libjpeg:libjpeg-dev zlib:zlib1g-dev; do
    pkg-config --exists "${library%%:*}" || missing+=("${library#*:}")
done
[ ${#missing[@]} = 0 ] || refuse "libraries are missing; their packages in Debian and Ubuntu: ${missing[*]}"

gpu=${CUDA_VISIBLE_DEVICES:-0}
gpu=${gpu%%,*}
capability=$(nvidia-smi -i "$gpu" --query-gpu=compute_cap --format=csv,noheader | head -n 1) ||
    refuse "nvidia-smi finds no GPU"
architecture=${capability//./}
[[ $architecture =~ ^[0-9]+$ ]] || refuse "nvidia-smi reports no compute capability: $capability"
[ "$architecture" -ge 75 ] || refuse "the GPU has compute capability $capability; expected 7.5 or newer"

mpi=OFF
if command -v mpicc >/dev/null; then
    mpi=ON
fi
echo "run.sh: building for compute capability $capability in $build, MPI $mpi"
mkdir -p "$build"
if ! { cmake -B "$build" -S . -DZOODIP_MPI=$mpi -DCMAKE_CUDA_ARCHITECTURES="$architecture" &&
    make -C "$build" -j "$(nproc)" all helpers; } >"$build/build.log" 2>&1; then
    tail -n 40 "$build/build.log" >&2
    echo "run.sh: the build failed, its log is $build/build.log" >&2
    exit 1
fi
! "$build/zoodip" --version | grep -q "CUDA: not built in" || refuse "a CUDA toolkit of 12.4 or newer is missing"

python=${PYTHON:-.venv/bin/python}
"$python" -c 'pass' 2>/dev/null || python=python3
exec "$python" tests/gpu/proof.py --build "$build" --gpu "$gpu" --spent "$SECONDS"
