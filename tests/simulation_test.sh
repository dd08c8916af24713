#!/bin/sh
# The deterministic simulation, as far as CI has time for it: (1) for each law a deliberate defect in a patched copy of
# the header, which that law must catch; (2) a seed gives the same run twice, byte for byte; (3) fixed seeds; (4) fresh
# ones, whose first number is printed. Long runs: make simulate SIMULATE_SECONDS=3600.
#   sh tests/simulation_test.sh            SIMULATION_FRESH=SECONDS (10) of fresh seeds
cd "$(dirname "$0")/.." || exit 1
export CC="${CC:-cc}" BUILD="${BUILD:-build}"
work=$BUILD/defects objects=$BUILD/objects/simulation
mkdir -p "$work"

# ---- one defect, in a process of its own: --defect LAW ----
if [ "$1" = --defect ]; then
    law=$2
    awk -v law="$law" -f tests/simulation/patch.awk tests/simulation/defects.txt discord_gateway.h >"$work/$law.h" || exit 1
    # -O0: it is compiled once and runs for seconds
    $CC -std=c99 -O0 -w -D_DEFAULT_SOURCE -I. -Itests -Itests/simulator $DEPENDENCY_CPPFLAGS \
        -DSIMULATION_HEADER="\"$work/$law.h\"" -c -o "$work/$law.o" tests/simulation/client.c || exit 1
    $CC $DEPENDENCY_LDFLAGS -o "$work/$law" "$work/$law.o" $(ls "$objects"/*.o | grep -v /client.o) \
        "$BUILD/libgateway_sim.a" -lbearssl -lpthread || exit 1
    "$work/$law" --until "$law" --from 1 --seeds 3000 --for 25
    status=$?
    rm -f "$work/$law.o" "$work/$law"
    exit $status
fi

passed=0 failed=0
count() {   # status, what
    if [ "$1" = 0 ]; then passed=$((passed + 1)); else failed=$((failed + 1)); echo "FAILED: $2"; fi
}

${MAKE:-make} -s "$BUILD/simulation" || { echo "simulation_test: 0 passed, 1 failed"; exit 1; }

# (1) every law that the program knows has a defect, and catches it
laws=$(sed -n 's/^    X(\([a-z_]*\), *".*/\1/p' tests/simulation/simulation.h)
for law in $laws; do echo "$law"; done | xargs -P 2 -I LAW sh -c \
    'sh tests/simulation_test.sh --defect LAW >"$0/LAW.log" 2>&1; echo $? >"$0/LAW.status"' "$work"
for law in $laws; do
    count "$(cat "$work/$law.status")" "defect $law: $(tail -n 3 "$work/$law.log")"
    tail -n 1 "$work/$law.log"
done

# (2)
for seed in 1 4 6 11 14; do     # 11: two clients
    "$BUILD/simulation" $seed -v >"$work/one" && "$BUILD/simulation" $seed -v >"$work/two" && cmp -s "$work/one" "$work/two"
    count $? "seed $seed is not the same run twice"
done

# (3), (4)
"$BUILD/simulation" --from 1 --seeds 120; count $? "fixed seeds"
"$BUILD/simulation" --for "${SIMULATION_FRESH:-5}"; count $? "fresh seeds"
"$BUILD/simulation" --tls --from 1 --seeds 15; count $? "fixed seeds with TLS"

echo "simulation_test: $passed passed, $failed failed"
[ $failed = 0 ]
