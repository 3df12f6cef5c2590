# Runs any stage and any command on a CPU, as a person of no rights; it holds git and DVC.
#
#   make images
#   docker run --rm -v "$PWD:/work" --user "$(id -u):$(id -g)" cowest-python:0.1.0 <stage> --<port> path ...
#
# The builder says where packages come from, one address each: --build-arg PIP_INDEX_URL=...,
# PIP_EXTRA_INDEX_URL=..., PIP_FIND_LINKS=... TORCH_FIND_LINKS has torch's CPU build (PyPI's own
# brings 5 GB of CUDA). None of these is left in the image.

ARG BUILDER=python:3.11-bookworm
ARG BASE=python:3.11-slim-bookworm

FROM ${BUILDER} AS build
ARG PIP_INDEX_URL PIP_EXTRA_INDEX_URL PIP_FIND_LINKS
ARG TORCH_FIND_LINKS=https://download.pytorch.org/whl/cpu/torch/
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 UV_NO_CACHE=1 UV_NO_PROGRESS=1 UV_HTTP_TIMEOUT=300
RUN python3 -m venv /opt/tools && /opt/tools/bin/pip install -q uv==0.13.9 cyclonedx-bom==7.5.0 \
 && python3 -m venv --without-pip /opt/cowest
WORKDIR /build
# What changes seldom comes first, so that a change of our sources installs nothing again: the
# dependencies are those that pyproject.toml names, at the versions of constraints.txt.
COPY constraints.txt pyproject.toml LICENSE ./
RUN /opt/tools/bin/uv pip install -q --python /opt/cowest -c constraints.txt -r pyproject.toml \
    --extra strong --extra privacy --extra postgres --extra validate --extra train \
    --extra track --extra report --extra pipeline --extra dvc --extra s3 --extra trainjob \
    ${PIP_INDEX_URL:+--default-index "$PIP_INDEX_URL"} ${PIP_EXTRA_INDEX_URL:+--index "$PIP_EXTRA_INDEX_URL"} \
    ${PIP_FIND_LINKS:+--find-links "$PIP_FIND_LINKS"} ${TORCH_FIND_LINKS:+--find-links "$TORCH_FIND_LINKS"} \
 && rm -rf /opt/cowest/lib/python3*/site-packages/torch/include
COPY setup.py ./
COPY src ./src
COPY components ./components
COPY pipelines ./pipelines
COPY infra/profiles ./infra/profiles
COPY serving ./serving
RUN touch README.md \
 && /opt/tools/bin/uv pip install -q --python /opt/cowest --no-deps ${PIP_INDEX_URL:+--default-index "$PIP_INDEX_URL"} . \
 && /opt/tools/bin/cyclonedx-py environment --output-reproducible -o /opt/cowest/sbom.cdx.json /opt/cowest

FROM ${BASE}
# hadolint ignore=DL3008
RUN apt-get update -q && apt-get install -qy --no-install-recommends git && rm -rf /var/lib/apt/lists/* \
 && useradd --uid 10001 --create-home --home-dir /home/cowest cowest \
 && mkdir /work && chown cowest:cowest /work && chmod 1777 /work /home/cowest
COPY --from=build /opt/cowest /opt/cowest
# HOME is open to any user, since who mounts a folder may want its files to be theirs (--user).
ENV PATH=/opt/cowest/bin:$PATH HOME=/home/cowest PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 \
    MLFLOW_DISABLE_TELEMETRY=true DO_NOT_TRACK=true DVC_NO_ANALYTICS=1 HF_HUB_DISABLE_TELEMETRY=1 OMP_WAIT_POLICY=PASSIVE
USER 10001
WORKDIR /work
ENTRYPOINT ["cowest"]
CMD ["--help"]
