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
flags="-std=c99 -D_DEFAULT_SOURCE -I. $DEPENDENCY_CPPFLAGS"
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

# One that finds nothing anywhere would pass as well: each has to find a fault of our making first.
cat >"$scratch/bad.c" <<'END'
#include <stdlib.h>
int bad(int n); int bad(int n) { int a[4] = {0}; char *p = malloc(4); if (n) return a[4 + 1]; free(p); *p = 1; return *p; }
END
finds() {
    name=$1
    shift
    "$@" >"$scratch/out" 2>&1
    if grep -qE '(warning|error):' "$scratch/out"; then passed=$((passed + 1))
    else echo "static_checks: $name does not find what it should"; failed=$((failed + 1))
    fi
}

tidy='-*,clang-analyzer-*,bugprone-*,misc-redundant-expression,misc-unused-parameters,performance-*'
for less in bugprone-easily-swappable-parameters bugprone-narrowing-conversions bugprone-reserved-identifier \
    bugprone-assignment-in-if-condition bugprone-macro-parentheses bugprone-implicit-widening-of-multiplication-result \
    bugprone-sizeof-expression bugprone-not-null-terminated-result bugprone-branch-clone \
    clang-analyzer-security.insecureAPI.DeprecatedOrUnsafeBufferHandling
do tidy="$tidy,-$less"; done

finds clang-tidy clang-tidy --quiet -checks="$tidy" "$scratch/bad.c" -- -std=c99
check clang-tidy clang-tidy --quiet -checks="$tidy" --header-filter=discord_gateway.h "$scratch/all.c" -- $flags
cpp="cppcheck --quiet --std=c99 --enable=warning,portability,performance --suppress=missingIncludeSystem"
finds cppcheck $cpp "$scratch/bad.c"
check cppcheck $cpp --suppress=arrayIndexOutOfBoundsCond -D__linux__ -DDISCORD_GATEWAY_IMPLEMENTATION \
    -D_DEFAULT_SOURCE -D_FEATURES_H -DCLOCK_MONOTONIC=1 discord_gateway.h
finds analyzer gcc -std=c99 -O1 -fanalyzer -c -o /dev/null "$scratch/bad.c"
check analyzer gcc $flags -O0 -fanalyzer -c -o /dev/null "$scratch/all.c"

echo "static_checks: $passed passed, $failed failed"
[ "$failed" = 0 ]
