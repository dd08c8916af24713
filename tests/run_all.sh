#!/bin/sh
# The whole proof, stage by stage; called by `make test`, which hands in CC, CXX and BUILD.
#   sh tests/run_all.sh [STAGE...]
#     programs   every program builds                       cxx        the unit tests as C++11
#     unit       the unit tests                             poll       ... with -DGW_NO_EPOLL, where it matters
#     asan       ... under AddressSanitizer and UBSan       nothreads  ... with -DGW_NO_THREADS, where it matters
#     valgrind   ... under valgrind, for leaks              matrix     tests/compile_matrix.sh
#     scripts    every other tests/*.sh, tests/*_test.py    install    tests/install_check.sh
#     coverage   tests/coverage.sh: 95 % of the header's lines; the rest is told by name
#     bench      tests/bench_test.sh, alone: it measures
#     secrets    tests/secrets_check.sh: no token in all that the stages before it wrote
# Whatever runs ends with "NAME: N passed, N failed"; without such a line, or with another exit status than that line
# deserves, it counts as one failure more. The last line of all is the sum, alone.
# What fails is shown in full; every output stays in $BUILD/log/STAGE/NAME.

cd "$(dirname "$0")/.." || exit 1
export CC="${CC:-cc}" CXX="${CXX:-g++}" PYTHON="${PYTHON:-$(sh tests/setup.sh python)}" BUILD="${BUILD:-build}"
log=$BUILD/log
unset DISCORD_TOKEN GW_URL GW_CA_FILE GW_INTENTS     # the caller's own bot is no part of this
jobs=$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)

# ---- one job, in a process of its own so that xargs can run several: --job STAGE NAME SECONDS COMMAND... ----
# Runs it, and sets passed and failed.
try_job() {
    if command -v timeout >/dev/null; then timeout -k 5 "$limit" "$@" >"$output" 2>&1 </dev/null
    else "$@" >"$output" 2>&1 </dev/null
    fi
    status=$?
    [ $status = 124 ] && echo "stopped after $limit s" >>"$output"
    counts=$(sed -n 's/^.*: \([0-9][0-9]*\) passed, \([0-9][0-9]*\) failed$/\1 \2/p' "$output" | tail -n 1)
    passed=${counts%% *} failed=${counts##* }
    if [ -z "$counts" ]; then
        passed=0 failed=1
        echo "ended with status $status and printed no count" >>"$output"
    elif [ "$status" != 0 ] && [ "$failed" = 0 ]; then
        failed=1
        echo "counts no failure, yet ended with status $status" >>"$output"
    fi
}

# Sockets, threads and a machine with other work: what fails is run once more. If it then passes, that is said, with
# what failed, and counts as passed; what fails twice has failed.
job() {
    stage=$1 name=$2 limit=$3 output=$log/$1/$2
    shift 3
    began=$(date +%s)
    try_job "$@"
    if [ "$failed" != 0 ]; then
        mv "$output" "$output.first"
        try_job "$@"
        [ "$failed" = 0 ] && printf '%s\n' "---- $stage: $name passed at the second try only; the first:
$(tail -n 40 "$output.first")"
    fi
    record "$stage" "$name" "$passed" "$failed" "$(($(date +%s) - began))"
    # In one piece, because others write at the same time.
    if [ "$failed" != 0 ]; then printf '%s\n' "---- $stage: $name
$(tail -n 200 "$output")"; fi
}

record() { echo "$*" >"$log/$1/$2.count"; }     # stage, name, passed, failed, seconds

if [ "$1" = --job ]; then
    shift
    [ $# -gt 3 ] && job "$@"    # GNU's xargs runs once even where there is no job
    exit 0
fi

# ---- helpers of the stages ----
# One line for each job: NAME SECONDS COMMAND...; $1 is the stage, $2 how many at a time.
run_jobs() {
    sed "s|^|$1 |" | xargs -L 1 -P "$2" sh tests/run_all.sh --job
}

# Builds go on after an error (-k), so that one broken test hides no other. MAKEFLAGS is ours here: what the caller gave
# on make's command line (CC, CFLAGS...) is in the environment as well.
build() {   # stage, variables and targets for make...
    build_stage=$1 build_log=$log/$1/build
    shift
    if (unset MAKEFLAGS MFLAGS; exec "${MAKE:-make}" -s -k -j"$jobs" --no-print-directory "$@") >"$build_log" 2>&1
    then grep -A 5 'warning:' "$build_log" | head -n 60
    else    # a failure of its own: what was not built again may be there from the last time, and pass
        record "$build_stage" build 0 1 0
        echo "---- $build_stage: build"
        head -n 100 "$build_log"
    fi
}

# Runs tests: stage, their folder, seconds each may take, their names, a program to run them under...
run_tests() {
    test_stage=$1 folder=$2 test_seconds=$3 names=$4
    shift 4
    for name in $names; do echo "$name $test_seconds $* $folder/$name"; done | run_jobs "$test_stage" "$jobs"
}

variant() { # stage, names of tests, make's variables...: built with those and run, in a folder of their own
    variant_stage=$1 variant_names=$2
    shift 2
    [ -n "$variant_names" ] || return
    build "$variant_stage" BUILD="$BUILD/$variant_stage" "$@" \
        $(for name in $variant_names; do echo "$BUILD/$variant_stage/$name"; done)
    run_tests "$variant_stage" "$BUILD/$variant_stage" 180 "$variant_names"
}

all_tests=$(for source in tests/test_*.c; do [ -f "$source" ] && basename "$source" .c; done)
# Those that meet the poller, the resolver's thread or the whole client; the others see bytes only.
system_tests=$(for name in $all_tests; do
    grep -qE 'gw_open|gw_wait|gw__(sys|net|dns|tcp|link|client)_' "tests/$name.c" && echo "$name"; done)

# ---- the stages ----
stage_programs() {
    build programs BUILD="$BUILD" all
    for program in $(unset MAKEFLAGS MFLAGS; "${MAKE:-make}" -s --no-print-directory list BUILD="$BUILD"); do
        if [ -x "$program" ]; then record programs "$(basename "$program")" 1 0 0
        else record programs "$(basename "$program")" 0 1 0
        fi
    done
}

stage_unit() {
    build unit BUILD="$BUILD" tests
    run_tests unit "$BUILD" 120 "$all_tests"
}

# clang's UBSan knows more than gcc's; Debian's clang may come without its runtime, then the usual compiler serves.
# -O0 builds seven times faster than -O1 here, which is more than the tests lose by it.
stage_asan() {
    sanitize="-O0 -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer"
    compiler=$CC
    echo 'int main(void) { return 0; }' >"$log/asan/try.c"
    clang $sanitize "$log/asan/try.c" -o "$log/asan/try" 2>/dev/null && compiler=clang
    export ASAN_OPTIONS=detect_leaks=1:strict_string_checks=1:detect_stack_use_after_return=1:halt_on_error=1
    export UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1
    variant asan "$all_tests" CC="$compiler" VARIANT="$sanitize"
}

# Valgrind slows a program twentyfold: tests with a size or a clock of their own look at these two variables. The plain
# programs serve. "Possibly lost" would be the stack of a DNS thread that outlives its program, as the manual says.
stage_valgrind() {
    [ -d "$log/unit" ] || { mkdir -p "$log/unit"; build unit BUILD="$BUILD" tests; }
    export GW_TEST_SLOW_MACHINE=1 CHECK_SCALE=small
    run_tests valgrind "$BUILD" 300 "$all_tests" valgrind -q --error-exitcode=99 --leak-check=full --num-callers=25 \
        --show-leak-kinds=definite,indirect --errors-for-leak-kinds=definite,indirect
    unset GW_TEST_SLOW_MACHINE CHECK_SCALE
}

# These also search what the library writes for the tokens that it was given: tests/overheard.
stage_cxx()       { variant cxx "$all_tests" TEST_LANGUAGE="$CXX -std=c++11 -x c++" VARIANT="-O0 -iquote tests/overheard"; }
stage_poll()      { variant poll "$system_tests" VARIANT="-O0 -DGW_NO_EPOLL"; }
stage_nothreads() { variant nothreads "$system_tests" VARIANT="-O0 -DGW_NO_THREADS"; }
stage_matrix()    { echo "compile_matrix 300 sh tests/compile_matrix.sh" | run_jobs matrix 1; }
stage_bench()     { echo "bench_test 240 sh tests/bench_test.sh" | run_jobs bench 1; }
stage_secrets()   { echo "secrets_check 120 sh tests/secrets_check.sh $log" | run_jobs secrets 1; }
stage_install()   { echo "install_check 120 sh tests/install_check.sh" | run_jobs install 1; }

# What was not reached is shown when it passes, too.
stage_coverage() {
    echo "coverage 240 sh tests/coverage.sh" | run_jobs coverage 1
    [ -f "$BUILD/coverage/summary" ] && sed 's/^/    /' "$BUILD/coverage/summary"
}

# Two at a time, the longer ones (Python) first: they mostly wait, and each has ports of its own. The flags of
# BEARSSL=DIR and JSMN=DIR come to them in the usual variables.
stage_scripts() (
    export CPPFLAGS="$DEPENDENCY_CPPFLAGS $CPPFLAGS" LDFLAGS="$DEPENDENCY_LDFLAGS $LDFLAGS"
    export LDLIBS="-lbearssl -lpthread $LDLIBS"
    {
        echo "static_checks.sh 600 sh tests/static_checks.sh"       # the longest
        for script in tests/*_test.py tests/*.sh; do
            name=$(basename "$script")
            case $name in
                run_all.sh | setup.sh | static_checks.sh | compile_matrix.sh) ;;
                install_check.sh | coverage.sh | bench_test.sh | secrets_check.sh | \*_test.py) ;;
                *.sh) echo "$name 400 sh $script" ;;
                *.py) echo "$name 240 $PYTHON $script" ;;
            esac
        done
    } | run_jobs scripts 2
)

# ---- all of them, a line each, what failed, the sum ----
stages=${*:-programs unit asan valgrind cxx poll nothreads matrix install scripts coverage bench secrets}
for stage in $stages; do
    case " programs unit asan valgrind cxx poll nothreads matrix install scripts coverage bench secrets " in
        *" $stage "*) ;;
        *) echo "run_all.sh: there is no stage '$stage'" >&2; exit 2 ;;
    esac
done

counts() { for stage in $stages; do cat "$log/$stage"/*.count 2>/dev/null; done; }

heading="stage        runs    passed    failed   seconds"
rm -rf "$log"
mkdir -p "$log/overheard"
GW_OVERHEARD=$(cd "$log/overheard" && pwd)
export GW_OVERHEARD
echo "$heading"
for stage in $stages; do
    mkdir -p "$log/$stage"
    began=$(date +%s)
    stage_"$stage"
    cat "$log/$stage"/*.count 2>/dev/null | awk -v stage="$stage" -v seconds="$(($(date +%s) - began))" \
        '{ passed += $3; failed += $4 } END { printf "%-10s %6d %9d %9d %9d\n", stage, NR, passed, failed, seconds }' |
        tee -a "$log/table"
done

if counts | awk '$4 > 0 { some = 1 } END { exit !some }'; then    # what failed stands between the lines of the table: here it is whole
    echo
    echo "$heading"
    cat "$log/table"
    counts | awk '$4 > 0 { print "failed: " $1 " " $2 " (" $4 "), see '"$log"'/" $1 "/" $2 }'
fi
echo
counts | awk '{ passed += $3; failed += $4 }
    END { if (NR == 0) failed = 1; printf "%d passed, %d failed\n", passed, failed; exit failed > 0 }' >"$log/total"
status=$?
cat "$log/total"
exit $status
