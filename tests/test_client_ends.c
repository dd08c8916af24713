/* How connections end and what the client does next: close codes, op 7, op 9, cuts, refusals, backoff, the resume URL,
 * the budget of Identifies, and that random cuts lose and double nothing. */
#define DISCORD_GATEWAY_IMPLEMENTATION
#include "discord_gateway.h"
#include "world.h"

static world w;

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

/* ---- close codes: protocol digest, "Close codes" ---- */
enum { RESUME, IDENTIFY, FATAL };
typedef struct close_case { uint16_t code; int next; const char *words; } close_case;

static const close_case close_cases[] = {
    { 0, RESUME, "without a code" }, { 1000, RESUME, "closed" }, { 1001, RESUME, "away" }, { 1002, RESUME, "closed" },
    { 1003, RESUME, "" }, { 1007, RESUME, "" }, { 1008, RESUME, "" }, { 1009, RESUME, "" }, { 1010, RESUME, "" },
    { 1011, RESUME, "" }, { 1012, RESUME, "" }, { 1013, RESUME, "" }, { 1014, RESUME, "" }, { 3000, RESUME, "" },
    { 4000, RESUME, "internal error" }, { 4001, RESUME, "opcode" }, { 4002, RESUME, "4,096" }, { 4003, IDENTIFY,
        "session" },
    { 4004, FATAL, "token" }, { 4005, RESUME, "twice" }, { 4006, IDENTIFY, "session" }, { 4007, IDENTIFY, "sequence" },
    { 4008, RESUME, "120" }, { 4009, IDENTIFY, "timed out" }, { 4010, FATAL, "shard" }, { 4011, FATAL, "2,500" },
    { 4012, FATAL, "version" }, { 4013, FATAL, "intents" }, { 4014, FATAL, "Developer Portal" }, { 4015, RESUME, "" },
    { 4999, RESUME, "" }
};

static void check_resumed(const close_case *row)
{
    const world_event *end = WORLD_EXPECT(&w, GW_DISCONNECTED, 100);
    CHECK_EQ(end->will, GW_NEXT_RESUME);
    if (row->code == 4008) CHECK(end->in_ms >= 60000 && end->in_ms <= 61000);
    else CHECK_EQ(end->in_ms, 0);
    WORLD_EXPECT(&w, GW_RESUMED, row->code == 4008 ? 62000 : 100);
    CHECK_U64(world_count(&w, WORLD_EV("identify"), NULL), 1);
    CHECK_U64(world_count(&w, WORLD_EV("resume"), "\"path\":\"/resume\""), 1);
    CHECK_U64(world_count_events(&w, GW_SESSION_LOST), 0);
    world_check_delivery(&w, 1);
}

static void check_identified(void)
{
    const world_event *end = WORLD_EXPECT(&w, GW_DISCONNECTED, 100), *ready;
    char line[400];
    CHECK_EQ(end->will, GW_NEXT_IDENTIFY);
    WORLD_EXPECT(&w, GW_SESSION_LOST, 100);
    ready = WORLD_EXPECT(&w, GW_READY, 12000);
    CHECK_EQ(ready->session, 2);
    CHECK_U64(world_count(&w, WORLD_EV("resume"), NULL), 0);
    CHECK(world_line(&w, WORLD_EV("http"), "\"path\":\"/?v=10&encoding=json\"", 1, line, sizeof line));
}

static void check_ended(const close_case *row)
{
    const world_event *fatal = WORLD_EXPECT(&w, GW_FATAL, 100);
    CHECK_EQ(fatal->reason, GW_REASON_CLOSE_CODE);
    CHECK_EQ(fatal->close_code, row->code);
    CHECK_HAS(fatal->message, row->words);
    WORLD_EXPECT(&w, GW_CLOSED, 6000);
    CHECK_EQ(gw_alive(w.gw), 0);
    world_advance(&w, 600000);
    CHECK_U64(w.opens, 1);
    CHECK(gw_poll(w.gw) == NULL);
    CHECK_EQ(gw_timeout_ms(w.gw), -1);
}

TEST(client_every_close_code_leads_where_the_table_says)
{
    size_t i;
    for (i = 0; i < sizeof close_cases / sizeof close_cases[0]; i++) {
        const close_case *row = &close_cases[i];
        char command[60], code[40];
        int failures = check_failures;
        begin_live(NULL);
        snprintf(command, sizeof command, row->code ? "close %u because so" : "close_empty", (unsigned)row->code);
        world_do(&w, command);
        if (row->next == RESUME) check_resumed(row);
        else if (row->next == IDENTIFY) check_identified();
        else check_ended(row);
        CHECK_EQ(world_last(&w, GW_DISCONNECTED)->reason, GW_REASON_CLOSE_CODE);
        CHECK_EQ(world_last(&w, GW_DISCONNECTED)->close_code, row->code);
        CHECK_HAS(world_last(&w, GW_DISCONNECTED)->message, row->words);
        if (row->code) CHECK_HAS(world_last(&w, GW_DISCONNECTED)->message, "because so");
        snprintf(code, sizeof code, "\"code\":%u,", (unsigned)(row->code <= 1001 ? 4000 : row->code));
        CHECK_U64(world_count(&w, WORLD_EV("close_received"), code), 1);    /* answered, and 1000 never leaves us */
        if (check_failures != failures) { fprintf(stderr, "    close code %u\n",
            (unsigned)row->code); world_print_events(&w); }
        world_end(&w);
    }
}

TEST(client_close_code_before_the_session_stands)
{
    size_t i;
    for (i = 0; i < sizeof close_cases / sizeof close_cases[0]; i++) {
        const close_case *row = &close_cases[i];
        char script[80];
        if (row->code == 0) continue;
        snprintf(script, sizeof script, "on identify x1 close %u no", (unsigned)row->code);
        begin(script);
        if (row->next == FATAL) {
            WORLD_EXPECT(&w, GW_FATAL, 100);
            WORLD_EXPECT(&w, GW_CLOSED, 6000);
        } else {
            CHECK_EQ(WORLD_EXPECT(&w, GW_DISCONNECTED, 100)->will, GW_NEXT_IDENTIFY);
            WORLD_EXPECT(&w, GW_READY, 70000);
            CHECK_U64(world_count_events(&w, GW_SESSION_LOST), 0);          /* there was none */
        }
        world_end(&w);
    }
}

TEST(client_4010_is_fatal_with_one_shard_and_stops_one_of_two)
{
    world_init(&w);
    w.cfg.shard_count = w.cfg.shard_total = 2;
    w.cfg.max_concurrency = w.sim.max_concurrency = 2;
    world_begin(&w, NULL);
    WORLD_EXPECT(&w, GW_READY, 1000);
    WORLD_EXPECT(&w, GW_READY, 10000);
    world_do(&w, "shard 1 close 4010 no");
    CHECK_EQ(WORLD_EXPECT(&w, GW_SHARD_STOPPED, 1000)->shard, 1);
    world_advance(&w, 300000);
    CHECK_U64(world_count_events(&w, GW_FATAL), 0);
    CHECK_EQ(gw_shard_live(w.gw, 0), 1);
    CHECK_EQ(gw_shard_live(w.gw, 1), 0);
    CHECK_EQ(gw_send_raw(w.gw, 1, 3, "{}", 2), GW_ERROR_ENDED);
    world_end(&w);
}

/* ---- ends without a close frame ---- */
TEST(client_cut_reset_and_freeze_are_resumed)
{
    static const char *const commands[] = { "cut", "reset", "cut_before_frame", "cut_inside_frame", "cut_after_frame" };
    size_t i;
    for (i = 0; i < sizeof commands / sizeof commands[0]; i++) {
        begin_live(NULL);
        world_do(&w, commands[i]);
        world_do(&w, "event MESSAGE_CREATE {\"content\":\"a\"}");       /* for those that wait for a frame */
        world_do(&w, "event MESSAGE_CREATE {\"content\":\"b\"}");
        CHECK_EQ(WORLD_EXPECT(&w, GW_DISCONNECTED, 100)->reason, GW_REASON_LOST);
        CHECK_EQ(world_last(&w, GW_DISCONNECTED)->will, GW_NEXT_RESUME);
        WORLD_EXPECT(&w, GW_RESUMED, 100);
        world_check_delivery(&w, 1);
        world_end(&w);
    }
}

TEST(client_frozen_server_is_noticed_by_its_missing_ack)
{
    begin_live("on ready x1 +10 freeze");
    CHECK_EQ(WORLD_EXPECT(&w, GW_DISCONNECTED, 90000)->reason, GW_REASON_NO_ACK);
    WORLD_EXPECT(&w, GW_RESUMED, 1000);
    world_end(&w);
}

TEST(client_broken_frames_are_answered_with_their_close_code)
{
    static const struct { const char *command, *code; } cases[] = {
        { "rsv", "\"code\":1002" }, { "masked_frame", "\"code\":1002" }, { "reserved_opcode", "\"code\":1002" },
        { "fragmented_ping", "\"code\":1002" }, { "long_ping", "\"code\":1002" }, { "lone_continuation",
            "\"code\":1002" },
        { "bad_utf8", "\"code\":1007" }, { "binary_frame", "\"code\":1003" }, { "broken_json", "\"code\":4000" },
        { "no_op", "\"code\":4000" }, { "garbage", "\"code\":1002" }, { "length_lie 9223372036854775808",
            "\"code\":1002" }
    };
    size_t i;
    for (i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        int failures = check_failures;
        begin_live(NULL);
        world_do(&w, cases[i].command);
        CHECK_EQ(WORLD_EXPECT(&w, GW_DISCONNECTED, 100)->reason, GW_REASON_PROTOCOL);
        CHECK(strlen(world_last(&w, GW_DISCONNECTED)->message) > 20);
        CHECK_U64(world_count(&w, WORLD_EV("close_received"), cases[i].code), 1);
        WORLD_EXPECT(&w, GW_RESUMED, 100);
        if (check_failures != failures) fprintf(stderr, "    %s\n", cases[i].command);
        world_end(&w);
    }
}

/* ---- op 7 ---- */
TEST(client_op7_resumes_at_once_on_the_resume_url)
{
    begin_live(NULL);
    world_do(&w, "op7");
    CHECK_EQ(WORLD_EXPECT(&w, GW_DISCONNECTED, 100)->reason, GW_REASON_ASKED);
    CHECK_EQ(world_last(&w, GW_DISCONNECTED)->in_ms, 0);
    WORLD_EXPECT(&w, GW_RESUMED, 100);
    CHECK_U64(world_count(&w, WORLD_EV("close_received"), "\"code\":4000"), 1);
    CHECK_U64(world_count(&w, WORLD_EV("http"), "\"path\":\"/resume?v=10&encoding=json\""), 1);
    world_end(&w);
}

TEST(client_op7_before_hello_is_understood)
{
    begin("on open x1 op7\nnext 1 no_hello");
    CHECK_EQ(WORLD_EXPECT(&w, GW_DISCONNECTED, 100)->reason, GW_REASON_ASKED);
    WORLD_EXPECT(&w, GW_READY, 3000);
    CHECK_U64(world_count(&w, WORLD_EV("identify"), NULL), 1);
    world_end(&w);
}

TEST(client_op7_before_ready_identifies_again)
{
    begin("next 1 no_ready\non identify x1 +100 op7");
    CHECK_EQ(WORLD_EXPECT(&w, GW_DISCONNECTED, 200)->will, GW_NEXT_IDENTIFY);
    WORLD_EXPECT(&w, GW_READY, 10000);
    CHECK_U64(world_count(&w, WORLD_EV("identify"), NULL), 2);
    world_end(&w);
}

/* ---- op 9 ---- */
TEST(client_op9_false_after_identify_waits_five_seconds_and_more)
{
    uint64_t first_ms;
    begin("next 1 no_ready\non identify x1 +10 op9 false");
    CHECK_EQ(WORLD_EXPECT(&w, GW_DISCONNECTED, 100)->reason, GW_REASON_INVALID_SESSION);
    CHECK(world_last(&w, GW_DISCONNECTED)->in_ms >= 5000);
    CHECK_EQ(world_last(&w, GW_DISCONNECTED)->will, GW_NEXT_IDENTIFY);
    WORLD_EXPECT(&w, GW_READY, 10000);
    first_ms = world_time(&w, WORLD_EV("identify"), 0);
    CHECK(world_time(&w, WORLD_EV("identify"), 1) >= first_ms + 5000);
    CHECK_U64(world_count_events(&w, GW_SESSION_LOST), 0);
    world_end(&w);
}

TEST(client_op9_true_after_identify_identifies)
{
    begin("next 1 no_ready\non identify x1 +10 op9 true");
    WORLD_EXPECT(&w, GW_READY, 10000);
    CHECK_U64(world_count(&w, WORLD_EV("resume"), NULL), 0);
    world_end(&w);
}

TEST(client_op9_false_unprompted_starts_a_new_session_after_one_to_five_seconds)
{
    uint32_t seed, least = UINT32_MAX, most = 0;
    for (seed = 1; seed <= 12; seed++) {
        const world_event *end;
        world_init(&w);
        w.random = seed;
        world_begin(&w, NULL);
        WORLD_EXPECT(&w, GW_READY, 1000);
        world_advance(&w, 20000);
        world_do(&w, "op9 false");
        end = WORLD_EXPECT(&w, GW_DISCONNECTED, 100);
        CHECK(end->in_ms >= 1000 && end->in_ms <= 5000);
        if (end->in_ms < least) least = end->in_ms;
        if (end->in_ms > most) most = end->in_ms;
        WORLD_EXPECT(&w, GW_SESSION_LOST, 100);
        CHECK_EQ(WORLD_EXPECT(&w, GW_READY, 6000)->session, 2);
        CHECK_U64(world_count(&w, WORLD_EV("resume"), NULL), 0);
        world_check_delivery(&w, 2);
        world_end(&w);
    }
    CHECK(most > least + 1000);
}

TEST(client_op9_true_unprompted_resumes)
{
    begin_live(NULL);
    world_do(&w, "op9 true");
    CHECK_EQ(WORLD_EXPECT(&w, GW_DISCONNECTED, 100)->will, GW_NEXT_RESUME);
    WORLD_EXPECT(&w, GW_RESUMED, 6000);
    CHECK_U64(world_count(&w, WORLD_EV("identify"), NULL), 1);
    world_end(&w);
}

TEST(client_op9_false_in_answer_to_resume_identifies_at_the_cached_url)
{
    char line[400];
    begin_live("on resume x1 op9 false");
    world_advance(&w, 10000);
    world_do(&w, "cut");
    WORLD_EXPECT(&w, GW_SESSION_LOST, 1000);
    CHECK(world_last(&w, GW_DISCONNECTED)->in_ms >= 1000 && world_last(&w, GW_DISCONNECTED)->in_ms <= 5000);
    CHECK_EQ(WORLD_EXPECT(&w, GW_READY, 6000)->session, 2);
    CHECK(world_line(&w, WORLD_EV("http"), "\"path\":\"/?v=10", 1, line, sizeof line));
    CHECK_U64(world_count_events(&w, GW_SESSION_LOST), 1);
    world_end(&w);
}

TEST(client_op9_true_in_answer_to_resume_resumes_again)
{
    begin_live("on resume x1 op9 true");
    world_do(&w, "cut");
    WORLD_EXPECT(&w, GW_RESUMED, 10000);
    CHECK_U64(world_count(&w, WORLD_EV("resume"), NULL), 2);
    CHECK_U64(world_count(&w, WORLD_EV("identify"), NULL), 1);
    world_end(&w);
}

TEST(client_expired_session_is_told_and_replaced)
{
    uint32_t by_code;
    for (by_code = 0; by_code < 2; by_code++) {
        world_init(&w);
        w.sim.expired_4009 = by_code;
        world_begin(&w, NULL);
        WORLD_EXPECT(&w, GW_READY, 1000);
        world_advance(&w, 10000);
        world_do(&w, "expire_sessions");
        world_do(&w, "cut");
        WORLD_EXPECT(&w, GW_SESSION_LOST, 1000);
        CHECK_EQ(WORLD_EXPECT(&w, GW_READY, 10000)->session, 2);
        world_end(&w);
    }
}

/* ---- where to resume ---- */
TEST(client_resume_host_that_refuses_leads_to_the_cached_url_and_back)
{
    begin_live(NULL);
    w.refuse = UINT32_MAX;
    w.refuse_port = 8080;
    w.violations_expected = 1;                      /* resume_on_wrong_url: as intended */
    world_do(&w, "cut");
    WORLD_EXPECT(&w, GW_RESUMED, 5000);
    CHECK_U64(w.refused, 1);
    CHECK_U64(world_count(&w, WORLD_EV("identify"), NULL), 1);
    w.refuse = 0;
    world_do(&w, "cut");                            /* the next time its own host is tried first again */
    WORLD_EXPECT(&w, GW_RESUMED, 1000);
    CHECK_U64(world_count(&w, WORLD_EV("resume"), "\"path\":\"/resume\""), 1);
    world_end(&w);
}

TEST(client_failed_connects_alternate_between_both_hosts_and_keep_the_session)
{
    uint32_t i;
    world_init(&w);
    w.sim.session_ttl_ms = 10000000;
    world_begin(&w, NULL);
    WORLD_EXPECT(&w, GW_READY, 1000);
    w.refuse = UINT32_MAX;
    world_do(&w, "cut");
    WORLD_EXPECT(&w, GW_CONNECTING, 1000);
    for (i = 0; i < 10; i++) {
        const world_event *at = world_last(&w, GW_CONNECTING);
        CHECK_HAS(at->message, i % 2 ? "ws://127.0.0.1/?v=10" : "ws://127.0.0.1:8080/resume?v=10&encoding=json");
        CHECK_EQ(WORLD_EXPECT(&w, GW_DISCONNECTED, 100)->reason, i ? GW_REASON_CONNECT : GW_REASON_CONNECT);
        CHECK_EQ(world_last(&w, GW_DISCONNECTED)->will, GW_NEXT_RESUME);
        WORLD_EXPECT(&w, GW_CONNECTING, 61000);
    }
    w.refuse = 0;
    w.any_violations = 1;
    WORLD_EXPECT(&w, GW_RESUMED, 130000);
    CHECK_U64(world_count(&w, WORLD_EV("identify"), NULL), 1);
    CHECK_U64(world_count_events(&w, GW_SESSION_LOST), 0);
    world_check_delivery(&w, 1);
    world_end(&w);
}

TEST(client_resume_host_with_http_errors_leads_to_the_cached_url)
{
    begin_live(NULL);
    world_script(&w, "next 1 http 503");
    w.violations_expected = 1;
    world_do(&w, "cut");
    WORLD_EXPECT(&w, GW_RESUMED, 5000);
    CHECK_U64(world_count(&w, WORLD_EV("resume"), "\"path\":\"/\""), 1);
    CHECK_U64(world_count(&w, WORLD_EV("identify"), NULL), 1);
    world_end(&w);
}

TEST(client_third_resume_without_resumed_leads_to_identify)
{
    begin_live(NULL);
    world_advance(&w, 10000);
    world_script(&w, "on resume x3 cut");
    world_do(&w, "cut");
    CHECK_EQ(WORLD_EXPECT(&w, GW_READY, 60000)->session, 2);
    CHECK_U64(world_count(&w, WORLD_EV("resume"), NULL), 3);
    CHECK_U64(world_count(&w, WORLD_EV("identify"), NULL), 2);
    CHECK_U64(world_count_events(&w, GW_SESSION_LOST), 1);
    world_end(&w);
}

TEST(client_second_resume_that_works_resets_the_count)
{
    uint32_t i;
    begin_live(NULL);
    for (i = 0; i < 4; i++) {
        world_script(&w, "on resume x2 cut");
        world_do(&w, "cut");
        WORLD_EXPECT(&w, GW_RESUMED, 20000);
    }
    CHECK_U64(world_count(&w, WORLD_EV("identify"), NULL), 1);
    world_end(&w);
}

TEST(client_foreign_resume_url_is_refused_and_the_session_resumable)
{
    static const char *const urls[] = { "ws://evil.example", "wss://gateway.discord.gg", "wss://127.0.0.1",
        "ws://127.0.0.2:8080",
                                        "http://127.0.0.1", "nonsense", "ws://127.0.0.1@evil.example/" };
    size_t i;
    for (i = 0; i < sizeof urls / sizeof urls[0]; i++) {
        char script[100];
        int failures = check_failures;
        snprintf(script, sizeof script, "foreign_resume_url %s", urls[i]);
        world_init(&w);
        w.keep_log = 1;
        world_begin(&w, script);
        WORLD_EXPECT(&w, GW_READY, 1000);
        CHECK_HAS(w.log, "resum");
        world_do(&w, "cut");
        WORLD_EXPECT(&w, GW_RESUMED, 1000);
        CHECK_HAS(world_last(&w, GW_CONNECTING)->message, "ws://127.0.0.1/?v=10&encoding=json");
        CHECK_U64(world_count(&w, WORLD_EV("identify"), NULL), 1);
        if (check_failures != failures) fprintf(stderr, "    %s\n", urls[i]);
        world_end(&w);
    }
}

/* ---- the upgrade goes wrong ---- */
TEST(client_http_errors_at_the_upgrade_are_told_and_retried)
{
    static const struct { const char *command; uint32_t reason; int32_t status; const char *words; } cases[] = {
        { "http 401", GW_REASON_HTTP, 401, "401" }, { "http 403", GW_REASON_HTTP, 403, "403" }, { "http 404",
            GW_REASON_HTTP, 404, "404" },
        { "http 500", GW_REASON_HTTP, 500, "500" }, { "http 503", GW_REASON_HTTP, 503, "by fault" }, { "no_upgrade",
            GW_REASON_HTTP, 200, "200" },
        { "redirect https://evil.example/", GW_REASON_HTTP, 302, "302" }, { "wrong_accept", GW_REASON_HTTP, 101,
            "Accept" },
        { "garbage", GW_REASON_PROTOCOL, 0, "HTTP" }, { "http_endless", GW_REASON_PROTOCOL, 0, "header lines" }, { "cut",
            GW_REASON_LOST, 0, "" },
        { "reset", GW_REASON_LOST, 0, "" }
    };
    size_t i;
    for (i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char script[100];
        int failures = check_failures;
        const world_event *end;
        snprintf(script, sizeof script, "on upgrade x1 %s", cases[i].command);
        begin(script);
        end = WORLD_EXPECT(&w, GW_DISCONNECTED, 100);
        CHECK_EQ(end->reason, cases[i].reason);
        CHECK_EQ(end->close_code, cases[i].status);
        CHECK_HAS(end->message, cases[i].words);
        WORLD_EXPECT(&w, GW_READY, 5000);
        CHECK_U64(world_count(&w, WORLD_EV("identify"), NULL), 1);
        if (check_failures != failures) { fprintf(stderr, "    %s\n", cases[i].command); world_print_events(&w); }
        world_end(&w);
    }
}

TEST(client_429_at_the_upgrade_waits_as_long_as_it_is_told)
{
    const world_event *end;
    begin("on upgrade x1 http 429 header 7");
    end = WORLD_EXPECT(&w, GW_DISCONNECTED, 100);
    CHECK_EQ(end->close_code, 429);
    CHECK(end->in_ms >= 7000);
    CHECK(WORLD_EXPECT(&w, GW_READY, 70000)->at_ms >= 1007000);
    world_end(&w);
}

/* ---- never hot ---- */
TEST(client_without_a_network_tries_slower_and_slower_but_for_ever)
{
    begin_live(NULL);
    w.refuse = UINT32_MAX;
    world_do(&w, "cut");
    world_advance(&w, 10000);
    CHECK(w.opens <= 14);
    world_advance(&w, 3600000);
    CHECK(w.opens > 60 && w.opens < 250);
    CHECK(w.polls < 5000);
    w.refuse = 0;
    w.any_violations = 1;
    world_advance(&w, 130000);
    CHECK_EQ(gw_shard_live(w.gw, 0), 1);
    world_end(&w);
}

TEST(client_server_that_accepts_and_closes_is_not_stormed)
{
    static const char *const scripts[] = { "on accept cut", "on upgrade http 503", "on open cut", "on hello cut",
        "on open close 4000 x",
                                           "on hello close 1000 x", "on open op7", "on hello op7", "on hello op9 true" };
    size_t i;
    for (i = 0; i < sizeof scripts / sizeof scripts[0]; i++) {
        begin(scripts[i]);
        w.any_violations = 1;
        world_advance(&w, 1800000);
        if (!CHECK(w.opens > 30 && w.opens < 140)) fprintf(stderr, "    %s: %u\n", scripts[i], (unsigned)w.opens);
        CHECK(world_count(&w, WORLD_EV("identify"), NULL) < 140);
        world_end(&w);
    }
}

TEST(client_resumed_and_cut_again_and_again_still_waits_a_little)
{
    begin_live("on resumed cut");
    w.latency_ms = 50;
    world_do(&w, "cut");
    world_advance(&w, 60000);
    CHECK(w.opens >= 2);
    CHECK(w.opens < 1000);
    w.any_violations = 1;
    world_end(&w);
}

TEST(client_success_resets_the_backoff)
{
    begin_live(NULL);
    w.refuse = 6;
    w.any_violations = 1;
    world_do(&w, "cut");
    WORLD_EXPECT(&w, GW_RESUMED, 130000);
    world_settle(&w);
    world_do(&w, "cut");
    CHECK_EQ(WORLD_EXPECT(&w, GW_DISCONNECTED, 100)->in_ms, 0);
    WORLD_EXPECT(&w, GW_RESUMED, 100);
    world_end(&w);
}

/* ---- the budget of Identifies ---- */
TEST(client_in_a_loop_of_failing_identifies_stops_before_the_token_is_reset)
{
    uint64_t count;
    world_init(&w);
    w.sim.interval_ms = 600000;
    world_begin(&w, "on identify close 4000 no");
    world_advance(&w, 85000000);
    count = sim_get_stats(w.gateway)->identifies;
    CHECK(count <= 1000);
    if (count == 1000) CHECK(world_count_events(&w, GW_IDENTIFY_HELD) >= 1);
    CHECK_U64(world_count(&w, WORLD_EV("token_reset"), NULL), 0);
    world_end(&w);
}

TEST(client_with_no_identify_left_says_so_and_waits_for_the_reset)
{
    const world_event *held;
    world_init(&w);
    w.cfg.identify_remaining = 1;
    w.cfg.identify_reset_ms = 3600000;
    world_begin(&w, NULL);
    WORLD_EXPECT(&w, GW_READY, 1000);
    world_advance(&w, 10000);
    world_do(&w, "op9 false");
    held = WORLD_EXPECT(&w, GW_IDENTIFY_HELD, 20000);
    CHECK_EQ(held->reason, GW_REASON_BUDGET);
    CHECK(held->in_ms > 3500000 && held->in_ms <= 3600000);
    CHECK_U64(world_count(&w, WORLD_EV("identify"), NULL), 1);
    world_advance(&w, 3500000);
    CHECK_U64(world_count_events(&w, GW_IDENTIFY_HELD), 1);
    CHECK(WORLD_EXPECT(&w, GW_READY, 100000)->at_ms >= 1000000 + 3600000);
    world_end(&w);
}

/* ---- sleep ---- */
TEST(client_that_slept_resumes_at_once)
{
    const world_event *end;
    world_init(&w);
    w.sim.session_ttl_ms = 86400000;
    w.any_violations = 1;
    world_begin(&w, NULL);
    WORLD_EXPECT(&w, GW_READY, 1000);
    world_advance(&w, 5000);
    w.slept_us += UINT64_C(18000000000);            /* 5 h; the monotonic clock stood still */
    end = WORLD_EXPECT(&w, GW_DISCONNECTED, 10);
    CHECK_EQ(end->reason, GW_REASON_SLEPT);
    CHECK_EQ(end->will, GW_NEXT_RESUME);
    CHECK_HAS(end->message, "18000 s");
    WORLD_EXPECT(&w, GW_RESUMED, 10);
    world_end(&w);
}

TEST(client_that_slept_while_waiting_tries_at_once)
{
    uint64_t opens;
    begin_live(NULL);
    w.refuse = UINT32_MAX;
    w.any_violations = 1;
    world_do(&w, "cut");
    world_advance(&w, 600000);
    WORLD_EXPECT(&w, GW_DISCONNECTED, 100000);
    opens = w.opens;
    w.refuse = 0;
    w.slept_us += 60000000;
    world_settle(&w);
    CHECK(w.opens > opens);
    world_end(&w);
}

TEST(client_short_suspend_is_bridged)
{
    begin_live(NULL);
    w.slept_us += 5000000;
    world_advance(&w, 1000);
    CHECK_U64(world_count_events(&w, GW_DISCONNECTED), 0);
    world_end(&w);
}

TEST(client_stepped_wall_clock_changes_nothing)
{
    begin_live(NULL);
    w.unix_base = 10;
    world_advance(&w, 100000);
    w.unix_base = UINT64_C(99999999999);
    world_advance(&w, 100000);
    CHECK_U64(world_count_events(&w, GW_DISCONNECTED), 0);
    world_end(&w);
}

/* ---- random cuts ---- */
static uint64_t dice;
static uint32_t cuts, cuts_wanted, early;

static uint64_t roll(uint64_t below) { return world_mix(&dice) % below; }

/* Each connection is cut at a random byte, of either direction; some before RESUMED, but never three of those in a row. */
static void cut_at_random(world *x, const gw_event *event)
{
    if (cuts >= cuts_wanted) {
        if (x->streams) x->streams->down_left = x->streams->up_left = UINT64_MAX;
        x->next_down = x->next_up = 0;
        return;
    }
    if (event->type == GW_DISCONNECTED) {
        cuts++;
        early = roll(3) == 0 && early < 2 ? early + 1 : 0;
        if (early) x->next_down = 1 + roll(400);
        if (early && roll(3) == 0) { x->next_up = 1 + roll(500); x->next_down = 0; }
    }
    if ((event->type == GW_READY || event->type == GW_RESUMED) && x->streams) {
        early = 0;
        if (roll(4)) x->streams->down_left = 1 + roll(12000);
        else x->streams->up_left = 1 + roll(100);
        x->read_most = roll(2) ? 0 : (uint32_t)(1 + roll(200));
    }
}

static void random_cuts(uint64_t seed, uint32_t wanted)
{
    dice = seed;
    cuts = early = 0;
    cuts_wanted = wanted;
    world_init(&w);
    w.random = seed;
    w.sim.seed = seed;
    w.sim.event_rate = 25;
    w.sim.interval_ms = 2000;
    w.sim.session_ttl_ms = 600000;
    w.on_event = cut_at_random;
    w.any_violations = 1;                           /* resume_on_wrong_url after a cut handshake */
    world_begin(&w, seed % 2 ? "on accept key_order" : "on accept fragments 3");
    while (cuts < cuts_wanted && w.now_us < UINT64_C(20000000000)) world_advance(&w, 5000);
    CHECK(cuts >= cuts_wanted);
    world_do(&w, "rate 0");
    world_advance(&w, 130000);
    CHECK_EQ(gw_shard_live(w.gw, 0), 1);
    CHECK_U64(world_count(&w, WORLD_EV("identify"), NULL), 1);
    CHECK_U64(world_count_events(&w, GW_SESSION_LOST), 0);
    world_check_delivery(&w, 1);
    world_end(&w);
}

TEST(client_three_hundred_random_cuts_lose_and_double_nothing)
{
    uint64_t seed, seeds = world_is_slow() ? 1 : 6;
    for (seed = 1; seed <= seeds; seed++) {
        int failures = check_failures;
        random_cuts(seed, world_is_slow() ? 60 : 50);
        if (check_failures != failures) fprintf(stderr, "    seed %u\n", (unsigned)seed);
    }
}

CHECK_MAIN()
