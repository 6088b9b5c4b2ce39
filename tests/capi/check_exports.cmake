# cmake -DNM=... -DLIBRARY=libturboquant.so -DHEADER=turboquant.h -P check_exports.cmake
#
# The library exports every function that the header declares, and nothing else.
execute_process(COMMAND ${NM} -D --defined-only ${LIBRARY} OUTPUT_VARIABLE symbols
  COMMAND_ERROR_IS_FATAL ANY)
string(REGEX MATCHALL " [A-Zaiuvw] [^\n]+" lines "${symbols}")
set(exported "")
foreach(line IN LISTS lines)
  string(REGEX REPLACE "^ . ([^@]+).*$" "\\1" name "${line}")
  if(NOT name MATCHES "^TURBOQUANT_")  # the version node
    list(APPEND exported ${name})
  endif()
endforeach()
file(READ ${HEADER} header)
string(REGEX MATCHALL "TQ_API [^;(]*[ *](tq_[a-z0-9_]+)\\(" declarations "${header}")
set(declared "")
foreach(declaration IN LISTS declarations)
  string(REGEX REPLACE "^.*[ *](tq_[a-z0-9_]+)\\($" "\\1" name "${declaration}")
  list(APPEND declared ${name})
endforeach()
list(SORT exported)
list(SORT declared)
list(LENGTH declared count)
if(count LESS 30)
  message(FATAL_ERROR "found only ${count} declarations in ${HEADER}")
endif()
if(NOT exported STREQUAL declared)
  message(FATAL_ERROR "exported: ${exported}\ndeclared: ${declared}")
endif()
