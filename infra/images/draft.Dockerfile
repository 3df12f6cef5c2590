# Drafts with vLLM on NVIDIA GPUs: the image of the CPU stages, and vLLM in an environment of its own
# (`provider: vllm, python: /opt/vllm/bin/python`), since it pins other libraries than training needs.
# The machine brings the driver, and its engine NVIDIA's container toolkit.
#
#   docker build -f infra/images/draft.Dockerfile -t cowest-draft-python:0.1.0 \
#     --build-arg COWEST=cowest-python:0.1.0 .                                       (12 GB)
#
# vllm.txt is vLLM with all that it needs, each at its version: `uv pip compile` makes it of vllm.in.

ARG BUILDER=python:3.11-bookworm
ARG COWEST=cowest-python:0.1.0

FROM ${BUILDER} AS build
ARG PIP_INDEX_URL PIP_EXTRA_INDEX_URL PIP_FIND_LINKS
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 UV_NO_CACHE=1 UV_NO_PROGRESS=1 UV_HTTP_TIMEOUT=300
RUN python3 -m venv /opt/tools && /opt/tools/bin/pip install -q uv==0.13.9 cyclonedx-bom==7.5.0 \
 && python3 -m venv --without-pip /opt/vllm
COPY infra/images/vllm.txt /build/
RUN /opt/tools/bin/uv pip install -q --python /opt/vllm -r /build/vllm.txt \
    ${PIP_INDEX_URL:+--default-index "$PIP_INDEX_URL"} ${PIP_EXTRA_INDEX_URL:+--index "$PIP_EXTRA_INDEX_URL"} \
    ${PIP_FIND_LINKS:+--find-links "$PIP_FIND_LINKS"} \
 && /opt/tools/bin/cyclonedx-py environment --output-reproducible -o /opt/vllm/sbom.cdx.json /opt/vllm

FROM ${COWEST}
# The one compiler that stays: on the GPU that it finds, vLLM's Triton compiles what starts its kernels.
USER 0
# hadolint ignore=DL3008
RUN apt-get update -q && apt-get install -qy --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
USER 10001
COPY --from=build /opt/vllm /opt/vllm
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility VLLM_NO_USAGE_STATS=1
