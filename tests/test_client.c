/* The whole client in the world of world.h: READY, heartbeats, the zombie rule, opcodes in every state, deadlines.
 * How connections end and go on: test_client_ends.c; payloads: test_client_payloads.c; saved sessions:
 * test_client_sessions.c; the public calls: test_client_calls.c. */
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
}

/* ---- READY ---- */
TEST(client_reaches_ready_and_tells_each_step)
{
    static const uint32_t steps[] = { GW_CONNECTING, GW_OPENED, GW_IDENTIFYING, GW_READY, GW_GUILD_CREATE,
        GW_GUILD_CREATE };
    size_t i;
    begin(NULL);
    world_advance(&w, 1000);
    CHECK_U64(w.event_count, 6);
    for (i = 0; i < w.event_count && i < 6; i++) CHECK_EQ(w.events[i].type, steps[i]);
    CHECK_HAS(w.events[0].d, "{\"url\":\"ws://127.0.0.1/?v=10&encoding=json\"}");
    CHECK_EQ(w.events[3].shard, 0);
    CHECK_U64(w.events[3].seq, 1);
    CHECK_U64(w.events[3].session, 1);
    CHECK_EQ(w.events[3].replayed, 0);
    CHECK_TEXT(w.events[3].name, "READY");
    CHECK_HAS(w.events[3].d, "\"session_id\"");
    CHECK(gw_shard_live(w.gw, 0));
    CHECK(gw_shard_live(w.gw, GW_ALL));
    CHECK(!gw_shard_live(w.gw, 1));
    CHECK_U64(gw_user_id(w.gw), UINT64_C(1098765432109876543));
    CHECK_U64(gw_application_id(w.gw), UINT64_C(1098765432109876544));
    world_end(&w);
}

TEST(client_does_nothing_before_the_first_poll)
{
    world_init(&w);
    world_begin(&w, NULL);
    CHECK_U64(w.opens, 0);
    CHECK_EQ(gw_alive(w.gw), 1);
    world_end(&w);
}

TEST(client_asks_for_version_and_encoding)
{
    char line[512];
    begin_live(NULL);
    CHECK(world_line(&w, "\"path\":\"/?v=10&encoding=json\"", "\"status\":101", 0, line, sizeof line));
    CHECK(strstr(line, "extensions") == NULL);
    world_end(&w);
}

TEST(client_hands_events_out_in_order)
{
    world_init(&w);
    w.sim.event_rate = 50;
    world_begin(&w, NULL);
    world_advance(&w, 20000);
    CHECK(w.event_count > 900);
    world_check_delivery(&w, 1);
    world_end(&w);
}

TEST(client_keeps_up_with_a_flood_in_small_turns)
{
    world_init(&w);
    w.sim.event_rate = SIM_RATE_FLOOD;
    w.sim.quiet_dispatch = 1;
    w.cfg.turn_bytes = 1500;
    world_begin(&w, "on ready +2000 rate 0");
    WORLD_EXPECT(&w, GW_READY, 1000);
    w.cfg.user = &w;
    {
        size_t most = 0, turn, i;
        for (i = 0; i < 200; i++) {
            const gw_event *event;
            uint64_t bytes = 0;
            world_stream *stream;
            sim_tick(w.gateway, world_sim_ms(&w));
            for (stream = w.streams; stream; stream = stream->next) world_carry(stream);
            for (turn = 0; (event = gw_poll(w.gw)) != NULL; turn++) bytes += event->bytes;
            if (turn > most) most = turn;
            CHECK(turn == 0 || bytes < 1500 + 40000);       /* a turn ends although there is always more */
        }
        CHECK(most > 0 && most < 100);
        CHECK_EQ(gw_timeout_ms(w.gw), 0);
    }
    world_do(&w, "rate 0");
    world_advance(&w, 3000);
    world_end(&w);
}

/* ---- heartbeats ---- */
TEST(client_beats_null_before_the_first_event_and_then_its_seq)
{
    char line[512];
    begin("on accept late_ready 60000");
    WORLD_EXPECT(&w, GW_READY, 61000);
    CHECK(world_line(&w, WORLD_EV("heartbeat"), NULL, 0, line, sizeof line));
    CHECK_HAS(line, "\"d\":null");
    world_advance(&w, 42000);
    CHECK(world_line(&w, WORLD_EV("heartbeat"), "\"d\":3", 0, line, sizeof line));
    world_end(&w);
}

/* Many shards share what they read into, and keep it for the next one that does. */
TEST(client_of_two_shards_lives_on_when_there_is_no_memory_left)
{
    world_init(&w);
    w.cfg.shard_count = w.cfg.shard_total = 2;
    w.cfg.max_concurrency = w.sim.max_concurrency = 2;
    world_begin(&w, "rate 0");
    world_advance(&w, 50000);
    CHECK_EQ(gw_shard_live(w.gw, GW_ALL), 1);
    w.fail_after = 1;
    world_advance(&w, 130000);
    CHECK(world_count(&w, WORLD_EV("heartbeat"), NULL) >= 8);
    CHECK_U64(world_count_events(&w, GW_DISCONNECTED), 0);
    w.fail_after = 0;
    world_end(&w);
}

TEST(client_makes_up_for_a_beat_that_could_not_be_written)
{
    uint64_t first_ms, next_ms;
    begin_live("");
    world_advance(&w, 42000);
    first_ms = world_time(&w, WORLD_EV("heartbeat"), 0);
    world_advance(&w, first_ms + 41000 - world_ms(&w));
    w.no_random = 1;                                /* no mask for its frame */
    world_advance(&w, 3000);
    CHECK_U64(world_count(&w, WORLD_EV("heartbeat"), NULL), 1);
    w.no_random = 0;
    world_advance(&w, 1100);
    if (!CHECK_U64(world_count(&w, WORLD_EV("heartbeat"), NULL), 2)) return;
    next_ms = world_time(&w, WORLD_EV("heartbeat"), 1);
    CHECK(next_ms > first_ms + 41250 && next_ms <= first_ms + 45100);
    world_advance(&w, 42000);                       /* and the interval begins with it */
    CHECK_U64(world_time(&w, WORLD_EV("heartbeat"), 2), next_ms + 41250);
    CHECK_U64(world_count_events(&w, GW_DISCONNECTED), 0);
    world_end(&w);
}

TEST(client_first_beat_is_jittered_and_the_rest_regular)
{
    uint64_t least = UINT64_MAX, most = 0, sum = 0;
    uint32_t seed;
    for (seed = 1; seed <= 40; seed++) {
        uint64_t since_ms;
        size_t i;
        world_init(&w);
        w.random = seed * 977u;
        w.sim.interval_ms = 10000;
        world_begin(&w, NULL);
        world_advance(&w, 45000);
        since_ms = world_number(&w, WORLD_EV("heartbeat"), 0, "since_ms");
        CHECK(since_ms <= 10000);
        if (since_ms < least) least = since_ms;
        if (since_ms > most) most = since_ms;
        sum += since_ms;
        for (i = 1; i < 4; i++) CHECK_U64(world_number(&w, WORLD_EV("heartbeat"), i, "since_ms"), 10000);
        world_end(&w);
    }
    CHECK(least < 1500 && most > 8500);
    CHECK(sum / 40 > 3000 && sum / 40 < 7000);
}

TEST(client_draws_a_new_jitter_for_each_connection)
{
    begin_live("on ready x1 +1000 op7\non resumed x1 +1000 op7");
    world_advance(&w, 50000);
    CHECK(world_count(&w, WORLD_EV("heartbeat"), "\"conn\":3") >= 1);
    CHECK_U64(world_count(&w, WORLD_EV("heartbeat"), "\"conn\":3"), world_count(&w, WORLD_EV("heartbeat"), NULL) -
              world_count(&w, WORLD_EV("heartbeat"), "\"conn\":1") - world_count(&w, WORLD_EV("heartbeat"),
                  "\"conn\":2"));
    CHECK(world_count(&w, WORLD_EV("heartbeat"), NULL) <= 4);      /* no second timer is alive */
    world_end(&w);
}

TEST(client_answers_op1_at_once_and_its_timer_goes_on)
{
    char line[512];
    uint64_t at_ms;
    begin_live(NULL);
    world_advance(&w, 3000);
    world_do(&w, "op1");
    at_ms = world_sim_ms(&w);
    world_settle(&w);
    CHECK(world_line(&w, WORLD_EV("heartbeat"), "\"asked\":true", 0, line, sizeof line));
    CHECK_U64(world_time(&w, "\"asked\":true", 0), at_ms);
    world_advance(&w, 41250);
    CHECK_U64(world_count(&w, WORLD_EV("heartbeat"), NULL), 2);
    world_end(&w);
}

TEST(client_beats_on_under_a_fast_interval_given_by_hello)
{
    world_init(&w);
    w.sim.interval_ms = 5000;
    world_begin(&w, NULL);
    world_advance(&w, 60000);
    CHECK(world_count(&w, WORLD_EV("heartbeat"), NULL) >= 11);
    CHECK_U64(world_count_events(&w, GW_DISCONNECTED), 0);
    world_end(&w);
}

TEST(client_measures_latency_from_beat_to_ack)
{
    gw_stats stats;
    world_init(&w);
    w.latency_ms = 48;
    world_begin(&w, NULL);
    world_advance(&w, 100000);
    CHECK_EQ(gw_stats_read(w.gw, GW_ALL, &stats), GW_OK);
    CHECK(stats.heartbeats >= 2);
    CHECK_U64(stats.acks, stats.heartbeats);
    CHECK_U64(stats.latency_us, 48000);
    CHECK_U64(stats.latency_mean_us, 48000);
    world_end(&w);
}

/* ---- the zombie rule ---- */
TEST(client_drops_a_connection_whose_beat_stays_unanswered)
{
    const world_event *end;
    uint64_t first_ms;
    begin_live("on ready x1 no_ack");
    end = WORLD_EXPECT(&w, GW_DISCONNECTED, 90000);
    first_ms = world_time(&w, WORLD_EV("heartbeat"), 0);
    CHECK_EQ(end->reason, GW_REASON_NO_ACK);
    CHECK_EQ(end->will, GW_NEXT_RESUME);
    CHECK_EQ(end->in_ms, 0);
    CHECK_U64(end->at_ms, first_ms + 41250);        /* when the next regular beat is due, not later */
    WORLD_EXPECT(&w, GW_RESUMED, 1000);
    CHECK_U64(world_count(&w, WORLD_EV("close_received"), "\"code\":1000"), 0);
    CHECK_U64(world_count(&w, WORLD_EV("close_received"), "\"code\":1001"), 0);
    world_advance(&w, 100000);                      /* the stale flag does not kill the next one */
    CHECK_U64(world_count_events(&w, GW_DISCONNECTED), 1);
    world_end(&w);
}

TEST(client_does_not_wait_for_a_dead_peers_close_frame)
{
    begin_live(NULL);
    w.mute = 1;                                     /* the cable is pulled; what we write goes nowhere */
    WORLD_EXPECT(&w, GW_DISCONNECTED, 90000);
    w.mute = 0;
    w.any_violations = 1;                           /* the gateway may have missed a beat */
    WORLD_EXPECT(&w, GW_RESUMED, 60000);            /* the first try was swallowed as well */
    world_check_delivery(&w, 1);
    world_end(&w);
}

TEST(client_zombie_with_a_full_socket_is_dropped_as_well)
{
    const world_event *end;
    begin_live("on ready x1 no_ack");
    world_advance(&w, 1000);
    w.write_full = 1;
    end = WORLD_EXPECT(&w, GW_DISCONNECTED, 130000);
    CHECK_EQ(end->reason, GW_REASON_NO_ACK);
    w.write_full = 0;
    w.any_violations = 1;
    WORLD_EXPECT(&w, GW_RESUMED, 5000);
    world_end(&w);
}

TEST(client_late_poll_kills_nothing_that_is_alive)
{
    const world_event *late;
    uint64_t first_ms;
    world_init(&w);
    w.latency_ms = 100;
    world_begin(&w, NULL);
    WORLD_EXPECT(&w, GW_READY, 1000);
    while (world_count(&w, WORLD_EV("heartbeat"), NULL) == 0) world_advance(&w, 20);
    first_ms = world_time(&w, WORLD_EV("heartbeat"), 0);
    world_stall(&w, 45000);                         /* the ACK lies unread, and the next beat is 3.8 s late */
    late = WORLD_EXPECT(&w, GW_POLLED_LATE, 100);
    CHECK(late->in_ms > 3000 && late->in_ms < 4000);
    CHECK(world_time(&w, WORLD_EV("heartbeat"), 1) >= first_ms + 41250);
    world_advance(&w, 100000);
    CHECK_U64(world_count_events(&w, GW_DISCONNECTED), 0);
    CHECK_U64(world_count_events(&w, GW_POLLED_LATE), 1);
    world_end(&w);
}

/* The handler of one event takes so long that the next poll, in the same turn, finds a beat due and the ACK unread. */
TEST(client_slow_handler_inside_a_turn_kills_nothing_that_is_alive)
{
    world_init(&w);
    w.latency_ms = 100;
    world_begin(&w, NULL);
    WORLD_EXPECT(&w, GW_READY, 1000);
    while (world_count(&w, WORLD_EV("heartbeat"), NULL) == 0) world_advance(&w, 20);
    w.gw->in_turn = 1;                              /* an event is in hand */
    world_stall(&w, 45000);
    WORLD_EXPECT(&w, GW_POLLED_LATE, 100);
    world_advance(&w, 100000);
    CHECK_U64(world_count_events(&w, GW_DISCONNECTED), 0);
    world_end(&w);
}

/* What came while it was held is read before anybody is judged. */
TEST(client_let_go_after_a_hold_is_not_judged_by_what_it_did_not_read)
{
    world_init(&w);
    w.latency_ms = 100;
    world_begin(&w, NULL);
    WORLD_EXPECT(&w, GW_READY, 1000);
    CHECK_EQ(gw_hold(w.gw, GW_ALL, 1), GW_OK);
    world_advance(&w, 130000);                      /* three beats, whose ACKs lie unread */
    CHECK_EQ(gw_hold(w.gw, GW_ALL, 0), GW_OK);
    world_advance(&w, 100000);
    CHECK_U64(world_count_events(&w, GW_DISCONNECTED), 0);
    world_end(&w);
}

TEST(client_polled_a_minute_late_resumes_if_the_server_gave_up)
{
    begin_live(NULL);
    w.any_violations = 1;                           /* the gateway closes: heartbeat_missed */
    world_stall(&w, 120000);
    WORLD_EXPECT(&w, GW_DISCONNECTED, 1000);
    WORLD_EXPECT(&w, GW_RESUMED, 5000);
    world_check_delivery(&w, 1);
    world_end(&w);
}

TEST(client_late_ack_behind_a_burst_is_no_zombie)
{
    world_init(&w);
    w.sim.interval_ms = 2000;
    w.latency_ms = 1500;
    w.sim.event_rate = 20;
    w.sim.quiet_dispatch = 1;
    world_begin(&w, NULL);
    world_advance(&w, 30000);
    CHECK_U64(world_count_events(&w, GW_DISCONNECTED), 0);
    world_end(&w);
}

/* With events coming in all the time and the caller never emptying the socket, nobody can know that the ACK is not
 * among what waits. */
TEST(client_that_never_drains_its_socket_is_not_judged)
{
    uint32_t i;
    world_init(&w);
    w.sim.interval_ms = 3000;
    w.sim.heartbeat_grace_ms = 5000;
    w.sim.event_rate = SIM_RATE_FLOOD;
    w.sim.quiet_dispatch = 1;
    world_begin(&w, NULL);
    WORLD_EXPECT(&w, GW_READY, 1000);
    for (i = 0; i < 900; i++) {                     /* 20 ms frames, a few events each: always behind */
        const gw_event *event;
        world_stream *stream;
        uint32_t few = 5;
        w.now_us += 20000;
        sim_tick(w.gateway, world_sim_ms(&w));
        for (stream = w.streams; stream; stream = stream->next) world_carry(stream);
        while (few-- && (event = gw_poll(w.gw)) != NULL) {
            if (event->type == GW_DISCONNECTED) { CHECK_TEXT(event->message, "no end"); i = 900; }
        }
    }
    CHECK(world_count(&w, WORLD_EV("heartbeat"), NULL) >= 5);
    w.any_violations = 1;
    world_end(&w);
}

TEST(client_hold_suspends_the_zombie_rule_and_beats_go_on)
{
    world_init(&w);
    w.latency_ms = 100;
    w.sim.event_rate = 5;
    world_begin(&w, NULL);
    WORLD_EXPECT(&w, GW_READY, 1000);
    while (world_count(&w, WORLD_EV("heartbeat"), NULL) == 0) world_advance(&w, 20);
    CHECK_EQ(gw_hold(w.gw, GW_ALL, 1), GW_OK);
    {
        size_t before = w.event_count;
        world_advance(&w, 200000);
        CHECK(w.event_count <= before + 1);         /* not one event, or the one that was in the pipe */
    }
    CHECK(world_count(&w, WORLD_EV("heartbeat"), NULL) >= 5);
    CHECK_U64(world_count_events(&w, GW_DISCONNECTED), 0);
    CHECK_EQ(gw_hold(w.gw, 0, 0), GW_OK);
    world_advance(&w, 100000);
    CHECK_U64(world_count_events(&w, GW_DISCONNECTED), 0);
    world_check_delivery(&w, 1);
    world_end(&w);
}

TEST(client_hold_while_connecting_does_not_hinder_the_handshake)
{
    begin(NULL);
    CHECK_EQ(gw_hold(w.gw, 0, 1), GW_OK);
    world_advance(&w, 5000);
    CHECK_U64(world_count(&w, WORLD_EV("identify"), NULL), 1);
    CHECK_U64(world_count_events(&w, GW_READY), 0);
    CHECK_EQ(gw_hold(w.gw, 0, 0), GW_OK);
    WORLD_EXPECT(&w, GW_READY, 100);
    CHECK_EQ(gw_hold(w.gw, 5, 1), GW_ERROR_ARGUMENT);
    CHECK_HAS(gw_why(w.gw), "shard");
    world_end(&w);
}

/* ---- deadlines ---- */
TEST(client_waits_twenty_seconds_for_hello)
{
    const world_event *end;
    begin("next 1 no_hello");
    end = WORLD_EXPECT(&w, GW_DISCONNECTED, 30000);
    CHECK_EQ(end->reason, GW_REASON_TIMEOUT);
    CHECK_U64(end->at_ms, 1020000);
    CHECK_HAS(end->message, "Hello");
    CHECK_EQ(end->will, GW_NEXT_IDENTIFY);
    WORLD_EXPECT(&w, GW_READY, 5000);
    CHECK_U64(world_count(&w, WORLD_EV("identify"), NULL), 1);      /* the permit of the first try was given back */
    world_end(&w);
}

TEST(client_waits_for_ready_patiently_while_beats_are_answered)
{
    begin("on accept late_ready 600000");
    WORLD_EXPECT(&w, GW_READY, 601000);
    CHECK_U64(world_count(&w, WORLD_EV("identify"), NULL), 1);
    CHECK_U64(world_count_events(&w, GW_DISCONNECTED), 0);
    CHECK(world_count(&w, WORLD_EV("heartbeat"), NULL) >= 14);
    world_end(&w);
}

TEST(client_does_not_wait_for_ready_on_a_dead_connection)
{
    begin("next 1 no_ready\nnext 1 no_ack");
    WORLD_EXPECT(&w, GW_DISCONNECTED, 90000);
    CHECK_EQ(world_last(&w, GW_DISCONNECTED)->reason, GW_REASON_NO_ACK);
    WORLD_EXPECT(&w, GW_READY, 10000);
    world_end(&w);
}

TEST(client_resume_without_any_answer_ends_after_a_minute)
{
    const world_event *end;
    begin_live(NULL);
    world_do(&w, "cut");
    world_script(&w, "next 1 no_ready");
    WORLD_EXPECT(&w, GW_DISCONNECTED, 2000);
    end = WORLD_EXPECT(&w, GW_DISCONNECTED, 70000);
    CHECK_EQ(end->reason, GW_REASON_TIMEOUT);
    CHECK_EQ(end->will, GW_NEXT_RESUME);
    WORLD_EXPECT(&w, GW_RESUMED, 130000);
    world_end(&w);
}

TEST(client_replay_renews_the_deadline_of_resuming)
{
    uint32_t i;
    begin_live(NULL);
    world_do(&w, "cut");
    world_script(&w, "next 1 no_ready");
    WORLD_EXPECT(&w, GW_DISCONNECTED, 1000);
    WORLD_EXPECT(&w, GW_OPENED, 1000);
    for (i = 0; i < 4; i++) {                       /* a replayed event each 50 s */
        char text[120];
        world_advance(&w, 50000);
        snprintf(text, sizeof text, "raw {\"op\":0,\"t\":\"TYPING_START\",\"s\":%u,\"d\":{}}", (unsigned)(10 + i));
        world_do(&w, text);
    }
    world_settle(&w);
    CHECK_U64(world_count_events(&w, GW_DISCONNECTED), 1);
    CHECK_U64(world_count_events(&w, GW_TYPING_START), 4);
    CHECK_EQ(world_last(&w, GW_TYPING_START)->replayed, 1);
    w.any_violations = 1;                           /* beats with a seq that the gateway knows nothing of */
    world_end(&w);
}

TEST(client_stalled_upgrade_times_out)
{
    const world_event *end;
    begin("next 1 stall_http");
    end = WORLD_EXPECT(&w, GW_DISCONNECTED, 60000);
    CHECK_EQ(end->reason, GW_REASON_TIMEOUT);
    WORLD_EXPECT(&w, GW_READY, 5000);
    world_end(&w);
}

TEST(client_hello_after_a_stall_counts_although_its_deadline_passed)
{
    world_init(&w);
    w.latency_ms = 19000;                           /* 101 and Hello arrive at 19 s; we look at 40 s */
    world_begin(&w, NULL);
    world_advance(&w, 10);
    world_stall(&w, 14000);
    w.latency_ms = 0;
    WORLD_EXPECT(&w, GW_READY, 60000);
    world_end(&w);
}

/* ---- every opcode in every state ---- */
typedef struct state_case { const char *name, *when; } state_case;

static const state_case states[] = {
    { "HELLO", "on open x1 %s" }, { "IDENTIFYING", "next 1 late_ready 3000\non identify x1 +10 %s" },
    { "LIVE", "on ready x1 +10 %s" }, { "RESUMING", "on ready x1 +10 cut\non resume x1 %s" }
};

static const char *const opcodes[] = {
    "op1", "op7", "op9 false", "op9 true", "unknown_op", "hello", "ack", "unknown_event", "seq_zero",
    "raw {\"op\":0,\"t\":\"TYPING_START\",\"s\":null,\"d\":null}", "raw {\"op\":0,\"t\":null,\"s\":null,\"d\":null}",
        "raw {\"op\":0}",
    "raw {\"op\":1}", "raw {\"op\":2,\"d\":{}}", "raw {\"op\":3,\"d\":{}}", "raw {\"op\":4}", "raw {\"op\":5,\"d\":[]}",
    "raw {\"op\":6,\"d\":{\"seq\":1}}", "raw {\"op\":8,\"d\":\"x\"}", "raw {\"op\":9}", "raw {\"op\":9,\"d\":[true]}",
    "raw {\"op\":10,\"d\":{\"heartbeat_interval\":41250}}", "raw {\"op\":10}", "raw {\"op\":11}", "raw {\"op\":31}",
    "raw {\"op\":18446744073709551615}", "raw {\"t\":\"RESUMED\",\"op\":0,\"s\":9,\"d\":{}}", "ping hi", "pong", "ping",
    "raw {}", "raw []", "raw null", "raw 1", "raw {\"op\":\"0\"}", "raw {\"op\":-1}", "raw {\"op\":1.5}",
        "raw {\"op\":null}",
    "broken_json", "no_op", "bad_utf8", "rsv", "masked_frame", "binary_frame", "reserved_opcode", "fragmented_ping",
    "long_ping", "lone_continuation", "garbage", "close 4000 x", "close_empty", "close_one_byte", "cut", "reset",
    "cut_before_frame", "cut_inside_frame", "cut_after_frame", "length_lie", "length_lie 9223372036854775808"
};

TEST(client_survives_everything_in_every_state)
{
    size_t i, j;
    for (i = 0; i < sizeof states / sizeof states[0]; i++) {
        for (j = 0; j < sizeof opcodes / sizeof opcodes[0]; j++) {
            char script[400];
            int good;
            if (world_is_slow() && (i + j) % 4) continue;
            snprintf(script, sizeof script, states[i].when, opcodes[j]);
            world_init(&w);
            w.any_violations = 1;                   /* a heartbeat may name the seq of an event the gateway never counted */
            world_begin(&w, script);
            world_advance(&w, 240000);
            good = CHECK(gw_alive(w.gw)) & CHECK_EQ(gw_shard_live(w.gw, 0), 1);
            good &= CHECK(world_count(&w, WORLD_EV("identify"), NULL) <= 4);
            good &= CHECK(w.opens <= 12);
            good &= CHECK_U64(world_count_events(&w, GW_FATAL), 0);
            if (!good) { fprintf(stderr, "    %s in %s\n", opcodes[j], states[i].name); world_print_events(&w); }
            world_end(&w);
        }
    }
}

CHECK_MAIN()
