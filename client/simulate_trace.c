/* From a trace to costs, habits and lengths.
 *
 * A cost is a table: plans of equal size are a point, small groups of neighbours are put together, and the times of a point stay
 * as they were, in eight parts, so that a machine's noise is in the simulation too. What a sequence adds is how steps of equal
 * size differ by it, and is taken from them before. What prompts add is the rest of the plans that had some, by token. What the
 * coordinator takes is the median from the end of a plan to the beginning of the next; the client's likewise. */
#include "client/simulate_int.h"

#include "base/mem.h"
#include "client/client_int.h"
#include <stdlib.h>
#include <string.h>

enum { MIN_SAMPLES = 8, MIN_STEPS = 32, FEW_TOKENS = 32 /* that a drafter takes in with a round */ };
static const double MOST_PAUSE_US = 5000; /* longer ones had nothing to do */

typedef struct {
    uint32_t size, prompt, sequences;
    double us;
} sample;

typedef struct {
    sample *items; /* [n] */
    size_t n;
} samples;

typedef struct {
    double start_us, end_us;
} span;

typedef struct {
    samples steps, drafts[SIMULATE_MAX_DRAFTERS]; /* as the trace's drafters */
    span *plans, *requests;
    size_t n_plans, n_requests;
} reading;

/* ---- costs ---- */

static int by_size_then_time(const void *a, const void *b) {
    const sample *x = a, *y = b;
    if (x->size != y->size) return x->size < y->size ? -1 : 1;
    return x->us < y->us ? -1 : x->us > y->us;
}

static int by_time(const void *a, const void *b) {
    const sample *x = a, *y = b;
    return x->us < y->us ? -1 : x->us > y->us;
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

/* The mean of the part from `from` to `to`, shares of the samples in their order. */
static double mean_of_part(const sample *items, size_t n, double from, double to) {
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        double low = (double)i / (double)n, high = (double)(i + 1) / (double)n;
        if (low < from) low = from;
        if (high > to) high = to;
        if (high > low) sum += items[i].us * (high - low);
    }
    return sum / (to - from);
}

static void add_point(sim_cost *c, sample *items, size_t n) {
    uint64_t sizes = 0;
    qsort(items, n, sizeof *items, by_time);
    for (size_t i = 0; i < n; i++) sizes += items[i].size;
    uint32_t size = (uint32_t)((sizes + n / 2) / n);
    if (c->n > 0 && size <= c->size[c->n - 1]) size = c->size[c->n - 1] + 1;
    c->size[c->n] = size;
    for (uint32_t d = 0; d < SIM_COST_DRAWS; d++)
        c->ns[c->n][d] = (uint64_t)(1e3 * mean_of_part(items, n, (double)d / SIM_COST_DRAWS, (double)(d + 1) / SIM_COST_DRAWS));
    c->n++;
}

/* Plans of size 0 (those that only close, or take in) are never put together with others. */
static void add_points(sim_cost *c, sample *items, size_t n) {
    size_t least = n / (SIM_COST_POINTS - 2), from = 0;
    if (least < MIN_SAMPLES) least = MIN_SAMPLES;
    qsort(items, n, sizeof *items, by_size_then_time);
    for (size_t i = 1; i <= n; i++) {
        size_t rest = n - i;
        bool ends =
            i == n || (items[i].size != items[i - 1].size && (!items[i - 1].size || (i - from >= least && rest >= least)));
        if (!ends) continue;
        add_point(c, items + from, i - from);
        from = i;
    }
}

static double mean_us(const sim_cost *c, uint32_t size) {
    uint32_t i = size > 0 && c->n > 1 && c->size[0] == 0;
    while (i + 1 < c->n && c->size[i + 1] <= size) i++;
    double sum = 0;
    for (uint32_t d = 0; d < SIM_COST_DRAWS; d++) sum += (double)c->ns[i][d];
    return sum / SIM_COST_DRAWS / 1e3;
}

static int by_prompt(const void *a, const void *b) {
    const sample *x = a, *y = b;
    return x->prompt < y->prompt ? -1 : x->prompt > y->prompt;
}

/* What is beyond the table's time of the same size, in groups of neighbours of at least so many. */
static void add_prompts(sim_cost *c, sample *items, size_t n) {
    size_t least = n / SIM_COST_PROMPTS + 1, from = 0;
    if (least < MIN_SAMPLES) least = MIN_SAMPLES;
    qsort(items, n, sizeof *items, by_prompt);
    for (size_t i = 1; i <= n; i++) {
        if (i < n && (items[i].prompt == items[i - 1].prompt || i - from < least || n - i < least)) continue;
        double us = 0, tokens = 0;
        for (size_t k = from; k < i; k++) us += items[k].us - mean_us(c, items[k].size), tokens += items[k].prompt;
        uint32_t size = (uint32_t)(tokens / (double)(i - from) + 0.5),
                 before = c->n_prompts ? c->prompt_size[c->n_prompts - 1] : 0;
        c->prompt_size[c->n_prompts] = size > before ? size : before + 1;
        c->prompt_ns[c->n_prompts++] = us > 0 ? 1e3 * us / (double)(i - from) : 0;
        from = i;
    }
}

/* The slope by least squares, of all sizes together, each about its own mean; never falling. Sorts. */
static double us_of_a_sequence(sample *items, size_t n) {
    double product = 0, square = 0;
    qsort(items, n, sizeof *items, by_size_then_time);
    for (size_t from = 0, to; from < n; from = to) {
        double us = 0, sequences = 0;
        for (to = from; to < n && items[to].size == items[from].size; to++) us += items[to].us, sequences += items[to].sequences;
        for (size_t i = from; i < to; i++) {
            double by = items[i].sequences - sequences / (double)(to - from);
            product += by * (items[i].us - us / (double)(to - from));
            square += by * by;
        }
    }
    return product > 0 ? product / square : 0;
}

static void take_sequences_out(sample *items, size_t n, double us) {
    for (size_t i = 0; i < n; i++) {
        double rest = items[i].us - us * (items[i].sequences > 1 ? items[i].sequences - 1 : 0);
        items[i].us = rest > 0 ? rest : 0;
    }
}

/* Plans with at most `few` tokens of prompts are the table; the others say what these add. False: no plan. */
static bool fit(sim_cost *c, samples *s, uint32_t few, bool by_sequence) {
    size_t n = 0;
    *c = (sim_cost){0};
    for (size_t i = 0; i < s->n; i++)
        if (s->items[i].prompt <= few) {
            sample moved = s->items[n];
            s->items[n++] = s->items[i];
            s->items[i] = moved;
        }
    if (n == 0) return false;
    double us = by_sequence ? us_of_a_sequence(s->items, n) : 0;
    take_sequences_out(s->items, s->n, us);
    c->sequence_ns = 1e3 * us;
    add_points(c, s->items, n);
    if (s->n > n) add_prompts(c, s->items + n, s->n - n);
    return true;
}

/* ---- pauses ---- */

static int by_start(const void *a, const void *b) {
    const span *x = a, *y = b;
    return x->start_us < y->start_us ? -1 : x->start_us > y->start_us;
}

/* The median time from the last end to a start; 0: there is none. */
static uint64_t median_pause_ns(span *spans, size_t n) {
    double *ends = mem_alloc(n + 1, sizeof *ends), *pauses = mem_alloc(n + 1, sizeof *pauses);
    size_t n_pauses = 0, k = 0;
    uint64_t ns = 0;
    if (ends && pauses) {
        for (size_t i = 0; i < n; i++) ends[i] = spans[i].end_us;
        qsort(ends, n, sizeof *ends, by_value);
        qsort(spans, n, sizeof *spans, by_start);
        for (size_t i = 0; i < n; i++) {
            while (k < n && ends[k] <= spans[i].start_us) k++;
            if (k > 0 && spans[i].start_us - ends[k - 1] < MOST_PAUSE_US) pauses[n_pauses++] = spans[i].start_us - ends[k - 1];
        }
        qsort(pauses, n_pauses, sizeof *pauses, by_value);
        if (n_pauses) ns = (uint64_t)(1e3 * pauses[n_pauses / 2]);
    }
    mem_free(ends);
    mem_free(pauses);
    return ns;
}

/* ---- the file ---- */

static st_code field(const json_t *o, const char *name, const char *path, size_t number, double *out, st_error *e) {
    const json_t *v = json_object_get(o, name);
    *out = json_number_value(v);
    if (json_is_number(v) && *out >= 0 && *out < 1e15) return ST_OK;
    return st_fail(e, ST_ERR_FORMAT, "%s: event %zu: %s: expected a number%s", path, number, name,
                   v ? "" : "; was it written by another version of consort trace?");
}

static simulate_drafter *drafter_named(simulate_trace *t, const char *name) {
    for (uint32_t i = 0; i < t->n_drafters; i++)
        if (!strcmp(t->drafters[i].name, name)) return &t->drafters[i];
    return NULL;
}

/* "drafter writer, rank 2" -> writer, by lane. */
static uint32_t drafter_of_lane(simulate_trace *t, const json_t *events, json_int_t lane) {
    size_t i;
    json_t *event;
    json_array_foreach(events, i, event) {
        const char *what = json_string_value(json_object_get(event, "name"));
        const char *name = json_string_value(json_object_get(json_object_get(event, "args"), "name"));
        char word[80];
        if (!what || !name || strcmp(what, "thread_name") || json_integer_value(json_object_get(event, "pid")) != 1 ||
            json_integer_value(json_object_get(event, "tid")) != lane || sscanf(name, "drafter %79[^,],", word) != 1)
            continue;
        simulate_drafter *d = drafter_named(t, word);
        if (d) return (uint32_t)(d - t->drafters);
    }
    return SIMULATE_MAX_DRAFTERS;
}

static st_code take_event(simulate_trace *t, reading *r, const json_t *events, const json_t *event, const char *path,
                          size_t number, st_error *e) {
    const char *kind = json_string_value(json_object_get(event, "cat")),
               *name = json_string_value(json_object_get(event, "name"));
    const json_t *args = json_object_get(event, "args");
    double ts = 0, dur = 0, tokens = 0, prompt = 0, drafted = 0, sequences = 0;
    if (!kind || !name) return ST_OK;
    bool is_request = !strcmp(kind, "request") && strcmp(name, "until the first token");
    if (!is_request && strcmp(name, "on its way")) return ST_OK;
    st_code code = field(event, "ts", path, number, &ts, e);
    if (!code) code = field(event, "dur", path, number, &dur, e);
    if (!code) code = field(args, "tokens", path, number, &tokens, e);
    if (!code) code = field(args, "prompt", path, number, &prompt, e);
    if (!code) code = field(args, "drafted", path, number, &drafted, e);
    if (!code) code = field(args, "sequences", path, number, &sequences, e);
    if (code) return code;
    if (is_request) {
        r->requests[r->n_requests++] = (span){ts, ts + dur};
        if (prompt >= 1 && tokens >= 1 && prompt < 1 << 20 && t->n_lengths < SIM_MAX_LENGTHS)
            t->lengths[t->n_lengths++] = (sim_lengths){(uint32_t)prompt, (uint32_t)tokens};
        return ST_OK;
    }
    if (tokens > UINT32_MAX || prompt > tokens || drafted > UINT32_MAX || sequences > UINT32_MAX)
        return st_fail(e, ST_ERR_FORMAT, "%s: event %zu: %.0f tokens, of these %.0f of prompts", path, number, tokens, prompt);
    r->plans[r->n_plans++] = (span){ts, ts + dur};
    bool is_step = !strcmp(kind, "step");
    uint32_t drafter = is_step ? 0 : drafter_of_lane(t, events, json_integer_value(json_object_get(event, "tid")));
    if (drafter == SIMULATE_MAX_DRAFTERS) return ST_OK;
    samples *to = is_step ? &r->steps : &r->drafts[drafter];
    to->items[to->n++] = (sample){(uint32_t)(is_step ? tokens - prompt : drafted), (uint32_t)prompt, (uint32_t)sequences, dur};
    return ST_OK;
}

static st_code take_counts(const json_t *list, const char *name, const char *path, uint64_t *out, size_t n, st_error *e) {
    if (json_array_size(list) != n)
        return st_fail(e, ST_ERR_FORMAT, "%s: habits: %s: %zu counts, expected %zu", path, name, json_array_size(list), n);
    for (size_t i = 0; i < n; i++) {
        json_int_t value = json_integer_value(json_array_get(list, i));
        if (value < 0) return st_fail(e, ST_ERR_FORMAT, "%s: habits: %s: a count is under 0", path, name);
        out[i] = (uint64_t)value;
    }
    return ST_OK;
}

static st_code take_habits(simulate_trace *t, const json_t *habits, const char *path, st_error *e) {
    size_t i;
    json_t *h;
    json_array_foreach(habits, i, h) {
        const char *name = json_string_value(json_object_get(h, "name"));
        simulate_drafter *d = &t->drafters[t->n_drafters];
        enum { CELLS = sizeof d->habit.seen / sizeof ***d->habit.seen };
        uint64_t *seen = d->habit.seen[0][0], *hits = d->habit.hits[0][0];
        if (!name || strlen(name) >= sizeof d->name || i == SIMULATE_MAX_DRAFTERS)
            return st_fail(e, ST_ERR_FORMAT, "%s: habits: number %zu: expected at most %d with names", path, i,
                           SIMULATE_MAX_DRAFTERS);
        snprintf(d->name, sizeof d->name, "%s", name);
        st_code code = take_counts(json_object_get(h, "none"), "none", path, d->habit.none, PROTO_HABIT_DEPTHS, e);
        if (!code) code = take_counts(json_object_get(h, "seen"), "seen", path, seen, CELLS, e);
        if (!code) code = take_counts(json_object_get(h, "hits"), "hits", path, hits, CELLS, e);
        for (size_t k = 0; !code && k < CELLS; k++)
            if (hits[k] > seen[k]) code = st_fail(e, ST_ERR_FORMAT, "%s: habits: %s: more hits than were seen", path, name);
        if (code) return code;
        t->n_drafters++;
    }
    return ST_OK;
}

static st_code make_room(simulate_trace *t, reading *r, size_t n, st_error *e) {
    bool ok = (t->lengths = mem_alloc(SIM_MAX_LENGTHS, sizeof *t->lengths)) && (r->plans = mem_alloc(n + 1, sizeof *r->plans)) &&
              (r->requests = mem_alloc(n + 1, sizeof *r->requests)) &&
              (r->steps.items = mem_alloc(n + 1, sizeof *r->steps.items));
    for (uint32_t i = 0; ok && i < t->n_drafters; i++) ok = (r->drafts[i].items = mem_alloc(n + 1, sizeof(sample))) != NULL;
    return ok ? ST_OK : st_fail(e, ST_FATAL_MEMORY, "out of memory");
}

/* An answer of the most tokens that any has was cut: nobody knows where it would have ended. */
static void open_ends(simulate_trace *t) {
    uint32_t most = 0;
    for (uint32_t i = 0; i < t->n_lengths; i++)
        if (t->lengths[i].n_answer > most) most = t->lengths[i].n_answer;
    for (uint32_t i = 0; i < t->n_lengths; i++)
        if (t->lengths[i].n_answer == most) t->lengths[i].n_answer = UINT32_MAX;
}

static st_code digest(simulate_trace *t, reading *r, const char *path, st_error *e) {
    t->n_steps = (uint32_t)r->steps.n;
    if (r->steps.n < MIN_STEPS || t->n_lengths == 0)
        return st_fail(e, ST_ERR_INVALID_ARGUMENT,
                       "%s: %zu steps and %u requests with answers; at least %d and 1 are needed: trace a cluster behind a load "
                       "(consort bench serve)",
                       path, r->steps.n, t->n_lengths, MIN_STEPS);
    if (!fit(&t->step, &r->steps, 0, true))
        return st_fail(e, ST_ERR_INVALID_ARGUMENT, "%s: no step without a prompt: the answers are too short", path);
    for (uint32_t i = 0; i < t->n_drafters; i++) {
        t->n_drafts += (uint32_t)r->drafts[i].n;
        t->drafters[i].knows_cost = fit(&t->drafters[i].cost, &r->drafts[i], FEW_TOKENS, false);
    }
    open_ends(t);
    t->decide_ns = median_pause_ns(r->plans, r->n_plans);
    t->client_ns = median_pause_ns(r->requests, r->n_requests);
    return ST_OK;
}

st_code simulate_trace_read(simulate_trace *out, const char *path, st_error *e) {
    json_error_t je;
    reading r = {0};
    json_t *all = json_load_file(path, 0, &je), *event;
    const json_t *events = json_object_get(all, "traceEvents");
    size_t i;
    st_code code = ST_OK;
    if (!all) code = st_fail(e, ST_ERR_IO, "%s: line %d: %s", path, je.line, je.text);
    if (!code && (!json_is_array(events) || !json_is_array(json_object_get(all, "habits"))))
        code = st_fail(e, ST_ERR_FORMAT, "%s: no traceEvents and habits; expected what consort trace --out writes", path);
    if (!code) code = take_habits(out, json_object_get(all, "habits"), path, e);
    if (!code) code = make_room(out, &r, json_array_size(events), e);
    if (!code) json_array_foreach(events, i, event) {
            code = take_event(out, &r, events, event, path, i, e);
            if (code) break;
        }
    if (!code) code = digest(out, &r, path, e);
    json_decref(all);
    mem_free(r.plans);
    mem_free(r.requests);
    mem_free(r.steps.items);
    for (uint32_t d = 0; d < SIMULATE_MAX_DRAFTERS; d++) mem_free(r.drafts[d].items);
    return code;
}

void simulate_trace_deinit(simulate_trace *t) { mem_free(t->lengths); }

const simulate_drafter *simulate_trace_find(const simulate_trace *t, const char *name) {
    for (uint32_t i = 0; i < t->n_drafters; i++)
        if (!strcmp(t->drafters[i].name, name)) return &t->drafters[i];
    return NULL;
}

bool simulate_has_drafted(const proto_habit *h) {
    for (uint32_t b = 0; b < PROTO_HABIT_BINS; b++)
        if (h->seen[0][0][b]) return true;
    return false;
}
