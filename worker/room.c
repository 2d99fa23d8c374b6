/* Room: how many tokens of KV cache a rank has memory for, where the topology does not say (`kv_tokens: 0`).
 *
 * Half of what is there, since the other half is for what is not counted: activations and trees, the page cache that the model's
 * file and the swap file are read through, clients and other programs. What is there is what the kernel would give away without
 * swapping, under the least of the memory limits that hold for this process; page cache is counted as used in these, and is given
 * back under pressure, so what of it has not been touched of late is not. All ranks of a host measure before any has loaded, and
 * each takes its part. Limits: a number at the start; who starts beside the cluster later is not seen. Nobody who starts at the
 * same time is, either. */
#include "worker/worker.h"

#include "base/nouns.h"
#include "kv/kv.h"
#include "model/model.h"
#include "model/text.h"
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PATH_BYTES = 1024, LINE_BYTES = 1024, SHARE = 2 /* one in so many */ };

/* The number behind `key` at the beginning of a line; key "": in the first line. False: there is none ("max": no limit). */
static bool read_number(const char *path, const char *key, uint64_t *out) {
    char line[LINE_BYTES];
    bool found = false;
    FILE *f = fopen(path, "r");
    if (!f) return false;
    while (!found && fgets(line, sizeof line, f)) {
        size_t n = strlen(key);
        found = !strncmp(line, key, n) && sscanf(line + n, " %" SCNu64, out) == 1;
        if (!n) break;
    }
    (void)fclose(f);
    return found;
}

/* What is left of one group's limit; *most is not raised. */
static void apply_limit(const char *folder, bool version_2, uint64_t *most) {
    char path[2 * PATH_BYTES];
    uint64_t limit, used, idle = 0;
    (void)snprintf(path, sizeof path, "%s/%s", folder, version_2 ? "memory.max" : "memory.limit_in_bytes");
    if (!read_number(path, "", &limit)) return;
    (void)snprintf(path, sizeof path, "%s/%s", folder, version_2 ? "memory.current" : "memory.usage_in_bytes");
    if (!read_number(path, "", &used)) return;
    (void)snprintf(path, sizeof path, "%s/memory.stat", folder);
    if (!read_number(path, version_2 ? "inactive_file" : "total_inactive_file", &idle)) idle = 0;
    used = used > idle ? used - idle : 0;
    uint64_t left = limit > used ? limit - used : 0;
    if (left < *most) *most = left;
}

/* The process's own group and all above it; in a container its path may not be there, and the root is its own. */
static void apply_limits(const char *root, const char *mounted, const char *group, bool version_2, uint64_t *most) {
    char folder[PATH_BYTES + LINE_BYTES];
    (void)snprintf(folder, sizeof folder, "%s%s", root, mounted);
    size_t top = strlen(folder);
    (void)snprintf(folder + top, sizeof folder - top, "%s", group);
    for (char *end = folder + strlen(folder);; *end = 0) {
        apply_limit(folder, version_2, most);
        if (end <= folder + top || !(end = strrchr(folder + top, '/'))) return;
    }
}

st_code worker_available_bytes(const char *root, uint64_t *out, st_error *e) {
    char path[PATH_BYTES], line[LINE_BYTES];
    uint64_t kilobytes;
    (void)snprintf(path, sizeof path, "%s/proc/meminfo", root);
    if (!read_number(path, "MemAvailable:", &kilobytes)) return st_fail(e, ST_ERR_IO, "%s: no MemAvailable", path);
    *out = kilobytes * 1024;
    (void)snprintf(path, sizeof path, "%s/proc/self/cgroup", root);
    FILE *f = fopen(path, "r");
    while (f && fgets(line, sizeof line, f)) { /* "0::/path", or "5:memory:/path" of version 1 */
        line[strcspn(line, "\n")] = 0;
        char *group = strstr(line, ":/");
        bool version_2 = !strncmp(line, "0::", 3), version_1 = strstr(line, ":memory:") != NULL;
        if (group && (version_1 || version_2))
            apply_limits(root, version_2 ? "/sys/fs/cgroup" : "/sys/fs/cgroup/memory", group + 1, version_2, out);
    }
    if (f) (void)fclose(f);
    return ST_OK;
}

static st_code read_part(const config_topology *t, const config_group *g, uint32_t group_rank, model_part *out, st_error *e) {
    model_file *f = NULL;
    bool own = g->role == CONFIG_DRAFTER && g->model[0];
    st_code code = model_file_open(own ? g->model : t->model, &f, e);
    if (!code) code = model_read_part(f, group_rank, g->tensor_parallel, out, e);
    model_file_close(f);
    return code;
}

st_code worker_measure_kv(const config_topology *t, uint32_t group, uint32_t group_rank, uint32_t n_neighbours,
                          uint64_t available_bytes, uint32_t *out, st_error *e) {
    const config_group *g = &t->groups[group];
    model_part part;
    kernels_precision precision = KERNELS_FAST;
    st_code code = read_part(t, g, group_rank, &part, e);
    if (code) return code;
    const kv_type *type = kernels_precision_find(t->precision, &precision) ? kv_type_choose(g->kv_type, precision) : NULL;
    if (!type) return st_fail(e, ST_ERR_UNSUPPORTED, "kv_type: there is no type %s", g->kv_type);
    uint64_t token_bytes = part.kv_token_heads * kv_type_token_bytes(type, part.head_dim);
    uint64_t share = available_bytes / SHARE / n_neighbours, room = share > part.weight_bytes ? share - part.weight_bytes : 0;
    uint64_t tokens = room / token_bytes;
    if (tokens > WORKER_MOST_KV_TOKENS) tokens = WORKER_MOST_KV_TOKENS;
    if (tokens < WORKER_LEAST_KV_TOKENS)
        return st_fail(e, ST_ERR_RESOURCE_EXHAUSTED,
                       "half of the %.0f MB that are available, for %u ranks, holds %.0f MB of weights and %" PRIu64
                       " tokens of KV; expected room for %d, or a number in kv_tokens",
                       (double)available_bytes / 1e6, n_neighbours, (double)part.weight_bytes / 1e6, tokens,
                       WORKER_LEAST_KV_TOKENS);
    *out = (uint32_t)(tokens - tokens % NOUNS_BLOCK_TOKENS);
    return ST_OK;
}
