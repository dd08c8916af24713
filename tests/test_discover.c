/* The room discover: GET /gateway/bot against a web site in memory (config.transport) with the clock moved by hand, and
 * once over real sockets. GW_API_URL is a variable here. */
static char api_url[160] = "http://127.0.0.1:9";
#define GW_API_URL api_url
#define DISCORD_GATEWAY_IMPLEMENTATION
#include "discord_gateway.h"
#include "check.h"
#include "loopback.h"

#define TOKEN "MTA5ODc2NTQzMjEwOTg3NjU0Mw.GabcDE.thisTokenMustNeverBeSeenInAnyText"
#define API_PORT 9
#define GOOD_URL "ws://127.0.0.1:8080"
#define GOOD_BODY "{\"url\":\"" GOOD_URL "\",\"shards\":1,\"session_start_limit\":{\"total\":1000,\"remaining\":998,\"reset_after\":14400000,\"max_concurrency\":1}}"

/* ---- the answer's numbers ---- */
static int read_body(const char *body, gw__gateway_info *info, gw__fault *fault)
{
    memset(fault, 0, sizeof *fault);
    return gw__discover_read(body, strlen(body), info, fault);
}

TEST(discover_reads_the_documented_answer)
{
    gw__gateway_info info;
    gw__fault fault;
    /* Discord docs, "Get Gateway Bot" */
    CHECK_EQ(read_body("{\n  \"url\": \"wss://gateway.discord.gg/\",\n  \"shards\": 9,\n  \"session_start_limit\": {\n    \"total\": 1000,\n"
                       "    \"remaining\": 999,\n    \"reset_after\": 14400000,\n    \"max_concurrency\": 16\n  }\n}", &info, &fault), 1);
    CHECK_TEXT(info.url, "wss://gateway.discord.gg/");
    CHECK_U64(info.shards, 9);
    CHECK_U64(info.total, 1000);
    CHECK_U64(info.remaining, 999);
    CHECK_U64(info.reset_after_ms, 14400000);
    CHECK_U64(info.max_concurrency, 16);
    CHECK_U64(fault.reason, 0);
}

TEST(discover_needs_only_the_url)
{
    gw__gateway_info info;
    gw__fault fault;
    CHECK_EQ(read_body("{\"url\":\"wss:\\/\\/gateway.discord.gg\"}", &info, &fault), 1);
    CHECK_TEXT(info.url, "wss://gateway.discord.gg");
    CHECK_U64(info.shards, 1);
    CHECK_U64(info.total, 1000);
    CHECK_U64(info.remaining, 1000);
    CHECK_U64(info.reset_after_ms, 86400000);
    CHECK_U64(info.max_concurrency, 1);
    CHECK_EQ(read_body("{\"session_start_limit\":null,\"shards\":null,\"url\":\"wss://gateway.discord.gg\"}", &info, &fault), 1);
    CHECK_EQ(read_body("{\"session_start_limit\":[1,2],\"shards\":\"9\",\"url\":\"wss://gateway.discord.gg\"}", &info, &fault), 1);
    CHECK_U64(info.remaining, 1000);
}

TEST(discover_bounds_every_number)
{
    static const char *const wild[] = { "99999999999999999999999999", "18446744073709551615", "4294967296", "-1", "-99999999999999999999",
                                        "1e300", "-1e300", "0", "0.5", "1e-300", "2147483648", "true", "\"x\"", "{}", "[]", "null" };
    size_t i;
    for (i = 0; i < GW__COUNT(wild); i++) {
        gw__gateway_info info;
        gw__fault fault;
        char body[600];
        snprintf(body, sizeof body, "{\"url\":\"wss://gateway.discord.gg\",\"shards\":%s,\"session_start_limit\":{\"total\":%s,\"remaining\":%s,"
                 "\"reset_after\":%s,\"max_concurrency\":%s}}", wild[i], wild[i], wild[i], wild[i], wild[i]);
        if (!CHECK_EQ(read_body(body, &info, &fault), 1)) continue;
        CHECK(info.shards >= 1 && info.shards <= 1000000);
        CHECK(info.total <= 1000000);
        CHECK(info.remaining <= 1000000);
        CHECK(info.reset_after_ms <= 2 * UINT64_C(86400000));
        CHECK(info.max_concurrency >= 1 && info.max_concurrency <= GW__CONCURRENCY_MAX);
    }
}

static void bad_body(const char *body)
{
    gw__gateway_info info;
    gw__fault fault;
    int taken = read_body(body, &info, &fault);
    if (!CHECK_EQ(taken, 0)) fprintf(stderr, "    of %s\n", body);
    CHECK_U64(fault.reason, GW_REASON_HTTP);
    CHECK(fault.text[0] != 0);
}

TEST(discover_refuses_answers_that_are_none)
{
    char longer[2000];
    bad_body("");
    bad_body("null");
    bad_body("[]");
    bad_body("{}");
    bad_body("\"wss://gateway.discord.gg\"");
    bad_body("<!DOCTYPE html><html>blocked</html>");
    bad_body("{\"url\":\"\"}");
    bad_body("{\"url\":7}");
    bad_body("{\"url\":null}");
    bad_body("{\"url\":[\"wss://gateway.discord.gg\"]}");
    bad_body("{\"URL\":\"wss://gateway.discord.gg\"}");
    bad_body("{\"url\":\"wss://gateway.discord.gg\"");
    bad_body("{\"url\":\"wss://gateway.discord.gg\"}}");
    bad_body("{\"url\":\"wss://gateway.discord.gg\",}");
    bad_body("{\"url\" \"wss://gateway.discord.gg\"}");
    memset(longer, 'a', sizeof longer);
    memcpy(longer, "{\"url\":\"wss://", 14);
    strcpy(longer + sizeof longer - 3, "\"}");
    bad_body(longer);
}

TEST(discover_refuses_urls_where_the_token_would_be_at_risk)
{
    bad_body("{\"url\":\"http://gateway.discord.gg\"}");
    bad_body("{\"url\":\"https://gateway.discord.gg\"}");
    bad_body("{\"url\":\"ftp://gateway.discord.gg\"}");
    bad_body("{\"url\":\"ws://gateway.discord.gg\"}");          /* in clear to a foreign host */
    bad_body("{\"url\":\"gateway.discord.gg\"}");
    bad_body("{\"url\":\"wss://\"}");
    bad_body("{\"url\":\"wss://user:word@gateway.discord.gg\"}");
    bad_body("{\"url\":\"wss://gateway.discord.gg:0\"}");
    bad_body("{\"url\":\"wss://gateway.discord.gg:65536\"}");
    bad_body("{\"url\":\"wss://gateway.discord.gg/\\r\\nX: y\"}");
    bad_body("{\"url\":\"wss://gateway.discord.gg/\\u0000\"}");
    bad_body("{\"url\":\"wss://gateway.discord.gg/#piece\"}");
}

TEST(discover_refuses_an_answer_cut_at_any_length)
{
    size_t len, total = strlen(GOOD_BODY), taken = 0;
    for (len = 0; len < total; len++) {
        gw__gateway_info info;
        gw__fault fault;
        char *exact = (char *)malloc(len + 1);          /* a sanitizer sees the byte behind it */
        memcpy(exact, GOOD_BODY, len);
        memset(&fault, 0, sizeof fault);
        exact = (char *)realloc(exact, len ? len : 1);
        taken += (size_t)gw__discover_read(exact, len, &info, &fault);
        free(exact);
    }
    CHECK_U64(taken, 0);
}

/* ---- a site in memory, and a client that asks it ---- */
typedef struct site_stream {
    uint32_t used, asked;
    uint16_t port;
    char request[3000];
    size_t request_len, at;
    const char *answer;
    size_t answer_len;
} site_stream;

typedef struct site {
    gw_config cfg;
    gw_client *gw;
    gw_transport transport;
    uint64_t now_us, random;
    site_stream streams[4];
    const char *answers[40];            /* one a connection; the last one stays */
    size_t answer_lens[40];
    uint32_t answer_count, requests, connects;
    uint64_t asked_ms[64];
    char request[3000];                 /* the last one */
    char host[300];
    uint32_t slice;                     /* bytes a read gives; 0: all */
    size_t cut;                         /* the stream ends after so many bytes; SIZE_MAX: not */
    uint32_t stay_open;                 /* after the answer nothing, and no end either */
    uint32_t refuse;                    /* connects to be refused */
    const gw_event *ev;
    char message[800];
    char d[20000];
    uint32_t token_seen, logs;
} site;

/* A piece of the secret part of the token is as bad as all of it. */
static void site_look_for_token(site *s, const char *text)
{
    size_t i;
    char piece[11];
    for (i = 0; i + 10 <= sizeof TOKEN - 1; i++) {
        memcpy(piece, &TOKEN[i], 10);
        piece[10] = 0;
        if (!strstr(text, piece)) continue;
        if (!s->token_seen++) fprintf(stderr, "    the token is in: %s\n", text);
        return;
    }
}

static void site_log(void *user, uint32_t level, int32_t shard, const char *text)
{
    site *s = (site *)user;
    (void)level; (void)shard;
    s->logs++;
    site_look_for_token(s, text);
}

static uint64_t site_monotonic(void *user) { return ((site *)user)->now_us; }

static int32_t site_random(void *user, void *bytes, size_t len)
{
    site *s = (site *)user;
    uint8_t *out = (uint8_t *)bytes;
    while (len--) {
        s->random = s->random * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        *out++ = (uint8_t)(s->random >> 56);
    }
    return 0;
}

static void *site_open(void *user, const char *host, uint16_t port)
{
    site *s = (site *)user;
    uint32_t i;
    if (port != API_PORT) return NULL;          /* the Gateway itself is not here */
    s->connects++;
    snprintf(s->host, sizeof s->host, "%s", host);
    if (s->refuse) { s->refuse--; return NULL; }
    for (i = 0; i < 4; i++) {
        site_stream *stream = &s->streams[i];
        uint32_t n = s->connects - 1 < s->answer_count ? s->connects - 1 : s->answer_count - 1;
        if (stream->used) continue;
        memset(stream, 0, sizeof *stream);
        stream->used = 1;
        stream->port = port;
        stream->answer = s->answers[n];
        stream->answer_len = s->answer_lens[n] ? s->answer_lens[n] : strlen(stream->answer);
        return stream;
    }
    return NULL;
}

static int32_t site_read(void *user, void *handle, void *bytes, uint32_t len)
{
    site *s = (site *)user;
    site_stream *stream = (site_stream *)handle;
    size_t part = stream->answer_len < s->cut ? stream->answer_len : s->cut;
    if (!stream->asked) return 0;
    part -= stream->at;
    if (part == 0) return s->stay_open ? 0 : -1;
    if (part > len) part = len;
    if (s->slice && part > s->slice) part = s->slice;
    memcpy(bytes, stream->answer + stream->at, part);
    stream->at += part;
    return (int32_t)part;
}

static int32_t site_write(void *user, void *handle, const void *bytes, uint32_t len)
{
    site *s = (site *)user;
    site_stream *stream = (site_stream *)handle;
    if (stream->request_len + len >= sizeof stream->request) return -1;
    memcpy(stream->request + stream->request_len, bytes, len);
    stream->request_len += len;
    if (!stream->asked && strstr(stream->request, "\r\n\r\n")) {
        stream->asked = 1;
        s->asked_ms[s->requests++ % 64] = s->now_us / 1000u;
        memcpy(s->request, stream->request, sizeof s->request);
    }
    return (int32_t)len;
}

static void site_close(void *user, void *handle) { (void)user; ((site_stream *)handle)->used = 0; }

static site *site_new(const char *answer)
{
    site *s = (site *)calloc(1, sizeof *s);
    strcpy(api_url, "http://127.0.0.1:9");
    s->now_us = 5000000000u;
    s->cut = SIZE_MAX;
    s->answers[0] = answer;
    s->answer_count = 1;
    s->transport.open = site_open;
    s->transport.read = site_read;
    s->transport.write = site_write;
    s->transport.close = site_close;
    s->cfg.token = TOKEN;
    s->cfg.user = s;
    s->cfg.log = site_log;
    s->cfg.log_level = GW_LOG_TRACE;
    s->cfg.monotonic_us = site_monotonic;
    s->cfg.random = site_random;
    s->cfg.transport = &s->transport;
    return s;
}

static void site_free(site *s)
{
    uint32_t i;
    gw_close(s->gw);
    for (i = 0; i < 4; i++) CHECK_EQ(s->streams[i].used, 0);
    CHECK_U64(s->token_seen, 0);
    free(s);
}

/* The next event of this type within so many ms of the site's clock; its texts are kept in s. */
static const gw_event *site_until(site *s, uint32_t type, uint64_t max_ms)
{
    uint64_t end_us = s->now_us + max_ms * 1000u;
    uint32_t idle = 0;
    if (!s->gw) s->gw = gw_open(&s->cfg);
    while (s->now_us <= end_us) {
        int32_t timeout_ms;
        const gw_event *ev = gw_poll(s->gw);
        if (ev) {
            idle = 0;
            snprintf(s->message, sizeof s->message, "%s", ev->message);
            s->d[0] = 0;
            if (ev->d.ptr && ev->d.len < sizeof s->d) { memcpy(s->d, ev->d.ptr, ev->d.len); s->d[ev->d.len] = 0; }
            site_look_for_token(s, s->message);
            site_look_for_token(s, s->d);
            if (ev->type == type) return s->ev = ev;
            if (ev->type == GW_CLOSED) return s->ev = NULL;
            continue;
        }
        timeout_ms = gw_timeout_ms(s->gw);
        if (++idle < 20) continue;              /* a stream without a descriptor is tried at each poll */
        idle = 0;
        s->now_us += timeout_ms > 0 ? (uint64_t)timeout_ms * 1000u : 1000u;
    }
    return s->ev = NULL;
}

/* An answer with its head. */
static char *answer_new(const char *status, const char *headers, const char *body)
{
    size_t cap = strlen(status) + strlen(headers) + strlen(body) + 100;
    char *text = (char *)malloc(cap);
    snprintf(text, cap, "HTTP/1.1 %s\r\n%sContent-Length: %lu\r\n\r\n%s", status, headers, (unsigned long)strlen(body), body);
    return text;
}

#define GOOD_ANSWER "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n" GOOD_BODY

/* ---- the question ---- */
TEST(discover_asks_as_discord_documents)
{
    site *s = site_new(GOOD_ANSWER);
    if (CHECK(site_until(s, GW_GATEWAY_INFO, 5000))) {
        CHECK_TEXT(s->host, "127.0.0.1");
        CHECK(strncmp(s->request, "GET /api/v10/gateway/bot HTTP/1.1\r\n", 35) == 0);
        CHECK_HAS(s->request, "\r\nHost: 127.0.0.1:9\r\n");
        CHECK_HAS(s->request, "\r\nAuthorization: Bot " TOKEN "\r\n");
        CHECK_HAS(s->request, "\r\nUser-Agent: DiscordBot (http");
        CHECK_TEXT(s->d, GOOD_BODY);
        CHECK_EQ(s->ev->shard, GW_ALL);
        CHECK_HAS(s->message, GOOD_URL);
        CHECK_U64(gw_u64(&s->ev->d, "session_start_limit.remaining"), 998);
        CHECK_EQ(s->ev->d.ptr[s->ev->d.len], 0);
    }
    CHECK(site_until(s, GW_CONNECTING, 5000));
    CHECK_HAS(s->d, "ws://127.0.0.1:8080");
    CHECK_U64(s->requests, 1);
    site_free(s);
}

TEST(discover_keeps_a_path_before_the_api)
{
    site *s = site_new(GOOD_ANSWER);
    strcpy(api_url, "http://127.0.0.1:9/some/where/");
    CHECK(site_until(s, GW_GATEWAY_INFO, 5000));
    CHECK(strncmp(s->request, "GET /some/where/api/v10/gateway/bot HTTP/1.1\r\n", 46) == 0);
    site_free(s);
}

static void bad_api_url(const char *url)
{
    site *s = site_new(GOOD_ANSWER);
    strcpy(api_url, url);
    if (CHECK(site_until(s, GW_FATAL, 5000))) CHECK_U64(s->ev->reason, GW_REASON_CONFIG);
    CHECK(site_until(s, GW_CLOSED, 5000));
    CHECK_EQ(gw_alive(s->gw), 0);
    CHECK_U64(s->connects, 0);
    site_free(s);
}

TEST(discover_does_not_carry_the_token_in_clear_to_a_foreign_host) { bad_api_url("http://discord.example"); }
TEST(discover_refuses_an_api_url_that_is_none)                      { bad_api_url("no url at all"); }

TEST(discover_does_not_ask_when_the_config_has_a_url)
{
    site *s = site_new(GOOD_ANSWER);
    s->cfg.url = GOOD_URL;
    CHECK(site_until(s, GW_CONNECTING, 5000));
    CHECK(site_until(s, GW_GATEWAY_INFO, 30000) == NULL);
    CHECK_U64(s->connects, 0);
    site_free(s);
}

/* ---- how the body is framed: whole, byte by byte, cut at every length ---- */
static void framed(const char *answer, int ends_by_close)
{
    size_t cut, total = strlen(answer);
    uint32_t slice;
    for (slice = 0; slice < 4; slice++) {
        site *s = site_new(answer);
        s->slice = slice;
        s->stay_open = !ends_by_close;          /* a Content-Length is enough: nobody waits for the end */
        if (CHECK(site_until(s, GW_GATEWAY_INFO, 10000))) CHECK_TEXT(s->d, GOOD_BODY);
        site_free(s);
    }
    for (cut = 0; cut < total; cut += lb_is_slow() ? 17 : 1) {
        site *s = site_new(answer);
        s->cut = cut;
        if (site_until(s, GW_DISCONNECTED, 5000)) {
            CHECK(s->ev->reason == GW_REASON_LOST || s->ev->reason == GW_REASON_HTTP || s->ev->reason == GW_REASON_PROTOCOL);
            CHECK_U64(s->ev->will, GW_NEXT_IDENTIFY);
            CHECK(s->message[0] != 0);
        } else {
            CHECK_EQ(cut, total);               /* a cut answer was taken, or nothing was told */
        }
        site_free(s);
    }
}

TEST(discover_reads_a_body_with_content_length)
{
    char *answer = answer_new("200 OK", "", GOOD_BODY);
    framed(answer, 0);
    free(answer);
}

TEST(discover_reads_a_body_until_the_end_of_the_connection) { framed("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" GOOD_BODY, 1); }

TEST(discover_reads_a_chunked_body)
{
    char answer[1000];
    size_t half = 40;
    snprintf(answer, sizeof answer, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%lx;x=y\r\n%.40s\r\n%lX\r\n%s\r\n0\r\nTrailer: t\r\n\r\n",
             (unsigned long)half, GOOD_BODY, (unsigned long)(strlen(GOOD_BODY) - half), &GOOD_BODY[half]);
    framed(answer, 0);
}

TEST(discover_takes_a_body_up_to_its_maximum_and_no_more)
{
    size_t len;
    for (len = GW__DISCOVER_BODY_MAX - 2; len <= GW__DISCOVER_BODY_MAX + 1; len++) {
        char *body = (char *)malloc(len + 1), *answer;
        site *s;
        memset(body, ' ', len);
        memcpy(body, GOOD_BODY, strlen(GOOD_BODY));
        body[len] = 0;
        answer = answer_new("200 OK", "", body);
        s = site_new(answer);
        if (len <= GW__DISCOVER_BODY_MAX) {
            if (CHECK(site_until(s, GW_GATEWAY_INFO, 5000))) CHECK_EQ(s->ev->d.len, len);
        } else {
            if (CHECK(site_until(s, GW_DISCONNECTED, 5000))) CHECK(s->message[0] != 0);
        }
        site_free(s);
        free(answer);
        free(body);
    }
}

/* ---- refusals ---- */
static void final_status(const char *status, int32_t code, const char *headers, const char *part)
{
    char *answer = answer_new(status, headers, "{\"message\":\"a reason in the body\",\"code\":0}");
    site *s = site_new(answer);
    if (CHECK(site_until(s, GW_FATAL, 5000))) {
        CHECK_U64(s->ev->reason, GW_REASON_HTTP);
        CHECK_EQ(s->ev->close_code, code);
        CHECK_U64(s->ev->will, GW_NEXT_NOTHING);
        CHECK_HAS(s->message, part);
        CHECK_HAS(s->message, "a reason in the body");
        CHECK_HAS(s->message, "127.0.0.1/api/v10/gateway/bot");
        CHECK_EQ(s->ev->shard, GW_ALL);
    }
    CHECK(site_until(s, GW_CLOSED, 10000));
    CHECK(gw_poll(s->gw) == NULL);
    CHECK_EQ(gw_timeout_ms(s->gw), -1);
    CHECK_EQ(gw_alive(s->gw), 0);
    CHECK_U64(s->connects, 1);
    site_free(s);
    free(answer);
}

TEST(discover_401_is_fatal_and_speaks_of_the_token)  { final_status("401 Unauthorized", 401, "", "the bot token is wrong"); }
TEST(discover_400_is_fatal)                          { final_status("400 Bad Request", 400, "", "HTTP 400"); }
TEST(discover_403_is_fatal)                          { final_status("403 Forbidden", 403, "", "blocked"); }
TEST(discover_404_is_fatal)                          { final_status("404 Not Found", 404, "", "address is wrong"); }
TEST(discover_301_is_fatal_and_not_followed)         { final_status("301 Moved", 301, "Location: http://127.0.0.1:9/else\r\n", "redirects are not followed"); }
TEST(discover_307_is_fatal_and_not_followed)         { final_status("307 Moved", 307, "Location: https://elsewhere.example/\r\n", "redirects are not followed"); }

/* What the first refusal says, and how long it is until the second question. */
static void retried(const char *status, const char *headers, const char *body, int32_t code, uint64_t least_ms, uint64_t most_ms)
{
    char *answer = answer_new(status, headers, body);
    site *s = site_new(answer);
    s->answers[1] = GOOD_ANSWER;
    s->answer_count = 2;
    if (CHECK(site_until(s, GW_DISCONNECTED, 5000))) {
        CHECK_U64(s->ev->reason, GW_REASON_HTTP);
        CHECK_EQ(s->ev->close_code, code);
        CHECK_U64(s->ev->will, GW_NEXT_IDENTIFY);
        CHECK(s->ev->in_ms >= least_ms && s->ev->in_ms <= most_ms);
        CHECK_EQ(s->ev->shard, GW_ALL);
    }
    CHECK(site_until(s, GW_GATEWAY_INFO, most_ms + 10000));
    CHECK_U64(s->requests, 2);
    CHECK(s->asked_ms[1] - s->asked_ms[0] >= least_ms && s->asked_ms[1] - s->asked_ms[0] <= most_ms + 100);
    site_free(s);
    free(answer);
}

TEST(discover_429_waits_as_the_header_says)            { retried("429 Too Many Requests", "Retry-After: 7\r\n", "{}", 429, 7000, 7001); }
TEST(discover_429_waits_as_a_header_with_a_fraction)   { retried("429 Too Many Requests", "Retry-After: 7.25\r\n", "{}", 429, 7250, 7251); }
TEST(discover_429_waits_as_the_body_says)              { retried("429 Too Many Requests", "", "{\"message\":\"slow down\",\"retry_after\":12.345,\"global\":false}", 429, 12345, 12347); }
TEST(discover_429_waits_for_the_longer_of_the_two)     { retried("429 Too Many Requests", "Retry-After: 3\r\n", "{\"retry_after\":9.5}", 429, 9500, 9502); }
TEST(discover_429_without_a_time_waits_as_after_any)   { retried("429 Too Many Requests", "", "slow down", 429, 0, 1000); }
TEST(discover_429_cannot_make_us_wait_for_ever)        { retried("429 Too Many Requests", "Retry-After: 99999999999\r\n", "{\"retry_after\":1e18}", 429, GW__RETRY_AFTER_MAX_MS, GW__RETRY_AFTER_MAX_MS); }
TEST(discover_429_with_a_nonsense_time_is_bounded)     { retried("429 Too Many Requests", "Retry-After: -5\r\n", "{\"retry_after\":\"soon\"}", 429, 0, 1000); }
TEST(discover_429_with_a_negative_time_is_bounded)     { retried("429 Too Many Requests", "", "{\"retry_after\":-1e9}", 429, 0, 1000); }
TEST(discover_500_is_asked_again)                      { retried("500 Internal Server Error", "", "oops", 500, 0, 1000); }
TEST(discover_502_is_asked_again)                      { retried("502 Bad Gateway", "", "<html>cloudflare</html>", 502, 0, 1000); }
TEST(discover_503_is_asked_again)                      { retried("503 Service Unavailable", "", "", 503, 0, 1000); }
TEST(discover_408_is_asked_again)                      { retried("408 Request Timeout", "", "", 408, 0, 1000); }
TEST(discover_good_status_with_a_bad_body_is_asked_again)     { retried("200 OK", "", "<html>captive portal</html>", 200, 0, 1000); }
TEST(discover_good_status_with_a_foreign_url_is_asked_again)  { retried("200 OK", "", "{\"url\":\"ws://foreign.example\"}", 0, 0, 1000); }

TEST(discover_waits_longer_each_time_up_to_a_minute)
{
    site *s = site_new("HTTP/1.1 503 Down\r\nContent-Length: 0\r\n\r\n");
    uint32_t i, most = 0, above_half = 0;
    for (i = 0; i < 60; i++) {
        if (!CHECK(site_until(s, GW_DISCONNECTED, 120000))) break;
        CHECK(s->ev->in_ms <= (i < 6 ? 1000u << i : 60000u));
        if (i >= 6) above_half += s->ev->in_ms > 30000;
        if (s->ev->in_ms > most) most = s->ev->in_ms;
    }
    CHECK(most > 45000);
    CHECK(above_half > 10 && above_half < 50);          /* spread by chance */
    CHECK_U64(s->requests, 60);
    s->answers[0] = GOOD_ANSWER;
    CHECK(site_until(s, GW_GATEWAY_INFO, 120000));
    CHECK_U64(s->requests, 61);
    CHECK(site_until(s, GW_GATEWAY_INFO, 0) == NULL);
    site_free(s);
}

TEST(discover_stops_when_the_caller_does)
{
    site *s = site_new("HTTP/1.1 503 Down\r\nContent-Length: 0\r\n\r\n");
    CHECK(site_until(s, GW_DISCONNECTED, 5000));
    CHECK_EQ(gw_stop(s->gw, GW_END), GW_OK);
    CHECK(site_until(s, GW_CLOSED, 5000));
    site_free(s);
}

TEST(discover_recheck_asks_at_once)
{
    site *s = site_new("HTTP/1.1 503 Down\r\nContent-Length: 0\r\n\r\n");
    s->answers[1] = GOOD_ANSWER;
    s->answer_count = 2;
    CHECK(site_until(s, GW_DISCONNECTED, 5000));
    s->gw->discover_at_ms += 3600000;           /* as after a long outage */
    gw_recheck(s->gw);
    CHECK(site_until(s, GW_GATEWAY_INFO, 5000));
    site_free(s);
}

TEST(discover_recheck_keeps_the_wait_that_a_429_asked_for)
{
    uint64_t at_ms;
    site *s = site_new("HTTP/1.1 429 Slow\r\nRetry-After: 600\r\nContent-Length: 0\r\n\r\n");
    CHECK(site_until(s, GW_DISCONNECTED, 5000));
    at_ms = s->gw->discover_at_ms;
    gw_recheck(s->gw);
    CHECK_U64(s->gw->discover_at_ms, at_ms);
    site_free(s);
}

/* ---- what else can happen to the question ---- */
static void broken_once(const char *answer, uint32_t reason, const char *part)
{
    site *s = site_new(answer);
    s->answers[1] = GOOD_ANSWER;
    s->answer_count = 2;
    if (CHECK(site_until(s, GW_DISCONNECTED, 60000))) {
        CHECK_U64(s->ev->reason, reason);
        CHECK_HAS(s->message, part);
        CHECK_U64(s->ev->will, GW_NEXT_IDENTIFY);
    }
    CHECK(site_until(s, GW_GATEWAY_INFO, 60000));
    site_free(s);
}

TEST(discover_survives_garbage)                  { broken_once("garbage that is no HTTP\r\n\r\n", GW_REASON_PROTOCOL, "HTTP"); }
TEST(discover_survives_a_frame_lie)              { broken_once("HTTP/1.1 200 OK\r\nContent-Length: 1000000000000000000\r\n\r\n{}", GW_REASON_PROTOCOL, "HTTP"); }
TEST(discover_survives_an_empty_connection)
{
    site *s = site_new("x");
    s->cut = 0;
    if (CHECK(site_until(s, GW_DISCONNECTED, 5000))) CHECK_U64(s->ev->reason, GW_REASON_LOST);
    site_free(s);
}

TEST(discover_survives_a_head_without_an_end)
{
    size_t len = 200000, at;
    char *answer = (char *)malloc(len + 1);
    site *s;
    strcpy(answer, "HTTP/1.1 200 OK\r\n");
    for (at = strlen(answer); at + 20 < len; at += 17) strcpy(answer + at, "X-More: and more\n");
    s = site_new(answer);
    s->answers[1] = GOOD_ANSWER;
    s->answer_count = 2;
    if (CHECK(site_until(s, GW_DISCONNECTED, 5000))) CHECK_HAS(s->message, "HTTP");
    CHECK(site_until(s, GW_GATEWAY_INFO, 5000));
    site_free(s);
    free(answer);
}

TEST(discover_gives_a_silent_server_twenty_seconds)
{
    site *s = site_new(GOOD_ANSWER);
    uint64_t began = s->now_us;
    s->cut = 0;
    s->stay_open = 1;
    if (CHECK(site_until(s, GW_DISCONNECTED, 60000))) {
        CHECK_U64(s->ev->reason, GW_REASON_TIMEOUT);
        CHECK_HAS(s->message, "did not answer GET /gateway/bot in 20 s");
        CHECK_HAS(s->message, "127.0.0.1");
        CHECK((s->now_us - began) / 1000 >= 20000 && (s->now_us - began) / 1000 <= 20100);
    }
    s->cut = SIZE_MAX;
    s->stay_open = 0;
    CHECK(site_until(s, GW_GATEWAY_INFO, 5000));
    site_free(s);
}

TEST(discover_gives_a_slow_server_twenty_seconds_in_all)
{
    site *s = site_new(GOOD_ANSWER);
    uint64_t began = s->now_us;
    s->stay_open = 1;
    s->cut = 0;
    s->gw = gw_open(&s->cfg);
    while (s->now_us < began + 60000000u) {     /* a byte a second */
        const gw_event *ev;
        uint32_t i;
        for (i = 0; i < 5 && (ev = gw_poll(s->gw)) == NULL; i++) { }
        if (i < 5 && ev->type == GW_DISCONNECTED) break;
        s->now_us += 1000000;
        if (s->requests) s->cut++;
    }
    CHECK((s->now_us - began) / 1000 >= 19000 && (s->now_us - began) / 1000 <= 22000);
    site_free(s);
}

TEST(discover_asks_again_after_a_refused_connect)
{
    site *s = site_new(GOOD_ANSWER);
    s->refuse = 3;
    CHECK(site_until(s, GW_DISCONNECTED, 5000));
    CHECK_U64(s->ev->reason, GW_REASON_CONNECT);
    CHECK_HAS(s->message, "127.0.0.1 port 9");
    CHECK(site_until(s, GW_GATEWAY_INFO, 60000));
    CHECK_U64(s->connects, 4);
    site_free(s);
}

/* ---- what the answer leads to ---- */
TEST(discover_without_identifies_left_waits_for_the_reset)
{
    site *s = site_new("HTTP/1.1 200 OK\r\n\r\n{\"url\":\"" GOOD_URL "\",\"session_start_limit\":{\"total\":1000,\"remaining\":0,\"reset_after\":5000}}");
    CHECK(site_until(s, GW_GATEWAY_INFO, 5000));
    if (CHECK(site_until(s, GW_IDENTIFY_HELD, 5000))) {
        CHECK(s->ev->in_ms > 4000 && s->ev->in_ms <= 5000);
        CHECK_U64(s->ev->reason, GW_REASON_BUDGET);
    }
    CHECK(site_until(s, GW_CONNECTING, 10000));
    site_free(s);
}

TEST(discover_answer_widens_the_identify_gate)
{
    site *s = site_new("HTTP/1.1 200 OK\r\n\r\n{\"url\":\"" GOOD_URL "\",\"session_start_limit\":{\"max_concurrency\":16,\"remaining\":77}}");
    gw_stats stats;
    CHECK(site_until(s, GW_GATEWAY_INFO, 5000));
    CHECK_U64(s->gw->shared.gate.concurrency, 16);
    CHECK_EQ(gw_stats_read(s->gw, GW_ALL, &stats), GW_OK);
    CHECK_U64(stats.identifies_left, 77);
    site_free(s);
}

TEST(discover_asks_again_when_the_cached_url_keeps_failing)
{
    site *s = site_new(GOOD_ANSWER);
    CHECK(site_until(s, GW_GATEWAY_INFO, 5000));
    CHECK(site_until(s, GW_GATEWAY_INFO, 300000));      /* the Gateway is refused all the time */
    CHECK(s->requests >= 2);
    site_free(s);
}

/* ---- the token ---- */
static void echoed(const char *status, const char *headers, const char *before)
{
    size_t pad;
    for (pad = 0; pad < 420; pad += lb_is_slow() ? 29 : 3) {
        char body[1200], *answer;
        site *s;
        memset(body, '.', sizeof body);
        snprintf(body + pad, sizeof body - pad, "%s%s%s", before, TOKEN, " end");
        answer = answer_new(status, headers, body);
        s = site_new(answer);
        site_until(s, status[0] == '4' && status[1] != '2' ? GW_FATAL : GW_DISCONNECTED, 5000);
        CHECK(s->ev);
        if (!CHECK_U64(s->token_seen, 0)) { s->token_seen = 0; pad = 1000; }
        site_free(s);
        free(answer);
    }
}

TEST(discover_shows_no_token_that_a_401_sends_back)  { echoed("401 Unauthorized", "", "Authorization: Bot "); }
TEST(discover_shows_no_token_that_a_503_sends_back)  { echoed("503 Down", "", ""); }
TEST(discover_shows_no_token_that_a_200_sends_back)  { echoed("200 OK", "", "{\"url\":\"wss://"); }

static void echoed_answer(const char *answer, uint32_t type)
{
    site *s = site_new(answer);
    CHECK(site_until(s, type, 5000));
    site_until(s, GW_CONNECTING, 2000);
    site_free(s);
}

TEST(discover_shows_no_token_from_a_location)   { echoed_answer("HTTP/1.1 302 Found\r\nLocation: http://evil.example/?t=" TOKEN "\r\nContent-Length: 0\r\n\r\n", GW_FATAL); }
TEST(discover_shows_no_token_from_a_status_line) { echoed_answer("HTTP/1.1 500 " TOKEN "\r\nContent-Length: 0\r\n\r\n", GW_DISCONNECTED); }
TEST(discover_shows_no_token_from_a_broken_head) { echoed_answer("HTTP/1.1 200 OK\r\n" TOKEN "\r\n\r\n", GW_DISCONNECTED); }
TEST(discover_shows_no_token_from_a_broken_status_line) { echoed_answer(TOKEN " 200 OK\r\n\r\n", GW_DISCONNECTED); }
TEST(discover_shows_no_token_from_a_refused_url) { echoed_answer("HTTP/1.1 200 OK\r\n\r\n{\"url\":\"http://evil.example/" TOKEN "\"}", GW_DISCONNECTED); }
TEST(discover_shows_no_token_in_the_body_that_it_hands_out)
{
    echoed_answer("HTTP/1.1 200 OK\r\n\r\n{\"url\":\"" GOOD_URL "\",\"your_token\":\"" TOKEN "\"}", GW_GATEWAY_INFO);
}
TEST(discover_shows_no_token_in_the_url_that_it_dials)
{
    echoed_answer("HTTP/1.1 200 OK\r\n\r\n{\"url\":\"" GOOD_URL "/?t=" TOKEN "\"}", GW_GATEWAY_INFO);
}

/* ---- over real sockets, with the time of the day ---- */
static void over_sockets(int secure, int by_wait)
{
    lb_sim sim;
    gw_config cfg = GW_INIT;
    gw_client *gw;
    const gw_event *ev;
    uint64_t began = lb_now_ms();
    uint32_t seen = 0;
    lb_sim_init(&sim);
    lb_sim_begin(&sim, secure, NULL);
    lb_sim_start(&sim);
    snprintf(api_url, sizeof api_url, "%s://127.0.0.1:%u", secure ? "https" : "http", (unsigned)sim.port);
    cfg.token = TOKEN;
    cfg.intents = GW_INTENTS_ALL;
    cfg.ca_file = lb_cert_path("ca.pem");
    gw = gw_open(&cfg);
    while (lb_now_ms() < began + 15000 && seen != 3) {
        ev = by_wait ? gw_wait(gw, 15000) : gw_poll(gw);
        if (!ev && !by_wait) {
            gw_pollfd fds[4];
            struct pollfd list[4];
            uint32_t i, n = gw_pollfds(gw, fds, 4);
            memset(list, 0, sizeof list);
            for (i = 0; i < n && i < 4; i++) {
                list[i].fd = (int)fds[i].fd;
                list[i].events = (short)((fds[i].readable ? POLLIN : 0) | (fds[i].writable ? POLLOUT : 0));
            }
            poll(list, (nfds_t)n, gw_timeout_ms(gw));
        }
        if (ev && ev->type == GW_GATEWAY_INFO) seen |= 1;
        if (ev && ev->type == GW_READY) seen |= 2;
        if (ev && (ev->type == GW_DISCONNECTED || ev->type == GW_FATAL)) {
            check_failed(__FILE__, __LINE__);
            fprintf(stderr, "%s\n", ev->message);
            break;
        }
    }
    CHECK_U64(seen, 3);
    CHECK(lb_is_slow() || lb_now_ms() - began < 5000);  /* no step waits for a deadline */
    gw_close(gw);
    lb_sim_end(&sim, 0);
}

TEST(discover_leads_to_ready_over_tcp_with_gw_wait)  { over_sockets(0, 1); }
TEST(discover_leads_to_ready_over_tls_with_gw_wait)  { over_sockets(1, 1); }
TEST(discover_leads_to_ready_over_tcp_with_pollfds)  { over_sockets(0, 0); }
TEST(discover_leads_to_ready_over_tls_with_pollfds)  { over_sockets(1, 0); }

CHECK_MAIN()
