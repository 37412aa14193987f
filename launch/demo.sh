#!/usr/bin/env bash
# Teaches the tiny Stable Diffusion in dataset/toybox a toy that it has never seen, on two MPI ranks, and draws it.
#
#   launch/demo.sh [SUBJECT]     one of ball1 cube2 star3 heart4 bear5 duck6 car7 mushroom8 (default: duck6)
#
# First installs and builds what is missing (launch/setup.sh). Takes about two minutes on two cores once built.
# Everything it produces is in results/demo/SUBJECT, and overwritten by the next time.
set -euo pipefail
cd "$(dirname "$0")/.."

subjects=dataset/toybox/subjects
case ${1-} in
    --help | -h) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0" && exit 0 ;;
esac
if [ $# -gt 1 ]; then
    echo "demo: $2: unexpected argument; see launch/demo.sh --help" >&2
    exit 2
fi
subject=${1-duck6}
if [[ ! $subject =~ ^[a-z0-9]+$ ]] || [ ! -d "$subjects/$subject" ]; then
    echo "demo: $subject: no such subject; one of $(cd "$subjects" && echo */ | tr -d /)" >&2
    exit 2
fi

[ ! -e launch/setup.sh ] || launch/setup.sh # not part of an installation

output=results/demo/$subject
echo "demo: learning the word \"sks\" from the five photos in $subjects/$subject, on 2 ranks" >&2
launch/run.sh -n 2 build/zoodip train configs/toybox.json --overwrite --set data.images="$subjects/$subject" --set output.dir="$output"

echo "demo: generating \"a photo of a sks on a checkered blanket\" with the learned word" >&2
build/zoodip generate --model dataset/toybox/model --embedding "$output/learned_embeds.safetensors" \
    --prompt "a photo of a sks on a checkered blanket" --guidance 3 --output "$output/blanket.png"

cat >&2 <<END

The demo made:
  $output/learned_embeds.safetensors   the word, as diffusers, AUTOMATIC1111 and ComfyUI read it
  $output/grid.png                     the photos, what "toy" draws, what the learned word draws
  $output/report.html                  curve, pictures, config and timings on one page
  $output/metrics.jsonl                a line for every step
  $output/blanket.png                  a new picture, by zoodip generate
END
