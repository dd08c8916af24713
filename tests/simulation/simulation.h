/* simulation.h -- what the files of the simulation share. One seed is one run: a client, the gateway's model, a wire
 * between them, a caller who behaves as callers do, all on a virtual clock. Each file is one thought:
 *   simulation.c   the command line, many runs, the line of figures
 *   run.c          one run from its seed to its end: phases, time, trace
 *   plan.c         what a seed draws: config, wire, caller, which faults
 *   faults.c       faults by name, on the gateway and on the wire
 *   process.c      the program that uses the library: hooks, memory, saves, restarts
 *   caller.c       ... what it does while it runs: polls, reads, sends
 *   hand.c         ... and of shards: starts, stops, starts again
 *   reshard.c      ... and of a second client beside it, with another number of shards
 *   wire.c         the transport: delay, pieces, cuts, silence, broken bytes
 *   wire_tls.c     the gateway's end of TLS
 *   eyes.c         reads what the client writes: the independent witness of rates, sizes, codes
 *   ledger.c       what the model sent, and what of it the caller got
 *   laws.c         the invariants
 *   client.c       discord_gateway.h itself, and windows into it */
#ifndef SIMULATION_H
#define SIMULATION_H
#include "discord_gateway.h"
#include "simulator/sim_internal.h"

#if defined __GNUC__
#define RUN_FORMAT(at, rest) __attribute__((format(printf, at, rest)))
#else
#define RUN_FORMAT(at, rest)
#endif

#define RUN_TOKEN "MTA5ODc2NTQzMjEwOTg3NjU0Mw.GabcDE.thisTokenMustNeverBeSeenInAnyText"
#define RUN_TOKEN_PART "thisTokenMustNeverBeSeen"
#define RUN_SHARDS_MAX 8u
#define NAMES_MAX 4096u
#define RUN_NEVER UINT64_MAX
#define RUN_SECOND UINT64_C(1000000)        /* time is in microseconds unless a name says _ms */

/* ---- the laws: name, what it says ---- */
#define LAWS(X)                                                                                            \
    X(delivered,      "every event of a resumable session is handed out, SKIPPED or filtered")             \
    X(named,          "(shard, session, seq) names one event of a client")                                 \
    X(in_order,       "events of a session come in order, and once without a restart")                     \
    X(invented,       "nothing is handed out that the gateway did not send")                               \
    X(filtered,       "what gw_want() switched off before it was sent is not handed out")                  \
    X(session_kept,   "a session that lives is not given up without a reason")                             \
    X(save_is_true,   "a saved text names no event that was not taken, and all that were")                 \
    X(identify_pace,  "no two Identifies of one bucket within its window")                                 \
    X(identify_day,   "no more Identifies than the day allows")                                            \
    X(gate,           "no Identify without a word of config.identify_gate")                                \
    X(payload_rate,   "at most 120 payloads in 60 s on a connection, 5 presences in 20 s")                 \
    X(payload_size,   "no payload above 4,096 bytes")                                                      \
    X(payload_time,   "no command before READY or RESUMED")                                                \
    X(heartbeat_late, "a heartbeat no later than its time and the caller's own delay")                     \
    X(dead_is_left,   "a connection without an ACK is left")                                               \
    X(wait_ends,      "every waiting state is left by its deadline")                                       \
    X(close_code,     "1000 and 1001 only when the caller says GW_END")                                    \
    X(memory,         "memory stays below the configured ceiling, and comes back")                         \
    X(live_again,     "all shards are LIVE within a bound after the last fault")                           \
    X(no_spin,        "gw_timeout_ms() is not 0 for ever")                                                 \
    X(token,          "the token is in no text")                                                           \
    X(hand_stays,     "the event in hand stays as it is until the next poll")                              \
    X(no_fatal,       "the client ends only by the caller's word")                                         \
    X(stopped,        "a shard that its caller stopped has no connection, hands nothing out, and says so once") \
    X(hand_pace,      "a shard that was started by hand identifies no earlier than any other")             \
    X(started,        "the shards that were started run, and no others; each call answers what is so")     \
    X(closes,         "after gw_stop() CLOSED comes within 5 s of polling")                                \
    X(model_rules,    "the gateway's own rules are kept")
typedef enum law {
#define LAW(name, text) LAW_##name,
    LAWS(LAW)
#undef LAW
    LAW_COUNT
} law;

/* ---- faults that were played, by name ---- */
#define FAULT_KINDS_MAX 128u
typedef struct fault_count { char name[32]; uint64_t count; } fault_count;

/* ---- figures over many runs ---- */
typedef struct figures {
    uint64_t seeds, virtual_us, events, connections, resumes, identifies, restarts, faults, polls, violations;
    fault_count kinds[FAULT_KINDS_MAX];
    uint32_t kind_count;
} figures;

/* ---- what a seed draws ---- */
typedef struct plan {
    uint32_t tls, shards, sharded, first_shard, total;      /* sharded 0: without a shard in Identify */
    uint32_t by_hand, first_shards; /* the caller starts and stops shards; so many run from the beginning */
    uint64_t hand_every_us;
    uint32_t memory_limit;          /* the allocator gives no more than so many bytes; 0: as many as are asked for */
    uint32_t new_total;             /* 0: stays as it is; else a second client with so many shards takes over */
    uint64_t reshard_in_us;
    uint32_t asks_api;              /* /gateway/bot instead of config.url */
    uint32_t concurrency;
    uint32_t budget;                /* Identifies of the day; 0: 1,000 */
    uint32_t budget_by_config;
    uint32_t ack_by_hand, fixed_memory, max_payload, max_queued, turn_bytes, turn_us, gate, clockless;
    uint32_t intents;
    uint64_t interval_ms;
    double rate;
    uint32_t corrupt;               /* bytes are damaged on the way */
    uint32_t calm_wire;             /* no fault of the wire that delays: the model's clock rules are strict too */
    uint32_t up_delay_us, down_delay_us;        /* at most */
    uint32_t write_most, read_most;
    uint32_t split;                 /* pieces of the way down; 0: as they come */
    uint32_t late_us;               /* the caller's usual delay, at most */
    uint32_t stall_of;              /* one poll of so many comes very late; 0: none */
    uint32_t stall_ms;
    uint32_t frame_us;              /* 0: polls when there is something */
    uint32_t tick_us;               /* each look at the clock costs so much */
    uint64_t storm_us;              /* how long faults go on */
    uint64_t fault_every_us;
    uint32_t wire_faults, gateway_faults, caller_faults, restarts, suspends;    /* 0: none of them */
    uint32_t storm_of_closes;       /* sessions do not live: Identify after Identify */
} plan;

/* ---- the ledger: what the model sent ---- */
typedef struct ledger_event {
    uint64_t seq, sent_us;
    uint32_t type, bytes;
    uint8_t skipped, resumed, handled;
} ledger_event;

typedef struct ledger_session {
    struct ledger_session *next;
    uint64_t number;                /* the model's */
    char id[40];
    uint32_t shard, dead;
    ledger_event *events;           /* by seq */
    size_t count, cap;
    uint64_t top_seq;               /* the highest that was handed out, in any life of the process */
} ledger_session;

typedef struct shard_book {         /* of one shard of the client, in this life of the process */
    ledger_session *session;        /* NULL: none yet, or not known */
    uint32_t number;                /* the client's number of it */
    uint64_t last_seq;              /* the last one handed out or passed over */
    uint64_t done_seq;              /* of what was handed out: the last that the caller has done with */
    uint64_t acked_seq;             /* ... or acknowledged */
    uint64_t told_lost_us;          /* the gateway said by a close code that the session is over */
    uint64_t began_us;
    uint32_t identified;            /* an Identify was written since READY: what comes before the next is of neither */
    uint64_t resumes[16];           /* when the last Resumes were written */
    uint32_t resume_count;
} shard_book;

typedef struct saved_line { uint64_t shard, total, number, seq; char id[128]; } saved_line;     /* of a session text */

typedef struct hand {               /* what the caller knows of a shard */
    uint32_t runs;                  /* it was started */
    uint32_t owes, stops;           /* no SHARD_STOPPED since its last stop; stops that none has answered */
    uint64_t begun_us;              /* when it was started last by hand */
    char *text;                     /* of gw_session_save() behind its last GW_KEEP; NULL: none */
    size_t text_len;
} hand;

/* ---- the wire ---- */
typedef struct wire_piece { uint64_t due_us; size_t len; } wire_piece;
typedef struct wire_pipe {          /* bytes on their way in one direction, in order */
    uint8_t *bytes;
    size_t begin, end, cap;
    wire_piece *pieces;
    size_t first, last, piece_cap;
    uint64_t last_due_us;
    uint64_t left;                  /* bytes until it is cut; RUN_NEVER: never */
    uint64_t corrupt_in;            /* bytes until one is damaged; RUN_NEVER: never */
    uint32_t joins;                 /* pieces that arrive at one time are read as one */
} wire_pipe;

typedef struct eyes {               /* over what the client writes */
    uint64_t offered, taken;        /* seen; accepted by the wire */
    uint8_t *bytes;
    size_t len, cap;
    uint32_t in_frames, blind;      /* blind: not to be read any more */
    uint64_t *payload_us, *payload_mono_us;     /* times of payloads; by a clock that does not run while it sleeps */
    size_t payload_count, payload_cap;
    uint64_t presence_us[8];
    uint32_t presence_count;
} eyes;

typedef struct wire_tls wire_tls;
typedef struct run run;

typedef struct stream {             /* one connection */
    struct stream *next;
    run *run;
    sim_connection *conn;           /* NULL: the gateway's side is gone, or never was */
    uint64_t id;                    /* of conn */
    wire_tls *tls;
    wire_pipe down, up;
    eyes eyes;
    uint64_t opened_us, frozen_until_us, write_full_until_us, mute_up_from_us;
    uint64_t hangup_due_us;         /* the client has closed: when the gateway hears of it */
    uint32_t client_gone, ended, dead, disturbed;
    uint32_t may_end;               /* its shard is stopped with GW_END: it may say 1000 */
    /* what the laws know of it */
    int32_t shard;                  /* -1: not known yet */
    uint64_t hello_us;              /* Identify or Resume was written: Hello had come; 0: not yet */
    uint64_t beat_us;               /* the last heartbeat; Hello at first */
    uint64_t interval_us;
    uint64_t unread_us;             /* so long before Hello something was there that the caller's turns did not reach */
    uint64_t ack_us;                /* when the last ACK may have been read */
    uint32_t ack_on_its_way, ready, told_4000, is_api;
    uint32_t beats, payloads_full;
    uint64_t identify_end, identify_before_us;  /* the byte behind its Identify; the one before it, of the bucket */
} stream;

/* ---- the run ---- */
#define PERMITS 4u
typedef struct permit {             /* of an Identify bucket, for two clients */
    const run *holder;              /* NULL: nobody */
    int32_t shard;
    uint64_t free_us;
} permit;

typedef enum phase { PHASE_STORM, PHASE_CALM, PHASE_LIVE, PHASE_OVER } phase;

struct run {
    uint64_t seed;
    plan plan;
    phase phase;
    int verbose;
    uint64_t chance_plan, chance_wire, chance_caller, chance_fault, chance_client, chance_tls, chance_hand;
    uint64_t now_us, slept_us;      /* real time; of it the machine slept so much, monotonic time stood still */
    uint64_t hash;                  /* over the trace: equal seeds give equal ones */
    figures *figures;
    figures own;                    /* of this run */
    /* the gateway */
    sim_config sim;
    sim_gateway *gateway;
    stream *streams;
    /* re-sharding */
    run *second, *other;            /* room for a second client; the other one that runs, or has run */
    permit *permits;                /* PERMITS of them, of both; NULL: there is no such gate */
    uint64_t reshard_at_us;
    uint32_t is_second, is_retired;
    /* the client */
    gw_config cfg;
    gw_transport transport;
    gw_client *gw;
    void *memory;
    size_t memory_bytes, live_bytes, peak_bytes, ceiling_bytes;
    uint64_t live_blocks;
    uint64_t poor_us;               /* when the allocator refused last; 0: never */
    uint32_t in_turn, bad_sizes;
    char *text;                     /* the last saved session */
    size_t text_len;
    uint64_t text_identifies;       /* Identifies that had been written when it was saved */
    /* the caller */
    uint64_t poll_at_us, wanted_us; /* when it will poll; when it should */
    uint64_t late_us, worst_late_us;            /* of the poll in hand; of the last minutes */
    uint64_t worst_late_at_us;
    uint64_t suspend_until_us, suspended_us;    /* until when; when it was suspended last */
    uint64_t stop_us, restart_at_us, opened_us;
    uint32_t stopping, held, ended_by_caller, is_live, ever_live;
    uint64_t unheld_us;
    const gw_event *hand;
    uint32_t hand_shard, hand_session;
    uint64_t hand_seq;
    ledger_session *hand_of;
    ledger_session *named[RUN_SHARDS_MAX][NAMES_MAX];   /* by the client's numbers, in this life of the process */
    uint64_t off_us[GW_DISPATCH_END_];          /* when each dispatch was unwanted last; now: it is */
    uint64_t off_since_us[GW_DISPATCH_END_];
    uint32_t is_off[GW_DISPATCH_END_];
    uint32_t gate_go[RUN_SHARDS_MAX];           /* config.identify_gate said so, and there was no Identify yet */
    /* books */
    ledger_session *sessions;
    shard_book books[RUN_SHARDS_MAX];
    hand hands[RUN_SHARDS_MAX];
    uint64_t next_hand_us;
    uint64_t identify_us[RUN_SHARDS_MAX * 2];   /* by bucket: the last one that this process can know of */
    uint64_t *identifies;           /* of the day, as far as this process can know */
    size_t identify_count, identify_cap;
    uint64_t identify_total;        /* all that were ever written */
    uint32_t forgot;                /* the process has lost its memory of Identifies */
    uint64_t storm_ends_us, calm_us, next_fault_us, live_us;
    uint64_t server_wait_until_us;
    uint64_t budget_out_us;
    uint64_t poll_count, moved, spin_window_us, spin_polls, idle_steps, stepped_us, last_turn_us;
    uint64_t state_since_us[RUN_SHARDS_MAX];
    uint32_t state_was[RUN_SHARDS_MAX];
    int broken;                     /* enum law that was broken first; -1: none */
    char why[600];
};

/* chance */
uint64_t chance(uint64_t *state);
uint64_t below(uint64_t *state, uint64_t limit);            /* 0 .. limit-1; 0 of limit 0 */
uint64_t between(uint64_t *state, uint64_t from, uint64_t to);
int one_in(uint64_t *state, uint64_t n);                    /* 0: never */
uint64_t about(uint64_t *state, uint64_t from, uint64_t to);        /* each order of magnitude as likely */

/* run.c */
void run_seed(uint64_t seed, int tls, int verbose, figures *figures, int *broken);
void run_note(run *r, const char *format, ...) RUN_FORMAT(2, 3);
void run_count_fault(run *r, const char *name);
uint64_t run_ms(const run *r);                              /* the gateway's clock */
uint64_t run_mono_us(const run *r);                         /* the client's */

/* plan.c */
void plan_draw(run *r, int tls);
void plan_config(run *r);                                   /* the client's and the gateway's, from the plan */

/* faults.c */
void faults_step(run *r);                                   /* plays what is due */
void faults_calm(run *r);                                   /* all of them end */

/* process.c */
void caller_open(run *r, int with_text);
void caller_close(run *r);
void caller_stop(run *r, uint32_t how);
void caller_save(run *r);
void caller_restart(run *r);                                /* in one of five ways, good and bad */
void caller_on_closed(run *r);

/* caller.c */
void caller_turn(run *r);
void caller_plan_poll(run *r);                              /* when the next turn is */
void caller_wake(run *r);                                   /* bytes have come, or it called gw_wake */
void caller_called(run *r);

/* hand.c */
void hand_act(run *r);
void hand_step(run *r);                                     /* what is due */
void hand_open(run *r);
void hand_calm(run *r);
void hand_on_event(run *r, const gw_event *event);
void hand_after_turn(run *r, int has_work);
int hand_all_live(const run *r);
uint32_t hand_first(const run *r);                          /* so many shards the config starts */
void hand_free(run *r);

/* reshard.c */
run *reshard_step(run *r);                                  /* the run that counts from now on */
int32_t gate_ask(run *r, int32_t shard, uint32_t bucket);
void gate_on_event(run *r, const gw_event *event);
void gate_let_go(run *r);

/* wire.c */
extern const gw_transport wire_hooks;
void wire_step(run *r);                                     /* what is due arrives */
uint64_t wire_next_us(const run *r);
uint64_t wire_readable_us(const run *r);                    /* when the client may read something next */
uint64_t stream_readable_us(const stream *s);               /* RUN_NEVER: nothing is on its way */
void wire_kill(stream *s);
void wire_free(run *r);
void wire_put(wire_pipe *pipe, const uint8_t *bytes, size_t len, uint64_t due_us);
size_t wire_waiting(const wire_pipe *pipe);
stream *wire_of(run *r, uint64_t conn_id);

/* wire_tls.c */
int wire_tls_begin(void);
const char *wire_tls_ca(void);                              /* PEM */
wire_tls *wire_tls_new(run *r);
void wire_tls_free(wire_tls *tls);
void wire_tls_received(stream *s, const uint8_t *bytes, size_t len);
int wire_tls_send(stream *s);                               /* 1: something went into the pipe */
int wire_tls_flushed(stream *s);
void wire_tls_close(stream *s);

/* eyes.c */
void eyes_see(stream *s, const uint8_t *bytes, size_t len); /* all that the client wants to write now */
void eyes_read(stream *s, const uint8_t *bytes, size_t len);        /* bytes that are new for sure */
void eyes_free(eyes *e);

/* ledger.c */
void ledger_on_line(run *r, const char *line);              /* of the model's log */
run *ledger_owner(run *r, const char *line);
void ledger_on_event(run *r, const gw_event *event);
void ledger_let_go(run *r);                                 /* the event in hand is done */
void ledger_restart(run *r, int with_text);
void ledger_start(run *r, uint32_t shard, const char *text);        /* NULL: without one */
void ledger_stop(run *r, uint32_t shard, uint32_t how);
int ledger_line(const char *text, size_t nth, saved_line *out);     /* of a shard in a session text; 0: there is none */
void ledger_check_save(run *r);
void ledger_check_all(run *r, uint64_t older_than_us);
ledger_session *ledger_find(run *r, const char *id, size_t len);
void ledger_free(run *r);
uint32_t dispatch_type(const char *name, size_t len);

/* laws.c */
void law_broken(run *r, law which, const char *format, ...) RUN_FORMAT(3, 4);
void laws_on_payload(stream *s, uint32_t op, const char *text, size_t len);
void laws_on_close(stream *s, uint32_t code);
void laws_on_cut(stream *s);
void laws_on_violation(run *r, uint64_t conn, const char *rule, const char *line);
void laws_after_turn(run *r);
void laws_on_text(run *r, const char *where, const char *text);
const char *law_name(law which);

/* client.c */
typedef struct client_window {      /* what may be seen of a shard */
    int32_t id;
    const char *state;
    uint32_t state_number, is_open, live, held, waits, gated, closing, stopped;
    const void *stream;             /* its connection; NULL: none */
} client_window;
extern const char *client_api_url;
uint32_t client_shards(const gw_client *gw);
const void *client_api_stream(const gw_client *gw);         /* of /gateway/bot */
void client_look(const gw_client *gw, uint32_t index, client_window *out);
#endif
