/* What the coordinator's files share: loop.c (events to the scheduler, actions from it), members.c (the ranks), moves.c (KV
 * between them), front_grpc.c (clients), front_http.c (monitors), metrics.c (what they are told), answer.c (text with stop
 * strings), debug.c (faults on purpose). Nothing here is seen outside the room. All on the loop's thread. */
#ifndef CONSORT_COORDINATOR_INT_H
#define CONSORT_COORDINATOR_INT_H

#include "base/filemap.h"
#include "coordinator/coordinator.h"
#include "coordinator/coordinator_core.h"
#include "coordinator/metrics_int.h"
#include "model/text.h"
#include "net/net.h"
#include "proto/proto.h"

/* ---- answer.c: the text of one answer, as it may be shown ---- */
typedef struct {
    const char *const *stops; /* [n_stops] borrowed */
    uint32_t n_stops;
    char *held; /* [capacity] text that may yet turn out to begin a stop string */
    size_t n_held, capacity;
} answer;
/* max_piece: most bytes of one push. Errors: ST_FATAL_MEMORY. */
ST_CHECKED st_code answer_init(answer *a, const char *const *stops, uint32_t n_stops, size_t max_piece);
void answer_deinit(answer *a);
/* Takes text[n], gives what is now certain to out[*n_out...] (room for capacity bytes). True: a stop string was met; the answer
 * ends before it. */
bool answer_push(answer *a, const char *text, size_t n, char *out, size_t *n_out);
void answer_end(answer *a, char *out, size_t *n_out); /* gives what is held: no stop string came */
size_t answer_capacity(const answer *a);

/* ---- members.c: the ranks, their groups and their links ---- */
typedef enum { MEMBER_ABSENT, MEMBER_LOADING, MEMBER_READY, MEMBER_LOST, MEMBER_LEFT } member_state;
typedef struct {
    member_state state;
    uint32_t group;
    net_link *link; /* NULL: none */
    proto_register info;
    uint64_t heard_ns, steps;
    double load_share, step_ms;
    char reason[256]; /* LOST: why */
} member;

/* A group of the topology lives as long as all of its ranks do. */
typedef struct {
    uint32_t leader, n_ranks; /* ranks leader .. leader + n_ranks - 1 */
    uint32_t number;          /* among the drafters, or among the verifiers: the scheduler's */
    uint32_t epoch;           /* higher with each life */
    uint64_t plan, sent_ns;   /* in flight, and since when; plan 0: none */
    uint64_t answered;        /* the last one in this life that was answered */
    uint32_t n_nodes;         /* of draft trees in it */
    bool drafts, up;
    bool settled; /* it has been up, or lost: nobody waits for its start any more */
} member_group;

typedef struct {
    uint32_t n; /* ranks, the coordinator's included (its entry is unused) */
    member *items;
    uint32_t n_groups, n_drafters, n_verifiers;
    member_group *groups;       /* [n_groups] as in the topology */
    const char **drafter_names; /* [n_drafters] the topology's */
    uint32_t want_hidden;       /* mask of the drafters that want hidden states */
    struct {
        net_link *link; /* NULL: unused */
        uint64_t since_ns;
    } * strangers; /* [n] links that have not said REGISTER yet */
    net_link_server *server;
    net_timer *beat;
    bool stopping;
    uint64_t started_ns, stop_by_ns;
    uint16_t port;
} members;

/* Reads the groups of the topology; links come with members_listen. Errors: ST_FATAL_MEMORY. */
ST_CHECKED st_code members_init(coordinator *c, st_error *e);
ST_CHECKED st_code members_listen(coordinator *c, st_error *e);
void members_deinit(members *m);
void members_send_plan(coordinator *c, uint32_t verifier, const proto_plan *p); /* if it cannot be sent, GROUP_DOWN follows */
void members_send_draft(coordinator *c, uint32_t drafter, const proto_plan *p); /* DRAFTER_DOWN, likewise */
void members_give_up(coordinator *c, const char *why); /* verifiers that do not answer their plans: their leaders count as lost */
member_group *members_verifier(coordinator *c, uint32_t verifier);
/* A message to a rank; nothing where it has no link. Frees `b`. If it cannot be sent, the rank is lost. */
void members_send(coordinator *c, uint32_t rank, uint16_t type, proto_bytes *b, st_code encoded);
void members_refuse(coordinator *c, uint32_t rank, st_code code, const char *why); /* it counts as lost */
void members_stop(coordinator *c);                                                 /* STOP to all; coordinator_all_left follows */
/* Why the cluster is not ready; "" if it is: a verifier is up, and each other one and each drafter was, or is lost or late. */
void members_explain(const coordinator *c, char *text, size_t n_bytes);

/* ---- moves.c: KV of sequences on its way from one verifier to another ---- */
typedef struct move move;
typedef void moves_measured(void *context, st_code code, const char *message, const proto_moved *at_target);
typedef struct {
    move *items; /* [n] */
    uint32_t n, generation;
    net_timer *timer; /* the next of them that is due */
} moves;
ST_CHECKED st_code moves_init(coordinator *c, st_error *e);
void moves_deinit(moves *s);
void moves_start(coordinator *c, const sched_action *a); /* SCHED_MOVED follows, not from inside */
void moves_ready(coordinator *c, uint64_t id, uint32_t n_ready);
void moves_cancel(coordinator *c, uint64_t id);
void moves_answered(coordinator *c, uint32_t rank, const proto_moved *r);
void moves_lost(coordinator *c, const member_group *g); /* its ranks touch nothing any more */

/* Memory of no content from rank to rank: `measured` is called once, not from inside. Returns the move's id; 0: a rank is gone,
 * or too many moves are on their way, and nothing is called. */
uint64_t moves_measure(coordinator *c, uint32_t from, uint32_t to, const char *way, const proto_scratch *scratch,
                       moves_measured *measured, void *context);

/* ---- measure.c: the call MeasureKv ---- */
typedef struct measure measure;
void measure_start(coordinator *c, net_call *call, const uint8_t *message, size_t n); /* answers the call, now or later */
void measure_forget(coordinator *c, const net_call *call);                            /* the call is dead */
void measure_deinit(coordinator *c);

/* ---- debug.c: the calls Faults and ForgetKv ---- */
typedef struct {
    net_call *call; /* of Faults, under way; NULL: none */
    uint64_t id;    /* of its orders */
    bool *open;     /* [members.n] has not answered */
    uint32_t n_open;
    st_error error; /* the first */
    net_timer *timer;
} debug;
ST_CHECKED st_code debug_init(coordinator *c, st_error *e);
void debug_deinit(debug *d);
void debug_faults(coordinator *c, net_call *call, const uint8_t *message, size_t n); /* answers the call, now or later */
void debug_forget_kv(coordinator *c, net_call *call);                                /* now */
void debug_answered(coordinator *c, uint32_t rank, const proto_faults *f);
void debug_lost(coordinator *c, uint32_t rank);         /* it is lost, or has left */
void debug_leave(coordinator *c, const net_call *call); /* the call is dead */

/* ---- front_grpc.c: clients ---- */
typedef struct stream stream;
typedef struct {
    net_grpc_server *server;
    stream **streams; /* [max_requests], index = low 16 bits of the sequence id */
    uint32_t n_slots;
    uint64_t next_id;
    uint32_t n_stops; /* calls of Stop that wait for the drain */
    net_call *stop_calls[16];
    uint32_t n_drains; /* calls of Drain that wait until a verifier has nothing left */
    struct {
        net_call *call;
        uint32_t verifier;
    } drains[16];
    uint64_t done, failed, prompt_tokens, answer_tokens;
    uint16_t port;
} front;

ST_CHECKED st_code front_init(coordinator *c, st_error *e);
void front_deinit(coordinator *c);
void front_started(coordinator *c, seq_id seq); /* a plan that opens it is out: it no longer waits */
void front_tokens(coordinator *c, const sched_action *a);
void front_finished(coordinator *c, const sched_action *a);
void front_cancel_all(coordinator *c, st_code code); /* the drain took too long */
void front_drained(coordinator *c);                  /* answers the Stop calls */
void front_emptied(coordinator *c);                  /* answers the Drain calls whose time has come */

/* ---- trace.c: what nodes and requests were busy with ---- */
typedef struct {
    proto_span *spans; /* a ring */
    uint64_t n;        /* noted so far */
} trace;
ST_CHECKED st_code trace_init(trace *t, st_error *e);
void trace_deinit(trace *t);
/* `numbers`: all but kind and name. */
void trace_note(trace *t, const char *kind, const char *name, const proto_span *numbers);
/* Up to n_max spans from number *at on, which moves behind them; returns how many. Those that are gone are passed over. */
uint32_t trace_read(const trace *t, uint64_t *at, proto_span *out, uint32_t n_max);

/* ---- front_http.c: monitors ---- */
ST_CHECKED st_code front_http_init(coordinator *c, st_error *e); /* nothing where http_listen is empty */

/* ---- loop.c ---- */
enum { MAX_ENDS = 64 };
struct coordinator {
    const coordinator_options *o;
    const config_topology *t;
    net_loop *loop;
    net_timer *sched_timer, *drain_timer;
    sched *sched;
    void *sched_memory;
    sched_limits limits;
    sched_event *pending; /* [max_pending] events met while actions were carried out */
    uint32_t n_pending, max_pending;
    bool stepping, draining, drained, ended, run_file_written;
    bool overdue, closing; /* the drain took too long; ranks are gone, clients are left */
    uint64_t started_ns;
    model_tokenizer *tokenizer;
    uint32_t ends[MAX_ENDS], n_ends; /* the model's own end-of-answer tokens */
    uint32_t n_layers;               /* of the model */
    uint8_t model_hash[32], vocabulary_hash[32];
    filemap corpus;
    members members;
    moves moves;
    measure *measure; /* NULL: nobody measures */
    debug debug;
    front front;
    net_http_server *http; /* NULL: off */
    uint16_t http_port;
    metrics metrics;
    trace trace;
};

/* Gives the event to the scheduler and carries out what comes of it; an event met in the midst of that waits its turn (REQUEST,
 * RESULT and DRAFTS hold views and never come in the midst). */
void coordinator_event(coordinator *c, const sched_event *event);
bool coordinator_is_ready(const coordinator *c);        /* takes requests */
bool coordinator_can_send_hidden(const coordinator *c); /* those of any step fit a message */
void coordinator_drain(coordinator *c, const char *why);
void coordinator_all_left(coordinator *c); /* every rank said goodbye, or the time for it is over */

#endif
