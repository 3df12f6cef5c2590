#!/usr/bin/env bash
# infra/images/build.sh cpu|train|draft|serving ...: builds images, with commit and version as labels, and lays
# the bill of what is in each (SBOM, CycloneDX) into build/images/. PIP_INDEX_URL, PIP_EXTRA_INDEX_URL,
# PIP_FIND_LINKS, TORCH_FIND_LINKS (addresses), BASE and BUILDER (images) are handed on where they are set.
# TAG is another tag than the version, as for a second checkout of one machine.
set -euo pipefail
cd "$(dirname "$0")/../.."

version=$(sed -n 's/^__version__ = "\(.*\)"/\1/p' src/cowest/__init__.py)
tag=${TAG:-$version}
revision=$(git rev-parse HEAD 2>/dev/null || echo unknown)
[ -z "$(git status --porcelain 2>/dev/null)" ] || revision=$revision-changed
# BuildKit needs a plugin that Debian's package lacks.
docker buildx version >/dev/null 2>&1 || export DOCKER_BUILDKIT=0

given=()
for name in PIP_INDEX_URL PIP_EXTRA_INDEX_URL PIP_FIND_LINKS TORCH_FIND_LINKS; do
  # A folder of this machine is none of the builder's: engine.sh copies it.
  case ${!name:-} in http*) given+=(--build-arg "$name") ;; esac
done
for name in BASE BUILDER; do [ -z "${!name:-}" ] || given+=(--build-arg "$name"); done

mkdir -p build/images
for kind in "$@"; do
  environment=/opt/cowest
  case $kind in
    cpu) image=cowest-python:$tag ;;
    train) image=cowest-train-python:$tag ;;
    draft) image=cowest-draft-python:$tag environment=/opt/vllm
      given+=(--build-arg "COWEST=cowest-python:$tag") ;;
    serving) image=cowest-serving-python:$tag ;;
    *) echo "build.sh: $kind is none of cpu, train, draft, serving" >&2; exit 2 ;;
  esac
  if [ "$kind" = serving ]; then
    # With the settings of ./params.yaml.
    python -m cowest_serving bento --image "$image" "${given[@]}"
  else
    # Also by its commit, as profiles of a cluster name it.
    docker build -q -f "infra/images/$kind.Dockerfile" -t "$image" -t "$image-${revision:0:12}${revision#"${revision:0:40}"}" "${given[@]}" \
      --label org.opencontainers.image.title="$image" \
      --label org.opencontainers.image.version="$version" \
      --label org.opencontainers.image.revision="$revision" \
      --label org.opencontainers.image.licenses=Apache-2.0 . >/dev/null
  fi
  docker run --rm --entrypoint cat "$image" "$environment/sbom.cdx.json" >"build/images/$kind.cdx.json"
  echo "$image: $(docker image inspect --format '{{.Id}}' "$image"), $(($(docker image inspect --format '{{.Size}}' "$image") / 1000000)) MB; build/images/$kind.cdx.json says what is in it"
done
