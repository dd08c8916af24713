#!/bin/sh
# The header in its users' hands: each language, compiler and warning; alone and shared; what the object shows.
# `make test` hands in CC, CXX and the flags; by hand: sh tests/compile_matrix.sh [part of a case's name]
# Needs no network. Ends with "compile_matrix: N passed, N failed"; a compiler that is not there is named and left out.

cd "$(dirname "$0")/.." || exit 1
only=$1
CC=${CC:-cc} CXX=${CXX:-g++} NM=${NM:-nm}
warnings="-Wall -Wextra -Wpedantic -Wconversion -Wshadow -Werror"
flags="-I. $DEPENDENCY_CPPFLAGS $CPPFLAGS"
libs="$DEPENDENCY_LDFLAGS $LDFLAGS -lbearssl -lpthread $LDLIBS"
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT

has() { command -v "$1" >/dev/null 2>&1; }

# Runs a command in the background, as many at a time as there are processors; what fails is shown.
at_once=$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)
started=0
check() {   # name of the case, command...
    name=$1
    shift
    case $name in *"$only"*) ;; *) return ;; esac
    started=$((started + 1))
    log=$work/log.$started
    (
        if "$@" >"$log" 2>&1; then : >"$log.passed"
        else : >"$log.failed"; printf '%s\n' "FAILED compile_matrix: $name
$(head -n 30 "$log")"
        fi
    ) &
    [ $((started % at_once)) = 0 ] && wait
}

# ---- the files ----
printf '#include "discord_gateway.h"\nint user_of_nothing;\n' >"$work/public.c"
printf '#define DISCORD_GATEWAY_IMPLEMENTATION\n#include "discord_gateway.h"\n' >"$work/impl.c"
printf '#include "discord_gateway.h"\n#include "discord_gateway.h"\n%s\n%s\n' '#define DISCORD_GATEWAY_IMPLEMENTATION' \
    '#include "discord_gateway.h"' >"$work/later.c"
cat >"$work/user_one.c" <<'END'
#include "discord_gateway.h"
#include "discord_gateway.h"
#ifdef __cplusplus
extern "C"
#endif
int user_two(gw_client *gw);
int main(void)
{
    gw_config cfg = GW_INIT;
    gw_client *gw = gw_open(&cfg);
    int result = user_two(gw);
    gw_close(gw);
    return gw_version() == GW_VERSION ? result : 1;
}
END
cat >"$work/user_two.c" <<'END'
#include "discord_gateway.h"
#ifdef __cplusplus
extern "C"
#endif
int user_two(gw_client *gw);
int user_two(gw_client *gw) { return gw && gw_alive(gw) ? 0 : 1; }
END
# What windows.h and its company define; the names of the public part and of the implementation must not meet them.
cat >"$work/windows_like.c" <<'END'
#define GW_HWNDFIRST 0
#define GW_HWNDLAST 1
#define GW_HWNDNEXT 2
#define GW_HWNDPREV 3
#define GW_OWNER 4
#define GW_CHILD 5
#define GW_ENABLEDPOPUP 6
#define GW_MAX 6
#define near
#define far
#define small char
#define interface struct
#define IN
#define OUT
#define OPTIONAL
#define ERROR 0
#define min(a, b) (((a) < (b)) ? (a) : (b))
#define max(a, b) (((a) > (b)) ? (a) : (b))
#define DISCORD_GATEWAY_IMPLEMENTATION
#include "discord_gateway.h"
END
printf '#include <stdio.h>\n' | cat - "$work/impl.c" >"$work/stdio_first.c"

# ---- each language, compiler, level ----
compile() { # compiler, source, options...
    compile_with=$1 compile_what=$2
    shift 2
    out=$(mktemp "$work/out.XXXXXX")
    case $* in *c++*) set -- -x c++ "$@" ;; esac
    "$compile_with" "$@" $warnings $flags -c "$compile_what" -o "$out"
}
for compiler in gcc clang; do
    has $compiler && has $([ $compiler = gcc ] && echo g++ || echo clang++) || { echo "compile_matrix: no $compiler here"; continue; }
    for standard in c99 c11 c++11 c++17; do
        driver=$compiler
        case $standard in c++*) driver=$([ $compiler = gcc ] && echo g++ || echo clang++) ;; esac
        check "public part, $driver -std=$standard" compile $driver "$work/public.c" -std=$standard
        check "implementation, $driver -std=$standard -O0" compile $driver "$work/impl.c" -std=$standard -O0
        case $driver-$standard in clang-c11 | clang++-*) continue ;; esac   # clang warns alike at every level: once will do
        check "implementation, $driver -std=$standard -O2" compile $driver "$work/impl.c" -std=$standard -O2
    done
    for option in -DGW_NO_EPOLL -DGW_NO_THREADS "-DGW_NO_EPOLL -DGW_NO_THREADS"; do
        check "implementation, $compiler $option" compile $compiler "$work/impl.c" -std=c99 $option
    done
done
# 32 bits need no 32-bit BearSSL to be compiled, only to be linked.
if echo '#include <stdio.h>' | gcc -m32 -x c -c - -o "$work/m32.o" 2>/dev/null
then check "implementation, gcc -m32" compile gcc "$work/impl.c" -std=c99 -m32 -O2
else echo "compile_matrix: no gcc -m32 here"
fi
check "beside windows.h, C99" compile "$CC" "$work/windows_like.c" -std=c99
check "beside windows.h, C++11" compile "$CXX" "$work/windows_like.c" -std=c++11
check "public part first, implementation below, C99" compile "$CC" "$work/later.c" -std=c99 -D_DEFAULT_SOURCE
check "public part first, implementation below, C++11" compile "$CXX" "$work/later.c" -std=c++11
check "api_use.c, C99" compile "$CC" tests/api_use.c -std=c99
check "api_use.c, C++11" compile "$CXX" tests/api_use.c -std=c++11

# GW_API=static: one file has all of it, uses a part, and hears nothing of the rest.
cat >"$work/one_file.c" <<'END'
#define DISCORD_GATEWAY_IMPLEMENTATION
#include "discord_gateway.h"
int main(void)
{
    gw_config cfg = GW_INIT;
    gw_close(gw_open(&cfg));
    return 0;
}
END
private_api() {     # ... and the object shows nothing but main
    compile "$@" -DGW_API=static && "$NM" -g --defined-only "$out" >"$out.names" &&
        [ "$(awk '{ print $3 }' "$out.names")" = main ]
}
# The same warning in what is not the library's stays: the pragma ends where the implementation does.
warns_outside_the_library() {
    { cat "$work/one_file.c"; echo 'static int mine(void) { return 1; }'; } >"$work/unused.c"
    ! "$CC" -Wall -Werror $flags -DGW_API=static -c "$work/unused.c" -o "$work/unused.o" 2>"$work/unused.txt" &&
        grep -q mine "$work/unused.txt" && ! grep -q gw_ "$work/unused.txt"
}
for compiler in gcc clang; do
    has $compiler || continue
    check "GW_API=static, $compiler, C99" private_api $compiler "$work/one_file.c" -std=c99 -O2
    has $([ $compiler = gcc ] && echo g++ || echo clang++) || continue
    check "GW_API=static, $compiler, C++11" private_api $([ $compiler = gcc ] && echo g++ || echo clang++) \
        "$work/one_file.c" -std=c++11
done
check "GW_API=static: warnings of the caller's own stay" warns_outside_the_library

# With strict C99 and a system header before it, POSIX names are gone for good: a sentence has to say so.
strict_c99_gets_a_sentence() {
    if "$CC" -std=c99 $flags -c "$work/stdio_first.c" -o "$work/strict.o" 2>"$work/strict.txt"; then
        echo "it compiled: nothing to say"; return 0
    fi
    head -n 5 "$work/strict.txt"
    grep -q '_DEFAULT_SOURCE' "$work/strict.txt"
}
check "strict C99 after stdio.h gets a sentence" strict_c99_gets_a_sentence

# ---- twice in one program: one implementation, two users ----
linked() {  # name, compiler of the implementation, of the users, their options
    implementation=$work/$1.o
    "$2" $(case $2 in *++) echo -x c++ ;; esac) $flags -c "$work/impl.c" -o "$implementation" &&
        "$3" $4 $flags "$work/user_one.c" "$work/user_two.c" $(case $3 in *++) echo -x none ;; esac) "$implementation" \
            $libs -o "$work/$1" &&
        "$work/$1"
}
check "one implementation in C, two users in C" linked c_c "$CC" "$CC" ""
check "one implementation in C, two users in C++" linked c_cxx "$CC" "$CXX" "-x c++"
check "one implementation in C++, two users in C++" linked cxx_cxx "$CXX" "$CXX" "-x c++"

# ---- what the object shows; not position independent, or constant tables would look writable to nm ----
wait
object=$work/object.o
"$CC" -O2 -fno-pic $flags -c "$work/impl.c" -o "$object"
none() { if grep .; then return 1; fi; }    # passes when it reads nothing, else shows what it read
names() { [ -s "$object" ] && nm "$@" "$object"; }
exports_only_gw()     { names -g --defined-only >"$work/exports" && awk '{ print $3 }' "$work/exports" | grep -v '^gw_[a-z]' | none; }
no_writable_globals() { names >"$work/globals" && grep ' [dDbBC] ' "$work/globals" | none; }
no_jsmn_symbol()      { names >"$work/jsmn" && awk '{ print $NF }' "$work/jsmn" | grep '^jsmn' | none; }
ends_and_prints_nothing() {
    names -u >"$work/calls" && awk '{ print $NF }' "$work/calls" |
        grep -xE 'abort|_?exit|(v?f)?printf|__printf_chk|__fprintf_chk|puts|putchar|perror|__assert_fail|u?sleep|system' | none
}
check "the object exports gw_ names only" exports_only_gw
check "the object has no writable globals" no_writable_globals
check "the object has no jsmn symbol" no_jsmn_symbol
check "the object calls nothing that ends, prints or sleeps" ends_and_prints_nothing

# ---- what foreign function interfaces read: no preprocessor, no inline functions, and still C ----
ffi() {
    "$CC" -E -P -DGW_FFI discord_gateway.h >"$work/ffi.txt" || return 1
    grep -nE '#|inline|static|__attribute__|__extension__|"C"' "$work/ffi.txt" | none || return 1
    grep -q 'gw_poll' "$work/ffi.txt" || { echo "no gw_poll in it"; return 1; }
    printf '#include <stddef.h>\n#include <stdint.h>\n' | cat - "$work/ffi.txt" >"$work/ffi.c"
    "$CC" -std=c99 -Wall -Wextra -Wpedantic -Werror -c "$work/ffi.c" -o "$work/ffi.o"
}
check "cc -E -P -DGW_FFI gives declarations only" ffi

# ---- the programs that are printed: README's first, and the manual's in the opening comment ----
readme_program() { awk '/^```c *$/ { on = 1; next } /^```/ && on { exit } on' README.md; }
# From the #define to the closing brace of main, without what stands before each line of the comment.
manual_program() {
    awk '/#ifndef DISCORD_GATEWAY_H/ { exit }
         !on && (at = index($0, "#define DISCORD_GATEWAY_IMPLEMENTATION")) && $0 ~ /^[ *]*#define/ { on = 1; indent = at }
         on { line = substr($0, indent); print line; if (line ~ /^}/) exit }' discord_gateway.h
}
printed() { # name: without a token it has to end by itself, with a sentence
    printed_name=$1
    "$1"_program >"$work/$1.c" && [ -s "$work/$1.c" ] || { echo "no program found"; return 1; }
    cat "$work/$1.c"
    "$CXX" -std=c++11 -x c++ $warnings $flags -c "$work/$1.c" -o "$work/$1.o" &&
        "$CC" -std=c99 $warnings $flags "$work/$1.c" $libs -o "$work/$1" || return 1
    (unset DISCORD_TOKEN; exec timeout 10 "$work/$1") >"$work/$1.txt" 2>&1
    status=$?
    cat "$work/$1.txt"
    [ $status -lt 124 ] && grep -qi token "$work/$1.txt"
}
check "README's program builds, and says what it lacks" printed readme
check "the manual's program builds, and says what it lacks" printed manual

wait
passed=$(ls "$work" | grep -c '\.passed$') failed=$(ls "$work" | grep -c '\.failed$')
[ $((passed + failed)) = $started ] || failed=$((started - passed))
echo "compile_matrix: $passed passed, $failed failed"
[ "$failed" = 0 ]
