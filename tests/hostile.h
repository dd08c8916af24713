/* A hostile world: a client whose transport leads to a peer that a test scripts itself, byte for
 * byte. Unlike the simulator (world.h) it keeps no rules of its own. No sockets; time is moved by
 * hand, chance comes from a seed.
 *
 *   foe f;
 *   foe_init(&f);              defaults; change f.cfg and set the script: f.on_open ...
 *   f.secure = 1;              TLS inside: BearSSL's server in this process
 *   foe_begin(&f);             gw_open()
 *   foe_run(&f, 60000);        virtual time passes, from one deadline to the next
 *   foe_end(&f);               gw_close(), and CHECKs what must hold in every test
 *
 * What one gw_poll() and one turn cost is counted in bytes and reads, not in time.
 * Include discord_gateway.h with DISCORD_GATEWAY_IMPLEMENTATION first. */
#ifndef HOSTILE_H
#define HOSTILE_H
#include "check.h"
#include "loopback.h"
#include <stdarg.h>

#define FOE_TOKEN "MTA5ODc2NTQzMjEwOTg3NjU0Mw.GabcDE.thisTokenMustNeverBeSeenInAnyText"
#define FOE_SECRET "thisTokenMustNeverBeSeen"
#define FOE_UNIX UINT64_C(1790000000)       /* 2026-09-21, as the certificates like it */
#define FOE_MOMENTS 20000u                  /* Identifies and connections whose time is kept */
/* types of TLS records: RFC 5246 section 6.2.1 */
#define FOE_ALERT 21
#define FOE_HANDSHAKE 22
#define FOE_APPLICATION_DATA 23
#define FOE_HELLO "{\"op\":10,\"d\":{\"heartbeat_interval\":41250}}"
#define FOE_RESUME_URL "ws://127.0.0.1:8080"
#define FOE_READY "{\"t\":\"READY\",\"s\":1,\"op\":0,\"d\":{\"v\":10,\"user\":{\"id\":\"1\"}," \
    "\"session_id\":\"%s\",\"resume_gateway_url\":\"%s\",\"application\":{\"id\":\"2\"}}}"

struct foe;
typedef struct foe_stream {                 /* one connection */
    struct foe_stream *next;
    struct foe *f;
    uint16_t port;
    char host[64];
    lb_tls *tls;
    lb_bytes in;                            /* from the client, decrypted, not looked at yet */
    lb_bytes out;                           /* on the wire to the client */
    int ended;                              /* after what is on the wire: the end */
    int dead;                               /* reset: nothing more, either way */
    int upgraded;
    uint32_t step;                          /* the script's own */
    uint64_t due_ms;                        /* ... */
} foe_stream;

typedef struct foe {
    gw_config cfg;
    gw_transport transport;
    gw_client *gw;
    uint64_t now_us, random;
    uint32_t clock_tick_us;                 /* each look at the clock costs so much */
    uint32_t read_most;                     /* bytes one read gives at most; 0: all */
    uint32_t write_full;                    /* 1: the socket takes nothing */
    uint32_t write_fails;                   /* 1: writing fails; what has come can still be read */
    uint32_t secure;
    lb_secret *secret;
    foe_stream *streams;
    /* the script; each may be NULL */
    void (*on_open)(foe_stream *stream);                            /* the WebSocket stands */
    void (*on_payload)(foe_stream *stream, int op, const char *text);
    int (*on_request)(foe_stream *stream, const char *request);  /* 1: answered; 2: waits; 0 */
    void (*on_event)(struct foe *f, const gw_event *event);
    void (*on_tick)(struct foe *f);                                 /* before each turn */
    uint32_t mode;                                                  /* the script's own */
    uint64_t wake_us;                       /* the script wants to be called then */
    /* what came */
    uint32_t seen[GW_NOTICE_END_];
    uint32_t last_reason;
    int32_t last_close_code;
    char last_message[800];                 /* of DISCONNECTED, FATAL, SKIPPED */
    char last_name[300];                    /* of a dispatch without a number */
    uint64_t identifies, resumes, beats, opens, arrived;            /* arrived: payloads of op 3 */
    uint64_t identify_ms[FOE_MOMENTS], open_ms[FOE_MOMENTS];
    /* what it cost */
    uint64_t moved, polls, reads, read_bytes;
    uint64_t poll_reads_most, poll_bytes_most, turn_bytes, turn_bytes_most;
    uint32_t idle_spins, token_seen, empty_messages;
    /* memory */
    uint64_t allocations, fail_at, fail_count;      /* fail_at: the first that fails; 0: none */
    uint64_t live_bytes, peak_bytes, live_blocks;
    uint32_t bad_sizes;
} foe;

static inline uint64_t foe_ms(const foe *f) { return f->now_us / 1000u; }

/* ---- hooks ---- */
static inline void foe_look_for_token(foe *f, const char *text, const char *where)
{
    if (!text || !strstr(text, FOE_SECRET)) return;
    f->token_seen++;
    fprintf(stderr, "the token is in %s: %.300s\n", where, text);
}

static inline uint64_t foe_on_clock(void *user)
{
    foe *f = (foe *)user;
    return f->now_us += f->clock_tick_us;
}

static inline uint64_t foe_on_unix(void *user)
{
    return FOE_UNIX + ((foe *)user)->now_us / 1000000u;
}

static inline int32_t foe_on_random(void *user, void *bytes, size_t len)
{
    foe *f = (foe *)user;
    uint8_t *at = (uint8_t *)bytes;
    while (len--) {                         /* splitmix64 */
        uint64_t z = f->random += UINT64_C(0x9E3779B97F4A7C15);
        z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
        z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
        *at++ = (uint8_t)((z ^ (z >> 31)) >> 24);
    }
    return 1;
}

static inline void foe_on_log(void *user, uint32_t level, int32_t shard, const char *text)
{
    (void)level; (void)shard;
    foe_look_for_token((foe *)user, text, "the log");
}

/* Each block remembers its size, so that a wrong old_bytes is seen. */
static inline void *foe_on_alloc(void *user, void *old, size_t old_bytes, size_t new_bytes)
{
    foe *f = (foe *)user;
    uint64_t *head = old ? (uint64_t *)old - 2 : NULL;
    if ((head && head[0] != old_bytes) || (!head && old_bytes)) f->bad_sizes++;
    if (!new_bytes) {
        if (!head) return NULL;
        f->live_bytes -= old_bytes;
        f->live_blocks--;
        head[0] = UINT64_MAX;
        free(head);
        return NULL;
    }
    f->allocations++;
    if (f->fail_at && f->allocations >= f->fail_at &&
        f->allocations - f->fail_at < f->fail_count) return NULL;
    head = (uint64_t *)realloc(head, new_bytes + 16);
    if (!head) return NULL;
    head[0] = new_bytes;
    f->live_bytes += new_bytes - old_bytes;
    f->live_blocks += old ? 0 : 1;
    if (f->live_bytes > f->peak_bytes) f->peak_bytes = f->live_bytes;
    return head + 2;
}

/* ---- what the peer says ---- */
/* As it is, below TLS. */
static inline void foe_wire(foe_stream *stream, const void *bytes, size_t len)
{
    lb_add(&stream->out, bytes, len);
    stream->f->moved++;
}

static inline void foe_tls_flush(foe_stream *stream)
{
    size_t len;
    uint8_t *bytes;
    while ((bytes = br_ssl_engine_sendrec_buf(&stream->tls->server.eng, &len)) != NULL) {
        foe_wire(stream, bytes, len);
        br_ssl_engine_sendrec_ack(&stream->tls->server.eng, len);
    }
}

/* A TLS record of any type, rightly encrypted. len 0: an empty one, of application data. */
static inline int foe_record(foe_stream *stream, uint8_t type, const void *bytes, size_t len)
{
    br_ssl_engine_context *engine = &stream->tls->server.eng;
    size_t cap;
    uint8_t *room;
    if (!len) {
        br_ssl_engine_flush(engine, 1);
        foe_tls_flush(stream);
        return 1;
    }
    room = br_ssl_engine_sendapp_buf(engine, &cap);
    if (!room || cap < len) return 0;
    memcpy(room, bytes, len);
    engine->record_type_out = type;
    br_ssl_engine_sendapp_ack(engine, len);
    br_ssl_engine_flush(engine, 0);
    foe_tls_flush(stream);
    engine->record_type_out = FOE_APPLICATION_DATA;
    return 1;
}

static inline void foe_say(foe_stream *stream, const void *bytes, size_t len)
{
    const uint8_t *at = (const uint8_t *)bytes;
    size_t part;
    if (!stream->tls) { foe_wire(stream, bytes, len); return; }
    while (len) {
        part = len < 1024 ? len : 1024;
        if (!foe_record(stream, FOE_APPLICATION_DATA, at, part)) return;
        at += part;
        len -= part;
    }
}

static inline void foe_say_text(foe_stream *stream, const char *text)
{
    foe_say(stream, text, strlen(text));
}

/* A frame: first byte (0x81: a whole text), payload. */
static inline void foe_frame(foe_stream *stream, int first, const void *bytes, size_t len)
{
    uint8_t head[10];
    size_t head_len = 2, i;
    head[0] = (uint8_t)first;
    if (len < 126) head[1] = (uint8_t)len;
    else if (len < 65536) {
        head[1] = 126;
        head[2] = (uint8_t)(len >> 8);
        head[3] = (uint8_t)len;
        head_len = 4;
    } else {
        head[1] = 127;
        for (i = 0; i < 8; i++) head[2 + i] = (uint8_t)((uint64_t)len >> (56 - 8 * i));
        head_len = 10;
    }
    foe_say(stream, head, head_len);
    if (len) foe_say(stream, bytes, len);
}

/* A payload. */
static inline void foe_send(foe_stream *stream, const char *format, ...)
{
    char text[4096];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    foe_frame(stream, 0x81, text, strlen(text));
}

static inline void foe_send_close(foe_stream *stream, int code)
{
    uint8_t bytes[2];
    bytes[0] = (uint8_t)(code >> 8);
    bytes[1] = (uint8_t)code;
    foe_frame(stream, 0x88, bytes, 2);
}

static inline void foe_send_event(foe_stream *stream, unsigned seq)
{
    foe_send(stream, "{\"t\":\"GUILD_CREATE\",\"s\":%u,\"op\":0,\"d\":{\"id\":\"7\"}}", seq);
}

static inline void foe_answer(foe_stream *stream, const char *status, const char *body)
{
    char head[200];
    snprintf(head, sizeof head, "HTTP/1.1 %s\r\nContent-Length: %u\r\n\r\n", status,
             (unsigned)strlen(body));
    foe_say_text(stream, head);
    foe_say_text(stream, body);
}

#define FOE_INFO \
    "{\"url\":\"ws://127.0.0.1\",\"shards\":%d,\"session_start_limit\":{\"total\":1000," \
    "\"remaining\":%d,\"reset_after\":%d,\"max_concurrency\":%d}}"
static inline void foe_answer_info(foe_stream *stream, int shards, int remaining, int reset_after,
                                   int concurrency)
{
    char body[400];
    snprintf(body, sizeof body, FOE_INFO, shards, remaining, reset_after, concurrency);
    foe_answer(stream, "200 OK", body);
}

/* ---- what the peer hears ---- */
static inline void foe_upgrade(foe_stream *stream, const char *key_at)
{
    static const char magic[] = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    char accept[40], answer[300];
    uint8_t hash[20];
    br_sha1_context sha1;
    br_sha1_init(&sha1);
    br_sha1_update(&sha1, key_at, 24);
    br_sha1_update(&sha1, magic, 36);
    br_sha1_out(&sha1, hash);
    gw__text_base64(accept, sizeof accept, hash, 20);
    snprintf(answer, sizeof answer, "HTTP/1.1 101 x\r\nUpgrade: websocket\r\n"
             "Connection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n", accept);
    foe_say_text(stream, answer);
    stream->upgraded = 1;
    if (stream->f->on_open) stream->f->on_open(stream);
}

/* 1: a whole request was there, and is gone now. */
static inline int foe_hear_request(foe_stream *stream)
{
    static const char key_name[] = "Sec-WebSocket-Key: ";
    foe *f = stream->f;
    char *request = lb_text(&stream->in), *end = strstr(request, "\r\n\r\n"), *key;
    int answered;
    if (!end) return 0;
    answered = f->on_request ? f->on_request(stream, request) : 0;
    if (answered == 2) return 0;
    if (!answered) {
        key = strstr(request, key_name);
        if (key) foe_upgrade(stream, key + strlen(key_name));
        else foe_answer_info(stream, 1, 1000, 86400000, 1);
    }
    lb_take(&stream->in, (size_t)(end + 4 - request));
    return 1;
}

static inline void foe_hear_payload(foe_stream *stream, const char *text)
{
    foe *f = stream->f;
    int op = strncmp(text, "{\"op\":", 6) == 0 ? atoi(text + 6) : -1;
    if (op == 1) f->beats++;
    if (op == 2 && f->identifies < FOE_MOMENTS) f->identify_ms[f->identifies] = foe_ms(f);
    if (op == 2) f->identifies++;
    if (op == 3) f->arrived++;
    if (op == 6) f->resumes++;
    if (f->on_payload) f->on_payload(stream, op, text);
}

/* 1: a whole frame was there, and is gone now. */
static inline int foe_hear_frame(foe_stream *stream)
{
    uint8_t *at = (uint8_t *)lb_text(&stream->in);
    size_t have = lb_len(&stream->in), head = 6, len, i;
    char *text;
    if (have < 6) return 0;
    len = at[1] & 127u;
    if (len == 126) {
        if (have < 8) return 0;
        len = (size_t)at[2] << 8 | at[3];
        head = 8;
    }
    if (have < head + len) return 0;
    text = (char *)lb_new(len + 1);
    for (i = 0; i < len; i++) text[i] = (char)(at[head + i] ^ at[head - 4 + (i & 3)]);
    lb_take(&stream->in, head + len);
    if ((at[0] & 15) == 1) foe_hear_payload(stream, text);
    free(text);
    return 1;
}

static inline void foe_serve(foe_stream *stream)
{
    while (!stream->ended && !stream->dead && lb_len(&stream->in) &&
           (stream->upgraded ? foe_hear_frame(stream) : foe_hear_request(stream))) { }
}

static inline void foe_decrypt(foe_stream *stream, const uint8_t *bytes, size_t len)
{
    br_ssl_engine_context *engine = &stream->tls->server.eng;
    uint8_t *room;
    size_t part;
    while (len && (room = br_ssl_engine_recvrec_buf(engine, &part)) != NULL) {
        if (part > len) part = len;
        memcpy(room, bytes, part);
        br_ssl_engine_recvrec_ack(engine, part);
        bytes += part;
        len -= part;
        foe_tls_flush(stream);
        while ((room = br_ssl_engine_recvapp_buf(engine, &part)) != NULL) {
            lb_add(&stream->in, room, part);
            br_ssl_engine_recvapp_ack(engine, part);
        }
    }
}

/* ---- the transport ---- */
static inline void *foe_on_dial(void *user, const char *host, uint16_t port)
{
    foe *f = (foe *)user;
    foe_stream *stream = (foe_stream *)lb_new(sizeof *stream);
    snprintf(stream->host, sizeof stream->host, "%s", host);
    stream->f = f;
    stream->port = port;
    stream->next = f->streams;
    f->streams = stream;
    if (f->secure) {
        lb_stream *secured = lb_stream_new(-1, f->secret);
        stream->tls = secured->tls;
        secured->tls = NULL;
        lb_stream_free(secured);
    }
    if (f->opens < FOE_MOMENTS) f->open_ms[f->opens] = foe_ms(f);
    f->opens++;
    f->moved++;
    return stream;
}

static inline int32_t foe_on_read(void *user, void *handle, void *bytes, uint32_t cap)
{
    foe *f = (foe *)user;
    foe_stream *stream = (foe_stream *)handle;
    size_t part = lb_len(&stream->out);
    f->reads++;
    if (stream->dead) return -1;
    if (!part) return stream->ended ? -1 : 0;
    if (part > cap) part = cap;
    if (f->read_most && part > f->read_most) part = f->read_most;
    memcpy(bytes, stream->out.bytes + stream->out.begin, part);
    lb_take(&stream->out, part);
    f->read_bytes += part;
    f->moved++;
    return (int32_t)part;
}

static inline int32_t foe_on_write(void *user, void *handle, const void *bytes, uint32_t len)
{
    foe *f = (foe *)user;
    foe_stream *stream = (foe_stream *)handle;
    if (stream->dead || f->write_fails) return -1;
    if (f->write_full) return 0;
    if (stream->tls) foe_decrypt(stream, (const uint8_t *)bytes, len);
    else lb_add(&stream->in, bytes, len);
    f->moved++;
    foe_serve(stream);
    return (int32_t)len;
}

static inline void foe_on_close(void *user, void *handle)
{
    foe *f = (foe *)user;
    foe_stream *stream = (foe_stream *)handle, **at = &f->streams;
    while (*at != stream) at = &(*at)->next;
    *at = stream->next;
    free(stream->tls);
    free(stream->in.bytes);
    free(stream->out.bytes);
    free(stream);
    f->moved++;
}

/* ---- life ---- */
static inline void foe_init(foe *f)
{
    memset(f, 0, sizeof *f);
    f->now_us = 1000000000u;
    f->random = 1;
    f->transport.open = foe_on_dial;
    f->transport.read = foe_on_read;
    f->transport.write = foe_on_write;
    f->transport.close = foe_on_close;
    f->cfg.token = FOE_TOKEN;
    f->cfg.intents = GW_INTENTS_ALL;
    f->cfg.url = "ws://127.0.0.1/";
    f->cfg.user = f;
    f->cfg.alloc = foe_on_alloc;
    f->cfg.log = foe_on_log;
    f->cfg.log_level = GW_LOG_TRACE;
    f->cfg.monotonic_us = f->cfg.boot_us = foe_on_clock;
    f->cfg.unix_time = foe_on_unix;
    f->cfg.random = foe_on_random;
    f->cfg.transport = &f->transport;
}

static inline int foe_begin(foe *f)
{
    if (f->secure) {
        f->secret = lb_secret_new("server.pem", "server.key");
        f->cfg.ca_file = lb_cert_path("ca.pem");
        if (f->cfg.url) f->cfg.url = "wss://127.0.0.1/";
    }
    f->gw = gw_open(&f->cfg);
    return CHECK(f->gw != NULL);
}

static inline void foe_end(foe *f)
{
    gw_close(f->gw);
    f->gw = NULL;
    CHECK(f->streams == NULL);
    CHECK_U64(f->live_blocks, 0);
    CHECK_U64(f->live_bytes, 0);
    CHECK_U64(f->bad_sizes, 0);
    CHECK_U64(f->token_seen, 0);
    CHECK_U64(f->idle_spins, 0);
    CHECK_U64(f->empty_messages, 0);
    free(f->secret);
    f->secret = NULL;
}

/* ---- time ---- */
static inline void foe_take(foe *f, const gw_event *event)
{
    if (event->type < GW_NOTICE_END_) f->seen[event->type]++;
    foe_look_for_token(f, event->message, "a message");
    foe_look_for_token(f, event->name, "a name");
    foe_look_for_token(f, gw_why(f->gw), "gw_why()");
    if (event->type >= GW_GATEWAY_INFO) {
        foe_look_for_token(f, event->d.ptr, "d of a notice");
        if (!event->message[0] && !f->fail_at) f->empty_messages++;
    }
    if (event->type == GW_DISCONNECTED || event->type == GW_FATAL) {
        f->last_reason = event->reason;
        f->last_close_code = event->close_code;
    }
    if (event->type == GW_DISCONNECTED || event->type == GW_FATAL || event->type == GW_SKIPPED)
        snprintf(f->last_message, sizeof f->last_message, "%s", event->message);
    if (event->type == GW_UNKNOWN_DISPATCH)
        snprintf(f->last_name, sizeof f->last_name, "%s", event->name);
    f->moved++;
    if (f->on_event) f->on_event(f, event);
}

/* gw_poll(), and what it cost. */
static inline const gw_event *foe_poll(foe *f)
{
    uint64_t reads = f->reads, bytes = f->read_bytes;
    const gw_event *event = gw_poll(f->gw);
    f->polls++;
    reads = f->reads - reads;
    bytes = f->read_bytes - bytes;
    if (reads > f->poll_reads_most) f->poll_reads_most = reads;
    if (bytes > f->poll_bytes_most) f->poll_bytes_most = bytes;
    f->turn_bytes += bytes;
    if (f->turn_bytes > f->turn_bytes_most) f->turn_bytes_most = f->turn_bytes;
    if (!event) f->turn_bytes = 0;
    return event;
}

static inline void foe_turn(foe *f, uint32_t events_most)
{
    const gw_event *event;
    foe_stream *stream;
    if (f->on_tick) f->on_tick(f);
    for (stream = f->streams; stream; stream = stream->next) foe_serve(stream);
    while (events_most-- && (event = foe_poll(f)) != NULL) foe_take(f, event);
}

/* All that can happen without time passing; of a flood some hundred turns. */
static inline void foe_settle(foe *f)
{
    uint32_t idle = 0, rounds = 0;
    uint64_t before;
    do {
        before = f->moved;
        foe_turn(f, 3000);
        idle = f->moved == before ? idle + 1 : 0;
    } while (++rounds < 500 && (idle == 0 || (idle < 100 && gw_timeout_ms(f->gw) == 0)));
    if (idle >= 100) f->idle_spins++;
}

static inline void foe_run(foe *f, uint64_t ms)
{
    uint64_t until_us = f->now_us + ms * 1000u, next_us;
    int32_t timeout_ms;
    foe_settle(f);
    while (f->now_us < until_us) {
        timeout_ms = gw_timeout_ms(f->gw);
        next_us = timeout_ms < 0 ? until_us : (foe_ms(f) + (uint64_t)timeout_ms) * 1000u;
        if (f->wake_us > f->now_us && f->wake_us < next_us) next_us = f->wake_us;
        if (next_us > until_us) next_us = until_us;
        f->now_us = next_us > f->now_us ? next_us : f->now_us + 1000u;
        foe_settle(f);
    }
}

/* ---- numbers ---- */
static inline uint64_t foe_most_in(const uint64_t *moments_ms, uint64_t count, uint64_t window_ms)
{
    uint64_t i, first = 0, most = 0;
    if (count > FOE_MOMENTS) count = FOE_MOMENTS;
    for (i = 0; i < count; i++) {
        while (moments_ms[i] - moments_ms[first] >= window_ms) first++;
        if (i - first + 1 > most) most = i - first + 1;
    }
    return most;
}

/* CHECK_SCALE=small: for machines and tools that are slow. */
static inline uint32_t foe_scale(uint32_t full, uint32_t small)
{
    const char *scale = getenv("CHECK_SCALE");
    return scale && strcmp(scale, "small") == 0 ? small : full;
}
#endif
