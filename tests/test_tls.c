/* The tls room against a BearSSL server in memory: bytes only, no sockets. Certificates: certs/README. */
#define DISCORD_GATEWAY_IMPLEMENTATION
#include "discord_gateway.h"
#include "check.h"

#define NOW UINT64_C(1790000000)        /* 2026-09-21 */
#define YEAR_2015 UINT64_C(1420070400)
#define YEAR_2048 UINT64_C(2461449600)

/* ---- an allocator that counts, knows each block's size, and can fail ---- */
typedef struct heap { size_t now, peak, calls, fail_at; int wrong_size; } heap;

static void *heap_alloc(void *user, void *old, size_t old_bytes, size_t new_bytes)
{
    heap *h = (heap *)user;
    size_t *block = old ? (size_t *)old - 2 : NULL;
    if (old && block[0] != old_bytes) h->wrong_size = 1;
    if (new_bytes && ++h->calls == h->fail_at) return NULL;
    if (!new_bytes) {
        h->now -= old_bytes;
        free(block);
        return NULL;
    }
    block = (size_t *)realloc(block, new_bytes + 2 * sizeof *block);
    block[0] = new_bytes;
    h->now += new_bytes - (old ? old_bytes : 0);
    if (h->now > h->peak) h->peak = h->now;
    return block + 2;
}

/* ---- files of certs/ ---- */
static const char *cert_path(const char *name)
{
    static char path[512];
    const char *slash = strrchr(__FILE__, '/');
    snprintf(path, sizeof path, "%.*scerts/%s", slash ? (int)(slash + 1 - __FILE__) : 0, __FILE__, name);
    return path;
}

static char *cert_text(const char *name)
{
    FILE *file = fopen(cert_path(name), "rb");
    char *text = (char *)calloc(1, 65536);
    if (!CHECK(file)) exit(1);
    text[fread(text, 1, 65535, file)] = 0;
    fclose(file);
    return text;
}

typedef struct blob { uint8_t bytes[16384]; size_t len; } blob;

static void blob_add(void *user, const void *bytes, size_t len)
{
    blob *b = (blob *)user;
    if (b->len + len > sizeof b->bytes) exit(1);
    memcpy(b->bytes + b->len, bytes, len);
    b->len += len;
}

/* Decodes the PEM objects of a file; how many there were. */
static size_t cert_decode(const char *name, blob *out, size_t cap)
{
    char *text = cert_text(name), *at = text;
    size_t len = strlen(text), count = 0;
    br_pem_decoder_context pem;
    br_pem_decoder_init(&pem);
    while (len) {
        size_t used = br_pem_decoder_push(&pem, at, len);
        at += used;
        len -= used;
        switch (br_pem_decoder_event(&pem)) {
        case BR_PEM_BEGIN_OBJ:
            if (count == cap) exit(1);
            out[count].len = 0;
            br_pem_decoder_setdest(&pem, blob_add, &out[count]);
            break;
        case BR_PEM_END_OBJ: count++; break;
        default: break;
        }
    }
    free(text);
    return count;
}

/* ---- the other side ---- */
typedef struct server {
    br_ssl_server_context context;
    br_ssl_session_cache_lru cache;
    uint8_t cache_bytes[2000];
    uint8_t in[BR_SSL_BUFSIZE_INPUT], out[BR_SSL_BUFSIZE_OUTPUT];
    blob certificates[4], key_bytes;
    br_x509_certificate chain[4];
    br_skey_decoder_context key;
} server;

static server *server_new(const char *chain, const char *key)
{
    server *s = (server *)calloc(1, sizeof *s);
    size_t count = cert_decode(chain, s->certificates, 4), i;
    for (i = 0; i < count; i++) {
        s->chain[i].data = s->certificates[i].bytes;
        s->chain[i].data_len = s->certificates[i].len;
    }
    cert_decode(key, &s->key_bytes, 1);
    br_skey_decoder_init(&s->key);
    br_skey_decoder_push(&s->key, s->key_bytes.bytes, s->key_bytes.len);
    if (br_skey_decoder_key_type(&s->key) == BR_KEYTYPE_EC)
        br_ssl_server_init_full_ec(&s->context, s->chain, count, BR_KEYTYPE_EC, br_skey_decoder_get_ec(&s->key));
    else
        br_ssl_server_init_full_rsa(&s->context, s->chain, count, br_skey_decoder_get_rsa(&s->key));
    br_ssl_engine_set_buffers_bidi(&s->context.eng, s->in, sizeof s->in, s->out, sizeof s->out);
    br_ssl_session_cache_lru_init(&s->cache, s->cache_bytes, sizeof s->cache_bytes);
    br_ssl_server_set_cache(&s->context, &s->cache.vtable);
    return s;
}

static void server_begin(server *s)
{
    br_ssl_engine_inject_entropy(&s->context.eng, "the server's own", 16);
    s->context.eng.rng_os_rand_done = 1;
    br_ssl_server_reset(&s->context);
}

/* ---- one run: our client, that server, and the wire between ---- */
typedef struct run {
    heap counted;
    gw__mem mem;
    gw__trust_source source;
    gw__trust trust;
    gw__fault fault;
    gw__tls *tls;
    server *peer;
    const char *host;
    uint16_t port;
    uint64_t unix_time;
    uint32_t clock_is_floor;
    gw__tls_ticket ticket;
    size_t slice;                       /* bytes at a time on the wire */
    uint64_t to_client, to_server;      /* bytes so far */
    uint64_t cut_after;                 /* the wire to the client ends there; 0: never */
    uint64_t flip_at;                   /* that byte to the client arrives damaged; 0: none */
    char *pem;
} run;

static run *run_new(const char *chain, const char *key)
{
    run *r = (run *)calloc(1, sizeof *r);
    gw__mem_init(&r->mem, heap_alloc, &r->counted);
    r->pem = cert_text("ca.pem");
    r->source.ca_pem = r->pem;
    r->peer = server_new(chain, key);
    r->host = "localhost";
    r->port = 443;
    r->unix_time = NOW;
    r->slice = 100000;
    gw__trust_init(&r->trust, &r->mem, &r->source);
    return r;
}

static void run_begin(run *r)
{
    static const uint8_t seed[32] = { 1, 2, 3 };
    memset(&r->fault, 0, sizeof r->fault);
    r->to_client = r->to_server = 0;
    gw__tls_free(r->tls);
    r->tls = NULL;
    if (!gw__trust_refresh(&r->trust, &r->fault)) return;
    r->tls = gw__tls_new(&r->mem, &r->trust, r->host, r->port, r->unix_time, r->clock_is_floor, seed, &r->ticket, &r->fault);
    if (r->tls && !gw__tls_wake(r->tls)) {      /* as the link does before it receives */
        gw__fault_set(&r->fault, GW_REASON_MEMORY, 0, "no memory to receive into");
        gw__tls_free(r->tls);
        r->tls = NULL;
    }
    server_begin(r->peer);
}

static void run_free(run *r)
{
    gw__tls_free(r->tls);
    gw__trust_free(&r->trust);
    CHECK_EQ(r->counted.now, 0);
    CHECK_EQ(r->counted.wrong_size, 0);
    free(r->peer);
    free(r->pem);
    free(r);
}

static size_t least(size_t a, size_t b) { return a < b ? a : b; }

static int run_step_out(run *r)
{
    size_t have, room;
    uint8_t *from = gw__tls_wire_out(r->tls, &have);
    uint8_t *to = br_ssl_engine_recvrec_buf(&r->peer->context.eng, &room);
    if (!from || !to) return 0;
    have = least(least(have, room), r->slice);
    memcpy(to, from, have);
    br_ssl_engine_recvrec_ack(&r->peer->context.eng, have);
    gw__tls_wire_out_done(r->tls, have);
    r->to_server += have;
    return 1;
}

static int run_step_in(run *r)
{
    size_t have, room;
    uint8_t *from = br_ssl_engine_sendrec_buf(&r->peer->context.eng, &have);
    uint8_t *to = gw__tls_wire_in(r->tls, &room);
    if (!from || !to) return 0;
    have = least(least(have, room), r->slice);
    if (r->cut_after) have = least(have, (size_t)(r->cut_after - r->to_client));
    if (!have) return 0;
    memcpy(to, from, have);
    if (r->flip_at >= r->to_client && r->flip_at < r->to_client + have && r->flip_at) to[r->flip_at - r->to_client] ^= 1;
    br_ssl_engine_sendrec_ack(&r->peer->context.eng, have);
    gw__tls_wire_in_done(r->tls, have);
    r->to_client += have;
    return 1;
}

/* Lets the bytes flow until neither side moves. */
static gw__tls_state run_flow(run *r)
{
    if (!r->tls) return GW__TLS_FAILED;
    while (run_step_out(r) || run_step_in(r)) gw__tls_look(r->tls);
    return gw__tls_look(r->tls);
}

static const gw__fault *run_fault(run *r)
{
    return r->tls ? gw__tls_fault(r->tls) : &r->fault;
}

static void run_say(run *r, const char *text, size_t len)
{
    while (len) {
        size_t room;
        uint8_t *to = gw__tls_plain_out(r->tls, &room);
        if (!to) { run_flow(r); to = gw__tls_plain_out(r->tls, &room); }
        if (!CHECK(to)) return;
        room = least(room, len);
        memcpy(to, text, room);
        gw__tls_plain_out_done(r->tls, room);
        text += room;
        len -= room;
    }
    run_flow(r);
}

static void peer_says(run *r, const char *text, size_t len)
{
    size_t room;
    uint8_t *to = br_ssl_engine_sendapp_buf(&r->peer->context.eng, &room);
    if (!CHECK(to && room >= len)) return;
    memcpy(to, text, len);
    br_ssl_engine_sendapp_ack(&r->peer->context.eng, len);
    br_ssl_engine_flush(&r->peer->context.eng, 0);
    run_flow(r);
}

static void peer_heard(run *r, const char *text)
{
    size_t len;
    uint8_t *bytes = br_ssl_engine_recvapp_buf(&r->peer->context.eng, &len);
    if (!CHECK(bytes)) return;
    CHECK_BYTES((char *)bytes, len, text, strlen(text));
    br_ssl_engine_recvapp_ack(&r->peer->context.eng, len);
}

/* Bytes from a server that is none. */
static gw__tls_state run_feed(run *r, const void *bytes, size_t len)
{
    const uint8_t *at = (const uint8_t *)bytes;
    size_t room;
    while (len) {
        uint8_t *to = gw__tls_wire_in(r->tls, &room);
        if (!to) break;
        room = least(least(room, len), r->slice);
        memcpy(to, at, room);
        gw__tls_wire_in_done(r->tls, room);
        at += room;
        len -= room;
    }
    while (gw__tls_wire_out(r->tls, &room)) gw__tls_wire_out_done(r->tls, room);
    return gw__tls_look(r->tls);
}

/* ---- the usual case ---- */
static void speak(const char *chain, const char *key, size_t slice)
{
    run *r = run_new(chain, key);
    size_t len;
    uint8_t *bytes;
    r->slice = slice;
    run_begin(r);
    CHECK_EQ(gw__tls_look(r->tls), GW__TLS_HANDSHAKE);
    if (CHECK_EQ(run_flow(r), GW__TLS_OPEN)) {
        CHECK(r->tls->verifier.work == NULL);
        run_say(r, "GET /", 5);
        peer_heard(r, "GET /");
        peer_says(r, "hello", 5);
        bytes = gw__tls_plain_in(r->tls, &len);
        CHECK_BYTES((char *)bytes, len, "hello", 5);
        CHECK(gw__tls_wire_in(r->tls, &len) == NULL);   /* not before the plaintext was taken */
        gw__tls_plain_in_done(r->tls, 5);
        CHECK(gw__tls_wire_in(r->tls, &len) != NULL);
    } else fprintf(stderr, "%s\n", run_fault(r)->text);
    run_free(r);
}

TEST(tls_opens_and_speaks_with_an_ec_server)              { speak("server.pem", "server.key", 100000); }
TEST(tls_opens_and_speaks_with_an_rsa_server)             { speak("server-rsa.pem", "server-rsa.key", 100000); }
TEST(tls_opens_and_speaks_one_byte_at_a_time)             { speak("server.pem", "server.key", 1); }
TEST(tls_opens_and_speaks_one_byte_at_a_time_with_rsa)    { speak("server-rsa.pem", "server-rsa.key", 1); }
TEST(tls_takes_any_extended_key_usage)                    { speak("any-usage.pem", "server.key", 100000); }
TEST(tls_takes_the_common_name_where_there_is_no_san)     { speak("no-san.pem", "server.key", 100000); }

/* A server that answers before our hello has left whole, as one behind config.transport can: the key is still needed. */
TEST(tls_keeps_the_key_until_it_has_checked_the_key_exchange)
{
    run *r = run_new("server.pem", "server.key");
    uint8_t hello[1200], *bytes;
    size_t len, room, sent = 0, part;
    run_begin(r);
    bytes = gw__tls_wire_out(r->tls, &len);
    if (!CHECK(bytes && len <= sizeof hello)) return;
    memcpy(hello, bytes, len);
    gw__tls_wire_out_done(r->tls, len - 1);             /* ours: all but a byte */
    while (sent < len) {                                /* theirs: all of it */
        uint8_t *to = br_ssl_engine_recvrec_buf(&r->peer->context.eng, &room);
        if (!CHECK(to)) return;
        part = least(room, len - sent);
        memcpy(to, hello + sent, part);
        br_ssl_engine_recvrec_ack(&r->peer->context.eng, part);
        sent += part;
    }
    r->slice = 1;
    while (!r->tls->verifier.is_over && run_step_in(r)) gw__tls_look(r->tls);
    CHECK(r->tls->verifier.is_over);
    gw__tls_wire_out(r->tls, &len);
    CHECK_EQ(len, 1);
    gw__tls_wire_out_done(r->tls, len);                 /* the rest of ours */
    CHECK_EQ(run_flow(r), GW__TLS_OPEN);
    CHECK(r->tls->verifier.work == NULL);
    run_free(r);
}

TEST(tls_splits_what_is_longer_than_a_record)
{
    run *r = run_new("server.pem", "server.key");
    char text[3000];
    size_t got = 0, len;
    memset(text, 'x', sizeof text);
    run_begin(r);
    CHECK_EQ(run_flow(r), GW__TLS_OPEN);
    while (got < sizeof text) {
        uint8_t *to = gw__tls_plain_out(r->tls, &len), *heard;
        if (!CHECK(to)) break;
        CHECK(len >= 1024 && len < 1109);
        len = least(len, sizeof text - got);
        memcpy(to, text + got, len);
        gw__tls_plain_out_done(r->tls, len);
        CHECK(gw__tls_plain_out(r->tls, &len) == NULL || gw__tls_wire_out(r->tls, &len) != NULL);
        run_flow(r);
        heard = br_ssl_engine_recvapp_buf(&r->peer->context.eng, &len);
        if (!CHECK(heard)) break;
        got += len;
        br_ssl_engine_recvapp_ack(&r->peer->context.eng, len);
        run_flow(r);
    }
    CHECK_EQ(got, sizeof text);
    run_free(r);
}

TEST(tls_takes_the_largest_record)
{
    run *r = run_new("server.pem", "server.key");
    static char text[16384];
    size_t len;
    run_begin(r);
    CHECK_EQ(run_flow(r), GW__TLS_OPEN);
    peer_says(r, text, sizeof text);
    CHECK(gw__tls_plain_in(r->tls, &len));
    CHECK_EQ(len, sizeof text);
    run_free(r);
}

/* Finds an extension in our ClientHello (RFC 5246 section 7.4.1.2); NULL: not there. */
static const uint8_t *hello_extension(const uint8_t *hello, size_t len, unsigned want)
{
    size_t at = 5 + 4 + 2 + 32, end;
    at += 1u + hello[at];                                       /* session id */
    at += 2u + ((size_t)hello[at] << 8 | hello[at + 1]);        /* suites */
    at += 1u + hello[at];                                       /* compression */
    end = at + 2 + ((size_t)hello[at] << 8 | hello[at + 1]);
    CHECK_EQ(end, len);
    for (at += 2; at + 4 <= end; at += 4 + ((size_t)hello[at + 2] << 8 | hello[at + 3]))
        if (((unsigned)hello[at] << 8 | hello[at + 1]) == want) return hello + at + 4;
    return NULL;
}

TEST(tls_asks_for_no_small_records_and_names_the_host)
{
    run *r = run_new("server.pem", "server.key");
    size_t len;
    const uint8_t *hello, *name;
    run_begin(r);
    hello = gw__tls_wire_out(r->tls, &len);
    CHECK(!hello_extension(hello, len, 1));
    name = hello_extension(hello, len, 0);
    if (CHECK(name)) CHECK_BYTES((const char *)name + 5, 9, "localhost", 9);
    run_free(r);
}

TEST(tls_sends_no_server_name_for_an_address)
{
    run *r = run_new("server.pem", "server.key");
    size_t len;
    const uint8_t *hello;
    r->host = "127.0.0.1";
    run_begin(r);
    hello = gw__tls_wire_out(r->tls, &len);
    CHECK(!hello_extension(hello, len, 0));
    run_free(r);
}

TEST(tls_replays_from_its_seed)
{
    run *r = run_new("server.pem", "server.key");
    uint8_t before[1200];
    size_t len, again;
    run_begin(r);
    memcpy(before, gw__tls_wire_out(r->tls, &len), least(sizeof before, 200));
    run_begin(r);
    CHECK(memcmp(before, gw__tls_wire_out(r->tls, &again), least(len, 200)) == 0);
    CHECK_EQ(len, again);
    run_free(r);
}

/* ---- sessions ---- */
static const uint64_t handshake_that_shows_certificates = 600;  /* bytes from the server; a resumed one has about 150 */

TEST(tls_resumes_a_session_without_certificates)
{
    run *r = run_new("server.pem", "server.key");
    run_begin(r);
    CHECK_EQ(run_flow(r), GW__TLS_OPEN);
    CHECK(r->to_client > handshake_that_shows_certificates);
    gw__tls_save(r->tls, &r->ticket);
    CHECK_EQ(r->ticket.filled, 1);
    CHECK_U64((uint64_t)r->ticket.valid_until, 2524607999u);
    run_begin(r);
    CHECK_EQ(run_flow(r), GW__TLS_OPEN);
    CHECK(r->to_client < handshake_that_shows_certificates);
    CHECK(r->tls->verifier.work == NULL);
    run_say(r, "again", 5);
    peer_heard(r, "again");
    gw__tls_save(r->tls, &r->ticket);
    CHECK_U64((uint64_t)r->ticket.valid_until, 2524607999u);
    run_free(r);
}

TEST(tls_ignores_a_ticket_that_is_not_for_this_connection)
{
    run *r = run_new("server.pem", "server.key");
    gw__tls_ticket good;
    int i;
    run_begin(r);
    CHECK_EQ(run_flow(r), GW__TLS_OPEN);
    gw__tls_save(r->tls, &good);
    for (i = 0; i < 5; i++) {
        r->ticket = good;
        if (i == 0) strcpy(r->ticket.host, "example.test");
        if (i == 1) r->ticket.port = 444;
        if (i == 2) r->ticket.trust_generation++;
        if (i == 3) r->ticket.valid_until = (int64_t)NOW - 1;
        if (i == 4) r->ticket.filled = 0;
        run_begin(r);
        CHECK_EQ(run_flow(r), GW__TLS_OPEN);
        CHECK(r->to_client > handshake_that_shows_certificates);
    }
    run_free(r);
}

TEST(tls_opens_in_full_where_the_server_forgot_the_session)
{
    run *r = run_new("server.pem", "server.key");
    run_begin(r);
    CHECK_EQ(run_flow(r), GW__TLS_OPEN);
    gw__tls_save(r->tls, &r->ticket);
    br_ssl_session_cache_lru_init(&r->peer->cache, r->peer->cache_bytes, sizeof r->peer->cache_bytes);
    run_begin(r);
    CHECK_EQ(run_flow(r), GW__TLS_OPEN);
    CHECK(r->to_client > handshake_that_shows_certificates);
    run_free(r);
}

/* ---- refusals ---- */
typedef struct refusal {
    const char *chain, *key, *host;
    uint64_t unix_time;
    uint32_t clock_is_floor, reason;    /* reason 0: it opens */
    const char *text;
} refusal;

static void refuse(const refusal *want, size_t slice)
{
    run *r = run_new(want->chain, want->key);
    r->host = want->host;
    r->unix_time = want->unix_time;
    r->clock_is_floor = want->clock_is_floor;
    r->slice = slice;
    run_begin(r);
    CHECK_EQ(run_flow(r), want->reason ? GW__TLS_FAILED : GW__TLS_OPEN);
    CHECK_EQ(run_fault(r)->reason, want->reason);
    if (!CHECK_HAS(run_fault(r)->text, want->text)) fprintf(stderr, "    with %s\n", want->chain);
    CHECK(strlen(run_fault(r)->text) < GW__FAULT_TEXT_MAX - 1);
    run_free(r);
}

static void refuse_all(const refusal *list, size_t count)
{
    for (; count--; list++) {
        refuse(list, 100000);
        refuse(list, 1);
    }
}

TEST(tls_tells_by_our_clock_what_is_wrong_with_dates)
{
    static const refusal list[] = {
        { "expired.pem", "server.key", "localhost", NOW, 0, GW_REASON_TLS_EXPIRED,
          "certificate of localhost expired on 2021-01-01 00:00 UTC and our clock reads 2026-09-21" },
        { "expired-intermediate.pem", "server.key", "localhost", NOW, 0, GW_REASON_TLS_EXPIRED,
          "\"gw test intermediate\" above that of localhost expired on 2021-01-01" },
        { "not-yet.pem", "server.key", "localhost", NOW, 0, GW_REASON_TLS_NOT_YET, "is valid from 2048-01-01 00:00 UTC on" },
        { "server.pem", "server.key", "localhost", 100, 0, GW_REASON_TLS_NOT_YET,
          "but our clock reads 1970-01-01 00:01 UTC; set the clock of this machine, or give config.unix_time" },
        { "server.pem", "server.key", "localhost", UINT64_C(2600000000), 0, GW_REASON_TLS_EXPIRED, "our clock reads 2052-05-22" },
        { "server.pem", "server.key", "localhost", UINT64_MAX, 0, GW_REASON_TLS_EXPIRED, "our clock reads 9999-12-31" },
        { "server.pem", "server.key", "localhost", 0, 0, GW_REASON_TLS_NOT_YET, "does not know the time" },
        { "server.pem", "server.key", "localhost", 0, 1, GW_REASON_TLS_NOT_YET, "config.unix_time_floor" },
        { "not-yet.pem", "server.key", "localhost", YEAR_2048, 0, 0, "" }
    };
    refuse_all(list, GW__COUNT(list));
}

TEST(tls_with_a_floor_takes_what_begins_later_and_refuses_what_ended)
{
    static const refusal list[] = {
        { "server.pem", "server.key", "localhost", YEAR_2015, 1, 0, "" },
        { "not-yet.pem", "server.key", "localhost", NOW, 1, 0, "" },
        { "expired.pem", "server.key", "localhost", YEAR_2015, 1, 0, "" },     /* may be true: nobody knows the time */
        { "expired.pem", "server.key", "localhost", NOW, 1, GW_REASON_TLS_EXPIRED, "expired on 2021-01-01 00:00 UTC and it is at least" },
        { "expired-intermediate.pem", "server.key", "localhost", NOW, 1, GW_REASON_TLS_EXPIRED, "2021" }
    };
    refuse_all(list, GW__COUNT(list));
}

TEST(tls_tells_whom_it_does_not_trust)
{
    static const refusal list[] = {
        { "self-signed.pem", "server.key", "localhost", NOW, 0, GW_REASON_TLS_UNTRUSTED, "certificate of localhost is self-signed" },
        { "missing-intermediate.pem", "server.key", "localhost", NOW, 0, GW_REASON_TLS_UNTRUSTED,
          "issued by \"gw test intermediate\", which is not among the 1 of config.ca_pem, and the server sent no intermediate" },
        { "unknown-ca.pem", "server.key", "localhost", NOW, 0, GW_REASON_TLS_UNTRUSTED,
          "ends at the CA \"gw other root\", which is not among the 1 of config.ca_pem" }
    };
    refuse_all(list, GW__COUNT(list));
}

TEST(tls_tells_which_names_a_certificate_is_for)
{
    static const refusal list[] = {
        { "wrong-host.pem", "server.key", "localhost", NOW, 0, GW_REASON_TLS_NAME,
          "we asked for localhost, but the server's certificate is for example.test, www.example.test, 192.0.2.1" },
        { "no-san.pem", "server.key", "example.test", NOW, 0, GW_REASON_TLS_NAME, "for localhost" },
        { "no-san.pem", "server.key", "127.0.0.1", NOW, 0, GW_REASON_TLS_NAME, "for localhost" },
        { "wildcard.pem", "server.key", "shard.gateway.test", NOW, 0, 0, "" },
        { "wildcard.pem", "server.key", "gateway.test", NOW, 0, GW_REASON_TLS_NAME, "for *.gateway.test" },
        { "wildcard.pem", "server.key", "a.b.gateway.test", NOW, 0, GW_REASON_TLS_NAME, "for *.gateway.test" }
    };
    refuse_all(list, GW__COUNT(list));
}

TEST(tls_matches_addresses_exactly)
{
    static const refusal list[] = {
        { "server.pem", "server.key", "127.0.0.1", NOW, 0, 0, "" },
        { "server.pem", "server.key", "::1", NOW, 0, 0, "" },
        { "server.pem", "server.key", "0:0:0:0:0:0:0:1", NOW, 0, 0, "" },
        { "server.pem", "server.key", "127.0.0.2", NOW, 0, GW_REASON_TLS_NAME,
          "asked for 127.0.0.2, but the server's certificate is for localhost, 127.0.0.1, ::1" },
        { "server.pem", "server.key", "::2", NOW, 0, GW_REASON_TLS_NAME, "::1" },
        { "server.pem", "server.key", "::ffff:127.0.0.1", NOW, 0, GW_REASON_TLS_NAME, "127.0.0.1" },
        { "names-only.pem", "server.key", "127.0.0.1", NOW, 0, GW_REASON_TLS_NAME, "for localhost" },
        { "wrong-host.pem", "server.key", "192.0.2.1", NOW, 0, 0, "" }
    };
    refuse_all(list, GW__COUNT(list));
}

TEST(tls_tells_what_a_certificate_is_misused_for)
{
    static const refusal list[] = {
        { "rsa1024.pem", "rsa1024.key", "localhost", NOW, 0, GW_REASON_TLS_INVALID, "RSA key below 2048 bits" },
        { "sha1.pem", "server.key", "localhost", NOW, 0, GW_REASON_TLS_INVALID, "SHA-1" },
        { "not-a-ca.pem", "server.key", "localhost", NOW, 0, GW_REASON_TLS_INVALID, "is not one of a CA" },
        { "wrong-usage.pem", "server.key", "localhost", NOW, 0, GW_REASON_TLS_INVALID, "not made for TLS servers (extended key usage)" },
        { "mail-intermediate.pem", "server.key", "localhost", NOW, 0, GW_REASON_TLS_INVALID,
          "\"gw test intermediate\" above that of localhost is not made for TLS servers" },
        { "key-usage.pem", "server.key", "localhost", NOW, 0, GW_REASON_TLS_INVALID, "key usage" },
        { "critical.pem", "server.key", "localhost", NOW, 0, GW_REASON_TLS_INVALID, "critical extension" },
        { "wrong-key-type.pem", "server.key", "localhost", NOW, 0, GW_REASON_TLS_INVALID,
          "has a key of another type than its signature" },
        { "no-cert-sign.pem", "server.key", "localhost", NOW, 0, GW_REASON_TLS_INVALID,
          "may not be used for this by its key usage" },
        { "large.pem", "server.key", "localhost", NOW, 0, GW_REASON_TLS_INVALID, "larger than the 8,192 bytes" }
    };
    refuse_all(list, GW__COUNT(list));
}

TEST(tls_refuses_a_ca_of_the_right_name_with_another_key)
{
    run *r = run_new("server.pem", "server.key");
    char *text = cert_text("impostor-ca.pem");
    r->trust.source.ca_pem = text;
    run_begin(r);
    CHECK_EQ(run_flow(r), GW__TLS_FAILED);
    CHECK_EQ(run_fault(r)->reason, GW_REASON_TLS_UNTRUSTED);
    CHECK_HAS(run_fault(r)->text, "claims the CA \"gw test root\", but the key of that name in config.ca_pem did not sign it");
    run_free(r);
    free(text);
}

TEST(tls_refuses_a_chain_in_the_wrong_order)
{
    run *r = run_new("unknown-ca.pem", "server.key");
    cert_decode("intermediate.pem", &r->peer->certificates[1], 1);
    r->peer->chain[1].data_len = r->peer->certificates[1].len;
    run_begin(r);
    CHECK_EQ(run_flow(r), GW__TLS_FAILED);
    CHECK_EQ(run_fault(r)->reason, GW_REASON_TLS_INVALID);
    CHECK_HAS(run_fault(r)->text, "is not the issuer of the one below it");
    run_free(r);
}

TEST(tls_refuses_a_forged_certificate)
{
    run *r = run_new("server.pem", "server.key");
    r->peer->certificates[0].bytes[r->peer->certificates[0].len - 1] ^= 1;
    run_begin(r);
    CHECK_EQ(run_flow(r), GW__TLS_FAILED);
    CHECK_EQ(run_fault(r)->reason, GW_REASON_TLS_INVALID);
    CHECK_HAS(run_fault(r)->text, "did not sign the one below it: forged, or mixed up");
    run_free(r);
}

TEST(tls_ignores_what_stands_behind_a_trusted_chain)
{
    run *r = run_new("server.pem", "server.key");
    cert_decode("self-signed.pem", &r->peer->certificates[2], 1);
    memset(r->peer->certificates[2].bytes, 0xFF, 40);
    r->peer->chain[2].data = r->peer->certificates[2].bytes;
    r->peer->chain[2].data_len = r->peer->certificates[2].len;
    br_ssl_server_set_single_ec(&r->peer->context, r->peer->chain, 3, br_skey_decoder_get_ec(&r->peer->key),
                                BR_KEYTYPE_SIGN, BR_KEYTYPE_EC, br_ec_get_default(), br_ecdsa_sign_asn1_get_default());
    run_begin(r);
    CHECK_EQ(run_flow(r), GW__TLS_OPEN);
    run_free(r);
}

TEST(tls_trusts_a_self_signed_server_that_is_given_as_ca)
{
    run *r = run_new("self-signed.pem", "server.key");
    char *text = cert_text("self-signed.pem");
    r->trust.source.ca_pem = text;
    run_begin(r);
    CHECK_EQ(run_flow(r), GW__TLS_OPEN);
    r->host = "example.test";           /* ... for its own names only */
    run_begin(r);
    CHECK_EQ(run_flow(r), GW__TLS_FAILED);
    CHECK_EQ(run_fault(r)->reason, GW_REASON_TLS_NAME);
    run_free(r);
    free(text);
}

/* Most CAs that the world trusts have RSA keys. */
TEST(tls_trusts_a_ca_with_an_rsa_key)
{
    run *r = run_new("rsa-signed.pem", "server.key");
    char *text = cert_text("rsa-ca.pem");
    run_begin(r);
    CHECK_EQ(run_flow(r), GW__TLS_FAILED);      /* not by the CA of the other tests */
    CHECK_EQ(run_fault(r)->reason, GW_REASON_TLS_UNTRUSTED);
    r->trust.source.ca_pem = text;
    gw__trust_free(&r->trust);
    run_begin(r);
    CHECK_EQ(r->trust.anchor_count, 1);
    CHECK_EQ(run_flow(r), GW__TLS_OPEN);
    r->peer->certificates[0].bytes[r->peer->certificates[0].len - 1] ^= 1;
    memset(&r->ticket, 0, sizeof r->ticket);
    run_begin(r);
    CHECK_EQ(run_flow(r), GW__TLS_FAILED);      /* its signature was looked at */
    run_free(r);
    free(text);
}

TEST(tls_refuses_a_server_without_the_key_of_its_certificate)
{
    run *r = run_new("server.pem", "ca.key");
    run_begin(r);
    CHECK_EQ(run_flow(r), GW__TLS_FAILED);
    CHECK_EQ(run_fault(r)->reason, GW_REASON_TLS_PROTOCOL);
    CHECK_HAS(run_fault(r)->text, "cannot prove that it has the key");
    run_free(r);
}

/* ---- peers that do not speak TLS, or no TLS of ours ---- */
typedef struct answer { const char *bytes; size_t len; uint32_t reason; const char *text; } answer;

static void hear(const answer *given, size_t slice)
{
    run *r = run_new("server.pem", "server.key");
    r->slice = slice;
    run_begin(r);
    CHECK_EQ(run_feed(r, given->bytes, given->len), GW__TLS_FAILED);
    CHECK_EQ(run_fault(r)->reason, given->reason);
    CHECK_HAS(run_fault(r)->text, given->text);
    run_free(r);
}

TEST(tls_tells_what_a_server_speaks_that_is_not_our_tls)
{
    static const char old_hello[] = "\x16\x03\x01\x00\x2A\x02\x00\x00\x26\x03\x01" "0123456789abcdef0123456789abcdef" "\x00\xC0\x09\x00";
    static const answer list[] = {
        { "HTTP/1.1 400 Bad Request\r\n\r\n", 28, GW_REASON_TLS_PROTOCOL, "the server speaks plain HTTP: localhost port 443 is no TLS port" },
        { "SSH-2.0-OpenSSH_9.2\r\n", 21, GW_REASON_TLS_PROTOCOL, "does not speak TLS; it begins with \"SSH-2\"" },
        { "\0\0\0\0\0\0", 6, GW_REASON_TLS_PROTOCOL, "begins with \"?????\"" },
        { "\x15\x03\x01\x00\x02\x02\x46", 7, GW_REASON_TLS_VERSION, "alert 70, protocol_version: it may speak TLS 1.3 only" },
        { "\x15\x03\x01\x00\x02\x02\x28", 7, GW_REASON_TLS_VERSION, "localhost speaks nothing newer than TLS 1.1" },
        { "\x15\x03\x02\x00\x02\x02\x28", 7, GW_REASON_TLS_VERSION, "localhost speaks nothing newer than TLS 1.1" },
        { "\x15\x03\x01\x00\x02\x02\x50", 7, GW_REASON_TLS_ALERT, "alert 80, internal_error" },
        { "\x15\x03\x03\x00\x02\x02\x28", 7, GW_REASON_TLS_ALERT, "localhost refused with alert 40, handshake_failure" },
        { "\x15\x03\x03\x00\x02\x02\x70", 7, GW_REASON_TLS_ALERT, "alert 112, unrecognized_name" },
        { "\x15\x03\x03\x00\x02\x02\xEE", 7, GW_REASON_TLS_ALERT, "alert 238, an alert without a name" },
        { "\x16\x03\x03\x00\x04\x0E\x00\x00\x00", 9, GW_REASON_TLS_PROTOCOL, "(BearSSL" },
        { old_hello, sizeof old_hello - 1, GW_REASON_TLS_VERSION, "speaks a TLS older than 1.2" },
        { "\x15\x03\x03\x00\x02\x01\x00", 7, GW_REASON_LOST, "closed during the handshake" }
    };
    size_t i;
    for (i = 0; i < GW__COUNT(list); i++) {
        hear(&list[i], 100000);
        hear(&list[i], 1);
    }
}

/* RFC 5246 section 7.2, RFC 6066 section 9, RFC 7301 section 3.2, RFC 7507, RFC 8446 section 6. */
TEST(tls_tells_each_alert_by_the_name_that_its_rfc_gives)
{
    static const struct { uint8_t alert; const char *name; } list[] = {
        { 10, "unexpected_message" }, { 20, "bad_record_mac" }, { 22, "record_overflow" }, { 40, "handshake_failure" },
        { 42, "bad_certificate" }, { 47, "illegal_parameter" }, { 48, "unknown_ca" }, { 49, "access_denied" },
        { 50, "decode_error" }, { 51, "decrypt_error" }, { 70, "protocol_version" }, { 71, "insufficient_security" },
        { 80, "internal_error" }, { 86, "inappropriate_fallback" }, { 90, "user_canceled" },
        { 110, "unsupported_extension" }, { 112, "unrecognized_name" }, { 116, "certificate_required" },
        { 120, "no_application_protocol" }
    };
    size_t i;
    for (i = 0; i < GW__COUNT(list); i++) {
        run *r = run_new("server.pem", "server.key");
        uint8_t record[7] = { 21, 3, 3, 0, 2, 2, 0 };
        char words[64];
        record[6] = list[i].alert;
        snprintf(words, sizeof words, "localhost refused with alert %u, %s", (unsigned)list[i].alert, list[i].name);
        run_begin(r);
        CHECK_EQ(run_feed(r, record, sizeof record), GW__TLS_FAILED);
        CHECK_EQ(run_fault(r)->reason, list[i].alert == 70 ? GW_REASON_TLS_VERSION : GW_REASON_TLS_ALERT);
        CHECK_HAS(run_fault(r)->text, words);
        run_free(r);
    }
}

/* What a test cannot bring a server of BearSSL to do: the engine's error stands for it. */
TEST(tls_tells_whose_fault_an_error_of_the_engine_is)
{
    static const struct { int error; uint32_t reason; const char *text; } list[] = {
        { BR_ERR_BAD_FINISHED, GW_REASON_TLS_PROTOCOL, "localhost and we did not see the same handshake: somebody stands between" },
        { BR_ERR_TOO_LARGE, GW_REASON_TLS_PROTOCOL, "localhost sent a record larger than TLS allows" },
        { BR_ERR_BAD_LENGTH, GW_REASON_TLS_PROTOCOL, "localhost sent a record larger than TLS allows" },
        { BR_ERR_BAD_CIPHER_SUITE, GW_REASON_TLS_PROTOCOL, "localhost chose a cipher that we did not offer" },
        { BR_ERR_WRONG_KEY_USAGE, GW_REASON_TLS_INVALID, "may not be used with the cipher it chose" },
        { BR_ERR_BAD_STATE, GW_REASON_TLS_OTHER, "BearSSL gave up" },
        { BR_ERR_NO_RANDOM, GW_REASON_TLS_OTHER, "BearSSL gave up" },
        { BR_ERR_UNEXPECTED, GW_REASON_TLS_PROTOCOL, "localhost broke the rules of TLS (BearSSL 10)" },
        { BR_ERR_SEND_FATAL_ALERT + 70, GW_REASON_TLS_VERSION, "we refused what localhost sent with alert 70, protocol_version: it is older" },
        { BR_ERR_SEND_FATAL_ALERT + 47, GW_REASON_TLS_PROTOCOL, "we refused what localhost sent with alert 47, illegal_parameter" },
        { BR_ERR_RECV_FATAL_ALERT + 47, GW_REASON_TLS_ALERT, "localhost refused with alert 47, illegal_parameter" }
    };
    size_t i;
    for (i = 0; i < GW__COUNT(list); i++) {
        run *r = run_new("server.pem", "server.key");
        run_begin(r);
        gw__tls_explain(r->tls, list[i].error);
        CHECK_EQ(run_fault(r)->reason, list[i].reason);
        CHECK_HAS(run_fault(r)->text, list[i].text);
        run_free(r);
    }
}

/* The advice behind an alert's name is about handshakes. */
TEST(tls_tells_an_alert_on_an_open_connection_as_such)
{
    run *r = run_new("server.pem", "server.key");
    run_begin(r);
    if (!CHECK_EQ(run_flow(r), GW__TLS_OPEN)) return;
    gw__tls_explain(r->tls, BR_ERR_RECV_FATAL_ALERT + 40);
    CHECK_EQ(run_fault(r)->reason, GW_REASON_TLS_ALERT);
    CHECK_TEXT(run_fault(r)->text, "TLS: localhost ended the open connection with alert 40, handshake_failure");
    run_free(r);
}

TEST(tls_tells_the_alert_of_a_server_without_a_common_cipher)
{
    static const uint16_t only[] = { BR_TLS_RSA_WITH_AES_128_CBC_SHA };
    run *r = run_new("server-rsa.pem", "server-rsa.key");
    br_ssl_engine_set_suites(&r->peer->context.eng, only, 1);
    run_begin(r);
    CHECK_EQ(run_flow(r), GW__TLS_FAILED);
    CHECK_EQ(run_fault(r)->reason, GW_REASON_TLS_ALERT);
    CHECK_HAS(run_fault(r)->text, "handshake_failure: no cipher in common");
    run_free(r);
}

/* ---- ends ---- */
TEST(tls_notices_a_damaged_record)
{
    run *r = run_new("server.pem", "server.key");
    run_begin(r);
    CHECK_EQ(run_flow(r), GW__TLS_OPEN);
    r->flip_at = r->to_client + 20;
    peer_says(r, "hello", 5);
    CHECK_EQ(gw__tls_look(r->tls), GW__TLS_FAILED);
    CHECK_EQ(run_fault(r)->reason, GW_REASON_TLS_MAC);
    CHECK_HAS(run_fault(r)->text, "damaged or forged");
    run_free(r);
}

TEST(tls_never_opens_after_a_damaged_handshake)
{
    uint64_t whole;
    run *r = run_new("server.pem", "server.key");
    run_begin(r);
    CHECK_EQ(run_flow(r), GW__TLS_OPEN);
    whole = r->to_client;
    for (r->flip_at = 1; r->flip_at < whole; r->flip_at += 7) {
        run_begin(r);
        if (CHECK(run_flow(r) != GW__TLS_OPEN)) continue;
        fprintf(stderr, "    damaged at %d of %d\n", (int)r->flip_at, (int)whole);
    }
    run_free(r);
}

TEST(tls_ends_with_close_notify_from_there)
{
    run *r = run_new("server.pem", "server.key");
    run_begin(r);
    CHECK_EQ(run_flow(r), GW__TLS_OPEN);
    br_ssl_engine_close(&r->peer->context.eng);
    CHECK_EQ(run_flow(r), GW__TLS_ENDED);
    gw__tls_wire_end(r->tls);
    CHECK_EQ(gw__tls_look(r->tls), GW__TLS_ENDED);
    CHECK_EQ(br_ssl_engine_last_error(&r->peer->context.eng), 0);
    run_free(r);
}

TEST(tls_ends_with_close_notify_from_here)
{
    run *r = run_new("server.pem", "server.key");
    run_begin(r);
    CHECK_EQ(run_flow(r), GW__TLS_OPEN);
    gw__tls_close(r->tls);
    CHECK_EQ(run_flow(r), GW__TLS_ENDED);
    CHECK_EQ(br_ssl_engine_current_state(&r->peer->context.eng), BR_SSL_CLOSED);
    CHECK_EQ(br_ssl_engine_last_error(&r->peer->context.eng), 0);
    run_free(r);
}

TEST(tls_calls_an_end_without_close_notify_lost)
{
    run *r = run_new("server.pem", "server.key");
    size_t len;
    run_begin(r);
    CHECK_EQ(run_flow(r), GW__TLS_OPEN);
    peer_says(r, "hello", 5);
    gw__tls_wire_end(r->tls);
    CHECK_EQ(gw__tls_look(r->tls), GW__TLS_FAILED);
    CHECK_EQ(run_fault(r)->reason, GW_REASON_LOST);
    CHECK_HAS(run_fault(r)->text, "localhost ended without close_notify");
    CHECK(gw__tls_plain_in(r->tls, &len) != NULL);      /* what came before is not lost */
    run_free(r);
}

TEST(tls_calls_an_end_during_the_handshake_lost)
{
    uint64_t cut, whole;
    run *r = run_new("server.pem", "server.key");
    run_begin(r);
    CHECK_EQ(run_flow(r), GW__TLS_OPEN);
    whole = r->to_client;
    for (cut = 1; cut < whole; cut += cut < 80 ? 1 : 37) {
        r->cut_after = cut;
        run_begin(r);
        CHECK_EQ(run_flow(r), GW__TLS_HANDSHAKE);
        gw__tls_wire_end(r->tls);
        CHECK_EQ(run_fault(r)->reason, GW_REASON_LOST);
        CHECK_HAS(run_fault(r)->text, "during the handshake, without saying why");
    }
    run_begin(r);
    gw__tls_wire_end(r->tls);
    CHECK_HAS(run_fault(r)->text, "without a word: is it a TLS port?");
    run_free(r);
}

TEST(tls_declines_to_renegotiate_and_stays_open)
{
    run *r = run_new("server.pem", "server.key");
    run_begin(r);
    CHECK_EQ(run_flow(r), GW__TLS_OPEN);
    CHECK_EQ(br_ssl_engine_renegotiate(&r->peer->context.eng), 1);
    CHECK(run_flow(r) == GW__TLS_OPEN || run_fault(r)->reason == GW_REASON_TLS_ALERT);
    CHECK(r->tls->verifier.work == NULL);
    run_free(r);
}

/* ---- trust ---- */
static int trusts(run *r)
{
    memset(&r->fault, 0, sizeof r->fault);
    return gw__trust_refresh(&r->trust, &r->fault);
}

static void write_file(const char *path, const char *text, size_t len)
{
    FILE *file = fopen(path, "wb");
    if (!CHECK(file)) return;
    CHECK_EQ(fwrite(text, 1, len, file), len);
    fclose(file);
}

static const char *new_file(void)
{
    static char path[64];
    int fd;
    strcpy(path, "/tmp/test_tls_XXXXXX");
    fd = mkstemp(path);
    CHECK(fd >= 0);
    close(fd);
    return path;
}

/* A text read whole, by single bytes and with the line ends of Windows gives the same anchors. */
TEST(trust_reads_pem_by_pieces_of_any_size)
{
    run *r = run_new("server.pem", "server.key");
    size_t slice, at, i, n = 0, len = strlen(r->pem);
    char *windows = (char *)calloc(1, 2 * len + 1);
    for (i = 0; i < len; i++) {
        if (r->pem[i] == '\n') windows[n++] = '\r';
        windows[n++] = r->pem[i];
    }
    for (slice = 1; slice < 100; slice++) {
        gw__trust_loader *loader = (gw__trust_loader *)calloc(1, sizeof *loader);
        loader->mem = &r->mem;
        for (at = 0; at < n; at += slice) gw__loader_push(loader, windows + at, least(slice, n - at));
        CHECK_EQ(loader->anchor_count, 1);
        CHECK_EQ(loader->refused, 0);
        if (trusts(r) && loader->anchors) {
            CHECK_BYTES((const char *)loader->anchors->anchor.dn.data, loader->anchors->anchor.dn.len,
                        (const char *)r->trust.anchors->anchor.dn.data, r->trust.anchors->anchor.dn.len);
            CHECK(loader->anchors->anchor.flags == BR_X509_TA_CA);
        }
        gw__anchors_free(&r->mem, loader->anchors);
        free(loader);
    }
    run_free(r);
    free(windows);
}

TEST(trust_refuses_pem_cut_short_at_every_length)
{
    run *r = run_new("server.pem", "server.key");
    size_t len = strlen(r->pem) - strlen("-----END CERTIFICATE-----\n") + 8;
    while (len-- > 0) {
        r->pem[len] = 0;
        CHECK(!trusts(r));
        CHECK_EQ(r->fault.reason, GW_REASON_CONFIG);
    }
    run_free(r);
}

TEST(trust_reads_certificates_between_other_text)
{
    run *r = run_new("server.pem", "server.key");
    char *key = cert_text("server.key"), *other = cert_text("other-ca.pem"), *all = (char *)calloc(1, 65536);
    sprintf(all, "# comment\n%s%s-----BEGIN CERTIFICATE-----\nnot base64!\n-----END CERTIFICATE-----\n\xFF\xFE%s", key, other, r->pem);
    all[strlen(all) - 1] = 0;           /* no end of the last line */
    r->trust.source.ca_pem = all;
    CHECK(trusts(r));
    CHECK_EQ(r->trust.anchor_count, 1);         /* the line of junk hides the BEGIN behind it */
    strcpy(strstr(all, "\xFF"), "");
    strcat(all, r->pem);
    gw__trust_free(&r->trust);
    CHECK(trusts(r));
    CHECK_EQ(r->trust.anchor_count, 2);
    run_begin(r);
    CHECK_EQ(run_flow(r), GW__TLS_OPEN);
    run_free(r);
    free(key);
    free(other);
    free(all);
}

/* OpenSSL has written and read that label, too. */
TEST(trust_reads_x509_certificate_as_a_label)
{
    run *r = run_new("server.pem", "server.key");
    char *text = cert_text("other-ca.pem");
    size_t len = strlen(text);
    snprintf(text + len, 65536 - len, "-----BEGIN X509 CERTIFICATE-----\n%.*s-----END X509 CERTIFICATE-----\n",
             (int)(strstr(r->pem, "-----END") - r->pem - 28), r->pem + 28);
    r->trust.source.ca_pem = text;
    run_begin(r);
    CHECK_EQ(r->trust.anchor_count, 2);
    CHECK_EQ(run_flow(r), GW__TLS_OPEN);
    run_free(r);
    free(text);
}

TEST(trust_takes_a_thousand_certificates_and_no_more)
{
    run *r = run_new("server.pem", "server.key");
    size_t i, len = strlen(r->pem);
    char *all = (char *)calloc(GW__TRUST_ANCHORS_MAX + 20, len + 1);
    for (i = 0; i < GW__TRUST_ANCHORS_MAX + 19; i++) memcpy(all + i * len, r->pem, len);
    r->trust.source.ca_pem = all;
    CHECK(trusts(r));
    CHECK_EQ(r->trust.anchor_count, GW__TRUST_ANCHORS_MAX);
    run_begin(r);
    CHECK_EQ(run_flow(r), GW__TLS_OPEN);
    run_free(r);
    free(all);
}

TEST(trust_says_what_it_found_instead_of_certificates)
{
    run *r = run_new("server.pem", "server.key");
    char *key = cert_text("server.key");
    r->trust.source.ca_pem = key;
    CHECK(!trusts(r));
    CHECK_EQ(r->fault.reason, GW_REASON_CONFIG);
    CHECK_HAS(r->fault.text, "no \"-----BEGIN CERTIFICATE-----\" in config.ca_pem");
    r->trust.source.ca_pem = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    CHECK(!trusts(r));
    CHECK_HAS(r->fault.text, "none of the 1 certificates in config.ca_pem can be used");
    r->trust.source.ca_pem = "";
    CHECK(!trusts(r));
    r->trust.source.ca_pem = NULL;
    r->trust.source.ca_file = "/nonexistent/ca.pem";
    CHECK(!trusts(r));
    CHECK_HAS(r->fault.text, "the CA file /nonexistent/ca.pem is not there");
    run_free(r);
    free(key);
}

TEST(trust_reads_a_file_and_again_when_it_changed)
{
    run *r = run_new("server.pem", "server.key");
    const char *path = new_file();
    char *other = cert_text("other-ca.pem");
    size_t calls;
    r->trust.source.ca_pem = NULL;
    r->trust.source.ca_file = path;
    write_file(path, other, strlen(other));
    CHECK(trusts(r));
    CHECK_EQ(r->trust.generation, 1);
    run_begin(r);
    CHECK_EQ(run_flow(r), GW__TLS_FAILED);
    CHECK_HAS(run_fault(r)->text, path);
    calls = r->counted.calls;
    CHECK(trusts(r));
    CHECK_EQ(r->counted.calls, calls);          /* unchanged: not read */
    strcat(other, r->pem);
    write_file(path, other, strlen(other));
    run_begin(r);
    CHECK_EQ(r->trust.generation, 2);
    CHECK_EQ(r->trust.anchor_count, 2);
    CHECK_EQ(run_flow(r), GW__TLS_OPEN);
    remove(path);
    run_free(r);
    free(other);
}

TEST(trust_keeps_the_old_anchors_when_the_file_went_bad)
{
    run *r = run_new("server.pem", "server.key");
    const char *path = new_file();
    r->trust.source.ca_pem = NULL;
    r->trust.source.ca_file = path;
    write_file(path, r->pem, strlen(r->pem));
    CHECK(trusts(r));
    CHECK_TEXT(r->trust.warning, "");
    write_file(path, "oops", 4);
    CHECK(trusts(r));
    CHECK_HAS(r->trust.warning, "the CA certificates read before stay in use");
    CHECK_EQ(r->fault.reason, 0);
    CHECK_EQ(r->trust.generation, 1);
    CHECK(trusts(r));
    CHECK_TEXT(r->trust.warning, "");           /* said once */
    remove(path);
    CHECK(trusts(r));
    CHECK_HAS(r->trust.warning, "stay in use");
    run_begin(r);
    CHECK_EQ(run_flow(r), GW__TLS_OPEN);
    run_free(r);
}

TEST(trust_reads_a_der_file)
{
    run *r = run_new("server.pem", "server.key");
    const char *path = new_file();
    blob *der = (blob *)calloc(1, sizeof *der);
    cert_decode("ca.pem", der, 1);
    write_file(path, (const char *)der->bytes, der->len);
    r->trust.source.ca_pem = NULL;
    r->trust.source.ca_file = path;
    run_begin(r);
    CHECK_EQ(run_flow(r), GW__TLS_OPEN);
    remove(path);
    run_free(r);
    free(der);
}

TEST(trust_takes_what_ssl_cert_file_names_and_nothing_else)
{
    run *r = run_new("server.pem", "server.key");
    r->trust.source.ca_pem = NULL;
    setenv("SSL_CERT_FILE", cert_path("ca.pem"), 1);
    run_begin(r);
    CHECK_EQ(run_flow(r), GW__TLS_OPEN);
    CHECK_EQ(r->trust.anchor_count, 1);
    gw__tls_free(r->tls);
    r->tls = NULL;
    gw__trust_free(&r->trust);
    setenv("SSL_CERT_FILE", "/nonexistent/ca.pem", 1);
    CHECK(!trusts(r));
    CHECK_HAS(r->fault.text, "/nonexistent/ca.pem is not there");
    unsetenv("SSL_CERT_FILE");
    run_free(r);
}

/* ... and where nobody names one: the first of the usual places. A machine may have none, and is told so. */
TEST(trust_reads_the_bundle_of_the_system)
{
    run *r = run_new("server.pem", "server.key");
    const char *path = NULL;
    uint64_t stamp[2];
    uint32_t number;
    for (number = 1; (path = gw__sys_ca_path(number)) != NULL && !gw__sys_file_stamp(path, stamp); number++) { }
    r->trust.source.ca_pem = NULL;
    unsetenv("SSL_CERT_FILE");
    if (path) {
        CHECK(trusts(r));
        CHECK(r->trust.anchor_count > 0);
        CHECK_EQ(r->trust.generation, 1);
        CHECK(trusts(r));
        CHECK_EQ(r->trust.generation, 1);       /* unchanged: not read again */
        run_begin(r);
        CHECK_EQ(run_flow(r), GW__TLS_FAILED);
        CHECK_EQ(run_fault(r)->reason, GW_REASON_TLS_UNTRUSTED);
        CHECK_HAS(run_fault(r)->text, path);
    } else {
#ifndef GW_BUNDLED_ROOTS
        CHECK(!trusts(r));
        CHECK_HAS(r->fault.text, "neither SSL_CERT_FILE nor a bundle of this system is there");
#endif
    }
    run_free(r);
}

TEST(trust_reads_no_file_with_a_fixed_block)
{
    run *r = run_new("server.pem", "server.key");
    r->trust.source.ca_pem = NULL;
    r->trust.source.ca_file = cert_path("ca.pem");
    r->trust.source.memory_only = 1;
#ifdef GW_BUNDLED_ROOTS
    CHECK(trusts(r));
    CHECK_EQ(r->trust.anchor_count, GW__COUNT(gw__trust_bundled));
    CHECK(r->counted.peak <= sizeof(gw__tls) + GW__TLS_IN_BYTES + sizeof(gw__verifier_work) + sizeof(gw__trust_loader) +
          gw__trust_memory_needed(&r->trust.source));
#else
    CHECK(!trusts(r));
    CHECK_EQ(r->fault.reason, GW_REASON_CONFIG);
    CHECK_HAS(r->fault.text, "with config.memory no file is read");
#endif
    run_free(r);
}

TEST(trust_borrows_anchors)
{
    run *r = run_new("server.pem", "server.key"), *other = run_new("server.pem", "server.key");
    CHECK(trusts(other));
    r->trust.source.anchors = &other->trust.anchors->anchor;
    r->trust.source.anchor_count = 1;
    run_begin(r);
    CHECK_EQ(run_flow(r), GW__TLS_OPEN);
    CHECK(r->trust.anchors == NULL);
    run_free(r);
    run_free(other);
}

/* ---- memory ---- */
TEST(tls_needs_no_more_memory_than_it_says_and_less_once_open)
{
    run *r = run_new("server.pem", "server.key");
    run_begin(r);
    CHECK_EQ(run_flow(r), GW__TLS_OPEN);
    CHECK(r->counted.peak <= sizeof(gw__tls) + GW__TLS_IN_BYTES + sizeof(gw__verifier_work) + sizeof(gw__trust_loader) +
          gw__trust_memory_needed(&r->trust.source));
    CHECK(r->counted.now < sizeof(gw__tls) + GW__TLS_IN_BYTES + 1000);
    run_free(r);
}

TEST(tls_leaks_nothing_when_memory_runs_out)
{
    run *r;
    size_t at, failed = 0;
    for (at = 1; at < 8; at++) {
        r = run_new("server.pem", "server.key");
        r->counted.fail_at = at;
        run_begin(r);
        if (!r->tls) {
            failed++;
            CHECK_EQ(r->fault.reason, GW_REASON_MEMORY);
            CHECK_HAS(r->fault.text, "no memory");
        } else if (run_flow(r) != GW__TLS_OPEN) {
            failed++;
            CHECK_EQ(run_fault(r)->reason, GW_REASON_MEMORY);
            CHECK_HAS(run_fault(r)->text, "no memory to look at the certificates");
        }
        run_free(r);
    }
    CHECK_EQ(failed, 5);        /* the loader, the anchor, the connection, its buffer, its verifier's work */
}

TEST(tls_keeps_no_buffer_between_two_records)
{
    run *r = run_new("server.pem", "server.key");
    uint8_t *bytes, half[64];
    size_t len, part;
    run_begin(r);
    if (!CHECK_EQ(run_flow(r), GW__TLS_OPEN)) return;
    gw__tls_rest(r->tls);
    CHECK(r->tls->in == NULL);
    CHECK(r->counted.now < sizeof(gw__tls) + 1000);
    CHECK(gw__tls_wire_in(r->tls, &len) != NULL);       /* it still says that it would take bytes */
    CHECK(gw__tls_plain_in(r->tls, &len) == NULL);
    run_say(r, "GET /", 5);                             /* the other way needs none */
    peer_heard(r, "GET /");
    CHECK(r->tls->in == NULL);

    r->counted.fail_at = r->counted.calls + 1;
    CHECK_EQ(gw__tls_wake(r->tls), 0);
    r->counted.fail_at = 0;
    CHECK_EQ(gw__tls_wake(r->tls), 1);
    bytes = br_ssl_engine_sendapp_buf(&r->peer->context.eng, &len);
    memcpy(bytes, "hello", 5);
    br_ssl_engine_sendapp_ack(&r->peer->context.eng, 5);
    br_ssl_engine_flush(&r->peer->context.eng, 0);
    bytes = br_ssl_engine_sendrec_buf(&r->peer->context.eng, &len);
    if (!CHECK(len > 9 && len < sizeof half)) return;
    memcpy(half, bytes, len);
    br_ssl_engine_sendrec_ack(&r->peer->context.eng, len);
    run_feed(r, half, 3);
    gw__tls_rest(r->tls);                               /* inside a header */
    CHECK(r->tls->in != NULL);
    run_feed(r, half + 3, 6);
    gw__tls_rest(r->tls);                               /* inside a record */
    CHECK(r->tls->in != NULL);
    run_feed(r, half + 9, len - 9);
    gw__tls_rest(r->tls);                               /* its text waits */
    bytes = gw__tls_plain_in(r->tls, &part);
    CHECK_BYTES((char *)bytes, part, "hello", 5);
    gw__tls_plain_in_done(r->tls, 2);
    gw__tls_rest(r->tls);
    bytes = gw__tls_plain_in(r->tls, &part);
    CHECK_BYTES((char *)bytes, part, "llo", 3);
    gw__tls_plain_in_done(r->tls, 3);
    gw__tls_rest(r->tls);
    CHECK(r->tls->in == NULL);
    run_free(r);
}

/* ---- parsers ---- */
static blob *der_of(const char *name)
{
    blob *list = (blob *)calloc(4, sizeof *list);
    CHECK(cert_decode(name, list, 4) > 0);
    return list;
}

TEST(certificate_cut_short_at_every_length_is_malformed)
{
    blob *der = der_of("wrong-host.pem");
    gw__certificate certificate;
    size_t len;
    for (len = 0; len < der->len; len++) {
        uint8_t *exact = (uint8_t *)malloc(len + 1);    /* so that a sanitizer sees a read behind it */
        memcpy(exact, der->bytes, len);
        exact = (uint8_t *)realloc(exact, len ? len : 1);
        CHECK_EQ(gw__certificate_read(&certificate, exact, len), 0);
        free(exact);
    }
    CHECK_EQ(gw__certificate_read(&certificate, der->bytes, der->len), 1);
    free(der);
}

TEST(certificate_with_any_byte_changed_reads_within_its_bytes)
{
    blob *der = der_of("wrong-host.pem");
    size_t at, bit, len = der->len;
    for (at = 0; at < len; at++) for (bit = 0; bit < 8; bit++) {
        uint8_t *exact = (uint8_t *)malloc(len);
        gw__certificate certificate;
        char text[64];
        memcpy(exact, der->bytes, len);
        exact[at] = (uint8_t)(exact[at] ^ (1u << bit));
        if (gw__certificate_read(&certificate, exact, len)) {
            gw__certificate_names_text(&certificate, text, sizeof text);
            gw__certificate_name(certificate.issuer, text, sizeof text);
            gw__certificate_may_serve(&certificate);
            gw__certificate_is_for_address(&certificate, (const uint8_t *)"1234", 4);
        }
        free(exact);
    }
    free(der);
}

TEST(certificate_with_many_names_tells_how_many_more)
{
    blob *der = der_of("large.pem");
    gw__certificate certificate;
    char text[160];
    CHECK(der->len > GW__TLS_CERT_MAX);
    CHECK(gw__certificate_read(&certificate, der->bytes, der->len));
    gw__certificate_names_text(&certificate, text, sizeof text);
    CHECK_HAS(text, "a-rather-long-name-0.gateway.test, a-rather-long-name-1.gateway.test");
    CHECK_HAS(text, " and 397 more");
    free(der);
}

TEST(dates_are_read_and_written)
{
    static const struct { const char *der; size_t len; const char *text; } list[] = {
        { "\x17\x0D" "700101000000Z", 15, "1970-01-01 00:00 UTC" },
        { "\x17\x0D" "491231235959Z", 15, "2049-12-31 23:59 UTC" },
        { "\x17\x0D" "500101000000Z", 15, "1950-01-01 00:00 UTC" },
        { "\x17\x0D" "000229120000Z", 15, "2000-02-29 12:00 UTC" },
        { "\x18\x0F" "20500301000000Z", 17, "2050-03-01 00:00 UTC" },
        { "\x18\x0F" "99991231235959Z", 17, "9999-12-31 23:59 UTC" },
        { "\x17\x0D" "701301000000Z", 15, NULL }, { "\x17\x0D" "700132000000Z", 15, NULL },
        { "\x17\x0D" "700101240000Z", 15, NULL }, { "\x17\x0D" "70010100000 Z", 15, NULL },
        { "\x17\x0B" "7001010000Z", 13, NULL },   { "\x17\x0D" "700101000000+", 15, NULL },
        { "\x16\x0D" "700101000000Z", 15, NULL }
    };
    size_t i;
    for (i = 0; i < sizeof list / sizeof *list; i++) {
        gw__der from;
        int64_t unix_time = -1;
        char text[32];
        from.at = (const uint8_t *)list[i].der;
        from.left = list[i].len;
        CHECK_EQ(gw__der_time(&from, &unix_time), list[i].text != NULL);
        if (!list[i].text) continue;
        gw__date_text(unix_time, text);
        CHECK_TEXT(text, list[i].text);
    }
}

CHECK_MAIN()
