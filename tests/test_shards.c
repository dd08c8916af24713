/* Several shards in one client: which of them run, how they are started, stopped and handed on,
 * and what a stop leaves behind. Two by two, ranges by list and the silence of a stopped shard are
 * in test_client_calls.c and test_lessons.c; the life of many together in test_shards_life.c; who
 * may identify, and when, in test_budget.c. Discord docs, "Sharding". */
#define DISCORD_GATEWAY_IMPLEMENTATION
#define GW_API_URL "http://127.0.0.1:9"     /* the world's gateway answers /gateway/bot, too */
#include "discord_gateway.h"
#include "shards.h"

#define BOT_PATH "\"path\":\"/api/v10/gateway/bot\""

/* ---- helpers ---- */
/* Where the first such event of that shard stands; event_count: nowhere. */
static size_t place_of(uint32_t type, int32_t shard)
{
    size_t i;
    for (i = 0; i < w.event_count; i++)
        if (w.events[i].type == type && w.events[i].shard == shard) break;
    return i;
}

static void tell(int32_t shard, const char *command)
{
    char line[160];
    snprintf(line, sizeof line, "shard %d %s", (int)shard, command);
    world_do(&w, line);
}

/* ---- ranges ---- */
TEST(shards_bad_ranges_are_refused_before_any_dial)
{
    static const struct { int32_t first, count, total; int with_url; const char *part; } rows[] = {
        { 4, 1, 4, 1, "passes the total" },
        { 3, 2, 4, 1, "passes the total" },
        { 0, 5, 4, 1, "passes the total" },
        { 4, 0, 4, 1, "passes the total" },             /* by hand, too */
        { 4, GW_ALL, 4, 1, "passes the total" },
        { INT32_MAX, INT32_MAX, INT32_MAX, 1, "passes the total" },
        { INT32_MAX - 1, INT32_MAX, INT32_MAX, 1, "passes the total" },
        { 1, 0, 0, 1, "shard_total is how many" },
        { 0, 2, 0, 1, "shard_total is how many" },
        { 2, 2, 0, 0, "shard_total is how many" },
        { 0, INT32_MAX, 0, 1, "shard_total is how many" },
        { -1, 1, 4, 1, "negative" },
        { 0, -2, 4, 1, "negative" },
        { 0, 1, -1, 1, "negative" },
        { 0, GW_ALL, GW_ALL, 1, "negative" },
        { GW_ALL, GW_ALL, 0, 0, "negative" },
        { INT32_MIN, INT32_MIN, INT32_MIN, 1, "negative" },
        { 0, GW_ALL, 0, 1, "with config.url give shard_total" },
        { 2, GW_ALL, 0, 0, "say how many there are in all" },
        { 2, GW_ALL, 0, 1, "say how many there are in all" },
    };
    size_t i;
    for (i = 0; i < COUNT(rows); i++) {
        int failures = check_failures;
        const world_event *fatal;
        char numbers[120];
        init_shards(rows[i].count, rows[i].total);
        w.cfg.max_concurrency = w.sim.max_concurrency = 1;
        w.cfg.shard_first = rows[i].first;
        if (!rows[i].with_url) w.cfg.url = NULL;
        world_begin(&w, NULL);
        fatal = WORLD_EXPECT(&w, GW_FATAL, 100);
        CHECK_EQ(fatal->reason, GW_REASON_CONFIG);
        CHECK_EQ(fatal->shard, GW_ALL);
        snprintf(numbers, sizeof numbers, "shard_first %d, shard_count %d, shard_total %d",
                 (int)rows[i].first, (int)rows[i].count, (int)rows[i].total);
        CHECK_HAS(fatal->message, numbers);  /* what was given, and what is wrong with it */
        CHECK_HAS(fatal->message, rows[i].part);
        WORLD_EXPECT(&w, GW_CLOSED, 100);
        CHECK_EQ(gw_alive(w.gw), 0);
        CHECK_U64(w.opens, 0);
        world_end(&w);
        if (check_failures != failures) fprintf(stderr, "    row %u\n", (unsigned)i);
    }
}

TEST(shards_good_ranges_run_just_these_ids)
{
    static const struct { int32_t first, count, total, from, to; } rows[] = {
        { 0, 1, 1, 0, 0 }, { 0, 4, 4, 0, 3 }, { 3, 1, 4, 3, 3 }, { 2, GW_ALL, 5, 2, 4 },
        { 4, GW_ALL, 5, 4, 4 }, { 0, GW_ALL, 3, 0, 2 }, { 999999, 1, 1000000, 999999, 999999 },
        { 999998, GW_ALL, 1000000, 999998, 999999 }
    };
    size_t i;
    int32_t id;
    for (i = 0; i < COUNT(rows); i++) {
        init_shards(rows[i].count, rows[i].total);
        w.cfg.max_concurrency = w.sim.max_concurrency = 8;
        w.cfg.shard_first = rows[i].first;
        world_begin(&w, NULL);
        expect_each(GW_READY, (uint32_t)(rows[i].to - rows[i].from + 1));
        for (id = rows[i].from; id <= rows[i].to; id++)
            CHECK_U64(identifies_of(id, rows[i].total), 1);
        CHECK_U64(identifies(), (size_t)(rows[i].to - rows[i].from + 1));
        CHECK_EQ(gw_shard_live(w.gw, GW_ALL), 1);
        world_end(&w);
    }
}

TEST(shards_all_keep_the_total_of_a_saved_text_although_the_advice_changed)
{
    uint32_t i;
    init_shards(GW_ALL, 0);
    w.cfg.url = NULL;
    w.cfg.max_concurrency = 0;
    w.sim.shards = 3;
    w.sim.max_concurrency = 8;
    world_begin(&w, NULL);
    expect_each(GW_READY, 3);
    world_settle(&w);
    save(GW_ALL);
    world_do(&w, "shards 5");
    restart();
    for (i = 0; i < 3; i++) WORLD_EXPECT(&w, GW_RESUMED, 1000);
    world_advance(&w, 20000);
    CHECK_U64(identifies(), 3);
    CHECK_U64(world_count(&w, WORLD_EV("http"), BOT_PATH), 1);
    CHECK_EQ(gw_shard_of(w.gw, UINT64_C(4194304) * 8), 2);              /* 8 % 3 */
    world_do(&w, "expire_sessions");
    world_do(&w, "op9 false");  /* even now: a total is for life */
    world_advance(&w, 20000);
    CHECK_U64(identifies(), 6);
    CHECK_U64(identifies_of(4, 5), 0);
    CHECK_EQ(gw_shard_live(w.gw, GW_ALL), 1);
    world_end(&w);
}

TEST(shards_all_with_a_text_that_is_refused_are_as_many_as_advised_now)
{
    init_shards(GW_ALL, 0);
    w.cfg.url = NULL;
    w.cfg.max_concurrency = 0;
    w.sim.shards = 2;
    w.sim.max_concurrency = 8;
    world_begin(&w, NULL);
    expect_each(GW_READY, 2);
    world_settle(&w);
    save(GW_ALL);
    world_do(&w, "shards 3");
    text[text_len / 2] ^= 1;
    world_advance(&w, 10000);
    restart();
    CHECK_EQ(WORLD_EXPECT(&w, GW_SESSION_LOST, 100)->shard, GW_ALL);
    expect_each(GW_READY, 3);
    CHECK_U64(identifies_of(2, 3), 1);
    world_end(&w);
}

TEST(shards_all_with_the_text_of_an_unsharded_bot_are_as_many_as_advised)
{
    world_init(&w);
    w.sim.shards = w.sim.max_concurrency = 2;
    world_begin(&w, NULL);
    WORLD_EXPECT(&w, GW_READY, 1000);
    save(GW_ALL);
    world_advance(&w, 6000);
    w.cfg.url = NULL;
    w.cfg.shard_count = GW_ALL;
    restart();
    WORLD_EXPECT(&w, GW_SESSION_LOST, 100);
    expect_each(GW_READY, 2);
    CHECK_U64(identifies_of(0, 2) + identifies_of(1, 2), 2);
    world_end(&w);
}

TEST(shards_all_with_a_text_of_no_session_are_as_many_as_advised)
{
    init_shards(GW_ALL, 0);
    w.cfg.url = NULL;
    w.cfg.max_concurrency = 0;
    w.sim.shards = 2;
    w.sim.max_concurrency = 8;
    world_begin(&w, "next 3 no_ready");
    world_advance(&w, 1000);
    save(GW_ALL);
    CHECK(!text_has(0, 2) && !text_has(1, 2));
    world_advance(&w, 10000);
    world_do(&w, "calm");
    restart();
    expect_each(GW_READY, 2);
    CHECK_U64(world_count_events(&w, GW_SESSION_LOST), 0);
    CHECK_U64(identifies_of(1, 2), 2);
    world_end(&w);
}

/* ---- started and stopped by hand ---- */
TEST(shards_none_dial_until_one_is_started_by_hand)
{
    init_shards(0, 4);
    world_begin(&w, NULL);
    world_advance(&w, 3600000);
    CHECK_U64(w.opens, 0);
    CHECK_U64(w.event_count, 0);
    CHECK_EQ(gw_alive(w.gw), 1);
    CHECK_EQ(gw_shard_live(w.gw, GW_ALL), 0);
    CHECK_EQ(gw_shard_of(w.gw, UINT64_C(4194304) * 7), 3);              /* the total is known */
    CHECK_EQ(gw_shard_start(w.gw, 2, NULL, 0), GW_OK);
    CHECK_U64(w.opens, 0);  /* the call itself never dials */
    CHECK_EQ(WORLD_EXPECT(&w, GW_READY, 1000)->shard, 2);
    CHECK_U64(w.opens, 1);
    CHECK_EQ(gw_shard_live(w.gw, GW_ALL), 1);
    CHECK_EQ(gw_shard_live(w.gw, 2), 1);
    CHECK_EQ(gw_shard_live(w.gw, 1), 0);
    gw_stop(w.gw, GW_END);
    WORLD_EXPECT(&w, GW_CLOSED, 5000);
    world_end(&w);
}

TEST(shards_by_hand_without_a_single_one_stop_and_close)
{
    init_shards(0, 4);
    world_begin(&w, NULL);
    world_advance(&w, 1000);
    CHECK_EQ(gw_stop(w.gw, GW_KEEP), GW_OK);
    WORLD_EXPECT(&w, GW_CLOSED, 100);
    CHECK_EQ(gw_shard_start(w.gw, 0, NULL, 0), GW_ERROR_ENDED);
    world_end(&w);
}

TEST(shards_start_and_stop_answer_each_mistake_with_a_sentence)
{
    init_shards(2, 4);
    world_begin(&w, NULL);
    expect_each(GW_READY, 2);
    CHECK_EQ(gw_shard_start(w.gw, 4, NULL, 0), GW_ERROR_ARGUMENT);
    CHECK_HAS(gw_why(w.gw), "shard_total - 1");
    CHECK_EQ(gw_shard_start(w.gw, GW_ALL, NULL, 0), GW_ERROR_ARGUMENT);
    CHECK_EQ(gw_shard_start(w.gw, INT32_MIN, NULL, 0), GW_ERROR_ARGUMENT);
    CHECK_EQ(gw_shard_start(w.gw, INT32_MAX, NULL, 0), GW_ERROR_ARGUMENT);
    CHECK_EQ(gw_shard_start(w.gw, 1, NULL, 0), GW_ERROR_ARGUMENT);
    CHECK_HAS(gw_why(w.gw), "runs already");
    /* of the total, not of ours */
    CHECK_EQ(gw_shard_stop(w.gw, 2, GW_KEEP), GW_ERROR_NOT_OUR_SHARD);
    CHECK_HAS(gw_why(w.gw), "does not run");
    CHECK_EQ(gw_shard_stop(w.gw, 4, GW_KEEP), GW_ERROR_NOT_OUR_SHARD);
    CHECK_EQ(gw_shard_stop(w.gw, GW_ALL, GW_KEEP), GW_ERROR_NOT_OUR_SHARD);
    CHECK_EQ(gw_shard_stop(w.gw, 1, 0), GW_ERROR_ARGUMENT);
    CHECK_HAS(gw_why(w.gw), "GW_KEEP or GW_END");
    CHECK_EQ(gw_shard_stop(w.gw, 1, 3), GW_ERROR_ARGUMENT);
    CHECK_EQ(gw_shard_live(w.gw, GW_ALL), 1);                           /* nothing of it did harm */
    CHECK_EQ(gw_shard_stop(w.gw, 1, GW_KEEP), GW_OK);
    CHECK_EQ(gw_shard_stop(w.gw, 1, GW_KEEP), GW_ERROR_NOT_OUR_SHARD);
    CHECK_EQ(gw_shard_start(w.gw, 3, "", 0), GW_OK);                    /* beside the range, too */
    CHECK_EQ(WORLD_EXPECT(&w, GW_READY, 1000)->shard, 3);
    CHECK_EQ(gw_stop(w.gw, GW_KEEP), GW_OK);
    CHECK_EQ(gw_shard_start(w.gw, 1, NULL, 0), GW_ERROR_ENDED);
    CHECK_EQ(gw_shard_stop(w.gw, 0, GW_KEEP), GW_ERROR_ENDED);
    WORLD_EXPECT(&w, GW_CLOSED, 5000);
    CHECK_EQ(gw_shard_start(w.gw, 1, NULL, 0), GW_ERROR_ENDED);
    CHECK_EQ(gw_shard_stop(w.gw, 0, GW_KEEP), GW_ERROR_ENDED);
    CHECK_EQ(gw_shard_start(NULL, 1, NULL, 0), GW_ERROR_ENDED);
    CHECK_EQ(gw_shard_stop(NULL, 1, GW_KEEP), GW_ERROR_ENDED);
    world_end(&w);
}

/* Whatever allocation fails: the shard is refused, the others live, and with memory it starts. */
TEST(shards_start_without_memory_is_refused_and_harms_none)
{
    uint64_t more;
    int32_t result = GW_ERROR_NO_MEMORY;
    for (more = 0; result != GW_OK && more < 100; more++) {
        int32_t id;
        init_shards(1, 64);
        world_begin(&w, NULL);
        expect_each(GW_READY, 1);
        for (id = 1; w.gw->shard_count < w.gw->shard_cap; id++) CHECK_EQ(gw_shard_start(w.gw, id, NULL, 0), GW_OK);
        world_advance(&w, 1000);
        w.fail_after = w.allocations + more;        /* the list of shards has to grow as well */
        result = gw_shard_start(w.gw, id, NULL, 0);
        w.fail_after = 0;
        if (result != GW_OK) {
            CHECK_EQ(result, GW_ERROR_NO_MEMORY);
            CHECK_HAS(gw_why(w.gw), "no room: gw_shard_start");
            CHECK_EQ(gw_shard_live(w.gw, GW_ALL), 1);
            CHECK_EQ(gw_shard_start(w.gw, id, NULL, 0), GW_OK);
        }
        world_advance(&w, 1000);
        CHECK_U64(world_count_events(&w, GW_READY), (size_t)id + 1);
        world_end(&w);
    }
    CHECK_EQ(result, GW_OK);
    CHECK(more > 2);
}

TEST(shards_stopped_one_resumes_from_its_own_text)
{
    const world_event *resumed;
    begin_live(3);
    CHECK_EQ(gw_shard_stop(w.gw, 1, GW_KEEP), GW_OK);
    save(1);                                        /* also before SHARD_STOPPED was taken */
    CHECK(text_has(1, 3) && !text_has(0, 3) && !text_has(2, 3));
    CHECK_EQ(WORLD_EXPECT(&w, GW_SHARD_STOPPED, 100)->shard, 1);
    world_advance(&w, 60000);
    CHECK_EQ(gw_shard_live(w.gw, 1), 0);
    CHECK_EQ(gw_shard_start(w.gw, 1, text, text_len), GW_OK);
    resumed = WORLD_EXPECT(&w, GW_RESUMED, 1000);
    CHECK_EQ(resumed->shard, 1);
    CHECK_EQ(resumed->session, 1);
    CHECK_U64(identifies(), 3);
    CHECK_EQ(gw_shard_live(w.gw, GW_ALL), 1);
    world_end(&w);
}

TEST(shards_stopped_with_end_leave_no_session_in_the_text)
{
    begin_live(2);
    CHECK_EQ(gw_shard_stop(w.gw, 1, GW_END), GW_OK);
    world_settle(&w);
    save(GW_ALL);
    CHECK(text_has(0, 2) && !text_has(1, 2));
    CHECK_U64(world_count(&w, WORLD_EV("session_end"), NULL), 1);
    world_advance(&w, 6000);
    CHECK_EQ(gw_shard_start(w.gw, 1, text, text_len), GW_OK);  /* good, but without its session */
    CHECK_EQ(WORLD_EXPECT(&w, GW_READY, 1000)->session, 2);             /* which goes on counting */
    CHECK_U64(identifies_of(1, 2), 2);
    world_end(&w);
}

TEST(shards_started_without_a_text_identify_even_where_a_session_is_kept)
{
    begin_live(2);
    CHECK_EQ(gw_shard_stop(w.gw, 0, GW_KEEP), GW_OK);
    world_advance(&w, 6000);
    CHECK_EQ(gw_shard_start(w.gw, 0, NULL, 0), GW_OK);
    CHECK_EQ(WORLD_EXPECT(&w, GW_READY, 1000)->shard, 0);
    CHECK_U64(world_count(&w, WORLD_EV("resume"), NULL), 0);
    world_end(&w);
}

/* What is in hand when its shard is stopped and started from an older text comes again: the text must not name it. */
TEST(shards_started_from_an_older_text_take_nothing_of_the_run_before)
{
    char older[GW_SESSION_MAX];
    size_t older_len, i;
    begin_live(2);
    save(1);
    older_len = text_len;
    memcpy(older, text, text_len + 1);
    for (i = 0; i < 3; i++) world_do(&w, "shard 1 event MESSAGE_CREATE {}");
    carry_all();
    for (i = 0; i < 3; i++) CHECK(gw_poll(w.gw) != NULL);
    CHECK_EQ(gw_shard_stop(w.gw, 1, GW_KEEP), GW_OK);
    CHECK_EQ(gw_shard_start(w.gw, 1, older, older_len), GW_OK);
    CHECK(gw_poll(w.gw) != NULL);                   /* the third is let go */
    save(1);
    CHECK_TEXT(strchr(text, '\n'), strchr(older, '\n'));
    WORLD_EXPECT(&w, GW_RESUMED, 1000);
    CHECK_U64(count_of(GW_MESSAGE_CREATE, 1), 3);
    world_end(&w);
}

/* (shard, session, seq) names an event: two sessions never have one number. */
TEST(shards_started_with_another_session_give_it_a_number_of_its_own)
{
    begin_live(2);
    save(1);
    CHECK_EQ(gw_shard_stop(w.gw, 1, GW_KEEP), GW_OK);
    world_advance(&w, 6000);
    CHECK_EQ(gw_shard_start(w.gw, 1, NULL, 0), GW_OK);
    CHECK_EQ(WORLD_EXPECT(&w, GW_READY, 1000)->session, 2);
    CHECK_EQ(gw_shard_stop(w.gw, 1, GW_KEEP), GW_OK);
    CHECK_EQ(gw_shard_start(w.gw, 1, text, text_len), GW_OK);
    CHECK_EQ(WORLD_EXPECT(&w, GW_RESUMED, 1000)->session, 3);
    save(1);
    CHECK_EQ(gw_shard_stop(w.gw, 1, GW_KEEP), GW_OK);
    CHECK_EQ(gw_shard_start(w.gw, 1, text, text_len), GW_OK);           /* the same one keeps it */
    CHECK_EQ(WORLD_EXPECT(&w, GW_RESUMED, 1000)->session, 3);
    world_end(&w);
}

/* What was told of the stop comes before anything of the new start, and says why. */
TEST(shards_stopped_and_started_in_one_go_tell_the_stop_first)
{
    const world_event *stopped;
    begin_live(2);
    w.write_full = 1;                               /* the first fills the link, the second waits */
    CHECK(send_empty(1) > 0);
    world_settle(&w);
    CHECK(send_empty(1) > 0);
    w.write_full = 0;
    world_free_events(&w);
    CHECK_EQ(gw_shard_stop(w.gw, 1, GW_KEEP), GW_OK);
    save(1);
    CHECK_EQ(gw_shard_start(w.gw, 1, text, text_len), GW_OK);
    WORLD_EXPECT(&w, GW_RESUMED, 1000);
    world_settle(&w);
    CHECK_U64(count_of(GW_SHARD_STOPPED, 1), 1);
    CHECK_U64(count_of(GW_COMMAND_DROPPED, 1), 1);
    CHECK(place_of(GW_COMMAND_DROPPED, 1) < place_of(GW_SHARD_STOPPED, 1));
    CHECK(place_of(GW_SHARD_STOPPED, 1) < place_of(GW_CONNECTING, 1));
    stopped = world_last(&w, GW_SHARD_STOPPED);
    CHECK_EQ(stopped->reason, GW_REASON_BY_CALLER);
    CHECK_HAS(stopped->message, "stopped");
    CHECK_HAS(stopped->d, "\"session\":\"kept\"");
    world_end(&w);
}

/* ---- from one worker to the other ---- */

/* Another process of the same bot, on the same gateway, at the same time. */
static world other;

static void begin_other(int32_t count, int32_t total)
{
    world_init(&other);
    other.cfg.shard_count = count;
    other.cfg.shard_total = total;
    other.cfg.max_concurrency = w.sim.max_concurrency;
    other.gateway = w.gateway;
    other.now_us = w.now_us;
    other.random = 77;
    world_open_client(&other);
}

static void end_other(void)
{
    if (other.gw) world_close_client(&other);
    CHECK(other.streams == NULL);
    other.gateway = NULL;                           /* it is w's */
    world_end(&other);
}

/* Time passes for both. */
static void advance_both(uint64_t ms)
{
    uint64_t until_us = w.now_us + ms * 1000u;
    world_settle(&w);
    world_settle(&other);
    while (w.now_us < until_us) {
        uint64_t one_us = world_next_us(&w, until_us), two_us = world_next_us(&other, until_us);
        w.now_us = other.now_us = one_us < two_us ? one_us : two_us;
        world_settle(&w);
        world_settle(&other);
    }
}

/* Each event of the shard reaches at least one of the two: what was handed out there counts there,
 * what was not comes here. */
TEST(shards_text_of_another_worker_resumes_here_and_loses_nothing)
{
    uint8_t seen[64];
    const gw_event *event;
    size_t i;
    uint64_t seq;
    memset(seen, 0, sizeof seen);
    init_shards(0, 4);
    world_begin(&w, NULL);
    CHECK_EQ(gw_shard_start(w.gw, 2, NULL, 0), GW_OK);
    WORLD_EXPECT(&w, GW_READY, 1000);
    world_settle(&w);
    for (i = 0; i < 6; i++) world_do(&w, "event MESSAGE_CREATE {}");
    carry_all();
    event = gw_poll(w.gw);                          /* one is handed out and done ... */
    if (CHECK(event != NULL)) world_take(&w, event);
    event = gw_poll(w.gw);                          /* ... one is in hand, four are on their way */
    CHECK(event != NULL);
    CHECK_EQ(gw_shard_stop(w.gw, 2, GW_KEEP), GW_OK);
    save(2);
    CHECK_EQ(gw_shard_stop(w.gw, 2, GW_KEEP), GW_ERROR_NOT_OUR_SHARD);
    begin_other(0, 4);
    CHECK_EQ(gw_shard_start(other.gw, 2, text, text_len), GW_OK);
    advance_both(1000);
    CHECK_U64(world_count_events(&other, GW_RESUMED), 1);
    CHECK_U64(world_count_events(&other, GW_READY), 0);
    CHECK_EQ(gw_shard_live(other.gw, 2), 1);
    CHECK_U64(identifies(), 1);
    CHECK_U64(world_count_events(&other, GW_MESSAGE_CREATE), 5);
    for (i = 0; i < w.event_count; i++)
        if (w.events[i].type < GW_GATEWAY_INFO) seen[w.events[i].seq]++;
    for (i = 0; i < other.event_count; i++)
        if (other.events[i].type == GW_MESSAGE_CREATE) seen[other.events[i].seq]++;
    /* the one in hand was not done here */
    for (seq = 1; seen[seq]; seq++) CHECK_U64(seen[seq], 1);
    CHECK_U64(seq - 1, world_last(&other, GW_MESSAGE_CREATE)->seq);
    CHECK_U64(world_count_events(&w, GW_SHARD_STOPPED), 1);
    end_other();
    world_end(&w);
}

/* A text with a right seal, whatever its lines say. */
static void seal(const char *lines)
{
    br_hmac_context mac;
    char end[GW__END_LEN + 1];
    gw__seal_begin(&mac, WORLD_TOKEN);
    br_hmac_update(&mac, lines, strlen(lines));
    gw__seal_end(&mac, end);
    text_len = (size_t)snprintf(text, sizeof text, "%s%s", lines, end);
}

static void check_refused(const char *what)
{
    int failures = check_failures;
    size_t before = identifies();
    CHECK_EQ(gw_shard_start(w.gw, 1, text, text_len), GW_ERROR_SESSION_TEXT);
    CHECK_HAS(gw_why(w.gw), "session text");
    CHECK_EQ(WORLD_EXPECT(&w, GW_READY, 1000)->shard, 1);               /* it starts all the same */
    CHECK_U64(identifies(), before + 1);
    CHECK_U64(world_count(&w, WORLD_EV("resume"), NULL), 0);
    CHECK_EQ(gw_shard_stop(w.gw, 1, GW_END), GW_OK);
    world_advance(&w, 6000);
    if (failures != check_failures) fprintf(stderr, "    %s\n", what);
}

TEST(shards_start_refuses_a_foreign_or_broken_text_and_identifies)
{
    char whole[GW_SESSION_MAX], changed[GW_SESSION_MAX + 8];
    size_t len, cut;
    begin_live(2);
    CHECK_EQ(gw_shard_stop(w.gw, 1, GW_KEEP), GW_OK);
    save(1);
    CHECK_U64(text_len < sizeof whole, 1);
    len = text_len;
    memcpy(whole, text, sizeof whole);
    world_advance(&w, 6000);
    for (cut = 1; cut < len; cut += 41) {
        text_len = cut;
        check_refused("cut");
    }
    memcpy(text, whole, sizeof whole);
    text_len = len;
    text[len / 2] ^= 1;
    check_refused("changed");
    memcpy(changed, whole, sizeof whole);
    changed[len - GW__END_LEN] = 0;
    changed[2] = '2';
    seal(changed);
    check_refused("of another version");
    seal("gw1 1 2 3 4 5 -\n1 3 1 3 abcdef -\n");
    check_refused("of another count");
    seal("gw1 1 2 3 4 5 -\n1 0 1 3 abcdef -\n");
    check_refused("unsharded");
    world_end(&w);
}

TEST(shards_start_refuses_the_text_of_another_bot)
{
    init_shards(0, 2);
    w.sim.token = NULL;                             /* any token is right */
    w.cfg.token = "another.thisTokenMustNeverBeSeen.token";
    world_begin(&w, NULL);
    CHECK_EQ(gw_shard_start(w.gw, 1, NULL, 0), GW_OK);
    WORLD_EXPECT(&w, GW_READY, 1000);
    world_settle(&w);
    save(1);
    world_close_client(&w);
    world_advance(&w, 6000);
    w.cfg.token = WORLD_TOKEN;
    w.cursor = w.event_count;
    world_open_client(&w);
    check_refused("of another bot");
    world_end(&w);
}

TEST(shards_start_takes_nothing_but_its_own_line_of_a_text_of_all)
{
    begin_live(3);
    save(GW_ALL);
    CHECK_EQ(gw_shard_stop(w.gw, 1, GW_KEEP), GW_OK);
    world_do(&w, "event MESSAGE_CREATE {}");
    world_settle(&w);
    CHECK_EQ(gw_shard_start(w.gw, 1, text, text_len), GW_OK);
    CHECK_EQ(WORLD_EXPECT(&w, GW_RESUMED, 1000)->shard, 1);
    world_do(&w, "cut");                            /* the others' numbers did not go back */
    expect_each(GW_RESUMED, 3);
    CHECK_U64(world_count_events(&w, GW_MESSAGE_CREATE), 2);
    world_end(&w);
}

/* ---- what a stop leaves behind ---- */
static struct { void *stream; uint64_t bytes; } written[16];

static int32_t write_counted(void *user, void *stream, const void *bytes, uint32_t len)
{
    int32_t part = world_on_write(user, stream, bytes, len);
    size_t i;
    for (i = 0; i < COUNT(written) && written[i].stream && written[i].stream != stream; i++) {}
    if (i < COUNT(written) && part > 0) {
        written[i].stream = stream;
        written[i].bytes += (uint64_t)part;
    }
    return part;
}

static uint64_t written_in_all(void)
{
    uint64_t sum = 0;
    size_t i;
    for (i = 0; i < COUNT(written); i++) sum += written[i].bytes;
    return sum;
}

/* Whatever it was about to send: beats, asked beats, commands, a reconnect. */
TEST(shards_stopped_one_sends_not_one_byte_more)
{
    static const char *const states[] = { "on accept stall_http", "on accept no_hello",
        "on accept no_ready", "", "on accept http 503", "on ready op7", "on ready close 4000" };
    size_t i, k;
    uint32_t how;
    for (i = 0; i < COUNT(states); i++) for (how = GW_KEEP; how <= GW_END; how++) {
        int failures = check_failures;
        uint64_t before, opens;
        gw_ticket tickets[40];
        const world_event *dropped;
        memset(written, 0, sizeof written);
        init_shards(2, 2);
        w.cfg.max_queued_ms = 10000000;
        w.transport.write = write_counted;
        world_begin(&w, states[i]);
        if (i == 3) expect_each(GW_READY, 2);
        else world_advance(&w, 700);
        world_settle(&w);
        CHECK_EQ(gw_shard_stop(w.gw, 0, GW_END), GW_OK);  /* leaves shard 1 alone there */
        WORLD_EXPECT(&w, GW_SHARD_STOPPED, 100);
        w.write_full = 1;
        for (k = 0; k < COUNT(tickets); k++) {
            tickets[k] = send_empty(1);
            CHECK(tickets[k] > 0);
            if (k == 0 && i == 3) world_settle(&w);  /* ... fills the link's buffer */
        }
        w.write_full = 0;
        world_do(&w, "op1");
        CHECK_EQ(gw_shard_stop(w.gw, 1, how), GW_OK);
        before = written_in_all();
        opens = w.opens;
        CHECK(w.streams == NULL);
        for (k = i == 3; k < COUNT(tickets); k++) {
            dropped = WORLD_EXPECT(&w, GW_COMMAND_DROPPED, 100);
            CHECK_EQ(dropped->ticket, tickets[k]);
            CHECK_EQ(dropped->reason, GW_REASON_BY_CALLER);
        }
        CHECK_EQ(WORLD_EXPECT(&w, GW_SHARD_STOPPED, 100)->shard, 1);    /* behind them */
        CHECK_EQ(send_empty(1), GW_ERROR_ENDED);
        world_advance(&w, 600000);
        CHECK_U64(written_in_all(), before);
        CHECK_U64(w.opens, opens);
        CHECK_U64(world_count_events(&w, GW_SHARD_STOPPED), 2);
        w.any_violations = 1;
        world_end(&w);
        if (failures != check_failures)
            fprintf(stderr, "    %s, how %u\n", states[i], (unsigned)how);
    }
}

TEST(shards_stopped_one_says_4000_or_1000_and_the_gateway_keeps_or_ends_it)
{
    begin_live(3);
    CHECK_EQ(gw_shard_stop(w.gw, 0, GW_KEEP), GW_OK);
    CHECK_EQ(gw_shard_stop(w.gw, 2, GW_END), GW_OK);
    /* within the calls */
    CHECK_U64(world_count(&w, WORLD_EV("close_received"), "\"code\":4000"), 1);
    CHECK_U64(world_count(&w, WORLD_EV("close_received"), "\"code\":1000"), 1);
    CHECK_U64(world_count(&w, WORLD_EV("session_end"), NULL), 1);
    CHECK_HAS(WORLD_EXPECT(&w, GW_SHARD_STOPPED, 100)->d, "\"session\":\"kept\"");
    CHECK_HAS(WORLD_EXPECT(&w, GW_SHARD_STOPPED, 100)->d, "\"session\":\"lost\"");
    CHECK_U64(world_count_events(&w, GW_FATAL), 0);
    CHECK_EQ(gw_alive(w.gw), 1);
    world_end(&w);
}

TEST(shards_all_stopped_by_the_caller_are_no_end_of_the_client)
{
    begin_live(2);
    CHECK_EQ(gw_shard_stop(w.gw, 0, GW_KEEP), GW_OK);
    CHECK_EQ(gw_shard_stop(w.gw, 1, GW_KEEP), GW_OK);
    world_advance(&w, 600000);
    CHECK_U64(world_count_events(&w, GW_FATAL), 0);
    CHECK_U64(world_count_events(&w, GW_CLOSED), 0);
    CHECK_EQ(gw_shard_start(w.gw, 1, NULL, 0), GW_OK);
    CHECK_EQ(WORLD_EXPECT(&w, GW_READY, 1000)->shard, 1);
    world_end(&w);
}

TEST(shards_event_in_hand_outlives_the_stop_of_its_shard)
{
    const gw_event *event;
    char content[32];
    begin_live(2);
    world_do(&w, "shard 1 event MESSAGE_CREATE {\"content\":\"still here\"}");
    world_do(&w, "shard 1 event MESSAGE_CREATE {\"content\":\"not handed out\"}");
    carry_all();
    event = gw_poll(w.gw);
    if (!CHECK(event != NULL)) { world_end(&w); return; }
    CHECK_EQ(event->shard, 1);
    gw_tend(w.gw);                                  /* the next one has come in meanwhile */
    CHECK_EQ(gw_shard_stop(w.gw, 1, GW_END), GW_OK);
    gw_tend(w.gw);
    gw_text(&event->d, "content", content, sizeof content);
    CHECK_TEXT(content, "still here");
    CHECK_TEXT(event->name, "MESSAGE_CREATE");
    CHECK_EQ(event->session, 1);
    world_settle(&w);
    CHECK_U64(world_count_events(&w, GW_MESSAGE_CREATE), 0);
    CHECK_U64(world_count_events(&w, GW_SHARD_STOPPED), 1);
    world_end(&w);
}

TEST(shards_two_hundred_stops_in_one_go_are_all_told)
{
    enum { MANY = 200 };
    int32_t id;
    uint32_t told[MANY];
    size_t i;
    memset(told, 0, sizeof told);
    init_shards(MANY, MANY);
    w.sim.quiet_dispatch = 1;
    world_begin(&w, NULL);
    world_advance(&w, 1000);
    CHECK_U64(world_count_events(&w, GW_READY), MANY);
    for (id = 0; id < MANY; id += 10) CHECK(send_empty(id) > 0);  /* some have left, some wait */
    w.write_full = 1;
    world_settle(&w);
    for (id = 0; id < MANY; id += 5) CHECK(send_empty(id) > 0);
    world_free_events(&w);
    for (id = 0; id < MANY; id++)
        CHECK_EQ(gw_shard_stop(w.gw, id, id % 2 ? GW_KEEP : GW_END), GW_OK);
    CHECK(w.streams == NULL);
    w.write_full = 0;
    world_settle(&w);
    for (i = 0; i < w.event_count; i++) {
        const world_event *e = &w.events[i];
        if (e->type == GW_COMMAND_DROPPED) CHECK_U64(told[e->shard], 0);
        if (e->type == GW_SHARD_STOPPED) told[e->shard]++;
    }
    for (id = 0; id < MANY; id++) CHECK_U64(told[id], 1);
    CHECK(world_count_events(&w, GW_COMMAND_DROPPED) >= MANY / 5 - MANY / 10);
    save(GW_ALL);                                   /* those that were kept are all in the text */
    CHECK(text_has(1, MANY) && text_has(MANY - 1, MANY) && !text_has(0, MANY));
    w.any_violations = 1;
    world_end(&w);
}

/* ---- 4010: a shard that does not fit ---- */
TEST(shards_4010_stops_that_shard_and_no_other)
{
    const world_event *stopped;
    begin_live(3);
    tell(1, "close 4010 Invalid shard.");
    stopped = WORLD_EXPECT(&w, GW_SHARD_STOPPED, 1000);
    CHECK_EQ(stopped->shard, 1);
    CHECK_EQ(stopped->reason, GW_REASON_CLOSE_CODE);
    CHECK_EQ(stopped->close_code, 4010);
    CHECK_HAS(stopped->d, "\"close_reason\":\"Invalid shard.\"");
    CHECK(strlen(stopped->message) > 30);
    world_advance(&w, 300000);
    CHECK_U64(world_count_events(&w, GW_FATAL), 0);
    CHECK_U64(identifies(), 3);
    CHECK_EQ(gw_shard_live(w.gw, 0), 1);
    CHECK_EQ(gw_shard_live(w.gw, 2), 1);
    CHECK_EQ(send_empty(1), GW_ERROR_ENDED);
    world_end(&w);
}

TEST(shards_4010_for_the_last_one_is_fatal)
{
    begin_live(3);
    tell(1, "close 4010");
    WORLD_EXPECT(&w, GW_SHARD_STOPPED, 1000);
    CHECK_EQ(gw_shard_stop(w.gw, 2, GW_KEEP), GW_OK);
    WORLD_EXPECT(&w, GW_SHARD_STOPPED, 1000);
    tell(0, "close 4010");
    CHECK_EQ(WORLD_EXPECT(&w, GW_FATAL, 1000)->close_code, 4010);
    WORLD_EXPECT(&w, GW_CLOSED, 1000);
    CHECK_EQ(gw_alive(w.gw), 0);
    world_end(&w);
}

TEST(shards_4010_for_all_at_once_is_told_of_each_and_fatal_once)
{
    begin_live(4);
    world_do(&w, "close 4010");
    WORLD_EXPECT(&w, GW_CLOSED, 1000);
    CHECK_U64(world_count_events(&w, GW_SHARD_STOPPED), 3);
    CHECK_U64(world_count_events(&w, GW_FATAL), 1);
    world_end(&w);
}

TEST(shards_4010_by_hand_is_never_fatal)
{
    init_shards(0, 2);
    world_begin(&w, NULL);
    CHECK_EQ(gw_shard_start(w.gw, 1, NULL, 0), GW_OK);
    WORLD_EXPECT(&w, GW_READY, 1000);
    world_do(&w, "close 4010");
    CHECK_EQ(WORLD_EXPECT(&w, GW_SHARD_STOPPED, 1000)->shard, 1);
    world_advance(&w, 60000);
    CHECK_U64(world_count_events(&w, GW_FATAL), 0);
    CHECK_EQ(gw_alive(w.gw), 1);
    CHECK_EQ(gw_shard_start(w.gw, 1, NULL, 0), GW_OK);
    CHECK_EQ(WORLD_EXPECT(&w, GW_READY, 1000)->shard, 1);
    CHECK_U64(identifies(), 2);
    world_end(&w);
}

/* What is wrong for one of these codes is wrong for all shards. */
TEST(shards_other_fatal_codes_end_the_client_whichever_shard_got_them)
{
    static const uint32_t codes[] = { 4004, 4011, 4012, 4013, 4014 };
    size_t i;
    for (i = 0; i < COUNT(codes); i++) {
        char command[32];
        begin_live(3);
        snprintf(command, sizeof command, "close %u", (unsigned)codes[i]);
        tell(2, command);
        CHECK_EQ(WORLD_EXPECT(&w, GW_FATAL, 1000)->close_code, (int32_t)codes[i]);
        WORLD_EXPECT(&w, GW_CLOSED, 10000);
        CHECK_U64(world_count(&w, WORLD_EV("close_received"), "\"code\":1000"), 0);
        CHECK_U64(identifies(), 3);
        world_end(&w);
    }
}

CHECK_MAIN()
