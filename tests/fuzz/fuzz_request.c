/* The request and reply decoders: what is accepted must be in range, encode again and come back the same. */
#include "proto/proto.h"
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void again(const proto_request *r) {
    proto_bytes one = {0}, two = {0};
    arena a = {0};
    proto_request back;
    st_error e;
    INVARIANT(!proto_request_check(r, &e) && !proto_request_encode(r, &one));
    INVARIANT(!arena_init(&a, proto_arena_bytes(one.n)) && !proto_request_decode(one.bytes, one.n, &a, &back, &e));
    INVARIANT(!proto_request_encode(&back, &two) && one.n == two.n && !memcmp(one.bytes, two.bytes, one.n));
    proto_bytes_free(&one);
    proto_bytes_free(&two);
    arena_deinit(&a);
}

static void faults_again(const proto_faults_request *q) {
    proto_bytes one = {0}, two = {0};
    proto_faults_request back;
    st_error e;
    INVARIANT(strlen(q->plan) < sizeof q->plan && strlen(q->group) < sizeof q->group && !(q->has_rank && q->group[0]));
    INVARIANT(!proto_faults_request_encode(q, &one) && !proto_faults_request_decode(one.bytes, one.n, &back, &e));
    INVARIANT(!proto_faults_request_encode(&back, &two) && one.n == two.n && !memcmp(one.bytes, two.bytes, one.n));
    proto_bytes_free(&one);
    proto_bytes_free(&two);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    arena a;
    proto_request r;
    proto_reply reply;
    proto_status status;
    st_error e;
    if (arena_init(&a, proto_arena_bytes(size))) return 0;
    if (!proto_request_decode(data, size, &a, &r, &e)) again(&r);
    arena_reset(&a, 0);
    if (!proto_reply_decode(data, size, &a, &reply, &e)) INVARIANT(!reply.text_bytes || reply.text);
    arena_reset(&a, 0);
    if (!proto_status_decode(data, size, &a, &status, &e)) INVARIANT(status.n_workers <= PROTO_MAX_WORKERS);
    uint32_t prompt_tokens;
    if (!proto_measure_request_decode(data, size, &prompt_tokens, &e)) INVARIANT(prompt_tokens <= PROTO_MAX_PROMPT_TOKENS);
    proto_faults_request faults;
    if (!proto_faults_request_decode(data, size, &faults, &e)) faults_again(&faults);
    proto_drain drain;
    if (!proto_drain_decode(data, size, &drain, &e)) INVARIANT(strlen(drain.group) < sizeof drain.group);
    arena_deinit(&a);
    return 0;
}
