#!/bin/sh
# Is each row of PROTOCOL.md shown by a test? A row names tests as `FILE: NAME`; each of them must
# stand in that file, as TEST(NAME) or "def NAME(". A row that is marked (missing), or names
# nothing, fails; "(not ours: why)" is fine.
#   tests/protocol_table_check.sh [PROTOCOL.md]
# Ends with "protocol_table_check: N passed, N failed".

here=$(cd "$(dirname "$0")" && pwd) || exit 1
table=${1:-$here/PROTOCOL.md}
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT

# All tests that there are, as "FILE: NAME".
cd "$here" || exit 1
for file in test_*.c *_test.py; do
    [ -f "$file" ] || continue
    case $file in
        *.c)  sed -n 's/^TEST(\([A-Za-z0-9_]*\)).*/\1/p' "$file" ;;
        *.py) sed -n 's/^def \([A-Za-z0-9_]*\)(.*/\1/p' "$file" ;;
    esac | sed "s|^|$file: |"
done >"$work/tests"

awk -v tests="$work/tests" '
    BEGIN { while ((getline line < tests) > 0) there[line] = 1 }
    /^## /      { section = substr($0, 4) }
    !/^\| /     { next }
    /^\| Rule / { next }
    {
        cells = split($0, cell, / \| /)
        rule = substr(cell[1], 3)
        names = $0
        sub(/.* \| /, "", names)
        why = ""
        if (cells != 2) why = "is not a row of two cells"
        else if (names ~ /^\(not ours: .+\) \|$/) why = ""
        else if (names ~ /\(missing\)/) why = "has no test yet"
        else if (names !~ /`[^`]+: [^`]+`/) why = "names no test"
        else while (match(names, /`[^`]+`/)) {
            name = substr(names, RSTART + 1, RLENGTH - 2)
            names = substr(names, RSTART + RLENGTH)
            if (!(name in there)) why = why (why ? ", " : "names what is not there: ") name
        }
        if (why == "") passed++
        else { failed++; print "FAILED " section ", \"" rule "\": it " why }
    }
    END {
        if (passed + failed == 0) { failed = 1; print "FAILED: there is no row at all" }
        printf "protocol_table_check: %d passed, %d failed\n", passed, failed
        exit failed > 0
    }' "$table"
