/* sim_internal.h -- what the files of the simulator's core share.  Each file is one thought:
 *   sim_text.c      buffers, chance, JSON and UTF-8 checks
 *   sim_http.c      requests, the two API answers, the upgrade
 *   sim_ws.c        frames, both ways
 *   sim_squeeze.c   zlib-stream, zstd-stream and payload compression, with stored blocks
 *   sim_session.c   opcodes and rules: Identify, Resume, heartbeats, limits
 *   sim_commands.c  answers to opcodes 3, 4, 8, 31 and 43
 *   sim_events.c    sessions' events: READY, guilds, the generated stream, the replay buffer
 *   sim_faults.c    faults, triggers, timers, scripts
 *   gateway_sim.c   life of gateway and connections, time, log */
#ifndef SIM_INTERNAL_H
#define SIM_INTERNAL_H
#include "gateway_sim.h"

#if defined(__GNUC__)
#define SIM_FORMAT(at, rest) __attribute__((format(printf, at, rest)))
#else
#define SIM_FORMAT(at, rest)
#endif

/* -- text ---------------------------------------------------------------- */
/* content: bytes[begin..end) */
typedef struct sim_buf { uint8_t *bytes; size_t begin, end, cap; } sim_buf;
typedef struct sim_slice { const char *ptr; size_t len; } sim_slice;            /* ptr NULL: absent */

void *sim_alloc(size_t bytes);                          /* zeroed; never NULL */
char *sim_copy(const char *text, size_t len);           /* 0-terminated */
void sim_buf_free(sim_buf *buf);
void sim_buf_clear(sim_buf *buf);
size_t sim_buf_len(const sim_buf *buf);
uint8_t *sim_buf_reserve(sim_buf *buf, size_t more);    /* where `more` bytes may be put */
void sim_buf_append(sim_buf *buf, const void *bytes, size_t len);
void sim_buf_consume(sim_buf *buf, size_t len);
void sim_print(sim_buf *buf, const char *format, ...) SIM_FORMAT(2, 3);
/* quoted and escaped; bad bytes become '?' */
void sim_print_json(sim_buf *buf, const char *text, size_t len);
const char *sim_buf_text(sim_buf *buf);                 /* 0-terminated view */

uint64_t sim_random(uint64_t *state);
uint64_t sim_below(uint64_t *state, uint64_t limit);    /* 0 .. limit-1 */
int sim_utf8_valid(const uint8_t *bytes, size_t len);

int sim_json_valid(const char *text, size_t len);       /* strict RFC 8259, one value */
sim_slice sim_json_get(sim_slice object, const char *key);      /* the value's text; absent: ptr NULL */
int sim_json_each(sim_slice array, size_t *at, sim_slice *value);           /* start with *at = 0 */
/* key without quotes, as written */
int sim_json_member(sim_slice object, size_t *at, sim_slice *key, sim_slice *value);
int sim_json_is_text(sim_slice value);
int sim_json_is_object(sim_slice value);
int sim_json_is_array(sim_slice value);
int sim_json_is_bool(sim_slice value);
int sim_json_is_null(sim_slice value);
int sim_json_u64(sim_slice value, uint64_t *out);       /* 1: a plain non-negative integer that fits */
int sim_json_id(sim_slice value, uint64_t *out);        /* 1: a snowflake as a JSON string */
char *sim_json_text(sim_slice value);                   /* unescaped copy, caller frees; NULL: not a string */
int sim_json_same(sim_slice value, const char *text);   /* a JSON string with exactly this content */

/* -- state --------------------------------------------------------------- */
enum { SIM_CONTINUATION = 0, SIM_TEXT = 1, SIM_BINARY = 2, SIM_CLOSE = 8, SIM_PING = 9, SIM_PONG = 10 };
enum { SIM_BODY_LENGTH, SIM_BODY_CHUNKED, SIM_BODY_UNTIL_CLOSE };
enum { SIM_CUT_NONE, SIM_CUT_BEFORE, SIM_CUT_INSIDE, SIM_CUT_AFTER };
enum { SIM_SQUEEZE_NONE, SIM_SQUEEZE_ZLIB_STREAM, SIM_SQUEEZE_ZSTD_STREAM, SIM_SQUEEZE_PAYLOAD };

typedef enum sim_stage {
    SIM_STAGE_HTTP,         /* no WebSocket yet */
    SIM_STAGE_FRESH,        /* Hello was sent, or is withheld by a fault; Identify or Resume is due */
    SIM_STAGE_HELD,         /* identified or resumed, and the answer is withheld by a fault */
    SIM_STAGE_LIVE,         /* READY or the replay is on its way */
    SIM_STAGE_LEAVE,        /* op 9 was sent: the client is to leave */
    SIM_STAGE_CLOSING,      /* our close frame is out; the answer is awaited */
    SIM_STAGE_OVER          /* nothing more is read */
} sim_stage;

typedef struct sim_event {          /* one dispatch of a session, kept for Resume */
    uint64_t seq, only_conn;        /* only_conn: RESUMED is for that connection alone; 0: for all */
    char *name, *body;
    size_t body_len;
} sim_event;

typedef struct sim_session {
    struct sim_session *next;
    sim_connection *conn;           /* NULL: its client is away */
    char id[33];
    char *token, *query, *resume_url;
    uint32_t shard_id, shard_count, has_shard, intents, dead, expired, any_url, ready;
    uint64_t number;                /* 1, 2, ... */
    uint64_t seq, sent_seq;         /* given out last; put on a wire last */
    uint64_t away_since_ms, stream_begin_ms, stream_count, event_number, random;
    sim_event *events;              /* ring */
    uint32_t first, count, cap;
    size_t kept_bytes;
    uint64_t lost_seq;              /* everything up to here was dropped from the ring */
} sim_session;

/* the times of a sliding window */
typedef struct sim_marks { uint64_t *at_ms; uint32_t count, cap; } sim_marks;

typedef struct sim_faults {
    uint32_t one_byte, fragments, key_order, no_ack, no_hello, no_ready, http_status, http_body,
             retry_in_header, retry_in_body, http_endless, garbage, wrong_accept, no_upgrade, stall_http, cut;
    uint64_t late_ack_ms, late_ready_ms;
    double retry_after;
    char *redirect, *resume_url;
} sim_faults;

struct sim_connection {
    struct sim_connection *next;
    sim_gateway *gateway;
    uint64_t id, random;
    sim_state state;
    sim_stage stage;
    sim_buf in, out, message;       /* message: fragments of a client's message so far */
    uint32_t message_open, has_mask, close_received, close_sent, hello_sent, beat_asked, has_beat_seq;
    uint8_t last_mask[4];
    char *path, *query, *host;      /* of the upgrade */
    uint32_t squeeze, squeeze_begun;
    sim_session *session;
    uint64_t cursor;                /* the seq put out last on this connection */
    uint64_t interval_ms, beat_ms, beat_seq, deadline_ms;
    const char *deadline_rule;      /* what it means when deadline_ms passes */
    sim_marks payloads, presences;
    sim_faults faults;
};

typedef struct sim_timer {
    struct sim_timer *next;
    uint64_t due_ms, every_ms, conn_id;     /* conn_id 0: all connections */
    char *text;
} sim_timer;

typedef struct sim_trigger {        /* "on EVENT xN +MS command" */
    struct sim_trigger *next;
    char event[16];
    uint32_t left;                  /* UINT32_MAX: for ever */
    uint64_t delay_ms;
    uint32_t has_delay;
    char *text;
} sim_trigger;

/* whole-list requests */
typedef struct sim_asked { struct sim_asked *next; uint64_t guild_id, at_ms; } sim_asked;

struct sim_gateway {
    sim_config config;
    char *token, *url, *resume_url, *foreign_url;
    uint64_t now_ms, random, connection_count, session_count, budget_since_ms;
    uint32_t remaining, token_was_reset;
    uint64_t *bucket_ms;            /* per rate limit key: time of the last Identify + 1; 0: none */
    sim_connection *connections;
    sim_session *sessions;
    sim_timer *timers;
    sim_trigger *triggers;
    sim_asked *asked;
    sim_stats stats;
    sim_buf line, scratch, payload, frame;  /* the log line in work; a body; an envelope; a squeezed one */
};

/* -- log (gateway_sim.c) ------------------------------------------------- */
/* what follows adds ,"key":value to the line it returns */
sim_buf *sim_log_begin(sim_gateway *gateway, const sim_connection *conn, const char *ev);
void sim_log_end(sim_gateway *gateway);
void sim_violation(sim_connection *conn, const char *rule, const char *format, ...) SIM_FORMAT(3, 4);
uint64_t sim_now_us(sim_gateway *gateway);

/* -- connections (gateway_sim.c) ----------------------------------------- */
void sim_end(sim_connection *conn, sim_state state);    /* the connection leaves SIM_OPEN for good */
void sim_deadline(sim_connection *conn, uint64_t after_ms, const char *rule);
sim_connection *sim_find_connection(sim_gateway *gateway, uint64_t id);
/* 0: above the limit */
int sim_marks_push(sim_marks *marks, uint64_t now_ms, uint64_t window_ms, uint32_t limit);

/* -- http ---------------------------------------------------------------- */
void sim_http_work(sim_connection *conn);               /* conn->in holds a piece of a request */

/* -- ws ------------------------------------------------------------------ */
void sim_ws_work(sim_connection *conn);                 /* conn->in holds frames */
void sim_ws_send(sim_connection *conn, uint32_t opcode, const void *payload, size_t len);
void sim_ws_raw(sim_connection *conn, const void *bytes, size_t len);       /* bytes as they are */
void sim_ws_header(sim_buf *out, uint8_t first, uint64_t len, int masked);
void sim_ws_close(sim_connection *conn, uint16_t code, const char *reason);     /* 0: an empty close frame */
int sim_close_code_valid(uint32_t code);

/* -- squeeze ------------------------------------------------------------- */
void sim_squeeze(sim_connection *conn, sim_buf *out, const void *payload, size_t len);

/* -- session ------------------------------------------------------------- */
void sim_greet(sim_connection *conn);                   /* after the upgrade */
void sim_payload_in(sim_connection *conn, const char *text, size_t len);
void sim_payload_out(sim_connection *conn, uint32_t op, const char *name, uint64_t seq,
                     const char *body, size_t body_len);
/* violation and close */
void sim_refuse(sim_connection *conn, uint16_t code, const char *rule, const char *words);
void sim_send_ack(sim_connection *conn);
void sim_send_hello(sim_connection *conn);
void sim_invalidate(sim_connection *conn, int resumable);       /* op 9 */
void sim_reconnect(sim_connection *conn);                       /* op 7 */
void sim_answer_held(sim_connection *conn);                     /* READY or the replay, if one is withheld */
void sim_client_closed(sim_connection *conn, uint32_t code);    /* its close frame; 0: without a code */
void sim_refill_budget(sim_gateway *gateway);

/* -- commands ------------------------------------------------------------ */
void sim_on_presence(sim_connection *conn, sim_slice body);
void sim_on_voice_state(sim_connection *conn, sim_slice body);
void sim_on_members(sim_connection *conn, sim_slice body);
void sim_on_soundboard(sim_connection *conn, sim_slice body);
void sim_on_channel_info(sim_connection *conn, sim_slice body);
const char *sim_presence_fault(sim_slice body);         /* NULL: a good presence */

/* -- events -------------------------------------------------------------- */
sim_session *sim_session_new(sim_gateway *gateway);
sim_session *sim_session_find(sim_gateway *gateway, const char *id);
void sim_session_end(sim_gateway *gateway, sim_session *session, const char *why, int expired);
void sim_session_free(sim_session *session);
void sim_session_detach(sim_connection *conn);
void sim_dispatch(sim_gateway *gateway, sim_session *session, const char *name, const char *body,
                  size_t len, uint64_t only_conn);
void sim_begin_session(sim_connection *conn);           /* READY and GUILD_CREATEs */
void sim_stream(sim_gateway *gateway, sim_session *session);
uint64_t sim_stream_next_ms(const sim_gateway *gateway, const sim_session *session);
void sim_pump(sim_connection *conn);                    /* a session's events into conn->out */
void sim_big_guild(sim_gateway *gateway, sim_session *session, size_t bytes);
uint64_t sim_guild_id(uint32_t index);
uint64_t sim_member_id(uint64_t guild_id, uint32_t index);
int sim_guild_on_shard(const sim_session *session, uint64_t guild_id);
int sim_guild_known(const sim_gateway *gateway, uint64_t guild_id);
void sim_print_user(sim_buf *out, uint64_t id, uint64_t number);
void sim_print_member(sim_buf *out, uint64_t guild_id, uint32_t index);

/* -- faults -------------------------------------------------------------- */
void sim_happened(sim_connection *conn, const char *event);     /* runs the triggers "on EVENT" */
void sim_later(sim_gateway *gateway, uint64_t conn_id, uint64_t due_ms, uint64_t every_ms, const char *text);
void sim_run_timers(sim_gateway *gateway);
void sim_faults_clear(sim_faults *faults);
#endif
