#!/bin/sh
# Gets Rust through the mirrors of profile `@PROFILE@`, for a machine that has none yet. Written by
# `cargo xtask mirror bootstrap --mirror @PROFILE@`; what is added on the command line goes to rustup-init.
#
# A mirror is never trusted: rustup-init must have the pinned sha256, and so must the manifest of the toolchain, which
# holds the hash of every component. rustup fetches that manifest again itself, so what it installed is checked too.
# Exit codes: 4 no mirror delivered, 5 what was installed is not what is pinned, 8 something is missing here.
set -u

rust=@RUST@
rustup=@RUSTUP@
manifest=@MANIFEST@

# Where toolchains are, and where rustup itself is, in order.
servers() {
  : # @SERVERS@
}

# The sha256 of rustup-init for a platform.
pin() {
  case $1 in
    # @PINS@
  esac
}

say() { printf '%s\n' "$*" >&2; }

platform() {
  case $(uname -m) in
    x86_64 | amd64) machine=x86_64 ;;
    aarch64 | arm64) machine=aarch64 ;;
    *) machine=$(uname -m) ;;
  esac
  case $(uname -s) in
    Darwin) echo "$machine-apple-darwin" ;;
    *) if ldd --version 2>&1 | grep -qi musl; then echo "$machine-unknown-linux-musl"; else echo "$machine-unknown-linux-gnu"; fi ;;
  esac
}

# fetch URL FILE: bounded, so that a silent server costs seconds.
fetch() {
  if command -v curl >/dev/null; then
    curl -fsSL --connect-timeout 4 --speed-time 10 --speed-limit 1000 -o "$2" "$1" 2>/dev/null
  elif command -v wget >/dev/null; then
    wget -q -t 1 -T 10 -O "$2" "$1" 2>/dev/null
  elif command -v python3 >/dev/null; then
    python3 -c 'import shutil, sys, urllib.request
with urllib.request.urlopen(sys.argv[1], timeout=10) as answer, open(sys.argv[2], "wb") as file:
    shutil.copyfileobj(answer, file)' "$1" "$2" 2>/dev/null
  else
    say "error: there is no curl, wget or python3"
    exit 8
  fi
}

sha256() {
  if command -v sha256sum >/dev/null; then
    sha256sum <"$1" | cut -c 1-64
  elif command -v shasum >/dev/null; then
    shasum -a 256 <"$1" | cut -c 1-64
  else
    python3 -c 'import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())' <"$1"
  fi
}

# pinned URL FILE SHA256: fetches, and says why not.
pinned() {
  rm -f "$2"
  if ! fetch "$1" "$2"; then
    say "  $1: no answer in time, or an error"
  elif [ "$(sha256 "$2")" != "$3" ]; then
    say "  $1: other bytes than the pinned ones ($(head -c 15 "$2" | tr -cd '[:print:]')...)"
  else
    return 0
  fi
  return 1
}

# install DIST ROOT [OPTION...]: 0 done, 1 the next server may do better.
install() {
  dist=$1 root=$2
  shift 2
  pinned "$dist/dist/channel-rust-$rust.toml" "$folder/manifest" "$manifest" || return 1
  export RUSTUP_DIST_SERVER="$dist" RUSTUP_UPDATE_ROOT="$root"
  if command -v rustup >/dev/null; then
    rustup toolchain install "$rust" --profile minimal -c rustfmt -c clippy --no-self-update || return 1
  else
    # A mirror may keep the newest rustup only.
    pinned "$root/archive/$rustup/$platform/rustup-init" "$folder/rustup-init" "$pin" ||
      pinned "$root/dist/$platform/rustup-init" "$folder/rustup-init" "$pin" || return 1
    chmod +x "$folder/rustup-init"
    "$folder/rustup-init" -y --profile minimal -c rustfmt -c clippy --default-toolchain "$rust" "$@" || return 1
  fi
  # rustup keeps the first 20 digits of the hash of the manifest that it installed from.
  used=$(cat "${RUSTUP_HOME:-$HOME/.rustup}/update-hashes/$rust-"* 2>/dev/null)
  case $manifest in
    "${used:-none}"*) return 0 ;;
  esac
  say "error: $dist gave rustup another manifest (${used:-none}) than the pinned one ($manifest)"
  say "hint: remove what it installed: rustup toolchain uninstall $rust"
  exit 5
}

main() {
  platform=$(platform)
  pin=$(pin "$platform")
  if [ -z "$pin" ] && ! command -v rustup >/dev/null; then
    say "error: no rustup-init is pinned for $platform"
    exit 8
  fi
  folder=$(mktemp -d) || exit 8
  trap 'rm -rf "$folder"' EXIT
  trap 'exit 130' INT TERM
  servers >"$folder/servers"
  while read -r dist root <&3; do
    say "Rust $rust from $dist"
    if install "$dist" "$root" "$@"; then
      say "done; now: . \"${CARGO_HOME:-$HOME/.cargo}/env\" && cargo xtask build --mirror @PROFILE@"
      exit 0
    fi
  done 3<"$folder/servers"
  say "error: no server of mirror @PROFILE@ gave what is pinned; the lines above say why"
  exit 4
}

main "$@"
