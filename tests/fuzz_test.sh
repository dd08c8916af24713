#!/bin/sh
# The fuzzers of tests/fuzz/: each target over its seeds (corpus/TARGET/) and over all that was ever found
# (found/TARGET-*.bin), then some seconds of fuzzing with clang's libFuzzer, two targets at a time.
#   FUZZ_SECONDS=20 sh tests/fuzz_test.sh [TARGET...]        20 seconds, all targets; `make fuzz` is this
# Without libFuzzer (Debian: libclang-rt-14-dev) the inputs are run all the same, by a program that $CC builds.
# What crashes is left in $BUILD/fuzz/TARGET-crash-...; mended, it belongs into tests/fuzz/found/.

cd "$(dirname "$0")/.." || exit 1
CC=${CC:-cc}
out=${BUILD:-build}/fuzz
seconds=${FUZZ_SECONDS:-20}
libraries=${LDLIBS:--lbearssl -lpthread}
flags="-std=c99 -D_DEFAULT_SOURCE -g -O1 -fno-omit-frame-pointer -Wall -Wextra -Wpedantic -Wconversion -Wshadow"
sanitize="-fsanitize=address,undefined -fno-sanitize-recover=all"
export ASAN_OPTIONS=quarantine_size_mb=16 UBSAN_OPTIONS=print_stacktrace=1

compiles() {    # source, compiler and flags...
    text=$1
    shift
    printf '%s\n' "$text" >"$out/try.c"
    "$@" $CPPFLAGS "$out/try.c" -o "$out/try" $LDFLAGS $compile_with >/dev/null 2>&1
}

# ---- one target: --one TARGET; its last line counts ----
one() {
    target=$1 program=$out/fuzz_$1 passed=0 failed=0
    corpus=tests/fuzz/corpus/$target grown=$out/corpus/$target dictionary=
    mkdir -p "$grown"
    case $target in redact) words=json ;; *) words=$target ;; esac
    [ -f "tests/fuzz/$words.dict" ] && dictionary=-dict=tests/fuzz/$words.dict
    [ "$target" = client ] && dictionary="$dictionary -len_control=0 -max_len=250"   # stories, from the start

    count() { if [ "$1" = 0 ]; then passed=$((passed + 1)); else failed=$((failed + 1)); echo "FAILED $target: $2"; fi; }

    rm -f "$program"
    $compiler $flags -I. -Itests/fuzz $CPPFLAGS -o "$program" "tests/fuzz/fuzz_$target.c" $LDFLAGS $libraries $oracle
    count $? "does not compile"
    if [ -x "$program" ]; then
        for input in tests/fuzz/found/"$target"-*.bin; do
            [ -f "$input" ] || continue
            timeout -k 5 60 "$program" "$input" >"$out/$target.log" 2>&1 || { tail -n 40 "$out/$target.log"; false; }
            count $? "$input"
        done
        if [ -n "$fuzzer" ]; then
            timeout -k 5 $((seconds + 100)) "$program" -max_total_time="$seconds" -timeout=20 -rss_limit_mb=2048 \
                -artifact_prefix="$out/$target-" $dictionary "$grown" "$corpus" >"$out/$target.log" 2>&1
        else
            timeout -k 5 100 "$program" "$corpus" >"$out/$target.log" 2>&1
        fi || { grep -a -v '^#[0-9]' "$out/$target.log" | tail -n 60; false; }
        count $? "see $out/$target.log"
        grep -a -E '^#[0-9]+.*(DONE|INITED)|inputs$' "$out/$target.log" | tail -n 1
    fi
    echo "$target: $passed $failed"
}

if [ "$1" = --one ]; then
    one "$2"
    exit
fi

# ---- what there is to build with ----
mkdir -p "$out"
export compiler fuzzer oracle
compile_with=
if compiles '#include <stddef.h>
    int LLVMFuzzerTestOneInput(const unsigned char *b, size_t n); int LLVMFuzzerTestOneInput(const unsigned char *b, size_t n)
    { return b && n > 99; }' clang -fsanitize=fuzzer,address,undefined; then
    fuzzer=yes compiler="clang -fsanitize=fuzzer $sanitize"
else
    echo "fuzz_test: clang has no libFuzzer here: the inputs are only run"
    compiler="$CC -DFUZZ_REPLAY"
    compiles 'int main(void) { return 0; }' $CC $sanitize && compiler="$compiler $sanitize"
fi
oracle=-DFUZZ_NO_ORACLE
compile_with=-ljansson
compiles '#include <jansson.h>
    int main(void) { json_decref(json_null()); return 0; }' $CC && oracle=-ljansson

# ---- all of them, the slowest to build first ----
targets=${*:-$(ls -S tests/fuzz/fuzz_*.c | sed 's|.*/fuzz_\(.*\)\.c|\1|')}
echo "$targets" | tr ' ' '\n' | xargs -L 1 -P 2 sh tests/fuzz_test.sh --one >"$out/said"
cat "$out/said"
for target in $targets; do      # one that said nothing has failed
    grep -q "^$target: [0-9]* [0-9]*$" "$out/said" || echo "$target: 0 1"
done | cat - "$out/said" | awk '/^[a-z_]+: [0-9]+ [0-9]+$/ { passed += $2; failed += $3 }
    END { printf "fuzz_test: %d passed, %d failed\n", passed, failed; exit failed > 0 }'
