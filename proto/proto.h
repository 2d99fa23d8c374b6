/* proto: the structs of proto_core.h to and from the wire. The only room that sees protobuf.
 *
 * Nouns: a message (bytes of one protobuf message), an arena (where decoded arrays live). Decoding validates everything once,
 * naming the bad field; encoding cannot fail but for memory. Every count and size from outside is bounded before memory is taken
 * for it. Any thread, with its own arena. */
#ifndef CONSORT_PROTO_H
#define CONSORT_PROTO_H

#include "base/arena.h"
#include "proto/proto_core.h"

typedef struct {
    uint8_t *bytes; /* [n], owned: proto_bytes_free */
    size_t n;
} proto_bytes;
void proto_bytes_free(proto_bytes *b); /* also on a zeroed one */

enum { PROTO_MAX_BYTES = 8 << 20 }; /* of any message; decoders refuse more */
/* An arena with this much left holds whatever any message of n bytes decodes to; one that would need more is refused. */
size_t proto_arena_bytes(size_t n);

/* ---- the public API (consort.proto; StatusRequest, StopRequest, StopReply, DrainReply and ForgetKvRequest are empty: zero
 * bytes) ---- */
/* All defaults of fields.def; the prompt is an empty text. */
proto_request proto_request_default(void);
/* Errors: ST_ERR_INVALID_ARGUMENT; the message names the field, its value and its range. Views in *out live in `a`. */
ST_CHECKED st_code proto_request_decode(const uint8_t *bytes, size_t n, arena *a, proto_request *out, st_error *e);
ST_CHECKED st_code proto_request_encode(const proto_request *r, proto_bytes *out);
/* Range check of every field by fields.def, and of the prompt; used by the command line too, so that all doors say the same. */
ST_CHECKED st_code proto_request_check(const proto_request *r, st_error *e);

/* The rows of fields.def, for command lines and docs. */
typedef struct {
    const char *name;                          /* "top_p"; static */
    const char *help;                          /* static */
    const char *value;                         /* what a value is: "N", "X", "TEXT", "IDS"; NULL for a flag; static */
    char range[48], default_text[32], cli[32]; /* "0 .. 1", "1" (empty: none), "--top-p" */
    bool repeats;                              /* may be set several times */
} proto_field;
bool proto_request_field(size_t i, proto_field *out); /* false past the last */
/* Sets one field from text ("" or "true" for a flag) and checks it; `name` with dashes or underscores. Texts in `r` become views
 * of `value`, token ids live in `a`. Errors: ST_ERR_NOT_FOUND (no such field), ST_ERR_INVALID_ARGUMENT, ST_FATAL_MEMORY (`a` is
 * full). */
ST_CHECKED st_code proto_request_set(proto_request *r, const char *name, const char *value, arena *a, st_error *e);

/* One streamed reply. The first carries request_id and seed, each may carry text and ids, the last carries finish. */
typedef struct {
    const char *request_id; /* NULL: absent */
    bool has_seed;
    uint64_t seed;
    const char *text; /* [text_bytes] whole UTF-8 characters */
    size_t text_bytes;
    const uint32_t *tokens;
    uint32_t n_tokens;
    token_logprobs logprobs;   /* of `tokens`; own NULL: not asked for, or no tokens */
    hidden_states hidden;      /* likewise */
    uint32_t index;            /* of the answer, among n */
    const char *finish_reason; /* NULL: goes on; "stop", "length" */
    bool has_usage;            /* the call ends with this reply: of all its answers, */
    uint32_t prompt_tokens, completion_tokens;
    uint32_t cached_tokens;                      /* of the prompt, found in the KV cache */
    uint64_t queue_ns, first_token_ns, total_ns; /* since arrival, measured in the coordinator */
    uint64_t steps, drafted, accepted;           /* steps that chose tokens, draft nodes in them, nodes accepted */
    uint32_t n_by_drafter;                       /* <= PROTO_MAX_DRAFTERS */
    const proto_drafter_figures *by_drafter;
} proto_reply;
ST_CHECKED st_code proto_reply_encode(const proto_reply *r, proto_bytes *out);
/* Errors of this and proto_status_decode: ST_ERR_FORMAT. */
ST_CHECKED st_code proto_reply_decode(const uint8_t *bytes, size_t n, arena *a, proto_reply *out, st_error *e);

/* A part of a trace; the fields are those of TraceSpan. */
enum { PROTO_MAX_SPANS = 256 }; /* of one reply */
typedef struct {
    char kind[16], name[PROTO_REQUEST_ID_BYTES + 1];
    uint32_t lane, sequences, tokens, prompt, drafted, accepted;
    uint64_t start_ns, duration_ns, part_ns, plan;
} proto_span;
ST_CHECKED st_code proto_spans_encode(const proto_span *spans, uint32_t n, proto_bytes *out); /* n <= PROTO_MAX_SPANS */
/* out[PROTO_MAX_SPANS]. Errors: ST_ERR_FORMAT. */
ST_CHECKED st_code proto_spans_decode(const uint8_t *bytes, size_t n, arena *a, proto_span *out, uint32_t *n_out, st_error *e);
/* The habits of a trace, which come in a reply of their own. n <= PROTO_MAX_DRAFTERS; out[PROTO_MAX_DRAFTERS]. Errors as above.
 */
ST_CHECKED st_code proto_habits_encode(const proto_habit *const *habits, uint32_t n, proto_bytes *out);
ST_CHECKED st_code proto_habits_decode(const uint8_t *bytes, size_t n, arena *a, proto_habit *out, uint32_t *n_out, st_error *e);

/* One reply of MeasureKv. */
typedef struct {
    char transport[PROTO_TRANSPORT_BYTES];
    uint32_t block_bytes, source, target;
    double bytes_per_s, raw_bytes_per_s; /* of a move; of the transport alone */
    /* Where this was the KV of a prompt, in messages of the model's own size; 0: it was not */
    uint32_t prompt_tokens;
    uint64_t move_ns;          /* from the first message to the last */
    uint32_t crossover_tokens; /* so many leave a drained group and are not computed, as the scheduler sees it; 0: none do */
    double move_token_ns;      /* that a token moved takes, as it has learnt; 0: not known */
    double prompt_token_ns;    /* likewise of one that the target's group computed */
} proto_measurement;
ST_CHECKED st_code proto_measure_request_encode(uint32_t prompt_tokens, proto_bytes *out); /* 0: no prompt */
/* Errors: ST_ERR_INVALID_ARGUMENT. */
ST_CHECKED st_code proto_measure_request_decode(const uint8_t *bytes, size_t n, uint32_t *prompt_tokens, st_error *e);
ST_CHECKED st_code proto_measurement_encode(const proto_measurement *m, proto_bytes *out);
/* Errors: ST_ERR_FORMAT. */
ST_CHECKED st_code proto_measurement_decode(const uint8_t *bytes, size_t n, proto_measurement *out, st_error *e);

enum { PROTO_MAX_WORKERS = 1024 };
typedef struct {
    proto_register info;
    bool up, drained;
    uint64_t requests; /* of its group, a verifier */
    double step_ms;    /* moving average */
    uint64_t steps;
    uint32_t followed; /* of a drafter: requests, KV blocks held for them; times that it had to forget one for others */
    uint64_t kv_blocks_held, dropped;
} proto_worker_status;
typedef struct {
    char version[32], model[256];
    bool ready, draining;
    char reason[256]; /* why not ready, in words */
    uint64_t uptime_ns, requests_running, requests_waiting, requests_done, requests_failed, tokens_generated, tokens_prompt,
        steps, largest_batch;
    uint64_t kv_blocks_total, kv_blocks_used;
    uint64_t drafted, accepted, late_drafts; /* draft nodes verified, accepted; drafts that came too late for their step */
    uint32_t cluster_epoch;
    uint32_t n_workers;
    const proto_worker_status *workers;
    uint32_t n_by_drafter; /* <= PROTO_MAX_DRAFTERS */
    const proto_drafter_figures *by_drafter;
} proto_status;
ST_CHECKED st_code proto_status_encode(const proto_status *s, proto_bytes *out);
ST_CHECKED st_code proto_status_decode(const uint8_t *bytes, size_t n, arena *a, proto_status *out, st_error *e);

typedef struct {
    char group[sizeof((proto_register *)0)->name];
    bool undo, wait;
} proto_drain;
ST_CHECKED st_code proto_drain_encode(const proto_drain *d, proto_bytes *out);
/* Errors: ST_ERR_INVALID_ARGUMENT. */
ST_CHECKED st_code proto_drain_decode(const uint8_t *bytes, size_t n, proto_drain *out, st_error *e);

/* ---- fault points (base/fault.h) of a process; the calls Faults and ForgetKv ---- */
enum { PROTO_MAX_FAULTS = 16, PROTO_FAULT_PLAN_BYTES = 256 };
typedef struct {
    char name[32], help[128];
    uint32_t one_in, passes, hits;
} proto_fault;
/* What one process says of its points. */
typedef struct {
    uint64_t id; /* of the order that it answers; not in a reply of the API */
    st_code code;
    char message[ST_MESSAGE_BYTES]; /* why it did not do as it was told */
    uint32_t n_points;
    proto_fault points[PROTO_MAX_FAULTS]; /* [n_points] */
} proto_faults;
void proto_faults_of_this_process(proto_faults *out); /* its points; the rest is zero */

typedef struct {
    bool set;                          /* else the points are only told */
    char plan[PROTO_FAULT_PLAN_BYTES]; /* as fault_plan takes it; empty: none */
    bool has_rank;                     /* of both one at most; neither: every rank, the coordinator too */
    uint32_t rank;
    char group[sizeof((proto_register *)0)->name];
} proto_faults_request;
typedef struct {
    uint32_t rank;
    char group[sizeof((proto_register *)0)->name];
    proto_faults said; /* decoded: code is ST_ERR_UNAVAILABLE where there is a message */
} proto_faults_reply;
ST_CHECKED st_code proto_faults_request_encode(const proto_faults_request *r, proto_bytes *out);
/* Errors: ST_ERR_INVALID_ARGUMENT. */
ST_CHECKED st_code proto_faults_request_decode(const uint8_t *bytes, size_t n, proto_faults_request *out, st_error *e);
ST_CHECKED st_code proto_faults_reply_encode(const proto_faults_reply *r, proto_bytes *out);
/* Errors: ST_ERR_FORMAT. */
ST_CHECKED st_code proto_faults_reply_decode(const uint8_t *bytes, size_t n, proto_faults_reply *out, st_error *e);

/* KV blocks, of all verifiers together, once nothing is kept of earlier requests. */
typedef struct {
    uint64_t forgotten, used, reserved, kept, total; /* forgotten: those that had been kept */
    uint64_t slots;                                  /* of swap files, those that hold one */
} proto_blocks;
ST_CHECKED st_code proto_blocks_encode(const proto_blocks *b, proto_bytes *out);
/* Errors: ST_ERR_FORMAT. */
ST_CHECKED st_code proto_blocks_decode(const uint8_t *bytes, size_t n, proto_blocks *out, st_error *e);

/* ---- the control link (control.proto), inside frames ---- */
typedef enum {
    PROTO_MSG_REGISTER = 1, /* rank -> coordinator, first on a link */
    PROTO_MSG_WELCOME,      /* coordinator -> rank: epochs */
    PROTO_MSG_HEARTBEAT,    /* both ways */
    PROTO_MSG_READY,        /* rank -> coordinator: model loaded (a second, full register) */
    PROTO_MSG_PLAN,         /* coordinator -> leader */
    PROTO_MSG_RESULT,       /* leader -> coordinator */
    PROTO_MSG_ABORT,        /* either: code and message, then the link closes */
    PROTO_MSG_STOP,         /* coordinator -> rank: finish, say goodbye and leave */
    PROTO_MSG_WAKE,         /* coordinator -> the ranks of a group that are not its leader: which plan is on its way */
    PROTO_MSG_GOODBYE,      /* rank -> coordinator: a clean leave */
    PROTO_MSG_MOVE,         /* coordinator -> each rank that takes part; exactly one MOVED answers, if the rank lives */
    PROTO_MSG_MOVE_READY,   /* coordinator -> ranks of a move's source: more of its blocks are computed */
    PROTO_MSG_MOVE_CANCEL,  /* coordinator -> rank: it is of no use any more */
    PROTO_MSG_MOVED,        /* rank -> coordinator: the rank has let go of the blocks */
    PROTO_MSG_FAULTS,       /* coordinator -> rank: a plan of fault points, or the question for it */
    PROTO_MSG_FAULTS_TOLD,  /* rank -> coordinator: the answer */
    PROTO_MSG_EARLY         /* leader -> coordinator: what the result of its plan will probably be; nobody relies on it */
} proto_message_type;

typedef struct {
    uint32_t cluster_epoch, group_epoch;
    uint32_t heartbeat_ms, dead_after_ms;
} proto_welcome;
typedef struct {
    uint64_t sent_ns; /* sender's clock */
    uint64_t steps;
    double load_share; /* 0 .. 1 while loading */
} proto_heartbeat;
typedef struct {
    st_code code;
    char message[ST_MESSAGE_BYTES];
} proto_abort;

/* Errors of all decoders of the link: ST_FATAL_PROTOCOL with message, field and value. */
ST_CHECKED st_code proto_register_encode(const proto_register *r, proto_bytes *out);
ST_CHECKED st_code proto_register_decode(const uint8_t *bytes, size_t n, proto_register *out, st_error *e);
ST_CHECKED st_code proto_welcome_encode(const proto_welcome *w, proto_bytes *out);
ST_CHECKED st_code proto_welcome_decode(const uint8_t *bytes, size_t n, proto_welcome *out, st_error *e);
ST_CHECKED st_code proto_wake_encode(uint64_t plan_id, proto_bytes *out);
ST_CHECKED st_code proto_wake_decode(const uint8_t *bytes, size_t n, uint64_t *plan_id, st_error *e);
ST_CHECKED st_code proto_heartbeat_encode(const proto_heartbeat *h, proto_bytes *out);
ST_CHECKED st_code proto_heartbeat_decode(const uint8_t *bytes, size_t n, proto_heartbeat *out, st_error *e);
ST_CHECKED st_code proto_abort_encode(const proto_abort *a, proto_bytes *out);
ST_CHECKED st_code proto_abort_decode(const uint8_t *bytes, size_t n, proto_abort *out, st_error *e);
ST_CHECKED st_code proto_move_encode(const proto_move *m, proto_bytes *out);
/* Errors: also ST_FATAL_MEMORY (`a` is full). Views in *out live in `a`. */
ST_CHECKED st_code proto_move_decode(const uint8_t *bytes, size_t n, arena *a, proto_move *out, st_error *e);
ST_CHECKED st_code proto_move_ready_encode(uint64_t id, uint32_t n_ready, proto_bytes *out);
ST_CHECKED st_code proto_move_ready_decode(const uint8_t *bytes, size_t n, uint64_t *id, uint32_t *n_ready, st_error *e);
ST_CHECKED st_code proto_move_cancel_encode(uint64_t id, proto_bytes *out);
ST_CHECKED st_code proto_move_cancel_decode(const uint8_t *bytes, size_t n, uint64_t *id, st_error *e);
ST_CHECKED st_code proto_moved_encode(const proto_moved *m, proto_bytes *out);
ST_CHECKED st_code proto_moved_decode(const uint8_t *bytes, size_t n, proto_moved *out, st_error *e);
typedef struct {
    uint64_t id; /* of the answer too */
    bool set;
    char plan[PROTO_FAULT_PLAN_BYTES];
} proto_faults_order;
ST_CHECKED st_code proto_faults_order_encode(const proto_faults_order *o, proto_bytes *out);
ST_CHECKED st_code proto_faults_order_decode(const uint8_t *bytes, size_t n, proto_faults_order *out, st_error *e);
ST_CHECKED st_code proto_faults_encode(const proto_faults *f, proto_bytes *out);
ST_CHECKED st_code proto_faults_decode(const uint8_t *bytes, size_t n, proto_faults *out, st_error *e);
ST_CHECKED st_code proto_plan_encode(const proto_plan *p, proto_bytes *out);
/* Also checks counts, that parents come before their children, that sampling is finite, ... Errors: also ST_FATAL_MEMORY (`a` is
 * full). Equal plans give equal bytes. */
ST_CHECKED st_code proto_plan_decode(const uint8_t *bytes, size_t n, arena *a, proto_plan *out, st_error *e);
ST_CHECKED st_code proto_result_encode(const proto_result *r, proto_bytes *out);
ST_CHECKED st_code proto_result_decode(const uint8_t *bytes, size_t n, arena *a, proto_result *out, st_error *e);

/* The descriptors of consort.proto and what it imports, serialized (FileDescriptorSet), for gRPC reflection. Static. */
const uint8_t *proto_descriptor_set(size_t *n);

#endif
