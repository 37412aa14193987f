#!/usr/bin/env bash
# Runs every test, after installing and building what they need (launch/setup.sh --tests).
#
#   tests/run.sh                   everything
#   tests/run.sh -k tokenizer      arguments go to pytest
#   tests/run.sh tests/test_ops.py
set -euo pipefail
cd "$(dirname "$0")/.."
case ${1-} in
    --help | -h) sed -n '2,6s/^# \{0,1\}//p' "$0" && exit 0 ;;
esac

launch/setup.sh --tests

# Everything that the tests write stays in build/, and nothing is fetched.
export HF_HOME=$PWD/build/hf HF_HUB_OFFLINE=1 HF_HUB_DISABLE_TELEMETRY=1 XDG_CACHE_HOME=$PWD/build/cache
export PYTHONDONTWRITEBYTECODE=1

# Fast files first, those that train whole runs last.
last=(test_models test_checkpoint test_ranks test_resume test_faults test_slurm test_diffusers test_cuda_compiled test_cuda_checked test_cuda_ranks test_cuda test_learning)
files=()
for file in tests/test_*.py; do
    [[ " ${last[*]} " == *" $(basename "$file" .py) "* ]] || files+=("$file")
done
for name in "${last[@]}"; do
    [ ! -e "tests/$name.py" ] || files+=("tests/$name.py")
done
for argument in "$@"; do
    [ ! -e "${argument%%::*}" ] || files=() # the caller names files
done

code=0
.venv/bin/python -m pytest --basetemp=build/pytest -o cache_dir="$PWD/build/pytest-cache" "${files[@]}" "$@" || code=$?
[ $code != 0 ] || rm -rf build/pytest
exit $code
