/* sim_faults.c -- faults and actions by name, and when they happen: at once, later, again, or on an event.
 *
 *   line    = [when] command | comment
 *   when    = "at" MS | "every" MS | "on" EVENT ["x"N] ["+"MS] | "next" N | "to" CONN | "shard" ID
 *   command = NAME [argument]          README.md has the table of names
 * A `when` may stand before another: "at 5000 next 2 http 503". */
#include "sim_internal.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct sim_order {          /* a command in hand */
    sim_gateway *gateway;
    sim_connection *conn;           /* NULL only for those of the gateway */
    uint64_t number;                /* first argument, or the default of the table */
    const char *text;               /* all arguments, or what follows the number */
} sim_order;

/* -- words ------------------------------------------------------------------- */

static const char *sim_skip_blank(const char *at)
{
    while (*at == ' ' || *at == '\t') at++;
    return at;
}

static size_t sim_word(const char *at) { return strcspn(at, " \t"); }

static int sim_word_is(const char *at, const char *word)
{
    return sim_word(at) == strlen(word) && strncmp(at, word, strlen(word)) == 0;
}

/* A number of decimal digits up to the end of the word; *at moves behind it and the blanks. */
static int sim_take_number(const char **at, uint64_t *number)
{
    size_t len = sim_word(*at), i;
    uint64_t sum = 0;
    if (!len || len > 19) return 0;
    for (i = 0; i < len; i++) {
        if ((*at)[i] < '0' || (*at)[i] > '9') return 0;
        sum = sum * 10 + (uint64_t)((*at)[i] - '0');
    }
    *number = sum;
    *at = sim_skip_blank(*at + len);
    return 1;
}

static int sim_complain(char *why, size_t cap, const char *what, const char *about)
{
    if (why && cap) snprintf(why, cap, "%s: \"%.100s\"", what, about);
    return 0;
}

/* -- what ends or stops a connection --------------------------------------------- */

static void sim_do_cut(sim_order *order) { sim_end(order->conn, SIM_WANTS_CUT); }
static void sim_do_reset(sim_order *order) { sim_end(order->conn, SIM_WANTS_RESET); }
static void sim_do_cut_before(sim_order *order) { order->conn->faults.cut = SIM_CUT_BEFORE; }
static void sim_do_cut_inside(sim_order *order) { order->conn->faults.cut = SIM_CUT_INSIDE; }
static void sim_do_cut_after(sim_order *order) { order->conn->faults.cut = SIM_CUT_AFTER; }
static void sim_do_freeze(sim_order *order)
{
    if (order->conn->state == SIM_OPEN) order->conn->state = SIM_FROZEN;
}

static void sim_do_thaw(sim_order *order)
{
    if (order->conn->state != SIM_FROZEN) return;
    order->conn->state = SIM_OPEN;
    order->conn->beat_ms = order->gateway->now_ms;      /* it could not be heard meanwhile */
    sim_receive(order->conn, NULL, 0, order->gateway->now_ms);
}

static void sim_do_close(sim_order *order)
{
    sim_ws_close(order->conn, (uint16_t)order->number, order->text);
}
static void sim_do_close_empty(sim_order *order) { sim_ws_close(order->conn, 0, ""); }

static void sim_do_close_one_byte(sim_order *order)
{
    sim_ws_raw(order->conn, "\x88\x01\x0F", 3);
    sim_end(order->conn, SIM_WANTS_CLOSE);
}

/* -- opcodes ----------------------------------------------------------------------- */

static void sim_do_op7(sim_order *order) { sim_reconnect(order->conn); }
static void sim_do_op9(sim_order *order) { sim_invalidate(order->conn, sim_word_is(order->text, "true")); }
static void sim_do_hello(sim_order *order) { sim_send_hello(order->conn); }
static void sim_do_ack(sim_order *order) { sim_send_ack(order->conn); }
static void sim_do_answer(sim_order *order) { sim_answer_held(order->conn); }

static void sim_do_op1(sim_order *order)
{
    order->conn->beat_asked = 1;
    sim_payload_out(order->conn, 1, NULL, 0, "null", 4);
}

static void sim_do_unknown_op(sim_order *order)
{
    sim_payload_out(order->conn, 99, NULL, 0, "{\"op\":9,\"d\":false}", 18);
}

/* -- messages ------------------------------------------------------------------------ */

static void sim_send_text(sim_order *order, const char *text)
{
    sim_ws_send(order->conn, SIM_TEXT, text, strlen(text));
}
static void sim_do_raw(sim_order *order) { sim_send_text(order, order->text); }
static void sim_do_broken_json(sim_order *order)
{
    sim_send_text(order, "{\"t\":\"MESSAGE_CREATE\",\"s\":7,\"op\":0,\"d\":{\"a\":[1,2}");
}
static void sim_do_no_op(sim_order *order)
{
    sim_send_text(order, "{\"t\":null,\"s\":null,\"d\":{\"op\":7}}");
}

static void sim_say(sim_order *order, const char *name, const char *body)
{
    if (!order->conn->session) return;
    sim_dispatch(order->gateway, order->conn->session, name, body, strlen(body), 0);
    sim_pump(order->conn);
}

static void sim_do_event(sim_order *order)
{
    size_t len = sim_word(order->text);
    char *name = sim_copy(order->text, len);
    const char *body = sim_skip_blank(order->text + len);
    sim_say(order, name, *body ? body : "{}");
    free(name);
}

static void sim_do_unknown_event(sim_order *order)
{
    sim_say(order, "SIM_UNKNOWN_EVENT",
            "{\"list\":[1,-2.5e3,{\"t\":\"X\",\"s\":5,\"op\":9,\"d\":[]}],\"text\":\"}\\\"]\",\"none\":null}");
}

static void sim_do_big(sim_order *order)
{
    if (!order->conn->session) return;
    sim_big_guild(order->gateway, order->conn->session, (size_t)order->number);
    sim_pump(order->conn);
}

static void sim_do_seq_zero(sim_order *order)
{
    static const char body[] = "{\"channel_id\":\"1\",\"user_id\":\"2\",\"timestamp\":3}";
    sim_payload_out(order->conn, 0, "TYPING_START", 0, body, sizeof body - 1);
}

static void sim_do_seq_huge(sim_order *order)
{
    if (order->conn->session) order->conn->session->seq += (uint64_t)1 << 33;
    sim_say(order, "TYPING_START", "{\"channel_id\":\"1\",\"user_id\":\"2\",\"timestamp\":3}");
}

/* -- frames against RFC 6455 ------------------------------------------------------------ */

static void sim_do_bad_utf8(sim_order *order)
{
    sim_ws_raw(order->conn, "\x81\x0E{\"op\":0,\"d\":\xC3(", 16);
}
static void sim_do_rsv(sim_order *order) { sim_ws_raw(order->conn, "\xC1\x0A{\"op\": 11}", 12); }
static void sim_do_masked(sim_order *order) { sim_ws_raw(order->conn, "\x81\x82\x01\x02\x03\x04z\x7F", 8); }
static void sim_do_binary(sim_order *order) { sim_ws_raw(order->conn, "\x82\x09{\"op\":11}", 11); }
static void sim_do_reserved_opcode(sim_order *order) { sim_ws_raw(order->conn, "\x83\x02{}", 4); }
static void sim_do_fragmented_ping(sim_order *order) { sim_ws_raw(order->conn, "\x09\x02hi", 4); }
static void sim_do_continuation(sim_order *order) { sim_ws_raw(order->conn, "\x80\x02{}", 4); }
static void sim_do_ping(sim_order *order)
{
    size_t len = strlen(order->text);
    sim_ws_send(order->conn, SIM_PING, order->text, len > 125 ? 125 : len);
}
static void sim_do_pong(sim_order *order) { sim_ws_send(order->conn, SIM_PONG, "unasked", 7); }

static void sim_do_long_ping(sim_order *order)
{
    uint8_t frame[130];
    memset(frame, 'p', sizeof frame);
    memcpy(frame, "\x89\x7E\x00\x7E", 4);
    sim_ws_raw(order->conn, frame, sizeof frame);
}

/* A frame that claims far more than will ever come. */
static void sim_do_length_lie(sim_order *order)
{
    uint8_t frame[18];
    int i;
    uint64_t len = order->number;
    frame[0] = 0x81;
    frame[1] = 127;
    for (i = 9; i > 1; i--, len >>= 8) frame[i] = (uint8_t)(len & 0xFF);
    memcpy(frame + 10, "{\"op\":0,", 8);
    sim_ws_raw(order->conn, frame, sizeof frame);
}

static void sim_do_bytes(sim_order *order)
{
    const char *at = order->text;
    uint8_t byte;
    char pair[3];
    for (; at[0] && at[1]; at = sim_skip_blank(at + 2)) {
        memcpy(pair, at, 2);
        pair[2] = 0;
        byte = (uint8_t)strtoul(pair, NULL, 16);
        sim_ws_raw(order->conn, &byte, 1);
    }
}

/* -- how the connection behaves from now on ------------------------------------------------ */

static void sim_do_calm(sim_order *order) { sim_faults_clear(&order->conn->faults); }
static void sim_do_one_byte(sim_order *order) { order->conn->faults.one_byte = 1; }
static void sim_do_fragments(sim_order *order) { order->conn->faults.fragments = (uint32_t)order->number; }
static void sim_do_key_order(sim_order *order) { order->conn->faults.key_order = 1; }
static void sim_do_no_ack(sim_order *order) { order->conn->faults.no_ack = 1; }
static void sim_do_late_ack(sim_order *order) { order->conn->faults.late_ack_ms = order->number; }
static void sim_do_no_hello(sim_order *order) { order->conn->faults.no_hello = 1; }
static void sim_do_hello_interval(sim_order *order) { order->conn->interval_ms = order->number; }
static void sim_do_no_ready(sim_order *order) { order->conn->faults.no_ready = 1; }
static void sim_do_late_ready(sim_order *order) { order->conn->faults.late_ready_ms = order->number; }

static void sim_set_text(char **place, const char *text)
{
    free(*place);
    *place = sim_copy(text, strlen(text));
}

static void sim_do_foreign_url(sim_order *order)
{
    sim_set_text(order->conn ? &order->conn->faults.resume_url : &order->gateway->foreign_url, order->text);
}

/* -- http ------------------------------------------------------------------------------------- */

static void sim_do_stall_http(sim_order *order) { order->conn->faults.stall_http = 1; }
static void sim_do_http_endless(sim_order *order) { order->conn->faults.http_endless = 1; }
static void sim_do_wrong_accept(sim_order *order) { order->conn->faults.wrong_accept = 1; }
static void sim_do_no_upgrade(sim_order *order) { order->conn->faults.no_upgrade = 1; }

/* STATUS [header|body] [SECONDS]: where the waiting time of a 429 is told; both, if not said. */
static void sim_do_http(sim_order *order)
{
    sim_faults *faults = &order->conn->faults;
    const char *at = order->text;
    faults->http_status = (uint32_t)order->number;
    faults->retry_in_header = faults->retry_in_body = order->number == 429;
    if (sim_word_is(at, "header")) {
        faults->retry_in_header = 1;
        faults->retry_in_body = 0;
        at = sim_skip_blank(at + 6);
    } else if (sim_word_is(at, "body")) {
        faults->retry_in_body = 1;
        faults->retry_in_header = 0;
        at = sim_skip_blank(at + 4);
    }
    faults->retry_after = *at ? strtod(at, NULL) : 1.5;
}

static void sim_do_redirect(sim_order *order)
{
    order->conn->faults.http_status = 302;
    sim_set_text(&order->conn->faults.redirect, order->text);
}

static void sim_do_http_body(sim_order *order)
{
    uint32_t *body = &order->conn->faults.http_body;
    *body = SIM_BODY_LENGTH;
    if (sim_word_is(order->text, "chunked")) *body = SIM_BODY_CHUNKED;
    if (sim_word_is(order->text, "until_close")) *body = SIM_BODY_UNTIL_CLOSE;
}

/* Random bytes: instead of an HTTP answer, or in the middle of the frames. */
static void sim_do_garbage(sim_order *order)
{
    uint8_t bytes[64];
    size_t i;
    order->conn->faults.garbage = 1;
    for (i = 0; i < sizeof bytes; i++) bytes[i] = (uint8_t)sim_random(&order->conn->random);
    bytes[0] = 0xF3;            /* no frame begins so: reserved bits and a reserved opcode */
    sim_ws_raw(order->conn, bytes, sizeof bytes);
}

/* -- the gateway as a whole ---------------------------------------------------------------------- */

static void sim_do_expire(sim_order *order)
{
    sim_session *session;
    for (session = order->gateway->sessions; session; session = session->next) {
        if (session->dead) continue;
        if (session->conn) session->expired = 1;    /* as soon as its client is away */
        else sim_session_end(order->gateway, session, "expired by command", 1);
    }
}

static void sim_do_rate(sim_order *order)
{
    sim_session *session;
    order->gateway->config.event_rate = sim_word_is(order->text, "flood") ? SIM_RATE_FLOOD :
        strtod(order->text, NULL);
    for (session = order->gateway->sessions; session; session = session->next) {
        session->stream_begin_ms = order->gateway->now_ms;
        session->stream_count = 0;
        if (session->conn) sim_pump(session->conn);
    }
}

static void sim_do_remaining(sim_order *order) { order->gateway->remaining = (uint32_t)order->number; }
static void sim_do_shards(sim_order *order) { order->gateway->config.shards = (uint32_t)order->number; }
static void sim_do_token_reset(sim_order *order) { order->gateway->token_was_reset = 1; }

static void sim_do_note(sim_order *order)
{
    sim_buf *line = sim_log_begin(order->gateway, order->conn, "note");
    sim_print(line, ",\"text\":");
    sim_print_json(line, order->text, strlen(order->text));
    sim_log_end(order->gateway);
}

/* -- the table --------------------------------------------------------------------------------------- */

enum { SIM_ANY, SIM_SOCKET, SIM_ONCE };     /* any connection; one that has upgraded; the gateway */
enum { SIM_NONE, SIM_NUMBER, SIM_MAYBE_NUMBER, SIM_WORDS, SIM_MAYBE_WORDS };
#define SIM_BIG_BYTES (10u * 1024u * 1024u)

/* name, where, argument, its default, function */
#define SIM_VERBS(X)                                                        \
    X("cut", SIM_ANY, SIM_NONE, 0, sim_do_cut)                              \
    X("reset", SIM_ANY, SIM_NONE, 0, sim_do_reset)                          \
    X("cut_before_frame", SIM_ANY, SIM_NONE, 0, sim_do_cut_before)          \
    X("cut_inside_frame", SIM_ANY, SIM_NONE, 0, sim_do_cut_inside)          \
    X("cut_after_frame", SIM_ANY, SIM_NONE, 0, sim_do_cut_after)            \
    X("freeze", SIM_ANY, SIM_NONE, 0, sim_do_freeze)                        \
    X("thaw", SIM_ANY, SIM_NONE, 0, sim_do_thaw)                            \
    X("close", SIM_SOCKET, SIM_NUMBER, 0, sim_do_close)                     \
    X("close_empty", SIM_SOCKET, SIM_NONE, 0, sim_do_close_empty)           \
    X("close_one_byte", SIM_SOCKET, SIM_NONE, 0, sim_do_close_one_byte)     \
    X("op1", SIM_SOCKET, SIM_NONE, 0, sim_do_op1)                           \
    X("op7", SIM_SOCKET, SIM_NONE, 0, sim_do_op7)                           \
    X("op9", SIM_SOCKET, SIM_WORDS, 0, sim_do_op9)                          \
    X("hello", SIM_SOCKET, SIM_NONE, 0, sim_do_hello)                       \
    X("ack", SIM_SOCKET, SIM_NONE, 0, sim_do_ack)                           \
    X("answer", SIM_SOCKET, SIM_NONE, 0, sim_do_answer)                     \
    X("unknown_op", SIM_SOCKET, SIM_NONE, 0, sim_do_unknown_op)             \
    X("unknown_event", SIM_SOCKET, SIM_NONE, 0, sim_do_unknown_event)       \
    X("event", SIM_SOCKET, SIM_WORDS, 0, sim_do_event)                      \
    X("big", SIM_SOCKET, SIM_MAYBE_NUMBER, SIM_BIG_BYTES, sim_do_big)       \
    X("seq_zero", SIM_SOCKET, SIM_NONE, 0, sim_do_seq_zero)                 \
    X("seq_huge", SIM_SOCKET, SIM_NONE, 0, sim_do_seq_huge)                 \
    X("broken_json", SIM_SOCKET, SIM_NONE, 0, sim_do_broken_json)           \
    X("no_op", SIM_SOCKET, SIM_NONE, 0, sim_do_no_op)                       \
    X("raw", SIM_SOCKET, SIM_WORDS, 0, sim_do_raw)                          \
    X("bytes", SIM_SOCKET, SIM_WORDS, 0, sim_do_bytes)                      \
    X("ping", SIM_SOCKET, SIM_MAYBE_WORDS, 0, sim_do_ping)                  \
    X("pong", SIM_SOCKET, SIM_NONE, 0, sim_do_pong)                         \
    X("bad_utf8", SIM_SOCKET, SIM_NONE, 0, sim_do_bad_utf8)                 \
    X("length_lie", SIM_SOCKET, SIM_MAYBE_NUMBER, (uint64_t)1 << 62, sim_do_length_lie) \
    X("masked_frame", SIM_SOCKET, SIM_NONE, 0, sim_do_masked)               \
    X("rsv", SIM_SOCKET, SIM_NONE, 0, sim_do_rsv)                           \
    X("binary_frame", SIM_SOCKET, SIM_NONE, 0, sim_do_binary)               \
    X("reserved_opcode", SIM_SOCKET, SIM_NONE, 0, sim_do_reserved_opcode)   \
    X("fragmented_ping", SIM_SOCKET, SIM_NONE, 0, sim_do_fragmented_ping)   \
    X("long_ping", SIM_SOCKET, SIM_NONE, 0, sim_do_long_ping)               \
    X("lone_continuation", SIM_SOCKET, SIM_NONE, 0, sim_do_continuation)    \
    X("garbage", SIM_ANY, SIM_NONE, 0, sim_do_garbage)                      \
    X("calm", SIM_ANY, SIM_NONE, 0, sim_do_calm)                            \
    X("one_byte", SIM_ANY, SIM_NONE, 0, sim_do_one_byte)                    \
    X("fragments", SIM_ANY, SIM_MAYBE_NUMBER, 3, sim_do_fragments)          \
    X("key_order", SIM_ANY, SIM_NONE, 0, sim_do_key_order)                  \
    X("no_ack", SIM_ANY, SIM_NONE, 0, sim_do_no_ack)                        \
    X("late_ack", SIM_ANY, SIM_NUMBER, 0, sim_do_late_ack)                  \
    X("no_hello", SIM_ANY, SIM_NONE, 0, sim_do_no_hello)                    \
    X("hello_interval", SIM_ANY, SIM_NUMBER, 0, sim_do_hello_interval)      \
    X("no_ready", SIM_ANY, SIM_NONE, 0, sim_do_no_ready)                    \
    X("late_ready", SIM_ANY, SIM_NUMBER, 0, sim_do_late_ready)              \
    X("http", SIM_ANY, SIM_NUMBER, 0, sim_do_http)                          \
    X("http_body", SIM_ANY, SIM_WORDS, 0, sim_do_http_body)                 \
    X("http_endless", SIM_ANY, SIM_NONE, 0, sim_do_http_endless)            \
    X("redirect", SIM_ANY, SIM_WORDS, 0, sim_do_redirect)                   \
    X("stall_http", SIM_ANY, SIM_NONE, 0, sim_do_stall_http)                \
    X("wrong_accept", SIM_ANY, SIM_NONE, 0, sim_do_wrong_accept)            \
    X("no_upgrade", SIM_ANY, SIM_NONE, 0, sim_do_no_upgrade)                \
    X("foreign_resume_url", SIM_ONCE, SIM_WORDS, 0, sim_do_foreign_url)     \
    X("expire_sessions", SIM_ONCE, SIM_NONE, 0, sim_do_expire)              \
    X("rate", SIM_ONCE, SIM_WORDS, 0, sim_do_rate)                          \
    X("remaining", SIM_ONCE, SIM_NUMBER, 0, sim_do_remaining)               \
    X("shards", SIM_ONCE, SIM_NUMBER, 0, sim_do_shards)                     \
    X("token_reset", SIM_ONCE, SIM_NONE, 0, sim_do_token_reset)             \
    X("note", SIM_ONCE, SIM_MAYBE_WORDS, 0, sim_do_note)

typedef struct sim_verb {
    const char *name;
    int where, argument;
    uint64_t number;
    void (*run)(sim_order *);
} sim_verb;

static const sim_verb sim_verbs[] = {
#define SIM_ROW(name, where, argument, number, run) { name, where, argument, number, run },
    SIM_VERBS(SIM_ROW)
#undef SIM_ROW
};

static const sim_verb *sim_find_verb(const char *text)
{
    size_t i;
    for (i = 0; i < sizeof sim_verbs / sizeof sim_verbs[0]; i++)
        if (sim_word_is(text, sim_verbs[i].name)) return &sim_verbs[i];
    return NULL;
}

static int sim_read_arguments(const sim_verb *verb, sim_order *order, const char *text, char *why, size_t cap)
{
    const char *at = sim_skip_blank(text + sim_word(text));
    int good = 1;
    order->number = verb->number;
    switch (verb->argument) {
    case SIM_NONE:         good = !*at; break;
    case SIM_NUMBER:       good = sim_take_number(&at, &order->number); break;
    case SIM_MAYBE_NUMBER: good = !*at || (sim_take_number(&at, &order->number) && !*at); break;
    case SIM_WORDS:        good = *at != 0; break;
    default: break;
    }
    order->text = at;
    if (good) return 1;
    return sim_complain(why, cap, verb->argument == SIM_NONE ? "this takes no argument" :
                        "an argument is missing or wrong", text);
}

static void sim_log_order(const sim_order *order, const char *text)
{
    sim_buf *line = sim_log_begin(order->gateway, order->conn, "command");
    sim_print(line, ",\"text\":");
    sim_print_json(line, text, strlen(text));
    sim_log_end(order->gateway);
}

static void sim_run_on(const sim_verb *verb, sim_order *order, const char *text)
{
    sim_connection *conn = order->conn;
    if (conn->state != SIM_OPEN && conn->state != SIM_FROZEN) return;
    if (verb->where == SIM_SOCKET && (conn->stage == SIM_STAGE_HTTP || conn->stage == SIM_STAGE_OVER)) return;
    sim_log_order(order, text);
    verb->run(order);
}

static int sim_run_verb(sim_gateway *gateway, sim_connection *conn, const char *text, int only_check,
                        char *why, size_t cap)
{
    const sim_verb *verb = sim_find_verb(text);
    sim_order order;
    order.gateway = gateway;
    order.conn = conn;
    if (!verb) return sim_complain(why, cap, "no such command (README.md has the table)", text);
    if (!sim_read_arguments(verb, &order, text, why, cap)) return 0;
    if (only_check) return 1;
    if (verb->where == SIM_ONCE) {
        sim_log_order(&order, text);
        verb->run(&order);
    } else if (conn) {
        sim_run_on(verb, &order, text);
    } else {
        for (order.conn = gateway->connections; order.conn; order.conn = order.conn->next)
            sim_run_on(verb, &order, text);
    }
    return 1;
}

/* -- when --------------------------------------------------------------------------------------------- */

static const char *const sim_happenings[] = {
    "accept", "api", "upgrade", "open", "hello", "identify", "resume", "ready", "resumed", "heartbeat"
};

static void sim_add_trigger(sim_gateway *gateway, const sim_trigger *wanted, const char *text)
{
    sim_trigger *trigger = (sim_trigger *)sim_alloc(sizeof *trigger), **at = &gateway->triggers;
    *trigger = *wanted;
    trigger->text = sim_copy(text, strlen(text));
    while (*at) at = &(*at)->next;
    *at = trigger;
}

static int sim_obey(sim_gateway *gateway, sim_connection *conn, const char *text, int only_check,
                    char *why, size_t cap);

/* EVENT ["x"N] ["+"MS] command */
static int sim_obey_on(sim_gateway *gateway, const char *at, int only_check, char *why, size_t cap)
{
    sim_trigger wanted;
    size_t i, count = sizeof sim_happenings / sizeof sim_happenings[0];
    uint64_t number;
    memset(&wanted, 0, sizeof wanted);
    wanted.left = UINT32_MAX;
    for (i = 0; i < count && !sim_word_is(at, sim_happenings[i]); i++) { }
    if (i == count)
        return sim_complain(why, cap, "no such event (accept api upgrade open hello identify resume "
                            "ready resumed heartbeat)", at);
    strcpy(wanted.event, sim_happenings[i]);
    at = sim_skip_blank(at + sim_word(at));
    for (; *at == 'x' || *at == '+'; ) {
        const char *digits = at + 1;
        if (!sim_take_number(&digits, &number)) break;
        if (*at == 'x') wanted.left = (uint32_t)number;
        else { wanted.delay_ms = number; wanted.has_delay = 1; }
        at = digits;
    }
    if (!sim_obey(gateway, NULL, at, 1, why, cap)) return 0;
    if (!only_check) sim_add_trigger(gateway, &wanted, at);
    return 1;
}

static int sim_obey_shard(sim_gateway *gateway, uint64_t shard_id, const char *at, char *why, size_t cap)
{
    sim_connection *conn;
    for (conn = gateway->connections; conn; conn = conn->next)
        if (conn->session && conn->session->shard_id == shard_id && !sim_obey(gateway, conn, at, 0, why, cap))
            return 0;
    return 1;
}

/* "at", "every", "next", "to", "shard": a number, then the rest. */
static int sim_obey_counted(sim_gateway *gateway, sim_connection *conn, const char *text,
                            int only_check, char *why, size_t cap)
{
    const char *at = sim_skip_blank(text + sim_word(text));
    uint64_t number;
    sim_trigger wanted;
    if (!sim_take_number(&at, &number)) return sim_complain(why, cap, "a number is missing", text);
    if (sim_word_is(text, "every") && number == 0)
        return sim_complain(why, cap, "every 0 ms is too often", text);
    if (!sim_obey(gateway, NULL, at, 1, why, cap)) return 0;
    if (only_check) return 1;
    if (sim_word_is(text, "to")) {
        conn = sim_find_connection(gateway, number);
        return conn ? sim_obey(gateway, conn, at, 0, why, cap) :
            sim_complain(why, cap, "no connection has this number", text);
    }
    if (sim_word_is(text, "shard")) return sim_obey_shard(gateway, number, at, why, cap);
    if (sim_word_is(text, "next")) {
        memset(&wanted, 0, sizeof wanted);
        strcpy(wanted.event, "accept");
        wanted.left = (uint32_t)number;
        sim_add_trigger(gateway, &wanted, at);
        return 1;
    }
    sim_later(gateway, conn ? conn->id : 0, gateway->now_ms + number,
              sim_word_is(text, "every") ? number : 0, at);
    return 1;
}

static int sim_obey(sim_gateway *gateway, sim_connection *conn, const char *text, int only_check,
                    char *why, size_t cap)
{
    text = sim_skip_blank(text);
    if (!*text || *text == '#') return 1;
    if (sim_word_is(text, "on"))
        return sim_obey_on(gateway, sim_skip_blank(text + 2), only_check, why, cap);
    if (sim_word_is(text, "at") || sim_word_is(text, "every") || sim_word_is(text, "next") ||
        sim_word_is(text, "to") ||
        sim_word_is(text, "shard"))
        return sim_obey_counted(gateway, conn, text, only_check, why, cap);
    return sim_run_verb(gateway, conn, text, only_check, why, cap);
}

void sim_later(sim_gateway *gateway, uint64_t conn_id, uint64_t due_ms, uint64_t every_ms, const char *text)
{
    sim_timer *timer = (sim_timer *)sim_alloc(sizeof *timer), **at = &gateway->timers;
    timer->conn_id = conn_id;
    timer->due_ms = due_ms;
    timer->every_ms = every_ms;
    timer->text = sim_copy(text, strlen(text));
    while (*at) at = &(*at)->next;
    *at = timer;
}

/* Taken out of the list; of those that are due, the earliest. */
static sim_timer *sim_take_timer(sim_gateway *gateway)
{
    sim_timer **at, **best = NULL, *timer;
    for (at = &gateway->timers; *at; at = &(*at)->next)
        if ((*at)->due_ms <= gateway->now_ms && (!best || (*at)->due_ms < (*best)->due_ms)) best = at;
    if (!best) return NULL;
    timer = *best;
    *best = timer->next;
    return timer;
}

void sim_run_timers(sim_gateway *gateway)
{
    sim_timer *timer;
    while ((timer = sim_take_timer(gateway)) != NULL) {
        sim_connection *conn = timer->conn_id ? sim_find_connection(gateway, timer->conn_id) : NULL;
        /* what a leap of the clock missed is not made up for */
        if (timer->every_ms && (conn || !timer->conn_id))
            sim_later(gateway, timer->conn_id, gateway->now_ms + timer->every_ms, timer->every_ms,
                      timer->text);
        if (conn || !timer->conn_id) sim_obey(gateway, conn, timer->text, 0, NULL, 0);
        free(timer->text);
        free(timer);
    }
}

void sim_happened(sim_connection *conn, const char *event)
{
    sim_gateway *gateway = conn->gateway;
    sim_trigger *trigger = gateway->triggers, *last = trigger;
    /* a trigger that is added meanwhile waits for the next time */
    while (last && last->next) last = last->next;
    for (; trigger; trigger = trigger == last ? NULL : trigger->next) {
        if (conn->state != SIM_OPEN && conn->state != SIM_FROZEN) return;
        if (!trigger->left || strcmp(trigger->event, event) != 0) continue;
        if (trigger->left != UINT32_MAX) trigger->left--;
        if (trigger->has_delay)
            sim_later(gateway, conn->id, gateway->now_ms + trigger->delay_ms, 0, trigger->text);
        else sim_obey(gateway, conn, trigger->text, 0, NULL, 0);
    }
}

void sim_faults_clear(sim_faults *faults)
{
    free(faults->redirect);
    free(faults->resume_url);
    memset(faults, 0, sizeof *faults);
}

/* -- public ---------------------------------------------------------------------------------------------- */

int sim_command(sim_gateway *gateway, sim_connection *conn, const char *text, uint64_t now_ms,
                char *why, size_t cap)
{
    gateway->now_ms = now_ms;
    return sim_obey(gateway, conn, text, 0, why, cap);
}

/* One line without its comment and the blanks at its end; the caller frees it. */
static char *sim_take_line(const char *text, size_t len)
{
    char *line = sim_copy(text, len), *comment = strstr(line, " #");
    if (comment) *comment = 0;
    for (len = strlen(line); len && (line[len - 1] == ' ' || line[len - 1] == '\t'); ) line[--len] = 0;
    return line;
}

int sim_script(sim_gateway *gateway, const char *text, uint64_t now_ms, char *why, size_t cap)
{
    int number;
    gateway->now_ms = now_ms;
    for (number = 1; ; number++) {
        size_t len = strcspn(text, "\r\n");
        char *line = sim_take_line(text, len);
        int good = sim_obey(gateway, NULL, line, 0, why, cap);
        free(line);
        if (!good) return number;
        if (!text[len]) return 0;
        text += len;
        text += text[0] == '\r' && text[1] == '\n' ? 2 : 1;
    }
}
