pkg_check_modules(XXHASH REQUIRED IMPORTED_TARGET libxxhash) # its header alone: kv_core calls no library
consort_room(kv_core SOURCES ${CMAKE_CURRENT_LIST_DIR}/table.c ${CMAKE_CURRENT_LIST_DIR}/prefix.c ${CMAKE_CURRENT_LIST_DIR}/transfer.c
  SEES base LINKS PkgConfig::XXHASH)
