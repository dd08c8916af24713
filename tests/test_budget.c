/* Who may identify, and when: the order and the times in which shards start, the caller's gate, two
 * clients that share one, the budget of a day, and a bot that crashes all day long. The strict
 * simulator counts every Identify and keeps the buckets: in each test here, none of one bucket
 * comes within 5 s of another. One shard alone is in test_lessons.c; the room by itself in
 * test_gate.c. Discord docs, "Rate Limiting", "Session Start Limit Object", "max_concurrency". */
#define DISCORD_GATEWAY_IMPLEMENTATION
#define GW_API_URL "http://127.0.0.1:9"     /* the world's gateway answers /gateway/bot, too */
#include "discord_gateway.h"
#include "world.h"

#define COUNT(a) (sizeof(a) / sizeof(a)[0])
#define BOT_PATH "\"path\":\"/api/v10/gateway/bot\""
#define DAY_MS UINT64_C(86400000)
#define HOUR_MS UINT64_C(3600000)
#define BEGAN_MS UINT64_C(1000000)          /* the world's clock at the beginning */

static world w;
static char text[64 * GW_SESSION_MAX];

/* ---- helpers ---- */
static void init_shards(int32_t total, uint32_t concurrency)
{
    world_init(&w);
    w.cfg.shard_count = w.cfg.shard_total = total;
    w.cfg.max_concurrency = w.sim.max_concurrency = concurrency;
    w.sim.quiet_dispatch = 1;
}

static void expect_each(uint32_t type, uint32_t count, uint64_t max_ms)
{
    while (count--) WORLD_EXPECT(&w, type, max_ms);
}

static size_t identifies(void) { return world_count(&w, WORLD_EV("identify"), NULL); }

static const world_event *find(uint32_t type, int32_t shard, size_t nth)
{
    size_t i;
    for (i = 0; i < w.event_count; i++)
        if (w.events[i].type == type && w.events[i].shard == shard && nth-- == 0)
            return &w.events[i];
    return world_no_event();
}

static size_t count_of(uint32_t type, int32_t shard)
{
    size_t i, count = 0;
    for (i = 0; i < w.event_count; i++)
        count += w.events[i].type == type && w.events[i].shard == shard;
    return count;
}

static void check_between(uint64_t value, uint64_t least, uint64_t most, int line)
{
    if (value >= least && value <= most) return;
    check_failed(__FILE__, line);
    fprintf(stderr, "%llu is not within %llu and %llu\n", (unsigned long long)value,
            (unsigned long long)least, (unsigned long long)most);
}
#define CHECK_BETWEEN(value, least, most) check_between(value, least, most, __LINE__)

/* Each Identify that the gateway saw, in order. */
typedef struct identify { uint64_t at_ms; int32_t shard, total; } identify;
static identify all[4096];
static size_t all_count;

static void read_identifies(void)
{
    static const char begin[] = "{" WORLD_EV("identify");
    const char *at = w.journal ? w.journal : "", *end, *shard, *comma;
    all_count = 0;
    for (; (end = strchr(at, '\n')) != NULL && all_count < COUNT(all); at = end + 1) {
        if (strncmp(at, begin, sizeof begin - 1) != 0) continue;
        all[all_count].at_ms = strtoull(strstr(at, "\"ts_ms\":") + 8, NULL, 10);
        shard = strstr(at, "\"shard\":[");
        if (shard && shard < end) {
            all[all_count].shard = (int32_t)strtol(shard + 9, NULL, 10);
            comma = strchr(shard, ',');
            all[all_count].total = comma ? (int32_t)strtol(comma + 1, NULL, 10) : 0;
        }
        all_count++;
    }
}

/* No two of one bucket within 5 s, and not by the simulator's word alone. */
static void check_buckets(uint32_t concurrency)
{
    size_t i, k;
    uint32_t bucket;
    read_identifies();
    for (i = 0; i < all_count; i++) {
        bucket = (uint32_t)all[i].shard % concurrency;
        for (k = i + 1; k < all_count; k++) {
            if ((uint32_t)all[k].shard % concurrency != bucket) continue;
            if (!CHECK(all[k].at_ms >= all[i].at_ms + 5000))
                fprintf(stderr, "    shards %d and %d\n", (int)all[i].shard, (int)all[k].shard);
            break;
        }
    }
}

/* ---- the order and the times of a start: protocol 6 ---- */

/* Buckets in order: 0 .. mc-1 together, the next mc of them 5 to 5.5 s later, and what a connection
 * takes. */
static void start(int32_t total, uint32_t concurrency, uint32_t latency_ms, int asks)
{
    uint32_t rounds = ((uint32_t)total + concurrency - 1) / concurrency;
    uint64_t connect_ms = 2 * latency_ms, first_ms;
    uint64_t most_ms = 5500 + connect_ms + (latency_ms ? 260 : 0);
    size_t i;
    int32_t id;
    init_shards(total, concurrency);
    w.latency_ms = latency_ms;
    if (asks) {
        w.cfg.url = NULL;
        w.cfg.max_concurrency = 0;
        w.cfg.shard_count = GW_ALL;
        w.cfg.shard_total = 0;
        w.sim.shards = (uint32_t)total;
    }
    world_begin(&w, NULL);
    expect_each(GW_READY, (uint32_t)total, most_ms + latency_ms + 10);
    CHECK_EQ(gw_shard_live(w.gw, GW_ALL), 1);
    check_buckets(concurrency);
    CHECK_U64(all_count, (uint64_t)total);
    first_ms = all[0].at_ms;
    CHECK_BETWEEN(first_ms, BEGAN_MS, BEGAN_MS + connect_ms + (asks ? latency_ms : 0) + 10);
    for (i = 0; i < all_count; i++) {
        uint64_t turn = (uint32_t)all[i].shard / concurrency;
        if (!latency_ms) CHECK_EQ(all[i].shard, (int32_t)i);  /* the exact order of the ids */
        if (i) CHECK(turn >= (uint32_t)all[i - 1].shard / concurrency);
        CHECK_EQ(all[i].total, total);
        CHECK_BETWEEN(all[i].at_ms, first_ms + turn * 5000, first_ms + turn * most_ms + 10);
    }
    for (id = 0; id < total; id++) CHECK_U64(count_of(GW_READY, id), 1);
    CHECK_BETWEEN(world_ms(&w), first_ms + (rounds - 1) * UINT64_C(5000),
                  first_ms + (rounds - 1) * most_ms + latency_ms + 10);
    CHECK_U64(world_count_events(&w, GW_DISCONNECTED), 0);
    CHECK_U64(world_count_events(&w, GW_IDENTIFY_HELD), 0);  /* a few seconds are no news */
    world_end(&w);
}

TEST(start_of_sixty_four_with_sixteen_buckets_is_live_within_four_rounds) { start(64, 16, 0, 0); }
TEST(start_of_sixty_four_is_the_same_as_discord_advises)    { start(64, 16, 0, 1); }
TEST(start_of_sixty_four_over_a_slow_line_keeps_the_rounds) { start(64, 16, 150, 1); }
TEST(start_with_four_buckets_goes_by_fours)                 { start(14, 4, 0, 0); }
TEST(start_with_four_buckets_as_advised_goes_by_fours)      { start(14, 4, 0, 1); }
TEST(start_with_one_bucket_goes_one_by_one)                 { start(7, 1, 0, 0); }
TEST(start_with_one_bucket_over_a_slow_line_goes_one_by_one) { start(5, 1, 900, 0); }
TEST(start_with_more_buckets_than_shards_is_one_round)      { start(5, 16, 0, 0); }

/* By hand, in any order, and Discord is asked first: each bucket goes in the order of its ids. */
TEST(start_by_hand_in_reverse_goes_in_the_order_of_the_ids)
{
    int32_t id;
    size_t i;
    init_shards(8, 2);
    w.cfg.shard_count = 0;
    w.cfg.url = NULL;
    w.cfg.max_concurrency = 0;
    world_begin(&w, NULL);
    for (id = 7; id >= 0; id--) CHECK_EQ(gw_shard_start(w.gw, id, NULL, 0), GW_OK);
    expect_each(GW_READY, 8, 6000);
    check_buckets(2);
    CHECK_U64(all_count, 8);
    for (i = 0; i < 8; i++) CHECK_EQ(all[i].shard / 2, (int32_t)i / 2);
    CHECK_U64(world_count(&w, WORLD_EV("http"), BOT_PATH), 1);
    world_end(&w);
}

/* Connections that fail cost no Identify, and leave their bucket to the next. */
TEST(start_with_failing_connections_keeps_the_buckets)
{
    init_shards(16, 4);
    world_begin(&w, "on upgrade x7 http 503\non hello x3 cut\non accept x2 reset");
    world_advance(&w, 60000);
    CHECK_EQ(gw_shard_live(w.gw, GW_ALL), 1);
    check_buckets(4);
    CHECK_U64(all_count, 16);
    world_end(&w);
}

/* The permit that it held is free at once, or, once its Identify is out, after the usual time. */
TEST(start_of_the_next_follows_the_stop_of_one_that_connects_or_has_identified)
{
    static const struct { const char *script; uint64_t least_ms, most_ms; } rows[] = {
        { "next 1 stall_http", 0, 260 }, { "next 1 no_hello", 0, 260 },
        { "next 1 no_ready", 5000, 5510 }
    };
    size_t i;
    uint32_t how;
    for (i = 0; i < COUNT(rows); i++) for (how = GW_KEEP; how <= GW_END; how++) {
        gw_stats stats;
        const world_event *ready;
        init_shards(2, 1);
        world_begin(&w, rows[i].script);
        world_advance(&w, 100);
        CHECK_EQ(gw_shard_stop(w.gw, 0, how), GW_OK);
        ready = WORLD_EXPECT(&w, GW_READY, 6000);
        CHECK_EQ(ready->shard, 1);
        CHECK_BETWEEN(ready->at_ms, BEGAN_MS + rows[i].least_ms, BEGAN_MS + 100 + rows[i].most_ms);
        gw_stats_read(w.gw, GW_ALL, &stats);
        CHECK_U64(stats.identifies_left, 1000 - identifies());
        world_end(&w);
    }
}

/* ---- how many buckets there are may change ---- */
static uint32_t swaps;

static int32_t read_swapped(void *user, void *handle, void *bytes, uint32_t len)
{
    static const char from[] = "\"max_concurrency\":8", to[] = "\"max_concurrency\":1";
    int32_t got = world_on_read(user, handle, bytes, len), i, size = (int32_t)sizeof from - 1;
    char *at = (char *)bytes;
    for (i = 0; i + size <= got; i++) {
        if (memcmp(at + i, from, (size_t)size) != 0) continue;
        if (swaps) memcpy(at + i, to, (size_t)size);
    }
    return got;
}

TEST(buckets_fewer_by_a_later_answer_hold_all_that_wait)
{
    size_t i;
    swaps = 0;
    init_shards(16, 8);
    w.cfg.url = NULL;
    w.cfg.max_concurrency = 0;
    w.transport.read = read_swapped;
    world_begin(&w, NULL);
    expect_each(GW_READY, 8, 1000);
    swaps = 1;
    /* the second round fails, so that the API is asked */
    world_script(&w, "on upgrade x3 http 503");
    world_advance(&w, 120000);
    CHECK_U64(world_count(&w, WORLD_EV("http"), BOT_PATH), 2);
    CHECK_EQ(gw_shard_live(w.gw, GW_ALL), 1);
    check_buckets(8);
    CHECK_U64(all_count, 16);
    for (i = 1; i < all_count; i++)     /* from the second answer on there is one bucket */
        if (all[i].at_ms > world_time(&w, BOT_PATH, 1))
            CHECK(all[i].at_ms >= all[i - 1].at_ms + 5000);
    CHECK(all[15].at_ms >= all[0].at_ms + 4 * 5000);
    world_end(&w);
}

/* ---- op 9 ---- */
TEST(invalidated_all_at_once_identify_after_one_to_five_seconds_by_buckets)
{
    int32_t id;
    uint64_t asked_ms;
    size_t i;
    init_shards(8, 2);
    world_begin(&w, NULL);
    expect_each(GW_READY, 8, 6000);
    world_advance(&w, 60000);
    asked_ms = world_ms(&w);
    world_do(&w, "op9 false");
    world_advance(&w, 60000);
    CHECK_EQ(gw_shard_live(w.gw, GW_ALL), 1);
    check_buckets(2);
    CHECK_U64(all_count, 16);
    for (i = 8; i < 16; i++)
        CHECK_BETWEEN(all[i].at_ms, asked_ms + 1000, asked_ms + 5000 + 4 * 5500);
    CHECK_BETWEEN(all[8].at_ms, asked_ms + 1000, asked_ms + 5000);
    for (id = 0; id < 8; id++) {
        const world_event *end = find(GW_DISCONNECTED, id, 0);
        CHECK_EQ(end->reason, GW_REASON_INVALID_SESSION);
        CHECK_EQ(end->will, GW_NEXT_IDENTIFY);
        CHECK_BETWEEN(end->in_ms, 1000, 5000);
        CHECK_U64(count_of(GW_SESSION_LOST, id), 1);
        CHECK_U64(count_of(GW_DISCONNECTED, id), 1);
    }
    world_end(&w);
}

TEST(invalidated_in_answer_to_identify_waits_five_seconds_and_holds_no_other_bucket)
{
    int32_t id;
    init_shards(8, 4);
    world_begin(&w, "on identify x2 op9 false");    /* those of shards 0 and 1 */
    world_advance(&w, 30000);
    CHECK_EQ(gw_shard_live(w.gw, GW_ALL), 1);
    check_buckets(4);
    CHECK_U64(all_count, 10);
    for (id = 2; id < 4; id++) {
        CHECK_U64(find(GW_READY, id, 0)->at_ms, BEGAN_MS);
        CHECK_BETWEEN(find(GW_READY, id + 4, 0)->at_ms, BEGAN_MS + 5000, BEGAN_MS + 5510);
    }
    for (id = 0; id < 2; id++) {
        CHECK_BETWEEN(find(GW_READY, id, 0)->at_ms, BEGAN_MS + 5000, BEGAN_MS + 17000);
        CHECK_BETWEEN(find(GW_READY, id + 4, 0)->at_ms, BEGAN_MS + 5000, BEGAN_MS + 17000);
    }
    world_end(&w);
}

/* ---- READY that takes its time ---- */
TEST(ready_after_ten_minutes_is_waited_for_and_keeps_nobody_waiting)
{
    init_shards(3, 1);
    world_begin(&w, "on accept x1 late_ready 600000");
    CHECK_EQ(WORLD_EXPECT(&w, GW_READY, 6000)->shard, 1);
    CHECK_EQ(WORLD_EXPECT(&w, GW_READY, 6000)->shard, 2);
    CHECK_EQ(gw_shard_live(w.gw, GW_ALL), 0);
    CHECK_U64(WORLD_EXPECT(&w, GW_READY, 700000)->at_ms, BEGAN_MS + 600000);
    CHECK_U64(world_count_events(&w, GW_DISCONNECTED), 0);
    CHECK_BETWEEN(world_count(&w, WORLD_EV("heartbeat"), "\"conn\":1,"), 14, 15);
    CHECK_U64(identifies(), 3);
    world_end(&w);
}

TEST(ready_that_is_slow_for_all_sixty_four_costs_no_second_identify)
{
    init_shards(64, 16);
    world_begin(&w, "on accept late_ready 600000");
    world_advance(&w, 630000);
    CHECK_EQ(gw_shard_live(w.gw, GW_ALL), 1);
    CHECK_U64(world_count_events(&w, GW_DISCONNECTED), 0);
    CHECK_U64(identifies(), 64);
    world_end(&w);
}

/* ---- the caller's gate ---- */
static int32_t answers[16];                         /* by shard */
static struct { int32_t shard; uint32_t bucket; uint64_t at_ms; } asked[256];
static size_t asked_count;

static int32_t gate_of_answers(void *user, int32_t shard, uint32_t bucket)
{
    const world *one = (const world *)user;
    if (asked_count < COUNT(asked)) {
        asked[asked_count].shard = shard;
        asked[asked_count].bucket = bucket;
        asked[asked_count++].at_ms = world_ms(one);
    }
    return answers[shard];
}

static size_t asked_for(int32_t shard)
{
    size_t i, count = 0;
    for (i = 0; i < asked_count; i++) count += asked[i].shard == shard;
    return count;
}

static void begin_gated(int32_t total, uint32_t concurrency)
{
    memset(answers, 0, sizeof answers);
    asked_count = 0;
    init_shards(total, concurrency);
    w.cfg.identify_gate = gate_of_answers;
}

TEST(gate_is_asked_once_for_each_identify_and_told_the_bucket)
{
    size_t i;
    begin_gated(8, 4);
    world_begin(&w, NULL);
    expect_each(GW_READY, 8, 6000);
    CHECK_U64(asked_count, 8);
    for (i = 0; i < asked_count; i++) {
        CHECK_EQ(asked[i].shard, (int32_t)i);
        CHECK_U64(asked[i].bucket, i % 4);
    }
    world_do(&w, "cut");
    expect_each(GW_RESUMED, 8, 1000);
    CHECK_U64(asked_count, 8);                      /* a Resume needs no permit */
    world_end(&w);
}

TEST(gate_that_says_wait_to_one_holds_no_other)
{
    begin_gated(8, 4);
    answers[2] = 2500;
    world_begin(&w, NULL);
    expect_each(GW_READY, 3, 100);
    CHECK_EQ(WORLD_EXPECT(&w, GW_READY, 300)->shard, 6);    /* of the same bucket, which is free */
    CHECK_EQ(find(GW_IDENTIFY_HELD, 2, 0)->in_ms, 2500);
    CHECK_HAS(find(GW_IDENTIFY_HELD, 2, 0)->message, "identify_gate");
    CHECK_U64(world_count_events(&w, GW_IDENTIFY_HELD), 1);
    world_advance(&w, 20000);
    CHECK_U64(world_count_events(&w, GW_READY), 7);
    w.cursor = w.event_count;
    answers[2] = 0;
    CHECK_EQ(WORLD_EXPECT(&w, GW_READY, 2600)->shard, 2);
    CHECK_U64(count_of(GW_IDENTIFY_HELD, 2), 1);
    check_buckets(4);
    world_end(&w);
}

TEST(gate_is_asked_again_after_n_ms_to_the_millisecond)
{
    size_t i;
    begin_gated(1, 1);
    answers[0] = 777;
    world_begin(&w, NULL);
    world_advance(&w, 10 * 777);
    CHECK_U64(asked_count, 11);
    for (i = 0; i < asked_count; i++) CHECK_U64(asked[i].at_ms, BEGAN_MS + i * 777);
    CHECK_U64(w.opens, 0);
    world_end(&w);
}

TEST(gate_is_asked_for_all_that_wait_after_a_wake)
{
    int32_t id;
    gw_stats stats;
    begin_gated(4, 4);
    for (id = 0; id < 4; id++) answers[id] = 3600000;
    world_begin(&w, NULL);
    world_advance(&w, 60000);
    CHECK_U64(asked_count, 4);
    gw_stats_read(w.gw, GW_ALL, &stats);
    CHECK_U64(stats.identifies_left, 1000);         /* what was refused was not spent */
    answers[1] = answers[3] = 0;
    gw_wake(w.gw);
    world_settle(&w);
    for (id = 0; id < 4; id++) {
        CHECK_U64(asked_for(id), 2);
        CHECK_U64(count_of(GW_READY, id), id % 2 ? 1 : 0);
        CHECK_U64(count_of(GW_IDENTIFY_HELD, id), 1);
    }
    CHECK_U64(world_count_events(&w, GW_WOKEN), 1);
    world_end(&w);
}

TEST(gate_that_says_never_stops_that_shard_and_no_other)
{
    const world_event *stopped;
    begin_gated(4, 4);
    answers[1] = -1;
    world_begin(&w, NULL);
    expect_each(GW_READY, 3, 100);
    stopped = find(GW_SHARD_STOPPED, 1, 0);
    CHECK_EQ(stopped->reason, GW_REASON_BY_CALLER);
    CHECK_HAS(stopped->message, "identify_gate");
    world_advance(&w, 100000);
    CHECK_U64(asked_for(1), 1);
    CHECK_U64(world_count_events(&w, GW_FATAL), 0);
    answers[1] = 0;                                 /* the caller thought better of it */
    CHECK_EQ(gw_shard_start(w.gw, 1, NULL, 0), GW_OK);
    CHECK_EQ(WORLD_EXPECT(&w, GW_READY, 6000)->shard, 1);
    world_end(&w);
}

static int32_t gate_that_calls_us(void *user, int32_t shard, uint32_t bucket)
{
    world *one = (world *)user;
    (void)bucket;
    asked_count++;
    CHECK_EQ(gw_shard_start(one->gw, shard, NULL, 0), GW_ERROR_IN_HOOK);
    CHECK_EQ(gw_shard_stop(one->gw, shard, GW_KEEP), GW_ERROR_IN_HOOK);
    CHECK_EQ(gw_hold(one->gw, shard, 1), GW_ERROR_IN_HOOK);
    CHECK(gw_poll(one->gw) == NULL);
    return 0;
}

TEST(gate_that_calls_the_client_is_refused_and_harms_nothing)
{
    begin_gated(2, 2);
    w.cfg.identify_gate = gate_that_calls_us;
    world_begin(&w, NULL);
    expect_each(GW_READY, 2, 100);
    CHECK_U64(asked_count, 2);
    world_end(&w);
}

/* ---- two clients that share a gate: more shards without a gap ---- */
static world newer;
static uint64_t bucket_free_ms[2];
static uint8_t reached[2048];
static uint32_t told, from_older_at_the_end;

static int32_t gate_of_both(void *user, int32_t shard, uint32_t bucket)
{
    uint64_t now_ms = world_ms((const world *)user);
    (void)shard;
    if (now_ms < bucket_free_ms[bucket]) return (int32_t)(bucket_free_ms[bucket] - now_ms);
    bucket_free_ms[bucket] = now_ms + 5500;
    return 0;
}

/* All shards are told of all guilds here, so each takes its own only, as Discord would do. */
static void note_reached(world *one, const gw_event *event)
{
    uint64_t n = gw_u64(&event->d, "n");
    if (event->type != GW_MESSAGE_CREATE || n >= COUNT(reached)) return;
    if (gw_shard_of(one->gw, gw_u64(&event->d, "guild_id")) != event->shard) return;
    if (one == &w) from_older_at_the_end = (uint32_t)n;
    reached[n]++;
}

static void advance_both(uint64_t ms)
{
    uint64_t until_us = w.now_us + ms * 1000u;
    world_settle(&w);
    world_settle(&newer);
    while (w.now_us < until_us) {
        uint64_t one_us = world_next_us(&w, until_us), two_us = world_next_us(&newer, until_us);
        w.now_us = newer.now_us = one_us < two_us ? one_us : two_us;
        world_settle(&w);
        world_settle(&newer);
    }
}

static void tell_one_more(void)
{
    char line[120];
    snprintf(line, sizeof line, "event MESSAGE_CREATE {\"guild_id\":\"%llu\",\"n\":%u}",
             (unsigned long long)(UINT64_C(4194304) * (told % 8 + 1) + 5), (unsigned)told);
    world_do(&w, line);
    told++;
}

TEST(resharding_by_two_clients_with_one_gate_loses_no_event_of_any_guild)
{
    uint32_t i, rounds = 0, doubled = 0, missing = 0, last_of_older;
    memset(reached, 0, sizeof reached);
    memset(bucket_free_ms, 0, sizeof bucket_free_ms);
    told = 0;
    init_shards(2, 2);
    w.cfg.identify_gate = gate_of_both;
    w.on_event = note_reached;
    w.latency_ms = 40;
    world_begin(&w, NULL);
    expect_each(GW_READY, 2, 1000);

    world_init(&newer);                             /* the new set, beside the old one */
    newer.cfg.shard_count = newer.cfg.shard_total = 6;
    newer.cfg.max_concurrency = 2;
    newer.cfg.identify_gate = gate_of_both;
    newer.on_event = note_reached;
    newer.latency_ms = 40;
    newer.random = 99;
    newer.gateway = w.gateway;
    newer.now_us = w.now_us;
    world_open_client(&newer);
    while (!gw_shard_live(newer.gw, GW_ALL) && rounds++ < 300) {
        tell_one_more();
        advance_both(100);
    }
    CHECK_BETWEEN(world_ms(&w), BEGAN_MS + 15000, BEGAN_MS + 3 * 6000 + 2000);
    tell_one_more();                                /* on its way to both when the old set ends */
    CHECK_EQ(gw_stop(w.gw, GW_END), GW_OK);
    last_of_older = told;
    for (i = 0; i < 50; i++) {
        advance_both(100);
        tell_one_more();
    }
    advance_both(1000);
    CHECK_U64(world_count_events(&w, GW_CLOSED), 1);
    CHECK(from_older_at_the_end < last_of_older);
    for (i = 0; i < told; i++) {
        missing += reached[i] == 0;
        doubled += reached[i] > 1;
    }
    CHECK_U64(missing, 0);
    CHECK(doubled > 20);                            /* both got their copies in between */
    CHECK_U64(world_count_events(&newer, GW_DISCONNECTED), 0);
    check_buckets(2);
    CHECK_U64(all_count, 8);
    world_close_client(&newer);
    newer.gateway = NULL;                           /* it is w's */
    world_end(&newer);
    world_end(&w);
}

/* ---- the budget of a day ---- */
TEST(budget_below_the_number_of_shards_says_until_when_and_resumes_go_on)
{
    gw_stats stats;
    int32_t id;
    init_shards(5, 5);
    w.cfg.identify_remaining = 3;
    w.cfg.identify_reset_ms = 3600000;
    world_begin(&w, NULL);
    expect_each(GW_READY, 3, 100);
    world_advance(&w, 1000);
    for (id = 3; id < 5; id++) {
        const world_event *held = find(GW_IDENTIFY_HELD, id, 0);
        CHECK_EQ(held->reason, GW_REASON_BUDGET);
        CHECK_U64(held->at_ms + held->in_ms, BEGAN_MS + 3600000);
    }
    gw_stats_read(w.gw, GW_ALL, &stats);
    CHECK_U64(stats.identifies_left, 0);
    world_do(&w, "cut");                            /* a Resume costs nothing */
    expect_each(GW_RESUMED, 3, 1000);
    gw_wake(w.gw);                                  /* no way around it, and no news */
    gw_recheck(w.gw);
    world_advance(&w, 3590000);
    CHECK_U64(identifies(), 3);
    CHECK_U64(world_count_events(&w, GW_IDENTIFY_HELD), 2);
    expect_each(GW_READY, 2, 10000);
    check_buckets(5);
    CHECK_U64(all[3].at_ms, BEGAN_MS + 3600000);
    CHECK_U64(all[4].at_ms, BEGAN_MS + 3600000);
    world_end(&w);
}

TEST(budget_of_zero_holds_every_shard_and_then_they_go_one_by_one)
{
    int32_t id;
    init_shards(3, 1);
    w.cfg.url = NULL;
    w.cfg.max_concurrency = 0;
    w.sim.remaining = 0;
    w.sim.reset_after_ms = 7200000;
    world_begin(&w, NULL);
    world_advance(&w, 7190000);
    CHECK_U64(identifies(), 0);
    CHECK_U64(world_count(&w, WORLD_EV("http"), BOT_PATH), 1);
    for (id = 0; id < 3; id++) {
        CHECK_U64(count_of(GW_IDENTIFY_HELD, id), 1);
        CHECK_BETWEEN(find(GW_IDENTIFY_HELD, id, 0)->in_ms, 7199000, 7200000);
    }
    expect_each(GW_READY, 3, 20000);
    check_buckets(1);
    CHECK_BETWEEN(all[0].at_ms, BEGAN_MS + 7200000, BEGAN_MS + 7200300);
    CHECK_BETWEEN(all[2].at_ms, all[0].at_ms + 10000, all[0].at_ms + 11500);
    world_end(&w);
}

TEST(budget_lost_by_a_session_is_counted_and_not_passed)
{
    gw_stats stats;
    uint32_t i;
    init_shards(4, 4);
    w.cfg.identify_remaining = 9;
    w.cfg.identify_reset_ms = 1800000;
    w.sim.total = 1000;
    w.sim.remaining = 9;
    w.sim.reset_after_ms = 1800000;
    world_begin(&w, NULL);
    expect_each(GW_READY, 4, 100);
    for (i = 0; i < 3; i++) {                       /* 4, 8, one of four, and not even that one */
        world_do(&w, "op9 false");
        world_advance(&w, 30000);
    }
    CHECK_U64(identifies(), 9);
    gw_stats_read(w.gw, GW_ALL, &stats);
    CHECK_U64(stats.identifies_left, 0);
    CHECK_U64(world_count_events(&w, GW_IDENTIFY_HELD), 4);
    world_advance(&w, 1800000);
    CHECK_EQ(gw_shard_live(w.gw, GW_ALL), 1);
    CHECK_U64(identifies(), 13);
    check_buckets(4);
    world_end(&w);
}

/* ---- a bot that crashes all day ---- */

/* Whenever Discord's own day may begin: no 24 hours have more than 1,000. */
static void check_any_day(void)
{
    size_t i;
    read_identifies();
    for (i = 1000; i < all_count; i++) CHECK(all[i].at_ms >= all[i - 1000].at_ms + DAY_MS);
}

/* It dies somewhere within a second after its Identifies were sent, each time before READY; what
 * it saved last is what it starts with. Until none are left, and then some 200 times more. */
/* How the next life begins: with the text as config.session, or given to gw_shard_start(), or on a board
 * that knows the time only after a second. */
enum { BY_CONFIG, BY_HAND, BY_CONFIG_LATE };
static uint64_t late_until_us;
static uint64_t late_unix(void *user)
{
    return ((world *)user)->now_us < late_until_us ? 0 : world_on_unix(user);
}

static int begin_life(int how)
{
    late_until_us = how == BY_CONFIG_LATE ? w.now_us + 1000000 : 0;
    if (how == BY_HAND) w.cfg.session = NULL;
    if (!world_open_client(&w)) return 0;
    if (how == BY_HAND) CHECK_EQ(gw_shard_start(w.gw, 0, text, w.cfg.session_len), GW_OK);
    return 1;
}

static void crash_loop_of(int how, int32_t shards, int asks, uint32_t lives)
{
    uint64_t first_ms, resets_ms, held_at_ms = 0;
    uint32_t life, refused = 0;
    init_shards(shards, (uint32_t)shards);
    w.sim.interval_ms = 600000;
    if (asks) {
        w.cfg.url = NULL;
        w.cfg.max_concurrency = 0;
    }
    w.cfg.session = text;
    w.cfg.unix_time = late_unix;
    if (how == BY_HAND) {
        w.cfg.shard_count = 0;
        w.cfg.shard_total = 1;
    }
    w.gateway = sim_new(&w.sim, world_sim_ms(&w));
    world_script(&w, "on accept no_ready");
    for (life = 0; life < lives; life++) {
        const world_event *held;
        uint64_t most_us;
        world_free_events(&w);
        if (!begin_life(how)) break;
        most_us = w.now_us + 7000000;
        do {
            w.now_us = world_next_us(&w, most_us);
            world_settle(&w);
        } while (w.now_us < most_us && !world_count_events(&w, GW_IDENTIFY_HELD) &&
                 world_count_events(&w, GW_IDENTIFYING) < (size_t)shards);
        held = world_last(&w, GW_IDENTIFY_HELD);
        if (held->type == GW_IDENTIFY_HELD) {
            refused++;
            held_at_ms = held->at_ms + held->in_ms;
        }
        w.now_us += world_mix(&w.random) % 1000000;
        w.cfg.session_len = gw_session_save(w.gw, GW_ALL, text, sizeof text);
        world_close_client(&w);
    }
    first_ms = world_time(&w, WORLD_EV("identify"), 0);
    resets_ms = first_ms + DAY_MS;
    CHECK_U64(sim_get_stats(w.gateway)->identifies, 1000);
    CHECK_U64(world_count(&w, WORLD_EV("token_reset"), NULL), 0);
    CHECK(refused >= lives - 1000 / (uint32_t)shards - 10);
    /* not early; late by what counting in whole hours costs */
    CHECK_BETWEEN(held_at_ms, resets_ms, resets_ms + HOUR_MS + 1000);
    CHECK(world_ms(&w) < resets_ms);
    world_do(&w, "calm");                           /* and when the day is over ... */
    world_free_events(&w);
    begin_life(how);
    world_script(&w, "on accept calm");
    world_advance(&w, held_at_ms - world_ms(&w) + 20000);
    CHECK_U64(world_count(&w, WORLD_EV("token_reset"), NULL), 0);
    CHECK_EQ(gw_shard_live(w.gw, GW_ALL), 1);
    CHECK_U64(sim_get_stats(w.gateway)->identifies, 1000 + (uint64_t)shards);
    check_any_day();
    world_end(&w);
}

static void crash_loop(int32_t shards, int asks, uint32_t lives)
{
    crash_loop_of(BY_CONFIG, shards, asks, lives);
}

TEST(crash_loop_of_1200_lives_never_passes_1000_identifies_a_day)   { crash_loop(1, 0, 1200); }
TEST(crash_loop_that_asks_discord_never_passes_1000_a_day)          { crash_loop(1, 1, 1200); }
TEST(crash_loop_of_ten_shards_never_passes_1000_a_day)              { crash_loop(10, 0, 300); }
TEST(crash_loop_of_ten_shards_that_asks_never_passes_1000_a_day)    { crash_loop(10, 1, 300); }
TEST(crash_loop_by_hand_never_passes_1000_identifies_a_day) { crash_loop_of(BY_HAND, 1, 0, 1200); }
TEST(crash_loop_of_a_board_that_learns_the_time_late_never_passes_1000_a_day)
{
    crash_loop_of(BY_CONFIG_LATE, 1, 0, 1200);
}

/* A little too often, for days: what is spent comes back as it grows old, and not all at once. */
TEST(crash_loop_of_two_days_never_passes_1000_in_any_24_hours)
{
    uint64_t until_ms;
    init_shards(1, 1);
    w.cfg.session = text;
    w.gateway = sim_new(&w.sim, world_sim_ms(&w));
    world_script(&w, "on accept no_ready");
    until_ms = world_ms(&w) + 2 * DAY_MS;
    while (world_ms(&w) < until_ms && world_open_client(&w)) {
        world_free_events(&w);
        world_advance(&w, 10000);
        w.now_us += 50000000 + world_mix(&w.random) % 20000000;  /* ... 70 s from one to the next */
        w.cfg.session_len = gw_session_save(w.gw, GW_ALL, text, sizeof text);
        world_close_client(&w);
    }
    CHECK_U64(world_count(&w, WORLD_EV("token_reset"), NULL), 0);
    check_any_day();
    CHECK_BETWEEN(all_count, 1850, 2000);           /* and nearly all of them could be used */
    world_end(&w);
}

/* Lives so short that they end before the bucket is free: they cost nothing and wait their turn. */
TEST(crash_loop_faster_than_its_bucket_keeps_five_seconds)
{
    uint32_t life;
    init_shards(1, 1);
    w.cfg.session = text;
    w.gateway = sim_new(&w.sim, world_sim_ms(&w));
    world_script(&w, "on accept no_ready");
    for (life = 0; life < 100; life++) {
        world_free_events(&w);
        if (!world_open_client(&w)) break;
        world_settle(&w);
        w.now_us += 370000;
        world_settle(&w);
        w.cfg.session_len = gw_session_save(w.gw, GW_ALL, text, sizeof text);
        world_close_client(&w);
    }
    check_buckets(1);                               /* 37 s */
    CHECK_BETWEEN(all_count, 5, 8);
    world_end(&w);
}

CHECK_MAIN()
