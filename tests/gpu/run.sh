#!/usr/bin/env bash
# Everything that needs a GPU to be tested: builds zoodip for the GPU of this machine, runs the CUDA device's tests and
# compute-sanitizer on it, measures memory, speed and the time of each kernel at Stable Diffusion 1.5's size beside the
# reference's step in PyTorch, and writes results/gpu.md. Ten minutes at most.
#
#   tests/gpu/run.sh
#
# Needs a GPU, a CUDA toolkit of 12.4 or newer, cmake, make, gcc, pkg-config, python3, and the libraries cJSON, utf8proc,
# libpng, libjpeg, libwebp, zlib, OpenSSL and LAPACK; for a machine that lacks these there is tests/gpu/prepare. PyTorch, diffusers, transformers,
# optimum-quanto and pytest are taken from .venv or from python3 (environment PYTHON names another one), compute-sanitizer
# and ncu from the toolkit; a part whose tools are missing is reported as skipped.
# Exit codes: 0 everything that ran passed, 1 something failed, 2 the machine lacks something essential.
set -euo pipefail
cd "$(dirname "$0")/../.."
case ${1-} in
    --help | -h) sed -n '2,/^[^#]/s/^# \{0,1\}//p' tests/gpu/run.sh && exit 0 ;;
esac
. tests/gpu/build.sh
[ $# = 0 ] || refuse "$1: unexpected argument; see tests/gpu/run.sh --help"

need nvidia-smi nvcc cmake make gcc g++ pkg-config python3
PATH=$PATH:${CUDA_HOME:-/usr/local/cuda}/compute-sanitizer
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
echo "run.sh: building for compute capability $capability in build-gpu, MPI $mpi"
build build-gpu -DZOODIP_MPI=$mpi -DCMAKE_CUDA_ARCHITECTURES="$architecture"

python=${PYTHON:-.venv/bin/python}
"$python" -c 'pass' 2>/dev/null || python=python3
exec "$python" tests/gpu/proof.py --build build-gpu --gpu "$gpu" --spent "$SECONDS"
