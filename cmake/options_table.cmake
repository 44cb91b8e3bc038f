# Compares docs/options.md with what `moesaic COMMAND --help` says, or writes it with -D WRITE=ON:
#   cmake -D MOESAIC=<executable> -D FILE=docs/options.md [-D WRITE=ON] -P options_table.cmake
cmake_minimum_required(VERSION 3.25)

set(semicolon "@semicolon@")  # help texts have semicolons, which separate the elements of CMake's lists
set(ENV{COLUMNS} 10000)  # an option a line

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
  # Options of `report` are keys of no file.
  if(line MATCHES "^  moesaic ([a-z]+( [a-z]+)?)  " AND NOT CMAKE_MATCH_1 STREQUAL "report")
    list(APPEND commands "${CMAKE_MATCH_1}")
  endif()
endforeach()

# Sections and keys in the order of help. A key has a row for each help text; a row knows which commands have it.
set(sections "")
set(keys "")
foreach(command IN LISTS commands)
  string(REPLACE " " ";" words "${command}")
  help_lines(lines ${words})
  foreach(line IN LISTS lines)
    if(line MATCHES "^\\[([a-z]+)\\]$")
      list(APPEND sections "${CMAKE_MATCH_1}")
    elseif(line MATCHES "^  --([a-z0-9_.-]+) +(.*)$")
      set(key ${CMAKE_MATCH_1})
      set(text "${CMAKE_MATCH_2}")
      set(preset "")
      if(text MATCHES "^(.*) \\(default (.*)\\)$")
        set(text "${CMAKE_MATCH_1}")
        set(preset "${CMAKE_MATCH_2}")
      endif()
      string(REPLACE "|" "\\|" text "${text}")
      set(row "`${key}` | ${preset} | ${text}")
      list(APPEND keys "${key}")
      list(APPEND rows_of_${key} "${row}")
      string(MD5 id "${row}")
      list(APPEND commands_of_${id} "${command}")
    endif()
  endforeach()
endforeach()
if(NOT keys)
  message(FATAL_ERROR "${MOESAIC} lists no options")
endif()
list(REMOVE_DUPLICATES keys)

foreach(key IN LISTS keys)
  set(section none)
  if(key MATCHES "^([^.]+)\\.")
    set(section "${CMAKE_MATCH_1}")
    list(APPEND sections "${section}")
  endif()
  list(REMOVE_DUPLICATES rows_of_${key})
  foreach(row IN LISTS rows_of_${key})
    string(MD5 id "${row}")
    list(JOIN commands_of_${id} ", " users)
    string(APPEND table_of_${section} "| ${row} | ${users} |\n")
  endforeach()
endforeach()
list(REMOVE_DUPLICATES sections)

set(page "# Options

Every option is a key of the configuration file and an option of the command line (`--section.key VALUE` or
`--section.key=VALUE`), which wins. The file is the first argument of `train`, `eval`, `plan` and `bench`, or follows
`--config`:

    # a comment; so is what follows a blank and # or ;
    [section]
    key = value
    other_key = \"a value with # or ; in it\"

Options without a section stand above the first one. Boolean values are `true` or `false`. A path may begin with `~/`;
only a shell replaces variables such as `$HOME`, so that one in a file is an error. An unknown key is an error that names
the nearest known one.

`moesaic help COMMAND` prints the options of a command. Bash completes commands and options after

    source <(moesaic completion bash)

This page is made from `moesaic COMMAND --help`; a test compares the two. To write it again after a change:

    cmake -D MOESAIC=build/release/bin/moesaic -D FILE=docs/options.md -D WRITE=ON -P cmake/options_table.cmake
")
foreach(section IN LISTS sections ITEMS none)
  string(APPEND page "\n## ${section}\n\n| option | default | meaning | commands |\n|---|---|---|---|\n")
  string(APPEND page "${table_of_${section}}")
endforeach()
string(REPLACE "\n## none\n" "\n## Options without a section\n" page "${page}")
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
