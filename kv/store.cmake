# kv: the bytes of KV blocks on one rank, and the KV types.
consort_room(kv SOURCES store.c types/types.c types/f16.c types/f32.c types/q8.c types/q4.c SEES base kernels)
