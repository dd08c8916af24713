/* The rooms net and link: DNS, TCP, and the way from a URL to plain bytes, over real sockets of this machine, with the
 * time handed in: no test waits for a deadline. The resolver and recv() are ours, so that they can be slow, wrong, counted. */
#ifndef _DEFAULT_SOURCE
#define _DEFAULT_SOURCE
#endif
#include <netdb.h>
#include <sys/socket.h>
#include <sys/types.h>

static int slow_getaddrinfo(const char *host, const char *service, const struct addrinfo *hints, struct addrinfo **list);
static void slow_freeaddrinfo(struct addrinfo *list);
static ssize_t counted_recv(int fd, void *bytes, size_t len, int flags);
#define getaddrinfo slow_getaddrinfo
#define freeaddrinfo slow_freeaddrinfo
#define recv counted_recv
#define DISCORD_GATEWAY_IMPLEMENTATION
#include "discord_gateway.h"
#undef getaddrinfo
#undef freeaddrinfo
#undef recv
#include "check.h"
#include "loopback.h"

static uint32_t recv_calls;

static ssize_t counted_recv(int fd, void *bytes, size_t len, int flags)
{
    recv_calls++;
    return recv(fd, bytes, len, flags);
}

/* ---- a resolver that does as it is told ---- */
typedef struct resolver {
    pthread_mutex_t lock;
    pthread_cond_t moved;
    int error;                          /* EAI_...; 0: found */
    uint32_t hold;                      /* 1: nobody comes back */
    uint32_t asked, inside, left;
    uint32_t v4_count, v6_count, odd_count;
} resolver;

static resolver dns = { PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0, 0, 0, 0, 0, 1, 0, 0 };

static void resolver_will(int error, uint32_t hold, uint32_t v4_count, uint32_t v6_count)
{
    pthread_mutex_lock(&dns.lock);
    dns.error = error;
    dns.hold = hold;
    dns.v4_count = v4_count;
    dns.v6_count = v6_count;
    dns.odd_count = 0;
    pthread_cond_broadcast(&dns.moved);
    pthread_mutex_unlock(&dns.lock);
}

static struct addrinfo *resolver_entry(int family, struct addrinfo *next)
{
    struct addrinfo *entry = (struct addrinfo *)calloc(1, sizeof *entry + sizeof(struct sockaddr_in6));
    struct sockaddr_in *v4 = (struct sockaddr_in *)(void *)(entry + 1);
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)(void *)(entry + 1);
    entry->ai_family = family;
    entry->ai_socktype = SOCK_STREAM;
    entry->ai_addr = (struct sockaddr *)(void *)(entry + 1);
    entry->ai_addrlen = (socklen_t)(family == AF_INET6 ? sizeof *v6 : sizeof *v4);
    entry->ai_addr->sa_family = (sa_family_t)family;
    if (family == AF_INET) v4->sin_addr.s_addr = htonl(0x7F000001);
    if (family == AF_INET6) {
        v6->sin6_addr = in6addr_loopback;
        v6->sin6_scope_id = 3;
    }
    entry->ai_next = next;
    return entry;
}

static int slow_getaddrinfo(const char *host, const char *service, const struct addrinfo *hints, struct addrinfo **list)
{
    int error;
    uint32_t i;
    (void)service;
    pthread_mutex_lock(&dns.lock);
    dns.asked++;
    dns.inside++;
    pthread_cond_broadcast(&dns.moved);
    while (dns.hold) pthread_cond_wait(&dns.moved, &dns.lock);
    dns.inside--;
    dns.left++;
    error = dns.error;
    *list = NULL;
    if (!error && strcmp(host, "localhost") == 0) {
        pthread_mutex_unlock(&dns.lock);
        error = getaddrinfo(host, NULL, hints, list);
        if (!error && *list) (*list)->ai_flags |= 1 << 30;     /* the system's own */
        return error;
    }
    for (i = 0; !error && i < dns.v4_count; i++) *list = resolver_entry(AF_INET, *list);
    for (i = 0; !error && i < dns.v6_count; i++) *list = resolver_entry(AF_INET6, *list);
    for (i = 0; !error && i < dns.odd_count; i++) *list = resolver_entry(AF_UNIX, *list);
    pthread_mutex_unlock(&dns.lock);
    return error;
}

static void slow_freeaddrinfo(struct addrinfo *list)
{
    if (list && list->ai_flags & 1 << 30) {
        freeaddrinfo(list);
        return;
    }
    while (list) {
        struct addrinfo *next = list->ai_next;
        free(list);
        list = next;
    }
}

/* ---- an allocator that counts, knows each block's size, and can fail ---- */
typedef struct heap { size_t now, peak, calls, fail_at; uint32_t wrong_size; } heap;

static void *heap_alloc(void *user, void *old, size_t old_bytes, size_t new_bytes)
{
    heap *h = (heap *)user;
    size_t *block = old ? (size_t *)old - 2 : NULL;
    if (old && block[0] != old_bytes) h->wrong_size++;
    if (new_bytes && ++h->calls == h->fail_at) return NULL;
    if (!new_bytes) {
        h->now -= old_bytes;
        free(block);
        return NULL;
    }
    block = (size_t *)realloc(block, new_bytes + 2 * sizeof *block);
    if (!block) exit(1);
    block[0] = new_bytes;
    h->now += new_bytes - (old ? old_bytes : 0);
    if (h->now > h->peak) h->peak = h->now;
    return block + 2;
}

/* ---- one link, the world around it, and who answers ---- */
typedef struct rig {
    heap counted;
    gw__mem mem;
    gw__logger logger;
    gw__poller poller;
    void *watches;
    gw__net net;
    gw__trust trust;
    gw__trust_source source;
    gw__trust_clock clock;
    gw__tls_ticket ticket;
    gw__link link;
    gw__fault fault;
    gw__dns names;
    uint64_t now_ms;
    int listener;
    uint16_t port;
    lb_secret *secret;                  /* the peer speaks TLS */
    lb_stream *peer;
    lb_bytes got;                       /* what the link gave */
    uint32_t steps, keep_bytes;         /* keep_bytes 1: rig_turn() takes nothing */
    char *pem;
    /* the resolve hook's */
    const char *answer;
    int32_t verdict;                    /* what it returns once `agains` are used up */
    uint32_t agains, hook_calls;
    char asked[GW__HOST_MAX];
    /* the transport hook's */
    gw_transport transport;
    uint32_t opens, closes, refuse;
    int transport_fd;
    int32_t lie;                        /* read and write answer with this, if not 0 */
    uint32_t hooks_unmarked;
} rig;

static int32_t rig_resolve(void *user, const char *host, char *ip_text, size_t cap)
{
    rig *r = (rig *)user;
    r->hook_calls++;
    r->hooks_unmarked += r->net.in_hook != 1;
    snprintf(r->asked, sizeof r->asked, "%s", host);
    if (r->agains) { r->agains--; return 0; }
    if (r->answer && r->verdict > 0) {
        size_t len = strlen(r->answer) < cap ? strlen(r->answer) : cap;     /* without a 0 if it is long */
        memcpy(ip_text, r->answer, len);
        if (len < cap) ip_text[len] = 0;
    }
    return r->verdict;
}

static void *rig_transport_open(void *user, const char *host, uint16_t port)
{
    rig *r = (rig *)user;
    r->opens++;
    r->hooks_unmarked += r->net.in_hook != 1;
    snprintf(r->asked, sizeof r->asked, "%s:%u", host, (unsigned)port);
    return r->refuse ? NULL : (void *)r;
}

static int32_t rig_transport_read(void *user, void *stream, void *bytes, uint32_t len)
{
    rig *r = (rig *)user;
    ssize_t got;
    CHECK(stream == user);
    if (r->lie) return r->lie;
    got = recv(r->transport_fd, bytes, len, 0);
    if (got > 0) return (int32_t)got;
    return got < 0 && errno == EAGAIN ? 0 : -1;
}

static int32_t rig_transport_write(void *user, void *stream, const void *bytes, uint32_t len)
{
    rig *r = (rig *)user;
    ssize_t put;
    CHECK(stream == user);
    if (r->lie) return r->lie;
    put = send(r->transport_fd, bytes, len, MSG_NOSIGNAL);
    if (put > 0) return (int32_t)put;
    return errno == EAGAIN ? 0 : -1;
}

static intptr_t rig_transport_descriptor(void *user, void *stream)
{
    (void)stream;
    return ((rig *)user)->transport_fd;
}

static void rig_transport_close(void *user, void *stream)
{
    rig *r = (rig *)user;
    CHECK(stream == user);
    r->closes++;
}

static rig *rig_new(int secure)
{
    rig *r = (rig *)calloc(1, sizeof *r);
    gw__mem_init(&r->mem, heap_alloc, &r->counted);
    CHECK_EQ(gw__sys_poller_open(&r->poller), 1);
    r->watches = calloc(3, GW__WATCH_BYTES ? GW__WATCH_BYTES : 1);
    gw__sys_poller_lend(&r->poller, r->watches, 3);
    r->net.mem = &r->mem;
    r->net.logger = &r->logger;
    r->net.poller = &r->poller;
    r->net.user = r;
    r->pem = lb_cert_text("ca.pem");
    r->source.ca_pem = r->pem;
    gw__trust_init(&r->trust, &r->mem, &r->source);
    r->clock.unix_time = gw__sys_unix_time();
    r->now_ms = 1000000;
    r->listener = lb_listen(1, &r->port, 8);
    if (secure) r->secret = lb_secret_new("server.pem", "server.key");
    gw__link_init(&r->link, &r->net);
    r->verdict = 1;
    r->transport_fd = -1;
    return r;
}

static void rig_free(rig *r)
{
    gw__link_close(&r->link);
    gw__dns_cancel(&r->names);
    gw__trust_free(&r->trust);
    gw__sys_poller_close(&r->poller);
    CHECK_U64(r->counted.now, 0);
    CHECK_U64(r->counted.wrong_size, 0);
    CHECK_U64(r->hooks_unmarked, 0);
    CHECK_U64(r->opens, r->closes + r->refuse);
    if (r->transport_fd >= 0) close(r->transport_fd);
    lb_stream_free(r->peer);
    free(r->secret);
    if (r->listener >= 0) close(r->listener);
    free(r->watches);
    free(r->pem);
    free(r->got.bytes);
    free(r);
}

static void rig_open(rig *r, const char *host)
{
    gw__url url;
    char text[300];
    snprintf(text, sizeof text, "%s://%s:%u/", r->secret ? "wss" : "ws", host, (unsigned)r->port);
    memset(&r->fault, 0, sizeof r->fault);
    if (!CHECK_EQ(gw__url_parse(&url, text, strlen(text), &r->fault), 1)) return;
    gw__link_open(&r->link, &url, 7, r->now_ms);
}

static gw__link_state rig_step(rig *r)
{
    gw__link_state state = gw__link_step(&r->link, &r->trust, &r->clock, &r->ticket, r->now_ms);
    r->steps++;
    gw__link_watch(&r->link);
    return state;
}

static void rig_look(rig *r, int32_t timeout_ms)
{
    gw__ready seen[4];
    uint32_t i, count = gw__sys_poller_wait(&r->poller, timeout_ms, seen, 4);
    for (i = 0; i < count; i++) {
        if (seen[i].tag == GW__TAG_WAKE) gw__sys_poller_unwake(&r->poller);
        if (seen[i].tag != 7) continue;
        if (seen[i].readable) r->link.readable = 1;
        if (seen[i].writable) gw__link_flush(&r->link);
    }
    if (r->net.transport && r->link.tcp.fd == GW__NO_FD) r->link.readable = 1;
}

/* Both sides do what they can; sleeps a moment where they can do nothing. */
static void rig_turn(rig *r)
{
    size_t len;
    const uint8_t *bytes;
    int fd, moved = 0;
    if (!r->peer && (fd = lb_accept(r->listener)) >= 0) r->peer = lb_stream_new(fd, r->secret);
    if (r->peer) moved = lb_pump(r->peer);
    rig_look(r, moved || gw__link_has_work(&r->link) ? 0 : 1);
    if (r->link.state != GW__LINK_OPEN) {
        if (r->link.state != GW__LINK_ENDED) rig_step(r);
    } else if (!r->keep_bytes) {
        while ((bytes = gw__link_peek(&r->link, &len, r->now_ms)) != NULL) {
            lb_add(&r->got, bytes, len);
            gw__link_take(&r->link, len);
        }
    }
    gw__link_watch(&r->link);
}

/* 1: the link got into this state. */
static int rig_until(rig *r, gw__link_state state)
{
    uint64_t end_ms = lb_now_ms() + lb_patience_ms();
    while (r->link.state != state && lb_now_ms() < end_ms) {
        if (r->link.state == GW__LINK_ENDED) break;
        rig_turn(r);
    }
    return r->link.state == state;
}

/* ... and a failure where it did not. */
#define RIG_MUST(r, state) rig_must(r, state, __FILE__, __LINE__)
static int rig_must(rig *r, gw__link_state state, const char *file, int line)
{
    if (rig_until(r, state)) return 1;
    check_failed(file, line);
    fprintf(stderr, "the link is in state %d: %s\n", (int)r->link.state, r->link.fault.text);
    return 0;
}

static int rig_until_got(rig *r, size_t len)
{
    uint64_t end_ms = lb_now_ms() + lb_patience_ms();
    while (lb_len(&r->got) < len && r->link.state == GW__LINK_OPEN && lb_now_ms() < end_ms) rig_turn(r);
    return lb_len(&r->got) >= len;
}

static int rig_until_heard(rig *r, size_t len)
{
    uint64_t end_ms = lb_now_ms() + lb_patience_ms();
    while ((!r->peer || lb_len(&r->peer->in) < len) && r->link.state != GW__LINK_ENDED && lb_now_ms() < end_ms) rig_turn(r);
    return r->peer && lb_len(&r->peer->in) >= len;
}

static void rig_say(rig *r, const void *bytes, size_t len)
{
    CHECK_EQ(gw__buf_append(&r->link.out, bytes, len), 1);
    gw__link_flush(&r->link);
    gw__link_watch(&r->link);
}

/* ---- DNS ---- */
#ifndef GW_NO_THREADS
static gw__dns_found dns_wait(rig *r, const char *host)
{
    uint64_t end_ms = lb_now_ms() + lb_patience_ms();
    gw__dns_found found;
    while ((found = gw__dns_look(&r->names, &r->net, host, r->now_ms, &r->fault)) == GW__DNS_WAITING && lb_now_ms() < end_ms)
        rig_look(r, 100);
    return found;
}

/* The helper thread of a cancelled job frees it; wait, or the leak checkers see it at work. */
static void dns_let_go(uint32_t left)
{
    uint64_t end_ms = lb_now_ms() + lb_patience_ms();
    uint32_t gone = 0;
    resolver_will(0, 0, 1, 0);
    while (gone < left && lb_now_ms() < end_ms) {
        pthread_mutex_lock(&dns.lock);
        gone = dns.left;
        pthread_mutex_unlock(&dns.lock);
        usleep(1000);
    }
    CHECK(gone >= left);
    usleep(lb_is_slow() ? 100000 : 5000);
}

TEST(dns_finds_localhost_in_a_thread)
{
    rig *r = rig_new(0);
    uint32_t i;
    resolver_will(0, 0, 1, 0);
    CHECK_EQ(dns_wait(r, "localhost"), GW__DNS_DONE);
    CHECK(r->names.count >= 1);
    for (i = 0; i < r->names.count; i++) {
        char text[64];
        gw__sys_address_text(&r->names.found[i], text, sizeof text);
        CHECK(strcmp(text, "127.0.0.1") == 0 || strcmp(text, "::1") == 0);
    }
    CHECK(r->names.job == NULL);
    rig_free(r);
}

TEST(dns_thread_wakes_the_poller)
{
    rig *r = rig_new(0);
    gw__ready seen[4];
    resolver_will(0, 1, 1, 0);
    CHECK_EQ(gw__dns_look(&r->names, &r->net, "one.test", r->now_ms, &r->fault), GW__DNS_WAITING);
    resolver_will(0, 0, 1, 0);
    CHECK_EQ(gw__sys_poller_wait(&r->poller, 20000, seen, 4), 1);
    CHECK_U64(seen[0].tag, GW__TAG_WAKE);
    CHECK_EQ(gw__sys_poller_unwake(&r->poller), GW__WOKEN_BY_HELPER);
    CHECK_EQ(gw__dns_look(&r->names, &r->net, "one.test", r->now_ms, &r->fault), GW__DNS_DONE);
    rig_free(r);
}

TEST(dns_says_which_host_does_not_exist)
{
    rig *r = rig_new(0);
    resolver_will(EAI_NONAME, 0, 0, 0);
    CHECK_EQ(dns_wait(r, "nowhere.test"), GW__DNS_FAILED);
    CHECK_U64(r->fault.reason, GW_REASON_RESOLVE);
    CHECK_TEXT(r->fault.text, "DNS: cannot find nowhere.test: there is no such host");
    memset(&r->fault, 0, sizeof r->fault);
    gw__dns_begin(&r->names);
    resolver_will(EAI_AGAIN, 0, 0, 0);
    CHECK_EQ(dns_wait(r, "discord.test"), GW__DNS_FAILED);
    CHECK_HAS(r->fault.text, "is this machine online?");
    rig_free(r);
}

TEST(dns_takes_at_most_sixteen_addresses_and_only_ip)
{
    rig *r = rig_new(0);
    resolver_will(0, 0, 10, 20);
    dns.odd_count = 3;
    CHECK_EQ(dns_wait(r, "many.test"), GW__DNS_DONE);
    CHECK_U64(r->names.count, GW__ADDRESSES_MAX);
    CHECK_U64(r->names.found[0].is_v6, 1);
    CHECK_U64(r->names.found[0].scope, 3);
    memset(&r->fault, 0, sizeof r->fault);
    gw__dns_begin(&r->names);
    resolver_will(0, 0, 0, 0);
    dns.odd_count = 3;
    CHECK_EQ(dns_wait(r, "odd.test"), GW__DNS_FAILED);      /* found, but nothing that we can dial */
    CHECK_U64(r->fault.reason, GW_REASON_RESOLVE);
    rig_free(r);
}

TEST(dns_can_be_cancelled_while_the_thread_is_inside)
{
    rig *r = rig_new(0);
    uint32_t left = dns.left + 1;
    resolver_will(0, 1, 1, 0);
    rig_open(r, "slow.test");
    CHECK_EQ(rig_step(r), GW__LINK_RESOLVING);
    pthread_mutex_lock(&dns.lock);
    while (!dns.inside) pthread_cond_wait(&dns.moved, &dns.lock);
    pthread_mutex_unlock(&dns.lock);
    CHECK_EQ(rig_step(r), GW__LINK_RESOLVING);
    rig_free(r);                                /* the poller is closed: the thread must not touch it */
    dns_let_go(left);
}

TEST(dns_can_be_cancelled_before_the_thread_began_or_after_it_ended)
{
    uint32_t i, left = dns.left;
    resolver_will(0, 0, 1, 0);
    for (i = 0; i < 50; i++) {
        rig *r = rig_new(0);
        rig_open(r, "quick.test");
        rig_step(r);
        if (i & 1) usleep(200 * (i % 8));
        rig_free(r);
    }
    dns_let_go(left + 50);
}

TEST(dns_a_new_open_forgets_the_answer_of_the_old_one)
{
    rig *r = rig_new(0);
    uint32_t left = dns.left + 1;
    resolver_will(0, 1, 1, 0);
    rig_open(r, "slow.test");
    rig_step(r);
    rig_open(r, "127.0.0.1");                   /* an address needs no thread */
    CHECK(r->link.dns.job == NULL);
    RIG_MUST(r, GW__LINK_OPEN);
    rig_free(r);
    dns_let_go(left);
}

TEST(dns_client_closed_while_the_thread_is_inside_leaks_nothing)
{
    gw_config cfg = GW_INIT;
    gw_client *gw;
    heap counted;
    uint32_t left = dns.left + 1, inside = 0;
    const gw_event *ev;
    memset(&counted, 0, sizeof counted);
    resolver_will(0, 1, 1, 0);
    cfg.token = "abcdefghijk";
    cfg.url = "wss://gateway.slow.test/";
    cfg.alloc = heap_alloc;
    cfg.user = &counted;
    gw = gw_open(&cfg);
    ev = gw_poll(gw);
    if (CHECK(ev)) CHECK_U64(ev->type, GW_CONNECTING);
    while (!inside) {                           /* a slow machine needs more than one turn */
        while (gw_poll(gw)) { }
        pthread_mutex_lock(&dns.lock);
        inside = dns.inside;
        pthread_mutex_unlock(&dns.lock);
    }
    while (gw_timeout_ms(gw) == 0) while (gw_poll(gw)) { }
    CHECK(gw_timeout_ms(gw) > 1000);            /* and nobody is told to poll for it */
    gw_close(gw);
    CHECK_U64(counted.now, 0);
    dns_let_go(left);
}

TEST(dns_without_an_answer_ends_after_its_deadline)
{
    rig *r = rig_new(0);
    uint32_t left = dns.left + 1;
    resolver_will(0, 1, 1, 0);
    rig_open(r, "slow.test");
    rig_step(r);
    CHECK_U64(gw__link_next_ms(&r->link), r->now_ms + 15000);
    r->now_ms += 15000;
    gw__link_expire(&r->link, r->now_ms);
    CHECK_EQ(r->link.state, GW__LINK_ENDED);
    CHECK_U64(r->link.fault.reason, GW_REASON_TIMEOUT);
    CHECK_HAS(r->link.fault.text, "slow.test");
    CHECK_HAS(r->link.fault.text, "no answer from DNS");
    rig_free(r);
    dns_let_go(left);
}
#else
TEST(dns_without_threads_asks_at_once)
{
    rig *r = rig_new(0);
    resolver_will(0, 0, 2, 0);
    CHECK_EQ(gw__dns_look(&r->names, &r->net, "two.test", r->now_ms, &r->fault), GW__DNS_DONE);
    CHECK_U64(r->names.count, 2);
    resolver_will(EAI_NONAME, 0, 0, 0);
    CHECK_EQ(gw__dns_look(&r->names, &r->net, "nowhere.test", r->now_ms, &r->fault), GW__DNS_FAILED);
    CHECK_TEXT(r->fault.text, "DNS: cannot find nowhere.test: there is no such host");
    rig_free(r);
}
#endif

TEST(dns_with_config_memory_uses_no_thread)
{
    rig *r = rig_new(0);
    r->net.no_thread = 1;
    resolver_will(0, 0, 1, 0);
    CHECK_EQ(gw__dns_look(&r->names, &r->net, "one.test", r->now_ms, &r->fault), GW__DNS_DONE);
    CHECK(r->names.job == NULL);
    CHECK_U64(r->names.count, 1);
    rig_free(r);
}

TEST(dns_needs_nobody_for_an_address)
{
    rig *r = rig_new(0);
    r->net.resolve = rig_resolve;
    CHECK_EQ(gw__dns_look(&r->names, &r->net, "192.0.2.7", r->now_ms, &r->fault), GW__DNS_DONE);
    CHECK_EQ(gw__dns_look(&r->names, &r->net, "2001:db8::1", r->now_ms, &r->fault), GW__DNS_DONE);
    CHECK_U64(r->names.found[0].is_v6, 1);
    CHECK_U64(r->hook_calls, 0);
    rig_free(r);
}

TEST(dns_hook_is_asked_again_when_it_says_so)
{
    rig *r = rig_new(0);
    r->net.resolve = rig_resolve;
    r->answer = "127.0.0.1";
    r->agains = 2;
    rig_open(r, "hooked.test");
    CHECK_EQ(rig_step(r), GW__LINK_RESOLVING);
    CHECK_U64(r->hook_calls, 1);
    CHECK_TEXT(r->asked, "hooked.test");
    CHECK_EQ(rig_step(r), GW__LINK_RESOLVING);
    CHECK_U64(r->hook_calls, 1);                /* not before its time */
    CHECK_U64(gw__link_next_ms(&r->link), r->now_ms + GW__RESOLVE_AGAIN_MS);
    r->now_ms += GW__RESOLVE_AGAIN_MS;
    CHECK_EQ(rig_step(r), GW__LINK_RESOLVING);
    CHECK_U64(r->hook_calls, 2);
    r->now_ms += GW__RESOLVE_AGAIN_MS;
    CHECK_EQ(rig_step(r), GW__LINK_CONNECTING);
    CHECK_U64(r->hook_calls, 3);
    RIG_MUST(r, GW__LINK_OPEN);
    rig_free(r);
}

TEST(dns_hook_that_never_knows_ends_at_the_deadline)
{
    rig *r = rig_new(0);
    uint64_t began = r->now_ms;
    r->net.resolve = rig_resolve;
    r->agains = UINT32_MAX;
    rig_open(r, "hooked.test");
    rig_step(r);
    while (r->link.state == GW__LINK_RESOLVING && r->now_ms < began + 60000) {
        r->now_ms = gw__link_next_ms(&r->link);
        if (r->now_ms >= r->link.deadline_ms) gw__link_expire(&r->link, r->now_ms);
        else rig_step(r);
    }
    CHECK_U64(r->now_ms, began + 15000);
    CHECK_U64(r->link.fault.reason, GW_REASON_TIMEOUT);
    CHECK(r->hook_calls > 100);
    rig_free(r);
}

static void hook_answers(const char *answer, int32_t verdict, uint32_t count, const char *first)
{
    rig *r = rig_new(0);
    char text[64];
    r->net.resolve = rig_resolve;
    r->answer = answer;
    r->verdict = verdict;
    CHECK_EQ(gw__dns_look(&r->names, &r->net, "hooked.test", r->now_ms, &r->fault), count ? GW__DNS_DONE : GW__DNS_FAILED);
    CHECK_U64(r->names.count, count);
    if (count) {
        gw__sys_address_text(&r->names.found[0], text, sizeof text);
        CHECK_TEXT(text, first);
        CHECK_U64(r->fault.reason, 0);
    } else {
        CHECK_U64(r->fault.reason, GW_REASON_RESOLVE);
        CHECK_TEXT(r->fault.text, "DNS: config.resolve gave no address for hooked.test");
    }
    rig_free(r);
}

TEST(dns_hook_gives_several_addresses)
{
    char many[900] = "";
    uint32_t i;
    hook_answers("192.0.2.1 2001:db8::1", 1, 2, "192.0.2.1");
    hook_answers("  192.0.2.1   192.0.2.2 ", 1, 2, "192.0.2.1");
    hook_answers("nonsense 192.0.2.2", 1, 1, "192.0.2.2");
    for (i = 0; i < 40; i++) strcat(many, "2001:db8::1 ");
    hook_answers(many, 1, 16, "2001:db8::1");
    memset(many, '1', sizeof many - 1);         /* fills all of its room, without a 0 at the end */
    hook_answers(many, 1, 0, NULL);
}

TEST(dns_hook_that_fails_or_gives_nothing_is_named)
{
    hook_answers("192.0.2.1", -1, 0, NULL);
    hook_answers("", 1, 0, NULL);
    hook_answers(" ", 1, 0, NULL);
    hook_answers("localhost", 1, 0, NULL);
    hook_answers("192.0.2.1,192.0.2.2", 1, 0, NULL);
}

/* ---- TCP ---- */
TEST(tcp_refused_port_is_told_with_host_port_and_address)
{
    rig *r = rig_new(0);
    char part[64];
    close(r->listener);
    r->port = 0;
    r->listener = lb_listen(1, &r->port, -1);   /* bound, so nobody else has it; nobody listens */
    rig_open(r, "127.0.0.1");
    CHECK_EQ(rig_until(r, GW__LINK_OPEN), 0);
    CHECK_EQ(r->link.state, GW__LINK_ENDED);
    CHECK_U64(r->link.fault.reason, GW_REASON_CONNECT);
    snprintf(part, sizeof part, "127.0.0.1 port %u", (unsigned)r->port);
    CHECK_HAS(r->link.fault.text, part);
    CHECK_HAS(r->link.fault.text, "connection refused");
    CHECK_HAS(r->link.fault.text, "1 of 1 addresses");
    rig_free(r);
}

#ifdef __linux__                                /* all of 127/8 is this machine */
TEST(tcp_tries_every_address_in_turn)
{
    rig *r = rig_new(0);
    r->net.resolve = rig_resolve;
    r->answer = "127.0.0.2 ::1 127.0.0.3 127.0.0.1";
    rig_open(r, "several.test");
    RIG_MUST(r, GW__LINK_OPEN);
    CHECK_U64(r->link.tcp.tried, 4);
    rig_say(r, "here", 4);
    CHECK_EQ(rig_until_heard(r, 4), 1);
    rig_free(r);
}

TEST(tcp_says_how_many_addresses_it_has_tried)
{
    rig *r = rig_new(0);
    r->net.resolve = rig_resolve;
    r->answer = "127.0.0.2 127.0.0.3";
    rig_open(r, "several.test");
    CHECK_EQ(rig_until(r, GW__LINK_OPEN), 0);
    CHECK_HAS(r->link.fault.text, "several.test");
    CHECK_HAS(r->link.fault.text, "127.0.0.3, 2 of 2 addresses");
    rig_free(r);
}

/* A listener whose queue is full lets a connect hang, as a host does that does not answer. */
static int full_listener(uint8_t last_byte, uint16_t port, int fillers[8])
{
    struct sockaddr_in to;
    int fd = lb_listen(last_byte, &port, 0), i;
    memset(&to, 0, sizeof to);
    to.sin_family = AF_INET;
    to.sin_port = htons(port);
    to.sin_addr.s_addr = htonl(0x7F000000u | last_byte);
    for (i = 0; i < 8; i++) {
        fillers[i] = socket(AF_INET, SOCK_STREAM, 0);
        lb_nonblocking(fillers[i]);
        if (connect(fillers[i], (const struct sockaddr *)&to, sizeof to) != 0) { }
    }
    return fd;
}

TEST(tcp_goes_on_to_the_next_address_when_one_does_not_answer)
{
    rig *r = rig_new(0);
    int fillers[8], i, deaf = full_listener(2, r->port, fillers);
    uint64_t began = r->now_ms;
    r->net.resolve = rig_resolve;
    r->answer = "127.0.0.2 127.0.0.1";
    rig_open(r, "several.test");
    CHECK_EQ(rig_step(r), GW__LINK_CONNECTING);
    for (i = 0; i < 20; i++) {
        rig_look(r, 1);
        if (!CHECK_EQ(rig_step(r), GW__LINK_CONNECTING)) break;
    }
    CHECK_U64(r->link.tcp.tried, 1);
    CHECK_U64(gw__link_next_ms(&r->link), began + GW__ADDRESS_TIMEOUT_MS);
    r->now_ms = began + GW__ADDRESS_TIMEOUT_MS;
    RIG_MUST(r, GW__LINK_OPEN);
    CHECK_U64(r->link.tcp.tried, 2);
    for (i = 0; i < 8; i++) close(fillers[i]);
    close(deaf);
    rig_free(r);
}

TEST(tcp_that_does_not_answer_ends_with_a_time_out)
{
    rig *r = rig_new(0);
    int fillers[8], i, deaf = full_listener(2, r->port, fillers);
    uint64_t began = r->now_ms;
    r->net.resolve = rig_resolve;
    r->answer = "127.0.0.2";
    rig_open(r, "silent.test");
    rig_step(r);
    rig_step(r);
    r->now_ms = began + GW__ADDRESS_TIMEOUT_MS;
    CHECK_EQ(rig_step(r), GW__LINK_ENDED);
    CHECK_U64(r->link.fault.reason, GW_REASON_CONNECT);
    CHECK_HAS(r->link.fault.text, "the host does not answer");
    r->answer = "127.0.0.2 127.0.0.2 127.0.0.2 127.0.0.2 127.0.0.2";
    r->now_ms = began;
    r->link.tcp.tried = 0;                      /* that name's first attempt */
    rig_open(r, "silent.test");
    rig_step(r);
    for (i = 0; i < 4; i++) {                   /* five addresses would be 40 s: the way as a whole has its own end */
        rig_step(r);
        r->now_ms = gw__link_next_ms(&r->link);
        if (r->now_ms >= r->link.deadline_ms) break;
    }
    CHECK_U64(r->now_ms, began + 30000);
    gw__link_expire(&r->link, r->now_ms);
    CHECK_U64(r->link.fault.reason, GW_REASON_TIMEOUT);
    CHECK_HAS(r->link.fault.text, "no answer to the TCP connect");
    r->answer = "127.0.0.2 127.0.0.2 127.0.0.2 127.0.0.2 127.0.0.1";   /* ... and the next attempt goes on there */
    rig_open(r, "silent.test");
    for (i = 0; i < 10 && r->link.state != GW__LINK_OPEN; i++) rig_step(r);
    CHECK_EQ(r->link.state, GW__LINK_OPEN);
    for (i = 0; i < 8; i++) close(fillers[i]);
    close(deaf);
    rig_free(r);
}
#endif

TEST(tcp_leaks_no_descriptor_over_failed_connects)
{
    rig *r = rig_new(0);
    int before, after, i;
    close(r->listener);
    r->port = 0;
    r->listener = lb_listen(1, &r->port, -1);
    before = dup(0);
    close(before);
    for (i = 0; i < 20; i++) {
        uint64_t end_ms = lb_now_ms() + lb_patience_ms();
        rig_open(r, "127.0.0.1");
        while (r->link.state != GW__LINK_ENDED && lb_now_ms() < end_ms) rig_turn(r);
    }
    gw__link_drop(&r->link);
    after = dup(0);
    close(after);
    CHECK_EQ(after, before);
    rig_free(r);
}

/* ---- the transport hook ---- */
static void rig_use_transport(rig *r, int with_descriptor)
{
    int fds[2];
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, fds) != 0) exit(1);
    lb_nonblocking(fds[0]);
    lb_nonblocking(fds[1]);
    r->transport_fd = fds[0];
    r->peer = lb_stream_new(fds[1], r->secret);
    r->transport.open = rig_transport_open;
    r->transport.read = rig_transport_read;
    r->transport.write = rig_transport_write;
    r->transport.fd = with_descriptor ? rig_transport_descriptor : NULL;
    r->transport.close = rig_transport_close;
    r->net.transport = &r->transport;
}

static void echo(rig *r, const char *host)
{
    rig_open(r, host);
    if (RIG_MUST(r, GW__LINK_OPEN)) {
        rig_say(r, "hello there", 11);
        CHECK_EQ(rig_until_heard(r, 11), 1);
        CHECK_TEXT(lb_text(&r->peer->in), "hello there");
        lb_say(r->peer, "hello back");
        CHECK_EQ(rig_until_got(r, 10), 1);
        CHECK_TEXT(lb_text(&r->got), "hello back");
        CHECK_EQ(r->link.fault.reason, 0);
        CHECK(r->link.bytes_in >= 10 && r->link.bytes_out >= 11);
    }
    rig_free(r);
}

TEST(transport_with_a_descriptor_carries_plain_bytes)    { rig *r = rig_new(0); rig_use_transport(r, 1); echo(r, "127.0.0.1"); }
TEST(transport_without_a_descriptor_carries_plain_bytes) { rig *r = rig_new(0); rig_use_transport(r, 0); echo(r, "127.0.0.1"); }
TEST(transport_with_a_descriptor_carries_tls)            { rig *r = rig_new(1); rig_use_transport(r, 1); echo(r, "localhost"); }
TEST(transport_without_a_descriptor_carries_tls)         { rig *r = rig_new(1); rig_use_transport(r, 0); echo(r, "localhost"); }

TEST(transport_gets_the_host_and_port_unresolved)
{
    rig *r = rig_new(0);
    rig_use_transport(r, 1);
    r->refuse = 1;
    r->port = 8080;
    rig_open(r, "unresolved.test");
    CHECK_EQ(rig_step(r), GW__LINK_ENDED);
    CHECK_TEXT(r->asked, "unresolved.test:8080");
    CHECK_U64(r->link.fault.reason, GW_REASON_CONNECT);
    CHECK_TEXT(r->link.fault.text, "config.transport refused to connect to unresolved.test port 8080");
    rig_free(r);
}

TEST(transport_that_claims_more_than_it_was_asked_for_harms_nobody)
{
    rig *r = rig_new(0);
    size_t len = 0;
    rig_use_transport(r, 0);
    rig_open(r, "127.0.0.1");
    RIG_MUST(r, GW__LINK_OPEN);
    rig_say(r, "x", 1);
    r->lie = INT32_MAX;
    r->link.readable = 1;
    CHECK(gw__link_peek(&r->link, &len, r->now_ms) != NULL);
    CHECK(len <= GW__READ_AHEAD_BYTES);
    gw__link_take(&r->link, len);
    rig_say(r, "y", 1);
    CHECK_EQ(gw__buf_len(&r->link.out), 0);
    r->lie = INT32_MIN;
    r->link.readable = 1;
    CHECK(gw__link_peek(&r->link, &len, r->now_ms) == NULL);
    CHECK_EQ(r->link.state, GW__LINK_ENDED);
    CHECK_U64(r->link.fault.reason, GW_REASON_LOST);
    rig_free(r);
}

/* ---- link: the usual case ---- */
TEST(link_carries_plain_bytes)               { echo(rig_new(0), "127.0.0.1"); }
TEST(link_carries_tls)                       { echo(rig_new(1), "127.0.0.1"); }
TEST(link_carries_tls_by_name)               { rig *r = rig_new(1); r->net.resolve = rig_resolve; r->answer = "127.0.0.1"; echo(r, "localhost"); }
TEST(link_carries_tls_with_rsa)
{
    rig *r = rig_new(0);
    r->secret = lb_secret_new("server-rsa.pem", "server-rsa.key");
    echo(r, "127.0.0.1");
}

static void big_both_ways(int secure, size_t bytes)
{
    rig *r = rig_new(secure);
    uint8_t *sent = (uint8_t *)malloc(bytes);
    size_t i, stuck;
    uint64_t end_ms = lb_now_ms() + lb_patience_ms();
    for (i = 0; i < bytes; i++) sent[i] = (uint8_t)(i * 7 + i / 251);
    rig_open(r, "127.0.0.1");
    if (RIG_MUST(r, GW__LINK_OPEN)) {
        while (!r->peer) rig_turn(r);
        r->peer->deaf = 1;                      /* a slow reader */
        rig_say(r, sent, bytes);
        for (i = 0; i < 20; i++) rig_turn(r);
        stuck = gw__buf_len(&r->link.out);
        CHECK(stuck > 0);
        CHECK_EQ(gw__link_wants_write(&r->link), 1);
        CHECK_EQ(r->link.tcp.watched, GW__WANT_READ | GW__WANT_WRITE);
        CHECK_EQ(r->link.state, GW__LINK_OPEN);
        lb_say(r->peer, "meanwhile");           /* reading goes on while sending is stuck */
        CHECK_EQ(rig_until_got(r, 9), 1);
        r->peer->deaf = 0;
        CHECK_EQ(rig_until_heard(r, bytes), 1);
        CHECK_EQ(lb_len(&r->peer->in), bytes);
        CHECK(memcmp(lb_text(&r->peer->in), sent, bytes) == 0);
        while (gw__link_wants_write(&r->link) && lb_now_ms() < end_ms) rig_turn(r);
        CHECK_EQ(r->link.tcp.watched, GW__WANT_READ);
        CHECK(r->link.out.cap <= GW__OUT_KEPT);         /* given back, but for what a heartbeat needs */
        lb_take(&r->got, lb_len(&r->got));
        lb_add(&r->peer->out, sent, bytes);     /* and the other way */
        CHECK_EQ(rig_until_got(r, bytes), 1);
        CHECK(memcmp(lb_text(&r->got), sent, bytes) == 0);
        for (i = 0; i < 3; i++) rig_turn(r);
        CHECK(r->link.wire.bytes == NULL);
    }
    free(sent);
    rig_free(r);
}

TEST(link_sends_much_to_a_slow_reader)           { big_both_ways(0, 16u * 1024u * 1024u); }
TEST(link_sends_much_over_tls_to_a_slow_reader)  { big_both_ways(1, lb_is_slow() ? 5u * 1024u * 1024u : 10u * 1024u * 1024u); }

TEST(link_reads_ahead_so_that_one_call_brings_many_records)
{
    rig *r = rig_new(1);
    char record[50];
    size_t i;
    uint32_t before;
    memset(record, 'r', sizeof record);
    rig_open(r, "127.0.0.1");
    if (RIG_MUST(r, GW__LINK_OPEN)) {
        while (lb_pump(r->peer)) { }
        rig_turn(r);
        for (i = 0; i < 100; i++) {
            lb_add(&r->peer->out, record, sizeof record);
            while (lb_pump_out(r->peer)) { }
        }
        before = recv_calls;
        CHECK_EQ(rig_until_got(r, 5000), 1);
        CHECK(recv_calls - before <= 6);        /* 100 records in very few; one of these finds nothing */
        CHECK_EQ(lb_len(&r->got), 5000);
    }
    rig_free(r);
}

TEST(link_out_of_a_fixed_block_reads_less_ahead)
{
    rig *r = rig_new(0);
    static uint8_t block[16384];
    char many[10000];
    memset(many, 'm', sizeof many);
    gw__trust_free(&r->trust);
    CHECK_EQ(gw__mem_init_block(&r->mem, block, sizeof block), 1);
    gw__trust_init(&r->trust, &r->mem, &r->source);
    rig_open(r, "127.0.0.1");
    if (RIG_MUST(r, GW__LINK_OPEN)) {
        while (!r->peer) rig_turn(r);
        lb_add(&r->peer->out, many, sizeof many);
        CHECK_EQ(rig_until_got(r, sizeof many), 1);
        CHECK(r->mem.peak_bytes <= GW__READ_AHEAD_SMALL + 256);
    }
    rig_free(r);
}

TEST(link_held_reads_nothing_and_wants_nothing)
{
    int secure;
    for (secure = 0; secure < 2; secure++) {
        rig *r = rig_new(secure);
        size_t len;
        int i;
        rig_open(r, "127.0.0.1");
        if (RIG_MUST(r, GW__LINK_OPEN)) {
            for (i = 0; i < 20; i++) rig_turn(r);
            r->link.held = 1;
            gw__link_watch(&r->link);
            CHECK_EQ(r->link.tcp.watched, 0);
            lb_say(r->peer, "while held");
            for (i = 0; i < 20; i++) rig_turn(r);
            CHECK_EQ(lb_len(&r->got), 0);
            CHECK(gw__link_peek(&r->link, &len, r->now_ms) == NULL);
            CHECK_EQ(gw__link_has_work(&r->link), 0);
            rig_say(r, "sending goes on", 15);
            CHECK_EQ(rig_until_heard(r, 15), 1);
            r->link.held = 0;
            gw__link_watch(&r->link);
            CHECK_EQ(rig_until_got(r, 10), 1);
            CHECK_TEXT(lb_text(&r->got), "while held");
        }
        rig_free(r);
    }
}

TEST(link_held_with_bytes_in_hand_has_work_again_afterwards)
{
    int secure;
    for (secure = 0; secure < 2; secure++) {
        rig *r = rig_new(secure);
        size_t len;
        int i;
        rig_open(r, "127.0.0.1");
        if (RIG_MUST(r, GW__LINK_OPEN)) {
            for (i = 0; i < 20; i++) rig_turn(r);
            lb_say(r->peer, "0123456789");
            r->keep_bytes = 1;
            for (i = 0; i < 2000 && !r->link.readable; i++) rig_turn(r);
            CHECK(gw__link_peek(&r->link, &len, r->now_ms) != NULL);
            CHECK_EQ(len, 10);
            gw__link_take(&r->link, 4);
            r->link.held = 1;
            CHECK_EQ(gw__link_has_work(&r->link), 0);
            r->link.held = 0;
            CHECK_EQ(gw__link_has_work(&r->link), 1);
            CHECK(gw__link_peek(&r->link, &len, r->now_ms) != NULL);
            CHECK_EQ(len, 6);
        }
        rig_free(r);
    }
}

/* ---- link: the handshake ---- */
TEST(link_feeds_the_handshake_in_slices)
{
    rig *r = rig_new(1);
    uint32_t many = 0, waiting = 0;
    uint64_t end_ms = lb_now_ms() + lb_patience_ms();
    rig_open(r, "127.0.0.1");
    while (r->link.state != GW__LINK_OPEN && r->link.state != GW__LINK_ENDED && lb_now_ms() < end_ms) {
        uint64_t before = r->link.tls ? r->link.tls->received : 0, fed;
        rig_turn(r);
        fed = (r->link.tls ? r->link.tls->received : 0) - before;
        many += fed > GW__HANDSHAKE_SLICE;
        waiting += r->link.state == GW__LINK_SECURING && gw__link_has_work(&r->link);
    }
    CHECK_EQ(r->link.state, GW__LINK_OPEN);
    CHECK_U64(many, 0);
    CHECK(waiting >= 2);                        /* and it says that there is more to do */
    rig_free(r);
}

TEST(link_silent_peer_ends_the_handshake_in_time)
{
    rig *r = rig_new(1);
    uint64_t began;
    int i;
    rig_open(r, "127.0.0.1");
    while (r->link.state != GW__LINK_SECURING) {
        rig_look(r, 1);
        if (rig_step(r) == GW__LINK_ENDED) break;
    }
    began = r->now_ms;
    for (i = 0; i < 5; i++) {
        rig_look(r, 0);
        CHECK_EQ(rig_step(r), GW__LINK_SECURING);
    }
    CHECK_U64(gw__link_next_ms(&r->link), began + 20000);
    gw__link_expire(&r->link, began + 20000);
    CHECK_U64(r->link.fault.reason, GW_REASON_TIMEOUT);
    CHECK_HAS(r->link.fault.text, "the peer is silent (20 s)");
    CHECK_HAS(r->link.fault.text, "127.0.0.1 port");
    rig_free(r);
}

static void handshake_fails(const char *host, const char *chain, const char *key, uint32_t reason, const char *part)
{
    rig *r = rig_new(0);
    uint64_t end_ms = lb_now_ms() + lb_patience_ms();
    r->net.resolve = rig_resolve;
    r->answer = "127.0.0.1";
    r->secret = lb_secret_new(chain, key);
    rig_open(r, host);
    RIG_MUST(r, GW__LINK_ENDED);
    CHECK_U64(r->link.fault.reason, reason);
    CHECK_HAS(r->link.fault.text, part);
    gw__link_drop(&r->link);
    while (r->peer && !r->peer->ended && lb_now_ms() < end_ms) lb_pump(r->peer);
    if (CHECK(r->peer)) CHECK_EQ(lb_len(&r->peer->in), 0);
    rig_free(r);
}

TEST(link_refuses_an_unknown_ca)                     { handshake_fails("localhost", "unknown-ca.pem", "server.key", GW_REASON_TLS_UNTRUSTED, "localhost"); }
TEST(link_refuses_an_expired_certificate)            { handshake_fails("localhost", "expired.pem", "server.key", GW_REASON_TLS_EXPIRED, "localhost"); }
TEST(link_refuses_a_certificate_of_another_host)     { handshake_fails("localhost", "wrong-host.pem", "server.key", GW_REASON_TLS_NAME, "localhost"); }

TEST(link_without_any_anchor_says_so_before_it_speaks)
{
    rig *r = rig_new(1);
    r->source.ca_pem = "no certificate in here";
    gw__trust_free(&r->trust);
    gw__trust_init(&r->trust, &r->mem, &r->source);
    rig_open(r, "127.0.0.1");
    CHECK_EQ(rig_until(r, GW__LINK_OPEN), 0);
    CHECK(r->link.fault.text[0] != 0);
    CHECK_U64(r->link.bytes_out, 0);
    rig_free(r);
}

static int32_t no_random(void *user, void *bytes, size_t len)
{
    (void)user; (void)bytes; (void)len;
    return -1;
}

TEST(link_without_random_bytes_does_not_speak_tls)
{
    rig *r = rig_new(1);
    r->net.random = no_random;
    rig_open(r, "127.0.0.1");
    CHECK_EQ(rig_until(r, GW__LINK_OPEN), 0);
    CHECK_HAS(r->link.fault.text, "random");
    CHECK_U64(r->link.bytes_out, 0);
    rig_free(r);
}

TEST(link_resumes_a_tls_session_by_its_ticket)
{
    rig *r = rig_new(1);
    rig_open(r, "127.0.0.1");
    RIG_MUST(r, GW__LINK_OPEN);
    gw__tls_save(r->link.tls, &r->ticket);
    CHECK_U64(r->ticket.filled, 1);
    CHECK_U64(r->secret->cache.resumed, 0);
    gw__link_close(&r->link);
    lb_stream_free(r->peer);
    r->peer = NULL;
    rig_open(r, "127.0.0.1");
    RIG_MUST(r, GW__LINK_OPEN);
    CHECK_U64(r->secret->cache.resumed, 1);
    rig_say(r, "again", 5);
    CHECK_EQ(rig_until_heard(r, 5), 1);
    rig_free(r);
}

/* ---- link: the peer ends it, in each state ---- */
static void expect_lost(rig *r, const char *part)
{
    RIG_MUST(r, GW__LINK_ENDED);
    CHECK_U64(r->link.fault.reason, GW_REASON_LOST);
    CHECK_HAS(r->link.fault.text, part);
    CHECK_HAS(r->link.fault.text, "127.0.0.1");
    CHECK_EQ(r->link.tcp.watched, 0);           /* the poller is no longer asked: no spin */
}

TEST(link_peer_closes_at_once_where_tls_is_expected)
{
    rig *r = rig_new(1);
    int fd;
    rig_open(r, "127.0.0.1");
    while ((fd = lb_accept(r->listener)) < 0) { rig_look(r, 1); rig_step(r); }
    shutdown(fd, SHUT_WR);
    r->peer = lb_stream_new(fd, NULL);
    expect_lost(r, "");
    rig_free(r);
}

TEST(link_peer_closes_in_the_middle_of_the_handshake)
{
    rig *r = rig_new(1);
    uint64_t end_ms = lb_now_ms() + lb_patience_ms();
    rig_open(r, "127.0.0.1");
    while ((!r->link.tls || r->link.tls->received < 700) && lb_now_ms() < end_ms) rig_turn(r);
    lb_stream_drop(r->peer, 0);
    expect_lost(r, "");
    rig_free(r);
}

TEST(link_peer_resets_in_the_middle_of_the_handshake)
{
    rig *r = rig_new(1);
    uint64_t end_ms = lb_now_ms() + lb_patience_ms();
    rig_open(r, "127.0.0.1");
    while ((!r->link.tls || r->link.tls->received < 700) && lb_now_ms() < end_ms) rig_turn(r);
    lb_stream_drop(r->peer, 1);
    expect_lost(r, "");
    rig_free(r);
}

TEST(link_peer_that_speaks_plain_http_is_no_tls)
{
    rig *r = rig_new(1);
    int fd;
    rig_open(r, "127.0.0.1");
    while ((fd = lb_accept(r->listener)) < 0) { rig_look(r, 1); rig_step(r); }
    r->peer = lb_stream_new(fd, NULL);
    lb_say(r->peer, "HTTP/1.1 400 Bad Request\r\n\r\n");
    RIG_MUST(r, GW__LINK_ENDED);
    CHECK_U64(r->link.fault.reason, GW_REASON_TLS_PROTOCOL);
    CHECK_HAS(r->link.fault.text, "HTTP");
    rig_free(r);
}

static rig *rig_open_now(int secure)
{
    rig *r = rig_new(secure);
    uint64_t end_ms = lb_now_ms() + lb_patience_ms();
    rig_open(r, "127.0.0.1");
    RIG_MUST(r, GW__LINK_OPEN);
    while ((!r->peer || lb_pump(r->peer)) && lb_now_ms() < end_ms) rig_turn(r);
    return r;
}

TEST(link_plain_peer_closes_after_its_last_bytes)
{
    rig *r = rig_open_now(0);
    lb_say(r->peer, "last words");
    lb_pump(r->peer);
    lb_stream_shut(r->peer, 1);
    expect_lost(r, "closed the connection");
    CHECK_TEXT(lb_text(&r->got), "last words");
    rig_free(r);
}

TEST(link_tls_peer_closes_politely_after_its_last_bytes)
{
    rig *r = rig_open_now(1);
    lb_say(r->peer, "last words");
    while (lb_pump_out(r->peer)) { }
    lb_stream_shut(r->peer, 1);
    expect_lost(r, "closed the connection");
    CHECK_TEXT(lb_text(&r->got), "last words");
    rig_free(r);
}

TEST(link_tls_peer_that_is_cut_off_is_a_truncation)
{
    rig *r = rig_open_now(1);
    lb_say(r->peer, "last words");
    while (lb_pump_out(r->peer)) { }
    lb_stream_shut(r->peer, 0);
    expect_lost(r, "");
    CHECK_TEXT(lb_text(&r->got), "last words");
    rig_free(r);
}

TEST(link_open_peer_that_resets_is_lost)
{
    int secure;
    for (secure = 0; secure < 2; secure++) {
        rig *r = rig_open_now(secure);
        lb_stream_drop(r->peer, 1);
        expect_lost(r, "reset by the peer");
        rig_free(r);
    }
}

TEST(link_notices_while_sending_that_the_peer_is_gone)
{
    int secure;
    for (secure = 0; secure < 2; secure++) {
        rig *r = rig_open_now(secure);
        char much[4096];
        int i;
        memset(much, 'z', sizeof much);
        r->keep_bytes = 1;
        lb_stream_drop(r->peer, 1);
        for (i = 0; i < 100 && !r->link.write_failed; i++) {
            gw__buf_append(&r->link.out, much, sizeof much);
            gw__link_flush(&r->link);
        }
        CHECK_U64(r->link.write_failed, 1);
        r->keep_bytes = 0;
        expect_lost(r, "lost");
        rig_free(r);
    }
}

TEST(link_held_link_whose_peer_goes_does_not_spin_and_tells_later)
{
    rig *r = rig_open_now(1);
    gw__ready seen[4];
    r->link.held = 1;
    gw__link_watch(&r->link);
    lb_stream_drop(r->peer, 1);
    CHECK_EQ(gw__sys_poller_wait(&r->poller, 10, seen, 4), 0);
    CHECK_EQ(r->link.state, GW__LINK_OPEN);
    r->link.held = 0;
    gw__link_watch(&r->link);
    expect_lost(r, "");
    rig_free(r);
}

TEST(link_says_goodbye_when_it_closes)
{
    rig *r = rig_open_now(1);
    uint64_t end_ms = lb_now_ms() + lb_patience_ms();
    CHECK_EQ(gw__buf_append(&r->link.out, "bye", 3), 1);
    gw__link_close(&r->link);
    CHECK_EQ(r->link.state, GW__LINK_ENDED);
    while (!r->peer->ended && lb_now_ms() < end_ms) lb_pump(r->peer);
    CHECK_TEXT(lb_text(&r->peer->in), "bye");
    CHECK_U64(r->peer->saw_close_notify, 1);
    rig_free(r);
}

TEST(link_closes_at_once_though_the_peer_reads_nothing)
{
    rig *r = rig_open_now(1);
    static uint8_t much[8u << 20];
    uint64_t began;
    int i;
    r->peer->deaf = 1;
    rig_say(r, much, sizeof much);
    for (i = 0; i < 5; i++) rig_turn(r);
    began = lb_now_us();
    gw__link_close(&r->link);
    CHECK(lb_now_us() - began < 2000000);
    rig_free(r);
}

/* A server may ask for a new handshake, which is refused by an alert. While nothing can be sent the alert cannot leave,
 * and the engine takes no more bytes: that must not become a loop without end. */
TEST(link_does_not_spin_when_a_server_renegotiates_while_sending_is_stuck)
{
    rig *r = rig_open_now(1);
    static uint8_t much[8u << 20];
    size_t len;
    int i;
    r->peer->deaf = 1;
    r->keep_bytes = 1;
    rig_say(r, much, sizeof much);
    for (i = 0; i < 10; i++) rig_turn(r);
    CHECK(gw__buf_len(&r->link.out) > 0);
    for (i = 0; i < 3; i++) {
        br_ssl_engine_renegotiate(&r->peer->tls->server.eng);
        while (lb_pump_out(r->peer)) { }
        lb_say(r->peer, "data");
        while (lb_pump_out(r->peer)) { }
    }
    alarm(10);                                  /* ends the test's program where it spins */
    for (i = 0; i < 100; i++) {
        const uint8_t *bytes;
        rig_look(r, 1);
        while ((bytes = gw__link_peek(&r->link, &len, r->now_ms)) != NULL) gw__link_take(&r->link, len);
        gw__link_watch(&r->link);
    }
    alarm(0);
    CHECK(r->link.state == GW__LINK_OPEN || r->link.state == GW__LINK_ENDED);
    rig_free(r);
}

/* ---- link: no memory, at each allocation ---- */
static int link_with_failure(int secure, size_t fail_at)
{
    rig *r = rig_new(secure);
    int opened, failed;
    r->counted.fail_at = fail_at;
    rig_open(r, "127.0.0.1");
    opened = rig_until(r, GW__LINK_OPEN);
    if (opened && gw__buf_append(&r->link.out, "question", 8)) {
        gw__link_flush(&r->link);
        if (rig_until_heard(r, 8)) {
            lb_say(r->peer, "answer");
            rig_until_got(r, 6);
        }
    }
    failed = r->counted.calls >= r->counted.fail_at;
    if (r->link.state == GW__LINK_ENDED) CHECK_U64(r->link.fault.reason, GW_REASON_MEMORY);
    rig_free(r);
    return failed;
}

TEST(link_survives_each_failing_allocation)
{
    size_t at, most = lb_is_slow() ? 12 : 200;
    for (at = 1; at < most; at++) if (!link_with_failure(1, at)) break;
    CHECK(at > 3);
    for (at = 1; at < most; at++) if (!link_with_failure(0, at)) break;
}

CHECK_MAIN()
