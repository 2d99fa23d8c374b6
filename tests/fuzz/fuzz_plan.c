/* All messages of the control link: the first byte is the type (proto_message_type), the rest the payload. */
#include "proto/proto.h"
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_tree(const token_tree *t) {
    INVARIANT(t->n_nodes <= NOUNS_MAX_TREE);
    for (uint32_t k = 0; k < t->n_nodes; k++) {
        INVARIANT(t->parent[k] == NOUNS_TREE_ROOT || t->parent[k] < k);
        if (t->probability) INVARIANT(t->probability[k] >= 0 && t->probability[k] <= 1);
    }
}

static void check_plan(const proto_plan *p) {
    INVARIANT(p->id && p->n_work <= PROTO_MAX_PLAN_SEQUENCES && p->n_draft <= PROTO_MAX_PLAN_SEQUENCES);
    INVARIANT(p->kind == PROTO_PLAN_STEP ? !p->n_draft : !p->n_work && !p->n_swaps);
    INVARIANT(p->n_swaps <= NOUNS_MAX_SWAPS);
    for (uint32_t i = 0; i < p->n_work; i++) {
        INVARIANT(p->work[i].n_prefix);
        check_tree(&p->work[i].tree);
    }
    for (uint32_t i = 0; i < p->n_draft; i++) {
        INVARIANT(p->draft[i].seq.value && p->draft[i].budget <= NOUNS_MAX_TREE);
        INVARIANT(p->draft[i].n_tentative <= NOUNS_MAX_TREE);
    }
}

/* What is accepted encodes again, decodes again, and encodes to the same bytes. */
static void plan(const uint8_t *data, size_t size, bool first) {
    arena a;
    proto_plan p;
    st_error e;
    proto_bytes b;
    if (arena_init(&a, proto_arena_bytes(size))) return;
    if (!proto_plan_decode(data, size, &a, &p, &e)) {
        check_plan(&p);
        INVARIANT(!proto_plan_encode(&p, &b));
        if (first)
            plan(b.bytes, b.n, false);
        else
            INVARIANT(b.n == size && !memcmp(b.bytes, data, size));
        proto_bytes_free(&b);
    } else
        INVARIANT(first);
    arena_deinit(&a);
}

static void result(const uint8_t *data, size_t size, bool first) {
    arena a;
    proto_result r;
    st_error e;
    proto_bytes b;
    if (arena_init(&a, proto_arena_bytes(size))) return;
    if (!proto_result_decode(data, size, &a, &r, &e)) {
        for (uint32_t i = 0; i < r.n_items; i++) check_tree(&r.items[i].tree);
        INVARIANT(!proto_result_encode(&r, &b));
        if (first)
            result(b.bytes, b.n, false);
        else
            INVARIANT(b.n == size && !memcmp(b.bytes, data, size));
        proto_bytes_free(&b);
    } else
        INVARIANT(first);
    arena_deinit(&a);
}

static void check_addresses(const proto_address *list, uint32_t n, uint32_t n_min) {
    INVARIANT(n >= n_min && n <= PROTO_MAX_TRANSPORTS);
    for (uint32_t i = 0; i < n; i++) {
        INVARIANT(list[i].transport[0] && strnlen(list[i].transport, PROTO_TRANSPORT_BYTES) < PROTO_TRANSPORT_BYTES);
        INVARIANT(list[i].address[0] && strnlen(list[i].address, PROTO_ADDRESS_BYTES) < PROTO_ADDRESS_BYTES);
        for (uint32_t k = 0; k < i; k++) INVARIANT(strcmp(list[i].transport, list[k].transport));
    }
}

static void move(const uint8_t *data, size_t size, bool first) {
    arena a;
    proto_move m;
    st_error e;
    proto_bytes b;
    if (arena_init(&a, proto_arena_bytes(size))) return;
    if (!proto_move_decode(data, size, &a, &m, &e)) {
        INVARIANT(m.id && m.generation && m.n_flows <= PROTO_MAX_FLOWS && m.n_ready <= m.n_blocks);
        for (uint32_t i = 0; i < m.n_flows; i++) check_addresses(m.flows[i].addresses, m.flows[i].n_addresses, 1);
        INVARIANT(m.scratch.n_pieces ? !m.n_blocks : m.n_blocks == ((uint64_t)m.n_tokens + 31) / 32);
        INVARIANT(!proto_move_encode(&m, &b));
        if (first)
            move(b.bytes, b.n, false);
        else
            INVARIANT(b.n == size && !memcmp(b.bytes, data, size));
        proto_bytes_free(&b);
    } else
        INVARIANT(first);
    arena_deinit(&a);
}

static void about_move(uint8_t type, const uint8_t *data, size_t size) {
    proto_moved m;
    st_error e;
    uint64_t id;
    uint32_t n_ready;
    if (type == PROTO_MSG_MOVE)
        move(data, size, true);
    else if (type == PROTO_MSG_MOVE_READY && !proto_move_ready_decode(data, size, &id, &n_ready, &e))
        INVARIANT(id && n_ready <= 32768);
    else if (type == PROTO_MSG_MOVE_CANCEL && !proto_move_cancel_decode(data, size, &id, &e))
        INVARIANT(id);
    else if (type == PROTO_MSG_MOVED && !proto_moved_decode(data, size, &m, &e))
        INVARIANT(m.id && m.code < ST_N_CODES && strnlen(m.message, sizeof m.message) < sizeof m.message);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    proto_register r;
    proto_welcome w;
    proto_heartbeat h;
    proto_abort ab;
    proto_faults_order fo;
    proto_faults ft;
    st_error e;
    if (!size) return 0;
    uint8_t *payload = malloc(size); /* its own piece, so that a read before or past it is seen */
    if (!payload) return 0;
    memcpy(payload, data + 1, --size);
    switch (data[0]) {
    case PROTO_MSG_REGISTER:
    case PROTO_MSG_READY:
        if (proto_register_decode(payload, size, &r, &e)) break;
        INVARIANT(strnlen(r.hostname, sizeof r.hostname) < sizeof r.hostname);
        check_addresses(r.addresses, r.n_addresses, 0);
        break;
    case PROTO_MSG_WELCOME:
        if (!proto_welcome_decode(payload, size, &w, &e)) INVARIANT(w.heartbeat_ms);
        break;
    case PROTO_MSG_HEARTBEAT:
        if (!proto_heartbeat_decode(payload, size, &h, &e)) INVARIANT(h.load_share <= 1);
        break;
    case PROTO_MSG_ABORT:
        if (!proto_abort_decode(payload, size, &ab, &e)) INVARIANT(ab.code && ab.code < ST_N_CODES);
        break;
    case PROTO_MSG_FAULTS:
        if (!proto_faults_order_decode(payload, size, &fo, &e)) INVARIANT(strnlen(fo.plan, sizeof fo.plan) < sizeof fo.plan);
        break;
    case PROTO_MSG_FAULTS_TOLD:
        if (!proto_faults_decode(payload, size, &ft, &e)) INVARIANT(ft.n_points <= PROTO_MAX_FAULTS && ft.code < ST_N_CODES);
        break;
    case PROTO_MSG_PLAN: plan(payload, size, true); break;
    case PROTO_MSG_RESULT: result(payload, size, true); break;
    default: about_move(data[0], payload, size);
    }
    free(payload);
    return 0;
}
