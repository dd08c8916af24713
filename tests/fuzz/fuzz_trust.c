/* CA certificates as PEM or DER. Input: the seed of the cuts, bytes as a file would have them. In any cuts, as a text
 * and as a file the same anchors must come out; each of them is found by its name; what cannot be used leaves what was
 * there before. */
#include "fuzz.h"

static fuzz_memory memory;
static gw__mem mem;

static gw__trust_loader *load_in_cuts(const uint8_t *bytes, size_t len, uint64_t seed, int is_der)
{
    gw__trust_loader *loader = (gw__trust_loader *)gw__mem_new(&mem, sizeof *loader);
    size_t at = 0;
    loader->mem = &mem;
    if (is_der) gw__loader_begin_certificate(loader);
    while (at < len) {
        size_t cut = fuzz_cut(&seed, len - at);
        char *part = fuzz_copy(bytes + at, cut);
        if (is_der) gw__loader_decode(loader, part, cut);
        else gw__loader_push(loader, part, cut);
        free(part);
        at += cut;
    }
    if (is_der) gw__loader_end_certificate(loader);
    else gw__loader_push(loader, "\n", 1);
    return loader;
}

static void loader_free(gw__trust_loader *loader)
{
    gw__anchors_free(&mem, loader->anchors);
    gw__mem_free(&mem, loader, sizeof *loader);
}

static void same_anchor(const br_x509_trust_anchor *one, const br_x509_trust_anchor *two)
{
    const br_x509_pkey *first = &one->pkey, *second = &two->pkey;
    FUZZ_CHECK(one->flags == two->flags && one->dn.len == two->dn.len);
    FUZZ_CHECK(memcmp(one->dn.data, two->dn.data, one->dn.len) == 0);
    FUZZ_CHECK(first->key_type == second->key_type);
    if (first->key_type == BR_KEYTYPE_RSA) {
        FUZZ_CHECK(first->key.rsa.nlen == second->key.rsa.nlen &&
                   first->key.rsa.elen == second->key.rsa.elen);
        FUZZ_CHECK(memcmp(first->key.rsa.n, second->key.rsa.n, first->key.rsa.nlen) == 0);
        FUZZ_CHECK(memcmp(first->key.rsa.e, second->key.rsa.e, first->key.rsa.elen) == 0);
    } else {
        FUZZ_CHECK(first->key_type == BR_KEYTYPE_EC && first->key.ec.curve == second->key.ec.curve);
        FUZZ_CHECK(first->key.ec.qlen == second->key.ec.qlen);
        FUZZ_CHECK(memcmp(first->key.ec.q, second->key.ec.q, first->key.ec.qlen) == 0);
    }
}

static void same_anchors(const gw__anchor *one, const gw__anchor *two)
{
    for (; one && two; one = one->next, two = two->next) same_anchor(&one->anchor, &two->anchor);
    FUZZ_CHECK(!one && !two);
}

static void write_file(const char *path, const uint8_t *bytes, size_t len)
{
    FILE *file = fopen(path, "wb");
    FUZZ_CHECK(file && fwrite(bytes, 1, len, file) == len);
    fclose(file);
}

static const char *file_path(void)
{
    static char path[64];
    if (!path[0]) {
        int fd;
        snprintf(path, sizeof path, "/tmp/gw_fuzz_trust_XXXXXX");
        fd = mkstemp(path);
        FUZZ_CHECK(fd >= 0);
        close(fd);
    }
    return path;
}

static char kept_path[64];
static void remove_file(void) { remove(kept_path); }

/* As the client does it: from a file, with the names of the anchors; and again with what was there before. */
static void load_as_file(const uint8_t *bytes, size_t len, const gw__trust_loader *whole)
{
    gw__trust trust;
    gw__trust_source source;
    gw__fault fault;
    const gw__anchor *anchor;
    br_x509_trust_anchor picked[GW__TLS_PICKED_MAX];
    int loaded;
    memset(&source, 0, sizeof source);
    memset(&fault, 0, sizeof fault);
    source.ca_file = file_path();
    if (!kept_path[0]) {
        snprintf(kept_path, sizeof kept_path, "%s", source.ca_file);
        atexit(remove_file);
    }
    write_file(source.ca_file, bytes, len);
    gw__trust_init(&trust, &mem, &source);
    loaded = gw__trust_refresh(&trust, &fault);
    FUZZ_CHECK(loaded == (whole->anchor_count > 0));
    FUZZ_CHECK(loaded == (fault.reason == GW_REASON_NONE) &&
               trust.anchor_count == whole->anchor_count);
    same_anchors(trust.anchors, whole->anchors);
    for (anchor = trust.anchors; anchor; anchor = anchor->next) {
        size_t count = gw__trust_pick(&trust, anchor->anchor.dn.data, anchor->anchor.dn.len,
                                      picked, 0);
        FUZZ_CHECK(count > 0 && count <= GW__TLS_PICKED_MAX);
        FUZZ_CHECK(picked[0].dn.len == anchor->anchor.dn.len);
    }
    FUZZ_CHECK(gw__trust_pick(&trust, (const uint8_t *)"nobody", 6, picked, 0) == 0);
    if (loaded) {       /* a file that went bad: the anchors stay */
        size_t count = trust.anchor_count;
        write_file(source.ca_file, (const uint8_t *)"x", 1);
        FUZZ_CHECK(gw__trust_refresh(&trust, &fault) && trust.anchor_count == count);
    }
    gw__trust_free(&trust);
}

static void fuzz_one(const uint8_t *bytes, size_t len)
{
    gw__trust_loader *whole, *single, *cuts;
    uint64_t seed = len ? bytes[0] + 1u : 1;
    int is_der;
    if (len < 2) return;
    bytes++;
    len--;
    is_der = gw__loader_is_der(bytes, len);
    memset(&memory, 0, sizeof memory);
    gw__mem_init(&mem, fuzz_alloc, &memory);
    whole = load_in_cuts(bytes, len, FUZZ_WHOLE, is_der);
    single = load_in_cuts(bytes, len, 0, is_der);
    cuts = load_in_cuts(bytes, len, seed, is_der);
    FUZZ_CHECK(whole->anchor_count <= GW__TRUST_ANCHORS_MAX);
    FUZZ_CHECK(whole->anchor_count == single->anchor_count &&
               whole->anchor_count == cuts->anchor_count);
    FUZZ_CHECK(whole->refused == single->refused && whole->refused == cuts->refused);
    same_anchors(whole->anchors, single->anchors);
    same_anchors(whole->anchors, cuts->anchors);
    /* a file takes its time */
    if (seed % 8 == 0 || whole->anchor_count) load_as_file(bytes, len, whole);
    loader_free(whole);
    loader_free(single);
    loader_free(cuts);
    FUZZ_CHECK(memory.live_blocks == 0 && memory.live_bytes == 0);
}
