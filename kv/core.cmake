consort_room(kv_core SOURCES ${CMAKE_CURRENT_LIST_DIR}/table.c ${CMAKE_CURRENT_LIST_DIR}/prefix.c SEES base)
