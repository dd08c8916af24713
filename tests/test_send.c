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
    CHECK(gw__send_push(&queue, 1, "abc", 3, 0) != NULL);
    gw__send_begin_connection(&queue);
    CHECK_EQ(queue.count, 1);
    CHECK_EQ(send_all(1, 41250, 1), 117);
    end();
}

/* ---- the queue ---- */
static gw__send_item *push(gw_ticket ticket, const char *text, uint64_t now_ms)
{
    return gw__send_push(&queue, ticket, text, (uint32_t)strlen(text), now_ms);
}

static gw__send_item *next(uint64_t now_ms)
{
    uint64_t when_ms;
    gw__send_item *item = gw__send_next(&queue, now_ms, &when_ms);
    return when_ms <= now_ms ? item : NULL;
}

TEST(send_queue_gives_back_in_order_and_refuses_what_is_too_much)
{
    uint32_t round, i;
    begin(3, 1000);
    for (round = 0; round < 5; round++) {
        for (i = 0; i < 3; i++) {
            char text[16];
            snprintf(text, sizeof text, "%u-%u", (unsigned)round, (unsigned)i);
            CHECK(push((gw_ticket)(round * 3 + i + 1), text, 0) != NULL);
        }
        CHECK(push(99, "x", 0) == NULL);
        for (i = 0; i < 3; i++) {
            char text[16];
            gw__send_item *item = next(0);
            snprintf(text, sizeof text, "%u-%u", (unsigned)round, (unsigned)i);
            if (!CHECK(item != NULL)) return;
            CHECK_EQ(item->ticket, round * 3 + i + 1);
            CHECK_BYTES(gw__send_bytes(item), item->len, text, strlen(text));
            gw__send_left(&queue, item, 0);
            if (i == 0) CHECK(push(50, "z", 0) != NULL);
        }
        CHECK_EQ(next(0)->ticket, 50);
        gw__send_left(&queue, next(0), 0);
        CHECK(next(0) == NULL);
    }
    end();
}

TEST(send_items_leave_the_list_from_any_place)
{
    gw__send_item *items[4];
    uint32_t i;
    begin(4, 1000);
    for (i = 0; i < 4; i++) items[i] = push((gw_ticket)i + 1, "x", i);
    gw__send_pop(&queue, items[3]);                 /* the youngest */
    gw__send_pop(&queue, items[1]);
    CHECK_EQ(push(9, "y", 9) != NULL, 1);
    CHECK_EQ(queue.count, 3);
    CHECK_EQ(queue.oldest->ticket, 1);
    CHECK_EQ(queue.oldest->next->ticket, 3);
    CHECK_EQ(queue.youngest->ticket, 9);
    gw__send_revoke(&queue, 3);
    CHECK_EQ(queue.count, 2);
    end();
}

TEST(send_queued_payload_ages)
{
    gw__send_item *item;
    begin(3, 300000);
    push(1, "x", 5000);
    CHECK(gw__send_ended(&queue, 5000) == NULL);
    CHECK(gw__send_ended(&queue, 304999) == NULL);
    item = gw__send_ended(&queue, 305000);
    if (CHECK(item != NULL)) CHECK_EQ(item->dropped, GW_REASON_TOO_OLD);
    CHECK_EQ(gw__send_waiting(&queue), 0);
    CHECK(next(305000) == NULL);                    /* it is told, not sent */
    end();
}

TEST(send_request_keeps_its_place_until_it_is_answered)
{
    gw__send_item *item;
    begin(1, 300000);
    item = push(1, "x", 0);
    item->guild_id = 7;
    gw__send_left(&queue, item, 10);
    CHECK(gw__send_awaits_answer(&queue));
    CHECK_EQ(queue.count, 1);
    CHECK_EQ(gw__send_waiting(&queue), 0);
    CHECK(next(10) == NULL);
    CHECK(push(2, "y", 10) == NULL);
    item = gw__send_ended(&queue, 300000);
    if (CHECK(item != NULL)) CHECK_EQ(item->dropped, GW_REASON_TIMEOUT);
    end();
}

TEST(send_session_takes_the_unanswered_requests_with_it)
{
    gw__send_item *item;
    begin(3, 300000);
    item = push(1, "x", 0);
    push(2, "y", 0);
    item->guild_id = 7;
    gw__send_left(&queue, item, 10);
    gw__send_drop_asked(&queue, GW_REASON_SESSION_GONE);
    item = gw__send_ended(&queue, 10);
    if (CHECK(item != NULL)) CHECK_EQ(item->ticket, 1);
    gw__send_pop(&queue, item);
    CHECK(gw__send_ended(&queue, 10) == NULL);
    CHECK_EQ(next(10)->ticket, 2);
    end();
}

/* ---- limits of single commands ---- */
static gw__send_item *push_whole_list(gw_ticket ticket, uint64_t guild_id, uint64_t now_ms)
{
    gw__send_item *item;
    CHECK(gw__send_remember_whole_lists(&queue));
    item = push(ticket, "members", now_ms);
    if (!item) return NULL;
    item->guild_id = guild_id;
    item->is_whole_list = 1;
    return item;
}

TEST(send_whole_list_of_a_guild_goes_once_in_thirty_seconds_and_others_pass)
{
    uint64_t when_ms;
    begin(8, 300000);
    push_whole_list(1, 70, 0);
    push_whole_list(2, 70, 0);
    push_whole_list(3, 71, 0);
    push(4, "other", 0);
    gw__send_left(&queue, next(1000), 1000);        /* 1 */
    CHECK_EQ(next(1000)->ticket, 3);
    gw__send_left(&queue, next(1000), 1000);
    CHECK_EQ(next(1000)->ticket, 4);
    gw__send_left(&queue, next(1000), 1000);
    CHECK(next(30999) == NULL);
    gw__send_next(&queue, 30999, &when_ms);
    CHECK_U64(when_ms, 31000);
    CHECK_EQ(next(31000)->ticket, 2);
    end();
}

TEST(send_more_guilds_than_are_remembered_wait_for_a_row)
{
    uint32_t i, sent = 0;
    begin(GW__WHOLE_LISTS_MAX + 8, 300000);
    for (i = 0; i < GW__WHOLE_LISTS_MAX + 8; i++) push_whole_list((gw_ticket)i + 1, 100 + i, 0);
    for (; next(0); sent++) gw__send_left(&queue, next(0), 0);
    CHECK_EQ(sent, GW__WHOLE_LISTS_MAX);
    for (; next(30000); sent++) gw__send_left(&queue, next(30000), 30000);
    CHECK_EQ(sent, GW__WHOLE_LISTS_MAX + 8);
    end();
}

TEST(send_refused_request_waits_for_its_time_only_if_asked_to)
{
    gw__send_item *item;
    begin(4, 300000);
    item = push_whole_list(1, 70, 0);
    item->retry = 1;
    gw__send_left(&queue, item, 0);
    gw__send_refused(&queue, item, 1, 45000);
    CHECK(!gw__send_awaits_answer(&queue));
    CHECK(next(44999) == NULL);
    CHECK_EQ(next(45000)->ticket, 1);
    gw__send_left(&queue, item, 45000);
    item->retry = 0;
    gw__send_refused(&queue, item, 1, 90000);
    CHECK_EQ(queue.count, 0);
    item = push_whole_list(2, 71, 90000);
    gw__send_left(&queue, item, 90000);
    gw__send_refused(&queue, item, 0, 95000);       /* nobody hears of it otherwise */
    item = gw__send_ended(&queue, 90000);
    if (CHECK(item != NULL)) CHECK_EQ(item->dropped, GW_REASON_BUDGET);
    end();
}

TEST(send_five_presences_in_twenty_seconds)
{
    uint32_t i;
    begin(4, 1000);
    CHECK_U64(gw__send_presence_ms(&queue), GW__NEVER);
    for (i = 0; i < 5; i++) {
        gw__send_want_presence(&queue, (gw_ticket)i + 1, 1000 + i * 100);
        CHECK(gw__send_presence_ms(&queue) <= 1000 + i * 100);
        gw__send_presence_left(&queue, 1000 + i * 100);
        CHECK_U64(gw__send_presence_ms(&queue), GW__NEVER);
    }
    gw__send_begin_connection(&queue);              /* a new connection is no new allowance */
    gw__send_want_presence(&queue, 6, 2000);
    CHECK_U64(gw__send_presence_ms(&queue), 21000);
    gw__send_presence_left(&queue, 21000);
    gw__send_want_presence(&queue, 7, 21000);
    CHECK_U64(gw__send_presence_ms(&queue), 21100);
    CHECK_EQ(queue.count, 0);
    end();
}

TEST(send_newer_presence_replaces_and_the_older_one_is_told)
{
    gw__send_item *item;
    begin(2, 1000);
    gw__send_want_presence(&queue, 1, 0);
    gw__send_want_presence(&queue, 2, 0);
    gw__send_want_presence(&queue, 3, 0);
    CHECK(!gw__send_has_presence_place(&queue));    /* two are not told yet: no place for a third */
    CHECK_EQ(gw__send_waiting(&queue), 1);
    item = gw__send_ended(&queue, 0);
    if (!CHECK(item != NULL)) return;
    CHECK_EQ(item->ticket, 1);
    CHECK_EQ(item->dropped, GW_REASON_NEWER);
    gw__send_pop(&queue, item);
    CHECK_EQ(gw__send_ended(&queue, 0)->ticket, 2);
    CHECK(gw__send_has_presence_place(&queue));
    end();
}

TEST(send_everything_is_told_when_the_shard_ends)
{
    uint32_t told = 0;
    gw__send_item *item;
    begin(3, 1000);
    push(1, "x", 0);
    push(2, "y", 0)->guild_id = 5;
    push(3, "z", 0);
    gw__send_want_presence(&queue, 4, 0);
    gw__send_left(&queue, queue.oldest->next, 0);
    gw__send_drop_all(&queue, GW_REASON_BY_CALLER, 0);
    for (; (item = gw__send_ended(&queue, 0)) != NULL; gw__send_pop(&queue, item)) told |= 1u << item->ticket;
    CHECK_EQ(told, 30);
    CHECK_EQ(queue.to_tell, 0);
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
    gw__mem_init(&mem, stingy, NULL);
    gw__send_init(&queue, &mem, 4, 1000);
    allocations_left = 0;
    CHECK(push(1, "abc", 0) == NULL);
    CHECK(!gw__send_remember_whole_lists(&queue));
    CHECK_EQ(queue.count, 0);
    allocations_left = 5;
    CHECK(push(2, "abc", 0) != NULL);
    end();
}

CHECK_MAIN()
