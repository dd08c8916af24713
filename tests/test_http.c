/* Room http: one request, one answer, nothing two readers could disagree about. RFC 9110, RFC 9112, RFC 6455 section 4. */
#define DISCORD_GATEWAY_IMPLEMENTATION
#include "discord_gateway.h"
#include "check.h"

static gw__mem mem;
static gw__http http;
static gw__fault fault;
static size_t body_max = 1000;

static void *counting_alloc(void *user, void *old, size_t old_bytes, size_t new_bytes)  /* *user: how many more may succeed */
{
    int *left = (int *)user;
    (void)old_bytes;
    if (new_bytes == 0) {
        free(old);
        return NULL;
    }
    return (*left)-- > 0 ? realloc(old, new_bytes) : NULL;
}

static void begin(int asked)
{
    gw__mem_init(&mem, NULL, NULL);
    gw__http_begin(&http, &mem, body_max, asked);
}

/* Pushes `step` bytes at a time, each in memory of its own; stops at an end. Returns how many were used. */
static size_t push(const char *text, size_t len, size_t step, gw__http_found *found)
{
    size_t at = 0, used;
    *found = GW__HTTP_NEED_MORE;
    while (at < len && *found == GW__HTTP_NEED_MORE) {
        size_t chunk = step < len - at ? step : len - at;
        uint8_t *copy = (uint8_t *)malloc(chunk);
        if (!copy) abort();
        memcpy(copy, text + at, chunk);
        *found = gw__http_push(&http, copy, chunk, &used);
        CHECK(used == chunk || (*found != GW__HTTP_NEED_MORE && used < chunk));
        free(copy);
        at += used;
    }
    return at;
}

/* The answer must be whole exactly at its last byte, however it is cut into pieces; what follows must stay untouched. */
static void answers(int asked, const char *text, int status, const char *body)
{
    size_t len = strlen(text), step;
    char *more = (char *)malloc(len + 4);
    int failures = check_failures;
    gw__http_found found;
    if (!more) abort();
    memcpy(more, text, len);
    memcpy(more + len, "more", 4);
    for (step = 1; step <= len + 4; step += step < 9 ? 1 : step) {
        begin(asked);
        CHECK_EQ(push(more, len + 4, step, &found), len);
        CHECK_EQ(found, GW__HTTP_DONE);
        CHECK_EQ(http.status, status);
        CHECK_EQ(http.fault.reason, GW_REASON_NONE);
        CHECK_BYTES(http.body.bytes, gw__buf_len(&http.body), body, strlen(body));
        CHECK_EQ(gw__http_end(&http), GW__HTTP_DONE);
        gw__http_free(&http);
        CHECK_U64(mem.now_bytes, 0);
    }
    begin(asked);                                   /* cut short: never done, never broken */
    CHECK_EQ(push(text, len - 1, len, &found), len - 1);
    CHECK_EQ(found, GW__HTTP_NEED_MORE);
    gw__http_free(&http);
    for (step = 0; step < len; step++) {            /* and when the stream ends there, only a status that refuses counts */
        begin(asked);
        push(text, step, len, &found);
        CHECK_EQ(found, GW__HTTP_NEED_MORE);
        if (gw__http_end(&http) == GW__HTTP_DONE) CHECK(http.status == status && http.part == GW__HTTP_COMPLETE && status >= 200);
        else CHECK_EQ(http.fault.reason, GW_REASON_LOST);
        gw__http_free(&http);
    }
    if (check_failures != failures) fprintf(stderr, "  in: %s\n", text);
    free(more);
}

/* Must be refused however it is cut, with the same sentence, and must never be taken for whole on the way. */
static void breaks_bytes(int asked, const char *text, size_t len, const char *why)
{
    int failures = check_failures;
    gw__http_found found;
    size_t step, used;
    for (step = 1; step <= len; step += step < 9 ? 1 : step) {
        begin(asked);
        push(text, len, step, &found);
        CHECK_EQ(found, GW__HTTP_BROKEN);
        CHECK_EQ(http.fault.reason, GW_REASON_PROTOCOL);
        CHECK_HAS(http.fault.text, why);
        CHECK_EQ(gw__http_push(&http, (const uint8_t *)"x", 1, &used), GW__HTTP_BROKEN);
        CHECK_EQ(used, 0);
        CHECK_EQ(gw__http_end(&http), GW__HTTP_BROKEN);
        gw__http_free(&http);
    }
    if (check_failures != failures) fprintf(stderr, "  in: %.200s\n", text);
}

#define BREAKS(text, why) breaks_bytes(GW__HTTP_GET, text, sizeof(text) - 1, why)
#define OK_HEAD "HTTP/1.1 200 OK\r\n"

/* ---- bodies, and where they end: RFC 9112 section 6.3 ---- */
TEST(http_reads_a_body_of_known_length)
{
    answers(GW__HTTP_GET, OK_HEAD "Content-Length: 5\r\n\r\nhello", 200, "hello");
    answers(GW__HTTP_GET, OK_HEAD "content-LENGTH:5  \r\nX: y\r\n\r\nhello", 200, "hello");
    answers(GW__HTTP_GET, OK_HEAD "Content-Length:\t005\r\nContent-Length: 5\r\n\r\nhello", 200, "hello");
    answers(GW__HTTP_GET, "HTTP/1.0 404 Not Found\r\nContent-Length: 2\r\n\r\nno", 404, "no");
    answers(GW__HTTP_GET, "HTTP/1.1 500\r\nContent-Length: 1\r\n\r\nx", 500, "x");
    answers(GW__HTTP_GET, "HTTP/1.1 599 \r\nContent-Length: 1\r\n\r\nx", 599, "x");
}

TEST(http_reads_answers_without_a_body)
{
    answers(GW__HTTP_GET, OK_HEAD "Content-Length: 0\r\n\r\n", 200, "");
    answers(GW__HTTP_GET, "HTTP/1.1 204 No Content\r\n\r\n", 204, "");
    answers(GW__HTTP_GET, "HTTP/1.1 304 Not Modified\r\nContent-Length: 100\r\n\r\n", 304, "");
}

TEST(http_reads_chunks_with_extensions_and_trailers)        /* RFC 9112 section 7.1 */
{
    answers(GW__HTTP_GET, OK_HEAD "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", 200, "hello");
    answers(GW__HTTP_GET, OK_HEAD "Transfer-Encoding: Chunked\r\n\r\n0\r\n\r\n", 200, "");
    answers(GW__HTTP_GET, OK_HEAD "Transfer-Encoding: chunked\r\n\r\n2;a=b;c=\"d\"\r\nhe\r\n00003 ; x\r\nllo\r\n"
                          "0;last\r\nExpires: now\r\nContent-Length: 77\r\nTransfer-Encoding: gzip\r\n\r\n", 200, "hello");
    answers(GW__HTTP_GET, OK_HEAD "Transfer-Encoding: chunked\r\n\r\n1a\r\nabcdefghijklmnopqrstuvwxyz\r\n"
                          "A\r\n0123456789\r\n0\r\n\r\n", 200, "abcdefghijklmnopqrstuvwxyz0123456789");
}

TEST(http_reads_a_body_until_the_stream_ends)
{
    gw__http_found found;
    size_t step;
    for (step = 1; step < 30; step++) {
        begin(GW__HTTP_GET);
        push(OK_HEAD "Connection: close\r\n\r\nhello", 17 + 19 + 2 + 5, step, &found);
        CHECK_EQ(found, GW__HTTP_NEED_MORE);
        CHECK_EQ(gw__http_end(&http), GW__HTTP_DONE);
        CHECK_BYTES(http.body.bytes, gw__buf_len(&http.body), "hello", 5);
        gw__http_free(&http);
    }
}

TEST(http_says_what_was_missing_when_the_stream_ends)
{
    gw__http_found found;
    begin(GW__HTTP_GET);
    CHECK_EQ(gw__http_end(&http), GW__HTTP_BROKEN);
    CHECK_EQ(http.fault.reason, GW_REASON_LOST);
    CHECK_HAS(http.fault.text, "without an answer");
    gw__http_free(&http);
    begin(GW__HTTP_GET);
    push(OK_HEAD "Content-Length: 5\r\n\r\nhell", 17 + 19 + 2 + 4, 99, &found);
    CHECK_EQ(gw__http_end(&http), GW__HTTP_BROKEN);
    CHECK_HAS(http.fault.text, "in the middle of the answer (in an answer of status 200)");
    gw__http_free(&http);
    begin(GW__HTTP_GET);                /* the status of a refusal counts, even if its page is cut: never loop on 401 */
    push("HTTP/1.1 401 U\r\nContent-Length: 5\r\n\r\nhell", 16 + 19 + 2 + 4, 99, &found);
    CHECK_EQ(gw__http_end(&http), GW__HTTP_DONE);
    CHECK_EQ(http.status, 401);
    gw__http_free(&http);
    begin(GW__HTTP_GET);
    push("HTTP/1.1 401 U\r\nContent-Length: 5\r\n", 16 + 19, 99, &found);
    CHECK_EQ(gw__http_end(&http), GW__HTTP_BROKEN);
    gw__http_free(&http);
}

TEST(http_passes_over_interim_answers)                      /* RFC 9110 section 15.2 */
{
    char text[1024] = "";
    int i;
    answers(GW__HTTP_GET, "HTTP/1.1 100 Continue\r\nContent-Length: 9\r\nRetry-After: 9\r\nLocation: x\r\n\r\n"
                          "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" OK_HEAD "Content-Length: 2\r\n\r\nok", 200, "ok");
    for (i = 0; i < 9; i++) strcat(text, "HTTP/1.1 102 Processing\r\n\r\n");
    BREAKS("HTTP/1.1 101 S\r\n\r\n", "nobody asked for");
    breaks_bytes(GW__HTTP_GET, text, strlen(text), "8 interim");
    strcpy(text + 8 * 27, OK_HEAD "Content-Length: 2\r\n\r\nok");
    answers(GW__HTTP_GET, text, 200, "ok");
}

TEST(http_forgets_what_an_interim_answer_said)
{
    gw__http_found found;
    static const char text[] = "HTTP/1.1 100 C\r\nRetry-After: 9\r\nLocation: x\r\nUpgrade: u\r\nConnection: upgrade\r\n"
                               "Sec-WebSocket-Accept: a\r\nSec-WebSocket-Protocol: p\r\nSec-WebSocket-Extensions: e\r\n\r\n"
                               "HTTP/1.1 204 N\r\n\r\n";
    begin(GW__HTTP_GET);
    push(text, sizeof text - 1, 999, &found);
    CHECK_EQ(found, GW__HTTP_DONE);
    CHECK(!http.has_retry_after && http.retry_after_ms == 0 && !http.connection_upgrade);
    CHECK(!http.location[0] && !http.upgrade[0] && !http.accept[0] && !http.protocol[0] && !http.extensions[0]);
    gw__http_free(&http);
}

/* ---- smuggling: RFC 9112 section 11.2 ---- */
TEST(http_refuses_lengths_that_disagree)
{
    BREAKS(OK_HEAD "Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello", "differ");
    BREAKS(OK_HEAD "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "both Content-Length");
    BREAKS(OK_HEAD "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", "both Content-Length");
}

TEST(http_refuses_lengths_that_are_no_numbers)
{
    BREAKS(OK_HEAD "Content-Length: -1\r\n\r\n", "no number");
    BREAKS(OK_HEAD "Content-Length: +1\r\n\r\n", "no number");
    BREAKS(OK_HEAD "Content-Length: 0x5\r\n\r\n", "no number");
    BREAKS(OK_HEAD "Content-Length: 5, 5\r\n\r\n", "no number");
    BREAKS(OK_HEAD "Content-Length: 5 5\r\n\r\n", "no number");
    BREAKS(OK_HEAD "Content-Length:\r\n\r\n", "no number");
    BREAKS(OK_HEAD "Content-Length: 99999999999999999999999\r\n\r\n", "no number");
    BREAKS(OK_HEAD "Content-Length: 1000000000000000000\r\n\r\n", "1 MiB");
    BREAKS("HTTP/1.1 503 S\r\nContent-Length: 1048577\r\n\r\n", "1 MiB");
}

TEST(http_refuses_other_transfer_codings)
{
    BREAKS(OK_HEAD "Transfer-Encoding: gzip\r\n\r\n", "other than chunked");
    BREAKS(OK_HEAD "Transfer-Encoding: gzip, chunked\r\n\r\n", "other than chunked");
    BREAKS(OK_HEAD "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", "other than chunked");
    BREAKS(OK_HEAD "Transfer-Encoding: xchunked\r\n\r\n", "other than chunked");
    BREAKS(OK_HEAD "Transfer-Encoding:\r\n\r\n", "other than chunked");
    BREAKS("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "in HTTP/1.1");
}

TEST(http_refuses_malformed_header_lines)                   /* RFC 9112 section 5 */
{
    BREAKS(OK_HEAD "Content-Length : 5\r\n\r\nhello", "Name: value");
    BREAKS(OK_HEAD "NoColon\r\n\r\n", "Name: value");
    BREAKS(OK_HEAD ": value\r\n\r\n", "Name: value");
    BREAKS(OK_HEAD "Na(me): value\r\n\r\n", "Name: value");
    BREAKS(OK_HEAD "N\xc3\xa4me: value\r\n\r\n", "Name: value");
    BREAKS(OK_HEAD "X: a\r\n folded\r\n\r\n", "Name: value");
    BREAKS(OK_HEAD "X: a\r\n\tfolded\r\n\r\n", "Name: value");
    BREAKS(OK_HEAD " X: a\r\n\r\n", "Name: value");
    answers(GW__HTTP_GET, OK_HEAD "!#$%&'*+-.^_`|~09azAZ: \xff\t(any) text:\r\nContent-Length: 0\r\n\r\n", 200, "");
}

TEST(http_refuses_bare_line_ends_and_control_bytes)         /* RFC 9112 section 2.2 */
{
    BREAKS(OK_HEAD "X: a\rContent-Length: 5\r\n\r\n", "control byte");
    BREAKS(OK_HEAD "X: a\r\r\n\r\n", "control byte");
    BREAKS(OK_HEAD "X: a\n\r\n", "CR LF");
    BREAKS("HTTP/1.1 200 OK\n\n", "CR LF");
    BREAKS(OK_HEAD "X: a\0b\r\n\r\n", "control byte");
    BREAKS(OK_HEAD "X: a\x1b[31m\r\n\r\n", "control byte");
    BREAKS(OK_HEAD "X: a\x7f\r\n\r\n", "control byte");
    BREAKS(OK_HEAD "\n", "CR LF");
    BREAKS(OK_HEAD "Transfer-Encoding: chunked\r\n\r\n5\nhello\r\n0\r\n\r\n", "CR LF");
}

TEST(http_refuses_malformed_chunks)                         /* RFC 9112 section 7.1 */
{
#define CHUNKED OK_HEAD "Transfer-Encoding: chunked\r\n\r\n"
    BREAKS(CHUNKED "\r\n", "size");
    BREAKS(CHUNKED "x\r\n", "size");
    BREAKS(CHUNKED ";x\r\n", "size");
    BREAKS(CHUNKED "-5\r\nhello\r\n", "size");
    BREAKS(CHUNKED "0x5\r\nhello\r\n", "size");
    BREAKS(CHUNKED " 5\r\nhello\r\n", "size");
    BREAKS(CHUNKED "5 \r\nhello\r\n", "size");
    BREAKS(CHUNKED "5 x\r\nhello\r\n", "size");
    BREAKS(CHUNKED "100001\r\n", "larger than 1 MiB");
    BREAKS(CHUNKED "FFFFFFFFFFFFFFFFFFFFFF\r\n", "larger than 1 MiB");
    BREAKS(CHUNKED "10000000000000005\r\nhello", "larger than 1 MiB");
    BREAKS(CHUNKED "4\r\nhello\r\n", "");
    BREAKS(CHUNKED "4\r\nhellox\r\n", "longer than its size");
    BREAKS(CHUNKED "0\r\nbad trailer\r\n\r\n", "Name: value");
}

TEST(http_refuses_malformed_status_lines)                   /* RFC 9112 section 4 */
{
    BREAKS("HTTP/1.1 20 OK\r\n", "status line");
    BREAKS("HTTP/1.1 2000 OK\r\n", "status line");
    BREAKS("HTTP/1.1 099 OK\r\n", "status line");
    BREAKS("HTTP/1.1 600 OK\r\n", "status line");
    BREAKS("HTTP/1.1 2x0 OK\r\n", "status line");
    BREAKS("HTTP/1.1 20x OK\r\n", "status line");
    BREAKS("HTTP/1.1  200 OK\r\n", "status line");
    BREAKS("HTTP/1.x 200 OK\r\n", "status line");
    BREAKS("HTTP/1.\r\n", "status line");
    BREAKS("HTTP/1.1\t200 OK\r\n", "status line");
}

TEST(http_tells_at_once_what_is_not_http)
{
    gw__http_found found;
    BREAKS("\x15\x03\x03\x00\x02\x02\x28", "does not speak HTTP/1");       /* a TLS alert; it has no line end */
    BREAKS("SSH-2.0-OpenSSH", "begins with \"S");
    BREAKS("HTTP/2 200\r\n", "does not speak HTTP/1");
    BREAKS("http/1.1 200 OK\r\n", "does not speak HTTP/1");
    BREAKS("\r\nHTTP/1.1 200 OK\r\n", "does not speak HTTP/1");
    begin(GW__HTTP_UPGRADE);
    CHECK_EQ(push("\x16", 1, 1, &found), 1);
    CHECK_EQ(found, GW__HTTP_BROKEN);
    gw__http_free(&http);
}

/* ---- maxima ---- */
static char big[1200 * 1024];

static size_t fill(size_t at, const char *text)
{
    memcpy(big + at, text, strlen(text));
    return at + strlen(text);
}

static size_t fill_header(size_t at, size_t line_bytes)     /* one whole header line of that many bytes */
{
    memset(big + at, 'v', line_bytes);
    memcpy(big + at, "X:", 2);
    memcpy(big + at + line_bytes - 2, "\r\n", 2);
    return at + line_bytes;
}

static gw__http_found push_big(int asked, size_t len, size_t step)
{
    gw__http_found found;
    begin(asked);
    push(big, len, step, &found);
    gw__http_free(&http);
    return found;
}

TEST(http_bounds_a_line)
{
    size_t len = fill(0, OK_HEAD);
    len = fill(fill_header(len, GW__HTTP_LINE_MAX), "Content-Length: 0\r\n\r\n");
    CHECK_EQ(push_big(GW__HTTP_GET, len, len), GW__HTTP_DONE);
    CHECK_EQ(push_big(GW__HTTP_GET, len, 1), GW__HTTP_DONE);
    len = fill(fill_header(fill(0, OK_HEAD), GW__HTTP_LINE_MAX + 1), "Content-Length: 0\r\n\r\n");
    CHECK_EQ(push_big(GW__HTTP_GET, len, len), GW__HTTP_BROKEN);
    CHECK_HAS(http.fault.text, "8 KiB");
    CHECK_EQ(push_big(GW__HTTP_GET, len, 1), GW__HTTP_BROKEN);
    CHECK_HAS(http.fault.text, "8 KiB");
}

TEST(http_bounds_the_head)
{
    size_t len = fill(0, "HTTP/1.1 204 N\r\n"), i, room = GW__HTTP_HEAD_MAX - 16 - 2;
    for (i = 0; i < 5; i++) len = fill_header(len, i < 4 ? 8000 : room - 32000);
    len = fill(len, "\r\n");
    CHECK_EQ(push_big(GW__HTTP_GET, len, len), GW__HTTP_DONE);
    len = fill(fill_header(len - 2, 10), "\r\n");
    CHECK_EQ(push_big(GW__HTTP_GET, len, 100), GW__HTTP_BROKEN);
    CHECK_HAS(http.fault.text, "32 KiB");
}

TEST(http_bounds_the_number_of_headers_and_trailers)
{
    size_t len = fill(0, OK_HEAD "Transfer-Encoding: chunked\r\n"), i, end;
    for (i = 0; i < 98; i++) len = fill_header(len, 10);
    len = fill(len, "\r\n0\r\n");
    end = fill(fill_header(len, 10), "\r\n");
    CHECK_EQ(push_big(GW__HTTP_GET, end, end), GW__HTTP_DONE);
    end = fill(fill_header(fill_header(len, 10), 10), "\r\n");
    CHECK_EQ(push_big(GW__HTTP_GET, end, end), GW__HTTP_BROKEN);
    CHECK_HAS(http.fault.text, "100 header lines");
}

TEST(http_bounds_the_body_it_wants)
{
    body_max = 5;
    answers(GW__HTTP_GET, OK_HEAD "Content-Length: 5\r\n\r\nhello", 200, "hello");
    answers(GW__HTTP_GET, CHUNKED "4\r\nhell\r\n1\r\no\r\n0\r\n\r\n", 200, "hello");
    BREAKS(OK_HEAD "Content-Length: 6\r\n\r\nhello!", "larger than this client takes");
    BREAKS(OK_HEAD "\r\nhello!", "larger than this client takes");
    BREAKS(CHUNKED "6\r\nhello!\r\n0\r\n\r\n", "larger than this client takes");
    body_max = 1000;
}

TEST(http_cuts_the_body_of_a_refusal)
{
    static const struct { int asked; const char *text; } cases[] = {
        { GW__HTTP_GET, "HTTP/1.1 503 S\r\nContent-Length: 900\r\n\r\nhello!!" },
        { GW__HTTP_GET, "HTTP/1.1 302 S\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n9\r\nlo!!" },
        { GW__HTTP_UPGRADE, "HTTP/1.1 200 OK\r\n\r\nhello!!" },
        { GW__HTTP_CONNECT, "HTTP/1.1 407 P\r\nContent-Length: 9\r\n\r\nhello!!" }
    };
    size_t i, step;
    gw__http_found found;
    body_max = 5;
    for (i = 0; i < sizeof cases / sizeof *cases; i++) {
        for (step = 1; step < 80; step++) {
            begin(cases[i].asked);
            push(cases[i].text, strlen(cases[i].text), step, &found);
            CHECK_EQ(found, GW__HTTP_DONE);
            CHECK_BYTES(http.body.bytes, gw__buf_len(&http.body), "hello", 5);
            gw__http_free(&http);
        }
    }
    body_max = 0;
    begin(GW__HTTP_UPGRADE);
    CHECK_EQ(push("HTTP/1.1 403 F\r\n\r\nxy", 20, 1, &found), 19);
    CHECK_EQ(found, GW__HTTP_DONE);
    gw__http_free(&http);
    body_max = 1000;
}

TEST(http_bounds_the_whole_answer)                  /* tiny chunks with long extensions */
{
    size_t len = fill(0, CHUNKED), i;
    for (i = 0; i < 200; i++) {
        memset(big + len, 'x', 6000);
        memcpy(big + len, "1;", 2);
        memcpy(big + len + 5998, "\r\n", 2);
        len = fill(len + 6000, "b\r\n");
    }
    CHECK_EQ(push_big(GW__HTTP_GET, len, 4096), GW__HTTP_BROKEN);
    CHECK_HAS(http.fault.text, "1 MiB");
    len = fill(0, CHUNKED);                         /* but their overhead is no head */
    for (i = 0; i < 990; i++) len = fill(len, "1;eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee\r\nb\r\n");
    len = fill(len, "0\r\nX: trailer\r\n\r\n");
    CHECK_EQ(push_big(GW__HTTP_GET, len, 4096), GW__HTTP_DONE);
}

TEST(http_says_so_when_memory_is_out)
{
    static const char text[] = OK_HEAD "Content-Length: 5\r\n\r\nhello";
    int allowed, left;
    for (allowed = 0; allowed < 3; allowed++) {
        gw__http_found found;
        left = allowed;
        gw__mem_init(&mem, counting_alloc, &left);
        gw__http_begin(&http, &mem, 1000, GW__HTTP_GET);
        push(text, sizeof text - 1, 999, &found);
        CHECK_EQ(found, allowed < 2 ? GW__HTTP_BROKEN : GW__HTTP_DONE);
        CHECK_EQ(http.fault.reason, allowed < 2 ? GW_REASON_MEMORY : GW_REASON_NONE);
        CHECK_HAS(http.fault.text, allowed == 0 ? "no memory for a line" : allowed == 1 ? "no memory for the body" : "");
        gw__http_free(&http);
    }
}

/* ---- Retry-After: RFC 9110 section 10.2.3; Discord sends fractions too ---- */
static void retries(const char *value, int has, uint64_t ms)
{
    char text[200];
    gw__http_found found;
    size_t len = gw__text_format(text, sizeof text, "HTTP/1.1 429 T\r\nRetry-After: %s\r\nContent-Length: 0\r\n\r\n", value);
    begin(GW__HTTP_GET);
    push(text, len, len, &found);
    CHECK_EQ(found, GW__HTTP_DONE);
    CHECK_EQ(http.has_retry_after, has);
    CHECK_U64(http.retry_after_ms, ms);
    gw__http_free(&http);
}

TEST(http_reads_retry_after_in_seconds)
{
    retries("0", 1, 0);
    retries("7", 1, 7000);
    retries("64.57", 1, 64570);
    retries("0.5", 1, 500);
    retries("1.234", 1, 1234);
    retries("1.2340", 1, 1234);
    retries("1.2341", 1, 1235);             /* up: never too early */
    retries("0.00001", 1, 1);
    retries("86400", 1, 86400000);
    retries("86400.5", 1, 86400000);
    retries("86401", 1, 86400000);
    retries("18446744073709551616", 1, 86400000);
    retries("99999999999999999999999999999999999", 1, 86400000);
}

TEST(http_ignores_a_retry_after_that_is_no_number)
{
    retries("", 0, 0);
    retries("-1", 0, 0);
    retries("1e3", 0, 0);
    retries("1.", 0, 0);
    retries(".5", 0, 0);
    retries("1.5s", 0, 0);
    retries("1.2.3", 0, 0);
    retries("Wed, 21 Oct 2015 07:28:00 GMT", 0, 0);
}

/* ---- requests ---- */
static gw__url url;
static gw__buf out;

static const char *written(void)
{
    static char text[4096];
    gw__text_format(text, sizeof text, "%.*s", (int)gw__buf_len(&out), (const char *)gw__buf_data(&out));
    return text;
}

static void point(const char *text, size_t max)
{
    memset(&fault, 0, sizeof fault);
    CHECK(gw__url_parse(&url, text, strlen(text), &fault));
    gw__mem_init(&mem, NULL, NULL);
    gw__buf_init(&out, &mem, max);
}

TEST(http_writes_the_request_for_gateway_bot)
{
    point("https://discord.com/api/v10/gateway/bot", 4096);
    CHECK(gw__http_write_get(&out, &url, url.target, "abc.def"));
    CHECK_TEXT(written(), "GET /api/v10/gateway/bot HTTP/1.1\r\n"
                          "Host: discord.com\r\n"
                          "User-Agent: DiscordBot (https://github.com/discord-gateway-h/discord_gateway.h, " GW_VERSION_TEXT ")\r\n"
                          "Authorization: Bot abc.def\r\n"
                          "Accept: application/json\r\n"
                          "Connection: close\r\n\r\n");
    gw__buf_clear(&out);
    CHECK(gw__http_write_get(&out, &url, "/x", NULL));
    CHECK(!strstr(written(), "Authorization"));
    CHECK(!strstr(written(), "Accept-Encoding"));
    gw__buf_free(&out);
}

TEST(http_writes_the_host_as_the_url_has_it)
{
    point("http://[::1]:8080/", 4096);
    CHECK(gw__http_write_get(&out, &url, "/", NULL));
    CHECK_HAS(written(), "\r\nHost: [::1]:8080\r\n");
    gw__buf_free(&out);
    point("wss://a.example:80/", 4096);
    CHECK(gw__http_write_get(&out, &url, "/", NULL));
    CHECK_HAS(written(), "\r\nHost: a.example:80\r\n");
    gw__buf_free(&out);
    point("ws://127.0.0.1:80/", 4096);
    CHECK(gw__http_write_get(&out, &url, "/", NULL));
    CHECK_HAS(written(), "\r\nHost: 127.0.0.1\r\n");
    gw__buf_free(&out);
}

static const uint8_t *rfc_nonce(void)                       /* RFC 6455 section 1.3: base64 dGhlIHNhbXBsZSBub25jZQ== */
{
    return (const uint8_t *)"the sample nonce";
}

TEST(http_writes_the_upgrade)                               /* RFC 6455 section 4.1 */
{
    point("wss://gateway.discord.gg", 4096);
    CHECK(gw__http_write_upgrade(&out, &url, "/?v=10&encoding=json", rfc_nonce()));
    CHECK_TEXT(written(), "GET /?v=10&encoding=json HTTP/1.1\r\n"
                          "Host: gateway.discord.gg\r\n"
                          "User-Agent: " GW__USER_AGENT "\r\n"
                          "Upgrade: websocket\r\n"
                          "Connection: Upgrade\r\n"
                          "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
                          "Sec-WebSocket-Version: 13\r\n\r\n");
    gw__buf_free(&out);
}

TEST(http_writes_a_request_whole_or_not_at_all)
{
    static char token[GW__HTTP_REQUEST_MAX + 1];
    size_t max, whole;
    point("wss://gateway.discord.gg", 4096);
    CHECK(gw__http_write_upgrade(&out, &url, "/", rfc_nonce()));
    whole = gw__buf_len(&out);
    gw__buf_free(&out);
    for (max = 0; max <= whole; max++) {
        point("wss://gateway.discord.gg", max);
        CHECK_EQ(gw__http_write_upgrade(&out, &url, "/", rfc_nonce()), max == whole);
        CHECK_EQ(gw__buf_len(&out), max == whole ? whole : 0);
        gw__buf_free(&out);
    }
    point("wss://gateway.discord.gg", 8192);
    memset(token, 't', sizeof token - 1);
    CHECK(!gw__http_write_get(&out, &url, "/", token));
    token[GW__HTTP_REQUEST_MAX - 100] = 0;
    CHECK(!gw__http_write_get(&out, &url, "/", token));
    token[1000] = 0;
    CHECK(gw__http_write_get(&out, &url, "/", token));
    gw__buf_free(&out);
}

TEST(http_lets_nobody_write_headers_of_their_own)
{
    point("https://discord.com/", 4096);
    CHECK(!gw__http_write_get(&out, &url, "/", "abc\r\nX: y"));
    CHECK(!gw__http_write_get(&out, &url, "/", "abc def"));
    CHECK(!gw__http_write_get(&out, &url, "/", "abc\xc3\xa4"));
    CHECK(!gw__http_write_get(&out, &url, "/ HTTP/1.1\r\nX: y", "abc"));
    CHECK(!gw__http_write_upgrade(&out, &url, "/\x7f", rfc_nonce()));
    CHECK_EQ(gw__buf_len(&out), 0);
    gw__buf_free(&out);
}

/* ---- the upgrade's answer: RFC 6455 sections 4.1 and 4.2.2 ---- */
#define SWITCH "HTTP/1.1 101 Switching Protocols\r\n"
#define UPGRADE "Upgrade: websocket\r\n"
#define CONNECTION "Connection: Upgrade\r\n"
#define ACCEPT "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"

static int upgrades(const char *text)
{
    gw__http_found found;
    int good;
    begin(GW__HTTP_UPGRADE);
    push(text, strlen(text), 7, &found);
    if (found == GW__HTTP_NEED_MORE) found = gw__http_end(&http);
    CHECK_EQ(found, GW__HTTP_DONE);
    memset(&fault, 0, sizeof fault);
    good = gw__http_check_upgrade(&http, rfc_nonce(), &fault);
    CHECK_EQ(good, fault.reason == GW_REASON_NONE);
    if (!good) {
        CHECK_EQ(fault.reason, GW_REASON_HTTP);
        CHECK_EQ(fault.code, http.status);
    }
    gw__http_free(&http);
    return good;
}

TEST(http_computes_the_accept_of_the_rfc)                   /* RFC 6455 section 1.3 */
{
    char accept[32];
    gw__http_accept_for(rfc_nonce(), accept);
    CHECK_TEXT(accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
}

TEST(http_takes_the_upgrade_of_the_rfc)                     /* RFC 6455 section 1.3 */
{
    CHECK(upgrades(SWITCH UPGRADE CONNECTION ACCEPT "\r\n"));
    CHECK(upgrades(SWITCH "upgrade: WebSocket\r\nconnection: keep-alive, UPGRADE\r\n" ACCEPT "\r\n"));
    CHECK(upgrades(SWITCH "Connection: keep-alive ,\r\n" UPGRADE CONNECTION ACCEPT "Sec-WebSocket-Extensions:\r\n\r\n"));
    CHECK(upgrades("HTTP/1.1 100 Continue\r\n\r\n" SWITCH UPGRADE CONNECTION ACCEPT "\r\n"));
}

TEST(http_leaves_the_bytes_behind_a_101_alone)              /* the first frame may come in the same packet */
{
    answers(GW__HTTP_UPGRADE, SWITCH UPGRADE CONNECTION ACCEPT "\r\n", 101, "");
    answers(GW__HTTP_UPGRADE, SWITCH "Content-Length: 4\r\n" UPGRADE CONNECTION ACCEPT "\r\n", 101, "");
}

TEST(http_leaves_the_bytes_behind_a_connect_alone)          /* RFC 9110 section 9.3.6 */
{
    answers(GW__HTTP_CONNECT, "HTTP/1.0 200 Connection established\r\n\r\n", 200, "");
    answers(GW__HTTP_CONNECT, "HTTP/1.1 201 C\r\nContent-Length: 4\r\n\r\n", 201, "");
    answers(GW__HTTP_CONNECT, "HTTP/1.1 407 P\r\nContent-Length: 4\r\n\r\nwhy?", 407, "why?");
    breaks_bytes(GW__HTTP_CONNECT, SWITCH "\r\n", strlen(SWITCH) + 2, "nobody asked for");
}

TEST(http_refuses_an_upgrade_that_is_none)                  /* RFC 6455 section 4.1, the six checks of a client */
{
    CHECK(!upgrades(SWITCH CONNECTION ACCEPT "\r\n"));
    CHECK_HAS(fault.text, "Upgrade: websocket");
    CHECK(!upgrades(SWITCH "Upgrade: h2c\r\n" CONNECTION ACCEPT "\r\n"));
    CHECK(!upgrades(SWITCH UPGRADE "Upgrade: h2c\r\n" CONNECTION ACCEPT "\r\n"));
    CHECK_HAS(fault.text, "Upgrade: websocket");
    CHECK(!upgrades(SWITCH UPGRADE ACCEPT "\r\n"));
    CHECK_HAS(fault.text, "Connection: Upgrade");
    CHECK(!upgrades(SWITCH UPGRADE "Connection: upgraded, xupgrade\r\n" ACCEPT "\r\n"));
    CHECK(!upgrades(SWITCH UPGRADE CONNECTION "\r\n"));
    CHECK_HAS(fault.text, "Sec-WebSocket-Accept");
    CHECK(!upgrades(SWITCH UPGRADE CONNECTION "Sec-WebSocket-Accept: S3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"));
    CHECK_HAS(fault.text, "Sec-WebSocket-Accept");
    CHECK(!upgrades(SWITCH UPGRADE CONNECTION ACCEPT ACCEPT "\r\n"));
    CHECK(!upgrades(SWITCH UPGRADE CONNECTION ACCEPT "Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n"));
    CHECK_HAS(fault.text, "extension");
    CHECK(!upgrades(SWITCH UPGRADE CONNECTION ACCEPT "Sec-WebSocket-Protocol: chat\r\n\r\n"));
    CHECK_HAS(fault.text, "subprotocol");
}

TEST(http_keeps_only_a_piece_of_an_endless_header)
{
    char text[1024];
    size_t len = gw__text_format(text, sizeof text, SWITCH UPGRADE CONNECTION "Sec-WebSocket-Accept: ");
    memset(text + len, 'A', 500);
    memcpy(text + len + 500, "\r\n\r\n", 5);
    CHECK(!upgrades(text));
    CHECK_HAS(fault.text, "Sec-WebSocket-Accept");
    memcpy(text + len + 300, "\r\nSec-WebSocket-Accept: ", 24);
    CHECK(!upgrades(text));
}

TEST(http_names_a_redirect_and_does_not_follow_it)
{
    CHECK(!upgrades("HTTP/1.1 301 Moved\r\nLocation: https://elsewhere.example/\r\nContent-Length: 0\r\n\r\n"));
    CHECK_TEXT(fault.text, "HTTP: status 301 instead of 101: redirects are not followed; use the address that it names; "
                           "to \"https://elsewhere.example/\"");
    CHECK(!upgrades("HTTP/1.1 308 Moved\r\nContent-Length: 0\r\n\r\n"));
    CHECK_HAS(fault.text, "redirects are not followed");
    CHECK(!upgrades("HTTP/1.1 403 F\r\nLocation: https://elsewhere.example/\r\nContent-Length: 0\r\n\r\n"));
    CHECK(!strstr(fault.text, "elsewhere"));
}

TEST(http_says_what_a_refused_upgrade_means)
{
    static const struct { int status; const char *part; } cases[] = {
        { 200, "no Gateway" }, { 400, "API version" }, { 401, "token" }, { 403, "blocked" }, { 404, "path" }, { 407, "proxy" },
        { 429, "too many" }, { 500, "other side" }, { 503, "other side" }, { 418, "in between" }, { 204, "in between" }
    };
    char text[200];
    size_t i;
    for (i = 0; i < sizeof cases / sizeof *cases; i++) {
        gw__text_format(text, sizeof text, "HTTP/1.1 %d X\r\nContent-Length: 0\r\n\r\n", cases[i].status);
        CHECK(!upgrades(text));
        CHECK_HAS(fault.text, cases[i].part);
        CHECK_EQ(fault.code, cases[i].status);
        CHECK(!strstr(fault.text, "it says"));
    }
    CHECK(!upgrades("HTTP/1.1 403 F\r\nContent-Length: 14\r\n\r\n<b>no\x1b[31m\n</b>"));
    CHECK_HAS(fault.text, "it says \"<b>no?[31m?</b");
    begin(GW__HTTP_GET);
    http.status = 401;
    memset(&fault, 0, sizeof fault);
    gw__http_explain(&http, &fault);
    CHECK_HAS(fault.text, "status 401 instead of 200");
    gw__http_free(&http);
}

TEST(http_shows_no_more_than_a_piece_of_a_body)
{
    char text[1024];
    size_t len = gw__text_format(text, sizeof text, "HTTP/1.1 502 B\r\nContent-Length: 700\r\n\r\n");
    memset(text + len, 'x', 700);
    text[len + 700] = 0;
    CHECK(!upgrades(text));
    CHECK(strlen(fault.text) < 260);
    CHECK_HAS(fault.text, "xxxx\"");
}

CHECK_MAIN()
