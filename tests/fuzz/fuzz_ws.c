/* A server's byte stream through gw__ws_next(): whole, a byte at a time and in random cuts it must say the same, and
 * what it says must be what a second, plain reader of RFC 6455 says. Input: the seed of the cuts, the stream. */
#include "fuzz.h"

enum { DATA_BYTE = 'd', BEGIN = 'b', END = 'e', CONTROL = 'c', BROKEN = 'x' };

/* Data as marks of one byte each, so that it can be taken off again; see said_broken(). */
static void said_data(fuzz_text *said, const uint8_t *bytes, size_t len)
{
    size_t at;
    for (at = 0; at < len; at++) {
        uint8_t mark[2];
        mark[0] = DATA_BYTE;
        mark[1] = bytes[at];
        fuzz_add(said, mark, 2);
    }
}

static void said_mark(fuzz_text *said, uint8_t kind, uint8_t value)
{
    uint8_t mark[2];
    mark[0] = kind;
    mark[1] = value;
    fuzz_add(said, mark, 2);
}

/* How much of a frame's text was given out before its first bad byte depends on the cuts, and may. */
static void said_broken(fuzz_text *said, uint16_t code)
{
    while (said->len >= 2 && (said->bytes[said->len - 2] == DATA_BYTE ||
                              said->bytes[said->len - 2] == BEGIN)) said->len -= 2;
    said_mark(said, BROKEN, 0);
    fuzz_add_u64(said, code);
}

static void said_control(fuzz_text *said, uint32_t opcode, uint32_t code, const uint8_t *bytes,
                         size_t len)
{
    uint8_t at;
    said_mark(said, CONTROL, (uint8_t)opcode);
    fuzz_add_u64(said, code);
    fuzz_add_u64(said, len);
    for (at = 0; at < len; at++) said_mark(said, CONTROL, bytes[at]);
}

static void take(fuzz_text *said, const gw__ws_piece *piece)
{
    if (piece->begins_message) said_mark(said, BEGIN, (uint8_t)piece->opcode);
    said_data(said, piece->bytes, piece->len);
    if (piece->ends_message) said_mark(said, END, 0);
}

/* ---- ours; skip: messages are dropped here and there, which only must not crash ---- */
static void read_in_cuts(const uint8_t *bytes, size_t len, uint64_t seed, int skip, fuzz_text *said)
{
    gw__ws ws;
    gw__ws_piece piece;
    size_t at = 0, used;
    int ended = 0;
    gw__ws_begin(&ws);
    while (at < len) {
        size_t cut = fuzz_cut(&seed, len - at), done = 0;
        char *part = fuzz_copy(bytes + at, cut);
        const uint8_t *in = (const uint8_t *)part;
        gw__ws_found found;
        do {
            found = gw__ws_next(&ws, in + done, cut - done, &used, &piece);
            FUZZ_CHECK(used <= cut - done);
            done += used;
            if (found == GW__WS_DATA) {
                FUZZ_CHECK(!ended && (piece.opcode == GW__WS_TEXT ||
                                      piece.opcode == GW__WS_BINARY));
                FUZZ_CHECK(piece.len == 0 || (piece.bytes >= in &&
                                              piece.bytes + piece.len <= in + cut));
                FUZZ_CHECK(piece.len > 0 || piece.ends_message);
                take(said, &piece);
                if (skip && fuzz_random(&seed) % 2) gw__ws_skip_message(&ws);
            } else if (found == GW__WS_CONTROL) {
                FUZZ_CHECK(!ended && piece.len <= GW__WS_CONTROL_MAX);
                said_control(said, piece.opcode, piece.close_code, piece.bytes, piece.len);
                ended = piece.opcode == GW__WS_CLOSE;
            }
        } while (found == GW__WS_DATA || found == GW__WS_CONTROL);
        free(part);
        at += cut;
        if (found == GW__WS_BROKEN) {
            FUZZ_CHECK(!ended && ws.why && ws.why[0] && ws.close_code);
            FUZZ_CHECK(gw__ws_next(&ws, bytes, len, &used, &piece) == GW__WS_BROKEN && used == 0);
            said_broken(said, ws.close_code);
            return;
        }
        FUZZ_CHECK(done == cut);
    }
}

/* ---- the second reader, on the whole stream ---- */
static int is_utf8(const uint8_t *bytes, size_t len, int whole)    /* whole 0: may stop inside */
{
    size_t at = 0, more, i;
    while (at < len) {
        uint32_t code = bytes[at], least;
        if (code < 0x80) { at++; continue; }
        if (code >= 0xC2 && code <= 0xDF) { more = 1; least = 0x80; code &= 0x1F; }
        else if (code >= 0xE0 && code <= 0xEF) { more = 2; least = 0x800; code &= 0x0F; }
        else if (code >= 0xF0 && code <= 0xF4) { more = 3; least = 0x10000; code &= 0x07; }
        else return 0;
        for (i = 1; i <= more && at + i < len; i++) {
            if ((bytes[at + i] & 0xC0) != 0x80) return 0;
            code = code << 6 | (bytes[at + i] & 0x3F);
        }
        if (i <= more) {        /* cut: could what is there become a character? */
            uint32_t low = code << (6 * (more + 1 - i));
            uint32_t high = low | ((1u << (6 * (more + 1 - i))) - 1);
            return !whole && high >= least && low <= 0x10FFFF && !(low >= 0xD800 && high <= 0xDFFF);
        }
        if (code < least || code > 0x10FFFF || (code >= 0xD800 && code <= 0xDFFF)) return 0;
        at += more + 1;
    }
    return 1;
}

static int close_may_carry(uint32_t code)
{
    switch (code) {
    case 1000: case 1001: case 1002: case 1003: case 1007: case 1008: case 1009: case 1010:
    case 1011: case 1012: case 1013: case 1014: return 1;
    default: return code >= 3000 && code < 5000;
    }
}

static void read_plainly(const uint8_t *in, size_t len, fuzz_text *said)
{
    fuzz_text message;
    uint32_t opcode = 0, begun = 0, kind, code;
    size_t at = 0, header, here, i;
    uint64_t want;
    memset(&message, 0, sizeof message);
    while (len - at >= 2) {
        kind = in[at] & 15u;
        code = 0;
        if ((in[at] & 0x70) || (in[at + 1] & 0x80)) code = 1002;
        if (kind >= 8 && (kind > 10 || !(in[at] & 0x80) || in[at + 1] > 125)) code = 1002;
        if (kind < 8 && (kind > 2 || (kind == 0) != (opcode != 0))) code = 1002;
        if (code) { said_broken(said, 1002); break; }
        header = in[at + 1] == 126 ? 4 : in[at + 1] == 127 ? 10 : 2;
        if (len - at < header) break;
        for (want = header == 2 ? in[at + 1] : 0, i = 2; i < header; i++)
            want = want << 8 | in[at + i];
        if ((header == 4 && want < 126) || (header == 10 && (want < 65536 || want >> 63))) {
            said_broken(said, 1002);
            break;
        }
        at += header;
        here = want < len - at ? (size_t)want : len - at;
        if (kind >= 8) {
            const uint8_t *body = in + at;
            if (here < want) break;
            at += here;
            if (kind == 8 && here >= 2) {
                code = (uint32_t)body[0] << 8 | body[1];
                body += 2;
                here -= 2;
            } else if (kind == 8 && here == 1) {
                said_broken(said, 1002);
                break;
            }
            if (code && !close_may_carry(code)) { said_broken(said, 1002); break; }
            if (kind == 8 && want >= 2 && !code) { said_broken(said, 1002); break; }
            if (kind == 8 && !is_utf8(body, here, 1)) { said_broken(said, 1007); break; }
            said_control(said, kind, code, body, here);
            if (kind == 8) break;
            continue;
        }
        if (kind) { opcode = kind; begun = 0; message.len = 0; }
        i = (in[at - header] & 0x80) && here == want;       /* the message ends here */
        if (opcode == GW__WS_TEXT) fuzz_add(&message, in + at, here);
        if (opcode == GW__WS_TEXT && !is_utf8(message.bytes, message.len, i != 0)) {
            said_broken(said, 1007);
            break;
        }
        if (!begun && (here || i)) { said_mark(said, BEGIN, (uint8_t)opcode); begun = 1; }
        said_data(said, in + at, here);
        at += here;
        if (i) { said_mark(said, END, 0); opcode = 0; }
        if (here < want) break;
    }
    fuzz_free(&message);
}

/* ---- and the way out: what we write is what was to be written ---- */
static void write_and_look(const uint8_t *bytes, size_t len)
{
    static const uint8_t mask[4] = { 0xA5, 0x00, 0xFF, 0x3C };
    fuzz_memory memory;
    gw__mem mem;
    gw__buf out;
    size_t header, i;
    memset(&memory, 0, sizeof memory);
    gw__mem_init(&mem, fuzz_alloc, &memory);
    gw__buf_init(&out, &mem, SIZE_MAX / 2);
    FUZZ_CHECK(gw__ws_write(&out, GW__WS_TEXT, bytes, len, mask));
    header = len > 0xffff ? 14 : len > 125 ? 8 : 6;
    FUZZ_CHECK(gw__buf_len(&out) == header + len && gw__buf_data(&out)[0] == 0x81);
    for (i = 0; i < len; i++)
        FUZZ_CHECK((gw__buf_data(&out)[header + i] ^ mask[i & 3]) == bytes[i]);
    gw__buf_free(&out);
    FUZZ_CHECK(memory.live_blocks == 0);
}

static void fuzz_one(const uint8_t *bytes, size_t len)
{
    fuzz_text plain, whole, single, cuts, skipped;
    uint64_t seed = len ? bytes[0] + 1u : 1;
    if (len == 0) return;
    bytes++;
    len--;
    memset(&plain, 0, sizeof plain);
    whole = single = cuts = skipped = plain;
    read_plainly(bytes, len, &plain);
    read_in_cuts(bytes, len, FUZZ_WHOLE, 0, &whole);
    read_in_cuts(bytes, len, 0, 0, &single);
    read_in_cuts(bytes, len, seed, 0, &cuts);
    read_in_cuts(bytes, len, seed, 1, &skipped);
    FUZZ_CHECK(fuzz_same(&whole, &single));
    FUZZ_CHECK(fuzz_same(&whole, &cuts));
    FUZZ_CHECK(fuzz_same(&whole, &plain));
    write_and_look(bytes, len);
    fuzz_free(&plain);
    fuzz_free(&whole);
    fuzz_free(&single);
    fuzz_free(&cuts);
    fuzz_free(&skipped);
}
