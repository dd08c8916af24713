/* Room ws: RFC 6455 as a client sees it. Section numbers are the RFC's. */
#define DISCORD_GATEWAY_IMPLEMENTATION
#include "discord_gateway.h"
#include "check.h"

/* ---- a trace says what came out, whatever pieces it came in: text(Hel ping() lo) close(1000,bye) ---- */
typedef struct trace {
    char *text;
    size_t len, cap;
    uint32_t close_code;        /* what a BROKEN asks for; 0: not broken */
    char why[GW__FAULT_TEXT_MAX];
} trace;

static void trace_add(trace *t, const void *bytes, size_t len)
{
    if (t->len + len + 1 > t->cap) {
        char *grown = (char *)realloc(t->text, t->cap = (t->len + len + 1) * 2);
        if (!grown) abort();
        t->text = grown;
    }
    if (len) memcpy(t->text + t->len, bytes, len);
    t->text[t->len += len] = 0;
}

static void trace_word(trace *t, const char *word)
{
    trace_add(t, word, strlen(word));
}

static void trace_begin(trace *t)
{
    memset(t, 0, sizeof *t);
    trace_word(t, "");
}

static const char *const control_names[] = { "close", "ping", "pong" };

static void trace_control(trace *t, uint32_t opcode, uint16_t code, const uint8_t *bytes, size_t len)
{
    char head[32];
    gw__text_format(head, sizeof head, opcode == GW__WS_CLOSE ? "%s(%u," : "%s(", control_names[opcode - GW__WS_CLOSE], (unsigned)code);
    trace_word(t, head);
    trace_add(t, bytes, len);
    trace_word(t, ")");
}

static void trace_piece(trace *t, gw__ws_found found, const gw__ws_piece *piece)
{
    if (found == GW__WS_CONTROL) {
        trace_control(t, piece->opcode, piece->close_code, piece->bytes, piece->len);
        return;
    }
    CHECK(piece->opcode == GW__WS_TEXT || piece->opcode == GW__WS_BINARY);
    if (piece->begins_message) trace_word(t, piece->opcode == GW__WS_TEXT ? "text(" : "binary(");
    trace_add(t, piece->bytes, piece->len);
    if (piece->ends_message) trace_word(t, ")");
}

/* ---- feeding ---- */
static uint64_t seed;

static uint32_t chance(uint32_t below)
{
    seed = seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)(seed >> 33) % below;
}

/* All of `bytes` to ws at once; each chunk in memory of its own, so that a sanitizer sees a step behind its end. */
static int feed_chunk(gw__ws *ws, trace *t, const uint8_t *bytes, size_t len)
{
    uint8_t *copy = (uint8_t *)malloc(len ? len : 1), *at = copy;
    gw__ws_piece piece;
    gw__ws_found found;
    size_t used, left = len;
    if (!copy) abort();
    if (len) memcpy(copy, bytes, len);
    while ((found = gw__ws_next(ws, at, left, &used, &piece)) != GW__WS_NEED_MORE && found != GW__WS_BROKEN) {
        trace_piece(t, found, &piece);
        CHECK(used <= left);
        at += used;
        left -= used;
    }
    if (found == GW__WS_NEED_MORE) CHECK_EQ(used, left);
    else {
        t->close_code = ws->close_code;
        snprintf(t->why, sizeof t->why, "WebSocket: %s", ws->why);
        CHECK_EQ(gw__ws_next(ws, at, left, &used, &piece), GW__WS_BROKEN);     /* and stays so */
        CHECK_EQ(used, 0);
    }
    free(copy);
    return found != GW__WS_BROKEN;
}

/* step: bytes at a time; 0: of random size */
static void feed(trace *t, const uint8_t *bytes, size_t len, size_t step)
{
    gw__ws ws;
    size_t at = 0;
    gw__ws_begin(&ws);
    trace_begin(t);
    do {
        size_t chunk = step ? step : chance(4) ? 1 + chance(9) : 1 + chance(70000);
        if (chunk > len - at) chunk = len - at;
        if (!feed_chunk(&ws, t, bytes + at, chunk)) break;
        at += chunk;
    } while (at < len);
}

static void check_trace(const uint8_t *bytes, size_t len, size_t step, const char *want)
{
    trace t;
    feed(&t, bytes, len, step);
    CHECK_EQ(t.close_code, 0);
    CHECK_TEXT(t.text, want);
    free(t.text);
}

/* Whole, byte by byte, at random, and cut at every length: then no more than a beginning of the whole comes out. */
static void gives_bytes(const uint8_t *bytes, size_t len, const char *want)
{
    size_t cut;
    check_trace(bytes, len, len, want);
    check_trace(bytes, len, 1, want);
    check_trace(bytes, len, 3, want);
    for (cut = 0; cut < len; cut++) {
        trace t;
        feed(&t, bytes, cut, len);
        CHECK_EQ(t.close_code, 0);
        CHECK(t.len < strlen(want) && strncmp(t.text, want, t.len) == 0);
        free(t.text);
    }
}

static void breaks_bytes(const uint8_t *bytes, size_t len, uint16_t code, const char *why)
{
    size_t step, cut;
    for (step = 1; step <= len; step++) {
        trace t;
        feed(&t, bytes, len, step);
        CHECK_EQ(t.close_code, code);
        CHECK_HAS(t.why, why);
        free(t.text);
    }
    for (cut = 0; cut < len; cut++) {       /* before the fault is there nothing may be said of it; after it, only that */
        trace t;
        feed(&t, bytes, cut, len);
        CHECK(t.close_code == 0 || t.close_code == code);
        free(t.text);
    }
}

#define GIVES(bytes, want) gives_bytes((const uint8_t *)(bytes), sizeof(bytes) - 1, want)
#define BREAKS(bytes, code, why) breaks_bytes((const uint8_t *)(bytes), sizeof(bytes) - 1, code, why)

/* ---- section 5.7: the examples of the RFC ---- */
TEST(ws_takes_a_single_frame_text_message)              /* 5.7, first example */
{
    GIVES("\x81\x05" "Hello", "text(Hello)");
}

TEST(ws_joins_a_fragmented_text_message)                /* 5.7, third example */
{
    GIVES("\x01\x03" "Hel" "\x80\x02" "lo", "text(Hello)");
}

TEST(ws_hands_up_ping_and_pong_with_their_payload)      /* 5.7, fourth example; 5.5.2, 5.5.3 */
{
    GIVES("\x89\x05" "Hello", "ping(Hello)");
    GIVES("\x8a\x05" "Hello", "pong(Hello)");
    GIVES("\x89\x00", "ping()");
    GIVES("\x8a\x00", "pong()");
}

static void check_long(const char *header, size_t header_len, size_t payload_len)
{
    uint8_t *bytes = (uint8_t *)malloc(header_len + payload_len);
    trace want, got;
    size_t i;
    if (!bytes) abort();
    memcpy(bytes, header, header_len);
    for (i = 0; i < payload_len; i++) bytes[header_len + i] = (uint8_t)('a' + i % 26);
    trace_begin(&want);
    trace_word(&want, "binary(");
    trace_add(&want, bytes + header_len, payload_len);
    trace_word(&want, ")");
    check_trace(bytes, header_len + payload_len, header_len + payload_len, want.text);
    check_trace(bytes, header_len + payload_len, 1, want.text);
    check_trace(bytes, header_len + payload_len, 0, want.text);
    for (i = 0; i < header_len + payload_len; i += 1 + i / 16) {
        feed(&got, bytes, i, i ? i : 1);
        CHECK(got.close_code == 0 && got.len < want.len && memcmp(got.text, want.text, got.len) == 0);
        free(got.text);
    }
    free(want.text);
    free(bytes);
}

TEST(ws_takes_16_and_64_bit_lengths)                    /* 5.7, fifth and sixth example; 5.2 */
{
    check_long("\x82\x7e\x01\x00", 4, 256);
    check_long("\x82\x7f\x00\x00\x00\x00\x00\x01\x00\x00", 10, 65536);
    check_long("\x82\x7d", 2, 125);
    check_long("\x82\x7e\x00\x7e", 4, 126);
    check_long("\x82\x7e\x00\x7f", 4, 127);
    check_long("\x82\x7e\xff\xff", 4, 65535);
}

TEST(ws_waits_for_a_huge_frame_without_storing_it)      /* 5.2: up to 2^63 - 1 */
{
    gw__ws ws;
    gw__ws_piece piece;
    size_t used;
    static const uint8_t start[] = { 0x82, 0x7f, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 'a', 'b' };
    gw__ws_begin(&ws);
    CHECK_EQ(gw__ws_next(&ws, start, sizeof start, &used, &piece), GW__WS_DATA);
    CHECK_EQ(used, sizeof start);
    CHECK(piece.bytes == start + 10);       /* a view into the caller's bytes */
    CHECK_EQ(piece.len, 2);
    CHECK(piece.begins_message && !piece.ends_message);
    CHECK_EQ(gw__ws_next(&ws, NULL, 0, &used, &piece), GW__WS_NEED_MORE);
    CHECK_EQ(used, 0);
}

/* ---- section 5.2: the header ---- */
TEST(ws_refuses_reserved_bits)                          /* 5.2: RSV1-3, no extension negotiated */
{
    BREAKS("\xc1\x01" "a", 1002, "reserved bit");
    BREAKS("\xa1\x01" "a", 1002, "reserved bit");
    BREAKS("\x91\x01" "a", 1002, "reserved bit");
    BREAKS("\xc9\x00", 1002, "reserved bit");
    BREAKS("\x01\x01" "a" "\xc0\x01" "b", 1002, "reserved bit");
}

TEST(ws_refuses_reserved_opcodes)                       /* 5.2: 3-7, B-F */
{
    char frame[2] = { 0, 0 };
    int opcode;
    for (opcode = 0; opcode < 16; opcode++) {
        int known = opcode == 1 || opcode == 2 || (opcode >= 8 && opcode <= 10);
        trace t;
        frame[0] = (char)(0x80 | opcode);
        feed(&t, (const uint8_t *)frame, 2, 1);
        CHECK_EQ(t.close_code, known ? 0 : 1002);
        if (opcode > 2 && !known) CHECK_HAS(t.why, "does not exist");
        free(t.text);
    }
}

TEST(ws_refuses_masked_server_frames)                   /* 5.1 */
{
    BREAKS("\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58", 1002, "masked");
    BREAKS("\x89\x80\x00\x00\x00\x00", 1002, "masked");
}

TEST(ws_refuses_lengths_not_in_their_shortest_form)     /* 5.2: minimal number of bytes */
{
    BREAKS("\x82\x7e\x00\x7d", 1002, "shortest");
    BREAKS("\x82\x7e\x00\x00", 1002, "shortest");
    BREAKS("\x82\x7f\x00\x00\x00\x00\x00\x00\x00\x05", 1002, "shortest");
    BREAKS("\x82\x7f\x00\x00\x00\x00\x00\x00\xff\xff", 1002, "shortest");
}

TEST(ws_refuses_lengths_with_the_highest_bit)           /* 5.2: most significant bit MUST be 0 */
{
    BREAKS("\x82\x7f\x80\x00\x00\x00\x00\x00\x00\x00", 1002, "2^63");
    BREAKS("\x82\x7f\xff\xff\xff\xff\xff\xff\xff\xff", 1002, "2^63");
}

/* ---- section 5.4: fragmentation ---- */
TEST(ws_takes_control_frames_between_fragments)         /* 5.4, 5.5 */
{
    GIVES("\x01\x03" "Hel" "\x89\x01" "?" "\x80\x02" "lo" "\x8a\x00", "text(Helping(?)lo)pong()");
    GIVES("\x02\x01" "a" "\x88\x02\x03\xe8", "binary(aclose(1000,)");
}

TEST(ws_takes_empty_frames_and_messages)                /* 5.2: a length may be 0 */
{
    GIVES("\x81\x00", "text()");
    GIVES("\x82\x00\x82\x00", "binary()binary()");
    GIVES("\x01\x00\x80\x00", "text()");
    GIVES("\x01\x00\x00\x00\x00\x01" "a" "\x00\x00\x80\x00\x81\x01" "b", "text(a)text(b)");
    GIVES("\x01\x01" "a" "\x80\x00", "text(a)");
}

TEST(ws_says_begin_and_end_of_a_message_once)           /* pieces, 5.4 */
{
    static const uint8_t bytes[] = { 0x02, 0x00, 0x00, 0x01, 'a', 0x80, 0x00 };
    gw__ws ws;
    gw__ws_piece piece;
    size_t used;
    gw__ws_begin(&ws);
    CHECK_EQ(gw__ws_next(&ws, bytes, sizeof bytes, &used, &piece), GW__WS_DATA);
    CHECK_EQ(used, 5);
    CHECK(piece.begins_message && !piece.ends_message && piece.len == 1 && piece.bytes == bytes + 4);
    CHECK_EQ(gw__ws_next(&ws, bytes + 5, 2, &used, &piece), GW__WS_DATA);
    CHECK_EQ(used, 2);
    CHECK(!piece.begins_message && piece.ends_message && piece.len == 0);
    CHECK_EQ(piece.opcode, GW__WS_BINARY);
    CHECK_EQ(gw__ws_next(&ws, bytes, 0, &used, &piece), GW__WS_NEED_MORE);
}

TEST(ws_refuses_a_continuation_of_no_message)           /* 5.4 */
{
    BREAKS("\x80\x01" "a", 1002, "continuation");
    BREAKS("\x00\x00", 1002, "continuation");
    BREAKS("\x81\x01" "a" "\x80\x01" "b", 1002, "continuation");
    BREAKS("\x01\x01" "a" "\x80\x01" "b" "\x80\x00", 1002, "continuation");
}

TEST(ws_refuses_a_message_inside_a_fragmented_message)  /* 5.4: must not interleave */
{
    BREAKS("\x01\x01" "a" "\x81\x01" "b", 1002, "inside");
    BREAKS("\x02\x00\x02\x00", 1002, "inside");
    BREAKS("\x01\x01" "a" "\x89\x00" "\x02\x00", 1002, "inside");
}

/* ---- section 5.5: control frames ---- */
TEST(ws_refuses_a_fragmented_ping)                      /* 5.5 */
{
    BREAKS("\x09\x00", 1002, "fragments");
    BREAKS("\x0a\x01" "a", 1002, "fragments");
    BREAKS("\x08\x02\x03\xe8", 1002, "fragments");
}

TEST(ws_refuses_a_control_frame_above_125_bytes)        /* 5.5 */
{
    BREAKS("\x89\x7e\x00\x7e", 1002, "125");
    BREAKS("\x8a\x7f\x00\x00\x00\x00\x00\x01\x00\x00", 1002, "125");
    BREAKS("\x88\x7e\x00\x05", 1002, "125");
}

TEST(ws_takes_a_ping_of_125_bytes)                      /* 5.5 */
{
    char frame[2 + 125 + 1], want[8 + 125];
    memset(frame, 'p', sizeof frame);
    frame[0] = (char)0x89;
    frame[1] = 125;
    frame[sizeof frame - 1] = 0;
    gw__text_format(want, sizeof want, "ping(%s)", frame + 2);
    gives_bytes((const uint8_t *)frame, 2 + 125, want);
}

/* ---- sections 5.5.1 and 7: closing ---- */
TEST(ws_takes_a_close_with_and_without_code)            /* 5.5.1, 7.1.5, 7.1.6 */
{
    GIVES("\x88\x00", "close(0,)");
    GIVES("\x88\x02\x03\xe8", "close(1000,)");
    GIVES("\x88\x05\x0f\xa4" "bye", "close(4004,bye)");
    GIVES("\x88\x04\x0f\xa0\xc3\xa4", "close(4000,\xc3\xa4)");
}

TEST(ws_refuses_a_close_with_a_one_byte_payload)        /* 5.5.1 */
{
    BREAKS("\x88\x01\x03", 1002, "half a code");
}

TEST(ws_refuses_a_close_reason_that_is_not_utf8)        /* 5.5.1, 8.1 */
{
    BREAKS("\x88\x03\x03\xe8\xff", 1007, "reason");
    BREAKS("\x88\x03\x03\xe8\xc3", 1007, "reason");
    BREAKS("\x88\x05\x03\xe8\xed\xa0\x80", 1007, "reason");
}

TEST(ws_takes_exactly_the_close_codes_that_may_be_sent) /* 7.4.1, 7.4.2 */
{
    uint32_t code;
    for (code = 0; code <= 0xffff; code++) {
        int valid = (code >= 1000 && code <= 1014 && code != 1004 && code != 1005 && code != 1006) || (code >= 3000 && code <= 4999);
        uint8_t frame[4] = { 0x88, 2, 0, 0 };
        gw__ws ws;
        gw__ws_piece piece;
        size_t used;
        frame[2] = (uint8_t)(code >> 8);
        frame[3] = (uint8_t)(code & 255);
        gw__ws_begin(&ws);
        if (gw__ws_close_code_is_valid((uint16_t)code) != valid) CHECK_EQ(code, 0);
        if (gw__ws_next(&ws, frame, 4, &used, &piece) != (valid ? GW__WS_CONTROL : GW__WS_BROKEN)) CHECK_EQ(code, 1);
        if (valid && piece.close_code != code) CHECK_EQ(piece.close_code, code);
    }
    BREAKS("\x88\x02\x03\xed", 1002, "close code");     /* 1005 */
    BREAKS("\x88\x02\x03\xf7", 1002, "close code");     /* 1015 */
}

TEST(ws_reads_nothing_behind_a_close)                   /* 5.5.1, 7.1.5 */
{
    static const uint8_t bytes[] = { 0x88, 0x02, 0x03, 0xe8, 0xff, 0xff, 0x81, 0x01, 'a' };
    trace t;
    size_t step;
    for (step = 1; step <= sizeof bytes; step++) {
        feed(&t, bytes, sizeof bytes, step);
        CHECK_TEXT(t.text, "close(1000,)");
        CHECK_EQ(t.close_code, 0);
        free(t.text);
    }
}

/* ---- section 8.1: UTF-8 ---- */
TEST(ws_takes_utf8_split_anywhere)                      /* 5.6: a fragment may end inside a character; 8.1 */
{
    GIVES("\x81\x0d" "\xce\xba\xe1\xbd\xb9\xf0\x9f\x98\x80" "text", "text(\xce\xba\xe1\xbd\xb9\xf0\x9f\x98\x80text)");
    GIVES("\x01\x01\xf0\x00\x01\x9f\x89\x01\xff\x00\x00\x00\x01\x98\x80\x01\x80", "text(\xf0\x9fping(\xff)\x98\x80)");
    GIVES("\x81\x04\xf4\x8f\xbf\xbf", "text(\xf4\x8f\xbf\xbf)");
    GIVES("\x81\x03\xed\x9f\xbf\x81\x03\xee\x80\x80", "text(\xed\x9f\xbf)text(\xee\x80\x80)");
}

TEST(ws_refuses_text_that_is_not_utf8)                  /* 8.1: close with 1007 */
{
    BREAKS("\x81\x01\x80", 1007, "not UTF-8");
    BREAKS("\x81\x02\xc0\xaf", 1007, "not UTF-8");                  /* overlong */
    BREAKS("\x81\x03\xe0\x9f\xbf", 1007, "not UTF-8");
    BREAKS("\x81\x03\xed\xa0\x80", 1007, "not UTF-8");              /* surrogate */
    BREAKS("\x81\x04\xf4\x90\x80\x80", 1007, "not UTF-8");          /* above 10FFFF */
    BREAKS("\x81\x01\xf5", 1007, "not UTF-8");
    BREAKS("\x01\x01\xc3\x80\x01" "a", 1007, "not UTF-8");
}

TEST(ws_refuses_text_that_ends_inside_a_character)      /* 8.1 */
{
    BREAKS("\x81\x01\xc3", 1007, "not UTF-8");
    BREAKS("\x01\x03\xf0\x9f\x98\x80\x00", 1007, "not UTF-8");
    BREAKS("\x01\x02\xe1\xbd\x89\x00\x80\x00", 1007, "not UTF-8");
}

TEST(ws_refuses_bad_text_before_its_frame_is_whole)     /* 8.1: at once, not at the end of 64 MiB */
{
    static const uint8_t bytes[] = { 0x81, 0x7f, 0, 0, 0, 0, 4, 0, 0, 0, 'a', 0xff };
    trace t;
    feed(&t, bytes, sizeof bytes, 1);
    CHECK_EQ(t.close_code, 1007);
    CHECK_TEXT(t.text, "text(a");
    free(t.text);
}

TEST(ws_starts_each_text_anew)                          /* no state of one message reaches the next */
{
    GIVES("\x81\x02\xc3\xa4\x82\x01\xc3\x81\x01" "a", "text(\xc3\xa4)binary(\xc3)text(a)");
}

TEST(ws_does_not_check_binary_messages)                 /* 5.6: arbitrary bytes */
{
    GIVES("\x82\x03\xff\xc0\x80", "binary(\xff\xc0\x80)");
}

TEST(ws_does_not_check_a_skipped_message)
{
    static const uint8_t bytes[] = { 0x01, 0x01, 'a', 0x00, 0x01, 0xff, 0x80, 0x01, 0xc3, 0x81, 0x01, 0xff };
    gw__ws ws;
    gw__ws_piece piece;
    size_t used, at;
    gw__ws_begin(&ws);
    gw__ws_skip_message(&ws);       /* no message in hand: the next one is checked */
    CHECK_EQ(gw__ws_next(&ws, bytes, sizeof bytes, &used, &piece), GW__WS_DATA);
    at = used;
    gw__ws_skip_message(&ws);
    CHECK_EQ(gw__ws_next(&ws, bytes + at, sizeof bytes - at, &used, &piece), GW__WS_DATA);
    at += used;
    CHECK_EQ(gw__ws_next(&ws, bytes + at, sizeof bytes - at, &used, &piece), GW__WS_DATA);
    CHECK(piece.ends_message);
    at += used;
    CHECK_EQ(gw__ws_next(&ws, bytes + at, sizeof bytes - at, &used, &piece), GW__WS_BROKEN);
    CHECK_EQ(ws.close_code, 1007);
}

/* ---- an own simple reader of whole streams, to compare with ---- */
static int is_character(const uint8_t *b, size_t n)     /* one UTF-8 character of n bytes, by its value */
{
    static const uint32_t least[] = { 0, 0, 0x80, 0x800, 0x10000 };
    uint32_t value = n == 1 ? b[0] : b[0] & (0x7fu >> n);
    size_t i;
    for (i = 1; i < n; i++) {
        if ((b[i] & 0xc0) != 0x80) return 0;
        value = value << 6 | (b[i] & 0x3f);
    }
    return value >= least[n] && value <= 0x10ffff && (value < 0xd800 || value > 0xdfff);
}

static int is_text(const uint8_t *b, size_t len, int whole)
{
    while (len > 0) {
        size_t n = b[0] < 0x80 ? 1 : b[0] >= 0xc0 && b[0] < 0xe0 ? 2 : b[0] >= 0xe0 && b[0] < 0xf0 ? 3
                 : b[0] >= 0xf0 && b[0] < 0xf8 ? 4 : 0;
        if (n == 0) return 0;
        if (n > len) {          /* the beginning of a character: could it still become one? */
            uint8_t low[4], high[4];
            memset(low, 0x80, 4);
            memset(high, 0xbf, 4);
            memcpy(low, b, len);
            memcpy(high, b, len);
            return !whole && (is_character(low, n) || is_character(high, n));
        }
        if (!is_character(b, n)) return 0;
        b += n;
        len -= n;
    }
    return 1;
}

static uint32_t read_whole(const uint8_t *b, size_t len, trace *t)
{
    static uint8_t message[1 << 20];
    size_t message_len = 0, at = 0, i;
    uint32_t kind = 0;
    trace_begin(t);
    while (len - at >= 2) {
        uint32_t opcode = b[at] & 15u, fin = b[at] >> 7, small = b[at + 1] & 127u;
        size_t header = small == 126 ? 4 : small == 127 ? 10 : 2, have;
        uint64_t size = small;
        if ((b[at] & 0x70) || (b[at + 1] & 0x80)) return 1002;
        if (opcode > 10 || (opcode > 2 && opcode < 8)) return 1002;
        if (opcode >= 8 && (!fin || small > 125)) return 1002;
        if (opcode < 8 && (opcode == 0) != (kind != 0)) return 1002;
        if (len - at < header) return 0;
        if (header > 2) for (size = 0, i = 2; i < header; i++) size = size << 8 | b[at + i];
        if ((header == 4 && size < 126) || (header == 10 && size < 65536) || size >> 63) return 1002;
        at += header;
        have = size < len - at ? (size_t)size : len - at;
        if (opcode >= 8) {
            if (have < size) return 0;
            if (opcode == 8) {
                uint32_t code = size >= 2 ? (uint32_t)(b[at] << 8 | b[at + 1]) : 0;
                if (size == 1) return 1002;
                if (size && !(code >= 3000 && code <= 4999) && !(code >= 1000 && code <= 1014 && (code < 1004 || code > 1006))) return 1002;
                if (size && !is_text(b + at + 2, have - 2, 1)) return 1007;
                trace_control(t, 8, (uint16_t)code, b + at + (size ? 2 : 0), size ? have - 2 : 0);
                return 0;
            }
            trace_control(t, opcode, 0, b + at, have);
        } else {
            if (opcode) {
                kind = opcode;
                message_len = 0;
            }
            if (opcode && (have || (fin && size == 0))) trace_word(t, kind == 1 ? "text(" : "binary(");
            if (!opcode && message_len == 0 && (have || (fin && size == 0))) trace_word(t, kind == 1 ? "text(" : "binary(");
            memcpy(message + message_len, b + at, have);
            message_len += have;
            if (kind == 1 && !is_text(message, message_len, fin && have == size)) return 1007;
            trace_add(t, b + at, have);
            if (have < size) return 0;
            if (fin) {
                trace_word(t, ")");
                kind = 0;
            }
        }
        at += have;
    }
    return 0;
}

/* ---- random streams ---- */
static uint8_t stream[1 << 20];
static size_t stream_len;

static void put_frame(uint32_t first, const uint8_t *payload, size_t len)
{
    uint8_t header[10] = { 0, 0, 0, 0, 0, 0, 0, 0, 0, 0 };
    size_t n = 2;
    header[0] = (uint8_t)first;
    header[1] = (uint8_t)(len < 126 ? len : len < 65536 ? 126 : 127);
    if (header[1] == 126) {
        header[2] = (uint8_t)(len >> 8);
        header[3] = (uint8_t)(len & 255);
        n = 4;
    } else if (header[1] == 127) {
        header[7] = (uint8_t)(len >> 16);
        header[8] = (uint8_t)(len >> 8);
        header[9] = (uint8_t)(len & 255);
        n = 10;
    }
    memcpy(stream + stream_len, header, n);
    memcpy(stream + stream_len + n, payload, len);
    stream_len += n + len;
}

static void put_control(void)
{
    uint8_t payload[125];
    size_t len = chance(3) ? chance(6) : chance(126), i;
    for (i = 0; i < len; i++) payload[i] = (uint8_t)chance(256);
    put_frame(0x89 + chance(2), payload, len);
}

static void put_message(void)
{
    static const char *const characters[] = { "a", "\xc3\xa4", "\xe2\x82\xac", "\xf0\x9f\x98\x80", "\xed\x9f\xbf", "\xf4\x8f\xbf\xbf" };
    static const size_t sizes[] = { 0, 1, 5, 124, 126, 130, 65530, 65536, 66000 };
    static uint8_t text[70000];
    uint32_t opcode = 1 + chance(2);
    size_t want = sizes[chance(chance(8) ? 6 : 9)], len = 0, at = 0;
    while (len < want) {
        const char *c = characters[chance(6)];
        memcpy(text + len, c, strlen(c));
        len += strlen(c);
    }
    do {
        size_t part = chance(3) ? len - at : chance((uint32_t)(len - at) + 1);
        int fin = part == len - at && chance(4);
        if (chance(4) == 0) put_control();
        put_frame((fin ? 0x80u : 0u) | opcode, text + at, part);
        opcode = 0;
        at += part;
        if (fin) return;
    } while (stream_len < sizeof stream / 4);
    put_frame(0x80, text, 0);
}

static void compare_with_reference(const uint8_t *bytes, size_t len)
{
    trace want, got;
    uint32_t code = read_whole(bytes, len, &want);
    int way;
    for (way = 0; way < 3; way++) {
        feed(&got, bytes, len, way == 0 ? len : way == 1 && len < 20000 ? 1 : 0);
        CHECK_EQ(got.close_code, code);
        if (code == 0) CHECK(got.len == want.len && memcmp(got.text, want.text, want.len) == 0);
        free(got.text);
    }
    free(want.text);
}

TEST(ws_agrees_with_a_simple_reader_on_random_streams)  /* seeded: a failure comes back */
{
    uint32_t round;
    for (round = 1; round <= 400 && !check_failures; round++) {
        uint32_t messages = 1 + chance(6);
        seed = round;
        stream_len = 0;
        while (messages-- > 0) put_message();
        if (chance(2)) put_frame(0x88, (const uint8_t *)"\x0f\xa0" "end", chance(2) ? 0 : 5);
        if (chance(2)) stream_len -= chance((uint32_t)stream_len);
        if (stream_len && chance(2)) stream[chance((uint32_t)(stream_len < 64 ? stream_len : 64))] ^= (uint8_t)(1u << chance(8));
        else if (stream_len && chance(2)) stream[chance((uint32_t)stream_len)] ^= (uint8_t)(1u << chance(8));
        compare_with_reference(stream, stream_len);
        if (check_failures) fprintf(stderr, "  seed %u\n", (unsigned)round);
    }
}

TEST(ws_agrees_with_a_simple_reader_on_noise)
{
    uint32_t round;
    size_t i;
    for (round = 1; round <= 20000 && !check_failures; round++) {
        seed = round;
        stream_len = 2 + chance(24);
        for (i = 0; i < stream_len; i++) stream[i] = (uint8_t)(chance(3) ? chance(256) : chance(6));
        if (chance(4)) stream[0] = (uint8_t)(chance(2) ? 0x81 : 0x88);
        if (chance(4)) stream[1] = (uint8_t)chance(8);
        compare_with_reference(stream, stream_len);
        if (check_failures) fprintf(stderr, "  seed %u\n", (unsigned)round);
    }
}

/* ---- the way out ---- */
static gw__mem mem;
static gw__buf out;
static const uint8_t rfc_mask[4] = { 0x37, 0xfa, 0x21, 0x3d };      /* of 5.7's second example */

static void out_begin(size_t max)
{
    gw__mem_init(&mem, NULL, NULL);
    gw__buf_init(&out, &mem, max);
}

#define CHECK_OUT(want) CHECK_BYTES(gw__buf_data(&out), gw__buf_len(&out), want, sizeof(want) - 1)

TEST(ws_writes_masked_frames)                           /* 5.7, second and fourth example; 5.3 */
{
    out_begin(1000);
    CHECK(gw__ws_write(&out, GW__WS_TEXT, "Hello", 5, rfc_mask));
    CHECK_OUT("\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58");
    gw__buf_clear(&out);
    CHECK(gw__ws_write(&out, GW__WS_PONG, "Hello", 5, rfc_mask));
    CHECK(gw__ws_write(&out, GW__WS_PING, NULL, 0, rfc_mask));
    CHECK_OUT("\x8a\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58" "\x89\x80\x37\xfa\x21\x3d");
    gw__buf_free(&out);
}

TEST(ws_writes_lengths_in_their_shortest_form)          /* 5.2, 5.3: each byte i is masked by mask[i mod 4] */
{
    static const size_t sizes[] = { 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 15, 16, 17, 125, 126, 127, 65535, 65536, 65543 };
    static uint8_t payload[65543];
    size_t i, k;
    for (i = 0; i < sizeof payload; i++) payload[i] = (uint8_t)(i * 7 + (i >> 8));
    out_begin(100000);
    for (k = 0; k < sizeof sizes / sizeof *sizes; k++) {
        size_t len = sizes[k], header = len < 126 ? 2 : len < 65536 ? 4 : 10, wrong = 0;
        const uint8_t *bytes;
        gw__buf_clear(&out);
        if (!CHECK(gw__ws_write(&out, GW__WS_BINARY, payload, len, rfc_mask))) continue;
        CHECK_EQ(gw__buf_len(&out), header + 4 + len);
        bytes = gw__buf_data(&out);
        CHECK_EQ(bytes[0], 0x82);
        CHECK_EQ(bytes[1], 0x80 | (header == 2 ? len : header == 4 ? 126 : 127));
        if (header == 4) CHECK_EQ(bytes[2] << 8 | bytes[3], len);
        if (header == 10) CHECK_BYTES(bytes + 2, 5, "\0\0\0\0\0", 5);
        if (header == 10) CHECK_EQ((size_t)bytes[7] << 16 | (size_t)bytes[8] << 8 | bytes[9], len);
        CHECK_BYTES(bytes + header, 4, rfc_mask, 4);
        for (i = 0; i < len; i++) wrong += bytes[header + 4 + i] != (payload[i] ^ rfc_mask[i % 4]);
        CHECK_EQ(wrong, 0);
    }
    gw__buf_free(&out);
}

TEST(ws_writes_a_frame_whole_or_not_at_all)
{
    static const char payload[200] = "";
    out_begin(11);
    CHECK(gw__ws_write(&out, GW__WS_TEXT, "Hello", 5, rfc_mask));
    CHECK(!gw__ws_write(&out, GW__WS_PING, NULL, 0, rfc_mask));
    CHECK_EQ(gw__buf_len(&out), 11);
    gw__buf_clear(&out);
    CHECK(!gw__ws_write(&out, GW__WS_TEXT, "Hello!", 6, rfc_mask));
    CHECK(!gw__ws_write(&out, GW__WS_TEXT, payload, SIZE_MAX - 3, rfc_mask));
    CHECK_EQ(gw__buf_len(&out), 0);
    gw__buf_free(&out);
    out_begin(1000);
    CHECK(gw__ws_write(&out, GW__WS_PONG, payload, 125, rfc_mask));
    CHECK(!gw__ws_write(&out, GW__WS_PONG, payload, 126, rfc_mask));        /* 5.5 */
    CHECK_EQ(gw__buf_len(&out), 6 + 125);
    gw__buf_free(&out);
}

static void check_close(uint16_t code, const char *reason, const char *want, size_t want_len)
{
    static const uint8_t no_mask[4] = { 0, 0, 0, 0 };
    out_begin(1000);
    CHECK(gw__ws_write_close(&out, code, reason, no_mask));
    CHECK_BYTES(gw__buf_data(&out), gw__buf_len(&out), want, want_len);
    gw__buf_free(&out);
}

TEST(ws_writes_close_frames)                            /* 5.5.1 */
{
    char reason[200], want[6 + 125];
    check_close(0, "not said", "\x88\x80\0\0\0\0", 6);
    check_close(4000, NULL, "\x88\x82\0\0\0\0\x0f\xa0", 8);
    check_close(1000, "bye", "\x88\x85\0\0\0\0\x03\xe8" "bye", 11);
    memset(reason, 'r', sizeof reason);
    reason[122] = (char)0xc3;       /* a character that would straddle the end: 122 bytes are left */
    reason[123] = (char)0xa4;
    reason[124] = 0;
    memset(want, 'r', sizeof want);
    memcpy(want, "\x88\xfc\0\0\0\0\x03\xe8", 8);
    check_close(1000, reason, want, 6 + 124);
    reason[122] = 'r';
    reason[123] = 0;
    want[1] = (char)0xfd;
    check_close(1000, reason, want, 6 + 125);
}

CHECK_MAIN()
