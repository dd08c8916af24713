/* probe.h -- what ws_echo, tls_probe and http_probe share: one link, driven by a small loop of their own.
 * They use the rooms up to the WebSocket without the Gateway on top, so that foreign test suites can judge those alone. */
#ifndef PROBE_H
#define PROBE_H
#ifndef _DEFAULT_SOURCE
#define _DEFAULT_SOURCE 1       /* POSIX names under -std=c99 */
#endif
#define DISCORD_GATEWAY_IMPLEMENTATION
#include "discord_gateway.h"    /* GW__UNUSED below: no probe needs all of this file */

enum { PROBE_OK = 0, PROBE_FAILED = 1, PROBE_USAGE = 2 };       /* exit codes */
enum { PROBE_WATCHES = 2 };             /* the poller watches one link and what wakes it */
enum { PROBE_LINGER_MS = 2000 };        /* after the closing handshake the server ends TCP first: RFC 6455 section 7.1.1 */

typedef struct probe {
    gw__mem mem;
    gw__logger logger;
    gw__poller poller;
    gw__net net;
    gw__trust trust;
    gw__link link;
    gw__http http;              /* the answer to the upgrade */
    void *watches;              /* the poller's, where it needs any */
    uint64_t until_ms;          /* patience ends then */
    uint32_t patience_ms;       /* said when it has ended */
    uint32_t url_is_good;       /* nothing is to be said against it */
    uint32_t is_websocket;      /* 101 was received */
    gw__fault fault;
} probe;

static uint64_t probe_now_ms(void)
{
    return gw__sys_monotonic_us() / 1000u;
}

static void probe_be_patient(probe *p, uint32_t patience_ms)
{
    p->patience_ms = patience_ms;
    p->until_ms = probe_now_ms() + patience_ms;
}

/* GW_RESOLVE, an address, stands in for the resolver: certificates are for names that no resolver knows. */
static int32_t probe_resolve(void *user, const char *host, char *ip_text, size_t cap)
{
    (void)user; (void)host;
    snprintf(ip_text, cap, "%s", getenv("GW_RESOLVE"));
    return 1;
}

static int probe_open(probe *p)
{
    gw__trust_source source;
    memset(p, 0, sizeof *p);
    memset(&source, 0, sizeof source);
    source.ca_file = getenv("GW_CA_FILE");
    gw__mem_init(&p->mem, NULL, NULL);
    p->net.mem = &p->mem;
    p->net.logger = &p->logger;
    p->net.poller = &p->poller;
    if (getenv("GW_RESOLVE")) p->net.resolve = probe_resolve;
    gw__trust_init(&p->trust, &p->mem, &source);
    gw__link_init(&p->link, &p->net);
    gw__http_begin(&p->http, &p->mem, 1024, GW__HTTP_UPGRADE);
    p->watches = gw__mem_new(&p->mem, PROBE_WATCHES * GW__WATCH_BYTES + 1);
    if (p->watches && gw__sys_poller_open(&p->poller)) {
        gw__sys_poller_lend(&p->poller, p->watches, PROBE_WATCHES);
        return 1;
    }
    gw__fault_set(&p->fault, GW_REASON_MEMORY, 0, "the system gives no descriptors to wait with");
    return 0;
}

static void probe_close(probe *p)
{
    gw__link_close(&p->link);
    gw__http_free(&p->http);
    gw__trust_free(&p->trust);
    gw__sys_poller_close(&p->poller);
    gw__mem_free(&p->mem, p->watches, PROBE_WATCHES * GW__WATCH_BYTES + 1);
}

static int probe_fail(probe *p, const gw__fault *fault)
{
    gw__fault_set(&p->fault, fault->reason, fault->code, "%s", fault->text);
    return 0;
}

/* The link is over: why? */
static GW__UNUSED int probe_fail_ws(probe *p, const gw__ws *ws)
{
    gw__fault fault;
    memset(&fault, 0, sizeof fault);
    gw__fault_set(&fault, GW_REASON_PROTOCOL, ws->close_code, "WebSocket: %s", ws->why);
    return probe_fail(p, &fault);
}

static int probe_fail_link(probe *p)
{
    return probe_fail(p, &p->link.fault);
}

/* ---- the loop ---- */
static gw__trust_clock probe_clock(void)
{
    gw__trust_clock clock;
    clock.unix_time = gw__sys_unix_time();
    clock.is_floor = 0;
    return clock;
}

static void probe_look(probe *p, gw__link *link, int32_t timeout_ms)
{
    gw__ready seen[4];
    uint32_t i, count;
    gw__link_watch(link);
    count = gw__sys_poller_wait(&p->poller, timeout_ms, seen, GW__COUNT(seen));
    for (i = 0; i < count; i++) {
        if (seen[i].tag == GW__TAG_WAKE) gw__sys_poller_unwake(&p->poller);     /* the resolver's thread is done */
        if (seen[i].tag != link->tcp.tag) continue;
        if (seen[i].readable) link->readable = 1;
        if (seen[i].writable) gw__link_flush(link);
    }
}

/* Sleeps until the link may have work. What came in is looked at before the time: 0 says that nothing came until
 * `until_ms`, or the link's own deadline. */
static int probe_wait_until(probe *p, gw__link *link, uint64_t until_ms)
{
    uint64_t now_ms = probe_now_ms(), next_ms = GW__MIN(until_ms, gw__link_next_ms(link));
    int had_work = gw__link_has_work(link);
    probe_look(p, link, had_work || next_ms <= now_ms ? 0 : (int32_t)GW__MIN(next_ms - now_ms, 3600000u));
    now_ms = probe_now_ms();
    return now_ms < until_ms && now_ms < link->deadline_ms;
}

static int probe_wait(probe *p)
{
    return probe_wait_until(p, &p->link, p->until_ms);
}

/* `what` did not come in time. */
static int probe_expire(probe *p, gw__link *link, const char *what)
{
    uint64_t now_ms = probe_now_ms();
#define GW__LINK_STATE(name, timeout_ms, text) text,
    static const char *const texts[] = { GW__LINK_STATES(GW__LINK_STATE) "" };
#undef GW__LINK_STATE
    if (now_ms >= link->deadline_ms) {
        gw__link_expire(link, now_ms);
        return probe_fail(p, &link->fault);
    }
    if (link->state != GW__LINK_OPEN) what = texts[link->state];
    gw__fault_set(&p->fault, GW_REASON_TIMEOUT, 0, "%s port %u: %s (%u ms)", link->url.host, (unsigned)link->url.port,
                  what, (unsigned)p->patience_ms);
    return 0;
}

/* ---- from a URL to an open WebSocket; 0: p->fault says why not ---- */
static int probe_link(probe *p, const gw__url *url)
{
    gw__link_open(&p->link, url, 1, probe_now_ms());
    for (;;) {
        gw__trust_clock clock = probe_clock();
        gw__link_state before = p->link.state;
        gw__link_state now = gw__link_step(&p->link, &p->trust, &clock, NULL, probe_now_ms());
        if (now == GW__LINK_OPEN) return 1;
        if (now == GW__LINK_ENDED) return probe_fail_link(p);
        if (now == before && !probe_wait(p)) return probe_expire(p, &p->link, "");
    }
}

/* Reads the answer to the upgrade; what follows its head stays in the link. */
static int probe_read_answer(probe *p)
{
    const uint8_t *bytes;
    size_t len, used = 0;
    gw__http_found found = GW__HTTP_NEED_MORE;
    while (found == GW__HTTP_NEED_MORE) {
        if ((bytes = gw__link_peek(&p->link, &len, probe_now_ms())) != NULL) {
            found = gw__http_push(&p->http, bytes, len, &used);
            gw__link_take(&p->link, used);
        } else if (p->link.state == GW__LINK_ENDED) {
            found = gw__http_end(&p->http);
            if (found != GW__HTTP_DONE) return probe_fail_link(p);
        }
        if (found == GW__HTTP_NEED_MORE && !probe_wait(p)) return probe_expire(p, &p->link, "no answer to the upgrade");
    }
    return found == GW__HTTP_DONE || probe_fail(p, &p->http.fault);
}

static int probe_upgrade(probe *p)
{
    uint8_t nonce[16];
    if (!gw__net_random(&p->net, nonce, sizeof nonce) ||
        !gw__http_write_upgrade(&p->link.out, &p->link.url, p->link.url.target, nonce)) {
        gw__fault_set(&p->fault, GW_REASON_MEMORY, 0, "the upgrade request could not be written");
        return 0;
    }
    gw__link_flush(&p->link);
    if (!probe_read_answer(p) || !gw__http_check_upgrade(&p->http, nonce, &p->fault)) return 0;
    p->is_websocket = 1;
    return 1;
}

GW__UNUSED static int probe_open_websocket(probe *p, const char *text)
{
    gw__url url;
    p->url_is_good = gw__url_parse(&url, text, strlen(text), &p->fault) &&
                     gw__url_fits_gateway(&url, &p->fault);
    return p->url_is_good && probe_link(p, &url) && probe_upgrade(p);
}

/* ---- frames ---- */
GW__UNUSED static int probe_write(probe *p, uint32_t opcode, const void *bytes, size_t len)
{
    uint8_t mask[4];
    if (!gw__net_random(&p->net, mask, sizeof mask) || !gw__ws_write(&p->link.out, opcode, bytes, len, mask)) return 0;
    gw__link_flush(&p->link);           /* a connection that is gone shows when it is read */
    return 1;
}

/* Sends Close behind all that waits, then reads on, unheard, until the server ends TCP: bytes left unread would become
 * a reset, which may overtake our Close. */
GW__UNUSED static void probe_goodbye(probe *p, uint16_t code, const char *reason, uint32_t linger_ms)
{
    uint8_t mask[4];
    uint32_t lingers = 0;
    size_t len;
    p->link.held = 0;
    if (p->link.state != GW__LINK_OPEN || !gw__net_random(&p->net, mask, sizeof mask)) return;
    gw__ws_write_close(&p->link.out, code, reason, mask);
    gw__link_flush(&p->link);
    while (p->link.state == GW__LINK_OPEN && (!lingers || probe_now_ms() < p->until_ms)) {
        if (!lingers && !gw__link_wants_write(&p->link)) {
            lingers = 1;
            probe_be_patient(p, linger_ms);
        }
        if (gw__link_peek(&p->link, &len, probe_now_ms()) != NULL) gw__link_take(&p->link, len);
        else if (p->link.state != GW__LINK_OPEN || !probe_wait(p)) return;
    }
}

/* ---- words ---- */

/* The class of a fault, for programs. What stands in the way before a connection has one as well: of a
 * URL that is refused, of descriptors and memory that are not there, net; of a CA file, cert_untrusted. */
GW__UNUSED static const char *probe_class(const probe *p)
{
    switch (p->fault.reason) {
    case GW_REASON_TLS_EXPIRED:   return "cert_expired";
    case GW_REASON_TLS_NOT_YET:   return "cert_not_yet";
    case GW_REASON_TLS_NAME:      return "cert_name";
    case GW_REASON_TLS_UNTRUSTED: return "cert_untrusted";
    case GW_REASON_TLS_INVALID:   return "cert_invalid";
    case GW_REASON_TLS_VERSION:   return "tls_version";
    case GW_REASON_TLS_ALERT:     return "tls_alert";
    case GW_REASON_TLS_MAC:       return "tls_mac";
    case GW_REASON_TLS_PROTOCOL: case GW_REASON_TLS_OTHER: return "tls_protocol";
    case GW_REASON_LOST:          return "eof";
    case GW_REASON_RESOLVE: case GW_REASON_CONNECT: case GW_REASON_PROXY: return "net";
    case GW_REASON_TIMEOUT:       return "timeout";
    case GW_REASON_HTTP:          return "http";
    case GW_REASON_PROTOCOL:      return p->is_websocket ? "ws" : "http";      /* before 101 it spoke HTTP, badly */
    case GW_REASON_CLOSE_CODE:    return "ws";
    case GW_REASON_CONFIG:        return p->url_is_good ? "cert_untrusted" : "net";
    default:                      return "net";
    }
}

/* The last line on stdout; gives the exit code. */
GW__UNUSED static int probe_tell(const probe *p, const char *class_name)
{
    char quoted[6 * GW__FAULT_TEXT_MAX + 3];
    gw_quote(p->fault.text, strlen(p->fault.text), quoted, sizeof quoted);
    printf("{\"class\":\"%s\",\"msg\":%s}\n", class_name, quoted);
    return PROBE_FAILED;
}

/* A number from the environment, where there is one. 0: it is none from `least` to `most`, and stderr says so. */
GW__UNUSED static int probe_setting(const char *name, double least, double most, double *value)
{
    const char *text = getenv(name);
    char *end;
    if (!text || !*text) return 1;
    *value = strtod(text, &end);
    if (*end == 0 && *value >= least && *value <= most) return 1;
    fprintf(stderr, "%s is \"%s\", and must be a number from %g to %g\n", name, text, least, most);
    return 0;
}
#endif
