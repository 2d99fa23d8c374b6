/* A request to and from the wire. The rows of fields.def move by macro, one for each kind; the prompt by hand.
 *
 * Decoding fills a proto_request with defaults, then with what is there, then checks it whole (proto_request_check), so that
 * bytes from the wire and options from a command line pass the same checks. Only what the struct cannot show any more (an
 * embedded NUL, more stops than it holds) is checked on the way. */
#include "proto/proto_int.h"

#include "base/mem.h"
#include "consort.pb-c.h"
#include "proto/request_int.h"
#include <stdio.h>
#include <string.h>

typedef Consort__V1__GenerateRequest wire_request;
#define BAD ST_ERR_INVALID_ARGUMENT

/* ---- checks ---- */
static st_code check_chat(const proto_request *r, st_error *e) {
    size_t total = 0;
    if (!r->n_messages || r->n_messages > PROTO_MAX_MESSAGES)
        return st_fail(e, BAD, "chat.messages: %u messages are outside 1 .. %d", r->n_messages, PROTO_MAX_MESSAGES);
    for (uint32_t i = 0; i < r->n_messages; i++) {
        const proto_message *m = &r->messages[i];
        char name[48];
        snprintf(name, sizeof name, "chat.messages[%u].role", i);
        if (!*m->role) return st_fail(e, BAD, "%s: is empty; expected \"system\", \"user\" or \"assistant\"", name);
        st_code code = proto_wire_check_word(name, m->role, strlen(m->role), PROTO_MAX_ROLE_BYTES, BAD, e);
        snprintf(name, sizeof name, "chat.messages[%u].content", i);
        if (!code) code = proto_wire_check_text(name, m->content, strlen(m->content), 0, PROTO_MAX_PROMPT_BYTES, BAD, e);
        if (code) return code;
        total += strlen(m->content);
    }
    if (total > PROTO_MAX_PROMPT_BYTES)
        return st_fail(e, BAD, "chat.messages: %zu bytes of content are over %d", total, PROTO_MAX_PROMPT_BYTES);
    return ST_OK;
}

static st_code check_prompt(const proto_request *r, st_error *e) {
    switch (r->prompt_kind) {
    case PROTO_PROMPT_TEXT: return proto_wire_check_text("text", r->text, r->text_bytes, 1, PROTO_MAX_PROMPT_BYTES, BAD, e);
    case PROTO_PROMPT_CHAT: return check_chat(r, e);
    case PROTO_PROMPT_TOKENS:
        if (!r->n_tokens || r->n_tokens > PROTO_MAX_PROMPT_TOKENS)
            return st_fail(e, BAD, "tokens.ids: %u ids are outside 1 .. %d", r->n_tokens, PROTO_MAX_PROMPT_TOKENS);
        return ST_OK;
    }
    return st_fail(e, BAD, "prompt: kind %d is unknown", (int)r->prompt_kind);
}

st_code proto_request_check(const proto_request *r, st_error *e) {
    st_code code = proto_request_check_fields(r, e);
    return code ? code : check_prompt(r, e);
}

/* ---- decode ---- */
/* A view of text that may hold no NUL, since from here on its end is its NUL. `index` < 0: the name stands alone. */
static st_code take_text(const char *field, long index, const char *part, ProtobufCBinaryData d, const char **out, st_error *e) {
    const void *nul = d.len ? memchr(d.data, 0, d.len) : NULL;
    *out = d.len ? (const char *)d.data : "";
    if (!nul) return ST_OK;
    char name[64];
    snprintf(name, sizeof name, index < 0 ? "%s" : "%s[%ld]%s", field, index, part);
    return proto_wire_check_text(name, *out, d.len, 0, SIZE_MAX, BAD, e); /* says where */
}

static st_code decode_stops(size_t n, const ProtobufCBinaryData *texts, proto_request *r, st_error *e) {
    if (n > PROTO_MAX_STOPS) return st_fail(e, BAD, "stop: %zu is outside 0 .. %d of them", n, PROTO_MAX_STOPS);
    r->n_stops = (uint32_t)n;
    for (size_t i = 0; i < n; i++) {
        st_code code = take_text("stop", (long)i, "", texts[i], &r->stops[i], e);
        if (code) return code;
    }
    return ST_OK;
}

static st_code decode_bias(size_t n, Consort__V1__TokenBias *const *list, arena *a, proto_request *r, st_error *e) {
    if (n > PROTO_MAX_BIAS) return st_fail(e, BAD, "logit_bias: %zu is outside 0 .. %d of them", n, PROTO_MAX_BIAS);
    uint32_t *token = arena_alloc(a, n, sizeof *token);
    float *bias = arena_alloc(a, n, sizeof *bias);
    if (!token || !bias) return st_fail(e, BAD, "logit_bias: no memory left for %zu", n);
    for (size_t i = 0; i < n; i++) {
        token[i] = list[i]->token;
        bias[i] = list[i]->bias;
    }
    r->n_bias = (uint32_t)n;
    r->bias_token = token;
    r->bias = bias;
    return ST_OK;
}

#define DECODE_U32(name, member)                                                                                                 \
    if (m->has_##name) r->member = m->name;
#define DECODE_I32  DECODE_U32
#define DECODE_F32  DECODE_U32
#define DECODE_BOOL DECODE_U32
#define DECODE_U64(name, member)                                                                                                 \
    if ((r->has_##name = m->has_##name)) r->member = m->name;
#define DECODE_TEXT(name, member)                                                                                                \
    if (m->has_##name && (code = proto_wire_copy_word(#name, m->name, r->member, sizeof r->member, BAD, e))) return code;
#define DECODE_TEXTS(name, member)                                                                                               \
    if ((code = decode_stops(m->n_##name, m->name, r, e))) return code;
#define DECODE_TOKENS(name, member)                                                                                              \
    r->n_##member = m->n_##name < UINT32_MAX ? (uint32_t)m->n_##name : UINT32_MAX;                                               \
    r->member = m->name;

#define DECODE_BIAS(name, member)                                                                                                \
    if ((code = decode_bias(m->n_##name, m->name, a, r, e))) return code;

static st_code decode_fields(const wire_request *m, arena *a, proto_request *r, st_error *e) {
    st_code code;
#define FIELD(name, kind, member, min, max, value, help) DECODE_##kind(name, member)
#include "proto/fields.def"
#undef FIELD
    return ST_OK;
}

static st_code decode_chat(const Consort__V1__Chat *c, arena *a, proto_request *r, st_error *e) {
    r->prompt_kind = PROTO_PROMPT_CHAT;
    r->n_messages = c->n_messages < UINT32_MAX ? (uint32_t)c->n_messages : UINT32_MAX;
    if (c->n_messages > PROTO_MAX_MESSAGES) return check_chat(r, e);
    proto_message *messages = arena_alloc(a, c->n_messages, sizeof *messages);
    if (!messages) return st_fail(e, BAD, "chat.messages: no memory left for %zu", c->n_messages);
    for (size_t i = 0; i < c->n_messages; i++) {
        const Consort__V1__Message *m = c->messages[i];
        st_code code = take_text("chat.messages", (long)i, ".role", m->role, &messages[i].role, e);
        if (!code) code = take_text("chat.messages", (long)i, ".content", m->content, &messages[i].content, e);
        if (code) return code;
    }
    r->messages = messages;
    return ST_OK;
}

static st_code decode_prompt(const wire_request *m, arena *a, proto_request *r, st_error *e) {
    switch (m->prompt_case) {
    case CONSORT__V1__GENERATE_REQUEST__PROMPT_TEXT:
        r->prompt_kind = PROTO_PROMPT_TEXT;
        r->text_bytes = m->text.len;
        return take_text("text", -1, "", m->text, &r->text, e);
    case CONSORT__V1__GENERATE_REQUEST__PROMPT_CHAT: return decode_chat(m->chat, a, r, e);
    case CONSORT__V1__GENERATE_REQUEST__PROMPT_TOKENS:
        r->prompt_kind = PROTO_PROMPT_TOKENS;
        r->n_tokens = (uint32_t)m->tokens->n_ids; /* a message has at most PROTO_MAX_BYTES */
        r->tokens = m->tokens->ids;
        return ST_OK;
    default: return st_fail(e, BAD, "prompt: is missing; expected one of text, chat and tokens");
    }
}

st_code proto_request_decode(const uint8_t *bytes, size_t n, arena *a, proto_request *out, st_error *e) {
    size_t mark = a->used_bytes;
    wire_request *m;
    proto_request r = proto_request_default();
    st_code code = proto_wire_unpack(&consort__v1__generate_request__descriptor, bytes, n, a, BAD, BAD, &m, e);
    if (!code) code = decode_fields(m, a, &r, e);
    if (!code) code = decode_prompt(m, a, &r, e);
    if (!code) code = proto_request_check(&r, e);
    if (code)
        arena_reset(a, mark);
    else
        *out = r;
    return code;
}

/* ---- encode ---- */
#define ENCODE_U32(name, member)                                                                                                 \
    m.has_##name = 1;                                                                                                            \
    m.name = r->member;
#define ENCODE_F32  ENCODE_U32
#define ENCODE_BOOL ENCODE_U32
#define ENCODE_I32(name, member)                                                                                                 \
    m.has_##name = r->member != 0; /* which is the default */                                                                    \
    m.name = r->member;
#define ENCODE_U64(name, member)                                                                                                 \
    m.has_##name = r->has_##name;                                                                                                \
    m.name = r->member;
#define ENCODE_TEXT(name, member)                                                                                                \
    m.has_##name = r->member[0] != 0;                                                                                            \
    m.name = proto_wire_text(r->member);
#define ENCODE_TEXTS(name, member)                                                                                               \
    ProtobufCBinaryData name[PROTO_MAX_STOPS];                                                                                   \
    for (uint32_t i = 0; i < r->n_##member; i++) name[i] = proto_wire_text(r->member[i]);                                        \
    m.n_##name = r->n_##member;                                                                                                  \
    m.name = name;
#define ENCODE_TOKENS(name, member)                                                                                              \
    m.n_##name = r->n_##member;                                                                                                  \
    m.name = (uint32_t *)(uintptr_t)r->member;

#define ENCODE_BIAS(name, member)                                                                                                \
    m.n_##name = r->n_##member;                                                                                                  \
    m.name = encode_bias(r, &bias);

/* Scratch of one encoding. */
typedef struct {
    Consort__V1__TokenBias items[PROTO_MAX_BIAS], *list[PROTO_MAX_BIAS];
} bias_parts;

static Consort__V1__TokenBias **encode_bias(const proto_request *r, bias_parts *parts) {
    INVARIANT(r->n_bias <= PROTO_MAX_BIAS);
    for (uint32_t i = 0; i < r->n_bias; i++) {
        Consort__V1__TokenBias *m = parts->list[i] = &parts->items[i];
        consort__v1__token_bias__init(m);
        m->has_token = m->has_bias = 1;
        m->token = r->bias_token[i];
        m->bias = r->bias[i];
    }
    return parts->list;
}

typedef struct {
    Consort__V1__Message *messages; /* [n_messages], owned */
    Consort__V1__Message **list;    /* [n_messages], owned */
} chat_parts;

static st_code encode_chat(const proto_request *r, chat_parts *parts, Consort__V1__Chat *chat) {
    parts->messages = mem_alloc(r->n_messages, sizeof *parts->messages);
    parts->list = mem_alloc(r->n_messages, sizeof *parts->list);
    if (!parts->messages || !parts->list) return ST_FATAL_MEMORY;
    for (uint32_t i = 0; i < r->n_messages; i++) {
        Consort__V1__Message *m = parts->list[i] = &parts->messages[i];
        consort__v1__message__init(m);
        m->has_role = m->has_content = 1;
        m->role = proto_wire_text(r->messages[i].role);
        m->content = proto_wire_text(r->messages[i].content);
    }
    chat->n_messages = r->n_messages;
    chat->messages = parts->list;
    return ST_OK;
}

st_code proto_request_encode(const proto_request *r, proto_bytes *out) {
    wire_request m = CONSORT__V1__GENERATE_REQUEST__INIT;
    Consort__V1__Chat chat = CONSORT__V1__CHAT__INIT;
    Consort__V1__Tokens tokens = CONSORT__V1__TOKENS__INIT;
    chat_parts parts = {0};
    bias_parts bias;
    st_code code = ST_OK;
#define FIELD(name, kind, member, min, max, value, help) ENCODE_##kind(name, member)
#include "proto/fields.def"
#undef FIELD
    switch (r->prompt_kind) {
    case PROTO_PROMPT_TEXT:
        m.prompt_case = CONSORT__V1__GENERATE_REQUEST__PROMPT_TEXT;
        m.text = proto_wire_data(r->text, r->text_bytes);
        break;
    case PROTO_PROMPT_CHAT:
        m.prompt_case = CONSORT__V1__GENERATE_REQUEST__PROMPT_CHAT;
        m.chat = &chat;
        code = encode_chat(r, &parts, &chat);
        break;
    case PROTO_PROMPT_TOKENS:
        m.prompt_case = CONSORT__V1__GENERATE_REQUEST__PROMPT_TOKENS;
        m.tokens = &tokens;
        tokens.n_ids = r->n_tokens;
        tokens.ids = (uint32_t *)(uintptr_t)r->tokens;
        break;
    }
    if (!code) code = proto_wire_pack(&m.base, out);
    mem_free(parts.messages);
    mem_free(parts.list);
    return code;
}

/* ---- DrainRequest ---- */

st_code proto_drain_encode(const proto_drain *d, proto_bytes *out) {
    Consort__V1__DrainRequest m = CONSORT__V1__DRAIN_REQUEST__INIT;
    m.has_group = m.has_undo = m.has_wait = 1;
    m.group = proto_wire_text(d->group);
    m.undo = d->undo;
    m.wait = d->wait;
    return proto_wire_pack(&m.base, out);
}

st_code proto_drain_decode(const uint8_t *bytes, size_t n, proto_drain *out, st_error *e) {
    wire_room room;
    Consort__V1__DrainRequest *m;
    proto_drain d = {0};
    st_code code = proto_wire_unpack_small(&consort__v1__drain_request__descriptor, bytes, n, &room, BAD, &m, e);
    if (!code) code = proto_wire_copy_word("group", m->group, d.group, sizeof d.group, BAD, e);
    if (code) return code;
    d.undo = m->undo;
    d.wait = m->wait;
    *out = d;
    return ST_OK;
}
