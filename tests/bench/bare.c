/* bare.c -- the bare BearSSL loop: connect, read, decrypt, drop, and nothing else; what the library
 * is measured by. A blocking socket, recv() straight into BearSSL's buffer; `ahead` reads 64 KiB at
 * a time first, as the library does; `slower` spends some time on each event too, which shows what
 * the kernel adds for a client that is slower than its server. */
#ifndef _DEFAULT_SOURCE
#define _DEFAULT_SOURCE
#endif
#include "bench.h"
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define AHEAD_BYTES 65536u
#define SLOWER_NS 300u          /* an event, of which each has so many bytes on average */
#define EVENT_BYTES 811u

struct bare {
    int fd;
    br_ssl_client_context tls;
    br_x509_minimal_context x509;
    uint8_t buffer[BR_SSL_BUFSIZE_BIDI];
};

/* ---- whom it trusts: tests/certs/ca.pem ---- */
typedef struct anchor {
    br_x509_trust_anchor it;
    br_x509_decoder_context decoder;
    uint8_t dn[256];
    size_t dn_len;
} anchor;

static void add_dn(void *context, const void *bytes, size_t len)
{
    anchor *to = (anchor *)context;
    if (to->dn_len + len > sizeof to->dn) bench_fail("the name in ca.pem is too long", NULL);
    memcpy(to->dn + to->dn_len, bytes, len);
    to->dn_len += len;
}

static const br_x509_trust_anchor *read_anchor(const bench_world *world)
{
    static anchor to;
    pem_object object;
    const br_x509_pkey *key;
    if (to.dn_len) return &to.it;
    if (pem_read(world, "ca.pem", &object, 1) != 1) bench_fail("no certificate in ca.pem", NULL);
    br_x509_decoder_init(&to.decoder, add_dn, &to);
    br_x509_decoder_push(&to.decoder, object.bytes, object.len);
    key = br_x509_decoder_get_pkey(&to.decoder);
    if (!key) bench_fail("ca.pem cannot be read", NULL);
    to.it.dn.data = to.dn;
    to.it.dn.len = to.dn_len;
    to.it.flags = BR_X509_TA_CA;
    to.it.pkey = *key;
    return &to.it;
}

/* ---- TCP and TLS ---- */
static int dial(int port)
{
    struct addrinfo hints, *found = NULL;
    char text[16];
    int fd, on = 1;
    memset(&hints, 0, sizeof hints);
    hints.ai_family = AF_INET;
    hints.ai_socktype = SOCK_STREAM;
    snprintf(text, sizeof text, "%d", port);
    if (getaddrinfo("localhost", text, &hints, &found))
        bench_fail("localhost has no address", NULL);
    fd = socket(found->ai_family, SOCK_STREAM, 0);
    if (fd < 0 || connect(fd, found->ai_addr, found->ai_addrlen))
        bench_fail("the bare loop cannot connect", strerror(errno));
    freeaddrinfo(found);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    return fd;
}

/* The library's suites in its order, so that both decrypt the same. */
static void set_suites(br_ssl_engine_context *engine)
{
    static const uint16_t aes[] = {
        BR_TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, BR_TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256
    };
    static const uint16_t chacha[] = {
        BR_TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, BR_TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
    };
    int has_aes = (br_aes_x86ni_ctr_get_vtable() && br_ghash_pclmul_get()) ||
                  (br_aes_pwr8_ctr_get_vtable() && br_ghash_pwr8_get());
    br_ssl_engine_set_suites(engine, has_aes ? aes : chacha, 2);
}

static void begin_tls(bare *it, const bench_world *world, const br_ssl_session_parameters *resume)
{
    uint8_t seed[32];
    br_ssl_client_init_full(&it->tls, &it->x509, read_anchor(world), 1);
    br_ssl_engine_set_versions(&it->tls.eng, BR_TLS12, BR_TLS12);
    set_suites(&it->tls.eng);
    br_ssl_engine_set_buffer(&it->tls.eng, it->buffer, sizeof it->buffer, 1);
    if (getrandom(seed, sizeof seed, 0) != (ssize_t)sizeof seed)
        bench_fail("no random bytes", NULL);
    br_ssl_engine_inject_entropy(&it->tls.eng, seed, sizeof seed);
    if (resume && resume->session_id_len)
        br_ssl_engine_set_session_parameters(&it->tls.eng, resume);
    br_ssl_client_reset(&it->tls, "localhost", resume && resume->session_id_len);
}

static void send_records(bare *it)
{
    size_t len;
    uint8_t *bytes;
    while ((bytes = br_ssl_engine_sendrec_buf(&it->tls.eng, &len)) != NULL) {
        ssize_t sent = send(it->fd, bytes, len, MSG_NOSIGNAL);
        if (sent <= 0) bench_fail("the bare loop cannot send", strerror(errno));
        br_ssl_engine_sendrec_ack(&it->tls.eng, (size_t)sent);
    }
}

static void receive(bare *it)
{
    size_t cap;
    ssize_t got;
    uint8_t *room = br_ssl_engine_recvrec_buf(&it->tls.eng, &cap);
    if (!room) bench_fail("the bare loop's TLS has ended", NULL);
    got = recv(it->fd, room, cap, 0);
    if (got <= 0) bench_fail("the bare loop cannot receive", strerror(errno));
    br_ssl_engine_recvrec_ack(&it->tls.eng, (size_t)got);
}

static void shake_hands(bare *it)
{
    br_ssl_engine_context *engine = &it->tls.eng;
    while (!(br_ssl_engine_current_state(engine) & BR_SSL_SENDAPP)) {
        if (br_ssl_engine_last_error(engine)) bench_fail("the bare loop's handshake failed", NULL);
        send_records(it);
        if (!(br_ssl_engine_current_state(engine) & BR_SSL_SENDAPP)) receive(it);
    }
}

static void write_plain(bare *it, const void *bytes, size_t len)
{
    size_t cap;
    uint8_t *room = br_ssl_engine_sendapp_buf(&it->tls.eng, &cap);
    if (!room || cap < len) bench_fail("the bare loop cannot write", NULL);
    memcpy(room, bytes, len);
    br_ssl_engine_sendapp_ack(&it->tls.eng, len);
    br_ssl_engine_flush(&it->tls.eng, 0);
    send_records(it);
}

static void read_plain(bare *it, uint8_t *out, size_t len)
{
    while (len) {
        size_t there;
        uint8_t *bytes = br_ssl_engine_recvapp_buf(&it->tls.eng, &there);
        if (!bytes) { receive(it); continue; }
        if (there > len) there = len;
        memcpy(out, bytes, there);
        br_ssl_engine_recvapp_ack(&it->tls.eng, there);
        out += there;
        len -= there;
    }
}

/* ---- as little WebSocket as leads to READY ---- */
static void upgrade(bare *it)
{
    static const char request[] =
        "GET /?v=10&encoding=json HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
        "Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        "Sec-WebSocket-Version: 13\r\n\r\n";
    uint8_t last[4] = { 0 };
    write_plain(it, request, sizeof request - 1);
    while (memcmp(last, "\r\n\r\n", 4) != 0) {
        memmove(last, last + 1, 3);
        read_plain(it, last + 3, 1);
    }
}

static void read_frame(bare *it)
{
    uint8_t frame[4096];
    size_t header;
    read_plain(it, frame, 2);
    if (frame[1] == 126) read_plain(it, frame + 2, 2);
    if (corpus_frame_len(frame, &header) > sizeof frame) bench_fail("a frame is too long", NULL);
    read_plain(it, frame + header, corpus_frame_len(frame, &header) - header);
}

static void identify(bare *it)
{
    static const char json[] = "{\"op\":2,\"d\":{\"token\":\"" BENCH_TOKEN "\",\"intents\":0,"
        "\"properties\":{\"os\":\"linux\",\"browser\":\"bare\",\"device\":\"bare\"}}}";
    /* masked with zeroes */
    uint8_t frame[512] = { 0x81, 0x80 | 126, 0, (sizeof json - 1) & 255u, 0, 0, 0, 0 };
    frame[2] = (uint8_t)((sizeof json - 1) >> 8);
    memcpy(frame + 8, json, sizeof json - 1);
    write_plain(it, frame, 8 + sizeof json - 1);
}

bare *bare_open(const bench_world *world, int until_101, br_ssl_session_parameters *resume)
{
    bare *it = (bare *)bench_new(sizeof *it);
    it->fd = dial(world->port);
    begin_tls(it, world, resume);
    shake_hands(it);
    if (resume) br_ssl_engine_get_session_parameters(&it->tls.eng, resume);
    upgrade(it);
    if (until_101) return it;
    read_frame(it);             /* Hello */
    identify(it);
    read_frame(it);             /* READY */
    return it;
}

void bare_wait(bare *it)
{
    struct pollfd fd = { 0, POLLIN, 0 };
    fd.fd = it->fd;
    poll(&fd, 1, 10000);
}

/* ---- the loop itself ---- */
static void receive_ahead(bare *it, uint8_t *ahead, size_t *at, size_t *len)
{
    size_t cap;
    uint8_t *room = br_ssl_engine_recvrec_buf(&it->tls.eng, &cap);
    if (!room) bench_fail("the bare loop's TLS has ended", NULL);
    if (*at == *len) {
        ssize_t got = recv(it->fd, ahead, AHEAD_BYTES, 0);
        if (got <= 0) bench_fail("the bare loop cannot receive", strerror(errno));
        *at = 0;
        *len = (size_t)got;
    }
    if (cap > *len - *at) cap = *len - *at;
    memcpy(room, ahead + *at, cap);
    *at += cap;
    br_ssl_engine_recvrec_ack(&it->tls.eng, cap);
}

enum { AS_IT_COMES, AHEAD, SLOWER };

void bare_drop(bare *it, uint64_t bytes, int how)
{
    static uint8_t buffer[AHEAD_BYTES];
    size_t at = 0, ahead_len = 0, len;
    while (bytes) {
        if (!br_ssl_engine_recvapp_buf(&it->tls.eng, &len)) {
            if (how != AS_IT_COMES) receive_ahead(it, buffer, &at, &ahead_len);
            else receive(it);
            continue;
        }
        if (len > bytes) bench_fail("the bare loop got more than was played", NULL);
        br_ssl_engine_recvapp_ack(&it->tls.eng, len);
        bytes -= len;
        if (how == SLOWER) bench_burn((uint32_t)(len * SLOWER_NS / EVENT_BYTES));
    }
}

void bare_close(bare *it)
{
    close(it->fd);
    free(it);
}

/* ---- its rows ---- */
static bench_answer prepare(const bench_world *world, const bench_row *row)
{
    bench_order order;
    memset(&order, 0, sizeof order);
    order.verb = BENCH_PREPARE;
    order.play = row->play;
    order.record_an_event = row->record_an_event;
    return bench_ask(world, &order);
}

/* mode: how */
static void run_stream(const bench_world *world, const bench_row *row, bench_figures *out)
{
    bare *it = bare_open(world, 0, NULL);
    bench_answer made = prepare(world, row), served;
    uint64_t began_ns, cpu_ns;
    double wall_s, cpu_s;
    bench_tell(world, BENCH_GO);
    bare_wait(it);
    began_ns = bench_now_ns();
    cpu_ns = bench_cpu_ns();
    bare_drop(it, made.plain_bytes, (int)row->mode);
    cpu_s = (double)(bench_cpu_ns() - cpu_ns) / 1e9;
    wall_s = (double)(bench_now_ns() - began_ns) / 1e9;
    served = bench_tell(world, BENCH_REPORT);
    bench_put(out, "events", (double)made.events);
    bench_put(out, "bytes", (double)made.json_bytes);
    bench_put(out, "wall_s", wall_s);
    bench_put(out, "cpu_s", cpu_s);
    bench_put(out, "server_cpu_s", served.cpu_s);
    bare_close(it);
}

/* mode: 1 resumes. Means of some, the first not counted. */
static void run_handshake(const bench_world *world, const bench_row *row, bench_figures *out)
{
    br_ssl_session_parameters session;
    int i, count = world->quick ? 5 : 20;
    uint64_t began_ns = 0, cpu_ns = 0;
    memset(&session, 0, sizeof session);
    for (i = 0; i <= count; i++) {
        if (i == 1) {
            began_ns = bench_now_ns();
            cpu_ns = bench_cpu_ns();
        }
        bare_close(bare_open(world, 1, row->mode ? &session : NULL));
    }
    bench_put(out, "wall_s", (double)(bench_now_ns() - began_ns) / 1e9 / count);
    bench_put(out, "cpu_s", (double)(bench_cpu_ns() - cpu_ns) / 1e9 / count);
}

/* ---- idle connections that beat as Discord asks, each at its own time, which is all they do ---- */
#define INTERVAL_NS UINT64_C(41250000000)

typedef struct beating { bare *it; uint64_t due_ns; } beating;

static void beat(beating *of)
{
    /* masked with zeroes */
    static const uint8_t frame[] = { 0x81, 0x80 | 17, 0, 0, 0, 0, '{', '"', 'o', 'p', '"', ':', '1', ',',
                                     '"', 'd', '"', ':', 'n', 'u', 'l', 'l', '}' };
    write_plain(of->it, frame, sizeof frame);
    of->due_ns += INTERVAL_NS;
}

static void drop_answer(bare *it)
{
    size_t len;
    do receive(it); while (!br_ssl_engine_recvapp_buf(&it->tls.eng, &len));
    br_ssl_engine_recvapp_ack(&it->tls.eng, len);
}

static uint64_t beat_all_due(beating *all, uint32_t count)
{
    uint64_t next_ns = UINT64_MAX, now_ns = bench_now_ns();
    uint32_t i;
    for (i = 0; i < count; i++) {
        if (all[i].due_ns <= now_ns) beat(&all[i]);
        if (all[i].due_ns < next_ns) next_ns = all[i].due_ns;
    }
    return next_ns;
}

static double cpu_of_idling(beating *all, uint32_t count, int poller, double seconds)
{
    uint64_t until_ns = bench_now_ns() + (uint64_t)(seconds * 1e9), cpu_ns = bench_cpu_ns(), now_ns;
    struct epoll_event events[64];
    while ((now_ns = bench_now_ns()) < until_ns) {
        uint64_t next_ns = beat_all_due(all, count);
        int i, ready;
        if (next_ns > until_ns) next_ns = until_ns;
        ready = epoll_wait(poller, events, 64,
                           next_ns > now_ns ? (int)((next_ns - now_ns) / 1000000u + 1) : 0);
        for (i = 0; i < ready; i++) drop_answer((bare *)events[i].data.ptr);
    }
    return (double)(bench_cpu_ns() - cpu_ns) / 1e6 / seconds;
}

/* mode: how many; this process ends after it */
static void run_idle(const bench_world *world, const bench_row *row, bench_figures *out)
{
    beating *all = (beating *)bench_new(row->mode * sizeof *all);
    uint64_t before = bench_private_bytes();
    int poller = epoll_create1(0);
    uint32_t i;
    for (i = 0; i < row->mode; i++) {
        struct epoll_event event;
        memset(&event, 0, sizeof event);
        all[i].it = bare_open(world, 0, NULL);
        /* the first ones spread over the interval, as the documents' random part of it does */
        all[i].due_ns = bench_now_ns() + INTERVAL_NS / row->mode * (i * 7919u % row->mode);
        event.events = EPOLLIN;
        event.data.ptr = all[i].it;
        epoll_ctl(poller, EPOLL_CTL_ADD, all[i].it->fd, &event);
    }
    bench_put(out, "private_bytes", (double)(bench_private_bytes() - before) / row->mode);
    bench_put(out, "idle_ms_per_s",
              cpu_of_idling(all, row->mode, poller, world->quick ? 2 : row->mode >= 1000 ? 20 : 5));
}

/* ---- what it costs to put 100 MB into memory that was never touched, and into memory that was ---- */
static double fill(uint8_t *to, size_t bytes)
{
    static uint8_t piece[16384];
    uint64_t cpu_ns = bench_cpu_ns();
    size_t at;
    for (at = 0; at + sizeof piece <= bytes; at += sizeof piece) memcpy(to + at, piece, sizeof piece);
    return (double)(bench_cpu_ns() - cpu_ns) / 1e9;
}

static void run_fresh(const bench_world *world, const bench_row *row, bench_figures *out)
{
    size_t bytes = 100000000;
    uint8_t *to = (uint8_t *)malloc(bytes);
    (void)world; (void)row;
    if (!to) bench_fail("no memory", NULL);
    bench_put(out, "bytes", (double)bytes);
    bench_put(out, "fresh_cpu_s", fill(to, bytes));
    bench_put(out, "again_cpu_s", fill(to, bytes));
    free(to);
}

void bare_start(const bench_world *world)
{
    bare_open(world, 0, NULL);
    printf("%llu\n", (unsigned long long)bench_now_ns());
}

#define MIX { CORPUS_MIX, 100000, 0, 1, 0 }
#define GUILDS(count, bytes) { CORPUS_GUILDS, count, bytes, 1, 0 }
#define NONE { 0, 0, 0, 0, 0 }
const bench_row bare_rows[] = {
    { "bare", run_stream, 0, MIX, 0, 1 },
    { "bare_ahead", run_stream, AHEAD, MIX, 0, 0 },
    { "bare_slower", run_stream, SLOWER, MIX, 0, 0 },
    { "bare_record", run_stream, 0, MIX, 1, 1 },
    { "bare_record_ahead", run_stream, AHEAD, MIX, 1, 0 },
    { "bare_10mb", run_stream, 0, GUILDS(8, 10000000), 0, 1 },
    { "bare_size_10k", run_stream, 0, GUILDS(8000, 10000), 0, 0 },
    { "bare_size_100k", run_stream, 0, GUILDS(800, 100000), 0, 0 },
    { "bare_size_1m", run_stream, 0, GUILDS(80, 1000000), 0, 0 },
    { "bare_size_10m", run_stream, 0, GUILDS(8, 10000000), 0, 0 },
    { "bare_size_100m", run_stream, 0, GUILDS(1, 100000000), 0, 0 },
    { "fresh_memory", run_fresh, 0, NONE, 0, 0 },
    { "bare_handshake", run_handshake, 0, NONE, 0, 1 },
    { "bare_handshake_resumed", run_handshake, 1, NONE, 0, 1 },
    { "bare_idle", run_idle, 100, NONE, 0, 1 },
    { "bare_idle_1000", run_idle, 1000, NONE, 0, 0 },
    { NULL, NULL, 0, NONE, 0, 0 }
};
