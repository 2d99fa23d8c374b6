#include "base/fault.h"

#include "base/log.h"
#include "base/philox.h"
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *name, *help;
} points[FAULT_N_POINTS] = {
#define FAULT(name, text, help) [FAULT_##name] = {text, help},
#include "base/fault.def"
#undef FAULT
};

typedef struct {
    uint64_t seed;
    uint32_t one_in[FAULT_N_POINTS]; /* 0: never */
} plan;

/* The plan that holds, member by member: whoever sees a one_in of it sees its seed. */
static _Atomic uint64_t seed;
static _Atomic uint32_t one_in[FAULT_N_POINTS], n_passes[FAULT_N_POINTS], n_hits[FAULT_N_POINTS];

fault_state fault_get(fault_point p) {
    return (fault_state){points[p].name, points[p].help, atomic_load(&one_in[p]), atomic_load(&n_passes[p]),
                         atomic_load(&n_hits[p])};
}

bool fault_hits(fault_point p) {
    uint32_t n = atomic_load_explicit(&one_in[p], memory_order_acquire);
    if (!n) return false;
    uint32_t pass = atomic_fetch_add_explicit(&n_passes[p], 1, memory_order_relaxed);
    uint64_t key = atomic_load_explicit(&seed, memory_order_relaxed);
    if (philox(key, (philox_block){{pass, (uint32_t)p, 0, 0}}).word[0] % n) return false;
    atomic_fetch_add_explicit(&n_hits[p], 1, memory_order_relaxed);
    log_line(LOG_INFO, "fault", "%s, pass %u", points[p].name, pass);
    return true;
}

/* One "name=number" of n bytes. */
static st_code take(plan *out, const char *text, size_t n, st_error *e) {
    const char *equals = memchr(text, '=', n);
    size_t n_name = equals ? (size_t)(equals - text) : n;
    char *end = NULL;
    unsigned long long value = equals && equals[1] >= '0' && equals[1] <= '9' ? strtoull(equals + 1, &end, 10) : 0;
    int p = 0;
    if (end != text + n) return st_fail(e, ST_ERR_INVALID_ARGUMENT, "fault '%.*s': expected POINT=N or seed=N", (int)n, text);
    if (n_name == 4 && !memcmp(text, "seed", 4)) {
        out->seed = value;
        return ST_OK;
    }
    while (p < FAULT_N_POINTS && (strlen(points[p].name) != n_name || memcmp(points[p].name, text, n_name))) p++;
    if (p == FAULT_N_POINTS) return st_fail(e, ST_ERR_INVALID_ARGUMENT, "there is no fault point '%.*s'", (int)n_name, text);
    if (value < 1 || value > UINT32_MAX) return st_fail(e, ST_ERR_INVALID_ARGUMENT, "%s: one in %llu?", points[p].name, value);
    out->one_in[p] = (uint32_t)value;
    return ST_OK;
}

/* None is set while the seed and the counts change; a pass begun before may still hit, by either seed, and be counted. */
static void make(const plan *next, bool any) {
    for (int p = 0; p < FAULT_N_POINTS; p++) atomic_store(&one_in[p], 0);
    if (!any) return;
    atomic_store(&seed, next->seed);
    for (int p = 0; p < FAULT_N_POINTS; p++) {
        atomic_store(&n_passes[p], 0);
        atomic_store(&n_hits[p], 0);
    }
    for (int p = 0; p < FAULT_N_POINTS; p++) atomic_store(&one_in[p], next->one_in[p]);
}

st_code fault_plan(const char *text, st_error *e) {
    const bool any = text && *text;
    plan next = {0};
    st_code code = ST_OK;
    for (size_t n, at = 0; !code && any && text[at]; at += n + (text[at + n] == ',')) {
        n = strcspn(text + at, ",");
        code = take(&next, text + at, n, e);
    }
    if (code) return code;
    make(&next, any);
    if (any) log_line(LOG_WARN, "fault", "faults are made on purpose: %s", text);
    return ST_OK;
}
