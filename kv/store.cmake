# kv: the bytes of KV blocks on one rank, their swap file, and the KV types.
file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_LIST_DIR}/types/*.c)
consort_room(kv SOURCES store.c swap_file.c ${sources} SEES base kernels kv_core)
