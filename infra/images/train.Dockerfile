# Trains (sft, dpo) on NVIDIA GPUs: torch's CUDA build of PyPI, which brings its own CUDA libraries.
# The machine brings the driver, and its engine NVIDIA's container toolkit.
#
#   docker build -f infra/images/train.Dockerfile -t cowest-train-python:0.1.0 .     (6 GB)
#
# The builder says where packages come from, one address each: --build-arg PIP_INDEX_URL=...,
# PIP_EXTRA_INDEX_URL=..., PIP_FIND_LINKS=... None of these is left in the image.

ARG BUILDER=python:3.11-bookworm
ARG BASE=python:3.11-slim-bookworm

FROM ${BUILDER} AS build
ARG PIP_INDEX_URL PIP_EXTRA_INDEX_URL PIP_FIND_LINKS
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 UV_NO_CACHE=1 UV_NO_PROGRESS=1 UV_HTTP_TIMEOUT=300
RUN python3 -m venv /opt/tools && /opt/tools/bin/pip install -q uv==0.13.9 cyclonedx-bom==7.5.0 \
 && python3 -m venv --without-pip /opt/cowest
WORKDIR /build
COPY constraints.txt pyproject.toml LICENSE ./
RUN /opt/tools/bin/uv pip install -q --python /opt/cowest -c constraints.txt -r pyproject.toml \
    --extra strong --extra privacy --extra postgres --extra train --extra track \
    --extra pipeline --extra s3 --extra trainjob \
    ${PIP_INDEX_URL:+--default-index "$PIP_INDEX_URL"} ${PIP_EXTRA_INDEX_URL:+--index "$PIP_EXTRA_INDEX_URL"} \
    ${PIP_FIND_LINKS:+--find-links "$PIP_FIND_LINKS"} \
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
RUN useradd --uid 10001 --create-home --home-dir /home/cowest cowest \
 && mkdir /work && chown cowest:cowest /work && chmod 1777 /work /home/cowest
COPY --from=build /opt/cowest /opt/cowest
ENV PATH=/opt/cowest/bin:$PATH HOME=/home/cowest PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 \
    NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    MLFLOW_DISABLE_TELEMETRY=true DO_NOT_TRACK=true HF_HUB_DISABLE_TELEMETRY=1 OMP_WAIT_POLICY=PASSIVE
USER 10001
WORKDIR /work
ENTRYPOINT ["cowest"]
CMD ["--help"]
