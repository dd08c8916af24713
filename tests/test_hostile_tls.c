/* What a hostile gateway could do to a client below its WebSocket: records behind the end, records
 * without content, handshakes without end. BearSSL's server is in this process, the clock virtual;
 * what gw_poll() costs is counted in bytes. Without TLS: test_hostile.c. */
static char api_url[] = "https://127.0.0.1:9000";
#define GW_API_URL api_url
#define DISCORD_GATEWAY_IMPLEMENTATION
#include "discord_gateway.h"
#include "hostile.h"
#include <signal.h>
#include <unistd.h>

/* One gw_poll(): the budget of a turn, and what is read ahead. A turn: the same. */
#define POLL_BYTES_MOST (65536u + 2 * 32768u)

static foe f;

static void say_hello(foe_stream *s) { foe_send(s, FOE_HELLO); }

static void serve_well(foe_stream *s, int op, const char *text)
{
    (void)text;
    if (op == 1) foe_send(s, "{\"op\":11}");
    if (op == 2) foe_send(s, FOE_READY, "abc", "wss://127.0.0.1:8080");
    if (op == 6) foe_send(s, "{\"t\":\"RESUMED\",\"s\":3,\"op\":0,\"d\":{}}");
}

/* A gw_poll() that does not come back would hang the whole suite. */
static void give_up(int signal_number)
{
    static const char text[] = "test_hostile_tls: gw_poll() does not come back\n";
    (void)signal_number;
    if (write(2, text, sizeof text - 1) < 0) _exit(2);
    _exit(1);
}

static void foe_init_secure(void)
{
    foe_init(&f);
    f.secure = 1;
    f.on_open = say_hello;
    f.on_payload = serve_well;
    signal(SIGALRM, give_up);
    alarm(lb_is_slow() ? 250 : 60);
}

static int foe_begin_live(void)
{
    foe_init_secure();
    if (!foe_begin(&f)) return 0;
    foe_run(&f, 1000);
    return CHECK_EQ(gw_shard_live(f.gw, 0), 1);
}

static void foe_end_secure(void)
{
    CHECK(f.poll_bytes_most <= POLL_BYTES_MOST);
    CHECK(f.turn_bytes_most <= POLL_BYTES_MOST);
    foe_end(&f);
    alarm(0);
}

TEST(hostile_tls_serves_as_usual)
{
    if (!foe_begin_live()) return;
    foe_run(&f, 200000);
    CHECK(f.beats >= 4);
    CHECK_U64(f.seen[GW_DISCONNECTED], 0);
    f.streams->ended = 1;
    foe_run(&f, 5000);
    CHECK_U64(f.resumes, 1);
    CHECK_U64(f.seen[GW_RESUMED], 1);
    foe_end_secure();
}

/* ---- behind close_notify ---- */
static void say_behind_the_end(const void *bytes, size_t len, uint32_t records, uint32_t read_most)
{
    uint32_t i;
    if (!foe_begin_live()) return;
    f.read_most = read_most;
    foe_record(f.streams, FOE_ALERT, "\1\0", 2);        /* close_notify: a warning, number 0 */
    foe_wire(f.streams, bytes, len);
    for (i = 0; i < records; i++) foe_record(f.streams, FOE_APPLICATION_DATA, "\x8a\0", 2);
    foe_run(&f, 5000);
    CHECK_U64(f.seen[GW_DISCONNECTED], 1);
    CHECK_EQ(f.last_reason, GW_REASON_LOST);
    CHECK_U64(f.seen[GW_RESUMED], 1);
    foe_end_secure();
}

TEST(hostile_tls_close_notify_and_nothing_behind_it) { say_behind_the_end("", 0, 0, 0); }
TEST(hostile_tls_a_byte_behind_close_notify)         { say_behind_the_end("x", 1, 0, 0); }
TEST(hostile_tls_a_byte_behind_close_notify_slowly)  { say_behind_the_end("x", 1, 0, 1); }
TEST(hostile_tls_a_record_behind_close_notify)       { say_behind_the_end("", 0, 1, 0); }
TEST(hostile_tls_a_record_behind_close_notify_slowly) { say_behind_the_end("", 0, 1, 1); }
TEST(hostile_tls_many_records_behind_close_notify)   { say_behind_the_end("", 0, 3000, 0); }
TEST(hostile_tls_junk_behind_close_notify)           { say_behind_the_end("GET / HTTP", 10, 0, 0); }

/* ---- floods: what the peer sends is made while it is read ---- */
static const char *flood_bytes;
static size_t flood_len;
static uint8_t flood_type;
static uint32_t flood_left;

static void flood(foe *any)
{
    foe_stream *s = any->streams;
    for (; s && flood_left && lb_len(&s->out) < 200000; flood_left--)
        if (!foe_record(s, flood_type, flood_bytes, flood_len)) break;
}

static void flood_with(uint8_t type, const char *bytes, size_t len, uint32_t records)
{
    if (!foe_begin_live()) return;
    flood_type = type;
    flood_bytes = bytes;
    flood_len = len;
    flood_left = records;
    f.on_tick = flood;
    while (flood_left && !f.seen[GW_DISCONNECTED]) {
        foe_turn(&f, 100);
        f.now_us += 100;
    }
    f.on_tick = NULL;
    CHECK(f.poll_bytes_most > 0);
}

/* They are no news, and no harm. */
static void flood_is_passed_over(uint8_t type, const char *bytes, size_t len, uint32_t records)
{
    flood_with(type, bytes, len, records);
    foe_run(&f, 100);
    CHECK_U64(flood_left, 0);
    foe_send_event(f.streams, 2);
    foe_run(&f, 100);
    CHECK_U64(f.seen[GW_GUILD_CREATE], 1);
    CHECK_U64(f.seen[GW_DISCONNECTED], 0);
    CHECK(f.peak_bytes < 200000);
    foe_end_secure();
}

TEST(hostile_tls_empty_records_by_the_million_cost_a_turn_each)
{
    flood_is_passed_over(FOE_APPLICATION_DATA, "", 0, foe_scale(1000000, 20000));
}

TEST(hostile_tls_warning_alerts_by_the_million_cost_a_turn_each)
{
    flood_is_passed_over(FOE_ALERT, "\1\x5a", 2, foe_scale(1000000, 20000));
}

/* HelloRequests: each is answered by a "no renegotiation", after which BearSSL's server is silent.
 * Of several in one record BearSSL's client reads the first and is deaf from then on. */
static void ask_for_handshakes(uint32_t a_record, uint32_t records)
{
    static char zeroes[16384];
    flood_with(FOE_HANDSHAKE, zeroes, 4u * a_record, records);
    foe_run(&f, 1000);
    if (a_record > 1) {
        CHECK_U64(f.seen[GW_RESUMED], 1);
        CHECK_EQ(f.last_reason, GW_REASON_TLS_PROTOCOL);
        CHECK_HAS(f.last_message, "handshakes");
    } else CHECK_U64(flood_left, 0);
    foe_run(&f, 200000);
    CHECK_EQ(gw_shard_live(f.gw, 0), 1);
    CHECK_U64(f.seen[GW_RESUMED], 1);
    CHECK_U64(f.opens, 2);
    CHECK(f.peak_bytes < 300000);
    foe_end_secure();
}

TEST(hostile_tls_a_hello_request)                        { ask_for_handshakes(1, 1); }
TEST(hostile_tls_four_hello_requests_in_one_record)      { ask_for_handshakes(4, 1); }
TEST(hostile_tls_a_thousand_hello_requests_in_a_record)  { ask_for_handshakes(1000, 1); }
TEST(hostile_tls_hello_requests_by_the_thousand)         { ask_for_handshakes(1, 5000); }
TEST(hostile_tls_records_full_of_hello_requests)         { ask_for_handshakes(1000, 20); }

TEST(hostile_tls_hello_requests_and_a_peer_that_reads_nothing)
{
    static char zeroes[4000];
    uint32_t i;
    if (!foe_begin_live()) return;
    f.write_full = 1;
    for (i = 0; i < 100; i++) foe_record(f.streams, FOE_HANDSHAKE, zeroes, sizeof zeroes);
    foe_run(&f, 10 * 60000);
    CHECK(f.seen[GW_DISCONNECTED] >= 1);
    CHECK(f.peak_bytes < 300000);
    foe_end_secure();
}

TEST(hostile_tls_hello_requests_and_a_write_that_fails)
{
    static char zeroes[4000];
    uint32_t i;
    if (!foe_begin_live()) return;
    f.write_fails = 1;
    for (i = 0; i < 100; i++) foe_record(f.streams, FOE_HANDSHAKE, zeroes, sizeof zeroes);
    foe_run(&f, 100);
    CHECK(f.seen[GW_DISCONNECTED] >= 1);
    CHECK_EQ(f.last_reason, GW_REASON_LOST);
    f.write_fails = 0;
    foe_run(&f, 60000);
    CHECK_EQ(gw_shard_live(f.gw, 0), 1);
    foe_end_secure();
}

static void read_later(uint32_t requests)
{
    uint32_t i;
    if (!foe_begin_live()) return;
    f.write_full = 1;
    for (i = 0; i < requests; i++) foe_record(f.streams, FOE_HANDSHAKE, "\0\0\0", 4);
    foe_send_event(f.streams, 2);
    foe_run(&f, 20000);                             /* no hot loop meanwhile: foe_end() looks */
    CHECK_U64(f.seen[GW_DISCONNECTED], 0);
    f.write_full = 0;
    gw_wake(f.gw);                                  /* as a transport without descriptors does */
    foe_run(&f, 10);
    CHECK_U64(f.seen[GW_GUILD_CREATE], requests == 1);
    CHECK_U64(f.seen[GW_RESUMED], requests > 1);
    CHECK_EQ(gw_shard_live(f.gw, 0), 1);
    foe_end_secure();
}

TEST(hostile_tls_a_hello_request_and_a_peer_that_reads_later)      { read_later(1); }
TEST(hostile_tls_hello_requests_and_a_peer_that_reads_later)       { read_later(10); }

/* ---- before there is anything to decrypt ---- */
static void flood_with_alerts_in_the_clear(foe *any)
{
    foe_stream *s;
    uint32_t i;
    for (s = any->streams; s; s = s->next)
        for (i = 0; i < 60000 && lb_len(&s->out) < 400000; i++)     /* more than a turn can read */
            foe_wire(s, "\x15\x03\x03\x00\x02\x01\x5a", 7);
}

static void flood_the_handshake(int of_discover)
{
    uint64_t stop_us;
    foe_init_secure();
    f.secure = 0;                                   /* the peer speaks no TLS but these alerts */
    f.cfg.ca_file = lb_cert_path("ca.pem");
    f.cfg.url = of_discover ? NULL : "wss://127.0.0.1/";
    f.clock_tick_us = 50;
    f.on_tick = flood_with_alerts_in_the_clear;
    if (!foe_begin(&f)) return;
    for (stop_us = f.now_us + 70000000u; f.now_us < stop_us && !f.seen[GW_DISCONNECTED];
         f.now_us += 20000) foe_turn(&f, 100);
    CHECK_U64(f.seen[GW_DISCONNECTED], 1);
    CHECK(f.now_us - 1000000000u >= 15000000u);
    CHECK(f.now_us - 1000000000u <= (of_discover ? 45000000u : 65000000u));
    CHECK_EQ(f.last_reason, GW_REASON_TIMEOUT);
    f.on_tick = NULL;
    foe_end_secure();
}

TEST(hostile_tls_endless_alerts_in_place_of_a_handshake_end)       { flood_the_handshake(0); }
TEST(hostile_tls_endless_alerts_to_gateway_bot_end)                { flood_the_handshake(1); }

CHECK_MAIN()
