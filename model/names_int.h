/* names: a hash table from byte strings to indices: keys, tensors, tokens.
 *
 * Noun: a table, sized once, filled by adding. It keeps views of the strings, not copies. A crafted file can choose strings that
 * collide, so adding gives up after MODEL_NAMES_MAX_PROBE steps: building n names stays linear in n. Read-only after: any thread.
 */
#ifndef CONSORT_MODEL_NAMES_INT_H
#define CONSORT_MODEL_NAMES_INT_H

#include "model/file.h"

/* Half-full tables probe a few dozen slots at worst; hash-flooding files far more. */
enum { MODEL_NAMES_MAX_PROBE = 1024 };
#define MODEL_NO_INDEX UINT32_MAX

typedef struct {
    model_string name; /* bytes NULL: free slot */
    uint32_t index;
} model_names_slot;

typedef struct {
    model_names_slot *slots; /* [mask + 1] */
    uint64_t mask;
} model_names;

ST_CHECKED st_code model_names_init(model_names *t, uint64_t n_names); /* ST_FATAL_MEMORY */
void model_names_deinit(model_names *t);                               /* also on a zeroed table */
/* Returns MODEL_NO_INDEX if `name` was new and is added now, the index it has if it was there. ST_ERR_FORMAT: too many collide.
 */
ST_CHECKED st_code model_names_add(model_names *t, model_string name, uint32_t index, uint32_t *found);
uint32_t model_names_find(const model_names *t, model_string name); /* MODEL_NO_INDEX if there is none */

#endif
