/* Chat messages to ids, by templates that we know by marks in their text.
 *
 * What: a row of templates.def says how each role's message is written. A pattern is put together in a buffer; where a control
 * token stands in it, what the buffer holds is tokenized as plain text and the token's id is put behind it.
 *
 * Road not taken: a Jinja interpreter. It would run a program from the model file for each request (reliability.md, part 2:
 * nesting, range bombs), and it joins text first, so that a message may forge control tokens. Here control tokens are put in as
 * ids, and what people write is only ever tokenized as plain text.
 *
 * Limits: a template that fits no row is refused; a topology can name one, and clients can still send text or ids. What a program
 * does beyond messages (tools, documents, dates of today) is not done. */
#include "base/mem.h"
#include "model/text_int.h"
#include <stdio.h>
#include <string.h>

/* In patterns. */
#define BOS     "\1"
#define EOS     "\2"
#define CONTENT "\3"
#define ROLE    "\4"

enum { STRIP = 1, SYSTEM_FIRST = 2, SYSTEM_LAST = 4, TOKENS = 8, MAX_MARKS = 6 };

struct model_template {
    const char *name, *marks[MAX_MARKS];
    unsigned flags;
    const char *system, *user, *assistant, *answer, *default_system;
};

static const model_template table[] = {
#define MARKS(...)                                                                                                               \
    { __VA_ARGS__ }
#define TEMPLATE(name, marks, flags, system, user, assistant, answer, default_system)                                            \
    {name, marks, flags, system, user, assistant, answer, default_system},
#include "model/templates.def"
#undef TEMPLATE
#undef MARKS
};

static const char template_names[] =
#define TEMPLATE(name, ...) name " "
#include "model/templates.def"
#undef TEMPLATE
    ;

static const char *const roles[] = {"system", "user", "assistant", "tool"};
enum { SYSTEM, USER, ASSISTANT, TOOL, N_ROLES };

static bool fits(const model_template *row, model_string text) {
    for (int i = 0; i < MAX_MARKS && row->marks[i]; i++) {
        bool absent = row->marks[i][0] == '!';
        const char *mark = row->marks[i] + absent;
        if ((memmem(text.bytes, text.size, mark, strlen(mark)) == NULL) != absent) return false;
    }
    return true;
}

const model_template *model_template_find(model_string text) {
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if (fits(&table[i], text)) return &table[i];
    return NULL;
}

const char *model_chat_template(const model_tokenizer *t) { return t->chat ? t->chat->name : NULL; }

st_code model_chat_template_set(model_tokenizer *t, const char *name, st_error *e) {
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if (!strcmp(table[i].name, name)) return t->chat = &table[i], ST_OK;
    return st_fail(e, ST_ERR_INVALID_ARGUMENT, "chat template '%.40s': expected one of: %s", name, template_names);
}

static int role_of(const model_message *m) {
    int role = 0;
    while (role < N_ROLES && strcmp(roles[role], m->role)) role++;
    return role;
}

static const char *pattern_of(const model_template *row, int role) {
    const char *const patterns[N_ROLES] = {row->system, row->user, row->assistant, row->user};
    return role == TOOL && !strstr(row->user, ROLE) ? NULL : patterns[role];
}

static bool within_user(const model_template *row) { return row->flags & (SYSTEM_FIRST | SYSTEM_LAST); }

static st_code check_messages(const model_template *row, const model_message *messages, size_t n, st_error *e) {
    bool user = false;
    if (!n) return st_fail(e, ST_ERR_INVALID_ARGUMENT, "messages: expected at least one");
    for (size_t i = 0; i < n; i++) {
        int role = role_of(&messages[i]);
        if (role == N_ROLES)
            return st_fail(e, ST_ERR_INVALID_ARGUMENT,
                           "messages[%zu].role: expected system, user, assistant or tool, found '%.40s'", i, messages[i].role);
        if (row && !pattern_of(row, role))
            return st_fail(e, ST_ERR_INVALID_ARGUMENT, "messages[%zu].role: the chat template %s has no role '%s'", i, row->name,
                           roles[role]);
        if (row && within_user(row) && role == SYSTEM && i)
            return st_fail(e, ST_ERR_INVALID_ARGUMENT,
                           "messages[%zu].role: the chat template %s takes a system message first only", i, row->name);
        user |= role == USER;
    }
    if (row && within_user(row) && !user)
        return st_fail(e, ST_ERR_INVALID_ARGUMENT, "messages: the chat template %s needs a message of the user", row->name);
    return ST_OK;
}

typedef struct {
    const model_tokenizer *t;
    const model_template *row;
    model_id_list ids;
    char *text; /* [room] plain text that is not tokenized yet */
    size_t n, room;
    const char *system; /* to go within a message of the user, or NULL */
    st_error *e;
} chat;

static st_code failed(chat *c, st_code code) {
    if (code == ST_ERR_INVALID_ARGUMENT) return st_fail(c->e, code, "the messages have more than %zu tokens", c->ids.max);
    return code ? st_fail(c->e, code, "out of memory") : ST_OK;
}

/* What waits is one piece of text to the merges. */
static st_code flush(chat *c) {
    st_code code = c->n ? model_tokenize_append(c->t, c->text, c->n, false, &c->ids, c->e) : ST_OK;
    c->n = 0;
    return code;
}

static st_code put_id(chat *c, uint32_t id) {
    st_code code = flush(c);
    return code ? code : failed(c, model_id_list_push(&c->ids, id));
}

/* The BOS of the first message is there already. */
static st_code put_bos(chat *c) {
    st_code code = flush(c);
    bool there = c->ids.n && c->ids.ids[c->ids.n - 1] == c->t->bos_id;
    return code || there || c->t->bos_id == MODEL_NO_ID ? code : put_id(c, c->t->bos_id);
}

static st_code put_text(chat *c, const char *text, size_t n) {
    if (!n) return ST_OK;
    if (n > c->room - c->n) {
        size_t room = 2 * (c->n + n);
        char *grown = mem_resize(c->text, c->room, room, 1);
        if (!grown) return failed(c, ST_FATAL_MEMORY);
        c->text = grown;
        c->room = room;
    }
    memcpy(c->text + c->n, text, n);
    c->n += n;
    return ST_OK;
}

static bool is_space(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

static st_code put_content(chat *c, const char *text) {
    size_t n = strlen(text);
    while (c->row->flags & STRIP && n && is_space(*text)) text++, n--;
    while (c->row->flags & STRIP && n && is_space(text[n - 1])) n--;
    return put_text(c, text, n);
}

/* One token or character of a pattern. */
static st_code put_literal(chat *c, const char **pattern) {
    const char *end = **pattern == '<' || **pattern == '[' ? strchr(*pattern, **pattern == '<' ? '>' : ']') : NULL;
    char name[32];
    uint32_t id = MODEL_NO_ID;
    if (end && (size_t)(end + 1 - *pattern) < sizeof name) {
        snprintf(name, sizeof name, "%.*s", (int)(end + 1 - *pattern), *pattern);
        id = model_special_id(c->t, name);
        if (id == MODEL_NO_ID && c->row->flags & TOKENS)
            return st_fail(c->e, ST_ERR_UNSUPPORTED, "chat template %s: the vocabulary has no control token %s", c->row->name,
                           name);
    }
    st_code code = id == MODEL_NO_ID ? put_text(c, *pattern, 1) : put_id(c, id);
    *pattern = id == MODEL_NO_ID ? *pattern + 1 : end + 1;
    return code;
}

static st_code put_pattern(chat *c, const char *pattern, const char *role, const char *system, const char *content) {
    st_code code = ST_OK;
    while (*pattern && !code) switch (*pattern) {
        case '\1': code = put_bos(c), pattern++; break;
        case '\2': code = c->t->eos_id == MODEL_NO_ID ? ST_OK : put_id(c, c->t->eos_id), pattern++; break;
        case '\4': code = put_text(c, role, strlen(role)), pattern++; break;
        case '\3':
            if (system) code = put_pattern(c, c->row->system, "system", NULL, system);
            if (!code) code = put_content(c, content);
            pattern++;
            break;
        default: code = put_literal(c, &pattern); break;
        }
    return code;
}

/* The user's message that holds the system message. */
static size_t holder_of(const model_template *row, const model_message *messages, size_t n) {
    size_t found = n;
    for (size_t i = 0; i < n; i++)
        if (role_of(&messages[i]) == USER && (found == n || row->flags & SYSTEM_LAST)) found = i;
    return found;
}

static st_code put_messages(chat *c, const model_message *messages, size_t n) {
    const model_template *row = c->row;
    const bool own = role_of(&messages[0]) == SYSTEM;
    const char *system = own ? messages[0].content : row->default_system;
    const size_t holder = within_user(row) && system ? holder_of(row, messages, n) : n;
    st_code code = c->t->bos != MODEL_NO_ID ? put_bos(c) : ST_OK;
    if (!code && !own && system) code = put_pattern(c, row->system, "system", NULL, system);
    for (size_t i = 0; i < n && !code; i++) {
        const int role = role_of(&messages[i]);
        if (role == SYSTEM && within_user(row)) continue;
        code = put_pattern(c, pattern_of(row, role), roles[role], i == holder ? system : NULL, messages[i].content);
    }
    if (!code) code = put_pattern(c, row->answer, "assistant", NULL, "");
    return code ? code : flush(c);
}

st_code model_chat_tokenize(const model_tokenizer *t, const model_message *messages, size_t n, size_t max_ids, model_ids *out,
                            st_error *e) {
    st_code code = check_messages(t->chat, messages, n, e);
    if (code) return code;
    if (!t->chat)
        return st_fail(
            e, ST_ERR_UNSUPPORTED,
            "the model file has no chat template that Consort knows; name one with chat_template: in the topology (%s), "
            "or send a prompt as text or as ids",
            template_names);
    chat c = {.t = t, .row = t->chat, .ids = {.max = max_ids}, .e = e};
    code = put_messages(&c, messages, n);
    mem_free(c.text);
    if (code)
        mem_free(c.ids.ids);
    else
        *out = (model_ids){.ids = c.ids.ids, .n = c.ids.n};
    return code;
}
