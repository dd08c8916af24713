/* server.c -- the other end: a TLS server (BearSSL) that says Hello and READY, answers heartbeats,
 * and plays a corpus as fast as the client takes it. What it plays is encrypted before the clock
 * starts, so that only send() is left. */
#ifndef _DEFAULT_SOURCE
#define _DEFAULT_SOURCE
#endif
#include "bench.h"
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#define CHAIN_MAX 4
#define SEND_BYTES (512u * 1024)        /* a send(): long enough that its call costs nothing */

typedef struct peer {
    int fd, gone, is_open;              /* is_open: the WebSocket */
    uint32_t watched;                   /* epoll's flags */
    uint64_t seq;
    int held;                           /* until BENCH_GO */
    uint8_t *out;                       /* ciphertext on its way */
    size_t out_len, out_at, out_cap;
    size_t in_len;
    char in[4096];                      /* of the request, then of one frame */
    br_ssl_server_context tls;
    uint8_t buffer[BR_SSL_BUFSIZE_BIDI];
} peer;

typedef struct server {
    const bench_world *world;
    int listener, poller;
    br_x509_certificate chain[CHAIN_MAX];
    size_t chain_len;
    br_skey_decoder_context key;
    br_ssl_session_cache_lru cache;
    uint8_t cache_store[100000];
    uint32_t interval_ms, no_cache, beats;
    peer *latest;                       /* said Identify or Resume last */
    corpus played;                      /* the last one made, in case it is asked for again */
    corpus_ask played_ask;
    uint64_t go_cpu_ns, done_cpu_ns;
} server;

/* ---- certificates ---- */
static void read_secret(server *it)
{
    pem_object objects[CHAIN_MAX + 1];
    size_t i, count = pem_read(it->world, "server.pem", objects, CHAIN_MAX);
    for (i = 0; i < count; i++) {
        it->chain[i].data = objects[i].bytes;
        it->chain[i].data_len = objects[i].len;
    }
    it->chain_len = count;
    count = pem_read(it->world, "server.key", objects, CHAIN_MAX + 1);
    for (i = 0; i < count; i++) {
        if (!strstr(objects[i].name, "PRIVATE KEY")) continue;
        br_skey_decoder_init(&it->key);
        br_skey_decoder_push(&it->key, objects[i].bytes, objects[i].len);
    }
    if (!br_skey_decoder_get_ec(&it->key)) bench_fail("server.key is to be an EC key", NULL);
    br_ssl_session_cache_lru_init(&it->cache, it->cache_store, sizeof it->cache_store);
}

static void begin_tls(server *it, peer *to)
{
    br_ssl_server_init_full_ec(&to->tls, it->chain, it->chain_len, BR_KEYTYPE_EC,
                               br_skey_decoder_get_ec(&it->key));
    br_ssl_engine_set_versions(&to->tls.eng, BR_TLS12, BR_TLS12);
    if (!it->no_cache) br_ssl_server_set_cache(&to->tls, &it->cache.vtable);
    br_ssl_engine_set_buffer(&to->tls.eng, to->buffer, sizeof to->buffer, 1);
    br_ssl_server_reset(&to->tls);
}

/* ---- out ---- */
static void reserve_out(peer *to, size_t more)
{
    size_t cap = to->out_cap ? to->out_cap : 4096;
    while (cap - to->out_len < more) cap *= 2;
    if (cap == to->out_cap) return;
    to->out = (uint8_t *)realloc(to->out, cap);
    if (!to->out) bench_fail("no memory for what is to be played", NULL);
    to->out_cap = cap;
}

/* Records that are ready, to the queue. */
static void collect(peer *to)
{
    size_t len;
    uint8_t *bytes;
    while ((bytes = br_ssl_engine_sendrec_buf(&to->tls.eng, &len)) != NULL) {
        reserve_out(to, len);
        memcpy(to->out + to->out_len, bytes, len);
        to->out_len += len;
        br_ssl_engine_sendrec_ack(&to->tls.eng, len);
    }
}

static void write_plain(peer *to, const uint8_t *bytes, size_t len)
{
    uint8_t *room;
    size_t cap;
    while (len && (room = br_ssl_engine_sendapp_buf(&to->tls.eng, &cap)) != NULL) {
        if (cap > len) cap = len;
        memcpy(room, bytes, cap);
        br_ssl_engine_sendapp_ack(&to->tls.eng, cap);
        bytes += cap;
        len -= cap;
        collect(to);
    }
}

static void end_record(peer *to)
{
    br_ssl_engine_flush(&to->tls.eng, 0);
    collect(to);
}

static void watch(server *it, peer *to, uint32_t flags)
{
    struct epoll_event event;
    if (to->watched == flags) return;
    memset(&event, 0, sizeof event);
    event.events = flags;
    event.data.ptr = to;
    epoll_ctl(it->poller, to->watched ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, to->fd, &event);
    to->watched = flags;
}

static void drop(server *it, peer *to)
{
    struct linger at_once = { 1, 0 };
    if (to->gone) return;
    to->gone = 1;
    if (it->latest == to) it->latest = NULL;
    setsockopt(to->fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    close(to->fd);
}

static void flush(server *it, peer *to)
{
    ssize_t sent;
    while (!to->held && to->out_at < to->out_len) {
        size_t len = to->out_len - to->out_at;
        if (len > SEND_BYTES) len = SEND_BYTES;
        sent = send(to->fd, to->out + to->out_at, len, MSG_NOSIGNAL);
        if (sent < 0 && (errno == EAGAIN || errno == EINTR)) break;
        if (sent < 0) { drop(it, to); return; }
        to->out_at += (size_t)sent;
    }
    if (to->out_at == to->out_len) {
        if (to->out_len > 65536) it->done_cpu_ns = bench_cpu_ns();
        to->out_at = to->out_len = 0;
    }
    watch(it, to, EPOLLIN | (!to->held && to->out_len ? (uint32_t)EPOLLOUT : 0u));
}

static void say(server *it, peer *to, const char *text)
{
    size_t len = strlen(text);
    uint8_t header[4] = { 0x81, 0, 0, 0 };
    header[1] = (uint8_t)(len < 126 ? len : 126);
    header[2] = (uint8_t)(len >> 8);
    header[3] = (uint8_t)len;
    write_plain(to, header, len < 126 ? 2 : 4);
    write_plain(to, (const uint8_t *)text, len);
    end_record(to);
    flush(it, to);
}

/* ---- the upgrade: RFC 6455 section 4.2 ---- */
static void accept_key(const char *key, size_t len, char out[29])
{
    static const char alphabet[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    static const char guid[] = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    uint8_t hash[21] = { 0 };
    br_sha1_context sha1;
    int i;
    br_sha1_init(&sha1);
    br_sha1_update(&sha1, key, len);
    br_sha1_update(&sha1, guid, sizeof guid - 1);
    br_sha1_out(&sha1, hash);
    for (i = 0; i < 28; i++) {
        int bit = i * 6, byte = bit / 8;
        unsigned pair = (unsigned)hash[byte] << 8 | (byte < 20 ? hash[byte + 1] : 0u);
        out[i] = alphabet[pair >> (10 - bit % 8) & 63u];
    }
    out[27] = '=';
    out[28] = 0;
}

/* How much of what came in was used. */
static size_t take_request(server *it, peer *from)
{
    static const char name[] = "Sec-WebSocket-Key: ";
    char answer[256], accept[29];
    char *end = strstr(from->in, "\r\n\r\n"), *key = strstr(from->in, name);
    if (!end) return 0;
    if (!key) { drop(it, from); return from->in_len; }
    key += sizeof name - 1;
    accept_key(key, strcspn(key, "\r"), accept);
    snprintf(answer, sizeof answer, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
             "Connection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n", accept);
    write_plain(from, (const uint8_t *)answer, strlen(answer));
    end_record(from);
    from->is_open = 1;
    snprintf(answer, sizeof answer, "{\"t\":null,\"s\":null,\"op\":10,\"d\":{"
             "\"heartbeat_interval\":%u,\"_trace\":[]}}", (unsigned)it->interval_ms);
    say(it, from, answer);
    return (size_t)(end + 4 - from->in);
}

/* ---- what the client says ---- */
static void say_ready(server *it, peer *to)
{
    char text[1024];
    to->seq = 1;
    it->latest = to;
    snprintf(text, sizeof text, "{\"t\":\"READY\",\"s\":1,\"op\":0,\"d\":{\"v\":10,"
             "\"user_settings\":{},\"user\":{\"verified\":true,\"username\":\"bench\","
             "\"mfa_enabled\":true,\"id\":\"1098765432109876543\",\"global_name\":null,"
             "\"flags\":0,\"email\":null,\"discriminator\":\"0001\",\"bot\":true,\"avatar\":null},"
             "\"session_type\":\"normal\","
             "\"session_id\":\"0123456789abcdef0123456789abcdef\",\"resume_gateway_url\":"
             "\"wss://localhost:%d\",\"relationships\":[],\"private_channels\":[],\"presences\":[],"
             "\"guilds\":[],\"application\":{\"id\":\"1098765432109876543\",\"flags\":565248},"
             "\"_trace\":[\"bench\"]}}", it->world->port);
    say(it, to, text);
}

static void say_resumed(server *it, peer *to, const char *resume)
{
    char text[128];
    const char *seq = strstr(resume, "\"seq\":");
    to->seq = (seq ? strtoull(seq + 6, NULL, 10) : 0) + 1;
    it->latest = to;
    snprintf(text, sizeof text, "{\"t\":\"RESUMED\",\"s\":%llu,\"op\":0,\"d\":{\"_trace\":[]}}",
             (unsigned long long)to->seq);
    say(it, to, text);
}

/* The client is our own, so the first "op" is the payload's. */
static void obey_payload(server *it, peer *from, const char *json)
{
    const char *op = strstr(json, "\"op\":");
    if (!op) return;
    switch (atoi(op + 5)) {
    case 1:
        it->beats++;
        say(it, from, "{\"t\":null,\"s\":null,\"op\":11,\"d\":null}");
        break;
    case 2: say_ready(it, from); break;
    case 6: say_resumed(it, from, json); break;
    default: break;
    }
}

/* One masked frame: RFC 6455 section 5.2. How much was used; 0: it is not whole yet. */
static size_t take_frame(server *it, peer *from)
{
    const uint8_t *bytes = (const uint8_t *)from->in;
    char json[sizeof from->in];
    size_t header, frame, len, i;
    if (from->in_len < 8) return 0;
    frame = corpus_frame_len(bytes, &header) + 4;
    if (frame > sizeof from->in) { drop(it, from); return from->in_len; }
    if (from->in_len < frame) return 0;
    len = frame - header - 4;
    for (i = 0; i < len; i++) json[i] = (char)(bytes[header + 4 + i] ^ bytes[header + i % 4]);
    json[len] = 0;
    if ((bytes[0] & 15) == 1) obey_payload(it, from, json);
    else if ((bytes[0] & 15) == 8) drop(it, from);
    return frame;
}

static void take_plain(server *it, peer *from, const uint8_t *bytes, size_t len)
{
    size_t used = 1;
    if (len >= sizeof from->in - from->in_len) { drop(it, from); return; }
    memcpy(from->in + from->in_len, bytes, len);
    from->in_len += len;
    while (used && from->in_len && !from->gone) {
        from->in[from->in_len] = 0;
        used = from->is_open ? take_frame(it, from) : take_request(it, from);
        memmove(from->in, from->in + used, from->in_len - used);
        from->in_len -= used;
    }
}

/* 0: no more for now. */
static int read_peer(server *it, peer *from)
{
    br_ssl_engine_context *engine = &from->tls.eng;
    size_t len;
    ssize_t got;
    uint8_t *room = br_ssl_engine_recvapp_buf(engine, &len);
    if (room) {
        take_plain(it, from, room, len);
        br_ssl_engine_recvapp_ack(engine, len);
        return !from->gone;
    }
    collect(from);
    room = br_ssl_engine_recvrec_buf(engine, &len);
    if (!room) { drop(it, from); return 0; }
    got = recv(from->fd, room, len, 0);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return 0;
    if (got <= 0) { drop(it, from); return 0; }
    br_ssl_engine_recvrec_ack(engine, (size_t)got);
    collect(from);
    return 1;
}

static void serve(server *it, peer *to, uint32_t flags)
{
    if (flags & EPOLLIN) while (read_peer(it, to)) { }
    else if (flags & (EPOLLERR | EPOLLHUP)) drop(it, to);
    if (!to->gone) flush(it, to);
    if (!to->gone) return;
    free(to->out);
    free(to);
}

/* On the loopback an ACK makes the kernel send what waits here, in the time of whoever sent the ACK: a client that is
 * slower than this server would pay for the server's sending. So little waits: with 64 KiB all rows are at their
 * fastest, the bare loop's too (256 KiB: a third slower; 30 KB: the stream stalls). */
#define SEND_BUFFER (64 * 1024)

static void accept_peers(server *it)
{
    int fd, on = 1, bytes = SEND_BUFFER;
    while ((fd = accept(it->listener, NULL, NULL)) >= 0) {
        peer *to = (peer *)bench_new(sizeof *to);
        fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
        to->fd = fd;
        begin_tls(it, to);
        watch(it, to, EPOLLIN);
    }
}

/* ---- orders ---- */
static void make_corpus(server *it, const corpus_ask *ask)
{
    if (it->played.bytes && memcmp(&it->played_ask, ask, sizeof *ask) == 0) return;
    corpus_free(&it->played);
    corpus_build(&it->played, ask);
    it->played_ask = *ask;
}

static void prepare(server *it, peer *to, const bench_order *order, bench_answer *answer)
{
    corpus_ask ask = order->play;
    const corpus *made = &it->played;
    size_t at, len, header;
    ask.first_seq = to->seq + 1;
    make_corpus(it, &ask);
    to->held = 1;
    reserve_out(to, made->len + made->len / 64 + (order->record_an_event ? 40 * made->events : 0));
    for (at = 0; at < made->len; at += len) {
        len = order->record_an_event ? corpus_frame_len(made->bytes + at, &header) : made->len;
        write_plain(to, made->bytes + at, len);
        end_record(to);
    }
    to->seq += made->events + 1;
    answer->events = made->events;
    answer->json_bytes = made->json_bytes;
    answer->plain_bytes = made->len;
}

static void go(server *it, peer *to)
{
    it->go_cpu_ns = bench_cpu_ns();
    to->held = 0;
}

static void report(const server *it, bench_answer *answer)
{
    answer->cpu_s = (double)(it->done_cpu_ns - it->go_cpu_ns) / 1e9;
}

static void obey_peer_order(server *it, peer *to, const bench_order *order, bench_answer *answer)
{
    if (order->verb == BENCH_PREPARE) prepare(it, to, order, answer);
    if (order->verb == BENCH_GO) go(it, to);
    if (order->verb == BENCH_RECONNECT) say(it, to, "{\"t\":null,\"s\":null,\"op\":7,\"d\":null}");
    if (order->verb == BENCH_INVALIDATE)
        say(it, to, "{\"t\":null,\"s\":null,\"op\":9,\"d\":false}");
}

static void obey_order(server *it)
{
    bench_order order;
    bench_answer answer;
    peer *to = it->latest;
    ssize_t got = recv(it->world->control, &order, sizeof order, MSG_DONTWAIT);
    if (got == 0 || (got > 0 && order.verb == BENCH_QUIT)) exit(0);
    if (got != (ssize_t)sizeof order) return;
    memset(&answer, 0, sizeof answer);
    answer.beats = it->beats;
    answer.done = order.verb == BENCH_SETUP || order.verb == BENCH_REPORT || to;
    if (order.verb == BENCH_SETUP) {
        it->interval_ms = order.interval_ms ? order.interval_ms : 41250;
        it->no_cache = order.no_cache;
    }
    if (order.verb == BENCH_REPORT) report(it, &answer);
    else if (to) obey_peer_order(it, to, &order, &answer);
    if (send(it->world->control, &answer, sizeof answer, MSG_NOSIGNAL) < 0) exit(0);
    if (to && order.verb == BENCH_GO) flush(it, to);
    /* shut down, not closed: epoll then tells of it, and one place frees. (What was dropped in the
     * middle of an answer stays with us: epoll may still have it in its list.) */
    if (to && order.verb == BENCH_DROP) shutdown(to->fd, SHUT_RDWR);
}

/* ---- the loop ---- */
static void watch_fd(server *it, int fd, void *tag)
{
    struct epoll_event event;
    memset(&event, 0, sizeof event);
    event.events = EPOLLIN;
    event.data.ptr = tag;
    epoll_ctl(it->poller, EPOLL_CTL_ADD, fd, &event);
}

void server_run(const bench_world *world, int listener)
{
    static server it;
    struct epoll_event events[64];
    int i, count;
    it.world = world;
    it.listener = listener;
    it.interval_ms = 41250;
    it.poller = epoll_create1(0);
    bench_pin(world->server_core);
    read_secret(&it);
    watch_fd(&it, listener, &it.listener);
    watch_fd(&it, world->control, &it.poller);
    for (;;) {
        count = epoll_wait(it.poller, events, 64, -1);
        for (i = 0; i < count; i++) {
            if (events[i].data.ptr == &it.listener) accept_peers(&it);
            else if (events[i].data.ptr == &it.poller) obey_order(&it);
            else serve(&it, (peer *)events[i].data.ptr, events[i].events);
        }
    }
}
