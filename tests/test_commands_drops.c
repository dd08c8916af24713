/* What becomes of commands that cannot leave: what outlives what, what comes back as
 * COMMAND_DROPPED and why, all shards or none, connections that turn out dead. */
#define DISCORD_GATEWAY_IMPLEMENTATION
#include "discord_gateway.h"
#include "commands.h"

/* After so many bytes more, the next write of each connection finds it dead. */
static void wires_end_after(uint64_t bytes)
{
    world_stream *stream;
    for (stream = w.streams; stream; stream = stream->next) stream->up_left = bytes;
}

static void wires_are_dead(void) { wires_end_after(0); }

/* Nothing reaches the gateway any more, and nobody has noticed yet: what is sent waits, behind a
 * heartbeat that stands in the buffer. */
static void hold_the_line(void)
{
    w.write_full = 1;
    world_do(&w, "op1");
    world_settle(&w);
}

/* ---- the queue ---- */
TEST(queue_full_of_unanswered_requests_takes_again_after_their_time)
{
    gw_ticket a, b;
    world_init(&w);
    w.cfg.max_queued = 2;
    w.cfg.max_queued_ms = 20000;
    begin(NULL);
    w.any_violations = 1;
    a = ask(STRANGER, "u");
    world_advance(&w, 5000);
    b = ask(STRANGER + 1, "u");
    world_settle(&w);
    CHECK_U64(sent(8), 2);
    CHECK_U64(stats_queue(), 0);                /* nothing waits to leave, and yet it is full */
    CHECK_EQ(ask(guild(0), "u"), GW_ERROR_QUEUE_FULL);
    CHECK_HAS(gw_why(w.gw), "max_queued");
    CHECK_EQ(leave_voice(guild(0)), GW_ERROR_QUEUE_FULL);
    CHECK_EQ(gw_request_channel_info(w.gw, guild(0), 1, 0), GW_ERROR_QUEUE_FULL);
    CHECK(show(GW_ALL, "x") > 0);
    world_settle(&w);
    CHECK_U64(sent(3), 1);
    EXPECT_DROP(a, GW_REASON_TIMEOUT, 15000);
    CHECK_U64(world_last(&w, GW_COMMAND_DROPPED)->at_ms, 1020000);
    CHECK(leave_voice(guild(0)) > 0);
    EXPECT_DROP(b, GW_REASON_TIMEOUT, 5000);
    CHECK_U64(world_count_events(&w, GW_DISCONNECTED), 0);
    world_end(&w);
}

TEST(queue_outlives_a_reconnect_and_a_new_session)
{
    static const char *const ends[] = { "cut", "op7", "op9 false", "close 4009 old" };
    const uint64_t id = guild(0);
    size_t i;
    for (i = 0; i < COUNT(ends); i++) {
        begin_live(NULL);
        world_script(&w, "next 1 late_ready 3000");
        world_do(&w, ends[i]);
        world_settle(&w);
        CHECK_EQ(gw_shard_live(w.gw, 0), 0);
        CHECK(leave_voice(id) > 0);
        CHECK(ask(id, "") > 0);
        CHECK(gw_request_sounds(w.gw, &id, 1) > 0);
        CHECK(gw_request_channel_info(w.gw, id, 1, 1) > 0);
        CHECK(show(0, "x") > 0);
        world_advance(&w, 60000);
        CHECK_EQ(gw_shard_live(w.gw, 0), 1);
        CHECK_U64(sent(4), 1);
        CHECK_U64(sent(8), 1);
        CHECK_U64(sent(31), 1);
        CHECK_U64(sent(43), 1);
        CHECK_U64(world_count_events(&w, GW_CHANNEL_INFO), 1);
        CHECK_U64(world_count_events(&w, GW_GUILD_MEMBERS_CHUNK), 1);
        CHECK_U64(dropped(), 0);
        CHECK_U64(sent(3), i < 2 ? 1 : 0);      /* a new session's Identify has it */
        world_end(&w);
    }
}

/* ---- what is dropped, and why ---- */
static gw_ticket mix[5];

/* One of each, of which nothing has left; and one that waits for its answer. */
static void queue_a_mix(void)
{
    const uint64_t id = guild(0);
    w.any_violations = 1;
    mix[0] = ask(STRANGER, "u");
    world_settle(&w);
    CHECK_U64(sent(8), 1);
    hold_the_line();
    mix[1] = leave_voice(id);
    mix[2] = ask(id, "");
    mix[3] = gw_request_sounds(w.gw, &id, 1);
    mix[4] = show(0, "x");
}

/* All of them came back, each once, before that event; for this reason, what had been asked for
 * another. */
static void check_mix(uint32_t before, uint32_t reason, uint32_t reason_of_asked)
{
    size_t i, k, found, end = w.event_count;
    for (i = 0; i < w.event_count; i++) if (w.events[i].type == before) end = i;
    CHECK(end < w.event_count);
    for (k = 0; k < COUNT(mix); k++) {
        CHECK(mix[k] > 0);
        for (found = i = 0; i < end; i++) {
            if (w.events[i].type != GW_COMMAND_DROPPED || w.events[i].ticket != mix[k]) continue;
            found++;
            CHECK_U64(w.events[i].reason, k ? reason : reason_of_asked);
        }
        CHECK_U64(found, 1);
    }
}

TEST(dropped_by_stop_come_before_closed)
{
    uint32_t how;
    for (how = GW_KEEP; how <= GW_END; how++) {
        begin_live(NULL);
        queue_a_mix();
        CHECK_EQ(gw_stop(w.gw, how), GW_OK);
        WORLD_EXPECT(&w, GW_CLOSED, 5000);
        check_mix(GW_CLOSED, GW_REASON_BY_CALLER, GW_REASON_BY_CALLER);
        world_end(&w);
    }
}

TEST(dropped_by_stop_while_nothing_is_connected_come_before_closed)
{
    gw_ticket voice, presence;
    begin_live(NULL);
    w.refuse = UINT32_MAX;
    world_do(&w, "cut");
    world_settle(&w);
    voice = leave_voice(guild(0));
    presence = show(0, "x");
    CHECK_EQ(gw_stop(w.gw, GW_KEEP), GW_OK);
    WORLD_EXPECT(&w, GW_CLOSED, 5000);
    CHECK_U64(dropped(), 2);
    w.cursor = 0;
    EXPECT_DROP(voice, GW_REASON_BY_CALLER, 0);
    EXPECT_DROP(presence, GW_REASON_BY_CALLER, 0);
    world_end(&w);
}

TEST(dropped_by_the_stop_of_a_shard_come_before_shard_stopped)
{
    uint32_t how;
    for (how = GW_KEEP; how <= GW_END; how++) {
        init_two();
    begin_two();
        queue_a_mix();
        CHECK(leave_voice(guild(1)) > 0);       /* the other shard's is not concerned */
        CHECK_EQ(gw_shard_stop(w.gw, 0, how), GW_OK);
        CHECK_EQ(leave_voice(guild(0)), GW_ERROR_ENDED);
        CHECK_EQ(show(0, "x"), GW_ERROR_ENDED);
        w.write_full = 0;
        CHECK_EQ(WORLD_EXPECT(&w, GW_SHARD_STOPPED, 1000)->reason, GW_REASON_BY_CALLER);
        check_mix(GW_SHARD_STOPPED, GW_REASON_BY_CALLER, GW_REASON_BY_CALLER);
        world_settle(&w);
        CHECK_U64(sent(4), 1);
        world_end(&w);
    }
}

/* More than the client can hand out at once. */
TEST(dropped_two_hundred_come_back_before_closed)
{
    uint32_t i;
    world_init(&w);
    w.cfg.max_queued = 200;
    begin(NULL);
    hold_the_line();
    for (i = 0; i < 200; i++) CHECK(leave_voice(guild(0)) > 0);
    CHECK_EQ(gw_stop(w.gw, GW_END), GW_OK);
    WORLD_EXPECT(&w, GW_CLOSED, 5000);
    CHECK_U64(dropped(), 200);
    CHECK_EQ(w.events[w.event_count - 1].type, GW_CLOSED);
    w.any_violations = 1;
    world_end(&w);
}

/* The end of the one shard is that of the client; of those that waited for an answer, too. */
TEST(dropped_by_a_fatal_end_come_before_closed)
{
    begin_live(NULL);
    queue_a_mix();
    world_do(&w, "close 4004 no");
    CHECK_EQ(WORLD_EXPECT(&w, GW_FATAL, 1000)->close_code, 4004);
    WORLD_EXPECT(&w, GW_CLOSED, 5000);
    check_mix(GW_CLOSED, GW_REASON_CLOSE_CODE, GW_REASON_SESSION_GONE);
    CHECK_EQ(w.events[w.event_count - 1].type, GW_CLOSED);
    world_end(&w);
}

/* The other shard's are not the caller's doing either. */
TEST(dropped_by_the_fatal_end_of_another_shard_say_so)
{
    gw_ticket ticket;
    init_two();
    begin_two();
    hold_the_line();
    ticket = leave_voice(guild(0));
    world_script(&w, "shard 1 close 4004 no");
    CHECK_EQ(WORLD_EXPECT(&w, GW_FATAL, 1000)->close_code, 4004);
    WORLD_EXPECT(&w, GW_CLOSED, 5000);
    w.cursor = 0;
    EXPECT_DROP(ticket, GW_REASON_CLOSE_CODE, 0);       /* nobody called gw_stop() */
    w.any_violations = 1;
    world_end(&w);
}

/* 4010 ends one of two; the gate's "never" as well. */
TEST(dropped_by_the_end_of_one_shard_come_before_shard_stopped)
{
    gw_ticket ticket;
    const world_event *event;
    init_two();
    begin_two();
    hold_the_line();
    ticket = leave_voice(guild(0));
    world_script(&w, "shard 0 close 4010 no");
    event = WORLD_EXPECT(&w, GW_SHARD_STOPPED, 1000);
    CHECK_EQ(event->shard, 0);
    w.cursor = 0;
    EXPECT_DROP(ticket, GW_REASON_CLOSE_CODE, 0);
    CHECK_EQ(world_last(&w, GW_COMMAND_DROPPED)->shard, 0);
    CHECK(w.events + w.cursor <= world_last(&w, GW_SHARD_STOPPED));
    CHECK_EQ(leave_voice(guild(0)), GW_ERROR_ENDED);
    w.write_full = 0;
    CHECK(leave_voice(guild(1)) > 0);
    CHECK(show(GW_ALL, "x") > 0);               /* all that run */
    world_settle(&w);
    CHECK_U64(sent(3), 1);
    w.any_violations = 1;
    world_end(&w);
}

static int32_t gate_of_never(void *user, int32_t shard, uint32_t bucket)
{
    (void)user; (void)shard; (void)bucket;
    return -1;
}

TEST(dropped_by_a_gate_that_says_never_come_before_shard_stopped)
{
    gw_ticket ticket;
    world_init(&w);
    w.cfg.identify_gate = gate_of_never;
    world_begin(&w, NULL);
    ticket = leave_voice(guild(0));
    CHECK(ticket > 0);
    WORLD_EXPECT(&w, GW_SHARD_STOPPED, 1000);
    w.cursor = 0;
    EXPECT_DROP(ticket, GW_REASON_BY_CALLER, 0);
    CHECK_EQ(w.events[w.event_count - 1].type, GW_SHARD_STOPPED);
    world_end(&w);
}

/* The other shard waits for the answer to its Close: world_end() checks that nobody polls for
 * nothing meanwhile. */
TEST(fatal_end_of_one_shard_is_waited_for_without_haste)
{
    init_two();
    begin_two();
    w.latency_ms = 300;
    world_script(&w, "shard 1 close 4004 no");
    WORLD_EXPECT(&w, GW_FATAL, 1000);
    WORLD_EXPECT(&w, GW_CLOSED, 5000);
    world_end(&w);
}

/* A payload that needs more than the connection's buffer has; memory is there again at once. */
TEST(dropped_for_want_of_memory_say_so)
{
    static char d[4000];
    const world_event *event;
    gw_ticket ticket, next;
    begin_live(NULL);
    memset(d, ' ', sizeof d);
    memcpy(d, "{\"guild_ids\":[]", 15);
    d[sizeof d - 1] = '}';
    ticket = gw_send_raw(w.gw, 0, 31, d, sizeof d);
    CHECK(ticket > 0);
    w.fail_after = w.allocations;
    event = world_until(&w, GW_COMMAND_DROPPED, 100);
    w.fail_after = 0;
    if (CHECK(event != NULL)) {
        CHECK_EQ(event->ticket, ticket);
        CHECK_EQ(event->reason, GW_REASON_MEMORY);
    }
    next = leave_voice(guild(0));
    CHECK(next > 0);
    world_advance(&w, 1000);
    CHECK_U64(sent(4), 1);
    CHECK_U64(sent(31), 0);
    w.any_violations = 1;                       /* the cached URL: its read had no memory either */
    world_end(&w);
}

TEST(queue_without_memory_takes_nothing_and_says_so)
{
    uint64_t ids[2];
    ids[0] = guild(0);
    ids[1] = guild(1);
    init_two();
    begin_two();
    w.fail_after = w.allocations;
    CHECK_EQ(leave_voice(guild(0)), GW_ERROR_NO_MEMORY);
    CHECK_HAS(gw_why(w.gw), "no room");
    CHECK_EQ(show(GW_ALL, "x"), GW_ERROR_NO_MEMORY);
    CHECK_EQ(ask(guild(0), ""), GW_ERROR_NO_MEMORY);
    CHECK_EQ(gw_request_sounds(w.gw, ids, 2), GW_ERROR_NO_MEMORY);
    CHECK_EQ(gw_request_channel_info(w.gw, guild(0), 1, 1), GW_ERROR_NO_MEMORY);
    CHECK_EQ(gw_send_raw(w.gw, 0, 31, "{\"guild_ids\":[]}", 16), GW_ERROR_NO_MEMORY);
    w.fail_after = 0;
    world_advance(&w, 1000);
    CHECK_U64(world_count(&w, WORLD_EV("send"), NULL), 0);
    CHECK_U64(dropped(), 0);
    CHECK(gw_request_sounds(w.gw, ids, 2) > 0);
    world_settle(&w);
    CHECK_U64(sent(31), 2);
    world_end(&w);
}

/* Memory for the payload and one shard's copy, and not for the other's: none of them is queued. */
TEST(queue_with_memory_for_one_of_two_shards_takes_nothing)
{
    uint64_t ids[2], spare;
    uint32_t half = 0;
    ids[0] = guild(0);
    ids[1] = guild(1);
    for (spare = 0; spare < 6; spare++) {
        gw_ticket ticket;
        init_two();
    begin_two();
        w.fail_after = w.allocations + spare;
        ticket = gw_request_sounds(w.gw, ids, 2);
        w.fail_after = 0;
        if (ticket == GW_ERROR_NO_MEMORY && spare) half++;
        world_advance(&w, 1000);
        CHECK_U64(sent(31), ticket > 0 ? 2 : 0);
        CHECK_U64(dropped(), 0);
        world_end(&w);
    }
    CHECK(half > 0);
}

/* ---- several shards ---- */
TEST(sounds_of_two_shards_are_asked_for_by_each_under_one_ticket)
{
    uint64_t ids[5];
    uint32_t i;
    char expected[100];
    for (i = 0; i < COUNT(ids); i++) ids[i] = guild(i);
    init_two();
    w.sim.guilds = 5;
    begin_two();
    CHECK(gw_request_sounds(w.gw, ids, 5) > 0);
    world_settle(&w);
    CHECK_U64(sent(31), 2);                     /* another shard's guild would be a violation */
    snprintf(expected, sizeof expected, "{\"guild_ids\":[\"%llu\",\"%llu\",\"%llu\"]}",
             (unsigned long long)ids[0], (unsigned long long)ids[2], (unsigned long long)ids[4]);
    CHECK_U64(world_count(&w, WORLD_EV("send"), expected), 1);
    snprintf(expected, sizeof expected, "{\"guild_ids\":[\"%llu\",\"%llu\"]}",
             (unsigned long long)ids[1], (unsigned long long)ids[3]);
    CHECK_U64(world_count(&w, WORLD_EV("send"), expected), 1);
    CHECK_U64(world_count_events(&w, GW_SOUNDBOARD_SOUNDS), 5);
    CHECK(gw_request_sounds(w.gw, ids + 1, 1) > 0);
    world_settle(&w);
    CHECK_U64(sent(31), 3);
    world_end(&w);
}

TEST(sounds_that_one_shard_cannot_take_are_asked_for_by_none)
{
    static uint64_t ids[301];
    uint32_t i;
    init_two();
    begin_two();
    ids[0] = guild(0);
    for (i = 1; i < COUNT(ids); i++) ids[i] = guild(1);
    CHECK_EQ(gw_request_sounds(w.gw, ids, 301), GW_ERROR_TOO_LARGE);
    for (i = 1; i < COUNT(ids); i++) ids[i] = guild(i);
    CHECK(gw_request_sounds(w.gw, ids, 301) > 0);       /* 150 for each: split, they fit */
    w.any_violations = 1;
    world_settle(&w);
    CHECK_U64(sent(31), 2);
    world_end(&w);

    init_two();
    w.cfg.max_queued = 1;
    begin_two();
    CHECK(ask(guild(3), "u") > 0);              /* no guild of the world: shard 1 is full */
    w.any_violations = 1;
    world_settle(&w);
    CHECK_EQ(gw_request_sounds(w.gw, ids, 2), GW_ERROR_QUEUE_FULL);
    world_settle(&w);
    CHECK_U64(sent(31), 0);
    CHECK(gw_request_sounds(w.gw, ids, 1) > 0);
    world_end(&w);
}

TEST(commands_of_a_guild_whose_shard_does_not_run_here_are_refused)
{
    uint64_t ids[2];
    ids[0] = guild(0);
    ids[1] = guild(1);
    world_init(&w);
    w.cfg.shard_count = 1;
    w.cfg.shard_total = 2;
    begin(NULL);
    CHECK_EQ(leave_voice(guild(1)), GW_ERROR_NOT_OUR_SHARD);
    CHECK_HAS(gw_why(w.gw), "does not run");
    CHECK_EQ(ask(guild(1), "u"), GW_ERROR_NOT_OUR_SHARD);
    CHECK_EQ(gw_request_channel_info(w.gw, guild(1), 1, 1), GW_ERROR_NOT_OUR_SHARD);
    CHECK_EQ(gw_request_sounds(w.gw, ids, 2), GW_ERROR_NOT_OUR_SHARD);
    CHECK_EQ(gw_send_raw(w.gw, 1, 31, "{}", 2), GW_ERROR_NOT_OUR_SHARD);
    world_settle(&w);
    CHECK_U64(world_count(&w, WORLD_EV("send"), NULL), 0);
    CHECK(gw_request_sounds(w.gw, ids, 1) > 0);
    world_end(&w);
}

/* ---- connections that turn out dead ---- */
static gw_ticket by_number(uint32_t number)
{
    const uint64_t id = guild(0);
    switch (number) {
    case 0: return leave_voice(id);
    case 1: return ask(id, "");
    case 2: return gw_request_sounds(w.gw, &id, 1);
    case 3: return gw_request_channel_info(w.gw, id, 1, 1);
    case 4: return show(0, "x");
    default: return gw_send_raw(w.gw, 0, 31, "{\"guild_ids\":[]}", 16);
    }
}

static const unsigned ops[] = { 4, 8, 31, 43, 3, 31 };

/* The write fails, and not a byte had left. */
TEST(write_that_fails_at_once_is_made_on_the_next_connection_exactly_once)
{
    uint32_t i;
    for (i = 0; i < COUNT(ops); i++) {
        begin_live(NULL);
        wires_are_dead();
        CHECK(by_number(i) > 0);
        WORLD_EXPECT(&w, GW_RESUMED, 10000);
        world_advance(&w, 400000);
        CHECK_U64(sent(ops[i]), 1);
        CHECK_U64(dropped(), 0);
        world_end(&w);
    }
}

TEST(writes_of_many_commands_that_fail_are_made_in_order_and_once)
{
    char channel[40];
    uint32_t i, round;
    begin_live(NULL);
    for (round = 0; round < 3; round++) {
        wires_are_dead();
        for (i = 0; i < 10; i++)
            CHECK(gw_set_voice(w.gw, guild(0), guild(0) + 32 * (round * 10 + i + 1), 0, 0) > 0);
        WORLD_EXPECT(&w, GW_RESUMED, 10000);
        world_settle(&w);
    }
    world_advance(&w, 400000);
    CHECK_U64(sent(4), 30);
    for (i = 0; i < 30; i++) {
        snprintf(channel, sizeof channel, "\"channel_id\":\"%llu\"",
                 (unsigned long long)(guild(0) + 32 * (i + 1)));
        CHECK_HAS(sent_d(4, i), channel);
    }
    CHECK_U64(dropped(), 0);
    world_end(&w);
}

/* The next connection is of a new session. */
TEST(write_that_fails_at_once_is_made_in_a_new_session_too)
{
    uint32_t i;
    for (i = 0; i < COUNT(ops); i++) {
        begin_live(NULL);
        world_do(&w, "expire_sessions");
        wires_are_dead();
        CHECK(by_number(i) > 0);
        WORLD_EXPECT(&w, GW_READY, 20000);
        world_advance(&w, 400000);
        CHECK_U64(sent(ops[i]), ops[i] == 3 ? 0 : 1);
        if (ops[i] == 3) CHECK_HAS(identify(1), "\"presence\":{");
        CHECK_U64(dropped(), 0);
        world_end(&w);
    }
}

/* Of half a frame nobody ever makes a command: it may be made again, and has to be. */
TEST(write_that_fails_within_its_frame_is_made_on_the_next_connection)
{
    uint32_t i, part;
    for (i = 0; i < COUNT(ops); i++) {
        for (part = 1; part <= 21; part += 10) {
            begin_live(NULL);
            wires_end_after(part);
            CHECK(by_number(i) > 0);
            WORLD_EXPECT(&w, GW_RESUMED, 10000);
            world_advance(&w, 400000);
            if (!CHECK_U64(sent(ops[i]), 1)) fprintf(stderr, "    op %u is lost\n", ops[i]);
            CHECK_U64(dropped(), 0);
            world_end(&w);
        }
    }
}

/* The socket takes nothing for a while, and then it is gone: not a byte had left here either. */
TEST(write_that_waits_for_a_full_socket_is_made_on_the_next_connection)
{
    uint32_t i;
    for (i = 0; i < COUNT(ops); i++) {
        begin_live(NULL);
        w.write_full = 1;
        CHECK(by_number(i) > 0);
        world_advance(&w, 1000);
        world_do(&w, "reset");
        w.write_full = 0;
        WORLD_EXPECT(&w, GW_RESUMED, 10000);
        world_advance(&w, 400000);
        if (!CHECK_U64(sent(ops[i]), 1)) fprintf(stderr, "    op %u is lost\n", ops[i]);
        CHECK_U64(dropped(), 0);
        world_end(&w);
    }
}

CHECK_MAIN()
