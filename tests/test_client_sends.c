/* Commands: what is queued, when it leaves, what is refused before the wire, what comes back as COMMAND_DROPPED. */
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

#define PRESENCE "{\"since\":null,\"activities\":[],\"status\":\"online\",\"afk\":false}"

static gw_ticket send_text(const char *d) { return gw_send_raw(w.gw, 0, 3, d, strlen(d)); }

static gw_ticket send_sounds(void)
{
    static const char d[] = "{\"guild_ids\":[]}";
    return gw_send_raw(w.gw, 0, 31, d, strlen(d));
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
    CHECK(world_line(&w, WORLD_EV("send"), "\"op\":4,\"d\":{\"guild_id\":\"838860800000000000\",\"channel_id\":null", 0,
        line, sizeof line));
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
    static const char *const bad[] = { "", "{", "{]", "nul", "{\"a\":1}}", "{\"a\":1} x", "{\"a\":01}", "{'a':1}", "[1,]",
        "{\"op\":1},\"op\":2", "\"\xC3(\"", "\"\xFF\"",
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

CHECK_MAIN()
