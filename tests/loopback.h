/* The other side of tests with real sockets, in the same process: streams with or without TLS (BearSSL's server side,
 * certificates of certs/), and the gateway simulator behind a listener. Nothing here blocks but lb_sim_start()'s thread;
 * everything listens on a free port of 127.0.0.1.
 *
 *   lb_stream    a connected socket: lb_pump() moves bytes between the socket, TLS and two buffers
 *   lb_sim       the simulator, served: lb_sim_turn() in the test's own loop, or lb_sim_start() in a thread of its own
 * Include discord_gateway.h with DISCORD_GATEWAY_IMPLEMENTATION first. Links with tests/simulator/'s core. */
#ifndef LOOPBACK_H
#define LOOPBACK_H
#include "check.h"
#include "simulator/gateway_sim.h"
#include <poll.h>
#include <pthread.h>

static uint64_t lb_skipped_us;          /* a test that waits for nothing moves the clock on */

static inline uint64_t lb_now_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000u + (uint64_t)now.tv_nsec / 1000u + lb_skipped_us;
}

static inline uint64_t lb_now_ms(void) { return lb_now_us() / 1000u; }
static inline int lb_is_slow(void) { return getenv("GW_TEST_SLOW_MACHINE") != NULL; }

/* How long a test waits for what must come: long, because a slow machine is no failure. */
static inline uint64_t lb_patience_ms(void) { return lb_is_slow() ? 60000 : 20000; }

static inline void *lb_new(size_t bytes)
{
    void *fresh = calloc(1, bytes);
    if (!fresh) { fprintf(stderr, "loopback.h: no memory\n"); exit(1); }
    return fresh;
}

/* ---- files of certs/ ---- */
static inline const char *lb_cert_path(const char *name)
{
    static char path[2][512];
    static int turn;
    const char *slash = strrchr(__FILE__, '/');
    turn = !turn;
    snprintf(path[turn], sizeof path[turn], "%.*scerts/%s", slash ? (int)(slash + 1 - __FILE__) : 0, __FILE__, name);
    return path[turn];
}

static inline char *lb_cert_text(const char *name)
{
    FILE *file = fopen(lb_cert_path(name), "rb");
    char *text = (char *)lb_new(65536);
    if (!file) { fprintf(stderr, "%s is not there\n", lb_cert_path(name)); exit(1); }
    text[fread(text, 1, 65535, file)] = 0;
    fclose(file);
    return text;
}

typedef struct lb_blob { uint8_t bytes[8192]; size_t len; } lb_blob;

static inline void lb_blob_add(void *user, const void *bytes, size_t len)
{
    lb_blob *b = (lb_blob *)user;
    if (b->len + len > sizeof b->bytes) exit(1);
    memcpy(b->bytes + b->len, bytes, len);
    b->len += len;
}

static inline size_t lb_cert_decode(const char *name, lb_blob *out, size_t cap)
{
    char *text = lb_cert_text(name), *at = text;
    size_t len = strlen(text), count = 0, used;
    br_pem_decoder_context pem;
    br_pem_decoder_init(&pem);
    while (len) {
        used = br_pem_decoder_push(&pem, at, len);
        at += used;
        len -= used;
        switch (br_pem_decoder_event(&pem)) {
        case BR_PEM_BEGIN_OBJ:
            if (count == cap) exit(1);
            out[count].len = 0;
            br_pem_decoder_setdest(&pem, lb_blob_add, &out[count]);
            break;
        case BR_PEM_END_OBJ: count++; break;
        default: break;
        }
    }
    free(text);
    return count;
}

/* ---- a server's certificates, key and session cache; the cache counts ---- */
typedef struct lb_cache {               /* first: BearSSL calls through it */
    const br_ssl_session_cache_class *vtable;
    br_ssl_session_cache_lru lru;
    uint8_t store[4000];
    uint32_t saved, resumed;            /* handshakes: full ones, and those that a session shortened */
} lb_cache;

typedef struct lb_secret {
    lb_blob certificates[4], key_bytes;
    br_x509_certificate chain[4];
    size_t count;
    br_skey_decoder_context key;
    lb_cache cache;
} lb_secret;

static inline void lb_cache_save(const br_ssl_session_cache_class **context, br_ssl_server_context *server,
                                 const br_ssl_session_parameters *parameters)
{
    lb_cache *cache = (lb_cache *)(void *)context;
    cache->saved++;
    cache->lru.vtable->save(&cache->lru.vtable, server, parameters);
}

static inline int lb_cache_load(const br_ssl_session_cache_class **context, br_ssl_server_context *server,
                                br_ssl_session_parameters *parameters)
{
    lb_cache *cache = (lb_cache *)(void *)context;
    int found = cache->lru.vtable->load(&cache->lru.vtable, server, parameters);
    cache->resumed += found != 0;
    return found;
}

static inline lb_secret *lb_secret_new(const char *chain, const char *key)
{
    static const br_ssl_session_cache_class counting = { sizeof(lb_cache), lb_cache_save, lb_cache_load };
    lb_secret *s = (lb_secret *)lb_new(sizeof *s);
    size_t i;
    s->count = lb_cert_decode(chain, s->certificates, 4);
    for (i = 0; i < s->count; i++) {
        s->chain[i].data = s->certificates[i].bytes;
        s->chain[i].data_len = s->certificates[i].len;
    }
    lb_cert_decode(key, &s->key_bytes, 1);
    br_skey_decoder_init(&s->key);
    br_skey_decoder_push(&s->key, s->key_bytes.bytes, s->key_bytes.len);
    br_ssl_session_cache_lru_init(&s->cache.lru, s->cache.store, sizeof s->cache.store);
    s->cache.vtable = &counting;
    return s;
}

/* ---- a buffer ---- */
typedef struct lb_bytes { uint8_t *bytes; size_t begin, end, cap; } lb_bytes;

static inline size_t lb_len(const lb_bytes *b) { return b->end - b->begin; }
static inline char *lb_text(lb_bytes *b) { return b->bytes ? (char *)b->bytes + b->begin : (char *)""; }

static inline void lb_add(lb_bytes *b, const void *bytes, size_t len)
{
    if (b->begin == b->end) b->begin = b->end = 0;
    if (b->end + len + 1 > b->cap) {
        b->cap = (b->end + len + 1) * 2;
        b->bytes = (uint8_t *)realloc(b->bytes, b->cap);
        if (!b->bytes) exit(1);
    }
    if (len) memcpy(b->bytes + b->end, bytes, len);
    b->end += len;
    b->bytes[b->end] = 0;               /* so that strstr() may look at it */
}

static inline void lb_take(lb_bytes *b, size_t len) { b->begin += len; }

/* ---- listening ---- */
static inline void lb_nonblocking(int fd)
{
    int on = 1;
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    fcntl(fd, F_SETFD, FD_CLOEXEC);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

/* A bound socket on 127.0.0.1 (or another of 127/8: last_byte); it listens unless backlog is < 0. */
static inline int lb_listen(uint8_t last_byte, uint16_t *port, int backlog)
{
    struct sockaddr_in at;
    socklen_t len = (socklen_t)sizeof at;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    memset(&at, 0, sizeof at);
    at.sin_family = AF_INET;
    at.sin_port = htons(*port);
    at.sin_addr.s_addr = htonl(0x7F000000u | last_byte);
    if (fd < 0 || bind(fd, (const struct sockaddr *)&at, len) != 0 || (backlog >= 0 && listen(fd, backlog) != 0)) {
        fprintf(stderr, "loopback.h: cannot listen\n");
        exit(1);
    }
    getsockname(fd, (struct sockaddr *)&at, &len);
    *port = ntohs(at.sin_port);
    lb_nonblocking(fd);
    return fd;
}

static inline int lb_accept(int listener)
{
    int fd = accept(listener, NULL, NULL);
    if (fd >= 0) lb_nonblocking(fd);
    return fd;
}

/* ---- a connection ---- */
typedef struct lb_tls { br_ssl_server_context server; uint8_t in[BR_SSL_BUFSIZE_INPUT], out[BR_SSL_BUFSIZE_OUTPUT]; } lb_tls;

typedef struct lb_stream {
    struct lb_stream *next;
    int fd;                             /* -1: gone */
    lb_tls *tls;                        /* NULL: plain */
    lb_bytes in, out;                   /* plain bytes */
    uint32_t deaf;                      /* 1: the socket is not read */
    uint32_t ended;                     /* the client sends no more */
    uint32_t shut;                      /* our FIN was sent; what still comes is dropped */
    uint32_t saw_close_notify;
    uint64_t moved;                     /* bytes through the socket, both ways */
    uint64_t linger_ms;
    sim_connection *conn;
} lb_stream;

static inline lb_stream *lb_stream_new(int fd, lb_secret *secret)
{
    lb_stream *s = (lb_stream *)lb_new(sizeof *s);
    const br_ec_private_key *ec;
    s->fd = fd;
    if (!secret) return s;
    s->tls = (lb_tls *)lb_new(sizeof *s->tls);
    ec = br_skey_decoder_get_ec(&secret->key);
    if (ec) br_ssl_server_init_full_ec(&s->tls->server, secret->chain, secret->count, BR_KEYTYPE_EC, ec);
    else br_ssl_server_init_full_rsa(&s->tls->server, secret->chain, secret->count, br_skey_decoder_get_rsa(&secret->key));
    br_ssl_engine_set_versions(&s->tls->server.eng, BR_TLS12, BR_TLS12);
    br_ssl_server_set_cache(&s->tls->server, &secret->cache.vtable);
    br_ssl_engine_set_buffers_bidi(&s->tls->server.eng, s->tls->in, sizeof s->tls->in, s->tls->out, sizeof s->tls->out);
    br_ssl_server_reset(&s->tls->server);
    return s;
}

static inline void lb_stream_drop(lb_stream *s, int reset)
{
    struct linger at_once = { 1, 0 };
    if (s->fd < 0) return;
    if (reset) setsockopt(s->fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    close(s->fd);
    s->fd = -1;
}

static inline void lb_stream_free(lb_stream *s)
{
    if (!s) return;
    lb_stream_drop(s, 0);
    free(s->tls);
    free(s->in.bytes);
    free(s->out.bytes);
    free(s);
}

static inline void lb_say(lb_stream *s, const char *text) { lb_add(&s->out, text, strlen(text)); }

/* 1: something was sent. */
static inline int lb_send_some(lb_stream *s, const uint8_t *bytes, size_t len, size_t *sent)
{
    ssize_t put = s->fd < 0 || len == 0 ? 0 : send(s->fd, bytes, len, MSG_NOSIGNAL);
    *sent = put > 0 ? (size_t)put : 0;
    s->moved += *sent;
    if (put < 0 && errno != EAGAIN && errno != EINTR) s->ended = 1;
    return put > 0;
}

static inline int lb_pump_out(lb_stream *s)
{
    size_t len, cap, sent;
    uint8_t *bytes, *room;
    if (s->shut || s->fd < 0) return 0;
    if (!s->tls) {
        if (!lb_len(&s->out)) return 0;
        if (!lb_send_some(s, s->out.bytes + s->out.begin, lb_len(&s->out), &sent)) return 0;
        lb_take(&s->out, sent);
        return 1;
    }
    if ((bytes = br_ssl_engine_sendrec_buf(&s->tls->server.eng, &len)) != NULL) {
        if (!lb_send_some(s, bytes, len, &sent)) return 0;
        br_ssl_engine_sendrec_ack(&s->tls->server.eng, sent);
        return 1;
    }
    if (!lb_len(&s->out) || (room = br_ssl_engine_sendapp_buf(&s->tls->server.eng, &cap)) == NULL) return 0;
    if (cap > lb_len(&s->out)) cap = lb_len(&s->out);
    memcpy(room, s->out.bytes + s->out.begin, cap);
    br_ssl_engine_sendapp_ack(&s->tls->server.eng, cap);
    br_ssl_engine_flush(&s->tls->server.eng, 0);
    lb_take(&s->out, cap);
    return 1;
}

static inline int lb_pump_in(lb_stream *s)
{
    uint8_t plain[16384], *room = plain, *app;
    size_t cap = sizeof plain, len;
    ssize_t got;
    if (s->fd < 0) return 0;
    if (s->tls && (app = br_ssl_engine_recvapp_buf(&s->tls->server.eng, &len)) != NULL) {
        lb_add(&s->in, app, len);
        br_ssl_engine_recvapp_ack(&s->tls->server.eng, len);
        return 1;
    }
    if (s->deaf || s->ended) return 0;
    if (s->tls && !s->shut && (room = br_ssl_engine_recvrec_buf(&s->tls->server.eng, &cap)) == NULL) {
        if (br_ssl_engine_current_state(&s->tls->server.eng) != BR_SSL_CLOSED) return 0;
        s->saw_close_notify = br_ssl_engine_last_error(&s->tls->server.eng) == 0;
        s->ended = 1;
        return 0;
    }
    got = recv(s->fd, room, cap, 0);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return 0;
    if (got <= 0) { s->ended = 1; return 0; }
    s->moved += (uint64_t)got;
    if (s->shut) return 1;
    if (s->tls) br_ssl_engine_recvrec_ack(&s->tls->server.eng, (size_t)got);
    else lb_add(&s->in, plain, (size_t)got);
    return 1;
}

/* Moves what can be moved. 1: something was. */
static inline int lb_pump(lb_stream *s)
{
    int any = 0;
    while (lb_pump_out(s) || lb_pump_in(s)) any = 1;
    return any;
}

/* All that we wanted to say has been handed to TCP. */
static inline int lb_is_flushed(lb_stream *s)
{
    size_t len;
    return lb_len(&s->out) == 0 && (!s->tls || br_ssl_engine_sendrec_buf(&s->tls->server.eng, &len) == NULL);
}

/* FIN, with a close_notify before it where that is polite. */
static inline void lb_stream_shut(lb_stream *s, int polite)
{
    if (s->shut || s->fd < 0) return;
    if (polite && s->tls) {
        br_ssl_engine_close(&s->tls->server.eng);
        while (lb_pump_out(s)) { }
    }
    s->shut = 1;
    shutdown(s->fd, SHUT_WR);
    s->linger_ms = lb_now_ms() + 2000;
}

/* ---- the simulator, served ---- */
typedef struct lb_sim {
    sim_config config;
    sim_gateway *gateway;
    lb_secret *secret;                  /* NULL: plain */
    const char *host, *chain;           /* in its URL, and the certificates; 127.0.0.1, server.pem */
    int listener;
    uint16_t port;
    char url[64], resume_url[80];
    lb_stream *streams;
    char *journal;
    size_t journal_len, journal_cap;
    pthread_mutex_t lock;               /* of all of it, while the thread runs */
    pthread_t thread;
    int threaded, stop_asked;
    int doorbell[2];
} lb_sim;

static inline void lb_sim_log(void *user, const char *line)
{
    lb_sim *s = (lb_sim *)user;
    size_t len = strlen(line);
    if (s->journal_len + len + 2 > s->journal_cap) {
        s->journal_cap = (s->journal_len + len + 2) * 2;
        s->journal = (char *)realloc(s->journal, s->journal_cap);
        if (!s->journal) exit(1);
    }
    memcpy(s->journal + s->journal_len, line, len);
    s->journal[s->journal_len += len] = 0;
    s->journal[s->journal_len++] = '\n';
    s->journal[s->journal_len] = 0;
}

static inline uint64_t lb_sim_now_us(void *user) { (void)user; return lb_now_us(); }

static inline void lb_sim_init(lb_sim *s)
{
    memset(s, 0, sizeof *s);
    sim_config_init(&s->config);
    s->config.guilds = 2;
    s->config.members = 2;
    s->config.log = lb_sim_log;
    s->config.now_us = lb_sim_now_us;
    s->config.user = s;
    s->listener = -1;
    s->host = "127.0.0.1";
    s->chain = "server.pem";
}

static inline void lb_sim_begin(lb_sim *s, int secure, const char *script)
{
    char why[200] = "";
    s->listener = lb_listen(1, &s->port, 64);
    if (secure) s->secret = lb_secret_new(s->chain, "server.key");
    snprintf(s->url, sizeof s->url, "%s://%s:%u", secure ? "wss" : "ws", s->host, (unsigned)s->port);
    s->config.url = s->url;
    s->gateway = sim_new(&s->config, lb_now_ms());
    pthread_mutex_init(&s->lock, NULL);
    if (script && !CHECK_EQ(sim_script(s->gateway, script, lb_now_ms(), why, sizeof why), 0)) fprintf(stderr, "%s\n", why);
}

static inline void lb_sim_hang_up(lb_stream *one)
{
    if (one->conn) sim_hangup(one->conn, lb_now_ms());
    one->conn = NULL;
}

static inline void lb_sim_accept(lb_sim *s)
{
    int fd;
    while ((fd = lb_accept(s->listener)) >= 0) {
        lb_stream *one = lb_stream_new(fd, s->secret);
        one->conn = sim_accept(s->gateway, lb_now_ms());
        one->next = s->streams;
        s->streams = one;
    }
}

/* Between one connection and the core, until nothing moves. */
static inline void lb_sim_carry(lb_stream *one)
{
    size_t len;
    const uint8_t *bytes;
    int any = 1;
    sim_state state;
    if (one->fd < 0) return;
    if (one->shut) {
        lb_pump(one);
        if (one->ended || lb_now_ms() >= one->linger_ms) lb_stream_drop(one, 0);
        return;
    }
    while (any && one->conn) {
        state = sim_connection_state(one->conn);
        any = 0;
        if (state == SIM_FROZEN) return;
        if (state == SIM_WANTS_RESET) { lb_stream_drop(one, 1); break; }
        any |= lb_pump(one);
        if (lb_len(&one->in)) {
            sim_receive(one->conn, (const uint8_t *)lb_text(&one->in), lb_len(&one->in), lb_now_ms());
            lb_take(&one->in, lb_len(&one->in));
            any = 1;
        }
        if (lb_len(&one->out) < 65536 && (bytes = sim_output(one->conn, &len), len) != 0) {
            lb_add(&one->out, bytes, len);
            sim_output_taken(one->conn, len);
            lb_pump(one);
            any = 1;
        }
        if (one->ended) { lb_stream_drop(one, 0); break; }
    }
    if (one->fd < 0 || !one->conn) { lb_sim_hang_up(one); return; }
    state = sim_connection_state(one->conn);
    if ((state == SIM_WANTS_CLOSE || state == SIM_WANTS_CUT) && !sim_pending(one->conn) && lb_is_flushed(one)) {
        lb_stream_shut(one, state == SIM_WANTS_CLOSE);
        lb_sim_hang_up(one);
    }
}

/* One look at everything; sleeps up to max_ms first, until there is something. */
static inline void lb_sim_turn(lb_sim *s, int max_ms)
{
    struct pollfd fds[40];
    nfds_t count = 0;
    lb_stream **at = &s->streams, *one;
    uint64_t next_ms, now_ms;
    memset(fds, 0, sizeof fds);
    fds[count].fd = s->listener;
    fds[count++].events = POLLIN;
    if (s->threaded) {
        fds[count].fd = s->doorbell[0];
        fds[count++].events = POLLIN;
        pthread_mutex_lock(&s->lock);
    }
    next_ms = sim_next_ms(s->gateway);
    for (one = s->streams; one && count < 40; one = one->next) {
        if (one->fd < 0 || (one->conn && sim_connection_state(one->conn) == SIM_FROZEN)) continue;
        fds[count].fd = one->fd;
        fds[count++].events = (short)(POLLIN | (lb_is_flushed(one) ? 0 : POLLOUT));
    }
    now_ms = lb_now_ms();
    if (next_ms <= now_ms) max_ms = 0;
    else if (next_ms != SIM_NEVER && next_ms - now_ms < (uint64_t)max_ms) max_ms = (int)(next_ms - now_ms);
    if (s->threaded) pthread_mutex_unlock(&s->lock);
    poll(fds, count, max_ms);
    if (s->threaded) {
        char rung[64];
        while (read(s->doorbell[0], rung, sizeof rung) > 0) { }
        pthread_mutex_lock(&s->lock);
    }
    lb_sim_accept(s);
    for (one = s->streams; one; one = one->next) lb_sim_carry(one);     /* reading comes before the clock */
    sim_tick(s->gateway, lb_now_ms());
    for (one = s->streams; one; one = one->next) lb_sim_carry(one);
    while ((one = *at) != NULL) {
        if (one->fd >= 0) { at = &one->next; continue; }
        lb_sim_hang_up(one);
        *at = one->next;
        lb_stream_free(one);
    }
    if (s->threaded) pthread_mutex_unlock(&s->lock);
}

static inline void *lb_sim_run(void *argument)
{
    lb_sim *s = (lb_sim *)argument;
    int stop = 0;
    while (!stop) {
        lb_sim_turn(s, 1000);
        pthread_mutex_lock(&s->lock);
        stop = s->stop_asked;
        pthread_mutex_unlock(&s->lock);
    }
    return NULL;
}

static inline void lb_sim_ring(lb_sim *s)
{
    if (s->threaded && write(s->doorbell[1], "", 1) != 1) exit(1);
}

/* From now on a thread serves it. */
static inline void lb_sim_start(lb_sim *s)
{
    sigset_t all, before;
    if (pipe(s->doorbell) != 0) exit(1);
    lb_nonblocking(s->doorbell[0]);
    s->threaded = 1;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);        /* the test's signals go to the test's thread */
    if (pthread_create(&s->thread, NULL, lb_sim_run, s) != 0) exit(1);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

/* A command of the simulator's, now, to all connections. */
static inline void lb_sim_do(lb_sim *s, const char *command)
{
    char why[200] = "";
    if (s->threaded) pthread_mutex_lock(&s->lock);
    if (!CHECK(sim_command(s->gateway, NULL, command, lb_now_ms(), why, sizeof why))) fprintf(stderr, "%s\n", why);
    if (s->threaded) pthread_mutex_unlock(&s->lock);
    lb_sim_ring(s);
}

/* Ends the thread, hangs up, and frees. The gateway must not have seen more broken rules than said. */
static inline void lb_sim_end(lb_sim *s, uint64_t violations)
{
    lb_stream *one;
    if (s->threaded) {
        pthread_mutex_lock(&s->lock);
        s->stop_asked = 1;
        pthread_mutex_unlock(&s->lock);
        lb_sim_ring(s);
        pthread_join(s->thread, NULL);
        close(s->doorbell[0]);
        close(s->doorbell[1]);
    }
    if (!CHECK_U64(sim_get_stats(s->gateway)->violations, violations)) {
        const char *at = s->journal ? s->journal : "", *end;
        for (; (end = strchr(at, '\n')) != NULL; at = end + 1)
            if (strstr(at, "\"violation\"") && strstr(at, "\"violation\"") < end) fprintf(stderr, "  %.*s\n", (int)(end - at), at);
    }
    while ((one = s->streams) != NULL) {
        s->streams = one->next;
        lb_sim_hang_up(one);
        lb_stream_free(one);
    }
    close(s->listener);
    sim_free(s->gateway);
    pthread_mutex_destroy(&s->lock);
    free(s->secret);
    free(s->journal);
}
#endif
