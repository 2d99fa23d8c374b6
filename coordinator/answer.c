#include "coordinator/coordinator_int.h"

#include "base/mem.h"
#include <string.h>

st_code answer_init(answer *a, const char *const *stops, uint32_t n_stops, size_t max_piece) {
    size_t longest = 0;
    for (uint32_t i = 0; i < n_stops; i++)
        if (strlen(stops[i]) > longest) longest = strlen(stops[i]);
    *a = (answer){.stops = stops, .n_stops = n_stops, .capacity = longest + max_piece + 1};
    a->held = mem_alloc(a->capacity, 1);
    return a->held ? ST_OK : ST_FATAL_MEMORY;
}

void answer_deinit(answer *a) {
    mem_free(a->held);
    *a = (answer){0};
}

size_t answer_capacity(const answer *a) { return a->capacity; }

/* Start of the stop string that is whole first as bytes come in one by one (of two that end together, the longer); n_held if
 * there is none. So the cut does not depend on how the text is split into pieces. */
static size_t find_stop(const answer *a) {
    size_t start = a->n_held, end = SIZE_MAX;
    for (uint32_t i = 0; i < a->n_stops; i++) {
        size_t n = strlen(a->stops[i]);
        const char *p = memmem(a->held, a->n_held, a->stops[i], n);
        size_t at = p ? (size_t)(p - a->held) : 0;
        if (!p || at + n > end || (at + n == end && at >= start)) continue;
        start = at;
        end = at + n;
    }
    return start;
}

/* Length of the longest end of the held text that begins some stop string. */
static size_t undecided(const answer *a) {
    size_t longest = 0;
    for (uint32_t i = 0; i < a->n_stops; i++) {
        size_t n = strlen(a->stops[i]) - 1;
        if (n > a->n_held) n = a->n_held;
        for (; n > longest; n--)
            if (memcmp(a->held + a->n_held - n, a->stops[i], n) == 0) longest = n;
    }
    return longest;
}

bool answer_push(answer *a, const char *text, size_t n, char *out, size_t *n_out) {
    INVARIANT(n <= a->capacity - a->n_held);
    memcpy(a->held + a->n_held, text, n);
    a->n_held += n;
    size_t stop = find_stop(a);
    bool met = stop < a->n_held;
    size_t certain = met ? stop : a->n_held - undecided(a);
    memcpy(out + *n_out, a->held, certain);
    *n_out += certain;
    a->n_held = met ? 0 : a->n_held - certain;
    memmove(a->held, a->held + certain, a->n_held);
    return met;
}

void answer_end(answer *a, char *out, size_t *n_out) {
    memcpy(out + *n_out, a->held, a->n_held);
    *n_out += a->n_held;
    a->n_held = 0;
}
