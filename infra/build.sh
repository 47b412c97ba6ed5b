#!/usr/bin/env bash
# Build the images of infra/Dockerfile, from the digest of their base, with the commit in them and as their tag:
#   infra/build.sh registry.example.com/rwsa               # …/rwsa:cpu-COMMIT and …/rwsa:cuda-COMMIT
#   infra/build.sh registry.example.com/rwsa cpu           # one of them
# Prints their names. Further options of `docker build` come from the variable BUILD_OPTIONS, such as
# BUILD_OPTIONS="--build-arg TORCH_CPU_SHA256=…". A tag is never reused for other contents: files of
# the image that differ from the commit are refused.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
[[ $# -gt 0 && $1 != -* ]] || { echo "usage: build.sh IMAGE [cpu|cuda]…" >&2; exit 2; }
name=$1 targets=("${@:2}")
[[ ${#targets[@]} -gt 0 ]] || targets=(cpu cuda)
for target in "${targets[@]}"; do
  [[ $target == cpu || $target == cuda ]] || { echo "build.sh: $target is neither cpu nor cuda" >&2; exit 2; }
done
commit=$(git -C "$here" describe --always --abbrev=12 '--exclude=*')
# What the image contains, and how it is made.
contents=(LICENSE README.md datasets infra/Dockerfile infra/Dockerfile.dockerignore infra/locks pipelines pyproject.toml rwsa tune)
if [[ -n $(git -C "$here/.." status --porcelain -- "${contents[@]}") ]]; then
  echo "build.sh: files of the image differ from the commit (git status shows them); commit or stash them first" >&2
  exit 2
fi
python=$(sed -n 's/^ARG PYTHON=//p' "$here/Dockerfile")
base=$("$here/digest.sh" "python:$python-slim")
read -ra options <<<"${BUILD_OPTIONS-}"
for target in "${targets[@]}"; do
  docker build --file "$here/Dockerfile" --target "$target" --tag "$name:$target-$commit" \
    --build-arg "PYTHON_IMAGE=$base" --build-arg "RWSA_COMMIT=$commit" ${options[@]+"${options[@]}"} "$here/.." >&2
  echo "$name:$target-$commit"
done
