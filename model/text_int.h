/* text, inside: the parts of a tokenizer.
 *
 *     text -> special tokens (encode.c) -> words (pretokenize.c) -> merges (bpe.c) -> ids      vocabularies "gpt2"
 *                                       -> pieces by score (spm.c) -> ids                      vocabularies "llama"
 *     messages -> pieces (template.c) -> the same;   ids -> text (detokenize.c) */
#ifndef CONSORT_MODEL_TEXT_INT_H
#define CONSORT_MODEL_TEXT_INT_H

#include "model/names_int.h"
#include "model/text.h"

#define MODEL_NO_ID UINT32_MAX

/* Limits against crafted files. */
enum {
    MODEL_MAX_VOCABULARY = 1 << 24,
    MODEL_MAX_TOKEN_BYTES = 4096, /* "token of 2^31 bytes"; the longest real ones are a few hundred spaces */
};

/* A list of ids that refuses to grow over `max`. */
typedef struct {
    uint32_t *ids; /* [room], owned */
    size_t n, room, max;
} model_id_list;

ST_CHECKED st_code model_id_list_push(model_id_list *l, uint32_t id); /* ST_FATAL_MEMORY, ST_ERR_INVALID_ARGUMENT (max) */

/* Byte-pair merges: (left, right) -> (rank, merged). Read-only after the last add. */
typedef struct {
    uint64_t pair; /* left << 32 | right; UINT64_MAX: free slot */
    uint32_t rank, merged;
} model_merge;

typedef struct {
    model_merge *slots; /* [mask + 1] */
    uint64_t mask;
    uint32_t byte_id[256]; /* MODEL_NO_ID: the vocabulary has no token for this byte */
} model_merges;

ST_CHECKED st_code model_merges_init(model_merges *m, uint64_t n_merges); /* ST_FATAL_MEMORY */
void model_merges_deinit(model_merges *m);                                /* also on a zeroed one */
/* Ranks are unique and below n_merges. ST_ERR_FORMAT: the pair is there already, or too many pairs collide. */
ST_CHECKED st_code model_merges_add(model_merges *m, uint32_t left, uint32_t right, uint32_t rank, uint32_t merged);

/* A stretch of a word on its way to a token. */
#define MODEL_NO_SYMBOL UINT32_MAX
typedef struct {
    uint32_t id;             /* MODEL_NO_ID: no token yet (spm.c) */
    uint32_t previous, next; /* MODEL_NO_SYMBOL at the ends */
    uint32_t start, n_bytes; /* in the word; n_bytes 0: merged into the one before */
} model_symbol;

/* Scratch of one model_tokenize; zero-initialised. */
typedef struct {
    model_symbol *symbols; /* [room] */
    uint64_t *heap;        /* [2 * room] */
    size_t room;
} model_bpe_scratch;

/* What two neighbours join to: id MODEL_NO_ID for nothing; lowest rank first. */
typedef struct {
    uint32_t rank, id;
} model_joined;
typedef model_joined model_join(const void *context, const model_symbol *left, const model_symbol *right);

ST_CHECKED st_code model_symbols_reserve(model_bpe_scratch *s,
                                         size_t n); /* room for n; ST_FATAL_MEMORY; what was in it is lost */
/* Merges symbols[0, n), whose id, start and n_bytes are set; then the list from 0 along `next` is the result. O(n log n). */
void model_symbols_merge(model_bpe_scratch *s, uint32_t n, model_join *join, const void *context);
void model_bpe_scratch_deinit(model_bpe_scratch *s);
/* Appends the ids of one word of n < 2^32 bytes, O(n log n). Errors: as model_id_list_push. */
ST_CHECKED st_code model_bpe(const model_merges *m, model_bpe_scratch *s, const uint8_t *word, size_t n, model_id_list *out);

/* A vocabulary by text, with spaces as spaces; names are views of the tokenizer's bytes. */
typedef struct {
    model_names names; /* of tokens that plain text may become */
    uint32_t *rank;    /* [vocabulary] place of the score, highest first; NULL in byte-level vocabularies */
    uint32_t byte_id[256];
    uint32_t longest_bytes;
} model_pieces;

size_t model_spm_unescape(const char *text, size_t n, uint8_t *out); /* U+2581 to spaces; out[n]; returns bytes written */
int model_spm_byte(model_string text);                               /* "<0x41>" -> 0x41, or -1 */
/* Appends the ids of unescaped text, n < 2^32. Errors: as model_id_list_push. */
ST_CHECKED st_code model_spm(const model_pieces *p, model_bpe_scratch *s, const uint8_t *text, size_t n, model_id_list *out);

/* Splits text into words as the named pre-tokenizer does (pretokenizers.def). Read-only: any thread. */
typedef struct model_splitter model_splitter;
typedef st_code model_word(void *context, const uint8_t *word, size_t n);

/* Errors: ST_ERR_UNSUPPORTED (no such pre-tokenizer), ST_FATAL_MEMORY. */
ST_CHECKED st_code model_splitter_create(model_string name, model_splitter **out, st_error *e);
void model_splitter_destroy(model_splitter *s);           /* NULL-safe */
bool model_splitter_keeps_words(const model_splitter *s); /* a word that is a token becomes that, whatever the merges say */
/* Calls `word` in order; the words joined are the text. A run of bytes that are not UTF-8 is a word. Stops at the first error of
 * `word` and returns it; ST_FATAL_MEMORY, ST_FATAL_INTERNAL of PCRE2 come with `e` filled. */
ST_CHECKED st_code model_split(const model_splitter *s, const uint8_t *text, size_t n, model_word *word, void *context,
                               st_error *e);

/* A chat template that we can render; static. NULL: unknown. */
typedef struct model_template model_template;
const model_template *model_template_find(model_string text);

enum { /* GGUF's numbers */
       MODEL_TOKEN_NORMAL = 1,
       MODEL_TOKEN_CONTROL = 3,
       MODEL_TOKEN_USER = 4,
       MODEL_TOKEN_BYTE = 6,
       MODEL_TOKEN_LAST_TYPE = 6
};

struct model_tokenizer {
    uint32_t n;
    uint8_t *bytes;    /* text of token i: [start[i], start[i + 1]) */
    uint32_t *start;   /* [n + 1] */
    uint8_t *type;     /* [n] */
    bool *is_end;      /* [n] */
    uint32_t *special; /* [n_special] control and user-defined tokens, sorted by their text */
    uint32_t n_special;
    bool special_start[256]; /* bytes with which special tokens begin */
    uint32_t longest_bytes;
    uint32_t bos;            /* MODEL_NO_ID: prompts begin without one */
    uint32_t bos_id, eos_id; /* of the file, for templates; MODEL_NO_ID: none */
    bool is_spm, keeps_words, space_prefix;
    model_merges merges;        /* byte-level only */
    model_splitter *splitter;   /* byte-level only */
    model_pieces pieces;        /* by score, and byte-level vocabularies that keep words */
    const model_template *chat; /* NULL: none, or unknown */
};

/* Appends. Errors: as model_tokenize. */
ST_CHECKED st_code model_tokenize_append(const model_tokenizer *t, const char *text, size_t size, bool parse_special,
                                         model_id_list *out, st_error *e);
model_string model_token_text(const model_tokenizer *t, uint32_t id);  /* view of its bytes */
uint32_t model_special_id(const model_tokenizer *t, const char *text); /* MODEL_NO_ID if there is none */

#endif
