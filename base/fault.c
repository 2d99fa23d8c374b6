#include "base/fault.h"

#include "base/log.h"
#include "base/philox.h"
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

static const char *const names[FAULT_N_POINTS] = {
#define FAULT(name, text, help) [FAULT_##name] = text,
#include "base/fault.def"
#undef FAULT
};
static struct {
    uint64_t seed;
    uint32_t one_in[FAULT_N_POINTS]; /* 0: never */
} plan;
static _Atomic uint32_t n_passes[FAULT_N_POINTS];

const char *fault_name(fault_point p) { return names[p]; }

bool fault_hits(fault_point p) {
    uint32_t one_in = plan.one_in[p];
    if (!one_in) return false;
    uint32_t pass = atomic_fetch_add_explicit(&n_passes[p], 1, memory_order_relaxed);
    if (philox(plan.seed, (philox_block){{pass, (uint32_t)p, 0, 0}}).word[0] % one_in) return false;
    log_line(LOG_INFO, "fault", "%s, pass %u", names[p], pass);
    return true;
}

/* One "name=number" of n bytes. */
static st_code take(const char *text, size_t n, st_error *e) {
    const char *equals = memchr(text, '=', n);
    size_t n_name = equals ? (size_t)(equals - text) : n;
    char *end = NULL;
    unsigned long long value = equals && equals[1] >= '0' && equals[1] <= '9' ? strtoull(equals + 1, &end, 10) : 0;
    int p = 0;
    if (end != text + n) return st_fail(e, ST_ERR_INVALID_ARGUMENT, "fault '%.*s': expected POINT=N or seed=N", (int)n, text);
    if (n_name == 4 && !memcmp(text, "seed", 4)) {
        plan.seed = value;
        return ST_OK;
    }
    while (p < FAULT_N_POINTS && (strlen(names[p]) != n_name || memcmp(names[p], text, n_name))) p++;
    if (p == FAULT_N_POINTS) return st_fail(e, ST_ERR_INVALID_ARGUMENT, "there is no fault point '%.*s'", (int)n_name, text);
    if (value < 1 || value > UINT32_MAX) return st_fail(e, ST_ERR_INVALID_ARGUMENT, "%s: one in %llu?", names[p], value);
    plan.one_in[p] = (uint32_t)value;
    return ST_OK;
}

st_code fault_plan(const char *text, st_error *e) {
    st_code code = ST_OK;
    memset(&plan, 0, sizeof plan);
    for (int p = 0; p < FAULT_N_POINTS; p++) atomic_store(&n_passes[p], 0);
    for (size_t n; !code && text && *text; text += n + (text[n] == ',')) {
        n = strcspn(text, ",");
        code = take(text, n, e);
    }
    if (code)
        memset(&plan, 0, sizeof plan);
    else if (text && *text)
        log_line(LOG_WARN, "fault", "faults are made on purpose: %s", text);
    return code;
}
