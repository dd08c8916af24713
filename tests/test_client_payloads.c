/* What comes in: payloads whole and in pieces, odd, unknown, broken, too large, not wanted; the event in hand. */
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

/* ---- shapes ---- */
TEST(client_takes_one_byte_at_a_time)
{
    world_init(&w);
    w.read_most = 1;
    w.write_most = 1;
    w.sim.event_rate = 5;
    world_begin(&w, "on accept one_byte");
    world_advance(&w, 20000);
    CHECK(world_count_events(&w, GW_MESSAGE_CREATE) > 20);
    world_check_delivery(&w, 1);
    world_do(&w, "cut");
    WORLD_EXPECT(&w, GW_RESUMED, 1000);
    world_end(&w);
}

TEST(client_takes_fragments_with_pings_in_between)
{
    char line[400];
    uint32_t pieces;
    for (pieces = 2; pieces < 20; pieces += 3) {
        char script[80];
        world_init(&w);
        w.sim.event_rate = 5;
        snprintf(script, sizeof script, "on accept fragments %u\nevery 300 ping between", (unsigned)pieces);
        world_begin(&w, script);
        world_advance(&w, 10000);
        CHECK(world_count_events(&w, GW_MESSAGE_CREATE) > 10);
        CHECK(world_line(&w, WORLD_EV("pong"), "between", 5, line, sizeof line));
        world_check_delivery(&w, 1);
        world_end(&w);
    }
}

/* The socket takes nothing while pings come in: what waits to be answered has an end, and so has its memory. */
TEST(client_answers_no_flood_of_pings_for_ever)
{
    uint32_t i;
    uint64_t before;
    size_t pongs;
    world_init(&w);
    world_begin(&w, NULL);
    WORLD_EXPECT(&w, GW_READY, 1000);
    world_settle(&w);
    before = w.live_bytes;
    w.write_full = 1;
    for (i = 0; i < 2000; i++) {
        world_do(&w, "ping flood flood flood flood flood flood flood");
        world_settle(&w);
    }
    CHECK(w.live_bytes < before + 16384);
    w.write_full = 0;
    world_settle(&w);
    pongs = world_count(&w, WORLD_EV("pong"), "flood");
    CHECK(pongs > 20 && pongs < 200);
    world_do(&w, "ping after");                     /* ... and then they are answered as before */
    world_settle(&w);
    CHECK_U64(world_count(&w, WORLD_EV("pong"), "after"), 1);
    CHECK_U64(world_count_events(&w, GW_DISCONNECTED), 0);
    world_end(&w);
}

TEST(client_takes_a_ping_between_two_fragments_of_an_event)
{
    begin_live(NULL);
    world_do(&w, "bytes 01 05 7B 22 6F 70 22");                     /* {"op" */
    world_do(&w, "ping middle");
    world_settle(&w);
    CHECK_U64(world_count(&w, WORLD_EV("pong"), "middle"), 1);
    world_do(&w, "bytes 00 18 3A 30 2C 22 74 22 3A 22 54 59 50 49 4E 47 5F 53 54 41 52 54 22 2C 22 64");   /* :0,"t":"TYPING_START","d */
    world_do(&w, "bytes 00 00");
    world_do(&w, "bytes 80 0A 22 3A 7B 7D 2C 22 73 22 3A 39");      /* ":{},"s":9 -- and no bracket at the end */
    CHECK_EQ(WORLD_EXPECT(&w, GW_DISCONNECTED, 100)->reason, GW_REASON_PROTOCOL);
    CHECK_U64(world_count_events(&w, GW_TYPING_START), 0);          /* what does not close is never handed out */
    WORLD_EXPECT(&w, GW_RESUMED, 100);
    world_do(&w, "bytes 01 05 7B 22 6F 70 22");
    world_do(&w, "bytes 00 18 3A 30 2C 22 74 22 3A 22 54 59 50 49 4E 47 5F 53 54 41 52 54 22 2C 22 64");
    world_do(&w, "bytes 80 06 22 3A 7B 7D 7D 0A");
    WORLD_EXPECT(&w, GW_TYPING_START, 100);
    CHECK_TEXT(world_last(&w, GW_TYPING_START)->d, "{}");
    world_end(&w);
}

TEST(client_takes_keys_in_any_order)
{
    uint32_t seed;
    for (seed = 1; seed <= 8; seed++) {
        world_init(&w);
        w.sim.event_rate = 10;
        w.sim.seed = seed;
        world_begin(&w, "on accept key_order");
        world_advance(&w, 10000);
        world_check_delivery(&w, 1);
        world_do(&w, "cut");
        WORLD_EXPECT(&w, GW_RESUMED, 1000);
        world_end(&w);
    }
}

TEST(client_takes_d_before_op_and_t)
{
    begin_live(NULL);
    world_do(&w,
        "raw {\"d\":{\"t\":\"READY\",\"op\":9,\"s\":77,\"x\":\"}\\\"{\"},\"s\":9,\"t\":\"TYPING_START\",\"op\":0}");
    CHECK_U64(WORLD_EXPECT(&w, GW_TYPING_START, 100)->seq, 9);
    CHECK_TEXT(world_last(&w, GW_TYPING_START)->d, "{\"t\":\"READY\",\"op\":9,\"s\":77,\"x\":\"}\\\"{\"}");
    world_do(&w, "raw { \"op\" : 0 , \"unknown\":[{\"op\":7}], \"t\" : \"TYPING_START\" , \"s\":10,\"d\" : [ 1 , 2 ] } ");
    CHECK_U64(WORLD_EXPECT(&w, GW_TYPING_START, 100)->seq, 10);
    CHECK_TEXT(world_last(&w, GW_TYPING_START)->d, "[ 1 , 2 ]");
    w.any_violations = 1;
    world_end(&w);
}

TEST(client_hands_out_bodies_of_every_kind)
{
    static const char *const bodies[] = { "null", "true", "false", "0", "-1.5e3", "\"text\"", "[]", "{}" };
    size_t i;
    begin_live(NULL);
    for (i = 0; i < sizeof bodies / sizeof bodies[0]; i++) {
        char command[100];
        snprintf(command, sizeof command, "raw {\"t\":\"TYPING_START\",\"s\":%u,\"op\":0,\"d\":%s}", (unsigned)(10 + i),
            bodies[i]);
        world_do(&w, command);
        CHECK_TEXT(WORLD_EXPECT(&w, GW_TYPING_START, 100)->d, bodies[i]);
    }
    world_do(&w, "raw {\"t\":\"TYPING_START\",\"s\":40,\"op\":0}");
    CHECK_TEXT(WORLD_EXPECT(&w, GW_TYPING_START, 100)->d, "");
    w.any_violations = 1;
    world_end(&w);
}

TEST(client_event_without_a_body_reads_as_absent)
{
    begin_live(NULL);
    world_do(&w, "raw {\"t\":\"TYPING_START\",\"s\":40,\"op\":0}");
    {
        const gw_event *event;
        world_stream *stream = w.streams;
        world_carry(stream);
        while ((event = gw_poll(w.gw)) != NULL) {
            CHECK_EQ(gw_kind_of(&event->d, NULL), GW_ABSENT);
            CHECK_U64(gw_u64(&event->d, "id"), 0);
        }
    }
    w.any_violations = 1;
    world_end(&w);
}

TEST(client_unknown_op_and_unknown_event_are_normal)
{
    const world_event *unknown;
    begin_live(NULL);
    world_do(&w, "unknown_op");
    world_do(&w, "unknown_event");
    unknown = WORLD_EXPECT(&w, GW_UNKNOWN_DISPATCH, 100);
    CHECK_TEXT(unknown->name, "SIM_UNKNOWN_EVENT");
    CHECK_HAS(unknown->d, "\"none\":null");
    CHECK_U64(unknown->seq, 4);
    CHECK_U64(world_count_events(&w, GW_DISCONNECTED), 0);
    world_do(&w, "event A_NAME_THAT_IS_VERY_LONG_AND_OF_NO_KNOWN_EVENT_AT_ALL_"
                 "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx {}");
    CHECK_HAS(WORLD_EXPECT(&w, GW_UNKNOWN_DISPATCH, 100)->name, "A_NAME_THAT");
    world_do(&w, "event MESSAGE_CREATED {}");                       /* near a known one */
    CHECK_TEXT(WORLD_EXPECT(&w, GW_UNKNOWN_DISPATCH, 100)->name, "MESSAGE_CREATED");
    world_end(&w);
}

TEST(client_names_every_dispatch_of_the_table)
{
    uint32_t type;
    begin_live(NULL);
    for (type = 1; type < GW_DISPATCH_END_; type++) {
        char command[120];
        if (type == GW_READY || type == GW_RESUMED) continue;
        snprintf(command, sizeof command, "event %s {\"id\":\"1\"}", gw_name_of(type));
        world_do(&w, command);
        CHECK_TEXT(WORLD_EXPECT(&w, type, 100)->name, gw_name_of(type));
    }
    world_end(&w);
}

TEST(client_sequence_zero_and_above_2_to_the_53_stay_exact)
{
    char line[400];
    begin_live(NULL);
    world_do(&w, "seq_zero");
    CHECK_U64(WORLD_EXPECT(&w, GW_TYPING_START, 100)->seq, 0);
    world_do(&w, "raw {\"t\":\"TYPING_START\",\"s\":9007199254740993,\"op\":0,\"d\":{}}");
    CHECK_U64(WORLD_EXPECT(&w, GW_TYPING_START, 100)->seq, UINT64_C(9007199254740993));
    world_do(&w, "op1");
    world_settle(&w);
    CHECK(world_line(&w, WORLD_EV("heartbeat"), "\"d\":9007199254740993", 0, line, sizeof line));
    world_do(&w, "raw {\"t\":\"TYPING_START\",\"s\":18446744073709551615,\"op\":0,\"d\":{}}");
    CHECK_U64(WORLD_EXPECT(&w, GW_TYPING_START, 100)->seq, UINT64_MAX);
    w.any_violations = 1;
    world_end(&w);
}

TEST(client_sequence_jump_is_accepted)
{
    begin_live(NULL);
    world_do(&w, "seq_huge");
    CHECK(WORLD_EXPECT(&w, GW_TYPING_START, 100)->seq > UINT64_C(8589934592));
    world_do(&w, "cut");
    WORLD_EXPECT(&w, GW_RESUMED, 1000);
    CHECK(world_number(&w, WORLD_EV("resume"), 0, "seq") > UINT64_C(8589934592));
    world_end(&w);
}

TEST(client_broken_payloads_end_the_connection_and_are_never_handed_out)
{
    static const char *const bad[] = {
        "raw {", "raw }", "raw {\"op\":0,\"t\":\"TYPING_START\",\"s\":9,\"d\":{\"a\":[1,2}}",
            "raw {\"op\":0,\"t\":\"TYPING_START\",\"s\":9,\"d\":{",
        "raw {\"op\":0,\"t\":\"TYPING_START\",\"s\":9,\"d\":{}}}",
            "raw {\"op\":0,\"t\":\"TYPING_START\",\"s\":9,\"d\":{}} x",
        "raw {\"op\":0,\"t\":\"TYPING_START\",\"s\":9,\"d\":\"abc}", "raw {\"op\":0 \"t\":\"TYPING_START\",\"d\":{}}",
        "raw {\"op\":0,\"t\":\"TYPING_START\",\"s\":\"9\",\"d\":{}}",
            "raw {\"op\":0,\"t\":\"TYPING_START\",\"s\":-9,\"d\":{}}",
        "raw {\"op\":0,\"t\":\"TYPING_START\",\"s\":18446744073709551616,\"d\":{}}", "raw {\"op\":0,\"t\":7,\"d\":{}}",
        "raw {\"op\":[0],\"d\":{}}", "raw {op:0}", "raw 7", "raw \"text\"", "raw null", "raw [{\"op\":7}]",
            "raw {\"op\":0,}",
        "raw {\"op\":0,\"t\":\"TYPING_START\",\"d\":}", "raw {\"op\":0}{\"op\":7}", "no_op", "broken_json"
    };
    size_t i;
    for (i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        int failures = check_failures;
        begin_live(NULL);
        world_do(&w, bad[i]);
        CHECK_EQ(WORLD_EXPECT(&w, GW_DISCONNECTED, 100)->reason, GW_REASON_PROTOCOL);
        CHECK_U64(world_count_events(&w, GW_TYPING_START), 0);
        WORLD_EXPECT(&w, GW_RESUMED, 1000);
        if (check_failures != failures) fprintf(stderr, "    %s\n", bad[i]);
        world_end(&w);
    }
}

/* `bytes` stand behind `at` letters in d, or in the name; the wire gives `most` bytes at a time. */
static void take_text(const char *name, size_t at, const char *bytes, uint32_t most, int is_fine)
{
    char command[1024], body[700];
    int failures = check_failures;
    memset(body, 'y', at);
    snprintf(body + at, sizeof body - at, "%s%080d", name ? "" : bytes, 0);
    snprintf(command, sizeof command, "raw {\"t\":\"%s\",\"s\":9,\"op\":0,\"d\":{\"a\":\"%s\"}}",
             name ? bytes : "TYPING_START", body);
    begin_live(NULL);
    w.read_most = most;
    world_do(&w, command);
    if (is_fine) {
        WORLD_EXPECT(&w, name ? GW_UNKNOWN_DISPATCH : GW_TYPING_START, 100);
    } else {
        CHECK_EQ(WORLD_EXPECT(&w, GW_DISCONNECTED, 100)->reason, GW_REASON_PROTOCOL);
        CHECK_U64(world_count(&w, WORLD_EV("close_received"), "\"code\":1007"), 1);
        CHECK_U64(world_count_events(&w, GW_TYPING_START), 0);
    }
    if (check_failures != failures) fprintf(stderr, "    %s, %u at a time\n", command, (unsigned)most);
    world_end(&w);
}

/* The brackets' pass says where there is more than ASCII: it must not overlook any. */
TEST(client_checks_utf8_wherever_it_stands)
{
    static const char *const bad[] = { "\xff", "\xc3", "\xe2\x82", "\x80", "\xed\xa0\x80", "\xf0\x9f\x98" };
    static const char *const fine[] = { "\xc3\xa9", "\xe2\x82\xac", "\xf0\x9f\x98\x80" };
    static const uint32_t most[] = { 0, 61, 7 };
    size_t at, i;
    for (at = 0; at < 450; at += 9) {
        i = at / 9;
        take_text(NULL, at, bad[i % 6], most[i / 6 % 3], 0);
        take_text(NULL, at, fine[i % 3], most[i / 3 % 3], 1);
    }
    /* at one of these places the piece ends in the middle of the character, and the next is all ASCII */
    for (at = 100; at < 200; at++) take_text(NULL, at, "\xc3", 100, 0);
    for (i = 0; i < 6; i++) take_text("", 200, bad[i], most[i % 3], 0);
    for (i = 0; i < 3; i++) take_text("", 200, fine[i], most[i % 3], 1);
}

TEST(client_faults_deeper_inside_d_read_as_absent)
{
    begin_live(NULL);
    world_do(&w, "raw {\"op\":0,\"t\":\"TYPING_START\",\"s\":9,\"d\":{\"id\" \"5\",\"name\":tru3}}");
    {
        const gw_event *event;
        uint32_t seen = 0;
        world_carry(w.streams);
        while ((event = gw_poll(w.gw)) != NULL) {
            seen++;
            CHECK_EQ(gw_true(&event->d, "name"), 0);
            CHECK_U64(gw_u64(&event->d, "nothing"), 0);
        }
        CHECK(seen <= 1);
    }
    w.any_violations = 1;
    world_advance(&w, 60000);
    CHECK_EQ(gw_shard_live(w.gw, 0), 1);
    world_end(&w);
}

TEST(client_hundred_thousand_brackets_harm_nothing)
{
    size_t depth = 100000, at;
    char *command = (char *)malloc(depth * 2 + 100);
    begin_live(NULL);
    at = (size_t)sprintf(command, "raw {\"op\":0,\"t\":\"TYPING_START\",\"s\":9,\"d\":");
    memset(command + at, '[', depth);
    memset(command + at + depth, ']', depth);
    strcpy(command + at + 2 * depth, "}");
    world_do(&w, command);
    CHECK_U64(WORLD_EXPECT(&w, GW_TYPING_START, 100)->d_len, depth * 2);
    free(command);
    w.any_violations = 1;
    world_end(&w);
}

TEST(client_empty_message_ends_the_connection)
{
    begin_live(NULL);
    world_do(&w, "bytes 81 00");
    CHECK_EQ(WORLD_EXPECT(&w, GW_DISCONNECTED, 100)->reason, GW_REASON_PROTOCOL);
    WORLD_EXPECT(&w, GW_RESUMED, 100);
    world_end(&w);
}

/* ---- too large ---- */
static void begin_small(uint32_t max_payload, const char *script)
{
    world_init(&w);
    w.cfg.max_payload = max_payload;
    world_begin(&w, script);
    WORLD_EXPECT(&w, GW_READY, 1000);
    world_settle(&w);
}

TEST(client_skips_what_is_too_large_counts_its_seq_and_lives)
{
    const world_event *skipped;
    uint64_t peak;
    gw_stats stats;
    begin_small(16384, NULL);
    gw_stats_read(w.gw, GW_ALL, &stats);
    peak = stats.memory_peak;
    world_do(&w, "big 10000000");
    skipped = WORLD_EXPECT(&w, GW_SKIPPED, 10000);
    CHECK_U64(skipped->seq, 4);
    CHECK(skipped->bytes > 9900000);
    CHECK_HAS(skipped->message, "GUILD_CREATE");
    CHECK_HAS(skipped->message, "max_payload");
    world_do(&w, "event MESSAGE_CREATE {}");
    CHECK_U64(WORLD_EXPECT(&w, GW_MESSAGE_CREATE, 1000)->seq, 5);
    CHECK_U64(world_count_events(&w, GW_DISCONNECTED), 0);
    gw_stats_read(w.gw, GW_ALL, &stats);
    CHECK_U64(stats.skipped, 1);
    CHECK(stats.memory_peak < peak + 120000);                       /* a 10 MB payload costs no memory */
    world_do(&w, "cut");
    WORLD_EXPECT(&w, GW_RESUMED, 1000);
    CHECK_U64(world_number(&w, WORLD_EV("resume"), 0, "seq"), 5);
    world_end(&w);
}

TEST(client_skipped_event_has_its_name)
{
    begin_small(16384, NULL);
    world_do(&w, "big 100000");
    CHECK_HAS(WORLD_EXPECT(&w, GW_SKIPPED, 1000)->message, "GUILD_CREATE");
    world_end(&w);
}

TEST(client_skips_at_the_exact_limit)
{
    uint32_t more;
    for (more = 0; more < 2; more++) {
        char *command = (char *)malloc(9000);
        size_t d_len = 8192 + more;
        int at;
        begin_small(8192, NULL);
        at = sprintf(command, "event MESSAGE_CREATE \"");
        memset(command + at, 'x', d_len - 2);
        strcpy(command + at + d_len - 2, "\"");
        world_do(&w, command);
        world_settle(&w);
        CHECK_U64(world_count_events(&w, GW_MESSAGE_CREATE), 1 - more);
        CHECK_U64(world_count_events(&w, GW_SKIPPED), more);
        free(command);
        world_end(&w);
    }
}

TEST(client_skips_with_d_before_t_too)
{
    char *command = (char *)malloc(40000);
    int at;
    begin_small(8192, NULL);
    at = sprintf(command, "raw {\"d\":\"");
    memset(command + at, 'x', 30000);
    strcpy(command + at + 30000, "\",\"s\":9,\"t\":\"MESSAGE_CREATE\",\"op\":0}");
    world_do(&w, command);
    CHECK_U64(WORLD_EXPECT(&w, GW_SKIPPED, 1000)->seq, 9);
    world_do(&w, "raw {\"op\":0,\"t\":\"TYPING_START\",\"s\":10,\"d\":{}}");
    WORLD_EXPECT(&w, GW_TYPING_START, 1000);
    free(command);
    w.any_violations = 1;
    world_end(&w);
}

TEST(client_skips_large_payloads_in_fragments_byte_by_byte)
{
    begin_small(16384, "on accept fragments 7");
    w.read_most = 1;
    world_do(&w, "big 100000");
    WORLD_EXPECT(&w, GW_SKIPPED, 10000);
    w.read_most = 0;
    world_do(&w, "event MESSAGE_CREATE {}");
    WORLD_EXPECT(&w, GW_MESSAGE_CREATE, 1000);
    CHECK_U64(world_count_events(&w, GW_DISCONNECTED), 0);
    world_end(&w);
}

TEST(client_gives_the_memory_of_a_large_payload_back)
{
    uint64_t before;
    world_init(&w);
    world_begin(&w, NULL);
    WORLD_EXPECT(&w, GW_READY, 1000);
    world_advance(&w, 1000);
    before = w.live_bytes;
    world_do(&w, "big 5000000");
    WORLD_EXPECT(&w, GW_GUILD_CREATE, 1000);
    world_advance(&w, 2000);
    CHECK_U64(world_last(&w, GW_GUILD_CREATE)->d_len, 5000000);
    world_do(&w, "event MESSAGE_CREATE {}");
    world_do(&w, "event MESSAGE_CREATE {}");
    world_advance(&w, 1000);
    CHECK(w.live_bytes < before + 100000);
    world_end(&w);
}

TEST(client_asks_for_no_more_memory_than_a_large_payload_needs)
{
    world_init(&w);
    w.cfg.log_level = GW_LOG_DEBUG;                 /* a trace would have a copy */
    world_begin(&w, NULL);
    WORLD_EXPECT(&w, GW_READY, 1000);
    w.largest_bytes = 0;
    world_do(&w, "big 5000000");
    WORLD_EXPECT(&w, GW_GUILD_CREATE, 1000);
    CHECK_U64(world_last(&w, GW_GUILD_CREATE)->d_len, 5000000);
    CHECK_U64(w.largest_bytes, 5000001);            /* with the payload's closing brace */
    world_end(&w);
}

TEST(client_ready_that_is_too_large_is_told_and_the_client_is_not_lost)
{
    world_init(&w);
    w.cfg.max_payload = 200;
    world_begin(&w, NULL);
    world_advance(&w, 100000);
    CHECK(world_count_events(&w, GW_SKIPPED) >= 1);
    CHECK_U64(sim_get_stats(w.gateway)->identifies, 1);
    CHECK_EQ(gw_alive(w.gw), 1);
    world_end(&w);
}

/* ---- not wanted ---- */
TEST(client_want_off_filters_and_counts_the_seq)
{
    gw_stats stats;
    begin_live(NULL);
    CHECK_EQ(gw_want(w.gw, GW_TYPING_START, 0), GW_OK);
    world_do(&w, "event TYPING_START {}");
    world_do(&w, "event MESSAGE_CREATE {}");
    CHECK_U64(WORLD_EXPECT(&w, GW_MESSAGE_CREATE, 100)->seq, 5);
    CHECK_U64(world_count_events(&w, GW_TYPING_START), 0);
    gw_stats_read(w.gw, 0, &stats);
    CHECK_U64(stats.filtered, 1);
    CHECK_EQ(gw_want(w.gw, GW_TYPING_START, 1), GW_OK);
    world_do(&w, "event TYPING_START {}");
    WORLD_EXPECT(&w, GW_TYPING_START, 100);
    world_do(&w, "cut");
    WORLD_EXPECT(&w, GW_RESUMED, 1000);
    CHECK_U64(world_number(&w, WORLD_EV("resume"), 0, "seq"), 6);
    world_end(&w);
}

TEST(client_want_off_works_in_any_key_order_and_for_large_payloads)
{
    uint32_t i;
    begin_live("on accept key_order");
    CHECK_EQ(gw_want(w.gw, GW_GUILD_CREATE, 0), GW_OK);
    CHECK_EQ(gw_want(w.gw, GW_UNKNOWN_DISPATCH, 0), GW_OK);
    for (i = 0; i < 20; i++) {
        world_do(&w, "big 200000");
        world_do(&w, "unknown_event");
    }
    world_do(&w, "event MESSAGE_CREATE {}");
    CHECK_U64(WORLD_EXPECT(&w, GW_MESSAGE_CREATE, 5000)->seq, 44);
    CHECK_U64(world_count_events(&w, GW_GUILD_CREATE), 2);
    CHECK_U64(world_count_events(&w, GW_UNKNOWN_DISPATCH), 0);
    CHECK_U64(world_count_events(&w, GW_SKIPPED), 0);
    world_end(&w);
}

TEST(client_want_refuses_what_is_no_choice)
{
    static const uint32_t types[] = { GW_READY, GW_RESUMED, GW_DISPATCH_END_, GW_CLOSED, GW_FATAL, UINT32_MAX };
    size_t i;
    begin_live(NULL);
    for (i = 0; i < sizeof types / sizeof types[0]; i++) {
        CHECK_EQ(gw_want(w.gw, types[i], 0), GW_ERROR_ARGUMENT);
        CHECK_HAS(gw_why(w.gw), "gw_want");
    }
    world_end(&w);
}

/* ---- the event in hand ---- */
static uint32_t tended;

/* In a handler: time passes and bytes move, as the world has it between two polls. */
static void tend_on(world *x, uint32_t times, uint64_t each_us)
{
    world_stream *stream;
    uint32_t i;
    for (i = 0; i < times; i++) {
        x->now_us += each_us;
        sim_tick(x->gateway, world_sim_ms(x));
        for (stream = x->streams; stream; stream = stream->next) world_carry(stream);
        gw_tend(x->gw);
    }
}

static void tend_for_long(world *x, const gw_event *event)
{
    char before[WORLD_KEEP + 1];
    const char *ptr = event->d.ptr, *name = event->name;
    size_t len = event->d.len < WORLD_KEEP ? event->d.len : WORLD_KEEP;
    if (event->type != GW_MESSAGE_CREATE || tended++) return;
    memcpy(before, ptr, len);
    tend_on(x, 600, 500000);                        /* a handler that works for five minutes */
    CHECK(event->d.ptr == ptr && event->name == name);
    CHECK_BYTES(event->d.ptr, len, before, len);
    CHECK_U64(gw_u64(&event->d, "n"), 7);
}

TEST(client_tend_keeps_beating_and_the_event_in_hand_valid)
{
    size_t beats;
    tended = 0;
    begin_live(NULL);
    w.on_event = tend_for_long;
    world_script(&w, "rate 3");
    world_do(&w, "event MESSAGE_CREATE {\"n\":7}");
    beats = world_count(&w, WORLD_EV("heartbeat"), NULL);
    world_settle(&w);
    CHECK_U64(tended > 0, 1);
    CHECK(world_count(&w, WORLD_EV("heartbeat"), NULL) >= beats + 6);
    world_do(&w, "rate 0");
    world_advance(&w, 60000);
    CHECK_U64(world_count_events(&w, GW_DISCONNECTED), 0);
    CHECK_U64(world_count_events(&w, GW_POLLED_LATE), 0);
    world_check_delivery(&w, 1);
    world_end(&w);
}

static uint32_t gate_calls;
static int32_t gate_that_counts(void *user, int32_t shard, uint32_t bucket)
{
    (void)user; (void)shard; (void)bucket;
    gate_calls++;
    return 0;
}

static void tend_through_a_lost_session(world *x, const gw_event *event)
{
    if (event->type != GW_MESSAGE_CREATE || tended++) return;
    world_do(x, "op9 false");
    tend_on(x, 300, 50000);
    CHECK_U64(gate_calls, 1);
}

/* Who takes a permit back at DISCONNECTED would take back one that was given before he heard of it. */
TEST(gate_is_asked_when_the_end_before_was_told)
{
    tended = gate_calls = 0;
    world_init(&w);
    w.cfg.identify_gate = gate_that_counts;
    world_begin(&w, "rate 0");
    WORLD_EXPECT(&w, GW_READY, 1000);
    w.on_event = tend_through_a_lost_session;
    world_do(&w, "event MESSAGE_CREATE {\"n\":7}");
    world_settle(&w);
    CHECK_U64(tended > 0, 1);
    WORLD_EXPECT(&w, GW_READY, 1000);               /* all waits are long over */
    CHECK_U64(gate_calls, 2);
    world_end(&w);
}

static void tend_through_a_cut(world *x, const gw_event *event)
{
    if (event->type != GW_MESSAGE_CREATE || tended++) return;
    world_do(x, "cut");
    tend_on(x, 200, 50000);
    CHECK_U64(gw_u64(&event->d, "n"), 7);
    CHECK_TEXT(event->name, "MESSAGE_CREATE");
    CHECK_U64(sim_get_stats(x->gateway)->resumes, 1);               /* it reconnected meanwhile */
}

TEST(client_tend_reconnects_while_an_event_is_in_hand)
{
    tended = 0;
    begin_live(NULL);
    w.on_event = tend_through_a_cut;
    world_do(&w, "event MESSAGE_CREATE {\"n\":7}");
    world_settle(&w);
    WORLD_EXPECT(&w, GW_RESUMED, 5000);
    world_check_delivery(&w, 1);
    world_end(&w);
}

TEST(client_turn_ends_by_its_time_as_well)
{
    uint32_t i;
    size_t most = 0;
    world_init(&w);
    w.cfg.turn_us = 300;
    w.cfg.turn_bytes = 100u * 1024u * 1024u;
    world_begin(&w, NULL);
    WORLD_EXPECT(&w, GW_READY, 1000);
    for (i = 0; i < 500; i++) world_do(&w, "event MESSAGE_CREATE {}");
    w.clock_tick_us = 10;
    for (i = 0; i < 300; i++) {
        size_t turn = 0;
        const gw_event *event;
        world_carry(w.streams);
        while ((event = gw_poll(w.gw)) != NULL) { world_take(&w, event); turn++; }
        if (turn > most) most = turn;
    }
    w.clock_tick_us = 0;
    world_settle(&w);
    CHECK_U64(world_count_events(&w, GW_MESSAGE_CREATE), 500);
    CHECK(most > 2 && most < 60);
    world_end(&w);
}

CHECK_MAIN()
