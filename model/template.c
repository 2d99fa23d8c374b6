/* Chat messages to ids, by templates that we know by their exact text.
 *
 * Road not taken: a Jinja interpreter. It would run a program from the model file for each request (reliability.md, part 2:
 * nesting, range bombs), and it joins text first, so that a message may forge control tokens. Here control tokens are put in as
 * ids, and what people write is only ever tokenized as plain text.
 *
 * Limits: a template that is not in templates.def is refused; clients can still send text or ids. */
#include "base/mem.h"
#include "model/text_int.h"
#include <string.h>

struct model_template {
    const char *name, *default_system, *text;
};

static const model_template table[] = {
#define TEMPLATE(name, default_system, text) {name, default_system, text},
#include "model/templates.def"
#undef TEMPLATE
};

static const char *const roles[] = {"system", "user", "assistant", "tool"};

/* Converters write the line ends inside Jinja's literals either as they are or as backslash n; both mean the same. */
static bool same_template(const char *known, model_string text) {
    uint64_t i = 0;
    for (; *known && i < text.size; known++, i++) {
        bool escaped = *known == '\n' && text.size - i >= 2 && text.bytes[i] == '\\' && text.bytes[i + 1] == 'n';
        if (escaped)
            i++;
        else if (*known != text.bytes[i])
            return false;
    }
    return !*known && i == text.size;
}

const model_template *model_template_find(model_string text) {
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if (same_template(table[i].text, text)) return &table[i];
    return NULL;
}

static st_code check_messages(const model_message *messages, size_t n, st_error *e) {
    if (!n) return st_fail(e, ST_ERR_INVALID_ARGUMENT, "messages: expected at least one");
    for (size_t i = 0; i < n; i++) {
        size_t role = 0;
        while (role < sizeof roles / sizeof *roles && strcmp(roles[role], messages[i].role)) role++;
        if (role == sizeof roles / sizeof *roles)
            return st_fail(e, ST_ERR_INVALID_ARGUMENT,
                           "messages[%zu].role: expected system, user, assistant or tool, found '%.40s'", i, messages[i].role);
    }
    return ST_OK;
}

typedef struct {
    const model_tokenizer *t;
    uint32_t open, close; /* <|im_start|>, <|im_end|> */
    model_id_list ids;
    st_error *e;
} chat;

static st_code put_id(chat *c, uint32_t id) {
    st_code code = model_id_list_push(&c->ids, id);
    if (code == ST_ERR_INVALID_ARGUMENT) return st_fail(c->e, code, "the messages have more than %zu tokens", c->ids.max);
    return code ? st_fail(c->e, code, "out of memory") : ST_OK;
}

static st_code put_text(chat *c, const char *text, size_t size) {
    return model_tokenize_append(c->t, text, size, false, &c->ids, c->e);
}

/* Role, line end and content are one piece of text to the merges. */
static st_code put_message(chat *c, const char *role, const char *content) {
    const size_t n_role = strlen(role), n_content = strlen(content), n = n_role + 1 + n_content;
    char *text = mem_alloc(n, 1);
    if (!text) return st_fail(c->e, ST_FATAL_MEMORY, "out of memory");
    memcpy(text, role, n_role);
    text[n_role] = '\n';
    memcpy(text + n_role + 1, content, n_content);
    st_code code = put_id(c, c->open);
    if (!code) code = put_text(c, text, n);
    if (!code) code = put_id(c, c->close);
    if (!code) code = put_text(c, "\n", 1);
    mem_free(text);
    return code;
}

st_code model_chat_tokenize(const model_tokenizer *t, const model_message *messages, size_t n, size_t max_ids, model_ids *out,
                            st_error *e) {
    st_code code = check_messages(messages, n, e);
    if (code) return code;
    if (!t->chat)
        return st_fail(
            e, ST_ERR_UNSUPPORTED,
            "the model file has no chat template that Consort knows (model/templates.def); send a prompt as text or as ids");
    chat c = {.t = t, .open = model_special_id(t, "<|im_start|>"), .close = model_special_id(t, "<|im_end|>"), .e = e};
    c.ids.max = max_ids;
    if (c.open == MODEL_NO_ID || c.close == MODEL_NO_ID)
        return st_fail(e, ST_ERR_UNSUPPORTED,
                       "chat template %s: the vocabulary has no control tokens <|im_start|> and <|im_end|>", t->chat->name);
    if (t->chat->default_system && strcmp(messages[0].role, "system")) code = put_message(&c, "system", t->chat->default_system);
    for (size_t i = 0; i < n && !code; i++) code = put_message(&c, messages[i].role, messages[i].content);
    if (!code) code = put_id(&c, c.open);
    if (!code) code = put_text(&c, "assistant\n", strlen("assistant\n"));
    if (code)
        mem_free(c.ids.ids);
    else
        *out = (model_ids){.ids = c.ids.ids, .n = c.ids.n};
    return code;
}
