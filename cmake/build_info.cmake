# cmake -D SOURCE=... -D INPUT=... -D OUTPUT=... -D VERSION=... -P build_info.cmake
# Writes OUTPUT from INPUT, only if it changes, with the commit of the checkout.
set(COMMIT unknown)
find_program(GIT git)
if(GIT)
  execute_process(COMMAND ${GIT} -C ${SOURCE} describe --always --dirty --exclude "*"
    OUTPUT_VARIABLE described OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET RESULT_VARIABLE result)
  if(result EQUAL 0 AND NOT described STREQUAL "")
    set(COMMIT ${described})
  endif()
endif()
configure_file(${INPUT} ${OUTPUT} @ONLY)
