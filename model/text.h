/* text: between text and token ids, as a GGUF file's vocabulary says.
 *
 * Nouns: a tokenizer, a detokenizer (the state of one stream: never gives out half a UTF-8 character), a chat message. Byte-level
 * BPE (GPT-2) with the pre-tokenizer that the file names, or SentencePiece's BPE by scores with byte tokens (llama). Built once,
 * read-only after: any thread; a detokenizer belongs to its stream. */
#ifndef CONSORT_MODEL_TEXT_H
#define CONSORT_MODEL_TEXT_H

#include "model/file.h"

typedef struct model_tokenizer model_tokenizer;

/* Copies what it needs: the file may be closed. Errors: ST_ERR_UNSUPPORTED (names model and pre-tokenizer), ST_ERR_FORMAT,
 * ST_FATAL_MEMORY. */
ST_CHECKED st_code model_tokenizer_create(const model_file *f, model_tokenizer **out, st_error *e);
void model_tokenizer_destroy(model_tokenizer *t); /* NULL-safe */

uint32_t model_vocabulary_size(const model_tokenizer *t);
bool model_token_is_end(const model_tokenizer *t, uint32_t id);     /* ends an answer (EOS, end of turn) */
bool model_token_is_special(const model_tokenizer *t, uint32_t id); /* control token: detokenized to nothing in answers */

typedef struct {
    uint32_t *ids; /* [n], owned: mem_free */
    size_t n;
} model_ids;

/* Any bytes are taken (bytes that are not UTF-8 become byte tokens; a byte for which the vocabulary has no token is left out, as
 * other engines do). parse_special: text of control tokens becomes their ids; user-defined tokens are found in any case. Adds no
 * BOS (model_prompt_tokenize does); a vocabulary that asks for a space before text gets it before each text between special
 * tokens. Time and scratch are linear in `size` up to log factors, and texts that cannot fit are refused at once. Errors:
 * ST_FATAL_MEMORY, ST_ERR_INVALID_ARGUMENT (over max_ids ids; 4 GiB or more). */
ST_CHECKED st_code model_tokenize(const model_tokenizer *t, const char *text, size_t size, bool parse_special, size_t max_ids,
                                  model_ids *out, st_error *e);

/* The text of a whole prompt: control tokens are parsed, and the BOS is put before where the vocabulary asks for one and the text
 * does not begin with it. Errors: as model_tokenize. */
ST_CHECKED st_code model_prompt_tokenize(const model_tokenizer *t, const char *text, size_t size, size_t max_ids, model_ids *out,
                                         st_error *e);

typedef struct {
    uint8_t pending[4]; /* bytes of an unfinished character */
    uint32_t n_pending;
} model_detokenizer; /* zero-initialised */

/* Appends the text of one token to out[*n...]: whole characters only; invalid bytes become U+FFFD (one for each maximal subpart,
 * Unicode 3.9). Room needed: model_token_max_bytes(). An id outside the vocabulary has no text. */
void model_detokenize(const model_tokenizer *t, model_detokenizer *d, uint32_t id, bool show_special, char *out, size_t *n);
void model_detokenize_end(model_detokenizer *d, char *out, size_t *n); /* flushes an unfinished character as U+FFFD */
size_t model_token_max_bytes(const model_tokenizer *t);

typedef struct {
    const char *role, *content; /* UTF-8, NUL-terminated, views */
} model_message;

/* Name of the file's chat template, or NULL: it has none that we know (model/templates.def). */
const char *model_chat_template(const model_tokenizer *t);
/* Names one instead. Before other threads see the tokenizer. Errors: ST_ERR_INVALID_ARGUMENT (lists the names). */
ST_CHECKED st_code model_chat_template_set(model_tokenizer *t, const char *name, st_error *e);

/* The chat template of the file applied: the prompt's ids up to where the assistant answers. Owned: mem_free. Special tokens in
 * `content` stay text: *ids are made piece by piece, never from the joined text. Errors: ST_ERR_UNSUPPORTED (a template we do not
 * know), ST_ERR_INVALID_ARGUMENT (no message, a role that the template has not, over max_ids ids), ST_FATAL_MEMORY. */
ST_CHECKED st_code model_chat_tokenize(const model_tokenizer *t, const model_message *messages, size_t n, size_t max_ids,
                                       model_ids *out, st_error *e);

#endif
