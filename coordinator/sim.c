/* The virtual cluster: time, links, requests, moves, and what the coordinator's loop does between messages and the scheduler.
 *
 * A cluster's sources have neighbouring numbers. Each source (a verifier, a drafter, a scheduler's timer, a move, the load) has
 * at most one next event, so the events are a heap of sources with places to be found again, and no event is ever taken back. A
 * plan's whole way is reckoned when it is sent: down the link, the node's time, up the link; its result is the node's next event.
 * Ties go to the lower source. */
#include "coordinator/sim_int.h"

#include <string.h>

#define NEVER UINT32_MAX

/* ---- the heap ---- */

static bool before(const sim *s, uint32_t a, uint32_t b) {
    return s->when[a] < s->when[b] || (s->when[a] == s->when[b] && a < b);
}

static void put(sim *s, uint32_t place, uint32_t source) {
    s->heap[place] = source;
    s->at[source] = place;
}

static void rise(sim *s, uint32_t place) {
    uint32_t source = s->heap[place];
    for (; place > 0 && before(s, source, s->heap[(place - 1) / 2]); place = (place - 1) / 2)
        put(s, place, s->heap[(place - 1) / 2]);
    put(s, place, source);
}

static void sink(sim *s, uint32_t place) {
    uint32_t source = s->heap[place];
    for (uint32_t child; (child = 2 * place + 1) < s->n_heap; place = child) {
        if (child + 1 < s->n_heap && before(s, s->heap[child + 1], s->heap[child])) child++;
        if (!before(s, s->heap[child], source)) break;
        put(s, place, s->heap[child]);
    }
    put(s, place, source);
}

static void forget(sim *s, uint32_t source) {
    uint32_t place = s->at[source], last;
    if (place == NEVER) return;
    s->at[source] = NEVER;
    last = s->heap[--s->n_heap];
    if (last == source) return;
    put(s, place, last);
    rise(s, place);
    sink(s, s->at[last]);
}

/* The source's next event, instead of the one it may have. */
static void expect(sim *s, uint32_t source, uint64_t at_ns) {
    if (s->at[source] == NEVER) put(s, s->n_heap++, source);
    s->when[source] = at_ns;
    rise(s, s->at[source]);
    sink(s, s->at[source]);
}

/* ---- sources ---- */

static uint32_t n_nodes(const sched_limits *l) { return l->n_groups + l->n_drafters; } /* the verifiers, then the drafters */
static uint32_t n_moves(const sched_limits *l) { return l->n_groups * l->max_moves; }
/* And the timer. */
static uint32_t per_cluster(const sched_limits *l) { return n_nodes(l) + 1 + n_moves(l); }
static uint32_t source_of(const sim *s, uint32_t cluster, uint32_t node) { return cluster * per_cluster(&s->o.limits) + node; }
static uint32_t timer_of(const sim *s, uint32_t cluster) { return source_of(s, cluster, n_nodes(&s->o.limits)); }
static uint32_t load_source(const sim *s) { return s->n_sources - 1; }

/* ---- plans ---- */

static uint64_t plan_bytes(const proto_plan *p) {
    uint64_t bytes =
        SIM_MESSAGE_BYTES + (uint64_t)SIM_ITEM_BYTES * (p->n_open + p->n_work + p->n_draft) + 8 * (uint64_t)p->n_close;
    for (uint32_t i = 0; i < p->n_open; i++) bytes += SIM_MESSAGE_BYTES + (uint64_t)SIM_TOKEN_BYTES * p->open[i].n_tokens;
    for (uint32_t i = 0; i < p->n_work; i++)
        bytes += (uint64_t)SIM_BLOCK_BYTES * p->work[i].n_blocks + (uint64_t)SIM_NODE_BYTES * p->work[i].tree.n_nodes;
    for (uint32_t i = 0; i < p->n_draft; i++) {
        bytes += (uint64_t)SIM_TOKEN_BYTES * p->draft[i].n_tokens;
        if (p->draft[i].hidden.f16) bytes += sizeof(uint16_t) * p->draft[i].hidden.dim;
    }
    return bytes;
}

/* When a message sent at `at_ns` has come. */
static uint64_t carry(const sim *s, sim_link *k, uint64_t *free_ns, uint64_t at_ns, uint64_t bytes) {
    if (at_ns < *free_ns) at_ns = *free_ns;
    *free_ns = at_ns + (uint64_t)((double)bytes * s->o.link_byte_ns);
    k->figures.bytes += bytes;
    return *free_ns + s->o.link_ns;
}

/* A plan ahead that is still computed when the next one is sent ends there and then; nobody waits for its answer. */
static void drop_stale(sim *s, uint32_t source, sim_place *n) {
    if (s->at[source] == NEVER) return;
    uint64_t left_ns = s->when[source] > s->now_ns ? s->when[source] - s->now_ns : 0, *busy_ns = &n->link.figures.busy_ns;
    *busy_ns -= left_ns < *busy_ns ? left_ns : *busy_ns;
    forget(s, source);
}

static void send(sim *s, uint32_t cluster, uint32_t node, const proto_plan *p) {
    sim_place *n = &s->clusters[cluster].nodes[node];
    uint64_t bytes, takes_ns;
    drop_stale(s, source_of(s, cluster, node), n);
    n->n_plans++;
    if (node < s->o.limits.n_groups)
        takes_ns = sim_verify(s, n, node, p, &bytes);
    else
        takes_ns = sim_propose(s, n, node - s->o.limits.n_groups, p, &bytes);
    uint64_t at_ns = carry(s, &n->link, &n->link.down_free_ns, s->now_ns + s->o.decide_ns, plan_bytes(p));
    n->link.figures.busy_ns += takes_ns;
    n->link.figures.plans++;
    n->result_ns = 0;
    uint64_t early_ns = 0;
    if (p->early && s->o.early_share > 0) {
        early_ns = at_ns + (uint64_t)((double)takes_ns * s->o.early_share);
        early_ns = carry(s, &n->link, &n->link.up_free_ns, early_ns, bytes);
    }
    uint64_t result_ns = carry(s, &n->link, &n->link.up_free_ns, at_ns + takes_ns, bytes);
    if (early_ns > 0) n->result_ns = result_ns;
    expect(s, source_of(s, cluster, node), early_ns > 0 ? early_ns : result_ns);
}

/* ---- moves ---- */

static sim_move *move_with(const sim *s, uint32_t cluster, uint64_t id) {
    sim_move *m = s->clusters[cluster].moves;
    while (m->id != id) m++; /* the scheduler has no more of them than there are */
    return m;
}

/* So many of its blocks are computed: they leave as soon as those before them have. */
static void move_on(sim *s, uint32_t cluster, sim_move *m, uint32_t n_ready) {
    uint64_t *free_ns = &s->clusters[cluster].nodes[m->from].move_free_ns;
    if (*free_ns < s->now_ns) *free_ns = s->now_ns;
    *free_ns += (uint64_t)(s->o.move_token_ns * (n_ready - m->n_ready) * NOUNS_BLOCK_TOKENS);
    m->n_ready = n_ready;
    if (n_ready == m->n_blocks)
        expect(s, timer_of(s, cluster) + 1 + (uint32_t)(m - s->clusters[cluster].moves), *free_ns + s->o.move_ns);
}

static void begin_move(sim *s, uint32_t cluster, const sched_action *a) {
    sim_move *m = move_with(s, cluster, 0);
    *m = (sim_move){.id = a->move, .from = a->group, .n_blocks = a->n_blocks, .began_ns = s->now_ns};
    move_on(s, cluster, m, a->n_ready);
}

static void cancel_move(sim *s, uint32_t cluster, sim_move *m) {
    m->cancelled = true;
    expect(s, timer_of(s, cluster) + 1 + (uint32_t)(m - s->clusters[cluster].moves), s->now_ns);
}

/* ---- requests ---- */

static void over(sim *s, const sim_record *r) {
    s->n_over++;
    if (s->take) s->take(s->context, r);
    if (!s->load.n_streams) return;
    s->returns[(s->first_return + s->n_returns++) % s->o.n_slots] = s->now_ns + s->o.client_ns;
}

static void finish(sim *s, uint32_t cluster, sim_slot *r, const sched_action *a) {
    r->record.end_ns = s->now_ns - s->start_ns;
    r->record.finish = a->finish;
    r->record.code = a->code;
    r->record.drafts = a->drafts;
    r->record.n_by_drafter = a->n_by_drafter;
    r->record.by_drafter = a->by_drafter;
    s->clusters[cluster].n_requests--;
    r->used = false;
    s->free_slots[s->n_free++] = (uint32_t)(r - s->slots);
    over(s, &r->record);
}

static void take_tokens(sim *s, sim_slot *r, uint32_t n) {
    uint64_t now_ns = s->now_ns - s->start_ns;
    if (!r->record.n_tokens) {
        r->record.n_first = n;
        r->record.first_ns = now_ns;
    }
    r->record.last_ns = now_ns;
    r->record.n_tokens += n;
    s->figures.tokens += n;
}

static void tell(sim *s, uint32_t cluster, const sched_event *ev) {
    uint64_t began_ns = s->o.clock ? s->o.clock() : 0;
    sched_actions actions = sched_step(s->clusters[cluster].sched, s->now_ns, ev);
    if (s->o.clock) s->figures.scheduler_ns += s->o.clock() - began_ns;
    s->figures.decisions++;
    for (uint32_t i = 0; i < actions.n; i++) {
        const sched_action *a = &actions.items[i];
        sim_slot *r = &s->slots[a->seq.value % s->o.n_slots];
        switch (a->kind) {
        case SCHED_ACT_PLAN: send(s, cluster, a->group, a->plan); break;
        case SCHED_ACT_DRAFT: send(s, cluster, s->o.limits.n_groups + a->drafter, a->plan); break;
        case SCHED_ACT_TOKENS: take_tokens(s, r, a->n_tokens); break;
        case SCHED_ACT_FINISHED: finish(s, cluster, r, a); break;
        case SCHED_ACT_TIMER:
            if (a->at_ns)
                expect(s, timer_of(s, cluster), a->at_ns > s->now_ns ? a->at_ns : s->now_ns);
            else
                forget(s, timer_of(s, cluster));
            break;
        case SCHED_ACT_MOVE: begin_move(s, cluster, a); break;
        case SCHED_ACT_MOVE_READY: move_on(s, cluster, move_with(s, cluster, a->move), a->n_ready); break;
        case SCHED_ACT_MOVE_CANCEL: cancel_move(s, cluster, move_with(s, cluster, a->move)); break;
        case SCHED_ACT_DRAINED: break;
        }
    }
}

static uint32_t least_loaded(const sim *s) {
    uint32_t best = 0;
    for (uint32_t c = 1; c < s->o.n_copies; c++)
        if (s->clusters[c].n_requests < s->clusters[best].n_requests) best = c;
    return best;
}

/* A text, and the end token where the answer ends before max_tokens. */
static sim_lengths write_request(sim *s, sim_slot *r) {
    sim_draw d = sim_drawn(s, SIM_DRAW_LENGTHS, r->number, 0);
    sim_lengths n = s->o.lengths[(uint32_t)(d.u[0] * s->o.n_lengths)];
    uint32_t room = s->text_room - s->o.limits.max_tree - 1, answer = s->o.max_tokens;
    if (n.n_prompt + answer > room) answer = room - n.n_prompt;
    sim_write_text(s, SIM_DRAW_TEXT, r->number, r->text, n.n_prompt + answer + s->o.limits.max_tree + 1);
    if (n.n_answer < s->o.max_tokens) r->text[n.n_prompt + n.n_answer] = SIM_END;
    return n;
}

static void ask(sim *s) {
    static const uint32_t ends[] = {SIM_END};
    uint32_t cluster = least_loaded(s);
    s->n_sent++;
    s->n_asked++;
    if (s->n_free == 0) {
        uint64_t now_ns = s->now_ns - s->start_ns;
        sim_record r = {.cluster = cluster,
                        .sent_ns = now_ns,
                        .end_ns = now_ns,
                        .code = ST_ERR_RESOURCE_EXHAUSTED,
                        .finish = SCHED_FINISH_ERROR};
        over(s, &r);
        return;
    }
    uint32_t slot = s->free_slots[--s->n_free];
    sim_slot *r = &s->slots[slot];
    *r = (sim_slot){.used = true, .seq = {s->n_asked * s->o.n_slots + slot}, .number = s->n_asked, .text = r->text};
    sim_lengths n = write_request(s, r);
    r->n_known = n.n_prompt;
    r->record = (sim_record){.cluster = cluster, .n_prompt = n.n_prompt, .sent_ns = s->now_ns - s->start_ns};
    s->clusters[cluster].n_requests++;
    tell(s, cluster,
         &(sched_event){.kind = SCHED_REQUEST,
                        .seq = r->seq,
                        .tokens = r->text,
                        .n_tokens = n.n_prompt,
                        .max_tokens = s->o.max_tokens,
                        .rules = {.n_ends = 1, .ends = ends}});
}

/* When the load has its next request, if it has one by now. */
static void expect_request(sim *s) {
    if (s->n_sent == s->load.n_requests)
        forget(s, load_source(s));
    else if (!s->load.n_streams)
        expect(s, load_source(s), s->start_ns + s->load.arrivals_ns[s->n_sent]);
    else if (s->n_returns > 0)
        expect(s, load_source(s), s->returns[s->first_return]);
}

static void load_event(sim *s) {
    if (s->load.n_streams) {
        s->first_return = (s->first_return + 1) % s->o.n_slots;
        s->n_returns--;
    }
    ask(s);
}

static void end_move(sim *s, uint32_t cluster, sim_move *m) {
    sched_event ev = {
        .kind = SCHED_MOVED, .move = m->id, .code = m->cancelled ? ST_ERR_CANCELLED : ST_OK, .took_ns = s->now_ns - m->began_ns};
    m->id = 0;
    tell(s, cluster, &ev);
}

static void verifier_event(sim *s, uint32_t cluster, uint32_t node) {
    sim_place *n = &s->clusters[cluster].nodes[node];
    sched_event ev = {.kind = n->result_ns > 0 ? SCHED_EARLY : SCHED_RESULT, .group = node, .result = &n->result};
    if (ev.kind == SCHED_RESULT) {
        tell(s, cluster, &ev);
        return;
    }
    expect(s, source_of(s, cluster, node), n->result_ns);
    n->result_ns = 0;
    sim_turn_early(s, n);
    tell(s, cluster, &ev);
    sim_turn_early(s, n);
}

/* ---- the run ---- */

void sim_begin(sim *s, const sim_load *load, sim_taker *take, void *context) {
    INVARIANT(s->n_over == s->n_sent && load->n_streams <= s->o.n_slots && (load->n_streams || load->arrivals_ns));
    s->load = *load;
    s->take = take;
    s->context = context;
    s->start_ns = s->now_ns;
    s->n_sent = s->n_over = 0;
    s->figures = (sim_figures){0};
    for (uint32_t c = 0; c < s->o.n_copies; c++)
        for (uint32_t i = 0; i < n_nodes(&s->o.limits); i++) s->clusters[c].nodes[i].link.figures = (sim_node){0};
    s->first_return = 0;
    s->n_returns = load->n_streams;
    for (uint32_t i = 0; i < load->n_streams; i++) s->returns[i] = s->now_ns;
    expect_request(s);
}

void sim_set_link(sim *s, uint64_t link_ns) { s->o.link_ns = link_ns; }

bool sim_step(sim *s) {
    if (s->n_over == s->load.n_requests) return false;
    INVARIANT(s->n_heap > 0); /* somebody waits, so something will come */
    uint32_t each = per_cluster(&s->o.limits), source = s->heap[0], cluster = source / each, node = source % each;
    uint32_t n_verifiers = s->o.limits.n_groups;
    s->now_ns = s->when[source];
    forget(s, source);
    s->figures.events++;
    if (source == load_source(s))
        load_event(s);
    else if (source == timer_of(s, cluster))
        tell(s, cluster, &(sched_event){.kind = SCHED_TIMER});
    else if (source > timer_of(s, cluster))
        end_move(s, cluster, &s->clusters[cluster].moves[source - timer_of(s, cluster) - 1]);
    else if (node < n_verifiers)
        verifier_event(s, cluster, node);
    else
        tell(s, cluster,
             &(sched_event){
                 .kind = SCHED_DRAFTS, .drafter = node - n_verifiers, .result = &s->clusters[cluster].nodes[node].result});
    expect_request(s);
    return true;
}

sim_figures sim_get_figures(const sim *s) {
    sim_figures f = s->figures;
    f.now_ns = s->now_ns - s->start_ns;
    f.asked = s->n_sent;
    f.over = s->n_over;
    f.scheduler_bytes = s->scheduler_bytes;
    return f;
}

sched_stats sim_get_stats(const sim *s, uint32_t cluster) { return sched_get_stats(s->clusters[cluster].sched); }
sim_node sim_get_verifier(const sim *s, uint32_t cluster, uint32_t verifier) {
    return s->clusters[cluster].nodes[verifier].link.figures;
}
sim_node sim_get_drafter(const sim *s, uint32_t cluster, uint32_t drafter) {
    return s->clusters[cluster].nodes[s->o.limits.n_groups + drafter].link.figures;
}

/* ---- memory ---- */

typedef struct {
    unsigned char *base; /* NULL: only count */
    size_t used_bytes;
} layout;

static void *place(layout *l, size_t n, size_t size_bytes) {
    size_t at = l->used_bytes; /* cannot overflow: options are bounded by check */
    l->used_bytes += (n * size_bytes + 63) & ~(size_t)63;
    return l->base ? memset(l->base + at, 0, n * size_bytes) : NULL;
}

static sim_place lay_out_node(layout *at, const sim_options *o, bool drafts) {
    const sched_limits *l = &o->limits;
    size_t n = (size_t)l->max_batch * (drafts ? (uint32_t)NOUNS_MAX_TREE : 1 + l->max_tree);
    sim_place p = {.items = place(at, l->max_batch, sizeof *p.items)};
    p.tokens = place(at, n, sizeof *p.tokens);
    p.parents = place(at, drafts ? n : 0, sizeof *p.parents);
    p.beliefs = place(at, drafts ? n : 0, sizeof *p.beliefs);
    p.told = place(at, drafts ? o->n_slots : 0, sizeof *p.told);
    return p;
}

static sim_cluster lay_out_cluster(layout *at, const sim_options *o) {
    sim_cluster g = {.nodes = place(at, n_nodes(&o->limits), sizeof *g.nodes)};
    for (uint32_t i = 0; i < n_nodes(&o->limits); i++) {
        sim_place p = lay_out_node(at, o, i >= o->limits.n_groups);
        if (g.nodes) g.nodes[i] = p;
    }
    g.moves = place(at, n_moves(&o->limits), sizeof *g.moves);
    g.memory = place(at, 1, sched_bytes(&o->limits));
    return g;
}

/* The longest text that is needed: prompt, answer, and what a tree may reach behind it. */
static uint32_t text_room(const sim_options *o) {
    uint32_t longest = 0;
    for (uint32_t i = 0; i < o->n_lengths; i++)
        if (o->lengths[i].n_prompt > longest) longest = o->lengths[i].n_prompt;
    return longest + o->max_tokens + o->limits.max_tree + 1;
}

static size_t lay_out(unsigned char *base, const sim_options *o, sim **out) {
    layout at = {.base = base};
    sim shape = {.o = *o, .text_room = text_room(o), .n_free = o->n_slots}, *s = place(&at, 1, sizeof *s);
    if (o->corpus) shape.o.limits.corpus_drafter = base ? &s->corpus.drafter : &shape.corpus.drafter;
    shape.n_sources = o->n_copies * per_cluster(&o->limits) + 1;
    shape.scheduler_bytes = sched_bytes(&shape.o.limits);
    shape.when = place(&at, shape.n_sources, sizeof *shape.when);
    shape.heap = place(&at, shape.n_sources, sizeof *shape.heap);
    shape.at = place(&at, shape.n_sources, sizeof *shape.at);
    shape.slots = place(&at, o->n_slots, sizeof *shape.slots);
    shape.free_slots = place(&at, o->n_slots, sizeof *shape.free_slots);
    shape.returns = place(&at, o->n_slots, sizeof *shape.returns);
    shape.texts = place(&at, (size_t)o->n_slots * shape.text_room, sizeof *shape.texts);
    shape.hidden = place(&at, (size_t)o->limits.dim * (1 + o->limits.max_tree), sizeof *shape.hidden);
    shape.clusters = place(&at, o->n_copies, sizeof *shape.clusters);
    for (uint32_t c = 0; c < o->n_copies; c++) {
        sim_cluster laid = lay_out_cluster(&at, &shape.o);
        if (base) shape.clusters[c] = laid;
    }
    if (base) *(*out = s) = shape;
    return at.used_bytes;
}

static st_code check(const sim_options *o, st_error *e) {
    const struct {
        const char *name;
        uint32_t value, low, high;
    } rows[] = {
        {"copies", o->n_copies, 1, SIM_MAX_COPIES},
        {"lengths", o->n_lengths, 1, SIM_MAX_LENGTHS},
        {"max_tokens", o->max_tokens, 1, 1 << 16},
        {"slots", o->n_slots, 1, 1 << 20},
        {"n_vocab", o->limits.n_vocab, SIM_MIN_VOCABULARY, 1 << 28},
        {"points of the step's cost", o->step.n, 1, SIM_COST_POINTS},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (rows[i].value < rows[i].low || rows[i].value > rows[i].high)
            return st_fail(e, ST_ERR_INVALID_ARGUMENT, "simulator: %s: %u, must be %u to %u", rows[i].name, rows[i].value,
                           rows[i].low, rows[i].high);
    for (uint32_t i = 0; i < o->n_lengths; i++)
        if (o->lengths[i].n_prompt < 1 || o->lengths[i].n_prompt >= o->limits.max_context)
            return st_fail(e, ST_ERR_INVALID_ARGUMENT, "simulator: a prompt of %u tokens, must be 1 to %u",
                           o->lengths[i].n_prompt, o->limits.max_context - 1);
    return ST_OK;
}

size_t sim_bytes(const sim_options *o) {
    return check(o, NULL) == ST_OK && sched_bytes(&o->limits) > 0 ? lay_out(NULL, o, NULL) : 0;
}

st_code sim_init(void *memory, const sim_options *o, sim **out, st_error *e) {
    sim *s = NULL;
    st_code code = check(o, e);
    if (code) return code;
    INVARIANT(memory && ((uintptr_t)memory & 63) == 0);
    lay_out(memory, o, &s);
    sim_init_corpus(s);
    for (uint32_t c = 0; !code && c < o->n_copies; c++)
        code = sched_init(s->clusters[c].memory, &s->o.limits, &s->clusters[c].sched, e);
    if (code) return code;
    for (uint32_t i = 0; i < s->n_sources; i++) s->at[i] = NEVER;
    for (uint32_t i = 0; i < o->n_slots; i++) {
        s->free_slots[i] = o->n_slots - 1 - i;
        s->slots[i].text = s->texts + (size_t)i * s->text_room;
    }
    s->lookup = SPEC_LOOKUP_OPTIONS;
    s->lookup.floor = o->limits.draft_floor;
    sim_fit_text(s, s->texts);
    for (uint32_t c = 0; c < o->n_copies; c++) {
        for (uint32_t i = 0; i < o->limits.n_groups; i++) tell(s, c, &(sched_event){.kind = SCHED_GROUP_UP, .group = i});
        for (uint32_t i = 0; i < o->limits.n_drafters; i++) tell(s, c, &(sched_event){.kind = SCHED_DRAFTER_UP, .drafter = i});
    }
    *out = s;
    return ST_OK;
}
