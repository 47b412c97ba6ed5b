#!/usr/bin/env bash
# Write the lists of packages that images install, with the SHA-256 of every file that they may download. Needs uv
# (pip install uv) and a package index. After a change of infra/constraints.txt or of pyproject.toml's dependencies:
#   infra/locks/compile.sh
# build.txt: pip, and what builds rwsa and packages that are distributed as source only.
# cuda.txt: torch with CUDA, from PyPI.
# packages.txt: everything else, for infra/Dockerfile, infra/mlflow and infra/ray.
set -euo pipefail
cd "$(dirname "$0")/../.."
uv=${UV:-uv}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# lock NAME ARGUMENT…: resolve with the versions of infra/constraints.txt, for every Linux and Python that we support.
lock() {
  "$uv" pip compile --quiet --universal --python-version 3.11 --constraints infra/constraints.txt --generate-hashes \
    --no-annotate --no-header "${@:2}" --output-file "$work/$1"
}

printf 'cython\nnumpy\npip\nsetuptools>=77\n' >"$work/build.in"
printf 'torch\n' >"$work/cuda.in"
for name in build cuda; do lock "$name.txt" "$work/$name.in"; done
grep -oE '^(cuda|nvidia|triton)[a-z0-9-]*' "$work/cuda.txt" >"$work/excluded.in"
lock packages.txt pyproject.toml --excludes "$work/excluded.in" --no-emit-package torch --extra app --extra cluster \
  --extra dnsmos --extra gs --extra metrics --extra optuna --extra s3 --extra server

for name in build cuda packages; do
  {
    echo "# Written by infra/locks/compile.sh; do not edit."
    cat "$work/$name.txt"
  } >"infra/locks/$name.txt"
done
