#!/bin/sh
# How much of the header the tests reach: every tests/test_*.c and some seeds of the simulation, built with clang's
# counters and run once. A line or a branch counts as reached if any program reached it; what the preprocessor left out
# is no line, and neither are comments, empty lines and the lines of a #define (its uses count where they stand).
# Prints what was not reached, by function, and the sums; $BUILD/coverage/unreached.txt has it with the text of the
# lines, and the branches; $BUILD/coverage/header.lcov is for genhtml.
#   sh tests/coverage.sh           COVERAGE_LEAST (95): fewer percent of the lines fail
# Ends with "coverage: N passed, N failed": each program counts once, and the percentage.
cd "$(dirname "$0")/.." || exit 1
work=${BUILD:-build}/coverage
least=${COVERAGE_LEAST:-95}
seeds="--from 1 --seeds 40"
tls_seeds="--tls --from 1 --seeds 5"
jobs=$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)

# ---- one program, in a process of its own so that xargs can run several: --run PROGRAM ARGUMENTS... ----
# It may fork, hence %p. The small scale (CHECK_SCALE) reaches the same lines in a sixth of the time. The numbers of the
# header come out as $work/lcov/NAME.
if [ "$1" = --run ]; then
    shift
    name=$(echo "${1##*/}$2" | tr -d -)
    LLVM_PROFILE_FILE="$work/raw/$name-%p" CHECK_SCALE=small timeout -k 5 120 "$@" >"$work/log/$name" 2>&1 </dev/null
    echo $? >"$work/log/$name.status"
    $PROFDATA merge -sparse "$work/raw/$name"-* -o "$work/raw/$name" &&
        $COV export -format=lcov -instr-profile="$work/raw/$name" "$1" |
        awk '/^SF:/ { ours = /\/discord_gateway\.h$/ } ours' >"$work/lcov/$name"
    exit 0
fi

passed=0 failed=0
count() {   # status, what
    if [ "$1" = 0 ]; then passed=$((passed + 1)); else failed=$((failed + 1)); echo "FAILED coverage: $2"; fi
}

# Debian names them after their version as well; the profile's format changes with clang's.
tool() { command -v "$1-$(clang -dumpversion | cut -d. -f1)" || command -v "$1"; }
COV=$(tool llvm-cov) PROFDATA=$(tool llvm-profdata)
export COV PROFDATA
if [ -z "$COV" ] || [ -z "$PROFDATA" ]; then
    echo "coverage: llvm-cov and llvm-profdata are missing (Debian: llvm)"
    echo "coverage: 0 passed, 1 failed"
    exit 1
fi

# -O0 without -g: the shortest way to a program, and a line of the source stays a line.
tests=$(grep -l '"discord_gateway.h"' tests/test_*.c | sed "s|tests/\(.*\)\.c|$work/\1|")
rm -rf "$work/raw" "$work/lcov" "$work/log" "$work/summary"
mkdir -p "$work/raw" "$work/lcov" "$work/log"
(unset MAKEFLAGS MFLAGS
 exec "${MAKE:-make}" -s -k -j"$jobs" --no-print-directory BUILD="$work" CC=clang CFLAGS=-O0 WARNINGS=-w \
    VARIANT="-fprofile-instr-generate -fcoverage-mapping" LDFLAGS="$LDFLAGS -fprofile-instr-generate" \
    $tests "$work/simulation") >"$work/log/build" 2>&1
count $? "build: $(head -n 20 "$work/log/build")"

{ for test in $tests; do echo "$test"; done; echo "$work/simulation $seeds"; echo "$work/simulation $tls_seeds"; } |
    xargs -L 1 -P "$jobs" sh tests/coverage.sh --run
for status in "$work"/log/*.status; do
    name=$(basename "$status" .status)
    count "$(cat "$status")" "$name: $(tail -n 20 "${status%.status}")"
done

# ---- all numbers are one, and what was not reached is told by function ----
cat "$work"/lcov/* | awk -F '[:,]' '
    /^FN:/ { name = $NF; function_at[$2] = name }
    /^DA:/ { lines[$2] += $3; if ($2 > last) last = $2 }
    /^BRDA:/ { branches[$2 "," $3 "," $4] += $5 }
    END {
        print "SF:discord_gateway.h"
        for (i = 1; i <= last; i++) if (i in function_at) print "FN:" i "," function_at[i]
        for (i = 1; i <= last; i++) if (i in lines) print "DA:" i "," lines[i]
        for (key in branches) print "BRDA:" key "," branches[key]
        print "end_of_record"
    }' >"$work/header.lcov"

awk -F '[:,]' -v least="$least" -v list="$work/unreached.txt" -v total="$work/total" '
    function show() {
        range = from == to ? from : from "-" to
        if (of != said) printf "%s  %s", said ? "\n" : "", of
        said = of
        printf " %s", range
        print "---- " of " " range >list
        for (i = from; i <= to; i++) if (i in missed) print source[i] >list
        from = 0
    }
    FNR == NR {
        source[FNR] = $0
        if (goes_on || /^[ \t]*#/) { directive[FNR]; goes_on = /\\$/ }
        next
    }
    /^FN:/ { starts[$2] = $3; next }
    /^DA:/ && $2 in directive { next }
    /^DA:/ { all++; if ($3) reached++; else missed[$2]; known[$2]; if ($2 > last) last = $2; next }
    /^BRDA:/ { ways++; if ($5) gone++; else never[$2]++ }
    END {
        for (n = 1; n <= last; n++) {
            if (n in starts) { if (from) show(); in_function = starts[n] }
            if (!(n in known)) continue
            if (!(n in missed)) { if (from) show(); continue }
            if (!from) { from = n; of = in_function }
            to = n
        }
        if (from) show()
        if (said) print ""
        print "\n---- lines that are reached, with branches of them that are never taken (how many)" >list
        for (n = 1; n <= last; n++)
            if (n in never && !(n in missed)) printf "%d (%d): %s\n", n, never[n], source[n] >list
        percent = all ? 100 * reached / all : 0
        if (said) print "is what no test reaches; see " list
        printf "lines     %d of %d reached (%.2f %%)\n", reached, all, percent
        printf "branches  %d of %d reached (%.2f %%)\n", gone, ways, ways ? 100 * gone / ways : 0
        exit percent < least
    }' discord_gateway.h "$work/header.lcov" >"$work/summary"
status=$?
cat "$work/summary"
count $status "fewer than $least % of the lines"

echo "coverage: $passed passed, $failed failed"
[ $failed = 0 ]
