/* Transcripts: each tests/script/sched_*.txt is a conversation with the scheduler. A line at the margin is an event, the
 * indented lines under it are the actions that must come out. CONSORT_REWRITE=1 (or --rewrite) writes the indented lines anew
 * instead of comparing; read the difference before you commit it.
 *
 *     limits max_batch=4 ...                          a new scheduler; what is not named keeps its default
 *                                                     drafter_blocks=2,0: KV blocks of each drafter; of those not named 0
 *     [@TIME] up [G] | down [G] | empty G | fill G | drain | timer | stats
 *                                                     G: a group, from 0, also behind a plan or a result ("result@1"),
 *                                                     where there are several (limits n_groups=2); "groups" tells of each
 *     [@TIME] moved MOVE [CODE] [took=N]              as in: moved 1 ERR_UNAVAILABLE; without: ST_OK
 *     [@TIME] drafter-up N | drafter-down N           numbered from 0; their names are a, b, c, d
 *     [@TIME] request SEQ prompt=N [from=N] [salt=N] [max=N] [end=ID,ID] [deadline=TIME] [priority=N] [speculation=POLICY]
 *                                                     prompts are parts of one text, from its beginning or from token N on
 *     [@TIME] cancel SEQ CODE FINISH                  as in: cancel 3 ERR_CANCELLED cancelled
 *     [@TIME] result PLAN ITEM...                     ITEM: SEQ:TOKEN,TOKEN or SEQ: (none) or SEQ!LAYER (not finite)
 *     [@TIME] drafts N PLAN ITEM...                   ITEM: SEQ:TOKEN,TOKEN or SEQ: or SEQ!; each token follows the one before,
 * 7^ begins anew at the root, 7^0 follows the first; 7%60 is believed by 0.6, others by 1; =N behind
 *                                                     them: so many of the tokens that it was told were its own choice
 */
#include "base/mem.h"
#include "coordinator/coordinator_core.h"

#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static bool rewriting;
static const char *const folder = "tests/script";
static const char *const names_of_drafters[] = {"a", "b", "c", "d"};
static const char *const finishes[] = {"none", "stop", "length", "cancelled", "error"};

enum { TEXT_BYTES = 1 << 16, MAX_WORDS = 64, MAX_REQUESTS_OF_A_SCRIPT = 256 };

typedef struct {
    char bytes[TEXT_BYTES];
    size_t n;
} text;

typedef struct {
    const char *file;
    int line;
    uint64_t now_ns;
    void *memory;
    sched *s;
    uint32_t prompt[4096];
    uint32_t ends[MAX_REQUESTS_OF_A_SCRIPT][8]; /* the scheduler keeps views of them */
    uint32_t n_requests, n_drafters, n_groups;
} script;

static void say(text *t, const char *format, ...) ST_PRINTF(2, 3);
static void say(text *t, const char *format, ...) {
    va_list args;
    va_start(args, format);
    int n = vsnprintf(t->bytes + t->n, sizeof t->bytes - t->n, format, args);
    va_end(args);
    assert_true(n >= 0 && (size_t)n < sizeof t->bytes - t->n);
    t->n += (size_t)n;
}

static void bad(const script *sc, const char *what) { fail_msg("%s:%d: cannot read '%s'", sc->file, sc->line, what); }

/* ---- events ---- */

/* "name=value" with this name: its value, else NULL. */
static const char *value_of(char **words, uint32_t n, const char *name) {
    size_t length = strlen(name);
    for (uint32_t i = 0; i < n; i++)
        if (strncmp(words[i], name, length) == 0 && words[i][length] == '=') return words[i] + length + 1;
    return NULL;
}

static uint64_t number_of(char **words, uint32_t n, const char *name, uint64_t fallback) {
    const char *v = value_of(words, n, name);
    return v ? strtoull(v, NULL, 10) : fallback;
}

static uint32_t list_of(const char *from, uint32_t *out, uint32_t max) {
    uint32_t n = 0;
    while (from && *from && n < max) {
        char *end;
        out[n++] = (uint32_t)strtoul(from, &end, 10);
        from = *end == ',' ? end + 1 : NULL;
    }
    return n;
}

static void new_scheduler(script *sc, char **words, uint32_t n, text *out) {
    sched_limits l = {.max_requests = 64,
                      .max_running = 8,
                      .max_queue = 8,
                      .max_rows = 64,
                      .max_batch = 8,
                      .prefill_chunk = 16,
                      .max_tree = 0,
                      .max_context = 128,
                      .min_move_tokens = 32,
                      .n_groups = 1,
                      .speculation = "all",
                      .drafter_names = names_of_drafters,
                      .n_vocab = 1000};
    const struct {
        const char *name;
        uint32_t *value;
    } names[] = {{"max_requests", &l.max_requests}, {"max_running", &l.max_running}, {"max_queue", &l.max_queue},
                 {"max_rows", &l.max_rows},         {"max_batch", &l.max_batch},     {"prefill_chunk", &l.prefill_chunk},
                 {"max_tree", &l.max_tree},         {"max_context", &l.max_context}, {"n_groups", &l.n_groups},
                 {"n_drafters", &l.n_drafters},     {"max_moves", &l.max_moves},     {"min_move_tokens", &l.min_move_tokens}};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        *names[i].value = (uint32_t)number_of(words, n, names[i].name, *names[i].value);
    uint32_t n_listed = list_of(value_of(words, n, "n_blocks"), l.n_blocks, SCHED_MAX_GROUPS); /* the last one for the rest */
    if (n_listed == 0) l.n_blocks[n_listed++] = 32;
    for (; n_listed < SCHED_MAX_GROUPS; n_listed++) l.n_blocks[n_listed] = l.n_blocks[n_listed - 1];
    list_of(value_of(words, n, "n_slots"), l.n_slots, SCHED_MAX_GROUPS);
    list_of(value_of(words, n, "drafter_blocks"), l.drafter_blocks, PROTO_MAX_DRAFTERS);
    for (const char *v = value_of(words, n, "serves"), *g = v; v && *g && *g != ' '; g++) /* as in: serves=pdb */
        l.serves[g - v] = *g == 'p' ? SCHED_PREFILLS : *g == 'd' ? SCHED_DECODES : SCHED_BOTH;
    const char *ahead = value_of(words, n, "ahead");
    l.draft_ahead = sched_ahead_of(ahead ? ahead : "off");
    l.draft_wait_ns = number_of(words, n, "draft_wait", 50);
    l.max_stall_ns = number_of(words, n, "max_stall", 0);
    l.prefix_cache = number_of(words, n, "prefix_cache", 0);
    l.adaptive_budgets = number_of(words, n, "adaptive", 0);
    l.fusion = number_of(words, n, "lockstep", 0) ? SCHED_LOCKSTEP : SCHED_MERGE;
    l.draft_floor = (float)number_of(words, n, "floor", 0) / 100;
    sc->n_drafters = l.n_drafters;
    sc->n_groups = l.n_groups;
    mem_free(sc->memory);
    sc->memory = NULL;
    sc->s = NULL;
    sc->now_ns = 0;
    size_t bytes = sched_bytes(&l);
    st_error e = {0};
    if (bytes > 0) sc->memory = mem_alloc_aligned(1, bytes, 64);
    if (sched_init(sc->memory, &l, &sc->s, &e) != ST_OK) say(out, "    %s \"%s\"\n", st_name(e.code), e.message);
}

static void read_code(const script *sc, sched_event *ev, const char *name) {
    while (ev->code < ST_N_CODES && strcmp(st_name(ev->code), name) != 0) ev->code++;
    if (ev->code == ST_N_CODES) bad(sc, name);
}

static void read_cancel(const script *sc, sched_event *ev, char **words, uint32_t n) {
    if (n != 3) bad(sc, "cancel");
    read_code(sc, ev, words[1]);
    while (ev->finish <= SCHED_FINISH_ERROR && strcmp(finishes[ev->finish], words[2]) != 0) ev->finish++;
    if (ev->finish > SCHED_FINISH_ERROR) bad(sc, words[2]);
}

static void read_request(script *sc, sched_event *ev, char **words, uint32_t n) {
    assert_true(sc->n_requests < MAX_REQUESTS_OF_A_SCRIPT);
    uint32_t *ends = sc->ends[sc->n_requests++];
    uint64_t from = number_of(words, n, "from", 0);
    assert_true(from + number_of(words, n, "prompt", 0) <= sizeof sc->prompt / sizeof *sc->prompt);
    ev->tokens = sc->prompt + from;
    ev->cache_salt[1] = number_of(words, n, "salt", 0);
    ev->n_tokens = (uint32_t)number_of(words, n, "prompt", 0);
    ev->max_tokens = (uint32_t)number_of(words, n, "max", 0);
    ev->deadline_ns = number_of(words, n, "deadline", 0);
    ev->priority = (int32_t)number_of(words, n, "priority", 0); /* strtoull takes a minus */
    ev->rules.n_ends = list_of(value_of(words, n, "end"), ends, 8);
    ev->rules.ends = ends;
    ev->rules.logprobs = (uint32_t)number_of(words, n, "logprobs", 0);
    ev->speculation = value_of(words, n, "speculation");
    ev->sampling = (sampling){.temperature = 0, .top_p = 1};
}

typedef struct {
    proto_result result;
    proto_item items[MAX_WORDS];
    uint32_t tokens[MAX_WORDS][8], parents[MAX_WORDS][8];
    float beliefs[MAX_WORDS][8];
} result_memory;

static void read_tree(result_memory *m, proto_item *item, const char *from) {
    uint32_t i = (uint32_t)(item - m->items), n = 0;
    for (; *from && n < 8; n++) {
        char *end;
        m->tokens[i][n] = (uint32_t)strtoul(from, &end, 10);
        m->parents[i][n] = n > 0 ? n - 1 : NOUNS_TREE_ROOT;
        if (*end == '^') {
            from = end + 1;
            uint32_t parent = (uint32_t)strtoul(from, &end, 10);
            m->parents[i][n] = end == from ? NOUNS_TREE_ROOT : parent;
        }
        m->beliefs[i][n] = *end == '%' ? (float)strtoul(end + 1, &end, 10) / 100 : 1;
        from = *end == ',' ? end + 1 : end;
    }
    item->tree = (token_tree){.n_nodes = n, .token = m->tokens[i], .parent = m->parents[i], .probability = m->beliefs[i]};
}

static void read_result(const script *sc, result_memory *m, char **words, uint32_t n, bool drafts) {
    m->result = (proto_result){.plan_id = strtoull(words[0], NULL, 10), .items = m->items};
    m->result.swap_out_ns = number_of(words, n, "out", 0);
    m->result.swap_in_ns = number_of(words, n, "in", 0);
    for (uint32_t i = 1; i < n && (drafts || !strchr(words[i], '=')); i++) {
        proto_item *item = &m->items[m->result.n_items++];
        char *end;
        *item = (proto_item){.seq = {strtoull(words[i], &end, 10)}, .tokens = m->tokens[i]};
        if (*end == ':' && drafts) {
            char *hits = strchr(end, '=');
            if (hits) item->n_hits = (uint32_t)strtoul(hits + 1, NULL, 10), *hits = 0;
            read_tree(m, item, end + 1);
        } else if (*end == ':') {
            item->n_tokens = list_of(end + 1, m->tokens[i], 8);
        } else if (*end == '!') {
            item->code = ST_ERR_NUMERIC;
            item->layer = (uint32_t)strtoul(end + 1, NULL, 10);
        } else {
            bad(sc, words[i]);
        }
    }
}

/* ---- actions ---- */

static void say_tree(text *out, const token_tree *t) {
    if (t->n_nodes > 0) say(out, ", tree");
    for (uint32_t i = 0; i < t->n_nodes; i++) {
        say(out, " %u", t->token[i]);
        if (t->parent[i] == NOUNS_TREE_ROOT && i > 0) say(out, "^");
        if (t->parent[i] != NOUNS_TREE_ROOT && t->parent[i] + 1 != i) say(out, "^%u", t->parent[i]);
    }
}

static void say_open(text *out, const proto_open *o) {
    say(out, "        open %llu: %u tokens", (unsigned long long)o->seq.value, o->n_tokens);
    if (o->seq_epoch > 1) say(out, ", %u answered, epoch %u", o->n_answered, o->seq_epoch);
    say(out, "\n");
}

static void say_plan(text *out, const proto_plan *p) {
    say(out, " %llu%s%s\n", (unsigned long long)p->id, p->early ? ", to be answered early" : "", p->ahead ? ", ahead" : "");
    if (p->n_swaps > 0) say(out, "        swap");
    for (uint32_t i = 0; i < p->n_swaps; i++)
        say(out, "%s block %u %s slot %u", i ? "," : "", p->swaps[i].block, p->swaps[i].in ? "<-" : "->", p->swaps[i].slot);
    if (p->n_swaps > 0) say(out, "\n");
    if (p->n_close > 0) say(out, "        close");
    for (uint32_t i = 0; i < p->n_close; i++) say(out, " %llu", (unsigned long long)p->close[i].value);
    if (p->n_close > 0) say(out, "\n");
    for (uint32_t i = 0; i < p->n_open; i++) say_open(out, &p->open[i]);
    for (uint32_t i = 0; i < p->n_work; i++) {
        const proto_work *w = &p->work[i];
        say(out, "        work %llu: from %u, %u tokens", (unsigned long long)w->seq.value, w->start, w->n_prefix);
        if (w->n_blocks > 0) say(out, ", blocks");
        for (uint32_t b = 0; b < w->n_blocks; b++) say(out, " %u.%u", w->blocks[b].index, w->blocks[b].generation);
        say_tree(out, &w->tree);
        say(out, "\n");
    }
    for (uint32_t i = 0; i < p->n_draft; i++) {
        const proto_draft *d = &p->draft[i];
        say(out, "        draft %llu: %u tokens, budget %u%s", (unsigned long long)d->seq.value, d->n_tokens, d->budget,
            d->n_tentative ? ", behind" : "");
        for (uint32_t k = 0; k < d->n_tentative; k++) say(out, " %u", d->tentative[k]);
        say(out, "\n");
    }
}

static void say_drafts(text *out, const sched_drafts *drafts, const proto_drafter_figures *by, uint32_t n) {
    say(out, "%llu steps, %llu drafted, %llu accepted", (unsigned long long)drafts->steps, (unsigned long long)drafts->drafted,
        (unsigned long long)drafts->accepted);
    for (uint32_t i = 0; i < n; i++)
        say(out, "%s %s %llu/%llu", i ? "," : ";", by[i].name, (unsigned long long)by[i].accepted,
            (unsigned long long)by[i].drafted);
}

static void say_move(text *out, const sched_action *a) {
    say(out, "    move %llu of %llu: %u -> %u, %u tokens, %u of %u blocks ready", (unsigned long long)a->move,
        (unsigned long long)a->seq.value, a->group, a->to, a->n_tokens, a->n_ready, a->n_blocks);
    for (uint32_t b = 0; b < a->n_blocks; b++)
        say(out, "%s %u.%u -> %u.%u", b ? "," : ":", a->from_blocks[b].index, a->from_blocks[b].generation, a->to_blocks[b].index,
            a->to_blocks[b].generation);
    say(out, "\n");
}

static void say_action(const script *sc, text *out, const sched_action *a) {
    unsigned long long seq = a->seq.value;
    switch (a->kind) {
    case SCHED_ACT_PLAN:
        say(out, "    plan");
        if (sc->n_groups > 1) say(out, "@%u", a->group);
        say_plan(out, a->plan);
        break;
    case SCHED_ACT_DRAFT:
        say(out, "    drafter %s: plan", names_of_drafters[a->drafter]);
        say_plan(out, a->plan);
        break;
    case SCHED_ACT_TOKENS:
        say(out, "    tokens %llu:", seq);
        for (uint32_t i = 0; i < a->n_tokens; i++) say(out, " %u", a->tokens[i]);
        say(out, "\n");
        break;
    case SCHED_ACT_FINISHED:
        say(out, "    finished %llu: %s", seq, finishes[a->finish]);
        if (a->code != ST_OK) say(out, " %s \"%s\"", st_name(a->code), a->message);
        if (a->n_shared > 0) say(out, ", %u tokens of the prompt from the cache", a->n_shared);
        if (a->drafts.drafted > 0) {
            say(out, " ");
            say_drafts(out, &a->drafts, a->by_drafter, a->n_by_drafter);
        }
        say(out, "\n");
        break;
    case SCHED_ACT_TIMER:
        if (a->at_ns > 0)
            say(out, "    timer %llu\n", (unsigned long long)a->at_ns);
        else
            say(out, "    timer none\n");
        break;
    case SCHED_ACT_MOVE: say_move(out, a); break;
    case SCHED_ACT_MOVE_READY: say(out, "    move %llu: %u blocks ready\n", (unsigned long long)a->move, a->n_ready); break;
    case SCHED_ACT_MOVE_CANCEL: say(out, "    move %llu: cancel\n", (unsigned long long)a->move); break;
    case SCHED_ACT_DRAINED: say(out, "    drained\n"); break;
    }
}

static void say_stats(text *out, const sched *s, uint32_t n_drafters) {
    sched_stats st = sched_get_stats(s);
    say(out, "    %u waiting, %u running; blocks: %u used, %u reserved of %u\n", st.waiting, st.running, st.blocks_used,
        st.blocks_reserved, st.blocks_total);
    say(out, "    %llu steps, %llu rows, %llu tokens, %llu finished, %llu rejected, %llu stale, largest batch %llu\n",
        (unsigned long long)st.steps, (unsigned long long)st.rows, (unsigned long long)st.tokens, (unsigned long long)st.finished,
        (unsigned long long)st.rejected, (unsigned long long)st.stale_results, (unsigned long long)st.largest_batch);
    if (st.shared > 0)
        say(out, "    prefix cache: %llu of %llu tokens, %u blocks kept\n", (unsigned long long)st.shared,
            (unsigned long long)st.looked_up, st.blocks_kept);
    if (st.swapped_out > 0)
        say(out, "    swap: %llu blocks out, %llu in, %u of %u slots used\n", (unsigned long long)st.swapped_out,
            (unsigned long long)st.swapped_in, st.slots_used, st.slots_total);
    if (n_drafters == 0) return;
    if (st.early_right + st.early_wrong + st.early_late > 0)
        say(out, "    early: %llu right, %llu wrong, %llu late; bets: %llu, %llu won, %llu dropped\n",
            (unsigned long long)st.early_right, (unsigned long long)st.early_wrong, (unsigned long long)st.early_late,
            (unsigned long long)st.bets, (unsigned long long)st.bets_won, (unsigned long long)st.bets_dropped);
    say(out, "    ");
    say_drafts(out, &st.drafts, st.by_drafter, st.n_by_drafter);
    say(out, "\n");
    for (uint32_t i = 0; i < n_drafters; i++) {
        sched_drafter_stats d = sched_get_drafter(s, i);
        say(out, "    drafter %s: %s, %llu drafts, %llu late, %llu bad\n", names_of_drafters[i], d.up ? "up" : "down",
            (unsigned long long)d.drafts, (unsigned long long)d.late, (unsigned long long)d.bad);
        if (d.kv_blocks > 0)
            say(out, "        follows %u, %u of %u blocks held, %llu dropped\n", d.followed, d.kv_held, d.kv_blocks,
                (unsigned long long)d.dropped);
    }
}

static void say_groups(text *out, const sched *s, uint32_t n_groups) {
    for (uint32_t i = 0; i < n_groups; i++) {
        sched_group_stats g = sched_get_group(s, i);
        say(out, "    group %u: %s%s, %u running, blocks: %u used, %u reserved of %u, %llu steps, %llu rows\n", i,
            g.up ? "up" : "down", g.emptied ? ", drained" : "", g.running, g.blocks_used, g.blocks_reserved, g.blocks_total,
            (unsigned long long)g.steps, (unsigned long long)g.rows);
        if (!g.moves_pay) say(out, "        a token is computed in %.0f ns: moves to it do not pay\n", g.prompt_token_ns);
    }
    sched_stats st = sched_get_stats(s);
    if (st.move_token_ns > 0) say(out, "    a token moves in %.0f ns\n", st.move_token_ns);
    say(out, "    displaced: %llu\n", (unsigned long long)st.displaced);
    if (st.moves + st.moving > 0)
        say(out, "    moves: %u in flight, %llu over, %llu of them failed, %llu tokens moved\n", st.moving,
            (unsigned long long)st.moves, (unsigned long long)st.moves_failed, (unsigned long long)st.moved_tokens);
}

/* ---- one file ---- */

static void step(script *sc, sched_event *ev, char **words, uint32_t n, text *out) {
    static const char *const kinds[] = {[SCHED_REQUEST] = "request",
                                        [SCHED_CANCEL] = "cancel",
                                        [SCHED_RESULT] = "result",
                                        [SCHED_EARLY] = "early",
                                        [SCHED_GROUP_UP] = "up",
                                        [SCHED_GROUP_DOWN] = "down",
                                        [SCHED_DRAFTER_UP] = "drafter-up",
                                        [SCHED_DRAFTER_DOWN] = "drafter-down",
                                        [SCHED_DRAFTS] = "drafts",
                                        [SCHED_DRAIN] = "drain",
                                        [SCHED_MOVED] = "moved",
                                        [SCHED_EMPTY] = "empty",
                                        [SCHED_FILL] = "fill",
                                        [SCHED_FORGET] = "forget",
                                        [SCHED_TIMER] = "timer"};
    result_memory m = {0};
    char *at = strchr(words[0], '@');
    if (at) ev->group = (uint32_t)strtoul(at + 1, NULL, 10), *at = 0;
    while (ev->kind <= SCHED_TIMER && strcmp(kinds[ev->kind], words[0]) != 0) ev->kind++;
    if (ev->kind > SCHED_TIMER || (ev->kind <= SCHED_EARLY && n < 2)) bad(sc, words[0]);
    if (ev->kind <= SCHED_CANCEL) ev->seq.value = strtoull(words[1], NULL, 10);
    if (ev->kind == SCHED_REQUEST) read_request(sc, ev, words, n);
    if (ev->kind == SCHED_CANCEL) read_cancel(sc, ev, words + 1, n - 1);
    if (ev->kind == SCHED_RESULT || ev->kind == SCHED_EARLY) read_result(sc, &m, words + 1, n - 1, false);
    if (ev->kind >= SCHED_DRAFTER_UP && ev->kind <= SCHED_DRAFTS) {
        if (n < (ev->kind == SCHED_DRAFTS ? 3 : 2)) bad(sc, words[0]);
        ev->drafter = (uint32_t)strtoul(words[1], NULL, 10);
    }
    if (ev->kind == SCHED_MOVED && n > 1) ev->move = strtoull(words[1], NULL, 10);
    if (ev->kind == SCHED_MOVED) ev->took_ns = number_of(words, n, "took", 0);
    if (ev->kind == SCHED_MOVED && n > 2 && !strchr(words[2], '=')) read_code(sc, ev, words[2]);
    bool of_group =
        ev->kind == SCHED_GROUP_UP || ev->kind == SCHED_GROUP_DOWN || ev->kind == SCHED_EMPTY || ev->kind == SCHED_FILL;
    if (of_group && n > 1) ev->group = (uint32_t)strtoul(words[1], NULL, 10);
    if (ev->kind == SCHED_DRAFTS) read_result(sc, &m, words + 2, n - 2, true);
    ev->result = &m.result;
    sched_actions acts = sched_step(sc->s, sc->now_ns, ev);
    for (uint32_t i = 0; i < acts.n; i++) say_action(sc, out, &acts.items[i]);
    if (acts.n == 0) say(out, "    nothing\n");
    sched_check(sc->s);
}

static void command(script *sc, const char *line, text *out) {
    char copy[1024], *words[MAX_WORDS], *rest = NULL;
    uint32_t n = 0;
    assert_true((size_t)snprintf(copy, sizeof copy, "%s", line) < sizeof copy);
    for (char *w = strtok_r(copy, " \n", &rest); w && n < MAX_WORDS; w = strtok_r(NULL, " \n", &rest)) words[n++] = w;
    char **w = words;
    if (n > 0 && w[0][0] == '@') {
        sc->now_ns = strtoull(w[0] + 1, NULL, 10);
        w++;
        n--;
    }
    if (n == 0) bad(sc, line);
    sched_event ev = {0};
    if (strcmp(w[0], "limits") == 0)
        new_scheduler(sc, w + 1, n - 1, out);
    else if (!sc->s)
        bad(sc, line);
    else if (strcmp(w[0], "stats") == 0)
        say_stats(out, sc->s, sc->n_drafters);
    else if (strcmp(w[0], "groups") == 0)
        say_groups(out, sc->s, sc->n_groups);
    else
        step(sc, &ev, w, n, out);
}

static void compare(const script *sc, const char *line, const text *expected, const text *got) {
    if (!rewriting && strcmp(expected->bytes, got->bytes) != 0)
        fail_msg("%s:%d: %sexpected:\n%sgot:\n%s", sc->file, sc->line, line, expected->bytes, got->bytes);
}

static void run_file(const char *path) {
    script sc = {.file = path};
    for (uint32_t i = 0; i < sizeof sc.prompt / sizeof *sc.prompt; i++) sc.prompt[i] = i;
    static text expected, got, all; /* too large for a stack */
    char event[1024] = "", line[1024];
    expected.n = got.n = all.n = 0;
    expected.bytes[0] = got.bytes[0] = 0;
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    for (int number = 1; fgets(line, sizeof line, f); number++) {
        if (strncmp(line, "    ", 4) == 0) {
            say(&expected, "%s", line);
            continue;
        }
        compare(&sc, event, &expected, &got);
        say(&all, "%s%s", got.bytes, line);
        expected.n = got.n = 0;
        expected.bytes[0] = got.bytes[0] = 0;
        sc.line = number;
        if (line[0] == '#' || line[0] == '\n') continue;
        snprintf(event, sizeof event, "%s", line);
        command(&sc, line, &got);
    }
    compare(&sc, event, &expected, &got);
    say(&all, "%s", got.bytes);
    fclose(f);
    mem_free(sc.memory);
    if (!rewriting) return;
    f = fopen(path, "w");
    assert_non_null(f);
    assert_int_equal(fwrite(all.bytes, 1, all.n, f), all.n);
    assert_int_equal(fclose(f), 0);
}

static int is_transcript(const struct dirent *d) { return strncmp(d->d_name, "sched_", 6) == 0 && strstr(d->d_name, ".txt"); }

static void every_transcript_gives_the_actions_it_shows(void **state) {
    (void)state;
    struct dirent **names;
    int n = scandir(folder, &names, is_transcript, alphasort);
    assert_true(n > 0);
    for (int i = 0; i < n; i++) {
        char path[512];
        snprintf(path, sizeof path, "%s/%s", folder, names[i]->d_name);
        free(names[i]);
        run_file(path);
    }
    free(names);
}

int main(int argc, char **argv) {
    const char *rewrite = getenv("CONSORT_REWRITE");
    rewriting = (rewrite && strcmp(rewrite, "1") == 0) || (argc > 1 && strcmp(argv[1], "--rewrite") == 0);
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_transcript_gives_the_actions_it_shows)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
