#!/usr/bin/env bash
# Gets a Stable Diffusion from the Hugging Face hub into models/: its weights in halves, and what else zoodip needs of it.
#
#   dataset/get_model.sh sd-1.5                into models/stable-diffusion-v1-5, where configs/sd15-fast.json looks for it
#   dataset/get_model.sh sd-2.1                into models/stable-diffusion-2-1
#   dataset/get_model.sh --repo OWNER/MODEL    another diffusers model of the hub's with safetensors, into models/MODEL
#   dataset/get_model.sh sd-2.1 --repo OWNER/MODEL    the same model from another copy of it
#   dataset/get_model.sh --list                what the names mean, with sizes and licences
#
# Needs the network, python3, and the hub's client, the Python package huggingface_hub: that of .venv/ or of python3; if neither
# has it, it is installed into models/.hub-client/, for which Debian's package python3-venv is needed. The client heeds HF_TOKEN,
# HF_ENDPOINT (a mirror), HF_HOME, HF_HUB_DISABLE_XET, https_proxy and what else it documents.
#
# Each file is compared with the size and the hash that the hub has of it before it gets its place; the hashes are kept in the
# model's folder, so that a later call only compares, without the network. After Ctrl-C, or whatever else ended it, the same command
# goes on: files that were complete stay, the one in the middle begins again. A connection that breaks is taken up again within the
# call, in the middle of the file. (So does huggingface_hub 2.4; 1.3 gives up then, and goes on in the middle with the next call.)
# Exit codes: 0 the model is there, 1 it could not be had, 2 bad arguments or python3 is missing, 130 interrupted.
set -euo pipefail
cd "$(dirname "$0")/.."
case ${1-} in
    --help | -h) sed -n '2,/^[^#]/s/^# \{0,1\}//p' dataset/get_model.sh && exit 0 ;;
esac

say() {
    echo "get_model: $*" >&2
}

own=models/.hub-client
for python in .venv/bin/python python3 $own/bin/python; do
    ! "$python" -c 'import huggingface_hub' 2>/dev/null || exec "$python" dataset/hub_model.py "$@"
done
if ! command -v python3 >/dev/null; then
    say "python3 is missing: install the packages python3 and python3-venv"
    exit 2
fi
code=0
python3 dataset/hub_model.py "$@" || code=$?
[ $code = 3 ] || exit $code # 3: it cannot go on without the client
if ! python3 -c 'import ensurepip, venv' 2>/dev/null; then
    say "the hub's client is missing: install the package python3-venv, or huggingface_hub for python3"
    exit 2
fi
say "installing the hub's client, huggingface_hub, into $own"
mkdir -p models
if ! { python3 -m venv --clear $own && $own/bin/python -m pip install --quiet --disable-pip-version-check --no-input huggingface_hub; } >&2; then
    say "the hub's client could not be installed: is there a network?"
    exit 1
fi
exec $own/bin/python dataset/hub_model.py "$@"
