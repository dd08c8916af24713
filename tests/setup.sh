#!/bin/sh
# Makes sure that what a target needs is there: sh tests/setup.sh build|run|test|coverage|fuzz|soak; or says which Python
# serves: ... python
# On Debian and Ubuntu what is missing is installed; elsewhere a sentence says what to install. Where nothing is
# missing nothing is called, neither apt nor the network. The Makefile hands in CC, CXX, BEARSSL=DIR and
# JSMN=DIR, and the flags that these two stand for (DEPENDENCY_CPPFLAGS, DEPENDENCY_LDFLAGS).
purpose=${1:-build}
CC=${CC:-cc}
CXX=${CXX:-g++}

# Debian's own Python before any other: it is the one that the package python3-websockets belongs to.
python() {
    if [ -n "$PYTHON" ]; then echo "$PYTHON"
    elif [ -x /usr/bin/python3 ]; then echo /usr/bin/python3
    else echo python3
    fi
}
if [ "$purpose" = python ]; then python; exit; fi

scratch=$(mktemp -d) || exit 1
trap 'rm -rf "$scratch"' EXIT

has() { command -v "$1" >/dev/null 2>&1; }

# A folder that lacks them must not be made up for by the system's own: who names one means it.
own_sources_are_there() {
    if [ -n "$BEARSSL" ] && [ ! -f "$BEARSSL/inc/bearssl.h" ]; then
        echo "setup: BEARSSL=$BEARSSL: there is no inc/bearssl.h in it; it must be the folder of BearSSL's sources" >&2
    elif [ -n "$BEARSSL" ] && ! ls "$BEARSSL"/build/libbearssl.* >/dev/null 2>&1; then
        echo "setup: BEARSSL=$BEARSSL: there is no build/libbearssl.a in it; run make there first" >&2
    elif [ -n "$JSMN" ] && [ ! -f "$JSMN/jsmn.h" ]; then
        echo "setup: JSMN=$JSMN: there is no jsmn.h in it" >&2
    else return 0
    fi
    return 1
}
own_sources_are_there || exit 1

# A compile says more than a package's name: BearSSL may come from anywhere. Flags are words, so they stay unquoted.
compiles() {    # compiler, standard, source text, libraries...
    printf '%s\n' "$3" >"$scratch/try.c"
    compiler=$1 standard=$2
    shift 3
    $compiler $standard $DEPENDENCY_CPPFLAGS $CPPFLAGS $DEPENDENCY_LDFLAGS $LDFLAGS -o "$scratch/try" \
        "$scratch/try.c" "$@" >/dev/null 2>&1
}

any_ca_bundle() {
    for bundle in "$SSL_CERT_FILE" "$GW_CA_FILE" /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt \
        /etc/ssl/cert.pem /etc/ssl/ca-bundle.pem; do
        [ -n "$bundle" ] && [ -f "$bundle" ] && return 0
    done
    return 1
}

# libFuzzer, which is a package beside clang, and the JSON reader that ours is compared with. Elsewhere than on Debian
# the fuzzers do without: their inputs are run by any compiler.
missing_fuzz() {
    has apt-get || return
    compiles clang -fsanitize=fuzzer,address,undefined '#include <stddef.h>
        int LLVMFuzzerTestOneInput(const unsigned char *bytes, size_t len);
        int LLVMFuzzerTestOneInput(const unsigned char *bytes, size_t len) { return bytes && len > 99; }' ||
        echo clang "libclang-rt-$(has clang && clang -dumpversion | cut -d. -f1 || echo 14)-dev"
    compiles "$CC" "" '#include <jansson.h>
        int main(void) { json_decref(json_null()); return 0; }' -ljansson || echo libjansson-dev
}

# clang's counters, and what reads them: of the same version, hence the tools' other names.
missing_coverage() {
    version=$(has clang && clang -dumpversion | cut -d. -f1 || echo 14)
    compiles clang "-fprofile-instr-generate -fcoverage-mapping" 'int main(void) { return 0; }' ||
        echo clang "libclang-rt-$version-dev"
    { has "llvm-cov-$version" || has llvm-cov; } && { has "llvm-profdata-$version" || has llvm-profdata; } || echo llvm
}

# Lists the Debian packages that are missing for this purpose; nothing where all is there.
missing() {
    compiles "$CC" "" 'int main(void) { return 0; }' || echo gcc libc6-dev
    compiles "$CC" "" '#include <bearssl.h>
        int main(void) { br_sha256_context c; br_sha256_init(&c); return 0; }' -lbearssl || echo libbearssl-dev
    compiles "$CC" -c '#define JSMN_HEADER
        #include <jsmn.h>' || echo libjsmn-dev
    has make || echo make
    [ "$purpose" = build ] && return
    case $purpose in fuzz | test) missing_fuzz ;; esac
    [ "$purpose" = fuzz ] && return
    case $purpose in coverage | test) missing_coverage ;; esac
    [ "$purpose" = coverage ] && return

    has "$(python)" || echo python3
    if [ "$purpose" = soak ]; then
        has ip || echo iproute2
        has openssl || echo openssl
        return
    fi
    [ -n "$DISCORD_TOKEN" ] && ! any_ca_bundle && echo ca-certificates
    [ "$purpose" = run ] && return

    compiles "$CXX" "-x c++" '#include <cstdio>
        int main() { return 0; }' || echo g++
    has clang && has clang++ || echo clang
    has valgrind || echo valgrind
    has clang-tidy || echo clang-tidy
    has cppcheck || echo cppcheck
    has nm || echo binutils
    has openssl || echo openssl
    has pkg-config || echo pkg-config
    any_ca_bundle || echo ca-certificates
    "$(python)" -c 'import websockets' >/dev/null 2>&1 || echo python3-websockets
}

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"
    elif [ -t 0 ]; then sudo "$@"
    else sudo -n "$@"   # nobody is there to type a password: fail rather than wait
    fi
}

install_packages() {
    as_root env DEBIAN_FRONTEND=noninteractive apt-get update -q </dev/null &&
        as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends \
            -o DPkg::Lock::Timeout=120 "$@" </dev/null
}

packages=$(missing | tr '\n' ' ')
[ -z "$packages" ] && exit 0

if has apt-get && { [ "$(id -u)" = 0 ] || has sudo; }; then
    echo "setup: installing $packages" >&2
    # Once more, because mirrors and locks fail for a moment.
    { install_packages $packages || { sleep 3; install_packages $packages; }; } >"$scratch/apt.log" 2>&1 ||
        { cat "$scratch/apt.log" >&2; echo "setup: apt-get could not install $packages(its words are above)" >&2; }
    hash -r
    packages=$(missing | tr '\n' ' ')
    [ -z "$packages" ] && exit 0
fi

cat >&2 <<END
setup: missing (by their Debian names): $packages
  A C compiler, BearSSL 0.6 and jsmn 1.1 are needed to build; Python 3 for 'make run'; for 'make test' also g++, clang,
  llvm, valgrind, openssl, pkg-config and the Python module websockets.
  Debian, Ubuntu   as root: apt-get install $packages
  Fedora           dnf install gcc gcc-c++ make jsmn-devel python3-websockets clang llvm valgrind openssl pkgconf
  Arch             pacman -S base-devel python-websockets clang llvm valgrind openssl
  Alpine           apk add build-base bearssl-dev py3-websockets clang llvm valgrind openssl pkgconf
  macOS            brew install jsmn llvm openssl pkg-config; pip3 install websockets
  Where there is no package: BearSSL is at https://bearssl.org (run make in it), jsmn is one file at
  https://github.com/zserge/jsmn; then: make BEARSSL=DIR JSMN=DIR
END
exit 1
