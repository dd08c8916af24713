/* The gate room: who may identify, and when. Discord docs, "Rate Limiting" and "Session Start Limit Object"; figures of
 * the queue from twilight's and @discordjs/ws's tests. */
#define DISCORD_GATEWAY_IMPLEMENTATION
#include "discord_gateway.h"
#include "check.h"

static gw__mem mem;
static gw__gate gate;
static int by_budget;

static void begin(uint32_t concurrency)
{
    gw__mem_init(&mem, NULL, NULL);
    CHECK(gw__gate_init(&gate, &mem, concurrency));
}

static void end(void)
{
    gw__gate_free(&gate);
    CHECK_U64(mem.now_bytes, 0);
}

static uint64_t take(int32_t shard, uint64_t now_ms) { return gw__gate_take(&gate, shard, now_ms, &by_budget); }
static void spend(int32_t shard, uint64_t now_ms) { gw__gate_spend(&gate, shard, now_ms, 1767323045); }

TEST(gate_same_bucket_identifies_five_seconds_apart)
{
    uint64_t wait_ms;
    begin(1);
    CHECK_U64(take(0, 1000), 0);
    spend(0, 1200);                                 /* stamped at Identify, not when the permit was taken */
    wait_ms = take(1, 1200);
    CHECK(wait_ms >= 5000 && wait_ms <= 6000);
    CHECK(take(1, 1200 + wait_ms - 1) > 0);
    CHECK_U64(take(1, 1200 + wait_ms), 0);
    end();
}

/* /gateway/bot counted before the Identify that left while its answer was on the way. */
TEST(gate_limit_of_an_answer_is_less_what_was_spent_since_it_was_asked_for)
{
    begin(4);
    CHECK_U64(take(0, 0), 0);
    spend(0, 0);
    gate.since_asked = 0;                           /* asked now */
    CHECK_U64(take(1, 0), 0);
    spend(1, 0);
    gw__gate_limit(&gate, 1000, 2, 3600000, 10);
    CHECK_U64(take(2, 20), 0);
    spend(2, 20);
    CHECK(take(3, 30) > 0);
    CHECK(by_budget);
    gw__gate_limit(&gate, 1000, 1, 3600000, 40);    /* two were spent since: none is left */
    CHECK(take(3, 50) > 0);
    end();
}

TEST(gate_second_shard_waits_while_a_permit_is_out)
{
    begin(1);
    CHECK_U64(take(0, 0), 0);
    CHECK(take(1, 0) > 0);
    CHECK(take(1, 60000) > 0);                      /* however long the first one needs to connect */
    CHECK(!by_budget);
    end();
}

TEST(gate_returned_permit_is_free_at_once)
{
    begin(1);
    CHECK_U64(take(0, 0), 0);
    gw__gate_return(&gate, 0, 700);
    CHECK_U64(take(1, 700), 0);
    CHECK_EQ(gate.promised, 1);
    end();
}

TEST(gate_buckets_are_independent_and_chosen_by_shard_id)
{
    begin(2);
    CHECK_U64(take(0, 0), 0);
    CHECK_U64(take(1, 0), 0);
    CHECK(take(2, 0) > 0);                          /* 2 % 2 is 0 */
    spend(0, 100);
    CHECK(take(3, 100) > 0);
    spend(1, 3000);
    CHECK_U64(take(2, 100 + 5500), 0);
    CHECK(take(3, 100 + 5500) > 0);
    CHECK_U64(take(3, 3000 + 5500), 0);
    end();
}

TEST(gate_four_buckets_let_three_shards_go_together)
{
    begin(4);
    CHECK_U64(take(0, 0), 0);
    CHECK_U64(take(1, 0), 0);
    CHECK_U64(take(3, 0), 0);
    spend(3, 0);
    CHECK(take(7, 4999) > 0);
    CHECK_U64(take(7, 6000), 0);
    end();
}

TEST(gate_no_concurrency_is_one_and_too_much_is_bounded)
{
    begin(0);
    CHECK_EQ(gate.concurrency, 1);
    end();
    begin(UINT32_MAX);
    CHECK(gate.concurrency <= 1024);
    end();
}

TEST(gate_changes_its_buckets_once_no_permit_is_out)
{
    begin(1);
    CHECK_U64(take(0, 0), 0);
    gw__gate_resize(&gate, 3);
    CHECK_EQ(gate.concurrency, 1);
    CHECK(take(1, 0) > 0);                          /* its bucket is about to change */
    spend(0, 100);
    CHECK(take(1, 100) > 0);                        /* whose Identify that was is not known any more */
    CHECK_EQ(gate.concurrency, 3);
    CHECK_U64(take(1, 5600), 0);
    CHECK_U64(take(2, 5600), 0);
    CHECK(take(4, 5600) > 0);
    gw__gate_return(&gate, 1, 5600);
    gw__gate_return(&gate, 2, 5600);
    gw__gate_resize(&gate, 2);
    CHECK_EQ(gate.concurrency, 2);
    CHECK_U64(take(2, 5600), 0);
    CHECK(take(0, 5600) > 0);
    end();
}

TEST(gate_without_memory_for_more_buckets_goes_on_with_fewer)
{
    static uint8_t block[512];
    begin(1);
    gw__gate_free(&gate);
    CHECK(gw__mem_init_block(&mem, block, sizeof block));
    CHECK(gw__gate_init(&gate, &mem, 1));
    gw__gate_resize(&gate, 1000);
    CHECK_EQ(gate.concurrency, 1);
    CHECK_U64(take(0, 0), 0);
    end();
}

TEST(gate_refills_to_what_the_server_allows)
{
    begin(1);
    gw__gate_limit(&gate, 2000, 1, 5000, 0);
    CHECK_U64(take(0, 0), 0);
    spend(0, 10);
    CHECK_U64(take(0, 6000), 0);
    CHECK_EQ(gw__gate_left(&gate, 6000), 1999);     /* and the one that was spent within the day */
    gw__gate_return(&gate, 0, 6000);
    end();
}

TEST(gate_nothing_left_waits_exactly_until_the_reset)
{
    begin(1);
    gw__gate_limit(&gate, 1000, 0, 7000, 500);
    CHECK_U64(take(0, 1000), 6500);
    CHECK(by_budget);
    CHECK_U64(take(0, 7499), 1);
    CHECK_U64(take(0, 7500), 0);
    CHECK(!by_budget);
    end();
}

TEST(gate_permits_that_are_out_count_against_what_is_left)
{
    begin(4);
    gw__gate_limit(&gate, 1000, 1, 3600000, 0);
    CHECK_U64(take(0, 0), 0);
    CHECK(take(1, 0) > 0);
    spend(0, 10);
    CHECK(take(1, 10) > 1000000);
    CHECK(by_budget);
    end();
}

#define HOUR 3600000u

TEST(gate_identify_counts_for_a_day_and_not_longer)
{
    begin(1);
    CHECK_EQ(gw__gate_left(&gate, 5 * HOUR), 1000);
    CHECK_U64(take(0, 5 * HOUR), 0);
    spend(0, 5 * HOUR + 1);
    CHECK_EQ(gw__gate_left(&gate, 5 * HOUR + 2), 999);
    CHECK_EQ(gw__gate_left(&gate, 29 * HOUR + 1), 999);
    CHECK_EQ(gw__gate_left(&gate, 30 * HOUR), 1000);
    end();
}

/* A board learns the time late, or sets its clock: that makes no Identify a day old. */
TEST(gate_clock_that_is_set_forgets_nothing)
{
    uint64_t hour;
    begin(1);
    CHECK_U64(take(0, 0), 0);
    spend(0, 0);
    gw__gate_tell_time(&gate, 0, 1000);             /* not known yet */
    CHECK_EQ(gw__gate_left(&gate, 1000), 999);
    gw__gate_tell_time(&gate, 1767323045, 2000);    /* now it is */
    CHECK_EQ(gw__gate_left(&gate, 2000), 999);
    hour = gate.hour;
    CHECK_U64(hour, 1767323045 / 3600);
    gw__gate_tell_time(&gate, 1767323045 + 3600 * 48, 3000);
    CHECK_EQ(gw__gate_left(&gate, 3000), 999);
    CHECK_U64(gate.hour, hour);
    CHECK_EQ(gw__gate_left(&gate, 26 * HOUR), 1000);
    end();
}

TEST(gate_what_others_spent_is_added_hour_by_hour)
{
    uint32_t spent[GW__GATE_HOURS];
    begin(1);
    memset(spent, 0, sizeof spent);
    spent[0] = 7;
    spent[3] = 5;
    gw__gate_tell_time(&gate, 1767323045, 0);
    CHECK_U64(take(0, 0), 0);
    spend(0, 0);
    gw__gate_add_spent(&gate, gate.hour - 2, spent);
    CHECK_EQ(gate.spent[0], 1);
    CHECK_EQ(gate.spent[2], 7);
    CHECK_EQ(gate.spent[5], 5);
    gw__gate_add_spent(&gate, gate.hour - 2, spent);        /* the same text twice counts once */
    CHECK_EQ(gw__gate_spent(&gate), 13);
    gw__gate_add_spent(&gate, gate.hour + 90, spent);       /* of a clock that was ahead */
    CHECK_EQ(gate.spent[0], 7);
    gw__gate_add_spent(&gate, gate.hour - 25, spent);       /* a day old */
    CHECK_EQ(gw__gate_spent(&gate), 7 + 7 + 5 + 5);
    end();
}

TEST(gate_delay_leaves_a_permit_that_is_out)
{
    begin(2);
    CHECK_U64(take(0, 0), 0);
    gw__gate_delay(&gate, 5500);
    CHECK_U64(gate.free_ms[0], GW__NEVER);
    CHECK_U64(take(1, 1000), 4500);
    end();
}

/* Whenever Discord's own day may begin: no 24 hours hold more than 1,000. */
TEST(gate_no_day_ever_holds_more_than_a_thousand)
{
    static uint64_t times[8000];
    uint32_t count = 0, oldest = 0, most = 0;
    uint64_t now_ms = 15 * HOUR, wait_ms;
    begin(1);
    CHECK_U64(take(0, 0), 0);
    spend(0, 0);
    times[count++] = 0;
    while (now_ms < 200 * (uint64_t)HOUR && count < 8000) {
        wait_ms = take(0, now_ms);
        if (wait_ms) { now_ms += wait_ms; continue; }
        spend(0, now_ms);
        times[count++] = now_ms;
        while (times[oldest] + 24 * (uint64_t)HOUR <= now_ms) oldest++;
        if (count - oldest > most) most = count - oldest;
    }
    CHECK_EQ(most, 1000);
    end();
}

TEST(gate_counts_its_own_identifies_and_stops_before_the_limit)
{
    uint64_t now_ms = 0;
    uint32_t count = 0;
    begin(1);
    while (count < 2000) {
        uint64_t wait_ms = take(0, now_ms);
        if (by_budget) break;
        if (wait_ms == 0) { spend(0, now_ms); count++; }
        now_ms += wait_ms;
    }
    CHECK_EQ(count, 1000);
    CHECK(now_ms < 86400000);
    CHECK_U64(take(0, now_ms), 25 * HOUR - now_ms); /* the first hour has left the day as a whole */
    CHECK_U64(take(0, 25 * HOUR), 0);
    end();
}

TEST(gate_reset_while_a_permit_is_out_keeps_the_count_right)
{
    begin(1);
    gw__gate_limit(&gate, 1000, 1, 1000, 0);
    CHECK_U64(take(0, 900), 0);
    spend(0, 1100);
    CHECK_EQ(gw__gate_left(&gate, 1100), 999);
    CHECK_EQ(gate.promised, 0);
    CHECK_EQ(gw__gate_spent(&gate), 1);
    end();
}

TEST(gate_delay_holds_all_buckets)
{
    begin(3);
    gw__gate_delay(&gate, 5500);
    CHECK_U64(take(0, 1000), 4500);
    CHECK_U64(take(1, 1000), 4500);
    CHECK_U64(take(2, 5500), 0);
    end();
}

CHECK_MAIN()
