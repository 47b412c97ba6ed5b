#!/usr/bin/env bash
# Print images with the digest that their tags have now, so that what is built or run from them cannot change:
#   infra/digest.sh python:3.11-slim                                    # python:3.11-slim@sha256:…
#   infra/digest.sh postgres:17 chrislusf/seaweedfs:4.47                # one line each
# Needs docker with buildx, and the registry.
set -euo pipefail
[[ $# -gt 0 ]] || { echo "usage: digest.sh IMAGE…" >&2; exit 2; }
for image; do
  [[ $image != -* ]] || { echo "digest.sh: $image is not an image" >&2; exit 2; }
  digest=$(docker buildx imagetools inspect --format '{{.Manifest.Digest}}' "${image%%@*}") || {
    echo "digest.sh: cannot get the digest of $image" >&2
    exit 1
  }
  [[ $digest =~ ^sha256:[0-9a-f]{64}$ ]] || { echo "digest.sh: docker gave no digest for $image" >&2; exit 1; }
  echo "${image%%@*}@$digest"
done
