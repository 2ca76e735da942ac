#!/bin/sh
# Gets Rust through the mirrors of profile `cn`, for a machine that has none yet. Written by
# `cargo xtask mirror bootstrap --mirror cn`; `sh bootstrap.sh --help` tells what it does.
#
# A mirror is never trusted: rustup-init must have the pinned sha256, and so must the manifest of the toolchain, which
# holds the hash of every component. rustup fetches that manifest again itself, so what it installed is checked too.
# Exit codes: those that the help below names.
set -u

rust=1.95.0
rustup=1.29.0
manifest=82075ab2c8584e8adfd6802ae2997b29be8b369592ca568bf5eab54ecf5f313a

# Where toolchains are, and where rustup itself is, in order.
servers() {
  echo 'https://rsproxy.cn https://rsproxy.cn/rustup'
  echo 'https://mirrors.ustc.edu.cn/rust-static https://mirrors.ustc.edu.cn/rust-static/rustup'
  echo 'https://mirrors.tuna.tsinghua.edu.cn/rustup https://mirrors.tuna.tsinghua.edu.cn/rustup/rustup'
  echo 'https://mirrors.aliyun.com/rustup https://mirrors.aliyun.com/rustup/rustup'
  echo 'https://mirror.sjtu.edu.cn/rust-static https://mirror.sjtu.edu.cn/rust-static/rustup'
}

# The sha256 of rustup-init for a platform.
pin() {
  case $1 in
    aarch64-unknown-linux-gnu) echo 9732d6c5e2a098d3521fca8145d826ae0aaa067ef2385ead08e6feac88fa5792 ;;
    x86_64-unknown-linux-gnu) echo 4acc9acc76d5079515b46346a485974457b5a79893cfb01112423c89aeb5aa10 ;;
    x86_64-unknown-linux-musl) echo 9cd3fda5fd293890e36ab271af6a786ee22084b5f6c2b83fd8323cec6f0992c1 ;;
  esac
}

case ${XTASK_LANG:-${LC_ALL:-${LC_MESSAGES:-${LANG:-}}}} in
  zh*) chinese=1 ;;
  *) chinese= ;;
esac

# text ENGLISH CHINESE
text() { if [ -n "$chinese" ]; then printf '%s\n' "$2"; else printf '%s\n' "$1"; fi; }
say() { text "$1" "${2:-$1}" >&2; }

usage() {
  text "usage: sh bootstrap.sh [-h | --help] [-- OPTION...]

Installs Rust $rust (cargo, rustfmt, clippy), each file checked against the pinned sha256. Where there is a rustup it
installs the toolchain; else rustup $rustup comes too, and the OPTIONs go to its rustup-init (--no-modify-path, ...).
from:       the first that delivers of" "用法：sh bootstrap.sh [-h | --help] [-- 选项...]

安装 Rust $rust（cargo、rustfmt、clippy），每个文件都与锁定的 sha256 核对。已有 rustup 时由它安装工具链；否则同时安装
rustup $rustup，选项会传给它的 rustup-init（如 --no-modify-path）。
来源：以下服务器中第一个能提供的"
  servers | while read -r dist _; do echo "              $dist"; done
  text "into:       ${RUSTUP_HOME:-$HOME/.rustup} (toolchain), ${CARGO_HOME:-$HOME/.cargo} (cargo), and your shell's profile (PATH);
            it asks nothing, and makes Rust $rust the default where there is none
variables:  RUSTUP_HOME, CARGO_HOME: other folders; https_proxy: the way out; TMPDIR; XTASK_LANG=en|zh
exit codes: 0 done, 2 a word is unknown, 4 no mirror delivered, 5 what was installed is not what is pinned,
            8 something is missing here" "安装到：  ${RUSTUP_HOME:-$HOME/.rustup}（工具链）、${CARGO_HOME:-$HOME/.cargo}（cargo），以及 shell 的启动文件（PATH）；
          不会提问；没有默认工具链时把 Rust $rust 设为默认
变量：    RUSTUP_HOME、CARGO_HOME：其他目录；https_proxy：代理；TMPDIR；XTASK_LANG=en|zh
退出码：  0 完成，2 参数未知，4 没有镜像能提供，5 安装的内容与锁定的不一致，8 本机缺少所需的东西"
}

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

# fetch URL FILE: bounded, so that a silent server costs seconds. Says on standard error why it failed.
fetch() {
  if command -v curl >/dev/null; then
    curl -fsSL --connect-timeout 4 --speed-time 10 --speed-limit 1000 -o "$2" "$1"
  elif command -v wget >/dev/null; then
    wget -nv -t 1 -T 10 -O "$2" "$1"
  elif command -v python3 >/dev/null; then
    python3 -c 'import shutil, sys, urllib.request
try:
    with urllib.request.urlopen(sys.argv[1], timeout=10) as answer, open(sys.argv[2], "wb") as file:
        shutil.copyfileobj(answer, file)
except OSError as error:
    sys.exit(str(error))' "$1" "$2"
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
  if ! fetch "$1" "$2" 2>"$folder/reason"; then
    say "  $1: $(tr '\n' ' ' <"$folder/reason")"
  elif [ "$(sha256 "$2")" != "$3" ]; then
    start=$(head -c 15 "$2" | tr -cd '[:print:]')
    say "  $1: other bytes than the pinned ones ($start...)" "  $1：与锁定的内容不一致（$start...）"
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
  if [ -n "$present" ]; then
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
  say "error: $dist gave rustup another manifest (${used:-none}) than the pinned one ($manifest)" \
    "错误：$dist 给 rustup 的清单（${used:-无}）与锁定的（$manifest）不一致"
  say "hint: remove what it installed: rustup toolchain uninstall $rust" \
    "提示：请删除它安装的内容：rustup toolchain uninstall $rust"
  exit 5
}

# starts WORD...: whether this is the cargo of the toolchain that was installed.
starts() {
  case $(RUSTUP_AUTO_INSTALL=0 "$@" --version 2>/dev/null) in
    "cargo $rust "*) return 0 ;;
  esac
  return 1
}

# What has to be typed for that cargo, found by trying: a rustup of the system has no file `env`, and may have another default.
cargo_words() {
  env=${CARGO_HOME:-$HOME/.cargo}/env
  # shellcheck disable=SC1090 # rustup writes it; there is nothing to follow before.
  if starts cargo; then
    echo cargo
  elif starts cargo "+$rust"; then
    echo "cargo +$rust"
  elif [ -f "$env" ] && (. "$env" && starts cargo); then
    echo ". \"$env\" && cargo"
  else
    return 1
  fi
}

main() {
  case ${1:-} in
    -h | --help)
      usage
      exit 0
      ;;
    --) shift ;;
    ?*)
      say "error: unknown word \`$1\`; \`sh bootstrap.sh --help\` tells which there are (those for rustup-init come after \`--\`)" \
        "错误：未知参数 \`$1\`；可用的参数见 \`sh bootstrap.sh --help\`（给 rustup-init 的选项写在 \`--\` 之后）"
      exit 2
      ;;
  esac
  platform=$(platform)
  pin=$(pin "$platform")
  present=$(command -v rustup)
  if [ -z "$pin$present" ]; then
    say "error: no rustup-init is pinned for $platform" "错误：没有为 $platform 锁定 rustup-init"
    exit 8
  fi
  if ! command -v curl >/dev/null && ! command -v wget >/dev/null && ! command -v python3 >/dev/null; then
    say "error: there is no curl, wget or python3" "错误：没有 curl、wget 或 python3"
    exit 8
  fi
  if [ -n "$present" ] && [ $# -gt 0 ]; then
    say "$present is here, so rustup-init is not run: not used: $*" "已有 $present，不运行 rustup-init，因此不使用：$*"
  fi
  folder=$(mktemp -d) || exit 8
  trap 'rm -rf "$folder"' EXIT
  trap 'exit 130' INT TERM
  servers >"$folder/servers"
  while read -r dist root <&3; do
    say "Rust $rust from $dist" "Rust $rust 来自 $dist"
    if install "$dist" "$root" "$@"; then
      if [ -n "$present" ] && ! rustup default 2>/dev/null | grep -q '(default)'; then
        rustup default "$rust"
      fi
      if cargo=$(cargo_words); then
        say "done; now: $cargo xtask build --mirror cn" "完成；接下来执行：$cargo xtask build --mirror cn"
        exit 0
      fi
      say "error: Rust $rust is installed, but its cargo does not start: $(cargo --version 2>&1)" \
        "错误：Rust $rust 已安装，但它的 cargo 无法启动：$(cargo --version 2>&1)"
      say "hint: put ${CARGO_HOME:-$HOME/.cargo}/bin on PATH, then \`cargo +$rust --version\`" \
        "提示：请把 ${CARGO_HOME:-$HOME/.cargo}/bin 加入 PATH，再执行 \`cargo +$rust --version\`"
      exit 8
    fi
  done 3<"$folder/servers"
  say "error: no server of mirror cn gave what is pinned; the lines above say why" \
    "错误：镜像配置 cn 的服务器都没有提供锁定的内容；原因见上文"
  # Its value may hold a password.
  proxy=${https_proxy:-${HTTPS_PROXY:-${all_proxy:-${ALL_PROXY:-}}}}
  if [ -n "$proxy" ]; then is='set' is_zh='已设置'; else is='not set' is_zh='未设置'; fi
  say "hint: check the network or the proxy (https_proxy is $is), then run this again; or: apt-get install rustup" \
    "提示：请检查网络或代理（https_proxy $is_zh），然后再次执行；或者：apt-get install rustup"
  exit 4
}

main "$@"
