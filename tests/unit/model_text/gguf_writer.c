#include "tests/unit/model_text/gguf_writer.h"

#include <stdio.h>
#include <string.h>

const char *const wv_merges[WV_N_MERGES] = {"h e",     "l l", "he ll", "hell o", "Ġ w",       "o r", "Ġw or", "l d",
                                            "Ġwor ld", "o w", "a a",   "aa aa",  "aaaa aaaa", "' s", "Ġ Ġ",   "ĠĠ ĠĠ",
                                            "Ċ Ċ",     "Ã ©", "ð Ł",   "ðŁ ĺ",   "b c",       "a b", "bc d",  "a bc"};

void w_bytes(gguf *g, const void *bytes, size_t n) {
    INVARIANT(n <= GGUF_ROOM - g->n);
    if (n) memcpy(g->bytes + g->n, bytes, n);
    g->n += n;
}

void w_u8(gguf *g, uint8_t v) { w_bytes(g, &v, sizeof v); }
void w_u32(gguf *g, uint32_t v) { w_bytes(g, &v, sizeof v); }
void w_u64(gguf *g, uint64_t v) { w_bytes(g, &v, sizeof v); }

void w_text(gguf *g, const char *text) {
    w_u64(g, strlen(text));
    w_bytes(g, text, strlen(text));
}

void w_header(gguf *g, uint32_t version, uint64_t n_tensors, uint64_t n_keys) {
    w_bytes(g, "GGUF", 4);
    w_u32(g, version);
    w_u64(g, n_tensors);
    w_u64(g, n_keys);
}

void w_key(gguf *g, const char *name, model_value_type type) {
    w_text(g, name);
    w_u32(g, type);
}

void w_array(gguf *g, const char *name, model_value_type type, uint64_t n) {
    w_key(g, name, MODEL_ARRAY);
    w_u32(g, type);
    w_u64(g, n);
}

void w_key_text(gguf *g, const char *name, const char *text) {
    w_key(g, name, MODEL_STRING);
    w_text(g, text);
}

void w_key_u32(gguf *g, const char *name, uint32_t v) {
    w_key(g, name, MODEL_U32);
    w_u32(g, v);
}

void w_tensor(gguf *g, const char *name, uint32_t n_dims, const uint64_t *dims, uint32_t ggml_type, uint64_t offset) {
    w_text(g, name);
    w_u32(g, n_dims);
    for (uint32_t d = 0; d < n_dims; d++) w_u64(g, dims[d]);
    w_u32(g, ggml_type);
    w_u64(g, offset);
}

void w_pad(gguf *g, size_t align, size_t then_zeros) {
    while (g->n % align) w_u8(g, 0);
    while (then_zeros--) w_u8(g, 0);
}

/* GPT-2's character for a byte, as UTF-8 (all are below U+0144). */
static void byte_text(int byte, char out[3]) {
    int c = byte, next = 256;
    for (int b = 0; b <= byte; b++) {
        bool printable = (b >= '!' && b <= '~') || (b >= 0xa1 && b <= 0xac) || b >= 0xae;
        c = printable ? b : next++;
    }
    snprintf(out, 3, c < 128 ? "%c" : "%c%c", c < 128 ? c : 0xc0 | c >> 6, 0x80 | (c & 63));
}

static void write_tokens(gguf *g, const wv_options *o) {
    w_array(g, "tokenizer.ggml.tokens", MODEL_STRING, WV_N);
    /* The last is user-defined, and longer than a control token that starts it. */
    static const char *const special[] = {"<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|im_start|>x"};
    for (int i = 0; i < 4; i++) w_text(g, o->special[i] ? o->special[i] : special[i]);
    for (int byte = 0; byte < 256; byte++) {
        char text[3];
        byte_text(byte, text);
        w_text(g, text);
    }
    for (int i = 0; i < WV_N_MERGES; i++) {
        char text[64];
        const char *space = strchr(wv_merges[i], ' ');
        snprintf(text, sizeof text, "%.*s%s", (int)(space - wv_merges[i]), wv_merges[i], space + 1);
        w_text(g, i == WV_N_MERGES - 1 && o->last_token ? o->last_token : text);
    }
}

void w_vocabulary(gguf *g, const wv_options *o) {
    const uint32_t n_types = o->n_types ? o->n_types : WV_N;
    w_header(g, 3, 0, UINT64_C(6) + (o->chat_template != NULL) + (o->true_flag != NULL));
    w_key_text(g, "tokenizer.ggml.model", o->model ? o->model : "gpt2");
    w_key_text(g, "tokenizer.ggml.pre", o->pre ? o->pre : "smollm");
    write_tokens(g, o);
    w_array(g, "tokenizer.ggml.token_type", MODEL_I32, n_types);
    for (uint32_t i = 0; i < n_types; i++)
        w_u32(g, i == 0 && o->first_type ? (uint32_t)o->first_type : i < WV_USER ? 3 : i == WV_USER ? 4 : 1);
    w_array(g, "tokenizer.ggml.merges", MODEL_STRING, WV_N_MERGES);
    for (int i = 0; i < WV_N_MERGES; i++) w_text(g, i == WV_N_MERGES - 1 && o->last_merge ? o->last_merge : wv_merges[i]);
    w_key_u32(g, "tokenizer.ggml.eos_token_id", o->end_id ? o->end_id : WV_END);
    if (o->chat_template) w_key_text(g, "tokenizer.chat_template", o->chat_template);
    if (o->true_flag) {
        w_key(g, o->true_flag, MODEL_BOOL);
        w_u8(g, 1);
    }
}
