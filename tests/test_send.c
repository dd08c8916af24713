/* The send room: what may leave when. The figures of the window are facts from twilight's unit tests (ratelimiter.rs). */
#define DISCORD_GATEWAY_IMPLEMENTATION
#include "discord_gateway.h"
#include "check.h"

static gw__mem mem;
static gw__send queue;

static void begin(uint32_t cap, uint32_t max_age_ms)
{
    gw__mem_init(&mem, NULL, NULL);
    gw__send_init(&queue, &mem, cap, max_age_ms);
    gw__send_begin_connection(&queue);
}

static void end(void)
{
    gw__send_free(&queue);
    CHECK_U64(mem.now_bytes, 0);
}

/* Sends as much as may leave now; how many that were. */
static uint32_t send_all(int by_caller, uint32_t interval_ms, uint64_t now_ms)
{
    uint32_t count = 0;
    while (count < 1000 && gw__send_may_leave(&queue, by_caller, interval_ms, now_ms)) {
        gw__send_count(&queue, by_caller, now_ms);
        count++;
    }
    return count;
}

TEST(send_share_leaves_room_for_the_heartbeats_of_a_window)
{
    CHECK_EQ(gw__send_share(UINT32_MAX), 118);      /* no heartbeats to speak of */
    CHECK_EQ(gw__send_share(60000), 118);
    CHECK_EQ(gw__send_share(42500), 117);
    CHECK_EQ(gw__send_share(41250), 117);
    CHECK_EQ(gw__send_share(30000), 117);
    CHECK_EQ(gw__send_share(29999), 116);
    CHECK_EQ(gw__send_share(0), 110);               /* not known yet: the floor */
    CHECK_EQ(gw__send_share(1), 110);
    CHECK_EQ(gw__send_share(1000), 110);
}

TEST(send_all_used_comes_back_at_sixty_seconds_and_not_before)
{
    begin(4, 1000);
    CHECK_EQ(send_all(1, 60000, 1000), 118);
    CHECK_EQ(send_all(1, 60000, 1000 + 59900), 0);
    CHECK_EQ(send_all(1, 60000, 1000 + 59999), 0);
    CHECK_U64(gw__send_free_ms(&queue, 60000, 1000 + 59900), 61000);
    CHECK_EQ(send_all(1, 60000, 1000 + 60000), 118);
    end();
}

TEST(send_half_used_comes_back_half_at_a_time)
{
    uint32_t i;
    begin(4, 1000);
    for (i = 0; i < 59; i++) gw__send_count(&queue, 1, 0);
    for (i = 0; i < 59; i++) gw__send_count(&queue, 1, 30000);
    CHECK(!gw__send_may_leave(&queue, 1, 60000, 59999));
    CHECK_EQ(send_all(1, 60000, 60000), 59);
    CHECK_EQ(send_all(1, 60000, 89999), 0);
    CHECK_EQ(send_all(1, 60000, 90000), 59);
    end();
}

TEST(send_all_is_back_at_ninety_seconds_if_nobody_sends)
{
    uint32_t i;
    begin(4, 1000);
    for (i = 0; i < 59; i++) gw__send_count(&queue, 1, 0);
    for (i = 0; i < 59; i++) gw__send_count(&queue, 1, 30000);
    CHECK_EQ(send_all(1, 60000, 90000), 118);
    end();
}

TEST(send_window_slides_and_does_not_jump)
{
    uint32_t i;
    begin(4, 1000);
    for (i = 0; i < 118; i++) {
        CHECK(gw__send_may_leave(&queue, 1, 60000, i * 20));
        gw__send_count(&queue, 1, i * 20);
    }
    for (i = 0; i < 118; i++) {                     /* 20 ms apart they went, 20 ms apart they come back */
        CHECK(!gw__send_may_leave(&queue, 1, 60000, 59999 + i * 20));
        CHECK_U64(gw__send_free_ms(&queue, 60000, 59999 + i * 20), 60000 + i * 20);
        CHECK(gw__send_may_leave(&queue, 1, 60000, 60000 + i * 20));
        gw__send_count(&queue, 1, 60000 + i * 20);
    }
    end();
}

TEST(send_looking_again_does_not_move_the_deadline)
{
    uint32_t i;
    begin(4, 1000);
    send_all(1, 60000, 500);
    for (i = 0; i < 100; i++) CHECK_U64(gw__send_free_ms(&queue, 60000, 600 + i * 500), 60500);
    end();
}

TEST(send_heartbeats_pass_when_the_caller_has_used_his_share)
{
    begin(4, 1000);
    CHECK_EQ(send_all(1, 41250, 0), 117);
    CHECK(!gw__send_may_leave(&queue, 1, 41250, 0));
    CHECK_EQ(send_all(0, 41250, 0), 3);
    CHECK(!gw__send_may_leave(&queue, 0, 41250, 0));        /* 120 in all, whoever sent them */
    CHECK_U64(gw__send_free_ms(&queue, 41250, 0), 60000);
    end();
}

TEST(send_own_payloads_count_against_all_120)
{
    begin(4, 1000);
    CHECK_EQ(send_all(0, 41250, 0), 120);
    CHECK(!gw__send_may_leave(&queue, 1, 41250, 59999));
    CHECK_EQ(send_all(1, 41250, 60000), 117);
    end();
}

/* Never more than 120 in any 60 s, whatever the caller and the server do. */
TEST(send_no_window_of_sixty_seconds_ever_holds_more_than_120)
{
    static uint64_t times[200000];
    uint32_t count = 0, tail = 0, state = 7, i, worst = 0;
    uint64_t now_ms = 0;
    begin(4, 1000);
    for (i = 0; i < 150000; i++) {
        int by_caller;
        state = state * 1664525u + 1013904223u;
        now_ms += state >> 24 > 200 ? (state >> 8 & 2047u) : (state >> 8 & 15u);
        by_caller = (state >> 20 & 15u) != 0;
        if (!gw__send_may_leave(&queue, by_caller, 41250, now_ms)) continue;
        gw__send_count(&queue, by_caller, now_ms);
        times[count++] = now_ms;
        while (times[tail] + 60000 <= now_ms) tail++;
        if (count - tail > worst) worst = count - tail;
    }
    CHECK(worst <= 120);
    CHECK(worst > 100);                             /* and the window is used */
    end();
}

/* free_ms must be a time at which something may leave: a caller that sleeps until then must not wake for nothing. */
TEST(send_promised_time_is_kept)
{
    uint32_t i, state = 3;
    uint64_t now_ms = 0;
    begin(4, 1000);
    for (i = 0; i < 20000; i++) {
        int by_caller;
        uint64_t free_ms;
        state = state * 1664525u + 1013904223u;
        by_caller = (state >> 20 & 3u) != 0;
        now_ms += state >> 8 & 255u;
        if (gw__send_may_leave(&queue, by_caller, 41250, now_ms)) { gw__send_count(&queue, by_caller, now_ms); continue; }
        if (!by_caller) continue;
        free_ms = gw__send_free_ms(&queue, 41250, now_ms);
        CHECK(free_ms > now_ms);
        CHECK(free_ms <= now_ms + 60000);
        now_ms = free_ms;
        if (gw__send_may_leave(&queue, 1, 41250, now_ms)) continue;
        CHECK(gw__send_free_ms(&queue, 41250, now_ms) > now_ms);   /* one of ours left first: ask again */
    }
    end();
}

TEST(send_new_connection_starts_with_a_fresh_budget_and_the_old_queue)
{
    begin(4, 1000);
    send_all(1, 41250, 0);
    CHECK_EQ(gw__send_push(&queue, 1, "abc", 3, 0), GW_OK);
    gw__send_begin_connection(&queue);
    CHECK_EQ(queue.count, 1);
    CHECK_EQ(send_all(1, 41250, 1), 117);
    end();
}

/* ---- the queue ---- */
TEST(send_queue_gives_back_in_order_and_refuses_what_is_too_much)
{
    uint32_t round, i;
    begin(3, 1000);
    for (round = 0; round < 5; round++) {           /* the ring goes round */
        for (i = 0; i < 3; i++) {
            char text[16];
            snprintf(text, sizeof text, "%u-%u", (unsigned)round, (unsigned)i);
            CHECK_EQ(gw__send_push(&queue, (gw_ticket)(round * 3 + i + 1), text, (uint32_t)strlen(text), 0), GW_OK);
        }
        CHECK_EQ(gw__send_push(&queue, 99, "x", 1, 0), GW_ERROR_QUEUE_FULL);
        for (i = 0; i < 3; i++) {
            char text[16];
            gw__send_item *item = gw__send_front(&queue);
            snprintf(text, sizeof text, "%u-%u", (unsigned)round, (unsigned)i);
            if (!CHECK(item != NULL)) return;
            CHECK_EQ(item->ticket, round * 3 + i + 1);
            CHECK_BYTES(item->bytes, item->len, text, strlen(text));
            gw__send_pop(&queue);
            if (i == 0) { CHECK_EQ(gw__send_push(&queue, 50, "z", 1, 0), GW_OK); }
        }
        CHECK_EQ(gw__send_front(&queue)->ticket, 50);
        gw__send_pop(&queue);
        CHECK(gw__send_front(&queue) == NULL);
    }
    end();
}

TEST(send_queued_payload_ages)
{
    gw__send_item *item;
    begin(3, 300000);
    gw__send_push(&queue, 1, "x", 1, 5000);
    item = gw__send_front(&queue);
    CHECK(!gw__send_is_too_old(&queue, item, 5000));
    CHECK(!gw__send_is_too_old(&queue, item, 304999));
    CHECK(gw__send_is_too_old(&queue, item, 305000));
    end();
}

static uint32_t allocations_left;
static void *stingy(void *user, void *old, size_t old_bytes, size_t new_bytes)
{
    (void)user; (void)old_bytes;
    if (new_bytes == 0) { free(old); return NULL; }
    if (allocations_left == 0) return NULL;
    allocations_left--;
    return realloc(old, new_bytes);
}

TEST(send_without_memory_queues_nothing_and_says_so)
{
    uint32_t most;
    for (most = 0; most < 2; most++) {
        gw__mem_init(&mem, stingy, NULL);
        gw__send_init(&queue, &mem, 4, 1000);
        allocations_left = most;
        CHECK_EQ(gw__send_push(&queue, 1, "abc", 3, 0), GW_ERROR_NO_MEMORY);
        CHECK_EQ(queue.count, 0);
        allocations_left = 5;
        CHECK_EQ(gw__send_push(&queue, 2, "abc", 3, 0), GW_OK);
        end();
    }
}

CHECK_MAIN()
