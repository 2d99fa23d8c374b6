#include "base/filemap.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

st_code filemap_open(const char *path, filemap *out, st_error *e) {
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* O_NONBLOCK: a FIFO does not hang us */
    if (fd < 0) return st_fail(e, ST_ERR_IO, "%s: %s", path, strerror(errno));
    struct stat about;
    void *bytes = NULL;
    st_code code = ST_OK;
    if (fstat(fd, &about))
        code = st_fail(e, ST_ERR_IO, "%s: %s", path, strerror(errno));
    else if (!S_ISREG(about.st_mode))
        code = st_fail(e, ST_ERR_IO, "%s: expected a regular file", path);
    else if (about.st_size && (bytes = mmap(NULL, (size_t)about.st_size, PROT_READ, MAP_PRIVATE, fd, 0)) == MAP_FAILED)
        code = st_fail(e, ST_ERR_IO, "%s: mmap: %s", path, strerror(errno));
    (void)close(fd);
    if (!code) *out = (filemap){bytes, (size_t)about.st_size};
    return code;
}

void filemap_close(filemap *m) {
    if (m->bytes) (void)munmap((void *)(uintptr_t)m->bytes, m->size_bytes);
    *m = (filemap){0};
}
