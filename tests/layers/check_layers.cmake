# Fails if a file includes what its layer must not know:
#   cmake -D ROOT=<top folder> -P check_layers.cmake
# Layers are folders. This table is the rule; docs/architecture.md explains it.
cmake_minimum_required(VERSION 3.25)

set(sees_core core)
set(sees_io core io)
set(sees_kernels core kernels)
set(sees_host core host)
set(sees_mpi core host mpi)
set(sees_ops core kernels ops)
set(sees_model core host io kernels mpi ops model)
set(sees_train ${sees_model} train)
set(sees_measure core host io kernels mpi measure)
set(sees_bench ${sees_train} measure bench)
set(sees_report core io measure report)
set(sees_app ${sees_bench} report app)
set(layers core io host kernels mpi ops model train measure bench report app)

set(intrinsics "^([a-z0-9]+intrin|arm_[a-z0-9_]+)\\.h$")

# Headers that one place wraps for all others: a pattern of headers, and one of the files that may have them.
set(wrapped_headers
    "^io/hdf5\\.hpp$"                   "^src/io/"
    "^kernels/detail/"                  "^kernels/"
    "^mpi(-ext)?\\.h$"                  "^mpi/"
    "^hdf5(_hl)?\\.h$|^H5[A-Z].*\\.h$"  "^src/io/"
    "dnnl.*\\.h(pp)?$"                  "^bench/onednn\\.cpp$"
    "^pcre2\\.h$"                       "^src/model/adapters/module_patterns\\.cpp$"
    "^hwloc(\\.h$|/)"                   "^src/host/topology\\.cpp$"
    "${intrinsics}"                     "^kernels/(gemm_|pack_|elementwise_)[a-z0-9_]+\\.cpp$")
# A file with intrinsics is compiled for later CPUs: no header but these (kernels/micro_kernel.hpp says why).
set(beside_intrinsics "${intrinsics}|^cstdint$|^cstddef$|^kernels/micro_kernel\\.hpp$|^kernels/detail/entries\\.hpp$|^kernels/detail/[a-z0-9_]+\\.inc$")

set(violations "")
set(checked 0)
macro(report text)
  string(APPEND violations "  ${text}\n")
endmacro()

function(layer_of file result)
  string(REGEX REPLACE "^(src/)?([a-z]+)/.*" "\\2" layer "${file}")
  set(${result} ${layer} PARENT_SCOPE)
endfunction()

# check_include(FILE LAYER HEADER QUOTED): appends to `violations`.
macro(check_include file layer header quoted)
  string(REGEX REPLACE "/.*" "" first "${header}")
  if(first IN_LIST layers AND "${header}" MATCHES "/")
    if(NOT first IN_LIST sees_${layer})
      report("${file} includes ${header}: ${layer} must not know ${first}")
    endif()
  elseif(${quoted})
    report("${file} includes \"${header}\": write the path from the layer's folder")
  endif()
  set(pairs ${wrapped_headers})
  while(pairs)
    list(POP_FRONT pairs header_pattern file_pattern)
    if("${header}" MATCHES "${header_pattern}" AND NOT "${file}" MATCHES "${file_pattern}")
      report("${file} includes <${header}>: only files that match ${file_pattern} may")
    endif()
  endwhile()
endmacro()

file(GLOB_RECURSE files RELATIVE ${ROOT} ${ROOT}/src/*.[ch]pp ${ROOT}/src/*.in* ${ROOT}/kernels/*.[ch]pp
     ${ROOT}/kernels/*.inc ${ROOT}/mpi/*.[ch]pp ${ROOT}/bench/*.[ch]pp)
foreach(file IN LISTS files)
  layer_of(${file} layer)
  if(NOT layer IN_LIST layers)
    report("${file} is in no layer: add its folder to ${CMAKE_CURRENT_LIST_FILE}")
    continue()
  endif()
  math(EXPR checked "${checked} + 1")
  set(headers "")
  file(STRINGS ${ROOT}/${file} lines REGEX "^[ \t]*#[ \t]*include")
  foreach(line IN LISTS lines)
    if(line MATCHES "include[ \t]*<([^>]+)>")
      set(header "${CMAKE_MATCH_1}")
      check_include(${file} ${layer} "${header}" FALSE)
    elseif(line MATCHES "include[ \t]*\"([^\"]+)\"")
      set(header "${CMAKE_MATCH_1}")
      check_include(${file} ${layer} "${header}" TRUE)
    else()
      report("${file}: can't read this include: ${line}")
      continue()
    endif()
    list(APPEND headers "${header}")
  endforeach()
  set(special ${headers})
  list(FILTER special INCLUDE REGEX "${intrinsics}")
  if(special)
    list(FILTER headers EXCLUDE REGEX "${beside_intrinsics}")
    foreach(header IN LISTS headers)
      report("${file} includes ${header} beside ${special}: its inline functions would be compiled for later CPUs")
    endforeach()
  endif()
endforeach()

if(checked EQUAL 0)
  message(FATAL_ERROR "no source files below '${ROOT}'")
endif()
if(violations)
  message(FATAL_ERROR "Includes against the layering:\n${violations}")
endif()
message(STATUS "${checked} files keep to the layering")
