# consort_room(NAME SOURCES ... SEES rooms ... LINKS external libraries ...)
#   One static library per room. SEES are the rooms it may call (PRIVATE: a room's users do not inherit its view).
# consort_test(NAME SOURCES ... SEES rooms ... LINKS ...)
#   One cmocka program, registered with ctest under NAME. Its label is `unit`. One of pure rooms alone is not built for ThreadSanitizer.
# consort_fuzz(NAME SOURCES ... SEES rooms ...)
#   One libFuzzer program (only with CONSORT_FUZZ) that ctest runs for a bounded time over tests/fuzz/corpus/NAME.

add_library(consort_flags INTERFACE)
target_compile_options(consort_flags INTERFACE -Wall -Wextra -Wconversion -Wshadow -Wstrict-prototypes -Wmissing-prototypes $<$<C_COMPILER_ID:GNU>:-Wno-format-truncation>
                       -ffp-contract=off -fno-math-errno -fvisibility=hidden)
target_compile_definitions(consort_flags INTERFACE _GNU_SOURCE CONSORT_VERSION="${PROJECT_VERSION}")
target_include_directories(consort_flags INTERFACE ${CMAKE_SOURCE_DIR})
if(CONSORT_WERROR)
  target_compile_options(consort_flags INTERFACE -Werror)
endif()
if(CONSORT_SANITIZE)
  target_compile_options(consort_flags INTERFACE -fsanitize=${CONSORT_SANITIZE} -fno-sanitize-recover=all)
  target_link_options(consort_flags INTERFACE -fsanitize=${CONSORT_SANITIZE} -fuse-ld=lld) # a hundred programs, each in half the time
endif()

set(CONSORT_PURE_ROOMS kv_core coordinator_core speculative) # check_pure.sh: no threads, among other things

function(consort_room name)
  cmake_parse_arguments(R "" "" "SOURCES;SEES;LINKS" ${ARGN})
  add_library(consort_${name} STATIC ${R_SOURCES})
  target_link_libraries(consort_${name} PRIVATE consort_flags Threads::Threads ${R_LINKS})
  foreach(room ${R_SEES})
    target_link_libraries(consort_${name} PRIVATE consort_${room})
  endforeach()
endfunction()

function(consort_test name)
  cmake_parse_arguments(R "" "" "SOURCES;SEES;LINKS" ${ARGN})
  set(impure ${R_SEES})
  list(REMOVE_ITEM impure base ${CONSORT_PURE_ROOMS})
  if(CONSORT_SANITIZE MATCHES thread AND R_SEES AND NOT impure AND NOT R_SOURCES MATCHES "/") # of its own folder and pure rooms alone
    return()
  endif()
  pkg_check_modules(CMOCKA REQUIRED IMPORTED_TARGET cmocka)
  add_executable(test_${name} ${R_SOURCES})
  target_link_libraries(test_${name} PRIVATE consort_flags PkgConfig::CMOCKA ${R_LINKS})
  foreach(room ${R_SEES} base)
    target_link_libraries(test_${name} PRIVATE consort_${room})
  endforeach()
  target_compile_definitions(test_${name} PRIVATE CONSORT_SOURCE_DIR="${CMAKE_SOURCE_DIR}")
  add_test(NAME ${name} COMMAND test_${name} WORKING_DIRECTORY ${CMAKE_SOURCE_DIR})
  set_tests_properties(${name} PROPERTIES TIMEOUT 600 LABELS unit)
endfunction()

function(consort_fuzz name)
  if(NOT CONSORT_FUZZ)
    return()
  endif()
  cmake_parse_arguments(R "" "" "SOURCES;SEES;LINKS" ${ARGN})
  add_executable(fuzz_${name} ${R_SOURCES})
  target_link_libraries(fuzz_${name} PRIVATE consort_flags ${R_LINKS})
  target_compile_options(fuzz_${name} PRIVATE -fsanitize=fuzzer)
  target_link_options(fuzz_${name} PRIVATE -fsanitize=fuzzer)
  foreach(room ${R_SEES} base)
    target_link_libraries(fuzz_${name} PRIVATE consort_${room})
    # It tells libFuzzer which of its branches were taken; without that fuzzing is blind. The other rooms need not pay for it.
    target_compile_options(consort_${room} PRIVATE -fsanitize=fuzzer-no-link)
  endforeach()
  set(work ${CMAKE_BINARY_DIR}/corpus/${name})
  file(MAKE_DIRECTORY ${work})
  add_test(NAME fuzz_${name} COMMAND sh -c
    "exec $<TARGET_FILE:fuzz_${name}> -max_total_time=\${CONSORT_FUZZ_SECONDS:-5} -rss_limit_mb=2048 -timeout=10 -verbosity=0 -print_final_stats=1 ${work} ${CMAKE_SOURCE_DIR}/tests/fuzz/corpus/${name}")
  set_tests_properties(fuzz_${name} PROPERTIES TIMEOUT 600 LABELS fuzz)
endfunction()
