#!/bin/sh
# A run for the record: sh tests/fuzz/record.sh [TARGET...]; CPU_SECONDS (600) of each, one after the other, at low
# priority. Prints rows of the table in tests/RESULTS.md; the grown corpus and all words stay in $BUILD/fuzz-record/.
cd "$(dirname "$0")/../.." || exit 1
out=${BUILD:-build}/fuzz-record
limit=${CPU_SECONDS:-600}
export ASAN_OPTIONS=quarantine_size_mb=16:detect_stack_use_after_return=1
mkdir -p "$out"

record() {
    target=$1 program=$out/fuzz_$1 words=$1 dictionary=
    [ "$target" = redact ] && words=json
    [ -f "tests/fuzz/$words.dict" ] && dictionary=-dict=tests/fuzz/$words.dict
    [ "$target" = client ] && dictionary="$dictionary -len_control=0 -max_len=250"   # stories, from the start
    rm -rf "${out:?}/$target" "$out/$target"-*
    mkdir -p "$out/$target"
    clang -std=c99 -D_DEFAULT_SOURCE -I. -Itests/fuzz -g -O1 -fno-omit-frame-pointer $CPPFLAGS \
        -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all -o "$program" "tests/fuzz/fuzz_$target.c" \
        $LDFLAGS -lbearssl -lpthread -ljansson || return
    nice -n 15 "$program" $dictionary -artifact_prefix="$out/$target-" -rss_limit_mb=2048 -print_final_stats=1 \
        -max_total_time=36000 "$out/$target" "tests/fuzz/corpus/$target" >"$out/$target.log" 2>&1 &
    pid=$! cpu=0
    while now=$(ps -o cputimes= -p $pid) && [ -n "$now" ]; do
        cpu=$((now))
        [ $cpu -ge "$limit" ] && { kill -INT $pid; break; }
        sleep 1
    done
    wait $pid
    crashes=$(ls "$out/$target"-crash-* "$out/$target"-leak-* "$out/$target"-oom-* "$out/$target"-timeout-* 2>/dev/null |
        wc -l)
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$out/$target.log")
    reached=$(sed -n 's/^#[0-9].* cov: \([0-9]*\) ft: \([0-9]*\) .*/\1 | \2/p' "$out/$target.log" | tail -n 1)
    echo "| $target | $cpu | $runs | $reached | $crashes | $(date -u +%F) | $(git rev-parse --short HEAD) |"
}

for target in ${*:-client json ws http url trust tls_cert session_text redact}; do record "$target"; done
