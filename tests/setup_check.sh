#!/bin/sh
# BEARSSL=DIR and JSMN=DIR that lead nowhere get a sentence, and never the system's own instead.
# Ends with "setup_check: N passed, N failed".

cd "$(dirname "$0")/.." || exit 1
MAKE=${MAKE:-make}
unset MAKEFLAGS MFLAGS BEARSSL JSMN
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
passed=0 failed=0

check() {   # name of the case, command...
    name=$1
    shift
    if "$@" >"$work/log" 2>&1; then passed=$((passed + 1))
    else failed=$((failed + 1)); echo "FAILED setup_check: $name"; head -n 20 "$work/log"
    fi
}

# what the sentence holds, make's words...: make ends with an error, that sentence, and no work done
refused() {
    words=$1
    shift
    if "$MAKE" BUILD="$work/build" "$@" >"$work/said" 2>&1; then cat "$work/said"; return 1; fi
    cat "$work/said"
    grep -qF "$words" "$work/said" && [ "$(grep -c '^setup: ' "$work/said")" = 1 ] &&
        [ ! -e "$work/build" ]
}
from_the_environment() {
    (export BEARSSL=/nonexistent; refused 'no inc/bearssl.h' "$work/build/ws_echo")
}
good_folders_pass() {
    sh tests/setup.sh build && BEARSSL="$work/bearssl" JSMN="$work/jsmn" sh tests/setup.sh build
}

mkdir -p "$work/not built/inc" "$work/bearssl/inc" "$work/bearssl/build" "$work/jsmn"
: >"$work/not built/inc/bearssl.h"
: >"$work/bearssl/inc/bearssl.h"
: >"$work/bearssl/build/libbearssl.a"
: >"$work/jsmn/jsmn.h"

check "BEARSSL=DIR that is not there" refused 'no inc/bearssl.h' BEARSSL=/nonexistent
check "BEARSSL=DIR of something else" refused 'no inc/bearssl.h' BEARSSL=tests
check "BEARSSL=DIR that was not built" refused 'no build/libbearssl.a' "BEARSSL=$work/not built"
check "BEARSSL=DIR in the environment" from_the_environment
check "JSMN=DIR that is not there" refused 'no jsmn.h' JSMN=/nonexistent
check "JSMN=DIR of something else" refused 'no jsmn.h' JSMN=tests
check "make run and make test say it too" refused 'no jsmn.h' JSMN=/nonexistent test
check "folders that have them pass" good_folders_pass

echo "setup_check: $passed passed, $failed failed"
[ "$failed" = 0 ]
