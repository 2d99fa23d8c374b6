/* The worker's life: connect, register, load, work, leave.
 *
 *     connecting ──on_open: REGISTER──> joining ──WELCOME──> loading ──(step thread: model packed) READY──> working
 *          └───────────── link lost, silence, ABORT, own failure: leaves with an error ──────────────────────┤
 *                                                              STOP: GOODBYE, leaves with ST_OK <────────────┘
 *
 * The link thread owns everything here but the step thread's part (struct part below), which it touches only before that thread
 * starts and after it has ended. Plans go down the mailbox as bytes; results and progress come back by net_loop_post, as bytes
 * too. A worker that is late, hung or wrong is the coordinator's to judge; a coordinator that is silent for dead_after_ms is
 * lost. Signals: SIGTERM is ignored (srun signals every task); the coordinator says when to leave. */
#include "worker/worker.h"

#include "base/log.h"
#include "base/mailbox.h"
#include "base/mem.h"
#include "model/model.h"
#include "net/net.h"
#include "proto/proto.h"
#include "worker/exchange.h"
#include "worker/step.h"
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum {
    MAILBOX_ITEMS = 16,
    CONNECT_TIMEOUT_MS = 10000,
};

enum { MAIL_PLAN, MAIL_WAKE, MAIL_QUIT };

/* A rank that is not the leader listens this long after a step before it sleeps again. */
static const uint64_t LISTEN_NS = 2000000;

typedef struct worker worker;

/* What the step thread owns. */
typedef struct {
    worker *w;
    kernels_device *device;
    const kernels_ops *ops;
    parallel_group *group; /* borrowed */
    exchange *exchange;    /* NULL: a group of one */
    model *model;
    kv_store *kv;
    step *step;
    const uint32_t *words; /* [n_words] the leader's decisions on the last step; in `step` */
    uint32_t n_words;
    uint64_t last_plan; /* not the leader: the last that came */
    bool ended;         /* the leader said that the group ends */
    st_code code;       /* why the thread ended; for after it has */
    arena arena;        /* decoded plans */
    proto_register info;
} part;

struct worker {
    const worker_options *o;
    const config_group *config;
    net_loop *loop;
    net_link *link; /* NULL: not connected */
    net_timer *beat;
    mailbox *mail;
    pthread_t thread;
    bool thread_runs, welcomed, stopping;
    proto_welcome welcome;
    proto_register info;
    uint64_t heard_ns, steps;
    _Atomic uint32_t load_permille;
    _Atomic bool wake_waits;      /* a WAKE is in the mailbox */
    _Atomic uint64_t wanted_plan; /* the last plan that a WAKE has named */
    part part;
    st_code code; /* why it leaves */
    st_error error;
};

/* From the step thread to the link thread: one heap message. */
typedef struct {
    worker *w;
    uint16_t type; /* proto_message_type; ABORT: code and message below */
    proto_bytes bytes;
    proto_register info; /* READY */
    proto_abort abort;
} message;

static void leave(worker *w, st_code code, const char *why) {
    if (!w->stopping && code) w->code = st_fail(&w->error, code, "%s", why);
    if (code) atomic_store(&w->o->group_link->aborted, true);
    w->stopping = true;
    if (w->link)
        net_link_close(w->link, why);
    else
        net_loop_stop(w->loop);
}

static void send_bytes(worker *w, uint16_t type, proto_bytes *b, st_code encoded) {
    net_frame f = {.type = type,
                   .cluster_epoch = w->o->cluster_epoch,
                   .group_epoch = w->welcome.group_epoch,
                   .payload = b->bytes,
                   .n = (uint32_t)b->n};
    st_code code = encoded ? encoded : w->link ? net_link_send(w->link, &f) : ST_ERR_UNAVAILABLE;
    proto_bytes_free(b);
    if (code && !w->stopping) leave(w, code, "cannot send to the coordinator");
}

static void send_abort(worker *w, const proto_abort *a) {
    proto_bytes b = {0};
    st_code code = proto_abort_encode(a, &b);
    send_bytes(w, PROTO_MSG_ABORT, &b, code);
    leave(w, a->code, a->message);
}

/* ---- step thread ---- */

/* On the link thread: what the step thread posted. */
static void deliver(void *context) {
    message *m = context;
    worker *w = m->w;
    if (m->type == PROTO_MSG_ABORT) {
        send_abort(w, &m->abort);
    } else if (m->type == PROTO_MSG_READY) {
        w->info = m->info;
        st_code code = proto_register_encode(&w->info, &m->bytes);
        send_bytes(w, PROTO_MSG_READY, &m->bytes, code);
    } else {
        w->steps++;
        send_bytes(w, PROTO_MSG_RESULT, &m->bytes, ST_OK);
    }
    mem_free(m);
}

static void post(part *p, uint16_t type, proto_bytes bytes, st_code code, const char *text) {
    message *m = mem_alloc(1, sizeof *m);
    INVARIANT(m); /* a rank without memory for a message cannot even say so: it dies and the link tells */
    *m = (message){.w = p->w, .type = type, .bytes = bytes, .info = p->info, .abort.code = code};
    if (text) snprintf(m->abort.message, sizeof m->abort.message, "%s", text);
    INVARIANT(net_loop_post(p->w->loop, deliver, m) == ST_OK);
}

static void show_progress(void *context, double share) {
    worker *w = context;
    atomic_store(&w->load_permille, (uint32_t)(share * 1000));
}

static uint32_t compute_threads(const worker *w) {
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    if (w->config->threads) return w->config->threads;
    uint32_t ranks = w->config->tensor_parallel; /* of this group; other hosts' ranks are not known here */
    return cores > (long)ranks ? (uint32_t)cores / ranks : 1;
}

static st_code load(part *p, st_error *e) {
    worker *w = p->w;
    const config_topology *t = w->o->topology;
    model_file *f = NULL;
    p->info.n_threads = compute_threads(w);
    st_code code = kernels_pick(w->o->isa ? w->o->isa : w->config->isa, &p->ops, e);
    if (!code) code = p->ops->create(p->info.n_threads, &p->device, e);
    if (!code) code = model_file_open(t->model, &f, e);
    if (!code) code = model_file_hash(f, p->info.model_hash);
    if (!code) code = model_file_vocabulary_hash(f, p->info.vocabulary_hash);
    if (!code) {
        model_options mo = {.ops = p->ops,
                            .device = p->device,
                            .group = p->group,
                            .max_rows = t->max_rows,
                            .max_choose = t->max_rows,
                            .progress = show_progress,
                            .context = w};
        code = model_load(f, &mo, &p->model, e);
    }
    model_file_close(f);
    if (code) return code;
    kv_shape shape = model_kv_shape(p->model);
    shape.type = kv_type_find(w->config->kv_type);
    shape.n_blocks = w->config->kv_tokens / NOUNS_BLOCK_TOKENS;
    if (!shape.type) return st_fail(e, ST_ERR_UNSUPPORTED, "kv_type: there is no type %s", w->config->kv_type);
    code = kv_store_create(p->ops, p->device, &shape, &p->kv, e);
    if (code) return code;
    const model_info *info = model_get_info(p->model);
    uint32_t context = t->max_context && t->max_context < info->max_context ? t->max_context : info->max_context;
    step_options so = {p->model, p->kv, p->ops, p->device, t->max_running, t->max_rows, context};
    code = step_create(&so, &p->step);
    if (!code) code = arena_init(&p->arena, proto_arena_bytes(PROTO_MAX_BYTES));
    if (!code && p->group->n_ranks > 1) code = exchange_create(p->group, step_max_words(&so), PROTO_MAX_BYTES, &p->exchange);
    if (code)
        return st_fail(e, code, "no memory for the sequences of a rank (max_running %u, context %u)", t->max_running, context);
    snprintf(p->info.isa, sizeof p->info.isa, "%s", p->ops->isa);
    p->info.kv_blocks = shape.n_blocks;
    p->info.kv_bytes = kv_store_bytes(p->kv);
    p->info.weight_bytes = model_weight_bytes(p->model);
    p->info.max_rows = t->max_rows;
    p->info.max_sequences = t->max_running;
    p->info.max_context = context;
    p->info.n_vocab = info->n_vocab;
    return ST_OK;
}

static st_code decode(part *p, const uint8_t *bytes, size_t n, proto_plan *plan, st_error *e) {
    arena_reset(&p->arena, 0);
    return proto_plan_decode(bytes, n, &p->arena, plan, e);
}

/* The leader's step: the others hear the last decisions and the plan, all compute, the leader decides. */
static st_code lead(part *p, const mailbox_item *item, st_error *e) {
    proto_plan plan;
    proto_result result;
    proto_bytes bytes = {0};
    uint64_t start = net_now_ns();
    exchange_message m = {p->words, p->n_words, item->data, (uint32_t)item->n};
    st_code code = decode(p, item->data, item->n, &plan, e);
    if (!code && p->exchange) code = exchange_send(p->exchange, &m, e);
    if (code) return code;
    mem_step_begin();
    code = step_run(p->step, &plan, e);
    if (!code) p->words = step_decide(p->step, &p->n_words);
    if (!code) code = step_apply(p->step, p->words, p->n_words, &result, e);
    mem_step_end();
    if (code) return code;
    result.step_ns = net_now_ns() - start;
    code = proto_result_encode(&result, &bytes);
    if (code) return st_fail(e, code, "cannot encode the result of plan %llu", (unsigned long long)plan.id);
    post(p, PROTO_MSG_RESULT, bytes, ST_OK, NULL);
    return ST_OK;
}

/* Another rank's part of a step. */
static st_code follow(part *p, const exchange_message *m, st_error *e) {
    proto_plan plan;
    proto_result result;
    st_code code = step_apply(p->step, m->words, m->n_words, &result, e);
    if (!code) code = decode(p, m->plan, m->n_plan, &plan, e);
    if (code) return code;
    mem_step_begin();
    code = step_run(p->step, &plan, e);
    mem_step_end();
    p->last_plan = plan.id;
    return code;
}

/* Steps as they come: up to the plan that the last WAKE named, however late the leader is with it, and on until none has come for
 * LISTEN_NS. */
static st_code follow_awhile(part *p, st_error *e) {
    exchange_message m;
    st_code code = ST_OK;
    atomic_store(&p->w->wake_waits, false); /* before wanted_plan is read: a WAKE from here on is seen or posts anew */
    for (;;) {
        bool done, owed = p->last_plan < atomic_load(&p->w->wanted_plan);
        code = exchange_receive(p->exchange, owed ? (uint64_t)p->group->deadline_ms * 1000000 : LISTEN_NS, &m, &done, e);
        if (code) return code;
        if (!done)
            return owed
                       ? st_fail(e, ST_ERR_DEADLINE, "the leader did not pass on plan %llu", (unsigned long long)p->last_plan + 1)
                       : ST_OK;
        p->ended = !m.n_plan;
        if (p->ended) return ST_OK;
        code = follow(p, &m, e);
        if (code) return code;
    }
}

/* So that no broadcast is left half done when MPI ends. */
static st_code part_company(part *p, st_error *e) {
    exchange_message end = {0};
    bool done;
    if (!p->exchange || p->ended) return ST_OK;
    if (p->group->rank == 0) return exchange_send(p->exchange, &end, e);
    st_code code = exchange_receive(p->exchange, (uint64_t)p->group->deadline_ms * 1000000, &end, &done, e);
    return code || done ? code : st_fail(e, ST_ERR_DEADLINE, "the leader did not say goodbye");
}

static void unload(part *p) {
    arena_deinit(&p->arena);
    step_destroy(p->step);
    kv_store_destroy(p->kv);
    model_destroy(p->model);
    exchange_destroy(p->exchange);
    if (p->ops) p->ops->destroy(p->device);
}

static void *step_main(void *context) {
    part *p = context;
    st_error e = {0};
    st_code code = load(p, &e);
    if (!code) post(p, PROTO_MSG_READY, (proto_bytes){0}, ST_OK, NULL);
    for (bool quit = false; !code && !quit && !p->ended;) {
        mailbox_item item;
        mailbox_take(p->w->mail, &item);
        if (item.kind == MAIL_PLAN)
            code = lead(p, &item, &e);
        else if (item.kind == MAIL_WAKE)
            code = follow_awhile(p, &e);
        else
            quit = true;
        mem_free(item.data);
    }
    if (!code) code = part_company(p, &e);
    if (code) post(p, PROTO_MSG_ABORT, (proto_bytes){0}, code, e.message[0] ? e.message : st_text(code));
    p->code = code;
    unload(p);
    return NULL;
}

/* ---- link thread ---- */

static void on_beat(void *context) {
    worker *w = context;
    uint64_t now = net_now_ns(), ms = 1000000;
    if (w->stopping) return;
    if (now - w->heard_ns > w->welcome.dead_after_ms * ms) {
        leave(w, ST_ERR_UNAVAILABLE, "the coordinator is silent");
        return;
    }
    proto_bytes b = {0};
    proto_heartbeat h = {.sent_ns = now, .steps = w->steps, .load_share = atomic_load(&w->load_permille) / 1000.0};
    st_code code = proto_heartbeat_encode(&h, &b);
    send_bytes(w, PROTO_MSG_HEARTBEAT, &b, code);
    net_timer_at(w->beat, now + w->welcome.heartbeat_ms * ms);
}

static void on_open(void *context, net_link *k) {
    worker *w = context;
    proto_bytes b = {0};
    (void)k;
    w->heard_ns = net_now_ns();
    st_code code = proto_register_encode(&w->info, &b);
    send_bytes(w, PROTO_MSG_REGISTER, &b, code);
    on_beat(w); /* from here on, so that a coordinator that never says WELCOME is not waited for either */
}

static void on_welcome(worker *w, const net_frame *f) {
    st_error e = {0};
    if (w->welcomed || proto_welcome_decode(f->payload, f->n, &w->welcome, &e)) {
        leave(w, ST_FATAL_PROTOCOL, w->welcomed ? "a second WELCOME" : e.message);
        return;
    }
    w->welcomed = true;
    w->part.w = w;
    w->part.group = w->o->group_link;
    w->part.info = w->info;
    if (pthread_create(&w->thread, NULL, step_main, &w->part)) {
        leave(w, ST_FATAL_INTERNAL, "cannot start the step thread");
        return;
    }
    w->thread_runs = true;
}

static void on_plan(worker *w, const net_frame *f) {
    if (f->group_epoch < w->welcome.group_epoch) {
        log_line(LOG_WARN, "worker", "dropped a plan of epoch %u, now %u", f->group_epoch, w->welcome.group_epoch);
        return;
    }
    mailbox_item item = {MAIL_PLAN, mem_alloc(f->n, 1), f->n};
    if (f->group_epoch > w->welcome.group_epoch || !w->thread_runs || w->o->group_rank)
        leave(w, ST_FATAL_PROTOCOL, "a plan before WELCOME, from a later epoch, or not to the leader");
    else if (!item.data)
        leave(w, ST_FATAL_MEMORY, "no memory for a plan");
    else {
        memcpy(item.data, f->payload, f->n);
        if (mailbox_post(w->mail, &item)) return;
        leave(w, ST_FATAL_PROTOCOL, "more plans in flight than a rank queues");
    }
    mem_free(item.data);
}

static void on_wake(worker *w, const net_frame *f) {
    mailbox_item item = {.kind = MAIL_WAKE};
    uint64_t plan;
    st_error e = {0};
    if (!w->thread_runs || !w->o->group_rank || proto_wake_decode(f->payload, f->n, &plan, &e)) {
        leave(w, ST_FATAL_PROTOCOL, e.message[0] ? e.message : "a WAKE before WELCOME, or to the leader");
        return;
    }
    atomic_store(&w->wanted_plan, plan);
    if (!atomic_exchange(&w->wake_waits, true) && !mailbox_post(w->mail, &item))
        leave(w, ST_FATAL_INTERNAL, "the mailbox is full");
}

static void on_frame(void *context, net_link *k, const net_frame *f) {
    worker *w = context;
    proto_bytes none = {0};
    proto_abort a;
    (void)k;
    w->heard_ns = net_now_ns();
    if (w->stopping) return;
    if (f->cluster_epoch != w->o->cluster_epoch) {
        leave(w, ST_FATAL_PROTOCOL, "a frame of another cluster epoch");
        return;
    }
    switch (f->type) {
    case PROTO_MSG_WELCOME: on_welcome(w, f); break;
    case PROTO_MSG_HEARTBEAT: break;
    case PROTO_MSG_PLAN: on_plan(w, f); break;
    case PROTO_MSG_WAKE: on_wake(w, f); break;
    case PROTO_MSG_STOP:
        send_bytes(w, PROTO_MSG_GOODBYE, &none, ST_OK);
        leave(w, ST_OK, "stopped by the coordinator");
        break;
    case PROTO_MSG_ABORT:
        if (proto_abort_decode(f->payload, f->n, &a, &w->error))
            leave(w, ST_FATAL_PROTOCOL, "an unreadable ABORT");
        else
            leave(w, a.code ? a.code : ST_FATAL_PROTOCOL, a.message);
        break;
    default: leave(w, ST_FATAL_PROTOCOL, "a message of a type that no worker takes");
    }
}

static void on_close(void *context, net_link *k, const char *reason) {
    worker *w = context;
    char text[ST_MESSAGE_BYTES];
    (void)k;
    w->link = NULL;
    snprintf(text, sizeof text, "the link to the coordinator %s:%u closed: %s", w->o->host, w->o->port, reason);
    leave(w, w->stopping ? ST_OK : ST_ERR_UNAVAILABLE, text);
}

static void drop_mail(mailbox_item *item) { mem_free(item->data); }

/* Ends the step thread and what it left in the loop's door, then frees everything. */
static void deinit(worker *w) {
    if (w->thread_runs) {
        mailbox_item quit = {.kind = MAIL_QUIT};
        while (!mailbox_post(w->mail, &quit)) { /* full: the plans in it are of no use any more */
            mailbox_item old;
            if (mailbox_try_take(w->mail, &old)) drop_mail(&old);
        }
        pthread_join(w->thread, NULL);
        if (!w->code && w->part.code)
            w->code = st_fail(&w->error, w->part.code, "the group did not end well: %s", st_text(w->part.code));
    }
    net_timer_destroy(w->beat);
    net_loop_destroy(w->loop);
    mailbox_destroy(w->mail, drop_mail);
}

static void describe(worker *w) {
    const worker_options *o = w->o;
    w->info = (proto_register){
        .rank = o->rank, .group = o->group, .group_rank = o->group_rank, .group_size = w->config->tensor_parallel};
    snprintf(w->info.role, sizeof w->info.role, "verifier");
    snprintf(w->info.kv_type, sizeof w->info.kv_type, "%s", w->config->kv_type);
    if (gethostname(w->info.hostname, sizeof w->info.hostname - 1))
        snprintf(w->info.hostname, sizeof w->info.hostname, "unknown");
}

st_code worker_run(const worker_options *o, st_error *e) {
    worker w = {.o = o, .config = &o->topology->groups[o->group]};
    w.welcome.heartbeat_ms = o->topology->heartbeat_ms; /* until WELCOME says so */
    w.welcome.dead_after_ms = o->topology->dead_after_ms;
    const net_link_callbacks callbacks = {on_open, on_frame, on_close};
    describe(&w);
    signal(SIGTERM, SIG_IGN);
    signal(SIGINT, SIG_IGN);
    w.code = net_loop_create(&w.loop, &w.error);
    if (!w.code) w.code = mailbox_create(MAILBOX_ITEMS, &w.mail);
    if (!w.code) w.code = net_timer_create(w.loop, on_beat, &w, &w.beat);
    if (!w.code)
        w.code = net_link_connect(w.loop, o->host, o->port, o->secret, CONNECT_TIMEOUT_MS, &callbacks, &w, &w.link, &w.error);
    if (!w.code) net_loop_run(w.loop);
    deinit(&w);
    if (w.code && e) *e = w.error;
    if (w.code && e && !e->message[0]) st_fail(e, w.code, "%s", st_text(w.code));
    return w.code;
}
