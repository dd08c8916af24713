#!/bin/sh
# What a hostile gateway costs stays within limits: each row of `make figures`. With a limit too narrow to hold, a row fails.
cd "$(dirname "$0")/.." || exit 1
BUILD=${BUILD:-build}
if ! (unset MAKEFLAGS MFLAGS; "${MAKE:-make}" -s --no-print-directory BUILD="$BUILD" "$BUILD/hostile_figures"); then
    echo "hostile_figures_test: 0 passed, 1 failed"
    exit 1
fi
for limit in cpu poll peak; do
    if FIGURES_NARROW=$limit "$BUILD/hostile_figures" "a payload of 200 MB" >/dev/null; then
        echo "a thousandth of the limit is enough: $limit"
        echo "hostile_figures_test: 0 passed, 1 failed"
        exit 1
    fi
done
exec "$BUILD/hostile_figures"       # its last line is the count
