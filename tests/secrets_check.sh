#!/bin/sh
# The token is in nothing that the library wrote, in the whole suite: the last stage of run_all.sh, after all others.
#   sh tests/secrets_check.sh LOG...    folders; usually $BUILD/log
# Two searches. Programs and scripts have searched what they heard of the library while they ran (tests/overheard,
# support.py) and left a line each in LOG/overheard; here those are counted. And all that any test, script or program
# printed is in LOG: it is searched for the tokens that the tests use.
cd "$(dirname "$0")/.." || exit 1
CXX=${CXX:-g++} PYTHON=${PYTHON:-$(sh tests/setup.sh python)} BUILD=${BUILD:-build}
scratch=$(mktemp -d) || exit 1
trap 'rm -rf "$scratch"' EXIT
passed=0 failed=0
check() {   # status, what
    if [ "$1" = 0 ]; then passed=$((passed + 1)); else failed=$((failed + 1)); echo "secrets_check: $2"; fi
}

# What is searched for: "tests-only-not-a-real-token" is that of the scripts.
secrets='thisTokenMustNeverBeSeen|tests-only-not-a-real-token'
grep -qE "($secrets)" tests/hostile.h && grep -qE "($secrets)" tests/support.py
check $? "the tests have other tokens now: this script looks for the wrong ones"

# ---- a search that finds nothing anywhere would pass as well: each has to find a leak of our making first ----
cat >"$scratch/leak.c" <<'END'
#define DISCORD_GATEWAY_IMPLEMENTATION
#include "discord_gateway.h"
int main(int argc, char **argv)
{
    gw_config cfg = GW_INIT;
    gw_client *gw;
    (void)argv;
    cfg.token = "MTA5ODc2NTQz.GabcDE.thisTokenMustNeverBeSeen";
    cfg.url = "ws://127.0.0.1:1";
    if ((gw = gw_open(&cfg)) == NULL) return 2;
    overheard_line("a text of this test", argc > 1 ? "...NeverBeSeen" : "...NeverBeSee");
    gw_close(gw);
    return 0;
}
END
$CXX -std=c++11 -x c++ -w -O0 -iquote tests/overheard -I. $DEPENDENCY_CPPFLAGS "$scratch/leak.c" -o "$scratch/leak" \
    -x none $DEPENDENCY_LDFLAGS -lbearssl -lpthread
check $? "the program that leaks does not build"
(unset GW_OVERHEARD; "$scratch/leak" a >/dev/null 2>"$scratch/said")
[ $? = 1 ] && grep -q 'a piece of the token is in a text of this test' "$scratch/said"
check $? "tests/overheard does not find a piece of the token"
cat >"$scratch/leak.py" <<'END'
import os, sys
os.environ.pop("GW_OVERHEARD", None)
sys.path.insert(0, "tests")
from support import TOKEN, Child, overheard
for text, leaks in (("all is well", 0), ("... %s ..." % TOKEN[-12:], 1)):
    with Child(["echo", text]) as child:
        child.wait()
    if len(overheard.leaks) != leaks:
        sys.exit("found %d leaks, not %d" % (len(overheard.leaks), leaks))
END
"$PYTHON" "$scratch/leak.py"
check $? "support.py does not find a piece of the token"
echo "before thisTokenMustNeverBeSeen behind" >"$scratch/leaked"
grep -qE "$secrets" -r "$scratch/leaked"
check $? "grep does not find the token"

# ---- what was written ----
for log; do
    grep -arnE --exclude-dir=secrets "$secrets" "$log" >"$scratch/found"
    [ $? = 1 ]
    check $? "the token is in:
$(head -c 4000 "$scratch/found")"
    find "$log" -type f ! -path "*/overheard/*" ! -path "*/secrets/*" ! -name '*.count' -exec cat {} + | wc -c >"$scratch/size"
    cat "$log"/overheard/* 2>/dev/null | awk -v size="$(cat "$scratch/size")" '{ texts += $2; bytes += $3; names[$1] = 1 }
        END { for (name in names) programs++
              printf "secrets_check: %d programs and scripts heard %d texts, %.1f MB; the output of all is %.1f KB\n",
                     programs, texts, bytes / 1e6, size / 1e3
              exit !(texts > 100000 && programs > 20) }'
    check $? "that is less than a whole suite: did the stages cxx and scripts run?"
done
[ $# -gt 0 ]
check $? "no folder is given"

echo "secrets_check: $passed passed, $failed failed"
[ "$failed" = 0 ]
