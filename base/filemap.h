/* Filemap: a file's bytes, mapped read-only; the owner closes it, any thread.
 *
 * A file that another process cuts short while it is mapped raises SIGBUS, as with any mapping: replace files by rename, never in
 * place. */
#ifndef CONSORT_BASE_FILEMAP_H
#define CONSORT_BASE_FILEMAP_H

#include "base/status.h"
#include <stddef.h>

typedef struct {
    const void *bytes; /* [size_bytes]; NULL: an empty file */
    size_t size_bytes;
} filemap;

/* Errors: ST_ERR_IO, naming the path: it cannot be read, or is no regular file. */
ST_CHECKED st_code filemap_open(const char *path, filemap *out, st_error *e);
void filemap_close(filemap *m); /* also on a zeroed one */

#endif
