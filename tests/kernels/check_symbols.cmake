# cmake -DNM=... -DOBJECTS=a.o|b.o -P check_symbols.cmake
#
# An object compiled with instruction-set flags must not define weak functions: the linker may keep
# that copy for the whole program, and a CPU without the instructions would run it.
string(REPLACE "|" ";" objects "${OBJECTS}")
list(FILTER objects INCLUDE REGEX "kernels/cpu/avx")
list(LENGTH objects count)
if(count LESS 3)
  message(FATAL_ERROR "expected three objects of kernels/cpu or, with AMX, four; found: ${objects}")
endif()
foreach(object IN LISTS objects)
  execute_process(COMMAND ${NM} --defined-only -C ${object} OUTPUT_VARIABLE symbols
    COMMAND_ERROR_IS_FATAL ANY)
  string(REGEX MATCHALL "[^\n]* W [^\n]*" weak "${symbols}")
  if(weak)
    message(FATAL_ERROR "${object} defines weak symbols: ${weak}")
  endif()
endforeach()
