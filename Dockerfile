# One node of Tristream. `docker build -t tristream .`; three of them: docker-compose.yml.

FROM rust:1.95-bookworm AS builder
WORKDIR /src
# Dependencies are a layer of their own: an edited source file fetches and compiles none of them again.
COPY Cargo.toml Cargo.lock clippy.toml rustfmt.toml ./
COPY proto/Cargo.toml proto/Cargo.toml
COPY client/Cargo.toml client/Cargo.toml
COPY node/Cargo.toml node/Cargo.toml
COPY cluster-tests/Cargo.toml cluster-tests/Cargo.toml
COPY cluster-tests/interpose/Cargo.toml cluster-tests/interpose/Cargo.toml
COPY cluster-tests/planted/Cargo.toml cluster-tests/planted/Cargo.toml
COPY xtask/Cargo.toml xtask/Cargo.toml
# No debug information: the binary is a quarter of the size.
ENV CARGO_PROFILE_RELEASE_DEBUG=false
RUN mkdir -p proto/src client/src node/src node/benches cluster-tests/src cluster-tests/interpose/src xtask/src \
    && touch proto/src/lib.rs client/src/lib.rs node/src/lib.rs cluster-tests/src/lib.rs \
        cluster-tests/interpose/src/lib.rs \
    && echo 'fn main() {}' | tee proto/build.rs node/src/main.rs node/benches/log.rs node/benches/log_figures.rs \
        xtask/src/main.rs >/dev/null \
    && cargo build --release --locked -p tristream-node
COPY proto proto
COPY client client
COPY node node
# Newer than the empty stand-ins above, whatever the clock of the checkout says.
RUN touch proto/build.rs proto/src/lib.rs client/src/lib.rs node/src/lib.rs node/src/main.rs \
    && cargo build --release --locked -p tristream-node \
    && install -D target/release/tristream /out/tristream

FROM debian:bookworm-slim AS runtime
RUN useradd --system --uid 10001 --user-group --create-home --home-dir /var/lib/tristream tristream
COPY --from=builder /out/tristream /usr/local/bin/tristream
USER tristream
WORKDIR /var/lib/tristream
# A named volume mounted here starts with this folder's owner, so the node may write to it.
VOLUME /var/lib/tristream
ENV TRISTREAM_DATA_DIR=/var/lib/tristream
EXPOSE 4567 5567
# Ready means: has joined, knows the metadata group's leader, serves. No curl in the image: bash can speak TCP.
HEALTHCHECK --interval=3s --timeout=3s --start-period=20s --retries=5 CMD ["bash", "-c", \
    "exec 3<>/dev/tcp/127.0.0.1/4567 && printf 'GET /readyz HTTP/1.1\\r\\nHost: localhost\\r\\nConnection: close\\r\\n\\r\\n' >&3 && read -r _ status _ <&3 && [ \"$status\" = 200 ]"]
ENTRYPOINT ["tristream"]
CMD ["node"]
