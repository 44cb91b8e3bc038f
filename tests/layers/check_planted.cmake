# Runs the layer check on a tree with planted violations, each marked by a comment on its line, and fails unless exactly
# these are reported:
#   cmake -D ROOT=<tree> -P check_planted.cmake
cmake_minimum_required(VERSION 3.25)

execute_process(COMMAND ${CMAKE_COMMAND} -D ROOT=${ROOT} -P ${CMAKE_CURRENT_LIST_DIR}/check_layers.cmake
                RESULT_VARIABLE code OUTPUT_VARIABLE output ERROR_VARIABLE output)
if(code EQUAL 0)
  message(FATAL_ERROR "the check passes a tree with violations")
endif()
string(REPLACE "\n" ";" found "${output}")
list(FILTER found INCLUDE REGEX " includes ")
list(LENGTH found found_count)

set(planted_count 0)
file(GLOB_RECURSE files RELATIVE ${ROOT} ${ROOT}/*.cpp ${ROOT}/*.hpp)
foreach(file IN LISTS files)
  file(STRINGS ${ROOT}/${file} lines REGEX "// violation")
  foreach(line IN LISTS lines)
    math(EXPR planted_count "${planted_count} + 1")
    string(REGEX MATCH "[<\"]([^>\"]+)[>\"]" unused "${line}")
    set(header "${CMAKE_MATCH_1}")
    set(reported ${found})
    list(FILTER reported INCLUDE REGEX "^ *${file} includes [<\"]?${header}")
    if(NOT reported)
      message(FATAL_ERROR "the check does not report ${file} with ${header}:\n${output}")
    endif()
  endforeach()
endforeach()
if(NOT planted_count EQUAL found_count OR planted_count EQUAL 0)
  message(FATAL_ERROR "${planted_count} violations are planted and ${found_count} are reported:\n${output}")
endif()
message(STATUS "all ${planted_count} planted violations are reported")
