# kv: the bytes of KV blocks on one rank, and the KV types.
file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_LIST_DIR}/types/*.c)
consort_room(kv SOURCES store.c ${sources} SEES base kernels)
