/* The public calls as a caller may use and misuse them: bad configs, commands and their rates, stop and close, NULL
 * clients, ended clients, calls from inside hooks, loop integration, memory. */
#define DISCORD_GATEWAY_IMPLEMENTATION
#include "discord_gateway.h"
#include "world.h"

static world w;

static void begin_live(const char *script)
{
    world_init(&w);
    world_begin(&w, script);
    WORLD_EXPECT(&w, GW_READY, 1000);
    world_settle(&w);
}

static gw_ticket send_text(const char *d) { return gw_send_raw(w.gw, 0, 3, d, strlen(d)); }

#define PRESENCE "{\"since\":null,\"activities\":[],\"status\":\"online\",\"afk\":false}"
#define SOUNDS "{\"guild_ids\":[]}"

static gw_ticket send_sounds(void) { return gw_send_raw(w.gw, 0, 31, SOUNDS, strlen(SOUNDS)); }

/* ---- bad configs: each is FATAL with a sentence, then CLOSED, and nobody is dialled ---- */
static void check_refused(const char *words)
{
    const world_event *fatal;
    world_begin(&w, NULL);
    if (!w.gw) { world_end(&w); return; }
    fatal = WORLD_EXPECT(&w, GW_FATAL, 10);
    CHECK_EQ(fatal->reason, GW_REASON_CONFIG);
    CHECK_EQ(fatal->shard, GW_ALL);
    CHECK_HAS(fatal->message, words);
    WORLD_EXPECT(&w, GW_CLOSED, 10);
    CHECK_EQ(gw_alive(w.gw), 0);
    world_advance(&w, 100000);
    CHECK_U64(w.opens, 0);
    CHECK_U64(w.event_count, 2);
    world_end(&w);
}

TEST(config_without_a_token_is_refused)
{
    static const char *const tokens[] = { NULL, "", "   ", "\n", "Bot ", "Bot   ", "bot \n" };
    size_t i;
    for (i = 0; i < sizeof tokens / sizeof tokens[0]; i++) {
        world_init(&w);
        w.cfg.token = tokens[i];
        check_refused("token");
    }
}

TEST(config_token_that_is_none_is_refused_without_showing_it)
{
    char long_token[2000];
    static const char *const tokens[] = { "thisTokenMustNeverBeSeen with blanks", "thisTokenMustNeverBeSeen\nx", "\xC3\xA4thisTokenMustNeverBeSeen",
                                          "thisTokenMustNeverBeSeen\x7F" };
    size_t i;
    for (i = 0; i < sizeof tokens / sizeof tokens[0]; i++) {
        world_init(&w);
        w.cfg.token = tokens[i];
        check_refused("token");
    }
    memset(long_token, 'x', sizeof long_token);
    long_token[sizeof long_token - 1] = 0;
    world_init(&w);
    w.cfg.token = long_token;
    check_refused("too long");
}

TEST(config_token_is_stripped_of_what_is_pasted_with_it)
{
    static const char *const tokens[] = { "Bot " WORLD_TOKEN, WORLD_TOKEN "\n", "  " WORLD_TOKEN "\r\n", "bot " WORLD_TOKEN, "Bot  " WORLD_TOKEN " ", "\tBot " WORLD_TOKEN };
    size_t i;
    for (i = 0; i < sizeof tokens / sizeof tokens[0]; i++) {
        world_init(&w);
        w.cfg.token = tokens[i];
        world_begin(&w, NULL);                      /* the gateway refuses every other token with 4004 */
        WORLD_EXPECT(&w, GW_READY, 1000);
        world_end(&w);
    }
}

TEST(config_wrong_token_is_fatal_and_not_retried)
{
    world_init(&w);
    w.cfg.token = "wrong.thisTokenMustNeverBeSeen.token";
    w.violations_expected = 1;
    world_begin(&w, NULL);
    CHECK_HAS(WORLD_EXPECT(&w, GW_FATAL, 1000)->message, "Developer Portal");
    WORLD_EXPECT(&w, GW_CLOSED, 6000);
    world_advance(&w, 3600000);
    CHECK_U64(w.opens, 1);
    world_end(&w);
}

TEST(config_undefined_intents_are_refused_before_the_wire)
{
    static const uint32_t intents[] = { UINT32_MAX, 1u << 17, 1u << 31, 1u << 22, 1u << 26 };
    size_t i;
    for (i = 0; i < sizeof intents / sizeof intents[0]; i++) {
        world_init(&w);
        w.cfg.intents = intents[i];
        check_refused("intents");
    }
}

TEST(config_no_intents_are_a_real_value)
{
    world_init(&w);
    w.cfg.intents = 0;
    world_begin(&w, NULL);
    WORLD_EXPECT(&w, GW_READY, 1000);
    CHECK_U64(world_number(&w, WORLD_EV("identify"), 0, "intents"), 0);
    world_end(&w);
}

TEST(config_disallowed_intents_name_the_portal)
{
    world_init(&w);
    w.sim.denied_intents = GW_INTENT_MESSAGE_CONTENT;
    w.violations_expected = 1;
    world_begin(&w, NULL);
    CHECK_HAS(WORLD_EXPECT(&w, GW_FATAL, 1000)->message, "Developer Portal");
    CHECK_EQ(world_last(&w, GW_FATAL)->close_code, 4014);
    world_end(&w);
}

TEST(config_urls_that_are_none_are_refused)
{
    static const struct { const char *url, *words; } cases[] = {
        { "", "" }, { "nonsense", "" }, { "gateway.discord.gg", "" }, { "http://127.0.0.1/", "" }, { "https://gateway.discord.gg/", "" },
        { "ftp://gateway.discord.gg", "" }, { "ws://gateway.discord.gg/", "token" }, { "ws://192.168.0.1/", "token" }, { "wss://", "" },
        { "wss://a:b@gateway.discord.gg/", "" }, { "wss://host:0/", "" }, { "wss://host:65536/", "" }, { "wss://host/#x", "" },
        { "wss://ho st/", "" }, { "ws://localhost.evil.example/", "token" }, { "ws://127.0.0.1.evil.example/", "token" }, { "ws://0.0.0.0/", "" }
    };
    size_t i;
    for (i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        int failures = check_failures;
        world_init(&w);
        w.cfg.url = cases[i].url;
        check_refused(cases[i].words);
        if (check_failures != failures) fprintf(stderr, "    %s\n", cases[i].url);
    }
}

TEST(config_plain_urls_of_loopback_hosts_are_taken)
{
    static const char *const urls[] = { "ws://127.0.0.1", "ws://127.0.0.1:8080/", "ws://localhost/", "ws://[::1]:9000/", "ws://127.9.8.7/?v=9" };
    size_t i;
    for (i = 0; i < sizeof urls / sizeof urls[0]; i++) {
        world_init(&w);
        w.cfg.url = urls[i];
        world_begin(&w, NULL);
        if (WORLD_EXPECT(&w, GW_READY, 1000)->type != GW_READY) fprintf(stderr, "    %s\n", urls[i]);
        CHECK_HAS(world_last(&w, GW_CONNECTING)->message, "v=10&encoding=json");
        world_end(&w);
    }
}

TEST(config_numbers_out_of_range_are_refused)
{
    world_init(&w);
    w.cfg.large_threshold = 49;
    check_refused("large_threshold");
    world_init(&w);
    w.cfg.large_threshold = 251;
    check_refused("large_threshold");
    world_init(&w);
    w.cfg.shard_first = 2;
    w.cfg.shard_count = 1;
    w.cfg.shard_total = 2;
    check_refused("shard");
    world_init(&w);
    w.cfg.shard_first = -1;
    w.cfg.shard_count = 1;
    w.cfg.shard_total = 2;
    check_refused("shard");
    world_init(&w);
    w.cfg.shard_first = INT32_MAX;
    w.cfg.shard_count = INT32_MAX;
    w.cfg.shard_total = INT32_MAX;
    check_refused("shard");
    world_init(&w);
    w.cfg.shard_count = -7;
    check_refused("shard");
    world_init(&w);
    w.cfg.shard_first = 1;
    check_refused("shard");
    world_init(&w);
    w.cfg.compress = 7;
    check_refused("compress");
    world_init(&w);
    w.cfg.proxy = "http://127.0.0.1:1";
    check_refused("proxy");
}

TEST(config_bad_presence_is_refused)
{
    gw_presence presence;
    gw_activity activity;
    char long_name[6000];
    memset(&presence, 0, sizeof presence);
    memset(&activity, 0, sizeof activity);
    presence.status = "away";
    world_init(&w);
    w.cfg.presence = &presence;
    check_refused("presence");
    presence.status = NULL;
    presence.activities = &activity;
    presence.activity_count = 1;
    world_init(&w);
    w.cfg.presence = &presence;
    check_refused("name");
    memset(long_name, 'x', sizeof long_name);
    long_name[sizeof long_name - 1] = 0;
    activity.name = long_name;
    world_init(&w);
    w.cfg.presence = &presence;
    check_refused("4,096");
}

TEST(config_presence_and_threshold_go_into_identify)
{
    gw_presence presence;
    gw_activity activity;
    memset(&presence, 0, sizeof presence);
    memset(&activity, 0, sizeof activity);
    activity.name = "chess \"\xE2\x99\x9E\"";
    presence.activities = &activity;
    presence.activity_count = 1;
    world_init(&w);
    w.cfg.presence = &presence;
    w.cfg.large_threshold = 250;
    world_begin(&w, NULL);
    activity.name = NULL;                           /* everything was copied */
    WORLD_EXPECT(&w, GW_READY, 1000);
    CHECK_U64(world_count(&w, WORLD_EV("identify"), "\"presence\":true"), 1);
    world_do(&w, "op9 false");                      /* a new session says it again */
    WORLD_EXPECT(&w, GW_READY, 10000);
    CHECK_U64(world_count(&w, WORLD_EV("identify"), "\"presence\":true"), 2);
    world_end(&w);
}

TEST(config_texts_are_copied)
{
    char token[200], url[100];
    world_init(&w);
    strcpy(token, WORLD_TOKEN);
    strcpy(url, "ws://127.0.0.1/");
    w.cfg.token = token;
    w.cfg.url = url;
    world_begin(&w, NULL);
    memset(token, 'x', sizeof token - 1);
    memset(url, 'x', sizeof url - 1);
    WORLD_EXPECT(&w, GW_READY, 1000);
    world_do(&w, "cut");
    WORLD_EXPECT(&w, GW_RESUMED, 1000);
    w.cfg.token = WORLD_TOKEN;
    world_end(&w);
}

TEST(config_of_nothing_at_all_is_refused)
{
    gw_config none;
    gw_client *gw = gw_open(NULL);
    uint32_t type = 0;
    const gw_event *event;
    if (CHECK(gw != NULL)) {
        event = gw_poll(gw);
        if (CHECK(event != NULL)) type = event->type;
        CHECK_EQ(type, GW_FATAL);
        event = gw_poll(gw);
        CHECK(event != NULL && event->type == GW_CLOSED);
    }
    gw_close(gw);
    memset(&none, 0, sizeof none);
    gw = gw_open_sized(&none, sizeof none.token);   /* an older program's smaller config */
    if (CHECK(gw != NULL)) CHECK(gw_poll(gw) != NULL);
    gw_close(gw);
}

/* ---- sending ---- */
TEST(send_waits_for_ready_and_leaves_then)
{
    gw_ticket first, second;
    world_init(&w);
    world_begin(&w, "on accept late_ready 20000");
    first = send_text(PRESENCE);
    CHECK(first > 0);
    world_advance(&w, 10000);
    second = send_text(PRESENCE);
    CHECK(second > first);
    CHECK_U64(world_count(&w, WORLD_EV("send"), NULL), 0);
    WORLD_EXPECT(&w, GW_READY, 20000);
    world_settle(&w);
    CHECK_U64(world_count(&w, WORLD_EV("send"), "\"op\":3"), 2);
    world_end(&w);                                  /* send_before_ready would be a violation */
}

TEST(send_reaches_the_gateway_as_it_was_written)
{
    char line[600];
    static const char d[] = "{\"guild_id\":\"838860800000000000\",\"channel_id\":null,\"self_mute\":false,\"self_deaf\":false}";
    begin_live(NULL);
    CHECK(gw_send_raw(w.gw, GW_ALL, 4, d, strlen(d)) > 0);
    world_settle(&w);
    CHECK(world_line(&w, WORLD_EV("send"), "\"op\":4,\"d\":{\"guild_id\":\"838860800000000000\",\"channel_id\":null", 0, line, sizeof line));
    w.any_violations = 1;
    world_end(&w);
}

TEST(send_holds_the_121st_payload_of_a_minute)
{
    uint32_t i, queued = 0;
    uint64_t began_ms;
    world_init(&w);
    w.cfg.max_queued = 200;
    world_begin(&w, NULL);
    WORLD_EXPECT(&w, GW_READY, 1000);
    world_settle(&w);
    began_ms = world_ms(&w);
    for (i = 0; i < 200; i++) queued += send_sounds() > 0;
    CHECK_U64(queued, 200);
    world_settle(&w);
    CHECK_U64(world_count(&w, WORLD_EV("send"), NULL), 117);            /* 120 less two beats and one to spare */
    world_advance(&w, 59900);
    CHECK_U64(world_count(&w, WORLD_EV("send"), NULL), 117);
    world_advance(&w, 200);
    CHECK_U64(world_count(&w, WORLD_EV("send"), NULL), 200);
    CHECK_U64(world_time(&w, WORLD_EV("send"), 117), began_ms + 60000);
    CHECK_U64(sim_get_stats(w.gateway)->violations, 0);                 /* 4008 never */
    world_end(&w);
}

TEST(send_heartbeats_go_ahead_of_a_full_queue)
{
    uint32_t i;
    world_init(&w);
    w.cfg.max_queued = 500;
    w.cfg.max_queued_ms = 1000000;
    world_begin(&w, NULL);
    WORLD_EXPECT(&w, GW_READY, 1000);
    for (i = 0; i < 500; i++) send_sounds();
    world_advance(&w, 300000);
    CHECK(world_count(&w, WORLD_EV("heartbeat"), NULL) >= 7);
    CHECK_U64(world_count(&w, WORLD_EV("send"), NULL), 500);
    CHECK_U64(world_count_events(&w, GW_DISCONNECTED), 0);
    world_end(&w);
}

/* Beats that were asked for fill the window where the caller has used his share; a beat that could not leave is no
 * reason to think the peer dead. */
TEST(send_asked_beats_beyond_the_reserve_kill_nobody)
{
    uint32_t i;
    world_init(&w);
    w.cfg.max_queued = 500;
    w.cfg.max_queued_ms = 1000000;
    world_begin(&w, NULL);
    WORLD_EXPECT(&w, GW_READY, 1000);
    for (i = 0; i < 500; i++) send_sounds();
    for (i = 0; i < 40; i++) {
        world_advance(&w, 5000);
        if (i % 3 == 0) world_do(&w, "op1");
        if (i % 5 == 0) gw_recheck(w.gw);
    }
    CHECK_U64(world_count_events(&w, GW_DISCONNECTED), 0);
    world_end(&w);
}

TEST(send_measures_4096_bytes_of_the_whole_payload)
{
    char d[5000];
    size_t head = strlen("{\"op\":3,\"d\":}"), len;
    for (len = 4094; len <= 4098; len++) {
        size_t d_len = len - head;
        begin_live(NULL);
        memset(d, ' ', sizeof d);
        memcpy(d, PRESENCE, strlen(PRESENCE));
        if (len <= 4096) {
            CHECK(gw_send_raw(w.gw, 0, 3, d, d_len) > 0);
            world_settle(&w);
            CHECK_U64(world_count(&w, WORLD_EV("send"), NULL), 1);
        } else {
            CHECK_EQ(gw_send_raw(w.gw, 0, 3, d, d_len), GW_ERROR_TOO_LARGE);
            CHECK_HAS(gw_why(w.gw), "4,096");
            CHECK_U64(world_count(&w, WORLD_EV("send"), NULL), 0);
        }
        world_end(&w);
    }
}

TEST(send_refuses_what_would_close_the_connection)
{
    static const char *const bad[] = { "", "{", "{]", "nul", "{\"a\":1}}", "{\"a\":1} x", "{\"a\":01}", "{'a':1}", "[1,]", "{\"op\":1},\"op\":2", "\"\xC3(\"", "\"\xFF\"",
                                       "\"\xED\xA0\x80\"", "\"a\nb\"", "\"\\x\"", "\xEF\xBB\xBF{}" };
    static const uint32_t ops[] = { 1, 2, 6 };
    size_t i;
    begin_live(NULL);
    for (i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        if (!CHECK_EQ(send_text(bad[i]), GW_ERROR_ARGUMENT)) fprintf(stderr, "    %s\n", bad[i]);
        CHECK_HAS(gw_why(w.gw), "gw_send_raw");
    }
    CHECK_EQ(gw_send_raw(w.gw, 0, 3, NULL, 0), GW_ERROR_ARGUMENT);
    CHECK_EQ(gw_send_raw(w.gw, 0, 3, NULL, 10), GW_ERROR_ARGUMENT);
    for (i = 0; i < 3; i++) CHECK_EQ(gw_send_raw(w.gw, 0, ops[i], "{}", 2), GW_ERROR_ARGUMENT);
    CHECK_EQ(gw_send_raw(w.gw, 0, 3, "{}", SIZE_MAX), GW_ERROR_TOO_LARGE);
    CHECK_EQ(gw_send_raw(w.gw, 1, 3, "{}", 2), GW_ERROR_NOT_OUR_SHARD);
    CHECK_EQ(gw_send_raw(w.gw, -2, 3, "{}", 2), GW_ERROR_NOT_OUR_SHARD);
    world_settle(&w);
    CHECK_U64(world_count(&w, WORLD_EV("send"), NULL), 0);
    CHECK_U64(world_count_events(&w, GW_DISCONNECTED), 0);
    world_end(&w);
}

TEST(send_full_queue_says_so_and_takes_again_later)
{
    uint32_t i;
    world_init(&w);
    w.cfg.max_queued = 3;
    world_begin(&w, "next 1 late_ready 5000");
    for (i = 0; i < 3; i++) CHECK(send_text(PRESENCE) > 0);
    CHECK_EQ(send_text(PRESENCE), GW_ERROR_QUEUE_FULL);
    CHECK_HAS(gw_why(w.gw), "max_queued");
    WORLD_EXPECT(&w, GW_READY, 10000);
    world_settle(&w);
    CHECK(send_text(PRESENCE) > 0);
    world_end(&w);
}

TEST(send_too_old_comes_back_as_dropped_with_its_ticket)
{
    gw_ticket ticket, young;
    const world_event *dropped;
    world_init(&w);
    w.cfg.max_queued_ms = 30000;
    world_begin(&w, "next 1 late_ready 50000");
    ticket = send_text(PRESENCE);
    world_advance(&w, 25000);
    young = send_text(PRESENCE);
    dropped = WORLD_EXPECT(&w, GW_COMMAND_DROPPED, 6000);
    CHECK_EQ(dropped->ticket, ticket);
    CHECK_EQ(dropped->reason, GW_REASON_TOO_OLD);
    CHECK_U64(dropped->at_ms, 1030000);
    WORLD_EXPECT(&w, GW_READY, 30000);
    world_settle(&w);
    CHECK_U64(world_count(&w, WORLD_EV("send"), NULL), 1);
    CHECK_U64(world_count_events(&w, GW_COMMAND_DROPPED), 1);
    CHECK(young > ticket);
    world_end(&w);
}

TEST(send_many_too_old_at_once_all_come_back)
{
    uint32_t i;
    gw_stats stats;
    world_init(&w);
    w.cfg.max_queued = 200;
    w.cfg.max_queued_ms = 10000;
    world_begin(&w, "on accept no_ready");
    for (i = 0; i < 200; i++) CHECK(send_text(PRESENCE) > 0);
    world_advance(&w, 12000);
    CHECK_U64(world_count_events(&w, GW_COMMAND_DROPPED), 200);
    gw_stats_read(w.gw, 0, &stats);
    CHECK_U64(stats.sends_dropped, 200);
    CHECK_U64(stats.send_queue, 0);
    world_end(&w);
}

TEST(send_queued_ones_survive_a_resume)
{
    uint32_t i;
    begin_live(NULL);
    w.refuse = 3;
    w.any_violations = 1;
    world_do(&w, "cut");
    world_settle(&w);
    for (i = 0; i < 5; i++) CHECK(send_text(PRESENCE) > 0);
    CHECK_U64(world_count(&w, WORLD_EV("send"), NULL), 0);
    WORLD_EXPECT(&w, GW_RESUMED, 60000);
    world_settle(&w);
    CHECK_U64(world_count(&w, WORLD_EV("send"), NULL), 5);
    world_end(&w);
}

TEST(send_waits_where_the_socket_is_full)
{
    uint32_t i;
    begin_live(NULL);
    w.write_full = 1;
    for (i = 0; i < 20; i++) CHECK(send_sounds() > 0);
    world_advance(&w, 500);
    CHECK_U64(world_count(&w, WORLD_EV("send"), NULL), 0);
    w.write_full = 0;
    w.write_most = 3;                               /* and then three bytes at a time */
    world_advance(&w, 1000);
    CHECK_U64(world_count(&w, WORLD_EV("send"), NULL), 20);
    world_end(&w);
}

TEST(send_new_connection_has_a_fresh_budget)
{
    uint32_t i;
    world_init(&w);
    w.cfg.max_queued = 200;
    world_begin(&w, NULL);
    WORLD_EXPECT(&w, GW_READY, 1000);
    for (i = 0; i < 180; i++) send_sounds();
    world_settle(&w);
    CHECK_U64(world_count(&w, WORLD_EV("send"), NULL), 117);
    world_do(&w, "op7");
    WORLD_EXPECT(&w, GW_RESUMED, 1000);
    world_settle(&w);
    CHECK_U64(world_count(&w, WORLD_EV("send"), NULL), 180);
    world_end(&w);
}

/* ---- stop, close ---- */
TEST(stop_refuses_other_words_and_later_sends)
{
    begin_live(NULL);
    CHECK_EQ(gw_stop(w.gw, 0), GW_ERROR_ARGUMENT);
    CHECK_EQ(gw_stop(w.gw, 3), GW_ERROR_ARGUMENT);
    CHECK_EQ(gw_stop(w.gw, GW_KEEP), GW_OK);
    CHECK_EQ(gw_stop(w.gw, GW_END), GW_OK);         /* the first word stands */
    CHECK_EQ(send_text(PRESENCE), GW_ERROR_ENDED);
    WORLD_EXPECT(&w, GW_CLOSED, 5000);
    CHECK_U64(world_count(&w, WORLD_EV("close_received"), "\"code\":1000"), 0);
    CHECK_U64(world_count_events(&w, GW_CLOSED), 1);
    world_end(&w);
}

TEST(stop_ends_within_five_seconds_whatever_the_peer_does)
{
    uint32_t kind;
    for (kind = 0; kind < 4; kind++) {
        begin_live(NULL);
        w.any_violations = 1;
        if (kind == 0) w.mute = 1;
        if (kind == 1) w.write_full = 1;
        if (kind == 2) world_do(&w, "freeze");
        if (kind == 3) world_do(&w, "rate 2000");
        CHECK_EQ(gw_stop(w.gw, GW_END), GW_OK);
        WORLD_EXPECT(&w, GW_CLOSED, 5000);
        world_end(&w);
    }
}

TEST(stop_works_in_every_state)
{
    static const char *const scripts[] = { "on accept stall_http", "on accept no_hello", "on accept no_ready", "on accept http 503" };
    size_t i;
    uint32_t how;
    for (i = 0; i < sizeof scripts / sizeof scripts[0]; i++) {
        for (how = GW_KEEP; how <= GW_END; how++) {
            world_init(&w);
            world_begin(&w, scripts[i]);
            world_advance(&w, 300);
            CHECK_EQ(gw_stop(w.gw, how), GW_OK);
            WORLD_EXPECT(&w, GW_CLOSED, 5000);
            world_end(&w);
        }
    }
    world_init(&w);                                 /* before the first poll */
    world_begin(&w, NULL);
    CHECK_EQ(gw_stop(w.gw, GW_END), GW_OK);
    WORLD_EXPECT(&w, GW_CLOSED, 5000);
    CHECK_U64(w.opens, 0);
    world_end(&w);
    world_init(&w);                                 /* while it waits for a network */
    w.refuse = UINT32_MAX;
    world_begin(&w, NULL);
    world_advance(&w, 60000);
    CHECK_EQ(gw_stop(w.gw, GW_KEEP), GW_OK);
    WORLD_EXPECT(&w, GW_CLOSED, 5000);
    world_end(&w);
    world_init(&w);                                 /* while a Resume is unanswered */
    world_begin(&w, NULL);
    WORLD_EXPECT(&w, GW_READY, 1000);
    world_script(&w, "on accept no_ready");
    world_do(&w, "cut");
    world_advance(&w, 1000);
    CHECK_EQ(gw_stop(w.gw, GW_KEEP), GW_OK);
    WORLD_EXPECT(&w, GW_CLOSED, 5000);
    world_end(&w);
    begin_live(NULL);                               /* held */
    gw_hold(w.gw, GW_ALL, 1);
    world_do(&w, "event MESSAGE_CREATE {}");
    world_settle(&w);
    CHECK_EQ(gw_stop(w.gw, GW_KEEP), GW_OK);
    WORLD_EXPECT(&w, GW_CLOSED, 5000);
    world_end(&w);
}

TEST(close_in_every_state_frees_all)
{
    static const char *const scripts[] = { NULL, "on accept stall_http", "on accept no_hello", "on accept no_ready", "on accept http 503", "on accept cut",
                                           "on ready +200 cut\non resume freeze", "on ready rate 3000", "on ready big 3000000" };
    size_t i;
    uint32_t polls;
    for (i = 0; i < sizeof scripts / sizeof scripts[0]; i++) {
        for (polls = 0; polls < 40; polls += 1) {
            uint32_t p;
            world_init(&w);
            w.any_violations = 1;
            world_begin(&w, scripts[i]);
            for (p = 0; p < polls; p++) {           /* stops in the middle of anything, events in hand and waiting */
                world_stream *stream;
                w.now_us += 40000;
                sim_tick(w.gateway, world_sim_ms(&w));
                for (stream = w.streams; stream; stream = stream->next) world_carry(stream);
                gw_poll(w.gw);
            }
            world_end(&w);
        }
    }
}

TEST(fatal_client_goes_on_to_closed_and_then_nothing)
{
    begin_live(NULL);
    world_do(&w, "close 4004 no");
    WORLD_EXPECT(&w, GW_FATAL, 100);
    WORLD_EXPECT(&w, GW_CLOSED, 5000);
    CHECK(gw_poll(w.gw) == NULL);
    CHECK(gw_wait(w.gw, GW_FOREVER) == NULL);
    CHECK(gw_wait(w.gw, 1000) == NULL);
    CHECK_EQ(gw_timeout_ms(w.gw), -1);
    world_end(&w);
}

/* ---- who calls what when ---- */
static void call_everything(gw_client *gw, int32_t expected)
{
    static const uint64_t ids[1] = { 5 };
    char out[700];
    gw_pollfd fds[4];
    gw_stats stats;
    gw_json absent;
    (void)ids; (void)absent;
    CHECK(gw_poll(gw) == NULL);
    CHECK(gw_wait(gw, 0) == NULL);
    CHECK(gw_wait(gw, GW_FOREVER) == NULL);
    gw_tend(gw);
    if (expected != GW_ERROR_IN_HOOK) CHECK_EQ(gw_alive(gw), 0);
    CHECK_EQ(gw_stop(gw, GW_END), expected);
    if (expected != GW_ERROR_IN_HOOK) CHECK_EQ(gw_shard_live(gw, GW_ALL), 0);
    gw_shard_of(gw, 5);
    CHECK_EQ(gw_hold(gw, GW_ALL, 1), expected);
    CHECK_EQ(gw_want(gw, GW_MESSAGE_CREATE, 0), expected);
    CHECK_EQ(gw_send_raw(gw, GW_ALL, 3, "{}", 2), expected);
    gw_fd(gw);
    gw_pollfds(gw, fds, 4);
    gw_pollfds(gw, NULL, 0);
    if (expected == GW_ERROR_IN_HOOK || expected == GW_ERROR_ENDED) CHECK_EQ(gw_timeout_ms(gw), -1);
    gw_recheck(gw);
    gw_session_save(gw, GW_ALL, out, sizeof out);
    gw_ack(gw, 0, 1, 1);
    gw_user_id(gw);
    gw_application_id(gw);
    gw_stats_read(gw, GW_ALL, &stats);
    gw_stats_read(gw, 7, &stats);
    gw_stats_read(gw, GW_ALL, NULL);
    CHECK(gw_why(gw) != NULL && gw_why(gw)[0] != 0);
    world_look_for_token(&w, gw_why(gw));
}

TEST(calls_with_no_client_do_nothing)
{
    world_init(&w);
    call_everything(NULL, GW_ERROR_ENDED);
    gw_wake(NULL);
    gw_close(NULL);
    CHECK_EQ(gw_shard_of(NULL, 5), 0);
    CHECK_U64(gw_user_id(NULL), 0);
    CHECK_U64(gw_pollfds(NULL, NULL, 0), 0);
    CHECK_EQ((int)gw_fd(NULL), -1);
    world_end(&w);
}

TEST(calls_after_closed_do_nothing)
{
    char out[700];
    begin_live(NULL);
    gw_stop(w.gw, GW_KEEP);
    WORLD_EXPECT(&w, GW_CLOSED, 5000);
    call_everything(w.gw, GW_ERROR_ENDED);
    gw_wake(w.gw);
    CHECK(gw_poll(w.gw) == NULL);
    CHECK(gw_session_save(w.gw, GW_ALL, out, sizeof out) > 50);
    world_end(&w);
}

static uint32_t hooked;
static char hooks_seen[400];

static void misuse(world *x, const char *hook)
{
    if (strstr(hooks_seen, hook) && hooked > 2000) return;      /* each hook often, but not for ever */
    if (!strstr(hooks_seen, hook)) { strcat(hooks_seen, hook); strcat(hooks_seen, " "); }
    hooked++;
    if (!x->gw) return;
    x->in_hook = NULL;                              /* ours again only when all is back */
    call_everything(x->gw, GW_ERROR_IN_HOOK);
    gw_close(x->gw);                                /* refused as well */
    gw_wake(x->gw);
    x->in_hook = misuse;
}

TEST(calls_from_inside_any_hook_are_refused_but_wake)
{
    static const char *const names[] = { "monotonic_us", "boot_us", "unix_time", "random", "alloc", "log", "open", "read", "write", "fd", "close" };
    size_t i;
    hooked = 0;
    hooks_seen[0] = 0;
    world_init(&w);
    w.sim.event_rate = 5;
    w.in_hook = misuse;
    world_begin(&w, NULL);
    for (i = 0; i < 200; i++) {                     /* gw_wake from hooks keeps it awake, so time is moved here */
        const gw_event *event;
        world_stream *stream;
        uint32_t most = 50;
        w.now_us += 100000;
        if (i == 100) world_do(&w, "cut");
        sim_tick(w.gateway, world_sim_ms(&w));
        for (stream = w.streams; stream; stream = stream->next) world_carry(stream);
        while (most-- && (event = gw_poll(w.gw)) != NULL) world_take(&w, event);
    }
    for (i = 0; i < sizeof names / sizeof names[0]; i++) if (!CHECK(strstr(hooks_seen, names[i]) != NULL)) fprintf(stderr, "    %s\n", names[i]);
    CHECK(hooked > 300);
    CHECK(world_count_events(&w, GW_WOKEN) > 0);
    CHECK(world_count_events(&w, GW_MESSAGE_CREATE) > 20);
    CHECK_U64(world_count_events(&w, GW_RESUMED), 1);
    w.in_hook = NULL;
    world_check_delivery(&w, 1);
    world_end(&w);
}

/* ---- the identify gate ---- */
static int32_t gate_answer;
static uint32_t gate_asked;

static int32_t on_gate(void *user, int32_t shard, uint32_t bucket)
{
    CHECK(user == &w);
    CHECK_EQ(shard, 0);
    CHECK_EQ(bucket, 0);
    gate_asked++;
    return gate_answer;
}

TEST(gate_hook_says_wait_then_go)
{
    const world_event *held;
    gate_answer = 3000;
    gate_asked = 0;
    world_init(&w);
    w.cfg.identify_gate = on_gate;
    world_begin(&w, NULL);
    held = WORLD_EXPECT(&w, GW_IDENTIFY_HELD, 100);
    CHECK_EQ(held->in_ms, 3000);
    world_advance(&w, 7000);
    CHECK_U64(gate_asked, 3);
    CHECK_U64(w.opens, 0);                          /* the permit is taken before connecting */
    gate_answer = 0;
    WORLD_EXPECT(&w, GW_READY, 3100);
    CHECK_U64(world_count_events(&w, GW_IDENTIFY_HELD), 1);
    world_end(&w);
}

TEST(gate_hook_is_asked_again_after_a_wake)
{
    gate_answer = 60000;
    gate_asked = 0;
    world_init(&w);
    w.cfg.identify_gate = on_gate;
    world_begin(&w, NULL);
    world_advance(&w, 1000);
    CHECK_U64(gate_asked, 1);
    gate_answer = 0;
    gw_wake(w.gw);
    WORLD_EXPECT(&w, GW_READY, 100);
    CHECK_U64(gate_asked, 2);
    world_end(&w);
}

TEST(gate_hook_says_never)
{
    const world_event *end;
    gate_answer = -1;
    world_init(&w);
    w.cfg.identify_gate = on_gate;
    world_begin(&w, NULL);
    end = WORLD_EXPECT(&w, GW_SHARD_STOPPED, 100);
    CHECK_HAS(end->message, "identify_gate");
    world_advance(&w, 100000);
    CHECK_U64(w.opens, 0);
    gw_stop(w.gw, GW_END);
    WORLD_EXPECT(&w, GW_CLOSED, 100);
    world_end(&w);
}

TEST(gate_hook_is_not_asked_for_a_resume)
{
    gate_answer = 0;
    gate_asked = 0;
    world_init(&w);
    w.cfg.identify_gate = on_gate;
    world_begin(&w, NULL);
    WORLD_EXPECT(&w, GW_READY, 100);
    gate_answer = -1;
    world_do(&w, "cut");
    WORLD_EXPECT(&w, GW_RESUMED, 100);
    CHECK_U64(gate_asked, 1);
    world_end(&w);
}

/* ---- loops ---- */
TEST(wake_comes_out_as_one_woken)
{
    uint32_t i;
    begin_live(NULL);
    for (i = 0; i < 10; i++) gw_wake(w.gw);
    world_settle(&w);
    CHECK_U64(world_count_events(&w, GW_WOKEN), 1);
    CHECK_EQ(world_last(&w, GW_WOKEN)->shard, GW_ALL);
    gw_wake(w.gw);
    world_settle(&w);
    CHECK_U64(world_count_events(&w, GW_WOKEN), 2);
    gw_wake(w.gw);
    CHECK(gw_wait(w.gw, GW_FOREVER) != NULL);       /* it does not sleep */
    world_end(&w);
}

TEST(timeout_names_the_next_deadline)
{
    int32_t timeout_ms;
    begin_live(NULL);
    timeout_ms = gw_timeout_ms(w.gw);
    CHECK(timeout_ms > 0 && timeout_ms <= 41250);
    w.now_us += (uint64_t)timeout_ms * 1000u;
    world_settle(&w);
    CHECK_U64(world_count(&w, WORLD_EV("heartbeat"), NULL), 1);         /* exactly then it was due */
    CHECK_EQ(gw_timeout_ms(w.gw), 41250);
    send_sounds();
    CHECK_EQ(gw_timeout_ms(w.gw), 0);
    world_settle(&w);
    CHECK(gw_timeout_ms(w.gw) > 0);
    world_end(&w);
}

TEST(timeout_is_zero_before_the_first_poll_and_while_events_wait)
{
    world_init(&w);
    world_begin(&w, NULL);
    CHECK_EQ(gw_timeout_ms(w.gw), 0);
    CHECK(gw_poll(w.gw) != NULL);
    CHECK_EQ(gw_timeout_ms(w.gw), 0);
    world_end(&w);
}

TEST(pollfds_lists_the_wake_descriptor)
{
    gw_pollfd fds[4];
    begin_live(NULL);
    CHECK_U64(gw_pollfds(w.gw, NULL, 0), 1);        /* the world's streams have no descriptors */
    CHECK_U64(gw_pollfds(w.gw, fds, 4), 1);
    CHECK(fds[0].fd >= 0);
    CHECK_EQ(fds[0].readable, 1);
    CHECK_EQ(fds[0].writable, 0);
    world_end(&w);
}

TEST(recheck_probes_what_is_open_and_finds_it_alive)
{
    size_t beats;
    begin_live(NULL);
    beats = world_count(&w, WORLD_EV("heartbeat"), NULL);
    gw_recheck(w.gw);
    gw_recheck(w.gw);
    world_advance(&w, 10000);
    CHECK_U64(world_count(&w, WORLD_EV("heartbeat"), NULL), beats + 1);
    CHECK_U64(world_count_events(&w, GW_DISCONNECTED), 0);
    world_end(&w);
}

TEST(recheck_finds_a_dead_connection_within_seconds)
{
    const world_event *end;
    uint64_t at_ms;
    begin_live(NULL);
    world_do(&w, "freeze");
    at_ms = world_ms(&w);
    gw_recheck(w.gw);
    end = WORLD_EXPECT(&w, GW_DISCONNECTED, 6000);
    CHECK_EQ(end->reason, GW_REASON_NO_ACK);
    CHECK(end->at_ms <= at_ms + 5000);
    WORLD_EXPECT(&w, GW_RESUMED, 1000);
    world_end(&w);
}

TEST(recheck_skips_a_wait)
{
    uint64_t opens;
    begin_live(NULL);
    w.refuse = UINT32_MAX;
    w.any_violations = 1;
    world_do(&w, "cut");
    world_advance(&w, 400000);
    WORLD_EXPECT(&w, GW_DISCONNECTED, 70000);
    opens = w.opens;
    w.refuse = 0;
    gw_recheck(w.gw);
    world_settle(&w);
    CHECK(w.opens > opens);
    world_end(&w);
}

TEST(frames_of_a_game_serve_as_well_as_deadlines)
{
    world_init(&w);
    w.frame_ms = 16;
    w.sim.event_rate = 20;
    world_begin(&w, "on ready x1 +5000 cut");
    world_advance(&w, 60000);
    world_do(&w, "rate 0");
    world_advance(&w, 1000);
    CHECK_U64(world_count_events(&w, GW_RESUMED), 1);
    CHECK_U64(world_count_events(&w, GW_POLLED_LATE), 0);
    world_check_delivery(&w, 1);
    world_end(&w);
}

TEST(clock_that_stands_still_or_jumps_back_does_no_harm)
{
    uint32_t i;
    begin_live(NULL);
    w.any_violations = 1;
    for (i = 0; i < 100; i++) world_settle(&w);
    w.now_us -= 500000000;                          /* a broken clock hook */
    for (i = 0; i < 10; i++) gw_poll(w.gw);
    gw_timeout_ms(w.gw);
    gw_recheck(w.gw);
    send_sounds();
    w.now_us += 600000000;
    world_advance(&w, 200000);
    CHECK_EQ(gw_alive(w.gw), 1);
    world_end(&w);
}

static int32_t random_or_not(void *user, void *bytes, size_t len)
{
    return gate_answer ? -1 : world_on_random(user, bytes, len);
}

TEST(random_that_fails_sends_nothing_unmasked_and_recovers)
{
    gate_answer = 1;
    world_init(&w);
    w.cfg.random = random_or_not;
    world_begin(&w, NULL);
    world_advance(&w, 120000);
    CHECK_U64(world_count(&w, WORLD_EV("identify"), NULL), 0);
    gate_answer = 0;
    WORLD_EXPECT(&w, GW_READY, 130000);
    gate_answer = 1;
    world_advance(&w, 50000);
    world_do(&w, "op1");
    world_advance(&w, 100000);
    gate_answer = 0;
    world_advance(&w, 200000);
    CHECK_EQ(gw_shard_live(w.gw, 0), 1);
    CHECK_U64(world_count(&w, "mask_zero", NULL), 0);
    CHECK_U64(world_count(&w, "mask_reused", NULL), 0);
    w.any_violations = 1;
    world_end(&w);
}

/* ---- several shards ---- */
TEST(shards_two_in_one_client_each_with_its_own_session)
{
    uint64_t guild = UINT64_C(838860800000000000);
    gw_stats stats;
    world_init(&w);
    w.cfg.shard_count = w.cfg.shard_total = 2;
    w.sim.guilds = 6;
    w.sim.event_rate = 5;
    world_begin(&w, NULL);
    CHECK_EQ(WORLD_EXPECT(&w, GW_READY, 1000)->shard, 0);
    CHECK_EQ(gw_shard_live(w.gw, GW_ALL), 0);
    CHECK_EQ(WORLD_EXPECT(&w, GW_READY, 10000)->shard, 1);
    CHECK_EQ(gw_shard_live(w.gw, GW_ALL), 1);
    CHECK(world_time(&w, WORLD_EV("identify"), 1) >= world_time(&w, WORLD_EV("identify"), 0) + 5000);
    CHECK_U64(world_count(&w, WORLD_EV("identify"), "\"shard\":[1,2]"), 1);
    CHECK_EQ(gw_shard_of(w.gw, guild), (int)((guild >> 22) % 2));
    CHECK_EQ(gw_shard_of(w.gw, UINT64_MAX), 1);
    world_do(&w, "shard 0 op7");
    CHECK_EQ(WORLD_EXPECT(&w, GW_DISCONNECTED, 100)->shard, 0);
    CHECK_EQ(WORLD_EXPECT(&w, GW_RESUMED, 1000)->shard, 0);
    CHECK(gw_send_raw(w.gw, GW_ALL, 3, PRESENCE, strlen(PRESENCE)) > 0);
    world_settle(&w);
    CHECK_U64(world_count(&w, WORLD_EV("send"), NULL), 2);
    world_advance(&w, 100000);
    CHECK_EQ(gw_stats_read(w.gw, GW_ALL, &stats), GW_OK);
    CHECK_U64(stats.identifies, 2);
    CHECK_U64(stats.resumes, 1);
    CHECK_U64(stats.connects, 3);
    CHECK_EQ(gw_stats_read(w.gw, 1, &stats), GW_OK);
    CHECK_U64(stats.connects, 1);
    CHECK_EQ(gw_stats_read(w.gw, 2, &stats), GW_ERROR_NOT_OUR_SHARD);
    gw_stop(w.gw, GW_END);
    WORLD_EXPECT(&w, GW_CLOSED, 5000);
    CHECK_U64(world_count(&w, WORLD_EV("close_received"), "\"code\":1000"), 2);
    world_end(&w);
}

TEST(shards_of_a_range_have_their_own_ids)
{
    world_init(&w);
    w.cfg.shard_first = 2;
    w.cfg.shard_count = 2;
    w.cfg.shard_total = 4;
    w.cfg.max_concurrency = w.sim.max_concurrency = 4;
    world_begin(&w, NULL);
    WORLD_EXPECT(&w, GW_READY, 1000);
    WORLD_EXPECT(&w, GW_READY, 1000);
    CHECK_U64(world_count(&w, WORLD_EV("identify"), "\"shard\":[2,4]"), 1);
    CHECK_U64(world_count(&w, WORLD_EV("identify"), "\"shard\":[3,4]"), 1);
    CHECK_EQ(gw_send_raw(w.gw, 0, 3, "{}", 2), GW_ERROR_NOT_OUR_SHARD);
    world_end(&w);
}

TEST(shards_a_flood_on_one_does_not_starve_the_other)
{
    uint32_t i, other = 0, beats;
    world_init(&w);
    w.cfg.shard_count = w.cfg.shard_total = 2;
    w.cfg.max_concurrency = w.sim.max_concurrency = 2;
    w.sim.interval_ms = 2000;
    w.sim.quiet_dispatch = 1;
    world_begin(&w, NULL);
    WORLD_EXPECT(&w, GW_READY, 1000);
    WORLD_EXPECT(&w, GW_READY, 1000);
    world_settle(&w);
    world_script(&w, "every 100 shard 0 big 400000\nevery 50 shard 1 event MESSAGE_CREATE {}");
    for (i = 0; i < 600; i++) {
        const gw_event *event;
        world_stream *stream;
        w.now_us += 20000;
        sim_tick(w.gateway, world_sim_ms(&w));
        for (stream = w.streams; stream; stream = stream->next) world_carry(stream);
        while ((event = gw_poll(w.gw)) != NULL) {
            if (event->shard == 1 && event->type == GW_MESSAGE_CREATE) other++;
            if (event->type == GW_DISCONNECTED) { CHECK_TEXT(event->message, "no end"); i = 600; }
        }
    }
    beats = (uint32_t)world_count(&w, WORLD_EV("heartbeat"), NULL);
    CHECK(other > 150);
    CHECK(beats >= 10);
    world_end(&w);
}

/* ---- memory ---- */
TEST(memory_failing_at_any_allocation_crashes_nothing)
{
    uint64_t after, most;
    world_init(&w);
    world_begin(&w, "on ready x1 +1000 cut");
    world_advance(&w, 5000);
    most = w.allocations;
    world_end(&w);
    for (after = 1; after < most + 3; after += world_is_slow() ? 5 : 1) {
        world_init(&w);
        w.fail_after = after;
        w.any_violations = 1;
        w.gateway = sim_new(&w.sim, world_sim_ms(&w));
        world_script(&w, "on ready x1 +1000 cut");
        w.gw = gw_open(&w.cfg);
        if (w.gw) {
            uint32_t i;
            for (i = 0; i < 300; i++) {
                const gw_event *event;
                world_stream *stream;
                uint32_t few = 100;
                w.now_us += 500000;
                sim_tick(w.gateway, world_sim_ms(&w));
                for (stream = w.streams; stream; stream = stream->next) world_carry(stream);
                while (few-- && (event = gw_poll(w.gw)) != NULL) {
                    CHECK(event->message != NULL && event->name != NULL);
                    gw_u64(&event->d, "user.id");
                }
                if (i == 100) { gw_send_raw(w.gw, 0, 3, PRESENCE, strlen(PRESENCE)); gw_why(w.gw); }
                if (i == 150) w.fail_after = 0;     /* memory is back: then so is the bot */
            }
            world_advance(&w, 60000);
            if (gw_alive(w.gw)) CHECK_EQ(gw_shard_live(w.gw, 0), 1);
        }
        world_end(&w);
    }
}

static void use_block(world *x, void *block, size_t bytes)
{
    x->cfg.memory = block;
    x->cfg.memory_bytes = bytes;
    x->own_memory = 1;
}

TEST(memory_fixed_block_of_the_needed_size_serves_a_whole_session)
{
    size_t need;
    void *block;
    gw_stats stats;
    uint32_t i;
    world_init(&w);
    w.cfg.max_payload = 65536;
    w.cfg.max_queued = 8;
    w.sim.event_rate = 20;
    need = gw_memory_needed(&w.cfg);
    CHECK(need > 2 * 65536 && need < 1000000);
    block = malloc(need);
    use_block(&w, block, need);
    world_begin(&w, NULL);
    WORLD_EXPECT(&w, GW_READY, 1000);
    for (i = 0; i < 20; i++) {
        uint32_t j;
        for (j = 0; j < 8; j++) send_sounds();
        world_do(&w, "big 60000");
        world_advance(&w, 2000);
        world_do(&w, i % 2 ? "cut" : "op7");
        world_advance(&w, 5000);
    }
    world_do(&w, "rate 0");
    world_advance(&w, 5000);
    CHECK_U64(world_count_events(&w, GW_SKIPPED), 0);
    CHECK_U64(world_count_events(&w, GW_RESUMED), 20);
    CHECK_U64(world_count(&w, WORLD_EV("identify"), NULL), 1);
    gw_stats_read(w.gw, GW_ALL, &stats);
    CHECK(stats.memory_peak <= need);
    world_check_delivery(&w, 1);
    w.any_violations = 1;
    world_end(&w);
    free(block);
}

TEST(memory_fixed_block_skips_what_does_not_fit_and_lives)
{
    size_t bytes = 120000;
    void *block = malloc(bytes);
    world_init(&w);
    w.cfg.max_payload = 10000000;                   /* more than the block could ever hold */
    w.cfg.max_queued = 4;
    use_block(&w, block, bytes);
    world_begin(&w, NULL);
    WORLD_EXPECT(&w, GW_READY, 1000);
    world_do(&w, "big 500000");
    WORLD_EXPECT(&w, GW_SKIPPED, 1000);
    world_do(&w, "event MESSAGE_CREATE {}");
    WORLD_EXPECT(&w, GW_MESSAGE_CREATE, 1000);
    CHECK_U64(world_count_events(&w, GW_DISCONNECTED), 0);
    world_do(&w, "cut");
    WORLD_EXPECT(&w, GW_RESUMED, 1000);
    world_end(&w);
    free(block);
}

TEST(memory_fixed_block_too_small_never_crashes)
{
    size_t bytes, opened = 0, live = 0, step = world_is_slow() ? 2311 : 311;
    uint8_t *block = (uint8_t *)malloc(120016);
    for (bytes = 0; bytes < 120000; bytes += step) {
        world_init(&w);
        w.cfg.max_payload = 32768;
        w.any_violations = 1;
        w.idle_spins = 0;
        use_block(&w, block + bytes % 13, bytes);   /* also where it is not aligned */
        w.gateway = sim_new(&w.sim, world_sim_ms(&w));
        w.gw = gw_open(&w.cfg);
        if (w.gw) {
            opened++;
            world_advance(&w, 60000);
            send_sounds();
            gw_why(w.gw);
            world_advance(&w, 60000);
            live += (size_t)gw_shard_live(w.gw, 0);
        }
        world_end(&w);
    }
    CHECK(opened > 0 && opened < 120000 / step);
    CHECK(live > 0);
    free(block);
}

TEST(memory_alloc_hook_gets_all_back_after_a_busy_life)
{
    uint32_t i;
    world_init(&w);
    w.sim.event_rate = 50;
    world_begin(&w, "on accept fragments 4");
    for (i = 0; i < 10; i++) {
        world_advance(&w, 3000);
        world_do(&w, i % 3 == 0 ? "cut" : i % 3 == 1 ? "big 300000" : "op9 false");
        send_sounds();
    }
    CHECK(w.live_blocks > 0);
    CHECK(w.live_bytes < 400000);
    {
        gw_stats stats;
        gw_stats_read(w.gw, GW_ALL, &stats);
        CHECK_U64(stats.memory_now, w.live_bytes);
    }
    w.any_violations = 1;
    world_end(&w);                                  /* checks that nothing is left */
}

CHECK_MAIN()
