/* replay.h -- plays a recorded trace to a real client, and tells where that does something else.
 *
 *   replay r;
 *   replay_begin(&r, stdout);                  where differences are printed; NULL: nowhere
 *   replay_text(&r, text, len);                the recording
 *   printf("%u\n", r.differences);
 *   replay_end(&r);
 *
 * A recording has one payload a line, in one of two forms; other lines of a log are passed over:
 *   {"ms":N,"shard":N,"dir":"in","payload":{...}}      tail --trace FILE; "out": it was sent
 *   < {...}    > {...}                                 the log at GW_LOG_TRACE, after any prefix
 *
 * Each shard of it is played to a client of its own, over a transport, on a clock that only we
 * move. We are the server: 101, then the recorded payloads at their times, counted from the begin
 * of their connection. Where the recording tells that a new one began (replay_plan_connections),
 * the one before is cut, or closed with 4009 where an Identify follows a living session. Chance is
 * ours as well: the first heartbeat leaves when it did. What the recorded program did by itself is
 * done when it shows: commands, presences, probes (gw_recheck), a loop that slept. Of a log without
 * times the order is kept; a recording that begins with a Resume gets a session before it.
 *
 * Compared: events (name, s, d byte for byte) and what is sent (op, d; not Identify's properties).
 * "***" in the recording fits anything. What was passed over is played as large as it was, and must
 * be passed over again. Not seen: a recorded event that was changed, since it is what we play, and
 * why a connection ended, which no trace tells. Not sure: heartbeats in the same millisecond as
 * something that was received, or in a loop that slept for longer than their interval.
 * Include discord_gateway.h with DISCORD_GATEWAY_IMPLEMENTATION first. */
#ifndef REPLAY_H
#define REPLAY_H
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define REPLAY_TOKEN "a-token-of-no-bot-at-all"
#define REPLAY_FAR_US UINT64_C(10000000)        /* a Hello more than this after 101 comes at once */
#define REPLAY_PATIENCE_US UINT64_C(120000000)  /* for a client that is to connect */
#define REPLAY_NEAR_MS 500u     /* a heartbeat more than this before its time is no regular one */
#define REPLAY_GUESSES 50u
#define REPLAY_BYTES_MAX (256u << 20)   /* of a payload that was passed over */
#define REPLAY_SHOWN 200u                       /* differences */

typedef enum replay_beat { REPLAY_NO_BEAT, REPLAY_REGULAR, REPLAY_ASKED, REPLAY_PROBE } replay_beat;

typedef struct replay_line {
    size_t number;              /* in the recording; 0: of our own making, and not compared */
    uint64_t ms;
    uint32_t has_ms, is_out;
    int32_t shard;
    const char *text;           /* the payload */
    size_t len;
    int64_t op;                 /* -1: none */
    uint64_t seq, bytes;        /* bytes: passed over, so large */
    uint32_t has_seq, passed_over;
    char name[64];
    gw_json d;
    /* the plan */
    uint32_t connection;        /* 1, 2 ... */
    replay_beat beat;
    uint32_t is_probe;          /* for sure */
    uint32_t jitter_ms;         /* of a Hello */
} replay_line;

typedef struct replay_stream {
    struct replay *r;
    uint8_t *in, *out;          /* from the client, to it */
    size_t in_len, in_cap, out_begin, out_len, out_cap;
    uint32_t upgraded, ended;
    uint32_t number;
} replay_stream;

typedef struct replay_sent {
    struct replay_sent *next;
    uint64_t at_us;
    char *text;
    size_t len;
    int64_t op;
} replay_sent;

typedef struct replay_event {
    struct replay_event *next;
    uint32_t type;
    uint64_t seq, bytes;
    char name[64];
    char *d;
    size_t d_len;
} replay_event;

typedef struct replay {
    FILE *out;
    uint32_t differences, payloads, connections, shards;
    replay_line *lines;         /* of the recording */
    size_t count, cap;
    char *made;                 /* text of our own lines */
    /* one shard's run */
    replay_line *plan;
    size_t planned;
    gw_client *gw;
    gw_transport transport;
    uint64_t now_us, base_us, base_ms, moved;
    uint32_t random;
    uint32_t opened, connection;
    uint32_t begun, has_seq;    /* a session, with a seq */
    uint32_t handshaken, resuming;      /* Identify or Resume was sent; no RESUMED yet */
    uint64_t seq;
    uint32_t ready_awaited;
    /* the client ended the connection: told once, and the rest of it is not played */
    uint32_t left;
    uint32_t early;             /* beats that came before their line */
    uint64_t early_us;
    replay_stream *stream;
    replay_sent *sent, **sent_last;
    replay_event *events, **events_last;
    uint8_t unwanted[GW_DISPATCH_END_];         /* passed over by gw_want, at least once */
    char fatal[300];
} replay;

static inline void *replay_room(void *old, size_t bytes)
{
    void *room = realloc(old, bytes ? bytes : 1);
    if (room) return room;
    fprintf(stderr, "replay: no memory\n");
    exit(1);
}

static inline char *replay_copy(const char *text, size_t len)
{
    char *copy = (char *)replay_room(NULL, len + 1);
    if (len) memcpy(copy, text, len);
    copy[len] = 0;
    return copy;
}

/* One difference, at a line of the recording (NULL: at its end). */
static inline void replay_differs(replay *r, const replay_line *line, const char *what,
                                  const char *got, size_t got_len)
{
    r->differences++;
    if (!r->out || r->differences > REPLAY_SHOWN) return;
    if (line && line->number)
        fprintf(r->out, "line %lu (shard %d): ", (unsigned long)line->number, (int)line->shard);
    else if (line)
        fprintf(r->out, "before the first or after the last line (shard %d): ", (int)line->shard);
    fprintf(r->out, "%s", what);
    if (got)
        fprintf(r->out, ": %.*s%s", (int)(got_len < 300 ? got_len : 300), got,
                got_len < 300 ? "" : "...");
    fprintf(r->out, "\n");
    if (line && line->number)
        fprintf(r->out, "    recorded: %s %.*s%s\n", line->is_out ? ">" : "<",
                (int)(line->len < 300 ? line->len : 300),
                line->text, line->len < 300 ? "" : "...");
}

/* ---- the recording: lines ---- */
static inline gw_json replay_json(const char *text, size_t len)
{
    gw_json v;
    memset(&v, 0, sizeof v);
    v.ptr = text;
    v.len = len;
    return v;
}

static inline void replay_read_payload(replay_line *line, const char *text, size_t len)
{
    gw_json v = replay_json(text, len);
    line->text = text;
    line->len = len;
    line->op = gw_kind_of(&v, "op") == GW_NUMBER ? gw_i64(&v, "op") : -1;
    line->has_seq = gw_kind_of(&v, "s") == GW_NUMBER;
    line->seq = gw_u64(&v, "s");
    gw_text(&v, "t", line->name, sizeof line->name);
    gw_get(&v, "d", &line->d);
    line->bytes = gw_u64(&v, "bytes");
    line->passed_over = !line->is_out && gw_kind_of(&v, "bytes") == GW_NUMBER &&
        gw_kind_of(&v, "d") == GW_NULL;
}

/* Identify or Resume. */
static inline int replay_is_handshake(const replay_line *line)
{
    return line->is_out && (line->op == 2 || line->op == 6);
}

static inline void replay_add(replay *r, const replay_line *line)
{
    if (r->count == r->cap) {
        r->cap = (r->cap + 32) * 2;
        r->lines = (replay_line *)replay_room(r->lines, r->cap * sizeof *r->lines);
    }
    r->lines[r->count++] = *line;
}

/* The library's log; before it may stand what the program puts there, of which the last number is
 * the shard. */
static inline int replay_read_logged(replay_line *line, const char *text, size_t len)
{
    const char *brace = (const char *)memchr(text, '{', len), *at;
    if (!brace || brace - text < 2 || brace[-1] != ' ' || (brace[-2] != '<' && brace[-2] != '>'))
        return 0;
    line->is_out = brace[-2] == '>';
    for (at = text; at < brace; at++)
        if (*at >= '0' && *at <= '9' && (at == text || at[-1] < '0' || at[-1] > '9'))
            line->shard = atoi(at);
    replay_read_payload(line, brace, len - (size_t)(brace - text));
    return 1;
}

static inline int replay_read_traced(replay_line *line, const char *text, size_t len)
{
    gw_json v = replay_json(text, len), payload;
    if (!gw_get(&v, "payload", &payload) || gw_kind_of(&payload, NULL) != GW_OBJECT) return 0;
    if (!gw_is(&v, "dir", "in") && !gw_is(&v, "dir", "out")) return 0;
    line->is_out = gw_is(&v, "dir", "out") != 0;
    line->has_ms = gw_kind_of(&v, "ms") == GW_NUMBER;
    line->ms = gw_u64(&v, "ms");
    line->shard = (int32_t)gw_i64(&v, "shard");
    if (line->shard < 0) line->shard = 0;
    replay_read_payload(line, payload.ptr, payload.len);
    return 1;
}

static inline void replay_read(replay *r, const char *text, size_t len)
{
    const char *end = text + len, *next;
    size_t number = 0;
    for (; text < end; text = next) {
        const char *stop = (const char *)memchr(text, '\n', (size_t)(end - text));
        replay_line line;
        int is_cut = !stop;             /* its program was killed while it wrote */
        next = stop ? stop + 1 : end;
        len = (size_t)((stop ? stop : end) - text);
        while (len && (text[len - 1] == '\r' || text[len - 1] == ' ')) len--;
        memset(&line, 0, sizeof line);
        line.number = ++number;
        if (len && text[0] == '{' ? replay_read_traced(&line, text, len)
            : replay_read_logged(&line, text, len)) {
            if (gw__json_is_valid(line.text, line.len) && line.bytes <= REPLAY_BYTES_MAX) {
                replay_add(r, &line);
                continue;
            }
        } else if (!len || text[0] != '{') continue;
        if (!is_cut) replay_differs(r, NULL, "a line of the recording cannot be read", text, len);
    }
}

static inline uint32_t replay_type(const replay_line *line)
{
    uint32_t type = GW_DISPATCH_END_;
    while (--type > GW_UNKNOWN_DISPATCH && strcmp(gw_name_of(type), line->name) != 0) { }
    return type;
}

/* ---- the plan: connections, times, heartbeats ---- */

/* The next payload that the client sent on this connection is its handshake. */
static inline int replay_handshake_follows(const replay *r, size_t at)
{
    while (++at < r->planned) {
        const replay_line *line = &r->plan[at];
        if (!line->is_out && line->op == 10) return 0;
        if (line->is_out) return replay_is_handshake(line);
    }
    return 0;
}

/* The op of the first Identify or Resume from here on; -1: none follows. */
static inline int64_t replay_next_handshake(const replay *r, size_t at)
{
    for (; at < r->planned; at++) if (replay_is_handshake(&r->plan[at])) return r->plan[at].op;
    return -1;
}

/* A connection begins with the first payload, with what follows op 7 or op 9 (the client leaves at
 * those), with a Hello that Identify or Resume answers, and with a Hello after one that nothing
 * answered. Op 7 itself, which keeps a session, comes before the Hello of a new connection where an
 * Identify follows. */
static inline void replay_plan_connections(replay *r)
{
    uint32_t connection = 0, has_hello = 0, has_shaken = 0, is_over = 1, has_session = 0;
    size_t i;
    for (i = 0; i < r->planned; i++) {
        replay_line *line = &r->plan[i];
        int64_t op = line->is_out ? -1 : line->op;
        if (is_over || (op == 10 && has_shaken && replay_handshake_follows(r, i)) ||
            (op == 10 && has_hello && !has_shaken) ||
            (op == 7 && has_shaken && has_session && replay_next_handshake(r, i) == 2)) {
            connection++;
            has_hello = has_shaken = is_over = 0;
        }
        line->connection = connection;
        if (op == 10) has_hello = 1;
        if (replay_is_handshake(line)) has_shaken = 1;
        if (op == 7 || op == 9) is_over = 1;
        if (op == 0 && strcmp(line->name, "READY") == 0) has_session = 1;
        if (op == 9 && !gw_true(&line->d, NULL)) has_session = 0;
    }
}

static inline uint64_t replay_interval_ms(const replay_line *hello)
{
    uint64_t ms = gw_u64(&hello->d, "heartbeat_interval");
    return ms < 1000 ? 1000 : ms > 600000 ? 600000 : ms;
}

/* The Hello of its connection: a second one changes nothing. */
static inline int replay_is_hello(const replay *r, size_t at)
{
    const replay_line *line = &r->plan[at];
    if (line->is_out || line->op != 10) return 0;
    while (at-- && r->plan[at].connection == line->connection)
        if (!r->plan[at].is_out && r->plan[at].op == 10) return 0;
    return 1;
}

/* Times where the recording has none: all at once, but heartbeats one interval apart. One before
 * the ACK of the last is a probe, since at a regular one the client would have left. */
static inline void replay_plan_times(replay *r)
{
    uint64_t ms = 0, beat_ms = 0, interval_ms = 45000;
    uint32_t is_unanswered = 0;
    size_t i;
    for (i = 0; i < r->planned; i++) {
        replay_line *line = &r->plan[i];
        int is_beat = line->is_out && line->op == 1;
        if (is_beat && i && !line[-1].is_out && line[-1].op == 1) line->beat = REPLAY_ASKED;
        if (line->has_ms) { ms = line->ms; continue; }
        if (!line->is_out && line->op == 11) is_unanswered = 0;
        if (replay_is_hello(r, i)) {
            interval_ms = replay_interval_ms(line);
            beat_ms = is_unanswered = 0;
        }
        if (is_beat && line->beat != REPLAY_ASKED && is_unanswered) {
            line->beat = REPLAY_PROBE;
            line->is_probe = 1;
        } else if (is_beat && line->beat != REPLAY_ASKED) {
            ms = beat_ms && beat_ms + interval_ms > ms ? beat_ms + interval_ms : ms + 1;
            beat_ms = ms;
            is_unanswered = 1;
        }
        line->ms = ms;
    }
}

static inline int replay_may_be_regular(const replay_line *line)
{
    return line->is_out && line->op == 1 && line->beat != REPLAY_ASKED && !line->is_probe;
}

/* The heartbeats behind a Hello, if the first regular one was due after so many ms. A regular one
 * is never early (by far: then it is none of them), and a late one says that the loop slept. Gives
 * what speaks against the guess. */
static inline uint64_t replay_plan_beats_from(replay *r, size_t hello_at, uint64_t jitter_ms)
{
    replay_line *hello = &r->plan[hello_at];
    uint64_t interval_ms = replay_interval_ms(hello), due_ms = hello->ms + jitter_ms, late_ms;
    uint64_t against = 0;
    size_t i;
    for (i = hello_at + 1; i < r->planned && r->plan[i].connection == hello->connection; i++) {
        replay_line *line = &r->plan[i];
        if (!replay_may_be_regular(line)) continue;
        line->beat = line->ms + REPLAY_NEAR_MS < due_ms ? REPLAY_PROBE : REPLAY_REGULAR;
        late_ms = line->ms > due_ms ? line->ms - due_ms : 0;
        if (line->ms + 1 < due_ms) late_ms = REPLAY_NEAR_MS;
        against += late_ms < REPLAY_NEAR_MS ? late_ms : REPLAY_NEAR_MS;
        if (line->beat == REPLAY_PROBE) continue;
        due_ms += interval_ms;
        if (due_ms <= line->ms) due_ms = line->ms + interval_ms;
    }
    return against;
}

/* The jitter is not written down: each of the first beats gets its chance to tell it. Milliseconds
 * are cut off, so one is added: rather late than early. */
static inline void replay_plan_beats(replay *r, size_t hello_at)
{
    replay_line *hello = &r->plan[hello_at];
    uint64_t interval_ms = replay_interval_ms(hello), guess_ms, best_ms = interval_ms;
    uint64_t against, least = UINT64_MAX;
    uint32_t tries = 0;
    size_t i;
    for (i = hello_at + 1; i < r->planned && r->plan[i].connection == hello->connection; i++) {
        const replay_line *line = &r->plan[i];
        if (!replay_may_be_regular(line)) continue;
        guess_ms = line->ms > hello->ms ? (line->ms - hello->ms) % interval_ms : 0;
        against = replay_plan_beats_from(r, hello_at, guess_ms);
        if (against < least) {
            least = against;
            best_ms = guess_ms;
        }
        if (++tries == REPLAY_GUESSES) break;
    }
    replay_plan_beats_from(r, hello_at, best_ms);
    hello->jitter_ms = (uint32_t)(best_ms < interval_ms ? best_ms + 1 : best_ms);
}

static inline void replay_plan_own(replay *r, uint32_t is_out, const char *text, size_t len,
                                   int32_t shard)
{
    replay_line *line = &r->plan[r->planned++];
    memset(line, 0, sizeof *line);
    line->is_out = is_out;
    line->shard = shard;
    replay_read_payload(line, text, len);
}

/* A recording that begins with a Resume: the session of which it speaks is begun before. */
static inline void replay_plan_session(replay *r, const replay_line *resume)
{
    static const char hello[] = "{\"op\":10,\"d\":{\"heartbeat_interval\":45000}}",
        identify[] = "{\"op\":2,\"d\":{}}";
    gw_json id;
    size_t cap;
    gw_get(&resume->d, "session_id", &id);
    cap = id.len + 100;
    r->made = (char *)replay_room(r->made, cap);
    snprintf(r->made, cap, "{\"t\":\"READY\",\"s\":%llu,\"op\":0,\"d\":{\"session_id\":%.*s}}",
             (unsigned long long)gw_u64(&resume->d, "seq"), (int)id.len, id.ptr ? id.ptr : "");
    replay_plan_own(r, 0, hello, sizeof hello - 1, resume->shard);
    replay_plan_own(r, 1, identify, sizeof identify - 1, resume->shard);
    replay_plan_own(r, 0, r->made, strlen(r->made), resume->shard);
}

static inline const replay_line *replay_first_handshake(const replay *r, int32_t shard)
{
    size_t i;
    for (i = 0; i < r->count; i++)
        if (r->lines[i].shard == shard && replay_is_handshake(&r->lines[i])) return &r->lines[i];
    return NULL;
}

static inline void replay_make_plan(replay *r, int32_t shard)
{
    const replay_line *handshake = replay_first_handshake(r, shard);
    size_t i;
    r->plan = (replay_line *)replay_room(r->plan, (r->count + 3) * sizeof *r->plan);
    r->planned = 0;
    if (handshake && handshake->op == 6) replay_plan_session(r, handshake);
    for (i = 0; i < r->count; i++)
        if (r->lines[i].shard == shard) r->plan[r->planned++] = r->lines[i];
    replay_plan_connections(r);
    replay_plan_times(r);
    for (i = 0; i < r->planned; i++)
        if (replay_is_hello(r, i)) replay_plan_beats(r, i);
}

/* ---- the wire: the server's side of HTTP and RFC 6455, for one client at a time ---- */
static inline void replay_put(replay_stream *stream, const void *bytes, size_t len)
{
    if (stream->out_len + len > stream->out_cap) {
        stream->out_cap = (stream->out_len + len) * 2;
        stream->out = (uint8_t *)replay_room(stream->out, stream->out_cap);
    }
    if (len) memcpy(stream->out + stream->out_len, bytes, len);
    stream->out_len += len;
    stream->r->moved++;
}

static inline void replay_put_frame(replay_stream *stream, uint8_t opcode, const void *bytes,
                                    size_t len)
{
    uint8_t head[10];
    size_t head_len = 2, i;
    head[0] = (uint8_t)(0x80 | opcode);
    head[1] = (uint8_t)(len < 126 ? len : len < 65536 ? 126 : 127);
    if (len >= 126) head_len = len < 65536 ? 4 : 10;
    for (i = head_len; i > 2; i--) head[i - 1] = (uint8_t)((uint64_t)len >> 8 * (head_len - i));
    replay_put(stream, head, head_len);
    replay_put(stream, bytes, len);
}

/* RFC 6455 section 4.2.2: base64 of SHA-1 of key and GUID. */
static inline void replay_accept_key(const char *key, size_t key_len, char out[29])
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    uint8_t sum[21];
    br_sha1_context sha1;
    size_t i;
    br_sha1_init(&sha1);
    br_sha1_update(&sha1, key, key_len);
    br_sha1_update(&sha1, "258EAFA5-E914-47DA-95CA-C5AB0DC85B11", 36);
    br_sha1_out(&sha1, sum);
    sum[20] = 0;
    for (i = 0; i < 7; i++) {
        uint32_t three =
            (uint32_t)sum[3 * i] << 16 | (uint32_t)sum[3 * i + 1] << 8 | sum[3 * i + 2];
        size_t k;
        for (k = 0; k < 4; k++) out[4 * i + k] = digits[three >> (18 - 6 * k) & 63];
    }
    memcpy(out + 27, "=", 2);
}

static inline size_t replay_head_len(const replay_stream *stream)
{
    size_t i;
    for (i = 4; i <= stream->in_len; i++)
        if (memcmp(stream->in + i - 4, "\r\n\r\n", 4) == 0) return i;
    return 0;
}

static inline void replay_answer_upgrade(replay_stream *stream)
{
    size_t len = replay_head_len(stream), name_len = 19;
    const char *at = (const char *)stream->in, *end = at + len;
    char answer[200], accept[29] = "";
    for (; at + name_len < end; at++) {
        const char *stop;
        if (memcmp(at, "Sec-WebSocket-Key: ", name_len) != 0) continue;
        at += name_len;
        stop = (const char *)memchr(at, '\r', (size_t)(end - at));
        replay_accept_key(at, (size_t)(stop - at), accept);
        break;
    }
    snprintf(answer, sizeof answer, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
             "Connection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n", accept);
    replay_put(stream, answer, strlen(answer));
    memmove(stream->in, stream->in + len, stream->in_len - len);
    stream->in_len -= len;
    stream->upgraded = 1;
}

static inline void replay_note_sent(replay *r, const uint8_t *bytes, size_t len)
{
    replay_sent *sent = (replay_sent *)replay_room(NULL, sizeof *sent);
    gw_json v;
    sent->next = NULL;
    sent->at_us = r->now_us;
    sent->text = replay_copy((const char *)bytes, len);
    sent->len = len;
    v = replay_json(sent->text, len);
    sent->op = gw_kind_of(&v, "op") == GW_NUMBER ? gw_i64(&v, "op") : -1;
    *r->sent_last = sent;
    r->sent_last = &sent->next;
}

/* Whole frames of the client's; it sends no fragments and none above 4,096 bytes.
 * 0: there is none. */
static inline int replay_take_frame(replay_stream *stream)
{
    uint8_t *in = stream->in, *mask;
    size_t head = 2, len, i;
    if (stream->in_len < 2) return 0;
    len = in[1] & 0x7fu;
    if (len == 126) {
        if (stream->in_len < 4) return 0;
        len = (size_t)in[2] << 8 | in[3];
        head = 4;
    }
    if (stream->in_len < head + 4 + len) return 0;
    mask = in + head;
    for (i = 0; i < len; i++) mask[4 + i] ^= mask[i & 3];
    if ((in[0] & 15) == 1) replay_note_sent(stream->r, mask + 4, len);
    if ((in[0] & 15) == 8) stream->ended = 1;
    memmove(in, in + head + 4 + len, stream->in_len - head - 4 - len);
    stream->in_len -= head + 4 + len;
    return 1;
}

/* ---- hooks ---- */
static inline void *replay_on_open(void *user, const char *host, uint16_t port)
{
    replay *r = (replay *)user;
    replay_stream *stream = (replay_stream *)replay_room(NULL, sizeof *stream);
    (void)host; (void)port;
    memset(stream, 0, sizeof *stream);
    stream->r = r;
    stream->number = ++r->opened;
    r->stream = stream;
    r->moved++;
    return stream;
}

static inline int32_t replay_on_read(void *user, void *handle, void *bytes, uint32_t len)
{
    replay_stream *stream = (replay_stream *)handle;
    size_t part = stream->out_len - stream->out_begin;
    if (part == 0) return stream->ended ? -1 : 0;
    if (part > len) part = len;
    memcpy(bytes, stream->out + stream->out_begin, part);
    stream->out_begin += part;
    if (stream->out_begin == stream->out_len) stream->out_begin = stream->out_len = 0;
    ((replay *)user)->moved++;
    return (int32_t)part;
}

static inline int32_t replay_on_write(void *user, void *handle, const void *bytes, uint32_t len)
{
    replay_stream *stream = (replay_stream *)handle;
    if (stream->in_len + len > stream->in_cap) {
        stream->in_cap = (stream->in_len + len) * 2;
        stream->in = (uint8_t *)replay_room(stream->in, stream->in_cap);
    }
    if (len) memcpy(stream->in + stream->in_len, bytes, len);
    stream->in_len += len;
    ((replay *)user)->moved++;
    if (stream->upgraded) while (replay_take_frame(stream)) { }
    return (int32_t)len;
}

static inline intptr_t replay_on_fd(void *user, void *handle)
{
    (void)user; (void)handle;
    return -1;
}

static inline void replay_on_close(void *user, void *handle)
{
    replay *r = (replay *)user;
    replay_stream *stream = (replay_stream *)handle;
    if (r->stream == stream) r->stream = NULL;
    free(stream->in);
    free(stream->out);
    free(stream);
    r->moved++;
}

static inline uint64_t replay_on_monotonic(void *user) { return ((const replay *)user)->now_us; }
static inline uint64_t replay_on_unix(void *user)
{
    return UINT64_C(1767323045) + ((const replay *)user)->now_us / 1000000u;
}

/* All chance is r->random: 0, which is the shortest of waits, or the jitter that was recorded. */
static inline int32_t replay_on_random(void *user, void *bytes, size_t len)
{
    const replay *r = (const replay *)user;
    size_t i;
    for (i = 0; i < len; i++) ((uint8_t *)bytes)[i] = ((const uint8_t *)&r->random)[i & 3];
    return 1;
}

/* ---- the client, driven ---- */
static inline void replay_take_event(replay *r, const gw_event *event)
{
    replay_event *copy;
    if (event->type == GW_FATAL) snprintf(r->fatal, sizeof r->fatal, "%s", event->message);
    if (event->type > GW_GATEWAY_INFO && event->type != GW_SKIPPED) return;
    copy = (replay_event *)replay_room(NULL, sizeof *copy);
    memset(copy, 0, sizeof *copy);
    copy->type = event->type;
    copy->seq = event->seq;
    copy->bytes = event->bytes;
    snprintf(copy->name, sizeof copy->name, "%s", event->name);
    copy->d_len = event->d.ptr ? event->d.len : 0;
    copy->d = replay_copy(event->d.ptr, copy->d_len);
    *r->events_last = copy;
    r->events_last = &copy->next;
}

/* All that can happen without time passing. */
static inline void replay_settle(replay *r)
{
    uint32_t idle = 0;
    while (idle < 3) {
        uint64_t before = r->moved;
        const gw_event *event;
        while ((event = gw_poll(r->gw)) != NULL) {
            replay_take_event(r, event);
            r->moved++;
        }
        idle = r->moved == before ? idle + 1 : 0;
    }
}

static inline void replay_advance(replay *r, uint64_t until_us)
{
    int32_t timeout_ms = gw_timeout_ms(r->gw);
    uint64_t next_us = r->now_us + (timeout_ms > 0 ? (uint64_t)timeout_ms * 1000u : 1000u);
    if (timeout_ms < 0 || next_us > until_us) next_us = until_us;
    r->now_us = next_us;
    replay_settle(r);
}

static inline uint64_t replay_due_us(const replay *r, const replay_line *line)
{
    uint64_t ms = line->ms > r->base_ms ? line->ms - r->base_ms : 0;
    return r->base_us + ms * 1000u;
}

static inline void replay_wait_until(replay *r, uint64_t until_us)
{
    replay_settle(r);
    while (r->now_us < until_us) replay_advance(r, until_us);
}

/* ---- JSON that is the same but for order, blanks and what was redacted ---- */
static inline int replay_same(const gw_json *recorded, const gw_json *got, int is_identify)
{
    uint32_t kind = gw_kind_of(recorded, NULL), count = 0, others = 0;
    gw_json key, value, other;
    memset(&value, 0, sizeof value);
    memset(&other, 0, sizeof other);
    if (kind == GW_STRING && gw_is(recorded, NULL, "***"))
        return gw_kind_of(got, NULL) != GW_ABSENT;
    if (kind != gw_kind_of(got, NULL)) return 0;
    if (kind != GW_OBJECT && kind != GW_ARRAY)
        return recorded->len == got->len && memcmp(recorded->ptr, got->ptr, got->len) == 0;
    while (gw_next(got, NULL, &other)) others++;
    memset(&other, 0, sizeof other);
    while (gw_next(recorded, &key, &value)) {
        count++;
        if (kind == GW_ARRAY) {
            if (!gw_next(got, NULL, &other) || !replay_same(&value, &other, 0)) return 0;
            continue;
        } else {
            gw_json other_key, at;
            int found = 0;
            memset(&at, 0, sizeof at);
            while (!found && gw_next(got, &other_key, &at))
                found = other_key.len == key.len && memcmp(other_key.ptr, key.ptr, key.len) == 0;
            if (!found) return 0;
            if (is_identify && gw_is(&key, NULL, "properties")) continue;
            if (!replay_same(&value, &at, 0)) return 0;
        }
    }
    return count == others;
}

/* ---- what the recorded program gave to its client ---- */
typedef struct replay_presence {
    gw_presence presence;
    gw_activity activities[16];
    char status[20], texts[16][3][512];
} replay_presence;

static inline int replay_read_presence(const gw_json *d, replay_presence *out)
{
    gw_json activities, activity;
    memset(out, 0, sizeof *out);
    memset(&activity, 0, sizeof activity);
    if (gw_kind_of(d, "status") != GW_STRING || !gw_get(d, "activities", &activities)) return 0;
    gw_text(d, "status", out->status, sizeof out->status);
    out->presence.status = out->status;
    out->presence.afk = (uint32_t)gw_true(d, "afk");
    out->presence.since_ms = gw_u64(d, "since");
    out->presence.activities = out->activities;
    while (out->presence.activity_count < 16 && gw_next(&activities, NULL, &activity)) {
        uint32_t i = out->presence.activity_count++;
        gw_text(&activity, "name", out->texts[i][0], sizeof out->texts[i][0]);
        gw_text(&activity, "state", out->texts[i][1], sizeof out->texts[i][1]);
        gw_text(&activity, "url", out->texts[i][2], sizeof out->texts[i][2]);
        out->activities[i].name = out->texts[i][0];
        out->activities[i].type = (uint32_t)gw_u64(&activity, "type");
        if (gw_kind_of(&activity, "state") == GW_STRING)
            out->activities[i].state = out->texts[i][1];
        if (gw_kind_of(&activity, "url") == GW_STRING) out->activities[i].url = out->texts[i][2];
    }
    return 1;
}

static inline void replay_command(replay *r, const replay_line *line)
{
    static replay_presence presence;
    gw_ticket ticket;
    if (line->op == 3 && replay_read_presence(&line->d, &presence)) {
        ticket = gw_set_presence(r->gw, GW_ALL, &presence.presence);
    } else {
        ticket = gw_send_raw(r->gw, GW_ALL, (uint32_t)line->op, line->d.ptr ? line->d.ptr : "null",
                             line->d.ptr ? line->d.len : 4);
    }
    if (ticket < 0)
        replay_differs(r, line, "the client refuses what it sent then", gw_why(r->gw),
                       strlen(gw_why(r->gw)));
    replay_settle(r);
}

/* ---- comparing what is sent ---- */
static inline void replay_free_sent(replay_sent *sent)
{
    free(sent->text);
    free(sent);
}

static inline replay_sent *replay_pop_sent(replay *r)
{
    replay_sent *sent = r->sent;
    if (!sent) return NULL;
    r->sent = sent->next;
    if (!r->sent) r->sent_last = &r->sent;
    return sent;
}

/* A beat before its line, because milliseconds are all that was written down: kept for its line. */
static inline void replay_pop_early(replay *r, const replay_line *line)
{
    while (r->sent && r->sent->op == 1 && line->op != 1) {
        replay_sent *sent = replay_pop_sent(r);
        gw_json v = replay_json(sent->text, sent->len);
        if (r->early++ || (r->has_seq ? gw_u64(&v, "d") > r->seq : gw_kind_of(&v, "d") != GW_NULL))
            replay_differs(r, line, "a heartbeat that was not sent then", sent->text, sent->len);
        r->early_us = sent->at_us;
        replay_free_sent(sent);
    }
}

static inline void replay_compare_sent(replay *r, const replay_line *line)
{
    replay_sent *sent;
    gw_json v, d;
    if (line->op == 1 && r->early) {
        uint64_t due_us = replay_due_us(r, line);
        r->early = 0;
        if (due_us < r->early_us + REPLAY_NEAR_MS * 1000u) return;
        replay_differs(r, line, "a heartbeat was sent much before this one", NULL, 0);
    }
    replay_pop_early(r, line);
    while (r->sent && r->sent->op != line->op) {
        sent = replay_pop_sent(r);
        replay_differs(r, line, "something else was sent", sent->text, sent->len);
        replay_free_sent(sent);
    }
    sent = replay_pop_sent(r);
    if (!sent) {
        replay_differs(r, line, "this was not sent", NULL, 0);
        return;
    }
    v = replay_json(sent->text, sent->len);
    gw_get(&v, "d", &d);
    if (line->number && !replay_same(&line->d, &d, line->op == 2))
        replay_differs(r, line, "it was sent differently", sent->text, sent->len);
    replay_free_sent(sent);
}

/* The connection that the lines are of; the client may have begun another one. */
static inline int replay_is_up(const replay *r)
{
    return r->stream && r->stream->upgraded && !r->stream->ended;
}

static inline void replay_expect(replay *r, const replay_line *line)
{
    uint64_t due_us = replay_due_us(r, line), until_us = due_us + 2000000u;
    int is_handshake = replay_is_handshake(line);
    if (r->left) return;
    if (line->beat == REPLAY_REGULAR) {
        /* not polled in between: where it was late, the loop slept */
        if (r->now_us < due_us && !r->sent && !r->early) r->now_us = due_us;
        replay_settle(r);
        while (!r->sent && !r->early && replay_is_up(r) && r->now_us < until_us)
            replay_advance(r, until_us);
    } else if (line->beat == REPLAY_ASKED || is_handshake) {
        replay_settle(r);
    } else {
        replay_wait_until(r, due_us);
        replay_pop_early(r, line);
        if (!r->sent && line->beat == REPLAY_PROBE) gw_recheck(r->gw);
        else if (!r->sent) replay_command(r, line);
        replay_settle(r);
    }
    r->left = !replay_is_up(r) && !r->sent && !r->early;
    replay_compare_sent(r, line);
    if (is_handshake) {
        r->handshaken = 1;
        r->resuming = line->op == 6;
        r->ready_awaited = line->op == 2;
    }
}

/* ---- comparing events ---- */
static inline void replay_compare_event(replay *r, const replay_line *line)
{
    replay_event *event = r->events;
    int wants_skip = line->passed_over != 0, is_right;
    if (!event) {
        replay_differs(r, line, "no event came of it", NULL, 0);
        return;
    }
    r->events = event->next;
    if (!r->events) r->events_last = &r->events;
    is_right = strcmp(event->name, line->name) == 0 &&
        event->seq == (line->has_seq ? line->seq : 0) &&
               (event->type == GW_SKIPPED) == wants_skip;
    if (is_right && wants_skip) is_right = event->bytes == line->bytes;
    else if (is_right)
        is_right = event->d_len == line->d.len &&
            (!line->d.len || memcmp(event->d, line->d.ptr, line->d.len) == 0);
    if (!is_right && line->number) {
        char what[160];
        snprintf(what, sizeof what, "another event came of it, %s%s with s %llu", event->name,
                 event->type == GW_SKIPPED ? " (skipped)" : "", (unsigned long long)event->seq);
        replay_differs(r, line, what, event->d, event->d_len);
    }
    free(event->d);
    free(event);
}

/* What is to come of a dispatch; the rules of protocol.md 2.3, kept apart from the library's.
 * 1: an event. */
static inline int replay_brings_event(replay *r, const replay_line *line)
{
    int ends_replay = r->resuming && strcmp(line->name, "RESUMED") == 0;
    int begins = r->ready_awaited && strcmp(line->name, "READY") == 0;
    if (line->op != 0 || !r->handshaken) return 0;
    if (r->resuming && !ends_replay && line->has_seq && r->has_seq && line->seq <= r->seq) return 0;
    if (line->has_seq && (begins || !r->has_seq || line->seq > r->seq)) {
        r->seq = line->seq;
        r->has_seq = 1;
    }
    if (begins || ends_replay) {
        r->begun = 1;
        r->resuming = r->ready_awaited = 0;
    }
    return 1;
}

/* As large as it was; its body is one long string. */
static inline char *replay_make_large(const replay_line *line, size_t *len)
{
    char name[6 * sizeof line->name + 3], *text;
    size_t cap = (size_t)line->bytes + sizeof name + 100, used;
    int n;
    gw_quote(line->name, strlen(line->name), name, sizeof name);
    text = (char *)replay_room(NULL, cap);
    n = snprintf(text, cap, "{\"t\":%s,", name);
    if (line->has_seq)
        n += snprintf(text + n, cap - (size_t)n, "\"s\":%llu,", (unsigned long long)line->seq);
    n += snprintf(text + n, cap - (size_t)n, "\"op\":%lld,\"d\":\"", (long long)line->op);
    used = (size_t)n;
    while (used + 2 < line->bytes) text[used++] = 'x';
    memcpy(text + used, "\"}", 2);
    *len = used + 2;
    return text;
}

/* Waits for the client to connect, and lets it in. 0: it does not come. */
static inline int replay_meet(replay *r, const replay_line *line)
{
    uint64_t until_us = r->now_us + REPLAY_PATIENCE_US;
    replay_settle(r);
    while (r->now_us < until_us && gw_alive(r->gw) &&
           (!r->stream || r->stream->upgraded || !replay_head_len(r->stream)))
        replay_advance(r, until_us);
    if (!r->stream || r->stream->upgraded || !replay_head_len(r->stream)) {
        replay_differs(r, line, "the client does not connect", r->fatal, strlen(r->fatal));
        return 0;
    }
    replay_answer_upgrade(r->stream);
    r->handshaken = r->resuming = r->ready_awaited = r->left = 0;
    replay_settle(r);
    return 1;
}

static inline void replay_deliver(replay *r, const replay_line *line)
{
    if (r->left) return;
    replay_wait_until(r, replay_due_us(r, line));
    if (!replay_is_up(r) && line->op == 7) replay_meet(r, line);    /* before a new one's Hello */
    r->left = !replay_is_up(r);
    if (r->left) {
        replay_differs(r, line, "the client has left the connection already", NULL, 0);
        return;
    }
    if (line->op == 10) {
        uint64_t interval_ms = replay_interval_ms(line);
        r->random =
            (uint32_t)((line->jitter_ms * (uint64_t)UINT32_MAX + interval_ms - 1) / interval_ms);
    }
    if (r->unwanted[replay_type(line)]) gw_want(r->gw, replay_type(line), !line->passed_over);
    if (line->passed_over) {
        size_t len;
        char *text = replay_make_large(line, &len);
        replay_put_frame(r->stream, 1, text, len);
        free(text);
    } else replay_put_frame(r->stream, 1, line->text, line->len);
    replay_settle(r);
    r->random = 0;
    if (replay_brings_event(r, line) && !(line->passed_over && r->unwanted[replay_type(line)]))
        replay_compare_event(r, line);
    while (r->events) {
        replay_event *event = r->events;
        r->events = event->next;
        replay_differs(r, line, "an event came that did not come then", event->name,
                       strlen(event->name));
        free(event->d);
        free(event);
    }
    r->events_last = &r->events;
}

/* ---- one connection after the other ---- */
static inline void replay_end_connection(replay *r, size_t next)
{
    static const uint8_t timed_out[] = { 4009 >> 8, 4009 & 255 };
    replay_line line = r->plan[next];
    line.op = -1;
    replay_pop_early(r, &line);
    if (r->early)
        replay_differs(r, &r->plan[next],
                       "before this a heartbeat was sent that was not sent then", NULL, 0);
    while (r->sent) {
        replay_sent *sent = replay_pop_sent(r);
        replay_differs(r, &r->plan[next], "before this something was sent that was not sent then",
                       sent->text, sent->len);
        replay_free_sent(sent);
    }
    r->early = 0;
    if (!r->stream || !r->stream->upgraded) return;
    if (r->begun && replay_next_handshake(r, next) == 2)
        replay_put_frame(r->stream, 8, timed_out, sizeof timed_out);
    r->stream->ended = 1;
}

/* Presence is a property of the session: what the Identify that follows says was set before. */
static inline void replay_set_presence(replay *r, size_t at)
{
    static replay_presence presence;
    gw_json d;
    while (!replay_is_handshake(&r->plan[at])) at++;
    if (gw_get(&r->plan[at].d, "presence", &d) && replay_read_presence(&d, &presence))
        gw_set_presence(r->gw, GW_ALL, &presence.presence);
}

/* 0: the client does not come. */
static inline int replay_next_connection(replay *r, size_t at)
{
    const replay_line *line = &r->plan[at];
    uint64_t due_us;
    if (r->connection) {
        replay_end_connection(r, at);
        replay_settle(r);
        if (replay_next_handshake(r, at) == 2) replay_set_presence(r, at);
    }
    r->connection = line->connection;
    r->connections++;
    if (!replay_meet(r, line)) return 0;
    due_us = replay_due_us(r, line);
    if (at == 0 || due_us < r->now_us || due_us > r->now_us + REPLAY_FAR_US) {
        r->base_us = r->now_us;
        r->base_ms = line->ms;
    }
    return 1;
}

/* ---- config: from the first Identify ---- */
static inline void replay_configure(replay *r, gw_config *cfg, int32_t shard)
{
    static replay_presence presence;
    const replay_line *identify = NULL;
    gw_json d;
    size_t i;
    for (i = 0; i < r->planned && !identify; i++)
        if (r->plan[i].number && r->plan[i].is_out && r->plan[i].op == 2) identify = &r->plan[i];
    memset(cfg, 0, sizeof *cfg);
    cfg->token = REPLAY_TOKEN;
    cfg->url = "ws://127.0.0.1/";
    cfg->user = r;
    cfg->monotonic_us = replay_on_monotonic;
    cfg->unix_time = replay_on_unix;
    cfg->random = replay_on_random;
    cfg->transport = &r->transport;
    if (!identify && shard == 0) return;
    cfg->shard_first = shard;
    cfg->shard_count = 1;
    cfg->shard_total = shard + 1;
    if (!identify) return;
    cfg->intents = (uint32_t)gw_u64(&identify->d, "intents");
    cfg->large_threshold = (uint32_t)gw_u64(&identify->d, "large_threshold");
    if (gw_get(&identify->d, "presence", &d) && replay_read_presence(&d, &presence))
        cfg->presence = &presence.presence;
    if (gw_kind_of(&identify->d, "shard") == GW_ARRAY) {
        cfg->shard_first = (int32_t)gw_u64(&identify->d, "shard.0");
        cfg->shard_total = (int32_t)gw_u64(&identify->d, "shard.1");
    } else cfg->shard_first = cfg->shard_count = cfg->shard_total = 0;
}

/* Passed over was what is above max_payload, or what nobody wanted (gw_want): the trace does not
 * say which. Where all that was passed over is larger than all that was not, a limit between them
 * serves; else names do. */
static inline void replay_configure_limit(replay *r, gw_config *cfg)
{
    uint64_t least = UINT64_MAX, most = 64;
    size_t i;
    for (i = 0; i < r->planned; i++) {
        const replay_line *line = &r->plan[i];
        if (line->is_out) continue;
        if (!line->passed_over && line->d.len > most) most = line->d.len;
        if (line->passed_over && line->bytes < least) least = line->bytes;
    }
    if (least == UINT64_MAX) return;
    if (least > most + 200) {
        cfg->max_payload = (uint32_t)(least - 200 < UINT32_MAX ? least - 200 : UINT32_MAX);
        return;
    }
    for (i = 0; i < r->planned; i++)
        if (r->plan[i].passed_over) r->unwanted[replay_type(&r->plan[i])] = 1;
}

/* What the client does at the last line, and then, nobody may have written down any more. */
static inline void replay_end_shard(replay *r, int32_t shard)
{
    replay_line end;
    memset(&end, 0, sizeof end);
    end.shard = shard;
    end.text = "(its end)";
    end.len = 9;
    if (r->early && r->early_us + REPLAY_NEAR_MS * 1000u < r->now_us)
        replay_differs(r, &end, "a heartbeat was sent that was not sent then", NULL, 0);
    while (r->sent) {
        replay_sent *sent = replay_pop_sent(r);
        if (sent->at_us + REPLAY_NEAR_MS * 1000u < r->now_us)
            replay_differs(r, &end, "something was sent that was not sent then", sent->text,
                           sent->len);
        replay_free_sent(sent);
    }
}

static inline void replay_shard(replay *r, int32_t shard)
{
    gw_config cfg;
    size_t i;
    replay_make_plan(r, shard);
    memset(r->unwanted, 0, sizeof r->unwanted);
    replay_configure(r, &cfg, shard);
    replay_configure_limit(r, &cfg);
    r->shards++;
    r->now_us = 1000000000u;
    r->opened = r->connection = r->begun = r->has_seq = r->early = r->random = 0;
    r->seq = r->base_us = r->base_ms = 0;
    r->fatal[0] = 0;
    r->gw = gw_open(&cfg);
    if (!r->gw) {
        replay_differs(r, NULL, "no memory for a client", NULL, 0);
        return;
    }
    for (i = 0; i < r->planned; i++) {
        const replay_line *line = &r->plan[i];
        if (line->connection != r->connection && !replay_next_connection(r, i)) break;
        if (line->number) r->payloads++;
        if (line->is_out) replay_expect(r, line);
        else replay_deliver(r, line);
    }
    replay_end_shard(r, shard);
    gw_close(r->gw);
    r->gw = NULL;
}

/* ---- all of it ---- */
static inline void replay_begin(replay *r, FILE *out)
{
    memset(r, 0, sizeof *r);
    r->out = out;
    r->sent_last = &r->sent;
    r->events_last = &r->events;
    r->transport.open = replay_on_open;
    r->transport.read = replay_on_read;
    r->transport.write = replay_on_write;
    r->transport.fd = replay_on_fd;
    r->transport.close = replay_on_close;
}

/* The text must stay until replay_end(). */
static inline void replay_text(replay *r, const char *text, size_t len)
{
    size_t i, k;
    replay_read(r, text, len);
    if (r->count == 0) replay_differs(r, NULL, "there is no payload in the recording", NULL, 0);
    for (i = 0; i < r->count; i++) {
        for (k = 0; k < i && r->lines[k].shard != r->lines[i].shard; k++) { }
        if (k == i) replay_shard(r, r->lines[i].shard);
    }
}

static inline void replay_end(replay *r)
{
    free(r->lines);
    free(r->plan);
    free(r->made);
}
#endif
