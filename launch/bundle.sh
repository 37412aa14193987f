#!/usr/bin/env bash
# Packs everything for a machine without packages or network into one file: the program, its libraries, Open MPI's runtime, run.sh
# and the batch scripts, the recipes, and toybox, the tiny Stable Diffusion to try them with.
#
#   launch/bundle.sh [--output FILE.tar.gz]      default: build/zoodip-VERSION-linux-MACHINE.tar.gz
#
#   launch/bundle.sh                                              here
#   tar xzf zoodip-*.tar.gz && cd zoodip-*/                       there, in any folder
#   launch/run.sh -n 2 build/zoodip train configs/toybox.json     and so on, as in README.md
#
# First installs and builds what is missing (launch/setup.sh --bundle); for GPUs run launch/setup.sh --cuda before. If
# ZOODIP_BUILD names a build folder with the program, that program is packed as it is.
# The folder may be moved, read-only, and shared by the nodes of a cluster. From the machine it runs on it uses the GNU C library,
# which must be at least as new as the one here, and the GPU's driver.
# Exit codes: 0 done, 1 something failed, 2 bad options, no Open MPI 4 in the program, or packages missing and this is not root.
set -euo pipefail

say() {
    echo "bundle: $*" >&2
}

fail() {
    say "$*"
    exit 1
}

refuse() {
    say "$*"
    exit 2
}

output=
while [ $# -gt 0 ]; do
    case $1 in
        --output) [[ ${2-} == *.tar.gz ]] || refuse "--output needs a file name ending in .tar.gz"
            output=$2 && shift 2 ;;
        --help | -h) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0" && exit 0 ;;
        *) refuse "$1: no such option; see launch/bundle.sh --help" ;;
    esac
done
[ -z "$output" ] || output=$(realpath -m -- "$output") # as seen from where this was called
[ -z "$output" ] || [ -d "$(dirname "$output")" ] || refuse "$(dirname "$output"): no such folder"
cd "$(dirname "$0")/.."

if [ -z "${ZOODIP_BUILD-}" ] || [ ! -x "$ZOODIP_BUILD/zoodip" ] || ! command -v patchelf >/dev/null; then
    launch/setup.sh --bundle
fi
build=${ZOODIP_BUILD:-build}
about=$("$build/zoodip" --version)
version=$(awk 'NR == 1 { print $2 }' <<<"$about")
[[ $about == *"MPI: Open MPI 4."* ]] || refuse "$build/zoodip was not built with Open MPI 4, the only MPI that this can pack"
name=zoodip-$version
output=${output:-$PWD/build/$name-linux-$(uname -m).tar.gz}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/$name
runtime=$root/openmpi

# --- our own files: laid out like a checkout, as an installation has them in share/zoodip

cmake --install "$build" --prefix "$work/installed" >"$work/log" || fail "$(tail -n 5 "$work/log")"
mv "$work/installed/share/zoodip" "$root"
mkdir -p "$root"/{bin,lib,results,share/licenses} "$runtime"/{bin,etc} # batch jobs leave their logs in results/
mv "$work"/installed/share/* "$root/share"
cp -L "$build/zoodip" "$root/bin/zoodip" # as built, which knows where its libraries are
ln -sf ../bin/zoodip "$root/build/zoodip"

# --- Open MPI's runtime

# Asks Open MPI where it looks for one of its folders, as installed, and with OPAL_PREFIX naming another root.
openmpi_folder() {
    OPAL_PREFIX=${2-} ompi_info --parsable --path "$1" | sed -n "s/^path:$1://p"
}
moved() {
    local place
    place=$(openmpi_folder "$1" /moved)
    [[ $place == /moved/* ]] || fail "Open MPI's $1 stays at $place despite OPAL_PREFIX: this build of it cannot be moved"
    echo "$runtime/${place#/moved/}"
}
plugins=$(moved pkglibdir)
texts=$(moved pkgdatadir)
mkdir -p "$plugins" "$texts"
cp -L "$(command -v mpirun)" "$runtime/bin/mpirun"
cp -L "$(command -v orted)" "$runtime/bin/orted"
cp "$(openmpi_folder pkgdatadir)"/help-*.txt "$texts"
echo "btl_base_warn_component_unused = 0" >"$runtime/etc/openmpi-mca-params.conf"

# Left out: OpenSHMEM, and drivers of networks that need their system's libraries. Ranks then communicate by TCP.
pmix=
for plugin in "$(openmpi_folder pkglibdir)"/mca_*.so; do
    needs=$(ldd "$plugin")
    [[ $needs =~ lib(oshmem|ucp|uct|fabric|ibverbs|psm2|psm_infinipath)\.so ]] || cp "$plugin" "$plugins"
    [[ ! $needs =~ "=> "([^ ]*/libpmix\.so[^ ]*) ]] || pmix=$(dirname "$(realpath "${BASH_REMATCH[1]}")")
done
folders=("$root/bin" "$runtime/bin" "$plugins")
# Debian's PMIx is a separate library, with plugins beside it.
if [ -d "$pmix/pmix" ]; then
    mkdir -p "$runtime/pmix/lib/pmix" "$runtime/pmix/share/pmix"
    cp "$pmix"/pmix/*.so "$runtime/pmix/lib/pmix"
    cp "$pmix"/../share/pmix/help-*.txt "$runtime/pmix/share/pmix"
    folders+=("$runtime/pmix/lib/pmix")
fi

# --- libraries: everything that these load, except the C library and the GPU's driver

mapfile -t programs < <(find "${folders[@]}" -type f)
ldd "${programs[@]}" >"$work/loaded"
! grep 'not found' "$work/loaded" >&2 || fail "libraries are missing on this machine"
mapfile -t libraries < <(awk '$2 == "=>" { print $3 }' "$work/loaded" | sort -u |
    grep -Ev '/lib(c|m|mvec|dl|rt|pthread|util|resolv|anl|nss_[a-z]+|cuda|nvidia-[a-z]+)\.so\.[0-9]+$')
cp -L "${libraries[@]}" "$root/lib"

# Every file finds the libraries relative to itself, before any that LD_LIBRARY_PATH names.
strip --strip-unneeded "$root"/lib/* "${programs[@]}"
for folder in "$root/lib" "${folders[@]}"; do
    patchelf --force-rpath --set-rpath "\$ORIGIN/$(realpath --relative-to="$folder" "$root/lib")" "$folder"/*
done

# --- what it is made of

# The package of this system that a file belongs to, if any.
package() {
    local path
    path=$(realpath "$1")
    { dpkg-query -S "$path" || dpkg-query -S "${path#/usr}" || true; } 2>/dev/null | sed -n '1s/:.*//p'
}
system=$(sed -n 's/^PRETTY_NAME="\(.*\)"/\1/p' /etc/os-release)
newest=$(grep -aoh 'GLIBC_2\.[0-9]*' "$root"/lib/* "${programs[@]}" | sort -Vu | tail -n 1)
licenses=$root/share/licenses
{
    echo "zoodip $version, built on $system. Needs the GNU C library ${newest#GLIBC_} or a newer one."
    echo
    echo "It comes with that system's libraries, changed only in where they look for each other. Their licences are in share/licenses."
    echo
    for file in "${libraries[@]}" "$(command -v mpirun)"; do
        origin=$(package "$file")
        from=$(dirname "$(realpath "$file")")
        [ -z "$origin" ] || from=$(dpkg-query -W -f '${source:Package} ${Version}' "$origin")
        printf '%-32s %s\n' "$(basename "$file")" "$from"
        [ ! -e "/usr/share/doc/$origin/copyright" ] || cp "/usr/share/doc/$origin/copyright" "$licenses/$origin.txt"
    done
} >"$root/NOTICE"
# Those texts refer to others that every Debian has.
{ grep -rohE '/usr/share/common-licenses/[A-Za-z0-9.-]*[A-Za-z0-9]' "$licenses" || true; } | sort -u | while read -r text; do
    [ ! -e "$text" ] || cp -L "$text" "$licenses"
done

# --- one file

# The same input gives the same file; its contents have no owner.
stamp=$(git log -1 --format=%ct 2>/dev/null || stat -c %Y "$build/zoodip")
chmod -R u=rwX,go=rX "$root"
tar --directory "$work" --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$stamp" --create "$name" | gzip -9n >"$work/done"
mv "$work/done" "$output"
say "$output: $(($(stat -c %s "$output") / 1000000)) MB; unpack it anywhere: tar xzf ${output##*/}"
