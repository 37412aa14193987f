#!/usr/bin/env bash
# Gets a Stable Diffusion from the Hugging Face hub into models/: its weights in halves, and what else zoodip needs of it.
#
#   dataset/get_model.sh sd-1.5                into models/stable-diffusion-v1-5, where configs/sd15-fast.json looks for it
#   dataset/get_model.sh sd-2.1                into models/stable-diffusion-2-1
#   dataset/get_model.sh --repo OWNER/MODEL    another diffusers model of the hub's with safetensors, into models/MODEL
#   dataset/get_model.sh sd-2.1 --repo OWNER/MODEL    the same model from another copy of it
#   dataset/get_model.sh --list                what the names mean, with sizes and licences
#
# Needs the network and python3, nothing else. A download that was interrupted goes on with the same command. Every file is
# compared with the size and the hash that the hub has of it, and they are kept in the model's folder, so that a later call only
# compares, without the network. HF_TOKEN (or the token that hf auth login keeps) says who you are, HF_ENDPOINT names a mirror.
# Exit codes: 0 the model is there, 1 it could not be had, 2 bad arguments or python3 is missing, 130 interrupted.
set -euo pipefail
cd "$(dirname "$0")/.."
case ${1-} in
    --help | -h) sed -n '2,/^[^#]/s/^# \{0,1\}//p' dataset/get_model.sh && exit 0 ;;
esac
if ! command -v python3 >/dev/null; then
    echo "get_model: python3 is missing: install the package python3" >&2
    exit 2
fi
exec python3 dataset/hub_model.py "$@"
