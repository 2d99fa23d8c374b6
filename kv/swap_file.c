/* The swap file of one rank: KV blocks that lie on disk until they are wanted again.
 *
 * What: a file without a name, so that nothing is left of it whatever becomes of the process; slot i is block_bytes at
 * i * block_bytes, one block of all layers and of this rank's heads. Its room is set aside at the start: a disk that is too small
 * is told then and not in the middle of an answer. A block goes through one buffer of the host, as the store may lie in a
 * device's memory. Plain reads and writes, which the system caches: what comes back soon may not have been on the disk at all.
 *
 * Why a checksum of each slot, which stays in memory: an answer must have the same bytes whatever the disk does. A slot that
 * holds other bytes than were put in ends the rank before any of them is used; its group is lost, and what ran there is computed
 * elsewhere. Road not taken: to map the file. A disk that fails is a signal then, and not an error. */
#include "kv/hash_int.h"
#include "kv/kv.h"

#include "base/fault.h"
#include "base/mem.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { STALL_MS = 500 }; /* a fault */

struct kv_swap_file {
    const kernels_ops *ops;
    kernels_device *device;
    const kernels_kv *blocks;
    size_t block_bytes;
    uint32_t n_slots;
    int file;
    uint8_t *buffer; /* [block_bytes] */
    uint64_t *sum;   /* [n_slots] of what was put in */
    bool *filled;    /* [n_slots] */
};

/* Negative: errno says why. */
static int open_nameless(const char *directory) {
    char path[4096];
    int file = open(directory, O_TMPFILE | O_RDWR | O_EXCL | O_CLOEXEC, 0600);
    if (file >= 0 || (errno != EOPNOTSUPP && errno != EISDIR && errno != EINVAL)) return file;
    if ((size_t)snprintf(path, sizeof path, "%s/consort-swap-XXXXXX", directory) >= sizeof path) {
        errno = ENAMETOOLONG;
        return -1;
    }
    file = mkostemp(path, O_CLOEXEC); /* a file system that knows no O_TMPFILE: the name is there for a moment */
    if (file >= 0) unlink(path);
    return file;
}

static st_code set_aside(kv_swap_file *f, const char *directory, st_error *e) {
    uint64_t n_bytes = (uint64_t)f->n_slots * f->block_bytes;
    f->file = open_nameless(directory);
    if (f->file < 0) return st_fail(e, ST_ERR_IO, "swap_directory: cannot make a file in %s: %s", directory, strerror(errno));
    int error = n_bytes > INT64_MAX ? EFBIG : posix_fallocate(f->file, 0, (off_t)n_bytes);
    if (error)
        return st_fail(e, ST_ERR_IO,
                       "swap_tokens: cannot set %.1f MB aside in %s (%u KV blocks of %zu bytes): %s; choose another "
                       "swap_directory, or fewer tokens",
                       (double)n_bytes / 1e6, directory, f->n_slots, f->block_bytes, strerror(error));
    return ST_OK;
}

st_code kv_swap_file_create(const kernels_ops *ops, kernels_device *device, const kv_store *store, const char *directory,
                            uint32_t n_slots, kv_swap_file **out, st_error *e) {
    kv_swap_file *f = mem_alloc(1, sizeof *f);
    if (!f) return st_fail(e, ST_FATAL_MEMORY, "swap file: no memory");
    *f = (kv_swap_file){.ops = ops, .device = device, .blocks = kv_store_view(store), .n_slots = n_slots, .file = -1};
    f->block_bytes = kernels_kv_block_bytes(f->blocks);
    f->buffer = mem_alloc(f->block_bytes, 1);
    f->sum = mem_alloc(n_slots, sizeof *f->sum);
    f->filled = mem_alloc(n_slots, sizeof *f->filled);
    st_code code = f->buffer && f->sum && f->filled ? set_aside(f, directory, e)
                                                    : st_fail(e, ST_FATAL_MEMORY, "swap file: no memory for %u slots", n_slots);
    if (code) {
        kv_swap_file_destroy(f);
        return code;
    }
    *out = f;
    return ST_OK;
}

void kv_swap_file_destroy(kv_swap_file *f) {
    if (!f) return;
    if (f->file >= 0) close(f->file);
    mem_free(f->buffer);
    mem_free(f->sum);
    mem_free(f->filled);
    mem_free(f);
}

/* All of the buffer, from the slot or to it: one call may do a part only. */
static st_code transfer(const kv_swap_file *f, uint32_t slot, bool in, st_error *e) {
    off_t at = (off_t)slot * (off_t)f->block_bytes;
    for (size_t done = 0; done < f->block_bytes;) {
        size_t left = f->block_bytes - done;
        ssize_t n = in ? pread(f->file, f->buffer + done, left, at + (off_t)done)
                       : pwrite(f->file, f->buffer + done, left, at + (off_t)done);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0)
            return st_fail(e, ST_ERR_IO, "swap file: cannot %s slot %u (%zu of %zu bytes done): %s", in ? "read" : "write", slot,
                           done, f->block_bytes, n < 0 ? strerror(errno) : "the file ends there");
        done += (size_t)n;
    }
    return ST_OK;
}

static st_code put(kv_swap_file *f, const block_swap *s, st_error *e) {
    f->ops->peek(f->device, f->buffer, f->blocks->at.buffer, s->block * f->block_bytes, f->block_bytes);
    f->sum[s->slot] = kv_hash(f->buffer, f->block_bytes, s->slot);
    if (fault_hits(FAULT_SWAP_FLIP)) f->buffer[f->block_bytes / 2] ^= 1;
    st_code code = transfer(f, s->slot, false, e);
    f->filled[s->slot] = code == ST_OK;
    return code;
}

static st_code get(const kv_swap_file *f, const block_swap *s, st_error *e) {
    if (!f->filled[s->slot]) return st_fail(e, ST_FATAL_PROTOCOL, "swap file: nothing was put into slot %u", s->slot);
    st_code code = transfer(f, s->slot, true, e);
    if (code) return code;
    if (kv_hash(f->buffer, f->block_bytes, s->slot) != f->sum[s->slot])
        return st_fail(e, ST_ERR_IO, "swap file: slot %u holds other bytes than were put in: is the disk in order?", s->slot);
    f->ops->poke(f->device, f->blocks->at.buffer, s->block * f->block_bytes, f->buffer, f->block_bytes, true);
    return ST_OK;
}

st_code kv_swap_file_do(kv_swap_file *f, const block_swap *s, st_error *e) {
    if (s->block >= f->blocks->n_blocks || s->slot >= f->n_slots)
        return st_fail(e, ST_FATAL_PROTOCOL, "a plan swaps KV block %u and slot %u; there are %u and %u", s->block, s->slot,
                       f->blocks->n_blocks, f->n_slots);
    if (fault_hits(FAULT_SWAP_STALL)) nanosleep(&(struct timespec){.tv_nsec = STALL_MS * 1000000L}, NULL);
    return s->in ? get(f, s, e) : put(f, s, e);
}
