# shellcheck shell=bash
# What tests/gpu/run.sh, prepare and go share, to be sourced in the root of the project: what a build for a GPU needs, and the build
# of zoodip and of the helpers that the tests of the CUDA device start.

helpers=(op forward) # tests/helpers/NAME.c
PATH=$PATH:${CUDA_HOME:-/usr/local/cuda}/bin
export PATH

refuse() {
    echo "${0##*/}: $*" >&2
    exit 2
}

# Refuses if one of these programs, or a library, is missing.
need() {
    local program library missing=()
    for program in "$@"; do
        command -v "$program" >/dev/null && continue
        case $program in
            nvidia-smi) refuse "nvidia-smi is missing: install NVIDIA's driver" ;;
            nvcc) refuse "nvcc is missing: install NVIDIA's CUDA toolkit, 12.4 or newer, or set CUDA_HOME to its folder" ;;
            strip) missing+=(binutils) ;;
            *) missing+=("$program") ;;
        esac
    done
    for library in libcjson:libcjson-dev libutf8proc:libutf8proc-dev libpng:libpng-dev libjpeg:libjpeg-dev libwebpdemux:libwebp-dev \
        zlib:zlib1g-dev libcrypto:libssl-dev lapack:liblapack-dev; do
        pkg-config --exists "${library%%:*}" 2>/dev/null || missing+=("${library#*:}")
    done
    [ ${#missing[@]} = 0 ] || refuse "missing, by their names in Debian and Ubuntu; as root: apt-get install ${missing[*]}"
}

# build FOLDER CMAKE_OPTION...: only what changed since the last time. LOG names the log.
build() {
    local folder=$1 log=${LOG:-$1/build.log}
    shift
    mkdir -p "$folder"
    if ! { cmake -B "$folder" -S . "$@" && cmake --build "$folder" -j "$(nproc)" --target zoodip "${helpers[@]/#/helper_}"; } >"$log" 2>&1; then
        tail -n 40 "$log" >&2
        echo "${0##*/}: the build failed, its log is $log" >&2
        exit 1
    fi
    ! "$folder/zoodip" --version | grep -q "CUDA: not built in" || refuse "a CUDA toolkit of 12.4 or newer is missing"
}
