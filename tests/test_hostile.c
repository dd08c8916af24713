/* What a hostile gateway could do to a client, each found by an attack and mended since: bytes,
 * counts and hours, on a virtual clock, against a peer that a test scripts itself. With TLS inside:
 * test_hostile_tls.c. */
static char api_url[] = "http://127.0.0.1:9000";
#define GW_API_URL api_url
#define DISCORD_GATEWAY_IMPLEMENTATION
#include "discord_gateway.h"
#include "hostile.h"

#define HOUR_MS UINT64_C(3600000)
#define DAY_MS UINT64_C(86400000)

static foe f;

/* The usual script: Hello, ACKs, READY, RESUMED. */
static void say_hello(foe_stream *s) { foe_send(s, FOE_HELLO); }

static void serve_well(foe_stream *s, int op, const char *text)
{
    (void)text;
    if (op == 1) foe_send(s, "{\"op\":11}");
    if (op == 2) foe_send(s, FOE_READY, "abc", FOE_RESUME_URL);
    if (op == 6) foe_send(s, "{\"t\":\"RESUMED\",\"s\":3,\"op\":0,\"d\":{}}");
}

static void foe_init_well(void)
{
    foe_init(&f);
    f.on_open = say_hello;
    f.on_payload = serve_well;
}

static void end_all_streams(void)
{
    foe_stream *s;
    for (s = f.streams; s; s = s->next) s->ended = 1;
}

/* ---- Identifies: never more than 1,000 in any 24 hours ---- */
static void take_identify_and_close(foe_stream *s, int op, const char *text)
{
    if (op == 2 && f.mode) s->ended = 1;
    else if (op == 6) foe_send(s, "{\"op\":9,\"d\":false}");
    else serve_well(s, op, text);
}

/* The server's window is always full, and always about to be filled again. */
static int say_that_all_is_left(foe_stream *s, const char *request)
{
    if (!strstr(request, "gateway/bot")) return 0;
    foe_answer_info(s, 1, 1000, 1000, 1);
    return 1;
}

/* Good for 15 hours, then each Identify is taken and the connection closed. */
static void count_a_day(int by_discover, int restarts)
{
    static char text[GW_SESSION_MAX * 2];
    uint32_t i;
    foe_init_well();
    f.on_payload = take_identify_and_close;
    f.on_request = say_that_all_is_left;
    if (by_discover) f.cfg.url = NULL;
    if (!foe_begin(&f)) return;
    foe_run(&f, 15 * HOUR_MS);
    CHECK_U64(f.identifies, 1);
    f.mode = 1;
    end_all_streams();
    for (i = 0; i < 33; i++) {
        foe_run(&f, HOUR_MS);
        if (!restarts) continue;
        f.cfg.session_len = gw_session_save(f.gw, GW_ALL, text, sizeof text);
        f.cfg.session = text;
        gw_close(f.gw);
        f.gw = gw_open(&f.cfg);
    }
    CHECK(f.identifies > 500);
    CHECK(f.identifies < FOE_MOMENTS);
    CHECK(foe_most_in(f.identify_ms, f.identifies, DAY_MS) <= 1000);
    foe_end(&f);
}

TEST(hostile_1000_identifies_in_any_24_hours_at_most)               { count_a_day(0, 0); }
TEST(hostile_1000_identifies_at_most_whatever_the_server_says)      { count_a_day(1, 0); }
TEST(hostile_1000_identifies_at_most_over_restarts)                 { count_a_day(0, 1); }
TEST(hostile_1000_identifies_at_most_over_restarts_with_discover)   { count_a_day(1, 1); }

/* ---- max_concurrency changes while a shard is on its way with the permit ---- */
static int healthy, asked;

static int change_concurrency(foe_stream *s, const char *request)
{
    int from = f.mode ? 2 : 1, to = f.mode ? 1 : 2;
    const gw__shard *one = f.gw->shards[1];
    if (!strstr(request, "gateway/bot")) {
        if (healthy) return 0;
        if (asked == 2 && one->has_permit) return 2;                /* slow to answer the upgrade */
        foe_answer(s, "503 x", "");
        return 1;
    }
    if (healthy) { foe_answer_info(s, 2, 1000, 86400000, to); return 1; }
    if (s->step++ == 0) asked++;
    if (asked == 1) { foe_answer_info(s, 2, 1000, 86400000, from); return 1; }
    if (!one->has_permit) return 2;
    foe_answer_info(s, 2, 1000, 86400000, to);
    healthy = 1;
    return 1;
}

static void change_concurrency_in_flight(uint32_t lowered, uint64_t seed)
{
    uint32_t i;
    foe_init_well();
    f.random = seed;
    f.mode = lowered;
    healthy = asked = 0;
    f.on_request = change_concurrency;
    f.cfg.url = NULL;
    f.cfg.shard_count = f.cfg.shard_total = 2;
    if (!foe_begin(&f)) return;
    for (i = 0; i < 60000 && !healthy; i++) foe_run(&f, 10);
    CHECK(healthy);
    foe_run(&f, 10 * 60000);
    CHECK_EQ(gw_shard_live(f.gw, 0), 1);
    CHECK_EQ(gw_shard_live(f.gw, 1), 1);
    CHECK_U64(f.gw->shared.gate.promised, 0);
    CHECK_U64(f.gw->shared.gate.concurrency, lowered ? 1 : 2);
    foe_end(&f);
}

TEST(hostile_max_concurrency_raised_while_a_permit_is_out_locks_no_bucket)
{
    uint64_t seed;
    for (seed = 1; seed <= 5; seed++) change_concurrency_in_flight(0, seed);
}

TEST(hostile_max_concurrency_lowered_while_a_permit_is_out_locks_no_bucket)
{
    uint64_t seed;
    for (seed = 1; seed <= 5; seed++) change_concurrency_in_flight(1, seed);
}

/* ---- sessions that cannot be resumed, or do not last ---- */
enum { NO_ID, LONG_ID, NUMBER_ID, NO_SEQ, LIVES_2_S, NO_ID_NO_EVENT, OP9, MODES };

static void lose_sessions(foe_stream *s, int op, const char *text)
{
    char id[130];
    if (op != 2) { if (op == 6) s->ended = 1; else serve_well(s, op, text); return; }
    memset(id, 'x', 120);
    id[120] = 0;
    switch (f.mode) {
    case LONG_ID:   foe_send(s, FOE_READY, id, FOE_RESUME_URL); break;
    case NUMBER_ID:
        foe_send(s, "{\"t\":\"READY\",\"s\":1,\"op\":0,\"d\":{\"session_id\":7,\"user\":[]}}");
        break;
    case NO_SEQ:
        foe_send(s, "{\"t\":\"READY\",\"s\":null,\"op\":0,\"d\":{\"session_id\":\"abc\"}}");
        break;
    case OP9:       foe_send(s, FOE_READY, "abc", FOE_RESUME_URL); break;
    default:        foe_send(s, FOE_READY, "", FOE_RESUME_URL); break;
    }
    switch (f.mode) {
    case NO_ID_NO_EVENT: s->ended = 1; break;
    case OP9: foe_send(s, "{\"op\":9,\"d\":false}"); s->ended = 1; break;
    case LIVES_2_S:
        s->step = 1;
        s->due_ms = foe_ms(&f) + 2000;
        f.wake_us = s->due_ms * 1000u;
        break;
    default:
        foe_send_event(s, 2);
        s->ended = 1;
        break;
    }
}

static void end_after_2_s(foe *any)
{
    foe_stream *s;
    for (s = any->streams; s; s = s->next) {
        if (s->step != 1 || foe_ms(any) < s->due_ms) continue;
        s->step = 2;
        foe_send_event(s, 2);
        s->ended = 1;
    }
}

TEST(hostile_sessions_that_do_not_last_cost_few_identifies_and_are_told_of)
{
    uint32_t mode;
    for (mode = 0; mode < MODES; mode++) {
        foe_init_well();
        f.mode = mode;
        f.on_payload = lose_sessions;
        f.on_tick = end_after_2_s;
        f.clock_tick_us = 50;
        if (!foe_begin(&f)) return;
        foe_run(&f, HOUR_MS);
        /* The wait doubles up to a minute; with jitter that is half a minute. Up to 3 Resumes come
         * before an Identify. */
        if (!CHECK(f.identifies >= 60 && f.identifies <= 150) || !CHECK(f.opens <= 600))
            fprintf(stderr, "mode %u: %llu Identifies, %llu connections\n", (unsigned)mode,
                    (unsigned long long)f.identifies, (unsigned long long)f.opens);
        /* of each that was live, but the one that may be going on */
        if (!CHECK(f.seen[GW_SESSION_LOST] + 1 >= f.seen[GW_READY]) || !CHECK(f.seen[GW_READY] > 0))
            fprintf(stderr, "mode %u: %u READY, %u SESSION_LOST\n", (unsigned)mode,
                    (unsigned)f.seen[GW_READY], (unsigned)f.seen[GW_SESSION_LOST]);
        foe_end(&f);
    }
}

/* ---- /gateway/bot ---- */
static int take_gateway_bot(foe_stream *s, const char *request)
{
    if (!strstr(request, "gateway/bot")) return 0;
    s->step = 1;
    return 1;
}

static void flood_with_1xx(foe *any)
{
    foe_stream *s;
    uint32_t i;
    for (s = any->streams; s; s = s->next)
        for (i = 0; s->step == 1 && i < 2000 && lb_len(&s->out) < 65536; i++)
            foe_say_text(s, "HTTP/1.1 102 go on waiting\r\n\r\n");
}

TEST(hostile_gateway_bot_under_endless_1xx_answers_ends)
{
    foe_init_well();
    f.cfg.url = NULL;
    f.on_request = take_gateway_bot;
    f.on_tick = flood_with_1xx;
    if (!foe_begin(&f)) return;
    for (; f.now_us < 1045000000u && !f.seen[GW_DISCONNECTED]; f.now_us += 1000) foe_turn(&f, 100);
    CHECK_U64(f.seen[GW_DISCONNECTED], 1);
    CHECK(f.turn_bytes_most <= 65536 + 2 * 32768);
    foe_end(&f);
}

/* ---- commands: each arrives once, or comes back ---- */
static const char small[] = "{\"x\":1}";

TEST(hostile_a_command_and_a_failing_allocator)
{
    uint32_t k;
    for (k = 1; k <= 12; k++) {
        gw_ticket ticket;
        foe_init_well();
        if (!foe_begin(&f)) return;
        foe_run(&f, 1000);
        f.fail_at = f.allocations + k;
        f.fail_count = 1;
        ticket = gw_send_raw(f.gw, 0, 3, small, strlen(small));
        if (ticket < 0) { CHECK_EQ(ticket, GW_ERROR_NO_MEMORY); CHECK(gw_why(f.gw)[0]); }
        foe_run(&f, 400000);
        CHECK_U64(f.arrived + f.seen[GW_COMMAND_DROPPED], ticket > 0 ? 1 : 0);
        CHECK_EQ(gw_shard_live(f.gw, 0), 1);
        foe_end(&f);
    }
}

TEST(hostile_a_command_and_a_dead_socket)
{
    foe_init_well();
    if (!foe_begin(&f)) return;
    foe_run(&f, 1000);
    CHECK(gw_send_raw(f.gw, 0, 3, small, strlen(small)) > 0);
    f.write_fails = 1;
    while (foe_poll(&f)) { }
    f.write_fails = 0;
    end_all_streams();
    foe_run(&f, 400000);
    CHECK_U64(f.resumes, 1);
    CHECK_U64(f.arrived + f.seen[GW_COMMAND_DROPPED], 1);
    foe_end(&f);
}

TEST(hostile_gw_all_is_all_or_none)
{
    uint32_t k, refused = 0;
    for (k = 1; k <= 8; k++) {
        gw_ticket ticket;
        foe_init_well();
        f.cfg.shard_count = f.cfg.shard_total = 3;
        if (!foe_begin(&f)) return;
        foe_run(&f, 30000);
        CHECK_EQ(gw_shard_live(f.gw, GW_ALL), 1);
        f.fail_at = f.allocations + k;
        f.fail_count = 1;
        ticket = gw_send_raw(f.gw, GW_ALL, 3, small, strlen(small));
        f.fail_at = 0;
        foe_run(&f, 400000);
        refused += ticket < 0;
        CHECK_U64(f.arrived, ticket > 0 ? 3 : 0);
        CHECK_U64(f.seen[GW_COMMAND_DROPPED], 0);
        foe_end(&f);
    }
    CHECK(refused >= 3);
}

TEST(hostile_gw_all_with_one_full_queue_is_none)
{
    uint32_t i;
    foe_init_well();
    f.cfg.shard_count = f.cfg.shard_total = 2;
    f.cfg.max_queued = 4;
    f.on_open = NULL;                               /* no Hello: nothing leaves */
    if (!foe_begin(&f)) return;
    foe_run(&f, 100);
    for (i = 0; i < 4; i++) CHECK(gw_send_raw(f.gw, 1, 3, small, strlen(small)) > 0);
    CHECK_EQ(gw_send_raw(f.gw, GW_ALL, 3, small, strlen(small)), GW_ERROR_QUEUE_FULL);
    CHECK_U64(f.gw->shards[0]->send.count, 0);
    CHECK_U64(f.gw->shards[1]->send.count, 4);
    foe_end(&f);
}

/* ---- words of the peer ---- */
static void ask_for_125_beats(foe_stream *s)
{
    uint32_t i;
    for (i = 0; i < 125; i++) foe_send(s, "{\"op\":1,\"d\":null}");
    foe_send(s, FOE_HELLO);
}

TEST(hostile_125_heartbeats_asked_for_before_hello_are_a_broken_protocol)
{
    foe_init_well();
    f.on_open = ask_for_125_beats;
    if (!foe_begin(&f)) return;
    foe_run(&f, 1000);
    CHECK(f.seen[GW_DISCONNECTED] >= 1);
    CHECK_EQ(f.last_reason, GW_REASON_PROTOCOL);
    CHECK_HAS(f.last_message, "120 heartbeats");
    CHECK(f.beats <= 120 * (uint64_t)f.seen[GW_OPENED]);
    CHECK_U64(f.identifies, 0);
    foe_end(&f);
}

static void say_the_token(foe_stream *s, int op, const char *text)
{
    serve_well(s, op, text);
    if (op != 2) return;
    foe_send(s, "{\"t\":\"%s\",\"s\":2,\"op\":0,\"d\":{}}", FOE_TOKEN);
    foe_send(s, "{\"t\":\"A %s B\",\"s\":3,\"op\":0,\"d\":{}}", FOE_TOKEN);
    foe_send(s, "{\"t\":\"%c\\u%04x%s\",\"s\":4,\"op\":0,\"d\":{}}", FOE_TOKEN[0],
             (unsigned)FOE_TOKEN[1], &FOE_TOKEN[2]);
}

TEST(hostile_a_dispatch_named_by_the_token_does_not_show_it)
{
    foe_init_well();
    f.on_payload = say_the_token;
    if (!foe_begin(&f)) return;
    foe_run(&f, 1000);
    CHECK_U64(f.seen[GW_UNKNOWN_DISPATCH], 3);
    CHECK_U64(f.seen[GW_DISCONNECTED], 0);
    CHECK(!strstr(f.last_name, "MTA5ODc2NTQz"));
    foe_end(&f);                                    /* looks at all texts for it */
}

TEST(hostile_max_payload_1_still_reads_hello)
{
    foe_init_well();
    f.cfg.max_payload = 1;
    if (!foe_begin(&f)) return;
    foe_run(&f, 200000);
    CHECK_U64(f.identifies, 1);
    CHECK_U64(f.seen[GW_DISCONNECTED], 0);
    CHECK(f.beats >= 3);
    foe_end(&f);
}

/* ---- a peer that never reads, but asks for heartbeats ---- */
TEST(hostile_a_peer_that_reads_nothing_is_left)
{
    uint32_t minutes, i;
    foe_init_well();
    if (!foe_begin(&f)) return;
    foe_run(&f, 1000);
    f.peak_bytes = 0;
    f.write_full = 1;
    for (minutes = 0; minutes < 24 * 60 && !f.seen[GW_DISCONNECTED]; minutes++) {
        for (i = 0; i < 118; i++) foe_send(f.streams, "{\"op\":1,\"d\":null}");
        for (i = 0; i < 2 && !f.seen[GW_DISCONNECTED]; i++) {
            foe_send(f.streams, "{\"op\":11}");
            foe_run(&f, 30000);
        }
    }
    CHECK_U64(f.seen[GW_DISCONNECTED], 1);
    CHECK(minutes < 60);
    CHECK_EQ(f.last_reason, GW_REASON_NO_ACK);
    CHECK(f.peak_bytes < 400000);
    f.write_full = 0;
    foe_run(&f, 120000);
    CHECK(f.opens >= 2);
    CHECK_EQ(gw_shard_live(f.gw, 0), 1);
    foe_end(&f);
}

/* ---- writing fails first, but why has been said already ---- */
static void hear_4014_after_a_failed_write(int at_identify)
{
    foe_init_well();
    if (at_identify) f.on_payload = NULL;
    if (!foe_begin(&f)) return;
    foe_run(&f, at_identify ? 100 : 1000);
    f.write_fails = 1;
    foe_send_close(f.streams, 4014);
    end_all_streams();
    gw_send_raw(f.gw, 0, 3, small, strlen(small));
    foe_run(&f, 20000);
    CHECK_U64(f.seen[GW_FATAL], 1);
    CHECK_EQ(f.last_close_code, 4014);
    CHECK_HAS(f.last_message, "4014");
    CHECK_U64(f.seen[GW_CLOSED], 1);
    foe_end(&f);
}

TEST(hostile_a_close_code_behind_a_failed_write_is_heard)     { hear_4014_after_a_failed_write(0); }
TEST(hostile_a_close_code_behind_a_failed_handshake_is_heard) { hear_4014_after_a_failed_write(1); }

CHECK_MAIN()
