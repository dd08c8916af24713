/* wire_tls.c -- the gateway's end of TLS: BearSSL's server, as tests/simulator/gwsim.c has it, between the pipes and
 * the model. Its chance comes from the seed, so that a run repeats. Certificate and key: tests/certs/server.pem. */
#include "simulation.h"
#include <bearssl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHAIN_MAX 4u
#define PEM_MAX 16384u

struct wire_tls {
    br_ssl_server_context server;
    unsigned char buffer[BR_SSL_BUFSIZE_BIDI];
};

/* Read once, before the first run. */
static struct {
    br_x509_certificate chain[CHAIN_MAX];
    size_t count;
    unsigned issuer_key_type;
    br_skey_decoder_context key;
    char ca[PEM_MAX];
} secret;

typedef struct object { unsigned char bytes[PEM_MAX]; size_t len; } object;

static void object_add(void *context, const void *bytes, size_t len)
{
    object *to = (object *)context;
    if (to->len + len > sizeof to->bytes) abort();
    memcpy(to->bytes + to->len, bytes, len);
    to->len += len;
}

static void ignore_name(void *context, const void *bytes, size_t len)
{
    (void)context;
    (void)bytes;
    (void)len;
}

static void use_certificate(const object *it)
{
    br_x509_certificate *place = &secret.chain[secret.count];
    br_x509_decoder_context leaf;
    if (secret.count == CHAIN_MAX) return;
    place->data = (unsigned char *)malloc(it->len);
    if (!place->data) abort();
    memcpy(place->data, it->bytes, it->len);
    place->data_len = it->len;
    if (secret.count++) return;
    br_x509_decoder_init(&leaf, ignore_name, NULL);
    br_x509_decoder_push(&leaf, it->bytes, it->len);
    secret.issuer_key_type = (unsigned)br_x509_decoder_get_signer_key_type(&leaf);
}

static void use_object(const char *name, const object *it)
{
    if (strcmp(name, "CERTIFICATE") == 0) use_certificate(it);
    if (!strstr(name, "PRIVATE KEY")) return;
    br_skey_decoder_init(&secret.key);
    br_skey_decoder_push(&secret.key, it->bytes, it->len);
}

/* 0: not there, with a sentence. */
static int read_text(const char *path, char text[PEM_MAX])
{
    FILE *file = fopen(path, "rb");
    size_t len;
    if (!file) {
        fprintf(stderr, "simulation: cannot open %s: run me where the Makefile is\n", path);
        return 0;
    }
    len = fread(text, 1, PEM_MAX - 1, file);
    text[len] = 0;
    fclose(file);
    return 1;
}

static int read_pem(const char *path)
{
    static char text[PEM_MAX];
    static object it;
    br_pem_decoder_context pem;
    char name[128] = "";
    size_t at = 0, len;
    if (!read_text(path, text)) return 0;
    len = strlen(text);
    br_pem_decoder_init(&pem);
    while (at < len) {
        at += br_pem_decoder_push(&pem, text + at, len - at);
        switch (br_pem_decoder_event(&pem)) {
        case BR_PEM_BEGIN_OBJ:
            snprintf(name, sizeof name, "%s", br_pem_decoder_name(&pem));
            it.len = 0;
            br_pem_decoder_setdest(&pem, object_add, &it);
            break;
        case BR_PEM_END_OBJ: use_object(name, &it); break;
        default: break;
        }
    }
    return 1;
}

int wire_tls_begin(void)
{
    return read_pem("tests/certs/server.pem") && read_pem("tests/certs/server.key") &&
           read_text("tests/certs/ca.pem", secret.ca);
}

const char *wire_tls_ca(void) { return secret.ca; }

/* ---- a connection ---- */
wire_tls *wire_tls_new(run *r)
{
    wire_tls *tls = (wire_tls *)calloc(1, sizeof *tls);
    const br_ec_private_key *key = br_skey_decoder_get_ec(&secret.key);
    uint64_t seed[4];
    size_t i;
    if (!tls || !key) abort();
    br_ssl_server_init_full_ec(&tls->server, secret.chain, secret.count, secret.issuer_key_type, key);
    br_ssl_engine_set_versions(&tls->server.eng, BR_TLS12, BR_TLS12);
    br_ssl_engine_set_buffer(&tls->server.eng, tls->buffer, sizeof tls->buffer, 1);
    for (i = 0; i < 4; i++) seed[i] = chance(&r->chance_tls);
    tls->server.eng.rng_os_rand_done = 1;       /* not the system's */
    br_ssl_engine_inject_entropy(&tls->server.eng, seed, sizeof seed);
    br_ssl_server_reset(&tls->server);
    return tls;
}

void wire_tls_free(wire_tls *tls) { free(tls); }

/* Records that are ready into the pipe. */
static int tls_flush(stream *s)
{
    run *r = s->run;
    size_t len;
    unsigned char *bytes;
    int put = 0;
    while ((bytes = br_ssl_engine_sendrec_buf(&s->tls->server.eng, &len)) != NULL) {
        uint64_t delay_us = r->plan.down_delay_us ? below(&r->chance_wire, r->plan.down_delay_us + 1) : 0;
        if (r->plan.split && one_in(&r->chance_wire, 3)) len = (size_t)between(&r->chance_wire, 1, len);
        wire_put(&s->down, bytes, len, r->now_us + delay_us);
        br_ssl_engine_sendrec_ack(&s->tls->server.eng, len);
        put = 1;
    }
    return put;
}

/* The eyes see what has arrived: between the write and this the way has its delays, so the plan has none up. */
static int tls_take(stream *s)
{
    br_ssl_engine_context *engine = &s->tls->server.eng;
    size_t len;
    unsigned char *bytes = br_ssl_engine_recvapp_buf(engine, &len);
    if (!bytes) return 0;
    eyes_read(s, bytes, len);
    if (s->conn) sim_receive(s->conn, bytes, len, run_ms(s->run));
    br_ssl_engine_recvapp_ack(engine, len);
    return 1;
}

void wire_tls_received(stream *s, const uint8_t *bytes, size_t len)
{
    br_ssl_engine_context *engine = &s->tls->server.eng;
    while (len && !s->dead) {
        size_t cap;
        unsigned char *room = br_ssl_engine_recvrec_buf(engine, &cap);
        if (!room) {
            if (br_ssl_engine_current_state(engine) == BR_SSL_CLOSED) {
                tls_flush(s);
                break;          /* damaged, or closed by the client: it will hang up */
            }
            if (!tls_take(s) && !tls_flush(s)) break;
            continue;
        }
        if (cap > len) cap = len;
        memcpy(room, bytes, cap);
        br_ssl_engine_recvrec_ack(engine, cap);
        bytes += cap;
        len -= cap;
        tls_flush(s);
    }
    while (!s->dead && tls_take(s)) { }
    tls_flush(s);
    if (br_ssl_engine_current_state(engine) == BR_SSL_CLOSED && br_ssl_engine_last_error(engine)) {
        if (s->conn) sim_hangup(s->conn, run_ms(s->run));
        s->conn = NULL;
        s->ended = 1;
    }
}

/* One piece of what the model says into a record; in the mode one_byte a record is one byte. */
int wire_tls_send(stream *s)
{
    br_ssl_engine_context *engine = &s->tls->server.eng;
    size_t cap, len;
    const uint8_t *bytes;
    unsigned char *room = br_ssl_engine_sendapp_buf(engine, &cap);
    if (!room) return tls_flush(s);
    bytes = sim_output(s->conn, &len);
    if (!len) return tls_flush(s);
    if (len > cap) len = cap;
    memcpy(room, bytes, len);
    br_ssl_engine_sendapp_ack(engine, len);
    br_ssl_engine_flush(engine, 0);
    sim_output_taken(s->conn, len);
    tls_flush(s);
    return 1;
}

int wire_tls_flushed(stream *s)
{
    if (sim_pending(s->conn)) return br_ssl_engine_current_state(&s->tls->server.eng) == BR_SSL_CLOSED;
    return 1;
}

void wire_tls_close(stream *s)
{
    br_ssl_engine_close(&s->tls->server.eng);
    tls_flush(s);
}
