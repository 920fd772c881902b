#!/usr/bin/env bash
# Installs what the tests need and runs every check of this repository.
#
#   ./test.sh        everything
#   ./test.sh fast   without installing anything, and without the tests that need what would be installed
#
# Needs Rust (rustup). On a Debian-like system it installs nginx, Redis, Python, Node.js, Chromium, NSS' certutil, oathtool,
# slowhttptest and OpenLDAP's slapd with its tools with apt, through sudo if it is not run by root; what is written in Python,
# JavaScript, Go and Rust goes to .tools, in fixed versions, and so do Node.js and Go where they are too old. Elsewhere install
# those nine yourself.
set -euo pipefail
cd "$(dirname "$0")"

readonly TOOLS="$PWD/.tools"
readonly IT="$PWD/crates/testudo/tests/it"
readonly PYTHON_PACKAGES=(
    httpbin==0.10.4 waitress==3.0.2 websockets==17.4 grpcio==1.85.1 h11==0.16.0 aioquic==1.7.2
    aiosmtpd==1.4.6 authlib==1.9.9 requests==2.34.2 'scim2-tester[httpx2]==0.5.2' schemathesis==4.32.5
)
# What the clients of the tests need at least; distributions are behind.
readonly GO_VERSION=1.26.4 OLDEST_NODE=20.19.0 NODE_VERSION=22.23.3
readonly STARTED=$SECONDS
# What was brought along comes first.
export PATH="$TOOLS/node/node_modules/.bin:$PATH"

main() {
    case "${1:-}" in
        fast) export TESTUDO_TEST_FAST=1 ;;
        "") step "install what the tests need" install_tools ;;
        *)
            sed -n '2,9s/^# \{0,1\}//p' "$0" >&2
            exit 2
            ;;
    esac
    step "format" cargo fmt --all --check
    # With every feature: tests and lints of one build see all of the code, and the other is small.
    step "lints" cargo clippy --workspace --all-targets --features testudo/http3 --locked -- -D warnings
    step "lints without features" cargo clippy --package testudo --locked -- -D warnings
    step "tests" cargo test --workspace --features testudo/http3 --locked
    step "documentation" env RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked
    printf '\nEverything passed in %s.\n' "$(elapsed "$STARTED")"
}

# Runs a command under a title and says how long it took.
step() {
    local title=$1 since=$SECONDS
    shift
    printf '\n==> %s\n' "$title"
    if ! "$@"; then
        printf '\nFAILED: %s, after %s\n' "$title" "$(elapsed "$since")" >&2
        exit 1
    fi
    printf '<== %s: %s\n' "$title" "$(elapsed "$since")"
}

elapsed() {
    local seconds=$((SECONDS - $1))
    printf '%d:%02d min' $((seconds / 60)) $((seconds % 60))
}

install_tools() {
    install_system_packages
    mkdir -p "$TOOLS"
    if [[ ! -x $TOOLS/venv/bin/waitress-serve ]]; then
        python3 -m venv "$TOOLS/venv" || return 1
    fi
    "$TOOLS/venv/bin/pip" install --quiet --disable-pip-version-check "${PYTHON_PACKAGES[@]}" || return 1
    install_node || return 1
    install_node_packages || return 1
    install_go || return 1
    build_go h2spec h2spec github.com/summerwind/h2spec/cmd/h2spec || return 1
    build_go strict_clients/go go-oidc-client . || return 1
    build_go strict_clients/oauth2-proxy oauth2-proxy github.com/oauth2-proxy/oauth2-proxy/v7 || return 1
    fetch_wycheproof || return 1
    # A workspace of its own, which nothing of ours is built with.
    cargo build --quiet --locked --manifest-path "$IT/strict_clients/rust/Cargo.toml" --target-dir "$TOOLS/openidconnect"
}

# Node.js as npm has it, unless the system's is new enough.
install_node() {
    local version
    version=$(node --version)
    is_at_least "$OLDEST_NODE" "${version#v}" || [[ -x $TOOLS/node/node_modules/.bin/node ]] ||
        npm install --prefix "$TOOLS/node" --silent --no-audit --no-fund "node@$NODE_VERSION"
}

# Whether version $2 is $1 or newer.
is_at_least() {
    [[ $(printf '%s\n' "$1" "$2" | sort -V | head -n 1) == "$1" ]]
}

# The lock file fixes all of them; nothing is done while it is the one of last time.
install_node_packages() {
    cmp --silent "$IT/node/package-lock.json" "$TOOLS/package-lock.json" && [[ -d $TOOLS/node_modules ]] && return
    cp "$IT/node/package.json" "$IT/node/package-lock.json" "$TOOLS/" &&
        npm ci --prefix "$TOOLS" --silent --no-audit --no-fund
}

# Builds a program once; the module file in a folder of the tests fixes it and what it is built from.
build_go() {
    local folder=$1 name=$2 package=$3
    [[ -x $TOOLS/$name && $TOOLS/$name -nt $IT/$folder/go.sum ]] && return
    (cd "$IT/$folder" && GOFLAGS=-mod=readonly go_command build -o "$TOOLS/$name" "$package")
}

# Vectors for the tests of cryptography.
fetch_wycheproof() {
    local folder="$TOOLS/wycheproof" source
    [[ -d $folder ]] && return
    source=$(cd "$IT/strict_clients/go" && go_command mod download github.com/c2sp/wycheproof &&
        go_command list -mod=readonly -m -f '{{.Dir}}' github.com/c2sp/wycheproof) || return 1
    mkdir -p "$folder.new" &&
        cp "$source"/testvectors_v1/{json_web_signature,ecdsa_secp256r1_sha256_p1363}_test.json "$folder.new" &&
        mv "$folder.new" "$folder"
}

# Go as the module proxy has it, unless the system's is new enough.
install_go() {
    local folder=$TOOLS/go machine archive
    go_is_new_enough && return
    [[ -x $folder/bin/go ]] && return
    case "$(uname -m)" in
        aarch64 | arm64) machine=arm64 ;;
        *) machine=amd64 ;;
    esac
    archive=v0.0.1-go$GO_VERSION.$(uname -s | tr '[:upper:]' '[:lower:]')-$machine
    curl --fail --silent --show-error --location --output "$folder.zip" \
        "https://proxy.golang.org/golang.org/toolchain/@v/$archive.zip" &&
        python3 -m zipfile -e "$folder.zip" "$folder.new" &&
        mv "$folder.new/golang.org/toolchain@$archive" "$folder" &&
        rm -r "$folder.zip" "$folder.new" &&
        chmod +x "$folder"/bin/* "$folder"/pkg/tool/*/*
}

go_is_new_enough() {
    local version
    version=$(go_of_system env GOVERSION 2>/dev/null) || return 1
    is_at_least "$GO_VERSION" "${version#go}"
}

go_command() {
    if [[ -x $TOOLS/go/bin/go ]]; then
        GOTOOLCHAIN=local "$TOOLS/go/bin/go" "$@"
    else
        go_of_system "$@"
    fi
}

go_of_system() {
    local go=go
    command -v go >/dev/null || go=/usr/local/go/bin/go
    GOTOOLCHAIN=local "$go" "$@"
}

# What is there already is left alone.
install_system_packages() {
    local missing=()
    command -v curl >/dev/null || missing+=(curl)
    nginx_is_there || missing+=(nginx)
    python3 -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3 python3-venv)
    command -v node >/dev/null || missing+=(nodejs)
    command -v npm >/dev/null || missing+=(npm)
    command -v chromium >/dev/null || missing+=(chromium)
    command -v certutil >/dev/null || missing+=(libnss3-tools)
    command -v oathtool >/dev/null || missing+=(oathtool)
    command -v redis-server >/dev/null || missing+=(redis-server)
    command -v slowhttptest >/dev/null || missing+=(slowhttptest)
    [[ -x /usr/sbin/slapd ]] || missing+=(slapd)
    command -v ldapmodify >/dev/null || missing+=(ldap-utils)
    ((${#missing[@]})) || return 0
    if ! command -v apt-get >/dev/null; then
        printf 'install these and run this again: %s\n' "${missing[*]}" >&2
        return 1
    fi
    # The package starts nginx and would fail where port 80 is taken; only the program is needed.
    as_root env DEBIAN_FRONTEND=noninteractive apt-get update -qq || return 1
    as_root env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 \
        apt-get install -qq --yes --no-install-recommends "${missing[@]}" >/dev/null
}

nginx_is_there() {
    command -v nginx >/dev/null || [[ -x /usr/sbin/nginx ]]
}

as_root() {
    if ((EUID == 0)); then "$@"; else sudo "$@"; fi
}

main "$@"
