# turboquant_target(NAME [EXPORTED]): the compile settings every target of this project shares.
# No global flags are set, so the project can be a subdirectory of another. EXPORTED: nothing of them
# reaches those who link the target, who may speak another language.
function(turboquant_target name)
  set(scope PUBLIC)
  if("EXPORTED" IN_LIST ARGN)
    set(scope PRIVATE)
  endif()
  target_compile_features(${name} ${scope} cxx_std_20)
  set_target_properties(${name} PROPERTIES
    CXX_EXTENSIONS OFF
    POSITION_INDEPENDENT_CODE ON
    CXX_VISIBILITY_PRESET hidden
    VISIBILITY_INLINES_HIDDEN ON)
  target_include_directories(${name} ${scope} ${PROJECT_SOURCE_DIR}/src
    ${PROJECT_SOURCE_DIR}/include)
  # No contraction of a * b + c: code bytes must not depend on the compiler's mood.
  target_compile_options(${name} PRIVATE -Wall -Wextra -Wno-unused-parameter -ffp-contract=off)
  if(TURBOQUANT_WERROR)
    target_compile_options(${name} PRIVATE -Werror)
  endif()
  if(TURBOQUANT_FUZZ)
    target_compile_options(${name} PRIVATE -fsanitize=fuzzer-no-link)
  endif()
  if(TURBOQUANT_SANITIZE)
    list(JOIN TURBOQUANT_SANITIZE "," sanitizers)
    target_compile_options(${name} PRIVATE -fsanitize=${sanitizers} -fno-omit-frame-pointer
      -fno-sanitize-recover=all)
    target_link_options(${name} ${scope} -fsanitize=${sanitizers})
  endif()
endfunction()
