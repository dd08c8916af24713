/* Limits of single commands and answers that are waited for: presence, the whole list of a guild's
 * members, RATE_LIMITED, chunks counted to the last. What each command says on the wire:
 * test_commands.c; what is dropped: test_commands_drops.c. */
#define DISCORD_GATEWAY_IMPLEMENTATION
#include "discord_gateway.h"
#include "commands.h"

static gw_ticket ask_with_nonce(uint64_t guild_id, const char *nonce)
{
    gw_members request = members_of(guild_id, "u");
    request.nonce = nonce;
    return gw_request_members(w.gw, &request);
}

static void answer(uint64_t guild_id, const char *rest)
{
    char command[300];
    snprintf(command, sizeof command,
             "event GUILD_MEMBERS_CHUNK {\"guild_id\":\"%llu\",\"members\":[]%s}",
             (unsigned long long)guild_id, rest);
    world_do(&w, command);
    world_settle(&w);
}

/* ---- presence ---- */
TEST(presence_sixth_leaves_when_the_first_is_twenty_seconds_old)
{
    uint32_t i;
    begin_live(NULL);
    for (i = 0; i < 8; i++) {
        CHECK(show(0, "x") > 0);
        world_advance(&w, 1000);
    }
    CHECK_U64(sent(3), 5);
    world_advance(&w, 30000);
    CHECK_U64(sent(3), 6);
    CHECK_U64(sent_ms(3, 5), sent_ms(3, 0) + 20000);
    CHECK_U64(dropped(), 2);                    /* the sixth and the seventh */
    CHECK_U64(stats_queue(), 0);
    world_end(&w);
}

TEST(presence_window_goes_on_over_a_new_session)
{
    uint32_t i;
    begin_live(NULL);
    for (i = 0; i < 5; i++) {
        CHECK(show(0, "old") > 0);
        world_settle(&w);
    }
    world_do(&w, "op9 false");
    WORLD_EXPECT(&w, GW_READY, 10000);
    world_settle(&w);
    CHECK(show(0, "new") > 0);
    world_advance(&w, 30000);
    CHECK_U64(sent(3), 6);
    CHECK_U64(sent_ms(3, 5), sent_ms(3, 0) + 20000);
    CHECK_U64(dropped(), 0);
    world_end(&w);
}

TEST(presence_is_in_the_identify_of_a_new_session_and_then_nothing_waits)
{
    uint32_t i;
    gw_ticket sixth;
    begin_live(NULL);
    CHECK(strstr(identify(0), "\"presence\":{") == NULL);
    for (i = 0; i < 5; i++) {
        CHECK(show(0, "old") > 0);
        world_settle(&w);
    }
    sixth = show(0, "newest");
    CHECK(sixth > 0);
    CHECK_U64(stats_queue(), 1);
    world_do(&w, "op9 false");
    WORLD_EXPECT(&w, GW_READY, 10000);
    CHECK_HAS(identify(1), "\"presence\":{\"since\":null,\"activities\":[{\"name\":\"newest\"");
    CHECK_U64(stats_queue(), 0);
    world_advance(&w, 60000);
    CHECK_U64(sent(3), 5);
    CHECK_U64(dropped(), 0);
    world_end(&w);
}

TEST(presence_is_kept_by_a_resume_and_not_sent_again)
{
    begin_live(NULL);
    CHECK(show(0, "kept") > 0);
    world_settle(&w);
    world_do(&w, "cut");
    WORLD_EXPECT(&w, GW_RESUMED, 10000);
    world_do(&w, "op7");
    WORLD_EXPECT(&w, GW_RESUMED, 10000);
    world_advance(&w, 60000);
    CHECK_U64(sent(3), 1);
    world_end(&w);
}

/* The socket takes nothing for a while: what was given to the connection is on its way and not replaced. */
TEST(presence_on_its_way_is_not_told_as_replaced)
{
    gw_ticket first, second, third;
    begin_live(NULL);
    w.write_full = 1;
    first = show(0, "first");
    CHECK(first > 0);
    world_settle(&w);                           /* in the connection's buffer */
    second = show(0, "second");
    third = show(0, "third");
    CHECK(second > first && third > second);
    EXPECT_DROP(second, GW_REASON_NEWER, 1000);
    CHECK_U64(sent(3), 0);
    w.write_full = 0;
    world_advance(&w, 1000);
    CHECK_U64(sent(3), 2);
    CHECK_HAS(sent_d(3, 0), "\"first\"");
    CHECK_HAS(sent_d(3, 1), "\"third\"");
    CHECK_U64(dropped(), 1);
    CHECK_U64(stats_queue(), 0);
    world_end(&w);
}

/* ... and once it has left, a cut does not bring it back. */
TEST(presence_that_left_late_is_not_sent_again)
{
    begin_live(NULL);
    w.write_full = 1;
    CHECK(show(0, "late") > 0);
    world_advance(&w, 2000);
    CHECK_U64(sent(3), 0);
    CHECK_U64(stats_queue(), 1);
    w.write_full = 0;
    world_advance(&w, 1000);
    CHECK_U64(sent(3), 1);
    CHECK_U64(stats_queue(), 0);
    world_do(&w, "cut");
    WORLD_EXPECT(&w, GW_RESUMED, 10000);
    world_advance(&w, 60000);
    CHECK_U64(sent(3), 1);
    CHECK_U64(dropped(), 0);
    world_end(&w);
}

/* However long the connection is away: it has no age, and leaves behind RESUMED. */
TEST(presence_that_waits_leaves_after_resumed_however_old)
{
    gw_ticket voice;
    world_init(&w);
    w.cfg.max_queued_ms = 5000;
    begin(NULL);
    w.refuse = UINT32_MAX;
    world_do(&w, "cut");
    world_settle(&w);
    CHECK(show(0, "waits") > 0);
    voice = leave_voice(guild(0));
    world_advance(&w, 100000);
    EXPECT_DROP(voice, GW_REASON_TOO_OLD, 0);
    w.refuse = 0;
    w.any_violations = 1;                       /* a Resume at the cached URL */
    WORLD_EXPECT(&w, GW_RESUMED, 70000);
    world_settle(&w);
    CHECK_U64(sent(3), 1);
    CHECK_U64(world_count(&w, WORLD_EV("violation"), "send_before_ready"), 0);
    CHECK_U64(dropped(), 1);
    world_end(&w);
}

TEST(presence_set_between_identify_and_ready_leaves_after_ready)
{
    world_init(&w);
    w.keep_log = 1;
    world_begin(&w, "on accept late_ready 5000");
    CHECK(show(0, "first") > 0);
    world_advance(&w, 2000);
    CHECK(show(0, "second") > 0);
    CHECK_HAS(identify(0), "\"name\":\"first\"");
    WORLD_EXPECT(&w, GW_READY, 5000);
    world_settle(&w);
    CHECK_U64(sent(3), 1);
    CHECK_HAS(sent_d(3, 0), "\"name\":\"second\"");
    CHECK_U64(dropped(), 0);                    /* the first was carried */
    world_end(&w);
}

TEST(presence_of_one_shard_and_of_all_are_each_shards_newest)
{
    size_t i, a = 0, b = 0, c = 0;
    init_two();
    begin_two();
    CHECK(show(GW_ALL, "a") > 0);
    world_settle(&w);
    CHECK(show(1, "b") > 0);
    world_settle(&w);
    CHECK_U64(sent(3), 3);
    world_do(&w, "op9 false");
    for (i = 0; i < 2; i++) WORLD_EXPECT(&w, GW_READY, 20000);
    for (i = 2; i < 4; i++) {
        identify(i);
        a += strstr(saw, "\"shard\":[0,2]") && strstr(saw, "\"name\":\"a\"");
        b += strstr(saw, "\"shard\":[1,2]") && strstr(saw, "\"name\":\"b\"");
    }
    CHECK_U64(a, 1);
    CHECK_U64(b, 1);
    CHECK(show(GW_ALL, "c") > 0);               /* of all: shard 1's own is over */
    world_settle(&w);
    world_do(&w, "op9 false");
    for (i = 0; i < 2; i++) WORLD_EXPECT(&w, GW_READY, 20000);
    for (i = 4; i < 6; i++) c += strstr(identify(i), "\"name\":\"c\"") != NULL;
    CHECK_U64(c, 2);
    world_end(&w);
}

TEST(presence_of_all_that_is_replaced_is_told_for_each_shard)
{
    gw_ticket first, second;
    init_two();
    begin_two();
    world_do(&w, "cut");
    w.refuse = UINT32_MAX;
    world_settle(&w);
    first = show(GW_ALL, "a");
    second = show(GW_ALL, "b");
    CHECK(second > first);
    EXPECT_DROP(first, GW_REASON_NEWER, 0);
    EXPECT_DROP(first, GW_REASON_NEWER, 0);
    CHECK_EQ(w.events[w.cursor - 1].shard + world_last(&w, GW_COMMAND_DROPPED)->shard, 2);
    CHECK_U64(dropped(), 2);
    CHECK_U64(stats_queue(), 2);
    world_end(&w);
}

TEST(presence_before_any_shard_runs_is_that_of_later_ones)
{
    world_init(&w);
    w.cfg.shard_total = 2;
    w.keep_log = 1;
    world_begin(&w, NULL);
    CHECK_EQ(show(0, "nobody"), GW_ERROR_NOT_OUR_SHARD);
    CHECK(show(GW_ALL, "later") > 0);
    CHECK_EQ(gw_shard_start(w.gw, 1, NULL, 0), GW_OK);
    WORLD_EXPECT(&w, GW_READY, 1000);
    CHECK_HAS(identify(0), "\"name\":\"later\"");
    CHECK_EQ(show(0, "nobody"), GW_ERROR_NOT_OUR_SHARD);
    CHECK_EQ(gw_shard_start(w.gw, 0, NULL, 0), GW_OK);
    WORLD_EXPECT(&w, GW_READY, 10000);
    CHECK_HAS(identify(1), "\"name\":\"later\"");
    world_settle(&w);
    CHECK_U64(sent(3), 0);
    world_end(&w);
}

/* 4,096 bytes as op 3, which with token and intents are too much for an Identify. */
TEST(presence_too_large_for_identify_follows_as_op_3)
{
    static char name[5000];
    gw_ticket ticket;
    size_t around = strlen("{\"op\":3,\"d\":{\"since\":null,\"activities\":[{\"name\":\"\","
                           "\"type\":0}],\"status\":\"online\",\"afk\":false}}");
    memset(name, 'n', 4096 - around);
    world_init(&w);
    w.keep_log = 1;
    world_begin(&w, NULL);
    ticket = show(0, name);
    CHECK(ticket > 0);
    WORLD_EXPECT(&w, GW_READY, 1000);
    CHECK(strstr(identify(0), "\"presence\":{") == NULL);
    world_settle(&w);
    CHECK_U64(sent(3), 1);
    CHECK_HAS(sent_d(3, 0), name);
    world_do(&w, "op9 false");                  /* and again for the next session */
    WORLD_EXPECT(&w, GW_READY, 10000);
    world_settle(&w);
    CHECK_U64(sent(3), 2);
    world_do(&w, "op7");
    WORLD_EXPECT(&w, GW_RESUMED, 1000);
    world_advance(&w, 30000);
    CHECK_U64(sent(3), 2);
    CHECK_U64(dropped(), 0);
    world_end(&w);
}

/* A session that is resumed shows what it showed; what was set meanwhile has to follow. */
TEST(presence_set_while_a_shard_is_stopped_reaches_the_session_that_it_resumes)
{
    char text[GW_SESSION_MAX];
    size_t len;
    world_init(&w);
    w.cfg.shard_total = 1;
    w.keep_log = 1;
    world_begin(&w, NULL);
    CHECK(show(GW_ALL, "old") > 0);
    CHECK_EQ(gw_shard_start(w.gw, 0, NULL, 0), GW_OK);
    WORLD_EXPECT(&w, GW_READY, 1000);
    world_settle(&w);
    CHECK_EQ(gw_shard_stop(w.gw, 0, GW_KEEP), GW_OK);
    WORLD_EXPECT(&w, GW_SHARD_STOPPED, 1000);
    len = gw_session_save(w.gw, 0, text, sizeof text);
    CHECK(show(GW_ALL, "new") > 0);
    CHECK_EQ(gw_shard_start(w.gw, 0, text, len), GW_OK);
    WORLD_EXPECT(&w, GW_RESUMED, 1000);
    world_settle(&w);
    CHECK_U64(sent(3), 1);
    CHECK_HAS(sent_d(3, 0), "\"name\":\"new\"");
    world_end(&w);
}

/* Whatever fails for want of memory: a ticket that was given out is the newest, or comes back. */
/* Whoever waits has to be told when a newer one takes its place; where there is no place for that, the newer one is
 * not taken. */
TEST(presence_is_not_replaced_while_the_queue_is_full)
{
    gw_ticket first, voice[2];
    world_init(&w);
    w.cfg.max_queued = 2;
    w.keep_log = 1;
    world_begin(&w, NULL);
    voice[0] = leave_voice(guild(0));
    voice[1] = leave_voice(guild(1));
    CHECK(voice[0] > 0 && voice[1] > 0);
    first = show(0, "first");
    CHECK(first > 0);                           /* takes no place of theirs */
    CHECK_EQ(show(0, "second"), GW_ERROR_QUEUE_FULL);
    CHECK_HAS(gw_why(w.gw), "max_queued");
    CHECK_EQ(show(GW_ALL, "second"), GW_ERROR_QUEUE_FULL);
    WORLD_EXPECT(&w, GW_READY, 1000);
    world_settle(&w);
    CHECK_U64(sent_in_all(), 2);
    CHECK_HAS(identify(0), "\"first\"");
    CHECK(show(0, "second") > first);           /* ... and now it is */
    world_settle(&w);
    CHECK_HAS(sent_d(3, 0), "\"second\"");
    CHECK_U64(dropped(), 0);
    world_end(&w);
}

TEST(presence_replaced_without_memory_is_told_or_not_taken)
{
    uint64_t spare;
    for (spare = 0; spare < 6; spare++) {
        gw_ticket first, second;
        begin_live(NULL);
        world_do(&w, "cut");
        w.refuse = UINT32_MAX;
        world_settle(&w);
        first = show(0, "a");
        w.fail_after = w.allocations + spare;
        second = show(0, "b");
        w.fail_after = 0;
        world_settle(&w);
        CHECK(first > 0);
        if (!CHECK_U64(dropped(), second > 0 ? 1 : 0))
            fprintf(stderr, "    with memory for %u pieces\n", (unsigned)spare);
        CHECK_U64(stats_queue(), 1);
        world_end(&w);
    }
}

/* ---- the whole list ---- */
TEST(members_whole_list_waits_thirty_seconds_and_others_pass)
{
    gw_ticket first, second, other;
    begin_live(NULL);
    first = ask(guild(0), "");
    second = ask(guild(0), "");
    other = ask(guild(1), "");
    CHECK(first > 0 && second > first && other > second);
    CHECK(ask(guild(0), "u") > 0);
    CHECK(leave_voice(guild(0)) > 0);
    world_settle(&w);
    CHECK_U64(sent(8), 3);
    CHECK_U64(sent(4), 1);
    CHECK_HAS(sent_d(8, 1), "\"guild_id\":\"838860833214693377\"");
    CHECK_HAS(sent_d(8, 2), "\"query\":\"u\"");
    CHECK_U64(stats_queue(), 1);
    world_advance(&w, 40000);
    CHECK_U64(sent(8), 4);
    CHECK_U64(sent_ms(8, 3), sent_ms(8, 0) + 30000);
    CHECK_U64(world_count_events(&w, GW_RATE_LIMITED), 0);
    CHECK_U64(world_count_events(&w, GW_GUILD_MEMBERS_CHUNK), 4);
    CHECK_U64(dropped(), 0);
    world_end(&w);
}

TEST(members_whole_list_waits_over_a_new_session_too)
{
    begin_live(NULL);
    CHECK(ask(guild(0), "") > 0);
    WORLD_EXPECT(&w, GW_GUILD_MEMBERS_CHUNK, 1000);
    world_do(&w, "op9 false");
    WORLD_EXPECT(&w, GW_READY, 10000);
    CHECK(ask(guild(0), "") > 0);
    world_advance(&w, 40000);
    CHECK_U64(sent(8), 2);
    CHECK_U64(sent_ms(8, 1), sent_ms(8, 0) + 30000);
    CHECK_U64(world_count_events(&w, GW_RATE_LIMITED), 0);
    CHECK_U64(world_count_events(&w, GW_GUILD_MEMBERS_CHUNK), 2);
    world_end(&w);
}

/* ---- RATE_LIMITED ---- */
static void ask_raw(void)                       /* another process of the same bot */
{
    static const char d[] = "{\"guild_id\":\"838860800000000000\",\"query\":\"\",\"limit\":0}";
    CHECK(gw_send_raw(w.gw, 0, 8, d, strlen(d)) > 0);
    WORLD_EXPECT(&w, GW_GUILD_MEMBERS_CHUNK, 1000);
}

static void check_limited(const world_event *limited, gw_ticket ticket, uint32_t in_ms)
{
    CHECK_EQ(limited->ticket, ticket);
    CHECK_U64(limited->in_ms, in_ms);
    CHECK_HAS(limited->d, "\"opcode\":8");
}

TEST(rate_limited_request_is_sent_again_once_its_time_has_come)
{
    gw_members request = members_of(guild(0), "");
    gw_ticket ticket;
    begin_live(NULL);
    ask_raw();
    world_advance(&w, 10000);
    request.retry = 1;
    request.nonce = "again";
    ticket = gw_request_members(w.gw, &request);
    check_limited(WORLD_EXPECT(&w, GW_RATE_LIMITED, 100), ticket, 20000);
    CHECK_U64(sent(8), 2);
    CHECK_U64(stats_queue(), 1);
    WORLD_EXPECT(&w, GW_GUILD_MEMBERS_CHUNK, 20100);
    world_advance(&w, 400000);
    CHECK_U64(sent(8), 3);
    CHECK(sent_ms(8, 2) - sent_ms(8, 1) >= 20000 && sent_ms(8, 2) - sent_ms(8, 1) <= 20010);
    CHECK_HAS(sent_d(8, 2), "\"nonce\":\"again\"");
    CHECK_U64(world_count_events(&w, GW_RATE_LIMITED), 1);
    CHECK_U64(dropped(), 0);
    world_end(&w);
}

TEST(rate_limited_that_nobody_wants_is_waited_out_all_the_same)
{
    gw_members request = members_of(guild(0), "");
    begin_live(NULL);
    ask_raw();
    CHECK_EQ(gw_want(w.gw, GW_RATE_LIMITED, 0), GW_OK);
    request.retry = 1;
    CHECK(gw_request_members(w.gw, &request) > 0);
    WORLD_EXPECT(&w, GW_GUILD_MEMBERS_CHUNK, 30100);
    world_advance(&w, 400000);
    CHECK_U64(sent(8), 3);
    CHECK_U64(world_count_events(&w, GW_RATE_LIMITED), 0);
    CHECK_U64(dropped(), 0);
    world_end(&w);
}

/* Protocol 1.5: it is the whole list that is limited, whatever else was asked of that guild. */
TEST(rate_limited_bears_the_ticket_of_the_whole_list)
{
    gw_ticket few, whole;
    begin_live(NULL);
    w.any_violations = 1;
    few = ask(STRANGER, "u");
    whole = ask(STRANGER, "");
    world_settle(&w);
    world_do(&w, "event RATE_LIMITED {\"opcode\":8,\"retry_after\":9.5,\"meta\":"
                 "{\"guild_id\":\"4194304005\"}}");
    CHECK_EQ(WORLD_EXPECT(&w, GW_RATE_LIMITED, 0)->ticket, whole);
    EXPECT_DROP(few, GW_REASON_TIMEOUT, 300000);
    world_end(&w);
}

TEST(rate_limited_request_that_is_not_to_be_repeated_is_over)
{
    gw_ticket ticket;
    world_init(&w);
    w.cfg.max_queued = 1;
    begin(NULL);
    ask_raw();
    ticket = ask(guild(0), "");
    check_limited(WORLD_EXPECT(&w, GW_RATE_LIMITED, 100), ticket, 30000);
    CHECK(leave_voice(guild(0)) > 0);           /* its place is free */
    world_advance(&w, 400000);
    CHECK_U64(sent(8), 2);
    CHECK_U64(dropped(), 0);
    world_end(&w);
}

/* The same ticket each time, as often as Discord refuses; a command between passes. */
TEST(rate_limited_again_keeps_its_ticket)
{
    gw_members request = members_of(STRANGER, "u");
    gw_ticket ticket;
    uint32_t i;
    begin_live(NULL);
    w.any_violations = 1;
    request.retry = 1;
    ticket = gw_request_members(w.gw, &request);
    world_settle(&w);
    for (i = 1; i <= 3; i++) {
        CHECK_U64(sent(8), i);
        world_do(&w, "event RATE_LIMITED {\"opcode\":8,\"retry_after\":2.25,\"meta\":"
                     "{\"guild_id\":\"4194304005\"}}");
        check_limited(WORLD_EXPECT(&w, GW_RATE_LIMITED, 0), ticket, 2250);
        CHECK(leave_voice(guild(0)) > 0);
        world_advance(&w, 2200);
        CHECK_U64(sent(4), i);
        CHECK_U64(sent(8), i);
        world_advance(&w, 100);
    }
    answer(STRANGER, ",\"chunk_index\":0,\"chunk_count\":1");
    world_advance(&w, 400000);
    CHECK_U64(sent(8), 4);
    CHECK_U64(dropped(), 0);
    world_end(&w);
}

TEST(rate_limited_that_fits_no_request_has_no_ticket_and_ends_none)
{
    static const char *const odd[] = {
        "{}", "[]", "null", "{\"opcode\":8,\"retry_after\":-1,\"meta\":[]}",
        "{\"opcode\":8,\"retry_after\":1,\"meta\":{\"guild_id\":\"5\",\"nonce\":\"n\"}}",
        "{\"opcode\":8,\"retry_after\":1,\"meta\":{\"guild_id\":\"4194304005\"}}",
        "{\"opcode\":8,\"retry_after\":1,\"meta\":{\"guild_id\":\"4194304005\",\"nonce\":\"N\"}}",
        "{\"opcode\":31,\"retry_after\":1,\"meta\":{\"guild_id\":\"4194304005\",\"nonce\":\"n\"}}",
        "{\"opcode\":8,\"retry_after\":null,\"meta\":{\"guild_id\":\"4194304005\"}}" };
    char command[200];
    gw_ticket ticket;
    size_t i;
    begin_live(NULL);
    w.any_violations = 1;
    ticket = ask_with_nonce(STRANGER, "n");
    world_settle(&w);
    for (i = 0; i < COUNT(odd); i++) {
        snprintf(command, sizeof command, "event RATE_LIMITED %s", odd[i]);
        world_do(&w, command);
        if (!CHECK_EQ(WORLD_EXPECT(&w, GW_RATE_LIMITED, 0)->ticket, 0))
            fprintf(stderr, "    in: %s\n", odd[i]);
    }
    EXPECT_DROP(ticket, GW_REASON_TIMEOUT, 300000);
    world_end(&w);
}

/* ---- chunks, counted to the last ---- */
static uint32_t refused, taken;

static void try_another(world *x, const gw_event *event)
{
    if (event->type != GW_GUILD_MEMBERS_CHUNK) return;
    (void)x;
    if (leave_voice(guild(0)) > 0) taken++;
    else if (CHECK_HAS(gw_why(w.gw), "max_queued")) refused++;
}

TEST(chunks_keep_the_requests_place_until_the_last_has_come)
{
    refused = taken = 0;
    world_init(&w);
    w.cfg.max_queued = 1;
    w.sim.members = 2500;
    w.sim.guilds = 1;
    w.on_event = try_another;
    begin(NULL);
    CHECK(ask(guild(0), "") > 0);
    CHECK_EQ(leave_voice(guild(0)), GW_ERROR_QUEUE_FULL);
    CHECK(show(0, "has a place of its own") > 0);
    world_advance(&w, 400000);
    CHECK_U64(world_count_events(&w, GW_GUILD_MEMBERS_CHUNK), 3);
    CHECK_U64(refused, 2);
    CHECK_U64(taken, 1);
    CHECK_U64(sent(4), 1);
    CHECK_U64(dropped(), 0);
    world_end(&w);
}

static void cut_once(world *x, const gw_event *event)
{
    if (event->type != GW_GUILD_MEMBERS_CHUNK) return;
    x->on_event = NULL;
    world_do(x, "reset");
}

TEST(chunks_are_counted_on_over_a_resume)
{
    gw_ticket late;
    world_init(&w);
    w.cfg.max_queued = 1;
    w.sim.members = 4500;
    w.sim.guilds = 1;
    w.on_event = cut_once;
    begin(NULL);
    CHECK(ask(guild(0), "") > 0);
    WORLD_EXPECT(&w, GW_RESUMED, 10000);
    CHECK_U64(world_count_events(&w, GW_GUILD_MEMBERS_CHUNK), 5);
    late = ask(guild(0), "u");                  /* all five were counted: its place is free */
    CHECK(late > 0);
    world_advance(&w, 400000);
    CHECK_U64(world_count_events(&w, GW_GUILD_MEMBERS_CHUNK), 6);
    CHECK_U64(dropped(), 0);
    CHECK_U64(sent(8), 2);
    world_check_delivery(&w, 1);
    world_end(&w);
}

/* Resumed in the middle, and the session lost after all: told once. */
TEST(chunks_that_die_half_way_with_the_session_are_told)
{
    gw_ticket ticket;
    begin_live(NULL);
    w.any_violations = 1;
    ticket = ask(STRANGER, "u");
    world_settle(&w);
    answer(STRANGER, ",\"chunk_index\":0,\"chunk_count\":3");
    world_do(&w, "op7");
    WORLD_EXPECT(&w, GW_RESUMED, 1000);
    answer(STRANGER, ",\"chunk_index\":1,\"chunk_count\":3");
    world_do(&w, "op9 false");
    EXPECT_DROP(ticket, GW_REASON_SESSION_GONE, 10000);
    WORLD_EXPECT(&w, GW_READY, 10000);
    world_advance(&w, 400000);
    CHECK_U64(dropped(), 1);
    CHECK_U64(sent(8), 1);
    world_end(&w);
}

TEST(chunks_find_their_request_by_guild_and_nonce)
{
    gw_ticket a, b, none, other;
    begin_live(NULL);
    w.any_violations = 1;
    a = ask_with_nonce(STRANGER, "a\xC3\xA4\"");
    b = ask_with_nonce(STRANGER, "b");
    none = ask_with_nonce(STRANGER, NULL);
    other = ask_with_nonce(STRANGER + 1, "b");
    world_settle(&w);
    answer(STRANGER, ",\"nonce\":\"b\",\"chunk_index\":1,\"chunk_count\":2");
    answer(STRANGER, ",\"nonce\":\"B\",\"chunk_index\":0,\"chunk_count\":1");
    answer(STRANGER, ",\"nonce\":\"a\\u00e4\\\"\",\"chunk_index\":0,\"chunk_count\":1");
    answer(STRANGER + 2, ",\"chunk_index\":0,\"chunk_count\":1");
    answer(STRANGER, ",\"nonce\":\"b\",\"chunk_index\":0,\"chunk_count\":2");
    CHECK(a > 0 && b > 0);
    EXPECT_DROP(none, GW_REASON_TIMEOUT, 300000);
    EXPECT_DROP(other, GW_REASON_TIMEOUT, 0);
    world_advance(&w, 1000);
    CHECK_U64(dropped(), 2);
    world_end(&w);
}

TEST(chunks_of_equal_requests_end_the_oldest_first)
{
    gw_ticket first, second;
    begin_live(NULL);
    w.any_violations = 1;
    first = ask(STRANGER, "u");
    second = ask(STRANGER, "v");
    world_settle(&w);
    answer(STRANGER, ",\"chunk_index\":0,\"chunk_count\":1");
    CHECK(first > 0);
    EXPECT_DROP(second, GW_REASON_TIMEOUT, 300000);
    world_advance(&w, 1000);
    CHECK_U64(dropped(), 1);
    world_end(&w);
}

TEST(chunks_that_nobody_wants_are_counted_all_the_same)
{
    gw_stats stats;
    world_init(&w);
    w.cfg.max_queued = 1;
    w.sim.members = 2500;
    w.sim.guilds = 1;
    begin(NULL);
    CHECK_EQ(gw_want(w.gw, GW_GUILD_MEMBERS_CHUNK, 0), GW_OK);
    CHECK_EQ(gw_want(w.gw, GW_RATE_LIMITED, 0), GW_OK);
    CHECK(ask(guild(0), "") > 0);
    world_settle(&w);
    CHECK(leave_voice(guild(0)) > 0);
    world_do(&w, "key_order");                  /* t behind d as well */
    world_settle(&w);
    CHECK(ask(guild(0), "u") > 0);
    world_settle(&w);
    CHECK(ask_with_nonce(guild(0), "n") > 0);
    world_advance(&w, 400000);
    gw_stats_read(w.gw, 0, &stats);
    CHECK_U64(stats.filtered, 5);
    CHECK_U64(world_count_events(&w, GW_GUILD_MEMBERS_CHUNK), 0);
    CHECK_U64(dropped(), 0);
    world_end(&w);
}

/* Whose answer was too large is known where only one is out. */
TEST(chunks_that_are_skipped_end_the_one_request_that_waits)
{
    gw_ticket ticket;
    world_init(&w);
    w.cfg.max_queued = 1;
    w.cfg.max_payload = 20000;
    w.sim.members = 1500;
    w.sim.guilds = 1;
    begin(NULL);
    ticket = ask(guild(0), "");
    CHECK(ticket > 0);
    CHECK_TEXT(WORLD_EXPECT(&w, GW_SKIPPED, 1000)->name, "GUILD_MEMBERS_CHUNK");
    world_settle(&w);
    CHECK(leave_voice(guild(0)) > 0);
    world_advance(&w, 400000);
    CHECK_U64(dropped(), 1);
    CHECK_EQ(world_last(&w, GW_COMMAND_DROPPED)->ticket, ticket);
    CHECK_EQ(world_last(&w, GW_COMMAND_DROPPED)->reason, GW_REASON_MEMORY);
    CHECK_EQ(gw_shard_live(w.gw, 0), 1);
    world_end(&w);
}

/* Of several only time tells; none is forgotten, and none is ended for another. */
TEST(chunks_that_are_skipped_leave_the_others_their_answer)
{
    gw_ticket large, small;
    world_init(&w);
    w.cfg.max_payload = 20000;
    w.sim.members = 1500;
    w.sim.guilds = 2;
    begin(NULL);
    large = ask(guild(0), "");
    small = ask(guild(1), "user149");
    CHECK(large > 0 && small > 0);
    WORLD_EXPECT(&w, GW_SKIPPED, 1000);
    WORLD_EXPECT(&w, GW_COMMAND_DROPPED, 400000);
    world_settle(&w);
    CHECK_U64(dropped(), 1);
    CHECK_EQ(world_last(&w, GW_COMMAND_DROPPED)->ticket, large);
    world_end(&w);
}

/* Refused, and the caller has switched the event off that would say so. */
TEST(rate_limited_that_nobody_wants_and_nobody_repeats_is_told_as_dropped)
{
    gw_ticket second;
    world_init(&w);
    w.sim.guilds = 1;
    begin(NULL);
    CHECK_EQ(gw_want(w.gw, GW_RATE_LIMITED, 0), GW_OK);
    world_do(&w, "event RATE_LIMITED {\"opcode\":8,\"retry_after\":1,\"meta\":{\"guild_id\":\"1\"}}");
    world_settle(&w);
    CHECK_U64(dropped(), 0);                        /* of none of ours */
    world_do(&w, "freeze");
    second = ask(guild(0), "");
    CHECK(second > 0);
    world_settle(&w);
    {
        char command[200];
        snprintf(command, sizeof command, "event RATE_LIMITED {\"opcode\":8,\"retry_after\":12.5,\"meta\":"
                 "{\"guild_id\":\"%llu\"}}", (unsigned long long)guild(0));
        world_do(&w, command);
    }
    world_do(&w, "thaw");
    world_advance(&w, 1000);
    CHECK_U64(world_count_events(&w, GW_RATE_LIMITED), 0);
    CHECK_U64(dropped(), 1);
    CHECK_EQ(world_last(&w, GW_COMMAND_DROPPED)->ticket, second);
    CHECK_EQ(world_last(&w, GW_COMMAND_DROPPED)->reason, GW_REASON_BUDGET);
    world_end(&w);
}

/* Read, held back by gw_hold(), and then the connection ends: a Resume would bring it once more, but its
 * request is answered. */
TEST(rate_limited_that_is_held_over_a_disconnect_keeps_its_ticket)
{
    char command[200];
    const world_event *limited;
    world_stream *stream;
    gw_ticket ticket;
    int i;
    world_init(&w);
    w.sim.guilds = 1;
    begin(NULL);
    world_do(&w, "freeze");
    ticket = ask(guild(0), "");
    CHECK(ticket > 0);
    world_settle(&w);
    snprintf(command, sizeof command, "event RATE_LIMITED {\"opcode\":8,\"retry_after\":12.5,\"meta\":"
             "{\"guild_id\":\"%llu\"}}", (unsigned long long)guild(0));
    world_do(&w, command);
    world_do(&w, "thaw");
    for (i = 0; i < 20; i++) {
        sim_tick(w.gateway, world_sim_ms(&w));
        for (stream = w.streams; stream; stream = stream->next) world_carry(stream);
        gw_tend(w.gw);
    }
    CHECK_EQ(gw_hold(w.gw, GW_ALL, 1), GW_OK);
    w.slept_us += 60000000;                         /* the end that is noticed without reading */
    world_advance(&w, 20000);
    limited = world_last(&w, GW_RATE_LIMITED);
    CHECK_EQ(limited->ticket, ticket);
    CHECK_U64(limited->in_ms, 12500);
    CHECK_EQ(gw_hold(w.gw, GW_ALL, 0), GW_OK);
    world_advance(&w, 400000);
    CHECK_U64(world_count_events(&w, GW_RATE_LIMITED), 1);
    CHECK_U64(dropped(), 0);
    w.any_violations = 1;                           /* held, it left a frozen gateway waiting */
    world_end(&w);
}

/* ... and a chunk is not counted a second time: the other one never comes, and that is told. */
TEST(chunk_that_is_held_over_a_disconnect_is_counted_once)
{
    char command[200];
    gw_ticket ticket;
    world_stream *stream;
    int i;
    begin_live(NULL);
    ticket = ask(STRANGER, "u");
    CHECK(ticket > 0);
    world_settle(&w);
    snprintf(command, sizeof command, "event GUILD_MEMBERS_CHUNK {\"guild_id\":\"%llu\",\"members\":[],"
             "\"chunk_index\":0,\"chunk_count\":2}", (unsigned long long)STRANGER);
    world_do(&w, command);
    for (i = 0; i < 20; i++) {
        sim_tick(w.gateway, world_sim_ms(&w));
        for (stream = w.streams; stream; stream = stream->next) world_carry(stream);
        gw_tend(w.gw);
    }
    CHECK_EQ(gw_hold(w.gw, GW_ALL, 1), GW_OK);
    w.slept_us += 60000000;
    world_advance(&w, 20000);
    CHECK_EQ(gw_hold(w.gw, GW_ALL, 0), GW_OK);
    world_advance(&w, 1000);
    CHECK_U64(world_count_events(&w, GW_RESUMED), 1);
    CHECK_U64(world_count_events(&w, GW_GUILD_MEMBERS_CHUNK), 1);
    world_check_delivery(&w, 1);
    CHECK_U64(dropped(), 0);
    world_do(&w, "op9 false");
    EXPECT_DROP(ticket, GW_REASON_SESSION_GONE, 20000);
    w.any_violations = 1;                           /* no guild of the bot: no answer but ours */
    world_end(&w);
}

CHECK_MAIN()
