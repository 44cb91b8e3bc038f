# Compares docs/options.md with what `moesaic COMMAND --help` says, or writes it with -D WRITE=ON:
#   cmake -D MOESAIC=<executable> -D FILE=docs/options.md [-D WRITE=ON] -P options_table.cmake
cmake_minimum_required(VERSION 3.25)

set(semicolon "@semicolon@")  # help texts have semicolons, which separate the elements of CMake's lists

# help_lines(RESULT WORDS...): what MOESAIC says, line by line.
function(help_lines result)
  execute_process(COMMAND ${MOESAIC} ${ARGN} --help OUTPUT_VARIABLE help COMMAND_ERROR_IS_FATAL ANY)
  string(REPLACE ";" "${semicolon}" help "${help}")
  string(REPLACE "\r" "" help "${help}")
  string(REPLACE "\n" ";" lines "${help}")
  set(${result} "${lines}" PARENT_SCOPE)
endfunction()

set(commands "")
help_lines(lines)
foreach(line IN LISTS lines)
  # Usage, which follows the name, begins with no small letter. Options of `report` are keys of no file.
  if(line MATCHES "^  moesaic ([a-z]+( [a-z]+)?) +[^a-z ]" AND NOT CMAKE_MATCH_1 STREQUAL "report")
    list(APPEND commands "${CMAKE_MATCH_1}")
  endif()
endforeach()

# One row per option and help text; a row knows which commands have it.
set(rows "")
foreach(command IN LISTS commands)
  string(REPLACE " " ";" words "${command}")
  help_lines(lines ${words})
  foreach(line IN LISTS lines)
    if(line MATCHES "^  --([a-z0-9_.-]+) +(.*)$")
      set(key ${CMAKE_MATCH_1})
      set(text "${CMAKE_MATCH_2}")
      set(preset "")
      if(text MATCHES "^(.*) \\(default (.*)\\)$")
        set(text "${CMAKE_MATCH_1}")
        set(preset "${CMAKE_MATCH_2}")
      endif()
      string(REPLACE "|" "\\|" text "${text}")
      set(row "`${key}` | ${preset} | ${text}")
      if(NOT row IN_LIST rows)
        list(APPEND rows "${row}")
      endif()
      string(MD5 id "${row}")
      list(APPEND commands_of_${id} "${command}")
    endif()
  endforeach()
endforeach()
if(NOT rows)
  message(FATAL_ERROR "${MOESAIC} lists no options")
endif()

set(page "# Options

Every option is a key of the INI file (`[section]`, then `key = value`) and an option of the command line
(`--section.key VALUE` or `--section.key=VALUE`), which wins. Options of the benchmarks alone have no section and
stand above the first one in a file. The file is the first argument of `train`, `eval` and `bench`, or follows
`--config`. Boolean values are `true` or `false`. An unknown key is an error that names the nearest known one.

This page is made from `moesaic COMMAND --help`; a test compares the two. To write it again after a change:

    cmake -D MOESAIC=build/release/bin/moesaic -D FILE=docs/options.md -D WRITE=ON -P cmake/options_table.cmake
")
set(section "")
list(SORT rows COMPARE STRING)
foreach(wanted model lora data train parallel compute output bench)
  set(pattern "^`${wanted}\\.")
  if(wanted STREQUAL "bench")
    set(pattern "^`[^.`]+`")  # benchmarks have options without a section
  endif()
  string(APPEND page "\n## ${wanted}\n\n| option | default | meaning | commands |\n|---|---|---|---|\n")
  foreach(row IN LISTS rows)
    if(row MATCHES "${pattern}")
      string(MD5 id "${row}")
      list(JOIN commands_of_${id} ", " users)
      string(APPEND page "| ${row} | ${users} |\n")
      list(REMOVE_ITEM rows "${row}")
    endif()
  endforeach()
endforeach()
if(rows)
  message(FATAL_ERROR "options of an unknown section: ${rows}; add it to ${CMAKE_CURRENT_LIST_FILE}")
endif()
string(REPLACE "|  |" "| |" page "${page}")
string(REPLACE "${semicolon}" ";" page "${page}")

if(WRITE)
  file(WRITE ${FILE} "${page}")
  return()
endif()
file(READ ${FILE} present)
if(NOT present STREQUAL page)
  message(FATAL_ERROR "${FILE} is not what --help says; write it again with -D WRITE=ON (the page says how)")
endif()
