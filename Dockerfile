# The worker as an image of its own: no shell, no package manager, one program and what it needs, not root.
#
#   docker build -t concept-worker .
#   docker run --rm --read-only --network none -v "$PWD/fixtures:/fixtures:ro" -v "$PWD/out:/out" concept-worker \
#       render /fixtures/images/photo.jpg --palettes /fixtures/palettes/brand.json --out /out
#
# (`out` must be writable for user 65532.) Cloud Run needs nothing more than the image and its variables.

# As in Cargo.toml's `rust-version`, or later.
ARG RUST_VERSION=1.95
# `cpu` adds ONNX Runtime (28 MB), which runs models for background removal. Without it the worker does that by its own
# means. For a GPU see Dockerfile.gpu, which begins where this file ends.
ARG ONNXRUNTIME=none

# ---- the dependencies, built alone: this layer stays until Cargo.toml or Cargo.lock change ----

FROM rust:${RUST_VERSION}-slim-bookworm AS dependencies

SHELL ["/bin/bash", "-o", "pipefail", "-c"]

# make, cmake and nasm build libjpeg-turbo; the certificates go into the image.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates cmake make nasm \
    && rm -rf /var/lib/apt/lists/*

# Every processor of Cloud Run has AVX2 and the rest of x86-64-v3. The machine that builds needs them too, because build
# scripts get the same flags. `generic` runs anywhere and on any architecture.
ARG TARGET_CPU=x86-64-v3
ENV RUSTFLAGS="-C target-cpu=${TARGET_CPU}"

WORKDIR /src
COPY Cargo.toml Cargo.lock ./
# An empty crate with the same dependencies; cargo wants to see the benches that are declared.
RUN mkdir src benches \
    && echo 'fn main() {}' >src/main.rs \
    && touch src/lib.rs \
    && sed -n '/^\[\[bench\]\]/ { n; s/^name = "\(.*\)"$/benches\/\1.rs/p }' Cargo.toml | xargs touch \
    && cargo build --release --locked --features turbojpeg

# ---- the program ----

FROM dependencies AS build

COPY src ./src
# cargo goes by time stamps, and a checkout may be older than the empty crate.
RUN touch src/main.rs src/lib.rs && cargo build --release --locked --features turbojpeg

COPY deploy/image-root.sh deploy/image-libraries.sh ./
RUN ./image-root.sh target/release/concept-worker /image

# ---- ONNX Runtime, where it is asked for; a builder that skips unused stages downloads nothing otherwise ----

FROM rust:${RUST_VERSION}-slim-bookworm AS onnxruntime

# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3-pip \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /src
COPY deploy/onnxruntime.sh deploy/image-libraries.sh deploy/onnxruntime-cpu.txt ./
RUN ./onnxruntime.sh cpu /image

FROM scratch AS image-none

FROM scratch AS image-cpu
COPY --from=onnxruntime /image/ /
ENV CONCEPT_ONNXRUNTIME=/opt/onnxruntime/lib/libonnxruntime.so

# ---- the image ----

# hadolint ignore=DL3006
FROM image-${ONNXRUNTIME}

COPY --from=build /image/ /

ARG REVISION=unknown
LABEL org.opencontainers.image.title="concept-worker" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0" \
      org.opencontainers.image.revision="${REVISION}"

# By number, so that a platform can see that it is not root. It writes nothing into the image. Outside Cloud Run objects live
# in ./data, which is /data: mount something there.
USER 65532:65532
WORKDIR /
# Cloud Run sets PORT itself.
ENV PORT=8080 \
    SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt
EXPOSE 8080
STOPSIGNAL SIGTERM
ENTRYPOINT ["/concept-worker"]
CMD ["serve"]
