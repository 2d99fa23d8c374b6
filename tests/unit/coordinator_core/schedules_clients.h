/* The clients of random schedules: what they ask, and what each gets alone. */
#ifndef CONSORT_TESTS_SCHEDULES_CLIENTS_H
#define CONSORT_TESTS_SCHEDULES_CLIENTS_H

#include "tests/unit/coordinator_core/schedules.h"

#define SECOND UINT64_C(1000000000)

static inline void answer_alone(client *c) {
    uint32_t *tokens = c->text, n = c->n_prompt;
    memcpy(tokens, c->prompt, n * sizeof *tokens);
    c->alone_finish = SCHED_FINISH_LENGTH;
    while (n < CONTEXT && (c->max_tokens == 0 || c->n_alone < c->max_tokens)) {
        uint32_t t = tokens[n] = next_token(tokens, n);
        n++;
        for (uint32_t e = 0; e < c->n_ends; e++)
            if (t == c->ends[e]) {
                c->alone_finish = SCHED_FINISH_STOP;
                return;
            }
        c->alone[c->n_alone++] = t;
    }
}

/* What another client asked and was told, or a part of it. */
static inline uint32_t quote(world *w, client *c) {
    const client *from = &w->clients[draw(w, w->n_sent)];
    memcpy(c->prompt, from->text, sizeof c->prompt);
    return draw(w, 2) ? from->n_prompt : draw(w, from->n_prompt + from->n_alone + 1);
}

/* Of a world in a hurry: long past, far behind what a priority is worth, around it, or none that could be reached. */
static inline uint64_t draw_deadline(world *w) {
    switch (draw(w, 8)) {
    case 0: return 1;
    case 1: return UINT64_MAX;
    case 2: return w->now_ns + draw(w, 401) * SECOND;
    default: return w->now_ns + draw(w, 41) * SECOND;
    }
}

static inline void invent(world *w, client *c) {
    uint32_t n_quoted = w->quotes && draw(w, 3) ? quote(w, c) : 0;
    c->n_prompt = draw(w, 6) == 0 ? draw(w, CONTEXT + 8) : draw(w, w->limits.max_moves % 2 ? 100 : 40);
    if (c->n_prompt < n_quoted) c->n_prompt = n_quoted;
    for (uint32_t i = n_quoted; i < c->n_prompt; i++) c->prompt[i] = draw(w, VOCABULARY);
    c->salt = w->quotes && draw(w, 4) == 0;
    c->max_tokens = draw(w, 8) == 0 ? 0 : 1 + draw(w, w->answers);
    c->n_ends = draw(w, 4);
    for (uint32_t i = 0; i < c->n_ends; i++) c->ends[i] = draw(w, VOCABULARY);
    static const char *const policies[] = {
        "", "none", "lookup", "all", "hedge", "cosine", "round-robin", "fixed:lookup", "fixed:a", "fixed:b", "fixed:c"};
    c->speculation = policies[draw(w, 8 + w->limits.n_drafters)];
    if (draw(w, 5) == 0) c->deadline_ns = w->hurries ? draw_deadline(w) : w->now_ns + draw(w, 3000);
    if (w->priorities) c->priority = (int32_t)draw(w, 2 * PROTO_MAX_PRIORITY + 1) - PROTO_MAX_PRIORITY;
    c->wants_hidden = draw(w, 4) == 0;
    answer_alone(c);
}

#endif
