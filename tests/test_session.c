/* The session room as pure decisions: payloads and time in, what is to be done out. Also what the bot says (Identify,
 * Resume, Heartbeat, presence). Facts: Discord docs, "Gateway"; the texts of the close codes are ours. */
#define DISCORD_GATEWAY_IMPLEMENTATION
#include "discord_gateway.h"
#include "check.h"

#define NOW_US UINT64_C(5000000)

static gw__session session;
static gw__fault fault;
static int32_t detail;

/* ... and the handshake is done. */
static void begin_connection(void)
{
    gw__session_begin_connection(&session);
    session.has_shaken = 1;
}

static void begin(void)
{
    memset(&session, 0, sizeof session);
    memset(&fault, 0, sizeof fault);
    detail = 0;
    begin_connection();
}

/* A session that can be resumed. */
static void begin_alive(void)
{
    begin();
    strcpy(session.id, "abc");
    session.begun = 1;
    session.has_received = 1;
    session.received_seq = 41;
}

static gw_json json(const char *text)
{
    gw_json value;
    memset(&value, 0, sizeof value);
    value.ptr = text;
    value.len = text ? strlen(text) : 0;
    return value;
}

static gw__act push(uint64_t op, uint32_t type, const char *d, int has_seq, uint64_t seq)
{
    gw__payload payload;
    memset(&payload, 0, sizeof payload);
    payload.op = op;
    payload.has_op = 1;
    payload.type = type;
    payload.d = json(d);
    payload.has_seq = (uint32_t)has_seq;
    payload.seq = seq;
    return gw__session_on_payload(&session, &payload, NOW_US, UINT32_MAX / 2, &fault, &detail);
}

static gw__act hello(void) { return push(10, 0, "{\"heartbeat_interval\":41250}", 0, 0); }

/* ---- the table of endings ---- */
typedef struct end_case { uint32_t reason; int32_t detail; gw__next next; } end_case;

/* docs/protocol: "Gateway Close Event Codes" and what is said of connections that end otherwise. */
static const end_case end_cases[] = {
    { GW_REASON_CLOSE_CODE, 0, GW__NEXT_RESUME }, { GW_REASON_CLOSE_CODE, 1000, GW__NEXT_RESUME },
    { GW_REASON_CLOSE_CODE, 1001, GW__NEXT_RESUME }, { GW_REASON_CLOSE_CODE, 1002, GW__NEXT_RESUME },
    { GW_REASON_CLOSE_CODE, 1003, GW__NEXT_RESUME }, { GW_REASON_CLOSE_CODE, 1007, GW__NEXT_RESUME },
    { GW_REASON_CLOSE_CODE, 1008, GW__NEXT_RESUME }, { GW_REASON_CLOSE_CODE, 1009, GW__NEXT_RESUME },
    { GW_REASON_CLOSE_CODE, 1011, GW__NEXT_RESUME }, { GW_REASON_CLOSE_CODE, 1012, GW__NEXT_RESUME },
    { GW_REASON_CLOSE_CODE, 1013, GW__NEXT_RESUME }, { GW_REASON_CLOSE_CODE, 1014, GW__NEXT_RESUME },
    { GW_REASON_CLOSE_CODE, 3000, GW__NEXT_RESUME }, { GW_REASON_CLOSE_CODE, 4000, GW__NEXT_RESUME },
    { GW_REASON_CLOSE_CODE, 4001, GW__NEXT_RESUME }, { GW_REASON_CLOSE_CODE, 4002, GW__NEXT_RESUME },
    { GW_REASON_CLOSE_CODE, 4003, GW__NEXT_IDENTIFY }, { GW_REASON_CLOSE_CODE, 4004, GW__NEXT_FATAL },
    { GW_REASON_CLOSE_CODE, 4005, GW__NEXT_RESUME }, { GW_REASON_CLOSE_CODE, 4006, GW__NEXT_IDENTIFY },
    { GW_REASON_CLOSE_CODE, 4007, GW__NEXT_IDENTIFY }, { GW_REASON_CLOSE_CODE, 4008, GW__NEXT_RESUME },
    { GW_REASON_CLOSE_CODE, 4009, GW__NEXT_IDENTIFY }, { GW_REASON_CLOSE_CODE, 4010, GW__NEXT_STOP },
    { GW_REASON_CLOSE_CODE, 4011, GW__NEXT_FATAL }, { GW_REASON_CLOSE_CODE, 4012, GW__NEXT_FATAL },
    { GW_REASON_CLOSE_CODE, 4013, GW__NEXT_FATAL }, { GW_REASON_CLOSE_CODE, 4014, GW__NEXT_FATAL },
    { GW_REASON_CLOSE_CODE, 4015, GW__NEXT_RESUME }, { GW_REASON_CLOSE_CODE, 4999, GW__NEXT_RESUME },
    { GW_REASON_ASKED, 0, GW__NEXT_RESUME }, { GW_REASON_INVALID_SESSION, GW__INVALID_TRUE, GW__NEXT_RESUME },
    { GW_REASON_INVALID_SESSION, GW__INVALID_FALSE, GW__NEXT_IDENTIFY },
    { GW_REASON_INVALID_SESSION, GW__INVALID_AFTER_IDENTIFY, GW__NEXT_IDENTIFY },
    { GW_REASON_CONFIG, 0, GW__NEXT_FATAL }, { GW_REASON_BY_CALLER, 0, GW__NEXT_STOP },
    { GW_REASON_SLEPT, 0, GW__NEXT_RESUME }, { GW_REASON_NO_ACK, 0, GW__NEXT_RESUME },
    { GW_REASON_TIMEOUT, 0, GW__NEXT_RESUME }, { GW_REASON_PROTOCOL, 0, GW__NEXT_RESUME },
    { GW_REASON_LOST, 0, GW__NEXT_RESUME }, { GW_REASON_RESOLVE, 0, GW__NEXT_RESUME },
    { GW_REASON_CONNECT, 0, GW__NEXT_RESUME }, { GW_REASON_MEMORY, 0, GW__NEXT_RESUME },
    { GW_REASON_HTTP, 503, GW__NEXT_RESUME }, { GW_REASON_HTTP, 429, GW__NEXT_RESUME },
    { GW_REASON_TLS_EXPIRED, 0, GW__NEXT_RESUME }, { GW_REASON_TLS_NOT_YET, 0, GW__NEXT_RESUME }
};

TEST(session_every_end_of_a_connection_has_its_row)
{
    size_t i;
    for (i = 0; i < sizeof end_cases / sizeof end_cases[0]; i++) {
        const gw__ending *ending = gw__ending_of(end_cases[i].reason, end_cases[i].detail);
        if (!CHECK_EQ(ending->next, end_cases[i].next))
            fprintf(stderr, "    reason %u, detail %d\n", (unsigned)end_cases[i].reason, (int)end_cases[i].detail);
        CHECK(ending->advice != NULL);
        if (end_cases[i].reason == GW_REASON_CLOSE_CODE) CHECK(strlen(ending->advice) > 10);
    }
}

/* Of commands, not of connections: BY_CALLER says all there is, the rest never ends a connection. */
TEST(session_every_end_of_a_connection_has_a_sentence_of_advice)
{
    uint32_t reason;
    for (reason = 1; reason < GW_REASON_END_; reason++) {
        if (reason == GW_REASON_BY_CALLER || reason == GW_REASON_NEWER || reason == GW_REASON_TOO_OLD ||
            reason == GW_REASON_SESSION_GONE) continue;
        if (!CHECK(strlen(gw__ending_of(reason, 0)->advice) > 10)) fprintf(stderr, "    reason %u\n", (unsigned)reason);
    }
}

TEST(session_waits_at_least_a_minute_after_4008)
{
    uint32_t wait_ms;
    begin_alive();
    CHECK_EQ(gw__session_after(&session, gw__ending_of(GW_REASON_CLOSE_CODE, 4008), 1000000, 0, &wait_ms),
        GW__NEXT_RESUME);
    CHECK(wait_ms >= 60000);
}

TEST(session_after_op9_false_waits_one_to_five_seconds)
{
    const gw__ending *row = gw__ending_of(GW_REASON_INVALID_SESSION, GW__INVALID_FALSE);
    uint32_t wait_ms;
    begin_alive();
    session.attempts = 0;
    CHECK_EQ(gw__session_after(&session, row, 1000000, 0, &wait_ms), GW__NEXT_IDENTIFY);
    CHECK_EQ(wait_ms, 1000);
    gw__session_after(&session, row, 1000000, UINT32_MAX, &wait_ms);
    CHECK_EQ(wait_ms, 5000);
    gw__session_after(&session, row, 1000000, UINT32_MAX / 2, &wait_ms);
    CHECK(wait_ms > 2900 && wait_ms < 3100);
}

TEST(session_after_op9_in_answer_to_identify_waits_five_seconds_and_more)
{
    const gw__ending *row = gw__ending_of(GW_REASON_INVALID_SESSION, GW__INVALID_AFTER_IDENTIFY);
    uint32_t wait_ms;
    begin();
    gw__session_after(&session, row, 1000000, 0, &wait_ms);
    CHECK(wait_ms >= 5000);
    gw__session_after(&session, row, 1000000, UINT32_MAX, &wait_ms);
    CHECK(wait_ms >= 5000);
}

/* ---- backoff ---- */
TEST(session_resumes_at_once_and_then_backs_off_to_a_minute)
{
    static const uint32_t caps[] = { 0, 1000, 2000, 4000, 8000, 16000, 32000, 60000, 60000, 60000 };
    const gw__ending *lost = gw__ending_of(GW_REASON_LOST, 0);
    uint32_t i, wait_ms;
    begin_alive();
    for (i = 0; i < sizeof caps / sizeof caps[0]; i++) {
        session.attempts = i;
        gw__session_after(&session, lost, 1000000, UINT32_MAX, &wait_ms);
        CHECK_EQ(wait_ms, caps[i]);
        gw__session_after(&session, lost, 1000000, 0, &wait_ms);         /* full jitter: down to nothing */
        CHECK_EQ(wait_ms, 0);
        gw__session_after(&session, lost, 1000000, UINT32_MAX / 4, &wait_ms);
        CHECK(wait_ms <= caps[i] / 4 + 1 && wait_ms + 1 >= caps[i] / 4);
    }
    session.attempts = UINT32_MAX;
    gw__session_after(&session, lost, 1000000, UINT32_MAX, &wait_ms);
    CHECK_EQ(wait_ms, 60000);
}

TEST(session_only_ready_or_resumed_resets_the_backoff)
{
    begin();
    CHECK_EQ(session.attempts, 1);
    hello();
    CHECK_EQ(session.attempts, 1);
    begin_connection();
    CHECK_EQ(session.attempts, 2);
    gw__session_on_ready(&session);
    CHECK_EQ(session.attempts, 0);
}

TEST(session_that_cannot_be_resumed_identifies_whatever_the_row_says)
{
    uint32_t wait_ms;
    begin();
    CHECK_EQ(gw__session_after(&session, gw__ending_of(GW_REASON_LOST, 0), 1000000, 0, &wait_ms), GW__NEXT_IDENTIFY);
    begin_alive();
    CHECK_EQ(gw__session_after(&session, gw__ending_of(GW_REASON_LOST, 0), 1000000, 0, &wait_ms), GW__NEXT_RESUME);
    session.has_received = 0;           /* an id without a seq: Resume needs both */
    CHECK_EQ(gw__session_after(&session, gw__ending_of(GW_REASON_LOST, 0), 1000000, 0, &wait_ms), GW__NEXT_IDENTIFY);
}

TEST(session_gives_up_after_the_third_resume_without_resumed)
{
    begin_alive();
    session.resumes_unanswered = 2;
    CHECK(gw__session_can_resume(&session));
    session.resumes_unanswered = 3;
    CHECK(!gw__session_can_resume(&session));
    gw__session_on_ready(&session);
    CHECK(gw__session_can_resume(&session));
}

/* ---- Hello ---- */
TEST(session_identifies_at_hello_and_resumes_where_there_is_a_session)
{
    begin();
    CHECK_EQ(hello(), GW__ACT_IDENTIFY);
    CHECK_EQ(session.interval_ms, 41250);
    begin_alive();
    CHECK_EQ(hello(), GW__ACT_RESUME);
}

TEST(session_second_hello_changes_nothing)
{
    uint64_t next_ms;
    begin();
    hello();
    next_ms = session.next_beat_ms;
    CHECK_EQ(push(10, 0, "{\"heartbeat_interval\":1000}", 0, 0), GW__ACT_NOTHING);
    CHECK_EQ(session.interval_ms, 41250);
    CHECK_U64(session.next_beat_ms, next_ms);
}

TEST(session_first_beat_is_jittered_over_one_interval)
{
    gw__payload payload;
    uint64_t now_ms = NOW_US / 1000u;
    memset(&payload, 0, sizeof payload);
    payload.op = 10;
    payload.has_op = 1;
    payload.d = json("{\"heartbeat_interval\":40000}");
    begin();
    gw__session_on_payload(&session, &payload, NOW_US, 0, &fault, &detail);
    CHECK_U64(session.next_beat_ms, now_ms);
    begin();
    gw__session_on_payload(&session, &payload, NOW_US, UINT32_MAX, &fault, &detail);
    CHECK(session.next_beat_ms <= now_ms + 40000);
    begin();
    gw__session_on_payload(&session, &payload, NOW_US, UINT32_MAX / 4, &fault, &detail);
    CHECK(session.next_beat_ms >= now_ms + 9999 && session.next_beat_ms <= now_ms + 10001);
}

TEST(session_bounds_a_heartbeat_interval_that_makes_no_sense)
{
    begin();
    CHECK_EQ(push(10, 0, "{\"heartbeat_interval\":1}", 0, 0), GW__ACT_IDENTIFY);
    CHECK(session.interval_ms >= 1000);
    begin();
    CHECK_EQ(push(10, 0, "{\"heartbeat_interval\":18446744073709551615}", 0, 0), GW__ACT_IDENTIFY);
    CHECK(session.interval_ms <= 600000);
}

TEST(session_hello_without_an_interval_ends_the_connection)
{
    static const char *const bodies[] = { NULL, "null", "{}", "[]", "41250", "{\"heartbeat_interval\":0}",
        "{\"heartbeat_interval\":null}", "{\"heartbeat_interval\":-5}", "{\"heartbeat_interval\":\"soon\"}" };
    size_t i;
    for (i = 0; i < sizeof bodies / sizeof bodies[0]; i++) {
        begin();
        CHECK_EQ(push(10, 0, bodies[i], 0, 0), GW__ACT_END);
        CHECK_EQ(fault.reason, GW_REASON_PROTOCOL);
        CHECK_HAS(fault.text, "heartbeat_interval");
    }
}

/* ---- sequence numbers ---- */
TEST(session_heartbeat_carries_null_until_a_sequence_came)
{
    gw__mem mem;
    gw__buf out;
    gw__mem_init(&mem, NULL, NULL);
    gw__buf_init(&out, &mem, 4096);
    begin();
    CHECK(gw__session_write_heartbeat(&out, &session));
    CHECK_BYTES(gw__buf_data(&out), gw__buf_len(&out), "{\"op\":1,\"d\":null}", 17);
    gw__buf_clear(&out);
    push(0, GW_TYPING_START, "{}", 1, 0);                       /* 0 is a sequence number */
    CHECK(gw__session_write_heartbeat(&out, &session));
    CHECK_BYTES(gw__buf_data(&out), gw__buf_len(&out), "{\"op\":1,\"d\":0}", 14);
    gw__buf_clear(&out);
    push(0, GW_TYPING_START, "{}", 1, UINT64_C(9007199254740995));      /* above 2^53: no double */
    CHECK(gw__session_write_heartbeat(&out, &session));
    CHECK_BYTES(gw__buf_data(&out), gw__buf_len(&out), "{\"op\":1,\"d\":9007199254740995}", 29);
    gw__buf_free(&out);
}

TEST(session_null_sequences_change_nothing)
{
    begin_alive();
    push(11, 0, NULL, 0, 0);
    push(7, 0, "null", 0, 0);
    CHECK_U64(session.received_seq, 41);
    push(0, GW_TYPING_START, "{}", 0, 0);
    CHECK_U64(session.received_seq, 41);
    CHECK(session.has_received);
}

TEST(session_sequence_may_jump_but_does_not_go_back)
{
    begin_alive();
    push(0, GW_TYPING_START, "{}", 1, 1000);
    CHECK_U64(session.received_seq, 1000);
    push(0, GW_TYPING_START, "{}", 1, 999);
    CHECK_U64(session.received_seq, 1000);
    session.identified = 1;
    push(0, GW_READY, "{}", 1, 1);                              /* a new session starts anew */
    CHECK_U64(session.received_seq, 1);
}

/* ---- opcodes ---- */
TEST(session_answers_op1_at_once_and_keeps_its_timer)
{
    uint64_t next_ms;
    begin();
    CHECK_EQ(push(1, 0, "null", 0, 0), GW__ACT_BEAT);          /* before Hello too */
    hello();
    next_ms = session.next_beat_ms;
    CHECK_EQ(push(1, 0, NULL, 0, 0), GW__ACT_BEAT);
    CHECK_U64(session.next_beat_ms, next_ms);
    CHECK_EQ(session.beat_unanswered, 0);                       /* one that was asked for kills nobody */
}

TEST(session_op7_ends_the_connection_in_every_state)
{
    begin();
    CHECK_EQ(push(7, 0, "null", 0, 0), GW__ACT_END);
    CHECK_EQ(fault.reason, GW_REASON_ASKED);
    begin_alive();
    hello();
    CHECK_EQ(push(7, 0, NULL, 0, 0), GW__ACT_END);
    CHECK_EQ(gw__ending_of(fault.reason, detail)->next, GW__NEXT_RESUME);
}

TEST(session_op9_means_what_its_bare_boolean_says)
{
    static const char *const falses[] = { "false", "null", NULL, "{}", "\"true\"", "1", "tru3" };
    size_t i;
    begin_alive();
    CHECK_EQ(push(9, 0, "true", 0, 0), GW__ACT_END);
    CHECK_EQ(detail, GW__INVALID_TRUE);
    for (i = 0; i < sizeof falses / sizeof falses[0]; i++) {
        begin_alive();
        CHECK_EQ(push(9, 0, falses[i], 0, 0), GW__ACT_END);
        CHECK_EQ(detail, GW__INVALID_FALSE);
        CHECK_EQ(fault.reason, GW_REASON_INVALID_SESSION);
    }
    begin();
    session.identified = 1;
    push(9, 0, "false", 0, 0);
    CHECK_EQ(detail, GW__INVALID_AFTER_IDENTIFY);
}

/* There was no memory to keep the boolean: a Resume finds out, where there is a session. */
TEST(session_op9_that_was_not_read_is_answered_by_a_resume)
{
    gw__payload payload;
    memset(&payload, 0, sizeof payload);
    payload.op = 9;
    payload.has_op = payload.d_is_lost = 1;
    begin_alive();
    CHECK_EQ(gw__session_on_payload(&session, &payload, NOW_US, 0, &fault, &detail), GW__ACT_END);
    CHECK_EQ(detail, GW__INVALID_TRUE);
    begin();
    session.identified = 1;
    gw__session_on_payload(&session, &payload, NOW_US, 0, &fault, &detail);
    CHECK_EQ(detail, GW__INVALID_AFTER_IDENTIFY);
}

TEST(session_ignores_opcodes_of_tomorrow)
{
    static const uint64_t ops[] = { 2, 3, 4, 5, 6, 8, 12, 31, 43, 99, UINT64_C(4294967296), UINT64_C(4294967303),
        UINT64_MAX };
    size_t i;
    for (i = 0; i < sizeof ops / sizeof ops[0]; i++) {
        begin();
        CHECK_EQ(push(ops[i], 0, "{}", 1, 7), GW__ACT_NOTHING);
        CHECK_EQ(fault.reason, GW_REASON_NONE);
        CHECK_EQ(session.has_received, 0);                      /* s counts in dispatches only */
    }
}

TEST(session_payload_without_op_ends_the_connection)
{
    gw__payload payload;
    memset(&payload, 0, sizeof payload);
    begin();
    CHECK_EQ(gw__session_on_payload(&session, &payload, NOW_US, 0, &fault, &detail), GW__ACT_END);
    CHECK_EQ(fault.reason, GW_REASON_PROTOCOL);
    CHECK_HAS(fault.text, "op");
}

TEST(session_dispatches_are_delivered_and_two_of_them_mean_ready)
{
    begin();
    CHECK_EQ(push(0, GW_MESSAGE_CREATE, "{}", 1, 2), GW__ACT_DELIVER);
    CHECK_EQ(push(0, GW_UNKNOWN_DISPATCH, "{}", 1, 3), GW__ACT_DELIVER);
    CHECK_EQ(push(0, GW_READY, "{}", 1, 1), GW__ACT_DELIVER);   /* unasked: an event like others */
    CHECK_EQ(push(0, GW_RESUMED, "{}", 1, 4), GW__ACT_DELIVER);
    session.identified = 1;
    CHECK_EQ(push(0, GW_READY, "{}", 1, 1), GW__ACT_READY);
    session.replaying = 1;
    CHECK_EQ(push(0, GW_RESUMED, "{}", 1, 4), GW__ACT_RESUMED);
}

/* A server that resumes us and hangs up, again and again, is not called back without a breath. */
TEST(session_that_brings_nothing_is_resumed_more_and_more_slowly)
{
    uint32_t wait_ms, i;
    begin_alive();
    for (i = 1; i <= 10; i++) {
        begin_connection();
        gw__session_on_ready(&session);
        gw__session_after(&session, gw__ending_of(GW_REASON_LOST, 0), 1000000, UINT32_MAX, &wait_ms);
        CHECK_U64(wait_ms, i <= 3 ? 0 : GW__MIN(500u << GW__MIN(i - 3, 7u), 60000u));
    }
    push(0, GW_MESSAGE_CREATE, "{}", 1, 2000);
    gw__session_after(&session, gw__ending_of(GW_REASON_LOST, 0), 1000000, UINT32_MAX, &wait_ms);
    CHECK_U64(wait_ms, 0);
}

/* A quiet bot that Discord moves (op 7) once an hour brings no event either, and resumes at once. */
TEST(session_that_lived_long_is_resumed_at_once_even_if_nothing_came)
{
    uint32_t wait_ms, i;
    begin_alive();
    for (i = 1; i <= 10; i++) {
        begin_connection();
        gw__session_on_ready(&session);
        session.live_ms = i * 3600000;
        gw__session_after(&session, gw__ending_of(GW_REASON_ASKED, 0), (i + 1) * 3600000, UINT32_MAX, &wait_ms);
        CHECK_U64(wait_ms, 0);
    }
}

/* A server that replays from before our seq doubles nothing. */
TEST(session_drops_a_replayed_event_that_it_has)
{
    begin_alive();
    push(0, GW_TYPING_START, "{}", 1, 100);
    session.replaying = 1;
    CHECK_EQ(push(0, GW_TYPING_START, "{}", 1, 99), GW__ACT_NOTHING);
    CHECK_EQ(push(0, GW_TYPING_START, "{}", 1, 100), GW__ACT_NOTHING);
    CHECK_EQ(push(0, GW_TYPING_START, "{}", 1, 101), GW__ACT_DELIVER);
    CHECK_EQ(push(0, GW_RESUMED, "{}", 1, 101), GW__ACT_RESUMED);
}

/* READY, then a close that needs an Identify, for ever: the day's Identifies must not go in an hour. */
TEST(session_that_does_not_live_a_minute_is_identified_more_and_more_slowly)
{
    uint32_t wait_ms, i;
    begin();
    session.attempts = 0;
    for (i = 1; i <= 8; i++) {
        strcpy(session.id, "abc");
    session.begun = 1;
        session.ready_ms = 1000000;
        gw__session_after(&session, gw__ending_of(GW_REASON_CLOSE_CODE, 4009), 1005000, UINT32_MAX, &wait_ms);
        CHECK_U64(wait_ms, GW__MIN(500u << GW__MIN(i, 7u), 60000u));
    }
    gw__session_after(&session, gw__ending_of(GW_REASON_CLOSE_CODE, 4009), 1060000, UINT32_MAX, &wait_ms);
    CHECK_U64(wait_ms, 0);
}

/* ---- heartbeats ---- */
TEST(session_beats_every_interval_without_drift)
{
    uint64_t first_ms;
    begin();
    hello();
    first_ms = session.next_beat_ms;
    CHECK_EQ(gw__session_on_beat_due(&session, 1, first_ms, &fault), GW__ACT_BEAT);
    CHECK_U64(session.next_beat_ms, first_ms + 41250);
    gw__session_on_ack(&session, (first_ms + 50) * 1000u);
    CHECK_EQ(gw__session_on_beat_due(&session, 1, first_ms + 41250 + 300, &fault), GW__ACT_BEAT);
    CHECK_U64(session.next_beat_ms, first_ms + 2 * 41250);      /* 300 ms late once is not late for ever */
}

TEST(session_missed_beats_are_not_made_up_for)
{
    uint64_t first_ms;
    begin();
    hello();
    first_ms = session.next_beat_ms;
    CHECK_EQ(gw__session_on_beat_due(&session, 1, first_ms + 10 * 41250, &fault), GW__ACT_BEAT);
    CHECK_U64(session.next_beat_ms, first_ms + 11 * 41250);
}

TEST(session_unanswered_beat_and_a_drained_socket_mean_dead)
{
    begin();
    hello();
    CHECK_EQ(gw__session_on_beat_due(&session, 1, session.next_beat_ms, &fault), GW__ACT_BEAT);
    CHECK_EQ(gw__session_on_beat_due(&session, 1, session.next_beat_ms, &fault), GW__ACT_END);
    CHECK_EQ(fault.reason, GW_REASON_NO_ACK);
}

TEST(session_unanswered_beat_with_bytes_to_read_is_only_suspect)
{
    begin();
    hello();
    gw__session_on_beat_due(&session, 1, session.next_beat_ms, &fault);
    CHECK_EQ(gw__session_on_beat_due(&session, 0, session.next_beat_ms, &fault), GW__ACT_BEAT);
    CHECK_EQ(gw__session_on_suspicion(&session, 0, &fault), GW__ACT_NOTHING);
    gw__session_on_ack(&session, NOW_US);                       /* it was among what waited to be read */
    CHECK_EQ(gw__session_on_suspicion(&session, 1, &fault), GW__ACT_NOTHING);
    CHECK_EQ(fault.reason, GW_REASON_NONE);
}

TEST(session_suspicion_becomes_certain_once_all_was_read)
{
    begin();
    hello();
    gw__session_on_beat_due(&session, 1, session.next_beat_ms, &fault);
    gw__session_on_beat_due(&session, 0, session.next_beat_ms, &fault);
    CHECK_EQ(gw__session_on_suspicion(&session, 1, &fault), GW__ACT_END);
    CHECK_EQ(fault.reason, GW_REASON_NO_ACK);
}

TEST(session_stale_ack_flag_does_not_kill_the_next_connection)
{
    begin_alive();
    hello();
    gw__session_on_beat_due(&session, 1, session.next_beat_ms, &fault);
    CHECK_EQ(session.beat_unanswered, 1);
    begin_connection();
    memset(&fault, 0, sizeof fault);
    CHECK_U64(session.next_beat_ms, GW__NEVER);
    hello();
    CHECK_EQ(gw__session_on_beat_due(&session, 1, session.next_beat_ms, &fault), GW__ACT_BEAT);
    CHECK_U64(session.received_seq, 41);                        /* the session outlives the connection */
}

TEST(session_latency_counts_only_acks_that_were_awaited)
{
    begin();
    hello();
    gw__session_on_ack(&session, NOW_US);                       /* before any beat: says nothing */
    CHECK_U64(session.acks, 0);
    gw__session_beat_sent(&session, NOW_US);
    gw__session_on_ack(&session, NOW_US + 48000);
    CHECK_U64(session.latency_us, 48000);
    gw__session_on_ack(&session, NOW_US + 99000);               /* a second one in the same period */
    CHECK_U64(session.latency_us, 48000);
    CHECK_U64(session.acks, 1);
}

/* ---- READY ---- */
static gw__url parse(const char *text)
{
    gw__url url;
    gw__fault wrong;
    memset(&wrong, 0, sizeof wrong);
    if (!CHECK(gw__url_parse(&url, text, strlen(text), &wrong))) fprintf(stderr, "    %s\n", wrong.text);
    return url;
}

static gw__fault take_ready(const char *cached, const char *d)
{
    gw_ready ready;
    gw__fault refused;
    gw_json body = json(d);
    gw__url url = parse(cached);
    memset(&refused, 0, sizeof refused);
    begin();
    gw_read_ready(&body, &ready);
    gw__session_take_ready(&session, &ready, &url, "a.token.of.a.bot", &refused);
    return refused;
}

TEST(session_takes_id_and_resume_url_from_ready_unescaped)
{
    gw__fault refused = take_ready("wss://gateway.discord.gg/",
        "{\"session_id\":\"\\u0061bc\",\"resume_gateway_url\":\"wss:\\/\\/gateway-us-east1-b.discord.gg\"}");
    CHECK_EQ(refused.reason, 0);
    CHECK_TEXT(session.id, "abc");
    CHECK_TEXT(session.resume_url.host, "gateway-us-east1-b.discord.gg");
    CHECK_EQ(session.resume_url.port, 443);
}

TEST(session_refuses_a_resume_url_of_a_foreign_host_and_stays_resumable)
{
    static const char *const foreign[] = { "wss://evil.example", "ws://gateway.discord.gg", "http://gateway.discord.gg",
        "wss://discord.gg.evil.example", "wss://user:pw@gateway.discord.gg", "not a url", "wss://", "wss://127.0.0.1" };
    char d[256];
    size_t i;
    for (i = 0; i < sizeof foreign / sizeof foreign[0]; i++) {
        gw__fault refused;
        snprintf(d, sizeof d, "{\"session_id\":\"abc\",\"resume_gateway_url\":\"%s\"}", foreign[i]);
        refused = take_ready("wss://gateway.discord.gg/", d);
        if (!CHECK(refused.reason != 0)) fprintf(stderr, "    %s\n", foreign[i]);
        CHECK_TEXT(session.id, "abc");
        CHECK_TEXT(session.resume_url.host, "gateway.discord.gg");
        CHECK(strlen(refused.text) > 10);
    }
}

TEST(session_ready_without_a_resume_url_resumes_at_the_cached_one)
{
    static const char *const bodies[] = { "{\"session_id\":\"abc\"}",
        "{\"session_id\":\"abc\",\"resume_gateway_url\":null}",
        "{\"session_id\":\"abc\",\"resume_gateway_url\":7}", "{\"session_id\":\"abc\",\"resume_gateway_url\":\"\"}" };
    size_t i;
    for (i = 0; i < sizeof bodies / sizeof bodies[0]; i++) {
        gw__fault refused = take_ready("wss://gateway.discord.gg/", bodies[i]);
        CHECK(refused.reason != 0);
        CHECK_TEXT(session.resume_url.host, "gateway.discord.gg");
    }
}

TEST(session_ready_without_a_usable_id_leaves_nothing_to_resume)
{
    char d[512];
    take_ready("wss://gateway.discord.gg/", "{}");
    CHECK_TEXT(session.id, "");
    session.has_received = 1;
    CHECK(!gw__session_can_resume(&session));
    snprintf(d, sizeof d, "{\"session_id\":\"%0200d\",\"resume_gateway_url\":\"wss://gateway.discord.gg\"}", 7);
    take_ready("wss://gateway.discord.gg/", d);
    CHECK_TEXT(session.id, "");
}

TEST(session_loopback_resume_url_may_differ_in_port_and_path)
{
    gw__fault refused = take_ready("ws://127.0.0.1:7777/",
        "{\"session_id\":\"abc\",\"resume_gateway_url\":\"ws://127.0.0.1:7778/x\"}");
    CHECK_EQ(refused.reason, 0);
    CHECK_EQ(session.resume_url.port, 7778);
    CHECK_TEXT(session.resume_url.target, "/x");
}

/* ---- where to connect ---- */
TEST(session_identifies_at_the_cached_url_and_resumes_at_its_own)
{
    gw__url cached = parse("wss://gateway.discord.gg/");
    begin_alive();
    session.resume_url = parse("wss://east.discord.gg/");
    CHECK_TEXT(gw__session_url(&session, &cached)->host, "east.discord.gg");
    session.at_cached_url = 1;
    CHECK_TEXT(gw__session_url(&session, &cached)->host, "gateway.discord.gg");
    session.at_cached_url = 0;
    session.resumes_unanswered = 3;
    CHECK_TEXT(gw__session_url(&session, &cached)->host, "gateway.discord.gg");
    gw__session_forget(&session);
    CHECK_TEXT(gw__session_url(&session, &cached)->host, "gateway.discord.gg");
}

TEST(session_forgets_all_three_values_at_once)
{
    begin_alive();
    session.resume_url = parse("wss://east.discord.gg/");
    session.taken_seq = 40;
    session.has_taken = 1;
    gw__session_forget(&session);
    CHECK_TEXT(session.id, "");
    CHECK_TEXT(session.resume_url.host, "");
    CHECK_U64(session.received_seq, 0);
    CHECK_EQ(session.has_received, 0);
    CHECK_EQ(session.has_taken, 0);
}

/* ---- what we say ---- */
static char said[8192];

static const char *say_identify(const gw__identity *identity, int32_t shard)
{
    gw__mem mem;
    gw__buf out;
    gw__mem_init(&mem, NULL, NULL);
    gw__buf_init(&out, &mem, sizeof said);
    said[0] = 0;
    if (CHECK(gw__session_write_identify(&out, identity, shard, identity->presence)))
        snprintf(said, sizeof said, "%.*s", (int)gw__buf_len(&out), (const char *)gw__buf_data(&out));
    gw__buf_free(&out);
    CHECK(gw__json_is_valid(said, strlen(said)));
    return said;
}

TEST(session_identify_has_the_documented_keys)
{
    gw__identity identity;
    gw_json text;
    memset(&identity, 0, sizeof identity);
    identity.token = "abc";
    identity.intents = 33281;
    text = json(say_identify(&identity, 0));
    CHECK_U64(gw_u64(&text, "op"), 2);
    CHECK_EQ(gw_kind_of(&text, "op"), GW_NUMBER);
    CHECK(gw_is(&text, "d.token", "abc"));
    CHECK_U64(gw_u64(&text, "d.intents"), 33281);
    CHECK_EQ(gw_kind_of(&text, "d.properties.os"), GW_STRING);
    CHECK(!gw_is(&text, "d.properties.os", ""));
    CHECK_EQ(gw_kind_of(&text, "d.properties.browser"), GW_STRING);
    CHECK_EQ(gw_kind_of(&text, "d.properties.device"), GW_STRING);
    CHECK_EQ(gw_kind_of(&text, "d.shard"), GW_ABSENT);          /* unsharded: all guilds */
    CHECK_EQ(gw_kind_of(&text, "d.shards"), GW_ABSENT);
    CHECK_EQ(gw_kind_of(&text, "d.large_threshold"), GW_ABSENT);
    CHECK_EQ(gw_kind_of(&text, "d.compress"), GW_ABSENT);
    CHECK_EQ(gw_kind_of(&text, "d.presence"), GW_ABSENT);
}

TEST(session_identify_carries_shard_threshold_and_presence)
{
    gw__identity identity;
    gw_json text;
    memset(&identity, 0, sizeof identity);
    identity.token = "a\"b\\c";
    identity.large_threshold = 250;
    identity.shard_total = 8;
    identity.presence = "{\"status\":\"idle\"}";
    text = json(say_identify(&identity, 2));
    CHECK(gw_is(&text, "d.token", "a\"b\\c"));
    CHECK_U64(gw_u64(&text, "d.large_threshold"), 250);
    CHECK_EQ(gw_kind_of(&text, "d.shard"), GW_ARRAY);
    CHECK_U64(gw_u64(&text, "d.shard.0"), 2);
    CHECK_U64(gw_u64(&text, "d.shard.1"), 8);
    CHECK(gw_is(&text, "d.presence.status", "idle"));
    CHECK_EQ(gw_kind_of(&text, "d.intents"), GW_NUMBER);        /* 0 is sent, not left out */
}

TEST(session_resume_says_seq_and_not_s)
{
    gw__mem mem;
    gw__buf out;
    static const char want[] = "{\"op\":6,\"d\":{\"token\":\"tok\",\"session_id\":\"abc\",\"seq\":18446744073709551615}}";
    gw__mem_init(&mem, NULL, NULL);
    gw__buf_init(&out, &mem, 4096);
    begin_alive();
    session.received_seq = UINT64_MAX;
    CHECK(gw__session_write_resume(&out, &session, "tok"));
    CHECK_BYTES(gw__buf_data(&out), gw__buf_len(&out), want, strlen(want));
    gw__buf_free(&out);
}

TEST(session_payload_that_does_not_fit_is_not_written)
{
    gw__mem mem;
    gw__buf out;
    size_t most;
    begin_alive();
    gw__mem_init(&mem, NULL, NULL);
    for (most = 0; most < 60; most++) {
        gw__buf_init(&out, &mem, most);
        CHECK(!gw__session_write_resume(&out, &session, "a token of some length"));
        gw__buf_free(&out);
    }
}

/* ---- presence (Discord docs, "Update Presence") ---- */
static const char *say_presence(const gw_presence *presence)
{
    gw__mem mem;
    gw__buf out;
    gw__json_writer writer;
    gw__mem_init(&mem, NULL, NULL);
    gw__buf_init(&out, &mem, sizeof said);
    gw__json_write_begin(&writer, &out);
    gw__presence_write(&writer, presence);
    snprintf(said, sizeof said, "%.*s", (int)gw__buf_len(&out), (const char *)gw__buf_data(&out));
    gw__buf_free(&out);
    CHECK(gw__json_is_valid(said, strlen(said)));
    return said;
}

TEST(presence_empty_one_has_all_four_keys)
{
    gw_presence presence;
    memset(&presence, 0, sizeof presence);
    CHECK_TEXT(say_presence(&presence), "{\"since\":null,\"activities\":[],\"status\":\"online\",\"afk\":false}");
}

TEST(presence_activities_have_only_the_keys_that_bots_may_set)
{
    gw_activity activities[2];
    gw_presence presence;
    memset(&presence, 0, sizeof presence);
    memset(activities, 0, sizeof activities);
    activities[0].name = "chess \"blitz\"";
    activities[1].name = "Custom Status";
    activities[1].type = 4;
    activities[1].state = "resting";
    activities[1].url = "https://twitch.tv/x";
    presence.activities = activities;
    presence.activity_count = 2;
    presence.since_ms = UINT64_C(1767323045678);
    presence.status = "idle";
    presence.afk = 1;
    CHECK_TEXT(say_presence(&presence),
               "{\"since\":1767323045678,\"activities\":[{\"name\":\"chess \\\"blitz\\\"\",\"type\":0},{\"name\":\"Custom Status\","
               "\"type\":4,\"url\":\"https://twitch.tv/x\",\"state\":\"resting\"}],\"status\":\"idle\",\"afk\":true}");
    CHECK(gw__presence_fault(&presence) == NULL);
}

TEST(presence_faults_are_named)
{
    gw_activity activity;
    gw_presence presence;
    memset(&presence, 0, sizeof presence);
    memset(&activity, 0, sizeof activity);
    presence.status = "sleeping";
    CHECK_HAS(gw__presence_fault(&presence), "status");
    presence.status = "dnd";
    presence.activity_count = 1;
    CHECK_HAS(gw__presence_fault(&presence), "NULL");
    presence.activities = &activity;
    CHECK_HAS(gw__presence_fault(&presence), "name");
    activity.name = "\xC3(";
    CHECK_HAS(gw__presence_fault(&presence), "UTF-8");
    activity.name = "x";
    activity.type = 6;
    CHECK_HAS(gw__presence_fault(&presence), "type");
    activity.type = 5;
    CHECK(gw__presence_fault(&presence) == NULL);
    activity.state = "\xFF";
    CHECK_HAS(gw__presence_fault(&presence), "state");
    activity.state = NULL;
    activity.url = "\xED\xA0\x80";
    CHECK_HAS(gw__presence_fault(&presence), "url");
}

CHECK_MAIN()
