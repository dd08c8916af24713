#!/bin/sh
# What `make install` leaves behind: where it lies, that pkg-config and CMake find it, that `make uninstall` takes all.
# Ends with "install_check: N passed, N failed". CMake's part is left out where there is no cmake.

cd "$(dirname "$0")/.." || exit 1
CC=${CC:-cc} MAKE=${MAKE:-make}
unset MAKEFLAGS MFLAGS DESTDIR PREFIX
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
passed=0 failed=0

check() {   # name of the case, command...
    name=$1
    shift
    if "$@" >"$work/log" 2>&1; then passed=$((passed + 1))
    else failed=$((failed + 1)); echo "FAILED install_check: $name"; head -n 40 "$work/log"
    fi
}

installed() { (cd "$1" && find . ! -type d | sort | tr '\n' ' '); }

cat >"$work/user.c" <<'END'
#define DISCORD_GATEWAY_IMPLEMENTATION
#include <discord_gateway.h>
int main(void)
{
    gw_config cfg = GW_INIT;
    gw_client *gw = gw_open(&cfg);
    gw_close(gw);
    return gw && gw_version() == GW_VERSION ? 0 : 1;
}
END

destdir_and_prefix() {
    "$MAKE" install DESTDIR="$work/dest dir" PREFIX=/opt/gw || return 1
    ls -lR "$work/dest dir"
    [ "$(installed "$work/dest dir/opt/gw")" = "./include/discord_gateway.h \
./share/cmake/discord_gateway/discord_gateway-config-version.cmake \
./share/cmake/discord_gateway/discord_gateway-config.cmake ./share/pkgconfig/discord_gateway.pc " ] &&
        [ "$(ls "$work/dest dir")" = opt ] && grep -x 'prefix=/opt/gw' "$work/dest dir/opt/gw/share/pkgconfig/discord_gateway.pc"
}
default_prefix() { "$MAKE" install DESTDIR="$work/default" && [ -f "$work/default/usr/local/include/discord_gateway.h" ]; }
unwritable() {  # a file where the folder should be: fails, and make says so
    : >"$work/file"
    ! "$MAKE" install DESTDIR= PREFIX="$work/file"
}
with_pkg_config() {
    "$MAKE" install PREFIX="$work/prefix" || return 1
    export PKG_CONFIG_PATH="$work/prefix/share/pkgconfig"
    pkg-config --print-errors --exists discord_gateway &&
        [ "$(pkg-config --modversion discord_gateway)" = "$(sed -n 's/^.define GW_VERSION_TEXT "\(.*\)"/\1/p' discord_gateway.h)" ] &&
        $CC "$work/user.c" $(pkg-config --cflags discord_gateway) $DEPENDENCY_CPPFLAGS $CPPFLAGS -o "$work/user" \
            $DEPENDENCY_LDFLAGS $LDFLAGS $(pkg-config --libs discord_gateway) &&
        "$work/user"
}

# GW_VERSION, GW_VERSION_TEXT, the title and the newest entry of CHANGELOG.md name one version.
versions_agree() {
    text=$(sed -n 's/^#define GW_VERSION_TEXT "\(.*\)"/\1/p' discord_gateway.h)
    number=$(sed -n 's/^#define GW_VERSION \(0x[0-9A-Fa-f]*\)u.*/\1/p' discord_gateway.h)
    title=$(sed -n '1s/.*discord_gateway.h \([0-9.]*\) .*/\1/p' discord_gateway.h)
    newest=$(sed -n 's/^## \([0-9][^ ]*\).*/\1/p' CHANGELOG.md | head -n 1)
    echo "GW_VERSION_TEXT $text, GW_VERSION $number, title $title, CHANGELOG.md $newest"
    [ -n "$text" ] && [ -n "$number" ] && [ "$title" = "$text" ] && [ "$newest" = "$text" ] &&
        [ "$((number >> 16)).$((number >> 8 & 255)).$((number & 255))" = "$text" ]
}

# CMake runs elsewhere: relative folders would be other ones there.
own_sources="-DBEARSSL=${BEARSSL:+$(cd "$BEARSSL" && pwd)} -DJSMN=${JSMN:+$(cd "$JSMN" && pwd)}"
cmake_project() {   # folder, how the library is brought in
    mkdir -p "$1" && cp "$work/user.c" "$1/user.c" &&
        printf 'cmake_minimum_required(VERSION 3.13)\nproject(user C)\n%s\nadd_executable(user user.c)\n%s\n' "$2" \
            'target_link_libraries(user discord_gateway::discord_gateway)' >"$1/CMakeLists.txt"
}
cmake_builds() {    # folder, options...
    folder=$1
    shift
    cmake -S "$folder" -B "$folder/build" $own_sources "$@" && cmake --build "$folder/build" &&
        "$folder/build/user"
}
find_package_works() {
    cmake_project "$work/found" 'find_package(discord_gateway 0.1 REQUIRED)' &&
        cmake_builds "$work/found" -DCMAKE_PREFIX_PATH="$work/prefix"
}
find_package_refuses_another_version() {
    cmake_project "$work/future" 'find_package(discord_gateway 9.0 REQUIRED)' &&
        ! cmake -S "$work/future" -B "$work/future/build" -DCMAKE_PREFIX_PATH="$work/prefix"
}
subdirectory_works() {
    cmake_project "$work/sub" "add_subdirectory(\"$PWD\" gateway)" && cmake_builds "$work/sub"
}
cmake_installs_the_same() {
    cmake -S . -B "$work/build" -DCMAKE_INSTALL_PREFIX="$work/by cmake" $own_sources &&
        cmake --install "$work/build" && [ "$(installed "$work/by cmake")" = "$(installed "$work/prefix")" ]
}
uninstall_takes_all() {
    "$MAKE" uninstall DESTDIR="$work/dest dir" PREFIX=/opt/gw && "$MAKE" uninstall PREFIX="$work/prefix" &&
        [ -z "$(installed "$work/dest dir")$(installed "$work/prefix")" ]
}
uninstall_of_nothing() { "$MAKE" uninstall PREFIX="$work/nowhere"; }

check "install keeps to DESTDIR and PREFIX" destdir_and_prefix
check "install goes to /usr/local when nothing is said" default_prefix
check "install says when it cannot write" unwritable
check "pkg-config finds it, and a program builds with its flags" with_pkg_config
if command -v cmake >/dev/null; then
    check "find_package finds it, and a program builds" find_package_works
    check "find_package refuses a version that is not there" find_package_refuses_another_version
    check "add_subdirectory works" subdirectory_works
    check "cmake --install installs the same files" cmake_installs_the_same
else
    echo "install_check: no cmake here"
fi
check "the version is the same wherever it stands" versions_agree
check "uninstall takes all away" uninstall_takes_all
check "uninstall of what is not there is no error" uninstall_of_nothing

echo "install_check: $passed passed, $failed failed"
[ "$failed" = 0 ]
