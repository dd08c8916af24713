#!/bin/sh
# What reads the code without running it: clang-tidy, cppcheck, gcc's analyzer, over the header as a user compiles it.
# The list of clang-tidy is short and agreed: its analyzer and "bugprone", less what is taste, or what is meant here:
#   easily-swappable-parameters, narrowing-conversions (-Wconversion says it better), reserved-identifier (gw__ is ours),
#   assignment-in-if-condition, macro-parentheses, implicit-widening..., sizeof-expression (lists of pointers),
#   not-null-terminated-result (texts with a length), branch-clone, DeprecatedOrUnsafeBufferHandling (memcpy)
# cppcheck: arrayIndexOutOfBoundsCond takes the two looks at one byte in gw__json_escape() for two bytes.
cd "$(dirname "$0")/.." || exit 1
scratch=$(mktemp -d) || exit 1
trap 'rm -rf "$scratch"' EXIT
passed=0 failed=0
printf '#define DISCORD_GATEWAY_IMPLEMENTATION\n#include "discord_gateway.h"\n' >"$scratch/all.c"

# NAME COMMAND...: nothing may be found; what is found is shown.
check() {
    name=$1
    shift
    if ! "$@" >"$scratch/out" 2>&1 || grep -qE '(warning|error|style|performance|portability):' "$scratch/out"; then
        echo "static_checks: $name found:"
        grep -vE 'warnings? (generated|treated)|Suppressed|Use -header-filter' "$scratch/out" | head -n 60
        failed=$((failed + 1))
    else
        passed=$((passed + 1))
    fi
}

# One that finds nothing anywhere would pass as well: each has to find a fault of our making first, in a header of the same
# name and with the same flags.
mkdir "$scratch/bad"
cat >"$scratch/bad/discord_gateway.h" <<'END'
#include <stdlib.h>
#ifdef DISCORD_GATEWAY_IMPLEMENTATION
int bad(int n); int bad(int n) { int a[4] = {0}; char *p = malloc(4); if (n) return a[4 + 1]; free(p); *p = 1; return *p; }
#endif
END
finds() {
    name=$1
    shift
    "$@" >"$scratch/out" 2>&1
    if grep -qE 'bad/discord_gateway.h:3:[0-9]+: (warning|error):' "$scratch/out"; then passed=$((passed + 1))
    else echo "static_checks: $name does not find what it should"; cat "$scratch/out"; failed=$((failed + 1))
    fi
}

tidy='-*,clang-analyzer-*,bugprone-*,misc-redundant-expression,misc-unused-parameters,performance-*'
for less in bugprone-easily-swappable-parameters bugprone-narrowing-conversions bugprone-reserved-identifier \
    bugprone-assignment-in-if-condition bugprone-macro-parentheses bugprone-implicit-widening-of-multiplication-result \
    bugprone-sizeof-expression bugprone-not-null-terminated-result bugprone-branch-clone \
    clang-analyzer-security.insecureAPI.DeprecatedOrUnsafeBufferHandling
do tidy="$tidy,-$less"; done

# Lines where clang's analyzer is wrong: it does not see that a list of addresses is not empty when it is dialed, and that a
# value of the kind "string" has text.
export AGREED='return &dns->found[(tcp->first_address + tried) % dns->count];
if (!memchr(found.ptr, '
# Each takes the folder of the header. clang's analyzer looks at the functions of the main file only, so that has to be the
# header itself.
run_tidy() {
    clang-tidy --quiet -checks="$tidy" "$1/discord_gateway.h" -- -x c -std=c99 -D_DEFAULT_SOURCE \
        -DDISCORD_GATEWAY_IMPLEMENTATION $DEPENDENCY_CPPFLAGS 2>&1 | awk '
        BEGIN { count = split(ENVIRON["AGREED"], lines, "\n") }
        / warning: / { held = $0; next }        # and the next line shows the code
        held { known = 0
               for (i = 1; i <= count; i++) if (lines[i] && index($0, lines[i])) known = 1
               if (!known) print held
               held = "" }
        { print }'
}
run_cppcheck() {
    cppcheck --quiet --std=c99 --enable=warning,portability,performance --suppress=missingIncludeSystem \
        --suppress=arrayIndexOutOfBoundsCond -D__linux__ -DDISCORD_GATEWAY_IMPLEMENTATION -D_DEFAULT_SOURCE -D_FEATURES_H \
        -DCLOCK_MONOTONIC=1 "$1/discord_gateway.h"
}
run_analyzer() {    # with its own limits it takes more than ten minutes
    gcc -std=c99 -D_DEFAULT_SOURCE "-I$1" $DEPENDENCY_CPPFLAGS -O0 -fanalyzer -c -o /dev/null "$scratch/all.c" \
        --param=analyzer-max-enodes-per-program-point=5 --param=analyzer-bb-explosion-factor=3
}
for tool in tidy cppcheck analyzer; do
    finds $tool run_$tool "$scratch/bad"
    check $tool run_$tool .
done

echo "static_checks: $passed passed, $failed failed"
[ "$failed" = 0 ]
