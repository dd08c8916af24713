/* A server's answer through gw__http_push(): whole, a byte at a time and in random cuts it must come out the same.
 * Input: the seed of the cuts, what was asked for (two bits) and whether the body's room is small, the answer. */
#include "fuzz.h"
#include <ctype.h>

#define SMALL_BODY 64u
#define LARGE_BODY 16384u

typedef struct answer {
    gw__http_found found, at_end;       /* before and after the stream's end */
    size_t used;
    int32_t status;
    uint32_t reason, upgraded;
    uint64_t retry_after_ms;
    fuzz_text body, kept;
} answer;

/* RFC 6455 section 1.3 */
static const uint8_t nonce[16] = { 0x74, 0x68, 0x65, 0x20, 0x73, 0x61, 0x6d, 0x70,
                                   0x6c, 0x65, 0x20, 0x6e, 0x6f, 0x6e, 0x63, 0x65 };

static void look_at_texts(const gw__http *http)
{
    const char *texts[6];
    size_t i;
    texts[0] = http->upgrade;
    texts[1] = http->accept;
    texts[2] = http->extensions;
    texts[3] = http->protocol;
    texts[4] = http->location;
    texts[5] = http->fault.text;
    for (i = 0; i < 6; i++)
        FUZZ_CHECK(gw__utf8_is(texts[i], strlen(texts[i])) && !strpbrk(texts[i], "\r\n\033"));
}

static void read_in_cuts(const uint8_t *bytes, size_t len, uint64_t seed, int asked, size_t room,
                         answer *out)
{
    fuzz_memory memory;
    gw__mem mem;
    gw__http http;
    gw__fault fault;
    size_t at = 0, used;
    memset(&memory, 0, sizeof memory);
    memset(&fault, 0, sizeof fault);
    memset(out, 0, sizeof *out);
    gw__mem_init(&mem, fuzz_alloc, &memory);
    gw__http_begin(&http, &mem, room, asked);
    while (at < len && out->found == GW__HTTP_NEED_MORE) {
        size_t cut = fuzz_cut(&seed, len - at);
        char *part = fuzz_copy(bytes + at, cut);
        out->found = gw__http_push(&http, (const uint8_t *)part, cut, &used);
        free(part);
        FUZZ_CHECK(used <= cut);
        FUZZ_CHECK(out->found != GW__HTTP_NEED_MORE || used == cut);
        at += used;
    }
    out->used = at;
    FUZZ_CHECK(gw__buf_len(&http.body) <= room);
    FUZZ_CHECK(memory.peak_bytes <= 2 * (GW__HTTP_LINE_MAX + room) + 1024);
    out->at_end = gw__http_end(&http);
    FUZZ_CHECK(out->at_end != GW__HTTP_NEED_MORE);
    FUZZ_CHECK(out->found == GW__HTTP_NEED_MORE || out->found == out->at_end);
    FUZZ_CHECK((out->at_end == GW__HTTP_BROKEN) == (http.fault.reason != GW_REASON_NONE));
    look_at_texts(&http);
    out->reason = http.fault.reason;
    if (out->at_end == GW__HTTP_DONE) {
        out->status = http.status;
        FUZZ_CHECK(out->status >= 100 && out->status <= 599);
        FUZZ_CHECK(http.retry_after_ms <= GW__HTTP_RETRY_MAX_MS);
        out->retry_after_ms = http.retry_after_ms;
        fuzz_add(&out->body, gw__buf_data(&http.body), gw__buf_len(&http.body));
        fuzz_add_text(&out->kept, http.upgrade);
        fuzz_add_text(&out->kept, http.accept);
        fuzz_add_text(&out->kept, http.location);
        out->upgraded = (uint32_t)gw__http_check_upgrade(&http, nonce, &fault);
        FUZZ_CHECK(!out->upgraded == (fault.reason != GW_REASON_NONE));
        if (out->upgraded)
            FUZZ_CHECK(asked == GW__HTTP_UPGRADE &&
                       strcmp(http.accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=") == 0);
    }
    gw__http_free(&http);
    FUZZ_CHECK(memory.live_blocks == 0 && memory.live_bytes == 0);
}

/* Where the kept piece of an error page ends is where somebody looked; there the cuts may differ. */
static void compare(const answer *one, const answer *two, size_t room)
{
    FUZZ_CHECK(one->at_end == two->at_end && one->reason == two->reason);
    if (one->at_end != GW__HTTP_DONE) return;
    FUZZ_CHECK(one->status == two->status && one->retry_after_ms == two->retry_after_ms);
    FUZZ_CHECK(one->upgraded == two->upgraded && fuzz_same(&one->kept, &two->kept));
    FUZZ_CHECK(fuzz_same(&one->body, &two->body));
    if (one->body.len < room) FUZZ_CHECK(one->found == two->found && one->used == two->used);
}

/* ---- where it ends, read a second time: from the empty line on, by the framing that was found ---- */
/* behind its CR LF; 0: it has none */
static size_t line_end(const uint8_t *in, size_t len, size_t at)
{
    for (; at + 1 < len; at++) if (in[at] == '\r' && in[at + 1] == '\n') return at + 2;
    return 0;
}

/* Behind the empty line; 0: none. */
static size_t head_end(const uint8_t *in, size_t len, size_t at)
{
    size_t end;
    for (; (end = line_end(in, len, at)) != 0; at = end) if (end == at + 2) return end;
    return 0;
}

static int is_chunked(const uint8_t *in, size_t begin, size_t end)
{
    static const char name[] = "transfer-encoding:";
    size_t at, i;
    for (at = begin; at < end; at = line_end(in, end, at) ? line_end(in, end, at) : end) {
        for (i = 0; name[i] && at + i < end && (in[at + i] | 0x20) == (name[i] | 0x20); i++) { }
        if (!name[i]) return 1;
    }
    return 0;
}

/* The chunks of RFC 9112 section 7.1; what they join to must be the body. Gives where they end. */
static size_t read_chunks(const uint8_t *in, size_t len, size_t at, fuzz_text *body)
{
    char digits[17];
    size_t end, i, size;
    for (;;) {
        end = line_end(in, len, at);
        FUZZ_CHECK(end != 0);
        for (i = 0; i < 16 && isxdigit(in[at + i]); i++) digits[i] = (char)in[at + i];
        digits[i] = 0;
        FUZZ_CHECK(i > 0);
        size = (size_t)strtoull(digits, NULL, 16);
        at = end;
        if (size == 0) break;
        FUZZ_CHECK(size <= len - at && len - at - size >= 2);
        fuzz_add(body, in + at, size);
        at += size;
        FUZZ_CHECK(in[at] == '\r' && in[at + 1] == '\n');
        at += 2;
    }
    return head_end(in, len, at);
}

static void read_again(const uint8_t *in, size_t len, int asked, size_t room, const answer *said)
{
    fuzz_text body;
    size_t at = 0, begin;
    int status;
    memset(&body, 0, sizeof body);
    if (said->found != GW__HTTP_DONE) return;       /* until the end of the stream, or cut there */
    do {
        begin = at;
        FUZZ_CHECK(len - at > 12);
        status = (in[at + 9] - '0') * 100 + (in[at + 10] - '0') * 10 + in[at + 11] - '0';
        at = head_end(in, len, line_end(in, len, at));
        FUZZ_CHECK(at != 0 && at <= said->used);
    } while (status < 200 && status != 101);
    FUZZ_CHECK(status == said->status);
    if (said->body.len < room && is_chunked(in, begin, at) && status != 101 &&
        status != 204 && status != 304 &&
        !(asked == GW__HTTP_CONNECT && status < 300)) {
        at = read_chunks(in, len, at, &body);
        FUZZ_CHECK(fuzz_same(&body, &said->body));
    } else if (said->body.len < room) {
        FUZZ_CHECK(said->body.len == 0 || memcmp(in + at, said->body.bytes, said->body.len) == 0);
        at += said->body.len;
    }
    if (said->body.len < room) FUZZ_CHECK(at == said->used);
    fuzz_free(&body);
}

static void answer_free(answer *one)
{
    fuzz_free(&one->body);
    fuzz_free(&one->kept);
}

static void fuzz_one(const uint8_t *bytes, size_t len)
{
    answer whole, single, cuts;
    gw__gateway_info info;
    gw__fault fault;
    size_t room;
    int asked;
    if (len < 2) return;
    asked = bytes[1] % 3;
    room = bytes[1] & 4 ? SMALL_BODY : LARGE_BODY;
    read_in_cuts(bytes + 2, len - 2, FUZZ_WHOLE, asked, room, &whole);
    read_in_cuts(bytes + 2, len - 2, 0, asked, room, &single);
    read_in_cuts(bytes + 2, len - 2, bytes[0] + 1u, asked, room, &cuts);
    compare(&whole, &single, room);
    compare(&whole, &cuts, room);
    read_again(bytes + 2, len - 2, asked, room, &whole);
    memset(&fault, 0, sizeof fault);
    if (whole.at_end == GW__HTTP_DONE && whole.body.len &&
        gw__discover_read((const char *)whole.body.bytes, whole.body.len, &info, &fault))
        FUZZ_CHECK(info.url[0] && info.max_concurrency >= 1 && info.shards >= 1);
    answer_free(&whole);
    answer_free(&single);
    answer_free(&cuts);
}
