/* Routes: for a request, which drafters to ask. The policies are functions of the roster and of what is known of the request. */
#include "speculative/speculative.h"

#include <stdio.h>
#include <string.h>

static uint32_t find(const spec_roster *roster, const char *name) {
    uint32_t i = 0;
    while (i < roster->n && strcmp(roster->name[i], name)) i++;
    return i;
}

/* Shifts of 32 bits are undefined, and a roster may have 32 drafters. */
static uint32_t mask_of(const spec_roster *roster, uint32_t drafter) { return drafter < roster->n ? UINT32_C(1) << drafter : 0; }

static uint32_t ask_none(const spec_route *r, const spec_roster *roster, const spec_record *record) {
    (void)r, (void)roster, (void)record;
    return 0;
}

static uint32_t ask_lookup(const spec_route *r, const spec_roster *roster, const spec_record *record) {
    (void)r, (void)record;
    return mask_of(roster, find(roster, spec_kinds[SPEC_KIND_lookup].name));
}

static uint32_t ask_all(const spec_route *r, const spec_roster *roster, const spec_record *record) {
    (void)r, (void)record;
    return roster->n >= 32 ? UINT32_MAX : (UINT32_C(1) << roster->n) - 1;
}

/* What costs no wait has no rival. */
static uint32_t ask_hedge(const spec_route *r, const spec_roster *roster, const spec_record *record) {
    (void)r;
    return roster->local | spec_hedge_ask(record->hits, record->prior, &record->price, roster->n, roster->up & ~roster->local);
}

static uint32_t ask_cosine(const spec_route *r, const spec_roster *roster, const spec_record *record) {
    (void)r;
    return roster->local |
           spec_cosine_pick(record->cosine, record->price.wait_ns, roster->n, roster->up & ~roster->local, record->accepted);
}

static uint32_t ask_fixed(const spec_route *r, const spec_roster *roster, const spec_record *record) {
    (void)record;
    return mask_of(roster, r->drafter);
}

static uint32_t ask_round_robin(const spec_route *r, const spec_roster *roster, const spec_record *record) {
    (void)r;
    uint32_t n_up = 0, up = roster->up & ask_all(r, roster, record);
    for (uint32_t i = 0; i < roster->n; i++) n_up += up >> i & 1;
    for (uint64_t skip = n_up ? record->round % n_up : 0; skip; skip--) up &= up - 1; /* the lowest of those that are left */
    return up & ~(up - 1);
}

static const struct {
    const char *name;
    bool takes_a_drafter, learns;
    uint32_t (*ask)(const spec_route *r, const spec_roster *roster, const spec_record *record);
} policies[] = {
#define ROUTE(name, text, takes_a_drafter, learns, help) {text, takes_a_drafter, learns, ask_##name},
#include "speculative/routes.def"
#undef ROUTE
};
enum { N_POLICIES = sizeof policies / sizeof *policies };

static void append(char *list, size_t size, const char *format, const char *name) {
    size_t used = strlen(list);
    (void)snprintf(list + used, size - used, format, used ? ", " : "", name);
}

static st_code no_such_policy(const char *text, st_error *e) {
    char list[256] = "";
    for (size_t i = 0; i < N_POLICIES; i++)
        append(list, sizeof list, policies[i].takes_a_drafter ? "%s%s:<drafter>" : "%s%s", policies[i].name);
    return st_fail(e, ST_ERR_INVALID_ARGUMENT, "'%.64s': expected one of %s", text, list);
}

static st_code no_such_drafter(const char *text, const spec_roster *roster, st_error *e) {
    char list[256] = "";
    for (uint32_t i = 0; i < roster->n; i++) append(list, sizeof list, "%s%s", roster->name[i]);
    return st_fail(e, ST_ERR_INVALID_ARGUMENT, "'%.64s': no such drafter; there are: %s", text, list);
}

spec_roster spec_roster_of(const char *const *names, uint32_t n, bool corpus) {
    INVARIANT(n <= SPEC_MAX_DRAFTERS - 2);
    spec_roster roster = {.n = n};
    for (uint32_t i = 0; i < n; i++) roster.name[i] = names[i];
    roster.name[roster.n++] = spec_kinds[SPEC_KIND_lookup].name;
    if (corpus) roster.name[roster.n++] = SPEC_CORPUS;
    for (uint32_t i = n; i < roster.n; i++) roster.local |= UINT32_C(1) << i;
    roster.up = roster.local;
    return roster;
}

st_code spec_route_parse(spec_route *r, const char *text, const spec_roster *roster, st_error *e) {
    size_t length = strcspn(text, ":");
    for (uint8_t i = 0; i < N_POLICIES; i++) {
        if (strlen(policies[i].name) != length || strncmp(policies[i].name, text, length)) continue;
        if (policies[i].takes_a_drafter != (text[length] == ':')) break;
        uint32_t drafter = policies[i].takes_a_drafter ? find(roster, text + length + 1) : 0;
        if (policies[i].takes_a_drafter && drafter == roster->n) return no_such_drafter(text, roster, e);
        *r = (spec_route){.policy = i, .drafter = (uint8_t)drafter};
        return ST_OK;
    }
    return no_such_policy(text, e);
}

uint32_t spec_route_ask(const spec_route *r, const spec_roster *roster, const spec_record *record) {
    return policies[r->policy].ask(r, roster, record) & roster->up;
}

uint32_t spec_route_may(const spec_route *r, const spec_roster *roster) {
    uint32_t (*ask)(const spec_route *, const spec_roster *, const spec_record *) = policies[r->policy].ask;
    bool always_the_same = ask == ask_none || ask == ask_lookup || ask == ask_fixed;
    return (always_the_same ? ask : ask_all)(r, roster, NULL);
}

uint32_t spec_route_follow(const spec_route *r, const spec_roster *roster) { return policies[r->policy].learns ? roster->up : 0; }
