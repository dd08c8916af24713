# find_package(discord_gateway) gives discord_gateway::discord_gateway: the header, BearSSL, jsmn and threads.
# It serves the installed header (<prefix>/share/cmake/discord_gateway/) and, included by CMakeLists.txt, the sources.
# BearSSL or jsmn in a place of their own: -DBEARSSL=DIR (its sources, built there) -DJSMN=DIR.
if(NOT DEFINED discord_gateway_INCLUDE_DIR)
  get_filename_component(discord_gateway_INCLUDE_DIR "${CMAKE_CURRENT_LIST_DIR}/../../../include" ABSOLUTE)
endif()

find_path(BEARSSL_INCLUDE_DIR bearssl.h HINTS "${BEARSSL}/inc")
find_library(BEARSSL_LIBRARY bearssl HINTS "${BEARSSL}/build")
find_path(JSMN_INCLUDE_DIR jsmn.h HINTS "${JSMN}")
find_package(Threads)

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(discord_gateway
  REQUIRED_VARS discord_gateway_INCLUDE_DIR BEARSSL_LIBRARY BEARSSL_INCLUDE_DIR JSMN_INCLUDE_DIR Threads_FOUND)

if(discord_gateway_FOUND AND NOT TARGET discord_gateway::discord_gateway)
  add_library(discord_gateway INTERFACE)
  add_library(discord_gateway::discord_gateway ALIAS discord_gateway)
  target_include_directories(discord_gateway INTERFACE
    "${discord_gateway_INCLUDE_DIR}" "${BEARSSL_INCLUDE_DIR}" "${JSMN_INCLUDE_DIR}")
  target_link_libraries(discord_gateway INTERFACE "${BEARSSL_LIBRARY}" Threads::Threads)
endif()
