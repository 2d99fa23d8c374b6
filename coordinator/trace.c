/* The trace: a ring of what nodes and requests were busy with last.
 *
 * A span is noted when it ends, so the ring is in order of ends. It is always on: a note is a few stores, and who wants to know
 * why the cluster was slow asks afterwards. What a plan took beyond its step (coding, the way, wake-ups) is half before it and
 * half behind. */
#include "coordinator/coordinator_int.h"

#include "base/mem.h"
#include <stdio.h>

enum { SPANS = 16384 };

st_code trace_init(trace *t, st_error *e) {
    t->spans = mem_alloc(SPANS, sizeof *t->spans);
    return t->spans ? ST_OK : st_fail(e, ST_FATAL_MEMORY, "no memory for a trace of %d spans", SPANS);
}

void trace_deinit(trace *t) { mem_free(t->spans); }

void trace_note(trace *t, const char *kind, const char *name, const proto_span *numbers) {
    proto_span *s = &t->spans[t->n++ % SPANS];
    *s = *numbers;
    snprintf(s->kind, sizeof s->kind, "%s", kind);
    snprintf(s->name, sizeof s->name, "%s", name);
}

uint32_t trace_read(const trace *t, uint64_t *at, proto_span *out, uint32_t n_max) {
    uint64_t oldest = t->n > SPANS ? t->n - SPANS : 0;
    uint32_t n = 0;
    if (*at < oldest) *at = oldest;
    while (*at < t->n && n < n_max) out[n++] = t->spans[(*at)++ % SPANS];
    return n;
}
