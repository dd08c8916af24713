/* Every opcode that a server can send, and every way in which it can end a connection, in every
 * state that can meet it: what the caller is told, what the gateway sees, what comes next and
 * where, and what becomes of the session. */
#define DISCORD_GATEWAY_IMPLEMENTATION
#include "discord_gateway.h"
#include "world.h"

#define LENGTH(array) (sizeof(array) / sizeof *(array))
static world w;

/* ---- the states, and the way into each ---- */
enum { HELLO, HELLO_AGAIN, IDENTIFYING, RESUMING, LIVE, CLOSING, STATES };
static const struct { const char *name, *words; int has_session; } states[STATES] = {
    { "HELLO", "HELLO, without a session", 0 }, { "HELLO", "HELLO, with a session", 1 },
    { "IDENTIFYING", "IDENTIFYING", 0 }, { "RESUMING", "RESUMING", 1 }, { "LIVE", "LIVE", 1 },
    { "CLOSING", "CLOSING", 1 }
};

static uint32_t is_second_connection(int state)
{
    return state == HELLO_AGAIN || state == RESUMING;
}

#define CACHED_URL "ws://127.0.0.1/?v=10&encoding=json"
#define RESUME_URL "ws://127.0.0.1:8080/resume?v=10&encoding=json"

/* The state by its name, from the log: "LIVE -> WAITING: why". */
static const char *state_now(void)
{
    static char name[32];
    const char *at = w.log ? w.log : "", *last = NULL;
    size_t len;
    for (; (at = strstr(at, " -> ")) != NULL; at += 4) last = at + 4;
    len = last ? strcspn(last, ":\n") : 0;
    if (len > sizeof name - 1) len = sizeof name - 1;
    if (len) memcpy(name, last, len);
    name[len] = 0;
    return name;
}

/* CLOSING is reached in say(), because nothing can be sent to a client whose Close has arrived. */
static void reach(int state)
{
    world_init(&w);
    w.keep_log = 1;
    w.cfg.log_level = GW_LOG_DEBUG;
    world_begin(&w, state == HELLO ? "next 1 no_hello"
                    : state == IDENTIFYING ? "next 1 no_ready" : NULL);
    if (state == HELLO) WORLD_EXPECT(&w, GW_OPENED, 1000);
    if (state == IDENTIFYING) WORLD_EXPECT(&w, GW_IDENTIFYING, 1000);
    if (states[state].has_session) {
        WORLD_EXPECT(&w, GW_READY, 1000);
        world_advance(&w, 10000);                   /* another Identify may go at once */
    }
    if (is_second_connection(state)) {
        world_script(&w, state == RESUMING ? "next 1 no_ready" : "next 1 no_hello");
        world_do(&w, "cut");
        WORLD_EXPECT(&w, GW_OPENED, 1000);
    }
    world_settle(&w);
    CHECK_TEXT(state_now(), state == CLOSING ? "LIVE" : states[state].name);
}

/* Before a Resume the gateway would refuse what it has not sent, so there it is a repetition. */
static uint32_t next_seq(int state) { return state == HELLO_AGAIN ? 3 : 4; }

static void say(int state, const char *command)
{
    char text[160], *at;
    snprintf(text, sizeof text, "%s", command);
    at = strchr(text, '@');
    if (at) *at = (char)('0' + next_seq(state));
    world_do(&w, text);
    if (state == CLOSING) {
        CHECK_EQ(gw_stop(w.gw, GW_KEEP), GW_OK);    /* what was sent before is still to be read */
        CHECK_TEXT(state_now(), "CLOSING");
    }
    world_settle(&w);
}

/* ---- what may follow ---- */

/* The connection stands as before; it comes to life, or is alive, and stays so. */
static void check_goes_on(int state, uint64_t opens, size_t ends)
{
    if (!strcmp(state_now(), "HELLO")) world_do(&w, "hello");
    if (!strcmp(state_now(), "HELLO") || state == IDENTIFYING || state == RESUMING) {
        world_settle(&w);
        world_do(&w, "answer");
    }
    world_settle(&w);
    CHECK_TEXT(state_now(), "LIVE");
    world_do(&w, "event MESSAGE_CREATE {}");
    WORLD_EXPECT(&w, GW_MESSAGE_CREATE, 100);
    world_advance(&w, 120000);
    CHECK_EQ(gw_shard_live(w.gw, 0), 1);
    CHECK_U64(w.opens, opens);
    CHECK_U64(world_count_events(&w, GW_DISCONNECTED), ends);
    CHECK_U64(world_count_events(&w, GW_SESSION_LOST), 0);
    CHECK_U64(world_count(&w, WORLD_EV("identify"), NULL), 1);
    CHECK_U64(world_count(&w, WORLD_EV("resume"), NULL), is_second_connection(state));
    CHECK_U64(world_count_events(&w, GW_RESUMED), is_second_connection(state));
}

/* A sentence: printable, no piece of a format, no name of the implementation, not cut. */
static void check_is_for_a_person(const char *text)
{
    size_t len = strlen(text), i;
    CHECK(len >= 20);
    CHECK(strchr(text, ' ') != NULL);
    CHECK(strstr(text, "(null)") == NULL && strchr(text, '%') == NULL);
    CHECK(strstr(text, "gw__") == NULL && strstr(text, "GW__") == NULL);
    CHECK(strstr(text, "  ") == NULL);
    CHECK(len && strchr(" :,;(", text[len - 1]) == NULL);
    for (i = 0; i < len; i++)
        if (!CHECK((uint8_t)text[i] >= 0x20 && (uint8_t)text[i] != 0x7F)) break;
}

typedef struct wanted_end {
    uint32_t reason, will, from_ms, to_ms;
    int32_t code;
    int lost;                           /* a session that was there */
    const char *url;
} wanted_end;

static void check_saw_new_session(int state, const wanted_end *wanted)
{
    uint32_t had_one = states[state].has_session ? 1u : 0u;
    if (wanted->lost) WORLD_EXPECT(&w, GW_SESSION_LOST, 0);
    CHECK_EQ(WORLD_EXPECT(&w, GW_READY, wanted->to_ms + 100u)->session, had_one + 1);
    CHECK_U64(world_count(&w, WORLD_EV("identify"), NULL), state == HELLO ? 1u : 2u);
    CHECK_U64(world_count(&w, WORLD_EV("resume"), NULL), state == RESUMING);
    CHECK_U64(world_count_events(&w, GW_SESSION_LOST), wanted->lost);
}

static void check_saw_resume(int state, const wanted_end *wanted)
{
    WORLD_EXPECT(&w, GW_RESUMED, wanted->to_ms + 100u);
    CHECK_U64(world_count(&w, WORLD_EV("identify"), NULL), 1);
    CHECK_U64(world_count(&w, WORLD_EV("resume"), NULL), state == RESUMING ? 2u : 1u);
    CHECK_U64(world_count_events(&w, GW_SESSION_LOST), 0);
    CHECK_EQ(world_last(&w, GW_RESUMED)->session, 1);
    world_check_delivery(&w, 1);
}

/* DISCONNECTED says why and what is next, and that is what happens, when it was said. */
static void check_ends(int state, const wanted_end *wanted)
{
    world_event end = *WORLD_EXPECT(&w, GW_DISCONNECTED, 0), next;
    CHECK_EQ(end.reason, wanted->reason);
    CHECK_EQ(end.close_code, wanted->code);
    CHECK_EQ(end.will, wanted->will);
    CHECK(end.in_ms >= wanted->from_ms && end.in_ms <= wanted->to_ms);
    check_is_for_a_person(end.message);
    if (wanted->lost) CHECK_U64(world_count_events(&w, GW_SESSION_LOST), 1);    /* told at once */
    next = *world_last(&w, GW_CONNECTING);
    if (next.at_ms < end.at_ms || end.in_ms) {
        world_advance(&w, end.in_ms + 1u);
        next = *world_last(&w, GW_CONNECTING);
    }
    CHECK(next.at_ms >= end.at_ms + end.in_ms && next.at_ms <= end.at_ms + end.in_ms + 1);
    CHECK_TEXT(next.message, wanted->url);
    if (wanted->will == GW_NEXT_RESUME) {
        w.violations_expected = !strcmp(next.message, CACHED_URL);      /* resume_on_wrong_url */
        check_saw_resume(state, wanted);
    } else {
        check_saw_new_session(state, wanted);
    }
    world_advance(&w, 120000);
    CHECK_EQ(gw_shard_live(w.gw, 0), 1);
    CHECK_U64(world_count_events(&w, GW_DISCONNECTED), 1u + is_second_connection(state));
}

/* After our own Close nothing counts; the next process finds the session as the gateway left it. */
static void check_stopped(int session_is_dead)
{
    static char text[GW_SESSION_MAX];
    uint64_t opens = w.opens;
    CHECK_EQ(WORLD_EXPECT(&w, GW_DISCONNECTED, 5000)->reason, GW_REASON_BY_CALLER);
    CHECK_EQ(world_last(&w, GW_DISCONNECTED)->will, GW_NEXT_NOTHING);
    WORLD_EXPECT(&w, GW_CLOSED, 5000);
    world_advance(&w, 120000);
    CHECK_U64(w.opens, opens);
    CHECK_EQ(gw_alive(w.gw), 0);
    CHECK_U64(world_count_events(&w, GW_TYPING_START), 0);
    CHECK_U64(world_count_events(&w, GW_SESSION_LOST) + world_count_events(&w, GW_FATAL), 0);
    CHECK_U64(world_count_events(&w, GW_DISCONNECTED), 1);
    CHECK_U64(world_count(&w, WORLD_EV("close_received"), "\"code\":4000"), 1);
    w.cfg.session = text;
    w.cfg.session_len = gw_session_save(w.gw, GW_ALL, text, sizeof text);
    world_close_client(&w);
    world_open_client(&w);
    WORLD_EXPECT(&w, session_is_dead ? GW_READY : GW_RESUMED, 10000);
}

static void check_never_spun(void)
{
    CHECK(w.polls < 2000);
    CHECK(w.opens <= 3);
}

/* ---- opcodes: protocol digest, "Opcodes" and "What each signal means" ---- */
enum { QUIET, HANDS_OUT, BEATS, GREETS, ENDS };
typedef struct op_case {
    const char *words, *command;        /* "@": a sequence number that comes next */
    int follows;
    uint32_t reason;
    int session_is_dead;                /* as the gateway says */
} op_case;

#define HELLO_BODY "{\"op\":10,\"d\":{\"heartbeat_interval\":41250},\"s\":null,\"t\":null}"
static const op_case op_cases[] = {
    { "0", "raw {\"t\":\"TYPING_START\",\"s\":@,\"op\":0,\"d\":{\"n\":1}}", HANDS_OUT, 0, 0 },
    { "0 unknown", "raw {\"t\":\"TYPING_STARTS\",\"s\":@,\"op\":0,\"d\":{\"n\":1}}", HANDS_OUT, 0,
        0 },
    { "1", "op1", BEATS, 0, 0 },
    { "1 with a number", "raw {\"op\":1,\"d\":251}", BEATS, 0, 0 },
    { "1 without d", "raw {\"op\":1}", BEATS, 0, 0 },
    { "7", "op7", ENDS, GW_REASON_ASKED, 0 },
    { "7 without d", "raw {\"op\":7}", ENDS, GW_REASON_ASKED, 0 },
    { "9 true", "op9 true", ENDS, GW_REASON_INVALID_SESSION, 0 },
    { "9 false", "op9 false", ENDS, GW_REASON_INVALID_SESSION, 1 },
    { "10", "raw " HELLO_BODY, GREETS, 0, 0 },
    { "11", "ack", QUIET, 0, 0 },
    { "11 without d", "raw {\"t\":null,\"op\":11}", QUIET, 0, 0 },
    { "11 alone", "raw {\"op\":11}", QUIET, 0, 0 },
    /* those of clients, those of nobody, and what Discord may add tomorrow */
    { "2", "raw {\"op\":2,\"d\":{\"token\":\"x\"}}", QUIET, 0, 0 },
    { "3", "raw {\"op\":3,\"d\":{}}", QUIET, 0, 0 },
    { "4", "raw {\"op\":4,\"d\":{}}", QUIET, 0, 0 },
    { "5", "raw {\"op\":5,\"d\":null}", QUIET, 0, 0 },
    { "6", "raw {\"op\":6,\"d\":{\"seq\":1}}", QUIET, 0, 0 },
    { "8", "raw {\"op\":8,\"d\":{}}", QUIET, 0, 0 },
    { "12", "raw {\"op\":12,\"d\":{\"op\":7}}", QUIET, 0, 0 },
    { "31", "raw {\"op\":31,\"d\":{\"op\":9,\"d\":false}}", QUIET, 0, 0 },
    { "43", "raw {\"op\":43,\"d\":[]}", QUIET, 0, 0 },
    { "255", "raw {\"op\":255,\"d\":\"text\"}", QUIET, 0, 0 },
    { "256 + 7", "raw {\"op\":263,\"d\":null}", QUIET, 0, 0 },
    { "2^32 + 9", "raw {\"op\":4294967305,\"d\":false}", QUIET, 0, 0 },
    { "2^40", "raw {\"op\":1099511627776,\"d\":1.5e300,\"s\":null,\"t\":null}", QUIET, 0, 0 },
    { "2^64 - 1", "raw {\"op\":18446744073709551615}", QUIET, 0, 0 },
    { "absent", "no_op", ENDS, GW_REASON_PROTOCOL, 0 }
};

static void check_op_ends(int state, const op_case *row)
{
    wanted_end wanted;
    memset(&wanted, 0, sizeof wanted);
    wanted.reason = row->reason;
    wanted.lost = row->session_is_dead && states[state].has_session;
    wanted.will = states[state].has_session && !row->session_is_dead ? GW_NEXT_RESUME
                                                                      : GW_NEXT_IDENTIFY;
    wanted.to_ms = state == LIVE ? 0 : 1000;        /* the first attempt, then with backoff */
    if (row->session_is_dead) { wanted.from_ms = 1000; wanted.to_ms = 5000; }
    if (state == IDENTIFYING) { wanted.from_ms = 5000; wanted.to_ms = 6000; }   /* the bucket */
    wanted.url = wanted.will == GW_NEXT_RESUME ? RESUME_URL : CACHED_URL;
    if (state == HELLO_AGAIN && row->reason == GW_REASON_PROTOCOL) wanted.url = CACHED_URL;
    CHECK_U64(world_count(&w, WORLD_EV("close_received"), "\"code\":4000,\"answer\":false"), 1);
    check_ends(state, &wanted);
}

static void check_op_beats(int state, size_t beats)
{
    char line[300];
    CHECK_U64(world_count(&w, WORLD_EV("heartbeat"), NULL), beats + 1);
    CHECK(world_line(&w, WORLD_EV("heartbeat"), NULL, beats, line, sizeof line));
    CHECK_HAS(line, states[state].has_session ? "\"d\":3," : "\"d\":null,");
    CHECK_U64(world_time(&w, WORLD_EV("heartbeat"), beats), world_sim_ms(&w));
}

static void check_op_hands_out(int state, const op_case *row)
{
    int known = !strcmp(row->words, "0");
    const world_event *event;
    if (state == HELLO || state == HELLO_AGAIN) {   /* no gateway does; a Resume brings what it was */
        CHECK_U64(world_count_events(&w, known ? GW_TYPING_START : GW_UNKNOWN_DISPATCH), 0);
        return;
    }
    event = WORLD_EXPECT(&w, known ? GW_TYPING_START : GW_UNKNOWN_DISPATCH, 0);
    CHECK_U64(event->seq, next_seq(state));
    CHECK_TEXT(event->d, "{\"n\":1}");
    CHECK_TEXT(event->name, known ? "TYPING_START" : "TYPING_STARTS");
    CHECK_EQ(event->session, states[state].has_session);
    w.any_violations = 1;                           /* the gateway knows nothing of this event */
}

static void check_op_greets(int state, size_t beats)
{
    CHECK_TEXT(state_now(), state == HELLO || state == HELLO_AGAIN ? "LIVE" : states[state].name);
    CHECK_U64(world_count(&w, WORLD_EV("heartbeat"), NULL), beats);
}

static void run_op(int state, const op_case *row)
{
    int failures = check_failures;
    size_t beats, ends;
    uint64_t opens;
    reach(state);
    beats = world_count(&w, WORLD_EV("heartbeat"), NULL);
    ends = world_count_events(&w, GW_DISCONNECTED);
    opens = w.opens;
    say(state, row->command);
    if (state == CLOSING) check_stopped(row->session_is_dead);
    else if (row->follows == ENDS) check_op_ends(state, row);
    else {
        if (row->follows == BEATS) check_op_beats(state, beats);
        if (row->follows == HANDS_OUT) check_op_hands_out(state, row);
        if (row->follows == GREETS) check_op_greets(state, beats);
        else CHECK_TEXT(state_now(), states[state].name);
        check_goes_on(state, opens, ends);
    }
    check_never_spun();
    if (check_failures != failures) {
        fprintf(stderr, "    op %s in %s\n", row->words, states[state].words);
        world_print_events(&w);
    }
    world_end(&w);
}

static void run_ops(int state)
{
    size_t i;
    for (i = 0; i < LENGTH(op_cases); i++) run_op(state, &op_cases[i]);
}

TEST(opcodes_before_hello_without_a_session) { run_ops(HELLO); }
TEST(opcodes_before_hello_with_a_session) { run_ops(HELLO_AGAIN); }
TEST(opcodes_while_identify_is_unanswered) { run_ops(IDENTIFYING); }
TEST(opcodes_while_resume_is_unanswered) { run_ops(RESUMING); }
TEST(opcodes_of_a_live_session) { run_ops(LIVE); }
TEST(opcodes_after_our_own_close_change_nothing) { run_ops(CLOSING); }

/* Op 7 leads to the resume host again; one that says nothing else must not hold us for ever. */
TEST(opcodes_7_and_9_true_before_hello_lead_to_the_other_host_after_the_second)
{
    static const char *const commands[] = { "op7", "op9 true" };
    size_t i;
    for (i = 0; i < 2; i++) {
        reach(HELLO_AGAIN);
        w.violations_expected = 1;                  /* resume_on_wrong_url */
        world_script(&w, "next 2 no_hello");
        world_do(&w, commands[i]);
        CHECK_TEXT(WORLD_EXPECT(&w, GW_CONNECTING, 2000)->message, RESUME_URL);
        WORLD_EXPECT(&w, GW_OPENED, 100);
        world_do(&w, commands[i]);
        CHECK_TEXT(WORLD_EXPECT(&w, GW_CONNECTING, 3000)->message, RESUME_URL);
        WORLD_EXPECT(&w, GW_OPENED, 100);
        world_do(&w, commands[i]);
        CHECK_TEXT(WORLD_EXPECT(&w, GW_CONNECTING, 5000)->message, CACHED_URL);
        CHECK_EQ(WORLD_EXPECT(&w, GW_RESUMED, 100)->session, 1);
        CHECK_U64(world_count(&w, WORLD_EV("identify"), NULL), 1);
        world_end(&w);
    }
}

/* A server that sends the same again and again, each time a connection comes so far. */
TEST(opcodes_that_come_at_every_connection_make_no_hot_loop)
{
    static const char *const scripts[] = {
        "on open op7", "on open op9 true", "on open op9 false", "on open no_op", "on identify op7",
        "on identify op9 true", "on identify op9 false", "on identify no_op",
        "on ready op7\non resumed op7", "on ready op9 true\non resumed op9 true",
        "on ready op9 false", "on ready no_op\non resumed no_op", "on ready cut\non resume op7",
        "on ready cut\non resume op9 true", "on ready cut\non resume op9 false",
        "on ready cut\non resume no_op"
    };
    size_t i;
    for (i = 0; i < LENGTH(scripts); i++) {
        int failures = check_failures;
        world_init(&w);
        w.any_violations = 1;
        world_begin(&w, scripts[i]);
        world_advance(&w, 600000);
        CHECK(w.opens >= 8);                        /* it never gives up ... */
        CHECK(w.opens <= 150);
        CHECK(sim_get_stats(w.gateway)->identifies <= 110);     /* ... nor storms the gateway */
        CHECK_U64(world_count_events(&w, GW_FATAL), 0);
        CHECK_U64(world_count(&w, "identify_too_fast", NULL), 0);
        if (check_failures != failures)
            fprintf(stderr, "    %s: %u opens, %u identifies\n", scripts[i], (unsigned)w.opens,
                    (unsigned)sim_get_stats(w.gateway)->identifies);
        world_end(&w);
    }
}

TEST(opcodes_second_hello_makes_no_second_timer)
{
    size_t beats;
    reach(LIVE);
    world_do(&w, "raw {\"op\":10,\"d\":{\"heartbeat_interval\":1000}}");
    world_settle(&w);
    beats = world_count(&w, WORLD_EV("heartbeat"), NULL);
    world_advance(&w, 412500);
    beats = world_count(&w, WORLD_EV("heartbeat"), NULL) - beats;
    CHECK(beats >= 9 && beats <= 11);
    CHECK_U64(world_count(&w, WORLD_EV("identify"), NULL), 1);
    world_end(&w);
}

TEST(opcodes_that_are_no_numbers_end_or_pass_and_the_client_lives)
{
    static const char *const ops[] = { "null", "\"7\"", "-1", "1.5", "7e0", "true", "{}", "[7]",
        "18446744073709551616", "-9223372036854775808", "007", "" };
    size_t i;
    for (i = 0; i < LENGTH(ops); i++) {
        int failures = check_failures;
        char command[80];
        reach(LIVE);
        snprintf(command, sizeof command, "raw {\"op\":%s,\"d\":null}", ops[i]);
        world_do(&w, command);
        world_advance(&w, 100);
        CHECK(world_last(&w, GW_DISCONNECTED)->reason == GW_REASON_NONE ||
              world_last(&w, GW_DISCONNECTED)->reason == GW_REASON_PROTOCOL);
        world_advance(&w, 2000);
        CHECK_EQ(gw_shard_live(w.gw, 0), 1);
        CHECK_U64(world_count(&w, WORLD_EV("identify"), NULL), 1);
        if (check_failures != failures) fprintf(stderr, "    op %s\n", ops[i]);
        world_end(&w);
    }
}

/* ---- ends: protocol digest, "Close codes" ---- */
enum { RESUME, IDENTIFY, FATAL };
enum { WITHOUT_CODE = 0, FIN = -1, RST = -2 };
typedef struct close_case { int code, next; const char *words; } close_case;

static const close_case close_cases[] = {
    { FIN, RESUME, "" }, { RST, RESUME, "" }, { WITHOUT_CODE, RESUME, "without a code" },
    { 1000, RESUME, "closed" }, { 1001, RESUME, "went away" }, { 1002, RESUME, "proxy" },
    { 1003, RESUME, "proxy" }, { 1007, RESUME, "proxy" }, { 1008, RESUME, "proxy" },
    { 1009, RESUME, "proxy" }, { 1010, RESUME, "proxy" }, { 1011, RESUME, "proxy" },
    { 1012, RESUME, "proxy" }, { 1013, RESUME, "proxy" }, { 1014, RESUME, "proxy" },
    { 3000, RESUME, "closed" }, { 4000, RESUME, "error" }, { 4001, RESUME, "opcode" },
    { 4002, RESUME, "4,096" }, { 4003, IDENTIFY, "identifying" },
    { 4004, FATAL, "Developer Portal" }, { 4005, RESUME, "twice" },
    { 4006, IDENTIFY, "no longer valid" }, { 4007, IDENTIFY, "sequence number" },
    { 4008, RESUME, "120" }, { 4009, IDENTIFY, "timed out" },
    { 4010, FATAL, "shard" }, { 4011, FATAL, "2,500" }, { 4012, FATAL, "version" },
    { 4013, FATAL, "intents" }, { 4014, FATAL, "Developer Portal" }, { 4015, RESUME, "closed" },
    { 4444, RESUME, "closed" }, { 4998, RESUME, "closed" }, { 4999, RESUME, "closed" }
};

static void check_close_message(const close_case *row, const char *text)
{
    char digits[12];
    check_is_for_a_person(text);
    CHECK_HAS(text, row->words);
    if (row->code <= 0) return;
    snprintf(digits, sizeof digits, "%d", row->code);
    CHECK_HAS(text, digits);
    CHECK_HAS(text, "because \xC3\xBC so");         /* the server's own reason is kept */
}

static void check_close_is_fatal(const close_case *row, uint64_t opens)
{
    char text[GW_SESSION_MAX];
    const world_event *event = WORLD_EXPECT(&w, GW_DISCONNECTED, 0);
    CHECK_EQ(event->reason, GW_REASON_CLOSE_CODE);
    CHECK_EQ(event->close_code, row->code);
    CHECK_EQ(event->will, GW_NEXT_NOTHING);
    CHECK_EQ(event->in_ms, 0);
    check_close_message(row, event->message);
    event = WORLD_EXPECT(&w, GW_FATAL, 0);
    CHECK_EQ(event->shard, GW_ALL);
    CHECK_EQ(event->reason, GW_REASON_CLOSE_CODE);
    CHECK_EQ(event->close_code, row->code);
    CHECK_EQ(event->will, GW_NEXT_NOTHING);
    check_close_message(row, event->message);
    event = WORLD_EXPECT(&w, GW_CLOSED, 6000);
    CHECK_EQ(event - w.events, (int)w.event_count - 1);
    CHECK_EQ(gw_alive(w.gw), 0);
    world_advance(&w, 600000);
    CHECK_U64(w.opens, opens);
    CHECK(gw_poll(w.gw) == NULL);
    CHECK_EQ(gw_timeout_ms(w.gw), -1);
    gw_session_save(w.gw, GW_ALL, text, sizeof text);
    CHECK(strstr(text, "\n0 0 ") == NULL);          /* nothing that could be resumed */
}

static void check_close_goes_on(int state, const close_case *row)
{
    wanted_end wanted;
    char text[640];
    memset(&wanted, 0, sizeof wanted);
    wanted.reason = row->code < 0 ? GW_REASON_LOST : GW_REASON_CLOSE_CODE;
    wanted.code = row->code < 0 ? 0 : row->code;
    wanted.lost = row->next == IDENTIFY && states[state].has_session;
    wanted.will = row->next == RESUME && states[state].has_session ? GW_NEXT_RESUME
                                                                   : GW_NEXT_IDENTIFY;
    wanted.to_ms = state == LIVE && row->next == RESUME ? 0 : 1000;
    if (state == IDENTIFYING) { wanted.from_ms = 5000; wanted.to_ms = 6000; }
    if (row->code == 4008) { wanted.from_ms = 60000; wanted.to_ms = 61000; }
    wanted.url = wanted.will == GW_NEXT_RESUME && state != HELLO_AGAIN ? RESUME_URL : CACHED_URL;
    snprintf(text, sizeof text, "%s", world_last(&w, GW_DISCONNECTED)->message);
    check_close_message(row, text);
    check_ends(state, &wanted);
}

static void write_end(int code, char *out, size_t cap)
{
    if (code > 0) snprintf(out, cap, "close %d because \xC3\xBC so", code);
    else snprintf(out, cap, "%s", code == FIN ? "cut" : code == RST ? "reset" : "close_empty");
}

static void run_close(int state, const close_case *row)
{
    int failures = check_failures;
    char command[80], answer[60];
    uint64_t opens;
    reach(state);
    opens = w.opens;
    write_end(row->code, command, sizeof command);
    world_do(&w, command);
    world_settle(&w);
    snprintf(answer, sizeof answer, "\"code\":%d,\"answer\":true",
             row->code <= 1001 ? 4000 : row->code);
    CHECK_U64(world_count(&w, WORLD_EV("close_received"), answer), row->code >= 0);
    CHECK_U64(world_count(&w, WORLD_EV("close_received"), "\"answer\":false"), 0);
    if (row->next == FATAL) check_close_is_fatal(row, opens);
    else check_close_goes_on(state, row);
    check_never_spun();
    if (check_failures != failures) {
        fprintf(stderr, "    %s in %s\n", command, states[state].words);
        world_print_events(&w);
    }
    world_end(&w);
}

static void run_closes(int state)
{
    size_t i;
    for (i = 0; i < LENGTH(close_cases); i++) run_close(state, &close_cases[i]);
}

TEST(closes_before_hello_without_a_session) { run_closes(HELLO); }
TEST(closes_before_hello_with_a_session) { run_closes(HELLO_AGAIN); }
TEST(closes_while_identify_is_unanswered) { run_closes(IDENTIFYING); }
TEST(closes_while_resume_is_unanswered) { run_closes(RESUMING); }
TEST(closes_of_a_live_session) { run_closes(LIVE); }

TEST(closes_of_unknown_codes_at_every_resume_lead_to_identify_in_the_end)
{
    reach(LIVE);
    world_script(&w, "on resume x9 close 4444 again");
    world_do(&w, "close 4444 first");
    WORLD_EXPECT(&w, GW_SESSION_LOST, 10000);
    CHECK_U64(world_count(&w, WORLD_EV("resume"), NULL), 3);
    CHECK_EQ(WORLD_EXPECT(&w, GW_READY, 10000)->session, 2);
    world_end(&w);
}

/* What the gateway did not like once it would not like again. */
TEST(closes_4001_for_a_payload_of_the_caller_never_send_it_again)
{
    static const char body[] = "{\"guild_id\":12}";
    reach(LIVE);
    w.violations_expected = 1;
    CHECK(gw_send_raw(w.gw, 0, 4, body, sizeof body - 1) > 0);
    CHECK_EQ(WORLD_EXPECT(&w, GW_DISCONNECTED, 100)->close_code, 4001);
    WORLD_EXPECT(&w, GW_RESUMED, 1000);
    world_advance(&w, 300000);
    CHECK_U64(world_count(&w, WORLD_EV("send"), NULL), 1);
    CHECK_U64(world_count_events(&w, GW_DISCONNECTED), 1);
    world_end(&w);
}

/* Staff: a payload that crosses op 9 may get the connection closed; both are one event. */
TEST(closes_that_cross_an_op9_are_one_end_with_it)
{
    reach(LIVE);
    world_do(&w, "op9 false");
    world_do(&w, "close 4003 Not authenticated.");
    CHECK_EQ(WORLD_EXPECT(&w, GW_DISCONNECTED, 100)->reason, GW_REASON_INVALID_SESSION);
    CHECK_EQ(WORLD_EXPECT(&w, GW_READY, 6000)->session, 2);
    CHECK_U64(world_count_events(&w, GW_DISCONNECTED), 1);
    CHECK_U64(world_count_events(&w, GW_SESSION_LOST), 1);
    world_end(&w);
}

CHECK_MAIN()
