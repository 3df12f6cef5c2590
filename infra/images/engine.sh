#!/usr/bin/env bash
# infra/images/engine.sh [folder]: a Docker engine that answers, and the base images that the
# Dockerfiles name. It does what is missing, and says why where it can't; then it exits with 3.
#
#   1. An engine: the one that runs; else, as root on Debian or Ubuntu, one is installed and started,
#      with its files in the folder (/var/lib/docker).
#   2. The base images: those that are there; else they are pulled; else they are made of this
#      machine's own Debian packages. Those are stand-ins for this machine alone: the one that builds
#      holds pip's settings, the certificates and the folders of wheels that this machine has.
set -euo pipefail

BASE=python:3.11-slim-bookworm      # what an image runs on
BUILDER=python:3.11-bookworm        # what it is built in
folder=${1:-/var/lib/docker}

sorry() {
  echo "no Docker engine: $*" >&2
  exit 3
}

install() {
  DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "$@" >/dev/null
}

begin() {
  [ "$(id -u)" = 0 ] || sorry "none answers, and only root can start one"
  if ! command -v dockerd >/dev/null || ! command -v iptables >/dev/null; then
    command -v apt-get >/dev/null || sorry "dockerd is not installed, and there is no apt-get"
    apt-get update -q >/dev/null && install docker.io containerd iptables \
      || sorry "dockerd could not be installed"
  fi
  mkdir -p "$folder"
  # In a session of its own, so that what ends with whoever began it does not end this.
  setsid dockerd --data-root "$folder" --exec-root /run/cowest-docker --pidfile /run/cowest-docker.pid \
    -H unix:///var/run/docker.sock >"$folder/dockerd.log" 2>&1 </dev/null &
  for _ in $(seq 60); do
    sleep 0.5
    ! docker info >/dev/null 2>&1 || return 0
  done
  tail -3 "$folder/dockerd.log" >&2
  sorry "dockerd does not start here"
}

make_debian() {
  command -v mmdebstrap >/dev/null || { apt-get update -q >/dev/null && install mmdebstrap; } || sorry "mmdebstrap could not be installed"
  local mirror
  # What this machine's own apt reads.
  mirror=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' | head -1)
  mmdebstrap -q --variant=minbase --include=python3.11,python3-pip,python3-venv,ca-certificates \
    bookworm "$1" "${mirror:-http://deb.debian.org/debian}" || sorry "Debian can't be made here"
  docker import --change 'ENV PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin' "$1" cowest-debian >/dev/null
}

# make_bases: Debian with Python under the names of the official images, which can't be pulled here.
make_bases() {
  [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || sorry "$BASE can't be pulled, and only root on Debian can make one"
  local made
  made=$(mktemp -d)
  trap "rm -rf '$made'" EXIT
  there cowest-debian || make_debian "$made/debian.tar"
  printf '%s\n' 'FROM cowest-debian' 'RUN ln -s /usr/bin/python3.11 /usr/local/bin/python' |
    docker_build -t "$BASE" - >/dev/null || sorry "no image can be built here"

  # pip's settings as pip itself has them, from its files and the environment.
  local settings="$made/builder" certificates links index extra
  mkdir -p "$settings/wheels"
  setting() { python3 -m pip config list 2>/dev/null | sed -n "s/^[^=]*\.$1='\(.*\)'\$/\1/p" | head -1; }
  certificates=${SSL_CERT_FILE:-$(setting cert)}
  cp "${certificates:-/etc/ssl/certs/ca-certificates.crt}" "$settings/certificates.pem"
  links=$(setting find-links)
  if [ -d "$links" ]; then cp "$links"/*.whl "$settings/wheels/"; links=/wheels; fi
  index=$(setting index-url)
  extra=$(setting extra-index-url | sed 's/\\n/ /g' | tr ' ' '\n' | grep '^http' | head -1 || true)
  {
    echo "FROM $BASE"
    echo "COPY . /"
    for name in SSL_CERT_FILE PIP_CERT REQUESTS_CA_BUNDLE; do echo "ENV $name=/certificates.pem"; done
    [ -z "$links" ] || printf 'ENV %s\n' "PIP_FIND_LINKS=$links" "TORCH_FIND_LINKS=$links"
    [ -z "$index" ] || echo "ENV PIP_INDEX_URL=$index"
    [ -z "$extra" ] || echo "ENV PIP_EXTRA_INDEX_URL=$extra"
  } >"$made/Dockerfile"
  docker_build -t "$BUILDER" -f "$made/Dockerfile" "$settings" >/dev/null
}

# The builder that every engine has: BuildKit needs a plugin that Debian lacks.
docker_build() {
  DOCKER_BUILDKIT=0 docker build -q "$@"
}

there() {
  docker image inspect "$1" >/dev/null 2>&1
}

command -v docker >/dev/null && docker info >/dev/null 2>&1 || begin
for image in "$BASE" "$BUILDER"; do
  there "$image" || timeout 300 docker pull -q "$image" >/dev/null 2>&1 || true
done
there "$BASE" && there "$BUILDER" || make_bases
