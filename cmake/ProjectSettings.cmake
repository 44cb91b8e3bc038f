# Language level, warnings and sanitizers that every target of the project is built with.
set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
if(NOT CMAKE_BUILD_TYPE AND NOT CMAKE_CONFIGURATION_TYPES)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "Build type" FORCE)
endif()
# GNU's -O2 does not unroll or vectorise the loops of the portable kernels; errors must stay visible to isnan.
set(CMAKE_CXX_FLAGS_RELEASE "-O3 -DNDEBUG")
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/bin)

add_library(moesaic_settings INTERFACE)
target_include_directories(moesaic_settings INTERFACE ${PROJECT_SOURCE_DIR}/src ${PROJECT_SOURCE_DIR})
target_compile_options(moesaic_settings INTERFACE -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wsign-conversion
                                                  -Wold-style-cast -Wnon-virtual-dtor -Woverloaded-virtual -Wundef)
if(MOESAIC_WARNINGS_AS_ERRORS)
  target_compile_options(moesaic_settings INTERFACE -Werror)
endif()
if(MOESAIC_SANITIZERS)
  add_compile_options(-fsanitize=${MOESAIC_SANITIZERS} -fno-omit-frame-pointer -fno-sanitize-recover=all)
  add_link_options(-fsanitize=${MOESAIC_SANITIZERS})
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    # With the sanitizers' checks in between, GCC 12 takes members of its own <regex> for uninitialised.
    add_compile_options(-Wno-maybe-uninitialized)
  endif()
endif()

# moesaic_library(NAME [SOURCES files...] [GENERATED files...] [LINK libraries...]): one library per folder, with the
# project's settings; of all sources below the folder unless some are named.
function(moesaic_library name)
  cmake_parse_arguments(ARG "" "" "SOURCES;GENERATED;LINK" ${ARGN})
  if(NOT ARG_SOURCES)
    file(GLOB_RECURSE ARG_SOURCES CONFIGURE_DEPENDS *.cpp)
  endif()
  add_library(moesaic_${name} STATIC ${ARG_SOURCES} ${ARG_GENERATED})
  target_link_libraries(moesaic_${name} PUBLIC moesaic_settings ${ARG_LINK})
endfunction()
