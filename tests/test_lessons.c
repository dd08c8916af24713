/* Lessons from seven other Gateway clients, as tests of the whole client in the world of world.h:
 * what their own tests check and what hurt their users. "lessons 4.x" names the section of the
 * collection each fact comes from, and the words in quotes its row. What another file of the
 * suite covers exactly is not repeated here:
 *
 *   4.1 Send limiter, on gw__send_* alone
 *       test_send.c: send_share_leaves_room_for_the_heartbeats_of_a_window,
 *       send_all_used_comes_back_at_sixty_seconds_and_not_before,
 *       send_half_used_comes_back_half_at_a_time, send_window_slides_and_does_not_jump,
 *       send_all_is_back_at_ninety_seconds_if_nobody_sends,
 *       send_looking_again_does_not_move_the_deadline
 *   4.1 Close codes
 *       test_client_ends.c: client_every_close_code_leads_where_the_table_says,
 *       client_close_code_before_the_session_stands
 *   4.1 Session
 *       test_client_payloads.c: client_sequence_jump_is_accepted
 *   4.1 Envelope
 *       test_json.c: scan_is_not_misled_by_what_is_inside_d,
 *       scan_takes_null_as_absent_except_for_d
 *   4.1 Config
 *       test_client_config.c: config_numbers_out_of_range_are_refused (49, 251),
 *       config_token_is_stripped_of_what_is_pasted_with_it; world_end() in every test: the token
 *       in no event, no log line of GW_LOG_TRACE
 *   4.1 Fix log
 *       test_client_sends.c: send_queued_ones_survive_a_resume (#2264; ours wait for RESUMED);
 *       test_client_ends.c: client_every_close_code_leads_where_the_table_says (#2399: the
 *       reason); test_client.c: client_does_not_wait_for_a_dead_peers_close_frame,
 *       client_zombie_with_a_full_socket_is_dropped_as_well (#2435, #1964)
 *   4.2 Gateway info
 *       test_discover.c: discover_asks_again_when_the_cached_url_keeps_failing (we have no other
 *       forced refetch)
 *   4.2 Shards
 *       test_client_calls.c: shards_of_a_range_have_their_own_ids ([2,3] of 4)
 *   4.2 Worker
 *       test_client_sessions.c: sessions_text_names_the_event_before_the_one_in_hand (what is
 *       stored moves on with delivery)
 *   4.2 Limits in source
 *       test_client_sends.c: send_heartbeats_go_ahead_of_a_full_queue,
 *       send_new_connection_has_a_fresh_budget; ours are Hello 20 s, upgrade 15 s, READY without
 *       end: test_client.c: client_waits_twenty_seconds_for_hello,
 *       client_stalled_upgrade_times_out,
 *       client_waits_for_ready_patiently_while_beats_are_answered
 *   4.2 Fix log
 *       #9178: test_client.c: client_reaches_ready_and_tells_each_step (no call of ours waits);
 *       #8731: test_client_sessions.c: sessions_text_names_the_event_before_the_one_in_hand;
 *       #8405: test_client_ends.c: client_every_close_code_leads_where_the_table_says (1000);
 *       #10375: test_client.c: client_stalled_upgrade_times_out; test_discover.c:
 *       discover_gives_a_silent_server_twenty_seconds; #9517: test_client_ends.c:
 *       client_server_that_accepts_and_closes_is_not_stormed
 *   4.3 op 1 answered
 *       test_client.c: client_answers_op1_at_once_and_its_timer_goes_on
 *   4.4 DPP
 *       test_client_payloads.c: client_takes_fragments_with_pings_in_between; bad UTF-8 that goes
 *       out: test_client_sends.c: send_refuses_what_would_close_the_connection, test_json.c:
 *       quote_escapes_what_must_be_and_replaces_what_is_not_utf8; silent after READY:
 *       test_client_ends.c: client_frozen_server_is_noticed_by_its_missing_ack
 *   4.4 Concord
 *       timeout.c: test_loop.c: wait_is_over_when_the_time_is, idle_wait_sleeps_and_does_not_spin
 *   4.4 ScurryPy
 *       the key: test_session.c: session_identify_has_the_documented_keys,
 *       session_identify_carries_shard_threshold_and_presence; test_client_ends.c:
 *       client_op7_resumes_at_once_on_the_resume_url (4000 goes out),
 *       client_cut_reset_and_freeze_are_resumed (bare EOF),
 *       client_op9_false_in_answer_to_resume_identifies_at_the_cached_url,
 *       client_every_close_code_leads_where_the_table_says (4004 stops),
 *       client_without_a_network_tries_slower_and_slower_but_for_ever; test_client.c:
 *       client_answers_op1_at_once_and_its_timer_goes_on,
 *       client_drops_a_connection_whose_beat_stays_unanswered; test_client_payloads.c:
 *       client_gives_the_memory_of_a_large_payload_back (5 MB)
 *   4.5 hello, beats
 *       test_client.c: client_first_beat_is_jittered_and_the_rest_regular,
 *       client_beats_null_before_the_first_event_and_then_its_seq,
 *       client_answers_op1_at_once_and_its_timer_goes_on
 *   4.5 ACK
 *       test_client.c: client_drops_a_connection_whose_beat_stays_unanswered (lost; stale flag)
 *   4.5 op 7, op 9
 *       test_client_ends.c: client_op7_resumes_at_once_on_the_resume_url,
 *       client_op7_before_hello_is_understood, client_op7_before_ready_identifies_again,
 *       client_op9_false_after_identify_waits_five_seconds_and_more,
 *       client_op9_true_after_identify_identifies,
 *       client_op9_false_in_answer_to_resume_identifies_at_the_cached_url,
 *       client_op9_true_in_answer_to_resume_resumes_again, client_op9_true_unprompted_resumes,
 *       client_op9_false_unprompted_starts_a_new_session_after_one_to_five_seconds
 *   4.5 ends
 *       test_client_ends.c: client_every_close_code_leads_where_the_table_says,
 *       client_cut_reset_and_freeze_are_resumed; half-open: test_client.c:
 *       client_does_not_wait_for_a_dead_peers_close_frame; TLS: test_tls.c:
 *       tls_tells_the_alert_of_a_server_without_a_common_cipher, test_net.c:
 *       link_tls_peer_that_is_cut_off_is_a_truncation
 *   4.5 resume host
 *       test_client_ends.c: client_resume_host_that_refuses_leads_to_the_cached_url_and_back,
 *       client_resume_host_with_http_errors_leads_to_the_cached_url,
 *       client_third_resume_without_resumed_leads_to_identify (#1619),
 *       client_second_resume_that_works_resets_the_count
 *   4.5 READY delayed
 *       test_client.c: client_waits_for_ready_patiently_while_beats_are_answered
 *   4.5 budget
 *       test_client_sessions.c: sessions_crash_loop_meets_a_refusal_and_not_a_token_reset
 *   4.5 4096/4097
 *       test_client_sends.c: send_measures_4096_bytes_of_the_whole_payload
 *   4.5 frames
 *       test_client_payloads.c: client_takes_one_byte_at_a_time,
 *       client_takes_fragments_with_pings_in_between; test_client_ends.c:
 *       client_broken_frames_are_answered_with_their_close_code
 *   4.5 payloads
 *       test_client_payloads.c: client_takes_d_before_op_and_t,
 *       client_unknown_op_and_unknown_event_are_normal, client_sequence_jump_is_accepted
 *   4.5 time
 *       test_client_ends.c: client_that_slept_resumes_at_once (5 h); test_client.c:
 *       client_polled_a_minute_late_resumes_if_the_server_gave_up,
 *       client_late_poll_kills_nothing_that_is_alive
 *   4.5 save, kill, load
 *       test_client_sessions.c: sessions_text_names_the_event_before_the_one_in_hand,
 *       sessions_crash_between_receipt_and_handling_loses_nothing
 *
 * What does not apply to us:
 *   4.1 zlib; 4.2 #10416 (inflate in several chunks); 4.3 zstd frame without size; 4.4 DPP's zlib
 *       and ETF: config.compress is refused by this version, no compression is asked for, and the
 *       encoding is JSON only
 *   4.1 Latency
 *       the last five: gw_stats has the last one and the mean over the client's life, so nothing
 *       of them is reset at Hello; what waits for an ACK is
 *       (latency_of_the_old_connection_is_forgotten)
 *   4.1 Identify queue
 *       concurrency 0 is the default of the config, which is one bucket, not "no pacing"
 *   4.2 Worker
 *       threads and their messages: there are none; a shard of ours ends by gw_shard_stop()
 *   4.2 Shards
 *       count = max id + 1: the total is given, or asked for by GW_ALL */
#define DISCORD_GATEWAY_IMPLEMENTATION
#define GW_API_URL "http://127.0.0.1:9"     /* the world's gateway answers /gateway/bot, too */
#include "discord_gateway.h"
#include "world.h"

static world w;

#define PRESENCE "{\"since\":null,\"activities\":[],\"status\":\"online\",\"afk\":false}"
#define BOT_PATH "\"path\":\"/api/v10/gateway/bot\""

static void begin(const char *script)
{
    world_init(&w);
    world_begin(&w, script);
}

static void begin_live(const char *script)
{
    begin(script);
    WORLD_EXPECT(&w, GW_READY, 1000);
    world_settle(&w);
}

/* Room for all that a test wants to send, and heartbeats of this interval. */
static void begin_sending(uint64_t interval_ms)
{
    world_init(&w);
    w.cfg.max_queued = 1000;
    w.sim.interval_ms = interval_ms;
    world_begin(&w, NULL);
    WORLD_EXPECT(&w, GW_READY, 1000);
    world_settle(&w);
}

static void begin_shards(int32_t total, uint32_t concurrency)
{
    world_init(&w);
    w.cfg.shard_count = w.cfg.shard_total = total;
    w.cfg.max_concurrency = w.sim.max_concurrency = concurrency;
}

static gw_ticket send_empty(void)
{
    static const char d[] = "{\"guild_ids\":[]}";
    return gw_send_raw(w.gw, 0, 31, d, strlen(d));
}

static void send_many(uint32_t count)
{
    while (count--) if (!CHECK(send_empty() > 0)) return;
    world_settle(&w);
}

static size_t sent(void) { return world_count(&w, WORLD_EV("send"), NULL); }
static uint64_t sent_ms(size_t nth) { return world_time(&w, WORLD_EV("send"), nth); }
static size_t identifies(void) { return world_count(&w, WORLD_EV("identify"), NULL); }

/* When the shard sent its nth Identify; UINT64_MAX: it has not. */
static uint64_t identify_ms(int shard, int total, size_t nth)
{
    char line[1024], mark[40];
    const char *at;
    snprintf(mark, sizeof mark, "\"shard\":[%d,%d]", shard, total);
    if (!world_line(&w, WORLD_EV("identify"), mark, nth, line, sizeof line)) return UINT64_MAX;
    at = strstr(line, "\"ts_ms\":");
    return at ? strtoull(at + 8, NULL, 10) : UINT64_MAX;
}

static void check_between(uint64_t value, uint64_t least, uint64_t most, int line)
{
    if (value >= least && value <= most) return;
    check_failed(__FILE__, line);
    fprintf(stderr, "%llu is not within %llu and %llu\n", (unsigned long long)value,
            (unsigned long long)least, (unsigned long long)most);
}
#define CHECK_BETWEEN(value, least, most) check_between(value, least, most, __LINE__)

/* ---- 4.1: the send limiter on the wire ---- */

/* lessons 4.1, "Send limiter": so many a minute, by the heartbeat interval, and never fewer than
 * 110. */
TEST(limiter_share_of_the_caller_follows_the_heartbeat_interval)
{
    static const struct { uint32_t interval_ms, share; } rows[] = {
        { 600000, 118 }, { 60000, 118 }, { 42500, 117 }, { 41250, 117 }, { 30000, 117 },
        { 29999, 116 }, { 7000, 110 }, { 1000, 110 }
    };
    size_t i;
    for (i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        begin_sending(rows[i].interval_ms);
        send_many(200);
        if (!CHECK_U64(sent(), rows[i].share))
            fprintf(stderr, "    interval %u\n", (unsigned)rows[i].interval_ms);
        world_end(&w);
    }
}

/* lessons 4.1, "Send limiter": all used, then nothing for 59.9 s and everything at 60.0 s; the
 * most never changes. */
TEST(limiter_is_full_again_at_sixty_seconds_window_after_window)
{
    uint32_t window;
    begin_sending(60000);
    send_many(118 * 4);
    for (window = 1; window <= 4; window++) {
        CHECK_U64(sent(), window * 118);
        world_advance(&w, 59900);
        CHECK_U64(sent(), window * 118);
        world_advance(&w, 99);
        CHECK_U64(sent(), window * 118);
        world_advance(&w, 1);
    }
    CHECK_U64(world_count_events(&w, GW_DISCONNECTED), 0);
    world_end(&w);
}

/* lessons 4.1, "Send limiter": half at the beginning, half at 30 s: half is back at 60 s, the
 * other half at 90 s. */
TEST(limiter_used_in_halves_comes_back_in_halves)
{
    begin_sending(60000);
    send_many(59);
    world_advance(&w, 30000);
    send_many(59 + 118);
    CHECK_U64(sent(), 118);
    world_advance(&w, 29999);
    CHECK_U64(sent(), 118);
    world_advance(&w, 1);
    CHECK_U64(sent(), 118 + 59);
    world_advance(&w, 29999);
    CHECK_U64(sent(), 118 + 59);
    world_advance(&w, 1);
    CHECK_U64(sent(), 118 + 118);
    world_end(&w);
}

/* lessons 4.1, "Send limiter": ... and all of it is there at 90 s, if nothing was sent in
 * between. */
TEST(limiter_used_in_halves_is_whole_at_ninety_seconds)
{
    begin_sending(60000);
    send_many(59);
    world_advance(&w, 30000);
    send_many(59);
    world_advance(&w, 60000);
    send_many(200);
    CHECK_U64(sent(), 118 + 118);
    world_end(&w);
}

/* lessons 4.1, "Send limiter": what went 20 ms apart comes back 20 ms apart; the window slides. */
TEST(limiter_slides_with_payloads_twenty_milliseconds_apart)
{
    uint32_t i;
    begin_sending(600000);
    for (i = 0; i < 118; i++) {
        send_many(1);
        world_advance(&w, 20);
    }
    CHECK_U64(sent(), 118);
    send_many(118);
    world_advance(&w, 62400);
    CHECK_U64(sent(), 236);
    for (i = 0; i < 118; i++) CHECK_U64(sent_ms(118 + i), sent_ms(i) + 60000);
    world_end(&w);
}

/* lessons 4.1, "Send limiter": polls and wakes for nothing do not move the time of the next send
 * (#2185). */
TEST(limiter_deadline_stays_where_it_is_however_often_one_looks)
{
    uint64_t began_ms;
    uint32_t i;
    begin_sending(600000);
    began_ms = world_ms(&w);
    send_many(119);
    for (i = 0; i < 599; i++) {
        w.now_us += 100000;
        gw_wake(w.gw);
        world_settle(&w);
        world_settle(&w);
        CHECK(world_ms(&w) + (uint64_t)gw_timeout_ms(w.gw) <= began_ms + 60000);
    }
    CHECK_U64(sent(), 118);
    world_advance(&w, 1000);
    CHECK_U64(sent(), 119);
    CHECK_U64(sent_ms(118), began_ms + 60000);
    world_end(&w);
}

/* ---- 4.1, 4.2: who may identify, and when ---- */

/* lessons 4.1, "Identify queue": one key: five seconds and more between two. */
TEST(identify_one_bucket_lets_one_shard_go_every_five_seconds)
{
    int i;
    begin_shards(4, 1);
    world_begin(&w, NULL);
    for (i = 0; i < 4; i++) WORLD_EXPECT(&w, GW_READY, 7000);
    for (i = 0; i < 3; i++) {
        uint64_t gap_ms = world_time(&w, WORLD_EV("identify"), (size_t)i + 1) -
                          world_time(&w, WORLD_EV("identify"), (size_t)i);
        CHECK_BETWEEN(gap_ms, 5000, 6000);
    }
    CHECK_U64(identifies(), 4);
    world_end(&w);
}

/* lessons 4.1, "Identify queue" (concurrency 2) and 4.2, "Identify throttle": 0 and 1 go at once
 * and in this order, 2 and 3 wait for their bucket. */
TEST(identify_two_buckets_let_two_go_at_once_and_two_wait)
{
    int i;
    begin_shards(4, 2);
    world_begin(&w, NULL);
    for (i = 0; i < 4; i++) WORLD_EXPECT(&w, GW_READY, 7000);
    CHECK_U64(world_count(&w, WORLD_EV("identify"), NULL), 4);
    CHECK_BETWEEN(identify_ms(0, 4, 0), 1000000, 1000500);
    CHECK_BETWEEN(identify_ms(1, 4, 0), identify_ms(0, 4, 0), 1000500);
    CHECK_EQ(w.events[0].shard, 0);
    CHECK_BETWEEN(identify_ms(2, 4, 0) - identify_ms(0, 4, 0), 5000, 6000);
    CHECK_BETWEEN(identify_ms(3, 4, 0) - identify_ms(1, 4, 0), 5000, 6000);
    world_end(&w);
}

/* lessons 4.1, "Identify queue" (concurrency 4): 0, 1 and 3 at once, the second of key 3 (shard
 * 7) five seconds on. */
TEST(identify_four_buckets_hold_only_the_second_of_a_key)
{
    int i;
    begin_shards(8, 4);
    world_begin(&w, NULL);
    for (i = 0; i < 8; i++) WORLD_EXPECT(&w, GW_READY, 7000);
    for (i = 0; i < 4; i++) {
        CHECK_BETWEEN(identify_ms(i, 8, 0), 1000000, 1000500);
        CHECK_BETWEEN(identify_ms(i + 4, 8, 0) - identify_ms(i, 8, 0), 5000, 6000);
    }
    world_end(&w);
}

/* lessons 4.1, "Identify queue": with `remaining` 0 the wait is exactly `reset_after`. 4.5,
 * "budget 0". */
TEST(identify_with_none_left_waits_for_the_reset_and_no_longer)
{
    const world_event *held;
    world_init(&w);
    w.cfg.url = NULL;
    w.sim.remaining = 0;
    w.sim.reset_after_ms = 5000;
    world_begin(&w, NULL);
    held = WORLD_EXPECT(&w, GW_IDENTIFY_HELD, 1000);
    CHECK_U64(held->in_ms, 5000);
    CHECK_EQ(held->reason, GW_REASON_BUDGET);
    WORLD_EXPECT(&w, GW_READY, 6000);
    CHECK_BETWEEN(world_time(&w, WORLD_EV("identify"), 0), 1005000, 1005010);
    CHECK_U64(identifies(), 1);
    world_end(&w);
}

/* lessons 4.1, "Identify queue": the 24 hours begin with the first Identify, not with the
 * client; hours are counted whole, so it may be 25. The same run is 4.2, fix log (#8481): nobody identifies where none is left. */
TEST(identify_day_begins_with_the_first_one)
{
    const world_event *held;
    uint64_t first_ms;
    world_init(&w);
    w.sim.interval_ms = 600000;
    w.refuse = UINT32_MAX;
    world_begin(&w, "on identify close 4000 no");
    world_advance(&w, 7200000);                     /* two hours without a network */
    CHECK_U64(identifies(), 0);
    w.refuse = 0;
    held = WORLD_EXPECT(&w, GW_IDENTIFY_HELD, 86400000);
    first_ms = world_time(&w, WORLD_EV("identify"), 0);
    CHECK_BETWEEN(first_ms, 1000000 + 7200000, 1000000 + 7261000);
    CHECK_U64(identifies(), 1000);
    CHECK_BETWEEN(held->at_ms + held->in_ms, first_ms + 86400000, first_ms + 90000000);
    world_end(&w);
}

/* lessons 4.1, "Identify queue": concurrency 0 means no pacing elsewhere; with us it is the
 * default, one bucket. */
TEST(identify_concurrency_zero_is_one_bucket)
{
    begin_shards(2, 0);
    world_begin(&w, NULL);
    WORLD_EXPECT(&w, GW_READY, 1000);
    WORLD_EXPECT(&w, GW_READY, 7000);
    CHECK_BETWEEN(identify_ms(1, 2, 0) - identify_ms(0, 2, 0), 5000, 6000);
    world_end(&w);
}

/* What a stream brings, with one text in place of another of the same length, so often. */
static const char *swap_from, *swap_to;
static uint32_t swaps;

static int32_t read_swapped(void *user, void *handle, void *bytes, uint32_t len)
{
    int32_t got = world_on_read(user, handle, bytes, len), i, size = (int32_t)strlen(swap_from);
    char *at = (char *)bytes;
    for (i = 0; swaps && i + size <= got; i++) {
        if (memcmp(at + i, swap_from, (size_t)size) != 0) continue;
        memcpy(at + i, swap_to, (size_t)size);
        swaps--;
    }
    return got;
}

/* lessons 4.1, "Identify queue": the settings may change while somebody waits. Ours come from
 * /gateway/bot, which is asked again when the cached URL fails three times. */
TEST(identify_waiters_go_on_by_newer_limits)
{
    int i;
    uint64_t least = UINT64_MAX, most = 0;
    begin_shards(4, 4);
    w.cfg.url = NULL;
    w.cfg.max_concurrency = 0;
    w.transport.read = read_swapped;
    swap_from = "\"max_concurrency\":4";
    swap_to = "\"max_concurrency\":1";
    swaps = 1;
    world_begin(&w, NULL);
    WORLD_EXPECT(&w, GW_READY, 1000);
    world_script(&w, "on upgrade x3 http 503");
    for (i = 0; i < 3; i++) WORLD_EXPECT(&w, GW_READY, 30000);
    CHECK_U64(world_count(&w, WORLD_EV("http"), BOT_PATH), 2);
    CHECK_U64(identifies(), 4);
    for (i = 1; i < 4; i++) {
        uint64_t at_ms = world_time(&w, WORLD_EV("identify"), (size_t)i);
        if (at_ms < least) least = at_ms;
        if (at_ms > most) most = at_ms;
    }
    CHECK(least >= world_time(&w, WORLD_EV("identify"), 0) + 5000);
    CHECK_BETWEEN(most - least, 0, 4999);           /* by the old limit it would be 11 s */
    world_end(&w);
}

static int32_t never_shard_0(void *user, int32_t shard, uint32_t bucket)
{
    (void)user; (void)bucket;
    return shard == 0 ? -1 : 0;
}

/* lessons 4.1, "Identify queue": who gives up waiting takes no permit with him. */
TEST(identify_permit_of_one_that_gives_up_is_free_at_once)
{
    begin_shards(2, 1);
    w.cfg.identify_gate = never_shard_0;
    world_begin(&w, NULL);
    CHECK_EQ(WORLD_EXPECT(&w, GW_SHARD_STOPPED, 100)->shard, 0);
    CHECK_EQ(WORLD_EXPECT(&w, GW_READY, 1000)->shard, 1);
    CHECK_BETWEEN(identify_ms(1, 2, 0), 1000000, 1001000);
    world_end(&w);
}

/* lessons 4.1, "Fix log" (#2260): the wish to identify survives connections that end before
 * Hello, and costs nothing. */
TEST(identify_pending_survives_connections_that_fail)
{
    gw_stats stats;
    begin("on accept x1 cut\non open x1 cut\nnext 3 no_hello\non open x3 +5 op7");
    WORLD_EXPECT(&w, GW_READY, 60000);
    CHECK_U64(identifies(), 1);
    CHECK(w.opens >= 5);
    gw_stats_read(w.gw, GW_ALL, &stats);
    CHECK_U64(stats.identifies, 1);
    CHECK_U64(stats.identifies_left, 999);
    world_end(&w);
}

/* lessons 4.2, "Identify throttle": a window that is long over gives no negative wait. */
TEST(identify_after_a_long_time_waits_for_nothing)
{
    const world_event *end;
    begin_live(NULL);
    world_advance(&w, 3600000);
    world_do(&w, "op9 false");
    end = WORLD_EXPECT(&w, GW_DISCONNECTED, 100);
    CHECK_BETWEEN(end->in_ms, 1000, 5000);          /* what op 9 asks for, and no more */
    CHECK_U64(WORLD_EXPECT(&w, GW_IDENTIFYING, 6000)->at_ms, end->at_ms + end->in_ms);
    CHECK_U64(world_count_events(&w, GW_IDENTIFY_HELD), 0);
    world_end(&w);
}

/* lessons 4.2, fix log (#8481) and 4.5, "budget < shards": those that there are permits for go,
 * the others say so. */
TEST(identify_fewer_left_than_shards_holds_the_others_until_the_reset)
{
    int i;
    begin_shards(4, 4);
    w.cfg.url = NULL;
    w.sim.remaining = 2;
    w.sim.reset_after_ms = 3600000;
    world_begin(&w, NULL);
    WORLD_EXPECT(&w, GW_READY, 1000);
    WORLD_EXPECT(&w, GW_READY, 1000);
    world_advance(&w, 3590000);
    CHECK_U64(identifies(), 2);
    CHECK_U64(world_count_events(&w, GW_IDENTIFY_HELD), 2);
    CHECK_BETWEEN(world_last(&w, GW_IDENTIFY_HELD)->in_ms, 3590000, 3600000);
    for (i = 0; i < 2; i++) WORLD_EXPECT(&w, GW_READY, 20000);
    CHECK(world_time(&w, WORLD_EV("identify"), 2) >= 1000000 + 3600000);
    CHECK_EQ(gw_shard_live(w.gw, GW_ALL), 1);
    world_end(&w);
}

/* ---- 4.1: close codes, session, latency, envelope ---- */

/* lessons 4.1, "Close codes": 5000 is unknown, not an error that ends anything. */
TEST(close_code_5000_is_no_reason_to_stop)
{
    begin_live(NULL);
    world_do(&w, "close 5000 what");
    CHECK_EQ(WORLD_EXPECT(&w, GW_DISCONNECTED, 100)->will, GW_NEXT_RESUME);
    WORLD_EXPECT(&w, GW_RESUMED, 1000);
    CHECK_U64(world_count_events(&w, GW_FATAL), 0);
    CHECK_U64(identifies(), 1);
    world_end(&w);
}

static char text[4096];

static void save(void)
{
    w.cfg.session_len = gw_session_save(w.gw, GW_ALL, text, sizeof text);
    w.cfg.session = text;
    CHECK(w.cfg.session_len > 0 && w.cfg.session_len < sizeof text);
}

/* As after a crash: no close frame is answered, the next client has only the text. */
static void restart(void)
{
    world_close_client(&w);
    w.cursor = w.event_count;
    world_open_client(&w);
}

/* lessons 4.1, "Session": it is saved as its id and a sequence of 64 bits, after a jump as well. */
TEST(session_above_32_bits_travels_through_its_text)
{
    uint64_t seq;
    begin_live(NULL);
    world_do(&w, "seq_huge");
    seq = WORLD_EXPECT(&w, GW_TYPING_START, 100)->seq;
    CHECK(seq > UINT64_C(0x200000000));
    world_settle(&w);
    save();
    restart();
    WORLD_EXPECT(&w, GW_RESUMED, 1000);
    CHECK_U64(world_number(&w, WORLD_EV("resume"), 0, "seq"), seq);
    CHECK_U64(identifies(), 1);
    world_end(&w);
}

/* lessons 4.1, "Latency": an ACK before a beat says nothing. */
TEST(latency_counts_no_ack_that_came_before_a_beat)
{
    gw_stats stats;
    begin_live(NULL);
    world_do(&w, "ack");
    world_settle(&w);
    CHECK_U64(world_count(&w, WORLD_EV("heartbeat"), NULL), 0);
    gw_stats_read(w.gw, 0, &stats);
    CHECK_U64(stats.acks, 0);
    CHECK_U64(stats.latency_us, 0);
    CHECK_U64(stats.latency_mean_us, 0);
    CHECK_U64(world_count_events(&w, GW_DISCONNECTED), 0);
    world_end(&w);
}

/* lessons 4.1, "Latency": the second ACK of one period is ignored. */
TEST(latency_counts_the_first_ack_of_a_period_only)
{
    gw_stats stats;
    world_init(&w);
    w.latency_ms = 30;
    world_begin(&w, "on heartbeat +5000 ack");
    world_advance(&w, 180000);
    gw_stats_read(w.gw, 0, &stats);
    CHECK(stats.heartbeats >= 3);
    CHECK_U64(stats.acks, stats.heartbeats);
    CHECK_U64(stats.latency_us, 30000);
    CHECK_U64(stats.latency_mean_us, 30000);
    world_end(&w);
}

/* lessons 4.1, "Latency": the newest one, and the average over all. */
TEST(latency_is_the_last_one_and_the_mean_of_all)
{
    static const char *const delays[] = { "late_ack 100", "late_ack 300", "late_ack 800" };
    gw_stats stats;
    size_t i;
    begin_live(NULL);
    for (i = 0; i < 3; i++) {
        world_do(&w, delays[i]);
        while (world_count(&w, WORLD_EV("heartbeat"), NULL) <= i) world_advance(&w, 100);
        world_advance(&w, 1000);
    }
    gw_stats_read(w.gw, 0, &stats);
    CHECK_U64(stats.acks, 3);
    CHECK_U64(stats.latency_us, 800000);
    CHECK_U64(stats.latency_mean_us, 400000);
    world_end(&w);
}

/* lessons 4.1, "Latency": a new Hello begins anew: no ACK is awaited that the old connection
 * owed us. */
TEST(latency_of_the_old_connection_is_forgotten)
{
    gw_stats stats;
    begin_live("on ready x1 no_ack");
    while (world_count(&w, WORLD_EV("heartbeat"), NULL) == 0) world_advance(&w, 100);
    world_do(&w, "op7");
    WORLD_EXPECT(&w, GW_RESUMED, 1000);
    world_do(&w, "ack");
    world_settle(&w);
    gw_stats_read(w.gw, 0, &stats);
    CHECK_U64(stats.acks, 0);
    CHECK_U64(stats.latency_us, 0);
    world_end(&w);
}

/* lessons 4.1, "Envelope": Hello with escaped quotes in its _trace; an ACK without d and s;
 * \"t\" inside a name; RESUMED has a small d. */
TEST(envelope_is_read_by_its_own_keys)
{
    const world_event *event;
    begin("next 1 no_hello\non open x1 raw {\"t\":null,\"s\":null,\"op\":10,\"d\":{\"_trace\":"
          "[\"[\\\"gateway-prd\\\",{\\\"op\\\":7}]\"],\"heartbeat_interval\":41250}}");
    WORLD_EXPECT(&w, GW_READY, 1000);
    world_do(&w, "raw {\"t\":null,\"op\":11}");
    world_do(&w, "event THREAD_CREATE "
                 "{\"name\":\"\\\"t\\\":\\\"READY\\\",\\\"s\\\":9\",\"id\":\"5\"}");
    event = WORLD_EXPECT(&w, GW_THREAD_CREATE, 100);
    CHECK_U64(event->seq, 4);
    CHECK_HAS(event->d, "\\\"t\\\":\\\"READY\\\"");
    CHECK_U64(world_count_events(&w, GW_READY), 1);
    CHECK_U64(world_count_events(&w, GW_DISCONNECTED), 0);
    world_do(&w, "cut");
    CHECK_TEXT(WORLD_EXPECT(&w, GW_RESUMED, 100)->d, "{\"_trace\":[\"sim\"]}");
    world_end(&w);
}

/* ---- 4.2: gateway info, shards, the fix log ---- */

/* lessons 4.2, "Gateway info": it is kept, through reconnects and new sessions and beyond its
 * reset. */
TEST(info_is_asked_once)
{
    uint32_t i;
    world_init(&w);
    w.cfg.url = NULL;
    w.sim.reset_after_ms = 600000;
    world_begin(&w, NULL);
    WORLD_EXPECT(&w, GW_GATEWAY_INFO, 1000);
    WORLD_EXPECT(&w, GW_READY, 1000);
    for (i = 0; i < 20; i++) {
        world_advance(&w, 60000);
        world_do(&w, i % 2 ? "op7" : "op9 false");
        WORLD_EXPECT(&w, i % 2 ? (uint32_t)GW_RESUMED : (uint32_t)GW_READY, 10000);
    }
    CHECK_U64(world_count(&w, WORLD_EV("http"), BOT_PATH), 1);
    CHECK_U64(world_count_events(&w, GW_GATEWAY_INFO), 1);
    world_end(&w);
}

/* lessons 4.2, "Gateway info": `reset_after` 0, even with nothing remaining, makes no storm of
 * questions. */
TEST(info_with_a_reset_of_zero_makes_no_storm)
{
    world_init(&w);
    w.cfg.url = NULL;
    w.sim.total = w.sim.remaining = 5;
    w.transport.read = read_swapped;
    swap_from = "\"remaining\":5,\"reset_after\":0";
    swap_to = "\"remaining\":0,\"reset_after\":0";
    swaps = 1;
    world_begin(&w, NULL);
    world_advance(&w, 30000);
    CHECK_EQ(swaps, 0);
    CHECK_BETWEEN(world_count(&w, WORLD_EV("http"), BOT_PATH), 1, 6);
    CHECK_EQ(gw_shard_live(w.gw, 0), 1);
    CHECK_U64(identifies(), 1);
    world_end(&w);
}

/* lessons 4.2, fix log (#9549): the first connection may be a Resume; then nobody is asked where
 * the Gateway is. */
TEST(info_is_not_needed_by_a_first_connection_that_resumes)
{
    world_init(&w);
    w.cfg.url = NULL;
    world_begin(&w, NULL);
    WORLD_EXPECT(&w, GW_READY, 1000);
    world_settle(&w);
    save();
    restart();
    WORLD_EXPECT(&w, GW_RESUMED, 1000);
    CHECK_U64(world_count(&w, WORLD_EV("http"), BOT_PATH), 1);
    CHECK_U64(identifies(), 1);
    world_end(&w);
}

/* lessons 4.2, "Worker": what a shard receives comes out with that shard's id, its READY too. */
TEST(shards_events_bear_the_id_of_their_shard)
{
    int32_t i;
    begin_shards(3, 3);
    world_begin(&w, NULL);
    for (i = 0; i < 3; i++) WORLD_EXPECT(&w, GW_READY, 1000);
    for (i = 2; i >= 0; i--) {
        char command[80], body[20];
        const world_event *event;
        snprintf(body, sizeof body, "{\"n\":%d}", (int)i);
        snprintf(command, sizeof command, "shard %d event MESSAGE_CREATE %s", (int)i, body);
        world_do(&w, command);
        event = WORLD_EXPECT(&w, GW_MESSAGE_CREATE, 100);
        CHECK_EQ(event->shard, i);
        CHECK_TEXT(event->d, body);
    }
    for (i = 0; i < (int32_t)w.event_count; i++) {
        char mark[20];
        if (w.events[i].type != GW_READY) continue;
        snprintf(mark, sizeof mark, "\"shard\":[%d,3]", (int)w.events[i].shard);
        CHECK_HAS(w.events[i].d, mark);
    }
    world_end(&w);
}

/* lessons 4.2, fix log (#9244): the first beat that was planned dies with its client. */
TEST(stop_before_the_first_beat_leaves_no_beat_behind)
{
    begin_live(NULL);
    CHECK_EQ(gw_stop(w.gw, GW_KEEP), GW_OK);
    WORLD_EXPECT(&w, GW_CLOSED, 5000);
    world_advance(&w, 120000);
    CHECK_U64(world_count(&w, WORLD_EV("heartbeat"), NULL), 0);
    world_end(&w);
}

/* ... and with its connection: each one beats by its own Hello. */
TEST(reconnect_before_the_first_beat_leaves_no_beat_behind)
{
    const world_event *resumed;
    begin_live("on open x1 hello_interval 60000\nnext 1 hello_interval 60000");
    world_do(&w, "op7");
    resumed = WORLD_EXPECT(&w, GW_RESUMED, 100);
    world_advance(&w, 200000);
    CHECK_U64(world_count(&w, WORLD_EV("heartbeat"), "\"conn\":1,"), 0);
    CHECK_BETWEEN(world_time(&w, WORLD_EV("heartbeat"), 0), resumed->at_ms, resumed->at_ms + 41250);
    CHECK_U64(world_time(&w, WORLD_EV("heartbeat"), 1),
              world_time(&w, WORLD_EV("heartbeat"), 0) + 41250);
    world_end(&w);
}

static uint64_t written;

static int32_t write_counted(void *user, void *handle, const void *bytes, uint32_t len)
{
    int32_t took = world_on_write(user, handle, bytes, len);
    if (took > 0) written += (uint64_t)took;
    return took;
}

/* lessons 4.2, fix log (#9254): a connection that is not a WebSocket yet gets no close frame. */
TEST(stop_while_connecting_writes_no_close_frame)
{
    uint32_t how;
    for (how = GW_KEEP; how <= GW_END; how++) {
        world_init(&w);
        w.transport.write = write_counted;
        world_begin(&w, "on accept stall_http");
        world_advance(&w, 500);
        CHECK(written > 0);                         /* the question for the upgrade */
        written = 0;
        CHECK_EQ(gw_stop(w.gw, how), GW_OK);
        WORLD_EXPECT(&w, GW_CLOSED, 5000);
        CHECK_U64(written, 0);
        CHECK(w.streams == NULL);
        world_end(&w);
    }
}

static uint32_t tickets;

static void send_from_the_handler(world *x, const gw_event *event)
{
    static const char d[] = "{\"guild_ids\":[]}";
    switch (event->type) {
    case GW_CONNECTING: case GW_OPENED: case GW_IDENTIFYING: case GW_READY: case GW_RESUMED:
    case GW_DISCONNECTED: case GW_SESSION_LOST:
        if (CHECK(gw_send_raw(x->gw, 0, 31, d, strlen(d)) > 0)) tickets++;
        break;
    default: break;
    }
}

/* lessons 4.2, fix log (#9226): sending at the very moment of READY, RESUMED or an end loses
 * nothing, and nothing leaves too early (send_before_ready would be a violation). */
TEST(send_races_with_no_flag_of_readiness)
{
    tickets = 0;
    world_init(&w);
    w.on_event = send_from_the_handler;
    world_begin(&w, "on accept late_ready 300");
    WORLD_EXPECT(&w, GW_READY, 1000);
    world_advance(&w, 61000);
    world_do(&w, "op7");
    WORLD_EXPECT(&w, GW_RESUMED, 1000);
    world_advance(&w, 61000);
    world_do(&w, "op9 false");
    WORLD_EXPECT(&w, GW_READY, 10000);
    world_advance(&w, 10000);
    CHECK(tickets >= 12);
    CHECK_U64(sent(), tickets);
    CHECK_U64(world_count_events(&w, GW_COMMAND_DROPPED), 0);
    world_end(&w);
}

/* lessons 4.2, fix log: the session's sequence is taken only if it is larger. */
TEST(session_sequence_never_goes_back_on_the_wire)
{
    char line[400];
    begin_live(NULL);
    world_do(&w, "raw {\"t\":\"TYPING_START\",\"s\":50,\"op\":0,\"d\":{}}");
    world_do(&w, "raw {\"t\":\"TYPING_START\",\"s\":40,\"op\":0,\"d\":{}}");
    CHECK_U64(WORLD_EXPECT(&w, GW_TYPING_START, 100)->seq, 50);
    CHECK_U64(WORLD_EXPECT(&w, GW_TYPING_START, 100)->seq, 40);     /* still an event */
    world_do(&w, "op1");
    world_settle(&w);
    CHECK(world_line(&w, WORLD_EV("heartbeat"), "\"d\":50,", 0, line, sizeof line));
    save();
    CHECK_HAS(text, "\n0 0 1 50 ");
    w.any_violations = 1;                           /* the gateway never counted them */
    world_end(&w);
}

/* ---- 4.3: discord.py's fix log ---- */

/* lessons 4.3, "null `s` ignored". */
TEST(session_null_sequence_is_no_sequence)
{
    char line[400];
    begin_live(NULL);
    world_do(&w, "raw {\"t\":\"TYPING_START\",\"s\":null,\"op\":0,\"d\":{}}");
    world_do(&w, "raw {\"t\":null,\"s\":null,\"op\":11,\"d\":null}");
    WORLD_EXPECT(&w, GW_TYPING_START, 100);
    world_do(&w, "op1");
    world_settle(&w);
    CHECK(world_line(&w, WORLD_EV("heartbeat"), "\"d\":3,", 0, line, sizeof line));
    world_do(&w, "cut");
    WORLD_EXPECT(&w, GW_RESUMED, 100);
    CHECK_U64(world_number(&w, WORLD_EV("resume"), 0, "seq"), 3);
    world_end(&w);
}

/* lessons 4.3, "5 s before re-Identify": a server that takes back each session at once starts no
 * loop. */
TEST(identify_after_each_invalidation_keeps_five_seconds)
{
    size_t i;
    begin("on ready +10 op9 false");
    world_advance(&w, 600000);
    CHECK_BETWEEN(identifies(), 10, 100);
    for (i = 1; i < identifies(); i++)
        CHECK(world_time(&w, WORLD_EV("identify"), i) >=
              world_time(&w, WORLD_EV("identify"), i - 1) + 5000);
    world_end(&w);
}

/* lessons 4.3, "disconnect in the middle of Hello": cut after any byte of the answer and of
 * Hello. */
TEST(hello_cut_at_any_byte_is_tried_again)
{
    uint64_t bytes;
    for (bytes = 1; bytes < 300; bytes += world_is_slow() ? 13 : 1) {
        int failures = check_failures;
        world_init(&w);
        w.next_down = bytes;
        world_begin(&w, NULL);
        CHECK_EQ(WORLD_EXPECT(&w, GW_DISCONNECTED, 100)->will, GW_NEXT_IDENTIFY);
        WORLD_EXPECT(&w, GW_READY, 10000);
        CHECK_U64(identifies(), 1 + world_count(&w, WORLD_EV("identify"), "\"conn\":1,"));
        CHECK_U64(world_count_events(&w, GW_FATAL), 0);
        world_end(&w);
        if (check_failures != failures) fprintf(stderr, "    after %u bytes\n", (unsigned)bytes);
    }
}

/* lessons 4.3, "error payload must not wedge the socket" (#9561): whatever it is, a moment later
 * beats and sends go. */
TEST(error_payload_wedges_nothing)
{
    static const char *const errors[] = {
        "raw {\"message\":\"401: Unauthorized\",\"code\":0}",
        "raw {\"op\":0,\"t\":\"ERROR\",\"d\":{\"code\":5}}",
        "raw {\"op\":10000,\"d\":{\"error\":\"x\"}}",
        "raw {\"errors\":[],\"op\":null}",
        "raw \"error\"",
        "raw {\"op\":0,\"t\":\"RATE_LIMITED\",\"d\":{\"retry_after\":\"soon\",\"meta\":null}}"
    };
    size_t i;
    for (i = 0; i < sizeof errors / sizeof errors[0]; i++) {
        int failures = check_failures;
        begin_live(NULL);
        world_do(&w, errors[i]);
        world_advance(&w, 5000);
        CHECK_EQ(gw_shard_live(w.gw, 0), 1);
        send_many(1);
        CHECK_U64(sent(), 1);
        world_advance(&w, 60000);
        CHECK(world_count(&w, WORLD_EV("heartbeat"), NULL) >= 1);
        CHECK_U64(identifies(), 1);
        world_end(&w);
        if (check_failures != failures) fprintf(stderr, "    %s\n", errors[i]);
    }
}

/* lessons 4.3, "latency wrong when the beat is sent outside the timer": asked for by op 1, by
 * gw_recheck(), twice. */
TEST(latency_of_a_beat_outside_the_timer_is_its_own)
{
    gw_stats stats;
    uint32_t i;
    world_init(&w);
    w.latency_ms = 100;
    world_begin(&w, NULL);
    WORLD_EXPECT(&w, GW_READY, 2000);
    for (i = 0; i < 3; i++) {
        if (i < 2) world_do(&w, "op1");
        world_advance(&w, 60);
        if (i == 1) world_do(&w, "op1");            /* a second one before the first is answered */
        if (i == 2) gw_recheck(w.gw);
        world_advance(&w, 3000);
        gw_stats_read(w.gw, 0, &stats);
        CHECK_U64(stats.acks, i + 1);
        CHECK_U64(stats.latency_us, 100000);
        CHECK_U64(stats.latency_mean_us, 100000);
    }
    CHECK_U64(stats.heartbeats, 4);
    world_advance(&w, 100000);
    gw_stats_read(w.gw, 0, &stats);
    CHECK_U64(stats.latency_mean_us, 100000);
    world_end(&w);
}

static size_t open_streams(void)
{
    const world_stream *stream;
    size_t count = 0;
    for (stream = w.streams; stream; stream = stream->next) count++;
    return count;
}

/* lessons 4.3, "reconnect must close the old socket" (#10409): whatever ended it, one connection
 * is left. */
TEST(reconnect_leaves_no_old_socket_open)
{
    static const char *const ends[] = {
        "cut", "reset", "op7", "op9 true", "op9 false", "close 4000 x", "close 1000 x",
        "close_empty", "close_one_byte", "rsv", "broken_json", "no_ack", "freeze"
    };
    size_t i;
    for (i = 0; i < sizeof ends / sizeof ends[0]; i++) {
        begin_live(NULL);
        world_do(&w, ends[i]);
        WORLD_EXPECT(&w, GW_DISCONNECTED, 90000);
        world_advance(&w, 10000);
        CHECK_EQ(gw_shard_live(w.gw, 0), 1);
        if (!CHECK_U64(open_streams(), 1)) fprintf(stderr, "    %s\n", ends[i]);
        world_end(&w);
    }
}

/* ---- 4.4: discordgo, DPP, Concord ---- */

/* lessons 4.4, discordgo: READY within 10 s, a status is accepted, the end is clean. */
TEST(open_status_close_goes_through)
{
    char line[400];
    begin(NULL);
    WORLD_EXPECT(&w, GW_READY, 10000);
    CHECK(gw_send_raw(w.gw, 0, 3, PRESENCE, strlen(PRESENCE)) > 0);
    world_advance(&w, 1000);
    CHECK(world_line(&w, WORLD_EV("send"), "\"op\":3,\"d\":" PRESENCE, 0, line, sizeof line));
    CHECK_U64(world_count_events(&w, GW_DISCONNECTED), 0);
    CHECK_EQ(gw_stop(w.gw, GW_END), GW_OK);
    WORLD_EXPECT(&w, GW_CLOSED, 5000);
    CHECK_U64(world_count(&w, WORLD_EV("close_received"), "\"code\":1000,"), 1);
    CHECK_EQ(world_last(&w, GW_DISCONNECTED)->reason, GW_REASON_BY_CALLER);
    world_end(&w);
}

/* lessons 4.4, discordgo (#513): op 7, op 9, op 0 or a close as the packet after Identify
 * deadlocks nobody. */
TEST(packet_after_identify_may_be_any)
{
    static const struct { const char *command; uint32_t identifies; uint64_t within_ms; } rows[] = {
        { "op7", 2, 7000 }, { "op9 false", 2, 8000 }, { "op9 true", 2, 8000 },
        { "close 4000 x", 2, 7000 },
        { "close 4009 x", 2, 7000 }, { "close_empty", 2, 7000 }, { "cut", 2, 7000 },
        { "raw {\"op\":0,\"t\":\"TYPING_START\",\"s\":1,\"d\":{}}", 1, 2500 },
        { "raw {\"op\":0,\"t\":\"RESUMED\",\"s\":1,\"d\":{}}", 1, 2500 },
        { "raw {\"op\":0,\"t\":\"NEW_TODAY\",\"s\":1,\"d\":null}", 1, 2500 }, { "op1", 1, 2500 },
        { "ack", 1, 2500 }, { "hello", 1, 2500 }
    };
    size_t i;
    for (i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char script[160];
        int failures = check_failures;
        snprintf(script, sizeof script, "next 1 late_ready 2000\non identify x1 %s",
                 rows[i].command);
        begin(script);
        WORLD_EXPECT(&w, GW_READY, rows[i].within_ms);
        CHECK_U64(identifies(), rows[i].identifies);
        CHECK_EQ(gw_shard_live(w.gw, 0), 1);
        world_end(&w);
        if (check_failures != failures) fprintf(stderr, "    %s\n", rows[i].command);
    }
}

/* lessons 4.4, DPP: frames and closes that are shorter than what a careless reader looks at. */
TEST(frames_of_a_few_bytes_are_read_within_their_bytes)
{
    static const char *const frames[] = {
        "bytes 82 00", "bytes 82 01 00", "bytes 82 02 00 00", "bytes 82 03 00 00 FF",
        "bytes 82 04 00 00 FF FF", "bytes 81 00", "bytes 81 01 7B", "bytes 81 02 7B 7D",
        "bytes 81 03 6E 75 6C", "bytes 80 00", "bytes 01 00", "bytes 88 00", "bytes 88 01 03",
        "bytes 88 02 0F A0", "bytes 88 03 0F A0 FF", "bytes 89 00", "bytes 8A 00"
    };
    size_t i;
    for (i = 0; i < sizeof frames / sizeof frames[0]; i++) {
        int failures = check_failures;
        begin_live(NULL);
        world_do(&w, frames[i]);
        world_advance(&w, 1000);
        world_do(&w, "event MESSAGE_CREATE {}");    /* after "01 00": one inside a message */
        WORLD_EXPECT(&w, GW_MESSAGE_CREATE, 3000);
        CHECK_U64(identifies(), 1);
        world_check_delivery(&w, 1);
        world_end(&w);
        if (check_failures != failures) fprintf(stderr, "    %s\n", frames[i]);
    }
}

static uint32_t resolves;

static int32_t resolve_nothing(void *user, const char *host, char *ip_text, size_t cap)
{
    (void)user; (void)ip_text; (void)cap;
    CHECK_TEXT(host, "localhost");
    resolves++;
    return -1;
}

/* lessons 4.4, DPP (#1607) and 4.5, "resume host: DNS fail": names that cannot be resolved cost
 * neither the process nor the session. The world's streams need no names, so the client without
 * DNS is one of its own, with the session. */
TEST(dns_failure_at_a_reconnect_keeps_the_session)
{
    uint32_t i;
    world_init(&w);
    w.cfg.url = w.sim.url = "ws://localhost/";
    w.sim.resume_url = "ws://localhost:8080/resume";
    w.sim.session_ttl_ms = 100000000;
    world_begin(&w, NULL);
    WORLD_EXPECT(&w, GW_READY, 1000);
    world_do(&w, "op7");                            /* the first reconnect works */
    WORLD_EXPECT(&w, GW_RESUMED, 1000);
    world_settle(&w);
    save();
    resolves = 0;
    w.cfg.transport = NULL;
    w.cfg.resolve = resolve_nothing;
    restart();
    for (i = 0; i < 12; i++) {
        const world_event *end = WORLD_EXPECT(&w, GW_DISCONNECTED, 70000);
        CHECK_EQ(end->reason, GW_REASON_RESOLVE);
        CHECK_EQ(end->will, GW_NEXT_RESUME);
        CHECK_HAS(end->message, "localhost");
    }
    CHECK_U64(resolves, 12);
    CHECK_U64(world_count_events(&w, GW_SESSION_LOST), 0);
    save();
    w.cfg.transport = &w.transport;
    restart();
    WORLD_EXPECT(&w, GW_RESUMED, 1000);
    CHECK_U64(identifies(), 1);
    world_end(&w);
}

static char long_name[560], long_presence[4096];

/* Five activities of 560 bytes and more each: above every buffer of 2,048. */
static size_t make_long_presence(void)
{
    size_t i, len = 0, cap = sizeof long_presence;
    memset(long_name, 'n', sizeof long_name - 1);
    len += (size_t)snprintf(long_presence, cap, "{\"since\":null,\"activities\":[");
    for (i = 0; i < 5; i++)
        len += (size_t)snprintf(long_presence + len, cap - len, "%s{\"name\":\"%s%u\",\"type\":0}",
                                i ? "," : "", long_name, (unsigned)i);
    len += (size_t)snprintf(long_presence + len, cap - len, "],\"status\":\"idle\",\"afk\":false}");
    CHECK(len > 2048 && len < 4000);
    return len;
}

/* lessons 4.4, Concord (#139): op 3 with five long activities arrives whole. */
TEST(send_of_five_long_activities_arrives_whole)
{
    static char line[8192];
    size_t len = make_long_presence();
    begin_live(NULL);
    CHECK(gw_send_raw(w.gw, 0, 3, long_presence, len) > 0);
    world_settle(&w);
    CHECK(world_line(&w, WORLD_EV("send"), long_presence, 0, line, sizeof line));
    CHECK_U64(world_count_events(&w, GW_DISCONNECTED), 0);
    world_end(&w);
}

/* ... in Identify as well. */
TEST(identify_with_five_long_activities_is_accepted)
{
    static char names[5][600];
    gw_activity activities[5];
    gw_presence presence;
    size_t i;
    memset(activities, 0, sizeof activities);
    memset(&presence, 0, sizeof presence);
    for (i = 0; i < 5; i++) {
        memset(names[i], 'a' + (int)i, sizeof names[i] - 1);
        activities[i].name = names[i];
    }
    presence.activities = activities;
    presence.activity_count = 5;
    world_init(&w);
    w.cfg.presence = &presence;
    world_begin(&w, NULL);
    WORLD_EXPECT(&w, GW_READY, 1000);
    CHECK_U64(world_count(&w, WORLD_EV("identify"), "\"presence\":true"), 1);
    world_end(&w);
}

/* lessons 4.4, Concord: GET /gateway/bot answers 5xx during a reconnect: asked again, and nobody
 * shuts down. */
TEST(info_that_fails_during_a_reconnect_is_asked_again)
{
    uint32_t api_failures = 0;
    size_t i;
    world_init(&w);
    w.cfg.url = NULL;
    world_begin(&w, NULL);
    WORLD_EXPECT(&w, GW_READY, 1000);
    world_advance(&w, 100000);
    world_script(&w, "on api x3 http 503\non upgrade x4 http 502");
    world_do(&w, "op9 false");
    CHECK_EQ(WORLD_EXPECT(&w, GW_READY, 300000)->session, 2);
    for (i = 0; i < w.event_count; i++)
        api_failures += w.events[i].type == GW_DISCONNECTED && w.events[i].shard == GW_ALL &&
                        w.events[i].close_code == 503;
    CHECK(api_failures >= 1);                       /* READY may come before the third question */
    CHECK_U64(world_count(&w, WORLD_EV("http"), BOT_PATH),
              api_failures + world_count_events(&w, GW_GATEWAY_INFO));
    CHECK_U64(world_count_events(&w, GW_FATAL), 0);
    CHECK_U64(identifies(), 2);
    world_end(&w);
}

/* lessons 4.4, Concord `racecond.c`: commands and reconnects under load, over and over. */
TEST(commands_and_reconnects_under_load_lose_no_event)
{
    static const char *const ends[] = { "op7", "cut", "close 4000 x", "op9 true", "reset" };
    uint32_t i, queued = 0;
    world_init(&w);
    w.cfg.max_queued = 1000;
    w.sim.event_rate = 50;
    w.sim.session_ttl_ms = 100000000;
    world_begin(&w, "on accept fragments 2");
    for (i = 0; i < 200; i++) {
        world_advance(&w, 50 + i % 7 * 40);
        queued += send_empty() > 0;
        if (i % 8 == 3) world_do(&w, ends[i / 8 % 5]);
        if (i % 8 == 5) gw_recheck(w.gw);
        if (i % 16 == 6) CHECK_EQ(gw_hold(w.gw, GW_ALL, 1), GW_OK);
        if (i % 16 == 7) CHECK_EQ(gw_hold(w.gw, GW_ALL, 0), GW_OK);
        if (i % 10 == 9) gw_wake(w.gw);
    }
    world_do(&w, "rate 0");
    world_advance(&w, 130000);
    CHECK_U64(queued, 200);
    CHECK_BETWEEN(sent(), 150, 200);                /* what a dying connection had is gone */
    CHECK_U64(identifies(), 1);
    CHECK(world_count_events(&w, GW_RESUMED) >= 15);
    world_check_delivery(&w, 1);
    w.any_violations = 1;                           /* a send and op 9 may cross on their way */
    world_end(&w);
}

/* ---- 4.5: the rest of the script list ---- */

/* lessons 4.5, "ACK late behind 20 MB burst": the ACK stands behind a payload that takes a
 * minute; that is no zombie. */
TEST(ack_behind_twenty_megabytes_is_no_zombie)
{
    gw_stats stats;
    const world_event *guild;
    size_t bytes = world_is_slow() ? 5000000 : 20000000;
    char command[40];
    world_init(&w);
    w.latency_ms = world_is_slow() ? 800 : 200;     /* 64 KiB at a time: 330 KB/s */
    world_begin(&w, NULL);
    WORLD_EXPECT(&w, GW_READY, 10000);
    world_advance(&w, 2000);
    snprintf(command, sizeof command, "big %lu", (unsigned long)bytes);
    world_do(&w, command);
    while (world_count(&w, WORLD_EV("heartbeat"), NULL) < 2) world_advance(&w, 1000);
    gw_stats_read(w.gw, 0, &stats);
    CHECK_U64(stats.acks, 0);                       /* two beats went, and no ACK came */
    do guild = WORLD_EXPECT(&w, GW_GUILD_CREATE, 120000);
    while (guild->type && guild->bytes < bytes);
    CHECK(guild->bytes > bytes);
    world_advance(&w, 60000);
    gw_stats_read(w.gw, 0, &stats);
    CHECK(stats.acks >= 2);
    CHECK_U64(world_count_events(&w, GW_DISCONNECTED), 0);
    CHECK_U64(world_count_events(&w, GW_POLLED_LATE), 0);
    world_end(&w);
}

static void *open_doomed(void *user, const char *host, uint16_t port)
{
    if (port == 8080) ((world *)user)->next_down = 1;
    return world_on_open(user, host, port);
}

/* lessons 4.5, "resume host: accept-then-close x N": the session is resumed at the cached URL
 * each time. */
TEST(resume_host_that_accepts_and_closes_costs_no_session)
{
    uint32_t i;
    world_init(&w);
    w.transport.open = open_doomed;
    world_begin(&w, NULL);
    WORLD_EXPECT(&w, GW_READY, 1000);
    for (i = 0; i < 6; i++) {
        world_advance(&w, 40000);
        world_do(&w, "cut");
        WORLD_EXPECT(&w, GW_RESUMED, 3000);
    }
    CHECK_U64(identifies(), 1);
    CHECK_U64(w.opens, 1 + 6 * 2);
    CHECK_U64(world_count_events(&w, GW_SESSION_LOST), 0);
    world_check_delivery(&w, 1);
    w.violations_expected = 6;                      /* resume_on_wrong_url: as intended */
    world_end(&w);
}

/* ... and where both hosts do so, the session waits until one of them answers. */
TEST(resume_both_hosts_that_accept_and_close_cost_no_session)
{
    world_init(&w);
    w.sim.session_ttl_ms = 100000000;
    world_begin(&w, NULL);
    WORLD_EXPECT(&w, GW_READY, 1000);
    world_script(&w, "next 20 cut");
    world_do(&w, "cut");
    WORLD_EXPECT(&w, GW_RESUMED, 1300000);
    CHECK_U64(w.opens, 1 + 20 + 1);
    CHECK_U64(identifies(), 1);
    CHECK_U64(world_count_events(&w, GW_SESSION_LOST), 0);
    world_end(&w);
}

/* lessons 4.5, "120-send burst with op 1 inside": the beat is answered at once, the 121st
 * payload waits (4008 never), and whenever the regular beats are due, no beat is missed for it. */
TEST(burst_of_120_leaves_room_for_the_beat_that_is_asked_for)
{
    uint64_t began_ms;
    uint32_t seed;
    for (seed = 1; seed <= 8; seed++) {
        int failures = check_failures;
        world_init(&w);
        w.random = seed;
        w.cfg.max_queued = 200;
        world_begin(&w, NULL);
        WORLD_EXPECT(&w, GW_READY, 1000);
        world_settle(&w);
        began_ms = world_sim_ms(&w);
        send_many(60);
        world_do(&w, "op1");
        send_many(60);
        CHECK_U64(world_count(&w, WORLD_EV("heartbeat"), "\"asked\":true"), 1);
        CHECK_U64(world_time(&w, "\"asked\":true", 0), began_ms);
        CHECK_U64(sent(), 117);
        world_advance(&w, 60000);
        CHECK_U64(sent(), 120);
        CHECK_U64(sent_ms(117), began_ms + 60000);
        world_advance(&w, 120000);
        CHECK_U64(world_count_events(&w, GW_DISCONNECTED), 0);
        world_end(&w);
        if (check_failures != failures) fprintf(stderr, "    seed %u\n", (unsigned)seed);
    }
}

/* A GUILD_CREATE of that many bytes that nobody has to hold: made while it is read. */
static uint64_t flood_at, flood_end;

static void lay(uint8_t *bytes, uint64_t from, uint32_t len, const char *part, uint64_t place)
{
    uint32_t i;
    for (i = 0; i < len; i++)
        if (from + i >= place && from + i < place + strlen(part))
            bytes[i] = (uint8_t)part[from + i - place];
}

static int32_t read_flood(void *user, void *handle, void *bytes, uint32_t len)
{
    static const char head[] = "{\"t\":\"GUILD_CREATE\",\"s\":4,\"op\":0,\"d\":{\"name\":\"";
    uint64_t i;
    if (flood_at == flood_end) return world_on_read(user, handle, bytes, len);
    if (len > flood_end - flood_at) len = (uint32_t)(flood_end - flood_at);
    memset(bytes, 'x', len);
    if (flood_at < 200) {
        uint8_t frame[10];
        frame[0] = 0x81;
        frame[1] = 127;
        for (i = 0; i < 8; i++) frame[2 + i] = (uint8_t)((flood_end - 10) >> (56 - 8 * i));
        for (i = flood_at; i < 10 && i - flood_at < len; i++)
            ((uint8_t *)bytes)[i - flood_at] = frame[i];
        lay((uint8_t *)bytes, flood_at, len, head, 10);
    }
    if (flood_at + len > flood_end - 3) lay((uint8_t *)bytes, flood_at, len, "\"}}", flood_end - 3);
    flood_at += len;
    ((world *)user)->moved += len;
    return (int32_t)len;
}

/* lessons 4.5, "100 MB GUILD_CREATE skipped": it costs no memory, its sequence counts, the
 * connection lives. */
TEST(guild_of_a_hundred_megabytes_is_passed_over)
{
    const world_event *skipped;
    gw_stats stats;
    uint64_t peak;
    world_init(&w);
    w.cfg.max_payload = 1024 * 1024;
    w.cfg.turn_bytes = 8 * 1024 * 1024;
    w.cfg.turn_us = 1000000;
    w.transport.read = read_flood;
    flood_at = flood_end = 0;
    world_begin(&w, NULL);
    WORLD_EXPECT(&w, GW_READY, 1000);
    world_settle(&w);
    gw_stats_read(w.gw, GW_ALL, &stats);
    peak = stats.memory_peak;
    flood_end = world_is_slow() ? 10000000 : 100000000;
    skipped = WORLD_EXPECT(&w, GW_SKIPPED, 10000);
    CHECK_U64(skipped->seq, 4);
    CHECK_U64(skipped->bytes, flood_end - 10);
    CHECK_TEXT(skipped->name, "GUILD_CREATE");
    gw_stats_read(w.gw, GW_ALL, &stats);
    CHECK(stats.memory_peak < peak + 3 * 1024 * 1024);
    CHECK_U64(stats.skipped, 1);
    world_do(&w, "event MESSAGE_CREATE {}");        /* the gateway's own 4 */
    world_do(&w, "event MESSAGE_UPDATE {}");
    CHECK_U64(WORLD_EXPECT(&w, GW_MESSAGE_UPDATE, 1000)->seq, 5);
    CHECK_U64(world_count_events(&w, GW_DISCONNECTED), 0);
    gw_stats_read(w.gw, GW_ALL, &stats);
    CHECK(stats.memory_now < peak + 100000);        /* and what it took came back */
    world_end(&w);
}

static uint64_t not_found;

static void read_not_found(world *x, const gw_event *event)
{
    (void)x;
    if (event->type != GW_GUILD_MEMBERS_CHUNK) return;
    CHECK_EQ(gw_kind_of(&event->d, "not_found.0"), GW_NUMBER);
    not_found = gw_u64(&event->d, "not_found.0");
}

/* lessons 4.5, "number as id in `not_found`": an id reads the same as a number and as a string. */
TEST(members_not_found_may_be_numbers)
{
    static const char d[] =
        "{\"guild_id\":\"838860800000000000\",\"user_ids\":[\"5\"],\"limit\":0}";
    not_found = 0;
    begin_live(NULL);
    w.on_event = read_not_found;
    CHECK(gw_send_raw(w.gw, 0, 8, d, strlen(d)) > 0);
    WORLD_EXPECT(&w, GW_GUILD_MEMBERS_CHUNK, 1000);
    CHECK_U64(not_found, 5);
    world_end(&w);
}

/* ---- typed commands; shards that are counted by Discord, or started and stopped by hand ---- */

#define GUILD UINT64_C(838860800000000000)      /* the world's first guild */

static void begin_members(gw_members *request)
{
    memset(request, 0, sizeof *request);
    request->guild_id = GUILD;
    begin_live(NULL);
}

/* lessons 4.1, "Identify queue": a waiter that is cancelled uses no permit. */
TEST(identify_waiter_that_is_stopped_uses_no_permit)
{
    uint64_t first_ms;
    begin_shards(3, 1);
    world_begin(&w, NULL);
    WORLD_EXPECT(&w, GW_READY, 1000);
    first_ms = identify_ms(0, 3, 0);
    world_advance(&w, 1000);
    CHECK_EQ(gw_shard_stop(w.gw, 1, GW_END), GW_OK);            /* the next in the queue */
    CHECK_EQ(WORLD_EXPECT(&w, GW_SHARD_STOPPED, 100)->shard, 1);
    CHECK_EQ(WORLD_EXPECT(&w, GW_READY, 6000)->shard, 2);
    CHECK_BETWEEN(identify_ms(2, 3, 0) - first_ms, 5000, 6000);
    CHECK_U64(identifies(), 2);
    world_end(&w);
}

/* lessons 4.1, "Identify queue": the same key twice, here by one shard that is stopped and
 * started again; and shards of one bucket go in the order of their ids. */
TEST(identify_of_a_shard_started_again_keeps_five_seconds)
{
    int i;
    begin_shards(3, 1);
    world_begin(&w, NULL);
    WORLD_EXPECT(&w, GW_READY, 1000);
    CHECK_EQ(gw_shard_stop(w.gw, 0, GW_END), GW_OK);
    WORLD_EXPECT(&w, GW_SHARD_STOPPED, 100);
    CHECK_EQ(gw_shard_start(w.gw, 0, NULL, 0), GW_OK);
    for (i = 0; i < 3; i++) CHECK_EQ(WORLD_EXPECT(&w, GW_READY, 7000)->shard, i);
    CHECK_U64(identifies(), 4);
    for (i = 0; i < 3; i++) {
        uint64_t gap_ms = world_time(&w, WORLD_EV("identify"), (size_t)i + 1) -
                          world_time(&w, WORLD_EV("identify"), (size_t)i);
        CHECK_BETWEEN(gap_ms, 5000, 6000);
    }
    world_end(&w);
}

/* lessons 4.2, "Shards": the count is what /gateway/bot recommends. */
TEST(shards_are_as_many_as_discord_recommends)
{
    int i;
    world_init(&w);
    w.cfg.url = NULL;
    w.cfg.shard_count = GW_ALL;
    w.sim.shards = w.sim.max_concurrency = 3;
    world_begin(&w, NULL);
    for (i = 0; i < 3; i++) WORLD_EXPECT(&w, GW_READY, 2000);
    for (i = 0; i < 3; i++) CHECK(identify_ms(i, 3, 0) != UINT64_MAX);
    CHECK_U64(world_count(&w, WORLD_EV("http"), BOT_PATH), 1);
    CHECK_EQ(gw_shard_live(w.gw, GW_ALL), 1);
    world_end(&w);
}

/* lessons 4.2, "Shards": a range up to the end, and a list: [2,3] of 4 keeps both. */
TEST(shards_by_range_and_by_list_keep_their_ids)
{
    uint32_t by_hand;
    for (by_hand = 0; by_hand < 2; by_hand++) {
        world_init(&w);
        w.cfg.shard_total = 4;
        w.cfg.max_concurrency = w.sim.max_concurrency = 4;
        if (!by_hand) {
            w.cfg.shard_first = 2;
            w.cfg.shard_count = GW_ALL;
        }
        world_begin(&w, NULL);
        world_settle(&w);
        if (by_hand) {
            CHECK_U64(w.opens, 0);
            CHECK_EQ(gw_shard_start(w.gw, 3, NULL, 0), GW_OK);
            CHECK_EQ(gw_shard_start(w.gw, 2, NULL, 0), GW_OK);
            CHECK_EQ(gw_shard_start(w.gw, 4, NULL, 0), GW_ERROR_ARGUMENT);
            CHECK_EQ(gw_shard_start(w.gw, 2, NULL, 0), GW_ERROR_ARGUMENT);
        }
        WORLD_EXPECT(&w, GW_READY, 1000);
        WORLD_EXPECT(&w, GW_READY, 1000);
        CHECK(identify_ms(2, 4, 0) != UINT64_MAX);
        CHECK(identify_ms(3, 4, 0) != UINT64_MAX);
        CHECK_U64(identifies(), 2);
        world_end(&w);
    }
}

/* lessons 4.2, "Worker" (destroy) and fix log (#9244): a shard that is stopped sends nothing any
 * more, the beat that was planned neither; the other one goes on. */
TEST(shards_stopped_one_is_silent_at_once)
{
    uint32_t how;
    for (how = GW_KEEP; how <= GW_END; how++) {
        const world_event *stopped;
        begin_shards(2, 2);
        w.transport.write = write_counted;
        world_begin(&w, NULL);
        WORLD_EXPECT(&w, GW_READY, 1000);
        WORLD_EXPECT(&w, GW_READY, 1000);
        world_settle(&w);
        CHECK_EQ(gw_shard_stop(w.gw, 1, how), GW_OK);
        CHECK_U64(open_streams(), 1);               /* within the call */
        stopped = WORLD_EXPECT(&w, GW_SHARD_STOPPED, 100);
        CHECK_EQ(stopped->shard, 1);
        CHECK_EQ(stopped->reason, GW_REASON_BY_CALLER);
        CHECK_U64(world_count(&w, WORLD_EV("close_received"), NULL), 1);
        CHECK_U64(world_count(&w, WORLD_EV("close_received"),
                              how == GW_END ? "\"code\":1000," : "\"code\":4000,"), 1);
        world_advance(&w, 120000);
        CHECK_U64(world_count(&w, WORLD_EV("heartbeat"), "\"conn\":1,"),
                  world_count(&w, WORLD_EV("heartbeat"), NULL));
        CHECK_EQ(gw_shard_live(w.gw, 0), 1);
        CHECK_EQ(gw_shard_stop(w.gw, 2, how), GW_ERROR_NOT_OUR_SHARD);
        world_end(&w);
    }
}

/* lessons 4.2, fix log (#9254): no close frame for a shard that is still connecting. */
TEST(shards_stopped_while_connecting_write_no_close_frame)
{
    begin_shards(2, 2);
    w.transport.write = write_counted;
    world_begin(&w, "on accept stall_http");
    world_advance(&w, 500);
    written = 0;
    CHECK_EQ(gw_shard_stop(w.gw, 0, GW_END), GW_OK);
    CHECK_EQ(WORLD_EXPECT(&w, GW_SHARD_STOPPED, 100)->shard, 0);
    CHECK_U64(written, 0);
    CHECK_U64(open_streams(), 1);
    world_end(&w);
}

/* lessons 4.3, "outstanding member-chunk requests dropped at READY" (#9571): the caller is told,
 * and does not wait. */
TEST(members_request_dies_with_its_session_and_says_so)
{
    gw_members request;
    const world_event *dropped;
    gw_ticket ticket;
    begin_members(&request);
    request.query = "user";
    w.mute = 1;                                     /* it leaves, and no answer comes */
    ticket = gw_request_members(w.gw, &request);
    CHECK(ticket > 0);
    world_settle(&w);
    w.mute = 0;
    world_script(&w, "on resume x1 op9 false");
    world_do(&w, "cut");
    dropped = WORLD_EXPECT(&w, GW_COMMAND_DROPPED, 10000);
    CHECK_EQ(dropped->ticket, ticket);
    CHECK_EQ(dropped->reason, GW_REASON_SESSION_GONE);
    WORLD_EXPECT(&w, GW_READY, 10000);
    world_advance(&w, 400000);
    CHECK_U64(world_count_events(&w, GW_COMMAND_DROPPED), 1);
    CHECK_U64(world_count(&w, WORLD_EV("send"), NULL), 0);
    world_end(&w);
}

/* ... while a Resume keeps it: the chunks are replayed. */
TEST(members_request_outlives_a_resume)
{
    gw_members request;
    begin_members(&request);
    request.query = "user";
    w.latency_ms = 500;
    CHECK(gw_request_members(w.gw, &request) > 0);
    world_settle(&w);
    CHECK_U64(sent(), 1);
    world_do(&w, "reset");                          /* the answer was on its way */
    w.latency_ms = 0;
    WORLD_EXPECT(&w, GW_GUILD_MEMBERS_CHUNK, 5000);
    WORLD_EXPECT(&w, GW_RESUMED, 100);
    world_advance(&w, 400000);
    CHECK_U64(world_count_events(&w, GW_COMMAND_DROPPED), 0);
    CHECK_U64(world_count_events(&w, GW_GUILD_MEMBERS_CHUNK), 1);
    world_end(&w);
}

/* lessons 4.4, discordgo: a status update is accepted; Concord (#139): so is one of five long
 * activities, whole. */
TEST(presence_of_five_long_activities_arrives_whole)
{
    static char names[5][600], line[8192];
    gw_activity activities[5];
    gw_presence presence;
    size_t i;
    memset(activities, 0, sizeof activities);
    memset(&presence, 0, sizeof presence);
    begin_live(NULL);
    CHECK(gw_set_presence(w.gw, GW_ALL, &presence) > 0);
    world_settle(&w);
    CHECK(world_line(&w, WORLD_EV("send"), "\"op\":3,\"d\":" PRESENCE, 0, line, sizeof line));
    for (i = 0; i < 5; i++) {
        memset(names[i], 'a' + (int)i, sizeof names[i] - 1);
        activities[i].name = names[i];
    }
    presence.activities = activities;
    presence.activity_count = 5;
    CHECK(gw_set_presence(w.gw, 0, &presence) > 0);
    world_settle(&w);
    for (i = 0; i < 5; i++) CHECK(world_line(&w, WORLD_EV("send"), names[i], 0, line, sizeof line));
    presence.activity_count = 0;
    presence.status = "away";
    CHECK_EQ(gw_set_presence(w.gw, 0, &presence), GW_ERROR_ARGUMENT);
    CHECK_U64(world_count_events(&w, GW_DISCONNECTED), 0);
    world_end(&w);
}

/* lessons 4.4, DPP: a string that is no UTF-8 wedges nothing: it never leaves. */
TEST(commands_refuse_text_that_is_not_utf8)
{
    gw_members request;
    gw_activity activity;
    gw_presence presence;
    memset(&activity, 0, sizeof activity);
    memset(&presence, 0, sizeof presence);
    begin_members(&request);
    activity.name = "caf\xE9";
    presence.activities = &activity;
    presence.activity_count = 1;
    CHECK_EQ(gw_set_presence(w.gw, 0, &presence), GW_ERROR_ARGUMENT);
    request.query = "\xC3(";
    CHECK_EQ(gw_request_members(w.gw, &request), GW_ERROR_ARGUMENT);
    request.query = "user";
    request.nonce = "\xED\xA0\x80";
    CHECK_EQ(gw_request_members(w.gw, &request), GW_ERROR_ARGUMENT);
    world_settle(&w);
    CHECK_U64(sent(), 0);
    request.nonce = NULL;
    CHECK(gw_request_members(w.gw, &request) > 0);
    WORLD_EXPECT(&w, GW_GUILD_MEMBERS_CHUNK, 1000);
    CHECK_U64(world_count_events(&w, GW_DISCONNECTED), 0);
    world_end(&w);
}

/* lessons 4.4, Concord `racecond.c`: shards that are stopped and started under load, commands in
 * between. */
TEST(shards_started_and_stopped_under_load_come_back)
{
    uint32_t i, stopped = 0;
    gw_presence presence;
    memset(&presence, 0, sizeof presence);
    begin_shards(2, 2);
    w.sim.event_rate = 50;
    w.sim.session_ttl_ms = 100000000;
    world_begin(&w, NULL);
    WORLD_EXPECT(&w, GW_READY, 1000);
    WORLD_EXPECT(&w, GW_READY, 1000);
    for (i = 0; i < 60; i++) {
        int32_t shard = (int32_t)(i / 2 % 2);
        world_advance(&w, 50 + i % 7 * 200);
        CHECK(gw_set_presence(w.gw, GW_ALL, &presence) > 0);
        if (i % 2 == 0) {
            CHECK_EQ(gw_shard_stop(w.gw, shard, i % 4 ? GW_KEEP : GW_END), GW_OK);
            stopped++;
        } else {
            CHECK_EQ(gw_shard_start(w.gw, shard, NULL, 0), GW_OK);
        }
    }
    world_do(&w, "rate 0");
    world_advance(&w, 130000);
    CHECK_EQ(gw_shard_live(w.gw, GW_ALL), 1);
    CHECK_U64(world_count_events(&w, GW_SHARD_STOPPED), stopped);
    CHECK_U64(world_count_events(&w, GW_FATAL), 0);
    CHECK_U64(open_streams(), 2);
    world_end(&w);
}

/* lessons 4.5, "number as id in `not_found`", by the typed request. */
TEST(members_request_by_ids_tells_what_was_not_found)
{
    static const uint64_t ids[] = { 5 };
    gw_members request;
    not_found = 0;
    begin_members(&request);
    w.on_event = read_not_found;
    request.user_ids = ids;
    request.user_id_count = 1;
    CHECK(gw_request_members(w.gw, &request) > 0);
    WORLD_EXPECT(&w, GW_GUILD_MEMBERS_CHUNK, 1000);
    CHECK_U64(not_found, 5);
    world_end(&w);
}

/* lessons 4.5, "budget < shards", where Discord says how many shards there are. */
TEST(shards_recommended_beyond_the_budget_wait_for_the_reset)
{
    int i;
    world_init(&w);
    w.cfg.url = NULL;
    w.cfg.shard_count = GW_ALL;
    w.sim.shards = w.sim.max_concurrency = 3;
    w.sim.remaining = 1;
    w.sim.reset_after_ms = 3600000;
    world_begin(&w, NULL);
    WORLD_EXPECT(&w, GW_READY, 1000);
    world_advance(&w, 3590000);
    CHECK_U64(identifies(), 1);
    CHECK_U64(world_count_events(&w, GW_IDENTIFY_HELD), 2);
    for (i = 0; i < 2; i++) WORLD_EXPECT(&w, GW_READY, 20000);
    world_end(&w);
}

CHECK_MAIN()
