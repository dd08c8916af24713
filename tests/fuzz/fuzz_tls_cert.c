/* A server's chain through our X.509 class. Input: the seed of the cuts, a byte of settings, then certificates as TLS
 * carries them: three bytes of length and so many bytes. Keys cannot be forged, so nothing may be accepted that does
 * not hold what was signed in a certificate of tests/certs/; the verdict does not depend on the cuts; and each
 * refusal has a reason and a sentence. The same bytes then go into a handshake as if a server had sent them. */
#include "fuzz.h"

#define CERTS "tests/certs/"     /* programs run in the repository */

/* What was signed in each certificate of tests/certs/. */
typedef struct signed_part { struct signed_part *next; uint8_t *bytes; size_t len; } signed_part;
static signed_part *signed_parts;

typedef struct verdict {
    unsigned error;
    uint32_t reason, count;
    char text[GW__FAULT_TEXT_MAX];
} verdict;

static gw__mem mem;
static gw__trust trust;

/* ---- tests/certs/, once ---- */
static fuzz_text der;

static void on_der(void *user, const void *bytes, size_t len)
{
    (void)user;
    fuzz_add(&der, bytes, len);
}

static void keep_signed_part(void)
{
    gw__der rest, whole;
    uint8_t tag;
    signed_part *part = (signed_part *)calloc(1, sizeof *part);
    rest.at = der.bytes;
    rest.left = der.len;
    FUZZ_CHECK(gw__der_next(&rest, &tag, &rest));
    whole = rest;
    FUZZ_CHECK(gw__der_next(&rest, &tag, &rest));
    part->len = (size_t)(rest.at - whole.at) + rest.left;
    part->bytes = (uint8_t *)fuzz_copy(whole.at, part->len);
    part->next = signed_parts;
    signed_parts = part;
}

static void read_pem(const char *text, size_t len)
{
    br_pem_decoder_context pem;
    br_pem_decoder_init(&pem);
    while (len > 0) {
        size_t used = br_pem_decoder_push(&pem, text, len);
        text += used;
        len -= used;
        switch (br_pem_decoder_event(&pem)) {
        case BR_PEM_BEGIN_OBJ:
            der.len = 0;
            if (strstr(br_pem_decoder_name(&pem), "CERTIFICATE"))
                br_pem_decoder_setdest(&pem, on_der, NULL);
            else
                br_pem_decoder_setdest(&pem, NULL, NULL);
            break;
        case BR_PEM_END_OBJ: if (der.len) keep_signed_part(); break;
        default: break;
        }
    }
}

static void begin_once(void)
{
    static fuzz_text ca;
    gw__trust_source source;
    gw__fault fault;
    DIR *folder;
    const struct dirent *entry;
    if (signed_parts) return;
    memset(&source, 0, sizeof source);
    memset(&fault, 0, sizeof fault);
    folder = opendir(CERTS);
    FUZZ_CHECK(folder != NULL);
    while ((entry = readdir(folder)) != NULL) {
        char path[300], text[65536];
        FILE *file;
        size_t len;
        if (!strstr(entry->d_name, ".pem")) continue;
        snprintf(path, sizeof path, CERTS "%s", entry->d_name);
        file = fopen(path, "rb");
        len = file ? fread(text, 1, sizeof text, file) : 0;
        if (file) fclose(file);
        read_pem(text, len);
        if (strcmp(entry->d_name, "ca.pem") != 0) continue;
        fuzz_add(&ca, text, len);
        fuzz_add(&ca, "", 1);
    }
    closedir(folder);
    FUZZ_CHECK(ca.len > 0);
    gw__mem_init(&mem, NULL, NULL);
    source.ca_pem = (const char *)ca.bytes;
    gw__trust_init(&trust, &mem, &source);
    FUZZ_CHECK(gw__trust_refresh(&trust, &fault) && trust.anchor_count == 1);
}

/* Settings: who was asked for, the clock, and whether it is only a floor. */
static gw__tls *tls_of(uint8_t settings)
{
    static const char *const hosts[] = { "localhost", "127.0.0.1", "gateway.discord.gg",
        "a.gateway.test" };
    static const uint64_t clocks[] = { 1767323045, 1, 4102444800u, UINT64_MAX };
    static const uint8_t seed[32] = { 1 };
    gw__fault fault;
    gw__tls *tls;
    memset(&fault, 0, sizeof fault);
    tls = gw__tls_new(&mem, &trust, hosts[settings & 3], 443, clocks[settings >> 2 & 3],
                      settings >> 4 & 1, seed, NULL, &fault);
    FUZZ_CHECK(tls != NULL);
    return tls;
}

static void verify(const uint8_t *bytes, size_t len, uint8_t settings, uint64_t seed, verdict *out)
{
    gw__tls *tls = tls_of(settings);
    const br_x509_class **context = &tls->verifier.vtable, *x509 = *context;
    unsigned usages = 0;
    memset(out, 0, sizeof *out);
    x509->start_chain(context, tls->verifier.address_len ? NULL : tls->host);
    while (len >= 3) {
        size_t want = (size_t)bytes[0] << 16 | (size_t)bytes[1] << 8 | bytes[2], at = 0;
        bytes += 3;
        len -= 3;
        if (want > len) want = len;     /* as BearSSL: it never announces what does not come */
        x509->start_cert(context, (uint32_t)want);
        while (at < want) {
            size_t cut = fuzz_cut(&seed, want - at);
            char *part = fuzz_copy(bytes + at, cut);
            x509->append(context, (const unsigned char *)part, cut);
            free(part);
            at += cut;
        }
        x509->end_cert(context);
        bytes += want;
        len -= want;
    }
    out->error = x509->end_chain(context);
    FUZZ_CHECK((out->error != 0) == (tls->fault.reason != GW_REASON_NONE));
    FUZZ_CHECK(gw__utf8_is(tls->fault.text, strlen(tls->fault.text)) &&
               !strpbrk(tls->fault.text, "\n\r\033"));
    if (out->error == 0) FUZZ_CHECK(x509->get_pkey(context, &usages) != NULL);
    out->reason = tls->fault.reason;
    out->count = tls->verifier.certificate_count;
    memcpy(out->text, tls->fault.text, sizeof out->text);
    gw__tls_free(tls);
}

static int has_signed_part(const uint8_t *bytes, size_t len)
{
    const signed_part *part;
    size_t at;
    for (part = signed_parts; part; part = part->next)
        for (at = 0; at + part->len <= len; at++)
            if (memcmp(bytes + at, part->bytes, part->len) == 0) return 1;
    return 0;
}

static int has(const uint8_t *bytes, size_t len, const char *part, size_t part_len)
{
    size_t at;
    for (at = 0; at + part_len <= len; at++) if (memcmp(bytes + at, part, part_len) == 0) return 1;
    return 0;
}

/* The first certificate names whom we asked for, and all of them hold from 2020 to 2049. */
static void look_at_accepted(const uint8_t *bytes, size_t len, uint8_t settings)
{
    size_t first = (size_t)bytes[0] << 16 | (size_t)bytes[1] << 8 | bytes[2];
    FUZZ_CHECK(has_signed_part(bytes, len) && first <= len - 3);
    bytes += 3;
    switch (settings & 3) {
    case 0: FUZZ_CHECK(has(bytes, first, "localhost", 9)); break;
    case 1: FUZZ_CHECK(has(bytes, first, "\x87\x04\x7f\0\0\x01", 6)); break;
    case 2: FUZZ_CHECK((settings & 3) != 2); break;       /* nobody has that name */
    case 3: FUZZ_CHECK(has(bytes, first, "*.gateway.test", 14)); break;
    }
    FUZZ_CHECK((settings >> 2 & 3) < 2);                            /* 2026 or 1970 */
    FUZZ_CHECK((settings >> 2 & 3) == 0 || (settings >> 4 & 1));    /* 1970 is a floor only */
}

/* Bytes of a "server" into the engine; nobody can finish a handshake without knowing our random bytes. */
static void shake_hands(const uint8_t *bytes, size_t len, uint8_t settings)
{
    gw__tls *tls = tls_of(settings);
    gw__tls_state state = gw__tls_look(tls);
    FUZZ_CHECK(gw__tls_wake(tls));
    while (len > 0 && state == GW__TLS_HANDSHAKE) {
        size_t cap, part;
        uint8_t *in;
        while (gw__tls_wire_out(tls, &part), part > 0) gw__tls_wire_out_done(tls, part);
        in = gw__tls_wire_in(tls, &cap);
        if (!in || cap == 0) break;
        part = cap < len ? cap : len;
        memcpy(in, bytes, part);
        gw__tls_wire_in_done(tls, part);
        bytes += part;
        len -= part;
        state = gw__tls_look(tls);
    }
    FUZZ_CHECK(state == GW__TLS_HANDSHAKE || state == GW__TLS_FAILED);
    if (state == GW__TLS_FAILED)
        FUZZ_CHECK(gw__tls_fault(tls)->reason && gw__tls_fault(tls)->text[0]);
    gw__tls_free(tls);
}

static void fuzz_one(const uint8_t *bytes, size_t len)
{
    verdict whole, single, cuts;
    if (len < 2) return;
    begin_once();
    verify(bytes + 2, len - 2, bytes[1], FUZZ_WHOLE, &whole);
    verify(bytes + 2, len - 2, bytes[1], 0, &single);
    verify(bytes + 2, len - 2, bytes[1], bytes[0] + 1u, &cuts);
    FUZZ_CHECK(memcmp(&whole, &single, sizeof whole) == 0 &&
               memcmp(&whole, &cuts, sizeof whole) == 0);
    if (whole.error == 0) look_at_accepted(bytes + 2, len - 2, bytes[1]);
    shake_hands(bytes + 2, len - 2, bytes[1]);
}
