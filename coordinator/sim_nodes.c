/* What virtual nodes answer, and the texts behind it.
 *
 * Text: lookup's draft is asked for at each place; where it has one, that is the next token as often as drafts of such belief
 * were right, and else a token that stood before, or one that did not. Of the former some go on as another occurrence of the last
 * token did. How often is fitted, so that lookup proposes something, and something that it is sure of, as often as was measured.
 *
 * A draft: a chain whose beliefs are drawn by depth from the drafter's habit, each with a second choice beside it as often as was
 * seen; of this the likeliest nodes within the budget. Below a wrong node all are wrong. */
#include "coordinator/sim_int.h"

#include "base/philox.h"
#include <string.h>

enum { MAX_DEPTH = 24 };

sim_draw sim_drawn(const sim *s, uint32_t stream, uint64_t number, uint32_t place) {
    philox_block b = philox(s->o.seed, (philox_block){{stream, (uint32_t)number, (uint32_t)(number >> 32), place}});
    sim_draw d;
    for (int i = 0; i < 4; i++) d.u[i] = (b.word[i] >> 8) * 0x1p-24;
    return d;
}

/* ---- texts ---- */

static uint32_t bin_of(float p) {
    uint32_t bin = (uint32_t)(p * PROTO_HABIT_BINS);
    return bin < PROTO_HABIT_BINS ? bin : PROTO_HABIT_BINS - 1;
}

/* One of the lower half of the vocabulary; wrong drafts are of the upper one. */
static uint32_t new_token(const sim *s, double u) { return 1 + (uint32_t)(u * (s->o.limits.n_vocab / 2 - 1)); }

/* From `at` on, round the text: behind an earlier occurrence of the last token, but not what lookup has said; `at` if there is
 * none. */
static uint32_t other_place(const uint32_t *text, uint32_t n, uint32_t at, uint32_t said) {
    for (uint32_t i = 0, k = at; i < n; i++, k = k + 1 < n ? k + 1 : 0)
        if (k > 0 && text[k - 1] == text[n - 1] && text[k] != said) return k;
    return at;
}

static uint32_t next_token(const sim *s, sim_draw d, const uint32_t *text, uint32_t n) {
    spec_tree t = {0};
    if (n > 0 && s->o.lookup) spec_lookup(&s->lookup, text, n, 1, &t);
    if (t.n && d.u[0] < (double)s->copies[bin_of(t.probability[0])]) return t.token[0];
    if (n == 0 || d.u[1] >= s->repeats) return new_token(s, d.u[3]);
    uint32_t at = (uint32_t)(d.u[2] * n);
    if (t.n && d.u[1] < s->repeats * s->others) at = other_place(text, n, at, t.token[0]);
    return t.n && text[at] == t.token[0] ? new_token(s, d.u[3]) : text[at];
}

void sim_write_text(const sim *s, uint32_t stream, uint64_t number, uint32_t *text, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) text[i] = next_token(s, sim_drawn(s, stream, number, i), text, i);
}

/* What lookup finds at the rounds of a text, begun behind each token that it had not. */
typedef struct {
    double proposed, sure; /* of rounds, those in which it proposes something; of these, those behind a long match */
} finds;

static const float SURE = 0.5f; /* its belief behind a match of two tokens or more */

static finds found_in_texts(sim *s, uint32_t *text) {
    enum { TEXTS = 24, LENGTH = 256 };
    uint32_t n = s->text_room < LENGTH ? s->text_room : LENGTH, n_rounds = 0, n_proposed = 0, n_sure = 0;
    for (uint32_t i = 0; i < TEXTS; i++) {
        sim_write_text(s, SIM_DRAW_TRIAL, i, text, n);
        for (uint32_t at = n / 3 + 1; at < n;) {
            spec_tree t;
            spec_lookup(&s->lookup, text, at, s->o.limits.max_tree, &t);
            n_rounds++;
            n_proposed += t.n > 0;
            n_sure += t.n > 0 && t.probability[0] >= SURE;
            token_tree view = spec_tree_view(&t);
            at += 1 + spec_tree_walk(&view, text + at, n - at, NULL);
        }
    }
    return (finds){n_rounds ? (double)n_proposed / n_rounds : 0, n_proposed ? (double)n_sure / n_proposed : 0};
}

/* The two shares depend on each other, but little: they are fitted in turn. */
static void fit(sim *s, uint32_t *scratch, finds wanted) {
    for (int turn = 0; turn < 3; turn++) {
        double low = 0, high = 1;
        for (int i = 0; i < 8; i++) {
            s->repeats = (low + high) / 2;
            *(found_in_texts(s, scratch).proposed < wanted.proposed ? &low : &high) = s->repeats;
        }
        low = 0, high = 1;
        for (int i = 0; i < 8; i++) {
            s->others = (low + high) / 2;
            *(found_in_texts(s, scratch).sure < wanted.sure ? &low : &high) = s->others;
        }
    }
}

void sim_fit_text(sim *s, uint32_t *scratch) {
    const proto_habit *h = s->o.lookup;
    uint64_t proposed = 0, sure = 0;
    if (!h || !s->o.limits.max_tree) return;
    for (uint32_t b = 0; b < PROTO_HABIT_BINS; b++) {
        uint64_t seen = 0, hits = 0;
        for (uint32_t d = 0; d < PROTO_HABIT_DEPTHS; d++) seen += h->seen[0][d][b], hits += h->hits[0][d][b];
        s->copies[b] = seen ? (float)hits / (float)seen : ((float)b + 0.5f) / PROTO_HABIT_BINS;
        proposed += h->seen[0][0][b];
        sure += (float)b >= SURE * PROTO_HABIT_BINS ? h->seen[0][0][b] : 0;
    }
    if (proposed) fit(s, scratch, (finds){(double)proposed / (double)(proposed + h->none[0]), (double)sure / (double)proposed});
}

/* ---- what plans take ---- */

static double mean(const sim_cost *c, uint32_t point) {
    double sum = 0;
    for (uint32_t i = 0; i < SIM_COST_DRAWS; i++) sum += (double)c->ns[point][i];
    return sum / SIM_COST_DRAWS;
}

/* Between points, and behind the last of those that compute (plans of size 0 do not), on straight lines; before the first as
 * there. */
static double interpolate(const sim_cost *c, uint32_t size, uint32_t draw) {
    uint32_t last = c->n - 1, first = last > 0 && c->size[0] == 0, i = size > 0 ? first : 0;
    while (i < last && c->size[i + 1] <= size) i++;
    double ns = (double)c->ns[i][draw];
    if (size <= c->size[i] || first == last) return ns;
    if (i < last) return ns + ((double)c->ns[i + 1][draw] - ns) * (size - c->size[i]) / (c->size[i + 1] - c->size[i]);
    double slope = (mean(c, last) - mean(c, first)) / (c->size[last] - c->size[first]);
    return slope > 0 ? ns + slope * (size - c->size[last]) : ns;
}

static double prompts(const sim_cost *c, uint64_t n) {
    uint32_t size = 0;
    double ns = 0;
    for (uint32_t i = 0; i < c->n_prompts; size = c->prompt_size[i], ns = c->prompt_ns[i], i++)
        if (n < c->prompt_size[i]) return ns + (c->prompt_ns[i] - ns) * (double)(n - size) / (c->prompt_size[i] - size);
    return size ? ns * (double)n / size : 0;
}

static uint64_t takes(const sim *s, const sim_cost *c, uint32_t size, uint64_t prompt, uint64_t number, uint32_t node) {
    sim_draw d = sim_drawn(s, SIM_DRAW_COST, number, node);
    return (uint64_t)(interpolate(c, size, (uint32_t)(d.u[0] * SIM_COST_DRAWS)) + prompts(c, prompt));
}

/* ---- the verifier ---- */

static sim_slot *slot_of(const sim *s, seq_id seq) { return &s->slots[seq.value % s->o.n_slots]; }

/* The tokens that it chooses, along the tree. */
static uint32_t choose(const sim_slot *r, const proto_work *w, uint32_t *out) {
    uint32_t n = 0, node = NOUNS_TREE_ROOT;
    do {
        out[n] = r->text[r->n_known + n];
        node = w->tree.n_nodes ? spec_tree_child(&w->tree, node, out[n]) : NOUNS_TREE_ROOT;
        n++;
    } while (node != NOUNS_TREE_ROOT);
    return n;
}

uint64_t sim_verify(sim *s, sim_place *v, uint32_t verifier, const proto_plan *p, uint64_t *bytes) {
    const sched_limits *l = &s->o.limits;
    uint32_t n_choose = 0, n_prompt = 0;
    *bytes = SIM_MESSAGE_BYTES;
    for (uint32_t i = 0; i < p->n_open; i++) slot_of(s, p->open[i].seq)->hidden = p->open[i].rules.hidden;
    for (uint32_t i = 0; i < p->n_work; i++) {
        const proto_work *w = &p->work[i];
        sim_slot *r = slot_of(s, w->seq);
        uint32_t *tokens = v->tokens + (size_t)i * (1 + l->max_tree);
        v->items[i] = (proto_item){.seq = w->seq, .tokens = tokens};
        n_prompt += w->n_prefix;
        *bytes += SIM_ITEM_BYTES;
        if (r->seq.value != w->seq.value || w->start + w->n_prefix < r->n_known) continue;
        uint32_t n = v->items[i].n_tokens = choose(r, w, tokens);
        n_choose += 1 + w->tree.n_nodes;
        n_prompt--;
        r->n_known += n;
        *bytes += SIM_TOKEN_BYTES * n;
        if (!r->hidden) continue;
        v->items[i].hidden = (hidden_states){l->dim, s->hidden};
        *bytes += sizeof(uint16_t) * l->dim * (uint64_t)n;
    }
    v->result = (proto_result){.plan_id = p->id, .n_rows = n_prompt + n_choose, .n_items = p->n_work, .items = v->items};
    uint32_t node = verifier > 0 ? SPEC_MAX_DRAFTERS + verifier : 0; /* 1 and on are drafters */
    uint32_t n_more = p->n_work > 1 ? p->n_work - 1 : 0;
    return takes(s, &s->o.step, n_choose, n_prompt, v->n_plans, node) + (uint64_t)(s->o.step.sequence_ns * n_more);
}

/* A sequence of which it is wrong has another last token. */
void sim_turn_early(const sim *s, sim_place *v) {
    for (uint32_t i = 0; i < v->result.n_items; i++) {
        uint32_t n = v->items[i].n_tokens;
        if (n > 0 && sim_drawn(s, SIM_DRAW_EARLY, v->n_plans, i).u[0] >= s->o.early_right)
            v->tokens[(size_t)i * (1 + s->o.limits.max_tree) + n - 1] ^= 1;
    }
}

/* ---- a drafter ---- */

typedef struct {
    float p;
    bool right;
} guess;

/* A first or second choice: its belief, and whether it is the text's. `u` and `right` in [0, 1); `taken`: of `right`, what the
 * first one has. */
static guess guess_of(const proto_habit *h, uint32_t rank, uint32_t depth, double u, double right, double *taken) {
    uint64_t all = 0, so_far = 0;
    uint32_t b = 0;
    for (uint32_t i = 0; i < PROTO_HABIT_BINS; i++) all += h->seen[rank][depth][i];
    while (b + 1 < PROTO_HABIT_BINS && (double)(so_far += h->seen[rank][depth][b]) <= u * (double)all) b++;
    double hits = (double)h->hits[rank][depth][b] / (double)h->seen[rank][depth][b];
    guess g = {((float)b + 0.5f) / PROTO_HABIT_BINS, right >= *taken && right < *taken + hits};
    *taken += hits;
    return g;
}

static uint64_t seen(const proto_habit *h, uint32_t rank, uint32_t depth) {
    uint64_t n = 0;
    for (uint32_t i = 0; i < PROTO_HABIT_BINS; i++) n += h->seen[rank][depth][i];
    return n;
}

/* The upper half of the vocabulary, so that no text has it, and no drafter of another file. */
static uint32_t wrong_token(const sim *s, const sim_drafter *d, uint32_t node) {
    return s->o.limits.n_vocab / 2 + (d->as * NOUNS_MAX_TREE + node) % (s->o.limits.n_vocab / 2);
}

/* Cuts a tree to the nodes of the likeliest paths; a parent's is never less likely than its child's. */
static void cut(spec_tree *t, const float *path, uint32_t budget) {
    uint32_t place[NOUNS_MAX_TREE], n = 0;
    for (uint32_t i = 0; i < t->n; i++) {
        uint32_t better = 0;
        for (uint32_t k = 0; k < t->n; k++) better += path[k] > path[i] || (path[k] == path[i] && k < i);
        if (better >= budget) continue;
        place[i] = n;
        t->token[n] = t->token[i];
        t->probability[n] = t->probability[i];
        t->parent[n++] = t->parent[i] == NOUNS_TREE_ROOT ? NOUNS_TREE_ROOT : place[t->parent[i]];
    }
    t->n = n;
}

static uint32_t add(spec_tree *t, float *path, uint32_t parent, uint32_t token, float p) {
    path[t->n] = p * (parent == NOUNS_TREE_ROOT ? 1 : path[parent]);
    return spec_tree_add(t, parent, token, p);
}

static bool is_text(const sim *s, const sim_slot *r, uint32_t from, const uint32_t *tokens, uint32_t n) {
    for (uint32_t i = 0; i < n; i++)
        if (from + i >= s->text_room || r->text[from + i] != tokens[i]) return false;
    return true;
}

/* What a choice is drawn by: whether there is one, its belief, whether it is right; likewise a second. Where a token is as easy
 * for one as for another, whether it is right is drawn with lookup (next_token). */
typedef struct {
    double is, belief, right, is_second, belief_of_second;
} choice;

static choice choice_at(const sim *s, const sim_drafter *d, const sim_slot *r, uint32_t known, uint32_t depth) {
    sim_draw a = sim_drawn(s, SIM_DRAW_DRAFT + d->as, r->number, (known << 6) + 2 * depth);
    sim_draw b = sim_drawn(s, SIM_DRAW_DRAFT + d->as, r->number, (known << 6) + 2 * depth + 1);
    choice c = {a.u[0], a.u[1], a.u[2], b.u[0], b.u[1]};
    if (b.u[2] < s->o.alike) c.right = sim_drawn(s, SIM_DRAW_TEXT, r->number, known + depth).u[0];
    return c;
}

/* Drafts what follows text[known - 1], or the tentative tokens behind it: only of use where these are the text. That drafts end
 * at the floor is in a habit that was measured; one in which they never end has the floor's ends from here. */
static void draft(const sim *s, const sim_drafter *d, const sim_slot *r, uint32_t known, const proto_draft *asked, spec_tree *t) {
    const proto_habit *h = d->habit;
    float path[NOUNS_MAX_TREE], floor = s->o.limits.draft_floor;
    uint32_t parent = NOUNS_TREE_ROOT;
    bool on_text = is_text(s, r, known, asked->tentative, asked->n_tentative);
    known += asked->n_tentative;
    t->n = 0;
    for (uint32_t i = 0; i < MAX_DEPTH && t->n + 2 <= NOUNS_MAX_TREE && known + i < s->text_room; i++) {
        uint32_t depth = i < PROTO_HABIT_DEPTHS ? i : PROTO_HABIT_DEPTHS - 1, truth = r->text[known + i];
        uint64_t first = seen(h, 0, depth), second = seen(h, 1, depth);
        choice c = choice_at(s, d, r, known, i);
        if (!first || c.is * (double)(first + h->none[depth]) >= (double)first) break;
        double taken = 0;
        guess g = guess_of(h, 0, depth, c.belief, c.right, &taken);
        if (!h->none[depth] && g.p * (parent == NOUNS_TREE_ROOT ? 1 : path[parent]) < floor) break;
        uint32_t node = add(t, path, parent, on_text && g.right ? truth : wrong_token(s, d, t->n), g.p);
        if (second && c.is_second * (double)first < (double)second) {
            guess other = guess_of(h, 1, depth, c.belief_of_second, c.right, &taken);
            if (other.p > 1 - g.p) other.p = 1 - g.p;
            if (other.p > 0) add(t, path, parent, on_text && other.right ? truth : wrong_token(s, d, t->n), other.p);
        }
        on_text &= g.right;
        parent = node;
    }
    cut(t, path, asked->budget);
}

/* Of the new tokens of the answer, how many its own choice was. */
static uint32_t hits_of(const sim *s, const sim_drafter *d, const sim_slot *r, uint32_t known, uint32_t n_new) {
    const proto_habit *h = d->habit;
    uint32_t hits = 0;
    for (uint32_t at = known - n_new; at < known; at++) {
        choice c = choice_at(s, d, r, at, 0);
        double taken = 0, first = (double)seen(h, 0, 0);
        if (first > 0 && c.is * (first + (double)h->none[0]) < first) hits += guess_of(h, 0, 0, c.belief, c.right, &taken).right;
    }
    return hits;
}

uint64_t sim_propose(sim *s, sim_place *d, uint32_t drafter, const proto_plan *p, uint64_t *bytes) {
    const sim_drafter *of = &s->o.drafters[drafter];
    uint32_t n_nodes = 0;
    uint64_t n_new = 0;
    *bytes = SIM_MESSAGE_BYTES;
    for (uint32_t i = 0; i < p->n_open; i++) d->told[p->open[i].seq.value % s->o.n_slots] = p->open[i].n_tokens;
    for (uint32_t i = 0; i < p->n_open; i++) n_new += p->open[i].n_tokens;
    for (uint32_t i = 0; i < p->n_draft; i++) {
        const proto_draft *asked = &p->draft[i];
        sim_slot *r = slot_of(s, asked->seq);
        uint32_t known = d->told[asked->seq.value % s->o.n_slots] += asked->n_tokens;
        uint32_t n_scored = asked->n_tokens < SPEC_MAX_SCORED ? asked->n_tokens : SPEC_MAX_SCORED;
        size_t at = (size_t)i * NOUNS_MAX_TREE;
        spec_tree t = {0};
        bool live = r->seq.value == asked->seq.value;
        n_new += (uint64_t)asked->n_tokens + asked->n_tentative;
        if (live && asked->budget) draft(s, of, r, known, asked, &t);
        for (uint32_t k = 0; k < t.n; k++) {
            d->tokens[at + k] = t.token[k];
            d->parents[at + k] = t.parent[k];
            d->beliefs[at + k] = t.probability[k];
        }
        n_nodes += t.n;
        d->items[i] = (proto_item){.seq = asked->seq,
                                   .tree = {t.n, d->tokens + at, d->parents + at, d->beliefs + at},
                                   .n_scored = n_scored,
                                   .n_hits = live ? hits_of(s, of, r, known, n_scored) : 0};
        *bytes += SIM_ITEM_BYTES + SIM_NODE_BYTES * t.n;
    }
    d->result = (proto_result){.plan_id = p->id, .n_rows = (uint32_t)n_new + n_nodes, .n_items = p->n_draft, .items = d->items};
    return takes(s, &of->cost, n_nodes, n_new, d->n_plans, 1 + drafter);
}

/* ---- the corpus ---- */

static st_code draft_from_corpus(spec_drafter *d, spec_draft *items, uint32_t n, st_error *e) {
    const sim_corpus *c = (const sim_corpus *)d;
    (void)e;
    for (uint32_t i = 0; i < n; i++) {
        const proto_draft asked = {.seq = items[i].seq, .budget = items[i].budget};
        draft(c->sim, &c->own, slot_of(c->sim, asked.seq), items[i].n_tokens, &asked, items[i].tree);
    }
    return ST_OK;
}

void sim_init_corpus(sim *s) {
    static const spec_drafter_ops ops = {.name = SPEC_CORPUS, .draft = draft_from_corpus};
    s->corpus = (sim_corpus){.drafter = {.ops = &ops}, .sim = s, .own = {.habit = s->o.corpus, .as = SIM_MAX_DRAFTERS}};
}
