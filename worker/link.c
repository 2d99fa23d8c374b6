/* The worker's life: connect, register, load, work, leave.
 *
 *     connecting ──on_open: REGISTER──> joining ──WELCOME──> loading ──(step thread: model packed) READY──> working
 *          └───────────── link lost, silence, ABORT, own failure: leaves with an error ──────────────────────┤
 *                                                              STOP: GOODBYE, leaves with ST_OK <────────────┘
 *
 * The link thread owns everything here; the step thread owns the part (part_int.h) while it runs. Plans, and orders to move KV,
 * go down the mailbox as bytes; results come back by net_loop_post, as bytes too. A worker that is late, hung or wrong is the
 * coordinator's to judge; a coordinator that is silent for dead_after_ms is lost. Signals: SIGTERM is ignored (srun signals every
 * task); the coordinator says when to leave. */
#include "worker/worker.h"

#include "base/fault.h"
#include "base/log.h"
#include "base/mailbox.h"
#include "base/mem.h"
#include "net/net.h"
#include "worker/part_int.h"
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum {
    MAILBOX_ITEMS = 512, /* a plan or two, and orders about moves */
    CONNECT_TIMEOUT_MS = 10000,
};

enum { MAIL_PLAN, MAIL_WAKE, MAIL_MOVE, MAIL_MOVE_READY, MAIL_MOVE_CANCEL, MAIL_QUIT };

typedef struct worker worker;

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
    part *part;
    st_code part_code; /* why the step thread ended; for after it has */
    st_code code;      /* why it leaves */
    st_error error;
};

/* From another thread to the link thread: one heap message. */
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
        w->steps += m->type == PROTO_MSG_RESULT;
        send_bytes(w, m->type, &m->bytes, ST_OK);
    }
    mem_free(m);
}

static void post(worker *w, uint16_t type, proto_bytes bytes, st_code code, const char *text) {
    message *m = mem_alloc(1, sizeof *m);
    INVARIANT(m); /* a rank without memory for a message cannot even say so: it dies and the link tells */
    *m = (message){.w = w, .type = type, .bytes = bytes, .info = w->part->info, .abort.code = code};
    if (text) snprintf(m->abort.message, sizeof m->abort.message, "%s", text);
    INVARIANT(net_loop_post(w->loop, deliver, m) == ST_OK);
}

/* On the mover's thread. */
static void moved(void *context, const proto_moved *m) {
    proto_bytes b = {0};
    INVARIANT(proto_moved_encode(m, &b) == ST_OK);
    post(context, PROTO_MSG_MOVED, b, ST_OK, NULL);
}

/* The step goes on computing: where both threads share a core, the link thread would else wait until this one's slice ends. */
static void early(void *context, proto_bytes result) {
    post(context, PROTO_MSG_EARLY, result, ST_OK, NULL);
    sched_yield();
}

static st_code take_mail(worker *w, const mailbox_item *item, st_error *e) {
    static const proto_message_type orders[] = {
        [MAIL_MOVE] = PROTO_MSG_MOVE, [MAIL_MOVE_READY] = PROTO_MSG_MOVE_READY, [MAIL_MOVE_CANCEL] = PROTO_MSG_MOVE_CANCEL};
    proto_bytes result = {0};
    if (item->kind == MAIL_WAKE) return w->part->ops->follow(w->part, e);
    if (item->kind != MAIL_PLAN) {
        atomic_fetch_sub(&w->part->n_orders, 1);
        return w->part->ops->move(w->part, orders[item->kind], item->data, item->n, e);
    }
    atomic_fetch_sub(&w->part->n_plans, 1);
    st_code code = w->part->ops->step(w->part, item->data, item->n, &result, e);
    if (!code) post(w, PROTO_MSG_RESULT, result, ST_OK, NULL);
    return code;
}

static void *step_main(void *context) {
    worker *w = context;
    part *p = w->part;
    st_error e = {0};
    st_code code = arena_init(&p->arena, proto_arena_bytes(PROTO_MAX_BYTES));
    if (!code) code = p->ops->load(p, &e);
    if (!code) post(w, PROTO_MSG_READY, (proto_bytes){0}, ST_OK, NULL);
    for (bool quit = false; !code && !quit && !p->ended;) {
        mailbox_item item;
        mailbox_take(w->mail, &item);
        quit = item.kind == MAIL_QUIT;
        if (!quit) code = take_mail(w, &item, &e);
        mem_free(item.data);
    }
    if (!code && p->ops->part_company) code = p->ops->part_company(p, &e);
    if (code) post(w, PROTO_MSG_ABORT, (proto_bytes){0}, code, e.message[0] ? e.message : st_text(code));
    w->part_code = code;
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
    proto_heartbeat h = {.sent_ns = now, .steps = w->steps, .load_share = atomic_load(&w->part->load_permille) / 1000.0};
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
    if (pthread_create(&w->thread, NULL, step_main, w)) {
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
    if (f->group_epoch > w->welcome.group_epoch || !w->thread_runs || !w->part->ops->step)
        leave(w, ST_FATAL_PROTOCOL, "a plan before WELCOME, from a later epoch, or not to a leader");
    else if (!item.data)
        leave(w, ST_FATAL_MEMORY, "no memory for a plan");
    else {
        memcpy(item.data, f->payload, f->n);
        atomic_fetch_add(&w->part->n_plans, 1);
        if (mailbox_post(w->mail, &item)) return;
        leave(w, ST_FATAL_PROTOCOL, "more plans in flight than a rank queues");
    }
    mem_free(item.data);
}

static void on_move(worker *w, const net_frame *f, uint32_t kind) {
    if (f->group_epoch < w->welcome.group_epoch) {
        log_line(LOG_WARN, "worker", "dropped an order to move KV of epoch %u, now %u", f->group_epoch, w->welcome.group_epoch);
        return;
    }
    mailbox_item item = {kind, mem_alloc(f->n ? f->n : 1, 1), f->n};
    if (f->group_epoch > w->welcome.group_epoch || !w->thread_runs || !w->part->ops->move)
        leave(w, ST_FATAL_PROTOCOL, "a MOVE before WELCOME, from a later epoch, or to a rank that moves no KV");
    else if (!item.data)
        leave(w, ST_FATAL_MEMORY, "no memory for an order");
    else {
        if (f->n) memcpy(item.data, f->payload, f->n);
        atomic_fetch_add(&w->part->n_orders, 1);
        if (mailbox_post(w->mail, &item)) return;
        leave(w, ST_FATAL_PROTOCOL, "more orders in flight than a rank queues");
    }
    mem_free(item.data);
}

static void on_wake(worker *w, const net_frame *f) {
    mailbox_item item = {.kind = MAIL_WAKE};
    uint64_t plan;
    st_error e = {0};
    if (!w->thread_runs || !w->part->ops->follow || proto_wake_decode(f->payload, f->n, &plan, &e)) {
        leave(w, ST_FATAL_PROTOCOL, e.message[0] ? e.message : "a WAKE before WELCOME, or to the leader");
        return;
    }
    atomic_store(&w->part->wanted_plan, plan);
    if (!atomic_exchange(&w->part->wake_waits, true) && !mailbox_post(w->mail, &item))
        leave(w, ST_FATAL_INTERNAL, "the mailbox is full");
}

/* Here and not on the step thread: a rank that hangs is one that a fault may be wanted of. */
static void on_faults(worker *w, const net_frame *f) {
    proto_faults_order order;
    proto_faults told;
    proto_bytes b = {0};
    st_error e = {0};
    st_code code = ST_OK;
    if (!w->welcomed || proto_faults_order_decode(f->payload, f->n, &order, &e)) {
        leave(w, ST_FATAL_PROTOCOL, e.message[0] ? e.message : "FAULTS before WELCOME");
        return;
    }
    if (strcmp(w->o->topology->debug, "on"))
        code = st_fail(&e, ST_ERR_MISMATCH, "its topology does not say debug: on; do all hosts read the same file?");
    else if (order.set)
        code = fault_plan(order.plan, &e);
    proto_faults_of_this_process(&told);
    told.id = order.id;
    told.code = code;
    if (code) snprintf(told.message, sizeof told.message, "%s", e.message);
    code = proto_faults_encode(&told, &b);
    send_bytes(w, PROTO_MSG_FAULTS_TOLD, &b, code);
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
    case PROTO_MSG_MOVE: on_move(w, f, MAIL_MOVE); break;
    case PROTO_MSG_MOVE_READY: on_move(w, f, MAIL_MOVE_READY); break;
    case PROTO_MSG_MOVE_CANCEL: on_move(w, f, MAIL_MOVE_CANCEL); break;
    case PROTO_MSG_FAULTS: on_faults(w, f); break;
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
        if (!w->code && w->part_code)
            w->code = st_fail(&w->error, w->part_code, "the group did not end well: %s", st_text(w->part_code));
    }
    if (w->part) w->part->ops->destroy(w->part);
    net_timer_destroy(w->beat);
    net_loop_destroy(w->loop);
    mailbox_destroy(w->mail, drop_mail);
}

_Static_assert((int)PROTO_MAX_TRANSPORTS >= (int)TRANSPORT_MAX_KINDS && (int)PROTO_TRANSPORT_BYTES >= (int)TRANSPORT_NAME_BYTES &&
                   (int)PROTO_ADDRESS_BYTES >= (int)TRANSPORT_ADDRESS_BYTES,
               "messages have room for the addresses of a rank");

static void tell_addresses(const worker_options *o, proto_register *r) {
    INVARIANT(o->n_transports <= PROTO_MAX_TRANSPORTS);
    for (uint32_t i = 0; i < o->n_transports; i++) {
        const transport *t = o->transports[i];
        proto_address *to = &r->addresses[r->n_addresses++];
        snprintf(to->transport, sizeof to->transport, "%s", t->ops->name);
        snprintf(to->address, sizeof to->address, "%s", t->address);
    }
}

static st_code make_part(worker *w) {
    const worker_options *o = w->o;
    bool drafts = w->config->role == CONFIG_DRAFTER;
    st_code code = drafts ? part_draft(&w->part) : part_verify(o->group_rank == 0, &w->part);
    if (code) return st_fail(&w->error, code, "no memory for a rank");
    proto_register *i = &w->part->info;
    w->part->o = o;
    w->part->config = w->config;
    *i = (proto_register){.rank = o->rank,
                          .group = o->group,
                          .group_rank = o->group_rank,
                          .group_size = w->config->tensor_parallel,
                          .max_rows = o->topology->max_rows,
                          .max_sequences = o->topology->max_running * (drafts ? config_n_verifiers(o->topology) : 1)};
    snprintf(i->role, sizeof i->role, "%s", drafts ? "drafter" : "verifier");
    snprintf(i->kind, sizeof i->kind, "%s", drafts ? w->config->kind : "");
    snprintf(i->name, sizeof i->name, "%s", w->config->name);
    w->part->moved = moved;
    w->part->early = early;
    w->part->link = w;
    if (!drafts) tell_addresses(o, i);
    if (gethostname(i->hostname, sizeof i->hostname - 1)) snprintf(i->hostname, sizeof i->hostname, "unknown");
    w->info = *i;
    return ST_OK;
}

st_code worker_run(const worker_options *o, st_error *e) {
    worker w = {.o = o, .config = &o->topology->groups[o->group]};
    w.welcome.heartbeat_ms = o->topology->heartbeat_ms; /* until WELCOME says so */
    w.welcome.dead_after_ms = o->topology->dead_after_ms;
    const net_link_callbacks callbacks = {on_open, on_frame, on_close};
    signal(SIGTERM, SIG_IGN);
    signal(SIGINT, SIG_IGN);
    w.code = make_part(&w);
    if (!w.code) w.code = net_loop_create(&w.loop, &w.error);
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
