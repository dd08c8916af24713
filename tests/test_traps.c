/* The mistakes that Gateway clients are known for, one test each, with a whole client against the
 * simulator. The numbers are rows of the protocol digest, "Traps"; each row stands above its test:
 * the mistake, then the right. A line of the simulator's journal that says "violation" fails a test
 * by itself, in world_end(). */
#define GW_API_URL "http://127.0.0.1"       /* the simulator answers there as well, without TLS */
#define DISCORD_GATEWAY_IMPLEMENTATION
#include "discord_gateway.h"
#include "world.h"
#include <sys/utsname.h>

static world w;

#define INTERVAL_MS 41250u                  /* heartbeat_interval of the simulator's Hello */
#define COUNT(list) (sizeof (list) / sizeof (list)[0])

/* ---- what the client wrote, in clear: heads of HTTP requests, payloads, a newline each ---- */
static char heads[16384], said[65536];
static size_t heads_len, said_len;

static void keep(char *out, size_t *len, size_t cap, const uint8_t *bytes, size_t count,
                 const uint8_t *mask)
{
    size_t i;
    if (!CHECK(*len + count + 2 < cap)) return;
    for (i = 0; i < count; i++) out[(*len)++] = (char)(bytes[i] ^ (mask ? mask[i % 4] : 0));
    out[(*len)++] = '\n';
    out[*len] = 0;
}

/* The world takes each write whole, the client writes whole frames; none is above 65,535 bytes. */
static void keep_frames(const uint8_t *at, size_t len)
{
    while (len >= 6) {
        size_t count = at[1] & 127u, head = 6;
        if (count == 126) { count = (size_t)at[2] << 8 | at[3]; head = 8; }
        if (!CHECK(head + count <= len)) return;
        if ((at[0] & 15u) == 1) keep(said, &said_len, sizeof said, at + head, count, at + head - 4);
        at += head + count;
        len -= head + count;
    }
}

static int32_t write_and_keep(void *user, void *stream, const void *bytes, uint32_t len)
{
    const uint8_t *at = (const uint8_t *)bytes;
    if (len > 4 && memcmp(at, "GET ", 4) == 0) keep(heads, &heads_len, sizeof heads, at, len, NULL);
    else keep_frames(at, len);
    return world_on_write(user, stream, bytes, len);
}

static void keep_what_is_written(void)
{
    heads_len = said_len = 0;
    heads[0] = said[0] = 0;
    w.transport.write = write_and_keep;
}

static size_t count_text(const char *text, const char *part)
{
    size_t count = 0;
    for (; (text = strstr(text, part)) != NULL; text += strlen(part)) count++;
    return count;
}

/* ---- beginnings ---- */
static void begin(const char *script)
{
    world_init(&w);
    world_begin(&w, script);
}

static void begin_live(const char *script)
{
    begin(script);
    WORLD_EXPECT(&w, GW_READY, 1000);
    world_settle(&w);
}

/* The next world asks /gateway/bot, as a client without config.url does. */
static void init_asking(void)
{
    world_init(&w);
    w.cfg.url = NULL;
}

/* Names the case that a failure belongs to, in tests that go through a list. */
static void end_case(int failures_before, const char *name)
{
    if (check_failures != failures_before) world_print_events(&w);
    world_end(&w);
    if (check_failures != failures_before) fprintf(stderr, "    in: %s\n", name);
}

static gw_ticket send_sounds(void)
{
    static const char d[] = "{\"guild_ids\":[]}";
    return gw_send_raw(w.gw, 0, 31, d, strlen(d));
}

/* The number behind key in the nth journal line that has both texts; UINT64_MAX: there is none. */
static uint64_t number_in(const char *part, const char *also, size_t nth, const char *key)
{
    char line[1024], quoted[64];
    const char *at;
    if (!world_line(&w, part, also, nth, line, sizeof line)) return UINT64_MAX;
    snprintf(quoted, sizeof quoted, "\"%s\":", key);
    at = strstr(line, quoted);
    return at ? strtoull(at + strlen(quoted), NULL, 10) : UINT64_MAX;
}

/* ---- 1 to 9 ---- */

/* 1. Identify key `shards`: no sharding, and every process gets all guilds. Right: `shard`. */
static uint32_t foreign_guilds;

static void look_at_shard(world *x, const gw_event *event)
{
    (void)x;
    if (event->type == GW_GUILD_CREATE)
        foreign_guilds += (gw_u64(&event->d, "id") >> 22) % 2 != 1;
    if (event->type != GW_READY) return;
    CHECK_U64(gw_u64(&event->d, "shard.0"), 1);         /* it is there only if it was asked for */
    CHECK_U64(gw_u64(&event->d, "shard.1"), 2);
}

TEST(trap_01_identify_says_shard_and_gets_its_guilds_only)
{
    char line[512];
    foreign_guilds = 0;
    world_init(&w);
    w.cfg.shard_first = 1;
    w.cfg.shard_count = 1;
    w.cfg.shard_total = 2;
    w.sim.guilds = 8;
    w.sim.required_shards = 2;                  /* an Identify without it gets 4011 */
    w.on_event = look_at_shard;
    world_begin(&w, NULL);
    WORLD_EXPECT(&w, GW_READY, 1000);
    world_settle(&w);
    CHECK(world_line(&w, WORLD_EV("identify"), "\"shard\":[1,2]", 0, line, sizeof line));
    CHECK_U64(world_count_events(&w, GW_GUILD_CREATE), 4);
    CHECK_U64(foreign_guilds, 0);
    world_end(&w);
}

/* 2. ACKs are never checked, so a half-open TCP connection hangs for ever. Right: where the next
 *    beat is due and the last has no ACK, the connection is dropped at once and the session
 *    resumed. */
TEST(trap_02_unanswered_heartbeat_ends_the_connection)
{
    const world_event *end;
    world_init(&w);
    w.sim.event_rate = 2;
    world_begin(&w, "on ready x1 +10 freeze");  /* TCP stands, and nobody is there */
    WORLD_EXPECT(&w, GW_READY, 1000);
    end = WORLD_EXPECT(&w, GW_DISCONNECTED, 2 * INTERVAL_MS);
    CHECK_EQ(end->reason, GW_REASON_NO_ACK);
    CHECK_EQ(end->will, GW_NEXT_RESUME);
    WORLD_EXPECT(&w, GW_RESUMED, 100);
    world_do(&w, "rate 0");
    world_advance(&w, 600000);                  /* where ACKs come nobody is dropped */
    CHECK_U64(world_count_events(&w, GW_DISCONNECTED), 1);
    world_check_delivery(&w, 1);
    world_end(&w);
}

/* 3. Resume only after op 7 and 9: Identifies are burnt and events lost. Right: also after every
 *    resumable close code and after a drop without one. */
TEST(trap_03_every_end_that_allows_it_is_resumed)
{
    static const char *const ends[] = { "cut", "reset", "close_empty", "close 1000 x",
        "close 1001 x", "close 1011 x", "close 1012 x", "close 4000 x", "close 4001 x",
        "close 4002 x", "close 4005 x", "close 4008 x", "close 4100 x", "op7", "op9 true",
        "broken_json" };
    size_t i;
    for (i = 0; i < COUNT(ends); i++) {
        int failures = check_failures;
        world_init(&w);
        w.sim.event_rate = 5;
        world_begin(&w, NULL);
        WORLD_EXPECT(&w, GW_READY, 1000);
        world_advance(&w, 2000);
        world_do(&w, ends[i]);
        CHECK_EQ(WORLD_EXPECT(&w, GW_DISCONNECTED, 100)->will, GW_NEXT_RESUME);
        WORLD_EXPECT(&w, GW_RESUMED, strstr(ends[i], "4008") ? 62000 : 100);
        world_do(&w, "rate 0");
        world_advance(&w, 2000);
        CHECK_U64(world_count(&w, WORLD_EV("identify"), NULL), 1);
        CHECK_U64(world_count_events(&w, GW_SESSION_LOST), 0);
        world_check_delivery(&w, 1);
        end_case(failures, ends[i]);
    }
}

/* 4. A clean close of the server's (1000, 1001) ends the client for good. Right: only our own
 *    shutdown does. */
TEST(trap_04_clean_close_of_the_server_is_not_the_end)
{
    uint32_t i;
    begin_live(NULL);
    for (i = 0; i < 10; i++) {
        world_do(&w, i % 2 ? "close 1001 going away" : "close 1000 bye");
        WORLD_EXPECT(&w, GW_RESUMED, 1000);
        CHECK_EQ(gw_alive(w.gw), 1);
        world_advance(&w, 60000);
    }
    CHECK_U64(world_count_events(&w, GW_CLOSED), 0);
    CHECK_U64(world_count(&w, WORLD_EV("identify"), NULL), 1);
    CHECK_EQ(gw_stop(w.gw, GW_END), GW_OK);
    WORLD_EXPECT(&w, GW_CLOSED, 5000);
    CHECK_EQ(gw_alive(w.gw), 0);
    world_end(&w);
}

/* 5. Fatal codes are retried with backoff. Right: 4004 and 4010 to 4014 stop at once. */
static const uint32_t fatal_codes[] = { 4004, 4010, 4011, 4012, 4013, 4014 };

static void check_fatal(uint32_t code, const char *when)
{
    char script[80];
    int failures = check_failures;
    const world_event *fatal;
    snprintf(script, sizeof script, "%s close %u no", when, (unsigned)code);
    begin(script);
    fatal = WORLD_EXPECT(&w, GW_FATAL, 2000);
    CHECK_EQ(fatal->close_code, code);
    CHECK(strlen(fatal->message) > 40);         /* what to do about it */
    WORLD_EXPECT(&w, GW_CLOSED, 6000);
    world_advance(&w, 86400000);
    CHECK_U64(w.opens, 1);
    CHECK(sim_get_stats(w.gateway)->identifies <= 1);
    CHECK_EQ(gw_alive(w.gw), 0);
    end_case(failures, script);
}

TEST(trap_05_fatal_codes_stop_at_once)
{
    size_t i;
    for (i = 0; i < COUNT(fatal_codes); i++) {
        check_fatal(fatal_codes[i], "on open x1");
        check_fatal(fatal_codes[i], "on identify x1");
        check_fatal(fatal_codes[i], "on ready x1 +500");
    }
}

/* 6. Our own close before a reconnect uses 1000, the default of most WebSocket stacks, and the
 *    session is gone. Right: 4000. */
static void check_own_close(const char *script, void (*act)(void))
{
    int failures = check_failures;
    world_init(&w);
    w.sim.session_ttl_ms = 86400000;
    world_begin(&w, script);
    WORLD_EXPECT(&w, GW_READY, 1000);
    world_settle(&w);
    if (act) act();
    WORLD_EXPECT(&w, GW_RESUMED, 2 * INTERVAL_MS + 1000);
    CHECK_U64(world_count(&w, WORLD_EV("close_received"), NULL), 1);
    CHECK_U64(world_count(&w, WORLD_EV("close_received"), "\"code\":4000"), 1);
    CHECK_U64(world_count(&w, WORLD_EV("session_end"), NULL), 0);
    CHECK_U64(world_count(&w, WORLD_EV("identify"), NULL), 1);
    end_case(failures, script);
}

static void sleep_an_hour(void) { w.slept_us += UINT64_C(3600000000); w.any_violations = 1; }

TEST(trap_06_own_close_before_a_reconnect_is_4000)
{
    check_own_close("on ready x1 +1000 op7", NULL);
    check_own_close("on ready x1 +1000 op9 true", NULL);
    check_own_close("on ready x1 +1000 broken_json", NULL);
    check_own_close("on ready x1 +1000 close 1000 bye", NULL);  /* nor is it sent back as it came */
    check_own_close("on ready x1 +1000 close 1001 bye", NULL);
    check_own_close("on ready x1 no_ack", NULL);
    check_own_close("", sleep_an_hour);
    begin_live(NULL);
    world_close_client(&w);                     /* gw_close() without gw_stop() */
    CHECK_U64(world_count(&w, WORLD_EV("close_received"), "\"code\":4000"), 1);
    CHECK_U64(world_count(&w, WORLD_EV("session_end"), NULL), 0);
    world_end(&w);
}

/* 7. The cached URL is overwritten by resume_gateway_url, or that one is used without the query.
 *    Right: two variables; Identify goes to the cached one; both get ?v=10&encoding=json. */
#define AT_CACHED "\"path\":\"/?v=10&encoding=json\""
#define AT_RESUME "\"path\":\"/resume?v=10&encoding=json\""

TEST(trap_07_identify_and_resume_have_each_its_url)
{
    static const char *const losses[] = { "op9 false", "close 4009 x" };
    size_t i;
    begin_live(NULL);
    CHECK_U64(world_count(&w, WORLD_EV("http"), AT_CACHED), 1);
    for (i = 0; i < COUNT(losses); i++) {
        world_advance(&w, 10000);
        world_do(&w, "cut");
        WORLD_EXPECT(&w, GW_RESUMED, 100);
        CHECK_U64(world_count(&w, WORLD_EV("resume"), "\"host\":\"127.0.0.1:8080\""), i + 1);
        CHECK_U64(world_count(&w, WORLD_EV("http"), AT_RESUME), i + 1);
        world_do(&w, losses[i]);
        WORLD_EXPECT(&w, GW_READY, 10000);
        CHECK_U64(world_count(&w, WORLD_EV("http"), AT_CACHED), i + 2);
    }
    CHECK_U64(world_count(&w, WORLD_EV("http"), NULL), 5);
    CHECK_U64(world_count(&w, WORLD_EV("identify"), NULL), 3);
    world_end(&w);
}

/* 8. The first frame is blindly taken as Hello. Right: op 7 or a close may come first, so the op
 *    decides. */
static void check_before_hello(const char *script, uint32_t reason, size_t connections)
{
    int failures = check_failures;
    begin(script);
    if (reason) CHECK_EQ(WORLD_EXPECT(&w, GW_DISCONNECTED, 100)->reason, reason);
    WORLD_EXPECT(&w, GW_READY, 12000);
    CHECK_U64(world_count(&w, WORLD_EV("identify"), NULL), 1);
    CHECK_U64(w.opens, connections);
    end_case(failures, script);
}

TEST(trap_08_op7_or_a_close_may_come_before_hello)
{
    check_before_hello("on open x1 op7\nnext 1 no_hello", GW_REASON_ASKED, 2);
    check_before_hello("on open x1 op7", GW_REASON_ASKED, 2);  /* Hello follows it: too late */
    check_before_hello("on open x1 op9 false", GW_REASON_INVALID_SESSION, 2);
    check_before_hello("on open x1 close 4000 x", GW_REASON_CLOSE_CODE, 2);
    check_before_hello("on open x1 close 1001 x", GW_REASON_CLOSE_CODE, 2);
    check_before_hello("on open x1 close_empty", GW_REASON_CLOSE_CODE, 2);
    check_before_hello("on open x1 op1", 0, 1);
    check_before_hello("on open x1 ack", 0, 1);
    check_before_hello("on open x1 unknown_op", 0, 1);
    begin_live(NULL);
    world_script(&w, "on open x1 op7\nnext 1 no_hello");  /* in the way of a Resume */
    world_do(&w, "cut");
    WORLD_EXPECT(&w, GW_RESUMED, 5000);
    CHECK_U64(world_count(&w, WORLD_EV("identify"), NULL), 1);
    world_end(&w);
}

/* 9. The heartbeat timer survives a reconnect, so that there are two, or op 1 of the server is
 *    ignored. Right: one timer a connection with a new jitter; op 1 is answered at once. */
TEST(trap_09_one_timer_a_connection_and_op1_is_answered)
{
    uint64_t first_ms[6], asked_ms, last_ms;
    char conn[24];
    size_t i, j, beats;
    begin_live("on ready x1 +60000 op7\non resumed x5 +60000 op7");
    world_advance(&w, 6 * 60000 + 5000);
    CHECK_U64(w.opens, 7);
    for (i = 0; i < COUNT(first_ms); i++) {
        snprintf(conn, sizeof conn, "\"conn\":%u,", (unsigned)i + 1);
        first_ms[i] = number_in(WORLD_EV("heartbeat"), conn, 0, "since_ms");
        CHECK(first_ms[i] <= INTERVAL_MS);
        for (j = 0; j < i; j++) CHECK(first_ms[j] != first_ms[i]);
    }
    world_advance(&w, 10 * INTERVAL_MS);
    beats = world_count(&w, WORLD_EV("heartbeat"), "\"conn\":7,");
    CHECK(beats >= 10 && beats <= 11);
    for (i = 1; i < beats; i++)
        CHECK_U64(number_in(WORLD_EV("heartbeat"), "\"conn\":7,", i, "since_ms"), INTERVAL_MS);
    last_ms = number_in(WORLD_EV("heartbeat"), "\"conn\":7,", beats - 1, "ts_ms");
    while (world_sim_ms(&w) < last_ms + 20000) world_advance(&w, 1000);
    asked_ms = world_sim_ms(&w);
    world_do(&w, "op1");
    world_settle(&w);
    CHECK_U64(number_in(WORLD_EV("heartbeat"), "\"asked\":true", 0, "ts_ms"), asked_ms);
    world_advance(&w, INTERVAL_MS);             /* and the regular one keeps its time */
    CHECK_U64(number_in(WORLD_EV("heartbeat"), "\"conn\":7,", beats + 1, "ts_ms"),
              last_ms + INTERVAL_MS);
    CHECK_U64(world_count(&w, WORLD_EV("heartbeat"), "\"conn\":7,"), beats + 2);
    world_end(&w);
}

/* ---- 10 to 18 ---- */

/* 10. `d:0` or no `d` in a heartbeat before the first event; `s` is overwritten by the null of op
 *     10 or 11. Right: `d:null`; only an `s` that is not null counts. */
TEST(trap_10_beat_is_null_first_and_a_null_s_changes_nothing)
{
    static const char *const nulls[] = { "ack", "op1", "hello", "raw {\"op\":11}",
        "raw {\"t\":null,\"s\":null,\"op\":11,\"d\":null}",
        "raw {\"s\":null,\"op\":99,\"d\":{\"s\":1}}",
        "raw {\"op\":0,\"t\":\"TYPING_START\",\"s\":null,\"d\":{}}",
        "raw {\"op\":0,\"t\":\"TYPING_START\",\"d\":{}}" };
    size_t i, beats;
    world_init(&w);
    keep_what_is_written();
    world_begin(&w, "on accept x1 late_ready 100000");
    WORLD_EXPECT(&w, GW_READY, 101000);
    beats = world_count(&w, WORLD_EV("heartbeat"), NULL);
    CHECK(beats >= 2);
    CHECK_U64(world_count(&w, WORLD_EV("heartbeat"), "\"d\":null"), beats);
    CHECK_U64(count_text(said, "{\"op\":1,\"d\":null}\n"), beats);
    world_settle(&w);                           /* READY and two guilds: s is 3 */
    for (i = 0; i < COUNT(nulls); i++) {
        world_do(&w, nulls[i]);
        world_do(&w, "op1");
        world_settle(&w);
    }
    CHECK_U64(world_count(&w, WORLD_EV("heartbeat"), NULL) - beats, COUNT(nulls) + 1);
    CHECK_U64(world_count(&w, WORLD_EV("heartbeat"), "\"d\":3,"), COUNT(nulls) + 1);
    world_do(&w, "cut");
    WORLD_EXPECT(&w, GW_RESUMED, 100);
    CHECK_U64(world_number(&w, WORLD_EV("resume"), 0, "seq"), 3);
    world_end(&w);
}

/* 11. `seq` and `session_id` are kept after op 9 false, 4003, 4007, 4009. Right: all three
 *     session values are cleared. */
static void take_session_id(char *out, size_t cap)
{
    const char *at = strstr(world_last(&w, GW_READY)->d, "\"session_id\":\"");
    snprintf(out, cap, "%.31s", at ? at + strlen("\"session_id\":\"\\u0030") : "(no session_id)");
}

TEST(trap_11_dead_session_leaves_nothing_behind)
{
    static const char *const deaths[] = { "op9 false", "close 4003 x", "close 4006 x",
        "close 4007 x", "close 4009 x" };
    char id[32], text[2048], line[512];
    size_t i;
    for (i = 0; i < COUNT(deaths); i++) {
        int failures = check_failures;
        begin_live(NULL);
        world_advance(&w, 20000);
        take_session_id(id, sizeof id);
        gw_session_save(w.gw, GW_ALL, text, sizeof text);
        CHECK_HAS(text, id);
        world_script(&w, "next 1 late_ready 50000");
        world_do(&w, deaths[i]);
        CHECK_EQ(WORLD_EXPECT(&w, GW_DISCONNECTED, 100)->will, GW_NEXT_IDENTIFY);
        WORLD_EXPECT(&w, GW_SESSION_LOST, 100);
        gw_session_save(w.gw, GW_ALL, text, sizeof text);
        CHECK(strstr(text, id) == NULL);
        CHECK_EQ(WORLD_EXPECT(&w, GW_READY, 60000)->session, 2);
        CHECK_U64(world_last(&w, GW_READY)->seq, 1);
        CHECK_U64(world_count(&w, WORLD_EV("resume"), NULL), 0);
        CHECK(world_line(&w, WORLD_EV("http"), AT_CACHED, 1, line, sizeof line));
        CHECK(world_line(&w, WORLD_EV("heartbeat"), "\"conn\":2,\"d\":null", 0, line, sizeof line));
        world_settle(&w);
        world_do(&w, "cut");                    /* from here on the new one counts */
        WORLD_EXPECT(&w, GW_RESUMED, 1000);
        CHECK(world_line(&w, WORLD_EV("resume"), "\"session\":2,\"seq\":3", 0, line, sizeof line));
        end_case(failures, deaths[i]);
    }
}

/* 12. The backoff is reset on connect; Identify again right after op 9. Right: reset on READY and
 *     RESUMED only; wait 1 to 5 s and honour the bucket of 5 s. */
static uint64_t identify_after_op9(uint64_t seed, const char *script, uint32_t live_for_ms)
{
    uint64_t op9_ms, ready_ms;
    world_init(&w);
    w.random = seed;
    world_begin(&w, script);
    if (!script) {
        WORLD_EXPECT(&w, GW_READY, 1000);
        world_advance(&w, live_for_ms);
        world_do(&w, "op9 false");
    }
    CHECK_EQ(WORLD_EXPECT(&w, GW_DISCONNECTED, 100)->reason, GW_REASON_INVALID_SESSION);
    op9_ms = world_last(&w, GW_DISCONNECTED)->at_ms;
    ready_ms = WORLD_EXPECT(&w, GW_READY, 15000)->at_ms;
    CHECK_U64(world_count(&w, WORLD_EV("identify"), NULL), 2);
    world_end(&w);                              /* the bucket: identify_too_fast */
    return ready_ms - op9_ms;
}

TEST(trap_12_backoff_ends_with_ready_and_identify_waits_after_op9)
{
    uint64_t opens, seed, wait_ms, least = UINT64_MAX, most = 0;
    begin("on hello cut");                      /* TCP, upgrade, Hello: all is well, and no */
    world_advance(&w, 1200000);
    opens = w.opens;
    world_advance(&w, 600000);
    CHECK(w.opens - opens >= 5);
    CHECK(w.opens - opens <= 45);               /* 30 s on the average by now */
    world_end(&w);
    begin("on hello x6 cut");
    WORLD_EXPECT(&w, GW_READY, 200000);
    CHECK(w.opens == 7);
    world_settle(&w);
    world_do(&w, "cut");
    CHECK_EQ(WORLD_EXPECT(&w, GW_DISCONNECTED, 100)->in_ms, 0);
    WORLD_EXPECT(&w, GW_RESUMED, 100);
    world_end(&w);
    for (seed = 1; seed <= 10; seed++) {
        wait_ms = identify_after_op9(seed, NULL, 20000);
        CHECK(wait_ms >= 1000 && wait_ms <= 5000);
        if (wait_ms < least) least = wait_ms;
        if (wait_ms > most) most = wait_ms;
        CHECK(identify_after_op9(seed, NULL, 100) >= 4900); /* the bucket is not free any sooner */
        CHECK(identify_after_op9(seed, "next 1 no_ready\non identify x1 +10 op9 false", 0) >= 5000);
    }
    CHECK(most - least > 1000);                 /* so that not all come at once */
}

/* 13. All shards Identify at once; `remaining` is never read. Right: pace them; at 0 wait or
 *     refuse, as a crash loop resets the token. */
static void check_paced_shards(void)
{
    uint64_t last_ms[2] = { 0, 0 };
    char line[512];
    size_t i;
    init_asking();
    w.cfg.shard_count = w.cfg.shard_total = 6;
    w.sim.max_concurrency = 2;
    world_begin(&w, NULL);
    world_advance(&w, 13000);
    CHECK_U64(world_count_events(&w, GW_READY), 6);     /* and no slower than that */
    for (i = 0; world_line(&w, WORLD_EV("identify"), NULL, i, line, sizeof line); i++) {
        const char *shard = strstr(line, "\"shard\":[");
        uint64_t at_ms = world_time(&w, WORLD_EV("identify"), i);
        uint32_t bucket;
        if (!CHECK(shard != NULL)) break;
        bucket = (uint32_t)(shard[strlen("\"shard\":[")] - '0') % 2;
        CHECK(at_ms >= last_ms[bucket] + 5000);
        last_ms[bucket] = at_ms;
    }
    CHECK_U64(i, 6);
    world_end(&w);
}

static void check_little_remaining(void)
{
    init_asking();
    w.cfg.shard_count = w.cfg.shard_total = 3;
    w.sim.remaining = 2;
    w.sim.reset_after_ms = 3600000;
    world_begin(&w, NULL);
    world_advance(&w, 3590000);
    CHECK_U64(sim_get_stats(w.gateway)->identifies, 2);
    CHECK_EQ(world_last(&w, GW_IDENTIFY_HELD)->reason, GW_REASON_BUDGET);
    world_advance(&w, 30000);
    CHECK_U64(world_count_events(&w, GW_READY), 3);
    CHECK_U64(world_count_events(&w, GW_DISCONNECTED), 0);
    world_end(&w);
}

static void check_crash_loop(void)
{
    uint32_t i;
    init_asking();
    w.sim.total = w.sim.remaining = 20;
    world_begin(&w, NULL);
    for (i = 0; i < 40; i++) {                  /* each starts, crashes, and remembers nothing */
        world_advance(&w, 6000);
        world_close_client(&w);
        world_open_client(&w);
    }
    CHECK_U64(sim_get_stats(w.gateway)->identifies, 20);
    CHECK_U64(world_count(&w, WORLD_EV("token_reset"), NULL), 0);
    CHECK(world_count_events(&w, GW_IDENTIFY_HELD) >= 19);
    world_end(&w);
}

TEST(trap_13_identifies_are_paced_and_counted)
{
    check_paced_shards();
    check_little_remaining();
    check_crash_loop();
}

/* 14. No send limiter; heartbeats queue behind user sends or a blocking callback. Right: 120
 *     payloads in 60 s at most; heartbeats bypass the queue. */
static uint32_t handled;

static void work_for_five_minutes(world *x, const gw_event *event)
{
    uint32_t i;
    if (event->type != GW_MESSAGE_CREATE || handled++) return;
    for (i = 0; i < 300; i++) {
        world_stream *stream;
        x->now_us += 1000000;
        sim_tick(x->gateway, world_sim_ms(x));
        for (stream = x->streams; stream; stream = stream->next) world_carry(stream);
        gw_tend(x->gw);
    }
}

static void check_beats_are_regular(size_t at_least)
{
    size_t i, beats = world_count(&w, WORLD_EV("heartbeat"), NULL);
    CHECK(beats >= at_least);
    for (i = 1; i < beats; i++) {
        uint64_t since_ms = world_number(&w, WORLD_EV("heartbeat"), i, "since_ms");
        CHECK(since_ms >= INTERVAL_MS - 1000 && since_ms <= INTERVAL_MS + 1000);
    }
    CHECK_U64(world_count_events(&w, GW_DISCONNECTED), 0);
}

TEST(trap_14_sends_are_limited_and_heartbeats_go_ahead)
{
    uint32_t i;
    world_init(&w);
    w.cfg.max_queued = 400;
    world_begin(&w, NULL);
    WORLD_EXPECT(&w, GW_READY, 1000);
    for (i = 0; i < 400; i++) CHECK(send_sounds() > 0);
    world_settle(&w);
    i = (uint32_t)world_count(&w, WORLD_EV("send"), NULL);
    CHECK(i >= 110 && i < 120);                 /* not held more than need be either */
    world_advance(&w, 250000);                  /* the 121st in a minute: rate_limited, 4008 */
    CHECK_U64(world_count(&w, WORLD_EV("send"), NULL), 400);
    check_beats_are_regular(6);
    world_end(&w);
    handled = 0;
    begin_live(NULL);
    w.on_event = work_for_five_minutes;
    world_do(&w, "event MESSAGE_CREATE {}");
    world_settle(&w);
    CHECK_U64(handled, 1);
    check_beats_are_regular(7);
    world_end(&w);
}

/* 15. `retry_after` is taken as ms, `reset_after` as s. Right: seconds with a fraction, and
 *     milliseconds. */
TEST(trap_15_retry_after_is_seconds_and_reset_after_milliseconds)
{
    const world_event *end;
    init_asking();
    world_begin(&w, "on api x1 http 429 body 7.25\non upgrade x1 http 429 body 3.5");
    end = WORLD_EXPECT(&w, GW_DISCONNECTED, 100);
    CHECK(end->in_ms >= 7250 && end->in_ms <= 8000);
    CHECK_EQ(end->close_code, 429);
    end = WORLD_EXPECT(&w, GW_DISCONNECTED, 8000);
    CHECK(end->in_ms >= 3500 && end->in_ms <= 4500);
    CHECK(WORLD_EXPECT(&w, GW_READY, 5000)->at_ms >= 1000000 + 10750);
    world_end(&w);
    init_asking();
    w.sim.remaining = 0;
    w.sim.reset_after_ms = 90000;
    world_begin(&w, NULL);
    end = WORLD_EXPECT(&w, GW_IDENTIFY_HELD, 100);
    CHECK(end->in_ms > 89000 && end->in_ms <= 90000);
    end = WORLD_EXPECT(&w, GW_READY, 100000);
    CHECK(end->at_ms >= 1090000 && end->at_ms <= 1092000);
    world_end(&w);
}

/* 16. A snowflake goes through a double, or is shifted and divided as a signed value. Right:
 *     uint64. */
static void read_snowflakes(world *x, const gw_event *event)
{
    char text[32];
    (void)x;
    if (event->type != GW_MESSAGE_CREATE) return;
    handled++;
    CHECK_U64(gw_u64(&event->d, "id"), UINT64_C(9007199254740993));
    CHECK_U64(gw_u64(&event->d, "author.id"), UINT64_MAX);
    CHECK_U64(gw_u64(&event->d, "bare"), UINT64_C(9007199254740993));
    gw_text(&event->d, "author.id", text, sizeof text);
    CHECK_TEXT(text, "18446744073709551615");
}

static void check_shard_of(int32_t total, int32_t of_large, int32_t of_largest)
{
    world_init(&w);
    w.cfg.shard_count = 1;
    w.cfg.shard_total = total;
    world_begin(&w, NULL);
    CHECK_EQ(gw_shard_of(w.gw, UINT64_C(1098765432109876543)), of_large);
    CHECK_EQ(gw_shard_of(w.gw, UINT64_MAX), of_largest);
    world_end(&w);
}

TEST(trap_16_snowflakes_keep_all_64_bits)
{
    handled = 0;
    begin_live(NULL);
    CHECK_U64(gw_user_id(w.gw), UINT64_C(1098765432109876543));
    w.on_event = read_snowflakes;
    world_do(&w, "event MESSAGE_CREATE {\"id\":\"9007199254740993\",\"bare\":9007199254740993,"
             "\"author\":{\"id\":\"18446744073709551615\"}}");
    world_settle(&w);
    CHECK_U64(handled, 1);
    world_end(&w);
    check_shard_of(3, 2, 0);
    check_shard_of(16, 1, 15);
}

/* 17. `op` and `t` are assumed to precede `d`, or `d` to be an object. Right: all keys of the top
 *     level are looked at first. */
static void check_payload(const char *command, uint32_t type, uint32_t reason)
{
    int failures = check_failures;
    begin_live(NULL);
    world_advance(&w, 10000);
    world_do(&w, command);
    if (reason) CHECK_EQ(WORLD_EXPECT(&w, GW_DISCONNECTED, 100)->reason, reason);
    WORLD_EXPECT(&w, type, 10000);
    CHECK_U64(world_count_events(&w, GW_DISCONNECTED), reason != 0);
    end_case(failures, command);
}

TEST(trap_17_keys_come_in_any_order_and_d_is_anything)
{
    static const char *const bodies[] = { "null", "true", "-1.5e3", "\"op\"", "[1,{\"op\":9}]" };
    uint64_t seed;
    size_t i;
    for (seed = 1; seed <= 6; seed++) {
        world_init(&w);
        w.sim.seed = seed;
        w.sim.event_rate = 20;
        world_begin(&w, "on accept key_order");
        WORLD_EXPECT(&w, GW_READY, 1000);
        world_advance(&w, 3000);
        world_do(&w, seed % 2 ? "op7" : "op9 true");
        WORLD_EXPECT(&w, GW_RESUMED, 1000);
        world_do(&w, "rate 0");
        world_advance(&w, 2 * INTERVAL_MS);
        CHECK_U64(world_count_events(&w, GW_DISCONNECTED), 1);
        world_check_delivery(&w, 1);
        world_end(&w);
    }
    begin("on open x1 raw {\"d\":{\"op\":7,\"_trace\":[\"\\\"op\\\":9}\"],"
          "\"heartbeat_interval\":41250},\"s\":null,\"op\":10,\"t\":null}\nnext 1 no_hello");
    WORLD_EXPECT(&w, GW_READY, 1000);
    world_end(&w);
    check_payload("raw {\"d\":null,\"t\":null,\"s\":null,\"op\":7}", GW_RESUMED, GW_REASON_ASKED);
    check_payload("raw {\"d\":true,\"op\":9}", GW_RESUMED, GW_REASON_INVALID_SESSION);
    check_payload("raw {\"d\":false,\"s\":null,\"op\":9}", GW_READY, GW_REASON_INVALID_SESSION);
    check_payload("raw {\"d\":{\"t\":\"READY\",\"op\":9,\"s\":77,\"x\":\"}\\\"{\"},\"s\":4,"
                  "\"t\":\"TYPING_START\",\"op\":0}", GW_TYPING_START, 0);
    for (i = 0; i < COUNT(bodies); i++) {
        char command[100];
        snprintf(command, sizeof command, "raw {\"d\":%s,\"t\":\"TYPING_START\",\"s\":4,\"op\":0}",
                 bodies[i]);
        check_payload(command, GW_TYPING_START, 0);
    }
}

/* 18. A fixed receive buffer or a fixed array of tokens. Right: they grow; GUILD_CREATE is huge. */
static uint64_t members_seen, members_right;

static void walk_the_guild(world *x, const gw_event *event)
{
    gw_json list, member;
    (void)x;
    if (event->type != GW_GUILD_CREATE || event->bytes < 1000000) return;
    memset(&member, 0, sizeof member);
    CHECK(gw_get(&event->d, "members_more", &list));
    while (gw_next(&list, NULL, &member)) {
        uint64_t id = gw_u64(&member, "user.id");     /* one after the other: gateway_sim's order */
        members_right += id >> 22 == (gw_u64(&event->d, "id") >> 22) + 1000000 + members_seen;
        members_seen++;
    }
    CHECK_EQ(gw_kind_of(&event->d, "filler"), GW_STRING);  /* the last key of all */
}

TEST(trap_18_buffers_grow_with_the_payload)
{
    char command[40];
    uint32_t bytes = world_is_slow() ? 1500000 : 6000000;
    members_seen = members_right = 0;
    world_init(&w);
    w.on_event = walk_the_guild;
    world_begin(&w, NULL);
    WORLD_EXPECT(&w, GW_READY, 1000);
    world_settle(&w);
    snprintf(command, sizeof command, "big %u", (unsigned)bytes);
    world_do(&w, command);
    world_do(&w, "event MESSAGE_CREATE {}");
    CHECK_U64(WORLD_EXPECT(&w, GW_MESSAGE_CREATE, 5000)->seq, 5);
    CHECK_U64(world_last(&w, GW_GUILD_CREATE)->d_len, bytes);
    CHECK(members_seen > bytes / 600);
    CHECK_U64(members_right, members_seen);
    CHECK_U64(world_count_events(&w, GW_SKIPPED), 0);
    CHECK_U64(world_count_events(&w, GW_DISCONNECTED), 0);
    world_end(&w);
}

/* ---- 19 to 26 ---- */

/* 19. Strict typed parsing kills the connection on an odd PRESENCE_UPDATE or an unknown event.
 *     Right: what is wrong in an event is no matter of the connection. */
static void read_all_of_it(world *x, const gw_event *event)
{
    char text[64];
    gw_json value;
    (void)x;
    if (event->type >= GW_GATEWAY_INFO) return;
    memset(&value, 0, sizeof value);
    gw_u64(&event->d, "user.id");
    gw_text(&event->d, "status", text, sizeof text);
    gw_f64(&event->d, "activities.0.timestamps.start");
    gw_true(&event->d, "client_status.desktop");
    while (gw_next(&event->d, NULL, &value)) gw_kind_of(&value, "0.id");
}

TEST(trap_19_odd_bodies_end_no_connection)
{
    static const char *const names[] = { "PRESENCE_UPDATE", "MESSAGE_CREATE", "GUILD_CREATE",
        "USER_UPDATE", "RATE_LIMITED", "VOICE_STATE_UPDATE", "SOMETHING_OF_TOMORROW" };
    static const char *const bodies[] = { "{}", "null", "[]", "7", "\"x\"", "false",
        "{\"user\":null}", "{\"user\":{\"id\":7}}",
        "{\"user\":{\"id\":\"x\"},\"status\":5,\"activities\":{}}",
        "{\"user\":[],\"activities\":[null,[],\"x\",{\"timestamps\":{\"start\":-1e999}}]}",
        "{\"user\":{\"id\":\"-1\"},\"client_status\":true,\"guild_id\":99999999999999999999999}",
        "{\"\":{\"\":{}},\"user\":{\"id\":{}},\"status\":\"\\ud800\"}" };
    size_t i, j;
    uint64_t seq = 3;
    world_init(&w);
    w.on_event = read_all_of_it;
    world_begin(&w, NULL);
    WORLD_EXPECT(&w, GW_READY, 1000);
    world_settle(&w);
    for (i = 0; i < COUNT(names); i++) {
        for (j = 0; j < COUNT(bodies); j++) {
            char command[200];
            const world_event *last;
            snprintf(command, sizeof command, "event %s %s", names[i], bodies[j]);
            world_do(&w, command);
            world_settle(&w);
            last = &w.events[w.event_count - 1];
            CHECK_TEXT(last->name, names[i]);
            CHECK_TEXT(last->d, bodies[j]);
            CHECK_U64(last->seq, ++seq);
        }
    }
    world_advance(&w, 100000);
    CHECK_U64(world_count_events(&w, GW_DISCONNECTED), 0);
    world_do(&w, "cut");                        /* all of them counted */
    WORLD_EXPECT(&w, GW_RESUMED, 100);
    CHECK_U64(world_number(&w, WORLD_EV("resume"), 0, "seq"), seq);
    world_end(&w);
}

/* 20. GUILD_DELETE with `unavailable:true` is treated as a removal, GUILD_CREATE as a join.
 *     Right: the key is there or not; GUILD_CREATE also fills up what READY named, and can be a
 *     stub. Here is a bot that does it right, with what the library tells. */
static struct {
    uint64_t known[8];
    uint32_t count, joins, backfills, stubs, outages, removals;
} bot;

static uint32_t bot_find(uint64_t id)
{
    uint32_t i;
    for (i = 0; i < bot.count && bot.known[i] != id; i++) { }
    return i;
}

static void bot_on_event(world *x, const gw_event *event)
{
    gw_json guilds, guild;
    uint32_t at = bot_find(gw_u64(&event->d, "id"));
    (void)x;
    memset(&guild, 0, sizeof guild);
    if (event->type == GW_READY && gw_get(&event->d, "guilds", &guilds))
        while (gw_next(&guilds, NULL, &guild)) bot.known[bot.count++] = gw_u64(&guild, "id");
    if (event->type == GW_GUILD_CREATE) {
        if (gw_true(&event->d, "unavailable")) bot.stubs++;
        else if (at < bot.count) bot.backfills++;
        else bot.joins++;
        if (at == bot.count) bot.known[bot.count++] = gw_u64(&event->d, "id");
    }
    if (event->type != GW_GUILD_DELETE) return;
    if (gw_kind_of(&event->d, "unavailable") != GW_ABSENT) { bot.outages++; return; }
    bot.removals++;
    if (at < bot.count) bot.known[at] = bot.known[--bot.count];
}

TEST(trap_20_outage_removal_join_and_backfill_can_be_told)
{
    memset(&bot, 0, sizeof bot);
    world_init(&w);
    w.on_event = bot_on_event;
    world_begin(&w, NULL);
    WORLD_EXPECT(&w, GW_READY, 1000);
    world_settle(&w);
    CHECK_U64(bot.backfills, 2);
    world_do(&w, "event GUILD_DELETE {\"id\":\"838860800000000000\",\"unavailable\":true}");
    world_do(&w, "event GUILD_CREATE {\"id\":\"838860800000000000\",\"unavailable\":true}");
    world_do(&w, "event GUILD_CREATE {\"id\":\"838860800000000000\",\"unavailable\":false}");
    world_do(&w, "event GUILD_CREATE {\"id\":\"77\",\"unavailable\":false}");
    world_do(&w, "event GUILD_DELETE {\"id\":\"77\",\"unavailable\":false}");
    world_do(&w, "event GUILD_DELETE {\"id\":\"77\"}");
    world_do(&w, "event GUILD_CREATE {\"id\":\"77\"}");
    world_settle(&w);
    CHECK_U64(bot.outages, 2);
    CHECK_U64(bot.stubs, 1);
    CHECK_U64(bot.backfills, 3);
    CHECK_U64(bot.removals, 1);
    CHECK_U64(bot.joins, 2);
    CHECK_U64(bot.count, 3);
    world_end(&w);
}

/* 21. READY is awaited after a Resume. Right: success is RESUMED. */
TEST(trap_21_resume_has_succeeded_with_resumed)
{
    begin("on accept late_ready 3000");
    WORLD_EXPECT(&w, GW_READY, 4000);
    world_do(&w, "cut");
    world_advance(&w, 1000);
    CHECK_U64(world_count(&w, WORLD_EV("resume"), NULL), 1);
    CHECK_EQ(gw_shard_live(w.gw, 0), 0);
    CHECK(send_sounds() > 0);
    WORLD_EXPECT(&w, GW_RESUMED, 3000);
    CHECK_EQ(gw_shard_live(w.gw, 0), 1);
    world_settle(&w);
    CHECK_U64(world_count(&w, WORLD_EV("send"), NULL), 1);  /* what waited has left by now */
    world_advance(&w, 3600000);                 /* and nobody's patience has an end */
    CHECK_U64(world_count_events(&w, GW_DISCONNECTED), 1);
    CHECK_U64(world_count_events(&w, GW_READY), 1);
    CHECK_U64(world_count(&w, WORLD_EV("identify"), NULL), 1);
    world_end(&w);
}

/* 22. No `Bot ` before the token in the HTTP header, or two of them. Right: there in
 *     `Authorization`, not in Identify and Resume; one that was pasted is taken off. */
TEST(trap_22_bot_stands_before_the_token_in_http_only)
{
    static const char *const tokens[] = { WORLD_TOKEN, "Bot " WORLD_TOKEN,
        "Bot " WORLD_TOKEN "\n" };
    size_t i;
    for (i = 0; i < COUNT(tokens); i++) {
        int failures = check_failures;
        init_asking();
        w.cfg.token = tokens[i];
        keep_what_is_written();
        world_begin(&w, NULL);                  /* unauthorized, wrong_token are violations */
        WORLD_EXPECT(&w, GW_READY, 1000);
        world_do(&w, "cut");
        WORLD_EXPECT(&w, GW_RESUMED, 1000);
        CHECK_U64(count_text(heads, "\r\nAuthorization: Bot " WORLD_TOKEN "\r\n"), 1);
        CHECK_U64(count_text(heads, " Bot "), 1);
        CHECK_U64(count_text(said, "\"token\":\"" WORLD_TOKEN "\""), 2);
        CHECK_U64(count_text(said, "\"token\""), 2);
        end_case(failures, tokens[i]);
    }
}

/* 23. Secrets in debug logs: Identify, Resume, VOICE_SERVER_UPDATE, interaction tokens. Right:
 *     none. */
#define SECRET "aSecretThatIsForTheBotOnly"

static void check_no_text_has(const char *secret)
{
    size_t i;
    if (!CHECK(strstr(w.log, secret) == NULL)) fprintf(stderr, "    in the log: %s\n", secret);
    for (i = 0; i < w.event_count; i++)
        if (!CHECK(strstr(w.events[i].message, secret) == NULL))
            fprintf(stderr, "    in a message: %s\n", w.events[i].message);
    CHECK(strstr(gw_why(w.gw), secret) == NULL);
}

static void live_with_secrets(void)
{
    static const char broken[] = "{\"guild_ids\":[],\"token\":\"" SECRET "\"";
    init_asking();
    w.keep_log = 1;                             /* at GW_LOG_TRACE */
    w.sim.event_rate = 5;                       /* interactions and voice states among them */
    world_begin(&w, NULL);
    WORLD_EXPECT(&w, GW_READY, 1000);
    world_do(&w, "event VOICE_SERVER_UPDATE {\"token\":\"" SECRET "\",\"endpoint\":null}");
    world_do(&w, "event INTERACTION_CREATE {\"data\":{\"token\":\"" SECRET "\"},"
             "\"token\":\"" SECRET "\"}");
    world_do(&w, "event INTERACTION_CREATE {\"to\\u006ben\":\"" SECRET "\",\"id\":\"1\"}");
    CHECK_EQ(gw_send_raw(w.gw, 0, 31, broken, strlen(broken)), GW_ERROR_ARGUMENT);
    world_settle(&w);
    world_do(&w, "cut");
    WORLD_EXPECT(&w, GW_RESUMED, 1000);
    world_do(&w, "raw {\"op\":0,\"t\":\"VOICE_SERVER_UPDATE\",\"d\":{\"token\":\"" SECRET "\"");
    WORLD_EXPECT(&w, GW_RESUMED, 1000);
    world_do(&w, "close 4000 " WORLD_TOKEN);    /* and a server that says it back to us */
    WORLD_EXPECT(&w, GW_RESUMED, 1000);
    world_advance(&w, 100000);
}

TEST(trap_23_no_log_and_no_message_has_a_secret)
{
    char id[32], text[2048];
    live_with_secrets();
    CHECK_HAS(w.log, "RESUMED");                /* there is one, and it is detailed */
    take_session_id(id, sizeof id);
    check_no_text_has("thisTokenMustNeverBeSeen");
    check_no_text_has(SECRET);
    check_no_text_has("aW50ZXJhY3Rpb24");       /* interaction tokens of the simulator's */
    check_no_text_has(id);                      /* resumes the session, together with the token */
    gw_session_save(w.gw, GW_ALL, text, sizeof text);
    CHECK(strstr(text, "thisTokenMustNeverBeSeen") == NULL);
    world_end(&w);
}

/* 24. `channel_id` is left out to leave voice. Right: null. See the end of this file. */

/* 25. Intents `-1`, or all 32 bits, "for everything": 4013. Right: 53608447 or 53575421. */
static void check_intents(uint32_t intents, uint32_t denied)
{
    world_init(&w);
    w.cfg.intents = intents;
    w.sim.denied_intents = denied;
    world_begin(&w, NULL);                      /* invalid_intents, disallowed_intents */
    WORLD_EXPECT(&w, GW_READY, 1000);
    CHECK_U64(world_number(&w, WORLD_EV("identify"), 0, "intents"), intents);
    world_end(&w);
}

TEST(trap_25_undefined_intents_never_reach_discord)
{
    static const uint32_t wrong[] = { UINT32_MAX, 1u << 31, 1u << 17, 53608447u | 1u << 26 };
    size_t i;
    for (i = 0; i < COUNT(wrong); i++) {
        world_init(&w);
        w.cfg.intents = wrong[i];
        world_begin(&w, NULL);
        CHECK_HAS(WORLD_EXPECT(&w, GW_FATAL, 10)->message, "GW_INTENTS_ALL");
        world_advance(&w, 60000);
        CHECK_U64(w.opens, 0);
        world_end(&w);
    }
    CHECK_EQ(GW_INTENTS_ALL, 53608447);
    CHECK_EQ(GW_INTENTS_UNPRIVILEGED, 53575421);
    check_intents(GW_INTENTS_ALL, 0);
    check_intents(GW_INTENTS_UNPRIVILEGED, GW_INTENTS_ALL ^ GW_INTENTS_UNPRIVILEGED);
}

/* 26. Identify's `properties` are made up, or the API version is left to the default. Right: the
 *     real system and the library's name; v=10 in URL and HTTP path. */
static void check_property(const char *key, const char *value)
{
    char property[200];
    snprintf(property, sizeof property, "\"%s\":\"%s\"", key, value);
    CHECK_HAS(said, property);
}

/* "linux" of Linux, "bsd" of FreeBSD: what uname says contains it. */
static void check_os(void)
{
    struct utsname name;
    char os[32] = "", *at;
    const char *said_os = strstr(said, "\"os\":\"");
    if (!CHECK(uname(&name) == 0 && said_os != NULL)) return;
    for (at = name.sysname; *at; at++) if (*at >= 'A' && *at <= 'Z') *at = (char)(*at + 'a' - 'A');
    snprintf(os, sizeof os, "%.*s", (int)strcspn(said_os + 6, "\""), said_os + 6);
    CHECK(os[0] != 0);
    CHECK_HAS(name.sysname, os);
}

TEST(trap_26_properties_are_real_and_the_version_is_said)
{
    init_asking();
    keep_what_is_written();
    world_begin(&w, NULL);
    WORLD_EXPECT(&w, GW_READY, 1000);
    world_do(&w, "cut");
    WORLD_EXPECT(&w, GW_RESUMED, 1000);
    check_os();
    check_property("browser", "discord_gateway.h");
    check_property("device", "discord_gateway.h");
    CHECK(strchr(said, '$') == NULL);           /* "$os" and so on are deprecated */
    CHECK_U64(world_count(&w, "\"path\":\"/api/v10/gateway/bot\"", "\"status\":200"), 1);
    CHECK_U64(world_count(&w, AT_CACHED, "\"status\":101"), 1);
    CHECK_U64(world_count(&w, AT_RESUME, "\"status\":101"), 1);
    CHECK_U64(count_text(heads, "\r\nUser-Agent: DiscordBot ("), 3);
    CHECK_U64(count_text(heads, ", " GW_VERSION_TEXT ")"), 3);
    world_end(&w);
    world_init(&w);
    w.cfg.url = "ws://127.0.0.1/?encoding=etf&v=6";
    world_begin(&w, NULL);                      /* whatever the URL had */
    WORLD_EXPECT(&w, GW_READY, 1000);
    CHECK_U64(world_count(&w, WORLD_EV("http"), "\"path\":\"/?v=10&encoding=json\""), 1);
    world_end(&w);
}

/* ---- what the commands have to do with it: once they are all there ---- */
#define GUILD UINT64_C(838860800000000000)  /* the simulator's first */

/* 13. ... and how many shards there are is the server's to say. */
TEST(trap_13_shards_start_in_the_order_of_their_ids)
{
    char shard[24], line[512];
    size_t i;
    init_asking();
    w.cfg.shard_count = GW_ALL;
    w.sim.shards = 4;
    world_begin(&w, NULL);
    world_advance(&w, 18000);                   /* 5.5 s from one to the next, and a little */
    CHECK_U64(world_count_events(&w, GW_READY), 4);
    for (i = 0; i < 4; i++) {
        CHECK(world_line(&w, WORLD_EV("identify"), NULL, i, line, sizeof line));
        snprintf(shard, sizeof shard, "\"shard\":[%u,4]", (unsigned)i);
        CHECK_HAS(line, shard);
    }
    world_end(&w);
}

/* 14. ... presences have a limit of their own: 5 in 20 s, and the newest is the one that counts. */
static gw_ticket set_presence(const char *name)
{
    gw_activity activity;
    gw_presence presence;
    memset(&activity, 0, sizeof activity);
    memset(&presence, 0, sizeof presence);
    activity.name = name;
    presence.activities = &activity;
    presence.activity_count = 1;
    return gw_set_presence(w.gw, GW_ALL, &presence);
}

TEST(trap_14_presences_wait_and_the_newest_is_sent)
{
    gw_ticket tickets[8];
    char line[1024], name[2] = "a";
    const world_event *dropped;
    uint64_t began_ms;
    size_t i;
    begin_live(NULL);
    began_ms = world_sim_ms(&w);
    for (i = 0; i < COUNT(tickets); i++) {
        name[0] = (char)('a' + i);
        tickets[i] = set_presence(name);
        CHECK(tickets[i] > 0);
        world_settle(&w);
        if (i == 4) {                           /* a new connection is no way around it */
            world_do(&w, "op7");
            WORLD_EXPECT(&w, GW_RESUMED, 100);
        }
    }
    CHECK_U64(world_count(&w, WORLD_EV("send"), "\"op\":3"), 5);
    for (i = 5; i < 7; i++) {
        dropped = WORLD_EXPECT(&w, GW_COMMAND_DROPPED, 0);
        CHECK_EQ(dropped->ticket, tickets[i]);
        CHECK_EQ(dropped->reason, GW_REASON_NEWER);
    }
    world_advance(&w, 30000);
    CHECK_U64(world_count(&w, WORLD_EV("send"), "\"op\":3"), 6);
    CHECK(world_line(&w, WORLD_EV("send"), "\"name\":\"h\"", 0, line, sizeof line));
    CHECK(world_time(&w, "\"name\":\"h\"", 0) >= began_ms + 20000);
    CHECK_U64(world_count_events(&w, GW_COMMAND_DROPPED), 2);
    world_end(&w);
}

/* 15. ... the retry_after of RATE_LIMITED is in seconds too. */
TEST(trap_15_rate_limited_is_told_in_milliseconds)
{
    begin_live(NULL);
    world_do(&w, "event RATE_LIMITED {\"opcode\":8,\"retry_after\":12.5,"
             "\"meta\":{\"guild_id\":\"1\"}}");
    CHECK_EQ(WORLD_EXPECT(&w, GW_RATE_LIMITED, 100)->in_ms, 12500);
    world_end(&w);
}

/* 16. ... and ids are sent as strings, as Discord writes them. */
TEST(trap_16_ids_are_sent_as_strings)
{
    static const uint64_t ids[] = { UINT64_MAX, UINT64_C(9007199254740993) };
    gw_members request;
    char line[1024];
    memset(&request, 0, sizeof request);
    request.guild_id = GUILD;
    request.user_ids = ids;
    request.user_id_count = 2;
    begin_live(NULL);
    CHECK(gw_request_members(w.gw, &request) > 0);
    WORLD_EXPECT(&w, GW_GUILD_MEMBERS_CHUNK, 100);
    CHECK(world_line(&w, WORLD_EV("send"), "\"op\":8", 0, line, sizeof line));
    CHECK_HAS(line, "\"guild_id\":\"838860800000000000\"");
    CHECK_HAS(line, "\"user_ids\":[\"18446744073709551615\",\"9007199254740993\"]");
    world_end(&w);
}

/* 23. ... a trace of all payloads has three stars in their place. */
TEST(trap_23_trace_shows_payloads_without_their_secrets)
{
    live_with_secrets();
    CHECK_HAS(w.log, "> {");
    CHECK_HAS(w.log, "< {");
    CHECK_HAS(w.log, "\"token\":\"***\"");
    CHECK_HAS(w.log, "\"session_id\":\"***\"");
    world_end(&w);
}

/* 24. `channel_id` is left out to leave voice. Right: null. */
TEST(trap_24_leaving_voice_says_null)
{
    char line[1024];
    begin_live(NULL);
    CHECK(gw_set_voice(w.gw, GUILD, GUILD + 128, 1, 0) > 0);
    WORLD_EXPECT(&w, GW_VOICE_SERVER_UPDATE, 100);
    CHECK(world_line(&w, WORLD_EV("send"), "\"op\":4", 0, line, sizeof line));
    CHECK_HAS(line, "\"guild_id\":\"838860800000000000\"");
    CHECK_HAS(line, "\"channel_id\":\"838860800000000128\"");
    CHECK_HAS(line, "\"self_mute\":true");
    CHECK_HAS(line, "\"self_deaf\":false");
    CHECK(gw_set_voice(w.gw, GUILD, 0, 0, 0) > 0);
    world_settle(&w);
    CHECK(world_line(&w, WORLD_EV("send"), "\"op\":4", 1, line, sizeof line));
    CHECK_HAS(line, "\"channel_id\":null");
    CHECK_HAS(world_last(&w, GW_VOICE_STATE_UPDATE)->d, "\"channel_id\":null");
    world_end(&w);
}

CHECK_MAIN()
