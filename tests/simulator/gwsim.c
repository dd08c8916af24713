/* gwsim.c -- the gateway simulator as a program: sockets, TLS by BearSSL, a clock, a log around the pure core.
 *   cc -o gwsim gwsim.c gateway_sim.c sim_*.c -lbearssl
 *   ./gwsim --plain --rate 5 --do "on ready +3000 op7"         README.md tells the rest */
#ifndef _DEFAULT_SOURCE
#define _DEFAULT_SOURCE
#endif
#include "gateway_sim.h"
#include <arpa/inet.h>
#include <bearssl.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define LINGER_MS 2000
#define CHAIN_MAX 8

typedef struct gwsim_secret {             /* our certificates and key */
    br_x509_certificate chain[CHAIN_MAX];
    size_t count;
    unsigned issuer_key_type;
    br_skey_decoder_context key;
    br_ssl_session_cache_lru cache;
    unsigned char cache_store[20000];
} gwsim_secret;

typedef struct gwsim_tls { br_ssl_server_context server; unsigned char buffer[BR_SSL_BUFSIZE_BIDI]; } gwsim_tls;

typedef struct gwsim_peer {               /* one TCP connection */
    struct gwsim_peer *next;
    int fd, gone, closing;          /* closing: our side is shut, its FIN is awaited */
    uint64_t linger_ms;             /* when our patience ends; 0: not begun */
    sim_connection *conn;           /* NULL while closing */
    gwsim_tls *tls;                       /* NULL: plain */
} gwsim_peer;

typedef struct gwsim_options {
    const char *host, *cert, *key, *script, *orders, *log, *url;
    int port, plain, from_stdin;
    double seconds;
    sim_config sim;
} gwsim_options;

typedef struct gwsim_program {
    gwsim_options options;
    sim_gateway *gateway;
    gwsim_secret *secret;
    FILE *log;
    int listener, port, stdin_open;
    gwsim_peer *peers;
    char command[4096];             /* a line from stdin in the making */
    size_t command_len;
} gwsim_program;

static volatile sig_atomic_t stop_asked;

static void on_signal(int number) { (void)number; stop_asked = 1; }

/* -- clock, log, complaints ------------------------------------------------------ */

static uint64_t clock_us(void *user)
{
    struct timespec now;
    (void)user;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000u + (uint64_t)now.tv_nsec / 1000u;
}

static uint64_t clock_ms(void) { return clock_us(NULL) / 1000; }

static void log_line(void *user, const char *json_line)
{
    fputs(json_line, ((gwsim_program *)user)->log);
    fputc('\n', ((gwsim_program *)user)->log);
}

static void refuse(const char *what, const char *about)
{
    fprintf(stderr, "gwsim: %s%s%s\n", what, about ? ": " : "", about ? about : "");
    exit(2);
}

/* -- options ---------------------------------------------------------------------- */

/* name, kind of value, place in options, help.
 * T text, I int, D double, R rate, Q uint64, U uint32, F flag (int), G flag (uint32) */
#define OPTIONS(X)                                                                                  \
    X("--port", 'I', port, "PORT: 0 takes a free one, which the first line names; 0")               \
    X("--host", 'T', host, "ADDRESS to listen at; 127.0.0.1")                                       \
    X("--plain", 'F', plain, "no TLS: ws:// and http://")                                           \
    X("--cert", 'T', cert, "FILE: PEM, our certificate and then its issuers")                       \
    X("--key", 'T', key, "FILE: PEM, the private key, EC or RSA")                                   \
    X("--url", 'T', url, "URL that /gateway answers; wss://localhost:PORT")                         \
    X("--resume-url", 'T', sim.resume_url, "resume_gateway_url; the URL and /resume")               \
    X("--token", 'T', sim.token, "the only right token; any, if not given")                         \
    X("--interval", 'Q', sim.interval_ms, "MS of heartbeat_interval; 41250")                        \
    X("--rate", 'R', sim.event_rate, "EVENTS per second and session, or \"flood\"; 0")              \
    X("--guilds", 'U', sim.guilds, "N guilds over all shards; 3")                                   \
    X("--members", 'U', sim.members, "N members of each guild; 1500")                               \
    X("--seed", 'Q', sim.seed, "N; 1")                                                              \
    X("--session-ttl", 'Q', sim.session_ttl_ms, "MS that a session lives without a connection; 180000") \
    X("--replay-events", 'U', sim.replay_events, "N events are kept for a Resume; 100000")          \
    X("--max-concurrency", 'U', sim.max_concurrency, "N; 1")                                        \
    X("--identify-window", 'Q', sim.identify_window_ms, "MS between two Identify of a bucket; 5000") \
    X("--total", 'U', sim.total, "N Identify a day; 1000")                                          \
    X("--remaining", 'U', sim.remaining, "N of them are left; 1000")                                \
    X("--reset-after", 'Q', sim.reset_after_ms, "MS until the budget is full again; 86400000")      \
    X("--shards", 'U', sim.shards, "N that /gateway/bot recommends; 1")                             \
    X("--required-shards", 'U', sim.required_shards, "N: fewer get 4011; 1")                        \
    X("--denied-intents", 'U', sim.denied_intents, "BITS that get 4014; 0")                         \
    X("--strict-presence", 'G', sim.strict_presence, "the sixth presence in 20 s is closed with 4008") \
    X("--strict-resume-url", 'G', sim.strict_resume_url, "Resume at a wrong address gets op 9 false") \
    X("--expired-4009", 'G', sim.expired_4009, "Resume of an expired session gets 4009")            \
    X("--any-user-agent", 'G', sim.any_user_agent, "no violation, no 403")                          \
    X("--quiet", 'G', sim.quiet_dispatch, "dispatched events are not logged one by one")            \
    X("--script", 'T', script, "FILE of script lines")                                              \
    X("--do", 'T', orders, "LINES with ; between")                                                  \
    X("--log", 'T', log, "FILE for the log; standard output")                                       \
    X("--for", 'D', seconds, "SECONDS, then end; 0: until SIGTERM")                                 \
    X("--stdin", 'F', from_stdin, "script lines come from standard input, too")

static void print_help(void)
{
#define PRINT(name, kind, place, help) printf("  %-20s %s\n", name, help);
    printf("gwsim: a Discord Gateway that is stricter than Discord, for tests\n");
    OPTIONS(PRINT)
    printf("Script lines: at MS ..., every MS ..., on EVENT [xN] [+MS] ..., next N ..., or a command at once;\n"
           "commands and events are in README.md beside the source.\n");
#undef PRINT
}

static void set_option(const char *name, char kind, void *place, const char *text)
{
    char *end = NULL;
    double number = 0;
    if (kind == 'F') { *(int *)place = 1; return; }
    if (kind == 'G') { *(uint32_t *)place = 1; return; }
    if (kind == 'T') { *(const char **)place = text; return; }
    if (kind == 'R' && strcmp(text, "flood") == 0) { *(double *)place = SIM_RATE_FLOOD; return; }
    number = strtod(text, &end);
    if (end == text || *end || number < 0 || number > 4294967295e3) {
        fprintf(stderr, "gwsim: %s needs a number, not \"%s\"; --help lists the options\n", name, text);
        exit(2);
    }
    if (kind == 'I') *(int *)place = (int)number;
    if (kind == 'D' || kind == 'R') *(double *)place = number;
    if (kind == 'Q') *(uint64_t *)place = (uint64_t)number;
    if (kind == 'U') *(uint32_t *)place = (uint32_t)number;
}

/* How many words of the command line the option at argv[i] takes. */
static int read_option(gwsim_options *options, char **argv)
{
    char kind = 0;
    void *place = NULL;
#define LOOK(option_name, option_kind, option_place, help) \
    if (strcmp(argv[0], option_name) == 0) { kind = option_kind; place = &options->option_place; }
    OPTIONS(LOOK)
#undef LOOK
    if (!kind) refuse("unknown option (gwsim --help lists them)", argv[0]);
    if (kind == 'F' || kind == 'G') { set_option(argv[0], kind, place, NULL); return 1; }
    if (!argv[1]) refuse("this option needs a value (gwsim --help lists them)", argv[0]);
    set_option(argv[0], kind, place, argv[1]);
    return 2;
}

static void read_options(gwsim_options *options, int argc, char **argv)
{
    int i = 1;
    memset(options, 0, sizeof *options);
    sim_config_init(&options->sim);
    options->host = "127.0.0.1";
    while (i < argc) {
        if (strcmp(argv[i], "--help") == 0) { print_help(); exit(0); }
        i += read_option(options, argv + i);
    }
    if (options->port > 65535) refuse("--port is a number up to 65535", NULL);
    if (!options->plain && (!options->cert || !options->key))
        refuse("say --plain, or give --cert FILE and --key FILE (tests/certs/server.pem and server.key)", NULL);
}

static char *read_file(const char *path, size_t *len)
{
    FILE *file = fopen(path, "rb");
    char *text = NULL;
    size_t got = 0, more;
    if (!file) refuse("cannot open this file", path);
    do {
        text = (char *)realloc(text, got + 65537);
        if (!text) refuse("no memory for this file", path);
        more = fread(text + got, 1, 65536, file);
        got += more;
    } while (more);
    fclose(file);
    text[got] = 0;
    *len = got;
    return text;
}

/* -- certificates ------------------------------------------------------------------- */

typedef struct blob { unsigned char *bytes; size_t len, cap; } blob;

static void blob_append(void *context, const void *bytes, size_t len)
{
    blob *to = (blob *)context;
    if (to->len + len > to->cap) {
        to->cap = (to->len + len) * 2;
        to->bytes = (unsigned char *)realloc(to->bytes, to->cap);
        if (!to->bytes) refuse("no memory", NULL);
    }
    memcpy(to->bytes + to->len, bytes, len);
    to->len += len;
}

static void ignore_name(void *context, const void *bytes, size_t len)
{
    (void)context; (void)bytes; (void)len;
}

static void use_pem_object(gwsim_secret *ours, const char *name, const blob *object, const char *path)
{
    br_x509_decoder_context leaf;
    if (strcmp(name, "CERTIFICATE") == 0 && ours->count < CHAIN_MAX) {
        ours->chain[ours->count].data = object->bytes;
        ours->chain[ours->count].data_len = object->len;
        if (ours->count++) return;
        br_x509_decoder_init(&leaf, ignore_name, NULL);
        br_x509_decoder_push(&leaf, object->bytes, object->len);
        if (!br_x509_decoder_get_pkey(&leaf)) refuse("the certificate cannot be read", path);
        ours->issuer_key_type = (unsigned)br_x509_decoder_get_signer_key_type(&leaf);
    } else if (strstr(name, "PRIVATE KEY")) {
        br_skey_decoder_init(&ours->key);
        br_skey_decoder_push(&ours->key, object->bytes, object->len);
        if (br_skey_decoder_last_error(&ours->key)) refuse("the private key cannot be read", path);
    }
}

static void read_pem(gwsim_secret *ours, const char *path)
{
    br_pem_decoder_context pem;
    size_t len, used, at = 0;
    char *text = read_file(path, &len), name[128] = "";
    blob object = { NULL, 0, 0 };
    br_pem_decoder_init(&pem);
    while (at < len) {
        used = br_pem_decoder_push(&pem, text + at, len - at);
        at += used;
        switch (br_pem_decoder_event(&pem)) {
        case BR_PEM_BEGIN_OBJ:
            snprintf(name, sizeof name, "%s", br_pem_decoder_name(&pem));
            memset(&object, 0, sizeof object);
            br_pem_decoder_setdest(&pem, blob_append, &object);
            break;
        case BR_PEM_END_OBJ: use_pem_object(ours, name, &object, path); break;
        case BR_PEM_ERROR: refuse("not a good PEM file", path); break;
        default: break;
        }
    }
    free(text);
}

static gwsim_secret *read_secret(const gwsim_options *options)
{
    gwsim_secret *ours = (gwsim_secret *)calloc(1, sizeof *ours);
    if (!ours) refuse("no memory", NULL);
    read_pem(ours, options->cert);
    read_pem(ours, options->key);
    if (!ours->count) refuse("no certificate in this file", options->cert);
    if (!br_skey_decoder_key_type(&ours->key)) refuse("no private key in this file", options->key);
    br_ssl_session_cache_lru_init(&ours->cache, ours->cache_store, sizeof ours->cache_store);
    return ours;
}

static gwsim_tls *tls_new(gwsim_secret *ours)
{
    gwsim_tls *now = (gwsim_tls *)calloc(1, sizeof *now);
    const br_ec_private_key *ec = br_skey_decoder_get_ec(&ours->key);
    const br_rsa_private_key *rsa = br_skey_decoder_get_rsa(&ours->key);
    if (!now) refuse("no memory for a connection", NULL);
    if (ec) br_ssl_server_init_full_ec(&now->server, ours->chain, ours->count, ours->issuer_key_type, ec);
    else br_ssl_server_init_full_rsa(&now->server, ours->chain, ours->count, rsa);
    br_ssl_engine_set_versions(&now->server.eng, BR_TLS12, BR_TLS12);
    br_ssl_server_set_cache(&now->server, &ours->cache.vtable);
    br_ssl_engine_set_buffer(&now->server.eng, now->buffer, sizeof now->buffer, 1);
    br_ssl_server_reset(&now->server);
    return now;
}

/* -- one peer --------------------------------------------------------------------------- */

static void set_nonblocking(int fd)
{
    int on = 1;
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

static void peer_drop(gwsim_peer *it, int reset)
{
    struct linger at_once = { 1, 0 };
    if (it->gone) return;
    if (reset) setsockopt(it->fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    if (it->conn) sim_hangup(it->conn, clock_ms());
    it->conn = NULL;
    it->gone = 1;
    close(it->fd);
}

/* -1: the socket is dead; 0: it takes nothing now. */
static ssize_t peer_send(gwsim_peer *it, const void *bytes, size_t len)
{
    ssize_t sent = send(it->fd, bytes, len, MSG_NOSIGNAL);
    if (sent >= 0) return sent;
    return errno == EAGAIN || errno == EINTR ? 0 : -1;
}

/* Records that are ready, to the socket.  1: all is out. */
static int tls_flush(gwsim_peer *it)
{
    br_ssl_engine_context *engine = &it->tls->server.eng;
    size_t len;
    unsigned char *bytes;
    while ((bytes = br_ssl_engine_sendrec_buf(engine, &len)) != NULL) {
        ssize_t sent = peer_send(it, bytes, len);
        if (sent < 0) { peer_drop(it, 0); return 0; }
        if (sent == 0) return 0;
        br_ssl_engine_sendrec_ack(engine, (size_t)sent);
    }
    return 1;
}

/* One piece of the core's output into a record; in the mode one_byte a record is one byte. */
static int tls_put(gwsim_peer *it)
{
    br_ssl_engine_context *engine = &it->tls->server.eng;
    size_t cap, len;
    unsigned char *room = br_ssl_engine_sendapp_buf(engine, &cap);
    const uint8_t *bytes = sim_output(it->conn, &len);
    if (!room || !len) return 0;
    if (len > cap) len = cap;
    memcpy(room, bytes, len);
    br_ssl_engine_sendapp_ack(engine, len);
    br_ssl_engine_flush(engine, 0);
    sim_output_taken(it->conn, len);
    return 1;
}

static void tls_write(gwsim_peer *it)
{
    while (!it->gone && tls_flush(it) && tls_put(it)) { }
}

static void plain_write(gwsim_peer *it)
{
    size_t len;
    const uint8_t *bytes;
    while ((bytes = sim_output(it->conn, &len), len)) {
        ssize_t sent = peer_send(it, bytes, len);
        if (sent < 0) { peer_drop(it, 0); return; }
        if (sent == 0) return;
        sim_output_taken(it->conn, (size_t)sent);
    }
}

/* 1: what the core wanted to say has been handed to TCP. */
static int peer_is_flushed(gwsim_peer *it)
{
    size_t len;
    if (sim_pending(it->conn))
        return it->tls && !(br_ssl_engine_current_state(&it->tls->server.eng) & ~(unsigned)BR_SSL_CLOSED);
    return !it->tls || br_ssl_engine_sendrec_buf(&it->tls->server.eng, &len) == NULL;
}

/* FIN; what the client still sends is read and dropped, because closing with unread bytes would be a reset. */
static void peer_shut(gwsim_peer *it, int polite)
{
    if (polite && it->tls) {
        br_ssl_engine_close(&it->tls->server.eng);
        tls_flush(it);
        if (it->gone) return;
    }
    sim_hangup(it->conn, clock_ms());
    it->conn = NULL;
    it->closing = 1;
    it->linger_ms = clock_ms() + LINGER_MS;
    shutdown(it->fd, SHUT_WR);
}

static void peer_settle(gwsim_peer *it)
{
    sim_state state;
    if (it->gone || !it->conn) return;
    state = sim_connection_state(it->conn);
    if (state == SIM_FROZEN) return;
    if (state == SIM_WANTS_RESET) { peer_drop(it, 1); return; }
    if (it->tls) tls_write(it);
    else plain_write(it);
    if (it->gone) return;
    state = sim_connection_state(it->conn);
    if (state == SIM_OPEN || state == SIM_FROZEN) return;
    if (peer_is_flushed(it)) peer_shut(it, state == SIM_WANTS_CLOSE);
    else if (!it->linger_ms) it->linger_ms = clock_ms() + 5 * LINGER_MS;    /* a client that does not read */
}

static void tls_log_failure(gwsim_program *program, gwsim_peer *it)
{
    int error = br_ssl_engine_last_error(&it->tls->server.eng);
    if (!error) return;
    fprintf(program->log, "{\"ev\":\"tls_error\",\"ts_ms\":%llu,\"conn\":%llu,\"bearssl\":%d}\n",
            (unsigned long long)clock_ms(), (unsigned long long)sim_connection_id(it->conn), error);
}

/* 0: no more for now. */
static int tls_read(gwsim_program *program, gwsim_peer *it)
{
    br_ssl_engine_context *engine = &it->tls->server.eng;
    size_t len;
    ssize_t got;
    unsigned char *room = br_ssl_engine_recvapp_buf(engine, &len);
    if (room) {
        sim_receive(it->conn, room, len, clock_ms());
        br_ssl_engine_recvapp_ack(engine, len);
        peer_settle(it);
        return it->conn != NULL && sim_connection_state(it->conn) == SIM_OPEN;
    }
    room = br_ssl_engine_recvrec_buf(engine, &len);
    if (!room) {
        if (br_ssl_engine_current_state(engine) != BR_SSL_CLOSED) return 0;
        tls_log_failure(program, it);
        peer_drop(it, 0);
        return 0;
    }
    got = recv(it->fd, room, len, 0);
    if (got > 0) { br_ssl_engine_recvrec_ack(engine, (size_t)got); tls_flush(it); return !it->gone; }
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return 0;
    peer_drop(it, 0);
    return 0;
}

static int plain_read(gwsim_peer *it)
{
    uint8_t bytes[16384];
    ssize_t got = recv(it->fd, bytes, sizeof bytes, 0);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return 0;
    if (got <= 0) { peer_drop(it, 0); return 0; }
    sim_receive(it->conn, bytes, (size_t)got, clock_ms());
    peer_settle(it);
    return it->conn != NULL && sim_connection_state(it->conn) == SIM_OPEN;
}

static void peer_drain(gwsim_peer *it)
{
    char bytes[4096];
    ssize_t got;
    while ((got = recv(it->fd, bytes, sizeof bytes, 0)) > 0) { }
    if (got == 0 || (errno != EAGAIN && errno != EINTR)) peer_drop(it, 0);
}

static void peer_read(gwsim_program *program, gwsim_peer *it)
{
    if (it->closing) { peer_drain(it); return; }
    if (sim_connection_state(it->conn) != SIM_OPEN) return;
    if (it->tls) while (tls_read(program, it)) { }
    else while (plain_read(it)) { }
}

static int peer_has_plaintext(const gwsim_peer *it)
{
    size_t len;
    return it->conn && it->tls && br_ssl_engine_recvapp_buf(&it->tls->server.eng, &len) != NULL;
}

static short peer_events(const gwsim_peer *it)
{
    size_t len;
    if (it->closing) return POLLIN;
    if (sim_connection_state(it->conn) == SIM_FROZEN) return 0;
    if (sim_pending(it->conn) && !it->tls) return POLLIN | POLLOUT;
    if (it->tls && br_ssl_engine_sendrec_buf(&it->tls->server.eng, &len)) return POLLIN | POLLOUT;
    return POLLIN;
}

/* -- the program ---------------------------------------------------------------------------- */

static void start_listening(gwsim_program *program)
{
    struct addrinfo hints, *found = NULL;
    struct sockaddr_storage bound;
    socklen_t size = sizeof bound;
    char port[16];
    int on = 1;
    memset(&hints, 0, sizeof hints);
    hints.ai_flags = AI_NUMERICHOST | AI_PASSIVE;
    hints.ai_socktype = SOCK_STREAM;
    snprintf(port, sizeof port, "%d", program->options.port);
    if (getaddrinfo(program->options.host, port, &hints, &found))
        refuse("--host is to be an IP address", program->options.host);
    program->listener = socket(found->ai_family, SOCK_STREAM, 0);
    setsockopt(program->listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (program->listener < 0 || bind(program->listener, found->ai_addr, found->ai_addrlen) ||
        listen(program->listener, 512))
        refuse("cannot listen there; is the port taken?", strerror(errno));
    freeaddrinfo(found);
    getsockname(program->listener, (struct sockaddr *)&bound, &size);
    program->port = ntohs(bound.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&bound)->sin6_port
                                                      : ((struct sockaddr_in *)&bound)->sin_port);
    set_nonblocking(program->listener);
}

static void accept_peers(gwsim_program *program)
{
    int fd;
    while ((fd = accept(program->listener, NULL, NULL)) >= 0) {
        gwsim_peer *it = (gwsim_peer *)calloc(1, sizeof *it);
        if (!it) refuse("no memory for a connection", NULL);
        set_nonblocking(fd);
        it->fd = fd;
        if (program->secret) it->tls = tls_new(program->secret);
        it->conn = sim_accept(program->gateway, clock_ms());
        it->next = program->peers;
        program->peers = it;
        peer_settle(it);
    }
}

static void sweep_peers(gwsim_program *program)
{
    gwsim_peer **at = &program->peers, *it;
    while ((it = *at) != NULL) {
        if (it->linger_ms && clock_ms() >= it->linger_ms) peer_drop(it, 0);
        if (!it->gone) { at = &it->next; continue; }
        *at = it->next;
        free(it->tls);
        free(it);
    }
}

static void obey_line(gwsim_program *program, const char *line)
{
    char why[200];
    if (sim_script(program->gateway, line, clock_ms(), why, sizeof why))
        fprintf(stderr, "gwsim: %s\n", why);
}

static void read_stdin(gwsim_program *program)
{
    char bytes[1024];
    ssize_t got = read(0, bytes, sizeof bytes), i;
    if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR)) program->stdin_open = 0;
    for (i = 0; i < got; i++) {
        if (bytes[i] != '\n' && program->command_len + 1 < sizeof program->command) {
            program->command[program->command_len++] = bytes[i];
            continue;
        }
        program->command[program->command_len] = 0;
        program->command_len = 0;
        obey_line(program, program->command);
    }
}

static int wait_ms(const gwsim_program *program, uint64_t end_ms)
{
    uint64_t next = sim_next_ms(program->gateway), now = clock_ms();
    const gwsim_peer *it;
    if (end_ms < next) next = end_ms;
    for (it = program->peers; it; it = it->next)
        if (it->linger_ms && it->linger_ms < next) next = it->linger_ms;
    if (next <= now) return 0;
    return next - now > 1000 ? 1000 : (int)(next - now);
}

/* Sleeps until something is to be done, then reads.  Reading comes before the tick, as the client's does. */
static void turn(gwsim_program *program, uint64_t end_ms)
{
    static struct pollfd *fds;
    static size_t cap;
    size_t count = 2, i;
    gwsim_peer *it;
    for (it = program->peers; it; it = it->next) count++;
    if (count > cap) {
        cap = count * 2;
        fds = (struct pollfd *)realloc(fds, cap * sizeof *fds);
        if (!fds) refuse("no memory", NULL);
    }
    memset(fds, 0, count * sizeof *fds);
    fds[0].fd = program->listener;
    fds[1].fd = program->stdin_open ? 0 : -1;
    fds[0].events = fds[1].events = POLLIN;
    for (it = program->peers, i = 2; it; it = it->next, i++) {
        fds[i].fd = it->fd;
        fds[i].events = peer_events(it);
    }
    if (poll(fds, (nfds_t)count, wait_ms(program, end_ms)) < 0) return;
    for (it = program->peers, i = 2; it; it = it->next, i++) {
        if (fds[i].revents & POLLIN || (it->closing && fds[i].revents)) peer_read(program, it);
        else if (fds[i].revents & (POLLERR | POLLHUP)) peer_drop(it, 0);
    }
    if (fds[0].revents) accept_peers(program);
    if (fds[1].revents) read_stdin(program);
    sim_tick(program->gateway, clock_ms());
    for (it = program->peers; it; it = it->next) {
        peer_settle(it);
        if (peer_has_plaintext(it)) peer_read(program, it);     /* it came before a freeze */
    }
    sweep_peers(program);
    fflush(program->log);
}

/* --script and --do.  The caller says with which gateway; a bad line ends the program. */
static void load_scripts(const gwsim_options *options, sim_gateway *gateway)
{
    char why[200] = "", *text;
    size_t len, i;
    int line;
    if (options->script) {
        text = read_file(options->script, &len);
        line = sim_script(gateway, text, clock_ms(), why, sizeof why);
        if (line) { fprintf(stderr, "gwsim: %s, line %d: %s\n", options->script, line, why); exit(2); }
        free(text);
    }
    if (!options->orders) return;
    text = strdup(options->orders);
    for (i = 0; text && text[i]; i++) if (text[i] == ';') text[i] = '\n';
    if (sim_script(gateway, text, clock_ms(), why, sizeof why)) refuse("--do", why);
    free(text);
}

/* Before the first line says that we listen: a rehearsal with a gateway that nobody hears. */
static void check_scripts(const gwsim_options *options)
{
    sim_config config;
    sim_gateway *rehearsal;
    sim_config_init(&config);
    rehearsal = sim_new(&config, clock_ms());
    load_scripts(options, rehearsal);
    sim_free(rehearsal);
}

static void start(gwsim_program *program)
{
    static char url[64];
    sim_config *config = &program->options.sim;
    if (!program->options.plain) program->secret = read_secret(&program->options);
    check_scripts(&program->options);
    start_listening(program);
    snprintf(url, sizeof url, "%s://localhost:%d", program->options.plain ? "ws" : "wss", program->port);
    config->url = program->options.url ? program->options.url : url;
    config->log = log_line;
    config->now_us = clock_us;
    config->user = program;
    program->log = program->options.log ? fopen(program->options.log, "w") : stdout;
    if (!program->log) refuse("cannot write this file", program->options.log);
    program->gateway = sim_new(config, clock_ms());
    program->stdin_open = program->options.from_stdin;
    printf("{\"ev\":\"listening\",\"url\":\"%s\",\"port\":%d}\n", config->url, program->port);
    fflush(stdout);
    load_scripts(&program->options, program->gateway);
}

static void finish(gwsim_program *program)
{
    const sim_stats *stats = sim_get_stats(program->gateway);
    fprintf(program->log, "{\"ev\":\"summary\",\"connections\":%llu,\"requests\":%llu,\"identifies\":%llu,\"resumes\":%llu,"
            "\"ready\":%llu,\"resumed\":%llu,\"heartbeats\":%llu,\"payloads\":%llu,\"dispatched\":%llu,\"violations\":%llu}\n",
            (unsigned long long)stats->connections, (unsigned long long)stats->requests,
            (unsigned long long)stats->identifies, (unsigned long long)stats->resumes,
            (unsigned long long)stats->ready,
            (unsigned long long)stats->resumed, (unsigned long long)stats->heartbeats,
            (unsigned long long)stats->payloads, (unsigned long long)stats->dispatched,
            (unsigned long long)stats->violations);
    fflush(program->log);
    sim_free(program->gateway);
}

int main(int argc, char **argv)
{
    static gwsim_program program;
    uint64_t end_ms = SIM_NEVER;
    read_options(&program.options, argc, argv);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGINT, on_signal);
    signal(SIGTERM, on_signal);
    start(&program);
    if (program.options.seconds > 0) end_ms = clock_ms() + (uint64_t)(program.options.seconds * 1000);
    while (!stop_asked && clock_ms() < end_ms) turn(&program, end_ms);
    finish(&program);
    return 0;
}
