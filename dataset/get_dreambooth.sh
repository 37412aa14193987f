#!/usr/bin/env bash
# Gets the subjects of the DreamBooth paper (30 folders of photos) into dataset/dreambooth/, for configs/sd15.json.
#
#   dataset/get_dreambooth.sh
#
# Clones https://github.com/google/dreambooth, so it needs git and the network. The photos have their own
# licenses: see dataset/dreambooth/references_and_licenses.txt. Does nothing if the folder exists.
set -euo pipefail
cd "$(dirname "$0")"
case ${1-} in
    --help | -h) sed -n '2,/^[^#]/s/^# \{0,1\}//p' get_dreambooth.sh && exit 0 ;;
esac
if [ $# -gt 0 ]; then
    echo "get_dreambooth: $1: unexpected argument; see dataset/get_dreambooth.sh --help" >&2
    exit 2
fi

source=https://github.com/google/dreambooth
target=dreambooth
if [ -d $target ]; then
    echo "get_dreambooth: dataset/$target already exists" >&2
    exit 0
fi
if ! command -v git >/dev/null; then
    echo "get_dreambooth: git is missing: install the package git" >&2
    exit 2
fi

clone=$(mktemp -d .dreambooth.XXXXXX)
trap 'rm -rf "$clone"' EXIT
if ! GIT_TERMINAL_PROMPT=0 git clone --quiet --depth 1 $source "$clone/repository"; then
    echo "get_dreambooth: $source could not be cloned: is there a network? Your own photos work as well: set data.images to their folder" >&2
    exit 1
fi
mv "$clone/repository/dataset" $target # whole or not at all
echo "get_dreambooth: dataset/$target holds $(find $target -mindepth 1 -maxdepth 1 -type d | wc -l) subjects" >&2
