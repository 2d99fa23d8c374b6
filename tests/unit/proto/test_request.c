/* A request: its fields by table, its prompt, its bytes. */
#include "wire_test.h"

#include <math.h>

enum {
    ID = 1,
    TEXT,
    CHAT,
    TOKENS,
    MAX_TOKENS,
    SEED,
    TEMPERATURE,
    TOP_K,
    TOP_P,
    MIN_P,
    IGNORE_END,
    STOP,
    STOP_TOKENS,
    MIN_TOKENS = 16,
    LOGIT_BIAS,
    PRIORITY = 27
}; /* consort.proto */

static void random_prompt(source *s, arena *a, proto_request *r) {
    static const char *const texts[] = {"Hello", "", "\xC3\xA9t\xC3\xA9", "\xF0\x9F\x8C\x8D", "a\nb\tc", "<|im_end|>"};
    static const char *const roles[] = {"system", "user", "assistant"};
    r->prompt_kind = (proto_prompt_kind)below(s, 3);
    if (r->prompt_kind == PROTO_PROMPT_TEXT) {
        r->text = texts[2 + below(s, 4)];
        r->text_bytes = strlen(r->text);
    } else if (r->prompt_kind == PROTO_PROMPT_TOKENS) {
        r->n_tokens = 1 + below(s, 3000);
        r->tokens = some32(s, a, r->n_tokens);
    } else {
        r->n_messages = 1 + below(s, below(s, 8) ? 8 : PROTO_MAX_MESSAGES);
        proto_message *m = arena_alloc(a, r->n_messages, sizeof *m);
        assert_non_null(m);
        for (uint32_t i = 0; i < r->n_messages; i++) m[i] = (proto_message){roles[below(s, 3)], texts[below(s, 6)]};
        r->messages = m;
    }
}

static proto_request random_request(source *s, arena *a) {
    proto_request r = proto_request_default();
    random_prompt(s, a, &r);
    if (below(s, 2)) snprintf(r.request_id, sizeof r.request_id, "r-%llu", (unsigned long long)draw(s));
    r.max_tokens = below(s, PROTO_MAX_PROMPT_TOKENS + 1);
    r.has_seed = below(s, 2);
    if (r.has_seed) r.sampling.seed = any64(s);
    r.sampling.temperature = 5 * unit(s);
    r.sampling.top_k = below(s, 1048577);
    r.sampling.top_p = unit(s);
    r.sampling.min_p = unit(s);
    r.sampling.typical_p = unit(s);
    r.sampling.repetition = 0.1f + 9 * unit(s);
    r.sampling.presence = 4 * unit(s) - 2;
    r.sampling.frequency = 4 * unit(s) - 2;
    r.ignore_end = below(s, 2);
    r.n_stops = below(s, PROTO_MAX_STOPS + 1);
    for (uint32_t i = 0; i < r.n_stops; i++) r.stops[i] = below(s, 2) ? "\n\n" : "</code>";
    r.n_stop_tokens = below(s, PROTO_MAX_STOP_TOKENS + 1);
    r.stop_tokens = some32(s, a, r.n_stop_tokens);
    r.min_tokens = below(s, PROTO_MAX_PROMPT_TOKENS + 1);
    r.priority = (int32_t)below(s, 2 * PROTO_MAX_PRIORITY + 1) - PROTO_MAX_PRIORITY;
    r.logprobs = below(s, 2);
    r.hidden_states = below(s, 2);
    r.top_logprobs = below(s, PROTO_MAX_TOP_LOGPROBS + 1);
    r.n_bias = below(s, 2) ? below(s, PROTO_MAX_BIAS + 1) : 0;
    uint32_t *ids = some32(s, a, r.n_bias);
    for (uint32_t i = 0; i < r.n_bias; i++) ids[i] = i * 7 + 1; /* no id twice */
    r.bias_token = ids;
    r.bias = some_bias(s, a, r.n_bias);
    return r;
}

static void assert_same_request(const proto_request *a, const proto_request *b) {
    assert_string_equal(a->request_id, b->request_id);
    assert_int_equal(a->prompt_kind, b->prompt_kind);
    assert_int_equal(a->text_bytes, b->text_bytes);
    if (a->text_bytes) assert_string_equal(a->text, b->text);
    assert_int_equal(a->n_messages, b->n_messages);
    for (uint32_t i = 0; i < a->n_messages; i++) {
        assert_string_equal(a->messages[i].role, b->messages[i].role);
        assert_string_equal(a->messages[i].content, b->messages[i].content);
    }
    assert_same_numbers(a->tokens, a->n_tokens, b->tokens, b->n_tokens);
    assert_int_equal(a->max_tokens, b->max_tokens);
    assert_int_equal(a->has_seed, b->has_seed);
    assert_int_equal(a->ignore_end, b->ignore_end);
    assert_same_sampling(&a->sampling, &b->sampling);
    assert_int_equal(a->n_stops, b->n_stops);
    for (uint32_t i = 0; i < a->n_stops; i++) assert_string_equal(a->stops[i], b->stops[i]);
    assert_same_numbers(a->stop_tokens, a->n_stop_tokens, b->stop_tokens, b->n_stop_tokens);
    assert_int_equal(a->min_tokens, b->min_tokens);
    assert_int_equal(a->priority, b->priority);
    assert_int_equal(a->logprobs, b->logprobs);
    assert_int_equal(a->hidden_states, b->hidden_states);
    assert_int_equal(a->top_logprobs, b->top_logprobs);
    assert_same_numbers(a->bias_token, a->n_bias, b->bias_token, b->n_bias);
    if (a->n_bias) assert_memory_equal(a->bias, b->bias, a->n_bias * sizeof *a->bias);
}

static void a_request_comes_back_as_it_went(void **state) {
    (void)state;
    source s = {1};
    for (int i = 0; i < 150; i++) {
        arena made = arena_for(1 << 16);
        proto_request r = random_request(&s, &made), back;
        proto_bytes b, again;
        st_error e = {0};
        assert_int_equal(proto_request_check(&r, &e), ST_OK);
        assert_int_equal(proto_request_encode(&r, &b), ST_OK);
        arena a = arena_for(b.n);
        if (proto_request_decode(b.bytes, b.n, &a, &back, &e)) fail_msg("%s", e.message);
        assert_same_request(&r, &back);
        assert_int_equal(proto_request_encode(&back, &again), ST_OK);
        assert_int_equal(b.n, again.n);
        assert_memory_equal(b.bytes, again.bytes, b.n);
        proto_bytes_free(&b);
        proto_bytes_free(&again);
        arena_deinit(&a);
        arena_deinit(&made);
    }
}

static st_code decode(const raw_message *m, proto_request *r, st_error *e) {
    static _Alignas(64) uint8_t room[8 << 20];
    arena a = arena_over(room, sizeof room);
    memset(e, 0, sizeof *e);
    st_code code = proto_request_decode(m->bytes, m->n, &a, r, e);
    if (code) assert_int_equal(a.used_bytes, 0);
    return code;
}

/* Takes the message by value: each case adds to the same good one. */
static void assert_refused(raw_message m, const char *expected) {
    proto_request r;
    st_error e;
    assert_int_equal(decode(&m, &r, &e), ST_ERR_INVALID_ARGUMENT);
    assert_int_equal(e.code, ST_ERR_INVALID_ARGUMENT);
    assert_string_equal(e.message, expected);
}

static raw_message good(void) {
    raw_message m = {.n = 0};
    put_bytes(&m, TEXT, "Hi", 2);
    return m;
}

static void an_absent_field_has_its_default(void **state) {
    (void)state;
    raw_message m = good();
    proto_request r, expected = proto_request_default();
    st_error e;
    assert_int_equal(decode(&m, &r, &e), ST_OK);
    expected.text = "Hi";
    expected.text_bytes = 2;
    assert_same_request(&r, &expected);
    assert_true(r.sampling.temperature == 0 && r.sampling.top_p == 1 && r.sampling.min_p == 0);
    assert_false(r.has_seed);
}

static void assert_number(uint32_t field, uint64_t v, const char *expected) {
    raw_message m = good();
    proto_request r;
    st_error e;
    put_number(&m, field, v);
    if (expected)
        assert_refused(m, expected);
    else
        assert_int_equal(decode(&m, &r, &e), ST_OK);
}
static void assert_float(uint32_t field, float v, const char *expected) {
    raw_message m = good();
    proto_request r;
    st_error e;
    put_float(&m, field, v);
    if (expected)
        assert_refused(m, expected);
    else
        assert_int_equal(decode(&m, &r, &e), ST_OK);
}

static void a_number_outside_its_range_is_refused_by_name(void **state) {
    (void)state;
    assert_number(MAX_TOKENS, 0, NULL);
    assert_number(MAX_TOKENS, 1048576, NULL);
    assert_number(MAX_TOKENS, 1048577, "max_tokens: 1048577 is outside 0 .. 1048576");
    assert_number(MAX_TOKENS, UINT32_MAX, "max_tokens: 4.2949673e+09 is outside 0 .. 1048576");
    assert_number(TOP_K, 1048576, NULL);
    assert_number(TOP_K, 1048577, "top_k: 1048577 is outside 0 .. 1048576");
    assert_number(SEED, UINT64_MAX, NULL);
    assert_number(PRIORITY, 16, NULL); /* zigzag: 8, -8, 9, -9, the least there is */
    assert_number(PRIORITY, 15, NULL);
    assert_number(PRIORITY, 18, "priority: 9 is outside -8 .. 8");
    assert_number(PRIORITY, 17, "priority: -9 is outside -8 .. 8");
    assert_number(PRIORITY, UINT32_MAX, "priority: -2.14748365e+09 is outside -8 .. 8");
    assert_float(TEMPERATURE, 0, NULL);
    assert_float(TEMPERATURE, 5, NULL);
    assert_float(TEMPERATURE, 7.5f, "temperature: 7.5 is outside 0 .. 5");
    assert_float(TEMPERATURE, nextafterf(5, 6), "temperature: 5.00000048 is outside 0 .. 5");
    assert_float(TEMPERATURE, -0.5f, "temperature: -0.5 is outside 0 .. 5");
    assert_float(TEMPERATURE, NAN, "temperature: nan is outside 0 .. 5");
    assert_float(TEMPERATURE, INFINITY, "temperature: inf is outside 0 .. 5");
    assert_float(TEMPERATURE, -INFINITY, "temperature: -inf is outside 0 .. 5");
    assert_float(TOP_P, 1, NULL);
    assert_float(TOP_P, 1.5f, "top_p: 1.5 is outside 0 .. 1");
    assert_float(TOP_P, NAN, "top_p: nan is outside 0 .. 1");
    assert_float(MIN_P, 0, NULL);
    assert_float(MIN_P, -1, "min_p: -1 is outside 0 .. 1");
    assert_float(MIN_P, INFINITY, "min_p: inf is outside 0 .. 1");
}

static void every_row_keeps_its_range_as_text(void **state) {
    (void)state;
    arena a = arena_for(1 << 10);
    proto_field f;
    for (size_t i = 0; proto_request_field(i, &f); i++) {
        proto_request r = proto_request_default(), before = r;
        st_error e = {0};
        double low, high;
        if (f.default_text[0]) assert_int_equal(proto_request_set(&r, f.name, f.default_text, &a, &e), ST_OK);
        assert_memory_equal(&r, &before, sizeof r);
        if (sscanf(f.range, "%lf .. %lf", &low, &high) != 2 || strstr(f.range, "bytes") || strstr(f.range, "them")) continue;
        char text[64], want[128];
        snprintf(text, sizeof text, high > 1e18 ? "%.0f" : "%.9g", low);
        assert_int_equal(proto_request_set(&r, f.cli + 2, text, &a, &e), ST_OK);
        if (high < 1e18) {
            snprintf(text, sizeof text, "%.9g", high);
            assert_int_equal(proto_request_set(&r, f.name, text, &a, &e), ST_OK);
            snprintf(text, sizeof text, "%.9g", high + 1);
            assert_int_equal(proto_request_set(&r, f.name, text, &a, &e), ST_ERR_INVALID_ARGUMENT);
            snprintf(want, sizeof want, "%s: %s is outside %s", f.name, text, f.range);
            assert_string_equal(e.message, want);
        }
        static const char *const wrong[] = {"", "x", "3x", "--1", " 1", "0x", "1,2", "99999999999999999999999"};
        for (size_t k = 0; k < sizeof wrong / sizeof wrong[0]; k++) {
            assert_int_equal(proto_request_set(&r, f.name, wrong[k], &a, &e), ST_ERR_INVALID_ARGUMENT);
            assert_memory_equal(e.message, f.name, strlen(f.name));
        }
    }
    arena_deinit(&a);
}

static void put_bias(raw_message *m, uint32_t token, float bias) {
    raw_message item = {.n = 0};
    put_number(&item, 1, token);
    put_float(&item, 2, bias);
    put_bytes(m, LOGIT_BIAS, item.bytes, item.n);
}

static void a_command_line_sets_what_the_wire_sets(void **state) {
    (void)state;
    arena a = arena_for(1 << 10);
    st_error e = {0};
    proto_request r = proto_request_default(), back;
    const char *options[][2] = {{"request-id", "abc"},
                                {"max-tokens", "12"},
                                {"seed", "18446744073709551615"},
                                {"temperature", "0.75"},
                                {"top_k", "40"},
                                {"top-p", "0.5"},
                                {"min-p", "1e-1"},
                                {"ignore-end", ""},
                                {"stop", "\n\n"},
                                {"stop", "\xC3\xA9"},
                                {"stop-tokens", "1,2,4294967295"},
                                {"min-tokens", "3"},
                                {"priority", "-2"},
                                {"logit-bias", "7:-100,4294967295:2.5"}};
    for (size_t i = 0; i < sizeof options / sizeof options[0]; i++)
        if (proto_request_set(&r, options[i][0], options[i][1], &a, &e)) fail_msg("%s", e.message);
    r.text = "Hi";
    r.text_bytes = 2;
    raw_message m = good();
    static const uint8_t ids[] = {1, 2, 0xFF, 0xFF, 0xFF, 0xFF, 0x0F};
    put_bytes(&m, ID, "abc", 3);
    put_number(&m, MAX_TOKENS, 12);
    put_number(&m, SEED, UINT64_MAX);
    put_float(&m, TEMPERATURE, 0.75f);
    put_number(&m, TOP_K, 40);
    put_float(&m, TOP_P, 0.5f);
    put_float(&m, MIN_P, 0.1f);
    put_number(&m, IGNORE_END, 1);
    put_bytes(&m, STOP, "\n\n", 2);
    put_bytes(&m, STOP, "\xC3\xA9", 2);
    put_bytes(&m, STOP_TOKENS, ids, sizeof ids);
    put_number(&m, MIN_TOKENS, 3);
    put_number(&m, PRIORITY, 3); /* zigzag */
    put_bias(&m, 7, -100);
    put_bias(&m, UINT32_MAX, 2.5f);
    arena wire = arena_for(m.n);
    assert_int_equal(proto_request_decode(m.bytes, m.n, &wire, &back, &e), ST_OK);
    assert_same_request(&r, &back);
    arena_deinit(&wire);
    arena_deinit(&a);
}

static void assert_not_set(const char *name, const char *value, const char *expected) {
    arena a = arena_for(1 << 10);
    st_error e = {0};
    proto_request r = proto_request_default(), before = r;
    st_code code = proto_request_set(&r, name, value, &a, &e);
    assert_true(code == ST_ERR_INVALID_ARGUMENT || code == ST_ERR_NOT_FOUND);
    assert_string_equal(e.message, expected);
    assert_memory_equal(&r, &before, sizeof r);
    arena_deinit(&a);
}

static void a_bad_option_is_refused_and_changes_nothing(void **state) {
    (void)state;
    assert_not_set("colour", "1", "colour: no such field of a request");
    assert_not_set("top-", "1", "top-: no such field of a request");
    assert_not_set("temperature", "warm", "temperature: 'warm': expected a number, 0 .. 5");
    assert_not_set("temperature", "nan", "temperature: nan is outside 0 .. 5");
    assert_not_set("max-tokens", "-1", "max_tokens: '-1': expected a whole number, 0 .. 1048576");
    assert_not_set("seed", "18446744073709551616",
                   "seed: '18446744073709551616': expected a whole number, 0 .. 18446744073709551615");
    assert_not_set("ignore-end", "yes", "ignore_end: 'yes': expected true or false");
    assert_not_set("stop", "", "stop[0]: 0 bytes are outside 1 .. 256");
    assert_not_set("stop-tokens", "1,x", "stop_tokens: '1,x': expected token ids, 0 .. 64 of them");
    assert_not_set("min-tokens", "1048577", "min_tokens: 1048577 is outside 0 .. 1048576");
    assert_not_set("priority", "9", "priority: 9 is outside -8 .. 8");
    assert_not_set("priority", "-9", "priority: -9 is outside -8 .. 8");
    static const char *const words[] = {"", "-", "high", "1.5", "+1", "--1", "2147483648", "-2147483649"};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        char expected[96];
        snprintf(expected, sizeof expected, "priority: '%s': expected a whole number, -8 .. 8", words[i]);
        assert_not_set("priority", words[i], expected);
    }
    static const char *const pairs[] = {"5", "5:", ":1", "5:1,", "5:1,6", "5:x", "x:1", "5:1:2", "5: 1", "5:1;6:1"};
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        char expected[96];
        snprintf(expected, sizeof expected, "logit_bias: '%s': expected ID:BIAS pairs, 0 .. 300 of them", pairs[i]);
        assert_not_set("logit-bias", pairs[i], expected);
    }
    assert_not_set("logit-bias", "5:1,6:-101", "logit_bias[1]: -101 is outside -100 .. 100");
    assert_not_set("logit-bias", "5:1,5:2", "logit_bias[1]: token 5 is named twice");
    assert_not_set("request-id", "a b", "request_id: byte 0x20 at 1: expected printable ASCII without spaces");
    assert_not_set("request-id", "0123456789012345678901234567890123456789012345678901234567890123456",
                   "request_id: 67 bytes are outside 0 .. 64");
}

static void a_prompt_is_needed_and_must_be_text(void **state) {
    (void)state;
    raw_message m = {.n = 0};
    assert_refused(m, "prompt: is missing; expected one of text, chat and tokens");
    put_bytes(&m, TEXT, "", 0);
    assert_refused(m, "text: 0 bytes are outside 1 .. 4194304");
    m.n = 0, put_bytes(&m, TEXT, "a\0b", 3);
    assert_refused(m, "text: byte 0x00 at 1 is not allowed: expected text without NUL");
    static const char *const bad[] = {"a\x80", "\xC0\x80", "\xED\xA0\x80", "\xF4\x90\x80\x80", "\xE2\x82", "\xFF"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        char want[96];
        size_t at = bad[i][0] == 'a';
        m.n = 0, put_bytes(&m, TEXT, bad[i], strlen(bad[i]));
        snprintf(want, sizeof want, "text: byte 0x%02x at %zu is not UTF-8", (uint8_t)bad[i][at], at);
        assert_refused(m, want);
    }
    m.n = 0, put_bytes(&m, TOKENS, "", 0);
    assert_refused(m, "tokens.ids: 0 ids are outside 1 .. 1048576");
    m.n = 0, put_bytes(&m, CHAT, "", 0);
    assert_refused(m, "chat.messages: 0 messages are outside 1 .. 1024");
}

static raw_message chat_of(const char *role, size_t n_role, const char *content, size_t n_content) {
    raw_message inner = {.n = 0}, chat = {.n = 0}, m = {.n = 0};
    put_bytes(&inner, 1, role, n_role);
    put_bytes(&inner, 2, content, n_content);
    put_bytes(&chat, 1, inner.bytes, inner.n);
    put_bytes(&m, CHAT, chat.bytes, chat.n);
    return m;
}

static void a_chat_message_is_refused_by_its_index(void **state) {
    (void)state;
    assert_refused(chat_of("", 0, "x", 1), "chat.messages[0].role: is empty; expected \"system\", \"user\" or \"assistant\"");
    assert_refused(chat_of("us er", 5, "x", 1), "chat.messages[0].role: byte 0x20 at 2: expected printable ASCII without spaces");
    assert_refused(chat_of("user", 4, "x\0y", 3),
                   "chat.messages[0].content: byte 0x00 at 1 is not allowed: expected text without NUL");
    assert_refused(chat_of("user", 4, "\xFF", 1), "chat.messages[0].content: byte 0xff at 0 is not UTF-8");
}

static void stops_are_counted_and_measured(void **state) {
    (void)state;
    raw_message m = good();
    proto_request r;
    st_error e;
    char text[257];
    memset(text, 'x', sizeof text);
    for (int i = 0; i < PROTO_MAX_STOPS; i++) put_bytes(&m, STOP, text, 256);
    assert_int_equal(decode(&m, &r, &e), ST_OK);
    put_bytes(&m, STOP, "x", 1);
    assert_refused(m, "stop: 17 is outside 0 .. 16 of them");
    m = good(), put_bytes(&m, STOP, "ok", 2), put_bytes(&m, STOP, text, 257);
    assert_refused(m, "stop[1]: 257 bytes are outside 1 .. 256");
    m = good(), put_bytes(&m, STOP, "", 0);
    assert_refused(m, "stop[0]: 0 bytes are outside 1 .. 256");
    m = good(), put_bytes(&m, STOP, "a\0", 2);
    assert_refused(m, "stop[0]: byte 0x00 at 1 is not allowed: expected text without NUL");
    m = good();
    for (int i = 0; i < PROTO_MAX_STOP_TOKENS; i++) put_number(&m, STOP_TOKENS, 7); /* unpacked is allowed too */
    assert_int_equal(decode(&m, &r, &e), ST_OK);
    put_number(&m, STOP_TOKENS, 7);
    assert_refused(m, "stop_tokens: 65 is outside 0 .. 64 of them");
}

static void biases_are_few_bounded_and_of_different_tokens(void **state) {
    (void)state;
    st_error e = {0};
    raw_message m = good();
    arena a = arena_for(1 << 16);
    proto_request r;
    for (uint32_t i = 0; i < PROTO_MAX_BIAS; i++) put_bias(&m, i, i % 2 ? 100 : -100);
    if (proto_request_decode(m.bytes, m.n, &a, &r, &e)) fail_msg("%s", e.message);
    assert_int_equal(r.n_bias, PROTO_MAX_BIAS);
    assert_true(r.bias_token[299] == 299 && r.bias[299] == 100 && r.bias[298] == -100);
    put_bias(&m, 300, 0);
    assert_refused(m, "logit_bias: 301 is outside 0 .. 300 of them");
    m = good(), put_bias(&m, 5, 1), put_bias(&m, 6, 100.5f);
    assert_refused(m, "logit_bias[1]: 100.5 is outside -100 .. 100");
    m = good(), put_bias(&m, 5, NAN);
    assert_refused(m, "logit_bias[0]: nan is outside -100 .. 100");
    m = good(), put_bias(&m, 5, 1), put_bias(&m, 6, 1), put_bias(&m, 5, 2);
    assert_refused(m, "logit_bias[2]: token 5 is named twice");
    arena_deinit(&a);
}

static void a_request_id_is_one_word(void **state) {
    (void)state;
    raw_message m = good();
    put_bytes(&m, ID, "a\nb", 3);
    assert_refused(m, "request_id: byte 0x0a at 1: expected printable ASCII without spaces");
    m = good(), put_bytes(&m, ID, "a\0b", 3);
    assert_refused(m, "request_id: byte 0x00 at 1: expected printable ASCII without spaces");
    char text[65];
    memset(text, 'x', sizeof text);
    m = good(), put_bytes(&m, ID, text, 65);
    assert_refused(m, "request_id: 65 bytes are outside 0 .. 64");
}

static void a_field_of_the_wrong_wire_type_is_refused_or_ignored(void **state) {
    (void)state;
    for (uint32_t field = ID; field <= STOP_TOKENS; field++) {
        for (uint32_t type = 0; type < 8; type++) {
            raw_message m = good();
            proto_request r;
            st_error e;
            put_varint(&m, field << 3 | type);
            memset(m.bytes + m.n, 1, 16);
            m.n += 16;
            st_code code = decode(&m, &r, &e); /* never a crash; the good ones still are good */
            if (code) assert_int_equal(code, ST_ERR_INVALID_ARGUMENT);
        }
    }
    raw_message m = good();
    put_float(&m, MAX_TOKENS, 1);
    assert_refused(m, "GenerateRequest: 9 bytes are not a protobuf message of this type");
}

static void a_cut_message_is_refused_or_smaller(void **state) {
    (void)state;
    source s = {2};
    for (int i = 0; i < 20; i++) {
        arena made = arena_for(1 << 16);
        proto_request r = random_request(&s, &made), back;
        proto_bytes b;
        st_error e;
        assert_int_equal(proto_request_encode(&r, &b), ST_OK);
        arena a = arena_for(b.n);
        for (size_t n = 0; n < b.n; n += 1 + b.n / 500) {
            uint8_t *exact = malloc(n ? n : 1); /* so that AddressSanitizer sees its end */
            memcpy(exact, b.bytes, n);
            st_code code = proto_request_decode(exact, n, &a, &back, &e);
            assert_true(code == ST_OK || code == ST_ERR_INVALID_ARGUMENT);
            arena_reset(&a, 0);
            free(exact);
        }
        proto_bytes_free(&b);
        arena_deinit(&a);
        arena_deinit(&made);
    }
}

/* 2 wire bytes each that would be 60 and more in memory. */
static void many_small_parts_do_not_become_large(void **state) {
    (void)state;
    enum { N = 4 << 20 };
    uint8_t *bytes = malloc(N + 8);
    raw_message head = {.n = 0};
    put_varint(&head, CHAT << 3 | 2);
    put_varint(&head, N);
    memcpy(bytes, head.bytes, head.n);
    for (size_t i = 0; i < N; i += 2) bytes[head.n + i] = 1 << 3 | 2, bytes[head.n + i + 1] = 0;
    arena a = arena_for(N + head.n);
    assert_true(a.size_bytes < 24 << 20);
    proto_request r;
    st_error e;
    assert_int_equal(proto_request_decode(bytes, N + head.n, &a, &r, &e), ST_ERR_INVALID_ARGUMENT);
    assert_non_null(strstr(e.message, "GenerateRequest: the parts of its 4194309 bytes need more than"));
    assert_int_equal(a.used_bytes, 0);
    for (size_t i = 0; i < N; i += 2) bytes[i] = STOP << 3 | 2, bytes[i + 1] = 0;
    assert_int_equal(proto_request_decode(bytes, N, &a, &r, &e), ST_ERR_INVALID_ARGUMENT);
    for (size_t i = 0; i < N; i += 2) bytes[i] = STOP_TOKENS << 3, bytes[i + 1] = 1;
    assert_int_equal(proto_request_decode(bytes, N, &a, &r, &e), ST_ERR_INVALID_ARGUMENT);
    arena_deinit(&a);
    free(bytes);
}

static void the_largest_prompts_fit_and_one_more_does_not(void **state) {
    (void)state;
    proto_request r = proto_request_default(), back;
    uint32_t *ids = calloc(PROTO_MAX_PROMPT_TOKENS + 1, sizeof *ids);
    char *text = calloc(PROTO_MAX_PROMPT_BYTES + 2, 1);
    memset(text, 'x', PROTO_MAX_PROMPT_BYTES + 1);
    for (uint32_t more = 0; more < 2; more++) {
        for (int kind = 0; kind < 2; kind++) {
            proto_bytes b;
            st_error e;
            r.prompt_kind = kind ? PROTO_PROMPT_TOKENS : PROTO_PROMPT_TEXT;
            r.text = text, r.text_bytes = PROTO_MAX_PROMPT_BYTES + more;
            r.tokens = ids, r.n_tokens = PROTO_MAX_PROMPT_TOKENS + more;
            assert_int_equal(proto_request_encode(&r, &b), ST_OK);
            arena a = arena_for(b.n);
            assert_int_equal(proto_request_decode(b.bytes, b.n, &a, &back, &e), more ? ST_ERR_INVALID_ARGUMENT : ST_OK);
            if (more)
                assert_string_equal(e.message, kind ? "tokens.ids: 1048577 ids are outside 1 .. 1048576"
                                                    : "text: 4194305 bytes are outside 1 .. 4194304");
            arena_deinit(&a);
            proto_bytes_free(&b);
        }
    }
    free(ids);
    free(text);
}

static void encoding_survives_each_failing_allocation(void **state) {
    (void)state;
    source s = {3};
    arena made = arena_for(1 << 16);
    proto_request r = random_request(&s, &made);
    while (r.prompt_kind != PROTO_PROMPT_CHAT) r = random_request(&s, &made);
    st_code code = ST_FATAL_MEMORY;
    uint64_t n = 0;
    while (code) {
        proto_bytes b = {0};
        mem_fail_at(++n);
        code = proto_request_encode(&r, &b);
        assert_true(code == ST_OK || (code == ST_FATAL_MEMORY && !b.bytes));
        proto_bytes_free(&b);
    }
    mem_fail_at(0);
    assert_int_equal(n, 4); /* messages, list, bytes; the fourth run is the good one */
    arena_deinit(&made);
}

static void the_descriptor_set_holds_the_services(void **state) {
    (void)state;
    size_t n;
    const uint8_t *set = proto_descriptor_set(&n);
    assert_true(n > 1000);
    assert_non_null(memmem(set, n, "consort.proto", 13));
    assert_non_null(memmem(set, n, "Inference", 9));
    assert_non_null(memmem(set, n, "Admin", 5));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_request_comes_back_as_it_went),
        cmocka_unit_test(an_absent_field_has_its_default),
        cmocka_unit_test(a_number_outside_its_range_is_refused_by_name),
        cmocka_unit_test(every_row_keeps_its_range_as_text),
        cmocka_unit_test(a_command_line_sets_what_the_wire_sets),
        cmocka_unit_test(a_bad_option_is_refused_and_changes_nothing),
        cmocka_unit_test(a_prompt_is_needed_and_must_be_text),
        cmocka_unit_test(a_chat_message_is_refused_by_its_index),
        cmocka_unit_test(stops_are_counted_and_measured),
        cmocka_unit_test(biases_are_few_bounded_and_of_different_tokens),
        cmocka_unit_test(a_request_id_is_one_word),
        cmocka_unit_test(a_field_of_the_wrong_wire_type_is_refused_or_ignored),
        cmocka_unit_test(a_cut_message_is_refused_or_smaller),
        cmocka_unit_test(many_small_parts_do_not_become_large),
        cmocka_unit_test(the_largest_prompts_fit_and_one_more_does_not),
        cmocka_unit_test(encoding_survives_each_failing_allocation),
        cmocka_unit_test(the_descriptor_set_holds_the_services),
    };
    return cmocka_run_group_tests_name("proto_request", tests, NULL, NULL);
}
