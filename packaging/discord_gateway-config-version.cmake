# The version is read from the header beside it, so that it stands in one place. While the major number is 0, a new
# minor number may break callers (semantic versioning), so it has to be the one that was asked for.
file(STRINGS "${CMAKE_CURRENT_LIST_DIR}/../../../include/discord_gateway.h" _gw_line REGEX "define GW_VERSION_TEXT ")
string(REGEX REPLACE ".*\"([0-9.]+)\".*" "\\1" PACKAGE_VERSION "${_gw_line}")
string(REGEX MATCH "^([0-9]+)\\.([0-9]+)" _gw_have "${PACKAGE_VERSION}")
string(REGEX MATCH "^([0-9]+)" _gw_major "${PACKAGE_VERSION}")
if(PACKAGE_FIND_VERSION_MAJOR EQUAL _gw_major AND NOT PACKAGE_VERSION VERSION_LESS PACKAGE_FIND_VERSION
   AND (_gw_major GREATER 0 OR "${_gw_have}" STREQUAL "${PACKAGE_FIND_VERSION_MAJOR}.${PACKAGE_FIND_VERSION_MINOR}"))
  set(PACKAGE_VERSION_COMPATIBLE TRUE)
  if(PACKAGE_VERSION VERSION_EQUAL PACKAGE_FIND_VERSION)
    set(PACKAGE_VERSION_EXACT TRUE)
  endif()
else()
  set(PACKAGE_VERSION_COMPATIBLE FALSE)
endif()
