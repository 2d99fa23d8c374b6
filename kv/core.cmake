pkg_check_modules(XXHASH REQUIRED IMPORTED_TARGET libxxhash) # its header alone: kv_core calls no library
set(kv_core ${CMAKE_CURRENT_LIST_DIR}/table.c ${CMAKE_CURRENT_LIST_DIR}/prefix.c ${CMAKE_CURRENT_LIST_DIR}/transfer.c ${CMAKE_CURRENT_LIST_DIR}/hash.c)
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64") # hash.c asks the processor before it calls one of these
  list(APPEND kv_core ${CMAKE_CURRENT_LIST_DIR}/hash_avx2.c ${CMAKE_CURRENT_LIST_DIR}/hash_avx512.c)
  set_source_files_properties(${CMAKE_CURRENT_LIST_DIR}/hash_avx2.c PROPERTIES COMPILE_OPTIONS "-mavx2")
  set_source_files_properties(${CMAKE_CURRENT_LIST_DIR}/hash_avx512.c PROPERTIES COMPILE_OPTIONS "-mavx512f")
  set_source_files_properties(${CMAKE_CURRENT_LIST_DIR}/hash.c PROPERTIES COMPILE_DEFINITIONS CONSORT_KV_HASH_X86=1)
endif()
consort_room(kv_core SOURCES ${kv_core} SEES base LINKS PkgConfig::XXHASH)
