/* The whole client against a peer, a caller and a clock that the input drives, over config.transport. Input: two bytes
 * of settings, then steps: a byte whose low half says what happens and whose high half says to which connection, and
 * what that step needs (see step()). In most settings a server answers each request as it should, with 101 and Hello,
 * and the input goes on behind that; in others the input is all that ever comes.
 * Must hold: no crash, no leak, no wrong size told to the allocator, memory below a bound; nobody is told to poll for
 * nothing; the token in no log, message, statistics or session text, not even when the server sends it back; what goes
 * out is masked, whole, valid JSON, at most 4,096 bytes, 120 in a minute, an Identify in 5 s; gw_stop() ends in 5 s. */
/* Without TLS, so that its answer comes from the input too. */
#define GW_API_URL "http://127.0.0.1:9"
#define GW_MAX_TOKENS 1024
#include "fuzz.h"

#define TOKEN "MTA5ODc2NTQzMjEw.GabcDE.thisTokenMustNeverBeSeen"
#define UNIX_TIME 1767323045u
#define MOST_STEPS 150u
#define RATE 120u

enum {      /* settings, the first byte */
    ANSWER_NOT = 1, ASK_URL = 2, SMALL_PAYLOAD = 4, ACK_BY_HAND = 8, TWO_SHARDS = 16,
    OWN_MEMORY = 32, STOP_AT_END = 64, NO_CLOCK = 128
};

typedef struct stream {
    struct stream *next;
    fuzz_text in;               /* on its way to the client */
    size_t in_at;
    fuzz_text out;              /* what the client wrote, as far as it is no whole thing yet */
    uint32_t ended, upgraded, answered;
    uint64_t sent_at_ms[RATE], sent_count;
} stream;

static struct {
    gw_client *gw;
    gw_config cfg;
    stream *streams;
    fuzz_memory memory;
    const uint8_t *at;          /* the rest of the input */
    size_t left;
    uint64_t now_us, slept_us, random, moved, seq;
    uint32_t settings, interval_ms, refuse, write_full, read_most, write_most, no_random;
    int32_t gate;
    uint64_t identified_ms;     /* 0: not yet */
    uint32_t has_identified;
    void *block;
} w;

/* ---- the input ---- */
static uint32_t take(void)
{
    if (w.left == 0) return 0;
    w.left--;
    return *w.at++;
}

static const uint8_t *take_bytes(size_t *len)
{
    const uint8_t *bytes = w.at;
    if (*len > w.left) *len = w.left;
    w.at += *len;
    w.left -= *len;
    return bytes;
}

/* ---- texts ---- */
static void no_token(const char *text)
{
    FUZZ_CHECK(text != NULL && gw__utf8_is(text, strlen(text)) && !strstr(text, TOKEN));
}

static void on_log(void *user, uint32_t level, int32_t shard, const char *text)
{
    (void)user; (void)shard;
    FUZZ_CHECK(level >= GW_LOG_ERROR && level <= GW_LOG_TRACE);
    FUZZ_CHECK(!strstr(text, TOKEN));
    if (level == GW_LOG_TRACE && (text[0] == '<' || text[0] == '>'))    /* a payload: a line of JSON */
        FUZZ_CHECK(gw__json_is_valid(text + 1, strlen(text + 1)) && !strchr(text, '\n'));
}

/* ---- hooks ---- */
static uint64_t on_monotonic(void *user) { (void)user; return w.now_us; }
static uint64_t on_boot(void *user) { (void)user; return w.now_us + w.slept_us; }

static uint64_t on_unix(void *user)
{
    (void)user;
    return w.settings & NO_CLOCK ? 0 : UNIX_TIME + (w.now_us + w.slept_us) / 1000000u;
}

static int32_t on_random(void *user, void *bytes, size_t len)
{
    uint8_t *at = (uint8_t *)bytes;
    (void)user;
    if (w.no_random) return -1;
    while (len--) *at++ = (uint8_t)(fuzz_random(&w.random) >> 24);
    return 1;
}

static int32_t on_gate(void *user, int32_t shard, uint32_t bucket)
{
    (void)user; (void)shard; (void)bucket;
    return w.gate;
}

static void *on_alloc(void *user, void *old, size_t old_bytes, size_t new_bytes)
{
    (void)user;
    return fuzz_alloc(&w.memory, old, old_bytes, new_bytes);
}

static uint64_t now_ms(void) { return w.now_us / 1000u; }

/* ---- what the server says ---- */
static void say(stream *s, const void *bytes, size_t len)
{
    if (!s || s->ended) return;
    if (s->in_at == s->in.len) s->in_at = s->in.len = 0;
    if (s->in.len - s->in_at < 300u * 1024) fuzz_add(&s->in, bytes, len);
}

static void say_frame(stream *s, uint8_t first, const void *bytes, size_t len)
{
    uint8_t head[10];
    size_t head_len = len > 0xffff ? 10 : len > 125 ? 4 : 2, i;
    head[0] = first;
    head[1] = (uint8_t)(head_len == 2 ? len : head_len == 4 ? 126 : 127);
    for (i = 2; i < head_len; i++) head[i] = (uint8_t)((uint64_t)len >> 8 * (head_len - 1 - i));
    say(s, head, head_len);
    say(s, bytes, len);
}

static void say_text(stream *s, const char *text) { say_frame(s, 0x81, text, strlen(text)); }

static void say_hello(stream *s)
{
    char text[80];
    snprintf(text, sizeof text,
             "{\"t\":null,\"s\":null,\"op\":10,\"d\":{\"heartbeat_interval\":%u}}",
             (unsigned)w.interval_ms);
    say_text(s, text);
}

/* 101 with the right key, or the body of /gateway/bot; 0: no request is there. */
static int answer(stream *s)
{
    static const char guid[] = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    static const char info[] =
        "{\"url\":\"ws://127.0.0.1:7\",\"shards\":2,\"session_start_limit\":{\"total\":1000,"
                               "\"remaining\":990,\"reset_after\":86400000,\"max_concurrency\":1}}";
    char text[512], accept[32];
    uint8_t hash[br_sha1_SIZE];
    br_sha1_context sha1;
    const char *key = NULL;
    size_t at;
    if (!s || s->ended || s->upgraded || s->answered || s->out.len < 4) return 0;
    if (memcmp(s->out.bytes + s->out.len - 4, "\r\n\r\n", 4) != 0) return 0;
    for (at = 0; at + 43 < s->out.len; at++)
        if (memcmp(s->out.bytes + at, "Sec-WebSocket-Key: ", 19) == 0)
            key = (const char *)s->out.bytes + at + 19;
    s->out.len = 0;
    s->answered = 1;
    if (!key) {
        snprintf(text, sizeof text, "HTTP/1.1 200 OK\r\nContent-Length: %lu\r\n\r\n%s",
                 (unsigned long)(sizeof info - 1), info);
        say(s, text, strlen(text));
        return 1;
    }
    br_sha1_init(&sha1);
    br_sha1_update(&sha1, key, 24);
    br_sha1_update(&sha1, guid, sizeof guid - 1);
    br_sha1_out(&sha1, hash);
    gw__text_base64(accept, sizeof accept, hash, sizeof hash);
    snprintf(text, sizeof text,
             "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
             "Sec-WebSocket-Accept: %s\r\n\r\n", accept);
    say(s, text, strlen(text));
    s->upgraded = 1;
    return 1;
}

/* ---- what the client says ---- */
static void heard_identify(void)
{
    /* over a restart it is the wall clock that counts */
    uint64_t at_ms = now_ms() + w.slept_us / 1000u;
    int one_bucket = w.gw->shared.gate.concurrency == 1;    /* a server may say that there are more */
    if (w.has_identified && one_bucket && !(w.settings & NO_CLOCK))
        FUZZ_CHECK(at_ms >= w.identified_ms + 5000);
    w.has_identified = 1;
    w.identified_ms = at_ms;
}

static void heard_payload(stream *s, const char *text, size_t len)
{
    gw_json v;
    uint64_t op, *slot = &s->sent_at_ms[s->sent_count % RATE];
    memset(&v, 0, sizeof v);
    v.ptr = text;
    v.len = len;
    FUZZ_CHECK(len <= 4096 && gw__json_is_valid(text, len) && gw_kind_of(&v, "op") == GW_NUMBER);
    op = gw_u64(&v, "op");
    if (s->sent_count >= RATE) FUZZ_CHECK(now_ms() - *slot >= 60000);
    *slot = now_ms();
    s->sent_count++;
    if (op == GW__OP_IDENTIFY) heard_identify();
    if (op == GW__OP_IDENTIFY || op == GW__OP_RESUME) FUZZ_CHECK(gw_is(&v, "d.token", TOKEN));
}

/* A whole frame at the front of what was written; how long it is, or 0. */
static size_t heard_frame(stream *s)
{
    uint8_t *in = s->out.bytes;
    size_t len, head = 2, i;
    uint8_t *mask;
    if (s->out.len < 2) return 0;
    FUZZ_CHECK((in[0] & 0xF0) == 0x80 && (in[1] & 0x80));
    len = in[1] & 0x7f;
    FUZZ_CHECK(len != 127);
    if (len == 126) {
        if (s->out.len < 4) return 0;
        len = (size_t)in[2] << 8 | in[3];
        head = 4;
        FUZZ_CHECK(len > 125);
    }
    if (s->out.len < head + 4 + len) return 0;
    mask = in + head;
    for (i = 0; i < len; i++) mask[4 + i] ^= mask[i & 3];
    switch (in[0] & 15) {
    case GW__WS_TEXT: heard_payload(s, (const char *)mask + 4, len); break;
    case GW__WS_CLOSE: FUZZ_CHECK(len <= 125 && len != 1); break;
    default: FUZZ_CHECK(len <= 125 && ((in[0] & 15) == GW__WS_PING || (in[0] & 15) == GW__WS_PONG));
    }
    return head + 4 + len;
}

static void heard(stream *s, const void *bytes, size_t len)
{
    size_t used;
    fuzz_add(&s->out, bytes, len);
    if (!s->upgraded) {
        FUZZ_CHECK(s->answered || s->out.len < 4096);
        if (!(w.settings & ANSWER_NOT) && answer(s) && s->upgraded) say_hello(s);
        return;
    }
    while ((used = heard_frame(s)) != 0) {
        memmove(s->out.bytes, s->out.bytes + used, s->out.len - used);
        s->out.len -= used;
    }
}

/* ---- the transport ---- */
static void *on_open(void *user, const char *host, uint16_t port)
{
    stream *s;
    (void)user;
    FUZZ_CHECK(host[0] && port);
    w.moved++;
    if (w.refuse && w.refuse--) return NULL;
    s = (stream *)calloc(1, sizeof *s);
    s->next = w.streams;
    w.streams = s;
    return s;
}

static int32_t on_read(void *user, void *handle, void *bytes, uint32_t len)
{
    stream *s = (stream *)handle;
    size_t part = s->in.len - s->in_at;
    (void)user;
    if (part == 0) return s->ended ? -1 : 0;
    if (part > len) part = len;
    if (w.read_most && part > w.read_most) part = w.read_most;
    memcpy(bytes, s->in.bytes + s->in_at, part);
    s->in_at += part;
    w.moved++;
    return (int32_t)part;
}

static int32_t on_write(void *user, void *handle, const void *bytes, uint32_t len)
{
    stream *s = (stream *)handle;
    (void)user;
    if (s->ended) return -1;
    if (w.write_full) return 0;
    if (w.write_most && len > w.write_most) len = w.write_most;
    heard(s, bytes, len);
    w.moved++;
    return (int32_t)len;
}

static intptr_t on_fd(void *user, void *handle) { (void)user; (void)handle; return -1; }

static void on_close(void *user, void *handle)
{
    stream *s = (stream *)handle, **at = &w.streams;
    (void)user;
    while (*at != s) at = &(*at)->next;
    *at = s->next;
    fuzz_free(&s->in);
    fuzz_free(&s->out);
    free(s);
    w.moved++;
}

static const gw_transport transport = { on_open, on_read, on_write, on_fd, on_close };

/* ---- the caller ---- */
static void look_at(const gw_event *event)
{
    gw_json key, value;
    char text[32];
    uint32_t i = 0;
    FUZZ_CHECK(event->name && event->message);
    no_token(event->message);
    FUZZ_CHECK(event->type < GW_DISPATCH_END_ || event->type >= GW_GATEWAY_INFO);
    FUZZ_CHECK(event->type < GW_NOTICE_END_);
    FUZZ_CHECK(event->type >= GW_GATEWAY_INFO || event->message[0] == 0);
    FUZZ_CHECK(event->type < GW_GATEWAY_INFO || event->message[0]);
    memset(&key, 0, sizeof key);
    memset(&value, 0, sizeof value);
    for (i = 0; i < 20 && gw_next(&event->d, &key, &value); i++)
        gw_text(&value, NULL, text, sizeof text);
    gw_u64(&event->d, "author.id");
    gw_text(&event->d, "content", text, sizeof text);
    gw_get(&event->d, "a.0.b", NULL);
    w.moved++;
}

static void look_at_client(void)
{
    static char text[8192];
    gw_stats stats;
    no_token(gw_why(w.gw));
    if (gw_stats_read(w.gw, GW_ALL, &stats) == GW_OK)
        FUZZ_CHECK(stats.memory_now <= stats.memory_peak);
    if (gw_stats_text(w.gw, text, sizeof text) < sizeof text) no_token(text);
    if (gw_session_save(w.gw, GW_ALL, text, sizeof text) < sizeof text) no_token(text);
}

/* All that happens without time passing. */
static void settle(void)
{
    uint32_t idle = 0, events = 0, turns = 0;
    const gw_event *event;
    do {
        uint64_t before = w.moved;
        while ((event = gw_poll(w.gw)) != NULL) {
            look_at(event);
            FUZZ_CHECK(++events < 400000);
        }
        idle = w.moved == before ? idle + 1 : 0;
        FUZZ_CHECK(idle < 100);         /* told to poll at once, and nothing comes of it */
    } while (++turns < 100000 && (idle == 0 || gw_timeout_ms(w.gw) == 0));
}

static void advance(uint64_t ms)
{
    uint64_t until_us = w.now_us + ms * 1000u;
    uint32_t stops = 0;
    settle();
    while (w.now_us < until_us) {
        int32_t timeout_ms = gw_timeout_ms(w.gw);
        uint64_t next_us = until_us;
        if (timeout_ms >= 0 && stops++ < 80)
            next_us = (now_ms() + (timeout_ms ? (uint64_t)timeout_ms : 1)) * 1000u;
        w.now_us = next_us < until_us ? next_us : until_us;
        settle();
    }
}

static void open_client(const char *session, size_t len)
{
    w.cfg.session = session;
    w.cfg.session_len = len;
    if (w.settings & OWN_MEMORY) {
        w.cfg.memory_bytes = gw_memory_needed(&w.cfg);
        w.cfg.memory = w.block = malloc(w.cfg.memory_bytes);
    }
    w.gw = gw_open(&w.cfg);
    FUZZ_CHECK(w.gw != NULL);
}

static void close_client(void)
{
    /* the payloads of each shard and the one in hand, each in a buffer that may have been doubled */
    uint64_t most = (2u * w.cfg.max_payload + 256u * 1024) * (w.gw->shard_count + UINT64_C(1));
    FUZZ_CHECK(w.memory.peak_bytes <= most);
    w.memory.peak_bytes = 0;
    gw_close(w.gw);
    w.gw = NULL;
    FUZZ_CHECK(w.streams == NULL && w.memory.live_blocks == 0 && w.memory.live_bytes == 0);
    free(w.block);
    w.cfg.memory = w.block = NULL;
}

static void restart(void)
{
    size_t len = gw_session_save(w.gw, GW_ALL, NULL, 0);
    char *text = (char *)malloc(len + 1);
    gw_session_save(w.gw, GW_ALL, text, len + 1);
    close_client();
    open_client(text, len);
    free(text);
}

static void call(void)
{
    uint32_t what = take(), value = take();
    int32_t shard = (int32_t)(value % 3) - 1;
    gw_activity activity;
    gw_presence presence;
    gw_members members;
    uint64_t ids[3];
    const uint8_t *bytes;
    size_t len = value;
    memset(&activity, 0, sizeof activity);
    memset(&presence, 0, sizeof presence);
    memset(&members, 0, sizeof members);
    ids[0] = (uint64_t)value << 22;
    ids[1] = ids[0] + 1;
    ids[2] = 1;
    switch (what % 17) {
    case 0:
        activity.name = "fuzz";
        activity.type = value % 6;
        presence.activities = &activity;
        presence.activity_count = value & 1;
        gw_set_presence(w.gw, shard, &presence);
        break;
    case 1: gw_set_voice(w.gw, ids[0], value, 0, 1); break;
    case 2: case 3:
        members.guild_id = ids[0];
        members.query = value & 1 ? "" : "a";
        members.nonce = value & 2 ? "n1" : NULL;
        members.retry = value & 4;
        if (value & 8) {
            members.query = NULL;
            members.user_ids = ids;
            members.user_id_count = 3;
        }
        gw_request_members(w.gw, &members);
        break;
    case 4: gw_request_sounds(w.gw, ids, 1 + value % 3); break;
    case 5: gw_request_channel_info(w.gw, ids[0], 1, 1); break;
    case 6:
        bytes = take_bytes(&len);
        gw_send_raw(w.gw, shard, 3, (const char *)bytes, len);
        break;
    case 7: gw_hold(w.gw, shard, value & 1); break;
    case 8: gw_want(w.gw, value, (int32_t)(value >> 7)); break;
    case 9: gw_recheck(w.gw); break;
    case 10: gw_shard_stop(w.gw, shard, 1 + (value & 1)); break;
    case 11: gw_shard_start(w.gw, shard, NULL, 0); break;
    case 12: gw_ack(w.gw, shard, value & 3, value >> 2); break;
    case 13: gw_wake(w.gw); break;
    case 14: gw_tend(w.gw); break;
    case 15: for (len &= 127; len > 0; len--) gw_send_raw(w.gw, GW_ALL, 3, "{}", 2); break;
    case 16: if (value > 250) gw_stop(w.gw, 1 + (value & 1)); break;
    }
}

/* ---- the server's usual words ---- */
static void say_usual(stream *s)
{
    static const char *const texts[] = {
        "{\"t\":null,\"s\":null,\"op\":11,\"d\":null}",
        "{\"t\":null,\"s\":null,\"op\":1,\"d\":null}",
        "{\"t\":null,\"s\":null,\"op\":7,\"d\":null}",
        "{\"t\":null,\"s\":null,\"op\":9,\"d\":true}",
        "{\"t\":null,\"s\":null,\"op\":9,\"d\":false}",
        "{\"op\":10,\"d\":{\"heartbeat_interval\":41250}}",
        "{\"op\":42,\"d\":[]}"
    };
    static const char *const dispatches[] = {
        "\"READY\",\"d\":{\"v\":10,\"user\":{\"id\":\"11\"},\"application\":{\"id\":\"22\"},"
            "\"session_id\":\"0123456789abcdef\",\"resume_gateway_url\":\"ws://127.0.0.1:8\","
            "\"guilds\":[]}",
        "\"READY\",\"d\":{\"session_id\":\"" TOKEN "\","
            "\"resume_gateway_url\":\"ws://[::1]/" TOKEN "\"}",
        "\"RESUMED\",\"d\":{}",
        "\"MESSAGE_CREATE\",\"d\":{\"id\":\"1\",\"content\":\"" TOKEN "\","
            "\"author\":{\"id\":\"5\"},\"a\":[{\"b\":1}]}",
        "\"" TOKEN "\",\"d\":{\"token\":\"x\"}",
        "\"RATE_LIMITED\",\"d\":{\"opcode\":8,\"retry_after\":3.5,"
            "\"meta\":{\"guild_id\":\"4194304\",\"nonce\":\"n1\"}}",
        "\"GUILD_MEMBERS_CHUNK\",\"d\":{\"guild_id\":\"4194304\",\"nonce\":\"n1\","
            "\"chunk_index\":0,\"chunk_count\":1}",
        "\"GUILD_CREATE\",\"d\":{\"id\":\"4194304\",\"members\":[1,2,3]}"
    };
    char text[512];
    uint32_t what = take() % (GW__COUNT(texts) + GW__COUNT(dispatches));
    if (what < GW__COUNT(texts)) say_text(s, texts[what]);
    else {
        snprintf(text, sizeof text, "{\"op\":0,\"s\":%llu,\"t\":%s}", (unsigned long long)++w.seq,
                 dispatches[what - GW__COUNT(texts)]);
        say_text(s, text);
    }
}

/* A dispatch with a body from the input, or with one of 2^n bytes. */
static void say_dispatch(stream *s, const uint8_t *body, size_t len, uint32_t size)
{
    fuzz_text text;
    char head[80];
    memset(&text, 0, sizeof text);
    snprintf(head, sizeof head, "{\"op\":0,\"s\":%llu,\"t\":\"TYPING_START\",\"d\":",
             (unsigned long long)++w.seq);
    fuzz_add(&text, head, strlen(head));
    if (len) fuzz_add(&text, body, len);
    else {
        fuzz_add(&text, "\"", 1);
        while (text.len < size) fuzz_add(&text, "xxxxxxxxxxxxxxxx", 16);
        fuzz_add(&text, "\"", 1);
    }
    fuzz_add(&text, "}", 1);
    say_frame(s, 0x81, text.bytes, text.len);
    fuzz_free(&text);
}

static void bend_wire(stream *s)
{
    uint32_t what = take(), value = take();
    switch (what % 8) {
    case 0: if (s) s->ended = 1; break;
    case 1: w.write_full = value & 1; break;
    case 2: w.read_most = value; break;
    case 3: w.write_most = value; break;
    case 4: w.refuse = value & 7; break;
    case 5: w.no_random = value & 1; break;
    case 6: w.gate = value & 128 ? -1 : (int32_t)value * 100; break;
    case 7: answer(s); break;
    }
    w.moved++;
}

static stream *nth_stream(uint32_t n)
{
    stream *s = w.streams;
    while (s && s->next && n--) s = s->next;
    return s;
}

static void step(void)
{
    uint32_t head = take(), value, i;
    stream *s = nth_stream(head >> 4);
    const uint8_t *bytes;
    size_t len;
    switch (head & 15) {
    case 0: len = take(); bytes = take_bytes(&len); say(s, bytes, len); break;
    case 1: len = take(); bytes = take_bytes(&len); say_frame(s, 0x81, bytes, len); break;
    case 2: case 3: say_usual(s); break;
    case 4: value = take(); advance((UINT64_C(1) << value % 22) + value); return;
    case 5: call(); break;
    case 6: bend_wire(s); break;
    case 7:
        len = 2 + (take() & 63);
        bytes = take_bytes(&len);
        say_frame(s, 0x88, bytes, len);
        break;
    case 8: value = take(); say_frame(s, (uint8_t)(0x89 + (value & 1)), "ping", value & 3); break;
    case 9:
        value = 1u << take() % 19;
        say_dispatch(s, NULL, 0, w.read_most && w.read_most < 64 ? value & 4095 : value);
        break;
    case 10: for (i = take() & 63; i > 0; i--) say_dispatch(s, (const uint8_t *)"{}", 2, 0); break;
    case 11: len = take(); bytes = take_bytes(&len); say_dispatch(s, bytes, len, 64); break;
    case 12: w.slept_us += (uint64_t)(take() + 1) * 1000000u; break;
    case 13: restart(); break;
    case 14: (void)gw_poll(w.gw); gw_tend(w.gw); return;
    case 15: say_hello(s); break;
    }
    settle();
}

/* "CLOSED comes within 5 s", whatever the peer does. */
static void stop(void)
{
    if (gw_stop(w.gw, w.settings & ACK_BY_HAND ? GW_KEEP : GW_END) != GW_OK) return;
    advance(5100);
    FUZZ_CHECK(!gw_alive(w.gw));
}

static void fuzz_one(const uint8_t *bytes, size_t len)
{
    uint32_t steps, more;
    if (len < 2) return;
    memset(&w, 0, sizeof w);
    w.at = bytes;
    w.left = len;
    w.now_us = 1000000000u;
    w.settings = take();
    more = take();
    w.random = more;
    w.interval_ms = more & 1 ? 41250 : 1000;
    w.cfg.token = TOKEN;
    w.cfg.intents = GW_INTENTS_ALL;
    w.cfg.url = w.settings & ASK_URL ? NULL : "ws://127.0.0.1/";
    w.cfg.max_payload = w.settings & SMALL_PAYLOAD ? 512 : 128 * 1024;
    w.cfg.ack_by_hand = w.settings & ACK_BY_HAND ? 1 : 0;
    w.cfg.max_queued = more & 2 ? 4 : 0;
    w.cfg.turn_bytes = more & 4 ? 100 : 0;
    if (w.settings & TWO_SHARDS) w.cfg.shard_count = w.cfg.shard_total = 2;
    if (more & 8) w.cfg.shard_count = GW_ALL;
    w.cfg.alloc = on_alloc;
    w.cfg.log = on_log;
    w.cfg.log_level = more & 32 ? GW_LOG_DEBUG : GW_LOG_TRACE;
    w.cfg.monotonic_us = on_monotonic;
    w.cfg.boot_us = on_boot;
    w.cfg.unix_time = on_unix;
    w.cfg.random = on_random;
    w.cfg.identify_gate = more & 16 ? on_gate : NULL;
    w.cfg.transport = &transport;
    open_client(NULL, 0);
    settle();
    for (steps = 0; w.left > 0 && steps < MOST_STEPS; steps++) step();
    look_at_client();
    if (w.settings & STOP_AT_END) stop();
    close_client();
}
