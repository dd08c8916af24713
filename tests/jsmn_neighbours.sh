#!/bin/sh
# A program may use jsmn itself beside discord_gateway.h: before it or after it, with any of jsmn's switches, in C and
# in C++. Each combination is compiled with the warnings on, linked, and run; and no jsmn name of ours may be seen.
#   tests/jsmn_neighbours.sh [folder of discord_gateway.h]      honours CC, CXX, CPPFLAGS, LDFLAGS, LDLIBS
header=${1:-.}
CC=${CC:-cc}
CXX=${CXX:-c++}
LDLIBS=${LDLIBS:--lbearssl -lpthread}
flags="-O0 -Wall -Wextra -Wpedantic -Wno-unused-function -D_DEFAULT_SOURCE -I$header $CPPFLAGS"
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
passed=0
failed=0

# The program's own use of jsmn: it parses, and sees its own macros and types as if we were not there.
cat > "$work/use.h" <<'END'
static int use_jsmn(void)
{
    jsmn_parser parser;
    jsmntok_t tokens[8];
    enum jsmnerr no_memory = JSMN_ERROR_NOMEM;
    jsmn_init(&parser);
    if (jsmn_parse(&parser, "{\"a\":[1]}", 9, tokens, 1) != (int)no_memory) return 1;
    jsmn_init(&parser);
    if (jsmn_parse(&parser, "{\"a\":[1]}", 9, tokens, 8) != 4) return 2;
    if (tokens[0].type != JSMN_OBJECT || tokens[3].type != JSMN_PRIMITIVE) return 3;
#ifdef JSMN_PARENT_LINKS
    if (tokens[3].parent != 2) return 4;
#else
    if (sizeof tokens[0] != 4 * sizeof(int)) return 5;
#endif
    jsmn_init(&parser);             /* a bare word is an error only where the program asked for strictness */
#ifdef JSMN_STRICT
    if (jsmn_parse(&parser, "[x]", 3, tokens, 8) != JSMN_ERROR_INVAL) return 6;
#else
    if (jsmn_parse(&parser, "[x]", 3, tokens, 8) != 2) return 7;
#endif
    return 0;
}
END

# Our own use of it: the index is made by jsmn and answers.
cat > "$work/ours.h" <<'END'
static int use_ours(void)
{
    gw_json v = { "{\"a\":[1,22]}", 12, NULL };
    gw__mem mem;
    gw__json_index index;
    uint64_t value;
    gw__mem_init(&mem, NULL, NULL);
    gw__json_index_init(&index, &mem, 100);
    gw__json_index_point(&index, v.ptr, v.len);
    gw__json_index_make(&index);
    v.index = &index;
    value = gw_u64(&v, "a.1");
    gw__json_index_free(&index);
    return value == 22 && index.count == 0 ? 0 : 8;
}
END

# What the program finds afterwards of the macros that we touch.
cat > "$work/macros.h" <<'END'
#if defined GW_WANT_STRICT != defined JSMN_STRICT || defined GW_WANT_PARENT_LINKS != defined JSMN_PARENT_LINKS
#error "JSMN_STRICT or JSMN_PARENT_LINKS is not as it was"
#endif
#if defined GW_WANT_STATIC != defined JSMN_STATIC || defined GW_WANT_HEADER != defined JSMN_HEADER
#error "JSMN_STATIC or JSMN_HEADER is not as it was"
#endif
END

check()     # $1: what it is; then the command
{
    name=$1
    shift
    if "$@" > "$work/out" 2>&1 && ! grep -q warning: "$work/out"; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "FAILED jsmn_neighbours: $name" >&2
        head -20 "$work/out" >&2
    fi
}

only_ours()     # $1: an object file in which only our header was compiled
{
    ! nm "$1" | sed 's/gw__jsmn_//g' | grep -i jsmn && ! nm -g "$1" | grep -i jsmn
}

# $1 compiler with standard, $2 suffix, $3 order, $4... switches: one program of one or two files
try()
{
    compiler=$1; suffix=$2; order=$3
    shift 3
    want=
    has_header=0
    {
        for switch in "$@"; do
            echo "#define JSMN_$switch"
            want="$want -DGW_WANT_$switch"
            test "$switch" = HEADER && has_header=1
        done
        test "$order" = before && echo '#include <jsmn.h>'
        echo '#define DISCORD_GATEWAY_IMPLEMENTATION'
        echo '#include "discord_gateway.h"'
        echo '#include "macros.h"'
        test "$order" = before && echo '#ifndef JSMN_H'
        test "$order" = before && echo '#error "JSMN_H is not as it was"'
        test "$order" = before && echo '#endif'
        test "$order" != before && echo '#if defined JSMN_H || defined JSMN_API'
        test "$order" != before && echo '#error "JSMN_H or JSMN_API is left over"'
        test "$order" != before && echo '#endif'
        test "$order" != before && echo '#include <jsmn.h>'
        echo '#include "use.h"'
        echo '#include "ours.h"'
        echo 'int main(void) { int wrong = use_jsmn(); return wrong ? wrong : use_ours(); }'
    } > "$work/program.$suffix"
    other=
    if test $has_header = 1; then       # the functions are then in a file of the program's own
        {
            for switch in "$@"; do
                test "$switch" = HEADER || echo "#define JSMN_$switch"
            done
            echo '#include <jsmn.h>'
        } > "$work/jsmn_of_the_program.$suffix"
        other="$work/jsmn_of_the_program.$suffix"
    fi
    check "$compiler, jsmn $order, switches: $*" build_and_run
}

build_and_run()
{
    $compiler $flags $want -I"$work" -o "$work/program" "$work/program.$suffix" $other $LDFLAGS $LDLIBS && "$work/program"
}

all_switches()  # $1 compiler, $2 suffix
{
    for order in before after; do
        for strict in '' STRICT; do
            for links in '' PARENT_LINKS; do
                for linkage in '' STATIC HEADER; do
                    try "$1" "$2" $order $strict $links $linkage
                done
            done
        done
    done
}

# Our header alone: nothing of jsmn in sight. And beside a second file with a jsmn of its own: no clash.
alone()     # $1 compiler, $2 suffix
{
    compiler=$1
    printf '#define DISCORD_GATEWAY_IMPLEMENTATION\n#include "discord_gateway.h"\n' > "$work/alone.$2"
    check "$1 compiles it alone" $compiler $flags -c -o "$work/alone.o" "$work/alone.$2"
    check "$1 shows no jsmn name of ours" only_ours "$work/alone.o"
    printf '#include <jsmn.h>\n#include "use.h"\nint main(void) { return use_jsmn(); }\n' > "$work/user.$2"
    check "$1 links beside a file with jsmn" $compiler $flags -I"$work" -o "$work/program" "$work/user.$2" \
        "$work/alone.o" $LDFLAGS $LDLIBS
    check "$1 runs beside a file with jsmn" "$work/program"
}

# A copy of jsmn.h that is no system header, so that its warnings are not hidden: still silent, under all our flags.
own_copy()  # $1 compiler, $2 suffix
{
    compiler=$1
    jsmn=$(printf '#include <jsmn.h>\n' | $CC $CPPFLAGS -E - | sed -n 's/^# [0-9]* "\(.*jsmn\.h\)".*/\1/p' | head -1)
    cp "$jsmn" "$work/copy_of_jsmn.h"
    check "$1 with GW_JSMN_HEADER is silent" $compiler $flags -Wconversion -Wsign-conversion -Wshadow -O2 \
        -I"$work" '-DGW_JSMN_HEADER="copy_of_jsmn.h"' -c -o "$work/copy.o" "$work/alone.$2"
}

for pair in "$CC -std=c99:c" "$CXX -std=c++11:cpp"; do
    alone "${pair%:*}" "${pair##*:}"
    own_copy "${pair%:*}" "${pair##*:}"
    all_switches "${pair%:*}" "${pair##*:}"
done
echo "jsmn_neighbours: $passed passed, $failed failed"
test $failed = 0
