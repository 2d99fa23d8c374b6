/* consort chat: a conversation, line by line; the history goes along with each request. */
#include "client/request.h"

#include "base/mem.h"
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

typedef struct {
    proto_message items[PROTO_MAX_MESSAGES]; /* contents owned */
    uint32_t n;
} history;

static st_code remember(history *h, const char *role, const char *text, size_t n, st_error *e) {
    if (memchr(text, 0, n)) return st_fail(e, ST_ERR_INVALID_ARGUMENT, "a message with a NUL byte is not text");
    char *copy = h->n < PROTO_MAX_MESSAGES ? mem_text(text, n) : NULL;
    if (!copy)
        return st_fail(e, ST_ERR_RESOURCE_EXHAUSTED, "the conversation has %d messages: start a new one", PROTO_MAX_MESSAGES);
    h->items[h->n++] = (proto_message){role, copy};
    return ST_OK;
}

static void forget(history *h, uint32_t n) {
    while (h->n > n) mem_free((char *)(uintptr_t)h->items[--h->n].content);
}

/* One turn; on failure the history is as before. */
static st_code turn(const char *server, client_request *q, history *h, const char *line, size_t n, st_error *e) {
    client_rpc *rpc = NULL;
    client_result r = {.show = true};
    uint32_t before = h->n;
    st_code code = remember(h, "user", line, n, e);
    q->request.prompt_kind = PROTO_PROMPT_CHAT;
    q->request.messages = h->items;
    q->request.n_messages = h->n;
    if (!code) code = client_rpc_open(server, &rpc, e);
    if (!code) code = client_generate_call(rpc, &q->request, 0, &r, e);
    if (!code) code = remember(h, "assistant", r.text ? r.text : "", r.n_text, e);
    if (code) forget(h, before);
    if (r.n_text) putchar('\n');
    client_rpc_close(rpc);
    client_result_deinit(&r);
    return code;
}

static int converse(const char *verb, const char *server, client_request *q, history *h) {
    char *line = NULL;
    size_t room = 0;
    bool terminal = isatty(STDIN_FILENO);
    int rc = CLIENT_OK;
    for (;;) {
        if (terminal) fputs("> ", stderr);
        ssize_t n = getline(&line, &room, stdin);
        if (n < 0) break;
        if (n && line[n - 1] == '\n') line[--n] = 0;
        if (!n) continue;
        st_error e = {0};
        if (!turn(server, q, h, line, (size_t)n, &e)) continue;
        int failed = client_fail(verb, &e);
        if (terminal) continue; /* a person sees it and may try again */
        rc = failed;
        break;
    }
    free(line); /* getline's own */
    return rc;
}

int client_chat(int argc, char **argv) {
    const char *server = client_server(), *system = NULL;
    client_request q;
    history *h = mem_alloc(1, sizeof *h);
    client_option table[CLIENT_MAX_OPTIONS + 2] = {
        CLIENT_SERVER_OPTION(server),
        {"--system", CLIENT_TEXT, &system, "TEXT", "a system message before all; default: the model's own", false},
    };
    size_t n = 2;
    st_error e = {0};
    st_code code = client_request_init(&q, &e);
    if (!code && !h) code = st_fail(&e, ST_FATAL_MEMORY, "out of memory");
    if (!code) client_request_options(&q, table, &n);
    int rc = code ? client_fail(argv[0], &e)
                  : client_options(argc, argv,
                                   "A conversation: each line of standard input is a message; an empty end of input ends it.",
                                   table, n);
    if (rc == CLIENT_GO_ON && q.request.n_choices != 1) {
        fprintf(stderr, "consort chat: --n %u: a conversation goes on from one answer\n", q.request.n_choices);
        rc = CLIENT_USAGE;
    }
    if (rc == CLIENT_GO_ON && system && remember(h, "system", system, strlen(system), &e)) rc = client_fail(argv[0], &e);
    if (rc == CLIENT_GO_ON) rc = converse(argv[0], server, &q, h);
    if (h) forget(h, 0);
    mem_free(h);
    client_request_deinit(&q);
    return rc;
}
